//! Every count and time that disks and their endpoints share, each with its reason.

use std::time::Duration;

/// Names in the answer to a listing: half a megabyte at the longest volume names.
pub const MAX_LISTED: usize = 4096;
/// Time that a connection waits for another that opens or closes the same export: a replay of the journal or a last flush.
pub const CLOSING_TIME: Duration = Duration::from_secs(10);
/// Time to look for requests without sleeping: as long as a client's turn-around, as short as one wake-up's cost.
pub const SPIN: Duration = Duration::from_micros(50);
/// Looks in vain in a row after which a connection counts as idle and sleeps at once.
pub const SPIN_MISSES: u32 = 3;
/// An idle connection tries a spin again at one in this many waits, so that it finds out when the client is back.
pub const SPIN_RETRY: u32 = 16;
/// Most waits between two tries of a connection that lost its processor while it looked: a try that fails costs a turn of the scheduler's, some
/// milliseconds, and so many waits asleep take a hundred.
pub const SPIN_LONGEST_RETRY: u32 = 4096;
