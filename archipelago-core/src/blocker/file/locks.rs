//! Volume locks: open file description locks on a file of their own, which is never renamed, and removed only by who holds
//! the lock.
//!
//! A lock counts only on the file that its path leads to *after* it was taken: who opened the file, and got the lock when
//! the file had been removed, begins again. So two holders cannot be on two files of one name. Let A be the first of them: its
//! file was in place after A had the lock, and only A takes it away, giving up the lock with it. While A holds the lock
//! the path leads to A's file, and whoever looks behind his own lock finds that his file is another.
//!
//! They belong to the descriptor and not to the process, so two handles in one process exclude each other, and closing
//! some other descriptor of the same file drops nothing.
//!
//! The lock file stays empty. Who holds the lock exclusively is the text of a symbolic link beside it, which leads nowhere: it
//! fits in the inode, so that an open volume takes no block for it.

use std::io;
use std::sync::Arc;

use super::{FileBlocker, fail, names};
use crate::blocker::sys::{Fd, Open, Sys};
use crate::blocker::{LockGuard, LockMode, LockOutcome, VolumeId, check_owner, is_owner};
use crate::error::{Error, Result};

/// Attempts to lock a file that is removed meanwhile. It is removed once in the life of a volume, at its end.
const ATTEMPTS: usize = 16;

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

/// A lock that is held, and the record of its exclusive holder.
struct Guard {
    file: Handle,
    volume: VolumeId,
    mode: LockMode,
    /// The process that left a record. A forked child has a copy of this; the record is its parent's.
    left_by: Option<u32>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Before the lock goes, after which it would be another's. Who is killed leaves it to the next holder.
        if self.left_by == Some(std::process::id()) {
            let _ = self.file.sys.unlink(&names::owner_path(self.volume));
        }
    }
}

impl LockGuard for Guard {
    fn remove(mut self: Box<Self>) -> Result<()> {
        if self.mode != LockMode::Exclusive {
            return Ok(());
        }
        // The file last: as long as it is there, whoever looks for locks without volumes finds it again.
        self.left_by = None;
        for path in [names::owner_path(self.volume), names::lock_path(self.volume)] {
            match self.file.sys.unlink(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail("remove", path, e)),
                _ => {}
            }
        }
        // Not synced: nobody is harmed if a power cut brings it back.
        Ok(())
    }
}

impl FileBlocker {
    pub(super) fn lock_volume(&self, volume: VolumeId, mode: LockMode, owner: &[u8]) -> Result<LockOutcome> {
        check_owner(owner)?;
        let path = names::lock_path(volume);
        for _ in 0..ATTEMPTS {
            if let Some(outcome) = self.try_volume(volume, &path, mode, owner)? {
                return Ok(outcome);
            }
        }
        Err(Error::TooBusy(format!("{path}: removed again and again while it is locked")))
    }

    /// One attempt to take the lock; `None` if its file was removed meanwhile.
    fn try_volume(&self, volume: VolumeId, path: &str, mode: LockMode, owner: &[u8]) -> Result<Option<LockOutcome>> {
        let (fd, writable) =
            match self.files.with_dir(names::Dir::of_volume(volume), || self.sys.open(path, Open::Create)) {
                // Those who may only read the store share it.
                Err(e) if mode == LockMode::Shared && matches!(e.raw_os_error(), Some(libc::EACCES | libc::EROFS)) => {
                    (self.sys.open(path, Open::Read).map_err(|e| fail("open", path, e))?, false)
                }
                fd => (fd.map_err(|e| fail("open", path, e))?, true),
            };
        let file = Handle::new(&self.sys, fd);
        if !self.sys.try_lock(fd, mode).map_err(|e| fail("lock", path, e))? {
            return Ok(Some(LockOutcome::Refused(self.read_owner(volume))));
        }
        if !self.sys.is_at(fd, path).map_err(|e| fail("look at", path, e))? {
            return Ok(None);
        }
        let mut guard = Guard { file, volume, mode, left_by: None };
        match mode {
            LockMode::Exclusive => {
                guard.left_by = self.leave_owner(volume, owner)?.then(std::process::id);
                self.files.reopen(volume);
            }
            // Nobody has it exclusively now, so what a dead holder left misleads.
            LockMode::Shared if writable => {
                self.leave_owner(volume, &[])?;
            }
            LockMode::Shared => {}
        }
        Ok(Some(LockOutcome::Held(Box::new(guard))))
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
        Ok(Some(self.read_owner(volume)))
    }

    /// What the holder of the lock left; empty if it cannot be read or is nothing that a holder leaves.
    fn read_owner(&self, volume: VolumeId) -> Vec<u8> {
        let path = names::owner_path(volume);
        let owner = match self.sys.readlink(&path) {
            // Its holder may just be replacing it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.sys.readlink(&path),
            other => other,
        };
        owner.ok().filter(|owner| is_owner(owner)).unwrap_or_default()
    }

    /// Replaces the record, which only the holder of the lock does; returns whether there is one now. Not synced: it
    /// says who holds the lock, and no lock outlives a power cut.
    fn leave_owner(&self, volume: VolumeId, owner: &[u8]) -> Result<bool> {
        let path = names::owner_path(volume);
        // All of it is ASCII, as was checked.
        let target = String::from_utf8_lossy(owner);
        let left = match &*target {
            "" => self.drop_owner(&path).map(|()| false),
            target => match self.sys.symlink(target, &path) {
                // Of a holder that died.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    self.drop_owner(&path).and_then(|()| self.sys.symlink(target, &path)).map(|()| true)
                }
                other => other.map(|()| true),
            },
        };
        match left {
            Err(e) if is_courtesy(&e) => Ok(false),
            other => other.map_err(|e| fail("write", &path, e)),
        }
    }

    fn drop_owner(&self, path: &str) -> io::Result<()> {
        match self.sys.unlink(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Whether the record is done without: a volume can be locked, and so removed, on a full disk, and on a file system that
/// has no links.
fn is_courtesy(e: &io::Error) -> bool {
    let code = e.raw_os_error();
    matches!(code, Some(libc::ENOSPC | libc::EDQUOT | libc::EPERM | libc::EACCES | libc::EOPNOTSUPP | libc::ENOSYS))
}
