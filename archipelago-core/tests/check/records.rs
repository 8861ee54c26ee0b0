//! Headers and names: what is damaged, half made, half removed, or torn.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use archipelago_core::blocker::{Blocker, RecordKey};
use archipelago_core::format::header::Header;
use archipelago_core::*;

use crate::{SIZE, Site, build, check, flip, id_of, is_clean, lost, only};

#[test]
fn a_damaged_header_does_not_hide_the_others_and_is_moved_to_lost() {
    let site = Site::new();
    build(&site);
    let store = site.open();
    let clone = id_of(&store, "clone-a");
    drop(store);
    flip(&site.header(clone), 100);
    let store = site.open();
    let page = store.list(&ListOptions::default()).unwrap();
    let names: Vec<&str> = page.entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["snap-a", "volume-a"]);
    assert_eq!(page.damaged.len(), 1);
    assert_eq!(page.damaged[0].name, "clone-a");
    assert!(matches!(store.remove("clone-a"), Err(Error::Damaged { .. })));

    let report = check(&store, false);
    let finding = only(&report);
    assert_eq!((finding.kind, finding.severity), (FindingKind::Header, Severity::Damage));
    assert!(lost(finding, "clone-a").whole);
    assert!(!finding.repair.as_ref().unwrap().done && !report.leaks_checked);
    assert_eq!(check(&store, false).findings, report.findings, "looking changes nothing");

    let bytes = fs::read(site.header(clone)).unwrap();
    let report = check(&store, true);
    assert!(only(&report).repair.as_ref().unwrap().done, "{report:#?}");
    assert!(report.repaired() && report.worst().is_none());
    for place in [format!("lost/h.{clone}"), "lost/n.clone-a".into()] {
        assert_eq!(fs::read(site.root.join(place)).unwrap(), bytes, "kept as it was");
    }
    assert!(!site.header(clone).exists());
    let after = check(&store, true);
    assert_eq!(after.findings, vec![]);
    assert_eq!(after.aside.len(), 2);
    assert!(!after.leaks_checked, "what the lost header names is not known");
    let collected = store.collect(&CollectOptions::default(), &mut |_| true);
    assert!(matches!(collected, Err(Error::Damaged { .. })), "{collected:?}");
    assert!(store.list(&ListOptions::default()).unwrap().damaged.is_empty());
    store.clone_snapshot("snap-a", "clone-a", &CloneOptions::default()).unwrap();
}

#[test]
fn a_header_without_a_name_gets_it_back_or_another_one_if_it_is_taken() {
    let site = Site::new();
    let id = build(&site);
    fs::remove_file(site.root.join("catalog/n.snap-a")).unwrap();
    let report = site.look();
    assert_eq!((only(&report).kind, only(&report).severity), (FindingKind::UnnamedHeader, Severity::Repairable));
    assert_eq!(report.worst(), Some(Severity::Repairable));
    let report = site.repair();
    assert!(report.repaired() && report.worst().is_none(), "{report:#?}");
    is_clean(&site.look());
    assert_eq!(site.open().info("snap-a").unwrap().kind, Kind::Snapshot);

    fs::remove_file(site.root.join("catalog/n.volume-a")).unwrap();
    site.open().create("volume-a", &CreateOptions { size: 5, block_size: None }).unwrap();
    let report = site.repair();
    let action = &only(&report).repair.as_ref().unwrap().action;
    let found = format!("volume-a.found-{id}");
    assert!(action.contains("taken") && action.contains(&found), "{action}");
    let store = site.open();
    assert_eq!((store.info("volume-a").unwrap().size, store.info(&found).unwrap().size), (5, SIZE));
    is_clean(&site.look());
}

#[test]
fn a_header_found_under_its_name_only_is_entered_again() {
    let site = Site::new();
    let id = build(&site);
    fs::remove_file(site.header(id)).unwrap();
    assert!(matches!(site.open().info("volume-a"), Err(Error::NotFound(_))));
    let report = site.look();
    assert_eq!((only(&report).kind, only(&report).severity), (FindingKind::MissingHeader, Severity::Repairable));
    site.repair();
    assert_eq!(site.look().findings, vec![]);
    assert_eq!(site.open().info("volume-a").unwrap().size, SIZE);
    let (name, header) = (site.root.join("catalog/n.volume-a"), site.header(id));
    assert_eq!(fs::metadata(name).unwrap().ino(), fs::metadata(header).unwrap().ino());
}

#[test]
fn names_that_do_not_count_and_removals_cut_short_are_cleared_away() {
    let site = Site::new();
    let id = build(&site);
    let blocker = site.blocker();
    blocker.bind_name("other-name", id).unwrap();
    let removed = id_of(&site.open(), "clone-a");
    let record = blocker.read_record(RecordKey::Header(removed)).unwrap();
    let mut header = Header::decode("h", &record.bytes).unwrap();
    header.removed = true;
    blocker.commit_record(RecordKey::Header(removed), record.version, &header.encode()).unwrap();
    let kinds = |report: &CheckReport| report.findings.iter().map(|f| (f.kind, f.is_left())).collect::<Vec<_>>();
    let report = site.look();
    assert_eq!(report.worst(), Some(Severity::Leak));
    for kind in [FindingKind::StaleName, FindingKind::UnfinishedRemoval] {
        assert!(kinds(&report).contains(&(kind, true)), "{report:#?}");
    }
    let report = site.repair();
    assert!(report.worst().is_none(), "{report:#?}");
    assert_eq!(site.look().findings, vec![]);
    assert_eq!(blocker.lookup("other-name").unwrap(), None);
    assert_eq!(blocker.trashed().unwrap(), vec![removed]);
}

#[test]
fn a_commit_that_was_torn_is_written_again_and_reads_as_before() {
    let site = Site::new();
    let id = build(&site);
    let path = site.header(id);
    let before = site.blocker().read_record(RecordKey::Header(id)).unwrap();
    // The slot that the next commit goes to: with a first sector of the one after next it is half of that commit.
    let file = fs::File::options().write(true).open(&path).unwrap();
    let next = before.version + 1;
    let slot = archipelago_core::format::record::encode_slot(id.0, next, &[7; 900]).unwrap();
    file.write_all_at(&slot[..512], archipelago_core::format::record::slot_of(next) * 4096).unwrap();
    let report = site.look();
    assert_eq!(report.worst(), Some(Severity::Leak));
    assert_eq!(report.findings[0].kind, FindingKind::TornSlot);
    site.repair();
    assert_eq!(site.look().findings, vec![]);
    assert_eq!(site.blocker().read_record(RecordKey::Header(id)).unwrap().bytes, before.bytes);
    site.open().rename("volume-a", "volume-b").unwrap();
}
