//! Counts what is under way in this process, so that a collector can wait for the end of all of it that began before a
//! moment, without holding up anything that begins later (docs/architecture.md, "Collection").
//!
//! Two counters take turns, as in sleepable RCU: who begins counts himself in the one that is current; who waits makes
//! the other one current and waits until the first is at zero. A beginner who finds that the turn changed while he
//! counted himself begins again, so nobody is ever counted in the wrong one.

use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, Plant, planted};

/// Independent pairs of counters: threads on different ones do not share a cache line.
const STRIPES: usize = 16;
/// Pause between two looks at the counters. Waiting happens a few times per collection.
const PAUSE: Duration = Duration::from_micros(200);

/// Gives threads their stripes in turn. Outlives every schedule, so it is no part of the model.
static NEXT_STRIPE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

thread_local! {
    static STRIPE: usize = NEXT_STRIPE.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

/// The operations under way in one open store.
#[derive(Default)]
pub struct Operations {
    /// Its lowest bit says which counters are current.
    turn: AtomicUsize,
    stripes: [CachePadded<[AtomicU64; 2]>; STRIPES],
    /// One waits at a time.
    waiting: Mutex<()>,
}

/// An operation that is under way, until it is dropped.
#[must_use = "the operation ends when this is dropped"]
pub struct Operation<'a> {
    count: &'a AtomicU64,
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Operations {
    /// Begins an operation. Never waits. Operations may be nested.
    pub fn begin(&self) -> Operation<'_> {
        // A thread that is ending has no stripe any more; any will do.
        let stripe = &self.stripes[STRIPE.try_with(|s| *s).unwrap_or(0)];
        loop {
            let turn = self.turn.load(Ordering::SeqCst) & 1;
            let operation = Operation { count: &stripe[turn] };
            operation.count.fetch_add(1, Ordering::SeqCst);
            // Still the same: whoever changes it from now on sees the count.
            if planted(Plant::UncheckedTurn) || self.turn.load(Ordering::SeqCst) & 1 == turn {
                return operation;
            }
        }
    }

    /// Waits until every operation that began before this call has ended; `false` if some had not by `deadline`.
    pub fn wait(&self, deadline: Instant) -> bool {
        let _one = self.waiting.lock();
        let current = self.turn.load(Ordering::SeqCst) & 1;
        // What an earlier call gave up waiting for is still in the other one.
        if !self.wait_for(1 - current, deadline) {
            return false;
        }
        self.turn.store(1 - current, Ordering::SeqCst);
        self.wait_for(current, deadline)
    }

    fn wait_for(&self, turn: usize, deadline: Instant) -> bool {
        while self.stripes.iter().any(|stripe| stripe[turn].load(Ordering::SeqCst) > 0) {
            if Instant::now() >= deadline {
                return false;
            }
            crate::sync::sleep(PAUSE);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn what_began_before_is_waited_for_and_what_begins_later_is_not() {
        let operations = Arc::new(Operations::default());
        assert!(operations.wait(soon()));
        let before = operations.begin();
        assert!(!operations.wait(soon()));
        let after = operations.begin();
        // Still the first one, although an earlier wait gave up on it.
        assert!(!operations.wait(soon()));
        drop(before);
        let waiter = {
            let operations = operations.clone();
            std::thread::spawn(move || operations.wait(late()))
        };
        // Begins and ends while somebody waits for `after`.
        while operations.turn.load(Ordering::SeqCst) < 1 {
            std::thread::yield_now();
        }
        drop(operations.begin());
        drop(after);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn nothing_that_began_before_a_wait_is_under_way_after_it() {
        // Each thread publishes the value it saw at its beginning and takes it back at its end; after a wait no value
        // from before it may be left.
        let operations = Arc::new(Operations::default());
        let (clock, stop) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
        let seen: Arc<Vec<AtomicU64>> = Arc::new((0..4).map(|_| AtomicU64::new(u64::MAX)).collect());
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let (operations, clock, stop, seen) = (operations.clone(), clock.clone(), stop.clone(), seen.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let operation = operations.begin();
                        seen[i].store(clock.load(Ordering::SeqCst), Ordering::SeqCst);
                        std::hint::spin_loop();
                        seen[i].store(u64::MAX, Ordering::SeqCst);
                        drop(operation);
                    }
                })
            })
            .collect();
        for _ in 0..500 {
            let now = clock.fetch_add(1, Ordering::SeqCst) + 1;
            assert!(operations.wait(late()));
            for value in seen.iter() {
                assert!(value.load(Ordering::SeqCst) >= now);
            }
        }
        stop.store(true, Ordering::SeqCst);
        threads.into_iter().for_each(|t| t.join().unwrap());
    }
}
