//! Record files and the superblock.

use archipelago_core::format::record::{RECORD_FILE, SLOT, decode_slots, encode_slot, slot_of};
use archipelago_core::format::superblock::Superblock;
use archipelago_core::limits::{ATOM, MAX_RECORD};

use super::{mode, refused, seal, with_mode};
use crate::Target;

/// A record file: mode, then its bytes. Mode bit 0 fills it up to its length, bit 1 puts the checksums of atoms right, bit 2 the
/// layout byte and the places, bit 3 the checksum of the payload.
pub const RECORD: Target = Target {
    name: "record",
    check: record,
    seeds: record_seeds,
    max_len: RECORD_FILE as usize + 64,
    memory: 128 << 10,
    cost: 1,
};

fn record(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let mut file = bytes.to_vec();
    if mode & 1 != 0 {
        file.resize(RECORD_FILE as usize, 0);
    }
    if mode & 8 != 0 {
        file.chunks_mut(SLOT).for_each(put_payload_checksum_right);
    }
    for (number, atom) in file.chunks_exact_mut(ATOM).enumerate().filter(|(_, a)| a.iter().any(|b| *b != 0)) {
        if mode & 4 != 0 {
            atom[16] = atom[16] & 0xf0 | (number % 8) as u8;
            atom[17] = 0xa1;
        }
        if mode & 2 != 0 {
            seal(atom);
        }
    }
    let read = match decode_slots("record", &file) {
        Ok(read) => read,
        Err(error) => return refused(&error),
    };
    assert!(read.payload.len() <= MAX_RECORD && read.version > 0);
    let slot = encode_slot(read.id, read.version, &read.payload).expect("what was read can be written");
    let at = slot_of(read.version) as usize * SLOT;
    assert_eq!(file[at..at + slot.len()], slot, "another form of the record than the one that is written");

    // Every single changed bit is noticed.
    let place = (crc32c::crc32c(bytes) as usize) % (file.len() * 8);
    file[place / 8] ^= 1 << (place % 8);
    decode_slots("record", &file).expect_err("a changed bit");
    file[place / 8] ^= 1 << (place % 8);

    // The next commit is all or nothing, whichever of its atoms arrive.
    let Some(version) = read.version.checked_add(1) else { return };
    let payload: Vec<u8> = bytes.iter().rev().take(usize::from(mode) * 15).copied().collect();
    let slot = encode_slot(read.id, version, &payload).expect("a payload of less than 3872 bytes");
    let (landed, all) = (bytes.get(600).copied().unwrap_or(0xff), slot.len() / ATOM);
    let at = slot_of(version) as usize * SLOT;
    for (i, atom) in slot.chunks(ATOM).enumerate().filter(|(i, _)| landed >> i & 1 == 1) {
        file[at + i * ATOM..at + (i + 1) * ATOM].copy_from_slice(atom);
    }
    let after = decode_slots("record", &file).expect("a torn commit leaves the record");
    let whole = (0..all).all(|i| landed >> i & 1 == 1);
    if whole {
        assert_eq!((after.version, after.payload), (version, payload));
    } else if after.version == version {
        // Atoms of an earlier attempt at this version may be what was missing.
        assert_eq!(after.payload, payload);
    } else {
        assert_eq!(after, read);
    }
}

/// All atoms of a slot say what the checksum of the payload of its first version is.
fn put_payload_checksum_right(slot: &mut [u8]) {
    let total = slot.get(16).map_or(0, |place| usize::from(place >> 4));
    let mut crc = 0;
    for atom in slot.chunks(ATOM).take(total) {
        let len = atom.get(18..20).map_or(0, |n| usize::from(u16::from_le_bytes([n[0], n[1]])));
        crc = crc32c::crc32c_append(crc, atom.get(24..24 + len).unwrap_or(&[]));
    }
    for atom in slot.chunks_exact_mut(ATOM).take(total) {
        atom[20..24].copy_from_slice(&crc.to_le_bytes());
    }
}

fn record_seeds() -> Vec<Vec<u8>> {
    let payloads = [vec![], vec![7; 5], (0..600).map(|i| i as u8).collect(), vec![0x5a; MAX_RECORD]];
    let mut seeds = vec![with_mode(1, &[])];
    let mut file = vec![0; RECORD_FILE as usize];
    for (n, payload) in payloads.iter().enumerate() {
        let version = n as u64 + 1;
        let slot = encode_slot(0xa1, version, payload).expect("a short payload");
        let at = slot_of(version) as usize * SLOT;
        file[at..at + slot.len()].copy_from_slice(&slot);
        let end = file.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
        seeds.extend([1, 3, 7, 15].map(|mode| with_mode(mode, &file[..end])));
    }
    seeds
}

/// The superblock.
pub const SUPERBLOCK: Target =
    Target { name: "superblock", check: superblock, seeds: superblock_seeds, max_len: 256, memory: 16 << 10, cost: 1 };

fn superblock(input: &[u8]) {
    match Superblock::decode("superblock", input) {
        Ok(read) => {
            assert_eq!(read.encode(), input);
            assert!((16..=26).contains(&read.block_shift) && read.mode <= 0o7777);
        }
        Err(error) => refused(&error),
    }
}

fn superblock_seeds() -> Vec<Vec<u8>> {
    let uuid = *b"0123456789abcdef";
    [(22, 0o660, u32::MAX, 0), (16, 0o600, 0, 1), (26, 0o7777, 1, 1 << 63)]
        .map(|(block_shift, mode, group, read_compat)| {
            Superblock { uuid, created: 5, block_shift, mode, group, incompat: 0, read_compat }.encode()
        })
        .to_vec()
}
