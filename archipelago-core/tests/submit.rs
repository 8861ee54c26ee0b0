//! Submitted operations do what calls do, whether they are carried out where they are submitted or by a thread of the store.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::SimDisk;
use archipelago_core::*;

#[path = "common/random.rs"]
mod random;
use random::{Random, bytes};

const BLOCK: u64 = 64 << 10;
const SIZE: u64 = 24 * BLOCK;

fn options() -> StoreOptions {
    StoreOptions {
        background: Background::Manual,
        max_unfolded: 1 << 20,
        first_segment: 64 << 10,
        ..StoreOptions::default()
    }
}

/// Submits one operation and waits for its end.
fn submitted(volume: &Volume, operation: Operation) -> (Vec<u8>, Result<()>) {
    let (queue, mut ended) = (CompletionQueue::new(), Vec::new());
    volume.submit(operation, 7, &queue).unwrap();
    queue.wait(&mut ended, 1, None);
    let Completion { tag, buf, result } = ended.pop().unwrap();
    assert_eq!((tag, ended.len(), queue.outstanding()), (7, 0, 0));
    (buf, result)
}

fn read(volume: &Volume, from: u64, len: usize) -> Vec<u8> {
    let (buf, result) = submitted(volume, Operation::Read { buf: vec![0xee; len], offset: from });
    result.unwrap();
    buf
}

fn history(store: &Store, seed: u64) {
    store.create("volume-a", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("volume-a", Mode::ReadWrite).unwrap();
    let (mut content, mut random) = (vec![0; SIZE as usize], Random(seed));
    let mut snapshots: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..1500 {
        // Sectors, pieces of them, and more than is ever carried out at once.
        let len = [4096, 4096, 512, 9000, 100_000][random.below(5) as usize];
        let unit = if random.below(3) == 0 { 1 } else { 4096 };
        let from = random.below(SIZE - len + 1) / unit * unit;
        let range = from as usize..(from + len) as usize;
        match random.below(20) {
            0..=8 => {
                let buf = bytes(seed ^ round, len as usize);
                content[range].copy_from_slice(&buf);
                let flags = WriteFlags { fua: random.below(8) == 0 };
                submitted(&volume, Operation::Write { buf, offset: from, flags }).1.unwrap();
            }
            9..=14 => assert_eq!(read(&volume, from, len as usize), content[range], "round {round}"),
            15 => submitted(&volume, Operation::Flush).1.unwrap(),
            16 => {
                content[range].fill(0);
                let zeroes =
                    Operation::WriteZeroes { offset: from, len, allocate: false, flags: WriteFlags::default() };
                submitted(&volume, zeroes).1.unwrap();
            }
            17 => volume.checkpoint().unwrap(),
            18 if round % 8 == 0 => {
                let name = format!("snap-{round}");
                volume.snapshot(&name).unwrap();
                snapshots.push((name, content.clone()));
            }
            18 => drop(store.scrub(&ScrubOptions::default(), &mut |_| true).unwrap()),
            _ => {
                let Some((name, content)) = snapshots.last() else { continue };
                let snapshot = store.open_volume(name, Mode::ReadOnly).unwrap();
                // Twice: what is known from the first time is used the second time.
                for _ in 0..2 {
                    assert_eq!(read(&snapshot, from, len as usize), content[range.clone()], "round {round}");
                }
            }
        }
    }
    assert!(snapshots.len() > 2);
    let past = submitted(&volume, Operation::Read { buf: vec![0; 4096], offset: SIZE - 1 });
    assert!(matches!(past.1, Err(Error::OutOfRange { .. })));
    let (name, _) = snapshots.pop().unwrap();
    let snapshot = store.open_volume(&name, Mode::ReadOnly).unwrap();
    let write = Operation::Write { buf: vec![1; 4096], offset: 0, flags: WriteFlags::default() };
    let (buf, refused) = submitted(&snapshot, write);
    assert!(matches!(refused, Err(Error::ReadOnly(_))));
    assert_eq!(buf, [1; 4096]);
    volume.close().unwrap();
    let closed = submitted(&volume, Operation::Read { buf: vec![0; 4096], offset: 0 });
    assert!(matches!(closed.1, Err(Error::NotOpen(_))));
}

#[test]
fn what_is_submitted_is_what_is_there_on_files() {
    for dir in [std::env::temp_dir(), "/dev/shm".into()] {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let location = Location::File(dir.path().join("store"));
        Store::init(&location, &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
        history(&Store::open(&location, options()).unwrap(), 11);
    }
}

#[test]
fn what_is_submitted_is_what_is_there_in_memory() {
    for seed in 1..5 {
        let blocker = MemoryBlocker::new();
        Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
        history(&Store::open_on(blocker, options()).unwrap(), seed);
    }
}

/// A store past the page cache of a disk; TMPDIR has to be on one.
fn direct(dir: &std::path::Path) -> Store {
    let location = Location::File(dir.join("store"));
    Store::init(&location, &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    Store::open(&location, StoreOptions { direct: true, ..options() }).unwrap()
}

/// The same of a simulated disk, on which what is under way ends in another order than it began.
fn direct_simulated() -> Store {
    let blocker = FileBlocker::new(SimDisk::new(), FileOptions { direct: true, ..FileOptions::default() });
    blocker.make_layout().unwrap();
    let blocker = Arc::new(blocker);
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    Store::open_on(blocker, options()).unwrap()
}

#[test]
fn what_is_submitted_is_what_is_there_past_the_page_cache() {
    let dir = tempfile::tempdir().unwrap();
    history(&direct(dir.path()), 5);
    history(&direct_simulated(), 6);
}

/// Many operations are under way at once, and a snapshot is taken among them by who did not collect their ends.
fn together(store: &Store, seed: u64) {
    const SECTOR: u64 = 4096;
    const MANY: u64 = 60;
    store.create("volume-a", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("volume-a", Mode::ReadWrite).unwrap();
    let mut content = bytes(seed, SIZE as usize);
    volume.write_at(&content, 0).unwrap();
    let (queue, mut random, mut ended) = (CompletionQueue::new(), Random(seed), Vec::new());
    let mut snapshots: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..60u64 {
        let mut written = vec![None; MANY as usize];
        let first = random.below(SIZE / SECTOR - 4 * MANY);
        let mut taken = None;
        for n in 0..MANY {
            // Places that do not overlap; some lie badly, some are of several sectors.
            let (shift, len) = [(0, 4096), (0, 8192), (512, 1024), (100, 700)][random.below(4) as usize];
            let offset = (first + 3 * n) * SECTOR + shift;
            let operation = if random.below(2) == 0 {
                let buf = bytes(seed ^ round ^ n << 32, len);
                written[n as usize] = Some((offset, buf.clone()));
                Operation::Write { buf, offset, flags: WriteFlags::default() }
            } else {
                Operation::Read { buf: vec![0xee; len], offset }
            };
            volume.submit(operation, offset, &queue).unwrap();
            if n == MANY / 2 && round % 6 == 0 {
                taken = Some(format!("snap-{round}"));
                volume.snapshot(&format!("snap-{round}")).unwrap();
            }
            if n % 16 == 0 && round % 7 == 0 {
                volume.checkpoint().unwrap();
            }
        }
        while queue.outstanding() > 0 {
            queue.wait(&mut ended, 1, None);
        }
        let old = content.clone();
        for (offset, buf) in written.into_iter().flatten() {
            content[offset as usize..][..buf.len()].copy_from_slice(&buf);
        }
        for Completion { tag, buf, result } in ended.drain(..) {
            result.unwrap();
            assert!(content[tag as usize..][..buf.len()] == buf, "round {round}: {} bytes at {tag}", buf.len());
        }
        if let Some(name) = taken {
            let found = read(&store.open_volume(&name, Mode::ReadOnly).unwrap(), 0, SIZE as usize);
            let mut each = found.iter().zip(old.iter().zip(&content));
            assert!(each.all(|(found, (old, new))| found == old || found == new), "round {round}");
            snapshots.push((name, found));
        }
    }
    assert!(read(&volume, 0, SIZE as usize) == content);
    for (name, found) in snapshots {
        let snapshot = store.open_volume(&name, Mode::ReadOnly).unwrap();
        assert!(read(&snapshot, 0, SIZE as usize) == found, "{name} changed");
    }
    volume.close().unwrap();
    assert!(read(&store.open_volume("volume-a", Mode::ReadWrite).unwrap(), 0, SIZE as usize) == content);
}

#[test]
fn what_is_under_way_together_is_what_is_there_and_no_snapshot_changes() {
    let dir = tempfile::tempdir().unwrap();
    together(&direct(dir.path()), 1);
    together(&direct_simulated(), 2);
}

#[test]
fn a_volume_is_closed_when_the_last_of_what_was_submitted_to_it_ended() {
    let store = direct_simulated();
    store.create("volume-a", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("volume-a", Mode::ReadWrite).unwrap();
    volume.write_at(&bytes(1, SIZE as usize), 0).unwrap();
    let (queue, mut ended) = (CompletionQueue::new(), Vec::new());
    for n in 0..32 {
        let write = Operation::Write { buf: vec![n as u8; 4096], offset: n * 4096, flags: WriteFlags::default() };
        volume.submit(write, n, &queue).unwrap();
    }
    drop(volume);
    queue.wait(&mut ended, 32, None);
    assert!(ended.iter().all(|end| end.result.is_ok()));
    store.remove("volume-a").unwrap();
}
