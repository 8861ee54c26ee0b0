//! The `archipelago` command line and node daemon.
#![deny(unsafe_code)]

pub mod import;
