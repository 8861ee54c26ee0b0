//! Every bound of the provider, each with its reason.

use std::time::Duration;

/// Longest value of a variable that is looked at, in bytes: the longest that makes sense is the name of an instance.
pub const MAX_VALUE: usize = 1024;
/// Longest piece of a value that is repeated in a message, in characters: Ganeti shows the last 20 lines of all.
pub const MAX_SHOWN: usize = 100;
/// Unknown parameters that are named in a message.
pub const MAX_NAMED: usize = 10;
/// Disks of an instance, as Ganeti limits them (`MAX_DISKS`).
pub const MAX_DISKS: u64 = 16;
/// How long a device may take to have its new size: the kernel changes it at once, unless somebody is just opening it.
pub const GROW_TIME: Duration = Duration::from_secs(5);
/// Between two looks at the size of a device.
pub const LOOK: Duration = Duration::from_millis(5);
