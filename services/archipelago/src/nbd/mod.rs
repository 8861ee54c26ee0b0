//! Network block device (NBD) endpoint: serves disks to any NBD client over Unix sockets and TCP, there with TLS.
//!
//! `docs/nbd.md` says what is spoken. The endpoint knows disks only through [`Device`] and [`Exports`]; [`crate::disk::volumes`] is
//! the one file that knows the engine.
//!
//! | File | Job |
//! |---|---|
//! | `wire`, `errors` | numbers, encoders and decoders of the protocol |
//! | `negotiate`, `handshake` | the negotiation: its states; its input and output |
//! | `request`, `extents` | what may be run; what is known of zeros |
//! | `transmission`, `reading` | runs requests |
//! | `together` | requests that are under way together |
//! | `turn` | waits for what the limits of a disk let through |
//! | `buffer`, `replies`, `socket` | memory, gathered sends, waiting, system calls |
//! | `tls`, `channel` | certificates and encryption; a connection's bytes with it or without |
//! | `client`, `uri` | a client for measurements; where an export is |
//! | `listen`, `server` | sockets to connect to; threads, limits, stop |
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod buffer;
mod channel;
pub mod client;
pub mod errors;
mod extents;
mod handshake;
pub mod limits;
mod listen;
mod negotiate;
mod reading;
mod replies;
mod request;
mod server;
#[allow(unsafe_code)]
mod socket;
pub mod tls;
#[allow(unsafe_code)]
mod together;
mod transmission;
mod turn;
pub mod uri;
pub mod wire;

pub use crate::disk::device::{Device, DeviceResult, Errno, ExportError, Exports, Extent};
pub use crate::disk::volumes::StoreExports;
pub(crate) use buffer::share_heaps;
pub use listen::Fresh;
pub(crate) use listen::Listener;
pub(crate) use listen::bound_at;
pub use listen::{DEFAULT_SOCKET_MODE, Endpoint, ListenError};
#[cfg(feature = "fuzzing")]
pub(crate) use server::serve_one;
pub use server::{Change, Server, ServerOptions, Stopped};
pub(crate) use socket::Stream;
