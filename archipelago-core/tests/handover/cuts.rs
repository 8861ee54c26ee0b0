//! A handover that is cut short at any call to the disk, by a kill, a power cut or an error: two processes on a simulated disk, on both seams.

use std::sync::Arc;

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::SimDisk;
use archipelago_core::store::peers::Neighbours;
use archipelago_core::{
    Background, CreateOptions, InitOptions, Mode, Result, Sharing, Standby, Store, StoreOptions, Volume,
};

use crate::random::bytes;
use crate::seam::{FATES, Seam};

const BLOCK: u64 = 64 << 10;
const SIZE: u64 = 4 * BLOCK;
const ATOM: usize = 512;

/// Who writes, where, and how much: first writes small and large, overwrites in place and in the journal, across handovers.
const STEPS: [(usize, u64, u64); 16] = [
    (0, 0, 4096),
    (0, BLOCK, 40 << 10),
    (1, 4096, 4096),
    (1, 0, 512),
    (0, BLOCK + 4096, 8192),
    (1, 2 * BLOCK - 4096, 40 << 10),
    (1, 512, 3000),
    (1, BLOCK, 4096),
    (0, 0, 4096),
    (1, 0, 4096),
    (0, 3 * BLOCK, 2048),
    (0, 2 * BLOCK, 36 << 10),
    (1, 3 * BLOCK + 2048, 2048),
    (0, 100, 700),
    (0, BLOCK, BLOCK),
    (1, BLOCK + 512, 512),
];

fn store<S: Seam>(disk: &Arc<S>, neighbours: &Arc<Neighbours>, seed: u64) -> Store {
    let options = StoreOptions {
        background: Background::Manual,
        max_unfolded: 256 << 10,
        first_segment: 64 << 10,
        seed: Some(seed),
        ..StoreOptions::default()
    };
    Store::open_among(disk.blocker(), options, neighbours).unwrap()
}

/// Two processes that stand by for a volume.
struct Pair<S> {
    disk: Arc<S>,
    stands: [Standby; 2],
}

impl<S: Seam> Pair<S> {
    fn new() -> Pair<S> {
        let disk = S::fresh();
        Store::init_on(disk.blocker(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
        let neighbours = Neighbours::new();
        let stores = [1, 2].map(|seed| store(&disk, &neighbours, seed));
        stores[0].create("volume", &CreateOptions { size: SIZE, block_size: None }).unwrap();
        let stands = stores.map(|store| store.stand_by("volume", Sharing::Shared).unwrap());
        Pair { disk, stands }
    }

    fn step(&self, number: usize) -> Result<()> {
        let (who, offset, len) = STEPS[number];
        let done = self.stands[who].hold().and_then(|held| held.write_at(&bytes(number as u64, len as usize), offset));
        let owners = self.stands.iter().filter(|stand| stand.state().owns).count();
        assert!(owners <= 1, "two owners after step {number}");
        done
    }
}

/// What the volume holds before each step, and after the last.
fn states() -> Vec<Vec<u8>> {
    let mut states = vec![vec![0; SIZE as usize]];
    for (number, (_, offset, len)) in STEPS.into_iter().enumerate() {
        let mut all = states[number].clone();
        all[offset as usize..(offset + len) as usize].copy_from_slice(&bytes(number as u64, len as usize));
        states.push(all);
    }
    states
}

/// The first state that a power cut may leave when so many steps are done: everything was durable when the volume was last handed over.
fn settled(done: usize) -> usize {
    (1..done).rev().find(|step| STEPS[*step].0 != STEPS[*step - 1].0).unwrap_or(0)
}

fn read(volume: &Volume) -> Vec<u8> {
    let mut all = vec![0xa5; SIZE as usize];
    volume.read_at(&mut all, 0).unwrap();
    all
}

/// What another process finds who takes the volume over, all others being dead.
fn taken<S: Seam>(disk: &Arc<S>) -> Vec<u8> {
    let store = store(disk, &Neighbours::new(), 9);
    let standby = store.stand_by("volume", Sharing::Exclusive).unwrap();
    read(&standby.hold().unwrap())
}

fn is_of(found: &[u8], states: &[Vec<u8>], what: &str) {
    for (atom, seen) in found.chunks(ATOM).enumerate() {
        let version = |all: &Vec<u8>| all[atom * ATOM..].starts_with(seen);
        assert!(states.iter().any(version), "{what}: atom {atom} is of no state");
    }
}

fn a_cut_at_any_call<S: Seam>() {
    let states = states();
    let pair = Pair::<S>::new();
    let mut ends = vec![pair.disk.steps()];
    for number in 0..STEPS.len() {
        pair.step(number).unwrap();
        ends.push(pair.disk.steps());
    }
    for call in ends[0]..=pair.disk.steps() {
        let done = ends.partition_point(|end| *end <= call) - 1;
        let next = (done + 1).min(STEPS.len());
        // Whoever of the two was at work, and whatever it was doing.
        let found = taken(&pair.disk.kill_at(call));
        is_of(&found, &states[done..=next], &format!("a kill at call {call}, in step {done}"));
        for seed in FATES {
            let found = taken(&pair.disk.crash_at(call, seed));
            is_of(&found, &states[settled(done)..=next], &format!("a cut at call {call}, in step {done}"));
        }
    }
}

#[test]
fn a_kill_or_cut_at_any_call_of_a_handover_loses_nothing_in_memory() {
    a_cut_at_any_call::<MemoryBlocker>();
}

#[test]
fn a_kill_or_cut_at_any_call_of_a_handover_loses_nothing_on_files() {
    a_cut_at_any_call::<SimDisk>();
}

/// What each atom may hold: now, and after all that was not flushed was lost.
struct Allowed {
    now: Vec<Vec<Vec<u8>>>,
    later: Vec<Vec<Vec<u8>>>,
}

impl Allowed {
    fn zeros() -> Allowed {
        let atoms = vec![vec![vec![0; ATOM]]; SIZE as usize / ATOM];
        Allowed { now: atoms.clone(), later: atoms }
    }

    /// A step was done, or failed and was done or not.
    fn step(&mut self, number: usize, done: bool) {
        let (_, offset, len) = STEPS[number];
        let data = bytes(number as u64, len as usize);
        let (begin, end) = (offset as usize, (offset + len) as usize);
        for atom in begin / ATOM..end.div_ceil(ATOM) {
            let (from, to) = ((atom * ATOM).max(begin), ((atom + 1) * ATOM).min(end));
            let written: Vec<_> = self.now[atom]
                .clone()
                .into_iter()
                .map(|mut bytes| {
                    bytes[from - atom * ATOM..to - atom * ATOM].copy_from_slice(&data[from - begin..to - begin]);
                    bytes
                })
                .collect();
            if done {
                self.now[atom].clear();
            }
            self.now[atom].extend(written.iter().cloned());
            self.later[atom].extend(written);
        }
    }

    fn check(&self, found: &[u8], what: &str) {
        for (atom, seen) in found.chunks(ATOM).enumerate() {
            assert!(self.later[atom].iter().any(|version| version == seen), "{what}: atom {atom}");
        }
    }
}

/// Lets each call fail in turn. Nobody is given a volume whose former owner could not flush it.
fn an_error_at_any_call<S: Seam>() {
    let whole = Pair::<S>::new();
    let begin = whole.disk.steps();
    (0..STEPS.len()).for_each(|number| whole.step(number).unwrap());
    for call in begin + 1..=whole.disk.steps() {
        let pair = Pair::<S>::new();
        pair.disk.fail_at(call, libc::EIO);
        let (mut owner, mut allowed) = (None, Allowed::zeros());
        for (number, (who, ..)) in STEPS.into_iter().enumerate() {
            let done = pair.step(number).is_ok();
            if !done {
                pair.disk.clear_failures();
            }
            if done && owner.replace(who).is_some_and(|owner| owner != who) {
                // Everything was flushed when it was given away.
                allowed.later = allowed.now.clone();
            }
            allowed.step(number, done);
        }
        let disk = pair.disk.clone();
        drop(pair);
        let store = store(&disk, &Neighbours::new(), 9);
        let found = read(&store.open_volume("volume", Mode::ReadWrite).unwrap());
        allowed.check(&found, &format!("an error at call {call}"));
    }
}

#[test]
fn an_error_at_any_call_of_a_handover_loses_nothing_that_was_handed_over_in_memory() {
    an_error_at_any_call::<MemoryBlocker>();
}

#[test]
fn an_error_at_any_call_of_a_handover_loses_nothing_that_was_handed_over_on_files() {
    an_error_at_any_call::<SimDisk>();
}
