//! What a collection may take away: everything that was there when it began, and that nobody appends to.

use std::collections::{HashMap, HashSet};

use crate::blocker::{Object, RecordKey, RecordState, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::{Header, Kind};
use crate::limits::{MAX_COLLECTED_NAMES, MAX_LIST_PAGE};
use crate::mapper::replay;
use crate::store::content::index;
use crate::store::shared::{FIRST_ID, Shared};
use crate::store::{catalog, group};

/// The lock on this id is the right to collect; no map ever has it.
pub const COLLECTOR: VolumeId = VolumeId(0);

/// What may be taken away if nothing names it. Listed before the first question to other processes.
#[derive(Default)]
pub struct Candidates {
    /// Journal segments, node packs and data objects, those of a volume together and in the order of their numbers.
    pub objects: Vec<Object>,
    /// Epochs that were hashed: blocks of theirs are content too.
    pub hashed: Vec<(VolumeId, u64)>,
    /// All epochs with a redirect table, also those that are no candidates.
    pub redirects: Vec<(VolumeId, u64)>,
    /// Tables of the content index that are not finished.
    pub unfinished: Vec<u64>,
    /// There is content of any kind.
    pub content: bool,
    /// Of each volume with a header the newest node pack, if it is complete: it may be emptied but must stay, or its number
    /// would be used again.
    pub newest_packs: HashSet<Object>,
    /// Headers in the trash.
    pub trash: Vec<VolumeId>,
    /// Headers that no name leads to, or that say that they are removed: with the version found, `None` for one that was never
    /// written to its end.
    pub nameless: Vec<(VolumeId, Option<u64>)>,
    /// Headers of groups: of group snapshots that were taken and whose maker died, or is not done yet.
    pub groups: Vec<VolumeId>,
    /// Names that do not count.
    pub stale_names: Vec<String>,
    /// Ids for which a lock is kept and that had no header.
    pub locks: Vec<VolumeId>,
}

/// The epoch whose blocks a table has digests of.
pub(crate) fn redirected(object: &Object) -> Option<(VolumeId, u64)> {
    if let Object::Redirect(owner, epoch) = *object { Some((owner, epoch)) } else { None }
}

/// What of a volume with a header is not in use by its writer.
struct Floor {
    epoch: u64,
    segment: u32,
    /// Somebody may open it for writing.
    writable: bool,
}

impl Candidates {
    /// Looks through the store. `step` is called now and then; an error of it ends the listing.
    pub fn list(shared: &Shared, step: &mut dyn FnMut() -> Result<()>) -> Result<Candidates> {
        let blocker = &*shared.blocker;
        // Objects first: a volume that is made after this has none among them, and what its header says later is said
        // of these and more.
        let mut found = Candidates::default();
        // What a repair set aside may still be read by somebody, who will then need what it names.
        let aside = blocker.mend().map_or(Ok(Vec::new()), |mend| mend.aside())?;
        if let Some(header) = aside.into_iter().find(|place| place.starts_with("lost/h.")) {
            let detail = "what it names is not known, and so must stay until it is put back or given up";
            return Err(Error::damaged(header, detail));
        }
        for part in blocker.parts()? {
            let inventory = blocker.inventory(part)?;
            found.objects.extend(inventory.objects);
            found.locks.extend(inventory.locks.into_iter().filter(|id| id.0 >= FIRST_ID));
            step()?;
        }
        found.unfinished = index::unfinished(blocker)?;
        found.content = !blocker.content_tables()?.is_empty() || found.objects.iter().any(|o| redirected(o).is_some());
        for first in blocker.content_parts()? {
            found.content = found.content
                || !blocker.contents(first)?.is_empty()
                || !blocker.unfinished_contents(first)?.is_empty();
        }
        found.trash = blocker.trashed()?;
        let named = found.names(shared, step)?;
        let floors = found.headers(shared, &named, step)?;
        found.locks.retain(|id| !floors.contains_key(id));
        let mut newest: HashMap<VolumeId, u32> = HashMap::new();
        for object in &found.objects {
            if let Object::Pack(owner, number) = object
                && floors.get(owner).is_some_and(|floor| floor.writable)
            {
                newest.entry(*owner).and_modify(|n| *n = (*n).max(*number)).or_insert(*number);
            }
        }
        found.newest_packs = newest.into_iter().map(|(owner, number)| Object::Pack(owner, number)).collect();
        // Blocks of an epoch that was hashed are content: maps may name them by their digest, and uploads be told that they
        // are there. So such an epoch is looked at block by block.
        let hashed: HashSet<(VolumeId, u64)> = found.objects.iter().filter_map(redirected).collect();
        found.redirects = hashed.iter().copied().collect();
        found.redirects.sort_unstable();
        found.objects.retain(|object| match (object, floors.get(&object.volume())) {
            (Object::Redirect(..) | Object::Content(_) | Object::Index(_) | Object::Lease(..), _) => false,
            (Object::Data(owner, epoch) | Object::Sum(owner, epoch), _) if hashed.contains(&(*owner, *epoch)) => false,
            (_, None) => true,
            (Object::Log(_, number), Some(floor)) => *number < floor.segment,
            (Object::Pack(..), Some(_)) => true,
            (Object::Data(_, epoch) | Object::Sum(_, epoch), Some(floor)) => *epoch < floor.epoch,
        });
        found.hashed = hashed.into_iter().filter(|(owner, e)| floors.get(owner).is_none_or(|f| *e < f.epoch)).collect();
        found.hashed.sort_unstable();
        found.objects.sort_by_key(|object| {
            let (kind, number) = match object {
                // Checksums behind what they are of; either alone harms nobody.
                Object::Data(_, epoch) | Object::Sum(_, epoch) => (0, *epoch),
                Object::Log(_, number) => (1, u64::from(*number)),
                Object::Pack(_, number) => (2, u64::from(*number)),
                Object::Redirect(..) | Object::Content(_) | Object::Index(_) | Object::Lease(..) => (3, 0),
            };
            (object.volume(), kind, number)
        });
        Ok(found)
    }

    /// Finds the names that do not count; returns the ids of those that do.
    fn names(&mut self, shared: &Shared, step: &mut dyn FnMut() -> Result<()>) -> Result<HashSet<VolumeId>> {
        let mut named = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = shared.blocker.names("", after.as_deref(), MAX_LIST_PAGE)?;
            let Some(last) = page.last().cloned() else { return Ok(named) };
            for name in page {
                match catalog::resolve(shared, &name)? {
                    Some((header, _)) => drop(named.insert(header.id)),
                    // The rest is found by the next collection.
                    None if self.stale_names.len() < MAX_COLLECTED_NAMES => self.stale_names.push(name),
                    None => {}
                }
                step()?;
            }
            after = Some(last);
        }
    }

    /// Finds the headers that no name leads to; returns what of the others is certainly not in use.
    fn headers(
        &mut self,
        shared: &Shared,
        named: &HashSet<VolumeId>,
        step: &mut dyn FnMut() -> Result<()>,
    ) -> Result<HashMap<VolumeId, Floor>> {
        let mut floors = HashMap::new();
        // The newest epoch of which each volume has data.
        let mut epochs: HashMap<VolumeId, u64> = HashMap::new();
        for object in &self.objects {
            if let Object::Data(owner, epoch) = object {
                epochs.entry(*owner).and_modify(|e| *e = (*e).max(*epoch)).or_insert(*epoch);
            }
        }
        for id in shared.blocker.headers()? {
            step()?;
            let (header, version) = match catalog::read_header(shared, id) {
                Ok(None) => continue,
                Ok(Some(found)) => found,
                // A name is made only for a whole header, and all names could be read: this one was never finished.
                Err(Error::Damaged { .. }) if !named.contains(&id) && is_unborn(shared, id)? => {
                    self.nameless.push((id, None));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !named.contains(&id) && is_nameless(shared, &header)? && !lost_its_name(shared, &header, version)? {
                self.nameless.push((id, Some(version)));
                continue;
            }
            if header.kind == Kind::Group {
                self.groups.push(id);
            }
            if header.kind != Kind::Volume {
                // Nobody writes it any more: only what it names is in use.
                floors.insert(id, Floor { epoch: u64::MAX, segment: u32::MAX, writable: false });
                continue;
            }
            let mut epoch = header.epoch;
            if let Some(start) = header.log
                && epochs.get(&id).is_some_and(|newest| *newest >= epoch)
                && shared.blocker.lock_holder(id)?.is_none()
            {
                // Snapshots since the last fold ended epochs that only the journal tells of. If it cannot be read, marking
                // it fails too.
                let mut newest = epoch;
                let read = replay::own_records(&*shared.blocker, id, start, &mut |_, head| {
                    newest = newest.max(head.epoch);
                    Ok(())
                });
                epoch = if read.is_ok() { newest } else { epoch };
            }
            let segment = header.log.map_or(0, |start| start.pos.segment);
            floors.insert(id, Floor { epoch, segment, writable: true });
        }
        Ok(floors)
    }

    /// What other processes are still busy with is no candidate.
    pub fn keep(&mut self, unsettled: &[(VolumeId, u64)]) {
        for (id, epoch) in unsettled {
            self.objects.retain(
                |object| !matches!(object, Object::Data(owner, e) | Object::Sum(owner, e) if owner == id && e >= epoch),
            );
            self.hashed.retain(|(owner, e)| owner != id || e < epoch);
        }
    }

    /// Leaves only the nameless headers that are as they were: what made them has ended, so nobody will name them any more.
    pub fn confirm_nameless(&mut self, shared: &Shared) -> Result<()> {
        let mut confirmed = Vec::new();
        for (id, version) in std::mem::take(&mut self.nameless) {
            let still = match (catalog::read_header(shared, id), version) {
                (Ok(Some((header, now))), Some(version)) => now == version && is_nameless(shared, &header)?,
                (Err(Error::Damaged { .. }), None) => is_unborn(shared, id)?,
                (Ok(_), _) | (Err(Error::Damaged { .. }), Some(_)) => false,
                (Err(error), _) => return Err(error),
            };
            if still {
                confirmed.push((id, version));
            }
        }
        self.nameless = confirmed;
        Ok(())
    }
}

/// Whether a header that cannot be read was never written to its end. Where a backend cannot tell, what no name leads to was not.
fn is_unborn(shared: &Shared, id: VolumeId) -> Result<bool> {
    match shared.blocker.mend() {
        Some(mend) => Ok(mend.record_state(RecordKey::Header(id))? == RecordState::Unborn),
        None => Ok(true),
    }
}

/// Refuses while headers lie aside that could not be read: nobody knows what they name.
pub fn nothing_aside(shared: &Shared) -> Result<()> {
    let aside = shared.blocker.mend().map_or(Ok(Vec::new()), |mend| mend.aside())?;
    match aside.into_iter().next() {
        None => Ok(()),
        Some(object) => Err(Error::damaged(object, "a header that could not be read lies aside")),
    }
}

/// Whether a header is removed, or its name does not lead to it.
fn is_nameless(shared: &Shared, header: &Header) -> Result<bool> {
    let mut header = header.clone();
    loop {
        if header.removed {
            return Ok(true);
        }
        if header.kind == Kind::Group {
            return Ok(false);
        }
        // A snapshot of a group that was never taken, or is being taken: then its makers are waited for.
        if !group::counts(shared, &header)? {
            return Ok(true);
        }
        if shared.blocker.lookup(&header.name)? == Some(header.id) {
            return Ok(false);
        }
        // It may just have got another name: then the header says so already, for the old name goes last.
        match catalog::read_header(shared, header.id)? {
            Some((now, _)) if now.name != header.name || now.removed => header = now,
            _ => return Ok(true),
        }
    }
}

/// Whether a header without a name once had one: a creation that was cut short leaves the first version of a header, and
/// nothing commits a later one before the name is there. Damage took the name; `check --repair` gives it back.
fn lost_its_name(shared: &Shared, header: &Header, version: u64) -> Result<bool> {
    Ok(version > 1 && !header.removed && group::counts(shared, header)?)
}

/// The header of a map that is still in the catalogue, or was moved to the trash meanwhile; the record it was read from, and its
/// version.
pub fn root(shared: &Shared, id: VolumeId) -> Result<Option<(Header, (RecordKey, u64))>> {
    if let Some((header, version)) = catalog::read_header(shared, id)? {
        return Ok(Some((header, (RecordKey::Header(id), version))));
    }
    Ok(catalog::read_trashed(shared, id)?.map(|(header, version)| (header, (RecordKey::Trash(id), version))))
}
