//! Takes away what no map names.

use std::collections::{BTreeSet, HashSet};

use super::candidates::Candidates;
use super::marks::Marks;
use super::pace::Pace;
use super::report::CollectReport;
use crate::blocker::{LockMode, LockOutcome, Object, RecordKey, VolumeId};
use crate::error::{Error, Result};
use crate::limits::{HOLE_PIECE, HOLE_SLACK, HOLE_SLACK_FRACTION, PAGE_SLACK, SECTOR};
use crate::store::catalog;
use crate::store::shared::Shared;

/// Bytes that an object, some of which is in use, takes for nothing, if they are worth a hole.
pub fn waste(shared: &Shared, marks: &Marks, object: Object) -> Result<Option<u64>> {
    let Some(live) = marks.bytes(object) else { return Ok(None) };
    let slack = if matches!(object, Object::Data(..)) { HOLE_SLACK } else { PAGE_SLACK };
    let taken = shared.blocker.allocated(object)?;
    let live = match shared.blocker.hole(object) {
        SECTOR => live,
        hole => {
            let len = shared.blocker.len(object)?.unwrap_or(0);
            len - countable(&marks.dead(object, len), len, hole)
        }
    };
    Ok(Some(taken.saturating_sub(live)).filter(|waste| *waste > slack.max(live / HOLE_SLACK_FRACTION)))
}

/// Bytes of an object of this length that will not count any more when these ranges are holes, if only holes of this size do.
fn countable(ranges: &[std::ops::Range<u64>], len: u64, hole: u64) -> u64 {
    let last = len.saturating_sub(1) / hole * hole;
    let inner = |range: &std::ops::Range<u64>| {
        let from = range.start.max(1).div_ceil(hole).saturating_mul(hole);
        (range.end.min(last) / hole * hole).saturating_sub(from)
    };
    ranges.iter().map(inner).sum()
}

/// A sweep under way.
pub struct Sweep<'a, 'b> {
    /// The store.
    pub shared: &'a Shared,
    /// What maps name.
    pub marks: &'a Marks,
    /// Only count.
    pub dry_run: bool,
    /// How fast.
    pub pace: &'a mut Pace<'b>,
    /// What was done.
    pub report: &'a mut CollectReport,
}

impl Sweep<'_, '_> {
    /// Removes objects that nothing names, oldest first, and then makes holes in those that are used in part: on a full disk a hole
    /// may need room, to say where it is. Any order is safe against a cut: nothing leads to what is removed once headers
    /// without a name are gone, and what is left is found again by listing.
    pub fn objects(&mut self, candidates: &Candidates) -> Result<()> {
        let mut used = Vec::new();
        for object in &candidates.objects {
            if self.hashed_meanwhile(*object)? {
                // By somebody who had it open, and has closed it. The next collection sees to its digests.
            } else if self.marks.contains(*object) {
                used.push(*object);
            } else if candidates.newest_packs.contains(object) {
                self.empty(*object)?;
            } else {
                self.remove(*object)?;
            }
            self.pace.advance()?;
        }
        for object in used {
            match self.holes(object) {
                // The next collection finds more room, or another one makes some.
                Err(Error::NoSpace(_)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Whether an epoch was hashed since it was listed. Whoever still has a map of it open has pinned it, so none is any more.
    fn hashed_meanwhile(&self, object: Object) -> Result<bool> {
        match object {
            Object::Data(owner, epoch) | Object::Sum(owner, epoch) => {
                Ok(self.shared.blocker.len(Object::Redirect(owner, epoch))?.is_some())
            }
            _ => Ok(false),
        }
    }

    fn remove(&mut self, object: Object) -> Result<()> {
        let blocker = &*self.shared.blocker;
        let bytes = blocker.allocated(object)?;
        if !self.dry_run {
            blocker.remove(object)?;
        }
        match object {
            Object::Log(..) => self.report.segments.add(bytes),
            Object::Pack(..) => self.report.packs.add(bytes),
            Object::Sum(..) => self.report.sums.add(bytes),
            _ => self.report.data.add(bytes),
        }
        self.freed(1, bytes)
    }

    fn freed(&mut self, objects: u64, bytes: u64) -> Result<()> {
        self.pace.progress.objects += objects;
        self.pace.progress.bytes += bytes;
        self.pace.spend(1, bytes)
    }

    /// Frees the room of an object that has to stay.
    fn empty(&mut self, object: Object) -> Result<()> {
        let blocker = &*self.shared.blocker;
        let taken = blocker.allocated(object)?;
        let Some(len) = blocker.len(object)? else { return Ok(()) };
        let hole = blocker.hole(object);
        if hole != SECTOR && taken <= len - countable(std::slice::from_ref(&(0..len)), len, hole) {
            return Ok(());
        }
        // The page in which it ends stays.
        if taken > SECTOR && len > 0 {
            self.punch(object, std::slice::from_ref(&(0..len)), taken)?;
        }
        Ok(())
    }

    /// Makes holes where no map names anything, if that frees enough: in the data of a sealed epoch, a journal segment that is
    /// not replayed any more, or a node pack that nobody appends to.
    pub fn holes(&mut self, object: Object) -> Result<()> {
        if self.marks.bytes(object).is_none() {
            self.report.unknown += u64::from(matches!(object, Object::Data(..)));
        }
        let Some(mut waste) = waste(self.shared, self.marks, object)? else { return Ok(()) };
        let Some(len) = self.shared.blocker.len(object)? else { return Ok(()) };
        // The page in which it ends stays: a part of a page cannot be freed.
        let mut dead = self.marks.dead(object, len);
        if let Some(last) = dead.last_mut().filter(|last| last.end == len && !len.is_multiple_of(SECTOR)) {
            last.end = len / SECTOR * SECTOR;
            waste = waste.saturating_sub(SECTOR);
        }
        dead.retain(|range| !range.is_empty());
        self.punch(object, &dead, waste)
    }

    /// `expected` is what it frees at most.
    fn punch(&mut self, object: Object, ranges: &[std::ops::Range<u64>], expected: u64) -> Result<()> {
        let blocker = &*self.shared.blocker;
        if self.dry_run {
            self.report.holes.add(expected);
            return self.freed(0, expected);
        }
        if self.report.no_holes || ranges.is_empty() {
            return Ok(());
        }
        let before = blocker.allocated(object)?;
        let mut left = expected;
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let len = (range.end - at).min(HOLE_PIECE);
                blocker.punch(object, at, len)?;
                at += len;
                let paced = len.min(left);
                left -= paced;
                self.pace.spend(0, paced)?;
            }
        }
        // Not for its durability: what is not synced would keep the file open.
        blocker.sync(&[object])?;
        let freed = before.saturating_sub(blocker.allocated(object)?);
        if freed == 0 {
            self.report.no_holes = true;
            return Ok(());
        }
        self.report.holes.add(freed);
        self.pace.progress.bytes += freed;
        Ok(())
    }

    /// Removes the names that lead to no map, before the headers that they may be other names of.
    pub fn names(&mut self, candidates: &Candidates) -> Result<()> {
        for name in &candidates.stale_names {
            if self.dry_run {
                self.report.names += 1;
                continue;
            }
            match catalog::heal(self.shared, name) {
                Ok(()) => self.report.names += 1,
                // It means something again, or somebody is just seeing to it.
                Err(Error::Exists(_)) => {}
                Err(error) => return Err(error),
            }
            self.pace.spend(1, 0)?;
        }
        Ok(())
    }

    /// Removes the headers without a name, before anything that they name: a check gives a header that was left its name
    /// back, and a map that a collection has begun to take apart must not be had again.
    pub fn nameless(&mut self, candidates: &Candidates) -> Result<()> {
        for (id, _) in &candidates.nameless {
            self.record(RecordKey::Header(*id))?;
            self.report.headers += 1;
        }
        Ok(())
    }

    /// Removes the headers of the trash, except what readers use.
    pub fn trash(&mut self, candidates: &Candidates, pinned: &HashSet<VolumeId>) -> Result<()> {
        for id in &candidates.trash {
            if pinned.contains(id) {
                self.report.pinned += 1;
                continue;
            }
            self.record(RecordKey::Trash(*id))?;
            self.report.trash += 1;
        }
        Ok(())
    }

    fn record(&mut self, key: RecordKey) -> Result<()> {
        if !self.dry_run {
            self.shared.blocker.remove_record(key)?;
        }
        self.freed(1, 0)
    }

    /// Removes the locks of maps that are gone for good, so not of those that readers use.
    pub fn locks(&mut self, candidates: &Candidates, pinned: &HashSet<VolumeId>) -> Result<()> {
        let blocker = &*self.shared.blocker;
        let nameless = candidates.nameless.iter().map(|(id, _)| *id);
        // Some are in both lists.
        let gone: BTreeSet<VolumeId> = candidates.locks.iter().copied().chain(nameless).collect();
        for id in gone.into_iter().filter(|id| !pinned.contains(id)) {
            if self.dry_run {
                self.report.locks += 1;
                continue;
            }
            if catalog::exists(self.shared, id)?
                || catalog::read_trashed(self.shared, id).is_ok_and(|found| found.is_some())
            {
                continue;
            }
            // Held by nobody but for a moment: without a header there is nothing to open.
            if let LockOutcome::Held(lock) = blocker.lock(id, LockMode::Exclusive, &[])? {
                lock.remove()?;
                self.report.locks += 1;
            }
            self.pace.spend(1, 0)?;
        }
        Ok(())
    }
}
