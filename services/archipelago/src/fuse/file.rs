//! What the kernel may ask of the one file.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::limits::{MAX_BACKGROUND, MAX_REQUEST, SEEK_EXTENTS};
use crate::disk::device::{Device, DeviceResult, Errno as DiskErrno};

/// The kernel asks anew each time: a disk may have become larger.
const FRESH: Duration = Duration::ZERO;
/// No pages are kept, and writes at different places do not wait for one another.
const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

/// A disk as a file.
pub struct DiskFile {
    disk: Arc<dyn Device>,
    uid: u32,
    gid: u32,
    mounted: SystemTime,
}

thread_local! {
    /// What a thread reads into. As large as the largest request that it met.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl DiskFile {
    /// The file belongs to whom the process belongs to.
    pub fn new(disk: Arc<dyn Device>) -> DiskFile {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        DiskFile { disk, uid, gid, mounted: SystemTime::now() }
    }

    fn attributes(&self) -> FileAttr {
        let size = self.disk.size();
        FileAttr {
            ino: INodeNo::ROOT,
            size,
            // What is taken is known to the store alone; the whole size, so that no copying program takes the file for holes.
            blocks: size.div_ceil(512),
            atime: self.mounted,
            mtime: self.mounted,
            ctime: self.mounted,
            crtime: self.mounted,
            kind: FileType::RegularFile,
            perm: if self.disk.read_only() { 0o400 } else { 0o600 },
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: self.disk.block_size().max(4096),
            flags: 0,
        }
    }

    /// The part of a range that lies in the disk, which is all of it for a reader that knows the size.
    fn read_into(&self, buffer: &mut Vec<u8>, offset: u64, len: u32) -> DeviceResult<usize> {
        let len = u64::from(len.min(MAX_REQUEST)).min(self.disk.size().saturating_sub(offset)) as usize;
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        if len > 0 {
            self.disk.wait_turn(len as u64, &|| false);
            self.disk.read(&mut [IoSliceMut::new(&mut buffer[..len])], offset)?;
        }
        Ok(len)
    }

    fn write(&self, offset: u64, data: &[u8]) -> DeviceResult<u32> {
        if self.disk.read_only() {
            return Err(DiskErrno(libc::EROFS));
        }
        let room = self.disk.size().saturating_sub(offset);
        if room == 0 && !data.is_empty() {
            return Err(DiskErrno(libc::ENOSPC));
        }
        // As at the end of any device: what fits is written.
        let data = &data[..data.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        self.disk.wait_turn(data.len() as u64, &|| false);
        self.disk.write(&[IoSlice::new(data)], offset, false)?;
        Ok(data.len() as u32)
    }

    fn fallocate(&self, offset: u64, len: u64, mode: i32) -> DeviceResult<()> {
        if self.disk.read_only() {
            return Err(DiskErrno(libc::EROFS));
        }
        if offset.checked_add(len).is_none_or(|end| end > self.disk.size()) {
            // A disk does not grow by being written to.
            return Err(DiskErrno(libc::ENOSPC));
        }
        self.disk.wait_turn(0, &|| false);
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            libc::FALLOC_FL_PUNCH_HOLE => self.disk.write_zeroes(offset, len, false, false),
            libc::FALLOC_FL_ZERO_RANGE => self.disk.write_zeroes(offset, len, true, false),
            // Room is not kept for what is not written.
            _ => Err(DiskErrno(libc::EOPNOTSUPP)),
        }
    }

    fn seek(&self, offset: i64, whence: i32) -> DeviceResult<u64> {
        let size = self.disk.size();
        let mut at = u64::try_from(offset).ok().filter(|at| *at < size).ok_or(DiskErrno(libc::ENXIO))?;
        let hole = match whence {
            libc::SEEK_HOLE => true,
            libc::SEEK_DATA => false,
            _ => return Err(DiskErrno(libc::EINVAL)),
        };
        // Each step takes in at least one range, of which a map has no more than its size allows.
        while at < size {
            let extents = self.disk.extents(at, size - at, SEEK_EXTENTS)?;
            if let Some(found) = extents.iter().find(|extent| extent.zero == hole) {
                return Ok(found.offset.max(at));
            }
            match extents.last() {
                Some(last) if last.offset + last.len > at => at = last.offset + last.len,
                _ => return Err(DiskErrno(libc::EIO)),
            }
        }
        if hole { Ok(size) } else { Err(DiskErrno(libc::ENXIO)) }
    }
}

fn errno(error: DiskErrno) -> Errno {
    Errno::from_i32(error.0)
}

fn done(result: DeviceResult<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for DiskFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = || io::Error::from_raw_os_error(libc::EINVAL);
        config.set_max_write(MAX_REQUEST).map_err(|_| refused())?;
        config.set_max_background(MAX_BACKGROUND).map_err(|_| refused())?;
        // Each is an improvement that an older kernel may not have.
        for flag in [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP] {
            let _ = config.add_capabilities(flag);
        }
        Ok(())
    }

    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FRESH, &self.attributes());
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
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
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Times are nobody's business. A size that it has already is what `truncate` of a device comes to.
        if mode.is_some() || uid.is_some() || gid.is_some() || size.is_some_and(|size| size != self.disk.size()) {
            return reply.error(Errno::EPERM);
        }
        reply.attr(&FRESH, &self.attributes());
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.disk.read_only() && flags.0 & libc::O_ACCMODE != libc::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        reply.opened(FileHandle(0), OPENED);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| match self.read_into(buffer, offset, size) {
            Ok(len) => reply.data(&buffer[..len]),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write(offset, data) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // At each `close`. Nothing is promised before `fsync`.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.disk.flush(), reply);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, len: u64, mode: i32, reply: ReplyEmpty) {
        done(self.fallocate(offset, len, mode), reply);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.seek(offset, whence) {
            // No disk is larger than what a file offset can say.
            Ok(at) => reply.offset(at as i64),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let refused = mask.contains(AccessFlags::X_OK) || mask.contains(AccessFlags::W_OK) && self.disk.read_only();
        done(if refused { Err(DiskErrno(libc::EACCES)) } else { Ok(()) }, reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.disk.size().div_ceil(4096);
        reply.statfs(blocks, 0, 0, 1, 0, 4096, 255, 4096);
    }
}
