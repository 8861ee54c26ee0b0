//! What a collection must take away, and what it must leave, by "Collection" in docs/architecture.md and the limits that it names:
//! compares what was there before and after one that ran to its end while nobody else did anything, and what it said of it.

use std::collections::{BTreeMap, BTreeSet};

use archipelago_core::blocker::{Object, VolumeId};
use archipelago_core::format::header::{Header, Kind, Root};
use archipelago_core::format::node::{Entry, Node};
use archipelago_core::limits::{HOLE_SLACK, HOLE_SLACK_FRACTION, PAGE_SLACK, SECTOR};
use archipelago_core::{Amount, CollectReport, Digest, SpaceByKind};

use crate::needs::{Needs, live_epoch};
use crate::perform::{Done, Trouble};
use crate::stock::{Redirect, Stock, Thing};

/// From which numbers on what a volume has is its writer's.
struct Floor {
    epoch: u64,
    segment: u32,
    /// Its newest node pack stays, or the number would be used again.
    newest_pack: Option<u32>,
}

/// What is to become of an object.
enum Fate {
    Gone,
    /// As it was.
    Stays,
    /// Only these pages of it, by which about so many bytes become free.
    Pages(Vec<u64>, u64),
}

/// A collection that is over.
pub struct Collected<'a> {
    pub before: &'a Stock,
    pub after: &'a Stock,
    /// By which readers read.
    pub pins: Vec<Header>,
    /// Claims of content are over at once.
    pub graceless: bool,
    /// There was no memory to know what is used of data and journals: what is used at all is used whole.
    pub blind: bool,
    /// Something was read wrongly. Of content that the index seems not to know every place stays.
    pub lied_to: bool,
    pub report: &'a CollectReport,
    /// What it was said that it would do.
    pub said: Option<CollectReport>,
}

fn wrong<T>(what: String) -> Done<T> {
    Err(Trouble::Wrong(format!("after a collection {what}")))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Done<()> {
    if found == wanted { Ok(()) } else { wrong(format!("{what}: there is\n{found:?}, there should be\n{wanted:?}")) }
}

/// The pages left of an object of which `live` are in use, which are `bytes` of it: holes are made where they are worth it. The
/// page in which it ends cannot be freed.
fn punched(thing: &Thing, bytes: u64, slack: u64, live: &dyn Fn(u64) -> bool) -> Fate {
    if thing.room().saturating_sub(bytes) <= slack.max(bytes / HOLE_SLACK_FRACTION) {
        return Fate::Stays;
    }
    let last = (!thing.len.is_multiple_of(SECTOR)).then_some(thing.len / SECTOR);
    let pages = thing.pages.iter().copied().filter(|page| live(*page) || Some(*page) == last).collect();
    let kept = if last.is_some_and(|page| !live(page)) { SECTOR } else { 0 };
    Fate::Pages(pages, (thing.room() - bytes).saturating_sub(kept))
}

impl Collected<'_> {
    /// Compares all of it.
    pub fn check(&self) -> Done<()> {
        self.catalogue()?;
        let mut needs = Needs::default();
        for header in self.after.maps().map(|record| &record.header).chain(&self.pins) {
            needs.add(self.after, header)?;
        }
        let floors = self.floors()?;
        let digests = self.digests(&needs)?;
        let mut moved = Amount::default();
        for (epoch, table) in &self.before.redirects {
            self.entries(*epoch, table, &floors, &needs, &digests, &mut moved)?;
        }
        let mut report = self.counted(&needs, moved);
        report.unknown = self.unknown(&floors, &needs);
        let mut estimate = 0;
        for (object, thing) in &self.before.objects {
            let fate = self.fate(*object, thing, &floors, &needs, &digests);
            match (fate, self.after.objects.get(object)) {
                (Fate::Gone, None) => {}
                (Fate::Gone, Some(_)) => return wrong(format!("{object} is still there, and nothing needs it")),
                (_, None) => return wrong(format!("{object} is gone, and had to stay")),
                (Fate::Stays, Some(after)) if after == thing => {}
                (Fate::Pages(pages, bytes), Some(after)) if after.len == thing.len && after.pages == pages => {
                    estimate += bytes;
                }
                (Fate::Stays, Some(after)) => {
                    return wrong(format!("{object} was to stay as it was: {}", compared(&thing.pages, &after.pages)));
                }
                (Fate::Pages(pages, _), Some(after)) => {
                    return wrong(format!("{object}: {}", compared(&pages, &after.pages)));
                }
            }
            self.count(*object, thing, &mut report);
        }
        if let Some(new) = self.after.objects.keys().find(|object| !self.before.objects.contains_key(object)) {
            return wrong(format!("there is {new}, which was not there before"));
        }
        same("unfinished content", &self.after.unfinished.len(), &0)?;
        same("the report", self.report, &report)?;
        match &self.said {
            Some(said) => {
                // How much holes free is only estimated, and nobody asks whether somebody is about to rename.
                let holes = Amount { bytes: estimate, ..report.holes };
                let names = self.before.names.keys().filter(|name| !self.before.means(name)).count() as u64;
                // Where copies are moved it only estimates: one may go with its place, and leave a hole or none.
                let moves = said.duplicates.objects + report.duplicates.objects > 0;
                let (duplicates, holes) =
                    if moves { (said.duplicates, said.holes) } else { (report.duplicates, holes) };
                let expected = CollectReport { dry_run: true, holes, names, duplicates, ..report };
                same("what it said that it would do", said, &expected)
            }
            None => Ok(()),
        }
    }

    fn pinned(&self, id: VolumeId) -> bool {
        self.pins.iter().any(|header| header.id == id)
    }

    /// A group that was taken is settled.
    fn is_group(&self, id: VolumeId) -> bool {
        matches!(self.before.headers.get(&id), Some(Some(record)) if record.header.kind == Kind::Group)
    }

    fn catalogue(&self) -> Done<()> {
        let (before, after) = (self.before, self.after);
        let stays = |id: &&VolumeId| before.counts(**id) && !self.is_group(**id);
        let headers: BTreeSet<_> = before.headers.keys().filter(stays).collect();
        same("headers", &after.headers.keys().collect(), &headers)?;
        let trash: BTreeSet<_> = before.trash.keys().filter(|id| self.pinned(**id)).collect();
        same("headers in the trash", &after.trash.keys().collect(), &trash)?;
        // Whoever has a volume open may be about to rename it.
        let named = |(name, id): &(&String, &VolumeId)| before.open.contains(id) || before.means(name);
        let names: BTreeMap<_, _> = before.names.iter().filter(named).collect();
        same("names", &after.names.iter().collect(), &names)?;
        match after.locks.iter().find(|id| !known(after, **id)) {
            Some(id) => wrong(format!("there is a lock file of {id}, which has no header")),
            None => Ok(()),
        }
    }

    fn floors(&self) -> Done<BTreeMap<VolumeId, Floor>> {
        let mut floors = BTreeMap::new();
        for record in self.before.maps() {
            let header = &record.header;
            let floor = if header.kind == Kind::Volume {
                let packs = self.before.objects.range(Object::Pack(header.id, 0)..=Object::Pack(header.id, u32::MAX));
                let newest_pack = packs.last().and_then(|(pack, _)| match pack {
                    Object::Pack(_, number) => Some(*number),
                    _ => None,
                });
                let open = self.before.open.contains(&header.id);
                let epoch = if open { header.epoch } else { live_epoch(self.before, header)? };
                Floor { epoch, segment: header.log.map_or(0, |start| start.pos.segment), newest_pack }
            } else {
                // Never written any more.
                Floor { epoch: u64::MAX, segment: u32::MAX, newest_pack: None }
            };
            floors.insert(header.id, floor);
        }
        Ok(floors)
    }

    /// The digests that are needed, before any slot is moved: named by a map, leased, or those of moved slots that a map names.
    fn digests(&self, needs: &Needs) -> Done<BTreeSet<Digest>> {
        let mut digests = needs.digests.clone();
        for (lease, held) in &self.after.leases {
            match held {
                Some(held) if !self.graceless => digests.extend(held),
                _ => return wrong(format!("there is the lease {lease:?}, which is over")),
            }
        }
        for (epoch, table) in &self.before.redirects {
            let moved = table.entries.iter().filter(|(block, entry)| entry.moved && self.named(needs, *epoch, **block));
            digests.extend(moved.map(|(_, entry)| entry.digest));
        }
        Ok(digests)
    }

    /// Whether a map names anything of a block, as far as is known.
    fn named(&self, needs: &Needs, epoch: (VolumeId, u64), block: u64) -> bool {
        needs.data.get(&epoch).is_some_and(|sectors| {
            let mut block = sectors.needed.range(block * sectors.per_block..(block + 1) * sectors.per_block);
            self.blind || block.next().is_some()
        })
    }

    /// Whether the writer of an epoch is done with it.
    fn is_sealed(floors: &BTreeMap<VolumeId, Floor>, (owner, epoch): (VolumeId, u64)) -> bool {
        floors.get(&owner).is_none_or(|floor| epoch < floor.epoch)
    }

    /// Whether all of an epoch that was hashed goes.
    fn goes(&self, epoch: (VolumeId, u64), needs: &Needs, digests: &BTreeSet<Digest>) -> bool {
        let table = self.before.redirects.get(&epoch);
        let mut entries = table.into_iter().flat_map(|table| table.entries.values());
        !needs.data.contains_key(&epoch) && !entries.any(|entry| !entry.moved && digests.contains(&entry.digest))
    }

    /// What is known of the blocks of an epoch: what nobody needs is forgotten, and what is elsewhere too is moved.
    fn entries(
        &self,
        epoch: (VolumeId, u64),
        table: &Redirect,
        floors: &BTreeMap<VolumeId, Floor>,
        needs: &Needs,
        digests: &BTreeSet<Digest>,
        moved: &mut Amount,
    ) -> Done<()> {
        let Some(after) = self.after.redirects.get(&epoch) else { return Ok(()) };
        if !Self::is_sealed(floors, epoch) {
            return same("a redirect table of a live epoch", after, table);
        }
        for (block, entry) in &table.entries {
            let named = self.named(needs, epoch, *block);
            let needed = named || !entry.moved && digests.contains(&entry.digest);
            let places = self.places(epoch, *block, &entry.digest, entry.len);
            let good = match after.entries.get(block) {
                None => !needed,
                Some(now) if *now == *entry => {
                    // Slots that were moved may make one needed that was not before.
                    let relied = needed || self.was_moved_here(&entry.digest);
                    relied && (entry.moved || places.indexed == 0 || self.lied_to)
                }
                Some(now) if now.moved && now.digest == entry.digest && now.len == entry.len => {
                    moved.objects += 1;
                    moved.bytes += u64::from(entry.len);
                    (needed || self.was_moved_here(&entry.digest)) && places.all > 0
                }
                Some(_) => false,
            };
            if !good {
                return wrong(format!(
                    "block {block} of epoch {epoch:?}: {entry:?} became {:?}; a map names it: {named}, needed: {needed}, {} other places",
                    after.entries.get(block),
                    places.all
                ));
            }
        }
        Ok(())
    }

    /// Whether a slot of this content was moved by this collection, to rely on another.
    fn was_moved_here(&self, digest: &Digest) -> bool {
        self.before.redirects.iter().any(|(epoch, table)| {
            let after = self.after.redirects.get(epoch);
            table.entries.iter().any(|(block, entry)| {
                entry.digest == *digest
                    && !entry.moved
                    && after.and_then(|after| after.entries.get(block)).is_some_and(|now| now.moved)
            })
        })
    }

    /// Other places of the content of a slot.
    fn places(&self, epoch: (VolumeId, u64), block: u64, digest: &Digest, len: u32) -> Places {
        let object = usize::from(self.after.objects.contains_key(&Object::Content(*digest)));
        let slots = self.after.redirects.iter().flat_map(|(other, table)| {
            table.entries.iter().filter(move |(b, _)| (*other, **b) != (epoch, block)).map(|(_, entry)| entry)
        });
        let slots = slots.filter(|entry| entry.digest == *digest && entry.len == len && !entry.moved).count();
        let listed = self.after.tables.values().flatten().filter(|entry| {
            let slot = &entry.slot;
            entry.digest == *digest
                && slot.len == len
                && ((slot.owner, slot.epoch), slot.block) != (epoch, block)
                && self.after.confirms(entry)
        });
        Places { all: object + slots, indexed: object + listed.count() }
    }

    fn fate(
        &self,
        object: Object,
        thing: &Thing,
        floors: &BTreeMap<VolumeId, Floor>,
        needs: &Needs,
        digests: &BTreeSet<Digest>,
    ) -> Fate {
        let floor = floors.get(&object.volume());
        let gone_if = |gone: bool| if gone { Fate::Gone } else { Fate::Stays };
        match object {
            Object::Content(digest) => gone_if(!digests.contains(&digest)),
            Object::Lease(claim, part) => gone_if(!self.after.leases.contains_key(&(claim, part))),
            Object::Index(id) => {
                let entries = self.before.tables.get(&id);
                gone_if(!entries.is_some_and(|entries| entries.iter().any(|entry| self.after.confirms(entry))))
            }
            Object::Log(owner, number) => match needs.logs.get(&(owner, number)) {
                _ if floor.is_some_and(|floor| number >= floor.segment) => Fate::Stays,
                None => Fate::Gone,
                Some(None) => Fate::Stays,
                Some(Some(_)) if self.blind => Fate::Stays,
                Some(Some(pages)) => {
                    punched(thing, pages.len() as u64 * SECTOR, PAGE_SLACK, &|page| pages.contains(&page))
                }
            },
            Object::Pack(owner, number) => match needs.packs.get(&(owner, number)) {
                Some(pages) => punched(thing, pages.len() as u64 * SECTOR, PAGE_SLACK, &|page| pages.contains(&page)),
                // All of it that can be freed, if it is more than the page in which it ends.
                None if floor.is_some_and(|floor| floor.newest_pack == Some(number)) => {
                    match punched(thing, 0, SECTOR, &|_| false) {
                        Fate::Pages(pages, _) => Fate::Pages(pages, thing.room()),
                        other => other,
                    }
                }
                None => Fate::Gone,
            },
            Object::Data(owner, epoch) | Object::Sum(owner, epoch) | Object::Redirect(owner, epoch) => {
                let epoch = (owner, epoch);
                let hashed = self.before.objects.contains_key(&Object::Redirect(owner, epoch.1));
                if !Self::is_sealed(floors, epoch) {
                    return Fate::Stays;
                }
                if if hashed { self.goes(epoch, needs, digests) } else { !needs.data.contains_key(&epoch) } {
                    return Fate::Gone;
                }
                match object {
                    Object::Data(..) => self.holes(thing, epoch, hashed, needs),
                    _ => Fate::Stays,
                }
            }
        }
    }

    /// What is left of a sealed epoch.
    fn holes(&self, thing: &Thing, epoch: (VolumeId, u64), hashed: bool, needs: &Needs) -> Fate {
        let needed = needs.data.get(&epoch);
        let table = self.after.redirects.get(&epoch);
        // The making of its table was cut short.
        if hashed && table.is_none() {
            return Fate::Stays;
        }
        if self.blind && self.is_used(epoch, needs) {
            return Fate::Stays;
        }
        let mut sectors = needed.map(|sectors| sectors.needed.clone()).unwrap_or_default();
        if let Some(table) = table {
            let per_block = (1 << table.head.shift) / SECTOR;
            for (block, entry) in &table.entries {
                let block = block * per_block..(block + 1) * per_block;
                if entry.moved {
                    sectors.retain(|sector| !block.contains(sector));
                } else {
                    // Whoever asks for the digest is told that it is here, whole.
                    sectors.extend(block);
                }
            }
        }
        punched(thing, sectors.len() as u64 * SECTOR, HOLE_SLACK, &|page| sectors.contains(&page))
    }

    /// Whether anything of an epoch is read where it is.
    fn is_used(&self, epoch: (VolumeId, u64), needs: &Needs) -> bool {
        let mut entries = self.after.redirects.get(&epoch).into_iter().flat_map(|table| table.entries.values());
        needs.data.contains_key(&epoch) || entries.any(|entry| !entry.moved)
    }

    /// Sealed epochs that are used whole because it is not known of what.
    fn unknown(&self, floors: &BTreeMap<VolumeId, Floor>, needs: &Needs) -> u64 {
        let (before, after) = (&self.before.objects, &self.after.redirects);
        let candidate = |object: &Object| match *object {
            Object::Data(owner, epoch) if !before.contains_key(&Object::Redirect(owner, epoch)) => Some((owner, epoch)),
            Object::Redirect(owner, epoch) if after.contains_key(&(owner, epoch)) => Some((owner, epoch)),
            _ => None,
        };
        let epochs = before.keys().filter_map(candidate).filter(|epoch| Self::is_sealed(floors, *epoch));
        epochs.filter(|epoch| self.blind && self.is_used(*epoch, needs)).count() as u64
    }

    /// What the report must say of the catalogue, of leases and of what was read.
    fn counted(&self, needs: &Needs, moved: Amount) -> CollectReport {
        let (before, after) = (self.before, self.after);
        let groups = before.headers.keys().filter(|id| self.is_group(**id)).count();
        // To take a lock away it is taken, and so made where there was none.
        let nameless = before.headers.keys().filter(|id| !before.counts(**id) && !known(after, **id));
        let mut locks: BTreeSet<_> = before.locks.difference(&after.locks).chain(nameless).collect();
        // One of what readers still use goes with a name of it that does not count, and is that name's business.
        locks.retain(|id| !after.trash.contains_key(*id));
        let pinned = after.trash.len() as u64;
        CollectReport {
            maps: after.maps().filter(|record| record.header.kind != Kind::Group).count() as u64 + pinned,
            entries: needs.entries,
            read: needs.read,
            duplicates: moved,
            trash: before.trash.len() as u64 - pinned,
            headers: (before.headers.len() - groups - after.headers.len()) as u64,
            names: (before.names.len() - after.names.len()) as u64,
            // Settling a group takes its locks away too.
            locks: if groups > 0 { self.report.locks } else { locks.len() as u64 },
            pinned,
            content: Amount {
                objects: before.unfinished.len() as u64,
                bytes: before.unfinished.values().map(Thing::room).sum(),
            },
            ..CollectReport::default()
        }
    }

    /// Counts what became of one object.
    fn count(&self, object: Object, before: &Thing, report: &mut CollectReport) {
        let add = |amount: &mut Amount, objects: u64| {
            amount.objects += objects;
            amount.bytes += before.room();
        };
        let Some(after) = self.after.objects.get(&object) else {
            return match object {
                Object::Log(..) => add(&mut report.segments, 1),
                Object::Pack(..) => add(&mut report.packs, 1),
                // An epoch that was hashed and its table are one.
                Object::Data(owner, epoch) => {
                    let hashed = self.before.objects.contains_key(&Object::Redirect(owner, epoch));
                    add(&mut report.data, u64::from(!hashed));
                }
                Object::Redirect(..) => add(&mut report.data, 1),
                Object::Sum(..) => add(&mut report.sums, 1),
                Object::Content(_) => add(&mut report.content, 1),
                Object::Index(_) => add(&mut report.tables, 1),
                Object::Lease(..) => add(&mut report.leases, 1),
            };
        };
        if after.pages.len() < before.pages.len() {
            report.holes.objects += 1;
            report.holes.bytes += before.room() - after.room();
        }
    }
}

fn known(stock: &Stock, id: VolumeId) -> bool {
    stock.headers.contains_key(&id) || stock.trash.contains_key(&id)
}

/// Other places of some content: all, and those to which the index leads.
struct Places {
    all: usize,
    indexed: usize,
}

/// Pages that should be there and are not, and the other way round.
fn compared(wanted: &[u64], found: &[u64]) -> String {
    let less = |a: &[u64], b: &[u64]| a.iter().filter(|page| !b.contains(page)).copied().collect::<Vec<_>>();
    format!("pages {:?} are gone, and pages {:?} should be", less(wanted, found), less(found, wanted))
}

/// Room by kind, counted anew.
pub fn space(stock: &Stock) -> Done<SpaceByKind> {
    let mut by = SpaceByKind::default();
    let add = |amount: &mut Amount, bytes: u64| {
        amount.objects += 1;
        amount.bytes += bytes;
    };
    for record in stock.headers.values() {
        add(&mut by.headers, record.as_ref().map_or(0, |record| record.bytes));
        if let Some(record) = record.as_ref().filter(|record| !record.header.removed) {
            by.mapped += mapped(&record.header)? * SECTOR;
        }
    }
    stock.trash.values().for_each(|record| add(&mut by.trash, record.bytes));
    for (object, thing) in &stock.objects {
        let kind = match object {
            Object::Log(..) => &mut by.segments,
            Object::Pack(..) => &mut by.packs,
            Object::Sum(..) => &mut by.sums,
            // With the digests of its blocks.
            Object::Data(..) | Object::Redirect(..) => &mut by.data,
            Object::Content(_) => &mut by.content,
            Object::Index(_) | Object::Lease(..) => &mut by.tables,
        };
        add(kind, thing.room());
        if object.volume() != VolumeId(0) && !stock.headers.contains_key(&object.volume()) {
            add(&mut by.removed, thing.room());
        }
    }
    Ok(by)
}

/// Sectors that the tree of a map names.
fn mapped(header: &Header) -> Done<u64> {
    let Root::Inline(bytes) = &header.root else {
        return Ok(if let Root::Node { pointer, .. } = &header.root { pointer.mapped } else { 0 });
    };
    let (Node::Leaf(entries), _) = Node::decode(&header.name, bytes)? else { return Ok(0) };
    let sectors = entries.iter().map(|(_, entry)| match entry {
        Entry::Owned { .. } | Entry::Content(_) => (1 << header.block_shift) / SECTOR,
        Entry::Extents(extents) => extents.iter().map(|extent| u64::from(extent.len)).sum(),
        Entry::ExtentNode(pointer) => pointer.mapped,
    });
    Ok(sectors.sum())
}
