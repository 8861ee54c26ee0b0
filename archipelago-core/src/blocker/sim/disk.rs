//! [`SimDisk`]: the system calls of the file backend, answered from memory.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{Files, Inode, Node, Op, ROOT};
use super::{Change, Content, Crashable, PAGE, Room, Syncs, Taken, Timeline, UNLIMITED};
use crate::blocker::ring::{InTurn, Ring};
use crate::blocker::sys::{Fd, Open, Sys, Units};
use crate::blocker::{Boot, LockMode, Space};

/// Longest file, as on ext4 with pages of 4 KiB: the backend has to split what is longer.
pub const MAX_FILE: u64 = (16 << 40) - PAGE;

/// Longest name of a directory entry, as on the usual file systems.
const MAX_ENTRY: usize = 255;

/// Open files of one disk; a backend that leaks descriptors ends here and not in the machine's memory.
const MAX_FDS: usize = 1 << 16;

/// A file system in memory that loses in a power cut what was not synced; see [the module](super).
///
/// Paths are relative to its root, which exists; other directories have to be made. Directories cannot be renamed, as
/// the backend never does.
pub struct SimDisk {
    inner: Mutex<Inner>,
    /// Power cuts so far, and one.
    boots: u64,
}

#[derive(Clone, Copy)]
struct Handle {
    ino: u64,
    writable: bool,
    /// Takes whole units only; what it shows and what may be lost of it is as with any other, which is what a disk's own cache does.
    direct: bool,
}

/// What a simulated disk wants of requests past the page cache: more than any real one in use, so that none is right by chance.
const UNITS: Units = Units { memory: 512, file: PAGE as usize };

struct Inner {
    line: Timeline<Files>,
    fds: HashMap<i32, Handle>,
    /// Never used twice, so that a use after close is noticed.
    next_fd: i32,
    locks: HashMap<u64, Vec<(i32, LockMode)>>,
    syncs: Syncs,
    room: Option<Room>,
    shares: bool,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl SimDisk {
    /// An empty disk without a limit of space.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> Arc<SimDisk> {
        SimDisk::with(Files::new(), None, 1)
    }

    fn with(files: Files, room: Option<Room>, boots: u64) -> Arc<SimDisk> {
        let inner = Inner {
            line: Timeline::new(files),
            fds: HashMap::new(),
            next_fd: 3,
            locks: HashMap::new(),
            syncs: Syncs::None,
            room,
            shares: false,
        };
        Arc::new(SimDisk { inner: Mutex::new(inner), boots })
    }

    /// See [`Crashable::steps`].
    pub fn steps(&self) -> u64 {
        self.inner.lock().line.steps()
    }

    /// See [`Crashable::crash_at`].
    pub fn crash_at(&self, step: u64, seed: u64) -> Arc<SimDisk> {
        let (files, room) = {
            let inner = self.inner.lock();
            (inner.line.at(step), inner.room)
        };
        SimDisk::with(files.survivor(seed), room, self.boots + 1)
    }

    /// See [`Crashable::kill_at`].
    pub fn kill_at(&self, step: u64) -> Arc<SimDisk> {
        let inner = self.inner.lock();
        SimDisk::with(inner.line.at(step), inner.room, self.boots)
    }

    /// See [`Crashable::evict_at`].
    pub fn evict_at(&self, step: u64) -> Arc<SimDisk> {
        let inner = self.inner.lock();
        let mut files = inner.line.at(step);
        files.evict();
        SimDisk::with(files, inner.room, self.boots)
    }

    /// See [`Crashable::fail_at`].
    pub fn fail_at(&self, step: u64, errno: i32) {
        self.inner.lock().line.fail_at(step, errno);
    }

    /// See [`Crashable::clear_failures`].
    pub fn clear_failures(&self) {
        self.inner.lock().line.clear_failures();
    }

    /// See [`Crashable::drop_syncs`].
    pub fn drop_syncs(&self, what: Syncs) {
        self.inner.lock().syncs = what;
    }

    /// All files that have a name, by their paths.
    pub fn files(&self) -> Vec<Taken<String>> {
        let inner = self.inner.lock();
        let (live, mut files, mut left) = (inner.line.live(), Vec::new(), vec![(String::new(), ROOT)]);
        while let Some((path, ino)) = left.pop() {
            for (name, ino) in live.directory(ino).into_iter().flat_map(|directory| directory.entries().iter()) {
                let what = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                match live.get(*ino).map(|inode| &inode.node) {
                    Some(Node::Directory(_)) => left.push((what, *ino)),
                    Some(Node::File(content)) => {
                        let pages = content.current();
                        files.push(Taken { what, len: pages.len(), pages: pages.numbers() });
                    }
                    Some(Node::Link(_)) | None => {}
                }
            }
        }
        files
    }

    /// See [`Crashable::forget_history`].
    pub fn forget_history(&self) {
        let inner = &mut *self.inner.lock();
        let fds = &inner.fds;
        inner.line.forget(|files| files.collect(|ino| is_open(fds, ino)));
    }

    /// See [`Crashable::set_space`].
    pub fn set_space(&self, total: u64, free: u64) {
        let mut inner = self.inner.lock();
        inner.room = Some(Room::new(total, free, inner.used()));
    }

    /// From now on files can share their room. Those that do are not counted once, as on a real disk, but each.
    pub fn allow_sharing(&self) {
        self.inner.lock().shares = true;
    }

    /// Files that are open now: shows a leak, or a cache of descriptors that keeps too many.
    pub fn open_files(&self) -> usize {
        self.inner.lock().fds.len()
    }
}

fn is_open(fds: &HashMap<i32, Handle>, ino: u64) -> bool {
    fds.values().any(|handle| handle.ino == ino)
}

impl Inner {
    /// One counted call; `failed` is what it does if it was planned to fail.
    fn step(&mut self, op: Op, failed: Op) -> io::Result<()> {
        self.line.step(op, failed).map_err(errno)
    }

    fn handle(&self, fd: Fd) -> io::Result<Handle> {
        self.fds.get(&fd.0).copied().ok_or_else(|| errno(libc::EBADF))
    }

    /// Refuses what a file that is open past the page cache does not take.
    fn check_units<B: Deref<Target = [u8]>>(&self, fd: Fd, bufs: &[B], offset: u64) -> io::Result<()> {
        let fits =
            |buf: &B| (buf.as_ptr() as usize).is_multiple_of(UNITS.memory) && buf.len().is_multiple_of(UNITS.file);
        let whole = offset.is_multiple_of(UNITS.file as u64) && bufs.iter().all(fits);
        if self.handle(fd)?.direct && !whole { Err(errno(libc::EINVAL)) } else { Ok(()) }
    }

    fn writable(&self, fd: Fd) -> io::Result<u64> {
        let handle = self.handle(fd)?;
        if handle.writable { Ok(handle.ino) } else { Err(errno(libc::EBADF)) }
    }

    fn content(&self, ino: u64) -> io::Result<&Content> {
        self.line.live().file(ino).ok_or_else(|| errno(libc::EBADF))
    }

    fn inode(&self, ino: u64) -> io::Result<&Inode> {
        self.line.live().get(ino).ok_or_else(|| errno(libc::ENOENT))
    }

    fn child(&self, dir: u64, name: &str) -> io::Result<Option<u64>> {
        match self.line.live().directory(dir) {
            Some(directory) => Ok(directory.entries().get(name).copied()),
            None => Err(errno(libc::ENOTDIR)),
        }
    }

    /// The directory at a path; empty and `.` are the root.
    fn directory(&self, path: &str) -> io::Result<u64> {
        let mut at = ROOT;
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            at = self.child(at, part)?.ok_or_else(|| errno(libc::ENOENT))?;
        }
        match self.inode(at)?.node {
            Node::Directory(_) => Ok(at),
            // A link is not followed, as below a real root.
            Node::File(_) | Node::Link(_) => Err(errno(libc::ENOTDIR)),
        }
    }

    /// The directory that a path is in, and its last part.
    fn parent<'a>(&self, path: &'a str) -> io::Result<(u64, &'a str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        // A leading slash or `..` would leave the store's root on a real system.
        if path.starts_with('/') || matches!(name, "" | "." | "..") || path.split('/').any(|part| part == "..") {
            return Err(errno(libc::EINVAL));
        }
        if name.len() > MAX_ENTRY {
            return Err(errno(libc::ENAMETOOLONG));
        }
        Ok((self.directory(dir)?, name))
    }

    /// The file or link at a path, with its directory and name.
    fn existing<'a>(&self, path: &'a str) -> io::Result<(u64, &'a str, u64)> {
        let (dir, name) = self.parent(path)?;
        let ino = self.child(dir, name)?.ok_or_else(|| errno(libc::ENOENT))?;
        match self.inode(ino)?.node {
            Node::File(_) | Node::Link(_) => Ok((dir, name, ino)),
            Node::Directory(_) => Err(errno(libc::EISDIR)),
        }
    }

    fn used(&self) -> u64 {
        self.line.live().used(|ino| is_open(&self.fds, ino))
    }
}

impl Crashable for SimDisk {
    fn steps(&self) -> u64 {
        self.steps()
    }
    fn crash_at(&self, step: u64, seed: u64) -> Arc<SimDisk> {
        self.crash_at(step, seed)
    }
    fn kill_at(&self, step: u64) -> Arc<SimDisk> {
        self.kill_at(step)
    }
    fn evict_at(&self, step: u64) -> Arc<SimDisk> {
        self.evict_at(step)
    }
    fn fail_at(&self, step: u64, errno: i32) {
        self.fail_at(step, errno)
    }
    fn clear_failures(&self) {
        self.clear_failures()
    }
    fn drop_syncs(&self, what: Syncs) {
        self.drop_syncs(what)
    }
    fn forget_history(&self) {
        self.forget_history()
    }
    fn set_space(&self, total: u64, free: u64) {
        self.set_space(total, free)
    }
}

impl Sys for SimDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Fd> {
        let mut inner = self.inner.lock();
        if inner.fds.len() >= MAX_FDS {
            return Err(errno(libc::EMFILE));
        }
        let (dir, name) = inner.parent(path)?;
        let ino = match (inner.child(dir, name)?, how) {
            (Some(_), Open::CreateNew) => return Err(errno(libc::EEXIST)),
            (Some(_), _) => match inner.existing(path)?.2 {
                ino if matches!(inner.inode(ino)?.node, Node::Link(_)) => return Err(errno(libc::ELOOP)),
                ino => ino,
            },
            (None, Open::Read | Open::ReadWrite) => return Err(errno(libc::ENOENT)),
            (None, Open::Create | Open::CreateNew) => {
                let ino = inner.line.live().next();
                inner.step(Op::Create { dir, name: name.to_string(), directory: false }, Op::Nothing)?;
                ino
            }
        };
        let fd = inner.next_fd;
        inner.next_fd += 1;
        inner.fds.insert(fd, Handle { ino, writable: how != Open::Read, direct: false });
        Ok(Fd(fd))
    }

    fn close(&self, fd: Fd) {
        let mut inner = self.inner.lock();
        if let Some(handle) = inner.fds.remove(&fd.0)
            && let Some(holders) = inner.locks.get_mut(&handle.ino)
        {
            holders.retain(|(holder, _)| *holder != fd.0);
        }
    }

    fn bypass(&self, fd: Fd) -> io::Result<Option<Units>> {
        let mut inner = self.inner.lock();
        let handle = inner.fds.get_mut(&fd.0).ok_or_else(|| errno(libc::EBADF))?;
        handle.direct = true;
        Ok(Some(UNITS))
    }

    fn ring(&self, requests: usize) -> io::Result<Option<Box<dyn Ring>>> {
        Ok(Some(Box::new(InTurn::new(requests))))
    }

    fn preadv(&self, fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let inner = self.inner.lock();
        inner.check_units(fd, bufs, offset)?;
        let pages = inner.content(inner.handle(fd)?.ino)?.current();
        let mut at = offset;
        for buf in bufs {
            let n = pages.len().saturating_sub(at).min(buf.len() as u64) as usize;
            pages.read(at, &mut buf[..n]);
            at += n as u64;
            if n < buf.len() {
                break;
            }
        }
        Ok((at - offset) as usize)
    }

    fn pwritev(&self, fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let ino = inner.writable(fd)?;
        inner.check_units(fd, bufs, offset)?;
        let len: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
        if len == 0 {
            return Ok(());
        }
        let end = match offset.checked_add(len) {
            Some(end) if end <= MAX_FILE => end,
            _ => return Err(errno(libc::EFBIG)),
        };
        let content = inner.content(ino)?;
        let fits = match inner.room {
            Some(room) => content.current().end_within(offset, end, room.left(inner.used())),
            None => end,
        };
        if fits > offset {
            let change = content.prepare_write(bufs, offset, fits);
            inner.step(Op::Change { ino, change }, Op::Nothing)?;
        }
        if fits < end { Err(errno(libc::ENOSPC)) } else { Ok(()) }
    }

    fn ftruncate(&self, fd: Fd, len: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let ino = inner.writable(fd)?;
        if len > MAX_FILE {
            return Err(errno(libc::EFBIG));
        }
        inner.step(Op::Change { ino, change: Change::Truncate(len) }, Op::Nothing)
    }

    /// As written zeros: what a power cut leaves of the one can be left of the other.
    fn reserve(&self, fd: Fd, len: u64) -> io::Result<()> {
        let from = self.len(fd)?;
        let zeros = vec![0; len.saturating_sub(from) as usize];
        self.pwritev(fd, &[IoSlice::new(&zeros)], from)
    }

    fn punch(&self, fd: Fd, offset: u64, len: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let ino = inner.writable(fd)?;
        match offset.checked_add(len) {
            _ if len == 0 => return Err(errno(libc::EINVAL)),
            Some(end) if end <= MAX_FILE => {}
            _ => return Err(errno(libc::EFBIG)),
        }
        inner.step(Op::Change { ino, change: Change::Punch { offset, len } }, Op::Nothing)
    }

    fn fdatasync(&self, fd: Fd) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let ino = inner.handle(fd)?.ino;
        let op = if inner.syncs.files() { Op::Nothing } else { Op::Sync { ino } };
        inner.step(op, Op::FailedSync { ino })
    }

    fn len(&self, fd: Fd) -> io::Result<u64> {
        let inner = self.inner.lock();
        Ok(inner.content(inner.handle(fd)?.ino)?.current().len())
    }

    fn allocated(&self, fd: Fd) -> io::Result<u64> {
        let inner = self.inner.lock();
        Ok(inner.content(inner.handle(fd)?.ino)?.current().count() * PAGE)
    }

    fn is_at(&self, fd: Fd, path: &str) -> io::Result<bool> {
        let inner = self.inner.lock();
        let ino = inner.handle(fd)?.ino;
        let (dir, name) = inner.parent(path)?;
        Ok(inner.child(dir, name)? == Some(ino))
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let ino = inner.directory(path)?;
        let op = if inner.syncs.directories() { Op::Nothing } else { Op::SyncDirectory { ino } };
        inner.step(op, Op::Nothing)
    }

    fn syncfs(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let op = Op::SyncAll { files: !inner.syncs.files(), directories: !inner.syncs.directories() };
        inner.step(op, Op::FailedSyncAll)
    }

    fn mkdir(&self, path: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let (dir, name) = inner.parent(path)?;
        if inner.child(dir, name)?.is_some() {
            return Err(errno(libc::EEXIST));
        }
        inner.step(Op::Create { dir, name: name.to_string(), directory: true }, Op::Nothing)
    }

    fn rmdir(&self, path: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let (dir, name) = inner.parent(path)?;
        let ino = inner.child(dir, name)?.ok_or_else(|| errno(libc::ENOENT))?;
        match inner.line.live().directory(ino) {
            None => return Err(errno(libc::ENOTDIR)),
            Some(directory) if !directory.entries().is_empty() => return Err(errno(libc::ENOTEMPTY)),
            Some(_) => {}
        }
        inner.step(Op::Unlink { dir, name: name.to_string() }, Op::Nothing)
    }

    fn dir_id(&self, path: &str) -> io::Result<Option<u64>> {
        // Numbers of inodes are never used twice here.
        self.inner.lock().directory(path).map(Some)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let (_, _, ino) = inner.existing(from)?;
        let (dir, name) = inner.parent(to)?;
        if inner.child(dir, name)?.is_some() {
            return Err(errno(libc::EEXIST));
        }
        inner.step(Op::Link { dir, name: name.to_string(), ino }, Op::Nothing)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let (from_dir, from, ino) = inner.existing(from)?;
        let (to_dir, name) = inner.parent(to)?;
        match inner.child(to_dir, name)? {
            // Two names of one file: the system leaves both as they are and reports success.
            Some(other) if other == ino => return Ok(()),
            Some(_) => drop(inner.existing(to)?),
            None => {}
        }
        let op = Op::Rename { from_dir, from: from.to_string(), to_dir, to: name.to_string() };
        inner.step(op, Op::Nothing)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let (dir, name, _) = inner.existing(path)?;
        inner.step(Op::Unlink { dir, name: name.to_string() }, Op::Nothing)
    }

    fn symlink(&self, target: &str, path: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let (dir, name) = inner.parent(path)?;
        if target.is_empty() {
            return Err(errno(libc::ENOENT));
        }
        if inner.child(dir, name)?.is_some() {
            return Err(errno(libc::EEXIST));
        }
        inner.step(Op::Symlink { dir, name: name.to_string(), target: target.to_string() }, Op::Nothing)
    }

    fn readlink(&self, path: &str) -> io::Result<Vec<u8>> {
        let inner = self.inner.lock();
        let (_, _, ino) = inner.existing(path)?;
        match &inner.inode(ino)?.node {
            Node::Link(target) => Ok(target.clone().into_bytes()),
            _ => Err(errno(libc::EINVAL)),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let inner = self.inner.lock();
        let ino = inner.directory(path)?;
        Ok(inner.line.live().directory(ino).map_or_else(Vec::new, |dir| dir.entries().keys().cloned().collect()))
    }

    fn try_lock(&self, fd: Fd, mode: LockMode) -> io::Result<bool> {
        let mut inner = self.inner.lock();
        let handle = inner.handle(fd)?;
        // As with OFD locks, an exclusive lock needs a descriptor that may write.
        if mode == LockMode::Exclusive && !handle.writable {
            return Err(errno(libc::EBADF));
        }
        let holders = inner.locks.entry(handle.ino).or_default();
        let others = |(holder, held): &(i32, LockMode)| {
            *holder != fd.0 && (mode == LockMode::Exclusive || *held == LockMode::Exclusive)
        };
        if holders.iter().any(others) {
            return Ok(false);
        }
        holders.retain(|(holder, _)| *holder != fd.0);
        holders.push((fd.0, mode));
        Ok(true)
    }

    fn is_locked(&self, fd: Fd) -> io::Result<bool> {
        let mut inner = self.inner.lock();
        let ino = inner.handle(fd)?.ino;
        let holders = inner.locks.entry(ino).or_default();
        Ok(holders.iter().any(|(holder, mode)| *holder != fd.0 && *mode == LockMode::Exclusive))
    }

    fn share(&self, fd: Fd, from: Fd) -> io::Result<()> {
        let whole = {
            let inner = self.inner.lock();
            if !inner.shares {
                return Err(errno(libc::EOPNOTSUPP));
            }
            let pages = inner.content(inner.handle(from)?.ino)?.current();
            let mut whole = vec![0; pages.len() as usize];
            pages.read(0, &mut whole);
            whole
        };
        self.pwritev(fd, &[IoSlice::new(&whole)], 0)
    }

    fn can_share(&self, _: Fd) -> io::Result<bool> {
        Ok(self.inner.lock().shares)
    }

    fn link_from(&self, from: Fd, to: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let ino = inner.handle(from)?.ino;
        let (dir, name) = inner.parent(to)?;
        if inner.child(dir, name)?.is_some() {
            return Err(errno(libc::EEXIST));
        }
        inner.step(Op::Link { dir, name: name.to_string(), ino }, Op::Nothing)
    }

    /// Files have no owner and no mode here.
    fn may_link(&self, _: Fd) -> io::Result<bool> {
        Ok(true)
    }

    fn boot(&self) -> Boot {
        super::boot(self.boots)
    }

    fn space(&self) -> io::Result<Space> {
        let inner = self.inner.lock();
        Ok(match inner.room {
            Some(room) => Space { total: room.total, free: room.left(inner.used()) * PAGE },
            None => Space { total: UNLIMITED, free: UNLIMITED },
        })
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
