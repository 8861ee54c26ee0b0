//! Volumes as block devices of this machine's kernel, each served by a process of its own that outlives who asked for it.
//!
//! Either requests come from the kernel's ublk driver (`crate::ublk`); or the kernel's client for network block devices is given a connection
//! to a server (`crate::nbd`); or the volume is mounted as a file (`crate::fuse`) in a directory of its own, and a loop device with direct
//! I/O is put over that file. What is attached is read from the kernel and from the files of that directory; nothing else remembers it. So a command that was
//! killed half way leaves what the next one finds and finishes, or clears away.
//!
//! | File | Its job |
//! |---|---|
//! | `place` | the directory of an attachment: its name, its lock, what is recorded there |
//! | `server` | the process that serves an attached volume |
//! | `only` | the one volume that a socket of its own leads to |
//! | `start` | starts it, and waits until it serves |
//! | `device` | the drivers, and what is the same for the devices of all |
//! | `loop_device` | loop devices: over a file, of a file, away |
//! | `ublk_device` | devices of the kernel's ublk driver: of an attachment, away |
//! | `nbd_device`, `netlink` | devices of the kernel's client for network block devices; how the kernel is told |
//! | `connected` | a server with one connection, whose other end the kernel has |
//! | `users` | who has a device in use |
//! | `commands` | attach, detach, list |
//! | `limits` | every time that is bounded |

mod commands;
mod connected;
mod device;
mod error;
mod limits;
#[allow(unsafe_code)]
mod loop_device;
mod nbd_device;
mod netlink;
mod only;
mod place;
pub mod server;
mod start;
mod ublk_device;
mod users;

pub use commands::{Attached, Attacher, Presentation, Wanted};
pub use device::Driver;
pub use error::AttachError;
pub use limits::UNUSED_TIME;
pub use place::{Place, RUN, Record, default_node};
pub use start::READY;
