//! Reads and block status: the commands that return something. Part of [`Transmission`].

use std::io;

use super::extents::Runs;
use super::limits::{HOLE_READ, MAX_READ_EXTENTS, MAX_STATUS_EXTENTS, PIECE};
use super::transmission::{Transmission, failure, read_into};
use super::wire::{Form, Request, STATE_HOLE_ZERO, command_flag as flag};

impl Transmission<'_> {
    /// Answers an admitted READ.
    pub(super) fn read(&mut self, request: &Request) -> io::Result<()> {
        let len = request.len as usize;
        let in_runs = self.form >= Form::Structured && !request.has(flag::DF) && len >= HOLE_READ;
        if !in_runs && len <= PIECE && self.begin_read(request) {
            return Ok(());
        }
        self.end_all();
        if in_runs {
            return self.read_runs(request);
        }
        if len > PIECE {
            return self.read_long(request);
        }
        if !self.replies.has_room(len) {
            self.replies.send(self.channel)?;
        }
        match read_into(self.device, self.replies.spare(len), request.offset) {
            Ok(()) => self.replies.data(request.mark(), len),
            Err(errno) => self.finish(request, Err(failure(errno))),
        }
        Ok(())
    }

    /// A read that may be answered in any number of chunks: holes where there are zeros, data in pieces elsewhere.
    fn read_runs(&mut self, request: &Request) -> io::Result<()> {
        let (mark, end) = (request.mark(), request.offset + request.len);
        // A device that cannot tell is read instead; if it is broken, reading will say so.
        let extents = self.device.extents(request.offset, request.len, MAX_READ_EXTENTS).unwrap_or_default();
        for run in Runs::new(&extents, request.offset, end) {
            if run.zero {
                if !self.replies.has_room(0) {
                    self.replies.send(self.channel)?;
                }
                let done = run.offset + run.len == end;
                self.replies.chunk_hole(mark, done, run.offset, run.len as u32);
                continue;
            }
            let (mut offset, stop) = (run.offset, run.offset + run.len);
            while offset < stop {
                let piece = (stop - offset).min(PIECE as u64) as usize;
                if !self.replies.has_room(piece) {
                    self.replies.send(self.channel)?;
                }
                if let Err(errno) = read_into(self.device, self.replies.spare(piece), offset) {
                    self.replies.failed(mark, failure(errno), Some(offset));
                    return Ok(());
                }
                let next = offset + piece as u64;
                self.replies.chunk_data(mark, next == end, offset, piece, piece);
                offset = next;
            }
        }
        Ok(())
    }

    /// A read above [`PIECE`] whose reply must be in one piece on the wire. Only its first part is read before the reply is
    /// begun, so that no client makes the server hold 32 MiB for it.
    fn read_long(&mut self, request: &Request) -> io::Result<()> {
        let (mark, total) = (request.mark(), request.len as usize);
        let structured = self.form >= Form::Structured;
        let mut failed = None;
        for at in (0..total).step_by(PIECE) {
            let piece = (total - at).min(PIECE);
            let offset = request.offset + at as u64;
            self.replies.send(self.channel)?;
            let spare = self.replies.spare(piece);
            if failed.is_some() {
                spare.fill(0);
            } else if let Err(errno) = read_into(self.device, spare, offset) {
                if at == 0 {
                    self.finish(request, Err(failure(errno)));
                    return Ok(());
                }
                if !structured {
                    // The reply has begun with "no error"; the protocol leaves only this.
                    return Err(io::Error::other("the device failed in the middle of a reply"));
                }
                self.replies.spare(piece).fill(0);
                failed = Some((errno, offset));
            }
            match (at, structured) {
                (0, true) => self.replies.chunk_data(mark, false, request.offset, total, piece),
                (0, false) => self.replies.simple_data(mark, piece),
                _ => self.replies.more_data(piece),
            }
        }
        match failed {
            Some((errno, offset)) => self.replies.failed(mark, failure(errno), Some(offset)),
            None if structured => self.replies.chunk_none(mark),
            None => {}
        }
        Ok(())
    }

    /// Answers an admitted BLOCK_STATUS.
    pub(super) fn block_status(&mut self, request: &Request) -> io::Result<()> {
        let most = if request.has(flag::REQ_ONE) { 1 } else { MAX_STATUS_EXTENTS };
        let extents = match self.device.extents(request.offset, request.len, most) {
            Ok(extents) => extents,
            Err(errno) => {
                self.finish(request, Err(failure(errno)));
                return Ok(());
            }
        };
        let end = request.offset + request.len;
        // The device may have ended early; nothing is said of what it did not look at, unless it looked at nothing.
        let known = extents.last().map_or(end, |e| e.offset.saturating_add(e.len)).clamp(request.offset + 1, end);
        let runs = Runs::new(&extents, request.offset, known).take(most);
        self.status.clear();
        self.status.extend(runs.map(|run| (run.len, if run.zero { STATE_HOLE_ZERO } else { 0 })));
        self.replies.block_status(request.mark(), &self.status);
        Ok(())
    }
}
