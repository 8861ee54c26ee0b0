//! What names lead to: what is expected of one who makes, renames, resizes and removes maps, and what is found after an end that
//! came in the middle of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::history::Versions;

/// A snapshot taken under load: changes up to `from` are in it, none after `to` is.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Which of the loaded volumes it is of.
    pub volume: usize,
    pub from: u32,
    pub to: u32,
    /// The server had its end meanwhile. The command may then have taken the snapshot itself, of the volume as it was found
    /// after the end: of the changes up to `from`, only those that were durable are in it for sure.
    pub late: bool,
}

/// What a map holds.
#[derive(Clone, Debug)]
pub enum Content {
    Known(Arc<Versions>),
    Taken(Taken),
    /// One of the loaded volumes; what it holds, their loads know. Zeros behind that.
    Loaded(usize),
}

/// A map.
#[derive(Clone, Debug)]
pub struct Map {
    /// In bytes; of a snapshot taken while its volume may have been resized, it is not known.
    pub size: Option<u64>,
    pub snapshot: bool,
    pub content: Content,
}

pub type Names = BTreeMap<String, Map>;

/// What the store lists: size in bytes, and whether it is a snapshot.
pub type Listed = BTreeMap<String, (u64, bool)>;

/// Names that one operator alone makes and changes.
pub struct Realm {
    /// How its names begin.
    pub prefixes: &'static [&'static str],
    pub now: Names,
    /// What they are instead if the command that was interrupted did its work.
    pub maybe: Option<Names>,
    /// Numbers given to names.
    pub made: u32,
}

impl Realm {
    pub fn new(prefixes: &'static [&'static str], now: Names) -> Realm {
        Realm { prefixes, now, maybe: None, made: 0 }
    }

    /// A name that was never used.
    pub fn fresh(&mut self) -> String {
        self.made += 1;
        format!("{}{:03}", self.prefixes[0], self.made)
    }

    pub fn has(&self, name: &str) -> bool {
        self.prefixes.iter().any(|prefix| name.starts_with(prefix))
    }

    /// Decides by what is found whether the interrupted command did its work.
    ///
    /// # Errors
    /// The names are neither as before it nor as after it.
    pub fn settle(&mut self, listed: &Listed) -> Result<(), String> {
        let mine: Listed = listed.iter().filter(|(name, _)| self.has(name)).map(|(n, l)| (n.clone(), *l)).collect();
        let candidates = [Some(&self.now), self.maybe.as_ref()];
        let Some(found) = candidates.into_iter().flatten().find(|names| fits(names, &mine)) else {
            let show =
                |names: &Names| -> Vec<_> { names.iter().map(|(n, m)| (n.clone(), m.size, m.snapshot)).collect() };
            let (now, maybe) = (show(&self.now), self.maybe.as_ref().map(show));
            return Err(format!("names are {mine:?}; expected were {now:?} or {maybe:?}"));
        };
        self.now = found.clone();
        for (name, map) in &mut self.now {
            map.size = mine.get(name).map(|(size, _)| *size);
        }
        self.maybe = None;
        Ok(())
    }
}

fn fits(expected: &Names, found: &Listed) -> bool {
    expected.len() == found.len()
        && expected.iter().zip(found).all(|((name, map), (other, (size, snapshot)))| {
            name == other && map.snapshot == *snapshot && map.size.is_none_or(|expected| expected == *size)
        })
}

#[test]
fn a_realm_is_as_before_or_as_after_the_interrupted_command_and_nothing_else() {
    let map = |size| Map { size: Some(size), snapshot: false, content: Content::Known(Arc::default()) };
    let names = |list: &[(&str, u64)]| -> Names { list.iter().map(|(n, s)| (n.to_string(), map(*s))).collect() };
    let settle = |found: &[(&str, u64)]| {
        let listed = found.iter().map(|(n, s)| (n.to_string(), (*s, false))).collect();
        let mut realm = Realm::new(&["idle-"], names(&[("idle-1", 512)]));
        realm.maybe = Some(names(&[("idle-2", 512)]));
        realm.settle(&listed).map(|()| realm.now.into_keys().collect::<Vec<_>>())
    };
    assert_eq!(settle(&[("idle-1", 512), ("other", 1)]).unwrap(), ["idle-1"]);
    assert_eq!(settle(&[("idle-2", 512)]).unwrap(), ["idle-2"]);
    for wrong in [&[][..], &[("idle-1", 512), ("idle-2", 512)], &[("idle-2", 1024)]] {
        settle(wrong).unwrap_err();
    }
}
