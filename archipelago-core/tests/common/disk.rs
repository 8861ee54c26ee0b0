//! A disk whose past can be cut at any call, at either of the two seams.

use std::sync::Arc;

use archipelago_core::blocker::Blocker;
use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::SimDisk;
use archipelago_core::{Background, InitOptions, Store, StoreOptions};

/// Block size of the stores made here.
pub const BLOCK: u64 = 64 << 10;

/// A simulated disk.
#[derive(Clone)]
pub enum Disk {
    /// System calls, under the real file backend.
    File(Arc<SimDisk>),
    /// The blocker interface.
    Memory(Arc<MemoryBlocker>),
}

impl Disk {
    /// One of each kind, empty.
    pub fn both() -> [Disk; 2] {
        [Disk::File(SimDisk::new()), Disk::Memory(MemoryBlocker::new())]
    }

    /// Makes a store on it.
    pub fn with_store(self) -> Disk {
        if let Disk::File(disk) = &self {
            file_blocker(disk).make_layout().unwrap();
        }
        Store::init_on(self.blocker(), &InitOptions { block_size: BLOCK, mode: 0o660, group: None }).unwrap();
        self
    }

    /// Opens the store.
    pub fn store(&self, seed: u64) -> Store {
        let options = StoreOptions {
            node_cache: 1 << 20,
            background: Background::Manual,
            max_unfolded: 1 << 20,
            first_segment: 64 << 10,
            direct: false,
            seed: Some(seed),
        };
        Store::open_on(self.blocker(), options).unwrap()
    }

    /// A new backend on it.
    pub fn blocker(&self) -> Arc<dyn Blocker> {
        match self {
            Disk::File(disk) => Arc::new(file_blocker(disk)),
            Disk::Memory(blocker) => blocker.clone(),
        }
    }

    /// State-changing calls so far.
    pub fn steps(&self) -> u64 {
        match self {
            Disk::File(disk) => disk.steps(),
            Disk::Memory(blocker) => blocker.steps(),
        }
    }

    /// A disk as a power cut after `step` calls may leave it: seed 0 has what was durable, 1 all that was issued.
    pub fn crash_at(&self, step: u64, seed: u64) -> Disk {
        match self {
            Disk::File(disk) => Disk::File(disk.crash_at(step, seed)),
            Disk::Memory(blocker) => Disk::Memory(blocker.crash_at(step, seed)),
        }
    }
}

fn file_blocker(disk: &Arc<SimDisk>) -> FileBlocker {
    FileBlocker::new(disk.clone(), FileOptions { max_open_files: 12, ..FileOptions::default() })
}
