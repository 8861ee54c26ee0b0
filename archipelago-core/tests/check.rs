//! Every kind of damage is found by `check`, named, and told in bytes of the maps that lose them; what can be repaired is.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::{Blocker, Object, RecordKey, VolumeId};
use archipelago_core::format::header::Header;
use archipelago_core::*;
use tempfile::TempDir;

#[path = "common/random.rs"]
mod random;
use random::bytes;

const KIB: u64 = 1 << 10;
const BLOCK: u64 = 64 * KIB;
const SIZE: u64 = 160 * BLOCK;

fn options() -> StoreOptions {
    StoreOptions { background: Background::Manual, first_segment: 64 << 10, ..StoreOptions::default() }
}

struct Site {
    _dir: TempDir,
    root: PathBuf,
}

impl Site {
    fn new() -> Site {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("store");
        Store::init(&Location::File(root.clone()), &InitOptions { block_size: BLOCK, ..InitOptions::default() })
            .unwrap();
        Site { _dir: dir, root }
    }

    fn open(&self) -> Store {
        Store::open(&Location::File(self.root.clone()), options()).unwrap()
    }

    fn blocker(&self) -> FileBlocker {
        FileBlocker::open(&self.root, FileOptions::default()).unwrap()
    }

    fn look(&self) -> CheckReport {
        check(&self.open(), false)
    }

    fn repair(&self) -> CheckReport {
        check(&self.open(), true)
    }

    /// The file of an object's first part.
    fn object(&self, object: Object) -> PathBuf {
        let (Object::Log(id, _) | Object::Pack(id, _) | Object::Data(id, _)) = object;
        let part = if matches!(object, Object::Data(..)) { ".00000000" } else { "" };
        self.root.join(format!("data/{:02x}/{object}{part}", id.0 as u8))
    }

    fn header(&self, id: VolumeId) -> PathBuf {
        self.root.join(format!("catalog/h.{id}"))
    }
}

fn check(store: &Store, repair: bool) -> CheckReport {
    store.check(&CheckOptions { repair, grace: 0, ..CheckOptions::default() }, &mut |_| Ok(())).unwrap()
}

fn id_of(store: &Store, name: &str) -> VolumeId {
    VolumeId(u64::from_str_radix(&store.info(name).unwrap().id, 16).unwrap())
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 16], at).unwrap();
}

/// A volume with a tree of two levels: whole blocks 0..8 and 128..132, and one sector each in blocks 140 and 141; its snapshot, and a clone of
/// that which wrote block 0 anew.
fn build(site: &Site) -> VolumeId {
    let store = site.open();
    store.create("volume-a", &CreateOptions { size: SIZE, block_size: None }).unwrap();
    let volume = store.open_volume("volume-a", Mode::ReadWrite).unwrap();
    volume.write_at(&bytes(1, 8 * BLOCK as usize), 0).unwrap();
    volume.write_at(&bytes(2, 4 * BLOCK as usize), 128 * BLOCK).unwrap();
    volume.write_at(&bytes(3, 4096), 140 * BLOCK).unwrap();
    volume.write_at(&bytes(4, 4096), 141 * BLOCK + 8192).unwrap();
    // The second one leaves nothing of the journal to be replayed.
    volume.checkpoint().unwrap();
    volume.checkpoint().unwrap();
    volume.snapshot("snap-a").unwrap();
    volume.close().unwrap();
    store.clone_snapshot("snap-a", "clone-a", &CloneOptions::default()).unwrap();
    let clone = store.open_volume("clone-a", Mode::ReadWrite).unwrap();
    clone.write_at(&bytes(5, BLOCK as usize), 0).unwrap();
    clone.close().unwrap();
    id_of(&store, "volume-a")
}

fn ranges(of: &[(u64, u64)]) -> Vec<ByteRange> {
    of.iter().map(|(offset, len)| ByteRange { offset: *offset, len: *len }).collect()
}

/// The only finding that is worse than a leak.
fn only(report: &CheckReport) -> &Finding {
    let worse: Vec<&Finding> = report.findings.iter().filter(|f| f.severity > Severity::Leak).collect();
    assert_eq!(worse.len(), 1, "{:#?}", report.findings);
    worse[0]
}

fn lost<'a>(finding: &'a Finding, name: &str) -> &'a Affected {
    finding.affected.iter().find(|a| a.name == name).unwrap_or_else(|| panic!("{name} loses nothing: {finding:#?}"))
}

fn is_clean(report: &CheckReport) {
    assert!(report.worst() <= Some(Severity::Leak), "{:#?}", report.findings);
}

#[test]
fn a_store_without_damage_is_clean_and_everything_in_it_was_looked_at() {
    let site = Site::new();
    build(&site);
    let report = site.look();
    assert_eq!(report.findings, vec![]);
    assert_eq!((report.maps, report.leaks_checked), (3, true));
    // The volume's leaves with 8 and 6 blocks, and the clone's own first leaf.
    assert_eq!(report.entries, 8 + 6 + 8, "{report:?}");
    assert_eq!(report.nodes, 2 + 2 + 1, "each node once: {report:?}");
    // Data of the volume and the clone, the journal segment with the two small writes.
    assert_eq!(report.objects, 3, "{report:?}");
}

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

#[test]
fn one_map_can_be_checked_alone() {
    let site = Site::new();
    build(&site);
    let clone = id_of(&site.open(), "clone-a");
    fs::remove_file(site.object(Object::Data(clone, 1))).unwrap();
    let store = site.open();
    let of = |name: &str| {
        let options = CheckOptions { names: vec![name.into()], ..CheckOptions::default() };
        store.check(&options, &mut |_| Ok(())).unwrap()
    };
    is_clean(&of("snap-a"));
    assert_eq!(of("snap-a").maps, 1);
    assert_eq!(lost(only(&of("clone-a")), "clone-a").ranges, ranges(&[(0, BLOCK)]));
    let options = CheckOptions { names: vec!["nobody".into()], ..CheckOptions::default() };
    assert!(matches!(store.check(&options, &mut |_| Ok(())), Err(Error::NotFound(_))));
}

#[test]
fn a_listener_that_fails_ends_the_check() {
    let site = Site::new();
    build(&site);
    let stop = |_| Err(Error::Busy("the test".into()));
    assert!(matches!(site.open().check(&CheckOptions::default(), &mut { stop }), Err(Error::Busy(_))));
}

#[test]
fn a_store_in_use_gives_no_false_alarm() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let site = Site::new();
    build(&site);
    let (writer, checker) = (site.open(), site.open());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for name in ["volume-a", "clone-a"] {
            let (writer, stop) = (&writer, &stop);
            scope.spawn(move || {
                let volume = writer.open_volume(name, Mode::ReadWrite).unwrap();
                let mut round = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    for i in 0..20 {
                        let at = (round * 37 + i * 13) % 150 * BLOCK + (i % 4) * 4096;
                        volume.write_at(&bytes(round + i, if i % 5 == 0 { 50_000 } else { 4096 }), at).unwrap();
                    }
                    let snapshot = format!("{name}-{round:05}");
                    volume.snapshot(&snapshot).unwrap();
                    if round % 3 == 0 {
                        volume.checkpoint().unwrap();
                    }
                    let renamed = format!("{name}-r{round:05}");
                    writer.rename(&snapshot, &renamed).unwrap();
                    if round >= 4 {
                        writer.remove(&format!("{name}-r{:05}", round - 4)).unwrap();
                    }
                    round += 1;
                }
                volume.close().unwrap();
            });
        }
        let mut in_use = 0;
        for _ in 0..25 {
            let report = checker.check(&CheckOptions::default(), &mut |_| Ok(()));
            let report = report.unwrap_or_else(|e| {
                stop.store(true, Ordering::Relaxed);
                panic!("{e}")
            });
            in_use += report.in_use.len();
            if report.worst() > Some(Severity::Leak) {
                stop.store(true, Ordering::Relaxed);
                panic!("{:#?}", report.findings);
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(in_use > 0, "nothing was in use: the test tests nothing");
    });
    is_clean(&check(&checker, false));
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

#[test]
fn a_repair_may_be_cut_at_any_call_and_is_finished_by_the_next() {
    use archipelago_core::blocker::sim::SimDisk;
    use archipelago_core::blocker::sys::{Open, Sys};
    use std::io::IoSlice;
    use std::sync::Arc;
    static SEEDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let open = |disk: &Arc<SimDisk>| {
        let blocker = FileBlocker::new(disk.clone(), FileOptions::default());
        // Each store gives ids of its own, as processes do.
        let seed = Some(3 + SEEDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        Store::open_on(Arc::new(blocker), StoreOptions { seed, ..options() }).unwrap()
    };
    let disk = SimDisk::new();
    let blocker = Arc::new(FileBlocker::new(disk.clone(), FileOptions::default()));
    blocker.make_layout().unwrap();
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let store = open(&disk);
    let ids: Vec<VolumeId> = ["damaged-1", "unnamed-1", "unnamed-2", "renamed-1", "removed-1", "unlinked"]
        .iter()
        .map(|name| {
            store.create(name, &CreateOptions { size: SIZE, block_size: None }).unwrap();
            let volume = store.open_volume(name, Mode::ReadWrite).unwrap();
            volume.write_at(&[7; 4096], 0).unwrap();
            volume.close().unwrap();
            id_of(&store, name)
        })
        .collect();
    drop(store);
    // One of each kind of what is repaired.
    let fd = disk.open(&format!("catalog/h.{}", ids[0]), Open::ReadWrite).unwrap();
    disk.pwritev(fd, &[IoSlice::new(&[0xee; 900])], 0).unwrap();
    disk.pwritev(fd, &[IoSlice::new(&[0xee; 900])], 4096).unwrap();
    disk.fdatasync(fd).unwrap();
    disk.close(fd);
    disk.unlink("catalog/n.unnamed-1").unwrap();
    disk.unlink("catalog/n.unnamed-2").unwrap();
    disk.sync_dir("catalog").unwrap();
    open(&disk).create("unnamed-2", &CreateOptions { size: 1, block_size: None }).unwrap();
    blocker.bind_name("other-name", ids[3]).unwrap();
    let record = blocker.read_record(RecordKey::Header(ids[4])).unwrap();
    let header = Header { removed: true, ..Header::decode("h", &record.bytes).unwrap() };
    blocker.commit_record(RecordKey::Header(ids[4]), record.version, &header.encode()).unwrap();
    disk.unlink(&format!("catalog/h.{}", ids[5])).unwrap();
    disk.sync_dir("catalog").unwrap();

    let before = check(&open(&disk), false);
    assert!(before.findings.len() >= 6, "{before:#?}");
    disk.forget_history();
    let base = disk.steps();
    let first = check(&open(&disk), true);
    assert_eq!(first.worst(), None, "{first:#?}");
    assert!(disk.steps() > base + 15);
    for step in base..=disk.steps() {
        for crash in [0, 1, 2, 3] {
            let left = disk.crash_at(step, crash);
            let at = format!("cut at step {step} of {base}..{} (crash seed {crash})", disk.steps());
            let again = check(&open(&left), true);
            assert_eq!(again.worst(), None, "{at}: {again:#?}");
            let after = check(&open(&left), false);
            assert_eq!(after.findings, vec![], "{at}");
            let page = open(&left).list(&ListOptions::default()).unwrap();
            let names: Vec<&str> = page.entries.iter().map(|e| e.name.as_str()).collect();
            let found = format!("unnamed-2.found-{}", ids[2]);
            assert_eq!(names, ["renamed-1", "unlinked", "unnamed-1", "unnamed-2", &found], "{at}");
            let mut aside = after.aside.clone();
            aside.sort();
            assert_eq!(aside, [format!("lost/h.{}", ids[0]), "lost/n.damaged-1".into()], "{at}");
        }
    }
}
