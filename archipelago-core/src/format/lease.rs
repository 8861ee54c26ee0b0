//! Leases on content (format.md, "Leases").

use super::bytes::{Reader, Writer, is_zero};
use crate::checksum;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::ATOM;

/// Digests in one atom.
pub const ATOM_DIGESTS: usize = 15;
/// Bytes of a file of leases.
pub const LEN: u64 = 64 << 10;
/// Atoms of digests in a file.
pub const ATOMS: u32 = (LEN / ATOM as u64) as u32 - 1;
/// Longest text that says who claims, in bytes.
pub const MAX_CLAIMANT: usize = 128;

const VERSION: u8 = 1;
const HEAD_MAGIC: u32 = u32::from_le_bytes(*b"ALSE");
const ATOM_MAGIC: u32 = u32::from_le_bytes(*b"ALSD");
const LIVE: u8 = 1;
const ENDED: u8 = 2;

/// The head of a file of leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseHead {
    /// The upload that claims.
    pub claim: u64,
    /// This file of it; one process appends to it.
    pub part: u64,
    /// Nobody may rely on it any more.
    pub ended: bool,
    /// Granted or renewed, seconds since 1970.
    pub time: u64,
    /// Who claims, for people; at most [`MAX_CLAIMANT`] bytes.
    pub claimant: String,
}

impl LeaseHead {
    /// The stored form: one atom. A text that is too long is an `InvalidArgument`.
    pub fn encode(&self) -> Result<[u8; ATOM]> {
        if self.claimant.len() > MAX_CLAIMANT {
            let text = format!("a claimant is named in at most {MAX_CLAIMANT} bytes, not {}", self.claimant.len());
            return Err(Error::InvalidArgument(text));
        }
        let mut writer = Writer::with_capacity(ATOM);
        writer.u32(HEAD_MAGIC).u8(VERSION).u8(if self.ended { ENDED } else { LIVE }).u8(self.claimant.len() as u8);
        writer.u8(0).u64(self.claim).u64(self.part).u64(self.time).bytes(self.claimant.as_bytes());
        writer.pad_to(ATOM - 4).crc();
        let mut atom = [0; ATOM];
        atom.copy_from_slice(&writer.finish());
        Ok(atom)
    }

    /// Reads the stored form; `None` if the making of the file was cut short.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Option<LeaseHead>> {
        if is_zero(bytes) {
            return Ok(None);
        }
        let mut reader = Reader::checked_atom(object, bytes, HEAD_MAGIC, VERSION, "the head of a lease")?;
        let (state, len, reserved) = (reader.u8()?, usize::from(reader.u8()?), reader.u8()?);
        let (claim, part, time) = (reader.u64()?, reader.u64()?, reader.u64()?);
        reader.require(reserved == 0 && len <= MAX_CLAIMANT, "the head of a lease is impossible")?;
        let claimant = match std::str::from_utf8(reader.take(len)?) {
            Ok(text) => text.to_string(),
            Err(_) => return reader.damaged("the name of a claimant is not UTF-8"),
        };
        reader.zeros_to_end()?;
        let ended = match state {
            LIVE => false,
            ENDED => true,
            0 => return reader.damaged("a lease in no state"),
            later => return reader.too_new(format!("a lease in state {later}")),
        };
        Ok(Some(LeaseHead { claim, part, ended, time, claimant }))
    }
}

/// The stored form of atom `number` of a file, with 1 to [`ATOM_DIGESTS`] digests.
pub fn encode_atom(part: u64, number: u32, digests: &[Digest]) -> [u8; ATOM] {
    let mut writer = Writer::with_capacity(ATOM);
    writer.u32(ATOM_MAGIC).u8(digests.len() as u8).pad_to(8).u64(part).u32(number).u32(0);
    for digest in digests {
        writer.bytes(&digest.0);
    }
    writer.pad_to(ATOM - 4).crc();
    let mut atom = [0; ATOM];
    atom.copy_from_slice(&writer.finish());
    atom
}

/// Digests of atom `number` of a file; none where nothing was written yet.
pub fn decode_atom(object: &str, bytes: &[u8], part: u64, number: u32) -> Result<Vec<Digest>> {
    let mut reader = Reader::new(object, bytes);
    let wrong = || format!("atom {number} is not what was written");
    reader.require(bytes.len() == ATOM, &wrong())?;
    if is_zero(bytes) {
        return Ok(Vec::new());
    }
    reader.require(checksum::crc32c(&bytes[..ATOM - 4]).to_le_bytes() == bytes[ATOM - 4..], &wrong())?;
    let (magic, count, reserved) = (reader.u32()?, usize::from(reader.u8()?), reader.array::<3>()?);
    let (owner, place, rest) = (reader.u64()?, reader.u32()?, reader.u32()?);
    let right = magic == ATOM_MAGIC && reserved == [0; 3] && rest == 0 && owner == part && place == number;
    reader.require(right && (1..=ATOM_DIGESTS).contains(&count), &wrong())?;
    let digests = (0..count).map(|_| reader.array().map(Digest)).collect::<Result<Vec<_>>>()?;
    let zeros = reader.take(ATOM - 4 - 24 - 32 * count)?;
    reader.require(is_zero(zeros), &wrong())?;
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digests(count: usize) -> Vec<Digest> {
        (0..count).map(|n| Digest::of_bytes(&[n as u8])).collect()
    }

    #[test]
    fn heads_and_atoms_come_back_and_every_flipped_bit_is_damage() {
        let head = LeaseHead { claim: 1, part: 2, ended: true, time: 5, claimant: "an upload".into() };
        let mut bytes = head.encode().unwrap();
        assert_eq!(LeaseHead::decode("l", &bytes).unwrap(), Some(head.clone()));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(LeaseHead::decode("l", &bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for count in 1..=ATOM_DIGESTS {
            let mut bytes = encode_atom(2, 9, &digests(count));
            assert_eq!(decode_atom("l", &bytes, 2, 9).unwrap(), digests(count));
            assert!(decode_atom("l", &bytes, 2, 8).is_err() && decode_atom("l", &bytes, 3, 9).is_err());
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(decode_atom("l", &bytes, 2, 9).is_err(), "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        assert_eq!(decode_atom("l", &[0; ATOM], 2, 9).unwrap(), []);
        assert_eq!(LeaseHead::decode("l", &[0; ATOM]).unwrap(), None);
        assert!(LeaseHead { claimant: "x".repeat(129), ..head }.encode().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0usize..508, with: u8) {
            let _ = LeaseHead::decode("l", &bytes);
            let _ = decode_atom("l", &bytes, 2, 9);
            let mut near = encode_atom(2, 9, &digests(3));
            near[at] = with;
            let crc = checksum::crc32c(&near[..508]);
            near[508..].copy_from_slice(&crc.to_le_bytes());
            if let Ok(read) = decode_atom("l", &near, 2, 9) {
                prop_assert_eq!(&encode_atom(2, 9, &read)[..], &near[..]);
            }
            let head = LeaseHead { claim: 1, part: 2, ended: false, time: 5, claimant: "abc".into() };
            let mut near = head.encode().unwrap();
            near[at] = with;
            let crc = checksum::crc32c(&near[..508]);
            near[508..].copy_from_slice(&crc.to_le_bytes());
            if let Ok(Some(read)) = LeaseHead::decode("l", &near) {
                prop_assert_eq!(&read.encode().unwrap()[..], &near[..]);
            }
        }
    }
}
