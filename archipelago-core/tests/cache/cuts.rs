//! A history of a volume with a cache, cut at every call. Store and cache are on one simulated disk, so that one number says where both were cut; what
//! becomes of each is chosen apart from the other.

use std::sync::Arc;

use archipelago_core::blocker::sim::SimDisk;
use archipelago_core::{Mode, Volume, WriteFlags};

use super::{NAME, RING, Random, disk, read, store};

const SIZE: u64 = 192 << 10;
const OPERATIONS: usize = 60;

/// What was done, as far as it changes what the volume holds.
struct Change {
    /// Calls made when it was begun, and when it had returned.
    begun: u64,
    returned: u64,
    /// What it touches.
    range: (usize, usize),
}

struct History {
    disk: Arc<SimDisk>,
    /// Calls made when the volume had been opened with its cache.
    opened: u64,
    /// What the volume holds: at first, and after each change.
    states: Vec<Vec<u8>>,
    changes: Vec<Change>,
    /// When a flush had returned, and how many changes had before it was called.
    flushed: Vec<(u64, usize)>,
    /// The same of what brings all of them into the volume.
    settled: Vec<(u64, usize)>,
}

/// Changes of random places, flushes, snapshots, and records that are brought into the volume now and then.
fn history(seed: u64) -> History {
    let disk = disk(SIZE);
    let mut random = Random(seed);
    let mut history = History {
        disk: disk.clone(),
        opened: 0,
        states: vec![vec![0; SIZE as usize]],
        changes: vec![],
        flushed: vec![],
        settled: vec![],
    };
    let mut at = store(&disk);
    let mut volume = at.open_cached_on(NAME, disk.clone(), "cache", RING).unwrap();
    history.opened = disk.steps();
    for number in 1..=OPERATIONS {
        let count = history.changes.len();
        // Some sectors are written again and again.
        let places = if random.below(2) == 0 { 16 << 10 } else { SIZE };
        match random.below(16) {
            0 | 1 => {
                volume.flush().unwrap();
                history.flushed.push((disk.steps(), count));
            }
            2..=4 => drop(volume.drain_cache().unwrap()),
            5 => {
                volume.snapshot(&format!("snapshot-{number}")).unwrap();
                history.settled.push((disk.steps(), count));
            }
            6 => {
                volume.close().unwrap();
                history.settled.push((disk.steps(), count));
                drop((volume, at));
                at = store(&disk);
                volume = at.open_cached_on(NAME, disk.clone(), "cache", RING).unwrap();
            }
            kind => {
                let offset = random.below(places - 4096);
                let len = match random.below(3) {
                    0 => 1 + random.below(700),
                    1 => 4096,
                    _ => 1 + random.below(12 << 10),
                }
                .min(SIZE - offset);
                let begun = disk.steps();
                let (mut from, mut to) = (offset as usize, (offset + len) as usize);
                let byte = match kind {
                    7 => {
                        volume.write_zeroes(offset, len, random.below(2) == 0, WriteFlags::default()).unwrap();
                        0
                    }
                    8 => {
                        volume.discard(offset, len).unwrap();
                        (from, to) = (from.next_multiple_of(4096), to / 4096 * 4096);
                        0
                    }
                    _ => {
                        volume.write_at(&vec![number as u8; len as usize], offset).unwrap();
                        number as u8
                    }
                };
                if from < to {
                    let mut state = history.states.last().unwrap().clone();
                    state[from..to].fill(byte);
                    history.states.push(state);
                    history.changes.push(Change { begun, returned: disk.steps(), range: (from, to) });
                }
            }
        }
    }
    super::die(at, volume);
    history
}

impl History {
    /// Changes that had returned by then, and those that had been begun.
    fn by(&self, step: u64) -> (usize, usize) {
        let returned = self.changes.iter().take_while(|change| change.returned <= step).count();
        (returned, self.changes.iter().take_while(|change| change.begun < step).count().max(returned))
    }

    fn least(all: &[(u64, usize)], step: u64) -> usize {
        all.iter().take_while(|(when, _)| *when <= step).map(|(_, count)| *count).max().unwrap_or(0)
    }

    /// The last changes after which the volume held these bytes, of `least..=most`.
    fn after(&self, bytes: &[u8], least: usize, most: usize) -> Option<usize> {
        (least..=most).rev().find(|count| self.states[*count] == bytes)
    }

    /// Whether the volume held this after a number of changes, and perhaps a part of the next.
    fn is_prefix(&self, bytes: &[u8], least: usize, most: usize) -> bool {
        (least..=most).any(|count| {
            let state = &self.states[count];
            let next = self.changes.get(count).map_or((0, 0), |change| change.range);
            let after = self.states.get(count + 1).unwrap_or(state);
            (0..bytes.len()).all(|at| bytes[at] == state[at] || (next.0 <= at && at < next.1 && bytes[at] == after[at]))
        })
    }
}

/// Reads the volume without its cache, whose content is given up.
fn without(disk: &Arc<SimDisk>) -> Vec<u8> {
    let store = store(disk);
    store.discard_cache(NAME).unwrap();
    read(&store.open_volume(NAME, Mode::ReadOnly).unwrap())
}

fn with(store: &archipelago_core::Store, cache: &Arc<SimDisk>, what: &str) -> Volume {
    store.open_cached_on(NAME, cache.clone(), "cache", RING).unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn cut_everywhere(seed: u64) {
    let history = history(seed);
    let disk = &history.disk;
    let (mut partly, mut regressed) = (0, 0);
    for step in history.opened..=disk.steps() {
        let (returned, begun) = history.by(step);
        let flushed = History::least(&history.flushed, step).max(History::least(&history.settled, step));
        let settled = History::least(&history.settled, step);
        // Killed; both disks lose power; the store is elsewhere and goes on, and the cache's disk loses power.
        let ways = [
            (disk.kill_at(step), disk.kill_at(step), returned),
            (disk.crash_at(step, 0), disk.crash_at(step, 0), flushed),
            (disk.crash_at(step, step + 2), disk.crash_at(step, step + 2), flushed),
            (disk.kill_at(step), disk.crash_at(step, step + 3), flushed),
            (disk.kill_at(step), disk.crash_at(step, 0), flushed),
        ];
        // Two of them at each call, others at the next.
        let now = [(step + seed) as usize % 5, (step + seed + 2) as usize % 5];
        for (way, (stored, cached, least)) in ways.into_iter().enumerate().filter(|(way, _)| now.contains(way)) {
            let what = format!("seed {seed}, cut after step {step}, way {way}");
            // Without the cache: an older state.
            let lost = without(&stored.kill_at(stored.steps()));
            assert!(history.is_prefix(&lost, settled, begun), "{what}: the cache is lost");
            partly += usize::from(lost != history.states[returned]);
            // With it: the newest that was promised, or a newer one.
            let store = store(&stored);
            let volume = with(&store, &cached, &what);
            let bytes = read(&volume);
            let found = history.after(&bytes, least, begun);
            let Some(found) = found else { panic!("{what}: none of the states {least} to {begun}") };
            // Some of it is brought into the volume, and then the cache is lost: nothing is undone by that what was in the volume.
            let mut random = Random(step * 8 + way as u64);
            for _ in 0..random.below(4) {
                volume.drain_cache().unwrap();
            }
            super::die(store, volume);
            let then = random.below(stored.steps() + 1);
            let lost = without(&stored.kill_at(then));
            assert!(history.is_prefix(&lost, settled, found), "{what}, then {then}: the cache is lost later");
            let lost = without(&stored.crash_at(then, 0));
            assert!(
                history.is_prefix(&lost, settled, found),
                "{what}, then {then} without power: the cache is lost later"
            );
            regressed += 1;
            // What was not cut goes on where it ended.
            let store = super::store(&stored.kill_at(stored.steps()));
            let again = cached.kill_at(cached.steps());
            let volume = with(&store, &again, &what);
            assert!(read(&volume) == bytes, "{what}: opened once more it reads otherwise");
            volume.write_at(&[0xdd; 100], 5).unwrap();
            let mut bytes = bytes;
            bytes[5..105].fill(0xdd);
            volume.close().unwrap();
            assert!(read(&store.open_volume(NAME, Mode::ReadOnly).unwrap()) == bytes, "{what}: closed");
        }
    }
    assert!(partly > 100 && regressed > 100, "{partly}, {regressed}: the history shows nothing");
}

#[test]
fn wherever_it_is_cut_the_cache_has_what_was_flushed_and_the_volume_a_prefix() {
    for seed in 1..=3 {
        cut_everywhere(seed);
    }
}

/// The power fails again and again, with writes in between: what a torn record left behind it never follows on another.
#[test]
fn no_record_from_before_a_power_cut_follows_on_one_from_after_it() {
    let (mut cut, mut random) = (0, Random(9));
    let mut disk = disk(SIZE);
    let mut state = vec![0; SIZE as usize];
    for round in 0..300u64 {
        let store = store(&disk);
        let volume = with(&store, &disk, &format!("round {round}"));
        assert!(read(&volume) == state, "round {round}");
        let (mut states, mut durable) = (vec![state.clone()], 0);
        for number in 0..1 + random.below(6) {
            // All of one size, so that records of different rounds lie at the same places.
            let offset = random.below(8) * 4096;
            volume.write_at(&[(round * 7 + number + 1) as u8; 4096], offset).unwrap();
            let mut next = states.last().unwrap().clone();
            next[offset as usize..offset as usize + 4096].fill((round * 7 + number + 1) as u8);
            states.push(next);
            if random.below(4) == 0 {
                volume.flush().unwrap();
                durable = states.len() - 1;
            }
            if random.below(12) == 0 {
                volume.drain_cache().unwrap();
            }
        }
        super::die(store, volume);
        disk = disk.crash_at(disk.steps(), random.next());
        let store = super::store(&disk);
        let volume = with(&store, &disk, &format!("round {round}, cut"));
        state = read(&volume);
        let found = states[durable..].iter().position(|other| *other == state);
        let Some(found) = found else { panic!("round {round}: not one of the states since the flush") };
        cut += usize::from(durable + found + 1 < states.len());
        super::die(store, volume);
        disk = disk.kill_at(disk.steps());
    }
    assert!(cut > 20, "{cut} of the cuts took anything away");
}
