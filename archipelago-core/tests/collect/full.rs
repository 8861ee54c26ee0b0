//! A disk without room: what makes room again still works.

use std::sync::Arc;

use archipelago_core::blocker::Blocker;
use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::sim::SimDisk;
use archipelago_core::{CreateOptions, Error, InitOptions, Mode, Store};

use crate::store::{BLOCK, collect, fill, options};

#[test]
fn on_a_full_disk_snapshot_remove_collection_and_reopening_still_succeed() {
    let disk = SimDisk::new();
    let blocker: Arc<dyn Blocker> = Arc::new(FileBlocker::new(disk.clone(), FileOptions::default()));
    FileBlocker::new(disk.clone(), FileOptions::default()).make_layout().unwrap();
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let store = Store::open_on(blocker.clone(), options()).unwrap();
    disk.set_space(64 << 20, 64 << 20);
    for name in ["disk-1", "disk-2"] {
        store.create(name, &CreateOptions { size: 1 << 30, block_size: None }).unwrap();
    }
    let other = store.open_volume("disk-2", Mode::ReadWrite).unwrap();
    fill(&other, 1, 0, 200 * BLOCK);
    other.close().unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    fill(&volume, 2, 0, BLOCK);
    let mut written = 0;
    let refused = loop {
        match volume.write_at(&[7; 8 * BLOCK as usize], BLOCK + written) {
            Ok(()) => written += 8 * BLOCK,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::NoSpace(_)), "{refused}");
    volume.flush().unwrap();
    store.snapshot("disk-1", "snap-1").unwrap();
    let mut expect = vec![0; BLOCK as usize];
    volume.read_at(&mut expect, 0).unwrap();
    volume.close().unwrap();
    drop(volume);
    store.remove("disk-2").unwrap();
    drop(store);
    let store = Store::open_on(blocker.clone(), options()).unwrap();
    let report = collect(&store);
    assert!(report.data.bytes >= 200 * BLOCK, "{report:?}");
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    let mut bytes = vec![0; BLOCK as usize];
    volume.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == expect);
    fill(&volume, 3, 0, 100 * BLOCK);
    let after = first_bytes(&volume, 100 * BLOCK);
    volume.close().unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    assert!(first_bytes(&volume, 100 * BLOCK) == after);
    let snapshot = store.open_volume("snap-1", Mode::ReadOnly).unwrap();
    assert!(first_bytes(&snapshot, BLOCK) == expect);
}

fn first_bytes(volume: &archipelago_core::Volume, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    volume.read_at(&mut bytes, 0).unwrap();
    bytes
}
