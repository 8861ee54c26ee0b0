//! Looks at a store after something went wrong: what is there must be what the reference allows.

use std::collections::{BTreeMap, BTreeSet};

use archipelago_core::limits::ATOM;
use archipelago_core::{Kind, Mode, Store};

use crate::model::{After, Allowed, Map, Mismatch, State};
use crate::perform::{Done, Trouble, pages};
use crate::world::World;

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
    state.retain(|name, _| listed.contains_key(name) || !allowed.optional.contains(name));
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
            let mut pieces = vec![];
            for (offset, len) in candidates.iter().flat_map(|s| s[&name].written()).collect::<BTreeSet<_>>() {
                let mut bytes = vec![0xa5; len as usize];
                named(&name, volume.read_at(&mut bytes, offset))?;
                pieces.push((offset, bytes));
            }
            seen.insert(name, pieces);
        }
        let mut trouble = None;
        for mut state in candidates {
            match compare(&state, &seen, after) {
                Ok(()) => {
                    for (name, bytes) in &seen {
                        state.get_mut(name).into_iter().for_each(|map| map.adopt(bytes, after));
                    }
                    return Ok(state);
                }
                Err(text) => trouble = trouble.or(Some(text)),
            }
        }
        Err(Trouble::Wrong(trouble.unwrap_or_default()))
    }
}

fn named<T>(name: &str, result: archipelago_core::Result<T>) -> Done<T> {
    result.map_err(|error| match error {
        archipelago_core::Error::NoSpace(_) => Trouble::Engine(error),
        other => Trouble::Wrong(format!("{name}: {other}")),
    })
}

fn compare(state: &State, seen: &BTreeMap<String, Vec<(u64, Vec<u8>)>>, after: After) -> Result<(), String> {
    for (name, bytes) in seen {
        let map = &state[name];
        for (offset, bytes) in bytes {
            map.check_range(*offset, bytes, after).map_err(|m| describe(name, map, &m))?;
        }
    }
    Ok(())
}
