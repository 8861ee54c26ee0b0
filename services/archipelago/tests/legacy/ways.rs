//! How blocks come into the new store: shared, linked or copied, each once, and what that takes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use archipelago_core::{Location, Mode, Store, StoreOptions};
use serde_json::{Value, json};

use crate::generator::{BLOCK, Layout, READ_ONLY, ZERO, owned};
use crate::site::Site;
use crate::{MIB, family};

/// Blocks of the old store that the tests name.
const BLOCKS: u64 = 12;

/// An image of blocks named by their content, and a volume that shares all but one of them.
fn image(site: &mut Site) -> Vec<String> {
    let block = |n: u64| (0..BLOCK).map(|at| ((at * (n + 3)) % 251) as u8 + 1).collect::<Vec<u8>>();
    let names: Vec<String> = (0..BLOCKS).map(|n| site.old.content(&block(n))).collect();
    let mut entries: Vec<(u8, String)> = names.iter().map(|name| (0, name.clone())).collect();
    site.old.v2("my-image", BLOCKS * BLOCK, READ_ONLY, 0, &entries);
    entries[3] = (0x03, site.old.block(&owned("my-volume", 1, 3), &block(100)));
    site.old.v2("my-volume", BLOCKS * BLOCK, 0, 1, &entries);
    names
}

fn permit(site: &Site, names: &[String], mode: u32) {
    for name in names {
        fs::set_permissions(site.old.block_path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Bytes that the new store takes, each file counted unless it is also one of the old store.
fn taken(site: &Site) -> u64 {
    fn walk(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let size = |path: PathBuf| match fs::symlink_metadata(&path).unwrap() {
            facts if facts.is_dir() => walk(&path),
            facts if path.components().any(|part| part.as_os_str() == "content") && facts.nlink() > 1 => 0,
            facts => facts.blocks() * 512 / facts.nlink(),
        };
        entries.map(|entry| size(entry.path())).sum()
    }
    walk(&site.path("store"))
}

fn links(site: &Site, names: &[String]) -> Vec<u64> {
    names.iter().map(|name| fs::metadata(site.old.block_path(name)).unwrap().nlink()).collect()
}

/// Bytes of both maps that came in some way.
fn sum(done: &Value, way: &str) -> u64 {
    ["my-image", "my-volume"].iter().map(|name| done[name][way].as_u64().unwrap()).sum()
}

#[test]
fn with_link_read_only_files_of_content_are_those_of_the_old_store_and_take_no_room() {
    for layout in [Layout::Hashed, Layout::Raw] {
        let mut site = Site::new(layout);
        let names = image(&mut site);
        let volume: Vec<&str> = names.iter().map(String::as_str).collect();
        let own = owned("my-volume", 1, 3);
        let (all, mut mine) = (site.old.bytes(BLOCKS * BLOCK, BLOCK, &volume), volume.clone());
        mine[3] = &own;
        let mine = site.old.bytes(BLOCKS * BLOCK, BLOCK, &mine);
        permit(&site, &names, 0o444);
        // One that somebody may write, and that of the volume, which nobody may.
        permit(&site, &names[5..6], 0o644);
        permit(&site, std::slice::from_ref(&own), 0o444);
        let before = site.old_state();
        let plan = site.import(&["--all", "--link", "--dry-run"]);
        assert_eq!(links(&site, &names), [1; BLOCKS as usize]);
        let done = site.import(&["--all", "--link"]);
        for way in ["present", "reflinked", "linked", "copied"] {
            assert_eq!(sum(&plan, way), sum(&done, way), "{way}");
        }
        assert!(site.bytes("my-image") == all && site.bytes("my-volume") == mine);
        assert_eq!(site.old_state(), before, "the old store was changed");
        assert_eq!(sum(&done, "present"), (BLOCKS - 1) * BLOCK);
        if sum(&done, "reflinked") > 0 {
            // Better than a link, where the file system can.
            assert_eq!((sum(&done, "reflinked"), sum(&done, "linked")), ((BLOCKS + 1) * BLOCK, 0));
            continue;
        }
        assert_eq!((sum(&done, "linked"), sum(&done, "copied")), ((BLOCKS - 1) * BLOCK, 2 * BLOCK));
        let mut expected = [2; BLOCKS as usize];
        expected[5] = 1;
        assert_eq!(links(&site, &names), expected);
        assert_eq!(links(&site, &[own]), [1], "the original may write it again");
        let room = taken(&site);
        assert!((2 * BLOCK..2 * BLOCK + 2 * MIB).contains(&room), "{room}");
        // Writing to the volume leaves the linked files as they are, and removing all of it leaves them where they are.
        site.ok(&["clone", "my-image", "my-clone"]);
        let store = Store::open(&Location::File(site.path("store")), StoreOptions::default()).unwrap();
        for name in ["my-volume", "my-clone"] {
            let volume = store.open_volume(name, Mode::ReadWrite).unwrap();
            volume.write_at(&vec![0x77; 9 * MIB as usize], 1000).unwrap();
            volume.discard(11 * MIB, 2 * MIB).unwrap();
            volume.close().unwrap();
        }
        drop(store);
        site.ok(&["compact", "my-volume"]);
        assert_eq!(site.old_state(), before, "the old store was changed");
        assert!(site.bytes("my-image") == all, "what shares them was changed");
        for name in ["my-image", "my-volume", "my-clone"] {
            site.ok(&["remove", name]);
        }
        site.ok(&["gc", "--grace", "0"]);
        assert_eq!(links(&site, &names), [1; BLOCKS as usize]);
        assert_eq!(site.old_state(), before, "the old store was changed");
    }
}

#[test]
fn without_link_no_file_gets_another_name_and_each_block_is_copied_once() {
    let mut site = Site::new(Layout::Hashed);
    let names = image(&mut site);
    permit(&site, &names, 0o444);
    let done = site.import(&["--all"]);
    assert_eq!((site.brought(&done["my-image"]), site.brought(&done["my-volume"])), (BLOCKS * BLOCK, BLOCK));
    assert_eq!(sum(&done, "linked"), 0);
    assert_eq!(links(&site, &names), [1; BLOCKS as usize]);
    assert_eq!(site.contents().len() as u64, BLOCKS + 1);
    if sum(&done, "copied") > 0 {
        let room = taken(&site);
        assert!(((BLOCKS + 1) * BLOCK..(BLOCKS + 1) * BLOCK + 2 * MIB).contains(&room), "{room}");
    }
}

#[test]
fn a_linked_file_must_be_what_its_name_says() {
    let mut site = Site::new(Layout::Hashed);
    let names = image(&mut site);
    let path = site.old.block_path(&names[2]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    permit(&site, &names, 0o444);
    let (_, error) = site.import_fails(7, "io", &["my-image", "--link"]);
    assert!(error.contains(&format!("block {} has other content than its name says", names[2])), "{error}");
    let done = site.import(&["my-image", "--link", "--skip-damaged"]);
    assert_eq!(
        (&done["my-image"]["damaged"], &done["my-image"]["damages"][0]["offset"]),
        (&json!(1), &json!(2 * BLOCK))
    );
    let mut refs: Vec<&str> = names.iter().map(String::as_str).collect();
    refs[2] = "";
    assert!(site.bytes("my-image") == site.old.bytes(BLOCKS * BLOCK, BLOCK, &refs));
}

#[test]
fn zeros_inside_blocks_take_no_room() {
    let mut site = Site::new(Layout::Hashed);
    let block = |n: u8| [vec![n; 5000], vec![0; 3 * MIB as usize], vec![n; 70_000]].concat();
    let names = [site.old.content(&block(1)), ZERO.to_string(), site.old.block(&owned("my-volume", 1, 2), &block(2))];
    let entries = [(0, names[0].clone()), (4, names[1].clone()), (3, names[2].clone())];
    site.old.v2("my-volume", 12 * MIB, 0, 1, &entries);
    let done = site.import(&["my-volume"]);
    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(site.bytes("my-volume") == site.old.bytes(12 * MIB, BLOCK, &refs));
    // A file that is shared has no holes that the old one has not.
    if done["my-volume"]["copied"] != json!(0) {
        let room = taken(&site);
        assert!(room < 2 * MIB, "{room} bytes for two blocks of 75 000 that are not zeros");
    }
}

#[test]
fn an_imported_volume_is_written_cloned_and_hashed_like_any_other() {
    let mut site = Site::new(Layout::Hashed);
    let [snapshot, mut volume, _] = family(&mut site);
    site.import(&["--all"]);
    assert!(site.ok(&["check", "--data"]).contains("clean"));
    site.ok(&["resize", "myvolume", "12M"]);
    volume.resize(12 * MIB as usize, 0);
    assert!(site.bytes("myvolume") == volume);
    site.ok(&["snapshot", "myvolume", "my-snapshot"]);
    site.ok(&["remove", "myvolume"]);
    site.ok(&["gc", "--grace", "0"]);
    assert!(site.bytes("my-snapshot") == volume && site.bytes("snf-snap-1-1") == snapshot);
    // Its digests are known, so nothing is read to find its hash. The third block is zeros.
    let hashed = site.json(&["hash", "snf-snap-1-1"]);
    assert_eq!((&hashed["hashed"], &hashed["known"]), (&json!(0), &json!(2)));
    assert!(site.ok(&["check", "--data"]).contains("clean"));
}
