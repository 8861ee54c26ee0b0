//! Looks at a store after something went wrong: what is there must be what the reference allows.

use std::collections::{BTreeMap, BTreeSet};

use archipelago_core::limits::ATOM;
use archipelago_core::{Kind, Mode, Store, Volume};

use crate::history::mix;
use crate::model::{After, Allowed, Map, Mismatch, PAGE, State};
use crate::perform::{Done, Trouble, pages};
use crate::world::World;

/// Of so many looks at a map one reads all of it, also what should never have been written.
const WHOLE_LOOKS: u64 = 8;
/// Buffers that are kept for the next look.
const MAX_BUFFERS: usize = 16;

/// What a listing says of each map.
pub type Listed = BTreeMap<String, (Kind, u64)>;

/// Lists with pages of `limit` entries.
pub fn list(store: &Store, limit: u64) -> Done<Listed> {
    let mut listed = Listed::new();
    for (name, kind, size) in pages(store, limit)? {
        if listed.insert(name.clone(), (kind, size)).is_some() {
            return Err(Trouble::Wrong(format!("{name} is listed twice")));
        }
    }
    Ok(listed)
}

/// Names, kinds and sizes.
pub fn shape(state: &State) -> Listed {
    state.iter().map(|(name, map)| (name.clone(), (map.kind, map.size))).collect()
}

/// The state, without the optional maps that are not listed, if it has just the maps that are.
fn agree(state: &State, allowed: &Allowed, listed: &Listed) -> Option<State> {
    let mut state = state.clone();
    if !allowed.optional.is_empty() {
        state.retain(|name, _| listed.contains_key(name) || !allowed.optional.contains(name));
    }
    (shape(&state) == *listed).then_some(state)
}

/// What is wrong with an atom, in one line.
pub fn describe(name: &str, map: &Map, m: &Mismatch) -> String {
    // Where the atom begins to differ from what was written last.
    let differs = m.allowed.first().and_then(|live| m.seen.iter().zip(live).position(|(a, b)| a != b));
    let start = differs.unwrap_or(0) / 16 * 16;
    let show = |bytes: &[u8]| -> String {
        if bytes.iter().all(|b| *b == 0) {
            return "zeros".to_string();
        }
        bytes.iter().skip(start).take(16).map(|b| format!("{b:02x}")).collect()
    };
    let allowed: Vec<String> = m.allowed.iter().map(|a| show(a)).collect();
    format!(
        "{name} ({:?}): in the {ATOM} bytes at {}, from byte {} on: {}, allowed {}",
        map.kind,
        m.offset,
        m.offset + start as u64,
        show(&m.seen),
        allowed.join(" or ")
    )
}

impl World {
    /// Opens what was left and compares it with what may be there; returns the state that it is, with what was read.
    /// `look`: only these maps and those in which the states differ. Volumes are opened for writing by chance, and stay open.
    pub fn examine(
        &mut self,
        p: usize,
        allowed: &Allowed,
        after: After,
        look: Option<&BTreeSet<String>>,
    ) -> Done<State> {
        let store = self.process(p)?.store.clone();
        let limit = if self.rng.one_in(4) { 1 + self.rng.below(3) } else { 0 };
        let listed = list(&store, limit)?;
        let candidates: Vec<State> = allowed.states.iter().filter_map(|s| agree(s, allowed, &listed)).collect();
        let Some(first) = candidates.first() else {
            let wanted: Vec<_> = allowed.states.iter().map(shape).collect();
            let text = format!("the store lists {listed:?}, allowed is one of {wanted:?}");
            return Err(Trouble::Wrong(text));
        };
        let same = allowed.states.len() == 1 && allowed.optional.is_empty();
        let names: Vec<String> = first
            .keys()
            .filter(|name| {
                look.is_none_or(|look| {
                    look.contains(*name) || !same && !allowed.states.iter().all(|s| s.contains_key(*name))
                })
            })
            .cloned()
            .collect();
        let mut seen = BTreeMap::new();
        for name in names {
            if self.holder(&name).is_some_and(|q| q != p) {
                continue;
            }
            let (kind, size) = listed[&name];
            let open = self.process(p)?.handles.get(&name).cloned();
            let volume = match open {
                Some(open) => open,
                None if kind == Kind::Volume && self.rng.one_in(2) => {
                    let volume = named(&name, store.open_volume(&name, Mode::ReadWrite))?;
                    self.process(p)?.handles.insert(name.clone(), volume.clone());
                    volume
                }
                None => named(&name, store.open_volume(&name, Mode::ReadOnly))?,
            };
            if volume.size() != size {
                return Err(Trouble::Wrong(format!("{name}: listed with {size} bytes, open with {}", volume.size())));
            }
            let maps: Vec<&Map> = candidates.iter().map(|s| &s[&name]).collect();
            // Mostly it is what was written last, in whichever state: then there is nothing to choose.
            let mut as_written = maps.iter().all(|map| map.shares_all(maps[0]));
            let mut pieces = vec![];
            for (offset, len) in self.places(&name, &volume, &maps)? {
                let mut bytes = self.buffers.pop().unwrap_or_default();
                bytes.clear();
                bytes.resize(len as usize, 0xa5);
                named(&name, volume.read_at(&mut bytes, offset))?;
                as_written = as_written && maps[0].holds(offset, &bytes);
                pieces.push((offset, bytes));
            }
            if as_written {
                self.keep_buffers(std::mem::take(&mut pieces));
            }
            seen.insert(name, pieces);
        }
        let mut trouble = None;
        // What was being done when a process was killed may be done in part.
        let others = candidates.clone();
        for mut state in candidates {
            match compare(&state, &seen, after, &others) {
                Ok(()) => {
                    for (name, bytes) in &seen {
                        state.get_mut(name).into_iter().for_each(|map| map.adopt(bytes, after));
                    }
                    seen.into_values().for_each(|pieces| self.keep_buffers(pieces));
                    return Ok(state);
                }
                Err(text) => trouble = trouble.or(Some(text)),
            }
        }
        Err(Trouble::Wrong(trouble.unwrap_or_default()))
    }

    /// Ranges (offset, length) of a map to be looked at: where one of `maps` has something, or the engine says that there is
    /// something. What neither speaks of is zeros in both; one look in [`WHOLE_LOOKS`] believes nobody, and takes all.
    fn places(&self, name: &str, volume: &Volume, maps: &[&Map]) -> Done<Vec<(u64, u64)>> {
        let salt = name.bytes().fold(u64::from(self.stamp), |sum, byte| sum.wrapping_mul(31) ^ u64::from(byte));
        if mix(self.seed, salt).is_multiple_of(WHOLE_LOOKS) {
            let all: BTreeSet<(u64, u64)> = maps.iter().flat_map(|map| map.written()).collect();
            return Ok(all.into_iter().collect());
        }
        let mut marks = maps[0].marks();
        for map in &maps[1..] {
            marks.iter_mut().zip(map.marks()).for_each(|(mark, more)| *mark |= more);
        }
        for extent in named(name, volume.extents(0, volume.size(), usize::MAX))?.iter().filter(|extent| !extent.zero) {
            marks[extent.offset as usize / PAGE..(extent.offset + extent.len).div_ceil(PAGE as u64) as usize]
                .fill(true);
        }
        Ok(maps[0].ranges(&marks))
    }

    fn keep_buffers(&mut self, pieces: Vec<(u64, Vec<u8>)>) {
        self.buffers.extend(pieces.into_iter().map(|(_, bytes)| bytes));
        self.buffers.truncate(MAX_BUFFERS);
    }
}

fn named<T>(name: &str, result: archipelago_core::Result<T>) -> Done<T> {
    result.map_err(|error| match error {
        archipelago_core::Error::NoSpace(_) => Trouble::Engine(error),
        other => Trouble::Wrong(format!("{name}: {other}")),
    })
}

fn compare(
    state: &State,
    seen: &BTreeMap<String, Vec<(u64, Vec<u8>)>>,
    after: After,
    others: &[State],
) -> Result<(), String> {
    for (name, bytes) in seen {
        let map = &state[name];
        let others: Vec<&Map> = others.iter().filter_map(|state| state.get(name)).collect();
        for (offset, bytes) in bytes {
            map.check_range(*offset, bytes, after, &others).map_err(|m| describe(name, map, &m))?;
        }
    }
    Ok(())
}
