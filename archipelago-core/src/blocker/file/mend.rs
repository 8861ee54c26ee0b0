//! What `check` looks into below the records, and puts right there: slots, and the links between names and headers.
//!
//! Nothing is ever deleted here. What cannot be read is moved to `lost/`, where it keeps its bytes: a later tool may make
//! something of them.

use std::io::{self, IoSlice, IoSliceMut};

use super::locks::Handle;
use super::{FileBlocker, fail, names};
use crate::blocker::sys::Open;
use crate::blocker::{Entry, LockMode, Mend, Record, RecordKey, RecordState, VolumeId};
use crate::error::{Error, Result};
use crate::format::record::{RECORD_FILE, SLOT, decode_slots, encode_slot, is_torn, is_unborn, slot_of};

/// Entries of one name in `lost/`; a header that is restored and lost again more often has a problem of another kind.
const MAX_COPIES: u32 = 1000;
/// Looks at a record that somebody is changing before it is taken as it is.
const LOOKS: u32 = 50;
/// Wait between two of them; a commit takes no longer unless the disk is busy.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

fn entry_path(entry: &Entry) -> Result<String> {
    match entry {
        Entry::Header(id) => Ok(names::record_path(RecordKey::Header(*id))),
        Entry::Trash(id) => Ok(names::record_path(RecordKey::Trash(*id))),
        Entry::Name(name) => names::name_path(name),
    }
}

impl FileBlocker {
    /// All bytes of a record file, or one more than it may have; `None` if it is missing.
    fn raw_record(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let file = match self.sys.open(path, Open::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            fd => Handle::new(&self.sys, fd.map_err(|e| fail("open", path, e))?),
        };
        let mut bytes = vec![0; 2 * SLOT + 1];
        let len = self.sys.preadv(file.fd, &mut [IoSliceMut::new(&mut bytes)], 0).map_err(|e| fail("read", path, e))?;
        bytes.truncate(len);
        Ok(Some(bytes))
    }

    /// All bytes of a record file once nobody is changing it, if `settled` says so of what is read.
    fn settled_record(&self, path: &str, settled: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        for _ in 1..LOOKS {
            // In this order: what was being written before the look at the lock is all there after it.
            let busy = self.is_being_changed(path)?;
            match self.raw_record(path)? {
                Some(bytes) if busy && !settled(&bytes) => std::thread::sleep(PAUSE),
                other => return Ok(other),
            }
        }
        self.raw_record(path)
    }

    /// Whether somebody has the lock under which a record is committed.
    fn is_being_changed(&self, path: &str) -> Result<bool> {
        let file = match self.sys.open(path, Open::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            fd => Handle::new(&self.sys, fd.map_err(|e| fail("open", path, e))?),
        };
        self.sys.is_locked(file.fd).map_err(|e| fail("look at the lock of", path, e))
    }

    fn unlink_entry(&self, path: &str) -> Result<()> {
        match self.sys.unlink(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fail("remove", path, e)),
            _ => Ok(()),
        }
    }
}

impl Mend for FileBlocker {
    fn record_state(&self, key: RecordKey) -> Result<RecordState> {
        let path = names::record_path(key);
        let whole = |bytes: &[u8]| decode_slots(&path, bytes).is_ok() && !is_torn(bytes);
        let Some(bytes) = self.settled_record(&path, whole)? else { return Err(Error::NotFound(path)) };
        Ok(match decode_slots(&path, &bytes) {
            Ok(_) if is_torn(&bytes) => RecordState::Torn,
            Ok(_) => RecordState::Whole,
            Err(_) if is_unborn(&bytes) => RecordState::Unborn,
            Err(_) => RecordState::Unreadable,
        })
    }

    fn mend_record(&self, key: RecordKey) -> Result<bool> {
        let path = names::record_path(key);
        let file = Handle::new(&self.sys, self.sys.open(&path, Open::ReadWrite).map_err(|e| fail("open", &path, e))?);
        if !self.sys.try_lock(file.fd, LockMode::Exclusive).map_err(|e| fail("lock", &path, e))? {
            return Err(Error::Timeout(format!("{path}: another process, which is changing it,")));
        }
        let Some(bytes) = self.raw_record(&path)? else { return Err(Error::NotFound(path)) };
        let record = decode_slots(&path, &bytes)?;
        if !is_torn(&bytes) {
            return Ok(false);
        }
        // First the version that counts, for it may be in memory only; then the same payload as its successor over the
        // torn one. A crash in between leaves what was there.
        for version in [record.version, record.version.checked_add(1).ok_or_else(|| Error::Stale(path.clone()))?] {
            let slot = encode_slot(record.id, version, &record.payload)?;
            self.sys
                .pwritev(file.fd, &[IoSlice::new(&slot)], slot_of(version) * SLOT as u64)
                .and_then(|()| self.sys.fdatasync(file.fd))
                .map_err(|e| fail("write", &path, e))?;
        }
        Ok(true)
    }

    fn named_record(&self, name: &str) -> Result<Option<Record>> {
        let path = names::name_path(name)?;
        let Some(bytes) = self.settled_record(&path, |bytes| decode_slots(&path, bytes).is_ok())? else {
            return Ok(None);
        };
        let slots = decode_slots(&path, &bytes)?;
        Ok(Some(Record { version: slots.version, bytes: slots.payload }))
    }

    fn same_bytes(&self, a: &Entry, b: &Entry) -> Result<bool> {
        let (a, b) = (self.raw_record(&entry_path(a)?)?, self.raw_record(&entry_path(b)?)?);
        Ok(a.is_some() && a == b && a.is_some_and(|bytes| bytes.len() as u64 <= RECORD_FILE + 1))
    }

    fn relink_header(&self, name: &str, volume: VolumeId) -> Result<()> {
        let path = names::record_path(RecordKey::Header(volume));
        match self.sys.link(&names::name_path(name)?, &path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(fail("create", path, e)),
            _ => {}
        }
        self.sys.sync_dir(names::CATALOG).map_err(|e| fail("sync", names::CATALOG, e))
    }

    fn set_aside(&self, entry: &Entry) -> Result<String> {
        let from = entry_path(entry)?;
        let dir = if matches!(entry, Entry::Trash(_)) { names::TRASH } else { names::CATALOG };
        match self.sys.mkdir(names::LOST) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(fail("create", names::LOST, e)),
            _ => self.sys.sync_dir(names::ROOT).map_err(|e| fail("sync", names::ROOT, e))?,
        }
        let base = match entry {
            Entry::Header(id) => format!("h.{id}"),
            Entry::Trash(id) => format!("r.{id}"),
            Entry::Name(name) => format!("n.{name}"),
        };
        // Entered there before it is dropped here: at each moment it is in one place at least.
        let mut to = format!("{}/{base}", names::LOST);
        for copy in 1..=MAX_COPIES {
            match self.sys.link(&from, &to) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    // From a repair that a crash cut short, or something else of the same name.
                    if self.raw_record(&from)? == self.raw_record(&to)? {
                        break;
                    }
                    to = format!("{}/{base}.{copy}", names::LOST);
                }
                other => {
                    other.map_err(|e| fail("create", &to, e))?;
                    break;
                }
            }
            if copy == MAX_COPIES {
                return Err(Error::Exists(to));
            }
        }
        self.sys.sync_dir(names::LOST).map_err(|e| fail("sync", names::LOST, e))?;
        self.unlink_entry(&from)?;
        self.sys.sync_dir(dir).map_err(|e| fail("sync", dir, e))?;
        Ok(to)
    }

    fn aside(&self) -> Result<Vec<String>> {
        let mut files = match self.sys.list(names::LOST) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.map_err(|e| fail("list", names::LOST, e))?,
        };
        files.sort_unstable();
        Ok(files.into_iter().map(|file| format!("{}/{file}", names::LOST)).collect())
    }
}
