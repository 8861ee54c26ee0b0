//! What differs between two maps: walks only the subtrees that they do not share.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::blocker::Blocker;
use crate::error::Result;
use crate::format::node::{Node, Source};
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
            Some(pointer) => Some(cache.get(blocker, &pointer)?),
            None => None,
        };
        Ok(Side { node, level: level - 1 })
    }
}

/// Blocks whose maps may differ, in order.
pub fn differing_blocks(blocker: &dyn Blocker, cache: &NodeCache, a: &MapView, b: &MapView) -> Result<Vec<u64>> {
    let mut blocks = BTreeSet::new();
    if !same_root(&a.tree.root, &b.tree.root) {
        let top = |view: &MapView| -> Result<Side> {
            Ok(match view.tree.top(blocker, cache)? {
                Some((node, level)) => Side { node: Some(node), level },
                None => Side { node: None, level: 0 },
            })
        };
        let (sa, sb) = (top(a)?, top(b)?);
        let level = sa.level.max(sb.level);
        descend(blocker, cache, level, 0, &sa, &sb, &mut blocks)?;
    }
    blocks.extend(a.overlay.keys().chain(b.overlay.keys()));
    if a.size != b.size {
        // The block in which the shorter one ends is cut there.
        let end = a.size.min(b.size) >> a.tree.block_shift;
        blocks.insert(end);
        // Past that end the shorter one may still hold what a resize cut off, the same as the longer one shows.
        let longer = if a.size < b.size { b } else { a };
        let mut at = end;
        while let Some(block) = longer.next_mapped(blocker, cache, at)? {
            blocks.insert(block);
            at = block + 1;
        }
    }
    Ok(blocks.into_iter().collect())
}

fn same_root(a: &TreeRoot, b: &TreeRoot) -> bool {
    match (a, b) {
        (TreeRoot::Empty, TreeRoot::Empty) => true,
        (TreeRoot::Leaf(x), TreeRoot::Leaf(y)) => x == y,
        (TreeRoot::Node { level: l, pointer: p }, TreeRoot::Node { level: m, pointer: q }) => {
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
    out: &mut BTreeSet<u64>,
) -> Result<()> {
    if a.node.is_none() && b.node.is_none() {
        return Ok(());
    }
    if level == 0 {
        let empty = Vec::new();
        let entries = |s: &Side| match s.node.as_deref() {
            Some(Node::Leaf(e)) => e.clone(),
            _ => empty.clone(),
        };
        let (ea, eb) = (entries(a), entries(b));
        for (slot, entry) in &ea {
            if !eb.iter().any(|(s, e)| s == slot && e == entry) {
                out.insert(base + u64::from(*slot));
            }
        }
        for (slot, _) in &eb {
            if !ea.iter().any(|(s, _)| s == slot) {
                out.insert(base + u64::from(*slot));
            }
        }
        return Ok(());
    }
    let below = span(level - 1);
    for slot in 0..crate::limits::FANOUT as u8 {
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
