//! Figures of an open store for who watches it: what this process knows without looking into the store, and without waiting for anybody.

use serde::Serialize;

use super::Store;
use crate::blocker::Space;
use crate::error::Result;
pub use crate::mapper::cache::CacheFigures;

/// Figures of a store in this process.
#[derive(Clone, Debug, Default)]
pub struct StoreFigures {
    /// The node cache.
    pub cache: CacheFigures,
    /// Volumes that this process has open for writing, in an order that can be repeated.
    pub volumes: Vec<VolumeFigures>,
}

/// Figures of a volume that is open for writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeFigures {
    /// Id, 16 hex digits.
    pub id: String,
    /// Bytes of its journal that wait to be folded into its map.
    pub unfolded: u64,
    /// Maps of snapshots that wait to be folded.
    pub folds: u64,
}

impl Store {
    /// What this process knows of the store. Takes no time that depends on what is in it.
    pub fn figures(&self) -> StoreFigures {
        let volume = |inner: &crate::volume::inner::Inner| {
            let writer = inner.writer.as_ref()?;
            Some(VolumeFigures {
                id: inner.id.to_string(),
                unfolded: writer.journal.unfolded(),
                folds: writer.jobs.lock().len() as u64,
            })
        };
        StoreFigures {
            cache: self.shared.cache.figures(),
            volumes: self.shared.all_open().iter().filter_map(|inner| volume(inner)).collect(),
        }
    }

    /// Size and free room of the backend. Asks it, so it may take as long as a request.
    pub fn space(&self) -> Result<Space> {
        self.shared.blocker.space()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Background, CreateOptions, InitOptions, Location, Mode, Store, StoreOptions};

    #[test]
    fn figures_show_what_waits_to_be_folded_and_the_room_of_the_backend() {
        let dir = tempfile::tempdir().unwrap();
        let at = Location::File(dir.path().join("store"));
        Store::init(&at, &InitOptions { block_size: 64 << 10, ..InitOptions::default() }).unwrap();
        let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
        let store = Store::open(&at, options).unwrap();
        store.create("disk-1", &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
        assert!(store.figures().volumes.is_empty());
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        volume.write_at(&[7; 4096], 0).unwrap();
        let figures = store.figures();
        assert_eq!(figures.volumes[0].id, volume.info().unwrap().id);
        assert!(figures.volumes[0].unfolded >= 4096 && figures.volumes[0].folds == 0, "{figures:?}");
        assert!(figures.cache.limit > 0 && figures.cache.bytes <= figures.cache.limit);
        volume.checkpoint().unwrap();
        assert_eq!(store.figures().volumes[0].unfolded, 0);
        volume.close().unwrap();
        assert!(store.figures().volumes.is_empty());
        let space = store.space().unwrap();
        assert!(space.free > 0 && space.free <= space.total);
    }
}
