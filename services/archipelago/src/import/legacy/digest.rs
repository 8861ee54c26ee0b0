//! The name of a block that is too large to be read at once, computed while it is read.

use archipelago_core::Digest;
use sha2::{Digest as _, Sha256};

/// Zeros that are put before data which comes after them, some at a time.
static ZEROS: [u8; 4096] = [0; 4096];

/// The digest of a block, of which zeros at its end do not count.
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
        Digest(self.hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(bytes: &[u8]) -> String {
        let mut digest = BlockDigest::default();
        digest.update(bytes);
        digest.finish().to_string()
    }

    #[test]
    fn the_golden_digests_of_the_original_come_out() {
        let b0 = [vec![b'a'; 4096], vec![0; 10]].concat();
        assert_eq!(name(&b0), "c93eee2d0db02f10acc7460d9576e122dcf8cd53c4bf8dfcae1b3e74ebcfff5a");
        assert_eq!(name(&[0; 4096]), Digest::ZERO.to_string());
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
            prop_assert_eq!(digest.finish(), Digest::of(&whole).0);
        }
    }
}
