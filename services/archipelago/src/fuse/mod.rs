//! One disk as one file: a FUSE file system whose root is a regular file, mounted over a file.
//!
//! The protocol itself is the business of the `fuser` crate. Requests go on to the disk as they come: the kernel keeps no pages of
//! this file, so that nothing is cached twice and whoever reads sees what was written by other ways.
//!
//! | File | Its job |
//! |---|---|
//! | `file` | what the kernel may ask of the file |
//! | `mount` | puts it in its place, and takes it away |
//! | `limits` | every size, count and time that is bounded |

mod file;
pub mod limits;
mod mount;

pub use mount::{Mounted, is_mounted, unmount};
