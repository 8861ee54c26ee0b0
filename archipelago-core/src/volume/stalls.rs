//! How long changes were stopped: counted, so that a promise about it can be checked where it matters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::sync::RwLockWriteGuard;

/// Buckets of a power of two: each is at most a quarter wider than the one before.
const PER_OCTAVE: usize = 4;
/// Buckets: up to 2^48 nanoseconds, three days.
const BUCKETS: usize = 48 * PER_OCTAVE;

/// Counts of durations.
pub struct Stalls {
    buckets: [AtomicU64; BUCKETS],
    longest: AtomicU64,
}

impl Default for Stalls {
    fn default() -> Stalls {
        Stalls { buckets: [const { AtomicU64::new(0) }; BUCKETS], longest: AtomicU64::new(0) }
    }
}

/// How long writes were not admitted, over all times that they were not. Percentiles are rounded up by at most a quarter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct StallStats {
    /// Times that writes were not admitted.
    pub count: u64,
    /// Half of them were not longer than this, in nanoseconds.
    pub p50: u64,
    /// 95 of 100 were not longer than this, in nanoseconds.
    pub p95: u64,
    /// The longest, in nanoseconds.
    pub max: u64,
}

/// The bucket of a duration, and the longest duration that falls into a bucket.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(PER_OCTAVE as u64);
    let octave = nanos.ilog2() as usize;
    let part = (nanos >> (octave - 2)) as usize & (PER_OCTAVE - 1);
    (octave * PER_OCTAVE + part).min(BUCKETS - 1)
}

fn upper(bucket: usize) -> u64 {
    let (octave, part) = (bucket / PER_OCTAVE, (bucket % PER_OCTAVE) as u64);
    if octave < 2 { PER_OCTAVE as u64 } else { ((PER_OCTAVE as u64 + part + 1) << (octave - 2)) - 1 }
}

impl Stalls {
    fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.longest.fetch_max(nanos, Ordering::Relaxed);
    }

    /// The counts so far.
    pub fn stats(&self) -> StallStats {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let (count, max) = (counts.iter().sum::<u64>(), self.longest.load(Ordering::Relaxed));
        let percentile = |part: u64| {
            let wanted = (count * part).div_ceil(100);
            let mut seen = 0;
            let found = counts.iter().position(|n| {
                seen += n;
                seen >= wanted
            });
            found.map_or(0, |b| upper(b).min(max))
        };
        if count == 0 {
            StallStats::default()
        } else {
            StallStats { count, p50: percentile(50), p95: percentile(95), max }
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How many volumes this thread has stopped: a test looks at it whenever something is synced.
    pub static HELD: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Changes are stopped until it is dropped.
pub struct Stopped<'a> {
    gate: Option<RwLockWriteGuard<'a, ()>>,
    since: Instant,
    stalls: &'a Stalls,
}

impl<'a> Stopped<'a> {
    /// `since`: when the gate was asked for, for from then on nobody new gets in.
    pub fn new(gate: RwLockWriteGuard<'a, ()>, since: Instant, stalls: &'a Stalls) -> Stopped<'a> {
        #[cfg(test)]
        HELD.set(HELD.get() + 1);
        Stopped { gate: Some(gate), since, stalls }
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // Taken before: who was kept out may get the core at once, and this thread run again when all of them had their turn.
        let time = self.since.elapsed();
        self.gate = None;
        #[cfg(test)]
        HELD.set(HELD.get() - 1);
        self.stalls.add(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_a_bucket_that_is_at_most_a_quarter_too_long() {
        for nanos in (4..10_000).chain((14..47).flat_map(|n| [(1 << n) - 1, 1 << n, (1 << n) + 1])) {
            let upper = upper(bucket(nanos));
            assert!(nanos <= upper && upper <= nanos + nanos / 4 + 1, "{nanos}: {upper}");
        }
        bucket(u64::MAX);
    }

    #[test]
    fn percentiles_are_those_of_what_was_counted() {
        let stalls = Stalls::default();
        assert_eq!(stalls.stats(), StallStats::default());
        for nanos in 1..=100u64 {
            stalls.add(Duration::from_nanos(nanos * 1000));
        }
        let stats = stalls.stats();
        assert_eq!((stats.count, stats.max), (100, 100_000));
        assert!((50_000..63_000).contains(&stats.p50) && (95_000..=100_000).contains(&stats.p95), "{stats:?}");
    }
}
