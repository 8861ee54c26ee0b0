//! Operations that are submitted to a volume, against what must be there.

use archipelago_core::*;

#[path = "random.rs"]
pub mod random;
use random::{Random, bytes};

pub const BLOCK: u64 = 64 << 10;
pub const SIZE: u64 = 24 * BLOCK;

pub fn options() -> StoreOptions {
    StoreOptions {
        background: Background::Manual,
        max_unfolded: 1 << 20,
        first_segment: 64 << 10,
        ..StoreOptions::default()
    }
}

/// Submits one operation and waits for its end.
fn submitted(volume: &Volume, operation: Operation) -> (Vec<u8>, Result<()>) {
    let (queue, mut ended) = (CompletionQueue::new(), Vec::new());
    volume.submit(operation, 7, &queue).unwrap();
    queue.wait(&mut ended, 1, None);
    let Completion { tag, buf, result } = ended.pop().unwrap();
    assert_eq!((tag, ended.len(), queue.outstanding()), (7, 0, 0));
    (buf, result)
}

fn read(volume: &Volume, from: u64, len: usize) -> Vec<u8> {
    let (buf, result) = submitted(volume, Operation::Read { buf: vec![0xee; len], offset: from });
    result.unwrap();
    buf
}

/// One operation after the other, with snapshots in between.
pub fn history(store: &Store, seed: u64) {
    store.create("volume-a", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("volume-a", Mode::ReadWrite).unwrap();
    let (mut content, mut random) = (vec![0; SIZE as usize], Random(seed));
    let mut snapshots: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..1500 {
        // Sectors, pieces of them, and more than is ever carried out at once.
        let len = [4096, 4096, 512, 9000, 100_000][random.below(5) as usize];
        let unit = if random.below(3) == 0 { 1 } else { 4096 };
        let from = random.below(SIZE - len + 1) / unit * unit;
        let range = from as usize..(from + len) as usize;
        match random.below(20) {
            0..=8 => {
                let buf = bytes(seed ^ round, len as usize);
                content[range].copy_from_slice(&buf);
                let flags = WriteFlags { fua: random.below(8) == 0 };
                submitted(&volume, Operation::Write { buf, offset: from, flags }).1.unwrap();
            }
            9..=14 => assert_eq!(read(&volume, from, len as usize), content[range], "round {round}"),
            15 => submitted(&volume, Operation::Flush).1.unwrap(),
            16 => {
                content[range].fill(0);
                let zeroes =
                    Operation::WriteZeroes { offset: from, len, allocate: false, flags: WriteFlags::default() };
                submitted(&volume, zeroes).1.unwrap();
            }
            17 => volume.checkpoint().unwrap(),
            18 if round % 8 == 0 => {
                let name = format!("snap-{round}");
                volume.snapshot(&name).unwrap();
                snapshots.push((name, content.clone()));
            }
            18 => drop(store.scrub(&ScrubOptions::default(), &mut |_| true).unwrap()),
            _ => {
                let Some((name, content)) = snapshots.last() else { continue };
                let snapshot = store.open_volume(name, Mode::ReadOnly).unwrap();
                // Twice: what is known from the first time is used the second time.
                for _ in 0..2 {
                    assert_eq!(read(&snapshot, from, len as usize), content[range.clone()], "round {round}");
                }
            }
        }
    }
    assert!(snapshots.len() > 2);
    let past = submitted(&volume, Operation::Read { buf: vec![0; 4096], offset: SIZE - 1 });
    assert!(matches!(past.1, Err(Error::OutOfRange { .. })));
    let (name, _) = snapshots.pop().unwrap();
    let snapshot = store.open_volume(&name, Mode::ReadOnly).unwrap();
    let write = Operation::Write { buf: vec![1; 4096], offset: 0, flags: WriteFlags::default() };
    let (buf, refused) = submitted(&snapshot, write);
    assert!(matches!(refused, Err(Error::ReadOnly(_))));
    assert_eq!(buf, [1; 4096]);
    volume.close().unwrap();
    let closed = submitted(&volume, Operation::Read { buf: vec![0; 4096], offset: 0 });
    assert!(matches!(closed.1, Err(Error::NotOpen(_))));
}

/// Many operations are under way at once, and a snapshot is taken among them by who did not collect their ends.
pub fn together(store: &Store, seed: u64) {
    const SECTOR: u64 = 4096;
    const MANY: u64 = 60;
    store.create("volume-a", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("volume-a", Mode::ReadWrite).unwrap();
    let mut content = bytes(seed, SIZE as usize);
    volume.write_at(&content, 0).unwrap();
    let (queue, mut random, mut ended) = (CompletionQueue::new(), Random(seed), Vec::new());
    let mut snapshots: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..60u64 {
        let mut written = vec![None; MANY as usize];
        let first = random.below(SIZE / SECTOR - 4 * MANY);
        let mut taken = None;
        for n in 0..MANY {
            // Places that do not overlap; some lie badly, some are of several sectors.
            let (shift, len) = [(0, 4096), (0, 8192), (512, 1024), (100, 700)][random.below(4) as usize];
            let offset = (first + 3 * n) * SECTOR + shift;
            let operation = if random.below(2) == 0 {
                let buf = bytes(seed ^ round ^ n << 32, len);
                written[n as usize] = Some((offset, buf.clone()));
                Operation::Write { buf, offset, flags: WriteFlags::default() }
            } else {
                Operation::Read { buf: vec![0xee; len], offset }
            };
            volume.submit(operation, offset, &queue).unwrap();
            if n == MANY / 2 && round % 6 == 0 {
                taken = Some(format!("snap-{round}"));
                volume.snapshot(&format!("snap-{round}")).unwrap();
            }
            if n % 16 == 0 && round % 7 == 0 {
                volume.checkpoint().unwrap();
            }
        }
        while queue.outstanding() > 0 {
            queue.wait(&mut ended, 1, None);
        }
        let old = content.clone();
        for (offset, buf) in written.into_iter().flatten() {
            content[offset as usize..][..buf.len()].copy_from_slice(&buf);
        }
        for Completion { tag, buf, result } in ended.drain(..) {
            result.unwrap();
            assert!(content[tag as usize..][..buf.len()] == buf, "round {round}: {} bytes at {tag}", buf.len());
        }
        if let Some(name) = taken {
            let found = read(&store.open_volume(&name, Mode::ReadOnly).unwrap(), 0, SIZE as usize);
            let mut each = found.iter().zip(old.iter().zip(&content));
            assert!(each.all(|(found, (old, new))| found == old || found == new), "round {round}");
            snapshots.push((name, found));
        }
    }
    assert!(read(&volume, 0, SIZE as usize) == content);
    for (name, found) in snapshots {
        let snapshot = store.open_volume(&name, Mode::ReadOnly).unwrap();
        assert!(read(&snapshot, 0, SIZE as usize) == found, "{name} changed");
    }
    volume.close().unwrap();
    assert!(read(&store.open_volume("volume-a", Mode::ReadWrite).unwrap(), 0, SIZE as usize) == content);
}
