//! Volume locks: open file description locks on a file of their own, which is never renamed or removed.
//!
//! They belong to the descriptor and not to the process, so two handles in one process exclude each other, and closing
//! some other descriptor of the same file drops nothing.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use super::{FileBlocker, fail, names};
use crate::blocker::sys::{Fd, Open, Sys};
use crate::blocker::{LockGuard, LockMode, LockOutcome, VolumeId};
use crate::error::{Error, Result};

/// Longest record that an exclusive holder leaves, in bytes.
const MAX_OWNER: usize = 4096;

/// An open file, closed when dropped.
pub(super) struct Handle {
    sys: Arc<dyn Sys>,
    pub(super) fd: Fd,
}

impl Handle {
    pub(super) fn new(sys: &Arc<dyn Sys>, fd: Fd) -> Handle {
        Handle { sys: sys.clone(), fd }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.sys.close(self.fd);
    }
}

impl LockGuard for Handle {}

impl FileBlocker {
    pub(super) fn lock_volume(&self, volume: VolumeId, mode: LockMode, owner: &[u8]) -> Result<LockOutcome> {
        if owner.len() > MAX_OWNER {
            let (len, max) = (owner.len(), MAX_OWNER);
            return Err(Error::InvalidArgument(format!("a lock record of {len} bytes; at most {max} fit")));
        }
        let path = names::lock_path(volume);
        let (fd, writable) = match self.files.with_dir(volume, || self.sys.open(&path, Open::Create)) {
            // Those who may only read the store share it.
            Err(e) if mode == LockMode::Shared && matches!(e.raw_os_error(), Some(libc::EACCES | libc::EROFS)) => {
                (self.sys.open(&path, Open::Read).map_err(|e| fail("open", &path, e))?, false)
            }
            fd => (fd.map_err(|e| fail("open", &path, e))?, true),
        };
        let file = Handle::new(&self.sys, fd);
        if !self.sys.try_lock(fd, mode).map_err(|e| fail("lock", &path, e))? {
            return Ok(LockOutcome::Refused(self.read_owner(fd).map_err(|e| fail("read", &path, e))?));
        }
        // Not synced: the record says who holds the lock, and no lock outlives a power cut.
        match mode {
            LockMode::Exclusive => {
                self.write_owner(fd, owner).map_err(|e| fail("write", &path, e))?;
                self.files.reopen(volume);
            }
            // Nobody has it exclusively now, so what a dead holder left misleads.
            LockMode::Shared if writable => self.write_owner(fd, &[]).map_err(|e| fail("write", &path, e))?,
            LockMode::Shared => {}
        }
        Ok(LockOutcome::Held(Box::new(file)))
    }

    pub(super) fn holder(&self, volume: VolumeId) -> Result<Option<Vec<u8>>> {
        let path = names::lock_path(volume);
        let fd = match self.sys.open(&path, Open::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            fd => fd.map_err(|e| fail("open", &path, e))?,
        };
        let file = Handle::new(&self.sys, fd);
        if !self.sys.is_locked(file.fd).map_err(|e| fail("look at the lock of", &path, e))? {
            return Ok(None);
        }
        self.read_owner(file.fd).map(Some).map_err(|e| fail("read", &path, e))
    }

    fn read_owner(&self, fd: Fd) -> io::Result<Vec<u8>> {
        let mut owner = vec![0; MAX_OWNER];
        let len = self.sys.preadv(fd, &mut [IoSliceMut::new(&mut owner)], 0)?;
        owner.truncate(len);
        Ok(owner)
    }

    fn write_owner(&self, fd: Fd, owner: &[u8]) -> io::Result<()> {
        if self.sys.len(fd)? > 0 {
            self.sys.ftruncate(fd, 0)?;
        }
        if owner.is_empty() {
            return Ok(());
        }
        match self.sys.pwritev(fd, &[IoSlice::new(owner)], 0) {
            // The record is a courtesy; a volume can be removed from a full disk.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => self.sys.ftruncate(fd, 0),
            other => other,
        }
    }
}
