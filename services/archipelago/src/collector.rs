//! The daemon's collector: now and then removes what no map needs any more, and empties files of which little is needed, at a rate
//! that leaves the disk to its users.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use archipelago_core::{CollectOptions, Error, Rate, Store, ThinOptions};

use crate::cli::exit::Failure;
use crate::config::Config;

/// Seconds between two collections, unless the configuration says otherwise.
pub const INTERVAL: u64 = 3600;
/// Longest time between two: a year, so that deadlines can be computed.
const MAX_INTERVAL: u64 = 366 * 24 * 3600;
/// Bytes read or freed per second, unless the configuration says otherwise: a fraction of what one disk does.
pub const RATE: u64 = 32 << 20;
/// Objects removed per second: each is a change of a directory, which other calls wait behind.
const OBJECTS: u64 = 500;

/// Collects until it is dropped.
pub struct Collector {
    stop: Arc<AtomicBool>,
    /// Wakes the thread when it is dropped.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts to collect as the configuration says; the first time after one interval.
    pub fn start(store: Store, config: &Config) -> Result<Option<Collector>, Failure> {
        let interval = Duration::from_secs(config.gc_interval.unwrap_or(INTERVAL).min(MAX_INTERVAL));
        if interval.is_zero() {
            return Ok(None);
        }
        let rate = Rate { objects: Some(OBJECTS), bytes: Some(config.gc_rate.unwrap_or(RATE)) };
        let stop = Arc::new(AtomicBool::new(false));
        let (wake, woken) = channel();
        let asked = stop.clone();
        let work = move || {
            while woken.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                collect(&store, rate, &asked);
            }
        };
        let thread = std::thread::Builder::new()
            .name("collector".into())
            .spawn(work)
            .map_err(|e| Failure::host("start", "the collector", e))?;
        Ok(Some(Collector { stop, wake: Some(wake), thread: Some(thread) }))
    }
}

fn collect(store: &Store, rate: Rate, stop: &AtomicBool) {
    let options = CollectOptions { rate, ..CollectOptions::default() };
    match store.collect(&options, &mut |_| !stop.load(Ordering::Relaxed)) {
        Ok(report) => {
            let freed = report.freed();
            if freed.objects > 0 || freed.bytes > 0 {
                eprintln!("archipelago: collected {} objects, {} bytes", freed.objects, freed.bytes);
            }
        }
        // Another process is at it.
        Err(Error::TooBusy(_)) => {}
        Err(error) => eprintln!("archipelago: collection: {error}"),
    }
    let thin = ThinOptions { rate: rate.bytes.unwrap_or(0), ..ThinOptions::default() };
    let goes_on = || if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    match store.leave_thin(&thin, &mut |_| goes_on()) {
        Ok(report) if report.copied > 0 => {
            eprintln!("archipelago: copied {} bytes out of files of which little was needed", report.copied);
        }
        Ok(_) => {}
        Err(error) => eprintln!("archipelago: copying out of files of which little is needed: {error}"),
    }
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
