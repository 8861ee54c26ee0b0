//! Journal segments and records (format.md, "Journal").

use super::header::LogPos;
use crate::blocker::VolumeId;
use crate::error::Result;

/// What a run in a journal record says of its sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunKind {
    /// Their bytes are in this record's payload, in order of the runs.
    Logged,
    /// They are in the data object of (volume, record's epoch), at their own offset.
    Data,
    /// They are zeros.
    Zero,
}

/// A run of sectors of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First sector of the volume.
    pub start: u64,
    /// Number of sectors, at least 1; may cross blocks for `Data` and `Zero`, never for `Logged`.
    pub len: u32,
    /// What of them.
    pub kind: RunKind,
}

/// What a record is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// First record of an owner: the generations after and before it.
    Open {
        /// Generation in force before.
        previous: u64,
    },
    /// Map changes, with the bytes of `Logged` runs as payload.
    Map(Vec<Run>),
    /// From here on the volume's live epoch is the record's epoch.
    Epoch,
}

/// The head of a record: everything but its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHead {
    /// Rises by one from record to record through the volume's whole life.
    pub seq: u64,
    /// Generation of the owner that wrote it: a random number per read-write open.
    pub generation: u64,
    /// Epoch to which the record belongs.
    pub epoch: u64,
    /// Everything before this position was durable when the record was written.
    pub synced: LogPos,
    /// The rest.
    pub body: Body,
}

/// Bytes at the start of a segment before its first record.
pub const SEGMENT_HEAD: u32 = 512;
/// Runs of [`Body::Map`] in one record.
pub const MAX_RUNS: usize = 20;
/// Bytes of a record before its payload.
pub const RECORD_HEAD: usize = 512;

/// The head of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHead {
    /// Whose.
    pub owner: VolumeId,
    /// Number.
    pub segment: u32,
    /// Length of the segment in bytes.
    pub len: u32,
}

impl SegmentHead {
    /// The stored form.
    pub fn encode(&self) -> [u8; SEGMENT_HEAD as usize] {
        todo!()
    }

    /// Reads the stored form.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<SegmentHead> {
        let _ = (object, bytes);
        todo!()
    }
}

/// Encodes the head of a record with this payload (the bytes of the `Logged` runs; a multiple of 4096, at most
/// `MAX_LOGGED_WRITE`, possibly in pieces). The record is the head followed by the payload.
///
/// The head holds a checksum of the payload and one bit for each 512 bytes of it that is not all zeros, so that a
/// record of which some sectors never reached a zero-filled disk is told from one that was altered.
pub fn encode_head(owner: VolumeId, head: &RecordHead, payload: &[&[u8]]) -> Result<[u8; RECORD_HEAD]> {
    let _ = (owner, head, payload);
    todo!()
}

/// What was found at a position of a segment.
#[derive(Debug)]
pub enum Found {
    /// A whole record: its head, and the length of its payload, which follows it.
    Record(RecordHead, usize),
    /// Nothing was ever written here: the 512 bytes are zero.
    Nothing,
    /// A record that was being written when the machine stopped: its head is whole, some of its payload is still zero.
    Torn,
}

/// Looks at `bytes`, the rest of a segment of `owner` from some position on. A head that is neither zero nor right, or a payload whose
/// sectors are neither zero nor right, is `Damaged`; so is a record whose length leaves the segment.
pub fn parse(object: &str, owner: VolumeId, bytes: &[u8]) -> Result<Found> {
    let _ = (object, owner, bytes);
    todo!()
}
