//! Requests of a virtio block device: from the buffers of a guest to calls of a disk.
//!
//! Source: Virtual I/O Device (VIRTIO) 1.2, section 5.2.6.

use std::io::{IoSlice, IoSliceMut};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use archipelago_core::Begun;
use smallvec::SmallVec;

use super::limits::{COPIED, MAX_DATA, MAX_RANGE_SECTORS, MAX_RANGES};
use super::ring::{Chain, Part};
use crate::disk::device::{Batch, Device, Errno};

/// Bytes of a sector of the protocol, whatever the disk's own are.
pub const SECTOR: u64 = 512;
/// Bytes before the data: type, priority, sector.
const HEAD: usize = 16;
/// Bytes of one range of a discard or write-zeroes.
const RANGE: usize = 16;
/// Bytes of a device's name.
const NAME: usize = 20;
/// Flag of a range: room need not be kept.
const UNMAP: u32 = 1;

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// What a guest is told of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// It was carried out.
    Ok = 0,
    /// It was not, or not whole.
    Failed = 1,
    /// There is no such request.
    Unsupported = 2,
}

/// A range of a discard or write-zeroes.
struct Range {
    /// First byte.
    offset: u64,
    /// Bytes.
    len: u64,
    /// Flags of the request.
    flags: u32,
}

/// What was agreed on of what a guest may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allowed {
    /// Flush.
    pub flush: bool,
    /// Discard.
    pub discard: bool,
    /// Write zeroes.
    pub write_zeroes: bool,
}

/// Carries out requests of one queue.
pub struct Executor<'a> {
    /// The disk.
    pub disk: &'a dyn Device,
    /// Its name, as guests see it.
    pub name: &'a str,
    /// What was agreed on.
    pub allowed: Allowed,
    /// Set when the queue stops: then nothing waits for a limit any more.
    pub stop: &'a AtomicBool,
    /// Writes on their way.
    pub copy: Vec<u8>,
}

/// A request that was begun.
pub struct Pending {
    status: Part,
    written: u64,
}

impl Pending {
    /// Says in its status how it ended; returns how many bytes were written into its buffers.
    pub fn end(self, done: bool) -> u32 {
        let (answer, written) = if done { (Status::Ok, self.written) } else { (Status::Failed, 0) };
        // SAFETY: the last byte of a buffer in guest memory that the device may write.
        unsafe { self.status.start.as_ptr().write_volatile(answer as u8) };
        (written as u32).saturating_add(1)
    }
}

impl Executor<'_> {
    /// Carries out a request; returns how many bytes were written into its buffers. `None` if there is no place for its status.
    pub fn execute(&mut self, chain: &mut Chain) -> Option<u32> {
        let status = take_last(&mut chain.writable)?;
        let room: u64 = chain.writable.iter().map(|part| part.len as u64).sum();
        let (answer, written) = match self.carry_out(chain, room) {
            Ok(written) => (Status::Ok, written),
            Err(status) => (status, 0),
        };
        // SAFETY: the last byte of a buffer in guest memory that the device may write.
        unsafe { status.start.as_ptr().write_volatile(answer as u8) };
        Some((written as u32).saturating_add(1))
    }

    /// Begins a read or write among those that are under way, if it can be; otherwise the request is as it was. Returns where its
    /// status goes and how many bytes are written into its buffers if it succeeds, and whether it is under way or done.
    pub fn begin(&self, chain: &Chain, batch: &mut dyn Batch, number: usize) -> Option<(Pending, bool)> {
        if self.disk.limited() {
            return None;
        }
        let (mut readable, mut writable) = (chain.readable.clone(), chain.writable.clone());
        let status = take_last(&mut writable)?;
        let mut head = [0; HEAD];
        take_front(&mut readable, &mut head)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
        let len = |parts: &[Part]| parts.iter().map(|part| part.len as u64).sum::<u64>();
        let (begun, written) = match word(0) {
            READ => {
                let len = len(&writable);
                let offset = self.range(sector, len).ok()?;
                // SAFETY: as in `carry_out`; guest memory stays mapped as long as the queue works.
                let mut parts: SmallVec<[IoSliceMut<'_>; 32]> = writable
                    .iter()
                    .map(|p| IoSliceMut::new(unsafe { std::slice::from_raw_parts_mut(p.start.as_ptr(), p.len) }))
                    .collect();
                // SAFETY: as above, and nobody else of this process uses them.
                (unsafe { batch.read(number, &mut parts, offset) }, len)
            }
            WRITE => {
                self.writable().ok()?;
                let offset = self.range(sector, len(&readable)).ok()?;
                // Not copied, for nothing is computed from them: only what lies in place already is begun here.
                // SAFETY: buffers in guest memory; the guest may write there at the same time, and then any of its bytes are written.
                let parts: SmallVec<[IoSlice<'_>; 32]> = readable
                    .iter()
                    .map(|p| IoSlice::new(unsafe { std::slice::from_raw_parts(p.start.as_ptr(), p.len) }))
                    .collect();
                // SAFETY: as above.
                (unsafe { batch.write(number, &parts, offset) }, 0)
            }
            _ => return None,
        };
        let pending = Pending { status, written };
        match begun {
            Begun::UnderWay => Some((pending, true)),
            Begun::Done => Some((pending, false)),
            Begun::ByCall => None,
        }
    }

    /// Waits until the limits of the disk let a request through.
    fn take_turn(&self, bytes: u64) {
        if self.disk.limited() {
            self.disk.wait_turn(bytes, &|| self.stop.load(Ordering::Acquire));
        }
    }

    fn carry_out(&mut self, chain: &mut Chain, room: u64) -> Result<u64, Status> {
        let mut head = [0; HEAD];
        take_front(&mut chain.readable, &mut head).ok_or(Status::Failed)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
        let given: u64 = chain.readable.iter().map(|part| part.len as u64).sum();
        match word(0) {
            READ => {
                let offset = self.range(sector, room)?;
                self.take_turn(room);
                // SAFETY: buffers in guest memory that the device may write; the guest may do so at the same time, and nothing here
                // depends on what it does: they are passed to system calls, and filled by copying.
                let mut parts: SmallVec<[IoSliceMut<'_>; 32]> = chain
                    .writable
                    .iter()
                    .map(|p| IoSliceMut::new(unsafe { std::slice::from_raw_parts_mut(p.start.as_ptr(), p.len) }))
                    .collect();
                self.disk.read(&mut parts, offset).map_err(failed)?;
                Ok(room)
            }
            WRITE => {
                let offset = self.range(sector, given)?;
                self.writable()?;
                self.take_turn(given);
                let mut at = offset;
                while at < offset + given {
                    let len = (offset + given - at).min(COPIED as u64) as usize;
                    self.copy.resize(len, 0);
                    take_front(&mut chain.readable, &mut self.copy).ok_or(Status::Failed)?;
                    self.disk.write(&[IoSlice::new(&self.copy)], at, false).map_err(failed)?;
                    at += len as u64;
                }
                Ok(0)
            }
            FLUSH if self.allowed.flush => self.disk.flush().map(|()| 0).map_err(failed),
            GET_ID => {
                let mut name = [0; NAME];
                let len = self.name.len().min(NAME);
                name[..len].copy_from_slice(&self.name.as_bytes()[..len]);
                copy_in(&chain.writable, &name);
                Ok(room.min(NAME as u64))
            }
            DISCARD if self.allowed.discard => {
                self.take_turn(0);
                for Range { offset, len, flags } in self.ranges(chain, given)? {
                    if flags != 0 {
                        return Err(Status::Unsupported);
                    }
                    self.disk.discard(offset, len).map_err(failed)?;
                }
                Ok(0)
            }
            WRITE_ZEROES if self.allowed.write_zeroes => {
                self.take_turn(0);
                for Range { offset, len, flags } in self.ranges(chain, given)? {
                    if flags & !UNMAP != 0 {
                        return Err(Status::Unsupported);
                    }
                    self.disk.write_zeroes(offset, len, flags & UNMAP == 0, false).map_err(failed)?;
                }
                Ok(0)
            }
            _ => Err(Status::Unsupported),
        }
    }

    fn writable(&self) -> Result<(), Status> {
        if self.disk.read_only() { Err(Status::Failed) } else { Ok(()) }
    }

    /// The first byte of a range on the disk, all of which must be there.
    fn range(&self, sector: u64, len: u64) -> Result<u64, Status> {
        let offset = sector.checked_mul(SECTOR).ok_or(Status::Failed)?;
        let end = offset.checked_add(len).ok_or(Status::Failed)?;
        let whole = self.disk.size() / SECTOR * SECTOR;
        if len > MAX_DATA || !len.is_multiple_of(SECTOR) || end > whole { Err(Status::Failed) } else { Ok(offset) }
    }

    /// The ranges of a discard or write-zeroes. All of them are right, or none is used.
    fn ranges(&self, chain: &Chain, given: u64) -> Result<SmallVec<[Range; 1]>, Status> {
        self.writable()?;
        let len = given as usize;
        if len == 0 || !len.is_multiple_of(RANGE) || len / RANGE > MAX_RANGES {
            return Err(Status::Failed);
        }
        let mut bytes: SmallVec<[u8; 64]> = SmallVec::from_elem(0, len);
        copy_out(&chain.readable, &mut bytes);
        let whole = self.disk.size() / SECTOR * SECTOR;
        let parse = |range: &[u8]| {
            let word = |at: usize| u32::from_le_bytes([range[at], range[at + 1], range[at + 2], range[at + 3]]);
            let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
            let (sectors, flags) = (word(8), word(12));
            let offset = sector.checked_mul(SECTOR).ok_or(Status::Failed)?;
            let len = u64::from(sectors) * SECTOR;
            let end = offset.checked_add(len).ok_or(Status::Failed)?;
            if sectors > MAX_RANGE_SECTORS || end > whole {
                Err(Status::Failed)
            } else {
                Ok(Range { offset, len, flags })
            }
        };
        bytes.chunks_exact(RANGE).map(parse).collect()
    }
}

fn failed(_: Errno) -> Status {
    Status::Failed
}

/// Takes the last byte away.
fn take_last(parts: &mut SmallVec<[Part; 32]>) -> Option<Part> {
    let last = parts.last_mut()?;
    last.len -= 1;
    // SAFETY: within the part, which had a byte at least.
    let start = unsafe { last.start.add(last.len) };
    if last.len == 0 {
        parts.pop();
    }
    Some(Part { start, len: 1 })
}

/// Takes bytes away from the front, into `bytes`; `None` if there are fewer.
fn take_front(parts: &mut SmallVec<[Part; 32]>, bytes: &mut [u8]) -> Option<()> {
    let (mut filled, mut done) = (0, 0);
    while filled < bytes.len() {
        let part = parts.get_mut(done)?;
        let len = part.len.min(bytes.len() - filled);
        // SAFETY: `len` bytes of a buffer in guest memory, and as many of a slice of our own.
        unsafe { ptr::copy_nonoverlapping(part.start.as_ptr(), bytes[filled..].as_mut_ptr(), len) };
        filled += len;
        part.len -= len;
        // SAFETY: at most the end of the part.
        part.start = unsafe { part.start.add(len) };
        done += usize::from(part.len == 0);
    }
    parts.drain(..done);
    Some(())
}

/// Copies from guest memory as much as there is, or as there is room for.
fn copy_out(parts: &[Part], mut bytes: &mut [u8]) {
    for part in parts {
        let len = part.len.min(bytes.len());
        // SAFETY: `len` bytes of a buffer in guest memory, and as many of a slice of our own.
        unsafe { ptr::copy_nonoverlapping(part.start.as_ptr(), bytes.as_mut_ptr(), len) };
        bytes = &mut bytes[len..];
    }
}

/// Copies to guest memory as much as there is, or as there is room for.
fn copy_in(parts: &[Part], mut bytes: &[u8]) {
    for part in parts {
        let len = part.len.min(bytes.len());
        // SAFETY: `len` bytes of a slice of our own, and as many of a buffer in guest memory that the device may write.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), part.start.as_ptr(), len) };
        bytes = &bytes[len..];
    }
}
