//! What a server measures and limits, as other processes see it: `top`, `limit`, and clients of a limited disk.

#![allow(clippy::unwrap_used)] // Here a failed unwrap is a failed test.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use archipelago_service::disk::gauges::Policy;
use archipelago_service::disk::limiter::Limits;
use archipelago_service::nbd::wire::{command, option, reply};
use archipelago_service::nbd::{DEFAULT_SOCKET_MODE, Endpoint, Exports, Server, ServerOptions, StoreExports};
use serde_json::{Value, json};

#[path = "support/command.rs"]
mod command_line;
#[path = "support/raw_client.rs"]
mod raw_client;

use command_line::{Site, wait_for};
use raw_client::{Client, go};

fn site() -> Site {
    let site = Site::new();
    for name in ["disk-1", "disk-2"] {
        site.ok(&["create", name, "--size", "64M"]);
    }
    site
}

fn exports(site: &Site, policy: Policy) -> Arc<StoreExports> {
    Arc::new(StoreExports::with_policy(site.open(), None, policy))
}

#[test]
fn limits_are_shown_set_and_taken_away_while_a_disk_is_in_use() {
    let site = site();
    let limits = HashMap::from([("disk-1".to_string(), Limits { iops: 500, ..Limits::default() })]);
    let served = exports(&site, Policy { limits, ..Policy::default() });
    let (first, second) = (served.open("disk-1").unwrap(), served.open("disk-2").unwrap());
    assert!(first.limited() && !second.limited());
    assert_eq!(site.ok(&["limit", "disk-1"]), "disk-1: 500 requests per second\n");
    assert_eq!(site.ok(&["limit", "disk-2", "--show"]), "disk-2: no limits\n");
    let set = site.json(&["limit", "disk-2", "--bps", "50M", "--bps-burst", "1G"]);
    assert_eq!(
        set,
        json!({"name": "disk-2", "limits": {"iops": 0, "iops_burst": 0, "bps": 50 << 20, "bps_burst": 1 << 30}})
    );
    assert!(second.limited());
    // What is not named stays as it is.
    let set = site.json(&["limit", "disk-2", "--iops", "7"]);
    assert_eq!((&set["limits"]["iops"], &set["limits"]["bps"]), (&json!(7), &json!(50 << 20)));
    site.ok(&["limit", "disk-1", "--none"]);
    assert!(!first.limited());
    // It holds until the server ends, also when the disk is closed in between, and under another name.
    drop(second);
    site.ok(&["rename", "disk-2", "disk-3"]);
    assert!(served.open("disk-3").unwrap().limited());
    assert_eq!(site.run(&["limit", "disk-1", "--none", "--iops", "5"]).status.code(), Some(2));
    assert_eq!(site.run(&["limit", "nobody"]).status.code(), Some(3));
}

#[test]
fn without_a_server_there_is_nothing_to_limit_and_nothing_to_show() {
    let site = site();
    let output = site.run(&["limit", "disk-1", "--iops", "5"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("archipelago serve"));
    assert_eq!(site.json(&["top", "--once", "--interval", "1"])["disks"], json!([]));
    assert!(site.ok(&["top", "--once", "--interval", "1"]).contains("no volume is served"));
}

#[test]
fn top_shows_what_disks_do_and_what_was_slow() {
    let site = site();
    let served = exports(&site, Policy { slow: Duration::from_nanos(1), ..Policy::default() });
    let (first, _second) = (served.open("disk-1").unwrap(), served.open("disk-2").unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let load = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut buf = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                first.write(&[IoSlice::new(&[7; 4096])], 8192, false).unwrap();
                first.read(&mut [IoSliceMut::new(&mut buf)], 8192).unwrap();
                first.flush().unwrap();
                first.discard(0, 4096).unwrap();
            }
        }
    });
    let shown: Value = site.json(&["top", "--once", "--interval", "1"]);
    let text = site.ok(&["top", "--once", "--interval", "1"]);
    stop.store(true, Ordering::Relaxed);
    load.join().unwrap();

    let busy = &shown["disks"][0];
    assert_eq!((&busy["name"], &shown["disks"][1]["name"]), (&json!("disk-1"), &json!("disk-2")), "the busiest first");
    let kinds = busy["kinds"].as_array().unwrap();
    assert_eq!(
        kinds.iter().map(|k| k["kind"].as_str().unwrap()).collect::<Vec<_>>(),
        ["read", "write", "flush", "zero"]
    );
    for kind in kinds {
        assert!(kind["iops"].as_f64().unwrap() > 0.0 && kind["errors"] == json!(0), "{kind}");
        assert!(kind["p50"].as_u64().unwrap() <= kind["p99"].as_u64().unwrap());
        assert!(kind["p99"].as_u64().unwrap() <= kind["max"].as_u64().unwrap());
        let counted: u64 = kind["histogram"].as_array().unwrap().iter().map(|bucket| bucket[1].as_u64().unwrap()).sum();
        assert!(counted > 0);
    }
    assert!((kinds[0]["bps"].as_f64().unwrap() / kinds[0]["iops"].as_f64().unwrap() - 4096.0).abs() < 1.0);
    assert_eq!(shown["disks"][1]["kinds"][0]["iops"], json!(0.0));
    assert!(shown["slow_seen"].as_u64().unwrap() > 0 && shown["slow"][0]["volume"] == json!("disk-1"));
    assert!(text.starts_with("VOLUME") && text.contains("disk-1") && text.contains("slow requests: "), "{text}");
}

struct Served {
    site: Site,
    exports: Arc<StoreExports>,
    server: Server,
}

/// A disk whose second request has to wait for longer than any test runs.
fn limited() -> Served {
    let site = site();
    let limits = HashMap::from([("disk-1".to_string(), Limits { bps: 1, ..Limits::default() })]);
    let exports = exports(&site, Policy { limits, ..Policy::default() });
    let endpoint = Endpoint::Unix { path: site.path("nbd.sock"), mode: DEFAULT_SOCKET_MODE };
    let server = Server::start(exports.clone(), &[endpoint], ServerOptions::default()).unwrap();
    Served { site, exports, server }
}

impl Served {
    /// A client, two of whose requests are through, one that costs and a flush, and whose third waits.
    fn waiting_client(&self) -> Client {
        let mut client = Client(UnixStream::connect(self.site.path("nbd.sock")).unwrap());
        client.greet(3);
        assert_eq!(client.ask(option::GO, &go("disk-1", &[])).last().unwrap().0, reply::ACK);
        client.request(command::READ, 0, 1, 0, 65_536);
        assert_eq!(client.simple(), (0, 1));
        client.take_vec(65_536);
        // A flush is not limited, whatever is.
        client.request(command::FLUSH, 0, 2, 0, 0);
        assert_eq!(client.simple(), (0, 2));
        client.request(command::READ, 0, 3, 0, 4096);
        wait_for("a request that waits", || self.waiting() == 1);
        client
    }

    fn waiting(&self) -> u64 {
        let answer = self.site.json(&["top", "--once", "--interval", "1"]);
        answer["disks"].as_array().unwrap().iter().map(|disk| disk["waiting"].as_u64().unwrap()).sum()
    }
}

#[test]
fn requests_that_wait_are_answered_when_the_limit_goes() {
    let served = limited();
    let mut client = served.waiting_client();
    served.site.ok(&["limit", "disk-1", "--none"]);
    assert_eq!(client.simple(), (0, 3));
    client.take_vec(4096);
    drop(client);
    served.server.stop();
}

#[test]
fn a_client_that_hangs_up_waits_no_longer() {
    let served = limited();
    drop(served.waiting_client());
    wait_for("the end of the connection", || served.exports.open_exports() == 0);
    served.server.stop();
}

#[test]
fn a_server_that_stops_ends_the_waiting_and_answers() {
    let served = limited();
    let mut client = served.waiting_client();
    served.exports.end_waits();
    let stopped = served.server.stop();
    assert_eq!(stopped.cut, 0);
    assert_eq!(client.simple(), (0, 3));
}
