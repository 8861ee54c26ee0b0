//! The only two traits through which endpoints know of disks.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use archipelago_core::Begun;

/// A failed device call, as an errno of the system (`libc::EIO` and so on). Endpoints map it to their protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&std::io::Error::from_raw_os_error(self.0), f)
    }
}

impl std::error::Error for Errno {}

/// Result of a device call.
pub type DeviceResult<T> = Result<T, Errno>;

/// Why an export cannot be had. The text reaches the client; an endpoint may cut it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExportError {
    /// No export of that name.
    #[error("{0}")]
    Unknown(String),
    /// It exists and may not be used now, for instance because another process has it open.
    #[error("{0}")]
    Refused(String),
    /// Opening it failed.
    #[error("{0}")]
    Failed(String),
}

/// The exports of a server.
pub trait Exports: Send + Sync {
    /// Opens an export. Connections that open the same export get the same underlying disk: a flush on one covers what was
    /// written on all. It is closed when the last handle is dropped.
    fn open(&self, name: &str) -> Result<Arc<dyn Device>, ExportError>;
    /// Names to show to clients that ask, at most [`MAX_LISTED`](super::limits::MAX_LISTED); more are cut off.
    fn list(&self) -> Vec<String>;
    /// What a client gets that names no export.
    fn default_export(&self) -> Option<String>;
}

/// A range with or without data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Known to read as zeros, and takes no room.
    pub zero: bool,
}

/// Requests of one thread to a disk that are under way together, by numbers below those that room was asked for. What is under way is
/// ended before any call of the disk that may wait for others. Dropped, it waits for all.
pub trait Batch {
    /// Begins a read as [`Device::read`]; what fails is left to a call, which says why.
    ///
    /// # Safety
    ///
    /// If it gets under way, the buffers stay, and nobody else of this process uses them, until its end was told or this value was dropped.
    #[allow(unsafe_code)]
    unsafe fn read(&mut self, number: usize, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Begun;
    /// Begins a write as [`Device::write`]; what fails is left to a call, which says why.
    ///
    /// # Safety
    ///
    /// If it gets under way, the buffers stay until its end was told or this value was dropped.
    #[allow(unsafe_code)]
    unsafe fn write(&mut self, number: usize, bufs: &[IoSlice<'_>], offset: u64) -> Begun;
    /// Waits until at least `least` have ended, or all, and tells of each that has.
    fn wait(&mut self, least: usize, each: &mut dyn FnMut(usize, DeviceResult<()>));
    /// Requests that are under way.
    fn count(&self) -> usize;
}

/// An open disk. Calls come from many threads at once. Ranges were checked against [`Device::size`], and writing calls
/// against [`Device::read_only`]; a device that shrinks meanwhile must check again.
pub trait Device: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Preferred size and alignment of requests in bytes, a power of two from 512 to 32 MiB (else 4096 is announced).
    fn block_size(&self) -> u32;
    /// Whether writing is refused.
    fn read_only(&self) -> bool;
    /// One line for people; may be empty.
    fn description(&self) -> String;
    /// Room for so many requests under way together, for the thread that calls this; `None` where that is no use.
    fn together(&self, _requests: usize) -> Option<Box<dyn Batch>> {
        None
    }
    /// Fills `bufs` from `offset`, any alignment.
    fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> DeviceResult<()>;
    /// Writes all of `bufs` at `offset`, any alignment; durable on return with `fua`.
    fn write(&self, bufs: &[IoSlice<'_>], offset: u64, fua: bool) -> DeviceResult<()>;
    /// Makes every write that returned before this call durable.
    fn flush(&self) -> DeviceResult<()>;
    /// Gives up the room of the range as far as it can; what it gives up reads as zeros.
    fn discard(&self, offset: u64, len: u64) -> DeviceResult<()>;
    /// Makes the range read as zeros; keeps room for it with `allocate`; durable on return with `fua`. Without `allocate` it
    /// is much faster than writing.
    fn write_zeroes(&self, offset: u64, len: u64, allocate: bool, fua: bool) -> DeviceResult<()>;
    /// Whether requests may have to wait for their turn; costs next to nothing.
    fn limited(&self) -> bool {
        false
    }
    /// Waits until a request of `bytes` may be carried out; flushes need not. `gone` is asked now and then; when it says that nobody waits
    /// for the answer any more, the wait ends.
    fn wait_turn(&self, _bytes: u64, _gone: &dyn Fn() -> bool) {}
    /// The ranges of `offset..offset + len` in order and without gaps, at most `max` of them (then they end early).
    fn extents(&self, offset: u64, len: u64, max: usize) -> DeviceResult<Vec<Extent>>;
}
