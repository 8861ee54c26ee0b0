//! Tree nodes (format.md, "Node packs").

use super::bytes::{Reader, Writer};
use super::extents::{self, MAX_INLINE_OWNERS, Owners, OwnersRead};
use crate::blocker::VolumeId;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::{
    FANOUT, FANOUT_SHIFT, MAX_BLOCK_SIZE, MAX_EXTENTS, MAX_INLINE_EXTENTS, MAX_NODE, MAX_VOLUME_SIZE, MIN_BLOCK_SIZE,
    SECTOR,
};

/// Highest level of a node. Six levels (0 to 5) cover the largest volume at the smallest block size; one is spare.
pub const MAX_LEVEL: u8 = 6;

/// Layout of nodes written by this build.
const VERSION: u8 = 1;
/// First bytes of a node: `ANOD`.
const MAGIC: u32 = u32::from_le_bytes(*b"ANOD");
/// Bytes of a node before its payload.
const HEAD: usize = 32;
/// Bytes of a stored pointer.
const POINTER: usize = 64;
/// Bytes of the bitmap that says which slots are in use.
const BITMAP: usize = FANOUT as usize / 8;
/// Different owners in one leaf: each entry names at most as many as an inline list.
const MAX_LEAF_OWNERS: usize = FANOUT as usize * MAX_INLINE_OWNERS;
/// Blocks of the largest volume.
const MAX_BLOCKS: u64 = MAX_VOLUME_SIZE / MIN_BLOCK_SIZE;
/// Longest stored extent: three numbers of at most 3, 2 and 2 bytes, then either an epoch of 10, a segment of 5 and a
/// journal offset of 4, or a digest of 32 and a byte before it.
const MAX_EXTENT: usize = 40;

const LEAF: u8 = 1;
const INNER: u8 = 2;
const EXTENTS: u8 = 3;

const OWNED: u8 = 1;
const INLINE: u8 = 2;
const EXTENT_NODE: u8 = 3;
const CONTENT: u8 = 4;

// No node exceeds its limit: the worst leaf, inner node and extent node.
const _: () = {
    let entry = 1 + if MAX_INLINE_EXTENTS > POINTER { MAX_INLINE_EXTENTS } else { POINTER };
    assert!(HEAD + BITMAP + 2 + MAX_LEAF_OWNERS * 8 + FANOUT as usize * entry <= MAX_NODE);
    assert!(HEAD + BITMAP + FANOUT as usize * POINTER <= MAX_NODE);
    assert!(HEAD + 2 + MAX_EXTENTS * (8 + MAX_EXTENT) <= MAX_NODE);
    assert!(MAX_BLOCK_SIZE / SECTOR <= 1 << 14 && FANOUT_SHIFT * (MAX_LEVEL as u32 + 1) < 64);
};

/// Where a node is, and what it must hash to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pointer {
    /// Volume whose pack holds it.
    pub owner: VolumeId,
    /// Pack number.
    pub pack: u32,
    /// Byte offset in the pack.
    pub offset: u32,
    /// Encoded length in bytes.
    pub len: u32,
    /// Sectors that are mapped beneath.
    pub mapped: u64,
    /// BLAKE3 of the encoded node.
    pub hash: [u8; 32],
}

impl Pointer {
    /// Writes the stored form.
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u64(self.owner.0).u32(self.pack).u32(self.offset).u32(self.len).u32(0).u64(self.mapped);
        writer.bytes(&self.hash);
    }

    /// Reads the stored form.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Pointer> {
        let (owner, pack, offset, len) = (VolumeId(reader.u64()?), reader.u32()?, reader.u32()?, reader.u32()?);
        let reserved = reader.u32()?;
        reader.require(reserved == 0, "bytes that must be zero are not")?;
        let pointer = Pointer { owner, pack, offset, len, mapped: reader.u64()?, hash: reader.array()? };
        match pointer.wrong() {
            Some(reason) => reader.damaged(reason),
            None => Ok(pointer),
        }
    }

    /// What forbids storing this pointer.
    fn wrong(&self) -> Option<&'static str> {
        if self.owner.0 == 0 {
            return Some("a pointer has no owner");
        }
        if (self.len as usize) < HEAD || self.len as usize > MAX_NODE || self.offset.checked_add(self.len).is_none() {
            return Some("a pointer has an impossible place");
        }
        (self.mapped > MAX_VOLUME_SIZE / SECTOR).then_some("a pointer maps more than the largest volume")
    }
}

/// Where the bytes of a run of sectors are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// Nowhere: zeros.
    Zero,
    /// In the data object of (owner, epoch), at their own offset.
    Data {
        /// Volume that wrote them.
        owner: VolumeId,
        /// Epoch in which it did.
        epoch: u64,
    },
    /// In a journal segment of `owner`.
    Log {
        /// Volume that wrote them.
        owner: VolumeId,
        /// Epoch in which it did.
        epoch: u64,
        /// Segment number.
        segment: u32,
        /// Byte offset in the segment of the run's first sector; a multiple of 512.
        offset: u32,
    },
    /// In the content block of this name, at their own offset in the block; zeros past its end.
    Content(Digest),
}

/// A run of sectors inside one block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Extent {
    /// First sector, counted from the start of the block.
    pub start: u16,
    /// Number of sectors, at least 1.
    pub len: u16,
    /// Where they are.
    pub source: Source,
}

/// What a leaf says of one block. A block that is all zeros has no entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// The whole block lies in the data object of (owner, epoch).
    Owned {
        /// Volume that wrote it.
        owner: VolumeId,
        /// Epoch in which it did.
        epoch: u64,
    },
    /// Sorted, disjoint, without [`Source::Zero`]; what is not covered is zero. At most `MAX_EXTENTS`.
    /// Encoded inline when it fits `MAX_INLINE_EXTENTS` bytes; a longer list has to be stored as an extent node first.
    Extents(Vec<Extent>),
    /// An extent node of its own.
    ExtentNode(Pointer),
    /// The whole block is the content block of this name.
    Content(Digest),
}

/// A decoded node. Slots are indexes below `FANOUT`, strictly rising.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// Entries of up to 128 neighbouring blocks.
    Leaf(Vec<(u8, Entry)>),
    /// Children; `level` is at least 1.
    Inner {
        /// Height above the leaves.
        level: u8,
        /// Slot and child.
        children: Vec<(u8, Pointer)>,
    },
    /// The extents of one block.
    Extents(Vec<Extent>),
}

impl Node {
    /// The stored form: at most `MAX_NODE` bytes. `base` is the index of the first block beneath it, `owner` the volume whose pack
    /// it goes to; both are stored for `check`.
    ///
    /// Equal arguments give equal bytes. Panics never; a node that breaks the invariants above (too many slots or
    /// extents, not sorted, an inline list that does not fit, a `base` that is not a multiple of the blocks beneath a
    /// node of its level) is `Damaged`: no caller's argument leads there, only a state that is wrong already.
    pub fn encode(&self, owner: VolumeId, base: u64) -> Result<Vec<u8>> {
        if let Some(reason) = self.wrong(owner, base) {
            let text = format!("the tree node at block {base} cannot be stored: {reason}");
            return Err(Error::damaged(format!("tree of {owner}"), text));
        }
        let mut payload = Writer::with_capacity(1024);
        let (kind, level, count) = match self {
            Node::Leaf(entries) => {
                write_bitmap(&mut payload, entries);
                let owners = Owners::of(entries.iter().flat_map(|(_, entry)| owners_of(entry)));
                owners.write(&mut payload);
                for (_, entry) in entries {
                    write_entry(&mut payload, entry, &owners);
                }
                (LEAF, 0, entries.len())
            }
            Node::Inner { level, children } => {
                write_bitmap(&mut payload, children);
                for (_, pointer) in children {
                    pointer.write(&mut payload);
                }
                (INNER, *level, children.len())
            }
            Node::Extents(list) => {
                let owners =
                    Owners::of(list.iter().filter_map(|extent| extents::writer_of(&extent.source)).map(|x| x.0));
                owners.write(&mut payload);
                extents::write(&mut payload, list, &owners);
                (EXTENTS, 0, list.len())
            }
        };
        let payload = payload.finish();
        let mut node = Writer::with_capacity(HEAD + payload.len());
        node.u32(MAGIC).u8(VERSION).u8(kind).u8(level).u8(count as u8).u32(payload.len() as u32).u32(0);
        node.u64(owner.0).u64(base).bytes(&payload);
        Ok(node.finish())
    }

    /// Reads the stored form; `object` names it in errors. Returns the node and its `base`.
    ///
    /// Nothing but the one encoding of a node is accepted. The caller has checked the bytes with [`verify`], unless
    /// they come from a header, which carries checksums of its own.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<(Node, u64)> {
        let mut reader = Reader::new(object, bytes);
        reader.require(bytes.len() <= MAX_NODE, "it is longer than a node can be")?;
        if reader.u32()? != MAGIC {
            return reader.damaged("something else lies where a tree node must be");
        }
        match reader.u8()? {
            VERSION => {}
            0 => return reader.damaged("a tree node of version 0"),
            later => return reader.too_new(format!("a tree node of version {later}")),
        }
        let (kind, level, count) = (reader.u8()?, reader.u8()?, usize::from(reader.u8()?));
        let (payload_len, reserved, owner, base) =
            (reader.u32()?, reader.u32()?, VolumeId(reader.u64()?), reader.u64()?);
        reader.require(payload_len as usize == bytes.len() - HEAD, "its length is not what its head says")?;
        reader.require(reserved == 0, "bytes that must be zero are not")?;
        reader.require(kind == INNER || level == 0, "a leaf stands above other nodes")?;
        let node = match kind {
            LEAF => {
                let slots = read_bitmap(&mut reader, count)?;
                let mut owners = OwnersRead::read(&mut reader, MAX_LEAF_OWNERS)?;
                let mut entries = Vec::with_capacity(count);
                for slot in slots {
                    entries.push((slot, read_entry(&mut reader, &mut owners)?));
                }
                owners.finish(&reader)?;
                Node::Leaf(entries)
            }
            INNER => {
                let slots = read_bitmap(&mut reader, count)?;
                let mut children = Vec::with_capacity(count);
                for slot in slots {
                    children.push((slot, Pointer::read(&mut reader)?));
                }
                Node::Inner { level, children }
            }
            EXTENTS => {
                let mut owners = OwnersRead::read(&mut reader, MAX_EXTENTS)?;
                let list = extents::read(&mut reader, count, &mut owners)?;
                owners.finish(&reader)?;
                Node::Extents(list)
            }
            other => return reader.too_new(format!("a tree node of kind {other}")),
        };
        reader.end()?;
        match node.wrong(owner, base) {
            Some(reason) => reader.damaged(reason),
            None => Ok((node, base)),
        }
    }

    /// What forbids storing this node; the same rules for what is written and what is read.
    fn wrong(&self, owner: VolumeId, base: u64) -> Option<&'static str> {
        if owner.0 == 0 {
            return Some("it has no owner");
        }
        let span = match self {
            Node::Leaf(entries) => {
                if !rising(entries) {
                    return Some("its slots are not in order, or too many");
                }
                if let Some(reason) = entries.iter().find_map(|(_, entry)| wrong_with(entry)) {
                    return Some(reason);
                }
                FANOUT
            }
            Node::Inner { level, children } => {
                if *level == 0 || *level > MAX_LEVEL {
                    return Some("its level is impossible");
                }
                if !rising(children) {
                    return Some("its slots are not in order, or too many");
                }
                if let Some(reason) = children.iter().find_map(|(_, pointer)| pointer.wrong()) {
                    return Some(reason);
                }
                1 << (FANOUT_SHIFT * (u32::from(*level) + 1))
            }
            Node::Extents(list) => {
                if let Some(reason) = extents::wrong_with(list) {
                    return Some(reason);
                }
                1
            }
        };
        (!base.is_multiple_of(span) || base >= MAX_BLOCKS).then_some("its first block is impossible")
    }
}

/// Whether slots are in range and strictly rising.
fn rising<T>(items: &[(u8, T)]) -> bool {
    items.iter().all(|(slot, _)| u64::from(*slot) < FANOUT) && items.windows(2).all(|pair| pair[0].0 < pair[1].0)
}

/// What forbids storing this entry.
fn wrong_with(entry: &Entry) -> Option<&'static str> {
    match entry {
        Entry::Owned { owner, .. } => (owner.0 == 0).then_some("an entry has no owner"),
        Entry::Extents(list) if inline_size(list) > MAX_INLINE_EXTENTS => {
            Some("an extent list is too long to be kept in a leaf")
        }
        Entry::Extents(list) => extents::wrong_with(list),
        Entry::ExtentNode(pointer) => pointer.wrong(),
        Entry::Content(digest) => (*digest == Digest::ZERO).then_some("an entry of zeros is stored"),
    }
}

/// Owners that an entry refers to through the leaf's table.
fn owners_of(entry: &Entry) -> impl Iterator<Item = VolumeId> {
    let (owned, list) = match entry {
        Entry::Owned { owner, .. } => (Some(*owner), &[][..]),
        Entry::Extents(list) => (None, list.as_slice()),
        Entry::ExtentNode(_) | Entry::Content(_) => (None, &[][..]),
    };
    owned.into_iter().chain(list.iter().filter_map(|extent| extents::writer_of(&extent.source)).map(|from| from.0))
}

fn write_entry(writer: &mut Writer, entry: &Entry, owners: &Owners) {
    match entry {
        Entry::Owned { owner, epoch } => {
            writer.u8(OWNED).varint(owners.index(*owner)).varint(*epoch);
        }
        Entry::Extents(list) => {
            writer.u8(INLINE).varint(list.len() as u64);
            extents::write(writer, list, owners);
        }
        Entry::ExtentNode(pointer) => {
            pointer.write(writer.u8(EXTENT_NODE));
        }
        Entry::Content(digest) => {
            writer.u8(CONTENT).bytes(&digest.0);
        }
    }
}

fn read_entry(reader: &mut Reader<'_>, owners: &mut OwnersRead) -> Result<Entry> {
    match reader.u8()? {
        OWNED => Ok(Entry::Owned { owner: owners.owner(reader)?, epoch: reader.varint()? }),
        INLINE => {
            let count = reader.varint()?;
            reader.require(count <= MAX_EXTENTS as u64, "an extent list is too long")?;
            Ok(Entry::Extents(extents::read(reader, count as usize, owners)?))
        }
        EXTENT_NODE => Ok(Entry::ExtentNode(Pointer::read(reader)?)),
        CONTENT => Ok(Entry::Content(Digest(reader.array()?))),
        other => reader.damaged(format!("a leaf entry of kind {other}")),
    }
}

fn write_bitmap<T>(writer: &mut Writer, items: &[(u8, T)]) {
    let bits = items.iter().fold(0u128, |bits, (slot, _)| bits | 1 << slot);
    writer.bytes(&bits.to_le_bytes());
}

/// Slots in use, rising; as many as `count`.
fn read_bitmap(reader: &mut Reader<'_>, count: usize) -> Result<impl Iterator<Item = u8> + use<>> {
    let bits = u128::from_le_bytes(reader.array()?);
    reader.require(bits.count_ones() as usize == count, "its slots are not as many as its head says")?;
    Ok((0..FANOUT as u8).filter(move |slot| bits >> slot & 1 == 1))
}

/// Checks that `bytes` are the node that `pointer` leads to: their length, their hash, and whose pack they were written
/// for. [`Error::Damaged`] in the name of `object` if not.
pub fn verify(object: &str, bytes: &[u8], pointer: &Pointer) -> Result<()> {
    let mut reader = Reader::new(object, bytes);
    if bytes.len() != pointer.len as usize {
        return reader.damaged(format!("a tree node of {} bytes instead of {}", bytes.len(), pointer.len));
    }
    reader.require(blake3::hash(bytes) == pointer.hash, "the hash of a tree node is wrong")?;
    reader.take(16)?;
    let owner = VolumeId(reader.u64()?);
    reader.require(owner == pointer.owner, "a tree node was written for another volume")
}

/// Encoded size in bytes of an extent list as it would be kept inline in a leaf (owners counted as dictionary indexes of 2 bytes).
///
/// An upper bound: a list for which this is at most `MAX_INLINE_EXTENTS` is encoded inline. A list of more than seven
/// different owners is never kept inline, and counts as longer than that.
pub fn inline_size(extents: &[Extent]) -> usize {
    extents::inline_size(extents)
}

#[cfg(test)]
mod tests;
