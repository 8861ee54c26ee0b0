//! Map headers (format.md, "Header").

use super::bytes::{Reader, Writer, bit_names};
use super::cached::{self, Cached};
use super::labels::{self, Labels};
use super::node::{MAX_LEVEL, Pointer};
use super::relations::{self, Group, Received};
use crate::blocker::VolumeId;
use crate::error::Result;
use crate::limits::{
    ATOM, MAX_BLOCK_SIZE, MAX_INLINE_ROOT, MAX_LABELS, MAX_RANGES, MAX_RECORD, MAX_VOLUME_SIZE, MIN_BLOCK_SIZE,
    MIN_VOLUME_SIZE,
};

/// Layout of headers written by this build.
pub const VERSION: u16 = 1;
/// Incompatible features of a map that this build knows.
pub const INCOMPAT_KNOWN: u64 = relations::KNOWN | labels::KNOWN | cached::KNOWN;
/// Longest stored name, in bytes; wider than what [`crate::name`] allows today.
pub const MAX_STORED_NAME: usize = 255;

/// First bytes of a header: `AHDR`.
const MAGIC: u32 = u32::from_le_bytes(*b"AHDR");
/// Bytes of a header before its parts of variable length.
const FIXED: usize = 96;
/// Bytes of a stored range.
const RANGE: usize = 56;
/// Bytes of a stored journal start.
const LOG_START: usize = 24;

const REMOVED: u8 = 1;
const SHRUNK: u8 = 2;

const EMPTY: u8 = 0;
const INLINE: u8 = 1;
const NODE: u8 = 2;

// The largest header fits a record.
const _: () = assert!(
    FIXED
        + MAX_INLINE_ROOT
        + MAX_RANGES * RANGE
        + LOG_START
        + relations::MAX_SIZE
        + 2
        + MAX_LABELS
        + cached::MAX_SIZE
        + MAX_STORED_NAME
        <= MAX_RECORD
);

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
    /// Send streams.
    pub received: Received,
    /// Group snapshots.
    pub group: Group,
    /// What programs note about it.
    pub labels: Labels,
    /// The cache that has the newest writes of a volume.
    pub cached: Option<Cached>,
}

impl LogPos {
    fn write(&self, writer: &mut Writer) {
        writer.u32(self.segment).u32(self.offset);
    }

    fn read(reader: &mut Reader<'_>) -> Result<LogPos> {
        let pos = LogPos { segment: reader.u32()?, offset: reader.u32()? };
        reader.require((pos.offset as usize).is_multiple_of(ATOM), "a journal position is not a multiple of 512")?;
        Ok(pos)
    }
}

impl LogStart {
    fn write(&self, writer: &mut Writer) {
        self.pos.write(writer);
        writer.u64(self.seq).u64(self.generation);
    }

    fn read(reader: &mut Reader<'_>) -> Result<LogStart> {
        Ok(LogStart { pos: LogPos::read(reader)?, seq: reader.u64()?, generation: reader.u64()? })
    }
}

impl SealedRange {
    fn write(&self, writer: &mut Writer) {
        writer.u64(self.owner.0);
        self.from.write(writer);
        self.to.write(writer);
        writer.u64(self.epoch).u64(self.size);
    }

    fn read(reader: &mut Reader<'_>) -> Result<SealedRange> {
        let (owner, from, to) = (VolumeId(reader.u64()?), LogStart::read(reader)?, LogPos::read(reader)?);
        let range = SealedRange { owner, from, to, epoch: reader.u64()?, size: reader.u64()? };
        reader.require(range.owner.0 != 0, "a sealed journal has no owner")?;
        reader.require(range.from.pos <= range.to, "a sealed journal ends before it starts")?;
        reader.require(range.size <= MAX_VOLUME_SIZE, "a sealed journal is of an impossible size")?;
        Ok(range)
    }
}

impl Header {
    /// The stored form.
    ///
    /// What [`Header::decode`] refuses (a name, root or list of ranges past its limit, an impossible size) is the
    /// caller's to avoid: it is encoded as it is, and read as damage.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Volume => 1,
            Kind::Snapshot => 2,
            Kind::Object => 3,
            Kind::Group => 4,
        };
        let flags = if self.removed { REMOVED } else { 0 } | if self.shrunk { SHRUNK } else { 0 };
        let (root_kind, level, inline) = match &self.root {
            Root::Empty => (EMPTY, 0, 0),
            Root::Inline(leaf) => (INLINE, 0, leaf.len()),
            Root::Node { level, .. } => (NODE, *level, 0),
        };
        let mut writer = Writer::with_capacity(FIXED + 512);
        writer.u32(MAGIC).u16(VERSION).u8(kind).u8(flags);
        writer.u64(
            self.received.feature() | self.group.feature() | self.labels.feature() | Cached::feature(&self.cached),
        );
        writer.u64(self.id.0).u64(self.size).u64(self.epoch).u64(self.created).u64(self.parent.0).u64(self.birth);
        writer.u64(self.key).u64(self.domain).u8(self.block_shift).u8(root_kind).u8(level);
        writer.u8(u8::from(self.log.is_some()));
        writer.u16(self.ranges.len() as u16).u16(inline as u16).u16(self.name.len() as u16).pad_to(FIXED);
        match &self.root {
            Root::Empty => {}
            Root::Inline(leaf) => {
                writer.bytes(leaf);
            }
            Root::Node { pointer, .. } => pointer.write(&mut writer),
        }
        for range in &self.ranges {
            range.write(&mut writer);
        }
        if let Some(log) = &self.log {
            log.write(&mut writer);
        }
        self.received.write(&mut writer);
        self.group.write(&mut writer);
        self.labels.write(&mut writer);
        if let Some(cached) = &self.cached {
            cached.write(&mut writer);
        }
        writer.bytes(self.name.as_bytes());
        writer.finish()
    }

    /// Reads the stored form. `object` names it in errors.
    ///
    /// A later version or a feature that is not known here is [`TooNew`](crate::Error::TooNew). An inline root is not
    /// decoded.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Header> {
        let mut reader = Reader::new(object, bytes);
        if reader.u32()? != MAGIC {
            return reader.damaged("something else lies where a header must be");
        }
        match reader.u16()? {
            VERSION => {}
            0 => return reader.damaged("a header of version 0"),
            later => return reader.too_new(format!("a header of version {later}")),
        }
        let (kind, flags, incompat) = (reader.u8()?, reader.u8()?, reader.u64()?);
        if incompat & !INCOMPAT_KNOWN != 0 {
            return reader.too_new(format!("the map uses feature {}", bit_names(incompat & !INCOMPAT_KNOWN)));
        }
        let kind = match kind {
            1 => Kind::Volume,
            2 => Kind::Snapshot,
            3 => Kind::Object,
            4 => Kind::Group,
            0 => return reader.damaged("a header of no kind"),
            later => return reader.too_new(format!("a map of kind {later}")),
        };
        if flags & !(REMOVED | SHRUNK) != 0 {
            return reader.too_new(format!("the map has flag {}", bit_names(u64::from(flags & !(REMOVED | SHRUNK)))));
        }
        let (id, size, epoch, created) = (VolumeId(reader.u64()?), reader.u64()?, reader.u64()?, reader.u64()?);
        let (parent, birth, key, domain) = (VolumeId(reader.u64()?), reader.u64()?, reader.u64()?, reader.u64()?);
        if key != 0 {
            return reader.too_new("the map is encrypted");
        }
        if domain != 0 {
            return reader.too_new("the map uses a content domain");
        }
        let (block_shift, root_kind, level, has_log) = (reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?);
        let (ranges, inline, name) = (reader.u16()?, usize::from(reader.u16()?), usize::from(reader.u16()?));
        let reserved = reader.array::<6>()?;
        reader.require(reserved == [0; 6], "bytes that must be zero are not")?;
        reader.require(id.0 != 0, "the map has no id")?;
        reader.require((MIN_VOLUME_SIZE..=MAX_VOLUME_SIZE).contains(&size), "the size of the map is impossible")?;
        let shifts = MIN_BLOCK_SIZE.trailing_zeros()..=MAX_BLOCK_SIZE.trailing_zeros();
        reader.require(shifts.contains(&u32::from(block_shift)), "the block size of the map is impossible")?;
        reader
            .require(has_log <= 1 && (root_kind == NODE || level == 0), "the parts of the map do not fit together")?;
        reader.require(root_kind == INLINE || inline == 0, "the parts of the map do not fit together")?;
        reader.require(usize::from(ranges) <= MAX_RANGES, "the map has too many sealed journals")?;
        reader.require(inline <= MAX_INLINE_ROOT && name <= MAX_STORED_NAME, "a part of the map is too long")?;
        let root = match root_kind {
            EMPTY => Root::Empty,
            INLINE => Root::Inline(reader.take(inline)?.to_vec()),
            NODE => {
                reader.require(level <= MAX_LEVEL, "the level of the root is impossible")?;
                Root::Node { level, pointer: Pointer::read(&mut reader)? }
            }
            later => return reader.too_new(format!("a root of kind {later}")),
        };
        let ranges = (0..ranges).map(|_| SealedRange::read(&mut reader)).collect::<Result<Vec<_>>>()?;
        let log = if has_log == 1 { Some(LogStart::read(&mut reader)?) } else { None };
        let received = Received::read(&mut reader, incompat, kind, size)?;
        let group = Group::read(&mut reader, incompat, kind, size)?;
        let labels = Labels::read(&mut reader, incompat, kind)?;
        let cached = Cached::read(&mut reader, incompat, kind)?;
        let plain = root == Root::Empty && ranges.is_empty() && log.is_none();
        reader.require(plain || kind != Kind::Group, "a group has data of its own")?;
        let name = match std::str::from_utf8(reader.take(name)?) {
            Ok(name) => name.to_string(),
            Err(_) => return reader.damaged("the name of the map is not UTF-8"),
        };
        reader.end()?;
        let (removed, shrunk) = (flags & REMOVED != 0, flags & SHRUNK != 0);
        Ok(Header {
            id,
            kind,
            name,
            removed,
            shrunk,
            size,
            block_shift,
            epoch,
            created,
            parent,
            birth,
            key,
            domain,
            root,
            ranges,
            log,
            received,
            group,
            labels,
            cached,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::format::relations::Transfer;
    use crate::format::stream::{Identity, Progress};
    use crate::limits::{MAX_GROUP, MAX_LABEL_VALUE};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn start(n: u32) -> LogStart {
        LogStart { pos: LogPos { segment: n, offset: 512 }, seq: 9, generation: 77 }
    }

    fn transfer() -> Transfer {
        let identity = Identity { store: [3; 16], id: VolumeId(8) };
        let progress = Progress { position: 8192, data: 4096, zeros: 4096, chain: [9; 32] };
        Transfer { identity, base: Some(identity), progress }
    }

    fn largest() -> Header {
        let range = SealedRange {
            owner: VolumeId(5),
            from: start(1),
            to: LogPos { segment: 4, offset: 1024 },
            epoch: 3,
            size: MAX_VOLUME_SIZE,
        };
        Header {
            id: VolumeId(7),
            kind: Kind::Volume,
            name: "n".repeat(MAX_STORED_NAME),
            removed: true,
            shrunk: true,
            size: MAX_VOLUME_SIZE,
            block_shift: 26,
            epoch: u64::MAX,
            created: 1_700_000_000,
            parent: VolumeId(6),
            birth: 12,
            key: 0,
            domain: 0,
            root: Root::Inline(vec![0xee; MAX_INLINE_ROOT]),
            ranges: vec![range; MAX_RANGES],
            log: Some(start(5)),
            received: Received::Partly(Box::new(transfer())),
            group: Group::No,
            labels: full_labels(),
            cached: Some(Cached::new(u64::MAX, &"h".repeat(cached::MAX_HOST))),
        }
    }

    /// As many as fit.
    fn full_labels() -> Labels {
        let (long, rest) = ("v".repeat(MAX_LABEL_VALUE), "v".repeat(MAX_LABELS - 3 * (3 + MAX_LABEL_VALUE) - 3));
        let all =
            [("a", &long), ("b", &long), ("c", &long), ("d", &rest)].map(|(key, value)| (key, Some(value.as_str())));
        Labels::default().with(&all).unwrap()
    }

    #[test]
    fn the_largest_header_fits_a_record() {
        let bytes = largest().encode();
        assert_eq!(bytes.len(), 3050);
        assert!(bytes.len() <= MAX_RECORD);
        assert_eq!(Header::decode("h", &bytes).unwrap(), largest());
    }

    #[test]
    fn a_header_past_any_limit_is_refused() {
        let edits: [fn(&mut Header); 19] = [
            |h| h.cached = Some(Cached { id: 0, host: "h".into() }),
            |h| h.cached = Some(Cached { id: 1, host: "h\n".into() }),
            |h| h.id = VolumeId(0),
            |h| h.size = 0,
            |h| h.size = MAX_VOLUME_SIZE + 1,
            |h| h.block_shift = 15,
            |h| h.block_shift = 27,
            |h| h.name.push('n'),
            |h| h.root = Root::Inline(vec![0; MAX_INLINE_ROOT + 1]),
            |h| h.ranges.push(h.ranges[0]),
            |h| h.ranges[3].owner = VolumeId(0),
            |h| h.ranges[3].to = LogPos { segment: 1, offset: 0 },
            |h| h.ranges[3].size = MAX_VOLUME_SIZE + 1,
            |h| h.ranges[3].to.offset = 513,
            |h| h.log = Some(LogStart { pos: LogPos { segment: 0, offset: 1 }, ..start(0) }),
            |h| h.root = Root::Node { level: MAX_LEVEL + 1, pointer: pointer(1, 100) },
            |h| h.root = Root::Node { level: 1, pointer: pointer(0, 100) },
            |h| h.root = Root::Node { level: 1, pointer: pointer(1, 0) },
            |h| h.root = Root::Node { level: 1, pointer: pointer(1, 20_000) },
        ];
        for (n, edit) in edits.iter().enumerate() {
            let mut header = largest();
            edit(&mut header);
            let decoded = Header::decode("h", &header.encode());
            assert!(matches!(decoded, Err(Error::Damaged { .. })), "edit {n}");
        }
    }

    #[test]
    fn an_unknown_feature_is_named_and_asks_for_a_newer_version() {
        let bytes = largest().encode();
        for (at, value, says) in [
            (4, 2, "version 2"),
            (6, 5, "kind 5"),
            (7, 4, "flag bit 2"),
            (8, 0b111010, "feature bit 5"),
            (15, 0x81, "feature bits 56, 63"),
            (64, 1, "encrypted"),
            (72, 1, "content domain"),
        ] {
            let mut later = bytes.clone();
            later[at] = value;
            let error = Header::decode("h", &later).unwrap_err();
            assert!(matches!(error, Error::TooNew { .. }) && error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_header_cut_short_anywhere_or_with_a_tail_is_damaged() {
        let mut bytes = largest().encode();
        for len in 0..bytes.len() {
            assert!(matches!(Header::decode("h", &bytes[..len]), Err(Error::Damaged { .. })), "{len}");
        }
        bytes.push(0);
        assert!(Header::decode("h", &bytes).is_err());
        let mut bytes = largest().encode();
        *bytes.last_mut().unwrap() = 0xff;
        assert!(Header::decode("h", &bytes).is_err(), "a name that is not UTF-8");
    }

    fn pointer(owner: u64, len: u32) -> Pointer {
        Pointer { owner: VolumeId(owner), pack: 3, offset: 512, len, mapped: 9, hash: [7; 32] }
    }

    fn any_pos() -> impl Strategy<Value = LogPos> {
        (any::<u32>(), 0u32..1 << 23).prop_map(|(segment, n)| LogPos { segment, offset: n * 512 })
    }

    fn any_start() -> impl Strategy<Value = LogStart> {
        (any_pos(), any::<u64>(), any::<u64>()).prop_map(|(pos, seq, generation)| LogStart { pos, seq, generation })
    }

    fn any_range() -> impl Strategy<Value = SealedRange> {
        (1u64.., any_start(), any_pos(), any::<u64>(), 0..=MAX_VOLUME_SIZE).prop_map(
            |(owner, from, to, epoch, size)| SealedRange {
                owner: VolumeId(owner),
                from,
                to: to.max(from.pos),
                epoch,
                size,
            },
        )
    }

    fn any_root() -> impl Strategy<Value = Root> {
        prop_oneof![
            Just(Root::Empty),
            vec(any::<u8>(), 0..=MAX_INLINE_ROOT).prop_map(Root::Inline),
            (0..=MAX_LEVEL, 1u64.., 32u32..16384)
                .prop_map(|(level, owner, len)| Root::Node { level, pointer: pointer(owner, len) }),
        ]
    }

    fn any_labels() -> impl Strategy<Value = Labels> {
        vec(("[a-z.]{1,20}", "[a-zé ]{1,40}"), 0..4).prop_map(|list| {
            let changes: Vec<_> = list.iter().map(|(key, value)| (key.as_str(), Some(value.as_str()))).collect();
            Labels::default().with(&changes).unwrap()
        })
    }

    prop_compose! {
        fn any_header()(
            (id, parent, epoch) in (1u64.., any::<u64>(), any::<u64>()), (created, birth) in any::<(u64, u64)>(),
            kind in prop::sample::select(vec![Kind::Volume, Kind::Snapshot, Kind::Object, Kind::Group]),
            name in "[a-zé@_]{0,80}", (removed, shrunk) in any::<(bool, bool)>(),
            size in MIN_VOLUME_SIZE..=MAX_VOLUME_SIZE, block_shift in 16u8..=26, root in any_root(),
            ranges in vec(any_range(), 0..=MAX_RANGES), log in proptest::option::of(any_start()),
            tie in 0u8..4, labels in any_labels(), members in prop::collection::btree_set(1u64.., 1..=MAX_GROUP),
        ) -> Header {
            let (id, parent) = (VolumeId(id), VolumeId(parent));
            let plain = Header { id, kind, name, removed, shrunk, size, block_shift, epoch, created, parent, birth, key: 0,
                domain: 0, root, ranges, log, received: Received::No, group: Group::No,
                labels: if kind == Kind::Volume || kind == Kind::Snapshot { labels } else { Labels::default() }, cached: None };
            match (kind, tie) {
                (Kind::Group, _) => Header { size: members.len() as u64, root: Root::Empty, ranges: vec![], log: None,
                    group: Group::Of(members.into_iter().map(VolumeId).collect()), ..plain },
                (Kind::Volume, 1) if size >= 8192 => Header { received: Received::Partly(Box::new(transfer())), ..plain },
                (Kind::Volume, 2) => Header { cached: Some(Cached::new(epoch.max(1), "host-é")), ..plain },
                (Kind::Snapshot, 1) => Header { received: Received::From(transfer().identity), ..plain },
                (Kind::Snapshot, 2) => Header { group: Group::Member(VolumeId(5)), ..plain },
                _ => plain,
            }
        }
    }

    proptest! {
        #[test]
        fn any_header_comes_back_as_written(header in any_header()) {
            prop_assert_eq!(Header::decode("h", &header.encode()).unwrap(), header);
        }

        #[test]
        fn altered_headers_are_refused_or_canonical(
            header in any_header(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = header.encode();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(header) = Header::decode("h", &bytes) { prop_assert_eq!(header.encode(), bytes); }
        }

        #[test]
        fn any_bytes_are_refused(bytes in vec(any::<u8>(), 0..4000)) {
            prop_assert!(Header::decode("h", &bytes).is_err());
        }
    }
}
