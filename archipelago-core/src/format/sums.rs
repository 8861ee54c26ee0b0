//! Checksums of the sectors of a sealed epoch (format.md, "Checksums of sealed epochs").

use super::bytes::{Reader, Writer, is_zero};
use crate::blocker::VolumeId;
use crate::error::Result;
use crate::limits::ATOM;

/// Sectors of one atom.
pub const SECTORS: usize = 112;
/// Bytes of the bitmap that says which of them are known; its last two bytes are zero.
const BITMAP: usize = 16;

const VERSION: u8 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"ASUM");

/// What is known of the sectors of one atom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SumAtom {
    /// Bit i is set if the checksum of sector i is known.
    known: u128,
    sums: [u32; SECTORS],
}

impl Default for SumAtom {
    fn default() -> SumAtom {
        SumAtom { known: 0, sums: [0; SECTORS] }
    }
}

impl SumAtom {
    /// The checksum of a sector of the atom, if it is known.
    pub fn get(&self, sector: usize) -> Option<u32> {
        (self.known >> sector & 1 == 1).then(|| self.sums.get(sector).copied()).flatten()
    }

    /// Notes a checksum.
    pub fn set(&mut self, sector: usize, sum: u32) {
        if let Some(place) = self.sums.get_mut(sector) {
            *place = sum;
            self.known |= 1 << sector;
        }
    }

    /// Whether no sector is known.
    pub fn is_empty(&self) -> bool {
        self.known == 0
    }

    /// The stored form of atom `number` of the checksums of an epoch: zeros if nothing is known.
    pub fn encode(&self, owner: VolumeId, epoch: u64, number: u64) -> [u8; ATOM] {
        let mut atom = [0; ATOM];
        if self.is_empty() {
            return atom;
        }
        let mut writer = Writer::with_capacity(ATOM);
        writer.u32(MAGIC).u8(VERSION).pad_to(8).u64(owner.0).u64(epoch).u64(number).bytes(&self.known.to_le_bytes());
        for sum in &self.sums {
            writer.u32(*sum);
        }
        writer.pad_to(ATOM - 4).crc();
        atom.copy_from_slice(&writer.finish());
        atom
    }

    /// Reads the stored form. One of another epoch or place is damaged.
    pub fn decode(object: &str, bytes: &[u8], owner: VolumeId, epoch: u64, number: u64) -> Result<SumAtom> {
        if is_zero(bytes) {
            return Ok(SumAtom::default());
        }
        let mut reader = Reader::checked_atom(object, bytes, MAGIC, VERSION, "an atom of checksums")?;
        let reserved: [u8; 3] = reader.array()?;
        let found = (VolumeId(reader.u64()?), reader.u64()?, reader.u64()?);
        reader.require(found == (owner, epoch, number), "an atom of checksums of another place")?;
        let mut atom = SumAtom { known: u128::from_le_bytes(reader.array::<BITMAP>()?), sums: [0; SECTORS] };
        for sum in &mut atom.sums {
            *sum = reader.u32()?;
        }
        reader.zeros_to_end()?;
        let stray = atom.known >> SECTORS != 0 || (0..SECTORS).any(|i| atom.get(i).is_none() && atom.sums[i] != 0);
        reader.require(reserved == [0; 3] && !stray && !atom.is_empty(), "an atom of checksums of no valid form")?;
        Ok(atom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum;

    const OWNER: VolumeId = VolumeId(0x1234);

    fn atom() -> SumAtom {
        let mut atom = SumAtom::default();
        atom.set(0, 7);
        atom.set(111, u32::MAX);
        atom.set(5, 0);
        atom
    }

    #[test]
    fn every_flipped_bit_and_every_other_place_is_found() {
        let mut bytes = atom().encode(OWNER, 3, 9);
        assert_eq!(SumAtom::decode("s", &bytes, OWNER, 3, 9).unwrap(), atom());
        for (owner, epoch, number) in [(VolumeId(1), 3, 9), (OWNER, 4, 9), (OWNER, 3, 8)] {
            assert!(SumAtom::decode("s", &bytes, owner, epoch, number).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SumAtom::decode("s", &bytes, OWNER, 3, 9).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 1..ATOM {
            assert!(SumAtom::decode("s", &bytes[..len], OWNER, 3, 9).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_checksum_of_zero_is_known_and_zeros_know_nothing() {
        assert_eq!(atom().get(5), Some(0));
        assert_eq!(atom().get(6), None);
        assert_eq!(SumAtom::default().encode(OWNER, 1, 1), [0; ATOM]);
        assert_eq!(SumAtom::decode("s", &[0; ATOM], OWNER, 1, 1).unwrap(), SumAtom::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0usize..508, with: u8) {
            let _ = SumAtom::decode("s", &bytes, OWNER, 3, 9);
            let mut near = atom().encode(OWNER, 3, 9);
            near[at] = with;
            let crc = checksum::crc32c(&near[..508]);
            near[508..].copy_from_slice(&crc.to_le_bytes());
            if let Ok(read) = SumAtom::decode("s", &near, OWNER, 3, 9) {
                prop_assert_eq!(read.encode(OWNER, 3, 9), near);
            }
        }
    }
}
