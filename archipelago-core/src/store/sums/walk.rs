//! Goes through the data that maps name: compares it with the checksums that are known, and makes those that are not.

use std::ops::Range;

use super::page::{PAGE_SECTORS, PageKey, SumPage};
use super::sealed::Sealed;
use crate::blocker::{Object, RecordKey, VolumeId};
use crate::checksum;
use crate::error::{Error, Result};
use crate::format::header::Header;
use crate::limits::{MARK_MEMORY, MAX_FINDINGS, SECTOR, SECTOR_SHIFT, SUM_BATCH};
use crate::store::catalog;
use crate::store::collect::mark::{self, Marker};
use crate::store::collect::marks::Marks;
use crate::store::content::redirect::Redirects;
use crate::store::shared::Shared;

/// Bytes of an object that are not what was written there, or cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Altered {
    /// The object.
    pub(crate) object: Object,
    /// First byte.
    pub(crate) from: u64,
    /// End.
    pub(crate) to: u64,
    /// What is wrong.
    pub(crate) detail: String,
    /// It can be found by its digest: wrong also where no map names it now.
    pub(crate) content: bool,
}

/// What all maps name, or those given, with their digests if asked for, how many they are, and why others could not be read. `step` is called with map entries and bytes read; its
/// error ends the walk.
pub(crate) fn named(
    shared: &Shared,
    only: &[VolumeId],
    digests: bool,
    step: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<(Marks, u64, Vec<String>)> {
    let mut marks = Marks::new(MARK_MEMORY);
    if digests {
        marks.remember_digests(shared.random()?);
    }
    let (mut maps, mut unreadable) = (0, Vec::new());
    let mut keys: Vec<RecordKey> = only.iter().map(|id| RecordKey::Header(*id)).collect();
    if only.is_empty() {
        // The catalogue first: headers move from there to the trash.
        keys.extend(shared.blocker.headers()?.into_iter().map(RecordKey::Header));
        keys.extend(shared.blocker.trashed()?.into_iter().map(RecordKey::Trash));
    }
    for key in keys {
        // Nothing that the header names is taken away before it is read.
        let _operation = shared.operations.begin();
        let mut find = || match key {
            RecordKey::Trash(id) => catalog::read_trashed(shared, id),
            RecordKey::Header(id) => catalog::read_header(shared, id),
            RecordKey::Store => Ok(None),
        };
        let mut stopped = None;
        let mut guarded = |entries, bytes| {
            step(entries, bytes).map_err(|error| {
                stopped = Some(error);
                Error::Timeout("walking maps was stopped, and".into())
            })
        };
        let read = find().and_then(|found| match found {
            Some(found) => {
                mark::newest(found, &mut find, &mut |header| mark_one(shared, &mut marks, header, &mut guarded))
                    .map(|_| true)
            }
            None => Ok(false),
        });
        if let Some(error) = stopped {
            return Err(error);
        }
        match read {
            Ok(counts) => maps += u64::from(counts),
            // What it alone names is not looked at. That it cannot be read is for `check` to explain.
            Err(error) => unreadable.push(error.to_string()),
        }
    }
    unreadable.truncate(MAX_FINDINGS);
    Ok((marks, maps, unreadable))
}

fn mark_one(
    shared: &Shared,
    marks: &mut Marks,
    header: &Header,
    step: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    Marker::new(&*shared.blocker, marks, step).header(header)
}

/// Called with the bytes that were read; its error ends the walk.
pub(crate) type Spend<'a> = dyn FnMut(&Counts, u64) -> Result<()> + 'a;

/// What a walk came by, in bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Is what its checksum says.
    pub(crate) verified: u64,
    /// Has a checksum now.
    pub(crate) made: u64,
    /// Has none.
    pub(crate) without: u64,
    /// Was right only when it was read again.
    pub(crate) healed: u64,
    /// Is not what its checksum says, or cannot be read.
    pub(crate) altered: u64,
    /// Atoms of checksums that are not what was written.
    pub(crate) broken: u64,
}

/// Whether all of a data object is stored, so that checksums of it may be believed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    Unasked,
    Yes,
    /// A sync of it failed in this process: what it shows may be stored nowhere.
    No,
}

/// A walk under way.
pub(crate) struct Walk<'a> {
    shared: &'a Shared,
    sealed: Sealed<'a>,
    /// Make what is missing, and look past what the system keeps in memory.
    make: bool,
    /// What was found.
    pub(crate) counts: Counts,
    /// Where it was not right.
    pub(crate) altered: Vec<Altered>,
    first: Vec<u8>,
    second: Vec<u8>,
    /// Of the data object at hand.
    made_durable: Durable,
    /// Data objects of which nothing was made, and why.
    pub(crate) refused: Vec<String>,
    /// Bytes with new checksums since these were synced.
    unsynced: u64,
}

impl<'a> Walk<'a> {
    /// A walk that only compares, or one that makes checksums too: then the caller holds the lock of scrubbing.
    pub(crate) fn new(shared: &'a Shared, make: bool) -> Walk<'a> {
        Walk {
            shared,
            sealed: Sealed::new(shared),
            make,
            counts: Counts::default(),
            altered: Vec::new(),
            first: vec![0; (PAGE_SECTORS << SECTOR_SHIFT) as usize],
            second: Vec::new(),
            made_durable: Durable::Unasked,
            refused: Vec::new(),
            unsynced: 0,
        }
    }

    /// Whether an epoch is sealed.
    pub(crate) fn is_sealed(&mut self, owner: VolumeId, epoch: u64) -> Result<bool> {
        self.sealed.contains(owner, epoch)
    }

    /// Goes through ranges of a data object, given in bytes, in order, of whole sectors. Of an epoch that is not sealed nothing may be
    /// made.
    pub(crate) fn epoch(
        &mut self,
        owner: VolumeId,
        epoch: u64,
        ranges: &[Range<u64>],
        spend: &mut Spend<'_>,
    ) -> Result<()> {
        self.made_durable = Durable::Unasked;
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut page = 0;
        for range in ranges {
            let (mut at, end) = (range.start >> SECTOR_SHIFT, range.end >> SECTOR_SHIFT);
            while at < end {
                let here = at / PAGE_SECTORS;
                if here != page {
                    self.page(PageKey { owner, epoch, page }, &mut runs, spend)?;
                    page = here;
                }
                let stop = end.min((here + 1) * PAGE_SECTORS);
                runs.push(at..stop);
                at = stop;
            }
        }
        self.page(PageKey { owner, epoch, page }, &mut runs, spend)?;
        if self.unsynced > 0 {
            self.shared.blocker.sync(&[Object::Sum(owner, epoch)])?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// The sectors of one page; takes them from `runs`.
    fn page(&mut self, key: PageKey, runs: &mut Vec<Range<u64>>, spend: &mut Spend<'_>) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        let mut read = 0;
        {
            // What is collected meanwhile is named by nobody; but a place that is given back is not read half.
            let _operation = self.shared.operations.begin();
            let blocker = &*self.shared.blocker;
            let mut broken = 0;
            // One that cannot be read is made anew.
            let page = SumPage::read(blocker, key, &mut |_| broken += 1);
            self.counts.broken += broken + u64::from(page.is_err());
            let mut page = page.unwrap_or_default();
            let first = key.first();
            if self.make && runs.iter().any(|run| !page.all(run.start - first..run.end - first)) {
                self.make_durable(key)?;
            }
            let mut new = Vec::new();
            for run in runs.drain(..) {
                read += (run.end - run.start) << SECTOR_SHIFT;
                self.run(key, &page, run, &mut new)?;
            }
            if !new.is_empty() {
                page.write(blocker, key, &new)?;
                self.shared.sums.forget(key);
                self.counts.made += (new.len() as u64) << SECTOR_SHIFT;
                self.unsynced += (new.len() as u64) << SECTOR_SHIFT;
                if self.unsynced >= SUM_BATCH {
                    blocker.sync(&[key.object()])?;
                    self.unsynced = 0;
                }
            }
        }
        spend(&self.counts, read)
    }

    fn make_durable(&mut self, key: PageKey) -> Result<()> {
        if self.made_durable != Durable::Unasked {
            return Ok(());
        }
        self.made_durable = match self.shared.blocker.sync(&[Object::Data(key.owner, key.epoch)]) {
            Ok(()) => Durable::Yes,
            Err(error @ Error::Poisoned(_)) => {
                self.refused.push(error.to_string());
                Durable::No
            }
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// Reads neighbouring sectors and compares them. Those without a checksum get one if two readings agree: a disk that was
    /// mistaken once must not make good data look bad for ever.
    fn run(&mut self, key: PageKey, page: &SumPage, run: Range<u64>, new: &mut Vec<(u64, u32)>) -> Result<()> {
        let blocker = &*self.shared.blocker;
        let object = Object::Data(key.owner, key.epoch);
        let (at, len) = (run.start << SECTOR_SHIFT, ((run.end - run.start) << SECTOR_SHIFT) as usize);
        let first = key.first();
        if self.make && page.all(run.start - first..run.end - first) {
            blocker.forget(object, at, len as u64);
        }
        // What is not there is for `check` to say: it looks at lengths.
        let there = match blocker.read_some(object, &mut self.first[..len], at) {
            Ok(there) => there,
            Err(_) => return self.piecewise(key, page, run),
        };
        let mut again = Vec::new();
        for (sector, bytes) in run.clone().zip(self.first[..there].chunks_exact(SECTOR as usize)) {
            let sum = checksum::crc32c(bytes);
            match page.get(sector - first) {
                Some(known) if known == sum => self.counts.verified += SECTOR,
                None if !self.make || self.made_durable == Durable::No => self.counts.without += SECTOR,
                known => again.push((sector, sum, known)),
            }
        }
        if again.is_empty() {
            return Ok(());
        }
        self.second.resize(self.first.len(), 0);
        blocker.forget(object, at, len as u64);
        let Ok(there) = blocker.read_some(object, &mut self.second[..len], at) else {
            return self.piecewise(key, page, run);
        };
        let mut bad: Vec<u64> = Vec::new();
        for (sector, sum, known) in again {
            let from = ((sector - run.start) << SECTOR_SHIFT) as usize;
            let Some(bytes) = self.second[..there].get(from..from + SECTOR as usize) else { continue };
            let second = checksum::crc32c(bytes);
            match known {
                None if second == sum => new.push((sector - first, sum)),
                None => self.counts.without += SECTOR,
                Some(known) if known == second => {
                    self.counts.healed += SECTOR;
                    self.counts.verified += SECTOR;
                }
                Some(_) => bad.push(sector),
            }
        }
        for sector in bad {
            if !self.is_moved(key, sector)? {
                self.lose(object, sector, "it is not what was written: its checksum is another".into());
            }
        }
        Ok(())
    }

    /// Finds the sectors of a run that cannot be read. Those that can are compared and nothing is made of them: the next
    /// pass does, if they still can.
    fn piecewise(&mut self, key: PageKey, page: &SumPage, run: Range<u64>) -> Result<()> {
        let object = Object::Data(key.owner, key.epoch);
        let mut bytes = [0; SECTOR as usize];
        for sector in run {
            match self.shared.blocker.read_some(object, &mut bytes, sector << SECTOR_SHIFT) {
                Ok(there) if there < bytes.len() => {}
                Ok(_) => match page.get(sector - key.first()) {
                    None => self.counts.without += SECTOR,
                    Some(known) if known == checksum::crc32c(&bytes) => self.counts.verified += SECTOR,
                    Some(_) if self.is_moved(key, sector)? => {}
                    Some(_) => self.lose(object, sector, "it is not what was written: its checksum is another".into()),
                },
                Err(error) => self.lose(object, sector, format!("it cannot be read: {error}")),
            }
        }
        Ok(())
    }

    fn lose(&mut self, object: Object, sector: u64, detail: String) {
        self.counts.altered += SECTOR;
        let (from, to) = (sector << SECTOR_SHIFT, (sector + 1) << SECTOR_SHIFT);
        let full = self.altered.len() >= MAX_FINDINGS;
        match self.altered.last_mut() {
            Some(last) if (last.object, last.to) == (object, from) && last.detail == detail => last.to = to,
            // With more of them one would not read the list any more; the sum is told.
            _ if full => {}
            _ => self.altered.push(Altered { object, from, to, detail, content: false }),
        }
    }

    /// Whether a sector lies in a slot whose content is somewhere else: then nobody reads it.
    fn is_moved(&self, key: PageKey, sector: u64) -> Result<bool> {
        let mut redirects = Redirects::new(&*self.shared.blocker);
        let Ok(Some(head)) = redirects.head(key.owner, key.epoch) else { return Ok(false) };
        let block = sector >> (u32::from(head.shift) - SECTOR_SHIFT);
        match redirects.entry(key.owner, key.epoch, block) {
            Ok(entry) => Ok(entry.is_some_and(|entry| entry.moved)),
            Err(Error::Damaged { .. } | Error::TooNew { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
