//! Records and the names that lead to them.
//!
//! A record is a file of two slots; a commit overwrites the older one and syncs. A name is a hard link to its header's
//! file, made only after the header is durable: whatever a crash leaves, a name leads to a whole header.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::time::Duration;

use parking_lot::Mutex;

use super::locks::Handle;
use super::{FileBlocker, fail, names};
use crate::blocker::sys::{Fd, Open};
use crate::blocker::{LockMode, Record, RecordKey, VolumeId};
use crate::error::{Error, Result, SYNC};
use crate::format::record::{RECORD_FILE, SLOT, Slots, decode_slots, encode_slot, slot_of};
use crate::limits::MAX_CLONE_COUNT;

/// Headers of one batch that are synced one by one; more are made durable by one sync of the file system, which waits
/// for what others wrote too and so is worth it only then.
const MAX_SINGLE_SYNCS: usize = 4;
/// Readings of a record that looks damaged before it is called so: a reader may see half of a commit.
const READ_ATTEMPTS: u32 = 5;
/// Wait before the second reading; doubled each time.
const READ_PAUSE: Duration = Duration::from_millis(1);
/// Attempts to get a record for a commit, [`COMMIT_PAUSE`] apart: ten seconds, more than a few syncs take on a disk with far too much
/// to do.
const COMMIT_ATTEMPTS: u32 = 5000;
/// Wait between two of them.
const COMMIT_PAUSE: Duration = Duration::from_millis(2);
/// Records whose durable version is remembered; past it all are forgotten, at the cost of a sync each.
const MAX_KNOWN: usize = 4096;

/// Versions that this backend itself made durable.
#[derive(Default)]
pub(super) struct Known(Mutex<BTreeMap<RecordId, u64>>);

type RecordId = (u8, u64);

/// [`RecordKey`] in a form that has an order.
fn record_id(key: RecordKey) -> RecordId {
    match key {
        RecordKey::Store => (0, 0),
        RecordKey::Header(volume) => (1, volume.0),
        RecordKey::Trash(volume) => (2, volume.0),
    }
}

impl Known {
    fn set(&self, key: RecordKey, version: u64) {
        let mut known = self.0.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(record_id(key), version);
    }

    fn is(&self, key: RecordKey, version: u64) -> bool {
        self.0.lock().get(&record_id(key)) == Some(&version)
    }

    fn forget(&self, key: RecordKey) {
        self.0.lock().remove(&record_id(key));
    }
}

/// What a batch has made so far, for undoing it.
#[derive(Default)]
struct Made {
    headers: Vec<String>,
    names: Vec<String>,
}

impl FileBlocker {
    pub(super) fn new_record(&self, key: RecordKey, bytes: &[u8]) -> Result<()> {
        let path = names::record_path(key);
        let slot = encode_slot(record_id(key).1, 1, bytes)?;
        let file = self.create_record_file(&path)?;
        let made = self
            .write_new(&path, &file, &slot)
            .and_then(|()| self.sys.fdatasync(file.fd).map_err(|e| fail(SYNC, &path, e)))
            .and_then(|()| self.sync_dir(names::record_dir(key)));
        match made {
            Ok(()) => self.known.set(key, 1),
            Err(_) => drop(self.sys.unlink(&path)),
        }
        made
    }

    fn create_record_file(&self, path: &str) -> Result<Handle> {
        match self.sys.open(path, Open::CreateNew) {
            // Also where a crash left a record that was never finished: the caller chooses another id.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists(path.to_string())),
            fd => Ok(Handle::new(&self.sys, fd.map_err(|e| fail("create", path, e))?)),
        }
    }

    /// Gives a new record file its length, with room for the second slot, and its first version.
    fn write_new(&self, path: &str, file: &Handle, slot: &[u8]) -> Result<()> {
        self.sys
            .ftruncate(file.fd, RECORD_FILE)
            .and_then(|()| self.sys.pwritev(file.fd, &[IoSlice::new(slot)], 0))
            .map_err(|e| fail("write", path, e))
    }

    pub(super) fn new_named(&self, batch: &[(VolumeId, String, Vec<u8>)]) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if batch.len() > MAX_CLONE_COUNT {
            let (len, max) = (batch.len(), MAX_CLONE_COUNT);
            return Err(Error::InvalidArgument(format!(
                "{len} volumes at once; at most {max} can be made by one call"
            )));
        }
        let mut made = Made::default();
        let done = self.make_named(batch, &mut made);
        match done {
            Ok(()) => batch.iter().for_each(|(volume, ..)| self.known.set(RecordKey::Header(*volume), 1)),
            Err(_) => self.undo_named(&made),
        }
        done
    }

    fn make_named(&self, batch: &[(VolumeId, String, Vec<u8>)], made: &mut Made) -> Result<()> {
        let paths = batch.iter().map(|(_, name, _)| names::name_path(name)).collect::<Result<Vec<_>>>()?;
        let mut open = Vec::new();
        for (volume, _, bytes) in batch {
            let path = names::record_path(RecordKey::Header(*volume));
            let slot = encode_slot(volume.0, 1, bytes)?;
            let file = self.create_record_file(&path)?;
            made.headers.push(path.clone());
            self.write_new(&path, &file, &slot)?;
            if batch.len() <= MAX_SINGLE_SYNCS {
                open.push(file);
            }
        }
        if open.is_empty() {
            // Write-back errors of the files closed above are reported here.
            self.sys.syncfs().map_err(|e| fail(SYNC, names::ROOT, e))?;
        }
        for (file, header) in open.iter().zip(&made.headers) {
            self.sys.fdatasync(file.fd).map_err(|e| fail(SYNC, header, e))?;
        }
        drop(open);
        for ((path, header), (_, name, _)) in paths.into_iter().zip(&made.headers).zip(batch) {
            match self.sys.link(header, &path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists(name.clone())),
                other => other.map_err(|e| fail("create", &path, e))?,
            }
            made.names.push(path);
        }
        self.sync_dir(names::CATALOG)
    }

    /// Takes back what a batch made, names first, so that no name is left without its header. Nothing is reported: the
    /// caller already has the error that counts, and what may be left after a second one is a header that nobody names.
    fn undo_named(&self, made: &Made) {
        for paths in [&made.names, &made.headers] {
            if paths.is_empty() {
                continue;
            }
            let left = paths.iter().filter(|path| self.sys.unlink(path).is_err()).count();
            if left > 0 || self.sync_dir(names::CATALOG).is_err() {
                return;
            }
        }
    }

    pub(super) fn get_record(&self, key: RecordKey) -> Result<Record> {
        let path = names::record_path(key);
        let slots = self.read_slots(&path)?.ok_or_else(|| Error::NotFound(path.clone()))?;
        check_id(key, &path, &slots)?;
        Ok(Record { version: slots.version, bytes: slots.payload })
    }

    /// The record in a file, or `None` if there is no such file.
    fn read_slots(&self, path: &str) -> Result<Option<Slots>> {
        let file = match self.sys.open(path, Open::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            fd => Handle::new(&self.sys, fd.map_err(|e| fail("open", path, e))?),
        };
        let mut pause = READ_PAUSE;
        for _ in 1..READ_ATTEMPTS {
            match self.decode(path, file.fd) {
                Err(Error::Damaged { .. }) => std::thread::sleep(pause),
                other => return other.map(Some),
            }
            pause *= 2;
        }
        self.decode(path, file.fd).map(Some)
    }

    fn decode(&self, path: &str, fd: Fd) -> Result<Slots> {
        // One byte more than there should be, so that a file that grew is noticed.
        let mut bytes = [0; 2 * SLOT + 1];
        let len = self.sys.preadv(fd, &mut [IoSliceMut::new(&mut bytes)], 0).map_err(|e| fail("read", path, e))?;
        decode_slots(path, &bytes[..len])
    }

    pub(super) fn replace_record(&self, key: RecordKey, expected: u64, bytes: &[u8]) -> Result<u64> {
        let path = names::record_path(key);
        let next = expected.checked_add(1).ok_or_else(|| Error::Stale(path.clone()))?;
        let slot = encode_slot(record_id(key).1, next, bytes)?;
        let file = self.hold_record(key, &path, expected)?;
        let written = self
            .sys
            .pwritev(file.fd, &[IoSlice::new(&slot)], slot_of(next) * SLOT as u64)
            .map_err(|e| fail("write", &path, e))
            .and_then(|()| self.sys.fdatasync(file.fd).map_err(|e| fail(SYNC, &path, e)));
        match written {
            Ok(()) => self.known.set(key, next),
            Err(_) => self.known.forget(key),
        }
        written.map(|()| next)
    }

    /// See [`crate::blocker::Blocker::settle_record`].
    pub(super) fn make_durable(&self, key: RecordKey, version: u64) -> Result<()> {
        if self.known.is(key, version) {
            return Ok(());
        }
        self.hold_record(key, &names::record_path(key), version)?;
        self.known.set(key, version);
        Ok(())
    }

    /// Opens a record that is at version `expected`, durably so, and keeps others from committing until it is closed: of
    /// two that expect the same version one is told that it is stale.
    fn hold_record(&self, key: RecordKey, path: &str, expected: u64) -> Result<Handle> {
        let file = match self.sys.open(path, Open::ReadWrite) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound(path.to_string())),
            fd => Handle::new(&self.sys, fd.map_err(|e| fail("open", path, e))?),
        };
        self.lock_record(path, file.fd)?;
        let stored = self.decode(path, file.fd)?;
        check_id(key, path, &stored)?;
        if stored.version != expected {
            return Err(Error::Stale(path.to_string()));
        }
        if !self.known.is(key, expected) {
            // Its writer may have died before it was durable. The other slot, which is the only durable one then, must
            // not be overwritten before that has changed.
            // Written again, too: after a failed sync it may be in memory only and count as written, so that a sync by
            // itself would do nothing.
            let found = encode_slot(stored.id, stored.version, &stored.payload)?;
            self.sys
                .pwritev(file.fd, &[IoSlice::new(&found)], slot_of(stored.version) * SLOT as u64)
                .map_err(|e| fail("write", path, e))?;
            self.sys.fdatasync(file.fd).map_err(|e| fail(SYNC, path, e))?;
            self.sync_dir(names::record_dir(key))?;
        }
        Ok(file)
    }

    fn lock_record(&self, path: &str, fd: Fd) -> Result<()> {
        for _ in 0..COMMIT_ATTEMPTS {
            if self.sys.try_lock(fd, LockMode::Exclusive).map_err(|e| fail("lock", path, e))? {
                return Ok(());
            }
            std::thread::sleep(COMMIT_PAUSE);
        }
        Err(Error::Timeout(format!("{path}: another process, which is changing it,")))
    }

    pub(super) fn move_to_trash(&self, volume: VolumeId) -> Result<()> {
        let from = names::record_path(RecordKey::Header(volume));
        let to = names::record_path(RecordKey::Trash(volume));
        // In two durable steps and not by `rename`, which only some file systems make atomic between directories: what
        // other maps still need must never be in neither place.
        match self.sys.link(&from, &to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound(from)),
            // A crash came between the steps.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(|e| fail("remove", &from, e))?,
        }
        self.sync_dir(names::TRASH)?;
        match self.sys.unlink(&from) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail("remove", from, e)),
            _ => {}
        }
        self.known.forget(RecordKey::Header(volume));
        self.sync_dir(names::CATALOG)
    }

    pub(super) fn drop_record(&self, key: RecordKey) -> Result<()> {
        let path = names::record_path(key);
        match self.sys.unlink(&path) {
            // Synced even so: a former process may have removed it, and died before that was durable.
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail("remove", path, e)),
            _ => {}
        }
        self.known.forget(key);
        self.sync_dir(names::record_dir(key))
    }

    /// Ids of the headers in `catalog` or `trash`, sorted.
    pub(super) fn list_headers(&self, dir: &'static str) -> Result<Vec<VolumeId>> {
        let files = self.sys.list(dir).map_err(|e| fail("list", dir, e))?;
        let mut found: Vec<VolumeId> = files.iter().filter_map(|file| names::parse_header(file)).collect();
        found.sort_unstable();
        Ok(found)
    }

    pub(super) fn link_name(&self, name: &str, volume: VolumeId) -> Result<()> {
        let header = names::record_path(RecordKey::Header(volume));
        match self.sys.link(&header, &names::name_path(name)?) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists(name.to_string())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound(header)),
            other => other.map_err(|e| fail("create", name, e))?,
        }
        self.sync_dir(names::CATALOG)
    }

    pub(super) fn unlink_name(&self, name: &str) -> Result<()> {
        match self.sys.unlink(&names::name_path(name)?) {
            // Synced even so: a former process may have removed it, and died before that was durable.
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fail("remove", name, e)),
            _ => self.sync_dir(names::CATALOG),
        }
    }

    pub(super) fn find_name(&self, name: &str) -> Result<Option<VolumeId>> {
        Ok(self.read_slots(&names::name_path(name)?)?.map(|slots| VolumeId(slots.id)))
    }

    pub(super) fn list_names(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let files = self.sys.list(names::CATALOG).map_err(|e| fail("list", names::CATALOG, e))?;
        let mut found: Vec<String> = files
            .iter()
            .filter_map(|file| file.strip_prefix("n."))
            .filter(|name| name.starts_with(prefix) && after.is_none_or(|after| *name > after))
            .map(str::to_owned)
            .collect();
        found.sort_unstable();
        found.truncate(limit);
        Ok(found)
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        self.sys.sync_dir(dir).map_err(|e| fail(SYNC, dir, e))
    }
}

/// A record under another's path was put there by hand; believing it would mix two volumes.
fn check_id(key: RecordKey, path: &str, slots: &Slots) -> Result<()> {
    if slots.id == record_id(key).1 {
        return Ok(());
    }
    Err(Error::damaged(path, format!("holds the record of {}", VolumeId(slots.id))))
}
