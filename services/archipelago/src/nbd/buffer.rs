//! Memory of a connection: aligned, allocated once, touched only as far as it is used, and given back while the connection rests.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use super::limits::RECEIVE_BUFFER;

/// Alignment of payloads in bytes: a page, so that a device may pass them to direct I/O as they are.
pub const ALIGN: usize = 4096;

/// Lets threads share a few heaps, for a process that has a thread for each client. The C library would give each its own, up to eight for
/// each processor, and every one keeps pages; requests take nothing from a heap, so nobody waits there.
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: sets a number of the allocator under its own lock. If it is refused everything works as before.
        let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, super::limits::HEAPS) };
    }
}

/// Zero-filled memory that begins at a multiple of [`ALIGN`]. A mapping of its own: the heap would keep pages that were used once.
pub struct AlignedBuf {
    memory: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, and is reached through its borrows only.
unsafe impl Send for AlignedBuf {}

impl AlignedBuf {
    /// `len` bytes, not 0. The system hands out the pages when they are first used.
    pub fn new(len: usize) -> io::Result<AlignedBuf> {
        let (protection, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new private mapping, wherever the system likes: nothing that exists is touched.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, kind, -1, 0) };
        match NonNull::new(memory.cast::<u8>()) {
            Some(memory) if memory.as_ptr().cast::<libc::c_void>() != libc::MAP_FAILED => {
                Ok(AlignedBuf { memory, len })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has `len` initialized bytes as long as `self` lives, and whoever changes them borrows `self` for that.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }

    /// All of it, for change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the borrow of `self` is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }

    /// A part of it.
    pub fn part(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the mapping; as above.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(range.start), range.end - range.start) }
    }

    /// A part of it, for change. The rest may be in use by requests that are under way.
    pub fn part_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the mapping; as above.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().add(range.start), range.end - range.start) }
    }

    /// Gives the pages back; afterwards there are zeros.
    pub fn rest(&mut self) {
        // SAFETY: pages of a private anonymous mapping of our own, to which nobody else has a borrow. If it fails they stay as they are.
        let _ = unsafe { libc::madvise(self.memory.as_ptr().cast(), self.len, libc::MADV_DONTNEED) };
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and this is its end.
        let _ = unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len) };
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
    pub fn new() -> io::Result<Inbox> {
        Ok(Inbox { buf: AlignedBuf::new(RECEIVE_BUFFER)?, start: 0, end: 0 })
    }

    /// Gives its memory back if nothing waits.
    pub fn rest(&mut self) {
        if self.start == self.end {
            self.buf.rest();
        }
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> &[u8] {
        &self.buf.bytes()[self.start..self.end]
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
            let buf = AlignedBuf::new(len).unwrap();
            assert_eq!(buf.bytes().as_ptr().addr() % ALIGN, 0);
            assert_eq!(buf.bytes().len(), len);
        }
    }

    #[test]
    fn a_buffer_that_rested_is_as_new() {
        let mut buf = AlignedBuf::new(3 * ALIGN).unwrap();
        buf.bytes_mut().fill(7);
        buf.rest();
        assert!(buf.bytes().iter().all(|b| *b == 0));
        buf.bytes_mut().fill(9);
        assert!(buf.bytes().iter().all(|b| *b == 9));
    }

    #[test]
    fn an_inbox_rests_only_when_nothing_waits() {
        let mut inbox = Inbox::new().unwrap();
        inbox.room()[..3].copy_from_slice(b"abc");
        inbox.received(3);
        inbox.rest();
        assert_eq!(inbox.bytes(), b"abc");
        inbox.consume(3);
        inbox.rest();
        assert_eq!(inbox.room()[..3], [0; 3]);
    }

    #[test]
    fn an_inbox_keeps_the_order_of_bytes_over_any_sequence_of_pieces() {
        let mut inbox = Inbox::new().unwrap();
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
