//! The `archipelago` command line and node daemon.
#![deny(unsafe_code)]

pub mod attach;
pub mod bench;
pub mod cli;
pub mod collector;
pub mod config;
pub mod disk;
pub mod doctor;
pub mod fuse;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod ganeti;
pub mod hasher;
pub mod import;
pub mod log;
pub mod metrics;
pub mod nbd;
pub mod notify;
pub mod scrubber;
pub mod tally;
#[allow(unsafe_code)]
pub mod ublk;
#[allow(unsafe_code)]
pub mod vhost_user;
pub mod vlmc;
