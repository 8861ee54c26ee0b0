//! What a volume promises its user, one sentence a test, on a store in a real directory.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow::{Break, Continue};

use archipelago_core::*;
use tempfile::TempDir;

/// A store in a directory of its own.
fn store() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let location = Location::File(dir.path().join("store"));
    Store::init(&location, &InitOptions::default()).unwrap();
    let store = Store::open(&location, StoreOptions::default()).unwrap();
    (dir, store)
}

/// Bytes that differ from place to place.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        })
        .collect()
}

fn read(volume: &Volume, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xaa; len];
    volume.read_at(&mut buf, offset).unwrap();
    buf
}

fn create(store: &Store, name: &str, size: u64) -> Volume {
    store.create(name, &CreateOptions { size, block_size: None }).unwrap();
    store.open_volume(name, Mode::ReadWrite).unwrap()
}

#[test]
fn what_was_written_is_read_at_any_offset_and_length() {
    let (_dir, store) = store();
    let volume = create(&store, "volume-a", (10 << 20) + 123);
    let mut model = vec![0; (10 << 20) + 123];
    for (i, (offset, len)) in [
        (0, 1),
        (4095, 2),
        (4096, 4096),
        (100, 8192),
        (5 << 20, 1 << 20),
        ((4 << 20) - 100, 200),
        ((10 << 20) - 5000, 5123),
        (1 << 20, 40_000),
        ((1 << 20) + 1, 39_990),
        ((1 << 20) + 4096, 32_768),
        (8 << 20, 2 << 20),
    ]
    .into_iter()
    .enumerate()
    {
        let data = pattern(i as u64 + 1, len);
        volume.write_at(&data, offset as u64).unwrap();
        model[offset..offset + len].copy_from_slice(&data);
        assert!(read(&volume, 0, model.len()) == model, "after write {i}");
        if i % 3 == 0 {
            volume.flush().unwrap();
        }
        if i % 4 == 0 {
            volume.checkpoint().unwrap();
            assert!(read(&volume, 0, model.len()) == model, "after checkpoint {i}");
        }
    }
    volume.close().unwrap();
    let volume = store.open_volume("volume-a", Mode::ReadOnly).unwrap();
    assert!(read(&volume, 0, model.len()) == model);
}

#[test]
fn a_snapshot_and_its_clones_keep_what_they_were() {
    let (_dir, store) = store();
    let volume = create(&store, "volume-a", 100 << 30);
    let at = 90 << 30;
    let (a, b) = (pattern(1, 10 << 20), pattern(2, 10 << 20));
    volume.snapshot("snap-1").unwrap();
    volume.write_at(&a, at).unwrap();
    volume.snapshot("snap-3").unwrap();
    assert!(matches!(volume.snapshot("snap-1"), Err(Error::Exists(_))));
    let s1 = store.open_volume("snap-1", Mode::ReadOnly).unwrap();
    let s3 = store.open_volume("snap-3", Mode::ReadOnly).unwrap();
    assert!(read(&s1, at, 10 << 20).iter().all(|b| *b == 0));
    assert!(read(&s3, at, 10 << 20) == a);
    assert!(matches!(
        store.clone_snapshot("volume-a", "clone-x", &CloneOptions::default()),
        Err(Error::NotSnapshot(_))
    ));
    assert!(store.clone_snapshot("snap-3", "clone-x", &CloneOptions { size: Some(2) }).is_err());
    store.clone_snapshot("snap-3", "clone-a", &CloneOptions { size: Some(200 << 30) }).unwrap();
    let clone = store.open_volume("clone-a", Mode::ReadWrite).unwrap();
    assert_eq!(clone.size(), 200 << 30);
    assert!(read(&clone, at, 10 << 20) == a);
    assert!(read(&clone, 150 << 30, 4096).iter().all(|b| *b == 0));
    clone.write_at(&b, at).unwrap();
    clone.write_at(&b[..4096], at + 8192).unwrap();
    assert!(read(&clone, at, 8192) == b[..8192]);
    assert!(read(&s3, at, 10 << 20) == a);
    assert!(read(&volume, at, 10 << 20) == a);
    assert!(matches!(s3.write_at(&b, 0), Err(Error::ReadOnly(_))));
    for name in ["snap-1", "snap-3", "volume-a"] {
        if name == "volume-a" {
            assert!(matches!(store.remove(name), Err(Error::Busy(_))));
            volume.close().unwrap();
        }
        store.remove(name).unwrap();
        assert!(matches!(store.info(name), Err(Error::NotFound(_))));
    }
    clone.close().unwrap();
    let clone = store.open_volume("clone-a", Mode::ReadOnly).unwrap();
    let mut expect = b.clone();
    expect[8192..12288].copy_from_slice(&b[..4096]);
    assert!(read(&clone, at, 10 << 20) == expect);
}

#[test]
fn many_snapshots_between_writes_all_stay_right() {
    let (_dir, store) = store();
    let volume = create(&store, "volume-a", 16 << 20);
    let mut model = vec![0u8; 16 << 20];
    let mut kept = Vec::new();
    for i in 0..60u64 {
        for j in 0..20 {
            let r = pattern(i * 100 + j + 7, 16);
            let offset = u64::from_le_bytes(r[..8].try_into().unwrap()) % (15 << 20);
            let len = if j == 0 { 50_000 } else { 4096 };
            let data = pattern(i * 31 + j, len);
            volume.write_at(&data, offset).unwrap();
            model[offset as usize..offset as usize + len].copy_from_slice(&data);
        }
        let name = format!("snapshot-{i}");
        volume.snapshot(&name).unwrap();
        kept.push((name, model.clone()));
    }
    assert!(read(&volume, 0, model.len()) == model);
    for (name, expect) in &kept {
        let snapshot = store.open_volume(name, Mode::ReadOnly).unwrap();
        assert!(read(&snapshot, 0, expect.len()) == *expect, "{name}");
    }
    volume.close().unwrap();
    let volume = store.open_volume("volume-a", Mode::ReadWrite).unwrap();
    assert!(read(&volume, 0, model.len()) == model);
}

#[test]
fn what_was_cut_off_never_comes_back() {
    let (_dir, store) = store();
    let volume = create(&store, "volume-a", 20 << 20);
    let data = pattern(5, 20 << 20);
    volume.write_at(&data, 0).unwrap();
    assert!(matches!(volume.resize(5 << 20, false), Err(Error::InvalidArgument(_))));
    volume.resize((5 << 20) + 1000, true).unwrap();
    volume.snapshot("snap-cut").unwrap();
    volume.resize(30 << 20, false).unwrap();
    let mut expect = data[..(5 << 20) + 1000].to_vec();
    expect.resize(30 << 20, 0);
    assert!(read(&volume, 0, 30 << 20) == expect);
    store.clone_snapshot("snap-cut", "clone-cut", &CloneOptions { size: Some(30 << 20) }).unwrap();
    let clone = store.open_volume("clone-cut", Mode::ReadWrite).unwrap();
    assert!(read(&clone, 0, 30 << 20) == expect);
}

#[test]
fn discarded_and_zeroed_ranges_read_zeros() {
    let (_dir, store) = store();
    let volume = create(&store, "volume-a", 20 << 20);
    let mut model = pattern(9, 20 << 20);
    volume.write_at(&model, 0).unwrap();
    volume.flush().unwrap();
    volume.discard(5000, 100_000).unwrap();
    model[8192..102_400].fill(0);
    volume.write_zeroes(1_000_001, 5_000_000, false, WriteFlags::default()).unwrap();
    model[1_000_001..6_000_001].fill(0);
    volume.write_zeroes(8_000_001, 1_000, true, WriteFlags { fua: true }).unwrap();
    model[8_000_001..8_001_001].fill(0);
    assert!(read(&volume, 0, model.len()) == model);
    volume.write_at(&[7; 3], 2_000_000).unwrap();
    model[2_000_000..2_000_003].fill(7);
    assert!(read(&volume, 0, model.len()) == model);
    let extents = volume.extents(0, 20 << 20, 1000).unwrap();
    assert_eq!(extents.iter().map(|e| e.len).sum::<u64>(), 20 << 20);
    for e in extents.iter().filter(|e| e.zero) {
        assert!(model[e.offset as usize..(e.offset + e.len) as usize].iter().all(|b| *b == 0));
    }
    volume.close().unwrap();
    let volume = store.open_volume("volume-a", Mode::ReadWrite).unwrap();
    assert!(read(&volume, 0, model.len()) == model);
}

#[test]
fn usage_tells_own_bytes_from_shared_ones() {
    let (_dir, store) = store();
    let volume = create(&store, "volume-a", 64 << 20);
    volume.write_at(&pattern(1, 8 << 20), 0).unwrap();
    volume.snapshot("snap-1").unwrap();
    volume.close().unwrap();
    let names: Vec<String> = (0..50).map(|i| format!("clone-{i:04}")).collect();
    store.clone_many("snap-1", &names, &CloneOptions::default()).unwrap();
    let usage = store.usage("clone-0007").unwrap();
    assert_eq!((usage.mapped, usage.unique, usage.shared), (8 << 20, 0, 8 << 20));
    let clone = store.open_volume("clone-0007", Mode::ReadWrite).unwrap();
    clone.write_at(&[1; 4096], 4096).unwrap();
    clone.write_at(&[1; 4096], 60 << 20).unwrap();
    clone.flush().unwrap();
    let usage = store.usage("clone-0007").unwrap();
    assert_eq!((usage.mapped, usage.unique), ((8 << 20) + 4096, 8192));
    let mut found = Vec::new();
    drop(clone);
    store
        .diff("snap-1", "clone-0007", &mut |e| {
            found.push((e.offset, e.len, e.zero));
            Ok(())
        })
        .unwrap();
    assert_eq!(found, [(4096, 4096, false), (60 << 20, 4096, false)]);
    let page = store.list(&ListOptions { prefix: "clone-".into(), after: None, limit: 20 }).unwrap();
    assert_eq!((page.entries.len(), page.next.as_deref()), (20, Some("clone-0019")));
}

#[test]
fn rename_moves_the_one_name() {
    let (_dir, store) = store();
    let volume = create(&store, "volume-a", 1 << 20);
    volume.write_at(&[3; 100], 7).unwrap();
    store.rename("volume-a", "volume-b").unwrap();
    assert_eq!(volume.name(), "volume-b");
    assert!(matches!(store.info("volume-a"), Err(Error::NotFound(_))));
    volume.close().unwrap();
    store.rename("volume-b", "volume-c").unwrap();
    let volume = store.open_volume("volume-c", Mode::ReadWrite).unwrap();
    assert!(read(&volume, 7, 100) == [3; 100]);
    assert!(matches!(store.create("volume-c", &CreateOptions { size: 1, block_size: None }), Err(Error::Exists(_))));
    store.create("volume-a", &CreateOptions { size: 1, block_size: None }).unwrap();
}

/// Pieces in which the data of a map lies.
fn pieces(store: &Store, name: &str) -> usize {
    let mut count = 0;
    let mut each = |e: MapExtent| {
        count += usize::from(e.source != MapSource::Zero);
        Ok(())
    };
    store.map_extents(name, 0, u64::MAX, &mut each).unwrap();
    count
}

/// A snapshot of three whole blocks, and a clone of it with every second sector of the first two written.
fn scattered(store: &Store) -> (Volume, Vec<u8>) {
    let volume = create(store, "volume-a", 16 << 20);
    let mut bytes = pattern(7, 12 << 20);
    volume.write_at(&bytes, 0).unwrap();
    volume.snapshot("snapshot-a").unwrap();
    volume.close().unwrap();
    bytes.resize(16 << 20, 0);
    store.clone_snapshot("snapshot-a", "clone-a", &CloneOptions::default()).unwrap();
    let clone = store.open_volume("clone-a", Mode::ReadWrite).unwrap();
    for sector in (0..60).chain(1024..1084).step_by(2) {
        let data = pattern(sector, 4096);
        clone.write_at(&data, sector * 4096).unwrap();
        bytes[sector as usize * 4096..][..4096].copy_from_slice(&data);
    }
    clone.checkpoint().unwrap();
    (clone, bytes)
}

#[test]
fn compaction_gathers_scattered_blocks_and_changes_no_byte() {
    let (_dir, store) = store();
    let (clone, bytes) = scattered(&store);
    let before = pieces(&store, "clone-a");
    assert!(before >= 120, "{before}");
    let mut calls = 0;
    let mut count = |_| {
        calls += 1;
        Continue(())
    };
    let report = clone.compact(&CompactOptions::default(), &mut count).unwrap();
    // The third block is in one piece already: it stays shared.
    assert_eq!(report, CompactReport { examined: 3, composed: 2, copied: 8 << 20 });
    assert_eq!(calls, 2);
    assert_eq!(pieces(&store, "clone-a"), 2);
    assert_eq!(read(&clone, 0, 16 << 20), bytes);
    assert_eq!(read(&store.open_volume("snapshot-a", Mode::ReadOnly).unwrap(), 0, 12 << 20), pattern(7, 12 << 20));
    assert_eq!(store.usage("clone-a").unwrap().shared, 4 << 20);
    // Nothing is left to do.
    let report = clone.compact(&CompactOptions::default(), &mut |_| Continue(())).unwrap();
    assert_eq!(report, CompactReport { examined: 3, composed: 0, copied: 0 });
    clone.close().unwrap();
    let clone = store.open_volume("clone-a", Mode::ReadWrite).unwrap();
    assert_eq!(read(&clone, 0, 16 << 20), bytes);
    // Asked for everything, it shares nothing any more.
    let all = CompactOptions { max_extents: 0, ..CompactOptions::default() };
    assert_eq!(clone.compact(&all, &mut |_| Continue(())).unwrap().composed, 1);
    assert_eq!(store.usage("clone-a").unwrap().shared, 0);
    assert_eq!(read(&clone, 0, 16 << 20), bytes);
}

#[test]
fn compaction_that_is_stopped_leaves_the_volume_as_it_reads() {
    let (_dir, store) = store();
    let (clone, bytes) = scattered(&store);
    let stopped = clone.compact(&CompactOptions::default(), &mut |_| Break(())).unwrap();
    assert_eq!((stopped.examined, stopped.composed), (1, 1));
    assert_eq!(read(&clone, 0, 16 << 20), bytes);
    clone.close().unwrap();
    let clone = store.open_volume("clone-a", Mode::ReadWrite).unwrap();
    assert_eq!(read(&clone, 0, 16 << 20), bytes);
    assert_eq!(clone.compact(&CompactOptions::default(), &mut |_| Continue(())).unwrap().composed, 1);
    assert!(matches!(
        store
            .open_volume("snapshot-a", Mode::ReadOnly)
            .unwrap()
            .compact(&CompactOptions::default(), &mut |_| Continue(())),
        Err(Error::ReadOnly(_))
    ));
}

#[test]
fn a_store_that_cannot_be_past_the_page_cache_says_so() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let location = Location::File(dir.path().join("store"));
    Store::init(&location, &InitOptions::default()).unwrap();
    let refused = Store::open(&location, StoreOptions { direct: true, ..StoreOptions::default() });
    let text = refused.map(drop).unwrap_err().to_string();
    assert!(text.contains("without `direct`"), "{text}");
    Store::open(&location, StoreOptions::default()).unwrap();
}
