//! `docs/format.md` and `docs/send-stream.md` against the code: every example in it is read straight out of the document, decoded, compared with
//! what the text says it holds, and encoded again to the same bytes.

use super::cache_log::{CacheHead, CacheRecord, Change, RECORD};
use super::cached::Cached;
use super::header::{Header, Kind, LogPos, LogStart, Root, SealedRange};
use super::labels::Labels;
use super::log::{self, Body, Found, RecordHead, Run, RunKind, SegmentHead};

use super::index::{self, IndexEntry, IndexHead, Slot};
use super::lease::{self, LeaseHead};
use super::node::{self, Entry, Extent, Node, Pointer, Source};
use super::owner::ShortOwner;
use super::record::{self, Slots};
use super::redirect::{self, RedirectEntry, RedirectHead};
use super::relations::{Group, Received};
use super::stream::{
    Base, FRAME_HEAD, FrameHead, FrameKind, HASH, Identity, Progress, ResumeToken, Sequence, StreamHeader,
};
use super::sums::SumAtom;
use super::superblock::Superblock;
use crate::blocker::rados::layout;
use crate::blocker::{RecordKey, VolumeId};
use crate::checksum;
use crate::digest::Digest;
use crate::error::Owner;
use crate::limits;

/// Both documents that show bytes.
const DOCUMENT: &str =
    concat!(include_str!("../../../docs/format.md"), "\n", include_str!("../../../docs/send-stream.md"));

/// The volume of the examples, and the image from whose snapshot it was cloned.
const VOLUME: VolumeId = VolumeId(0x5eed_0000_0000_00a1);
const IMAGE: VolumeId = VolumeId(0x1a6e_0000_0000_0042);

/// Text of the one fenced block that is opened by this line.
fn block(opening: &str) -> &'static str {
    let fence = format!("\n```{opening}\n");
    let mut parts = DOCUMENT.split(&fence).skip(1);
    let text = parts.next().unwrap_or_else(|| panic!("no block {opening:?}"));
    assert!(parts.next().is_none(), "two blocks {opening:?}");
    text.split("\n```").next().unwrap()
}

/// Bytes of the example `tag`. Each line of it is an offset, bytes, and a remark behind `;`. What no line shows is zero.
fn example(tag: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut end = 0;
    for line in block(&format!("hex {tag} {len}")).lines() {
        let mut words = line.split(';').next().unwrap().split_whitespace();
        let Some(offset) = words.next() else { continue };
        let offset = usize::from_str_radix(offset, 16).unwrap();
        assert!(offset >= end, "{tag}: {offset:04x} comes after {end:04x}");
        end = offset;
        for word in words {
            bytes[end] = u8::from_str_radix(word, 16).unwrap();
            end += 1;
        }
    }
    bytes
}

/// For pasting into the document when a structure changes.
#[track_caller]
fn same(tag: &str, encoded: &[u8]) {
    let shown = std::panic::catch_unwind(|| example(tag, encoded.len())).unwrap_or_default();
    if shown != encoded {
        let lines = encoded.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|byte| *byte != 0));
        let lines: Vec<_> = lines
            .map(|(n, line)| {
                let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{:04x}  {}", n * 16, hex.join(" "))
            })
            .collect();
        panic!("docs/format.md does not show\n```hex {tag} {}\n{}\n```", encoded.len(), lines.join("\n"));
    }
}

fn superblock() -> Superblock {
    let uuid = [0x3f, 0x1c, 0x9a, 0x52, 0x0e, 0x77, 0x4b, 0xd1, 0x8a, 0x60, 0x2d, 0x94, 0xc5, 0x13, 0xb8, 0xf6];
    Superblock { uuid, created: 1_770_000_000, block_shift: 22, mode: 0o660, group: 64030, incompat: 0, read_compat: 0 }
}

fn extents() -> Vec<Extent> {
    let log = |offset| Source::Log { owner: VOLUME, epoch: 2, segment: 0, offset };
    vec![
        Extent { start: 0, len: 256, source: Source::Data { owner: IMAGE, epoch: 1 } },
        Extent { start: 256, len: 1, source: log(0x600) },
        Extent { start: 258, len: 2, source: log(0x1800) },
        Extent { start: 512, len: 512, source: Source::Data { owner: VOLUME, epoch: 2 } },
    ]
}

fn extent_node() -> Vec<u8> {
    Node::Extents(extents()).encode(VOLUME, 130).unwrap()
}

fn leaf() -> Vec<u8> {
    let node = extent_node();
    let hash = *blake3::hash(&node).as_bytes();
    let pointer = Pointer { owner: VOLUME, pack: 0, offset: 0, len: node.len() as u32, mapped: 771, hash };
    let list = vec![
        Extent { start: 0, len: 16, source: Source::Data { owner: IMAGE, epoch: 1 } },
        Extent { start: 20, len: 1, source: Source::Data { owner: VOLUME, epoch: 2 } },
    ];
    let entries =
        vec![(0, Entry::Owned { owner: IMAGE, epoch: 1 }), (1, Entry::Extents(list)), (2, Entry::ExtentNode(pointer))];
    Node::Leaf(entries).encode(VOLUME, 128).unwrap()
}

fn inner() -> Vec<u8> {
    let node = leaf();
    let hash = *blake3::hash(&node).as_bytes();
    let pointer = Pointer {
        owner: VOLUME,
        pack: 0,
        offset: extent_node().len() as u32,
        len: node.len() as u32,
        mapped: 1024 + 17 + 771,
        hash,
    };
    Node::Inner { level: 1, children: vec![(1, pointer)] }.encode(VOLUME, 0).unwrap()
}

fn header() -> Header {
    let node = inner();
    let pointer = Pointer {
        owner: VOLUME,
        pack: 0,
        offset: (extent_node().len() + leaf().len()) as u32,
        len: node.len() as u32,
        mapped: 1812,
        hash: *blake3::hash(&node).as_bytes(),
    };
    let range = SealedRange {
        owner: IMAGE,
        from: LogStart { pos: LogPos { segment: 0, offset: 0 }, seq: 1, generation: 0 },
        to: LogPos { segment: 0, offset: 0x1a00 },
        epoch: 1,
        size: 2 << 30,
    };
    Header {
        id: VOLUME,
        kind: Kind::Volume,
        name: "web-server-1".into(),
        removed: false,
        shrunk: false,
        size: 10 << 30,
        block_shift: 22,
        epoch: 2,
        created: 1_770_000_000,
        parent: VolumeId(0x1a6e_0000_0000_0077),
        birth: 1,
        key: 0,
        domain: 0,
        root: Root::Node { level: 1, pointer },
        ranges: vec![range],
        log: Some(LogStart { pos: LogPos { segment: 0, offset: 0x3800 }, seq: 4, generation: 0x6e57 }),
        received: Received::No,
        group: Group::No,
        labels: Labels::default(),
        cached: None,
    }
}

/// The image's snapshot at the store of the examples, and one of the volume.
fn base_identity() -> Identity {
    Identity { store: superblock().uuid, id: VolumeId(0x1a6e_0000_0000_0077) }
}

fn monday_identity() -> Identity {
    Identity { store: superblock().uuid, id: VolumeId(0x5eed_0000_0000_00b2) }
}

fn received_header() -> Header {
    Header {
        id: VolumeId(0xc0b1_0000_0000_0009),
        kind: Kind::Snapshot,
        name: "web-monday".into(),
        root: Root::Empty,
        ranges: vec![],
        log: None,
        received: Received::From(monday_identity()),
        ..header()
    }
}

fn labelled_header() -> Header {
    let labels = [("ganeti.name", Some("d7a6.ext.disk0")), ("ganeti.uuid", Some("1f0c"))];
    Header {
        id: VolumeId(0x6a0e_0000_0000_0003),
        name: "vm-7-disk".into(),
        size: 64 << 20,
        epoch: 1,
        parent: VolumeId(0),
        root: Root::Empty,
        ranges: vec![],
        log: None,
        labels: Labels::default().with(&labels).unwrap(),
        ..header()
    }
}

fn cached_header() -> Header {
    Header {
        cached: Some(Cached::new(0xcac4_e000_0000_0001, "node-2")),
        labels: Labels::default(),
        ..labelled_header()
    }
}

fn group_header() -> Header {
    Header {
        id: VolumeId(0x6a0b_0000_0000_0001),
        kind: Kind::Group,
        name: String::new(),
        size: 2,
        epoch: 0,
        parent: VolumeId(0),
        root: Root::Empty,
        ranges: vec![],
        log: None,
        group: Group::Of(vec![VolumeId(0x5eed_0000_0000_00b3), VolumeId(0x5eed_0000_0000_00b4)]),
        ..header()
    }
}

fn stream_header() -> StreamHeader {
    StreamHeader {
        identity: monday_identity(),
        name: "web-monday".into(),
        size: 10 << 30,
        created: 1_770_000_000,
        block_shift: 22,
        base: Some(Base { identity: base_identity(), size: 2 << 30, name: "debian-12".into() }),
        sender: superblock().uuid,
        resumed: None,
    }
}

/// The frames of the example stream: head, payload, hash; and the progress before its end.
fn frames() -> (Vec<Vec<u8>>, Progress) {
    let bytes = stream_header().encode();
    let mut sequence = Sequence::new(stream_header().size, stream_header().start(&bytes));
    let mut payload = vec![0; 4096];
    payload[..5].copy_from_slice(b"hello");
    let mut frames = vec![];
    let mut before_end = Progress::default();
    for kind in [FrameKind::Data, FrameKind::Zeros, FrameKind::End] {
        let (payload, offset, len) = match kind {
            FrameKind::Data => (payload.clone(), 0x2090_0000, 4096),
            FrameKind::Zeros => (vec![], 0x2091_1000, 65536),
            _ => (sequence.totals().to_vec(), stream_header().size, 0),
        };
        before_end = *sequence.progress();
        let frame = FrameHead { kind, payload: payload.len() as u32, offset, len };
        let (head, hash) = sequence.write(frame, &payload).unwrap();
        frames.push([&head[..], &payload, &hash].concat());
    }
    (frames, before_end)
}

fn open_record() -> RecordHead {
    let synced = LogPos { segment: 0, offset: 0x200 };
    RecordHead { seq: 1, generation: 0x6e57, epoch: 2, synced, body: Body::Open { previous: 0 } }
}

fn map_record() -> (RecordHead, Vec<u8>) {
    let runs = vec![
        Run { start: 133_376, len: 1, kind: RunKind::Logged },
        Run { start: 135_168, len: 2048, kind: RunKind::Zero },
    ];
    let mut payload = vec![0; 4096];
    payload[..5].copy_from_slice(b"hello");
    payload[3072..3077].copy_from_slice(b"world");
    let synced = LogPos { segment: 0, offset: 0x400 };
    (RecordHead { seq: 2, generation: 0x6e57, epoch: 2, synced, body: Body::Map(runs) }, payload)
}

fn epoch_record() -> RecordHead {
    let synced = LogPos { segment: 0, offset: 0x3800 };
    RecordHead { seq: 4, generation: 0x6e57, epoch: 3, synced, body: Body::Epoch }
}

fn provisional_record() -> RecordHead {
    let synced = LogPos { segment: 0, offset: 0x3800 };
    let boot = [0x9c, 0x41, 0xd0, 0x7b, 0xe2, 0x58, 0x6f, 0xa0, 0x13, 0x4e, 0xc7, 0x85, 0x9b, 0x3d, 0x20, 0xf6];
    let runs = vec![Run { start: 143_360, len: 16, kind: RunKind::Data }];
    RecordHead { seq: 5, generation: 0x6e57, epoch: 3, synced, body: Body::Provisional { boot, runs } }
}

fn confirm_record() -> RecordHead {
    RecordHead { seq: 6, body: Body::Confirm { seq: 5 }, ..provisional_record() }
}

#[test]
fn the_record_file_of_the_document_holds_its_second_version() {
    let mut file = vec![0; record::RECORD_FILE as usize];
    for (version, payload) in [(1, &b"first"[..]), (2, b"second")] {
        let at = record::slot_of(version) as usize * record::SLOT;
        let slot = record::encode_slot(VOLUME.0, version, payload).unwrap();
        file[at..at + slot.len()].copy_from_slice(&slot);
    }
    same("record-file", &file);
    let read = record::decode_slots("example", &example("record-file", 8192)).unwrap();
    assert_eq!(read, Slots { id: VOLUME.0, version: 2, payload: b"second".to_vec() });
}

#[test]
fn the_record_on_rados_in_the_document_is_the_one_described() {
    let key = RecordKey::Header(VOLUME);
    let stored = layout::encode_record(key, 2, b"second");
    same("rados-record", &stored);
    assert_eq!(layout::decode_record(key, &example("rados-record", 26)), Ok((2, &b"second"[..])));
}

#[test]
fn the_superblock_of_the_document_is_the_one_described() {
    same("superblock", &superblock().encode());
    assert_eq!(Superblock::decode("example", &example("superblock", 64)).unwrap(), superblock());
}

#[test]
fn the_header_of_the_document_is_the_one_described() {
    let bytes = header().encode();
    same("header", &bytes);
    assert_eq!(Header::decode("example", &example("header", bytes.len())).unwrap(), header());
}

#[test]
fn the_cache_of_the_document_is_the_one_described() {
    let (store, id) = (superblock().uuid, 0xcac4_e000_0000_0001);
    let head = CacheHead { number: 2, store, volume: VOLUME, id, ring: 1 << 30, generation: 1, place: 640, seq: 7 };
    same("cache-head", &head.encode());
    assert_eq!(CacheHead::decode("example", &example("cache-head", limits::ATOM)).unwrap(), head);
    let record = CacheRecord { change: Change::Write, id, generation: 1, seq: 7, offset: 8192, len: 5 };
    let mut bytes = record.encode(std::iter::once(&b"hello"[..])).to_vec();
    bytes.extend(b"hello");
    bytes.resize(record.size() as usize, 0);
    same("cache-record", &bytes);
    let shown = example("cache-record", bytes.len());
    let (found, sum) = CacheRecord::decode(shown[..RECORD].try_into().unwrap()).unwrap();
    assert_eq!((found, sum), (record, CacheRecord::sum(shown[..RECORD].try_into().unwrap(), b"hello")));
}

#[test]
fn the_segment_of_the_document_begins_with_the_head_described() {
    let head = SegmentHead { owner: VOLUME, segment: 0, len: limits::FIRST_SEGMENT_SIZE as u32 };
    same("segment-head", &head.encode());
    assert_eq!(SegmentHead::decode("example", &example("segment-head", 512)).unwrap(), head);
}

#[test]
fn the_journal_records_of_the_document_are_those_described() {
    let (map, payload) = map_record();
    for (tag, head, payload) in [
        ("open-record", open_record(), vec![]),
        ("map-record", map, payload),
        ("epoch-record", epoch_record(), vec![]),
        ("provisional-record", provisional_record(), vec![]),
        ("confirm-record", confirm_record(), vec![]),
    ] {
        let mut bytes = log::encode_head(VOLUME, &head, &[&payload]).unwrap().to_vec();
        bytes.extend_from_slice(&payload);
        same(tag, &bytes);
        match log::parse("example", VOLUME, &example(tag, bytes.len())).unwrap() {
            Found::Record(found, len) => assert_eq!((found, len), (head, payload.len())),
            other => panic!("{tag}: {other:?}"),
        }
    }
}

#[test]
fn the_nodes_of_the_document_lead_from_one_to_the_next() {
    for (tag, bytes) in [("extent-node", extent_node()), ("leaf", leaf()), ("inner", inner())] {
        same(tag, &bytes);
    }
    let Root::Node { pointer, .. } = header().root else { unreachable!() };
    let inner = example("inner", pointer.len as usize);
    node::verify("example", &inner, &pointer).unwrap();
    let (Node::Inner { children, .. }, 0) = Node::decode("example", &inner).unwrap() else { panic!("no inner node") };
    let leaf = example("leaf", children[0].1.len as usize);
    node::verify("example", &leaf, &children[0].1).unwrap();
    let (Node::Leaf(entries), 128) = Node::decode("example", &leaf).unwrap() else { panic!("no leaf") };
    let (2, Entry::ExtentNode(pointer)) = entries[2] else { panic!("no extent node") };
    let list = example("extent-node", pointer.len as usize);
    node::verify("example", &list, &pointer).unwrap();
    assert_eq!(Node::decode("example", &list).unwrap(), (Node::Extents(extents()), 130));
}

/// A block of the image: `hello`, and zeros behind it.
fn content() -> Digest {
    Digest::of(b"hello\0\0").0
}

#[test]
fn the_content_node_of_the_document_is_the_one_described() {
    let live = Source::Data { owner: VOLUME, epoch: 2 };
    let extent = |start, len, source| Extent { start, len, source };
    let list = vec![
        extent(0, 16, Source::Content(content())),
        extent(16, 1, live),
        extent(17, 1007, Source::Content(content())),
    ];
    let node = Node::Leaf(vec![(0, Entry::Content(content())), (1, Entry::Extents(list))]);
    let bytes = node.encode(VOLUME, 0).unwrap();
    same("content-leaf", &bytes);
    assert_eq!(Node::decode("example", &example("content-leaf", bytes.len())).unwrap(), (node, 0));
}

#[test]
fn the_index_table_of_the_document_is_the_one_described() {
    let head = IndexHead { id: 0x1d1d, entries: 1 };
    let slot = Slot { owner: IMAGE, epoch: 1, block: 2, len: 5, shift: 22 };
    let entries = vec![IndexEntry { digest: content(), slot }];
    let mut table = head.encode().to_vec();
    table.resize(index::PAGE, 0);
    table.extend_from_slice(&index::encode_page(head.id, 0, &entries));
    same("index-table", &table);
    let shown = example("index-table", table.len());
    assert_eq!(IndexHead::decode("example", &shown[..limits::ATOM]).unwrap(), Some(head));
    assert_eq!(index::decode_page("example", &shown[index::PAGE..], head.id, 0).unwrap(), entries);
}

#[test]
fn the_redirect_table_of_the_document_is_the_one_described() {
    let head = RedirectHead { owner: IMAGE, epoch: 1, shift: 22, moved: false };
    let entry = RedirectEntry { digest: content(), len: 5, moved: false };
    let mut table = head.encode().to_vec();
    table.resize(redirect::place(2) as usize, 0);
    table.extend_from_slice(&entry.encode(2));
    same("redirect-table", &table);
    let shown = example("redirect-table", table.len());
    assert_eq!(RedirectHead::decode("example", &shown[..limits::ATOM]).unwrap(), Some(head));
    assert_eq!(RedirectEntry::decode("example", &shown[redirect::place(2) as usize..], 2, 22).unwrap(), Some(entry));
}

#[test]
fn the_checksums_of_the_document_are_those_described() {
    let mut atom = SumAtom::default();
    let mut hello = [0; limits::SECTOR as usize];
    hello[..5].copy_from_slice(b"hello");
    atom.set(0, checksum::crc32c(&hello));
    atom.set(2, checksum::crc32c(&[0; limits::SECTOR as usize]));
    let bytes = atom.encode(IMAGE, 1, 0);
    same("sums", &bytes);
    assert_eq!(SumAtom::decode("example", &example("sums", bytes.len()), IMAGE, 1, 0).unwrap(), atom);
}

#[test]
fn the_lease_of_the_document_is_the_one_described() {
    let (claim, part) = (0xc1a1_0000_0000_0001, 0xa57_0000_0000_0001);
    let head = LeaseHead { claim, part, ended: false, time: 1_770_000_000, claimant: "upload 7".into() };
    let mut file = head.encode().unwrap().to_vec();
    file.extend_from_slice(&lease::encode_atom(part, 1, &[content()]));
    same("lease", &file);
    let shown = example("lease", file.len());
    assert_eq!(LeaseHead::decode("example", &shown[..limits::ATOM]).unwrap(), Some(head));
    assert_eq!(lease::decode_atom("example", &shown[limits::ATOM..], part, 1).unwrap(), [content()]);
}

#[test]
fn the_owner_of_the_document_is_read_as_one() {
    let owner: Owner = serde_json::from_str(block("json owner")).unwrap();
    assert_eq!((owner.pid, owner.process.as_str()), (4711, "00c0ffee00c0ffee"));
    let short = ShortOwner::decode(block("text owner-link").as_bytes()).unwrap();
    assert_eq!(short, ShortOwner::of(&owner));
    assert_eq!(short.encode(), block("text owner-link"));
}

#[test]
fn the_headers_of_a_received_snapshot_and_of_a_group_in_the_document_are_those_described() {
    let shown = [
        ("received-header", received_header()),
        ("group-header", group_header()),
        ("labelled-header", labelled_header()),
        ("cached-header", cached_header()),
    ];
    for (tag, header) in shown {
        let bytes = header.encode();
        same(tag, &bytes);
        assert_eq!(Header::decode("example", &example(tag, bytes.len())).unwrap(), header);
    }
}

#[test]
fn the_stream_of_the_document_is_the_one_described() {
    let bytes = stream_header().encode();
    same("stream-header", &bytes);
    let shown = example("stream-header", bytes.len());
    let header = StreamHeader::decode(&shown).unwrap();
    assert_eq!(header, stream_header());
    let mut sequence = Sequence::new(header.size, header.start(&shown));
    let (frames, _) = frames();
    for (tag, frame) in ["stream-data", "stream-zeros", "stream-end"].into_iter().zip(frames) {
        same(tag, &frame);
        let shown = example(tag, frame.len());
        let (head, rest) = shown.split_at(FRAME_HEAD);
        let (payload, hash) = rest.split_at(rest.len() - HASH);
        sequence.accept(head.try_into().unwrap(), payload, hash).unwrap();
    }
    assert!(sequence.ended());
}

#[test]
fn the_token_of_the_document_is_the_one_described() {
    let (_, progress) = frames();
    let token = ResumeToken { identity: monday_identity(), base: Some(base_identity()), progress };
    let shown = std::panic::catch_unwind(|| block("text resume-token")).unwrap_or_default();
    assert_eq!(shown.replace('\n', ""), token.to_string());
    assert_eq!(shown.replace('\n', "").parse::<ResumeToken>().unwrap(), token);
}

#[test]
fn the_limits_of_the_document_are_those_of_the_code() {
    for (name, value) in [
        ("MAX_RECORD", limits::MAX_RECORD),
        ("MAX_FRAME", limits::MAX_FRAME),
        ("MARK_BYTES", limits::MARK_BYTES as usize),
        ("MAX_GROUP", limits::MAX_GROUP),
        ("MAX_NODE", limits::MAX_NODE),
        ("MAX_EXTENTS", limits::MAX_EXTENTS),
        ("MAX_INLINE_EXTENTS", limits::MAX_INLINE_EXTENTS),
        ("MAX_INLINE_OWNERS", super::extents::MAX_INLINE_OWNERS),
        ("MAX_INLINE_ROOT", limits::MAX_INLINE_ROOT),
        ("MAX_RANGES", limits::MAX_RANGES),
        ("MAX_RUNS", log::MAX_RUNS),
        ("MAX_LOGGED_WRITE", limits::MAX_LOGGED_WRITE),
        ("MAX_LEVEL", usize::from(node::MAX_LEVEL)),
        ("MAX_STORED_NAME", super::header::MAX_STORED_NAME),
    ] {
        let row = format!("| `{name}` | {value} |");
        assert!(DOCUMENT.contains(&row), "docs/format.md has no row {row:?}");
    }
}
