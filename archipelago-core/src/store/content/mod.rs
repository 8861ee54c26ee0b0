//! Content addressing: where a block lies that is named by its digest, and how digests come to maps and maps to digests.
//!
//! | File | Its job |
//! |---|---|
//! | `index` | tables that lead from a digest to a slot: written once, searched, merged |
//! | `redirect` | from a slot to its digest |
//! | `moved` | which slots are read through their digest, because they are not there any more |
//! | `claim` | leases, and putting blocks: what uploads need before they have a map |
//! | `collect` | what a collector needs: leases that hold, claims that are too old, deletion under the lock |
//! | `object` | maps from lists of digests, and lists of digests of maps |
//! | `hash`, `reading` | hashing a snapshot in place |
//! | `rebuild` | the index anew, from the redirect tables |
//!
//! Nothing here is on the way of a write. docs/format.md, "Content", has the structures and their protocol.

use std::collections::BTreeSet;

use quick_cache::sync::Cache;

use crate::blocker::{Blocker, LockGuard, LockMode, LockOutcome, Object, VolumeId};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::index::{IndexHead, Slot};
use crate::limits::CONTENT_PLACES;

mod claim;
mod collect;
mod hash;
pub(crate) mod index;
pub(crate) mod moved;
mod object;
mod reading;
mod rebuild;
pub(crate) mod redirect;

pub use claim::{Claim, Put};
pub use collect::Leases;
pub use hash::{HashOptions, HashProgress, Hashed};
pub use object::{DigestList, NewObject};
pub(crate) use rebuild::replace_index;

use index::Tables;
use moved::Moves;

/// Id whose lock guards content: shared while somebody leases and looks, exclusive while something is deleted.
const CONTENT_LOCK: VolumeId = VolumeId(1);
/// Id whose lock is held by whoever merges index tables.
pub(crate) const MERGE_LOCK: VolumeId = VolumeId(2);
/// Times that the lock of content is tried, a millisecond apart. It is only ever held for a moment.
const LOCK_TRIES: usize = 30_000;

/// Where the bytes of a content block are, from their first to the last that is not NUL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Object.
    pub object: Object,
    /// Offset of the first byte in it.
    pub base: u64,
    /// How many there are.
    pub len: u64,
}

impl Place {
    /// Of `len` bytes from `at` on: the place of the first, and how many are there.
    pub fn part(&self, at: u64, len: usize) -> (Option<(Object, u64)>, usize) {
        let there = self.len.saturating_sub(at).min(len as u64) as usize;
        if there == 0 { (None, 0) } else { (Some((self.object, self.base + at)), there) }
    }

    /// Where the content of a slot is.
    pub(crate) fn of_slot(slot: &Slot) -> Place {
        let object = Object::Data(slot.owner, slot.epoch);
        Place { object, base: slot.block << slot.shift, len: u64::from(slot.len) }
    }
}

/// What a process knows of the content of a store.
pub struct Contents {
    places: Cache<Digest, Place>,
    tables: Tables,
    moves: Moves,
}

impl Default for Contents {
    fn default() -> Contents {
        Contents { places: Cache::new(CONTENT_PLACES), tables: Tables::default(), moves: Moves::default() }
    }
}

impl Contents {
    /// Where a block is that a map names. A map names only what is there, so one that is nowhere is damage.
    pub fn resolve(&self, blocker: &dyn Blocker, digest: Digest) -> Result<Place> {
        if let Some(place) = self.places.get(&digest) {
            return Ok(place);
        }
        let place = self.look(blocker, digest)?.ok_or_else(|| {
            Error::damaged(Object::Content(digest).to_string(), "a map names this block, and it is nowhere")
        })?;
        self.places.insert(digest, place);
        Ok(place)
    }

    /// The digest through which a block of a sealed epoch is to be read, if its slot was moved. To be asked inside the
    /// operation that reads it.
    pub fn moved(&self, blocker: &dyn Blocker, owner: VolumeId, epoch: u64, block: u64) -> Result<Option<Digest>> {
        self.moves.find(blocker, owner, epoch, block)
    }

    /// Whether it is remembered that no slot of a sealed epoch was moved. To be asked as [`Contents::moved`] is.
    pub fn is_known_to_stay(&self, owner: VolumeId, epoch: u64) -> bool {
        self.moves.is_known_to_stay(owner, epoch)
    }

    /// Forgets where blocks are. A process does so when it acknowledges: what was found before may be collected or moved, and
    /// come again elsewhere.
    pub fn forget(&self) {
        self.places.clear();
        self.moves.forget();
    }

    /// The tables of the index.
    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Where a block is at this moment, whatever was known before: a content object, or a slot.
    pub fn look(&self, blocker: &dyn Blocker, digest: Digest) -> Result<Option<Place>> {
        if let Some(len) = blocker.content_len(digest)? {
            return Ok(Some(Place { object: Object::Content(digest), base: 0, len }));
        }
        let counts = |slot: &Slot| redirect::confirms(blocker, slot, digest);
        if let Some(slot) = self.tables.find(blocker, digest, &counts)? {
            return Ok(Some(Place::of_slot(&slot)));
        }
        // Somebody may have moved it from a slot to an object meanwhile.
        Ok(blocker.content_len(digest)?.map(|len| Place { object: Object::Content(digest), base: 0, len }))
    }
}

/// Where the content of a slot is besides, if it is anywhere in these tables or, if that counts, an object: a place that is not moved
/// itself. `passed` are slots that do not count.
pub(crate) fn elsewhere(
    blocker: &dyn Blocker,
    tables: (&Tables, &[IndexHead]),
    slot: &Slot,
    digest: Digest,
    object: bool,
    passed: &dyn Fn(&Slot) -> bool,
) -> Result<Option<Place>> {
    if object && let Some(len) = blocker.content_len(digest)? {
        return Ok(Some(Place { object: Object::Content(digest), base: 0, len }));
    }
    let same = |other: &Slot| (other.owner, other.epoch, other.block) == (slot.owner, slot.epoch, slot.block);
    let counts = |other: &Slot| Ok(!same(other) && !passed(other) && redirect::confirms(blocker, other, digest)?);
    Ok(tables.0.find_among(blocker, tables.1, digest, &counts)?.map(|slot| Place::of_slot(&slot)))
}

/// What a map that is about to be published relies on. It can be seen, but whoever made it may have died before it was
/// durable.
#[derive(Default)]
pub(crate) struct Relied {
    contents: BTreeSet<u8>,
    epochs: BTreeSet<(VolumeId, u64)>,
}

impl Relied {
    /// A block that was found there.
    pub fn add(&mut self, place: &Place) {
        match place.object {
            Object::Content(digest) => self.contents.insert(digest.0[0]),
            Object::Data(owner, epoch) => self.epochs.insert((owner, epoch)),
            _ => false,
        };
    }

    /// Makes it durable.
    pub fn settle(&self, blocker: &dyn Blocker) -> Result<()> {
        for first in &self.contents {
            blocker.sync_contents(*first)?;
        }
        if !self.epochs.is_empty() {
            let redirects: Vec<_> = self.epochs.iter().map(|(owner, epoch)| Object::Redirect(*owner, *epoch)).collect();
            blocker.sync(&redirects)?;
            let tables = blocker.content_tables()?;
            let indexes: Vec<_> = tables.into_iter().filter(|object| matches!(object, Object::Index(_))).collect();
            blocker.sync(&indexes)?;
        }
        Ok(())
    }
}

/// Takes the lock of content.
pub(crate) fn lock(blocker: &dyn Blocker, mode: LockMode) -> Result<Box<dyn LockGuard>> {
    for _ in 0..LOCK_TRIES {
        match blocker.lock(CONTENT_LOCK, mode, &[])? {
            LockOutcome::Held(guard) => return Ok(guard),
            LockOutcome::Refused(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
    Err(Error::TooBusy("the lock of content is not given up; see which processes have the store open".into()))
}
