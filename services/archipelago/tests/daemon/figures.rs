//! What a collector reads.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use archipelago_service::nbd::wire::command;

use crate::command_line::wait_for;
use crate::exposition::parse;
use crate::server::{Server, configure, site};

const CONFIG: &str = "[serve]\nnbd = 'unix:DIR/nbd.sock'\nmetrics = 'unix:DIR/metrics.sock'\n";

#[test]
fn a_page_has_what_volumes_do_and_keeps_every_rule_of_the_format() {
    let server = Server::start(CONFIG, &[]);
    let idle = parse(&server.page());
    assert_eq!(idle.value("archipelago_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert_eq!(idle.value("archipelago_volumes_open", &[]), 0.0);
    assert_eq!(idle.value("archipelago_store_up", &[]), 1.0);
    let (free, size) =
        (idle.value("archipelago_store_free_bytes", &[]), idle.value("archipelago_store_size_bytes", &[]));
    assert!(free > 0.0 && free <= size);
    assert!(idle.value("process_resident_memory_bytes", &[]) > 0.0);

    let mut client = server.client("nbd.sock", "disk-1");
    for cookie in 0..3 {
        client.request(command::WRITE, 0, cookie, cookie * 4096, 4096);
        client.send(&[7; 4096]);
        assert_eq!(client.simple(), (0, cookie));
    }
    client.request(command::READ, 0, 9, 0, 8192);
    assert_eq!(client.simple(), (0, 9));
    client.take_vec(8192);
    // Past the end: refused before it is a request of the disk.
    client.request(command::READ, 0, 10, 1 << 40, 512);
    assert_ne!(client.simple().0, 0);
    let page = parse(&server.page());
    let of = |op| [("volume", "disk-1"), ("op", op)];
    let count = "archipelago_volume_request_duration_seconds_count";
    assert_eq!((page.value(count, &of("write")), page.value(count, &of("read"))), (3.0, 1.0));
    assert_eq!(page.value("archipelago_volume_bytes_total", &of("write")), 3.0 * 4096.0);
    assert_eq!(page.value("archipelago_volume_errors_total", &of("write")), 0.0);
    assert!(page.value("archipelago_volume_request_duration_seconds_sum", &of("write")) > 0.0);
    assert!(page.value("archipelago_volume_journal_bytes", &[("volume", "disk-1")]) >= 3.0 * 4096.0);
    assert_eq!(page.value("archipelago_connections", &[("endpoint", "nbd")]), 1.0);
    assert_eq!(
        (page.value("archipelago_volumes_open", &[]), page.value("archipelago_volumes_left_out", &[])),
        (1.0, 0.0)
    );
    drop(client);
    wait_for("the volume to be closed", || parse(&server.page()).value("archipelago_volumes_open", &[]) == 0.0);
    server.stop();
}

#[test]
fn a_page_has_what_background_jobs_do() {
    let site = site("");
    configure(&site, &format!("{CONFIG}gc_interval = 1\nhash_interval = 1\nhash_age = 0\nscrub_interval = 1\n"));
    site.ok(&["snapshot", "disk-2", "snap-2"]);
    site.ok(&["remove", "disk-1"]);
    let server = Server::start_at(site, &[], &[]);
    let runs = |job| parse(&server.page()).value("archipelago_job_runs_total", &[("job", job)]);
    for job in ["collector", "hasher", "scrubber"] {
        wait_for(job, || runs(job) > 0.0);
    }
    wait_for("success", || {
        let at = "archipelago_job_last_success_timestamp_seconds";
        let page = parse(&server.page());
        ["collector", "hasher", "scrubber"].iter().all(|job| page.value(at, &[("job", job)]) > 1.7e9)
    });
    let page = parse(&server.page());
    assert!(page.value("archipelago_collected_objects_total", &[]) > 0.0);
    assert_eq!(page.value("archipelago_hashed_snapshots_total", &[]), 1.0);
    assert_eq!(page.value("archipelago_scrub_damaged_bytes", &[]), 0.0);
    assert_eq!(page.value("archipelago_job_failures_total", &[("job", "collector")]), 0.0);
    server.stop();
}

#[test]
fn s55_figures_are_off_unless_asked_for_and_their_socket_is_for_its_owner() {
    let server = Server::start("[serve]\nnbd = 'unix:DIR/nbd.sock'\n", &[]);
    assert!(!server.site.path("metrics.sock").exists());
    server.stop();
    let server = Server::start(CONFIG, &[]);
    let mode = std::fs::metadata(server.site.path("metrics.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let site = server.site.path("metrics.sock");
    server.stop();
    assert!(!site.exists());
    let output = crate::server::site("[serve]\nnbd = 'unix:DIR/nbd.sock'\nmetrics = '0.0.0.0:9'\n");
    let file = output.text("a.toml");
    let output = output.run(&["serve", "--config", &file]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--metrics-allow-remote"));
}

#[test]
fn s25_clients_that_say_nothing_do_not_keep_a_server_from_stopping() {
    let server = Server::start(CONFIG, &[]);
    let mut silent: Vec<UnixStream> =
        (0..8).map(|_| UnixStream::connect(server.site.path("metrics.sock")).unwrap()).collect();
    silent[0].write_all(b"GET /met").unwrap();
    server.stop();
    // Each was closed: none is left waiting.
    for stream in &mut silent {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
}
