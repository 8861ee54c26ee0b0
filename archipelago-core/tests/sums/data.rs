//! `check` with its data: everything that maps name is read, and compared with whatever says what it was.

use std::sync::Arc;

use archipelago_core::blocker::{Blocker, Object};
use archipelago_core::*;

use crate::random;
use crate::{BLOCK, SECTOR, build, flip, memory, ranges, scrub};

fn check_data(store: &Store, names: &[&str]) -> CheckReport {
    let names = names.iter().map(ToString::to_string).collect();
    let options = CheckOptions { grace: 0, data: true, names, ..CheckOptions::default() };
    let mut last = CheckProgress::default();
    let report = store.check(&options, &mut |at| {
        last = at;
        Ok(())
    });
    assert_eq!(last.data, last.data_total, "all that was said to be read was");
    report.unwrap()
}

fn read(report: &CheckReport) -> (u64, u64, u64) {
    let data = report.data.unwrap();
    assert_eq!((data.broken, data.unknown), (0, 0));
    (data.verified, data.without, data.hashed)
}

fn contents(blocker: &Arc<dyn Blocker>) -> Vec<Digest> {
    (0..=u8::MAX).flat_map(|first| blocker.contents(first).unwrap()).collect()
}

#[test]
fn a_check_of_data_reads_all_of_it_and_says_what_could_be_compared() {
    let (_blocker, store) = memory();
    build(&store);
    let report = check_data(&store, &[]);
    assert_eq!((report.worst(), read(&report)), (None, (0, 7 * BLOCK, 0)));
    scrub(&store);
    // The clone's own block may still be written.
    let report = check_data(&store, &[]);
    assert_eq!((report.worst(), read(&report)), (None, (6 * BLOCK, BLOCK, 0)));
    let report = check_data(&store, &["snap-a"]);
    assert_eq!((report.worst(), read(&report)), (None, (6 * BLOCK, 0, 0)));
    store.hash("snap-a", &Default::default(), &mut |_| true).unwrap();
    let report = check_data(&store, &[]);
    assert_eq!((report.worst(), read(&report)), (None, (6 * BLOCK, BLOCK, 6 * BLOCK)));
    let report = store.check(&CheckOptions { grace: 0, ..CheckOptions::default() }, &mut |_| Ok(())).unwrap();
    assert_eq!(report.data, None);
}

#[test]
fn a_check_of_data_tells_changed_bits_in_bytes_of_maps_and_a_repair_invents_nothing() {
    let (blocker, store) = memory();
    let (owner, _) = build(&store);
    scrub(&store);
    flip(&blocker, Object::Data(owner, 1), 2 * BLOCK + 9 * SECTOR);
    let report = check_data(&store, &[]);
    assert_eq!((report.worst(), report.findings.len()), (Some(Severity::Damage), 1));
    let finding = &report.findings[0];
    assert_eq!((finding.kind, &finding.object), (FindingKind::Altered, &Object::Data(owner, 1).to_string()));
    for name in ["snap-a", "volume-a", "clone-a"] {
        assert_eq!(ranges(finding, name), [(2 * BLOCK + 9 * SECTOR, SECTOR)], "{finding:#?}");
    }
    let before = crate::read_all(&store, "clone-a").unwrap_err().to_string();
    let options = CheckOptions { grace: 0, data: true, repair: true, ..CheckOptions::default() };
    let repaired = store.check(&options, &mut |_| Ok(())).unwrap();
    assert_eq!(repaired.findings, report.findings);
    assert_eq!(crate::read_all(&store, "clone-a").unwrap_err().to_string(), before);
}

#[test]
fn a_bit_that_changed_before_its_checksum_was_made_is_found_by_the_digest_of_its_block() {
    let (blocker, store) = memory();
    let (owner, _) = build(&store);
    store.hash("snap-a", &Default::default(), &mut |_| true).unwrap();
    flip(&blocker, Object::Data(owner, 1), 4 * BLOCK + 1);
    assert_eq!(scrub(&store).findings, vec![], "the checksum is of what was found");
    let report = check_data(&store, &[]);
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    for name in ["snap-a", "volume-a", "clone-a"] {
        assert_eq!(ranges(&report.findings[0], name), [(4 * BLOCK, BLOCK)], "{name}");
    }
    // Told once, where checksum and digest both say so.
    flip(&blocker, Object::Data(owner, 1), 5 * BLOCK);
    let report = check_data(&store, &[]);
    let lost: Vec<_> = report.findings.iter().flat_map(|f| ranges(f, "snap-a")).collect();
    assert_eq!(lost, [(4 * BLOCK, BLOCK), (5 * BLOCK, SECTOR)], "{:#?}", report.findings);
}

#[test]
fn a_content_object_is_compared_with_its_name_and_told_in_bytes_of_the_maps_that_name_it() {
    let (blocker, store) = memory();
    let claim = store.claim("a test").unwrap();
    let (first, second) = (random::bytes(50, BLOCK as usize), random::bytes(51, 1000));
    let digests = [claim.put(&first).unwrap().digest, claim.put(&second).unwrap().digest];
    let (name, size) = ("object-1".to_string(), BLOCK + 1000);
    let new = store::content::NewObject { name, kind: Kind::Object, size, block_size: None };
    store.create_object(&new, &mut digests.iter().map(|d| Ok(*d))).unwrap();
    let report = check_data(&store, &[]);
    assert_eq!((report.worst(), read(&report)), (None, (0, 0, BLOCK + 1000)));
    flip(&blocker, Object::Content(digests[1]), 999);
    let report = check_data(&store, &["object-1"]);
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    assert_eq!(ranges(&report.findings[0], "object-1"), [(BLOCK, 1000)]);
    // Nobody names it, and whoever comes to do so gets it.
    store.remove("object-1").unwrap();
    store.collect(&CollectOptions::default(), &mut |_| true).unwrap();
    assert_eq!(contents(&blocker).len(), 2);
    let report = check_data(&store, &[]);
    assert_eq!((report.findings.len(), report.worst()), (1, Some(Severity::Damage)));
}
