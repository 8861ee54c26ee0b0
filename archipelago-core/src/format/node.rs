//! Tree nodes (format.md, "Node packs").

use crate::blocker::VolumeId;
use crate::error::Result;

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
    /// Panics never; a node that breaks the invariants above (too many slots or extents, not sorted, an inline list
    /// that does not fit) is `InvalidArgument`.
    pub fn encode(&self, owner: VolumeId, base: u64) -> Result<Vec<u8>> {
        let _ = (owner, base);
        todo!()
    }

    /// Reads the stored form; `object` names it in errors. Returns the node and its `base`.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<(Node, u64)> {
        let _ = (object, bytes);
        todo!()
    }
}

/// Encoded size in bytes of an extent list as it would be kept inline in a leaf (owners counted as dictionary indexes of 2 bytes).
pub fn inline_size(extents: &[Extent]) -> usize {
    let _ = extents;
    todo!()
}
