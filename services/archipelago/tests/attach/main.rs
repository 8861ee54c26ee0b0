//! `map`, `unmap` and `showmapped` with the kernel of this machine: loop devices need root, files need fusermount3 or root. Kernels
//! without FUSE or loop devices fail these tests, which says what is missing.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../support/raw_client.rs"]
mod raw_client;
#[allow(dead_code)]
#[path = "../served_volume/site.rs"]
mod site;

mod device;
mod file;
mod host;
mod orphans;
