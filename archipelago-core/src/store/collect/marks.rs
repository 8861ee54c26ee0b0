//! What maps name, as sets that stay small: tree nodes by their place in a pack, journal segments as a whole or by their pages,
//! data as one bit per block and, where a block is used in part, one bit per sector.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use super::digests::Digests;
use super::pages::Pages;
use crate::blocker::{Object, VolumeId};
use crate::digest::Digest;
use crate::format::log::SEGMENT_HEAD;
use crate::format::node::Pointer;
use crate::id_hash::BuildIdHasher;
use crate::limits::{FANOUT, FANOUT_SHIFT, SECTOR_SHIFT, SEGMENT_SIZE};

/// No node is shorter, so two nodes of a pack never begin within the same 32 bytes: one bit for each is enough.
const NODE_STEP: u32 = 32;
/// Words of a chunk of such bits: they stand for 1 MiB of a pack.
const CHUNK: usize = 512;
/// What an entry of a table costs beside its value, roughly, in bytes.
const ENTRY: u64 = 48;

/// Bits of the nodes of one pack.
#[derive(Default)]
struct PackMarks {
    chunks: BTreeMap<u32, Box<[u64; CHUNK]>>,
    pages: Pages,
    watched: bool,
}

/// What is used of one journal segment.
struct LogMarks {
    /// `None`: all of it, because its records are still to be replayed, or there was no memory for more.
    pages: Option<Pages>,
    watched: bool,
}

/// Up to 128 blocks of a data object.
#[derive(Default)]
struct Group {
    /// Blocks that are used as a whole.
    whole: [u64; 2],
    /// Blocks of which only some sectors are, with a bit for each.
    parts: BTreeMap<u8, Box<[u64]>>,
}

type Groups = HashMap<u64, Group, BuildIdHasher>;

/// What is used of one data object.
struct DataMarks {
    block_shift: u8,
    /// By block number / 128. `None`: all of it, because there was no memory for more.
    groups: Option<Groups>,
    watched: bool,
}

/// Everything that the maps marked so far name.
pub struct Marks {
    packs: HashMap<(VolumeId, u32), PackMarks>,
    logs: HashMap<(VolumeId, u32), LogMarks>,
    data: HashMap<(VolumeId, u64), DataMarks>,
    /// Bytes that the bits of data and journals may take, and take.
    budget: u64,
    used: u64,
    /// Digests, if they are asked for.
    digests: Option<Digests>,
    watched: HashSet<Object>,
    touched: bool,
}

impl Marks {
    /// No marks. Past `budget` bytes data objects are taken to be used as a whole: nothing inside them is known to be dead
    /// then, which keeps too much and never too little.
    pub fn new(budget: u64) -> Marks {
        Marks {
            packs: HashMap::new(),
            logs: HashMap::new(),
            data: HashMap::new(),
            budget,
            used: 0,
            digests: None,
            watched: HashSet::new(),
            touched: false,
        }
    }

    /// From now on [`Marks::take_touched`] tells when something new is marked in these objects.
    pub fn watch(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.watched = objects.into_iter().collect();
        for ((owner, number), marks) in &mut self.packs {
            marks.watched = self.watched.contains(&Object::Pack(*owner, *number));
        }
        for ((owner, number), marks) in &mut self.logs {
            marks.watched = self.watched.contains(&Object::Log(*owner, *number));
        }
        for ((owner, epoch), marks) in &mut self.data {
            marks.watched = self.watched.contains(&Object::Data(*owner, *epoch));
        }
        self.touched = false;
    }

    /// Whether anything new was marked in a watched object since the last call.
    pub fn take_touched(&mut self) -> bool {
        std::mem::take(&mut self.touched)
    }

    /// Marks a tree node; `false` if it was marked before.
    pub fn node(&mut self, pointer: &Pointer) -> bool {
        let watched = &self.watched;
        let pack = self.packs.entry((pointer.owner, pointer.pack)).or_insert_with(|| PackMarks {
            watched: watched.contains(&Object::Pack(pointer.owner, pointer.pack)),
            ..PackMarks::default()
        });
        let bit = pointer.offset / NODE_STEP;
        let chunk = pack.chunks.entry(bit / (64 * CHUNK as u32)).or_insert_with(|| Box::new([0; CHUNK]));
        let word = &mut chunk[(bit / 64) as usize % CHUNK];
        let mask = 1 << (bit % 64);
        if *word & mask != 0 {
            return false;
        }
        *word |= mask;
        pack.pages.mark(u64::from(pointer.offset), u64::from(pointer.offset) + u64::from(pointer.len));
        self.touched |= pack.watched;
        true
    }

    /// From now on digests are remembered too.
    pub fn remember_digests(&mut self, seed: u64) {
        self.digests = Some(Digests::new(seed));
    }

    /// Marks a digest that a map names.
    pub fn digest(&mut self, digest: &Digest) {
        if let Some(digests) = &mut self.digests {
            self.touched |= digests.insert(digest);
        }
    }

    /// Marks a digest that is leased. Nobody has to be asked again because of it: whatever comes to name it finds it
    /// marked.
    pub fn leased(&mut self, digest: &Digest) {
        if let Some(digests) = &mut self.digests {
            digests.insert(digest);
        }
    }

    /// Whether a digest may be needed: `true` for all that were marked, and for few others. Without memory of digests for all.
    pub fn needs(&self, digest: &Digest) -> bool {
        self.digests.as_ref().is_none_or(|digests| digests.contains(digest))
    }

    /// Marks a journal segment as a whole: it is replayed.
    pub fn segment(&mut self, owner: VolumeId, number: u32) {
        let (log, used) = log_of(&mut self.logs, &self.watched, owner, number);
        self.used += used;
        if log.pages.take().is_some() {
            self.touched |= log.watched;
        }
    }

    /// Marks bytes `start..end` of a journal segment: what lies there is not replayed any more, and read by its place.
    pub fn logged(&mut self, owner: VolumeId, number: u32, start: u64, end: u64) {
        let (log, used) = log_of(&mut self.logs, &self.watched, owner, number);
        self.used += used;
        let Some(pages) = &mut log.pages else { return };
        if self.used > self.budget {
            log.pages = None;
            self.touched |= log.watched;
        } else if pages.mark(start, end) {
            self.touched |= log.watched;
        }
    }

    /// Marks whole blocks of a data object: those of blocks `128 * group` and on whose bit is set.
    pub fn blocks(&mut self, owner: VolumeId, epoch: u64, block_shift: u8, group: u64, bits: u128) {
        let watched = &self.watched;
        let (data, used) = data_of(&mut self.data, watched, owner, epoch, block_shift);
        self.used += used;
        let Some(groups) = &mut data.groups else { return };
        let group = groups.entry(group).or_insert_with(|| {
            self.used += ENTRY + size_of::<Group>() as u64;
            Group::default()
        });
        let new = [bits as u64, (bits >> 64) as u64];
        let grown = new.iter().zip(&group.whole).any(|(n, old)| n & !old != 0);
        self.touched |= grown && data.watched;
        if grown {
            group.whole[0] |= new[0];
            group.whole[1] |= new[1];
            let mut freed = 0;
            group.parts.retain(|slot, part| {
                let whole = bits >> slot & 1 == 1;
                freed += if whole { ENTRY + 8 * part.len() as u64 } else { 0 };
                !whole
            });
            self.used = self.used.saturating_sub(freed);
        }
        self.keep_to_budget();
    }

    /// Marks sectors `start..start + len` of a block of a data object.
    pub fn sectors(&mut self, owner: VolumeId, epoch: u64, block_shift: u8, block: u64, start: u16, len: u16) {
        let sectors = 1u32 << (u32::from(block_shift) - SECTOR_SHIFT);
        let (group_of, slot) = (block >> FANOUT_SHIFT, (block & (FANOUT - 1)) as u8);
        if start == 0 && u32::from(len) >= sectors {
            return self.blocks(owner, epoch, block_shift, group_of, 1 << slot);
        }
        let watched = &self.watched;
        let (data, used) = data_of(&mut self.data, watched, owner, epoch, block_shift);
        self.used += used;
        let Some(groups) = &mut data.groups else { return };
        let group = groups.entry(group_of).or_insert_with(|| {
            self.used += ENTRY + size_of::<Group>() as u64;
            Group::default()
        });
        if group.whole[usize::from(slot / 64)] >> (slot % 64) & 1 == 1 {
            return;
        }
        let words = sectors.div_ceil(64) as usize;
        let part = group.parts.entry(slot).or_insert_with(|| {
            self.used += ENTRY + 8 * words as u64;
            vec![0; words].into_boxed_slice()
        });
        let end = (u32::from(start) + u32::from(len)).min(sectors);
        let mut grown = false;
        for sector in u32::from(start)..end {
            let word = &mut part[(sector / 64) as usize];
            grown |= *word >> (sector % 64) & 1 == 0;
            *word |= 1 << (sector % 64);
        }
        self.touched |= grown && data.watched;
        if grown && part.iter().map(|w| w.count_ones()).sum::<u32>() == sectors {
            self.blocks(owner, epoch, block_shift, group_of, 1 << slot);
        }
        self.keep_to_budget();
    }

    /// Marks sectors of a data object counted from its beginning, block by block.
    pub fn run(&mut self, owner: VolumeId, epoch: u64, block_shift: u8, start: u64, len: u64) {
        let shift = u32::from(block_shift) - SECTOR_SHIFT;
        let (mut at, end) = (start, start + len);
        while at < end {
            let block = at >> shift;
            let first = at - (block << shift);
            let n = (end - at).min((1 << shift) - first);
            self.sectors(owner, epoch, block_shift, block, first as u16, n as u16);
            at += n;
        }
    }

    /// Gives up the bits of the data object with the most of them.
    fn keep_to_budget(&mut self) {
        if self.used <= self.budget {
            return;
        }
        let largest = self.data.values_mut().max_by_key(|data| data.groups.as_ref().map_or(0, |groups| groups.len()));
        if let Some(data) = largest
            && let Some(groups) = data.groups.take()
        {
            let parts = groups.values().flat_map(|group| group.parts.values());
            let freed = groups.len() as u64 * (ENTRY + size_of::<Group>() as u64)
                + parts.map(|p| ENTRY + 8 * p.len() as u64).sum::<u64>();
            self.used = self.used.saturating_sub(freed);
        }
    }

    /// In debug builds: counts the memory anew, and panics if that is not what was counted all along.
    pub fn assert_counted(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let logs = self.logs.len() as u64 * (ENTRY + size_of::<LogMarks>() as u64 + Pages::cost(SEGMENT_SIZE));
        let data = self.data.len() as u64 * (ENTRY + size_of::<DataMarks>() as u64);
        let groups: Vec<&Group> =
            self.data.values().filter_map(|d| d.groups.as_ref()).flat_map(HashMap::values).collect();
        let parts = groups.iter().flat_map(|group| group.parts.values()).map(|part| ENTRY + 8 * part.len() as u64);
        let groups_take = groups.len() as u64 * (ENTRY + size_of::<Group>() as u64);
        assert_eq!(self.used, logs + data + groups_take + parts.sum::<u64>(), "memory of marks");
    }

    /// Whether anything in an object is marked.
    pub fn contains(&self, object: Object) -> bool {
        match object {
            Object::Log(owner, number) => self.logs.contains_key(&(owner, number)),
            Object::Pack(owner, number) => self.packs.contains_key(&(owner, number)),
            Object::Data(owner, epoch) | Object::Sum(owner, epoch) => self.data.contains_key(&(owner, epoch)),
            Object::Redirect(..) | Object::Content(_) | Object::Index(_) | Object::Lease(..) => true,
        }
    }

    /// Whether anything of a block of a data object is marked, or may be.
    pub fn any(&self, owner: VolumeId, epoch: u64, block: u64) -> bool {
        let Some(data) = self.data.get(&(owner, epoch)) else { return false };
        let Some(groups) = &data.groups else { return true };
        let slot = (block & (FANOUT - 1)) as u8;
        groups.get(&(block >> FANOUT_SHIFT)).is_some_and(|group| {
            group.whole[usize::from(slot / 64)] >> (slot % 64) & 1 == 1 || group.parts.contains_key(&slot)
        })
    }

    /// Takes back all marks of a block of a data object: maps name it, but nobody reads it there.
    pub fn unmark(&mut self, owner: VolumeId, epoch: u64, block: u64) {
        let Some(DataMarks { groups: Some(groups), .. }) = self.data.get_mut(&(owner, epoch)) else { return };
        let slot = (block & (FANOUT - 1)) as u8;
        if let Some(group) = groups.get_mut(&(block >> FANOUT_SHIFT)) {
            group.whole[usize::from(slot / 64)] &= !(1 << (slot % 64));
            if let Some(part) = group.parts.remove(&slot) {
                self.used = self.used.saturating_sub(ENTRY + 8 * part.len() as u64);
            }
        }
    }

    /// Bytes of marked data in a data object, or of pages with anything marked in a pack or segment; `None` where that is not known,
    /// or all of it is needed.
    pub fn bytes(&self, object: Object) -> Option<u64> {
        match object {
            Object::Redirect(..) | Object::Sum(..) | Object::Content(_) | Object::Index(_) | Object::Lease(..) => None,
            Object::Log(owner, number) => match self.logs.get(&(owner, number)) {
                None => Some(0),
                Some(log) => log.pages.as_ref().map(Pages::bytes),
            },
            Object::Pack(owner, number) => Some(self.packs.get(&(owner, number)).map_or(0, |pack| pack.pages.bytes())),
            Object::Data(owner, epoch) => match self.data.get(&(owner, epoch)) {
                None => Some(0),
                Some(data) => {
                    let groups = data.groups.as_ref()?;
                    Some(groups.values().map(|group| group.bytes(data.block_shift)).sum())
                }
            },
        }
    }

    /// The data objects of which anything is marked, sorted.
    pub fn epochs(&self) -> Vec<(VolumeId, u64)> {
        let mut all: Vec<_> = self.data.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// The ranges of bytes before `end` of a data object that something marked names, in order; all of them where that is not
    /// known.
    pub fn live(&self, owner: VolumeId, epoch: u64, end: u64) -> Vec<Range<u64>> {
        let mut live = Vec::new();
        let mut at = 0;
        for dead in self.dead_data(owner, epoch, end) {
            if dead.start > at {
                live.push(at..dead.start);
            }
            at = dead.end;
        }
        if at < end {
            live.push(at..end);
        }
        live
    }

    /// The ranges of bytes before `end` of an object that nothing marked names, in order and as far as they can be punched; none
    /// where that is not known.
    pub fn dead(&self, object: Object, end: u64) -> Vec<Range<u64>> {
        match object {
            Object::Data(owner, epoch) => self.dead_data(owner, epoch, end),
            Object::Pack(owner, number) => {
                self.packs.get(&(owner, number)).map_or(Vec::new(), |pack| pack.pages.dead(end))
            }
            Object::Log(owner, number) => {
                let pages = self.logs.get(&(owner, number)).and_then(|log| log.pages.as_ref());
                pages.map_or(Vec::new(), |pages| pages.dead(end))
            }
            Object::Redirect(..) | Object::Sum(..) | Object::Content(_) | Object::Index(_) | Object::Lease(..) => {
                Vec::new()
            }
        }
    }

    fn dead_data(&self, owner: VolumeId, epoch: u64, end: u64) -> Vec<Range<u64>> {
        let (groups, block_shift) = match self.data.get(&(owner, epoch)) {
            // Nothing of it, as when all of its blocks were moved.
            None => (&Groups::default(), &0),
            Some(DataMarks { groups: None, .. }) => return Vec::new(),
            Some(DataMarks { groups: Some(groups), block_shift, .. }) => (groups, block_shift),
        };
        let mut dead = Vec::new();
        let mut at = 0;
        let mut live = |range: Range<u64>| {
            let start = range.start.min(end);
            if start > at {
                dead.push(at..start);
            }
            at = range.end.max(at);
        };
        let mut numbers: Vec<u64> = groups.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let Some(group) = groups.get(&number) else { continue };
            for slot in 0..FANOUT as u8 {
                let start = ((number << FANOUT_SHIFT) + u64::from(slot)) << block_shift;
                if group.whole[usize::from(slot / 64)] >> (slot % 64) & 1 == 1 {
                    live(start..start + (1 << block_shift));
                } else if let Some(part) = group.parts.get(&slot) {
                    for sector in 0..1u64 << (u32::from(*block_shift) - SECTOR_SHIFT) {
                        if part[(sector / 64) as usize] >> (sector % 64) & 1 == 1 {
                            let first = start + (sector << SECTOR_SHIFT);
                            live(first..first + (1 << SECTOR_SHIFT));
                        }
                    }
                }
            }
        }
        live(end..end);
        dead
    }
}

impl Group {
    fn bytes(&self, block_shift: u8) -> u64 {
        let whole = u64::from(self.whole[0].count_ones() + self.whole[1].count_ones()) << block_shift;
        let sectors: u64 =
            self.parts.values().map(|part| part.iter().map(|w| u64::from(w.count_ones())).sum::<u64>()).sum();
        whole + (sectors << SECTOR_SHIFT)
    }
}

/// The marks of a journal segment, and the memory that they may take if they are new.
fn log_of<'a>(
    logs: &'a mut HashMap<(VolumeId, u32), LogMarks>,
    watched: &HashSet<Object>,
    owner: VolumeId,
    number: u32,
) -> (&'a mut LogMarks, u64) {
    let mut used = 0;
    let marks = logs.entry((owner, number)).or_insert_with(|| {
        used = ENTRY + size_of::<LogMarks>() as u64 + Pages::cost(SEGMENT_SIZE);
        let mut pages = Pages::default();
        // Its head says which one it is, and is looked at by `check`.
        pages.mark(0, u64::from(SEGMENT_HEAD));
        LogMarks { pages: Some(pages), watched: watched.contains(&Object::Log(owner, number)) }
    });
    (marks, used)
}

/// The marks of a data object, and the memory that they took if they are new.
fn data_of<'a>(
    data: &'a mut HashMap<(VolumeId, u64), DataMarks>,
    watched: &HashSet<Object>,
    owner: VolumeId,
    epoch: u64,
    block_shift: u8,
) -> (&'a mut DataMarks, u64) {
    let mut used = 0;
    let marks = data.entry((owner, epoch)).or_insert_with(|| {
        used = ENTRY + size_of::<DataMarks>() as u64;
        let watched = watched.contains(&Object::Data(owner, epoch));
        DataMarks { block_shift, groups: Some(Groups::default()), watched }
    });
    if marks.block_shift != block_shift {
        // Maps that share blocks have blocks of one size; if two ever did not, nothing is known of the places in between.
        marks.groups = None;
    }
    (marks, used)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWNER: VolumeId = VolumeId(7);

    fn pointer(offset: u32) -> Pointer {
        Pointer { owner: OWNER, pack: 3, offset, len: 40, mapped: 0, hash: [0; 32] }
    }

    #[test]
    fn each_node_is_marked_once() {
        let mut marks = Marks::new(1 << 20);
        for offset in [0, 40, 80, 1 << 20, (1 << 26) - 40] {
            assert!(marks.node(&pointer(offset)));
            assert!(!marks.node(&pointer(offset)));
        }
        let pack = Object::Pack(OWNER, 3);
        assert_eq!(marks.bytes(pack), Some(3 * 4096));
        assert_eq!(marks.dead(pack, 1 << 26), [4096..1 << 20, (1 << 20) + 4096..(1 << 26) - 4096]);
        assert!(marks.contains(Object::Pack(OWNER, 3)) && !marks.contains(Object::Pack(OWNER, 2)));
    }

    #[test]
    fn past_its_budget_an_object_counts_as_used_whole() {
        let mut marks = Marks::new(2000);
        for block in 0..1000 {
            marks.sectors(OWNER, 1, 16, block * 128, 0, 1);
        }
        assert!(marks.contains(Object::Data(OWNER, 1)));
        assert_eq!(marks.bytes(Object::Data(OWNER, 1)), None);
        assert_eq!(marks.dead(Object::Data(OWNER, 1), 1 << 40), Vec::new());
        assert!(marks.used < 2000);
    }

    #[test]
    fn a_segment_is_used_by_pages_until_its_records_are_replayed() {
        let (mut marks, log) = (Marks::new(1 << 20), Object::Log(OWNER, 5));
        marks.logged(OWNER, 5, 9 * 512, 9 * 512 + 4096);
        assert_eq!(marks.bytes(log), Some(3 * 4096), "the head, and two pages");
        assert_eq!(marks.dead(log, 1 << 20), std::slice::from_ref(&(3 * 4096..1 << 20)));
        marks.watch([log]);
        marks.logged(OWNER, 5, 1 << 19, (1 << 19) + 4096);
        assert!(marks.take_touched());
        marks.segment(OWNER, 5);
        assert!(marks.take_touched());
        marks.segment(OWNER, 5);
        marks.logged(OWNER, 5, 0, 1 << 20);
        assert!(!marks.take_touched());
        assert_eq!((marks.bytes(log), marks.dead(log, 1 << 20)), (None, Vec::new()));
        assert!(marks.contains(log) && !marks.contains(Object::Log(OWNER, 4)));
        // Without memory for more it counts as a whole too.
        marks.used = marks.budget;
        marks.logged(OWNER, 6, 512, 4096);
        assert_eq!(marks.bytes(Object::Log(OWNER, 6)), None);
    }

    #[test]
    fn what_is_new_in_a_watched_object_is_noticed() {
        let mut marks = Marks::new(1 << 20);
        marks.blocks(OWNER, 1, 22, 0, 1);
        marks.watch([Object::Data(OWNER, 1), Object::Pack(OWNER, 3), Object::Log(OWNER, 5)]);
        marks.blocks(OWNER, 1, 22, 0, 1);
        marks.sectors(OWNER, 1, 22, 0, 5, 6);
        marks.blocks(OWNER, 2, 22, 0, 1);
        marks.segment(OWNER, 4);
        assert!(!marks.take_touched());
        let marking: [&mut dyn FnMut(&mut Marks); 4] = [
            &mut |m: &mut Marks| m.sectors(OWNER, 1, 22, 1, 5, 6),
            &mut |m: &mut Marks| m.blocks(OWNER, 1, 22, 0, 4),
            &mut |m: &mut Marks| assert!(m.node(&pointer(0)) || !m.touched),
            &mut |m: &mut Marks| m.segment(OWNER, 5),
        ];
        for mark in marking {
            mark(&mut marks);
            assert!(marks.take_touched());
            mark(&mut marks);
            assert!(!marks.take_touched());
        }
    }

    #[test]
    fn marks_of_a_block_are_found_and_taken_back() {
        let mut marks = Marks::new(1 << 20);
        marks.blocks(OWNER, 1, 17, 1, 1 << 100);
        marks.sectors(OWNER, 1, 17, 300, 5, 6);
        let marked = |marks: &Marks| (0..400).filter(|block| marks.any(OWNER, 1, *block)).collect::<Vec<_>>();
        assert_eq!(marked(&marks), [228, 300]);
        assert!(!marks.any(OWNER, 2, 228));
        marks.unmark(OWNER, 1, 300);
        assert_eq!((marked(&marks), marks.bytes(Object::Data(OWNER, 1))), (vec![228], Some(128 << 10)));
        marks.unmark(OWNER, 1, 228);
        assert_eq!((marked(&marks), marks.bytes(Object::Data(OWNER, 1))), (vec![], Some(0)));
    }

    proptest! {
        #[test]
        fn data_marks_equal_an_array_of_sectors(runs in prop::collection::vec((0u64..4000, 1u64..300), 0..40)) {
            let mut marks = Marks::new(1 << 30);
            let mut plain = vec![false; 5000];
            for (start, len) in runs {
                marks.run(OWNER, 1, 17, start, len);
                plain[start as usize..(start + len) as usize].fill(true);
            }
            let live = plain.iter().filter(|used| **used).count() as u64;
            prop_assert_eq!(marks.bytes(Object::Data(OWNER, 1)), Some(live << SECTOR_SHIFT));
            if live > 0 {
                let mut seen = vec![true; 5000];
                for range in marks.dead(Object::Data(OWNER, 1), 5000 << SECTOR_SHIFT) {
                    prop_assert!(range.start < range.end);
                    seen[(range.start >> SECTOR_SHIFT) as usize..(range.end >> SECTOR_SHIFT) as usize].fill(false);
                }
                prop_assert_eq!(&seen, &plain);
                let mut live = vec![false; 5000];
                for range in marks.live(OWNER, 1, 5000 << SECTOR_SHIFT) {
                    live[(range.start >> SECTOR_SHIFT) as usize..(range.end >> SECTOR_SHIFT) as usize].fill(true);
                }
                prop_assert_eq!(live, plain);
            }
        }
    }
}
