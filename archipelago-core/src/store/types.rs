//! What callers hand to a store and get from it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use crate::blocker::Space;
use crate::blocker::rados::RadosPlace;
use crate::digest::Digest;
use crate::error::{Error, Owner, Result};
use crate::format::header::Kind;
use crate::format::labels::Labels;
use crate::limits;

/// Where a store is. Text form: `file:/path`, or `rados:pool` as [`RadosPlace`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    File(PathBuf),
    /// A pool of a Ceph cluster.
    Rados(RadosPlace),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::File(path) => write!(f, "file:{}", path.display()),
            Location::Rados(place) => place.fmt(f),
        }
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Location> {
        match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Location::File(PathBuf::from(path))),
            _ if text.starts_with("rados:") => text.parse().map(Location::Rados),
            _ => Err(Error::InvalidArgument(format!(
                "{text:?}: a store is written file:/path/of/a/directory or rados:pool[/namespace]"
            ))),
        }
    }
}

/// How a store is made.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Block size of volumes that do not say otherwise, in bytes: a power of two, 64 KiB to 64 MiB.
    pub block_size: u64,
    /// Permission bits of its files.
    pub mode: u32,
    /// Group of its files; `None` leaves it to the system.
    pub group: Option<u32>,
}

/// Who does the background work of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// A thread of the store's.
    Thread,
    /// Nobody: the caller calls [`Store::run_background`]; what cannot wait is done by the call that needs it. For simulation.
    Manual,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Byte limit of the node cache.
    pub node_cache: u64,
    /// Who does the background work.
    pub background: Background,
    /// Journal bytes of one volume that may wait to be folded; 128 KiB to 1 GiB.
    pub max_unfolded: u64,
    /// Length of the first journal segment of a volume in bytes; later ones grow to 16 MiB.
    pub first_segment: u64,
    /// Reads and writes of data go past the page cache (`O_DIRECT`), which the file system has to be able to; journals, maps, headers and content
    /// stay in it. For this process alone: nothing of it is stored.
    pub direct: bool,
    /// Seed of volume ids and generations; `None` takes the system's randomness. For simulation.
    pub seed: Option<u64>,
}

/// How a volume is made.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Size in bytes, 1 B to 4 PiB.
    pub size: u64,
    /// Block size in bytes; `None` takes the store's.
    pub block_size: Option<u64>,
}

/// How a clone is made.
#[derive(Clone, Debug, Default)]
pub struct CloneOptions {
    /// Size in bytes, not below the snapshot's; `None` takes the snapshot's.
    pub size: Option<u64>,
}

/// What a listing shows.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Names that start with this.
    pub prefix: String,
    /// Names that sort after this one, in byte order.
    pub after: Option<String>,
    /// At most this many; 0 means the largest page (10,000).
    pub limit: usize,
}

/// One page of a listing.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// In byte order of names.
    pub entries: Vec<VolumeInfo>,
    /// Names whose header cannot be read, in byte order; they do not count for the limit.
    pub damaged: Vec<DamagedEntry>,
    /// Pass as `after` for the next page; `None` on the last.
    pub next: Option<String>,
}

/// A name whose header cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedEntry {
    /// The name.
    pub name: String,
    /// Why it cannot.
    pub message: String,
}

/// Facts about a volume or snapshot.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub struct VolumeInfo {
    /// Name.
    pub name: String,
    /// Id, 16 hex digits.
    pub id: String,
    /// Kind.
    pub kind: Kind,
    /// Size in bytes.
    pub size: u64,
    /// Block size in bytes.
    pub block_size: u64,
    /// Live epoch.
    pub epoch: u64,
    /// Bytes that are not known to be zero. For a volume open in another process: as of its last checkpoint.
    pub mapped: u64,
    /// Never changes.
    pub read_only: bool,
    /// Name of the snapshot it was cloned from, or of the volume it is a snapshot of. Its id in brackets if that has no name any more.
    pub parent: Option<String>,
    /// Seconds since 1970.
    pub created: u64,
    /// Who has it open for writing.
    pub open_by: Option<Owner>,
    /// For a snapshot that was received: the identity of the one that was sent, as id and uuid of its store.
    #[serde(default)]
    pub origin: Option<String>,
    /// For a map that is being received: bytes of the snapshot that are here for good.
    #[serde(default)]
    pub receiving: Option<u64>,
    /// What programs noted about it.
    #[serde(default)]
    pub labels: Labels,
    /// A volume that was never written since it was made, nor snapshotted or made smaller: it has the bytes of what it was cloned from, or
    /// zeros. Of a volume open in another process: as of its header.
    #[serde(default)]
    pub untouched: bool,
}

/// How much of a map is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Size in bytes.
    pub logical: u64,
    /// Bytes that are not known to be zero.
    pub mapped: u64,
    /// Mapped bytes that no other map of the store uses.
    pub unique: u64,
    /// Mapped bytes that at least one other map uses.
    pub shared: u64,
}

/// Where a mapped range's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "source", rename_all = "lowercase")]
pub enum MapSource {
    /// Zeros, stored nowhere.
    Zero,
    /// In a data object, at the same offset.
    Data {
        /// Volume that wrote them (id as number).
        owner: u64,
        /// Epoch.
        epoch: u64,
    },
    /// In a journal segment.
    Log {
        /// Volume that wrote them (id as number).
        owner: u64,
        /// Epoch.
        epoch: u64,
        /// Segment.
        segment: u32,
        /// Byte offset in the segment.
        position: u32,
    },
    /// In the content block of this digest, at the same offset as in the block.
    Content {
        /// Its name.
        digest: Digest,
    },
}

/// A range of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MapExtent {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where its bytes are.
    #[serde(flatten)]
    pub source: MapSource,
}

/// A range in which two maps may differ. What is not reported is the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DiffExtent {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Whether the second map has only zeros there.
    pub zero: bool,
}

/// A process that has the store open.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessInfo {
    /// Who.
    #[serde(flatten)]
    pub owner: Owner,
    /// Names of the volumes that it has open for writing.
    pub volumes: Vec<String>,
    /// What it is doing besides.
    pub work: Vec<String>,
    /// What its background work failed with last, or a scrub of it found, if that was something.
    pub trouble: Option<String>,
}

/// State of a store.
#[derive(Clone, Debug, Serialize)]
pub struct StoreStatus {
    /// Location as text.
    pub location: String,
    /// Identity.
    pub uuid: String,
    /// Default block size in bytes.
    pub block_size: u64,
    /// Volumes.
    pub volumes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Removed maps whose space was not collected yet.
    pub trashed: u64,
    /// Room on the backend, in bytes.
    pub space: Space,
    /// Processes that have it open.
    pub processes: Vec<ProcessInfo>,
    /// What this process is doing besides, as told by [`Store::report_work`].
    pub work: Vec<String>,
    /// What the background work of this process failed with last, or a scrub of it found, if that was something.
    pub trouble: Option<String>,
}

impl Default for InitOptions {
    fn default() -> InitOptions {
        InitOptions { block_size: limits::DEFAULT_BLOCK_SIZE, mode: 0o660, group: None }
    }
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            node_cache: limits::NODE_CACHE,
            background: Background::Thread,
            max_unfolded: limits::MAX_UNFOLDED,
            first_segment: limits::FIRST_SEGMENT_SIZE,
            direct: false,
            seed: None,
        }
    }
}
