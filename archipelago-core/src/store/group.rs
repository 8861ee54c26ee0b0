//! Group snapshots: several volumes at one instant, all or none (docs/architecture.md, "Group snapshot").
//!
//! What each volume does is in [`crate::volume::freeze`]; here is who tells them, in this process or by control message,
//! and the one record that makes all of it count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::control::{Answer, Request};
use super::shared::Shared;
use super::{PATIENCE, STATUS_TIME, Store, VolumeInfo, catalog, open};
use crate::blocker::{LockGuard, LockMode, LockOutcome, RecordKey, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::{Header, Kind, Root};
use crate::format::labels::Labels;
use crate::format::relations::{Group, Received};
use crate::hex;
use crate::limits::MAX_GROUP;
use crate::volume::freeze::{FREEZE_TIME, Part, Reply, STEP_TIME, Step, Wanted};
use crate::volume::handle::Handle;

/// How long a process may take to hear that a group is given up; it finds out by itself as well.
const GIVE_UP_TIME: Duration = Duration::from_secs(1);
/// Wait between two attempts to reach a volume that is changing hands.
const PAUSE: Duration = Duration::from_millis(20);

/// What the owner of a volume is asked to do for a group snapshot, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum GroupStep {
    /// Flush, and wait until nobody else flushes or snapshots the volume.
    Begin {
        /// Name of the snapshot.
        name: String,
        /// Its id, 16 hex digits.
        snapshot: String,
    },
    /// Stop changes.
    Freeze,
    /// Move to the next epoch and let changes go on.
    Switch,
    /// Make the old epoch durable, and say what the header of the snapshot must be.
    Finish,
    /// The snapshot counts.
    Published,
    /// There will be no snapshot.
    Giveup,
}

impl Shared {
    /// Does one step of a group snapshot for another process.
    pub(super) fn group_step(&self, group: &str, id: &str, volume: &str, step: &GroupStep) -> Result<Answer> {
        let key: (VolumeId, VolumeId) = (group.parse()?, id.parse()?);
        let told = match step {
            GroupStep::Begin { name, snapshot } => {
                crate::name::check(name)?;
                let handle = {
                    let _opening = self.opening.lock();
                    self.opened(key.1).map(Handle::new).ok_or_else(|| Error::NotOpen(volume.to_string()))?
                };
                let wanted = Wanted { id: snapshot.parse()?, name: name.clone(), group: key.0 };
                let part = Arc::new(Part::start(handle, wanted)?);
                let mut parts = self.parts.lock();
                // Those of coordinators that died ended by themselves.
                parts.retain(|_, part| !part.ended());
                if parts.len() >= MAX_GROUP * 16 {
                    return Err(Error::TooBusy("group snapshots".into()));
                }
                parts.insert(key, part);
                return Ok(Answer::Done);
            }
            GroupStep::Giveup => {
                let given_up = self.parts.lock().remove(&key);
                drop(given_up);
                return Ok(Answer::Done);
            }
            GroupStep::Freeze => Step::Freeze,
            GroupStep::Switch => Step::Switch,
            GroupStep::Finish => Step::Finish,
            GroupStep::Published => Step::Published,
        };
        let part = self.parts.lock().get(&key).cloned();
        let part = part.ok_or_else(|| Error::NotOpen(format!("{volume}, for that group,")))?;
        part.tell(told);
        let reply = part.wait(if told == Step::Freeze { FREEZE_TIME } else { STEP_TIME })?;
        if told == Step::Published {
            self.parts.lock().remove(&key);
        }
        Ok(match reply {
            Reply::Done => Answer::Done,
            Reply::Snapshot(header) => Answer::Header { header: hex::encode(&header.encode()) },
        })
    }
}

/// Who does a volume's part.
enum Place {
    Here(Part),
    There(String),
}

/// One volume of a group.
struct Member<'a> {
    shared: &'a Arc<Shared>,
    volume: Header,
    wanted: Wanted,
    place: Place,
    /// Nothing has to be given up any more.
    over: bool,
}

impl Member<'_> {
    /// Begins the volume's part: here if nobody else has it open.
    fn begin<'a>(shared: &'a Arc<Shared>, volume: Header, wanted: Wanted) -> Result<Member<'a>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let refused = match open::for_writing(shared, &volume.name) {
                Ok(handle) if handle.id == volume.id => {
                    let place = Place::Here(Part::start(handle, wanted.clone())?);
                    return Ok(Member { shared, volume, wanted, place, over: false });
                }
                Ok(_) => return Err(Error::NotFound(volume.name)),
                Err(error @ Error::OpenElsewhere { .. }) => error,
                Err(error) => return Err(error),
            };
            if let Error::OpenElsewhere { owner, .. } = &refused
                && !owner.process.is_empty()
                && shared.peers.get().is_some()
            {
                let place = Place::There(owner.process.clone());
                let mut member = Member { shared, volume: volume.clone(), wanted: wanted.clone(), place, over: false };
                let step = GroupStep::Begin { name: wanted.name.clone(), snapshot: wanted.id.to_string() };
                match member.ask(step, 3 * STEP_TIME) {
                    Ok(_) => return Ok(member),
                    // It closed the volume before the request came; look again.
                    Err(Error::NotOpen(_)) => member.over = true,
                    Err(error) => return Err(error),
                }
            }
            if Instant::now() >= deadline {
                return Err(refused);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Has the owner do a step.
    fn ask(&self, step: GroupStep, time: Duration) -> Result<Reply> {
        let (Place::There(process), Some(peers)) = (&self.place, self.shared.peers.get()) else {
            return Err(Error::NotOpen(self.volume.name.clone()));
        };
        let (group, id) = (self.wanted.group.to_string(), self.volume.id.to_string());
        let request = Request::Group { group, id, volume: self.volume.name.clone(), step };
        match peers.ask(process, &request, time)? {
            Answer::Header { header } => self.snapshot_of(&header).map(|h| Reply::Snapshot(Box::new(h))),
            _ => Ok(Reply::Done),
        }
    }

    /// The header that an owner says the snapshot must have.
    fn snapshot_of(&self, digits: &str) -> Result<Header> {
        let object = format!("the snapshot of {} by its owner", self.volume.name);
        let header = Header::decode(&object, &hex::decode(digits).unwrap_or_default())?;
        let ours = header.id == self.wanted.id
            && header.name == self.wanted.name
            && header.kind == Kind::Snapshot
            && header.parent == self.volume.id
            && header.group == Group::Member(self.wanted.group);
        if ours { Ok(header) } else { Err(Error::damaged(object, "it is another one")) }
    }

    /// Begins a step where that does not wait for its end.
    fn tell(&self, step: Step) {
        if let Place::Here(part) = &self.place {
            part.tell(step);
        }
    }

    /// Waits for the end of a step that was told; where nothing could be told before, it is done now.
    fn wait(&self, step: Step, time: Duration) -> Result<Reply> {
        let asked = match step {
            Step::Freeze => GroupStep::Freeze,
            Step::Switch => GroupStep::Switch,
            Step::Finish => GroupStep::Finish,
            Step::Published => GroupStep::Published,
        };
        match &self.place {
            Place::Here(part) => part.wait(time),
            Place::There(_) => self.ask(asked, time),
        }
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if !self.over && matches!(self.place, Place::There(_)) {
            // If it does not hear this, it gives up by itself.
            let _ = self.ask(GroupStep::Giveup, GIVE_UP_TIME);
        }
    }
}

/// An owner elsewhere that is stopped or hangs is found out before anybody else has to wait for it.
fn answers(shared: &Arc<Shared>, volume: &Header) -> Result<()> {
    if shared.holds(volume.id) {
        return Ok(());
    }
    match (catalog::holder(shared, volume.id)?, shared.peers.get()) {
        (Some(owner), Some(peers)) if !owner.process.is_empty() => {
            match peers.ask(&owner.process, &Request::Status, STATUS_TIME) {
                Ok(_) | Err(Error::NotOpen(_)) => Ok(()),
                Err(error) => Err(error),
            }
        }
        _ => Ok(()),
    }
}

/// Stops all, in order; past [`FREEZE_TIME`] altogether none of them.
fn freeze(members: &[Member<'_>]) -> Result<()> {
    let deadline = Instant::now() + FREEZE_TIME;
    for member in members {
        let left = deadline.saturating_duration_since(Instant::now());
        member.tell(Step::Freeze);
        member.wait(Step::Freeze, left).map_err(|error| match error {
            Error::Timeout(name) => {
                Error::Timeout(format!("{name}: its writes could not be stopped within 5 seconds, so the group was given up; nothing was made. It"))
            }
            error => error,
        })?;
    }
    Ok(())
}

impl Store {
    /// Takes snapshots of several volumes at one instant: a write to one of them that was begun after a write to another had
    /// returned is not in its snapshot unless that other write is in the other's. Each pair names a volume and
    /// its snapshot, at most [`MAX_GROUP`]. There are all snapshots when this returns, and none after an error, whatever
    /// crashes; only if the record that decides it could not be synced is it open which of the two.
    ///
    /// Volumes that other processes have open are frozen by those. Should all not have stopped within five seconds, all
    /// go on, and the call fails with [`Error::Timeout`].
    pub fn snapshot_group(&self, members: &[(String, String)]) -> Result<Vec<VolumeInfo>> {
        let shared = &self.shared;
        if members.is_empty() || members.len() > MAX_GROUP {
            let text = format!("a group of {} volumes; 1 to {MAX_GROUP} can be in one", members.len());
            return Err(Error::InvalidArgument(text));
        }
        let _operation = shared.operations.begin();
        let group = shared.new_id()?;
        let mut wanted = Vec::with_capacity(members.len());
        for (volume, name) in members {
            crate::name::check(name)?;
            catalog::ensure_free(shared, name)?;
            let (header, _) = catalog::find(shared, volume)?;
            if header.kind != Kind::Volume {
                return Err(Error::IsSnapshot(volume.clone()));
            }
            catalog::check_whole(&header)?;
            let twice = |(h, w): &(Header, Wanted)| h.id == header.id || w.name == *name;
            if wanted.iter().any(twice) {
                return Err(Error::InvalidArgument(format!(
                    "{volume}={name}: the volume or the snapshot is named twice"
                )));
            }
            wanted.push((header, Wanted { id: shared.new_id()?, name: name.clone(), group }));
        }
        let order: Vec<VolumeId> = wanted.iter().map(|(_, w)| w.id).collect();
        for (header, _) in &wanted {
            answers(shared, header)?;
        }
        // So that two groups never wait for each other.
        wanted.sort_by_key(|(header, _)| header.id);

        let parts = wanted.into_iter().map(|(header, wanted)| Member::begin(shared, header, wanted));
        let mut members = parts.collect::<Result<Vec<_>>>()?;
        freeze(&members)?;
        members.iter().for_each(|m| m.tell(Step::Switch));
        for member in &members {
            member.wait(Step::Switch, FREEZE_TIME)?;
        }
        // All are beyond the instant; what follows holds up nobody who writes.
        let mut headers = Vec::with_capacity(members.len());
        for member in &members {
            member.tell(Step::Finish);
            match member.wait(Step::Finish, 2 * STEP_TIME)? {
                Reply::Snapshot(header) => headers.push(*header),
                Reply::Done => return Err(Error::damaged("a group snapshot", "an owner did not say what it has")),
            }
        }
        publish(shared, group, &headers)?;
        for member in &mut members {
            member.tell(Step::Published);
            // It counts whether its owner hears of it or not; it is only folded later.
            let _ = member.wait(Step::Published, STEP_TIME);
            member.over = true;
        }
        // Volumes that were opened for this are closed before it returns.
        drop(members);
        headers.sort_by_key(|header| order.iter().position(|id| *id == header.id));
        headers.iter().map(|header| catalog::describe(shared, header, None)).collect()
    }
}

/// Makes the snapshots of a group count, all at once.
fn publish(shared: &Shared, group: VolumeId, headers: &[Header]) -> Result<()> {
    let mut ids: Vec<VolumeId> = headers.iter().map(|h| h.id).collect();
    ids.sort_unstable();
    let record = Header {
        id: group,
        kind: Kind::Group,
        name: String::new(),
        removed: false,
        shrunk: false,
        size: ids.len() as u64,
        block_shift: shared.superblock.block_shift,
        epoch: 0,
        created: shared.now(),
        parent: VolumeId(0),
        birth: 0,
        key: 0,
        domain: 0,
        root: Root::Empty,
        ranges: Vec::new(),
        log: None,
        received: Received::No,
        group: Group::Of(ids),
        labels: Labels::default(),
        cached: None,
    };
    // Whoever would clear away a snapshot that does not count yet has to have this.
    let lock = catalog::lock(shared, &record, "it is a group snapshot on its way")?;
    let key = RecordKey::Header(group);
    let made =
        catalog::publish_many(shared, headers).and_then(|()| shared.blocker.create_record(key, &record.encode()));
    if let Err(error) = made {
        // Where the record might be there after all, its snapshots must be left to it.
        if matches!(shared.blocker.read_record(key), Err(Error::NotFound(_))) {
            undo(shared, headers);
            let _ = lock.remove();
        }
        return Err(error);
    }
    // From here on they are there. If this fails, whoever finds one of them settles it.
    let _ = settle_locked(shared, &record, lock);
    Ok(())
}

/// Clears away snapshots whose group never was; what is left of them does not count.
fn undo(shared: &Shared, headers: &[Header]) {
    for header in headers {
        let bound = shared.blocker.lookup(&header.name);
        if matches!(bound, Ok(Some(id)) if id == header.id) {
            let _ = shared.blocker.unbind_name(&header.name);
        }
        if bound.is_ok() {
            let _ = shared.blocker.remove_record(RecordKey::Header(header.id));
        }
    }
}

/// The record of a group, if it is there.
fn record(shared: &Shared, group: VolumeId) -> Result<Option<Header>> {
    match catalog::read_header(shared, group) {
        Ok(found) => Ok(found.map(|(header, _)| header).filter(|h| h.kind == Kind::Group && !h.removed)),
        // What a power cut left of one that was being made.
        Err(Error::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a map counts as far as groups are concerned.
pub(super) fn counts(shared: &Shared, header: &Header) -> Result<bool> {
    let Group::Member(group) = header.group else { return Ok(header.kind != Kind::Group) };
    let names_it = |record: &Header| matches!(&record.group, Group::Of(ids) if ids.binary_search(&header.id).is_ok());
    Ok(record(shared, group)?.is_some_and(|record| names_it(&record)))
}

/// The lock of the group through which a map is to count, if there is such: whoever is about to make it count must be gone for the
/// guard to be given.
pub(super) fn lock_pending(shared: &Shared, header: &Header) -> Result<Option<(VolumeId, Box<dyn LockGuard>)>> {
    let Group::Member(group) = header.group else { return Ok(None) };
    match shared.blocker.lock(group, LockMode::Exclusive, &[])? {
        LockOutcome::Held(guard) => Ok(Some((group, guard))),
        LockOutcome::Refused(_) => Err(Error::Exists(header.name.clone())),
    }
}

/// Gives the snapshots of a group that was left behind headers that count by themselves, and drops the group.
pub(super) fn settle(shared: &Shared, group: VolumeId) -> Result<()> {
    let LockOutcome::Held(lock) = shared.blocker.lock(group, LockMode::Exclusive, &[])? else { return Ok(()) };
    match record(shared, group)? {
        Some(record) => settle_locked(shared, &record, lock),
        // It was settled meanwhile, or never was.
        None => lock.remove(),
    }
}

fn settle_locked(shared: &Shared, record: &Header, lock: Box<dyn LockGuard>) -> Result<()> {
    let Group::Of(ids) = &record.group else { return Ok(()) };
    for id in ids {
        let LockOutcome::Held(member) = shared.blocker.lock(*id, LockMode::Exclusive, &[])? else { return Ok(()) };
        // One that was removed needs nothing.
        if let Some((header, version)) = catalog::read_header(shared, *id)?
            && header.group == Group::Member(record.id)
        {
            let settled = Header { group: Group::No, ..header };
            shared.blocker.commit_record(RecordKey::Header(*id), version, &settled.encode())?;
        }
        member.remove()?;
    }
    // No name leads to it, and no header speaks of it any more.
    shared.blocker.remove_record(RecordKey::Header(record.id))?;
    lock.remove()
}

#[cfg(test)]
mod tests;
