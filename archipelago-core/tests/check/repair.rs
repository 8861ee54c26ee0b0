//! Repairs that are cut short.

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::{Blocker, RecordKey, VolumeId};
use archipelago_core::format::header::Header;
use archipelago_core::*;

use crate::{BLOCK, SIZE, check, id_of, options};

#[test]
fn a_repair_may_be_cut_at_any_call_and_is_finished_by_the_next() {
    use archipelago_core::blocker::sim::SimDisk;
    use archipelago_core::blocker::sys::{Open, Sys};
    use std::io::IoSlice;
    use std::sync::Arc;
    static SEEDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let open = |disk: &Arc<SimDisk>| {
        let blocker = FileBlocker::new(disk.clone(), FileOptions::default());
        // Each store gives ids of its own, as processes do.
        let seed = Some(3 + SEEDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        Store::open_on(Arc::new(blocker), StoreOptions { seed, ..options() }).unwrap()
    };
    let disk = SimDisk::new();
    let blocker = Arc::new(FileBlocker::new(disk.clone(), FileOptions::default()));
    blocker.make_layout().unwrap();
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let store = open(&disk);
    let ids: Vec<VolumeId> = ["damaged-1", "unnamed-1", "unnamed-2", "renamed-1", "removed-1", "unlinked"]
        .iter()
        .map(|name| {
            store.create(name, &CreateOptions { size: SIZE, block_size: None }).unwrap();
            let volume = store.open_volume(name, Mode::ReadWrite).unwrap();
            volume.write_at(&[7; 4096], 0).unwrap();
            volume.close().unwrap();
            id_of(&store, name)
        })
        .collect();
    drop(store);
    // One of each kind of what is repaired.
    let fd = disk.open(&format!("catalog/h.{}", ids[0]), Open::ReadWrite).unwrap();
    disk.pwritev(fd, &[IoSlice::new(&[0xee; 900])], 0).unwrap();
    disk.pwritev(fd, &[IoSlice::new(&[0xee; 900])], 4096).unwrap();
    disk.fdatasync(fd).unwrap();
    disk.close(fd);
    disk.unlink("catalog/n.unnamed-1").unwrap();
    disk.unlink("catalog/n.unnamed-2").unwrap();
    disk.sync_dir("catalog").unwrap();
    open(&disk).create("unnamed-2", &CreateOptions { size: 1, block_size: None }).unwrap();
    blocker.bind_name("other-name", ids[3]).unwrap();
    let record = blocker.read_record(RecordKey::Header(ids[4])).unwrap();
    let header = Header { removed: true, ..Header::decode("h", &record.bytes).unwrap() };
    blocker.commit_record(RecordKey::Header(ids[4]), record.version, &header.encode()).unwrap();
    disk.unlink(&format!("catalog/h.{}", ids[5])).unwrap();
    disk.sync_dir("catalog").unwrap();

    let before = check(&open(&disk), false);
    assert!(before.findings.len() >= 6, "{before:#?}");
    disk.forget_history();
    let base = disk.steps();
    let first = check(&open(&disk), true);
    assert_eq!(first.worst(), None, "{first:#?}");
    assert!(disk.steps() > base + 15);
    for step in base..=disk.steps() {
        for crash in [0, 1, 2, 3] {
            let left = disk.crash_at(step, crash);
            let at = format!("cut at step {step} of {base}..{} (crash seed {crash})", disk.steps());
            let again = check(&open(&left), true);
            assert_eq!(again.worst(), None, "{at}: {again:#?}");
            let after = check(&open(&left), false);
            assert_eq!(after.findings, vec![], "{at}");
            let page = open(&left).list(&ListOptions::default()).unwrap();
            let names: Vec<&str> = page.entries.iter().map(|e| e.name.as_str()).collect();
            let found = format!("unnamed-2.found-{}", ids[2]);
            assert_eq!(names, ["renamed-1", "unlinked", "unnamed-1", "unnamed-2", &found], "{at}");
            let mut aside = after.aside.clone();
            aside.sort();
            assert_eq!(aside, [format!("lost/h.{}", ids[0]), "lost/n.damaged-1".into()], "{at}");
        }
    }
}
