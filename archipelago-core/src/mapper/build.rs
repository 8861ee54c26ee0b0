//! Builds a tree from entries in the order of their blocks: one node per level in memory, whatever the size of the map.

use crate::blocker::Blocker;
use crate::error::{Error, Result};
use crate::format::header::Root;
use crate::format::node::{Entry, Node, Pointer};
use crate::limits::{FANOUT, MAX_INLINE_ROOT};
use crate::mapper::cache::NodeCache;
use crate::mapper::pack::PackWriter;
use crate::mapper::tree::{entry_mapped, slot, span};

/// A tree in the making.
pub struct TreeBuilder<'a> {
    blocker: &'a dyn Blocker,
    cache: &'a NodeCache,
    pack: PackWriter,
    sectors: u16,
    /// Entries of the leaf that is filled, and index of its first block.
    leaf: Vec<(u8, Entry)>,
    base: u64,
    /// From level 1 up: children of the node that is filled, and index of its first block.
    open: Vec<(Vec<(u8, Pointer)>, u64)>,
    next: u64,
}

impl<'a> TreeBuilder<'a> {
    /// A tree whose nodes go into this pack, for blocks of so many sectors.
    pub fn new(blocker: &'a dyn Blocker, cache: &'a NodeCache, pack: PackWriter, sectors: u16) -> TreeBuilder<'a> {
        TreeBuilder { blocker, cache, pack, sectors, leaf: Vec::new(), base: 0, open: Vec::new(), next: 0 }
    }

    /// The entry of a block behind all before.
    pub fn push(&mut self, block: u64, entry: Entry) -> Result<()> {
        if block < self.next {
            return Err(Error::damaged("a tree", format!("block {block} comes after block {}", self.next)));
        }
        self.next = block + 1;
        let base = block - block % FANOUT;
        if base != self.base {
            self.end_leaf()?;
            self.base = base;
        }
        self.leaf.push((slot(block, 0), entry));
        Ok(())
    }

    fn end_leaf(&mut self) -> Result<()> {
        if self.leaf.is_empty() {
            return Ok(());
        }
        let entries = std::mem::take(&mut self.leaf);
        let mapped = entries.iter().map(|(_, e)| entry_mapped(e, self.sectors)).sum();
        let pointer = self.pack.append(self.blocker, self.cache, Node::Leaf(entries), self.base, mapped)?;
        self.add(1, self.base, pointer)
    }

    /// A child of the node of `level`; `first` is the first block beneath it.
    fn add(&mut self, level: u8, first: u64, pointer: Pointer) -> Result<()> {
        let base = first - first % span(level);
        let at = usize::from(level) - 1;
        if at == self.open.len() {
            self.open.push((Vec::new(), base));
        }
        if self.open[at].1 != base {
            self.end_node(level)?;
            self.open[at].1 = base;
        }
        self.open[at].0.push((slot(first, level), pointer));
        Ok(())
    }

    fn end_node(&mut self, level: u8) -> Result<()> {
        let (children, base) = &mut self.open[usize::from(level) - 1];
        let (children, base) = (std::mem::take(children), *base);
        if children.is_empty() {
            return Ok(());
        }
        let pointer = self.inner(level, children, base)?;
        self.add(level + 1, base, pointer)
    }

    fn inner(&mut self, level: u8, children: Vec<(u8, Pointer)>, base: u64) -> Result<Pointer> {
        let mapped = children.iter().map(|(_, p)| p.mapped).sum();
        self.pack.append(self.blocker, self.cache, Node::Inner { level, children }, base, mapped)
    }

    /// The root, when all of it is durable.
    pub fn finish(mut self) -> Result<Root> {
        let Some(last) = self.next.checked_sub(1) else { return Ok(Root::Empty) };
        if last < FANOUT {
            let node = Node::Leaf(std::mem::take(&mut self.leaf));
            let bytes = node.encode(self.pack.owner(), 0)?;
            if bytes.len() <= MAX_INLINE_ROOT {
                return Ok(Root::Inline(bytes));
            }
            let Node::Leaf(entries) = &node else { return Ok(Root::Empty) };
            let mapped = entries.iter().map(|(_, e)| entry_mapped(e, self.sectors)).sum();
            let pointer = self.pack.append(self.blocker, self.cache, node, 0, mapped)?;
            self.pack.sync(self.blocker)?;
            return Ok(Root::Node { level: 0, pointer });
        }
        let mut top = 1;
        while span(top) <= last {
            top += 1;
        }
        self.end_leaf()?;
        for level in 1..top {
            self.end_node(level)?;
        }
        let (children, _) = std::mem::take(&mut self.open[usize::from(top) - 1]);
        let pointer = self.inner(top, children, 0)?;
        self.pack.sync(self.blocker)?;
        Ok(Root::Node { level: top, pointer })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::blocker::VolumeId;
    use crate::blocker::memory::MemoryBlocker;
    use crate::digest::Digest;
    use crate::format::node::{Extent, Source};
    use crate::mapper::block_map::BlockMap;
    use crate::mapper::fold::Folder;
    use crate::mapper::tree::{Tree, TreeRoot};

    /// Hash of the top node, which is the same for the same map exactly if all of it is.
    fn shape(blocker: &dyn Blocker, cache: &NodeCache, root: &Root) -> Vec<(u64, Digest)> {
        let tree = Tree::from_root("t", root, 16).unwrap();
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(block) = tree.next_mapped(blocker, cache, at).unwrap() {
            let map = tree.lookup(blocker, cache, block).unwrap();
            let [Extent { start: 0, len: 16, source: Source::Content(digest) }] = map.extents() else { panic!() };
            found.push((block, *digest));
            at = block + 1;
        }
        found
    }

    #[test]
    fn a_tree_built_in_order_is_the_one_that_a_fold_makes() {
        for list in [
            vec![],
            vec![0],
            vec![5, 127],
            vec![128],
            (0..300).collect(),
            vec![3, 129, 16_383],
            vec![0, 16_384],
            (0..20_000).step_by(7).collect(),
            vec![1, 3_000_000, 3_000_001],
        ] {
            let (blocker, cache) = (MemoryBlocker::new(), NodeCache::new(1 << 20));
            let digest = |block: u64| Digest::of_bytes(&block.to_le_bytes());
            let pack = PackWriter::open(&*blocker, VolumeId(1000)).unwrap();
            let mut builder = TreeBuilder::new(&*blocker, &cache, pack, 16);
            for block in &list {
                builder.push(*block, Entry::Content(digest(*block))).unwrap();
            }
            let built = builder.finish().unwrap();
            let mut pack = PackWriter::open(&*blocker, VolumeId(1001)).unwrap();
            let changed: Vec<_> = list
                .iter()
                .map(|block| {
                    let mut map = BlockMap::default();
                    map.set(0, 16, Source::Content(digest(*block)));
                    (*block, Arc::new(map))
                })
                .collect();
            let empty = Tree { root: TreeRoot::Empty, block_shift: 16 };
            let mut folder = Folder { blocker: &*blocker, cache: &cache, pack: &mut pack, limit: u64::MAX };
            let folded = folder.fold(&empty, &changed).unwrap();
            pack.sync(&*blocker).unwrap();
            match (&built, &folded) {
                (Root::Node { level: a, pointer: p }, Root::Node { level: b, pointer: q }) => {
                    assert_eq!((a, p.mapped), (b, q.mapped));
                }
                (Root::Inline(_), Root::Inline(_)) | (Root::Empty, Root::Empty) => {}
                other => panic!("{other:?}"),
            }
            let expected: Vec<_> = list.iter().map(|block| (*block, digest(*block))).collect();
            assert_eq!(shape(&*blocker, &cache, &built), expected);
            assert_eq!(shape(&*blocker, &cache, &folded), expected);
        }
    }
}
