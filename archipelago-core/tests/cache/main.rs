//! Volumes that are written through a cache: what they hold while it is in use, who is refused, and (`cuts`) what is left wherever it is cut.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::sim::SimDisk;
use archipelago_core::{
    Background, CacheOptions, CloneOptions, CreateOptions, Error, InitOptions, Location, Mode, Operation, Store,
    StoreOptions, Volume, WriteFlags,
};

mod cuts;

#[path = "../common/random.rs"]
mod random;
use random::Random;

const BLOCK: u64 = 64 << 10;
/// Smallest ring in which there is room for some records.
const RING: u64 = 64 << 10;
const NAME: &str = "volume-1";

/// Each opening draws other ids.
fn options() -> StoreOptions {
    static SEED: AtomicU64 = AtomicU64::new(1);
    StoreOptions {
        background: Background::Manual,
        node_cache: 1 << 20,
        first_segment: 64 << 10,
        seed: Some(SEED.fetch_add(1, Ordering::Relaxed)),
        ..StoreOptions::default()
    }
}

/// A simulated disk with a store in which there is one volume of this size.
fn disk(size: u64) -> Arc<SimDisk> {
    let disk = SimDisk::new();
    let blocker = Arc::new(FileBlocker::new(disk.clone(), FileOptions::default()));
    blocker.make_layout().unwrap();
    Store::init_on(blocker, &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    store(&disk).create(NAME, &CreateOptions { size, block_size: None }).unwrap();
    disk
}

fn store(disk: &Arc<SimDisk>) -> Store {
    Store::open_on(Arc::new(FileBlocker::new(disk.clone(), FileOptions::default())), options()).unwrap()
}

fn read(volume: &Volume) -> Vec<u8> {
    let mut bytes = vec![0xee; volume.size() as usize];
    volume.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn is_refused<T>(result: Result<T, Error>, says: &str) {
    match result {
        Err(error @ Error::Cached(_)) => assert!(error.to_string().contains(says), "{error}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was opened, where it says {says:?} otherwise"),
    }
}

/// Takes a handle away as a kill does: nothing is closed.
fn die(store: Store, volume: Volume) {
    std::mem::forget((store, volume));
}

#[test]
fn a_volume_with_a_cache_reads_as_one_without_however_full_the_cache_is() {
    const SIZE: usize = 600 << 10;
    let disk = disk(SIZE as u64);
    let store = store(&disk);
    let volume = store.open_cached_on(NAME, disk.clone(), "cache", RING).unwrap();
    let (mut random, mut model) = (Random(1), vec![0; SIZE]);
    for round in 0..3000u64 {
        let offset = random.below(SIZE as u64 - 1);
        let len = (1 + random.below(if round % 10 == 0 { 100 << 10 } else { 6000 })).min(SIZE as u64 - offset);
        let (from, to) = (offset as usize, (offset + len) as usize);
        match random.below(10) {
            0 => {
                volume.write_zeroes(offset, len, random.below(2) == 0, WriteFlags::default()).unwrap();
                model[from..to].fill(0);
            }
            1 => {
                volume.discard(offset, len).unwrap();
                let (from, to) = (from.next_multiple_of(4096), to / 4096 * 4096);
                model[from.min(to)..to].fill(0);
            }
            2 => assert!(volume.drain_cache().is_ok()),
            _ => {
                volume.write_at(&vec![round as u8; len as usize], offset).unwrap();
                model[from..to].fill(round as u8);
            }
        }
        let offset = random.below(SIZE as u64 - 1) as usize;
        let mut bytes = vec![0xee; (1 + random.below(40_000) as usize).min(SIZE - offset)];
        volume.read_at(&mut bytes, offset as u64).unwrap();
        assert!(bytes == model[offset..offset + bytes.len()], "round {round}: {} bytes at {offset}", bytes.len());
    }
    let extents = volume.extents(0, SIZE as u64, 1000).unwrap();
    for extent in extents.iter().filter(|extent| extent.zero) {
        let (from, to) = (extent.offset as usize, (extent.offset + extent.len) as usize);
        assert!(model[from..to].iter().all(|byte| *byte == 0), "{extent:?}");
    }
    volume.close().unwrap();
    assert!(read(&store.open_volume(NAME, Mode::ReadOnly).unwrap()) == model);
}

#[test]
fn who_has_not_the_cache_is_refused_until_it_is_given_up() {
    let disk = disk(1 << 20);
    let first = store(&disk);
    first.create("volume-2", &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
    let volume = first.open_cached_on(NAME, disk.clone(), "cache", RING).unwrap();
    volume.write_at(b"in the volume", 0).unwrap();
    while volume.drain_cache().unwrap() {}
    volume.write_at(b"in the cache!", 0).unwrap();
    volume.flush().unwrap();
    // One cache is one volume's, and one process's.
    let second = first.open_cached_on("volume-2", disk.clone(), "cache", RING).map(|_| ());
    assert!(matches!(&second, Err(Error::Busy(_))), "{second:?}");
    die(first, volume);

    let disk = disk.kill_at(disk.steps());
    let again = store(&disk);
    let other = again.open_cached_on("volume-2", disk.clone(), "cache", RING).map(|_| ());
    assert!(matches!(&other, Err(Error::InvalidArgument(text)) if text.contains("file of its own")), "{other:?}");
    is_refused(again.open_volume(NAME, Mode::ReadWrite).map(|_| ()), "which was not named");
    is_refused(again.open_volume(NAME, Mode::ReadOnly).map(|_| ()), "on localhost");
    is_refused(again.snapshot(NAME, "snapshot-1").map(|_| ()), "discard-cache");
    is_refused(again.resize(NAME, 2 << 20, false), "which was not named");
    is_refused(again.open_cached_on(NAME, SimDisk::new(), "cache", RING).map(|_| ()), "is empty");
    // With it all is there.
    {
        let volume = again.open_cached_on(NAME, disk.clone(), "cache", RING).unwrap();
        assert_eq!(&read(&volume)[..13], b"in the cache!");
        die(again, volume);
    }
    // Without it, what was in the volume.
    let disk = disk.kill_at(disk.steps());
    let last = store(&disk);
    let given_up = last.discard_cache(NAME).unwrap().unwrap();
    assert_eq!(given_up.host, "localhost");
    assert_eq!(last.discard_cache(NAME).unwrap(), None);
    assert_eq!(&read(&last.open_volume(NAME, Mode::ReadOnly).unwrap())[..13], b"in the volume");
    // The old file may be used again, and says nothing of what was in it.
    let volume = last.open_cached_on(NAME, disk.clone(), "cache", RING).unwrap();
    assert_eq!(&read(&volume)[..13], b"in the volume");
    volume.close().unwrap();
}

#[test]
fn an_older_file_of_the_same_volume_is_not_its_cache() {
    let disk = disk(1 << 20);
    let first = store(&disk);
    let volume = first.open_cached_on(NAME, disk.clone(), "cache", RING).unwrap();
    let before = disk.kill_at(disk.steps());
    volume.close().unwrap();
    let volume = first.open_cached_on(NAME, disk.clone(), "cache", RING).unwrap();
    volume.write_at(&[1; 4096], 0).unwrap();
    volume.flush().unwrap();
    die(first, volume);
    let disk = disk.kill_at(disk.steps());
    is_refused(store(&disk).open_cached_on(NAME, before, "cache", RING).map(|_| ()), "is an older one");
}

#[test]
fn a_file_that_is_something_else_is_left_alone() {
    use archipelago_core::blocker::sys::{Open, Sys};
    let disk = disk(1 << 20);
    let fd = disk.open("precious", Open::CreateNew).unwrap();
    disk.pwritev(fd, &[std::io::IoSlice::new(b"a letter")], 100_000).unwrap();
    disk.close(fd);
    let opened = store(&disk).open_cached_on(NAME, disk.clone(), "precious", RING).map(|_| ());
    assert!(matches!(&opened, Err(Error::InvalidArgument(text)) if text.contains("something else")), "{opened:?}");
    let fd = disk.open("precious", Open::Read).unwrap();
    assert_eq!(disk.len(fd).unwrap(), 100_008);
}

#[test]
fn what_shares_or_changes_the_volume_as_a_whole_finds_it_whole() {
    let disk = disk(1 << 20);
    let store = store(&disk);
    store.create("volume-2", &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
    let volume = store.open_cached_on(NAME, disk.clone(), "cache-1", RING).unwrap();
    let other = store.open_cached_on("volume-2", disk.clone(), "cache-2", RING).unwrap();
    volume.write_at(&[1; 8192], 4000).unwrap();
    store.snapshot(NAME, "snapshot-1").unwrap();
    volume.write_at(&[2; 8192], 4000).unwrap();
    other.write_at(&[3; 8192], 4000).unwrap();
    let both = [(NAME, "member-1"), ("volume-2", "member-2")].map(|(v, s)| (v.to_string(), s.to_string()));
    store.snapshot_group(&both).unwrap();
    volume.write_at(&[4; 8192], 4000).unwrap();
    let byte = |name: &str| read(&store.open_volume(name, Mode::ReadOnly).unwrap())[5000];
    assert_eq!(["snapshot-1", "member-1", "member-2"].map(byte), [1, 2, 3]);
    // Snapshots and clones know nothing of the cache.
    store.clone_snapshot("member-1", "clone-1", &CloneOptions::default()).unwrap();
    assert_eq!(byte("clone-1"), 2);
    // What is cut off does not come back.
    volume.write_at(&[5; 4096], (1 << 20) - 4096).unwrap();
    store.resize(NAME, 512 << 10, true).unwrap();
    assert!(matches!(volume.write_at(&[6; 4096], 512 << 10), Err(Error::OutOfRange { .. })));
    store.resize(NAME, 1 << 20, false).unwrap();
    let bytes = read(&volume);
    assert_eq!((bytes[5000], bytes[(1 << 20) - 1]), (4, 0));
    volume.close().unwrap();
    other.close().unwrap();
    assert!(matches!(volume.read_at(&mut [0; 1], 0), Err(Error::NotOpen(_))));
    // The file is free at once.
    store.open_cached_on(NAME, disk.clone(), "cache-1", RING).unwrap().close().unwrap();
}

#[test]
fn a_file_that_fails_promises_nothing_any_more() {
    let disk = disk(1 << 20);
    let store = store(&disk);
    let own = SimDisk::new();
    let volume = store.open_cached_on(NAME, own.clone(), "cache", RING).unwrap();
    volume.write_at(&[1; 4096], 0).unwrap();
    own.fail_at(own.steps() + 1, libc::EIO);
    assert!(volume.flush().is_err());
    own.clear_failures();
    assert!(matches!(volume.flush(), Err(Error::Poisoned(_))));
    assert!(matches!(volume.write_at(&[2; 4096], 0), Err(Error::Poisoned(_))));
    assert!(volume.close().is_err());
    // The volume says that not all is in it.
    is_refused(store.open_volume(NAME, Mode::ReadOnly).map(|_| ()), "which was not named");
}

/// Real threads and a real file: writers, readers, flushes, submitted operations, snapshots, and the thread that empties the cache.
#[test]
fn many_threads_find_what_they_wrote_and_snapshots_have_a_moment_of_each() {
    const THREADS: u64 = 4;
    const PART: u64 = 256 << 10;
    let dir = tempfile::tempdir().unwrap();
    let location = Location::File(dir.path().join("store"));
    Store::init(&location, &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let store = Store::open(&location, StoreOptions::default()).unwrap();
    store.create(NAME, &CreateOptions { size: THREADS * PART, block_size: None }).unwrap();
    let cache = CacheOptions { size: 16 << 20, ..CacheOptions::new(dir.path().join("cache")) };
    let volume = store.open_cached(NAME, &cache).unwrap();
    std::thread::scope(|scope| {
        for part in 0..THREADS {
            let volume = &volume;
            scope.spawn(move || {
                let queue = archipelago_core::CompletionQueue::new();
                let mut done = Vec::new();
                let mut random = Random(part + 1);
                for round in 1..=120u64 {
                    // The number of the round in all of the part, a piece after the other.
                    for at in (0..PART).step_by(32 << 10) {
                        let bytes = vec![round as u8; 32 << 10];
                        let offset = part * PART + at;
                        if random.below(2) == 0 {
                            volume.write_at(&bytes, offset).unwrap();
                            continue;
                        }
                        let write = Operation::Write { buf: bytes, offset, flags: WriteFlags::default() };
                        volume.submit(write, round, &queue).unwrap();
                        queue.wait(&mut done, 1, None);
                        assert!(done.drain(..).all(|completion| completion.result.is_ok()));
                    }
                    if random.below(4) == 0 {
                        volume.flush().unwrap();
                    }
                    let mut bytes = vec![0; PART as usize];
                    volume.read_at(&mut bytes, part * PART).unwrap();
                    assert!(bytes.iter().all(|byte| *byte == round as u8), "part {part}, round {round}");
                }
            });
        }
        for number in 0..10 {
            volume.snapshot(&format!("snapshot-{number}")).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    for number in 0..10 {
        let bytes = read(&store.open_volume(&format!("snapshot-{number}"), Mode::ReadOnly).unwrap());
        for part in bytes.chunks(PART as usize) {
            // Of two rounds that follow each other, the newer in front.
            assert!(part.windows(2).all(|two| two[0] == two[1] || two[0] == two[1] + 1), "snapshot {number}");
            assert!(part[0] - part[part.len() - 1] <= 1, "snapshot {number}");
        }
    }
    volume.close().unwrap();
    assert!(read(&store.open_volume(NAME, Mode::ReadOnly).unwrap()).iter().all(|byte| *byte == 120));
}
