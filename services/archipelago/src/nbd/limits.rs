//! Every size, count and time that the NBD endpoint bounds, each with its reason.

use std::time::Duration;

/// Option data that is looked at, in bytes: room for a full export name and all meta context queries that are answered.
pub const MAX_OPTION_DATA: usize = 64 << 10;
/// Longer option data is read and thrown away up to this many bytes, so that the client sees the error; past it the
/// connection is closed, or a client could make the server read 4 GiB for nothing.
pub const MAX_DRAINED_OPTION: u32 = 1 << 20;
/// Longest string of the protocol (export name, query), in bytes: the protocol's own limit.
pub const MAX_STRING: usize = 4096;
/// Longest text in an error reply, in bytes: a few sentences. It may quote what the client sent, so it must not grow with it.
pub const MAX_ERROR_TEXT: usize = 512;
/// Meta context queries in one option; clients send one to three.
pub const MAX_QUERIES: usize = 256;
/// Options in one negotiation; a client that browses exports sends a few for each.
pub const MAX_OPTIONS: u32 = 1000;
/// Time for a negotiation, from the first byte of the greeting to the export: a slow link needs a few round trips.
pub const NEGOTIATION_TIME: Duration = Duration::from_secs(30);

/// Longest file with certificates or a key, in bytes: hundreds of authorities.
pub const MAX_PEM: u64 = 1 << 20;
/// Bytes that are encrypted before they are sent: four records of the protocol, of the reply's head or up to its end.
pub const TLS_BUFFER: usize = 64 << 10;
/// Time for telling a client that an encrypted connection ends.
pub const CLOSE_TIME: Duration = Duration::from_secs(1);
/// Least time between two notes on standard error about clients that failed TLS: anybody who reaches the port can cause them.
pub const NOTE_PAUSE: Duration = Duration::from_secs(10);

/// Connections served at once: each is a thread and up to 2.5 MiB of buffers.
pub const MAX_CONNECTIONS: usize = 128;
/// Connections past the limit that are told why they are refused, at once; a flood beyond that is just closed.
pub const MAX_REFUSALS: usize = 8;
/// Time for telling a connection that it is refused.
pub const REFUSAL_TIME: Duration = Duration::from_secs(2);
/// Time that a stop gives connections to finish what they received, and again after their sockets were closed.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// Pause of the accepting thread when the process is out of descriptors or memory: connections end meanwhile.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time in which two servers that want the same socket file wait for one another.
pub const SOCKET_LOCK_TIME: Duration = Duration::from_secs(2);

/// Heaps of a process that serves: one for who opens and closes volumes, the others for what goes on in the background meanwhile.
#[cfg(target_env = "gnu")]
pub const HEAPS: libc::c_int = 2;

/// Largest payload of a read or write, in bytes: what the protocol lets a client assume.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Receive buffer of a connection, in bytes: one call takes in 32 writes of 4 KiB, or thousands of reads.
pub const RECEIVE_BUFFER: usize = 256 << 10;
/// Writes above this, in bytes, are not collected in the receive buffer but received where the device takes them from.
/// What is collected may have to be moved to the front of the buffer first: at this size that costs less than a system call.
pub const LARGE_WRITE: usize = 32 << 10;
/// Largest piece in which payloads are passed between socket and device, in bytes: bounds a connection's memory, and
/// stays in the processor's cache on its way.
pub const PIECE: usize = 1 << 20;
/// Longest range that a device is told to zero or give up at once, in bytes: with extended headers a request may name the whole export, and
/// a stop must not wait for that.
pub const RANGE_PIECE: u64 = 1 << 30;
/// Silence of a client after which its connection gives its buffers back: longer than pauses of one that is at work, and short enough
/// that memory belongs to those who are.
pub const IDLE: Duration = Duration::from_secs(1);
/// Reads from this size on ask the device for zero ranges first: below it, looking costs more than it saves.
pub const HOLE_READ: usize = 64 << 10;
/// Ranges that such a read looks at; what is past them is sent as data.
pub const MAX_READ_EXTENTS: usize = 32;
/// Extents in one block status reply: 16 KiB of reply. A client asks again from where they end.
pub const MAX_STATUS_EXTENTS: usize = 2048;
/// Requests of a connection that are under way together, where they wait for a disk: as many as a gathered send has replies for.
pub const TOGETHER: usize = MAX_PARTS / 2;
/// Parts of one gathered send: 64 reads. More gains nothing that could be measured.
pub const MAX_PARTS: usize = 128;
/// Reply headers are sent off past this many bytes.
pub const MAX_HEADS: usize = 32 << 10;
