//! Room on a real file system: a small ext4 on a loop device, which only root can mount.
//!
//! What a store took comes back when everything in it is removed; on a file system without room, what makes room again works.
#![allow(clippy::unwrap_used)]

#[path = "../../../../archipelago-core/tests/common/random.rs"]
mod random;

mod disk;
mod emptied;
mod full;
mod site;
