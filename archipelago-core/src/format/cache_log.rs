//! The file of a write-back cache: heads and records (format.md, "Write-back cache").

use super::bytes::{Reader, Writer};
use crate::blocker::VolumeId;
use crate::checksum::{crc32c, crc32c_append};
use crate::error::Result;
use crate::limits::ATOM;

/// Bytes of the file before the ring: two places of a head, each in a page of its own.
pub const RING: u64 = 8192;
/// Bytes between the two places of a head.
pub const HEAD_PLACE: u64 = 4096;
/// Bytes of a record before its payload, and what each record is a multiple of.
pub const RECORD: usize = 64;

const HEAD_MAGIC: u32 = u32::from_le_bytes(*b"ACSH");
const VERSION: u8 = 1;

/// The head of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheHead {
    /// Rises by one each time that a head is written; the highest counts.
    pub number: u64,
    /// The store.
    pub store: [u8; 16],
    /// The volume.
    pub volume: VolumeId,
    /// Identity of the cache.
    pub id: u64,
    /// Bytes of the ring, a multiple of [`RECORD`].
    pub ring: u64,
    /// Rises by one each time that the cache is opened; records of a higher one do not count.
    pub generation: u64,
    /// Where in the ring the first record is that may not be in the volume.
    pub place: u64,
    /// Its sequence number.
    pub seq: u64,
}

impl CacheHead {
    /// Where in the file it goes.
    pub fn offset(&self) -> u64 {
        self.number % 2 * HEAD_PLACE
    }

    /// The stored form.
    pub fn encode(&self) -> [u8; ATOM] {
        let mut writer = Writer::with_capacity(ATOM);
        writer.u32(HEAD_MAGIC).u8(VERSION).pad_to(8).u64(self.number).bytes(&self.store).u64(self.volume.0);
        writer.u64(self.id).u64(self.ring).u64(self.generation).u64(self.place).u64(self.seq);
        writer.pad_to(ATOM - 4).crc();
        let mut atom = [0; ATOM];
        atom.copy_from_slice(&writer.finish());
        atom
    }

    /// Reads the stored form.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<CacheHead> {
        let mut reader = Reader::checked_atom(object, bytes, HEAD_MAGIC, VERSION, "the head of a cache")?;
        let reserved = reader.array::<3>()?;
        let (number, store, volume) = (reader.u64()?, reader.array()?, VolumeId(reader.u64()?));
        let (id, ring, generation) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (place, seq) = (reader.u64()?, reader.u64()?);
        let aligned = |at: u64| at.is_multiple_of(RECORD as u64);
        reader.require(reserved == [0; 3] && volume.0 != 0 && id != 0, "the head of a cache is impossible")?;
        reader.require(aligned(ring) && aligned(place) && place < ring, "the head of a cache is impossible")?;
        reader.zeros_to_end()?;
        Ok(CacheHead { number, store, volume, id, ring, generation, place, seq })
    }
}

/// What a record does to a range of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Writes the payload.
    Write,
    /// Makes it zeros, with room kept.
    Zeroes,
    /// Makes it zeros, and frees its room.
    Discard,
}

/// The head of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheRecord {
    /// What it does.
    pub change: Change,
    /// Identity of the cache.
    pub id: u64,
    /// Generation in which it was written.
    pub generation: u64,
    /// Its number: one more than that of the record before.
    pub seq: u64,
    /// First byte in the volume.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl CacheRecord {
    /// Bytes of its payload.
    pub fn payload(&self) -> u64 {
        if self.change == Change::Write { self.len } else { 0 }
    }

    /// Bytes that it takes in the ring; `u64::MAX` for one that fits into none.
    pub fn size(&self) -> u64 {
        self.payload().checked_next_multiple_of(RECORD as u64).map_or(u64::MAX, |len| len.saturating_add(RECORD as u64))
    }

    /// The stored form, without the payload, which is `payload`.
    pub fn encode<'a>(&self, payload: impl Iterator<Item = &'a [u8]>) -> [u8; RECORD] {
        let change = match self.change {
            Change::Write => 1,
            Change::Zeroes => 2,
            Change::Discard => 3,
        };
        let mut writer = Writer::with_capacity(RECORD);
        writer
            .u32(0)
            .u8(change)
            .pad_to(8)
            .u64(self.id)
            .u64(self.generation)
            .u64(self.seq)
            .u64(self.offset)
            .u64(self.len);
        writer.pad_to(RECORD);
        let mut head = [0; RECORD];
        head.copy_from_slice(&writer.finish());
        let sum = payload.fold(crc32c(&head[4..]), crc32c_append);
        head[..4].copy_from_slice(&sum.to_le_bytes());
        head
    }

    /// What lies at a place, and the checksum that it has to have with its payload ([`CacheRecord::sum`]); `None` for what is no record.
    pub fn decode(head: &[u8; RECORD]) -> Option<(CacheRecord, u32)> {
        let mut reader = Reader::new("a record of a cache", head);
        let (sum, change, reserved) = (reader.u32().ok()?, reader.u8().ok()?, reader.array::<3>().ok()?);
        let change = match change {
            1 => Change::Write,
            2 => Change::Zeroes,
            3 => Change::Discard,
            _ => return None,
        };
        let (id, generation, seq) = (reader.u64().ok()?, reader.u64().ok()?, reader.u64().ok()?);
        let (offset, len) = (reader.u64().ok()?, reader.u64().ok()?);
        reader.zeros_to_end().ok()?;
        (reserved == [0; 3]).then_some((CacheRecord { change, id, generation, seq, offset, len }, sum))
    }

    /// The checksum of a stored head with its payload.
    pub fn sum(head: &[u8; RECORD], payload: &[u8]) -> u32 {
        crc32c_append(crc32c(&head[4..]), payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> CacheHead {
        CacheHead {
            number: 3,
            store: [9; 16],
            volume: VolumeId(7),
            id: 5,
            ring: 1 << 20,
            generation: 2,
            place: 640,
            seq: 44,
        }
    }

    #[test]
    fn every_changed_bit_of_a_head_is_noticed() {
        let bytes = head().encode();
        assert_eq!(CacheHead::decode("c", &bytes).unwrap(), head());
        for bit in 0..ATOM * 8 {
            let mut altered = bytes;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(CacheHead::decode("c", &altered).is_err(), "bit {bit}");
        }
        for impossible in [
            CacheHead { place: 1 << 20, ..head() },
            CacheHead { place: 1, ..head() },
            CacheHead { id: 0, ..head() },
            CacheHead { volume: VolumeId(0), ..head() },
        ] {
            assert!(CacheHead::decode("c", &impossible.encode()).is_err(), "{impossible:?}");
        }
    }

    #[test]
    fn every_changed_bit_of_a_record_is_noticed() {
        let record = CacheRecord { change: Change::Write, id: 5, generation: 2, seq: 44, offset: 4096, len: 5 };
        let whole = |bytes: &[u8]| {
            let head: [u8; RECORD] = bytes[..RECORD].try_into().unwrap();
            CacheRecord::decode(&head).filter(|(_, sum)| *sum == CacheRecord::sum(&head, &bytes[RECORD..]))
        };
        let mut bytes = record.encode([&b"pay"[..], b"ld"].into_iter()).to_vec();
        bytes.extend(b"payld");
        assert_eq!(whole(&bytes).map(|(found, _)| found), Some(record));
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(whole(&altered), None, "bit {bit}");
        }
        assert_eq!(record.size(), 128);
        assert_eq!(CacheRecord { change: Change::Discard, len: 1 << 40, ..record }.size(), 64);
        assert_eq!(CacheRecord { len: u64::MAX, ..record }.size(), u64::MAX);
    }
}
