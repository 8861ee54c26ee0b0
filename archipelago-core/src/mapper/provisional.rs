//! Provisional records that are not confirmed (docs/format.md, "Journal").

use crate::blocker::VolumeId;
use crate::error::Result;
use crate::format::header::LogPos;
use crate::format::log::{self, Body, RECORD_HEAD, RecordHead};

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unconfirmed {
    /// Where it lies.
    pub pos: LogPos,
    /// Its number.
    pub seq: u64,
    /// Generation of its writer.
    pub generation: u64,
    /// Epoch of its data.
    pub epoch: u64,
}

impl Unconfirmed {
    /// What takes its place so that it never counts: a record of the same number that changes nothing.
    pub fn void(&self, owner: VolumeId) -> Result<[u8; RECORD_HEAD]> {
        let Unconfirmed { seq, generation, epoch, .. } = *self;
        let record = RecordHead { seq, generation, epoch, synced: LogPos::default(), body: Body::Map(Vec::new()) };
        log::encode_head(owner, &record, &[])
    }
}
