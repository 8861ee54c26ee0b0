//! Does one operation in one process, and checks its answer.

use std::io::IoSlice;
use std::ops::ControlFlow;

use archipelago_core::limits::SECTOR;
use archipelago_core::store::content::HashOptions;
use archipelago_core::{
    CheckOptions, CloneOptions, CollectOptions, CompactOptions, CreateOptions, Error, Finding, FindingKind, Kind,
    ListOptions, MapSource, Mode, ResumeToken, ScrubOptions, SendOptions, Severity, Store, ThinOptions, Volume,
    WriteFlags,
};

use crate::history::{Op, PROCESSES, Step, THIN, fill, twin};
use crate::model::{After, Map, whole_sectors};
use crate::process::Kept;
use crate::stock::Stock;
use crate::world::World;

/// How the name of a volume ends into which a stream is being received.
const PARTIAL: &str = ".receiving";
/// Snapshots that a process keeps open.
const MAX_KEPT: usize = 3;
/// Bytes of one read of a whole map: more than a block, and no multiple of one, so that reads begin and end inside blocks.
const AT_ONCE: u64 = 84 << 10;

/// Bytes up to which an object is thin.
pub const THIN_SIZE: u64 = 16 << 10;

/// How an operation goes wrong.
#[derive(Debug)]
pub enum Trouble {
    /// The engine refused.
    Engine(Error),
    /// The engine gave a wrong answer.
    Wrong(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Engine(error)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Engine(error) => write!(f, "error: {error}"),
            Trouble::Wrong(what) => write!(f, "{what}"),
        }
    }
}

pub type Done<T> = Result<T, Trouble>;

pub fn wrong<T>(what: String) -> Done<T> {
    Err(Trouble::Wrong(what))
}

/// An operation's end, if it did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Done,
    /// As it had to be: another process has the volume.
    Refused,
}

/// The volume that an operation cannot do without having it to itself.
fn needs(op: &Op) -> Option<&str> {
    match op {
        Op::Write { name, .. }
        | Op::Twin { name, .. }
        | Op::Zeroes { name, .. }
        | Op::Discard { name, .. }
        | Op::Scatter { name, .. }
        | Op::Flush { name }
        | Op::Read { name, .. }
        | Op::Remove { name }
        | Op::Checkpoint { name }
        | Op::Compact { name, .. }
        | Op::Open { name } => Some(name),
        _ => None,
    }
}

/// The volumes whose owners are asked to do the operation.
fn asks_for(op: &Op) -> Vec<&str> {
    match op {
        Op::Resize { name, .. } | Op::Rename { old: name, .. } | Op::Snapshot { volume: name, .. } => vec![name],
        Op::Group { members } => members.iter().map(|(volume, _)| volume.as_str()).collect(),
        _ => vec![],
    }
}

impl World {
    /// Whether another process has the volume that an operation needs.
    pub fn is_elsewhere(&self, step: &Step) -> bool {
        let other = |name| self.holder(name).filter(|p| *p != step.process);
        needs(&step.op).is_some_and(|name| other(name).is_some())
            || asks_for(&step.op).into_iter().filter_map(other).any(|p| self.is_paused(p))
    }

    /// Does an operation; one that needs a volume which another process has must be refused.
    pub fn perform(&mut self, step: &Step) -> Done<Outcome> {
        let elsewhere = self.is_elsewhere(step);
        match self.attempt(step) {
            Ok(()) if elsewhere => wrong("it was done although another process has the volume open".to_string()),
            Err(Trouble::Engine(Error::OpenElsewhere { .. })) if elsewhere => Ok(Outcome::Refused),
            // Its owner is stopped.
            Err(Trouble::Engine(Error::Timeout(_))) if elsewhere && !asks_for(&step.op).is_empty() => {
                Ok(Outcome::Refused)
            }
            Err(Trouble::Engine(Error::Exists(name))) if self.is_stale(&name) => Ok(Outcome::Refused),
            // It waits for an answer of everybody, and somebody is stopped.
            Err(Trouble::Engine(Error::Timeout(_)))
                if step.op == Op::Collect && (0..PROCESSES).any(|p| self.is_paused(p)) =>
            {
                Ok(Outcome::Refused)
            }
            // A copy of a snapshot has its identity.
            Err(Trouble::Engine(Error::InvalidArgument(text)))
                if matches!(step.op, Op::Copy { from: Some(_), .. }) && text.ends_with("are the same snapshot") =>
            {
                Ok(Outcome::Refused)
            }
            Ok(()) => Ok(Outcome::Done),
            Err(trouble) => Err(trouble),
        }
    }

    fn attempt(&mut self, step: &Step) -> Done<()> {
        let p = step.process;
        let odd = step.stamp % 2 == 1;
        let store = self.process(p)?.store.clone();
        match &step.op {
            Op::Create { name, size, block } => {
                let info = store.create(name, &CreateOptions { size: *size, block_size: Some(*block) })?;
                if (info.size, info.block_size) != (*size, *block) || info.name != *name || info.kind != Kind::Volume {
                    return wrong(format!("created {info:?}"));
                }
            }
            Op::Write { name, offset, len, fua } => {
                let volume = self.volume(p, name)?;
                let mut bytes = vec![0; *len as usize];
                fill(self.seed, step.stamp, *offset, &mut bytes);
                let (first, second) = bytes.split_at(bytes.len() / (1 + step.stamp as usize % 3));
                volume.write(&[IoSlice::new(first), IoSlice::new(second)], *offset, WriteFlags { fua: *fua })?;
            }
            Op::Twin { name, offset, count, content } => {
                let bytes = twin(self.seed, *content).repeat(*count as usize);
                self.volume(p, name)?.write_at(&bytes, *offset)?;
            }
            Op::Scatter { name, offset, count } => {
                let volume = self.volume(p, name)?;
                for at in (0..*count).map(|i| offset + i * 2 * SECTOR) {
                    let mut bytes = [0; SECTOR as usize];
                    fill(self.seed, step.stamp, at, &mut bytes);
                    volume.write_at(&bytes, at)?;
                }
            }
            Op::Zeroes { name, offset, len, allocate, fua } => {
                self.volume(p, name)?.write_zeroes(*offset, *len, *allocate, WriteFlags { fua: *fua })?;
            }
            Op::Discard { name, offset, len } => {
                let volume = self.volume(p, name)?;
                volume.discard(*offset, *len)?;
                freed(&volume, *offset, *len)?;
            }
            Op::Flush { name } => self.volume(p, name)?.flush()?,
            Op::Read { name, offset, len } => self.read(p, name, *offset, *len, odd)?,
            Op::Snapshot { volume, name } => {
                let info = match self.process(p)?.handles.get(volume) {
                    Some(open) if odd => open.snapshot(name)?,
                    _ => store.snapshot(volume, name)?,
                };
                if info.size != self.state[volume].size || info.kind != Kind::Snapshot || info.name != *name {
                    return wrong(format!("took snapshot {info:?}"));
                }
            }
            Op::Clone { snapshot, name, size } => {
                let info = store.clone_snapshot(snapshot, name, &CloneOptions { size: *size })?;
                if info.size != size.unwrap_or(self.state[snapshot].size) || info.kind != Kind::Volume {
                    return wrong(format!("made clone {info:?}"));
                }
            }
            Op::CloneMany { snapshot, names } => store.clone_many(snapshot, names, &CloneOptions::default())?,
            Op::Remove { name } => {
                if let Some(volume) = self.process(p)?.handles.remove(name) {
                    match store.remove(name) {
                        Err(Error::Busy(_)) => {}
                        Ok(()) => return wrong("a volume that is open for writing was removed".to_string()),
                        Err(error) => return Err(error.into()),
                    }
                    volume.close()?;
                }
                store.remove(name)?;
            }
            Op::Rename { old, new } => {
                let volume = self.state[old].kind == Kind::Volume;
                let q = self.holder(old).unwrap_or(p);
                match self.process(q)?.handles.get(old).cloned() {
                    Some(open) => {
                        if odd && volume && p == q {
                            open.rename(new)?;
                        } else {
                            store.rename(old, new)?;
                        }
                        if open.name() != *new {
                            return wrong(format!("renamed to {new} but the handle says {}", open.name()));
                        }
                        let handles = &mut self.process(q)?.handles;
                        handles.remove(old);
                        handles.insert(new.clone(), open);
                    }
                    None => store.rename(old, new)?,
                }
            }
            Op::Resize { name, size } => {
                let shrink = *size < self.state[name].size;
                let q = self.holder(name).unwrap_or(p);
                let open = self.process(q)?.handles.get(name).cloned();
                match &open {
                    Some(open) if odd && p == q => open.resize(*size, shrink)?,
                    _ => store.resize(name, *size, shrink)?,
                }
                if let Some(open) = open.filter(|open| open.size() != *size) {
                    return wrong(format!("resized to {size} but the handle says {}", open.size()));
                }
            }
            Op::Checkpoint { name } => self.volume(p, name)?.checkpoint()?,
            Op::Compact { name, max_extents: THIN } => {
                self.volume(p, name)?;
                // So that what one of them does not need any more counts for the others.
                self.process(p)?.handles.values().try_for_each(Volume::checkpoint)?;
                let options = ThinOptions { size: THIN_SIZE, most: 0, rate: 0 };
                store.leave_thin(&options, &mut |_| ControlFlow::Continue(()))?;
            }
            Op::Compact { name, max_extents } => {
                let options = CompactOptions { max_extents: *max_extents, rate: 0 };
                self.volume(p, name)?.compact(&options, &mut |_| ControlFlow::Continue(()))?;
            }
            Op::Hash { name } => {
                let hashed = store.hash(name, &HashOptions::default(), &mut |_| true)?;
                let wanted = self.state[name].top_hash();
                if hashed.top_hash != Some(wanted) {
                    return wrong(format!("{name}: the top hash is {wanted}, the store says {hashed:?}"));
                }
            }
            Op::Open { name } => drop(self.volume(p, name)?),
            Op::Close { name } => {
                if let Some(volume) = self.process(p)?.handles.remove(name) {
                    volume.close()?;
                }
            }
            Op::Reader { name } => {
                let map = self.state[name].clone();
                let kept = &mut self.process(p)?.kept;
                if kept.len() >= MAX_KEPT {
                    kept.remove(0);
                }
                let volume = store.open_volume(name, Mode::ReadOnly)?;
                let header = Stock::header(&*self.disk.blocker(), name)?;
                self.process(p)?.kept.push(Kept { volume, map, header });
            }
            Op::ReadKept => {
                for kept in &self.process(p)?.kept {
                    read_all(&kept.volume, &kept.map, "a snapshot that is kept open")?;
                }
            }
            Op::Background => drop(store.run_background()?),
            Op::List => {
                let listed = crate::examine::list(&store, 1 + u64::from(step.stamp) % 7)?;
                let expected = crate::examine::shape(&self.state);
                if listed != expected {
                    return wrong(format!("the store lists {listed:?}, it should be {expected:?}"));
                }
            }
            Op::Audit { name, other } => {
                let free = |n: &str| self.holder(n).is_none_or(|q| q == p);
                if free(name) && free(other) {
                    self.ask(p, &store, step)?;
                    self.diff(&store, name, other)?;
                    self.diff(&store, name, name)?;
                }
            }
            Op::Group { members } => {
                let made = store.snapshot_group(members)?;
                let made: Vec<_> = made.into_iter().map(|info| (info.name, info.kind, info.size)).collect();
                let size = |volume: &String| self.state[volume].size;
                let wanted: Vec<_> = members.iter().map(|(v, name)| (name.clone(), Kind::Snapshot, size(v))).collect();
                if made != wanted {
                    return wrong(format!("took snapshots {made:?}"));
                }
            }
            Op::Collect => {
                let grace = if odd { 0 } else { CollectOptions::default().grace };
                match step.stamp % 5 {
                    1 | 2 if step.fault.is_none() && self.is_sound() => self.collect_beside(p, grace)?,
                    3 if step.fault.is_none() && self.is_sound() => self.collect_stopped(p, grace)?,
                    number => {
                        self.collect(p, grace, number == 0 && step.fault.is_none())?;
                    }
                }
            }
            Op::Check => self.check(p, false)?,
            Op::Scrub => self.scrub(p)?,
            Op::Copy { snapshot, from, name } => {
                // Here only if it found no room before.
                let resume = match store.receive_status(name) {
                    Ok(status) => Some(status.token.parse::<ResumeToken>()?),
                    Err(Error::NotFound(_)) => None,
                    Err(error) => return Err(error.into()),
                };
                let options = SendOptions { from: from.clone(), resume };
                let mut stream = vec![];
                store.send(snapshot, &options, &mut stream, &mut |_| Ok(()))?;
                let mut input = &stream[..];
                let info = store.receive(name, &mut input, &mut |_| Ok(()))?;
                if info.kind != Kind::Snapshot || info.name != *name || !input.is_empty() {
                    return wrong(format!("received {info:?}, {} bytes of the stream left", input.len()));
                }
            }
            Op::Exit => self.exit(p),
            Op::Kill | Op::Pause | Op::Wake | Op::Full { .. } | Op::Room => {}
        }
        Ok(())
    }

    /// The volume open for writing in this process, opened if it was not.
    fn volume(&mut self, p: usize, name: &str) -> Done<Volume> {
        let process = self.process(p)?;
        if let Some(volume) = process.handles.get(name) {
            return Ok(volume.clone());
        }
        let volume = process.store.open_volume(name, Mode::ReadWrite)?;
        process.handles.insert(name.to_string(), volume.clone());
        Ok(volume)
    }

    /// Reads and compares. What is not open is read through a handle of its own; a volume is opened for writing if not `passing`.
    fn read(&mut self, p: usize, name: &str, offset: u64, len: u64, passing: bool) -> Done<()> {
        let volume = self.state[name].kind == Kind::Volume;
        let open = self.process(p)?.handles.get(name).cloned();
        let handle = match open {
            Some(open) => open,
            None if volume && !passing => self.volume(p, name)?,
            None => self.process(p)?.store.open_volume(name, Mode::ReadOnly)?,
        };
        let mut seen = vec![0xa5; len as usize];
        handle.read_at(&mut seen, offset)?;
        match self.state[name].check_range(offset, &seen, After::Nothing, &[]) {
            Ok(()) => Ok(()),
            Err(mismatch) => wrong(crate::examine::describe(name, &self.state[name], &mismatch)),
        }
    }

    /// A check right after a collection, with nothing open and nothing going wrong, finds nothing left over.
    pub fn check_nothing_left(&mut self, p: usize) -> Done<()> {
        let store = self.process(p)?.store.clone();
        let report = store.check(&CheckOptions { grace: 0, ..CheckOptions::default() }, &mut |_| Ok(()))?;
        match report.findings.first() {
            _ if !report.leaks_checked => wrong("the check did not look for leaks".to_string()),
            None => Ok(()),
            Some(finding) => wrong(format!("after a collection check found {finding:?}")),
        }
    }

    /// A check finds no damage, for none was done to what is stored, and nothing that only damage explains.
    pub fn check(&mut self, p: usize, repair: bool) -> Done<()> {
        let store = self.process(p)?.store.clone();
        let options = CheckOptions { repair, grace: 0, ..CheckOptions::default() };
        let report = store.check(&options, &mut |_| Ok(()))?;
        let harmless = |finding: &&Finding| {
            finding.severity == Severity::Leak
                || matches!(
                    finding.kind,
                    FindingKind::Unborn
                        | FindingKind::TornSlot
                        | FindingKind::UnfinishedRemoval
                        | FindingKind::StaleName
                        | FindingKind::UnnamedHeader
                )
        };
        match report.findings.iter().find(|finding| !harmless(finding)) {
            None => Ok(()),
            Some(finding) => wrong(format!("check found {finding:?}")),
        }
    }

    /// A scrub finds nothing wrong, for nothing that is stored was altered; but a collection that was cut short may have taken away what
    /// only a map needed that was removed, and whose header is still there.
    fn scrub(&mut self, p: usize) -> Done<()> {
        let store = self.process(p)?.store.clone();
        let report = store.scrub(&ScrubOptions { rate: None, anywhere: true }, &mut |_| true)?;
        let gone = |finding: &Finding| {
            finding.severity == Severity::Leak && finding.affected.iter().all(|affected| affected.removed)
        };
        let only_gone = report.findings.iter().all(gone) && (report.altered == 0 || !report.findings.is_empty());
        if report.healed + report.unstable + report.broken > 0 || !only_gone {
            return wrong(format!("a scrub found {report:?}"));
        }
        Ok(())
    }

    fn ask(&mut self, p: usize, store: &Store, step: &Step) -> Done<()> {
        let Op::Audit { name, .. } = &step.op else { return Ok(()) };
        let map = self.state[name].clone();
        let handle = match self.process(p)?.handles.get(name).cloned() {
            Some(open) => open,
            None => store.open_volume(name, Mode::ReadOnly)?,
        };
        let offset = u64::from(step.stamp) * 7919 % map.size;
        let max = 1 + step.stamp as usize % 20;
        extents(&handle, &map, offset, map.size - offset, max)?;
        map_extents(store, name, &map)?;
        let info = store.info(name)?;
        let facts = (info.size, info.kind, info.block_size, info.read_only, info.open_by.is_some());
        let open = map.kind == Kind::Volume && self.holder(name).is_some();
        if facts != (map.size, map.kind, map.block, map.kind != Kind::Volume, open) || info.mapped > map.size {
            // In a simulation the record of an owner may be gone with a full disk: nobody is named then.
            if !(self.full && open && info.open_by.is_none()) {
                return wrong(format!("{name}: info {info:?}, open: {open}, size {}", map.size));
            }
        }
        usage(store, name, &map)
    }

    fn diff(&self, store: &Store, a: &str, b: &str) -> Done<()> {
        let (left, right) = (&self.state[a], &self.state[b]);
        if left.block != right.block {
            return match store.diff(a, b, &mut |_| Ok(())) {
                Err(Error::InvalidArgument(_)) => Ok(()),
                Err(error) => Err(error.into()),
                Ok(()) => wrong(format!("{a} to {b}: maps of different block sizes were compared")),
            };
        }
        let mut found = vec![];
        store.diff(a, b, &mut |extent| {
            found.push(extent);
            Ok(())
        })?;
        if a == b && !found.is_empty() {
            return wrong(format!("{a} differs from itself in {found:?}"));
        }
        // A map reads as zeros past its end, for this purpose.
        let mut at = 0;
        let end = right.size;
        for (i, extent) in found.iter().enumerate() {
            if extent.len == 0 || (i > 0 && extent.offset < found[i - 1].offset + found[i - 1].len) {
                return wrong(format!("{a} to {b}: the differences are not in order: {found:?}"));
            }
            let (from, to) = (extent.offset.min(end), (extent.offset + extent.len).min(end));
            if extent.zero && !right.is_zero(from, to - from) {
                return wrong(format!("{a} to {b}: {extent:?} is not zero in {b}"));
            }
            if !right.agrees(left, at, from) {
                return wrong(format!("{a} to {b}: bytes {at} to {from} differ and are not reported: {found:?}"));
            }
            at = to;
        }
        if !right.agrees(left, at, end) {
            return wrong(format!("{a} to {b}: bytes from {at} on differ and are not reported: {found:?}"));
        }
        Ok(())
    }
}

/// Reads all of a handle and compares.
pub fn read_all(volume: &Volume, map: &Map, what: &str) -> Done<()> {
    for (offset, len) in map.written() {
        let mut seen = vec![0; len.min(AT_ONCE) as usize];
        for at in (offset..offset + len).step_by(AT_ONCE as usize) {
            let seen = &mut seen[..AT_ONCE.min(offset + len - at) as usize];
            seen.fill(0xa5);
            volume.read_at(seen, at)?;
            if let Err(mismatch) = map.check_range(at, seen, After::Nothing, &[]) {
                return wrong(crate::examine::describe(what, map, &mismatch));
            }
        }
    }
    Ok(())
}

/// What was discarded takes no room.
fn freed(volume: &Volume, offset: u64, len: u64) -> Done<()> {
    let (offset, len) = whole_sectors(offset, len);
    if len == 0 {
        return Ok(());
    }
    let extents = volume.extents(offset, len, usize::MAX)?;
    match extents[..] {
        [one] if one.zero && one.offset == offset && one.len == len => Ok(()),
        _ => wrong(format!("discarded {len} bytes at {offset}, the extents are {extents:?}")),
    }
}

fn extents(volume: &Volume, map: &Map, offset: u64, len: u64, max: usize) -> Done<()> {
    let found = volume.extents(offset, len, max)?;
    let mut at = offset;
    for (i, extent) in found.iter().enumerate() {
        if extent.offset != at || extent.len == 0 || (i > 0 && found[i - 1].zero == extent.zero) {
            return wrong(format!("extents of {len} bytes at {offset} are {found:?}"));
        }
        if extent.zero && !map.is_zero(extent.offset, extent.len) {
            return wrong(format!("{extent:?} was written with data"));
        }
        at += extent.len;
    }
    if found.len() > max || at > offset + len || (at < offset + len && found.len() < max) {
        return wrong(format!("{max} extents of {len} bytes at {offset} end at {at}: {found:?}"));
    }
    Ok(())
}

fn map_extents(store: &Store, name: &str, map: &Map) -> Done<()> {
    let mut found = vec![];
    store.map_extents(name, 0, u64::MAX, &mut |extent| {
        found.push(extent);
        Ok(())
    })?;
    let mut at = 0;
    for extent in &found {
        if extent.offset != at || extent.len == 0 {
            return wrong(format!("{name}: the map has {extent:?} where byte {at} should follow"));
        }
        at += extent.len;
        if at > map.size || (extent.source == MapSource::Zero && !map.is_zero(extent.offset, extent.len)) {
            return wrong(format!("{name}: the map has {extent:?}, size {}", map.size));
        }
    }
    if at != map.size {
        return wrong(format!("{name}: the map ends at {at}, the size is {}", map.size));
    }
    Ok(())
}

fn usage(store: &Store, name: &str, map: &Map) -> Done<()> {
    let usage = store.usage(name)?;
    // A last sector counts whole or by its bytes; the bounds admit both.
    let most = map.size.next_multiple_of(SECTOR);
    let data = map.data();
    let good = usage.logical == map.size
        && usage.mapped == usage.unique + usage.shared
        && (data..=most).contains(&usage.mapped);
    if !good {
        return wrong(format!("{name}: usage {usage:?}, {data} bytes of data, size {}", map.size));
    }
    Ok(())
}

/// Names, kinds and sizes of one page of a listing after the other.
pub fn pages(store: &Store, limit: u64) -> Done<Vec<(String, Kind, u64)>> {
    let mut options = ListOptions { limit: limit as usize, ..Default::default() };
    let mut listed = vec![];
    loop {
        let page = store.list(&options)?;
        if let Some(entry) = page.damaged.into_iter().next() {
            return Err(Trouble::Engine(Error::damaged(entry.name, entry.message)));
        }
        // What an interrupted stream left is no map yet.
        let entries = page.entries.into_iter().filter(|info| !info.name.ends_with(PARTIAL));
        listed.extend(entries.map(|info| (info.name, info.kind, info.size)));
        match page.next {
            Some(next) => options.after = Some(next),
            None => return Ok(listed),
        }
    }
}
