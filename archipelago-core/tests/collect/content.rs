//! Collection of content: what maps name by its digest and what uploads were told stays, all else goes.

use std::sync::Arc;

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::{Crashable, SimDisk};
use archipelago_core::blocker::{Blocker, Object};
use archipelago_core::store::collect::Planted;
use archipelago_core::store::content::{HashOptions, NewObject};
use archipelago_core::{
    CloneOptions, CollectOptions, CollectPhase, CreateOptions, Digest, InitOptions, Kind, Mode, Store, StoreOptions,
};

use crate::random::bytes;
use crate::store::{BLOCK, collect, everything, fill, open, options, read_all, room, sim_files};

const SIZE: u64 = 6 * BLOCK;

/// All objects, and what is content of the store.
fn all(blocker: &Arc<dyn Blocker>) -> Vec<Object> {
    let mut found = everything(blocker);
    found.extend(blocker.content_tables().unwrap());
    for first in 0..=u8::MAX {
        found.extend(blocker.contents(first).unwrap().into_iter().map(Object::Content));
    }
    found
}

fn list_of(data: &[u8]) -> Vec<Digest> {
    data.chunks(BLOCK as usize).map(|block| Digest::of(block).0).collect()
}

fn object(store: &Store, name: &str, list: &[Digest]) -> archipelago_core::Result<()> {
    let size = list.len() as u64 * BLOCK;
    let new = NewObject { name: name.into(), kind: Kind::Object, size, block_size: None };
    store.create_object(&new, &mut list.iter().map(|d| Ok(*d))).map(drop)
}

fn hash(store: &Store, name: &str) {
    store.hash(name, &HashOptions::default(), &mut |_| true).unwrap();
}

fn read(store: &Store, name: &str) -> Vec<u8> {
    read_all(&store.open_volume(name, Mode::ReadOnly).unwrap())
}

/// Two snapshots with blocks of every kind, hashed, an object of the blocks of each, and an upload. Returns the bytes of the
/// snapshots.
fn work(store: &Store) -> [Vec<u8>; 2] {
    store.create("disk-1", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    fill(&volume, 1, 0, SIZE);
    store.snapshot("disk-1", "snap-1").unwrap();
    let first = read_all(&volume);
    fill(&volume, 2, BLOCK, BLOCK);
    fill(&volume, 3, 3 * BLOCK + 8192, 4096);
    store.snapshot("disk-1", "snap-2").unwrap();
    let second = read_all(&volume);
    volume.close().unwrap();
    for (snapshot, data, name) in [("snap-2", &second, "object-2"), ("snap-1", &first, "object-1")] {
        hash(store, snapshot);
        object(store, name, &list_of(data)).unwrap();
    }
    let claim = store.claim("an upload").unwrap();
    let list: Vec<_> = (0..3).map(|n| claim.put(&bytes(50 + n, BLOCK as usize)).unwrap().digest).collect();
    claim.missing(&list_of(&first)).unwrap();
    object(store, "object-3", &list[..2]).unwrap();
    claim.end().unwrap();
    [first, second]
}

#[test]
fn content_that_was_hashed_and_uploaded_is_collected_to_the_last_object() {
    let memory: Arc<dyn Blocker> = MemoryBlocker::new();
    for blocker in [memory, sim_files()] {
        let store = open(&blocker);
        let empty = room(&blocker);
        let [first, second] = work(&store);
        let report = collect(&store);
        assert_eq!(report.content.objects, 1, "the block that was put and not named");
        assert!(report.leases.objects > 0 && report.data.objects == 0, "{report:?}");
        // Slots that only an object names by their digests.
        for name in ["disk-1", "snap-1", "snap-2"] {
            store.remove(name).unwrap();
        }
        collect(&store);
        assert!(read(&store, "object-1") == first && read(&store, "object-2") == second);
        store.clone_snapshot("object-1", "clone-1", &CloneOptions::default()).unwrap();
        store.remove("object-1").unwrap();
        collect(&store);
        assert!(read(&store, "clone-1") == first && read(&store, "object-2") == second);
        for name in ["clone-1", "object-2", "object-3"] {
            store.remove(name).unwrap();
        }
        let dry =
            store.collect(&CollectOptions { grace: 0, dry_run: true, ..CollectOptions::default() }, &mut |_| true);
        let wet = collect(&store);
        assert_eq!(archipelago_core::CollectReport { dry_run: false, ..dry.unwrap() }, wet);
        assert!(wet.content.objects > 0 && wet.data.objects > 0 && wet.tables.objects > 0, "{wet:?}");
        assert_eq!(all(&blocker), Vec::<Object>::new());
        assert!(room(&blocker) <= empty);
        assert_eq!(collect(&store).freed().objects, 0);
        // It comes again, elsewhere, and is found there by who knew the old places.
        let [first, second] = work(&store);
        assert!(read(&store, "object-1") == first && read(&store, "object-2") == second);
    }
}

/// A store on a disk as a new process opens it.
fn reopen(blocker: &Arc<dyn Blocker>) -> Store {
    Store::open_on(blocker.clone(), options()).unwrap()
}

/// Cuts a collection of content after each of its calls.
fn cut_everywhere<D: Crashable>(disk: &Arc<D>, blocker: impl Fn(&Arc<D>) -> Arc<dyn Blocker>) {
    let below = blocker(disk);
    Store::init_on(below.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let store = reopen(&below);
    let [first, _] = work(&store);
    store.create("disk-2", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("disk-2", Mode::ReadWrite).unwrap();
    fill(&volume, 70, 0, SIZE);
    store.snapshot("disk-2", "snap-3").unwrap();
    let third = list_of(&read_all(&volume));
    volume.close().unwrap();
    hash(&store, "snap-3");
    for name in ["disk-1", "snap-1", "snap-2", "object-2", "object-3", "disk-2", "snap-3"] {
        store.remove(name).unwrap();
    }
    drop(store);
    let start = disk.steps();
    let store = reopen(&below);
    let done = collect(&store);
    assert!(done.data.objects > 0 && done.content.objects > 0 && done.tables.objects > 0, "{done:?}");
    let kept = all(&below);
    let end = disk.steps();
    for step in start..=end {
        let survivors = [(0, disk.crash_at(step, 0)), (1, disk.crash_at(step, 1)), (2, disk.crash_at(step, step + 2))];
        for (fate, disk) in survivors.into_iter().chain([(3, disk.kill_at(step))]) {
            let what = format!("cut after step {step} of {start}..{end}, fate {fate}");
            let below = blocker(&disk);
            let store = reopen(&below);
            assert!(read(&store, "object-1") == first, "{what}");
            // Whatever is said to be there is there.
            let claim = store.claim("an upload after the cut").unwrap();
            let missing = claim.missing(&third).unwrap();
            let there: Vec<_> = third.iter().copied().filter(|d| !missing.contains(d)).collect();
            if !there.is_empty() {
                object(&store, "object-4", &there).unwrap();
                assert_eq!(list_of(&read(&store, "object-4")), there, "{what}");
                collect(&store);
                assert_eq!(list_of(&read(&store, "object-4")), there, "{what}");
                store.remove("object-4").unwrap();
            }
            claim.end().unwrap();
            collect(&store);
            assert!(read(&store, "object-1") == first, "{what}");
            assert_eq!(all(&below), kept, "{what}");
        }
    }
}

#[test]
fn a_collection_of_content_cut_after_any_call_harms_nothing_in_memory() {
    cut_everywhere(&MemoryBlocker::new(), |disk| disk.clone());
}

#[test]
fn a_collection_of_content_cut_after_any_call_harms_nothing_on_files() {
    let disk = SimDisk::new();
    FileBlocker::new(disk.clone(), FileOptions::default()).make_layout().unwrap();
    cut_everywhere(&disk, |disk| Arc::new(FileBlocker::new(disk.clone(), FileOptions::default())));
}

/// An upload is told in each phase of a collection which blocks are there: some in slots, some in objects, none named by a map.
/// Then it makes a map of them and ends, at once or after the collection. Whether that always succeeds.
fn told_beside_a_collection(planted: Planted) -> bool {
    let mut moments = 0;
    for moment in 0.. {
        for at_once in [true, false] {
            let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
            let store = open(&blocker);
            let [first, second] = work(&store);
            for name in ["disk-1", "snap-1", "snap-2", "object-1", "object-2"] {
                store.remove(name).unwrap();
            }
            let user = Store::open_on(blocker.clone(), StoreOptions { seed: Some(99), ..options() }).unwrap();
            let mut list = [list_of(&first), list_of(&second)].concat();
            let (mut calls, mut claim) = (0, None);
            let make = |list: &Vec<Digest>| list.is_empty() || object(&user, "object-5", list).is_ok();
            let mut made = true;
            let without = CollectOptions { grace: 0, ..CollectOptions::default() };
            let collected = store.collect_with_planted_bug(&without, planted, &mut |progress| {
                if calls == moment && progress.phase != CollectPhase::List {
                    let told = user.claim("an upload").unwrap();
                    let missing = told.missing(&list).unwrap();
                    list.retain(|digest| !missing.contains(digest));
                    made = !at_once || make(&list);
                    claim = Some(told);
                    if at_once {
                        claim.take().unwrap().end().unwrap();
                    }
                }
                calls += 1;
                true
            });
            collected.unwrap();
            if moment >= calls {
                assert!(moments > 20, "{moments}");
                return true;
            }
            if let Some(claim) = claim {
                made = make(&list);
                claim.end().unwrap();
            } else if !at_once || list.len() == 12 && user.info("object-5").is_err() {
                // While it listed.
                continue;
            }
            moments += 1;
            if !made {
                return false;
            }
            if !list.is_empty() {
                let reader = Store::open_on(blocker.clone(), StoreOptions { seed: Some(98), ..options() }).unwrap();
                let volume = reader.open_volume("object-5", Mode::ReadOnly).unwrap();
                let mut read = vec![0; volume.size() as usize];
                if volume.read_at(&mut read, 0).is_err() || list_of(&read) != list {
                    return false;
                }
            }
        }
    }
    true
}

#[test]
fn what_an_upload_is_told_beside_a_collection_is_there_when_its_map_is_made() {
    assert!(told_beside_a_collection(Planted::default()));
}

#[test]
fn a_collection_that_ignores_leases_is_noticed() {
    assert!(!told_beside_a_collection(Planted { no_leases: true, ..Planted::default() }));
}
