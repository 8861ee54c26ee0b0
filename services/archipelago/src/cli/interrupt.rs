//! SIGINT, SIGTERM and SIGHUP: the first asks the command to stop and tidy up, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::exit::Failure;

/// Signals that ask a command to stop.
pub const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Whether a signal asked to stop.
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Takes the signals over for the rest of the process.
    pub fn install() -> Result<Interrupt, Failure> {
        let number = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(AtomicBool::new(false));
        let failed = |e| Failure::host("register", "a signal handler", e);
        for signal in SIGNALS {
            // In this order: at the second signal the flag is already set when the first action looks at it.
            flag::register_conditional_shutdown(signal, 128 + signal, asked.clone()).map_err(failed)?;
            flag::register(signal, asked.clone()).map_err(failed)?;
            flag::register_usize(signal, number.clone(), signal as usize).map_err(failed)?;
        }
        Ok(Interrupt(number))
    }

    /// The signal that asked to stop, as the failure that it is.
    pub fn check(&self) -> Result<(), Failure> {
        match self.0.load(Ordering::SeqCst) {
            0 => Ok(()),
            number => Err(Failure::Signal(number as i32)),
        }
    }
}
