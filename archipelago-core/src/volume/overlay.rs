//! The blocks of an open volume that changed since they were last folded.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::mapper::block_map::BlockMap;
use crate::sync::RwLock;

/// Neighbouring blocks fall into different shards, so that sequential writers rarely meet.
const SHARDS: usize = 16;

/// Hashes a block index: one multiplication spreads it over the table.
#[derive(Default)]
pub struct BlockHasher(u64);

impl Hasher for BlockHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// One shard: block index to the whole map of the block.
pub type Shard = HashMap<u64, Arc<BlockMap>, BuildHasherDefault<BlockHasher>>;

/// The table. A shard's lock also orders the writers of its blocks: in-place writes hold it shared, everything that
/// changes where sectors are holds it exclusively.
pub struct Overlay {
    shards: [RwLock<Shard>; SHARDS],
}

impl Overlay {
    /// A table of these blocks.
    pub fn new(blocks: impl IntoIterator<Item = (u64, Arc<BlockMap>)>) -> Overlay {
        let overlay = Overlay { shards: std::array::from_fn(|_| RwLock::default()) };
        for (block, map) in blocks {
            overlay.shard(block).write().insert(block, map);
        }
        overlay
    }

    /// The shard of a block.
    pub fn shard(&self, block: u64) -> &RwLock<Shard> {
        &self.shards[block as usize % SHARDS]
    }

    /// All blocks, in no order: this may run while changes are stopped, and who wants them sorted has time for it later.
    pub fn capture(&self) -> Vec<(u64, Arc<BlockMap>)> {
        let mut all = Vec::with_capacity(self.shards.iter().map(|s| s.read().len()).sum());
        for shard in &self.shards {
            all.extend(shard.read().iter().map(|(b, m)| (*b, m.clone())));
        }
        all
    }

    /// Block indexes in a range, sorted.
    pub fn keys(&self, from: u64, to: u64) -> Vec<u64> {
        let mut keys: Vec<u64> = self
            .shards
            .iter()
            .flat_map(|s| s.read().keys().copied().filter(|b| (from..to).contains(b)).collect::<Vec<_>>())
            .collect();
        keys.sort_unstable();
        keys
    }

    /// Drops the blocks that are still as they were captured: the tree says the same now.
    pub fn forget(&self, captured: &[(u64, Arc<BlockMap>)]) {
        for (block, map) in captured {
            let mut shard = self.shard(*block).write();
            if shard.get(block).is_some_and(|m| Arc::ptr_eq(m, map)) {
                shard.remove(block);
            }
        }
    }

    /// Drops blocks from `limit` on.
    pub fn truncate(&self, limit: u64) {
        for shard in &self.shards {
            shard.write().retain(|b, _| *b < limit);
        }
    }

    /// Whether no block waits.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|s| s.read().is_empty())
    }
}
