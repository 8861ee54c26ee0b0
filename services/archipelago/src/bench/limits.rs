//! Every count, size and time of a measurement, each with its reason.

use std::time::Duration;

/// Requests under way: what a completion queue of the engine holds.
pub const MAX_DEPTH: usize = archipelago_core::limits::MAX_QUEUE;
/// Bytes of a request: the most that a server of network block devices takes.
pub const MAX_REQUEST: u64 = 32 << 20;
/// Requests have multiples of this: a sector of the smallest kind.
pub const SECTOR: u64 = 512;
/// Bytes of all buffers together; more would measure the machine's memory.
pub const MAX_BUFFERS: u64 = 1 << 30;
/// Volumes that are open at once for reading and writing: each takes a descriptor and some memory.
pub const MAX_OPEN: u64 = 512;
/// Volumes that are asked about or removed: what a number of 15 digits in their names counts would never end.
pub const MAX_OBJECTS: u64 = 1_000_000_000;
/// Requests between two looks at the clock and at signals, where a request has no timer of its own.
pub const LOOK: u64 = 64;
/// Time in which a target must answer a `--ping`.
pub const PING: Duration = Duration::from_secs(30);
/// Time between two pings.
pub const PING_PAUSE: Duration = Duration::from_millis(100);
/// Longest time that a histogram tells from a longer one.
pub const LONGEST: Duration = Duration::from_secs(3600);
/// Places of corruption that are named; more are counted.
pub const MAX_NAMED: usize = 16;
