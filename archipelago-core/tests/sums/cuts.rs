//! A scrub that is cut short after any of its calls, by a power cut or a kill, and one that fails at any of them.

use std::sync::Arc;

use archipelago_core::blocker::Blocker;
use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::{Crashable, SimDisk};
use archipelago_core::{CloneOptions, CreateOptions, InitOptions, Mode, ScrubOptions, Store};

use crate::random::bytes;
use crate::{BLOCK, check, options, read_all, scrub};

const NAMES: [&str; 4] = ["snap-1", "disk-1", "snap-2", "clone-1"];

/// Two volumes with sealed epochs, one of more than one page of checksums, and what is still written.
fn build(blocker: &Arc<dyn Blocker>) {
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let store = Store::open_on(blocker.clone(), options(Some(7))).unwrap();
    store.create("disk-1", &CreateOptions { size: 70 * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    for (seed, block, blocks) in [(1, 0, 2), (2, 5, 1), (3, 55, 4), (4, 69, 1)] {
        volume.write_at(&bytes(seed, (blocks * BLOCK) as usize), block * BLOCK).unwrap();
    }
    volume.snapshot("snap-1").unwrap();
    volume.checkpoint().unwrap();
    volume.write_at(&bytes(5, BLOCK as usize), BLOCK).unwrap();
    store.clone_snapshot("snap-1", "clone-1", &CloneOptions::default()).unwrap();
    let clone = store.open_volume("clone-1", Mode::ReadWrite).unwrap();
    clone.write_at(&bytes(6, BLOCK as usize), 10 * BLOCK).unwrap();
    clone.snapshot("snap-2").unwrap();
    clone.checkpoint().unwrap();
    clone.close().unwrap();
    volume.close().unwrap();
}

fn contents(store: &Store, what: &str) -> Vec<Vec<u8>> {
    NAMES.iter().map(|name| read_all(store, name).unwrap_or_else(|e| panic!("{what}: {name}: {e}"))).collect()
}

/// Whatever was left of the checksums, it says nothing wrong of any byte, and the next pass makes the rest.
fn settles(blocker: &Arc<dyn Blocker>, expected: &[Vec<u8>], all: u64, what: &str) {
    let store = Store::open_on(blocker.clone(), options(Some(8))).unwrap();
    assert!(contents(&store, what) == expected, "{what}");
    let report = scrub(&store);
    assert_eq!((report.verified + report.made, report.altered, report.broken), (all, 0, 0), "{what}: {report:?}");
    assert_eq!(scrub(&store).verified, all, "{what}");
    assert!(contents(&store, what) == expected, "{what}");
    assert_eq!(check(&store).worst(), None, "{what}");
    // And those who write on are not held to it.
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    volume.write_at(&bytes(9, 3 * BLOCK as usize), 0).unwrap();
    volume.close().unwrap();
    assert_eq!(scrub(&store).altered, 0, "{what}");
    contents(&store, what);
}

fn cut_everywhere<D: Crashable>(disk: &Arc<D>, blocker: impl Fn(&Arc<D>) -> Arc<dyn Blocker>) {
    build(&blocker(disk));
    let first = disk.steps();
    let store = Store::open_on(blocker(disk), options(Some(7))).unwrap();
    let expected = contents(&store, "before");
    let all = scrub(&store).made;
    assert!(all > 8 * BLOCK);
    let last = disk.steps();
    assert!(last > first + 5);
    for step in first..=last {
        let survivors = [(0, disk.crash_at(step, 0)), (1, disk.crash_at(step, 1)), (2, disk.crash_at(step, step + 2))];
        for (way, disk) in survivors.into_iter().chain([(3, disk.kill_at(step))]) {
            settles(&blocker(&disk), &expected, all, &format!("cut after step {step}, way {way}"));
        }
    }
}

fn fail_everywhere<D: Crashable>(make: impl Fn() -> Arc<D>, blocker: impl Fn(&Arc<D>) -> Arc<dyn Blocker>) {
    let reference = make();
    build(&blocker(&reference));
    let first = reference.steps();
    let store = Store::open_on(blocker(&reference), options(Some(7))).unwrap();
    let expected = contents(&store, "before");
    let all = scrub(&store).made;
    let mut failed = 0;
    for step in first + 1..=reference.steps() {
        for errno in [libc_eio(), libc_enospc()] {
            let disk = make();
            build(&blocker(&disk));
            disk.fail_at(step, errno);
            let store = Store::open_on(blocker(&disk), options(Some(7))).unwrap();
            failed += usize::from(store.scrub(&ScrubOptions::default(), &mut |_| true).is_err());
            drop(store);
            settles(&blocker(&disk), &expected, all, &format!("call {step} failed"));
        }
    }
    assert!(failed > 0);
}

/// EIO, as Linux numbers it.
fn libc_eio() -> i32 {
    5
}

/// ENOSPC.
fn libc_enospc() -> i32 {
    28
}

fn memory(disk: &Arc<MemoryBlocker>) -> Arc<dyn Blocker> {
    disk.clone()
}

fn files(disk: &Arc<SimDisk>) -> Arc<dyn Blocker> {
    Arc::new(FileBlocker::new(disk.clone(), FileOptions::default()))
}

fn disk() -> Arc<SimDisk> {
    let disk = SimDisk::new();
    FileBlocker::new(disk.clone(), FileOptions::default()).make_layout().unwrap();
    disk
}

#[test]
fn a_scrub_cut_after_any_call_says_nothing_wrong_and_the_next_one_ends_it_in_memory() {
    cut_everywhere(&MemoryBlocker::new(), memory);
}

#[test]
fn a_scrub_cut_after_any_call_says_nothing_wrong_and_the_next_one_ends_it_on_files() {
    cut_everywhere(&disk(), files);
}

#[test]
fn a_scrub_that_fails_at_any_call_says_nothing_wrong_and_the_next_one_ends_it_in_memory() {
    fail_everywhere(MemoryBlocker::new, memory);
}

#[test]
fn a_scrub_that_fails_at_any_call_says_nothing_wrong_and_the_next_one_ends_it_on_files() {
    fail_everywhere(disk, files);
}
