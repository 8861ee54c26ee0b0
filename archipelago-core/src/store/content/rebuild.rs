//! Makes the index anew where a table of it was damaged: whatever it may have said, the redirect tables say too.

use crate::blocker::{Blocker, LockMode, LockOutcome, Object, VolumeId};
use crate::error::{Error, Result};
use crate::format::index::{IndexEntry, IndexHead, Slot};
use crate::store::content::index::{self, TableWriter, Tables};
use crate::store::content::{MERGE_LOCK, redirect};
use crate::store::shared::Shared;

/// Entries of one new table: what is held in memory.
const BATCH: usize = 64 << 10;

/// Removes a damaged table, having put all slots into new ones that no other table leads to.
pub(crate) fn replace_index(shared: &Shared, id: u64) -> Result<()> {
    let blocker = &*shared.blocker;
    let busy = || Error::Busy("the content index".into());
    let LockOutcome::Held(_lock) = blocker.lock(MERGE_LOCK, LockMode::Exclusive, &[])? else { return Err(busy()) };
    if index::verify(blocker, id, &mut |_| Ok(())).is_ok() {
        let text = format!("{}: was changed since it was looked at; check again", Object::Index(id));
        return Err(Error::Unsupported(text));
    }
    // A collection that began before removes no table that it finds without a head.
    let _operation = shared.operations.begin();
    let mut maker = Maker { shared, pages: Tables::default(), tables: others(blocker, id)?, fresh: Vec::new() };
    for part in blocker.parts()? {
        for object in blocker.inventory(part)?.objects {
            if let Object::Redirect(owner, epoch) = object {
                maker.slots_of(owner, epoch, id)?;
            }
        }
    }
    maker.write(id)?;
    blocker.remove(Object::Index(id))?;
    shared.contents.forget();
    Ok(())
}

/// The tables that can be read, without the damaged one.
fn others(blocker: &dyn Blocker, id: u64) -> Result<Vec<IndexHead>> {
    let mut heads = Vec::new();
    for object in blocker.content_tables()? {
        if let Object::Index(other) = object
            && other != id
            && let Some(head) = index::head(blocker, other)?
        {
            heads.push(head);
        }
    }
    Ok(heads)
}

struct Maker<'a> {
    shared: &'a Shared,
    pages: Tables,
    tables: Vec<IndexHead>,
    fresh: Vec<IndexEntry>,
}

impl Maker<'_> {
    /// Slots of an epoch that no table leads to.
    fn slots_of(&mut self, owner: VolumeId, epoch: u64, id: u64) -> Result<()> {
        let blocker = &*self.shared.blocker;
        let Some(head) = redirect::read_head(blocker, owner, epoch)? else { return Ok(()) };
        redirect::for_each(blocker, owner, epoch, &mut |block, entry, _| {
            let slot = Slot { owner, epoch, block, len: entry.len, shift: head.shift };
            let counts = |slot: &Slot| redirect::confirms(blocker, slot, entry.digest);
            if !entry.moved && self.pages.find_among(blocker, &self.tables, entry.digest, &counts)?.is_none() {
                self.fresh.push(IndexEntry { digest: entry.digest, slot });
            }
            if self.fresh.len() >= BATCH {
                self.write(id)?;
            }
            Ok(true)
        })
    }

    fn write(&mut self, id: u64) -> Result<()> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let blocker = &*self.shared.blocker;
        self.fresh.sort_unstable();
        let mut writer = TableWriter::new(blocker, self.shared.random()?)?;
        std::mem::take(&mut self.fresh).into_iter().try_for_each(|entry| writer.push(entry))?;
        writer.finish()?;
        self.tables = others(blocker, id)?;
        Ok(())
    }
}
