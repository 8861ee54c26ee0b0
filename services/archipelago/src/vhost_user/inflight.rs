//! Requests under way, noted in memory that the front end keeps while back ends come and go: what one that died had taken and not
//! given back, the next carries out again.
//!
//! Source: vhost-user specification, "Inflight I/O tracking", the layout for split virtqueues. Each queue has a head of 16 bytes and then
//! 16 bytes for each descriptor, and begins at a multiple of 64.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use super::limits::{MAX_QUEUE_SIZE, MAX_QUEUES};

/// Bytes before the descriptors of a queue: features, version, number of descriptors, head of the last batch, used index.
const HEAD: usize = 16;
/// Bytes for a descriptor: whether it is under way, the one before it in its batch, its number in order.
const ENTRY: usize = 16;
/// Queues begin at multiples of this.
const ALIGN: usize = 64;
/// Layout of a split virtqueue.
const VERSION: u16 = 1;

/// What a front end is told of the memory, and tells a back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes.
    pub len: u64,
    /// Where in its file it begins.
    pub offset: u64,
    /// Queues.
    pub queues: u16,
    /// Descriptors of each.
    pub size: u16,
}

/// The memory, mapped.
#[derive(Debug)]
pub struct Inflight {
    start: NonNull<u8>,
    len: usize,
    shape: Shape,
}

// SAFETY: an address and a length; all accesses are atomic, for a front end may write there at any time.
unsafe impl Send for Inflight {}
// SAFETY: as above.
unsafe impl Sync for Inflight {}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn queue_len(size: u16) -> usize {
    (HEAD + ENTRY * usize::from(size)).next_multiple_of(ALIGN)
}

impl Inflight {
    /// New memory for so many queues, and its file for the front end.
    pub fn make(queues: u16, size: u16) -> io::Result<(Shape, OwnedFd)> {
        let shape = Shape { len: (queue_len(size) * usize::from(queues)) as u64, offset: 0, queues, size };
        check(&shape)?;
        // SAFETY: the name is a NUL-terminated string.
        let fd = unsafe { libc::memfd_create(c"inflight".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and nobody else knows of it.
        let file = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        let file = std::fs::File::from(file);
        file.set_len(shape.len)?;
        // SAFETY: takes no pointer. Sealed, so that nobody takes the memory away under its users.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) };
        Ok((shape, file.into()))
    }

    /// Maps what the front end kept.
    pub fn map(shape: Shape, file: &OwnedFd) -> io::Result<Inflight> {
        check(&shape)?;
        let stat = nix::sys::stat::fstat(file)?;
        let end = shape.offset.checked_add(shape.len).filter(|end| *end <= stat.st_size as u64);
        let (Some(_), true) = (end, shape.offset.is_multiple_of(4096)) else {
            return Err(invalid(format!("{shape:?} in a file of {} bytes", stat.st_size)));
        };
        let (prot, len) = (libc::PROT_READ | libc::PROT_WRITE, shape.len as usize);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), len, prot, libc::MAP_SHARED, file.as_raw_fd(), shape.offset as libc::off_t)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Inflight { start, len, shape })
    }

    /// What is noted of a queue of this size; `None` if there is no place for it.
    pub fn queue(self: &Arc<Inflight>, index: usize, size: u16) -> Option<Track> {
        let fits = index < usize::from(self.shape.queues) && size <= self.shape.size;
        let start = queue_len(self.shape.size) * index;
        fits.then(|| Track { memory: self.clone(), start, size, counter: 0 })
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        // SAFETY: our own mapping; whoever uses it holds it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

fn check(shape: &Shape) -> io::Result<()> {
    let needed = (queue_len(shape.size) * usize::from(shape.queues)) as u64;
    let possible = usize::from(shape.queues) <= MAX_QUEUES && shape.size <= MAX_QUEUE_SIZE && shape.queues > 0;
    if possible && (needed..=needed.saturating_add(1 << 20)).contains(&shape.len) {
        Ok(())
    } else {
        Err(invalid(format!("{shape:?} for the requests under way, which need {needed} bytes")))
    }
}

/// What is noted of one queue.
#[derive(Debug)]
pub struct Track {
    memory: Arc<Inflight>,
    start: usize,
    size: u16,
    counter: u64,
}

impl Track {
    fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: within the mapping and aligned: queues begin at multiples of 64 of a page, and offsets here are even and below the
        // length of a queue.
        unsafe { AtomicU16::from_ptr(self.memory.start.as_ptr().add(self.start + offset).cast()) }
    }

    fn under_way(&self, head: u16) -> &AtomicU8 {
        let offset = self.start + HEAD + ENTRY * usize::from(head);
        // SAFETY: within the mapping, for heads are below the size.
        unsafe { AtomicU8::from_ptr(self.memory.start.as_ptr().add(offset)) }
    }

    fn order(&self, head: u16) -> &AtomicU64 {
        let offset = self.start + HEAD + ENTRY * usize::from(head) + 8;
        // SAFETY: within the mapping, for heads are below the size, and aligned to eight bytes.
        unsafe { AtomicU64::from_ptr(self.memory.start.as_ptr().add(offset).cast()) }
    }

    fn last_batch(&self) -> &AtomicU16 {
        self.u16(12)
    }

    fn used(&self) -> &AtomicU16 {
        self.u16(14)
    }

    /// The requests that a former back end had taken and not given back, in the order in which it took them. `used` is the queue's
    /// used index.
    pub fn recover(&mut self, used: u16) -> Vec<u16> {
        if self.u16(8).load(Ordering::Acquire) != VERSION {
            // Nobody has noted anything yet.
            self.u16(8).store(VERSION, Ordering::Release);
            self.u16(10).store(self.size, Ordering::Release);
        } else if self.used().load(Ordering::Acquire) != used {
            // It died between showing the guest that it had given the last one back and noting so.
            let head = self.last_batch().load(Ordering::Acquire);
            if head < self.size {
                self.under_way(head).store(0, Ordering::Release);
            }
        }
        self.used().store(used, Ordering::Release);
        let mut heads: Vec<(u64, u16)> = (0..self.size)
            .filter(|head| self.under_way(*head).load(Ordering::Acquire) == 1)
            .map(|head| (self.order(head).load(Ordering::Acquire), head))
            .collect();
        heads.sort_unstable();
        self.counter = heads.last().map_or(0, |(last, _)| last.wrapping_add(1));
        heads.into_iter().map(|(_, head)| head).collect()
    }

    /// A request is taken.
    pub fn begin(&mut self, head: u16) {
        self.order(head).store(self.counter, Ordering::Relaxed);
        self.counter = self.counter.wrapping_add(1);
        self.under_way(head).store(1, Ordering::Release);
    }

    /// A request is about to be given back.
    pub fn ending(&self, head: u16) {
        self.last_batch().store(head, Ordering::Release);
    }

    /// The guest was shown that it is given back; `used` is the queue's used index since.
    pub fn ended(&self, head: u16, used: u16) {
        self.under_way(head).store(0, Ordering::Release);
        self.used().store(used, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked() -> (Shape, OwnedFd) {
        Inflight::make(2, 8).unwrap()
    }

    fn track(shape: Shape, file: &OwnedFd) -> Track {
        Arc::new(Inflight::map(shape, file).unwrap()).queue(1, 8).unwrap()
    }

    #[test]
    fn what_a_back_end_had_under_way_the_next_finds_in_order() {
        let (shape, file) = tracked();
        let mut first = track(shape, &file);
        assert_eq!(first.recover(0), Vec::<u16>::new());
        for head in [5, 2, 7] {
            first.begin(head);
        }
        first.ending(5);
        first.ended(5, 1);
        drop(first);
        assert_eq!(track(shape, &file).recover(1), [2, 7]);
        // Again: it died before it did anything.
        assert_eq!(track(shape, &file).recover(1), [2, 7]);
    }

    #[test]
    fn one_that_the_guest_saw_given_back_is_not_repeated() {
        let (shape, file) = tracked();
        let mut first = track(shape, &file);
        first.recover(0);
        first.begin(3);
        first.ending(3);
        // The guest sees used index 1, and the back end dies here.
        assert_eq!(track(shape, &file).recover(1), Vec::<u16>::new());
    }

    #[test]
    fn memory_that_cannot_be_is_refused() {
        let (shape, file) = tracked();
        for bad in [
            Shape { queues: 0, ..shape },
            Shape { queues: 3, ..shape },
            Shape { size: 64, ..shape },
            Shape { len: shape.len - 1, ..shape },
            Shape { len: u64::MAX, ..shape },
            Shape { offset: 4096, ..shape },
            Shape { offset: u64::MAX, ..shape },
        ] {
            assert!(Inflight::map(bad, &file).is_err(), "{bad:?}");
        }
        let memory = Arc::new(Inflight::map(shape, &file).unwrap());
        assert!(memory.queue(2, 8).is_none() && memory.queue(0, 16).is_none());
    }
}
