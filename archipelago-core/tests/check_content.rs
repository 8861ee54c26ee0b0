//! Content is checked as far as its structure goes: digests that lead nowhere are told in bytes of the maps that name them,
//! damaged tables and leases are named and repaired, leftovers collected.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use archipelago_core::blocker::{Blocker, Object, VolumeId};
use archipelago_core::format::index::{IndexEntry, PAGE, Slot};
use archipelago_core::format::redirect::{ENTRY, place};
use archipelago_core::store::content::{HashOptions, NewObject};
use archipelago_core::*;
use tempfile::TempDir;

#[path = "common/random.rs"]
mod random;
use random::bytes;

const BLOCK: u64 = 64 << 10;
const SIZE: u64 = 8 * BLOCK;

struct Site {
    _dir: TempDir,
    root: PathBuf,
    /// What the snapshot holds.
    data: Vec<u8>,
    /// Blocks that only an object names: put, not hashed.
    put: Vec<Digest>,
}

fn options() -> StoreOptions {
    StoreOptions { background: Background::Manual, first_segment: 64 << 10, ..StoreOptions::default() }
}

fn list_of(data: &[u8]) -> Vec<Digest> {
    data.chunks(BLOCK as usize).map(|block| Digest::of(block).0).collect()
}

impl Site {
    /// A snapshot that was hashed, an object of its blocks, and one of two blocks that were put.
    fn new() -> Site {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("store");
        let at = Location::File(root.clone());
        Store::init(&at, &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
        let store = Store::open(&at, options()).unwrap();
        store.create("volume-1", &CreateOptions { size: SIZE, block_size: None }).unwrap();
        let volume = store.open_volume("volume-1", Mode::ReadWrite).unwrap();
        let data = bytes(1, SIZE as usize);
        volume.write_at(&data, 0).unwrap();
        volume.snapshot("snapshot-1").unwrap();
        volume.close().unwrap();
        store.hash("snapshot-1", &HashOptions::default(), &mut |_| true).unwrap();
        let claim = store.claim("a test").unwrap();
        let put: Vec<_> = (5..7).map(|n| claim.put(&bytes(n, BLOCK as usize)).unwrap().digest).collect();
        let site = Site { _dir: dir, root, data, put };
        site.object(&store, "object-1", &list_of(&site.data));
        site.object(&store, "object-2", &[site.put.clone(), vec![list_of(&site.data)[3]]].concat());
        claim.end().unwrap();
        drop(store);
        assert_eq!(site.check(false).findings, vec![]);
        site
    }

    fn object(&self, store: &Store, name: &str, list: &[Digest]) {
        let new =
            NewObject { name: name.into(), kind: Kind::Object, size: list.len() as u64 * BLOCK, block_size: None };
        store.create_object(&new, &mut list.iter().map(|d| Ok(*d))).unwrap();
    }

    fn open(&self) -> Store {
        Store::open(&Location::File(self.root.clone()), options()).unwrap()
    }

    fn check(&self, repair: bool) -> CheckReport {
        let options = CheckOptions { repair, grace: 0, ..CheckOptions::default() };
        self.open().check(&options, &mut |_| Ok(())).unwrap()
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let volume = self.open().open_volume(name, Mode::ReadOnly)?;
        let mut all = vec![0; volume.size() as usize];
        volume.read_at(&mut all, 0).map(|()| all)
    }

    /// Files below a directory of the store that begin with this.
    fn files(&self, dir: &str, prefix: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join(dir)).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> =
            entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix)).collect();
        found.sort();
        found
    }

    fn redirect(&self) -> PathBuf {
        let id = self.open().info("volume-1").unwrap().id;
        self.files(&format!("data/{}", &id[14..]), "redirect.").remove(0)
    }

    fn content(&self, digest: Digest) -> PathBuf {
        self.root.join(format!("content/{:02x}/{digest}", digest.0[0]))
    }
}

fn flip(path: &PathBuf, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 16], at).unwrap();
}

fn ranges(of: &[(u64, u64)]) -> Vec<ByteRange> {
    of.iter().map(|(offset, len)| ByteRange { offset: *offset, len: *len }).collect()
}

fn lost<'a>(finding: &'a Finding, name: &str) -> &'a Affected {
    finding.affected.iter().find(|a| a.name == name).unwrap_or_else(|| panic!("{name} loses nothing: {finding:#?}"))
}

/// All findings of a kind, and no others that are worse than a leak.
fn only(report: &CheckReport, kind: FindingKind) -> Vec<&Finding> {
    let worse: Vec<_> = report.findings.iter().filter(|f| f.severity > Severity::Leak).collect();
    assert!(worse.iter().all(|f| f.kind == kind), "{:#?}", report.findings);
    report.findings.iter().filter(|f| f.kind == kind).collect()
}

#[test]
fn what_there_is_of_content_is_counted() {
    let site = Site::new();
    let content = site.check(false).content;
    assert_eq!((content.objects, content.tables, content.redirects), (2, 1, 1));
    assert_eq!((content.entries, content.confirmed, content.slots, content.moved), (8, 8, 8, 0));
    assert!(content.leases > 0);
    // What the index says and no redirect table confirms is a hint, and nothing is wrong with it.
    fs::remove_file(site.redirect()).unwrap();
    let report = site.check(false);
    assert_eq!((report.content.entries, report.content.confirmed), (8, 0));
    assert_eq!(only(&report, FindingKind::Content).len(), 8, "but that the object's blocks are nowhere");
}

#[test]
fn a_block_that_is_gone_is_told_in_bytes_of_every_map_that_names_it() {
    let site = Site::new();
    fs::remove_file(site.content(site.put[1])).unwrap();
    site.open().clone_snapshot("object-2", "clone-2", &CloneOptions::default()).unwrap();
    let report = site.check(false);
    let found = only(&report, FindingKind::Content);
    assert_eq!((found.len(), found[0].severity), (1, Severity::Damage));
    assert_eq!(found[0].object, Object::Content(site.put[1]).to_string());
    for name in ["object-2", "clone-2"] {
        assert_eq!(lost(found[0], name).ranges, ranges(&[(BLOCK, BLOCK)]));
    }
    assert_eq!(site.check(true).worst(), Some(Severity::Damage), "nothing is invented");
    // The same of some maps alone.
    let check = |name: &str| {
        let options = CheckOptions { names: vec![name.into()], ..CheckOptions::default() };
        site.open().check(&options, &mut |_| Ok(())).unwrap()
    };
    assert_eq!(check("object-2").worst(), Some(Severity::Damage));
    assert_eq!(check("object-1").worst(), None);
}

#[test]
fn a_slot_that_is_cut_off_takes_the_maps_with_it_that_name_its_digest() {
    let site = Site::new();
    let id = VolumeId(u64::from_str_radix(&site.open().info("volume-1").unwrap().id, 16).unwrap());
    let data = site.root.join(format!("data/{:02x}/{}.00000000", id.0 as u8, Object::Data(id, 1)));
    fs::File::options().write(true).open(data).unwrap().set_len(4 * BLOCK - 1).unwrap();
    let report = site.check(false);
    let nowhere: Vec<_> = report.findings.iter().filter(|f| f.kind == FindingKind::Content).collect();
    assert_eq!(nowhere.len(), 5, "blocks 3 to 7");
    let all: Vec<_> = nowhere.iter().flat_map(|f| lost(f, "object-1").ranges.clone()).collect();
    assert_eq!(all.iter().map(|range| range.len).sum::<u64>(), 5 * BLOCK);
    assert!(nowhere.iter().any(|f| f.affected.iter().any(|a| a.name == "object-2")));
    assert!(report.findings.iter().any(|f| f.kind == FindingKind::Cut), "and the snapshot by its place");
}

#[test]
fn a_damaged_index_is_named_and_made_anew_from_the_redirect_tables() {
    for at in [3, 70, PAGE as u64 + 9, PAGE as u64 + 100] {
        let site = Site::new();
        let table = site.files("content", "i.").remove(0);
        flip(&table, at);
        assert!(site.read("object-1").is_err(), "its blocks are found through the index alone");
        let report = site.check(false);
        let index = report.findings.iter().find(|f| f.kind == FindingKind::Index).unwrap();
        assert_eq!(index.severity, Severity::Repairable);
        assert!(index.object.ends_with(table.file_name().unwrap().to_str().unwrap()));
        let repaired = site.check(true);
        assert!(repaired.findings.iter().any(|f| f.kind == FindingKind::Index && !f.is_left()), "{repaired:#?}");
        assert!(!table.exists());
        assert_eq!(site.check(false).findings, vec![]);
        assert_eq!(site.read("object-1").unwrap(), site.data);
    }
}

#[test]
fn a_table_whose_pages_contradict_each_other_is_found() {
    let site = Site::new();
    let store = site.open();
    let id = VolumeId(u64::from_str_radix(&store.info("volume-1").unwrap().id, 16).unwrap());
    let list = list_of(&site.data);
    let entry = |n: usize| {
        let slot = Slot { owner: id, epoch: 1, block: n as u64, len: BLOCK as u32, shift: 16 };
        IndexEntry { digest: list[n], slot }
    };
    let mut both = [entry(0), entry(1)];
    both.sort();
    let table = site.files("content", "i.").remove(0);
    let number = u64::from_str_radix(&table.file_name().unwrap().to_str().unwrap()[2..], 16).unwrap();
    // Two pages, each whole, in the wrong order; then one whose head counts more than there is.
    for (entries, pages) in [(64, vec![both[1], both[0]]), (3, vec![both[0]])] {
        let mut file = archipelago_core::format::index::IndexHead { id: number, entries }.encode().to_vec();
        file.resize(PAGE, 0);
        for (n, entry) in pages.into_iter().enumerate() {
            file.extend(archipelago_core::format::index::encode_page(number, n as u64, &[entry]));
        }
        fs::write(&table, file).unwrap();
        let report = site.check(false);
        assert!(report.findings.iter().any(|f| f.kind == FindingKind::Index), "{report:#?}");
    }
    assert!(site.check(true).findings.iter().any(|f| f.kind == FindingKind::Index && !f.is_left()));
    assert_eq!(site.check(false).findings, vec![]);
    assert_eq!(site.read("object-1").unwrap(), site.data);
}

#[test]
fn a_damaged_entry_of_a_redirect_table_is_forgotten_and_found_again_by_hashing() {
    let site = Site::new();
    flip(&site.redirect(), place(3) + 5);
    let report = site.check(false);
    let entry = report.findings.iter().find(|f| f.kind == FindingKind::Redirect).unwrap();
    assert_eq!(entry.severity, Severity::Repairable);
    let nowhere = report.findings.iter().find(|f| f.kind == FindingKind::Content).unwrap();
    assert_eq!(lost(nowhere, "object-1").ranges, ranges(&[(3 * BLOCK, BLOCK)]));
    assert_eq!(lost(nowhere, "object-2").ranges, ranges(&[(2 * BLOCK, BLOCK)]));
    let repaired = site.check(true);
    assert!(repaired.findings.iter().any(|f| f.kind == FindingKind::Redirect && !f.is_left()), "{repaired:#?}");
    let mut zeros = [1; ENTRY];
    fs::File::open(site.redirect()).unwrap().read_exact_at(&mut zeros, place(3)).unwrap();
    assert_eq!(zeros, [0; ENTRY]);
    site.open().hash("snapshot-1", &HashOptions::default(), &mut |_| true).unwrap();
    assert_eq!(site.check(false).findings, vec![]);
    assert_eq!(site.read("object-1").unwrap(), site.data);
}

#[test]
fn a_redirect_table_without_a_head_hides_what_it_may_have_moved() {
    let site = Site::new();
    flip(&site.redirect(), 9);
    assert!(site.read("snapshot-1").is_err(), "nobody knows whether its blocks are in their places");
    let report = site.check(false);
    let table = report.findings.iter().find(|f| f.kind == FindingKind::Redirect).unwrap();
    assert_eq!(table.severity, Severity::Damage);
    assert_eq!(lost(table, "snapshot-1").ranges, ranges(&[(0, SIZE)]));
}

#[test]
fn leases_that_cannot_be_read_are_named_and_ended_by_a_repair() {
    for at in [4, 512 + 30] {
        let site = Site::new();
        let claim = site.open().claim("another test").unwrap();
        claim.put(&bytes(70, 1000)).unwrap();
        let collect = |site: &Site| site.open().collect(&CollectOptions::default(), &mut |_| true);
        assert!(collect(&site).is_ok());
        let lease = site.files("content", &format!("l.{:016x}", claim.id())).remove(0);
        flip(&lease, at);
        assert!(matches!(collect(&site), Err(Error::Damaged { .. })), "what it held is not known");
        let report = site.check(false);
        assert_eq!(only(&report, FindingKind::Lease).len(), 1);
        site.check(true);
        assert!(!lease.exists() && collect(&site).is_ok());
        assert_eq!(site.check(false).findings, vec![]);
        // The upload is told anew, under leases of its own.
        assert_eq!(claim.missing(&list_of(&bytes(70, 1000))).unwrap().len(), 1);
        claim.put(&bytes(70, 1000)).unwrap();
    }
}

#[test]
fn what_writers_left_when_they_died_is_reported_and_collected() {
    let site = Site::new();
    let table = site.root.join("content/i.00000000000000aa");
    fs::write(&table, vec![0; PAGE]).unwrap();
    let object = site.root.join(format!("content/{:02x}/t.0000000000000007", site.put[0].0[0]));
    fs::write(&object, vec![1; 10_000]).unwrap();
    let other = site.root.join(format!("content/{:02x}/t.somebody's", site.put[0].0[0]));
    fs::write(&other, b"not ours").unwrap();
    let report = site.check(false);
    assert!(report.findings.iter().all(|f| f.severity == Severity::Leak));
    assert_eq!(only(&report, FindingKind::Leak).len(), 2);
    let dry = CollectOptions { dry_run: true, ..CollectOptions::default() };
    assert!(site.open().collect(&dry, &mut |_| true).unwrap().content.objects == 1 && object.exists());
    let repaired = site.check(true);
    assert!(repaired.findings.iter().all(|f| !f.is_left()), "{repaired:#?}");
    assert!(!table.exists() && !object.exists() && other.exists());
    assert_eq!(site.check(false).findings, vec![]);
    // Also where there is no other content at all.
    fs::write(&object, vec![1; 10_000]).unwrap();
    let said = site.open().collect(&dry, &mut |_| true).unwrap().content;
    let done = site.open().collect(&CollectOptions::default(), &mut |_| true).unwrap().content;
    assert!(done.objects == 1 && done.bytes >= 10_000 && said == done, "{said:?} {done:?}");
    assert!(!object.exists());
    assert_eq!(site.read("object-2").unwrap().len() as u64, 3 * BLOCK);
}

#[test]
fn an_upload_under_way_is_no_leftover() {
    let site = Site::new();
    let blocker = archipelago_core::blocker::file::FileBlocker::open(&site.root, Default::default()).unwrap();
    let store = site.open();
    std::thread::scope(|scope| {
        let upload = scope.spawn(|| {
            let claim = store.claim("a test").unwrap();
            for n in 0..60 {
                claim.put(&bytes(100 + n, 1 << 20)).unwrap();
            }
        });
        while !upload.is_finished() {
            assert_eq!(site.check(false).findings, vec![]);
        }
        upload.join().unwrap();
    });
    assert!((0..=u8::MAX).all(|first| blocker.unfinished_contents(first).unwrap().is_empty()));
}
