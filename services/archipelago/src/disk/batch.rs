//! Requests of one thread to a volume that are under way together, measured as any others.
#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::Instant;

use archipelago_core::{Begun, Together, Volume};

use super::device::{Batch, DeviceResult, Errno};
use super::gauges::Gauge;
use super::meter::Kind;

/// When a request began, and what it is.
#[derive(Clone, Copy)]
struct Asked {
    begin: Instant,
    kind: Kind,
    offset: u64,
    len: u64,
}

pub(super) struct VolumeBatch {
    together: Together,
    volume: Volume,
    gauge: Arc<Gauge>,
    /// By number.
    asked: Box<[Option<Asked>]>,
}

impl VolumeBatch {
    pub(super) fn new(together: Together, volume: Volume, gauge: Arc<Gauge>) -> VolumeBatch {
        let asked = (0..together.room()).map(|_| None).collect();
        VolumeBatch { together, volume, gauge, asked }
    }

    fn note(&mut self, number: usize, begun: archipelago_core::Result<Begun>, asked: Asked) -> Begun {
        match begun {
            Ok(Begun::UnderWay) => {
                self.asked[number] = Some(asked);
                Begun::UnderWay
            }
            Ok(Begun::Done) => {
                self.gauge.ended(asked.kind, asked.offset, asked.len, asked.begin.elapsed(), true);
                Begun::Done
            }
            Ok(Begun::ByCall) | Err(_) => Begun::ByCall,
        }
    }
}

fn total<B: std::ops::Deref<Target = [u8]>>(bufs: &[B]) -> u64 {
    bufs.iter().map(|buf| buf.len() as u64).sum()
}

impl Batch for VolumeBatch {
    unsafe fn read(&mut self, number: usize, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Begun {
        let asked = Asked { begin: Instant::now(), kind: Kind::Read, offset, len: total(bufs) };
        // SAFETY: by the caller's promise.
        let begun = unsafe { self.together.read(&self.volume, number, bufs, offset) };
        self.note(number, begun, asked)
    }

    unsafe fn write(&mut self, number: usize, bufs: &[IoSlice<'_>], offset: u64) -> Begun {
        let asked = Asked { begin: Instant::now(), kind: Kind::Write, offset, len: total(bufs) };
        // SAFETY: by the caller's promise.
        let begun = unsafe { self.together.write(&self.volume, number, bufs, offset) };
        self.note(number, begun, asked)
    }

    fn wait(&mut self, least: usize, each: &mut dyn FnMut(usize, DeviceResult<()>)) {
        let (gauge, all) = (&self.gauge, &mut self.asked);
        self.together.wait(least, &mut |number, result| {
            if let Some(asked) = all.get_mut(number).and_then(Option::take) {
                gauge.ended(asked.kind, asked.offset, asked.len, asked.begin.elapsed(), result.is_ok());
            }
            each(number, result.map_err(|e| Errno(e.errno())));
        });
    }

    fn count(&self) -> usize {
        self.together.count()
    }
}
