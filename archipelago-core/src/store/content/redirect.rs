//! Redirect tables: what is known of the blocks of sealed epochs.

use std::collections::HashMap;
use std::io::IoSlice;

use crate::blocker::{Blocker, Object, VolumeId};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::index::Slot;
use crate::format::redirect::{ENTRY, RedirectEntry, RedirectHead, place};
use crate::limits::ATOM;

/// Entries read at once: neighbours are asked for next.
const WINDOW: u64 = 256;
/// Epochs of which one reader keeps a window.
const MAX_WINDOWS: usize = 64;

/// Reads redirect tables. Keeps a window of each table, so that going through a map costs a read per 256 blocks: for as
/// long as one piece of work, not longer.
pub struct Redirects<'a> {
    blocker: &'a dyn Blocker,
    heads: HashMap<(VolumeId, u64), Option<u8>>,
    windows: HashMap<(VolumeId, u64), (u64, Vec<u8>)>,
}

impl<'a> Redirects<'a> {
    /// Without anything read yet.
    pub fn new(blocker: &'a dyn Blocker) -> Redirects<'a> {
        Redirects { blocker, heads: HashMap::new(), windows: HashMap::new() }
    }

    /// `log2` of the block size of the table of an epoch, if there is one.
    pub fn head(&mut self, owner: VolumeId, epoch: u64) -> Result<Option<u8>> {
        if let Some(known) = self.heads.get(&(owner, epoch)) {
            return Ok(*known);
        }
        let shift = read_head(self.blocker, owner, epoch)?.map(|head| head.shift);
        if self.heads.len() >= MAX_WINDOWS {
            self.heads.clear();
        }
        self.heads.insert((owner, epoch), shift);
        Ok(shift)
    }

    /// What is known of a block, if anything.
    pub fn entry(&mut self, owner: VolumeId, epoch: u64, block: u64) -> Result<Option<RedirectEntry>> {
        let Some(shift) = self.head(owner, epoch)? else { return Ok(None) };
        let object = Object::Redirect(owner, epoch);
        let first = block / WINDOW * WINDOW;
        if self.windows.get(&(owner, epoch)).is_none_or(|(at, _)| *at != first) {
            let mut bytes = vec![0; WINDOW as usize * ENTRY];
            // What is not there was never written.
            self.blocker.read_some(object, &mut bytes, place(first))?;
            if self.windows.len() >= MAX_WINDOWS {
                self.windows.clear();
            }
            self.windows.insert((owner, epoch), (first, bytes));
        }
        let at = (block - first) as usize * ENTRY;
        let entry = self.windows.get(&(owner, epoch)).and_then(|(_, bytes)| bytes.get(at..at + ENTRY));
        entry.map_or(Ok(None), |bytes| RedirectEntry::decode(&object.to_string(), bytes, block, shift))
    }

    /// Notes an entry in the table of an epoch, which is made if need be. Durable after a sync of the table.
    pub fn set(&mut self, slot: &Slot, digest: Digest) -> Result<()> {
        let object = Object::Redirect(slot.owner, slot.epoch);
        match self.head(slot.owner, slot.epoch)? {
            Some(shift) if shift != slot.shift => {
                let text = format!("it is of blocks of {} bytes, not {}", 1u64 << shift, 1u64 << slot.shift);
                return Err(Error::damaged(object.to_string(), text));
            }
            Some(_) => {}
            None => {
                self.make(slot)?;
                self.heads.insert((slot.owner, slot.epoch), Some(slot.shift));
            }
        }
        let entry = RedirectEntry { digest, len: slot.len, moved: false }.encode(slot.block);
        self.blocker.write(object, &[IoSlice::new(&entry)], place(slot.block))?;
        if let Some((first, bytes)) = self.windows.get_mut(&(slot.owner, slot.epoch))
            && (*first..*first + WINDOW).contains(&slot.block)
        {
            let at = (slot.block - *first) as usize * ENTRY;
            bytes[at..at + ENTRY].copy_from_slice(&entry);
        }
        Ok(())
    }

    fn make(&self, slot: &Slot) -> Result<()> {
        let object = Object::Redirect(slot.owner, slot.epoch);
        let head = RedirectHead { owner: slot.owner, epoch: slot.epoch, shift: slot.shift }.encode();
        match self.blocker.create(object, &head, place(0)) {
            Err(Error::Exists(_)) => {}
            other => return other,
        }
        // Another run was quicker, or was cut short before the head was there: then it is written again, the same.
        if read_head(self.blocker, slot.owner, slot.epoch)?.is_none() {
            self.blocker.write(object, &[IoSlice::new(&head)], 0)?;
            self.blocker.sync(&[object])?;
        }
        Ok(())
    }
}

/// Calls `each` with the digests that a table has, in order, and the bytes read since the call before, until it says `false`.
pub fn for_each(
    blocker: &dyn Blocker,
    owner: VolumeId,
    epoch: u64,
    each: &mut dyn FnMut(Digest, u64) -> Result<bool>,
) -> Result<()> {
    let object = Object::Redirect(owner, epoch);
    let (Some(head), Some(len)) = (read_head(blocker, owner, epoch)?, blocker.len(object)?) else { return Ok(()) };
    let mut bytes = vec![0; WINDOW as usize * ENTRY];
    let mut first = 0;
    while place(first) < len {
        let read = blocker.read_some(object, &mut bytes, place(first))?;
        let mut fresh = read as u64;
        for (block, entry) in (first..).zip(bytes[..read].chunks_exact(ENTRY)) {
            if let Some(entry) = RedirectEntry::decode(&object.to_string(), entry, block, head.shift)?
                && !each(entry.digest, std::mem::take(&mut fresh))?
            {
                return Ok(());
            }
        }
        first += WINDOW;
    }
    Ok(())
}

/// Whether the table of its epoch says at this moment that a slot has this content.
pub fn confirms(blocker: &dyn Blocker, slot: &Slot, digest: Digest) -> Result<bool> {
    if read_head(blocker, slot.owner, slot.epoch)?.is_none_or(|head| head.shift != slot.shift) {
        return Ok(false);
    }
    let object = Object::Redirect(slot.owner, slot.epoch);
    let mut bytes = [0; ENTRY];
    blocker.read_some(object, &mut bytes, place(slot.block))?;
    let entry = RedirectEntry::decode(&object.to_string(), &bytes, slot.block, slot.shift)?;
    Ok(entry.is_some_and(|e| e.digest == digest && e.len == slot.len && !e.moved))
}

fn read_head(blocker: &dyn Blocker, owner: VolumeId, epoch: u64) -> Result<Option<RedirectHead>> {
    let object = Object::Redirect(owner, epoch);
    let mut bytes = [0; ATOM];
    if blocker.read_some(object, &mut bytes, 0)? < ATOM {
        return Ok(None);
    }
    match RedirectHead::decode(&object.to_string(), &bytes)? {
        Some(head) if (head.owner, head.epoch) != (owner, epoch) => {
            let text = format!("it says that it is of epoch {} of {}", head.epoch, head.owner);
            Err(Error::damaged(object.to_string(), text))
        }
        found => Ok(found),
    }
}
