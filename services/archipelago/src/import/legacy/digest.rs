//! SHA-256 as the original names things by it: blocks without their trailing NULs, lists of blocks as a Merkle tree.

use sha2::{Digest as _, Sha256};

/// A SHA-256.
pub type Digest = [u8; 32];

/// SHA-256 of nothing: the name of the block of zeros.
pub const ZERO_BLOCK: Digest = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

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

/// The Merkle root of a list of digests of any length: one digest for each bit of the length is kept.
#[derive(Default)]
pub struct Merkle {
    /// Roots of whole subtrees, largest first: their levels fall.
    roots: Vec<(u32, Digest)>,
    count: u64,
}

fn pair(left: &Digest, right: &Digest) -> Digest {
    Sha256::new().chain_update(left).chain_update(right).finalize().into()
}

impl Merkle {
    /// Adds the next digest of the list.
    pub fn push(&mut self, digest: Digest) {
        self.count += 1;
        let mut node = (0, digest);
        while let Some((level, left)) = self.roots.pop_if(|(level, _)| *level == node.0) {
            node = (level + 1, pair(&left, &node.1));
        }
        self.roots.push(node);
    }

    /// The root: the digest of nothing for no digest, the only one for one; otherwise the list is padded with zero
    /// digests to a power of two, and neighbours are replaced by the digest of both until one is left.
    pub fn root(mut self) -> Digest {
        let Some(mut node) = self.roots.pop() else { return ZERO_BLOCK };
        // A whole power of two is one subtree, and needs no padding.
        let mut padding = (0, [0; 32]);
        while let Some((level, left)) = self.roots.pop() {
            while node.0 < level {
                while padding.0 < node.0 {
                    padding = (padding.0 + 1, pair(&padding.1, &padding.1));
                }
                node = (node.0 + 1, pair(&node.1, &padding.1));
            }
            node = (level + 1, pair(&left, &node.1));
        }
        node.1
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

    /// The rule as the text has it: for lists that fit in memory.
    fn plain_root(mut list: Vec<Digest>) -> Digest {
        if list.is_empty() {
            return sha256(b"");
        }
        list.resize(list.len().next_power_of_two(), [0; 32]);
        while list.len() > 1 {
            list = list.chunks(2).map(|two| pair(&two[0], &two[1])).collect();
        }
        list[0]
    }

    #[test]
    fn the_golden_digests_of_the_original_come_out() {
        let b0 = [vec![b'a'; 4096], vec![0; 10]].concat();
        assert_eq!(name(&b0), "c93eee2d0db02f10acc7460d9576e122dcf8cd53c4bf8dfcae1b3e74ebcfff5a");
        assert_eq!(name(&[0; 4096]), hex(&ZERO_BLOCK));
        assert_eq!(ZERO_BLOCK, sha256(b""));
        assert_eq!(name(b"b"), "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d");
        let mut merkle = Merkle::default();
        for block in [&b0[..], &[0; 4096], b"b"] {
            let mut digest = BlockDigest::default();
            digest.update(block);
            merkle.push(digest.finish());
        }
        assert_eq!(hex(&merkle.root()), "24c9850ec8162428306fe61113abd65f6c52baf3c890bcfcd1bfe6ce0cc71d56");
    }

    #[test]
    fn the_algorithm_vectors_of_pithos_come_out() {
        let root = |leaves: &[u8]| {
            let mut merkle = Merkle::default();
            leaves.iter().for_each(|leaf| merkle.push([*leaf; 32]));
            hex(&merkle.root())
        };
        assert_eq!(root(&[0x11, 0x22]), "5189c77d29fe5d546a045ec46986852785fea5c13ac7da9c115ff5fb6edf817c");
        assert_eq!(root(&[0x11, 0x22, 0x33]), "8c737b85522a3cf473e681efdaff9abf9f04cff8544691c9770c6e149caa06fc");
        assert_eq!(root(&[0x11]), "11".repeat(32));
        assert_eq!(root(&[]), hex(&ZERO_BLOCK));
    }

    #[test]
    fn a_list_of_any_length_up_to_70_has_the_root_of_the_plain_rule() {
        for count in 0..70u8 {
            let list: Vec<Digest> = (0..count).map(|n| sha256(&[n])).collect();
            let mut merkle = Merkle::default();
            list.iter().for_each(|digest| merkle.push(*digest));
            assert_eq!(merkle.root(), plain_root(list), "{count}");
        }
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
