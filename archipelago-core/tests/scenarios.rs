//! The acceptance scenarios of the storage layer, each under its number, and the faults of its predecessor that must
//! not come back. What concerns many threads at once is in `concurrency.rs`.
#![allow(clippy::unwrap_used)]

use std::sync::Barrier;
use std::thread;

use archipelago_core::*;
use tempfile::TempDir;

#[path = "common/random.rs"]
mod random;
use random::bytes;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

struct Site {
    _dir: TempDir,
    location: Location,
    store: Store,
}

fn site() -> Site {
    let dir = TempDir::new().unwrap();
    let location = Location::File(dir.path().join("store"));
    Store::init(&location, &InitOptions::default()).unwrap();
    let store = Store::open(&location, StoreOptions::default()).unwrap();
    Site { _dir: dir, location, store }
}

impl Site {
    /// The store as another process has it: nothing is shared but the files.
    fn other(&self) -> Store {
        Store::open(&self.location, StoreOptions::default()).unwrap()
    }

    /// Closes the store and opens it again.
    fn restart(self) -> Site {
        drop(self.store);
        let store = Store::open(&self.location, StoreOptions::default()).unwrap();
        Site { store, ..self }
    }

    fn make(&self, name: &str, size: u64) -> Result<VolumeInfo> {
        self.store.create(name, &CreateOptions { size, block_size: None })
    }

    fn open(&self, name: &str) -> Volume {
        self.store.open_volume(name, Mode::ReadWrite).unwrap()
    }

    fn reader(&self, name: &str) -> Volume {
        self.store.open_volume(name, Mode::ReadOnly).unwrap()
    }

    fn volume(&self, name: &str, size: u64) -> Volume {
        self.make(name, size).unwrap();
        self.open(name)
    }
}

fn read(volume: &Volume, offset: u64, len: u64) -> Vec<u8> {
    let mut buf = vec![0xaa; len as usize];
    volume.read_at(&mut buf, offset).unwrap();
    buf
}

fn zeros(volume: &Volume, offset: u64, len: u64) -> bool {
    read(volume, offset, len).iter().all(|b| *b == 0)
}

fn map(store: &Store, name: &str, offset: u64, len: u64) -> Vec<MapExtent> {
    let mut all = Vec::new();
    store
        .map_extents(name, offset, len, &mut |extent| {
            all.push(extent);
            Ok(())
        })
        .unwrap();
    all
}

/// The epochs in which the bytes of a range were written.
fn epochs(store: &Store, name: &str, offset: u64, len: u64) -> Vec<u64> {
    let epoch = |e: &MapExtent| match e.source {
        MapSource::Zero | MapSource::Content { .. } => None,
        MapSource::Data { epoch, .. } | MapSource::Log { epoch, .. } => Some(epoch),
    };
    map(store, name, offset, len).iter().filter_map(epoch).collect()
}

#[test]
fn scenario_01_a_missing_volume_cannot_be_opened_and_an_existing_one_any_number_of_times() {
    let s = site();
    let missing = s.store.open_volume("volume-a", Mode::ReadWrite).err().unwrap();
    assert_eq!(missing.errno(), libc::ENOENT);
    assert!(missing.to_string().contains("volume-a"));
    let first = s.volume("volume-a", 10 * MIB);
    let second = s.open("volume-a");
    first.write_at(b"shared", 5).unwrap();
    assert_eq!(read(&second, 5, 6), b"shared");
    drop((first, second));
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                assert_eq!(read(&s.open("volume-a"), 5, 6), b"shared");
            });
        }
    });
}

#[test]
fn scenario_02_a_volume_is_closed_once() {
    let s = site();
    let volume = s.volume("volume-a", 10 * MIB);
    let twin = volume.clone();
    volume.close().unwrap();
    for handle in [&volume, &twin] {
        assert!(matches!(handle.close(), Err(Error::NotOpen(_))));
        assert!(matches!(handle.write_at(b"x", 0), Err(Error::NotOpen(_))));
        assert!(matches!(handle.read_at(&mut [0], 0), Err(Error::NotOpen(_))));
        assert!(matches!(handle.flush(), Err(Error::NotOpen(_))));
        assert!(matches!(handle.snapshot("snapshot-a"), Err(Error::NotOpen(_))));
    }
    // A handle of before says nothing about a volume that was opened since.
    let again = s.open("volume-a");
    again.write_at(b"x", 0).unwrap();
    assert!(matches!(volume.close(), Err(Error::NotOpen(_))));
    again.close().unwrap();
}

#[test]
fn scenario_03_a_name_is_given_once_and_a_size_of_zero_refused() {
    let s = site();
    assert_eq!(s.make("volume-a", 0).unwrap_err().errno(), libc::EINVAL);
    assert!(matches!(s.store.info("volume-a"), Err(Error::NotFound(_))));
    s.make("volume-a", 10 * MIB).unwrap();
    assert_eq!(s.make("volume-a", 10 * MIB).unwrap_err().errno(), libc::EEXIST);
    let other = s.other();
    for round in 0..10 {
        let name = format!("parallel-{round}");
        let start = Barrier::new(4);
        let made: usize = thread::scope(|scope| {
            let attempt = |store: &Store| {
                start.wait();
                match store.create(&name, &CreateOptions { size: MIB, block_size: None }) {
                    Ok(_) => 1,
                    Err(error) => {
                        assert_eq!(error.errno(), libc::EEXIST, "{error}");
                        0
                    }
                }
            };
            let threads: Vec<_> =
                [&s.store, &other, &s.store, &other].map(|store| scope.spawn(move || attempt(store))).into();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(made, 1, "{name}");
    }
}

#[test]
fn scenario_04_info_tells_the_size() {
    let s = site();
    s.make("volume-a", 10 * MIB).unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(s.store.info("volume-a").unwrap().size, 10_485_760));
        }
    });
    assert_eq!(s.store.info("volume-b").unwrap_err().errno(), libc::ENOENT);
}

#[test]
fn scenario_05_what_is_written_is_read_and_a_range_past_the_end_changes_nothing() {
    let s = site();
    assert!(s.store.open_volume("volume-a", Mode::ReadOnly).is_err());
    let size = 10 * MIB;
    let volume = s.volume("volume-a", size);
    let data = bytes(1, 1024);
    volume.write_at(&data, 0).unwrap();
    assert_eq!(read(&volume, 0, 1024), data);
    assert!(zeros(&volume, 1024, size - 1024));
    for (offset, len) in [(size - 1, size), (size, 1), (size + 1, 1), (u64::MAX - 5, 10), (u64::MAX, 1)] {
        let bytes = vec![7; len as usize];
        for error in [
            volume.write_at(&bytes, offset).unwrap_err(),
            volume.read_at(&mut bytes.clone(), offset).unwrap_err(),
            volume.discard(offset, len).unwrap_err(),
            volume.write_zeroes(offset, len, true, WriteFlags::default()).unwrap_err(),
            volume.extents(offset, len, 10).unwrap_err(),
        ] {
            assert_eq!(error.errno(), libc::EINVAL, "{error}");
        }
    }
    assert_eq!(read(&volume, 0, 1024), data);
    assert!(zeros(&volume, 1024, size - 1024), "nothing was changed");
    volume.write_at(&[9], size - 1).unwrap();
    assert_eq!(read(&volume, size - 1, 1), [9]);
    volume.write_at(&[], size).unwrap();
}

#[test]
fn scenario_06_a_map_covers_the_volume_and_its_offsets_are_exact() {
    let s = site();
    s.make("volume-a", 10 * MIB).unwrap();
    let whole = MapExtent { offset: 0, len: 10 * MIB, source: MapSource::Zero };
    assert_eq!(map(&s.store, "volume-a", 0, 10 * MIB), [whole]);
    let large = s.volume("volume-b", 100 * GIB);
    large.write_at(&bytes(2, 8 << 20), 90 * GIB).unwrap();
    let found = map(&s.store, "volume-b", 90 * GIB - 2, 512 << 10);
    let parts: Vec<_> = found.iter().map(|e| (e.offset, e.len, e.source == MapSource::Zero)).collect();
    assert_eq!(parts, [(90 * GIB - 2, 2, true), (90 * GIB, 524_286, false)]);
    let all: u64 = map(&s.store, "volume-b", 0, u64::MAX).iter().map(|e| e.len).sum();
    assert_eq!(all, 100 * GIB);
}

#[test]
fn scenario_08_a_removed_volume_is_gone_and_its_name_means_another_one_later() {
    let s = site();
    let volume = s.volume("volume-a", 10 * MIB);
    volume.write_at(&bytes(3, 10 << 20), 0).unwrap();
    let id = volume.info().unwrap().id;
    assert!(matches!(s.store.remove("volume-a"), Err(Error::Busy(_))), "not while it is open");
    volume.close().unwrap();
    s.store.remove("volume-a").unwrap();
    assert!(matches!(s.store.remove("volume-a"), Err(Error::NotFound(_))));
    assert!(matches!(s.store.open_volume("volume-a", Mode::ReadWrite), Err(Error::NotFound(_))));
    assert!(s.store.list(&ListOptions::default()).unwrap().entries.is_empty());
    let volume = s.volume("volume-a", 10 * MIB);
    assert_ne!(volume.info().unwrap().id, id, "no id is used again, and so no name of a block");
    assert!(zeros(&volume, 0, 10 * MIB));
    volume.write_at(&[1], 5 * MIB).unwrap();
    assert!(zeros(&volume, 0, 5 * MIB), "what the first write does not cover is not the old data");
}

#[test]
fn scenario_09_snapshot_isolation() {
    let s = site();
    let volume = s.volume("volume-a", 100 * GIB);
    let (at, len, a) = (90 * GIB, 10 * MIB, bytes(4, 10 << 20));
    assert!(zeros(&volume, at, len));
    volume.snapshot("snapshot-1").unwrap();
    volume.write_at(&a, at).unwrap();
    assert!(zeros(&s.reader("snapshot-1"), at, len));
    assert!(read(&volume, at, len) == a);
    let before = epochs(&s.store, "volume-a", at, len);
    volume.snapshot("snapshot-3").unwrap();
    assert!(read(&s.reader("snapshot-3"), at, len) == a);
    assert_eq!(volume.snapshot("snapshot-1").unwrap_err().errno(), libc::EEXIST);
    volume.write_at(&bytes(5, 4096), at).unwrap();
    assert!(read(&s.reader("snapshot-3"), at, len) == a);
    let after = epochs(&s.store, "volume-a", at, 4096);
    assert!(after[0] > before[0], "what is written after a snapshot goes to a new epoch: {before:?} {after:?}");
}

#[test]
fn scenario_10_a_clone_starts_as_its_snapshot_and_goes_its_own_way() {
    let s = site();
    let volume = s.volume("volume-a", 100 * GIB);
    let (at, len, a, b) = (90 * GIB, 10 * MIB, bytes(6, 10 << 20), bytes(7, 10 << 20));
    volume.snapshot("snapshot-1").unwrap();
    volume.write_at(&a, at).unwrap();
    volume.snapshot("snapshot-3").unwrap();
    let clone = |name: &str, size| s.store.clone_snapshot("snapshot-3", name, &CloneOptions { size });
    assert_eq!(clone("clone-1", None).unwrap().size, 100 * GIB);
    assert_eq!(clone("clone-2", Some(2)).unwrap_err().errno(), libc::EINVAL);
    assert!(matches!(s.store.info("clone-2"), Err(Error::NotFound(_))));
    clone("clone-2", Some(200 * GIB)).unwrap();
    assert_eq!(s.store.info("clone-2").unwrap().size, 200 * GIB);
    let live = s.store.clone_snapshot("volume-a", "clone-3", &CloneOptions::default());
    assert!(matches!(live, Err(Error::NotSnapshot(_))));
    let two = s.open("clone-2");
    assert!(zeros(&two, 100 * GIB, 64 * MIB) && zeros(&two, 200 * GIB - MIB, MIB));
    two.write_at(&b, at).unwrap();
    assert!(read(&two, at, len) == b);
    assert!(read(&s.reader("snapshot-3"), at, len) == a);
    assert!(read(&volume, at, len) == a);
    assert!(read(&s.open("clone-1"), at, len) == a);
    assert!(zeros(&s.reader("snapshot-1"), at, len));
}

#[test]
fn scenario_11_a_snapshot_is_never_written() {
    let s = site();
    let volume = s.volume("volume-a", 10 * MIB);
    volume.write_at(b"kept", 0).unwrap();
    volume.snapshot("snapshot-a").unwrap();
    assert_eq!(s.store.open_volume("snapshot-a", Mode::ReadWrite).err().unwrap().errno(), libc::EROFS);
    let snapshot = s.reader("snapshot-a");
    assert!(snapshot.read_only());
    let flags = WriteFlags::default();
    for error in [
        snapshot.write_at(b"x", 0).unwrap_err(),
        snapshot.discard(0, 4096).unwrap_err(),
        snapshot.write_zeroes(0, 4096, false, flags).unwrap_err(),
        snapshot.resize(20 * MIB, false).unwrap_err(),
    ] {
        assert_eq!(error.errno(), libc::EROFS, "{error}");
    }
    snapshot.flush().unwrap();
    assert_eq!(read(&snapshot, 0, 4), b"kept");
    // Reading left no lock: another process may remove it.
    drop(snapshot);
    s.other().remove("snapshot-a").unwrap();
}

#[test]
fn scenario_13_a_rename_moves_everything() {
    let s = site();
    assert!(matches!(s.store.rename("volume-a", "volume-b"), Err(Error::NotFound(_))));
    let volume = s.volume("volume-a", 10 * MIB);
    let data = bytes(8, 1 << 20);
    volume.write_at(&data, MIB).unwrap();
    volume.rename("volume-b").unwrap();
    assert!(matches!(s.store.open_volume("volume-a", Mode::ReadOnly), Err(Error::NotFound(_))));
    assert!(read(&volume, MIB, MIB) == data);
    assert!(matches!(s.make("volume-b", MIB), Err(Error::Exists(_))));
    s.make("volume-c", MIB).unwrap();
    assert!(matches!(volume.rename("volume-c"), Err(Error::Exists(_))));
    volume.snapshot("snapshot-b").unwrap();
    volume.write_at(&[1; 4096], MIB).unwrap();
    assert_eq!(epochs(&s.store, "volume-b", MIB, 4096), [2]);
    volume.close().unwrap();
    let s = s.restart();
    let expect = [&[1; 4096], &data[4096..]].concat();
    assert!(read(&s.reader("volume-b"), MIB, MIB) == expect);
    assert!(read(&s.reader("snapshot-b"), MIB, MIB) == data);
    assert!(matches!(s.store.info("volume-a"), Err(Error::NotFound(_))));
    s.make("volume-a", MIB).unwrap();
}

#[test]
fn scenario_14_thirteen_writes_a_flush_and_six_writes_submitted_at_once_all_succeed() {
    let s = site();
    let volume = s.volume("volume-a", 64 * MIB);
    let queue = CompletionQueue::new();
    let submit = |operation, tag| volume.submit(operation, tag, &queue).map_err(|(error, _)| error).unwrap();
    for tag in 0..20u64 {
        if tag == 13 {
            submit(Operation::Flush, tag);
            continue;
        }
        let len = if tag % 2 == 0 { 4096 } else { 100_000 };
        submit(Operation::Write { buf: bytes(tag, len), offset: tag * MIB, flags: WriteFlags::default() }, tag);
    }
    let mut done = Vec::new();
    while done.len() < 20 {
        queue.wait(&mut done, 1, None);
    }
    let mut tags: Vec<u64> = done.iter().map(|c| c.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..20).collect::<Vec<_>>());
    for completion in done {
        completion.result.unwrap();
        if completion.tag != 13 {
            let mut buf = completion.buf;
            let expect = buf.clone();
            buf.fill(0);
            submit(Operation::Read { buf, offset: completion.tag * MIB }, completion.tag);
            let mut back = Vec::new();
            queue.wait(&mut back, 1, None);
            assert!(back.remove(0).buf == expect);
        }
    }
    assert!(matches!(s.store.open_volume("volume-b", Mode::ReadWrite), Err(Error::NotFound(_))));
}

#[test]
fn scenario_17_one_process_owns_a_volume_until_it_lets_go() {
    let s = site();
    let volume = s.volume("volume-a", 10 * MIB);
    let again = s.open("volume-a");
    let other = s.other();
    let refused = other.open_volume("volume-a", Mode::ReadWrite).err().unwrap();
    let Error::OpenElsewhere { name, owner, .. } = &refused else { panic!("{refused}") };
    assert_eq!((name.as_str(), owner.pid, refused.errno()), ("volume-a", std::process::id(), libc::EBUSY));
    assert!(owner.since > 0 && !owner.host.is_empty() && !owner.command.is_empty());
    drop(volume);
    assert!(other.open_volume("volume-a", Mode::ReadWrite).is_err(), "one handle is left");
    again.close().unwrap();
    let volume = other.open_volume("volume-a", Mode::ReadWrite).unwrap();
    assert!(s.store.open_volume("volume-a", Mode::ReadWrite).is_err());
    volume.close().unwrap();
    s.open("volume-a").close().unwrap();
}

#[test]
fn scenario_18_a_volume_open_elsewhere_is_not_read_and_its_snapshots_are() {
    let s = site();
    let volume = s.volume("volume-a", 10 * MIB);
    volume.write_at(b"first", 0).unwrap();
    volume.snapshot("snapshot-a").unwrap();
    volume.write_at(b"later", 0).unwrap();
    let other = s.other();
    for mode in [Mode::ReadOnly, Mode::ReadWrite] {
        assert_eq!(other.open_volume("volume-a", mode).err().unwrap().errno(), libc::EBUSY);
    }
    let one = other.open_volume("snapshot-a", Mode::ReadOnly).unwrap();
    let two = other.open_volume("snapshot-a", Mode::ReadOnly).unwrap();
    assert_eq!((read(&one, 0, 5), read(&two, 0, 5)), (b"first".to_vec(), b"first".to_vec()));
    // Through the owner: it takes the snapshot, and it has what was written.
    other.snapshot("volume-a", "snapshot-b").unwrap();
    assert_eq!(read(&other.open_volume("snapshot-b", Mode::ReadOnly).unwrap(), 0, 5), b"later");
}

#[test]
fn scenario_25_a_snapshot_can_be_removed_and_its_clones_keep_everything() {
    let s = site();
    let volume = s.volume("volume-a", 10 * MIB);
    let data = bytes(9, 10 << 20);
    volume.write_at(&data, 0).unwrap();
    volume.write_at(&data[..4096], 8192).unwrap();
    let mut expect = data.clone();
    expect[8192..12288].copy_from_slice(&data[..4096]);
    volume.snapshot("snapshot-a").unwrap();
    s.store.clone_snapshot("snapshot-a", "clone-a", &CloneOptions::default()).unwrap();
    s.store.remove("snapshot-a").unwrap();
    assert_eq!(s.store.info("snapshot-a").unwrap_err().errno(), libc::ENOENT);
    volume.write_at(&vec![1; 10 << 20], 0).unwrap();
    volume.flush().unwrap();
    assert!(read(&s.open("clone-a"), 0, 10 * MIB) == expect);
    volume.snapshot("snapshot-a").unwrap();
    assert!(read(&s.reader("snapshot-a"), 0, 10 * MIB).iter().all(|b| *b == 1));
    volume.close().unwrap();
    s.store.remove("volume-a").unwrap();
    let s = s.restart();
    assert!(read(&s.open("clone-a"), 0, 10 * MIB) == expect);
}

#[test]
fn scenario_26_growing_keeps_the_old_and_shows_zeros_and_shrinking_has_to_be_asked_for() {
    let s = site();
    let volume = s.volume("volume-a", 10 * MIB);
    let data = bytes(10, 1 << 20);
    volume.write_at(&data, 9 * MIB).unwrap();
    volume.checkpoint().unwrap();
    let before = map(&s.store, "volume-a", 9 * MIB, MIB);
    volume.resize(20 * MIB, false).unwrap();
    assert_eq!((volume.size(), s.store.info("volume-a").unwrap().size), (20 * MIB, 20 * MIB));
    assert!(read(&volume, 9 * MIB, MIB) == data && zeros(&volume, 10 * MIB, 10 * MIB));
    volume.write_at(&data, 9 * MIB).unwrap();
    assert_eq!(map(&s.store, "volume-a", 9 * MIB, MIB), before, "written where it was");
    assert_eq!(volume.resize(5 * MIB, false).unwrap_err().errno(), libc::EINVAL);
    assert_eq!(volume.size(), 20 * MIB);
    volume.resize(9 * MIB + 100, true).unwrap();
    volume.resize(20 * MIB, false).unwrap();
    assert!(read(&volume, 9 * MIB, 100) == data[..100]);
    assert!(zeros(&volume, 9 * MIB + 100, 20 * MIB - 9 * MIB - 100));
    volume.close().unwrap();
    let s = s.restart();
    assert!(zeros(&s.open("volume-a"), 9 * MIB + 100, 20 * MIB - 9 * MIB - 100));
}

#[test]
fn scenario_28_names_that_collide_with_the_old_formats_are_refused() {
    let s = site();
    let long = "x".repeat(83);
    for name in ["short", "archip_xyz", "volume_lock", "vol_0123456789abcdef", "a/../b/c", "..", "", long.as_str()] {
        let error = s.make(name, MIB).unwrap_err();
        assert!(matches!(error, Error::InvalidName { .. }), "{name:?}: {error}");
        assert_eq!(error.errno(), libc::EINVAL);
    }
    let volume = s.volume(&"x".repeat(82), MIB);
    assert!(matches!(volume.snapshot("short"), Err(Error::InvalidName { .. })));
    assert!(matches!(volume.rename("volume_lock"), Err(Error::InvalidName { .. })));
    volume.snapshot("sixsix").unwrap();
    let clone = s.store.clone_snapshot("sixsix", "archip_xyz", &CloneOptions::default());
    assert!(matches!(clone, Err(Error::InvalidName { .. })));
}

// --- faults of the predecessor ---

#[test]
fn fault_1_a_block_is_read_as_zeros_before_its_first_write_and_beside_it() {
    let s = site();
    let volume = s.volume("volume-a", 64 * MIB);
    for (i, (offset, len)) in [(100, 1), (4 * MIB, 4096), (9 * MIB, 40_000), (20 * MIB, MIB)].into_iter().enumerate() {
        let block = offset & !(4 * MIB - 1);
        assert!(zeros(&volume, block, 4 * MIB));
        volume.write_at(&vec![1; len as usize], offset).unwrap();
        for volume in [volume.clone(), if i == 3 { s.open("volume-a") } else { volume.clone() }] {
            assert!(zeros(&volume, block, offset - block));
            assert!(zeros(&volume, offset + len, block + 4 * MIB - offset - len));
        }
    }
    volume.close().unwrap();
    let s = s.restart();
    assert!(zeros(&s.reader("volume-a"), 40 * MIB, 24 * MIB));
}

#[test]
fn fault_4_a_clone_has_the_blocks_of_its_snapshot() {
    let s = site();
    s.store.create("volume-a", &CreateOptions { size: 10 * MIB, block_size: Some(64 << 10) }).unwrap();
    let volume = s.open("volume-a");
    let data = bytes(11, 1 << 20);
    volume.write_at(&data, 0).unwrap();
    volume.snapshot("snapshot-a").unwrap();
    s.store.clone_snapshot("snapshot-a", "clone-a", &CloneOptions::default()).unwrap();
    assert_eq!(s.store.info("clone-a").unwrap().block_size, 64 << 10);
    let clone = s.open("clone-a");
    clone.write_at(b"edge", (64 << 10) - 2).unwrap();
    let mut expect = data;
    expect[(64 << 10) - 2..(64 << 10) + 2].copy_from_slice(b"edge");
    assert!(read(&clone, 0, MIB) == expect);
    for size in [0, 1, 128, 4096, 65_535, 100_000, 128 << 20] {
        let made = s.store.create("volume-b", &CreateOptions { size: MIB, block_size: Some(size) });
        assert_eq!(made.unwrap_err().errno(), libc::EINVAL, "{size}");
    }
}

#[test]
fn fault_5_bytes_that_were_cut_off_never_come_back_not_even_beside_a_small_write() {
    let s = site();
    let volume = s.volume("volume-a", 16 * MIB);
    volume.write_at(&vec![0xee; 16 << 20], 0).unwrap();
    for checkpoint in [false, true] {
        volume.resize(5 * MIB + 10, true).unwrap();
        if checkpoint {
            volume.checkpoint().unwrap();
        }
        volume.resize(16 * MIB, false).unwrap();
        volume.write_at(&[1; 10], 6 * MIB + 5).unwrap();
        volume.write_at(&[2; 10], 5 * MIB + 100).unwrap();
        assert!(zeros(&volume, 5 * MIB + 10, 90) && zeros(&volume, 5 * MIB + 110, MIB - 110 + 5));
        assert!(zeros(&volume, 6 * MIB + 15, 10 * MIB - 15));
        volume.write_at(&vec![0xee; 16 << 20], 0).unwrap();
    }
}

#[test]
fn fault_6_names_of_removed_and_renamed_snapshots_are_free_again() {
    let s = site();
    let volume = s.volume("volume-a", MIB);
    for round in 0..3u8 {
        volume.write_at(&[round + 1], 0).unwrap();
        volume.snapshot("snapshot-a").unwrap();
        assert_eq!(read(&s.reader("snapshot-a"), 0, 1), [round + 1]);
        s.store.rename("snapshot-a", "snapshot-b").unwrap();
        volume.snapshot("snapshot-a").unwrap();
        s.store.remove("snapshot-a").unwrap();
        s.store.remove("snapshot-b").unwrap();
        s.make("snapshot-b", MIB).unwrap();
        s.store.remove("snapshot-b").unwrap();
    }
}

#[test]
fn fault_13_what_was_removed_leaves_no_name_and_is_counted_until_it_is_collected() {
    let s = site();
    for name in ["volume-a", "volume-b"] {
        let volume = s.volume(name, MIB);
        volume.write_at(&[1; 100], 0).unwrap();
        volume.snapshot(&format!("snap-of-{name}")).unwrap();
        volume.close().unwrap();
    }
    for name in ["volume-a", "snap-of-volume-b", "snap-of-volume-a", "volume-b"] {
        s.store.remove(name).unwrap();
    }
    let status = s.store.status().unwrap();
    assert_eq!((status.volumes, status.snapshots, status.trashed), (0, 0, 4));
    assert!(s.store.list(&ListOptions::default()).unwrap().entries.is_empty());
}
