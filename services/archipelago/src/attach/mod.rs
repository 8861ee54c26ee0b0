//! Volumes as block devices of this machine's kernel, each served by a process of its own that outlives who asked for it.
//!
//! A volume is mounted as a file (`crate::fuse`) in a directory of its own, and a loop device with direct I/O is put over that file.
//! What is attached is read from the kernel and from the files of that directory; nothing else remembers it. So a command that was
//! killed half way leaves what the next one finds and finishes, or clears away.
//!
//! | File | Its job |
//! |---|---|
//! | `place` | the directory of an attachment: its name, its lock, what is recorded there |
//! | `server` | the process that serves an attached volume |
//! | `only` | the one volume that a socket of its own leads to |
//! | `start` | starts it, and waits until it serves |
//! | `loop_device` | loop devices: over a file, of a file, away |
//! | `users` | who has a device in use |
//! | `commands` | attach, detach, list |
//! | `limits` | every time that is bounded |

mod commands;
mod error;
mod limits;
#[allow(unsafe_code)]
mod loop_device;
mod only;
mod place;
pub mod server;
mod start;
mod users;

pub use commands::{Attached, Attacher, Presentation, Wanted};
pub use error::AttachError;
pub use place::{Place, RUN, Record, default_node};
pub use start::READY;
