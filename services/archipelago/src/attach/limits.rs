//! Every time that attaching bounds, each with its reason.

use std::time::Duration;

/// Wait for another command about the same volume: an attachment takes as long as a replay of its journal.
pub const LOCK_TIME: Duration = Duration::from_secs(60);
/// Between two looks at a lock, or at a process that ends.
pub const LOOK: Duration = Duration::from_millis(5);
/// Time for a server to write what it has to its store and end, after which detaching gives up and says so: a checkpoint of a large
/// journal on a slow disk.
pub const STOP_TIME: Duration = Duration::from_secs(120);
/// How often a server looks at the size of its volume and whether its file is still mounted.
pub const WATCH: Duration = Duration::from_millis(500);
/// Longest line in which a server says that it is ready, and longest log of one that failed that is repeated, in bytes.
pub const MAX_SAID: u64 = 64 << 10;
/// Loop devices that are tried when others take the free ones at the same moment.
pub const LOOP_TRIES: usize = 64;
/// Looks at the lock of servers before another one is believed to live: whoever only asks holds it for a moment.
pub const SERVER_TRIES: usize = 20;
/// Time in which a device may still be in use before detaching refuses: udev looks at one for some milliseconds after it was closed.
pub const SETTLE_TIME: Duration = Duration::from_secs(1);
/// Clients of the socket of one volume: a virtual machine is one, during a migration two, and programs that copy a disk open a few more.
pub const MAX_CLIENTS: usize = 16;
/// Seconds after which an attachment ends that does not have its volume, and that nobody uses or asks for: what a migration left that failed.
/// One that goes on needs it within seconds, and an administrator looks within minutes.
pub const UNUSED_TIME: u64 = 600;
