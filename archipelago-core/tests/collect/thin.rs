//! Thin objects: files of which a volume needs little are left by it, and go.

use std::ops::ControlFlow;
use std::sync::Arc;

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::{Blocker, Object};
use archipelago_core::{CreateOptions, Mode, Store, ThinOptions, Volume};

use crate::store::{BLOCK, collect, everything, fill, open, read_all};

/// Snapshots, between each of which something is written.
const SNAPSHOTS: u64 = 100;

fn none(_: archipelago_core::CompactReport) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A volume of which each block was written last in an epoch of its own: whole blocks, or one sector each.
fn aged(store: &Store, len: u64) -> Volume {
    store.create("disk-1", &CreateOptions { size: SNAPSHOTS * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    for n in 0..SNAPSHOTS {
        fill(&volume, n, n * BLOCK, len);
        volume.snapshot(&format!("snap-{n:03}")).unwrap();
        store.run_background().unwrap();
    }
    volume
}

fn files(blocker: &Arc<dyn Blocker>, which: fn(&Object) -> bool) -> usize {
    everything(blocker).iter().filter(|object| which(object)).count()
}

fn data(object: &Object) -> bool {
    matches!(object, Object::Data(..))
}

#[test]
fn epochs_of_which_a_volume_needs_little_are_left_once_no_snapshot_shares_them() {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let store = open(&blocker);
    let volume = aged(&store, BLOCK);
    let before = read_all(&volume);
    // As long as snapshots share them their files would stay.
    let shared = store.leave_thin(&ThinOptions::default(), &mut none).unwrap();
    assert_eq!((shared.composed, shared.copied), (0, 0));
    for n in 0..SNAPSHOTS {
        store.remove(&format!("snap-{n:03}")).unwrap();
    }
    collect(&store);
    assert_eq!(files(&blocker, data), SNAPSHOTS as usize);
    // A collection alone cannot take them away, nor does anybody care about a few.
    let few = ThinOptions { most: SNAPSHOTS as usize, ..ThinOptions::default() };
    assert_eq!(store.leave_thin(&few, &mut none).unwrap().copied, 0);
    // Stopped in the middle, it has done something, and goes on the next time.
    let mut left = 10;
    let some = ThinOptions { most: 0, ..ThinOptions::default() };
    let stopped = store.leave_thin(&some, &mut |_| {
        left -= 1;
        if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert_eq!(stopped.unwrap().copied, 10 * BLOCK);
    assert_eq!(store.leave_thin(&ThinOptions::default(), &mut none).unwrap().copied, (SNAPSHOTS - 10) * BLOCK);
    collect(&store);
    assert_eq!(files(&blocker, data), 1);
    assert!(read_all(&volume) == before);
    // What it went to is an epoch in use.
    assert_eq!(store.leave_thin(&some, &mut none).unwrap().copied, 0);
    volume.snapshot("snap-end").unwrap();
    volume.close().unwrap();
    let volume = store.open_volume("snap-end", Mode::ReadOnly).unwrap();
    assert!(read_all(&volume) == before);
}

#[test]
fn of_an_epoch_of_which_much_is_needed_nothing_is_copied() {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let store = open(&blocker);
    let volume = aged(&store, BLOCK);
    fill(&volume, 1, 0, 3 * BLOCK);
    volume.snapshot("snap-all").unwrap();
    for n in 0..SNAPSHOTS {
        store.remove(&format!("snap-{n:03}")).unwrap();
    }
    store.remove("snap-all").unwrap();
    let thick = ThinOptions { size: 2 * BLOCK, most: 0, rate: 0 };
    assert_eq!(store.leave_thin(&thick, &mut none).unwrap().copied, (SNAPSHOTS - 3) * BLOCK);
    collect(&store);
    assert_eq!(files(&blocker, data), 2);
}

#[test]
fn journal_segments_of_which_a_volume_needs_little_are_left() {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let store = open(&blocker);
    let volume = aged(&store, 4096);
    // Enough journal for more segments, all of it overwritten but for what was written first.
    for n in 0..3000 {
        volume.write_at(&[n as u8; 4096], n % 8 * 2 * 4096 + 8192).unwrap();
        if n % 100 == 99 {
            volume.snapshot(&format!("more-{n:04}")).unwrap();
            store.run_background().unwrap();
        }
    }
    let before = read_all(&volume);
    for info in store.list(&Default::default()).unwrap().entries {
        if info.read_only {
            store.remove(&info.name).unwrap();
        }
    }
    volume.checkpoint().unwrap();
    collect(&store);
    let segments = |object: &Object| matches!(object, Object::Log(..));
    let some = files(&blocker, segments);
    assert!(some >= 3, "{some} segments");
    store.leave_thin(&ThinOptions { most: 0, ..ThinOptions::default() }, &mut none).unwrap();
    collect(&store);
    let few = files(&blocker, segments);
    assert!(few <= 2 && few < some, "{few} segments of {some}");
    assert!(read_all(&volume) == before);
}
