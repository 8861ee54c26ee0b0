//! Every size, count and time that the FUSE endpoint bounds, each with its reason.

use std::time::Duration;

/// Largest request in bytes: the most that the kernel sends unless its administrator lets it send more.
pub const MAX_REQUEST: u32 = 1 << 20;
/// Threads that carry out requests: as many can wait for a disk at once. More gain nothing from a file that is cached, and each may
/// hold two buffers of the largest request.
pub const THREADS: usize = 8;
/// Asynchronous requests that the kernel passes on at once: the deepest queue that a loop device has.
pub const MAX_BACKGROUND: u16 = 128;
/// Ranges that a search for data or a hole looks at in one step.
pub const SEEK_EXTENTS: usize = 256;
/// Time that whoever has the file open gets to close it after it was unmounted.
pub const UNMOUNT_TIME: Duration = Duration::from_secs(5);
/// Between two looks whether all have closed it.
pub const LOOK: Duration = Duration::from_millis(2);
