//! Histories: what is done to a store and what goes wrong meanwhile, decided before it is done, so that a seed replays it.
//!
//! Operations are concrete (process, names, offsets, lengths). When some of them are left out to shrink a failing
//! history, those that make no sense any more are passed over by the world in which they run.

use std::fmt;

use archipelago_core::blocker::sim::Random;
use archipelago_core::limits::{ATOM, SECTOR};

/// Block size of most volumes: the smallest, so that few bytes cross many blocks.
pub const BLOCK: u64 = 64 << 10;
/// Block size of a few: large enough that a block can have more extents than its map may keep.
pub const LARGE_BLOCK: u64 = 512 << 10;
/// For [`Op::Compact`] in the place of a number of pieces: what lies in thin objects is copied out of them, of all volumes that the
/// process has open.
pub const THIN: usize = 3;
/// Simulated processes of one history.
pub const PROCESSES: usize = 3;

/// Two numbers into one that depends on both.
pub fn mix(a: u64, b: u64) -> u64 {
    Random::new(a ^ b.wrapping_mul(0xd6e8_feb8_6659_fd93)).next_u64()
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
    let (mut blank, mut atom) = (false, u64::MAX);
    while at < end {
        if at / ATOM as u64 != atom {
            atom = at / ATOM as u64;
            blank = zeros != u64::MAX && mix(key, atom).is_multiple_of(zeros);
        }
        let stop = (at / 8 * 8 + 8).min(end);
        let word = if blank { 0 } else { mix(key, at / 8) };
        let (from, len) = ((at % 8) as usize, (stop - at) as usize);
        buf[(at - offset) as usize..][..len].copy_from_slice(&word.to_le_bytes()[from..from + len]);
        at = stop;
    }
}

/// One thing done by a process. To add one: a variant and its line of text here, its weight and its making in
/// `generate.rs`, what it means in `model.rs` (`effect`), and how it is done in `perform.rs`.
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
    /// Writes `count` whole blocks, each of the same bytes, which other volumes have too.
    Twin {
        name: String,
        offset: u64,
        count: u64,
        content: u32,
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
    /// Gathers blocks that lie in more pieces than this.
    Compact {
        name: String,
        max_extents: usize,
    },
    /// Gives every block of a snapshot a digest.
    Hash {
        name: String,
    },
    /// Opens for writing, if it is not open here.
    Open {
        name: String,
    },
    Close {
        name: String,
    },
    /// Opens a snapshot for reading and keeps it, whatever becomes of its name; or reads what was kept.
    Reader {
        name: String,
    },
    ReadKept,
    Background,
    /// Pages through the names.
    List,
    /// Asks for facts, places and differences of one map or two.
    Audit {
        name: String,
        other: String,
    },
    /// Snapshots of several volumes at one instant: of each volume, under this name.
    Group {
        members: Vec<(String, String)>,
    },
    /// Collects what nothing needs any more.
    Collect,
    /// Walks the whole store and says what is wrong with it.
    Check,
    /// Compares sealed data with its checksums, and makes those that are missing.
    Scrub,
    /// Sends a snapshot, as what differs from `from` if that is given, and receives it under another name.
    Copy {
        snapshot: String,
        from: Option<String>,
        name: String,
    },
    /// The process ends in order: every handle is dropped.
    Exit,
    /// The process is killed; its locks go, the machine runs on.
    Kill,
    /// The process stops, with all its locks, until it wakes.
    Pause,
    Wake,
    /// From now on the disk has only so much room.
    Full {
        total: u64,
        free: u64,
    },
    /// There is room again.
    Room,
}

/// What goes wrong during one operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The power is cut `at` thousandths of the way through its calls, and `again` times during recovery. Before that it is
    /// seen what `tries` other cuts during this operation would have left.
    Cut { at: u16, seed: u64, again: u8, tries: u8 },
    /// Its process is killed instead of making this call, counted from 1, or when the operation has ended.
    Kill { call: u32 },
    /// This call that changes something fails with EIO.
    Io { call: u32, then: Then },
    /// This read fails with EIO.
    ReadError { call: u32 },
    /// This read of checksummed data returns a flipped bit, or (`misdirected`) bytes of another place.
    Corrupt { call: u32, bit: u32, misdirected: bool },
}

/// What happens after an I/O error was reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Then {
    Cut,
    Kill,
    Close,
}

/// An operation, who does it, what goes wrong, and a number that stays the same when others are dropped: it names what is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub stamp: u32,
    pub process: usize,
    pub op: Op,
    pub fault: Option<Fault>,
}

/// The same history where nobody can go back to a moment that is over: instead of cutting the power, the process is killed at a call.
/// A cluster does not get full or empty at a word.
pub fn in_a_cluster(steps: &[Step]) -> Vec<Step> {
    let possible = steps.iter().filter(|step| !matches!(step.op, Op::Full { .. } | Op::Room)).cloned();
    let changed = possible.map(|mut step| {
        if let Some(Fault::Cut { at, .. }) = step.fault {
            step.fault = Some(Fault::Kill { call: 1 + u32::from(at) % 12 });
        }
        step
    });
    changed.collect()
}

/// The bytes of a block of this content.
pub fn twin(seed: u64, content: u32) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK as usize];
    fill(seed, u32::MAX - content, 0, &mut bytes);
    bytes
}

/// Bytes from the first to the last of `count` scattered sectors.
pub fn scattered(count: u64) -> u64 {
    (2 * count).saturating_sub(1) * SECTOR
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fua = |fua: &bool| if *fua { ", fua" } else { "" };
        match self {
            Op::Create { name, size, block } => write!(f, "create {name}, {size} bytes, block {block}"),
            Op::Write { name, offset, len, fua: u } => write!(f, "write {name} {offset}+{len}{}", fua(u)),
            Op::Twin { name, offset, count, content } => {
                write!(f, "write {name} {offset}+{count} blocks of content {content}")
            }
            Op::Zeroes { name, offset, len, allocate, fua: u } => {
                let how = if *allocate { ", allocate" } else { "" };
                write!(f, "zeroes {name} {offset}+{len}{how}{}", fua(u))
            }
            Op::Discard { name, offset, len } => write!(f, "discard {name} {offset}+{len}"),
            Op::Scatter { name, offset, count } => write!(f, "scatter {name} {count} sectors from {offset}"),
            Op::Flush { name } => write!(f, "flush {name}"),
            Op::Read { name, offset, len } => write!(f, "read {name} {offset}+{len}"),
            Op::Snapshot { volume, name } => write!(f, "snapshot {volume} as {name}"),
            Op::Clone { snapshot, name, size: None } => write!(f, "clone {snapshot} as {name}"),
            Op::Clone { snapshot, name, size: Some(size) } => write!(f, "clone {snapshot} as {name}, {size} bytes"),
            Op::CloneMany { snapshot, names } => write!(f, "clone {snapshot} as {}", names.join(" and ")),
            Op::Remove { name } => write!(f, "remove {name}"),
            Op::Rename { old, new } => write!(f, "rename {old} to {new}"),
            Op::Resize { name, size } => write!(f, "resize {name} to {size}"),
            Op::Checkpoint { name } => write!(f, "checkpoint {name}"),
            Op::Compact { name, max_extents: THIN } => write!(f, "leave thin objects, {name} open"),
            Op::Compact { name, max_extents } => write!(f, "compact {name} to {max_extents} pieces"),
            Op::Hash { name } => write!(f, "hash {name}"),
            Op::Open { name } => write!(f, "open {name}"),
            Op::Close { name } => write!(f, "close {name}"),
            Op::Reader { name } => write!(f, "open {name} for reading and keep it"),
            Op::ReadKept => write!(f, "read what is kept open"),
            Op::Background => write!(f, "background work"),
            Op::List => write!(f, "list"),
            Op::Audit { name, other } => write!(f, "ask about {name} and {other}"),
            Op::Group { members } => {
                let members: Vec<String> = members.iter().map(|(volume, name)| format!("{volume} as {name}")).collect();
                write!(f, "group snapshot of {}", members.join(" and "))
            }
            Op::Collect => write!(f, "collect"),
            Op::Check => write!(f, "check"),
            Op::Scrub => write!(f, "scrub"),
            Op::Copy { snapshot, from: None, name } => write!(f, "send {snapshot} and receive it as {name}"),
            Op::Copy { snapshot, from: Some(from), name } => {
                write!(f, "send {snapshot} from {from} and receive it as {name}")
            }
            Op::Exit => write!(f, "exit"),
            Op::Kill => write!(f, "is killed"),
            Op::Pause => write!(f, "pauses"),
            Op::Wake => write!(f, "wakes"),
            Op::Full { total, free } => write!(f, "the disk has {free} of {total} bytes left"),
            Op::Room => write!(f, "the disk has room again"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Cut { at, seed, again, tries } => {
                write!(f, "POWER CUT {at}/1000 through (seed {seed}, {again} more in recovery, {tries} tries before)")
            }
            Fault::Kill { call } => write!(f, "KILLED at call {call}"),
            Fault::Io { call, then } => write!(f, "EIO at call {call}, then {}", format!("{then:?}").to_lowercase()),
            Fault::ReadError { call } => write!(f, "EIO at read {call}"),
            Fault::Corrupt { call, bit, misdirected: false } => write!(f, "read {call} has bit {bit} flipped"),
            Fault::Corrupt { call, .. } => write!(f, "read {call} is misdirected"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} p{}: {}", self.stamp, self.process, self.op)?;
        match &self.fault {
            Some(fault) => write!(f, "  -- {fault}"),
            None => Ok(()),
        }
    }
}
