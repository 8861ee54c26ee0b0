//! Stores and send streams of earlier versions, kept in `tests/golden`: every later build opens the stores, reads what they
//! held, and goes on writing them, and receives the streams. `tests/golden/README.md` says how they are made.

#![allow(clippy::unwrap_used)] // Here a failed unwrap is a failed test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use archipelago_core::{
    Background, CloneOptions, CreateOptions, Error, InitOptions, Location, Mode, SendOptions, Store, StoreOptions,
    Volume,
};
use tempfile::TempDir;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SECTOR: u64 = 4096;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

fn open(path: &Path) -> Store {
    let options = StoreOptions { background: Background::Manual, first_segment: 64 * KIB, ..StoreOptions::default() };
    Store::open(&Location::File(path.to_path_buf()), options).unwrap()
}

/// Bytes that say where they belong, so that none can stand for another; each eight of them eight times, which packs well.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes().repeat(8));
    }
    bytes.truncate(len);
    bytes
}

/// Stands for every byte of a volume: all its sectors that are not zero, with their places.
fn content(volume: &Volume) -> String {
    let mut hasher = blake3::Hasher::new();
    let size = volume.size();
    let mut at = 0;
    while at < size {
        for extent in volume.extents(at, size - at, 64).unwrap() {
            let end = extent.offset + extent.len;
            while !extent.zero && at < end {
                let len = (SECTOR - at % SECTOR).min(end - at);
                let mut sector = vec![0; len as usize];
                volume.read_at(&mut sector, at).unwrap();
                if sector.iter().any(|byte| *byte != 0) {
                    hasher.update(&at.to_le_bytes());
                    hasher.update(&sector);
                }
                at += len;
            }
            at = end;
        }
    }
    hasher.finalize().to_string()
}

/// One line for each map: hash, size, kind, name.
fn contents(store: &Store) -> BTreeMap<String, String> {
    let page = store.list(&archipelago_core::ListOptions::default()).unwrap();
    let lines = page.entries.iter().map(|info| {
        let volume = store.open_volume(&info.name, Mode::ReadOnly).unwrap();
        let kind = if info.read_only { "snapshot" } else { "volume" };
        (info.name.clone(), format!("{} {} {kind}", content(&volume), info.size))
    });
    lines.collect()
}

fn expected(version: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(golden().join(version).join("contents")).unwrap();
    let lines = text.lines().map(|line| {
        let (facts, name) = line.rsplit_once(' ').unwrap();
        (name.to_string(), facts.to_string())
    });
    lines.collect()
}

fn unpack(version: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let archive = golden().join(version).join("store.tar.gz");
    let status = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(dir.path()).status().unwrap();
    assert!(status.success(), "{}", archive.display());
    let store = dir.path().join("store");
    (dir, store)
}

/// The streams that are kept of each version: file, snapshot in the golden store, and the snapshot that it builds on.
const STREAMS: [(&str, &str, Option<&str>); 2] =
    [("full.stream.gz", "first-snapshot", None), ("incremental.stream.gz", "second-snapshot", Some("first-snapshot"))];

/// A golden stream as it was sent.
fn stream(version: &str, file: &str) -> Vec<u8> {
    let path = golden().join(version).join(file);
    let output = Command::new("gzip").arg("-dc").arg(&path).output().unwrap();
    assert!(output.status.success() && !output.stdout.is_empty(), "{}", path.display());
    output.stdout
}

fn receive(store: &Store, name: &str, mut stream: &[u8]) -> Result<(), Error> {
    store.receive(name, &mut stream, &mut |_| Ok(())).map(|_| assert!(stream.is_empty(), "{name}: it ends elsewhere"))
}

/// Versions of which a store is kept.
fn versions() -> Vec<String> {
    let mut versions: Vec<String> = fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("store.tar.gz").exists())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    versions.sort();
    assert!(versions.iter().any(|version| version == "0.1"), "{versions:?}");
    versions
}

#[test]
fn stores_of_every_version_have_the_bytes_that_they_always_had() {
    for version in versions() {
        let (_dir, path) = unpack(&version);
        let store = open(&path);
        assert_eq!(contents(&store), expected(&version), "{version}");
        // Opening for writing replays and recovers; that must not change a byte either.
        for name in expected(&version).keys().filter(|name| !store.info(name).unwrap().read_only) {
            store.open_volume(name, Mode::ReadWrite).unwrap().close().unwrap();
        }
        drop(store);
        assert_eq!(contents(&open(&path)), expected(&version), "{version}, after recovery");
    }
}

#[test]
fn stores_of_every_version_are_written_cloned_and_snapshotted_on() {
    for version in versions() {
        let (_dir, path) = unpack(&version);
        let before = expected(&version);
        let store = open(&path);
        let mut model: BTreeMap<String, String> = before.clone();
        for (number, (name, facts)) in (1..).zip(&before) {
            let snapshot = if facts.ends_with("snapshot") {
                name.clone()
            } else {
                let snapshot = format!("snapshot-of-{name}");
                store.snapshot(name, &snapshot).unwrap();
                model.insert(snapshot.clone(), facts.replace("volume", "snapshot"));
                // Written on, small and large, over old data and beside it.
                let volume = store.open_volume(name, Mode::ReadWrite).unwrap();
                let size = volume.size();
                for (offset, len) in [(size / 2 + 17, 3000), (0, 100 * KIB), (size - 70_000, 70_000)] {
                    volume.write_at(&pattern(number ^ offset, len as usize), offset).unwrap();
                }
                volume.write_zeroes(40 * KIB, 24 * KIB, false, Default::default()).unwrap();
                volume.flush().unwrap();
                let mut sector = vec![0; 3000];
                volume.read_at(&mut sector, size / 2 + 17).unwrap();
                assert!(sector == pattern(number ^ (size / 2 + 17), 3000), "{version}: {name}");
                let written = content(&volume);
                volume.close().unwrap();
                assert_ne!(facts.split(' ').next().unwrap(), written);
                model.insert(name.clone(), format!("{written} {size} volume"));
                snapshot
            };
            let clone = format!("clone-of-{name}");
            store.clone_snapshot(&snapshot, &clone, &CloneOptions::default()).unwrap();
            model.insert(clone, facts.replace("snapshot", "volume"));
        }
        drop(store);
        let store = open(&path);
        assert_eq!(contents(&store), model, "{version}");
        for name in before.keys() {
            store.remove(name).unwrap();
            model.remove(name);
        }
        assert_eq!(contents(&store), model, "{version}, after the old maps were removed");
    }
}

#[test]
fn streams_of_every_version_are_received_with_the_bytes_that_were_sent() {
    for version in versions() {
        let expected = expected(&version);
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("new-store");
        Store::init(&Location::File(path.clone()), &InitOptions::default()).unwrap();
        let store = open(&path);
        // What builds on another one is refused as long as that is not here, whatever it is called.
        for (file, snapshot, _) in STREAMS.iter().filter(|(.., base)| base.is_some()) {
            let refused = receive(&store, snapshot, &stream(&version, file));
            assert!(matches!(refused, Err(Error::NoBase(_))), "{version}: {file}: {refused:?}");
        }
        for (file, snapshot, base) in STREAMS {
            let here = format!("received-{snapshot}");
            receive(&store, &here, &stream(&version, file)).unwrap();
            assert_eq!(store.info(&here).unwrap().parent, base.map(|base| format!("received-{base}")), "{version}");
        }
        let received = contents(&store);
        assert_eq!(received.len(), STREAMS.len(), "{version}");
        for (_, snapshot, _) in STREAMS {
            assert_eq!(received[&format!("received-{snapshot}")], expected[snapshot], "{version}: {snapshot}");
        }
        // In the store that sent them they are what they were: the base is its own snapshot.
        let (_dir, path) = unpack(&version);
        let store = open(&path);
        receive(&store, "sent-back", &stream(&version, "incremental.stream.gz")).unwrap();
        assert_eq!(contents(&store)["sent-back"], expected["second-snapshot"], "{version}");
    }
}

#[test]
fn a_golden_stream_that_was_changed_anywhere_is_refused() {
    for version in versions() {
        let (_dir, path) = unpack(&version);
        let store = open(&path);
        for (file, ..) in STREAMS {
            let whole = stream(&version, file);
            for at in (0..whole.len()).step_by(whole.len() / 40) {
                let mut changed = whole.clone();
                changed[at] ^= 0x10;
                assert!(receive(&store, "changed-stream", &changed).is_err(), "{version}: {file}: byte {at}");
                if let Ok(status) = store.receive_status("changed-stream") {
                    store.remove(&status.partial).unwrap();
                }
            }
        }
    }
}

/// Makes the streams in `tests/golden/VERSION`, of the store that is there already.
#[test]
#[ignore = "writes into the source tree; see tests/golden/README.md"]
fn write_the_golden_streams() {
    let version = std::env::var("GOLDEN_VERSION").expect("GOLDEN_VERSION says for which version");
    let (dir, path) = unpack(&version);
    let store = open(&path);
    for (file, snapshot, base) in STREAMS {
        let target = golden().join(&version).join(file);
        assert!(!target.exists(), "{}: a stream of a version is made once", target.display());
        let plain = dir.path().join("stream");
        let options = SendOptions { from: base.map(String::from), resume: None };
        store.send(snapshot, &options, &mut fs::File::create(&plain).unwrap(), &mut |_| Ok(())).unwrap();
        let packed = Command::new("gzip").args(["-9", "-n", "-c"]).arg(&plain).output().unwrap();
        assert!(packed.status.success());
        fs::write(target, packed.stdout).unwrap();
    }
}

/// Makes `tests/golden/VERSION`, where VERSION is in the environment variable `GOLDEN_VERSION`.
#[test]
#[ignore = "writes into the source tree; see tests/golden/README.md"]
fn write_the_golden_store() {
    let version = std::env::var("GOLDEN_VERSION").expect("GOLDEN_VERSION says for which version");
    let target = golden().join(&version);
    assert!(!target.exists(), "{}: a store of a version is made once", target.display());
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    Store::init(&Location::File(path.clone()), &InitOptions { mode: 0o644, ..InitOptions::default() }).unwrap();
    let store = open(&path);
    let crashed = fill(&store);
    // The archive is made while volumes are open, with journals that were not folded: a store whose process was killed.
    let mut known = BTreeMap::new();
    for name in store.list(&archipelago_core::ListOptions::default()).unwrap().entries {
        let volume = store.open_volume(&name.name, Mode::ReadOnly).unwrap();
        let kind = if name.read_only { "snapshot" } else { "volume" };
        known.insert(name.name.clone(), format!("{} {} {kind}", content(&volume), volume.size()));
    }
    fs::create_dir_all(&target).unwrap();
    let status = Command::new("tar")
        .args(["--sparse", "--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--exclude=store/procs/*"])
        .args(["--mtime=@1764000000", "-cf", "-", "store"])
        .current_dir(dir.path())
        .stdout(fs::File::create(dir.path().join("store.tar")).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    assert!(Command::new("gzip").args(["-9", "-n", "store.tar"]).current_dir(dir.path()).status().unwrap().success());
    fs::copy(dir.path().join("store.tar.gz"), target.join("store.tar.gz")).unwrap();
    let text: String = known.iter().map(|(name, facts)| format!("{facts} {name}\n")).collect();
    fs::write(target.join("contents"), text).unwrap();
    drop(crashed);
}

/// Fills a store with something of everything. The volumes that come back are open, and are to be left as they are.
fn fill(store: &Store) -> Vec<Volume> {
    let create = |name: &str, size: u64, block_size: Option<u64>| {
        store.create(name, &CreateOptions { size, block_size }).unwrap();
        store.open_volume(name, Mode::ReadWrite).unwrap()
    };
    let write = |volume: &Volume, offset: u64, len: usize| {
        volume.write_at(&pattern(offset ^ volume.size(), len), offset).unwrap();
    };
    // Closed and folded: data objects, small writes in the log, an end within a sector, two snapshots.
    let volume = create("plain-volume", 9 * MIB + 1000, None);
    write(&volume, 0, 40_000);
    write(&volume, 5 * MIB + 3, 700);
    write(&volume, 9 * MIB + 1, 999);
    volume.snapshot("first-snapshot").unwrap();
    write(&volume, 8 * KIB, 5000);
    volume.discard(16 * KIB, 8 * KIB).unwrap();
    write(&volume, 4 * MIB - 100, 200);
    volume.close().unwrap();
    store.snapshot("plain-volume", "second-snapshot").unwrap();
    // Small blocks far apart: a tree of several levels.
    let volume = create("large-volume", 1 << 40, Some(64 * KIB));
    for place in [0, 1 << 23, (1 << 30) + 5, (1 << 36) - 1, (1 << 40) - 4096] {
        write(&volume, place, 4096);
    }
    volume.close().unwrap();
    // One block in many pieces.
    let volume = create("many-extents", 4 * MIB, None);
    for piece in 0..60 {
        write(&volume, piece * 64 * KIB + 512, 600);
    }
    volume.close().unwrap();
    // Clones: written and grown, cut, never opened.
    let clone = |snapshot: &str, name: &str, size: Option<u64>| {
        store.clone_snapshot(snapshot, name, &CloneOptions { size }).unwrap();
    };
    clone("first-snapshot", "grown-clone", Some(20 * MIB));
    let volume = store.open_volume("grown-clone", Mode::ReadWrite).unwrap();
    write(&volume, 100, 50);
    write(&volume, 19 * MIB, 9000);
    volume.write_zeroes(5 * MIB, 64 * KIB, false, Default::default()).unwrap();
    volume.close().unwrap();
    clone("second-snapshot", "cut-clone", None);
    store.resize("cut-clone", 5 * MIB + 123, true).unwrap();
    clone("second-snapshot", "untouched-clone", None);
    // Names and trash.
    let volume = create("former-name", MIB, None);
    write(&volume, 0, 4096);
    volume.close().unwrap();
    store.rename("former-name", "renamed-volume").unwrap();
    create("removed-volume", MIB, None).close().unwrap();
    store.remove("removed-volume").unwrap();
    // Killed while open: a new volume whose journal was never folded, and one with a snapshot and a folded past.
    let unfolded = create("unfolded-volume", 6 * MIB, None);
    write(&unfolded, 12 * KIB, 4096);
    write(&unfolded, 2 * MIB + 1, 10_000);
    unfolded.discard(12 * KIB, 4096).unwrap();
    write(&unfolded, 4 * MIB, 20_000);
    unfolded.flush().unwrap();
    let crashed = create("crashed-volume", 6 * MIB, None);
    write(&crashed, 0, 60_000);
    crashed.checkpoint().unwrap();
    write(&crashed, 100 * KIB, 3000);
    crashed.snapshot("snapshot-before-crash").unwrap();
    write(&crashed, 100 * KIB + 1000, 3000);
    write(&crashed, 3 * MIB, 512);
    crashed.flush().unwrap();
    vec![unfolded, crashed]
}
