//! The vhost-user-blk endpoint: disks for virtual machines, through their memory.
//!
//! A front end (QEMU, cloud-hypervisor) connects to a socket, sends the files that are the guest's memory, and says where in it the
//! queues of the guest's driver are. Requests are read from there. What is read goes from the store's files into the guest's buffers without
//! a copy; what is written is copied once, for it may go into a journal with a checksum that the guest must not be able to make wrong.
//!
//! | File | Its job |
//! |---|---|
//! | `server` | listens, one front end a socket; tells of new sizes; stops |
//! | `session` | what a front end said, and the queues that run by it |
//! | `message` | messages on the socket |
//! | `config` | features and configuration space of the device |
//! | `memory` | the guest's memory |
//! | `ring` | a virtqueue in it |
//! | `worker` | the thread of a queue |
//! | `request` | a request: from buffers to calls of a disk |
//! | `inflight` | notes of what is under way, which outlive this process |
//! | `limits` | every bound |
//!
//! Requests of a queue are carried out one after the other, in order, in the queue's own thread: on cached data that is the fastest there
//! is. A guest with several processors has a queue for each.

mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod inflight;
mod limits;
mod memory;
mod message;
mod request;
mod ring;
mod server;
mod session;
mod worker;

pub use server::{Attachment, Change, Server};
