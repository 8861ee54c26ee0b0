//! Content addressing over power cuts: after each I/O of an upload and of hashing, on both seams.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use archipelago_core::blocker::Object;
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::{SimDisk, Syncs};
use archipelago_core::store::content::{HashOptions, NewObject};
use archipelago_core::*;

#[path = "common/random.rs"]
mod random;
use random::bytes;
#[path = "common/seam.rs"]
mod seam;
use seam::{FATES, Seam};

const BLOCK: u64 = 64 << 10;
const SIZE: u64 = 8 * BLOCK - 1000;
fn open<S: Seam>(disk: &Arc<S>, seed: u64) -> Store {
    let options = StoreOptions { background: Background::Manual, seed: Some(seed), ..StoreOptions::default() };
    Store::open_on(disk.blocker(), options).unwrap()
}

/// Snapshots with blocks of every kind: slots, one twice, holes, zeros, pieces of two epochs and of the journal, an end
/// inside a block. Returns their bytes.
fn prepare<S: Seam>(disk: &Arc<S>) -> [Vec<u8>; 2] {
    Store::init_on(disk.blocker(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let store = open(disk, 1);
    store.create("volume-1", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("volume-1", Mode::ReadWrite).unwrap();
    let mut now = bytes(11, SIZE as usize);
    now.copy_within(0..BLOCK as usize, BLOCK as usize);
    volume.write_at(&now, 0).unwrap();
    volume.discard(2 * BLOCK + 8192, 4096).unwrap();
    now[(2 * BLOCK + 8192) as usize..][..4096].fill(0);
    volume.snapshot("snapshot-1").unwrap();
    let first = now.clone();
    volume.write_at(&bytes(12, 40 << 10), 3 * BLOCK).unwrap();
    now[(3 * BLOCK) as usize..][..40 << 10].copy_from_slice(&bytes(12, 40 << 10));
    volume.write_at(b"small", 5 * BLOCK + 700).unwrap();
    now[(5 * BLOCK + 700) as usize..][..5].copy_from_slice(b"small");
    volume.discard(6 * BLOCK, BLOCK).unwrap();
    now[(6 * BLOCK) as usize..(7 * BLOCK) as usize].fill(0);
    volume.snapshot("snapshot-2").unwrap();
    volume.close().unwrap();
    [first, now]
}

/// What was answered, and after which step.
#[derive(Default)]
struct Answers {
    put: Vec<(u64, Digest)>,
    hashed: Vec<(u64, &'static str)>,
    made: Vec<(u64, String)>,
}

fn list_of(data: &[u8]) -> Vec<Digest> {
    data.chunks(BLOCK as usize).map(|block| Digest::of(block).0).collect()
}

/// An upload, hashing, and maps of what both gave.
fn work<S: Seam>(disk: &Arc<S>, store: &Store, data: &[Vec<u8>; 2], upload: &[u8]) -> Result<Answers> {
    let mut answers = Answers::default();
    let claim = store.claim("an upload")?;
    for block in upload.chunks(BLOCK as usize) {
        let put = claim.put(block)?;
        if put.digest != Digest::ZERO {
            answers.put.push((disk.steps(), put.digest));
        }
    }
    claim.missing(&list_of(&data[1]))?;
    // The younger one first: it names slots of the older one's epoch in part.
    for (n, snapshot) in [(2, "snapshot-2"), (1, "snapshot-1")] {
        // In two runs.
        store.hash(snapshot, &HashOptions::default(), &mut |p| p.blocks < 4)?;
        store.hash(snapshot, &HashOptions::default(), &mut |_| true)?;
        answers.hashed.push((disk.steps(), snapshot));
        let name = format!("object-{n}");
        let new = NewObject { name: name.clone(), kind: Kind::Object, size: SIZE, block_size: None };
        store.create_object(&new, &mut list_of(&data[n - 1]).into_iter().map(Ok))?;
        answers.made.push((disk.steps(), name));
    }
    let size = upload.len() as u64;
    let new = NewObject { name: "object-0".into(), kind: Kind::Object, size, block_size: None };
    store.create_object(&new, &mut list_of(upload).into_iter().map(Ok))?;
    answers.made.push((disk.steps(), "object-0".into()));
    claim.end()?;
    answers.made.push((disk.steps(), "object-0".into()));
    Ok(answers)
}

fn read(store: &Store, name: &str) -> Vec<u8> {
    let volume = store.open_volume(name, Mode::ReadOnly).unwrap();
    let mut buf = vec![0xaa; volume.size() as usize];
    volume.read_at(&mut buf, 0).unwrap();
    buf
}

/// What must hold after a cut: what was answered is there, what is there is right, and everything goes on.
fn check<S: Seam>(disk: &Arc<S>, step: u64, answers: &Answers, data: &[Vec<u8>; 2], upload: &[u8]) {
    let store = open(disk, 5);
    let blocker = disk.blocker();
    store
        .contents(&mut |digest| {
            let mut content = vec![0; BLOCK as usize + 1];
            let len = blocker.read_some(Object::Content(digest), &mut content, 0)?;
            assert_eq!(Digest::of_bytes(&content[..len]), digest, "a content object is what its name says");
            Ok(())
        })
        .unwrap();
    for (_, digest) in answers.put.iter().filter(|(at, _)| *at <= step) {
        assert!(blocker.content_len(*digest).unwrap().is_some(), "{digest} was put, and is gone");
    }
    let expected = |name: &str| match name {
        "object-0" => upload,
        "object-1" | "snapshot-1" => &data[0][..],
        _ => &data[1][..],
    };
    for (_, name) in answers.made.iter().filter(|(at, _)| *at <= step) {
        assert!(store.info(name).is_ok(), "{name} was made, and is gone");
    }
    for (_, name) in answers.hashed.iter().filter(|(at, _)| *at <= step) {
        let mut list = Vec::new();
        store
            .digests(name, &mut |d| {
                list.push(d);
                Ok(())
            })
            .unwrap();
        assert_eq!(list, list_of(expected(name)), "{name} was hashed");
        assert_eq!(store.hash(name, &HashOptions::default(), &mut |_| true).unwrap().progress.hashed, 0);
    }
    for name in ["object-0", "object-1", "object-2", "snapshot-1", "snapshot-2", "volume-1"] {
        match store.info(name) {
            Ok(_) => assert!(read(&store, name) == expected(name), "{name} has other bytes"),
            Err(Error::NotFound(_)) if name.starts_with("object") => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }
    // All of it again: what is there already is found, the rest is made.
    for name in ["object-0", "object-1", "object-2"] {
        if store.info(name).is_ok() {
            store.remove(name).unwrap();
        }
    }
    work(disk, &store, data, upload).unwrap();
    for name in ["object-0", "object-1", "object-2", "snapshot-1", "snapshot-2", "volume-1"] {
        assert!(read(&store, name) == expected(name), "{name} has other bytes in the end");
    }
}

fn cuts<S: Seam>(stride: u64) {
    let disk = S::fresh();
    let data = prepare(&disk);
    let upload = [bytes(40, BLOCK as usize + 7000), vec![0; BLOCK as usize], bytes(41, 100)].concat();
    let start = disk.steps();
    let store = open(&disk, 4);
    let answers = work(&disk, &store, &data, &upload).unwrap();
    drop(store);
    let end = disk.steps();
    for step in (start..=end).step_by(stride as usize) {
        for fate in FATES {
            println!("cut after step {step} of {start}..{end}, fate {fate}");
            check(&disk.crash_at(step, fate), step, &answers, &data, &upload);
        }
        println!("killed after step {step} of {start}..{end}");
        check(&disk.kill_at(step), step, &answers, &data, &upload);
    }
}

#[test]
fn a_cut_after_any_io_of_uploads_and_hashing_loses_nothing_answered_on_the_memory_seam() {
    cuts::<MemoryBlocker>(1);
}

#[test]
fn a_cut_after_any_io_of_uploads_and_hashing_loses_nothing_answered_on_the_file_seam() {
    cuts::<SimDisk>(1);
}

#[test]
fn an_error_at_any_io_of_uploads_and_hashing_loses_nothing_and_the_next_try_succeeds() {
    fn errors<S: Seam>() {
        let disk = S::fresh();
        let data = prepare(&disk);
        let upload = bytes(40, BLOCK as usize + 7000);
        let base = disk.steps();
        let whole = disk.kill_at(base);
        work(&whole, &open(&whole, 4), &data, &upload).unwrap();
        for step in 1..=whole.steps() {
            for errno in [libc_eio(), libc_enospc()] {
                let disk = disk.kill_at(base);
                disk.fail_at(step, errno);
                let result = work(&disk, &open(&disk, 4), &data, &upload);
                println!("errno {errno} at step {step} of {}: {:?}", whole.steps(), result.as_ref().err());
                // A new process: a failed sync is final for the one that saw it.
                let now = disk.steps();
                let survivor = disk.crash_at(now, 0);
                check(&survivor, now, &result.unwrap_or_default(), &data, &upload);
            }
        }
    }
    errors::<MemoryBlocker>();
    errors::<SimDisk>();
}

fn libc_eio() -> i32 {
    5
}

fn libc_enospc() -> i32 {
    28
}

#[test]
fn syncs_of_content_that_do_nothing_are_found() {
    let found = std::panic::catch_unwind(|| {
        let disk = SimDisk::fresh();
        let data = prepare(&disk);
        let upload = bytes(40, BLOCK as usize + 7000);
        disk.drop_syncs(Syncs::Files);
        let store = open(&disk, 4);
        let answers = work(&disk, &store, &data, &upload).unwrap();
        for fate in 0..8 {
            check(&disk.crash_at(disk.steps(), fate), disk.steps(), &answers, &data, &upload);
        }
    });
    assert!(found.is_err(), "a disk that ignores syncs went unnoticed");
}
