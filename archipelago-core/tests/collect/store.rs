//! Stores to collect in, and what is in them.

use std::sync::Arc;

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::sim::SimDisk;
use archipelago_core::blocker::{Blocker, Object};
use archipelago_core::{Background, CollectOptions, CollectReport, InitOptions, Store, StoreOptions, Volume};

use crate::random::bytes;

/// Block size of the tests' stores.
pub const BLOCK: u64 = 64 << 10;

/// As simulations open a store.
pub fn options() -> StoreOptions {
    StoreOptions { background: Background::Manual, first_segment: 64 << 10, seed: Some(7), ..StoreOptions::default() }
}

/// Makes and opens a store.
pub fn open(blocker: &Arc<dyn Blocker>) -> Store {
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    Store::open_on(blocker.clone(), options()).unwrap()
}

/// The file backend over a simulated disk.
pub fn sim_files() -> Arc<dyn Blocker> {
    let blocker = FileBlocker::new(SimDisk::new(), FileOptions::default());
    blocker.make_layout().unwrap();
    Arc::new(blocker)
}

/// A whole collection, without grace for what uploads left.
pub fn collect(store: &Store) -> CollectReport {
    store.collect(&CollectOptions { grace: 0, ..CollectOptions::default() }, &mut |_| true).unwrap()
}

/// All objects of a backend.
pub fn everything(blocker: &Arc<dyn Blocker>) -> Vec<Object> {
    (0..=u8::MAX).flat_map(|part| blocker.inventory(part).unwrap().objects).collect()
}

/// Number of headers, and all objects.
pub fn kinds(blocker: &Arc<dyn Blocker>) -> (usize, Vec<Object>) {
    (blocker.headers().unwrap().len(), everything(blocker))
}

/// Bytes that all objects take.
pub fn room(blocker: &Arc<dyn Blocker>) -> u64 {
    everything(blocker).iter().map(|object| blocker.allocated(*object).unwrap()).sum()
}

/// Writes bytes of a seed.
pub fn fill(volume: &Volume, seed: u64, offset: u64, len: u64) {
    volume.write_at(&bytes(seed, len as usize), offset).unwrap();
}

/// The whole volume.
pub fn read_all(volume: &Volume) -> Vec<u8> {
    let mut all = vec![0; volume.size() as usize];
    volume.read_at(&mut all, 0).unwrap();
    all
}
