//! Verbs of the original Archipelago that have nothing to do here, each with what to use instead.

use archipelago_core::Error;

use super::super::exit::Failure;

fn instead(text: &str) -> Failure {
    Error::Unsupported(text.into()).into()
}

/// `start`, `stop`, `restart`
pub fn daemons() -> Failure {
    instead(
        "there are no daemons to start or stop: every command opens the store itself; `archipelago serve` serves volumes until SIGTERM, \
         and `archipelago status` shows who has the store open",
    )
}

/// `volume-open` and its relatives
pub fn locks() -> Failure {
    instead(
        "a volume is open, and locked, for as long as the process lives that opened it, and nothing stays locked behind it; \
         `archipelago info NAME` shows who has it open",
    )
}

/// `backend-list` and its relatives
pub fn stores() -> Failure {
    instead(
        "a command works on one store, which --store names; `archipelago status` shows it, `archipelago init` makes one, and \
         `archipelago send` and `receive` carry snapshots to another",
    )
}
