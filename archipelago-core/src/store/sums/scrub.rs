//! One pass over a store: everything that maps name in sealed epochs is read and compared, and gets a checksum if it has none.

use std::ops::Range;

use serde::Serialize;

use super::throttle::Throttle;
use super::walk::{Counts, Walk, named};
use crate::blocker::{LockMode, LockOutcome, Object, VolumeId};
use crate::error::{Error, Result};
use crate::format::owner::ShortOwner;
use crate::limits::SECTOR;
use crate::store::catalog;
use crate::store::check::{self, Finding, Severity};
use crate::store::collect::marks::Marks;
use crate::store::shared::Shared;

/// The lock on this id is the right to make checksums; no map ever has it.
const SCRUBBER: VolumeId = VolumeId(3);

/// How a store is scrubbed.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScrubOptions {
    /// Bytes read per second; `None` sets no limit.
    pub rate: Option<u64>,
    /// Begin anywhere and go round once: for passes that are cut short more often than not. What is found where does not
    /// depend on it, and nothing has to be stored.
    pub anywhere: bool,
}

/// How far a scrub is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScrubProgress {
    /// Map entries walked so far, to find what there is to read.
    pub entries: u64,
    /// Bytes read so far.
    pub done: u64,
    /// Bytes that there are to read; 0 while that is being found out.
    pub total: u64,
    /// Bytes that got a checksum.
    pub made: u64,
    /// Bytes that are not what was written, or cannot be read.
    pub altered: u64,
}

/// What a scrub did and found; all figures but those of maps and epochs in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScrubReport {
    /// It was stopped before its end.
    pub interrupted: bool,
    /// Maps that were walked.
    pub maps: u64,
    /// Sealed epochs whose data was read.
    pub epochs: u64,
    /// Is what its checksum says.
    pub verified: u64,
    /// Got a checksum.
    pub made: u64,
    /// Got none, for two readings differed, or a sync of the data failed before.
    pub unstable: u64,
    /// Was right only when it was read again.
    pub healed: u64,
    /// Is not what was written, or cannot be read.
    pub altered: u64,
    /// Belongs to epochs that may still be written, and has no checksums.
    pub live: u64,
    /// Places of checksums that were altered themselves, and made anew.
    pub broken: u64,
    /// Epochs left out because there was no memory to tell which of their sectors maps name.
    pub unknown: u64,
    /// Why maps could not be read, and what they alone name was left out; and of which data objects no checksums were made.
    pub unreadable: Vec<String>,
    /// Data that is not what was written, with the bytes of the maps that lose it.
    pub findings: Vec<Finding>,
}

/// Bytes of one epoch to be read: `take` of those that maps name, behind the first `skip` of them.
struct Task {
    owner: VolumeId,
    epoch: u64,
    skip: u64,
    take: u64,
}

/// See [`crate::Store::scrub`].
pub(crate) fn scrub(
    shared: &Shared,
    options: &ScrubOptions,
    progress: &mut dyn FnMut(&ScrubProgress) -> bool,
) -> Result<ScrubReport> {
    catalog::check_writable(shared)?;
    let owner = ShortOwner::of(&shared.owner()).encode();
    let _lock = match shared.blocker.lock(SCRUBBER, LockMode::Exclusive, owner.as_bytes())? {
        LockOutcome::Held(lock) => lock,
        LockOutcome::Refused(_) => {
            return Err(Error::TooBusy("the store, which another process is scrubbing".into()));
        }
    };
    let mut report = ScrubReport::default();
    let throttle = Throttle::new(options.rate);
    let mut pace = Pace { throttle, progress, at: ScrubProgress::default(), stopped: false };
    let mut walk = Walk::new(shared, true);
    let done = pass(shared, options, &mut walk, &mut pace, &mut report);
    let Counts { verified, made, without, healed, altered, broken } = walk.counts;
    report = ScrubReport { verified, made, unstable: without, healed, altered, broken, ..report };
    // Also what was found before an error, which would hide it otherwise.
    report.findings = check::altered(shared, std::mem::take(&mut walk.altered))?;
    report.interrupted = pace.stopped;
    report.unreadable.append(&mut walk.refused);
    note(shared, &report, done.is_ok());
    match done {
        Err(_) if pace.stopped => Ok(report),
        other => other.map(|()| report),
    }
}

/// What `status` says of it, until a whole pass finds nothing.
fn note(shared: &Shared, report: &ScrubReport, whole: bool) {
    let lost: Vec<&Finding> = report.findings.iter().filter(|f| f.severity > Severity::Leak).collect();
    if let Some(first) = lost.first() {
        let more = if lost.len() > 1 { format!(", and {} more places", lost.len() - 1) } else { String::new() };
        let text = format!(
            "a scrub found data that is not what was written: {}: {}{more}; `archipelago check --data` says what is lost",
            first.object, first.detail
        );
        shared.reports.trouble("scrub", Some(text));
    } else if whole {
        shared.reports.trouble("scrub", None);
    }
}

fn pass(
    shared: &Shared,
    options: &ScrubOptions,
    walk: &mut Walk<'_>,
    pace: &mut Pace<'_>,
    report: &mut ScrubReport,
) -> Result<()> {
    let (marks, maps, unreadable) = named(shared, &[], false, &mut |entries, _| {
        pace.at.entries += entries;
        pace.ask()
    })?;
    (report.maps, report.unreadable) = (maps, unreadable);
    let tasks = tasks(walk, &marks, report)?;
    let total: u64 = tasks.iter().map(|task| task.take).sum();
    pace.at.total = total;
    // The time that the walk took is not saved for a burst.
    pace.throttle = Throttle::new(options.rate);
    let start = if options.anywhere && total > 0 { (shared.random()? % total) & !(SECTOR - 1) } else { 0 };
    for task in around(tasks, start) {
        let len = shared.blocker.len(Object::Data(task.owner, task.epoch))?.unwrap_or(0);
        let live = marks.live(task.owner, task.epoch, len);
        let ranges = clip(&live, task.skip, task.take);
        walk.epoch(task.owner, task.epoch, &ranges, &mut |counts, bytes| {
            pace.at = ScrubProgress { made: counts.made, altered: counts.altered, ..pace.at };
            pace.spend(bytes)
        })?;
    }
    Ok(())
}

/// What there is to read.
fn tasks(walk: &mut Walk<'_>, marks: &Marks, report: &mut ScrubReport) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for (owner, epoch) in marks.epochs() {
        let sealed = walk.is_sealed(owner, epoch)?;
        match marks.bytes(Object::Data(owner, epoch)) {
            None => report.unknown += 1,
            Some(bytes) if !sealed => report.live += bytes,
            Some(take) => {
                report.epochs += 1;
                tasks.push(Task { owner, epoch, skip: 0, take });
            }
        }
    }
    Ok(tasks)
}

/// The same from byte `start` of all of them on, and then those before.
fn around(tasks: Vec<Task>, start: u64) -> Vec<Task> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut at = 0;
    for task in tasks {
        let before = start.saturating_sub(at).min(task.take);
        at += task.take;
        if before > 0 {
            last.push(Task { take: before, ..task });
        }
        if before < task.take {
            first.push(Task { skip: before, take: task.take - before, ..task });
        }
    }
    first.append(&mut last);
    first
}

/// The part of ranges that lies `skip` bytes behind their beginning and is `take` long.
fn clip(ranges: &[Range<u64>], mut skip: u64, mut take: u64) -> Vec<Range<u64>> {
    let mut clipped = Vec::new();
    for range in ranges {
        let skipped = skip.min(range.end - range.start);
        skip -= skipped;
        let taken = take.min(range.end - range.start - skipped);
        take -= taken;
        if taken > 0 {
            clipped.push(range.start + skipped..range.start + skipped + taken);
        }
    }
    clipped
}

/// Keeps a scrub to its rate, tells how far it is, and notices that it should stop.
struct Pace<'a> {
    throttle: Throttle,
    progress: &'a mut dyn FnMut(&ScrubProgress) -> bool,
    at: ScrubProgress,
    stopped: bool,
}

impl Pace<'_> {
    /// So much was read; returns when the rate allows more.
    fn spend(&mut self, bytes: u64) -> Result<()> {
        self.at.done += bytes;
        let Pace { throttle, progress, at, stopped } = self;
        throttle.spend(bytes, &mut || ask(progress, at, stopped))
    }

    fn ask(&mut self) -> Result<()> {
        ask(self.progress, &self.at, &mut self.stopped)
    }
}

fn ask(progress: &mut dyn FnMut(&ScrubProgress) -> bool, at: &ScrubProgress, stopped: &mut bool) -> Result<()> {
    *stopped |= !progress(at);
    if *stopped { Err(Error::Timeout("the scrub was stopped, and".into())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_round_reads_everything_once_wherever_it_begins() {
        let live = [0..8192, 16384..20480, 40960..49152];
        let all: u64 = live.iter().map(|r| r.end - r.start).sum();
        for start in (0..3 * all).step_by(4096) {
            let tasks = (1..4).map(|epoch| Task { owner: VolumeId(9), epoch, skip: 0, take: all }).collect();
            let mut seen = std::collections::BTreeMap::new();
            for task in around(tasks, start) {
                for range in clip(&live, task.skip, task.take) {
                    for sector in (range.start..range.end).step_by(4096) {
                        *seen.entry((task.epoch, sector)).or_insert(0) += 1;
                    }
                }
            }
            assert_eq!(seen.len() as u64, 3 * all / 4096, "from {start} on");
            assert!(seen.values().all(|times| *times == 1), "from {start} on");
        }
    }
}
