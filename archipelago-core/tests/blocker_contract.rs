//! Every backend keeps the contract of `Blocker`.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::SimDisk;

#[path = "common/contract_collection.rs"]
mod collection;
#[path = "common/contract.rs"]
mod contract;

use archipelago_core::blocker::{Blocker, RecordKey};

/// All sentences of the contract.
fn contract(make: impl Fn() -> Arc<dyn Blocker>) {
    contract::contract(&make);
    collection::contract(&make);
}

#[test]
fn the_file_backend_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    contract(|| {
        let path = dir.path().join(format!("store{}", count.fetch_add(1, Ordering::Relaxed)));
        Arc::new(FileBlocker::init(&path, FileOptions::default()).unwrap())
    });
}

#[test]
fn the_file_backend_keeps_the_contract_with_two_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    contract(|| {
        let path = dir.path().join(format!("store{}", count.fetch_add(1, Ordering::Relaxed)));
        Arc::new(FileBlocker::init(&path, FileOptions { max_open_files: 2, ..FileOptions::default() }).unwrap())
    });
}

#[test]
fn the_file_backend_over_a_simulated_disk_keeps_the_contract() {
    contract(|| {
        let blocker = FileBlocker::new(SimDisk::new(), FileOptions::default());
        blocker.make_layout().unwrap();
        Arc::new(blocker)
    });
}

#[test]
fn the_file_backend_past_the_page_cache_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    contract(|| {
        let path = dir.path().join(format!("store{}", count.fetch_add(1, Ordering::Relaxed)));
        let blocker = FileBlocker::init(&path, FileOptions { direct: true, ..FileOptions::default() }).unwrap();
        // Or nothing would be tested: TMPDIR has to be on a disk.
        blocker.create_record(RecordKey::Store, b"superblock").unwrap();
        assert!(blocker.bypasses().unwrap());
        blocker.remove_record(RecordKey::Store).unwrap();
        Arc::new(blocker)
    });
}

#[test]
fn the_file_backend_past_the_page_cache_of_a_simulated_disk_keeps_the_contract() {
    contract(|| {
        let blocker = FileBlocker::new(SimDisk::new(), FileOptions { direct: true, ..FileOptions::default() });
        blocker.make_layout().unwrap();
        Arc::new(blocker)
    });
}

#[test]
fn the_memory_backend_keeps_the_contract() {
    contract(|| MemoryBlocker::new());
}
