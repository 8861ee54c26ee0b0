//! Bugs planted on purpose: a simulator that does not find them is blind.

use archipelago_core::blocker::sim::Syncs;
use archipelago_core::planted::{Bug, plant};
use archipelago_core::store::collect;

use crate::generate::History;
use crate::process::Backend;
use crate::shrink::run;
use crate::wire::Planted;
use crate::world::Bugs;

/// Histories in which a bug has to be found. Most need a few; the limit is what the simulator promises.
const HISTORIES: u64 = 10_000;
/// Operations of each.
const OPERATIONS: usize = 500;

/// Runs histories until one fails.
fn must_be_found(backends: &[Backend], what: &str, bugs: Bugs) {
    for seed in 0..HISTORIES {
        let backend = backends[seed as usize % backends.len()];
        if let Err(failure) = run(backend, seed, &History::new(seed, OPERATIONS).steps, bugs) {
            println!("{what}: found by history {seed} on the {backend:?} backend: {}", failure.what);
            return;
        }
    }
    panic!("{what}: nobody noticed in {HISTORIES} histories");
}

/// The same with a bug in the engine itself.
fn must_be_found_in_engine(what: &str, bug: Bug) {
    plant(Some(bug));
    must_be_found(&[Backend::File, Backend::Memory], what, Bugs::default());
    plant(None);
}

#[test]
fn a_skipped_file_sync_is_found() {
    let bugs = Bugs { syncs: Syncs::Files, ..Bugs::default() };
    must_be_found(&[Backend::File], "file syncs that do nothing", bugs);
    must_be_found(&[Backend::Memory], "object syncs that do nothing", bugs);
}

#[test]
fn a_skipped_directory_sync_is_found() {
    let bugs = Bugs { syncs: Syncs::Directories, ..Bugs::default() };
    must_be_found(&[Backend::File], "directory syncs that do nothing", bugs);
    must_be_found(&[Backend::Memory], "creations that are not durable", bugs);
}

#[test]
fn a_failed_sync_that_is_repeated_is_found() {
    let bugs = Bugs { wire: Some(Planted::RetrySync), ..Bugs::default() };
    must_be_found(&[Backend::File], "a failed fdatasync is repeated", bugs);
    must_be_found(&[Backend::Memory], "a failed sync is repeated", bugs);
}

#[test]
fn writes_of_a_commit_in_the_wrong_order_are_found() {
    for (what, planted) in [
        ("data is synced after the journal that names it", Planted::DataAfterJournal),
        ("nodes are synced after the header that names them", Planted::NodesAfterHeader),
    ] {
        must_be_found(&[Backend::Memory], what, Bugs { wire: Some(planted), ..Bugs::default() });
    }
}

#[test]
fn a_block_collected_while_a_reader_uses_it_is_found() {
    let collect = collect::Planted { no_pins: true, ..collect::Planted::default() };
    let bugs = Bugs { collect, ..Bugs::default() };
    must_be_found(&[Backend::File, Backend::Memory], "a collection that does not ask what readers use", bugs);
}

#[test]
fn slots_that_are_punched_too_early_are_found() {
    let collect = collect::Planted { unsynced_moves: true, ..collect::Planted::default() };
    let what = "slots punched before it is durable that they were moved";
    must_be_found(&[Backend::File, Backend::Memory], what, Bugs { collect, ..Bugs::default() });
}

#[test]
fn a_lost_run_of_a_map_record_is_found() {
    must_be_found_in_engine("a record without its last run", Bug::RunLost);
}

#[test]
fn a_block_that_a_fold_leaves_out_is_found() {
    must_be_found_in_engine("a fold without its last block", Bug::BlockNotFolded);
}

#[test]
fn an_epoch_used_twice_is_found() {
    must_be_found_in_engine("an epoch that a snapshot does not end", Bug::EpochReused);
}

#[test]
fn a_page_of_a_journal_or_pack_freed_too_early_is_found() {
    must_be_found_in_engine("a page that is in use and becomes a hole", Bug::PageNotMarked);
}

#[test]
fn a_record_overwritten_before_it_was_folded_is_found() {
    must_be_found_in_engine("a logged sector overwritten in place", Bug::FoldedTooFar);
}

#[test]
fn changes_that_a_kill_loses_are_found() {
    must_be_found_in_engine("provisional records of no boot", Bug::BootUnknown);
}

#[test]
fn provisional_records_believed_after_a_power_cut_are_found() {
    must_be_found_in_engine("provisional records of another boot that are believed", Bug::BootIgnored);
}

#[test]
fn provisional_records_confirmed_before_their_data_is_synced_are_found() {
    must_be_found_in_engine("provisional records that are confirmed early", Bug::ConfirmedEarly);
}
