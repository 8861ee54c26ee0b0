//! A set of digests in bounded memory: a Bloom filter. It may take a digest for one of its own that is none, which keeps what
//! could go; with another seed the next collection is mistaken about others. It never forgets one.

use std::hash::{DefaultHasher, Hasher};

use crate::digest::Digest;
use crate::limits::DIGEST_BITS;

/// Bits for each digest.
const PROBES: u64 = 4;

/// Digests that are needed.
pub struct Digests {
    seed: u64,
    words: Vec<u64>,
}

impl Digests {
    /// None.
    pub fn new(seed: u64) -> Digests {
        // Zeros that were never written take no memory.
        Digests { seed, words: vec![0; 1 << (DIGEST_BITS - 6)] }
    }

    /// Adds one; whether it was certainly not there.
    pub fn insert(&mut self, digest: &Digest) -> bool {
        let mut new = false;
        for bit in self.bits(digest) {
            let word = &mut self.words[(bit / 64) as usize];
            new |= *word >> (bit % 64) & 1 == 0;
            *word |= 1 << (bit % 64);
        }
        new
    }

    /// Whether it may be there.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.bits(digest).all(|bit| self.words[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
    }

    fn bits(&self, digest: &Digest) -> impl Iterator<Item = u64> + use<> {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher.write(&digest.0);
        let hash = hasher.finish();
        let (start, step) = (hash >> 32, hash & 0xffff_ffff | 1);
        (0..PROBES).map(move |n| start.wrapping_add(n.wrapping_mul(step)) & ((1 << DIGEST_BITS) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u64) -> Digest {
        Digest::of_bytes(&n.to_le_bytes())
    }

    #[test]
    fn none_is_forgotten_and_few_others_are_taken_for_one() {
        let (mut digests, mut other) = (Digests::new(1), Digests::new(2));
        let new = (0..200_000).filter(|n| digests.insert(&digest(*n)) && other.insert(&digest(*n))).count();
        assert!(new > 199_900, "{new}");
        assert!((0..200_000).all(|n| digests.contains(&digest(n)) && !digests.insert(&digest(n))));
        let wrong = (200_000..400_000).filter(|n| digests.contains(&digest(*n))).count();
        assert!(wrong < 20, "{wrong}");
    }
}
