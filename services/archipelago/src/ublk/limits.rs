//! Every count, size and time that the ublk endpoint bounds, each with its reason.

use std::time::Duration;

/// Queues of a device, each with a thread: a slow request keeps back only those of its own queue. More than these gain nothing, for one
/// volume is behind them all.
pub const MAX_QUEUES: usize = 4;
/// Requests of a queue that are under way at once: twice the depth at which disks are measured.
pub const QUEUE_DEPTH: u16 = 64;
/// Largest request in bytes: so long that its data costs more than its way, and so short that the buffers of a queue take 32 MiB at most.
pub const MAX_REQUEST: u32 = 512 << 10;
/// Most requests of a queue, and longest request, of a device that another version of this program made.
pub const MAX_FOUND_DEPTH: u16 = 256;
/// Most queues of such a device.
pub const MAX_FOUND_QUEUES: u16 = 16;
/// Longest request of such a device, in bytes.
pub const MAX_FOUND_REQUEST: u32 = 1 << 20;
/// Longest discard or write-zeroes, in sectors of 512 bytes: 1 GiB, so that those behind one do not wait long.
pub const MAX_RANGE_SECTORS: u32 = 2 << 20;
/// Answers that are kept back to be given together: a call of the kernel for each of them is paid by so many already.
pub const ANSWERS_TOGETHER: usize = 16;
/// Bytes from which on a request takes so long that answers do not wait for it.
pub const LONG_REQUEST: usize = 64 << 10;
/// Silence after which a queue gives the pages of its buffers back.
pub const IDLE: Duration = Duration::from_secs(1);
/// Longest wait for a command to the control device: as long as a volume may take to flush.
pub const COMMAND_TIME: Duration = Duration::from_secs(120);
/// Longest wait until the kernel has noticed that a server is dead. Where all requests of a queue were under way, it does so after 30
/// seconds only.
pub const NOTICE_TIME: Duration = Duration::from_secs(60);
/// Between two looks whether it has.
pub const LOOK: Duration = Duration::from_millis(5);
/// Devices of this kernel that are looked through.
pub const MAX_DEVICES: usize = 4096;
