//! Compaction: gathers the scattered sectors of blocks in the live data object, so that reads need few calls and what the
//! old places hold can be collected.
//!
//! Blocks are composed one at a time, as an overfull block is in the background (`commit.rs`): under the lock of the
//! block's shard, with the gate held shared. Nothing in the map refers to a new place before the fold or the journal
//! record that comes after the sync of its data, so a crash leaves the old map, whose places are still there.

use std::io::IoSlice;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::error::Result;
use crate::format::node::{Extent, Source};
use crate::limits::{COMPACT_BATCH, COMPOSE_PIECE, SECTOR, SECTOR_SHIFT};
use crate::mapper::block_map::BlockMap;
use crate::sync::atomic::Ordering;
use crate::volume::inner::{Inner, Writer};

/// What to compact.
#[derive(Clone, Debug)]
pub struct CompactOptions {
    /// Blocks that lie in more pieces than this are composed. 0 composes every block that is not in one piece in the live
    /// epoch: the volume then shares nothing with its snapshots any more.
    pub max_extents: usize,
    /// Most bytes copied per second; 0 does not limit it.
    pub rate: u64,
}

impl Default for CompactOptions {
    fn default() -> CompactOptions {
        CompactOptions { max_extents: 16, rate: 0 }
    }
}

/// How far a compaction is, or what it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct CompactReport {
    /// Mapped blocks looked at.
    pub examined: u64,
    /// Blocks composed.
    pub composed: u64,
    /// Bytes copied.
    pub copied: u64,
}

/// Which sectors of a block are gathered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gather {
    /// All that are mapped and not in the live data object.
    Mapped,
    /// Also the zeros between them, which take room then: only where that is needed to keep the list short.
    Gaps,
}

impl Inner {
    /// See [`crate::Volume::compact`].
    pub fn compact(
        &self,
        options: &CompactOptions,
        progress: &mut dyn FnMut(CompactReport) -> ControlFlow<()>,
    ) -> Result<CompactReport> {
        let writer = self.writer()?;
        self.check()?;
        let mut report = CompactReport::default();
        let (started, mut folded) = (Instant::now(), 0);
        let mut next = 0;
        // The map changes meanwhile: each block is looked up again, and one that is new is met or not.
        while let Some(block) = self.next_mapped(next)? {
            next = block + 1;
            report.examined += 1;
            let copied = self.compact_block(writer, block, options.max_extents)?;
            if copied > 0 {
                report.composed += 1;
                report.copied += copied;
                self.throttle(writer)?;
                self.after_change(writer)?;
                if progress(report).is_break() {
                    break;
                }
            }
            if report.copied - folded >= COMPACT_BATCH {
                folded = report.copied;
                self.checkpoint()?;
            }
            if let Some(ahead) = self.ahead_of(options.rate, report.copied, started) {
                crate::sync::sleep(ahead);
            }
        }
        self.checkpoint()?;
        Ok(report)
    }

    /// How long to wait so that no more than `rate` bytes per second were copied.
    fn ahead_of(&self, rate: u64, copied: u64, started: Instant) -> Option<Duration> {
        let due = Duration::from_secs_f64(copied.checked_div(rate)? as f64);
        due.checked_sub(started.elapsed()).filter(|wait| !wait.is_zero())
    }

    /// Composes one block if it is in too many pieces; returns the bytes copied.
    fn compact_block(&self, writer: &Writer, block: u64, max_extents: usize) -> Result<u64> {
        let _operation = self.shared.operations.begin();
        let _gate = self.gate.read();
        self.check()?;
        // Until the fold after a shrink the tree still has blocks past the end. What is put into the overlay now would
        // survive that fold, and be shown when the volume grows.
        if block >= self.size.load(Ordering::Acquire).div_ceil(1 << self.block_shift) {
            return Ok(0);
        }
        let mut shard = self.overlay.shard(block).write();
        let mut map = self.locate(&shard, block)?.to_map();
        let epoch = self.epoch.load(Ordering::Acquire);
        let live = Source::Data { owner: self.id, epoch };
        if map.extents().len() <= max_extents || map.extents().iter().all(|e| e.source == live) {
            return Ok(0);
        }
        let copied = self.gather(writer, block, &mut map, Gather::Mapped)?;
        shard.insert(block, Arc::new(map));
        Ok(copied)
    }

    /// Copies sectors of a block to their own places in the live data object; returns the bytes copied. The gate and the lock
    /// of the block's shard are held by the caller.
    pub(super) fn gather(&self, writer: &Writer, block: u64, map: &mut BlockMap, what: Gather) -> Result<u64> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let live = Source::Data { owner: self.id, epoch };
        let (first, last) = match (map.extents().first(), map.extents().last()) {
            (Some(a), Some(b)) => (a.start, b.start + b.len),
            _ => return Ok(0),
        };
        // Neighbouring runs are gathered and written together.
        let mut groups: SmallVec<[Extent; 8]> = SmallVec::new();
        for run in map.runs(first, last - first) {
            if run.source == live || (run.source == Source::Zero && what != Gather::Gaps) {
                continue;
            }
            match groups.last_mut() {
                Some(g) if g.start + g.len == run.start => g.len += run.len,
                _ => groups.push(run),
            }
        }
        let step = (COMPOSE_PIECE as u64 / SECTOR) as u16;
        let (mut buf, mut copied) = (Vec::new(), 0);
        for group in groups {
            let mut at = group.start;
            while at < group.start + group.len {
                let len = step.min(group.start + group.len - at);
                buf.resize(usize::from(len) << SECTOR_SHIFT, 0);
                self.read_mapped(map, block, &Extent { start: at, len, source: Source::Zero }, &mut buf)?;
                self.write_live_data(writer, block, at, len, &[IoSlice::new(&buf)], epoch)?;
                copied += u64::from(len) << SECTOR_SHIFT;
                at += len;
            }
            map.set(group.start, group.len, live);
        }
        Ok(copied)
    }
}
