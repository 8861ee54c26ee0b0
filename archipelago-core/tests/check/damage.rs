//! What is missing, cut short, altered, contradicts itself, or is left over.

use std::fs;

use archipelago_core::blocker::{Blocker, Object, RecordKey, VolumeId};
use archipelago_core::format::header::Header;
use archipelago_core::*;

use crate::random::bytes;
use crate::{BLOCK, SIZE, Site, build, check, flip, id_of, is_clean, lost, only, options, ranges};

#[test]
fn a_data_object_cut_short_is_told_in_bytes_of_every_map_that_uses_it() {
    let site = Site::new();
    let id = build(&site);
    let data = site.object(Object::Data(id, 1));
    let cut = 130 * BLOCK + 4096;
    fs::File::options().write(true).open(&data).unwrap().set_len(cut).unwrap();
    let report = site.look();
    let finding = only(&report);
    assert_eq!((finding.kind, finding.severity), (FindingKind::Cut, Severity::Damage));
    assert_eq!(finding.object, Object::Data(id, 1).to_string());
    for name in ["volume-a", "snap-a", "clone-a"] {
        assert_eq!(lost(finding, name).ranges, ranges(&[(cut, 132 * BLOCK - cut)]), "{name}");
    }
    fs::remove_file(&data).unwrap();
    let report = site.look();
    let finding = only(&report);
    assert_eq!(lost(finding, "snap-a").ranges, ranges(&[(0, 8 * BLOCK), (128 * BLOCK, 4 * BLOCK)]));
    // The clone wrote block 0 itself.
    assert_eq!(lost(finding, "clone-a").ranges, ranges(&[(BLOCK, 7 * BLOCK), (128 * BLOCK, 4 * BLOCK)]));
    assert_eq!(site.repair().worst(), Some(Severity::Damage), "nothing is invented");
}

#[test]
fn a_flipped_bit_in_any_node_is_found_in_the_pack_and_told_in_blocks() {
    let site = Site::new();
    let id = build(&site);
    let pack = site.object(Object::Pack(id, 0));
    let good = fs::read(&pack).unwrap();
    let mut told = std::collections::BTreeSet::new();
    for at in (0..good.len() as u64).step_by(7) {
        flip(&pack, at);
        let report = site.look();
        let finding = only(&report);
        assert_eq!((finding.kind, &finding.object), (FindingKind::Node, &Object::Pack(id, 0).to_string()));
        let volume = lost(finding, "volume-a");
        assert_eq!(volume.ranges, lost(finding, "snap-a").ranges);
        assert!(!report.leaks_checked, "what lies beneath is not known");
        told.insert(volume.ranges.clone());
        fs::write(&pack, &good).unwrap();
    }
    // Each leaf, and the root above both; what is not mapped beneath a node is not known either.
    let expected = [ranges(&[(0, 128 * BLOCK)]), ranges(&[(128 * BLOCK, 32 * BLOCK)]), ranges(&[(0, SIZE)])];
    assert_eq!(told, expected.into_iter().collect());
}

#[test]
fn journal_segments_that_are_missing_or_others_are_found_folded_or_not() {
    let site = Site::new();
    let id = build(&site);
    let log = site.object(Object::Log(id, 0));
    let good = fs::read(&log).unwrap();
    // Folded: only the two sectors that still lie in it are lost.
    flip(&log, 16);
    let report = site.look();
    let head = report.findings.iter().find(|f| f.kind == FindingKind::Cut).expect("the segment's head is wrong");
    assert_eq!(lost(head, "snap-a").ranges, ranges(&[(140 * BLOCK, 4096), (141 * BLOCK + 8192, 4096)]));
    fs::remove_file(&log).unwrap();
    let report = site.look();
    assert!(report.findings.iter().any(|f| f.kind == FindingKind::Cut && f.object == format!("log.{id}.00000000")));
    fs::write(&log, &good).unwrap();
    assert_eq!(site.look().findings, vec![]);

    // Not folded: a map that cannot be opened.
    let store = site.open();
    let volume = store.open_volume("clone-a", Mode::ReadWrite).unwrap();
    volume.write_at(&bytes(9, 4096), 20 * BLOCK).unwrap();
    volume.flush().unwrap();
    let clone = id_of(&store, "clone-a");
    // As if the process had died: the files are copied before it closes.
    let (header, log) = (site.header(clone), site.object(Object::Log(clone, 0)));
    let (h, l) = (fs::read(&header).unwrap(), fs::read(&log).unwrap());
    volume.close().unwrap();
    drop(store);
    fs::write(&header, h).unwrap();
    fs::write(&log, &l).unwrap();
    is_clean(&site.look());
    let used = l.iter().rposition(|b| *b != 0).unwrap() as u64;
    flip(&log, used);
    let report = site.look();
    let finding = only(&report);
    assert_eq!((finding.kind, &finding.object), (FindingKind::Journal, &format!("log.{clone}.00000000")));
    let affected = lost(finding, "clone-a");
    assert!(affected.whole && affected.ranges == ranges(&[(0, SIZE)]));
    assert_eq!(finding.affected.len(), 1, "nobody else needs it");
}

#[test]
fn an_epoch_that_is_named_before_its_time_is_passed() {
    let site = Site::new();
    let id = build(&site);
    let blocker = site.blocker();
    let record = blocker.read_record(RecordKey::Header(id)).unwrap();
    let mut header = Header::decode("h", &record.bytes).unwrap();
    assert_eq!(header.epoch, 2);
    // As an older state of the header would have it: the volume would overwrite what its snapshot names.
    (header.epoch, header.log) = (1, None);
    blocker.commit_record(RecordKey::Header(id), record.version, &header.encode()).unwrap();
    let report = site.look();
    assert_eq!((only(&report).kind, only(&report).severity), (FindingKind::Epoch, Severity::Repairable));
    site.repair();
    is_clean(&site.look());
    assert_eq!(site.open().info("volume-a").unwrap().epoch, 2);
}

#[test]
fn objects_that_nothing_names_are_leaks_and_those_of_later_epochs_are_not() {
    let site = Site::new();
    let id = build(&site);
    let blocker = site.blocker();
    let strays = [Object::Data(id, 0), Object::Pack(VolumeId(77), 0), Object::Log(VolumeId(77), 3)];
    strays.iter().for_each(|object| blocker.create(*object, &[], 512).unwrap());
    blocker.create(Object::Data(id, 3), &[], 512).unwrap();
    let report = site.look();
    let mut found: Vec<&str> = report.findings.iter().map(|f| f.object.as_str()).collect();
    found.sort_unstable();
    let mut expected: Vec<String> = strays.iter().map(Object::to_string).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert!(report.findings.iter().all(|f| f.kind == FindingKind::Leak && f.severity == Severity::Leak));
    let report = site.repair();
    assert!(report.findings.iter().all(|f| !f.is_left()), "{report:#?}");
    assert_eq!(site.look().findings, vec![]);
    // One that has nothing open of what was removed.
    let blocker = site.blocker();
    assert!(strays.iter().all(|object| blocker.len(*object).unwrap().is_none()));
    assert!(blocker.len(Object::Data(id, 3)).unwrap().is_some());
}

#[test]
fn what_only_removed_maps_need_is_no_damage() {
    let site = Site::new();
    let id = build(&site);
    let store = site.open();
    ["clone-a", "snap-a", "volume-a"].iter().for_each(|name| store.remove(name).unwrap());
    fs::remove_file(site.object(Object::Data(id, 1))).unwrap();
    let report = check(&store, false);
    assert_eq!(report.worst(), Some(Severity::Leak), "{report:#?}");
    assert!(report.findings.iter().any(|f| f.kind == FindingKind::Cut && f.affected.iter().all(|a| a.removed)));
}

/// A volume of one leaf below one inner node, made by hand, in which something is wrong that no engine writes.
fn crafted(change: impl FnOnce(&mut Vec<(u8, archipelago_core::format::node::Entry)>, &mut Crafted)) -> CheckReport {
    use archipelago_core::format::header::{Kind, Root};
    use archipelago_core::format::node::{Entry, Node, Pointer};
    use std::io::IoSlice;
    let (blocker, owner) = (archipelago_core::blocker::memory::MemoryBlocker::new(), VolumeId(0xa1));
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let mut entries = vec![(0, Entry::Owned { owner, epoch: 1 }), (5, Entry::Owned { owner, epoch: 1 })];
    let mut crafted = Crafted { base: 128, mapped: 32, level: 0 };
    change(&mut entries, &mut crafted);
    let leaf = match crafted.level {
        0 => Node::Leaf(entries).encode(owner, crafted.base).unwrap(),
        _ => Node::Extents(vec![]).encode(owner, crafted.base).unwrap_or_default(),
    };
    let pointer = |bytes: &[u8], offset, mapped| Pointer {
        owner,
        pack: 0,
        offset,
        len: bytes.len() as u32,
        mapped,
        hash: *blake3::hash(bytes).as_bytes(),
    };
    let below = pointer(&leaf, 0, crafted.mapped);
    let top = Node::Inner { level: 1, children: vec![(1, below)] }.encode(owner, 0).unwrap();
    let root = Root::Node { level: 1, pointer: pointer(&top, leaf.len() as u32, crafted.mapped) };
    blocker.create(Object::Pack(owner, 0), &[], 0).unwrap();
    blocker.write(Object::Pack(owner, 0), &[IoSlice::new(&leaf), IoSlice::new(&top)], 0).unwrap();
    blocker.write(Object::Data(owner, 1), &[IoSlice::new(&[1])], 256 * BLOCK - 1).unwrap();
    let store = Store::open_on(blocker.clone(), options()).unwrap();
    // A header like those that are made, with this tree.
    store.create("crafted", &CreateOptions { size: 256 * BLOCK, block_size: None }).unwrap();
    let made = id_of(&store, "crafted");
    let record = blocker.read_record(RecordKey::Header(made)).unwrap();
    let header = Header { root, ..Header::decode("h", &record.bytes).unwrap() };
    assert_eq!(header.kind, Kind::Volume);
    blocker.commit_record(RecordKey::Header(made), record.version, &header.encode()).unwrap();
    check(&store, false)
}

/// What of the leaf is said wrongly.
struct Crafted {
    base: u64,
    mapped: u64,
    level: u8,
}

#[test]
fn a_tree_that_contradicts_itself_is_found() {
    use archipelago_core::format::node::{Entry, Extent, Source};
    is_clean(&crafted(|_, _| {}));
    let report = crafted(|_, c| c.mapped = 33);
    assert_eq!(only(&report).kind, FindingKind::Count);
    assert!(only(&report).affected.is_empty(), "figures only");

    let report = crafted(|_, c| c.base = 0);
    assert_eq!(only(&report).kind, FindingKind::Node);
    assert!(only(&report).detail.contains("stands for blocks from 0"), "{report:#?}");
    assert_eq!(lost(only(&report), "crafted").ranges, ranges(&[(128 * BLOCK, 128 * BLOCK)]));

    let report = crafted(|entries, c| {
        let source = Source::Data { owner: VolumeId(0xa1), epoch: 1 };
        entries[1].1 = Entry::Extents(vec![Extent { start: 10, len: 7, source }]);
        c.mapped = 23;
    });
    assert_eq!(only(&report).kind, FindingKind::Extent);
    assert!(only(&report).detail.contains("block 133"), "{report:#?}");

    let report = crafted(|entries, c| {
        let source = Source::Log { owner: VolumeId(0xa1), epoch: 1, segment: 0, offset: 0 };
        entries[1].1 = Entry::Extents(vec![Extent { start: 1, len: 1, source }]);
        c.mapped = 17;
    });
    assert_eq!(only(&report).kind, FindingKind::Extent);

    let report = crafted(|entries, _| entries[0].1 = Entry::Owned { owner: VolumeId(0xa1), epoch: 7 });
    assert_eq!(
        (only(&report).kind, &*only(&report).object),
        (FindingKind::Cut, "data.00000000000000a1.0000000000000007")
    );
    assert_eq!(lost(only(&report), "crafted").ranges, ranges(&[(128 * BLOCK, BLOCK)]));
}
