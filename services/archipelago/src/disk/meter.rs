//! What an open disk has done: requests, bytes, errors, and a histogram of how long requests took.
//!
//! Everything is a counter in memory of fixed size: counting takes no lock and nothing from the heap. The counters are read while they are
//! written, so sums that belong together may differ by what is under way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Smallest time that is told from zero, as a power of two of nanoseconds: 256 ns.
const UNIT_SHIFT: u32 = 8;
/// Buckets of each power of two, as a power of two: eight, so that a bucket is at most an eighth wider than its beginning.
const FINE_SHIFT: u32 = 3;
const FINE: u64 = 1 << FINE_SHIFT;
/// Powers of two behind the first units: so many that the last bucket begins at 68 minutes.
const POWERS: u64 = 31;
/// Buckets of a histogram.
pub const BUCKETS: usize = (FINE * (POWERS + 1)) as usize;

/// Kinds of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Flush.
    Flush,
    /// Discard, or write zeroes.
    Zero,
}

/// The kinds, in the order of their counters.
pub const KINDS: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Flush, Kind::Zero];

/// The bucket that a time belongs to.
pub fn bucket(nanos: u64) -> usize {
    let units = nanos >> UNIT_SHIFT;
    if units < FINE {
        return units as usize;
    }
    let power = u64::from(units.ilog2() - FINE_SHIFT);
    let fine = (units >> power) - FINE;
    ((FINE * (power + 1) + fine) as usize).min(BUCKETS - 1)
}

/// The first time that does not belong to a bucket or an earlier one, in nanoseconds. The last one has no such time; it is given one.
pub fn upper(bucket: usize) -> u64 {
    let next = bucket as u64 + 1;
    if next < FINE {
        return next << UNIT_SHIFT;
    }
    let (power, fine) = (next / FINE - 1, next % FINE);
    (FINE + fine) << power << UNIT_SHIFT
}

struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Counters {
    fn new() -> Counters {
        Counters {
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

/// The counters of one disk, for all of its connections.
pub struct Meter {
    kinds: [Counters; KINDS.len()],
}

impl Default for Meter {
    fn default() -> Meter {
        Meter { kinds: std::array::from_fn(|_| Counters::new()) }
    }
}

impl Meter {
    /// Runs a request and counts it. Returns what it returned, and how long it took.
    pub fn timed<T, E>(&self, kind: Kind, bytes: u64, run: impl FnOnce() -> Result<T, E>) -> (Result<T, E>, Duration) {
        let begin = Instant::now();
        let result = run();
        let took = begin.elapsed();
        self.count(kind, bytes, took, result.is_ok());
        (result, took)
    }

    /// Counts a request.
    pub fn count(&self, kind: Kind, bytes: u64, took: Duration, done: bool) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let counters = &self.kinds[kind as usize];
        // Counts only: they order nothing else.
        counters.requests.fetch_add(1, Ordering::Relaxed);
        counters.nanos.fetch_add(nanos, Ordering::Relaxed);
        counters.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        if done {
            counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        } else {
            counters.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was counted so far, in the order of [`KINDS`].
    pub fn read(&self) -> Vec<Counted> {
        let read = |(kind, counters): (Kind, &Counters)| {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let buckets = counters.buckets.iter().map(load).enumerate().filter(|(_, count)| *count > 0);
            Counted {
                kind,
                requests: load(&counters.requests),
                bytes: load(&counters.bytes),
                errors: load(&counters.errors),
                nanos: load(&counters.nanos),
                buckets: buckets.map(|(index, count)| (index as u32, count)).collect(),
            }
        };
        KINDS.into_iter().zip(&self.kinds).map(read).collect()
    }
}

/// What was counted of one kind, since the disk was opened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// Of which kind.
    pub kind: Kind,
    /// Requests, failed ones included.
    pub requests: u64,
    /// Bytes of those that did not fail.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Time that they took together, in nanoseconds.
    pub nanos: u64,
    /// Buckets that are not empty, with the number of requests in each: see [`upper`].
    pub buckets: Vec<(u32, u64)>,
}

impl Counted {
    /// Nothing of a kind.
    pub fn nothing(kind: Kind) -> Counted {
        Counted { kind, requests: 0, bytes: 0, errors: 0, nanos: 0, buckets: Vec::new() }
    }

    /// What was counted since an earlier reading of the same disk. Of one that was opened anew since, all of it.
    pub fn since(&self, earlier: &Counted) -> Counted {
        if self.requests < earlier.requests || self.nanos < earlier.nanos {
            return self.clone();
        }
        let before = |index: u32| earlier.buckets.iter().find(|(at, _)| *at == index).map_or(0, |(_, count)| *count);
        let buckets = self.buckets.iter().map(|(index, count)| (*index, count.saturating_sub(before(*index))));
        Counted {
            kind: self.kind,
            requests: self.requests - earlier.requests,
            bytes: self.bytes.saturating_sub(earlier.bytes),
            errors: self.errors.saturating_sub(earlier.errors),
            nanos: self.nanos - earlier.nanos,
            buckets: buckets.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// Time within which `part` of the requests were done, in nanoseconds, to the end of its bucket; `None` if there were none.
    pub fn percentile(&self, part: f64) -> Option<u64> {
        let all: u64 = self.buckets.iter().map(|(_, count)| count).sum();
        let wanted = ((all as f64 * part).ceil() as u64).clamp(1, all.max(1));
        let mut seen = 0;
        let reached = |(_, count): &&(u32, u64)| {
            seen += count;
            seen >= wanted
        };
        self.buckets.iter().find(reached).map(|(index, _)| upper((*index as usize).min(BUCKETS - 1)))
    }

    /// Mean time in nanoseconds.
    pub fn mean(&self) -> Option<u64> {
        self.nanos.checked_div(self.requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_are_without_gaps_and_at_most_an_eighth_wide() {
        assert_eq!(bucket(0), 0);
        for index in 0..BUCKETS - 1 {
            let end = upper(index);
            assert_eq!((bucket(end - 1), bucket(end)), (index, index + 1));
            if index >= FINE as usize {
                let begin = upper(index - 1);
                assert!((end - begin) * 8 <= begin, "bucket {index}: {begin}..{end}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!(upper(BUCKETS - 2) > 1_800_000_000_000, "half an hour is told from more");
    }

    #[test]
    fn a_meter_counts_each_kind_for_itself() {
        let meter = Meter::default();
        for micros in [1, 2, 1000] {
            meter.count(Kind::Read, 4096, Duration::from_micros(micros), true);
        }
        meter.count(Kind::Write, 512, Duration::from_millis(5), false);
        let counted = meter.read();
        assert_eq!(counted.iter().map(|c| c.requests).collect::<Vec<_>>(), [3, 1, 0, 0]);
        assert_eq!((counted[0].bytes, counted[0].errors, counted[0].nanos), (12288, 0, 1_003_000));
        assert_eq!((counted[1].bytes, counted[1].errors), (0, 1));
        let (result, _) = meter.timed(Kind::Flush, 0, || Ok::<_, ()>(7));
        assert_eq!((result, meter.read()[2].requests), (Ok(7), 1));
    }

    #[test]
    fn percentiles_are_those_of_what_was_counted_meanwhile() {
        let meter = Meter::default();
        (0..100).for_each(|_| meter.count(Kind::Read, 1, Duration::from_secs(1), true));
        let before = meter.read()[0].clone();
        (1..=99).for_each(|_| meter.count(Kind::Read, 1, Duration::from_micros(100), true));
        meter.count(Kind::Read, 1, Duration::from_millis(10), true);
        let meanwhile = meter.read()[0].since(&before);
        assert_eq!((meanwhile.requests, meanwhile.bytes), (100, 100));
        let near = |found: Option<u64>, wanted: u64| found.is_some_and(|f| f > wanted && f <= wanted + wanted / 7);
        assert!(near(meanwhile.percentile(0.5), 100_000) && near(meanwhile.percentile(0.99), 100_000));
        assert!(near(meanwhile.percentile(1.0), 10_000_000));
        assert_eq!(meanwhile.mean(), Some((99 * 100_000 + 10_000_000) / 100));
        assert_eq!(Counted::nothing(Kind::Read).percentile(0.5), None);
        // Opened anew, the counters begin again.
        assert_eq!(Counted::nothing(Kind::Read).since(&before).requests, 0);
    }

    proptest! {
        #[test]
        fn every_time_lies_in_its_bucket(nanos: u64) {
            let index = bucket(nanos);
            prop_assert!(index == BUCKETS - 1 || nanos < upper(index));
            prop_assert!(index == 0 || nanos >= upper(index - 1));
        }
    }
}
