//! Random histories with collections in between: no block that is used is lost, and none that is not is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use archipelago_core::blocker::Blocker;
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::{CloneOptions, CollectOptions, CreateOptions, Mode, Store, Volume};

use crate::random::{Random, bytes, seed};
use crate::store::{BLOCK, collect, everything, open, read_all, sim_files};

const SIZE: u64 = 5 * BLOCK;
/// Steps of a history.
const STEPS: u64 = 250;
/// Maps at once.
const MAPS: usize = 8;

struct Map {
    snapshot: bool,
    plain: Vec<u8>,
    open: Option<Volume>,
}

struct History {
    store: Store,
    maps: BTreeMap<String, Map>,
    random: Random,
    made: u64,
}

impl History {
    fn pick(&mut self, want: impl Fn(&Map) -> bool) -> Option<String> {
        let names: Vec<&String> = self.maps.iter().filter(|(_, m)| want(m)).map(|(name, _)| name).collect();
        if names.is_empty() {
            return None;
        }
        let i = self.random.below(names.len() as u64) as usize;
        Some(names[i].clone())
    }

    fn new_name(&mut self) -> String {
        self.made += 1;
        format!("map-{:04}", self.made)
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0 if self.maps.len() < MAPS => {
                let name = self.new_name();
                self.store.create(&name, &CreateOptions { size: SIZE, block_size: None }).unwrap();
                self.maps.insert(name, Map { snapshot: false, plain: vec![0; SIZE as usize], open: None });
            }
            1..=8 => self.write(),
            9 => self.discard(),
            10 | 11 if self.maps.len() < MAPS => {
                if let Some(of) = self.pick(|m| !m.snapshot) {
                    let name = self.new_name();
                    self.store.snapshot(&of, &name).unwrap();
                    let plain = self.maps[&of].plain.clone();
                    self.maps.insert(name, Map { snapshot: true, plain, open: None });
                }
            }
            12 if self.maps.len() < MAPS => {
                if let Some(of) = self.pick(|m| m.snapshot) {
                    let name = self.new_name();
                    self.store.clone_snapshot(&of, &name, &CloneOptions::default()).unwrap();
                    let plain = self.maps[&of].plain.clone();
                    self.maps.insert(name, Map { snapshot: false, plain, open: None });
                }
            }
            13 | 14 => {
                if let Some(name) = self.pick(|m| m.open.is_none()) {
                    self.store.remove(&name).unwrap();
                    self.maps.remove(&name);
                }
            }
            15 => {
                if let Some(name) = self.pick(|m| m.open.is_some() && !m.snapshot) {
                    self.maps[&name].open.as_ref().unwrap().checkpoint().unwrap();
                }
            }
            16 | 17 => {
                if let Some(name) = self.pick(|m| m.open.is_some()) {
                    self.maps.get_mut(&name).unwrap().open.take().unwrap().close().unwrap();
                }
            }
            18 => {
                if let Some(name) = self.pick(|m| m.open.is_none() && m.snapshot) {
                    let reader = self.store.open_volume(&name, Mode::ReadOnly).unwrap();
                    self.maps.get_mut(&name).unwrap().open = Some(reader);
                }
            }
            _ => {
                collect(&self.store);
                self.check();
            }
        }
    }

    /// A volume that is open for writing, opened if need be.
    fn writable(&mut self) -> Option<(String, Volume)> {
        let name = self.pick(|m| !m.snapshot)?;
        let map = self.maps.get_mut(&name).unwrap();
        let volume = map.open.get_or_insert_with(|| self.store.open_volume(&name, Mode::ReadWrite).unwrap()).clone();
        Some((name, volume))
    }

    fn write(&mut self) {
        let Some((name, volume)) = self.writable() else { return };
        let len = match self.random.below(3) {
            0 => 1 + self.random.below(9000),
            1 => 4096 * (1 + self.random.below(8)),
            _ => 40_000 + self.random.below(2 * BLOCK),
        };
        let len = len.min(SIZE);
        let offset = self.random.below(SIZE - len + 1);
        let data = bytes(self.random.next(), len as usize);
        volume.write_at(&data, offset).unwrap();
        self.maps.get_mut(&name).unwrap().plain[offset as usize..(offset + len) as usize].copy_from_slice(&data);
    }

    fn discard(&mut self) {
        let Some((name, volume)) = self.writable() else { return };
        let offset = self.random.below(SIZE / 4096) * 4096;
        let len = (4096 * (1 + self.random.below(40))).min(SIZE - offset);
        volume.discard(offset, len).unwrap();
        self.maps.get_mut(&name).unwrap().plain[offset as usize..(offset + len) as usize].fill(0);
    }

    fn check(&self) {
        for (name, map) in &self.maps {
            let bytes = match &map.open {
                Some(volume) => read_all(volume),
                None => read_all(&self.store.open_volume(name, Mode::ReadOnly).unwrap()),
            };
            assert!(bytes == map.plain, "{name}");
        }
    }
}

fn history(blocker: &Arc<dyn Blocker>, seed: u64) {
    println!("history of seed {seed}");
    let mut history = History { store: open(blocker), maps: BTreeMap::new(), random: Random(seed), made: 0 };
    for _ in 0..STEPS {
        history.step();
    }
    for map in history.maps.values_mut() {
        if let Some(volume) = map.open.take() {
            volume.close().unwrap();
        }
    }
    collect(&history.store);
    history.check();
    // Nothing is left that a second look would find.
    let dry = CollectOptions { dry_run: true, ..CollectOptions::default() };
    let again = history.store.collect(&dry, &mut |_| true).unwrap();
    assert_eq!(again.freed().objects, 0, "{again:?}");
    for name in history.maps.keys() {
        history.store.remove(name).unwrap();
    }
    collect(&history.store);
    assert_eq!(everything(blocker), Vec::new());
    assert_eq!((blocker.trashed().unwrap().len(), blocker.headers().unwrap().len()), (0, 0));
}

#[test]
fn random_histories_lose_nothing_and_leave_nothing() {
    let first = seed("COLLECT_SEED");
    for i in 0..20 {
        history(&(MemoryBlocker::new() as Arc<dyn Blocker>), first.wrapping_add(i));
        history(&sim_files(), first.wrapping_add(i));
    }
}
