//! The plain reference: what a store holds, and what a power cut may leave of it.
//!
//! Contents are kept as bytes. Beside them stand, for each 512-byte atom that was written since the last flush, the
//! contents that it had since that flush: a power cut may bring back any of them, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use archipelago_core::Kind;
use archipelago_core::limits::{ATOM, SECTOR};

use crate::history::{Op, Step, fill};

const ATOM64: u64 = ATOM as u64;

/// One volume or snapshot. Cheap to clone: states of a timeline share what did not change.
#[derive(Clone)]
pub struct Map {
    pub kind: Kind,
    /// What a read returns; as long as the map.
    pub live: Arc<Vec<u8>>,
    /// Earlier contents of atoms, by atom number, that are still possible after a power cut.
    old: Arc<BTreeMap<u64, Vec<Vec<u8>>>>,
}

/// An atom that holds what it must not.
#[derive(Debug)]
pub struct Mismatch {
    pub offset: u64,
    pub seen: Vec<u8>,
    pub allowed: Vec<Vec<u8>>,
}

impl Map {
    fn new(size: u64) -> Map {
        Map { kind: Kind::Volume, live: Arc::new(vec![0; size as usize]), old: Arc::default() }
    }

    pub fn size(&self) -> u64 {
        self.live.len() as u64
    }

    fn atom(&self, atom: u64) -> std::ops::Range<usize> {
        (atom * ATOM64) as usize..((atom + 1) * ATOM64).min(self.size()) as usize
    }

    /// Bytes are written and not flushed: each atom is old or new.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        let before = self.live.clone();
        Arc::make_mut(&mut self.live)[offset as usize..end as usize].copy_from_slice(bytes);
        for atom in offset / ATOM64..end.div_ceil(ATOM64) {
            let range = self.atom(atom);
            if self.live[range.clone()] != before[range.clone()] {
                let versions = Arc::make_mut(&mut self.old).entry(atom).or_default();
                if !versions.iter().any(|v| v[..] == before[range.clone()]) {
                    versions.push(before[range].to_vec());
                }
            }
        }
    }

    /// Everything written is durable.
    pub fn settle(&mut self) {
        self.old = Arc::default();
    }

    /// What was written to the atoms of this range is durable.
    fn settle_range(&mut self, offset: u64, len: u64) {
        if len > 0 {
            let (first, end) = (offset / ATOM64, (offset + len).div_ceil(ATOM64));
            Arc::make_mut(&mut self.old).retain(|atom, _| !(first..end).contains(atom));
        }
    }

    /// Bytes past a smaller size are gone for good; a larger one adds zeros.
    fn resize(&mut self, size: u64) {
        Arc::make_mut(&mut self.live).resize(size as usize, 0);
        let old = Arc::make_mut(&mut self.old);
        old.retain(|atom, _| atom * ATOM64 < size);
        for (atom, versions) in old {
            let len = (size - atom * ATOM64).min(ATOM64) as usize;
            versions.iter_mut().for_each(|v| v.resize(len, 0));
        }
    }

    /// Whatever was possible of `earlier` is possible here.
    pub fn doubt(&mut self, earlier: &Map) {
        let old = Arc::make_mut(&mut self.old);
        for (atom, versions) in earlier.old.iter() {
            let range = (atom * ATOM64) as usize..((atom + 1) * ATOM64).min(earlier.size()) as usize;
            let known = old.entry(*atom).or_default();
            known.extend(versions.iter().cloned());
            known.push(earlier.live[range].to_vec());
        }
    }

    fn exact(&self, kind: Kind) -> Map {
        Map { kind, live: self.live.clone(), old: Arc::default() }
    }

    /// Compares what was read at `offset`, a multiple of 512, with what may be there.
    pub fn check(&self, offset: u64, seen: &[u8]) -> Result<(), Mismatch> {
        let (from, end) = (offset as usize, offset as usize + seen.len());
        if self.live[from..end] == *seen {
            return Ok(());
        }
        for (i, atom) in seen.chunks(ATOM).enumerate() {
            let at = from + i * ATOM;
            let live = &self.live[at..at + atom.len()];
            let versions = self.old.get(&(at as u64 / ATOM64)).map_or(&[][..], |v| v);
            if live != atom && !versions.iter().any(|v| v == atom) {
                let allowed = std::iter::once(live.to_vec()).chain(versions.iter().cloned()).collect();
                return Err(Mismatch { offset: at as u64, seen: atom.to_vec(), allowed });
            }
        }
        Ok(())
    }

    /// Takes over what was read after a power cut: it is on the disk, so from now on it is the only possibility.
    pub fn adopt(&mut self, offset: u64, seen: &[u8]) {
        if self.live[offset as usize..][..seen.len()] != *seen {
            Arc::make_mut(&mut self.live)[offset as usize..][..seen.len()].copy_from_slice(seen);
        }
    }
}

/// All volumes and snapshots, by name.
pub type State = BTreeMap<String, Map>;

/// What may be found after a power cut: one of `states`, of which the maps named in `optional` may be missing.
#[derive(Clone, Default)]
pub struct Allowed {
    pub states: Vec<State>,
    pub optional: BTreeSet<String>,
}

impl Allowed {
    pub fn just(state: &State) -> Allowed {
        Allowed { states: vec![state.clone()], optional: BTreeSet::new() }
    }
}

/// What an operation does: what a cut may show before it returns, and the state once it has.
pub struct Effect {
    pub during: Allowed,
    pub after: State,
}

/// Bytes from the first to the last of `count` scattered sectors.
fn scattered(count: u64) -> u64 {
    (2 * count).saturating_sub(1) * SECTOR
}

/// The whole sectors inside a range: what a discard frees.
pub fn whole_sectors(offset: u64, len: u64) -> (u64, u64) {
    let first = offset.next_multiple_of(SECTOR);
    let end = (offset + len) / SECTOR * SECTOR;
    (first, end.saturating_sub(first))
}

/// The effect of an operation, or `None` if it makes no sense in this state.
///
/// Reads, checkpoints and background work change nothing. [`Op::Close`] and [`Op::Reopen`] settle the volumes in `open`.
pub fn effect(state: &State, step: &Step, seed: u64, open: &BTreeSet<String>) -> Option<Effect> {
    let mut after = state.clone();
    let fits = |name: &str, offset: u64, len: u64| state.get(name).is_some_and(|m| offset + len <= m.size());
    let writable = |name: &str| state.get(name).is_some_and(|m| m.kind == Kind::Volume);
    let is_snapshot = |name: &str| state.get(name).is_some_and(|m| m.kind == Kind::Snapshot);

    // Unflushed contents: the state after is the one during, unless FUA settles it.
    let written = |name: &str, offset: u64, bytes: &[u8], fua: bool| {
        let mut after = state.clone();
        let map = after.get_mut(name)?;
        map.write(offset, bytes);
        let during = Allowed::just(&after);
        if fua {
            after.get_mut(name)?.settle_range(offset, bytes.len() as u64);
        }
        Some(Effect { during, after })
    };
    // Old or new, nothing between.
    let atomic = |after: State| Effect {
        during: Allowed { states: vec![state.clone(), after.clone()], optional: BTreeSet::new() },
        after,
    };

    match &step.op {
        Op::Create { name, size, .. } => {
            if state.contains_key(name) {
                return None;
            }
            after.insert(name.clone(), Map::new(*size));
            Some(atomic(after))
        }
        Op::Write { name, offset, len, fua } => {
            if !writable(name) || !fits(name, *offset, *len) {
                return None;
            }
            let mut bytes = vec![0; *len as usize];
            fill(seed, step.stamp, *offset, &mut bytes);
            written(name, *offset, &bytes, *fua)
        }
        Op::Zeroes { name, offset, len, fua, .. } => {
            if !writable(name) || !fits(name, *offset, *len) {
                return None;
            }
            written(name, *offset, &vec![0; *len as usize], *fua)
        }
        Op::Scatter { name, offset, count } => {
            if !writable(name) || !fits(name, *offset, scattered(*count)) {
                return None;
            }
            let map = after.get_mut(name)?;
            for at in (0..*count).map(|i| offset + i * 2 * SECTOR) {
                let mut bytes = [0; SECTOR as usize];
                fill(seed, step.stamp, at, &mut bytes);
                map.write(at, &bytes);
            }
            Some(Effect { during: Allowed::just(&after), after })
        }
        Op::Discard { name, offset, len } => {
            if !writable(name) || !fits(name, *offset, *len) {
                return None;
            }
            let (offset, len) = whole_sectors(*offset, *len);
            written(name, offset, &vec![0; len as usize], false)
        }
        Op::Flush { name } | Op::Close { name } => {
            let needs_open = matches!(step.op, Op::Close { .. });
            if !writable(name) || (needs_open && !open.contains(name)) {
                return None;
            }
            after.get_mut(name)?.settle();
            Some(Effect { during: Allowed::just(state), after })
        }
        Op::Reopen => {
            for name in open {
                after.get_mut(name)?.settle();
            }
            Some(Effect { during: Allowed::just(state), after })
        }
        Op::Read { name, offset, len } => {
            fits(name, *offset, *len).then(|| Effect { during: Allowed::just(state), after })
        }
        Op::Checkpoint { name } => writable(name).then(|| Effect { during: Allowed::just(state), after }),
        Op::Background => Some(Effect { during: Allowed::just(state), after }),
        Op::Snapshot { volume, name } => {
            if !writable(volume) || state.contains_key(name) {
                return None;
            }
            after.get_mut(volume)?.settle();
            after.insert(name.clone(), state[volume].exact(Kind::Snapshot));
            Some(atomic(after))
        }
        Op::Clone { snapshot, name, size } => {
            let wanted = size.unwrap_or(0);
            if !is_snapshot(snapshot)
                || state.contains_key(name)
                || (size.is_some() && !fits_size(state, snapshot, wanted))
            {
                return None;
            }
            let mut clone = state[snapshot].exact(Kind::Volume);
            clone.resize(size.unwrap_or(clone.size()));
            after.insert(name.clone(), clone);
            Some(atomic(after))
        }
        Op::CloneMany { snapshot, names } => {
            if !is_snapshot(snapshot) || names.iter().any(|n| state.contains_key(n)) {
                return None;
            }
            for name in names {
                after.insert(name.clone(), state[snapshot].exact(Kind::Volume));
            }
            let during = Allowed { states: vec![after.clone()], optional: names.iter().cloned().collect() };
            Some(Effect { during, after })
        }
        Op::Remove { name } => {
            after.remove(name)?;
            Some(atomic(after))
        }
        Op::Rename { old, new } => {
            if state.contains_key(new) {
                return None;
            }
            let map = after.remove(old)?;
            after.insert(new.clone(), map);
            Some(atomic(after))
        }
        Op::Resize { name, size } => {
            if !writable(name) {
                return None;
            }
            after.get_mut(name)?.resize(*size);
            Some(atomic(after))
        }
    }
}

fn fits_size(state: &State, snapshot: &str, size: u64) -> bool {
    state.get(snapshot).is_some_and(|m| m.size() <= size)
}

/// The sectors that a history writes, cuts off or grows into: where a mistake can show. Neighbouring sectors belong to it.
#[derive(Clone, Default)]
pub struct Touched(BTreeSet<u64>);

impl Touched {
    pub fn add(&mut self, op: &Op) {
        let mut range = |offset: u64, len: u64| {
            self.0.extend((offset / SECTOR).saturating_sub(1)..=(offset + len) / SECTOR + 1);
        };
        match op {
            Op::Write { offset, len, .. } | Op::Zeroes { offset, len, .. } | Op::Discard { offset, len, .. } => {
                range(*offset, *len)
            }
            Op::Scatter { offset, count, .. } => range(*offset, scattered(*count)),
            Op::Create { size, .. } | Op::Resize { size, .. } | Op::Clone { size: Some(size), .. } => range(*size, 0),
            _ => {}
        }
    }

    /// Ranges (offset, length) below `size`, merged.
    pub fn ranges(&self, size: u64) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = vec![];
        for start in self.0.iter().map(|s| s * SECTOR).take_while(|s| *s < size) {
            let len = SECTOR.min(size - start);
            match ranges.last_mut() {
                Some(last) if last.0 + last.1 == start => last.1 += len,
                _ => ranges.push((start, len)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: u8) -> Vec<u8> {
        vec![bytes; ATOM]
    }

    #[test]
    fn an_unflushed_atom_may_be_any_version_since_the_flush_and_nothing_else() {
        let mut map = Map::new(4 * ATOM64);
        map.write(0, &one(1));
        map.settle();
        map.write(0, &one(2));
        map.write(0, &one(3));
        for (version, good) in [(0, false), (1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(map.check(0, &one(version)).is_ok(), good, "{version}");
        }
        assert!(map.check(ATOM64, &one(0)).is_ok());
        assert!(map.check(ATOM64, &one(1)).is_err());
    }

    #[test]
    fn fua_settles_its_own_atoms_only() {
        let state = State::from([("volume".to_string(), Map::new(8 * ATOM64))]);
        let zero = |seed, stamp| {
            let mut bytes = one(0);
            fill(seed, stamp, u64::from(stamp - 1) * ATOM64, &mut bytes);
            bytes == one(0)
        };
        let seed = (0..).find(|seed| !zero(*seed, 1) && !zero(*seed, 2)).unwrap();
        let open = BTreeSet::new();
        let write =
            |stamp, offset, fua| Step { stamp, op: Op::Write { name: "volume".into(), offset, len: ATOM64, fua } };
        let first = effect(&state, &write(1, 0, false), seed, &open).unwrap().after;
        let second = effect(&first, &write(2, ATOM64, true), seed, &open).unwrap();
        assert_ne!(second.after["volume"].live[ATOM..2 * ATOM], one(0));
        assert!(second.during.states[0]["volume"].check(ATOM64, &one(0)).is_ok());
        assert!(second.after["volume"].check(ATOM64, &one(0)).is_err());
        assert!(second.after["volume"].check(0, &one(0)).is_ok());
    }

    #[test]
    fn what_was_cut_off_never_comes_back() {
        let mut map = Map::new(2 * ATOM64);
        map.write(0, &[7; 2 * ATOM]);
        map.resize(100);
        map.resize(2 * ATOM64);
        let mut left = one(0);
        left[..100].fill(7);
        assert!(map.check(0, &left).is_ok());
        assert!(map.check(0, &one(0)).is_ok(), "the write before was not flushed");
        assert!(map.check(0, &one(7)).is_err());
        assert!(map.check(ATOM64, &one(7)).is_err());
    }
}
