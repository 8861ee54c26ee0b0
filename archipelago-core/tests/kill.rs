//! What was answered outlives its process: a child writes several volumes under load and is killed with SIGKILL at a random
//! moment; then every operation that it saw return must be there, flushed or not, and of the one after it any atoms of 512 bytes.
//!
//! Child and parent draw the same operations from the same seed. The child reports the number of each operation as soon as
//! the engine answered it; the parent knows from the number which bytes that are.
//!
//! `ARCHIPELAGO_KILL_CYCLES` sets the number of kills (25), `ARCHIPELAGO_KILL_SEED` repeats a run as far as time allows.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use archipelago_core::*;
use tempfile::TempDir;

#[path = "common/random.rs"]
mod random;
use random::{Random, bytes};

const VOLUMES: usize = 3;
const ATOM: usize = 512;
/// Operations that a child has at most; the parent kills long before.
const OPERATIONS: u64 = 1_000_000;
/// Snapshots kept of each volume; the oldest is removed.
const KEPT: usize = 4;
/// Starts a line of the child that is for the parent; the test harness prints others.
const MARK: &str = "@@";
/// Set in the child: directory of the store, and seed of the cycle.
const STORE: &str = "ARCHIPELAGO_KILL_STORE";
const SEED: &str = "ARCHIPELAGO_KILL_CHILD_SEED";

const DIRECT: &str = "ARCHIPELAGO_KILL_CHILD_DIRECT";
const CACHED: &str = "ARCHIPELAGO_KILL_CHILD_CACHED";

/// How volumes are opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Usual,
    Direct,
    Cached,
}

/// Small limits, so that segments roll over, checkpoints run and writers are throttled all the time.
fn options(direct: bool) -> StoreOptions {
    StoreOptions { max_unfolded: 1 << 20, first_segment: 64 << 10, direct, ..StoreOptions::default() }
}

/// Sizes that end inside a block and inside a sector.
fn size(volume: usize) -> u64 {
    [6 << 20, (4 << 20) + 5000, 3 << 20][volume]
}

/// The cache of a volume, so small that it is full now and then.
fn cache(root: &Path, volume: usize) -> CacheOptions {
    CacheOptions { size: 16 << 20, ..CacheOptions::new(root.with_file_name(format!("cache-{volume}"))) }
}

fn open(store: &Store, root: &Path, volume: usize, way: Way) -> Volume {
    let opened = match way {
        Way::Cached => store.open_cached(&name(volume), &cache(root, volume)),
        Way::Usual | Way::Direct => store.open_volume(&name(volume), Mode::ReadWrite),
    };
    opened.unwrap()
}

fn name(volume: usize) -> String {
    format!("volume-{volume}")
}

/// One operation of a volume's history.
enum Step {
    Write { offset: u64, data: Vec<u8>, fua: bool },
    Discard { offset: u64, len: u64 },
    Zeroes { offset: u64, len: u64, allocate: bool },
    Flush,
    Checkpoint,
    Snapshot,
}

/// Operation `index` of a volume in the cycle with this seed.
fn step(seed: u64, volume: usize, index: u64) -> Step {
    let mut random = Random(seed ^ (volume as u64) << 56 ^ index.wrapping_mul(0x1234_5678_9abc_def1));
    let size = size(volume);
    let (offset, most) = match random.below(8) {
        0..=2 => (random.below(size >> 12) << 12, 4096),
        3 => (random.below(size), 5000),
        4 => (random.below(size >> 9) << 9, 512),
        5 => (random.below(size >> 12) << 12, 32 << 10),
        6 => (random.below(size >> 12) << 12, 200 << 10),
        _ => (random.below(size), 500 << 10),
    };
    let exact = random.below(2) == 0;
    let len = if exact { most } else { 1 + random.below(most) }.min(size - offset);
    match random.below(40) {
        0..=4 => Step::Flush,
        5 => Step::Checkpoint,
        6 => Step::Snapshot,
        7..=9 => Step::Discard { offset, len },
        10 => Step::Zeroes { offset, len, allocate: random.below(2) == 0 },
        n => Step::Write { offset, data: bytes(random.next(), len as usize), fua: n == 11 },
    }
}

impl Step {
    fn perform(&self, volume: &Volume, snapshot: &str) -> Result<()> {
        match self {
            Step::Write { offset, data, fua } => volume.write(&[IoSlice::new(data)], *offset, WriteFlags { fua: *fua }),
            Step::Discard { offset, len } => volume.discard(*offset, *len),
            Step::Zeroes { offset, len, allocate } => {
                volume.write_zeroes(*offset, *len, *allocate, WriteFlags::default())
            }
            Step::Flush => volume.flush(),
            Step::Checkpoint => volume.checkpoint(),
            Step::Snapshot => volume.snapshot(snapshot).map(|_| ()),
        }
    }

    /// Does to `model` what it does to the volume; returns the bytes that it touches.
    fn apply(&self, model: &mut [u8]) -> std::ops::Range<usize> {
        match self {
            Step::Write { offset, data, .. } => {
                let range = *offset as usize..*offset as usize + data.len();
                model[range.clone()].copy_from_slice(data);
                range
            }
            Step::Zeroes { offset, len, .. } => {
                let range = *offset as usize..(*offset + *len) as usize;
                model[range.clone()].fill(0);
                range
            }
            Step::Discard { offset, len } => {
                let range = offset.next_multiple_of(4096) as usize..((offset + len) & !4095) as usize;
                if range.is_empty() {
                    return 0..0;
                }
                model[range.clone()].fill(0);
                range
            }
            Step::Flush | Step::Checkpoint | Step::Snapshot => 0..0,
        }
    }
}

fn snapshot_name(seed: u64, volume: usize, index: u64) -> String {
    format!("snap-{volume}-{:06}-{index}", seed % 1_000_000)
}

/// Not a test by itself: the process that is killed.
#[test]
fn child_process() {
    let (Ok(root), Ok(seed)) = (std::env::var(STORE), std::env::var(SEED)) else { return };
    let seed: u64 = seed.parse().unwrap();
    let way = match (std::env::var_os(DIRECT), std::env::var_os(CACHED)) {
        (Some(_), _) => Way::Direct,
        (None, Some(_)) => Way::Cached,
        (None, None) => Way::Usual,
    };
    let root = Path::new(&root);
    let store = Store::open(&Location::File(root.into()), options(way == Way::Direct)).unwrap();
    let report = |text: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("{MARK}{text}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
    };
    let volumes: Vec<Volume> = (0..VOLUMES).map(|v| open(&store, root, v, way)).collect();
    report("ready".into());
    thread::scope(|scope| {
        for (v, volume) in volumes.iter().enumerate() {
            scope.spawn(move || {
                for index in 0..OPERATIONS {
                    let step = step(seed, v, index);
                    if let Err(error) = step.perform(volume, &snapshot_name(seed, v, index)) {
                        report(format!("error {v} {index}: {error}"));
                        return;
                    }
                    report(format!("answered {v} {index}"));
                }
            });
            // Flushes of others must not get in the way of the order of things.
            scope.spawn(move || {
                while volume.flush().is_ok() {
                    thread::sleep(Duration::from_millis(3));
                }
            });
        }
    });
}

/// What the parent knows of a volume.
struct Known {
    /// Its bytes before the child began.
    base: Vec<u8>,
    /// Snapshots with what they hold, oldest first.
    snapshots: Vec<(String, Vec<u8>)>,
}

/// Runs a child for about `life` and kills it; returns for each volume the last operation that it reported.
fn run_child(root: &Path, seed: u64, life: Duration, way: Way) -> [Option<u64>; VOLUMES] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_process", "--exact", "--nocapture"])
        .env(STORE, root)
        .env(SEED, seed.to_string())
        .envs((way == Way::Direct).then_some((DIRECT, "1")))
        .envs((way == Way::Cached).then_some((CACHED, "1")))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut answered = [None; VOLUMES];
    let mut answer = |line: String| {
        let text = line.split_once(MARK)?.1.to_string();
        assert!(!text.starts_with("error"), "seed {seed}: {text}");
        let mut words = text.split(' ');
        if words.next() == Some("answered") {
            let volume: usize = words.next().unwrap().parse().unwrap();
            answered[volume] = Some(words.next().unwrap().parse().unwrap());
        }
        Some(text)
    };
    while answer(lines.next().expect("the child opens the store").unwrap()).as_deref() != Some("ready") {}
    // Reads on meanwhile: a full pipe would hold the child up.
    let reader = thread::spawn(move || lines.map_while(|l| l.ok()).collect::<Vec<String>>());
    thread::sleep(life);
    child.kill().unwrap();
    child.wait().unwrap();
    for line in reader.join().unwrap() {
        answer(line);
    }
    answered
}

fn read(volume: &Volume) -> Vec<u8> {
    let mut out = vec![0xaa; volume.size() as usize];
    for (i, part) in out.chunks_mut(1 << 20).enumerate() {
        volume.read_at(part, (i as u64) << 20).unwrap();
    }
    out
}

/// A snapshot: its name, whether the child was told that it is there, and what it must hold.
type Taken = (String, bool, Vec<u8>);

/// Compares a volume with its history up to `answered`, and the operation that may follow. Returns the snapshots of that history.
fn verify(found: &[u8], base: &[u8], seed: u64, volume: usize, answered: Option<u64>) -> Vec<Taken> {
    let mut model = base.to_vec();
    let mut snapshots = Vec::new();
    let next = answered.map_or(0, |a| a + 1);
    for index in 0..next {
        let step = step(seed, volume, index);
        step.apply(&mut model);
        if matches!(step, Step::Snapshot) {
            snapshots.push((snapshot_name(seed, volume, index), true, model.clone()));
        }
    }
    let told = model.clone();
    let begun = step(seed, volume, next);
    begun.apply(&mut model);
    if matches!(begun, Step::Snapshot) {
        snapshots.push((snapshot_name(seed, volume, next), false, model.clone()));
    }
    assert_eq!(found.len(), base.len());
    for (atom, found) in found.chunks(ATOM).enumerate() {
        let is = |all: &[u8]| all[atom * ATOM..].starts_with(found);
        assert!(
            is(&told) || is(&model),
            "seed {seed}, volume {volume}: atom {atom} (sector {}) is neither what was answered with operation {answered:?} nor of the next",
            atom / 8
        );
    }
    snapshots
}

#[test]
fn what_was_answered_is_there_after_a_kill_at_any_moment() {
    kills(&mut |_| Way::Usual);
}

/// Needs TMPDIR on a disk. Who comes next reads and writes past the page cache or through it, whatever the one before did.
#[test]
fn what_was_answered_past_the_page_cache_is_there_after_a_kill_at_any_moment() {
    kills(&mut |random| if random.below(3) > 0 { Way::Direct } else { Way::Usual });
}

#[test]
fn what_a_cache_answered_is_there_after_a_kill_at_any_moment() {
    kills(&mut |_| Way::Cached);
}

/// Kills children, and looks at what they leave. `way` says of each opening of the store how it is done.
fn kills(way: &mut dyn FnMut(&mut Random) -> Way) {
    let cycles: u64 = std::env::var("ARCHIPELAGO_KILL_CYCLES").map_or(25, |n| n.parse().unwrap());
    let mut random = Random(random::seed("ARCHIPELAGO_KILL_SEED"));
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("store");
    let location = Location::File(root.clone());
    Store::init(&location, &InitOptions { block_size: 256 << 10, ..InitOptions::default() }).unwrap();
    let store = Store::open(&location, options(false)).unwrap();
    for v in 0..VOLUMES {
        store.create(&name(v), &CreateOptions { size: size(v), block_size: None }).unwrap();
    }
    drop(store);
    let mut known: Vec<Known> =
        (0..VOLUMES).map(|v| Known { base: vec![0; size(v) as usize], snapshots: Vec::new() }).collect();
    let (mut operations, mut checked) = (0, 0);
    let began = Instant::now();
    for cycle in 0..cycles {
        let seed = random.next();
        // Now and then so short that the kill meets the recovery or the first operations.
        let most = if random.below(4) == 0 { 5_000 } else { 250_000 };
        let life = Duration::from_micros(random.below(most));
        let answered = run_child(&root, seed, life, way(&mut random));
        operations += answered.iter().flatten().sum::<u64>();
        let way = way(&mut random);
        let store = Store::open(&location, options(way == Way::Direct)).unwrap();
        for (v, known) in known.iter_mut().enumerate() {
            // Reading changes nothing, and must see the same as a writer after recovery.
            let seen = (way != Way::Cached).then(|| read(&store.open_volume(&name(v), Mode::ReadOnly).unwrap()));
            let volume = open(&store, &root, v, way);
            let found = read(&volume);
            assert!(seen.is_none_or(|seen| seen == found), "cycle {cycle}: recovery changed what volume {v} reads");
            let taken = verify(&found, &known.base, seed, v, answered[v]);
            for (name, told, content) in taken {
                match store.open_volume(&name, Mode::ReadOnly) {
                    Ok(_) => known.snapshots.push((name, content)),
                    // Only the one that was being taken may be missing.
                    Err(Error::NotFound(_)) if !told => {}
                    Err(error) => panic!("cycle {cycle}: {name}: {error}"),
                }
            }
            for (name, content) in &known.snapshots {
                let snapshot = store.open_volume(name, Mode::ReadOnly).unwrap();
                assert!(read(&snapshot) == *content, "cycle {cycle}: {name} changed");
                checked += 1;
            }
            while known.snapshots.len() > KEPT {
                // Any of them, not always the oldest.
                let (name, _) = known.snapshots.remove(random.below(known.snapshots.len() as u64) as usize);
                store.remove(&name).unwrap();
            }
            known.base = found;
            volume.close().unwrap();
            // Now and then the volume goes on as a clone of its newest snapshot.
            if random.below(8) == 0 && !known.snapshots.is_empty() {
                let (snapshot, content) = known.snapshots.last().unwrap();
                store.remove(&name(v)).unwrap();
                // A cache is one volume's.
                let _ = std::fs::remove_file(cache(&root, v).path);
                store.clone_snapshot(snapshot, &name(v), &CloneOptions::default()).unwrap();
                known.base = content.clone();
            }
        }
    }
    println!("{cycles} kills in {:?}: {operations} operations answered, {checked} snapshots compared", began.elapsed());
}
