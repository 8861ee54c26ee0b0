//! Blocks that are missing or wrong: named, refused, and skipped only when asked for.

use std::fs;

use serde_json::json;

use crate::MIB;
use crate::generator::{BLOCK, Layout, READ_ONLY, ZERO, owned};
use crate::site::Site;

#[test]
fn a_block_that_was_never_written_is_zeros_only_where_its_volume_still_writes_it() {
    let mut site = Site::new(Layout::Hashed);
    let written = site.old.block(&owned("myvolume", 1, 1), b"written");
    let hole = owned("myvolume", 1, 0);
    site.old.v2("myvolume", 8 * MIB, 0, 1, &[(0x03, hole.clone()), (0x03, written.clone())]);
    let done = site.import(&["myvolume"]);
    assert_eq!((&done["myvolume"]["unwritten"], &done["myvolume"]["missing"]), (&json!(1), &json!(0)));
    assert!(site.bytes("myvolume") == site.old.bytes(8 * MIB, BLOCK, &["", &written]));
    // Frozen by a snapshot, the original could not read it; here it is named.
    site.old.v2("snapshot-1", 8 * MIB, READ_ONLY, 0, &[(0x02, hole.clone()), (0x02, written.clone())]);
    let (documents, error) = site.import_fails(7, "io", &["snapshot-1"]);
    assert!(
        error.contains(&format!("bytes 0 to 4194304 are damaged: block {hole} is missing (1 of 2 are)")),
        "{error}"
    );
    assert_eq!(documents["snapshot-1"]["missing"], json!(1));
    let done = site.import(&["snapshot-1", "--skip-damaged"]);
    assert_eq!(done["snapshot-1"]["damaged"], json!(1));
    assert!(site.bytes("snapshot-1") == site.old.bytes(8 * MIB, BLOCK, &["", &written]));
}

#[test]
fn a_block_that_is_not_what_its_name_says_is_named_with_its_range() {
    let mut site = Site::new(Layout::Raw);
    let good = site.old.content(&[1; 5000]);
    let bad = site.old.content(&[2; 5000]);
    site.old.v2("my-image", 10 * MIB, READ_ONLY, 0, &[(0, good.clone()), (4, ZERO.into()), (0, bad.clone())]);
    let path = site.old.block_path(&bad);
    for (what, bytes) in [
        ("has other content than its name says", [vec![2; 4999], vec![3]].concat()),
        ("has other content than its name says", vec![2; 4999]),
        ("is empty, which its name does not say", Vec::new()),
        ("has 4194305 bytes, more than a block of 4194304", vec![0; BLOCK as usize + 1]),
    ] {
        fs::write(&path, bytes).unwrap();
        let (documents, error) = site.import_fails(7, "io", &["my-image"]);
        assert!(
            error.contains(&format!("my-image: bytes 8388608 to 10485760 are damaged: block {bad} {what}")),
            "{error}"
        );
        assert_eq!(documents["my-image"]["state"], json!("failed"));
        assert!(site.names().is_empty(), "{:?}", site.names());
    }
    let done = site.import(&["my-image", "--skip-damaged"]);
    assert_eq!(done["my-image"]["damages"][0]["offset"], json!(8 * MIB));
    assert_eq!(done["my-image"]["damages"][0]["len"], json!(2 * MIB));
    assert!(site.bytes("my-image") == site.old.bytes(10 * MIB, BLOCK, &[&good, ZERO, ""]));
    // Zeros at the end of a block do not count in its name: stored or not, it is the same block.
    fs::write(&path, [vec![2; 5000], vec![0; 77]].concat()).unwrap();
    site.import(&["my-image", "--rename", "my-image=whole-image"]);
    assert!(site.bytes("whole-image") == site.old.bytes(10 * MIB, BLOCK, &[&good, ZERO, &bad]));
}

#[test]
fn damage_skipped_in_a_large_block_leaves_none_of_its_data() {
    let mut site = Site::new(Layout::Hashed);
    let block = site.old.content(&vec![7; 9 * MIB as usize]);
    site.old.v2_sized("large-block", 16 * MIB, 16 * MIB, READ_ONLY, 0, &[(0, block.clone())]);
    let path = site.old.block_path(&block);
    let mut bytes = fs::read(&path).unwrap();
    bytes[9 * MIB as usize - 1] = 8;
    fs::write(&path, &bytes).unwrap();
    site.import_fails(7, "io", &["large-block"]);
    site.import(&["large-block", "--skip-damaged"]);
    assert!(site.bytes("large-block").iter().all(|byte| *byte == 0));
}

#[test]
fn zeros_for_a_damaged_block_are_not_passed_on_to_what_shares_it() {
    let mut site = Site::new(Layout::Hashed);
    let (good, bad) = (site.old.content(&[1; 5000]), site.old.content(&[2; 5000]));
    let entries = [(0, good), (0, bad.clone())];
    site.old.v2("my-image", 8 * MIB, READ_ONLY, 0, &entries);
    site.old.v2("my-volume", 8 * MIB, 0, 1, &entries);
    fs::remove_file(site.old.block_path(&bad)).unwrap();
    let done = site.import(&["--all", "--skip-damaged"]);
    for name in ["my-image", "my-volume"] {
        assert_eq!(done[name]["damaged"], json!(1), "{name}");
    }
    let text = String::from_utf8(site.importing(&["--all", "--skip-damaged"]).output().unwrap().stdout).unwrap();
    assert!(text.contains("2 were there already"), "{text}");
}
