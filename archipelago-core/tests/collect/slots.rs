//! Collection inside epochs that were hashed: duplicates are kept once and read the same from every map, whatever is cut; what
//! nobody needs goes block by block.

use std::io::IoSlice;
use std::sync::Arc;

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::{Crashable, SimDisk};
use archipelago_core::blocker::{Blocker, LockMode, Object, VolumeId};
use archipelago_core::format::index::{IndexEntry, IndexHead, PAGE, Slot, encode_page};
use archipelago_core::store::collect::Planted;
use archipelago_core::store::content::{HashOptions, NewObject};
use archipelago_core::store::peers::Neighbours;
use archipelago_core::{
    CheckOptions, CloneOptions, CollectOptions, CollectReport, CompactOptions, CreateOptions, Digest, InitOptions,
    Kind, MapSource, Mode, Store, StoreOptions,
};

use crate::random::bytes;
use crate::store::{BLOCK, collect, everything, fill, open, options, read_all, room, sim_files};

const SIZE: u64 = 6 * BLOCK;

fn hash(store: &Store, name: &str) {
    store.hash(name, &HashOptions::default(), &mut |_| true).unwrap();
}

fn read(store: &Store, name: &str) -> Vec<u8> {
    read_all(&store.open_volume(name, Mode::ReadOnly).unwrap())
}

fn list_of(data: &[u8]) -> Vec<Digest> {
    data.chunks(BLOCK as usize).map(|block| Digest::of(block).0).collect()
}

fn digests(store: &Store, name: &str) -> Vec<Digest> {
    let mut list = Vec::new();
    let each = &mut |digest| {
        list.push(digest);
        Ok(())
    };
    store.digests(name, each).unwrap();
    list
}

/// A volume with these bytes and its snapshot, hashed.
fn hashed(store: &Store, number: u64, data: &[u8]) -> String {
    let (volume, snapshot) = (format!("disk-{number}"), format!("snap-{number}"));
    store.create(&volume, &CreateOptions { size: data.len() as u64, block_size: None }).unwrap();
    let opened = store.open_volume(&volume, Mode::ReadWrite).unwrap();
    opened.write_at(data, 0).unwrap();
    opened.snapshot(&snapshot).unwrap();
    opened.checkpoint().unwrap();
    opened.close().unwrap();
    hash(store, &snapshot);
    snapshot
}

/// A map of these digests.
fn object(store: &Store, name: &str, list: &[Digest]) {
    let size = list.len() as u64 * BLOCK;
    let new = NewObject { name: name.into(), kind: Kind::Object, size, block_size: None };
    store.create_object(&new, &mut list.iter().map(|d| Ok(*d))).unwrap();
}

/// Blocks of a map that are read through their digest.
fn by_digest(store: &Store, name: &str) -> usize {
    let mut count = 0;
    let each = &mut |extent: archipelago_core::MapExtent| {
        count += usize::from(matches!(extent.source, MapSource::Content { .. }));
        Ok(())
    };
    store.map_extents(name, 0, u64::MAX, each).unwrap();
    count
}

fn id_of(store: &Store, name: &str) -> VolumeId {
    VolumeId(u64::from_str_radix(&store.info(name).unwrap().id, 16).unwrap())
}

fn is_clean(store: &Store) {
    let report = store.check(&CheckOptions { grace: 0, ..CheckOptions::default() }, &mut |_| Ok(())).unwrap();
    assert_eq!(report.findings, vec![]);
}

fn with_bug(store: &Store, planted: Planted) -> CollectReport {
    let options = CollectOptions { grace: 0, ..CollectOptions::default() };
    store.collect_with_planted_bug(&options, planted, &mut |_| true).unwrap()
}

#[test]
fn a_slot_that_is_needed_since_another_one_was_moved_is_moved_in_the_same_run() {
    for blocker in [MemoryBlocker::new() as Arc<dyn Blocker>, sim_files()] {
        let store = open(&blocker);
        let data = bytes(1, BLOCK as usize).repeat(3);
        let snapshot = hashed(&store, 1, &data);
        // The last of three slots with one content is no map's any more: nobody needs it until the one before it is moved.
        store.resize("disk-1", 2 * BLOCK, true).unwrap();
        store.remove(&snapshot).unwrap();
        let report = collect(&store);
        assert_eq!(report.duplicates.objects, 2, "{report:?}");
        assert!(read(&store, "disk-1") == data[..2 * BLOCK as usize]);
        assert_eq!(collect(&store).duplicates.objects, 0, "one run is enough");
        is_clean(&store);
    }
}

#[test]
fn blocks_that_were_written_twice_are_kept_once_and_read_the_same() {
    for blocker in [MemoryBlocker::new() as Arc<dyn Blocker>, sim_files()] {
        let store = open(&blocker);
        let data = bytes(1, SIZE as usize);
        // Three of the six blocks are another volume's, one of them twice.
        let mut other = bytes(2, SIZE as usize);
        other[..2 * BLOCK as usize].copy_from_slice(&data[..2 * BLOCK as usize]);
        other.copy_within(0..BLOCK as usize, 5 * BLOCK as usize);
        hashed(&store, 1, &data);
        hashed(&store, 2, &other);
        store.clone_snapshot("snap-2", "clone-2", &CloneOptions::default()).unwrap();
        let before = room(&blocker);
        let dry = CollectOptions { grace: 0, dry_run: true, ..CollectOptions::default() };
        let dry = store.collect(&dry, &mut |_| true).unwrap();
        assert_eq!(room(&blocker), before);
        let wet = collect(&store);
        assert_eq!((wet.duplicates.objects, wet.duplicates.bytes), (3, 3 * BLOCK));
        assert_eq!((dry.duplicates, dry.holes.objects), (wet.duplicates, wet.holes.objects));
        assert!(room(&blocker) + 3 * BLOCK <= before, "{} {before}", room(&blocker));
        for (name, expect) in
            [("disk-1", &data), ("snap-1", &data), ("disk-2", &other), ("snap-2", &other), ("clone-2", &other)]
        {
            assert!(read(&store, name) == *expect, "{name}");
            assert_eq!(by_digest(&store, name), if name.ends_with('1') { 0 } else { 3 }, "{name}");
        }
        is_clean(&store);
        assert_eq!(collect(&store).duplicates.objects, 0, "each is kept once already");
        // They are known as what they are, also to a map that names them in part.
        assert_eq!(digests(&store, "snap-2"), list_of(&other));
        let again = store.hash("snap-2", &HashOptions::default(), &mut |_| true).unwrap();
        assert_eq!(again.progress.hashed, 0);
        let clone = store.open_volume("clone-2", Mode::ReadWrite).unwrap();
        let mut now = other.clone();
        fill(&clone, 9, 700, 5000);
        now[700..5700].copy_from_slice(&bytes(9, 5000));
        clone.discard(BLOCK, 8192).unwrap();
        now[BLOCK as usize..][..8192].fill(0);
        assert!(read_all(&clone) == now);
        clone.snapshot("snap-3").unwrap();
        clone
            .compact(&CompactOptions { max_extents: 0, rate: 0 }, &mut |_| std::ops::ControlFlow::Continue(()))
            .unwrap();
        assert!(read_all(&clone) == now);
        clone.close().unwrap();
        hash(&store, "snap-3");
        assert_eq!(digests(&store, "snap-3"), list_of(&now));
        assert!(read(&store, "snap-3") == now && read(&store, "clone-2") == now);
        // The copy that was kept stays for those who read it by its digest.
        for name in ["disk-1", "snap-1"] {
            store.remove(name).unwrap();
        }
        for _ in 0..2 {
            collect(&store);
            assert!(
                read(&store, "disk-2") == other && read(&store, "snap-2") == other && read(&store, "snap-3") == now
            );
            is_clean(&store);
        }
        for name in ["disk-2", "snap-2", "snap-3", "clone-2"] {
            store.remove(name).unwrap();
        }
        collect(&store);
        assert_eq!(everything(&blocker), Vec::<Object>::new());
        assert_eq!(blocker.content_tables().unwrap(), Vec::<Object>::new());
    }
}

#[test]
fn a_block_that_was_put_too_is_kept_as_the_object() {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let store = open(&blocker);
    // The last block is shorter than its place.
    let data = [bytes(1, SIZE as usize - 5000), vec![0; 5000]].concat();
    let claim = store.claim("a test").unwrap();
    let put = [&data[BLOCK as usize..2 * BLOCK as usize], &data[5 * BLOCK as usize..]];
    let list = put.map(|block| claim.put(block).unwrap().digest);
    object(&store, "object-1", &list);
    hashed(&store, 1, &data);
    claim.end().unwrap();
    let report = collect(&store);
    assert_eq!((report.duplicates.objects, report.content.objects), (2, 0), "{report:?}");
    store.remove("object-1").unwrap();
    for _ in 0..2 {
        assert!(read(&store, "snap-1") == data && read(&store, "disk-1") == data);
        is_clean(&store);
        // It is needed now, although no map names it by its digest.
        assert_eq!(collect(&store).content.objects, 0);
    }
}

/// A table of the index that leads to these slots too.
fn index(blocker: &Arc<dyn Blocker>, id: u64, mut entries: Vec<IndexEntry>) {
    entries.sort();
    let mut table = IndexHead { id, entries: entries.len() as u64 }.encode().to_vec();
    table.resize(PAGE, 0);
    table.extend(encode_page(id, 0, &entries));
    blocker.create(Object::Index(id), &table, table.len() as u64).unwrap();
}

#[test]
fn of_two_slots_that_are_both_found_one_stays() {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let store = open(&blocker);
    let mut data = bytes(1, SIZE as usize);
    data.copy_within(0..BLOCK as usize, 3 * BLOCK as usize);
    hashed(&store, 1, &data);
    hashed(&store, 2, &data);
    let list = list_of(&data);
    let entries = |name: &str, blocks: [usize; 5]| {
        let owner = id_of(&store, name);
        let slot = |block| Slot { owner, epoch: 1, block, len: BLOCK as u32, shift: 16 };
        blocks.map(|block| IndexEntry { digest: list[block], slot: slot(block as u64) }).to_vec()
    };
    index(&blocker, 77, entries("disk-2", [0, 1, 2, 4, 5]));
    index(&blocker, 78, entries("disk-2", [3, 1, 2, 4, 5]));
    index(&blocker, 79, entries("disk-1", [3, 1, 2, 4, 5]));
    assert_eq!(collect(&store).duplicates.objects, 7, "five blocks of twelve stay");
    for _ in 0..2 {
        assert!(read(&store, "snap-1") == data && read(&store, "snap-2") == data);
        is_clean(&store);
        assert_eq!(collect(&store).duplicates.objects, 0);
    }
    let claim = store.claim("a test").unwrap();
    assert_eq!(claim.missing(&list).unwrap(), []);
}

#[test]
fn while_tables_of_the_index_are_merged_nothing_is_moved() {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let store = open(&blocker);
    let data = bytes(1, SIZE as usize);
    hashed(&store, 1, &data);
    hashed(&store, 2, &data);
    // Who merges may be leaving out the entry of one slot because the other one counts.
    let merge = blocker.lock(VolumeId(2), LockMode::Exclusive, &[]).unwrap();
    assert_eq!(collect(&store).duplicates.objects, 0);
    drop(merge);
    assert_eq!(collect(&store).duplicates.objects, 6);
    assert!(read(&store, "snap-1") == data && read(&store, "snap-2") == data);
}

#[test]
fn a_copy_that_is_damaged_is_no_reason_to_give_up_the_other() {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let store = open(&blocker);
    let data = bytes(1, SIZE as usize);
    hashed(&store, 1, &data);
    hashed(&store, 2, &data);
    blocker.write(Object::Data(id_of(&store, "disk-1"), 1), &[IoSlice::new(&[data[70_000] ^ 1])], 70_000).unwrap();
    assert_eq!(collect(&store).duplicates.objects, 5);
    assert!(read(&store, "snap-2") == data);
}

#[test]
fn what_was_hashed_goes_block_by_block_when_neither_a_map_nor_a_lease_needs_it() {
    for blocker in [MemoryBlocker::new() as Arc<dyn Blocker>, sim_files()] {
        let store = open(&blocker);
        let data = bytes(1, 64 * BLOCK as usize);
        hashed(&store, 1, &data);
        let list = list_of(&data);
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        volume.discard(BLOCK, 60 * BLOCK).unwrap();
        volume.close().unwrap();
        let mut now = data.clone();
        now[BLOCK as usize..61 * BLOCK as usize].fill(0);
        store.remove("snap-1").unwrap();
        let claim = store.claim("an upload").unwrap();
        assert_eq!(claim.missing(&list[5..8]).unwrap(), []);
        let keep = CollectOptions { grace: 1000, ..CollectOptions::default() };
        let before = room(&blocker);
        store.collect(&keep, &mut |_| true).unwrap();
        assert!(room(&blocker) + 56 * BLOCK <= before, "all but four that are named and three that are leased");
        assert!(read(&store, "disk-1") == now);
        is_clean(&store);
        let missing = claim.missing(&list).unwrap();
        assert_eq!(missing, [&list[1..5], &list[8..61]].concat());
        // Whatever is said to be there is there.
        let there: Vec<_> = list.iter().copied().filter(|d| !missing.contains(d)).collect();
        object(&store, "object-1", &there);
        claim.end().unwrap();
        for _ in 0..2 {
            assert_eq!(list_of(&read(&store, "object-1")), there);
            assert!(read(&store, "disk-1") == now);
            collect(&store);
        }
        // What went is found again by who writes it anew.
        hashed(&store, 2, &data);
        assert_eq!(digests(&store, "snap-2"), list);
        assert!(read(&store, "snap-2") == data);
    }
}

#[test]
fn a_snapshot_that_is_hashed_twice_at_once_stays_moved() {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let (store, other) =
        (open(&blocker), Store::open_on(blocker.clone(), StoreOptions { seed: Some(9), ..options() }).unwrap());
    let data = bytes(1, SIZE as usize);
    hashed(&store, 1, &data);
    store.create("disk-2", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("disk-2", Mode::ReadWrite).unwrap();
    volume.write_at(&data, 0).unwrap();
    volume.snapshot("snap-2").unwrap();
    volume.close().unwrap();
    // It has read the blocks and noted nothing yet when another process does all of it, and they are moved.
    let mut moved = 0;
    store
        .hash("snap-2", &HashOptions::default(), &mut |progress| {
            if progress.blocks == progress.total && moved == 0 {
                hash(&other, "snap-2");
                moved = collect(&other).duplicates.objects;
            }
            true
        })
        .unwrap();
    assert_eq!(moved, 6);
    let fresh = Store::open_on(blocker.clone(), StoreOptions { seed: Some(10), ..options() }).unwrap();
    assert!(read(&fresh, "snap-2") == data && read(&fresh, "disk-2") == data);
    is_clean(&fresh);
    assert_eq!(by_digest(&fresh, "snap-2"), 6);
}

/// Another process reads a snapshot while its blocks are moved and punched. Whether it always reads the same.
fn read_beside(planted: Planted) -> bool {
    let disk: Arc<dyn Blocker> = MemoryBlocker::new();
    Store::init_on(disk.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let neighbours = Neighbours::new();
    let open =
        |seed| Store::open_among(disk.clone(), StoreOptions { seed: Some(seed), ..options() }, &neighbours).unwrap();
    let (user, collector) = (open(1), open(2));
    let data = bytes(1, SIZE as usize);
    hashed(&user, 1, &data);
    hashed(&user, 2, &data);
    let reader = user.open_volume("snap-2", Mode::ReadOnly).unwrap();
    let mut same = true;
    let options = CollectOptions { grace: 0, ..CollectOptions::default() };
    let report = collector.collect_with_planted_bug(&options, planted, &mut |_| {
        same &= read_all(&reader) == data;
        true
    });
    assert_eq!(report.unwrap().duplicates.objects, 6);
    same && read_all(&reader) == data
}

#[test]
fn a_reader_beside_reads_the_same_before_and_after_its_blocks_are_moved() {
    assert!(read_beside(Planted::default()));
}

#[test]
fn slots_that_are_punched_without_asking_are_noticed() {
    assert!(!read_beside(Planted { no_question: true, ..Planted::default() }));
}

/// Duplicates, and an epoch of which a part is needed. Returns what the maps hold.
fn build(blocker: &Arc<dyn Blocker>) -> Vec<(&'static str, Vec<u8>)> {
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let store = Store::open_on(blocker.clone(), options()).unwrap();
    let data = bytes(1, SIZE as usize);
    let mut other = bytes(2, SIZE as usize);
    other[..3 * BLOCK as usize].copy_from_slice(&data[..3 * BLOCK as usize]);
    let claim = store.claim("a test").unwrap();
    let fourth = data[4 * BLOCK as usize..5 * BLOCK as usize].to_vec();
    object(&store, "object-1", &[claim.put(&fourth).unwrap().digest]);
    claim.end().unwrap();
    hashed(&store, 1, &data);
    hashed(&store, 2, &other);
    let third = bytes(3, SIZE as usize);
    hashed(&store, 3, &third);
    let volume = store.open_volume("disk-3", Mode::ReadWrite).unwrap();
    volume.discard(BLOCK, 4 * BLOCK).unwrap();
    volume.close().unwrap();
    store.remove("snap-3").unwrap();
    store.remove("disk-1").unwrap();
    let mut rest = third.clone();
    rest[BLOCK as usize..5 * BLOCK as usize].fill(0);
    vec![("snap-1", data), ("snap-2", other.clone()), ("disk-2", other), ("disk-3", rest), ("object-1", fourth)]
}

/// Whether all maps hold what they should.
fn holds(blocker: &Arc<dyn Blocker>, maps: &[(&str, Vec<u8>)]) -> bool {
    let store = Store::open_on(blocker.clone(), options()).unwrap();
    maps.iter().all(|(name, expect)| {
        let volume = store.open_volume(name, Mode::ReadOnly).unwrap();
        let mut bytes = vec![0; expect.len()];
        volume.read_at(&mut bytes, 0).is_ok() && bytes == *expect
    })
}

/// Cuts a collection after each of its calls, and the one after a kill again. Whether nothing was ever lost.
fn cut_everywhere<D: Crashable>(
    disk: &Arc<D>,
    blocker: impl Fn(&Arc<D>) -> Arc<dyn Blocker>,
    planted: Planted,
) -> bool {
    let below = blocker(disk);
    let maps = build(&below);
    let first = disk.steps();
    let store = Store::open_on(below.clone(), options()).unwrap();
    let report = with_bug(&store, planted);
    assert_eq!(report.duplicates.objects, 4);
    assert!(report.holes.objects >= 2, "{report:?}");
    let taken = room(&below);
    let last = disk.steps();
    assert!(last > first + 10);
    for step in first..=last {
        let fates = [disk.crash_at(step, 0), disk.crash_at(step, 1), disk.crash_at(step, step + 2), disk.kill_at(step)];
        for (fate, disk) in fates.into_iter().enumerate() {
            let what = format!("cut after step {step} of {first}..{last}, fate {fate}");
            let below = blocker(&disk);
            if !holds(&below, &maps) {
                println!("{what}: lost");
                return false;
            }
            let store = Store::open_on(below.clone(), options()).unwrap();
            with_bug(&store, planted);
            if !holds(&below, &maps) {
                println!("{what}: lost by the next");
                return false;
            }
            is_clean(&store);
            drop(store);
            assert!(room(&below) <= taken + 4096, "{what}: {} and {taken}", room(&below));
            // What a process that was killed left in memory only, and the next one built on, may be gone now.
            let now = disk.steps();
            for seed in [0, step + 3] {
                if !holds(&blocker(&disk.crash_at(now, seed)), &maps) {
                    println!("{what}, and a power cut behind the next: lost");
                    return false;
                }
            }
        }
    }
    true
}

#[test]
fn a_collection_of_duplicates_cut_after_any_call_loses_nothing_in_memory() {
    assert!(cut_everywhere(&MemoryBlocker::new(), |disk| disk.clone(), Planted::default()));
}

fn files() -> Arc<SimDisk> {
    let disk = SimDisk::new();
    FileBlocker::new(disk.clone(), FileOptions::default()).make_layout().unwrap();
    disk
}

fn on_files(disk: &Arc<SimDisk>) -> Arc<dyn Blocker> {
    Arc::new(FileBlocker::new(disk.clone(), FileOptions::default()))
}

#[test]
fn a_collection_of_duplicates_cut_after_any_call_loses_nothing_on_files() {
    assert!(cut_everywhere(&files(), on_files, Planted::default()));
}

#[test]
fn slots_that_are_punched_before_it_is_durable_that_they_were_moved_are_noticed() {
    let planted = Planted { unsynced_moves: true, ..Planted::default() };
    assert!(!cut_everywhere(&MemoryBlocker::new(), |disk| disk.clone(), planted));
    assert!(!cut_everywhere(&files(), on_files, planted));
}

#[test]
fn a_collection_of_duplicates_that_fails_at_any_call_loses_nothing() {
    let disk = files();
    let maps = build(&on_files(&disk));
    let base = disk.steps();
    let whole = disk.kill_at(base);
    collect(&Store::open_on(on_files(&whole), options()).unwrap());
    for step in 1..=whole.steps() {
        for errno in [5, 28] {
            let disk = disk.kill_at(base);
            disk.fail_at(step, errno);
            let store = Store::open_on(on_files(&disk), options()).unwrap();
            let _ = store.collect(&CollectOptions { grace: 0, ..CollectOptions::default() }, &mut |_| true);
            drop(store);
            disk.clear_failures();
            assert!(holds(&on_files(&disk.crash_at(disk.steps(), 0)), &maps), "errno {errno} at step {step}");
            let survivor = disk.crash_at(disk.steps(), step + 2);
            let store = Store::open_on(on_files(&survivor), options()).unwrap();
            collect(&store);
            assert!(holds(&on_files(&survivor), &maps), "errno {errno} at step {step}");
            is_clean(&store);
        }
    }
}
