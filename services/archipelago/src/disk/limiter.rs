//! Limits of how much a disk does: requests and bytes per second, each with a burst.
//!
//! A request takes its place when it arrives, and waits until its time comes: places are given in the order of arrival, and nothing is failed. The
//! place is a time, computed from the rates alone (the generic cell rate algorithm), so there is nothing to refill and no thread that does it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::limits::WAIT_CHECK;

const SECOND: u64 = 1_000_000_000;

/// Limits; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requests per second.
    #[serde(default)]
    pub iops: u64,
    /// Requests that may come at once after a pause; 0 stands for a tenth of a second's.
    #[serde(default)]
    pub iops_burst: u64,
    /// Bytes per second.
    #[serde(default)]
    pub bps: u64,
    /// Bytes that may come at once after a pause; 0 stands for a tenth of a second's.
    #[serde(default)]
    pub bps_burst: u64,
}

impl Limits {
    /// Whether they limit anything.
    pub fn any(&self) -> bool {
        self.iops > 0 || self.bps > 0
    }
}

/// One rate, as the time at which everything that was taken is paid for.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: u64,
    burst: u64,
    paid: u64,
}

impl Bucket {
    /// Of `rate` a second, and full; `None` without a rate.
    fn new(rate: u64, burst: u64) -> Option<Bucket> {
        let burst = if burst > 0 { burst } else { (rate / 10).max(1) };
        (rate > 0).then_some(Bucket { rate, burst, paid: 0 })
    }

    /// How long `amount` takes at the rate.
    fn time(&self, amount: u64) -> u64 {
        let nanos = u128::from(amount) * u128::from(SECOND) / u128::from(self.rate);
        // A hundred years are for ever, and sums of a few of them fit.
        u64::try_from(nanos).unwrap_or(u64::MAX).min(100 * 366 * 86_400 * SECOND)
    }

    /// Takes `amount` at time `now`; returns when it may be used. More than the burst has to wait for a full bucket only, and is paid
    /// for by those behind it.
    fn take(&mut self, amount: u64, now: u64) -> u64 {
        let paid = self.paid.max(now);
        let ahead = self.time(self.burst) - self.time(amount.min(self.burst));
        let start = now.max(paid.saturating_sub(ahead));
        self.paid = paid.saturating_add(self.time(amount));
        start
    }
}

struct State {
    limits: Limits,
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
    /// Raised when the limits change: whoever waits takes a new place.
    generation: u64,
    waiting: u64,
}

/// Where time comes from.
enum Clock {
    System(Instant),
    #[cfg(test)]
    Test(AtomicU64),
}

impl Clock {
    /// Nanoseconds since some moment.
    fn now(&self) -> u64 {
        match self {
            Clock::System(begin) => u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX),
            #[cfg(test)]
            Clock::Test(now) => now.load(Ordering::SeqCst),
        }
    }
}

/// The limits of one disk, for all of its connections.
pub struct Limiter {
    /// Whether there are any: all that a request looks at where there are none.
    active: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    stopped: AtomicBool,
    /// Time that requests waited together, in nanoseconds.
    waited: AtomicU64,
    clock: Clock,
}

impl Limiter {
    /// With these limits.
    pub fn new(limits: Limits) -> Limiter {
        Limiter::with_clock(limits, Clock::System(Instant::now()))
    }

    fn with_clock(limits: Limits, clock: Clock) -> Limiter {
        let limiter = Limiter {
            active: AtomicBool::new(false),
            state: Mutex::new(State {
                limits: Limits::default(),
                requests: None,
                bytes: None,
                generation: 0,
                waiting: 0,
            }),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            clock,
        };
        limiter.set(limits);
        limiter
    }

    /// Sets other limits. Who waits takes a new place under them.
    pub fn set(&self, limits: Limits) {
        let mut state = self.state.lock();
        state.limits = limits;
        state.requests = Bucket::new(limits.iops, limits.iops_burst);
        state.bytes = Bucket::new(limits.bps, limits.bps_burst);
        state.generation += 1;
        self.active.store(limits.any(), Ordering::Relaxed);
        drop(state);
        self.changed.notify_all();
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.state.lock().limits
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> u64 {
        if self.limited() { self.state.lock().waiting } else { 0 }
    }

    /// Nanoseconds that requests waited together.
    pub fn waited(&self) -> u64 {
        self.waited.load(Ordering::Relaxed)
    }

    /// Ends every wait, for good: the server stops.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Under the lock, so that nobody is between looking and waiting.
        drop(self.state.lock());
        self.changed.notify_all();
    }

    /// Whether a request may have to wait: one relaxed load.
    pub fn limited(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Waits until a request of `bytes` may be carried out. `gone` is asked now and then: whoever has nobody to answer any more
    /// waits no longer.
    pub fn wait(&self, bytes: u64, gone: &dyn Fn() -> bool) {
        if !self.limited() {
            return;
        }
        let begin = self.clock.now();
        let mut state = self.state.lock();
        state.waiting += 1;
        while let Some(due) = self.place(&mut state, bytes) {
            let generation = state.generation;
            if !self.wait_until(&mut state, due, generation, gone) {
                break;
            }
        }
        state.waiting -= 1;
        drop(state);
        self.waited.fetch_add(self.clock.now().saturating_sub(begin), Ordering::Relaxed);
    }

    /// Takes a place; returns its time, or `None` if that has come.
    fn place(&self, state: &mut State, bytes: u64) -> Option<u64> {
        let now = self.clock.now();
        let requests = state.requests.as_mut().map_or(now, |bucket| bucket.take(1, now));
        let due = requests.max(state.bytes.as_mut().map_or(now, |bucket| bucket.take(bytes, now)));
        (due > now).then_some(due)
    }

    /// Waits for a time. `true` if a new place has to be taken.
    fn wait_until(
        &self,
        state: &mut MutexGuard<'_, State>,
        due: u64,
        generation: u64,
        gone: &dyn Fn() -> bool,
    ) -> bool {
        loop {
            let now = self.clock.now();
            if now >= due || self.stopped.load(Ordering::SeqCst) {
                return false;
            }
            if state.generation != generation {
                return true;
            }
            if MutexGuard::unlocked(state, gone) {
                return false;
            }
            // What happened while `gone` was asked is looked at again before the wait.
            if state.generation != generation || self.stopped.load(Ordering::SeqCst) {
                continue;
            }
            self.changed.wait_for(state, Duration::from_nanos(due - now).min(WAIT_CHECK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    /// Admitted until `end`, of requests of `bytes` that all arrive at 0.
    fn admitted(bucket: Bucket, amount: u64, requests: usize, end: u64) -> usize {
        let mut bucket = bucket;
        (0..requests).filter(|_| bucket.take(amount, 0) <= end).count()
    }

    #[test]
    fn a_bucket_admits_its_burst_at_once_and_its_rate_from_then_on() {
        let bucket = Bucket::new(100, 20).unwrap();
        assert_eq!(admitted(bucket, 1, 1000, 0), 20);
        for seconds in 1..9 {
            assert_eq!(admitted(bucket, 1, 1000, seconds * SECOND), 20 + 100 * seconds as usize);
        }
        // A tenth of a second's, unless told otherwise, and never nothing.
        assert_eq!(admitted(Bucket::new(100, 0).unwrap(), 1, 1000, 0), 10);
        assert_eq!(admitted(Bucket::new(1, 0).unwrap(), 1, 1000, 0), 1);
        assert!(Bucket::new(0, 7).is_none());
    }

    #[test]
    fn a_pause_fills_the_bucket_to_its_burst_and_no_further() {
        let mut bucket = Bucket::new(100, 20).unwrap();
        let at =
            |bucket: &mut Bucket, now: u64, count: usize| (0..count).filter(|_| bucket.take(1, now) <= now).count();
        assert_eq!(at(&mut bucket, 0, 20), 20);
        assert_eq!(at(&mut bucket, SECOND / 10, 10), 10, "ten came in a tenth of a second");
        assert_eq!(at(&mut bucket, 100 * SECOND, 50), 20);
    }

    #[test]
    fn a_request_larger_than_the_burst_goes_and_those_behind_it_pay() {
        let mut bucket = Bucket::new(1000, 100).unwrap();
        assert_eq!(bucket.take(5000, 0), 0);
        assert_eq!(bucket.take(1, 0), 5 * SECOND - 99 * SECOND / 1000);
    }

    #[test]
    fn amounts_and_rates_of_any_size_wait_and_do_not_overflow() {
        let mut bucket = Bucket::new(1, u64::MAX).unwrap();
        for _ in 0..5 {
            bucket.take(u64::MAX, u64::MAX / 2);
        }
        let mut bucket = Bucket::new(u64::MAX, 1).unwrap();
        assert!(bucket.take(u64::MAX, 5) < SECOND);
    }

    /// Threads that send one request after the other under a clock that is set by hand.
    struct Load {
        limiter: Arc<Limiter>,
        done: Arc<AtomicUsize>,
        gone: Arc<AtomicBool>,
        threads: Vec<std::thread::JoinHandle<()>>,
    }

    impl Load {
        fn new(limits: Limits, threads: usize, each: usize, bytes: u64) -> Load {
            let limiter = Arc::new(Limiter::with_clock(limits, Clock::Test(AtomicU64::new(0))));
            let (done, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
            let threads = (0..threads)
                .map(|_| {
                    let (limiter, done, gone) = (limiter.clone(), done.clone(), gone.clone());
                    std::thread::spawn(move || {
                        for _ in 0..each {
                            limiter.wait(bytes, &|| gone.load(Ordering::SeqCst));
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            Load { limiter, done, gone, threads }
        }

        /// Sets the clock, and waits until so many requests are through and all threads wait or have ended.
        #[track_caller]
        fn at(&self, now: u64, expected: usize) {
            let Clock::Test(clock) = &self.limiter.clock else { unreachable!() };
            clock.store(now, Ordering::SeqCst);
            self.limiter.changed.notify_all();
            loop {
                let waiting = self.limiter.state.lock().waiting as usize;
                let ended = self.threads.iter().filter(|thread| thread.is_finished()).count();
                let done = self.done.load(Ordering::SeqCst);
                assert!(done <= expected, "{done} at {now}, and not {expected}");
                if done == expected && waiting + ended == self.threads.len() {
                    return;
                }
                std::thread::yield_now();
            }
        }

        fn join(self) -> usize {
            self.threads.into_iter().for_each(|thread| thread.join().unwrap());
            self.done.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn threads_together_get_what_the_limit_says_and_no_more() {
        let load = Load::new(Limits { iops: 10, iops_burst: 5, ..Limits::default() }, 4, 10, 4096);
        for tenths in 0..=35 {
            load.at(tenths * SECOND / 10, 5 + tenths as usize);
        }
        assert_eq!(load.join(), 40);
    }

    #[test]
    fn bytes_and_requests_are_limited_together() {
        let limits = Limits { iops: 100, iops_burst: 100, bps: 8192, bps_burst: 8192 };
        let load = Load::new(limits, 2, 4, 4096);
        for halves in 0..=6 {
            load.at(halves * SECOND / 2, 2 + halves as usize);
        }
        assert_eq!(load.join(), 8);
    }

    #[test]
    fn without_a_limit_nothing_waits_and_a_change_frees_who_does() {
        let load = Load::new(Limits::default(), 2, 50, 4096);
        assert_eq!(load.join(), 100);
        let load = Load::new(Limits { iops: 1, ..Limits::default() }, 3, 5, 4096);
        load.at(0, 1);
        load.limiter.set(Limits { iops: 4, iops_burst: 4, ..Limits::default() });
        load.at(0, 5);
        load.limiter.set(Limits::default());
        assert_eq!(load.join(), 15);
    }

    #[test]
    fn a_stop_ends_every_wait_for_good() {
        let load = Load::new(Limits { iops: 1, ..Limits::default() }, 3, 5, 4096);
        load.at(0, 1);
        load.limiter.stop();
        assert_eq!(load.join(), 15);
    }

    #[test]
    fn who_has_nobody_to_answer_any_more_waits_no_longer() {
        let load = Load::new(Limits { iops: 1, ..Limits::default() }, 3, 2, 4096);
        load.at(0, 1);
        load.gone.store(true, Ordering::SeqCst);
        assert_eq!(load.join(), 6);
    }
}
