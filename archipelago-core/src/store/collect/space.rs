//! How much room a store takes, by kind.

use std::collections::HashSet;

use super::candidates::COLLECTOR;
use super::kind_of;
use super::report::SpaceByKind;
use crate::blocker::RecordKey;
use crate::error::{Error, Result};
use crate::store::shared::Shared;

/// See [`crate::Store::space_by_kind`].
pub fn by_kind(shared: &Shared) -> Result<SpaceByKind> {
    let blocker = &*shared.blocker;
    let mut by = SpaceByKind::default();
    let headers: HashSet<_> = blocker.headers()?.into_iter().collect();
    let length = |key| match blocker.read_record(key) {
        Ok(record) => Ok(record.bytes.len() as u64),
        Err(Error::NotFound(_) | Error::Damaged { .. }) => Ok(0),
        Err(error) => Err(error),
    };
    for id in &headers {
        by.headers.add(length(RecordKey::Header(*id))?);
    }
    for id in blocker.trashed()? {
        by.trash.add(length(RecordKey::Trash(id))?);
    }
    for part in 0..=u8::MAX {
        for object in blocker.inventory(part)?.objects {
            let bytes = blocker.allocated(object)?;
            kind_of(object, &mut by).add(bytes);
            if !headers.contains(&object.volume()) && object.volume() != COLLECTOR {
                by.removed.add(bytes);
            }
        }
    }
    Ok(by)
}
