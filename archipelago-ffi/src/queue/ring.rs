//! Operations that wait, the threads that carry them out, and their ends until somebody collects them.
//!
//! Everything is made with the ring, and nothing is allocated for an operation. No lock is held while one is carried out.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::archip_completion;
use crate::error::{Error, Result, panic_text};

/// An operation.
pub trait Work: Send + 'static {
    /// What its completion is recognised by.
    fn tag(&self) -> u64;
    /// Carries it out; 0 or a negative errno.
    fn run(&self) -> i32;
    /// Told when it panicked.
    fn failed_inside(&self);
}

/// Operations in flight and their ends.
pub struct Ring<W: Work> {
    shared: Arc<Shared<W>>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared<W> {
    depth: u32,
    waiting: Mutex<Waiting<W>>,
    /// Something waits, or the ring is closed; with `waiting`.
    work: Condvar,
    ends: Mutex<Ends>,
    /// Enough completions are there, or nobody is to wait any more; with `ends`.
    arrived: Condvar,
}

struct Waiting<W> {
    /// Never more than the depth, for which there is room.
    jobs: VecDeque<W>,
    /// Threads that wait for one.
    idle: usize,
    closed: bool,
}

struct Ends {
    /// Never more than `outstanding`, which is never more than the depth.
    ready: VecDeque<archip_completion>,
    /// Submitted and not collected, those in `ready` included.
    outstanding: usize,
    /// Threads inside `wait`.
    waiters: usize,
    /// No waiter wants fewer than this.
    wanted: usize,
    /// Nobody is to wait any more.
    closing: bool,
    /// Made when it is asked for; its counter is 1 if something is ready, and 0 otherwise.
    event: Option<OwnedFd>,
}

impl<W: Work> Ring<W> {
    /// A ring of that depth, with so many threads; without any, operations are carried out by who submits them.
    pub fn new(depth: u32, threads: usize) -> Result<Ring<W>> {
        let room = if threads == 0 { 0 } else { depth as usize };
        let shared = Arc::new(Shared {
            depth,
            waiting: Mutex::new(Waiting { jobs: VecDeque::with_capacity(room), idle: 0, closed: false }),
            work: Condvar::new(),
            ends: Mutex::new(Ends {
                ready: VecDeque::with_capacity(depth as usize),
                outstanding: 0,
                waiters: 0,
                wanted: 0,
                closing: false,
                event: None,
            }),
            arrived: Condvar::new(),
        });
        let mut ring = Ring { shared, workers: Vec::with_capacity(threads) };
        for _ in 0..threads {
            let shared = ring.shared.clone();
            let worker = thread::Builder::new().name("archip-queue".into()).spawn(move || shared.carry_out_all());
            // If not all can be started, those that were end with the ring.
            ring.workers.push(worker.map_err(|source| Error::System { op: "start a thread", source })?);
        }
        Ok(ring)
    }

    /// Operations that may be submitted and not collected.
    pub fn depth(&self) -> u32 {
        self.shared.depth
    }

    /// Submits the next operations, up to `count`, as `next` gives them. Returns how many were taken, and the error of the first
    /// that was not.
    pub fn submit(&self, count: usize, next: &mut dyn FnMut() -> Result<W>) -> (usize, Result<()>) {
        let reserved = self.shared.reserve(count);
        let full = || if reserved < count { Err(Error::Full(self.shared.depth)) } else { Ok(()) };
        let mut taken = 0;
        let mut result = Ok(());
        if self.workers.is_empty() {
            while taken < reserved {
                match next() {
                    Ok(work) => self.shared.carry_out(work),
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
                taken += 1;
            }
        } else {
            let mut waiting = self.shared.waiting.lock();
            while taken < reserved {
                match next() {
                    Ok(work) => waiting.jobs.push_back(work),
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
                taken += 1;
            }
            // A thread that was woken counts as idle until it has run; one wake-up too many does no harm.
            let wake = waiting.idle.min(taken);
            drop(waiting);
            for _ in 0..wake {
                self.shared.work.notify_one();
            }
        }
        self.shared.give_back(reserved - taken);
        (taken, result.and_then(|()| full()))
    }

    /// Waits until `least` completions are there, or `timeout` is over, and hands at most `capacity` of them to `each`, with a
    /// lock held.
    pub fn wait(
        &self,
        capacity: usize,
        least: usize,
        timeout: Option<Duration>,
        each: &mut dyn FnMut(archip_completion),
    ) -> Result<()> {
        // A timeout past the end of the clock is none; without one the clock is not asked.
        let deadline = timeout.filter(|t| !t.is_zero()).map(|t| Instant::now().checked_add(t));
        let mut ends = self.shared.ends.lock();
        if ends.ready.len() < least && timeout != Some(Duration::ZERO) {
            ends.wanted = if ends.waiters == 0 { least } else { ends.wanted.min(least) };
            ends.waiters += 1;
            while ends.ready.len() < least && !ends.closing {
                match deadline.flatten() {
                    None => self.shared.arrived.wait(&mut ends),
                    Some(at) if self.shared.arrived.wait_until(&mut ends, at).timed_out() => break,
                    Some(_) => {}
                }
            }
            ends.waiters -= 1;
        }
        if ends.closing {
            return Err(Error::Closing);
        }
        let count = ends.ready.len().min(capacity);
        ends.ready.drain(..count).for_each(each);
        ends.outstanding -= count;
        if count > 0 && ends.ready.is_empty() {
            ends.reset();
        }
        Ok(())
    }

    /// Wakes all who wait: they get `Closing`, as does everybody from then on.
    pub fn wake_waiting(&self) {
        self.shared.ends.lock().closing = true;
        self.shared.arrived.notify_all();
    }

    /// The descriptor that is readable as long as something is there to collect.
    pub fn eventfd(&self) -> Result<c_int> {
        let mut ends = self.shared.ends.lock();
        if ends.event.is_none() {
            let initial = u32::from(!ends.ready.is_empty());
            // SAFETY: no memory is involved.
            let descriptor = unsafe { libc::eventfd(initial, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
            if descriptor < 0 {
                return Err(Error::System { op: "make an eventfd", source: io::Error::last_os_error() });
            }
            // SAFETY: just made, and nobody else's.
            ends.event = Some(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
        Ok(ends.event.as_ref().map_or(-1, |event| event.as_raw_fd()))
    }
}

impl<W: Work> Drop for Ring<W> {
    /// What was submitted is carried out first.
    fn drop(&mut self) {
        self.shared.waiting.lock().closed = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // It never panics, so there is nothing to hear of.
            let _ = worker.join();
        }
    }
}

impl<W: Work> Shared<W> {
    /// Makes room for up to `count` completions; how many.
    fn reserve(&self, count: usize) -> usize {
        let mut ends = self.ends.lock();
        let room = count.min(self.depth as usize - ends.outstanding);
        ends.outstanding += room;
        room
    }

    fn give_back(&self, count: usize) {
        if count > 0 {
            self.ends.lock().outstanding -= count;
        }
    }

    /// Carries out jobs until the ring is closed and none is left.
    fn carry_out_all(&self) {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(work) = waiting.jobs.pop_front() {
                drop(waiting);
                self.carry_out(work);
                waiting = self.waiting.lock();
            } else if waiting.closed {
                return;
            } else {
                waiting.idle += 1;
                self.work.wait(&mut waiting);
                waiting.idle -= 1;
            }
        }
    }

    fn carry_out(&self, work: W) {
        let user_data = work.tag();
        let result = catch_unwind(AssertUnwindSafe(|| work.run())).unwrap_or_else(|payload| {
            panic_text(payload);
            work.failed_inside();
            -libc::EIO
        });
        // Before the completion is seen: its reader may close the volume, and need not wait for this. That is done by handle
        // then; what goes here is but a use of it.
        drop(work);
        let mut ends = self.ends.lock();
        ends.ready.push_back(archip_completion { user_data, result, reserved: 0 });
        if ends.ready.len() == 1 {
            ends.set();
        }
        if ends.waiters > 0 && ends.ready.len() >= ends.wanted {
            // All of them: one that wants more than there is must not swallow the signal of one that has enough.
            self.arrived.notify_all();
        }
    }
}

impl Ends {
    /// Makes the descriptor readable. With the lock held, so that it never says what is not so; neither call waits.
    fn set(&self) {
        if let Some(event) = &self.event {
            let one = 1_u64;
            // SAFETY: eight bytes of ours are read. It cannot fail: the counter is 0, or 1 if somebody else wrote to it.
            unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
        }
    }

    /// Ends its readiness.
    fn reset(&self) {
        if let Some(event) = &self.event {
            let mut count = 0_u64;
            // SAFETY: eight bytes of ours are written. If somebody else has read it, there is nothing to reset.
            unsafe { libc::read(event.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        }
    }
}

#[cfg(test)]
mod tests;
