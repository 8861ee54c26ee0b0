//! What a map has to do with others: the snapshot that it is a copy of, the group that it belongs to (format.md, "Header").

use super::bytes::{Reader, Writer};
use super::header::Kind;
use super::stream::{Identity, Progress};
use crate::blocker::VolumeId;
use crate::error::Result;
use crate::limits::MAX_GROUP;

/// Feature bit: the map is a snapshot that was received.
const ORIGIN: u64 = 1;
/// Feature bit: the map is being received.
const RECEIVING: u64 = 2;
/// Feature bit: the map is a group, or a member of one that is not settled.
const GROUP: u64 = 4;
/// Feature bits of headers that belong to the parts here.
pub(super) const KNOWN: u64 = ORIGIN | RECEIVING | GROUP;
/// Most bytes of the parts here in one header that has anything else.
pub(super) const MAX_SIZE: usize = 24 + 24 + 56 + 8;

// The header of a group has nothing else but these and its name.
const _: () = assert!(8 * MAX_GROUP < crate::limits::MAX_INLINE_ROOT);

/// What a map has to do with send streams (docs/send-stream.md).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Received {
    /// Nothing.
    #[default]
    No,
    /// A snapshot that was received: the identity of the one that was sent.
    From(Identity),
    /// It is being received, and nobody else may use it.
    Partly(Box<Transfer>),
}

/// A stream that is being received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// The snapshot that it will be.
    pub identity: Identity,
    /// The base of the stream.
    pub base: Option<Identity>,
    /// What was received, and is durable.
    pub progress: Progress,
}

/// What a map has to do with group snapshots.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Group {
    /// Nothing.
    #[default]
    No,
    /// A snapshot of this group, which counts only if the group's header is there and names it.
    Member(VolumeId),
    /// A group: the ids of its snapshots.
    Of(Vec<VolumeId>),
}

impl Received {
    pub(super) fn feature(&self) -> u64 {
        match self {
            Received::No => 0,
            Received::From(_) => ORIGIN,
            Received::Partly(_) => RECEIVING,
        }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        match self {
            Received::No => {}
            Received::From(identity) => identity.write(writer),
            Received::Partly(transfer) => {
                transfer.identity.write(writer);
                Identity::write_option(&transfer.base, writer);
                transfer.progress.write(writer);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>, features: u64, kind: Kind, size: u64) -> Result<Received> {
        match (features & ORIGIN != 0, features & RECEIVING != 0) {
            (false, false) => Ok(Received::No),
            (true, false) => {
                let identity = Identity::read(reader)?;
                reader.require(kind == Kind::Snapshot && identity.id.0 != 0, "the origin of the map is impossible")?;
                Ok(Received::From(identity))
            }
            (false, true) => {
                let (identity, base) = (Identity::read(reader)?, Identity::read_option(reader)?);
                let progress = Progress::read(reader)?;
                reader.require(kind == Kind::Volume && identity.id.0 != 0, "what is being received is impossible")?;
                reader.require(progress.fits(size), "more was received than there is")?;
                Ok(Received::Partly(Box::new(Transfer { identity, base, progress })))
            }
            (true, true) => reader.damaged("the map was received and is being received"),
        }
    }
}

impl Group {
    pub(super) fn feature(&self) -> u64 {
        if *self == Group::No { 0 } else { GROUP }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        let ids = match self {
            Group::No => &[],
            Group::Member(group) => std::slice::from_ref(group),
            Group::Of(members) => &members[..],
        };
        for id in ids {
            writer.u64(id.0);
        }
    }

    /// The size of a group is the number of its members.
    pub(super) fn read(reader: &mut Reader<'_>, features: u64, kind: Kind, size: u64) -> Result<Group> {
        match (features & GROUP != 0, kind) {
            (false, Kind::Group) => reader.damaged("a group without members"),
            (false, _) => Ok(Group::No),
            (true, Kind::Group) => {
                reader.require(size <= MAX_GROUP as u64, "a group has too many members")?;
                let members = (0..size).map(|_| reader.u64().map(VolumeId)).collect::<Result<Vec<_>>>()?;
                let ordered = members.is_sorted_by(|a, b| a < b) && members.first().is_some_and(|id| id.0 != 0);
                reader.require(ordered, "the members of a group are out of order")?;
                Ok(Group::Of(members))
            }
            (true, Kind::Snapshot) => {
                let group = VolumeId(reader.u64()?);
                reader.require(group.0 != 0, "the group of the map has no id")?;
                Ok(Group::Member(group))
            }
            (true, _) => reader.damaged("only snapshots belong to groups"),
        }
    }
}
