//! Cuts the power, opens what is left, and judges it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use archipelago_core::blocker::sim::Syncs;
use archipelago_core::limits::ATOM;
use archipelago_core::{Kind, ListOptions, Mode, Store};

use crate::history::{History, Op, Rng, Step, fill, mix};
use crate::reference::{Allowed, Map, Mismatch, State, Touched};
use crate::run::{Disk, Live, Place, Seam, new_disk, store_options};

/// What is done with a history.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seam: Seam,
    /// Disks tried per cut: what was durable, then random ones, then all that was issued.
    pub crashes: u64,
    /// Only this cut (step, crash seed).
    pub only: Option<(u64, u64)>,
    /// Syncs that the disk quietly leaves out.
    pub planted: Syncs,
}

impl Plan {
    pub fn new(seam: Seam, crashes: u64) -> Plan {
        Plan { seam, crashes, only: None, planted: Syncs::None }
    }
}

/// How much was tried.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    pub histories: u64,
    pub cuts: u64,
    pub recoveries: u64,
    pub second_cuts: u64,
}

impl Counts {
    pub fn add(&mut self, other: Counts) {
        self.histories += other.histories;
        self.cuts += other.cuts;
        self.recoveries += other.recoveries;
        self.second_cuts += other.second_cuts;
    }
}

/// Where it went wrong, and how.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Step and crash seed of the cut; `None` if the live run failed.
    pub cut: Option<(u64, u64)>,
    pub what: String,
}

/// Runs a history and cuts after every one of its I/Os.
pub fn check_history(plan: &Plan, history: &History) -> Result<Counts, Failure> {
    let failed = |cut| move |what| Failure { cut, what };
    let live = quietly(|| {
        let disk = new_disk(plan.seam).map_err(|e| format!("init: {e}"))?;
        disk.drop_syncs(plan.planted);
        let mut live = Live::start(disk, history.seed, true).map_err(|e| format!("open: {e}"))?;
        live.run(history)?;
        Ok(live)
    })
    .map_err(failed(None))?;

    let mut counts = Counts { histories: 1, ..Counts::default() };
    let end = live.disk.steps();
    for step in live.base..=end {
        if plan.only.is_some_and(|(only, _)| only != step) {
            continue;
        }
        counts.cuts += 1;
        for seed in crash_seeds(plan, history.seed, step) {
            counts.recoveries += 1;
            counts.second_cuts +=
                quietly(|| check_cut(&live, history, step, seed)).map_err(failed(Some((step, seed))))?;
        }
    }
    Ok(counts)
}

/// Which disks are tried for the cut at `step`.
fn crash_seeds(plan: &Plan, seed: u64, step: u64) -> Vec<u64> {
    if let Some((_, only)) = plan.only {
        return vec![only];
    }
    // Seeds 0 and 1 have a meaning of their own; small numbers are easy to type again.
    let random = |n: u64| 2 + mix(mix(seed, step), n) % 1_000_000;
    (0..plan.crashes)
        .map(|n| match n {
            0 => 0,
            2 => 1,
            _ => random(n),
        })
        .collect()
}

/// One cut: open, compare, use, and now and then cut again. Returns the second cuts made.
fn check_cut(live: &Live, history: &History, step: u64, seed: u64) -> Result<u64, String> {
    let (allowed, place) = live.allowed_at(step);
    let mut rng = Rng::new(mix(mix(history.seed, step), seed));
    let at = |e: String| format!("cut {place}: {}", explain(&e, history));
    let cut_short = match place {
        Place::During(step) => Some(step),
        _ => None,
    };
    let disk = live.disk.crash_at(step, seed);
    let again = recover(&disk, &allowed, &live.touched, &mut rng)
        .and_then(|found| use_it(disk, found, &live.touched, live.seed, cut_short, &mut rng));
    let mut again = again.map_err(at)?;

    // Cut again: sometimes every I/O of recovery and use, mostly one or two of them.
    if !rng.one_in(4) {
        return Ok(0);
    }
    let end = again.disk.steps();
    again.abandon();
    let mut cuts = 0;
    for _ in 0..3 {
        let second = again.base + rng.below(end - again.base + 1);
        let (allowed, second_place) = again.allowed_at(second);
        let crash = rng.below(4);
        let disk = again.disk.crash_at(second, crash);
        recover(&disk, &allowed, &again.touched, &mut rng).map_err(|e| {
            let e = explain(&e, history);
            format!(
                "cut {place}, then again at step {second} (crash seed {crash}) {second_place} of the second run: {e}"
            )
        })?;
        cuts += 1;
    }
    Ok(cuts)
}

/// A store that was opened after a cut, what it holds, and the step counter from before the opening.
pub struct Found {
    store: Store,
    state: State,
    base: u64,
}

/// Opens what a cut left and compares it with what may be there.
pub fn recover(disk: &Disk, allowed: &Allowed, touched: &Touched, rng: &mut Rng) -> Result<Found, String> {
    let base = disk.steps();
    let store =
        Store::open_on(disk.blocker(), store_options(rng.next())).map_err(|e| format!("opening the store: {e}"))?;
    let listed = list(&store, rng)?;
    let candidates: Vec<State> = allowed.states.iter().filter_map(|s| agree(s, allowed, &listed)).collect();
    if candidates.is_empty() {
        let wanted: Vec<_> = allowed.states.iter().map(shape).collect();
        return Err(format!(
            "the store lists {listed:?}, allowed is one of {wanted:?}, optional {:?}",
            allowed.optional
        ));
    }

    // All of it only now and then: elsewhere nothing was written.
    let everything = rng.one_in(24);
    let mut seen = BTreeMap::new();
    for (name, (kind, size)) in &listed {
        let ranges = if everything { vec![(0, *size)] } else { touched.ranges(*size) };
        let mode = if *kind == Kind::Volume && rng.one_in(2) { Mode::ReadWrite } else { Mode::ReadOnly };
        let volume = store.open_volume(name, mode).map_err(|e| format!("{name}: opening {mode:?}: {e}"))?;
        if volume.size() != *size {
            return Err(format!("{name}: listed with {size} bytes, open with {}", volume.size()));
        }
        let mut contents = vec![];
        for (offset, len) in ranges {
            let mut bytes = vec![0xa5; len as usize];
            volume.read_at(&mut bytes, offset).map_err(|e| format!("{name}: reading {len} bytes at {offset}: {e}"))?;
            contents.push((offset, bytes));
        }
        seen.insert(name.clone(), contents);
    }

    let mut first = None;
    for mut state in candidates {
        match compare(&state, &seen) {
            Ok(()) => {
                for (name, contents) in &seen {
                    if let Some(map) = state.get_mut(name) {
                        contents.iter().for_each(|(offset, bytes)| map.adopt(*offset, bytes));
                        map.settle();
                    }
                }
                return Ok(Found { store, state, base });
            }
            Err(e) => first = first.or(Some(e)),
        }
    }
    Err(first.unwrap_or_default())
}

/// What a listing says of each map.
type Listed = BTreeMap<String, (Kind, u64)>;

fn list(store: &Store, rng: &mut Rng) -> Result<Listed, String> {
    let mut options =
        ListOptions { limit: if rng.one_in(4) { 1 + rng.below(3) as usize } else { 0 }, ..Default::default() };
    let mut listed = Listed::new();
    loop {
        let page = store.list(&options).map_err(|e| format!("listing: {e}"))?;
        for info in page.entries {
            if listed.insert(info.name.clone(), (info.kind, info.size)).is_some() {
                return Err(format!("{} is listed twice", info.name));
            }
        }
        match page.next {
            Some(next) => options.after = Some(next),
            None => return Ok(listed),
        }
    }
}

/// Names, kinds and sizes.
pub fn shape(state: &State) -> Listed {
    state.iter().map(|(name, map)| (name.clone(), (map.kind, map.size()))).collect()
}

/// The state, without the optional maps that are not listed, if it has just the maps that are.
fn agree(state: &State, allowed: &Allowed, listed: &Listed) -> Option<State> {
    let mut state = state.clone();
    state.retain(|name, _| listed.contains_key(name) || !allowed.optional.contains(name));
    (shape(&state) == *listed).then_some(state)
}

fn compare(state: &State, seen: &BTreeMap<String, Vec<(u64, Vec<u8>)>>) -> Result<(), String> {
    for (name, contents) in seen {
        let map: &Map = &state[name];
        for (offset, bytes) in contents {
            map.check(*offset, bytes).map_err(|m| describe(name, map.kind, &m))?;
        }
    }
    Ok(())
}

/// Marks bytes in an error text, so that [`explain`] can find the write that they came from.
const BYTES: char = '«';

fn describe(name: &str, kind: Kind, m: &Mismatch) -> String {
    // Where the atom begins to differ from what was written last.
    let differs = m.allowed.first().and_then(|live| m.seen.iter().zip(live).position(|(a, b)| a != b));
    let start = differs.unwrap_or(0) / 16 * 16;
    let show = |bytes: &[u8]| {
        let hex: String = bytes.iter().skip(start).take(16).map(|b| format!("{b:02x}")).collect();
        format!("{BYTES}{}:{hex}»", m.offset + start as u64)
    };
    let allowed: Vec<String> = m.allowed.iter().map(|a| show(a)).collect();
    format!(
        "{name} ({kind:?}): in the {ATOM} bytes at {}, from byte {} on: {}, allowed {}",
        m.offset,
        m.offset + start as u64,
        show(&m.seen),
        allowed.join(" or ")
    )
}

/// Replaces bytes in an error text by the operation that wrote them.
pub fn explain(text: &str, history: &History) -> String {
    let mut out = String::new();
    for (i, part) in text.split(BYTES).enumerate() {
        let Some((bytes, rest)) = part.split_once('»').filter(|_| i > 0) else {
            out.push_str(part);
            continue;
        };
        let (offset, hex) = bytes.split_once(':').unwrap_or(("0", ""));
        let offset = offset.parse().unwrap_or(0);
        let origin = history.steps.iter().map(|s| s.stamp).chain(FIRST_USE..FIRST_USE + 64).find(|stamp| {
            let mut made = vec![0; hex.len() / 2];
            fill(history.seed, *stamp, offset, &mut made);
            made.iter().any(|b| *b != 0) && made.iter().map(|b| format!("{b:02x}")).collect::<String>() == hex
        });
        let zero = hex.bytes().all(|b| b == b'0');
        match origin {
            Some(stamp) => out.push_str(&format!("of write #{stamp} ({hex}..)")),
            None if zero => out.push_str("zero"),
            None => out.push_str(&format!("mixed ({hex}..)")),
        }
        out.push_str(rest);
    }
    out
}

/// Stamp of the first operation after recovery: above those of any short history.
const FIRST_USE: u32 = 900;

/// Name of the snapshot that [`use_it`] takes of the `i`th volume.
pub fn used_name(i: usize) -> String {
    format!("used-{i:03}")
}

/// A recovered store is a store: an operation that was cut short can be repeated, every volume can be written, flushed and snapshotted, and reads back.
pub fn use_it(
    disk: Disk,
    found: Found,
    touched: &Touched,
    seed: u64,
    cut_short: Option<&Step>,
    rng: &mut Rng,
) -> Result<Live, String> {
    let Found { store, state, base } = found;
    let mut again = Live::resume(disk, store, state, touched.clone(), seed, base, true);
    if let Some(step) = cut_short {
        // With the volume open or not, as it comes.
        if rng.one_in(2) {
            again.open_some(rng).map_err(|e| format!("opening volumes of the recovered store: {e}"))?;
        }
        again.apply(step).map_err(|e| format!("repeating {step}: {e}"))?;
    }
    let volumes: Vec<(String, u64)> =
        again.state.iter().filter(|(_, m)| m.kind == Kind::Volume).map(|(n, m)| (n.clone(), m.size())).collect();
    let mut ops = vec![];
    for (i, (name, size)) in volumes.iter().enumerate() {
        // Where something was written before, if anything was.
        let ranges = touched.ranges(*size);
        let (start, len) = if ranges.is_empty() { (0, *size) } else { *rng.pick(&ranges) };
        let offset = (start + rng.below(len)) / ATOM as u64 * ATOM as u64;
        let longest = *rng.pick(&[600, 9000, 40_000]);
        let len = (1 + rng.below(longest)).min(size - offset);
        ops.push(Op::Write { name: name.clone(), offset, len, fua: false });
        ops.push(Op::Flush { name: name.clone() });
        ops.push(Op::Snapshot { volume: name.clone(), name: used_name(i) });
    }
    for (i, op) in ops.into_iter().enumerate() {
        let step = Step { stamp: FIRST_USE + i as u32, op };
        again.apply(&step).map_err(|e| format!("using the recovered store: {step}: {e}"))?;
    }
    again.check_touched().map_err(|e| format!("reading back from the recovered store: {e}"))?;
    Ok(again)
}

/// Drops operations from a failing history as long as it still fails. Returns what is left and how that fails.
pub fn shrink(plan: &Plan, history: &History, failure: Failure) -> (History, Failure) {
    let plan = Plan { only: None, crashes: plan.crashes.max(4), ..plan.clone() };
    let (mut best, mut best_failure) = (history.clone(), failure);
    // A history has at most 15 operations: few passes are enough, and each pass ends.
    for _ in 0..4 {
        let mut dropped = false;
        for at in (0..best.steps.len()).rev() {
            let stamps: Vec<u32> =
                best.steps.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, s)| s.stamp).collect();
            let shorter = best.keep(&stamps);
            if let Err(failure) = check_history(&plan, &shorter) {
                (best, best_failure, dropped) = (shorter, failure, true);
            }
        }
        if !dropped {
            break;
        }
    }
    (best, best_failure)
}

/// Everything that a person needs to see it again.
pub fn report(plan: &Plan, history: &History, failure: &Failure) -> String {
    let keep: Vec<String> = history.steps.iter().map(|s| s.stamp.to_string()).collect();
    let cut = match failure.cut {
        Some((step, crash)) => format!("ARCHIPELAGO_MODEL_CUT={step} ARCHIPELAGO_MODEL_CRASH={crash} "),
        None => String::new(),
    };
    format!(
        "{seam:?} seam, history {seed}\n  {what}\n  history:\n{history}  replay: ARCHIPELAGO_MODEL_SEED={seed} \
         ARCHIPELAGO_MODEL_SEAM={lower} ARCHIPELAGO_MODEL_KEEP={keep} {cut}cargo test -p archipelago-core --test model \
         -- a_cut_after_any --nocapture",
        seam = plan.seam,
        lower = format!("{:?}", plan.seam).to_lowercase(),
        seed = history.seed,
        what = failure.what,
        keep = keep.join(","),
    )
}

/// A panic of the engine is a failure like any other.
fn quietly<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without a text")))
    })
}
