//! Finding the zeros in a buffer.

use std::ops::Range;

/// Unit in which zeros are looked for: the sector of the map, below which no room can be saved.
const CHUNK: usize = 4096;
/// Zeros between two runs of data that are shorter than this are written with them: one larger write and one map entry
/// cost less than two, and a block should not fall into many extents for a few kilobytes.
const JOIN: usize = 64 << 10;

/// Whether all bytes are zero. The inner loop has no exit of its own, so that the compiler turns it into wide compares.
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks_exact(256);
    chunks.by_ref().all(|chunk| chunk.iter().fold(0u8, |all, byte| all | byte) == 0)
        && chunks.remainder().iter().all(|byte| *byte == 0)
}

/// The ranges of `data` that hold something, in order, on 4 KiB boundaries (the last may end earlier, with the data).
pub fn data_runs(data: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let chunk_is_zero = |at: usize| is_zero(&data[at..(at + CHUNK).min(data.len())]);
        while at < data.len() && chunk_is_zero(at) {
            at += CHUNK;
        }
        if at >= data.len() {
            return None;
        }
        let start = at;
        let mut end = (at + CHUNK).min(data.len());
        at = end;
        while at < data.len() && at - end < JOIN {
            let next = (at + CHUNK).min(data.len());
            if !chunk_is_zero(at) {
                end = next;
            }
            at = next;
        }
        Some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_single_bit_anywhere_is_not_zero() {
        for len in [1, 255, 256, 257, 4096, 5000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len - 1] {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "length {len}, byte {at}");
                bytes[at] = 0;
            }
        }
        assert!(is_zero(&[]));
    }

    #[test]
    fn short_gaps_are_joined_and_long_ones_split() {
        let mut data = vec![0; 1 << 20];
        data[5000] = 1;
        data[20_000] = 1;
        data[(1 << 20) - 1] = 1;
        let runs: Vec<_> = data_runs(&data).collect();
        assert_eq!(runs, [4096..20_480, (1 << 20) - 4096..1 << 20]);
    }

    proptest! {
        #[test]
        fn runs_are_ordered_and_what_lies_between_them_is_zero(
            len in 1usize..400_000, marks in proptest::collection::vec(0usize..400_000, 0..12)
        ) {
            let mut data = vec![0u8; len];
            marks.iter().filter(|at| **at < len).for_each(|at| data[*at] = 7);
            let mut at = 0;
            for run in data_runs(&data) {
                prop_assert!(run.start >= at && run.end > run.start && run.end <= len);
                prop_assert!(run.start % CHUNK == 0 && (run.end % CHUNK == 0 || run.end == len));
                prop_assert!(is_zero(&data[at..run.start]));
                at = run.end;
            }
            prop_assert!(is_zero(&data[at..]));
        }
    }
}
