//! The thread of one queue: takes requests, carries them out one after the other, or together where each waits for a disk, gives them back,
//! and sleeps when there are none.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::inflight::Track;
use super::limits::{SPIN, TOGETHER};
use super::request::{Allowed, Executor, Pending};
use super::ring::{Broken, Chain, Ring};
use crate::disk::device::{Batch, Device};
use crate::disk::spin::{Spin, Spinners};

/// What a queue works with.
pub struct Work {
    /// The queue.
    pub ring: Ring,
    /// Where the guest notifies.
    pub kick: Arc<OwnedFd>,
    /// Where it is notified; nowhere if it looks itself.
    pub call: Option<Arc<OwnedFd>>,
    /// Where it is told that the queue is broken.
    pub err: Option<Arc<OwnedFd>>,
    /// Notes of what is under way.
    pub track: Option<Track>,
    /// What a former back end had under way.
    pub again: Vec<u16>,
    /// The disk.
    pub disk: Arc<dyn Device>,
    /// Its name, as the guest sees it.
    pub name: Arc<str>,
    /// What was agreed on.
    pub allowed: Allowed,
    /// Who may look for requests without sleeping.
    pub spinners: Arc<Spinners>,
}

/// A running queue. Ends when dropped, with the request under way.
pub struct Worker {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<u16>>,
}

struct Stop {
    asked: AtomicBool,
    event: OwnedFd,
}

/// A new descriptor to notify by.
fn event() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    // SAFETY: a descriptor that was just made, if it is one.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

/// Notifies. A descriptor that takes no more was notified already.
fn notify(fd: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes of our own, for the length of the call.
    unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Takes what was notified so far.
fn acknowledge(fd: &OwnedFd) {
    let mut count = [0; 8];
    // SAFETY: eight bytes of our own, for the length of the call.
    unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

impl Worker {
    /// Begins to work.
    pub fn start(index: usize, work: Work) -> io::Result<Worker> {
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), event: event()? });
        let theirs = stop.clone();
        let thread = Builder::new().name(format!("vhost-{index}")).spawn(move || run(work, &theirs))?;
        Ok(Worker { stop, thread: Some(thread) })
    }

    /// Ends after the request that is under way; returns the first that was not taken.
    pub fn stop(mut self) -> Option<u16> {
        self.ask();
        self.thread.take()?.join().ok()
    }

    fn ask(&self) {
        self.stop.asked.store(true, Ordering::Release);
        notify(&self.stop.event);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.ask();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut work: Work, stop: &Stop) -> u16 {
    let spinners = work.spinners.clone();
    let mut spin = Spin::new(&spinners, SPIN);
    if let Err(broken) = serve(&mut work, stop, &mut spin) {
        let volume = &work.name;
        tracing::error!(%volume, reason = %broken, "vhost-user: the queue stays as it is until the guest resets it");
        work.err.iter().for_each(|fd| notify(fd));
    }
    work.ring.next_available()
}

fn serve(work: &mut Work, stop: &Stop, spin: &mut Spin<'_>) -> Result<(), Broken> {
    let (disk, name) = (work.disk.clone(), work.name.clone());
    let mut executor =
        Executor { disk: &*disk, name: &name, allowed: work.allowed, stop: &stop.asked, copy: Vec::new() };
    let mut together = disk.together(TOGETHER).map(Together::new);
    let mut chain = Chain::default();
    let again = std::mem::take(&mut work.again);
    for head in again {
        work.carry_out(head, &mut executor, &mut chain)?;
    }
    // Whoever served the queue before may have given requests back and not said so; a guest that waits for that would wait for ever.
    work.call.iter().for_each(|call| notify(call));
    let ended = work.requests(stop, spin, &mut executor, &mut together, &mut chain);
    // What is under way is the guest's, also of a queue that is broken.
    work.end_all(&mut together);
    work.call();
    ended
}

/// The requests that are under way together.
struct Together {
    // Before the rest: dropped, it waits for all.
    batch: Box<dyn Batch>,
    /// By number: the first descriptor, and what is to be said at the end.
    begun: Vec<Option<(u16, Pending)>>,
    free: Vec<usize>,
}

impl Together {
    fn new(batch: Box<dyn Batch>) -> Together {
        Together { batch, begun: (0..TOGETHER).map(|_| None).collect(), free: (0..TOGETHER).rev().collect() }
    }
}

/// Sleeps until the guest notifies, or a stop is asked for.
fn sleep(kick: &OwnedFd, stop: &OwnedFd) {
    let mut fds = [PollFd::new(kick.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    // An error is a signal or want of memory: the caller looks for requests and comes back.
    let _ = poll(&mut fds, PollTimeout::NONE);
    if fds[0].revents().is_some_and(|events| !events.is_empty()) {
        acknowledge(kick);
    }
}

impl Work {
    /// Takes requests until a stop is asked for.
    fn requests(
        &mut self,
        stop: &Stop,
        spin: &mut Spin<'_>,
        executor: &mut Executor<'_>,
        together: &mut Option<Together>,
        chain: &mut Chain,
    ) -> Result<(), Broken> {
        loop {
            self.ring.notify_me(false);
            while !stop.asked.load(Ordering::Acquire) && together.as_ref().is_none_or(|t| !t.free.is_empty()) {
                let Some(head) = self.ring.take()? else { break };
                if let Some(track) = &mut self.track {
                    track.begin(head);
                }
                if !self.begin(head, executor, together, chain)? {
                    // It may wait for what is under way here.
                    self.end_all(together);
                    self.carry_out(head, executor, chain)?;
                }
                self.call();
            }
            if stop.asked.load(Ordering::Acquire) {
                return Ok(());
            }
            if self.end_some(together) {
                self.call();
                continue;
            }
            let ring = &self.ring;
            if spin.find(|| (ring.has_more() || stop.asked.load(Ordering::Relaxed)).then_some(())).is_some() {
                continue;
            }
            self.ring.notify_me(true);
            if !self.ring.has_more() {
                sleep(&self.kick, &stop.event);
            }
        }
    }

    /// Begins a request among those that are under way; `false` if it has to be carried out by itself.
    fn begin(
        &mut self,
        head: u16,
        executor: &Executor<'_>,
        together: &mut Option<Together>,
        chain: &mut Chain,
    ) -> Result<bool, Broken> {
        let Some(together) = together else { return Ok(false) };
        let Some(number) = together.free.pop() else { return Ok(false) };
        self.ring.gather(head, chain)?;
        match executor.begin(chain, &mut *together.batch, number) {
            Some((pending, true)) => {
                together.begun[number] = Some((head, pending));
                return Ok(true);
            }
            Some((pending, false)) => self.give_back(head, pending.end(true)),
            None => {
                together.free.push(number);
                return Ok(false);
            }
        }
        together.free.push(number);
        Ok(true)
    }

    /// Waits for one of the requests under way, and gives back all that have ended; `false` if none is under way.
    fn end_some(&mut self, together: &mut Option<Together>) -> bool {
        let Some(Together { batch, begun, free }) = together else { return false };
        if batch.count() == 0 {
            return false;
        }
        batch.wait(1, &mut |number, result| {
            if let Some((head, pending)) = begun[number].take() {
                free.push(number);
                self.give_back(head, pending.end(result.is_ok()));
            }
        });
        true
    }

    fn end_all(&mut self, together: &mut Option<Together>) {
        while self.end_some(together) {}
    }

    /// Carries out a request that was taken, and shows the guest that it is given back.
    fn carry_out(&mut self, head: u16, executor: &mut Executor<'_>, chain: &mut Chain) -> Result<(), Broken> {
        self.ring.gather(head, chain)?;
        // One without a place for its status is given back as it is.
        let written = executor.execute(chain).unwrap_or(0);
        self.give_back(head, written);
        Ok(())
    }

    /// Gives a request back that was carried out, and shows the guest.
    fn give_back(&mut self, head: u16, written: u32) {
        if let Some(track) = &self.track {
            track.ending(head);
        }
        self.ring.give_back(head, written);
        self.ring.publish();
        if let Some(track) = &self.track {
            track.ended(head, self.ring.next_used());
        }
    }

    /// Notifies the guest of what was published, if it wants that.
    fn call(&mut self) {
        if self.ring.wants_call()
            && let Some(call) = &self.call
        {
            notify(call);
        }
    }
}
