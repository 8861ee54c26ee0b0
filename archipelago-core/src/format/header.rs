//! Map headers (format.md, "Header").

use super::node::Pointer;
use crate::blocker::VolumeId;
use crate::error::Result;

/// What kind of map a header describes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Writable.
    Volume,
    /// Never changes; the only legal source of a clone.
    Snapshot,
    /// A file of the object store; never changes.
    Object,
    /// A group snapshot record.
    Group,
}

/// A position in a volume's journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogPos {
    /// Segment number.
    pub segment: u32,
    /// Byte offset in the segment, a multiple of 512. 0 means: at its first record.
    pub offset: u32,
}

/// Where a replay begins: a position, and what the record there must say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStart {
    /// Position of the first record.
    pub pos: LogPos,
    /// Its sequence number.
    pub seq: u64,
    /// The generation in force before it.
    pub generation: u64,
}

/// A sealed part of somebody's journal that is not yet folded into the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedRange {
    /// Whose journal.
    pub owner: VolumeId,
    /// First record.
    pub from: LogStart,
    /// End: the position after the last record.
    pub to: LogPos,
    /// Records of a higher epoch are passed over.
    pub epoch: u64,
    /// Size in bytes of the map that was sealed; nothing past it counts.
    pub size: u64,
}

/// Root of a map's tree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Root {
    /// Nothing mapped.
    #[default]
    Empty,
    /// The one leaf, encoded, of a map that needs no more (at most `MAX_INLINE_ROOT` bytes).
    Inline(Vec<u8>),
    /// The top node.
    Node {
        /// Level of that node; 0 is a leaf.
        level: u8,
        /// Where it is.
        pointer: Pointer,
    },
}

/// The header of a map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Identity.
    pub id: VolumeId,
    /// Kind.
    pub kind: Kind,
    /// The authoritative name: a name entry that disagrees does not count.
    pub name: String,
    /// Removed: the name no longer counts.
    pub removed: bool,
    /// Was made smaller since the last fold: what the tree and the journal hold past `size` is dead, and the map must
    /// be folded before it may grow.
    pub shrunk: bool,
    /// Size in bytes.
    pub size: u64,
    /// `log2` of the block size.
    pub block_shift: u8,
    /// Live epoch; blocks of this volume with this epoch are overwritten in place.
    pub epoch: u64,
    /// Seconds since 1970.
    pub created: u64,
    /// Snapshot it was cloned from, or volume it is a snapshot of; 0 if none.
    pub parent: VolumeId,
    /// Collector generation in which it was made.
    pub birth: u64,
    /// Reserved: encryption key, 0.
    pub key: u64,
    /// Reserved: content domain, 0.
    pub domain: u64,
    /// The tree.
    pub root: Root,
    /// Sealed journals to be applied over the root, in this order.
    pub ranges: Vec<SealedRange>,
    /// The volume's own journal from here on is to be applied after that. `None` for maps that have no journal yet or never have one.
    pub log: Option<LogStart>,
}

impl Header {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads the stored form. `object` names it in errors.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Header> {
        let _ = (object, bytes);
        todo!()
    }
}
