//! One old map: its header, and its entries in pieces.

use archipelago_core::Digest;
use archipelago_core::merkle::TopHash;

use super::OldStore;
use super::entry::{Entry, decode_v0, decode_v1, decode_v2};
use super::error::LegacyError;
use super::header::{
    ENTRY_V0, ENTRY_V1, ENTRY_V2, HEADER_LEN, HEADER_V1, Header, Recognised, Unreadable, Version, header_v0, recognise,
};
use super::names;
use super::tree::{Object, Tree};

/// Entries that are decoded at once: 512 KiB of version 2, as the original read them.
pub const CHUNK: u64 = 4096;

/// How maps without a header are taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Assume {
    /// What has no header is a list of digests.
    pub v0: bool,
    /// Size of the map in bytes, if it is one without a header.
    pub v0_size: Option<u64>,
}

/// A map whose header was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldMap {
    /// Name of its header object.
    pub object: String,
    /// What the header says.
    pub header: Header,
}

fn unreadable(map: &str, error: Unreadable) -> LegacyError {
    match error {
        Unreadable::Refused(reason) => LegacyError::refused(map, reason),
        Unreadable::Damaged(detail) => LegacyError::damaged(map, detail),
    }
}

impl OldMap {
    /// Reads the header of the map in this object; `None` if the map was removed.
    pub fn open(store: &OldStore, object: &str, assume: Assume) -> Result<Option<OldMap>, LegacyError> {
        let Some(found) = store.maps.find(object)? else { return Err(LegacyError::NotFound(object.to_string())) };
        let mut start = [0; HEADER_LEN];
        let len = found.read(&mut start, 0)?;
        let header = match recognise(&start[..len], found.len, assume.v0).map_err(|e| unreadable(object, e))? {
            Recognised::Tombstone => return Ok(None),
            Recognised::Map(header) => header,
            Recognised::List => {
                let (count, root) = measure_list(&found)?;
                // The name of such a map is the digest of its list, so the list can be checked as a whole.
                if names::digest(object).is_some_and(|name| count > 0 && name != root) {
                    let detail =
                        format!("it is no list of digests, or not the one that its name says: that would be {}", root);
                    return Err(LegacyError::damaged(object, detail));
                }
                header_v0(count, assume.v0_size).map_err(|e| unreadable(object, e))?
            }
        };
        Ok(Some(OldMap { object: object.to_string(), header }))
    }

    /// The name of the volume: without the prefix of release 0.3.
    pub fn volume(&self) -> &str {
        self.object.strip_prefix(names::PREFIX).unwrap_or(&self.object)
    }

    /// Byte range of a block in the volume.
    pub fn range(&self, index: u64) -> (u64, u64) {
        let offset = index * self.header.block_size;
        (offset, self.header.block_size.min(self.header.size - offset))
    }
}

/// Length of a list of digests up to its terminator or the end of the object, and its top hash.
fn measure_list(object: &Object) -> Result<(u64, Digest), LegacyError> {
    let mut top = TopHash::default();
    let mut buf = vec![0; CHUNK as usize * ENTRY_V0];
    let mut at = 0;
    loop {
        let len = object.read(&mut buf, at)?;
        for bytes in buf[..len].as_chunks::<ENTRY_V0>().0 {
            if decode_v0(bytes).is_none() {
                return Ok((top.count(), top.finish()));
            }
            top.push(Digest(*bytes));
        }
        if len < buf.len() {
            return Ok((top.count(), top.finish()));
        }
        at += len as u64;
    }
}

/// Top hash of an object taken for a list of digests; `None` if it holds no digest.
pub fn root_of_list(object: &Object) -> Result<Option<Digest>, LegacyError> {
    let (count, root) = measure_list(object)?;
    Ok((count > 0).then_some(root))
}

/// The entries of a map, from the first to the last.
pub struct Entries<'a> {
    tree: &'a Tree,
    map: &'a OldMap,
    /// Index of the next entry.
    at: u64,
    /// The object in which it is, and its number (0 for versions with one object).
    open: Option<(u64, Object)>,
    buf: Vec<u8>,
}

impl<'a> Entries<'a> {
    /// Starts before the first entry.
    pub fn new(store: &'a OldStore, map: &'a OldMap) -> Entries<'a> {
        Entries { tree: &store.maps, map, at: 0, open: None, buf: Vec::new() }
    }

    /// Replaces what is in `entries` by the next of the map, at most [`CHUNK`]; returns the index of the first, or `None` at the end.
    pub fn next(&mut self, entries: &mut Vec<Entry>) -> Result<Option<u64>, LegacyError> {
        entries.clear();
        let first = self.at;
        let mut count = CHUNK.min(self.map.header.entries - first);
        if count == 0 {
            return Ok(None);
        }
        let (number, in_object, head, width) = match self.map.header.version {
            Version::V0 => (0, first, 0, ENTRY_V0),
            Version::V1 => (0, first, HEADER_V1, ENTRY_V1),
            Version::V2 => {
                let per_object = self.map.header.block_size / ENTRY_V2 as u64;
                count = count.min(per_object - first % per_object);
                (first / per_object, first % per_object, 0, ENTRY_V2)
            }
        };
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.open = Some((number, self.find(number)?));
        }
        let Some((_, object)) = &self.open else { return Ok(None) };
        self.buf.resize(count as usize * width, 0);
        let len = object.read(&mut self.buf, head + in_object * width as u64)?;
        if len < self.buf.len() {
            let detail = format!(
                "{} ends within entry {} of {}",
                object.path().display(),
                first + (len / width) as u64,
                self.map.header.entries
            );
            return Err(LegacyError::damaged(&self.map.object, detail));
        }
        self.decode(first, entries)?;
        self.at += count;
        Ok(Some(first))
    }

    fn decode(&self, first: u64, entries: &mut Vec<Entry>) -> Result<(), LegacyError> {
        match self.map.header.version {
            Version::V0 => entries.extend(self.buf.as_chunks().0.iter().map_while(decode_v0)),
            Version::V1 => entries.extend(self.buf.as_chunks().0.iter().map(decode_v1)),
            Version::V2 => {
                for (index, bytes) in (first..).zip(self.buf.as_chunks().0) {
                    entries.push(decode_v2(bytes, index).map_err(|e| unreadable(&self.map.object, e))?);
                }
            }
        }
        // The list was longer when its header was made up.
        if (entries.len() as u64) < CHUNK.min(self.map.header.entries - first) && self.map.header.version == Version::V0
        {
            return Err(LegacyError::Changed(self.map.object.clone()));
        }
        Ok(())
    }

    fn find(&self, number: u64) -> Result<Object, LegacyError> {
        let map = &self.map.object;
        if self.map.header.version != Version::V2 {
            return self.tree.find(map)?.ok_or_else(|| LegacyError::Changed(map.clone()));
        }
        let name = names::map_data(map, number);
        if names::check(&name).is_err() {
            return Err(LegacyError::refused(map, "its name is too long for an object of map data"));
        }
        let Some(object) = self.tree.find(&name)? else {
            let swapped = names::map_data(map, number.swap_bytes());
            if number != number.swap_bytes() && self.tree.find(&swapped)?.is_some() {
                let reason = format!(
                    "has map data in {swapped}, a number in little-endian order: the undocumented layout of development versions before July 2014; no release wrote it"
                );
                return Err(LegacyError::refused(map, reason));
            }
            return Err(LegacyError::damaged(map, format!("its map data {name} is missing")));
        };
        // Longer than needed is what a removed and smaller remade volume leaves; longer than possible is something else.
        if object.len > self.map.header.block_size {
            let detail = format!(
                "its map data {name} has {} bytes, more than its block size of {}",
                object.len, self.map.header.block_size
            );
            return Err(LegacyError::damaged(map, detail));
        }
        Ok(object)
    }
}
