//! What is known of blocks that were read: their digests, so that a block which many maps name is read once.

use std::collections::HashMap;

use archipelago_core::Digest;
use parking_lot::Mutex;

/// Most blocks that are remembered: 4 TiB of the usual ones, in a hundred megabytes. Those beyond are read for each map, and still stored once.
pub const MAX_KNOWN: usize = 1 << 20;

/// Digests of blocks that never change any more, by the names of their objects.
#[derive(Default)]
pub struct Known(Mutex<HashMap<[u8; 16], Digest>>);

/// Stands for a name; long names of many blocks would take more room than what is kept of them.
fn key(name: &str) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&Digest::of_bytes(name.as_bytes()).0[..16]);
    key
}

impl Known {
    /// The digest of a block, if it was read.
    pub fn get(&self, name: &str) -> Option<Digest> {
        self.0.lock().get(&key(name)).copied()
    }

    /// Remembers a block; returns whether it was not known.
    pub fn add(&self, name: &str, digest: Digest) -> bool {
        let mut known = self.0.lock();
        known.len() < MAX_KNOWN && known.insert(key(name), digest).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_known_by_its_whole_name() {
        let known = Known::default();
        let digest = Digest::of_bytes(b"content");
        assert!(known.add("myvolume_1_0", digest) && !known.add("myvolume_1_0", digest));
        assert_eq!((known.get("myvolume_1_0"), known.get("myvolume_1_1")), (Some(digest), None));
    }
}
