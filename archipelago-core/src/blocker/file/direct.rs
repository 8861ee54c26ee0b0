//! Reads and writes of a file past the page cache (`O_DIRECT`).
//!
//! A request that is made of the file system's units goes to the kernel as it is. Any other goes through a buffer of a bounded pool, and
//! a write that covers a unit in part reads the rest of it before: alone, so that no other write to that unit is lost. Nothing
//! of the file comes into the page cache by this process, so there is no second copy that could be an older one.

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};

use crate::blocker::sys::{Fd, Sys, Units};
use crate::limits::{BOUNCE, BOUNCES};

/// Where buffers of the pool begin: what the memory of a page begins at.
const ALIGNMENT: usize = 4096;

/// How one file is read and written.
pub(super) struct Direct {
    units: Units,
    bounces: Arc<Bounces>,
    /// Held shared by writes of whole units, exclusively by one that has to read the rest of a unit before.
    parts: RwLock<()>,
}

impl Direct {
    pub(super) fn new(units: Units, bounces: Arc<Bounces>) -> Direct {
        Direct { units, bounces, parts: RwLock::new(()) }
    }

    /// How a read can be under way with others: as it is, or through a buffer.
    pub(super) fn way_of_read(&self, bufs: &[IoSliceMut<'_>], offset: u64, len: u64) -> Option<Way> {
        if self.units.fit(bufs, offset) {
            return Some(Way::AsItIs);
        }
        let end = offset.checked_add(len)?;
        let from = offset - offset % self.units.file as u64;
        let to = self.units.round_up(end);
        if to - from <= BOUNCE as u64 {
            self.bounces.try_take().map(|bounce| Way::Through(bounce, from, to))
        } else {
            None
        }
    }

    /// The same of a write, which begins with nobody changing parts of units, and holds that up until it ends.
    pub(super) fn way_of_write(
        &self,
        bufs: &[IoSlice<'_>],
        offset: u64,
        len: u64,
    ) -> Option<(Way, RwLockReadGuard<'_, ()>)> {
        let end = offset.checked_add(len).filter(|end| self.units.divide(*end) && self.units.divide(offset))?;
        let whole = self.parts.try_read()?;
        if self.units.fit(bufs, offset) {
            return Some((Way::AsItIs, whole));
        }
        let mut bounce = (len <= BOUNCE as u64).then(|| self.bounces.try_take()).flatten()?;
        gather(bufs, 0, bounce.area(offset, end));
        Some((Way::Through(bounce, offset, end), whole))
    }

    /// As [`Sys::preadv`].
    pub(super) fn read(&self, sys: &dyn Sys, fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        if self.units.fit(bufs, offset) {
            return sys.preadv(fd, bufs, offset);
        }
        let end = end_of(bufs, offset)?;
        let mut bounce = self.bounces.take();
        let mut at = offset;
        while at < end {
            let (from, to) = self.units.around(at, end);
            let area = bounce.area(from, to);
            let read = sys.preadv(fd, &mut [IoSliceMut::new(area)], from)? as u64;
            let until = (from + read).min(end).max(at);
            scatter(&area[(at - from) as usize..(until - from) as usize], bufs, (at - offset) as usize);
            at = until;
            if from + read < to {
                break;
            }
        }
        Ok((at - offset) as usize)
    }

    /// As [`Sys::pwritev_past`]. Of a write that fails any part may be there.
    pub(super) fn write(&self, sys: &dyn Sys, fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.units.fit(bufs, offset) {
            let _whole = self.parts.read();
            return sys.pwritev_past(fd, bufs, offset);
        }
        let end = end_of(bufs, offset)?;
        let mut bounce = self.bounces.take();
        if self.units.divide(offset) && self.units.divide(end) {
            // It lies well in the file, only not in memory.
            let _whole = self.parts.read();
            return self.write_around(sys, fd, bufs, (offset, end), &mut bounce);
        }
        let _alone = self.parts.write();
        let len = sys.len(fd)?;
        self.write_around(sys, fd, bufs, (offset, end), &mut bounce)?;
        let kept = len.max(end);
        // What was written behind the end only to fill a unit.
        if self.units.round_up(end) > kept { sys.ftruncate(fd, kept) } else { Ok(()) }
    }

    fn write_around(
        &self,
        sys: &dyn Sys,
        fd: Fd,
        bufs: &[IoSlice<'_>],
        (offset, end): (u64, u64),
        bounce: &mut Bounce,
    ) -> io::Result<()> {
        let unit = self.units.file;
        let mut at = offset;
        while at < end {
            let (from, to) = self.units.around(at, end);
            let until = to.min(end);
            let area = bounce.area(from, to);
            let last = area.len() - unit;
            if from < at {
                read_unit(sys, fd, &mut area[..unit], from)?;
            }
            if until < to && (from == at || last > 0) {
                read_unit(sys, fd, &mut area[last..], to - unit as u64)?;
            }
            gather(bufs, (at - offset) as usize, &mut area[(at - from) as usize..(until - from) as usize]);
            sys.pwritev_past(fd, &[IoSlice::new(area)], from)?;
            at = until;
        }
        Ok(())
    }
}

/// How a request that is under way gets to the disk.
pub(super) enum Way {
    /// From and to its own buffers.
    AsItIs,
    /// Through this one, which stands for a range of the file.
    Through(Bounce, u64, u64),
}

impl Units {
    /// Whether a request can go to the kernel as it is.
    pub(super) fn fit<B: Deref<Target = [u8]>>(self, bufs: &[B], offset: u64) -> bool {
        let fits = |buf: &B| (buf.as_ptr() as usize).is_multiple_of(self.memory) && self.divide(buf.len() as u64);
        self.divide(offset) && bufs.iter().all(fits)
    }

    fn divide(self, offset: u64) -> bool {
        offset.is_multiple_of(self.file as u64)
    }

    fn round_up(self, offset: u64) -> u64 {
        offset.next_multiple_of(self.file as u64)
    }

    /// The whole units around what follows `at` of a request that ends at `end`, as many as a buffer holds.
    fn around(self, at: u64, end: u64) -> (u64, u64) {
        let from = at - at % self.file as u64;
        (from, self.round_up(end).min(from + BOUNCE as u64))
    }
}

/// Where a request ends.
fn end_of<B: Deref<Target = [u8]>>(bufs: &[B], offset: u64) -> io::Result<u64> {
    let end = bufs.iter().try_fold(offset, |end, buf| end.checked_add(buf.len() as u64));
    // Room for rounding up.
    end.filter(|end| *end <= i64::MAX as u64 - BOUNCE as u64).ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))
}

/// Fills a unit with what is in the file, and zeros behind its end.
fn read_unit(sys: &dyn Sys, fd: Fd, unit: &mut [u8], offset: u64) -> io::Result<()> {
    let read = sys.preadv(fd, &mut [IoSliceMut::new(unit)], offset)?;
    unit[read..].fill(0);
    Ok(())
}

/// Copies bytes to those from `at` on of a list of buffers.
pub(super) fn scatter(mut bytes: &[u8], bufs: &mut [IoSliceMut<'_>], mut at: usize) {
    for buf in bufs {
        if at >= buf.len() {
            at -= buf.len();
            continue;
        }
        let n = bytes.len().min(buf.len() - at);
        buf[at..at + n].copy_from_slice(&bytes[..n]);
        (bytes, at) = (&bytes[n..], 0);
        if bytes.is_empty() {
            return;
        }
    }
}

/// Copies the bytes from `at` on of a list of buffers.
fn gather(bufs: &[IoSlice<'_>], mut at: usize, mut bytes: &mut [u8]) {
    for buf in bufs {
        if at >= buf.len() {
            at -= buf.len();
            continue;
        }
        let n = bytes.len().min(buf.len() - at);
        let (now, later) = bytes.split_at_mut(n);
        now.copy_from_slice(&buf[at..at + n]);
        (bytes, at) = (later, 0);
        if bytes.is_empty() {
            return;
        }
    }
}

/// The buffers that one store has for requests that do not lie as a disk wants them: made when they are first needed, and kept.
#[derive(Default)]
pub(super) struct Bounces {
    state: Mutex<Free>,
    given_back: Condvar,
}

#[derive(Default)]
struct Free {
    /// The one used last is used next: what memory it took it has.
    buffers: Vec<Vec<u8>>,
    /// All that there are, also those in use.
    made: usize,
}

/// A buffer in use.
pub(super) struct Bounce {
    pool: Arc<Bounces>,
    buffer: Vec<u8>,
}

impl Bounces {
    /// A buffer; waits for one if all are in use. Who has one waits for the disk alone.
    fn take(self: &Arc<Self>) -> Bounce {
        let mut state = self.state.lock();
        loop {
            if let Some(buffer) = state.next() {
                return Bounce { pool: self.clone(), buffer };
            }
            self.given_back.wait(&mut state);
        }
    }

    /// A buffer, if one is free.
    fn try_take(self: &Arc<Self>) -> Option<Bounce> {
        self.state.lock().next().map(|buffer| Bounce { pool: self.clone(), buffer })
    }
}

impl Free {
    fn next(&mut self) -> Option<Vec<u8>> {
        if self.buffers.is_empty() && self.made < BOUNCES {
            self.made += 1;
            self.buffers.reserve(BOUNCES);
            return Some(vec![0; BOUNCE + ALIGNMENT]);
        }
        self.buffers.pop()
    }
}

impl Bounce {
    /// Room for a range of a file.
    pub(super) fn area(&mut self, from: u64, to: u64) -> &mut [u8] {
        let start = self.buffer.as_ptr().align_offset(ALIGNMENT);
        &mut self.buffer[start..start + (to - from) as usize]
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        self.pool.state.lock().buffers.push(std::mem::take(&mut self.buffer));
        self.pool.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests;
