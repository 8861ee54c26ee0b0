//! A cluster in trouble: each of these changes the whole cluster, so they run alone, one after the other. `ARCHIPELAGO_CEPH_DIR` is where
//! `tests/ceph/cluster` made it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use archipelago_core::blocker::rados::RadosPlace;
use archipelago_core::{
    CompletionQueue, CreateOptions, Error, InitOptions, Location, Mode, Operation, Store, StoreOptions, Volume,
    WriteFlags,
};

use crate::place;

const SIZE: usize = 64 << 20;

/// Does something to the cluster.
fn cluster(verb: &str, name: &str) {
    let dir = std::env::var("ARCHIPELAGO_CEPH_DIR").expect("ARCHIPELAGO_CEPH_DIR is set, as make test-ceph does");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/ceph/cluster");
    let status = Command::new(script).args([verb, &dir, name]).status().unwrap();
    assert!(status.success(), "{verb} {name}: {status}");
}

/// A volume, and beside it what must be in it.
struct Disk {
    location: Location,
    store: Store,
    volume: Volume,
    wanted: Vec<u8>,
    random: u64,
}

impl Disk {
    fn new() -> Disk {
        Disk::at(place())
    }

    fn at(place: RadosPlace) -> Disk {
        let location = Location::Rados(place);
        Store::init(&location, &InitOptions::default()).unwrap();
        let store = Store::open(&location, StoreOptions::default()).unwrap();
        store.create("disk-one", &CreateOptions { size: SIZE as u64, block_size: None }).unwrap();
        let volume = store.open_volume("disk-one", Mode::ReadWrite).unwrap();
        Disk { location, store, volume, wanted: vec![0; SIZE], random: 1 }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % below
    }

    /// Writes somewhere, and remembers it if that succeeded; of a write that failed nothing is known, so it is written again.
    fn write(&mut self) -> Result<(), Error> {
        let len = 1 + self.random(96 << 10);
        let at = self.random(SIZE - len);
        let bytes = vec![self.random(256) as u8; len];
        let result = self.volume.write_at(&bytes, at as u64);
        self.wanted[at..at + len].copy_from_slice(&bytes);
        result
    }

    /// Reads somewhere and compares.
    fn read(&mut self) {
        let len = 1 + self.random(96 << 10);
        let at = self.random(SIZE - len);
        let mut bytes = vec![0xee; len];
        self.volume.read_at(&mut bytes, at as u64).unwrap();
        assert!(bytes == self.wanted[at..at + len], "{len} bytes at {at}");
    }

    /// Writes, reads and flushes for some time; nothing fails.
    fn work(&mut self, time: Duration) -> usize {
        let begun = Instant::now();
        let mut count = 0;
        while begun.elapsed() < time {
            self.write().unwrap();
            self.read();
            if self.random(16) == 0 {
                self.volume.flush().unwrap();
            }
            count += 1;
        }
        count
    }

    /// Everything is there for who opens it anew.
    fn finish(self) {
        self.volume.close().unwrap();
        drop((self.volume, self.store));
        let store = Store::open(&self.location, StoreOptions::default()).unwrap();
        let mut bytes = vec![0xee; SIZE];
        store.open_volume("disk-one", Mode::ReadOnly).unwrap().read_at(&mut bytes, 0).unwrap();
        assert!(bytes == self.wanted);
    }
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn an_osd_that_is_killed_and_comes_back_loses_nothing() {
    let mut disk = Disk::new();
    disk.work(Duration::from_secs(1));
    // One of them: another is not to die before it has caught up, for what only the two have would wait for both.
    cluster("kill", "osd.0");
    assert!(disk.work(Duration::from_secs(6)) > 0);
    cluster("start", "osd.0");
    assert!(disk.work(Duration::from_secs(6)) > 0);
    disk.finish();
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn a_monitor_that_stands_still_holds_nobody_up_who_is_connected() {
    let mut disk = Disk::new();
    cluster("stop", "mon.a");
    assert!(disk.work(Duration::from_secs(3)) > 0);
    cluster("cont", "mon.a");
    disk.work(Duration::from_secs(1));
    disk.finish();
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn a_full_cluster_refuses_clearly_loses_nothing_and_goes_on_with_room() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let mut disk = Disk::new();
    disk.work(Duration::from_secs(1));
    cluster("full", "on");
    let begun = Instant::now();
    loop {
        match disk.write() {
            Ok(()) => {}
            Err(Error::NoSpace(_)) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < PATIENCE, "it is never full");
    }
    cluster("full", "off");
    let begun = Instant::now();
    // What was refused is written again, until all of it is there.
    let wanted = disk.wanted.clone();
    for at in (0..SIZE).step_by(1 << 20) {
        while let Err(error) = disk.volume.write_at(&wanted[at..at + (1 << 20)], at as u64) {
            assert!(matches!(error, Error::NoSpace(_)), "{error}");
            assert!(begun.elapsed() < PATIENCE, "there is never room again");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    disk.volume.flush().unwrap();
    disk.finish();
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn requests_end_in_time_where_no_osd_answers_and_nothing_acknowledged_is_lost() {
    const MANY: usize = 32;
    // With the usual time for requests until they are to end soon: the cluster may still be busy with what was done to it before.
    let usual = place();
    let mut disk = Disk::at(usual.clone());
    // So that what follows overwrites.
    let base = vec![1; 4 << 20];
    disk.volume.write_at(&base, 0).unwrap();
    disk.wanted[..base.len()].copy_from_slice(&base);
    disk.work(Duration::from_secs(1));
    disk.volume.write_at(&base, 0).unwrap();
    disk.wanted[..base.len()].copy_from_slice(&base);
    disk.volume.close().unwrap();
    let location = Location::Rados(RadosPlace { osd_timeout: 2, ..usual });
    let (store, volume) = in_time(|| {
        let store = Store::open(&location, StoreOptions::default())?;
        store.open_volume("disk-one", Mode::ReadWrite).map(|volume| (store, volume))
    });
    (disk.volume, disk.store) = (volume, store);
    for osd in ["osd.0", "osd.1", "osd.2"] {
        cluster("stop", osd);
    }
    let (queue, mut ended) = (CompletionQueue::new(), Vec::new());
    for number in 0..MANY as u64 {
        let (buf, offset) = (vec![2; 4096], number * 8192);
        let operation = match number % 2 {
            0 => Operation::Read { buf, offset },
            _ => Operation::Write { buf, offset, flags: WriteFlags::default() },
        };
        disk.volume.submit(operation, number, &queue).unwrap();
    }
    let read = disk.volume.read_at(&mut [0; 4096], 4096);
    assert!(matches!(&read, Err(Error::Timeout(_))), "{read:?}");
    queue.wait(&mut ended, MANY, Some(Duration::from_secs(60)));
    for osd in ["osd.0", "osd.1", "osd.2"] {
        cluster("cont", osd);
    }
    assert_eq!(ended.len(), MANY);
    for end in ended {
        assert!(matches!(&end.result, Err(Error::Timeout(_))), "{}: {:?}", end.tag, end.result);
    }
    // Of what failed nothing is known; it is written again, as soon as they answer, and in a row without waiting.
    in_time(|| (0..20).try_for_each(|_| disk.volume.write_at(&base, 0)));
    disk.finish();
}

/// What a request answers that is made again as long as it takes too long.
fn in_time<T>(mut request: impl FnMut() -> Result<T, Error>) -> T {
    let begun = Instant::now();
    loop {
        match request() {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(matches!(error, Error::Timeout(_)) && begun.elapsed() < Duration::from_secs(60), "{error}")
            }
        }
    }
}
