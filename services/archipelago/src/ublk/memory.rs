//! What a queue shares with the kernel: descriptions of its requests, which the kernel writes; and a buffer for each of them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use super::wire::{DESCRIPTION, Description, descriptions};

/// A mapping of our own.
struct Mapping {
    memory: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, whichever thread has it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes, not 0, of a file from `offset`, or fresh memory.
    fn new(len: usize, protection: i32, file: Option<(&File, i64)>) -> io::Result<Mapping> {
        let (kind, fd, offset) = match file {
            Some((file, offset)) => (libc::MAP_SHARED | libc::MAP_POPULATE, file.as_raw_fd(), offset),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
        };
        // SAFETY: a new mapping, wherever the system likes: nothing that exists is touched.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, kind, fd, offset) };
        match NonNull::new(memory.cast::<u8>()) {
            Some(start) if memory != libc::MAP_FAILED => Ok(Mapping { memory: start, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and this is its end.
        let _ = unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len) };
    }
}

/// The descriptions of a queue's requests.
pub struct Descriptions {
    mapping: Mapping,
    depth: u16,
}

impl Descriptions {
    /// Those of a queue of a device.
    pub fn map(device: &File, queue: u16, depth: u16) -> io::Result<Descriptions> {
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(|_| io::Error::last_os_error())?;
        let (offset, len) = descriptions(queue, depth, page);
        Ok(Descriptions { mapping: Mapping::new(len, libc::PROT_READ, Some((device, offset)))?, depth })
    }

    /// What a request asks for, of which the kernel has said that it is there.
    pub fn get(&self, number: u16) -> Option<Description> {
        if number >= self.depth {
            return None;
        }
        // SAFETY: within the mapping, which has room for `depth` of them.
        let start = unsafe { self.mapping.memory.as_ptr().add(usize::from(number) * DESCRIPTION) };
        // SAFETY: as above. The kernel changes it only when the request was given back; volatile, for it may then be another one.
        Some(Description::decode(&unsafe { start.cast::<[u8; DESCRIPTION]>().read_volatile() }))
    }
}

/// The buffers of a queue's requests, each beginning at a page.
pub struct Buffers {
    mapping: Mapping,
    each: usize,
}

impl Buffers {
    /// So many of so many bytes, a multiple of a page. The system hands out their pages when they are first used.
    pub fn new(count: u16, each: usize) -> io::Result<Buffers> {
        let len = usize::from(count).checked_mul(each).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Buffers { mapping: Mapping::new(len, libc::PROT_READ | libc::PROT_WRITE, None)?, each })
    }

    /// Where a buffer is, for the kernel.
    pub fn address(&self, number: u16) -> u64 {
        self.mapping.memory.as_ptr() as u64 + u64::from(number) * self.each as u64
    }

    /// The first `len` bytes of a buffer; fewer if it has fewer.
    ///
    /// # Safety
    ///
    /// The request with this number was handed out and not given back, nobody else has its buffer, and the queue lives as long as the slice
    /// is used.
    pub unsafe fn get<'a>(&self, number: u16, len: usize) -> &'a mut [u8] {
        let start = usize::from(number) * self.each;
        if start >= self.mapping.len {
            return &mut [];
        }
        let len = len.min(self.each);
        // SAFETY: within the mapping, which has whole buffers, initialized by the system; by the caller's promise nobody else has these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.memory.as_ptr().add(start), len) }
    }

    /// Gives the pages back, while no request is handed out: what is in them is nobody's.
    pub fn rest(&mut self) {
        // SAFETY: pages of a private anonymous mapping of our own, of which nobody has a slice. If it fails they stay as they are.
        let _ = unsafe { libc::madvise(self.mapping.memory.as_ptr().cast(), self.mapping.len, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_lie_apart_and_are_empty_after_a_rest() {
        let mut buffers = Buffers::new(3, 8192).unwrap();
        assert_eq!(buffers.address(2) - buffers.address(0), 16_384);
        assert_eq!(buffers.address(0) % 4096, 0);
        // SAFETY: nothing else uses the buffers here.
        let (first, last) = unsafe { (buffers.get(0, 8192), buffers.get(2, 1 << 20)) };
        assert_eq!((first.len(), last.len()), (8192, 8192));
        first.fill(1);
        last.fill(2);
        assert!(first.iter().all(|byte| *byte == 1));
        buffers.rest();
        // SAFETY: as above; the slices from before are not used any more.
        assert!(unsafe { buffers.get(2, 8192) }.iter().all(|byte| *byte == 0));
        // SAFETY: as above.
        assert!(unsafe { buffers.get(7, 8192) }.is_empty());
    }
}
