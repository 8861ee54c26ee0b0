//! The `archipelago` command line and node daemon.
#![deny(unsafe_code)]

pub mod cli;
pub mod collector;
pub mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod hasher;
pub mod import;
pub mod nbd;
pub mod scrubber;
