//! Composing: gathers scattered sectors of a block in the live data object.
//!
//! One piece of a block at a time, and each in two steps. Its bytes are read without any lock. Then, with the gate held shared and
//! the block's shard exclusively, the piece is looked at again: if it is as it was and nobody could overwrite it meanwhile, the bytes are
//! written; otherwise they are read anew, from memory then, for they are new. So nobody who stops changes, and no writer of the
//! shard, waits for more than a write of [`COMPOSE_PIECE`].
//!
//! Nothing that counts after a power cut refers to a new place before its data was synced: the journal speaks of it provisionally. So a
//! power cut leaves the old map, whose places are still there.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::blocker::Object;
use crate::error::Result;
use crate::format::node::{Extent, Source};
use crate::limits::{
    COMPOSE_EXTENTS, COMPOSE_PIECE, COMPOSE_ROUND, MAX_EXTENTS, MAX_OVERFULL, PRESSED_EXTENTS, SECTOR_SHIFT,
};
use crate::mapper::block_map::{self, BlockMap};
use crate::sync::atomic::Ordering;
use crate::volume::inner::{Inner, Writer};

/// Most sectors of a piece.
const PIECE: u16 = (COMPOSE_PIECE >> SECTOR_SHIFT) as u16;

/// Why blocks are composed, and so which and how far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Occasion {
    /// Writers wait for what was changed to be folded: only of that, and only what is in very many pieces.
    Pressed,
    /// What was changed is about to be folded: that, and a round of the others.
    Fold,
    /// Nobody waits: a round, unless writers need a fold meanwhile.
    Idle,
}

/// Which sectors of a block are gathered, of those that are not in the live data object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gather<'a> {
    /// All that are mapped.
    Mapped,
    /// Those in runs of up to this many sectors. Zeros between mapped sectors too, which take room then.
    Short(u16),
    /// Those that lie in these objects.
    From(&'a BTreeSet<Object>),
}

/// The object in which a source lies, if it names a place in one.
pub fn object_of(source: Source) -> Option<Object> {
    match source {
        Source::Zero | Source::Content(_) => None,
        Source::Data { owner, epoch } => Some(Object::Data(owner, epoch)),
        Source::Log { owner, segment, .. } => Some(Object::Log(owner, segment)),
    }
}

impl Gather<'_> {
    fn takes(self, run: &Extent, live: Source) -> bool {
        run.source != live
            && match self {
                Gather::Mapped => run.source != Source::Zero,
                Gather::Short(most) => run.len <= most,
                Gather::From(objects) => object_of(run.source).is_some_and(|object| objects.contains(&object)),
            }
    }
}

/// Sectors to be copied together: where they begin, and where they are now.
struct Piece {
    start: u16,
    runs: SmallVec<[Extent; 8]>,
}

impl Piece {
    /// The first piece from sector `from` on.
    fn next(extents: &[Extent], from: u16, what: Gather<'_>, live: Source) -> Option<Piece> {
        let end = extents.last().map_or(0, |e| e.start + e.len);
        let from = from.max(extents.first()?.start);
        let mut runs: SmallVec<[Extent; 8]> = SmallVec::new();
        let mut left = PIECE;
        for run in block_map::runs(extents, from, end.saturating_sub(from)) {
            let takes = what.takes(&run, live);
            if !takes && !runs.is_empty() {
                break;
            }
            if takes {
                let len = run.len.min(left);
                runs.push(Extent { len, ..run });
                left -= len;
                if left == 0 {
                    break;
                }
            }
        }
        runs.first().map(|first| first.start).map(|start| Piece { start, runs })
    }

    fn len(&self) -> u16 {
        self.runs.iter().map(|run| run.len).sum()
    }
}

/// The shortest runs whose gathering leaves a block with these extents no more than `goal` of them.
fn short_enough(extents: &[Extent], live: Source, goal: usize) -> Gather<'static> {
    let Some((first, last)) = extents.first().zip(extents.last()) else { return Gather::Short(0) };
    let runs = || block_map::runs(extents, first.start, last.start + last.len - first.start);
    let left = |most: u16| {
        let what = Gather::Short(most);
        let (mut count, mut gathered) = (0, false);
        for run in runs() {
            let is_live = run.source == live || what.takes(&run, live);
            count += usize::from(if is_live { !gathered } else { run.source != Source::Zero });
            gathered = is_live;
        }
        count
    };
    let mut lens: SmallVec<[u16; 64]> = runs().filter(|run| run.source != live).map(|run| run.len).collect();
    lens.sort_unstable();
    let enough = lens.partition_point(|most| left(*most) > goal);
    Gather::Short(lens.get(enough).or(lens.last()).copied().unwrap_or(0))
}

impl Inner {
    /// Sectors in the data object of the live epoch.
    pub(super) fn live_data(&self) -> Source {
        Source::Data { owner: self.id, epoch: self.epoch.load(Ordering::Acquire) }
    }

    /// Composes overfull blocks while writers go on. Returns the bytes copied: where that is 0, nothing is left for this occasion.
    pub(super) fn compose(&self, writer: &Writer, why: Occasion) -> Result<u64> {
        // What writers make overfull again meanwhile is left for the next time.
        let blocks = std::mem::take(&mut *writer.overfull.lock());
        let mut copied = 0;
        for block in &blocks {
            if why == Occasion::Idle && (copied >= COMPOSE_ROUND || self.wants_fold(writer)) {
                writer.overfull.lock().extend(blocks.range(block..));
                break;
            }
            match self.compose_block(writer, *block, why, copied) {
                Ok(bytes) => copied += bytes,
                Err(error) => {
                    writer.overfull.lock().extend(blocks.range(block..));
                    return Err(error);
                }
            }
        }
        Ok(copied)
    }

    /// Composes a block, unless that can wait; `before` bytes were copied for others. Returns the bytes copied.
    fn compose_block(&self, writer: &Writer, block: u64, why: Occasion, before: u64) -> Result<u64> {
        // What a shrink cut off is not composed.
        let exists = || block < self.size.load(Ordering::Acquire).div_ceil(1 << self.block_shift);
        let later = || {
            let mut overfull = writer.overfull.lock();
            if overfull.len() < MAX_OVERFULL {
                overfull.insert(block);
            }
        };
        let what = {
            let shard = self.overlay.shard(block).read();
            // What is not there was folded in many pieces since, with the map of a snapshot or because it had to wait.
            let folded = shard.get(&block).is_none();
            if folded && (why == Occasion::Pressed || before >= COMPOSE_ROUND) {
                later();
                return Ok(0);
            }
            let found = self.locate(&shard, block)?;
            let extents = found.extents();
            if extents.len() <= COMPOSE_EXTENTS || !exists() {
                return Ok(0);
            }
            if why != Occasion::Pressed {
                short_enough(extents, self.live_data(), COMPOSE_EXTENTS / 2)
            } else if extents.len() > PRESSED_EXTENTS {
                short_enough(extents, self.live_data(), PRESSED_EXTENTS / 3 * 2)
            } else {
                later();
                return Ok(0);
            }
        };
        let copied = self.gather(writer, block, what)?;
        // What was left, and an epoch that ended in between, which leaves two kinds of pieces.
        let shard = self.overlay.shard(block).read();
        if self.locate(&shard, block)?.extents().len() > COMPOSE_EXTENTS && exists() {
            later();
        }
        drop(shard);
        self.after_change(writer).map(|()| copied)
    }

    /// Composes the blocks that cannot be stored as they are. Changes are stopped by the caller.
    pub(super) fn compose_longest(&self, writer: &Writer) -> Result<()> {
        // Nobody puts anything in meanwhile.
        let overlong: Vec<u64> = writer.overlong.lock().iter().copied().collect();
        for block in overlong {
            let what = match self.overlay.shard(block).read().get(&block) {
                Some(map) if map.extents().len() > MAX_EXTENTS => {
                    Some(short_enough(map.extents(), self.live_data(), PRESSED_EXTENTS / 3 * 2))
                }
                _ => None,
            };
            let mut from = 0;
            while let Some(what) = what
                && let Some((end, _)) = self.gather_piece(writer, block, from, what, None)?
            {
                from = end;
            }
            writer.overlong.lock().remove(&block);
        }
        Ok(())
    }

    /// Copies sectors of a block to their own places in the live data object; returns the bytes copied.
    pub(super) fn gather(&self, writer: &Writer, block: u64, what: Gather<'_>) -> Result<u64> {
        let (mut from, mut copied) = (0, 0);
        loop {
            let Some(read) = self.read_piece(block, from, what)? else { return Ok(copied) };
            let _gate = self.gate.read();
            self.check()?;
            match self.gather_piece(writer, block, from, what, Some(&read))? {
                Some((end, len)) => (from, copied) = (end, copied + (u64::from(len) << SECTOR_SHIFT)),
                None => return Ok(copied),
            }
        }
    }

    /// Reads the next piece ahead, and the epoch before it. Nothing is held but the operation of the caller, which keeps what the map
    /// names.
    fn read_piece(&self, block: u64, from: u16, what: Gather<'_>) -> Result<Option<(u64, Piece, Vec<u8>)>> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let piece = {
            let shard = self.overlay.shard(block).read();
            Piece::next(self.locate(&shard, block)?.extents(), from, what, Source::Data { owner: self.id, epoch })
        };
        let Some(piece) = piece else { return Ok(None) };
        let bytes = self.bytes_of(block, &piece)?;
        Ok(Some((epoch, piece, bytes)))
    }

    fn bytes_of(&self, block: u64, piece: &Piece) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::from(piece.len()) << SECTOR_SHIFT];
        let map = BlockMap::from_extents(&piece.runs);
        let whole = Extent { start: piece.start, len: piece.len(), source: Source::Zero };
        self.read_mapped(&map, block, &whole, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies the next piece; returns where it ends and its sectors. The gate is held by the caller, shared or exclusively.
    fn gather_piece(
        &self,
        writer: &Writer,
        block: u64,
        from: u16,
        what: Gather<'_>,
        ahead: Option<&(u64, Piece, Vec<u8>)>,
    ) -> Result<Option<(u16, u16)>> {
        // Until the fold after a shrink the tree still has blocks past the end. What is put into the overlay now would
        // survive that fold, and be shown when the volume grows.
        if block >= self.size.load(Ordering::Acquire).div_ceil(1 << self.block_shift) {
            return Ok(None);
        }
        let mut shard = self.overlay.shard(block).write();
        let mut map = self.locate(&shard, block)?.to_map();
        let live = self.live_data();
        let Some(piece) = Piece::next(map.extents(), from, what, live) else { return Ok(None) };
        let epoch = self.epoch.load(Ordering::Acquire);
        // In one epoch a place that may be overwritten stays one, so none of these was one when it was read.
        let as_read = |ahead: &&(u64, Piece, Vec<u8>)| {
            ahead.0 == epoch && ahead.1.runs == piece.runs && !piece.runs.iter().any(|run| self.is_live(&run.source))
        };
        let read;
        let bytes = match ahead.filter(as_read) {
            Some((_, _, bytes)) => bytes,
            None => {
                read = self.bytes_of(block, &piece)?;
                &read
            }
        };
        let len = piece.len();
        self.write_live_data(writer, block, piece.start, len, &[IoSlice::new(bytes)], epoch)?;
        map.set(piece.start, len, live);
        shard.insert(block, Arc::new(map));
        Ok(Some((piece.start + len, len)))
    }
}

#[cfg(test)]
mod tests;
