//! Says what is lost, in terms of maps and byte ranges. Runs only where something is: each map is walked again, past
//! subtrees that are known to be whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::content::Names;
use super::seen::{Seen, key};
use super::types::{Affected, ByteRange};
use super::walk::{Map, Place, place, read};
use crate::blocker::{Blocker, Object};
use crate::digest::Digest;
use crate::error::Result;
use crate::format::header::{Header, Root};
use crate::format::node::{Entry, Extent, Node, Pointer, Source};
use crate::limits::{MAX_AFFECTED_RANGES, MAX_NODE, SECTOR, SECTOR_SHIFT};
use crate::mapper::block_map::BlockMap;
use crate::mapper::tree::span;
use crate::store::content::Contents;

/// What is known to be lost; each with the number of its finding.
#[derive(Default)]
pub(super) struct Lost {
    /// Nodes that cannot be used.
    pub(super) nodes: HashMap<Place, usize>,
    /// Stretches of objects that are not there, or not what was written: from, to, finding; in order and disjoint.
    pub(super) stretches: HashMap<Object, Vec<(u64, u64, usize)>>,
    /// Digests that lead nowhere.
    pub(super) digests: HashMap<Digest, usize>,
}

impl Lost {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.stretches.is_empty() && self.digests.is_empty()
    }
}

/// Looks for what is lost in one map after the other.
pub(super) struct Locator<'a> {
    blocker: &'a dyn Blocker,
    contents: &'a Contents,
    lost: &'a Lost,
    names: Names<'a>,
    /// Subtrees with nothing lost beneath.
    whole: Seen,
    buffer: Vec<u8>,
}

/// Ranges that one map loses, by finding.
type Losses = BTreeMap<usize, (Vec<ByteRange>, bool)>;

struct Search<'m> {
    map: Map,
    size: u64,
    overlay: &'m BTreeMap<u64, Arc<BlockMap>>,
    losses: Losses,
}

impl Search<'_> {
    /// Bytes `from..to` are lost to finding `number`.
    fn lose(&mut self, number: usize, from: u64, to: u64) {
        // Named even where no byte of the map is lost: a map may hold what a resize cut off.
        let (ranges, more) = self.losses.entry(number).or_default();
        let to = to.min(self.size);
        if from >= to {
            return;
        }
        let full = ranges.len() >= MAX_AFFECTED_RANGES;
        match ranges.last_mut() {
            Some(last) if last.offset + last.len == from => last.len += to - from,
            _ if full => *more = true,
            _ => ranges.push(ByteRange { offset: from, len: to - from }),
        }
    }

    /// Blocks `from..to` are lost, but for those that are not read through the tree.
    fn lose_blocks(&mut self, number: usize, from: u64, to: u64) {
        let shift = self.map.shift;
        let to = to.min(self.size.div_ceil(1 << shift));
        let mut at = from;
        let kept: Vec<u64> = if from < to { self.overlay.range(from..to).map(|(b, _)| *b).collect() } else { vec![] };
        for block in kept {
            self.lose(number, at << shift, block << shift);
            at = block + 1;
        }
        self.lose(number, at << shift, to << shift);
    }
}

impl<'a> Locator<'a> {
    pub(super) fn new(blocker: &'a dyn Blocker, contents: &'a Contents, lost: &'a Lost) -> Locator<'a> {
        let names = Names::new(blocker);
        Locator { blocker, contents, lost, names, whole: Seen::new(), buffer: vec![0; MAX_NODE] }
    }

    /// What a map loses, by finding. `overlay` is what is not folded into its tree.
    pub(super) fn find(&mut self, header: &Header, overlay: &BTreeMap<u64, Arc<BlockMap>>) -> Vec<(usize, Affected)> {
        let map = Map { id: header.id, shift: header.block_shift };
        let mut search = Search { map, size: header.size, overlay, losses: Losses::new() };
        match &header.root {
            Root::Empty => {}
            Root::Inline(bytes) => {
                if let Ok((Node::Leaf(entries), _)) = Node::decode("", bytes) {
                    self.leaf(&mut search, 0, &entries);
                }
            }
            Root::Node { level, pointer } => {
                self.node(&mut search, pointer, Some(*level), 0);
            }
        }
        for (block, blocks) in overlay {
            self.extents(&mut search, *block, blocks.extents());
        }
        let describe = |(number, (mut ranges, more)): (usize, (Vec<ByteRange>, bool))| {
            ranges.sort_unstable();
            let (name, id) = (header.name.clone(), header.id.to_string());
            (number, Affected { name, id, removed: header.removed, whole: false, ranges, more })
        };
        search.losses.into_iter().map(describe).collect()
    }

    /// Returns whether all beneath is there.
    fn node(&mut self, search: &mut Search<'_>, pointer: &Pointer, level: Option<u8>, base: u64) -> bool {
        if let Some(number) = self.lost.nodes.get(&place(pointer)) {
            let blocks = level.map_or(1, span);
            search.lose_blocks(*number, base, base + blocks);
            return false;
        }
        let key = key(pointer, level.unwrap_or(u8::MAX), base, search.map.shift);
        if self.whole.has(key) {
            return true;
        }
        // What cannot be read now and could be before went away with its map.
        let Ok(node) = read(self.blocker, &mut self.buffer, pointer, level, base) else { return false };
        let whole = match node {
            Node::Leaf(entries) => self.leaf(search, base, &entries),
            Node::Inner { level, children } => {
                let below = span(level - 1);
                let mut whole = true;
                for (slot, child) in &children {
                    whole &= self.node(search, child, Some(level - 1), base + u64::from(*slot) * below);
                }
                whole
            }
            Node::Extents(list) => self.tree_extents(search, base, &list),
        };
        if whole {
            self.whole.add(key);
        }
        whole
    }

    fn leaf(&mut self, search: &mut Search<'_>, base: u64, entries: &[(u8, Entry)]) -> bool {
        let mut whole = true;
        for (slot, entry) in entries {
            let block = base + u64::from(*slot);
            whole &= match entry {
                Entry::Owned { owner, epoch } => {
                    let source = Source::Data { owner: *owner, epoch: *epoch };
                    self.tree_extents(search, block, &[Extent { start: 0, len: search.map.sectors(), source }])
                }
                Entry::Extents(list) => self.tree_extents(search, block, list),
                Entry::ExtentNode(pointer) => self.node(search, pointer, None, block),
                Entry::Content(digest) => {
                    let source = Source::Content(*digest);
                    self.tree_extents(search, block, &[Extent { start: 0, len: search.map.sectors(), source }])
                }
            };
        }
        whole
    }

    /// Extents of the tree, which the overlay hides where it has the block.
    fn tree_extents(&mut self, search: &mut Search<'_>, block: u64, list: &[Extent]) -> bool {
        if search.overlay.contains_key(&block) {
            // Not known to be whole for others.
            return false;
        }
        self.extents(search, block, list)
    }

    fn extents(&mut self, search: &mut Search<'_>, block: u64, list: &[Extent]) -> bool {
        let mut whole = true;
        for extent in list {
            let first = (block << search.map.shift) + (u64::from(extent.start) << SECTOR_SHIFT);
            let len = u64::from(extent.len) * SECTOR;
            // A slot that was moved is as good as its digest.
            let source = match extent.source {
                Source::Data { owner, epoch } => match self.names.moved(owner, epoch, block) {
                    Some(digest) => Source::Content(digest),
                    None => extent.source,
                },
                other => other,
            };
            let (object, at, len) = match source {
                Source::Zero => continue,
                Source::Content(digest) => {
                    if let Some(number) = self.lost.digests.get(&digest) {
                        whole = false;
                        search.lose(*number, first, first + len);
                        continue;
                    }
                    let Ok(place) = self.contents.resolve(self.blocker, digest) else { continue };
                    match place.part(u64::from(extent.start) << SECTOR_SHIFT, len as usize) {
                        (Some((object, at)), there) => (object, at, there as u64),
                        (None, _) => continue,
                    }
                }
                Source::Data { owner, epoch } => (Object::Data(owner, epoch), first, len),
                Source::Log { owner, segment, offset, .. } => (Object::Log(owner, segment), u64::from(offset), len),
            };
            let stretches = self.lost.stretches.get(&object).map_or(&[][..], |all| &all[..]);
            let first_of = stretches.partition_point(|(_, to, _)| *to <= at);
            for (from, to, number) in stretches[first_of..].iter().take_while(|(from, ..)| *from < at + len) {
                let (from, to) = ((*from).max(at), (*to).min(at + len));
                if from < to {
                    whole = false;
                    // A sector is read whole or not at all.
                    let start = (first + (from - at)) & !(SECTOR - 1);
                    search.lose(*number, start, first + (to - at));
                }
            }
        }
        whole
    }
}

/// A map that cannot be opened at all.
pub(super) fn all_of(header: &Header) -> Affected {
    let ranges = vec![ByteRange { offset: 0, len: header.size }];
    Affected {
        name: header.name.clone(),
        id: header.id.to_string(),
        removed: header.removed,
        whole: true,
        ranges,
        more: false,
    }
}

/// What is not folded. A journal that cannot be replayed is a finding of its own, and keeps nobody from looking at the tree.
pub(super) fn overlay_of(loaded: Result<crate::mapper::replay::Replayed>) -> BTreeMap<u64, Arc<BlockMap>> {
    loaded.map_or_else(|_| BTreeMap::new(), |r| r.view.overlay)
}
