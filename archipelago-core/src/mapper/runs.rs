//! Map changes whose data must be synced before the journal may speak of them.

use std::collections::BTreeMap;

/// What a run of sectors became.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Written into the live data object.
    Data,
    /// Zeros.
    Zero,
}

/// Disjoint runs of sectors; the newest change of a sector counts.
#[derive(Clone, Debug, Default)]
pub struct RunMap {
    runs: BTreeMap<u64, (u64, Change)>,
}

impl RunMap {
    /// Number of runs.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs in order: first sector, sectors, change.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, Change)> + '_ {
        self.runs.iter().map(|(start, (len, change))| (*start, *len, *change))
    }

    /// Forgets what was said of `start..start+len`.
    pub fn remove(&mut self, start: u64, len: u64) {
        let end = start + len;
        if let Some((&s, &(l, change))) = self.runs.range(..start).next_back()
            && s + l > start
        {
            self.runs.insert(s, (start - s, change));
            if s + l > end {
                self.runs.insert(end, (s + l - end, change));
            }
        }
        while let Some((&s, &(l, change))) = self.runs.range(start..end).next() {
            self.runs.remove(&s);
            if s + l > end {
                self.runs.insert(end, (s + l - end, change));
            }
        }
    }

    /// Says that `start..start+len` changed; joins with equal neighbours.
    pub fn insert(&mut self, start: u64, len: u64, change: Change) {
        self.remove(start, len);
        let (mut start, mut len) = (start, len);
        if let Some((&s, &(l, c))) = self.runs.range(..start).next_back()
            && s + l == start
            && c == change
        {
            self.runs.remove(&s);
            start = s;
            len += l;
        }
        if let Some(&(l, c)) = self.runs.get(&(start + len))
            && c == change
        {
            self.runs.remove(&(start + len));
            len += l;
        }
        self.runs.insert(start, (len, change));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_change_of_every_run_map_of_six_sectors_is_right() {
        const SECTORS: u64 = 6;
        let what = |kind: u64| match kind {
            0 => None,
            1 => Some(Change::Data),
            _ => Some(Change::Zero),
        };
        let apply = |map: &mut RunMap, start: u64, len: u64, change: Option<Change>| match change {
            None => map.remove(start, len),
            Some(change) => map.insert(start, len, change),
        };
        for number in 0..3u64.pow(SECTORS as u32) {
            let plain: Vec<_> = (0..SECTORS).map(|s| what(number / 3u64.pow(s as u32) % 3)).collect();
            let mut map = RunMap::default();
            (0..SECTORS).for_each(|s| apply(&mut map, s, 1, plain[s as usize]));
            for (start, end) in (0..SECTORS).flat_map(|a| (a + 1..=SECTORS).map(move |b| (a, b))) {
                for kind in 0..3 {
                    let (mut changed, mut expected) = (map.clone(), plain.clone());
                    apply(&mut changed, start, end - start, what(kind));
                    expected[start as usize..end as usize].fill(what(kind));
                    let mut seen = vec![None; SECTORS as usize];
                    for (s, len, change) in changed.iter() {
                        assert!(len > 0 && seen[s as usize..(s + len) as usize].iter().all(Option::is_none));
                        seen[s as usize..(s + len) as usize].fill(Some(change));
                    }
                    assert_eq!(seen, expected, "{plain:?} {start} {end} {kind}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_run_map_equals_an_array_of_sectors(ops in prop::collection::vec((0u64..60, 1u64..20, 0u8..3), 1..60)) {
            let mut runs = RunMap::default();
            let mut plain = [None; 80];
            for (start, len, kind) in ops {
                let change = match kind { 0 => None, 1 => Some(Change::Data), _ => Some(Change::Zero) };
                match change {
                    None => runs.remove(start, len),
                    Some(change) => runs.insert(start, len, change),
                }
                plain[start as usize..(start + len) as usize].fill(change);
                let mut seen = [None; 80];
                for (s, l, c) in runs.iter() {
                    for slot in &mut seen[s as usize..(s + l) as usize] {
                        prop_assert!(slot.is_none());
                        *slot = Some(c);
                    }
                }
                prop_assert_eq!(seen, plain);
            }
        }
    }
}
