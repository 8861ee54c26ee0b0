//! Requests to a backend that are under way together.
#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};

use super::Object;
use super::ring::Waker;
use crate::error::Result;

/// Reads and writes of one thread that are under way together. Each has a number below those that were asked room for, which no
/// other one under way has. Dropped, it waits for all.
pub trait Flights {
    /// Takes a read as [`Blocker::read`], which begins with the next [`Flights::wait`]; `false` if it has to be made by a call.
    ///
    /// # Safety
    ///
    /// The buffers stay, and nobody else uses them, until its end was told or this value was dropped.
    unsafe fn read(&mut self, number: usize, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> bool;
    /// Takes a write as [`Blocker::write`], of bytes that are there already; `false` if it has to be made by a call.
    ///
    /// # Safety
    ///
    /// The buffers stay, and nobody changes them, until its end was told or this value was dropped.
    unsafe fn write(&mut self, number: usize, object: Object, bufs: &[IoSlice<'_>], offset: u64) -> bool;
    /// Begins what was taken, waits until `least` have ended or somebody wakes it, and tells of all that have ended.
    fn wait(&mut self, least: usize, each: &mut dyn FnMut(usize, Result<()>));
    /// What ends a wait, from any thread.
    fn waker(&self) -> Waker;
}
