//! fio writes, trims and verifies, while the command takes snapshots, resizes and renames.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::site::{MIB, Site, outcome, sha256, tool};

const SIZE: u64 = 64 * MIB;

/// The arguments of a job of mixed sizes, most of them no multiple of 4 KiB; it covers its whole range.
fn job(site: &Site, volume: &str, extra: &[&str]) -> Vec<String> {
    let uri = format!("--uri={}", site.uri(volume));
    let common = ["--name=job", "--ioengine=nbd", &uri, "--bsrange=512-256k", "--bs_unaligned", "--iodepth=16"];
    let verify = ["--verify=crc32c", "--verify_fatal=1", "--randseed=77"];
    common.iter().chain(&verify).chain(extra).map(|s| s.to_string()).collect()
}

fn fio(arguments: &[String]) -> (bool, String) {
    outcome("fio", "fio", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[track_caller]
fn fio_ok(arguments: &[String]) -> String {
    let (success, text) = fio(arguments);
    assert!(success && text.contains("err= 0"), "fio {arguments:?}: {text}");
    text
}

/// Starts fio, and leaves it running.
pub fn start_fio(site: &Site, volume: &str, extra: &[&str]) -> Child {
    assert!(outcome("fio", "fio", &["--version"]).0);
    let arguments = job(site, volume, extra);
    Command::new("fio").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// A store with a fresh volume, and with a clone of an image without any zeros.
fn site() -> Site {
    let site = Site::new();
    let image: Vec<u8> =
        (0..SIZE / 8).flat_map(|i| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    std::fs::write(site.path("image"), image).unwrap();
    site.ok(&["import", &site.text("image"), "imported", "--format", "raw", "--snapshot", "golden"]);
    site.ok(&["clone", "golden", "cloned"]);
    site.ok(&["create", "fresh1", "--size", "64M"]);
    site
}

#[test]
fn fio_verifies_what_it_wrote_while_snapshots_are_taken_which_never_change() {
    let site = site();
    let mut server = site.serve();
    let golden = sha256(&site.uri("golden"));
    let mut sums: Vec<(String, String)> = Vec::new();
    for volume in ["fresh1", "cloned"] {
        // Slow enough that all snapshots fall into it.
        let mut running = start_fio(&site, volume, &["--rw=randwrite", "--size=64M", "--do_verify=0", "--rate=16m"]);
        for number in 0..3 {
            thread::sleep(Duration::from_millis(700));
            let name = format!("snap-{volume}-{number}");
            site.ok(&["snapshot", volume, &name]);
            let sum = sha256(&site.uri(&name));
            assert!(sums.iter().all(|(_, other)| *other != sum), "{name} was taken while fio wrote");
            sums.push((name, sum));
        }
        assert!(running.try_wait().unwrap().is_none(), "fio was still writing when the last snapshot was taken");
        assert!(running.wait().unwrap().success());

        let verify = job(&site, volume, &["--rw=randwrite", "--size=64M", "--verify_only"]);
        let text = fio_ok(&verify);
        assert!(text.contains("read:"), "it really reads: {text}");
        // And it would have seen a single wrong byte.
        let mut client = site.connect(volume).unwrap();
        let byte = client.read(20 * MIB + 12_345, 1);
        client.write(20 * MIB + 12_345, &[!byte[0]]);
        let (success, text) = fio(&verify);
        assert!(!success, "a corrupted volume passed: {text}");
        client.write(20 * MIB + 12_345, &byte);
        fio_ok(&verify);
    }
    assert_eq!(sha256(&site.uri("golden")), golden);
    for (name, sum) in &sums {
        assert_eq!(sha256(&site.uri(name)), *sum, "{name}");
    }
    assert_eq!(server.stop(), 0, "{}", site.log());
    let mut server = site.serve();
    for (name, sum) in &sums {
        assert_eq!(sha256(&site.uri(name)), *sum, "{name} after a restart");
    }
    assert_eq!(server.stop(), 0, "{}", site.log());
}

/// TMPDIR has to be on a disk.
#[test]
fn fio_verifies_past_the_page_cache_what_it_wrote_with_requests_under_way_together() {
    let site = site();
    let mut server = site.serve_with(&["--direct"]);
    let golden = sha256(&site.uri("golden"));
    for volume in ["fresh1", "cloned"] {
        fio_ok(&job(&site, volume, &["--rw=randwrite", "--size=64M", "--do_verify=1"]));
        // All is in place now: whole pages are under way together, and what else there is between them.
        let uri = format!("--uri={}", site.uri(volume));
        let common = [
            "--name=pages",
            "--ioengine=nbd",
            &uri,
            "--iodepth=32",
            "--size=64M",
            "--verify=crc32c",
            "--verify_fatal=1",
        ];
        let mixed = [
            "--rw=randrw",
            "--bssplit=4k/90:512/5:12k/5",
            "--ba=512",
            "--fsync=64",
            "--verify_backlog=64",
            "--randseed=5",
        ];
        let text = fio_ok(&common.iter().chain(&mixed).map(|s| s.to_string()).collect::<Vec<_>>());
        assert!(text.contains("read:") && text.contains("write:"), "{text}");
    }
    assert_eq!(sha256(&site.uri("golden")), golden);
    let sums = ["fresh1", "cloned"].map(|volume| sha256(&site.uri(volume)));
    assert_eq!(server.stop(), 0, "{}", site.log());
    let mut server = site.serve();
    assert_eq!(["fresh1", "cloned"].map(|volume| sha256(&site.uri(volume))), sums, "by the page cache");
    assert_eq!(server.stop(), 0, "{}", site.log());
}

#[test]
fn fio_verifies_around_trims_and_trimmed_ranges_are_zero() {
    let site = site();
    let mut server = site.serve();
    for volume in ["fresh1", "cloned"] {
        // Each block is trimmed and then written.
        fio_ok(&job(&site, volume, &["--rw=randtrimwrite", "--size=64M", "--do_verify=1"]));
        // Two halves are written, and one of them is trimmed.
        let left = |extra| job(&site, volume, &["--rw=randwrite", "--offset=0", "--size=32M", extra]);
        let right = |extra| job(&site, volume, &["--rw=randwrite", "--offset=32M", "--size=32M", extra]);
        fio_ok(&left("--do_verify=0"));
        fio_ok(&right("--do_verify=0"));
        let uri = format!("--uri={}", site.uri(volume));
        let trim = ["--name=trim", "--ioengine=nbd", &uri, "--rw=randtrim", "--bs=64k", "--offset=32M", "--size=32M"];
        fio_ok(&trim.map(String::from));
        fio_ok(&left("--verify_only"));
        assert!(!fio(&right("--verify_only")).0, "what was trimmed cannot be verified");
        let found = site.connect(volume).unwrap().read(32 * MIB, 32 * MIB);
        assert!(found.iter().all(|byte| *byte == 0), "{volume}: a trimmed range is not zero");
        let map = tool("libnbd-bin", "nbdinfo", &["--map", &site.uri(volume)]);
        let last: Vec<&str> = map.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["33554432", "33554432", "3", "hole,zero"], "{map}");
    }
    tool("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", &site.text("image"), &site.uri("golden")]);
    assert_eq!(server.stop(), 0, "{}", site.log());
}

#[test]
fn a_served_volume_is_resized_and_renamed_and_neither_served_twice_nor_removed() {
    let site = site();
    let mut server = site.serve();
    // Keeps the volume open and busy through all of it.
    let mut client = site.connect("fresh1").unwrap();
    client.write(0, b"first");
    let size = |volume: &str| tool("libnbd-bin", "nbdinfo", &["--size", &site.uri(volume)]).trim().to_string();

    site.ok(&["resize", "fresh1", "96M"]);
    assert_eq!(size("fresh1"), (96 * MIB).to_string());
    let mut wider = site.connect("fresh1").unwrap();
    wider.write(95 * MIB, b"beyond");
    assert_eq!(client.read(0, 5), b"first");

    site.ok(&["rename", "fresh1", "renamed"]);
    assert_eq!(size("renamed"), (96 * MIB).to_string());
    assert!(site.connect("fresh1").is_err_and(|text| text.contains("no such volume")));
    // One volume, not two, whatever the name was when each connection came.
    client.write(0, b"again");
    assert_eq!(site.connect("renamed").unwrap().read(0, 5), b"again");
    assert_eq!(site.connect("renamed").unwrap().read(95 * MIB, 6), b"beyond");
    assert_eq!(site.open_volumes(), ["renamed"]);

    let mut second = site.serve_at("second");
    let text = site.connect_at("second", "renamed").err().expect("a second server is refused");
    let pid = format!("pid {} on ", server.id());
    assert!(
        text.contains("renamed: open elsewhere by") && text.contains(&pid) && text.contains(", since 20"),
        "{text}"
    );
    // Snapshots can be read by both.
    let mut there = site.connect_at("second", "golden").unwrap();
    let mut here = site.connect("golden").unwrap();
    assert!(there.read(8 * MIB, MIB) == here.read(8 * MIB, MIB));
    assert_eq!(second.stop(), 0, "{}", site.log());

    let text = site.fails(5, &["remove", "renamed"]);
    assert!(text.contains(&format!("pid {}", server.id())), "{text}");
    drop((client, wider));
    site.wait_until_nothing_is_open();
    site.ok(&["remove", "renamed"]);
    assert!(site.connect("renamed").is_err());
    assert_eq!(server.stop(), 0, "{}", site.log());
}
