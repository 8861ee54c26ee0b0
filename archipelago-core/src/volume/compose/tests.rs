//! What is gathered of a block, and that nothing written meanwhile is lost.

use std::io::IoSlice;

use super::*;
use crate::blocker::VolumeId;
use crate::blocker::memory::MemoryBlocker;
use crate::store::{Background, CreateOptions, InitOptions, Store, StoreOptions};
use crate::volume::{Mode, WriteFlags};

const LIVE: Source = Source::Data { owner: VolumeId(1), epoch: 2 };
const OLD: Source = Source::Data { owner: VolumeId(1), epoch: 1 };

fn gathered(map: &BlockMap, what: Gather) -> (BlockMap, u16) {
    let (mut map, mut from, mut copied) = (map.clone(), 0, 0);
    while let Some(piece) = Piece::next(map.extents(), from, what, LIVE) {
        assert!(piece.len() <= PIECE && piece.start >= from, "a piece of {} sectors", piece.len());
        map.set(piece.start, piece.len(), LIVE);
        from = piece.start + piece.len();
        copied += piece.len();
    }
    (map, copied)
}

#[test]
fn gathering_all_that_is_mapped_leaves_zeros_alone() {
    let mut map = BlockMap::default();
    map.set(10, 700, OLD);
    map.set(20, 5, LIVE);
    map.set(300, 9, Source::Zero);
    map.set(8000, 1, OLD);
    let (after, copied) = gathered(&map, Gather::Mapped);
    assert_eq!(copied, 700 - 5 - 9 + 1);
    assert!(after.extents().iter().all(|e| e.source == LIVE));
    assert_eq!(after.mapped(), map.mapped());
}

#[test]
fn the_shortest_runs_are_gathered_until_half_of_the_extents_are_left() {
    // Small writes into a block of an older epoch and into an empty one, with gaps that grow.
    for below in [OLD, Source::Zero] {
        let mut map = BlockMap::default();
        map.set(0, 8000, below);
        let mut at = 0;
        for n in 0..120u16 {
            at += 1 + n;
            map.set(at, 1, LIVE);
            at += 1;
        }
        assert!(map.extents().len() > COMPOSE_EXTENTS);
        let (after, copied) = gathered(&map, short_enough(map.extents(), LIVE, COMPOSE_EXTENTS / 2));
        let left = after.extents().len();
        assert!(left <= COMPOSE_EXTENTS / 2 && left + 2 >= COMPOSE_EXTENTS / 2, "{left} extents");
        // The gap before the first write is none.
        let shortest = after.runs(0, 8000).skip(1).filter(|run| run.source == below).map(|run| run.len).min();
        assert!(shortest > Some(80) && copied < 6000, "{shortest:?}, {copied} sectors copied");
    }
}

/// Bytes of a block, and of the volume.
const BLOCK: u64 = 1 << 20;
/// Bytes from one small write to the next: few enough writes that nobody composes before the test does.
const STEP: u64 = 32 << 10;

#[test]
fn what_changes_between_the_reading_and_the_writing_of_a_piece_is_kept() {
    type Change = fn(&Store, &Inner);
    let overwrite: Change = |_, inner| inner.write(&[IoSlice::new(&[7; 4096])], STEP, WriteFlags::default()).unwrap();
    let zero: Change = |_, inner| inner.write_zeroes(STEP, 8192, false, WriteFlags::default()).unwrap();
    let snapshot: Change = |store, _| drop(store.snapshot("volume", "between").unwrap());
    // A place that could be overwritten while it was read, and cannot any more.
    let both: Change = |store, inner| {
        inner.write(&[IoSlice::new(&[9; 4096])], STEP, WriteFlags::default()).unwrap();
        store.snapshot("volume", "between").unwrap();
    };
    let nothing: Change = |_, _| ();
    for (nth, change) in [nothing, overwrite, zero, snapshot, both].into_iter().enumerate() {
        // Folded, so that small writes are overwritten in place, or not.
        for folded in [false, true] {
            let blocker = MemoryBlocker::new();
            Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
            let options = StoreOptions { background: Background::Manual, seed: Some(1), ..StoreOptions::default() };
            let store = Store::open_on(blocker, options).unwrap();
            store.create("volume", &CreateOptions { size: BLOCK, block_size: None }).unwrap();
            let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
            let mut expected = vec![0; BLOCK as usize];
            for at in (0..BLOCK).step_by(STEP as usize) {
                let bytes = [(at / STEP) as u8 | 1; 4096];
                volume.write_at(&bytes, at).unwrap();
                expected[at as usize..][..4096].copy_from_slice(&bytes);
            }
            if folded {
                volume.checkpoint().unwrap();
                // Into the overlay again, as the rest of the block with it.
                volume.write_at(&[5; 4096], 4096).unwrap();
                expected[4096..8192].fill(5);
            }
            let inner = &volume.inner;
            let writer = inner.writer().unwrap();
            let what = Gather::Short(PIECE);
            // The gate is not taken: this would wait for ever.
            let stopped = inner.stop_changes();
            let read = inner.read_piece(0, 0, what).unwrap().unwrap();
            drop(stopped);
            change(&store, inner);
            let mut changed = vec![0; BLOCK as usize];
            volume.read_at(&mut changed, 0).unwrap();
            assert_eq!(changed == expected, [0, 3].contains(&nth), "change {nth}");
            let (end, _) = inner.gather_piece(writer, 0, 0, what, Some(&read)).unwrap().unwrap();
            assert!(end > 0);
            inner.gather(writer, 0, what).unwrap();
            let mut bytes = vec![0; BLOCK as usize];
            for _ in 0..2 {
                volume.read_at(&mut bytes, 0).unwrap();
                assert!(bytes == changed, "change {nth}, folded {folded}");
                volume.checkpoint().unwrap();
            }
            if let Ok(between) = store.open_volume("between", Mode::ReadOnly) {
                between.read_at(&mut bytes, 0).unwrap();
                assert!(bytes == changed, "the snapshot, change {nth}, folded {folded}");
            }
        }
    }
}

#[test]
fn a_block_that_was_folded_with_the_map_of_a_snapshot_is_composed_too() {
    let blocker = MemoryBlocker::new();
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
    let store = Store::open_on(blocker, options).unwrap();
    store.create("volume", &CreateOptions { size: BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
    for n in 0..=COMPOSE_EXTENTS as u64 {
        volume.write_at(&[1; 4096], n * 2 * 4096).unwrap();
    }
    store.snapshot("volume", "snapshot").unwrap();
    store.run_background().unwrap();
    let shard = volume.inner.overlay.shard(0).read();
    let extents = volume.inner.locate(&shard, 0).unwrap().extents().len();
    assert!(extents <= COMPOSE_EXTENTS / 2, "{extents} extents");
}

#[test]
fn while_writers_wait_for_a_fold_only_what_is_in_very_many_pieces_is_composed_and_the_rest_later() {
    const LARGE: u64 = 8 << 20;
    let blocker = MemoryBlocker::new();
    Store::init_on(blocker.clone(), &InitOptions { block_size: LARGE, ..InitOptions::default() }).unwrap();
    let options = StoreOptions {
        background: Background::Manual,
        max_unfolded: 2 << 20,
        seed: Some(1),
        ..StoreOptions::default()
    };
    let store = Store::open_on(blocker, options).unwrap();
    store.create("volume", &CreateOptions { size: 2 * LARGE, block_size: None }).unwrap();
    let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
    let mut expected = vec![0; 2 * LARGE as usize];
    // The first block gets more pieces than a fold lets be, the second fewer, and both together as many bytes as want one.
    let places = (0..PRESSED_EXTENTS as u64 + 8).scan(0, |at, n| {
        *at += (2 + n * 7 % 13) * 4096;
        Some(*at)
    });
    for at in places.chain((0..100).map(|n| LARGE + n * 5 * 4096)) {
        volume.write_at(&[at as u8 | 1; 4096], at).unwrap();
        expected[at as usize..][..4096].fill(at as u8 | 1);
    }
    let pieces = |block: u64| {
        let shard = volume.inner.overlay.shard(block).read();
        volume.inner.locate(&shard, block).unwrap().extents().len()
    };
    let inner = &volume.inner;
    assert!(inner.wants_fold(inner.writer().unwrap()) && pieces(0) > PRESSED_EXTENTS);
    let second = pieces(1);
    assert!(inner.background().unwrap());
    assert!(!inner.wants_fold(inner.writer().unwrap()), "folded");
    assert!((COMPOSE_EXTENTS + 1..=PRESSED_EXTENTS / 3 * 2 + 1).contains(&pieces(0)), "{} extents", pieces(0));
    assert_eq!(pieces(1), second, "what can wait is left");
    let mut rounds = 0;
    while inner.background().unwrap() {
        rounds += 1;
        assert!(rounds < 4, "the background comes to an end");
    }
    assert!(pieces(0) <= COMPOSE_EXTENTS && pieces(1) <= COMPOSE_EXTENTS, "{} and {}", pieces(0), pieces(1));
    let mut bytes = vec![0; expected.len()];
    volume.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected);
}
