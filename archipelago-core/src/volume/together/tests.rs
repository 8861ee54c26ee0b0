//! What gets under way, what is left to calls, and what is held meanwhile, over a simulated disk whose requests end when they are waited for.

use std::time::{Duration, Instant};

use super::*;
use crate::blocker::file::{FileBlocker, FileOptions};
use crate::blocker::sim::SimDisk;
use crate::store::{Background, CreateOptions, InitOptions, ScrubOptions, Store, StoreOptions};
use crate::volume::Mode;

const SIZE: u64 = 4 << 20;
const MANY: usize = 16;

fn store(direct: bool) -> (Arc<SimDisk>, Store) {
    let disk = SimDisk::new();
    let blocker = FileBlocker::new(disk.clone(), FileOptions { direct, ..FileOptions::default() });
    blocker.make_layout().unwrap();
    let blocker = Arc::new(blocker);
    Store::init_on(blocker.clone(), &InitOptions { block_size: 64 << 10, ..InitOptions::default() }).unwrap();
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
    (disk, Store::open_on(blocker, options).unwrap())
}

/// A volume that is written from end to end, sector n with bytes n.
fn written(store: &Store) -> Volume {
    store.create("volume", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
    let all: Vec<u8> = (0..SIZE).map(|at| (at >> 12) as u8).collect();
    volume.write_at(&all, 0).unwrap();
    volume
}

/// Begins reads of the sectors `0..MANY`.
fn begin(together: &mut Together, volume: &Volume, bufs: &mut [Vec<u8>]) -> Vec<Begun> {
    let each = bufs.iter_mut().enumerate().map(|(n, buf)| {
        // SAFETY: the buffers are not touched before all ends were told.
        unsafe { together.read(volume, n, &mut [IoSliceMut::new(buf)], n as u64 * SECTOR) }.unwrap()
    });
    each.collect()
}

/// Ends all that is under way; returns the numbers in the order in which they were told.
fn end(together: &mut Together) -> Vec<usize> {
    let mut told = Vec::new();
    while together.count() > 0 {
        together.wait(1, &mut |number, result| {
            result.unwrap();
            told.push(number);
        });
    }
    told
}

fn sectors() -> Vec<Vec<u8>> {
    vec![vec![0xee; SECTOR as usize]; MANY]
}

fn are_right(bufs: &[Vec<u8>]) -> bool {
    bufs.iter().enumerate().all(|(n, buf)| buf.iter().all(|byte| *byte == n as u8))
}

#[test]
fn many_reads_are_under_way_and_end_in_any_order() {
    let (_disk, store) = store(true);
    let volume = written(&store);
    let mut together = store.together(MANY).unwrap().unwrap();
    let mut bufs = sectors();
    assert_eq!(begin(&mut together, &volume, &mut bufs), [Begun::UnderWay; MANY]);
    assert_eq!(together.count(), MANY);
    let told = end(&mut together);
    assert!(told.iter().eq((0..MANY).rev().collect::<Vec<_>>().iter()), "{told:?}");
    assert!(are_right(&bufs));
}

#[test]
fn without_a_disk_to_wait_for_there_is_nothing_to_have_under_way() {
    let (_disk, store) = store(false);
    assert!(store.together(MANY).unwrap().is_none());
}

#[test]
fn sealed_data_is_compared_at_its_end() {
    let (_disk, store) = store(true);
    let volume = written(&store);
    volume.snapshot("snapshot-1").unwrap();
    volume.close().unwrap();
    let snapshot = store.open_volume("snapshot-1", Mode::ReadOnly).unwrap();
    store.scrub(&ScrubOptions::default(), &mut |_| true).unwrap();
    // Whether blocks of this epoch were moved is known from the first read on.
    snapshot.read_at(&mut [0; 4096], 0).unwrap();
    let mut together = store.together(MANY).unwrap().unwrap();
    let mut bufs = sectors();
    assert_eq!(begin(&mut together, &snapshot, &mut bufs), [Begun::UnderWay; MANY]);
    end(&mut together);
    assert!(are_right(&bufs));
    // The bytes of a sector change behind its back.
    let object = Object::Data(volume.inner.id, 1);
    volume.inner.blocker().write(object, &[IoSlice::new(&[0xaa; 4096])], 3 * SECTOR).unwrap();
    let mut bufs = sectors();
    begin(&mut together, &snapshot, &mut bufs);
    let mut damaged = Vec::new();
    while together.count() > 0 {
        together.wait(1, &mut |number, result| {
            if matches!(result, Err(Error::Damaged { .. })) {
                damaged.push(number);
            }
        });
    }
    assert_eq!(damaged, [3]);
}

#[test]
fn whoever_stops_changes_waits_for_an_overwrite_that_is_under_way() {
    let (_disk, store) = store(true);
    let volume = written(&store);
    let mut together = store.together(MANY).unwrap().unwrap();
    let buf = [9; 4096];
    // SAFETY: the buffer lives to the end.
    let begun = unsafe { together.write(&volume, 0, &[IoSlice::new(&buf)], 5 * SECTOR) };
    assert_eq!(begun.unwrap(), Begun::UnderWay);
    assert!(volume.inner.stop_changes_for(Duration::from_millis(1)).is_none());
    assert!(!volume.inner.shared.operations.wait(Instant::now()));
    end(&mut together);
    assert!(volume.inner.stop_changes_for(Duration::from_millis(1)).is_some());
    assert!(volume.inner.shared.operations.wait(Instant::now() + Duration::from_secs(1)));
    let mut found = [0; 4096];
    volume.read_at(&mut found, 5 * SECTOR).unwrap();
    assert_eq!(found, [9; 4096]);
}

#[test]
fn a_flush_after_the_end_of_an_overwrite_makes_it_durable() {
    let (disk, store) = store(true);
    let volume = written(&store);
    volume.flush().unwrap();
    let mut together = store.together(1).unwrap().unwrap();
    let buf = [9; 4096];
    // SAFETY: the buffer lives to the end.
    unsafe { together.write(&volume, 0, &[IoSlice::new(&buf)], 5 * SECTOR) }.unwrap();
    end(&mut together);
    volume.flush().unwrap();
    let blocker = Arc::new(FileBlocker::new(disk.crash_at(u64::MAX, 0), FileOptions::default()));
    let store = Store::open_on(blocker, StoreOptions { background: Background::Manual, ..StoreOptions::default() });
    let volume = store.unwrap().open_volume("volume", Mode::ReadWrite).unwrap();
    let mut found = [0; 4096];
    volume.read_at(&mut found, 5 * SECTOR).unwrap();
    assert_eq!(found, [9; 4096]);
}

#[test]
fn what_is_no_overwrite_of_one_place_is_left_to_calls() {
    let (_disk, store) = store(true);
    let volume = written(&store);
    let mut together = store.together(2).unwrap().unwrap();
    let mut write = |number, len: usize, offset| {
        let buf = vec![1; len];
        // SAFETY: nothing of this gets under way.
        unsafe { together.write(&volume, number, &[IoSlice::new(&buf)], offset) }
    };
    assert_eq!(write(0, 512, 512).unwrap(), Begun::ByCall, "a part of a unit");
    assert_eq!(write(0, 8192, (64 << 10) - 4096).unwrap(), Begun::ByCall, "two blocks");
    assert_eq!(write(2, 4096, 0).unwrap(), Begun::ByCall, "no such number");
    assert!(matches!(write(0, 4096, SIZE), Err(Error::OutOfRange { .. })));
    volume.snapshot("snapshot-1").unwrap();
    assert_eq!(write(0, 4096, 0).unwrap(), Begun::ByCall, "a first write");
    volume.discard(0, 4096).unwrap();
    let mut zeros = vec![0xee; 4096];
    // SAFETY: it is done when this returns.
    let begun = unsafe { together.read(&volume, 0, &mut [IoSliceMut::new(&mut zeros)], 0) };
    assert_eq!(begun.unwrap(), Begun::Done);
    assert_eq!(zeros, [0; 4096]);
}
