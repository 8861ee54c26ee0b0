use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::blocker::memory::MemoryBlocker;
use crate::store::peers::Neighbours;
use crate::store::{Background, CreateOptions, InitOptions, StoreOptions};
use crate::volume::Mode;

fn options(seed: u64) -> StoreOptions {
    StoreOptions { background: Background::Manual, seed: Some(seed), ..StoreOptions::default() }
}

/// A store with two volumes.
fn store() -> Store {
    let blocker = MemoryBlocker::new();
    Store::init_on(blocker.clone(), &InitOptions::default()).unwrap();
    let store = Store::open_on(blocker, options(1)).unwrap();
    for name in ["volume-a", "volume-b"] {
        store.create(name, &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
    }
    store
}

fn pair(a: &str, b: &str) -> Vec<(String, String)> {
    vec![("volume-a".into(), a.into()), ("volume-b".into(), b.into())]
}

#[test]
fn a_volume_that_cannot_be_stopped_ends_the_group_and_everybody_goes_on() {
    let store = store();
    let volumes: Vec<_> = ["volume-a", "volume-b"].map(|name| store.open_volume(name, Mode::ReadWrite).unwrap()).into();
    let stuck = open::for_writing(&store.shared, "volume-b").unwrap();
    let write_under_way = stuck.gate.read();
    let failed = store.snapshot_group(&pair("snap-a1", "snap-b1"));
    assert!(matches!(failed, Err(Error::Timeout(_))), "{failed:?}");
    drop(write_under_way);
    for volume in &volumes {
        volume.write_at(b"goes on", 0).unwrap();
        volume.flush().unwrap();
    }
    assert!(matches!(store.info("snap-a1"), Err(Error::NotFound(_))));
    assert!(matches!(store.info("snap-b1"), Err(Error::NotFound(_))));
    assert_eq!(store.snapshot_group(&pair("snap-a1", "snap-b1")).unwrap().len(), 2);
}

#[test]
fn groups_that_overlap_in_any_order_never_wait_for_each_other() {
    let store = store();
    let keep: Vec<_> = ["volume-a", "volume-b"].map(|name| store.open_volume(name, Mode::ReadWrite).unwrap()).into();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..20 {
                    let mut members = pair(&format!("snap-a-{thread}-{round}"), &format!("snap-b-{thread}-{round}"));
                    if thread % 2 == 0 {
                        members.reverse();
                    }
                    let taken = store.snapshot_group(&members).unwrap();
                    assert_eq!(taken[0].name, members[0].1);
                }
            });
        }
    });
    drop(keep);
    assert_eq!(store.status().unwrap().snapshots, 160);
}

#[test]
fn a_write_that_follows_an_acknowledged_one_is_never_in_the_group_without_it() {
    let store = store();
    let [a, b] = ["volume-a", "volume-b"].map(|name| store.open_volume(name, Mode::ReadWrite).unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for place in 0..3u64 {
            let (a, b, stop) = (&a, &b, &stop);
            scope.spawn(move || {
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    // Larger writes go another way than small ones.
                    let len = if n.is_multiple_of(5) { 40_000 } else { 8 };
                    let bytes: Vec<u8> = n.to_le_bytes().into_iter().cycle().take(len).collect();
                    a.write_at(&bytes, place * 65536).unwrap();
                    b.write_at(&bytes, place * 65536).unwrap();
                }
            });
        }
        for round in 0..60 {
            store.snapshot_group(&pair(&format!("snap-a-{round}"), &format!("snap-b-{round}"))).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let counter = |name: &str, place: u64| {
        let mut bytes = [0; 8];
        store.open_volume(name, Mode::ReadOnly).unwrap().read_at(&mut bytes, place * 65536).unwrap();
        u64::from_le_bytes(bytes)
    };
    let mut moved = 0;
    for round in 0..60 {
        for place in 0..3 {
            let (first, second) =
                (counter(&format!("snap-a-{round}"), place), counter(&format!("snap-b-{round}"), place));
            assert!(first == second || first == second + 1, "round {round}, place {place}: {first}, {second}");
            moved = moved.max(first);
        }
    }
    assert!(moved > 60, "the writers hardly wrote: {moved}");
}

#[test]
fn members_in_other_processes_are_frozen_by_those_and_one_that_does_not_answer_ends_the_group() {
    let blocker = MemoryBlocker::new();
    Store::init_on(blocker.clone(), &InitOptions::default()).unwrap();
    let neighbours = Neighbours::new();
    let [here, there] = [1, 2].map(|seed| Store::open_among(blocker.clone(), options(seed), &neighbours).unwrap());
    for name in ["volume-a", "volume-b", "volume-c"] {
        here.create(name, &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
    }
    // One there, one here, one closed.
    let a = there.open_volume("volume-a", Mode::ReadWrite).unwrap();
    let b = here.open_volume("volume-b", Mode::ReadWrite).unwrap();
    a.write_at(b"first", 0).unwrap();
    b.write_at(b"second", 0).unwrap();
    let mut members = pair("snap-a1", "snap-b1");
    members.push(("volume-c".into(), "snap-c1".into()));
    let taken = here.snapshot_group(&members).unwrap();
    assert_eq!(taken.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["snap-a1", "snap-b1", "snap-c1"]);
    a.write_at(b"later", 0).unwrap();
    for store in [&here, &there] {
        let mut bytes = [0; 5];
        store.open_volume("snap-a1", Mode::ReadOnly).unwrap().read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"first");
    }
    assert!(there.shared.parts.lock().is_empty());

    neighbours.pause(there.process().unwrap());
    let failed = here.snapshot_group(&pair("snap-a2", "snap-b2"));
    assert!(matches!(failed, Err(Error::Timeout(_))), "{failed:?}");
    neighbours.resume(there.process().unwrap());
    assert!(matches!(here.info("snap-b2"), Err(Error::NotFound(_))));
    b.write_at(b"goes on", 0).unwrap();
    here.snapshot_group(&pair("snap-a2", "snap-b2")).unwrap();
}

#[test]
fn a_group_that_makes_no_sense_is_refused_before_anything_stops() {
    let store = store();
    store.snapshot("volume-a", "snap-a1").unwrap();
    let refused = |members: &[(&str, &str)]| {
        let members: Vec<_> = members.iter().map(|(v, s)| (v.to_string(), s.to_string())).collect();
        store.snapshot_group(&members).unwrap_err()
    };
    assert!(matches!(refused(&[]), Error::InvalidArgument(_)));
    assert!(matches!(refused(&[("volume-a", "snap-x"), ("volume-a", "snap-y")]), Error::InvalidArgument(_)));
    assert!(matches!(refused(&[("volume-a", "snap-x"), ("volume-b", "snap-x")]), Error::InvalidArgument(_)));
    assert!(matches!(refused(&[("volume-a", "snap-a1"), ("volume-b", "snap-x")]), Error::Exists(_)));
    assert!(matches!(refused(&[("volume-a", "snap-x"), ("volume-z", "snap-z")]), Error::NotFound(_)));
    assert!(matches!(refused(&[("volume-a", "snap-x"), ("snap-a1", "snap-z")]), Error::IsSnapshot(_)));
    assert!(matches!(refused(&[("volume-a", "../..")]), Error::InvalidName { .. }));
    let many: Vec<_> = (0..=MAX_GROUP).map(|n| (format!("volume-{n}"), format!("snap-{n}"))).collect();
    assert!(matches!(store.snapshot_group(&many), Err(Error::InvalidArgument(_))));
    assert_eq!(store.status().unwrap().snapshots, 1);
    let _: Arc<Shared> = store.shared.clone();
}
