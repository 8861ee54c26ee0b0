//! Reads and block status: the commands that return something. Part of [`Transmission`].

use std::io;

use super::extents::Runs;
use super::limits::{HOLE_READ, MAX_READ_EXTENTS, MAX_STATUS_EXTENTS, PIECE};
use super::transmission::{Transmission, failure, read_into};
use super::wire::{Request, STATE_HOLE_ZERO, command_flag as flag};

impl Transmission<'_> {
    /// Answers an admitted READ.
    pub(super) fn read(&mut self, request: &Request) -> io::Result<()> {
        let len = request.len as usize;
        if self.structured && !request.has(flag::DF) && len >= HOLE_READ {
            return self.read_runs(request);
        }
        if len > PIECE {
            return self.read_long(request);
        }
        if !self.replies.has_room(len) {
            self.replies.send(self.stream)?;
        }
        match read_into(self.device, self.replies.spare(len), request.offset) {
            Ok(()) if self.structured => self.replies.chunk_data(request.cookie, true, request.offset, len, len),
            Ok(()) => self.replies.simple_data(request.cookie, len),
            Err(errno) => self.finish(request, Err(failure(errno))),
        }
        Ok(())
    }

    /// A read that may be answered in any number of chunks: holes where there are zeros, data in pieces elsewhere.
    fn read_runs(&mut self, request: &Request) -> io::Result<()> {
        let end = request.offset + u64::from(request.len);
        // A device that cannot tell is read instead; if it is broken, reading will say so.
        let extents = self.device.extents(request.offset, request.len.into(), MAX_READ_EXTENTS).unwrap_or_default();
        for run in Runs::new(&extents, request.offset, end) {
            if run.zero {
                if !self.replies.has_room(0) {
                    self.replies.send(self.stream)?;
                }
                let done = run.offset + run.len == end;
                self.replies.chunk_hole(request.cookie, done, run.offset, run.len as u32);
                continue;
            }
            let (mut offset, stop) = (run.offset, run.offset + run.len);
            while offset < stop {
                let piece = (stop - offset).min(PIECE as u64) as usize;
                if !self.replies.has_room(piece) {
                    self.replies.send(self.stream)?;
                }
                if let Err(errno) = read_into(self.device, self.replies.spare(piece), offset) {
                    self.replies.chunk_error(request.cookie, failure(errno), Some(offset));
                    return Ok(());
                }
                let next = offset + piece as u64;
                self.replies.chunk_data(request.cookie, next == end, offset, piece, piece);
                offset = next;
            }
        }
        Ok(())
    }

    /// A read above [`PIECE`] whose reply must be in one piece on the wire. Only its first part is read before the reply is
    /// begun, so that no client makes the server hold 32 MiB for it.
    fn read_long(&mut self, request: &Request) -> io::Result<()> {
        let total = request.len as usize;
        let mut failed = None;
        for at in (0..total).step_by(PIECE) {
            let piece = (total - at).min(PIECE);
            let offset = request.offset + at as u64;
            self.replies.send(self.stream)?;
            let spare = self.replies.spare(piece);
            if failed.is_some() {
                spare.fill(0);
            } else if let Err(errno) = read_into(self.device, spare, offset) {
                if at == 0 {
                    self.finish(request, Err(failure(errno)));
                    return Ok(());
                }
                if !self.structured {
                    // The reply has begun with "no error"; the protocol leaves only this.
                    return Err(io::Error::other("the device failed in the middle of a reply"));
                }
                self.replies.spare(piece).fill(0);
                failed = Some((errno, offset));
            }
            match (at, self.structured) {
                (0, true) => self.replies.chunk_data(request.cookie, false, request.offset, total, piece),
                (0, false) => self.replies.simple_data(request.cookie, piece),
                _ => self.replies.more_data(piece),
            }
        }
        match failed {
            Some((errno, offset)) => self.replies.chunk_error(request.cookie, failure(errno), Some(offset)),
            None if self.structured => self.replies.chunk_none(request.cookie),
            None => {}
        }
        Ok(())
    }

    /// Answers an admitted BLOCK_STATUS.
    pub(super) fn block_status(&mut self, request: &Request) -> io::Result<()> {
        let most = if request.has(flag::REQ_ONE) { 1 } else { MAX_STATUS_EXTENTS };
        let extents = match self.device.extents(request.offset, request.len.into(), most) {
            Ok(extents) => extents,
            Err(errno) => {
                self.finish(request, Err(failure(errno)));
                return Ok(());
            }
        };
        let end = request.offset + u64::from(request.len);
        // The device may have ended early; nothing is said of what it did not look at, unless it looked at nothing.
        let known = extents.last().map_or(end, |e| e.offset.saturating_add(e.len)).clamp(request.offset + 1, end);
        let runs = Runs::new(&extents, request.offset, known).take(most);
        self.status.clear();
        self.status.extend(runs.map(|run| (run.len as u32, if run.zero { STATE_HOLE_ZERO } else { 0 })));
        self.replies.block_status(request.cookie, self.status.iter().copied());
        Ok(())
    }
}
