//! Runs a history on an engine over a simulated disk, and keeps the timeline: which I/O belonged to which call, and
//! what a power cut at each of them may show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::IoSlice;
use std::sync::Arc;

use archipelago_core::blocker::Blocker;
use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::{SimDisk, Syncs};
use archipelago_core::limits::SECTOR;
use archipelago_core::{
    Background, CloneOptions, CreateOptions, Error, InitOptions, Kind, ListOptions, Mode, Store, StoreOptions, Volume,
    WriteFlags,
};

use crate::history::{BLOCK, History, Op, Rng, Step, fill, mix};
use crate::reference::{Allowed, Effect, State, Touched, effect};

/// The two places at which the engine can be cut off from its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seam {
    /// System calls, under the real file backend.
    File,
    /// The blocker interface.
    Memory,
}

/// A disk whose past can be cut at any call.
#[derive(Clone)]
pub enum Disk {
    File(Arc<SimDisk>),
    Memory(Arc<MemoryBlocker>),
}

/// The same call on whichever disk it is.
macro_rules! on_disk {
    ($disk:expr, $inner:ident => $call:expr) => {
        match $disk {
            Disk::File($inner) => $call,
            Disk::Memory($inner) => $call,
        }
    };
}

impl Disk {
    pub fn new(seam: Seam) -> Disk {
        match seam {
            Seam::File => Disk::File(SimDisk::new()),
            Seam::Memory => Disk::Memory(MemoryBlocker::new()),
        }
    }

    pub fn blocker(&self) -> Arc<dyn Blocker> {
        match self {
            Disk::File(disk) => Arc::new(file_blocker(disk)),
            Disk::Memory(blocker) => blocker.clone(),
        }
    }

    /// Makes a store on it.
    pub fn init(&self) -> archipelago_core::Result<()> {
        if let Disk::File(disk) = self {
            file_blocker(disk).make_layout()?;
        }
        Store::init_on(self.blocker(), &InitOptions { block_size: BLOCK, mode: 0o660, group: None })
    }

    /// State-changing calls so far.
    pub fn steps(&self) -> u64 {
        on_disk!(self, d => d.steps())
    }

    /// A disk as a power cut after `step` calls may leave it: seed 0 has what was durable, 1 all that was issued.
    pub fn crash_at(&self, step: u64, seed: u64) -> Disk {
        match self {
            Disk::File(disk) => Disk::File(disk.crash_at(step, seed)),
            Disk::Memory(blocker) => Disk::Memory(blocker.crash_at(step, seed)),
        }
    }

    pub fn drop_syncs(&self, syncs: Syncs) {
        on_disk!(self, d => d.drop_syncs(syncs))
    }

    pub fn fail_at(&self, step: u64, errno: i32) {
        on_disk!(self, d => d.fail_at(step, errno))
    }

    pub fn set_space(&self, total: u64, free: u64) {
        on_disk!(self, d => d.set_space(total, free))
    }

    pub fn forget_history(&self) {
        on_disk!(self, d => d.forget_history())
    }
}

/// The real file backend. Few open files, so that short histories make it close and open some again.
fn file_blocker(disk: &Arc<SimDisk>) -> FileBlocker {
    FileBlocker::new(disk.clone(), FileOptions { max_open_files: 12, ..FileOptions::default() })
}

/// How a history goes wrong while it runs.
#[derive(Debug)]
pub enum Fault {
    /// The engine refused.
    Engine(Error),
    /// The engine gave a wrong answer.
    Wrong(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Engine(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Engine(error) => write!(f, "error: {error}"),
            Fault::Wrong(what) => write!(f, "{what}"),
        }
    }
}

fn wrong<T>(what: String) -> Result<T, Fault> {
    Err(Fault::Wrong(what))
}

/// One call: the step counter around it, and what it did.
struct Span {
    step: Step,
    before: u64,
    after: u64,
    during: Allowed,
    done: State,
}

/// Where in a timeline a cut falls.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// Before the first operation.
    Start,
    /// Inside an operation.
    During(&'a Step),
    /// After an operation returned, before the next.
    After(&'a Step),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Start => write!(f, "before the first operation"),
            Place::During(step) => write!(f, "during {step}"),
            Place::After(step) => write!(f, "after {step}"),
        }
    }
}

/// Options under which every store of these tests runs: deterministic, single-threaded, with small journals.
pub fn store_options(seed: u64) -> StoreOptions {
    StoreOptions {
        node_cache: 1 << 20,
        background: Background::Manual,
        max_unfolded: 1 << 20,
        first_segment: 64 << 10,
        direct: false,
        seed: Some(seed),
    }
}

/// Makes a store on a new disk.
pub fn new_disk(seam: Seam) -> Result<Disk, Fault> {
    let disk = Disk::new(seam);
    disk.init()?;
    Ok(disk)
}

/// An engine at work, and beside it the reference.
pub struct Live {
    pub disk: Disk,
    pub state: State,
    pub touched: Touched,
    pub seed: u64,
    store: Option<Store>,
    handles: BTreeMap<String, Volume>,
    start: State,
    timeline: Vec<Span>,
    /// Step counter at which the timeline begins.
    pub base: u64,
    /// Keep a timeline? A long history without cuts would fill the memory with it.
    record: bool,
    /// Always close volumes with a call that reports errors, never by dropping the last handle.
    pub careful: bool,
}

impl Live {
    /// Opens the store of a disk on which nothing was done yet.
    pub fn start(disk: Disk, seed: u64, record: bool) -> Result<Live, Fault> {
        disk.forget_history();
        let base = disk.steps();
        let store = Store::open_on(disk.blocker(), store_options(mix(seed, 10)))?;
        Ok(Live::resume(disk, store, State::new(), Touched::default(), seed, base, record))
    }

    /// Goes on with a store that was found in `state`; I/O since step `base` has not changed it.
    pub fn resume(
        disk: Disk,
        store: Store,
        state: State,
        touched: Touched,
        seed: u64,
        base: u64,
        record: bool,
    ) -> Live {
        let (handles, timeline) = (BTreeMap::new(), vec![]);
        let (start, store, careful) = (state.clone(), Some(store), false);
        Live { disk, state, touched, seed, store, handles, start, timeline, base, record, careful }
    }

    /// Runs a whole history, then compares everything.
    pub fn run(&mut self, history: &History) -> Result<(), String> {
        for step in &history.steps {
            self.apply(step).map_err(|e| format!("{step}: {e}"))?;
        }
        self.check_all().map_err(|e| format!("at the end of the live run: {e}"))
    }

    /// Does one operation and enters it in the timeline. `false`: it makes no sense here and was passed over.
    ///
    /// After an error the reference is as before.
    pub fn apply(&mut self, step: &Step) -> Result<bool, Fault> {
        let Some(effect) = self.effect_of(step) else { return Ok(false) };
        let before = self.disk.steps();
        self.touched.add(&step.op);
        self.perform(step)?;
        let after = self.disk.steps();
        let mut effect = effect;
        self.observe_tail(step, &mut effect)?;
        if self.record {
            let done = effect.after.clone();
            self.timeline.push(Span { step: step.clone(), before, after, during: effect.during, done });
        } else {
            self.disk.forget_history();
        }
        self.state = effect.after;
        Ok(true)
    }

    /// What the reference says of an operation in the present state.
    pub fn effect_of(&self, step: &Step) -> Option<Effect> {
        let open: BTreeSet<String> =
            self.handles.iter().filter(|(_, v)| !v.read_only()).map(|(n, _)| n.clone()).collect();
        effect(&self.state, step, self.seed, &open)
    }

    /// What a cut after `step` calls may show, and the call that it fell into.
    pub fn allowed_at(&self, step: u64) -> (Allowed, Place<'_>) {
        if let Some(span) = self.timeline.iter().find(|s| s.before < step && step < s.after) {
            return (span.during.clone(), Place::During(&span.step));
        }
        match self.timeline.iter().rev().find(|s| s.after <= step) {
            Some(span) => (Allowed::just(&span.done), Place::After(&span.step)),
            None => (Allowed::just(&self.start), Place::Start),
        }
    }

    pub fn store(&self) -> Result<Store, Fault> {
        self.store.clone().ok_or(Fault::Wrong("the test lost its store".to_string()))
    }

    /// The open volume, opened if it was not: read-write if it is one.
    pub fn volume(&mut self, name: &str) -> Result<Volume, Fault> {
        if let Some(volume) = self.handles.get(name) {
            return Ok(volume.clone());
        }
        let mode = match self.state[name].kind {
            Kind::Volume => Mode::ReadWrite,
            _ => Mode::ReadOnly,
        };
        let volume = self.store()?.open_volume(name, mode)?;
        self.handles.insert(name.to_string(), volume.clone());
        Ok(volume)
    }

    /// A flush that is no part of the history succeeded.
    pub fn settle(&mut self, name: &str) {
        if let Some(map) = self.state.get_mut(name) {
            map.settle();
        }
    }

    /// Opens each map with an even chance.
    pub fn open_some(&mut self, rng: &mut Rng) -> Result<(), Fault> {
        for name in self.state.keys().cloned().collect::<Vec<_>>() {
            if rng.one_in(2) {
                self.volume(&name)?;
            }
        }
        Ok(())
    }

    /// Gives up all handles and the store without closing them one by one.
    pub fn abandon(&mut self) {
        self.handles.clear();
        self.store = None;
    }

    fn perform(&mut self, step: &Step) -> Result<(), Fault> {
        let odd = step.stamp % 2 == 1;
        match &step.op {
            Op::Create { name, size, block } => {
                let info = self.store()?.create(name, &CreateOptions { size: *size, block_size: Some(*block) })?;
                if (info.size, info.block_size) != (*size, *block) || info.name != *name || info.kind != Kind::Volume {
                    return wrong(format!("created {info:?}"));
                }
            }
            Op::Write { name, offset, len, fua } => {
                let volume = self.volume(name)?;
                let mut bytes = vec![0; *len as usize];
                fill(self.seed, step.stamp, *offset, &mut bytes);
                let (first, second) = bytes.split_at(bytes.len() / (1 + step.stamp as usize % 3));
                volume.write(&[IoSlice::new(first), IoSlice::new(second)], *offset, WriteFlags { fua: *fua })?;
            }
            Op::Scatter { name, offset, count } => {
                let volume = self.volume(name)?;
                for at in (0..*count).map(|i| offset + i * 2 * SECTOR) {
                    let mut bytes = [0; SECTOR as usize];
                    fill(self.seed, step.stamp, at, &mut bytes);
                    volume.write_at(&bytes, at)?;
                }
            }
            Op::Zeroes { name, offset, len, allocate, fua } => {
                self.volume(name)?.write_zeroes(*offset, *len, *allocate, WriteFlags { fua: *fua })?;
            }
            Op::Discard { name, offset, len } => self.volume(name)?.discard(*offset, *len)?,
            Op::Flush { name } => self.volume(name)?.flush()?,
            Op::Read { name, offset, len } => self.read(name, *offset, *len, odd)?,
            Op::Snapshot { volume, name } => {
                let info = match self.handles.get(volume) {
                    Some(open) if odd => open.snapshot(name)?,
                    _ => self.store()?.snapshot(volume, name)?,
                };
                if info.size != self.state[volume].size() || info.kind != Kind::Snapshot || info.name != *name {
                    return wrong(format!("took snapshot {info:?}"));
                }
            }
            Op::Clone { snapshot, name, size } => {
                let info = self.store()?.clone_snapshot(snapshot, name, &CloneOptions { size: *size })?;
                if info.size != size.unwrap_or(self.state[snapshot].size()) || info.kind != Kind::Volume {
                    return wrong(format!("made clone {info:?}"));
                }
            }
            Op::CloneMany { snapshot, names } => {
                self.store()?.clone_many(snapshot, names, &CloneOptions::default())?;
            }
            Op::Remove { name } => {
                if let Some(volume) = self.handles.remove(name) {
                    match self.store()?.remove(name) {
                        Err(Error::Busy(_)) => {}
                        // A reader keeps what it reads.
                        Ok(()) if volume.read_only() => {
                            let mut seen = vec![0xa5; self.state[name].live.len()];
                            volume.read_at(&mut seen, 0)?;
                            if seen != *self.state[name].live {
                                return wrong("a snapshot that was removed while it was open changed".to_string());
                            }
                            return Ok(());
                        }
                        Ok(()) => return wrong("a volume that is open for writing was removed".to_string()),
                        Err(e) => return Err(e.into()),
                    }
                    volume.close()?;
                }
                self.store()?.remove(name)?;
            }
            Op::Rename { old, new } => {
                match self.handles.remove(old) {
                    Some(open) => {
                        if odd && self.state[old].kind == Kind::Volume {
                            open.rename(new)?;
                        } else {
                            self.store()?.rename(old, new)?;
                        }
                        // A reader of a snapshot is not told.
                        if !open.read_only() && open.name() != *new {
                            return wrong(format!("renamed to {new} but the handle says {}", open.name()));
                        }
                        self.handles.insert(new.clone(), open);
                    }
                    None => self.store()?.rename(old, new)?,
                };
            }
            Op::Resize { name, size } => {
                let shrink = *size < self.state[name].size();
                match self.handles.get(name) {
                    Some(open) if odd => open.resize(*size, shrink)?,
                    _ => self.store()?.resize(name, *size, shrink)?,
                }
                if let Some(open) = self.handles.get(name)
                    && open.size() != *size
                {
                    return wrong(format!("resized to {size} but the handle says {}", open.size()));
                }
            }
            Op::Checkpoint { name } => self.volume(name)?.checkpoint()?,
            Op::Close { name } => {
                if let Some(volume) = self.handles.remove(name) {
                    volume.close()?;
                }
            }
            Op::Reopen => {
                if odd || self.careful {
                    for volume in std::mem::take(&mut self.handles).into_values() {
                        volume.close()?;
                    }
                }
                self.abandon();
                let seed = mix(self.seed, 1000 + u64::from(step.stamp));
                self.store = Some(Store::open_on(self.disk.blocker(), store_options(seed))?);
            }
            Op::Background => {
                self.store()?.run_background()?;
            }
        }
        Ok(())
    }

    /// Reads and compares. A volume that is closed is read through a read-only handle if `passing`, and stays closed.
    fn read(&mut self, name: &str, offset: u64, len: u64, passing: bool) -> Result<(), Fault> {
        let volume = match self.handles.get(name) {
            None if passing => self.store()?.open_volume(name, Mode::ReadOnly)?,
            _ => self.volume(name)?,
        };
        let mut seen = vec![0xa5; len as usize];
        volume.read_at(&mut seen, offset)?;
        let expected = &self.state[name].live[offset as usize..(offset + len) as usize];
        if seen == *expected {
            return Ok(());
        }
        match seen.iter().zip(expected).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => wrong(format!(
                "{name}: byte {} reads {:#04x}, written was {:#04x}",
                offset + at as u64,
                seen[at],
                expected[at]
            )),
        }
    }

    /// Compares all maps where anything was ever written.
    pub fn check_touched(&mut self) -> Result<(), Fault> {
        for name in self.state.keys().cloned().collect::<Vec<_>>() {
            for (offset, len) in self.touched.ranges(self.state[&name].size()) {
                self.read(&name, offset, len, true)?;
            }
        }
        Ok(())
    }

    /// After a refused operation: every map is there as it was, but for the range that it was to write.
    pub fn check_untouched(&mut self, step: &Step) -> Result<(), Fault> {
        let (of, from, to) = match &step.op {
            Op::Scatter { name, .. } => (name.as_str(), 0, self.state[name].size()),
            Op::Write { name, offset, len, .. }
            | Op::Zeroes { name, offset, len, .. }
            | Op::Discard { name, offset, len } => (name.as_str(), *offset, offset + len),
            _ => ("", 0, 0),
        };
        let page = self.store()?.list(&ListOptions::default())?;
        let listed: Vec<(String, u64)> = page.entries.into_iter().map(|i| (i.name, i.size)).collect();
        let expected: Vec<(String, u64)> = self.state.iter().map(|(n, m)| (n.clone(), m.size())).collect();
        if listed != expected {
            return wrong(format!("the store lists {listed:?}, it should be {expected:?}"));
        }
        for (name, size) in expected {
            let parts = if name == of { vec![(0, from), (to, size)] } else { vec![(0, size)] };
            for (start, end) in parts {
                self.read(&name, start, end - start, true)?;
            }
        }
        Ok(())
    }

    /// Compares all maps, byte for byte, with the reference.
    pub fn check_all(&mut self) -> Result<(), Fault> {
        for name in self.state.keys().cloned().collect::<Vec<_>>() {
            let size = self.state[&name].size();
            self.read(&name, 0, size, true)?;
        }
        Ok(())
    }

    /// A last sector that the volume's end cuts short may or may not count as whole: the engine says which by what it reads.
    fn observe_tail(&mut self, step: &Step, effect: &mut Effect) -> Result<(), Fault> {
        let Op::Discard { name, offset, len } = &step.op else { return Ok(()) };
        let size = self.state[name].size();
        let tail = size / SECTOR * SECTOR;
        if tail == size || offset + len != size || *offset > tail {
            return Ok(());
        }
        let zeros = vec![0; (size - tail) as usize];
        let mut seen = zeros.clone();
        self.volume(name)?.read_at(&mut seen, tail)?;
        if seen == zeros {
            for state in effect.during.states.iter_mut().chain([&mut effect.after]) {
                if let Some(map) = state.get_mut(name) {
                    map.write(tail, &zeros);
                }
            }
        }
        Ok(())
    }
}
