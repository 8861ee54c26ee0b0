//! Counts what the engine asks of the system: bytes by calls, and bytes at the block device.

use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use archipelago_core::blocker::real_sys::RealSys;
use archipelago_core::blocker::sys::{Fd, Open, Sys};
use archipelago_core::blocker::{Boot, LockMode, Space};
use archipelago_core::format::log::SEGMENT_HEAD;

/// The system, counted.
pub struct CountingSys {
    inner: RealSys,
    /// Bytes written by calls, without the zeros of segments made ahead.
    pub written: AtomicU64,
    /// Bytes of calls that wrote at least 64 KiB of nothing but zeros behind a head: segments made ahead.
    pub prepared: AtomicU64,
    /// Bytes read by calls.
    pub read: AtomicU64,
    /// Syncs of any kind.
    pub syncs: AtomicU64,
}

impl CountingSys {
    /// Over the system.
    pub fn new(inner: RealSys) -> Arc<CountingSys> {
        let zero = AtomicU64::default;
        Arc::new(CountingSys { inner, written: zero(), prepared: zero(), read: zero(), syncs: zero() })
    }
}

/// A moment of the counters.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// See [`CountingSys`].
    pub written: u64,
    /// See [`CountingSys`].
    pub prepared: u64,
    /// See [`CountingSys`].
    pub read: u64,
    /// See [`CountingSys`].
    pub syncs: u64,
}

impl CountingSys {
    /// The counters now.
    pub fn counts(&self) -> Counts {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Counts {
            written: get(&self.written),
            prepared: get(&self.prepared),
            read: get(&self.read),
            syncs: get(&self.syncs),
        }
    }
}

impl Counts {
    /// What came since an earlier moment.
    pub fn since(self, earlier: Counts) -> Counts {
        Counts {
            written: self.written - earlier.written,
            prepared: self.prepared - earlier.prepared,
            read: self.read - earlier.read,
            syncs: self.syncs - earlier.syncs,
        }
    }
}

impl Sys for CountingSys {
    fn open(&self, path: &str, how: Open) -> io::Result<Fd> {
        self.inner.open(path, how)
    }
    fn close(&self, fd: Fd) {
        self.inner.close(fd);
    }
    fn preadv(&self, fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let n = self.inner.preadv(fd, bufs, offset)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
    fn pwritev(&self, fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let len: usize = bufs.iter().map(|b| b.len()).sum();
        // A segment begins with its head, written together with its first zeros.
        let head = if offset == 0 { SEGMENT_HEAD as usize } else { 0 };
        let blank = len >= 64 << 10 && bufs.iter().flat_map(|b| b.iter()).skip(head).all(|x| *x == 0);
        let counter = if blank { &self.prepared } else { &self.written };
        counter.fetch_add(len as u64, Ordering::Relaxed);
        self.inner.pwritev(fd, bufs, offset)
    }
    fn ftruncate(&self, fd: Fd, len: u64) -> io::Result<()> {
        self.inner.ftruncate(fd, len)
    }
    fn punch(&self, fd: Fd, offset: u64, len: u64) -> io::Result<()> {
        self.inner.punch(fd, offset, len)
    }
    fn fdatasync(&self, fd: Fd) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.inner.fdatasync(fd)
    }
    fn len(&self, fd: Fd) -> io::Result<u64> {
        self.inner.len(fd)
    }
    fn allocated(&self, fd: Fd) -> io::Result<u64> {
        self.inner.allocated(fd)
    }
    fn is_at(&self, fd: Fd, path: &str) -> io::Result<bool> {
        self.inner.is_at(fd, path)
    }
    fn may_allocate(&self, fd: Fd, offset: u64, len: u64) -> io::Result<bool> {
        self.inner.may_allocate(fd, offset, len)
    }
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.inner.sync_dir(path)
    }
    fn syncfs(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.inner.syncfs()
    }
    fn rmdir(&self, path: &str) -> io::Result<()> {
        self.inner.rmdir(path)
    }
    fn dir_id(&self, path: &str) -> io::Result<Option<u64>> {
        self.inner.dir_id(path)
    }
    fn mkdir(&self, path: &str) -> io::Result<()> {
        self.inner.mkdir(path)
    }
    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.link(from, to)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn unlink(&self, path: &str) -> io::Result<()> {
        self.inner.unlink(path)
    }
    fn symlink(&self, target: &str, path: &str) -> io::Result<()> {
        self.inner.symlink(target, path)
    }
    fn readlink(&self, path: &str) -> io::Result<Vec<u8>> {
        self.inner.readlink(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.inner.list(path)
    }
    fn try_lock(&self, fd: Fd, mode: LockMode) -> io::Result<bool> {
        self.inner.try_lock(fd, mode)
    }
    fn is_locked(&self, fd: Fd) -> io::Result<bool> {
        self.inner.is_locked(fd)
    }
    fn boot(&self) -> Boot {
        self.inner.boot()
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
}

/// A file system of its own on a loop device, so that what reaches the device can be counted. Needs root.
pub struct LoopFs {
    image: std::path::PathBuf,
    device: String,
    /// Where it is mounted.
    pub mount: std::path::PathBuf,
}

fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let out = std::process::Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_string())
    } else {
        Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr).trim()))
    }
}

impl LoopFs {
    /// Makes one of `size` (as `truncate` takes it) under `dir`.
    pub fn new(dir: &Path, size: &str) -> Result<LoopFs, String> {
        let image = dir.join("device.img");
        let mount = dir.join("mnt");
        std::fs::create_dir_all(&mount).map_err(|e| e.to_string())?;
        let text = image.display().to_string();
        run("truncate", &["-s", size, &text])?;
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", &text])?;
        let device = run("losetup", &["--direct-io=on", "--find", "--show", &text])?;
        if let Err(e) = run("mount", &[&device, &mount.display().to_string()]) {
            let _ = run("losetup", &["-d", &device]);
            return Err(e);
        }
        Ok(LoopFs { image, device, mount })
    }

    /// No file system of its own: the one that `dir` lies on, shared with all that the machine does.
    pub fn below(dir: &Path) -> LoopFs {
        LoopFs { image: std::path::PathBuf::new(), device: String::new(), mount: dir.to_path_buf() }
    }

    /// Bytes written to the device so far.
    pub fn written(&self) -> u64 {
        if self.device.is_empty() {
            return device_written(&self.mount).unwrap_or(0);
        }
        let name = self.device.trim_start_matches("/dev/");
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap_or_default();
        stat.split_whitespace().nth(6).and_then(|s| s.parse::<u64>().ok()).unwrap_or(0) * 512
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        if self.device.is_empty() {
            return;
        }
        let _ = run("umount", &[&self.mount.display().to_string()]);
        let _ = run("losetup", &["-d", &self.device]);
        let _ = std::fs::remove_file(&self.image);
    }
}

/// Bytes written so far to the block device below a path, by every program of the machine; `None` where the system does
/// not tell.
pub fn device_written(path: &Path) -> Option<u64> {
    use std::os::linux::fs::MetadataExt;
    let dev = std::fs::metadata(path).ok()?.st_dev();
    let stat = format!("/sys/dev/block/{}:{}/stat", libc::major(dev), libc::minor(dev));
    let sectors: u64 = std::fs::read_to_string(stat).ok()?.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * 512)
}
