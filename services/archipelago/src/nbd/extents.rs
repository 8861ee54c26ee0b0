//! Turns what a device says of its extents into runs that a reply can rely on: in order, without gaps or overlaps, never past
//! the range asked for, neighbours of one kind joined.

use crate::disk::device::Extent;

/// A run of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First byte.
    pub offset: u64,
    /// Length in bytes, not 0.
    pub len: u64,
    /// Known to be zeros.
    pub zero: bool,
}

/// Runs of a range. What no extent speaks of counts as data: that is always right.
pub struct Runs<'a> {
    extents: &'a [Extent],
    at: u64,
    end: u64,
}

impl<'a> Runs<'a> {
    /// The runs of `at..end`.
    pub fn new(extents: &'a [Extent], at: u64, end: u64) -> Runs<'a> {
        Runs { extents, at, end }
    }

    /// The kind of the byte at `at`, and where that knowledge ends.
    fn step(&mut self, at: u64) -> (bool, u64) {
        while let Some(first) = self.extents.first() {
            let end = first.offset.saturating_add(first.len);
            if at < first.offset {
                return (false, first.offset.min(self.end));
            }
            if at < end {
                return (first.zero, end.min(self.end));
            }
            self.extents = &self.extents[1..];
        }
        (false, self.end)
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.at >= self.end {
            return None;
        }
        let offset = self.at;
        let (zero, mut stop) = self.step(offset);
        while stop < self.end {
            let (next, end) = self.step(stop);
            if next != zero {
                break;
            }
            stop = end;
        }
        self.at = stop;
        Some(Run { offset, len: stop - offset, zero })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(extents: &[(u64, u64, bool)], at: u64, end: u64) -> Vec<(u64, u64, bool)> {
        let extents: Vec<Extent> = extents.iter().map(|&(offset, len, zero)| Extent { offset, len, zero }).collect();
        Runs::new(&extents, at, end).map(|r| (r.offset, r.len, r.zero)).collect()
    }

    #[test]
    fn runs_are_joined_and_cut_to_the_range() {
        let extents = [(0, 10, true), (10, 10, true), (20, 5, false), (25, 100, true)];
        assert_eq!(runs(&extents, 5, 50), [(5, 15, true), (20, 5, false), (25, 25, true)]);
        assert_eq!(runs(&extents, 21, 23), [(21, 2, false)]);
        assert_eq!(runs(&extents, 7, 7), []);
    }

    #[test]
    fn what_no_extent_speaks_of_is_data() {
        assert_eq!(runs(&[], 3, 9), [(3, 6, false)]);
        assert_eq!(runs(&[(4, 2, true)], 0, 10), [(0, 4, false), (4, 2, true), (6, 4, false)]);
        assert_eq!(runs(&[(0, 3, false)], 0, 10), [(0, 10, false)]);
    }

    #[test]
    fn s51_extents_of_a_broken_device_still_give_runs_that_cover_the_range_once() {
        let mut state = 7u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u32
        };
        for _ in 0..5000 {
            let extents: Vec<_> = (0..random() % 6)
                .map(|_| {
                    let len = if random() % 9 == 0 { u64::MAX } else { u64::from(random() % 20) };
                    (u64::from(random() % 60), len, random() % 2 == 0)
                })
                .collect();
            let at = u64::from(random() % 50);
            let end = at + u64::from(random() % 50);
            let mut next = at;
            let mut last = None;
            for (offset, len, zero) in runs(&extents, at, end) {
                assert_eq!(offset, next, "{extents:?}");
                assert!(len > 0 && last != Some(zero), "{extents:?}");
                next += len;
                last = Some(zero);
            }
            assert_eq!(next, end, "{extents:?}");
        }
    }
}
