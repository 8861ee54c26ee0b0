//! The backend on a real Ceph. `make test-ceph` starts a cluster and says in `ARCHIPELAGO_CEPH_CONF` where its configuration is; its
//! pool is `archipelago`.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use archipelago_core::blocker::Blocker;
use archipelago_core::blocker::rados::{RadosBlocker, RadosPlace};

#[path = "../common/contract_collection.rs"]
mod collection;
#[path = "../common/contract.rs"]
mod contract;
mod fencing;
#[path = "../common/submitted.rs"]
mod submitted;
mod trouble;
mod volumes;

/// A namespace that nobody has.
pub fn place() -> RadosPlace {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let conf = std::env::var("ARCHIPELAGO_CEPH_CONF").expect("ARCHIPELAGO_CEPH_CONF is set, as make test-ceph does");
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    RadosPlace { conf, namespace: format!("test-{since:x}-{number}"), ..RadosPlace::new("archipelago") }
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn the_rados_backend_keeps_the_contract() {
    let first = RadosBlocker::open(&place()).unwrap();
    let make = || -> Arc<dyn Blocker> { Arc::new(first.elsewhere(&place().namespace).unwrap()) };
    contract::contract(make);
    collection::contract(make);
}
