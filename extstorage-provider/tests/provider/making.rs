//! `create`, `remove`, `setinfo`, `snapshot`, and what the program does when it is called otherwise.

use archipelago_core::{Kind, Mode};

use crate::site::{CNAME, MIB, NAME, Site, UUID, VERBS, assert_failed};

#[test]
fn any_argument_and_any_other_name_prints_how_it_is_to_be_called() {
    let site = Site::new();
    for verb in VERBS {
        let run = std::process::Command::new(site.path("node-1").join(verb)).arg("--help").output().unwrap();
        assert_eq!((run.status.code(), run.stdout.len()), (Some(1), 0));
        assert!(String::from_utf8(run.stderr).unwrap().contains("Ganeti runs it without arguments"));
    }
    std::fs::hard_link(site.path("node-1").join("verify"), site.path("node-1").join("other")).unwrap();
    let ended = site.call("other", &[]);
    assert!(ended.code == Some(1) && ended.err.contains("create attach detach"), "{ended:?}");
}

#[test]
fn every_verb_but_verify_needs_the_name_of_the_disk() {
    let site = Site::new();
    for verb in VERBS.into_iter().filter(|verb| *verb != "verify") {
        let ended = site.call(verb, &[("VOL_CNAME", CNAME), ("VOL_SIZE", "16"), ("VOL_NEW_SIZE", "32")]);
        assert_failed(&ended);
        assert!(ended.err.contains("VOL_NAME is not set"), "{}", ended.err);
    }
}

#[test]
fn a_blank_disk_is_made_once_and_a_retry_of_the_same_call_succeeds() {
    let site = Site::new();
    let size = [("VOL_SIZE", "16"), ("EXTP_BLOCKSIZE", "64K"), ("EXTP_ORIGIN", "None"), ("EXTP_ORIGIN_SIZE", "-1")];
    assert_eq!(site.ok("create", &size), "");
    let made = site.info(CNAME);
    assert_eq!((made.size, made.block_size, made.kind), (16 * MIB, 64 << 10, Kind::Volume));
    let labels: Vec<_> = made.labels.iter().collect();
    assert_eq!(labels, [("ganeti.name", NAME), ("ganeti.uuid", UUID)]);
    site.ok("create", &size);
    assert_eq!(site.info(CNAME).id, made.id, "it is the same volume");
    // Another disk, another size, an origin: not a retry.
    let other = UUID.replace('5', "6");
    for more in [("VOL_UUID", other.as_str()), ("VOL_SIZE", "17"), ("VOL_UUID", "")] {
        let text = site.fails("create", &[size.as_slice(), &[more]].concat());
        assert!(text.contains("exists already"), "{text}");
    }
    let store = site.store();
    store.open_volume(CNAME, Mode::ReadWrite).unwrap().write_at(&[1; 4096], 0).unwrap();
    assert!(site.fails("create", &size).contains("exists already"), "it was written meanwhile");
}

#[test]
fn a_disk_without_a_name_is_called_as_ganeti_calls_it() {
    let site = Site::new();
    site.ok("create", &[("VOL_SIZE", "1"), ("VOL_CNAME", "")]);
    assert_eq!(site.info(NAME).size, MIB);
    site.ok("remove", &[("VOL_CNAME", "")]);
    // The disk's own name is not wanted.
    site.install("node-1", "volume_naming = 'name'");
    site.ok("create", &[("VOL_SIZE", "1"), ("VOL_CNAME", "a name that no volume may have")]);
    assert_eq!(site.info(NAME).size, MIB);
}

#[test]
fn a_clone_of_an_origin_has_its_bytes_and_zeros_behind_them() {
    let site = Site::new();
    site.image("image-1", 4, 7);
    let size = (4 * MIB - 5).to_string();
    let making = [("VOL_SIZE", "8"), ("EXTP_ORIGIN", "image-1"), ("EXTP_ORIGIN_SIZE", &size)];
    site.ok("create", &making);
    site.ok("create", &making);
    let (store, mut bytes) = (site.store(), vec![9; 8 * MIB as usize]);
    let volume = store.open_volume(CNAME, Mode::ReadWrite).unwrap();
    volume.read_at(&mut bytes, 0).unwrap();
    assert!(bytes[..4096] == [7; 4096] && bytes[4096..].iter().all(|byte| *byte == 0));
    assert_eq!(site.info(CNAME).labels.get("ganeti.origin"), Some("image-1"));
    assert!(site.info("image-1").labels.is_empty());
}

#[test]
fn what_cannot_be_made_of_an_origin_is_refused_and_leaves_nothing() {
    let site = Site::new();
    site.image("image-1", 4, 7);
    site.store().create("volume-1", &archipelago_core::CreateOptions { size: MIB, block_size: None }).unwrap();
    for (more, expected) in [
        (&[("EXTP_ORIGIN", "image-2")][..], "has no such snapshot"),
        (&[("EXTP_ORIGIN", "volume-1")], "archipelago snapshot volume-1"),
        (&[("EXTP_ORIGIN", "image-1"), ("VOL_SIZE", "3")], "at least 4 MiB"),
        (&[("EXTP_ORIGIN", "image-1"), ("EXTP_ORIGIN_SIZE", "1048576")], "another image"),
        (&[("EXTP_ORIGIN", "image-1"), ("EXTP_BLOCKSIZE", "64K")], "block size of its origin"),
        (&[("EXTP_ORIGIN", "image-1"), ("EXTP_REUSE_DATA", "True")], "EXTP_REUSE_DATA"),
        (&[("EXTP_ORIGIN", "image-1"), ("EXTP_POOL", "ssd")], "has no such snapshot"),
        (&[("EXTP_POOL", "hdd")], "name one of gone, ssd"),
        (&[("EXTP_POOL", "gone")], "mount the store"),
        (&[("EXTP_BOGUS", "1"), ("EXTP_A", "2")], "unknown parameters: \"EXTP_A\", \"EXTP_BOGUS\""),
        (&[("EXTP_BLOCKSIZE", "1K")], "block of 1024 bytes"),
        (&[("VOL_SIZE", "99999999999")], "4 PiB"),
        (&[("VOL_UUID", "1; reboot")], "VOL_UUID"),
        (&[("VOL_CNAME", "a/../b")], "VOL_CNAME"),
    ] {
        let text = site.fails("create", &[&[("VOL_SIZE", "8")], more].concat());
        assert!(text.contains(expected), "{more:?}: {text}");
    }
    let names: Vec<_> = site.store().list(&Default::default()).unwrap().entries.into_iter().map(|i| i.name).collect();
    assert_eq!(names, ["image-1", "volume-1"]);
}

#[test]
fn a_disk_whose_data_is_to_stay_takes_over_what_is_there() {
    let site = Site::new();
    let reuse = [("VOL_SIZE", "4"), ("EXTP_REUSE_DATA", "True")];
    assert!(site.fails("create", &reuse).contains("no such volume"));
    site.ok("create", &[("VOL_SIZE", "4"), ("EXTP_REUSE_DATA", "False")]);
    let store = site.store();
    let volume = store.open_volume(CNAME, Mode::ReadWrite).unwrap();
    volume.write_at(&[5; 4096], 0).unwrap();
    volume.close().unwrap();
    // Detached from one instance and attached to another: Ganeti has made up another name, and another disk.
    let (name, uuid) = (NAME.replace('0', "1"), UUID.replace('5', "6"));
    let moved = [("VOL_NAME", name.as_str()), ("VOL_UUID", uuid.as_str())];
    site.ok("create", &[reuse.as_slice(), &moved].concat());
    let (info, mut bytes) = (site.info(CNAME), [0; 4096]);
    assert_eq!((info.labels.get("ganeti.name"), info.labels.get("ganeti.uuid")), (Some(&*name), Some(&*uuid)));
    store.open_volume(CNAME, Mode::ReadWrite).unwrap().read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [5; 4096]);
    let text = site.fails("create", &[reuse.as_slice(), &moved, &[("VOL_SIZE", "5")]].concat());
    assert!(text.contains("--disk size=4m"), "{text}");
}

#[test]
fn a_disk_of_another_store_is_named_by_its_pool() {
    let site = Site::new();
    let pool = ("EXTP_POOL", "ssd");
    site.ok("create", &[("VOL_SIZE", "1"), pool]);
    assert!(site.store().info(CNAME).is_err() && site.ssd().info(CNAME).is_ok());
    let ended = site.call("remove", &crate::site::with(&[]));
    assert!(ended.code == Some(0) && ended.err.contains("nothing to remove"), "{ended:?}");
    site.ok("remove", &[pool]);
    assert!(site.ssd().info(CNAME).is_err());
}

#[test]
fn what_is_gone_is_removed_with_a_warning_and_unknown_parameters_are_one_too() {
    let site = Site::new();
    site.ok("create", &[("VOL_SIZE", "1")]);
    let ended = site.call("remove", &crate::site::with(&[("EXTP_BOGUS", "1")]));
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""));
    assert_eq!(ended.err, "archipelago remove: warning: unknown parameters are ignored: \"EXTP_BOGUS\"\n");
    let ended = site.call("remove", &crate::site::with(&[]));
    assert!(ended.code == Some(0) && ended.err.contains("nothing to remove"), "{ended:?}");
    assert_eq!(site.ok("detach", &[]), "", "and what is gone is not attached");
    assert_eq!(site.ok("close", &[]), "");
    for verb in ["attach", "grow", "setinfo", "snapshot", "open"] {
        let more = [("VOL_NEW_SIZE", "2"), ("VOL_SNAPSHOT_NAME", "snap-1"), ("VOL_OPEN_EXCLUSIVE", "True")];
        assert!(site.fails(verb, &more).contains("no such volume"), "{verb}");
    }
}

#[test]
fn what_ganeti_says_of_a_disk_is_noted() {
    let site = Site::new();
    site.store().create(CNAME, &archipelago_core::CreateOptions { size: MIB, block_size: None }).unwrap();
    site.ok("setinfo", &[("VOL_METADATA", "originstname+vm1.example.com")]);
    let labels = site.info(CNAME).labels;
    let all: Vec<_> = labels.iter().collect();
    assert_eq!(
        all,
        [("ganeti.metadata", "originstname+vm1.example.com"), ("ganeti.name", NAME), ("ganeti.uuid", UUID)]
    );
    // From now on the disk is known by what Ganeti made up, whatever name it is given there.
    site.ok("setinfo", &[("VOL_METADATA", "originstname+vm2"), ("VOL_CNAME", "renamed")]);
    assert_eq!(site.info(CNAME).labels.get("ganeti.metadata"), Some("originstname+vm2"));
    assert!(site.fails("setinfo", &[("VOL_METADATA", &"x".repeat(256))]).contains("VOL_METADATA"));
}

#[test]
fn a_snapshot_has_the_very_name_that_ganeti_gives_and_is_removed_like_a_disk() {
    let site = Site::new();
    site.ok("create", &[("VOL_SIZE", "4")]);
    let snap = format!("{NAME}.snap");
    // As stock Ganeti calls it: without the disk's own name and UUID.
    let call = [("VOL_CNAME", ""), ("VOL_UUID", ""), ("VOL_SNAPSHOT_NAME", snap.as_str()), ("VOL_SNAPSHOT_SIZE", "4")];
    site.ok("snapshot", &call);
    let info = site.info(&snap);
    assert_eq!((info.kind, info.parent.as_deref(), info.size), (Kind::Snapshot, Some(CNAME), 4 * MIB));
    assert_eq!(info.labels.get("ganeti.snapshot-of"), Some(NAME));
    assert!(info.labels.get("ganeti.uuid").is_none());
    let text = site.fails("snapshot", &call);
    assert!(text.contains(&format!("archipelago remove {snap}")), "{text}");
    assert!(site.fails("snapshot", &[("VOL_SNAPSHOT_NAME", "../../etc")]).contains("VOL_SNAPSHOT_NAME"));
    site.ok("remove", &[("VOL_CNAME", ""), ("VOL_NAME", &snap)]);
    assert!(site.store().info(&snap).is_err() && site.store().info(CNAME).is_ok());
}

#[test]
fn verify_looks_at_parameters_and_stores() {
    let site = Site::new();
    let ended = site.call("verify", &[]);
    assert_failed(&ended);
    assert!(ended.err.contains("gone"), "one of the pools cannot be reached: {}", ended.err);
    let ended = site.call("verify", &[("EXTP_POOL", "ssd"), ("VOL_NAME", NAME), ("EXTP_ORIGIN", "None")]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
    for bad in [
        ("EXTP_POOL", "none"),
        ("EXTP_BOGUS", "1"),
        ("EXTP_ACCESS", "both"),
        ("VOL_NAME", "x"),
        ("EXTP_REUSE_DATA", "1"),
    ] {
        assert_failed(&site.call("verify", &[("EXTP_POOL", "ssd"), bad]));
    }
    std::fs::write(site.path("node-1").join("archipelago.toml"), "store = 7").unwrap();
    assert!(site.call("verify", &[]).err.contains("correct the configuration"));
}
