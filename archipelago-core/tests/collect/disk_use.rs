//! What `disk_use` says of a map is what its removal and a collection free.

use std::collections::BTreeSet;
use std::sync::Arc;

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::{Blocker, Object};
use archipelago_core::limits::{HOLE_SLACK, HOLE_SLACK_FRACTION};
use archipelago_core::store::content::HashOptions;
use archipelago_core::{
    CloneOptions, CreateOptions, DiskUse, DiskUseProgress, Error, ListOptions, MapExtent, MapSource, MapUse, Mode,
    Store,
};

use crate::random::{Random, bytes, seed};
use crate::store::{BLOCK, collect, everything, fill, open, sim_files};

fn disk_use(store: &Store) -> DiskUse {
    store.disk_use(&mut |_| Ok(())).unwrap()
}

fn of(store: &Store, name: &str) -> MapUse {
    disk_use(store).maps.into_iter().find(|map| map.name == name).unwrap()
}

/// Room of data objects and content, without tables, trees, journals and headers.
fn data(blocker: &Arc<dyn Blocker>) -> u64 {
    let objects = everything(blocker).into_iter().filter(|object| matches!(object, Object::Data(..)));
    let contents = (0..=u8::MAX).flat_map(|first| blocker.contents(first).unwrap()).map(Object::Content);
    objects.chain(contents).map(|object| blocker.allocated(object).unwrap()).sum()
}

/// Room of what volumes wrote: data and content, and what of it lies in journals, where a map still needs it.
fn room(store: &Store, blocker: &Arc<dyn Blocker>) -> u64 {
    let mut logged = BTreeSet::new();
    for name in names(store) {
        let mut each = |extent: MapExtent| {
            if let MapSource::Log { owner, segment, position, .. } = extent.source {
                logged.extend((0..extent.len / 512).map(|atom| (owner, segment, u64::from(position) + atom * 512)));
            }
            Ok(())
        };
        store.map_extents(&name, 0, u64::MAX, &mut each).unwrap();
    }
    data(blocker) + logged.len() as u64 * 512
}

/// What a collection leaves inside of data objects because finding it again costs more.
fn slack(blocker: &Arc<dyn Blocker>) -> u64 {
    let objects = everything(blocker).into_iter().filter(|object| matches!(object, Object::Data(..)));
    objects.map(|object| HOLE_SLACK.max(blocker.allocated(object).unwrap() / HOLE_SLACK_FRACTION)).sum()
}

fn names(store: &Store) -> Vec<String> {
    store.list(&ListOptions::default()).unwrap().entries.into_iter().map(|info| info.name).collect()
}

fn write_somewhere(store: &Store, name: &str, random: &mut Random) {
    let volume = store.open_volume(name, Mode::ReadWrite).unwrap();
    let blocks = volume.size() / BLOCK;
    let len = 1 + random.below(16);
    let at = random.below(blocks - len) * BLOCK / 4096;
    let len = len * BLOCK / 4096;
    match random.below(5) {
        0 => volume.discard(at * 4096, len * 4096).unwrap(),
        // What several maps have, so that hashing finds it.
        1 => volume.write_at(&bytes(random.below(3), BLOCK as usize), at * 4096 / BLOCK * BLOCK).unwrap(),
        _ => fill(&volume, random.next(), at * 4096, len * 4096),
    }
    volume.close().unwrap();
}

/// Takes a snapshot and folds it, as a store in use does by itself: until then its journal keeps what was overwritten before it.
fn snapshot(store: &Store, name: &str, new: &str) {
    let volume = store.open_volume(name, Mode::ReadWrite).unwrap();
    volume.snapshot(new).unwrap();
    while store.run_background().unwrap() {}
    volume.checkpoint().unwrap();
    volume.close().unwrap();
}

/// Folds every volume, as one in use does by itself: until then its journal keeps what was overwritten or discarded since the last time.
fn fold(store: &Store) {
    for name in names(store).into_iter().filter(|name| !store.info(name).unwrap().read_only) {
        let volume = store.open_volume(&name, Mode::ReadWrite).unwrap();
        fill(&volume, 5, 0, 10 * 4096);
        volume.checkpoint().unwrap();
        while store.run_background().unwrap() {}
        volume.close().unwrap();
    }
}

fn history(blocker: &Arc<dyn Blocker>, random: &mut Random, hashing: bool) {
    let store = open(blocker);
    store.create("disk-0", &CreateOptions { size: 160 * BLOCK, block_size: None }).unwrap();
    for round in 0..60 {
        let all = names(&store);
        let name = &all[random.below(all.len() as u64) as usize];
        let volume = !store.info(name).unwrap().read_only;
        let new = format!("map-{round:03}");
        match (volume, random.below(4)) {
            (true, 0) if all.len() < 9 => snapshot(&store, name, &new),
            (true, _) => write_somewhere(&store, name, random),
            (false, 0) if hashing => drop(store.hash(name, &HashOptions::default(), &mut |_| true).unwrap()),
            (false, _) if all.len() < 9 => drop(store.clone_snapshot(name, &new, &CloneOptions::default()).unwrap()),
            _ => {}
        }
    }
    let mut gone = 0;
    loop {
        fold(&store);
        // Twice: what the first finds to be there twice is moved, and may leave what the second takes.
        collect(&store);
        collect(&store);
        let found = disk_use(&store);
        let before = room(&store, blocker);
        // Zeros inside of content are told from data by nobody, and may take no room.
        let slack = slack(blocker);
        assert!(before <= found.named + slack, "{before} with {slack} left: {found:#?}");
        assert!(hashing || before >= found.named, "{before}: {found:#?}");
        assert_eq!(found.named - found.shared, found.maps.iter().map(|map| map.unique).sum::<u64>());
        let Some(map) = found.maps.get(random.below(found.maps.len().max(1) as u64) as usize) else {
            assert!(data(blocker) == 0 && gone > 0);
            return;
        };
        store.remove(&map.name).unwrap();
        collect(&store);
        collect(&store);
        let freed = before - room(&store, blocker);
        assert!(freed <= map.unique + slack, "{freed} with {slack} left: {map:?} of {found:#?}");
        assert!(hashing || map.unique <= freed + slack, "{freed} with {slack} left: {map:?} of {found:#?}");
        gone += freed;
    }
}

#[test]
fn what_a_map_takes_alone_is_what_its_removal_frees() {
    let start = seed("DISK_USE_SEED");
    for round in 0..12 {
        println!("history {round}");
        for blocker in [MemoryBlocker::new() as Arc<dyn Blocker>, sim_files()] {
            history(&blocker, &mut Random(start.wrapping_add(round)), round % 3 == 2);
        }
    }
}

#[test]
fn what_is_in_the_journal_counts_where_it_is() {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let store = open(&blocker);
    store.create("disk-1", &CreateOptions { size: 8 * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    volume.write_at(&[1; 4096], 0).unwrap();
    store.snapshot("disk-1", "snap-1").unwrap();
    volume.write_at(&[2; 4096], 4096).unwrap();
    volume.close().unwrap();
    let (volume, snapshot) = (of(&store, "disk-1"), of(&store, "snap-1"));
    assert_eq!((volume.mapped, volume.unique, volume.shared), (8192, 4096, 4096));
    assert_eq!((snapshot.mapped, snapshot.unique, snapshot.shared), (4096, 0, 4096));
    store.remove("disk-1").unwrap();
    assert_eq!(of(&store, "snap-1").unique, 4096);
}

#[test]
fn content_that_a_map_has_twice_takes_room_once() {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let store = open(&blocker);
    store.create("disk-1", &CreateOptions { size: 8 * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    for block in [0, 3, 5] {
        fill(&volume, 1, block * BLOCK, BLOCK);
    }
    volume.close().unwrap();
    store.snapshot("disk-1", "snap-1").unwrap();
    store.hash("snap-1", &HashOptions::default(), &mut |_| true).unwrap();
    store.remove("disk-1").unwrap();
    collect(&store);
    collect(&store);
    let found = disk_use(&store);
    assert_eq!((found.maps[0].mapped, found.maps[0].unique, found.named), (3 * BLOCK, BLOCK, BLOCK));
    assert_eq!(data(&blocker), BLOCK);
}

#[test]
fn progress_ends_the_walk() {
    let store = open(&(MemoryBlocker::new() as Arc<dyn Blocker>));
    store.create("disk-1", &CreateOptions { size: BLOCK, block_size: None }).unwrap();
    let mut seen = Vec::new();
    let mut see = |at: DiskUseProgress| {
        seen.push((at.maps, at.total));
        Ok(())
    };
    store.disk_use(&mut see).unwrap();
    assert_eq!(seen, [(0, 1), (1, 1)]);
    let stopped = store.disk_use(&mut |_| Err(Error::TooBusy("me".into())));
    assert!(matches!(stopped, Err(Error::TooBusy(_))));
}
