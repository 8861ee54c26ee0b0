//! The `archipelago` command line and node daemon.
