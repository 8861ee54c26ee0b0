//! Disks as block devices by the kernel's ublk driver: its requests come through io_uring, each into a buffer of its own, from which the
//! disk takes them and into which it reads (docs/block-devices.md has the protocol).
//!
//! | File | Its job |
//! |---|---|
//! | `wire` | commands and structures, as the kernel has them |
//! | `control` | the control device: make, start, resume, resize, stop and delete devices; find one |
//! | `served` | a device that is served, from its beginning to its end |
//! | `queue` | the thread of one queue: takes requests, carries them out, gives them back |
//! | `request` | one request: what it asks for, and whether it may |
//! | `memory` | what a queue shares with the kernel, and its buffers |
//! | `limits` | every count, size and time that is bounded |

mod control;
mod limits;
mod memory;
mod queue;
mod request;
mod served;
mod wire;

pub use control::{Control, Features};
pub use served::Served;
pub use wire::{DeviceInfo, State};

/// Has this process, and the threads that it starts from now on, not wait for what waits for them: who serves a device must neither write
/// to that device to get memory, nor be slowed down because it has much to write. Without the right to say so nothing changes.
pub fn serve_devices() {
    /// `linux/prctl.h`
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    // SAFETY: sets a flag of this thread, without pointers.
    let _ = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}
