//! The `archipelago` command line and node daemon.
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod import;
pub mod nbd;
