//! Replies that wait to be sent, gathered: headers in one buffer, read data in another, sent together in the order of the
//! requests without copying.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::buffer::{ALIGN, AlignedBuf};
use super::channel::Channel;
use super::limits::{MAX_HEADS, MAX_PARTS, PIECE};
use super::request::Failure;
use super::wire::{self, Form, Mark, chunk};

/// A part of what is sent.
enum Part {
    Heads(Range<usize>),
    Data(Range<usize>),
}

/// Replies that wait.
pub struct Replies {
    form: Form,
    heads: Vec<u8>,
    data: AlignedBuf,
    used: usize,
    parts: Vec<Part>,
    /// Replies for which room was reserved.
    reserved: usize,
}

impl Replies {
    /// None yet.
    pub fn new(form: Form) -> io::Result<Replies> {
        Ok(Replies { form, heads: Vec::new(), data: AlignedBuf::new(PIECE)?, used: 0, parts: Vec::new(), reserved: 0 })
    }

    /// Gives its memory back if nothing waits.
    pub fn rest(&mut self) {
        if self.parts.is_empty() && self.reserved == 0 {
            (self.heads, self.parts) = (Vec::new(), Vec::new());
            self.data.rest();
        }
    }

    /// Whether a reply with `len` bytes of data fits. When nothing waits and nothing is reserved, every `len` up to [`PIECE`] does.
    pub fn has_room(&self, len: usize) -> bool {
        let parts = self.parts.len() + 2 * self.reserved;
        self.heads.len() < MAX_HEADS && parts + 2 <= MAX_PARTS && self.used + len <= PIECE
    }

    /// Keeps room for a reply with `len` bytes of data to a request that is under way: the place of the data. Only after
    /// [`Replies::has_room`]; ends with [`Replies::release`].
    pub fn reserve(&mut self, len: usize) -> Range<usize> {
        let place = self.used..self.used + len;
        self.used = place.end.next_multiple_of(ALIGN).min(PIECE);
        self.reserved += 1;
        place
    }

    /// The memory of a place that is reserved.
    pub fn reserved(&mut self, place: &Range<usize>) -> &mut [u8] {
        self.data.part_mut(place.clone())
    }

    /// The request has ended, and is answered next.
    pub fn release(&mut self) {
        self.reserved -= 1;
    }

    /// Where the data of the next reply goes; page-aligned. Only after [`Replies::has_room`].
    pub fn spare(&mut self, len: usize) -> &mut [u8] {
        self.data.part_mut(self.used..self.used + len)
    }

    /// A reply without data.
    pub fn done(&mut self, mark: Mark) {
        match self.form {
            Form::Simple | Form::Structured => self.head(&wire::encode_simple(mark.cookie, 0)),
            Form::Extended => self.chunk_none(mark),
        }
    }

    /// A whole reply to a read whose `len` bytes are in [`Replies::spare`].
    pub fn data(&mut self, mark: Mark, len: usize) {
        match self.form {
            Form::Simple => self.simple_data(mark, len),
            Form::Structured | Form::Extended => self.chunk_data(mark, true, mark.offset, len, len),
        }
    }

    /// A whole reply to a read whose data are in a place that was reserved.
    pub fn data_at(&mut self, mark: Mark, place: Range<usize>) {
        let len = place.len();
        match self.form {
            Form::Simple => self.head(&wire::encode_simple(mark.cookie, 0)),
            Form::Structured | Form::Extended => self.data_head(mark, chunk::DONE, mark.offset, len),
        }
        self.parts.push(Part::Data(place));
    }

    /// A reply that the request failed; if there is an offset, from there on.
    pub fn failed(&mut self, mark: Mark, failure: Failure, offset: Option<u64>) {
        if self.form == Form::Simple {
            return self.head(&wire::encode_simple(mark.cookie, failure.error));
        }
        let kind = if offset.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
        let len = 6 + failure.text.len() + if offset.is_some() { 8 } else { 0 };
        self.chunk(mark, chunk::DONE, kind, len as u64);
        self.head(&failure.error.to_be_bytes());
        self.head(&(failure.text.len() as u16).to_be_bytes());
        self.head(failure.text.as_bytes());
        if let Some(offset) = offset {
            self.head(&offset.to_be_bytes());
        }
    }

    /// The head of a simple reply, `len` bytes in [`Replies::spare`] follow.
    pub fn simple_data(&mut self, mark: Mark, len: usize) {
        self.head(&wire::encode_simple(mark.cookie, 0));
        self.more_data(len);
    }

    /// `len` bytes in [`Replies::spare`] go on with the data begun before.
    pub fn more_data(&mut self, len: usize) {
        self.parts.push(Part::Data(self.used..self.used + len));
        self.used = (self.used + len).next_multiple_of(ALIGN).min(PIECE);
    }

    /// The head of a data chunk that says `total` bytes; `len` of them are in [`Replies::spare`].
    pub fn chunk_data(&mut self, mark: Mark, done: bool, offset: u64, total: usize, len: usize) {
        let flags = if done { chunk::DONE } else { 0 };
        self.data_head(mark, flags, offset, total);
        self.more_data(len);
    }

    fn data_head(&mut self, mark: Mark, flags: u16, offset: u64, total: usize) {
        self.chunk(mark, flags, chunk::OFFSET_DATA, total as u64 + 8);
        self.head(&offset.to_be_bytes());
    }

    /// A chunk that says that a range is zeros.
    pub fn chunk_hole(&mut self, mark: Mark, done: bool, offset: u64, len: u32) {
        let flags = if done { chunk::DONE } else { 0 };
        self.chunk(mark, flags, chunk::OFFSET_HOLE, 12);
        self.head(&offset.to_be_bytes());
        self.head(&len.to_be_bytes());
    }

    /// The last chunk of a reply, without content.
    pub fn chunk_none(&mut self, mark: Mark) {
        self.chunk(mark, chunk::DONE, chunk::NONE, 0);
    }

    /// A whole block status reply: lengths and states.
    pub fn block_status(&mut self, mark: Mark, extents: &[(u64, u32)]) {
        let id = wire::BASE_ALLOCATION_ID.to_be_bytes();
        if self.form == Form::Extended {
            self.chunk(mark, chunk::DONE, chunk::BLOCK_STATUS_EXT, 8 + 16 * extents.len() as u64);
            self.head(&id);
            self.head(&(extents.len() as u32).to_be_bytes());
            for &(len, state) in extents {
                self.head(&len.to_be_bytes());
                self.head(&u64::from(state).to_be_bytes());
            }
            return;
        }
        self.chunk(mark, chunk::DONE, chunk::BLOCK_STATUS, 4 + 8 * extents.len() as u64);
        self.head(&id);
        for &(len, state) in extents {
            // No longer than the request, whose length has 32 bits.
            self.head(&(len as u32).to_be_bytes());
            self.head(&state.to_be_bytes());
        }
    }

    fn chunk(&mut self, mark: Mark, flags: u16, kind: u16, len: u64) {
        match self.form {
            Form::Extended => self.head(&wire::encode_extended_chunk(mark, flags, kind, len)),
            // Limits of payloads and of extents keep it far below 32 bits.
            Form::Simple | Form::Structured => self.head(&wire::encode_chunk(mark.cookie, flags, kind, len as u32)),
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

    /// Sends all that waits. Blocks while the client does not read, so that nothing may be under way.
    pub fn send(&mut self, channel: &Channel) -> io::Result<()> {
        if self.parts.is_empty() { Ok(()) } else { self.send_parts(channel) }
    }

    /// By itself, so that its slices are not on the stack of a thread that waits for requests.
    #[inline(never)]
    fn send_parts(&mut self, channel: &Channel) -> io::Result<()> {
        // One more than the limit: a reply may be begun with one part left.
        let mut slices: [IoSlice<'_>; MAX_PARTS + 2] = std::array::from_fn(|_| IoSlice::new(&[]));
        debug_assert_eq!(self.reserved, 0);
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(match part {
                Part::Heads(range) => &self.heads[range.clone()],
                Part::Data(range) => self.data.part(range.clone()),
            });
        }
        let mut left = &mut slices[..self.parts.len()];
        while !left.is_empty() {
            match channel.write_vectored(left) {
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
