//! The whole of the program comes to a sudden end, whatever it is doing: its processes are killed, or the power is cut under a store
//! that lies on a disk that forgets what was not synced. What clients were told is durable is there afterwards, snapshots are what
//! they were, and each command was done whole or not at all.
//!
//! `ARCHIPELAGO_POWER_CUTS` (10) and `ARCHIPELAGO_KILLS` (20) set how often. Each store has a seed: the first that of
//! `ARCHIPELAGO_CRASH_SEED`, the next the number after it. A seed repeats what happens to a store as far as the order of threads
//! allows. `ARCHIPELAGO_CRASH_LEDGER` is the file that gets a line about the run.
// Helpers outside of test functions may stop the test, too.
#![allow(missing_docs, clippy::unwrap_used)]

mod commands;
mod disk;
mod filesystem;
mod hashes;
#[allow(dead_code)]
#[path = "../served_volume/history.rs"]
mod history;
mod ledger;
mod life;
mod listing;
#[path = "../served_volume/load.rs"]
mod load;
mod names;
mod operators;
mod power;
#[path = "../support/raw_client.rs"]
mod raw_client;
mod run;
#[allow(dead_code)]
#[path = "../served_volume/site.rs"]
mod site;

use std::time::Instant;

use archipelago_core::blocker::sim::Syncs;

use crate::history::Random;
use crate::run::{Figures, Run};

/// Cycles that a store lives: it grows, and takes ever longer to be looked at.
const STORE: u64 = 50;
/// Cycles within which a planted bug has to be found; most are found in the first.
const PLANTED: u64 = 20;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap())
}

fn seed() -> u64 {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = variable("ARCHIPELAGO_CRASH_SEED").unwrap_or(clock);
    // Shown if the test fails, in whatever way.
    println!("ARCHIPELAGO_CRASH_SEED={seed}");
    seed
}

/// Runs cycles, of one store after the other, until `enough` is true of what they did, and reports. `disk` is what the ledger
/// says of where the stores lie.
fn cycles(disk: &str, make: impl Fn(&mut Random) -> Run, enough: impl Fn(&Figures) -> bool) {
    let (first, began) = (seed(), Instant::now());
    let (mut stores, mut cycles, mut figures, mut failure) = (0, 0, Figures::default(), None);
    while failure.is_none() && !enough(&figures) {
        let seed = first.wrapping_add(stores);
        stores += 1;
        let mut random = Random(seed);
        let mut run = make(&mut random);
        run.figures = figures;
        let mut cycle = 0;
        while failure.is_none() && cycle < STORE && !enough(&run.figures) {
            failure = run.cycle(&mut random).err().map(|error| format!("seed {seed}, cycle {cycle}: {error}"));
            cycle += 1;
        }
        cycles += cycle;
        figures = std::mem::take(&mut run.figures);
        report(cycles, began, &figures);
        failure = failure.map(|text| format!("{text}\n{}", run.keep()));
    }
    if let Ok(path) = std::env::var("ARCHIPELAGO_CRASH_LEDGER")
        && stores > 0
    {
        ledger::append(&path, disk, first, stores, cycles, &figures, failure.iter().len() as u64);
    }
    assert!(failure.is_none(), "{}", failure.unwrap_or_default());
}

fn report(cycles: u64, began: Instant, figures: &Figures) {
    println!(
        "{cycles} cycles in {:?}: {} power cuts and {} kills under load, {} and {} during recovery: {} changes, {} flushes, {} steps \
         of the disk, {} sectors had to be of a certain change, {} snapshots under load, \
         {} collections by the server that found something; commands told to have succeeded + \
         interrupted: {}",
        began.elapsed(),
        figures.cuts,
        figures.kills,
        figures.cuts_in_recovery,
        figures.kills_in_recovery,
        figures.changes,
        figures.flushes,
        figures.steps,
        figures.sectors,
        figures.snapshots,
        figures.collections,
        figures.tally.summary(),
    );
}

#[test]
fn what_was_flushed_survives_power_cuts_at_any_call() {
    if !disk::is_possible() {
        return;
    }
    disk::keep_mounts_private();
    let cuts = variable("ARCHIPELAGO_POWER_CUTS").unwrap_or(10);
    cycles("forgets", |random| Run::on_a_disk(random, Syncs::None), |figures| figures.cuts >= cuts);
}

#[test]
fn what_was_flushed_survives_kills_whatever_runs() {
    let kills = variable("ARCHIPELAGO_KILLS").unwrap_or(20);
    cycles("keeps", Run::in_a_directory, |figures| figures.kills >= kills);
}

/// Cuts the power until a loss is reported.
fn a_loss_is_reported(dropped: Syncs) {
    if !disk::is_possible() {
        return;
    }
    disk::keep_mounts_private();
    let mut random = Random(seed());
    let mut run = Run::on_a_disk(&mut random, dropped);
    let error = (0..PLANTED).find_map(|_| run.cycle(&mut random).err());
    let error = error.unwrap_or_else(|| panic!("{} cuts, and nothing was found", run.figures.cuts));
    println!("after {} cuts: {error}", run.figures.cuts);
}

#[test]
fn a_disk_that_ignores_file_syncs_is_found_out() {
    a_loss_is_reported(Syncs::Files);
}

#[test]
fn a_disk_that_ignores_directory_syncs_is_found_out() {
    a_loss_is_reported(Syncs::Directories);
}
