//! No sync belongs into the time in which writes are not admitted: here every sync looks whether it is that time.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::blocker::file::{FileBlocker, FileOptions};
use crate::blocker::memory::MemoryBlocker;
use crate::blocker::sim::SimDisk;
use crate::blocker::sys::{Fd, Open, Sys};
use crate::blocker::{Blocker, Boot, LockMode, Object, Space};
use crate::store::{CreateOptions, InitOptions, Store, StoreOptions};
use crate::volume::stalls::HELD;
use crate::volume::{Mode, Volume};

/// A disk that counts syncs, and those by a thread that has stopped a volume.
struct Watching {
    disk: Arc<SimDisk>,
    syncs: AtomicU64,
    stopped: AtomicU64,
}

impl Watching {
    fn sync(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if HELD.get() > 0 {
            self.stopped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Methods that do nothing but ask the disk.
macro_rules! ask_the_disk {
    ($(fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $result:ty;)*) => {
        $(fn $name(&self $(, $arg: $type)*) -> $result {
            self.disk.$name($($arg),*)
        })*
    };
}

impl Sys for Watching {
    ask_the_disk! {
        fn open(&self, path: &str, how: Open) -> io::Result<Fd>;
        fn close(&self, fd: Fd) -> ();
        fn preadv(&self, fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize>;
        fn pwritev(&self, fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
        fn ftruncate(&self, fd: Fd, len: u64) -> io::Result<()>;
        fn punch(&self, fd: Fd, offset: u64, len: u64) -> io::Result<()>;
        fn len(&self, fd: Fd) -> io::Result<u64>;
        fn allocated(&self, fd: Fd) -> io::Result<u64>;
        fn is_at(&self, fd: Fd, path: &str) -> io::Result<bool>;
        fn mkdir(&self, path: &str) -> io::Result<()>;
        fn rmdir(&self, path: &str) -> io::Result<()>;
        fn dir_id(&self, path: &str) -> io::Result<Option<u64>>;
        fn link(&self, from: &str, to: &str) -> io::Result<()>;
        fn rename(&self, from: &str, to: &str) -> io::Result<()>;
        fn unlink(&self, path: &str) -> io::Result<()>;
        fn symlink(&self, target: &str, path: &str) -> io::Result<()>;
        fn readlink(&self, path: &str) -> io::Result<Vec<u8>>;
        fn list(&self, path: &str) -> io::Result<Vec<String>>;
        fn try_lock(&self, fd: Fd, mode: LockMode) -> io::Result<bool>;
        fn is_locked(&self, fd: Fd) -> io::Result<bool>;
        fn boot(&self) -> Boot;
        fn space(&self) -> io::Result<Space>;
    }

    fn fdatasync(&self, fd: Fd) -> io::Result<()> {
        self.sync();
        self.disk.fdatasync(fd)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.sync();
        self.disk.sync_dir(path)
    }

    fn syncfs(&self) -> io::Result<()> {
        self.sync();
        self.disk.syncfs()
    }
}

#[test]
fn no_sync_happens_while_writes_are_stopped_for_snapshots_groups_and_checkpoints() {
    let watching = Arc::new(Watching { disk: SimDisk::new(), syncs: AtomicU64::new(0), stopped: AtomicU64::new(0) });
    let blocker = Arc::new(FileBlocker::new(watching.clone(), FileOptions::default()));
    blocker.make_layout().unwrap();
    Store::init_on(blocker.clone(), &InitOptions { block_size: 64 << 10, mode: 0o660, group: None }).unwrap();
    let options = StoreOptions { max_unfolded: 1 << 20, first_segment: 64 << 10, ..StoreOptions::default() };
    let store = Store::open_on(blocker, options).unwrap();
    let volumes: Vec<Volume> = ["volume-a", "volume-b"]
        .map(|name| {
            store.create(name, &CreateOptions { size: 8 << 20, block_size: None }).unwrap();
            store.open_volume(name, Mode::ReadWrite).unwrap()
        })
        .into();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (thread, volume) in volumes.iter().chain(&volumes).enumerate() {
            let stop = &stop;
            scope.spawn(move || {
                let mut n = thread as u64;
                while !stop.load(Ordering::Relaxed) {
                    n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let len = if n >> 60 == 0 { 50_000 } else { 4096 };
                    volume.write_at(&vec![n as u8; len], (n >> 20) % (7 << 20)).unwrap();
                }
            });
        }
        for round in 0..15 {
            volumes[0].snapshot(&format!("single-{round}")).unwrap();
            volumes[1].checkpoint().unwrap();
            let group = ["a", "b"].map(|v| (format!("volume-{v}"), format!("group-{v}-{round}")));
            store.snapshot_group(&group).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let stalls = volumes[0].stalls();
    assert!(stalls.count >= 30 && stalls.p50 <= stalls.p95 && stalls.p95 <= stalls.max, "{stalls:?}");
    assert!(watching.syncs.load(Ordering::Relaxed) > 100);
    assert_eq!(watching.stopped.load(Ordering::Relaxed), 0, "syncs while writes were stopped");
}

#[test]
fn a_writer_makes_the_first_segment_before_it_is_admitted() {
    let blocker = MemoryBlocker::new();
    Store::init_on(blocker.clone(), &InitOptions::default()).unwrap();
    let store = Store::open_on(blocker.clone(), StoreOptions::default()).unwrap();
    store.create("volume", &CreateOptions { size: 8 << 20, block_size: None }).unwrap();
    let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
    let inner = &volume.inner;
    let segments = || blocker.objects(inner.id).unwrap().iter().filter(|o| matches!(o, Object::Log(..))).count();
    assert_eq!(segments(), 0);
    std::thread::scope(|scope| {
        let stopped = inner.stop_changes();
        let write = scope.spawn(|| volume.write_at(&[1; 4096], 0));
        let made = (0..5000).any(|_| {
            std::thread::sleep(Duration::from_millis(2));
            segments() > 0
        });
        drop(stopped);
        write.join().unwrap().unwrap();
        assert!(made, "whoever stops changes would wait for the sync of a segment");
    });
    assert_eq!(segments(), 1);
}
