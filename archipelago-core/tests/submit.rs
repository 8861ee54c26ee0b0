//! Submitted operations do what calls do, whether they are carried out where they are submitted or by a thread of the store.
#![allow(clippy::unwrap_used)]

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::*;

#[path = "common/random.rs"]
mod random;
use random::{Random, bytes};

const BLOCK: u64 = 64 << 10;
const SIZE: u64 = 24 * BLOCK;

/// Needs TMPDIR on a disk.
#[test]
fn what_is_submitted_is_what_is_there_past_the_page_cache() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::File(dir.path().join("store"));
    Store::init(&location, &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    history(&Store::open(&location, StoreOptions { direct: true, ..options() }).unwrap(), 5);
}

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
