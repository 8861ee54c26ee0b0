//! Keeps a collection to its rate, tells how far it is, and notices that it should stop.

use std::time::{Duration, Instant};

use super::report::{CollectPhase, CollectProgress, Rate};
use crate::error::{Error, Result};

/// Longest sleep without asking whether to go on.
const SLICE: Duration = Duration::from_millis(50);
/// Steps between two reports while maps are walked: a step takes a few microseconds.
const STEPS: u32 = 512;

/// Called with how far it is; `false` stops the collection.
pub type Report<'a> = &'a mut dyn FnMut(&CollectProgress) -> bool;

/// The pace of one collection.
pub struct Pace<'a> {
    rate: Rate,
    report: Report<'a>,
    /// How far it is.
    pub progress: CollectProgress,
    /// Bytes of maps that were read.
    pub read: u64,
    /// The caller wants it to stop.
    pub stopped: bool,
    begun: Instant,
    spent: (u64, u64),
    quiet: u32,
}

impl<'a> Pace<'a> {
    /// Nothing done yet.
    pub fn new(rate: Rate, report: Report<'a>) -> Pace<'a> {
        Pace {
            rate,
            report,
            progress: CollectProgress::default(),
            read: 0,
            stopped: false,
            begun: Instant::now(),
            spent: (0, 0),
            quiet: 0,
        }
    }

    /// Another phase begins.
    pub fn phase(&mut self, phase: CollectPhase, total: u64) -> Result<()> {
        self.progress.phase = phase;
        self.progress.done = 0;
        self.progress.total = total;
        // What an earlier phase did not use is not saved for a burst.
        self.begun = Instant::now();
        self.spent = (0, 0);
        self.ask()
    }

    /// One more of what this phase counts.
    pub fn advance(&mut self) -> Result<()> {
        self.progress.done += 1;
        self.ask()
    }

    /// So much was done; returns when the rate allows more. Errors when the collection should stop.
    pub fn spend(&mut self, objects: u64, bytes: u64) -> Result<()> {
        self.spent.0 += objects;
        self.spent.1 += bytes;
        self.quiet += 1;
        if self.quiet >= STEPS {
            self.ask()?;
        }
        let due = |spent: u64, rate: Option<u64>| rate.map_or(0.0, |rate| spent as f64 / rate.max(1) as f64);
        let due = due(self.spent.0, self.rate.objects).max(due(self.spent.1, self.rate.bytes));
        loop {
            let ahead = due - self.begun.elapsed().as_secs_f64();
            if ahead <= 0.0 {
                return Ok(());
            }
            std::thread::sleep(SLICE.min(Duration::from_secs_f64(ahead)));
            self.ask()?;
        }
    }

    /// Tells how far it came in the end.
    pub fn end(&mut self) {
        (self.report)(&self.progress);
    }

    /// Tells how far it is; errors when the collection should stop.
    pub fn ask(&mut self) -> Result<()> {
        self.quiet = 0;
        self.stopped |= !(self.report)(&self.progress);
        if self.stopped { Err(Error::Timeout("the collection was stopped, and".into())) } else { Ok(()) }
    }
}
