//! The program on a store in a Ceph cluster: `make test-ceph` says in `ARCHIPELAGO_CEPH_CONF` where that is.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs the program on a store and returns what it printed; it succeeds.
fn run(store: &str, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_archipelago"))
        .args(["--store", store])
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .args(arguments)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}: {error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A server, which is told to end when this is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn every_command_takes_a_store_in_a_pool() {
    let conf = std::env::var("ARCHIPELAGO_CEPH_CONF").expect("ARCHIPELAGO_CEPH_CONF is set, as make test-ceph does");
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let store = format!("rados:archipelago/program-{since:x}?conf={conf}");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let bytes: Vec<u8> = (0..10u32 << 20).map(|n| (n / 3000 % 251) as u8).collect();
    std::fs::write(path("image"), &bytes).unwrap();

    run(&store, &["init"]);
    run(&store, &["import", &path("image"), "image-one", "--format", "raw"]);
    run(&store, &["snapshot", "image-one", "snap-one"]);
    run(&store, &["clone", "snap-one", "clone-one", "--size", "32M"]);
    run(&store, &["create", "disk-one", "--size", "1G"]);
    let listed = run(&store, &["list", "--json"]);
    for name in ["image-one", "snap-one", "clone-one", "disk-one"] {
        assert!(listed.contains(&format!("\"{name}\"")), "{listed}");
    }
    run(&store, &["export", "snap-one", &path("copy")]);
    assert!(std::fs::read(path("copy")).unwrap() == bytes);
    assert!(run(&store, &["status"]).contains("rados:archipelago/program-"));

    let socket = path("nbd");
    let mut server = Command::new(env!("CARGO_BIN_EXE_archipelago"));
    server
        .args(["--store", &store, "serve", "--nbd", &format!("unix:{socket}")])
        .env("XDG_CONFIG_HOME", "/nonexistent");
    let server = Server(server.stdout(Stdio::null()).spawn().unwrap());
    let begun = Instant::now();
    while !Path::new(&socket).exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the server does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let uri = |name: &str| format!("nbd+unix:///{name}?socket={socket}");
    let tool = |arguments: &[&str]| {
        let status = Command::new(arguments[0]).args(&arguments[1..]).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    };
    tool(&["qemu-img", "compare", "-f", "raw", "-F", "raw", &path("image"), &uri("snap-one")]);
    tool(&["qemu-io", "-f", "raw", "-c", "write -P 7 1M 3M", "-c", "flush", &uri("clone-one")]);
    tool(&["qemu-io", "-f", "raw", "-c", "read -P 7 1M 3M", &uri("clone-one")]);
    // By the server, which has it open.
    run(&store, &["snapshot", "clone-one", "snap-two"]);
    drop(server);
    run(&store, &["remove", "image-one", "disk-one"]);
    run(&store, &["gc"]);
    run(&store, &["check"]);
}
