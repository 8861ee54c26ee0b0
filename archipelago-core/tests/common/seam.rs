//! The two simulated disks on which cuts and kills are tried, each with the backend over it.

use std::sync::Arc;

use archipelago_core::blocker::Blocker;
use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::{Crashable, SimDisk};

/// Seeds of what survives a cut: only what is durable, everything, and two choices.
pub const FATES: [u64; 4] = [0, 1, 2, 3];

/// A disk, and the backend over it.
pub trait Seam: Crashable {
    fn fresh() -> Arc<Self>;
    fn blocker(self: &Arc<Self>) -> Arc<dyn Blocker>;
}

impl Seam for MemoryBlocker {
    fn fresh() -> Arc<Self> {
        MemoryBlocker::new()
    }
    fn blocker(self: &Arc<Self>) -> Arc<dyn Blocker> {
        self.clone()
    }
}

impl Seam for SimDisk {
    fn fresh() -> Arc<Self> {
        let disk = SimDisk::new();
        FileBlocker::new(disk.clone(), FileOptions::default()).make_layout().unwrap();
        disk
    }
    fn blocker(self: &Arc<Self>) -> Arc<dyn Blocker> {
        Arc::new(FileBlocker::new(self.clone(), FileOptions::default()))
    }
}
