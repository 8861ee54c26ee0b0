//! The plain reference: what a store holds, and what a power cut or a killed process may leave of it.
//!
//! Contents are pages, copied when written. Beside them stand, for each atom of 512 bytes that was written since the last flush, the
//! contents that it had since that flush: a power cut may bring back any of them, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use archipelago_core::limits::{ATOM, SECTOR};
use archipelago_core::{Digest, Kind};

use crate::history::{BLOCK, Op, Step, fill, scattered, twin};

const ATOM64: u64 = ATOM as u64;
/// Bytes of a page of the reference.
pub const PAGE: usize = 4096;

/// Maps up to this size are always looked at whole.
const WHOLE: u64 = 2 << 20;
/// Bytes between two places that are read with them rather than left out.
const NEAR: u64 = 16 << 10;

/// What a page that was never written holds.
static ZEROS: [u8; PAGE] = [0; PAGE];

type Page = Arc<[u8; PAGE]>;
type Atom = Arc<[u8; ATOM]>;
/// Contents that atoms had, by atom number.
type Versions = BTreeMap<u64, Vec<Atom>>;

/// What has gone wrong before a read, and so what else may be found than what was written last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// Nothing.
    Nothing,
    /// The process that wrote was killed, or gave the volume up with an error, and no sync had failed: what it answered is there, and what it
    /// was doing is done or not, atom by atom.
    Kill,
    /// A sync may have failed before that: any version since the flush. `lost`: what it dropped is still seen, and never written.
    Death { lost: bool },
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

    /// The bytes of a range page by page, each with its place in the range.
    fn pieces(&self, offset: u64, len: u64) -> impl Iterator<Item = (usize, &[u8])> {
        let (mut at, end) = (offset, offset + len);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (page, from) = ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize);
            let n = (PAGE - from).min((end - at) as usize);
            let place = (at - offset) as usize;
            at += n as u64;
            Some((place, self.pages[page].as_ref().map_or(&ZEROS[..n], |bytes| &bytes[from..from + n])))
        })
    }

    /// What a read returns.
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(len as usize);
        self.pieces(offset, len).for_each(|(_, piece)| out.extend_from_slice(piece));
        out
    }

    /// Whether a read returns these bytes.
    pub fn holds(&self, offset: u64, bytes: &[u8]) -> bool {
        self.pieces(offset, bytes.len() as u64).all(|(place, piece)| bytes[place..place + piece.len()] == *piece)
    }

    /// Whether a range reads as zeros.
    pub fn is_zero(&self, offset: u64, len: u64) -> bool {
        self.pieces(offset, len)
            .all(|(_, piece)| std::ptr::eq(piece.as_ptr(), ZEROS.as_ptr()) || *piece == ZEROS[..piece.len()])
    }

    /// Bytes in sectors that are not all zeros.
    pub fn data(&self) -> u64 {
        let sectors = (0..self.size).step_by(SECTOR as usize).map(|at| (at, SECTOR.min(self.size - at)));
        sectors.filter(|(at, len)| !self.is_zero(*at, *len)).map(|(_, len)| len).sum()
    }

    /// Whether both read the same from `from` to `to`; what is past the end of `other` counts as zeros.
    pub fn agrees(&self, other: &Map, from: u64, to: u64) -> bool {
        let mut at = from;
        while at < to {
            let (page, start) = ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize);
            let end = PAGE.min(start + (to - at) as usize);
            let differ = match (&self.pages[page], other.pages.get(page).and_then(Option::as_ref)) {
                (None, None) => false,
                (Some(a), Some(b)) => !Arc::ptr_eq(a, b) && a[start..end] != b[start..end],
                (Some(one), None) | (None, Some(one)) => one[start..end] != ZEROS[start..end],
            };
            if differ {
                return false;
            }
            at += (end - start) as u64;
        }
        true
    }

    /// Whether both have the same bytes, for certain.
    pub fn shares_all(&self, other: &Map) -> bool {
        Arc::ptr_eq(&self.pages, &other.pages)
    }

    /// The top hash that a snapshot with these bytes has, by its definition.
    pub fn top_hash(&self) -> Digest {
        let digest = |block: u64| {
            let offset = block * self.block;
            let mut bytes = self.read(offset, self.block.min(self.size - offset));
            while bytes.len() >= PAGE && bytes[bytes.len() - PAGE..] == ZEROS {
                bytes.truncate(bytes.len() - PAGE);
            }
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

    /// Puts bytes without remembering what was there.
    fn put(&mut self, offset: u64, bytes: &[u8]) {
        // Most of what is found after a cut is what was there.
        if self.holds(offset, bytes) {
            return;
        }
        let pages = Arc::make_mut(&mut self.pages);
        let mut at = offset;
        let end = offset + bytes.len() as u64;
        while at < end {
            let (page, from) = ((at / PAGE as u64) as usize, (at % PAGE as u64) as usize);
            let n = (PAGE - from).min((end - at) as usize);
            let piece = &bytes[(at - offset) as usize..][..n];
            let same = pages[page].as_ref().map_or(&ZEROS[..n], |bytes| &bytes[from..from + n]) == piece;
            if !same {
                let bytes = pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(bytes)[from..from + n].copy_from_slice(piece);
            }
            at += n as u64;
        }
    }

    /// Whole atoms from the one at `first`, a multiple of 512; behind the end they are zeros.
    fn atoms(&self, first: u64, len: u64) -> Vec<u8> {
        let stored = (self.pages.len() * PAGE) as u64;
        let mut bytes = self.read(first, len.min(stored - first));
        bytes.resize(len as usize, 0);
        bytes
    }

    /// Bytes are written and not flushed: each atom is old or new.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let first = offset / ATOM64;
        let len = (offset + bytes.len() as u64).next_multiple_of(ATOM64) - first * ATOM64;
        let before = self.atoms(first * ATOM64, len);
        self.put(offset, bytes);
        let now = self.atoms(first * ATOM64, len);
        for (atom, (was, is)) in (first..).zip(before.chunks_exact(ATOM).zip(now.chunks_exact(ATOM))) {
            if is != was {
                let versions = Arc::make_mut(&mut self.old).entry(atom).or_default();
                if !versions.iter().any(|version| version[..] == *was) {
                    versions.push(Arc::new(was.try_into().expect("a chunk is an atom")));
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

    /// Whether a cut may change what is read.
    pub fn is_in_doubt(&self) -> bool {
        !self.old.is_empty() || !self.sticky.is_empty()
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
        if self.size <= WHOLE { vec![(0, self.size)] } else { self.ranges(&self.marks()) }
    }

    /// For each page whether something was ever written there; the last one too, for there is the end.
    pub fn marks(&self) -> Vec<bool> {
        let mut marks: Vec<bool> = self.pages.iter().map(Option::is_some).collect();
        for atom in self.old.keys().chain(self.sticky.keys()) {
            marks[(atom * ATOM64) as usize / PAGE] = true;
        }
        marks.last_mut().into_iter().for_each(|last| *last = true);
        marks
    }

    /// Ranges (offset, length) of marked pages, those near each other merged.
    pub fn ranges(&self, marks: &[bool]) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = vec![];
        for start in (0..).zip(marks).filter(|(_, marked)| **marked).map(|(page, _)| page * PAGE as u64) {
            let end = self.size.min(start + PAGE as u64);
            match ranges.last_mut() {
                Some((first, len)) if start - (*first + *len) <= NEAR => *len = end - *first,
                _ => ranges.push((start, end - start)),
            }
        }
        ranges
    }

    /// Compares what was read at `offset`, a multiple of 512 unless nothing has gone wrong. After a kill an atom may also be as in `others`.
    pub fn check_range(&self, offset: u64, seen: &[u8], after: After, others: &[&Map]) -> Result<(), Mismatch> {
        for (place, piece) in self.pieces(offset, seen.len() as u64) {
            let found = &seen[place..place + piece.len()];
            if found != piece {
                self.check_atoms(offset + place as u64, found, piece, after, others)?;
            }
        }
        Ok(())
    }

    /// [`Map::check_range`] where what was read is not what was written last, `expected`.
    fn check_atoms(
        &self,
        offset: u64,
        seen: &[u8],
        expected: &[u8],
        after: After,
        others: &[&Map],
    ) -> Result<(), Mismatch> {
        for (i, (atom, live)) in seen.chunks(ATOM).zip(expected.chunks(ATOM)).enumerate() {
            if atom == live {
                continue;
            }
            let at = offset + (i * ATOM) as u64;
            let number = at / ATOM64;
            if after == After::Kill && others.iter().any(|other| other.size == self.size && other.holds(at, atom)) {
                continue;
            }
            let old = self.old.get(&number).filter(|_| matches!(after, After::Death { .. } | After::Cut));
            let sticky = self.sticky.get(&number).filter(|_| after == After::Cut);
            let versions: Vec<&[u8]> = old.into_iter().chain(sticky).flatten().map(|v| &v[..atom.len()]).collect();
            if !versions.contains(&atom) {
                let allowed = std::iter::once(live).chain(versions).map(<[u8]>::to_vec).collect();
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
            After::Kill | After::Death { .. } => {
                let sticky = self.sticky.clone();
                for (offset, bytes) in seen {
                    if !self.holds(*offset, bytes) {
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

/// All volumes and snapshots, by name. Cheap to clone: what is not changed is shared.
#[derive(Clone, Default)]
pub struct State(Arc<BTreeMap<String, Map>>);

impl std::ops::Deref for State {
    type Target = BTreeMap<String, Map>;

    fn deref(&self) -> &BTreeMap<String, Map> {
        &self.0
    }
}

impl std::ops::DerefMut for State {
    fn deref_mut(&mut self) -> &mut BTreeMap<String, Map> {
        Arc::make_mut(&mut self.0)
    }
}

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
        Op::Twin { name, offset, count, content } => {
            if !writable(name) || !fits(name, *offset, *count * BLOCK) {
                return None;
            }
            let bytes = twin(seed, *content).repeat(*count as usize);
            changed(name, &|m| m.write(*offset, &bytes), false)
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
        // What a failed sync dropped is seen until the power is cut. A checksum of that is one of something that was never
        // stored; the real backend looks past the page cache, as far as the system lets it.
        Op::Scrub => state.values().all(|map| map.sticky.is_empty()).then(nothing),
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
        map.check_range(0, &one(byte), after, &[]).is_ok()
    }

    #[test]
    fn an_unflushed_atom_may_be_any_version_since_the_flush_and_nothing_else() {
        let mut map = Map::new(4 * ATOM64, 0);
        map.write(0, &one(1));
        map.settle();
        map.write(0, &one(2));
        map.write(0, &one(3));
        for (version, good) in [(0, false), (1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(can_be(&map, version, After::Death { lost: false }), good, "{version}");
            assert_eq!(can_be(&map, version, After::Kill), version == 3, "{version}");
            assert_eq!(can_be(&map, version, After::Cut), good, "{version}");
            assert_eq!(can_be(&map, version, After::Nothing), version == 3, "{version}");
        }
        assert!(map.check_range(ATOM64, &one(1), After::Cut, &[]).is_err());
    }

    #[test]
    fn what_a_failed_sync_dropped_is_at_risk_until_it_is_written_again_and_flushed() {
        let mut map = Map::new(4 * ATOM64, 0);
        map.write(0, &one(1));
        map.lose();
        map.settle();
        assert!(can_be(&map, 0, After::Cut) && !can_be(&map, 0, After::Death { lost: true }));
        map.write(0, &one(2));
        assert!(can_be(&map, 0, After::Cut) && can_be(&map, 1, After::Cut));
        map.settle();
        assert!(can_be(&map, 2, After::Cut) && !can_be(&map, 0, After::Cut) && !can_be(&map, 1, After::Cut));
    }

    #[test]
    fn what_was_found_after_a_death_is_what_is_read_and_the_rest_is_at_risk_until_a_flush() {
        let mut map = Map::new(ATOM64, 0);
        map.write(0, &one(1));
        map.adopt(&[(0, one(0))], After::Death { lost: false });
        assert!(can_be(&map, 0, After::Nothing) && !can_be(&map, 1, After::Nothing) && can_be(&map, 1, After::Cut));
        map.settle();
        assert!(!can_be(&map, 1, After::Cut));
    }

    #[test]
    fn after_a_kill_an_atom_is_what_was_answered_or_what_was_being_done() {
        let mut before = Map::new(4 * ATOM64, 0);
        before.write(0, &[1; 2 * ATOM]);
        let mut after = before.clone();
        after.write(0, &one(2));
        let others = [&before, &after];
        for (atom, byte, good) in
            [(0, 0, false), (0, 1, true), (0, 2, true), (1, 0, false), (1, 1, true), (1, 2, false)]
        {
            let found = after.check_range(atom * ATOM64, &one(byte), After::Kill, &others);
            assert_eq!(found.is_ok(), good, "{atom} {byte}");
        }
    }

    #[test]
    fn what_was_cut_off_never_comes_back() {
        let mut map = Map::new(2 * ATOM64, 0);
        map.write(0, &[7; 2 * ATOM]);
        map.resize(100);
        map.resize(2 * ATOM64);
        let mut left = one(0);
        left[..100].fill(7);
        assert!(map.check_range(0, &left, After::Nothing, &[]).is_ok());
        assert!(can_be(&map, 0, After::Cut), "the write before was not flushed");
        assert!(!can_be(&map, 7, After::Cut));
        assert!(map.check_range(ATOM64, &one(7), After::Cut, &[]).is_err());
    }
}
