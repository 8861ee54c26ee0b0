//! Redirect tables: what is known of the blocks of sealed epochs.

use std::collections::HashMap;
use std::io::IoSlice;
use std::time::Duration;

use crate::blocker::{Blocker, LockMode, Object, VolumeId};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::index::Slot;
use crate::format::redirect::{ENTRY, RedirectEntry, RedirectHead, place};
use crate::limits::ATOM;
use crate::store::content::lock;

/// Entries read at once: neighbours are asked for next.
const WINDOW: u64 = 256;
/// Epochs of which one reader keeps a window.
const MAX_WINDOWS: usize = 64;
/// Looks at a head or an entry that seems damaged before it is: somebody may just be writing it, and a file system may show
/// half of that.
const LOOKS: u32 = 5;
/// Wait before the second look; doubled each time.
const PAUSE: Duration = Duration::from_millis(1);

/// Reads redirect tables. Keeps a window of each table, so that going through a map costs a read per 256 blocks: for as
/// long as one piece of work, not longer.
pub struct Redirects<'a> {
    blocker: &'a dyn Blocker,
    heads: HashMap<(VolumeId, u64), Option<RedirectHead>>,
    windows: HashMap<(VolumeId, u64), (u64, Vec<u8>)>,
}

impl<'a> Redirects<'a> {
    /// Without anything read yet.
    pub fn new(blocker: &'a dyn Blocker) -> Redirects<'a> {
        Redirects { blocker, heads: HashMap::new(), windows: HashMap::new() }
    }

    /// The head of the table of an epoch, if there is one.
    pub fn head(&mut self, owner: VolumeId, epoch: u64) -> Result<Option<RedirectHead>> {
        if let Some(known) = self.heads.get(&(owner, epoch)) {
            return Ok(*known);
        }
        let head = read_head(self.blocker, owner, epoch)?;
        if self.heads.len() >= MAX_WINDOWS {
            self.heads.clear();
        }
        self.heads.insert((owner, epoch), head);
        Ok(head)
    }

    /// What is known of a block, if anything.
    pub fn entry(&mut self, owner: VolumeId, epoch: u64, block: u64) -> Result<Option<RedirectEntry>> {
        let Some(RedirectHead { shift, .. }) = self.head(owner, epoch)? else { return Ok(None) };
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

    /// Notes an entry in the table of an epoch, which is made if need be, unless there is one. Durable after a sync of the table.
    ///
    /// The lock of content is held: an entry that is there may say that the slot was moved, and who has it exclusively may be
    /// about to say so.
    pub fn set(&mut self, slot: &Slot, digest: Digest) -> Result<()> {
        let object = Object::Redirect(slot.owner, slot.epoch);
        match self.head(slot.owner, slot.epoch)? {
            Some(RedirectHead { shift, .. }) if shift != slot.shift => {
                let text = format!("it is of blocks of {} bytes, not {}", 1u64 << shift, 1u64 << slot.shift);
                return Err(Error::damaged(object.to_string(), text));
            }
            Some(_) => {}
            None => {
                self.make(slot)?;
                self.heads.remove(&(slot.owner, slot.epoch));
            }
        }
        self.windows.remove(&(slot.owner, slot.epoch));
        if read_entry(self.blocker, slot)?.is_some() {
            return Ok(());
        }
        let entry = RedirectEntry { digest, len: slot.len, moved: false }.encode(slot.block);
        self.blocker.write(object, &[IoSlice::new(&entry)], place(slot.block))
    }

    fn make(&self, slot: &Slot) -> Result<()> {
        let object = Object::Redirect(slot.owner, slot.epoch);
        let head = RedirectHead { owner: slot.owner, epoch: slot.epoch, shift: slot.shift, moved: false }.encode();
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

/// Calls `each` with the entries that a table has, their blocks in order, and the bytes read since the call before, until it
/// says `false`.
pub fn for_each(
    blocker: &dyn Blocker,
    owner: VolumeId,
    epoch: u64,
    each: &mut dyn FnMut(u64, RedirectEntry, u64) -> Result<bool>,
) -> Result<()> {
    let Some(head) = read_head(blocker, owner, epoch)? else { return Ok(()) };
    let mut first = 0;
    while let Some(window) = window(blocker, &head, first)? {
        let mut fresh = window.bytes;
        for (block, entry) in window.entries {
            if !each(block, entry, std::mem::take(&mut fresh))? {
                return Ok(());
            }
        }
        first = window.next;
    }
    Ok(())
}

/// Some neighbouring entries of a table.
pub struct Entries {
    /// Blocks of which something is known, in order.
    pub entries: Vec<(u64, RedirectEntry)>,
    /// Bytes read.
    pub bytes: u64,
    /// The block to go on with.
    pub next: u64,
}

/// Entries of block `first` and on; `None` behind the end of the table.
pub fn window(blocker: &dyn Blocker, head: &RedirectHead, first: u64) -> Result<Option<Entries>> {
    let object = Object::Redirect(head.owner, head.epoch);
    patiently(|| {
        let mut bytes = vec![0; WINDOW as usize * ENTRY];
        let read = blocker.read_some(object, &mut bytes, place(first))?;
        if read == 0 {
            return Ok(None);
        }
        let mut entries = Vec::new();
        for (block, entry) in (first..).zip(bytes[..read].chunks_exact(ENTRY)) {
            if let Some(entry) = RedirectEntry::decode(&object.to_string(), entry, block, head.shift)? {
                entries.push((block, entry));
            }
        }
        Ok(Some(Entries { entries, bytes: read as u64, next: first + WINDOW }))
    })
}

/// Whether the table of its epoch says at this moment that a slot has this content.
pub fn confirms(blocker: &dyn Blocker, slot: &Slot, digest: Digest) -> Result<bool> {
    if read_head(blocker, slot.owner, slot.epoch)?.is_none_or(|head| head.shift != slot.shift) {
        return Ok(false);
    }
    Ok(read_entry(blocker, slot)?.is_some_and(|e| e.digest == digest && e.len == slot.len && !e.moved))
}

/// What the table says of a slot at this moment.
pub fn read_entry(blocker: &dyn Blocker, slot: &Slot) -> Result<Option<RedirectEntry>> {
    let object = Object::Redirect(slot.owner, slot.epoch);
    patiently(|| {
        let mut bytes = [0; ENTRY];
        blocker.read_some(object, &mut bytes, place(slot.block))?;
        RedirectEntry::decode(&object.to_string(), &bytes, slot.block, slot.shift)
    })
}

/// Says of a slot that it is not to be read any more. Durable after a sync of the table.
///
/// The lock of content is held exclusively, [`begin_moves`] was called, and the content is found elsewhere, durably.
pub fn set_moved(blocker: &dyn Blocker, slot: &Slot, entry: &RedirectEntry) -> Result<()> {
    let object = Object::Redirect(slot.owner, slot.epoch);
    let moved = RedirectEntry { moved: true, ..*entry }.encode(slot.block);
    blocker.write(object, &[IoSlice::new(&moved)], place(slot.block))
}

/// Says in the head of a table, durably, that slots may be moved: a reader that does not see that looks at no entry.
pub fn begin_moves(blocker: &dyn Blocker, head: &RedirectHead) -> Result<()> {
    let object = Object::Redirect(head.owner, head.epoch);
    if !head.moved {
        blocker.write(object, &[IoSlice::new(&RedirectHead { moved: true, ..*head }.encode())], 0)?;
    }
    // Also if it was there: who wrote it may have died before this.
    blocker.sync(&[object])
}

/// Forgets what is known of a slot. Durable after a sync of the table. The lock of content is held exclusively.
pub fn clear(blocker: &dyn Blocker, slot: &Slot) -> Result<()> {
    blocker.write(Object::Redirect(slot.owner, slot.epoch), &[IoSlice::new(&[0; ENTRY])], place(slot.block))
}

/// Empties an entry that is not what was written, of a table without moved slots: then it says nothing of where anything is.
pub fn forget_damaged(blocker: &dyn Blocker, owner: VolumeId, epoch: u64, block: u64) -> Result<()> {
    let object = Object::Redirect(owner, epoch);
    let _lock = lock(blocker, LockMode::Exclusive)?;
    let head = read_head(blocker, owner, epoch)?.filter(|head| !head.moved);
    let damaged = |shift| read_entry(blocker, &Slot { owner, epoch, block, len: 1, shift }).is_err();
    if !head.is_some_and(|head| damaged(head.shift)) {
        return Err(Error::Unsupported(format!("{object}: was changed since it was looked at; check again")));
    }
    blocker.write(object, &[IoSlice::new(&[0; ENTRY])], place(block))?;
    blocker.sync(&[object])
}

/// The head of the table of an epoch at this moment; `None` if there is none, or its making was cut short.
pub fn read_head(blocker: &dyn Blocker, owner: VolumeId, epoch: u64) -> Result<Option<RedirectHead>> {
    let object = Object::Redirect(owner, epoch);
    patiently(|| {
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
    })
}

/// Looks again at what seems damaged.
pub fn patiently<T>(mut look: impl FnMut() -> Result<T>) -> Result<T> {
    #[cfg(feature = "fuzzing")]
    if crate::fuzzing::is_alone() {
        return look();
    }
    let mut pause = PAUSE;
    for _ in 1..LOOKS {
        match look() {
            Err(Error::Damaged { .. }) => std::thread::sleep(pause),
            other => return other,
        }
        pause *= 2;
    }
    look()
}
