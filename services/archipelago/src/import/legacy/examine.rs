//! Looks at a whole map without reading a block: counts its entries, finds missing blocks, and checks who may write them.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::OldStore;
use super::entry::Entry;
use super::error::LegacyError;
use super::header::ENTRY_V2;
use super::map::{Assume, Entries, OldMap};
use super::names::{self, LOCK};

/// Longest text of a lock that is shown, in bytes (the original's limit for it).
const MAX_OWNER: usize = 128;

/// What was found out about a map.
#[derive(Clone, Debug)]
pub struct Examined {
    /// The map.
    pub map: OldMap,
    /// Entries that are not zeros.
    pub blocks: u64,
    /// Entries that name a block by its content.
    pub content: u64,
    /// Entries whose block was never written, which read as zeros.
    pub unwritten: u64,
    /// Entries whose block should be there and is not.
    pub missing: u64,
    /// The first of these.
    pub first_missing: Option<(u64, String)>,
    /// What the lock of the map says, if there is one.
    pub locked_by: Option<String>,
    /// Stands for all entries; the same if they are the same.
    pub fingerprint: u64,
}

/// What one entry means to the store: is its object there, and if not, may it be missing?
pub enum Presence {
    /// It is there, or there is nothing to be.
    There,
    /// It was never written, so it reads as zeros.
    Unwritten,
    /// It should be there.
    Missing,
}

/// Whether the block of an entry is there.
pub fn presence(store: &OldStore, entry: &Entry) -> Result<Presence, LegacyError> {
    let Some(object) = entry.object() else { return Ok(Presence::There) };
    if store.blocks.find(&object)?.is_some() {
        return Ok(Presence::There);
    }
    // The original named a block before it wrote it: between the two, and for ever after a crash, it does not exist.
    Ok(if matches!(entry, Entry::Owned { writable: true, .. }) { Presence::Unwritten } else { Presence::Missing })
}

/// Adds an entry to what stands for all of them.
pub fn fingerprint(hasher: &mut DefaultHasher, entry: &Entry) {
    match entry {
        Entry::Zero => 0u8.hash(hasher),
        Entry::Content(digest) => digest.hash(hasher),
        Entry::Owned { name, writable } => (name, writable).hash(hasher),
    }
}

/// Examines a map; `None` if it was removed.
pub fn examine(
    store: &OldStore,
    object: &str,
    assume: Assume,
    watch: &mut dyn FnMut() -> Result<(), LegacyError>,
) -> Result<Option<Examined>, LegacyError> {
    let Some(map) = OldMap::open(store, object, assume)? else { return Ok(None) };
    if map.object != map.volume() && is_live(store, map.volume())? {
        let reason = format!("is hidden by {}, which the original opens instead; remove one of them", map.volume());
        return Err(LegacyError::refused(object, reason));
    }
    let locked_by = if map.header.read_only { None } else { lock_of(store, object)? };
    let mut examined = Examined {
        map: map.clone(),
        blocks: 0,
        content: 0,
        unwritten: 0,
        missing: 0,
        first_missing: None,
        locked_by,
        fingerprint: 0,
    };
    let mut hasher = DefaultHasher::new();
    let mut writers = Writers::default();
    let mut reader = Entries::new(store, &map);
    let mut entries = Vec::new();
    while let Some(first) = reader.next(&mut entries)? {
        watch()?;
        for (index, entry) in (first..).zip(&entries) {
            fingerprint(&mut hasher, entry);
            let Some(name) = entry.object() else { continue };
            examined.blocks += 1;
            examined.content += u64::from(matches!(entry, Entry::Content(_)));
            if let Entry::Owned { writable: true, .. } = entry {
                writers.check(store, &map, index, &name)?;
            }
            match presence(store, entry)? {
                Presence::There => {}
                Presence::Unwritten => examined.unwritten += 1,
                Presence::Missing => {
                    examined.missing += 1;
                    examined.first_missing.get_or_insert((index, name));
                }
            }
        }
    }
    examined.fingerprint = hasher.finish();
    Ok(Some(examined))
}

/// Whether there is a map of this name that was not removed.
fn is_live(store: &OldStore, object: &str) -> Result<bool, LegacyError> {
    match OldMap::open(store, object, Assume::default()) {
        Ok(map) => Ok(map.is_some()),
        Err(LegacyError::NotFound(_)) => Ok(false),
        Err(LegacyError::Refused { .. } | LegacyError::Damaged { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

fn lock_of(store: &OldStore, object: &str) -> Result<Option<String>, LegacyError> {
    let name = format!("{object}{LOCK}");
    if names::check(&name).is_err() {
        return Ok(None);
    }
    let Some(lock) = store.maps.find(&name)? else { return Ok(None) };
    let mut text = [0; MAX_OWNER];
    let len = lock.read(&mut text, 0)?;
    Ok(Some(String::from_utf8_lossy(&text[..len]).trim_end_matches('\0').trim_end().to_string()))
}

/// Checks that nobody but this volume may write a block. A block keeps its name when its volume is renamed, so a name
/// with another volume in it is in order, unless that volume exists and names the block as well.
#[derive(Default)]
struct Writers {
    /// The other volume that was looked at last, and its map if there is one.
    last: Option<(String, Option<OldMap>)>,
}

impl Writers {
    fn check(&mut self, store: &OldStore, map: &OldMap, index: u64, block: &str) -> Result<(), LegacyError> {
        let Some(owned) = names::owned(block) else { return Ok(()) };
        if owned.volume == map.volume() || owned.volume == map.object {
            return Ok(());
        }
        if self.last.as_ref().is_none_or(|(name, _)| name != owned.volume) {
            // The front part of a name that is safe may itself lead elsewhere: `.._<number>_<number>`.
            if let Err(reason) = names::check(owned.volume) {
                let reason = format!("entry {index} names block {block}, whose volume has no name: {reason}");
                return Err(LegacyError::refused(&map.object, reason));
            }
            let other = match OldMap::open(store, owned.volume, Assume::default()) {
                Ok(other) => other,
                Err(LegacyError::NotFound(_)) => None,
                Err(error) => return Err(error),
            };
            self.last = Some((owned.volume.to_string(), other));
        }
        let Some((_, Some(other))) = &self.last else { return Ok(()) };
        if index < other.header.entries
            && other.header.block_size == map.header.block_size
            && names_at(store, other, index, block)?
        {
            let reason = format!(
                "entry {index} may write to block {block}, which belongs to {}; clone the volume in the original and import the clone",
                owned.volume
            );
            return Err(LegacyError::refused(&map.object, reason));
        }
        Ok(())
    }
}

/// Whether entry `index` of a map of version 2 names this block.
fn names_at(store: &OldStore, map: &OldMap, index: u64, block: &str) -> Result<bool, LegacyError> {
    let per_object = map.header.block_size / ENTRY_V2 as u64;
    let name = names::map_data(&map.object, index / per_object);
    if map.header.version.number() != 2 || names::check(&name).is_err() {
        return Ok(false);
    }
    let Some(object) = store.maps.find(&name)? else { return Ok(false) };
    let mut bytes = [0; ENTRY_V2];
    object.read(&mut bytes, index % per_object * ENTRY_V2 as u64)?;
    Ok(super::entry::decode_v2(&bytes, index).is_ok_and(|entry| entry.object().as_deref() == Some(block)))
}
