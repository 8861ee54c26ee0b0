//! What `check` says of stores that were cut off: no damage, ever; and what it repairs stays what the reference allows.

use archipelago_core::{CheckOptions, CheckReport, FindingKind, Severity, Store};

use crate::history::{History, Rng, mix};
use crate::run::{Disk, Live, Seam, new_disk, store_options};
use crate::verify::{explain, recover};

/// How much was tried and found.
#[derive(Default, Debug)]
pub struct Tally {
    pub checks: u64,
    pub leftovers: u64,
    pub repaired: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.checks += other.checks;
        self.leftovers += other.leftovers;
        self.repaired += other.repaired;
    }
}

fn check(disk: &Disk, repair: bool) -> Result<CheckReport, String> {
    let store = Store::open_on(disk.blocker(), store_options(7)).map_err(|e| format!("opening the store: {e}"))?;
    let options = CheckOptions { repair, grace: 0, ..CheckOptions::default() };
    let report = store.check(&options, &mut |_| Ok(())).map_err(|e| format!("check: {e}"))?;
    match report.worst() {
        Some(Severity::Damage) => Err(format!("check finds damage: {:#?}", report.findings)),
        _ => Ok(report),
    }
}

/// Runs a history, checks what each of its I/Os left when the power went there, repairs it, checks again, and compares
/// what can be read with the reference.
pub fn check_cuts(seam: Seam, seed: u64) -> Result<Tally, String> {
    let history = History::short(seed);
    let context = |e: String| format!("{seam:?} seam, history {seed}: {}\n{history}", explain(&e, &history));
    let mut live = new_disk(seam).and_then(|disk| Live::start(disk, seed, true)).map_err(|e| context(e.to_string()))?;
    live.run(&history).map_err(context)?;
    let mut tally = Tally::default();
    for step in live.base..=live.disk.steps() {
        for crash in [0, 1, 2 + mix(seed, step) % 1_000_000] {
            let (allowed, place) = live.allowed_at(step);
            let at = |e: String| context(format!("cut at step {step} (crash seed {crash}) {place}: {e}"));
            let disk = live.disk.crash_at(step, crash);
            let before = check(&disk, false).map_err(at)?;
            let repaired = check(&disk, true).map_err(at)?;
            tally.checks += 1;
            tally.leftovers += before.findings.len() as u64;
            tally.repaired += u64::from(repaired.findings.iter().any(|f| !f.is_left()));
            let after = check(&disk, false).map_err(at)?;
            // What nothing names is the collector's.
            let collectable = [FindingKind::Leak, FindingKind::Unborn, FindingKind::UnnamedHeader];
            if let Some(left) =
                after.findings.iter().find(|f| f.severity > Severity::Leak || !collectable.contains(&f.kind))
            {
                return Err(at(format!("left after a repair: {left:#?}\nrepaired: {:#?}", repaired.findings)));
            }
            recover(&disk, &allowed, &live.touched, &mut Rng::new(mix(seed, step)))
                .map(drop)
                .map_err(|e| at(format!("after a repair: {e}")))?;
        }
    }
    Ok(tally)
}
