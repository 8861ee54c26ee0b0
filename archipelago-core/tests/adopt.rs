//! Files outside the store become content: shared, linked or copied, over power cuts and errors at every I/O.
//!
//! The files lie on the same simulated disk as the store. Whether files there can share their room is the test's answer; real
//! file systems that can are in `blocker_file.rs`, for who has one.
#![allow(clippy::unwrap_used)]

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::{SimDisk, Syncs};
use archipelago_core::blocker::sys::{Fd, Open, Outside, Sys};
use archipelago_core::blocker::{Adopted, Blocker, Object};
use archipelago_core::store::content::NewObject;
use archipelago_core::*;

#[path = "common/random.rs"]
mod random;
use random::bytes;

const BLOCK: u64 = 256 << 10;
const FATES: [u64; 4] = [0, 1, 2, 3];

/// Blocks of every kind: full, with zeros at its end, with a hole, short, and the first once more.
fn blocks() -> Vec<Vec<u8>> {
    let holed = [bytes(3, 700), vec![0; 200_000], bytes(4, 5000)].concat();
    let padded = [bytes(2, 30_000), vec![0; 9000]].concat();
    vec![bytes(1, BLOCK as usize), padded, holed, bytes(5, 100), bytes(1, BLOCK as usize)]
}

fn whole(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut all = Vec::new();
    for block in blocks {
        all.extend_from_slice(block);
        all.resize(all.len().next_multiple_of(BLOCK as usize), 0);
    }
    all
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Share,
    Link,
    Copy,
}

impl Way {
    const ALL: [Way; 3] = [Way::Share, Way::Link, Way::Copy];

    /// How a block comes in: what has zeros at its end cannot be a content object as it is.
    fn of(self, block: &[u8]) -> Adopted {
        match self {
            Way::Share => Adopted::Shared,
            Way::Link if block.last() != Some(&0) => Adopted::Linked,
            Way::Link | Way::Copy => Adopted::Copied,
        }
    }
}

fn open(disk: &Arc<SimDisk>, way: Way, seed: u64) -> Store {
    if way == Way::Share {
        disk.allow_sharing();
    }
    let options = StoreOptions { background: Background::Manual, seed: Some(seed), ..StoreOptions::default() };
    Store::open_on(Arc::new(FileBlocker::new(disk.clone(), FileOptions::default())), options).unwrap()
}

/// A store on a disk, with files beside it in `old`, of which nothing but the names is durable.
fn prepare() -> Arc<SimDisk> {
    let disk = SimDisk::new();
    let blocker = FileBlocker::new(disk.clone(), FileOptions::default());
    blocker.make_layout().unwrap();
    Store::init_on(Arc::new(blocker), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    write_files(&disk, "old");
    disk
}

fn write_files(disk: &SimDisk, dir: &str) {
    disk.mkdir(dir).unwrap();
    for (n, block) in blocks().iter().enumerate() {
        let fd = disk.open(&format!("{dir}/{n}"), Open::CreateNew).unwrap();
        disk.pwritev(fd, &[IoSlice::new(block)], 0).unwrap();
        disk.close(fd);
    }
    disk.sync_dir(dir).unwrap();
    disk.sync_dir(".").unwrap();
}

#[derive(Default)]
struct Answers {
    adopted: Vec<(u64, Digest, Adopted)>,
    made: Option<u64>,
}

fn work(disk: &Arc<SimDisk>, store: &Store, dir: &str, link: bool) -> Result<Answers> {
    let (mut answers, blocks) = (Answers::default(), blocks());
    let claim = store.claim("an import")?;
    let mut list = Vec::new();
    for (n, block) in blocks.iter().enumerate() {
        let fd = disk.open(&format!("{dir}/{n}"), Open::Read).unwrap();
        let adopted = claim.adopt(block, Outside::simulated(fd), link);
        disk.close(fd);
        let (digest, how) = adopted?;
        assert_eq!(digest, Digest::of(block).0);
        answers.adopted.push((disk.steps(), digest, how));
        list.push(digest);
    }
    let size = (blocks.len() as u64) * BLOCK;
    let new = NewObject { name: "imported".into(), kind: Kind::Snapshot, size, block_size: None };
    store.create_object(&new, &mut list.into_iter().map(Ok))?;
    answers.made = Some(disk.steps());
    claim.end()?;
    Ok(answers)
}

fn read(store: &Store) -> Vec<u8> {
    let volume = store.open_volume("imported", Mode::ReadOnly).unwrap();
    let mut buf = vec![0xaa; volume.size() as usize];
    volume.read_at(&mut buf, 0).unwrap();
    buf
}

/// What must hold after a cut: what is there is right, what was answered is there and is not made again, and all can be finished.
fn check(disk: &Arc<SimDisk>, way: Way, step: u64, answers: &Answers) {
    let store = open(disk, way, 5);
    let blocker = FileBlocker::new(disk.clone(), FileOptions::default());
    store
        .contents(&mut |digest| {
            let mut content = vec![0; BLOCK as usize + 1];
            let len = blocker.read_some(Object::Content(digest), &mut content, 0)?;
            assert_eq!(Digest::of_bytes(&content[..len]), digest, "a content object is what its name says");
            Ok(())
        })
        .unwrap();
    if answers.made.is_some_and(|made| made <= step) {
        assert!(store.info("imported").is_ok(), "it was made, and is gone");
    }
    if store.info("imported").is_ok() {
        assert!(read(&store) == whole(&blocks()), "it has other bytes");
        store.remove("imported").unwrap();
    }
    // Again, from files that are whole whatever the cut took from the others.
    write_files(disk, "again");
    let again = work(disk, &store, "again", way == Way::Link).unwrap();
    for (_, digest, _) in answers.adopted.iter().filter(|(at, ..)| *at <= step) {
        let how = again.adopted.iter().find(|(_, d, _)| d == digest).unwrap().2;
        assert_eq!(how, Adopted::Present, "{digest} was taken in, and is again");
    }
    assert!(read(&store) == whole(&blocks()), "it has other bytes in the end");
    let mut found = vec![0; BLOCK as usize];
    for (n, block) in blocks().iter().enumerate() {
        let fd = disk.open(&format!("again/{n}"), Open::Read).unwrap();
        let len = disk.preadv(fd, &mut [IoSliceMut::new(&mut found)], 0).unwrap();
        disk.close(fd);
        assert!(found[..len] == block[..], "file {n} was altered");
    }
}

#[test]
fn each_way_is_taken_where_it_can_be() {
    for way in Way::ALL {
        let disk = prepare();
        let store = open(&disk, way, 1);
        let answers = work(&disk, &store, "old", way == Way::Link).unwrap();
        let found: Vec<Adopted> = answers.adopted.iter().map(|(.., how)| *how).collect();
        let mut expected: Vec<Adopted> = blocks().iter().map(|block| way.of(block)).collect();
        expected[4] = Adopted::Present;
        assert_eq!(found, expected, "{way:?}");
        assert!(read(&store) == whole(&blocks()), "{way:?}");
    }
    // A backend in memory copies.
    let disk = MemoryBlocker::new();
    Store::init_on(disk.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let store = Store::open_on(disk, StoreOptions { seed: Some(1), ..StoreOptions::default() }).unwrap();
    let claim = store.claim("an import").unwrap();
    let none = Outside::simulated(Fd(-1));
    for expected in [Adopted::Copied, Adopted::Present] {
        assert_eq!(claim.adopt(b"a block", none, true).unwrap(), (Digest::of_bytes(b"a block"), expected));
    }
    assert_eq!(claim.adopt(&[0; 500], none, true).unwrap(), (Digest::ZERO, Adopted::Present));
}

#[test]
fn a_file_that_is_not_what_was_read_of_it_is_neither_shared_nor_linked() {
    for way in Way::ALL {
        let disk = prepare();
        let store = open(&disk, way, 1);
        let claim = store.claim("an import").unwrap();
        let (block, mut other) = (bytes(1, BLOCK as usize), bytes(1, BLOCK as usize));
        *other.last_mut().unwrap() ^= 1;
        // Altered in its last byte, cut, and continued since it was read.
        for (n, now) in [&other[..], &block[..4096], &[&block[..], b"more"].concat()].into_iter().enumerate() {
            let fd = disk.open(&format!("old/changed-{n}"), Open::CreateNew).unwrap();
            disk.pwritev(fd, &[IoSlice::new(now)], 0).unwrap();
            let read = &block[n..];
            let how = claim.adopt(read, Outside::simulated(fd), true);
            disk.close(fd);
            let (digest, how) = how.unwrap();
            assert_eq!((digest, how), (Digest::of_bytes(read), Adopted::Copied), "{way:?}: {n}");
            let blocker = FileBlocker::new(disk.clone(), FileOptions::default());
            let mut found = vec![0; read.len()];
            assert_eq!(blocker.content_len(digest).unwrap(), Some(read.len() as u64));
            blocker.read(Object::Content(digest), &mut [IoSliceMut::new(&mut found)], 0).unwrap();
            assert!(found == read, "{way:?}: {n}");
        }
    }
}

#[test]
fn a_cut_after_any_io_of_taking_files_in_loses_nothing_answered() {
    for way in Way::ALL {
        let disk = prepare();
        let start = disk.steps();
        let store = open(&disk, way, 4);
        let answers = work(&disk, &store, "old", way == Way::Link).unwrap();
        drop(store);
        let end = disk.steps();
        for step in start..=end {
            for fate in FATES {
                println!("{way:?}: cut after step {step} of {start}..{end}, fate {fate}");
                check(&disk.crash_at(step, fate), way, step, &answers);
            }
            println!("{way:?}: killed after step {step} of {start}..{end}");
            check(&disk.kill_at(step), way, step, &answers);
        }
    }
}

#[test]
fn an_error_at_any_io_of_taking_files_in_leaves_nothing_wrong_and_the_next_try_succeeds() {
    for way in Way::ALL {
        let disk = prepare();
        let base = disk.steps();
        let run = disk.kill_at(base);
        work(&run, &open(&run, way, 4), "old", way == Way::Link).unwrap();
        for step in 1..=run.steps() {
            for errno in [libc::EIO, libc::ENOSPC] {
                println!("{way:?}: errno {errno} at step {step} of {}", run.steps());
                let disk = disk.kill_at(base);
                disk.fail_at(step, errno);
                let result = work(&disk, &open(&disk, way, 4), "old", way == Way::Link);
                // A new process: a failed sync is final for the one that saw it.
                let now = disk.steps();
                check(&disk.crash_at(now, 0), way, now, &result.unwrap_or_default());
            }
        }
    }
}

#[test]
fn syncs_that_do_nothing_are_found_whichever_way_a_file_came() {
    for way in Way::ALL {
        for syncs in [Syncs::Files, Syncs::Directories] {
            let found = std::panic::catch_unwind(|| {
                let disk = prepare();
                disk.drop_syncs(syncs);
                let store = open(&disk, way, 4);
                let answers = work(&disk, &store, "old", way == Way::Link).unwrap();
                for fate in 0..8 {
                    check(&disk.crash_at(disk.steps(), fate), way, disk.steps(), &answers);
                }
            });
            assert!(found.is_err(), "{way:?}: a disk that ignores syncs went unnoticed");
        }
    }
}
