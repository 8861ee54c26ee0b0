//! What is refused, each with its reason; and nothing of it ever shows in the new store.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::MIB;
use crate::generator::{BLOCK, DELETED, Layout, READ_ONLY, V1, ZERO, entry, header, owned};
use crate::site::Site;

/// Imports one map, which must be refused with `reason` in the text.
#[track_caller]
fn refuses(site: &Site, name: &str, code: i32, word: &str, reason: &str) {
    for extra in [&[][..], &["--skip-damaged"]] {
        let (documents, error) = site.import_fails(code, word, &[&[name], extra].concat());
        assert!(error.contains(reason), "{error}");
        assert!(!error.contains("/work"), "{error}");
        assert!(documents[name]["error"]["message"].is_string() || documents.as_object().unwrap().is_empty());
    }
    assert!(site.names().is_empty(), "{:?}", site.names());
}

#[test]
fn headers_that_no_release_wrote_are_refused() {
    let site = Site::new(Layout::Hashed);
    let mut v3 = header(MIB, BLOCK as u32, 0, 1);
    v3[7] = 3;
    let mut huge = header(u64::MAX, BLOCK as u32, 0, 1);
    huge.resize(512, 0);
    for (name, bytes, code, word, reason) in [
        ("version-3", v3, 1, "other", "map of version 3"),
        ("flagged", header(MIB, BLOCK as u32, 8, 1), 1, "other", "flags 0x8"),
        ("absurd-size", huge, 1, "other", "18446744073709551615 bytes"),
        ("no-size", header(0, BLOCK as u32, 0, 1), 1, "other", "size of 0"),
        ("odd-blocks", header(MIB, 3 << 20, 0, 1), 7, "io", "not a power of two"),
        ("tiny-blocks", header(MIB, 128, 0, 1), 7, "io", "not a power of two"),
        ("cut-short", header(MIB, BLOCK as u32, 0, 1)[..20].to_vec(), 7, "io", "cut short"),
        ("garbage", vec![0x5a; 100], 1, "other", "has no header that is known"),
        ("nothing", Vec::new(), 1, "other", "has no header that is known"),
        ("bytes-of-v1", [&[1, 0, 0, 0][..], &MIB.to_le_bytes(), &[0; 34]].concat(), 1, "other", "version 1 of 1048576"),
    ] {
        site.old.put_map(name, &bytes);
        refuses(&site, name, code, word, reason);
    }
    // The largest size that a volume may have does not make anybody wait or fill the memory.
    site.old.put_map("petabytes", &header(4 << 50, 256, 0, 1));
    refuses(&site, "petabytes", 7, "io", "map data petabytes_0000000000000000 is missing");
}

#[test]
fn map_data_that_does_not_fit_is_refused() {
    let mut site = Site::new(Layout::Hashed);
    let block = site.old.content(b"x");
    site.old.v2("two-of-three", 12 * MIB, 0, 1, &[(0, block.clone()), (0, block.clone())]);
    refuses(&site, "two-of-three", 7, "io", "ends within entry 2 of 3");
    site.old.v2("half-entry", 8 * MIB, 0, 1, &[(0, block.clone()), (0, block.clone())]);
    let path = site.old.map_path("half-entry_0000000000000000");
    fs::write(&path, &fs::read(&path).unwrap()[..200]).unwrap();
    refuses(&site, "half-entry", 7, "io", "ends within entry 1 of 2");
    site.old.v2_sized("too-long", 4096, 4096, 0, 1, &[(0, block.clone())]);
    fs::write(site.old.map_path("too-long_0000000000000000"), vec![0; 4097]).unwrap();
    refuses(&site, "too-long", 7, "io", "more than its block size");
    // The second object of map data, in the order of bytes of mid-2014.
    let entries: Vec<(u8, String)> = (0..64).map(|_| (0, block.clone())).collect();
    site.old.v2_sized("mid-2014", 64 * 4096, 4096, 0, 1, &entries);
    let second = site.old.map_path("mid-2014_0000000000000001");
    let swapped = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    refuses(&site, "mid-2014", 7, "io", "map data mid-2014_0000000000000001 is missing");
    site.old.put_map("mid-2014_0100000000000000", &swapped);
    refuses(&site, "mid-2014", 1, "other", "before July 2014");
}

#[test]
fn entries_against_the_rules_are_refused() {
    let mut site = Site::new(Layout::Hashed);
    let block = site.old.content(b"x");
    let file = site.path("secret");
    fs::write(&file, b"secret").unwrap();
    let escape = format!("../../../../../../../../..{}", file.display());
    let swapped = format!("swapped-name_{:016x}_{:016x}", 1u64.swap_bytes(), 0);
    for (name, flags, block, code, word, reason) in [
        ("writes-cas", 0x01, block.as_str(), 1, "other", "not its own"),
        ("writes-cas-too", 0x03, &block, 1, "other", "not its own"),
        ("writes-other", 0x03, &owned("writes-other", 1, 5), 1, "other", "not its own"),
        ("escapes", 0x02, &escape, 1, "other", "leads out of its directory"),
        ("escapes-too", 0x03, &owned("../../x", 1, 0), 1, "other", "leads out of its directory"),
        ("dots-volume", 0x03, &owned("..", 1, 0), 1, "other", "whose volume has no name"),
        ("plain-name", 0x02, "passwd", 1, "other", "no release of Archipelago would"),
        ("half-removed", 0x0b, &owned("half-removed", 1, 0), 1, "other", "removal of this volume had begun"),
        ("swapped-name", 0x03, &swapped, 1, "other", "July 2014"),
        ("unknown-flag", 0x80, &block, 1, "other", "flags 0x80"),
        ("not-zero", 0x04, &block, 7, "io", "marked as zeros"),
    ] {
        site.old.v2(name, MIB, 0, 1, &[(flags, block.to_string())]);
        refuses(&site, name, code, word, reason);
    }
    site.old.v2("never-written", MIB, 0, 1, &[(4, ZERO.into())]);
    for (name, bytes) in [("blank-entry", vec![0; 128]), ("long-name", entry(0, &"a".repeat(123)))] {
        site.old.put_map(name, &header(MIB, BLOCK as u32, 0, 1));
        let mut bytes = bytes;
        if name == "long-name" {
            bytes[1] = 124;
        }
        site.old.put_map(&format!("{name}_0000000000000000"), &bytes);
        refuses(&site, name, 7, "io", "1 to 123 are possible");
    }
}

#[test]
fn links_and_pipes_in_the_old_store_are_not_followed() {
    let mut site = Site::new(Layout::Hashed);
    let block = site.old.content(b"x");
    site.old.v2("linked-block", MIB, 0, 1, &[(0, block.clone())]);
    let path = site.old.block_path(&block);
    let aside = site.path("aside");
    fs::rename(&path, &aside).unwrap();
    symlink(&aside, &path).unwrap();
    refuses(&site, "linked-block", 1, "other", "is a symbolic link");
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refuses(&site, "linked-block", 1, "other", "is a symbolic link, or no file");
    fs::remove_file(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    // A directory on the way.
    let dir = path.parent().unwrap();
    fs::rename(dir, &aside).unwrap();
    symlink(&aside, dir).unwrap();
    refuses(&site, "linked-block", 1, "other", "is a symbolic link");
    fs::remove_file(dir).unwrap();
    fs::rename(&aside, dir).unwrap();
    // A directory is not passed over when maps are listed.
    let two = site.old.maps.join("ab");
    if !two.exists() {
        symlink(&aside, &two).unwrap();
        let (_, error) = site.import_fails(1, "other", &["--all"]);
        assert!(error.contains("is a symbolic link"), "{error}");
        fs::remove_file(&two).unwrap();
    }
    // A header, and map data.
    for name in ["linked-block_0000000000000000", "linked-block"] {
        let path = site.old.map_path(name);
        fs::rename(&path, &aside).unwrap();
        symlink(&aside, &path).unwrap();
        let (_, error) = site.import_fails(1, "other", &["linked-block"]);
        assert!(error.contains("is a symbolic link"), "{error}");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    site.import(&["linked-block"]);
}

#[test]
fn removed_and_hidden_maps_are_not_imported() {
    let mut site = Site::new(Layout::Hashed);
    site.old.put_map("gone-volume", &header(MIB, BLOCK as u32, DELETED, 7));
    let (_, error) = site.import_fails(3, "not_found", &["gone-volume"]);
    assert!(error.contains("gone-volume: no such map"), "{error}");
    site.import_fails(3, "not_found", &["never-was"]);
    site.import_fails(3, "not_found", &["../../maps"]);
    // Release 0.4 opens the plain name, and never looks at the other one then.
    let block = site.old.content(b"x");
    site.old.v1("twice-there", MIB, &[V1::Content(block.clone())]);
    site.old.v2("twice-there", MIB, 0, 1, &[(0, block)]);
    let (_, error) = site.import_fails(1, "other", &["archip_twice-there"]);
    assert!(error.contains("hidden by twice-there"), "{error}");
    // But it does after the plain one was removed.
    site.old.put_map("twice-there", &header(MIB, BLOCK as u32, DELETED, 2));
    assert_eq!(site.import(&["archip_twice-there"])["twice-there"]["version"], json!(1));
}

#[test]
fn a_volume_locked_by_the_original_is_refused_until_somebody_says_that_it_is_not() {
    let mut site = Site::new(Layout::Hashed);
    let block = site.old.content(b"x");
    site.old.v2("running", MIB, 0, 1, &[(0, block.clone())]);
    site.old.v2("its-snapshot", MIB, READ_ONLY, 0, &[(0, block)]);
    for name in ["running_lock", "its-snapshot_lock"] {
        site.old.put_map(name, b"node1_500\x1b[2J");
    }
    let (documents, error) = site.import_fails(5, "busy", &["--all"]);
    assert!(error.contains("locked by \"node1_500\\u{1b}[2J\"") && error.contains("--ignore-locks"), "{error}");
    assert_eq!(documents["its-snapshot"]["state"], json!("imported"), "one that is refused does not stop the others");
    assert_eq!(site.names(), ["its-snapshot"]);
    let done = site.import(&["running", "--ignore-locks"]);
    assert_eq!(done["running"]["state"], json!("imported"));
}

#[test]
fn directories_that_are_none_are_refused() {
    let site = Site::new(Layout::Hashed);
    let file = site.path("a-file");
    fs::write(&file, b"").unwrap();
    let missing = site.path("missing").display().to_string();
    let output = site.run(&["import-legacy", "--maps", &missing, "--blocks", &missing]);
    assert_eq!(output.status.code(), Some(3));
    let file = file.display().to_string();
    let output = site.run(&["import-legacy", "--maps", &file, "--blocks", &file]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(site.run(&["import-legacy", "--maps", &file]).status.code(), Some(2));
}
