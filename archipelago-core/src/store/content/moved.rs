//! Slots that were moved: what a reader asks before it reads a place of a sealed epoch.
//!
//! A moved slot may be punched at any time, so nobody reads it by its place. Most epochs have none: whether one has is in the
//! head of its redirect table, and remembered. What is remembered is forgotten when a collector asks (`Contents::forget`), and a
//! slot is punched only after that and after the end of whatever looked before it (docs/format.md, "Redirect table").

use std::sync::Arc;

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::blocker::{Blocker, Object, VolumeId};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::redirect::{ENTRY, RedirectEntry, place};
use crate::id_hash::BuildIdHasher;
use crate::limits::{MOVED_EPOCHS, MOVED_WINDOWS};
use crate::store::content::redirect::{patiently, read_head};

/// Entries of a window: those of a page of the file.
const WINDOW: u64 = 64;

/// Digests of the moved slots of a window.
type Window = Arc<Vec<Option<Digest>>>;

/// What a process remembers of moved slots.
pub struct Moves {
    /// `log2` of the block size of epochs with moved slots, `None` for those without.
    epochs: Cache<(VolumeId, u64), Option<u8>, UnitWeighter, BuildIdHasher>,
    windows: Cache<(VolumeId, u64, u64), Window>,
}

impl Default for Moves {
    fn default() -> Moves {
        let hasher = BuildIdHasher::default();
        let epochs = Cache::with(MOVED_EPOCHS, MOVED_EPOCHS as u64, UnitWeighter, hasher, DefaultLifecycle::default());
        Moves { epochs, windows: Cache::new(MOVED_WINDOWS) }
    }
}

impl Moves {
    /// The digest through which a slot is to be read, if it was moved. To be asked inside the operation that reads it.
    pub fn find(&self, blocker: &dyn Blocker, owner: VolumeId, epoch: u64, block: u64) -> Result<Option<Digest>> {
        let shift = match self.epochs.get(&(owner, epoch)) {
            Some(known) => known,
            None => {
                let head = read_head(blocker, owner, epoch)?;
                let shift = head.filter(|head| head.moved).map(|head| head.shift);
                self.epochs.insert((owner, epoch), shift);
                shift
            }
        };
        let Some(shift) = shift else { return Ok(None) };
        let (first, at) = (block / WINDOW * WINDOW, (block % WINDOW) as usize);
        if let Some(window) = self.windows.get(&(owner, epoch, first)) {
            return Ok(window.get(at).copied().flatten());
        }
        let window = Arc::new(read(blocker, owner, epoch, first, shift)?);
        self.windows.insert((owner, epoch, first), window.clone());
        Ok(window.get(at).copied().flatten())
    }

    /// Whether it is remembered that none of an epoch was moved.
    pub fn is_known_to_stay(&self, owner: VolumeId, epoch: u64) -> bool {
        self.epochs.get(&(owner, epoch)) == Some(None)
    }

    /// Forgets everything.
    pub fn forget(&self) {
        self.epochs.clear();
        self.windows.clear();
    }
}

fn read(blocker: &dyn Blocker, owner: VolumeId, epoch: u64, first: u64, shift: u8) -> Result<Vec<Option<Digest>>> {
    let object = Object::Redirect(owner, epoch);
    patiently(|| {
        let mut bytes = vec![0; WINDOW as usize * ENTRY];
        blocker.read_some(object, &mut bytes, place(first))?;
        let entries = (first..).zip(bytes.chunks_exact(ENTRY));
        let decode = |(block, bytes)| match RedirectEntry::decode(&object.to_string(), bytes, block, shift) {
            Ok(entry) => Ok(entry.filter(|entry| entry.moved).map(|entry| entry.digest)),
            Err(error) => Err(error),
        };
        entries.map(decode).collect::<Result<Vec<_>>>()
    })
    .map_err(|error| match error {
        Error::Damaged { object, detail } => {
            let detail = format!("{detail}; whether blocks {first} and on lie elsewhere is not known");
            Error::Damaged { object, detail }
        }
        other => other,
    })
}
