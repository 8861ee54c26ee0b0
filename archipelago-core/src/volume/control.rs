//! What changes a volume as a whole: snapshot, resize, rename, close.

use crate::blocker::{LockGuard, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::{Header, Kind, LogPos, SealedRange};
use crate::format::labels::Labels;
use crate::format::log::Body;
use crate::limits::{MAX_RANGES, SECTOR, SECTOR_SHIFT};
use crate::store::catalog;
use crate::store::{LabelChange, VolumeInfo};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;
use crate::volume::inner::{CommitState, Inner, Writer};

impl Inner {
    /// See [`crate::Volume::snapshot`]. Order: stop changes, switch the epoch in memory, go on, sync the old epoch, record
    /// the new one durably, publish the snapshot's header. A crash before the last step leaves a higher epoch and
    /// no snapshot, which costs some copying and nothing else.
    pub fn snapshot(&self, name: &str) -> Result<VolumeInfo> {
        crate::name::check(name)?;
        if self.kind != Kind::Volume {
            return Err(Error::IsSnapshot(self.name()));
        }
        let writer = self.writer()?;
        self.settle_cache()?;
        let _operation = self.shared.operations.begin();
        self.check()?;
        catalog::ensure_free(&self.shared, name)?;
        let _still = self.still()?;
        // A map can name a few journals of others; past that it has to be folded before it is shared again.
        if self.header.lock().header.ranges.len() + 1 >= MAX_RANGES {
            self.checkpoint()?;
        }
        self.make_way(writer)?;
        // Most of what is dirty goes out before anybody has to wait.
        self.flush()?;
        let mut commit = self.commit_unshrunk(writer)?;
        let mut job = self.switch_epoch(writer, &mut commit, || Ok(self.capture(writer)))?;
        let end = self.record_epoch(writer)?;
        let id = self.shared.new_id()?;
        let header = self.snapshot_header(id, name, end);
        // Queued before anything newer can be captured, for maps must be folded in the order of their captures; folded
        // after the header is published, for that is what folding it changes.
        let publishing = writer.publish.lock();
        job.snapshot = Some(id);
        if !header.ranges.is_empty() {
            self.queue_fold(writer, job);
        }
        drop(commit);
        catalog::publish(&self.shared, &header)?;
        drop(publishing);
        catalog::describe(&self.shared, &header, None)
    }

    /// Makes it durable that the epoch was raised; returns where the journal of the old one ends. The commit lock is held.
    pub fn record_epoch(&self, writer: &Writer) -> Result<Option<LogPos>> {
        let epoch = self.epoch.load(Ordering::Acquire);
        Ok(if writer.journal.appended() > 0 && self.header.lock().header.log.is_some() {
            let mut state = writer.journal.lock();
            // The range ends before the record: what follows belongs to the new epoch.
            let appended = writer
                .journal
                .append(self.blocker(), &mut state, epoch, Body::Epoch, &[], &|at| self.journal_started(at));
            drop(state);
            let pos = self.note(appended)?;
            let result = self.blocker().sync(&writer.journal.take_dirty());
            self.fail_stop(result)?;
            Some(pos)
        } else {
            self.commit_header(|h| h.epoch = epoch)?;
            self.header.lock().header.log.map(|_| writer.journal.end().pos)
        })
    }

    /// The header of a snapshot of the epoch that ended, whose journal ends at `end`. The commit lock is held.
    pub fn snapshot_header(&self, id: VolumeId, name: &str, end: Option<LogPos>) -> Header {
        let epoch = self.epoch.load(Ordering::Acquire) - 1;
        let state = self.header.lock();
        let own = &state.header;
        let mut ranges = own.ranges.clone();
        if let (Some(from), Some(to)) = (own.log, end)
            && from.pos < to
        {
            ranges.push(SealedRange { owner: self.id, from, to, epoch, size: own.size });
        }
        Header {
            id,
            kind: Kind::Snapshot,
            name: name.to_string(),
            epoch,
            created: self.shared.now(),
            parent: self.id,
            ranges,
            log: None,
            shrunk: false,
            labels: Labels::default(),
            cached: None,
            ..own.clone()
        }
    }

    /// See [`crate::Store::resize`].
    pub fn resize(&self, size: u64, shrink: bool) -> Result<()> {
        catalog::check_size(size)?;
        if self.kind != Kind::Volume {
            return Err(Error::IsSnapshot(self.name()));
        }
        let writer = self.writer()?;
        self.settle_cache()?;
        let _operation = self.shared.operations.begin();
        self.check()?;
        let old = self.size.load(Ordering::Acquire);
        if size < old && !shrink {
            return Err(Error::InvalidArgument(format!(
                "{}: {size} bytes is less than its {old}; making it smaller destroys what is cut off and has to be asked for",
                self.name()
            )));
        }
        let _still = self.still()?;
        let mut commit = self.commit_unshrunk(writer)?;
        let old = self.size.load(Ordering::Acquire);
        match size.cmp(&old) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => {
                self.commit_header(|h| h.size = size)?;
                self.size.store(size, Ordering::Release);
                Ok(())
            }
            std::cmp::Ordering::Less => {
                let blocks = size.div_ceil(1 << self.block_shift);
                let shown = self.size.load(Ordering::Acquire);
                let switched = self.switch_epoch(writer, &mut commit, || {
                    self.size.store(size, Ordering::Release);
                    Ok(())
                });
                let epoch = self.epoch.load(Ordering::Acquire);
                let committed = switched.and_then(|()| {
                    self.commit_header(|h| {
                        h.size = size;
                        h.shrunk = true;
                        h.epoch = epoch;
                    })
                });
                if committed.is_err() {
                    self.size.store(shown, Ordering::Release);
                    return committed;
                }
                let _stopped = self.stop_changes();
                self.overlay.truncate(blocks);
                self.clip_last_block()?;
                Ok(())
            }
        }
    }

    /// The commit lock, at a moment when no dead bytes lie past the end: they must be gone from the map before it is
    /// shared, or before they could be inside the volume again.
    fn commit_unshrunk<'a>(&self, writer: &'a Writer) -> Result<MutexGuard<'a, CommitState>> {
        loop {
            let commit = writer.commit.lock();
            self.check()?;
            if !self.header.lock().header.shrunk {
                return Ok(commit);
            }
            drop(commit);
            self.checkpoint()?;
        }
    }

    /// Puts the last block into the overlay without what lies past the end. The gate is held, or nobody else has the volume.
    pub fn clip_last_block(&self) -> Result<()> {
        let size = self.size.load(Ordering::Acquire);
        let block = size >> self.block_shift;
        let sectors = (size - (block << self.block_shift)).div_ceil(SECTOR) as u16;
        if sectors == 0 {
            return Ok(());
        }
        let mut shard = self.overlay.shard(block).write();
        let mut map = self.locate(&shard, block)?.to_map();
        map.clip(sectors);
        self.put(&mut shard, block, map);
        Ok(())
    }

    /// Zeroes from `end` to the end of its sector, if that is mapped. The gate is held exclusively.
    pub fn zero_tail(&self, end: u64) -> Result<()> {
        let writer = self.writer()?;
        let block = end >> self.block_shift;
        let sector = ((end - (block << self.block_shift)) >> SECTOR_SHIFT) as u16;
        let mapped = {
            let shard = self.overlay.shard(block).read();
            let map = self.locate(&shard, block)?;
            map.runs(sector, 1).any(|r| r.source != crate::format::node::Source::Zero)
        };
        if mapped { self.write_zero_bytes(writer, end, (end.next_multiple_of(SECTOR) - end) as usize) } else { Ok(()) }
    }

    /// See [`crate::Volume::info`].
    pub fn info(&self) -> Result<VolumeInfo> {
        let _operation = self.shared.operations.begin();
        let header = self.header.lock().header.clone();
        let mapped = self.view().mapped(self.blocker(), &self.shared.cache)? * SECTOR;
        let info = catalog::describe(&self.shared, &header, Some(mapped))?;
        Ok(VolumeInfo { epoch: self.epoch.load(Ordering::Acquire), size: self.size.load(Ordering::Acquire), ..info })
    }

    /// Gives the volume another name; see [`catalog::rename`].
    pub fn rename(&self, new: &str) -> Result<()> {
        crate::name::check(new)?;
        let writer = self.writer()?;
        let _operation = self.shared.operations.begin();
        self.check()?;
        let _commit = writer.commit.lock();
        self.check()?;
        let old = self.name();
        catalog::rename(&self.shared, &old, new, self.id, || {
            self.commit_header(|h| h.name = new.to_string())?;
            *self.name.write() = new.to_string();
            Ok(())
        })
    }

    /// See [`crate::Store::set_labels`].
    pub fn set_labels(&self, changes: &[LabelChange<'_>]) -> Result<()> {
        let writer = self.writer()?;
        let _operation = self.shared.operations.begin();
        let _commit = writer.commit.lock();
        self.check()?;
        let old = self.header.lock().header.labels.clone();
        let labels = old.with(changes)?;
        if labels == old { Ok(()) } else { self.commit_header(|h| h.labels = labels) }
    }

    /// Flushes, folds and gives the volume up.
    pub fn close(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::NotOpen(self.name()));
        }
        // What this fails with, the next one does.
        let _ = self.settle_cache();
        let _operation = self.shared.operations.begin();
        let drained = self.cache().map_or(Ok(()), |cache| cache.finish(self));
        let settled = self.settle();
        let result = match &self.writer {
            Some(writer) => self.end_use(writer, settled),
            None if self.closed.swap(true, Ordering::AcqRel) => return Err(Error::NotOpen(self.name())),
            None => settled,
        };
        if let Some(cache) = self.cache() {
            cache.close_file();
        }
        let lock: Option<Box<dyn LockGuard>> = self.lock.lock().take();
        self.shared.forget(self.id, self.writer.is_some(), lock);
        drained.and(result)
    }

    /// Waits for everything that is under way, and lets nothing begin any more: after this the lock is given up, and
    /// whoever has it next must be alone. What was written since `settle` is flushed, so that a write that succeeded is
    /// never undone by closing.
    fn end_use(&self, writer: &Writer, settled: Result<()>) -> Result<()> {
        let _fold = writer.fold.lock();
        let mut commit = writer.commit.lock();
        let _gate = self.gate.write();
        if self.closed.swap(true, Ordering::AcqRel) {
            return Err(Error::NotOpen(self.name()));
        }
        let flushed = settled.and_then(|()| self.finish_flush(writer, &mut commit));
        let ended = writer.journal.end_use(self.blocker());
        flushed.and(ended)
    }

    fn settle(&self) -> Result<()> {
        let Some(writer) = &self.writer else { return Ok(()) };
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned(self.name()));
        }
        self.flush()?;
        let dirty = !self.overlay.is_empty() || !writer.jobs.lock().is_empty() || self.header.lock().header.shrunk;
        if dirty || self.log_end(writer) != self.header.lock().header.log {
            self.checkpoint()?;
        }
        Ok(())
    }
}
