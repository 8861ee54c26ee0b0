//! What measurements reach that is nobody else's business: the loops in which requests spend their time, without what is around them.

use std::sync::Arc;

use crate::blocker::memory::MemoryBlocker;
use crate::blocker::{Blocker, VolumeId};
use crate::checksum;
use crate::error::Result;
use crate::format::bytes;
use crate::format::node::{Entry, Source};
use crate::mapper::block_map::BlockMap;
use crate::mapper::build::TreeBuilder;
use crate::mapper::cache::NodeCache;
use crate::mapper::pack::PackWriter;
use crate::mapper::tree::Tree;

/// Bytes of nodes that [`Lookups`] keeps: all of them.
const CACHE: u64 = 1 << 30;
/// Exponent of the block size of both.
const BLOCK_SHIFT: u8 = 22;
/// Whose the data is.
const OWNER: VolumeId = VolumeId(1000);

/// The checksum of stored bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    checksum::crc32c(bytes)
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes::is_zero(bytes)
}

/// A tree whose nodes are all in memory.
pub struct Lookups {
    blocker: Arc<MemoryBlocker>,
    cache: NodeCache,
    tree: Tree,
}

impl Lookups {
    /// Of so many blocks, each of which is in one place.
    pub fn new(blocks: u64) -> Result<Lookups> {
        let (blocker, cache) = (MemoryBlocker::new(), NodeCache::new(CACHE));
        let pack = PackWriter::open(&*blocker, OWNER)?;
        let mut builder = TreeBuilder::new(&*blocker, &cache, pack, BlockOf::SECTORS);
        // Of another epoch each, as after many snapshots.
        (0..blocks).try_for_each(|block| builder.push(block, Entry::Owned { owner: OWNER, epoch: block % 100 + 1 }))?;
        let tree = Tree::from_root("a tree", &builder.finish()?, BLOCK_SHIFT)?;
        let lookups = Lookups { blocker, cache, tree };
        (0..blocks).try_for_each(|block| lookups.find(block).map(|_| ()))?;
        Ok(lookups)
    }

    /// In how many places a block is.
    pub fn find(&self, block: u64) -> Result<usize> {
        let blocker: &dyn Blocker = &*self.blocker;
        self.tree.see(blocker, &self.cache, block, |extents| extents.len())
    }
}

/// The map of one block.
#[derive(Clone)]
pub struct BlockOf(BlockMap);

impl BlockOf {
    /// Sectors of it.
    pub const SECTORS: u16 = 1 << (BLOCK_SHIFT - 12);

    /// In so many places, all of the same length.
    pub fn pieces(count: u16) -> BlockOf {
        let mut map = BlockMap::default();
        let len = BlockOf::SECTORS / count;
        for piece in 0..count {
            map.set(piece * len, len, Source::Data { owner: OWNER, epoch: u64::from(piece) + 1 });
        }
        BlockOf(map)
    }

    /// Puts some sectors elsewhere; in how many places the block is then.
    pub fn set(&mut self, start: u16, len: u16) -> usize {
        self.0.set(start, len, Source::Data { owner: OWNER, epoch: u64::MAX });
        self.0.extents().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_does_what_it_says() {
        let lookups = Lookups::new(20_000).unwrap();
        assert!([0, 127, 128, 19_999].iter().all(|block| lookups.find(*block).unwrap() == 1));
        assert_eq!(lookups.find(20_000).unwrap(), 0);
        assert_eq!(lookups.tree.level(), 2);
        let mut block = BlockOf::pieces(16);
        assert_eq!((block.set(10, 1), block.set(11, 1), block.set(0, 1)), (18, 18, 19));
        assert!(is_zero(&[0; 100]) && !is_zero(&[0, 1]));
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
