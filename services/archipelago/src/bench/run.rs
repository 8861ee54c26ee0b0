//! Keeps requests under way until all were answered, the time is over, or somebody says stop.

use std::time::{Duration, Instant};

use super::args::Insanity;
use super::limits::LOOK;
use super::plan::{Kind, Plan, Request};
use super::processor;
use super::progress::Progress;
use super::record::Record;
use super::target::{Ended, Stalls, Target};
use crate::cli::exit::Failure;

/// How a run ended.
#[derive(Debug)]
pub enum End {
    /// All requests were answered.
    All,
    /// The time was over.
    Time,
    /// Somebody said stop, and this why.
    Stopped(Failure),
    /// The target could not go on.
    Broken(Failure),
}

/// A run.
pub struct Measured {
    /// Counts and times of requests.
    pub record: Record,
    /// From the first request to the last answer.
    pub time: Duration,
    /// Making durable what was written, after that.
    pub flush: Option<Duration>,
    /// Processor time of this process meanwhile, the flush included.
    pub own: Duration,
    /// Processor time of a process that served it.
    pub server: Option<Duration>,
    /// Writes that the engine did not admit meanwhile.
    pub stalls: Option<Stalls>,
    /// How it ended.
    pub end: End,
}

/// Runs a plan. `stopped` says whether to stop, and why.
pub fn run(
    plan: &Plan,
    target: &mut dyn Target,
    insanity: Insanity,
    stopped: &dyn Fn() -> Result<(), Failure>,
    progress: &mut Progress,
) -> Result<Measured, Failure> {
    let clock = |e| Failure::host("read", "the clock of this process", e);
    let (own, server, stalls) = (processor::own().map_err(clock)?, target.served_by(), target.stalls());
    let mut running = Running {
        plan,
        target,
        insanity,
        stopped,
        begin: Instant::now(),
        record: Record::default(),
        under_way: vec![None; plan.depth],
        free: (0..plan.depth).rev().collect(),
    };
    let end = match running.go(progress) {
        Ok(end) => end,
        Err(failure) => End::Broken(failure),
    };
    let (record, time) = (running.record, running.begin.elapsed());
    let (flush, end) = match end {
        End::Broken(failure) => (None, End::Broken(failure)),
        end if plan.writes() => {
            let begin = Instant::now();
            match target.flush() {
                Ok(()) => (Some(begin.elapsed()), end),
                Err(failure) => (None, End::Broken(failure)),
            }
        }
        end => (None, end),
    };
    let since = |now: Option<Duration>, before: Option<Duration>| Some(now?.saturating_sub(before?));
    let own = processor::own().map_err(clock)?.saturating_sub(own);
    let server = since(target.served_by(), server);
    let stalls = target.stalls().zip(stalls).map(|(now, before)| Stalls { count: now.count - before.count, ..now });
    Ok(Measured { record, time, flush, own, server, stalls, end })
}

struct Running<'a> {
    plan: &'a Plan,
    target: &'a mut dyn Target,
    insanity: Insanity,
    stopped: &'a dyn Fn() -> Result<(), Failure>,
    begin: Instant,
    record: Record,
    /// By tag: the request, and when it was begun if it is timed.
    under_way: Vec<Option<(Request, Option<Instant>)>>,
    /// Tags that are not under way.
    free: Vec<usize>,
}

impl Running<'_> {
    fn go(&mut self, progress: &mut Progress) -> Result<End, Failure> {
        let mut sequence = self.plan.sequence();
        let mut ended = Vec::with_capacity(self.plan.depth);
        let mut end = None;
        loop {
            while end.is_none()
                && let Some(tag) = self.free.pop()
            {
                let got = self.clock(Insanity::Paranoid);
                end = self.is_over(progress);
                if end.is_some() {
                    self.free.push(tag);
                    break;
                }
                self.begin_one(tag, sequence.next(), got)?;
            }
            if self.free.len() == self.plan.depth {
                progress.show(&self.record, self.begin.elapsed());
                return Ok(end.unwrap_or(End::All));
            }
            self.target.wait(&mut ended)?;
            let now = self.clock(Insanity::Eccentric);
            for ended in ended.drain(..) {
                self.end_one(ended, now);
            }
        }
    }

    fn clock(&self, least: Insanity) -> Option<Instant> {
        (self.insanity >= least).then(Instant::now)
    }

    /// Whether no more requests are begun, and why.
    fn is_over(&mut self, progress: &mut Progress) -> Option<End> {
        if self.plan.runtime.is_none() && self.record.submitted == self.plan.requests {
            return Some(End::All);
        }
        // Large requests are few in a second; a look at the clock costs nothing beside one.
        if self.record.submitted.is_multiple_of(LOOK) || self.plan.request_size >= 1 << 16 {
            if let Err(why) = (self.stopped)() {
                return Some(End::Stopped(why));
            }
            let elapsed = self.begin.elapsed();
            progress.maybe(&self.record, elapsed);
            if self.plan.runtime.is_some_and(|time| elapsed >= time) {
                return Some(End::Time);
            }
        }
        None
    }

    fn begin_one(&mut self, tag: usize, request: Request, got: Option<Instant>) -> Result<(), Failure> {
        if request.kind == Kind::Write {
            self.plan.content().make(self.target.buffer(tag), request.object, request.offset);
        }
        if let Some(got) = got {
            self.record.stages.get.add(got.elapsed());
        }
        let begun = self.clock(Insanity::Eccentric);
        self.under_way[tag] = Some((request, begun));
        self.record.submitted += 1;
        self.target.start(tag, request)?;
        if let (Some(begun), true) = (begun, self.insanity >= Insanity::Manic) {
            self.record.stages.submit.add(begun.elapsed());
        }
        Ok(())
    }

    fn end_one(&mut self, ended: Ended, now: Option<Instant>) {
        let Some((request, begun)) = self.under_way[ended.tag].take() else { return };
        let time = now.zip(begun).map(|(now, begun)| now - begun);
        let read = request.kind == Kind::Read && ended.result.is_ok();
        let bytes = if request.kind.moves_bytes() { self.plan.request_size } else { 0 };
        self.record.answered(request.kind, bytes, ended.result, time);
        if read {
            let begin = self.clock(Insanity::Paranoid);
            let found = self.target.buffer(ended.tag);
            if let Err(at) = self.plan.content().check(found, request.object, request.offset) {
                self.record.corrupt(request, at);
            }
            if let Some(begin) = begin {
                self.record.stages.check.add(begin.elapsed());
            }
        }
        self.free.push(ended.tag);
    }
}
