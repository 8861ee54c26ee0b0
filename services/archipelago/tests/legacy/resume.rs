//! An import that ended early, in any way, is repeated: what is there is not imported again, and nothing half is ever seen.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::generator::{BLOCK, Layout, READ_ONLY, ZERO, owned};
use crate::site::Site;
use crate::{MIB, family};

#[test]
fn what_was_imported_is_recognised_and_what_differs_is_not_overwritten() {
    let mut site = Site::new(Layout::Hashed);
    let [snapshot, volume, _] = family(&mut site);
    site.import(&["snf-snap-1-1"]);
    let done = site.import(&["--all"]);
    assert_eq!(done["snf-snap-1-1"]["state"], json!("present"));
    assert_eq!(done["myvolume"]["state"], json!("imported"));
    assert_eq!(done["myvolume"]["present"], json!(2 * BLOCK), "what was there serves others as well");
    assert!(site.bytes("myvolume") == volume);
    for name in ["snf-snap-1-1", "myvolume", "my-clone"] {
        assert_eq!(site.import(&["--all"])[name]["state"], json!("present"), "{name}");
    }
    // One sector that only the new volume has, where the old one has zeros.
    site.ok(&["remove", "my-clone"]);
    site.ok(&["create", "my-clone", "--size", &(14 * MIB + 1).to_string()]);
    let (documents, error) = site.import_fails(4, "exists", &["--all"]);
    assert!(error.contains("my-clone (and differs from my-clone in the old store"), "{error}");
    assert_eq!(documents["myvolume"]["state"], json!("present"));
    site.import(&["my-clone", "--rename", "my-clone=old-clone"]);
    assert!(site.bytes("snf-snap-1-1") == snapshot);
}

#[test]
fn a_volume_of_other_kind_or_with_data_where_the_old_one_has_none_differs() {
    let mut site = Site::new(Layout::Hashed);
    let block = site.old.content(b"x");
    let zero = (0x04, ZERO.to_string());
    site.old.v2("my-image", 8 * MIB, READ_ONLY, 0, &[(0, block.clone()), zero.clone()]);
    site.old.v2("my-other", 8 * MIB, READ_ONLY, 0, &[(0, block.clone()), (0, block)]);
    site.import(&["my-other", "--rename", "my-other=my-image"]);
    site.import_fails(4, "exists", &["my-image"]);
    site.ok(&["remove", "my-image"]);
    site.import(&["my-image"]);
    site.ok(&["clone", "my-image", "my-volume"]);
    site.ok(&["remove", "my-image"]);
    site.ok(&["rename", "my-volume", "my-image"]);
    site.import_fails(4, "exists", &["my-image"]);
}

#[test]
fn leftovers_of_an_import_that_was_killed_are_removed_by_the_next() {
    let mut site = Site::new(Layout::Hashed);
    let [.., clone] = family(&mut site);
    site.ok(&["create", "my-clone.importing-legacy", "--size", "1M"]);
    site.import(&["my-clone"]);
    assert_eq!(site.names(), ["my-clone"]);
    assert!(site.bytes("my-clone") == clone);
}

#[test]
fn an_import_killed_at_any_moment_leaves_nothing_half_and_is_finished_by_the_next() {
    let mut site = Site::new(Layout::Hashed);
    let mut expected = Vec::new();
    let common: Vec<String> = (1..6u8).map(|n| site.old.content(&vec![n; 2 * MIB as usize])).collect();
    for (number, name) in (0u8..).zip(["image-0", "image-1", "volume-0", "volume-1", "volume-2"]) {
        let own = site.old.block(&owned(name, 1, 5), &vec![0x40 + number; MIB as usize]);
        let mut entries: Vec<(u8, String)> = common.iter().map(|block| (0, block.clone())).collect();
        entries.push((if number < 2 { 0x02 } else { 0x03 }, own.clone()));
        site.old.v2(name, 24 * MIB, if number < 2 { READ_ONLY } else { 0 }, 1, &entries);
        let names: Vec<&str> = common.iter().map(String::as_str).chain([own.as_str()]).collect();
        expected.push((name, site.old.bytes(24 * MIB, BLOCK, &names)));
    }
    // Each run gets a little further or not; what counts is what every kill leaves.
    for round in 0..24u64 {
        let mut import = site.importing(&["--all"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(2 + 7 * (round % 12)));
        let ended = import.try_wait().unwrap().is_some();
        import.kill().unwrap();
        import.wait().unwrap();
        let names = site.names();
        for (name, bytes) in &expected {
            if names.iter().any(|n| n == name) {
                assert!(site.bytes(name) == *bytes, "round {round}: {name} is not whole");
            }
        }
        if ended || names.len() > 3 {
            for name in names.iter().filter(|name| !name.contains("sharing")) {
                site.ok(&["remove", name]);
            }
        }
    }
    site.import(&["--all"]);
    assert_eq!(site.names(), ["image-0", "image-1", "volume-0", "volume-1", "volume-2"]);
    for (name, bytes) in &expected {
        assert!(site.bytes(name) == *bytes, "{name}");
    }
}

#[test]
fn a_stopped_import_says_so_and_leaves_nothing_behind() {
    let mut site = Site::new(Layout::Hashed);
    let blocks: Vec<(u8, String)> = (0..64u8).map(|n| (0, site.old.content(&vec![n + 1; BLOCK as usize]))).collect();
    site.old.v2("large-image", 256 * MIB, READ_ONLY, 0, &blocks);
    let import = site.importing(&["--all"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Stopped when it has begun: then the first blocks are there.
    while site.contents().len() < 4 {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-TERM", &import.id().to_string()]).status().unwrap().success());
    let output = import.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(site.names().is_empty(), "{:?}", site.names());
    // What it took in is leased, and is not taken in again.
    let there = site.contents().len() as u64;
    assert!((4..64).contains(&there), "{there} blocks of 64: too fast to be stopped");
    site.ok(&["gc"]);
    let done = site.import(&["--all"]);
    assert_eq!(done["large-image"]["present"], json!(there * BLOCK));
    assert_eq!(site.brought(&done["large-image"]), (64 - there) * BLOCK);
    assert_eq!(site.contents().len(), 64);
}

#[test]
fn blocks_of_an_import_that_is_never_finished_are_collected_and_of_one_that_is_are_not() {
    let mut site = Site::new(Layout::Hashed);
    family(&mut site);
    fs::remove_file(site.old.block_path(&owned("myvolume", 2, 2))).unwrap();
    let other = site.old.content(&vec![9; 70_000]);
    let damaged = site.old.content(&vec![8; 70_000]);
    fs::write(site.old.block_path(&damaged), [1; 70_000]).unwrap();
    site.old.v2("bad-image", 8 * MIB, READ_ONLY, 0, &[(0, other), (0, damaged)]);
    // Refused at its second block: the first one stays for a day, so that a repeated import has it.
    site.import_fails(7, "io", &["bad-image"]);
    assert!(site.names().is_empty() && !site.contents().is_empty());
    site.ok(&["gc"]);
    assert!(!site.contents().is_empty());
    site.ok(&["gc", "--grace", "0"]);
    assert_eq!(site.contents(), Vec::<PathBuf>::new());
    // What was finished left no lease behind, and needs none.
    site.import(&["--pattern", "snf*"]);
    let bytes = site.bytes("snf-snap-1-1");
    site.ok(&["gc", "--grace", "0"]);
    assert!(site.bytes("snf-snap-1-1") == bytes);
    site.ok(&["remove", "snf-snap-1-1"]);
    site.ok(&["gc", "--grace", "0"]);
    assert_eq!(site.contents(), Vec::<PathBuf>::new());
}
