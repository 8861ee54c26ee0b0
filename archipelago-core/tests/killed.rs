//! A process that is killed while the machine goes on loses nothing that it answered, flushed or not: after each call of a history, on
//! both seams. What is then read is still what a power cut may take, until it is flushed; and what a failed sync dropped is
//! never shown.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use archipelago_core::blocker::Blocker;
use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::{Crashable, SimDisk, Syncs};
use archipelago_core::planted::{Bug, plant};
use archipelago_core::*;

#[path = "common/random.rs"]
mod random;
use random::bytes;
#[path = "common/seam.rs"]
mod seam;
use seam::{FATES, Seam};

const BLOCK: u64 = 64 << 10;
const SIZE: u64 = 8 * BLOCK - 5000;
const ATOM: usize = 512;
fn open<S: Seam>(disk: &Arc<S>, seed: u64) -> Store {
    let options = StoreOptions {
        background: Background::Manual,
        max_unfolded: 1 << 20,
        first_segment: 64 << 10,
        seed: Some(seed),
        ..StoreOptions::default()
    };
    Store::open_on(disk.blocker(), options).unwrap()
}

fn try_read(volume: &Volume) -> Result<Vec<u8>> {
    let mut all = vec![0xa5; SIZE as usize];
    volume.read_at(&mut all, 0).map(|()| all)
}

fn read(volume: &Volume) -> Vec<u8> {
    try_read(volume).unwrap()
}

/// The same files, of which data goes past the page cache.
struct Direct(Arc<SimDisk>);

impl Crashable for Direct {
    fn steps(&self) -> u64 {
        self.0.steps()
    }
    fn crash_at(&self, step: u64, seed: u64) -> Arc<Self> {
        Arc::new(Direct(self.0.crash_at(step, seed)))
    }
    fn kill_at(&self, step: u64) -> Arc<Self> {
        Arc::new(Direct(self.0.kill_at(step)))
    }
    fn evict_at(&self, step: u64) -> Arc<Self> {
        Arc::new(Direct(self.0.evict_at(step)))
    }
    fn fail_at(&self, step: u64, errno: i32) {
        self.0.fail_at(step, errno);
    }
    fn clear_failures(&self) {
        self.0.clear_failures();
    }
    fn drop_syncs(&self, what: Syncs) {
        self.0.drop_syncs(what);
    }
    fn forget_history(&self) {
        self.0.forget_history();
    }
    fn set_space(&self, total: u64, free: u64) {
        self.0.set_space(total, free);
    }
}

impl Seam for Direct {
    fn fresh() -> Arc<Self> {
        Arc::new(Direct(SimDisk::fresh()))
    }
    fn blocker(self: &Arc<Self>) -> Arc<dyn Blocker> {
        Arc::new(FileBlocker::new(self.0.clone(), FileOptions { direct: true, ..FileOptions::default() }))
    }
}

/// What is done to the volume, one after the other.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Offset and length.
    Write(u64, u64),
    Discard(u64, u64),
    Zeroes(u64, u64),
    Flush,
    Checkpoint,
    Compact,
    Snapshot(&'static str),
}

use Step::*;

/// First writes large and small, overwrites of both, of what was composed and of what was discarded, in two epochs; hardly flushed.
const STEPS: [Step; 25] = [
    Write(0, 40 << 10),
    Write(8 << 10, 4096),
    Write(100_000, 3000),
    Discard(4096, 12 << 10),
    Write(3 * BLOCK - 9000, 2 * BLOCK),
    Flush,
    Write(8 << 10, 36 << 10),
    Zeroes(60_000, 70_000),
    Write(20_000, 600),
    Snapshot("snap-1"),
    Write(4096, 4096),
    Write(3 * BLOCK, 2000),
    Compact,
    Write(4096, 2048),
    Write(3 * BLOCK + 500, 40_000),
    Discard(3 * BLOCK, 3 * BLOCK),
    Write(3 * BLOCK + 8192, 50_000),
    Write(5 * BLOCK, 33 << 10),
    Checkpoint,
    Write(5 * BLOCK + 100, 33 << 10),
    Snapshot("snap-2"),
    Write(0, 5 * BLOCK),
    Write(BLOCK, 512),
    Discard(0, 20 << 10),
    Write(2 * BLOCK, 35 << 10),
];

impl Step {
    fn perform(self, number: usize, store: &Store, volume: &Volume) -> Result<()> {
        match self {
            Write(offset, len) => volume.write_at(&bytes(number as u64, len as usize), offset),
            Discard(offset, len) => volume.discard(offset, len),
            Zeroes(offset, len) => volume.write_zeroes(offset, len, false, WriteFlags::default()),
            Flush => volume.flush(),
            Checkpoint => volume.checkpoint(),
            Compact => {
                let options = CompactOptions { max_extents: 0, ..CompactOptions::default() };
                volume.compact(&options, &mut |_| std::ops::ControlFlow::Continue(())).map(drop)
            }
            Snapshot(name) => store.snapshot(volume.name().as_str(), name).map(drop),
        }
    }

    fn apply(self, number: usize, all: &mut [u8]) {
        match self {
            Write(offset, len) => {
                all[offset as usize..(offset + len) as usize].copy_from_slice(&bytes(number as u64, len as usize))
            }
            Discard(offset, len) => {
                all[offset.next_multiple_of(4096) as usize..((offset + len) & !4095) as usize].fill(0);
            }
            Zeroes(offset, len) => all[offset as usize..(offset + len) as usize].fill(0),
            Flush | Checkpoint | Compact | Snapshot(_) => {}
        }
    }

    fn settles(self) -> bool {
        matches!(self, Flush | Checkpoint | Compact | Snapshot(_))
    }
}

/// The history as it was done: calls of the disk and bytes of the volume after each of its steps; the first is before all.
struct Done<S> {
    disk: Arc<S>,
    ends: Vec<u64>,
    states: Vec<Vec<u8>>,
}

impl<S: Seam> Done<S> {
    fn all() -> Done<S> {
        let disk = S::fresh();
        Store::init_on(disk.blocker(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
        let store = open(&disk, 1);
        store.create("volume", &CreateOptions { size: SIZE, block_size: None }).unwrap();
        let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
        let (mut ends, mut states) = (vec![disk.steps()], vec![vec![0; SIZE as usize]]);
        for (number, step) in STEPS.into_iter().enumerate() {
            step.perform(number, &store, &volume).unwrap();
            let mut all = states[number].clone();
            step.apply(number, &mut all);
            assert!(read(&volume) == all, "{step:?}");
            ends.push(disk.steps());
            states.push(all);
        }
        Done { disk, ends, states }
    }

    /// The number of steps that were done when this many calls were.
    fn done_at(&self, call: u64) -> usize {
        self.ends.partition_point(|end| *end <= call) - 1
    }

    /// What may be found after a kill at a call: what was answered, and of what was being done any part.
    fn check_kill(&self, call: u64, found: &[u8], what: &str) {
        let done = self.done_at(call);
        let answered = &self.states[done];
        let next = self.states.get(done + 1).unwrap_or(answered);
        for (atom, seen) in found.chunks(ATOM).enumerate() {
            let at = |all: &[u8]| all[atom * ATOM..].starts_with(seen);
            assert!(at(answered) || at(next), "{what} at call {call}, {done} steps done: atom {atom}");
        }
    }

    /// What may be found after a power cut: any version since the last flush that was answered, also those of `seen`.
    fn check_cut(&self, call: u64, found: &[u8], what: &str) {
        let done = self.done_at(call);
        let settled = STEPS[..done].iter().rposition(|step| step.settles()).map_or(0, |step| step + 1);
        let last = (done + 1).min(STEPS.len());
        for (atom, seen) in found.chunks(ATOM).enumerate() {
            let version = |all: &Vec<u8>| all[atom * ATOM..].starts_with(seen);
            assert!(self.states[settled..=last].iter().any(version), "{what} at call {call}: atom {atom}");
        }
    }

    /// What a snapshot holds, if it was taken for sure.
    fn snapshots(&self, call: u64) -> impl Iterator<Item = (&'static str, &Vec<u8>)> {
        STEPS[..self.done_at(call)].iter().zip(&self.states).filter_map(|(step, state)| match step {
            Snapshot(name) => Some((*name, state)),
            _ => None,
        })
    }
}

fn look<S: Seam>(disk: &Arc<S>, seed: u64, mode: Mode) -> Vec<u8> {
    read(&open(disk, seed).open_volume("volume", mode).unwrap())
}

fn a_kill_at_any_call<S: Seam>() {
    let done = Done::<S>::all();
    for call in done.ends[0]..=done.disk.steps() {
        let killed = done.disk.kill_at(call);
        let seen = look(&killed, 2, Mode::ReadOnly);
        done.check_kill(call, &seen, "a kill");
        let store = open(&killed, 3);
        for (name, content) in done.snapshots(call) {
            assert!(read(&store.open_volume(name, Mode::ReadOnly).unwrap()) == *content, "{name} at call {call}");
        }
        let before = killed.steps();
        let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
        assert!(read(&volume) == seen, "recovery at call {call}");
        let recovered = killed.steps();
        volume.flush().unwrap();
        let flushed = killed.steps();
        // Until it is flushed it is as little durable as it was, and afterwards as much as anything.
        for cut in before..=flushed {
            let again = killed.kill_at(cut);
            assert!(
                look(&again, 4, Mode::ReadWrite) == seen,
                "a second kill, {} calls after that at {call}",
                cut - before
            );
            let seed = FATES[(cut + call) as usize % FATES.len()];
            let found = look(&killed.crash_at(cut, seed), 4, Mode::ReadWrite);
            if cut == flushed {
                assert!(found == seen, "flushed after a kill at call {call}, and cut");
            } else {
                done.check_cut(call, &found, "a cut after a kill");
            }
        }
        for seed in FATES {
            let cut = killed.crash_at(recovered, seed);
            let found = look(&cut, 4, Mode::ReadOnly);
            done.check_cut(call, &found, "a cut after recovery");
            assert!(look(&cut, 5, Mode::ReadWrite) == found);
            // Nobody comes to believe later what was not believed.
            let volume = open(&cut, 6).open_volume("volume", Mode::ReadWrite).unwrap();
            assert!(read(&volume) == found);
            volume.flush().unwrap();
            assert!(look(&cut.kill_at(cut.steps()), 7, Mode::ReadWrite) == found);
            assert!(look(&cut.crash_at(cut.steps(), 0), 7, Mode::ReadWrite) == found);
        }
    }
}

#[test]
fn a_kill_at_any_call_loses_nothing_that_was_answered_in_memory() {
    a_kill_at_any_call::<MemoryBlocker>();
}

#[test]
fn a_kill_at_any_call_loses_nothing_that_was_answered_on_files() {
    a_kill_at_any_call::<SimDisk>();
}

/// Others look at what a killed process left, and collect, before anybody opens it.
#[test]
fn a_kill_at_any_call_loses_nothing_that_was_answered_past_the_page_cache() {
    a_kill_at_any_call::<Direct>();
}

fn others_beside<S: Seam>() {
    let done = Done::<S>::all();
    for call in done.ends[0]..=done.disk.steps() {
        let killed = done.disk.kill_at(call);
        let seen = look(&killed, 2, Mode::ReadOnly);
        let store = open(&killed, 3);
        let findings = store.check(&CheckOptions::default(), &mut |_| Ok(())).unwrap().findings;
        assert!(findings.iter().all(|finding| finding.severity != Severity::Damage), "at call {call}: {findings:?}");
        let options = CollectOptions { grace: 0, ..CollectOptions::default() };
        store.collect(&options, &mut |_| true).unwrap();
        let seed = FATES[call as usize % FATES.len()];
        let found = look(&killed.crash_at(killed.steps(), seed), 4, Mode::ReadWrite);
        done.check_cut(call, &found, "a cut after a collection");
        assert!(
            look(&killed.kill_at(killed.steps()), 4, Mode::ReadWrite) == seen,
            "collected after a kill at call {call}"
        );
    }
}

#[test]
fn who_collects_beside_keeps_what_a_killed_process_wrote_and_what_that_replaces() {
    others_beside::<MemoryBlocker>();
    others_beside::<SimDisk>();
}

/// Lets each call of the history fail in turn, has the process die of it, and the system give up what it will never write. Returns
/// whether each atom that was found is one of its versions since the last flush.
fn nothing_else_shows_after_a_failed_call<S: Seam>() -> bool {
    let whole = Done::<S>::all();
    for failing in whole.ends[0] + 1..=whole.disk.steps() {
        let disk = S::fresh();
        Store::init_on(disk.blocker(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
        let store = open(&disk, 1);
        store.create("volume", &CreateOptions { size: SIZE, block_size: None }).unwrap();
        let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
        disk.fail_at(failing, libc::EIO);
        let mut failed = None;
        for (number, step) in STEPS.into_iter().enumerate() {
            if step.perform(number, &store, &volume).is_err() {
                failed = Some(number);
                break;
            }
        }
        // Some calls may fail without harm.
        let Some(failed) = failed else { continue };
        let settled = STEPS[..failed].iter().rposition(|step| step.settles()).map_or(0, |step| step + 1);
        let next = disk.evict_at(disk.steps());
        for mode in [Mode::ReadOnly, Mode::ReadWrite] {
            // It may be cut short, too.
            let Ok(found) = try_read(&open(&next, 2).open_volume("volume", mode).unwrap()) else { return false };
            for (atom, seen) in found.chunks(ATOM).enumerate() {
                let version = |all: &Vec<u8>| all[atom * ATOM..].starts_with(seen);
                if !whole.states[settled..=failed + 1].iter().any(version) {
                    return false;
                }
            }
        }
    }
    true
}

#[test]
fn what_a_failed_sync_dropped_is_never_shown_though_the_machine_goes_on() {
    assert!(nothing_else_shows_after_a_failed_call::<MemoryBlocker>());
    assert!(nothing_else_shows_after_a_failed_call::<SimDisk>());
}

#[test]
fn records_that_stay_after_a_failed_sync_are_noticed() {
    plant(Some(Bug::NotDisowned));
    let noticed = !nothing_else_shows_after_a_failed_call::<MemoryBlocker>();
    plant(None);
    assert!(noticed);
}

#[test]
fn what_takes_the_place_of_a_record_that_does_not_count_is_written_to_its_last_byte() {
    let base = MemoryBlocker::fresh();
    Store::init_on(base.blocker(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    open(&base, 1).create("volume", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    // The generation is another each time, and so are the checksums: of some the last byte is zero.
    for seed in 2..1500 {
        let disk = base.crash_at(base.steps(), 1);
        let volume = open(&disk, seed).open_volume("volume", Mode::ReadWrite).unwrap();
        volume.write_at(&bytes(seed, 40 << 10), 0).unwrap();
        let cut = disk.crash_at(disk.steps(), 1);
        // Not closed, which would leave that behind the start of the journal.
        let recovered = open(&cut, 1).open_volume("volume", Mode::ReadWrite).unwrap();
        let next = cut.kill_at(cut.steps());
        assert!(
            read(&recovered) == [0; SIZE as usize] && look(&next, 1, Mode::ReadOnly) == [0; SIZE as usize],
            "{seed}"
        );
    }
}
