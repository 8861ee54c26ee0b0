//! Seeded histories: what is done to a store, decided before it is done, so that a number replays it.
//!
//! Operations are concrete (names, offsets, lengths). When some of them are left out to shrink a failing history, those
//! that make no sense any more are passed over by the runner.

use std::fmt;

use archipelago_core::limits::{ATOM, MAX_LOGGED_WRITE, SECTOR};

/// Block size of the stores under test: the smallest, so that few bytes cross many blocks.
pub const BLOCK: u64 = 64 << 10;
/// Largest volume of a history.
const MAX_BLOCKS: u64 = 16;
/// Block size of some volumes: large enough that a block can have more extents than its map may keep.
const LARGE_BLOCK: u64 = 1 << 20;
/// Sectors of one [`Op::Scatter`]: more than the extents of a block.
const SCATTERED: u64 = 70;
/// Length of a chain of clones: more than the journals that a header can name.
const CHAIN: u32 = 10;

/// splitmix64: small, well mixed from any seed, and stable for ever, which a crate's generator is not.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// Two numbers into one that depends on both.
pub fn mix(a: u64, b: u64) -> u64 {
    Rng::new(a ^ b.wrapping_mul(0xd6e8_feb8_6659_fd93)).next()
}

/// Fills `buf` with what write number `stamp` puts at `offset`: every atom of every write is different, but some
/// writes have atoms of zeros, which torn records and sparse files treat in ways of their own.
pub fn fill(seed: u64, stamp: u32, offset: u64, buf: &mut [u8]) {
    let key = mix(seed, u64::from(stamp));
    let zeros = match key % 10 {
        0 => 1,
        1 | 2 => 3,
        _ => u64::MAX,
    };
    let (mut at, end) = (offset, offset + buf.len() as u64);
    while at < end {
        let stop = (at / 8 * 8 + 8).min(end);
        let blank = zeros != u64::MAX && mix(key, at / ATOM as u64).is_multiple_of(zeros);
        let word = if blank { 0 } else { mix(key, at / 8) };
        let (from, len) = ((at % 8) as usize, (stop - at) as usize);
        buf[(at - offset) as usize..][..len].copy_from_slice(&word.to_le_bytes()[from..from + len]);
        at = stop;
    }
}

/// One thing done to a store.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Create {
        name: String,
        size: u64,
        block: u64,
    },
    Write {
        name: String,
        offset: u64,
        len: u64,
        fua: bool,
    },
    Zeroes {
        name: String,
        offset: u64,
        len: u64,
        allocate: bool,
        fua: bool,
    },
    Discard {
        name: String,
        offset: u64,
        len: u64,
    },
    /// Writes every other sector from `offset` on, `count` of them, one by one.
    Scatter {
        name: String,
        offset: u64,
        count: u64,
    },
    Flush {
        name: String,
    },
    Read {
        name: String,
        offset: u64,
        len: u64,
    },
    Snapshot {
        volume: String,
        name: String,
    },
    Clone {
        snapshot: String,
        name: String,
        size: Option<u64>,
    },
    CloneMany {
        snapshot: String,
        names: Vec<String>,
    },
    Remove {
        name: String,
    },
    Rename {
        old: String,
        new: String,
    },
    Resize {
        name: String,
        size: u64,
    },
    Checkpoint {
        name: String,
    },
    Close {
        name: String,
    },
    /// Gives up every handle and the store, and opens it again.
    Reopen,
    Background,
}

/// An operation and its number, which stays the same when others are dropped: it names what the operation writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub stamp: u32,
    pub op: Op,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {:?}", self.stamp, self.op)
    }
}

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
    /// A history short enough to cut after each of its I/Os: 6 to 15 operations, or one of few forms that need more.
    pub fn short(seed: u64) -> History {
        let mut rng = Rng::new(mix(seed, 1));
        if rng.one_in(24) {
            return History::chain(seed, rng);
        }
        let count = 6 + rng.below(9);
        History::generate(seed, rng, count, 8)
    }

    /// A history of `count` operations with at most `maps` volumes and snapshots at a time.
    pub fn long(seed: u64, count: u64, maps: usize) -> History {
        History::generate(seed, Rng::new(mix(seed, 2)), count, maps)
    }

    /// The same with only the operations of these stamps.
    pub fn keep(&self, stamps: &[u32]) -> History {
        let steps = self.steps.iter().filter(|s| stamps.contains(&s.stamp)).cloned().collect();
        History { seed: self.seed, steps }
    }

    /// Clones of snapshots of clones, each written a little, none of them closed: the longest list of journals.
    fn chain(seed: u64, rng: Rng) -> History {
        let mut generator = Generator::new(rng, 64);
        let mut ops = vec![generator.create()];
        for _ in 0..CHAIN {
            ops.push(generator.write());
            ops.push(generator.snapshot());
            // Only the newest volume goes on.
            let (snapshot, size) = generator.snapshots[generator.snapshots.len() - 1].clone();
            let name = generator.name("clone");
            generator.volumes = vec![(name.clone(), size)];
            ops.push(Op::Clone { snapshot, name, size: None });
        }
        let steps = ops.into_iter().enumerate().map(|(i, op)| Step { stamp: i as u32, op }).collect();
        History { seed, steps }
    }

    fn generate(seed: u64, rng: Rng, count: u64, maps: usize) -> History {
        let mut generator = Generator::new(rng, maps);
        let mut steps: Vec<Step> =
            (0..count).map(|stamp| Step { stamp: stamp as u32, op: generator.next_op() }).collect();
        if generator.rng.one_in(3) {
            steps.push(Step { stamp: count as u32, op: Op::Reopen });
        }
        History { seed, steps }
    }
}

/// What the generator knows of the store that its operations would make.
struct Generator {
    rng: Rng,
    volumes: Vec<(String, u64)>,
    snapshots: Vec<(String, u64)>,
    /// Names given up, to be taken again.
    free: Vec<String>,
    /// Offsets used before: overlaps are where the bugs are.
    hot: Vec<u64>,
    named: u32,
    maps: usize,
}

impl Generator {
    fn new(rng: Rng, maps: usize) -> Generator {
        Generator { rng, volumes: vec![], snapshots: vec![], free: vec![], hot: vec![0], named: 0, maps }
    }

    fn next_op(&mut self) -> Op {
        if self.volumes.is_empty() {
            return self.create();
        }
        if self.volumes.len() + self.snapshots.len() >= self.maps {
            return self.remove();
        }
        match self.rng.below(100) {
            0 => self.scatter(),
            1..38 => self.write(),
            38..46 => Op::Flush { name: self.volume().0 },
            46..52 => {
                let (name, offset, len) = self.range();
                Op::Discard { name, offset, len }
            }
            52..58 => {
                let (name, offset, len) = self.range();
                Op::Zeroes { name, offset, len, allocate: self.rng.one_in(2), fua: self.rng.one_in(5) }
            }
            58..68 => self.snapshot(),
            68..76 => self.clone_snapshot(),
            76..79 => self.remove(),
            79..82 => self.rename(),
            82..87 => self.resize(),
            87..90 => Op::Close { name: self.volume().0 },
            90..92 => Op::Reopen,
            92..94 => Op::Checkpoint { name: self.volume().0 },
            94..97 => Op::Background,
            97..98 => self.create(),
            _ => self.read(),
        }
    }

    fn volume(&mut self) -> (String, u64) {
        self.rng.pick(&self.volumes).clone()
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
            1..6 => 1 + self.rng.below(3),
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
        let near = |rng: &mut Rng, at: u64| {
            let by = *rng.pick(&[0, 1, 100, ATOM as u64, SECTOR, 3 * SECTOR, MAX_LOGGED_WRITE as u64]);
            if rng.one_in(2) { at.saturating_sub(by) } else { at + by }
        };
        let at = match self.rng.below(8) {
            0..4 => {
                let hot = *self.rng.pick(&self.hot);
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
        match self.rng.below(16) {
            0..3 => 1 + self.rng.below(ATOM as u64),
            3..6 => ATOM as u64 * (1 + self.rng.below(8)),
            6..9 => SECTOR * (1 + self.rng.below(4)),
            9..11 => 1 + self.rng.below(MAX_LOGGED_WRITE as u64),
            11 => MAX_LOGGED_WRITE as u64 - 1 + self.rng.below(3),
            12 => MAX_LOGGED_WRITE as u64 + 1 + self.rng.below(BLOCK),
            13 => BLOCK,
            14 => BLOCK + self.rng.below(BLOCK),
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
        Op::Write { name, offset, len, fua: self.rng.one_in(6) }
    }

    fn scatter(&mut self) -> Op {
        let (name, size) = self.volume();
        if size <= LARGE_BLOCK / 2 {
            return self.write();
        }
        let offset = SECTOR * self.rng.below(16);
        let count = ((size - offset) / (2 * SECTOR)).min(SCATTERED);
        Op::Scatter { name, offset, count }
    }

    fn read(&mut self) -> Op {
        if !self.snapshots.is_empty() && self.rng.one_in(2) {
            let (name, size) = self.rng.pick(&self.snapshots).clone();
            let offset = self.offset(size);
            return Op::Read { name, offset, len: self.len().min(size - offset) };
        }
        let (name, offset, len) = self.range();
        Op::Read { name, offset, len }
    }

    fn create(&mut self) -> Op {
        let (name, size) = (self.name("vol"), self.size());
        let large = self.rng.one_in(6);
        let (size, block) = if large { (size + LARGE_BLOCK, LARGE_BLOCK) } else { (size, BLOCK) };
        self.volumes.push((name.clone(), size));
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
        let (snapshot, size) = self.rng.pick(&self.snapshots).clone();
        if self.rng.one_in(4) {
            let names: Vec<String> = (0..1 + self.rng.below(3)).map(|_| self.name("many")).collect();
            self.volumes.extend(names.iter().map(|n| (n.clone(), size)));
            return Op::CloneMany { snapshot, names };
        }
        let name = self.name("clone");
        let larger = self.rng.one_in(4).then(|| size + self.rng.below(2 * BLOCK));
        self.volumes.push((name.clone(), larger.unwrap_or(size)));
        Op::Clone { snapshot, name, size: larger }
    }

    fn remove(&mut self) -> Op {
        let from = if self.snapshots.is_empty() || (self.volumes.len() > 1 && self.rng.one_in(2)) {
            &mut self.volumes
        } else {
            &mut self.snapshots
        };
        let at = self.rng.below(from.len() as u64) as usize;
        let (name, _) = from.swap_remove(at);
        self.free.push(name.clone());
        Op::Remove { name }
    }

    fn rename(&mut self) -> Op {
        let new = self.name("name");
        let of_volume = self.snapshots.is_empty() || self.rng.one_in(2);
        let from = if of_volume { &mut self.volumes } else { &mut self.snapshots };
        let at = self.rng.below(from.len() as u64) as usize;
        let old = std::mem::replace(&mut from[at].0, new.clone());
        self.free.push(old.clone());
        Op::Rename { old, new }
    }

    fn resize(&mut self) -> Op {
        let at = self.rng.below(self.volumes.len() as u64) as usize;
        let old = self.volumes[at].1;
        let size = match self.rng.below(4) {
            0 => self.size(),
            1 => old + 1 + self.rng.below(BLOCK),
            _ => (old - self.rng.below(old.min(BLOCK))).max(1),
        };
        self.volumes[at].1 = size;
        Op::Resize { name: self.volumes[at].0.clone(), size }
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..50 {
        assert_eq!(History::short(seed).steps, History::short(seed).steps, "seed {seed}");
    }
}

#[test]
fn all_kinds_of_operations_are_generated() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..300 {
        for step in History::short(seed).steps {
            seen.insert(format!("{:?}", step.op).split(' ').next().unwrap().to_string());
        }
    }
    assert_eq!(seen.len(), 17, "{seen:?}");
}
