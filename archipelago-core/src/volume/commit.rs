//! Flush and checkpoint: the order in which things become durable.

use std::collections::VecDeque;
use std::time::Duration;

use crate::blocker::{LockMode, LockOutcome, Object, RecordKey, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::{Header, LogPos, LogStart, Root};
use crate::limits::{MAX_CAPTURED, MAX_EXTENTS, MAX_FOLD_JOBS, SECTOR};
use crate::mapper::fold::Folder;
use crate::mapper::pack::PackWriter;
use crate::mapper::tree::Tree;
use crate::planted::{self, Bug};
use crate::store::Background;
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, Plant, planted};
use crate::volume::compose::Occasion;
use crate::volume::inner::{CommitState, FoldJob, Inner, Writer};

/// Times that a checkpoint composes without stopping writers before it stops them for it.
const COMPOSE_TRIES: usize = 4;

impl Inner {
    /// See [`crate::Volume::flush`].
    pub fn flush(&self) -> Result<()> {
        self.check()?;
        let Some(writer) = &self.writer else { return Ok(()) };
        let ticket = writer.flush_ticket.fetch_add(1, Ordering::AcqRel) + 1;
        let mut commit = writer.commit.lock();
        if commit.flushed >= ticket {
            // A flush that began after this call did the work.
            return Ok(());
        }
        self.check()?;
        // Taken before anything is gathered: who comes later may have written what this flush does not see.
        let mut served = writer.flush_ticket.load(Ordering::Acquire);
        self.finish_flush(writer, &mut commit)?;
        if planted(Plant::LateTicket) {
            served = writer.flush_ticket.load(Ordering::Acquire);
        }
        commit.flushed = served;
        Ok(())
    }

    /// Data first, then the record that confirms what the journal says of it, then the journal.
    pub fn finish_flush(&self, writer: &Writer, commit: &mut CommitState) -> Result<()> {
        // Before it is asked what has to be synced: the data of these records was marked before they were written.
        let last = writer.journal.close_last();
        if planted::has(Bug::ConfirmedEarly) {
            self.confirm(writer, last)?;
        }
        let mut objects = std::mem::take(&mut commit.dirty);
        if writer.data_dirty.swap(false, Ordering::AcqRel) {
            objects.push(Object::Data(self.id, self.epoch.load(Ordering::Acquire)));
        }
        if let Err(error) = self.sync(&objects) {
            if !planted::has(Bug::NotDisowned) && !error.is_before_sync() {
                writer.journal.disown(self.blocker());
            }
            return Err(error);
        }
        self.confirm(writer, last)?;
        let end = writer.journal.end().pos;
        self.sync(&writer.journal.take_dirty())?;
        writer.journal.set_synced(end);
        Ok(())
    }

    fn confirm(&self, writer: &Writer, last: u64) -> Result<()> {
        let epoch = self.epoch.load(Ordering::Acquire);
        self.note(writer.journal.confirm(self.blocker(), epoch, last, &|at| self.journal_started(at)))
    }

    /// A failed sync is never repeated: the kernel may have dropped the pages.
    fn sync(&self, objects: &[Object]) -> Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let result = self.blocker().sync(objects);
        if result.is_err() {
            self.poisoned.store(true, Ordering::Release);
        }
        result
    }

    /// Slows writers down before the journal is longer than a replay may take.
    pub fn throttle(&self, writer: &Writer) -> Result<()> {
        if writer.journal.needs_segment() {
            // What fails here fails again for the record that needs the segment, if it is one that may not use the reserve.
            let _ = writer.journal.prepare_segment(self.blocker());
        } else if writer.journal.wants_segment() && self.shared.options.background != Background::Manual {
            self.shared.wake();
        }
        let most = self.shared.options.max_unfolded;
        let unfolded = self.pressure(writer);
        if unfolded < most / 2 {
            return Ok(());
        }
        if self.shared.options.background == Background::Manual {
            return if unfolded >= most / 10 * 9 { self.checkpoint() } else { Ok(()) };
        }
        self.shared.wake();
        if unfolded < most / 10 * 9 {
            return Ok(());
        }
        crate::sync::sleep(Duration::from_millis(1));
        while self.pressure(writer) >= most {
            self.check()?;
            if writer.no_room.load(Ordering::Acquire) {
                return Err(Error::NoSpace(self.name()));
            }
            self.shared.wake();
            crate::sync::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Stops changes for a moment, moves to the next epoch, and makes everything of the old one durable. `at_gate` runs
    /// while changes are stopped; it returns what the caller wants to keep of that moment.
    pub fn switch_epoch<T>(
        &self,
        writer: &Writer,
        commit: &mut CommitState,
        at_gate: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let kept = {
            let _stopped = (!planted(Plant::OpenGate)).then(|| self.stop_changes());
            let kept = at_gate()?;
            self.raise_epoch(writer, commit)?;
            kept
        };
        self.finish_flush(writer, commit)?;
        Ok(kept)
    }

    /// Moves to the next epoch, in memory. Changes are stopped by the caller.
    pub fn raise_epoch(&self, writer: &Writer, commit: &mut CommitState) -> Result<()> {
        let old = self.epoch.load(Ordering::Acquire);
        if old == u64::MAX {
            // One epoch per nanosecond would take five centuries to come here.
            return Err(Error::damaged(format!("catalog/h.{}", self.id), "its epochs are used up"));
        }
        if writer.data_dirty.swap(false, Ordering::AcqRel) {
            commit.dirty.push(Object::Data(self.id, old));
        }
        let next = if planted::has(Bug::EpochReused) { old } else { old + 1 };
        self.epoch.store(next, Ordering::Release);
        Ok(())
    }

    /// Whether [`Inner::throttle`] might have something to do, or to wait for.
    pub fn slows_writers(&self, writer: &Writer) -> bool {
        writer.journal.needs_segment() || self.wants_fold(writer)
    }

    /// Whether so much is not folded that it should be soon, lest writers have to wait for it.
    pub(super) fn wants_fold(&self, writer: &Writer) -> bool {
        self.pressure(writer) >= self.shared.options.max_unfolded / 2
    }

    /// The map as it is, to be folded later. Changes are stopped by the caller.
    pub fn capture(&self, writer: &Writer) -> FoldJob {
        FoldJob {
            changed: self.overlay.capture(),
            memory: self.overlay.taken(),
            at: self.header.lock().header.log.map(|_| writer.journal.end()),
            appended: writer.journal.appended(),
            limit: u64::MAX,
            snapshot: None,
        }
    }

    /// Whether one more map of so many bytes may wait to be folded.
    fn fits(jobs: &VecDeque<FoldJob>, memory: u64) -> bool {
        let waiting: u64 = jobs.iter().map(|job| job.memory).sum();
        jobs.len() < MAX_FOLD_JOBS && waiting + memory <= MAX_CAPTURED
    }

    /// Folds what waits if what a snapshot captures now would find no room beside it. Called before changes are stopped, with no lock
    /// held.
    pub fn make_way(&self, writer: &Writer) -> Result<()> {
        if Self::fits(&writer.jobs.lock(), self.overlay.taken()) {
            return Ok(());
        }
        let _fold = writer.fold.lock();
        match self.fold_jobs(writer) {
            // Snapshots that are not folded are whole all the same, and one more must succeed on a full disk.
            Err(Error::NoSpace(_)) => Ok(()),
            other => other,
        }
    }

    /// Queues a captured snapshot for folding. Where it finds no room, for others were taken at the same time or the disk is full, it
    /// is folded by whoever clones and writes it.
    pub fn queue_fold(&self, writer: &Writer, job: FoldJob) {
        let foldable = job.changed.iter().all(|(_, map)| map.extents().len() <= MAX_EXTENTS);
        let mut jobs = writer.jobs.lock();
        if foldable && !job.changed.is_empty() && Self::fits(&jobs, job.memory) {
            jobs.push_back(job);
            drop(jobs);
            self.shared.wake();
        }
    }

    /// Folds what the journal holds into the tree.
    pub fn checkpoint(&self) -> Result<()> {
        self.checkpoint_for(Occasion::Fold)
    }

    fn checkpoint_for(&self, why: Occasion) -> Result<()> {
        let writer = self.writer()?;
        let _operation = self.shared.operations.begin();
        let _fold = writer.fold.lock();
        self.check()?;
        let result = self.checkpoint_locked(writer, why);
        writer.no_room.store(matches!(result, Err(Error::NoSpace(_))), Ordering::Release);
        result
    }

    fn checkpoint_locked(&self, writer: &Writer, why: Occasion) -> Result<()> {
        self.fold_jobs(writer)?;
        // What is captured from here on is newer than all that was folded, and older than what is queued later.
        let mut composed = false;
        for _ in 0..COMPOSE_TRIES {
            if writer.overfull.lock().is_empty() {
                break;
            }
            match self.compose(writer, why) {
                // A full disk must not keep what can be stored from being folded, however many pieces it is in.
                Err(Error::NoSpace(_)) => {
                    composed = true;
                    break;
                }
                Err(error) => return Err(error),
                Ok(0) => break,
                Ok(_) => composed = true,
            }
        }
        if composed {
            // So that the journal speaks of it before the place up to which it is folded, and nothing is left behind that place.
            self.flush()?;
        }
        if writer.journal.needs_segment() && self.header.lock().header.log.is_some() {
            // So that what is composed below need not wait for a sync while writers are stopped. What fails here fails again there, if
            // the segment is needed.
            let _ = writer.journal.prepare_segment(self.blocker());
        }
        let (earlier, job) = {
            let mut commit = writer.commit.lock();
            self.check()?;
            let job = {
                let _stopped = self.stop_changes();
                let size = self.size.load(Ordering::Acquire);
                if self.header.lock().header.shrunk && !size.is_multiple_of(SECTOR) {
                    self.zero_tail(size)?;
                }
                self.compose_longest(writer)?;
                self.overlay.assert_counted();
                let mut job = self.capture(writer);
                let state = self.header.lock();
                if state.header.shrunk {
                    job.limit = state.header.size.div_ceil(1 << self.block_shift);
                }
                job
            };
            let earlier = std::mem::take(&mut *writer.jobs.lock());
            self.finish_flush(writer, &mut commit)?;
            (earlier, job)
        };
        if planted(Plant::FoldOrder) {
            self.fold(writer, job)?;
            return earlier.into_iter().try_for_each(|job| self.fold(writer, job));
        }
        // Snapshots may have been taken since the queue was looked at. An older map over a newer one would undo writes.
        for job in earlier {
            self.fold(writer, job)?;
        }
        self.fold(writer, job)
    }

    /// Folds the maps that snapshots captured.
    pub fn fold_jobs(&self, writer: &Writer) -> Result<()> {
        loop {
            let Some(job) = writer.jobs.lock().pop_front() else { return Ok(()) };
            self.fold(writer, job)?;
        }
    }

    /// Folds one captured map: nodes, sync, header.
    fn fold(&self, writer: &Writer, mut job: FoldJob) -> Result<()> {
        job.changed.sort_unstable_by_key(|(block, _)| *block);
        let tree = self.tree.read().clone();
        let header_is_current = {
            let state = self.header.lock();
            job.changed.is_empty()
                && job.limit == u64::MAX
                && state.header.ranges.is_empty()
                && state.header.log == job.at
        };
        if header_is_current {
            return Ok(());
        }
        let root = {
            let mut pack = writer.pack.lock();
            if pack.is_none() {
                *pack = Some(PackWriter::open(self.blocker(), self.id)?);
            }
            let Some(pack) = pack.as_mut() else { return Err(Error::NotOpen(self.name())) };
            let mut folder = Folder { blocker: self.blocker(), cache: &self.shared.cache, pack, limit: job.limit };
            match folder.fold(&tree, &job.changed).and_then(|root| folder.pack.sync(self.blocker()).map(|()| root)) {
                Ok(root) => root,
                Err(error) => {
                    pack.abandon();
                    return Err(error);
                }
            }
        };
        let folded = Tree::from_root(&format!("catalog/h.{}", self.id), &root, self.block_shift)?;
        {
            let _commit: MutexGuard<'_, CommitState> = writer.commit.lock();
            let epoch = self.epoch.load(Ordering::Acquire);
            self.commit_header(|h| {
                h.root = root.clone();
                h.ranges.clear();
                // The records from here on may belong to a later epoch; those before must not lower what they said.
                if job.at.is_some() {
                    h.log = job.at;
                }
                h.epoch = epoch;
                h.shrunk &= job.limit == u64::MAX;
            })?;
            *self.tree.write() = folded;
        }
        self.overlay.forget(&job.changed);
        writer.journal.set_folded(job.at.map_or(LogPos::default(), |at| at.pos), job.appended);
        match job.snapshot {
            Some(snapshot) => self.finish_snapshot(writer, snapshot, root),
            None => Ok(()),
        }
    }

    /// Gives a snapshot its folded root. Left alone if somebody else is busy with its header: it is complete as it is.
    fn finish_snapshot(&self, writer: &Writer, snapshot: VolumeId, root: Root) -> Result<()> {
        let _published = writer.publish.lock();
        let _lock = match self.blocker().lock(snapshot, LockMode::Exclusive, &[]) {
            Ok(LockOutcome::Held(lock)) => lock,
            // Also where there is no room for a lock.
            Ok(LockOutcome::Refused(_)) | Err(Error::NoSpace(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let key = RecordKey::Header(snapshot);
        let record = match self.blocker().read_record(key) {
            Ok(record) => record,
            Err(Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut header = Header::decode(&key.to_string(), &record.bytes)?;
        if header.ranges.is_empty() {
            // Whoever hashed it has folded it too, and its tree says more.
            return Ok(());
        }
        header.root = root;
        header.ranges.clear();
        self.blocker().commit_record(key, record.version, &header.encode()).map(|_| ())
    }

    /// One round of background work; returns whether there was any. A volume that is closed meanwhile needs none.
    pub fn background(&self) -> Result<bool> {
        match self.background_round() {
            Err(Error::NotOpen(_)) if self.closed.load(Ordering::Acquire) => Ok(false),
            other => other,
        }
    }

    fn background_round(&self) -> Result<bool> {
        let Some(writer) = &self.writer else { return Ok(false) };
        if self.check().is_err() {
            return Ok(false);
        }
        let mut worked = false;
        if writer.journal.wants_segment() {
            writer.journal.prepare_segment(self.blocker())?;
            worked = true;
        }
        let jobs = !writer.jobs.lock().is_empty();
        let long = self.wants_fold(writer);
        let scattered = !writer.overfull.lock().is_empty();
        if jobs || long || scattered {
            if long {
                self.checkpoint_for(Occasion::Pressed)?;
            } else {
                let _operation = self.shared.operations.begin();
                let _fold = writer.fold.lock();
                self.check()?;
                self.fold_jobs(writer)?;
                if self.compose(writer, Occasion::Idle)? > 0 {
                    // A block that was folded before is not looked for again by who opens the volume after a power cut.
                    self.flush()?;
                }
            }
            worked = true;
        }
        Ok(worked)
    }

    /// Where the journal goes on, for a header.
    pub fn log_end(&self, writer: &Writer) -> Option<LogStart> {
        self.header.lock().header.log.map(|_| writer.journal.end())
    }
}

#[cfg(test)]
mod tests;
