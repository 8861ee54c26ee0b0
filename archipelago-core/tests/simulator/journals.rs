//! Reads journals plainly, by "Journal" in docs/format.md.

use std::io::IoSliceMut;

use archipelago_core::Error;
use archipelago_core::blocker::{Blocker, Object, VolumeId};
use archipelago_core::format::header::{Header, LogPos, SealedRange};
use archipelago_core::format::log::{self, Body, Found, RECORD_HEAD, RecordHead, SEGMENT_HEAD};

use crate::perform::{Done, Trouble};

/// A record: where it is, how long with its payload, and what it says.
pub struct Placed {
    pub at: LogPos,
    pub len: u32,
    pub head: RecordHead,
}

impl Placed {
    /// Whether it has the bytes of sectors.
    pub fn logged(&self) -> bool {
        self.len as usize > RECORD_HEAD
    }
}

/// The journal of a volume, from its start to its end.
#[derive(Default)]
pub struct Journal {
    pub records: Vec<Placed>,
    /// Segments that it lies in, also one in which there is no record yet.
    pub segments: Vec<u32>,
    /// Where the next record goes; `None` if there is no journal.
    pub end: Option<LogPos>,
}

impl Journal {
    /// Reads it.
    pub fn of(blocker: &dyn Blocker, header: &Header) -> Done<Journal> {
        let Some(start) = header.log else { return Ok(Journal::default()) };
        let mut journal = Journal::default();
        let (mut at, mut seq) = (start.pos, start.seq);
        loop {
            let bytes = segment(blocker, header.id, at.segment)?;
            journal.segments.push(at.segment);
            at.offset = at.offset.max(SEGMENT_HEAD);
            let mut goes_on = false;
            while let Some((head, len)) = found(header.id, at, &bytes, u64::MAX)? {
                if head.seq != seq {
                    return Err(Trouble::Wrong(format!("the journal of {} lacks record {seq}", header.id)));
                }
                seq += 1;
                goes_on = head.body == Body::Next;
                journal.records.push(Placed { at, len, head });
                at.offset += len;
                if goes_on {
                    break;
                }
            }
            if !goes_on {
                journal.end = Some(at);
                return Ok(journal);
            }
            at = LogPos { segment: at.segment + 1, offset: 0 };
        }
    }

    /// Bytes of its records.
    pub fn bytes(&self) -> u64 {
        self.records.iter().map(|record| u64::from(record.len)).sum()
    }

    /// Whether a record changes the map.
    pub fn changes(&self) -> bool {
        self.records.iter().any(|record| matches!(record.head.body, Body::Map(_)))
    }
}

/// The records of a sealed range.
pub fn sealed(blocker: &dyn Blocker, range: &SealedRange) -> Done<Vec<Placed>> {
    let mut records = vec![];
    let mut at = range.from.pos;
    let mut bytes = segment(blocker, range.owner, at.segment)?;
    loop {
        at.offset = at.offset.max(SEGMENT_HEAD);
        if at >= range.to {
            return Ok(records);
        }
        let Some((head, len)) = found(range.owner, at, &bytes, range.epoch)? else {
            return Err(Trouble::Wrong(format!("there is no record of {} at {at:?}", range.owner)));
        };
        let goes_on = head.body == Body::Next;
        records.push(Placed { at, len, head });
        at.offset += len;
        if goes_on {
            at = LogPos { segment: at.segment + 1, offset: 0 };
            if at < range.to {
                bytes = segment(blocker, range.owner, at.segment)?;
            }
        }
    }
}

/// All bytes of a segment.
pub fn segment(blocker: &dyn Blocker, owner: VolumeId, number: u32) -> Done<Vec<u8>> {
    let object = Object::Log(owner, number);
    let mut bytes = vec![0; blocker.len(object)?.unwrap_or(0) as usize];
    if !bytes.is_empty() {
        blocker.read(object, &mut [IoSliceMut::new(&mut bytes)], 0)?;
    }
    Ok(bytes)
}

/// The record at a position and how long it is, if there is one.
pub fn found(owner: VolumeId, at: LogPos, bytes: &[u8], epoch: u64) -> Done<Option<(RecordHead, u32)>> {
    let name = Object::Log(owner, at.segment).to_string();
    let Some(rest) = bytes.get(at.offset as usize..) else {
        return Err(Error::damaged(name, "it is too short").into());
    };
    match log::parse_until(&name, owner, rest, epoch)? {
        Found::Record(head, payload) => Ok(Some((head, (RECORD_HEAD + payload) as u32))),
        Found::Nothing | Found::Torn => Ok(None),
    }
}
