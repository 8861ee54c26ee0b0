//! A truncated or altered file of any kind gives an error that names it, or changes nothing that is read: never a panic,
//! never other content.
//!
//! A store with files of every kind is built once, closed cleanly or copied while it is open as a crash leaves it.
//! Each case is a copy of it with one file damaged; everything in it is opened and read. What must be found is known.
//!
//! Not covered by any checksum, and so left out (docs/semantics.md, "What is not promised"): the bytes of data objects, and
//! sectors in journal records that were folded. Their length is covered.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use archipelago_core::*;
use tempfile::TempDir;

#[path = "common/random.rs"]
mod random;
use random::{Random, bytes};

/// Bits flipped in a file that is too large to try them all.
const SAMPLES: u64 = 20;

fn options() -> StoreOptions {
    // By hand, so that each store has exactly the files meant; segments small enough to roll over.
    StoreOptions { background: Background::Manual, first_segment: 64 << 10, ..StoreOptions::default() }
}

/// A store on disk, and what must be read in it.
struct Built {
    _dir: TempDir,
    root: PathBuf,
    contents: BTreeMap<String, Vec<u8>>,
}

fn write(volume: &Volume, model: &mut [u8], offset: usize, seed: u64, len: usize) {
    let data = bytes(seed, len);
    volume.write_at(&data, offset as u64).unwrap();
    model[offset..offset + len].copy_from_slice(&data);
}

/// Files of every kind: superblock; headers at version 1 (a clone, a snapshot), 2 and more; names; segments with and without
/// unfolded records, one that rolled over, one that only a snapshot needs; packs; data; locks; something in the trash.
fn build(closed: bool) -> Built {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("store");
    let location = Location::File(root.clone());
    Store::init(&location, &InitOptions { block_size: 64 << 10, ..InitOptions::default() }).unwrap();
    let store = Store::open(&location, options()).unwrap();
    let mut contents = BTreeMap::new();
    let size = 9 << 20;
    let make = |name: &str| {
        store.create(name, &CreateOptions { size: size as u64, block_size: None }).unwrap();
        store.open_volume(name, Mode::ReadWrite).unwrap()
    };

    // Folded, with a tree of two levels, extent nodes and data of two epochs.
    let folded = make("folded-a");
    let mut model = vec![0; size];
    write(&folded, &mut model, 0, 1, 300_000);
    for i in 0..150 {
        write(&folded, &mut model, (i * 56_000) & !511, 100 + i as u64, 700);
    }
    for i in 0..20 {
        write(&folded, &mut model, (8 << 20) + (600 << 10) + i * 8192, 300 + i as u64, 4096);
    }
    folded.snapshot("snap-folded").unwrap();
    contents.insert("snap-folded".to_string(), model.clone());
    folded.checkpoint().unwrap();
    write(&folded, &mut model, 100_000, 2, 100_000);
    folded.checkpoint().unwrap();
    contents.insert("folded-a".to_string(), model.clone());
    store.clone_snapshot("snap-folded", "clone-fresh", &CloneOptions::default()).unwrap();
    contents.insert("clone-fresh".to_string(), contents["snap-folded"].clone());

    // Nothing folded since long: records in two segments, and a snapshot that lives on them.
    let busy = make("busy-aa");
    let mut model = vec![0; size];
    for i in 0..12 {
        write(&busy, &mut model, i * 50_000, 500 + i as u64, 9_000);
    }
    write(&busy, &mut model, 2 << 20, 3, 80_000);
    busy.snapshot("snap-busy").unwrap();
    contents.insert("snap-busy".to_string(), model.clone());
    for i in 0..6 {
        write(&busy, &mut model, i * 60_000 + 1000, 600 + i as u64, 5_000);
    }
    busy.discard(2 << 20, 8192).unwrap();
    model[2 << 20..(2 << 20) + 8192].fill(0);
    busy.flush().unwrap();
    contents.insert("busy-aa".to_string(), model);

    let gone = make("gone-aa");
    gone.write_at(&[1; 5000], 0).unwrap();
    gone.close().unwrap();
    store.remove("gone-aa").unwrap();

    if closed {
        folded.close().unwrap();
        busy.close().unwrap();
        return Built { _dir: dir, root, contents };
    }
    // As a crash leaves it: a copy of what is on the disk, with the registration and locks of a process that is no more.
    let copy = dir.path().join("copy");
    copy_tree(&root, &copy);
    Built { root: copy, _dir: dir, contents }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_tree(&entry.path(), &target);
        } else if kind.is_file() && !entry.file_name().to_string_lossy().starts_with("n.") {
            fs::copy(entry.path(), target).unwrap();
        }
    }
    // Names are hard links to headers and stay that.
    if from.ends_with("catalog") {
        use std::os::unix::fs::MetadataExt;
        let files: Vec<_> = fs::read_dir(from).unwrap().map(|e| e.unwrap()).collect();
        for name in files.iter().filter(|f| f.file_name().to_string_lossy().starts_with("n.")) {
            let inode = name.metadata().unwrap().ino();
            let header = files
                .iter()
                .find(|f| f.file_name().to_string_lossy().starts_with("h.") && f.metadata().unwrap().ino() == inode);
            fs::hard_link(to.join(header.unwrap().file_name()), to.join(name.file_name())).unwrap();
        }
    }
}

/// Every file of the store, relative to its root, sorted; names are left out, for they are their headers.
fn files(root: &Path) -> Vec<PathBuf> {
    fn walk(dir: &Path, root: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), root, out);
            } else if !entry.file_name().to_string_lossy().starts_with("n.") {
                out.push(entry.path().strip_prefix(root).unwrap().to_path_buf());
            }
        }
    }
    let mut out = Vec::new();
    walk(root, root, &mut out);
    out.sort();
    out
}

fn kind(file: &Path) -> String {
    let name = file.file_name().unwrap().to_string_lossy();
    match name.split_once('.') {
        Some((kind, _)) if file.starts_with("trash") => format!("trash {kind}"),
        Some((kind, _)) => kind.to_string(),
        None => name.to_string(),
    }
}

/// How one look at a damaged store ended.
#[derive(Default, Debug)]
struct Tally {
    right: u64,
    refused: u64,
}

/// Reads everything: what is read must be right, what fails must be a typed error that names the file. With `write`, volumes
/// are opened for writing, which is what recovery does.
fn look(root: &Path, contents: &BTreeMap<String, Vec<u8>>, file: &Path, write: bool, case: &str) -> Tally {
    let mut tally = Tally::default();
    let mut refuse = |error: Error| {
        let text = error.to_string();
        let name = file.file_name().unwrap().to_string_lossy();
        // The part of a data object and the directory are not always in the text; the object is.
        let object = name.strip_suffix(".00000000").filter(|n| n.starts_with("data.")).unwrap_or(&name);
        // A header is reached through its other name as well.
        let named = text.contains(object) || (kind(file) == "h" && text.contains("catalog/n."));
        // A store without a superblock is none, and the error names the place.
        let none = matches!(error, Error::NoStore(_)) && kind(file) == "archipelago";
        assert!(named || none, "{case}: the error does not name the file: {text}");
        assert!(
            matches!(error, Error::Damaged { .. } | Error::TooNew { .. } | Error::Io { .. } | Error::NoStore(_)),
            "{case}: {text}"
        );
        if matches!(error, Error::Damaged { .. }) {
            assert!(text.contains("restore") && text.contains("damaged"), "{case}: says not what to do: {text}");
        }
        tally.refused += 1;
    };
    let store = match Store::open(&Location::File(root.to_path_buf()), options()) {
        Ok(store) => store,
        Err(error) => {
            refuse(error);
            return tally;
        }
    };
    let mut right = 0;
    for (name, content) in contents {
        let mode = if write && !name.starts_with("snap") { Mode::ReadWrite } else { Mode::ReadOnly };
        let volume = match store.open_volume(name, mode) {
            Ok(volume) => volume,
            // A header that is gone takes its name with it in these stores.
            Err(Error::NotFound(_)) if case.contains("removed") => continue,
            Err(error) => {
                refuse(error);
                continue;
            }
        };
        assert_eq!(volume.size(), content.len() as u64, "{case}: {name}");
        // In pieces, so that what is not touched by the damage is seen to be readable.
        for (i, expect) in content.chunks(1 << 20).enumerate() {
            let mut found = vec![0xaa; expect.len()];
            match volume.read_at(&mut found, (i as u64) << 20) {
                Ok(()) => {
                    assert!(found == expect, "{case}: {name} reads something else in MiB {i}");
                    right += 1;
                }
                Err(error) => refuse(error),
            }
        }
        // Closing may need what is damaged; it says so, or changes nothing.
        let _ = volume.close();
    }
    tally.right = right;
    tally
}

/// One damaged copy of a store.
struct Case<'a> {
    built: &'a Built,
    root: PathBuf,
    _dir: TempDir,
}

impl Case<'_> {
    fn new(built: &Built) -> Case<'_> {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("store");
        copy_tree(&built.root, &root);
        Case { built, root, _dir: dir }
    }

    /// Looks at it for reading and then for writing, which must not end in a panic either.
    fn look(&self, file: &Path, case: &str) -> Tally {
        let both = catch_unwind(AssertUnwindSafe(|| {
            let one = look(&self.root, &self.built.contents, file, false, case);
            let two = look(&self.root, &self.built.contents, file, true, case);
            Tally { right: one.right + two.right, refused: one.refused + two.refused }
        }));
        both.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("{case}: {text}");
        })
    }
}

/// Restores one file in place, which is quicker than a copy of the store for each bit. Only for looks that write nothing.
fn with_content(path: &Path, original: &[u8], damaged: &[u8], look: impl FnOnce()) {
    fs::write(path, damaged).unwrap();
    look();
    fs::write(path, original).unwrap();
}

fn stores() -> [(&'static str, Built); 2] {
    [("closed", build(true)), ("crashed", build(false))]
}

#[test]
fn the_stores_have_every_kind_of_file_and_read_right_when_nothing_is_damaged() {
    for (state, built) in stores() {
        let kinds: BTreeSet<String> = files(&built.root).iter().map(|f| kind(f)).collect();
        for wanted in ["archipelago", "h", "trash h", "lock", "log", "pack", "data"] {
            assert!(kinds.contains(wanted), "{state}: no {wanted} among {kinds:?}");
        }
        assert!(state == "closed" || kinds.contains("p"), "the record of a process that died");
        let logs = files(&built.root).into_iter().filter(|f| kind(f) == "log").count();
        assert!(logs >= 3, "{state}: {logs} segments, none rolled over");
        let case = Case::new(&built);
        let tally = case.look(Path::new("none"), state);
        assert_eq!(tally.refused, 0, "{state}");
    }
}

#[test]
fn a_file_cut_short_is_named_or_not_needed() {
    for (state, built) in stores() {
        for file in files(&built.root) {
            let len = fs::metadata(built.root.join(&file)).unwrap().len();
            let mut lengths = vec![0, 1, len / 2, len.saturating_sub(1)];
            lengths.retain(|l| *l < len);
            lengths.dedup();
            let mut found = Tally::default();
            for cut in lengths {
                let case = Case::new(&built);
                fs::File::options().write(true).open(case.root.join(&file)).unwrap().set_len(cut).unwrap();
                let tally = case.look(&file, &format!("{state}: {} cut to {cut} of {len}", file.display()));
                found.refused += tally.refused;
                found.right += tally.right;
            }
            println!("{state}: {}: {found:?}", file.display());
            // What belongs to a removed volume is not read.
            let id = file.file_name().unwrap().to_string_lossy().split('.').nth(1).unwrap_or_default().to_string();
            let removed = built.root.join(format!("trash/h.{id}")).exists();
            let needed = !removed && matches!(kind(&file).as_str(), "archipelago" | "h" | "log" | "data");
            assert!(!needed || found.refused > 0 || len == 0, "{state}: nothing needs {}", file.display());
        }
    }
}

#[test]
fn a_flipped_bit_in_metadata_is_named_or_changes_nothing() {
    let seed = random::seed("ARCHIPELAGO_DAMAGE_SEED");
    let mut random = Random(seed);
    for (state, built) in stores() {
        for file in files(&built.root) {
            let kind = kind(&file);
            // Folded sectors have no checksum in place; the records of the busy volume have one while they are replayed.
            if kind == "data" || (kind == "log" && state == "closed") {
                continue;
            }
            let case = Case::new(&built);
            let path = case.root.join(&file);
            let original = fs::read(&path).unwrap();
            if original.is_empty() {
                continue;
            }
            // Every 311th byte of small files; the whole of each is in the tests of the formats.
            let bits: Vec<u64> = if original.len() <= 8192 {
                (0..original.len() as u64).step_by(311).map(|b| b * 8 + random.below(8)).collect()
            } else {
                let used = original.iter().rposition(|b| *b != 0).unwrap_or(0) as u64 + 1;
                (0..SAMPLES).map(|_| random.below(used * 8)).collect()
            };
            if kind == "log" && !is_replayed(&built, &file) {
                continue;
            }
            for bit in bits {
                let mut damaged = original.clone();
                damaged[(bit / 8) as usize] ^= 1 << (bit % 8);
                let what = format!("seed {seed}, {state}: {} bit {bit} flipped", file.display());
                with_content(&path, &original, &damaged, || {
                    look(&case.root, &built.contents, &file, false, &what);
                });
            }
        }
    }
}

/// Whether the records of a segment are replayed, by their volume or by a snapshot. Only the busy volume's are; the others'
/// were folded.
fn is_replayed(built: &Built, file: &Path) -> bool {
    let store = Store::open(&Location::File(built.root.clone()), options()).unwrap();
    let id = store.info("busy-aa").unwrap().id;
    file.file_name().unwrap().to_string_lossy().contains(&id)
}

#[test]
fn files_of_one_kind_in_each_others_place_are_named() {
    for (state, built) in stores() {
        let all = files(&built.root);
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                // Data objects have no heads; neither has a folded segment one that reading looks at.
                if kind(a) != kind(b) || matches!(kind(a).as_str(), "data" | "lock" | "log" | "p") {
                    continue;
                }
                let case = Case::new(&built);
                let (pa, pb) = (case.root.join(a), case.root.join(b));
                let (ca, cb) = (fs::read(&pa).unwrap(), fs::read(&pb).unwrap());
                fs::write(&pa, cb).unwrap();
                fs::write(&pb, ca).unwrap();
                let what = format!("{state}: {} and {} exchanged", a.display(), b.display());
                let either = catch_unwind(AssertUnwindSafe(|| look_either(&case, a, b, &what)));
                either.unwrap_or_else(|_| panic!("{what}"));
            }
        }
    }
}

/// As [`look`], where either of two files may be the one that is named.
fn look_either(case: &Case<'_>, a: &Path, b: &Path, what: &str) {
    let store = Store::open(&Location::File(case.root.clone()), options()).unwrap();
    for (name, content) in &case.built.contents {
        let read = store.open_volume(name, Mode::ReadOnly).and_then(|volume| {
            let mut found = vec![0; content.len()];
            volume.read_at(&mut found, 0).map(|()| found)
        });
        match read {
            Ok(found) => assert!(found == *content, "{what}: {name} reads something else"),
            Err(error) => {
                let text = error.to_string();
                let names = |f: &Path| text.contains(&*f.file_name().unwrap().to_string_lossy());
                assert!(names(a) || names(b) || text.contains("catalog/n."), "{what}: {text}");
            }
        }
    }
}

#[test]
fn a_directory_a_link_or_nothing_in_the_place_of_a_file_is_named() {
    for (state, built) in stores() {
        for file in files(&built.root) {
            for instead in ["a directory", "a link", "a dead link", "removed", "unreadable"] {
                // Root reads everything.
                if instead == "unreadable" && reads_everything() {
                    continue;
                }
                let case = Case::new(&built);
                let path = case.root.join(&file);
                if instead == "unreadable" {
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
                } else {
                    let aside = case.root.join("aside");
                    fs::rename(&path, &aside).unwrap();
                    match instead {
                        "a directory" => fs::create_dir(&path).unwrap(),
                        "a link" => symlink(&aside, &path).unwrap(),
                        "a dead link" => symlink(case.root.join("nowhere"), &path).unwrap(),
                        _ => {}
                    }
                }
                // Names lead to the header itself, whatever became of the other entry of the file.
                case.look(&file, &format!("{state}: {instead} in the place of {}", file.display()));
            }
        }
    }
}

/// Whether this process may read everything.
fn reads_everything() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

#[test]
fn garbage_in_locks_and_process_records_disturbs_nobody() {
    let (_, built) = &stores()[1];
    for text in [&b"garbage"[..], b"{\"pid\":\"x\"}", b"", &[0xff; 5000], b"{}"] {
        let case = Case::new(built);
        for file in files(&case.root).into_iter().filter(|f| matches!(kind(f).as_str(), "lock" | "p")) {
            fs::write(case.root.join(file), text).unwrap();
        }
        fs::write(case.root.join("procs/p.0123456789abcdef"), text).unwrap();
        fs::write(case.root.join("procs/rubbish"), text).unwrap();
        let tally = case.look(Path::new("lock"), "garbage");
        assert_eq!(tally.refused, 0);
        let store = Store::open(&Location::File(case.root.clone()), options()).unwrap();
        assert_eq!(store.status().unwrap().processes.len(), 1, "only this one lives");
        store.remove("clone-fresh").unwrap();
    }
}
