//! Histories on a disk that reports errors.

use std::collections::BTreeMap;

use archipelago_core::{Error, Kind};

use crate::history::{History, Op, Rng, mix};
use crate::reference::{Allowed, State};
use crate::run::{Fault, Live, Seam, new_disk};
use crate::verify::{explain, recover, shape, use_it, used_name};

/// What became of a planned error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// No operation reported it: it hit work that may fail, or was never reached.
    Unseen,
    /// An operation reported it.
    Reported,
    /// It was a failed sync of a flush, and the volume refused to flush again.
    Poisoned,
}

/// Runs a history in which one random call fails with EIO. Whatever that call was, nothing flushed is lost; after a failed
/// sync the volume does not flush again until it was reopened; a reopened store works, and keeps what it then flushes.
pub fn check_io_error(seam: Seam, seed: u64) -> Result<Outcome, String> {
    let history = History::short(seed);
    let mut rng = Rng::new(mix(seed, 4));
    let (mut live, calls) = measured(seam, &history)?;
    let failing = live.base + 1 + rng.below(calls);
    live.disk.fail_at(failing, libc::EIO);

    let context =
        |e: String| format!("{seam:?} seam, seed {seed}, call {failing} fails: {}\n{history}", explain(&e, &history));
    let mut allowed = Allowed::just(&live.state);
    let mut outcome = Outcome::Unseen;
    for step in &history.steps {
        match live.apply(step) {
            Ok(_) => allowed = Allowed::just(&live.state),
            Err(Fault::Engine(error)) if error.errno() == libc::EIO => {
                outcome = Outcome::Reported;
                if let Some(name) = flushed(&step.op).filter(|_| is_failed_sync(&error)) {
                    if flushes_again(&mut live, name).map_err(|e| context(format!("{step}: {e}")))? {
                        live.settle(name);
                    } else {
                        outcome = Outcome::Poisoned;
                    }
                }
                if let Some(effect) = live.effect_of(step) {
                    allowed = effect.during;
                    allowed.states.extend([live.state.clone(), effect.after]);
                }
                break;
            }
            Err(e) => return Err(context(format!("{step}: {e}"))),
        }
    }
    live.abandon();

    // The machine stops, too.
    for crash in 0..4 {
        let disk = live.disk.crash_at(u64::MAX, crash);
        recover(&disk, &allowed, &live.touched, &mut rng)
            .and_then(|found| use_it(disk, found, &live.touched, seed, None, &mut rng))
            .map_err(|e| context(format!("cut after the error (crash seed {crash}): {e}")))?;
    }

    // The process goes on, on the same disk: what it sees of unflushed data may still be lost by a later cut, but what
    // it flushes from now on may not.
    let found = recover(&live.disk, &allowed, &live.touched, &mut rng)
        .map_err(|e| context(format!("opened again after the error: {e}")))?;
    let mut again = use_it(live.disk.clone(), found, &live.touched, seed, None, &mut rng)
        .map_err(|e| context(format!("opened again after the error: {e}")))?;
    let (flushed, _) = again.allowed_at(u64::MAX);
    again.abandon();
    // Whether a map exists or how long it is stays open when that was what the error struck.
    let shapes: Vec<_> = allowed.states.iter().map(shape).collect();
    if shapes.iter().any(|s| *s != shapes[0]) {
        return Ok(outcome);
    }
    let kept = keep_doubt(flushed, &allowed);
    for crash in 0..4 {
        let disk = again.disk.crash_at(u64::MAX, crash);
        recover(&disk, &kept, &again.touched, &mut rng)
            .map_err(|e| context(format!("used again after the error, then cut (crash seed {crash}): {e}")))?;
    }
    Ok(outcome)
}

/// A store for the history, and the number of calls that the history makes.
fn measured(seam: Seam, history: &History) -> Result<(Live, u64), String> {
    let start = || {
        let mut live =
            new_disk(seam).and_then(|disk| Live::start(disk, history.seed, true)).map_err(|e| e.to_string())?;
        // Dropping a handle flushes too, but cannot say that it failed.
        live.careful = true;
        Ok::<Live, String>(live)
    };
    let mut rehearsal = start()?;
    for step in &history.steps {
        rehearsal.apply(step).map_err(|e| format!("{step}: {e}"))?;
    }
    let calls = rehearsal.disk.steps() - rehearsal.base;
    Ok((start()?, calls))
}

/// The volume that an operation flushes.
fn flushed(op: &Op) -> Option<&str> {
    match op {
        Op::Flush { name } | Op::Write { name, fua: true, .. } | Op::Zeroes { name, fua: true, .. } => Some(name),
        _ => None,
    }
}

fn is_failed_sync(error: &Error) -> bool {
    matches!(error, Error::Io { op, .. } if op.contains("sync"))
}

/// Flushes again after a failed sync. Either no flush ever succeeds, or (what failed was thrown away and made anew) all
/// do, and then they promise what a flush promises.
fn flushes_again(live: &mut Live, name: &str) -> Result<bool, String> {
    let mut results = vec![];
    for _ in 0..3 {
        // The sync that failed may have been one of opening it, and then it does not open any more.
        let flushed = live.volume(name).and_then(|volume| volume.flush().map_err(Fault::Engine));
        results.push(match flushed {
            Ok(()) => true,
            Err(Fault::Engine(error)) if error.errno() == libc::EIO => false,
            Err(error) => return Err(format!("a flush after a failed sync: {error}")),
        });
    }
    if results.iter().any(|r| *r != results[0]) {
        return Err(format!("flushes after a failed sync first failed and then did not: {results:?}"));
    }
    Ok(results[0])
}

/// What may be found by a cut after the store was used again: pages that a failed sync dropped read as new until they
/// leave the cache, so what was in doubt when the error struck still is.
fn keep_doubt(after: Allowed, before: &Allowed) -> Allowed {
    let mut states: Vec<State> = after.states;
    for state in &mut states {
        // `use_it` took a snapshot of each volume, in their order.
        let volumes = state.iter().filter(|(_, m)| m.kind == Kind::Volume).map(|(n, _)| n.clone());
        let copies: BTreeMap<String, String> = volumes.enumerate().map(|(i, n)| (used_name(i), n)).collect();
        for (name, map) in state.iter_mut() {
            let name = copies.get(name).unwrap_or(name);
            before.states.iter().filter_map(|s| s.get(name)).for_each(|earlier| map.doubt(earlier));
        }
    }
    Allowed { states, optional: after.optional }
}

/// Runs a history whose disk is full for a while. Returns whether an operation was refused for it.
pub fn check_no_space(seam: Seam, seed: u64) -> Result<bool, String> {
    let history = History::short(seed);
    let mut rng = Rng::new(mix(seed, 5));
    let mut live =
        new_disk(seam).and_then(|disk| Live::start(disk, seed, true)).map_err(|e| format!("seed {seed}: {e}"))?;
    let context = |e: String| format!("{seam:?} seam, seed {seed}: {}\n{history}", explain(&e, &history));
    let full_at = rng.below(history.steps.len() as u64) as usize;
    // Dropping a handle flushes too, but cannot say that it failed.
    live.careful = true;
    let (mut refused, mut in_doubt) = (false, None);
    for (i, step) in history.steps.iter().enumerate() {
        if i == full_at {
            // Small file systems keep a small reserve, so that writes get to feel the end itself.
            let total = *rng.pick(&[1 << 40, 8 << 20, 1 << 20]);
            live.disk.set_space(total, rng.below(200 << 10));
        }
        let effect = live.effect_of(step);
        match live.apply(step) {
            Ok(_) => {}
            Err(Fault::Engine(Error::NoSpace(_))) => {
                refused = true;
                if matches!(step.op, Op::Close { .. } | Op::Reopen | Op::Remove { .. }) {
                    // A close that fails gives the volume up all the same: what was not flushed is in doubt.
                    in_doubt = effect;
                    break;
                }
                live.check_untouched(step).map_err(|e| context(format!("after {step} found no space: {e}")))?;
                live.disk.set_space(1 << 40, 1 << 39);
                live.apply(step).map_err(|e| context(format!("{step}, again with room: {e}")))?;
            }
            Err(e) => return Err(context(format!("{step} with little room: {e}"))),
        }
    }
    live.disk.set_space(1 << 40, 1 << 39);
    let allowed = match in_doubt {
        Some(effect) => {
            let mut allowed = effect.during;
            allowed.states.push(effect.after);
            allowed
        }
        None => {
            live.check_all().map_err(|e| context(format!("at the end: {e}")))?;
            live.allowed_at(u64::MAX).0
        }
    };
    live.abandon();
    for crash in 0..4 {
        // Giving up the handles flushed them: what was allowed before still is, and nothing else.
        let disk = live.disk.crash_at(u64::MAX, crash);
        let found = recover(&disk, &allowed, &live.touched, &mut rng);
        let used = found.and_then(|found| use_it(disk, found, &live.touched, seed, None, &mut rng));
        used.map_err(|e| context(format!("cut at the end (crash seed {crash}): {e}")))?;
    }
    Ok(refused)
}
