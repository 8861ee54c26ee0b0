//! Inside epochs that were hashed: blocks whose content is kept elsewhere too are moved, what is known of blocks that nobody
//! needs is forgotten, and the room of both is given back (docs/format.md, "Redirect table").
//!
//! For each digest at least one place stays: a slot is moved only while the locks of content and of the index are held, and
//! another place is found that is not moved and was read before to see that it has the content.

use std::io::IoSliceMut;

use super::content::ContentSweep;
use super::sweep::Sweep;
use super::{refusal, rounds};
use crate::blocker::{LockMode, LockOutcome, Object, VolumeId};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::index::{IndexHead, Slot};
use crate::format::redirect::{RedirectEntry, RedirectHead};
use crate::limits::{FANOUT, FANOUT_SHIFT, MAX_DRY_SLOTS};
use crate::store::content::{MERGE_LOCK, Place, Relied, elsewhere, lock, redirect};

/// What is to become of an entry of a redirect table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It stays.
    Keep,
    /// Nobody needs it.
    Forget,
    /// The content is here too.
    Move(Place),
}

/// An entry with something to be done about it.
#[derive(Clone, Copy)]
struct Planned {
    slot: Slot,
    entry: RedirectEntry,
    verdict: Verdict,
}

/// What became of a plan.
#[derive(Clone, Copy, Default)]
struct Applied {
    /// An entry was changed.
    changed: bool,
    /// An entry that nobody needed is needed now, since another slot was moved for the sake of its digest; it can be moved as well.
    turned: bool,
}

fn slot_of(head: &RedirectHead, block: u64, entry: &RedirectEntry) -> Slot {
    Slot { owner: head.owner, epoch: head.epoch, block, len: entry.len, shift: head.shift }
}

impl ContentSweep<'_, '_> {
    /// Marks the digests through which maps read slots that were moved. If one of these cannot be told, nothing may go.
    pub fn mark_moved(&mut self, redirects: &[(VolumeId, u64)]) -> Result<()> {
        let blocker = &*self.shared.blocker;
        for (owner, epoch) in redirects {
            if !self.marks.contains(Object::Data(*owner, *epoch))
                || !redirect::read_head(blocker, *owner, *epoch).map_err(refusal)?.is_some_and(|head| head.moved)
            {
                continue;
            }
            let (marks, pace) = (&mut *self.marks, &mut *self.pace);
            redirect::for_each(blocker, *owner, *epoch, &mut |block, entry, bytes| {
                if entry.moved && marks.any(*owner, *epoch, block) {
                    marks.digest(&entry.digest);
                }
                pace.spend(0, bytes).map(|()| true)
            })
            .map_err(refusal)?;
        }
        Ok(())
    }

    /// Moves and forgets what can be of these epochs, and gives back the room.
    pub fn thin(&mut self, epochs: &[(VolumeId, u64)]) -> Result<()> {
        let (mut changed, mut readable) = (false, Vec::new());
        for (owner, epoch) in epochs {
            match self.slots(*owner, *epoch) {
                Ok(any) => {
                    changed |= any;
                    readable.push((*owner, *epoch));
                }
                // What else is in it, and where it is, is for `check` to say.
                Err(Error::Damaged { .. }) => self.report.unknown += 1,
                Err(error) => return Err(error),
            }
        }
        if changed && !self.planted.no_question && !self.planted.no_waiting {
            // Whoever looked before the slots were moved or forgotten has read them when this returns, and nobody remembers.
            rounds::acknowledge(self.shared, false, self.pace)?;
        }
        for (owner, epoch) in readable {
            self.punch(owner, epoch)?;
        }
        Ok(())
    }

    /// Goes through the entries of one epoch; whether any was changed.
    fn slots(&mut self, owner: VolumeId, epoch: u64) -> Result<bool> {
        let blocker = &*self.shared.blocker;
        let Some(head) = redirect::read_head(blocker, owner, epoch)? else { return Ok(false) };
        let mut changed = false;
        let tables = self.shared.contents.tables().list(blocker)?;
        let (mut first, mut again) = (0, false);
        while let Some(window) = redirect::window(blocker, &head, first)? {
            self.pace.spend(0, window.bytes)?;
            let mut planned = Vec::new();
            for (block, entry) in window.entries {
                let slot = slot_of(&head, block, &entry);
                let verdict = self.verdict(&tables, &slot, &entry)?;
                match verdict {
                    Verdict::Keep => {}
                    // The last look at what is about to be the only copy.
                    Verdict::Move(place) if !self.holds(&place, &entry)? => {}
                    // At once: what comes behind it depends on it.
                    _ if self.dry_run => self.count(&Planned { slot, entry, verdict }),
                    _ => planned.push(Planned { slot, entry, verdict }),
                }
            }
            let applied = if planned.is_empty() { Applied::default() } else { self.apply(&head, &planned)? };
            changed |= applied.changed;
            // Once: only moves of the portion itself bring it about.
            again = applied.turned && !again;
            if !again {
                first = window.next;
            }
        }
        Ok(changed)
    }

    fn verdict(&self, tables: &[IndexHead], slot: &Slot, entry: &RedirectEntry) -> Result<Verdict> {
        if !self.marks.any(slot.owner, slot.epoch, slot.block) && (entry.moved || !self.marks.needs(&entry.digest)) {
            return Ok(Verdict::Forget);
        }
        if entry.moved {
            return Ok(Verdict::Keep);
        }
        let contents = &self.shared.contents;
        let passed = |slot: &Slot| self.would_go.contains(&(slot.owner, slot.epoch, slot.block));
        // A run that did more than count has removed the others.
        let object = !self.dry_run || self.marks.needs(&entry.digest);
        let place = elsewhere(&*self.shared.blocker, (contents.tables(), tables), slot, entry.digest, object, &passed)?;
        Ok(place.filter(|place| place.len == u64::from(entry.len)).map_or(Verdict::Keep, Verdict::Move))
    }

    /// Whether this content is there, as read at this moment. A copy that is damaged is no reason to give up the other one.
    fn holds(&mut self, place: &Place, entry: &RedirectEntry) -> Result<bool> {
        let mut bytes = vec![0; entry.len as usize];
        match self.shared.blocker.read(place.object, &mut [IoSliceMut::new(&mut bytes)], place.base) {
            Ok(()) => {}
            Err(Error::Damaged { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        self.pace.spend(0, u64::from(entry.len))?;
        Ok(Digest::of_bytes(&bytes) == entry.digest)
    }

    fn count(&mut self, planned: &Planned) {
        if self.would_go.len() >= MAX_DRY_SLOTS {
            return;
        }
        let slot = &planned.slot;
        self.would_go.insert((slot.owner, slot.epoch, slot.block));
        if let Verdict::Move(_) = planned.verdict {
            self.marks.digest(&planned.entry.digest);
            self.report.duplicates.add(u64::from(planned.entry.len));
        }
    }

    /// Does what was planned, as far as it still holds.
    fn apply(&mut self, head: &RedirectHead, planned: &[Planned]) -> Result<Applied> {
        let blocker = &*self.shared.blocker;
        let table = Object::Redirect(head.owner, head.epoch);
        // Who merges tables may just be leaving out an entry because the slot of another one counts: then nothing is moved.
        let merge = match blocker.lock(MERGE_LOCK, LockMode::Exclusive, &[])? {
            LockOutcome::Held(lock) => Some(lock),
            LockOutcome::Refused(_) => None,
        };
        let _lock = lock(blocker, LockMode::Exclusive)?;
        self.read_leases()?;
        let tables = self.shared.contents.tables().list(blocker)?;
        let mut relied = Relied::default();
        if merge.is_some() && planned.iter().any(|planned| matches!(planned.verdict, Verdict::Move(_))) {
            for Planned { verdict, .. } in planned {
                if let Verdict::Move(place) = verdict {
                    relied.add(place);
                }
            }
            relied.settle(blocker)?;
            redirect::begin_moves(blocker, head)?;
        }
        let mut applied = Applied::default();
        for Planned { slot, entry, verdict } in planned {
            if redirect::read_entry(blocker, slot)? != Some(*entry) {
                continue;
            }
            // Each behind the one before: two slots of one digest must not be moved for each other's sake.
            match (self.verdict(&tables, slot, entry)?, verdict) {
                (Verdict::Forget, _) => redirect::clear(blocker, slot)?,
                (Verdict::Move(now), Verdict::Move(then)) if now == *then && merge.is_some() => {
                    redirect::set_moved(blocker, slot, entry)?;
                    // The other place may be one that no map names: from now on it is needed, and this collection must know.
                    self.marks.digest(&entry.digest);
                    self.report.duplicates.add(u64::from(entry.len));
                }
                (Verdict::Move(_), Verdict::Forget) => {
                    applied.turned = true;
                    continue;
                }
                _ => continue,
            }
            applied.changed = true;
        }
        if applied.changed && !self.planted.unsynced_moves {
            blocker.sync(&[table])?;
        }
        Ok(applied)
    }

    /// Makes holes where nothing lies that is needed in its place.
    fn punch(&mut self, owner: VolumeId, epoch: u64) -> Result<()> {
        let blocker = &*self.shared.blocker;
        if !self.dry_run && !self.planted.unsynced_moves {
            // Also what a process that died wrote: it may be in memory only.
            blocker.sync(&[Object::Redirect(owner, epoch)])?;
        }
        let Some(head) = redirect::read_head(blocker, owner, epoch)? else { return Ok(()) };
        let (marks, dry_run, would_go) = (&mut *self.marks, self.dry_run, &self.would_go);
        redirect::for_each(blocker, owner, epoch, &mut |block, entry, _| {
            if entry.moved || would_go.contains(&(owner, epoch, block)) {
                marks.unmark(owner, epoch, block);
            } else {
                // Whoever asks for the digest is told that it is here, whole.
                marks.blocks(owner, epoch, head.shift, block >> FANOUT_SHIFT, 1 << (block & (FANOUT - 1)));
            }
            Ok(true)
        })?;
        let data = Object::Data(owner, epoch);
        let (shared, marks) = (self.shared, &*self.marks);
        Sweep { shared, marks, dry_run, pace: self.pace, report: self.report }.holes(data)
    }
}
