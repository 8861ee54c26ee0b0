//! A map as it is at one moment: a tree, and the changes not yet folded into it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::blocker::Blocker;
use crate::error::Result;
use crate::format::node::{Extent, Source};
use crate::limits::SECTOR_SHIFT;
use crate::mapper::block_map::BlockMap;
use crate::mapper::cache::NodeCache;
use crate::mapper::tree::Tree;

/// A map that does not change while it is looked at.
pub struct MapView {
    /// What is folded.
    pub tree: Tree,
    /// What is not: block index to its whole map.
    pub overlay: BTreeMap<u64, Arc<BlockMap>>,
    /// Size in bytes.
    pub size: u64,
    /// The tree still holds what lies past the end.
    pub shrunk: bool,
}

impl MapView {
    /// Blocks that the size covers.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(1 << self.tree.block_shift)
    }

    /// The map of one block, cut at the end of the volume.
    pub fn block(&self, blocker: &dyn Blocker, cache: &NodeCache, block: u64) -> Result<BlockMap> {
        let mut map = match self.overlay.get(&block) {
            Some(map) => (**map).clone(),
            None => self.tree.lookup(blocker, cache, block)?,
        };
        let end = self.size.div_ceil(1 << SECTOR_SHIFT);
        let first = block << (u32::from(self.tree.block_shift) - SECTOR_SHIFT);
        if first + u64::from(self.tree.sectors()) > end {
            map.clip(end.saturating_sub(first) as u16);
        }
        Ok(map)
    }

    /// The first block from `from` on that may be mapped.
    pub fn next_mapped(&self, blocker: &dyn Blocker, cache: &NodeCache, from: u64) -> Result<Option<u64>> {
        let mut at = from;
        loop {
            let in_tree = self.tree.next_mapped(blocker, cache, at)?;
            let in_overlay = self.overlay.range(at..).next().map(|(b, _)| *b);
            let next = match (in_tree, in_overlay) {
                (Some(a), Some(b)) => a.min(b),
                (Some(a), None) | (None, Some(a)) => a,
                (None, None) => return Ok(None),
            };
            if next >= self.blocks() {
                return Ok(None);
            }
            if self.overlay.get(&next).is_some_and(|m| m.is_empty()) {
                at = next + 1;
                continue;
            }
            return Ok(Some(next));
        }
    }

    /// Sectors mapped. Cheap when nothing is unfolded.
    pub fn mapped(&self, blocker: &dyn Blocker, cache: &NodeCache) -> Result<u64> {
        if self.shrunk {
            let mut mapped = 0;
            self.runs(blocker, cache, 0, self.size.div_ceil(1 << SECTOR_SHIFT), &mut |_, sectors, source| {
                mapped += if source == Source::Zero { 0 } else { sectors };
                Ok(true)
            })?;
            return Ok(mapped);
        }
        let mut mapped = self.tree.mapped();
        for (block, map) in &self.overlay {
            mapped = mapped.saturating_sub(self.tree.lookup(blocker, cache, *block)?.mapped());
            mapped += map.mapped();
        }
        Ok(mapped)
    }

    /// Calls `each` with (first sector of the volume, sectors, source) for `from..to` in order, zeros included.
    /// Neighbouring runs are not joined. `each` returns `false` to stop.
    pub fn runs(
        &self,
        blocker: &dyn Blocker,
        cache: &NodeCache,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, u64, Source) -> Result<bool>,
    ) -> Result<()> {
        let shift = u32::from(self.tree.block_shift) - SECTOR_SHIFT;
        let mut at = from;
        while at < to {
            let block = match self.next_mapped(blocker, cache, at >> shift)? {
                Some(block) if block << shift < to => block,
                _ => {
                    each(at, to - at, Source::Zero)?;
                    return Ok(());
                }
            };
            let start = block << shift;
            if start > at {
                if !each(at, start - at, Source::Zero)? {
                    return Ok(());
                }
                at = start;
            }
            let end = to.min(start + (1 << shift));
            let map = self.block(blocker, cache, block)?;
            for Extent { start: s, len, source } in map.runs((at - start) as u16, (end - at) as u16) {
                if !each(start + u64::from(s), u64::from(len), source)? {
                    return Ok(());
                }
            }
            at = end;
        }
        Ok(())
    }
}
