//! Short requests that are carried out in the thread that submits them, because they have nothing to wait for: reads of bytes that the
//! system has in memory, and overwrites, which go to its memory. A hand-over to another thread costs several times what such a request does.
//!
//! Everything here gives up, having changed nothing, where it would have to wait for a lock, a disk or the room of a journal; then the
//! request is carried out as any other. The one thing waited for is a node of the map that was not needed for long.

use std::io::{IoSlice, IoSliceMut};

use crate::error::{Error, Result};
use crate::format::node::Source;
use crate::limits::{AT_ONCE, SECTOR, SECTOR_SHIFT};
use crate::sync::atomic::Ordering;
use crate::volume::inner::Inner;

impl Inner {
    /// Reads if the bytes are at hand. If not, `buf` holds anything.
    pub fn read_at_once(&self, buf: &mut [u8], offset: u64) -> Result<bool> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::NotOpen(self.name()));
        }
        self.check_range(offset, buf.len() as u64)?;
        let Some((block, from)) = self.in_one_block(offset, buf.len()).filter(|_| buf.len() <= AT_ONCE) else {
            return Ok(false);
        };
        // Until the bytes are read, nobody may take away what the map named.
        let _operation = self.shared.operations.begin();
        let Some(source) = self.source_at_once(block, from, buf.len())? else { return Ok(false) };
        let start = from & !(SECTOR - 1);
        match source {
            Source::Zero => {
                buf.fill(0);
                Ok(true)
            }
            Source::Data { owner, epoch } if !self.is_written_in_place(&source) => {
                if !self.shared.contents.is_known_to_stay(owner, epoch) {
                    return Ok(false);
                }
                let at = (block << self.block_shift) + from;
                self.shared.sums.read_at_once(self.blocker(), (owner, epoch), buf, at)
            }
            _ => match self.place(&source, block, start, from - start) {
                Some((object, at)) => self.blocker().read_at_once(object, &mut [IoSliceMut::new(buf)], at),
                None => Ok(false),
            },
        }
    }

    /// Overwrites if nobody has to be waited for.
    pub fn overwrite_at_once(&self, buf: &[u8], offset: u64) -> Result<bool> {
        let writer = self.writer()?;
        let one = self.in_one_block(offset, buf.len()).filter(|_| buf.len() <= AT_ONCE);
        let (Some((block, from)), false) = (one, self.slows_writers(writer)) else { return Ok(false) };
        let _operation = self.shared.operations.begin();
        let Some(_gate) = self.gate.try_read() else { return Ok(false) };
        self.check()?;
        self.check_range(offset, buf.len() as u64)?;
        let Some(shard) = self.overlay.shard(block).try_read() else { return Ok(false) };
        let (first, count) = sectors(from, buf.len());
        let source = self.one_run(&shard, block, first, count)?.filter(|source| self.is_live(source));
        let start = from & !(SECTOR - 1);
        match source.and_then(|source| Some((source, self.place(&source, block, start, from - start)?))) {
            Some((_, (object, _))) if self.blocker().waits_for_disk(object) => Ok(false),
            Some((source, at)) => self.write_in_place(writer, &source, at, &[IoSlice::new(buf)]).map(|()| true),
            None => Ok(false),
        }
    }

    /// Where a range in a block is, if it is one run and nobody is changing the block.
    pub(super) fn source_at_once(&self, block: u64, from: u64, len: usize) -> Result<Option<Source>> {
        let Some(shard) = self.overlay.shard(block).try_read() else { return Ok(None) };
        let (first, count) = sectors(from, len);
        self.one_run(&shard, block, first, count)
    }
}

/// The first sector that a range in a block touches, and how many.
fn sectors(from: u64, len: usize) -> (u16, u16) {
    let (first, end) = (from >> SECTOR_SHIFT, (from + len as u64).div_ceil(SECTOR));
    (first as u16, (end - first) as u16)
}
