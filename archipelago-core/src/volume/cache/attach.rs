//! Opening and making a cache, and what the header of its volume says of it.
//!
//! The header names the cache from before the first write is acknowledged by it until all is in the volume. Who opens the volume without this cache is
//! refused, wherever that is.

use std::collections::VecDeque;
use std::sync::Arc;

use super::file::CacheFile;
use super::index::Index;
use super::{Log, WriteBack, piece_of};
use crate::blocker::sys::Sys;
use crate::error::{Error, Result};
use crate::format::cache_log::{CacheHead, RECORD};
use crate::format::cached::Cached;
use crate::format::header::Header;
use crate::limits::{MAX_CACHE_SIZE, MIN_CACHE_SIZE};
use crate::store::Background;
use crate::store::shared::Shared;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, RwLock};
use crate::volume::CacheOptions;
use crate::volume::inner::Inner;

/// A cache whose newest writes were given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Its id, as the header of the volume named it.
    pub id: u64,
    /// The host on which it is or was.
    pub host: String,
}

/// A file that is to be the cache of a volume.
pub struct Wanted {
    file: CacheFile,
    ring: u64,
}

impl Wanted {
    /// The file that the options name. Nothing in it is changed, but it is made if it is not there.
    pub fn new(options: &CacheOptions) -> Result<Wanted> {
        if !(MIN_CACHE_SIZE..=MAX_CACHE_SIZE).contains(&options.size) {
            return Err(Error::InvalidArgument(format!(
                "a cache of {} bytes; it has {MIN_CACHE_SIZE} to {MAX_CACHE_SIZE}",
                options.size
            )));
        }
        Ok(Wanted { file: CacheFile::open(options)?, ring: options.size / RECORD as u64 * RECORD as u64 })
    }

    /// A file on a simulated disk.
    pub fn simulated(sys: Arc<dyn Sys>, name: &str, ring: u64) -> Result<Wanted> {
        Ok(Wanted { file: CacheFile::open_on(sys, name, name)?, ring })
    }
}

/// How a file becomes the cache of a volume.
pub enum Beginning {
    /// It is the one that the header names.
    Again(CacheHead),
    /// With nothing in it; the head of what it was before, if that was a cache of the volume too.
    Empty(Option<CacheHead>),
}

/// Refuses a volume whose newest writes are in a cache, to who has no cache.
pub fn check_none(header: &Header) -> Result<()> {
    match &header.cached {
        None => Ok(()),
        Some(cached) => Err(not_at_hand(header, cached, "which was not named".into())),
    }
}

fn not_at_hand(header: &Header, cached: &Cached, why: String) -> Error {
    let (name, Cached { id, host }) = (&header.name, cached);
    Error::Cached(format!("{name}: its newest writes are in the cache {id:016x} on {host}, {why}"))
}

/// Looks whether the file is the one that the header names, or may become the volume's.
pub fn check(shared: &Shared, header: &Header, wanted: &Wanted) -> Result<Beginning> {
    let head = match wanted.file.head() {
        Err(error) if let Some(cached) = &header.cached => {
            return Err(not_at_hand(header, cached, error.to_string()));
        }
        other => other?,
    };
    if let Some(head) = &head {
        wanted.file.check_owner(head, &shared.superblock.uuid, header.id)?;
    }
    match (&header.cached, head) {
        (Some(cached), Some(head)) if head.id == cached.id => Ok(Beginning::Again(head)),
        (Some(cached), Some(head)) => {
            let why = format!("and {} is an older one ({:016x})", wanted.file.shown(), head.id);
            Err(not_at_hand(header, cached, why))
        }
        (Some(cached), None) => Err(not_at_hand(header, cached, format!("and {} is empty", wanted.file.shown()))),
        (None, None) if !wanted.file.is_blank()? => {
            Err(Error::InvalidArgument(format!("{}: has something else in it", wanted.file.shown())))
        }
        (None, head) => Ok(Beginning::Empty(head)),
    }
}

/// Gives a volume that was just opened its cache.
pub fn attach(inner: &Arc<Inner>, wanted: Wanted, beginning: Beginning) -> Result<()> {
    let shared = &inner.shared;
    let Wanted { file, ring } = wanted;
    let (head, records) = match beginning {
        Beginning::Again(head) => {
            let records = file.records(&head)?;
            file.write_again(&records)?;
            let head = CacheHead { number: head.number + 1, generation: head.generation + 1, ..head };
            file.put_head(&head)?;
            (head, records)
        }
        Beginning::Empty(before) => {
            let (store, id) = (shared.superblock.uuid, shared.random()?);
            let number = before.map_or(1, |before| before.number + 1);
            let head = CacheHead { number, store, volume: inner.id, id, ring, generation: 1, place: 0, seq: 1 };
            match before.is_some_and(|before| before.ring == ring) {
                // Its records are those of another id, and its room is there.
                true => file.put_head(&head)?,
                false => file.make(&head)?,
            }
            inner.commit_header(|h| h.cached = Some(Cached::new(id, &shared.owner().host)))?;
            (head, Vec::new())
        }
    };
    let mut index = Index::default();
    let mut log = Log { place: head.place, next_seq: head.seq, used: 0, queue: VecDeque::new() };
    for placed in records {
        index.insert(placed.record.offset, piece_of(&placed));
        log.push(placed, head.ring);
    }
    let cache = Arc::new(WriteBack {
        file,
        id: head.id,
        generation: head.generation,
        ring: head.ring,
        durable_at_once: inner.blocker().is_durable_at_once(),
        admission: RwLock::new(()),
        draining: Mutex::new(head),
        log: Mutex::new(log),
        index: RwLock::new(index),
        work: Condvar::new(),
        ticket: AtomicU64::new(0),
        flushed: Mutex::new(0),
        unsynced: AtomicBool::new(false),
        failed: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        thread: Mutex::new(None),
    });
    if shared.options.background == Background::Thread {
        cache.start(inner)?;
    }
    // Nobody else has the volume yet.
    let _ = inner.cache.set(cache);
    Ok(())
}

/// Forgets the cache of a volume that is open without it: what is not in the volume is lost.
pub fn give_up(inner: &Inner) -> Result<Option<GivenUp>> {
    let writer = inner.writer()?;
    let _commit = writer.commit.lock();
    inner.check()?;
    let cached = inner.header.lock().header.cached.clone();
    let Some(Cached { id, host }) = cached else { return Ok(None) };
    inner.commit_header(|h| h.cached = None)?;
    Ok(Some(GivenUp { id, host }))
}

impl WriteBack {
    /// Brings all that is left into the volume, which is being closed, and has the header say so. If that fails, the rest stays in the file for who
    /// opens the volume with it.
    pub fn finish(&self, inner: &Inner) -> Result<()> {
        let result = self.still(inner).and_then(|_still| {
            self.ended.store(true, Ordering::Release);
            give_up(inner).map(|_| ())
        });
        self.ended.store(true, Ordering::Release);
        {
            // With the lock, so that it is not missed by who looks just now.
            let _log = self.log.lock();
            self.work.notify_all();
        }
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
        result
    }

    /// Lets others have the file of a volume that is closed.
    pub fn close_file(&self) {
        let (_draining, _log, _index, _flushed) =
            (self.draining.lock(), self.log.lock(), self.index.write(), self.flushed.lock());
        self.file.close();
    }
}
