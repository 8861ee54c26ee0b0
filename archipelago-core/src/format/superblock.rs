//! The superblock (format.md, "Superblock").

use super::bytes::{Reader, Writer, bit_names};
use crate::error::Result;
use crate::limits::{MAX_BLOCK_SIZE, MIN_BLOCK_SIZE};

/// Format version written by this build.
pub const VERSION: u32 = 1;
/// Incompatible feature bits that this build knows.
pub const INCOMPAT_KNOWN: u64 = 0;
/// Features that only forbid writing when unknown.
pub const READ_COMPAT_KNOWN: u64 = 0;

/// First bytes of a superblock.
const MAGIC: [u8; 8] = *b"ARCHSTOR";
/// Bytes of a superblock of version 1.
const LEN: usize = 64;
/// Bits that `mode` may have.
const MODE_BITS: u32 = 0o7777;

/// Facts about a store that are the same for all its volumes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Random identity of the store.
    pub uuid: [u8; 16],
    /// Seconds since 1970.
    pub created: u64,
    /// `log2` of the block size of volumes that do not say otherwise.
    pub block_shift: u8,
    /// Permission bits of files; directories get the execute bits that go with them.
    pub mode: u32,
    /// Group of files and directories; `u32::MAX` leaves it to the system.
    pub group: u32,
    /// Incompatible features in use: a reader that does not know one must refuse the store.
    pub incompat: u64,
    /// Features in use that forbid writing to a build that does not know them.
    pub read_compat: u64,
}

impl Superblock {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(LEN);
        writer.bytes(&MAGIC).u32(VERSION).u32(self.mode).u64(self.incompat).u64(self.read_compat);
        writer.bytes(&self.uuid).u64(self.created).u32(self.group).u8(self.block_shift).pad_to(LEN);
        writer.finish()
    }

    /// Reads the stored form. A later version or an unknown incompatible bit is `TooNew`.
    ///
    /// A bit in `read_compat` that is not in [`READ_COMPAT_KNOWN`] is returned: the caller must then not write.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Superblock> {
        let mut reader = Reader::new(object, bytes);
        if reader.array()? != MAGIC {
            return reader.damaged("this is no superblock of a store");
        }
        match reader.u32()? {
            VERSION => {}
            0 => return reader.damaged("a store of version 0"),
            later => return reader.too_new(format!("the store is of version {later}, this build knows {VERSION}")),
        }
        let (mode, incompat, read_compat) = (reader.u32()?, reader.u64()?, reader.u64()?);
        if incompat & !INCOMPAT_KNOWN != 0 {
            return reader.too_new(format!("the store uses feature {}", bit_names(incompat & !INCOMPAT_KNOWN)));
        }
        let (uuid, created, group, block_shift) = (reader.array()?, reader.u64()?, reader.u32()?, reader.u8()?);
        let reserved = reader.array::<3>()?;
        reader.require(reserved == [0; 3], "bytes that must be zero are not")?;
        reader.end()?;
        reader.require(mode & !MODE_BITS == 0, "the permission bits are impossible")?;
        let shifts = MIN_BLOCK_SIZE.trailing_zeros()..=MAX_BLOCK_SIZE.trailing_zeros();
        reader.require(shifts.contains(&u32::from(block_shift)), "the block size is impossible")?;
        Ok(Superblock { uuid, created, block_shift, mode, group, incompat, read_compat })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use proptest::prelude::*;

    fn example() -> Superblock {
        let uuid = *b"0123456789abcdef";
        Superblock { uuid, created: 5, block_shift: 22, mode: 0o660, group: u32::MAX, incompat: 0, read_compat: 0 }
    }

    #[test]
    fn an_unknown_incompatible_bit_is_named_and_asks_for_a_newer_version() {
        for bit in 0..64 {
            let later = Superblock { incompat: 1 << bit, ..example() };
            let error = Superblock::decode("s", &later.encode()).unwrap_err();
            assert!(matches!(error, Error::TooNew { .. }));
            assert!(error.to_string().contains(&format!("feature bit {bit}; install")), "{error}");
        }
        let mut later = example().encode();
        later[8] = 2;
        later.extend_from_slice(b"fields of version 2");
        assert!(matches!(Superblock::decode("s", &later), Err(Error::TooNew { .. })));
    }

    #[test]
    fn an_unknown_bit_that_only_forbids_writing_is_handed_on() {
        let later = Superblock { read_compat: 1 << 40, ..example() };
        assert_eq!(Superblock::decode("s", &later.encode()).unwrap(), later);
    }

    #[test]
    fn impossible_values_cuts_and_tails_are_damage() {
        let whole = example().encode();
        assert_eq!(whole.len(), LEN);
        for len in 0..LEN {
            assert!(matches!(Superblock::decode("s", &whole[..len]), Err(Error::Damaged { .. })), "{len}");
        }
        for (at, value) in [(0, 0), (8, 0), (13, 0x10), (60, 15), (60, 27), (61, 1), (63, 1)] {
            let mut wrong = whole.clone();
            wrong[at] = value;
            assert!(matches!(Superblock::decode("s", &wrong), Err(Error::Damaged { .. })), "byte {at}");
        }
        assert!(Superblock::decode("s", &[whole, vec![0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn any_superblock_comes_back_as_written(
            uuid: [u8; 16], created: u64, block_shift in 16u8..=26, mode in 0..=MODE_BITS, group: u32, read_compat: u64,
        ) {
            let written = Superblock { uuid, created, block_shift, mode, group, incompat: 0, read_compat };
            prop_assert_eq!(Superblock::decode("s", &written.encode()).unwrap(), written);
        }

        #[test]
        fn altered_superblocks_are_refused_or_canonical(at in 0..LEN, value: u8) {
            let mut bytes = example().encode();
            bytes[at] = value;
            if let Ok(read) = Superblock::decode("s", &bytes) { prop_assert_eq!(read.encode(), bytes); }
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(Superblock::decode("s", &bytes).is_err());
        }
    }
}
