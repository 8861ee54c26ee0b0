//! Submission and completion: operations are carried out by a few threads of the store, those that need no waiting by the caller's own,
//! and their ends are collected in queues of the caller's. For callers that keep many operations in flight from one thread (the C ABI, fio). Who has a thread
//! per request anyway calls the volume directly and saves the hand-over.
//!
//! Everything is bounded: the operations that wait in the pool, its threads, and per completion queue the operations
//! that were submitted and not collected yet. A full queue gives the operation back; nothing blocks in `submit`.

mod driver;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::together::{Begun, Together};
use super::{Completion, Operation};
use crate::blocker::ring::Waker;
use crate::error::{Error, Result};
use crate::limits::MAX_QUEUE;

/// Carries out operations; a volume. A buffer that is read into is filled in place.
pub(crate) trait Executor: Clone + Send + Sync + 'static {
    /// Carries out an operation in the thread that submits it, if that needs no waiting; otherwise nothing was changed but the buffer of
    /// a read.
    fn at_once(&self, operation: &mut Operation) -> Option<Result<()>> {
        let _ = operation;
        None
    }

    /// Whether an operation may be carried out together with others, by one thread that waits for a disk with all of them.
    fn rides(&self, operation: &Operation) -> bool {
        let _ = operation;
        false
    }

    /// Room for operations that are under way together, for the thread that calls this; `None` where there is none.
    fn together(&self) -> Option<Together> {
        None
    }

    /// Begins an operation that [`rides`](Executor::rides), under this number.
    ///
    /// # Safety
    ///
    /// If it gets under way, nobody touches its buffer, or drops it, until its end was told.
    #[allow(unsafe_code)]
    unsafe fn begin(&self, together: &mut Together, number: usize, operation: &mut Operation) -> Result<Begun> {
        let _ = (together, number, operation);
        Ok(Begun::ByCall)
    }

    /// Carries out one operation, in a thread of the pool.
    fn execute(&self, operation: &mut Operation) -> Result<()>;
}

/// Where completions arrive. Any number of volumes may complete into one queue, and any number of threads collect from
/// it. At most 1024 operations may be submitted to a queue and not yet collected; [`Volume::submit`](super::Volume::submit)
/// answers `TooBusy` past that. May be dropped while operations are in flight; they are carried out all the same.
#[derive(Clone)]
pub struct CompletionQueue {
    shared: Arc<Collected>,
}

struct Collected {
    state: Mutex<Ends>,
    arrived: Condvar,
}

#[derive(Default)]
struct Ends {
    ready: VecDeque<Completion>,
    /// Submitted and not collected, those in `ready` included.
    outstanding: usize,
    /// Threads inside `wait`.
    waiters: usize,
    /// No waiter wants fewer than this: fewer completions wake nobody.
    wanted: usize,
}

impl CompletionQueue {
    /// An empty queue.
    pub fn new() -> CompletionQueue {
        CompletionQueue { shared: Arc::new(Collected { state: Mutex::new(Ends::default()), arrived: Condvar::new() }) }
    }

    /// Waits until at least `min` completions are there, and moves all that are there to the end of `out`. Returns how
    /// many; fewer than `min`, or none, when `timeout` is over. Without a timeout it waits for ever, also for operations
    /// that no other thread has submitted yet; see [`CompletionQueue::outstanding`].
    ///
    /// With several collecting threads each completion goes to one of them.
    pub fn wait(&self, out: &mut Vec<Completion>, min: usize, timeout: Option<Duration>) -> usize {
        // A timeout past the end of the clock is none.
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut state = self.shared.state.lock();
        if state.ready.len() < min {
            state.wanted = if state.waiters == 0 { min } else { state.wanted.min(min) };
            state.waiters += 1;
            while state.ready.len() < min {
                match deadline {
                    None => self.shared.arrived.wait(&mut state),
                    Some(at) if self.shared.arrived.wait_until(&mut state, at).timed_out() => break,
                    Some(_) => {}
                }
            }
            state.waiters -= 1;
        }
        let count = state.ready.len();
        state.outstanding -= count;
        out.extend(state.ready.drain(..));
        count
    }

    /// Moves all completions that are there to the end of `out` without waiting; returns how many.
    pub fn poll(&self, out: &mut Vec<Completion>) -> usize {
        self.wait(out, 0, None)
    }

    /// Operations that were submitted to this queue and whose completions were not collected yet.
    pub fn outstanding(&self) -> usize {
        self.shared.state.lock().outstanding
    }
}

impl Default for CompletionQueue {
    fn default() -> CompletionQueue {
        CompletionQueue::new()
    }
}

impl Collected {
    /// Makes room for one completion, so that it can never be lost or grow the queue; `false` if there is none.
    fn reserve(&self) -> bool {
        let mut state = self.state.lock();
        let room = state.outstanding < MAX_QUEUE;
        state.outstanding += usize::from(room);
        room
    }

    /// Gives back the room of an operation that was not taken.
    fn give_back(&self) {
        self.state.lock().outstanding -= 1;
    }

    fn push(&self, completion: Completion) {
        self.push_all(std::iter::once(completion));
    }

    fn push_all(&self, completions: impl Iterator<Item = Completion>) {
        let mut state = self.state.lock();
        state.ready.extend(completions);
        debug_assert!(state.ready.len() <= state.outstanding, "every completion has its room");
        if state.waiters > 0 && state.ready.len() >= state.wanted {
            // All of them: a waiter that wants more than there is must not swallow the signal of one that has enough.
            self.arrived.notify_all();
        }
    }
}

/// An operation on its way.
struct Job<E> {
    executor: E,
    operation: Operation,
    tag: u64,
    queue: Arc<Collected>,
}

/// What [`Executor::execute`] answers, or an error if it panics.
fn caught<R>(execute: impl FnOnce() -> R, failed: impl FnOnce(Result<()>) -> R) -> R {
    catch_unwind(AssertUnwindSafe(execute)).unwrap_or_else(|_| {
        let source = io::Error::other("the engine failed inside the operation; close the volume and open it again");
        failed(Err(Error::Io { op: "execute", object: "operation".into(), source }))
    })
}

impl<E: Executor> Job<E> {
    fn run(mut self) {
        let result = caught(|| self.executor.execute(&mut self.operation), |failed| failed);
        self.end(result);
    }

    fn end(self, result: Result<()>) {
        let (queue, completion) = self.ended(result);
        queue.push(completion);
    }

    /// Its completion, and where that goes.
    fn ended(self, result: Result<()>) -> (Arc<Collected>, Completion) {
        let Job { executor, operation, tag, queue } = self;
        // Before the completion is seen: its reader may drop the last other handle and count on the volume being closed.
        // Closing may fail in ways of its own, which must cost neither the completion nor the thread.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(executor)));
        (queue, Completion { tag, buf: operation.into_buf(), result })
    }
}

impl Operation {
    /// Its buffer; empty for those without one.
    fn into_buf(self) -> Vec<u8> {
        match self {
            Operation::Read { buf, .. } | Operation::Write { buf, .. } => buf,
            Operation::Flush | Operation::Discard { .. } | Operation::WriteZeroes { .. } => Vec::new(),
        }
    }
}

/// The threads that carry out submitted operations of one store.
///
/// Threads are started when there is work for them and stay. Dropping the pool answers what still waits with `NotOpen`,
/// lets what is under way finish, and joins the threads; it may be dropped by one of them, when an operation held the
/// last handle of its store.
pub(crate) struct WorkerPool<E: Executor> {
    shared: Arc<Pool<E>>,
    capacity: usize,
}

struct Pool<E> {
    threads: usize,
    workers: Mutex<Vec<JoinHandle<()>>>,
    state: Mutex<Waiting<E>>,
    /// Signalled when a job was added, or the pool ends.
    work: Condvar,
    /// The same for the thread whose jobs are under way together, when none is.
    ride: Condvar,
}

struct Waiting<E> {
    jobs: VecDeque<Job<E>>,
    /// Threads that wait for a job.
    idle: usize,
    /// Threads that were started.
    started: usize,
    /// Jobs for the one thread that has many under way together.
    rides: VecDeque<Job<E>>,
    driver: Driver,
    closed: bool,
}

/// The thread whose jobs are under way together.
enum Driver {
    /// It was not needed yet.
    None,
    /// There can be none here: the other threads carry out its jobs.
    Impossible,
    /// It looks for jobs before it waits.
    Awake,
    /// It waits for one; with `ride`.
    Idle,
    /// It waits for the end of one, and can be woken.
    InRing(Waker),
}

impl<E: Executor> WorkerPool<E> {
    /// A pool of at most `threads` threads (at least one) and `capacity` operations that wait for one.
    pub(crate) fn new(threads: usize, capacity: usize) -> WorkerPool<E> {
        let (jobs, rides) = (VecDeque::new(), VecDeque::new());
        let state = Waiting { jobs, idle: 0, started: 0, rides, driver: Driver::None, closed: false };
        let shared = Arc::new(Pool {
            threads: threads.max(1),
            workers: Mutex::new(Vec::new()),
            state: Mutex::new(state),
            work: Condvar::new(),
            ride: Condvar::new(),
        });
        WorkerPool { shared, capacity }
    }

    /// Carries out an operation at once, or queues it; its completion arrives in `queue` with `tag`. With `TooBusy`, because the pool or the queue is
    /// full, the operation comes back as it was.
    pub(crate) fn submit(
        &self,
        executor: &E,
        mut operation: Operation,
        tag: u64,
        queue: &CompletionQueue,
    ) -> std::result::Result<(), (Error, Operation)> {
        if !queue.shared.reserve() {
            return Err((Error::TooBusy("completion queue; collect completions first".into()), operation));
        }
        let rides = executor.rides(&operation);
        if !rides && let Some(result) = caught(|| executor.at_once(&mut operation), Some) {
            queue.shared.push(Completion { tag, buf: operation.into_buf(), result });
            return Ok(());
        }
        let refuse = |text: &str, operation| {
            queue.shared.give_back();
            Err((Error::TooBusy(text.into()), operation))
        };
        let mut state = self.shared.state.lock();
        if state.jobs.len() + state.rides.len() >= self.capacity {
            drop(state);
            return refuse("operations of the store; wait for completions", operation);
        }
        let job = |operation| Job { executor: executor.clone(), operation, tag, queue: queue.shared.clone() };
        if rides && self.shared.has_driver(&mut state) {
            state.rides.push_back(job(operation));
            self.shared.call_driver(state);
            return Ok(());
        }
        if !self.shared.has_worker(&mut state) {
            drop(state);
            return refuse("threads of this process", operation);
        }
        state.jobs.push_back(job(operation));
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }
}

impl<E: Executor> Drop for WorkerPool<E> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            let rides = mem::take(&mut state.rides);
            let mut waiting = mem::take(&mut state.jobs);
            waiting.extend(rides);
            self.shared.work.notify_all();
            self.shared.call_driver(state);
            waiting
        };
        for job in waiting {
            job.end(Err(Error::NotOpen("the store".into())));
        }
        let own = thread::current().id();
        let workers = mem::take(&mut *self.shared.workers.lock());
        for worker in workers {
            // A thread cannot wait for itself; it ends when it comes back from here.
            if worker.thread().id() != own {
                let _ = worker.join();
            }
        }
    }
}

impl<E: Executor> Pool<E> {
    /// Whether there is a thread for one more job; one is started if need be, and can be.
    fn has_worker(self: &Arc<Self>, state: &mut Waiting<E>) -> bool {
        // Woken threads count as idle until they have run, so look at whether all jobs find one.
        if state.idle <= state.jobs.len() && state.started < self.threads {
            let shared = self.clone();
            match thread::Builder::new().name("volume-io".into()).spawn(move || shared.work()) {
                Ok(worker) => {
                    self.workers.lock().push(worker);
                    state.started += 1;
                }
                // Another thread will do it, if there is one.
                Err(_) => return state.started > 0,
            }
        }
        true
    }

    /// Carries out jobs until the pool is closed.
    fn work(&self) {
        let mut state = self.state.lock();
        while !state.closed {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job.run();
                state = self.state.lock();
            } else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
