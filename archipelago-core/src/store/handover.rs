//! Taking a volume over from the process that has it: the side that asks (docs/control.md, "Handover"). The side that gives is
//! [`crate::volume::standby`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::Request;
use super::shared::Shared;
use super::{Store, catalog, open};
use crate::blocker::VolumeId;
use crate::error::{Error, Result};
use crate::format::header::Kind;
use crate::limits::{HANDOVER_PAUSE, HANDOVER_WAIT};
use crate::volume::handle::Handle;
use crate::volume::standby::{Sharing, Standby};
use crate::volume::{Mode, Volume};

/// What is said of a holder that answered, and kept the volume.
const KEEPS: &str = "it was asked to hand it over and keeps it; close it there first";
/// What is said of a holder that did not answer.
const SILENT: &str = "it was asked to hand it over and does not answer; a process that is stopped keeps its volumes until it goes on or ends";
/// First wait between two attempts: a volume that changes hands is closed or opened in about as much.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

impl Store {
    /// Stands for a volume that other processes may have: see [`Standby`]. One in a process (`Busy`).
    pub fn stand_by(&self, name: &str, sharing: Sharing) -> Result<Standby> {
        Standby::open(&self.shared, name, sharing)
    }

    /// Opens a volume for reading and writing, and has it handed over by the process that has it, if that may be: only a [`Standby`]
    /// that shares gives up what it has, and does not take it back then. Waits for at most `wait`, 10 s or less, and for what is under way
    /// when that is over; then `OpenElsewhere` says who has it.
    pub fn take_over(&self, name: &str, wait: Duration) -> Result<Volume> {
        let (header, _) = catalog::find(&self.shared, name)?;
        if header.kind != Kind::Volume {
            return Err(Error::ReadOnly(name.to_string()));
        }
        let handle = take(&self.shared, header.id, true, Instant::now() + wait.min(HANDOVER_WAIT))?;
        Ok(Volume::new(handle, Mode::ReadWrite))
    }
}

/// Opens a volume for writing; who has it is asked for it, until `deadline`. `exclusive` tells him not to ask for it again.
pub fn take(shared: &Arc<Shared>, id: VolumeId, exclusive: bool, deadline: Instant) -> Result<Handle> {
    let mut pause = FIRST_PAUSE;
    loop {
        // By its id: it may have another name by now.
        let name = match catalog::read_header(shared, id)? {
            Some((header, _)) if !header.removed => header.name,
            _ => return Err(Error::NotFound(format!("[{id}]"))),
        };
        let (name, owner) = match open::for_writing(shared, &name) {
            Ok(handle) if handle.id == id => return Ok(handle),
            Err(Error::OpenElsewhere { name, owner, .. }) => (name, Some(owner)),
            // It is just being renamed.
            Ok(_) | Err(Error::NotFound(_)) => (name, None),
            Err(error) => return Err(error),
        };
        let (mut advice, mut given) = (KEEPS, false);
        if let (Some(owner), Some(peers)) = (&owner, shared.peers.get())
            && !owner.process.is_empty()
        {
            let request = Request::Release { id: id.to_string(), volume: name.clone(), exclusive };
            let left = deadline.saturating_duration_since(Instant::now()).max(FIRST_PAUSE);
            match peers.ask(&owner.process, &request, left) {
                Ok(_) => given = true,
                Err(Error::Timeout(_)) => advice = SILENT,
                // It has given it up already, or keeps it, for now at least.
                Err(_) => {}
            }
        }
        // In memory there is nobody else to wait for.
        if Instant::now() >= deadline || shared.location.is_none() && !given {
            return Err(match owner {
                Some(owner) => Error::OpenElsewhere { name, owner, advice },
                None => Error::NotFound(name),
            });
        }
        if given {
            continue;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(HANDOVER_PAUSE);
    }
}
