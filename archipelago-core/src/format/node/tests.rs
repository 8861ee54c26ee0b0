use super::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

const OWNER: VolumeId = VolumeId(0xa1a2_a3a4_a5a6_a7a8);

fn data(owner: u64, epoch: u64) -> Source {
    Source::Data { owner: VolumeId(owner), epoch }
}

fn extent(start: u16, len: u16, source: Source) -> Extent {
    Extent { start, len, source }
}

fn pointer(n: u8) -> Pointer {
    Pointer { owner: VolumeId(u64::MAX), pack: 7, offset: 4096, len: MAX_NODE as u32, mapped: 1 << 40, hash: [n; 32] }
}

fn round_trip(node: &Node, base: u64) -> Vec<u8> {
    let bytes = node.encode(OWNER, base).unwrap();
    assert!(bytes.len() <= MAX_NODE);
    assert_eq!(Node::decode("n", &bytes).unwrap(), (node.clone(), base));
    bytes
}

/// A list of seven owners that fills the inline limit to the last byte.
fn fullest_list(salt: u64) -> Vec<Extent> {
    let epochs = [u64::MAX, u64::MAX, u64::MAX, 1 << 7, 1, 1, 1];
    let list = |count: usize| -> Vec<Extent> {
        (0..count).map(|n| extent(n as u16 * 2, 1, data(u64::MAX - salt * 7 - n as u64, epochs[n]))).collect()
    };
    let list = list(7);
    assert_eq!(inline_size(&list), MAX_INLINE_EXTENTS);
    list
}

#[test]
fn the_worst_node_of_each_kind_fits_its_limit() {
    let leaf = Node::Leaf((0..128).map(|slot| (slot, Entry::Extents(fullest_list(u64::from(slot))))).collect());
    // The first 128 owners have indexes of one byte, where the size of a list counts two.
    assert_eq!(round_trip(&leaf, 0).len(), HEAD + BITMAP + 2 + 896 * 8 + 128 * 65 - 128);
    let leaf = Node::Leaf((0..128).map(|slot| (slot, Entry::ExtentNode(pointer(slot)))).collect());
    assert_eq!(round_trip(&leaf, 128).len(), HEAD + BITMAP + 1 + 128 * 65);
    let inner = Node::Inner { level: 6, children: (0..128).map(|slot| (slot, pointer(slot))).collect() };
    assert_eq!(round_trip(&inner, 0).len(), HEAD + BITMAP + 128 * 64);
    let list = (0..MAX_EXTENTS as u64).map(|n| {
        let source =
            Source::Log { owner: VolumeId(u64::MAX - n), epoch: u64::MAX, segment: u32::MAX, offset: u32::MAX - 511 };
        extent(n as u16 * 64, 50, source)
    });
    assert!(round_trip(&Node::Extents(list.collect()), MAX_BLOCKS - 1).len() < 8800);
}

#[test]
fn a_leaf_of_one_owner_is_small_enough_to_stay_in_the_header() {
    let leaf = Node::Leaf((0..128).map(|slot| (slot, Entry::Owned { owner: OWNER, epoch: 3 })).collect());
    let len = round_trip(&leaf, 0).len();
    assert_eq!(len, HEAD + BITMAP + 1 + 8 + 128 * 3);
    assert!(len <= crate::limits::MAX_INLINE_ROOT);
}

#[test]
fn neighbours_of_one_source_share_its_owner_and_epoch() {
    let log = |segment, offset| Source::Log { owner: OWNER, epoch: 1, segment, offset };
    let apart = [extent(0, 1, data(1, 1)), extent(1, 1, data(2, 1)), extent(2, 1, data(2, 2))];
    let alike = [extent(0, 1, data(1, 1)), extent(1, 1, data(1, 1)), extent(9, 1, data(1, 1))];
    assert_eq!(inline_size(&apart), 1 + 3 * 5);
    assert_eq!(inline_size(&alike), 1 + 5 + 2 * 2);
    let mixed = vec![extent(0, 3, log(0, 512)), extent(3, 3, data(OWNER.0, 1)), extent(6, 1, log(3, 1 << 20))];
    round_trip(&Node::Leaf(vec![(5, Entry::Extents(mixed.clone()))]), 256);
    round_trip(&Node::Extents(mixed), 77);
}

#[test]
fn a_list_is_kept_inline_exactly_when_its_size_says_so() {
    for count in 1..=MAX_EXTENTS {
        for owners in 1..=count.min(9) {
            let list: Vec<_> = (0..count).map(|n| extent(n as u16 * 2, 1, data(1 + (n % owners) as u64, 1))).collect();
            let fits = inline_size(&list) <= MAX_INLINE_EXTENTS;
            assert!(!fits || owners <= MAX_INLINE_OWNERS);
            let leaf = Node::Leaf(vec![(0, Entry::Extents(list.clone()))]);
            assert_eq!(leaf.encode(OWNER, 0).is_ok(), fits, "{count} {owners}");
            round_trip(&Node::Extents(list), 5);
        }
    }
}

#[test]
fn a_node_that_breaks_an_invariant_is_not_encoded() {
    let owned = Entry::Owned { owner: OWNER, epoch: 1 };
    let child = |edit: fn(&mut Pointer)| {
        let mut pointer = pointer(1);
        edit(&mut pointer);
        Node::Inner { level: 1, children: vec![(0, pointer)] }
    };
    let full: Vec<_> = (0..65).map(|n| extent(n, 1, data(1, 1))).collect();
    for (node, base) in [
        (Node::Leaf(vec![(128, owned.clone())]), 0),
        (Node::Leaf(vec![(3, owned.clone()), (3, owned.clone())]), 0),
        (Node::Leaf(vec![(4, owned.clone()), (3, owned.clone())]), 0),
        (Node::Leaf(vec![(3, owned.clone())]), 5),
        (Node::Leaf(vec![(3, owned)]), MAX_BLOCKS),
        (Node::Leaf(vec![(3, Entry::Owned { owner: VolumeId(0), epoch: 1 })]), 0),
        (Node::Leaf(vec![(3, Entry::Extents(vec![]))]), 0),
        (Node::Inner { level: 0, children: vec![] }, 0),
        (Node::Inner { level: 7, children: vec![] }, 0),
        (Node::Inner { level: 1, children: vec![(200, pointer(0))] }, 0),
        (Node::Inner { level: 2, children: vec![] }, 128 * 128),
        (child(|pointer| pointer.owner = VolumeId(0)), 0),
        (child(|pointer| pointer.len = 31), 0),
        (child(|pointer| pointer.len = MAX_NODE as u32 + 1), 0),
        (child(|pointer| pointer.offset = u32::MAX), 0),
        (child(|pointer| pointer.mapped = u64::MAX), 0),
        (Node::Extents(vec![]), 0),
        (Node::Extents(full), 0),
        (Node::Extents(vec![extent(0, 1, Source::Zero)]), 0),
        (Node::Extents(vec![extent(0, 0, data(1, 1))]), 0),
        (Node::Extents(vec![extent(0, 1, data(0, 1))]), 0),
        (Node::Extents(vec![extent(16383, 2, data(1, 1))]), 0),
        (Node::Extents(vec![extent(u16::MAX, u16::MAX, data(1, 1))]), 0),
        (Node::Extents(vec![extent(4, 4, data(1, 1)), extent(7, 1, data(1, 1))]), 0),
        (Node::Extents(vec![extent(4, 4, data(1, 1)), extent(2, 1, data(1, 1))]), 0),
        (Node::Extents(vec![extent(0, 1, Source::Log { owner: OWNER, epoch: 0, segment: 0, offset: 100 })]), 0),
    ] {
        assert!(matches!(node.encode(OWNER, base), Err(Error::Damaged { .. })), "{node:?} at {base}");
    }
    assert!(Node::Leaf(vec![]).encode(VolumeId(0), 0).is_err());
    round_trip(&Node::Leaf(vec![]), 128);
    round_trip(&Node::Inner { level: 2, children: vec![] }, 128 * 128 * 128);
    round_trip(&Node::Extents(vec![extent(16383, 1, data(1, 1))]), 0);
}

#[test]
fn content_is_named_by_entries_and_extents_and_a_digest_is_given_once_in_a_list() {
    let content = |n: u8| Source::Content(Digest([n; 32]));
    let list = vec![
        extent(0, 4, content(7)),
        extent(4, 1, data(3, 1)),
        extent(5, 2, content(7)),
        extent(9, 1, content(7)),
        extent(10, 1, content(3)),
        extent(11, 1, content(7)),
    ];
    // Owner and epoch, two digests, and two references to the first.
    assert_eq!(inline_size(&list), 1 + 6 * 2 + 3 + 2 * 35 + 2 * 3);
    let bytes = round_trip(&Node::Extents(list.clone()), 9);
    assert_eq!(bytes.len(), HEAD + 1 + 8 + 6 * 2 + 2 + 2 * 34 + 2 * 2);
    let short = list[..3].to_vec();
    assert!(inline_size(&short) <= MAX_INLINE_EXTENTS);
    round_trip(&Node::Leaf(vec![(3, Entry::Content(Digest([9; 32]))), (4, Entry::Extents(short))]), 128);
    round_trip(&Node::Leaf((0..128).map(|n| (n, Entry::Content(Digest([n + 1; 32])))).collect()), 128);
    // Zeros are said by naming nothing.
    for node in [
        Node::Leaf(vec![(0, Entry::Content(Digest::ZERO))]),
        Node::Extents(vec![extent(0, 1, Source::Content(Digest::ZERO))]),
    ] {
        assert!(matches!(node.encode(OWNER, 0), Err(Error::Damaged { .. })));
    }
    // The digest again in full, a reference to nothing, and content in a journal.
    let at = |what: usize| HEAD + 1 + 8 + what;
    for (place, value) in [(at(4 + 32 + 4 + 3), 0), (at(4 + 32 + 4 + 3), 9), (at(0), 1)] {
        let mut wrong = bytes.clone();
        wrong[place] = value;
        assert!(Node::decode("n", &wrong).is_err(), "byte {place}");
    }
}

#[test]
fn what_only_a_later_version_can_have_written_is_named() {
    let bytes = round_trip(&Node::Leaf(vec![(0, Entry::Owned { owner: OWNER, epoch: 1 })]), 0);
    let tag = HEAD + BITMAP + 1 + 8;
    assert_eq!(bytes[tag], OWNED);
    for (at, value) in [(4, 2), (5, 9)] {
        let mut later = bytes.clone();
        later[at] = value;
        assert!(matches!(Node::decode("n", &later), Err(Error::TooNew { .. })), "byte {at}");
    }
    for (at, value) in [(0, 0), (4, 0), (6, 1), (7, 2), (12, 1), (tag, 0), (tag, 5), (tag + 1, 1)] {
        let mut wrong = bytes.clone();
        wrong[at] = value;
        assert!(matches!(Node::decode("n", &wrong), Err(Error::Damaged { .. })), "byte {at}");
    }
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_node_is_found_by_its_pointer() {
    let leaf = Node::Leaf(vec![(0, Entry::Extents(fullest_list(0))), (9, Entry::Owned { owner: OWNER, epoch: 4 })]);
    let mut bytes = leaf.encode(OWNER, 0).unwrap();
    let hash = *blake3::hash(&bytes).as_bytes();
    let pointer = Pointer { owner: OWNER, pack: 0, offset: 0, len: bytes.len() as u32, mapped: 1, hash };
    verify("n", &bytes, &pointer).unwrap();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(verify("n", &bytes, &pointer), Err(Error::Damaged { .. })));
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for len in 0..bytes.len() {
        assert!(verify("n", &bytes[..len], &pointer).is_err());
        assert!(matches!(Node::decode("n", &bytes[..len]), Err(Error::Damaged { .. })));
    }
    assert!(verify("n", &bytes, &Pointer { owner: VolumeId(1), ..pointer }).is_err());
    let short = Pointer { len: 3, hash: *blake3::hash(&bytes[..3]).as_bytes(), ..pointer };
    assert!(verify("n", &bytes[..3], &short).is_err());
}

fn any_source() -> impl Strategy<Value = Source> {
    // Few owners and epochs, so that neighbours often share them.
    let from = || (1u64..12, prop_oneof![1u64..4, any::<u64>()]);
    prop_oneof![
        from().prop_map(|(owner, epoch)| data(owner, epoch)),
        (from(), any::<u32>(), 0u32..1 << 23).prop_map(|((owner, epoch), segment, offset)| Source::Log {
            owner: VolumeId(owner),
            epoch,
            segment,
            offset: offset * 512
        }),
    ]
}

fn any_list(max: usize) -> impl Strategy<Value = Vec<Extent>> {
    vec((0u16..140, 1u16..140, any_source()), 1..=max).prop_map(|parts| {
        let mut end = 0;
        parts
            .into_iter()
            .map_while(|(gap, len, source)| {
                let start = end + gap;
                end = start + len;
                (end <= 1 << 14).then(|| extent(start, len, source))
            })
            .collect()
    })
}

fn any_pointer() -> impl Strategy<Value = Pointer> {
    (1u64.., any::<u32>(), 0u32..1 << 31, 32u32..=MAX_NODE as u32, 0u64..=1 << 40, any::<[u8; 32]>()).prop_map(
        |(owner, pack, offset, len, mapped, hash)| Pointer { owner: VolumeId(owner), pack, offset, len, mapped, hash },
    )
}

fn any_entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        (1u64..5, any::<u64>()).prop_map(|(owner, epoch)| Entry::Owned { owner: VolumeId(owner), epoch }),
        any_list(30).prop_map(|mut list| {
            while inline_size(&list) > MAX_INLINE_EXTENTS {
                list.pop();
            }
            Entry::Extents(list)
        }),
        any_pointer().prop_map(Entry::ExtentNode),
    ]
}

fn any_node() -> impl Strategy<Value = (Node, u64)> {
    prop_oneof![
        (btree_map(0u8..128, any_entry(), 0..=128), 0u64..1 << 20)
            .prop_map(|(entries, base)| (Node::Leaf(entries.into_iter().collect()), base << 7)),
        (1u8..=4, btree_map(0u8..128, any_pointer(), 0..=128))
            .prop_map(|(level, children)| { (Node::Inner { level, children: children.into_iter().collect() }, 0) }),
        (any_list(MAX_EXTENTS), 0u64..MAX_BLOCKS).prop_map(|(list, base)| (Node::Extents(list), base)),
    ]
}

/// Decoding is the inverse of encoding for everything that it accepts.
fn accepted_bytes_are_canonical(bytes: &[u8]) {
    if let Ok((node, base)) = Node::decode("n", bytes) {
        let owner = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        assert_eq!(node.encode(VolumeId(owner), base).unwrap(), bytes);
    }
}

proptest! {
    #[test]
    fn any_node_comes_back_as_written((node, base) in any_node()) {
        round_trip(&node, base);
    }

    #[test]
    fn altered_nodes_are_refused_or_canonical(
        (node, base) in any_node(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut: bool,
    ) {
        let mut bytes = node.encode(OWNER, base).unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
            if cut { bytes.truncate(at.max(1)) }
        }
        accepted_bytes_are_canonical(&bytes);
    }

    #[test]
    fn any_bytes_behind_a_right_head_are_refused_or_canonical(
        kind in 0u8..5, count in 0u8..6, bits in 0u8..64, payload in vec(prop_oneof![0u8..6, any::<u8>()], 0..200),
    ) {
        let mut node = Writer::default();
        node.u32(MAGIC).u8(VERSION).u8(kind).u8(u8::from(kind == INNER)).u8(count);
        let bitmap = if kind == EXTENTS { 0 } else { BITMAP };
        node.u32((payload.len() + bitmap) as u32).u32(0).u64(OWNER.0).u64(0);
        if kind != EXTENTS { node.u8(bits).pad_to(HEAD + BITMAP); }
        node.bytes(&payload);
        accepted_bytes_are_canonical(&node.finish());
    }

    #[test]
    fn any_bytes_are_refused(bytes in vec(any::<u8>(), 0..2000)) {
        prop_assert!(Node::decode("n", &bytes).is_err());
    }
}
