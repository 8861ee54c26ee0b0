//! Collection: what no map names goes, everything else stays, whatever happens beside it or cuts it short.
#![allow(clippy::unwrap_used)]

#[path = "../common/random.rs"]
mod random;

mod beside;
mod content;
mod cuts;
mod disk_use;
mod full;
mod history;
mod holes;
mod slots;
mod store;
mod thin;

use std::sync::Arc;

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::{Blocker, Object, RecordKey, VolumeId};
use archipelago_core::{CloneOptions, CollectOptions, CollectPhase, CreateOptions, Error, Mode};

use store::{BLOCK, collect, everything, fill, kinds, open, read_all, room};

fn memory() -> Arc<dyn Blocker> {
    MemoryBlocker::new()
}

#[test]
fn everything_removed_is_collected_to_the_last_object() {
    for blocker in [memory(), store::sim_files()] {
        let store = open(&blocker);
        let empty = room(&blocker);
        store.create("disk-1", &CreateOptions { size: 8 * BLOCK, block_size: None }).unwrap();
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        for round in 0..5 {
            fill(&volume, round, 0, 3 * BLOCK);
            volume.write_at(&[round as u8; 4096], 5 * BLOCK).unwrap();
            store.snapshot("disk-1", &format!("snap-{round}")).unwrap();
        }
        volume.close().unwrap();
        store.clone_snapshot("snap-2", "clone-1", &CloneOptions::default()).unwrap();
        let clone = store.open_volume("clone-1", Mode::ReadWrite).unwrap();
        fill(&clone, 77, BLOCK, BLOCK);
        clone.close().unwrap();
        for name in ["snap-2", "disk-1", "snap-0", "clone-1", "snap-4", "snap-1", "snap-3"] {
            store.remove(name).unwrap();
        }
        let report = collect(&store);
        assert_eq!(report.trash, 7);
        assert_eq!(report.maps, 0);
        assert!(report.data.objects > 0 && report.segments.objects > 0, "{report:?}");
        assert_eq!(everything(&blocker), Vec::<Object>::new());
        assert_eq!(blocker.trashed().unwrap(), Vec::new());
        assert!(room(&blocker) <= empty + (64 << 10));
        assert_eq!(store.space_by_kind().unwrap().removed.objects, 0);
        // Nothing is left to find.
        assert_eq!(collect(&store).freed().objects, 0);
    }
}

#[test]
fn what_snapshots_and_clones_share_stays_as_long_as_one_of_them_is_there() {
    let blocker = memory();
    let store = open(&blocker);
    store.create("disk-1", &CreateOptions { size: 8 * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    fill(&volume, 1, 0, 4 * BLOCK);
    let first = read_all(&volume);
    store.snapshot("disk-1", "snap-1").unwrap();
    fill(&volume, 2, BLOCK, BLOCK + 4096);
    let second = read_all(&volume);
    volume.close().unwrap();
    store.clone_snapshot("snap-1", "clone-1", &CloneOptions::default()).unwrap();
    store.remove("snap-1").unwrap();
    collect(&store);
    let check = |name: &str, expect: &[u8]| {
        let volume = store.open_volume(name, Mode::ReadOnly).unwrap();
        assert!(read_all(&volume) == expect, "{name}");
        volume.close().unwrap();
    };
    check("disk-1", &second);
    check("clone-1", &first);
    store.remove("disk-1").unwrap();
    collect(&store);
    check("clone-1", &first);
    store.remove("clone-1").unwrap();
    collect(&store);
    assert_eq!(everything(&blocker), Vec::new());
}

#[test]
fn dead_ranges_of_sealed_epochs_become_holes() {
    for blocker in [memory(), store::sim_files()] {
        let store = open(&blocker);
        store.create("disk-1", &CreateOptions { size: 16 * BLOCK, block_size: None }).unwrap();
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        fill(&volume, 1, 0, 8 * BLOCK);
        store.snapshot("disk-1", "snap-1").unwrap();
        // All but one block, and half of another.
        fill(&volume, 2, 0, 3 * BLOCK);
        fill(&volume, 3, 3 * BLOCK, BLOCK / 2);
        fill(&volume, 4, 5 * BLOCK, 3 * BLOCK);
        let expect = read_all(&volume);
        volume.close().unwrap();
        assert_eq!(collect(&store).holes.objects, 0);
        store.remove("snap-1").unwrap();
        let before = room(&blocker);
        let report = collect(&store);
        assert_eq!(report.holes.objects, 1);
        assert_eq!(report.holes.bytes, 6 * BLOCK + BLOCK / 2);
        assert_eq!(before - room(&blocker), report.freed().bytes);
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        assert!(read_all(&volume) == expect);
        volume.close().unwrap();
        // Not again.
        assert_eq!(collect(&store).freed().bytes, 0);
    }
}

#[test]
fn a_dry_run_says_what_a_run_would_do_and_changes_nothing() {
    let blocker = MemoryBlocker::new();
    let dynamic: Arc<dyn Blocker> = blocker.clone();
    let store = open(&dynamic);
    store.create("disk-1", &CreateOptions { size: 8 * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    fill(&volume, 1, 0, 4 * BLOCK);
    store.snapshot("disk-1", "snap-1").unwrap();
    fill(&volume, 2, 0, 2 * BLOCK);
    volume.close().unwrap();
    store.remove("snap-1").unwrap();
    let steps = blocker.steps();
    let dry = store.collect(&CollectOptions { dry_run: true, ..CollectOptions::default() }, &mut |_| true).unwrap();
    assert_eq!(blocker.steps(), steps);
    assert!(dry.dry_run && dry.freed().bytes >= 2 * BLOCK, "{dry:?}");
    let wet = collect(&store);
    assert_eq!(archipelago_core::CollectReport { dry_run: false, ..dry }, wet);
}

#[test]
fn a_stopped_collection_is_gone_on_with_by_the_next() {
    let blocker = memory();
    let store = open(&blocker);
    for i in 0..10 {
        let name = format!("disk-{i}");
        store.create(&name, &CreateOptions { size: 4 * BLOCK, block_size: None }).unwrap();
        let volume = store.open_volume(&name, Mode::ReadWrite).unwrap();
        fill(&volume, i, 0, BLOCK);
        volume.close().unwrap();
        store.remove(&name).unwrap();
    }
    let mut removed = 0;
    loop {
        let mut seen = 0;
        let report = store
            .collect(&CollectOptions::default(), &mut |progress| {
                seen += u64::from(progress.phase == CollectPhase::Sweep && progress.done > 0);
                seen < 4
            })
            .unwrap();
        removed += report.freed().objects;
        if !report.interrupted {
            break;
        }
        assert!(report.freed().objects > 0 || removed > 0);
    }
    assert_eq!(everything(&blocker), Vec::new());
    assert_eq!(blocker.trashed().unwrap(), Vec::new());
}

#[test]
fn headers_and_names_of_makings_that_were_cut_short_are_collected() {
    let blocker = memory();
    let store = open(&blocker);
    store.create("disk-1", &CreateOptions { size: BLOCK, block_size: None }).unwrap();
    let id = blocker.lookup("disk-1").unwrap().unwrap();
    let header = blocker.read_record(RecordKey::Header(id)).unwrap();
    // A whole header without a name, one that was never finished, and a second name of a map.
    let mut copy = archipelago_core::format::header::Header::decode("test", &header.bytes).unwrap();
    copy.id = VolumeId(0x77);
    copy.name = "never-named".into();
    blocker.create_record(RecordKey::Header(copy.id), &copy.encode()).unwrap();
    blocker.create_record(RecordKey::Header(VolumeId(0x78)), b"AHDR").unwrap();
    blocker.bind_name("second-name", id).unwrap();
    let report = collect(&store);
    assert_eq!((report.headers, report.names), (2, 1));
    assert_eq!(blocker.headers().unwrap(), vec![id]);
    assert_eq!(blocker.lookup("second-name").unwrap(), None);
    assert_eq!(blocker.lookup("disk-1").unwrap(), Some(id));
}

#[test]
fn a_map_that_cannot_be_read_keeps_everything() {
    let blocker = memory();
    let store = open(&blocker);
    for name in ["disk-1", "disk-2"] {
        store.create(name, &CreateOptions { size: 300 * BLOCK, block_size: None }).unwrap();
        let volume = store.open_volume(name, Mode::ReadWrite).unwrap();
        for block in 0..200 {
            volume.write_at(&[1; 512], block * BLOCK + 4096 * (block % 16)).unwrap();
        }
        volume.close().unwrap();
    }
    store.remove("disk-2").unwrap();
    let (before, id) = (everything(&blocker), blocker.lookup("disk-1").unwrap().unwrap());
    let pack = blocker.objects(id).unwrap().into_iter().find(|o| matches!(o, Object::Pack(..))).unwrap();
    blocker.write(pack, &[std::io::IoSlice::new(&[0x5a])], 40).unwrap();
    let error = store.collect(&CollectOptions::default(), &mut |_| true).unwrap_err();
    match &error {
        Error::Damaged { object, detail } => {
            assert_eq!(*object, pack.to_string());
            assert!(detail.contains("archipelago check"), "{error}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(everything(&blocker), before);
    assert_eq!(blocker.trashed().unwrap().len(), 1);
}

#[test]
fn one_collection_runs_at_a_time() {
    let blocker = memory();
    let store = open(&blocker);
    let mut refused = 0;
    store
        .collect(&CollectOptions::default(), &mut |_| {
            refused +=
                u64::from(matches!(store.collect(&CollectOptions::default(), &mut |_| true), Err(Error::TooBusy(_))));
            true
        })
        .unwrap();
    assert!(refused > 0);
}

#[test]
fn the_number_of_a_collected_pack_is_not_used_again() {
    let blocker = memory();
    let store = open(&blocker);
    store.create("disk-1", &CreateOptions { size: 300 * BLOCK, block_size: None }).unwrap();
    let mut highest = 0;
    for round in 0..4u64 {
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        for block in 0..200 {
            volume.write_at(&[round as u8 + 1; 512], block * BLOCK + 4096 * (block % 16)).unwrap();
        }
        volume.checkpoint().unwrap();
        volume.discard(0, 300 * BLOCK).unwrap();
        volume.close().unwrap();
        collect(&store);
        let (headers, kept) = kinds(&blocker);
        assert_eq!(headers, 1);
        let numbers: Vec<u32> =
            kept.iter().filter_map(|o| if let Object::Pack(_, n) = o { Some(*n) } else { None }).collect();
        // The newest stays, empty.
        assert_eq!(numbers.len(), 1, "{kept:?}");
        assert!(round == 0 || numbers[0] > highest);
        highest = numbers[0];
        let id = blocker.headers().unwrap()[0];
        assert!(blocker.allocated(Object::Pack(id, highest)).unwrap() <= 4096);
    }
}

#[test]
fn a_volume_whose_name_was_lost_is_kept_for_repair() {
    for blocker in [memory(), store::sim_files()] {
        let store = open(&blocker);
        store.create("disk-1", &CreateOptions { size: 4 * BLOCK, block_size: None }).unwrap();
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        fill(&volume, 3, 0, 2 * BLOCK);
        volume.close().unwrap();
        let before = everything(&blocker);
        let id = blocker.lookup("disk-1").unwrap().unwrap();
        blocker.unbind_name("disk-1").unwrap();
        collect(&store);
        assert_eq!(blocker.headers().unwrap(), vec![id]);
        assert_eq!(everything(&blocker), before);
        blocker.bind_name("disk-1", id).unwrap();
        let volume = store.open_volume("disk-1", Mode::ReadOnly).unwrap();
        assert_eq!(volume.info().unwrap().mapped, 2 * BLOCK);
    }
}
