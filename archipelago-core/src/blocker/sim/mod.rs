//! A disk in memory that forgets what was not synced, for tests of what survives a power cut.
//!
//! [`SimDisk`] stands in for the system calls under the file backend; [`MemoryBlocker`](super::memory::MemoryBlocker) is a
//! whole backend with the same model; [`Inodes`] is the first of them by numbers of inodes, for a test that mounts it. The first
//! two record every call that changes something, and [`Crashable::crash_at`] makes a new disk that holds what a cut after any of them might have left. Nothing depends on time or on the system's randomness:
//! the same calls and the same seed give the same image.
//!
//! What may be lost, and how:
//! - Bytes: each write since the file's last sync survives whole, in part or not at all, in any order; a part is made of
//!   atoms of 512 bytes, each old or new. Holes come and go by pages of 4096 bytes.
//! - Length: of the changes since the last sync, a prefix survives. Length and bytes are independent: a file may be long
//!   and hold zeros, or be short although its bytes arrived.
//! - Directory entries: of the changes since that directory's last sync, a prefix survives. A file's own sync does nothing for its entry.
//! - A failed sync drops what it should have written: it stays visible and is never written again.
//! - Locks and open files do not survive.

use std::sync::Arc;

use super::Boot;

mod content;
mod disk;
mod files;
mod inodes;
mod pages;
mod random;
mod timeline;

pub(crate) use content::{Change, Content};
pub use disk::SimDisk;
pub use inodes::{InodeKind, InodeStat, Inodes};
pub(crate) use pages::{PAGE, Pages};
pub(crate) use random::Fate;
pub use random::Random;
pub(crate) use timeline::{State, Timeline};

/// Syncs that report success and do nothing: bugs to plant, so that a test can show that it would find them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Syncs {
    /// None; all syncs work.
    #[default]
    None,
    /// Those of file contents.
    Files,
    /// Those of directory entries.
    Directories,
    /// All.
    All,
}

impl Syncs {
    pub(crate) fn files(self) -> bool {
        matches!(self, Syncs::Files | Syncs::All)
    }

    pub(crate) fn directories(self) -> bool {
        matches!(self, Syncs::Directories | Syncs::All)
    }
}

/// What both simulated disks offer to a test that does not care which one it has.
pub trait Crashable: Send + Sync + Sized {
    /// Calls so far that changed something, or were planned to fail. The first is number 1; reads, locks and calls that
    /// fail by themselves (`EEXIST`, say) are not counted.
    fn steps(&self) -> u64;

    /// A new, independent disk, in the next boot, with a state that a power cut after the first `step` calls might have left. Seed 0 keeps only what is
    /// durable, 1 everything that was issued but what failed syncs dropped, any other is a choice of its own.
    ///
    /// A `step` past the last is the present; one before the last [`forget_history`](Crashable::forget_history) is that moment. The new disk
    /// starts at step 0 and has no open files, no locks, no planned failures and working syncs; limits of space are kept.
    fn crash_at(&self, step: u64, seed: u64) -> Arc<Self>;

    /// A new, independent disk as the next process finds it when the one before was killed after the first `step` calls, while the
    /// machine went on: everything issued is visible, and what was not synced is still at risk. Otherwise as [`crash_at`](Crashable::crash_at).
    fn kill_at(&self, step: u64) -> Arc<Self>;

    /// As [`kill_at`](Crashable::kill_at), when the system has given up what it had in memory of what failed syncs dropped.
    fn evict_at(&self, step: u64) -> Arc<Self>;

    /// Lets call number `step` fail with `errno`, once. A failed sync drops what it should have written; any other call does nothing.
    fn fail_at(&self, step: u64, errno: i32);

    /// Forgets the failures planned by [`fail_at`](Crashable::fail_at) that were not reached.
    fn clear_failures(&self);

    /// Plants a bug; see [`Syncs`]. Affects syncs from now on.
    fn drop_syncs(&self, what: Syncs);

    /// Makes the present the oldest moment that [`crash_at`](Crashable::crash_at) can go back to, and frees the memory that the
    /// earlier ones take. What is not durable stays at risk; steps are still counted from the beginning.
    fn forget_history(&self);

    /// Limits the room: `total` and, from now on, `free` bytes, counted in pages of 4096. A write that needs more stores
    /// what fits and fails with ENOSPC.
    fn set_space(&self, total: u64, free: u64);
}

/// What a file or an object takes at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken<T> {
    /// Which one.
    pub what: T,
    /// Its length in bytes.
    pub len: u64,
    /// Numbers of its pages of 4096 bytes that take room, rising; the others are holes.
    pub pages: Vec<u64>,
}

/// What a simulated machine calls its run of this number, from 1.
pub(crate) fn boot(number: u64) -> Boot {
    let mut boot = Boot::default();
    boot[..8].copy_from_slice(&number.to_le_bytes());
    boot
}

/// A limit of space, in bytes and pages.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    /// Reported size in bytes.
    pub(crate) total: u64,
    /// Pages that may be in use.
    pub(crate) pages: u64,
}

/// Size and free room that are reported without a limit: 1 PiB, more than any test fills.
pub(crate) const UNLIMITED: u64 = 1 << 50;

impl Room {
    /// The limit that leaves `free` bytes beside the pages in use.
    pub(crate) fn new(total: u64, free: u64, used: u64) -> Room {
        Room { total, pages: used + free / PAGE }
    }

    /// Pages left when `used` are in use.
    pub(crate) fn left(&self, used: u64) -> u64 {
        self.pages.saturating_sub(used)
    }
}
