//! The open files of the file backend: a bounded cache, and what is known about each file's durability.
//!
//! There is at most one descriptor per object part, so that its unsynced writes are counted in one place. A file with
//! unsynced writes, or whose directory entry is not durable yet, stays open whatever the budget: closing it could lose
//! the report of a failed write-back. How many these are is up to the caller, who decides when to sync; nothing is
//! ever synced behind its back.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use super::direct::{Bounces, Direct};
use super::names;
use crate::blocker::sys::{Fd, Open, Sys};
use crate::blocker::{Object, VolumeId};
use crate::id_hash::BuildIdHasher;

/// Independent parts of the cache; all files of a volume are in one of them.
const SHARDS: usize = 16;
/// Facts of one kind kept per shard: past it they are forgotten (`settled`), or taken to hold for all (`failed`).
const MAX_FACTS: usize = 4096;

/// Times that a directory is made for one file before something must be wrong: a collector takes empty ones away once in its run.
const DIR_ROUNDS: usize = 8;

/// An open part of an object.
pub(super) struct OpenFile {
    sys: Arc<dyn Sys>,
    pub(super) fd: Fd,
    /// How it is read and written, if that is past the page cache.
    pub(super) direct: Option<Direct>,
    writable: bool,
    /// Written since the last sync. Set after each write, and before the writer drops its reference.
    dirty: AtomicBool,
    /// Its directory entry was made by this backend and is not durable yet.
    new_entry: AtomicBool,
    failed: AtomicBool,
    /// One sync at a time: whoever finds the file clean knows that the sync which made it clean has ended.
    syncing: Mutex<()>,
    /// When it was last looked up, in look-ups of its shard, of which some may be lost.
    used: AtomicU64,
}

/// How the sync of one file ended, if not well.
pub(super) enum SyncFailure {
    /// The system's word; reported once.
    Now(io::Error),
    /// It failed before.
    Before,
}

impl OpenFile {
    /// Reads until `bufs` are full or the file ends; returns the bytes read.
    #[inline(always)]
    pub(super) fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        match &self.direct {
            None => self.sys.preadv(self.fd, bufs, offset),
            Some(direct) => direct.read(&*self.sys, self.fd, bufs, offset),
        }
    }

    /// Reads if no disk has to be waited for, otherwise `None`.
    #[inline(always)]
    pub(super) fn read_at_once(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<Option<usize>> {
        if self.direct.is_some() { Ok(None) } else { self.sys.preadv_at_once(self.fd, bufs, offset) }
    }

    /// Writes all of `bufs`.
    #[inline(always)]
    pub(super) fn write(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        match &self.direct {
            None => self.sys.pwritev(self.fd, bufs, offset),
            Some(direct) => direct.write(&*self.sys, self.fd, bufs, offset),
        }
    }

    /// To be called after every attempt to change the file, failed ones included.
    pub(super) fn mark_dirty(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    pub(super) fn is_new_entry(&self) -> bool {
        self.new_entry.load(Ordering::Acquire)
    }

    pub(super) fn entry_is_durable(&self) {
        self.new_entry.store(false, Ordering::Release);
    }

    /// Makes all writes that ended before this call durable; with `force`, also those of a former process.
    pub(super) fn sync(&self, force: bool) -> Result<(), SyncFailure> {
        let _one = self.syncing.lock();
        if self.failed.load(Ordering::Acquire) {
            return Err(SyncFailure::Before);
        }
        if self.dirty.swap(false, Ordering::AcqRel) || force {
            self.sys.fdatasync(self.fd).map_err(|e| {
                self.failed.store(true, Ordering::Release);
                SyncFailure::Now(e)
            })?;
        }
        Ok(())
    }

    fn is_pinned(&self) -> bool {
        self.dirty.load(Ordering::Acquire) || self.is_new_entry()
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.sys.close(self.fd);
    }
}

/// How a file is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// For reading.
    Read,
    /// For writing, if it exists.
    Write,
    /// For writing; created if it does not exist.
    Create,
}

/// The open parts of an object, which are hardly ever more than one, in no order.
type Parts = SmallVec<[(u32, Arc<OpenFile>); 1]>;

/// By object, and not by object and part: a sync wants all parts.
#[derive(Default)]
struct Files(HashMap<Object, Parts, BuildIdHasher>);

impl Files {
    fn get(&self, object: Object, part: u32) -> Option<&Arc<OpenFile>> {
        self.0.get(&object)?.iter().find(|(number, _)| *number == part).map(|(_, file)| file)
    }

    /// Returns what was there.
    fn insert(&mut self, object: Object, part: u32, file: Arc<OpenFile>) -> Option<Arc<OpenFile>> {
        let parts = self.0.entry(object).or_default();
        match parts.iter_mut().find(|(number, _)| *number == part) {
            Some((_, there)) => Some(std::mem::replace(there, file)),
            None => {
                parts.push((part, file));
                None
            }
        }
    }

    /// Takes out those that `which` wants.
    fn take(&mut self, mut which: impl FnMut(Object, u32, &mut Arc<OpenFile>) -> bool) -> Vec<Arc<OpenFile>> {
        let mut taken = Vec::new();
        self.0.retain(|object, parts| {
            parts.retain(|(part, file)| {
                let wanted = which(*object, *part, file);
                if wanted {
                    taken.push(file.clone());
                }
                !wanted
            });
            !parts.is_empty()
        });
        taken
    }
}

#[derive(Default)]
struct Shard {
    files: RwLock<Files>,
    /// Held while a file is opened or its name removed: two openers never make two descriptors of one file.
    opening: Mutex<()>,
    facts: Mutex<Facts>,
    ticks: AtomicU64,
}

impl Shard {
    /// Counts a look-up. Not in one step, which would cost every request: of two at the same moment one may be lost, and then
    /// two files were used equally long ago.
    fn tick(&self) -> u64 {
        let now = self.ticks.load(Ordering::Relaxed);
        self.ticks.store(now + 1, Ordering::Relaxed);
        now
    }
}

#[derive(Default)]
struct Facts {
    /// Objects of which nothing written before is waiting: not by a former process, whose writes and new files may
    /// still be in memory only, and not by this one outside of its open files.
    settled: BTreeSet<Object>,
    /// Objects whose sync failed.
    failed: BTreeSet<Object>,
    /// More syncs failed than `failed` holds.
    all_failed: bool,
}

/// The cache.
pub(super) struct Descriptors {
    sys: Arc<dyn Sys>,
    shards: [Shard; SHARDS],
    open: AtomicUsize,
    /// Idle files kept open.
    max: usize,
    /// Where requests go through that do not lie as a disk wants them; `None` if nothing goes past the page cache.
    bounces: Option<Arc<Bounces>>,
}

impl Descriptors {
    /// With `direct`, data goes past the page cache.
    pub(super) fn new(sys: Arc<dyn Sys>, max: usize, direct: bool) -> Descriptors {
        let bounces = direct.then(|| Arc::new(Bounces::default()));
        Descriptors { sys, shards: Default::default(), open: AtomicUsize::new(0), max: max.max(1), bounces }
    }

    /// Whether anything goes past the page cache.
    pub(super) fn goes_direct(&self) -> bool {
        self.bounces.is_some()
    }

    /// Whether reads and writes of this object go past the page cache.
    pub(super) fn is_direct(&self, object: Object) -> bool {
        self.bounces.is_some() && matches!(object, Object::Data(..))
    }

    /// From now on a file of this object is read and written past the page cache, if it is to be, and can.
    fn bypass(&self, object: Object, fd: Fd) -> Option<Direct> {
        let bounces = self.bounces.as_ref().filter(|_| self.is_direct(object))?;
        // What fails here is that the file cannot be asked; through the page cache it can be used all the same.
        let units = self.sys.bypass(fd).ok().flatten()?;
        Some(Direct::new(units, bounces.clone()))
    }

    fn shard(&self, object: Object) -> &Shard {
        self.shard_of(names::spread(object))
    }

    fn shard_of(&self, spread: u64) -> &Shard {
        // Ids are random. The low byte, which already chooses the directory, is left out only because small test ids
        // then still spread.
        &self.shards[(spread ^ spread >> 32) as usize % SHARDS]
    }

    /// The file of an object part, if it is open for this.
    #[inline(always)]
    pub(super) fn opened(&self, object: Object, part: u32, access: Access) -> Option<Arc<OpenFile>> {
        let shard = self.shard(object);
        let files = shard.files.read();
        let file = files.get(object, part).filter(|file| file.writable || access == Access::Read)?;
        file.used.store(shard.tick(), Ordering::Relaxed);
        Some(file.clone())
    }

    /// The open file of an object part, opened if need be; `None` if it does not exist.
    pub(super) fn get(&self, object: Object, part: u32, access: Access) -> io::Result<Option<Arc<OpenFile>>> {
        if let Some(file) = self.opened(object, part, access) {
            return Ok(Some(file));
        }
        let shard = self.shard(object);
        let _opening = shard.opening.lock();
        if let Some(file) = self.opened(object, part, access) {
            return Ok(Some(file));
        }
        let path = names::object_path(object, part);
        let (fd, writable, new_entry) = match self.sys.open(&path, Open::ReadWrite) {
            Ok(fd) => (fd, true, false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if access != Access::Create {
                    return Ok(None);
                }
                // Exclusively, so that it is known whose duty it is to make the entry durable.
                match self.create_file(names::Dir::of(object), &path) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                        (self.sys.open(&path, Open::ReadWrite)?, true, false)
                    }
                    fd => (fd?, true, true),
                }
            }
            // Those who may only read the store, read it.
            Err(e) if access == Access::Read && matches!(e.raw_os_error(), Some(libc::EACCES | libc::EROFS)) => {
                (self.sys.open(&path, Open::Read)?, false, false)
            }
            Err(e) => return Err(e),
        };
        Ok(Some(self.insert(shard, object, part, (fd, writable, new_entry))))
    }

    /// Creates a file that must not exist, with its directory if need be.
    pub(super) fn create_file(&self, dir: names::Dir, path: &str) -> io::Result<Fd> {
        self.with_dir(dir, || self.sys.open(path, Open::CreateNew))
    }

    /// Makes a call that fails with ENOENT for want of a directory, and makes that directory if it does.
    pub(super) fn with_dir(&self, dir: names::Dir, call: impl Fn() -> io::Result<Fd>) -> io::Result<Fd> {
        let make = |path: &str| match self.sys.mkdir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        };
        let mut round = 0;
        loop {
            match call() {
                // More than once if a collector takes it away again while it is empty.
                Err(e) if e.kind() == io::ErrorKind::NotFound && round < DIR_ROUNDS => {
                    if matches!(dir, names::Dir::Content(_)) {
                        make(names::CONTENT)?;
                    }
                    make(&dir.path())?;
                    round += 1;
                }
                other => return other,
            }
        }
    }

    /// Takes over the descriptor of a file that was just created, and is durable with its entry.
    pub(super) fn adopt(&self, object: Object, part: u32, fd: Fd) {
        let shard = self.shard(object);
        let _opening = shard.opening.lock();
        self.insert(shard, object, part, (fd, true, false));
    }

    /// Keeps a descriptor, which is `writable`, or has a `new_entry`.
    fn insert(
        &self,
        shard: &Shard,
        object: Object,
        part: u32,
        (fd, writable, new_entry): (Fd, bool, bool),
    ) -> Arc<OpenFile> {
        let file = Arc::new(OpenFile {
            sys: self.sys.clone(),
            fd,
            direct: self.bypass(object, fd),
            writable,
            dirty: AtomicBool::new(false),
            new_entry: AtomicBool::new(new_entry),
            failed: AtomicBool::new(false),
            syncing: Mutex::new(()),
            used: AtomicU64::new(shard.tick()),
        });
        self.make_room(shard);
        // What is replaced here was opened for reading only, so nothing about it need be remembered.
        if shard.files.write().insert(object, part, file.clone()).is_none() {
            self.open.fetch_add(1, Ordering::Relaxed);
        }
        file
    }

    /// Closes files, least recently used first, until one more fits. Where all are in use or pinned, none is closed.
    fn make_room(&self, home: &Shard) {
        let others = self.shards.iter().filter(|shard| !std::ptr::eq(*shard, home));
        for shard in std::iter::once(home).chain(others) {
            while self.open.load(Ordering::Relaxed) >= self.max {
                let mut files = shard.files.write();
                let mut oldest = None;
                for (object, parts) in &mut files.0 {
                    for (part, file) in parts {
                        let this = (file.used.load(Ordering::Relaxed), *object, *part);
                        if is_idle(file) && oldest.is_none_or(|oldest| this < oldest) {
                            oldest = Some(this);
                        }
                    }
                }
                let Some((_, object, part)) = oldest else { break };
                let closed = files.take(|held, number, _| (held, number) == (object, part));
                drop(files);
                self.open.fetch_sub(closed.len(), Ordering::Relaxed);
            }
        }
    }

    /// The open parts of an object.
    pub(super) fn parts(&self, object: Object) -> Vec<Arc<OpenFile>> {
        let files = self.shard(object).files.read();
        files.0.get(&object).into_iter().flatten().map(|(_, file)| file.clone()).collect()
    }

    /// Forgets all of an object and calls `unlink`, while nobody can open it.
    pub(super) fn remove<R>(&self, object: Object, unlink: impl FnOnce() -> R) -> R {
        let shard = self.shard(object);
        let _opening = shard.opening.lock();
        self.drop_files(shard, |held, _| held == object);
        let mut facts = shard.facts.lock();
        facts.settled.remove(&object);
        facts.failed.remove(&object);
        drop(facts);
        unlink()
    }

    /// Forgets what another process may have changed while it had the volume. Files with unsynced writes, and failed
    /// syncs, are remembered.
    pub(super) fn reopen(&self, volume: VolumeId) {
        let shard = self.shard_of(volume.0);
        self.drop_files(shard, |held, file| held.volume() == volume && is_idle(file));
        shard.facts.lock().settled.retain(|object| object.volume() != volume);
    }

    /// Closes all files that nobody uses.
    pub(super) fn close_idle(&self) {
        for shard in &self.shards {
            self.drop_files(shard, |_, file| is_idle(file));
        }
    }

    fn drop_files(&self, shard: &Shard, mut which: impl FnMut(Object, &mut Arc<OpenFile>) -> bool) {
        let closed = shard.files.write().take(|object, _, file| which(object, file));
        self.open.fetch_sub(closed.len(), Ordering::Relaxed);
    }

    pub(super) fn is_settled(&self, object: Object) -> bool {
        self.shard(object).facts.lock().settled.contains(&object)
    }

    pub(super) fn settle(&self, object: Object) {
        let mut facts = self.shard(object).facts.lock();
        if facts.settled.len() >= MAX_FACTS {
            // Costs each of them a sync that was not needed, no more.
            facts.settled.clear();
        }
        facts.settled.insert(object);
    }

    pub(super) fn has_failed(&self, object: Object) -> bool {
        let facts = self.shard(object).facts.lock();
        facts.all_failed || facts.failed.contains(&object)
    }

    /// Remembers, for as long as this backend lives, that a sync of the object failed.
    pub(super) fn fail(&self, object: Object) {
        let mut facts = self.shard(object).facts.lock();
        if facts.failed.len() >= MAX_FACTS {
            facts.all_failed = true;
        } else {
            facts.failed.insert(object);
        }
    }

    #[cfg(test)]
    pub(super) fn open_files(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// Nobody uses it, and nothing is lost by closing it. To be asked under the write lock of the shard.
fn is_idle(file: &mut Arc<OpenFile>) -> bool {
    // `get_mut` and not the reference count: it orders the last user's `mark_dirty` before the look at the mark.
    Arc::get_mut(file).is_some_and(|file| !file.is_pinned())
}
