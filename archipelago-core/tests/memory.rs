//! A short history of everything that a volume does, on the backend in memory: small enough to be run under Miri as well, which watches the memory that
//! the engine and the crates under it use.
#![allow(clippy::unwrap_used)]

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::{Background, CloneOptions, CreateOptions, InitOptions, Mode, Store, StoreOptions, WriteFlags};

const SECTOR: u64 = 4096;
const BLOCK: u64 = 64 << 10;

#[test]
fn a_volume_is_written_folded_snapshotted_cloned_and_read_back() {
    let blocker = MemoryBlocker::new();
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, mode: 0o600, group: None }).unwrap();
    let options = StoreOptions {
        node_cache: 64 << 10,
        background: Background::Manual,
        max_unfolded: 1 << 20,
        first_segment: 64 << 10,
        direct: false,
        seed: Some(7),
    };
    let store = Store::open_on(blocker.clone(), options.clone()).unwrap();
    store.create("volume-1", &CreateOptions { size: 4 * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("volume-1", Mode::ReadWrite).unwrap();
    let read = |volume: &archipelago_core::Volume, offset: u64| {
        let mut byte = [0xff];
        volume.read_at(&mut byte, offset).unwrap();
        byte[0]
    };

    // Odd edges, a logged write, one that goes to the data object, and enough extents for a node of their own.
    volume.write_at(&[1; 700], SECTOR - 100).unwrap();
    volume.write_at(&vec![2; 10 * SECTOR as usize], BLOCK).unwrap();
    for sector in 0..4 {
        volume.write_at(&[3; SECTOR as usize], 2 * BLOCK + sector * 2 * SECTOR).unwrap();
    }
    volume.checkpoint().unwrap();
    volume.snapshot("snap-one").unwrap();
    volume.write_at(&[4; 10], BLOCK + 5).unwrap();
    volume.discard(2 * BLOCK, SECTOR).unwrap();
    volume.write_zeroes(BLOCK + 6, 2, false, WriteFlags::default()).unwrap();
    volume.flush().unwrap();
    volume.resize(3 * BLOCK, true).unwrap();
    volume.resize(4 * BLOCK, false).unwrap();

    store.clone_snapshot("snap-one", "clone-1", &CloneOptions::default()).unwrap();
    let clone = store.open_volume("clone-1", Mode::ReadWrite).unwrap();
    clone.write_at(&[5; 3], 0).unwrap();
    let all = |volume: &archipelago_core::Volume| {
        [0, SECTOR - 100, BLOCK + 5, BLOCK + 6, 2 * BLOCK].map(|offset| read(volume, offset))
    };
    assert_eq!(all(&volume), [0, 1, 4, 0, 0]);
    assert_eq!(all(&clone), [5, 1, 2, 2, 3]);
    assert_eq!(all(&store.open_volume("snap-one", Mode::ReadOnly).unwrap()), [0, 1, 2, 2, 3]);
    clone.close().unwrap();
    volume.close().unwrap();

    let store = Store::open_on(blocker, options).unwrap();
    assert_eq!(all(&store.open_volume("volume-1", Mode::ReadWrite).unwrap()), [0, 1, 4, 0, 0]);
    assert_eq!(all(&store.open_volume("clone-1", Mode::ReadOnly).unwrap()), [5, 1, 2, 2, 3]);
}
