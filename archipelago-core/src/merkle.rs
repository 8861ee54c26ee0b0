//! The top hash of a list of digests, as Pithos has it.
//!
//! Nothing: the digest of nothing. One digest: itself. More: the list is filled up with 32 zero bytes to a power of two, and
//! neighbours are replaced by the SHA-256 of both until one is left.

use crate::digest::Digest;

/// Takes digests in order and keeps one per level of the tree, whatever their number.
#[derive(Clone, Default)]
pub struct TopHash {
    /// Finished subtrees from the left, falling levels.
    done: Vec<(u32, Digest)>,
    count: u64,
}

impl TopHash {
    /// The next digest.
    pub fn push(&mut self, digest: Digest) {
        self.count += 1;
        self.add(0, digest);
    }

    /// Digests so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    fn add(&mut self, mut level: u32, mut digest: Digest) {
        while let Some((_, left)) = self.done.pop_if(|(l, _)| *l == level) {
            digest = Digest::of_pair(&left, &digest);
            level += 1;
        }
        self.done.push((level, digest));
    }

    /// The top hash of what was pushed.
    pub fn finish(mut self) -> Digest {
        if self.count == 0 {
            return Digest::ZERO;
        }
        let top = self.count.next_power_of_two().trailing_zeros();
        // The subtree of zeros as high as the lowest finished one goes to its right.
        let (mut zero, mut height) = (Digest([0; 32]), 0);
        while let Some((level, digest)) = self.done.pop() {
            if level == top {
                return digest;
            }
            while height < level {
                zero = Digest::of_pair(&zero, &zero);
                height += 1;
            }
            self.add(level + 1, Digest::of_pair(&digest, &zero));
        }
        Digest::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, word by word.
    fn plain(list: &[Digest]) -> Digest {
        let mut level = list.to_vec();
        if level.is_empty() {
            return Digest::of_bytes(b"");
        }
        level.resize(level.len().next_power_of_two(), Digest([0; 32]));
        while level.len() > 1 {
            level = level.chunks(2).map(|pair| Digest::of_bytes(&[pair[0].0, pair[1].0].concat())).collect();
        }
        level[0]
    }

    #[test]
    fn the_golden_vector_comes_out() {
        let mut top = TopHash::default();
        for block in [&[vec![b'a'; 4096], vec![0; 10]].concat()[..], &[0; 4096], b"b"] {
            top.push(Digest::of(block).0);
        }
        let expected = "24c9850ec8162428306fe61113abd65f6c52baf3c890bcfcd1bfe6ce0cc71d56";
        assert_eq!(top.finish().to_string(), expected);
    }

    #[test]
    fn the_algorithm_vectors_of_pithos_come_out() {
        let root = |leaves: &[u8]| {
            let mut top = TopHash::default();
            leaves.iter().for_each(|leaf| top.push(Digest([*leaf; 32])));
            top.finish().to_string()
        };
        assert_eq!(root(&[0x11, 0x22]), "5189c77d29fe5d546a045ec46986852785fea5c13ac7da9c115ff5fb6edf817c");
        assert_eq!(root(&[0x11, 0x22, 0x33]), "8c737b85522a3cf473e681efdaff9abf9f04cff8544691c9770c6e149caa06fc");
        assert_eq!(root(&[0x11]), "11".repeat(32));
        assert_eq!(root(&[]), Digest::ZERO.to_string());
    }

    #[test]
    fn lists_of_every_length_hash_as_defined() {
        let mut list = Vec::new();
        for n in 0..140u32 {
            let mut top = TopHash::default();
            list.iter().for_each(|digest| top.push(*digest));
            assert_eq!(top.finish(), plain(&list), "{n}");
            list.push(Digest::of_bytes(&n.to_le_bytes()));
        }
    }
}
