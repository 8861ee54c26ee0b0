//! Memory of a connection: aligned, allocated once, touched only as far as it is used.

use super::limits::RECEIVE_BUFFER;
use super::wire::REQUEST;

/// Alignment of payloads in bytes: a page, so that a device may pass them to direct I/O as they are.
pub const ALIGN: usize = 4096;

/// Zero-filled memory that begins at a multiple of [`ALIGN`].
pub struct AlignedBuf {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` bytes. The system hands out the pages when they are first used.
    pub fn new(len: usize) -> AlignedBuf {
        let memory = vec![0; len + ALIGN];
        let start = (ALIGN - memory.as_ptr().addr() % ALIGN) % ALIGN;
        AlignedBuf { memory, start, len }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// All of it, for change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// What was received and not used yet.
pub struct Inbox {
    buf: AlignedBuf,
    start: usize,
    end: usize,
}

impl Inbox {
    /// An empty inbox of [`RECEIVE_BUFFER`] bytes.
    pub fn new() -> Inbox {
        Inbox { buf: AlignedBuf::new(RECEIVE_BUFFER), start: 0, end: 0 }
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> &[u8] {
        &self.buf.bytes()[self.start..self.end]
    }

    /// The next request's header, if all of it is here.
    pub fn request(&self) -> Option<&[u8; REQUEST]> {
        self.bytes().first_chunk()
    }

    /// Drops `n` of the bytes that wait.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room for more, never empty as long as no more than a request with a small payload waits: what waits is moved to the front.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buf.bytes_mut().copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buf.bytes_mut()[self.end..]
    }

    /// `n` bytes were put into [`Inbox::room`].
    pub fn received(&mut self, n: usize) {
        self.end += n;
        debug_assert!(self.end <= RECEIVE_BUFFER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_at_a_page() {
        for len in [1, 4096, 1 << 20] {
            let buf = AlignedBuf::new(len);
            assert_eq!(buf.bytes().as_ptr().addr() % ALIGN, 0);
            assert_eq!(buf.bytes().len(), len);
        }
    }

    #[test]
    fn an_inbox_keeps_the_order_of_bytes_over_any_sequence_of_pieces() {
        let mut inbox = Inbox::new();
        let (mut sent, mut taken) = (0u64, 0u64);
        let mut state = 12345u32;
        for _ in 0..2000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = (state >> 8) as usize % 4096;
            let room = inbox.room();
            let n = n.min(room.len());
            for b in &mut room[..n] {
                *b = (sent % 251) as u8;
                sent += 1;
            }
            inbox.received(n);
            let n = (state >> 20) as usize % 4096;
            let n = n.min(inbox.bytes().len());
            for b in &inbox.bytes()[..n] {
                assert_eq!(*b, (taken % 251) as u8);
                taken += 1;
            }
            inbox.consume(n);
        }
        assert!(taken > 100_000);
    }
}
