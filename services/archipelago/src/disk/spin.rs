//! Whether to look for requests for a moment before sleeping. A wake-up costs more than a client's turn-around, but an idle
//! connection must not burn a processor.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::limits::{SPIN_MISSES, SPIN_RETRY};

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
}

impl<'a> Spin<'a> {
    /// Spins for up to `time`; zero never spins.
    pub fn new(spinners: &'a Spinners, time: Duration) -> Spin<'a> {
        Spin { spinners, time, misses: 0, waits: 0 }
    }

    /// Calls `look` until it finds something or the time is over. `None`: sleep now.
    pub fn find<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if self.time.is_zero() {
            return None;
        }
        if self.misses >= SPIN_MISSES {
            self.waits += 1;
            if self.waits < SPIN_RETRY {
                return None;
            }
            self.waits = 0;
        }
        let _entered = self.spinners.enter()?;
        let begin = Instant::now();
        loop {
            if let Some(found) = look() {
                self.misses = 0;
                return Some(found);
            }
            if begin.elapsed() >= self.time {
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

    #[test]
    fn an_idle_connection_stops_spinning_and_finds_out_when_the_client_is_back() {
        let spinners = Spinners::new(2);
        let mut spin = Spin::new(&spinners, Duration::from_micros(1));
        let looked = |spin: &mut Spin, found: bool| {
            let mut looks = 0;
            spin.find(|| {
                looks += 1;
                found.then_some(())
            });
            looks > 0
        };
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
