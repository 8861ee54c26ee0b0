//! Tree nodes and the extent lists in them.

use arbitrary::{Arbitrary, Unstructured};
use archipelago_core::VolumeId;
use archipelago_core::format::node::{Entry, Extent, Node, Pointer, Source, inline_size, verify};
use archipelago_core::limits::{MAX_EXTENTS, MAX_INLINE_EXTENTS, MAX_NODE};

use super::{mode, refused, with_mode};
use crate::Target;

/// Bytes of a node before its payload.
const HEAD: usize = 32;

/// A node: mode, then its bytes. Mode bit 0 puts magic, version and length right, bit 1 the number of slots.
pub const NODE: Target =
    Target { name: "node", check: node, seeds: node_seeds, max_len: MAX_NODE + 64, memory: 256 << 10, cost: 1 };

fn node(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let mut bytes = bytes.to_vec();
    if mode & 1 != 0 && bytes.len() >= HEAD {
        let len = (bytes.len() - HEAD) as u32;
        bytes[..5].copy_from_slice(b"ANOD\x01");
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..16].fill(0);
    }
    if mode & 2 != 0 && bytes.len() >= HEAD + 16 {
        bytes[7] = bytes[HEAD..HEAD + 16].iter().map(|b| b.count_ones() as u8).sum();
    }
    decoded(&bytes);
}

/// Checks one node; returns it if it is one.
fn decoded(bytes: &[u8]) -> Option<Node> {
    let (node, base) = match Node::decode("node", bytes) {
        Ok(read) => read,
        Err(error) => {
            refused(&error);
            return None;
        }
    };
    let owner = VolumeId(u64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes")));
    let again = node.encode(owner, base).expect("what was read can be written");
    assert_eq!(again, bytes, "another form of the node than the one that is written");
    assert!(bytes.len() <= MAX_NODE);

    // The node is found under its pointer, and no changed bit is passed over.
    let hash = *blake3::hash(bytes).as_bytes();
    let pointer = Pointer { owner, pack: 0, offset: 0, len: bytes.len() as u32, mapped: 0, hash };
    verify("node", bytes, &pointer).expect("the node that was hashed");
    let mut other = bytes.to_vec();
    let bit = usize::from(hash[0]) << 8 | usize::from(hash[1]);
    other[bit / 8 % bytes.len()] ^= 1 << (bit % 8);
    verify("node", &other, &pointer).expect_err("a changed bit");
    Some(node)
}

fn node_seeds() -> Vec<Vec<u8>> {
    let owner = VolumeId(7);
    let pointer = Pointer { owner, pack: 1, offset: 64, len: 512, mapped: 1024, hash: [3; 32] };
    let list = vec![
        Extent { start: 0, len: 16, source: Source::Data { owner: VolumeId(9), epoch: 1 } },
        Extent { start: 20, len: 1, source: Source::Log { owner, epoch: 2, segment: 3, offset: 1536 } },
        Extent { start: 21, len: 1, source: Source::Data { owner, epoch: 2 } },
    ];
    let whole = |slot| (slot, Entry::Owned { owner, epoch: u64::from(slot) });
    let nodes = [
        (Node::Leaf(vec![]), 0),
        (Node::Leaf((0..128).map(whole).collect()), 128),
        (Node::Leaf(vec![whole(0), (1, Entry::Extents(list.clone())), (127, Entry::ExtentNode(pointer))]), 0),
        (Node::Inner { level: 1, children: vec![(0, pointer), (9, pointer)] }, 1 << 14),
        (Node::Inner { level: 5, children: vec![(127, pointer)] }, 0),
        (Node::Extents(list), 77),
    ];
    let bytes = nodes.map(|(node, base)| node.encode(owner, base).expect("a sound node"));
    bytes.iter().flat_map(|node| [0, 1, 3].map(|mode| with_mode(mode, node))).collect()
}

/// Extent lists. Mode bit 0: the payload of an extent node, after the number of extents; otherwise a list to be made up, kept in
/// a leaf or a node of its own.
pub const EXTENTS: Target =
    Target { name: "extents", check: extents, seeds: extents_seeds, max_len: 4096, memory: 256 << 10, cost: 1 };

fn extents(input: &[u8]) {
    let (mode, bytes) = mode(input);
    if mode & 1 != 0 {
        let Some((count, payload)) = bytes.split_first() else { return };
        if let Some(Node::Extents(list)) = decoded(&extent_node(*count, payload)) {
            sound(&list);
        }
        return;
    }
    let Ok(list) = made_up(&mut Unstructured::new(bytes)) else { return };
    let (size, owner) = (inline_size(&list), VolumeId(7));
    let alone = Node::Extents(list.clone());
    let kept = Node::Leaf(vec![(5, Entry::Extents(list.clone()))]);
    match (alone.encode(owner, 5), kept.encode(owner, 0)) {
        (Ok(alone), kept) => {
            sound(&list);
            assert_eq!(decoded(&alone), Some(Node::Extents(list.clone())));
            assert_eq!(kept.is_ok(), size <= MAX_INLINE_EXTENTS, "{list:?}");
            if let Ok(kept) = kept {
                // Head, slots, number of owners, kind of entry; and the table of owners.
                let owners = usize::from(kept[HEAD + 16]) * 8;
                assert!(kept.len() <= HEAD + 16 + 1 + owners + 1 + size, "{size} is no upper bound: {list:?}");
                assert_eq!(decoded(&kept), Some(Node::Leaf(vec![(5, Entry::Extents(list))])));
            }
        }
        (Err(error), kept) => {
            refused(&error);
            assert!(kept.is_err(), "kept in a leaf, but not alone: {list:?}");
        }
    }
}

/// What readers rely on.
fn sound(list: &[Extent]) {
    assert!((1..=MAX_EXTENTS).contains(&list.len()));
    assert!(list.windows(2).all(|pair| pair[0].start + pair[0].len <= pair[1].start));
    assert!(list.iter().all(|e| e.len > 0 && u32::from(e.start) + u32::from(e.len) <= 1 << 14));
    assert!(list.iter().all(|e| e.source != Source::Zero));
}

fn extent_node(count: u8, payload: &[u8]) -> Vec<u8> {
    let mut node = b"ANOD\x01\x03\x00".to_vec();
    node.push(count);
    node.extend((payload.len() as u32).to_le_bytes());
    node.extend([0; 4]);
    node.extend(7u64.to_le_bytes());
    node.extend(5u64.to_le_bytes());
    node.extend(payload);
    node
}

/// A list that is mostly sound: gaps and lengths instead of positions, few owners and epochs.
fn made_up(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<Extent>> {
    let mut list = Vec::new();
    let mut end = 0u16;
    while !u.is_empty() && list.len() <= MAX_EXTENTS {
        let (shape, gap, len) = (u8::arbitrary(u)?, u8::arbitrary(u)?, u8::arbitrary(u)?);
        let wide = if shape & 0x80 != 0 { 64 } else { 1 };
        let start = end.wrapping_add(u16::from(gap) * wide);
        let len = u16::from(len) * wide;
        let (owner, epoch) = (VolumeId(u64::from(shape & 15)), u64::from(shape >> 4 & 3) * 77);
        let source = match shape >> 6 & 1 {
            0 => Source::Data { owner, epoch },
            _ => Source::Log { owner, epoch, segment: u32::from(shape), offset: u32::from(u16::arbitrary(u)?) << 8 },
        };
        list.push(Extent { start, len, source });
        end = start.wrapping_add(len);
    }
    Ok(list)
}

fn extents_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        with_mode(0, &[0x01, 0, 3, 0x51, 2, 1, 4, 0, 0x11, 9, 9]),
        with_mode(0, &[0x81, 1, 2, 0x82, 0, 4]),
        with_mode(0, &(0..192).map(|i| [1, 2, 1][i % 3]).collect::<Vec<u8>>()),
    ];
    for node in node_seeds().iter().filter(|seed| seed[0] == 0 && seed.get(6) == Some(&3)) {
        let body = [&node[8..9], &node[1 + HEAD..]].concat();
        seeds.push(with_mode(1, &body));
    }
    seeds
}
