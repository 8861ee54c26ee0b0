//! [`Sys`] as Linux does it, below one directory.
//!
//! Every path is walked from a descriptor of the store's root, one component at a time and never through a symbolic
//! link: nothing planted inside the store leads out of it, and the store may be moved while it is open.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::{DirBuilder, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;

use super::ring::{Ring, Uring};
use super::sys::{Fd, Open, Sys, Units, cannot_share};
use super::{Boot, LockMode, Space};
use crate::limits::MAX_DIRECT_UNIT;
use transfer::{check, off, retry};

mod transfer;

/// Stands for a mode or a group that is left to the system.
pub const LEAVE: u32 = u32::MAX;

/// Where Linux says in which run of the machine this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Type of a FUSE file system, from linux/magic.h.
const FUSE_SUPER_MAGIC: libc::c_long = 0x6573_5546;
/// Directories below the root whose descriptors are kept, since most calls go through them.
const KEPT: [&str; 4] = ["catalog", "trash", "data", "procs"];
/// Bytes of a page on the machines that this runs on; buffers of our own begin with one.
const PAGE: usize = 4096;
/// Longest text of a symbolic link on Linux (PATH_MAX without its NUL).
const MAX_LINK: usize = 4095;
/// More than the time for which file systems give all that is made the same time of birth: a tick of the kernel, 10 ms at most.
const BIRTH_TICK: Duration = Duration::from_millis(20);
/// Rounds of "open, or create if missing" before giving up: each needs somebody to create and remove the file in between.
const OPEN_ROUNDS: usize = 8;

/// The system calls of Linux, relative to a root directory.
pub struct RealSys {
    root: OwnedFd,
    /// Permission bits of new files, or [`LEAVE`].
    mode: u32,
    /// Group of new files, or [`LEAVE`].
    group: u32,
    kept: RwLock<BTreeMap<&'static str, Arc<OwnedFd>>>,
    /// Whether the store lies in memory, where no disk is ever waited for.
    in_memory: bool,
    boot: Boot,
}

/// A directory to make a call in: kept open, or opened for this call.
enum Dir<'a> {
    Root(&'a OwnedFd),
    Kept(Arc<OwnedFd>),
    Opened(OwnedFd),
}

impl AsRawFd for Dir<'_> {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Dir::Root(fd) => fd.as_raw_fd(),
            Dir::Kept(fd) => fd.as_raw_fd(),
            Dir::Opened(fd) => fd.as_raw_fd(),
        }
    }
}

impl RealSys {
    /// Works below an existing directory. New files get `mode` (permission bits, whatever the umask) and `group`;
    /// directories also get an execute bit beside each read bit. [`LEAVE`] leaves either to the system.
    pub fn open(root: &Path, mode: u32, group: u32) -> io::Result<RealSys> {
        let file = File::open(root)?;
        if !file.metadata()?.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        let kind = file_system(&file)?;
        // What was written to a FUSE file system is in the memory of another process, and may go with that one.
        let boot = if kind == FUSE_SUPER_MAGIC { Boot::default() } else { boot_on(file.metadata()?.dev()) };
        let in_memory = kind == libc::TMPFS_MAGIC;
        Ok(RealSys { root: file.into(), mode, group, kept: RwLock::default(), in_memory, boot })
    }

    /// As [`RealSys::open`], after making the directory and its missing parents, durably. An existing one is left as it is.
    pub fn create(root: &Path, mode: u32, group: u32) -> io::Result<RealSys> {
        let made = make_dirs(root, mode)?;
        let sys = RealSys::open(root, mode, group)?;
        if made {
            sys.own(sys.root.as_raw_fd(), dir_mode(mode))?;
        }
        Ok(sys)
    }

    /// Gives a new file or directory the store's group and mode.
    fn own(&self, fd: RawFd, mode: u32) -> io::Result<()> {
        if self.group != LEAVE {
            // SAFETY: takes no pointer; a bad descriptor is reported as EBADF.
            check(|| unsafe { libc::fchown(fd, LEAVE, self.group) })?;
        }
        if self.mode != LEAVE {
            // After the group, because a change of group may clear bits. Needed because the umask cuts `open`'s mode.
            // SAFETY: as above.
            check(|| unsafe { libc::fchmod(fd, mode) })?;
        }
        Ok(())
    }

    /// The directory at `path`, opened for reading so that it can be synced.
    fn dir(&self, path: &str) -> io::Result<Dir<'_>> {
        if path.is_empty() || path == "." {
            return Ok(Dir::Root(&self.root));
        }
        if let Some(fd) = self.kept.read().get(path) {
            return Ok(Dir::Kept(fd.clone()));
        }
        let (parent, leaf) = self.parent(path)?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let fd = open_at(parent.as_raw_fd(), &leaf, flags, 0)?;
        match KEPT.iter().find(|kept| **kept == path) {
            Some(name) => Ok(Dir::Kept(self.kept.write().entry(name).or_insert_with(|| Arc::new(fd)).clone())),
            None => Ok(Dir::Opened(fd)),
        }
    }

    /// The directory that holds the last component of `path`, and that component.
    fn parent(&self, path: &str) -> io::Result<(Dir<'_>, CString)> {
        let (dir, leaf) = path.rsplit_once('/').unwrap_or(("", path));
        if matches!(leaf, "" | "." | "..") {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok((self.dir(dir)?, CString::new(leaf)?))
    }

    /// Number of the inode of a directory, and when it was made, if the file system knows.
    fn identity(&self, path: &str) -> io::Result<(u64, Option<SystemTime>)> {
        let dir = self.dir(path)?;
        // SAFETY: the descriptor stays open until the end of this function, as `dir` does.
        let fd = unsafe { BorrowedFd::borrow_raw(dir.as_raw_fd()) };
        let found = File::from(fd.try_clone_to_owned()?).metadata()?;
        Ok((found.ino(), found.created().ok()))
    }

    /// Creates a file that must not exist, with the store's mode and group, or leaves nothing behind.
    fn create_new(&self, dir: RawFd, leaf: &CStr) -> io::Result<OwnedFd> {
        let mode = if self.mode == LEAVE { 0o666 } else { self.mode };
        let fd = open_at(dir, leaf, libc::O_RDWR | libc::O_NOFOLLOW | libc::O_CREAT | libc::O_EXCL, mode)?;
        if let Err(e) = self.own(fd.as_raw_fd(), self.mode) {
            // The error to report is the first one.
            // SAFETY: `leaf` is a NUL-terminated string that outlives the call.
            let _ = check(|| unsafe { libc::unlinkat(dir, leaf.as_ptr(), 0) });
            return Err(e);
        }
        Ok(fd)
    }
}

/// The number of this run of the machine, for a store on this device (format.md, "Journal"). The device is part of it because a copy of
/// one, taken while it is in use, has only what was synced.
fn boot_on(device: u64) -> Boot {
    let mut boot = Boot::default();
    if let Ok(text) = std::fs::read_to_string(BOOT_ID) {
        let text = [text.trim_end().as_bytes(), &[0], &device.to_le_bytes()].concat();
        boot.copy_from_slice(&blake3::hash(&text).as_bytes()[..16]);
    }
    boot
}

impl Sys for RealSys {
    fn open(&self, path: &str, how: Open) -> io::Result<Fd> {
        let (dir, leaf) = self.parent(path)?;
        let dir = dir.as_raw_fd();
        let existing = |flags| open_at(dir, &leaf, flags | libc::O_NOFOLLOW, 0);
        let fd = match how {
            Open::Read => existing(libc::O_RDONLY)?,
            Open::ReadWrite => existing(libc::O_RDWR)?,
            Open::CreateNew => self.create_new(dir, &leaf)?,
            // In two steps, because only a file that is new gets mode and group.
            Open::Create => {
                let mut round = 0;
                loop {
                    round += 1;
                    match existing(libc::O_RDWR) {
                        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                        other => break other?,
                    }
                    match self.create_new(dir, &leaf) {
                        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && round < OPEN_ROUNDS => {}
                        other => break other?,
                    }
                }
            }
        };
        Ok(Fd(fd.into_raw_fd()))
    }

    fn close(&self, fd: Fd) {
        // SAFETY: `Sys::open` handed the descriptor out, and its user ends its ownership here. An error of `close` has
        // no meaning: what must be durable was synced before.
        drop(unsafe { OwnedFd::from_raw_fd(fd.0) });
    }

    fn bypass(&self, fd: Fd) -> io::Result<Option<Units>> {
        // Some versions of tmpfs take the flag and ignore it: then nothing would be what was asked for.
        if self.in_memory {
            return Ok(None);
        }
        // SAFETY: takes no pointer.
        let flags = retry(|| unsafe { libc::fcntl(fd.0, libc::F_GETFL) as isize })? as i32;
        // SAFETY: takes no pointer.
        let set = |flags: i32| check(|| unsafe { libc::fcntl(fd.0, libc::F_SETFL, flags) });
        match set(flags | libc::O_DIRECT) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
            other => other?,
        }
        let units = direct_units(fd)?;
        if units.is_none() {
            set(flags)?;
        }
        Ok(units)
    }

    fn preadv(&self, fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        transfer::read(fd, bufs, offset)
    }

    fn preadv_at_once(&self, fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<Option<usize>> {
        if self.in_memory {
            transfer::read(fd, bufs, offset).map(Some)
        } else {
            transfer::read_at_once(fd, bufs, offset)
        }
    }

    fn pwritev(&self, fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.in_memory { transfer::write(fd, bufs, offset) } else { transfer::write_in_calls(fd, bufs, offset) }
    }

    fn pwritev_past(&self, fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        transfer::write(fd, bufs, offset)
    }

    fn ring(&self, requests: usize) -> io::Result<Option<Box<dyn Ring>>> {
        Ok(Uring::new(requests)?.map(|ring| Box::new(ring) as Box<dyn Ring>))
    }

    fn forget(&self, fd: Fd, offset: u64, len: u64) {
        if let (Ok(offset), Ok(len)) = (off(offset), off(len)) {
            // SAFETY: takes no pointer. It is advice: its failure changes nothing.
            unsafe { libc::posix_fadvise(fd.0, offset, len, libc::POSIX_FADV_DONTNEED) };
        }
    }

    fn ftruncate(&self, fd: Fd, len: u64) -> io::Result<()> {
        let len = off(len)?;
        // SAFETY: takes no pointer.
        check(|| unsafe { libc::ftruncate(fd.0, len) })
    }

    fn reserve(&self, fd: Fd, len: u64) -> io::Result<()> {
        let len = off(len)?;
        // SAFETY: takes no pointer.
        check(|| unsafe { libc::fallocate(fd.0, 0, 0, len) })
    }

    fn punch(&self, fd: Fd, offset: u64, len: u64) -> io::Result<()> {
        let (offset, len) = (off(offset)?, off(len)?);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: takes no pointer.
        check(|| unsafe { libc::fallocate(fd.0, mode, offset, len) })
    }

    fn may_allocate(&self, fd: Fd, offset: u64, len: u64) -> io::Result<bool> {
        let (start, end) = (off(offset)?, off(offset.saturating_add(len))?);
        // SAFETY: takes no pointer. The file position, which this moves, is used by nobody.
        let hole = unsafe { libc::lseek(fd.0, start, libc::SEEK_HOLE) };
        // ENXIO (past the end) or a file system that cannot tell: it may.
        Ok(hole < end)
    }

    fn fdatasync(&self, fd: Fd) -> io::Result<()> {
        // SAFETY: takes no pointer.
        check(|| unsafe { libc::fdatasync(fd.0) })
    }

    fn len(&self, fd: Fd) -> io::Result<u64> {
        // SAFETY: all zeros is a valid `stat`.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` is valid for writing for the whole call.
        check(|| unsafe { libc::fstat(fd.0, &mut stat) })?;
        Ok(stat.st_size as u64)
    }

    fn allocated(&self, fd: Fd) -> io::Result<u64> {
        Ok(stat(fd)?.st_blocks as u64 * 512)
    }

    fn is_at(&self, fd: Fd, path: &str) -> io::Result<bool> {
        let (dir, leaf) = self.parent(path)?;
        // SAFETY: all zeros is a valid `stat`.
        let mut there: libc::stat = unsafe { std::mem::zeroed() };
        let there_ptr: *mut libc::stat = &mut there;
        // SAFETY: `leaf` is a NUL-terminated string, and `there` valid for writing, for the whole call.
        let found =
            check(|| unsafe { libc::fstatat(dir.as_raw_fd(), leaf.as_ptr(), there_ptr, libc::AT_SYMLINK_NOFOLLOW) });
        match found {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.and_then(|()| stat(fd)).map(|own| (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)),
        }
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let dir = self.dir(path)?;
        // SAFETY: takes no pointer; `dir` is open until the end of this function.
        check(|| unsafe { libc::fsync(dir.as_raw_fd()) })
    }

    fn syncfs(&self) -> io::Result<()> {
        // The kernel reports write-back errors of any file since the last call on this same descriptor.
        // SAFETY: takes no pointer.
        check(|| unsafe { libc::syncfs(self.root.as_raw_fd()) })
    }

    fn mkdir(&self, path: &str) -> io::Result<()> {
        let (dir, leaf) = self.parent(path)?;
        let mode = if self.mode == LEAVE { 0o777 } else { dir_mode(self.mode) };
        // SAFETY: `leaf` is a NUL-terminated string that outlives the call.
        check(|| unsafe { libc::mkdirat(dir.as_raw_fd(), leaf.as_ptr(), mode) })?;
        if self.mode == LEAVE && self.group == LEAVE {
            return Ok(());
        }
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let made = open_at(dir.as_raw_fd(), &leaf, flags, 0)?;
        self.own(made.as_raw_fd(), dir_mode(self.mode))
    }

    fn rmdir(&self, path: &str) -> io::Result<()> {
        if let (_, Some(birth)) = self.identity(path)?
            && birth.elapsed().is_ok_and(|age| age < BIRTH_TICK)
        {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let (dir, leaf) = self.parent(path)?;
        // SAFETY: `leaf` is a NUL-terminated string that outlives the call.
        check(|| unsafe { libc::unlinkat(dir.as_raw_fd(), leaf.as_ptr(), libc::AT_REMOVEDIR) })
    }

    fn dir_id(&self, path: &str) -> io::Result<Option<u64>> {
        let (ino, birth) = self.identity(path)?;
        // Numbers are used again at once, so the birth has to be in it.
        Ok(birth.and_then(|birth| birth.duration_since(UNIX_EPOCH).ok()).map(|since| {
            let since = since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos()));
            ino.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ since
        }))
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let ((from_dir, from), (to_dir, to)) = (self.parent(from)?, self.parent(to)?);
        let (from_dir, to_dir) = (from_dir.as_raw_fd(), to_dir.as_raw_fd());
        // SAFETY: both names are NUL-terminated strings that outlive the call.
        check(|| unsafe { libc::linkat(from_dir, from.as_ptr(), to_dir, to.as_ptr(), 0) })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let ((from_dir, from), (to_dir, to)) = (self.parent(from)?, self.parent(to)?);
        let (from_dir, to_dir) = (from_dir.as_raw_fd(), to_dir.as_raw_fd());
        // SAFETY: both names are NUL-terminated strings that outlive the call.
        check(|| unsafe { libc::renameat(from_dir, from.as_ptr(), to_dir, to.as_ptr()) })
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        let (dir, leaf) = self.parent(path)?;
        // SAFETY: `leaf` is a NUL-terminated string that outlives the call.
        check(|| unsafe { libc::unlinkat(dir.as_raw_fd(), leaf.as_ptr(), 0) })
    }

    fn symlink(&self, target: &str, path: &str) -> io::Result<()> {
        // Without the store's group and mode: who may read a link is not asked, and who may replace it the directory says.
        let (dir, leaf) = self.parent(path)?;
        let target = CString::new(target)?;
        // SAFETY: both are NUL-terminated strings that outlive the call.
        check(|| unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), leaf.as_ptr()) })
    }

    fn readlink(&self, path: &str) -> io::Result<Vec<u8>> {
        let (dir, leaf) = self.parent(path)?;
        let mut text = vec![0; MAX_LINK];
        // SAFETY: `leaf` is a NUL-terminated string that outlives the call, and the kernel writes at most `text.len()` bytes.
        let len = retry(|| unsafe {
            libc::readlinkat(dir.as_raw_fd(), leaf.as_ptr(), text.as_mut_ptr().cast(), text.len())
        })?;
        text.truncate(len);
        Ok(text)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        // A descriptor of its own, because reading a directory moves the position.
        let dir = self.dir(path)?;
        let fd = open_at(dir.as_raw_fd(), c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?.into_raw_fd();
        // SAFETY: `fd` is open and owned here; on success the stream owns it.
        let stream = unsafe { libc::fdopendir(fd) };
        if stream.is_null() {
            let e = io::Error::last_os_error();
            // SAFETY: `fdopendir` failed, so `fd` is still owned here.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            return Err(e);
        }
        let result = read_names(stream);
        // SAFETY: `stream` is open, and not used after this.
        unsafe { libc::closedir(stream) };
        result
    }

    fn try_lock(&self, fd: Fd, mode: LockMode) -> io::Result<bool> {
        // SAFETY: all zeros is a valid `flock`: the whole file, and the pid 0 that OFD locks require.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = match mode {
            LockMode::Exclusive => libc::F_WRLCK as libc::c_short,
            LockMode::Shared => libc::F_RDLCK as libc::c_short,
        };
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        // SAFETY: `lock` is valid for the whole call.
        match check(|| unsafe { libc::fcntl(fd.0, libc::F_OFD_SETLK, &lock) }) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn is_locked(&self, fd: Fd) -> io::Result<bool> {
        // SAFETY: all zeros is a valid `flock`: the whole file, and the pid 0 that OFD locks require.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = libc::F_RDLCK as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        // SAFETY: `lock` is valid for the whole call, which may write to it.
        check(|| unsafe { libc::fcntl(fd.0, libc::F_OFD_GETLK, &mut lock) })?;
        Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
    }

    fn share(&self, fd: Fd, from: Fd) -> io::Result<()> {
        // SAFETY: takes no pointer.
        check(|| unsafe { libc::ioctl(fd.0, libc::FICLONE, from.0) })
    }

    fn can_share(&self, from: Fd) -> io::Result<bool> {
        // Tried with a file that never has a name: nothing else tells whether XFS was made with shared extents.
        let mode = if self.mode == LEAVE { 0o600 } else { self.mode };
        let tried = open_at(self.root.as_raw_fd(), c".", libc::O_RDWR | libc::O_TMPFILE, mode)
            .and_then(|fd| self.share(Fd(fd.as_raw_fd()), from));
        match tried {
            // EISDIR: a file system that does not know files without a name.
            Err(e) if cannot_share(&e) || e.raw_os_error() == Some(libc::EISDIR) => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn link_from(&self, from: Fd, to: &str) -> io::Result<()> {
        let (dir, leaf) = self.parent(to)?;
        // Without a capability a file that is open has no other path for `linkat`.
        let path = CString::new(format!("/proc/self/fd/{}", from.0))?;
        // SAFETY: both paths are NUL-terminated strings that outlive the call.
        check(|| unsafe {
            libc::linkat(libc::AT_FDCWD, path.as_ptr(), dir.as_raw_fd(), leaf.as_ptr(), libc::AT_SYMLINK_FOLLOW)
        })
    }

    fn may_link(&self, from: Fd) -> io::Result<bool> {
        let (file, root) = (stat(from)?, stat(Fd(self.root.as_raw_fd()))?);
        if file.st_mode & libc::S_IFMT != libc::S_IFREG || file.st_dev != root.st_dev || file.st_mode & 0o222 != 0 {
            return Ok(false);
        }
        let readers = if self.mode == LEAVE { libc::S_IRUSR } else { self.mode & 0o444 };
        // Members of a group of its own are some of the others, and its owner need not be the store's.
        let by_all = file.st_mode & libc::S_IROTH != 0;
        let by_group = file.st_mode & libc::S_IRGRP != 0 && (self.group == LEAVE || file.st_gid == self.group);
        // SAFETY: takes nothing, and never fails.
        let by_owner = file.st_mode & libc::S_IRUSR != 0 && file.st_uid == unsafe { libc::geteuid() };
        Ok(match readers {
            _ if by_all => true,
            readers if readers & libc::S_IROTH != 0 => false,
            readers if readers & libc::S_IRGRP != 0 => by_group,
            _ => by_owner,
        })
    }

    fn boot(&self) -> Boot {
        self.boot
    }

    fn space(&self) -> io::Result<Space> {
        // SAFETY: all zeros is a valid `statvfs`.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` is valid for writing for the whole call.
        check(|| unsafe { libc::fstatvfs(self.root.as_raw_fd(), &mut stat) })?;
        // `f_bavail`, because what the system keeps for root would run out only for the others.
        let unit = stat.f_frsize;
        Ok(Space { total: stat.f_blocks.saturating_mul(unit), free: stat.f_bavail.saturating_mul(unit) })
    }
}

/// The kind of the file system on which an open file lies.
fn file_system(file: &File) -> io::Result<libc::c_long> {
    // SAFETY: all zeros is a valid `statfs`.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for writing for the whole call.
    check(|| unsafe { libc::fstatfs(file.as_raw_fd(), &mut stat) })?;
    Ok(stat.f_type)
}

/// What a file open with `O_DIRECT` wants; `None` if it takes no such requests.
fn direct_units(fd: Fd) -> io::Result<Option<Units>> {
    // SAFETY: all zeros is a valid `statx`.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let pointer: *mut libc::statx = &mut found;
    // SAFETY: the path is a NUL-terminated string, and `found` valid for writing, for the whole call.
    check(|| unsafe { libc::statx(fd.0, c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, pointer) })?;
    if found.stx_mask & libc::STATX_DIOALIGN == 0 {
        // Before Linux 6.1, or of a file system that does not say: pages are what every disk takes.
        return Ok(Some(Units { memory: PAGE, file: PAGE }));
    }
    let units = Units { memory: found.stx_dio_mem_align as usize, file: found.stx_dio_offset_align as usize };
    let usable = units.memory.is_power_of_two() && units.file.is_power_of_two();
    Ok((usable && units.memory <= PAGE && units.file <= MAX_DIRECT_UNIT).then_some(units))
}

/// What the system knows of an open file.
fn stat(fd: Fd) -> io::Result<libc::stat> {
    // SAFETY: all zeros is a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let pointer: *mut libc::stat = &mut stat;
    // SAFETY: `stat` is valid for writing for the whole call.
    check(|| unsafe { libc::fstat(fd.0, pointer) })?;
    Ok(stat)
}

/// Names of an open directory stream. A name that is not UTF-8 is not the store's, and is passed over.
fn read_names(stream: *mut libc::DIR) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    loop {
        // An end and an error differ only in errno.
        // SAFETY: errno is this thread's own.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: `stream` is an open stream that only this function uses.
        let entry = unsafe { libc::readdir64(stream) };
        if entry.is_null() {
            return match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(0) => Ok(names),
                e => Err(e),
            };
        }
        // SAFETY: the entry is valid until the next `readdir64`, and its name ends with NUL.
        let name = unsafe { CStr::from_ptr((*entry).d_name.as_ptr()) };
        match name.to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
}

/// Directory bits for files of this mode: who may read a file may enter the directory.
fn dir_mode(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}

/// Makes a directory and its missing parents, each synced into the one above. `false` if it was there.
fn make_dirs(path: &Path, mode: u32) -> io::Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_dirs(parent, LEAVE)?;
    let mode = if mode == LEAVE { 0o777 } else { dir_mode(mode) };
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        other => other?,
    }
    File::open(parent)?.sync_all()?;
    Ok(true)
}

/// Opens relative to a directory.
fn open_at(dir: RawFd, leaf: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: `leaf` is a NUL-terminated string that outlives the call.
    let fd = retry(|| unsafe { libc::openat(dir, leaf.as_ptr(), flags | libc::O_CLOEXEC, mode) as isize })?;
    // SAFETY: the call just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
