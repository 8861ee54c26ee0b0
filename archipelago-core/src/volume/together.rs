//! Requests of one thread that are under way together, where each waits for a disk: reads and overwrites of data in a store that is open
//! past the page cache. Whoever keeps many of them under way waits for all with one call.
//!
//! What is under way holds what a call holds until it returns: the operation, and of an overwrite the gate and the block's shard. So nothing here
//! waits for a lock, and whoever has requests under way ends them before it calls anything that might: it would wait for itself.
#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::mem;
use std::sync::{Arc, Weak};

use crate::blocker::flights::Flights;
use crate::blocker::ring::Waker;
use crate::blocker::{Object, VolumeId};
use crate::error::{Error, Result};
use crate::format::node::Source;
use crate::iov::total;
use crate::limits::{MAX_REQUEST, SECTOR, SECTOR_SHIFT};
use crate::store::operations::Operation;
use crate::store::shared::Shared;
use crate::sync::RwLockReadGuard;
use crate::sync::atomic::Ordering;
use crate::volume::inner::Inner;
use crate::volume::overlay::Shard;
use crate::volume::{Operation as Submitted, Volume, WriteFlags};

/// What became of a request that was to be begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// It is under way, and its end will be told.
    UnderWay,
    /// It was carried out, and nothing will be told.
    Done,
    /// Nothing was done: it has to be made by a call of the volume, before which everything that is under way is ended.
    ByCall,
}

/// Requests of one thread that are under way together, in a store that is open with [`direct`](crate::StoreOptions::direct). Each has a
/// number, below [`Together::room`], that no other one under way has. Before that thread calls anything else of the engine that may wait for others,
/// it ends all that is under way: an overwrite keeps snapshots, checkpoints and closing waiting. Dropped, it waits for all.
pub struct Together {
    // Before what is under way, whose locks go when nothing moves any more.
    flights: Box<dyn Flights>,
    /// By number.
    under_way: Box<[Option<UnderWay>]>,
    count: usize,
    /// Whose volumes these are. It is not kept open by this.
    shared: Weak<Shared>,
}

/// What a request holds until it ends. Locks and counters are those of the volume, and go before it.
struct UnderWay {
    locks: Option<(RwLockReadGuard<'static, Shard>, RwLockReadGuard<'static, ()>)>,
    _operation: Operation<'static>,
    volume: Arc<Inner>,
    then: Then,
}

/// What is to be done at its end.
enum Then {
    /// Nothing.
    Read,
    /// Compare with checksums.
    Compare { epoch: (VolumeId, u64), at: u64, offset: u64, buf: *mut u8, len: usize },
    /// Mark as unsynced.
    Overwrite(Source),
}

/// A place in an object where a request goes.
struct Place {
    source: Source,
    object: Object,
    at: u64,
}

impl Together {
    /// For the thread that calls this; `None` where requests do not wait for a disk, or the kernel has no io_uring.
    pub(crate) fn new(shared: &Arc<Shared>, requests: usize) -> Result<Option<Together>> {
        let flights = shared.blocker.flights(requests)?;
        Ok(flights.map(|flights| Together {
            flights,
            under_way: (0..requests).map(|_| None).collect(),
            count: 0,
            shared: Arc::downgrade(shared),
        }))
    }

    /// Requests that are under way.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Requests that can be under way; their numbers are below this.
    pub fn room(&self) -> usize {
        self.under_way.len()
    }

    /// Begins a read as [`Volume::read`].
    ///
    /// # Safety
    ///
    /// If it gets under way, the buffers stay, and nobody else uses them, until its end was told or this value was dropped.
    pub unsafe fn read(
        &mut self,
        volume: &Volume,
        number: usize,
        bufs: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> Result<Begun> {
        let inner = volume.inner.keep();
        if inner.closed.load(Ordering::Acquire) {
            return Err(Error::NotOpen(inner.name()));
        }
        let len = total(bufs);
        inner.check_range(offset, len as u64)?;
        if !self.can_begin(&inner, number, len) {
            return Ok(Begun::ByCall);
        }
        let Some((block, from)) = inner.in_one_block(offset, len) else { return Ok(Begun::ByCall) };
        let operation = inner.shared.operations.begin();
        let Some(source) = inner.source_at_once(block, from, len)? else { return Ok(Begun::ByCall) };
        if source == Source::Zero {
            bufs.iter_mut().for_each(|buf| buf.fill(0));
            return Ok(Begun::Done);
        }
        let Some(place) = inner.direct_place(source, block, from) else { return Ok(Begun::ByCall) };
        let then = match (source, &mut *bufs) {
            _ if inner.is_written_in_place(&source) => Then::Read,
            // Sealed: nothing of it was moved, and the sectors are whole, so that they can be compared where they are.
            (Source::Data { owner, epoch }, [buf])
                if inner.shared.contents.is_known_to_stay(owner, epoch)
                    && place.at.is_multiple_of(SECTOR)
                    && len.is_multiple_of(SECTOR as usize) =>
            {
                Then::Compare { epoch: (owner, epoch), at: place.at, offset, buf: buf.as_mut_ptr(), len }
            }
            _ => return Ok(Begun::ByCall),
        };
        // SAFETY: by the caller's promise.
        if !unsafe { self.flights.read(number, place.object, bufs, place.at) } {
            return Ok(Begun::ByCall);
        }
        // SAFETY: the counter is the volume's, which is kept, and goes after this.
        let operation = unsafe { mem::transmute::<Operation<'_>, Operation<'static>>(operation) };
        self.keep(number, UnderWay { locks: None, _operation: operation, volume: inner.clone(), then });
        Ok(Begun::UnderWay)
    }

    /// Begins an overwrite as [`Volume::write`] without flags. What is not an overwrite of one place is left to a call.
    ///
    /// # Safety
    ///
    /// If it gets under way, the buffers stay, and nobody changes them, until its end was told or this value was dropped.
    pub unsafe fn write(&mut self, volume: &Volume, number: usize, bufs: &[IoSlice<'_>], offset: u64) -> Result<Begun> {
        volume.writable()?;
        let inner = volume.inner.keep();
        let writer = inner.writer()?;
        let len = total(bufs);
        if !self.can_begin(&inner, number, len) || inner.slows_writers(writer) {
            return Ok(Begun::ByCall);
        }
        let Some((block, from)) = inner.in_one_block(offset, len) else { return Ok(Begun::ByCall) };
        let operation = inner.shared.operations.begin();
        let Some(gate) = inner.gate.try_read() else { return Ok(Begun::ByCall) };
        inner.check()?;
        inner.check_range(offset, len as u64)?;
        let Some(shard) = inner.overlay.shard(block).try_read() else { return Ok(Begun::ByCall) };
        let (first, end) = (from >> SECTOR_SHIFT, (from + len as u64).div_ceil(SECTOR));
        let source = inner.one_run(&shard, block, first as u16, (end - first) as u16)?;
        let place = source.filter(|source| inner.is_live(source)).and_then(|s| inner.direct_place(s, block, from));
        let Some(place) = place else { return Ok(Begun::ByCall) };
        // SAFETY: by the caller's promise.
        if !unsafe { self.flights.write(number, place.object, bufs, place.at) } {
            return Ok(Begun::ByCall);
        }
        // SAFETY: locks and counter are the volume's, which is kept, and goes after these.
        let (shard, gate, operation) = unsafe {
            (
                mem::transmute::<RwLockReadGuard<'_, Shard>, RwLockReadGuard<'static, Shard>>(shard),
                mem::transmute::<RwLockReadGuard<'_, ()>, RwLockReadGuard<'static, ()>>(gate),
                mem::transmute::<Operation<'_>, Operation<'static>>(operation),
            )
        };
        let (locks, then) = (Some((shard, gate)), Then::Overwrite(place.source));
        self.keep(number, UnderWay { locks, _operation: operation, volume: inner.clone(), then });
        Ok(Begun::UnderWay)
    }

    /// Begins an operation of one of these kinds.
    ///
    /// # Safety
    ///
    /// As of these.
    pub(crate) unsafe fn begin(&mut self, volume: &Volume, number: usize, operation: &mut Submitted) -> Result<Begun> {
        match operation {
            // SAFETY: by the caller's promise.
            Submitted::Read { buf, offset } => unsafe {
                self.read(volume, number, &mut [IoSliceMut::new(buf)], *offset)
            },
            // SAFETY: as above.
            Submitted::Write { buf, offset, flags: WriteFlags { fua: false } } => unsafe {
                self.write(volume, number, &[IoSlice::new(buf)], *offset)
            },
            _ => Ok(Begun::ByCall),
        }
    }

    /// Begins what the disk was not told of yet, waits until at least `least` requests have ended, or all, or somebody wakes
    /// it, and tells of each that has.
    pub fn wait(&mut self, least: usize, each: &mut dyn FnMut(usize, Result<()>)) {
        let (under_way, count) = (&mut self.under_way, &mut self.count);
        self.flights.wait(least, &mut |number, result| {
            if let Some(ended) = under_way.get_mut(number).and_then(Option::take) {
                *count -= 1;
                each(number, ended.end(result));
            }
        });
    }

    /// What ends a wait, from any thread.
    pub(crate) fn waker(&self) -> Waker {
        self.flights.waker()
    }

    fn can_begin(&self, inner: &Inner, number: usize, len: usize) -> bool {
        let free = self.under_way.get(number).is_some_and(Option::is_none);
        free && inner.cache().is_none()
            && len as u64 <= MAX_REQUEST
            && std::ptr::eq(Arc::as_ptr(&inner.shared), self.shared.as_ptr())
    }

    fn keep(&mut self, number: usize, request: UnderWay) {
        self.under_way[number] = Some(request);
        self.count += 1;
    }
}

impl Drop for Together {
    /// Ends all, so that what was overwritten is marked.
    fn drop(&mut self) {
        while self.count > 0 {
            self.wait(self.count, &mut |_, _| {});
        }
    }
}

impl UnderWay {
    /// What came of it.
    fn end(self, result: Result<()>) -> Result<()> {
        let inner = &self.volume;
        match self.then {
            Then::Read => result,
            Then::Overwrite(source) => {
                // Behind the write and before the locks go, as with a call, and of one that failed as well.
                if let Some(writer) = &inner.writer {
                    inner.mark_unsynced(writer, &source);
                }
                drop(self.locks);
                result
            }
            Then::Compare { epoch, at, offset, buf, len } => {
                result?;
                // SAFETY: whoever began this promised that the buffer stays and is nobody else's until now.
                let buf = unsafe { std::slice::from_raw_parts_mut(buf, len) };
                match inner.shared.sums.compare(inner.blocker(), epoch, buf, at) {
                    None => Ok(()),
                    // Read again, and told of if it is the same.
                    Some(_) => inner.read(&mut [IoSliceMut::new(buf)], offset),
                }
            }
        }
    }
}

impl Inner {
    /// The place of a range of a block if it is one that waits for a disk.
    fn direct_place(&self, source: Source, block: u64, from: u64) -> Option<Place> {
        let start = from & !(SECTOR - 1);
        let (object, at) = self.place(&source, block, start, from - start)?;
        self.blocker().waits_for_disk(object).then_some(Place { source, object, at })
    }
}

#[cfg(test)]
mod tests;
