//! What the maps of a store need, by docs/format.md and "Collection" in docs/architecture.md: each node, sector and digest that a
//! header leads to, and of journals all that their records say. Walks plainly, and shares nothing with the collector.

use std::collections::{BTreeMap, BTreeSet};

use archipelago_core::blocker::{Object, VolumeId};
use archipelago_core::format::header::{Header, LogPos, Root, SealedRange};
use archipelago_core::format::log::{self, Body, Found, RECORD_HEAD, RecordHead, RunKind, SEGMENT_HEAD};
use archipelago_core::format::node::{self, Entry, Extent, Node, Pointer, Source};
use archipelago_core::limits::SECTOR;
use archipelago_core::{Digest, Error};

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
    nodes: BTreeSet<(VolumeId, u32, u32)>,
}

/// Where extents are: the map's sectors of a block, and the block.
#[derive(Clone, Copy)]
struct Block {
    number: u64,
    per_block: u64,
}

fn damaged<T>(what: String) -> Done<T> {
    Err(Trouble::Wrong(format!("what maps need cannot be read: {what}")))
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
            }
            Root::Node { pointer, .. } => self.pointer(stock, pointer, 0, per_block)?,
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
        if !self.nodes.insert((pointer.owner, pointer.pack, pointer.offset)) {
            return Ok(());
        }
        let pack = Object::Pack(pointer.owner, pointer.pack);
        let mut bytes = vec![0; pointer.len as usize];
        stock.blocker.read(pack, &mut [std::io::IoSliceMut::new(&mut bytes)], first)?;
        node::verify(&pack.to_string(), &bytes, pointer)?;
        let (node, _) = Node::decode(&pack.to_string(), &bytes)?;
        self.node(stock, &node, base, per_block)
    }

    fn node(&mut self, stock: &Stock, node: &Node, base: u64, per_block: u64) -> Done<()> {
        match node {
            Node::Leaf(entries) => {
                self.entries += entries.len() as u64;
                for (slot, entry) in entries {
                    let block = Block { number: base + u64::from(*slot), per_block };
                    match entry {
                        Entry::Owned { owner, epoch } => self.sectors((*owner, *epoch), block, 0, per_block),
                        Entry::Content(digest) => drop(self.digests.insert(*digest)),
                        Entry::Extents(extents) => self.extents(extents, block),
                        Entry::ExtentNode(pointer) => self.pointer(stock, pointer, block.number, per_block)?,
                    }
                }
            }
            Node::Inner { level, children } => {
                for (slot, child) in children {
                    self.pointer(stock, child, base + u64::from(*slot) * 128u64.pow(u32::from(*level)), per_block)?;
                }
            }
            Node::Extents(extents) => self.extents(extents, Block { number: base, per_block }),
        }
        Ok(())
    }

    fn extents(&mut self, extents: &[Extent], block: Block) {
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
        let mut at = range.from.pos;
        let mut bytes = stock.bytes(Object::Log(range.owner, at.segment))?;
        loop {
            at.offset = at.offset.max(SEGMENT_HEAD);
            if at >= range.to {
                return Ok(());
            }
            match found(range.owner, at, &bytes, range.epoch)? {
                Some((head, len)) => {
                    if head.epoch <= range.epoch {
                        self.record(range.owner, &head, per_block);
                    }
                    at.offset += len;
                    if head.body == Body::Next {
                        at = LogPos { segment: at.segment + 1, offset: 0 };
                        if at < range.to {
                            bytes = stock.bytes(Object::Log(range.owner, at.segment))?;
                        }
                    }
                }
                None => return damaged(format!("a record of {} at {at:?}", range.owner)),
            }
        }
    }

    fn journal(&mut self, stock: &Stock, header: &Header, per_block: u64) -> Done<()> {
        for (segment, records) in own_records(stock, header)? {
            self.logs.insert((header.id, segment), None);
            records.iter().for_each(|head| self.record(header.id, head, per_block));
        }
        Ok(())
    }
}

/// The journal of a volume from its start to its end: the records of each segment.
fn own_records(stock: &Stock, header: &Header) -> Done<Vec<(u32, Vec<RecordHead>)>> {
    let Some(start) = header.log else { return Ok(vec![]) };
    let (mut at, mut seq, mut segments) = (start.pos, start.seq, vec![]);
    loop {
        let (bytes, mut records) = (stock.bytes(Object::Log(header.id, at.segment))?, vec![]);
        at.offset = at.offset.max(SEGMENT_HEAD);
        while let Some((head, len)) = found(header.id, at, &bytes, u64::MAX)? {
            if head.seq != seq {
                return damaged(format!("record {seq} of {}", header.id));
            }
            seq += 1;
            at.offset += len;
            records.push(head);
            if records.last().is_some_and(|head| head.body == Body::Next) {
                break;
            }
        }
        let goes_on = records.last().is_some_and(|head| head.body == Body::Next);
        segments.push((at.segment, records));
        if !goes_on {
            return Ok(segments);
        }
        at = LogPos { segment: at.segment + 1, offset: 0 };
    }
}

/// The live epoch of a volume that nobody has open: snapshots since the last fold are known to its journal alone.
pub fn live_epoch(stock: &Stock, header: &Header) -> Done<u64> {
    let epochs = own_records(stock, header)?.into_iter().flat_map(|(_, records)| records).map(|head| head.epoch);
    Ok(epochs.max().unwrap_or(0).max(header.epoch))
}

/// The record at a position and how long it is, if there is one.
fn found(owner: VolumeId, at: LogPos, bytes: &[u8], epoch: u64) -> Done<Option<(RecordHead, u32)>> {
    let name = Object::Log(owner, at.segment).to_string();
    let Some(rest) = bytes.get(at.offset as usize..) else {
        return Err(Error::damaged(name, "it is too short").into());
    };
    match log::parse_until(&name, owner, rest, epoch)? {
        Found::Record(head, payload) => Ok(Some((head, (RECORD_HEAD + payload) as u32))),
        Found::Nothing | Found::Torn => Ok(None),
    }
}
