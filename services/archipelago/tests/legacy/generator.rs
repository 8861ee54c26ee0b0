//! Writes stores as the original Archipelago wrote them, byte by byte after `docs/import-legacy.md`.
//!
//! It shares no code with the importer, so that a mistake in one is not repeated in the other. It also keeps the bytes that
//! each map stands for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub const BLOCK: u64 = 4 << 20;
pub const ZERO: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

pub const READ_ONLY: u32 = 1;
pub const DELETED: u32 = 2;

/// Where objects named by a digest are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// By the SHA-256 of their name, as all others.
    Hashed,
    /// By their own first digits, as old Pithos did.
    Raw,
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a block by its content.
pub fn content_name(data: &[u8]) -> String {
    let len = data.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    hex(&sha256(&data[..len]))
}

/// The name of a list of digests.
pub fn merkle(names: &[String]) -> String {
    let mut list: Vec<[u8; 32]> = names.iter().map(|name| unhex(name)).collect();
    if list.is_empty() {
        return ZERO.into();
    }
    list.resize(list.len().next_power_of_two(), [0; 32]);
    while list.len() > 1 {
        list = list.chunks(2).map(|two| sha256(&two.concat())).collect();
    }
    hex(&list[0])
}

fn unhex(name: &str) -> [u8; 32] {
    let bytes: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&name[2 * i..2 * i + 2], 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// An entry of a map of version 2: flags and the name of a block.
pub fn entry(flags: u8, name: &str) -> Vec<u8> {
    let mut bytes = vec![flags];
    bytes.extend((name.len() as u32).to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.resize(128, 0);
    bytes
}

/// A header of version 2.
pub fn header(size: u64, block_size: u32, flags: u32, epoch: u64) -> Vec<u8> {
    let mut bytes = b"AMF.".to_vec();
    bytes.extend(2u32.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    bytes.extend(block_size.to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend(epoch.to_be_bytes());
    bytes
}

/// Name of a block that a volume owns.
pub fn owned(volume: &str, epoch: u64, index: u64) -> String {
    format!("{volume}_{epoch:016x}_{index:016x}")
}

/// A store in two directories.
pub struct OldStore {
    pub maps: PathBuf,
    pub blocks: PathBuf,
    pub layout: Layout,
    /// Data of each block, as its object has it.
    data: BTreeMap<String, Vec<u8>>,
}

impl OldStore {
    pub fn new(dir: &Path, layout: Layout) -> OldStore {
        let (maps, blocks) = (dir.join("maps"), dir.join("blocks"));
        fs::create_dir_all(&maps).unwrap();
        fs::create_dir_all(&blocks).unwrap();
        OldStore { maps, blocks, layout, data: BTreeMap::new() }
    }

    /// Where an object of a directory is.
    pub fn path(&self, dir: &Path, name: &str) -> PathBuf {
        let is_digest = name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let digits = match self.layout {
            Layout::Raw if is_digest => name.to_string(),
            _ => hex(&sha256(name.as_bytes())),
        };
        dir.join(&digits[..2]).join(&digits[2..4]).join(&digits[4..6]).join(name)
    }

    pub fn map_path(&self, name: &str) -> PathBuf {
        self.path(&self.maps, name)
    }

    pub fn block_path(&self, name: &str) -> PathBuf {
        self.path(&self.blocks, name)
    }

    pub fn put(&self, path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn put_map(&self, name: &str, bytes: &[u8]) {
        self.put(&self.map_path(name), bytes);
    }

    /// Stores a block under a name of its own.
    pub fn block(&mut self, name: &str, data: &[u8]) -> String {
        self.put(&self.block_path(name), data);
        self.data.insert(name.into(), data.to_vec());
        name.into()
    }

    /// Stores a block under the name of its content.
    pub fn content(&mut self, data: &[u8]) -> String {
        self.block(&content_name(data), data)
    }

    /// Writes a map of version 0 and returns its name; the size of the volume is not in it.
    pub fn v0(&self, names: &[String]) -> String {
        let name = merkle(names);
        let bytes: Vec<u8> = names.iter().flat_map(|name| unhex(name)).collect();
        self.put_map(&name, &bytes);
        name
    }

    /// Writes a map of version 1. `data` has each block: `Some` is owned by the volume, given as (name of content, owned).
    pub fn v1(&mut self, volume: &str, size: u64, entries: &[V1]) {
        let mut bytes = 1u32.to_le_bytes().to_vec();
        bytes.extend(size.to_le_bytes());
        for (index, entry) in entries.iter().enumerate() {
            match entry {
                V1::Content(name) => {
                    bytes.push(0);
                    bytes.extend(unhex(name));
                }
                V1::Owned(data) => {
                    let digest = sha256(format!("archip_{volume}_{index}").as_bytes());
                    bytes.push(1);
                    bytes.extend(digest);
                    if let Some(data) = data {
                        self.block(&v1_block(volume, index as u64), data);
                    }
                }
            }
        }
        self.put_map(&format!("archip_{volume}"), &bytes);
    }

    /// Writes a map of version 2 with blocks of 4 MiB.
    pub fn v2(&self, volume: &str, size: u64, flags: u32, epoch: u64, entries: &[(u8, String)]) {
        self.v2_sized(volume, size, BLOCK, flags, epoch, entries);
    }

    pub fn v2_sized(&self, volume: &str, size: u64, block_size: u64, flags: u32, epoch: u64, entries: &[(u8, String)]) {
        for (number, chunk) in entries.chunks((block_size / 128) as usize).enumerate() {
            let bytes: Vec<u8> = chunk.iter().flat_map(|(flags, name)| entry(*flags, name)).collect();
            self.put_map(&format!("{volume}_{number:016x}"), &bytes);
        }
        self.put_map(volume, &header(size, block_size as u32, flags, epoch));
    }

    /// The bytes that a list of blocks stands for.
    pub fn bytes(&self, size: u64, block_size: u64, names: &[&str]) -> Vec<u8> {
        let mut bytes = vec![0; size as usize];
        for (index, name) in names.iter().enumerate() {
            let at = index * block_size as usize;
            let Some(data) = self.data.get(*name) else { continue };
            let len = data.len().min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&data[..len]);
        }
        bytes
    }
}

/// An entry of a map of version 1.
pub enum V1 {
    /// A block named by its content.
    Content(String),
    /// A block of the volume; without data it was never written.
    Owned(Option<Vec<u8>>),
}

/// Name of the block of a volume of release 0.3.
pub fn v1_block(volume: &str, index: u64) -> String {
    format!("archip_{}", hex(&sha256(format!("archip_{volume}_{index}").as_bytes())))
}
