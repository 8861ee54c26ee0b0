//! Whether to look for requests for a moment before sleeping. A wake-up costs more than a client's turn-around, but an idle
//! connection must not burn a processor, and one whose processor others want is served sooner when it sleeps: the scheduler gives
//! turns to sleepers that wake, and takes them from who looks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::limits::{SPIN_LONGEST_RETRY, SPIN_MISSES, SPIN_RETRY};

/// How many connections of a server may spin at once: one processor is left for the clients.
pub struct Spinners {
    active: AtomicUsize,
    most: usize,
}

impl Spinners {
    /// For a machine with `processors`; with one, nobody spins: the client could not run meanwhile.
    pub fn new(processors: usize) -> Spinners {
        Spinners { active: AtomicUsize::new(0), most: processors.saturating_sub(1) }
    }

    fn enter(&self) -> Option<Entered<'_>> {
        // A count only: it orders nothing else.
        if self.active.fetch_add(1, Ordering::Relaxed) < self.most {
            return Some(Entered(self));
        }
        self.active.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

struct Entered<'a>(&'a Spinners);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The spin of one connection.
pub struct Spin<'a> {
    spinners: &'a Spinners,
    time: Duration,
    misses: u32,
    waits: u32,
    /// Waits between two tries of one that does not spin.
    retry: u32,
    /// Hits since the processor was last taken away.
    hits: u32,
}

impl<'a> Spin<'a> {
    /// Spins for up to `time`; zero never spins.
    pub fn new(spinners: &'a Spinners, time: Duration) -> Spin<'a> {
        Spin { spinners, time, misses: 0, waits: 0, retry: SPIN_RETRY, hits: 0 }
    }

    /// Calls `look` until it finds something or the time is over. `None`: sleep now.
    pub fn find<T>(&mut self, look: impl FnMut() -> Option<T>) -> Option<T> {
        let mut begin = None;
        self.find_by(look, || begin.get_or_insert_with(Instant::now).elapsed())
    }

    /// [`Spin::find`] by a clock that begins when it is first read.
    fn find_by<T>(&mut self, mut look: impl FnMut() -> Option<T>, mut clock: impl FnMut() -> Duration) -> Option<T> {
        if self.time.is_zero() {
            return None;
        }
        if self.misses >= SPIN_MISSES {
            self.waits += 1;
            if self.waits < self.retry {
                return None;
            }
            self.waits = 0;
        }
        let _entered = self.spinners.enter()?;
        clock();
        loop {
            let found = look();
            let took = clock();
            if took >= self.time * 2 {
                // A look takes less than a microsecond: somebody else ran meanwhile.
                self.misses = SPIN_MISSES;
                self.retry = (self.retry * 2).min(SPIN_LONGEST_RETRY);
                self.hits = 0;
                return found;
            }
            if found.is_some() {
                self.misses = 0;
                self.hits += 1;
                if self.hits >= SPIN_LONGEST_RETRY {
                    (self.retry, self.hits) = (SPIN_RETRY, 0);
                }
                return found;
            }
            if took >= self.time {
                self.misses = self.misses.saturating_add(1);
                return None;
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_micros(50);

    /// Whether it looked, where each look takes `each`.
    fn looked_for(spin: &mut Spin<'_>, found: bool, each: Duration) -> bool {
        let (mut looks, mut time) = (0, Duration::ZERO);
        let look = || {
            looks += 1;
            found.then_some(())
        };
        let clock = || {
            time += each;
            time
        };
        spin.find_by(look, clock);
        looks > 0
    }

    fn looked(spin: &mut Spin<'_>, found: bool) -> bool {
        looked_for(spin, found, Duration::from_micros(1))
    }

    #[test]
    fn a_connection_whose_processor_others_want_sleeps_ever_longer_until_they_are_gone() {
        let spinners = Spinners::new(2);
        let mut spin = Spin::new(&spinners, TIME);
        assert!(looked(&mut spin, true));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let waits = (0..).take_while(|_| !looked_for(&mut spin, true, TIME * 3)).count();
            pauses.push(waits);
        }
        assert_eq!(pauses[..4], [0, 31, 63, 127]);
        assert_eq!(pauses[10..], [4095, 4095]);
        let waits = (0..).take_while(|_| !looked(&mut spin, true)).count();
        assert_eq!(waits, 4095);
        assert!((0..SPIN_LONGEST_RETRY).all(|_| looked(&mut spin, true)), "alone again");
        assert!(looked_for(&mut spin, true, TIME * 3));
        let waits = (0..).take_while(|_| !looked(&mut spin, true)).count();
        assert_eq!(waits, 31, "what was long ago does not count");
    }

    #[test]
    fn an_idle_connection_stops_spinning_and_finds_out_when_the_client_is_back() {
        let spinners = Spinners::new(2);
        let mut spin = Spin::new(&spinners, TIME);
        for _ in 0..SPIN_MISSES {
            assert!(looked(&mut spin, false));
        }
        let tried = (0..SPIN_RETRY * 10).filter(|_| looked(&mut spin, false)).count();
        assert_eq!(tried, 10);
        assert!((0..SPIN_RETRY).any(|_| looked(&mut spin, true)));
        assert!(looked(&mut spin, true), "spins at once after a hit");
    }

    #[test]
    fn no_more_connections_spin_than_processors_but_one() {
        let spinners = Spinners::new(3);
        let (a, b) = (spinners.enter(), spinners.enter());
        assert!(a.is_some() && b.is_some() && spinners.enter().is_none());
        drop(a);
        assert!(spinners.enter().is_some());
        assert!(Spinners::new(1).enter().is_none());
    }
}
