//! How much room each map takes alone, and how much it shares: what removing it would free.
//!
//! Maps name ranges of objects. A range that one map alone names goes when that map is removed and the store is collected; one that
//! several maps name stays until the last of them goes. All ranges are gathered, sorted by place, and swept. They are counted where they are
//! stored, not where a map has them: content that a map names twice takes room once. Sectors of zeros inside of a block of content count as if they
//! were stored, though they may be holes.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::blocker::{Object, VolumeId};
use crate::error::Result;
use crate::format::header::{Header, Kind};
use crate::format::node::Source;
use crate::limits::{DISK_USE_RANGES, SECTOR, SECTOR_SHIFT};
use crate::store::shared::Shared;
use crate::store::usage::{readable, view};

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DiskUseProgress {
    /// Maps that were walked.
    pub maps: u64,
    /// Of so many. It grows if the store has too many ranges to look at all of them at once.
    pub total: u64,
}

/// What one map takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapUse {
    /// Name.
    pub name: String,
    /// Id, 16 hex digits.
    pub id: String,
    /// Kind.
    pub kind: Kind,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that are not known to be zero. Content that is there twice counts twice.
    pub mapped: u64,
    /// Bytes of room that no other map needs: what its removal and a collection free.
    pub unique: u64,
    /// Bytes of room that another map needs too.
    pub shared: u64,
    /// It is open for writing in another process, and was looked at as of its last checkpoint.
    pub in_use: bool,
}

/// What the maps of a store take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskUse {
    /// By name.
    pub maps: Vec<MapUse>,
    /// Bytes of room that any map needs.
    pub named: u64,
    /// Of these, those that several maps need.
    pub shared: u64,
}

/// A range of an object that a map names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    object: u32,
    map: u32,
    start: u64,
    end: u64,
}

/// The ranges of the objects that belong to one part of so many.
struct Gathered {
    parts: u64,
    part: u64,
    most: usize,
    objects: HashMap<Object, u32>,
    ranges: Vec<Range>,
    /// There were more than may be held at once; some are missing.
    full: bool,
}

impl Gathered {
    fn new(part: u64, parts: u64, most: usize) -> Gathered {
        Gathered { parts, part, most, objects: HashMap::new(), ranges: Vec::new(), full: false }
    }

    /// The number of an object of this part; `None` for others.
    fn number(&mut self, object: Object) -> Option<u32> {
        let key = match object {
            Object::Content(digest) => u64::from_le_bytes(*digest.0.first_chunk().unwrap_or(&[0; 8])),
            // Ids are random.
            other => other.volume().0,
        };
        if key % self.parts != self.part {
            return None;
        }
        let next = self.objects.len() as u32;
        Some(*self.objects.entry(object).or_insert(next))
    }

    fn add(&mut self, map: u32, object: Object, start: u64, end: u64) {
        let Some(object) = self.number(object) else { return };
        if let Some(last) = self.ranges.last_mut()
            && (last.object, last.map, last.end) == (object, map, start)
        {
            last.end = end;
        } else if self.ranges.len() == self.most {
            self.full = true;
        } else {
            self.ranges.push(Range { object, map, start, end });
        }
    }

    /// Adds what was gathered to the sums. Of a map `shared` is all that it needs, until [`disk_use`] takes off what it alone does.
    fn sweep(mut self, sum: &mut DiskUse) {
        self.ranges.sort_unstable();
        // Where ranges begin and end. Of one map what overlaps counts once.
        let mut edges: Vec<Edge> = Vec::with_capacity(self.ranges.len() * 2);
        let mut ranges = self.ranges.into_iter().peekable();
        while let Some(mut range) = ranges.next() {
            while let Some(next) =
                ranges.next_if(|next| (next.object, next.map) == (range.object, range.map) && next.start <= range.end)
            {
                range.end = range.end.max(next.end);
            }
            sum.maps[range.map as usize].shared += range.end - range.start;
            edges.push(Edge { object: range.object, at: range.start, map: range.map, begins: true });
            edges.push(Edge { object: range.object, at: range.end, map: range.map, begins: false });
        }
        edges.sort_unstable();
        // How many maps name the place, and the sum of their numbers: of one alone that is its number.
        let (mut naming, mut numbers, mut from) = (0u64, 0u64, 0);
        for edge in edges {
            // Between two objects nothing is named.
            if naming > 0 {
                let len = edge.at - from;
                sum.named += len;
                if naming == 1 {
                    sum.maps[numbers as usize].unique += len;
                } else {
                    sum.shared += len;
                }
            }
            from = edge.at;
            if edge.begins {
                naming += 1;
                numbers += u64::from(edge.map);
            } else {
                naming -= 1;
                numbers -= u64::from(edge.map);
            }
        }
    }
}

/// One end of a range, in the order of places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    object: u32,
    at: u64,
    map: u32,
    begins: bool,
}

/// See [`crate::Store::disk_use`].
pub fn disk_use(shared: &Arc<Shared>, progress: &mut dyn FnMut(DiskUseProgress) -> Result<()>) -> Result<DiskUse> {
    let mut ids = shared.blocker.headers()?;
    ids.sort_unstable();
    let mut parts = 1;
    loop {
        if let Some(found) = in_parts(shared, &ids, parts, DISK_USE_RANGES, progress)? {
            return Ok(found);
        }
        // Every map is walked twice as often, and half as much is held at once.
        parts *= 2;
    }
}

/// Walks all maps once for each part of the objects; `None` if one part has more than `most` ranges.
fn in_parts(
    shared: &Arc<Shared>,
    ids: &[VolumeId],
    parts: u64,
    most: usize,
    progress: &mut dyn FnMut(DiskUseProgress) -> Result<()>,
) -> Result<Option<DiskUse>> {
    let mut sum = DiskUse::default();
    let mut numbers = HashMap::new();
    let total = ids.len() as u64 * parts;
    for part in 0..parts {
        let mut gathered = Gathered::new(part, parts, most);
        for (done, id) in (part * ids.len() as u64..).zip(ids) {
            progress(DiskUseProgress { maps: done, total })?;
            // Collections wait for one map at a time, and not for all of them.
            let _operation = shared.operations.begin();
            let Some((header, _)) = readable(shared, *id)?.filter(|(h, _)| !h.removed && h.kind != Kind::Group) else {
                continue;
            };
            let number = *numbers.entry(*id).or_insert_with(|| {
                sum.maps.push(describe(&header));
                sum.maps.len() as u32 - 1
            });
            let (mapped, in_use) = walk(shared, &header, number, &mut gathered)?;
            let map = &mut sum.maps[number as usize];
            (map.mapped, map.in_use) = (mapped, in_use);
            if gathered.full {
                return Ok(None);
            }
        }
        gathered.sweep(&mut sum);
    }
    progress(DiskUseProgress { maps: total, total })?;
    for map in &mut sum.maps {
        map.shared -= map.unique;
    }
    sum.maps.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Some(sum))
}

fn describe(header: &Header) -> MapUse {
    MapUse {
        name: header.name.clone(),
        id: header.id.to_string(),
        kind: header.kind,
        size: header.size,
        mapped: 0,
        unique: 0,
        shared: 0,
        in_use: false,
    }
}

/// Gathers what a map names; returns the bytes that it maps, and whether somebody else changes it meanwhile.
fn walk(shared: &Arc<Shared>, header: &Header, map: u32, gathered: &mut Gathered) -> Result<(u64, bool)> {
    let blocker = &*shared.blocker;
    let (inner, view) = view(shared, header)?;
    let in_use = inner.is_none() && header.kind == Kind::Volume && blocker.lock_holder(header.id)?.is_some();
    let shift = view.tree.block_shift;
    let mut mapped = 0;
    view.runs(blocker, &shared.cache, 0, view.size.div_ceil(SECTOR), &mut |start, sectors, source| {
        let (at, len) = (start << SECTOR_SHIFT, sectors << SECTOR_SHIFT);
        let block = at >> shift;
        let content = |digest, gathered: &mut Gathered| -> Result<()> {
            let place = shared.contents.resolve(blocker, digest)?;
            // What lies behind the last byte is zeros, and takes no room.
            if let (Some((object, from)), there) = place.part(at - (block << shift), len as usize) {
                let end = (from + there as u64).next_multiple_of(SECTOR);
                gathered.add(map, object, from - from % SECTOR, end);
            }
            Ok(())
        };
        match source {
            Source::Zero => return Ok(true),
            Source::Data { owner, epoch } => match shared.contents.moved(blocker, owner, epoch, block)? {
                Some(digest) => content(digest, gathered)?,
                None => gathered.add(map, Object::Data(owner, epoch), at, at + len),
            },
            Source::Log { owner, segment, offset, .. } => {
                let from = u64::from(offset);
                gathered.add(map, Object::Log(owner, segment), from, from + len);
            }
            Source::Content(digest) => content(digest, gathered)?,
        }
        mapped += len;
        Ok(!gathered.full)
    })?;
    Ok((mapped, in_use))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(number: u64) -> MapUse {
        MapUse {
            name: format!("map-{number}"),
            id: format!("{number:016x}"),
            kind: Kind::Volume,
            size: 0,
            mapped: 0,
            unique: 0,
            shared: 0,
            in_use: false,
        }
    }

    #[test]
    fn ranges_are_counted_once_for_each_map_and_by_who_names_them() {
        let mut gathered = Gathered::new(0, 1, 100);
        let (a, b) = (Object::Data(VolumeId(1), 1), Object::Data(VolumeId(1), 2));
        // Map 0 alone: 0..10 of a, in two pieces that overlap. Maps 0 and 1: 10..20. Map 1 alone: 20..30. All three: 0..5 of b.
        for (number, object, start, end) in
            [(0, a, 0, 8), (0, a, 5, 20), (1, a, 10, 30), (0, b, 0, 5), (1, b, 0, 5), (2, b, 0, 5), (2, b, 5, 6)]
        {
            gathered.add(number, object, start, end);
        }
        let mut sum = DiskUse { maps: (0..3).map(map).collect(), named: 0, shared: 0 };
        gathered.sweep(&mut sum);
        assert_eq!((sum.named, sum.shared), (36, 15));
        let found: Vec<_> = sum.maps.iter().map(|m| (m.unique, m.shared - m.unique)).collect();
        assert_eq!(found, [(10, 15), (10, 15), (1, 5)]);
    }

    #[test]
    fn more_ranges_than_may_be_held_are_noticed_and_parts_have_each_object_once() {
        let mut gathered = Gathered::new(0, 1, 2);
        for start in [0, 10, 20] {
            assert!(!gathered.full);
            gathered.add(0, Object::Data(VolumeId(1), 1), start, start + 5);
        }
        assert!(gathered.full);
        for id in 0..20 {
            let holds = |part| {
                let mut gathered = Gathered::new(part, 4, 2);
                gathered.add(0, Object::Log(VolumeId(id), 1), 0, 1);
                gathered.ranges.len()
            };
            assert_eq!((0..4).map(holds).sum::<usize>(), 1);
        }
    }
}
