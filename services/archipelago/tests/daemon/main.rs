//! `archipelago serve` as a service: its log, its figures, how it reads its configuration again, and what it tells a service manager.
// Helpers outside of test functions may stop the test, too.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../support/command.rs"]
mod command_line;
#[path = "../support/python.rs"]
mod python;
#[path = "../support/raw_client.rs"]
mod raw_client;

mod exposition;
mod figures;
mod logs;
mod manager;
mod reload;
mod server;
