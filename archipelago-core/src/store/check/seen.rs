//! Remembers which tree nodes were seen, in bounded memory.

use crate::format::node::Pointer;
use crate::limits::CHECK_SEEN;

/// A set of 64-bit keys that stops growing at [`CHECK_SEEN`] bytes: past that it forgets to remember, and nodes that maps
/// share are looked at again. Two of 12 million nodes have the same key with a chance of 1 in 250,000; then one of them
/// is passed over.
pub(super) struct Seen {
    /// Open addressing; 0 is a free slot. A power of two.
    slots: Vec<u64>,
    used: usize,
    most: usize,
}

impl Seen {
    /// An empty set of at most `bytes` bytes.
    pub(super) fn with_limit(bytes: usize) -> Seen {
        Seen { slots: vec![0; 1024], used: 0, most: (bytes / 8).max(1024) }
    }

    /// An empty set.
    pub(super) fn new() -> Seen {
        Seen::with_limit(CHECK_SEEN)
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: u64) -> bool {
        let mask = self.slots.len() - 1;
        let mut at = key as usize & mask;
        loop {
            match self.slots[at] {
                0 => return false,
                k if k == key => return true,
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Adds a key, if there is room.
    pub(super) fn add(&mut self, key: u64) {
        if (self.used + 1) * 4 > self.slots.len() * 3 && !self.grow() {
            return;
        }
        if insert(&mut self.slots, key) {
            self.used += 1;
        }
    }

    /// Whether half of all the room there may be is taken: only what is worth most is added then.
    pub(super) fn is_scarce(&self) -> bool {
        self.used * 2 > self.most
    }

    fn grow(&mut self) -> bool {
        if self.slots.len() * 2 > self.most {
            return false;
        }
        let mut larger = vec![0; self.slots.len() * 2];
        for key in self.slots.iter().filter(|k| **k != 0) {
            insert(&mut larger, *key);
        }
        self.slots = larger;
        true
    }
}

fn insert(slots: &mut [u64], key: u64) -> bool {
    let mask = slots.len() - 1;
    let mut at = key as usize & mask;
    loop {
        match slots[at] {
            0 => {
                slots[at] = key;
                return true;
            }
            k if k == key => return false,
            _ => at = (at + 1) & mask,
        }
    }
}

/// Key of a node in a place of a tree: everything that is verified of it, so that another claim about the same node is
/// another key.
pub(super) fn key(pointer: &Pointer, level: u8, base: u64, shift: u8) -> u64 {
    // The hash alone is as good as random; the rest tells apart what claims the same hash.
    let hash = pointer.hash.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let mut key = hash;
    for part in [
        pointer.owner.0,
        u64::from(pointer.pack) << 32 | u64::from(pointer.offset),
        u64::from(pointer.len) << 16 | u64::from(level) << 8 | u64::from(shift),
        pointer.mapped,
        base,
    ] {
        key = (key ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    key.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_added_until_it_is_full() {
        let mut seen = Seen::with_limit(64 << 10);
        let keys: Vec<u64> = (1..=20_000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        for key in &keys[..6000] {
            assert!(!seen.has(*key));
            seen.add(*key);
            seen.add(*key);
        }
        assert!(keys[..6000].iter().all(|k| seen.has(*k)));
        assert!(seen.is_scarce());
        keys.iter().for_each(|k| seen.add(*k));
        assert!(seen.slots.len() * 8 <= 64 << 10);
        assert!(keys[..6000].iter().all(|k| seen.has(*k)), "nothing is forgotten");
        assert!(keys[10_000..].iter().all(|k| !seen.has(*k)), "and no more is taken in than there is room for");
    }

    #[test]
    fn another_claim_about_a_node_is_another_key() {
        let pointer = Pointer { owner: crate::VolumeId(7), pack: 1, offset: 2, len: 99, mapped: 5, hash: [9; 32] };
        let all = [
            key(&pointer, 0, 0, 22),
            key(&pointer, 1, 0, 22),
            key(&pointer, 0, 128, 22),
            key(&pointer, 0, 0, 16),
            key(&Pointer { mapped: 6, ..pointer }, 0, 0, 22),
            key(&Pointer { offset: 3, ..pointer }, 0, 0, 22),
            key(&Pointer { pack: 2, ..pointer }, 0, 0, 22),
            key(&Pointer { hash: [8; 32], ..pointer }, 0, 0, 22),
        ];
        let distinct: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
