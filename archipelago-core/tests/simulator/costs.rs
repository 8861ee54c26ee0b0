//! What things cost, by docs/architecture.md and `limits.rs`: what is overwritten in place and what goes into the journal, when is
//! synced, folded and composed, how long a journal gets, and what costs nothing. Looked at where nothing goes wrong.

use std::collections::{BTreeMap, BTreeSet};

use archipelago_core::blocker::{Object, RecordKey, VolumeId};
use archipelago_core::format::header::{Header, LogPos, Root};
use archipelago_core::format::log::{RECORD_HEAD, SEGMENT_HEAD};
use archipelago_core::limits::{
    COMPOSE_EXTENTS, MAX_INLINE_ROOT, MAX_LOGGED_WRITE, RESERVED_SEGMENT, SECTOR, SEGMENT_SIZE,
};
use archipelago_core::{Error, MapExtent, MapSource, Mode};

use crate::history::{BLOCK, Op, Step, THIN};
use crate::journals::Journal;
use crate::needs::Needs;
use crate::perform::{Done, THIN_SIZE, Trouble};
use crate::plan::{Plan, done};
use crate::stock::Stock;
use crate::tree;
use crate::wire::Call;
use crate::world::World;

/// Rounds of background work after which there is no more: one makes a segment, folds and composes; what it composed may want a segment
/// again, and be folded.
const ROUNDS: u32 = 3;

/// Bytes of nodes that a checkpoint writes at once.
const NODES_AT_ONCE: u64 = 1 << 20;
/// Eighths of a journal segment behind which writers make the next one before they are admitted.
const LATE: u64 = 7;
/// Bytes of the longest request of a history.
const LONGEST_REQUEST: u64 = 2 * BLOCK;

/// Bytes of the longest record with what may have to come with it.
const LONGEST_RECORD: u64 = MAX_LOGGED_WRITE as u64 + 3 * RECORD_HEAD as u64;

/// A volume before an operation.
pub struct Before {
    header: Header,
    journal: Journal,
    plan: Plan,
    packs: BTreeMap<Object, u64>,
}

/// A snapshot that was taken of an open volume, whose map waits to be folded.
pub struct Captured {
    process: usize,
    volume: VolumeId,
    snapshot: VolumeId,
}

/// What is remembered from one operation to the next.
#[derive(Default)]
pub struct Memory {
    captured: Vec<Captured>,
    /// Before where the journal was durable at a flush of this opening.
    flushed: BTreeMap<VolumeId, LogPos>,
    /// Packs that a collection closed, with their lengths.
    closed: BTreeMap<Object, u64>,
    /// Volumes that were open while the disk was full or background work was cut short: a block may have been folded in however many
    /// pieces it was, and who opens such a volume anew does not look for it.
    crowded: BTreeSet<VolumeId>,
    /// Volumes that were changed since all of their blocks were composed. Folded while writers wait, a block keeps up to
    /// `PRESSED_EXTENTS` pieces until the background comes to it.
    uncomposed: BTreeSet<VolumeId>,
}

impl Memory {
    /// Something went wrong, or may have.
    pub fn forget(&mut self) {
        self.captured.clear();
        self.flushed.clear();
    }

    /// A volume that nobody has open any more, without having closed it.
    pub fn abandon(&mut self, volume: VolumeId) {
        if self.uncomposed.remove(&volume) {
            self.crowd(volume);
        }
    }

    /// A volume of which blocks may be left in many pieces.
    pub fn crowd(&mut self, volume: VolumeId) {
        self.crowded.insert(volume);
    }
}

fn wrong<T>(what: String) -> Done<T> {
    Err(Trouble::Wrong(what))
}

/// The volume with which an operation does something.
fn volume_of(op: &Op) -> Option<&str> {
    match op {
        Op::Write { name, .. }
        | Op::Twin { name, .. }
        | Op::Zeroes { name, .. }
        | Op::Discard { name, .. }
        | Op::Scatter { name, .. }
        | Op::Flush { name }
        | Op::Checkpoint { name }
        | Op::Snapshot { volume: name, .. } => Some(name),
        _ => None,
    }
}

impl World {
    fn header(&self, name: &str) -> Done<Header> {
        Stock::header(&*self.disk.blocker(), name)
    }

    /// Looks at what an operation is about to change, if that is a volume that is open in the process and all is sound.
    pub fn before(&mut self, p: usize, step: &Step) -> Done<Option<Before>> {
        let Some(name) = volume_of(&step.op) else { return Ok(None) };
        if step.fault.is_some() || !self.is_sound() || !self.disk.tells_holes() || self.holder(name) != Some(p) {
            return Ok(None);
        }
        let header = self.header(name)?;
        let journal = Journal::of(&*self.disk.blocker(), &header)?;
        let plan = self.plan(p, name, &header)?;
        let packs = self.packs(header.id)?;
        Ok(Some(Before { header, journal, plan, packs }))
    }

    fn packs(&self, id: VolumeId) -> Done<BTreeMap<Object, u64>> {
        let blocker = self.disk.blocker();
        let mut packs = BTreeMap::new();
        for object in blocker.objects(id)?.into_iter().filter(|object| matches!(object, Object::Pack(..))) {
            packs.insert(object, blocker.len(object)?.unwrap_or(0));
        }
        Ok(packs)
    }

    fn plan(&mut self, p: usize, name: &str, header: &Header) -> Done<Plan> {
        let process = self.process(p)?;
        let (mut extents, epoch) = (vec![], process.handles[name].info()?.epoch);
        process.store.map_extents(name, 0, u64::MAX, &mut |extent| {
            extents.push(extent);
            Ok(())
        })?;
        let folded = header.log.map(|start| start.pos);
        Ok(Plan { id: header.id, epoch, block: 1 << header.block_shift, folded, extents })
    }

    /// An operation that changes a volume is about to be done.
    pub fn note_changed(&mut self, step: &Step) {
        if let Some(name) = volume_of(&step.op)
            && let Ok(header) = self.header(name)
        {
            self.costs.uncomposed.insert(header.id);
        }
    }

    /// Compares what an operation cost with what it may cost.
    pub fn after(&mut self, p: usize, step: &Step, before: Option<Before>, calls: &[Call]) -> Done<()> {
        if let Some(before) = &before {
            self.requests(p, step, before, calls)?;
            self.journal(p, step, before)?;
            if !matches!(step.op, Op::Snapshot { .. } | Op::Checkpoint { .. } | Op::Flush { .. } | Op::Scatter { .. }) {
                self.made_ahead(before, calls)?;
            }
            segments(&before.header, self.process(p)?.options.first_segment, &*self.disk.blocker(), calls)?;
        }
        match &step.op {
            Op::Flush { name } => {
                self.flushed(name)?;
                self.again(p, "a second flush", &mut |world, p| world.handle(p, name)?.flush().map_err(Into::into))?;
            }
            Op::Checkpoint { name } => {
                self.composed(p, name)?;
                let id = self.header(name)?.id;
                self.costs.uncomposed.remove(&id);
                if let Some(before) = &before {
                    self.appended(name, before, calls)?;
                }
                self.queue_is_empty(p, name)?;
                // What was not flushed before is told to the journal behind the place up to which it was folded.
                self.handle(p, name)?.checkpoint()?;
                self.folded(name)?;
                self.again(p, "a second checkpoint", &mut |world, p| {
                    let volume = world.handle(p, name)?;
                    volume.checkpoint()?;
                    Ok(volume.flush()?)
                })?;
            }
            Op::Compact { max_extents: THIN, .. } => self.nothing_thin(p)?,
            Op::Background => self.background(p)?,
            Op::Close { name } if self.state.contains_key(name) && self.holder(name).is_none() => {
                self.closed(p, name)?;
            }
            Op::Snapshot { volume, name } => self.captured(volume, name)?,
            Op::Group { members } => members.iter().try_for_each(|(volume, name)| self.captured(volume, name))?,
            _ => {}
        }
        Ok(())
    }

    fn handle(&mut self, p: usize, name: &str) -> Done<archipelago_core::Volume> {
        self.process(p)?.handles.get(name).cloned().ok_or_else(|| Error::NotOpen(name.to_string()).into())
    }

    /// What was just done has nothing to do when it is done again.
    fn again(&mut self, p: usize, what: &str, act: &mut dyn FnMut(&mut World, usize) -> Done<()>) -> Done<()> {
        let wire = self.process(p)?.wire.clone();
        wire.disarm();
        let result = act(self, p);
        let (changes, calls) = (wire.changes(), wire.take_calls());
        wire.disarm();
        result?;
        if changes > 0 { wrong(format!("{what} changed something, {changes} times: {calls:?}")) } else { Ok(()) }
    }

    /// A request changes what its plan says, and syncs nothing unless that is asked for.
    fn requests(&mut self, p: usize, step: &Step, before: &Before, calls: &[Call]) -> Done<()> {
        let (most, unfolded) = (self.process(p)?.options.max_unfolded, before.journal.bytes());
        let folds = unfolded >= most / 10 * 9;
        let plan = &before.plan;
        let (wanted, fua) = match &step.op {
            Op::Write { offset, len, fua, .. } => (plan.write(*offset, *len), *fua),
            Op::Twin { offset, count, .. } => (plan.write(*offset, *count * BLOCK), false),
            Op::Zeroes { offset, len, allocate: true, fua, .. } => (plan.write(*offset, *len), *fua),
            Op::Zeroes { offset, len, fua, .. } => (plan.zeroes(*offset, *len), *fua),
            Op::Discard { offset, len, .. } => (plan.discard(*offset, *len), false),
            _ => return Ok(()),
        };
        let name = volume_of(&step.op).unwrap_or_default();
        let header = self.header(name)?;
        let folded = before.header.log.is_some() && header.log != before.header.log;
        if folded != folds {
            return wrong(format!("of {most} bytes of journal {unfolded} waited, folded by a request: {folded}"));
        }
        // Of a checkpoint on the way nothing is known beforehand, and the file backend tells of no calls.
        if folds || calls.is_empty() {
            return Ok(());
        }
        let mut found = done(calls, plan.folded);
        let mut wanted = wanted;
        if matches!(step.op, Op::Discard { .. } | Op::Zeroes { .. }) {
            found.sort();
            wanted.sort();
        }
        if found != wanted {
            return wrong(format!("a request did\n{found:?}, planned was\n{wanted:?}"));
        }
        match calls.iter().find(|call| matches!(call, Call::Sync(_))) {
            Some(sync) if !fua => wrong(format!("{sync:?} although nobody asked for it")),
            _ => Ok(()),
        }
    }

    /// The journal is never longer than it may be, and says of itself what was durable.
    fn journal(&mut self, p: usize, step: &Step, before: &Before) -> Done<()> {
        let Some(name) = volume_of(&step.op) else { return Ok(()) };
        let header = self.header(name)?;
        let journal = Journal::of(&*self.disk.blocker(), &header)?;
        // A request that is admitted is not held up in its middle.
        let most = self.process(p)?.options.max_unfolded + LONGEST_REQUEST;
        if journal.bytes() > most {
            return wrong(format!("{} bytes of journal wait to be folded, and {most} may", journal.bytes()));
        }
        let Some(flushed) = self.costs.flushed.get(&before.header.id) else { return Ok(()) };
        match journal.records.iter().find(|record| record.at >= *flushed && record.head.synced < *flushed) {
            Some(record) => wrong(format!("{:?} at {:?}: before {flushed:?} all was durable", record.head, record.at)),
            None => Ok(()),
        }
    }

    /// A writer makes a segment ahead, and waits for that, only when it will be needed soon.
    fn made_ahead(&self, before: &Before, calls: &[Call]) -> Done<()> {
        let is_log = |call: &&Call| {
            matches!(call, Call::Create { object: Object::Log(..), .. } | Call::Write { object: Object::Log(..), .. })
        };
        let (Some(Call::Create { .. }), Some(end)) = (calls.iter().find(is_log), before.journal.end) else {
            return Ok(());
        };
        let len = self.disk.blocker().len(Object::Log(before.header.id, end.segment))?.unwrap_or(0);
        // The record for which it is made may be the next.
        let fits = u64::from(end.offset) + LONGEST_RECORD <= len;
        if fits && u64::from(end.offset) * 8 / len.max(1) < LATE {
            return wrong(format!("a request made a segment, and the journal ends at {end:?} of {len} bytes"));
        }
        Ok(())
    }

    /// What is flushed is in the journal.
    fn flushed(&mut self, name: &str) -> Done<()> {
        let header = self.header(name)?;
        if let Some(end) = Journal::of(&*self.disk.blocker(), &header)?.end {
            self.costs.flushed.insert(header.id, end);
        }
        Ok(())
    }

    /// Nothing of a map is in a journal.
    fn folded(&self, name: &str) -> Done<()> {
        let header = self.header(name)?;
        let journal = Journal::of(&*self.disk.blocker(), &header)?;
        if journal.changes() || !header.ranges.is_empty() || header.shrunk {
            return wrong(format!("{name} was folded, and has {} bytes of journal: {header:?}", journal.bytes()));
        }
        Ok(())
    }

    /// No block that was written since the last snapshot is in more pieces than are composed in the background. Others may be as that
    /// snapshot was folded.
    fn composed(&mut self, p: usize, name: &str) -> Done<()> {
        let header = self.header(name)?;
        if self.costs.crowded.contains(&header.id) {
            return Ok(());
        }
        let plan = self.plan(p, name, &header)?;
        let written = |extent: &MapExtent| match extent.source {
            MapSource::Data { owner, epoch } | MapSource::Log { owner, epoch, .. } => {
                (owner, epoch) == (plan.id.0, plan.epoch)
            }
            MapSource::Zero | MapSource::Content { .. } => false,
        };
        for block in (0..self.state[name].size).step_by(plan.block as usize) {
            let here = |extent: &&MapExtent| extent.offset < block + plan.block && extent.offset + extent.len > block;
            let here: Vec<_> = plan.extents.iter().filter(here).collect();
            let extents = here.iter().filter(|extent| extent.source != MapSource::Zero).count();
            if extents > COMPOSE_EXTENTS && here.iter().any(|extent| written(extent)) {
                return wrong(format!("{name}: the block at {block} is left in {extents} pieces"));
            }
        }
        Ok(())
    }

    /// A checkpoint with one fold appends just the nodes that its root leads to and that were not there.
    fn appended(&self, name: &str, before: &Before, calls: &[Call]) -> Done<()> {
        let commits: Vec<_> = calls.iter().filter(|call| matches!(call, Call::Commit(_))).collect();
        let header = self.header(name)?;
        if commits != [&Call::Commit(RecordKey::Header(header.id))] {
            return Ok(());
        }
        let mut grown = 0;
        for (pack, len) in self.packs(header.id)? {
            grown += len - before.packs.get(&pack).copied().unwrap_or(0);
        }
        let writes = calls.iter().filter(|call| matches!(call, Call::Write { object: Object::Pack(..), .. })).count();
        if writes as u64 > 1 + grown / NODES_AT_ONCE {
            return wrong(format!("a checkpoint wrote {grown} bytes of nodes in {writes} calls"));
        }
        let mut named = 0;
        tree::nodes(&*self.disk.blocker(), &header, &mut |pointer| {
            let pack = Object::Pack(pointer.owner, pointer.pack);
            let new = u64::from(pointer.offset) >= before.packs.get(&pack).copied().unwrap_or(0);
            named += if new && pointer.owner == header.id { u64::from(pointer.len) } else { 0 };
        })?;
        // A root in the header becomes a node before it can have a parent.
        let raised = matches!(before.header.root, Root::Inline(_)) && matches!(header.root, Root::Node { .. });
        if grown < named || grown - named > if raised { MAX_INLINE_ROOT as u64 } else { 0 } {
            return wrong(format!(
                "a checkpoint appended {grown} bytes of nodes, and its root leads to {named} of them"
            ));
        }
        Ok(())
    }

    /// A snapshot was taken of a volume that is open.
    fn captured(&mut self, volume: &str, name: &str) -> Done<()> {
        if let Some(process) = self.holder(volume).filter(|_| self.is_sound()) {
            let (volume, snapshot) = (self.header(volume)?.id, self.header(name)?.id);
            self.costs.captured.push(Captured { process, volume, snapshot });
        }
        Ok(())
    }

    /// The snapshots of a volume have roots of their own.
    fn queue_is_empty(&mut self, p: usize, name: &str) -> Done<()> {
        let id = self.header(name)?.id;
        self.are_folded(&mut |captured| captured.process == p && captured.volume == id)
    }

    fn are_folded(&mut self, which: &mut dyn FnMut(&Captured) -> bool) -> Done<()> {
        let (folded, rest) = std::mem::take(&mut self.costs.captured).into_iter().partition(|captured| which(captured));
        self.costs.captured = rest;
        let blocker = self.disk.blocker();
        for Captured { volume, snapshot, .. } in Vec::from_iter(folded as Vec<Captured>) {
            let key = RecordKey::Header(snapshot);
            let Ok(record) = blocker.read_record(key) else { continue };
            let header = Header::decode(&key.to_string(), &record.bytes)?;
            // Other changes than those with their bytes may be in the tree already.
            for range in header.ranges.iter().filter(|range| range.owner == volume) {
                let records = crate::journals::sealed(&*blocker, range)?;
                if records.iter().any(|record| record.head.epoch <= range.epoch && record.logged()) {
                    return wrong(format!("{} waits to be folded: {:?}", header.name, header.ranges));
                }
            }
        }
        Ok(())
    }

    /// After a few rounds there is nothing to do, and nothing waits.
    fn background(&mut self, p: usize) -> Done<()> {
        let store = self.process(p)?.store.clone();
        let mut rounds = 0;
        while store.run_background()? {
            rounds += 1;
            if rounds > ROUNDS {
                return wrong("the background works without end".to_string());
            }
        }
        let most = self.process(p)?.options.max_unfolded;
        for name in self.process(p)?.handles.keys().cloned().collect::<Vec<_>>() {
            self.composed(p, &name)?;
            let header = self.header(&name)?;
            self.costs.uncomposed.remove(&header.id);
            let waits = Journal::of(&*self.disk.blocker(), &header)?.bytes();
            if waits >= most / 2 {
                return wrong(format!("of {most} bytes of journal {waits} are left by the background"));
            }
        }
        self.are_folded(&mut |captured| captured.process == p)
    }

    /// Of each object that is used no more the volumes of a process need more than a little, or others need something.
    fn nothing_thin(&mut self, p: usize) -> Done<()> {
        // So that the headers say what the maps do.
        self.process(p)?.handles.values().try_for_each(archipelago_core::Volume::checkpoint)?;
        let stock = Stock::of(&self.disk)?;
        for name in self.process(p)?.handles.keys().cloned().collect::<Vec<_>>() {
            let header = self.header(&name)?;
            let (mut own, mut others) = (Needs::default(), Needs::default());
            own.add(&stock, &header)?;
            // Also what a cut left of makings, until a collection takes it away.
            let records = stock.headers.values().flatten().map(|record| &record.header);
            for other in records.filter(|other| other.id != header.id && !other.removed) {
                others.add(&stock, other)?;
            }
            let epoch = self.plan(p, &name, &header)?.epoch;
            let begins = header.log.map_or(0, |start| start.pos.segment);
            let data = own.data.iter().map(|(at, sectors)| (Object::Data(at.0, at.1), sectors.needed.len()));
            let logs = own.logs.iter().filter_map(|(at, pages)| {
                // There are no more sectors than pages.
                Some((Object::Log(at.0, at.1), pages.as_ref()?.len()))
            });
            for (object, sectors) in data.chain(logs).filter(|(_, n)| *n > 0 && *n as u64 * SECTOR <= THIN_SIZE) {
                let (shared, ended) = match object {
                    Object::Data(owner, e) => (
                        others.data.contains_key(&(owner, e)) || stock.redirects.contains_key(&(owner, e)),
                        owner != header.id || e < epoch,
                    ),
                    // Records of what was left may have been the last in a segment that was in use until then.
                    Object::Log(owner, n) => {
                        (others.logs.contains_key(&(owner, n)), owner != header.id || n.saturating_add(1) < begins)
                    }
                    _ => (true, false),
                };
                if !shared && ended {
                    return wrong(format!("{name} has {sectors} sectors in {object}, and nobody else needs any of it"));
                }
            }
        }
        Ok(())
    }

    /// A volume that was closed has nothing to be replayed, and to open and close it changes nothing.
    fn closed(&mut self, p: usize, name: &str) -> Done<()> {
        let header = self.header(name)?;
        let (start, end) = (header.log, Journal::of(&*self.disk.blocker(), &header)?.end);
        if start.map(|start| start.pos) != end || header.shrunk {
            return wrong(format!("{name} was closed, and its journal begins at {start:?} and ends at {end:?}"));
        }
        self.costs.flushed.remove(&header.id);
        self.are_folded(&mut |captured| captured.process == p && captured.volume == header.id)?;
        let process = self.process(p)?;
        let (store, wire) = (process.store.clone(), process.wire.clone());
        wire.disarm();
        let volume = store.open_volume(name, Mode::ReadWrite)?;
        volume.close()?;
        let calls = wire.take_calls();
        wire.disarm();
        let changes = |call: &&Call| !matches!(call, Call::Sync(_) | Call::Commit(_) | Call::Other);
        if let Some(call) = calls.iter().find(changes) {
            return wrong(format!("{name} was opened and closed, and that did {call:?}"));
        }
        if self.header(name)? != header {
            return wrong(format!("{name} was opened and closed, and its header was changed"));
        }
        Ok(())
    }

    /// Nobody appends to what a collection closed; another one is about to begin.
    pub fn packs_are_closed(&mut self, stock: &Stock) -> Done<()> {
        for (pack, len) in &self.costs.closed {
            if let Some(thing) = stock.objects.get(pack).filter(|thing| thing.len > *len) {
                return wrong(format!("{pack} had {len} bytes when a collection closed it, and has {}", thing.len));
            }
        }
        Ok(())
    }

    /// A collection closed these packs.
    pub fn close_packs(&mut self, stock: &Stock) {
        let packs = stock.objects.iter().filter(|(object, _)| matches!(object, Object::Pack(..)));
        self.costs.closed = packs.map(|(object, thing)| (*object, thing.len)).collect();
    }
}

/// Segments are as long as they should be, and are left only when the next record does not fit.
fn segments(header: &Header, first: u64, blocker: &dyn archipelago_core::blocker::Blocker, calls: &[Call]) -> Done<()> {
    let len_of = |number| blocker.len(Object::Log(header.id, number));
    for call in calls {
        if let Call::Create { object: Object::Log(id, number), len } = call
            && *id == header.id
        {
            let former = number.checked_sub(1).map(len_of).transpose()?.flatten();
            let grown = former.map(|former| (2 * former).min(SEGMENT_SIZE));
            // Where there is no journal yet the first one may be made ahead, and what was made before never have been used.
            if Some(*len) != grown && (header.log.is_some() && former.is_some() || *len != first) {
                return wrong(format!("segment {number} of {} has {len} bytes, behind {former:?}", header.name));
            }
        }
    }
    let writes: Vec<(u32, u64, u64)> = calls
        .iter()
        .filter_map(|call| match call {
            Call::Write { object: Object::Log(id, number), offset, len } if *id == header.id => {
                Some((*number, *offset, *len))
            }
            _ => None,
        })
        .collect();
    for (i, pair) in writes.windows(2).enumerate() {
        let [(number, at, mark), (next, start, len)] = pair else { continue };
        let opens = *next == number + 1 && *start == u64::from(SEGMENT_HEAD) && *mark == RECORD_HEAD as u64;
        let Some(room) = len_of(*number)?.filter(|room| opens && *room > RESERVED_SEGMENT) else { continue };
        // The first record of an owner comes with the one that is wanted.
        let behind = writes.get(i + 2).filter(|(_, offset, _)| *len == *mark && *offset == start + len);
        let len = len + behind.map_or(0, |(_, _, len)| *len);
        if at + len + *mark <= room {
            return wrong(format!("a record of {len} bytes did not go to {at} of a segment of {room}"));
        }
    }
    Ok(())
}
