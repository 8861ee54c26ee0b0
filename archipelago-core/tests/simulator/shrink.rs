//! Runs a whole history, and makes one that fails shorter.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::generate::History;
use crate::history::{Step, in_a_cluster};
use crate::process::Backend;
use crate::wire::TRACE;
use crate::world::{Bugs, Counts, World};

/// Runs of a history that shrinking may take: about ten seconds.
const MOST_RUNS: u32 = 2000;

/// Where it went wrong, and how.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The operation, unless it was the last look.
    pub stamp: Option<u32>,
    pub what: String,
}

/// Runs these operations of the history with this seed.
pub fn run(backend: Backend, seed: u64, steps: &[Step], bugs: Bugs) -> Result<Counts, Failure> {
    // What stops a run is where it stopped, a panic of the engine too.
    let mut at = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(backend, seed, bugs).map_err(|e| format!("at the start: {e}"))?;
        let steps = match backend {
            Backend::Rados => in_a_cluster(steps),
            Backend::File | Backend::Memory => steps.to_vec(),
        };
        for step in &steps {
            at = Some(step.stamp);
            if *TRACE {
                println!("    {step}");
            }
            world.apply(step).map_err(|e| e.to_string())?;
        }
        at = None;
        world.finish().map_err(|e| format!("at the end: {e}"))?;
        Ok(world.counts)
    }));
    let result = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without a text")))
    });
    result.map_err(|what| Failure { stamp: at, what })
}

/// Leaves out operations, and then what goes wrong in those that are left, as long as the history still fails.
pub fn shrink(backend: Backend, history: &History, failure: Failure, bugs: Bugs) -> (History, Failure) {
    let mut best = (history.clone(), failure);
    // Who wants to see each call replays what was shrunk before.
    if *TRACE {
        return best;
    }
    let mut runs = 0;
    let mut fails = |steps: &[Step]| {
        runs += 1;
        if runs > MOST_RUNS { None } else { run(backend, history.seed, steps, bugs).err() }
    };
    // Nothing behind the failure matters.
    if let Some(stamp) = best.1.stamp {
        best.0.steps.retain(|s| s.stamp <= stamp);
    }
    let mut size = best.0.steps.len().div_ceil(2).max(1);
    loop {
        let mut dropped = false;
        let mut from = 0;
        while from < best.0.steps.len() {
            let mut steps = best.0.steps.clone();
            steps.drain(from..(from + size).min(steps.len()));
            match fails(&steps) {
                Some(failure) => {
                    best.0.steps = steps;
                    if let Some(stamp) = failure.stamp {
                        best.0.steps.retain(|s| s.stamp <= stamp);
                    }
                    best.1 = failure;
                    dropped = true;
                }
                None => from += size,
            }
        }
        if size == 1 && !dropped {
            break;
        }
        if !dropped || size > 1 {
            size = size.div_ceil(2).max(1);
        }
        if size == 1 && best.0.steps.len() <= 1 {
            break;
        }
    }
    for i in 0..best.0.steps.len() {
        let mut steps = best.0.steps.clone();
        if let Some(step) = steps.get_mut(i)
            && step.fault.take().is_some()
            && let Some(failure) = fails(&steps)
        {
            best = (History { seed: history.seed, steps }, failure);
        }
    }
    best
}

/// Everything that a person needs to see it again.
pub fn report(backend: Backend, history: &History, operations: usize, failure: &Failure) -> String {
    let whole = History::new(history.seed, operations);
    let keep: Vec<String> = history
        .steps
        .iter()
        .map(|step| {
            let faulty = whole.steps.iter().any(|s| s.stamp == step.stamp && s.fault.is_some());
            let quiet = if faulty && step.fault.is_none() { "-" } else { "" };
            format!("{}{quiet}", step.stamp)
        })
        .collect();
    format!(
        "history {seed} on the {backend:?} backend\n  {at}: {what}\n  shrunk to:\n{history}  replay: SIM_SEED={seed} \
         SIM_HISTORIES=1 SIM_BACKEND={lower} SIM_OPERATIONS={operations} SIM_KEEP={keep} cargo test -p archipelago-core --test simulator -- \
         histories_with_faults --nocapture",
        seed = history.seed,
        at = failure.stamp.map_or("at the end".to_string(), |stamp| format!("#{stamp}")),
        what = failure.what,
        lower = format!("{backend:?}").to_lowercase(),
        keep = keep.join(","),
    )
}

/// Only the operations that `SIM_KEEP` names; `-` behind a number: without what goes wrong in it.
pub fn keep(history: &mut History, keep: &str) {
    let wanted: Vec<(u32, bool)> = keep
        .split(',')
        .map(|word| {
            let quiet = word.ends_with('-');
            (word.trim_end_matches('-').parse().expect("numbers with commas"), quiet)
        })
        .collect();
    history.steps.retain(|s| wanted.iter().any(|(stamp, _)| *stamp == s.stamp));
    for step in &mut history.steps {
        if wanted.contains(&(step.stamp, true)) {
            step.fault = None;
        }
    }
}
