//! Which map is best built on which other one: clones and snapshots of one volume name mostly the same blocks.
//!
//! Maps do not say what they were cloned from. So each map is represented by the smallest hashes of what it names where:
//! maps that share many entries share many of these. Memory is a few hundred bytes for each map, whatever its size.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::examine::Examined;

/// Hashes that are kept for each map; half of them for its start, where a small image shows in a large volume.
pub const SKETCH: usize = 128;
/// The same where there are very many maps (which are files then, and have few blocks).
pub const SMALL_SKETCH: usize = 16;
/// Maps past which sketches are small.
pub const MANY_MAPS: usize = 8_192;
/// Most maps of one import: with small sketches half a gigabyte for all that is known of them.
pub const MAX_SELECTED: usize = 1_000_000;
/// Entries that count as the start of a map: 8 GiB of 4 MiB blocks.
const START: u64 = 2048;
/// Maps remembered for one hash. A block named by more of them is found through these.
const MAX_CANDIDATES: usize = 16;

/// The smallest hashes of the entries of a map.
#[derive(Clone, Debug, Default)]
pub struct Sketch {
    half: usize,
    start: BTreeSet<u64>,
    whole: BTreeSet<u64>,
    hashes: Vec<u64>,
}

impl Sketch {
    /// An empty one, for `len` hashes.
    pub fn new(len: usize) -> Sketch {
        Sketch { half: len / 2, ..Sketch::default() }
    }

    /// Adds an entry.
    pub fn add(&mut self, index: u64, block: &str) {
        let mut hasher = DefaultHasher::new();
        (index, block).hash(&mut hasher);
        let hash = hasher.finish();
        keep(&mut self.whole, hash, self.half);
        if index < START {
            keep(&mut self.start, hash, self.half);
        }
    }

    /// Nothing more is added; what is not needed any more is given back.
    pub fn finish(&mut self) {
        let (start, whole) = (std::mem::take(&mut self.start), std::mem::take(&mut self.whole));
        self.hashes = start.union(&whole).copied().collect();
    }
}

fn keep(smallest: &mut BTreeSet<u64>, hash: u64, most: usize) {
    if smallest.len() < most || smallest.last().is_some_and(|last| hash < *last) {
        smallest.insert(hash);
        if smallest.len() > most {
            smallest.pop_last();
        }
    }
}

/// What is imported when, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index of the map.
    pub map: usize,
    /// Index of a map that comes before it and shares blocks with it.
    pub base: Option<usize>,
}

/// Puts maps in an order in which each comes after the one that it shares most with: snapshots first, small ones first.
pub fn plan(maps: &[&Examined]) -> Vec<Step> {
    let mut order: Vec<usize> = (0..maps.len()).collect();
    order.sort_by_key(|i| (!maps[*i].map.header.read_only, maps[*i].blocks, *i));
    let common_to_some = repeated(maps.iter().flat_map(|map| map.sketch.hashes.iter().copied()).collect());
    let mut known: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut steps = Vec::with_capacity(maps.len());
    for map in order {
        let mut common: HashMap<usize, usize> = HashMap::new();
        for hash in &maps[map].sketch.hashes {
            for other in known.get(hash).into_iter().flatten() {
                *common.entry(*other).or_default() += 1;
            }
        }
        let base = common
            .into_iter()
            .filter(|(other, _)| maps[*other].map.header.block_size == maps[map].map.header.block_size)
            .max_by_key(|(other, count)| {
                // Of two that share as much, the one that needs no snapshot first, then the earlier one.
                (*count, maps[*other].map.header.read_only, std::cmp::Reverse(*other))
            })
            .map(|(other, _)| other);
        steps.push(Step { map, base });
        // What one map alone names leads to nobody, and is most of what there is.
        for hash in maps[map].sketch.hashes.iter().filter(|hash| common_to_some.binary_search(hash).is_ok()) {
            let candidates = known.entry(*hash).or_default();
            if candidates.len() < MAX_CANDIDATES {
                candidates.push(map);
            }
        }
    }
    steps
}

/// The values that occur more than once, in order.
fn repeated(mut values: Vec<u64>) -> Vec<u64> {
    values.sort_unstable();
    let mut repeated: Vec<u64> = values.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).collect();
    repeated.dedup();
    repeated
}

#[cfg(test)]
mod tests {
    use super::super::header::{Header, Version};
    use super::super::map::OldMap;
    use super::*;

    fn map(name: &str, read_only: bool, blocks: &[(u64, &str)]) -> Examined {
        let mut sketch = Sketch::new(SKETCH);
        blocks.iter().for_each(|(index, block)| sketch.add(*index, block));
        sketch.finish();
        let header =
            Header { version: Version::V2, size: 1 << 40, block_size: 4 << 20, read_only, epoch: 1, entries: 1 << 18 };
        Examined {
            map: OldMap { object: name.into(), header },
            blocks: blocks.len() as u64,
            content: 0,
            unwritten: 0,
            missing: 0,
            first_missing: None,
            locked_by: None,
            sketch,
            fingerprint: 0,
        }
    }

    fn base_of(maps: &[Examined], index: usize) -> Option<usize> {
        let maps: Vec<_> = maps.iter().collect();
        plan(&maps).iter().find(|step| step.map == index).unwrap().base
    }

    #[test]
    fn a_map_is_built_on_the_one_that_it_shares_most_with() {
        let (a, b, c) =
            ([(0, "a"), (1, "b"), (2, "c")], [(0, "a"), (1, "b"), (2, "x")], [(0, "a"), (1, "y"), (2, "z")]);
        let maps =
            [map("volume", false, &b), map("near", true, &a), map("far", true, &c), map("alone", false, &[(9, "q")])];
        assert_eq!(base_of(&maps, 0), Some(1));
        assert_eq!(base_of(&maps, 3), None);
        // The same block elsewhere in the volume cannot be shared by a clone.
        let moved = [map("volume", false, &[(5, "a")]), map("image", true, &[(0, "a")])];
        assert_eq!(base_of(&moved, 0), None);
    }

    #[test]
    fn a_base_always_comes_first() {
        let blocks: Vec<String> = (0..100).map(|n| format!("block-{n}")).collect();
        let maps: Vec<Examined> = (0..50usize)
            .map(|n| {
                let own: Vec<_> = (0..100u64).map(|i| (i, blocks[(i as usize * n) % 100].as_str())).collect();
                map(&format!("map-{n}"), n % 3 == 0, &own)
            })
            .collect();
        let steps = plan(&maps.iter().collect::<Vec<_>>());
        assert_eq!(steps.len(), maps.len());
        for (at, step) in steps.iter().enumerate() {
            if let Some(base) = step.base {
                assert!(steps[..at].iter().any(|earlier| earlier.map == base), "{step:?}");
            }
        }
    }

    #[test]
    fn a_small_image_is_found_in_a_large_volume() {
        let names: Vec<String> = (0..100_000).map(|n| format!("own-{n}")).collect();
        let image: Vec<_> = (0..400).map(|i| (i, names[i as usize].as_str())).collect();
        let volume: Vec<_> = (0..100_000).map(|i| (i, names[i as usize].as_str())).collect();
        let maps = [map("volume", false, &volume), map("image", true, &image)];
        assert_eq!(base_of(&maps, 0), Some(1));
    }
}
