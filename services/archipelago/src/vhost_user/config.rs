//! What a guest is told of its device: features, and the configuration space.
//!
//! Source: Virtual I/O Device (VIRTIO) 1.2, sections 5.2.3 and 5.2.4; vhost-user specification.

use super::limits::{MAX_QUEUES, MAX_RANGE_SECTORS, MAX_RANGES, SEG_MAX};
use super::request::SECTOR;
use crate::disk::device::Device;

/// Features of the device and of virtqueues, as bits.
pub mod feature {
    #![allow(missing_docs)]
    pub const SEG_MAX: u64 = 1 << 2;
    pub const GEOMETRY: u64 = 1 << 4;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLOCK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const MULTI_QUEUE: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    pub const INDIRECT: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    /// There are features of the protocol between front end and back end.
    pub const PROTOCOL: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
}

/// Features of the protocol, as bits.
pub mod protocol {
    #![allow(missing_docs)]
    pub const MULTI_QUEUE: u64 = 1 << 0;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CONFIG: u64 = 1 << 9;
    pub const INFLIGHT: u64 = 1 << 12;
    pub const RESET_DEVICE: u64 = 1 << 13;

    /// All that this back end knows.
    pub const ALL: u64 = MULTI_QUEUE | REPLY_ACK | BACKEND_REQ | CONFIG | INFLIGHT | RESET_DEVICE;
}

/// Bytes of the configuration space that have a meaning: up to the flag that write-zeroes may unmap, and what fills up the word.
const LEN: usize = 60;
/// Heads and sectors of a track that every disk has since they mean nothing any more. Firmware and boot loaders divide by them.
const HEADS: u8 = 16;
const TRACK: u8 = 63;
/// Bytes of it that a front end may ask for.
pub const MAX_CONFIG: u32 = 256;

/// Features of a disk.
pub fn features(disk: &dyn Device) -> u64 {
    let always = feature::SEG_MAX
        | feature::GEOMETRY
        | feature::BLOCK_SIZE
        | feature::FLUSH
        | feature::TOPOLOGY
        | feature::MULTI_QUEUE
        | feature::INDIRECT
        | feature::EVENT_IDX
        | feature::PROTOCOL
        | feature::VERSION_1;
    always | if disk.read_only() { feature::READ_ONLY } else { feature::DISCARD | feature::WRITE_ZEROES }
}

/// The configuration space of a disk; what is behind its end is zeros.
pub fn space(disk: &dyn Device) -> [u8; MAX_CONFIG as usize] {
    let mut space = [0; MAX_CONFIG as usize];
    let (sectors, preferred) = (disk.size() / SECTOR, u64::from(disk.block_size()).max(SECTOR) / SECTOR);
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    let cylinders = sectors / (u64::from(HEADS) * u64::from(TRACK));
    put(16, &(cylinders.clamp(1, u64::from(u16::MAX)) as u16).to_le_bytes());
    put(18, &[HEADS, TRACK]);
    put(20, &(SECTOR as u32).to_le_bytes());
    // Topology: sectors of a physical block as a power of two, no misalignment, best and least request in sectors.
    put(24, &[preferred.trailing_zeros() as u8, 0]);
    put(26, &(preferred.min(u64::from(u16::MAX)) as u16).to_le_bytes());
    put(34, &(MAX_QUEUES as u16).to_le_bytes());
    if !disk.read_only() {
        for at in [36, 48] {
            put(at, &MAX_RANGE_SECTORS.to_le_bytes());
            put(at + 4, &(MAX_RANGES as u32).to_le_bytes());
        }
        put(44, &(preferred as u32).to_le_bytes());
        put(56, &[1]);
    }
    debug_assert!(space[LEN..].iter().all(|byte| *byte == 0));
    space
}
