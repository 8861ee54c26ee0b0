//! A write-back cache: what is written to a volume is acknowledged from a file on a local disk, and brought into the volume in the same order
//! (docs/architecture.md, "Write-back cache").
//!
//! | File | Its job |
//! |---|---|
//! | `attach` | opening and making a cache, and what the volume's header says of it |
//! | `file` | the file: its head, and the ring of records |
//! | `index` | which bytes are newer in the cache |
//! | `drain` | bringing records into the volume |

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::path::PathBuf;
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::format::cache_log::{CacheHead, CacheRecord, Change, RECORD};
use crate::iov::{ReadCursor, part, total};
use crate::limits::{DEFAULT_CACHE_SIZE, MAX_CACHED_RECORDS, MAX_CACHED_WRITE, MAX_REQUEST, SECTOR};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, RwLock, RwLockWriteGuard};
use crate::volume::inner::Inner;

pub(crate) mod attach;
mod drain;
mod file;
mod index;

pub use attach::GivenUp;
use file::{CacheFile, Placed};
use index::{Index, Piece};

/// Where the cache of a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// A file on a local disk, which is made if it is not there. Each volume has one of its own.
    pub path: PathBuf,
    /// Bytes of writes that it holds before writers wait for the volume, if it is made now; see [`CacheOptions::new`].
    pub size: u64,
}

impl CacheOptions {
    /// A file of the usual size.
    pub fn new(path: impl Into<PathBuf>) -> CacheOptions {
        CacheOptions { path: path.into(), size: DEFAULT_CACHE_SIZE }
    }
}

/// The cache of an open volume. Locks are taken in the order of the fields: `admission`, `draining`, `log`, `index`; those of the volume are taken
/// behind the first two.
pub struct WriteBack {
    file: CacheFile,
    id: u64,
    generation: u64,
    ring: u64,
    /// Whether what the volume's backend took needs no sync.
    durable_at_once: bool,
    /// Held shared by whoever adds a record, exclusively to have none added.
    admission: RwLock<()>,
    /// The head as written last. Held by who brings records into the volume.
    draining: Mutex<CacheHead>,
    log: Mutex<Log>,
    /// Held shared while bytes are read from the file, so that their place is not used anew meanwhile.
    index: RwLock<Index>,
    /// A record was added, or it is the end.
    work: Condvar,
    /// Numbers the callers of flush.
    ticket: AtomicU64,
    /// Callers up to this one are served.
    flushed: Mutex<u64>,
    /// Something was written that no sync covered.
    unsynced: AtomicBool,
    /// The file failed: nothing is promised any more.
    failed: AtomicBool,
    /// Nothing is added any more.
    ended: AtomicBool,
    /// What brings records into the volume.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What of the ring is in use.
struct Log {
    /// Where the next record goes, if it fits in front of the end.
    place: u64,
    next_seq: u64,
    /// Bytes of the ring that are in use.
    used: u64,
    /// Records that may not be in the volume, oldest first.
    queue: VecDeque<Placed>,
}

impl Log {
    /// Where a record of this size goes, and what it takes; `None` if there is no room.
    fn room(&self, size: u64, ring: u64) -> Option<(u64, u64)> {
        let (place, taken) = match self.place + size <= ring {
            true => (self.place, size),
            false => (0, ring - self.place + size),
        };
        (self.used + taken <= ring && self.queue.len() < MAX_CACHED_RECORDS).then_some((place, taken))
    }

    fn push(&mut self, placed: Placed, ring: u64) {
        self.place = placed.behind(ring);
        self.used += placed.taken;
        self.next_seq = placed.record.seq + 1;
        self.queue.push_back(placed);
    }
}

/// While this lives, the cache is empty and nothing is added.
pub struct Still<'a> {
    _admission: RwLockWriteGuard<'a, ()>,
}

impl WriteBack {
    fn check(&self, inner: &Inner) -> Result<()> {
        if self.ended.load(Ordering::Acquire) {
            return Err(Error::NotOpen(inner.name()));
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::Poisoned(inner.name()));
        }
        inner.check()
    }

    /// After an error of the file nothing is promised until the volume is opened again.
    fn fail_stop<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    /// See [`crate::Volume::read`]. Out of the way of volumes without a cache, whose reads cost some hundred instructions.
    #[cold]
    #[inline(never)]
    pub fn read(&self, inner: &Inner, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let len = total(bufs) as u64;
        check_request(inner, offset, len)?;
        let index = self.index.read();
        // Behind the lock, which who closes the file takes.
        if inner.closed.load(Ordering::Acquire) {
            return Err(Error::NotOpen(inner.name()));
        }
        let parts = index.parts(offset, offset + len);
        if parts.iter().all(|(_, piece)| piece.is_none()) {
            drop(index);
            return inner.read(bufs, offset);
        }
        let mut cursor = ReadCursor::new(bufs);
        let mut elsewhere = Vec::new();
        let mut from = offset;
        for (end, piece) in parts {
            let mut slices = cursor.take((end - from) as usize);
            match piece {
                Some(Piece { at: Some(at), .. }) => self.file.read(&mut slices, at)?,
                Some(Piece { at: None, .. }) => slices.iter_mut().for_each(|slice| slice.fill(0)),
                None => elsewhere.push((from, slices)),
            }
            from = end;
        }
        // What is not in the index by now was in the volume before.
        drop(index);
        elsewhere.into_iter().try_for_each(|(from, mut slices)| inner.read(&mut slices, from))
    }

    /// See [`crate::Volume::write`]. Out of the way, as [`WriteBack::read`].
    #[cold]
    #[inline(never)]
    pub fn write(&self, inner: &Inner, bufs: &[IoSlice<'_>], offset: u64, fua: bool) -> Result<()> {
        inner.writer()?;
        let len = total(bufs);
        check_request(inner, offset, len as u64)?;
        // A small ring is one of a test.
        let most = MAX_CACHED_WRITE.min(self.ring as usize / 4);
        let mut at = 0;
        while at < len {
            let n = (len - at).min(most);
            self.add(inner, Change::Write, offset + at as u64, n as u64, &part(bufs, at, n))?;
            at += n;
        }
        if fua { self.flush(inner) } else { Ok(()) }
    }

    /// See [`crate::Volume::write_zeroes`].
    pub fn write_zeroes(&self, inner: &Inner, offset: u64, len: u64, allocate: bool, fua: bool) -> Result<()> {
        inner.writer()?;
        inner.check_range(offset, len)?;
        if len > 0 {
            // Without room kept, a part of a sector is written all the same.
            let change = if allocate { Change::Zeroes } else { Change::Discard };
            self.add(inner, change, offset, len, &[])?;
        }
        if fua { self.flush(inner) } else { Ok(()) }
    }

    /// See [`crate::Volume::discard`].
    pub fn discard(&self, inner: &Inner, offset: u64, len: u64) -> Result<()> {
        inner.check_range(offset, len)?;
        let (first, last) = (offset.next_multiple_of(SECTOR), (offset + len) / SECTOR * SECTOR);
        if first < last { self.write_zeroes(inner, first, last - first, false, false) } else { Ok(()) }
    }

    /// Adds a record; waits for the volume if there is no room.
    fn add(&self, inner: &Inner, change: Change, offset: u64, len: u64, bufs: &[IoSlice<'_>]) -> Result<()> {
        let _admission = self.admission.read();
        let mut bytes = Vec::new();
        loop {
            {
                let mut log = self.log.lock();
                self.check(inner)?;
                // Looked at behind the lock: a resize may have come between.
                inner.check_range(offset, len)?;
                let (id, generation, seq) = (self.id, self.generation, log.next_seq);
                let record = CacheRecord { change, id, generation, seq, offset, len };
                if let Some((place, taken)) = log.room(record.size(), self.ring)
                    && self.index.read().len() + 2 <= 2 * MAX_CACHED_RECORDS
                {
                    if bytes.is_empty() {
                        // A copy, so that what is written is what the checksum says, whatever a guest does to its buffer meanwhile.
                        bytes.resize(record.size() as usize, 0);
                        let mut at = RECORD;
                        for buf in bufs {
                            bytes[at..at + buf.len()].copy_from_slice(buf);
                            at += buf.len();
                        }
                    }
                    let payload = RECORD..RECORD + record.payload() as usize;
                    let head = record.encode(std::iter::once(&bytes[payload]));
                    bytes[..RECORD].copy_from_slice(&head);
                    self.fail_stop(self.file.write(&bytes, place))?;
                    self.unsynced.store(true, Ordering::Release);
                    let placed = Placed { record, place, taken };
                    self.index.write().insert(offset, piece_of(&placed));
                    log.push(placed, self.ring);
                    break;
                }
            }
            self.drain_some(inner)?;
        }
        self.work.notify_one();
        Ok(())
    }

    /// Makes what was added before this call durable where the cache is.
    pub fn flush(&self, inner: &Inner) -> Result<()> {
        let ticket = self.ticket.fetch_add(1, Ordering::AcqRel) + 1;
        let mut flushed = self.flushed.lock();
        if *flushed >= ticket {
            // A flush that began after this call did the work.
            return Ok(());
        }
        self.check(inner)?;
        let served = self.ticket.load(Ordering::Acquire);
        if self.unsynced.swap(false, Ordering::AcqRel) {
            self.fail_stop(self.file.sync())?;
        }
        *flushed = served;
        Ok(())
    }

    /// Makes durable what was added before, for who brings it into the volume: what is there is never newer than what a power cut leaves of the file.
    fn sync_file(&self) -> Result<()> {
        let _flushed = self.flushed.lock();
        if self.unsynced.swap(false, Ordering::AcqRel) { self.fail_stop(self.file.sync()) } else { Ok(()) }
    }

    /// Brings into the volume what was added before, and then has nothing added while the rest follows.
    pub fn still(&self, inner: &Inner) -> Result<Still<'_>> {
        self.settle(inner)?;
        let admission = self.admission.write();
        self.settle(inner)?;
        Ok(Still { _admission: admission })
    }
}

/// What a record makes of its range.
fn piece_of(placed: &Placed) -> Piece {
    let at = (placed.record.change == Change::Write).then(|| placed.payload_at());
    Piece { end: placed.record.offset + placed.record.len, seq: placed.record.seq, at }
}

fn check_request(inner: &Inner, offset: u64, len: u64) -> Result<()> {
    if len > MAX_REQUEST {
        return Err(Error::InvalidArgument(format!("a request of {len} bytes; at most {MAX_REQUEST} go at once")));
    }
    inner.check_range(offset, len)
}

impl Inner {
    /// The cache through which it is written.
    pub fn cache(&self) -> Option<&WriteBack> {
        self.cache.get().map(|cache| &**cache)
    }

    /// Makes what was written before durable in the store, past a cache.
    pub fn flush_through(&self) -> Result<()> {
        self.settle_cache()?;
        self.flush()
    }

    /// Brings what was written before into the volume. That may take long, so it is no operation for which a collection waits.
    pub fn settle_cache(&self) -> Result<()> {
        self.cache().map_or(Ok(()), |cache| cache.settle(self))
    }

    /// For who changes or shares the volume as a whole: nothing that was acknowledged is outside of it, and nothing is while this lives.
    pub fn still(&self) -> Result<Option<Still<'_>>> {
        self.cache().map(|cache| cache.still(self)).transpose()
    }
}
