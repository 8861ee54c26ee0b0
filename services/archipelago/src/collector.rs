//! The daemon's collector: now and then removes what no map needs any more, and empties files of which little is needed, at a rate
//! that leaves the disk to its users.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use archipelago_core::{CollectOptions, CollectPhase, Error, Rate, Store, ThinOptions};
use tracing::{error, info};

use crate::cli::exit::Failure;
use crate::config::Config;
use crate::tally::Tally;

/// Seconds between two collections, unless the configuration says otherwise.
pub const INTERVAL: u64 = 3600;
/// Longest time between two: a year, so that deadlines can be computed.
const MAX_INTERVAL: u64 = 366 * 24 * 3600;
/// Bytes read or freed per second, unless the configuration says otherwise: a fraction of what one disk does.
pub const RATE: u64 = 32 << 20;
/// Objects removed per second: each is a change of a directory, which other calls wait behind.
const OBJECTS: u64 = 500;

/// How a store is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectPlan {
    interval: Duration,
    rate: u64,
}

impl CollectPlan {
    /// As the configuration says; `None` for not at all.
    pub fn new(config: &Config) -> Option<CollectPlan> {
        let interval = Duration::from_secs(config.gc_interval.unwrap_or(INTERVAL).min(MAX_INTERVAL));
        (!interval.is_zero()).then(|| CollectPlan { interval, rate: config.gc_rate.unwrap_or(RATE) })
    }
}

/// Collects until it is dropped.
pub struct Collector {
    stop: Arc<AtomicBool>,
    /// Wakes the thread when it is dropped.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts to collect; the first time after one interval.
    pub fn start(store: Store, plan: CollectPlan, tally: Arc<Tally>) -> Result<Collector, Failure> {
        let rate = Rate { objects: Some(OBJECTS), bytes: Some(plan.rate) };
        let stop = Arc::new(AtomicBool::new(false));
        let (wake, woken) = channel();
        let asked = stop.clone();
        let work = move || {
            while woken.recv_timeout(plan.interval) == Err(RecvTimeoutError::Timeout) {
                collect(&store, rate, &asked, &tally);
            }
        };
        let thread = std::thread::Builder::new()
            .name("collector".into())
            .spawn(work)
            .map_err(|e| Failure::host("start", "the collector", e))?;
        Ok(Collector { stop, wake: Some(wake), thread: Some(thread) })
    }
}

fn collect(store: &Store, rate: Rate, stop: &AtomicBool, tally: &Tally) {
    let options = CollectOptions { rate, ..CollectOptions::default() };
    tally.begin();
    let collected = store.collect(&options, &mut |progress| {
        // The phases take times that have nothing to do with each other; that of the objects is the one at the given rate.
        if progress.phase == CollectPhase::Sweep {
            tally.progress(progress.done, progress.total);
        }
        !stop.load(Ordering::Relaxed)
    });
    let mut succeeded = Some(true);
    match collected {
        Ok(report) => {
            let freed = report.freed();
            tally.add(freed.objects, freed.bytes);
            if freed.objects > 0 || freed.bytes > 0 {
                info!(objects = freed.objects, bytes = freed.bytes, "collected");
            }
            if report.interrupted {
                succeeded = None;
            }
        }
        // Another process is at it.
        Err(Error::TooBusy(_)) => succeeded = None,
        Err(error) => {
            error!(%error, "collection failed");
            succeeded = Some(false);
        }
    }
    let thin = ThinOptions { rate: rate.bytes.unwrap_or(0), ..ThinOptions::default() };
    let goes_on = || if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    match store.leave_thin(&thin, &mut |_| goes_on()) {
        Ok(report) if report.copied > 0 => {
            info!(bytes = report.copied, "copied out of files of which little was needed");
        }
        Ok(_) => {}
        Err(error) => {
            error!(%error, "copying out of files of which little is needed failed");
            succeeded = Some(false);
        }
    }
    tally.end(succeeded);
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
