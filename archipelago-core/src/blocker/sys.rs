//! The system calls that the file backend makes, behind one small interface: the second seam of the simulator.
//!
//! [`RealSys`](super::real_sys::RealSys) is the system; [`super::sim::SimDisk`] is a disk in memory that forgets what was not synced.
//! Paths are relative to the store's root directory, which the implementation knows and which is itself named `.`.

use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::ring::Ring;
use super::{Boot, LockMode, Space};

/// An open file. Closed by [`Sys::close`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fd(pub i32);

/// A file outside the store, open for reading on the system to which a backend makes its calls.
#[derive(Clone, Copy, Debug)]
pub struct Outside<'a> {
    pub(super) fd: Fd,
    open: PhantomData<&'a ()>,
}

impl Outside<'static> {
    /// A file of a simulated disk, which the caller keeps open.
    pub fn simulated(fd: Fd) -> Outside<'static> {
        Outside { fd, open: PhantomData }
    }
}

impl<'a> From<BorrowedFd<'a>> for Outside<'a> {
    fn from(file: BorrowedFd<'a>) -> Outside<'a> {
        Outside { fd: Fd(file.as_raw_fd()), open: PhantomData }
    }
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// Existing, for reading.
    Read,
    /// Existing, for reading and writing.
    ReadWrite,
    /// Created if missing, for reading and writing.
    Create,
    /// Created, for reading and writing; EEXIST if it is there.
    CreateNew,
}

/// What a read or write past the system's memory has to be made of, in bytes; both are powers of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Units {
    /// Addresses of buffers are multiples of this.
    pub memory: usize,
    /// Offsets in the file, and the length of each buffer, are multiples of this.
    pub file: usize,
}

/// System calls of the file backend. Errors are what the system reports; nothing is retried but EINTR, and short reads
/// and writes are completed.
pub trait Sys: Send + Sync {
    /// Opens a file. A new file gets the store's mode and group.
    fn open(&self, path: &str, how: Open) -> io::Result<Fd>;
    /// Closes a file.
    fn close(&self, fd: Fd);
    /// From now on reads and writes of an open file go to the disk, past what the system keeps in memory, and have to be made of
    /// these units. `None` if that cannot be, and then nothing was changed.
    fn bypass(&self, fd: Fd) -> io::Result<Option<Units>> {
        let _ = fd;
        Ok(None)
    }
    /// Reads until `bufs` are full or the file ends; returns the bytes read.
    fn preadv(&self, fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize>;
    /// As [`Sys::preadv`], as far as no disk has to be waited for; `None` if one has to be, or the system cannot tell. A system
    /// that has none reads.
    fn preadv_at_once(&self, fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<Option<usize>> {
        self.preadv(fd, bufs, offset).map(Some)
    }
    /// Writes all of `bufs`.
    fn pwritev(&self, fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// As [`Sys::pwritev`], of a file after [`Sys::bypass`]: in as few calls as the system takes.
    fn pwritev_past(&self, fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.pwritev(fd, bufs, offset)
    }
    /// A ring for the thread that calls this, with room for so many requests; `None` where there are none.
    fn ring(&self, requests: usize) -> io::Result<Option<Box<dyn Ring>>> {
        let _ = requests;
        Ok(None)
    }
    /// Sets the length, sparse when it grows.
    fn ftruncate(&self, fd: Fd, len: u64) -> io::Result<()>;
    /// Makes the file `len` bytes long, with room for all of it and zeros where nothing was written. EOPNOTSUPP of a file system that
    /// cannot.
    fn reserve(&self, fd: Fd, len: u64) -> io::Result<()> {
        let _ = (fd, len);
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }
    /// Makes a range inside the file a hole that reads as zeros, keeping the length.
    fn punch(&self, fd: Fd, offset: u64, len: u64) -> io::Result<()>;
    /// Whether a write to this range might need room that the file does not have yet. Asked only when the file system
    /// is nearly full; `true` is always a right answer.
    fn may_allocate(&self, fd: Fd, offset: u64, len: u64) -> io::Result<bool> {
        let _ = (fd, offset, len);
        Ok(true)
    }
    /// Has the system drop what it keeps of a range in memory and does not have to write. A courtesy that may do nothing.
    fn forget(&self, fd: Fd, offset: u64, len: u64) {
        let _ = (fd, offset, len);
    }
    /// Makes the data, and the metadata needed to read it, durable.
    fn fdatasync(&self, fd: Fd) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self, fd: Fd) -> io::Result<u64>;
    /// Bytes that the file takes, holes left out.
    fn allocated(&self, fd: Fd) -> io::Result<u64>;
    /// Whether `path` leads to this very file at this moment.
    fn is_at(&self, fd: Fd, path: &str) -> io::Result<bool>;
    /// Makes a directory's entries durable.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Makes everything written to the store's file system durable.
    fn syncfs(&self) -> io::Result<()>;
    /// Creates a directory; EEXIST if it is there.
    fn mkdir(&self, path: &str) -> io::Result<()>;
    /// Removes a directory; ENOTEMPTY if something is in it, EBUSY if it is so young that [`Sys::dir_id`] might not tell it from
    /// one that is made in its place.
    fn rmdir(&self, path: &str) -> io::Result<()>;
    /// What tells a directory from every other that is or was at this path; `None` where the system cannot tell.
    fn dir_id(&self, path: &str) -> io::Result<Option<u64>>;
    /// Adds a name for a file; EEXIST if the name is taken.
    fn link(&self, from: &str, to: &str) -> io::Result<()>;
    /// Moves a name, replacing what had the new one.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, path: &str) -> io::Result<()>;
    /// Makes a symbolic link with `target` as its text, which nobody follows; EEXIST if the name is taken.
    fn symlink(&self, target: &str, path: &str) -> io::Result<()>;
    /// Text of the symbolic link at `path`, which is not followed; EINVAL if it is something else. A text longer than
    /// 4095 bytes is cut.
    fn readlink(&self, path: &str) -> io::Result<Vec<u8>>;
    /// Names in a directory, in no order, without `.` and `..`.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Takes a lock on the open file without waiting; `false` if somebody else has it. Dropped by [`Sys::close`] and
    /// by the death of the process.
    fn try_lock(&self, fd: Fd, mode: LockMode) -> io::Result<bool>;
    /// Whether somebody holds the file exclusively. Takes nothing.
    fn is_locked(&self, fd: Fd) -> io::Result<bool>;
    /// Lets an open, empty file share the room of all that `from` holds, a file inside or outside the store, until one of the
    /// two is written. Where the file systems cannot, one of [`cannot_share`].
    fn share(&self, fd: Fd, from: Fd) -> io::Result<()> {
        let _ = (fd, from);
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }
    /// Whether [`Sys::share`] of this file with one in the store would succeed. Leaves nothing behind.
    fn can_share(&self, from: Fd) -> io::Result<bool> {
        let _ = from;
        Ok(false)
    }
    /// Adds a name in the store for a file outside; EEXIST if the name is taken.
    fn link_from(&self, from: Fd, to: &str) -> io::Result<()> {
        let _ = (from, to);
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }
    /// Whether a file outside may be one of the store as it is: on its file system, writable for nobody, and readable for all who may read
    /// the store's files.
    fn may_link(&self, from: Fd) -> io::Result<bool> {
        let _ = from;
        Ok(false)
    }
    /// In which run of the machine this is; see [`Blocker::boot`](super::Blocker::boot). Zeros where the system cannot tell.
    fn boot(&self) -> Boot {
        Boot::default()
    }
    /// Size and free room of the file system.
    fn space(&self) -> io::Result<Space>;
}

/// Whether an error of [`Sys::share`] or [`Sys::link_from`] says that it cannot be for these two files, rather than that it failed.
pub(super) fn cannot_share(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EOPNOTSUPP
                | libc::ENOTTY
                | libc::ENOSYS
                | libc::EXDEV
                | libc::EINVAL
                | libc::EPERM
                | libc::EACCES
                | libc::EMLINK
                | libc::ETXTBSY
        )
    )
}
