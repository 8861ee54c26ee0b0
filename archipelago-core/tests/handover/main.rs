//! A volume that several processes stand by for, and hand to one another (docs/architecture.md, "Handover"). Every process here is a real
//! one, a copy of this test program.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use archipelago_core::{CreateOptions, Error, InitOptions, Location, Mode, Sharing, Store};
use tempfile::TempDir;

mod child;
mod cuts;
mod history;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/seam.rs"]
mod seam;
mod storm;

use child::{DISK, Process, options};

#[test]
fn child_process() {
    child::run();
}

/// A store with a volume.
struct Site {
    dir: TempDir,
    location: Location,
    store: Store,
}

impl Site {
    fn new() -> Site {
        let dir = TempDir::new().unwrap();
        let location = Location::File(dir.path().join("store"));
        Store::init(&location, &InitOptions { block_size: 64 << 10, mode: 0o660, group: None }).unwrap();
        let store = Store::open(&location, options()).unwrap();
        store.create(DISK, &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
        Site { dir, location, store }
    }

    /// Another process that stands by.
    fn process(&self, number: u64) -> Process {
        Process::start(&self.location, self.dir.path(), number, number)
    }
}

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_volume_goes_to_whose_request_needs_it_with_everything_that_was_written() {
    let site = Site::new();
    let standby = site.store.stand_by(DISK, Sharing::Shared).unwrap();
    let mut other = site.process(1);
    assert!(!standby.state().owns && other.ok("owns") == "false", "nobody has it before a request");
    standby.hold().unwrap().write_at(b"mine", 7).unwrap();
    assert!(standby.state().owns);
    other.ok("touch");
    assert!(!standby.state().owns && other.ok("owns") == "true");
    // There is nothing to flush where it is not.
    standby.flush().unwrap();
    assert_eq!(other.ok("owns"), "true");
    let mut bytes = [0; 4];
    standby.hold().unwrap().read_at(&mut bytes, 7).unwrap();
    assert_eq!(&bytes, b"mine");
    assert_eq!(other.ok("owns"), "false");
}

#[test]
fn nobody_is_robbed_of_a_volume_that_he_did_not_share() {
    let site = Site::new();
    let mut other = site.process(1);
    let plain = site.store.open_volume(DISK, Mode::ReadWrite).unwrap();
    // It waits in vain for the one that is not its to take.
    other.send("touch");
    plain.write_at(b"still", 0).unwrap();
    assert_eq!(other.answer(), Err(libc::EBUSY));
    plain.write_at(b"mine!", 0).unwrap();
    plain.close().unwrap();
    // Who stands by and keeps it does so too.
    other.ok("sharing exclusive");
    let Err(Error::OpenElsewhere { owner, .. }) = site.store.take_over(DISK, SHORT) else { panic!("taken") };
    assert_eq!(owner.pid, other.pid());
    other.ok("sharing shared");
    let taken = site.store.take_over(DISK, SHORT).unwrap();
    let mut bytes = [0; 5];
    taken.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"mine!");
    // From whom it was taken for good does not ask for it again by itself.
    assert_eq!(other.say("touch"), Err(libc::EBUSY));
    taken.close().unwrap();
    assert_eq!(other.say("touch"), Err(libc::EBUSY));
    other.ok("sharing shared");
    other.ok("touch");
}

#[test]
fn a_volume_that_is_closed_here_is_neither_had_nor_taken() {
    let site = Site::new();
    let standby = site.store.stand_by(DISK, Sharing::Shared).unwrap();
    standby.hold().unwrap().write_at(b"flushed by that", 0).unwrap();
    standby.set_sharing(Sharing::Closed).unwrap();
    standby.set_sharing(Sharing::Closed).unwrap();
    assert!(matches!(standby.hold().map(|_| ()), Err(Error::GivenUp(_))));
    standby.flush().unwrap();
    assert_eq!(site.store.info(DISK).unwrap().open_by, None);
    assert!(matches!(site.store.stand_by(DISK, Sharing::Closed).map(|_| ()), Err(Error::Busy(_))), "one in a process");
    standby.set_sharing(Sharing::Exclusive).unwrap();
    let mut bytes = [0; 15];
    standby.hold().unwrap().read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"flushed by that");
    standby.close().unwrap();
    assert!(matches!(standby.hold().map(|_| ()), Err(Error::NotOpen(_))));
    site.store.stand_by(DISK, Sharing::Shared).unwrap().hold().unwrap();
    assert_eq!(site.store.info(DISK).unwrap().open_by, None, "dropped, it is given up");
}

#[test]
fn an_owner_that_is_stopped_keeps_the_volume_and_is_named_until_it_dies() {
    let site = Site::new();
    let mut other = site.process(1);
    other.ok("touch");
    other.signal(libc::SIGSTOP);
    let Err(Error::OpenElsewhere { owner, advice, .. }) = site.store.take_over(DISK, SHORT) else { panic!("taken") };
    assert_eq!(owner.pid, other.pid());
    assert!(advice.contains("stopped"), "{advice}");
    other.kill();
    site.store.take_over(DISK, SHORT).unwrap();
}

#[test]
fn the_size_is_known_without_the_volume_and_never_stale() {
    let site = Site::new();
    let standby = site.store.stand_by(DISK, Sharing::Closed).unwrap();
    let mut other = site.process(1);
    other.ok("touch");
    for (size, shrink) in [(3 << 20, false), ((2 << 20) + 512, true)] {
        site.store.resize(DISK, size, shrink).unwrap();
        assert_eq!((standby.size(), other.ok("size")), (size, size.to_string()));
    }
    other.ok("sharing closed");
    // Nobody has it.
    site.store.resize(DISK, 4 << 20, false).unwrap();
    assert_eq!((standby.size(), other.ok("size")), (4 << 20, (4u64 << 20).to_string()));
    other.ok("sharing shared");
    other.ok("touch");
    site.store.rename(DISK, "disk-other").unwrap();
    standby.set_sharing(Sharing::Shared).unwrap();
    assert_eq!(standby.hold().unwrap().size(), 4 << 20, "it goes by its id");
    assert_eq!(standby.name(), "disk-other");
}

#[test]
fn what_is_under_way_ends_before_a_volume_is_given_away() {
    let site = Site::new();
    let standby = site.store.stand_by(DISK, Sharing::Shared).unwrap();
    let held = standby.hold().unwrap();
    let mut other = site.process(1);
    other.send("touch");
    std::thread::sleep(SHORT);
    held.write_at(b"before", 0).unwrap();
    drop(held);
    other.answer().unwrap();
    assert!(!standby.state().owns);
}
