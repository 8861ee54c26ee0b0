//! Compaction: gathers the scattered sectors of blocks in the live data object, so that reads need few calls and what the
//! old places hold can be collected.
//!
//! Blocks are composed one at a time, as an overfull block is in the background (`compose.rs`).

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::blocker::Object;
use crate::error::Result;
use crate::format::node::Extent;
use crate::limits::COMPACT_BATCH;
use crate::volume::compose::{Gather, object_of};
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

impl Inner {
    /// See [`crate::Volume::compact`].
    pub fn compact(
        &self,
        options: &CompactOptions,
        progress: &mut dyn FnMut(CompactReport) -> ControlFlow<()>,
    ) -> Result<CompactReport> {
        let what = |extents: &[Extent]| {
            let live = self.live_data();
            let scattered = extents.len() > options.max_extents && extents.iter().any(|e| e.source != live);
            scattered.then_some(Gather::Mapped)
        };
        self.compact_blocks(&what, options.rate, progress)
    }

    /// Copies what the map has in some objects out of them.
    pub(crate) fn leave(
        &self,
        objects: &BTreeSet<Object>,
        rate: u64,
        progress: &mut dyn FnMut(CompactReport) -> ControlFlow<()>,
    ) -> Result<CompactReport> {
        let lies_there = |e: &Extent| object_of(e.source).is_some_and(|object| objects.contains(&object));
        let what = |extents: &[Extent]| extents.iter().any(lies_there).then_some(Gather::From(objects));
        self.compact_blocks(&what, rate, progress)
    }

    /// Calls `each` with the extents of each block that is mapped. The map changes meanwhile: each block is looked up again, and one
    /// that is new is met or not.
    pub(crate) fn each_mapped(&self, each: &mut dyn FnMut(&[Extent])) -> Result<()> {
        let mut next = 0;
        while let Some(block) = self.next_mapped(next)? {
            next = block + 1;
            let _operation = self.shared.operations.begin();
            self.check()?;
            let shard = self.overlay.shard(block).read();
            each(self.locate(&shard, block)?.extents());
        }
        Ok(())
    }

    fn compact_blocks<'a>(
        &self,
        what: &dyn Fn(&[Extent]) -> Option<Gather<'a>>,
        rate: u64,
        progress: &mut dyn FnMut(CompactReport) -> ControlFlow<()>,
    ) -> Result<CompactReport> {
        let writer = self.writer()?;
        self.check()?;
        let mut report = CompactReport::default();
        let (started, mut folded) = (Instant::now(), 0);
        let mut next = 0;
        // As in `each_mapped`.
        while let Some(block) = self.next_mapped(next)? {
            next = block + 1;
            report.examined += 1;
            let copied = self.compact_block(writer, block, what)?;
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
            if let Some(ahead) = self.ahead_of(rate, report.copied, started) {
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

    /// Composes one block, if anything of it is to be gathered; returns the bytes copied.
    fn compact_block<'a>(
        &self,
        writer: &Writer,
        block: u64,
        what: &dyn Fn(&[Extent]) -> Option<Gather<'a>>,
    ) -> Result<u64> {
        let _operation = self.shared.operations.begin();
        self.check()?;
        let what = {
            let shard = self.overlay.shard(block).read();
            what(self.locate(&shard, block)?.extents())
        };
        what.map_or(Ok(0), |what| self.gather(writer, block, what))
    }
}
