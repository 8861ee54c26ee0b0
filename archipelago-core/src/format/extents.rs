//! Extent lists as they lie in nodes (format.md, "Extent lists"), and the table of owners that they refer to.

use super::bytes::{Reader, Writer, varint_len};
use super::node::{Extent, Source};
use crate::blocker::VolumeId;
use crate::digest::Digest;
use crate::error::Result;
use crate::limits::{ATOM, MAX_BLOCK_SIZE, MAX_EXTENTS, MAX_INLINE_EXTENTS, SECTOR};

/// Different owners in one inline list. Each takes 8 bytes of the leaf's table, so that without a limit a leaf of many
/// short lists would not fit a node.
pub(crate) const MAX_INLINE_OWNERS: usize = 7;

/// Sectors of the largest block.
const BLOCK_SECTORS: u64 = MAX_BLOCK_SIZE / SECTOR;
/// Longest index into a table of owners, in bytes.
const MAX_INDEX: usize = 2;

/// Set in the first number of an extent: it lies in a journal segment, not in a data object.
const IN_LOG: u64 = 1;
/// Set in the first number of an extent: owner and epoch are those of the extent before.
const SAME: u64 = 2;

/// The different owners that a node names, rising; entries refer to them by index.
pub(crate) struct Owners(Vec<u64>);

impl Owners {
    /// The table for these owners.
    pub(crate) fn of(owners: impl Iterator<Item = VolumeId>) -> Owners {
        let mut ids: Vec<u64> = owners.map(|owner| owner.0).collect();
        ids.sort_unstable();
        ids.dedup();
        Owners(ids)
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.varint(self.0.len() as u64);
        for id in &self.0 {
            writer.u64(*id);
        }
    }

    /// Index that stands for content.
    pub(crate) fn content(&self) -> u64 {
        self.0.len() as u64
    }

    /// Index of an owner of which the table was made.
    pub(crate) fn index(&self, owner: VolumeId) -> u64 {
        self.0.partition_point(|id| *id < owner.0) as u64
    }
}

/// A table of owners as read, with a note of which were referred to.
pub(crate) struct OwnersRead(Vec<(u64, bool)>);

impl OwnersRead {
    /// Reads a table of at most `limit` owners.
    pub(crate) fn read(reader: &mut Reader<'_>, limit: usize) -> Result<OwnersRead> {
        let count = reader.varint()?;
        reader.require(count <= limit as u64, "it names too many owners")?;
        let mut ids = Vec::with_capacity(count as usize);
        let mut before = 0;
        for _ in 0..count {
            let id = reader.u64()?;
            reader.require(id > before, "its owners are not in order")?;
            before = id;
            ids.push((id, false));
        }
        Ok(OwnersRead(ids))
    }

    /// Reads the index of an owner.
    pub(crate) fn owner(&mut self, reader: &mut Reader<'_>) -> Result<VolumeId> {
        match self.owner_or_content(reader)? {
            Some(owner) => Ok(owner),
            None => reader.damaged("content stands where an owner must be"),
        }
    }

    /// Reads the index of an owner; `None` for the one that stands for content.
    fn owner_or_content(&mut self, reader: &mut Reader<'_>) -> Result<Option<VolumeId>> {
        let index = reader.varint()?;
        if index == self.0.len() as u64 {
            return Ok(None);
        }
        match usize::try_from(index).ok().and_then(|index| self.0.get_mut(index)) {
            Some((id, used)) => {
                *used = true;
                Ok(Some(VolumeId(*id)))
            }
            None => reader.damaged(format!("it refers to owner {index} of {}", self.0.len())),
        }
    }

    /// Every owner must have been referred to: equal nodes are equal bytes.
    pub(crate) fn finish(self, reader: &Reader<'_>) -> Result<()> {
        reader.require(self.0.iter().all(|(_, used)| *used), "it names an owner that nothing refers to")
    }
}

/// What an extent shares with the one before it if they differ in their places only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Writer(VolumeId, u64),
    Content(Digest),
}

impl From {
    fn of(source: &Source) -> Option<From> {
        match *source {
            Source::Content(digest) => Some(From::Content(digest)),
            _ => writer_of(source).map(|(owner, epoch)| From::Writer(owner, epoch)),
        }
    }
}

/// Different digests of a list in the order in which it gives them.
#[derive(Default)]
struct Given(Vec<Digest>);

impl Given {
    /// 0 for one that was not given yet, which it is from now on; else its place, from 1.
    fn reference(&mut self, digest: Digest) -> u64 {
        match self.0.iter().position(|given| *given == digest) {
            Some(at) => at as u64 + 1,
            None => {
                self.0.push(digest);
                0
            }
        }
    }
}

/// Owner and epoch of a source; none for zeros and content.
pub(crate) fn writer_of(source: &Source) -> Option<(VolumeId, u64)> {
    match *source {
        Source::Zero | Source::Content(_) => None,
        Source::Data { owner, epoch } | Source::Log { owner, epoch, .. } => Some((owner, epoch)),
    }
}

/// What forbids storing this list.
pub(crate) fn wrong_with(extents: &[Extent]) -> Option<&'static str> {
    if extents.is_empty() {
        return Some("an extent list is empty");
    }
    if extents.len() > MAX_EXTENTS {
        return Some("an extent list is too long");
    }
    let mut end = 0;
    for extent in extents {
        if extent.len == 0 || extent.start < end {
            return Some("an extent is empty or overlaps the one before");
        }
        match extent.start.checked_add(extent.len).filter(|end| u64::from(*end) <= BLOCK_SECTORS) {
            Some(next) => end = next,
            None => return Some("an extent leaves its block"),
        }
        match extent.source {
            Source::Zero => return Some("an extent of zeros is stored"),
            Source::Data { owner, .. } | Source::Log { owner, .. } if owner.0 == 0 => {
                return Some("an extent has no owner");
            }
            Source::Log { offset, .. } if !(offset as usize).is_multiple_of(ATOM) => {
                return Some("a journal offset is not a multiple of 512");
            }
            Source::Content(Digest::ZERO) => return Some("an extent of zeros is stored"),
            Source::Data { .. } | Source::Log { .. } | Source::Content(_) => {}
        }
    }
    None
}

/// Writes a list without its length. `wrong_with` has been asked.
pub(crate) fn write(writer: &mut Writer, extents: &[Extent], owners: &Owners) {
    let (mut end, mut before) = (0, None);
    let mut given = Given::default();
    for extent in extents {
        let (first, from) = first_number(extent, end, before);
        writer.varint(first).varint(u64::from(extent.len) - 1);
        match from.filter(|_| first & SAME == 0) {
            Some(From::Writer(owner, epoch)) => {
                writer.varint(owners.index(owner)).varint(epoch);
            }
            Some(From::Content(digest)) => {
                let reference = given.reference(digest);
                writer.varint(owners.content()).varint(reference);
                if reference == 0 {
                    writer.bytes(&digest.0);
                }
            }
            None => {}
        }
        if let Source::Log { segment, offset, .. } = extent.source {
            writer.varint(u64::from(segment)).varint(u64::from(offset) / ATOM as u64);
        }
        (end, before) = (extent.start + extent.len, from);
    }
}

/// The first number of an extent: sectors since the end of the one before, and the flags. With it, whose it is.
fn first_number(extent: &Extent, end: u16, before: Option<From>) -> (u64, Option<From>) {
    let from = From::of(&extent.source);
    let log = if matches!(extent.source, Source::Log { .. }) { IN_LOG } else { 0 };
    let same = if before.is_some() && before == from { SAME } else { 0 };
    (u64::from(extent.start.saturating_sub(end)) << 2 | log | same, from)
}

/// Reads a list of `count` extents.
pub(crate) fn read(reader: &mut Reader<'_>, count: usize, owners: &mut OwnersRead) -> Result<Vec<Extent>> {
    reader.require((1..=MAX_EXTENTS).contains(&count), "the length of an extent list is impossible")?;
    let mut extents = Vec::with_capacity(count);
    let (mut end, mut before) = (0u64, None);
    let mut given = Given::default();
    for _ in 0..count {
        let (first, len) = (reader.varint()?, reader.varint()?);
        let (start, same) = (end.saturating_add(first >> 2), first & SAME != 0);
        reader.require(len < BLOCK_SECTORS && start + len < BLOCK_SECTORS, "an extent leaves its block")?;
        let from = match before {
            Some(from) if same => from,
            _ => {
                reader.require(!same, "the first extent refers to one before it")?;
                let from = match owners.owner_or_content(reader)? {
                    Some(owner) => From::Writer(owner, reader.varint()?),
                    None => From::Content(read_digest(reader, &mut given)?),
                };
                reader.require(before != Some(from), "an extent repeats the source of the one before")?;
                from
            }
        };
        let in_log = first & IN_LOG != 0;
        let source = match from {
            From::Content(digest) => {
                reader.require(!in_log, "an extent of content lies in a journal")?;
                Source::Content(digest)
            }
            From::Writer(owner, epoch) if !in_log => Source::Data { owner, epoch },
            From::Writer(owner, epoch) => {
                let (segment, offset) = (reader.varint()?, reader.varint()?.checked_mul(ATOM as u64));
                match (u32::try_from(segment), offset.map(u32::try_from)) {
                    (Ok(segment), Some(Ok(offset))) => Source::Log { owner, epoch, segment, offset },
                    _ => return reader.damaged("a journal position is out of range"),
                }
            }
        };
        extents.push(Extent { start: start as u16, len: len as u16 + 1, source });
        (end, before) = (start + len + 1, Some(from));
    }
    Ok(extents)
}

/// A digest of a list: given here, or before in the same list.
fn read_digest(reader: &mut Reader<'_>, given: &mut Given) -> Result<Digest> {
    match reader.varint()? {
        0 => {
            let digest = Digest(reader.array()?);
            reader.require(given.reference(digest) == 0, "a digest is given twice")?;
            Ok(digest)
        }
        k => match usize::try_from(k - 1).ok().and_then(|at| given.0.get(at)) {
            Some(digest) => Ok(*digest),
            None => reader.damaged(format!("it refers to digest {k} of {}", given.0.len())),
        },
    }
}

/// Upper bound of the bytes that the list takes in a leaf, its length included; past `MAX_INLINE_EXTENTS` it is not
/// stored there. Does not depend on the other entries of the leaf.
pub(crate) fn inline_size(extents: &[Extent]) -> usize {
    let (mut end, mut before) = (0, None);
    let mut given = Given::default();
    let mut size = varint_len(extents.len() as u64);
    for extent in extents {
        let (first, from) = first_number(extent, end, before);
        size += varint_len(first) + varint_len(u64::from(extent.len).saturating_sub(1));
        match from.filter(|_| first & SAME == 0) {
            Some(From::Writer(_, epoch)) => size += MAX_INDEX + varint_len(epoch),
            Some(From::Content(digest)) => {
                size += MAX_INDEX + 1 + if given.reference(digest) == 0 { size_of::<Digest>() } else { 0 };
            }
            None => {}
        }
        if let Source::Log { segment, offset, .. } = extent.source {
            size += varint_len(u64::from(segment)) + varint_len(u64::from(offset) / ATOM as u64);
        }
        (end, before) = (extent.start.saturating_add(extent.len), from);
    }
    // A longer list is refused for its length already.
    if size <= MAX_INLINE_EXTENTS {
        let owners = Owners::of(extents.iter().filter_map(|extent| writer_of(&extent.source)).map(|(owner, _)| owner));
        if owners.0.len() > MAX_INLINE_OWNERS {
            return MAX_INLINE_EXTENTS + 1;
        }
    }
    size
}
