//! The old store in `tests/golden/legacy`, made once: what it holds is read by every later build.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::MIB;
use crate::generator::{BLOCK, DELETED, Layout, OldStore, READ_ONLY, V1, ZERO, header, hex, owned, sha256};
use crate::site::Site;

/// Size of the map of version 0, which only Pithos' database knew.
const V0_SIZE: u64 = 8 * MIB + 100;

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/legacy")
}

/// Writes the store, as release after release of the original would have left it. Returns the name of the map of version 0.
fn write(dir: &Path) -> String {
    let mut old = OldStore::new(dir, Layout::Raw);
    // Pithos and release 0.3: what is named by a digest lies where its own digits say.
    let text = old.content(b"golden block\n");
    let tail = old.content(&[vec![0; 40], vec![0xfe; 60]].concat());
    let list = old.v0(&[text.clone(), ZERO.into(), tail.clone()]);
    let mine = V1::Owned(Some([b"golden v1".to_vec(), vec![1; 700]].concat()));
    old.v1("golden-v1", 15 * MIB, &[V1::Content(tail.clone()), mine, V1::Content(ZERO.into()), V1::Owned(None)]);
    // Release 0.4: everything lies where the digest of its name says.
    old.layout = Layout::Hashed;
    let first = old.block(&owned("myvolume", 1, 0), &[7; 600]);
    let second = old.block(&owned("myvolume", 2, 2), &[vec![0; 300], vec![8; 300]].concat());
    let clone = old.block(&owned("golden-clone", 1, 1), &[9; 10]);
    let zero = ZERO.to_string();
    old.v2("snf-snap-1-1", 10 * MIB, READ_ONLY, 0, &[(2, first.clone()), (0, text.clone()), (4, zero.clone())]);
    old.v2("myvolume", 10 * MIB, 0, 2, &[(2, first.clone()), (0, text.clone()), (3, second)]);
    let unwritten = owned("golden-clone", 1, 3);
    old.v2("golden-clone", 16 * MIB - 1, 0, 1, &[(2, first), (3, clone), (4, zero), (3, unwritten)]);
    let file = [text, tail].map(|name| (0, name));
    old.v2("snf_file_1", 4 * MIB + 13, READ_ONLY, 1, &file);
    old.put_map("gone-volume", &header(MIB, BLOCK as u32, DELETED, 4));
    list
}

/// Every file below a directory, by its path there.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    for part in ["maps", "blocks"] {
        walk(dir, &dir.join(part), &mut found);
    }
    found
}

#[test]
fn the_golden_old_store_is_what_the_generator_writes() {
    let dir = tempfile::TempDir::new().unwrap();
    write(dir.path());
    assert!(files(dir.path()) == files(&committed()), "the generator writes other bytes than are kept");
}

#[test]
fn the_golden_old_store_has_the_bytes_that_it_always_had() {
    let mut site = Site::new(Layout::Hashed);
    site.old.maps = committed().join("maps");
    site.old.blocks = committed().join("blocks");
    let expected = fs::read_to_string(committed().join("contents")).unwrap();
    let list = expected.lines().find(|line| line.ends_with(" 0")).unwrap().split(' ').nth(3).unwrap();
    let size = format!("{list}={V0_SIZE}");
    let done = site.import(&["--all", "--assume-v0", "--v0-size", &size]);
    let found: String = (done.as_object().unwrap().iter())
        .map(|(name, facts)| {
            let kind = facts["kind"].as_str().unwrap();
            format!("{} {} {kind} {name} {}\n", hex(&sha256(&site.bytes(name))), facts["size"], facts["version"])
        })
        .collect();
    assert_eq!(found, expected);
}

/// Writes `tests/golden/legacy` anew: its hashes are taken from what the generator says, not from what the importer reads.
#[test]
#[ignore = "writes into the source tree; see tests/golden/README.md"]
fn write_the_golden_old_store() {
    let dir = committed();
    for part in ["maps", "blocks"] {
        assert!(!dir.join(part).exists(), "{}: is there already; remove it first", dir.join(part).display());
    }
    let list = write(&dir);
    let read = |name: &str, layout: Layout| fs::read(OldStore::new(&dir, layout).block_path(name)).unwrap();
    let lay = |size: u64, parts: &[(u64, Vec<u8>)]| {
        let mut bytes = vec![0; size as usize];
        for (block, data) in parts {
            let at = (block * BLOCK) as usize;
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        bytes
    };
    let text = b"golden block\n".to_vec();
    let tail = [vec![0; 40], vec![0xfe; 60]].concat();
    let first = read(&owned("myvolume", 1, 0), Layout::Hashed);
    let second = read(&owned("myvolume", 2, 2), Layout::Hashed);
    let v1 = [b"golden v1".to_vec(), vec![1; 700]].concat();
    let mut lines: Vec<(String, String)> = [
        (list.as_str(), "snapshot", 0, lay(V0_SIZE, &[(0, text.clone()), (2, tail.clone())])),
        ("golden-v1", "volume", 1, lay(15 * MIB, &[(0, tail.clone()), (1, v1)])),
        ("snf-snap-1-1", "snapshot", 2, lay(10 * MIB, &[(0, first.clone()), (1, text.clone())])),
        ("myvolume", "volume", 2, lay(10 * MIB, &[(0, first.clone()), (1, text.clone()), (2, second)])),
        ("golden-clone", "volume", 2, lay(16 * MIB - 1, &[(0, first), (1, vec![9; 10])])),
        ("snf_file_1", "snapshot", 2, lay(4 * MIB + 13, &[(0, text), (1, tail[..13].to_vec())])),
    ]
    .into_iter()
    .map(|(name, kind, version, bytes)| {
        (name.to_string(), format!("{} {} {kind} {name} {version}\n", hex(&sha256(&bytes)), bytes.len()))
    })
    .collect();
    lines.sort();
    fs::write(dir.join("contents"), lines.into_iter().map(|(_, line)| line).collect::<String>()).unwrap();
}
