//! An open volume: byte ranges in, ordered and durable I/O out.

use std::io::{IoSlice, IoSliceMut};

use crate::blocker::Object;
use crate::error::{Error, Result};
use crate::limits::MAX_TOGETHER;
use crate::store::VolumeInfo;
use crate::sync::atomic::Ordering;

mod at_once;
pub(crate) mod cache;
mod commit;
mod compact;
pub(crate) mod compose;
mod control;
pub(crate) mod freeze;
pub(crate) mod handle;
pub(crate) mod inner;
mod io;
pub(crate) mod overlay;
pub(crate) mod queue;
pub(crate) mod stalls;
pub(crate) mod standby;
pub(crate) mod together;
mod verified;

use handle::Handle;
use inner::Inner;

pub use cache::{CacheOptions, GivenUp};
pub use compact::{CompactOptions, CompactReport};
pub use queue::CompletionQueue;
pub use stalls::StallStats;
pub use standby::{Held, Sharing, Standby, StandbyState};
pub use together::{Begun, Together};

/// How a volume is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The one writer.
    ReadWrite,
    /// Snapshots by any number of readers; a volume only while nobody writes it.
    ReadOnly,
}

/// Flags of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteFlags {
    /// Durable before the call returns (force unit access).
    pub fua: bool,
}

/// A range with or without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataExtent {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Known to read as zeros, and takes no room.
    pub zero: bool,
}

/// An open volume. Cheap to clone; all calls may be made from any thread at once. Overlapping requests in flight have
/// no defined order. The last clone to be dropped closes it, as soon as background work under way lets go of it;
/// [`Volume::close`] closes it before it returns, and reports errors.
#[derive(Clone)]
pub struct Volume {
    inner: Handle,
    mode: Mode,
}

impl Volume {
    /// A handle on an open volume.
    pub(crate) fn new(inner: Handle, mode: Mode) -> Volume {
        Volume { inner, mode }
    }

    /// Nobody finds the volume any more, if this is its only use; see [`Handle::retire`].
    pub(crate) fn retire(&self) -> bool {
        self.inner.retire()
    }

    /// The volume, if this handle may change it.
    fn writable(&self) -> Result<&Inner> {
        match self.mode {
            Mode::ReadWrite => Ok(&self.inner),
            Mode::ReadOnly => Err(Error::ReadOnly(self.name())),
        }
    }

    /// Current name.
    pub fn name(&self) -> String {
        self.inner.name()
    }

    /// Current size in bytes.
    pub fn size(&self) -> u64 {
        self.inner.size.load(Ordering::Acquire)
    }

    /// Block size in bytes: the preferred I/O size.
    pub fn block_size(&self) -> u64 {
        1 << self.inner.block_shift
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.mode == Mode::ReadOnly || self.inner.writer.is_none()
    }

    /// Facts about it.
    pub fn info(&self) -> Result<VolumeInfo> {
        self.inner.info()
    }

    /// Fills `bufs` from `offset`, any alignment. Nothing past the end may be asked for.
    pub fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        match self.inner.cache() {
            Some(cache) => cache.read(&self.inner, bufs, offset),
            None => self.inner.read(bufs, offset),
        }
    }

    /// Writes all of `bufs` at `offset`, any alignment. Durable after the next flush, or on return with `fua`.
    pub fn write(&self, bufs: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        let inner = self.writable()?;
        match inner.cache() {
            Some(cache) => cache.write(inner, bufs, offset, flags.fua),
            None => inner.write(bufs, offset, flags),
        }
    }

    /// Reads into one buffer.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read(&mut [IoSliceMut::new(buf)], offset)
    }

    /// Writes one buffer.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.write(&[IoSlice::new(buf)], offset, WriteFlags::default())
    }

    /// Makes every write that returned before this call durable.
    pub fn flush(&self) -> Result<()> {
        match self.inner.cache() {
            Some(cache) => cache.flush(&self.inner),
            None => self.inner.flush(),
        }
    }

    /// Frees the room of the whole 4 KiB sectors inside the range, which read as zeros from then on; the rest of the range is left as it is.
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let inner = self.writable()?;
        match inner.cache() {
            Some(cache) => cache.discard(inner, offset, len),
            None => inner.in_pieces(offset, len, &mut |offset, len, _| inner.discard(offset, len)),
        }
    }

    /// Makes the range read as zeros. With `allocate` room is kept for it.
    pub fn write_zeroes(&self, offset: u64, len: u64, allocate: bool, flags: WriteFlags) -> Result<()> {
        let inner = self.writable()?;
        if let Some(cache) = inner.cache() {
            return cache.write_zeroes(inner, offset, len, allocate, flags.fua);
        }
        inner.in_pieces(offset, len, &mut |offset, len, last| {
            let flags = if last { flags } else { WriteFlags::default() };
            inner.write_zeroes(offset, len, allocate, flags)
        })
    }

    /// The ranges of `offset..offset+len` in order, neighbours of the same kind joined, at most `max` of them (then they end early).
    pub fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<DataExtent>> {
        // Maps know nothing of what is in a cache.
        self.inner.settle_cache()?;
        self.inner.extents(offset, len, max)
    }

    /// Takes a snapshot: all writes that returned before the call are in it, none that are begun after it returns.
    pub fn snapshot(&self, name: &str) -> Result<VolumeInfo> {
        self.writable()?.snapshot(name)
    }

    /// Sets the size; see [`crate::Store::resize`].
    pub fn resize(&self, size: u64, shrink: bool) -> Result<()> {
        self.writable()?.resize(size, shrink)
    }

    /// Gives it another name.
    pub fn rename(&self, new: &str) -> Result<()> {
        self.writable()?.rename(new)
    }

    /// Brings some of what is in its cache into the volume; `false` if nothing is. For tests: a store without a thread for it does so only where it
    /// has to.
    #[doc(hidden)]
    pub fn drain_cache(&self) -> Result<bool> {
        self.inner.cache().map_or(Ok(false), |cache| cache.drain_some(&self.inner))
    }

    /// How long writes were not admitted, over all snapshots, checkpoints and resizes since it was opened.
    pub fn stalls(&self) -> StallStats {
        self.inner.stalls.stats()
    }

    /// Folds the journal into the tree now.
    pub fn checkpoint(&self) -> Result<()> {
        self.writable()?.checkpoint()
    }

    /// Gathers the pieces of blocks that lie in many places, while the volume is in use. What was gathered is no longer shared
    /// with snapshots. `progress` is called after each block, and may end the work early.
    pub fn compact(
        &self,
        options: &CompactOptions,
        progress: &mut dyn FnMut(CompactReport) -> std::ops::ControlFlow<()>,
    ) -> Result<CompactReport> {
        self.writable()?.compact(options, progress)
    }

    /// Flushes, folds and gives the volume up. Other clones of the handle answer `NotOpen` from then on.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }

    /// Queues an operation; its completion arrives in `queue` with `tag`. A short read of bytes that the system has in memory, and a
    /// short overwrite, which goes there, are carried out before this returns; nothing else is waited for. In a store that is open past the
    /// page cache both are under way together with all others. `TooBusy` when the
    /// store's queue is full: the buffer comes back with the error.
    pub fn submit(
        &self,
        operation: Operation,
        tag: u64,
        queue: &CompletionQueue,
    ) -> std::result::Result<(), (crate::Error, Operation)> {
        let pool = &self.inner.shared.pool;
        pool.submit(self, operation, tag, queue)
    }
}

impl queue::Executor for Volume {
    fn at_once(&self, operation: &mut Operation) -> Option<Result<()>> {
        if self.inner.cache().is_some() {
            return None;
        }
        let done = match operation {
            Operation::Read { buf, offset } => self.inner.read_at_once(buf, *offset),
            Operation::Write { buf, offset, flags: WriteFlags { fua: false } } => {
                self.writable().and_then(|inner| inner.overwrite_at_once(buf, *offset))
            }
            _ => return None,
        };
        match done {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn rides(&self, operation: &Operation) -> bool {
        let short =
            matches!(operation, Operation::Read { .. } | Operation::Write { flags: WriteFlags { fua: false }, .. });
        short && self.inner.cache().is_none() && self.inner.blocker().waits_for_disk(Object::Data(self.inner.id, 0))
    }

    fn together(&self) -> Option<Together> {
        // Without it the threads of the store carry out what it would have.
        Together::new(&self.inner.shared, MAX_TOGETHER).ok().flatten()
    }

    #[allow(unsafe_code)]
    unsafe fn begin(&self, together: &mut Together, number: usize, operation: &mut Operation) -> Result<Begun> {
        // SAFETY: by the caller's promise.
        unsafe { together.begin(self, number, operation) }
    }

    fn execute(&self, operation: &mut Operation) -> Result<()> {
        match operation {
            Operation::Read { buf, offset } => self.read_at(buf, *offset),
            Operation::Write { buf, offset, flags } => self.write(&[IoSlice::new(buf)], *offset, *flags),
            Operation::Flush => self.flush(),
            Operation::Discard { offset, len } => self.discard(*offset, *len),
            Operation::WriteZeroes { offset, len, allocate, flags } => {
                self.write_zeroes(*offset, *len, *allocate, *flags)
            }
        }
    }
}

/// An operation for [`Volume::submit`]. Buffers are owned until completion and come back with it.
#[derive(Debug)]
pub enum Operation {
    /// Fill the buffer from `offset`.
    Read {
        /// Filled.
        buf: Vec<u8>,
        /// First byte.
        offset: u64,
    },
    /// Write the buffer at `offset`.
    Write {
        /// Written.
        buf: Vec<u8>,
        /// First byte.
        offset: u64,
        /// Flags.
        flags: WriteFlags,
    },
    /// See [`Volume::flush`].
    Flush,
    /// See [`Volume::discard`].
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// See [`Volume::write_zeroes`].
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Keep room.
        allocate: bool,
        /// Flags.
        flags: WriteFlags,
    },
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// As given to [`Volume::submit`].
    pub tag: u64,
    /// The buffer of a read or write; empty for the others.
    pub buf: Vec<u8>,
    /// How it went.
    pub result: Result<()>,
}
