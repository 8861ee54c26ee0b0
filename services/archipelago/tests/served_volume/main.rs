//! Volumes of a real store, served by the built program to the clients that people use, and what is left when a client or the
//! server goes away. A client that is not installed is a failure that names its package.
// Helpers outside of test functions may stop the test, too.
#![allow(missing_docs, clippy::unwrap_used)]

mod clients;
mod fio;
mod history;
mod leaving;
mod load;
#[path = "../support/raw_client.rs"]
mod raw_client;
mod site;
