//! [`MemoryBlocker`]: a backend in memory for tests of everything above it.
//!
//! It keeps every promise of [`Blocker`] and nothing more: what a promise leaves open, [`crash_at`](MemoryBlocker::crash_at) leaves to chance.
//! What may be lost, and how, is in [the module of simulated disks](super::sim).
//!
//! One call is one step but for these, in which a cut may fall between their parts: `sync` is a step for each object that
//! exists; `create_named` writes the headers, makes them durable, writes the names, makes them durable (until each second and fourth step
//! any subset of them survives); `trash_header` puts the header into the trash and then drops it from the catalogue.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use super::sim::{self, Change, Content, Crashable, PAGE, Pages, Room, Syncs, Taken, Timeline, UNLIMITED};
use super::{
    Blocker, Boot, Inventory, LockGuard, LockMode, LockOutcome, Object, Record, RecordKey, Space, VolumeId, check_owner,
};
use crate::digest::Digest;
use crate::error::{Error, Result, SYNC};
use crate::limits::MAX_RECORD;
use crate::sync::Mutex;
use state::{Batch, Held, Op};

mod state;

/// A backend in memory that loses in a power cut what was not synced; see [the module](self).
pub struct MemoryBlocker {
    inner: Mutex<Inner>,
    /// Apart from the rest: guards outlive calls.
    locks: Arc<Mutex<HashMap<VolumeId, Holders>>>,
    /// Power cuts so far, and one.
    boots: u64,
}

struct Inner {
    line: Timeline<Held>,
    syncs: Syncs,
    room: Option<Room>,
}

#[derive(Default)]
struct Holders {
    exclusive: bool,
    shared: usize,
    owner: Vec<u8>,
}

struct Guard {
    locks: Arc<Mutex<HashMap<VolumeId, Holders>>>,
    volume: VolumeId,
    mode: LockMode,
}

impl LockGuard for Guard {
    fn remove(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut locks = self.locks.lock();
        if let Some(holders) = locks.get_mut(&self.volume) {
            match self.mode {
                LockMode::Exclusive => holders.exclusive = false,
                LockMode::Shared => holders.shared -= 1,
            }
            if !holders.exclusive && holders.shared == 0 {
                locks.remove(&self.volume);
            }
        }
    }
}

impl MemoryBlocker {
    /// An empty backend without a limit of space.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> Arc<MemoryBlocker> {
        MemoryBlocker::with(Held::default(), None, 1)
    }

    fn with(held: Held, room: Option<Room>, boots: u64) -> Arc<MemoryBlocker> {
        let inner = Inner { line: Timeline::new(held), syncs: Syncs::None, room };
        Arc::new(MemoryBlocker { inner: Mutex::new(inner), locks: Arc::default(), boots })
    }

    /// See [`Crashable::steps`].
    pub fn steps(&self) -> u64 {
        self.inner.lock().line.steps()
    }

    /// See [`Crashable::crash_at`].
    pub fn crash_at(&self, step: u64, seed: u64) -> Arc<MemoryBlocker> {
        let (held, room) = {
            let inner = self.inner.lock();
            (inner.line.at(step), inner.room)
        };
        MemoryBlocker::with(held.survivor(seed), room, self.boots + 1)
    }

    /// See [`Crashable::kill_at`].
    pub fn kill_at(&self, step: u64) -> Arc<MemoryBlocker> {
        let inner = self.inner.lock();
        MemoryBlocker::with(inner.line.at(step), inner.room, self.boots)
    }

    /// See [`Crashable::evict_at`].
    pub fn evict_at(&self, step: u64) -> Arc<MemoryBlocker> {
        let inner = self.inner.lock();
        let mut held = inner.line.at(step);
        held.evict();
        MemoryBlocker::with(held, inner.room, self.boots)
    }

    /// See [`Crashable::fail_at`]. A commit that fails keeps the old record in view, but a later crash may show the new one.
    pub fn fail_at(&self, step: u64, errno: i32) {
        self.inner.lock().line.fail_at(step, errno);
    }

    /// See [`Crashable::clear_failures`].
    pub fn clear_failures(&self) {
        self.inner.lock().line.clear_failures();
    }

    /// See [`Crashable::drop_syncs`]. Commits of records count as syncs of files; new objects, records and names as
    /// entries of directories.
    pub fn drop_syncs(&self, what: Syncs) {
        self.inner.lock().syncs = what;
    }

    /// All objects.
    pub fn taken(&self) -> Vec<Taken<Object>> {
        self.inner.lock().held().taken().collect()
    }

    /// See [`Crashable::forget_history`].
    pub fn forget_history(&self) {
        self.inner.lock().line.forget(|_| {});
    }

    /// See [`Crashable::set_space`]. Only objects count, not records and names.
    pub fn set_space(&self, total: u64, free: u64) {
        let mut inner = self.inner.lock();
        inner.room = Some(Room::new(total, free, inner.line.live().used()));
    }
}

impl Crashable for MemoryBlocker {
    fn steps(&self) -> u64 {
        self.steps()
    }
    fn crash_at(&self, step: u64, seed: u64) -> Arc<MemoryBlocker> {
        self.crash_at(step, seed)
    }
    fn kill_at(&self, step: u64) -> Arc<MemoryBlocker> {
        self.kill_at(step)
    }
    fn evict_at(&self, step: u64) -> Arc<MemoryBlocker> {
        self.evict_at(step)
    }
    fn fail_at(&self, step: u64, errno: i32) {
        self.fail_at(step, errno)
    }
    fn clear_failures(&self) {
        self.clear_failures()
    }
    fn drop_syncs(&self, what: Syncs) {
        self.drop_syncs(what)
    }
    fn forget_history(&self) {
        self.forget_history()
    }
    fn set_space(&self, total: u64, free: u64) {
        self.set_space(total, free)
    }
}

impl Inner {
    fn held(&self) -> &Held {
        self.line.live()
    }

    /// One counted step; `failed` is what it does if it was planned to fail.
    fn step(&mut self, op: Op, failed: Op, what: &'static str, object: impl ToString) -> Result<()> {
        let result = self.line.step(op, failed);
        result.map_err(|errno| Error::io(what, object.to_string(), io::Error::from_raw_os_error(errno)))
    }

    /// Pages that may still be taken.
    fn left(&self) -> u64 {
        self.room.map_or(u64::MAX, |room| room.left(self.held().used()))
    }

    /// The content of an object, if it has some; a log or pack that is missing is damaged.
    fn pages(&self, object: Object) -> Result<Option<&Pages>> {
        match (self.held().content(object), object) {
            (Some(content), _) => Ok(Some(content.current())),
            (None, Object::Data(..) | Object::Sum(..)) => Ok(None),
            (None, _) => Err(missing(object)),
        }
    }
}

fn missing(object: Object) -> Error {
    Error::damaged(object.to_string(), "cut short: it is missing")
}

/// The end of a range, if offsets can express it.
fn range_end(object: Object, offset: u64, len: u64) -> Result<u64> {
    match offset.checked_add(len) {
        Some(end) if end <= i64::MAX as u64 => Ok(end),
        _ => Err(Error::InvalidArgument(format!(
            "{object}: {len} bytes at offset {offset} are beyond what offsets express"
        ))),
    }
}

fn check_record(key: RecordKey, bytes: &[u8]) -> Result<()> {
    if bytes.len() > MAX_RECORD {
        let text = format!("{key}: a record of {} bytes is longer than the limit of {MAX_RECORD}", bytes.len());
        return Err(Error::InvalidArgument(text));
    }
    Ok(())
}

impl Blocker for MemoryBlocker {
    fn create(&self, object: Object, head: &[u8], len: u64) -> Result<()> {
        if head.len() as u64 > len {
            return Err(Error::InvalidArgument(format!("{object}: a head of {} bytes in {len}", head.len())));
        }
        let mut inner = self.inner.lock();
        if inner.held().content(object).is_some() {
            return Err(Error::Exists(object.to_string()));
        }
        if len.div_ceil(PAGE) > inner.left() {
            return Err(Error::NoSpace(object.to_string()));
        }
        let durable = !inner.syncs.directories();
        inner.step(Op::Create { object, head: head.to_vec(), len, durable }, Op::Nothing, "create", object)
    }

    fn read(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let inner = self.inner.lock();
        let end = range_end(object, offset, bufs.iter().map(|buf| buf.len() as u64).sum())?;
        let Some(pages) = inner.pages(object)? else {
            return if end == offset { Ok(()) } else { Err(missing(object)) };
        };
        let len = pages.len();
        if end > len && end > offset {
            return Err(Error::damaged(object.to_string(), format!("cut short: it ends at {len}, before {end}")));
        }
        let mut at = offset;
        for buf in bufs {
            pages.read(at, buf);
            at += buf.len() as u64;
        }
        Ok(())
    }

    fn read_some(&self, object: Object, buf: &mut [u8], offset: u64) -> Result<usize> {
        let inner = self.inner.lock();
        let Some(content) = inner.held().content(object) else { return Ok(0) };
        let there = content.current().len().saturating_sub(offset).min(buf.len() as u64) as usize;
        if there > 0 {
            content.current().read(offset, &mut buf[..there]);
        }
        Ok(there)
    }

    fn write(&self, object: Object, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let mut inner = self.inner.lock();
        let end = range_end(object, offset, bufs.iter().map(|buf| buf.len() as u64).sum())?;
        inner.pages(object)?;
        let empty = Content::default();
        let content = inner.held().content(object).unwrap_or(&empty);
        let fits = content.current().end_within(offset, end, inner.left());
        if fits > offset {
            let change = content.prepare_write(bufs, offset, fits);
            inner.step(Op::Change { object, change }, Op::Nothing, "write", object)?;
        }
        if fits < end { Err(Error::NoSpace(object.to_string())) } else { Ok(()) }
    }

    fn punch(&self, object: Object, offset: u64, len: u64) -> Result<()> {
        let mut inner = self.inner.lock();
        range_end(object, offset, len)?;
        if len == 0 || inner.held().content(object).is_none() {
            return Ok(());
        }
        inner.step(Op::Change { object, change: Change::Punch { offset, len } }, Op::Nothing, "punch", object)
    }

    fn sync(&self, objects: &[Object]) -> Result<()> {
        let mut inner = self.inner.lock();
        for object in objects.iter().copied() {
            if inner.held().content(object).is_some() {
                let op = if inner.syncs.files() { Op::Nothing } else { Op::Sync(object) };
                inner.step(op, Op::FailedSync(object), SYNC, object)?;
            }
        }
        Ok(())
    }

    fn len(&self, object: Object) -> Result<Option<u64>> {
        Ok(self.inner.lock().held().content(object).map(|content| content.current().len()))
    }

    fn remove(&self, object: Object) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.held().content(object).is_none() {
            return Ok(());
        }
        inner.step(Op::Remove(object), Op::Nothing, "remove", object)
    }

    fn objects(&self, volume: VolumeId) -> Result<Vec<Object>> {
        Ok(self.inner.lock().held().objects(volume))
    }

    fn put(&self, digest: Digest, bytes: &[u8]) -> Result<bool> {
        match self.create(Object::Content(digest), bytes, bytes.len() as u64) {
            Err(Error::Exists(_)) => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn content_len(&self, digest: Digest) -> Result<Option<u64>> {
        self.len(Object::Content(digest))
    }

    fn contents(&self, first: u8) -> Result<Vec<Digest>> {
        Ok(self.inner.lock().held().contents(first))
    }

    fn sync_contents(&self, _first: u8) -> Result<()> {
        // What can be seen is durable already.
        Ok(())
    }

    fn content_tables(&self) -> Result<Vec<Object>> {
        Ok(self.inner.lock().held().tables())
    }

    fn inventory(&self, part: u8) -> Result<Inventory> {
        let inner = self.inner.lock();
        let objects = inner
            .held()
            .all_objects()
            .filter(|object| object.volume().0 != 0 && object.volume().0 as u8 == part)
            .collect();
        Ok(Inventory { objects, locks: Vec::new() })
    }

    fn allocated(&self, object: Object) -> Result<u64> {
        let inner = self.inner.lock();
        Ok(inner.held().content(object).map_or(0, |content| content.current().count() * PAGE))
    }

    fn create_record(&self, key: RecordKey, bytes: &[u8]) -> Result<()> {
        check_record(key, bytes)?;
        let mut inner = self.inner.lock();
        if inner.held().record(key).is_some() {
            return Err(Error::Exists(key.to_string()));
        }
        let durable = !inner.syncs.directories();
        inner.step(Op::NewRecord { key, bytes: bytes.to_vec(), durable }, Op::Nothing, "create", key)
    }

    fn create_named(&self, batch: &[(VolumeId, String, Vec<u8>)]) -> Result<()> {
        let mut inner = self.inner.lock();
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        for (volume, name, bytes) in batch {
            let key = RecordKey::Header(*volume);
            check_record(key, bytes)?;
            if inner.held().record(key).is_some() || !ids.insert(volume) {
                return Err(Error::Exists(key.to_string()));
            }
            if inner.held().names().contains_key(name) || !names.insert(name) {
                return Err(Error::Exists(name.clone()));
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let batch: Batch = batch.into();
        let dropped = inner.syncs.directories();
        let sync = |op| if dropped { Op::Nothing } else { op };
        inner.step(Op::Headers(batch.clone()), Op::Nothing, "create", "catalog")?;
        inner.step(sync(Op::HeadersDurable(batch.clone())), Op::Nothing, "sync", "catalog")?;
        inner.step(Op::Names(batch.clone()), Op::Nothing, "create", "names")?;
        inner.step(sync(Op::NamesDurable(batch.clone())), Op::UnbindAll(batch), "sync", "names")
    }

    fn read_record(&self, key: RecordKey) -> Result<Record> {
        let inner = self.inner.lock();
        inner.held().record(key).cloned().ok_or_else(|| Error::NotFound(key.to_string()))
    }

    fn commit_record(&self, key: RecordKey, expected: u64, bytes: &[u8]) -> Result<u64> {
        check_record(key, bytes)?;
        let mut inner = self.inner.lock();
        match inner.held().record(key) {
            None => return Err(Error::NotFound(key.to_string())),
            Some(record) if record.version != expected => return Err(Error::Stale(key.to_string())),
            Some(_) => {}
        }
        let version = expected + 1;
        let record = Arc::new(Record { version, bytes: bytes.to_vec() });
        let durable = !inner.syncs.files();
        let op = Op::Commit { key, record: record.clone(), durable };
        inner.step(op, Op::FailedCommit { key, record }, "commit", key)?;
        Ok(version)
    }

    fn settle_record(&self, key: RecordKey, version: u64) -> Result<()> {
        let mut inner = self.inner.lock();
        match inner.held().record(key) {
            None => return Err(Error::NotFound(key.to_string())),
            Some(record) if record.version != version => return Err(Error::Stale(key.to_string())),
            Some(_) if inner.held().is_settled(key) => return Ok(()),
            Some(_) => {}
        }
        let op = if inner.syncs.files() { Op::Nothing } else { Op::Settle(key) };
        inner.step(op, Op::Nothing, "settle", key)
    }

    fn trash_header(&self, volume: VolumeId) -> Result<()> {
        let key = RecordKey::Header(volume);
        let mut inner = self.inner.lock();
        if inner.held().record(key).is_none() {
            return Err(Error::NotFound(key.to_string()));
        }
        inner.step(Op::CopyToTrash(volume), Op::Nothing, "rename", key)?;
        inner.step(Op::DropHeader(volume), Op::Nothing, "rename", key)
    }

    fn remove_record(&self, key: RecordKey) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.held().record(key).is_none() {
            return Ok(());
        }
        inner.step(Op::RemoveRecord(key), Op::Nothing, "remove", key)
    }

    fn headers(&self) -> Result<Vec<VolumeId>> {
        let header = |key| if let RecordKey::Header(volume) = key { Some(volume) } else { None };
        Ok(self.inner.lock().held().record_keys().filter_map(header).collect())
    }

    fn trashed(&self) -> Result<Vec<VolumeId>> {
        let trash = |key| if let RecordKey::Trash(volume) = key { Some(volume) } else { None };
        Ok(self.inner.lock().held().record_keys().filter_map(trash).collect())
    }

    fn bind_name(&self, name: &str, volume: VolumeId) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.held().names().contains_key(name) {
            return Err(Error::Exists(name.to_string()));
        }
        let key = RecordKey::Header(volume);
        if inner.held().record(key).is_none() {
            return Err(Error::NotFound(key.to_string()));
        }
        let durable = !inner.syncs.directories();
        inner.step(Op::Bind { name: name.to_string(), volume, durable }, Op::Nothing, "bind", name)
    }

    fn unbind_name(&self, name: &str) -> Result<()> {
        let mut inner = self.inner.lock();
        if !inner.held().names().contains_key(name) {
            return Ok(());
        }
        inner.step(Op::Unbind(name.to_string()), Op::Nothing, "unbind", name)
    }

    fn lookup(&self, name: &str) -> Result<Option<VolumeId>> {
        Ok(self.inner.lock().held().names().get(name).copied())
    }

    fn names(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let inner = self.inner.lock();
        let from = after.map_or(prefix, |after| after.max(prefix)).to_string();
        let names = inner.held().names().range(from..).map(|(name, _)| name);
        let names = names.skip_while(|name| after.is_some_and(|after| name.as_str() <= after));
        Ok(names.take_while(|name| name.starts_with(prefix)).take(limit).cloned().collect())
    }

    fn lock(&self, volume: VolumeId, mode: LockMode, owner: &[u8]) -> Result<LockOutcome> {
        check_owner(owner)?;
        let mut locks = self.locks.lock();
        let holders = locks.entry(volume).or_default();
        if holders.exclusive || (mode == LockMode::Exclusive && holders.shared > 0) {
            return Ok(LockOutcome::Refused(holders.owner.clone()));
        }
        match mode {
            LockMode::Exclusive => {
                holders.exclusive = true;
                holders.owner = owner.to_vec();
            }
            LockMode::Shared => holders.shared += 1,
        }
        Ok(LockOutcome::Held(Box::new(Guard { locks: self.locks.clone(), volume, mode })))
    }

    fn lock_holder(&self, volume: VolumeId) -> Result<Option<Vec<u8>>> {
        let locks = self.locks.lock();
        Ok(locks.get(&volume).filter(|holders| holders.exclusive).map(|holders| holders.owner.clone()))
    }

    fn boot(&self) -> Boot {
        sim::boot(self.boots)
    }

    fn space(&self) -> Result<Space> {
        let inner = self.inner.lock();
        Ok(match inner.room {
            Some(room) => Space { total: room.total, free: inner.left() * PAGE },
            None => Space { total: UNLIMITED, free: UNLIMITED },
        })
    }
}

#[cfg(test)]
mod tests;
