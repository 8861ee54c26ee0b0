//! SHA-256 as the original names things by it. Blocks are named without their trailing NULs; the name of a list of blocks is
//! the engine's top hash of it.

use sha2::{Digest as _, Sha256};

/// A SHA-256.
pub type Digest = [u8; 32];

/// SHA-256 of nothing: the name of the block of zeros.
pub const ZERO_BLOCK: Digest = archipelago_core::Digest::ZERO.0;

/// Zeros that are put before data which comes after them, some at a time.
static ZEROS: [u8; 4096] = [0; 4096];

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// A digest as it stands in names.
pub fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a block, computed while it is read: zeros at its end do not count.
#[derive(Default)]
pub struct BlockDigest {
    hasher: Sha256,
    /// Zeros after the last byte that was hashed.
    zeros: u64,
}

impl BlockDigest {
    /// Adds the next bytes of the block.
    pub fn update(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else {
            self.zeros += bytes.len() as u64;
            return;
        };
        while self.zeros > 0 {
            let len = self.zeros.min(ZEROS.len() as u64);
            self.hasher.update(&ZEROS[..len as usize]);
            self.zeros -= len;
        }
        self.hasher.update(&bytes[..=last]);
        self.zeros = (bytes.len() - last - 1) as u64;
    }

    /// The digest of what was added.
    pub fn finish(self) -> Digest {
        self.hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(bytes: &[u8]) -> String {
        let mut digest = BlockDigest::default();
        digest.update(bytes);
        hex(&digest.finish())
    }

    #[test]
    fn the_golden_digests_of_the_original_come_out() {
        let b0 = [vec![b'a'; 4096], vec![0; 10]].concat();
        assert_eq!(name(&b0), "c93eee2d0db02f10acc7460d9576e122dcf8cd53c4bf8dfcae1b3e74ebcfff5a");
        assert_eq!(name(&[0; 4096]), hex(&ZERO_BLOCK));
        assert_eq!(ZERO_BLOCK, sha256(b""));
        assert_eq!(name(b"b"), "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d");
    }

    proptest! {
        #[test]
        fn a_block_in_pieces_has_the_name_of_the_whole(
            pieces in proptest::collection::vec(
                (proptest::collection::vec(0u8..3, 0..20), 0usize..9000), 0..6)
        ) {
            let mut digest = BlockDigest::default();
            let mut whole = Vec::new();
            for (data, zeros) in &pieces {
                let piece = [data.clone(), vec![0; *zeros]].concat();
                digest.update(&piece);
                whole.extend(piece);
            }
            let len = whole.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            prop_assert_eq!(digest.finish(), sha256(&whole[..len]));
        }
    }
}
