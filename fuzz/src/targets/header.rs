//! Headers of maps, with the inline root that opening a map decodes.

use archipelago_core::format::cached::Cached;
use archipelago_core::format::header::{Header, Kind, LogPos, LogStart, Root, SealedRange};
use archipelago_core::format::node::{Entry, Node, Pointer};
use archipelago_core::format::relations::{Group, Received, Transfer};
use archipelago_core::format::stream::{Identity, Progress};
use archipelago_core::limits::{MAX_INLINE_ROOT, MAX_RANGES, MAX_RECORD, MAX_VOLUME_SIZE};
use archipelago_core::{Labels, VolumeId, fuzzing};

use super::refused;
use crate::Target;

/// A header.
pub const HEADER: Target =
    Target { name: "header", check: header, seeds, max_len: MAX_RECORD, memory: 128 << 10, cost: 1 };

fn header(input: &[u8]) {
    let read = match Header::decode("header", input) {
        Ok(read) => read,
        Err(error) => return refused(&error),
    };
    assert_eq!(read.encode(), input, "another form of the header than the one that is written");
    assert!(read.size >= 1 && read.size <= MAX_VOLUME_SIZE && (16..=26).contains(&read.block_shift));
    assert!(read.ranges.len() <= MAX_RANGES && read.name.len() <= 255 && read.id.0 != 0);
    if let Root::Inline(leaf) = &read.root {
        assert!(leaf.len() <= MAX_INLINE_ROOT);
    }
    if let Err(error) = fuzzing::root(&read) {
        refused(&error);
    }
}

pub(super) fn plain() -> Header {
    Header {
        id: VolumeId(0xa1),
        kind: Kind::Volume,
        name: "volume-1".into(),
        removed: false,
        shrunk: false,
        size: 1 << 30,
        block_shift: 22,
        epoch: 2,
        created: 5,
        parent: VolumeId(0),
        birth: 0,
        key: 0,
        domain: 0,
        root: Root::Empty,
        ranges: Vec::new(),
        log: None,
        received: Received::No,
        group: Group::No,
        labels: Labels::default(),
        cached: None,
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let start = |offset, seq| LogStart { pos: LogPos { segment: 1, offset }, seq, generation: 9 };
    let range = SealedRange {
        owner: VolumeId(7),
        from: start(512, 1),
        to: LogPos { segment: 2, offset: 1024 },
        epoch: 1,
        size: 1 << 20,
    };
    let pointer = Pointer { owner: VolumeId(7), pack: 1, offset: 64, len: 512, mapped: 1024, hash: [3; 32] };
    let leaf = Node::Leaf(vec![(3, Entry::Owned { owner: VolumeId(7), epoch: 1 })]);
    let leaf = leaf.encode(VolumeId(0xa1), 0).expect("a sound leaf");
    let identity = Identity { store: [3; 16], id: VolumeId(8) };
    let progress = Progress { position: 8192, data: 4096, zeros: 4096, chain: [9; 32] };
    let transfer = Transfer { identity, base: Some(identity), progress };
    let of = vec![VolumeId(4), VolumeId(5)];
    let labels = Labels::default().with(&[("a", Some("1")), ("b.c", Some("ä 2"))]).expect("sound labels");
    [
        Header { labels, ..plain() },
        Header { cached: Some(Cached::new(7, "node-2")), ..plain() },
        Header { received: Received::Partly(Box::new(transfer)), ..plain() },
        Header { kind: Kind::Snapshot, received: Received::From(identity), ..plain() },
        Header { kind: Kind::Snapshot, group: Group::Member(VolumeId(3)), ..plain() },
        Header { kind: Kind::Group, size: 2, group: Group::Of(of), ..plain() },
        plain(),
        Header { kind: Kind::Snapshot, removed: true, name: String::new(), ..plain() },
        Header { root: Root::Node { level: 2, pointer }, log: Some(start(0, 4)), shrunk: true, ..plain() },
        Header { kind: Kind::Object, root: Root::Inline(leaf), ranges: vec![range; 8], ..plain() },
        Header { name: "n\u{e4}me".repeat(50), ..plain() },
    ]
    .map(|header| header.encode())
    .to_vec()
}
