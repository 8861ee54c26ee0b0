//! Reads and overwrites take nothing from the heap: a request that waits for the allocator waits for every other thread that does.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};

use archipelago_core::{
    Background, CompletionQueue, CreateOptions, InitOptions, Location, Mode, Operation, ScrubOptions, Store,
    StoreOptions, Volume, WriteFlags,
};

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts what each thread asks of it.
struct Counting;

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending counts no more.
        let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZE: u64 = 8 << 20;
const BLOCK: u64 = 64 << 10;
const SECTOR: u64 = 4096;

/// What this thread took while `job` ran, which has run once before: what is kept from then on does not count.
fn taken(mut job: impl FnMut()) -> u64 {
    job();
    let before = TAKEN.get();
    job();
    TAKEN.get() - before
}

/// Places all over the volume.
fn places() -> impl Iterator<Item = u64> {
    (0..SIZE / SECTOR).map(|n| n * 7 % (SIZE / SECTOR) * SECTOR)
}

fn reads(volume: &Volume, len: usize, shift: u64) -> u64 {
    let mut buf = vec![0; len];
    taken(|| {
        for at in places() {
            volume.read_at(&mut buf, (at + shift).min(SIZE - len as u64)).unwrap();
        }
    })
}

fn overwrites(volume: &Volume, len: usize, shift: u64) -> u64 {
    let buf = vec![9; len];
    taken(|| {
        for at in places() {
            volume.write_at(&buf, (at + shift).min(SIZE - len as u64)).unwrap();
        }
    })
}

fn store(dir: &std::path::Path) -> Store {
    opened(dir, StoreOptions::default())
}

fn opened(dir: &std::path::Path, options: StoreOptions) -> Store {
    let location = Location::File(dir.join("store"));
    Store::init(&location, &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    Store::open(&location, StoreOptions { background: Background::Manual, ..options }).unwrap()
}

fn written(store: &Store) -> Volume {
    store.create("volume", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
    volume.write_at(&vec![7; SIZE as usize], 0).unwrap();
    volume
}

#[test]
fn the_allocator_is_counted() {
    assert_eq!(taken(|| drop(std::hint::black_box(vec![1u8; 100]))), 1);
}

#[test]
fn reads_and_overwrites_take_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let volume = written(&store);
    // In the table of what is not folded yet, and in the tree.
    for folded in [false, true] {
        if folded {
            volume.checkpoint().unwrap();
        }
        assert_eq!(reads(&volume, 4096, 0), 0, "folded: {folded}");
        assert_eq!(reads(&volume, 512, 1024), 0, "folded: {folded}");
        assert_eq!(reads(&volume, 64 << 10, 4096), 0, "over the border of a block; folded: {folded}");
        assert_eq!(overwrites(&volume, 4096, 0), 0, "folded: {folded}");
        assert_eq!(overwrites(&volume, 512, 1024), 0, "folded: {folded}");
    }
    let (mut one, mut two) = ([0; 1000], [0; 3096]);
    let many = taken(|| {
        for at in places() {
            volume.read(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)], at).unwrap();
            volume.write(&[IoSlice::new(&one), IoSlice::new(&two)], at, WriteFlags::default()).unwrap();
        }
    });
    assert_eq!(many, 0, "of several buffers");
}

/// Needs TMPDIR on a disk.
#[test]
fn reads_and_overwrites_past_the_page_cache_take_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(dir.path(), StoreOptions { direct: true, ..StoreOptions::default() });
    let volume = written(&store);
    let mut memory = vec![0; 3 * SECTOR as usize];
    let start = memory.as_ptr().align_offset(SECTOR as usize);
    let counts = |memory: &mut [u8], shift: u64| {
        taken(|| {
            for at in places().take(200) {
                let at = (at + shift).min(SIZE - memory.len() as u64);
                volume.read_at(memory, at).unwrap();
                volume.write_at(memory, at).unwrap();
            }
        })
    };
    assert_eq!(counts(&mut memory[start..start + 4096], 0), 0, "as they are");
    assert_eq!(counts(&mut memory[start + 7..start + 7 + 4096], 0), 0, "of memory that lies elsewhere");
    assert_eq!(counts(&mut memory[start + 7..start + 7 + 1000], 333), 0, "of parts of sectors");
}

#[test]
fn reads_of_many_places_and_of_a_journal_take_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let volume = written(&store);
    volume.snapshot("snapshot-1").unwrap();
    for block in 0..SIZE / BLOCK {
        for sector in [2, 5, 11] {
            volume.write_at(&[8; 4096], block * BLOCK + sector * SECTOR).unwrap();
        }
    }
    volume.checkpoint().unwrap();
    // Or checksums of what the snapshot shares would be looked for now and then.
    store.scrub(&ScrubOptions::default(), &mut |_| true).unwrap();
    assert_eq!(reads(&volume, 4096, 0), 0);
    assert_eq!(reads(&volume, 8192, 100), 0);
    // What lies in the journal is overwritten there.
    let buf = [1; 4096];
    let journal =
        taken(|| (0..SIZE / BLOCK).for_each(|block| volume.write_at(&buf, block * BLOCK + 5 * SECTOR).unwrap()));
    assert_eq!(journal, 0);
}

#[test]
fn reads_that_are_compared_with_checksums_take_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let volume = written(&store);
    volume.snapshot("snapshot-1").unwrap();
    volume.close().unwrap();
    let snapshot = store.open_volume("snapshot-1", Mode::ReadOnly).unwrap();
    let mut buf = [0; 4096];
    // Checksums that are not there are looked for anew now and then, but not as soon as this.
    let few = taken(|| (0..100).for_each(|n| snapshot.read_at(&mut buf, n * SECTOR).unwrap()));
    assert_eq!(few, 0, "without checksums");
    let report = store.scrub(&ScrubOptions::default(), &mut |_| true).unwrap();
    assert_eq!(report.made, SIZE);
    for (len, shift) in [(4096, 0), (512, 1024), (8192, 512), (32 << 10, 0)] {
        assert_eq!(reads(&snapshot, len, shift), 0, "{len} bytes");
    }
}

#[test]
fn submitted_reads_and_overwrites_of_cached_data_take_nothing() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = store(dir.path());
    let volume = written(&store);
    let queue = CompletionQueue::new();
    let (mut buf, mut ended) = (vec![0; 4096], Vec::with_capacity(1));
    let each = taken(|| {
        for (n, offset) in places().enumerate() {
            let held = std::mem::take(&mut buf);
            let operation = match n % 2 {
                0 => Operation::Read { buf: held, offset },
                _ => Operation::Write { buf: held, offset, flags: WriteFlags::default() },
            };
            volume.submit(operation, n as u64, &queue).unwrap();
            // It is there already.
            assert_eq!(queue.poll(&mut ended), 1);
            let completion = ended.pop().unwrap();
            completion.result.unwrap();
            buf = completion.buf;
        }
    });
    assert_eq!(each, 0);
}
