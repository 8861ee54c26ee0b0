//! The blocks of an open volume that changed since they were last folded.

use std::collections::HashMap;
use std::sync::Arc;

use crate::format::node::Extent;
use crate::id_hash::BuildIdHasher;
use crate::mapper::block_map::BlockMap;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Neighbouring blocks fall into different shards, so that sequential writers rarely meet.
const SHARDS: usize = 16;

type Blocks = HashMap<u64, Arc<BlockMap>, BuildIdHasher>;

/// One shard: block index to the whole map of the block.
#[derive(Default)]
pub struct Shard {
    blocks: Blocks,
    /// What all shards take.
    taken: Arc<AtomicU64>,
}

impl Shard {
    /// The map of a block, if it is here.
    pub fn get(&self, block: &u64) -> Option<&Arc<BlockMap>> {
        self.blocks.get(block)
    }

    /// Gives a block another map.
    pub fn insert(&mut self, block: u64, map: Arc<BlockMap>) {
        self.taken.fetch_add(weight(&map), Ordering::Relaxed);
        if let Some(old) = self.blocks.insert(block, map) {
            self.taken.fetch_sub(weight(&old), Ordering::Relaxed);
        }
    }

    fn remove(&mut self, block: u64) {
        if let Some(old) = self.blocks.remove(&block) {
            self.taken.fetch_sub(weight(&old), Ordering::Relaxed);
        }
    }
}

/// Bytes that a map takes here: its entry in a table that is between half and seven eighths full, its counters, and its extents.
fn weight(map: &BlockMap) -> u64 {
    const ENTRY: usize = 2 * size_of::<(u64, Arc<BlockMap>)>() + 2 * size_of::<usize>() + size_of::<BlockMap>();
    (ENTRY + map.heap()) as u64
}

/// The table. A shard's lock also orders the writers of its blocks: in-place writes hold it shared, everything that
/// changes where sectors are holds it exclusively.
pub struct Overlay {
    shards: [RwLock<Shard>; SHARDS],
    taken: Arc<AtomicU64>,
}

impl Overlay {
    /// A table of these blocks.
    pub fn new(blocks: impl IntoIterator<Item = (u64, Arc<BlockMap>)>) -> Overlay {
        let taken = Arc::new(AtomicU64::new(0));
        let shard = || RwLock::new(Shard { blocks: Blocks::default(), taken: taken.clone() });
        let overlay = Overlay { shards: std::array::from_fn(|_| shard()), taken: taken.clone() };
        for (block, map) in blocks {
            overlay.shard(block).write().insert(block, map);
        }
        overlay
    }

    /// Bytes that all of it takes, roughly.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// In debug builds: counts anew what it takes at least, and panics if less was counted all along. Nobody changes it meanwhile.
    pub fn assert_counted(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let (mut blocks, mut extents) = (0, 0);
        for shard in &self.shards {
            let shard = shard.read();
            blocks += shard.blocks.len();
            extents += shard.blocks.values().map(|map| map.extents().len()).filter(|count| *count > 1).sum::<usize>();
        }
        // Lists may have room for more.
        let (least, taken) = (blocks * 112 + extents * size_of::<Extent>(), self.taken() as usize);
        assert!(taken >= least, "{taken} bytes of {blocks} blocks with {extents} extents in lists");
    }

    /// The shard of a block.
    pub fn shard(&self, block: u64) -> &RwLock<Shard> {
        &self.shards[block as usize % SHARDS]
    }

    /// All blocks, in no order: this may run while changes are stopped, and who wants them sorted has time for it later.
    pub fn capture(&self) -> Vec<(u64, Arc<BlockMap>)> {
        let mut all = Vec::with_capacity(self.shards.iter().map(|s| s.read().blocks.len()).sum());
        for shard in &self.shards {
            all.extend(shard.read().blocks.iter().map(|(b, m)| (*b, m.clone())));
        }
        all
    }

    /// Block indexes in a range, sorted.
    pub fn keys(&self, from: u64, to: u64) -> Vec<u64> {
        let mut keys: Vec<u64> = self
            .shards
            .iter()
            .flat_map(|s| s.read().blocks.keys().copied().filter(|b| (from..to).contains(b)).collect::<Vec<_>>())
            .collect();
        keys.sort_unstable();
        keys
    }

    /// Drops the blocks that are still as they were captured: the tree says the same now.
    pub fn forget(&self, captured: &[(u64, Arc<BlockMap>)]) {
        for (block, map) in captured {
            let mut shard = self.shard(*block).write();
            if shard.get(block).is_some_and(|m| Arc::ptr_eq(m, map)) {
                shard.remove(*block);
            }
        }
    }

    /// Drops blocks from `limit` on.
    pub fn truncate(&self, limit: u64) {
        for shard in &self.shards {
            let mut shard = shard.write();
            let dropped: Vec<u64> = shard.blocks.keys().copied().filter(|block| *block >= limit).collect();
            dropped.into_iter().for_each(|block| shard.remove(block));
        }
    }

    /// Whether no block waits.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|s| s.read().blocks.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocker::VolumeId;
    use crate::format::node::Source;

    fn map(extents: u16) -> Arc<BlockMap> {
        let mut map = BlockMap::default();
        for n in 0..extents {
            map.set(2 * n, 1, Source::Data { owner: VolumeId(1), epoch: 1 });
        }
        Arc::new(map)
    }

    #[test]
    fn what_it_takes_follows_every_change() {
        let overlay = Overlay::new([(5, map(1))]);
        let one = overlay.taken();
        assert!((100..200).contains(&one), "{one} bytes");
        overlay.shard(6).write().insert(6, map(64));
        let with_many = overlay.taken();
        assert!(with_many > one + 64 * 40, "{with_many} bytes");
        overlay.shard(6).write().insert(6, map(1));
        assert_eq!(overlay.taken(), 2 * one);
        let captured = overlay.capture();
        overlay.shard(5).write().insert(5, map(1));
        overlay.forget(&captured);
        assert_eq!((overlay.taken(), overlay.keys(0, 9)), (one, vec![5]));
        overlay.truncate(5);
        assert_eq!((overlay.taken(), overlay.is_empty()), (0, true));
    }

    #[test]
    fn changes_that_hardly_any_journal_tells_of_are_folded_before_they_take_much_memory() {
        use crate::blocker::file::{FileBlocker, FileOptions};
        use crate::digest::Digest;
        use crate::format::header::Kind;
        use crate::limits::MAX_OVERLAY;
        use crate::store::content::NewObject;
        use crate::store::{Background, CloneOptions, InitOptions, Store, StoreOptions};
        use crate::volume::Mode;
        let (shift, count) = (16, 700_000u64);
        // Real files: a disk in memory remembers each of the many calls.
        let dir = tempfile::TempDir::new().unwrap();
        let blocker = Arc::new(FileBlocker::init(dir.path(), FileOptions::default()).unwrap());
        Store::init_on(blocker.clone(), &InitOptions { block_size: 1 << shift, ..InitOptions::default() }).unwrap();
        let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
        let store = Store::open_on(blocker, options).unwrap();
        let claim = store.claim("test").unwrap();
        let digest: Digest = claim.put(&[7; 1 << 16]).unwrap().digest;
        let size = count << shift;
        let new = NewObject { name: "object".into(), kind: Kind::Snapshot, size, block_size: None };
        store.create_object(&new, &mut (0..count).map(|_| Ok(digest))).unwrap();
        store.clone_snapshot("object", "clone-1", &CloneOptions::default()).unwrap();
        let volume = store.open_volume("clone-1", Mode::ReadWrite).unwrap();
        let mut most = 0;
        let step = size / 64;
        for at in (0..size).step_by(step as usize) {
            volume.discard(at, step).unwrap();
            most = most.max(volume.inner.overlay.taken());
        }
        assert!(most > MAX_OVERLAY / 2 && most < MAX_OVERLAY, "{most} bytes");
        // All at once.
        store.clone_snapshot("object", "clone-2", &CloneOptions::default()).unwrap();
        let volume = store.open_volume("clone-2", Mode::ReadWrite).unwrap();
        volume.discard(0, size).unwrap();
        let taken = volume.inner.overlay.taken();
        assert!(taken < MAX_OVERLAY, "{taken} bytes");
        assert_eq!(volume.info().unwrap().mapped, 0);
    }
}
