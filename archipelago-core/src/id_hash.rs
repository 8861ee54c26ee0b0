//! Hashes the keys of tables that every request looks into: ids, which are random, and small numbers beside them.

use std::hash::{BuildHasherDefault, Hasher};

/// Makes [`IdHasher`]s.
pub type BuildIdHasher = BuildHasherDefault<IdHasher>;

/// One multiplication for each number. Not for keys that somebody may choose in order to make them collide.
#[derive(Clone, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.write_u64(u64::from_le_bytes(padded));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }

    /// Tables use the lowest bits, and the multiplication leaves the best ones above.
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use super::*;
    use crate::blocker::{Object, VolumeId};

    #[test]
    fn neighbours_are_spread_over_the_places_of_a_table() {
        let place = |hash: u64| (hash % 4096, hash >> 57);
        let hash = |key: &dyn Fn(u64) -> u64| (0..4096).map(|n| place(key(n))).collect::<HashSet<_>>().len();
        let build = BuildIdHasher::default();
        let id = VolumeId(0x8c3f_0e11_7a42_59d6);
        // As many different places as chance would give, at least.
        let least = 4000;
        assert!(hash(&|n| build.hash_one(n)) > least);
        assert!(hash(&|n| build.hash_one((id, 7u64, n))) > least);
        assert!(hash(&|n| build.hash_one((id, 3u32, (n * 512) as u32))) > least);
        assert!(hash(&|n| build.hash_one(Object::Data(id, n))) > least);
        assert!(hash(&|n| build.hash_one(Object::Log(VolumeId(n), 1))) > least);
    }
}
