//! The disk as one simulated process sees it through system calls: its own descriptors, and its own trouble.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use archipelago_core::blocker::sim::SimDisk;
use archipelago_core::blocker::sys::{Fd, Open, Sys};
use archipelago_core::blocker::{Boot, LockMode, Space, VolumeId};
use parking_lot::Mutex;

use crate::wire::{Lie, Planted, Turn, Wire, flip, has_sums};

/// One process's view of a shared [`SimDisk`].
pub struct FileMount {
    disk: Arc<SimDisk>,
    wire: Arc<Wire>,
    /// Open descriptors and what they lead to.
    fds: Mutex<BTreeMap<i32, String>>,
}

/// Files whose reads are checked against a checksum: nodes, records, checksums, journals when they are replayed, and data
/// that has checksums.
#[derive(PartialEq, Eq)]
enum Checked {
    No,
    Always,
    Journal,
    /// Of this owner and epoch.
    Data(VolumeId, u64),
}

fn checked(path: &str) -> Checked {
    let name = path.rsplit('/').next().unwrap_or(path);
    if name.starts_with("pack.") || name.starts_with("sum.") || path.starts_with("catalog/") {
        Checked::Always
    } else if name.starts_with("log.") {
        Checked::Journal
    } else {
        data(name).unwrap_or(Checked::No)
    }
}

fn data(name: &str) -> Option<Checked> {
    let mut fields = name.strip_prefix("data.")?.split('.').map(|field| u64::from_str_radix(field, 16));
    match (fields.next()?, fields.next()?) {
        (Ok(owner), Ok(epoch)) => Some(Checked::Data(VolumeId(owner), epoch)),
        _ => None,
    }
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl FileMount {
    pub fn new(disk: Arc<SimDisk>, wire: Arc<Wire>) -> Arc<FileMount> {
        Arc::new(FileMount { disk, wire, fds: Mutex::default() })
    }

    /// The kernel closes what a killed process had open, and so drops its locks.
    pub fn close_all(&self) {
        for fd in std::mem::take(&mut *self.fds.lock()).into_keys() {
            self.disk.close(Fd(fd));
        }
    }

    fn change(&self, what: &str, object: &dyn Fn() -> String) -> io::Result<()> {
        match self.wire.change(what, object) {
            Turn::Go => Ok(()),
            Turn::Fail => {
                // The disk itself fails, so that a failed sync loses its pages.
                self.disk.fail_at(self.disk.steps() + 1, libc::EIO);
                Ok(())
            }
            Turn::Dead => {
                self.close_all();
                Err(gone())
            }
        }
    }

    fn read(&self) -> io::Result<()> {
        match self.wire.read() {
            Turn::Go => Ok(()),
            _ => Err(gone()),
        }
    }

    fn path(&self, fd: Fd) -> String {
        self.fds.lock().get(&fd.0).cloned().unwrap_or_default()
    }

    /// What the disk has of the checksums of an epoch, past the counters of this process.
    fn sums(&self, owner: VolumeId, epoch: u64, buf: &mut [u8], at: u64) -> usize {
        let path = format!("data/{:02x}/sum.{owner}.{epoch:016x}", owner.0 as u8);
        let Ok(fd) = self.disk.open(&path, Open::Read) else { return 0 };
        let read = self.disk.preadv(fd, &mut [IoSliceMut::new(buf)], at).unwrap_or(0);
        self.disk.close(fd);
        read
    }

    fn alive(&self) -> io::Result<()> {
        if self.wire.is_dead() { Err(gone()) } else { Ok(()) }
    }

    fn adopt(&self, path: &str, fd: io::Result<Fd>) -> io::Result<Fd> {
        let fd = fd?;
        self.fds.lock().insert(fd.0, path.to_string());
        Ok(fd)
    }
}

impl Sys for FileMount {
    fn open(&self, path: &str, how: Open) -> io::Result<Fd> {
        match how {
            Open::Create | Open::CreateNew => self.change("create", &|| path.to_string())?,
            _ => self.alive()?,
        }
        self.adopt(path, self.disk.open(path, how))
    }

    fn close(&self, fd: Fd) {
        if self.fds.lock().remove(&fd.0).is_some() {
            self.disk.close(fd);
        }
    }

    fn preadv(&self, fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.read()?;
        let kind = self.fds.lock().get(&fd.0).map_or(Checked::No, |path| checked(path));
        let lie = match kind {
            Checked::No => None,
            Checked::Data(owner, epoch) => {
                let len = bufs.iter().map(|b| b.len() as u64).sum();
                let sums = |buf: &mut [u8], at| self.sums(owner, epoch, buf, at);
                has_sums((owner, epoch), offset, len, sums).then(|| self.wire.checked_read(false)).flatten()
            }
            kind => self.wire.checked_read(kind == Checked::Journal),
        };
        let n = self.disk.preadv(fd, bufs, offset)?;
        match lie {
            None => {}
            Some(Lie::Bit(bit)) if n > 0 => flip(bufs, bit % (n as u32 * 8)),
            Some(Lie::Bit(_)) => {}
            // From further on, as much as there is; behind the end of the file the disk shows what it pleases.
            Some(Lie::Misdirected) => {
                bufs.iter_mut().for_each(|b| b.fill(0));
                self.disk.preadv(fd, bufs, offset + 512)?;
            }
        }
        Ok(n)
    }

    fn pwritev(&self, fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.change("pwritev", &|| format!("{} at {offset}", self.path(fd)))?;
        self.disk.pwritev(fd, bufs, offset)
    }

    fn ftruncate(&self, fd: Fd, len: u64) -> io::Result<()> {
        self.change("ftruncate", &|| format!("{} to {len}", self.path(fd)))?;
        self.disk.ftruncate(fd, len)
    }

    fn reserve(&self, fd: Fd, len: u64) -> io::Result<()> {
        self.change("reserve", &|| format!("{} {len}", self.path(fd)))?;
        self.disk.reserve(fd, len)
    }

    fn punch(&self, fd: Fd, offset: u64, len: u64) -> io::Result<()> {
        self.change("punch", &|| format!("{} {offset}+{len}", self.path(fd)))?;
        self.disk.punch(fd, offset, len)
    }

    fn fdatasync(&self, fd: Fd) -> io::Result<()> {
        self.change("fdatasync", &|| self.path(fd))?;
        match self.disk.fdatasync(fd) {
            Err(_) if self.wire.planted() == Some(Planted::RetrySync) => self.disk.fdatasync(fd),
            other => other,
        }
    }

    fn len(&self, fd: Fd) -> io::Result<u64> {
        self.alive()?;
        self.disk.len(fd)
    }

    fn allocated(&self, fd: Fd) -> io::Result<u64> {
        self.alive()?;
        self.disk.allocated(fd)
    }

    fn is_at(&self, fd: Fd, path: &str) -> io::Result<bool> {
        self.alive()?;
        self.disk.is_at(fd, path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.change("sync_dir", &|| path.to_string())?;
        self.disk.sync_dir(path)
    }

    fn syncfs(&self) -> io::Result<()> {
        self.change("syncfs", &|| String::new())?;
        self.disk.syncfs()
    }

    fn mkdir(&self, path: &str) -> io::Result<()> {
        self.change("mkdir", &|| path.to_string())?;
        self.disk.mkdir(path)
    }

    fn rmdir(&self, path: &str) -> io::Result<()> {
        self.change("rmdir", &|| path.to_string())?;
        self.disk.rmdir(path)
    }

    fn dir_id(&self, path: &str) -> io::Result<Option<u64>> {
        self.alive()?;
        self.disk.dir_id(path)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.change("link", &|| format!("{from} as {to}"))?;
        self.disk.link(from, to)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change("rename", &|| format!("{from} to {to}"))?;
        self.disk.rename(from, to)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.change("unlink", &|| path.to_string())?;
        self.disk.unlink(path)
    }

    fn symlink(&self, target: &str, path: &str) -> io::Result<()> {
        self.change("symlink", &|| path.to_string())?;
        self.disk.symlink(target, path)
    }

    fn readlink(&self, path: &str) -> io::Result<Vec<u8>> {
        self.alive()?;
        self.disk.readlink(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.read()?;
        self.disk.list(path)
    }

    fn try_lock(&self, fd: Fd, mode: LockMode) -> io::Result<bool> {
        self.alive()?;
        self.disk.try_lock(fd, mode)
    }

    fn is_locked(&self, fd: Fd) -> io::Result<bool> {
        self.alive()?;
        self.disk.is_locked(fd)
    }

    fn boot(&self) -> Boot {
        self.disk.boot()
    }

    fn space(&self) -> io::Result<Space> {
        self.alive()?;
        self.disk.space()
    }
}
