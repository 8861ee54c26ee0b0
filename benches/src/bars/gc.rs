//! Map entries that a collection walks per second on one core, and the memory that it takes for a very large map.

use std::path::Path;
use std::sync::Arc;

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::{CollectOptions, InitOptions, Location, Store};

use super::check::{ENTRIES, LARGE, SHIFT, build, peak};
use super::{Outcome, Scratch, cpu, quartiles, timed};

/// Collections of the same store.
const ROUNDS: usize = 7;

/// Prints the figures.
pub fn run(dir: &Path) -> Outcome {
    // All there is to collect stays, for the next round.
    let options = CollectOptions { dry_run: true, ..CollectOptions::default() };
    // First, so that the peak of memory is its own.
    let scratch = Scratch::new(dir, "gc")?;
    let path = scratch.0.join("store");
    let init = InitOptions { block_size: 1 << SHIFT, ..InitOptions::default() };
    Store::init(&Location::File(path.clone()), &init)?;
    let store = build(Arc::new(FileBlocker::open(&path, FileOptions::default())?), LARGE, false)?;
    let before = cpu();
    let (report, took) = timed(|| store.collect(&options, &mut |_| true));
    let report = report?;
    println!(
        "{} entries on files: {:.1} s, {:.1} s of one core, at most {:.0} MiB of memory; bar 512",
        report.entries,
        took.as_secs_f64(),
        (cpu() - before).as_secs_f64(),
        peak()? as f64 / (1 << 20) as f64
    );
    drop((store, scratch));

    for (name, scattered) in [("whole blocks", false), ("two extents a block", true)] {
        let blocker = MemoryBlocker::new();
        Store::init_on(blocker.clone(), &init)?;
        let store = build(blocker.clone(), ENTRIES, scattered)?;
        blocker.forget_history();
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let before = cpu();
            let (report, took) = timed(|| store.collect(&options, &mut |_| true));
            let report = report?;
            if report.entries != ENTRIES || report.maps != 1 {
                return Err(format!("{report:?}").into());
            }
            // CPU time, for other programs may have the core meanwhile; all of it is spent in this thread.
            let spent = (cpu() - before).min(took);
            rates.push(ENTRIES as f64 / spent.as_secs_f64() / 1e6);
        }
        let (m, lo, hi) = quartiles(&mut rates);
        println!("{name}: {m:.1} ({lo:.1}..{hi:.1}) million entries a second of one core; bar 1");
    }
    Ok(())
}
