//! Every size, count and time that the vhost-user endpoint bounds, each with its reason.

use std::time::Duration;

/// Largest body of a message, in bytes: a device configuration with its head is 268, a table of eight memory regions 264.
pub const MAX_BODY: usize = 512;
/// Descriptors that come with one message: one for each memory region.
pub const MAX_FDS: usize = MAX_REGIONS;
/// Memory regions of a guest: what the protocol lets a table have.
pub const MAX_REGIONS: usize = 8;
/// Queues of a device: more than front ends have processors here gain nothing.
pub const MAX_QUEUES: usize = 16;
/// Largest queue, in descriptors: what QEMU allows, and the most parts that one system call takes.
pub const MAX_QUEUE_SIZE: u16 = 1024;
/// Parts of one request that guests are told to keep to: the usual queue of 128 less head and status.
pub const SEG_MAX: u32 = 126;
/// Descriptors of one request, those of indirect tables included: the most parts that one system call takes.
pub const MAX_CHAIN: usize = 1024;
/// Largest request in bytes: 1024 parts of 64 KiB.
pub const MAX_DATA: u64 = 64 << 20;
/// Ranges in one discard or write-zeroes request: what Linux sends at most.
pub const MAX_RANGES: usize = 256;
/// Longest range of them, in sectors of 512 bytes: 2 GiB, so that one takes no longer than a guest waits.
pub const MAX_RANGE_SECTORS: u32 = 4 << 20;
/// Bytes of a write that are copied at once before they are stored: their bytes may go into the journal with a checksum, and a guest may
/// change its memory between the two. In pieces that stay in the processor's cache on their way.
pub const COPIED: usize = 256 << 10;
/// Requests of a queue that are under way together, where they wait for a disk: all of the usual queue of 128 descriptors.
pub const TOGETHER: usize = 128;
/// Time to look for requests without sleeping: as long as a guest's turn-around, as short as one wake-up's cost.
pub const SPIN: Duration = Duration::from_micros(50);
/// How often the size of a disk is looked at, to tell the guest of a new one.
pub const RESIZE_POLL: Duration = Duration::from_millis(500);
/// Time that a stop gives requests to end.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
