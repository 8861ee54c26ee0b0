//! What the maps of a store need, by docs/format.md and "Collection" in docs/architecture.md: each node, sector and digest that a
//! header leads to, and of journals all that their records say. Walks plainly, and shares nothing with the collector.

use std::collections::{BTreeMap, BTreeSet};

use archipelago_core::Digest;
use archipelago_core::blocker::{Object, VolumeId};
use archipelago_core::format::header::{Header, Root, SealedRange};
use archipelago_core::format::log::{RecordHead, RunKind};
use archipelago_core::format::node::{self, Entry, Extent, Node, Pointer, Source};
use archipelago_core::limits::{MAX_INLINE_EXTENTS, MAX_INLINE_ROOT, SECTOR};

use crate::journals::{Journal, sealed};
use crate::perform::{Done, Trouble};
use crate::stock::Stock;

/// What is needed of a data object: sectors, counted from its beginning, and the sectors of a block.
#[derive(Default)]
pub struct Sectors {
    pub per_block: u64,
    pub needed: BTreeSet<u64>,
}

/// See [the module](self).
#[derive(Default)]
pub struct Needs {
    /// Pages of node packs.
    pub packs: BTreeMap<(VolumeId, u32), BTreeSet<u64>>,
    /// Pages of journal segments; `None` of one whose records are still to be replayed: all of it.
    pub logs: BTreeMap<(VolumeId, u32), Option<BTreeSet<u64>>>,
    pub data: BTreeMap<(VolumeId, u64), Sectors>,
    pub digests: BTreeSet<Digest>,
    /// Entries of leaves; what several maps share counts once, but for what lies in headers.
    pub entries: u64,
    /// Bytes to be read to know all this: each node once, and all records of each header's journals.
    pub read: u64,
    /// Nodes that were looked at, with the sectors that they map.
    nodes: BTreeMap<(VolumeId, u32, u32), u64>,
}

/// Where extents are: the map's sectors of a block, and the block.
#[derive(Clone, Copy)]
struct Block {
    number: u64,
    per_block: u64,
}

/// A map says the same in the fewest words: what it says in more makes every reader and every later change of it slower.
fn untidy<T>(what: String) -> Done<T> {
    Err(Trouble::Wrong(format!("a map is not as short as it could be: {what}")))
}

/// Whether an extent continues the one before it.
fn goes_on(before: &Extent, extent: &Extent) -> bool {
    before.start + before.len == extent.start
        && match (before.source, extent.source) {
            (Source::Log { owner, epoch, segment, offset }, next) => {
                next == Source::Log { owner, epoch, segment, offset: offset + u32::from(before.len) * SECTOR as u32 }
            }
            (source @ Source::Data { .. }, next) => source == next,
            _ => false,
        }
}

impl Needs {
    /// Adds what one header leads to.
    pub fn add(&mut self, stock: &Stock, header: &Header) -> Done<()> {
        let per_block = (1 << header.block_shift) / SECTOR;
        match &header.root {
            Root::Empty => {}
            Root::Inline(bytes) => {
                let (root, _) = Node::decode(&header.name, bytes)?;
                self.node(stock, &root, 0, per_block)?;
                if bytes.len() > MAX_INLINE_ROOT {
                    return untidy(format!("the root of {} takes {} bytes of its header", header.name, bytes.len()));
                }
            }
            Root::Node { level, pointer } => {
                self.pointer(stock, pointer, 0, per_block)?;
                if *level == 0 && pointer.len as usize <= MAX_INLINE_ROOT {
                    return untidy(format!("the root of {} is a node of {} bytes", header.name, pointer.len));
                }
            }
        }
        for range in &header.ranges {
            self.sealed(stock, range, per_block)?;
        }
        self.journal(stock, header, per_block)
    }

    fn pointer(&mut self, stock: &Stock, pointer: &Pointer, base: u64, per_block: u64) -> Done<()> {
        let (first, end) = (u64::from(pointer.offset), u64::from(pointer.offset) + u64::from(pointer.len));
        let pages = self.packs.entry((pointer.owner, pointer.pack)).or_default();
        pages.extend(first / SECTOR..end.div_ceil(SECTOR));
        let place = (pointer.owner, pointer.pack, pointer.offset);
        let mapped = match self.nodes.get(&place) {
            Some(mapped) => *mapped,
            None => {
                let pack = Object::Pack(pointer.owner, pointer.pack);
                let mut bytes = vec![0; pointer.len as usize];
                stock.blocker.read(pack, &mut [std::io::IoSliceMut::new(&mut bytes)], first)?;
                node::verify(&pack.to_string(), &bytes, pointer)?;
                self.read += u64::from(pointer.len);
                let (node, _) = Node::decode(&pack.to_string(), &bytes)?;
                let mapped = self.node(stock, &node, base, per_block)?;
                self.nodes.insert(place, mapped);
                mapped
            }
        };
        if mapped != pointer.mapped {
            return untidy(format!("a node maps {mapped} sectors, and what leads to it says {}", pointer.mapped));
        }
        Ok(())
    }

    /// What a node leads to; returns the sectors that it maps.
    fn node(&mut self, stock: &Stock, node: &Node, base: u64, per_block: u64) -> Done<u64> {
        let mut mapped = 0;
        match node {
            Node::Leaf(entries) => {
                self.entries += entries.len() as u64;
                for (slot, entry) in entries {
                    let block = Block { number: base + u64::from(*slot), per_block };
                    mapped += match entry {
                        Entry::Owned { owner, epoch } => {
                            self.sectors((*owner, *epoch), block, 0, per_block);
                            per_block
                        }
                        Entry::Content(digest) => {
                            self.digests.insert(*digest);
                            per_block
                        }
                        Entry::Extents(extents) => {
                            if node::inline_size(extents) > MAX_INLINE_EXTENTS {
                                return untidy(format!("{extents:?} lie in a leaf"));
                            }
                            self.extents(extents, block)?
                        }
                        Entry::ExtentNode(pointer) => {
                            self.pointer(stock, pointer, block.number, per_block)?;
                            pointer.mapped
                        }
                    };
                }
            }
            Node::Inner { level, children } => {
                for (slot, child) in children {
                    self.pointer(stock, child, base + u64::from(*slot) * 128u64.pow(u32::from(*level)), per_block)?;
                    mapped += child.mapped;
                }
            }
            Node::Extents(extents) => {
                if node::inline_size(extents) <= MAX_INLINE_EXTENTS {
                    return untidy(format!("{extents:?} have a node of their own"));
                }
                mapped = self.extents(extents, Block { number: base, per_block })?;
            }
        }
        Ok(mapped)
    }

    /// What extents lead to; returns the sectors that they map.
    fn extents(&mut self, extents: &[Extent], block: Block) -> Done<u64> {
        if let Some(pair) = extents.windows(2).find(|pair| goes_on(&pair[0], &pair[1])) {
            return untidy(format!("{pair:?} are one extent"));
        }
        if let [Extent { start: 0, len, source: Source::Data { .. } }] = extents
            && u64::from(*len) == block.per_block
        {
            return untidy(format!("a whole block is told as {extents:?}"));
        }
        for extent in extents {
            match extent.source {
                Source::Zero => {}
                Source::Content(digest) => drop(self.digests.insert(digest)),
                Source::Data { owner, epoch } => {
                    self.sectors((owner, epoch), block, u64::from(extent.start), u64::from(extent.len));
                }
                Source::Log { owner, segment, offset, .. } => {
                    let first = u64::from(offset);
                    let end = first + u64::from(extent.len) * SECTOR;
                    // Its head says which one it is.
                    let pages = self.logs.entry((owner, segment)).or_insert_with(|| Some(BTreeSet::from([0])));
                    pages.iter_mut().for_each(|pages| pages.extend(first / SECTOR..end.div_ceil(SECTOR)));
                }
            }
        }
        Ok(extents.iter().map(|extent| u64::from(extent.len)).sum())
    }

    fn sectors(&mut self, epoch: (VolumeId, u64), block: Block, start: u64, len: u64) {
        let data = self.data.entry(epoch).or_default();
        data.per_block = block.per_block;
        let first = block.number * block.per_block + start;
        data.needed.extend(first..first + len);
    }

    /// What a record says of data objects, whether that counts or not.
    fn record(&mut self, owner: VolumeId, head: &RecordHead, per_block: u64) {
        for run in head.body.runs().iter().filter(|run| run.kind == RunKind::Data) {
            self.sectors((owner, head.epoch), Block { number: 0, per_block }, run.start, u64::from(run.len));
        }
    }

    fn sealed(&mut self, stock: &Stock, range: &SealedRange, per_block: u64) -> Done<()> {
        for segment in range.from.pos.segment..=range.to.segment {
            self.logs.insert((range.owner, segment), None);
        }
        let records = sealed(&*stock.blocker, range)?;
        self.read += records.iter().map(|record| u64::from(record.len)).sum::<u64>();
        for record in records.iter().filter(|record| record.head.epoch <= range.epoch) {
            self.record(range.owner, &record.head, per_block);
        }
        Ok(())
    }

    fn journal(&mut self, stock: &Stock, header: &Header, per_block: u64) -> Done<()> {
        let journal = Journal::of(&*stock.blocker, header)?;
        self.read += journal.bytes();
        for segment in journal.segments {
            self.logs.insert((header.id, segment), None);
        }
        journal.records.iter().for_each(|record| self.record(header.id, &record.head, per_block));
        Ok(())
    }
}

/// The live epoch of a volume that nobody has open: snapshots since the last fold are known to its journal alone.
pub fn live_epoch(stock: &Stock, header: &Header) -> Done<u64> {
    let journal = Journal::of(&*stock.blocker, header)?;
    Ok(journal.records.iter().map(|record| record.head.epoch).max().unwrap_or(0).max(header.epoch))
}
