//! How much room a store takes, by kind.

use std::collections::HashSet;

use super::candidates::COLLECTOR;
use super::kind_of;
use super::report::SpaceByKind;
use crate::blocker::{Object, RecordKey};
use crate::error::{Error, Result};
use crate::format::header::{Header, Root};
use crate::limits::SECTOR;
use crate::mapper::tree::Tree;
use crate::store::shared::Shared;
use crate::store::usage::readable;

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
        if let Some((header, _)) = readable(shared, *id)?.filter(|(header, _)| !header.removed) {
            by.mapped += folded(&header)? * SECTOR;
        }
    }
    for id in blocker.trashed()? {
        by.trash.add(length(RecordKey::Trash(id))?);
    }
    for part in blocker.parts()? {
        for object in blocker.inventory(part)?.objects {
            let bytes = blocker.allocated(object)?;
            kind_of(object, &mut by).add(bytes);
            if !headers.contains(&object.volume()) && object.volume() != COLLECTOR {
                by.removed.add(bytes);
            }
        }
    }
    for first in blocker.content_parts()? {
        for digest in blocker.contents(first)? {
            by.content.add(blocker.allocated(Object::Content(digest))?);
        }
    }
    for table in blocker.content_tables()? {
        by.tables.add(blocker.allocated(table)?);
    }
    Ok(by)
}

/// Sectors that the tree of a map names.
fn folded(header: &Header) -> Result<u64> {
    match &header.root {
        Root::Empty => Ok(0),
        Root::Node { pointer, .. } => Ok(pointer.mapped),
        Root::Inline(_) => {
            Ok(Tree::from_root(&format!("catalog/h.{}", header.id), &header.root, header.block_shift)?.mapped())
        }
    }
}
