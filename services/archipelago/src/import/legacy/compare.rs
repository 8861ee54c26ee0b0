//! Compares a volume with what an old map would make of it, byte by byte.

use archipelago_core::{Digest, Error, Mode, Volume};

use super::build::{Job, Watch};
use super::error::LegacyError;
use super::read::{Step, differs, new_block_size, read};
use crate::import::{PIECE, zeros};

impl Job<'_> {
    /// Whether the volume or snapshot of that name is there, and has the bytes of the map; `None` if the name is free.
    pub fn present(&self, watch: &mut Watch<'_>) -> Result<Option<bool>, LegacyError> {
        let header = &self.map.map.header;
        let info = match self.store.info(self.name) {
            Ok(info) => info,
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if info.size != header.size || info.read_only != header.read_only {
            return Ok(Some(false));
        }
        let volume = self.store.open_volume(self.name, Mode::ReadOnly)?;
        let block_size = new_block_size(header);
        let mut compare = Compare { volume: &volume, at: 0, same: true, buf: Vec::new() };
        read(self.source(None), watch, &mut |step, offset| {
            let same = match &step {
                Step::Block(block) => match block.expected.map(|expected| (expected, Digest::of(&block.data).0)) {
                    Some((expected, found)) if expected != found => {
                        let len = block_size.min(header.size - offset);
                        if !self.skip_damaged {
                            let map = self.map.map.object.clone();
                            return Err(LegacyError::Block { map, offset, len, what: differs(expected, found) });
                        }
                        compare.zeros_to(offset + len)?
                    }
                    _ => compare.data(offset, &block.data)?,
                },
                // What lies between two blocks is compared when the second is reached.
                Step::Zeros(_) | Step::There(_) | Step::Damaged { .. } => true,
            };
            compare.same &= same;
            // Nothing that is still to be read can change the answer.
            if same { Ok(()) } else { Err(LegacyError::Stopped) }
        })
        .or_else(|error| if compare.same { Err(error) } else { Ok(()) })?;
        Ok(Some(compare.same && compare.zeros_to(header.size)?))
    }
}

/// A volume that is compared with what a map should make of it.
struct Compare<'a> {
    volume: &'a Volume,
    /// Everything before was compared.
    at: u64,
    same: bool,
    buf: Vec<u8>,
}

impl Compare<'_> {
    fn data(&mut self, offset: u64, data: &[u8]) -> Result<bool, Error> {
        if !self.zeros_to(offset)? {
            return Ok(false);
        }
        self.buf.resize(data.len(), 0);
        self.volume.read_at(&mut self.buf, offset)?;
        self.at = offset + data.len() as u64;
        Ok(self.buf == data)
    }

    fn zeros_to(&mut self, end: u64) -> Result<bool, Error> {
        while self.at < end {
            let extents = self.volume.extents(self.at, end - self.at, 1)?;
            let Some(extent) = extents.first() else { return Ok(false) };
            let mut len = extent.len;
            if !extent.zero {
                len = len.min(PIECE);
                self.buf.resize(len as usize, 0);
                self.volume.read_at(&mut self.buf, self.at)?;
                if !zeros::is_zero(&self.buf) {
                    return Ok(false);
                }
            }
            self.at += len;
        }
        Ok(true)
    }
}
