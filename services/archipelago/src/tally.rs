//! What a background job of a daemon has done, for whoever watches it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use archipelago_core::time;

/// Counters of one job. They are read while they are written, so those that belong together may differ by what is under way.
#[derive(Debug, Default)]
pub struct Tally {
    running: AtomicBool,
    runs: AtomicU64,
    failures: AtomicU64,
    /// When a run last came to its end without a failure, in seconds since 1970; 0 for never.
    succeeded: AtomicU64,
    /// Of this run: done, and to do as far as is known.
    done: AtomicU64,
    total: AtomicU64,
    /// Of all runs: objects, and bytes that were read or freed.
    objects: AtomicU64,
    bytes: AtomicU64,
    /// Bytes that the last whole run found to be damaged.
    damaged: AtomicU64,
}

/// The same at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// It is at work.
    pub running: bool,
    /// Runs that ended, in whatever way.
    pub runs: u64,
    /// Of these, runs that failed.
    pub failures: u64,
    /// When a run last succeeded, in seconds since 1970; 0 for never.
    pub succeeded: u64,
    /// How far this run is, from 0 to 1.
    pub progress: f64,
    /// Objects, of all runs.
    pub objects: u64,
    /// Bytes, of all runs.
    pub bytes: u64,
    /// Bytes that the last whole run found to be damaged.
    pub damaged: u64,
}

impl Tally {
    /// A run begins.
    pub fn begin(&self) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(0, Ordering::Relaxed);
        self.running.store(true, Ordering::Relaxed);
    }

    /// How far the run is.
    pub fn progress(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// More was done.
    pub fn add(&self, objects: u64, bytes: u64) {
        self.objects.fetch_add(objects, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Damage that a run found.
    pub fn damaged(&self, bytes: u64) {
        self.damaged.store(bytes, Ordering::Relaxed);
    }

    /// The run ended: `None` if it was stopped before its end, otherwise whether it succeeded.
    pub fn end(&self, succeeded: Option<bool>) {
        self.running.store(false, Ordering::Relaxed);
        self.runs.fetch_add(1, Ordering::Relaxed);
        match succeeded {
            Some(true) => self.succeeded.store(time::now(), Ordering::Relaxed),
            Some(false) => drop(self.failures.fetch_add(1, Ordering::Relaxed)),
            None => {}
        }
    }

    /// What it has done.
    pub fn read(&self) -> Reading {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let running = self.running.load(Ordering::Relaxed);
        let (done, total) = (load(&self.done), load(&self.total));
        let progress = if running && total > 0 { (done as f64 / total as f64).min(1.0) } else { 0.0 };
        Reading {
            running,
            runs: load(&self.runs),
            failures: load(&self.failures),
            succeeded: load(&self.succeeded),
            progress,
            objects: load(&self.objects),
            bytes: load(&self.bytes),
            damaged: load(&self.damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_by_how_they_end() {
        let tally = Tally::default();
        tally.begin();
        tally.progress(1, 4);
        tally.add(2, 4096);
        assert_eq!(
            tally.read(),
            Reading { running: true, progress: 0.25, objects: 2, bytes: 4096, ..Reading::default() }
        );
        tally.end(Some(false));
        tally.begin();
        tally.end(None);
        assert_eq!((tally.read().runs, tally.read().failures, tally.read().succeeded), (2, 1, 0));
        tally.begin();
        tally.end(Some(true));
        let read = tally.read();
        assert!(read.succeeded > 0 && !read.running && read.progress == 0.0 && read.bytes == 4096);
    }
}
