//! Takes away the content that no map names and no lease holds: content objects, epochs that were hashed with their redirect
//! tables, and tables of the index that lead nowhere.

use std::collections::HashSet;
use std::io::IoSlice;

use super::Planted;
use super::candidates::Candidates;
use super::marks::Marks;
use super::pace::Pace;
use super::report::{CollectOptions, CollectPhase, CollectReport};
use crate::blocker::{LockMode, LockOutcome, Object, VolumeId};
use crate::error::{Error, Result};
use crate::limits::{ATOM, CONTENT_SWEEP, MAX_COMPARISONS};
use crate::store::content::{Leases, MERGE_LOCK, index, lock, redirect};
use crate::store::shared::Shared;

/// Removes the leases that are over, and reads the others.
pub fn begin(shared: &Shared, options: &CollectOptions, report: &mut CollectReport) -> Result<Leases> {
    let (leases, removed) = Leases::begin(shared, options.grace, !options.dry_run)?;
    report.leases = removed;
    Ok(leases)
}

/// Marks what was leased since the last call; whether there was any.
pub fn read_leases(shared: &Shared, leases: &mut Leases, marks: &mut Marks) -> Result<bool> {
    let mut any = false;
    leases.read(&*shared.blocker, &mut |digest| {
        marks.leased(&digest);
        any = true;
        Ok(())
    })?;
    Ok(any)
}

/// A sweep of content under way. Whatever comes to name a digest now leases it first, so a digest that is neither marked nor
/// leased while the lock of content is held is needed by nobody.
pub struct ContentSweep<'a, 'b> {
    /// The store.
    pub shared: &'a Shared,
    /// What maps name, and leases hold.
    pub marks: &'a mut Marks,
    /// How far the leases were read.
    pub leases: &'a mut Leases,
    /// Only count.
    pub dry_run: bool,
    /// Steps that are left out.
    pub planted: Planted,
    /// How fast.
    pub pace: &'a mut Pace<'b>,
    /// What was done.
    pub report: &'a mut CollectReport,
    /// Slots that would be moved or forgotten if this did more than count.
    pub would_go: HashSet<(VolumeId, u64, u64)>,
}

impl<'a, 'b> ContentSweep<'a, 'b> {
    /// Nothing done yet.
    pub fn new(
        shared: &'a Shared,
        marks: &'a mut Marks,
        leases: &'a mut Leases,
        dry_run: bool,
        planted: Planted,
        pace: &'a mut Pace<'b>,
        report: &'a mut CollectReport,
    ) -> ContentSweep<'a, 'b> {
        ContentSweep { shared, marks, leases, dry_run, planted, pace, report, would_go: HashSet::new() }
    }

    /// All of it. Any cut leaves what the next collection finds by listing.
    pub fn run(&mut self, candidates: &Candidates) -> Result<()> {
        self.mark_moved(&candidates.redirects)?;
        let parts = self.shared.blocker.content_parts()?;
        self.pace.phase(CollectPhase::Sweep, (parts.len() + candidates.hashed.len()) as u64)?;
        for first in parts {
            self.objects(first)?;
            self.unfinished(first)?;
            self.pace.advance()?;
        }
        let mut gone = HashSet::new();
        for (owner, epoch) in &candidates.hashed {
            if !self.marks.contains(Object::Data(*owner, *epoch)) && self.epoch(*owner, *epoch)? {
                gone.insert((*owner, *epoch));
            }
            self.pace.advance()?;
        }
        let rest: Vec<_> = candidates.hashed.iter().copied().filter(|epoch| !gone.contains(epoch)).collect();
        self.thin(&rest)?;
        self.tables(candidates, &gone)
    }

    /// Marks what was leased since the last call; whether there was any.
    pub fn read_leases(&mut self) -> Result<bool> {
        if self.planted.no_leases {
            return Ok(false);
        }
        read_leases(self.shared, self.leases, self.marks)
    }

    /// Content objects whose digest begins with this byte.
    fn objects(&mut self, first: u8) -> Result<()> {
        let blocker = &*self.shared.blocker;
        let mut dead = blocker.contents(first)?;
        dead.retain(|digest| !self.marks.needs(digest));
        for portion in dead.chunks(CONTENT_SWEEP) {
            let (mut count, mut freed) = (0, 0);
            {
                let _lock = lock(blocker, LockMode::Exclusive)?;
                self.read_leases()?;
                for digest in portion.iter().filter(|digest| !self.marks.needs(digest)) {
                    let object = Object::Content(*digest);
                    let bytes = blocker.allocated(object)?;
                    if !self.dry_run {
                        blocker.remove(object)?;
                    }
                    self.report.content.add(bytes);
                    (count, freed) = (count + 1, freed + bytes);
                }
            }
            // Not while others wait for the lock.
            self.freed(count, freed)?;
        }
        Ok(())
    }

    /// Content objects whose writer died. Who puts content holds the lock until it is whole.
    fn unfinished(&mut self, first: u8) -> Result<()> {
        let blocker = &*self.shared.blocker;
        if blocker.unfinished_contents(first)?.is_empty() {
            return Ok(());
        }
        let (mut count, mut freed) = (0, 0);
        {
            let _lock = lock(blocker, LockMode::Exclusive)?;
            for number in blocker.unfinished_contents(first)?.into_iter().take(CONTENT_SWEEP) {
                let bytes = match self.dry_run {
                    true => blocker.unfinished_room(first, number)?,
                    false => blocker.remove_unfinished(first, number)?,
                };
                self.report.content.add(bytes);
                (count, freed) = (count + 1, freed + bytes);
            }
        }
        self.freed(count, freed)
    }

    pub fn freed(&mut self, objects: u64, bytes: u64) -> Result<()> {
        self.pace.progress.objects += objects;
        self.pace.progress.bytes += bytes;
        self.pace.spend(objects, bytes)
    }

    /// An epoch that was hashed and of which no map names a block; whether it went.
    fn epoch(&mut self, owner: VolumeId, epoch: u64) -> Result<bool> {
        let blocker = &*self.shared.blocker;
        let (table, data) = (Object::Redirect(owner, epoch), Object::Data(owner, epoch));
        let sums = Object::Sum(owner, epoch);
        for _ in 0..MAX_COMPARISONS {
            // Without the lock, for there may be many.
            let (marks, pace) = (&*self.marks, &mut *self.pace);
            let mut needed = false;
            let read = redirect::for_each(blocker, owner, epoch, &mut |_, entry, bytes| {
                pace.spend(0, bytes)?;
                // What was moved is not here.
                needed |= !entry.moved && marks.needs(&entry.digest);
                Ok(!needed)
            });
            match read {
                Ok(()) if needed => return Ok(false),
                Ok(()) => {}
                Err(Error::Damaged { .. }) => {
                    // Which digests lead here is not known.
                    self.report.unknown += 1;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
            let lock = lock(blocker, LockMode::Exclusive)?;
            if self.read_leases()? {
                continue;
            }
            let bytes = blocker.allocated(table)? + blocker.allocated(data)?;
            let of_sums = blocker.allocated(sums)?;
            let with_sums = of_sums > 0 || blocker.len(sums)?.is_some();
            if !self.dry_run {
                // The table says nothing any more before it goes, and durably so: if a power cut brought its name back
                // without the data, it must not confirm what was there.
                blocker.write(table, &[IoSlice::new(&[0; ATOM])], 0)?;
                blocker.sync(&[table])?;
                blocker.remove(table)?;
                drop(lock);
                blocker.remove(data)?;
                blocker.remove(sums)?;
            }
            self.report.data.add(bytes);
            if with_sums {
                self.report.sums.add(of_sums);
            }
            self.freed(1 + u64::from(with_sums), bytes + of_sums)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Tables of the index that were never finished, or lead nowhere any more.
    fn tables(&mut self, candidates: &Candidates, gone: &HashSet<(VolumeId, u64)>) -> Result<()> {
        let blocker = &*self.shared.blocker;
        let LockOutcome::Held(_lock) = blocker.lock(MERGE_LOCK, LockMode::Exclusive, &[])? else { return Ok(()) };
        for object in blocker.content_tables()? {
            let Object::Index(id) = object else { continue };
            let (pace, would_go) = (&mut *self.pace, &self.would_go);
            let leads = index::any(blocker, id, &mut |entry, bytes| {
                pace.spend(0, bytes)?;
                let slot = &entry.slot;
                let goes = gone.contains(&(slot.owner, slot.epoch))
                    || would_go.contains(&(slot.owner, slot.epoch, slot.block));
                Ok(!goes && redirect::confirms(blocker, slot, entry.digest)?)
            });
            let dead = match leads {
                Ok(Some(leads)) => !leads,
                // Its writer was waited for, if it is not a new one.
                Ok(None) => candidates.unfinished.contains(&id),
                // What it leads to cannot be told: it stays for `check` to name.
                Err(Error::Damaged { .. }) => false,
                Err(error) => return Err(error),
            };
            if dead {
                let bytes = blocker.allocated(object)?;
                if !self.dry_run {
                    blocker.remove(object)?;
                }
                self.report.tables.add(bytes);
                self.freed(1, bytes)?;
            }
        }
        Ok(())
    }
}
