//! Checksums of the data of sealed epochs: made by scrubbing, compared at every read.
//!
//! | File | Its job |
//! |---|---|
//! | `page` | the stored form, a page at a time |
//! | `sealed` | which epochs nobody writes any more |
//! | `walk` | going through the data that maps name: comparing, and making what is missing |
//! | `scrub`, `throttle` | one pass over a store, at a rate |
//!
//! A sector that a map names in a sealed epoch never changes again, and neither does its checksum: what is known stays true for as
//! long as anybody asks. docs/format.md, "Checksums of sealed epochs", has the sidecar and why it needs no order of writes.

use std::cell::RefCell;
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use smallvec::SmallVec;

use crate::blocker::{Blocker, Object, VolumeId};
use crate::checksum;
use crate::error::Result;
use crate::id_hash::BuildIdHasher;
use crate::limits::{SECTOR, SECTOR_SHIFT, SUM_CACHE, SUM_PATIENCE};
use crate::sync::atomic::AtomicU32;

mod page;
mod scrub;
mod sealed;
mod throttle;
mod walk;

use self::page::{PAGE_SECTORS, PageKey, SumPage};

pub(crate) use scrub::scrub;
pub use scrub::{ScrubOptions, ScrubProgress, ScrubReport};
pub(crate) use throttle::Throttle;
pub(crate) use walk::{Altered, Counts, Walk, named};

#[derive(Clone)]
struct Bytes;

impl Weighter<PageKey, Arc<SumPage>> for Bytes {
    fn weight(&self, _: &PageKey, page: &Arc<SumPage>) -> u64 {
        page.weight()
    }
}

/// The checksums that a process remembers.
pub struct Sums {
    pages: Cache<PageKey, Arc<SumPage>, Bytes, BuildIdHasher>,
    patience: u32,
}

/// Pages of one request: one, or two where it crosses a border, unless it is very long.
type Pages = SmallVec<[Arc<SumPage>; 2]>;

impl Sums {
    /// Nothing remembered yet. Without `patience` what is not known is looked for at every read.
    pub fn new(patience: bool) -> Sums {
        let (pages, hasher) = ((SUM_CACHE / 4096) as usize, BuildIdHasher::default());
        let pages = Cache::with(pages, SUM_CACHE, Bytes, hasher, DefaultLifecycle::default());
        Sums { pages, patience: if patience { SUM_PATIENCE } else { 0 } }
    }

    /// Forgets a page, because there is more in it.
    fn forget(&self, key: PageKey) {
        self.pages.remove(&key);
    }

    /// A page, at least as new as is worth knowing. One that cannot be read is one that knows nothing: that is no reason not
    /// to read data.
    #[inline]
    fn page(&self, blocker: &dyn Blocker, key: PageKey, wanted: Range<u64>) -> Arc<SumPage> {
        match self.pages.get(&key) {
            Some(page) if page.all(wanted) || page.is_worth_waiting_for() => page,
            _ => self.read_page(blocker, key),
        }
    }

    #[cold]
    fn read_page(&self, blocker: &dyn Blocker, key: PageKey) -> Arc<SumPage> {
        let mut page = SumPage::read(blocker, key, &mut |_| {}).unwrap_or_default();
        page.patience = AtomicU32::new(self.patience);
        let page = Arc::new(page);
        self.pages.insert(key, page.clone());
        page
    }

    fn pages(&self, blocker: &dyn Blocker, owner: VolumeId, epoch: u64, sectors: &Range<u64>) -> Pages {
        let pages = sectors.start / PAGE_SECTORS..=(sectors.end - 1) / PAGE_SECTORS;
        let one = |page| {
            let key = PageKey { owner, epoch, page };
            let first = key.first();
            let wanted = sectors.start.max(first) - first..(sectors.end - first).min(PAGE_SECTORS);
            self.page(blocker, key, wanted)
        };
        pages.map(one).collect()
    }

    /// Reads bytes of a data object of a sealed epoch, and compares the sectors whose checksums are known, also those of which only a
    /// part was asked for. Returns the bytes of the object that are not what was written, as far as the first run of them
    /// goes, if a second reading says the same.
    pub fn read(
        &self,
        blocker: &dyn Blocker,
        (owner, epoch): (VolumeId, u64),
        bufs: &mut [IoSliceMut<'_>],
        at: u64,
    ) -> Result<Option<Range<u64>>> {
        let object = Object::Data(owner, epoch);
        let end = at + bufs.iter().map(|buf| buf.len() as u64).sum::<u64>();
        let sectors = at >> SECTOR_SHIFT..end.div_ceil(SECTOR);
        if at == end {
            return blocker.read(object, bufs, at).map(|()| None);
        }
        let (page, last) = (sectors.start / PAGE_SECTORS, (sectors.end - 1) / PAGE_SECTORS);
        if page == last {
            // As nearly always: then no list of pages is needed.
            let key = PageKey { owner, epoch, page };
            let first = key.first();
            let page = self.page(blocker, key, sectors.start - first..sectors.end - first);
            return read(blocker, object, &Known { pages: &[page], first: sectors.start }, &sectors, bufs, at, end);
        }
        let pages = self.pages(blocker, owner, epoch, &sectors);
        read(blocker, object, &Known { pages: &pages, first: sectors.start }, &sectors, bufs, at, end)
    }

    /// As [`Sums::read`], if the checksums are remembered and the bytes are at hand, and are what was written: otherwise `false`, and
    /// `buf` holds anything.
    pub fn read_at_once(
        &self,
        blocker: &dyn Blocker,
        (owner, epoch): (VolumeId, u64),
        buf: &mut [u8],
        at: u64,
    ) -> Result<bool> {
        let end = at + buf.len() as u64;
        let sectors = at >> SECTOR_SHIFT..end.div_ceil(SECTOR);
        let key = PageKey { owner, epoch, page: sectors.start / PAGE_SECTORS };
        let first = key.first();
        let Some(page) = self.pages.get(&key).filter(|_| sectors.end <= first + PAGE_SECTORS) else { return Ok(false) };
        let wanted = sectors.start - first..sectors.end - first;
        let (all, any) = (page.all(wanted.clone()), page.any(wanted));
        // What is not known of is looked for now and then, and parts of what is known need room to be compared.
        let whole = at.is_multiple_of(SECTOR) && end.is_multiple_of(SECTOR);
        if (!all && !page.is_worth_waiting_for()) || (any && !whole) {
            return Ok(false);
        }
        let bufs = &mut [IoSliceMut::new(buf)];
        let known = Known { pages: &[page], first: sectors.start };
        Ok(blocker.read_at_once(Object::Data(owner, epoch), bufs, at)? && (!any || known.compare(bufs, at).is_none()))
    }

    /// As [`Sums::compare`], by what is stored at this moment, whatever is remembered.
    pub fn compare_anew(
        &self,
        blocker: &dyn Blocker,
        (owner, epoch): (VolumeId, u64),
        bytes: &[u8],
        at: u64,
    ) -> Option<Range<u64>> {
        let pages = (at >> SECTOR_SHIFT) / PAGE_SECTORS..=((at + bytes.len() as u64) >> SECTOR_SHIFT) / PAGE_SECTORS;
        pages.for_each(|page| self.forget(PageKey { owner, epoch, page }));
        self.compare(blocker, (owner, epoch), bytes, at)
    }

    /// Compares bytes that were read from a data object of a sealed epoch: `bytes` from byte `at` on, both of whole sectors but for
    /// the end. As [`Sums::read`], without a second reading.
    pub fn compare(
        &self,
        blocker: &dyn Blocker,
        (owner, epoch): (VolumeId, u64),
        bytes: &[u8],
        at: u64,
    ) -> Option<Range<u64>> {
        let sectors = at >> SECTOR_SHIFT..(at + bytes.len() as u64) >> SECTOR_SHIFT;
        if sectors.is_empty() {
            return None;
        }
        let pages = self.pages(blocker, owner, epoch, &sectors);
        let known = Known { pages: &pages, first: sectors.start };
        let wrong = |sector: &u64| {
            let from = ((sector << SECTOR_SHIFT) - at) as usize;
            known.get(*sector).is_some_and(|sum| checksum::crc32c(&bytes[from..from + SECTOR as usize]) != sum)
        };
        let first = sectors.clone().find(wrong)?;
        let end = (first..sectors.end).find(|sector| !wrong(sector)).unwrap_or(sectors.end);
        Some(first << SECTOR_SHIFT..end << SECTOR_SHIFT)
    }
}

/// Reads bytes `at..end` of an object, which lie in `sectors`, and compares what is known of them.
fn read(
    blocker: &dyn Blocker,
    object: Object,
    known: &Known<'_>,
    sectors: &Range<u64>,
    bufs: &mut [IoSliceMut<'_>],
    at: u64,
    end: u64,
) -> Result<Option<Range<u64>>> {
    if !known.any(sectors) {
        return blocker.read(object, bufs, at).map(|()| None);
    }
    if at.is_multiple_of(SECTOR) && end.is_multiple_of(SECTOR) {
        return known.read(blocker, object, bufs, at);
    }
    if sectors.end - sectors.start == 1 {
        return known.read_part(blocker, object, bufs, at);
    }
    // What is there of the first and the last sector besides what was asked for.
    let (mut before, mut behind) = ([0; SECTOR as usize], [0; SECTOR as usize]);
    let (mut from, mut to) = (0, 0);
    if known.get(sectors.start).is_some() {
        from = (at % SECTOR) as usize;
    }
    if known.get(sectors.end - 1).is_some() {
        to = (end.next_multiple_of(SECTOR) - end) as usize;
    }
    let mut whole: SmallVec<[IoSliceMut<'_>; 8]> = SmallVec::with_capacity(bufs.len() + 2);
    whole.push(IoSliceMut::new(&mut before[..from]));
    whole.extend(bufs.iter_mut().map(|buf| IoSliceMut::new(buf)));
    whole.push(IoSliceMut::new(&mut behind[..to]));
    known.read(blocker, object, &mut whole, at - from as u64)
}

thread_local! {
    /// Where a sector is read of which less is wanted.
    static WHOLE: RefCell<[u8; SECTOR as usize]> = const { RefCell::new([0; SECTOR as usize]) };
}

/// What is known of the sectors of a request.
struct Known<'a> {
    /// Of each page that it touches.
    pages: &'a [Arc<SumPage>],
    /// Its first sector.
    first: u64,
}

impl Known<'_> {
    fn get(&self, sector: u64) -> Option<u32> {
        let page = self.pages.get((sector / PAGE_SECTORS - self.first / PAGE_SECTORS) as usize)?;
        page.get(sector % PAGE_SECTORS)
    }

    fn any(&self, sectors: &Range<u64>) -> bool {
        let mut first = sectors.start;
        self.pages.iter().any(|page| {
            let end = sectors.end.min((first / PAGE_SECTORS + 1) * PAGE_SECTORS);
            let part = first % PAGE_SECTORS..first % PAGE_SECTORS + (end - first);
            first = end;
            page.any(part)
        })
    }

    /// Reads, compares, and where that fails reads again: a disk may be mistaken once.
    fn read(
        &self,
        blocker: &dyn Blocker,
        object: Object,
        bufs: &mut [IoSliceMut<'_>],
        at: u64,
    ) -> Result<Option<Range<u64>>> {
        blocker.read(object, bufs, at)?;
        if self.compare(bufs, at).is_none() {
            return Ok(None);
        }
        blocker.forget(object, at, bufs.iter().map(|buf| buf.len() as u64).sum());
        blocker.read(object, bufs, at)?;
        Ok(self.compare(bufs, at))
    }

    /// As [`Known::read`], for a part of one sector that is known: all of it has to be read, which costs what a read of 4 KiB does.
    fn read_part(
        &self,
        blocker: &dyn Blocker,
        object: Object,
        bufs: &mut [IoSliceMut<'_>],
        at: u64,
    ) -> Result<Option<Range<u64>>> {
        WHOLE.with_borrow_mut(|whole| {
            let bad = self.read(blocker, object, &mut [IoSliceMut::new(whole)], at - at % SECTOR)?;
            if bad.is_none() {
                let mut rest = &whole[(at % SECTOR) as usize..];
                for buf in bufs {
                    let (wanted, behind) = rest.split_at(buf.len());
                    buf.copy_from_slice(wanted);
                    rest = behind;
                }
            }
            Ok(bad)
        })
    }

    /// The first bytes that are not those that were written. Of a sector that is known all bytes are there.
    fn compare(&self, bufs: &[IoSliceMut<'_>], at: u64) -> Option<Range<u64>> {
        let mut bad: Option<Range<u64>> = None;
        let (mut at, mut sum) = (at, 0);
        for buf in bufs {
            let mut rest = &buf[..];
            while !rest.is_empty() {
                let left = SECTOR - at % SECTOR;
                let (part, behind) = rest.split_at(rest.len().min(left as usize));
                let (sector, ends) = (at >> SECTOR_SHIFT, part.len() as u64 == left);
                (rest, at) = (behind, at + part.len() as u64);
                let Some(known) = self.get(sector) else { continue };
                sum = checksum::crc32c_append(sum, part);
                if !ends {
                    continue;
                }
                let wrong = std::mem::take(&mut sum) != known;
                let here = sector << SECTOR_SHIFT..(sector + 1) << SECTOR_SHIFT;
                match &mut bad {
                    None if wrong => bad = Some(here),
                    Some(bad) if wrong && bad.end == here.start => bad.end = here.end,
                    Some(_) if wrong => return bad,
                    _ => {}
                }
            }
        }
        bad
    }
}
