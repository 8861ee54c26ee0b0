//! A volume as it is served: the server has it for good, or stands for it while other processes may have it.

use std::time::Instant;

use archipelago_core::{Result, Standby, Volume};
use parking_lot::Mutex;
use tracing::warn;

use super::limits::SLOW_TOLD;

/// A volume or snapshot behind an export.
pub(super) enum Served {
    /// Had from the first connection to the last.
    Had(Volume),
    /// Had when a request needs it.
    Standby(Standing),
}

/// A volume that others may have.
pub(super) struct Standing {
    pub(super) standby: Standby,
    /// When it was last said that it cannot be had.
    told: Mutex<Option<Instant>>,
}

impl Standing {
    pub(super) fn new(standby: Standby) -> Standing {
        Standing { standby, told: Mutex::default() }
    }

    /// Clients get a number, and whoever reads the log is told who has the volume.
    fn note<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            let mut told = self.told.lock();
            if told.is_none_or(|told| told.elapsed() >= SLOW_TOLD) {
                *told = Some(Instant::now());
                warn!(%error, "a request that needs the volume fails");
            }
        }
        result
    }
}

impl Served {
    /// Carries out a request.
    pub(super) fn run<T>(&self, request: impl FnOnce(&Volume) -> Result<T>) -> Result<T> {
        match self {
            Served::Had(volume) => request(volume),
            Served::Standby(standing) => request(&*standing.note(standing.standby.hold())?),
        }
    }

    pub(super) fn flush(&self) -> Result<()> {
        match self {
            // A client may flush what it only reads; there is nothing to make durable.
            Served::Had(volume) if volume.read_only() => Ok(()),
            Served::Had(volume) => volume.flush(),
            Served::Standby(standing) => standing.standby.flush(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Served::Had(volume) => volume.size(),
            Served::Standby(standing) => standing.standby.size(),
        }
    }

    pub(super) fn read_only(&self) -> bool {
        match self {
            Served::Had(volume) => volume.read_only(),
            Served::Standby(_) => false,
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Served::Had(volume) => volume.name(),
            Served::Standby(standing) => standing.standby.name(),
        }
    }

    /// The volume, if it is had for good.
    pub(super) fn had(&self) -> Option<&Volume> {
        match self {
            Served::Had(volume) => Some(volume),
            Served::Standby(_) => None,
        }
    }

    /// Gives it up, flushed.
    pub(super) fn close(&self) -> Result<()> {
        match self {
            Served::Had(volume) => volume.close(),
            Served::Standby(standing) => standing.standby.set_sharing(archipelago_core::Sharing::Closed),
        }
    }
}
