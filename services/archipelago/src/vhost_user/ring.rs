//! A split virtqueue in guest memory, seen from the device: takes requests from it, and gives them back.
//!
//! Source: Virtual I/O Device (VIRTIO) 1.2, section 2.7. The guest may write any of this at any time, so each number is read once, checked,
//! and then used from here; nothing that was checked is read again.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use smallvec::SmallVec;

use super::limits::{MAX_CHAIN, MAX_QUEUE_SIZE};
use super::memory::Memory;

/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Flag of a descriptor: another follows.
const NEXT: u16 = 1;
/// Flag of a descriptor: the device writes there.
const WRITE: u16 = 2;
/// Flag of a descriptor: it is a table of descriptors.
const INDIRECT: u16 = 4;
/// Flag of either ring without event indices: do not notify me.
const NO_NOTIFY: u16 = 1;

/// Why a queue cannot be used any more: what the guest put there is no queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    /// Its parts do not lie in guest memory, or not aligned, or its size is impossible.
    #[error("the queue does not lie in the guest's memory as it should")]
    Placed,
    /// More requests than it has room for.
    #[error("the guest made more requests available than the queue has room for")]
    Overfull,
    /// A descriptor's number that is not below the size.
    #[error("a descriptor that is none")]
    Index,
    /// A chain that goes round, or is longer than any may be.
    #[error("a request of too many descriptors")]
    Endless,
    /// A buffer that does not lie in one region of guest memory.
    #[error("a buffer outside of the guest's memory")]
    Buffer,
    /// A table of descriptors in another, or of an impossible length.
    #[error("a table of descriptors that is none")]
    Table,
    /// A buffer to be read behind one to be written.
    #[error("a request whose buffers are out of order")]
    Order,
}

/// Where a queue lies, in addresses of the front end, and what was agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Descriptors it has room for, a power of two.
    pub size: u16,
    /// The descriptors.
    pub descriptors: u64,
    /// What the guest makes available.
    pub available: u64,
    /// What the device has used.
    pub used: u64,
}

/// What of the features of a queue was agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Notifications are asked for by index.
    pub event_idx: bool,
    /// Requests may be described by a table elsewhere.
    pub indirect: bool,
}

/// A part of a request's buffers, in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins.
    pub start: NonNull<u8>,
    /// Bytes, at least one.
    pub len: usize,
}

/// The buffers of a request.
#[derive(Debug, Default)]
pub struct Chain {
    /// What the device reads.
    pub readable: SmallVec<[Part; 32]>,
    /// What the device writes.
    pub writable: SmallVec<[Part; 32]>,
}

/// A queue while it runs.
pub struct Ring {
    memory: Arc<Memory>,
    agreed: Agreed,
    size: u16,
    descriptors: NonNull<u8>,
    available: NonNull<u8>,
    used: NonNull<u8>,
    next_available: u16,
    next_used: u16,
    /// What was published when it was last looked at whether the guest wants to know.
    told: u16,
}

// SAFETY: the pointers are into `memory`, which lives as long, and every access through them is atomic or volatile.
unsafe impl Send for Ring {}

/// One of the guest's descriptors, as it was when it was read.
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Ring {
    /// A queue at its place. `next_available` is the first request that was not taken yet.
    pub fn new(memory: Arc<Memory>, place: Place, agreed: Agreed, next_available: Option<u16>) -> Result<Ring, Broken> {
        let size = u64::from(place.size);
        if !place.size.is_power_of_two() || place.size > MAX_QUEUE_SIZE {
            return Err(Broken::Placed);
        }
        // Flags, index, entries, event index.
        let find = |address, len, align| {
            let found = memory.user(address, len).filter(|start| (start.as_ptr() as usize).is_multiple_of(align));
            found.ok_or(Broken::Placed)
        };
        let descriptors = find(place.descriptors, size * DESCRIPTOR, 16)?;
        let available = find(place.available, 4 + 2 * size + 2, 2)?;
        let used = find(place.used, 4 + 8 * size + 2, 4)?;
        let mut ring = Ring {
            memory,
            agreed,
            size: place.size,
            descriptors,
            available,
            used,
            next_available: 0,
            next_used: 0,
            told: 0,
        };
        ring.next_used = ring.used_u16(2).load(Ordering::Acquire);
        ring.told = ring.next_used;
        ring.next_available = next_available.unwrap_or(ring.next_used);
        Ok(ring)
    }

    /// A number of the available ring.
    fn available_u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: `new` found the whole ring in guest memory, aligned to two bytes, and offsets are even and within it; the
        // memory stays mapped as long as `self.memory`.
        unsafe { AtomicU16::from_ptr(self.available.as_ptr().add(offset).cast()) }
    }

    /// A number of the used ring.
    fn used_u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as for the available ring.
        unsafe { AtomicU16::from_ptr(self.used.as_ptr().add(offset).cast()) }
    }

    /// The first request that was not taken yet.
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    /// Goes on with this request: those before it were taken otherwise.
    pub fn skip_to(&mut self, next: u16) {
        self.next_available = next;
    }

    /// Requests given back so far, modulo 65536.
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Whether there is something to take.
    pub fn has_more(&self) -> bool {
        self.available_u16(2).load(Ordering::Acquire) != self.next_available
    }

    /// Takes the next request: the number of its first descriptor.
    pub fn take(&mut self) -> Result<Option<u16>, Broken> {
        let waiting = self.available_u16(2).load(Ordering::Acquire).wrapping_sub(self.next_available);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size {
            return Err(Broken::Overfull);
        }
        let slot = usize::from(self.next_available & (self.size - 1));
        let head = self.available_u16(4 + 2 * slot).load(Ordering::Relaxed);
        if head >= self.size {
            return Err(Broken::Index);
        }
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(head))
    }

    /// Gathers the buffers of the request that begins with this descriptor.
    pub fn gather(&self, head: u16, chain: &mut Chain) -> Result<(), Broken> {
        chain.readable.clear();
        chain.writable.clear();
        let (mut table, mut count) = (self.descriptors, u32::from(self.size));
        let (mut index, mut inside, mut seen) = (u32::from(head), false, 0);
        loop {
            if index >= count {
                return Err(Broken::Index);
            }
            seen += 1;
            if seen > MAX_CHAIN {
                return Err(Broken::Endless);
            }
            // SAFETY: `table` has `count` descriptors in guest memory, and `index` is below that.
            let found = unsafe { read_descriptor(table, index) };
            if found.flags & INDIRECT != 0 {
                let len = u64::from(found.len);
                let entries = len / DESCRIPTOR;
                let possible = self.agreed.indirect
                    && !inside
                    && found.flags & NEXT == 0
                    && len.is_multiple_of(DESCRIPTOR)
                    && (1..=MAX_CHAIN as u64).contains(&entries);
                if !possible {
                    return Err(Broken::Table);
                }
                table = self.memory.guest(found.address, len).ok_or(Broken::Buffer)?;
                (count, index, inside) = (entries as u32, 0, true);
                continue;
            }
            if found.len > 0 {
                let start = self.memory.guest(found.address, u64::from(found.len)).ok_or(Broken::Buffer)?;
                let part = Part { start, len: found.len as usize };
                match (found.flags & WRITE != 0, chain.writable.is_empty()) {
                    (true, _) => chain.writable.push(part),
                    (false, true) => chain.readable.push(part),
                    (false, false) => return Err(Broken::Order),
                }
            }
            if found.flags & NEXT == 0 {
                return Ok(());
            }
            index = u32::from(found.next);
        }
    }

    /// Gives a request back, into which `written` bytes were written. The guest sees it after [`Ring::publish`].
    pub fn give_back(&mut self, head: u16, written: u32) {
        let slot = usize::from(self.next_used & (self.size - 1));
        for (offset, value) in [(4 + 8 * slot, u32::from(head)), (8 + 8 * slot, written)] {
            // SAFETY: `new` found the whole ring in guest memory, aligned to four bytes, and the slot is within it.
            let place = unsafe { AtomicU32::from_ptr(self.used.as_ptr().add(offset).cast()) };
            place.store(value, Ordering::Relaxed);
        }
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Shows the guest what was given back.
    pub fn publish(&self) {
        self.used_u16(2).store(self.next_used, Ordering::Release);
    }

    /// Whether the guest wants to be notified of what was published since it was last asked.
    pub fn wants_call(&mut self) -> bool {
        let (before, now) = (self.told, self.next_used);
        self.told = now;
        if before == now {
            return false;
        }
        // What was published is seen before the guest's wish is looked at, or both sides could wait for each other.
        fence(Ordering::SeqCst);
        if self.agreed.event_idx {
            let event = self.available_u16(4 + 2 * usize::from(self.size)).load(Ordering::Relaxed);
            // Whether the index that it waits for was passed.
            now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
        } else {
            self.available_u16(0).load(Ordering::Relaxed) & NO_NOTIFY == 0
        }
    }

    /// Asks the guest to notify of new requests, or to spare that. After asking, look again before sleeping.
    pub fn notify_me(&self, wanted: bool) {
        if !self.agreed.event_idx {
            self.used_u16(0).store(if wanted { 0 } else { NO_NOTIFY }, Ordering::Relaxed);
        } else if wanted {
            // Without this it stays behind, and the guest notifies of nothing.
            self.used_u16(4 + 8 * usize::from(self.size)).store(self.next_available, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }
}

/// Reads a descriptor, once.
///
/// # Safety
///
/// `table` points to at least `index + 1` descriptors in mapped memory.
unsafe fn read_descriptor(table: NonNull<u8>, index: u32) -> Descriptor {
    // SAFETY: the caller's word. The guest may write there meanwhile, so the access is volatile, and any bytes are a descriptor.
    let bytes: [u8; 16] = unsafe { table.as_ptr().cast::<[u8; 16]>().add(index as usize).read_volatile() };
    let (address, rest) = bytes.split_at(8);
    let word = |at: usize| u16::from_le_bytes([rest[at], rest[at + 1]]);
    Descriptor {
        address: u64::from_le_bytes(address.try_into().unwrap_or_default()),
        len: u32::from(word(0)) | u32::from(word(2)) << 16,
        flags: word(4),
        next: word(6),
    }
}

#[cfg(test)]
mod tests;
