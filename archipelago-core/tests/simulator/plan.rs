//! What a request has to do with the disk, by "Write" and "Discard" in docs/architecture.md: told from the map as it was, and shared with
//! nothing of the engine that does it.

use archipelago_core::blocker::{Object, VolumeId};
use archipelago_core::format::header::LogPos;
use archipelago_core::limits::{MAX_LOGGED_WRITE, SECTOR};
use archipelago_core::{MapExtent, MapSource};

use crate::wire::Call;

/// An open volume before a request.
pub struct Plan {
    pub id: VolumeId,
    pub epoch: u64,
    pub block: u64,
    /// Before it all is folded: `None` as long as there is no journal.
    pub folded: Option<LogPos>,
    pub extents: Vec<MapExtent>,
}

/// Where a run of sectors begins and ends, and its place if it may be overwritten there.
type Run = (u64, u64, Option<(Object, u64)>);

/// A change of an object. Where the journal goes on is its own affair.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Change {
    /// Where the bytes are, they are overwritten.
    Write {
        object: Object,
        offset: u64,
        len: u64,
    },
    /// A record with so many bytes of data.
    Logged(u64),
    Punch {
        object: Object,
        offset: u64,
        len: u64,
    },
}

impl Plan {
    /// What a write does, in its order.
    pub fn write(&self, offset: u64, len: u64) -> Vec<Change> {
        let mut changes = vec![];
        for (block, from, to) in self.blocks(offset, len) {
            let (first, last) = (from / SECTOR * SECTOR, to.next_multiple_of(SECTOR));
            let mut others: Option<(u64, u64)> = None;
            for (start, end, place) in self.runs(block + first, block + last) {
                match place {
                    Some((object, at)) => {
                        changes.extend(others.take().map(|others| self.first(others)));
                        let (a, b) = (start.max(block + from), end.min(block + to));
                        changes.push(Change::Write { object, offset: at + (a - start), len: b - a });
                    }
                    None => others = Some((others.map_or(start, |(first, _)| first), end)),
                }
            }
            changes.extend(others.map(|others| self.first(others)));
        }
        changes
    }

    /// What writing zeros does that need take no room.
    pub fn zeroes(&self, offset: u64, len: u64) -> Vec<Change> {
        let (first, last) = (offset.next_multiple_of(SECTOR), (offset + len) / SECTOR * SECTOR);
        if first >= last {
            return self.write(offset, len);
        }
        let mut changes = self.write(offset, first - offset);
        changes.extend(self.discard(offset, len));
        changes.extend(self.write(last, offset + len - last));
        changes
    }

    /// What a discard does.
    pub fn discard(&self, offset: u64, len: u64) -> Vec<Change> {
        let (first, last) = (offset.next_multiple_of(SECTOR), (offset + len) / SECTOR * SECTOR);
        let blocks = self.blocks(first, last.saturating_sub(first));
        let runs = blocks.flat_map(|(block, from, to)| self.runs(block + from, block + to));
        // Sectors that lie in a journal are not given back.
        let punch = |(start, end, place): Run| match place? {
            (object @ Object::Data(..), at) => Some(Change::Punch { object, offset: at, len: end - start }),
            _ => None,
        };
        runs.filter_map(punch).collect()
    }

    /// The blocks of a range: where each begins, and what of it.
    fn blocks(&self, offset: u64, len: u64) -> impl Iterator<Item = (u64, u64, u64)> {
        let (size, end) = (self.block, offset + len);
        let first = offset / size * size;
        (first..end)
            .step_by(size as usize)
            .filter(move |_| len > 0)
            .map(move |block| (block, offset.saturating_sub(block), (end - block).min(size)))
    }

    /// Sectors that cannot be overwritten where they are.
    fn first(&self, (start, end): (u64, u64)) -> Change {
        match end - start {
            len if len <= MAX_LOGGED_WRITE as u64 => Change::Logged(len),
            len => Change::Write { object: Object::Data(self.id, self.epoch), offset: start, len },
        }
    }

    /// The runs of a range within a block, each with its place if it may be overwritten there: no snapshot has it, and no record that
    /// may be replayed.
    fn runs(&self, from: u64, to: u64) -> Vec<Run> {
        let overlap =
            |extent: &&MapExtent| extent.offset < to && (extent.offset + extent.len).next_multiple_of(SECTOR) > from;
        self.extents
            .iter()
            .filter(overlap)
            .map(|extent| {
                let start = extent.offset.max(from);
                let end = (extent.offset + extent.len).next_multiple_of(SECTOR).min(to);
                (start, end, self.place(extent, start))
            })
            .collect()
    }

    fn place(&self, extent: &MapExtent, at: u64) -> Option<(Object, u64)> {
        match extent.source {
            MapSource::Data { owner, epoch } if (owner, epoch) == (self.id.0, self.epoch) => {
                Some((Object::Data(self.id, epoch), at))
            }
            MapSource::Log { owner, epoch, segment, position }
                if (owner, epoch) == (self.id.0, self.epoch)
                    && self.folded.is_some_and(|folded| LogPos { segment, offset: position } < folded) =>
            {
                Some((Object::Log(self.id, segment), u64::from(position) + (at - extent.offset)))
            }
            _ => None,
        }
    }
}

/// What was done, as a plan tells it: heads of records without data are the journal's affair.
pub fn done(calls: &[Call], folded: Option<LogPos>) -> Vec<Change> {
    let changes = calls.iter().filter_map(|call| match *call {
        Call::Write { object: object @ Object::Log(_, segment), offset, len } => {
            let at = LogPos { segment, offset: offset as u32 };
            match folded.is_some_and(|folded| at < folded) {
                true => Some(Change::Write { object, offset, len }),
                false => (len > HEAD).then(|| Change::Logged(len - HEAD)),
            }
        }
        Call::Write { object: object @ Object::Data(..), offset, len } => Some(Change::Write { object, offset, len }),
        Call::Punch { object, offset, len } => Some(Change::Punch { object, offset, len }),
        _ => None,
    });
    changes.collect()
}

/// Bytes of a record before its data.
const HEAD: u64 = archipelago_core::format::log::RECORD_HEAD as u64;
