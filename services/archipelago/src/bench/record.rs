//! What is counted and timed while requests run.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::limits::{LONGEST, MAX_NAMED};
use super::plan::{Kind, Request};
use crate::cli::exit::Failure;

/// Significant digits of a time in a histogram.
const DIGITS: u8 = 3;

/// Requests of one kind.
#[derive(Default)]
pub struct Tally {
    /// Answered, also with a failure.
    pub received: u64,
    /// Answered with a failure.
    pub failed: u64,
    /// Bytes of those that were carried out.
    pub bytes: u64,
    /// Nanoseconds of each, if it was timed.
    pub times: Option<Histogram<u64>>,
}

/// A part of the way of requests, of all of them together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stage {
    /// How long it took.
    pub total: Duration,
    /// How often it was gone.
    pub count: u64,
}

impl Stage {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.total += time;
        self.count += 1;
    }

    /// On average.
    pub fn mean(self) -> Option<Duration> {
        let nanos = self.total.as_nanos().checked_div(u128::from(self.count))?;
        Some(Duration::from_nanos(nanos as u64))
    }
}

/// The stages that are timed here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    /// Choosing a request, and making what it writes.
    pub get: Stage,
    /// Handing it to the target.
    pub submit: Stage,
    /// From there until its answer is there.
    pub receive: Stage,
    /// Comparing what was read.
    pub check: Stage,
}

/// All of it.
#[derive(Default)]
pub struct Record {
    /// Handed to the target.
    pub submitted: u64,
    /// By kind, as in [`Kind::ALL`].
    pub kinds: [Tally; 4],
    /// Reads that returned something else than was written.
    pub corrupted: u64,
    /// Where: the request, and the first wrong byte of it.
    pub wrong: Vec<(Request, usize)>,
    /// The first failure of a request.
    pub first_failure: Option<Failure>,
    /// Stages.
    pub stages: Stages,
}

impl Record {
    /// Of a kind.
    pub fn of(&self, kind: Kind) -> &Tally {
        &self.kinds[kind as usize]
    }

    /// Answered, of all kinds.
    pub fn received(&self) -> u64 {
        self.kinds.iter().map(|tally| tally.received).sum()
    }

    /// Failed, of all kinds.
    pub fn failed(&self) -> u64 {
        self.kinds.iter().map(|tally| tally.failed).sum()
    }

    /// Bytes moved.
    pub fn bytes(&self) -> u64 {
        self.kinds.iter().map(|tally| tally.bytes).sum()
    }

    /// A request was answered; `time` if it was timed.
    pub fn answered(&mut self, kind: Kind, bytes: u64, result: Result<(), Failure>, time: Option<Duration>) {
        let tally = &mut self.kinds[kind as usize];
        tally.received += 1;
        match result {
            Ok(()) => tally.bytes += bytes,
            Err(failure) => {
                tally.failed += 1;
                self.first_failure.get_or_insert(failure);
            }
        }
        if let Some(time) = time {
            self.stages.receive.add(time);
            if tally.times.is_none() {
                tally.times = Histogram::new_with_bounds(1, LONGEST.as_nanos() as u64, DIGITS).ok();
            }
            if let Some(times) = &mut tally.times {
                times.saturating_record(time.as_nanos() as u64);
            }
        }
    }

    /// A read returned something else than was written.
    pub fn corrupt(&mut self, request: Request, at: usize) {
        self.corrupted += 1;
        if self.wrong.len() < MAX_NAMED {
            self.wrong.push((request, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_for_themselves_with_percentiles() {
        let mut record = Record::default();
        for micros in 1..=1000 {
            record.answered(Kind::Read, 4096, Ok(()), Some(Duration::from_micros(micros)));
        }
        record.answered(Kind::Write, 4096, Err(Failure::Usage("no".into())), Some(Duration::from_secs(7200)));
        let read = record.of(Kind::Read);
        assert_eq!((read.received, read.failed, read.bytes), (1000, 0, 4096 * 1000));
        let times = read.times.as_ref().expect("was timed");
        for (part, micros) in [(0.5, 500), (0.99, 990), (0.999, 999)] {
            assert!((times.value_at_quantile(part) / 1000).abs_diff(micros) <= 1);
        }
        assert_eq!((record.received(), record.failed(), record.bytes()), (1001, 1, 4096 * 1000));
        assert!(record.first_failure.is_some());
        assert_eq!(record.stages.receive.count, 1001);
    }

    #[test]
    fn places_of_corruption_are_named_up_to_a_limit_and_all_counted() {
        let mut record = Record::default();
        for object in 0..100 {
            record.corrupt(Request { kind: Kind::Read, object, offset: 0 }, 7);
        }
        assert_eq!((record.corrupted, record.wrong.len()), (100, MAX_NAMED));
    }
}
