//! The file of a write-back cache.

use archipelago_core::blocker::VolumeId;
use archipelago_core::format::cache_log::{CacheHead, CacheRecord, Change, RECORD};
use archipelago_core::limits::ATOM;

use super::{mode, refused, seal};
use crate::Target;

/// A head, or a record of a cache: mode, then its bytes. Mode bit 0 says that it is a record, bit 1 puts the checksum of a head right.
pub const CACHE_LOG: Target =
    Target { name: "cache_log", check: cache_log, seeds, max_len: 1 + 2 * ATOM, memory: 16 << 10, cost: 1 };

fn cache_log(input: &[u8]) {
    let (mode, bytes) = mode(input);
    if mode & 1 != 0 {
        return record(bytes);
    }
    let mut bytes = bytes.to_vec();
    if mode & 2 != 0 {
        bytes.resize(ATOM, 0);
        seal(&mut bytes);
    }
    match CacheHead::decode("cache", &bytes) {
        Ok(head) => {
            assert_eq!(head.encode()[..], bytes);
            assert!(head.place < head.ring && head.id != 0);
        }
        Err(error) => refused(&error),
    }
}

fn record(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_first_chunk::<RECORD>() else { return };
    let Some((record, sum)) = CacheRecord::decode(head) else { return };
    assert!(record.size() >= RECORD as u64 && record.payload() <= record.len);
    if record.payload() > rest.len() as u64 {
        return;
    }
    let payload = &rest[..record.payload() as usize];
    // Whoever writes the same record writes the same bytes, with the right checksum.
    let written = record.encode(std::iter::once(payload));
    assert_eq!(written[4..], head[4..]);
    assert_eq!(CacheRecord::sum(head, payload) == sum, written == *head);
}

fn seeds() -> Vec<Vec<u8>> {
    let head = |number, place| CacheHead {
        number,
        store: *b"0123456789abcdef",
        volume: VolumeId(7),
        id: 9,
        ring: 1 << 20,
        generation: 3,
        place,
        seq: 44,
    };
    let mut seeds: Vec<Vec<u8>> =
        [(1, 0), (2, 640)].map(|(number, place)| [&[2][..], &head(number, place).encode()].concat()).to_vec();
    for (change, len) in [(Change::Write, 5), (Change::Zeroes, 1 << 40), (Change::Discard, 4096)] {
        let record = CacheRecord { change, id: 9, generation: 3, seq: 44, offset: 4096, len };
        seeds.push(
            [&[1][..], &record.encode(std::iter::once(&b"hello"[..record.payload() as usize])), b"hello"].concat(),
        );
    }
    seeds
}
