//! Pages of an object that are in use. What can be punched is whole pages, whatever lies in them, so that is what is counted
//! where things lie side by side that are smaller than a page: nodes of a pack, and records of a journal.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::limits::{SECTOR, SECTOR_SHIFT};
use crate::planted::{self, Bug};

/// Words of a chunk of bits, as a power of two: they stand for 1 MiB.
const WORDS: usize = 4;
/// `log2` of the pages of a chunk.
const CHUNK_SHIFT: u32 = 8;

/// A set of pages of 4 KiB.
#[derive(Default)]
pub struct Pages {
    chunks: BTreeMap<u32, [u64; WORDS]>,
}

impl Pages {
    /// Most memory that marking so many bytes takes, in bytes, roughly.
    pub fn cost(bytes: u64) -> u64 {
        const CHUNK: u64 = 16 + 8 * WORDS as u64;
        ((bytes >> (CHUNK_SHIFT + SECTOR_SHIFT)) + 2) * CHUNK
    }

    /// Marks the pages that bytes `start..end` touch; whether one of them was not marked before.
    pub fn mark(&mut self, start: u64, end: u64) -> bool {
        let lost = u64::from(planted::has(Bug::PageNotMarked));
        let last = end.div_ceil(SECTOR) - lost;
        let (mut page, mut grown) = (start >> SECTOR_SHIFT, false);
        while page < last {
            let chunk = self.chunks.entry((page >> CHUNK_SHIFT) as u32).or_default();
            let until = last.min(((page >> CHUNK_SHIFT) + 1) << CHUNK_SHIFT);
            while page < until {
                let word = &mut chunk[(page >> 6) as usize % WORDS];
                grown |= *word >> (page & 63) & 1 == 0;
                *word |= 1 << (page & 63);
                page += 1;
            }
        }
        grown
    }

    /// Bytes of the marked pages.
    pub fn bytes(&self) -> u64 {
        let words = self.chunks.values().flatten();
        words.map(|word| u64::from(word.count_ones())).sum::<u64>() << SECTOR_SHIFT
    }

    /// The ranges of bytes before `end` in which no page is marked, in order.
    pub fn dead(&self, end: u64) -> Vec<Range<u64>> {
        let (mut dead, mut at) = (Vec::new(), 0);
        for (chunk, words) in &self.chunks {
            for (word, bits) in words.iter().enumerate() {
                let mut bits = *bits;
                while bits != 0 {
                    let page = (u64::from(*chunk) << CHUNK_SHIFT) + 64 * word as u64 + u64::from(bits.trailing_zeros());
                    let start = (page << SECTOR_SHIFT).min(end);
                    if start > at {
                        dead.push(at..start);
                    }
                    at = (page + 1) << SECTOR_SHIFT;
                    bits &= bits - 1;
                }
            }
        }
        if at < end {
            dead.push(at..end);
        }
        dead
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_equal_an_array_of_them(ranges in prop::collection::vec((0u64..5 << 20, 1u64..400_000), 0..12), end in 1u64..6 << 20) {
            let (mut pages, mut plain) = (Pages::default(), vec![false; 2000]);
            for (start, len) in ranges {
                let touched = (start / SECTOR) as usize..(start + len).div_ceil(SECTOR) as usize;
                let grown = plain[touched.clone()].contains(&false);
                plain[touched].fill(true);
                prop_assert_eq!(pages.mark(start, start + len), grown);
            }
            prop_assert_eq!(pages.bytes(), plain.iter().filter(|marked| **marked).count() as u64 * SECTOR);
            let mut live = vec![true; end as usize];
            for range in pages.dead(end) {
                prop_assert!(range.start < range.end);
                live[range.start as usize..range.end as usize].fill(false);
            }
            for (byte, live) in live.iter().enumerate().step_by(997) {
                prop_assert_eq!(*live, plain[byte / SECTOR as usize]);
            }
        }
    }
}
