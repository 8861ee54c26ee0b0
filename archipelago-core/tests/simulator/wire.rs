//! What stands between a simulated process and its disk, whichever seam that is: counts its calls, and kills it, or lets
//! calls fail or lie, at the call that was chosen.

use std::sync::LazyLock;

use archipelago_core::VolumeId;
use archipelago_core::blocker::{Object, RecordKey};
use archipelago_core::format::sums::{SECTORS, SumAtom};
use archipelago_core::limits::{ATOM, SECTOR};

use parking_lot::Mutex;

/// Print every call that changes something?
pub static TRACE: LazyLock<bool> = LazyLock::new(|| std::env::var_os("SIM_TRACE").is_some());

/// Bugs that can be planted between the engine and the disk, to show that the simulator would find them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// A failed sync is repeated, and the second answer believed.
    RetrySync,
    /// Data is synced after the journal record that names it.
    DataAfterJournal,
    /// Nodes are synced after the header that names them.
    NodesAfterHeader,
}

/// How a call goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// As usual.
    Go,
    /// The process is dead: nothing happens.
    Dead,
    /// The disk is to report an error.
    Fail,
}

/// How a read of checksummed data lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// This bit of it, modulo its length, is flipped.
    Bit(u32),
    /// It shows the bytes of another place.
    Misdirected,
}

/// A call by which the engine changes something, as the backend in memory gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    Create {
        object: Object,
        len: u64,
    },
    Write {
        object: Object,
        offset: u64,
        len: u64,
    },
    Punch {
        object: Object,
        offset: u64,
        len: u64,
    },
    Sync(Vec<Object>),
    Commit(RecordKey),
    /// Anything else.
    Other,
}

/// Counters are calls since the last [`Wire::arm`].
#[derive(Default)]
struct State {
    dead: bool,
    changes: u32,
    reads: u32,
    checked: u32,
    die_at: Option<u32>,
    fail_at: Option<u32>,
    fail_read: Option<u32>,
    lie: Option<(u32, Lie)>,
    /// Journal segments are checksummed only when a sealed range is replayed.
    journals: bool,
    hit: bool,
    planted: Option<Planted>,
    calls: Vec<Call>,
}

/// See [the module](self).
#[derive(Default)]
pub struct Wire(Mutex<State>);

impl Wire {
    pub fn new(planted: Option<Planted>) -> Wire {
        Wire(Mutex::new(State { planted, ..State::default() }))
    }

    pub fn planted(&self) -> Option<Planted> {
        self.0.lock().planted
    }

    /// Forgets what was planned, and counts from the beginning.
    pub fn disarm(&self) {
        let mut state = self.0.lock();
        *state = State { dead: state.dead, planted: state.planted, ..State::default() };
    }

    pub fn die_at(&self, call: u32) {
        self.0.lock().die_at = Some(call);
    }

    pub fn fail_at(&self, call: u32) {
        self.0.lock().fail_at = Some(call);
    }

    pub fn fail_read_at(&self, call: u32) {
        self.0.lock().fail_read = Some(call);
    }

    pub fn lie_at(&self, call: u32, lie: Lie, journals: bool) {
        let mut state = self.0.lock();
        (state.lie, state.journals) = (Some((call, lie)), journals);
    }

    /// Whether what was planned has happened.
    pub fn hit(&self) -> bool {
        self.0.lock().hit
    }

    /// Calls that changed something since the last [`Wire::disarm`].
    pub fn changes(&self) -> u32 {
        self.0.lock().changes
    }

    /// Calls since this was asked last, one by one, where the backend tells: that in memory.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().calls)
    }

    pub fn note(&self, call: Call) {
        self.0.lock().calls.push(call);
    }

    pub fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    pub fn kill(&self) {
        self.0.lock().dead = true;
    }

    /// Before a call that changes something; `object` says what, for those who replay a failure with `SIM_TRACE`.
    pub fn change(&self, what: &str, object: &dyn Fn() -> String) -> Turn {
        let mut state = self.0.lock();
        if *TRACE {
            let dead = if state.dead { "dead " } else { "" };
            println!("        {}: {dead}{what} {}", state.changes + 1, object());
        }
        if state.dead {
            return Turn::Dead;
        }
        state.changes += 1;
        if state.die_at == Some(state.changes) {
            (state.dead, state.hit) = (true, true);
            return Turn::Dead;
        }
        if state.fail_at == Some(state.changes) {
            state.hit = true;
            return Turn::Fail;
        }
        Turn::Go
    }

    /// Before a read.
    pub fn read(&self) -> Turn {
        let mut state = self.0.lock();
        if state.dead {
            return Turn::Dead;
        }
        state.reads += 1;
        if state.fail_read == Some(state.reads) {
            state.hit = true;
            return Turn::Fail;
        }
        Turn::Go
    }

    /// Before a read of something with a checksum; `journal` if that is a journal segment.
    pub fn checked_read(&self, journal: bool) -> Option<Lie> {
        let mut state = self.0.lock();
        let (call, lie) = state.lie?;
        if journal && !state.journals {
            return None;
        }
        state.checked += 1;
        if state.checked != call {
            return None;
        }
        state.hit = true;
        Some(lie)
    }
}

/// Whether each sector of a range of a data object has a checksum, of which `read` fills a buffer from an offset on: whoever reads it
/// notices a lie.
pub fn has_sums(
    (owner, epoch): (VolumeId, u64),
    offset: u64,
    len: u64,
    read: impl Fn(&mut [u8], u64) -> usize,
) -> bool {
    len > 0
        && (offset / SECTOR..(offset + len).div_ceil(SECTOR)).all(|sector| {
            let number = sector / SECTORS as u64;
            let mut atom = [0; ATOM];
            read(&mut atom, number * ATOM as u64) == ATOM
                && SumAtom::decode("", &atom, owner, epoch, number)
                    .is_ok_and(|atom| atom.get(sector as usize % SECTORS).is_some())
        })
}

/// Flips a bit of the bytes in `bufs`.
pub fn flip(bufs: &mut [std::io::IoSliceMut<'_>], bit: u32) {
    let len: usize = bufs.iter().map(|b| b.len()).sum();
    if len == 0 {
        return;
    }
    let mut at = bit as usize / 8 % len;
    for buf in bufs {
        if at < buf.len() {
            buf[at] ^= 1 << (bit % 8);
            return;
        }
        at -= buf.len();
    }
}
