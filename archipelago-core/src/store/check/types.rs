//! What a check is asked and what it answers.

use serde::Serialize;

use crate::limits::MAX_FINDINGS;

/// How a store is checked.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Put right what can be put right without inventing data.
    pub repair: bool,
    /// Only these maps, and what they need; empty: everything.
    pub names: Vec<String>,
    /// A header without a name that is younger than this, in seconds, may be one that another process is just publishing. Not
    /// asked where no other process can have the store open.
    pub grace: u64,
    /// Read all data that the maps name, and compare it with its checksums and digests.
    pub data: bool,
    /// Bytes of data read per second; `None` sets no limit.
    pub rate: Option<u64>,
}

impl Default for CheckOptions {
    fn default() -> CheckOptions {
        CheckOptions { repair: false, names: Vec::new(), grace: 3600, data: false, rate: None }
    }
}

/// How far a check is.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckProgress {
    /// Maps whose trees and journals were walked.
    pub maps: u64,
    /// Maps known so far.
    pub maps_total: u64,
    /// Tree nodes read and verified.
    pub nodes: u64,
    /// Map entries (one for each mapped block) looked at.
    pub entries: u64,
    /// Bytes of data read.
    pub data: u64,
    /// Bytes of data that there are to read, as far as is known; 0 while only maps are looked at.
    pub data_total: u64,
}

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Left over, by a crash for example: takes room at most, and disturbs nobody.
    Leak,
    /// Wrong, and can be put right without loss.
    Repairable,
    /// Something that was stored is not there any more, or cannot be read by this version.
    Damage,
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A header, or the superblock, cannot be read.
    Header,
    /// A record, node or journal was written by a later version, and cannot be checked.
    TooNew,
    /// A creation that a crash cut short left a header that was never whole.
    Unborn,
    /// A commit of a record that a crash cut short.
    TornSlot,
    /// A removal that a crash cut short.
    UnfinishedRemoval,
    /// A name entry that does not count: its header has another name, or is removed or in the trash.
    StaleName,
    /// A header that no name leads to.
    UnnamedHeader,
    /// A header that is found under its name, but not under its id.
    MissingHeader,
    /// A tree node cannot be read, or is not the one that belongs there.
    Node,
    /// A pointer counts other sectors than there are beneath. Figures are wrong, reading is not.
    Count,
    /// A map entry leads out of its block or journal segment.
    Extent,
    /// A journal cannot be replayed: the map cannot be opened.
    Journal,
    /// A data object or journal segment is missing or ends too early.
    Cut,
    /// Data is not what was written, as its checksum or digest says, or cannot be read.
    Altered,
    /// A content block that maps name leads nowhere.
    Content,
    /// A table of the content index is not what was written.
    Index,
    /// A redirect table is not what was written: what was hashed of an epoch, and which of its blocks lie elsewhere.
    Redirect,
    /// Leases of an upload cannot be read. While they cannot, no content is collected.
    Lease,
    /// A map names an epoch that its owner may still overwrite.
    Epoch,
    /// An object that nothing names.
    Leak,
}

/// A range of bytes of a map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A map that cannot be read in places.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Affected {
    /// Name.
    pub name: String,
    /// Id, 16 hex digits.
    pub id: String,
    /// It was removed, and only waits to be collected.
    pub removed: bool,
    /// It cannot be opened at all.
    pub whole: bool,
    /// What of it, in order; none if its size is not known, or if no byte of it is lost. At most [`MAX_AFFECTED_RANGES`](crate::limits::MAX_AFFECTED_RANGES).
    pub ranges: Vec<ByteRange>,
    /// There are more ranges than listed.
    pub more: bool,
}

/// What is done about a finding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Repair {
    /// What `repair` does, in words.
    pub action: String,
    /// It was done.
    pub done: bool,
    /// Why it was not, although it was asked for.
    pub failed: Option<String>,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// How bad.
    pub severity: Severity,
    /// The object, as a path or name in the store.
    pub object: String,
    /// What is wrong with it.
    pub detail: String,
    /// Maps that lose something by it.
    pub affected: Vec<Affected>,
    /// What can be done about it; `None` if nothing can.
    pub repair: Option<Repair>,
}

impl Finding {
    /// Whether it is still there: it was not repaired.
    pub fn is_left(&self) -> bool {
        !self.repair.as_ref().is_some_and(|r| r.done)
    }
}

/// What a check of data read, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DataReport {
    /// Is what its checksum says.
    pub verified: u64,
    /// Was read and has no checksum: of epochs that may still be written, or that no scrub has been through.
    pub without: u64,
    /// Was compared with a digest.
    pub hashed: u64,
    /// Places of checksums that were altered themselves; a scrub makes them anew.
    pub broken: u64,
    /// Data objects left out because there was no memory to tell which of their sectors maps name.
    pub unknown: u64,
}

/// What there is of content, counted by a check of everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ContentFigures {
    /// Content objects.
    pub objects: u64,
    /// Tables of the index that are whole.
    pub tables: u64,
    /// Their entries.
    pub entries: u64,
    /// Entries that a redirect table confirms; the others are hints that came to nothing, and go when tables are merged.
    pub confirmed: u64,
    /// Redirect tables that are whole.
    pub redirects: u64,
    /// Blocks of which they have digests.
    pub slots: u64,
    /// Of these, blocks that are read elsewhere.
    pub moved: u64,
    /// Files of leases.
    pub leases: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    /// Findings, the worst first; at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings that are not listed for their number.
    pub unlisted: u64,
    /// Maps looked at, those in the trash included.
    pub maps: u64,
    /// Tree nodes read and verified; a node that many maps share counts once.
    pub nodes: u64,
    /// Map entries looked at: one for each mapped block.
    pub entries: u64,
    /// Data objects and journal segments that maps name.
    pub objects: u64,
    /// What there is of content.
    pub content: ContentFigures,
    /// Names of volumes that are open, here or elsewhere, and were checked as of their last checkpoint.
    pub in_use: Vec<String>,
    /// Headers that an earlier repair set aside, as paths in the store. Leaks are not looked for while there are any.
    pub aside: Vec<String>,
    /// What became of the data, if it was read.
    pub data: Option<DataReport>,
    /// Leaks were looked for. They are not while some header cannot be read: nobody knows what it names.
    pub leaks_checked: bool,
}

impl CheckReport {
    /// Adds a finding, or counts it.
    pub(super) fn add(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.unlisted += 1;
        }
    }

    /// The worst that is still there; `None` if nothing is.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().filter(|f| f.is_left()).map(|f| f.severity).max()
    }

    /// Whether anything but leaks was repaired.
    pub fn repaired(&self) -> bool {
        self.findings.iter().any(|f| !f.is_left() && f.severity > Severity::Leak)
    }
}
