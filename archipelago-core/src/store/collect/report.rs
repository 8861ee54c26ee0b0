//! What callers hand to a collection and get from it.

use serde::Serialize;

use crate::limits::CONTENT_GRACE;

/// How a collection is run.
#[derive(Clone, Copy, Debug)]
pub struct CollectOptions {
    /// Only say what would be collected.
    pub dry_run: bool,
    /// How much of the backend it may take.
    pub rate: Rate,
    /// Seconds that content stays which no map names, after its lease ended or was renewed last. An upload that pauses for
    /// longer is told anew what is missing.
    pub grace: u64,
}

impl Default for CollectOptions {
    fn default() -> CollectOptions {
        CollectOptions { dry_run: false, rate: Rate::default(), grace: CONTENT_GRACE }
    }
}

/// The most that is done per second; `None` sets no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Objects removed.
    pub objects: Option<u64>,
    /// Bytes read, removed or punched.
    pub bytes: Option<u64>,
}

/// What a collection is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CollectPhase {
    /// Listing what there is.
    #[default]
    List,
    /// Waiting for what other processes have under way.
    Wait,
    /// Walking the maps.
    Mark,
    /// Removing what they do not name.
    Sweep,
}

/// How far a collection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CollectProgress {
    /// What it is doing.
    pub phase: CollectPhase,
    /// Of this phase: parts listed, maps walked, or objects looked at.
    pub done: u64,
    /// How many of them there are, as far as is known.
    pub total: u64,
    /// Map entries walked so far.
    pub entries: u64,
    /// Objects removed so far.
    pub objects: u64,
    /// Bytes that became free so far.
    pub bytes: u64,
}

/// A number of things, and the room they take or took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Bytes on the backend.
    pub bytes: u64,
}

impl Amount {
    /// One more, of `bytes`.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// What a collection did, or with `dry_run` would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CollectReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// It was stopped before its end; the next one goes on.
    pub interrupted: bool,
    /// Maps whose blocks were kept: volumes, snapshots, and what readers still use of removed ones.
    pub maps: u64,
    /// Entries of these maps that were walked; what several maps share counts once.
    pub entries: u64,
    /// Bytes of their nodes and journals that were read.
    pub read: u64,
    /// Data objects removed, with the tables of their digests.
    pub data: Amount,
    /// Checksums of data objects removed.
    pub sums: Amount,
    /// Content objects removed.
    pub content: Amount,
    /// Tables of the content index removed.
    pub tables: Amount,
    /// Files of leases removed, of claims that ended or were not used.
    pub leases: Amount,
    /// Blocks that were hashed and are kept elsewhere too, and are read from there from now on; `bytes` of content. The room that
    /// becomes free is counted with the holes.
    pub duplicates: Amount,
    /// Data objects, journal segments and node packs in which holes were made where no map names anything; `bytes` of holes.
    pub holes: Amount,
    /// Journal segments removed.
    pub segments: Amount,
    /// Node packs removed.
    pub packs: Amount,
    /// Headers of removed maps removed from the trash.
    pub trash: u64,
    /// Headers removed that no name led to: of makings and removals that were cut short.
    pub headers: u64,
    /// Names removed that led to no map.
    pub names: u64,
    /// Lock files removed of maps that are gone.
    pub locks: u64,
    /// Headers in the trash that stay because a reader uses them.
    pub pinned: u64,
    /// Data objects that were taken to be used whole because there was no memory to tell.
    pub unknown: u64,
    /// The backend could not make holes, so no more were tried.
    pub no_holes: bool,
}

impl CollectReport {
    /// All that became free.
    pub fn freed(&self) -> Amount {
        let kinds = [self.data, self.sums, self.content, self.tables, self.leases, self.segments, self.packs];
        let headers = self.trash + self.headers;
        Amount {
            objects: kinds.iter().map(|k| k.objects).sum::<u64>() + headers,
            bytes: kinds.iter().map(|k| k.bytes).sum::<u64>() + self.holes.bytes,
        }
    }
}

/// Room that a store takes, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpaceByKind {
    /// Headers in the catalogue; `bytes` is what their records hold.
    pub headers: Amount,
    /// Headers of removed maps.
    pub trash: Amount,
    /// Data objects.
    pub data: Amount,
    /// Checksums of data objects.
    pub sums: Amount,
    /// Journal segments.
    pub segments: Amount,
    /// Node packs.
    pub packs: Amount,
    /// Content objects.
    pub content: Amount,
    /// Tables of the content index, and leases.
    pub tables: Amount,
    /// Bytes that are not known to be zero, of all maps together as of their last checkpoints: what they would take if each had
    /// its own.
    pub mapped: u64,
    /// Of all these objects, those of maps that are removed or gone. Others may use some of them.
    pub removed: Amount,
}

impl SpaceByKind {
    /// How many times as large what all maps hold is as the room for it: data, journals and content. Counts what they share by
    /// cloning, by snapshots and by content alike. `None` while nothing takes room.
    pub fn dedup_ratio(&self) -> Option<f64> {
        let taken = self.data.bytes + self.segments.bytes + self.content.bytes;
        (taken > 0).then(|| self.mapped as f64 / taken as f64)
    }
}
