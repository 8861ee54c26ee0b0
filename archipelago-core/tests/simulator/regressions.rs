//! What failures taught, without the seeds that found it: a seed means something else with the next generator.

use crate::history::{Fault, Op, Step, Then};
use crate::process::Backend;
use crate::shrink::run;
use crate::world::Bugs;

/// A history written by hand: who does what, and what goes wrong.
fn steps(script: &[(usize, Op, Option<Fault>)]) -> Vec<Step> {
    let step = |(i, (process, op, fault)): (usize, &(usize, Op, Option<Fault>))| Step {
        stamp: i as u32,
        process: *process,
        op: op.clone(),
        fault: *fault,
    };
    script.iter().enumerate().map(step).collect()
}

#[test]
fn what_is_flushed_into_a_journal_of_an_owner_that_died_survives_a_cut() {
    let name = || "volume".to_string();
    let write = |offset| Op::Write { name: name(), offset, len: 4096, fua: true };
    for call in 1..16 {
        for fault in [Fault::Kill { call }, Fault::Io { call, then: Then::Kill }] {
            for seed in 0..6 {
                let cut = Fault::Cut { at: 1000, seed, again: 0, tries: 3 };
                let script = [
                    (0, Op::Create { name: name(), size: 1 << 16, block: 1 << 16 }, None),
                    (0, write(0), Some(fault)),
                    (1, write(8192), None),
                    (1, Op::Flush { name: name() }, None),
                    (2, Op::List, Some(cut)),
                ];
                for backend in [Backend::File, Backend::Memory] {
                    run(backend, seed, &steps(&script), Bugs::default())
                        .unwrap_or_else(|f| panic!("{backend:?}, {fault:?}, cut seed {seed}: {}", f.what));
                }
            }
        }
    }
}

#[test]
fn what_was_cut_off_stays_gone_when_the_volume_is_compacted_before_it_grows() {
    let name = |name: &str| name.to_string();
    let script = [
        (0, Op::Create { name: name("volume"), size: 2 << 16, block: 1 << 16 }, None),
        (0, Op::Write { name: name("volume"), offset: 0, len: 2 << 16, fua: false }, None),
        (0, Op::Snapshot { volume: name("volume"), name: name("snapshot") }, None),
        // Only in the tree is what was cut off still there.
        (0, Op::Checkpoint { name: name("volume") }, None),
        (0, Op::Resize { name: name("volume"), size: 1 << 16 }, None),
        (0, Op::Compact { name: name("volume"), max_extents: 0 }, None),
        (0, Op::Resize { name: name("volume"), size: 2 << 16 }, None),
        (0, Op::Flush { name: name("volume") }, Some(Fault::Cut { at: 1000, seed: 1, again: 0, tries: 3 })),
        (1, Op::Read { name: name("volume"), offset: 1 << 16, len: 1 << 16 }, None),
    ];
    for backend in [Backend::File, Backend::Memory] {
        run(backend, 0, &steps(&script), Bugs::default()).unwrap_or_else(|f| panic!("{backend:?}: {}", f.what));
    }
}

#[test]
fn what_a_collection_that_was_cut_short_left_of_an_unfinished_snapshot_is_not_given_a_name_again() {
    let name = |name: &str| name.to_string();
    for made in (600..=1000).step_by(25) {
        for collected in (0..=1000).step_by(50) {
            let cut = |at, seed| Some(Fault::Cut { at, seed, again: 0, tries: 0 });
            let script = [
                (0, Op::Create { name: name("volume"), size: 1 << 16, block: 1 << 16 }, None),
                (0, Op::Write { name: name("volume"), offset: 0, len: 4096, fua: false }, None),
                // Its header is there, its name is not: it never was, and a check gives a whole one its name.
                (0, Op::Snapshot { volume: name("volume"), name: name("snapshot") }, cut(made, 0)),
                (1, Op::Remove { name: name("volume") }, None),
                (1, Op::Collect, cut(collected, 1)),
            ];
            for backend in [Backend::File, Backend::Memory] {
                run(backend, 0, &steps(&script), Bugs::default())
                    .unwrap_or_else(|f| panic!("{backend:?}, cuts at {made} and {collected}: {}", f.what));
            }
        }
    }
}

#[test]
fn a_block_in_many_pieces_is_received() {
    let name = |name: &str| name.to_string();
    for from in [None, Some(name("base-1"))] {
        let script = [
            (0, Op::Create { name: name("volume"), size: 9 << 16, block: 8 << 16 }, None),
            (0, Op::Snapshot { volume: name("volume"), name: name("empty-1") }, None),
            (0, Op::Write { name: name("volume"), offset: 0, len: 4096, fua: false }, None),
            (0, Op::Scatter { name: name("volume"), offset: 4096, count: 70 }, None),
            (0, Op::Snapshot { volume: name("volume"), name: name("snapshot") }, None),
            (0, Op::Snapshot { volume: name("volume"), name: name("base-1") }, None),
            (1, Op::Copy { snapshot: name("snapshot"), from, name: name("copy-1") }, None),
            (1, Op::Copy { snapshot: name("snapshot"), from: Some(name("empty-1")), name: name("copy-2") }, None),
            (2, Op::Audit { name: name("copy-1"), other: name("copy-2") }, None),
        ];
        for backend in [Backend::File, Backend::Memory] {
            run(backend, 0, &steps(&script), Bugs::default()).unwrap_or_else(|f| panic!("{backend:?}: {}", f.what));
        }
    }
}

#[test]
fn equal_blocks_that_were_hashed_in_several_places_are_found_after_one_of_them_is_collected() {
    let name = |name: &str| name.to_string();
    let same = |volume: &str, count| Op::Twin { name: name(volume), offset: 1 << 16, count, content: 1 };
    let script = [
        (2, Op::Create { name: name("volume"), size: 3 << 16, block: 1 << 16 }, None),
        (2, same("volume", 2), None),
        (2, Op::Snapshot { volume: name("volume"), name: name("snap-1") }, None),
        (2, Op::Remove { name: name("volume") }, None),
        (0, Op::Clone { snapshot: name("snap-1"), name: name("clone-1"), size: Some(260_088) }, None),
        (0, Op::Snapshot { volume: name("clone-1"), name: name("snap-2") }, None),
        (0, Op::Remove { name: name("snap-1") }, None),
        (0, Op::Clone { snapshot: name("snap-2"), name: name("clone-2"), size: None }, None),
        (0, same("clone-1", 2), None),
        (0, same("clone-2", 1), None),
        (0, Op::Hash { name: name("snap-2") }, None),
        (1, Op::Snapshot { volume: name("clone-1"), name: name("snap-3") }, None),
        (1, Op::Hash { name: name("snap-3") }, None),
        (2, Op::Remove { name: name("snap-2") }, None),
    ];
    for seed in 0..6 {
        for backend in [Backend::File, Backend::Memory] {
            run(backend, seed, &steps(&script), Bugs::default())
                .unwrap_or_else(|f| panic!("{backend:?}, seed {seed}: {}", f.what));
        }
    }
}

#[test]
fn what_an_owner_zeroed_in_the_journal_and_did_not_sync_does_not_come_back_between_later_records() {
    let name = || "volume".to_string();
    let write = |offset| Op::Write { name: name(), offset, len: 4096, fua: false };
    let cut = |seed| Some(Fault::Cut { at: 1000, seed, again: 0, tries: 0 });
    let faults = (2..5).flat_map(|call| [Fault::Kill { call }, Fault::Io { call, then: Then::Close }]);
    for (fault, first, second) in faults.flat_map(|f| (2..20).flat_map(move |a| (2..20).map(move |b| (f, a, b)))) {
        let script = [
            (0, Op::Create { name: name(), size: 1 << 16, block: 1 << 16 }, None),
            // Of what it puts into the journal the second record is left, without the first.
            (0, write(0), cut(first)),
            (1, Op::Flush { name: name() }, Some(fault)),
            (1, write(8192), None),
            (1, Op::List, cut(second)),
        ];
        for backend in [Backend::File, Backend::Memory] {
            run(backend, 24 * first + second, &steps(&script), Bugs::default())
                .unwrap_or_else(|f| panic!("{backend:?}, {fault:?}, cuts {first} and {second}: {}", f.what));
        }
    }
}

/// Three equal blocks of a volume that is removed again, hashed in its snapshot: two of them in place, the third, which lies in the
/// journal in part, as content.
fn hashed_duplicates() -> Vec<(usize, Op, Option<Fault>)> {
    let name = |name: &str| name.to_string();
    vec![
        (0, Op::Create { name: name("volume"), size: 311_296, block: 1 << 16 }, None),
        (0, Op::Write { name: name("volume"), offset: 241_664, len: 4096, fua: false }, None),
        (0, Op::Close { name: name("volume") }, None),
        (0, Op::Twin { name: name("volume"), offset: 1 << 16, count: 3, content: 1 }, None),
        (0, Op::Snapshot { volume: name("volume"), name: name("snapshot") }, None),
        (0, Op::Remove { name: name("volume") }, None),
        (1, Op::Hash { name: name("snapshot") }, None),
        (1, Op::Remove { name: name("snapshot") }, None),
    ]
}

#[test]
fn an_epoch_of_which_all_blocks_were_moved_and_no_map_names_any_gives_its_room_back_at_once() {
    let mut script = hashed_duplicates();
    // Of an even number, so that the lease of hashing still holds the content.
    script.push((2, Op::Collect, None));
    for backend in [Backend::File, Backend::Memory] {
        for seed in 0..8 {
            run(backend, seed, &steps(&script), Bugs::default())
                .unwrap_or_else(|f| panic!("{backend:?}, seed {seed}: {}", f.what));
        }
    }
}

#[test]
fn a_collection_that_clears_away_a_name_of_an_unfinished_group_leaves_no_lock_file() {
    let name = |name: &str| name.to_string();
    for (at, seed) in (0..=1000).step_by(50).flat_map(|at| (0..4).map(move |seed| (at, seed))) {
        let cut = Fault::Cut { at, seed, again: 0, tries: 0 };
        let members = vec![(name("volume"), name("member"))];
        let script = [
            (0, Op::Create { name: name("volume"), size: 1 << 16, block: 1 << 16 }, None),
            (0, Op::Write { name: name("volume"), offset: 4096, len: 4096, fua: false }, None),
            (1, Op::Group { members }, Some(cut)),
            (0, Op::Collect, None),
        ];
        run(Backend::File, seed, &steps(&script), Bugs::default())
            .unwrap_or_else(|f| panic!("cut at {at}, seed {seed}: {}", f.what));
    }
}

#[test]
fn a_dry_run_says_what_a_collection_does_with_what_a_cut_group_snapshot_left() {
    let name = |name: &str| name.to_string();
    for (at, seed) in (0..=1000).step_by(50).flat_map(|at| (0..4).map(move |seed| (at, seed))) {
        let cut = Fault::Cut { at, seed, again: 0, tries: 0 };
        let members = vec![(name("volume"), name("member"))];
        let script = [
            (0, Op::Create { name: name("volume"), size: 1 << 16, block: 1 << 16 }, None),
            (0, Op::List, None),
            (0, Op::List, None),
            (0, Op::List, None),
            (1, Op::Group { members }, Some(cut)),
            // Of a number by five, before which it is asked what would go.
            (0, Op::Collect, None),
        ];
        for backend in [Backend::File, Backend::Memory] {
            run(backend, seed, &steps(&script), Bugs::default())
                .unwrap_or_else(|f| panic!("{backend:?}, cut at {at}, seed {seed}: {}", f.what));
        }
    }
}

#[test]
fn a_dry_run_says_what_a_collection_does_with_the_lock_of_a_removed_volume_that_is_still_read() {
    let name = |name: &str| name.to_string();
    let script = [
        (0, Op::Create { name: name("volume"), size: 1 << 16, block: 1 << 16 }, None),
        (0, Op::Snapshot { volume: name("volume"), name: name("snapshot") }, None),
        (1, Op::Reader { name: name("snapshot") }, None),
        (2, Op::Remove { name: name("snapshot") }, None),
        (0, Op::List, None),
        (2, Op::Collect, None),
    ];
    for backend in [Backend::File, Backend::Memory] {
        run(backend, 0, &steps(&script), Bugs::default()).unwrap_or_else(|f| panic!("{backend:?}: {}", f.what));
    }
}

#[test]
fn a_collection_settles_what_a_failed_commit_left_in_doubt_before_it_takes_content_away() {
    let name = |name: &str| name.to_string();
    for call in 0..12 {
        for seed in 0..8 {
            let script = [
                (0, Op::Create { name: name("volume"), size: 1 << 16, block: 1 << 16 }, None),
                // Content of its own: the block is in pieces.
                (0, Op::Write { name: name("volume"), offset: 0, len: 9957, fua: false }, None),
                (0, Op::Snapshot { volume: name("volume"), name: name("snap-1") }, None),
                (0, Op::Remove { name: name("volume") }, None),
                (1, Op::Hash { name: name("snap-1") }, Some(Fault::Io { call, then: Then::Close })),
                (1, Op::Collect, Some(Fault::Cut { at: 1000, seed, again: 0, tries: 3 })),
                (2, Op::Read { name: name("snap-1"), offset: 0, len: 1 << 16 }, None),
            ];
            for backend in [Backend::File, Backend::Memory] {
                run(backend, seed, &steps(&script), Bugs::default())
                    .unwrap_or_else(|f| panic!("{backend:?}, call {call}, cut seed {seed}: {}", f.what));
            }
        }
    }
}

#[test]
fn a_collection_that_was_cut_short_leaves_no_damage_of_a_removed_map_whose_journal_it_took_away() {
    let name = |name: &str| name.to_string();
    let write = |offset, len| Op::Write { name: name("volume"), offset, len, fua: false };
    for at in (0..1000).step_by(40) {
        for seed in 0..2 {
            let cut = Fault::Cut { at, seed, again: 0, tries: 3 };
            let script = [
                (0, Op::Create { name: name("volume"), size: 3 << 16, block: 1 << 16 }, None),
                (0, write(0, 8192), None),
                (0, write(0, 96_389), None),
                (0, Op::Snapshot { volume: name("volume"), name: name("snap-1") }, None),
                (1, Op::Clone { snapshot: name("snap-1"), name: name("clone-1"), size: None }, None),
                (0, write(45_056, 32_768), None),
                (0, Op::Compact { name: name("volume"), max_extents: 1 }, None),
                (2, Op::Remove { name: name("clone-1") }, None),
                (2, Op::Collect, Some(cut)),
            ];
            for backend in [Backend::File, Backend::Memory] {
                run(backend, seed, &steps(&script), Bugs::default())
                    .unwrap_or_else(|f| panic!("{backend:?}, cut at {at}, seed {seed}: {}", f.what));
            }
        }
    }
}

#[test]
fn a_block_that_was_folded_on_a_full_disk_may_stay_in_many_pieces_for_who_opens_the_volume_anew() {
    let name = |name: &str| name.to_string();
    let script = [
        (0, Op::Create { name: name("volume"), size: 1 << 20, block: 1 << 20 }, None),
        (0, Op::Write { name: name("volume"), offset: 0, len: 1 << 19, fua: true }, None),
        (0, Op::Snapshot { volume: name("volume"), name: name("snap-1") }, None),
        (0, Op::Scatter { name: name("volume"), offset: 0, count: 50 }, None),
        (0, Op::Flush { name: name("volume") }, None),
        (0, Op::Kill, None),
        (0, Op::Full { total: 1 << 40, free: 100_000 }, None),
        (1, Op::Open { name: name("volume") }, None),
        (1, Op::Close { name: name("volume") }, None),
        (1, Op::Room, None),
        (1, Op::Open { name: name("volume") }, None),
        (1, Op::Background, None),
    ];
    run(Backend::File, 0, &steps(&script), Bugs::default()).unwrap_or_else(|f| panic!("{}", f.what));
}

#[test]
fn a_name_that_a_full_disk_refused_to_a_volume_is_free_while_that_volume_is_open() {
    let name = |name: &str| name.to_string();
    let script = [
        (0, Op::Create { name: name("volume"), size: 1 << 20, block: 1 << 20 }, None),
        (0, Op::Create { name: name("another"), size: 1 << 20, block: 1 << 20 }, None),
        (0, Op::Open { name: name("volume") }, None),
        (0, Op::Full { total: 1 << 40, free: 0 }, None),
        (0, Op::Rename { old: name("volume"), new: name("renamed") }, None),
        (1, Op::Rename { old: name("another"), new: name("renamed") }, None),
        (0, Op::Room, None),
        (1, Op::Rename { old: name("another"), new: name("renamed") }, None),
    ];
    for backend in [Backend::File, Backend::Memory] {
        run(backend, 0, &steps(&script), Bugs::default()).unwrap_or_else(|f| panic!("{backend:?}: {}", f.what));
    }
}

#[test]
fn a_block_that_was_folded_while_writers_waited_may_stay_in_many_pieces_for_who_opens_the_volume_anew() {
    let name = |name: &str| name.to_string();
    let script = |count| {
        [
            (0, Op::Create { name: name("volume"), size: 1 << 20, block: 1 << 20 }, None),
            (0, Op::Open { name: name("volume") }, None),
            (0, Op::Scatter { name: name("volume"), offset: 0, count }, None),
            // One round, after which nobody looks.
            (2, Op::Pause, None),
            (0, Op::Background, None),
            (0, Op::Kill, None),
            (2, Op::Wake, None),
            (1, Op::Open { name: name("volume") }, None),
            (1, Op::Background, None),
        ]
    };
    // What waits to be folded is bounded otherwise with each seed, and how much waits after the last request depends on their number.
    for seed in 0..8 {
        for count in (70..120).step_by(5) {
            for backend in [Backend::File, Backend::Memory] {
                run(backend, seed, &steps(&script(count)), Bugs::default())
                    .unwrap_or_else(|f| panic!("{backend:?}, {count} requests, seed {seed}: {}", f.what));
            }
        }
    }
}

#[test]
fn a_sync_that_was_not_begun_is_not_one_that_failed() {
    let name = |name: &str| name.to_string();
    for call in 1..4 {
        let script = [
            (0, Op::Create { name: name("volume"), size: 1 << 18, block: 1 << 16 }, None),
            (0, Op::Snapshot { volume: name("volume"), name: name("snap-1") }, None),
            (1, Op::Clone { snapshot: name("snap-1"), name: name("clone-1"), size: None }, None),
            (1, Op::Write { name: name("clone-1"), offset: 67_165, len: 32_767, fua: false }, None),
            // What was answered is there, although nothing was made durable.
            (1, Op::Exit, Some(Fault::ReadError { call })),
            (2, Op::Open { name: name("clone-1") }, None),
        ];
        for seed in 0..8 {
            for backend in [Backend::File, Backend::Memory] {
                run(backend, seed, &steps(&script), Bugs::default())
                    .unwrap_or_else(|f| panic!("{backend:?}, read {call}, seed {seed}: {}", f.what));
            }
        }
    }
}

#[test]
fn a_collection_that_reads_the_index_wrongly_leaves_every_place_of_what_it_does_not_find() {
    let name = |name: &str| name.to_string();
    for call in 1..8 {
        for misdirected in [false, true] {
            let script = [
                (1, Op::Create { name: name("volume"), size: 1 << 19, block: 1 << 16 }, None),
                (1, Op::Twin { name: name("volume"), offset: 1 << 16, count: 2, content: 0 }, None),
                (1, Op::Resize { name: name("volume"), size: 459_797 }, None),
                (0, Op::Snapshot { volume: name("volume"), name: name("snap-1") }, None),
                (1, Op::Hash { name: name("snap-1") }, None),
                (1, Op::Scrub, None),
                (0, Op::Collect, Some(Fault::Corrupt { call, bit: 77, misdirected })),
            ];
            for backend in [Backend::File, Backend::Memory] {
                run(backend, 1, &steps(&script), Bugs::default())
                    .unwrap_or_else(|f| panic!("{backend:?}, read {call}: {}", f.what));
            }
        }
    }
}
