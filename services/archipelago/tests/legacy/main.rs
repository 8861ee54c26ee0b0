//! Importing stores of the original Archipelago with the real command: what was written by the generator is read back.

#![allow(clippy::unwrap_used)] // Here a failed unwrap is a failed test.

mod damage;
mod generator;
mod golden;
mod refused;
mod resume;
mod site;
mod ways;

use std::fs;

use generator::{BLOCK, DELETED, Layout, READ_ONLY, V1, ZERO, content_name, header, merkle, owned, v1_block};
use serde_json::json;
use site::Site;

const MIB: u64 = 1 << 20;

/// A volume of three blocks, its snapshot, and a clone of that: as three calls of the original leave them.
pub fn family(site: &mut Site) -> [Vec<u8>; 3] {
    let old = &mut site.old;
    let size = 10 * MIB;
    let image = old.content(&[b"an image".to_vec(), vec![7; 9000]].concat());
    let first = old.block(&owned("myvolume", 1, 1), &[vec![0; 5000], vec![1; 5000]].concat());
    let second = old.block(&owned("myvolume", 2, 2), &vec![2; 2 * MIB as usize]);
    let third = old.block(&owned("my-clone", 1, 0), &[vec![3; 100], vec![0; 8192], vec![3; 100]].concat());
    let zero = ZERO.to_string();
    let snapshot = [(0x00, image.clone()), (0x02, first.clone()), (0x04, zero.clone())];
    old.v2("snf-snap-1-1", size, READ_ONLY, 0, &snapshot);
    old.v2("myvolume", size, 0, 2, &[(0x00, image.clone()), (0x02, first.clone()), (0x03, second.clone())]);
    // The clone is longer, and does not end with a block.
    let clone = [(0x03, third.clone()), (0x02, first.clone()), (0x04, zero.clone()), (0x04, zero)];
    old.v2("my-clone", size + 4 * MIB + 1, 0, 1, &clone);
    [
        old.bytes(size, BLOCK, &[&image, &first, ZERO]),
        old.bytes(size, BLOCK, &[&image, &first, &second]),
        old.bytes(size + 4 * MIB + 1, BLOCK, &[&third, &first, ZERO, ZERO]),
    ]
}

#[test]
fn scenario_21_maps_of_version_2_have_identical_bytes_and_share_their_blocks() {
    for layout in [Layout::Hashed, Layout::Raw] {
        let mut site = Site::new(layout);
        let [snapshot, volume, clone] = family(&mut site);
        let before = site.old_state();
        let done = site.import(&["--all"]);
        for (name, kind, epoch) in
            [("snf-snap-1-1", "snapshot", 0), ("myvolume", "volume", 2), ("my-clone", "volume", 1)]
        {
            let facts = (&done[name]["state"], &done[name]["kind"], &done[name]["version"], &done[name]["epoch"]);
            assert_eq!(facts, (&json!("imported"), &json!(kind), &json!(2), &json!(epoch)), "{name}");
        }
        assert!(site.bytes("snf-snap-1-1") == snapshot, "{layout:?}: the snapshot differs");
        assert!(site.bytes("myvolume") == volume, "{layout:?}: the volume differs");
        assert!(site.bytes("my-clone") == clone, "{layout:?}: the clone differs");
        // Each block is stored once, whichever of them comes first, and without the zeros at its end.
        let bytes = |name: &str| (done[name]["present"].clone(), site.brought(&done[name]));
        assert_eq!(bytes("my-clone"), (json!(0), 8392 + 10_000));
        assert_eq!(bytes("myvolume"), (json!(BLOCK), 9008 + 2 * MIB));
        assert_eq!(bytes("snf-snap-1-1"), (json!(2 * BLOCK), 0));
        assert_eq!(site.names(), ["my-clone", "myvolume", "snf-snap-1-1"]);
        assert_eq!(site.old_state(), before, "the old store was changed");
        // A name of the new store means what it meant, and works like any other.
        site.ok(&["clone", "snf-snap-1-1", "server-disk", "--size", "20M"]);
        let grown = site.bytes("server-disk");
        assert!(grown.starts_with(&snapshot) && grown[snapshot.len()..].iter().all(|byte| *byte == 0));
        let info = site.json(&["info", "snf-snap-1-1"]);
        assert_eq!((&info["read_only"], &info["block_size"]), (&json!(true), &json!(BLOCK)));
    }
}

#[test]
fn scenario_21_maps_of_version_1_are_found_under_their_plain_name() {
    let mut site = Site::new(Layout::Raw);
    let block = site.old.content(b"from pithos");
    let entries =
        [V1::Content(block.clone()), V1::Owned(Some(b"mine".to_vec())), V1::Content(ZERO.into()), V1::Owned(None)];
    site.old.v1("web-server", 14 * MIB, &entries);
    let bytes = site.old.bytes(14 * MIB, BLOCK, &[&block, &v1_block("web-server", 1), ZERO, ""]);
    // Also for whoever says that everything without a header is version 0: the original misread it then.
    let done = site.import(&["web-server", "--assume-v0"]);
    let facts = &done["web-server"];
    assert_eq!((&facts["version"], &facts["kind"], &facts["size"]), (&json!(1), &json!("volume"), &json!(14 * MIB)));
    assert_eq!((&facts["blocks"], &facts["unwritten"], &facts["missing"]), (&json!(3), &json!(1), &json!(0)));
    assert!(site.bytes("web-server") == bytes);
    assert_eq!(facts["object"], json!("archip_web-server"));
}

#[test]
fn scenario_21_maps_of_version_0_load_with_their_size_and_fail_with_another() {
    for layout in [Layout::Hashed, Layout::Raw] {
        let mut site = Site::new(layout);
        let blocks = [site.old.content(&[9; 3000]), ZERO.to_string(), site.old.content(b"tail")];
        let name = site.old.v0(&blocks);
        assert!(site.import(&[])[&name]["error"]["message"].as_str().unwrap().contains("--assume-v0"));
        site.import_fails(1, "other", &[&name]);
        for wrong in [4 * MIB, 8 * MIB, 12 * MIB + 1, 0] {
            let size = format!("{name}={wrong}");
            let (_, error) = site.import_fails(1, "other", &[&name, "--assume-v0", "--v0-size", &size]);
            assert!(error.contains("3 digests"), "{error}");
        }
        fs::write(site.path("sizes"), format!("another 17\n\n{name} {}\n", 8 * MIB + 4)).unwrap();
        let sizes = site.path("sizes").display().to_string();
        let done = site.import(&[&name, "--assume-v0", "--v0-sizes", &sizes]);
        assert_eq!((&done[&name]["kind"], &done[&name]["size"]), (&json!("snapshot"), &json!(8 * MIB + 4)));
        let refs: Vec<&str> = blocks.iter().map(String::as_str).collect();
        assert!(site.bytes(&name) == site.old.bytes(8 * MIB + 4, BLOCK, &refs));
        // Without a size it is that of its blocks.
        let renamed = format!("{name}=whole-image");
        let done = site.import(&[&name, "--assume-v0", "--rename", &renamed]);
        assert_eq!(done["whole-image"]["size"], json!(12 * MIB));
    }
}

#[test]
fn a_list_of_digests_ends_at_its_terminator_and_must_have_its_own_name() {
    let mut site = Site::new(Layout::Hashed);
    let blocks = [site.old.content(b"one"), site.old.content(b"two")];
    let name = site.old.v0(&blocks);
    let path = site.old.map_path(&name);
    let list = fs::read(&path).unwrap();
    fs::write(&path, [&list[..], &[0; 32], &[0xee; 320]].concat()).unwrap();
    assert_eq!(site.import(&[&name, "--assume-v0"])[&name]["entries"], json!(2));
    fs::write(&path, &list[..32]).unwrap();
    let (_, error) = site.import_fails(7, "io", &[&name, "--assume-v0", "--rename", &format!("{name}=shortened")]);
    assert!(error.contains("not the one that its name says"), "{error}");
}

#[test]
fn scenario_22_a_pithos_file_becomes_a_snapshot_whose_clones_boot() {
    let mut site = Site::new(Layout::Hashed);
    let boot = [vec![0xeb, 0x63], vec![0; 508], vec![0x55, 0xaa], vec![4; 100_000]].concat();
    let blocks = [site.old.content(&boot), site.old.content(&vec![5; BLOCK as usize]), site.old.content(b"end")];
    // Pithos stores the block of zeros as an object here and there, and may or may not mark it.
    site.old.block(ZERO, b"");
    let entries: Vec<(u8, String)> =
        [&blocks[0], &blocks[1], &ZERO.to_string(), &blocks[2]].map(|name| (0, name.clone())).to_vec();
    site.old.v2("snf_file_17", 12 * MIB + 700, READ_ONLY, 1, &entries);
    let done = site.import(&["--pattern", "snf_file_*"]);
    assert_eq!(done["snf_file_17"]["kind"], json!("snapshot"));
    site.ok(&["clone", "snf_file_17", "guest-disk", "--size", "1G"]);
    let bytes = site.old.bytes(12 * MIB + 700, BLOCK, &[&blocks[0], &blocks[1], ZERO, &blocks[2]]);
    let disk = site.bytes("guest-disk");
    assert!(disk.starts_with(&bytes) && disk[510..512] == [0x55, 0xaa]);
    assert_eq!(merkle(&blocks).len(), content_name(b"").len());
}

#[test]
fn listing_names_every_live_map_and_nothing_else() {
    let mut site = Site::new(Layout::Raw);
    family(&mut site);
    let lone = site.old.content(b"lone");
    site.old.v0(std::slice::from_ref(&lone));
    site.old.put_map("gone-volume", &header(MIB, BLOCK as u32, DELETED, 7));
    site.old.put_map("myvolume_locknode1_500_xy", b"node1_500");
    site.old.put(&site.old.maps.join("aa/bb/cc/lost-volume"), &header(MIB, BLOCK as u32, 0, 7));
    site.old.put(&site.old.maps.join("lost+found/x/y/other"), b"");
    fs::remove_file(site.old.block_path(&owned("myvolume", 1, 1))).unwrap();
    let list = site.import(&[]);
    let names: Vec<&String> = list.as_object().unwrap().keys().collect();
    assert_eq!(names, [&lone, "my-clone", "myvolume", "snf-snap-1-1"]);
    assert_eq!(list["myvolume"]["state"], json!("listed"));
    assert_eq!((&list["myvolume"]["blocks"], &list["myvolume"]["missing"]), (&json!(3), &json!(1)));
    assert_eq!(list[&lone]["state"], json!("refused"));
    assert!(site.names().is_empty(), "listing imported something");
    let text = site.import_text(&[]);
    assert!(text.starts_with("NAME") && text.contains("my-clone") && !text.contains("gone-volume"), "{text}");
    let notes = String::from_utf8(site.importing(&[]).output().unwrap().stderr).unwrap();
    assert!(notes.contains("aa/bb/cc/lost-volume: not where the original looks for it"), "{notes}");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let mut site = Site::new(Layout::Hashed);
    family(&mut site);
    let before = site.new_state();
    let plan = site.import(&["--all", "--dry-run"]);
    assert_eq!(site.new_state(), before, "a dry run wrote something");
    assert_eq!(plan["myvolume"]["state"], json!("would_import"));
    let done = site.import(&["--all"]);
    for name in ["my-clone", "myvolume", "snf-snap-1-1"] {
        for way in ["present", "reflinked", "linked", "copied"] {
            assert_eq!(plan[name][way], done[name][way], "{name}: {way}");
        }
    }
    // With the snapshot there, its blocks are.
    for name in ["my-clone", "myvolume"] {
        site.ok(&["remove", name]);
    }
    let plan = site.import(&["--all", "--dry-run"]);
    assert_eq!(plan["snf-snap-1-1"]["state"], json!("would_compare"));
    assert_eq!(plan["myvolume"]["present"], json!(2 * BLOCK));
    let text = site.import_text(&["--all", "--dry-run"]);
    assert!(text.contains("At most: ") && text.contains("there already"), "{text}");
}

#[test]
fn volumes_that_share_blocks_without_a_snapshot_share_them_here_too() {
    let mut site = Site::new(Layout::Hashed);
    let common: Vec<String> = (0..3u8).map(|n| site.old.content(&vec![n + 1; 300_000])).collect();
    for (volume, byte) in [("volume-a", 0x11u8), ("volume-b", 0x22), ("volume-c", 0x33)] {
        let own = site.old.block(&owned(volume, 1, 3), &[byte; 70_000]);
        let mut entries: Vec<(u8, String)> = common.iter().map(|name| (0, name.clone())).collect();
        entries.push((0x03, own));
        site.old.v2(volume, 16 * MIB, 0, 1, &entries);
    }
    let done = site.import(&["--all"]);
    assert_eq!(done["volume-a"]["present"], json!(0));
    for volume in ["volume-b", "volume-c"] {
        assert_eq!((&done[volume]["present"], site.brought(&done[volume])), (&json!(3 * BLOCK), 70_000));
        let own = owned(volume, 1, 3);
        let names: Vec<&str> = common.iter().map(String::as_str).chain([own.as_str()]).collect();
        assert!(site.bytes(volume) == site.old.bytes(16 * MIB, BLOCK, &names), "{volume}");
    }
    assert_eq!(site.names(), ["volume-a", "volume-b", "volume-c"], "a snapshot was left over");
}

#[test]
fn a_clone_smaller_than_what_it_shares_with_has_its_own_size() {
    let mut site = Site::new(Layout::Hashed);
    let blocks: Vec<String> = (1..5u8).map(|n| site.old.content(&vec![n; BLOCK as usize])).collect();
    let entries: Vec<(u8, String)> = blocks.iter().map(|name| (0, name.clone())).collect();
    site.old.v2("large-image", 16 * MIB, READ_ONLY, 0, &entries);
    // Read-only maps of Pithos may share any prefix; the last block of the shorter one is cut.
    site.old.v2("small-volume", 10 * MIB + 5, 0, 1, &entries[..3]);
    let zero = (0x04, ZERO.to_string());
    site.old.v2("holed-volume", 16 * MIB, 0, 1, &[entries[0].clone(), zero, entries[1].clone(), entries[3].clone()]);
    let done = site.import(&["--all"]);
    // Two whole blocks; the third is another one, because it is cut.
    assert_eq!(done["small-volume"]["present"], json!(2 * BLOCK));
    let refs: Vec<&str> = blocks.iter().map(String::as_str).collect();
    assert!(site.bytes("small-volume") == site.old.bytes(10 * MIB + 5, BLOCK, &refs[..3]));
    let holed = site.old.bytes(16 * MIB, BLOCK, &[refs[0], ZERO, refs[1], refs[3]]);
    assert!(site.bytes("holed-volume") == holed);
    // What was cut off does not come back.
    site.ok(&["resize", "small-volume", "12M"]);
    assert!(site.bytes("small-volume")[(10 * MIB + 5) as usize..].iter().all(|byte| *byte == 0));
}

#[test]
fn block_sizes_beyond_those_of_this_store_are_imported() {
    let mut site = Site::new(Layout::Hashed);
    let small: Vec<String> = (1..6u8).map(|n| site.old.content(&[n; 4096])).collect();
    let entries: Vec<(u8, String)> = small.iter().map(|name| (0, name.clone())).collect();
    site.old.v2_sized("small-blocks", 5 * 4096 - 9, 4096, READ_ONLY, 0, &entries);
    site.import(&["small-blocks"]);
    let refs: Vec<&str> = small.iter().map(String::as_str).collect();
    assert!(site.bytes("small-blocks") == site.old.bytes(5 * 4096 - 9, 4096, &refs));
    let large = site.old.content(&[vec![0; 5 * MIB as usize], vec![8; 6 * MIB as usize]].concat());
    site.old.v2_sized("large-blocks", 20 * MIB, 128 * MIB, 0, 1, &[(0, large.clone())]);
    site.import(&["large-blocks"]);
    assert!(site.bytes("large-blocks") == site.old.bytes(20 * MIB, 128 * MIB, &[&large]));
}

#[test]
fn maps_and_blocks_may_lie_in_one_directory() {
    let mut site = Site::new(Layout::Hashed);
    site.old.blocks = site.old.maps.clone();
    let [snapshot, ..] = family(&mut site);
    let file = site.old.content(b"a list of one is named as its block");
    let two = [file.clone(), site.old.content(b"another")];
    let list = site.old.v0(&two);
    let listed = site.import(&["--assume-v0"]);
    let names: Vec<&String> = listed.as_object().unwrap().keys().collect();
    assert_eq!(names, [&list, "my-clone", "myvolume", "snf-snap-1-1"]);
    site.import(&["--all", "--assume-v0"]);
    assert!(site.bytes("snf-snap-1-1") == snapshot);
}

#[test]
fn what_an_upgrade_or_a_removal_left_behind_a_header_is_ignored() {
    let mut site = Site::new(Layout::Hashed);
    let block = site.old.content(b"content");
    site.old.v2("upgraded", 3 * MIB, 0, 0, &[(0, block.clone())]);
    site.old.put_map("upgraded", &[header(3 * MIB, BLOCK as u32, 0, 0), vec![0xaa; 79]].concat());
    // Map data longer than it needs to be: the volume was removed and made again, smaller.
    let path = site.old.map_path("upgraded_0000000000000000");
    let stale = fs::read(&path).unwrap();
    fs::write(&path, [&stale[..], &[0xff; 1280]].concat()).unwrap();
    site.import(&["upgraded"]);
    assert!(site.bytes("upgraded") == site.old.bytes(3 * MIB, BLOCK, &[&block]));
}

#[test]
fn a_renamed_volume_keeps_writing_the_blocks_of_its_old_name() {
    let mut site = Site::new(Layout::Hashed);
    let block = site.old.block(&owned("old-name", 1, 0), b"written before");
    site.old.v2("new-name", MIB, 0, 1, &[(0x03, block.clone())]);
    site.import(&["new-name"]);
    assert!(site.bytes("new-name") == site.old.bytes(MIB, BLOCK, &[&block]));
    // The old name may be in use again, by a volume with other blocks; but not by one that writes this block too.
    site.old.v2("old-name", MIB, 0, 2, &[(0x04, ZERO.into())]);
    site.import(&["new-name"]);
    site.old.v2("old-name", MIB, 0, 1, &[(0x03, block)]);
    let (_, error) = site.import_fails(1, "other", &["new-name"]);
    assert!(error.contains("belongs to old-name"), "{error}");
}

#[test]
fn names_can_be_changed_and_must_be_where_the_rules_demand_it() {
    let mut site = Site::new(Layout::Hashed);
    let block = site.old.content(b"x");
    let long = "v".repeat(85);
    for name in ["disk:one", &long] {
        site.old.v2(name, MIB, 0, 1, &[(0, block.clone())]);
        let (documents, error) = site.import_fails(2, "usage", &[name]);
        assert!(error.contains(&format!("--rename {name}=NEW")), "{error}");
        assert_eq!(documents[name]["state"], json!("refused"));
    }
    let done = site.import(&["--all", "--rename", "disk:one=disk-one", "--rename", &format!("{long}=disk-two")]);
    assert_eq!(done["disk-one"]["object"], json!("disk:one"));
    assert_eq!(site.names(), ["disk-one", "disk-two"]);
    site.import_fails(2, "usage", &["disk:one", "--rename", "disk:two=disk-three"]);
    site.import_fails(2, "usage", &["disk:one", "--rename", "disk:one=../etc/x"]);
    site.import_fails(
        2,
        "usage",
        &["--all", "--rename", "disk:one=same-name", "--rename", &format!("{long}=same-name")],
    );
}
