//! Named objects on a backend: the lowest layer, and the first seam of the simulator.
//!
//! The trait asks only for what RADOS can do as well as a file system: byte-addressed sparse objects with an explicit
//! sync, small records that are replaced atomically, an exclusive index of names, and exclusive locks. Nothing here
//! knows what a volume is.
//!
//! | Kind | What it is | `file` | `rados` | `memory` |
//! |---|---|---|---|---|
//! | [`Object`] | sparse bytes; writes are durable after [`Blocker::sync`] | one file (split at 8 TiB) | an object of the pool for each 4 MiB; durable at once | two images: current and durable |
//! | record ([`RecordKey`]) | at most [`MAX_RECORD`](crate::limits::MAX_RECORD) bytes, replaced atomically, durable on return | two slots in one file | a key, changed by one guarded operation | a value |
//! | name | index from a name to a volume id, exclusive, durable on return | hard link to the record's file | a key | a map |
//! | lock | exclusive or shared per volume, dropped by the system when its holder dies | OFD lock on a file of its own, the holder's record in a symbolic link | a lock of Ceph, whose dead holder is fenced by the next | a table |

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::SECTOR;
use flights::Flights;
use sys::Outside;

pub mod file;
pub mod flights;
pub mod memory;
pub mod rados;
pub mod real_sys;
pub mod ring;
pub mod sim;
pub mod sys;

/// Identity of a volume, snapshot or other map for its whole life; random, never 0, printed as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VolumeId(pub u64);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for VolumeId {
    type Err = Error;

    /// Reads the form that is printed, and no other; 0 is nobody's.
    fn from_str(text: &str) -> Result<VolumeId> {
        let bytes = crate::hex::decode(text).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        match bytes.map(u64::from_be_bytes) {
            Some(id) if id != 0 => Ok(VolumeId(id)),
            _ => Err(Error::InvalidArgument(format!("{text:?}: not an id"))),
        }
    }
}

/// A sparse object of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Object {
    /// Journal segment `.1` of a volume.
    Log(VolumeId, u32),
    /// Node pack `.1` of a volume.
    Pack(VolumeId, u32),
    /// Blocks that a volume wrote in epoch `.1`, block i at i x block size.
    Data(VolumeId, u64),
    /// Digests of the blocks of epoch `.1` of a volume, which is sealed.
    Redirect(VolumeId, u64),
    /// Checksums of the sectors of epoch `.1` of a volume, which is sealed.
    Sum(VolumeId, u64),
    /// A content block: made whole by [`Blocker::put`], and never changed.
    Content(Digest),
    /// A table of the content index.
    Index(u64),
    /// Part `.1` of the leases of claim `.0`.
    Lease(u64, u64),
}

impl Object {
    /// The volume that wrote it; 0 for what belongs to the store.
    pub fn volume(&self) -> VolumeId {
        match *self {
            Object::Log(v, _)
            | Object::Pack(v, _)
            | Object::Data(v, _)
            | Object::Redirect(v, _)
            | Object::Sum(v, _) => v,
            Object::Content(_) | Object::Index(_) | Object::Lease(..) => VolumeId(0),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Log(v, n) => write!(f, "log.{v}.{n:08x}"),
            Object::Pack(v, n) => write!(f, "pack.{v}.{n:08x}"),
            Object::Data(v, e) => write!(f, "data.{v}.{e:016x}"),
            Object::Redirect(v, e) => write!(f, "redirect.{v}.{e:016x}"),
            Object::Sum(v, e) => write!(f, "sum.{v}.{e:016x}"),
            Object::Content(digest) => write!(f, "content/{digest}"),
            Object::Index(id) => write!(f, "content/i.{id:016x}"),
            Object::Lease(claim, part) => write!(f, "content/l.{claim:016x}.{part:016x}"),
        }
    }
}

/// A small object that is replaced atomically.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RecordKey {
    /// The store's superblock.
    Store,
    /// The header of a map.
    Header(VolumeId),
    /// The header of a removed map, kept until nothing needs it.
    Trash(VolumeId),
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordKey::Store => write!(f, "archipelago.store"),
            RecordKey::Header(v) => write!(f, "catalog/h.{v}"),
            RecordKey::Trash(v) => write!(f, "trash/h.{v}"),
        }
    }
}

/// A record as read, with the number of its version (1 for a new one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Rises by one at each commit.
    pub version: u64,
    /// The payload.
    pub bytes: Vec<u8>,
}

/// How a lock is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// One holder.
    Exclusive,
    /// Any number of holders, none exclusive.
    Shared,
}

/// A lock that is held until it is dropped, or until its process dies.
pub trait LockGuard: Send + Sync {
    /// Gives the lock up and takes away whatever the backend keeps for it, such as its file. For an exclusive lock of a
    /// volume that is gone; of a shared one nothing is taken away.
    ///
    /// That only the holder does this is what makes it safe: a backend hands out a lock only on what is in its place at
    /// that moment, and nobody but its holder takes it from there.
    fn remove(self: Box<Self>) -> Result<()>;
}

/// Longest record that an exclusive holder leaves, in bytes: as the target of a symbolic link it is kept in the inode (ext4:
/// up to 59 bytes) and takes no block.
pub const MAX_OWNER: usize = 48;

/// Refuses a record that [`Blocker::lock`] does not take.
pub(crate) fn check_owner(owner: &[u8]) -> Result<()> {
    if is_owner(owner) {
        return Ok(());
    }
    let text = format!(
        "a lock record has at most {MAX_OWNER} letters, digits, dots and dashes; this one has {} bytes",
        owner.len()
    );
    Err(Error::InvalidArgument(text))
}

/// Whether a record could have been left by [`Blocker::lock`].
pub(crate) fn is_owner(owner: &[u8]) -> bool {
    owner.len() <= MAX_OWNER && owner.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
}

/// Result of trying to take a lock.
pub enum LockOutcome {
    /// Taken.
    Held(Box<dyn LockGuard>),
    /// Somebody else has it; the record that the exclusive holder left, if it can be read (empty otherwise).
    Refused(Vec<u8>),
}

/// Which run of the machine it is; see [`Blocker::boot`].
pub type Boot = [u8; 16];

/// How content came into the store from a file outside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Adopted {
    /// It was there already.
    Present,
    /// As a file of its own that shares the room of the other until one of the two is written.
    Shared,
    /// As another name of the file.
    Linked,
    /// Its bytes were written.
    Copied,
}

/// What lies in one of the 256 parts of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Objects, sorted.
    pub objects: Vec<Object>,
    /// Ids for which something is kept because of a lock, held or not, sorted.
    pub locks: Vec<VolumeId>,
}

/// Size and free room of the backend in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What is left.
    pub free: u64,
}

/// A backend. Every method is safe to call from any thread, and blocks until done.
///
/// Durability: `create_*`, `commit_record`, names and `remove*` are durable when they return, directory entries
/// included; `write`, `punch` and `truncate` are durable after a later `sync` of the same object returned success. A failed `sync`
/// is never repeated by the backend.
pub trait Blocker: Send + Sync {
    /// Creates an object of `len` bytes, durable on return: `head` (at most `len` bytes), then written (not sparse) zeros.
    /// `Exists` if it is there already.
    fn create(&self, object: Object, head: &[u8], len: u64) -> Result<()>;
    /// As [`Blocker::create`], of zeros that need not be written now where the backend can see to it that there is room for them. Syncs of
    /// what is written over them may take longer then.
    fn create_reserved(&self, object: Object, head: &[u8], len: u64) -> Result<()> {
        self.create(object, head, len)
    }
    /// Fills `bufs` from `offset`; what was never written inside an object reads as zeros. An object that is missing or
    /// ends within the range is [`Damaged`](crate::Error::Damaged) ("cut short"), data as well as logs and packs: callers
    /// read only what a map names, and a map names only what was written. Asking for no bytes of a data object succeeds.
    fn read(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()>;
    /// As [`Blocker::read`], if no disk has to be waited for; `false` if one might, and then `bufs` hold anything.
    fn read_at_once(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<bool> {
        self.read(object, bufs, offset).map(|()| true)
    }
    /// Whether each read and write of this object waits for a disk, because nothing of it is kept in memory.
    fn waits_for_disk(&self, object: Object) -> bool {
        let _ = object;
        false
    }
    /// For the thread that calls this: room for so many reads and writes under way together. `None` where that is no use, or cannot be.
    fn flights(&self, requests: usize) -> Result<Option<Box<dyn Flights>>> {
        let _ = requests;
        Ok(None)
    }
    /// Fills the front of `buf` with what there is from `offset` on, and returns how much that is: all of it, unless the object ends
    /// before, or is missing. What was never written inside an object reads as zeros. `buf` must not cross 8 TiB.
    fn read_some(&self, object: Object, buf: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all of `bufs` at `offset`. An [`Object::Data`] or [`Object::Sum`] that does not exist is created (durable with the
    /// next sync).
    fn write(&self, object: Object, bufs: &[IoSlice<'_>], offset: u64) -> Result<()>;
    /// The next reading of this range is one of what is stored, as far as the backend can bring that about: what it keeps in memory
    /// only to be quick is dropped. Nothing that is not durable yet is lost, and it is no error if nothing can be done.
    fn forget(&self, object: Object, offset: u64, len: u64) {
        let _ = (object, offset, len);
    }
    /// Makes the range read as zeros and frees its room where the backend can. Nothing happens to an object that does not exist.
    fn punch(&self, object: Object, offset: u64, len: u64) -> Result<()>;
    /// Whether writes are durable when they return, in the order in which they did, so that [`Blocker::sync`] has nothing to do.
    fn is_durable_at_once(&self) -> bool {
        false
    }
    /// Makes all earlier writes to these objects durable. Objects that do not exist are passed over. After an error the system may have
    /// dropped what was not durable, unless it is an [`Error::Io`] of another operation than a sync: those it ended before.
    fn sync(&self, objects: &[Object]) -> Result<()>;
    /// Length in bytes (highest written byte + 1), or `None` if it does not exist.
    fn len(&self, object: Object) -> Result<Option<u64>>;
    /// Removes an object; succeeds if it is not there.
    fn remove(&self, object: Object) -> Result<()>;
    /// Objects of one volume, sorted.
    fn objects(&self, volume: VolumeId) -> Result<Vec<Object>>;
    /// All that there is of the volumes whose id has `part` as its lowest byte, whether they have a header or not.
    fn inventory(&self, part: u8) -> Result<Inventory>;
    /// Parts in which there is anything for [`Blocker::inventory`], rising; all of them where telling is as much as looking.
    fn parts(&self) -> Result<Vec<u8>> {
        Ok((0..=u8::MAX).collect())
    }
    /// First bytes of digests with which there is anything for [`Blocker::contents`] or [`Blocker::unfinished_contents`], as for
    /// [`Blocker::parts`].
    fn content_parts(&self) -> Result<Vec<u8>> {
        Ok((0..=u8::MAX).collect())
    }
    /// Bytes that an object takes on the backend, as near as it can tell; 0 if it does not exist.
    fn allocated(&self, object: Object) -> Result<u64>;
    /// Of which size, at a multiple of it, a hole in an object has to be for [`Blocker::allocated`] to count it; the first and the last such
    /// range of the object count in any case. `u64::MAX` where no hole is counted.
    fn hole(&self, object: Object) -> u64 {
        let _ = object;
        SECTOR
    }
    /// Closes what is kept open only to be quick, so that the room of what others removed is free.
    fn close_idle(&self) {}
    /// Takes away what was made to hold objects and holds none any more.
    fn tidy(&self) -> Result<()> {
        Ok(())
    }

    /// Makes a content object of these bytes, whole or not at all, and durable on return; `false` if it was there. That the bytes are
    /// those of the digest is the caller's word.
    fn put(&self, digest: Digest, bytes: &[u8]) -> Result<bool>;
    /// As [`Blocker::put`], of bytes with which a file outside begins, and behind which it has NULs at most: without writing them where the
    /// backend can share the file's room. With `link` the file itself may become the content object, if it has nothing behind
    /// them and [`Sys::may_link`](sys::Sys::may_link) says so; that it is not altered later is the caller's word then. What is
    /// shared or linked was compared with the bytes.
    fn adopt(&self, digest: Digest, bytes: &[u8], file: Outside<'_>, link: bool) -> Result<Adopted> {
        let _ = (file, link);
        self.put(digest, bytes).map(|new| if new { Adopted::Copied } else { Adopted::Present })
    }
    /// How [`Blocker::adopt`] would most likely take a file in, for all that its content does not decide. Changes nothing.
    fn adoption(&self, file: Outside<'_>, link: bool) -> Result<Adopted> {
        let _ = (file, link);
        Ok(Adopted::Copied)
    }
    /// Length of a content object, or `None` if there is none: looked for by name at this moment, whatever was known before.
    /// It may not be durable yet; see [`Blocker::sync_contents`].
    fn content_len(&self, digest: Digest) -> Result<Option<u64>>;
    /// Content objects whose digest begins with this byte, sorted.
    fn contents(&self, first: u8) -> Result<Vec<Digest>>;
    /// Makes the content objects whose digest begins with this byte durable, whoever made them.
    fn sync_contents(&self, first: u8) -> Result<()>;
    /// Index tables and leases, sorted; finished or not.
    fn content_tables(&self) -> Result<Vec<Object>>;
    /// What lies under other names until it is a content object whose digest begins with this byte, sorted: of calls of
    /// [`Blocker::put`] under way, and of those whose process died. None where the backend makes objects in one step.
    fn unfinished_contents(&self, first: u8) -> Result<Vec<u64>> {
        let _ = first;
        Ok(Vec::new())
    }
    /// Bytes that one of them takes.
    fn unfinished_room(&self, first: u8, number: u64) -> Result<u64> {
        let _ = (first, number);
        Ok(0)
    }
    /// Removes one of them; returns the bytes that it took. The caller has made sure that nobody is putting content.
    fn remove_unfinished(&self, first: u8, number: u64) -> Result<u64> {
        let _ = (first, number);
        Ok(0)
    }

    /// Creates a record at version 1. `Exists` if it is there. Not yet reachable by any name.
    fn create_record(&self, key: RecordKey, bytes: &[u8]) -> Result<()>;
    /// Creates many headers and their names with a constant number of syncs. On `Exists` of any name nothing that was
    /// made stays reachable by name.
    fn create_named(&self, batch: &[(VolumeId, String, Vec<u8>)]) -> Result<()>;
    /// Reads a record: the newest version whose commit finished.
    fn read_record(&self, key: RecordKey) -> Result<Record>;
    /// Replaces a record that is at version `expected`; returns the new version. Another version is `Stale`.
    fn commit_record(&self, key: RecordKey, expected: u64, bytes: &[u8]) -> Result<u64>;
    /// Makes durable what [`Blocker::read_record`] showed at `version`, and that it is there: whoever committed it may have died, or seen
    /// its sync fail, before it was. What a commit that failed may have stored instead does not come back after it. To be called before
    /// anything is built on it that must not outlive it. Another version is `Stale`. Costs nothing for what this value made durable itself.
    fn settle_record(&self, key: RecordKey, version: u64) -> Result<()>;
    /// Moves a header to the trash. Names are not touched.
    fn trash_header(&self, volume: VolumeId) -> Result<()>;
    /// Removes a record for good, durably; succeeds if it is not there. The caller has made sure that no name leads to a header.
    fn remove_record(&self, key: RecordKey) -> Result<()>;
    /// All headers in the catalogue, sorted by id.
    fn headers(&self) -> Result<Vec<VolumeId>>;
    /// All headers in the trash, sorted by id.
    fn trashed(&self) -> Result<Vec<VolumeId>>;

    /// Binds a name to a volume; `Exists` if the name is bound, to whatever.
    fn bind_name(&self, name: &str, volume: VolumeId) -> Result<()>;
    /// Unbinds a name; succeeds if it is not bound.
    fn unbind_name(&self, name: &str) -> Result<()>;
    /// What the name is bound to. With the file backend that is the header found under it.
    fn lookup(&self, name: &str) -> Result<Option<VolumeId>>;
    /// Names that start with `prefix` and sort after `after`, in byte order, at most `limit`.
    fn names(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>>;

    /// Takes the lock of a volume without waiting. An exclusive holder leaves `owner` for others to read: at most
    /// [`MAX_OWNER`] bytes of `0-9 a-z A-Z . -`, anything else is `InvalidArgument`. The record is a courtesy: a backend that
    /// finds no room for it gives the lock all the same.
    fn lock(&self, volume: VolumeId, mode: LockMode, owner: &[u8]) -> Result<LockOutcome>;
    /// The record of the exclusive holder if there is one (empty if he left none). Takes nothing, so it disturbs nobody;
    /// the answer may be old when it arrives.
    fn lock_holder(&self, volume: VolumeId) -> Result<Option<Vec<u8>>>;
    /// What is the same for all processes as long as nothing that one of them wrote without a sync can have been lost but by a sync that
    /// failed: as long as the machine runs. Zeros, which say nothing, where that is not known.
    fn boot(&self) -> Boot {
        Boot::default()
    }
    /// Size and free room.
    fn space(&self) -> Result<Space>;

    /// What `check` can look into and put right below the records, where a backend has anything below them.
    fn mend(&self) -> Option<&dyn Mend> {
        None
    }
}

/// How a record lies on a backend that keeps more than its newest payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordState {
    /// The newest version was committed, and nothing was begun after it.
    Whole,
    /// A commit was begun after the newest version and not finished: what a crash leaves. The record reads right.
    Torn,
    /// A first commit that was not finished: what a crash leaves of a creation. Nothing was ever readable here.
    Unborn,
    /// Damaged, or of a later version.
    Unreadable,
}

/// A place in the catalogue or trash that leads to a record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Entry {
    /// A header under its id.
    Header(VolumeId),
    /// The header of a removed map under its id.
    Trash(VolumeId),
    /// A header under its name.
    Name(String),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Header(id) => write!(f, "catalog/h.{id}"),
            Entry::Trash(id) => write!(f, "trash/h.{id}"),
            Entry::Name(name) => write!(f, "catalog/n.{name}"),
        }
    }
}

/// Repairs of a backend on which a name and an id are two ways to the same record, and a record can be unreadable.
///
/// All of them are durable on return, and may be repeated after a crash.
pub trait Mend: Send + Sync {
    /// How a record lies there.
    fn record_state(&self, key: RecordKey) -> Result<RecordState>;
    /// Finishes what a crash left of a commit, so that both slots of a record are whole. The record reads as before. Returns
    /// whether there was anything to do. Not while somebody else may commit it: the caller holds the volume's lock.
    fn mend_record(&self, key: RecordKey) -> Result<bool>;
    /// The record found under a name; `None` if the name is not bound.
    fn named_record(&self, name: &str) -> Result<Option<Record>>;
    /// Whether two entries hold the same bytes: an unreadable header is known by its names through this.
    fn same_bytes(&self, a: &Entry, b: &Entry) -> Result<bool>;
    /// Enters a header under its id again, which is found under `name` only.
    fn relink_header(&self, name: &str, volume: VolumeId) -> Result<()>;
    /// Moves an entry out of the catalogue or trash to where nothing looks for it; returns where that is. Its bytes stay as they are.
    fn set_aside(&self, entry: &Entry) -> Result<String>;
    /// What was set aside, as paths in the store.
    fn aside(&self) -> Result<Vec<String>>;
}
