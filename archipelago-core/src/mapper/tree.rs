//! The tree of a map: from a block's index to its extents.

use std::sync::{Arc, OnceLock};

use crate::blocker::{Blocker, Object};
use crate::error::{Error, Result};
use crate::format::header::Root;
use crate::format::node::{Entry, Extent, Node, Pointer, Source};
use crate::limits::{FANOUT, FANOUT_SHIFT, SECTOR_SHIFT};
use crate::mapper::block_map::BlockMap;
use crate::mapper::cache::NodeCache;

/// The root, ready to walk.
#[derive(Clone, Debug)]
pub enum TreeRoot {
    /// Nothing mapped.
    Empty,
    /// The one leaf.
    Leaf(Arc<Node>),
    /// The top node.
    Node {
        /// Its level.
        level: u8,
        /// Where it is.
        pointer: Pointer,
        /// The node, once it was needed: every lookup begins there. One for each open volume, some 10 KiB.
        node: Arc<OnceLock<Arc<Node>>>,
    },
}

/// A tree. Cheap to clone; never changes.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The root.
    pub root: TreeRoot,
    /// `log2` of the block size.
    pub block_shift: u8,
}

/// Blocks beneath a node of this level.
pub fn span(level: u8) -> u64 {
    1 << (FANOUT_SHIFT * (u32::from(level) + 1)).min(63)
}

/// Index of a block's slot in its node of this level.
pub fn slot(block: u64, level: u8) -> u8 {
    ((block >> (FANOUT_SHIFT * u32::from(level))) & (FANOUT - 1)) as u8
}

/// The map of one block as the tree has it: borrowed from the node cache, because a read must not copy it.
pub enum Stored {
    /// Nothing mapped.
    Empty,
    /// The whole block in one place.
    Whole([Extent; 1]),
    /// Entry number `.1` of a leaf, which is a list of extents.
    Inline(Arc<Node>, usize),
    /// An extent node.
    Listed(Arc<Node>),
}

impl Stored {
    /// The extents of the block.
    pub fn extents(&self) -> &[Extent] {
        match self {
            Stored::Empty => &[],
            Stored::Whole(extent) => extent,
            Stored::Inline(node, i) => match &**node {
                Node::Leaf(entries) => match entries.get(*i) {
                    Some((_, Entry::Extents(extents))) => extents,
                    _ => &[],
                },
                _ => &[],
            },
            Stored::Listed(node) => match &**node {
                Node::Extents(extents) => extents,
                _ => &[],
            },
        }
    }
}

impl Tree {
    /// From a header's root.
    pub fn from_root(object: &str, root: &Root, block_shift: u8) -> Result<Tree> {
        let root = match root {
            Root::Empty => TreeRoot::Empty,
            Root::Inline(bytes) => match Node::decode(object, bytes)? {
                (node @ Node::Leaf(_), 0) => TreeRoot::Leaf(Arc::new(node)),
                _ => return Err(Error::damaged(object, "its inline root is no first leaf")),
            },
            Root::Node { level, pointer } => TreeRoot::Node { level: *level, pointer: *pointer, node: Arc::default() },
        };
        Ok(Tree { root, block_shift })
    }

    /// Sectors in a block.
    pub fn sectors(&self) -> u16 {
        1 << (u32::from(self.block_shift) - SECTOR_SHIFT)
    }

    /// Level of the root; 0 for a leaf or an empty tree.
    pub fn level(&self) -> u8 {
        match self.root {
            TreeRoot::Node { level, .. } => level,
            _ => 0,
        }
    }

    /// Sectors mapped in the whole tree, as stored (a clipped tail still counts until it is folded).
    pub fn mapped(&self) -> u64 {
        match &self.root {
            TreeRoot::Empty => 0,
            TreeRoot::Leaf(node) => match &**node {
                Node::Leaf(entries) => entries.iter().map(|(_, e)| entry_mapped(e, self.sectors())).sum(),
                _ => 0,
            },
            TreeRoot::Node { pointer, .. } => pointer.mapped,
        }
    }

    /// The root node and its level, if there is one.
    pub fn top(&self, blocker: &dyn Blocker, cache: &NodeCache) -> Result<Option<(Arc<Node>, u8)>> {
        match &self.root {
            TreeRoot::Empty => Ok(None),
            TreeRoot::Leaf(node) => Ok(Some((node.clone(), 0))),
            TreeRoot::Node { level, pointer, node } => {
                let top = match node.get() {
                    Some(node) => node.clone(),
                    None => {
                        let read = cache.get(blocker, pointer)?;
                        check_level(&read, *level, pointer)?;
                        node.get_or_init(|| read).clone()
                    }
                };
                Ok(Some((top, *level)))
            }
        }
    }

    /// The leaf that holds a block, if any.
    fn leaf(&self, blocker: &dyn Blocker, cache: &NodeCache, block: u64) -> Result<Option<Arc<Node>>> {
        let Some((mut node, mut level)) = self.top(blocker, cache)? else { return Ok(None) };
        if block >= span(level) {
            return Ok(None);
        }
        while level > 0 {
            let Some(pointer) = child(&node, slot(block, level)) else { return Ok(None) };
            let below = cache.get(blocker, pointer)?;
            level -= 1;
            check_level(&below, level, pointer)?;
            node = below;
        }
        Ok(Some(node))
    }

    /// Calls `see` with the extents of a block as stored: what [`Tree::find`] says, for who needs it for a moment only.
    #[inline(always)]
    pub fn see<T>(
        &self,
        blocker: &dyn Blocker,
        cache: &NodeCache,
        block: u64,
        see: impl FnOnce(&[Extent]) -> T,
    ) -> Result<T> {
        let held;
        let leaf = match &self.root {
            TreeRoot::Leaf(node) if block < span(0) => node,
            _ => match self.leaf(blocker, cache, block)? {
                Some(leaf) => {
                    held = leaf;
                    &held
                }
                None => return Ok(see(&[])),
            },
        };
        let whole = |source| [Extent { start: 0, len: self.sectors(), source }];
        match entry(leaf, slot(block, 0)) {
            None => Ok(see(&[])),
            Some(Entry::Owned { owner, epoch }) => Ok(see(&whole(Source::Data { owner: *owner, epoch: *epoch }))),
            Some(Entry::Content(digest)) => Ok(see(&whole(Source::Content(*digest)))),
            Some(Entry::Extents(extents)) => {
                self.check_end(extents, block)?;
                Ok(see(extents))
            }
            Some(Entry::ExtentNode(pointer)) => {
                let node = listed(cache.get(blocker, pointer)?, pointer)?;
                let stored = Stored::Listed(node);
                self.check_end(stored.extents(), block)?;
                Ok(see(stored.extents()))
            }
        }
    }

    /// Extents are sorted; the decoder cannot know how long a block is.
    fn check_end(&self, extents: &[Extent], block: u64) -> Result<()> {
        match extents.last() {
            Some(last) if u32::from(last.start) + u32::from(last.len) > u32::from(self.sectors()) => {
                Err(reaches_past(block))
            }
            _ => Ok(()),
        }
    }

    /// The map of one block as stored.
    pub fn find(&self, blocker: &dyn Blocker, cache: &NodeCache, block: u64) -> Result<Stored> {
        let Some(leaf) = self.leaf(blocker, cache, block)? else { return Ok(Stored::Empty) };
        let Node::Leaf(entries) = &*leaf else { return Ok(Stored::Empty) };
        let Ok(i) = entries.binary_search_by_key(&slot(block, 0), |(s, _)| *s) else { return Ok(Stored::Empty) };
        let stored = match &entries[i].1 {
            Entry::Owned { owner, epoch } => {
                let source = Source::Data { owner: *owner, epoch: *epoch };
                Stored::Whole([Extent { start: 0, len: self.sectors(), source }])
            }
            Entry::Content(digest) => {
                Stored::Whole([Extent { start: 0, len: self.sectors(), source: Source::Content(*digest) }])
            }
            Entry::Extents(_) => Stored::Inline(leaf.clone(), i),
            Entry::ExtentNode(pointer) => Stored::Listed(listed(cache.get(blocker, pointer)?, pointer)?),
        };
        self.check_end(stored.extents(), block)?;
        Ok(stored)
    }

    /// The map of one block; empty if nothing of it is mapped.
    pub fn lookup(&self, blocker: &dyn Blocker, cache: &NodeCache, block: u64) -> Result<BlockMap> {
        Ok(BlockMap::from_extents(self.find(blocker, cache, block)?.extents()))
    }

    /// The first block from `from` on that has an entry.
    pub fn next_mapped(&self, blocker: &dyn Blocker, cache: &NodeCache, from: u64) -> Result<Option<u64>> {
        let Some((node, level)) = self.top(blocker, cache)? else { return Ok(None) };
        if from >= span(level) {
            return Ok(None);
        }
        next_in(blocker, cache, &node, level, 0, from)
    }
}

#[cold]
fn reaches_past(block: u64) -> Error {
    Error::damaged("a tree node", format!("an extent reaches past block {block}"))
}

/// A node that must be a list of extents.
fn listed(node: Arc<Node>, pointer: &Pointer) -> Result<Arc<Node>> {
    if matches!(*node, Node::Extents(_)) {
        return Ok(node);
    }
    let object = Object::Pack(pointer.owner, pointer.pack).to_string();
    Err(Error::damaged(object, "a tree node where an extent list should be"))
}

/// The entry in a slot of a leaf.
fn entry(node: &Node, slot: u8) -> Option<&Entry> {
    match node {
        Node::Leaf(entries) => in_slot(entries, slot),
        _ => None,
    }
}

/// Sectors mapped by a stored entry.
pub fn entry_mapped(entry: &Entry, sectors: u16) -> u64 {
    match entry {
        Entry::Owned { .. } | Entry::Content(_) => u64::from(sectors),
        Entry::Extents(list) => list.iter().map(|e| u64::from(e.len)).sum(),
        Entry::ExtentNode(pointer) => pointer.mapped,
    }
}

/// The child in a slot of an inner node.
pub fn child(node: &Node, slot: u8) -> Option<&Pointer> {
    match node {
        Node::Inner { children, .. } => in_slot(children, slot),
        _ => None,
    }
}

/// What is in a slot of a node. In a node without gaps it is where its number says.
fn in_slot<T>(entries: &[(u8, T)], slot: u8) -> Option<&T> {
    match entries.get(usize::from(slot)) {
        Some((there, entry)) if *there == slot => Some(entry),
        _ => entries.binary_search_by_key(&slot, |(s, _)| *s).ok().map(|i| &entries[i].1),
    }
}

/// A node must be what its parent's level says.
#[inline]
pub fn check_level(node: &Node, level: u8, pointer: &Pointer) -> Result<()> {
    let is = match node {
        Node::Leaf(_) => level == 0,
        Node::Inner { level: found, .. } => *found == level,
        Node::Extents(_) => false,
    };
    if is { Ok(()) } else { Err(wrong_level(level, pointer)) }
}

#[cold]
fn wrong_level(level: u8, pointer: &Pointer) -> Error {
    Error::damaged(
        Object::Pack(pointer.owner, pointer.pack).to_string(),
        format!("the node at {} is not of level {level}", pointer.offset),
    )
}

fn next_in(
    blocker: &dyn Blocker,
    cache: &NodeCache,
    node: &Node,
    level: u8,
    base: u64,
    from: u64,
) -> Result<Option<u64>> {
    match node {
        Node::Leaf(entries) => Ok(entries.iter().map(|(s, _)| base + u64::from(*s)).find(|b| *b >= from)),
        Node::Inner { children, .. } => {
            let below = span(level - 1);
            for (s, pointer) in children {
                let start = base + u64::from(*s) * below;
                if start + below <= from {
                    continue;
                }
                let node = cache.get(blocker, pointer)?;
                check_level(&node, level - 1, pointer)?;
                if let Some(found) = next_in(blocker, cache, &node, level - 1, start, from.max(start))? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        }
        Node::Extents(_) => Ok(None),
    }
}
