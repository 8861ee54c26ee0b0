//! Names of content: SHA-256 of a block without its trailing NULs (format.md, "Conventions").

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::hex;

/// Name of a content block. Printed as 64 lower-case hex digits, which is also the one form that is parsed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of nothing: that of a block of zeros, which is stored nowhere.
    pub const ZERO: Digest = Digest([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae,
        0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
    ]);

    /// Digest of a block, and the block without its trailing NULs.
    pub fn of(block: &[u8]) -> (Digest, &[u8]) {
        let content = strip(block);
        (Digest::of_bytes(content), content)
    }

    /// SHA-256 of exactly these bytes.
    pub fn of_bytes(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// SHA-256 of two digests one behind the other.
    pub(crate) fn of_pair(left: &Digest, right: &Digest) -> Digest {
        let mut both = [0; 64];
        both[..32].copy_from_slice(&left.0);
        both[32..].copy_from_slice(&right.0);
        Digest::of_bytes(&both)
    }
}

/// A block without its trailing NULs.
pub fn strip(block: &[u8]) -> &[u8] {
    // By pieces first: most of a sparse block is passed over at the speed of memory.
    let mut end = block.len();
    while end >= PIECE && block[end - PIECE..end] == ZEROS {
        end -= PIECE;
    }
    let start = end.saturating_sub(PIECE);
    let kept = block[start..end].iter().rposition(|byte| *byte != 0).map_or(0, |i| i + 1);
    &block[..if kept == 0 { 0 } else { start + kept }]
}

/// Bytes compared at once by [`strip`].
const PIECE: usize = 512;
static ZEROS: [u8; PIECE] = [0; PIECE];

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Digest, Error> {
        // The length first: a text may be of any.
        let bytes = if text.len() == 64 { hex::decode(text) } else { None };
        let digest = bytes.and_then(|bytes| bytes.try_into().ok()).map(Digest);
        digest.ok_or_else(|| Error::InvalidArgument(format!("{text:?}: a digest is 64 lower-case hex digits")))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_digests_of_the_golden_vectors_come_out() {
        let block = [vec![b'a'; 4096], vec![0; 10]].concat();
        let (digest, content) = Digest::of(&block);
        assert_eq!(content.len(), 4096);
        assert_eq!(digest.to_string(), "c93eee2d0db02f10acc7460d9576e122dcf8cd53c4bf8dfcae1b3e74ebcfff5a");
        assert_eq!(Digest::of(&[0; 4096]).0, Digest::ZERO);
        assert_eq!(Digest::of(b"").0, Digest::ZERO);
        let b = Digest::of(b"b").0.to_string();
        assert_eq!(b, "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d");
    }

    #[test]
    fn a_digest_has_one_written_form() {
        let text = Digest::ZERO.to_string();
        assert_eq!(text.parse::<Digest>().unwrap(), Digest::ZERO);
        for wrong in [&text[1..], &text.to_uppercase(), &format!("{text}0"), "", &text.replace('e', "g")] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn only_trailing_nuls_are_stripped(mut bytes in proptest::collection::vec(0u8..2, 0..1600), zeros in 0usize..1600) {
            let kept = bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
            bytes.resize(bytes.len() + zeros, 0);
            prop_assert_eq!(strip(&bytes), &bytes[..kept]);
        }
    }
}
