//! Submitted operations do what calls do, whether they are carried out where they are submitted or by a thread of the store.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::SimDisk;
use archipelago_core::*;

#[path = "common/submitted.rs"]
mod submitted;
use submitted::random::bytes;
use submitted::{BLOCK, SIZE, history, options, together};

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
