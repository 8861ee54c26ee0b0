use std::sync::Arc;

use tempfile::TempDir;

use crate::blocker::file::{FileBlocker, FileOptions};
use crate::digest::Digest;
use crate::format::header::Kind;
use crate::limits::{MAX_CAPTURED, MAX_FOLD_JOBS};
use crate::store::content::NewObject;
use crate::store::{Background, CloneOptions, InitOptions, Store, StoreOptions};
use crate::volume::{Mode, Volume};

/// Blocks of 64 KiB.
const SHIFT: u8 = 16;

/// A volume of which `count` blocks have one content, on a store whose background work nobody does.
fn volume(count: u64) -> (TempDir, Store, Volume) {
    // Real files: a disk in memory remembers each of the many calls.
    let dir = TempDir::new().unwrap();
    let blocker = Arc::new(FileBlocker::init(dir.path(), FileOptions::default()).unwrap());
    Store::init_on(blocker.clone(), &InitOptions { block_size: 1 << SHIFT, ..InitOptions::default() }).unwrap();
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
    let store = Store::open_on(blocker, options).unwrap();
    let digest: Digest = store.claim("test").unwrap().put(&[7; 1 << SHIFT]).unwrap().digest;
    let size = count << SHIFT;
    let new = NewObject { name: "object".into(), kind: Kind::Snapshot, size, block_size: None };
    store.create_object(&new, &mut (0..count).map(|_| Ok(digest))).unwrap();
    store.clone_snapshot("object", "clone-1", &CloneOptions::default()).unwrap();
    let volume = store.open_volume("clone-1", Mode::ReadWrite).unwrap();
    (dir, store, volume)
}

/// Maps that wait, and the memory that they take.
fn waiting(volume: &Volume) -> (usize, u64) {
    let jobs = volume.inner.writer.as_ref().unwrap().jobs.lock();
    (jobs.len(), jobs.iter().map(|job| job.memory).sum())
}

#[test]
fn maps_that_snapshots_captured_take_bounded_memory_and_are_folded() {
    let count = 300_000;
    let (_dir, store, volume) = volume(count);
    // Half a limit of changes, and they stay as they are: each snapshot captures them all.
    volume.discard(0, count << SHIFT).unwrap();
    let each = volume.inner.overlay.taken();
    assert!(each > MAX_CAPTURED / 6 && each < MAX_CAPTURED / 2, "{each} bytes");
    let mut most = 0;
    for n in 0..2 * MAX_FOLD_JOBS as u64 {
        // Something of its own, or there would be nothing to fold.
        volume.write_at(&[n as u8 + 1; 4096], n << SHIFT).unwrap();
        volume.snapshot(&format!("snap-{n:02}")).unwrap();
        let (_, memory) = waiting(&volume);
        assert!(memory <= MAX_CAPTURED, "{memory} bytes wait after snapshot {n}");
        most = most.max(memory);
        if n == 8 {
            volume.discard(0, count << SHIFT).unwrap();
        }
    }
    assert!(most > MAX_CAPTURED / 2, "{most} bytes at most");
    store.run_background().unwrap();
    assert_eq!(waiting(&volume), (0, 0));
    // None was left out for want of room.
    for n in 0..2 * MAX_FOLD_JOBS as u64 {
        let snapshot = store.open_volume(&format!("snap-{n:02}"), Mode::ReadOnly).unwrap();
        assert!(snapshot.inner.header.lock().header.ranges.is_empty(), "snapshot {n} waits to be folded");
        let mut seen = [0; 4096];
        snapshot.read_at(&mut seen, n << SHIFT).unwrap();
        assert_eq!(seen, [n as u8 + 1; 4096]);
    }
}

#[test]
fn few_maps_wait_however_small() {
    let (_dir, store, volume) = volume(64);
    for n in 0..3 * MAX_FOLD_JOBS as u64 {
        volume.write_at(&[n as u8 + 1; 4096], n << SHIFT).unwrap();
        volume.snapshot(&format!("snap-{n:02}")).unwrap();
        let (jobs, _) = waiting(&volume);
        assert!((1..=MAX_FOLD_JOBS).contains(&jobs), "{jobs} wait after snapshot {n}");
    }
    store.run_background().unwrap();
    for n in 0..3 * MAX_FOLD_JOBS as u64 {
        let snapshot = store.open_volume(&format!("snap-{n:02}"), Mode::ReadOnly).unwrap();
        assert!(snapshot.inner.header.lock().header.ranges.is_empty(), "snapshot {n} waits to be folded");
    }
}
