//! `orphans`: what Ganeti made and no longer knows.

use std::fs;
use std::str::FromStr;

use archipelago_core::{CreateOptions, Location, Store, StoreOptions};
use serde_json::Value;

use crate::host::{Host, is_root};

const KNOWN: &str = "0f0c9a52-0e77-4bd1-8a60-2d94c513b8f6";
const GONE: &str = "1f0c9a52-0e77-4bd1-8a60-2d94c513b8f6";

/// Volumes that Ganeti knows, and does not know, a snapshot of an export, and what Ganeti never made.
fn host() -> Host {
    let host = Host::new();
    let location = Location::from_str(&format!("file:{}", host.site.text("store"))).unwrap();
    let store = Store::open(&location, StoreOptions::default()).unwrap();
    let size = CreateOptions { size: 1 << 20, block_size: None };
    store.create_labelled("disk-known", &size, &[("ganeti.uuid", Some(KNOWN))]).unwrap();
    store.create_labelled("disk-gone", &size, &[("ganeti.uuid", Some(GONE))]).unwrap();
    store.create("disk-other", &size).unwrap();
    store.snapshot("disk-known", "disk-known.snap").unwrap();
    store.set_labels("disk-known.snap", &[("ganeti.snapshot-of", Some("disk-known"))]).unwrap();
    fs::write(host.site.path("live"), format!("['{KNOWN}']\n[]\n")).unwrap();
    host
}

fn orphans(host: &Host, more: &[&str]) -> Vec<(String, bool)> {
    let live = host.site.text("live");
    let printed = host.ok(&[&["orphans", "--json", "--live", &live], more].concat());
    let list: Vec<Value> = serde_json::from_str(&printed).unwrap();
    list.iter().map(|o| (o["name"].as_str().unwrap().to_string(), o["removed"].as_bool().unwrap())).collect()
}

fn names(host: &Host) -> String {
    let list: Value = serde_json::from_str(&host.ok(&["list", "--json"])).unwrap();
    list["entries"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_ganeti_does_not_know_is_listed_and_removed_only_if_that_is_asked_for() {
    let host = host();
    assert!(orphans(&host, &[]).is_empty(), "they are too young");
    let found = [("disk-gone".to_string(), false), ("disk-known.snap".to_string(), false)];
    assert_eq!(orphans(&host, &["--min-age", "0"]), found);
    assert_eq!(names(&host), "disk-gone disk-known disk-known.snap disk-other");
    let removed = found.map(|(name, _)| (name, true));
    assert_eq!(orphans(&host, &["--min-age", "0", "--remove"]), removed);
    assert_eq!(names(&host), "disk-known disk-other");
    assert!(orphans(&host, &["--min-age", "0", "--remove"]).is_empty());
}

#[test]
fn a_list_that_is_empty_or_something_else_makes_no_orphans() {
    let host = host();
    let live = host.site.text("live");
    let remove = ["orphans", "--min-age", "0", "--remove", "--live", &live];
    for (text, says) in [
        ("", "--none-live"),
        ("[]\n[]\n", "--none-live"),
        ("Disk_UUIDs\n", "neither the UUID"),
        ("error: no master", "neither"),
    ] {
        fs::write(host.site.path("live"), text).unwrap();
        let refused = host.fails(2, &remove);
        assert!(refused.contains(says), "{text:?}: {refused}");
    }
    host.fails(3, &["orphans", "--live", "/nowhere/at/all"]);
    assert_eq!(names(&host), "disk-gone disk-known disk-known.snap disk-other");
    fs::write(host.site.path("live"), "").unwrap();
    host.ok(&[&remove[..], &["--none-live"]].concat());
    assert_eq!(names(&host), "disk-other");
}

#[test]
fn an_orphan_that_is_attached_is_detached_and_one_in_use_stays() {
    if !is_root() {
        return;
    }
    let host = host();
    let device = host.ok(&["map", "disk-gone"]);
    let open = fs::File::open(&device).unwrap();
    let live = host.site.text("live");
    let refused = host.fails(5, &["orphans", "--min-age", "0", "--remove", "--live", &live]);
    assert!(refused.contains("is in use") && names(&host).contains("disk-gone"), "{refused}");
    drop(open);
    assert_eq!(orphans(&host, &["--min-age", "0", "--remove"]), [("disk-gone".to_string(), true)]);
    assert!(host.mapped().is_empty() && names(&host) == "disk-known disk-other");
}
