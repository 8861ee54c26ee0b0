//! Reading bytes and lengths, of many objects at the same time.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io::IoSliceMut;

use super::{Errno, Handle, MAX_BUFFERS, Outcome, Pool, Running, WINDOW, text};

impl Pool {
    /// Fills buffers from objects at the same time: each is an object, an offset and the buffers. Returns for each how many bytes
    /// there were.
    pub(in crate::blocker::rados) fn read_all(
        &self,
        parts: &mut [(String, u64, &mut [IoSliceMut<'_>])],
    ) -> Vec<Outcome<usize>> {
        let mut results = Vec::with_capacity(parts.len());
        for some in parts.chunks_mut(WINDOW) {
            let mut begun: Vec<_> =
                some.iter_mut().map(|(object, offset, bufs)| self.begin_read(object, *offset, bufs)).collect();
            results.extend(begun.iter_mut().map(|read| match read {
                Ok(read) => read.end(),
                Err(errno) => Err(*errno),
            }));
        }
        results
    }

    /// Fills buffers from an object, from `offset` on; returns how many bytes there were.
    pub(in crate::blocker::rados) fn read(
        &self,
        object: &str,
        bufs: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> Outcome<usize> {
        self.begin_read(object, offset, bufs)?.end()
    }

    fn begin_read<'a>(
        &'a self,
        object: &str,
        offset: u64,
        bufs: &'a mut [IoSliceMut<'_>],
    ) -> Outcome<ReadUnderWay<'a>> {
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        // As many as there are places to scatter to.
        let mut gathered = if bufs.len() > MAX_BUFFERS { vec![0u8; total] } else { Vec::new() };
        let mut places: Vec<(*mut u8, usize)> = match gathered.is_empty() {
            false => vec![(gathered.as_mut_ptr(), total)],
            true => bufs.iter_mut().filter(|b| !b.is_empty()).map(|b| (b.as_mut_ptr(), b.len())).collect(),
        };
        let mut got: Vec<(usize, c_int)> = vec![(0, 0); places.len()];
        // SAFETY: has no arguments.
        let op = unsafe { (self.f.rados_create_read_op)() };
        let mut at = offset;
        for ((place, len), (bytes, code)) in places.iter_mut().zip(&mut got) {
            // SAFETY: the buffer, and the places for the answers, live until the read has ended: `ReadUnderWay` holds the one
            // borrowed and owns the others, on the heap, and waits for the end before it goes.
            unsafe { (self.f.rados_read_op_read)(op, at, *len, place.cast(), bytes, code) };
            at += *len as u64;
        }
        let object = text(object);
        let running = Running::start(self, |completion| {
            // SAFETY: the operation and the completion are ours.
            unsafe { (self.f.rados_aio_read_op_operate)(op, self.io, completion, object.as_ptr(), 0) }
        });
        // A failed start has begun nothing.
        let running = running.inspect_err(|_| {
            // SAFETY: it is ours, and nobody uses it.
            unsafe { (self.f.rados_release_read_op)(op) }
        })?;
        Ok(ReadUnderWay {
            running: Some(running),
            pool: self,
            op,
            got,
            gathered,
            bufs_base: bufs_of(bufs),
            _bufs: std::marker::PhantomData,
        })
    }

    /// Lengths of objects, asked at the same time; `None` for one that does not exist.
    pub(in crate::blocker::rados) fn lengths(&self, objects: &[String]) -> Outcome<Vec<Option<u64>>> {
        let mut lengths = Vec::with_capacity(objects.len());
        for some in objects.chunks(WINDOW) {
            let mut places: Vec<(u64, libc::time_t, c_int)> = vec![(0, 0, 0); some.len()];
            let mut running = Vec::with_capacity(some.len());
            for (object, (len, time, code)) in some.iter().zip(&mut places) {
                // SAFETY: has no arguments.
                let op = unsafe { (self.f.rados_create_read_op)() };
                let object = text(object);
                let started = Running::start(self, |completion| {
                    // SAFETY: the places for the answers live until all that was started has ended, below.
                    unsafe {
                        (self.f.rados_read_op_stat)(op, len, time, code);
                        (self.f.rados_aio_read_op_operate)(op, self.io, completion, object.as_ptr(), 0)
                    }
                });
                running.push((started, op));
            }
            let mut failed = None;
            let mut found = Vec::with_capacity(some.len());
            for (started, op) in running {
                let result = started.and_then(Running::wait);
                // SAFETY: the operation has ended.
                unsafe { (self.f.rados_release_read_op)(op) };
                found.push(result);
            }
            for (result, (len, _, _)) in found.into_iter().zip(&places) {
                match result {
                    Ok(()) => lengths.push(Some(*len)),
                    Err(Errno(libc::ENOENT)) => lengths.push(None),
                    Err(errno) => failed = failed.or(Some(errno)),
                }
            }
            if let Some(errno) = failed {
                return Err(errno);
            }
        }
        Ok(lengths)
    }

    /// Length of an object.
    pub(in crate::blocker::rados) fn length(&self, object: &str) -> Outcome<Option<u64>> {
        self.lengths(&[object.to_string()]).map(|found| found.first().copied().flatten())
    }
}

/// The buffers of a read, as places.
fn bufs_of(bufs: &mut [IoSliceMut<'_>]) -> Vec<(*mut u8, usize)> {
    bufs.iter_mut().map(|b| (b.as_mut_ptr(), b.len())).collect()
}

/// A read that was begun. It waits for its end before its buffers go.
struct ReadUnderWay<'a> {
    /// First, so that it is dropped, and so has ended, before the rest.
    running: Option<Running<'a>>,
    pool: &'a Pool,
    op: Handle,
    /// Bytes that came to each place, and its code.
    got: Vec<(usize, c_int)>,
    gathered: Vec<u8>,
    bufs_base: Vec<(*mut u8, usize)>,
    _bufs: std::marker::PhantomData<&'a mut [u8]>,
}

impl ReadUnderWay<'_> {
    fn end(&mut self) -> Outcome<usize> {
        self.running.take().map_or(Ok(()), Running::wait)?;
        let total = self.got.iter().map(|(bytes, _)| bytes).sum();
        let mut at = 0;
        if !self.gathered.is_empty() {
            for (place, len) in &self.bufs_base {
                let there = self.gathered.len().min(at + len).saturating_sub(at);
                // SAFETY: the place is one of the buffers that are borrowed mutably, and as long as `len`.
                unsafe { std::ptr::copy_nonoverlapping(self.gathered[at..].as_ptr(), *place, there) };
                at += len;
            }
        }
        Ok(total)
    }
}

impl Drop for ReadUnderWay<'_> {
    fn drop(&mut self) {
        self.running = None;
        // SAFETY: the operation is ours and has ended.
        unsafe { (self.pool.f.rados_release_read_op)(self.op) };
    }
}
