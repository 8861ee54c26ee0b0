//! Keeps reading to a rate.

use std::time::{Duration, Instant};

use crate::error::Result;

/// Longest sleep without asking whether to go on.
const SLICE: Duration = Duration::from_millis(50);

/// So many bytes per second, on average.
pub(crate) struct Throttle {
    rate: Option<u64>,
    begun: Instant,
    done: u64,
}

impl Throttle {
    /// From now on. `None` sets no limit.
    pub(crate) fn new(rate: Option<u64>) -> Throttle {
        Throttle { rate, begun: Instant::now(), done: 0 }
    }

    /// So much was read; returns when the rate allows more. `ask` is called at least once; its error ends the wait.
    pub(crate) fn spend(&mut self, bytes: u64, ask: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.done += bytes;
        loop {
            ask()?;
            let Some(rate) = self.rate else { return Ok(()) };
            let ahead = self.done as f64 / rate.max(1) as f64 - self.begun.elapsed().as_secs_f64();
            if ahead <= 0.0 {
                return Ok(());
            }
            std::thread::sleep(SLICE.min(Duration::from_secs_f64(ahead)));
        }
    }
}
