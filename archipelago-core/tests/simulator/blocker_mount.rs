//! A whole backend, in memory or in a cluster, as one simulated process sees it: its own locks, and its own trouble.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::{
    Blocker, Boot, Inventory, LockGuard, LockMode, LockOutcome, Object, Record, RecordKey, Space, VolumeId,
};
use archipelago_core::{Digest, Error, Result};
use parking_lot::Mutex;

use crate::wire::{Call, Lie, Planted, Turn, Wire, flip, has_sums};

type Locks = Arc<Mutex<(u64, BTreeMap<u64, Box<dyn LockGuard>>)>>;

/// One process's view of a shared backend.
pub struct BlockerMount {
    disk: Arc<dyn Blocker>,
    /// The same, if it can be told to let a call fail, and how it leaves what that was to change.
    failing: Option<Arc<MemoryBlocker>>,
    wire: Arc<Wire>,
    locks: Locks,
    /// Syncs that a planted bug holds back.
    late: Mutex<Vec<Object>>,
}

/// A lock in the mount's table, from which the death of the process takes it too.
struct Guard {
    locks: Locks,
    number: u64,
}

impl LockGuard for Guard {
    fn remove(self: Box<Self>) -> Result<()> {
        let guard = self.locks.lock().1.remove(&self.number);
        guard.map_or_else(|| Err(gone("remove")), |guard| guard.remove())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let guard = self.locks.lock().1.remove(&self.number);
        drop(guard);
    }
}

fn gone(what: &'static str) -> Error {
    Error::io(what, "a disk of a process that was killed, or that fails", io::Error::from_raw_os_error(libc::EIO))
}

impl BlockerMount {
    pub fn new(disk: Arc<dyn Blocker>, failing: Option<Arc<MemoryBlocker>>, wire: Arc<Wire>) -> Arc<BlockerMount> {
        Arc::new(BlockerMount { disk, failing, wire, locks: Locks::default(), late: Mutex::default() })
    }

    /// Drops the locks of a killed process.
    pub fn close_all(&self) {
        let locks = std::mem::take(&mut self.locks.lock().1);
        drop(locks);
    }

    fn change(&self, what: &str, object: &dyn Fn() -> String) -> Result<()> {
        self.call(Call::Other, what, object)
    }

    /// The same, for a call whose costs are looked at.
    fn call(&self, call: Call, what: &str, object: &dyn Fn() -> String) -> Result<()> {
        self.wire.note(call);
        match self.wire.change(what, object) {
            Turn::Go => Ok(()),
            Turn::Fail => match &self.failing {
                Some(disk) => {
                    disk.fail_at(disk.steps() + 1, libc::EIO);
                    Ok(())
                }
                None => Err(gone("write")),
            },
            Turn::Dead => {
                self.close_all();
                Err(gone("write"))
            }
        }
    }

    fn look(&self) -> Result<()> {
        match self.wire.read() {
            Turn::Go => Ok(()),
            _ => Err(gone("read")),
        }
    }

    /// How a read lies, if it does and somebody can notice.
    fn lie(&self, object: Object, offset: u64, len: u64) -> Option<Lie> {
        match object {
            Object::Pack(..) | Object::Sum(..) => self.wire.checked_read(false),
            Object::Log(..) => self.wire.checked_read(true),
            Object::Data(owner, epoch) => {
                let sums = |buf: &mut [u8], at| self.disk.read_some(Object::Sum(owner, epoch), buf, at).unwrap_or(0);
                has_sums((owner, epoch), offset, len, sums).then(|| self.wire.checked_read(false)).flatten()
            }
            _ => None,
        }
    }

    fn alive(&self) -> Result<()> {
        if self.wire.is_dead() { Err(gone("look into")) } else { Ok(()) }
    }

    fn sync_now(&self, objects: &[Object]) -> Result<()> {
        match self.disk.sync(objects) {
            Err(_) if self.wire.planted() == Some(Planted::RetrySync) => self.disk.sync(objects),
            other => other,
        }
    }

    fn sync_late(&self) -> Result<()> {
        let late = std::mem::take(&mut *self.late.lock());
        self.sync_now(&late)
    }
}

impl Blocker for BlockerMount {
    fn create(&self, object: Object, head: &[u8], len: u64) -> Result<()> {
        self.call(Call::Create { object, len }, "create", &|| object.to_string())?;
        self.disk.create(object, head, len)
    }

    fn read(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        self.look()?;
        let lie = self.lie(object, offset, bufs.iter().map(|b| b.len() as u64).sum());
        self.disk.read(object, bufs, offset)?;
        match lie {
            None => {}
            Some(Lie::Bit(bit)) => flip(bufs, bit),
            Some(Lie::Misdirected) => {
                bufs.iter_mut().for_each(|b| b.fill(0));
                // Behind the end the disk shows what it pleases.
                let _ = self.disk.read(object, bufs, offset + 512);
            }
        }
        Ok(())
    }

    fn write(&self, object: Object, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.call(Call::Write { object, offset, len }, "write", &|| format!("{object} at {offset}"))?;
        self.disk.write(object, bufs, offset)
    }

    fn punch(&self, object: Object, offset: u64, len: u64) -> Result<()> {
        self.call(Call::Punch { object, offset, len }, "punch", &|| format!("{object} {offset}+{len}"))?;
        self.disk.punch(object, offset, len)
    }

    fn sync(&self, objects: &[Object]) -> Result<()> {
        self.call(Call::Sync(objects.to_vec()), "sync", &|| format!("{objects:?}"))?;
        let held = |object: &Object| match self.wire.planted() {
            Some(Planted::DataAfterJournal) => matches!(object, Object::Data(..)),
            Some(Planted::NodesAfterHeader) => matches!(object, Object::Pack(..)),
            _ => false,
        };
        let (late, now): (Vec<Object>, Vec<Object>) = objects.iter().partition(|o| held(o));
        self.late.lock().extend(late);
        self.sync_now(&now)?;
        if self.wire.planted() == Some(Planted::DataAfterJournal) && now.iter().any(|o| matches!(o, Object::Log(..))) {
            self.sync_late()?;
        }
        Ok(())
    }

    fn len(&self, object: Object) -> Result<Option<u64>> {
        self.alive()?;
        self.disk.len(object)
    }

    fn remove(&self, object: Object) -> Result<()> {
        self.change("remove", &|| object.to_string())?;
        self.disk.remove(object)
    }

    fn objects(&self, volume: VolumeId) -> Result<Vec<Object>> {
        self.alive()?;
        self.disk.objects(volume)
    }

    fn parts(&self) -> Result<Vec<u8>> {
        self.alive()?;
        self.disk.parts()
    }

    fn content_parts(&self) -> Result<Vec<u8>> {
        self.alive()?;
        self.disk.content_parts()
    }

    fn hole(&self, object: Object) -> u64 {
        self.disk.hole(object)
    }

    fn inventory(&self, part: u8) -> Result<Inventory> {
        self.look()?;
        self.disk.inventory(part)
    }

    fn allocated(&self, object: Object) -> Result<u64> {
        self.alive()?;
        self.disk.allocated(object)
    }

    fn read_some(&self, object: Object, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.look()?;
        let lie = match object {
            Object::Data(..) | Object::Sum(..) => self.lie(object, offset, buf.len() as u64),
            _ => None,
        };
        let there = self.disk.read_some(object, buf, offset)?;
        match lie {
            None => {}
            Some(Lie::Bit(bit)) => flip(&mut [IoSliceMut::new(&mut buf[..there])], bit),
            Some(Lie::Misdirected) => {
                buf.fill(0);
                self.disk.read_some(object, &mut buf[..there], offset + 512)?;
            }
        }
        Ok(there)
    }

    fn put(&self, digest: Digest, bytes: &[u8]) -> Result<bool> {
        self.change("put", &|| digest.to_string())?;
        self.disk.put(digest, bytes)
    }

    fn content_len(&self, digest: Digest) -> Result<Option<u64>> {
        self.alive()?;
        self.disk.content_len(digest)
    }

    fn contents(&self, first: u8) -> Result<Vec<Digest>> {
        self.look()?;
        self.disk.contents(first)
    }

    fn sync_contents(&self, first: u8) -> Result<()> {
        self.alive()?;
        self.disk.sync_contents(first)
    }

    fn content_tables(&self) -> Result<Vec<Object>> {
        self.look()?;
        self.disk.content_tables()
    }

    fn create_record(&self, key: RecordKey, bytes: &[u8]) -> Result<()> {
        self.change("create_record", &|| key.to_string())?;
        self.disk.create_record(key, bytes)
    }

    fn create_named(&self, batch: &[(VolumeId, String, Vec<u8>)]) -> Result<()> {
        self.change("create_named", &|| format!("{} headers", batch.len()))?;
        self.disk.create_named(batch)
    }

    fn read_record(&self, key: RecordKey) -> Result<Record> {
        self.look()?;
        self.disk.read_record(key)
    }

    fn commit_record(&self, key: RecordKey, expected: u64, bytes: &[u8]) -> Result<u64> {
        self.call(Call::Commit(key), "commit_record", &|| key.to_string())?;
        let version = self.disk.commit_record(key, expected, bytes)?;
        if self.wire.planted() == Some(Planted::NodesAfterHeader) {
            self.sync_late()?;
        }
        Ok(version)
    }

    fn settle_record(&self, key: RecordKey, version: u64) -> Result<()> {
        self.change("settle_record", &|| key.to_string())?;
        self.disk.settle_record(key, version)
    }

    fn trash_header(&self, volume: VolumeId) -> Result<()> {
        self.change("trash_header", &|| volume.to_string())?;
        self.disk.trash_header(volume)
    }

    fn remove_record(&self, key: RecordKey) -> Result<()> {
        self.change("remove_record", &|| key.to_string())?;
        self.disk.remove_record(key)
    }

    fn headers(&self) -> Result<Vec<VolumeId>> {
        self.look()?;
        self.disk.headers()
    }

    fn trashed(&self) -> Result<Vec<VolumeId>> {
        self.look()?;
        self.disk.trashed()
    }

    fn bind_name(&self, name: &str, volume: VolumeId) -> Result<()> {
        self.change("bind_name", &|| name.to_string())?;
        self.disk.bind_name(name, volume)
    }

    fn unbind_name(&self, name: &str) -> Result<()> {
        self.change("unbind_name", &|| name.to_string())?;
        self.disk.unbind_name(name)
    }

    fn lookup(&self, name: &str) -> Result<Option<VolumeId>> {
        self.look()?;
        self.disk.lookup(name)
    }

    fn names(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        self.look()?;
        self.disk.names(prefix, after, limit)
    }

    fn lock(&self, volume: VolumeId, mode: LockMode, owner: &[u8]) -> Result<LockOutcome> {
        self.alive()?;
        match self.disk.lock(volume, mode, owner)? {
            LockOutcome::Held(guard) => {
                let mut locks = self.locks.lock();
                locks.0 += 1;
                let number = locks.0;
                locks.1.insert(number, guard);
                Ok(LockOutcome::Held(Box::new(Guard { locks: self.locks.clone(), number })))
            }
            refused => Ok(refused),
        }
    }

    fn lock_holder(&self, volume: VolumeId) -> Result<Option<Vec<u8>>> {
        self.alive()?;
        self.disk.lock_holder(volume)
    }

    fn boot(&self) -> Boot {
        self.disk.boot()
    }

    fn space(&self) -> Result<Space> {
        self.alive()?;
        self.disk.space()
    }
}
