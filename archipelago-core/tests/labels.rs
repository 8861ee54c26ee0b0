//! Labels of volumes and snapshots: who has them, who may change them, and what is left of them when the power goes.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::SimDisk;
use archipelago_core::*;

#[path = "common/seam.rs"]
mod seam;
use seam::{FATES, Seam};

fn options() -> StoreOptions {
    StoreOptions { background: Background::Manual, first_segment: 64 << 10, seed: Some(7), ..StoreOptions::default() }
}

/// Labels of a map as text: `key=value` with blanks between.
fn labels(store: &Store, name: &str) -> String {
    let labels = store.info(name).unwrap().labels;
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn names(found: Vec<VolumeInfo>) -> Vec<String> {
    found.into_iter().map(|info| info.name).collect()
}

#[test]
fn neither_snapshots_nor_clones_have_the_labels_of_what_they_are_made_of() {
    let blocker = MemoryBlocker::fresh().blocker();
    Store::init_on(blocker.clone(), &InitOptions::default()).unwrap();
    let store = Store::open_on(blocker, options()).unwrap();
    let size = CreateOptions { size: 1 << 20, block_size: None };
    store.create_labelled("volume-1", &size, &[("a", Some("1"))]).unwrap();
    assert!(store.info("volume-1").unwrap().untouched);
    store.open_volume("volume-1", Mode::ReadWrite).unwrap().write_at(&[1; 4096], 0).unwrap();
    assert!(!store.info("volume-1").unwrap().untouched);
    store.snapshot("volume-1", "snap-1").unwrap();
    store.snapshot_group(&[("volume-1".into(), "snap-2".into())]).unwrap();
    store.clone_snapshot("snap-1", "clone-1", &CloneOptions::default()).unwrap();
    store.clone_labelled("snap-1", "clone-2", &CloneOptions::default(), &[("b", Some("2"))]).unwrap();
    for name in ["snap-1", "snap-2", "clone-1"] {
        assert_eq!(labels(&store, name), "", "{name}");
    }
    assert_eq!((labels(&store, "volume-1"), labels(&store, "clone-2")), ("a=1".into(), "b=2".into()));
    assert!(store.info("clone-2").unwrap().untouched && !store.info("snap-1").unwrap().untouched);
    // Nor has what is made of a map whose labels were set later.
    store.set_labels("snap-1", &[("c", Some("3"))]).unwrap();
    store.clone_snapshot("snap-1", "clone-3", &CloneOptions::default()).unwrap();
    assert_eq!((labels(&store, "snap-1"), labels(&store, "clone-3")), ("c=3".into(), String::new()));
    store.rename("volume-1", "volume-2").unwrap();
    store.resize("volume-2", 2 << 20, false).unwrap();
    assert_eq!(labels(&store, "volume-2"), "a=1");
    assert_eq!(names(store.find_labelled("a", "1").unwrap()), ["volume-2"]);
    assert!(store.find_labelled("a", "2").unwrap().is_empty());
    store.remove("volume-2").unwrap();
    assert!(store.find_labelled("a", "1").unwrap().is_empty());
    assert!(matches!(store.set_labels("volume-2", &[]), Err(Error::NotFound(_))));
    let bad = store.create_labelled("volume-3", &size, &[("a", Some(""))]);
    assert!(matches!(bad, Err(Error::InvalidArgument(_))) && store.info("volume-3").is_err());
}

#[test]
fn labels_of_a_volume_that_another_process_has_open_are_set_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::File(dir.path().join("store"));
    Store::init(&location, &InitOptions::default()).unwrap();
    let open = || Store::open(&location, StoreOptions::default()).unwrap();
    let (here, there) = (open(), open());
    here.create("volume-1", &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
    let volume = there.open_volume("volume-1", Mode::ReadWrite).unwrap();
    volume.write_at(&[1; 4096], 0).unwrap();
    here.set_labels("volume-1", &[("a", Some("1")), ("b", Some("2"))]).unwrap();
    here.set_labels("volume-1", &[("b", None)]).unwrap();
    here.flush("volume-1").unwrap();
    assert_eq!((labels(&here, "volume-1"), labels(&there, "volume-1")), ("a=1".into(), "a=1".into()));
    assert!(matches!(here.set_labels("volume-1", &[("A", Some("1"))]), Err(Error::InvalidArgument(_))));
    volume.close().unwrap();
    assert_eq!(labels(&here, "volume-1"), "a=1");
}

/// What happens to labels in a history that is cut after each of its calls.
fn history(store: &Store) {
    let labels = [("a", Some("1")), ("b", Some("1"))];
    store.create_labelled("volume-1", &CreateOptions { size: 1 << 20, block_size: None }, &labels).unwrap();
    let volume = store.open_volume("volume-1", Mode::ReadWrite).unwrap();
    volume.write_at(&[1; 4096], 0).unwrap();
    store.set_labels("volume-1", &[("a", Some("2")), ("b", Some("2"))]).unwrap();
    store.snapshot("volume-1", "snap-1").unwrap();
    store.set_labels("snap-1", &[("a", Some("3")), ("b", Some("3"))]).unwrap();
    volume.close().unwrap();
}

fn cut_everywhere<D: Seam>() {
    let disk = D::fresh();
    Store::init_on(disk.blocker(), &InitOptions::default()).unwrap();
    let first = disk.steps();
    let store = Store::open_on(disk.blocker(), options()).unwrap();
    history(&store);
    drop(store);
    let last = disk.steps();
    let mut seen = std::collections::BTreeSet::new();
    for step in first..=last {
        for survivor in FATES.map(|fate| disk.crash_at(step, fate)).into_iter().chain([disk.kill_at(step)]) {
            let store = Store::open_on(Arc::clone(&survivor).blocker(), options()).unwrap();
            for (name, allowed) in [("volume-1", &["a=1 b=1", "a=2 b=2"][..]), ("snap-1", &["", "a=3 b=3"])] {
                if store.info(name).is_ok() {
                    let found = labels(&store, name);
                    assert!(allowed.contains(&found.as_str()), "{name} has {found:?} when it is cut after step {step}");
                    seen.insert((name, found));
                }
            }
        }
    }
    assert_eq!(seen.len(), 4, "every state was seen: {seen:?}");
}

#[test]
fn labels_are_set_all_together_or_not_at_all_whenever_the_power_goes_in_memory() {
    cut_everywhere::<MemoryBlocker>();
}

#[test]
fn labels_are_set_all_together_or_not_at_all_whenever_the_power_goes_on_files() {
    cut_everywhere::<SimDisk>();
}
