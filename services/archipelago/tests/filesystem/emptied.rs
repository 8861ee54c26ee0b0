//! A store that was used in every way, and of which everything was removed.

use archipelago_core::store::content::NewObject;
use archipelago_core::{CompactOptions, CreateOptions, Digest, Kind, Mode, Store};

use crate::random::{Random, bytes};
use crate::site::Site;

const MIB: u64 = 1 << 20;

/// What a store may take more than a new one when everything was removed from it.
const REST: u64 = 64 << 10;

#[test]
fn a_store_of_which_everything_is_removed_takes_what_a_new_one_takes() {
    let Some(site) = Site::new(512) else { return };
    let new = site.taken();
    let image = site.disk.path().join("image.raw");
    std::fs::write(&image, bytes(1, 24 * MIB as usize)).unwrap();
    site.ok(&["import", image.to_str().unwrap(), "image-1", "--format", "raw", "--snapshot", "image-1-v1"]);
    site.ok(&["clone", "image-1-v1", "clone", "--count", "50"]);
    {
        let store = site.open();
        for clone in ["clone-0001", "clone-0002", "clone-0003"] {
            write(&store, clone);
        }
        upload(&store);
        store.create("scratch", &CreateOptions { size: 64 * MIB, block_size: Some(MIB) }).unwrap();
        write(&store, "scratch");
    }
    site.ok(&["hash", "clone-0001-snap-3"]);
    site.ok(&["hash", "image-1-v1"]);
    site.ok(&["snapshot", "--group", "clone-0002=together-2", "clone-0003=together-3"]);
    site.ok(&["check"]);
    assert!(site.taken() > new + 64 * MIB);
    let names = site.names();
    assert!(names.len() > 60, "{names:?}");
    // Half of it while the other half is in use.
    let (first, rest) = names.split_at(names.len() / 2);
    for names in [first, rest] {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        site.ok(&[&["remove"], &names[..]].concat());
        site.ok(&["gc", "--grace", "0"]);
        site.ok(&["check"]);
    }
    let taken = site.taken();
    assert!(taken <= new + REST, "{} bytes more than the {new} of a new store", taken - new);
    assert_eq!(site.names(), Vec::<String>::new());
    // It is as good as a new one.
    site.ok(&["import", image.to_str().unwrap(), "image-2", "--format", "raw"]);
    let exported = site.disk.path().join("exported.raw");
    site.ok(&["export", "image-2", exported.to_str().unwrap()]);
    assert!(std::fs::read(exported).unwrap() == std::fs::read(image).unwrap());
}

/// Scattered and large writes, discards, snapshots, checkpoints and a compaction.
fn write(store: &Store, name: &str) {
    let volume = store.open_volume(name, Mode::ReadWrite).unwrap();
    let mut random = Random(volume.size());
    for round in 0..6 {
        for _ in 0..300 {
            let sector = random.below(volume.size() / 4096);
            volume.write_at(&[round as u8 + 1; 4096], sector * 4096).unwrap();
        }
        let at = random.below(volume.size() / MIB - 3) * MIB;
        volume.write_at(&bytes(round, 2 * MIB as usize), at).unwrap();
        volume.discard(random.below(volume.size() / MIB - 1) * MIB, MIB).unwrap();
        volume.snapshot(&format!("{name}-snap-{round}")).unwrap();
        if round % 2 == 0 {
            volume.checkpoint().unwrap();
        }
    }
    volume.compact(&CompactOptions::default(), &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    volume.close().unwrap();
}

/// Blocks that are put, one of them twice, a map of some of them, and others that no map ever names.
fn upload(store: &Store) {
    let claim = store.claim("an upload").unwrap();
    let list: Vec<Digest> = (0..8).map(|n| claim.put(&bytes(100 + n % 7, MIB as usize)).unwrap().digest).collect();
    let new = NewObject { name: "object-1".into(), kind: Kind::Object, size: 4 * 4 * MIB, block_size: None };
    store.create_object(&new, &mut list[..4].iter().map(|d| Ok(*d))).unwrap();
    claim.end().unwrap();
}
