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
/// Longest time until somebody who waits for a limit finds out that his client is gone.
pub const WAIT_CHECK: Duration = Duration::from_millis(50);
/// Slow requests that are kept: the last minute of a disk that hangs, and 20 KiB.
pub const SLOW_KEPT: usize = 64;
/// Time between two lines about slow requests: enough to see it, and no log is filled by a slow disk.
pub const SLOW_TOLD: Duration = Duration::from_secs(5);
/// Time that a server may take to answer how it stands to a volume: it looks at a header.
pub const STANDING_TIME: Duration = Duration::from_secs(2);
/// Time that a server may take to take a volume over or give it up: what the engine waits for each, and a flush or a replay behind it.
pub const SHARING_TIME: Duration = Duration::from_secs(20);
/// Volumes of which a server remembers what it was told about sharing them: some megabytes.
pub const MAX_TOLD: usize = 65_536;
/// Disks in one answer: with full histograms they fit into a control message.
pub const MAX_MEASURED: usize = 128;
/// Volumes whose limits may be set while a server runs: some megabytes.
pub const MAX_LIMITED: usize = 65_536;
