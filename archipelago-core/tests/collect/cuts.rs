//! A collection that is cut short after any of its calls, by a power cut or a kill, and one that fails at any of them.

use std::sync::Arc;

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::{Crashable, SimDisk};
use archipelago_core::blocker::{Blocker, Object};
use archipelago_core::limits::{HOLE_SLACK, PAGE_SLACK};
use archipelago_core::{CloneOptions, CollectOptions, CreateOptions, InitOptions, Mode, Store};

use crate::store::{BLOCK, collect, everything, fill, options, read_all, room};

/// What the volumes of the store hold.
type Content = Vec<(String, Vec<u8>)>;

/// Volumes, snapshots and clones, some of which are removed: garbage of every kind, next to what must stay.
fn build(blocker: &Arc<dyn Blocker>) -> Content {
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let store = Store::open_on(blocker.clone(), options()).unwrap();
    store.create("disk-1", &CreateOptions { size: 20 * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    for round in 0..3u64 {
        fill(&volume, round, 3 * round * BLOCK, 6 * BLOCK);
        fill(&volume, 10 + round, 19 * BLOCK + 4096 * round, 4096);
        store.snapshot("disk-1", &format!("snap-{round}")).unwrap();
        volume.checkpoint().unwrap();
    }
    store.clone_snapshot("snap-1", "clone-1", &CloneOptions::default()).unwrap();
    let clone = store.open_volume("clone-1", Mode::ReadWrite).unwrap();
    fill(&clone, 20, BLOCK, BLOCK + 4096);
    let mut content = vec![("disk-1".to_string(), read_all(&volume)), ("clone-1".to_string(), read_all(&clone))];
    clone.close().unwrap();
    volume.close().unwrap();
    store.create("disk-2", &CreateOptions { size: 160 * BLOCK, block_size: None }).unwrap();
    let gone = store.open_volume("disk-2", Mode::ReadWrite).unwrap();
    fill(&gone, 30, 0, 2 * BLOCK);
    // As many places as make a tree of several nodes.
    for block in 2..150 {
        fill(&gone, block, block * BLOCK + 4096 * (block % 16), 512);
    }
    gone.close().unwrap();
    content.push(("disk-3".to_string(), build_sparse(&store)));
    for name in ["disk-2", "snap-0", "snap-1", "sparse-0", "sparse-1", "sparse-2"] {
        store.remove(name).unwrap();
    }
    let last = store.open_volume("snap-2", Mode::ReadOnly).unwrap();
    content.push(("snap-2".to_string(), read_all(&last)));
    content
}

/// A volume with a journal segment and a node pack that few maps name anything in; returns its bytes.
fn build_sparse(store: &Store) -> Vec<u8> {
    store.create("disk-3", &CreateOptions { size: 40 * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("disk-3", Mode::ReadWrite).unwrap();
    for round in 0..3 {
        for block in 0..40 {
            // Sectors that do not lie side by side make long lists of extents, and so large nodes.
            for sector in [1, 3, 5, 7, 9, 11] {
                if round == 0 || (block, sector) != (20, 5) {
                    fill(&volume, 100 * round + block, block * BLOCK + sector * 4096, 4096);
                }
            }
        }
        store.snapshot("disk-3", &format!("sparse-{round}")).unwrap();
        volume.checkpoint().unwrap();
    }
    for round in 0..10 {
        // Each writes the leaf with all of their pointers anew.
        fill(&volume, round, round * BLOCK + 4096, 4096);
        volume.checkpoint().unwrap();
    }
    let all = read_all(&volume);
    volume.close().unwrap();
    all
}

fn check(store: &Store, content: &Content, what: &str) {
    for (name, expect) in content {
        let volume = store.open_volume(name, Mode::ReadOnly).unwrap_or_else(|e| panic!("{what}: {name}: {e}"));
        let mut bytes = vec![0; expect.len()];
        volume.read_at(&mut bytes, 0).unwrap_or_else(|e| panic!("{what}: {name}: {e}"));
        assert!(bytes == *expect, "{what}: {name}");
    }
}

/// Cuts a collection after each of its calls; `blocker` makes a backend of a disk.
fn cut_everywhere<D: Crashable>(disk: &Arc<D>, blocker: impl Fn(&Arc<D>) -> Arc<dyn Blocker>) {
    let content = build(&blocker(disk));
    let first = disk.steps();
    let store = Store::open_on(blocker(disk), options()).unwrap();
    let objects = everything(&blocker(disk));
    let allocated = |object: &Object| blocker(disk).allocated(*object).unwrap();
    let before: Vec<u64> = objects.iter().map(allocated).collect();
    let done = collect(&store);
    assert!(done.data.objects > 0 && done.segments.objects > 0 && done.packs.objects > 0);
    let mut holes = [0; 3];
    for (object, before) in objects.iter().zip(before) {
        let now = allocated(object);
        if now > 0 && now < before {
            let kind = match object {
                Object::Data(..) => 0,
                Object::Log(..) => 1,
                _ => 2,
            };
            holes[kind] += 1;
        }
    }
    assert!(holes.iter().all(|count| *count > 0), "holes in data, journals and packs: {holes:?}");
    let (kept, taken) = (everything(&blocker(disk)), room(&blocker(disk)));
    // Holes that were cut short leave at most what is not worth a hole.
    let slack = HOLE_SLACK * holes[0] + PAGE_SLACK * (holes[1] + holes[2]);
    let last = disk.steps();
    assert!(last > first + 5);
    for step in first..=last {
        let survivors = [(0, disk.crash_at(step, 0)), (1, disk.crash_at(step, 1)), (2, disk.crash_at(step, step + 2))];
        for (seed, disk) in survivors.into_iter().chain([(3, disk.kill_at(step))]) {
            let what = format!("cut after step {step}, way {seed}");
            let blocker = blocker(&disk);
            let store = Store::open_on(blocker.clone(), options()).unwrap();
            check(&store, &content, &what);
            collect(&store);
            check(&store, &content, &what);
            assert_eq!(everything(&blocker), kept, "{what}");
            let room = room(&blocker);
            assert!(room >= taken && room <= taken + slack, "{what}: {room} bytes, {taken} without the cut");
            assert_eq!(blocker.trashed().unwrap(), Vec::new(), "{what}");
        }
    }
}

fn memory(disk: &Arc<MemoryBlocker>) -> Arc<dyn Blocker> {
    disk.clone()
}

fn files(disk: &Arc<SimDisk>) -> Arc<dyn Blocker> {
    Arc::new(FileBlocker::new(disk.clone(), FileOptions::default()))
}

fn disk() -> Arc<SimDisk> {
    let disk = SimDisk::new();
    FileBlocker::new(disk.clone(), FileOptions::default()).make_layout().unwrap();
    disk
}

#[test]
fn a_collection_cut_after_any_call_harms_nothing_and_the_next_one_ends_it_in_memory() {
    cut_everywhere(&MemoryBlocker::new(), memory);
}

#[test]
fn a_collection_cut_after_any_call_harms_nothing_and_the_next_one_ends_it_on_files() {
    cut_everywhere(&disk(), files);
}

/// Lets each call of a collection fail in turn.
fn fail_everywhere<D: Crashable>(make: impl Fn() -> Arc<D>, blocker: impl Fn(&Arc<D>) -> Arc<dyn Blocker>) {
    let reference = make();
    build(&blocker(&reference));
    let first = reference.steps();
    let store = Store::open_on(blocker(&reference), options()).unwrap();
    collect(&store);
    let last = reference.steps();
    let kept = everything(&blocker(&reference));
    let mut failed = 0;
    for step in first + 1..=last {
        let disk = make();
        let content = build(&blocker(&disk));
        disk.fail_at(step, libc_eio());
        let below = blocker(&disk);
        let store = Store::open_on(below.clone(), options()).unwrap();
        failed += usize::from(store.collect(&CollectOptions::default(), &mut |_| true).is_err());
        let what = format!("call {step} failed");
        check(&store, &content, &what);
        drop(store);
        let below = blocker(&disk);
        let store = Store::open_on(below.clone(), options()).unwrap();
        collect(&store);
        check(&store, &content, &what);
        assert_eq!(everything(&below), kept, "{what}");
    }
    assert!(failed > 0);
}

/// EIO, as Linux numbers it.
fn libc_eio() -> i32 {
    5
}

#[test]
fn a_collection_that_fails_at_any_call_harms_nothing_and_the_next_one_ends_it_in_memory() {
    fail_everywhere(MemoryBlocker::new, memory);
}

#[test]
fn a_collection_that_fails_at_any_call_harms_nothing_and_the_next_one_ends_it_on_files() {
    fail_everywhere(disk, files);
}
