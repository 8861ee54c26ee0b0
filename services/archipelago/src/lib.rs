//! The `archipelago` command line and node daemon.

pub mod nbd;
