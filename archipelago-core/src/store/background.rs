//! The thread that folds, composes and prepares while callers do other things.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::shared::{Shared, Wakeup};
use crate::error::{Error, Result};

/// Longest time between two looks at what is to do.
const PERIOD: Duration = Duration::from_secs(1);

/// Starts the thread of a store. It ends when the store is dropped.
pub fn start(shared: &Arc<Shared>) -> Result<()> {
    let (weak, wakeup) = (Arc::downgrade(shared), shared.wakeup.clone());
    std::thread::Builder::new()
        .name("archipelago-bg".into())
        .spawn(move || run(&weak, &wakeup))
        .map(|_| ())
        .map_err(|e| Error::io("start", "the background thread", e))
}

fn run(weak: &Weak<Shared>, wakeup: &Wakeup) {
    loop {
        match weak.upgrade() {
            None => return,
            Some(shared) => {
                for inner in shared.all_open() {
                    // What fails here is tried again, and fails for the caller whose request depends on it.
                    let outcome = inner.background();
                    if let Err(error) = outcome {
                        shared.reports.trouble("volumes", Some(format!("{}: {error}", inner.name())));
                    }
                }
            }
        }
        wakeup.wait(PERIOD);
    }
}
