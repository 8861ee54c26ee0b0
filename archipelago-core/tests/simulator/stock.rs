//! What a store has at one moment, object by object and page by page: read from the simulated disk itself, past the listings and
//! counts of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSliceMut;
use std::sync::Arc;

use archipelago_core::blocker::sim::{SimDisk, Taken};
use archipelago_core::blocker::{Blocker, Object, RecordKey, VolumeId};
use archipelago_core::format::header::{Header, Kind};
use archipelago_core::format::index::{IndexEntry, IndexHead, PAGE, decode_page};
use archipelago_core::format::lease::{LeaseHead, decode_atom};
use archipelago_core::format::redirect::{ENTRY, FIRST, RedirectEntry, RedirectHead};
use archipelago_core::format::relations::Group;
use archipelago_core::limits::{ATOM, SECTOR};
use archipelago_core::{Digest, Error};

use crate::perform::Done;
use crate::process::Disk;

/// An object's length and the pages of it that are no holes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thing {
    pub len: u64,
    pub pages: Vec<u64>,
}

impl Thing {
    /// Room that it takes, in bytes.
    pub fn room(&self) -> u64 {
        self.pages.len() as u64 * SECTOR
    }
}

/// A redirect table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    pub head: RedirectHead,
    pub entries: BTreeMap<u64, RedirectEntry>,
}

/// A header, with the version of its record and the length of what is stored.
#[derive(Clone, Debug)]
pub struct Record {
    pub header: Header,
    pub version: u64,
    pub bytes: u64,
}

/// See [the module](self).
pub struct Stock {
    pub objects: BTreeMap<Object, Thing>,
    /// Content objects that were never finished, by path.
    pub unfinished: BTreeMap<String, Thing>,
    /// Maps in the catalogue; `None` for a header that was never finished.
    pub headers: BTreeMap<VolumeId, Option<Record>>,
    pub trash: BTreeMap<VolumeId, Record>,
    pub names: BTreeMap<String, VolumeId>,
    /// Ids of maps with a lock file.
    pub locks: BTreeSet<VolumeId>,
    /// Volumes that somebody has open.
    pub open: BTreeSet<VolumeId>,
    pub redirects: BTreeMap<(VolumeId, u64), Redirect>,
    /// Finished tables of the index.
    pub tables: BTreeMap<u64, Vec<IndexEntry>>,
    /// Digests of each file of leases; `None` for one that was never used.
    pub leases: BTreeMap<(u64, u64), Option<Vec<Digest>>>,
    /// Through which the rest is read.
    pub blocker: Arc<dyn Blocker>,
}

/// The object of a file, by its path; content that is being written has none.
fn object_of(path: &str) -> Option<Object> {
    let (dir, file) = path.rsplit_once('/')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    if dir == "content" {
        let mut parts = file.split('.');
        return match (parts.next()?, hex(parts.next()?)?, parts.next()) {
            ("i", id, None) => Some(Object::Index(id)),
            ("l", claim, Some(part)) => Some(Object::Lease(claim, hex(part)?)),
            _ => None,
        };
    }
    if dir.starts_with("content/") {
        let mut digest = [0; 32];
        for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
            *byte = hex(file.get(at..at + 2)?)? as u8;
        }
        return Some(Object::Content(Digest(digest)));
    }
    let mut parts = file.split('.');
    let (kind, id, number) = (parts.next()?, VolumeId(hex(parts.next()?)?), hex(parts.next()?)?);
    match kind {
        "log" => Some(Object::Log(id, number as u32)),
        "pack" => Some(Object::Pack(id, number as u32)),
        "data" => Some(Object::Data(id, number)),
        "redirect" => Some(Object::Redirect(id, number)),
        "sum" => Some(Object::Sum(id, number)),
        _ => None,
    }
}

/// First id of a map; those below are of the store's own locks.
const FIRST_MAP: u64 = 256;

impl Stock {
    /// Looks.
    pub fn of(disk: &Disk) -> Done<Stock> {
        let mut stock = Stock {
            objects: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            headers: BTreeMap::new(),
            trash: BTreeMap::new(),
            names: BTreeMap::new(),
            locks: BTreeSet::new(),
            open: BTreeSet::new(),
            redirects: BTreeMap::new(),
            tables: BTreeMap::new(),
            leases: BTreeMap::new(),
            blocker: disk.blocker(),
        };
        match disk {
            Disk::File(disk) => stock.files(disk),
            Disk::Memory(disk) => {
                let things = disk.taken().into_iter().map(|Taken { what, len, pages }| (what, Thing { len, pages }));
                stock.objects = things.collect();
            }
            Disk::Rados(_) => stock.whole_objects()?,
        }
        stock.catalogue()?;
        stock.content()?;
        Ok(stock)
    }

    /// What the backend lists, without holes.
    fn whole_objects(&mut self) -> Done<()> {
        let mut all = self.blocker.content_tables()?;
        for part in self.blocker.parts()? {
            all.extend(self.blocker.inventory(part)?.objects);
        }
        for first in self.blocker.content_parts()? {
            all.extend(self.blocker.contents(first)?.into_iter().map(Object::Content));
        }
        for object in all {
            let len = self.blocker.len(object)?.unwrap_or(0);
            self.objects.insert(object, Thing { len, pages: (0..len.div_ceil(SECTOR)).collect() });
        }
        Ok(())
    }

    fn files(&mut self, disk: &SimDisk) {
        for Taken { what, len, pages } in disk.files() {
            let thing = Thing { len, pages };
            if let Some(object) = object_of(&what) {
                self.objects.insert(object, thing);
            } else if what.starts_with("content/") {
                self.unfinished.insert(what, thing);
            } else if let Some((_, id)) = what.rsplit_once("/lock.")
                && let Ok(id) = u64::from_str_radix(id, 16)
                && id >= FIRST_MAP
            {
                self.locks.insert(VolumeId(id));
            }
        }
    }

    /// The header of the map of this name.
    pub fn header(blocker: &dyn Blocker, name: &str) -> Done<Header> {
        let id = blocker.lookup(name)?.ok_or_else(|| Error::NotFound(name.to_string()))?;
        Ok(Header::decode(name, &blocker.read_record(RecordKey::Header(id))?.bytes)?)
    }

    fn record(&self, key: RecordKey) -> Done<Option<Record>> {
        match self.blocker.read_record(key) {
            Ok(record) => {
                let header = Header::decode(&key.to_string(), &record.bytes)?;
                Ok(Some(Record { header, version: record.version, bytes: record.bytes.len() as u64 }))
            }
            Err(Error::NotFound(_) | Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn catalogue(&mut self) -> Done<()> {
        for id in self.blocker.headers()? {
            let record = self.record(RecordKey::Header(id))?;
            if self.blocker.lock_holder(id)?.is_some() {
                self.open.insert(id);
            }
            self.headers.insert(id, record);
        }
        for id in self.blocker.trashed()? {
            if let Some(record) = self.record(RecordKey::Trash(id))? {
                self.trash.insert(id, record);
            }
        }
        for name in self.blocker.names("", None, usize::MAX)? {
            if let Some(id) = self.blocker.lookup(&name)? {
                self.names.insert(name, id);
            }
        }
        Ok(())
    }

    /// All bytes of an object.
    pub fn bytes(&self, object: Object) -> Done<Vec<u8>> {
        let mut bytes = vec![0; self.objects.get(&object).map_or(0, |thing| thing.len) as usize];
        if !bytes.is_empty() {
            self.blocker.read(object, &mut [IoSliceMut::new(&mut bytes)], 0)?;
        }
        Ok(bytes)
    }

    fn content(&mut self) -> Done<()> {
        for object in self.objects.keys().copied().collect::<Vec<_>>() {
            let name = object.to_string();
            match object {
                Object::Redirect(owner, epoch) => {
                    let bytes = self.bytes(object)?;
                    let head = bytes.get(..ATOM).map(|atom| RedirectHead::decode(&name, atom)).transpose()?.flatten();
                    let Some(head) = head else { continue };
                    let mut entries = BTreeMap::new();
                    let stored = bytes.get(FIRST as usize..).unwrap_or_default();
                    for (block, entry) in (0..).zip(stored.chunks_exact(ENTRY)) {
                        if let Some(entry) = RedirectEntry::decode(&name, entry, block, head.shift)? {
                            entries.insert(block, entry);
                        }
                    }
                    self.redirects.insert((owner, epoch), Redirect { head, entries });
                }
                Object::Index(id) => {
                    let bytes = self.bytes(object)?;
                    let Some(head) =
                        bytes.get(..ATOM).map(|atom| IndexHead::decode(&name, atom)).transpose()?.flatten()
                    else {
                        continue;
                    };
                    let pages = bytes[PAGE..].chunks_exact(PAGE).take(head.pages() as usize);
                    let mut entries = vec![];
                    for (number, page) in (0..).zip(pages) {
                        entries.extend(decode_page(&name, page, id, number)?);
                    }
                    self.tables.insert(id, entries);
                }
                Object::Lease(claim, part) => {
                    let bytes = self.bytes(object)?;
                    let head = bytes.get(..ATOM).map(|atom| LeaseHead::decode(&name, atom)).transpose()?.flatten();
                    let mut digests = vec![];
                    for (number, atom) in (1..).zip(bytes.chunks_exact(ATOM).skip(1)) {
                        digests.extend(decode_atom(&name, atom, part, number)?);
                    }
                    self.leases.insert((claim, part), head.map(|_| digests));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a map is one: with a name that leads to it, and, where a group is to make it count, that group's header. One
    /// that was changed since it was made has had its name, and lost it by damage: it counts.
    pub fn counts(&self, id: VolumeId) -> bool {
        let Some(Some(Record { header, version, .. })) = self.headers.get(&id) else { return false };
        if header.removed {
            return false;
        }
        let taken = match header.group {
            Group::Member(group) => match self.headers.get(&group) {
                Some(Some(Record { header: Header { group: Group::Of(ids), .. }, .. })) => ids.contains(&id),
                _ => false,
            },
            Group::No | Group::Of(_) => true,
        };
        header.kind == Kind::Group || taken && (self.names.get(&header.name) == Some(&id) || *version > 1)
    }

    /// Whether a name means a map.
    pub fn means(&self, name: &str) -> bool {
        let Some(id) = self.names.get(name) else { return false };
        let header = self.headers.get(id).and_then(Option::as_ref);
        self.counts(*id) && header.is_some_and(|record| record.header.name == name)
    }

    /// The maps that count, and their headers.
    pub fn maps(&self) -> impl Iterator<Item = &Record> {
        self.headers.iter().filter(|(id, _)| self.counts(**id)).filter_map(|(_, record)| record.as_ref())
    }

    /// Whether the index leads to a place of a content block: an entry that the redirect table confirms.
    pub fn confirms(&self, entry: &IndexEntry) -> bool {
        let slot = &entry.slot;
        self.redirects.get(&(slot.owner, slot.epoch)).is_some_and(|table| {
            table.head.shift == slot.shift
                && table
                    .entries
                    .get(&slot.block)
                    .is_some_and(|e| e.digest == entry.digest && e.len == slot.len && !e.moved)
        })
    }
}
