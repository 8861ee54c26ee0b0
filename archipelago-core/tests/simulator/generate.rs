//! Makes histories: a weighted choice of operations, and now and then something that goes wrong.

use std::fmt;

use archipelago_core::blocker::sim::Random;
use archipelago_core::limits::{ATOM, MAX_LOGGED_WRITE, SECTOR};

use crate::history::{BLOCK, Fault, LARGE_BLOCK, Op, PROCESSES, Step, THIN, Then, mix};

/// Largest size of most volumes, in blocks.
const MAX_BLOCKS: u64 = 8;
/// Blocks of a few volumes besides.
const WIDE_BLOCKS: u64 = 140;
/// Volumes and snapshots at a time.
const MAX_MAPS: usize = 12;
/// Sectors of one [`Op::Scatter`]: more than the extents of a block.
const SCATTERED: u64 = 70;

/// Operations and the seed they came from.
#[derive(Clone, Debug)]
pub struct History {
    pub seed: u64,
    pub steps: Vec<Step>,
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "    {step}"))
    }
}

impl History {
    /// The history of `count` operations with this seed.
    pub fn new(seed: u64, count: usize) -> History {
        let mut generator = Generator::new(seed);
        let steps = (0..count)
            .map(|stamp| {
                let (process, op) = generator.next();
                let fault = generator.fault(&op);
                Step { stamp: stamp as u32, process, op, fault }
            })
            .collect();
        History { seed, steps }
    }
}

/// Makes an operation of one kind.
type Kind = fn(&mut Generator) -> Op;

/// Weight and maker of each kind of operation. A maker may give another kind when its own makes no sense yet.
const KINDS: &[(u64, Kind)] = &[
    (340, Generator::write),
    (4, Generator::scatter),
    (25, Generator::twin),
    (60, |g| Op::Flush { name: g.volume().0 }),
    (45, Generator::discard),
    (45, Generator::zeroes),
    (90, Generator::read),
    (70, Generator::snapshot),
    (60, Generator::clone_snapshot),
    (12, Generator::clone_many),
    (30, Generator::remove),
    (25, Generator::rename),
    (35, Generator::resize),
    (20, |g| Op::Checkpoint { name: g.volume().0 }),
    (15, Generator::compact),
    (12, Generator::hash),
    (15, |g| Op::Open { name: g.volume().0 }),
    (25, |g| Op::Close { name: g.volume().0 }),
    (15, Generator::reader),
    (20, |_| Op::ReadKept),
    (30, |_| Op::Background),
    (10, |_| Op::List),
    (25, Generator::audit),
    (4, |_| Op::Check),
    (12, |_| Op::Scrub),
    (12, |_| Op::Collect),
    (12, Generator::copy),
    (14, Generator::group),
    (8, Generator::create),
    (6, |_| Op::Exit),
    (4, |_| Op::Kill),
    (6, Generator::pause),
    (3, Generator::full),
];

/// What the generator knows of the store that its operations would make.
struct Generator {
    rng: Random,
    /// Name, size, and the process that most likely has it open.
    volumes: Vec<(String, u64, usize)>,
    snapshots: Vec<(String, u64)>,
    /// Names given up, to be taken again.
    free: Vec<String>,
    /// Offsets used before: overlaps are where the bugs are.
    hot: Vec<u64>,
    named: u32,
    /// Who is stopped, and for how many operations yet.
    paused: Option<(usize, u32)>,
    /// Operations until there is room again.
    full: Option<u32>,
    /// Process of the operation being made.
    process: usize,
    total: u64,
}

impl Generator {
    fn new(seed: u64) -> Generator {
        Generator {
            rng: Random::new(mix(seed, 1)),
            volumes: vec![],
            snapshots: vec![],
            free: vec![],
            hot: vec![0],
            named: 0,
            paused: None,
            full: None,
            process: 0,
            total: KINDS.iter().map(|(weight, _)| weight).sum(),
        }
    }

    fn pick<'a, T>(rng: &mut Random, from: &'a [T]) -> &'a T {
        &from[rng.below(from.len() as u64) as usize]
    }

    fn next(&mut self) -> (usize, Op) {
        if let Some((who, left)) = self.paused {
            self.paused = (left > 0).then(|| (who, left - 1));
            if left == 0 {
                return (who, Op::Wake);
            }
        }
        if let Some(left) = self.full {
            self.full = (left > 0).then(|| left - 1);
            if left == 0 {
                return (0, Op::Room);
            }
        }
        self.process = self.rng.below(PROCESSES as u64) as usize;
        let op = if self.volumes.is_empty() {
            self.create()
        } else if self.volumes.len() + self.snapshots.len() >= MAX_MAPS {
            self.remove()
        } else {
            let mut at = self.rng.below(self.total);
            let kind = KINDS.iter().find(|(weight, _)| {
                let found = at < *weight;
                at = at.saturating_sub(*weight);
                found
            });
            kind.map_or(Op::List, |(_, make)| make(self))
        };
        if let Some((who, _)) = self.paused
            && who == self.process
            && op != Op::Pause
        {
            self.process = (who + 1) % PROCESSES;
        }
        (self.process, op)
    }

    /// What goes wrong during an operation, if anything.
    fn fault(&mut self, op: &Op) -> Option<Fault> {
        if matches!(op, Op::Pause | Op::Wake | Op::Kill | Op::Full { .. } | Op::Room) {
            return None;
        }
        let rng = &mut self.rng;
        // Early calls more often than late ones: most operations make few.
        let call = |rng: &mut Random| {
            let most = 1 << (1 + rng.below(5));
            1 + rng.below(most) as u32
        };
        // Where one call after the other must become durable in its order.
        let ordered = matches!(
            op,
            Op::Snapshot { .. }
                | Op::Group { .. }
                | Op::Checkpoint { .. }
                | Op::Close { .. }
                | Op::Flush { .. }
                | Op::Background
                | Op::Collect
                | Op::Scrub
                | Op::Compact { .. }
                | Op::Hash { .. }
                | Op::Exit
                | Op::Resize { .. }
                | Op::Rename { .. }
                | Op::Remove { .. }
                | Op::CloneMany { .. }
        );
        let dice = if ordered && rng.one_in(40) { 0 } else { rng.below(1000) };
        match dice {
            0..10 => {
                let at = match rng.below(4) {
                    0 => 1000,
                    _ => rng.below(1001) as u16,
                };
                let seed = match rng.below(8) {
                    0 => 0,
                    1 => 1,
                    _ => 2 + rng.below(1_000_000),
                };
                let again = match rng.below(6) {
                    0 => 2,
                    1 | 2 => 1,
                    _ => 0,
                };
                let tries = if ordered { 6 } else { rng.below(4) as u8 };
                Some(Fault::Cut { at, seed, again, tries })
            }
            10..18 => Some(Fault::Kill { call: call(rng) }),
            18..26 => {
                let then = *Self::pick(rng, &[Then::Cut, Then::Kill, Then::Close]);
                Some(Fault::Io { call: call(rng), then })
            }
            26..30 => Some(Fault::ReadError { call: call(rng) }),
            30..36 => Some(Fault::Corrupt { call: call(rng), bit: rng.next_u64() as u32, misdirected: rng.one_in(3) }),
            _ => None,
        }
    }

    /// A volume; the process that has it open does the operation, mostly.
    fn volume(&mut self) -> (String, u64) {
        let at = self.rng.below(self.volumes.len() as u64) as usize;
        let (name, size, user) = self.volumes[at].clone();
        match self.rng.below(12) {
            // A handover, or an attempt at one.
            0 => self.volumes[at].2 = self.process,
            _ => self.process = user,
        }
        (name, size)
    }

    fn name(&mut self, kind: &str) -> String {
        if !self.free.is_empty() && self.rng.one_in(3) {
            let at = self.rng.below(self.free.len() as u64) as usize;
            return self.free.swap_remove(at);
        }
        self.named += 1;
        format!("{kind}-{:03}", self.named)
    }

    fn size(&mut self) -> u64 {
        let blocks = match self.rng.below(8) {
            0 => return 1 + self.rng.below(3 * SECTOR),
            1..7 => 1 + self.rng.below(3),
            _ => 1 + self.rng.below(MAX_BLOCKS),
        };
        let short = match self.rng.below(5) {
            0 => self.rng.below(BLOCK),
            1 => ATOM as u64 * self.rng.below(20),
            2 => SECTOR * self.rng.below(16),
            _ => 0,
        };
        blocks * BLOCK - short
    }

    /// An offset below `size`, of one of the alignments that the engine treats differently.
    fn offset(&mut self, size: u64) -> u64 {
        let near = |rng: &mut Random, at: u64| {
            let by = *Self::pick(rng, &[0, 1, 100, ATOM as u64, SECTOR, 3 * SECTOR, MAX_LOGGED_WRITE as u64]);
            if rng.one_in(2) { at.saturating_sub(by) } else { at + by }
        };
        let at = match self.rng.below(8) {
            0..4 => {
                let hot = *Self::pick(&mut self.rng, &self.hot);
                near(&mut self.rng, hot)
            }
            4 => {
                let boundary = BLOCK * self.rng.below(size.div_ceil(BLOCK));
                near(&mut self.rng, boundary)
            }
            5 => near(&mut self.rng, size),
            6 => self.rng.below(size) / SECTOR * SECTOR,
            _ => self.rng.below(size),
        };
        let at = if at < size { at } else { self.rng.below(size) };
        if self.hot.len() < 64 {
            self.hot.push(at);
        }
        at
    }

    fn len(&mut self) -> u64 {
        match self.rng.below(24) {
            0..5 => 1 + self.rng.below(ATOM as u64),
            5..9 => ATOM as u64 * (1 + self.rng.below(8)),
            9..14 => SECTOR * (1 + self.rng.below(4)),
            14 => 1 + self.rng.below(MAX_LOGGED_WRITE as u64),
            15 => MAX_LOGGED_WRITE as u64 - 1 + self.rng.below(3),
            16 => MAX_LOGGED_WRITE as u64 + 1 + self.rng.below(BLOCK),
            17 => BLOCK,
            18 => BLOCK + self.rng.below(BLOCK),
            _ => SECTOR,
        }
    }

    fn range(&mut self) -> (String, u64, u64) {
        let (name, size) = self.volume();
        let mut offset = self.offset(size);
        let len = self.len();
        if len >= BLOCK && self.rng.one_in(2) {
            offset = offset / BLOCK * BLOCK;
        } else if self.rng.one_in(3) {
            offset = offset / SECTOR * SECTOR;
        }
        (name, offset, len.min(size - offset))
    }

    fn write(&mut self) -> Op {
        let (name, offset, len) = self.range();
        Op::Write { name, offset, len, fua: self.rng.one_in(8) }
    }

    fn twin(&mut self) -> Op {
        let (name, size) = self.volume();
        let blocks = size / BLOCK;
        if blocks == 0 {
            return self.write();
        }
        let offset = self.rng.below(blocks);
        let count = 1 + self.rng.below((blocks - offset).min(3));
        Op::Twin { name, offset: offset * BLOCK, count, content: self.rng.below(2) as u32 }
    }

    fn discard(&mut self) -> Op {
        let (name, offset, len) = self.range();
        Op::Discard { name, offset, len }
    }

    fn zeroes(&mut self) -> Op {
        let (name, offset, len) = self.range();
        Op::Zeroes { name, offset, len, allocate: self.rng.one_in(2), fua: self.rng.one_in(5) }
    }

    fn scatter(&mut self) -> Op {
        let (name, size) = self.volume();
        if size <= LARGE_BLOCK {
            return self.write();
        }
        let offset = SECTOR * self.rng.below(16);
        let count = ((size - offset) / (2 * SECTOR)).min(SCATTERED);
        Op::Scatter { name, offset, count }
    }

    fn read(&mut self) -> Op {
        if !self.snapshots.is_empty() && self.rng.one_in(2) {
            let (name, size) = Self::pick(&mut self.rng, &self.snapshots).clone();
            let offset = self.offset(size);
            return Op::Read { name, offset, len: self.len().min(size - offset) };
        }
        let (name, offset, len) = self.range();
        Op::Read { name, offset, len }
    }

    fn create(&mut self) -> Op {
        let (name, size) = (self.name("vol"), self.size());
        let (size, block) = match self.rng.below(24) {
            0..3 => (size + LARGE_BLOCK, LARGE_BLOCK),
            // More blocks than a leaf has entries: a tree of two levels.
            3..5 => (size + WIDE_BLOCKS * BLOCK, BLOCK),
            _ => (size, BLOCK),
        };
        self.volumes.push((name.clone(), size, self.process));
        Op::Create { name, size, block }
    }

    fn snapshot(&mut self) -> Op {
        let (volume, size) = self.volume();
        let name = self.name("snap");
        self.snapshots.push((name.clone(), size));
        Op::Snapshot { volume, name }
    }

    fn clone_snapshot(&mut self) -> Op {
        if self.snapshots.is_empty() {
            return self.snapshot();
        }
        let (snapshot, size) = Self::pick(&mut self.rng, &self.snapshots).clone();
        let name = self.name("clone");
        let larger = self.rng.one_in(4).then(|| size + self.rng.below(2 * BLOCK));
        self.volumes.push((name.clone(), larger.unwrap_or(size), self.process));
        Op::Clone { snapshot, name, size: larger }
    }

    fn clone_many(&mut self) -> Op {
        if self.snapshots.is_empty() {
            return self.snapshot();
        }
        let (snapshot, size) = Self::pick(&mut self.rng, &self.snapshots).clone();
        // Past four the backend syncs the whole file system instead of each header.
        let count = if self.rng.one_in(4) { 5 } else { 1 + self.rng.below(3) };
        let names: Vec<String> = (0..count).map(|_| self.name("many")).collect();
        let process = self.process;
        self.volumes.extend(names.iter().map(|n| (n.clone(), size, process)));
        Op::CloneMany { snapshot, names }
    }

    fn remove(&mut self) -> Op {
        let of_volume = self.snapshots.is_empty() || (self.volumes.len() > 1 && self.rng.one_in(2));
        let name = if of_volume {
            let at = self.rng.below(self.volumes.len() as u64) as usize;
            let (name, _, user) = self.volumes.swap_remove(at);
            self.process = user;
            name
        } else {
            let at = self.rng.below(self.snapshots.len() as u64) as usize;
            self.snapshots.swap_remove(at).0
        };
        self.free.push(name.clone());
        Op::Remove { name }
    }

    fn rename(&mut self) -> Op {
        let new = self.name("name");
        let old = if self.snapshots.is_empty() || self.rng.one_in(2) {
            let at = self.rng.below(self.volumes.len() as u64) as usize;
            self.process = self.volumes[at].2;
            std::mem::replace(&mut self.volumes[at].0, new.clone())
        } else {
            let at = self.rng.below(self.snapshots.len() as u64) as usize;
            std::mem::replace(&mut self.snapshots[at].0, new.clone())
        };
        self.free.push(old.clone());
        Op::Rename { old, new }
    }

    fn resize(&mut self) -> Op {
        let at = self.rng.below(self.volumes.len() as u64) as usize;
        let (name, old, user) = self.volumes[at].clone();
        let size = match self.rng.below(4) {
            0 => self.size(),
            1 => old + 1 + self.rng.below(BLOCK),
            _ => (old - self.rng.below(old.min(BLOCK))).max(1),
        };
        self.volumes[at].1 = size;
        self.process = user;
        Op::Resize { name, size }
    }

    fn compact(&mut self) -> Op {
        let name = self.volume().0;
        Op::Compact { name, max_extents: self.rng.below(1 + THIN as u64) as usize }
    }

    fn hash(&mut self) -> Op {
        match self.snapshots.is_empty() {
            true => self.snapshot(),
            false => Op::Hash { name: Self::pick(&mut self.rng, &self.snapshots).0.clone() },
        }
    }

    fn reader(&mut self) -> Op {
        match self.snapshots.is_empty() {
            true => self.snapshot(),
            false => Op::Reader { name: Self::pick(&mut self.rng, &self.snapshots).0.clone() },
        }
    }

    fn audit(&mut self) -> Op {
        let (name, _) = self.volume();
        let others: Vec<&String> =
            self.snapshots.iter().map(|s| &s.0).chain(self.volumes.iter().map(|v| &v.0)).collect();
        let other = (*Self::pick(&mut self.rng, &others)).clone();
        Op::Audit { name, other }
    }

    fn copy(&mut self) -> Op {
        if self.snapshots.is_empty() {
            return self.snapshot();
        }
        let (snapshot, size) = Self::pick(&mut self.rng, &self.snapshots).clone();
        let from = self.rng.one_in(2).then(|| Self::pick(&mut self.rng, &self.snapshots).0.clone());
        let name = self.name("copy");
        self.snapshots.push((name.clone(), size));
        Op::Copy { snapshot, from, name }
    }

    fn group(&mut self) -> Op {
        let mut members: Vec<(String, String)> = vec![];
        for _ in 0..1 + self.rng.below(3) {
            let (volume, size) = self.volume();
            if members.iter().all(|(other, _)| *other != volume) {
                let name = self.name("group");
                self.snapshots.push((name.clone(), size));
                members.push((volume, name));
            }
        }
        Op::Group { members }
    }

    fn pause(&mut self) -> Op {
        if self.paused.is_some() {
            return Op::List;
        }
        self.paused = Some((self.process, 5 + self.rng.below(40) as u32));
        Op::Pause
    }

    fn full(&mut self) -> Op {
        if self.full.is_some() {
            return Op::List;
        }
        self.full = Some(5 + self.rng.below(30) as u32);
        // Small file systems keep a small reserve, so that writes get to feel the end itself.
        let total = *Self::pick(&mut self.rng, &[1 << 40, 8 << 20, 1 << 20]);
        Op::Full { total, free: self.rng.below(200 << 10) }
    }
}
