//! Reads, writes, discards: byte ranges to places.

use std::io::{IoSlice, IoSliceMut};

use smallvec::SmallVec;

use crate::blocker::Object;
use crate::error::{Error, Result};
use crate::format::log::{Run, RunKind};
use crate::format::node::{Extent, Source};
use crate::iov::{ReadCursor, Slices, copy_out, part, total};
use crate::limits::{ADMITTED, MAX_LOGGED_WRITE, MAX_PROVISIONAL, MAX_REQUEST, SECTOR, SECTOR_SHIFT};
use crate::mapper::block_map::BlockMap;
use crate::sync::atomic::Ordering;
use crate::volume::inner::{Inner, Writer};
use crate::volume::{DataExtent, WriteFlags};

/// Zeros to write from.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The pieces in which a request is admitted: whoever stops changes waits for no more than one of each writer. They end at multiples
/// of [`ADMITTED`]; none is shorter than half of that, and so goes to the journal, only because the request was cut.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let (mut at, end, step) = (offset, offset + len, ADMITTED as u64);
    std::iter::from_fn(move || {
        let start = at;
        at = if end - at < 2 * step { end } else { (at + step + step / 2) / step * step };
        (start < end).then_some((start, (at - start) as usize))
    })
}

/// One backend read, or zeros.
struct Piece {
    len: usize,
    place: Option<(Object, u64)>,
}

impl Inner {
    fn check_request(&self, offset: u64, len: usize) -> Result<()> {
        if len as u64 > MAX_REQUEST {
            return Err(Error::InvalidArgument(format!("a request of {len} bytes; at most {MAX_REQUEST} go at once")));
        }
        self.check_range(offset, len as u64)
    }

    /// See [`crate::Volume::read`].
    pub fn read(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::NotOpen(self.name()));
        }
        let len = total(bufs);
        self.check_request(offset, len)?;
        // Until the bytes are read, nobody may take away what the map named.
        let _operation = self.shared.operations.begin();
        match self.in_one_block(offset, len) {
            Some((block, from)) if self.read_side_by_side(bufs, block, from, len)? => Ok(()),
            _ => self.read_pieces(bufs, offset, len),
        }
    }

    /// Reads what lies in several places.
    fn read_pieces(&self, bufs: &mut [IoSliceMut<'_>], offset: u64, len: usize) -> Result<()> {
        let pieces = self.resolve(offset, len)?;
        let mut cursor = ReadCursor::new(bufs);
        let mut shown = offset;
        for piece in &pieces {
            let mut slices = cursor.take(piece.len);
            match piece.place {
                Some((object, at)) => self.read_place(object, &mut slices, at, shown)?,
                None => slices.iter_mut().for_each(|s| s.fill(0)),
            }
            shown += piece.len as u64;
        }
        Ok(())
    }

    /// Block, and bytes in it, of a range that is not empty and lies in one block.
    pub(super) fn in_one_block(&self, offset: u64, len: usize) -> Option<(u64, u64)> {
        let block = offset >> self.block_shift;
        let from = offset - (block << self.block_shift);
        (len > 0 && from + len as u64 <= 1 << self.block_shift).then_some((block, from))
    }

    /// Reads a range that lies side by side in one block, as that of nearly every request does; `false` if it does not, and
    /// nothing was read.
    fn read_side_by_side(&self, bufs: &mut [IoSliceMut<'_>], block: u64, from: u64, len: usize) -> Result<bool> {
        let (first, last) = (from >> SECTOR_SHIFT, (from + len as u64).div_ceil(SECTOR));
        let source = {
            let shard = self.overlay.shard(block).read();
            self.one_run(&shard, block, first as u16, (last - first) as u16)?
        };
        let (Some(source), start) = (source, first << SECTOR_SHIFT) else { return Ok(false) };
        if self.is_written_in_place(&source)
            && let Some((object, at)) = self.place(&source, block, start, from - start)
        {
            return self.blocker().read(object, bufs, at).map(|()| true);
        }
        let (place, there) = self.find(&source, block, start, from - start, len)?;
        match place {
            Some((object, at)) if there == len => {
                self.read_place(object, bufs, at, (block << self.block_shift) + from).map(|()| true)
            }
            Some(_) => Ok(false),
            None => {
                bufs.iter_mut().for_each(|buf| buf.fill(0));
                Ok(true)
            }
        }
    }

    /// Where the bytes of a range are; neighbours that lie side by side are one piece.
    fn resolve(&self, offset: u64, len: usize) -> Result<SmallVec<[Piece; 4]>> {
        let mut pieces: SmallVec<[Piece; 4]> = SmallVec::new();
        let end = offset + len as u64;
        let mut at = offset;
        while at < end {
            let block = at >> self.block_shift;
            let base = block << self.block_shift;
            let stop = end.min(base + (1 << self.block_shift));
            let first = ((at - base) >> SECTOR_SHIFT) as u16;
            let last = ((stop - base).div_ceil(SECTOR)) as u16;
            let shard = self.overlay.shard(block).read();
            let map = self.locate(&shard, block)?;
            for run in map.runs(first, last - first) {
                let run_start = base + (u64::from(run.start) << SECTOR_SHIFT);
                let run_end = (run_start + (u64::from(run.len) << SECTOR_SHIFT)).min(stop);
                let from = run_start.max(at);
                let len = (run_end - from) as usize;
                let (place, there) = self.find(&run.source, block, run_start - base, from - run_start, len)?;
                for (len, place) in [(there, place), (len - there, None)] {
                    match (pieces.last_mut(), place) {
                        _ if len == 0 => {}
                        (Some(Piece { len: l, place: Some((o, p)) }), Some((object, position)))
                            if *o == object && *p + *l as u64 == position =>
                        {
                            *l += len;
                        }
                        (Some(Piece { len: l, place: None }), None) => *l += len,
                        _ => pieces.push(Piece { len, place }),
                    }
                }
            }
            at = stop;
        }
        Ok(pieces)
    }

    /// See [`crate::Volume::write`].
    pub fn write(&self, bufs: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        let len = total(bufs);
        let writer = self.writer()?;
        self.check()?;
        self.check_request(offset, len)?;
        self.throttle(writer)?;
        if self.overwrite_side_by_side(writer, bufs, offset, len)? {
            return if flags.fua { self.flush() } else { Ok(()) };
        }
        {
            let _operation = self.shared.operations.begin();
            for (at, n) in pieces(offset, len as u64) {
                let slices = part(bufs, (at - offset) as usize, n);
                self.admitted(offset, len as u64, || self.write_range(writer, &slices, at, n))?;
            }
        }
        self.after_change(writer)?;
        if flags.fua { self.flush() } else { Ok(()) }
    }

    /// Overwrites a range that is admitted at once and lies side by side in one block, at a place of this volume's own; `false`
    /// if it does not, and nothing was done. No map changes, so there is nothing to be looked at behind it.
    fn overwrite_side_by_side(&self, writer: &Writer, bufs: &[IoSlice<'_>], offset: u64, len: usize) -> Result<bool> {
        let Some((block, from)) = self.in_one_block(offset, len).filter(|_| len < 2 * ADMITTED) else {
            return Ok(false);
        };
        let (first, last) = (from >> SECTOR_SHIFT, (from + len as u64).div_ceil(SECTOR));
        let _operation = self.shared.operations.begin();
        self.admitted(offset, len as u64, || {
            let shard = self.overlay.shard(block).read();
            let source = self.one_run(&shard, block, first as u16, (last - first) as u16)?;
            let (Some(source), start) = (source.filter(|source| self.is_live(source)), first << SECTOR_SHIFT) else {
                return Ok(false);
            };
            match self.place(&source, block, start, from - start) {
                Some(at) => self.write_in_place(writer, &source, at, bufs).map(|()| true),
                None => Ok(false),
            }
        })
    }

    /// Makes one piece of a request that changes `offset..offset + len`.
    fn admitted<T>(&self, offset: u64, len: u64, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let _gate = self.gate.read();
        // Looked at again behind the gate: a resize or a close may have come between.
        self.check()?;
        self.check_range(offset, len)?;
        change()
    }

    /// Keeps what waits for a sync bounded.
    pub(super) fn after_change(&self, writer: &Writer) -> Result<()> {
        if writer.journal.unconfirmed() > MAX_PROVISIONAL {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes without looking at the size; the gate is held by the caller.
    pub fn write_range(&self, writer: &Writer, bufs: &[IoSlice<'_>], offset: u64, len: usize) -> Result<()> {
        let end = offset + len as u64;
        let mut at = offset;
        while at < end {
            let block = at >> self.block_shift;
            let base = block << self.block_shift;
            let stop = end.min(base + (1 << self.block_shift));
            let slices = part(bufs, (at - offset) as usize, (stop - at) as usize);
            self.write_block(writer, block, at - base, stop - base, &slices)?;
            at = stop;
        }
        Ok(())
    }

    /// Writes bytes `from..to` of a block.
    fn write_block(&self, writer: &Writer, block: u64, from: u64, to: u64, bufs: &[IoSlice<'_>]) -> Result<()> {
        let first = (from >> SECTOR_SHIFT) as u16;
        let count = to.div_ceil(SECTOR) as u16 - first;
        let shard = self.overlay.shard(block);
        {
            let shard = shard.read();
            let map = self.locate(&shard, block)?;
            if map.runs(first, count).all(|r| self.is_live(&r.source)) {
                for run in map.runs(first, count) {
                    self.overwrite(writer, block, &run, from, to, bufs)?;
                }
                return Ok(());
            }
        }
        let mut shard = shard.write();
        let mut map = self.locate(&shard, block)?.to_map();
        let runs: SmallVec<[Extent; 8]> = map.runs(first, count).collect();
        let mut changed = Ok(());
        let mut i = 0;
        while i < runs.len() {
            if self.is_live(&runs[i].source) {
                changed = self.overwrite(writer, block, &runs[i], from, to, bufs);
                if changed.is_err() {
                    // What was written before is in the journal already, so the map has to say so too.
                    break;
                }
                i += 1;
                continue;
            }
            let mut j = i + 1;
            while j < runs.len() && !self.is_live(&runs[j].source) {
                j += 1;
            }
            let group = (runs[i].start, runs[j - 1].start + runs[j - 1].len);
            changed = self.first_write(writer, block, &mut map, group, from, to, bufs);
            if changed.is_err() {
                break;
            }
            i = j;
        }
        self.put(&mut shard, block, map);
        changed
    }

    /// Overwrites the part of a live run that `from..to` covers.
    fn overwrite(
        &self,
        writer: &Writer,
        block: u64,
        run: &Extent,
        from: u64,
        to: u64,
        bufs: &[IoSlice<'_>],
    ) -> Result<()> {
        let start = u64::from(run.start) << SECTOR_SHIFT;
        let (b0, b1) = (from.max(start), to.min(start + (u64::from(run.len) << SECTOR_SHIFT)));
        match self.place(&run.source, block, start, b0 - start) {
            Some(at) => {
                let slices = part(bufs, (b0 - from) as usize, (b1 - b0) as usize);
                self.write_in_place(writer, &run.source, at, &slices)
            }
            None => Ok(()),
        }
    }

    /// Writes sectors that cannot be overwritten where they are: small runs into the journal, data and map change in one
    /// record; large ones into the live data object. What the caller does not cover of the first and last sector comes
    /// from where the sector was.
    #[allow(clippy::too_many_arguments)]
    fn first_write(
        &self,
        writer: &Writer,
        block: u64,
        map: &mut BlockMap,
        group: (u16, u16),
        from: u64,
        to: u64,
        bufs: &[IoSlice<'_>],
    ) -> Result<()> {
        let b0 = from.max(u64::from(group.0) << SECTOR_SHIFT);
        let b1 = to.min(u64::from(group.1) << SECTOR_SHIFT);
        let first = (b0 >> SECTOR_SHIFT) as u16;
        let last = (b1.div_ceil(SECTOR)) as u16;
        let (mut head, mut tail) = ([0; SECTOR as usize], [0; SECTOR as usize]);
        let mut slices = Slices::new();
        let (mut middle, mut middle_end) = (b0, b1);
        let head_part = (b0 % SECTOR) as usize;
        if head_part != 0 || (last - first == 1 && !b1.is_multiple_of(SECTOR)) {
            self.read_sector(map, block, first, &mut head)?;
            middle = b1.min((u64::from(first) + 1) << SECTOR_SHIFT);
            let n = (middle - b0) as usize;
            copy_out(bufs, (b0 - from) as usize, &mut head[head_part..head_part + n]);
            slices.push(IoSlice::new(&head));
        }
        if middle < middle_end && middle_end % SECTOR != 0 {
            self.read_sector(map, block, last - 1, &mut tail)?;
            middle_end = u64::from(last - 1) << SECTOR_SHIFT;
            let n = (b1 - middle_end) as usize;
            copy_out(bufs, (middle_end - from) as usize, &mut tail[..n]);
        }
        if middle < middle_end {
            slices.extend(part(bufs, (middle - from) as usize, (middle_end - middle) as usize));
        }
        if middle_end < b1 {
            slices.push(IoSlice::new(&tail));
        }
        let sectors = last - first;
        let start = (block << (u32::from(self.block_shift) - SECTOR_SHIFT)) + u64::from(first);
        let epoch = self.epoch.load(Ordering::Acquire);
        if usize::from(sectors) << SECTOR_SHIFT <= MAX_LOGGED_WRITE {
            let started = |at| self.journal_started(at);
            let pos = self.note(writer.journal.append_data(self.blocker(), epoch, start, &slices, &started))?;
            let source = Source::Log { owner: self.id, epoch, segment: pos.segment, offset: pos.offset };
            map.set(first, sectors, source);
        } else {
            self.write_live_data(writer, block, first, sectors, &slices, epoch)?;
            map.set(first, sectors, Source::Data { owner: self.id, epoch });
        }
        Ok(())
    }

    /// Writes whole sectors at their own place in the live data object, and has the journal say so. The block's shard is held.
    pub fn write_live_data(
        &self,
        writer: &Writer,
        block: u64,
        first: u16,
        sectors: u16,
        bufs: &[IoSlice<'_>],
        epoch: u64,
    ) -> Result<()> {
        let start = (block << (u32::from(self.block_shift) - SECTOR_SHIFT)) + u64::from(first);
        self.blocker().write(Object::Data(self.id, epoch), bufs, start << SECTOR_SHIFT)?;
        // Before the journal speaks of it: a flush that confirms a record syncs what is marked.
        writer.data_dirty.store(true, Ordering::Release);
        self.append_run(writer, epoch, Run { start, len: u32::from(sectors), kind: RunKind::Data })
    }

    fn append_run(&self, writer: &Writer, epoch: u64, run: Run) -> Result<()> {
        self.note(writer.journal.append_run(self.blocker(), epoch, run, &|at| self.journal_started(at)))
    }

    /// See [`crate::Volume::discard`].
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let writer = self.writer()?;
        self.check()?;
        self.check_range(offset, len)?;
        self.throttle(writer)?;
        {
            let _operation = self.shared.operations.begin();
            let (first, last) = (offset.div_ceil(SECTOR), (offset + len) >> SECTOR_SHIFT);
            if first < last {
                self.zero_sectors(writer, first, last)?;
            }
        }
        self.after_change(writer)
    }

    /// See [`crate::Volume::write_zeroes`].
    pub fn write_zeroes(&self, offset: u64, len: u64, allocate: bool, flags: WriteFlags) -> Result<()> {
        let writer = self.writer()?;
        self.check()?;
        self.check_range(offset, len)?;
        self.throttle(writer)?;
        {
            let _operation = self.shared.operations.begin();
            let end = offset + len;
            let (first, last) = (offset.div_ceil(SECTOR), end >> SECTOR_SHIFT);
            let write = |from: u64, to: u64| {
                pieces(from, to - from)
                    .try_for_each(|(at, n)| self.admitted(offset, len, || self.write_zero_bytes(writer, at, n)))
            };
            if allocate || first >= last {
                write(offset, end)?;
            } else {
                write(offset, first << SECTOR_SHIFT)?;
                self.zero_sectors(writer, first, last)?;
                write(last << SECTOR_SHIFT, end)?;
            }
        }
        self.after_change(writer)?;
        if flags.fua { self.flush() } else { Ok(()) }
    }

    /// Writes zeros as data; at most one piece of a request. The gate is held by the caller.
    pub fn write_zero_bytes(&self, writer: &Writer, offset: u64, len: usize) -> Result<()> {
        let bufs = [IoSlice::new(&ZEROS); 2 * ADMITTED / ZEROS.len()];
        self.write_range(writer, &part(&bufs, 0, len), offset, len)
    }

    /// Makes sectors `first..last` of the volume zero, a block at a time; only what is mapped has to change.
    fn zero_sectors(&self, writer: &Writer, first: u64, last: u64) -> Result<()> {
        let shift = u32::from(self.block_shift) - SECTOR_SHIFT;
        let (b0, b1) = (first >> shift, (last - 1) >> shift);
        let zero = |block: u64| {
            let base = block << shift;
            let (s, e) = (first.max(base) - base, last.min(base + (1 << shift)) - base);
            self.admitted(first << SECTOR_SHIFT, (last - first) << SECTOR_SHIFT, || {
                self.zero_in_block(writer, block, s as u16, (e - s) as u16)
            })
        };
        for block in self.overlay.keys(b0, b1 + 1) {
            zero(block)?;
        }
        let mut at = b0;
        loop {
            let tree = self.tree.read().clone();
            match tree.next_mapped(self.blocker(), &self.shared.cache, at)? {
                Some(block) if block <= b1 => {
                    zero(block)?;
                    at = block + 1;
                }
                _ => return Ok(()),
            }
        }
    }

    fn zero_in_block(&self, writer: &Writer, block: u64, start: u16, len: u16) -> Result<()> {
        let mut shard = self.overlay.shard(block).write();
        let mut map = self.locate(&shard, block)?.to_map();
        if map.runs(start, len).all(|r| r.source == Source::Zero) {
            return Ok(());
        }
        for run in map.runs(start, len) {
            // Room can only be given back where no snapshot shares it. The punch ends before the range takes another
            // write, for the shard's lock is held.
            if let Source::Data { .. } = run.source
                && self.is_live(&run.source)
                && let Some((object, at)) = self.place(&run.source, block, u64::from(run.start) << SECTOR_SHIFT, 0)
            {
                self.blocker().punch(object, at, u64::from(run.len) << SECTOR_SHIFT)?;
                writer.data_dirty.store(true, Ordering::Release);
            }
        }
        map.set(start, len, Source::Zero);
        let first = (block << (u32::from(self.block_shift) - SECTOR_SHIFT)) + u64::from(start);
        let epoch = self.epoch.load(Ordering::Acquire);
        self.append_run(writer, epoch, Run { start: first, len: u32::from(len), kind: RunKind::Zero })?;
        self.put(&mut shard, block, map);
        Ok(())
    }

    /// See [`crate::Volume::extents`].
    pub fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<DataExtent>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::NotOpen(self.name()));
        }
        self.check_range(offset, len)?;
        let _operation = self.shared.operations.begin();
        let mut out: Vec<DataExtent> = Vec::new();
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let block = at >> self.block_shift;
            let base = block << self.block_shift;
            let stop = end.min(base + (1 << self.block_shift));
            let first = ((at - base) >> SECTOR_SHIFT) as u16;
            let last = (stop - base).div_ceil(SECTOR) as u16;
            let runs: SmallVec<[Extent; 8]> = {
                let shard = self.overlay.shard(block).read();
                self.locate(&shard, block)?.runs(first, last - first).collect()
            };
            let empty = runs.len() == 1 && runs[0].source == Source::Zero;
            for run in runs {
                let start = (base + (u64::from(run.start) << SECTOR_SHIFT)).max(at);
                let stop = (base + (u64::from(run.start + run.len) << SECTOR_SHIFT)).min(stop);
                let zero = run.source == Source::Zero;
                let full = out.len() >= max;
                match out.last_mut() {
                    Some(last) if last.zero == zero => last.len += stop - start,
                    _ if full => return Ok(out),
                    _ => out.push(DataExtent { offset: start, len: stop - start, zero }),
                }
            }
            at = stop;
            if empty && at < end {
                // Whole stretches of unmapped blocks are passed over in one step.
                let next = self.next_mapped(at >> self.block_shift)?.map_or(end, |b| (b << self.block_shift).min(end));
                if next > at {
                    if let Some(last) = out.last_mut() {
                        last.len += next - at;
                    }
                    at = next;
                }
            }
        }
        Ok(out)
    }

    /// The first block from `from` on that may be mapped.
    pub(super) fn next_mapped(&self, from: u64) -> Result<Option<u64>> {
        let dirty = self.overlay.keys(from, u64::MAX).first().copied();
        let tree = self.tree.read().clone();
        let clean = tree.next_mapped(self.blocker(), &self.shared.cache, from)?;
        Ok(match (dirty, clean) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    /// Reads `len` sectors of a block from `start` on into `buf`, through a map.
    pub fn read_mapped(&self, map: &BlockMap, block: u64, run: &Extent, buf: &mut [u8]) -> Result<()> {
        let mut at = 0;
        for piece in map.runs(run.start, run.len) {
            let n = usize::from(piece.len) << SECTOR_SHIFT;
            let part = &mut buf[at..at + n];
            let (place, there) = self.find(&piece.source, block, u64::from(piece.start) << SECTOR_SHIFT, 0, n)?;
            if let Some((object, offset)) = place {
                let shown = (block << self.block_shift) + (u64::from(piece.start) << SECTOR_SHIFT);
                self.read_place(object, &mut [IoSliceMut::new(&mut part[..there])], offset, shown)?;
            }
            part[there..].fill(0);
            at += n;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_of_a_request_are_all_of_it_and_neither_long_nor_needlessly_short() {
        let step = ADMITTED as u64;
        for offset in [0, 1, 4096, step / 2 - 1, step / 2, step - 4096, step, 3 * step + 5] {
            for len in [0, 1, 4096, step, 2 * step - 1, 2 * step, 2 * step + 1, 5 * step + 4096, 16 * step] {
                let mut at = offset;
                for (start, n) in pieces(offset, len) {
                    assert_eq!(start, at, "{offset}, {len}");
                    assert!(n <= 2 * ADMITTED && (n >= ADMITTED / 2 || n as u64 == len), "{offset}, {len}: {n}");
                    at += n as u64;
                    assert!(at == offset + len || at % step == 0, "{offset}, {len}: ends at {at}");
                }
                assert_eq!(at, offset + len);
            }
        }
    }
}
