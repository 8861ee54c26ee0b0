//! Every count and time of the endpoint for figures, each with its reason.

use std::time::Duration;

/// Requests answered at once: one of a collector, one of its twin, and two of people.
pub const THREADS: usize = 4;
/// Time for reading a request and sending its answer: a megabyte to a slow machine, and no more for somebody who says nothing.
pub const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Longest head of a request in bytes: a collector sends some hundred.
pub const MAX_HEAD: usize = 8192;
/// Wait after an accept that failed, before the next.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Age from which on the room of the store is asked for anew.
pub const SPACE_AGE: Duration = Duration::from_secs(15);
/// How long an answer waits for that; later the last known room is told.
pub const SPACE_WAIT: Duration = Duration::from_millis(500);
