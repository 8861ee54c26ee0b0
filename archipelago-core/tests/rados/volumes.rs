//! Volumes of a store in a pool, from end to end, and several processes on it.

use archipelago_core::blocker::rados::RadosPlace;
use archipelago_core::{
    CheckOptions, CloneOptions, CollectOptions, CreateOptions, Error, InitOptions, ListOptions, Location, Mode, Store,
    StoreOptions,
};

use crate::{place, submitted};

fn init(place: &RadosPlace) -> Location {
    let location = Location::Rados(place.clone());
    Store::init(&location, &InitOptions::default()).unwrap();
    location
}

fn open(location: &Location) -> Store {
    Store::open(location, StoreOptions::default()).unwrap()
}

fn collect(store: &Store) {
    let options = CollectOptions { grace: 0, ..CollectOptions::default() };
    let report = store.collect(&options, &mut |_| true).unwrap();
    assert!(!report.interrupted);
}

/// Nothing is wrong, and nothing left over.
fn check(store: &Store) {
    let options = CheckOptions { grace: 0, ..CheckOptions::default() };
    let report = store.check(&options, &mut |_| Ok(())).unwrap();
    assert!(report.findings.is_empty() && report.leaks_checked, "{report:?}");
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn a_store_in_a_pool_keeps_what_was_written() {
    let location = init(&place());
    assert!(matches!(Store::init(&location, &InitOptions::default()), Err(Error::Exists(_))));
    let store = open(&location);
    assert_eq!(store.status().unwrap().location, location.to_string());
    store.create("disk-one", &CreateOptions { size: 1 << 30, block_size: None }).unwrap();
    let volume = store.open_volume("disk-one", Mode::ReadWrite).unwrap();
    let large: Vec<u8> = (0..9 << 20).map(|i| (i / 4096 % 251) as u8).collect();
    volume.write_at(&large, 3 << 20).unwrap();
    volume.write_at(b"small and late", (1 << 30) - 14).unwrap();
    volume.flush().unwrap();
    store.snapshot("disk-one", "snap-one").unwrap();
    volume.write_at(&[7; 5000], 4 << 20).unwrap();
    volume.close().unwrap();
    store.clone_snapshot("snap-one", "clone-one", &CloneOptions::default()).unwrap();
    drop(store);

    let store = open(&location);
    let names: Vec<String> = store.list(&ListOptions::default()).unwrap().entries.into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["clone-one", "disk-one", "snap-one"]);
    let read = |name: &str, offset: u64, len: usize| {
        let mut bytes = vec![0xee; len];
        store.open_volume(name, Mode::ReadOnly).unwrap().read_at(&mut bytes, offset).unwrap();
        bytes
    };
    for name in ["snap-one", "clone-one"] {
        assert_eq!(read(name, 3 << 20, large.len()), large);
        assert_eq!(read(name, (1 << 30) - 14, 14), b"small and late");
        assert_eq!(read(name, 0, 3 << 20), vec![0; 3 << 20]);
    }
    assert_eq!(read("disk-one", 4 << 20, 5000), [7; 5000]);
    assert_eq!(read("disk-one", 3 << 20, 1 << 20), large[..1 << 20]);
    collect(&store);
    check(&store);
    for name in ["snap-one", "disk-one", "clone-one"] {
        store.remove(name).unwrap();
        collect(&store);
    }
    check(&store);
    let kinds = store.space_by_kind().unwrap();
    assert_eq!((kinds.data.objects, kinds.segments.objects, kinds.packs.objects), (0, 0, 0), "{kinds:?}");
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn processes_of_a_store_ask_each_other_through_the_cluster() {
    let location = init(&place());
    let (one, two) = (open(&location), open(&location));
    assert_eq!(one.status().unwrap().processes.len(), 2);
    one.create("disk-one", &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
    let volume = one.open_volume("disk-one", Mode::ReadWrite).unwrap();
    volume.write_at(b"of the first", 0).unwrap();
    match two.open_volume("disk-one", Mode::ReadWrite) {
        Err(Error::OpenElsewhere { owner, .. }) => assert_eq!(Some(owner.process.as_str()), one.process()),
        other => panic!("{:?}", other.map(|_| "opened")),
    }
    // Done by the one that has it.
    two.snapshot("disk-one", "snap-one").unwrap();
    let mut bytes = [0; 12];
    two.open_volume("snap-one", Mode::ReadOnly).unwrap().read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"of the first");
    // A collection asks everybody.
    collect(&two);
    volume.close().unwrap();
    drop((volume, one));
    let volume = two.open_volume("disk-one", Mode::ReadWrite).unwrap();
    assert_eq!(two.status().unwrap().processes.len(), 1);
    volume.close().unwrap();
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn what_cannot_be_reached_is_said_clearly() {
    let place = place();
    let open = |place: RadosPlace| Store::open(&Location::Rados(place), StoreOptions::default()).map(|_| ());
    let nothing = open(place.clone());
    assert!(matches!(&nothing, Err(Error::NoStore(_))), "{nothing:?}");
    let pool = open(RadosPlace { pool: "no-such-pool".into(), ..place.clone() });
    assert!(matches!(&pool, Err(Error::NoStore(text)) if text.contains("no-such-pool")), "{pool:?}");
    let conf = open(RadosPlace { conf: "/no/such/ceph.conf".into(), ..place.clone() });
    assert!(matches!(&conf, Err(Error::InvalidArgument(text)) if text.contains("/no/such/ceph.conf")), "{conf:?}");
    // Of a cluster of which nobody is there.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ceph.conf");
    std::fs::write(&path, "[global]\nmon_host = v2:127.0.0.1:1\nauth_client_required = none\n").unwrap();
    let gone = open(RadosPlace { conf: path.display().to_string(), mon_timeout: 1, ..place });
    assert!(matches!(&gone, Err(Error::Timeout(_))), "{gone:?}");
}

/// A store in a pool whose blocks are as in those histories.
fn submitting() -> Store {
    let location = Location::Rados(place());
    let options = InitOptions { block_size: submitted::BLOCK, ..InitOptions::default() };
    Store::init(&location, &options).unwrap();
    Store::open(&location, submitted::options()).unwrap()
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn what_is_submitted_in_a_pool_is_under_way_together_and_is_what_is_there() {
    let store = submitting();
    assert!(store.together(8).unwrap().is_some());
    submitted::together(&store, 3);
    submitted::history(&submitting(), 7);
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn a_cache_that_the_place_names_is_there_for_every_volume_and_follows_none() {
    let dir = tempfile::tempdir().unwrap();
    let plain = place();
    let cached = RadosPlace { cache: Some(dir.path().into()), cache_size: 16 << 20, ..plain.clone() };
    let (with, without) = (open(&init(&cached)), open(&Location::Rados(plain.clone())));
    with.create("disk-one", &CreateOptions { size: 64 << 20, block_size: None }).unwrap();
    let volume = with.open_volume("disk-one", Mode::ReadWrite).unwrap();
    let mut wanted = vec![0; 64 << 20];
    // Twice what the cache holds.
    for number in 0..8000u64 {
        let at = (number * 7919 % 16000) as usize * 4096;
        wanted[at..at + 4096].fill(number as u8);
        volume.write_at(&wanted[at..at + 4096], at as u64).unwrap();
        if number % 100 == 0 {
            volume.flush().unwrap();
        }
    }
    let read = |volume: &archipelago_core::Volume| {
        let mut bytes = vec![0xee; 64 << 20];
        volume.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert!(read(&volume) == wanted);
    // The one who has it brings all into the pool first.
    without.snapshot("disk-one", "snap-one").unwrap();
    assert!(read(&without.open_volume("snap-one", Mode::ReadOnly).unwrap()) == wanted);
    volume.write_at(&[9; 100], 0).unwrap();
    wanted[..100].fill(9);
    volume.close().unwrap();
    let volume = without.open_volume("disk-one", Mode::ReadWrite).unwrap();
    assert!(read(&volume) == wanted);
}
