//! The disk of [`Inodes`] as a FUSE file system. It answers one request at a time, in the order in which they come.
//!
//! Nothing is kept in the kernel: files are opened for direct I/O, so that every write arrives here at once, and names and
//! attributes are asked for each time. Locks are the kernel's own business and end with the mount. Owner, mode and times are not
//! subject to cuts: the store gives them no meaning beyond access.
//!
//! The kernel does not pass `syncfs` on to a FUSE file system, and says that it succeeded. So whatever relies on it (a clone of more
//! than 4 volumes by one command) cannot be tried here; the simulated disk has those.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use archipelago_core::blocker::sim::{InodeKind, InodeStat, Inodes};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;

use crate::power::Power;

/// How long the kernel may believe an answer.
const TTL: Duration = Duration::ZERO;
/// Inode numbers are never used again, so there is one generation.
const GENERATION: Generation = Generation(0);
const FLAGS: FopenFlags = FopenFlags::FOPEN_DIRECT_IO;
/// Bytes of one block that `statfs` counts, and blocks of the disk: 64 GiB, so that nothing believes it to be nearly full.
const BLOCK: u32 = 4096;
const BLOCKS: u64 = 16 << 20;
/// Longest name of an entry, as on the usual file systems.
const NAME: u32 = 255;

/// What a cut does not touch.
#[derive(Clone, Copy)]
struct Attributes {
    perm: u16,
    uid: u32,
    gid: u32,
    /// A file that is the name of a socket.
    socket: bool,
    changed: SystemTime,
}

/// All that is on the disk.
#[derive(Clone, Default)]
pub struct Image {
    pub inodes: Inodes,
    attributes: HashMap<u64, Attributes>,
}

impl Image {
    /// What a cut leaves of it.
    pub fn survivor(&self, seed: u64) -> Image {
        let inodes = self.inodes.survivor(seed);
        let attributes = self.attributes.iter().filter(|(ino, _)| inodes.stat(**ino).is_ok());
        Image { attributes: attributes.map(|(ino, a)| (*ino, *a)).collect(), inodes }
    }

    fn attributes(&self, ino: u64) -> Attributes {
        // Only the root was not made by a request.
        let root = Attributes { perm: 0o755, uid: 0, gid: 0, socket: false, changed: SystemTime::UNIX_EPOCH };
        self.attributes.get(&ino).copied().unwrap_or(root)
    }

    fn own(&mut self, ino: u64, request: &Request, mode: u32) {
        let socket = mode & libc::S_IFMT == libc::S_IFSOCK;
        let (perm, changed) = ((mode & 0o7777) as u16, SystemTime::now());
        self.attributes.insert(ino, Attributes { perm, uid: request.uid(), gid: request.gid(), socket, changed });
    }

    fn touch(&mut self, ino: u64) {
        if let Some(attributes) = self.attributes.get_mut(&ino) {
            attributes.changed = SystemTime::now();
        }
    }

    fn kind(&self, ino: u64, stat: &InodeStat) -> FileType {
        match stat.kind {
            InodeKind::Directory => FileType::Directory,
            InodeKind::Link => FileType::Symlink,
            InodeKind::File if self.attributes(ino).socket => FileType::Socket,
            InodeKind::File => FileType::RegularFile,
        }
    }

    fn attr(&self, ino: u64) -> io::Result<FileAttr> {
        let stat = self.inodes.stat(ino)?;
        let Attributes { perm, uid, gid, changed, .. } = self.attributes(ino);
        Ok(FileAttr {
            ino: INodeNo(ino),
            size: stat.len,
            blocks: stat.stored / 512,
            atime: changed,
            mtime: changed,
            ctime: changed,
            crtime: changed,
            kind: self.kind(ino, &stat),
            perm,
            nlink: stat.links,
            uid,
            gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        })
    }

    fn entry(&self, dir: u64, name: &str) -> io::Result<FileAttr> {
        self.attr(self.inodes.lookup(dir, name)?)
    }
}

/// An open directory: what was in it then, as POSIX allows, so that changes between two requests move nothing.
type Listing = Vec<(FileType, String, u64)>;

/// The file system of one mount.
pub struct Forgetful {
    image: Arc<Mutex<Image>>,
    power: Arc<Power>,
    listings: Mutex<HashMap<u64, Listing>>,
    /// Handles that were given to open directories.
    handles: AtomicU64,
}

impl Forgetful {
    pub fn new(image: Arc<Mutex<Image>>, power: Arc<Power>) -> Forgetful {
        Forgetful { image, power, listings: Mutex::default(), handles: AtomicU64::new(0) }
    }

    /// A call that changes nothing.
    fn look<T>(&self, call: impl FnOnce(&Image) -> io::Result<T>) -> io::Result<T> {
        self.power.look()?;
        call(&self.image.lock())
    }

    /// A call that changes something or makes it durable: the power may be cut before it.
    fn step<T>(&self, call: impl FnOnce(&mut Image) -> io::Result<T>) -> io::Result<T> {
        self.power.step()?;
        call(&mut self.image.lock())
    }

    /// Makes an inode and returns its attributes.
    fn make(
        &self,
        request: &Request,
        mode: u32,
        make: impl FnOnce(&mut Inodes) -> io::Result<u64>,
    ) -> io::Result<FileAttr> {
        self.step(|image| {
            let ino = make(&mut image.inodes)?;
            image.own(ino, request, mode);
            image.attr(ino)
        })
    }

    fn sync(&self, ino: INodeNo, reply: ReplyEmpty) {
        done(self.step(|image| image.inodes.sync(ino.0)), reply);
    }
}

/// The store's names are ASCII.
fn text(name: &OsStr) -> io::Result<&str> {
    name.to_str().ok_or_else(|| io::Error::from_raw_os_error(libc::EILSEQ))
}

fn done(result: io::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e.into()),
    }
}

fn found(result: io::Result<FileAttr>, reply: ReplyEntry) {
    match result {
        Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
        Err(e) => reply.error(e.into()),
    }
}

fn attributes(result: io::Result<FileAttr>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&TTL, &attr),
        Err(e) => reply.error(e.into()),
    }
}

impl Filesystem for Forgetful {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // As much as a disk takes at once, so that larger writes are torn between requests as well as between atoms.
        config.set_max_write(128 << 10).map(drop).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        found(text(name).and_then(|name| self.look(|image| image.entry(parent.0, name))), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(self.look(|image| image.attr(ino.0)), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = |image: &mut Image| {
            if let Some(size) = size {
                image.inodes.truncate(ino.0, size)?;
            }
            let mut kept = image.attributes(ino.0);
            kept.perm = mode.map_or(kept.perm, |mode| (mode & 0o7777) as u16);
            kept.uid = uid.unwrap_or(kept.uid);
            kept.gid = gid.unwrap_or(kept.gid);
            kept.changed = SystemTime::now();
            image.attributes.insert(ino.0, kept);
            image.attr(ino.0)
        };
        attributes(self.step(set), reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.look(|image| image.inodes.readlink(ino.0).map(str::to_string)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(e) => reply.error(e.into()),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: u32, reply: ReplyEntry) {
        let supported = matches!(mode & libc::S_IFMT, libc::S_IFSOCK | libc::S_IFREG | 0);
        let make = |name| self.make(req, mode & !umask, |inodes| inodes.create(parent.0, name));
        match supported {
            true => found(text(name).and_then(make), reply),
            false => reply.error(Errno::EPERM),
        }
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let make = |name| self.make(req, mode & !umask, |inodes| inodes.mkdir(parent.0, name));
        found(text(name).and_then(make), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(text(name).and_then(|name| self.step(|image| image.inodes.unlink(parent.0, name))), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(text(name).and_then(|name| self.step(|image| image.inodes.rmdir(parent.0, name))), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let make = |(name, target)| self.make(req, 0o777, |inodes| inodes.symlink(parent.0, name, target));
        found(text(name).and_then(|name| Ok((name, text(target.as_os_str())?))).and_then(make), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let rename = |(from, to)| self.step(|image| image.inodes.rename(parent.0, from, newparent.0, to));
        done(text(name).and_then(|from| Ok((from, text(newname)?))).and_then(rename), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let link = |name| {
            self.step(|image| {
                image.inodes.link(ino.0, newparent.0, name)?;
                image.attr(ino.0)
            })
        };
        found(text(newname).and_then(link), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncated = flags.0 & libc::O_TRUNC != 0;
        let opened = match truncated {
            true => self.step(|image| image.inodes.truncate(ino.0, 0)),
            false => self.look(|image| image.inodes.stat(ino.0).map(drop)),
        };
        match opened {
            Ok(()) => reply.opened(FileHandle(0), FLAGS),
            Err(e) => reply.error(e.into()),
        }
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        let make = |name| self.make(req, mode & !umask & 0o7777, |inodes| inodes.create(parent.0, name));
        match text(name).and_then(make) {
            Ok(attr) => reply.created(&TTL, &attr, GENERATION, FileHandle(0), FLAGS),
            Err(e) => reply.error(e.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buf = vec![0; size as usize];
        match self.look(|image| image.inodes.read(ino.0, offset, &mut buf)) {
            Ok(len) => reply.data(&buf[..len]),
            Err(e) => reply.error(e.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.step(|image| {
            image.touch(ino.0);
            image.inodes.write(ino.0, offset, data)
        });
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(e.into()),
        }
    }

    /// Said once, the kernel does not ask at every `close` again.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(ino, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(ino, reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let list = self.look(|image| {
            let entry = |(name, ino)| Ok((image.kind(ino, &image.inodes.stat(ino)?), name, ino));
            image.inodes.entries(ino.0)?.into_iter().map(entry).collect::<io::Result<Listing>>()
        });
        match list {
            Ok(list) => {
                let handle = self.handles.fetch_add(1, Ordering::Relaxed);
                self.listings.lock().insert(handle, list);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(e) => reply.error(e.into()),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listings = self.listings.lock();
        let list = listings.get(&fh.0).map_or(&[][..], |list| list);
        for (at, (kind, name, ino)) in list.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*ino), at as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, 1 << 20, 1 << 20, BLOCK, NAME, BLOCK);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let punched = self.step(|image| {
            image.touch(ino.0);
            image.inodes.punch(ino.0, offset, length)
        });
        done(punched, reply);
    }
}
