//! Group snapshots and power cuts.
#![allow(clippy::unwrap_used)]

#[path = "common/disk.rs"]
mod disk;

use archipelago_core::{CreateOptions, Error, Mode, Store};
use disk::Disk;

const SIZE: u64 = 300_000;

fn members(count: usize) -> Vec<(String, String)> {
    (0..count).map(|n| (format!("volume-{n}"), format!("snap-{n}"))).collect()
}

/// What volume `n` holds when the group is taken.
fn wanted(n: usize) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    bytes[5..8].copy_from_slice(&[n as u8 + 1; 3]);
    bytes[70_000..170_000].fill(n as u8 + 11);
    bytes
}

fn fill(store: &Store, n: usize) -> archipelago_core::Volume {
    let volume = store.open_volume(&format!("volume-{n}"), Mode::ReadWrite).unwrap();
    volume.write_at(&wanted(n)[5..8], 5).unwrap();
    volume.write_at(&wanted(n)[70_000..170_000], 70_000).unwrap();
    volume
}

fn contents(store: &Store, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    store.open_volume(name, Mode::ReadOnly).unwrap().read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The snapshots that are there.
fn there(store: &Store, members: &[(String, String)]) -> usize {
    let found = members.iter().filter(|(_, name)| match store.info(name) {
        Ok(_) => true,
        Err(Error::NotFound(_)) => false,
        Err(error) => panic!("{name}: {error}"),
    });
    found.count()
}

#[test]
fn a_power_cut_at_any_step_of_a_group_snapshot_leaves_all_of_it_or_nothing() {
    // Few headers are made one by one, many at once.
    for (count, disk) in [3, 6].into_iter().flat_map(|count| Disk::both().map(|disk| (count, disk))) {
        let disk = disk.with_store();
        let store = disk.store(1);
        for n in 0..count {
            store.create(&format!("volume-{n}"), &CreateOptions { size: SIZE, block_size: None }).unwrap();
        }
        // The last one is closed, and opened for the group.
        let mut open: Vec<_> = (0..count).map(|n| fill(&store, n)).collect();
        open.pop().unwrap().close().unwrap();
        let members = members(count);
        let before = disk.steps();
        store.snapshot_group(&members).unwrap();
        let after = disk.steps();
        open[0].write_at(b"later", 0).unwrap();
        open[0].flush().unwrap();
        let (mut none, mut all) = (0, 0);
        for step in before..=disk.steps() {
            for seed in 0..3 {
                let place = format!("{count} volumes, cut {step} of {before}..{after}, crash seed {seed}");
                let left = disk.crash_at(step, seed);
                let store = left.store(seed + 5);
                match there(&store, &members) {
                    0 => {
                        assert!(step < after, "{place}: gone");
                        none += 1;
                        // What is left in the way of the names does not count.
                        store.snapshot_group(&members).unwrap_or_else(|e| panic!("{place}: {e}"));
                        assert_eq!(there(&store, &members), count, "{place}");
                    }
                    found => {
                        assert_eq!(found, count, "{place}");
                        all += 1;
                        for (n, (_, name)) in members.iter().enumerate() {
                            assert!(contents(&store, name) == wanted(n), "{place}: {name}");
                        }
                        // Whoever asked for one of them settled the group. When all were settled before the cut, nobody
                        // knows of it any more, and its empty header is left for collection.
                        let headers = left.blocker().headers().unwrap().len();
                        assert!(headers == 2 * count || headers == 2 * count + 1, "{place}: {headers}");
                    }
                }
                let status = store.status().unwrap();
                assert_eq!((status.volumes, status.snapshots), (count as u64, count as u64), "{place}");
            }
        }
        assert!(none > 5 && all > 5, "{none} {all}");
        // Nothing but the volumes and their snapshots is left when all went well.
        assert_eq!(disk.blocker().headers().unwrap().len(), 2 * count);
    }
}

#[test]
fn snapshots_of_a_group_are_like_any_others() {
    let [_, memory] = Disk::both();
    let store = memory.with_store().store(1);
    for n in 0..2 {
        store.create(&format!("volume-{n}"), &CreateOptions { size: SIZE, block_size: None }).unwrap();
        fill(&store, n).close().unwrap();
    }
    let taken = store.snapshot_group(&members(2)).unwrap();
    assert_eq!(taken[1].parent.as_deref(), Some("volume-1"));
    store.rename("snap-0", "renamed").unwrap();
    store.remove("snap-1").unwrap();
    store.remove("volume-0").unwrap();
    store.clone_snapshot("renamed", "cloned", &Default::default()).unwrap();
    assert!(contents(&store, "cloned") == wanted(0));
    assert!(matches!(store.info("snap-1"), Err(Error::NotFound(_))));
}
