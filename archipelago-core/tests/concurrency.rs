//! Many threads on one volume: nothing hangs, nothing is lost, and what is ordered stays ordered.
//!
//! Every test runs under a watchdog, so that a deadlock is a failure with a message and not a build that never ends.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use archipelago_core::*;
use tempfile::TempDir;

#[path = "common/random.rs"]
mod random;
use random::{Random, bytes};

const SECTOR: u64 = 4096;
/// Far longer than any of these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs a test; fails if it does not end.
fn watched(test: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let runner = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match wait.recv_timeout(PATIENCE) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("something hangs: not done after {PATIENCE:?}"),
        // A panic of the test ends it as well.
        _ => runner.join().unwrap(),
    }
}

/// A store whose journal is folded all the time, so that background work meets everything else.
fn store() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let location = Location::File(dir.path().join("store"));
    Store::init(&location, &InitOptions { block_size: 256 << 10, ..InitOptions::default() }).unwrap();
    let options = StoreOptions { max_unfolded: 1 << 20, first_segment: 64 << 10, ..StoreOptions::default() };
    let store = Store::open(&location, options).unwrap();
    (dir, store)
}

fn volume(store: &Store, name: &str, size: u64) -> Volume {
    store.create(name, &CreateOptions { size, block_size: None }).unwrap();
    store.open_volume(name, Mode::ReadWrite).unwrap()
}

fn read(volume: &Volume, offset: u64, len: u64) -> Vec<u8> {
    let mut buf = vec![0xaa; len as usize];
    volume.read_at(&mut buf, offset).unwrap();
    buf
}

/// A sector that says which write it comes from.
fn stamp(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(SECTOR as usize / 8)
}

/// The number in a sector; a sector of two writes fails.
fn stamped(sector: &[u8], at: u64) -> u64 {
    let value = u64::from_le_bytes(sector[..8].try_into().unwrap());
    assert!(sector.chunks(8).all(|c| c == value.to_le_bytes()), "sector {at} is a mixture");
    value
}

/// Writers that each own some sectors, and write to each of them the numbers 1, 2, 3... What is known of them at any
/// moment bounds what a snapshot taken at that moment may hold.
struct Writers {
    /// For each sector the last number that was begun, and the last that returned.
    begun: Vec<AtomicU64>,
    done: Vec<AtomicU64>,
    stop: AtomicBool,
}

impl Writers {
    fn new(sectors: u64) -> Writers {
        let zeros = || (0..sectors).map(|_| AtomicU64::new(0)).collect();
        Writers { begun: zeros(), done: zeros(), stop: AtomicBool::new(false) }
    }

    /// Writes the sectors that are `thread` modulo `threads` until told to stop. Ends early when the volume is closed.
    fn run(&self, volume: &Volume, thread: usize, threads: usize) {
        let mut random = Random(thread as u64);
        let own: Vec<usize> = (thread..self.begun.len()).step_by(threads).collect();
        while !self.stop.load(Ordering::Acquire) {
            let sector = own[random.below(own.len() as u64) as usize];
            let value = self.begun[sector].load(Ordering::Relaxed) + 1;
            self.begun[sector].store(value, Ordering::Release);
            match volume.write_at(&stamp(value), sector as u64 * SECTOR) {
                Ok(()) => self.done[sector].store(value, Ordering::Release),
                Err(Error::NotOpen(_)) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn completed(&self) -> Vec<u64> {
        self.done.iter().map(|v| v.load(Ordering::Acquire)).collect()
    }

    /// Checks that each sector has at least the number of `least`, and at most that of the last write begun.
    fn check(&self, found: &[u8], least: &[u64], what: &str) {
        for (i, sector) in found.chunks(SECTOR as usize).enumerate() {
            let value = stamped(sector, i as u64);
            let most = self.begun[i].load(Ordering::Acquire);
            assert!(least[i] <= value && value <= most, "{what}: sector {i} is {value}, not in {}..={most}", least[i]);
        }
    }
}

#[test]
fn scenario_27_nothing_hangs_and_order_holds_with_64_writes_in_flight() {
    watched(|| {
        const SECTORS: u64 = 512;
        const WRITERS: usize = 64;
        let (_dir, store) = store();
        let size = SECTORS * SECTOR;
        let volume = volume(&store, "volume-a", size);
        let writers = Writers::new(SECTORS);
        let snapshots = thread::scope(|scope| {
            for thread in 0..WRITERS {
                let (writers, volume) = (&writers, volume.clone());
                scope.spawn(move || writers.run(&volume, thread, WRITERS));
            }
            let (stop, other) = (&writers.stop, volume.clone());
            scope.spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    other.flush().unwrap();
                }
            });
            let other = volume.clone();
            scope.spawn(move || {
                // Past the sectors of the writers: what they write stays inside.
                let mut random = Random(99);
                while !stop.load(Ordering::Acquire) {
                    other.resize(size + random.below(100) * 10_000, true).unwrap();
                    thread::sleep(Duration::from_millis(5));
                }
            });
            let mut snapshots = Vec::new();
            let end = Instant::now() + Duration::from_secs(3);
            for i in 0.. {
                let name = format!("snapshot-{i}");
                let before = writers.completed();
                store.snapshot("volume-a", &name).unwrap();
                // Everything begun so far bounds what can be in it.
                let after: Vec<u64> = writers.begun.iter().map(|v| v.load(Ordering::Acquire)).collect();
                snapshots.push((name, before, after));
                if Instant::now() > end {
                    break;
                }
            }
            assert!(matches!(store.remove("volume-a"), Err(Error::Busy(_))));
            writers.stop.store(true, Ordering::Release);
            snapshots
        });
        let check = |name: &str, least: &[u64], most: &[u64]| {
            let snapshot = store.open_volume(name, Mode::ReadOnly).unwrap();
            for (i, sector) in read(&snapshot, 0, size).chunks(SECTOR as usize).enumerate() {
                let value = stamped(sector, i as u64);
                assert!(least[i] <= value && value <= most[i], "{name}: sector {i} is {value}");
            }
        };
        println!("{} snapshots", snapshots.len());
        for (name, least, most) in &snapshots {
            check(name, least, most);
        }
        writers.check(&read(&volume, 0, size), &writers.completed(), "the volume");
        volume.close().unwrap();
        let volume = store.open_volume("volume-a", Mode::ReadWrite).unwrap();
        writers.check(&read(&volume, 0, size), &writers.completed(), "the volume, opened again");
    });
}

#[test]
fn a_volume_closed_under_load_has_every_write_that_succeeded() {
    watched(|| {
        const SECTORS: u64 = 256;
        let (_dir, store) = store();
        let mut open = volume(&store, "volume-a", SECTORS * SECTOR);
        for round in 0..12 {
            open.write_zeroes(0, SECTORS * SECTOR, false, WriteFlags::default()).unwrap();
            let writers = Writers::new(SECTORS);
            thread::scope(|scope| {
                for thread in 0..8 {
                    let (writers, volume) = (&writers, open.clone());
                    scope.spawn(move || writers.run(&volume, thread, 8));
                }
                for _ in 0..2 {
                    let volume = open.clone();
                    scope.spawn(move || while volume.flush().is_ok() {});
                }
                let volume = open.clone();
                scope.spawn(move || {
                    for i in 0.. {
                        match volume.snapshot(&format!("snap-{round}-{i}")) {
                            Ok(_) => thread::sleep(Duration::from_millis(2)),
                            Err(error) => return assert!(matches!(error, Error::NotOpen(_)), "{error}"),
                        }
                    }
                });
                thread::sleep(Duration::from_millis(20 + round * 7));
                open.close().unwrap();
                // The next owner is there while the others are still finding out.
                open = store.open_volume("volume-a", Mode::ReadWrite).unwrap();
            });
            writers.check(&read(&open, 0, SECTORS * SECTOR), &writers.completed(), &format!("round {round}"));
        }
    });
}

#[test]
fn many_writers_verify_what_they_wrote_while_the_journal_is_folded_and_composed() {
    watched(|| {
        const THREADS: u64 = 8;
        const SLICE: u64 = 3 << 20;
        let seed = random::seed("ARCHIPELAGO_CONCURRENCY_SEED");
        let (_dir, store) = store();
        let volume = volume(&store, "volume-a", THREADS * SLICE);
        let done = AtomicBool::new(false);
        // Each thread has a slice of its own, which does not end at a block or sector, and a plain copy of it.
        let models: Vec<Vec<u8>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|t| {
                    let volume = volume.clone();
                    scope.spawn(move || {
                        let base = t * SLICE + t * 77;
                        let len = SLICE - 77 * THREADS;
                        let mut random = Random(seed ^ t << 60);
                        let mut model = vec![0; len as usize];
                        for step in 0..400 {
                            let offset = random.below(len);
                            let most = [4096, 4096, 512, 20_000, 60_000, 300_000][random.below(6) as usize];
                            let n = (1 + random.below(most)).min(len - offset);
                            let range = offset as usize..(offset + n) as usize;
                            match random.below(12) {
                                0 => {
                                    volume.write_zeroes(base + offset, n, false, WriteFlags::default()).unwrap();
                                    model[range].fill(0);
                                }
                                1 => volume.flush().unwrap(),
                                2 => {
                                    // Every other sector: blocks fall into more pieces than a node takes.
                                    for i in 0..30 {
                                        let at = (offset + i * 8192).min(len - 10) as usize;
                                        volume.write_at(&[i as u8 + 1; 10], base + at as u64).unwrap();
                                        model[at..at + 10].fill(i as u8 + 1);
                                    }
                                }
                                3..=5 => assert!(
                                    read(&volume, base + offset, n) == model[range],
                                    "seed {seed}, thread {t}, step {step}: {n} bytes at {offset}"
                                ),
                                _ => {
                                    let data = bytes(random.next(), n as usize);
                                    volume.write_at(&data, base + offset).unwrap();
                                    model[range].copy_from_slice(&data);
                                }
                            }
                        }
                        model
                    })
                })
                .collect();
            let (compacting, done) = (volume.clone(), &done);
            scope.spawn(move || {
                let options = CompactOptions { max_extents: 2, ..CompactOptions::default() };
                while !done.load(Ordering::Acquire) {
                    compacting.compact(&options, &mut |_| ControlFlow::Continue(())).unwrap();
                }
            });
            let (names, other, clones) = (0..15, volume.clone(), store.clone());
            scope.spawn(move || {
                for i in names {
                    other.snapshot(&format!("snapshot-{i}")).unwrap();
                    let clone = format!("clone-{i:03}");
                    clones.clone_snapshot(&format!("snapshot-{i}"), &clone, &CloneOptions::default()).unwrap();
                    if i % 3 == 0 {
                        clones.remove(&format!("snapshot-{i}")).unwrap();
                    }
                    thread::sleep(Duration::from_millis(15));
                }
            });
            let models = threads.into_iter().map(|t| t.join()).collect::<Vec<_>>();
            done.store(true, Ordering::Release);
            models.into_iter().map(|model| model.unwrap()).collect()
        });
        let verify = |volume: &Volume, when: &str| {
            for (t, model) in models.iter().enumerate() {
                let base = t as u64 * (SLICE + 77);
                assert!(read(volume, base, model.len() as u64) == *model, "seed {seed}, thread {t}, {when}");
            }
        };
        verify(&volume, "after the last write");
        volume.checkpoint().unwrap();
        verify(&volume, "after a checkpoint");
        volume.close().unwrap();
        verify(&store.open_volume("volume-a", Mode::ReadWrite).unwrap(), "opened again");
        assert_eq!(store.status().unwrap().trouble, None);
    });
}

#[test]
fn snapshots_by_many_threads_while_folding_never_mix() {
    watched(|| {
        const SECTORS: u64 = 256;
        let (_dir, store) = store();
        let volume = volume(&store, "volume-a", SECTORS * SECTOR);
        let writers = Writers::new(SECTORS);
        let taken: Vec<(String, Vec<u64>, Vec<u64>)> = thread::scope(|scope| {
            for thread in 0..4 {
                let (writers, volume) = (&writers, volume.clone());
                scope.spawn(move || writers.run(&volume, thread, 4));
            }
            let (stop, folder) = (&writers.stop, volume.clone());
            scope.spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    folder.checkpoint().unwrap();
                }
            });
            let snappers: Vec<_> = (0..3)
                .map(|t| {
                    let (writers, volume) = (&writers, volume.clone());
                    scope.spawn(move || {
                        let mut taken = Vec::new();
                        for i in 0..25 {
                            let name = format!("snapshot-{t}-{i}");
                            let before = writers.completed();
                            volume.snapshot(&name).unwrap();
                            let after = writers.begun.iter().map(|v| v.load(Ordering::Acquire)).collect();
                            taken.push((name, before, after));
                        }
                        taken
                    })
                })
                .collect();
            let taken = snappers.into_iter().flat_map(|t| t.join().unwrap()).collect();
            writers.stop.store(true, Ordering::Release);
            taken
        });
        writers.check(&read(&volume, 0, SECTORS * SECTOR), &writers.completed(), "the volume");
        for folded in [false, true] {
            for (name, least, most) in &taken {
                let snapshot = store.open_volume(name, Mode::ReadOnly).unwrap();
                for (i, sector) in read(&snapshot, 0, SECTORS * SECTOR).chunks(SECTOR as usize).enumerate() {
                    let value = stamped(sector, i as u64);
                    assert!(least[i] <= value && value <= most[i], "{name} (folded: {folded}): sector {i} is {value}");
                }
            }
            if !folded {
                volume.checkpoint().unwrap();
            }
        }
    });
}

#[test]
fn operations_of_several_volumes_complete_into_one_queue_exactly_once() {
    watched(|| {
        let (_dir, store) = store();
        let volumes: Vec<Volume> = (0..3).map(|v| volume(&store, &format!("volume-{v}"), 8 << 20)).collect();
        let queue = CompletionQueue::new();
        let mut expected: HashMap<u64, (usize, u64, Vec<u8>)> = HashMap::new();
        let mut done = Vec::new();
        let mut full = 0;
        for tag in 0..3000u64 {
            let (v, offset) = ((tag % 3) as usize, (tag * 2657) % (7 << 20));
            let mut operation = match tag % 10 {
                9 => Operation::Flush,
                8 => Operation::Read { buf: vec![0; 100], offset },
                _ => Operation::Write {
                    buf: vec![tag as u8; 600],
                    // No two overlap: in flight they would have no order.
                    offset: tag / 3 * 2600,
                    flags: WriteFlags { fua: tag % 100 == 5 },
                },
            };
            if let Operation::Write { buf, offset, .. } = &operation {
                expected.insert(tag, (v, *offset, buf.clone()));
            }
            loop {
                match volumes[v].submit(operation, tag, &queue) {
                    Ok(()) => break,
                    Err((error, back)) => {
                        assert!(matches!(error, Error::TooBusy(_)), "{error}");
                        full += 1;
                        operation = back;
                        queue.wait(&mut done, 1, None);
                    }
                }
            }
        }
        while queue.outstanding() > 0 {
            queue.wait(&mut done, 1, None);
        }
        println!("the queue was full {full} times");
        let mut tags: Vec<u64> = done.iter().map(|c| c.tag).collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..3000).collect::<Vec<_>>());
        for completion in done {
            completion.result.unwrap();
            if let Some((v, offset, data)) = expected.get(&completion.tag) {
                assert_eq!(completion.buf, *data, "the buffer comes back");
                assert_eq!(read(&volumes[*v], *offset, 600), *data);
            }
        }
    });
}
