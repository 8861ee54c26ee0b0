//! The one thread of a store that has many operations under way together, where each waits for a disk.
//!
//! Its operations hold locks of their volumes until they end, so it must be able to end them at every moment: it takes no lock for which it would have
//! to wait, and leaves to the other threads what cannot be begun without. That is also why the ends are not left to be found by who
//! waits for completions: a caller that submits, and then takes a snapshot before it collects, would wait for itself.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::thread;

use parking_lot::MutexGuard;

use super::{Collected, Completion, Driver, Executor, Job, Pool, Waiting, caught};
use crate::error::{Error, Result};
use crate::limits::MAX_TOGETHER;
use crate::volume::together::{Begun, Together};

/// The operations that are under way.
struct Riding<E: Executor> {
    // Before the jobs, whose buffers are in use until this has waited for all.
    together: Together,
    jobs: Box<[Option<Job<E>>]>,
    free: Vec<usize>,
    /// Those that have just ended.
    ended: Vec<(Job<E>, Result<()>)>,
    completions: Vec<(Arc<Collected>, Completion)>,
}

impl<E: Executor> Pool<E> {
    /// Whether there is such a thread; it is started if need be, and can be.
    pub(super) fn has_driver(self: &Arc<Self>, state: &mut Waiting<E>) -> bool {
        if matches!(state.driver, Driver::None) {
            let shared = self.clone();
            let Ok(driver) = thread::Builder::new().name("volume-ring".into()).spawn(move || shared.drive()) else {
                return false;
            };
            self.workers.lock().push(driver);
            state.driver = Driver::Awake;
        }
        !matches!(state.driver, Driver::Impossible)
    }

    /// There is something for that thread to look at.
    pub(super) fn call_driver(&self, mut state: MutexGuard<'_, Waiting<E>>) {
        match std::mem::replace(&mut state.driver, Driver::Awake) {
            Driver::Idle => {
                drop(state);
                self.ride.notify_one();
            }
            Driver::InRing(waker) => {
                drop(state);
                waker.wake();
            }
            other => state.driver = other,
        }
    }

    /// Has operations under way until the pool is closed.
    fn drive(self: Arc<Self>) {
        let Some(first) = self.next_ride() else { return };
        let Some(together) = first.executor.together() else {
            let rides = {
                let mut state = self.state.lock();
                state.driver = Driver::Impossible;
                std::mem::take(&mut state.rides)
            };
            std::iter::once(first).chain(rides).for_each(|job| self.by_call(job));
            return;
        };
        let room = together.room();
        let mut riding = Riding {
            together,
            jobs: (0..room).map(|_| None).collect(),
            free: (0..room).rev().collect(),
            ended: Vec::with_capacity(room),
            completions: Vec::with_capacity(room),
        };
        let mut taken = Vec::with_capacity(MAX_TOGETHER);
        taken.push(first);
        loop {
            taken.drain(..).for_each(|job| riding.begin(job, &self));
            if riding.together.count() == 0 {
                riding.tell();
                let Some(job) = self.next_ride() else { return };
                taken.push(job);
                continue;
            }
            let (least, closed) = {
                let mut state = self.state.lock();
                let n = state.rides.len().min(riding.free.len());
                taken.extend(state.rides.drain(..n));
                let wait = taken.is_empty() && !state.closed;
                if wait {
                    state.driver = Driver::InRing(riding.together.waker());
                }
                (usize::from(wait), state.closed)
            };
            // More to begin goes before the disk is told of any.
            if taken.is_empty() {
                riding.wait(if closed { usize::MAX } else { least });
                self.state.lock().awake();
            }
        }
    }

    /// The next job when none is under way; `None` when the pool is closed.
    fn next_ride(&self) -> Option<Job<E>> {
        let mut state = self.state.lock();
        loop {
            state.driver = Driver::Awake;
            if state.closed {
                return None;
            }
            if let Some(job) = state.rides.pop_front() {
                return Some(job);
            }
            state.driver = Driver::Idle;
            self.ride.wait(&mut state);
        }
    }

    /// Leaves a job to the other threads.
    fn by_call(self: &Arc<Self>, job: Job<E>) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            return job.end(Err(Error::NotOpen("the store".into())));
        }
        if !self.has_worker(&mut state) {
            drop(state);
            return job.end(Err(Error::TooBusy("threads of this process".into())));
        }
        state.jobs.push_back(job);
        drop(state);
        self.work.notify_one();
    }
}

impl<E> Waiting<E> {
    fn awake(&mut self) {
        self.driver = Driver::Awake;
    }
}

impl<E: Executor> Riding<E> {
    /// Begins a job, or has it carried out by another thread.
    fn begin(&mut self, mut job: Job<E>, pool: &Arc<Pool<E>>) {
        let Some(number) = self.free.pop() else { return pool.by_call(job) };
        let together = &mut self.together;
        let begun = caught(
            // SAFETY: the job is kept until its end was told; moving it does not move its buffer.
            || unsafe { job.executor.begin(together, number, &mut job.operation) },
            |failed| failed.map(|()| Begun::Done),
        );
        match begun {
            Ok(Begun::UnderWay) => {
                self.jobs[number] = Some(job);
                return;
            }
            Ok(Begun::Done) => self.ended.push((job, Ok(()))),
            Ok(Begun::ByCall) => pool.by_call(job),
            Err(error) => self.ended.push((job, Err(error))),
        }
        self.free.push(number);
    }

    fn wait(&mut self, least: usize) {
        let (jobs, free, ended) = (&mut self.jobs, &mut self.free, &mut self.ended);
        self.together.wait(least, &mut |number, result| {
            if let Some(job) = jobs.get_mut(number).and_then(Option::take) {
                free.push(number);
                ended.push((job, result));
            }
        });
        self.tell();
    }

    /// Hands out the completions of what has ended, all of one queue at once.
    fn tell(&mut self) {
        self.completions.extend(self.ended.drain(..).map(|(job, result)| job.ended(result)));
        let mut all = self.completions.drain(..).peekable();
        while let Some((queue, completion)) = all.next() {
            let more = std::iter::from_fn(|| all.next_if(|(other, _)| Arc::ptr_eq(other, &queue)).map(|(_, c)| c));
            queue.push_all(std::iter::once(completion).chain(more));
        }
    }
}
