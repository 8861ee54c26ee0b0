//! The plain reference: what a store holds, and what a power cut or a killed process may leave of it.
//!
//! Contents are pages, copied when written. Beside them stand, for each atom of 512 bytes that was written since the last flush, the
//! contents that it had since that flush: a power cut may bring back any of them, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use archipelago_core::limits::{ATOM, SECTOR};
use archipelago_core::{Digest, Kind};

use crate::history::{Op, Step, fill, scattered};

const ATOM64: u64 = ATOM as u64;
const PAGE: usize = 4096;

/// Maps up to this size are always looked at whole.
const WHOLE: u64 = 2 << 20;

type Page = Arc<[u8; PAGE]>;
type Atom = Arc<[u8; ATOM]>;
/// Contents that atoms had, by atom number.
type Versions = BTreeMap<u64, Vec<Atom>>;

/// What has gone wrong before a read, and so what else may be found than what was written last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// Nothing.
    Nothing,
    /// The process that wrote was killed, or gave the volume up with an error: any version since the flush.
    Death,
    /// The power was cut: also what a failed sync has dropped.
    Cut,
}

/// One volume or snapshot. Cheap to clone: states share what did not change.
#[derive(Clone)]
pub struct Map {
    pub kind: Kind,
    pub size: u64,
    pub block: u64,
    /// `None` is a page of zeros.
    pages: Arc<Vec<Option<Page>>>,
    /// Earlier contents of atoms that the next flush rules out.
    old: Arc<Versions>,
    /// Earlier contents that no flush rules out, only writing the atom again: a failed sync dropped what replaced them,
    /// and whoever reads it until the power is cut reads the page cache.
    sticky: Arc<Versions>,
}

/// An atom that holds what it must not.
#[derive(Debug)]
pub struct Mismatch {
    pub offset: u64,
    pub seen: Vec<u8>,
    pub allowed: Vec<Vec<u8>>,
}

impl Map {
    fn new(size: u64, block: u64) -> Map {
        let pages = Arc::new(vec![None; size.div_ceil(PAGE as u64) as usize]);
        Map { kind: Kind::Volume, size, block, pages, old: Arc::default(), sticky: Arc::default() }
    }

    /// What a read returns.
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut out = vec![0; len as usize];
        let mut at = offset;
        while at < offset + len {
            let (page, from) = ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize);
            let n = (PAGE - from).min((offset + len - at) as usize);
            if let Some(bytes) = &self.pages[page] {
                out[(at - offset) as usize..][..n].copy_from_slice(&bytes[from..from + n]);
            }
            at += n as u64;
        }
        out
    }

    /// Whether a range reads as zeros.
    pub fn is_zero(&self, offset: u64, len: u64) -> bool {
        self.read(offset, len).iter().all(|b| *b == 0)
    }

    /// The top hash that a snapshot with these bytes has, by its definition.
    pub fn top_hash(&self) -> Digest {
        let digest = |block: u64| {
            let offset = block * self.block;
            let mut bytes = self.read(offset, self.block.min(self.size - offset));
            bytes.truncate(bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1));
            Digest::of_bytes(&bytes)
        };
        let mut level: Vec<Digest> = (0..self.size.div_ceil(self.block)).map(digest).collect();
        level.resize(level.len().next_power_of_two(), Digest([0; 32]));
        while level.len() > 1 {
            level = level.chunks(2).map(|pair| Digest::of_bytes(&[pair[0].0, pair[1].0].concat())).collect();
        }
        level[0]
    }

    fn atom(&self, atom: u64) -> Atom {
        let mut out = [0; ATOM];
        let at = atom * ATOM64;
        if let Some(Some(page)) = self.pages.get((at / PAGE as u64) as usize) {
            let from = (at % PAGE as u64) as usize;
            out.copy_from_slice(&page[from..from + ATOM]);
        }
        Arc::new(out)
    }

    /// Puts bytes without remembering what was there.
    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let pages = Arc::make_mut(&mut self.pages);
        let mut at = offset;
        let end = offset + bytes.len() as u64;
        while at < end {
            let (page, from) = ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize);
            let n = (PAGE - from).min((end - at) as usize);
            let piece = &bytes[(at - offset) as usize..][..n];
            if pages[page].is_some() || piece.iter().any(|b| *b != 0) {
                let bytes = pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(bytes)[from..from + n].copy_from_slice(piece);
            }
            at += n as u64;
        }
    }

    /// Bytes are written and not flushed: each atom is old or new.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        let atoms = offset / ATOM64..end.div_ceil(ATOM64);
        let before: Vec<Atom> = atoms.clone().map(|a| self.atom(a)).collect();
        self.put(offset, bytes);
        for (atom, was) in atoms.zip(before) {
            if self.atom(atom) != was {
                let versions = Arc::make_mut(&mut self.old).entry(atom).or_default();
                if !versions.contains(&was) {
                    versions.push(was);
                }
                // Written again, so that the next flush writes it.
                if self.sticky.contains_key(&atom)
                    && let Some(more) = Arc::make_mut(&mut self.sticky).remove(&atom)
                {
                    versions.extend(more);
                }
            }
        }
    }

    /// Everything written is durable.
    pub fn settle(&mut self) {
        self.old = Arc::default();
    }

    /// A sync failed: what it should have written is seen, and will never be written.
    pub fn lose(&mut self) {
        if self.old.is_empty() {
            return;
        }
        let sticky = Arc::make_mut(&mut self.sticky);
        for (atom, versions) in self.old.iter() {
            sticky.entry(*atom).or_default().extend(versions.iter().cloned());
        }
    }

    /// Bytes past a smaller size are gone for good; a larger one adds zeros.
    fn resize(&mut self, size: u64) {
        if size < self.size {
            let pages = Arc::make_mut(&mut self.pages);
            pages.truncate(size.div_ceil(PAGE as u64) as usize);
            let tail = (size % PAGE as u64) as usize;
            if tail != 0
                && let Some(Some(page)) = pages.last_mut()
            {
                Arc::make_mut(page)[tail..].fill(0);
            }
            for versions in [&mut self.old, &mut self.sticky] {
                let versions = Arc::make_mut(versions);
                versions.retain(|atom, _| atom * ATOM64 < size);
                let last = size / ATOM64;
                for version in versions.get_mut(&last).into_iter().flatten() {
                    Arc::make_mut(version)[(size % ATOM64) as usize..].fill(0);
                }
            }
        }
        Arc::make_mut(&mut self.pages).resize(size.div_ceil(PAGE as u64) as usize, None);
        self.size = size;
    }

    fn exact(&self, kind: Kind) -> Map {
        Map { kind, old: Arc::default(), ..self.clone() }
    }

    /// Ranges (offset, length) in which something was ever written, merged; all of a small map.
    pub fn written(&self) -> Vec<(u64, u64)> {
        if self.size <= WHOLE {
            return vec![(0, self.size)];
        }
        let page = PAGE as u64;
        let pages = self.pages.iter().enumerate().filter(|(_, p)| p.is_some()).map(|(i, _)| i as u64);
        let atoms = self.old.keys().chain(self.sticky.keys()).map(|atom| atom * ATOM64 / page);
        // The last page too: there is the end.
        let all: BTreeSet<u64> = pages.chain(atoms).chain([(self.size - 1) / page]).collect();
        let mut ranges: Vec<(u64, u64)> = vec![];
        for start in all.into_iter().map(|p| p * page) {
            let len = page.min(self.size - start);
            match ranges.last_mut() {
                Some(last) if last.0 + last.1 == start => last.1 += len,
                _ => ranges.push((start, len)),
            }
        }
        ranges
    }

    /// Compares what was read at `offset`, a multiple of 512 unless nothing has gone wrong.
    pub fn check_range(&self, offset: u64, seen: &[u8], after: After) -> Result<(), Mismatch> {
        let expected = self.read(offset, seen.len() as u64);
        if expected == seen {
            return Ok(());
        }
        for (i, (atom, live)) in seen.chunks(ATOM).zip(expected.chunks(ATOM)).enumerate() {
            if atom == live {
                continue;
            }
            let at = offset + (i * ATOM) as u64;
            let number = at / ATOM64;
            let old = self.old.get(&number).filter(|_| after != After::Nothing);
            let sticky = self.sticky.get(&number).filter(|_| after == After::Cut);
            let others: Vec<&[u8]> = old.into_iter().chain(sticky).flatten().map(|v| &v[..atom.len()]).collect();
            if !others.contains(&atom) {
                let allowed = std::iter::once(live).chain(others).map(<[u8]>::to_vec).collect();
                return Err(Mismatch { offset: at, seen: atom.to_vec(), allowed });
            }
        }
        Ok(())
    }

    /// Takes over what was read after a cut or a death. After a cut it is on the disk, and the only possibility; after a
    /// death it is what readers see, and the rest is still at risk.
    pub fn adopt(&mut self, seen: &[(u64, Vec<u8>)], after: After) {
        match after {
            After::Nothing => {}
            After::Death => {
                let sticky = self.sticky.clone();
                for (offset, bytes) in seen {
                    if self.read(*offset, bytes.len() as u64) != *bytes {
                        self.write(*offset, bytes);
                    }
                }
                self.sticky = sticky;
            }
            After::Cut => {
                seen.iter().for_each(|(offset, bytes)| self.put(*offset, bytes));
                self.old = Arc::default();
                self.sticky = Arc::default();
            }
        }
    }
}

/// All volumes and snapshots, by name.
pub type State = BTreeMap<String, Map>;

/// What may be found: one of `states`, of which the maps named in `optional` may be missing.
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

/// What an operation does: what may show before it returns, and the state once it has.
pub struct Effect {
    pub during: Allowed,
    pub after: State,
}

/// The whole sectors inside a range: what a discard frees.
pub fn whole_sectors(offset: u64, len: u64) -> (u64, u64) {
    let first = offset.next_multiple_of(SECTOR);
    let end = (offset + len) / SECTOR * SECTOR;
    (first, end.saturating_sub(first))
}

/// The effect of an operation, or `None` if it makes no sense in this state. `open` are the volumes that its process has open for writing.
pub fn effect(state: &State, step: &Step, seed: u64, open: &BTreeSet<String>) -> Option<Effect> {
    let fits = |name: &str, offset: u64, len: u64| state.get(name).is_some_and(|m| offset + len <= m.size);
    let writable = |name: &str| state.get(name).is_some_and(|m| m.kind == Kind::Volume);
    let is_snapshot = |name: &str| state.get(name).is_some_and(|m| m.kind == Kind::Snapshot);
    let nothing = || Effect { during: Allowed::just(state), after: state.clone() };

    // Unflushed contents: the state after is the one during, unless FUA settles it, and all that was written before.
    let changed = |name: &str, change: &dyn Fn(&mut Map), fua: bool| {
        let mut after = state.clone();
        change(after.get_mut(name)?);
        let during = Allowed::just(&after);
        if fua {
            after.get_mut(name)?.settle();
        }
        Some(Effect { during, after })
    };
    let settled = |names: &mut dyn Iterator<Item = &String>| {
        let mut after = state.clone();
        names.for_each(|name| {
            if let Some(map) = after.get_mut(name) {
                map.settle();
            }
        });
        Effect { during: Allowed::just(state), after }
    };
    // Old or new, nothing between.
    let atomic = |change: &dyn Fn(&mut State)| {
        let mut after = state.clone();
        change(&mut after);
        let during = Allowed { states: vec![state.clone(), after.clone()], optional: BTreeSet::new() };
        Some(Effect { during, after })
    };

    match &step.op {
        Op::Create { name, size, block } => {
            if state.contains_key(name) {
                return None;
            }
            atomic(&|s| drop(s.insert(name.clone(), Map::new(*size, *block))))
        }
        Op::Write { name, offset, len, fua } => {
            if !writable(name) || !fits(name, *offset, *len) {
                return None;
            }
            let mut bytes = vec![0; *len as usize];
            fill(seed, step.stamp, *offset, &mut bytes);
            changed(name, &|m| m.write(*offset, &bytes), *fua)
        }
        Op::Zeroes { name, offset, len, fua, .. } => {
            if !writable(name) || !fits(name, *offset, *len) {
                return None;
            }
            changed(name, &|m| m.write(*offset, &vec![0; *len as usize]), *fua)
        }
        Op::Scatter { name, offset, count } => {
            if !writable(name) || !fits(name, *offset, scattered(*count)) {
                return None;
            }
            let all = |m: &mut Map| {
                for at in (0..*count).map(|i| offset + i * 2 * SECTOR) {
                    let mut bytes = [0; SECTOR as usize];
                    fill(seed, step.stamp, at, &mut bytes);
                    m.write(at, &bytes);
                }
            };
            changed(name, &all, false)
        }
        Op::Discard { name, offset, len } => {
            if !writable(name) || !fits(name, *offset, *len) {
                return None;
            }
            let (offset, len) = whole_sectors(*offset, *len);
            changed(name, &|m| m.write(offset, &vec![0; len as usize]), false)
        }
        Op::Flush { name } => writable(name).then(|| settled(&mut [name].into_iter())),
        Op::Close { name } => open.contains(name).then(|| settled(&mut [name].into_iter())),
        Op::Exit => Some(settled(&mut open.iter())),
        Op::Read { name, offset, len } => fits(name, *offset, *len).then(nothing),
        Op::Checkpoint { name } | Op::Compact { name, .. } | Op::Open { name } => writable(name).then(nothing),
        Op::Reader { name } | Op::Hash { name } => is_snapshot(name).then(nothing),
        Op::Audit { name, other } => (state.contains_key(name) && state.contains_key(other)).then(nothing),
        Op::ReadKept | Op::Background | Op::List | Op::Check | Op::Collect => Some(nothing()),
        Op::Kill | Op::Pause | Op::Wake | Op::Full { .. } | Op::Room => Some(nothing()),
        Op::Snapshot { volume, name } => {
            if !writable(volume) || state.contains_key(name) {
                return None;
            }
            atomic(&|s| {
                s.insert(name.clone(), state[volume].exact(Kind::Snapshot));
                s.get_mut(volume).into_iter().for_each(Map::settle);
            })
        }
        Op::Group { members } => {
            if members.iter().any(|(volume, name)| !writable(volume) || state.contains_key(name)) {
                return None;
            }
            atomic(&|s| {
                for (volume, name) in members {
                    s.insert(name.clone(), state[volume].exact(Kind::Snapshot));
                    s.get_mut(volume).into_iter().for_each(Map::settle);
                }
            })
        }
        Op::Clone { snapshot, name, size } => {
            if !is_snapshot(snapshot)
                || state.contains_key(name)
                || size.is_some_and(|size| size < state[snapshot].size)
            {
                return None;
            }
            let mut clone = state[snapshot].exact(Kind::Volume);
            clone.resize(size.unwrap_or(clone.size));
            atomic(&|s| drop(s.insert(name.clone(), clone.clone())))
        }
        Op::CloneMany { snapshot, names } => {
            if !is_snapshot(snapshot) || names.iter().any(|n| state.contains_key(n)) {
                return None;
            }
            let mut after = state.clone();
            for name in names {
                after.insert(name.clone(), state[snapshot].exact(Kind::Volume));
            }
            let during = Allowed { states: vec![after.clone()], optional: names.iter().cloned().collect() };
            Some(Effect { during, after })
        }
        Op::Copy { snapshot, from, name } => {
            // A base must have the same block size, and a stream that builds on itself would be empty.
            let fits =
                |from: &String| is_snapshot(from) && from != snapshot && state[from].block == state[snapshot].block;
            if !is_snapshot(snapshot) || state.contains_key(name) || !from.as_ref().is_none_or(fits) {
                return None;
            }
            atomic(&|s| drop(s.insert(name.clone(), state[snapshot].exact(Kind::Snapshot))))
        }
        Op::Remove { name } => {
            state.get(name)?;
            atomic(&|s| drop(s.remove(name)))
        }
        Op::Rename { old, new } => {
            let map = state.get(old)?;
            if state.contains_key(new) {
                return None;
            }
            atomic(&|s| {
                s.remove(old);
                s.insert(new.clone(), map.clone());
            })
        }
        Op::Resize { name, size } => {
            if !writable(name) {
                return None;
            }
            atomic(&|s| s.get_mut(name).into_iter().for_each(|m| m.resize(*size)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(byte: u8) -> Vec<u8> {
        vec![byte; ATOM]
    }

    fn can_be(map: &Map, byte: u8, after: After) -> bool {
        map.check_range(0, &one(byte), after).is_ok()
    }

    #[test]
    fn an_unflushed_atom_may_be_any_version_since_the_flush_and_nothing_else() {
        let mut map = Map::new(4 * ATOM64, 0);
        map.write(0, &one(1));
        map.settle();
        map.write(0, &one(2));
        map.write(0, &one(3));
        for (version, good) in [(0, false), (1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(can_be(&map, version, After::Death), good, "{version}");
            assert_eq!(can_be(&map, version, After::Cut), good, "{version}");
            assert_eq!(can_be(&map, version, After::Nothing), version == 3, "{version}");
        }
        assert!(map.check_range(ATOM64, &one(1), After::Cut).is_err());
    }

    #[test]
    fn what_a_failed_sync_dropped_is_at_risk_until_it_is_written_again_and_flushed() {
        let mut map = Map::new(4 * ATOM64, 0);
        map.write(0, &one(1));
        map.lose();
        map.settle();
        assert!(can_be(&map, 0, After::Cut) && !can_be(&map, 0, After::Death));
        map.write(0, &one(2));
        assert!(can_be(&map, 0, After::Cut) && can_be(&map, 1, After::Cut));
        map.settle();
        assert!(can_be(&map, 2, After::Cut) && !can_be(&map, 0, After::Cut) && !can_be(&map, 1, After::Cut));
    }

    #[test]
    fn what_was_found_after_a_death_is_what_is_read_and_the_rest_is_at_risk_until_a_flush() {
        let mut map = Map::new(ATOM64, 0);
        map.write(0, &one(1));
        map.adopt(&[(0, one(0))], After::Death);
        assert!(can_be(&map, 0, After::Nothing) && !can_be(&map, 1, After::Nothing) && can_be(&map, 1, After::Cut));
        map.settle();
        assert!(!can_be(&map, 1, After::Cut));
    }

    #[test]
    fn what_was_cut_off_never_comes_back() {
        let mut map = Map::new(2 * ATOM64, 0);
        map.write(0, &[7; 2 * ATOM]);
        map.resize(100);
        map.resize(2 * ATOM64);
        let mut left = one(0);
        left[..100].fill(7);
        assert!(map.check_range(0, &left, After::Nothing).is_ok());
        assert!(can_be(&map, 0, After::Cut), "the write before was not flushed");
        assert!(!can_be(&map, 7, After::Cut));
        assert!(map.check_range(ATOM64, &one(7), After::Cut).is_err());
    }
}
