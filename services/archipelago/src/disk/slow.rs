//! Requests that took long: the last of them are kept, and now and then one is told of in the log.
//!
//! Only what is slow comes here, after it was carried out; nobody waits for anybody else: a moment in which somebody looks costs an entry.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use archipelago_core::time;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::limits::{SLOW_KEPT, SLOW_TOLD};
use super::meter::Kind;

/// A request that took long.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Slow {
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// The disk's name when it was opened.
    pub volume: String,
    /// What it was.
    pub kind: Kind,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// How long it took, in nanoseconds; without what it waited for a limit.
    pub nanos: u64,
}

/// The slow requests of a server.
pub struct SlowLog {
    /// From how many nanoseconds on a request is slow.
    threshold: AtomicU64,
    kept: Mutex<VecDeque<Slow>>,
    /// Slow requests, those that were not kept included.
    seen: AtomicU64,
    /// Of these, when the last line was written.
    told: AtomicU64,
    last_line: AtomicU64,
}

impl SlowLog {
    /// Keeps what takes `threshold` or longer; nothing if that is zero.
    pub fn new(threshold: Duration) -> SlowLog {
        let log = SlowLog {
            threshold: AtomicU64::new(u64::MAX),
            kept: Mutex::default(),
            seen: AtomicU64::new(0),
            told: AtomicU64::new(0),
            last_line: AtomicU64::new(0),
        };
        log.set_threshold(threshold);
        log
    }

    /// Keeps what takes so long or longer from now on; nothing if that is zero.
    pub fn set_threshold(&self, threshold: Duration) {
        let nanos = u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX);
        self.threshold.store(if nanos == 0 { u64::MAX } else { nanos }, Ordering::Relaxed);
    }

    /// Whether a request that took so long comes here.
    pub fn is_slow(&self, took: Duration) -> bool {
        took.as_nanos() >= u128::from(self.threshold.load(Ordering::Relaxed))
    }

    /// Keeps a slow request; if a line about it is due, returns how many were seen since the last one, besides this.
    pub fn keep(&self, slow: Slow) -> Option<u64> {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        let more = self.is_due(slow.at).then(|| seen - self.told.swap(seen, Ordering::Relaxed) - 1);
        if let Some(mut kept) = self.kept.try_lock() {
            if kept.len() == SLOW_KEPT {
                kept.pop_front();
            }
            kept.push_back(slow);
        }
        more
    }

    /// Whether the last line was long enough ago; one of those who ask at the same time is told so.
    fn is_due(&self, now: u64) -> bool {
        let last = self.last_line.load(Ordering::Relaxed);
        // A clock that went back must not silence it.
        let due = now >= last.saturating_add(SLOW_TOLD.as_secs()) || now < last;
        due && self.last_line.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The last slow requests, the latest last, and how many there were in all.
    pub fn read(&self) -> (Vec<Slow>, u64) {
        (self.kept.lock().iter().cloned().collect(), self.seen.load(Ordering::Relaxed))
    }

    /// Keeps a request that ended now, and tells of it if a line is due.
    pub fn note(&self, volume: &str, kind: Kind, offset: u64, len: u64, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let slow = Slow { at: time::now(), volume: volume.to_string(), kind, offset, len, nanos };
        if let Some(more) = self.keep(slow) {
            let op = format!("{kind:?}").to_lowercase();
            tracing::warn!(volume, op, offset, bytes = len, millis = nanos / 1_000_000, more, "slow request");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(at: u64, offset: u64) -> Slow {
        Slow { at, volume: "disk-1".into(), kind: Kind::Write, offset, len: 4096, nanos: 1_234_000_000 }
    }

    #[test]
    fn what_takes_as_long_as_the_threshold_is_slow_and_nothing_is_without_one() {
        let log = SlowLog::new(Duration::from_millis(10));
        assert!(log.is_slow(Duration::from_millis(10)) && !log.is_slow(Duration::from_nanos(9_999_999)));
        assert!(!SlowLog::new(Duration::ZERO).is_slow(Duration::from_secs(1000)));
    }

    #[test]
    fn the_last_ones_are_kept_and_all_are_counted() {
        let log = SlowLog::new(Duration::from_millis(10));
        for n in 0..1000 {
            log.keep(slow(5, n));
        }
        let (kept, seen) = log.read();
        assert_eq!((kept.len(), seen), (SLOW_KEPT, 1000));
        assert_eq!(kept.last().unwrap().offset, 999);
    }

    #[test]
    fn lines_are_rare_and_say_what_was_left_out() {
        let log = SlowLog::new(Duration::from_millis(10));
        assert_eq!(log.keep(slow(100, 8192)), Some(0));
        assert_eq!((0..50).filter_map(|n| log.keep(slow(100, n))).count(), 0);
        assert_eq!(log.keep(slow(100 + SLOW_TOLD.as_secs(), 0)), Some(50));
        assert!(log.keep(slow(3, 0)).is_some(), "the clock went back");
    }
}
