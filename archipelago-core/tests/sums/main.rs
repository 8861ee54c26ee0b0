//! Checksums of sealed data: what has them, that a changed bit is found by whoever looks, and that nothing else is called changed.
#![allow(clippy::unwrap_used)]

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::{Blocker, Object, VolumeId};
use archipelago_core::*;

#[path = "../common/random.rs"]
mod random;
use random::bytes;

mod cuts;
mod data;

/// Block size of the stores made here.
const BLOCK: u64 = 64 << 10;
const SECTOR: u64 = 4096;

fn options(seed: Option<u64>) -> StoreOptions {
    StoreOptions { background: Background::Manual, first_segment: 64 << 10, seed, ..StoreOptions::default() }
}

fn open_store(blocker: &Arc<dyn Blocker>) -> Store {
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    Store::open_on(blocker.clone(), options(Some(7))).unwrap()
}

fn memory() -> (Arc<dyn Blocker>, Store) {
    let blocker: Arc<dyn Blocker> = MemoryBlocker::new();
    let store = open_store(&blocker);
    (blocker, store)
}

fn create(store: &Store, name: &str, blocks: u64) -> Volume {
    store.create(name, &CreateOptions { size: blocks * BLOCK, block_size: None }).unwrap();
    store.open_volume(name, Mode::ReadWrite).unwrap()
}

fn scrub(store: &Store) -> ScrubReport {
    store.scrub(&ScrubOptions::default(), &mut |_| true).unwrap()
}

fn check(store: &Store) -> CheckReport {
    store.check(&CheckOptions { grace: 0, ..CheckOptions::default() }, &mut |_| Ok(())).unwrap()
}

fn id_of(store: &Store, name: &str) -> VolumeId {
    VolumeId(u64::from_str_radix(&store.info(name).unwrap().id, 16).unwrap())
}

fn read_all(store: &Store, name: &str) -> Result<Vec<u8>> {
    let volume = store.open_volume(name, Mode::ReadOnly)?;
    let mut all = vec![0; volume.size() as usize];
    volume.read_at(&mut all, 0).map(|()| all)
}

fn flip(blocker: &Arc<dyn Blocker>, object: Object, at: u64) {
    let mut byte = [0];
    blocker.read(object, &mut [IoSliceMut::new(&mut byte)], at).unwrap();
    blocker.write(object, &[IoSlice::new(&[byte[0] ^ 4])], at).unwrap();
}

/// A volume with 6 blocks of data in epoch 1, its snapshot, and a clone of that with a block of its own.
fn build(store: &Store) -> (VolumeId, Vec<u8>) {
    let volume = create(store, "volume-a", 10);
    let content = [bytes(1, 6 * BLOCK as usize), vec![0; 4 * BLOCK as usize]].concat();
    volume.write_at(&content[..6 * BLOCK as usize], 0).unwrap();
    volume.snapshot("snap-a").unwrap();
    volume.checkpoint().unwrap();
    volume.close().unwrap();
    store.clone_snapshot("snap-a", "clone-a", &CloneOptions::default()).unwrap();
    let clone = store.open_volume("clone-a", Mode::ReadWrite).unwrap();
    clone.write_at(&bytes(2, BLOCK as usize), 0).unwrap();
    clone.close().unwrap();
    (id_of(store, "volume-a"), content)
}

fn ranges(finding: &Finding, name: &str) -> Vec<(u64, u64)> {
    let affected = finding.affected.iter().find(|a| a.name == name);
    affected.map_or(vec![], |a| a.ranges.iter().map(|r| (r.offset, r.len)).collect())
}

#[test]
fn only_sealed_epochs_have_checksums_and_only_of_what_maps_name() {
    let (blocker, store) = memory();
    let (owner, _) = build(&store);
    let report = scrub(&store);
    assert_eq!((report.epochs, report.made, report.live), (1, 6 * BLOCK, BLOCK), "{report:?}");
    assert_eq!((report.verified, report.altered, report.findings.len()), (0, 0, 0));
    let sums: Vec<Object> = (0..=u8::MAX)
        .flat_map(|part| blocker.inventory(part).unwrap().objects)
        .filter(|object| matches!(object, Object::Sum(..)))
        .collect();
    assert_eq!(sums, [Object::Sum(owner, 1)]);
    // Known, so only compared; and with another snapshot the next epoch has ended too.
    assert_eq!(scrub(&store).verified, 6 * BLOCK);
    let clone = store.open_volume("clone-a", Mode::ReadWrite).unwrap();
    clone.snapshot("snap-b").unwrap();
    clone.checkpoint().unwrap();
    let report = scrub(&store);
    assert_eq!((report.epochs, report.verified, report.made, report.live), (2, 6 * BLOCK, BLOCK, 0));
}

#[test]
fn an_epoch_is_not_sealed_while_its_volume_may_still_write_it() {
    let (_blocker, store) = memory();
    let volume = create(&store, "volume-a", 10);
    volume.write_at(&bytes(1, 2 * BLOCK as usize), 0).unwrap();
    volume.flush().unwrap();
    volume.checkpoint().unwrap();
    assert_eq!(scrub(&store).made, 0);
    // Written in place, and what is written is read.
    volume.write_at(&bytes(2, BLOCK as usize), 0).unwrap();
    volume.snapshot("snap-a").unwrap();
    // That the epoch has ended is known to the journal alone, until the fold.
    let report = scrub(&store);
    assert_eq!((report.made, report.live), (0, 2 * BLOCK), "{report:?}");
    volume.checkpoint().unwrap();
    assert_eq!(scrub(&store).made, 2 * BLOCK);
    volume.write_at(&bytes(3, BLOCK as usize), 0).unwrap();
    assert_eq!(scrub(&store).altered, 0);
    assert_eq!(read_all(&store, "snap-a").unwrap()[..BLOCK as usize], bytes(2, BLOCK as usize));
}

#[test]
fn a_changed_bit_in_sealed_data_is_an_error_of_whoever_reads_it_and_of_nobody_else() {
    let (blocker, store) = memory();
    let (owner, content) = build(&store);
    scrub(&store);
    let at = 3 * BLOCK + 5 * SECTOR + 100;
    flip(&blocker, Object::Data(owner, 1), at);
    // Whole and in part, from every map, in one piece and in several, with begun sectors at either end.
    for name in ["snap-a", "volume-a", "clone-a"] {
        let volume = store.open_volume(name, Mode::ReadOnly).unwrap();
        for (from, to) in [(0, 10 * BLOCK), (at - 1, at), (at, at + 1), (at - 4000, at + 4000), (at - 100, at + 3996)] {
            let mut buf = vec![0; (to - from) as usize];
            let (a, b) = buf.split_at_mut((to - from) as usize / 3);
            let mut bufs = [IoSliceMut::new(a), IoSliceMut::new(b)];
            let error = volume.read(&mut bufs, from).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, Error::Damaged { .. }), "{text}");
            let sector = at / SECTOR * SECTOR;
            let said = format!("bytes {sector} to {} of {name}", sector + SECTOR);
            assert!(text.contains(&said) && text.contains(&Object::Data(owner, 1).to_string()), "{text}");
        }
        // The same for what is submitted, which is tried without a second reading at first.
        let (queue, mut ended) = (CompletionQueue::new(), Vec::new());
        for offset in [at / SECTOR * SECTOR, at] {
            volume.submit(Operation::Read { buf: vec![0; SECTOR as usize], offset }, 1, &queue).unwrap();
            assert_eq!(queue.wait(&mut ended, 1, None), 1);
            assert!(matches!(ended.pop().unwrap().result, Err(Error::Damaged { .. })), "{name} {offset}");
        }
        // Its neighbours are there.
        for (from, to) in [(at - 100 - SECTOR, at - 100), (at + SECTOR - 100, at + 2 * SECTOR), (at + 3996, at + 5000)]
        {
            let mut buf = vec![0; (to - from) as usize];
            volume.read_at(&mut buf, from).unwrap();
            assert_eq!(buf, content[from as usize..to as usize], "{name} {from}");
        }
    }
    // Nor is it carried on by who writes beside it, or gathers it.
    let volume = store.open_volume("clone-a", Mode::ReadWrite).unwrap();
    assert!(matches!(volume.write_at(&[7; 10], at - 50), Err(Error::Damaged { .. })));
    let all = CompactOptions { max_extents: 0, rate: 0 };
    let compacted = volume.compact(&all, &mut |_| std::ops::ControlFlow::Continue(()));
    assert!(matches!(compacted, Err(Error::Damaged { .. })));
    // A whole sector over it is as good as any.
    volume.write_at(&[7; SECTOR as usize], at / SECTOR * SECTOR).unwrap();
    let mut buf = [0; 3];
    volume.read_at(&mut buf, at).unwrap();
    assert_eq!(buf, [7; 3]);
}

#[test]
fn a_changed_bit_is_told_in_bytes_of_every_map_that_loses_it() {
    let (blocker, store) = memory();
    let (owner, _) = build(&store);
    scrub(&store);
    for at in [5 * SECTOR, 3 * BLOCK, 3 * BLOCK + SECTOR, 5 * BLOCK + 1] {
        flip(&blocker, Object::Data(owner, 1), at);
    }
    let report = scrub(&store);
    assert_eq!((report.altered, report.verified), (4 * SECTOR, 6 * BLOCK - 4 * SECTOR));
    // The first block is not the clone's any more.
    let first = [(5 * SECTOR, SECTOR)];
    let rest = [(3 * BLOCK, 2 * SECTOR), (5 * BLOCK, SECTOR)];
    for name in ["volume-a", "snap-a", "clone-a"] {
        let lost: Vec<(u64, u64)> = report.findings.iter().flat_map(|f| ranges(f, name)).collect();
        let expected = if name == "clone-a" { rest.to_vec() } else { [&first[..], &rest[..]].concat() };
        assert_eq!(lost, expected, "{name}: {:#?}", report.findings);
    }
    assert!(report.findings.iter().all(|f| f.kind == FindingKind::Altered && f.severity == Severity::Damage));
    // What no map names any more is nobody's loss.
    for name in ["clone-a", "snap-a", "volume-a"] {
        store.remove(name).unwrap();
    }
    let report = scrub(&store);
    assert!(report.findings.iter().all(|f| f.severity == Severity::Leak), "{:#?}", report.findings);
    store.collect(&CollectOptions { grace: 0, ..CollectOptions::default() }, &mut |_| true).unwrap();
    assert_eq!(scrub(&store), ScrubReport::default());
}

#[test]
fn checksums_that_were_changed_themselves_hide_no_data_and_are_made_anew() {
    let (blocker, store) = memory();
    let (owner, content) = build(&store);
    scrub(&store);
    let sums = Object::Sum(owner, 1);
    for at in (0..blocker.len(sums).unwrap().unwrap()).step_by(37) {
        flip(&blocker, sums, at);
        let store = Store::open_on(blocker.clone(), options(Some(9))).unwrap();
        assert_eq!(read_all(&store, "snap-a").unwrap(), content, "byte {at}");
        flip(&blocker, sums, at);
    }
    flip(&blocker, sums, 60);
    let report = scrub(&store);
    assert_eq!((report.broken, report.made, report.verified), (1, 6 * BLOCK, 0), "{report:?}");
    assert_eq!(scrub(&store).verified, 6 * BLOCK);
}

#[test]
fn checksums_are_collected_with_the_data_they_are_of() {
    let (blocker, store) = memory();
    let (owner, _) = build(&store);
    scrub(&store);
    let space = store.space_by_kind().unwrap();
    assert_eq!((space.sums.objects, space.data.objects), (1, 2));
    store.remove("volume-a").unwrap();
    let options = CollectOptions { grace: 0, ..CollectOptions::default() };
    store.collect(&options, &mut |_| true).unwrap();
    // Its snapshot and the clone need them, also without their owner.
    assert!(blocker.len(Object::Sum(owner, 1)).unwrap().is_some());
    assert_eq!(scrub(&store).verified, 6 * BLOCK);
    store.remove("clone-a").unwrap();
    store.remove("snap-a").unwrap();
    let report = store.collect(&options, &mut |_| true).unwrap();
    assert_eq!(report.sums.objects, 1, "{report:?}");
    assert_eq!(blocker.len(Object::Sum(owner, 1)).unwrap(), None);
    // Left over, as by a scrub that met the collection.
    blocker.write(Object::Sum(owner, 1), &[IoSlice::new(&[0; 512])], 0).unwrap();
    assert_eq!(check(&store).findings.iter().filter(|f| f.kind == FindingKind::Leak).count(), 1);
    store.collect(&options, &mut |_| true).unwrap();
    assert_eq!(check(&store).findings, vec![]);
}

#[test]
fn checksums_of_a_hashed_epoch_stay_and_go_with_it_and_hashing_believes_no_changed_bit() {
    let (blocker, store) = memory();
    let (owner, content) = build(&store);
    scrub(&store);
    flip(&blocker, Object::Data(owner, 1), 2 * BLOCK);
    let hash = |store: &Store| store.hash("snap-a", &Default::default(), &mut |_| true);
    assert!(matches!(hash(&store), Err(Error::Damaged { .. })));
    flip(&blocker, Object::Data(owner, 1), 2 * BLOCK);
    hash(&store).unwrap();
    assert_eq!(read_all(&store, "snap-a").unwrap(), content);
    assert_eq!(scrub(&store).verified, 6 * BLOCK);
    for name in ["volume-a", "snap-a", "clone-a"] {
        store.remove(name).unwrap();
    }
    let report = store.collect(&CollectOptions { grace: 0, ..CollectOptions::default() }, &mut |_| true).unwrap();
    assert_eq!(report.sums.objects, 1, "{report:?}");
    assert_eq!(check(&store).findings, vec![]);
}

#[test]
fn checksums_of_what_was_collected_are_not_asked_for_when_the_rest_of_a_block_is_named_by_its_digest() {
    let (blocker, store) = memory();
    let other = Store::open_on(blocker.clone(), options(Some(8))).unwrap();
    let volume = create(&store, "volume-a", 10);
    volume.write_at(&bytes(1, 10 * BLOCK as usize), 0).unwrap();
    volume.snapshot("snap-a").unwrap();
    volume.checkpoint().unwrap();
    // Remembered before there is any checksum.
    assert!(read_all(&other, "snap-a").is_ok());
    assert_eq!(scrub(&store).made, 10 * BLOCK);
    // The middle of each block is named by the first snapshot alone, and given back with it.
    for block in 0..10 {
        volume.write_zeroes(block * BLOCK + 4 * SECTOR, 8 * SECTOR, false, WriteFlags::default()).unwrap();
    }
    volume.snapshot("snap-b").unwrap();
    volume.checkpoint().unwrap();
    let content = read_all(&store, "snap-b").unwrap();
    store.remove("snap-a").unwrap();
    let report = store.collect(&CollectOptions { grace: 0, ..CollectOptions::default() }, &mut |_| true).unwrap();
    assert!(report.holes.bytes >= 10 * 8 * SECTOR, "{report:?}");
    let hashed = other.hash("snap-b", &Default::default(), &mut |_| true).unwrap();
    assert!(hashed.top_hash.is_some());
    for store in [&store, &other] {
        assert_eq!(read_all(store, "snap-b").unwrap(), content);
    }
    assert_eq!(scrub(&store).altered, 0);
    assert_eq!(check(&store).findings, vec![]);
}

#[test]
fn a_scrub_that_is_stopped_leaves_what_it_made_and_one_runs_at_a_time() {
    let (blocker, store) = memory();
    for number in 0..4 {
        let volume = create(&store, &format!("volume-{number}"), 8);
        volume.write_at(&bytes(number, 8 * BLOCK as usize), 0).unwrap();
        volume.snapshot(&format!("snap-{number}")).unwrap();
        volume.checkpoint().unwrap();
    }
    let report = store.scrub(&ScrubOptions::default(), &mut |at| at.made < 12 * BLOCK).unwrap();
    assert!(report.interrupted && report.made == 16 * BLOCK, "{report:?}");
    let again = store.scrub(&ScrubOptions { anywhere: true, rate: None }, &mut |_| true).unwrap();
    assert_eq!((again.verified, again.made), (16 * BLOCK, 16 * BLOCK), "{again:?}");
    let other = Store::open_on(blocker, options(Some(8))).unwrap();
    let mut refused = false;
    store
        .scrub(&ScrubOptions::default(), &mut |_| {
            let second = other.scrub(&ScrubOptions::default(), &mut |_| true);
            refused |= matches!(second, Err(Error::TooBusy(_)));
            true
        })
        .unwrap();
    assert!(refused);
}

#[test]
fn what_one_process_made_is_noticed_by_the_others_in_the_end() {
    let (blocker, store) = memory();
    let (owner, content) = build(&store);
    // With patience, as processes are that nobody simulates.
    let other = Store::open_on(blocker.clone(), options(None)).unwrap();
    let snapshot = other.open_volume("snap-a", Mode::ReadOnly).unwrap();
    let mut sector = [0; SECTOR as usize];
    snapshot.read_at(&mut sector, 0).unwrap();
    scrub(&store);
    flip(&blocker, Object::Data(owner, 1), 100);
    let read = |_: &u64| snapshot.read_at(&mut sector, 0).is_err();
    assert!((0..limits::SUM_PATIENCE as u64 + 2).find(read).is_some());
    drop(content);
}

#[test]
fn what_was_received_is_sealed_and_compared_like_anything_else() {
    let (_blocker, from) = memory();
    build(&from);
    let mut stream = Vec::new();
    from.send("snap-a", &SendOptions::default(), &mut stream, &mut |_| Ok(())).unwrap();
    let (blocker, store) = memory();
    store.receive("snap-r", &mut &stream[..], &mut |_| Ok(())).unwrap();
    assert_eq!(scrub(&store).made, 6 * BLOCK);
    let id = id_of(&store, "snap-r");
    let data = blocker.objects(id).unwrap().into_iter().find(|o| matches!(o, Object::Data(..))).unwrap();
    flip(&blocker, data, BLOCK);
    assert!(matches!(read_all(&store, "snap-r"), Err(Error::Damaged { .. })));
    // Nor is it sent on.
    let sent = store.send("snap-r", &SendOptions::default(), &mut Vec::new(), &mut |_| Ok(()));
    assert!(matches!(sent, Err(Error::Damaged { .. })));
}
