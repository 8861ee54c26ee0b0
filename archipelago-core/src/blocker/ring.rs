//! Reads and writes that are under way together: io_uring, and a stand-in for systems that are simulated.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};

use super::sys::{Fd, Sys};

/// Tag of the look at what wakes.
const WOKEN: u64 = u64::MAX;
/// `IORING_ENTER_GETEVENTS`: the kernel looks for what has ended, also if nothing is waited for.
const GETEVENTS: u32 = 1;

/// A read or write that is given to a [`Ring`].
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The file.
    pub fd: Fd,
    /// Whether it is a write.
    pub write: bool,
    /// Buffers.
    pub list: *const libc::iovec,
    /// How many.
    pub count: usize,
    /// Where in the file.
    pub offset: u64,
    /// What its end is known by.
    pub tag: u64,
}

/// Reads and writes of one thread that are under way together. Dropped, it waits for none of them: that is its user's part.
pub trait Ring {
    /// Takes a request, to be begun with the next [`Ring::wait`]. `false` if no more fit.
    ///
    /// # Safety
    ///
    /// The list and its buffers stay, and nobody else uses those that are read into, until the end of the request was told.
    unsafe fn ask(&mut self, asked: Asked) -> bool;
    /// Begins what was taken, waits until at least `least` requests have ended or somebody wakes the ring, and tells of all that have:
    /// the tag, and the bytes moved, which may be fewer than were asked for. `sys` is whose ring it is.
    fn wait(&mut self, sys: &dyn Sys, least: usize, each: &mut dyn FnMut(u64, io::Result<usize>));
    /// What ends a wait, from any thread.
    fn waker(&self) -> Waker;
}

/// Ends waits of a [`Ring`].
#[derive(Clone, Debug)]
pub struct Waker(Option<Event>);

/// Whether this process may use io_uring.
pub fn is_there() -> bool {
    matches!(Uring::new(1), Ok(Some(_)))
}

/// A ring of the kernel.
pub(super) struct Uring {
    ring: IoUring,
    event: Event,
    /// The kernel looks whether somebody wakes.
    armed: bool,
}

impl Uring {
    /// A ring with room for so many requests. `None` where the kernel has none, or forbids it.
    pub(super) fn new(requests: usize) -> io::Result<Option<Uring>> {
        // One more for what wakes.
        let entries = (requests as u32 + 1).next_power_of_two();
        // What has ended is brought in when this thread asks for it, and does not interrupt it (Linux 6.1).
        let quiet = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
        let made =
            quiet.or_else(|e| if e.raw_os_error() == Some(libc::EINVAL) { IoUring::new(entries) } else { Err(e) });
        let ring = match made {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EACCES)) => return Ok(None),
            made => made?,
        };
        Ok(Some(Uring { ring, event: Event::new()?, armed: false }))
    }
}

impl Ring for Uring {
    unsafe fn ask(&mut self, asked: Asked) -> bool {
        let (fd, count) = (types::Fd(asked.fd.0), asked.count as u32);
        // SAFETY: the caller's promise.
        let first = unsafe { *asked.list };
        // The kernel takes one buffer faster than a list of one.
        let entry = match (asked.write, asked.count) {
            (false, 1) => {
                opcode::Read::new(fd, first.iov_base.cast(), first.iov_len as u32).offset(asked.offset).build()
            }
            (true, 1) => {
                opcode::Write::new(fd, first.iov_base.cast(), first.iov_len as u32).offset(asked.offset).build()
            }
            (false, _) => opcode::Readv::new(fd, asked.list, count).offset(asked.offset).build(),
            (true, _) => opcode::Writev::new(fd, asked.list, count).offset(asked.offset).build(),
        };
        // SAFETY: the caller's promise.
        unsafe { self.ring.submission().push(&entry.user_data(asked.tag)) }.is_ok()
    }

    fn wait(&mut self, _: &dyn Sys, least: usize, each: &mut dyn FnMut(u64, io::Result<usize>)) {
        if !self.armed && least > 0 {
            let look = opcode::PollAdd::new(types::Fd(self.event.0.as_raw_fd()), libc::POLLIN as u32).build();
            // SAFETY: it has no buffers.
            self.armed = unsafe { self.ring.submission().push(&look.user_data(WOKEN)) }.is_ok();
        }
        let (mut told, mut woken) = (0, false);
        loop {
            let left = least.saturating_sub(told) as u32;
            let asked = self.ring.submission().len() as u32;
            // SAFETY: what was pushed is as its callers promised.
            let entered = unsafe { self.ring.submitter().enter::<libc::sigset_t>(asked, left, GETEVENTS, None) };
            if let Err(e) = entered
                && !matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM))
            {
                // The kernel may still use buffers that their owners would get back.
                eprintln!("archipelago: a ring of requests does not answer any more: {e}");
                std::process::abort();
            }
            for entry in self.ring.completion() {
                if entry.user_data() == WOKEN {
                    (self.armed, woken) = (false, true);
                    continue;
                }
                told += 1;
                let moved = usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
                each(entry.user_data(), moved);
            }
            if woken {
                self.event.take();
                return;
            }
            if told >= least {
                return;
            }
        }
    }

    fn waker(&self) -> Waker {
        self.event.waker()
    }
}

impl Waker {
    /// Ends the wait of the ring that is under way, or else its next one.
    pub fn wake(&self) {
        if let Some(event) = &self.0 {
            event.ring();
        }
    }
}

/// What one thread waits for and any other rings: a counter of the kernel.
#[derive(Clone, Debug)]
pub(super) struct Event(Arc<OwnedFd>);

impl Event {
    pub(super) fn new() -> io::Result<Event> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, and nobody else's.
        Ok(Event(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Adds one to the counter, and wakes who waits.
    pub(super) fn ring(&self) {
        let one = 1_u64;
        // SAFETY: eight bytes of ours are read. A counter that takes no more wakes as well.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    /// Waits until the counter is not 0. May return before, after a signal.
    pub(super) fn wait(&self) {
        let mut look = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one place of ours to look at.
        unsafe { libc::poll(&mut look, 1, -1) };
    }

    /// The counter, which is 0 from then on.
    pub(super) fn take(&self) -> u64 {
        let mut count = 0_u64;
        // SAFETY: eight bytes of ours are written, or none where it is 0.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        count
    }

    pub(super) fn waker(&self) -> Waker {
        Waker(Some(self.clone()))
    }
}

/// A ring that makes calls of its system when it is waited for, the last first, and no more of them than it has to: so that many are
/// under way for long, and end in another order. For simulated disks.
pub(super) struct InTurn {
    asked: Vec<Asked>,
    room: usize,
}

impl InTurn {
    pub(super) fn new(requests: usize) -> InTurn {
        InTurn { asked: Vec::with_capacity(requests), room: requests }
    }
}

impl Ring for InTurn {
    unsafe fn ask(&mut self, asked: Asked) -> bool {
        let fits = self.asked.len() < self.room;
        if fits {
            self.asked.push(asked);
        }
        fits
    }

    fn wait(&mut self, sys: &dyn Sys, least: usize, each: &mut dyn FnMut(u64, io::Result<usize>)) {
        for _ in 0..least {
            let Some(asked) = self.asked.pop() else { return };
            // `IoSlice` and `IoSliceMut` are documented to be ABI compatible with `iovec`.
            let moved = if asked.write {
                // SAFETY: by the promise of `ask`; the list is used for the length of the call.
                let bufs: &[IoSlice<'_>] = unsafe { std::slice::from_raw_parts(asked.list.cast(), asked.count) };
                let len = bufs.iter().map(|buf| buf.len()).sum();
                sys.pwritev_past(asked.fd, bufs, asked.offset).map(|()| len)
            } else {
                // SAFETY: as above, and nobody else uses the buffers meanwhile.
                let bufs: &mut [IoSliceMut<'_>] =
                    unsafe { std::slice::from_raw_parts_mut(asked.list.cast_mut().cast(), asked.count) };
                sys.preadv(asked.fd, bufs, asked.offset)
            };
            each(asked.tag, moved);
        }
    }

    fn waker(&self) -> Waker {
        // Its waits end by themselves.
        Waker(None)
    }
}
