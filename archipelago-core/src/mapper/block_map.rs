//! The merged map of one block: which run of sectors is where.

use smallvec::SmallVec;

use crate::format::node::{Extent, Source};

/// Sorted, disjoint extents of one block; what they do not cover is zero. Never a chain: whatever the number of
/// snapshots between them, one search finds the newest source of a sector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockMap {
    extents: SmallVec<[Extent; 1]>,
}

/// The source of a sector `by` sectors further into a run.
pub fn advance(source: Source, by: u16) -> Source {
    match source {
        Source::Log { owner, epoch, segment, offset } => {
            Source::Log { owner, epoch, segment, offset: offset + (u32::from(by) << crate::limits::SECTOR_SHIFT) }
        }
        other => other,
    }
}

/// The runs of `start..start+len` of a block with these extents in order, zeros included, without gaps.
pub fn runs(extents: &[Extent], start: u16, len: u16) -> Runs<'_> {
    let first = first_behind(extents, start);
    Runs { extents: &extents[first..], at: start, end: start + len }
}

/// Where `start..start+len` of a block with these extents is if it is one run, at its first sector.
pub fn one_run(extents: &[Extent], start: u16, len: u16) -> Option<Source> {
    match extents {
        // Most blocks lie in one place.
        [e] if e.start <= start && start + len <= e.start + e.len => Some(advance(e.source, start - e.start)),
        _ => runs(extents, start, len).next().filter(|run| run.len == len).map(|run| run.source),
    }
}

/// Index of the first extent that ends behind `sector`.
///
/// Looks first where the extent would be if all were spread evenly, then doubles its steps away from there: scattered
/// writes are spread evenly, and a plain binary search would touch a cache line at each of its steps.
fn first_behind(extents: &[Extent], sector: u16) -> usize {
    let ends_before = |e: &Extent| e.start + e.len <= sector;
    let Some(last) = extents.last() else { return 0 };
    if ends_before(last) {
        return extents.len();
    }
    let all = usize::from(last.start + last.len);
    let guess = usize::from(sector) * extents.len() / all;
    let (mut low, mut high, mut step) = (guess, guess, 1);
    while low > 0 && !ends_before(&extents[low]) {
        high = low;
        low = low.saturating_sub(step);
        step *= 2;
    }
    step = 1;
    while high < extents.len() && ends_before(&extents[high]) {
        low = high;
        high = (high + step).min(extents.len());
        step *= 2;
    }
    low + extents[low..high].partition_point(ends_before)
}

impl BlockMap {
    /// From stored extents, which the decoder has checked to be sorted and disjoint.
    pub fn from_extents(extents: &[Extent]) -> BlockMap {
        BlockMap { extents: extents.iter().copied().collect() }
    }

    /// The extents.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Bytes that it takes beside itself.
    pub fn heap(&self) -> usize {
        if self.extents.spilled() { self.extents.capacity() * size_of::<Extent>() } else { 0 }
    }

    /// Whether the whole block is zero.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Sectors that are not known to be zero.
    pub fn mapped(&self) -> u64 {
        self.extents.iter().map(|e| u64::from(e.len)).sum()
    }

    /// The runs of `start..start+len` in order, zeros included, without gaps.
    pub fn runs(&self, start: u16, len: u16) -> Runs<'_> {
        runs(&self.extents, start, len)
    }

    /// Gives `start..start+len` another source.
    pub fn set(&mut self, start: u16, len: u16, source: Source) {
        if len == 0 {
            return;
        }
        let end = start + len;
        let first = self.extents.partition_point(|e| e.start + e.len <= start);
        let last = self.extents.partition_point(|e| e.start < end);
        let mut new: SmallVec<[Extent; 3]> = SmallVec::new();
        if first < last {
            let head = self.extents[first];
            if head.start < start {
                new.push(Extent { len: start - head.start, ..head });
            }
        }
        if source != Source::Zero {
            new.push(Extent { start, len, source });
        }
        if first < last {
            let tail = self.extents[last - 1];
            let tail_end = tail.start + tail.len;
            if tail_end > end {
                new.push(Extent { start: end, len: tail_end - end, source: advance(tail.source, end - tail.start) });
            }
        }
        let inserted = new.len();
        self.extents.drain(first..last);
        self.extents.insert_many(first, new);
        self.join(first.saturating_sub(1), first + inserted + 1);
    }

    /// Joins neighbours among `from..to` that continue each other.
    fn join(&mut self, from: usize, to: usize) {
        let mut i = from;
        let mut to = to.min(self.extents.len());
        while i + 1 < to {
            let (a, b) = (self.extents[i], self.extents[i + 1]);
            if a.start + a.len == b.start && advance(a.source, a.len) == b.source {
                self.extents[i].len += b.len;
                self.extents.remove(i + 1);
                to -= 1;
            } else {
                i += 1;
            }
        }
    }

    /// Makes everything from sector `limit` on zero.
    pub fn clip(&mut self, limit: u16) {
        self.extents.retain(|e| e.start < limit);
        if let Some(last) = self.extents.last_mut() {
            last.len = last.len.min(limit - last.start);
        }
    }
}

/// Iterator of [`BlockMap::runs`].
pub struct Runs<'a> {
    extents: &'a [Extent],
    at: u16,
    end: u16,
}

impl Iterator for Runs<'_> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        if self.at >= self.end {
            return None;
        }
        let run = match self.extents.first() {
            Some(e) if e.start <= self.at => {
                let stop = (e.start + e.len).min(self.end);
                if e.start + e.len <= self.end {
                    self.extents = &self.extents[1..];
                }
                Extent { start: self.at, len: stop - self.at, source: advance(e.source, self.at - e.start) }
            }
            next => {
                let stop = next.map_or(self.end, |e| e.start.min(self.end));
                Extent { start: self.at, len: stop - self.at, source: Source::Zero }
            }
        };
        self.at += run.len;
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blocker::VolumeId;

    fn source(kind: u8, start: u16) -> Source {
        match kind % 4 {
            0 => Source::Zero,
            1 => Source::Data { owner: VolumeId(1), epoch: 1 },
            2 => Source::Data { owner: VolumeId(1), epoch: 2 },
            // Consecutive sectors at consecutive places, so that joining is exercised.
            _ => Source::Log { owner: VolumeId(1), epoch: 2, segment: 0, offset: u32::from(start) * 4096 },
        }
    }

    #[test]
    fn every_change_of_every_map_of_six_sectors_is_right() {
        const SECTORS: u16 = 6;
        let sector_of = |map: &BlockMap, from: u16, len: u16| -> Vec<Source> {
            let mut sources = Vec::new();
            for run in map.runs(from, len) {
                assert_eq!(run.start, from + sources.len() as u16);
                sources.extend((0..run.len).map(|by| advance(run.source, by)));
            }
            assert_eq!(sources.len(), usize::from(len));
            sources
        };
        for number in 0..4u32.pow(SECTORS.into()) {
            let kind = |sector: u16| (number / 4u32.pow(sector.into()) % 4) as u8;
            let plain: Vec<Source> = (0..SECTORS).map(|s| source(kind(s), s)).collect();
            let mut map = BlockMap::default();
            (0..SECTORS).for_each(|s| map.set(s, 1, plain[usize::from(s)]));
            for (start, end) in (0..SECTORS).flat_map(|a| (a..=SECTORS).map(move |b| (a, b))) {
                assert_eq!(sector_of(&map, start, end - start), plain[usize::from(start)..usize::from(end)]);
                for new in 0..4 {
                    let (mut changed, mut expected) = (map.clone(), plain.clone());
                    changed.set(start, end - start, source(new, start));
                    (start..end).for_each(|s| expected[usize::from(s)] = advance(source(new, start), s - start));
                    assert_eq!(sector_of(&changed, 0, SECTORS), expected, "{plain:?} {start} {end} {new}");
                    for pair in changed.extents().windows(2) {
                        let (end, next) = (pair[0].start + pair[0].len, pair[1]);
                        assert!(
                            end <= next.start
                                && (end < next.start || advance(pair[0].source, pair[0].len) != next.source)
                        );
                    }
                }
            }
            for limit in 0..=SECTORS {
                let mut clipped = map.clone();
                clipped.clip(limit);
                let expected: Vec<_> =
                    (0..SECTORS).map(|s| if s < limit { plain[usize::from(s)] } else { Source::Zero }).collect();
                assert_eq!(sector_of(&clipped, 0, SECTORS), expected);
            }
        }
    }

    proptest! {
        #[test]
        fn a_block_map_equals_an_array_of_sectors(ops in prop::collection::vec((0u16..64, 1u16..32, 0u8..4), 1..60)) {
            let mut map = BlockMap::default();
            let mut plain = [Source::Zero; 96];
            for (start, len, kind) in ops {
                map.set(start, len, source(kind, start));
                for i in 0..len {
                    plain[usize::from(start + i)] = advance(source(kind, start), i);
                }
                let mut at = 0;
                for run in map.runs(0, 96) {
                    prop_assert_eq!(run.start, at);
                    for i in 0..run.len {
                        prop_assert_eq!(advance(run.source, i), plain[usize::from(at + i)]);
                    }
                    at += run.len;
                }
                prop_assert_eq!(at, 96);
                for pair in map.extents().windows(2) {
                    prop_assert!(pair[0].start + pair[0].len <= pair[1].start);
                    let joined = pair[0].start + pair[0].len == pair[1].start && advance(pair[0].source, pair[0].len) == pair[1].source;
                    prop_assert!(!joined, "neighbours that continue each other stay apart");
                }
                prop_assert_eq!(map.mapped(), plain.iter().filter(|s| **s != Source::Zero).count() as u64);
            }
            let mut clipped = map.clone();
            clipped.clip(40);
            for run in clipped.runs(0, 96) {
                for i in run.start..run.start + run.len {
                    let expect = if i < 40 { plain[usize::from(i)] } else { Source::Zero };
                    prop_assert_eq!(advance(run.source, i - run.start), expect);
                }
            }
        }
    }
}
