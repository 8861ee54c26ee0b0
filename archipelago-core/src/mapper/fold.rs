//! Folds changed blocks into a tree: writes the nodes on their paths and gives the new root. Untouched subtrees stay
//! shared with every other map that names them.

use std::sync::Arc;

use crate::blocker::Blocker;
use crate::error::Result;
use crate::format::header::Root;
use crate::format::node::{self, Entry, Node, Pointer, Source};
use crate::limits::{MAX_INLINE_EXTENTS, MAX_INLINE_ROOT};
use crate::mapper::block_map::BlockMap;
use crate::mapper::cache::NodeCache;
use crate::mapper::pack::PackWriter;
use crate::mapper::tree::{self, Tree, TreeRoot, child, entry_mapped, slot, span};
use crate::planted::{self, Bug};

/// What a fold needs besides the tree.
pub struct Folder<'a> {
    /// Backend.
    pub blocker: &'a dyn Blocker,
    /// Node cache.
    pub cache: &'a NodeCache,
    /// Where new nodes go.
    pub pack: &'a mut PackWriter,
    /// Blocks from here on are dropped (`u64::MAX`: none). For maps that were made smaller.
    pub limit: u64,
}

/// A block and its new map.
pub type Changed = (u64, Arc<BlockMap>);

impl Folder<'_> {
    /// The root of `tree` with `changed` (sorted by block, no block twice) applied. The new nodes are not synced yet.
    pub fn fold(&mut self, tree: &Tree, changed: &[Changed]) -> Result<Root> {
        let changed = &changed[..changed.partition_point(|(b, _)| *b < self.limit)];
        let lost = usize::from(planted::has(Bug::BlockNotFolded)).min(changed.len());
        let changed = &changed[..changed.len() - lost];
        let mut level = tree.level();
        if let Some((last, _)) = changed.iter().rev().find(|(_, m)| !m.is_empty()) {
            while span(level) <= *last {
                level += 1;
            }
        }
        let changed = &changed[..changed.partition_point(|(b, _)| *b < span(level))];
        if level == 0 {
            let old = tree.top(self.blocker, self.cache)?;
            let entries = self.leaf_entries(old.as_ref().map(|(n, _)| &**n), 0, changed, tree.block_shift)?;
            if entries.is_empty() {
                return Ok(Root::Empty);
            }
            let mapped = entries.iter().map(|(_, e)| entry_mapped(e, tree.sectors())).sum();
            let node = Node::Leaf(entries);
            let bytes = node.encode(self.pack.owner(), 0)?;
            if bytes.len() <= MAX_INLINE_ROOT {
                return Ok(Root::Inline(bytes));
            }
            let pointer = self.pack.append(self.blocker, self.cache, node, 0, mapped)?;
            return Ok(Root::Node { level: 0, pointer });
        }
        let pointer = match &tree.root {
            TreeRoot::Node { level: old, pointer, .. } if *old == level => {
                self.node(level, 0, Some(*pointer), changed, tree.block_shift)?
            }
            _ => {
                let old = self.as_pointer(tree)?;
                self.raised(level, tree.level(), old, changed, tree.block_shift)?
            }
        };
        Ok(pointer.map_or(Root::Empty, |pointer| Root::Node { level, pointer }))
    }

    /// An inline root has to become a node before it can have a parent.
    fn as_pointer(&mut self, tree: &Tree) -> Result<Option<Pointer>> {
        match &tree.root {
            TreeRoot::Empty => Ok(None),
            TreeRoot::Node { pointer, .. } => Ok(Some(*pointer)),
            TreeRoot::Leaf(node) => {
                let mapped = tree.mapped();
                Ok(Some(self.pack.append(self.blocker, self.cache, (**node).clone(), 0, mapped)?))
            }
        }
    }

    /// A node of `level` over an old root of a lower level, which is its first descendant.
    fn raised(
        &mut self,
        level: u8,
        old_level: u8,
        old: Option<Pointer>,
        changed: &[Changed],
        shift: u8,
    ) -> Result<Option<Pointer>> {
        if level == old_level {
            return self.node(level, 0, old, changed, shift);
        }
        let below = span(level - 1);
        let cut = changed.partition_point(|(b, _)| *b < below);
        let mut children = Vec::new();
        if let Some(first) = self.raised(level - 1, old_level, old, &changed[..cut], shift)? {
            children.push((0, first));
        }
        self.add_children(&mut children, level, 0, &changed[cut..], shift)?;
        self.inner(level, 0, children)
    }

    /// Children made of changes alone, appended to `children`.
    fn add_children(
        &mut self,
        children: &mut Vec<(u8, Pointer)>,
        level: u8,
        base: u64,
        mut changed: &[Changed],
        shift: u8,
    ) -> Result<()> {
        let below = span(level - 1);
        while let Some((block, _)) = changed.first() {
            let s = slot(*block, level);
            let start = base + u64::from(s) * below;
            let cut = changed.partition_point(|(b, _)| *b < start + below);
            if let Some(pointer) = self.node(level - 1, start, None, &changed[..cut], shift)? {
                children.push((s, pointer));
            }
            changed = &changed[cut..];
        }
        Ok(())
    }

    fn inner(&mut self, level: u8, base: u64, children: Vec<(u8, Pointer)>) -> Result<Option<Pointer>> {
        if children.is_empty() {
            return Ok(None);
        }
        let mapped = children.iter().map(|(_, p)| p.mapped).sum();
        let node = Node::Inner { level, children };
        Ok(Some(self.pack.append(self.blocker, self.cache, node, base, mapped)?))
    }

    /// The node of `level` over `base..`, given what it was and what changed beneath it.
    fn node(
        &mut self,
        level: u8,
        base: u64,
        old: Option<Pointer>,
        changed: &[Changed],
        shift: u8,
    ) -> Result<Option<Pointer>> {
        if base >= self.limit {
            return Ok(None);
        }
        let cut_here = base + span(level) > self.limit;
        if changed.is_empty() && !cut_here {
            return Ok(old);
        }
        let node = match &old {
            Some(pointer) => {
                let node = self.cache.get(self.blocker, pointer)?;
                tree::check_level(&node, level, pointer)?;
                Some(node)
            }
            None => None,
        };
        if level == 0 {
            let entries = self.leaf_entries(node.as_deref(), base, changed, shift)?;
            if entries.is_empty() {
                return Ok(None);
            }
            let sectors = 1 << (u32::from(shift) - crate::limits::SECTOR_SHIFT);
            let mapped = entries.iter().map(|(_, e)| entry_mapped(e, sectors)).sum();
            return Ok(Some(self.pack.append(self.blocker, self.cache, Node::Leaf(entries), base, mapped)?));
        }
        let below = span(level - 1);
        let mut children = Vec::new();
        let mut rest = changed;
        for s in 0..crate::limits::FANOUT as u8 {
            let start = base + u64::from(s) * below;
            let cut = rest.partition_point(|(b, _)| *b < start + below);
            let (mine, others) = rest.split_at(cut);
            rest = others;
            let old_child = node.as_deref().and_then(|n| child(n, s)).copied();
            if old_child.is_none() && mine.is_empty() {
                continue;
            }
            if let Some(pointer) = self.node(level - 1, start, old_child, mine, shift)? {
                children.push((s, pointer));
            }
        }
        self.inner(level, base, children)
    }

    /// Entries of a leaf after the changes.
    fn leaf_entries(
        &mut self,
        old: Option<&Node>,
        base: u64,
        changed: &[Changed],
        shift: u8,
    ) -> Result<Vec<(u8, Entry)>> {
        let empty = Vec::new();
        let old = match old {
            Some(Node::Leaf(entries)) => entries,
            _ => &empty,
        };
        let mut entries = Vec::with_capacity(old.len().max(changed.len()));
        let mut changed = changed.iter().peekable();
        let mut old = old.iter().peekable();
        loop {
            let next_old = old.peek().map(|(s, _)| base + u64::from(*s));
            let next_new = changed.peek().map(|(b, _)| *b);
            match (next_old, next_new) {
                (None, None) => break,
                (Some(o), n) if n.is_none_or(|n| o < n) => {
                    if let Some((s, entry)) = old.next()
                        && o < self.limit
                    {
                        entries.push((*s, entry.clone()));
                    }
                }
                (o, _) => {
                    if o == next_new {
                        old.next();
                    }
                    if let Some((block, map)) = changed.next()
                        && let Some(entry) = self.entry(*block, map, shift)?
                    {
                        entries.push((slot(*block, 0), entry));
                    }
                }
            }
        }
        Ok(entries)
    }

    /// The stored entry of a block; its extent node is written if it needs one.
    fn entry(&mut self, block: u64, map: &BlockMap, shift: u8) -> Result<Option<Entry>> {
        let sectors = 1u16 << (u32::from(shift) - crate::limits::SECTOR_SHIFT);
        match map.extents() {
            [] => Ok(None),
            [only] if only.len == sectors && matches!(only.source, Source::Data { .. } | Source::Content(_)) => {
                match only.source {
                    Source::Data { owner, epoch } => Ok(Some(Entry::Owned { owner, epoch })),
                    Source::Content(digest) => Ok(Some(Entry::Content(digest))),
                    _ => Ok(None),
                }
            }
            extents if node::inline_size(extents) <= MAX_INLINE_EXTENTS => Ok(Some(Entry::Extents(extents.to_vec()))),
            extents => {
                let node = Node::Extents(extents.to_vec());
                let pointer = self.pack.append(self.blocker, self.cache, node, block, map.mapped())?;
                Ok(Some(Entry::ExtentNode(pointer)))
            }
        }
    }
}
