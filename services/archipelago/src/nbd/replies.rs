//! Replies that wait to be sent, gathered: headers in one buffer, read data in another, sent together in the order of the
//! requests without copying.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::buffer::{ALIGN, AlignedBuf};
use super::limits::{MAX_HEADS, MAX_PARTS, MAX_STATUS_EXTENTS, PIECE};
use super::request::Failure;
use super::socket::Stream;
use super::wire::{self, chunk};

/// A part of what is sent.
enum Part {
    Heads(Range<usize>),
    Data(Range<usize>),
}

/// Replies that wait.
pub struct Replies {
    heads: Vec<u8>,
    data: AlignedBuf,
    used: usize,
    parts: Vec<Part>,
}

impl Replies {
    /// None yet.
    pub fn new() -> Replies {
        Replies {
            // One block status reply may begin just below the limit.
            heads: Vec::with_capacity(MAX_HEADS + 64 + 8 * MAX_STATUS_EXTENTS),
            data: AlignedBuf::new(PIECE),
            used: 0,
            parts: Vec::with_capacity(MAX_PARTS),
        }
    }

    /// Whether a reply with `len` bytes of data fits. When nothing waits, every `len` up to [`PIECE`] does.
    pub fn has_room(&self, len: usize) -> bool {
        self.heads.len() < MAX_HEADS && self.parts.len() + 2 <= MAX_PARTS && self.used + len <= PIECE
    }

    /// Where the data of the next reply goes; page-aligned. Only after [`Replies::has_room`].
    pub fn spare(&mut self, len: usize) -> &mut [u8] {
        &mut self.data.bytes_mut()[self.used..self.used + len]
    }

    /// A simple reply without data.
    pub fn simple(&mut self, cookie: u64, error: u32) {
        self.head(&wire::encode_simple(cookie, error));
    }

    /// The head of a simple reply, `len` bytes in [`Replies::spare`] follow.
    pub fn simple_data(&mut self, cookie: u64, len: usize) {
        self.simple(cookie, 0);
        self.more_data(len);
    }

    /// `len` bytes in [`Replies::spare`] go on with the data begun before.
    pub fn more_data(&mut self, len: usize) {
        self.parts.push(Part::Data(self.used..self.used + len));
        self.used = (self.used + len).next_multiple_of(ALIGN).min(PIECE);
    }

    /// The head of a data chunk that says `total` bytes; `len` of them are in [`Replies::spare`].
    pub fn chunk_data(&mut self, cookie: u64, done: bool, offset: u64, total: usize, len: usize) {
        let flags = if done { chunk::DONE } else { 0 };
        self.head(&wire::encode_chunk(cookie, flags, chunk::OFFSET_DATA, total as u32 + 8));
        self.head(&offset.to_be_bytes());
        self.more_data(len);
    }

    /// A chunk that says that a range is zeros.
    pub fn chunk_hole(&mut self, cookie: u64, done: bool, offset: u64, len: u32) {
        let flags = if done { chunk::DONE } else { 0 };
        self.head(&wire::encode_chunk(cookie, flags, chunk::OFFSET_HOLE, 12));
        self.head(&offset.to_be_bytes());
        self.head(&len.to_be_bytes());
    }

    /// The last chunk of a reply, without content.
    pub fn chunk_none(&mut self, cookie: u64) {
        self.head(&wire::encode_chunk(cookie, chunk::DONE, chunk::NONE, 0));
    }

    /// An error as the last chunk of a reply, for all of the request or at an offset.
    pub fn chunk_error(&mut self, cookie: u64, failure: Failure, offset: Option<u64>) {
        let kind = if offset.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
        let len = 6 + failure.text.len() + if offset.is_some() { 8 } else { 0 };
        self.head(&wire::encode_chunk(cookie, chunk::DONE, kind, len as u32));
        self.head(&failure.error.to_be_bytes());
        self.head(&(failure.text.len() as u16).to_be_bytes());
        self.head(failure.text.as_bytes());
        if let Some(offset) = offset {
            self.head(&offset.to_be_bytes());
        }
    }

    /// A whole block status reply: lengths and states.
    pub fn block_status(&mut self, cookie: u64, extents: impl ExactSizeIterator<Item = (u32, u32)>) {
        let len = 4 + 8 * extents.len() as u32;
        self.head(&wire::encode_chunk(cookie, chunk::DONE, chunk::BLOCK_STATUS, len));
        self.head(&wire::BASE_ALLOCATION_ID.to_be_bytes());
        for (len, state) in extents {
            self.head(&len.to_be_bytes());
            self.head(&state.to_be_bytes());
        }
    }

    fn head(&mut self, bytes: &[u8]) {
        let start = self.heads.len();
        self.heads.extend_from_slice(bytes);
        match self.parts.last_mut() {
            Some(Part::Heads(range)) => range.end = self.heads.len(),
            _ => self.parts.push(Part::Heads(start..self.heads.len())),
        }
    }

    /// Sends all that waits. Blocks while the client does not read.
    pub fn send(&mut self, stream: &Stream) -> io::Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        // One more than the limit: a reply may be begun with one part left.
        let mut slices: [IoSlice<'_>; MAX_PARTS + 2] = std::array::from_fn(|_| IoSlice::new(&[]));
        let data = self.data.bytes();
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(match part {
                Part::Heads(range) => &self.heads[range.clone()],
                Part::Data(range) => &data[range.clone()],
            });
        }
        let mut left = &mut slices[..self.parts.len()];
        while !left.is_empty() {
            match stream.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut left, n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.heads.clear();
        self.parts.clear();
        self.used = 0;
        Ok(())
    }
}
