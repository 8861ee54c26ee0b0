//! The daemon's scrubber: reads the data of ended epochs all the time, slowly, so that what a disk has altered is known before somebody
//! needs it, and makes the checksums that are missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use archipelago_core::{Error, ScrubOptions, ScrubReport, Severity, Store};

use crate::cli::exit::Failure;
use crate::config::Config;

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

/// Scrubs until it is dropped.
pub struct Scrubber {
    stop: Arc<AtomicBool>,
    /// Wakes the thread when it is dropped.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Scrubber {
    /// Starts to scrub as the configuration says, at another rate if one is given; a rate or interval of 0 does not.
    pub fn start(store: Store, config: &Config, rate: Option<u64>) -> Result<Option<Scrubber>, Failure> {
        let interval = Duration::from_secs(config.scrub_interval.unwrap_or(INTERVAL).min(MAX_INTERVAL));
        let rate = rate.or(config.scrub_rate).unwrap_or(RATE);
        if interval.is_zero() || rate == 0 {
            return Ok(None);
        }
        // Anywhere: a daemon that is restarted more often than a pass takes would read the first part for ever otherwise.
        let options = ScrubOptions { rate: Some(rate), anywhere: true };
        let first = interval.min(Duration::from_secs(FIRST));
        let stop = Arc::new(AtomicBool::new(false));
        let (wake, woken) = channel();
        let asked = stop.clone();
        let work = move || {
            let mut wait = first;
            while woken.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = if scrub(&store, &options, &asked) { interval } else { first };
            }
        };
        let thread = std::thread::Builder::new()
            .name("scrubber".into())
            .spawn(work)
            .map_err(|e| Failure::host("start", "the scrubber", e))?;
        Ok(Some(Scrubber { stop, wake: Some(wake), thread: Some(thread) }))
    }
}

/// One pass; whether it came to its end.
fn scrub(store: &Store, options: &ScrubOptions, stop: &AtomicBool) -> bool {
    match store.scrub(options, &mut |_| !stop.load(Ordering::Relaxed)) {
        Ok(report) => {
            log(&report);
            !report.interrupted
        }
        // Another process is at it, and will have done it.
        Err(Error::TooBusy(_)) => true,
        Err(error) => {
            eprintln!("archipelago: scrub: {error}");
            false
        }
    }
}

fn log(report: &ScrubReport) {
    if report.made > 0 {
        eprintln!("archipelago: scrub: {} bytes got checksums, {} were as theirs say", report.made, report.verified);
    }
    if report.healed > 0 || report.unstable > 0 || report.broken > 0 {
        eprintln!(
            "archipelago: scrub: {} bytes were right only when read again, {} were read twice and differed, {} places of checksums were altered: look at the disk",
            report.healed, report.unstable, report.broken
        );
    }
    for reason in report.unreadable.iter().take(LOGGED) {
        eprintln!("archipelago: scrub: left out: {reason}");
    }
    let lost = report.findings.iter().filter(|finding| finding.severity > Severity::Leak);
    for finding in lost.take(LOGGED) {
        let names: Vec<&str> = finding.affected.iter().map(|affected| affected.name.as_str()).collect();
        eprintln!("archipelago: scrub: DAMAGE: {}: {}: {}", finding.object, finding.detail, names.join(", "));
    }
    if report.altered > 0 {
        eprintln!(
            "archipelago: scrub: {} bytes are not what was written; `archipelago check --data` says what is lost",
            report.altered
        );
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
