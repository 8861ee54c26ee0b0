//! Every kind of damage is found by `check`, named, and told in bytes of the maps that lose them; what can be repaired is.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::{Object, VolumeId};
use archipelago_core::*;
use tempfile::TempDir;

#[path = "../common/random.rs"]
mod random;

mod damage;
mod records;
mod repair;

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
        let id = object.volume();
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
                    if round.is_multiple_of(3) {
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
