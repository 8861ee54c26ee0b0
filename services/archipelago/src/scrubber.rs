//! The daemon's scrubber: reads the data of ended epochs all the time, slowly, so that what a disk has altered is known before somebody
//! needs it, and makes the checksums that are missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use archipelago_core::{Error, ScrubOptions, ScrubReport, Severity, Store};
use tracing::{error, info, warn};

use crate::cli::exit::Failure;
use crate::config::Config;
use crate::tally::Tally;

/// Seconds between two passes, unless the configuration says otherwise: a week.
pub const INTERVAL: u64 = 7 * 24 * 3600;
/// Longest time between two: a year, so that deadlines can be computed.
const MAX_INTERVAL: u64 = 366 * 24 * 3600;
/// Seconds before the first pass: what has just been started has other things to do. A daemon that runs for a shorter time than
/// an interval gets to scrub all the same.
const FIRST: u64 = 600;
/// Bytes read per second, unless the configuration says otherwise: next to nothing for a disk, and a terabyte in three days.
pub const RATE: u64 = 4 << 20;
/// Findings of one pass that go to the log; `check --data` tells them all.
const LOGGED: usize = 20;

/// How a store is scrubbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubPlan {
    interval: Duration,
    rate: u64,
}

impl ScrubPlan {
    /// As the configuration says, at another rate if one is given; `None` for a rate or interval of 0.
    pub fn new(config: &Config, rate: Option<u64>) -> Option<ScrubPlan> {
        let interval = Duration::from_secs(config.scrub_interval.unwrap_or(INTERVAL).min(MAX_INTERVAL));
        let rate = rate.or(config.scrub_rate).unwrap_or(RATE);
        (!interval.is_zero() && rate > 0).then_some(ScrubPlan { interval, rate })
    }
}

/// Scrubs until it is dropped.
pub struct Scrubber {
    stop: Arc<AtomicBool>,
    /// Wakes the thread when it is dropped.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Scrubber {
    /// Starts to scrub.
    pub fn start(store: Store, plan: ScrubPlan, tally: Arc<Tally>) -> Result<Scrubber, Failure> {
        let ScrubPlan { interval, rate } = plan;
        // Anywhere: a daemon that is restarted more often than a pass takes would read the first part for ever otherwise.
        let options = ScrubOptions { rate: Some(rate), anywhere: true };
        let first = interval.min(Duration::from_secs(FIRST));
        let stop = Arc::new(AtomicBool::new(false));
        let (wake, woken) = channel();
        let asked = stop.clone();
        let work = move || {
            let mut wait = first;
            while woken.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = if scrub(&store, &options, &asked, &tally) { interval } else { first };
            }
        };
        let thread = std::thread::Builder::new()
            .name("scrubber".into())
            .spawn(work)
            .map_err(|e| Failure::host("start", "the scrubber", e))?;
        Ok(Scrubber { stop, wake: Some(wake), thread: Some(thread) })
    }
}

/// One pass; whether it came to its end.
fn scrub(store: &Store, options: &ScrubOptions, stop: &AtomicBool, tally: &Tally) -> bool {
    let mut read = 0;
    tally.begin();
    let scrubbed = store.scrub(options, &mut |progress| {
        tally.progress(progress.done, progress.total);
        tally.add(0, progress.done.saturating_sub(read));
        read = read.max(progress.done);
        !stop.load(Ordering::Relaxed)
    });
    let (succeeded, done) = match &scrubbed {
        Ok(report) if report.interrupted => (None, false),
        Ok(report) => {
            tally.damaged(report.altered);
            (Some(true), true)
        }
        // Another process is at it, and will have done it.
        Err(Error::TooBusy(_)) => (None, true),
        Err(_) => (Some(false), false),
    };
    tally.end(succeeded);
    match scrubbed {
        Ok(report) => log(&report),
        Err(Error::TooBusy(_)) => {}
        Err(error) => error!(%error, "scrub failed"),
    }
    done
}

fn log(report: &ScrubReport) {
    if report.made > 0 {
        info!(made = report.made, verified = report.verified, "scrub: bytes got checksums, or were as theirs say");
    }
    if report.healed > 0 || report.unstable > 0 || report.broken > 0 {
        warn!(
            read_again = report.healed,
            read_differently = report.unstable,
            checksums_altered = report.broken,
            "scrub: not all was read or kept as it should be: look at the disk"
        );
    }
    for reason in report.unreadable.iter().take(LOGGED) {
        warn!(%reason, "scrub: left out");
    }
    let lost = report.findings.iter().filter(|finding| finding.severity > Severity::Leak);
    for finding in lost.take(LOGGED) {
        let names: Vec<&str> = finding.affected.iter().map(|affected| affected.name.as_str()).collect();
        let (object, detail, affected) = (&finding.object, &finding.detail, names.join(", "));
        error!(%object, %detail, %affected, "scrub: DAMAGE");
    }
    if report.altered > 0 {
        let bytes = report.altered;
        error!(bytes, "scrub: not what was written; `archipelago check --data` says what is lost");
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
