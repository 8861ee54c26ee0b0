//! The model test of order and crash consistency.
//!
//! Random short histories run on the real engine over a simulated disk, on both seams: the system calls under the
//! file backend, and the blocker interface. The power is cut after every single I/O; what a newly opened engine then
//! reads is compared with a plain reference model, the store is used, and the power is cut again.
//!
//! | Variable | Meaning |
//! |---|---|
//! | `ARCHIPELAGO_MODEL_HISTORIES` | histories over both seams (default 2000) |
//! | `ARCHIPELAGO_MODEL_CRASHES` | disks tried per cut (default 2: what was durable, and a random one) |
//! | `ARCHIPELAGO_MODEL_FIRST` | first seed (default 0), for long runs that go elsewhere |
//! | `ARCHIPELAGO_MODEL_SEED`, `_SEAM` | one history on one seam (`file`, `memory`) |
//! | `ARCHIPELAGO_MODEL_KEEP` | of that history only the operations of these numbers |
//! | `ARCHIPELAGO_MODEL_CUT`, `_CRASH` | of that history only the cut after this call, with this crash seed |
#![allow(clippy::unwrap_used)]

#[path = "model/checked.rs"]
mod checked;
#[path = "model/faults.rs"]
mod faults;
#[path = "model/history.rs"]
mod history;
#[path = "model/plain.rs"]
mod plain;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/run.rs"]
mod run;
#[path = "model/verify.rs"]
mod verify;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use archipelago_core::blocker::sim::Syncs;
use archipelago_core::{CreateOptions, Store};

use faults::Outcome;
use history::History;
use run::{Disk, Seam, store_options};
use verify::{Counts, Failure, Plan, check_history, report, shrink};

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let name = format!("ARCHIPELAGO_MODEL_{name}");
    let text = std::env::var(&name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not understood")))
}

/// Runs `check` for each number below `count`, on all processors. After a first failure nothing more is begun.
fn in_parallel<T: Send>(count: u64, check: impl Fn(u64) -> Result<T, String> + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let (done, failed) = (Mutex::new(vec![]), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                while failed.lock().unwrap().is_none() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    match check(number) {
                        Ok(result) => done.lock().unwrap().push(result),
                        Err(e) => *failed.lock().unwrap() = Some(e),
                    }
                }
            });
        }
    });
    if let Some(failure) = failed.into_inner().unwrap() {
        panic!("{failure}");
    }
    done.into_inner().unwrap()
}

/// Every other history runs on the file seam.
fn seam_of(number: u64) -> Seam {
    if number.is_multiple_of(2) { Seam::File } else { Seam::Memory }
}

/// Replays what the environment names, if it names a history.
fn replay() -> Option<()> {
    let seed: u64 = variable("SEED")?;
    let seams = match variable::<String>("SEAM").as_deref() {
        Some("file") => vec![Seam::File],
        Some("memory") => vec![Seam::Memory],
        Some(other) => panic!("ARCHIPELAGO_MODEL_SEAM={other}: it is file or memory"),
        None => vec![Seam::File, Seam::Memory],
    };
    let mut history = History::short(seed);
    if let Some(keep) = variable::<String>("KEEP") {
        let stamps: Vec<u32> = keep.split(',').map(|n| n.parse().expect("numbers with commas")).collect();
        history = history.keep(&stamps);
    }
    for seam in seams {
        let mut plan = Plan::new(seam, variable("CRASHES").unwrap_or(6));
        plan.only = variable("CUT").map(|cut| (cut, variable("CRASH").unwrap_or(0)));
        match check_history(&plan, &history) {
            Ok(counts) => println!("{seam:?} seam, history {seed}: {counts:?}, no failure\n{history}"),
            Err(failure) => panic!("{}", report(&plan, &history, &failure)),
        }
    }
    Some(())
}

#[test]
fn a_cut_after_any_io_leaves_what_the_reference_allows() {
    if replay().is_some() {
        return;
    }
    let (count, crashes) = (variable("HISTORIES").unwrap_or(2000), variable("CRASHES").unwrap_or(2));
    let first: u64 = variable("FIRST").unwrap_or(0);
    let start = Instant::now();
    let results = in_parallel(count, |number| {
        let plan = Plan::new(seam_of(number), crashes);
        let history = History::short(first + number);
        check_history(&plan, &history).map_err(|failure| {
            let (history, failure) = shrink(&plan, &history, failure);
            report(&plan, &history, &failure)
        })
    });
    let mut counts = Counts::default();
    results.into_iter().for_each(|c| counts.add(c));
    println!("seeds {first}..{}: {counts:?} in {:.0?}", first + count, start.elapsed());
}

#[test]
fn the_checker_catches_a_planted_missing_sync() {
    // Enough histories that finding nothing means that the checker is blind.
    const HISTORIES: u64 = 200;
    for (seam, planted) in [(Seam::File, Syncs::Files), (Seam::File, Syncs::Directories), (Seam::Memory, Syncs::Files)]
    {
        let plan = Plan { planted, ..Plan::new(seam, 2) };
        let found = (0..HISTORIES).find_map(|seed| match check_history(&plan, &History::short(seed)) {
            Err(Failure { cut: Some(_), what }) => Some((seed, what)),
            Err(Failure { cut: None, what }) => panic!("a missing sync must not show before a cut: {what}"),
            Ok(_) => None,
        });
        let (seed, what) = found.unwrap_or_else(|| panic!("{seam:?} seam: nobody missed the syncs of {planted:?}"));
        println!("{seam:?} seam without the syncs of {planted:?}: history {seed}: {what}");
    }
}

#[test]
fn a_cut_while_a_store_is_made_leaves_a_store_or_a_clear_refusal() {
    for seam in [Seam::File, Seam::Memory] {
        let disk = Disk::new(seam);
        disk.init().expect("init");
        for step in 0..=disk.steps() {
            for seed in 0..8 {
                let left = disk.crash_at(step, seed);
                let opened = Store::open_on(left.blocker(), store_options(seed));
                if step == disk.steps() {
                    opened.as_ref().unwrap_or_else(|e| panic!("{seam:?}, crash seed {seed}: {e}"));
                }
                if let Ok(store) = opened {
                    store
                        .create("volume", &CreateOptions { size: 1, block_size: None })
                        .unwrap_or_else(|e| panic!("{seam:?}, cut {step}, crash seed {seed}: it opens, but: {e}"));
                }
            }
        }
    }
}

#[test]
fn an_io_error_at_any_call_loses_nothing_flushed_and_a_failed_sync_is_fail_stop() {
    let count = variable("HISTORIES").unwrap_or(2000) / 2;
    let first: u64 = variable("FIRST").unwrap_or(0);
    let seen = in_parallel(count, |number| faults::check_io_error(seam_of(number), first + number));
    let poisoned = seen.iter().filter(|o| **o == Outcome::Poisoned).count();
    let reported = seen.iter().filter(|o| **o == Outcome::Reported).count();
    println!("{count} histories with an I/O error: {reported} reported it, {poisoned} as a failed sync of a flush");
    assert!(count < 500 || poisoned > 0, "no history had a flush whose sync failed: the test tests nothing");
}

#[test]
fn a_full_disk_refuses_clearly_loses_nothing_and_works_again_with_room() {
    let count = variable("HISTORIES").unwrap_or(2000) / 4;
    let first: u64 = variable("FIRST").unwrap_or(0);
    let refused = in_parallel(count, |number| faults::check_no_space(seam_of(number), first + number));
    let refusals = refused.iter().filter(|r| **r).count();
    println!("{count} histories on a full disk: {refusals} were refused room");
    assert!(count < 100 || refusals > 0, "no history ran out of space: the test tests nothing");
}

#[test]
fn long_histories_without_cuts_match_the_reference() {
    let count = variable("HISTORIES").unwrap_or(2000) / 50;
    let first: u64 = variable("FIRST").unwrap_or(0);
    in_parallel(count, |number| plain::check_long(seam_of(number), first + number, 500));
}

#[test]
fn no_damage_is_found_after_a_cut_at_any_io_and_repairs_leave_what_the_reference_allows() {
    let count = variable("HISTORIES").unwrap_or(2000) / 20;
    let first: u64 = variable("FIRST").unwrap_or(0);
    let mut all = checked::Tally::default();
    in_parallel(count, |number| checked::check_cuts(seam_of(number), first + number))
        .into_iter()
        .for_each(|tally| all.add(tally));
    println!("{count} histories: {all:?}");
    assert!(count < 100 || (all.leftovers > 0 && all.repaired > 0), "no cut left anything: the test tests nothing");
}
