//! Redirect tables: the digests of the blocks of a sealed epoch (format.md, "Redirect table").

use super::bytes::{Reader, Writer, is_zero};
use super::index::fits;
use crate::blocker::VolumeId;
use crate::checksum;
use crate::digest::Digest;
use crate::error::Result;
use crate::limits::ATOM;

/// Where the entry of block 0 is.
pub const FIRST: u64 = 4096;
/// Bytes of an entry. It divides an atom, so an entry is there or not.
pub const ENTRY: usize = 64;

const VERSION: u8 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"ARED");
const SET: u8 = 1;
const MOVED: u8 = 2;
/// Flag in the head: some entries may have [`MOVED`].
const HAS_MOVED: u8 = 1;

/// The head of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedirectHead {
    /// Volume that wrote the epoch.
    pub owner: VolumeId,
    /// Epoch.
    pub epoch: u64,
    /// `log2` of the block size.
    pub shift: u8,
    /// Some of its slots may be moved. Without it none is, so that readers of most epochs need not look at the entries.
    pub moved: bool,
}

/// What is known of one block of the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedirectEntry {
    /// Digest of all bytes of the slot.
    pub digest: Digest,
    /// Length without trailing NULs, in bytes.
    pub len: u32,
    /// The slot is not to be read any more.
    pub moved: bool,
}

impl RedirectHead {
    /// The stored form: one atom.
    pub fn encode(&self) -> [u8; ATOM] {
        let mut writer = Writer::with_capacity(ATOM);
        writer.u32(MAGIC).u8(VERSION).u8(self.shift).u8(if self.moved { HAS_MOVED } else { 0 }).u8(0);
        writer.u64(self.owner.0).u64(self.epoch).pad_to(ATOM - 4).crc();
        let mut atom = [0; ATOM];
        atom.copy_from_slice(&writer.finish());
        atom
    }

    /// Reads the stored form; `None` if the making of the table was cut short.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Option<RedirectHead>> {
        if is_zero(bytes) {
            return Ok(None);
        }
        let mut reader = Reader::checked_atom(object, bytes, MAGIC, VERSION, "the head of a redirect table")?;
        let (shift, flags, reserved) = (reader.u8()?, reader.u8()?, reader.u8()?);
        if flags & !HAS_MOVED != 0 {
            return reader.too_new(format!("a redirect table with flags {flags:#x}"));
        }
        reader.require(reserved == 0, "bytes that must be zero are not")?;
        let moved = flags & HAS_MOVED != 0;
        let head = RedirectHead { owner: VolumeId(reader.u64()?), epoch: reader.u64()?, shift, moved };
        reader.zeros_to_end()?;
        reader.require(head.owner.0 != 0 && fits(1, shift), "a redirect table of an impossible kind")?;
        Ok(Some(head))
    }
}

/// Where the entry of a block is.
pub fn place(block: u64) -> u64 {
    FIRST + block * ENTRY as u64
}

impl RedirectEntry {
    /// The stored form of the entry of `block`.
    pub fn encode(&self, block: u64) -> [u8; ENTRY] {
        let mut writer = Writer::with_capacity(ENTRY);
        let flags = SET | if self.moved { MOVED } else { 0 };
        writer.bytes(&self.digest.0).u32(self.len).u8(flags).pad_to(40).u64(block).pad_to(ENTRY - 4).crc();
        let mut entry = [0; ENTRY];
        entry.copy_from_slice(&writer.finish());
        entry
    }

    /// Reads the entry of `block` in a table of blocks of size `1 << shift`; `None` where nothing is known.
    pub fn decode(object: &str, bytes: &[u8], block: u64, shift: u8) -> Result<Option<RedirectEntry>> {
        let mut reader = Reader::new(object, bytes);
        reader.require(bytes.len() == ENTRY, "an entry of another size")?;
        if is_zero(bytes) {
            return Ok(None);
        }
        let (body, stored) = bytes.split_at(ENTRY - 4);
        let wrong = || format!("the entry of block {block} is not what was written");
        reader.require(checksum::crc32c(body).to_le_bytes() == stored, &wrong())?;
        let (digest, len, flags) = (Digest(reader.array()?), reader.u32()?, reader.u8()?);
        if flags & !(SET | MOVED) != 0 {
            return reader.too_new(format!("the entry of block {block} has flags {flags:#x}"));
        }
        let (reserved, place, rest) = (reader.array::<3>()?, reader.u64()?, reader.array::<12>()?);
        let zero = reserved == [0; 3] && rest == [0; 12];
        reader.require(zero && place == block && flags & SET != 0 && fits(len, shift), &wrong())?;
        Ok(Some(RedirectEntry { digest, len, moved: flags & MOVED != 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> RedirectEntry {
        RedirectEntry { digest: Digest::of_bytes(b"x"), len: 4 << 20, moved: true }
    }

    #[test]
    fn every_flipped_bit_is_damage_and_zeros_say_nothing() {
        let mut bytes = entry().encode(70_000);
        assert_eq!(RedirectEntry::decode("r", &bytes, 70_000, 22).unwrap(), Some(entry()));
        assert!(RedirectEntry::decode("r", &bytes, 70_001, 22).is_err(), "in the wrong place");
        assert!(RedirectEntry::decode("r", &bytes, 70_000, 21).is_err(), "longer than a block");
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(RedirectEntry::decode("r", &bytes, 70_000, 22).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(RedirectEntry::decode("r", &[0; ENTRY], 3, 22).unwrap(), None);
        let head = RedirectHead { owner: VolumeId(5), epoch: 7, shift: 22, moved: true };
        let mut bytes = head.encode();
        assert_eq!(RedirectHead::decode("r", &bytes).unwrap(), Some(head));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(RedirectHead::decode("r", &bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(RedirectHead::decode("r", &[0; ATOM]).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0usize..60, with: u8) {
            let _ = RedirectHead::decode("r", &bytes);
            let _ = RedirectEntry::decode("r", &bytes, 1, 22);
            let mut near = entry().encode(1);
            near[at] = with;
            let crc = checksum::crc32c(&near[..60]);
            near[60..].copy_from_slice(&crc.to_le_bytes());
            if let Ok(Some(read)) = RedirectEntry::decode("r", &near, 1, 22) {
                prop_assert_eq!(read.encode(1), near);
            }
        }
    }
}
