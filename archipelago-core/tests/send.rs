//! Snapshots on their way from one store to another.
#![allow(clippy::unwrap_used)]

#[path = "common/disk.rs"]
mod disk;
#[path = "common/random.rs"]
mod random;

use archipelago_core::{
    CloneOptions, CreateOptions, Error, Kind, ListOptions, Mode, ResumeToken, SendOptions, Store, Volume,
};
use disk::Disk;
use random::Random;

const SECTOR: u64 = 4096;

fn new_store(seed: u64) -> Store {
    let [_, memory] = Disk::both();
    memory.with_store().store(seed)
}

fn contents(store: &Store, name: &str) -> Vec<u8> {
    let volume = store.open_volume(name, Mode::ReadOnly).unwrap();
    let mut all = vec![0; volume.size() as usize];
    volume.read_at(&mut all, 0).unwrap();
    all
}

fn send(store: &Store, name: &str, from: Option<&str>, resume: Option<ResumeToken>) -> Vec<u8> {
    let mut stream = vec![];
    let options = SendOptions { from: from.map(String::from), resume };
    let sent = store.send(name, &options, &mut stream, &mut |_| Ok(())).unwrap();
    let plan = store.send_plan(name, &options).unwrap();
    assert!(sent.data <= plan.data && sent.data + sent.zeros <= plan.data + plan.zeros, "{sent:?} {plan:?}");
    stream
}

fn receive(store: &Store, name: &str, mut stream: &[u8]) -> Result<(), Error> {
    store.receive(name, &mut stream, &mut |_| Ok(())).map(|_| assert!(stream.is_empty()))
}

fn token(store: &Store, name: &str) -> ResumeToken {
    store.receive_status(name).unwrap().token.parse().unwrap()
}

fn names(store: &Store) -> Vec<String> {
    store.list(&ListOptions::default()).unwrap().entries.into_iter().map(|e| e.name).collect()
}

/// Some changes of every sort.
fn scribble(volume: &Volume, random: &mut Random, count: u64) {
    for _ in 0..count {
        let size = volume.size();
        let offset = random.below(size);
        let len = (1 + random.below(100_000)).min(size - offset);
        match random.below(8) {
            0 => volume.discard(offset, len).unwrap(),
            1 => volume.write_zeroes(offset, len, random.below(2) == 0, Default::default()).unwrap(),
            // Written, and yet zeros: the sender has to look.
            2 => volume.write_at(&vec![0; len as usize], offset).unwrap(),
            3 => {
                let at = offset / SECTOR * SECTOR;
                volume.write_at(&[7; 4096][..(size - at).min(SECTOR) as usize], at).unwrap();
            }
            _ => {
                let bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
                volume.write_at(&bytes, offset).unwrap();
            }
        }
    }
}

#[test]
fn what_was_sent_arrives_whole_and_as_differences_after_writes_growth_and_shrinking() {
    for seed in 0..40 {
        println!("seed {seed}");
        let random = &mut Random(seed);
        let (here, there) = (new_store(1), new_store(2));
        let size = 1 + random.below(3 << 20);
        here.create("volume", &CreateOptions { size, block_size: None }).unwrap();
        let volume = here.open_volume("volume", Mode::ReadWrite).unwrap();
        scribble(&volume, random, 5);
        let mut before: Option<String> = None;
        for round in 0..5 {
            let name = format!("snap-{round}");
            volume.snapshot(&name).unwrap();
            let stream = send(&here, &name, before.as_deref(), None);
            receive(&there, &name, &stream).unwrap();
            assert_eq!(contents(&here, &name), contents(&there, &name), "{name}");
            let info = there.info(&name).unwrap();
            assert_eq!((info.kind, info.size), (Kind::Snapshot, here.info(&name).unwrap().size));
            assert_eq!(info.parent, before, "{name}");
            assert_eq!(names(&there).len(), round + 1, "nothing but the snapshots is left");
            before = Some(name);
            let count = random.below(6);
            scribble(&volume, random, count);
            if random.below(2) == 0 {
                let size = 1 + random.below(3 << 20);
                volume.resize(size, true).unwrap();
                scribble(&volume, random, 2);
            }
            if random.below(2) == 0 {
                volume.checkpoint().unwrap();
            }
        }
        // What was received can be used like any other snapshot.
        there.clone_snapshot("snap-4", "cloned", &CloneOptions::default()).unwrap();
        let clone = there.open_volume("cloned", Mode::ReadWrite).unwrap();
        scribble(&clone, random, 5);
        assert_eq!(contents(&here, "snap-4"), contents(&there, "snap-4"));
    }
}

#[test]
fn the_difference_is_as_large_as_what_was_changed() {
    let (here, there) = (new_store(1), new_store(2));
    here.create("volume", &CreateOptions { size: 64 << 20, block_size: None }).unwrap();
    let volume = here.open_volume("volume", Mode::ReadWrite).unwrap();
    let noise: Vec<u8> = (0..4 << 20).map(|n: u64| (n % 251) as u8 + 1).collect();
    for n in 0..8 {
        volume.write_at(&noise, n * (8 << 20)).unwrap();
    }
    volume.snapshot("before").unwrap();
    volume.write_at(&noise[..10 * 4096], 5 << 20).unwrap();
    volume.write_at(&noise[..1], 16 << 20).unwrap();
    volume.snapshot("behind").unwrap();
    let (whole, difference) = (send(&here, "before", None, None), send(&here, "behind", Some("before"), None));
    assert!((32 << 20..33 << 20).contains(&whole.len()), "{}", whole.len());
    assert!((11 * 4096..12 * 4096).contains(&difference.len()), "{}", difference.len());
    receive(&there, "before", &whole).unwrap();
    receive(&there, "behind", &difference).unwrap();
    let usage = there.usage("behind").unwrap();
    assert_eq!(usage.unique, 11 * 4096, "the rest is shared with the base");
}

#[test]
fn a_snapshot_is_a_base_in_every_store_that_it_reached_whatever_it_is_called() {
    let (a, b, c) = (new_store(1), new_store(2), new_store(3));
    a.create("volume", &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
    let volume = a.open_volume("volume", Mode::ReadWrite).unwrap();
    volume.write_at(&[1; 300_000], 5).unwrap();
    volume.snapshot("monday").unwrap();
    receive(&b, "from-a", &send(&a, "monday", None, None)).unwrap();
    receive(&c, "from-b", &send(&b, "from-a", None, None)).unwrap();
    b.rename("from-a", "renamed").unwrap();

    // From the first to the last, over a base that came through the second.
    volume.write_at(&[2; 100_000], 7).unwrap();
    volume.snapshot("tuesday").unwrap();
    receive(&c, "tuesday", &send(&a, "tuesday", Some("monday"), None)).unwrap();
    assert_eq!(contents(&a, "tuesday"), contents(&c, "tuesday"));

    // And back: what was taken at the second goes to the first.
    b.clone_snapshot("renamed", "volume", &CloneOptions::default()).unwrap();
    b.open_volume("volume", Mode::ReadWrite).unwrap().write_at(&[3; 5000], 9000).unwrap();
    b.snapshot("volume", "at-b-now").unwrap();
    receive(&a, "back-at-a", &send(&b, "at-b-now", Some("renamed"), None)).unwrap();
    assert_eq!(contents(&b, "at-b-now"), contents(&a, "back-at-a"));
    assert_eq!(a.info("back-at-a").unwrap().parent.as_deref(), Some("monday"));
    let id = b.info("at-b-now").unwrap().id;
    assert!(a.info("back-at-a").unwrap().origin.unwrap().starts_with(&id));
}

#[test]
fn a_stream_whose_base_is_not_here_is_refused_and_leaves_nothing() {
    let (a, b) = (new_store(1), new_store(2));
    for store in [&a, &b] {
        store.create("volume", &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
        // The same name, size and content: and yet another snapshot.
        store.snapshot("volume", "monday").unwrap();
    }
    a.open_volume("volume", Mode::ReadWrite).unwrap().write_at(b"x", 0).unwrap();
    a.snapshot("volume", "tuesday").unwrap();
    let refused = receive(&b, "tuesday", &send(&a, "tuesday", Some("monday"), None));
    assert!(matches!(refused, Err(Error::NoBase(_))), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("monday"));
    assert_eq!(names(&b), ["monday", "volume"]);
    assert!(matches!(b.receive_status("tuesday"), Err(Error::NotFound(_))));
}

#[test]
fn only_snapshots_are_sent_and_only_free_names_received() {
    let (a, b) = (new_store(1), new_store(2));
    a.create("volume", &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
    a.snapshot("volume", "monday").unwrap();
    let to_nowhere = |name: &str, from: Option<&str>| {
        let options = SendOptions { from: from.map(String::from), resume: None };
        a.send(name, &options, &mut std::io::sink(), &mut |_| Ok(())).unwrap_err()
    };
    assert!(matches!(to_nowhere("volume", None), Error::NotSnapshot(_)));
    assert!(matches!(to_nowhere("monday", Some("volume")), Error::NotSnapshot(_)));
    assert!(matches!(to_nowhere("monday", Some("monday")), Error::InvalidArgument(_)));
    assert!(matches!(to_nowhere("nothing", None), Error::NotFound(_)));
    let stream = send(&a, "monday", None, None);
    receive(&b, "monday", &stream).unwrap();
    assert!(matches!(receive(&b, "monday", &stream), Err(Error::Exists(_))));
    assert!(matches!(receive(&b, "../../x", &stream), Err(Error::InvalidName { .. })));
}

/// A store with two snapshots, and the stream of the second on top of the first.
fn two_snapshots(disk: &Disk) -> (Store, Vec<u8>) {
    let store = disk.store(1);
    store.create("volume", &CreateOptions { size: 700_001, block_size: None }).unwrap();
    let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
    volume.write_at(&[1; 400_000], 0).unwrap();
    volume.snapshot("monday").unwrap();
    for n in 0..6 {
        volume.write_at(&[2; 5000], 10_000 + n * 31_000).unwrap();
    }
    volume.discard(200_000, 90_000).unwrap();
    volume.write_at(&[3; 5001], 695_000).unwrap();
    volume.snapshot("tuesday").unwrap();
    drop(volume);
    let stream = send(&store, "tuesday", Some("monday"), None);
    (store, stream)
}

#[test]
fn a_stream_cut_anywhere_goes_on_from_there() {
    let [_, memory] = Disk::both();
    let (here, stream) = two_snapshots(&memory.with_store());
    let [_, other] = Disk::both();
    let there = other.with_store().store(9);
    receive(&there, "monday", &send(&here, "monday", None, None)).unwrap();
    let wanted = contents(&here, "tuesday");
    let mut positions = vec![];
    for cut in (0..stream.len()).step_by(2503).chain([stream.len() - 1]) {
        let cut_off = receive(&there, "tuesday", &stream[..cut]);
        assert!(matches!(cut_off, Err(Error::Damaged { .. })), "{cut}: {cut_off:?}");
        assert!(matches!(there.info("tuesday"), Err(Error::NotFound(_))));
        let Ok(status) = there.receive_status("tuesday") else {
            // Not even the header came.
            assert!(cut < 1000);
            continue;
        };
        positions.push(status.position);
        let rest = send(&here, "tuesday", Some("monday"), Some(token(&there, "tuesday")));
        assert!(rest.len() <= stream.len());
        receive(&there, "tuesday", &rest).unwrap();
        assert_eq!(contents(&there, "tuesday"), wanted, "cut at {cut}");
        there.remove("tuesday").unwrap();
    }
    positions.dedup();
    assert!(positions.len() > 3 && positions.is_sorted(), "{positions:?}");
}

#[test]
fn a_changed_stream_is_refused_at_the_changed_frame_and_nothing_of_it_is_used() {
    let [_, memory] = Disk::both();
    let (here, stream) = two_snapshots(&memory.with_store());
    let [_, other] = Disk::both();
    let there = other.with_store().store(9);
    receive(&there, "monday", &send(&here, "monday", None, None)).unwrap();
    let wanted = contents(&here, "tuesday");
    for at in (0..stream.len()).step_by(611) {
        let mut changed = stream.clone();
        changed[at] ^= 1 << (at % 8);
        let refused = receive(&there, "tuesday", &changed);
        assert!(matches!(refused, Err(Error::Damaged { .. } | Error::TooNew { .. })), "{at}: {refused:?}");
        assert!(matches!(there.info("tuesday"), Err(Error::NotFound(_))));
        if there.receive_status("tuesday").is_err() {
            assert!(at < 1000);
            continue;
        }
        receive(&there, "tuesday", &send(&here, "tuesday", Some("monday"), Some(token(&there, "tuesday")))).unwrap();
        assert_eq!(contents(&there, "tuesday"), wanted, "changed at {at}");
        there.remove("tuesday").unwrap();
    }
}

#[test]
fn what_is_being_received_can_be_seen_and_removed_and_nothing_else() {
    let [_, memory] = Disk::both();
    let (here, stream) = two_snapshots(&memory.with_store());
    let there = new_store(9);
    receive(&there, "monday", &send(&here, "monday", None, None)).unwrap();
    receive(&there, "tuesday", &stream[..stream.len() / 2]).unwrap_err();
    let partial = "tuesday.receiving";
    assert_eq!(names(&there), ["monday", partial]);
    let info = there.info(partial).unwrap();
    assert_eq!(info.receiving, Some(there.receive_status("tuesday").unwrap().position));
    for refused in [
        there.open_volume(partial, Mode::ReadWrite).map(|_| ()),
        there.open_volume(partial, Mode::ReadOnly).map(|_| ()),
        there.snapshot(partial, "snapped").map(|_| ()),
        there.resize(partial, 5 << 20, false),
        there.rename(partial, "renamed"),
        there.clone_snapshot(partial, "cloned", &CloneOptions::default()).map(|_| ()),
    ] {
        assert!(matches!(refused, Err(Error::Receiving(_) | Error::NotSnapshot(_))), "{refused:?}");
    }
    // Neither the whole stream nor one that goes on elsewhere fits.
    assert!(matches!(receive(&there, "tuesday", &stream), Err(Error::Exists(_))));
    let at = token(&there, "tuesday");
    let elsewhere = ResumeToken { progress: archipelago_core::format::stream::Progress::default(), ..at };
    let wrong = send(&here, "tuesday", Some("monday"), Some(elsewhere));
    assert!(matches!(receive(&there, "tuesday", &wrong), Err(Error::InvalidArgument(_))));
    let other = SendOptions { from: None, resume: Some(at) };
    let refused = here.send("tuesday", &other, &mut std::io::sink(), &mut |_| Ok(()));
    assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{refused:?}");
    there.remove(partial).unwrap();
    assert_eq!(names(&there), ["monday"]);
    receive(&there, "tuesday", &stream).unwrap();
    assert_eq!(contents(&there, "tuesday"), contents(&here, "tuesday"));
}

#[test]
fn a_caller_that_stops_a_reception_finds_it_where_it_stopped() {
    let [_, memory] = Disk::both();
    let (here, stream) = two_snapshots(&memory.with_store());
    let there = new_store(9);
    receive(&there, "monday", &send(&here, "monday", None, None)).unwrap();
    let mut calls = 0;
    let stopped = there.receive("tuesday", &mut &stream[..], &mut |_| {
        calls += 1;
        if calls > 2 { Err(Error::Timeout("test".into())) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(Error::Timeout(_))));
    assert!(there.receive_status("tuesday").unwrap().position > 0);
    receive(&there, "tuesday", &send(&here, "tuesday", Some("monday"), Some(token(&there, "tuesday")))).unwrap();
    assert_eq!(contents(&there, "tuesday"), contents(&here, "tuesday"));
}

#[test]
fn a_power_cut_at_any_step_of_a_reception_leaves_the_snapshot_whole_or_a_part_that_goes_on() {
    let [_, memory] = Disk::both();
    let (here, stream) = two_snapshots(&memory.with_store());
    let whole = send(&here, "monday", None, None);
    let (monday, tuesday) = (contents(&here, "monday"), contents(&here, "tuesday"));
    for disk in Disk::both() {
        let disk = disk.with_store();
        let there = disk.store(9);
        receive(&there, "monday", &whole).unwrap();
        let before = disk.steps();
        // Interrupted once, so that going on is cut as well.
        receive(&there, "tuesday", &stream[..stream.len() * 2 / 3]).unwrap_err();
        receive(&there, "tuesday", &send(&here, "tuesday", Some("monday"), Some(token(&there, "tuesday")))).unwrap();
        drop(there);
        for step in before..=disk.steps() {
            for seed in 0..4 {
                let left = disk.crash_at(step, seed).store(seed);
                let place = format!("cut {step}, crash seed {seed}");
                match left.info("tuesday") {
                    Ok(info) => assert_eq!(info.kind, Kind::Snapshot, "{place}"),
                    Err(Error::NotFound(_)) => {
                        assert!(step < disk.steps(), "{place}: gone");
                        let rest = match left.receive_status("tuesday") {
                            Ok(_) => send(&here, "tuesday", Some("monday"), Some(token(&left, "tuesday"))),
                            Err(Error::NotFound(_)) => stream.clone(),
                            Err(error) => panic!("{place}: {error}"),
                        };
                        receive(&left, "tuesday", &rest).unwrap_or_else(|e| panic!("{place}: {e}"));
                    }
                    Err(error) => panic!("{place}: {error}"),
                }
                assert_eq!(contents(&left, "tuesday"), tuesday, "{place}");
                assert_eq!(contents(&left, "monday"), monday, "{place}");
                assert_eq!(names(&left), ["monday", "tuesday"], "{place}");
            }
        }
    }
}
