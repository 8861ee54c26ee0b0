//! Tables of the content index (format.md, "Index table").

use super::bytes::{Reader, Writer, is_zero};
use crate::blocker::VolumeId;
use crate::checksum;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::{ATOM, MAX_BLOCK_SIZE, MAX_VOLUME_SIZE, MIN_BLOCK_SIZE};

/// Bytes of a page, and of what stands before the first.
pub const PAGE: usize = 4096;
/// Entries in a full page.
pub const PAGE_ENTRIES: usize = (PAGE - PAGE_HEAD) / ENTRY;
/// Bytes of an entry.
pub const ENTRY: usize = 64;

const VERSION: u8 = 1;
/// Bytes of a page before its entries.
const PAGE_HEAD: usize = 64;
/// Where the checksum of a page is.
const PAGE_CRC: usize = 60;
const HEAD_MAGIC: u32 = u32::from_le_bytes(*b"AIDX");
const PAGE_MAGIC: u32 = u32::from_le_bytes(*b"AIXP");

/// A block of the data object of a sealed epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot {
    /// Volume that wrote it.
    pub owner: VolumeId,
    /// Epoch in which it did.
    pub epoch: u64,
    /// Index of the block.
    pub block: u64,
    /// Length without trailing NULs, in bytes.
    pub len: u32,
    /// `log2` of the block size.
    pub shift: u8,
}

/// An entry: a slot with this content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IndexEntry {
    /// Its digest.
    pub digest: Digest,
    /// Where it is.
    pub slot: Slot,
}

/// The head of a finished table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexHead {
    /// As in the object's name.
    pub id: u64,
    /// Entries, at least 1.
    pub entries: u64,
}

/// Whether a length without trailing NULs fits a block of this size.
pub(crate) fn fits(len: u32, shift: u8) -> bool {
    let shifts = MIN_BLOCK_SIZE.trailing_zeros()..=MAX_BLOCK_SIZE.trailing_zeros();
    shifts.contains(&u32::from(shift)) && len > 0 && u64::from(len) <= 1 << shift
}

impl IndexHead {
    /// Pages of the table.
    pub fn pages(&self) -> u64 {
        self.entries.div_ceil(PAGE_ENTRIES as u64)
    }

    /// The stored form: one atom.
    pub fn encode(&self) -> [u8; ATOM] {
        let mut writer = Writer::with_capacity(ATOM);
        writer.u32(HEAD_MAGIC).u8(VERSION).pad_to(8).u64(self.id).u64(self.entries).pad_to(ATOM - 4).crc();
        let mut atom = [0; ATOM];
        atom.copy_from_slice(&writer.finish());
        atom
    }

    /// Reads the stored form; `None` if the table was not finished.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Option<IndexHead>> {
        if is_zero(bytes) {
            return Ok(None);
        }
        let mut reader = Reader::checked_atom(object, bytes, HEAD_MAGIC, VERSION, "the head of an index table")?;
        let reserved = reader.array::<3>()?;
        reader.require(reserved == [0; 3], "bytes that must be zero are not")?;
        let head = IndexHead { id: reader.u64()?, entries: reader.u64()? };
        reader.zeros_to_end()?;
        reader
            .require(head.entries > 0 && head.entries <= MAX_VOLUME_SIZE, "an index table of an impossible length")?;
        Ok(Some(head))
    }
}

/// The stored form of a page: 1 to [`PAGE_ENTRIES`] entries in order.
pub fn encode_page(table: u64, number: u64, entries: &[IndexEntry]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(PAGE);
    writer.u32(PAGE_MAGIC).u8(VERSION).u8(entries.len() as u8).u16(0).u64(table).u64(number).pad_to(PAGE_HEAD);
    for (n, IndexEntry { digest, slot }) in entries.iter().enumerate() {
        writer.bytes(&digest.0).u64(slot.owner.0).u64(slot.epoch).u64(slot.block).u32(slot.len).u8(slot.shift);
        writer.pad_to(PAGE_HEAD + (n + 1) * ENTRY);
    }
    let mut page = writer.pad_to(PAGE).take();
    let crc = page_crc(&page);
    page[PAGE_CRC..PAGE_HEAD].copy_from_slice(&crc.to_le_bytes());
    page
}

fn page_crc(page: &[u8]) -> u32 {
    checksum::crc32c_append(checksum::crc32c(&page[..PAGE_CRC]), &page[PAGE_HEAD..])
}

/// Reads a page. Anything but page `number` of `table`, in its one form, is damage.
pub fn decode_page(object: &str, bytes: &[u8], table: u64, number: u64) -> Result<Vec<IndexEntry>> {
    let mut reader = Reader::new(object, bytes);
    let check = |right: bool, what: &str| match right {
        true => Ok(()),
        false => Err(Error::damaged(object, format!("page {number}: {what}"))),
    };
    check(bytes.len() == PAGE, "it is not of the size of a page")?;
    check(reader_magic(bytes) == PAGE_MAGIC, "something else lies where a page must be")?;
    let stored = u32::from_le_bytes([bytes[60], bytes[61], bytes[62], bytes[63]]);
    check(stored == page_crc(bytes), "its checksum is wrong")?;
    reader.take(4)?;
    match reader.u8()? {
        VERSION => {}
        0 => return reader.damaged(format!("page {number} is of version 0")),
        later => return reader.too_new(format!("an index page of version {later}")),
    }
    let count = usize::from(reader.u8()?);
    let reserved = reader.u16()?;
    reader.require(reserved == 0, "bytes that must be zero are not")?;
    check((1..=PAGE_ENTRIES).contains(&count), "its number of entries is impossible")?;
    let (owner, place) = (reader.u64()?, reader.u64()?);
    check(owner == table && place == number, "it is a page of another table, or in the wrong place")?;
    let reserved = reader.array::<36>()?;
    reader.require(reserved == [0; 36], "bytes that must be zero are not")?;
    reader.take(4)?;
    let mut entries: Vec<IndexEntry> = Vec::with_capacity(count);
    for _ in 0..count {
        let digest = Digest(reader.array()?);
        let slot = Slot {
            owner: VolumeId(reader.u64()?),
            epoch: reader.u64()?,
            block: reader.u64()?,
            len: reader.u32()?,
            shift: reader.u8()?,
        };
        let reserved = reader.array::<3>()?;
        reader.require(reserved == [0; 3], "bytes that must be zero are not")?;
        check(entries.last().is_none_or(|e| e.digest < digest), "its entries are not in order")?;
        let possible = slot.owner.0 != 0 && fits(slot.len, slot.shift) && slot.block < MAX_VOLUME_SIZE / MIN_BLOCK_SIZE;
        check(possible, "an entry leads nowhere")?;
        entries.push(IndexEntry { digest, slot });
    }
    reader.zeros_to_end()?;
    Ok(entries)
}

fn reader_magic(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(n: u64) -> IndexEntry {
        let digest = Digest::of_bytes(&n.to_le_bytes());
        IndexEntry { digest, slot: Slot { owner: VolumeId(n + 1), epoch: n, block: n, len: n as u32 + 1, shift: 22 } }
    }

    fn entries(count: u64) -> Vec<IndexEntry> {
        let mut entries: Vec<_> = (0..count).map(entry).collect();
        entries.sort();
        entries
    }

    #[test]
    fn pages_of_every_length_come_back_as_written() {
        for count in 1..=PAGE_ENTRIES as u64 {
            let page = encode_page(7, 3, &entries(count));
            assert_eq!(decode_page("i", &page, 7, 3).unwrap(), entries(count));
            assert!(decode_page("i", &page, 8, 3).is_err() && decode_page("i", &page, 7, 2).is_err());
        }
    }

    #[test]
    fn every_flipped_bit_of_a_page_or_head_is_damage() {
        let mut page = encode_page(7, 3, &entries(63));
        for bit in 0..page.len() * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_page("i", &page, 7, 3).is_err(), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
        let mut head = IndexHead { id: 9, entries: 1000 }.encode();
        for bit in 0..head.len() * 8 {
            head[bit / 8] ^= 1 << (bit % 8);
            assert!(IndexHead::decode("i", &head).is_err(), "bit {bit}");
            head[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn an_unfinished_table_is_none() {
        assert_eq!(IndexHead::decode("i", &[0; ATOM]).unwrap(), None);
        let head = IndexHead { id: 9, entries: 64 };
        assert_eq!(IndexHead::decode("i", &head.encode()).unwrap(), Some(head));
        assert_eq!(head.pages(), 2);
        assert!(matches!(IndexHead::decode("i", &head.encode()[..511]), Err(Error::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(1u8.., 0..PAGE + 2)) {
            prop_assert!(decode_page("i", &bytes, 7, 3).is_err());
            prop_assert!(bytes.is_empty() || IndexHead::decode("i", &bytes).is_err());
        }

        #[test]
        fn pages_with_right_checksums_and_random_fields_are_refused_or_canonical(
            at in 0usize..PAGE, with in proptest::collection::vec(any::<u8>(), 1..80), count in 1u64..=63,
        ) {
            let mut page = encode_page(7, 3, &entries(count));
            let end = (at + with.len()).min(PAGE);
            page[at..end].copy_from_slice(&with[..end - at]);
            let crc = page_crc(&page);
            page[PAGE_CRC..PAGE_HEAD].copy_from_slice(&crc.to_le_bytes());
            if let Ok(read) = decode_page("i", &page, 7, 3) {
                prop_assert_eq!(encode_page(7, 3, &read), page);
            }
        }
    }
}
