//! What differs between two maps: walks only the subtrees that they do not share.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::blocker::Blocker;
use crate::error::Result;
use crate::format::node::{Node, Source};
use crate::limits::FANOUT;
use crate::mapper::block_map::{BlockMap, advance};
use crate::mapper::cache::NodeCache;
use crate::mapper::tree::{TreeRoot, child, span};
use crate::mapper::view::MapView;

/// A subtree of one of the two maps.
#[derive(Clone)]
struct Side {
    node: Option<Arc<Node>>,
    level: u8,
}

impl Side {
    /// The child in `slot` as a node of `level - 1`; a side whose tree is lower stands whole in slot 0.
    fn below(&self, blocker: &dyn Blocker, cache: &NodeCache, level: u8, slot: u8) -> Result<Side> {
        if self.level < level {
            let node = if slot == 0 { self.node.clone() } else { None };
            return Ok(Side { node, level: self.level.min(level - 1) });
        }
        let node = match self.node.as_deref().and_then(|n| child(n, slot)) {
            Some(pointer) => Some(cache.get(blocker, pointer)?),
            None => None,
        };
        Ok(Side { node, level: level - 1 })
    }
}

/// Calls `each` with the blocks whose maps may differ, in order. Nothing is kept but what is not folded of the two maps.
pub fn differing_blocks(
    blocker: &dyn Blocker,
    cache: &NodeCache,
    a: &MapView,
    b: &MapView,
    each: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    let mut changed: BTreeSet<u64> = a.overlay.keys().chain(b.overlay.keys()).copied().collect();
    // Past the block in which the shorter one ends, it may still hold what a resize cut off, the same as the longer one
    // shows: there all that the longer one has is another's.
    let end = if a.size == b.size { u64::MAX } else { a.size.min(b.size) >> a.tree.block_shift };
    changed.split_off(&end);
    let mut changed = changed.into_iter().peekable();
    if !same_root(&a.tree.root, &b.tree.root) {
        let top = |view: &MapView| -> Result<Side> {
            Ok(match view.tree.top(blocker, cache)? {
                Some((node, level)) => Side { node: Some(node), level },
                None => Side { node: None, level: 0 },
            })
        };
        let (sa, sb) = (top(a)?, top(b)?);
        let level = sa.level.max(sb.level);
        descend(blocker, cache, level, 0, &sa, &sb, &mut |block| {
            while let Some(before) = changed.next_if(|changed| *changed < block) {
                each(before)?;
            }
            changed.next_if_eq(&block);
            if block < end { each(block) } else { Ok(()) }
        })?;
    }
    changed.try_for_each(&mut *each)?;
    if a.size == b.size {
        return Ok(());
    }
    each(end)?;
    let longer = if a.size < b.size { b } else { a };
    let mut at = end + 1;
    while let Some(block) = longer.next_mapped(blocker, cache, at)? {
        each(block)?;
        at = block + 1;
    }
    Ok(())
}

fn same_root(a: &TreeRoot, b: &TreeRoot) -> bool {
    match (a, b) {
        (TreeRoot::Empty, TreeRoot::Empty) => true,
        (TreeRoot::Leaf(x), TreeRoot::Leaf(y)) => x == y,
        (TreeRoot::Node { level: l, pointer: p, .. }, TreeRoot::Node { level: m, pointer: q, .. }) => {
            l == m && p.hash == q.hash
        }
        _ => false,
    }
}

fn descend(
    blocker: &dyn Blocker,
    cache: &NodeCache,
    level: u8,
    base: u64,
    a: &Side,
    b: &Side,
    out: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    if a.node.is_none() && b.node.is_none() {
        return Ok(());
    }
    if level == 0 {
        let entries = |side: &Side| match side.node.as_deref() {
            Some(Node::Leaf(entries)) => entries.clone(),
            _ => Vec::new(),
        };
        let (ea, eb) = (entries(a), entries(b));
        let (mut ea, mut eb) = (ea.iter().peekable(), eb.iter().peekable());
        for slot in 0..FANOUT as u8 {
            if ea.next_if(|(s, _)| *s == slot) != eb.next_if(|(s, _)| *s == slot) {
                out(base + u64::from(slot))?;
            }
        }
        return Ok(());
    }
    let below = span(level - 1);
    for slot in 0..FANOUT as u8 {
        if a.level == level && b.level == level {
            let pa = a.node.as_deref().and_then(|n| child(n, slot));
            let pb = b.node.as_deref().and_then(|n| child(n, slot));
            if pa.map(|p| p.hash) == pb.map(|p| p.hash) {
                continue;
            }
        }
        let ca = a.below(blocker, cache, level, slot)?;
        let cb = b.below(blocker, cache, level, slot)?;
        descend(blocker, cache, level - 1, base + u64::from(slot) * below, &ca, &cb, out)?;
    }
    Ok(())
}

/// Calls `each` with the runs of `0..sectors` in order: first sector, sectors, source in `a`, source in `b`.
pub fn zip_runs(
    a: &BlockMap,
    b: &BlockMap,
    sectors: u16,
    mut each: impl FnMut(u16, u16, Source, Source) -> Result<()>,
) -> Result<()> {
    let mut at = 0;
    let (mut ra, mut rb) = (a.runs(0, sectors), b.runs(0, sectors));
    let (mut na, mut nb) = (ra.next(), rb.next());
    while let (Some(x), Some(y)) = (na, nb) {
        let end = (x.start + x.len).min(y.start + y.len);
        each(at, end - at, advance(x.source, at - x.start), advance(y.source, at - y.start))?;
        at = end;
        if x.start + x.len == end {
            na = ra.next();
        }
        if y.start + y.len == end {
            nb = rb.next();
        }
    }
    Ok(())
}
