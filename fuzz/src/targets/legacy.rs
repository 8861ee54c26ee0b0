//! Maps of the original Archipelago.

use archipelago_core::Digest;
use archipelago_core::limits::MAX_VOLUME_SIZE;
use archipelago_core::merkle::TopHash;
use archipelago_service::import::legacy::entry::{Entry, decode_v0, decode_v1, decode_v2};
use archipelago_service::import::legacy::header::{
    ENTRY_V0, ENTRY_V1, ENTRY_V2, HEADER_LEN, HEADER_V1, Recognised, Version, header_v0, recognise,
};
use archipelago_service::import::legacy::names;

use super::{mode, with_mode};
use crate::Target;

/// A map: for version 2 the header and then its map data. Mode bit 0 says that version 0 is assumed, bit 1 puts the
/// signature and the version right, bit 2 the length of the name in each entry.
pub const LEGACY_MAP: Target =
    Target { name: "legacy_map", check: check_map, seeds: map_seeds, max_len: 4096, memory: 64 << 10, cost: 1 };

fn check_map(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let mut bytes = bytes.to_vec();
    if mode & 2 != 0 && bytes.len() >= 8 {
        bytes[..8].copy_from_slice(b"AMF.\0\0\0\x02");
    }
    let start = &bytes[..bytes.len().min(HEADER_LEN)];
    let header = match recognise(start, bytes.len() as u64, mode & 1 != 0) {
        Ok(Recognised::Map(header)) => header,
        Ok(Recognised::List) => {
            let list = bytes.as_chunks::<ENTRY_V0>().0;
            let digests: Vec<_> = list.iter().take_while(|digest| decode_v0(digest).is_some()).collect();
            let mut top = TopHash::default();
            digests.iter().for_each(|digest| top.push(Digest(**digest)));
            top.finish();
            match header_v0(digests.len() as u64, None) {
                Ok(header) => header,
                Err(_) => return assert!(digests.is_empty()),
            }
        }
        Ok(Recognised::Tombstone) | Err(_) => return,
    };
    assert!((1..=MAX_VOLUME_SIZE).contains(&header.size));
    assert!(header.block_size.is_power_of_two() && header.entries == header.size.div_ceil(header.block_size));
    match header.version {
        Version::V0 => bytes.as_chunks::<ENTRY_V0>().0.iter().map_while(decode_v0).for_each(|e| check_entry(&e)),
        Version::V1 => {
            let entries = bytes[HEADER_V1 as usize..].as_chunks::<ENTRY_V1>();
            assert!(entries.0.len() as u64 == header.entries && entries.1.is_empty());
            entries.0.iter().map(decode_v1).for_each(|entry| check_entry(&entry));
        }
        Version::V2 => {
            for (index, entry) in (0..).zip(bytes[HEADER_LEN..].as_chunks::<ENTRY_V2>().0) {
                let mut entry = *entry;
                if mode & 4 != 0 {
                    let len = entry[5..].iter().position(|byte| *byte == 0).unwrap_or(123) as u32;
                    entry[1..5].copy_from_slice(&len.to_le_bytes());
                }
                if let Ok(entry) = decode_v2(&entry, index) {
                    check_entry(&entry);
                }
            }
        }
    }
}

/// What an entry names is one file below the three directories of its name, and of a known form.
fn check_entry(entry: &Entry) {
    let Some(object) = entry.object() else { return };
    assert!(names::check(&object).is_ok() && !object.contains(['/', '\0']), "{object:?}");
    for dirs in names::raw_dirs(&object).into_iter().chain([names::hashed_dirs(&object)]) {
        assert!(dirs.iter().all(|dir| dir.len() == 2 && dir.bytes().all(|b| b.is_ascii_hexdigit())));
    }
    let known = names::digest(&object).is_some() || names::is_old_block(&object) || names::owned(&object).is_some();
    assert!(known, "{object:?}");
    assert!(!matches!(entry, Entry::Owned { .. }) || names::digest(&object).is_none(), "content taken for owned");
}

fn map_seeds() -> Vec<Vec<u8>> {
    let header = |flags: u32| {
        let mut bytes = b"AMF.\0\0\0\x02".to_vec();
        bytes.extend((10u64 << 20).to_be_bytes());
        bytes.extend((4u32 << 20).to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend(1u64.to_be_bytes());
        bytes
    };
    let entry = |flags: u8, name: &str| {
        let mut bytes = vec![flags];
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.resize(ENTRY_V2, 0);
        bytes
    };
    let zero = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let content = "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d";
    let v2 = [
        header(0),
        entry(3, &names::owned_block("myvolume", 1, 0)),
        entry(2, &format!("archip_{content}")),
        entry(4, zero),
        entry(0, content),
        entry(3, "../../x_0000000000000001_0000000000000004"),
    ];
    let mut v1 = vec![1, 0, 0, 0, 0, 0, 0xa0, 0, 0, 0, 0, 0];
    for flag in [0, 1, 0] {
        v1.push(flag);
        v1.extend(Digest::of_bytes(&[flag]).0);
    }
    let v0 = [Digest::of_bytes(b"a").0, Digest::ZERO.0, Digest::of_bytes(b"b").0, [0; 32]].concat();
    vec![
        with_mode(2, &v2.concat()),
        with_mode(6, &v2.concat()),
        with_mode(0, &header(2)),
        with_mode(0, &v1),
        with_mode(1, &v1),
        with_mode(1, &v0),
    ]
}
