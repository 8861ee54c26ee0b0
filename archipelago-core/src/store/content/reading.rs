//! Reads the blocks of a map that is being hashed, ahead of the one that is hashed.

use std::io::IoSliceMut;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::blocker::{Object, VolumeId};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::bytes::is_zero;
use crate::format::node::{Extent, Source};
use crate::limits::SECTOR_SHIFT;
use crate::mapper::block_map::BlockMap;
use crate::mapper::view::MapView;
use crate::store::content::object::known;
use crate::store::content::redirect::Redirects;
use crate::volume::inner::Inner;

/// Blocks read ahead of the one that is hashed: reading never waits for hashing, nor the other way round.
const AHEAD: usize = 2;

/// The next blocks of a map, in order.
pub enum Step {
    /// So many blocks of zeros.
    Zeros(u64),
    /// A block whose digest is known, the slot that it is, if it is one, and the sectors that the map names of it.
    Known(Digest, Option<(VolumeId, u64)>, u64),
    /// A block that was read.
    Read(Filled),
}

/// A block that was read.
pub struct Filled {
    /// Its index.
    pub block: u64,
    /// Its bytes, as the map has them; zeros behind `len`.
    pub bytes: Vec<u8>,
    /// How many of them there are.
    pub len: usize,
    /// It is the slot of this owner and epoch, from its first to its last byte.
    pub slot: Option<(VolumeId, u64)>,
    /// Sectors that the map names without a gap from the first on, if it names no others.
    pub front: Option<u16>,
    /// Sectors that the map names.
    pub mapped: u64,
}

/// Goes through a map.
pub struct Reader<'a> {
    inner: &'a Inner,
    view: &'a MapView,
    redirects: Redirects<'a>,
    at: u64,
}

impl<'a> Reader<'a> {
    /// From the first block on. `inner` is the same map, open.
    pub fn new(inner: &'a Inner, view: &'a MapView) -> Reader<'a> {
        Reader { inner, view, redirects: Redirects::new(inner.blocker()), at: 0 }
    }

    /// The next step; `None` at the end. A block that is read is read into `buffer`, which is taken only then.
    pub fn next(&mut self, buffer: &mut Option<Vec<u8>>) -> Result<Option<Step>> {
        // A slot that was not moved when it was looked for is there until this ends.
        let _operation = self.inner.shared.operations.begin();
        let (blocker, cache) = (self.inner.blocker(), &self.inner.shared.cache);
        let (blocks, shift) = (self.view.blocks(), self.view.tree.block_shift);
        if self.at >= blocks {
            return Ok(None);
        }
        let next = self.view.next_mapped(blocker, cache, self.at)?.map_or(blocks, |block| block.min(blocks));
        if next > self.at {
            let zeros = next - self.at;
            self.at = next;
            return Ok(Some(Step::Zeros(zeros)));
        }
        let block = self.at;
        self.at += 1;
        let map = self.view.block(blocker, cache, block)?;
        let room = (self.view.size - (block << shift)).min(1 << shift);
        let slot = one_slot(&map);
        match known(&self.inner.shared, &mut self.redirects, &map, block, room, 1 << shift)? {
            Some(Digest::ZERO) => return Ok(Some(Step::Zeros(1))),
            Some(digest) => return Ok(Some(Step::Known(digest, slot, map.mapped()))),
            None => {}
        }
        let mut bytes = buffer.take().unwrap_or_default();
        bytes.resize(1 << shift, 0);
        let front = match map.extents() {
            [Extent { start: 0, len, .. }] => Some(*len),
            _ => None,
        };
        let filled = match slot {
            Some((owner, epoch)) if self.inner.shared.contents.moved(blocker, owner, epoch, block)?.is_none() => {
                self.read_slot(block, &map, room, owner, epoch, &mut bytes)?
            }
            _ => None,
        };
        let (len, slot) = match filled {
            Some(len) => (len, slot),
            None => {
                self.inner.read(&mut [IoSliceMut::new(&mut bytes[..room as usize])], block << shift)?;
                (room as usize, None)
            }
        };
        Ok(Some(Step::Read(Filled { block, bytes, len, slot, front, mapped: map.mapped() })))
    }

    /// Reads a whole slot; `None` if it holds anything that the map does not show.
    fn read_slot(
        &self,
        block: u64,
        map: &BlockMap,
        room: u64,
        owner: VolumeId,
        epoch: u64,
        bytes: &mut [u8],
    ) -> Result<Option<usize>> {
        let object = Object::Data(owner, epoch);
        let read = self.inner.blocker().read_some(object, bytes, block << self.view.tree.block_shift)?;
        let end = map.extents().last().map_or(0, |e| u64::from(e.start + e.len) << SECTOR_SHIFT);
        if (read as u64) < end {
            let text = format!("cut short: {read} of {end} bytes of block {block} are there");
            return Err(Error::damaged(object.to_string(), text));
        }
        // What the map names has to be what it was; holes may have been made elsewhere.
        let (blocker, base) = (self.inner.blocker(), block << self.view.tree.block_shift);
        for extent in map.extents() {
            let mut from = usize::from(extent.start) << SECTOR_SHIFT;
            let to = usize::from(extent.start + extent.len) << SECTOR_SHIFT;
            let sums = &self.inner.shared.sums;
            while let Some(bad) = sums.compare(blocker, (owner, epoch), &bytes[from..to], base + from as u64) {
                // Read again, and refused in terms of the map if it is no better.
                let range = (bad.start - base) as usize..(bad.end - base) as usize;
                let mut again = [IoSliceMut::new(&mut bytes[range])];
                self.inner.read_place(object, &mut again, bad.start, bad.start)?;
                from = (bad.end - base) as usize;
            }
        }
        let byte = |sector: u16| (usize::from(sector) << SECTOR_SHIFT).min(read);
        let mut gaps = false;
        for gap in map.runs(0, self.view.tree.sectors()).filter(|run| run.source == Source::Zero) {
            if !is_zero(&bytes[byte(gap.start)..byte(gap.start + gap.len)]) {
                return Ok(None);
            }
            gaps |= (u64::from(gap.start) << SECTOR_SHIFT) < end;
        }
        // By the digest the gaps are read too, and one may have a checksum from before the hole was made, when some map named it.
        let sums = &self.inner.shared.sums;
        if gaps && sums.compare_anew(blocker, (owner, epoch), &bytes[..read], base).is_some() {
            return Ok(None);
        }
        Ok(is_zero(&bytes[(room as usize).min(read)..read]).then_some(read))
    }
}

/// Owner and epoch of a block whose bytes all lie in one data object.
fn one_slot(map: &BlockMap) -> Option<(VolumeId, u64)> {
    let Source::Data { owner, epoch } = map.extents().first()?.source else { return None };
    let same = |e: &Extent| e.source == Source::Data { owner, epoch };
    map.extents().iter().all(same).then_some((owner, epoch))
}

/// What is done with a step; it may give back the buffer in which it was read.
pub type Each<'a> = dyn FnMut(Step, &mut Option<Vec<u8>>) -> Result<bool> + 'a;

/// Calls `each` with the steps of a map in order, until it answers `false`; says whether it came to the end. With `ahead`
/// another thread reads meanwhile.
pub fn for_each_step(mut reader: Reader<'_>, ahead: bool, each: &mut Each<'_>) -> Result<bool> {
    if !ahead {
        let mut buffer = None;
        while let Some(step) = reader.next(&mut buffer)? {
            if !each(step, &mut buffer)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    std::thread::scope(|scope| {
        let (steps, taken): (SyncSender<Result<Step>>, Receiver<_>) = sync_channel(AHEAD);
        let (give, buffers) = sync_channel(AHEAD + 2);
        let job = move || {
            let mut buffer = None;
            loop {
                if buffer.is_none() {
                    buffer = buffers.try_recv().ok();
                }
                let step = match reader.next(&mut buffer) {
                    Ok(Some(step)) => Ok(step),
                    Ok(None) => return,
                    Err(error) => Err(error),
                };
                let last = step.is_err();
                // Nobody takes it any more: it was stopped.
                if steps.send(step).is_err() || last {
                    return;
                }
            }
        };
        let started = std::thread::Builder::new().name("archipelago-read".into()).spawn_scoped(scope, job);
        started.map_err(|e| Error::io("start", "a thread that reads ahead", e))?;
        let mut buffer = None;
        while let Ok(step) = taken.recv() {
            if !each(step?, &mut buffer)? {
                return Ok(false);
            }
            if let Some(free) = buffer.take() {
                // Full only if there are enough of them.
                let _ = give.try_send(free);
            }
        }
        Ok(true)
    })
}
