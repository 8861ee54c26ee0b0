//! Which epochs are sealed: nobody writes data of theirs any more, and no power cut brings back a time when somebody did.

use std::collections::HashMap;

use crate::blocker::{RecordKey, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::Kind;
use crate::store::catalog;
use crate::store::shared::Shared;

/// What is known of the owners met so far.
pub(super) struct Sealed<'a> {
    shared: &'a Shared,
    /// Epochs below this one are sealed.
    below: HashMap<VolumeId, u64>,
}

impl<'a> Sealed<'a> {
    /// Nothing known yet.
    pub(super) fn new(shared: &'a Shared) -> Sealed<'a> {
        Sealed { shared, below: HashMap::new() }
    }

    /// Whether an epoch is sealed. `false` for some that are: those that only the journal of their volume says have ended, until
    /// its next checkpoint.
    pub(super) fn contains(&mut self, owner: VolumeId, epoch: u64) -> Result<bool> {
        let below = match self.below.get(&owner) {
            Some(below) => *below,
            None => {
                let below = sealed_below(self.shared, owner)?;
                self.below.insert(owner, below);
                below
            }
        };
        Ok(epoch < below)
    }
}

/// The header decides, once it is durable: one that is seen and lost in a power cut would make an epoch live again.
fn sealed_below(shared: &Shared, owner: VolumeId) -> Result<u64> {
    // The catalogue first: a header moves from there to the trash, and then is gone.
    for key in [RecordKey::Header(owner), RecordKey::Trash(owner)] {
        let found = match key {
            RecordKey::Trash(_) => catalog::read_trashed(shared, owner),
            _ => catalog::read_header(shared, owner),
        };
        let (header, version) = match found {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            // Nobody knows.
            Err(Error::Damaged { .. } | Error::TooNew { .. }) => return Ok(0),
            Err(error) => return Err(error),
        };
        return match shared.blocker.settle_record(key, version) {
            Ok(()) if header.kind == Kind::Volume && !header.removed => Ok(header.epoch),
            // What is no volume is not written, and what is removed not opened.
            Ok(()) => Ok(u64::MAX),
            // It changes at this moment.
            Err(Error::Stale(_) | Error::NotFound(_)) => Ok(0),
            Err(error) => Err(error),
        };
    }
    // Gone for good, unless it was set aside by a repair and somebody puts it back.
    let aside = shared.blocker.mend().map_or(Ok(Vec::new()), |mend| mend.aside())?;
    Ok(if aside.iter().any(|place| place.starts_with("lost/h.")) { 0 } else { u64::MAX })
}
