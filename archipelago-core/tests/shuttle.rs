//! Schedules: the engine's own locks and atomics under a model that decides who runs next, over the backend in memory.
//!
//! `cargo test -p archipelago-core --features shuttle --test shuttle`. Each scenario runs under random schedules and under ones with
//! few, well-chosen changes of thread (PCT). A failure prints the schedule and the seed: `SHUTTLE_SEED` begins there,
//! `SHUTTLE_ITERATIONS` says how many schedules of each kind are tried.
//!
//! What the model cannot see: reordering of memory (every atomic is sequentially consistent here), and code that shares
//! nothing through `crate::sync`.

#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::sync::atomic::{AtomicU64, Ordering};
use archipelago_core::sync::{Mutex, Operations, Plant, plant};
use archipelago_core::{Background, CreateOptions, Error, InitOptions, Mode, Result, Store, StoreOptions, Volume};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread;

const SECTOR: usize = 4096;
/// Block of the volumes: the smallest.
const BLOCK: u64 = 64 << 10;
/// Schedules of each kind that a scenario is run under.
const ITERATIONS: usize = 300;
/// Changes of thread that matter, at most, in a schedule of PCT.
const DEPTH: usize = 3;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn search(scheduler: impl Scheduler + 'static, scenario: fn()) {
    let mut config = shuttle::Config::new();
    // The engine reads sectors into buffers on the stack.
    config.stack_size = 512 << 10;
    config.failure_persistence = shuttle::FailurePersistence::Print;
    shuttle::Runner::new(scheduler, config).run(scenario);
}

fn search_all(scenario: fn(), iterations: usize) {
    let (seed, count) = (number("SHUTTLE_SEED", 1) as u64, number("SHUTTLE_ITERATIONS", iterations));
    search(RandomScheduler::new_from_seed(seed, count), scenario);
    search(PctScheduler::new_from_seed(seed, DEPTH, count), scenario);
}

/// Planted mistakes are for the whole process: tests without one share this, a test with one has it alone.
static PLANTS: RwLock<()> = RwLock::new(());

/// The scenario holds under every schedule that is tried.
fn holds(scenario: fn()) {
    let _plain = PLANTS.read().unwrap_or_else(PoisonError::into_inner);
    search_all(scenario, ITERATIONS);
}

/// The scenario finds the mistake; otherwise it would not find one of its kind that nobody planted.
fn finds(mistake: Plant, scenario: fn()) {
    let _alone = PLANTS.write().unwrap_or_else(PoisonError::into_inner);
    plant(Some(mistake));
    let found = catch_unwind(AssertUnwindSafe(|| search_all(scenario, 20 * ITERATIONS)));
    plant(None);
    assert!(found.is_err(), "{mistake:?} was not noticed");
}

fn options() -> StoreOptions {
    StoreOptions {
        node_cache: 64 << 10,
        background: Background::Manual,
        max_unfolded: 32 << 20,
        first_segment: 64 << 10,
        direct: false,
        seed: Some(7),
    }
}

/// A store with one volume of 8 blocks, open.
struct Site {
    blocker: Arc<MemoryBlocker>,
    store: Store,
    volume: Volume,
}

fn site() -> Site {
    let blocker = MemoryBlocker::new();
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, mode: 0o600, group: None }).unwrap();
    let store = Store::open_on(blocker.clone(), options()).unwrap();
    store.create("volume-1", &CreateOptions { size: 8 * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("volume-1", Mode::ReadWrite).unwrap();
    Site { blocker, store, volume }
}

/// Fills sectors from `sector` on with a number.
fn write(volume: &Volume, sector: u64, sectors: usize, value: u8) -> Result<()> {
    volume.write_at(&vec![value; sectors * SECTOR], sector * SECTOR as u64)
}

/// The number that a sector is filled with. No sector is ever half of one write and half of another.
fn read(volume: &Volume, sector: u64) -> u8 {
    let mut bytes = [0; SECTOR];
    volume.read_at(&mut bytes, sector * SECTOR as u64).unwrap();
    assert!(bytes.iter().all(|b| *b == bytes[0]), "a torn sector");
    bytes[0]
}

/// Opens the volume as it is after a power cut at a step of the backend.
fn after_cut<T>(blocker: &MemoryBlocker, step: u64, seed: u64, look: impl FnOnce(&Store, &Volume) -> T) -> T {
    let store = Store::open_on(blocker.crash_at(step, seed), options()).unwrap();
    let volume = store.open_volume("volume-1", Mode::ReadWrite).unwrap();
    look(&store, &volume)
}

fn snapshot_of(store: &Store, name: &str, sector: u64) -> u8 {
    read(&store.open_volume(name, Mode::ReadOnly).unwrap(), sector)
}

/// Runs these at once, and waits for all.
fn at_once(work: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = work.into_iter().map(thread::spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

macro_rules! work {
    ([$($name:ident),*] $body:block) => {{
        $(let $name = $name.clone();)*
        Box::new(move || $body) as Box<dyn FnOnce() + Send>
    }};
}

/// Three writers, each of which flushes after each write. Whatever a flush returned for is there after a cut in that moment.
fn flushes() {
    let Site { blocker, volume, .. } = site();
    let done = Arc::new(Mutex::new(Vec::new()));
    // In the live data object, so that the second writes of a third of the writers are in place.
    write(&volume, 0, 10, 1).unwrap();
    volume.flush().unwrap();
    let writers = (0..3u64).map(|n| {
        work!([blocker, volume, done] {
            for value in 2..4 {
                write(&volume, n * 16, 1, value).unwrap();
                volume.flush().unwrap();
                done.lock().push((blocker.steps(), n, value));
            }
        })
    });
    at_once(writers.collect());
    for (step, n, value) in done.lock().iter().copied() {
        for seed in 0..2 {
            let found = after_cut(&blocker, step, seed, |_, volume| read(volume, n * 16));
            assert!(found >= value, "writer {n}: {found} is there, but {value} was flushed");
        }
    }
}

#[test]
fn a_flush_covers_every_write_that_returned_before_it_under_every_schedule() {
    holds(flushes);
}

#[test]
fn a_ticket_taken_after_the_sync_is_noticed() {
    finds(Plant::LateTicket, flushes);
}

#[test]
fn an_object_marked_before_it_is_written_is_noticed() {
    finds(Plant::EarlyMark, flushes);
}

/// A writer writes to two blocks in turn; snapshots are taken meanwhile.
fn cuts() {
    let Site { store, volume, .. } = site();
    let seen = Arc::new(Mutex::new(Vec::new()));
    at_once(vec![
        work!([volume] {
            for value in 1..4 {
                write(&volume, 0, 1, value).unwrap();
                write(&volume, 32, 1, value).unwrap();
            }
        }),
        work!([store, volume, seen] {
            for name in ["snap-one", "snap-two"] {
                volume.snapshot(name).unwrap();
                seen.lock().push((name, snapshot_of(&store, name, 0), snapshot_of(&store, name, 32)));
            }
        }),
    ]);
    let seen = seen.lock();
    for (name, first, second) in seen.iter() {
        assert!(first == second || *first == second + 1, "{name} is no moment: {first} and {second}");
        assert_eq!((snapshot_of(&store, name, 0), snapshot_of(&store, name, 32)), (*first, *second), "{name}");
    }
    assert!(seen[0].1 <= seen[1].1 && seen[0].2 <= seen[1].2);
    volume.checkpoint().unwrap();
    for (name, first, second) in seen.iter() {
        assert_eq!((snapshot_of(&store, name, 0), snapshot_of(&store, name, 32)), (*first, *second), "{name} folded");
    }
    assert_eq!((read(&volume, 0), read(&volume, 32)), (3, 3));
}

#[test]
fn a_snapshot_is_one_moment_of_all_writes_under_every_schedule() {
    holds(cuts);
}

#[test]
fn an_epoch_switched_under_writers_is_noticed() {
    finds(Plant::OpenGate, cuts);
}

/// Snapshots between writes, while another thread checkpoints and a third does the background work.
fn folds() {
    let Site { blocker, store, volume } = site();
    write(&volume, 0, 1, 1).unwrap();
    at_once(vec![
        work!([volume] {
            for value in 2..4 {
                volume.snapshot(&format!("snap-{}", value - 1)).unwrap();
                write(&volume, 0, 1, value).unwrap();
                write(&volume, 16 * u64::from(value), 1, value).unwrap();
            }
        }),
        work!([volume] {
            volume.checkpoint().unwrap();
        }),
        work!([store] {
            store.run_background().unwrap();
            store.run_background().unwrap();
        }),
    ]);
    let check = |store: &Store, volume: &Volume| {
        assert_eq!([0, 32, 48].map(|sector| read(volume, sector)), [3, 2, 3]);
        for value in 1..3 {
            let name = format!("snap-{value}");
            let later = if value == 2 { 2 } else { 0 };
            assert_eq!([0, 32, 48].map(|sector| snapshot_of(store, &name, sector)), [value, later, 0], "{name}");
        }
    };
    check(&store, &volume);
    volume.flush().unwrap();
    after_cut(&blocker, blocker.steps(), 5, check);
    volume.checkpoint().unwrap();
    check(&store, &volume);
    after_cut(&blocker, blocker.steps(), 6, check);
}

#[test]
fn maps_are_folded_in_the_order_of_their_captures_under_every_schedule() {
    holds(folds);
}

#[test]
fn an_older_map_folded_over_a_newer_one_is_noticed() {
    finds(Plant::FoldOrder, folds);
}

fn closed(result: Result<()>) -> bool {
    match result {
        Ok(()) => true,
        Err(Error::NotOpen(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A volume is closed while others use it: what succeeded is there, what did not says that it is closed, and the next owner
/// finds a sound journal.
fn closes() {
    let Site { blocker, store, volume } = site();
    write(&volume, 0, 1, 1).unwrap();
    let done = Arc::new(Mutex::new((0, false)));
    at_once(vec![
        work!([volume] {
            volume.close().unwrap();
        }),
        work!([volume, done] {
            for value in 2..4 {
                if closed(write(&volume, 0, 1, value)) {
                    done.lock().0 = value;
                }
                closed(volume.flush());
            }
        }),
        work!([volume, done] {
            done.lock().1 = closed(volume.snapshot("snap-one").map(drop));
        }),
        work!([store] {
            store.run_background().unwrap();
        }),
    ]);
    let (value, snapshot) = *done.lock();
    drop((store, volume));
    let store = Store::open_on(blocker.clone(), options()).unwrap();
    let volume = store.open_volume("volume-1", Mode::ReadWrite).unwrap();
    let found = read(&volume, 0);
    assert!(found >= value.max(1), "{found} is there, but {value} was written");
    if snapshot {
        let found = snapshot_of(&store, "snap-one", 0);
        assert!((1..4).contains(&found));
    }
    after_cut(&blocker, blocker.steps(), 7, |_, volume| assert_eq!(read(volume, 0), found));
}

#[test]
fn closing_waits_for_what_is_under_way_under_every_schedule() {
    holds(closes);
}

/// Writers that fill segments, while the next ones are made ahead of need.
fn segments() {
    let Site { blocker, store, volume } = site();
    let mut threads: Vec<_> = (0..3u64)
        .map(|n| {
            work!([volume] {
                for value in 1..3 {
                    write(&volume, n * 16 + u64::from(value - 1) * 7, 7, value).unwrap();
                }
            })
        })
        .collect();
    threads.push(work!([store] {
        for _ in 0..3 {
            store.run_background().unwrap();
        }
    }));
    at_once(threads);
    volume.flush().unwrap();
    after_cut(&blocker, blocker.steps(), 8, |_, volume| {
        for n in 0..3 {
            assert_eq!([0, 6, 7, 13].map(|sector| read(volume, n * 16 + sector)), [1, 1, 2, 2]);
        }
    });
}

#[test]
fn records_follow_each_other_without_a_gap_over_segments_under_every_schedule() {
    holds(segments);
}

/// Readers of blocks that lie in the tree, under a node cache that holds hardly a node, while they are written and folded.
fn readers() {
    let Site { store, volume, .. } = site();
    // Scattered, so that the blocks need nodes of their own.
    for block in 0..2 {
        for n in 0..8 {
            write(&volume, block * 16 + n * 2, 1, 1).unwrap();
        }
    }
    volume.checkpoint().unwrap();
    at_once(vec![
        work!([volume] {
            for block in 0..2 {
                write(&volume, block * 16 + 4, 2, 2).unwrap();
            }
            volume.checkpoint().unwrap();
        }),
        work!([volume] {
            for sector in [4, 20, 5, 21, 4] {
                assert!(read(&volume, sector) <= 2);
            }
            assert_eq!((read(&volume, 0), read(&volume, 1), read(&volume, 16)), (1, 0, 1));
        }),
        work!([volume, store] {
            let before = read(&volume, 4);
            volume.snapshot("snap-one").unwrap();
            assert!(snapshot_of(&store, "snap-one", 4) >= before);
            assert_eq!(snapshot_of(&store, "snap-one", 2), 1);
        }),
    ]);
    assert_eq!([0, 1, 4, 5, 6, 20, 21].map(|sector| read(&volume, sector)), [1, 0, 2, 2, 1, 2, 2]);
}

#[test]
fn readers_see_old_or_new_while_maps_are_folded_under_every_schedule() {
    holds(readers);
}

/// Discards, writes and reads of the same sectors.
fn discards() {
    let Site { blocker, volume, .. } = site();
    write(&volume, 0, 12, 1).unwrap();
    at_once(vec![
        work!([volume] {
            write(&volume, 0, 1, 2).unwrap();
            write(&volume, 2, 10, 3).unwrap();
        }),
        work!([volume] {
            volume.discard(0, 3 * SECTOR as u64).unwrap();
            volume.flush().unwrap();
        }),
        work!([volume] {
            for sector in [0, 2, 0, 2] {
                read(&volume, sector);
            }
            assert!(matches!(read(&volume, 11), 1 | 3));
        }),
    ]);
    let live = [0, 1, 2, 3, 11].map(|sector| read(&volume, sector));
    assert!(matches!(live, [0 | 2, 0, 0 | 3, 3, 3]), "{live:?}");
    volume.flush().unwrap();
    after_cut(&blocker, blocker.steps(), 9, |_, volume| {
        assert_eq!([0, 1, 2, 3, 11].map(|sector| read(volume, sector)), live);
    });
}

#[test]
fn a_discard_is_before_or_after_a_write_and_nothing_else_under_every_schedule() {
    holds(discards);
}

/// A volume is made smaller and larger again under a writer to what is cut off.
fn sizes() {
    let Site { blocker, store, volume } = site();
    write(&volume, 64, 1, 1).unwrap();
    write(&volume, 0, 1, 1).unwrap();
    let written = Arc::new(Mutex::new(true));
    at_once(vec![
        work!([volume] {
            volume.resize(2 * BLOCK, true).unwrap();
            volume.resize(8 * BLOCK, false).unwrap();
        }),
        work!([volume, written] {
            match write(&volume, 64, 1, 2) {
                Ok(()) => {}
                Err(Error::OutOfRange { .. }) => *written.lock() = false,
                Err(error) => panic!("{error}"),
            }
        }),
        work!([store] {
            store.run_background().unwrap();
        }),
    ]);
    let live = read(&volume, 64);
    assert!(live == 0 || (live == 2 && *written.lock()), "{live}: what was cut off is back");
    volume.flush().unwrap();
    after_cut(&blocker, blocker.steps(), 10, |_, volume| {
        assert_eq!((read(volume, 0), read(volume, 64)), (1, live));
    });
}

#[test]
fn what_was_cut_off_never_comes_back_under_every_schedule() {
    holds(sizes);
}

/// Users of one volume that come and go at once.
fn handles() {
    let Site { blocker, store, volume } = site();
    drop(volume);
    let users = (0..3u64).map(|n| {
        work!([store] {
            let volume = store.open_volume("volume-1", Mode::ReadWrite).unwrap();
            write(&volume, n * 16, 1, 1).unwrap();
        })
    });
    at_once(users.collect());
    // The last one to go closed it: nothing is lost, and nobody has its lock.
    drop(store);
    let store = Store::open_on(blocker.clone(), options()).unwrap();
    let volume = store.open_volume("volume-1", Mode::ReadWrite).unwrap();
    assert_eq!([0, 16, 32].map(|sector| read(&volume, sector)), [1; 3]);
}

#[test]
fn users_that_come_and_go_at_once_share_one_volume_under_every_schedule() {
    holds(handles);
}

/// Operations begin and end while a collector waits twice for those that began before.
fn operations() {
    let operations = Arc::new(Operations::default());
    let clock = Arc::new(AtomicU64::new(1));
    let seen: Arc<[AtomicU64; 2]> = Arc::new([AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)]);
    let mut threads: Vec<_> = (0..2)
        .map(|n| {
            work!([operations, clock, seen] {
                for _ in 0..2 {
                    let operation = operations.begin();
                    seen[n].store(clock.load(Ordering::SeqCst), Ordering::SeqCst);
                    thread::yield_now();
                    seen[n].store(u64::MAX, Ordering::SeqCst);
                    drop(operation);
                }
            })
        })
        .collect();
    threads.push(work!([operations, clock, seen] {
        for _ in 0..2 {
            let now = clock.fetch_add(1, Ordering::SeqCst) + 1;
            assert!(operations.wait(std::time::Instant::now() + std::time::Duration::from_secs(600)));
            for value in seen.iter() {
                assert!(value.load(Ordering::SeqCst) >= now, "an operation from before is still under way");
            }
            // Between two collections others have time to begin.
            thread::yield_now();
        }
    }));
    at_once(threads);
}

#[test]
fn a_collector_waits_for_what_began_before_under_every_schedule() {
    holds(operations);
}

#[test]
fn an_operation_counted_in_the_wrong_turn_is_noticed() {
    finds(Plant::UncheckedTurn, operations);
}
