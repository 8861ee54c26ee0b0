//! Holes where no map names anything, inside of what must stay: data of sealed epochs, journal segments, node packs.

use std::sync::Arc;

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::{Blocker, Object};
use archipelago_core::{CheckOptions, CreateOptions, Mode, Severity, Store, Volume};

use crate::store::{BLOCK, collect, everything, fill, open, read_all, room, sim_files};

/// Blocks of the volume.
const BLOCKS: u64 = 300;

fn backends() -> [Arc<dyn Blocker>; 2] {
    [MemoryBlocker::new(), sim_files()]
}

/// One sector into each of these blocks, by way of the journal.
fn scatter(volume: &Volume, seed: u64, blocks: impl Iterator<Item = u64>) {
    for block in blocks {
        fill(volume, seed + block, block * BLOCK + 4096 * (block % 16), 4096);
    }
}

fn taken(blocker: &Arc<dyn Blocker>, kind: fn(&Object) -> bool) -> u64 {
    everything(blocker).iter().filter(|o| kind(o)).map(|o| blocker.allocated(*o).unwrap()).sum()
}

fn is_log(object: &Object) -> bool {
    matches!(object, Object::Log(..))
}

fn is_pack(object: &Object) -> bool {
    matches!(object, Object::Pack(..))
}

/// The bytes of the volume here, and after it was opened again; and that nothing is damaged.
fn check(store: &Store, volume: Volume, expect: &[u8]) -> Volume {
    assert!(read_all(&volume) == expect);
    volume.close().unwrap();
    drop(volume);
    let report = store.check(&CheckOptions::default(), &mut |_| Ok(())).unwrap();
    assert!(report.findings.iter().all(|finding| finding.severity == Severity::Leak), "{:?}", report.findings);
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    assert!(read_all(&volume) == expect);
    volume
}

#[test]
fn of_a_segment_that_was_folded_only_the_pages_that_maps_name_stay() {
    for blocker in backends() {
        let store = open(&blocker);
        store.create("disk-1", &CreateOptions { size: BLOCKS * BLOCK, block_size: None }).unwrap();
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        // Most is written again after a snapshot that goes; one block in ten is not.
        scatter(&volume, 1, 0..BLOCKS);
        store.snapshot("disk-1", "snap-1").unwrap();
        scatter(&volume, 5000, (0..BLOCKS).filter(|block| block % 10 != 0));
        volume.checkpoint().unwrap();
        let expect = read_all(&volume);
        collect(&store);
        let before = taken(&blocker, is_log);
        store.remove("snap-1").unwrap();
        let report = collect(&store);
        assert!(report.segments.objects == 0 && report.holes.objects > 0, "{report:?}");
        let freed = before - taken(&blocker, is_log);
        // A sector lies in two pages, for a head of 512 bytes stands before it.
        let live = (BLOCKS / 10) * 2 * 4096;
        let written = (BLOCKS - BLOCKS / 10) * 4608;
        assert!(freed > 250 * 4608 - live, "{freed} bytes of {before}, {written} written again");
        assert_eq!(collect(&store).freed().bytes, 0, "not again");
        let volume = check(&store, volume, &expect);
        // In place, beside the holes.
        scatter(&volume, 9000, (0..BLOCKS).step_by(20));
        let expect = read_all(&volume);
        volume.checkpoint().unwrap();
        collect(&store);
        check(&store, volume, &expect).close().unwrap();
    }
}

#[test]
fn of_a_pack_only_the_pages_with_nodes_of_maps_stay() {
    for blocker in backends() {
        let store = open(&blocker);
        store.create("disk-1", &CreateOptions { size: BLOCKS * BLOCK, block_size: None }).unwrap();
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        // The first leaf is written anew in each round, the others only once.
        scatter(&volume, 1, 0..BLOCKS);
        for round in 0..40 {
            scatter(&volume, 1000 * round, 0..16);
            fill(&volume, round, (round % 16) * BLOCK, 9 * 4096);
            volume.snapshot(&format!("snap-{round}")).unwrap();
            volume.checkpoint().unwrap();
        }
        let expect = read_all(&volume);
        let before = taken(&blocker, is_pack);
        for round in 0..40 {
            store.remove(&format!("snap-{round}")).unwrap();
        }
        let report = collect(&store);
        let after = taken(&blocker, is_pack);
        assert_eq!(report.packs.objects, 0, "{report:?}");
        assert!(before - after > 32 << 10, "{before} bytes, {after} left");
        assert_eq!(collect(&store).freed().bytes, 0, "not again");
        let volume = check(&store, volume, &expect);
        // What is folded next shares the nodes that stayed.
        scatter(&volume, 7000, 0..4);
        volume.checkpoint().unwrap();
        let expect = read_all(&volume);
        collect(&store);
        check(&store, volume, &expect).close().unwrap();
    }
}

#[test]
fn a_segment_that_a_snapshot_still_has_to_replay_stays_whole() {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let store = open(&blocker);
    store.create("disk-1", &CreateOptions { size: BLOCKS * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    scatter(&volume, 1, 0..BLOCKS);
    scatter(&volume, 1000, 0..BLOCKS);
    volume.flush().unwrap();
    // Sealed, and not folded by anybody: the clone is of the snapshot as it was published.
    store.snapshot("disk-1", "snap-1").unwrap();
    let expect = read_all(&volume);
    store.clone_snapshot("snap-1", "clone-1", &archipelago_core::CloneOptions::default()).unwrap();
    volume.checkpoint().unwrap();
    let before = taken(&blocker, is_log);
    collect(&store);
    assert_eq!(taken(&blocker, is_log), before);
    let clone = store.open_volume("clone-1", Mode::ReadWrite).unwrap();
    assert!(read_all(&clone) == expect);
    clone.checkpoint().unwrap();
    assert!(read_all(&clone) == expect);
    clone.close().unwrap();
    volume.close().unwrap();
    assert!(collect(&store).freed().bytes > 0 && room(&blocker) > 0);
}
