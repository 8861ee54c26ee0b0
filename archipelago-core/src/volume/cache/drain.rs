//! Brings records into the volume, in their order, one after the other.
//!
//! They go in batches of which no record overlaps another, and the head of the file says durably that a batch is in the volume before any of the next
//! is begun. So after a crash the records of one batch at most are made once more, and nothing that is newer is undone for a moment by that.

use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::WriteBack;
use super::file::Placed;
use crate::error::{Error, Result};
use crate::format::cache_log::{CacheHead, Change};
use crate::limits::{MAX_DRAIN_BYTES, MAX_DRAIN_RECORDS};
use crate::sync::atomic::Ordering;
use crate::volume::WriteFlags;
use crate::volume::inner::Inner;

/// Wait before a record is tried again that the volume did not take.
const PAUSE: Duration = Duration::from_secs(1);
/// What is said of it in the state of the store.
const JOB: &str = "cache";

impl WriteBack {
    /// The oldest records as far as none overlaps another.
    fn batch(&self) -> Vec<Placed> {
        let log = self.log.lock();
        let mut batch: Vec<Placed> = Vec::new();
        let mut bytes = 0;
        for placed in log.queue.iter().take(MAX_DRAIN_RECORDS) {
            let (from, end) = range(placed);
            bytes += placed.record.payload();
            let apart = batch.iter().map(range).all(|(other, other_end)| end <= other || other_end <= from);
            if !apart || (bytes > MAX_DRAIN_BYTES && !batch.is_empty()) {
                break;
            }
            batch.push(*placed);
        }
        batch
    }

    /// Brings a batch into the volume; `false` if there is none.
    pub fn drain_some(&self, inner: &Inner) -> Result<bool> {
        let mut head = self.draining.lock();
        if !self.file.is_open() {
            return Err(Error::NotOpen(inner.name()));
        }
        let batch = self.batch();
        let Some(last) = batch.last() else { return Ok(false) };
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::Poisoned(inner.name()));
        }
        self.sync_file()?;
        for placed in &batch {
            self.apply(inner, placed)?;
            if !self.durable_at_once {
                inner.flush()?;
            }
        }
        // Where each write is durable, the map of it may still wait to be confirmed.
        inner.flush()?;
        let next =
            CacheHead { number: head.number + 1, place: last.behind(self.ring), seq: last.record.seq + 1, ..*head };
        self.fail_stop(self.file.put_head(&next))?;
        *head = next;
        {
            let mut index = self.index.write();
            for placed in &batch {
                let (from, end) = range(placed);
                index.remove(from, end, placed.record.seq);
            }
        }
        let mut log = self.log.lock();
        log.used -= log.queue.drain(..batch.len()).map(|placed| placed.taken).sum::<u64>();
        Ok(true)
    }

    /// Makes the change of a record in the volume.
    fn apply(&self, inner: &Inner, placed: &Placed) -> Result<()> {
        let record = &placed.record;
        let flags = WriteFlags::default();
        let zeros = |allocate| {
            inner.in_pieces(record.offset, record.len, &mut |offset, len, _| {
                inner.write_zeroes(offset, len, allocate, flags)
            })
        };
        match record.change {
            Change::Write => {
                let mut bytes = vec![0; record.len as usize];
                self.file.read(&mut [IoSliceMut::new(&mut bytes)], placed.payload_at())?;
                inner.write(&[IoSlice::new(&bytes)], record.offset, flags)
            }
            Change::Zeroes => zeros(true),
            Change::Discard => zeros(false),
        }
    }

    /// Waits until all that was added before this call is in the volume, by bringing it there.
    pub fn settle(&self, inner: &Inner) -> Result<()> {
        let target = self.log.lock().next_seq;
        while self.log.lock().queue.front().is_some_and(|placed| placed.record.seq < target) {
            self.drain_some(inner)?;
        }
        Ok(())
    }

    /// Starts the thread that brings records into the volume.
    pub(super) fn start(self: &Arc<Self>, inner: &Arc<Inner>) -> Result<()> {
        let (cache, inner) = (self.clone(), Arc::downgrade(inner));
        let started = thread::Builder::new().name("volume-cache".into()).spawn(move || cache.drain_all(&inner));
        *self.thread.lock() = Some(started.map_err(|e| Error::io("start", "a thread for the cache of a volume", e))?);
        Ok(())
    }

    fn drain_all(&self, volume: &Weak<Inner>) {
        loop {
            {
                let mut log = self.log.lock();
                while log.queue.is_empty() && !self.ended.load(Ordering::Acquire) {
                    self.work.wait(&mut log);
                }
            }
            let Some(inner) = volume.upgrade().filter(|_| !self.ended.load(Ordering::Acquire)) else { return };
            match self.drain_some(&inner) {
                Ok(_) => inner.shared.reports.trouble(JOB, None),
                Err(Error::Poisoned(_) | Error::NotOpen(_) | Error::Stale(_) | Error::Unregistered(_)) => return,
                Err(error) => {
                    let text = format!("{}: what is in its cache cannot be brought into it: {error}", inner.name());
                    inner.shared.reports.trouble(JOB, Some(text));
                    drop(inner);
                    let mut log = self.log.lock();
                    if !self.ended.load(Ordering::Acquire) {
                        self.work.wait_for(&mut log, PAUSE);
                    }
                }
            }
        }
    }
}

/// First byte of a record in the volume, and the one behind its last.
fn range(placed: &Placed) -> (u64, u64) {
    (placed.record.offset, placed.record.offset + placed.record.len)
}
