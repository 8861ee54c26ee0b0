//! The file of a cache: its head, and the ring of records behind that.

use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;

use super::CacheOptions;
use crate::blocker::LockMode;
use crate::blocker::VolumeId;
use crate::blocker::real_sys::{LEAVE, RealSys};
use crate::blocker::sys::{Fd, Open, Sys};
use crate::error::{Error, Result};
use crate::format::cache_log::{CacheHead, CacheRecord, HEAD_PLACE, RECORD, RING};
use crate::limits::{ATOM, MAX_CACHED_WRITE};
use crate::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are written at once when a file is made.
const STEP: usize = 1 << 20;

/// The open file, which no other process has.
pub struct CacheFile {
    sys: Arc<dyn Sys>,
    fd: Fd,
    open: AtomicBool,
    /// As people know it.
    shown: String,
}

/// A record, and where it is in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Its head.
    pub record: CacheRecord,
    /// Where it begins in the ring.
    pub place: u64,
    /// Bytes of the ring that it takes, with those before it that were left out because it did not fit behind them.
    pub taken: u64,
}

impl Placed {
    /// Where the next record is, or 0.
    pub fn behind(&self, ring: u64) -> u64 {
        match self.place + self.record.size() {
            end if end >= ring => 0,
            end => end,
        }
    }

    /// Where its payload is in the file.
    pub fn payload_at(&self) -> u64 {
        RING + self.place + RECORD as u64
    }
}

impl Drop for CacheFile {
    fn drop(&mut self) {
        self.close();
    }
}

impl CacheFile {
    /// Opens the file that is named, and makes an empty one if there is none.
    pub fn open(options: &CacheOptions) -> Result<CacheFile> {
        let path: &Path = &options.path;
        let shown = path.display().to_string();
        let failed = |e| Error::io("open", format!("the cache {shown}"), e);
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(Error::InvalidArgument(format!("{shown}: is not the path of a file, so it can be no cache")));
        };
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let sys = RealSys::open(dir, 0o600, LEAVE).map_err(failed)?;
        CacheFile::open_on(Arc::new(sys), name, &shown)
    }

    /// The same in the directory of a system.
    pub fn open_on(sys: Arc<dyn Sys>, name: &str, shown: &str) -> Result<CacheFile> {
        let shown = format!("the cache {shown}");
        let fd = sys.open(name, Open::Create).map_err(|e| Error::io("open", &shown, e))?;
        let file = CacheFile { sys, fd, open: AtomicBool::new(true), shown };
        match file.sys.try_lock(fd, LockMode::Exclusive) {
            Ok(true) => Ok(file),
            Ok(false) => Err(Error::Busy(file.shown.clone())),
            Err(e) => Err(file.failed("lock", e)),
        }
    }

    /// Lets others have the file. The caller sees to it that nobody uses it any more.
    pub fn close(&self) {
        if self.open.swap(false, Ordering::AcqRel) {
            self.sys.close(self.fd);
        }
    }

    /// Whether it was not closed.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Its name.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    fn failed(&self, what: &'static str, error: io::Error) -> Error {
        Error::io(what, &self.shown, error)
    }

    /// The newest head; `None` if the file is empty, or its making was cut short.
    pub fn head(&self) -> Result<Option<CacheHead>> {
        let len = self.sys.len(self.fd).map_err(|e| self.failed("look at", e))?;
        let mut pages = [[0; ATOM]; 2];
        for (number, page) in pages.iter_mut().enumerate() {
            let at = number as u64 * HEAD_PLACE;
            self.sys.preadv(self.fd, &mut [IoSliceMut::new(page)], at).map_err(|e| self.failed("read", e))?;
        }
        let decoded = pages.each_ref().map(|page| CacheHead::decode(&self.shown, page));
        let newest = decoded.iter().flatten().max_by_key(|head| head.number).copied();
        if let Some(head) = newest {
            return if len >= RING + head.ring {
                Ok(Some(head))
            } else {
                Err(Error::damaged(&self.shown, "cut short"))
            };
        }
        // One whose making was cut short has no head.
        if pages == [[0; ATOM]; 2] {
            return Ok(None);
        }
        match decoded {
            [Err(Error::Damaged { .. }), Err(Error::Damaged { .. })] => {
                Err(Error::damaged(&self.shown, "no head of a cache is whole in it"))
            }
            [first, second] => first.and(second).map(Some),
        }
    }

    /// Whether nothing but zeros is in it, so that it may become a cache.
    pub fn is_blank(&self) -> Result<bool> {
        let len = self.sys.len(self.fd).map_err(|e| self.failed("look at", e))?;
        let mut buf = vec![0; STEP];
        let mut at = 0;
        while at < len {
            let read = self.sys.preadv(self.fd, &mut [IoSliceMut::new(&mut buf)], at);
            let read = read.map_err(|e| self.failed("read", e))?;
            if read == 0 || buf[..read].iter().any(|byte| *byte != 0) {
                return Ok(read == 0);
            }
            at += read as u64;
        }
        Ok(true)
    }

    /// Makes it an empty cache: its room is written, so that records need none, and the head comes last.
    pub fn make(&self, head: &CacheHead) -> Result<()> {
        let failed = |e| self.failed("make", e);
        let end = RING + head.ring;
        let zeros = vec![0; STEP];
        // Durably, so that a file whose making is cut short has nothing but zeros in it.
        self.sys.ftruncate(self.fd, 0).map_err(failed)?;
        self.sys.fdatasync(self.fd).map_err(failed)?;
        self.sys.ftruncate(self.fd, end).map_err(failed)?;
        let mut at = 0;
        while at < end {
            let len = (end - at).min(STEP as u64);
            self.sys.pwritev(self.fd, &[IoSlice::new(&zeros[..len as usize])], at).map_err(failed)?;
            at += len;
        }
        self.sys.fdatasync(self.fd).map_err(failed)?;
        self.sys.sync_dir(".").map_err(failed)?;
        self.put_head(head)
    }

    /// Writes a head, durably.
    pub fn put_head(&self, head: &CacheHead) -> Result<()> {
        let written = self.sys.pwritev(self.fd, &[IoSlice::new(&head.encode())], head.offset());
        written.and_then(|()| self.sys.fdatasync(self.fd)).map_err(|e| self.failed("write the head of", e))
    }

    /// Writes a record: its head, its payload and what fills it up.
    pub fn write(&self, bytes: &[u8], place: u64) -> Result<()> {
        self.sys.pwritev(self.fd, &[IoSlice::new(bytes)], RING + place).map_err(|e| self.failed("write", e))
    }

    /// Makes all that was written durable.
    pub fn sync(&self) -> Result<()> {
        self.sys.fdatasync(self.fd).map_err(|e| self.failed("sync", e))
    }

    /// Fills buffers from a place in the file.
    pub fn read(&self, bufs: &mut [IoSliceMut<'_>], at: u64) -> Result<()> {
        let wanted: usize = bufs.iter().map(|buf| buf.len()).sum();
        match self.sys.preadv(self.fd, bufs, at) {
            Ok(read) if read == wanted => Ok(()),
            Ok(_) => Err(Error::damaged(&self.shown, "cut short")),
            Err(e) => Err(self.failed("read", e)),
        }
    }

    /// The records from the head's on, as far as they follow each other.
    pub fn records(&self, head: &CacheHead) -> Result<Vec<Placed>> {
        let mut all: Vec<Placed> = Vec::new();
        let (mut place, mut seq, mut generation, mut taken) = (head.place, head.seq, 0, 0);
        loop {
            let skipped = head.ring - place;
            let found = match self.record(head, place, seq, generation)? {
                Some(record) => Some(Placed { record, place, taken: record.size() }),
                // It did not fit in front of the end.
                None if place > 0 => (self.record(head, 0, seq, generation)?)
                    .filter(|record| place + record.size() > head.ring)
                    .map(|record| Placed { record, place: 0, taken: record.size() + skipped }),
                None => None,
            };
            let Some(found) = found.filter(|found| taken + found.taken <= head.ring) else { return Ok(all) };
            all.push(found);
            (place, seq, generation) = (found.behind(head.ring), seq + 1, found.record.generation);
            taken += found.taken;
        }
    }

    /// The whole record at a place, if it is the one that is looked for.
    fn record(&self, head: &CacheHead, place: u64, seq: u64, generation: u64) -> Result<Option<CacheRecord>> {
        let mut bytes = [0; RECORD];
        if place + RECORD as u64 > head.ring {
            return Ok(None);
        }
        self.read(&mut [IoSliceMut::new(&mut bytes)], RING + place)?;
        let Some((record, sum)) = CacheRecord::decode(&bytes) else { return Ok(None) };
        let wanted = record.id == head.id
            && record.seq == seq
            && (generation..=head.generation).contains(&record.generation)
            && record.payload() <= MAX_CACHED_WRITE as u64
            && place + record.size() <= head.ring;
        if !wanted {
            return Ok(None);
        }
        let mut payload = vec![0; record.payload() as usize];
        self.read(&mut [IoSliceMut::new(&mut payload)], RING + place + RECORD as u64)?;
        Ok((CacheRecord::sum(&bytes, &payload) == sum).then_some(record))
    }

    /// Writes records that were read anew and makes them durable: after a failed sync of who wrote them, the system may show bytes that it does
    /// not intend to write any more.
    pub fn write_again(&self, records: &[Placed]) -> Result<()> {
        for placed in records {
            let mut bytes = vec![0; placed.record.size() as usize];
            self.read(&mut [IoSliceMut::new(&mut bytes)], RING + placed.place)?;
            self.write(&bytes, placed.place)?;
        }
        self.sync()
    }

    /// The volume for which the file was made, if it is not this one.
    pub fn check_owner(&self, head: &CacheHead, store: &[u8; 16], volume: VolumeId) -> Result<()> {
        if head.store == *store && head.volume == volume {
            return Ok(());
        }
        Err(Error::InvalidArgument(format!(
            "{}: is the cache of volume {} of another name or store; give each volume a file of its own, or remove this one",
            self.shown, head.volume
        )))
    }
}
