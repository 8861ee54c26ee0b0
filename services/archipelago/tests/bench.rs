//! `bench`: what it writes, what it notices when it reads, what it leaves alone, and what it reports.

#![allow(clippy::unwrap_used)] // Here a failed unwrap is a failed test.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use archipelago_core::Mode;
use serde_json::{Value, json};

#[path = "support/command.rs"]
mod command_line;

use command_line::Site;

/// Runs `bench` with these words.
fn words(text: &str) -> Vec<&str> {
    std::iter::once("bench").chain(text.split_whitespace()).collect()
}

#[track_caller]
fn measure(site: &Site, text: &str) -> Value {
    site.json(&words(text))
}

/// The exit code, the report if there is one, and what went to standard error.
fn fails(site: &Site, text: &str) -> (i32, Value, String) {
    let output = site.run(&[&words(text)[..], &["--json"]].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), report, String::from_utf8(output.stderr).unwrap())
}

fn signal(child: &Child, number: i32) {
    // SAFETY: no memory is touched; the child was not waited for, so that its number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, number) }, 0);
}

/// Flips a bit of a volume.
fn plant(site: &Site, volume: &str, at: u64) {
    let volume = site.open().open_volume(volume, Mode::ReadWrite).unwrap();
    let mut byte = [0];
    volume.read_at(&mut byte, at).unwrap();
    volume.write_at(&[byte[0] ^ 4], at).unwrap();
    volume.close().unwrap();
}

#[test]
fn what_was_written_is_found_again_in_any_order_and_at_any_depth() {
    let site = Site::new();
    for (verify, seed) in [("meta", 1), ("full", 2)] {
        let common = format!("--to 3 --os 256K --seed {seed} --verify {verify}");
        let written = measure(&site, &format!("--op write {common} --pattern rand --iodepth 32"));
        assert_eq!(
            (&written["submitted"], &written["received"], &written["failed"]),
            (&json!(192), &json!(192), &json!(0))
        );
        assert_eq!((&written["end"], &written["kinds"][0]["bytes"]), (&json!("all"), &json!(3 << 18)));
        for how in ["--pattern seq", "--pattern rand", "--pattern rand --iodepth 32", "--iodepth 7"] {
            let read = measure(&site, &format!("--op read {common} {how}"));
            assert_eq!((&read["received"], &read["corrupted"]), (&json!(192), &json!(0)), "{how}");
        }
        // Another seed has other names, so other content is read from the same volumes by its name.
        let name = format!("bench-{seed:09}-{:015}", 0);
        let (code, report, _) = fails(&site, &format!("--op read --objname {name} --seed 99 --verify {verify}"));
        assert_eq!((code, &report["corrupted"]), (7, &json!(64)));
    }
    // With `full` other requests read the same.
    let read = measure(&site, "--op read --to 3 --os 256K --seed 2 --verify full --bs 512 --pattern rand");
    assert_eq!((&read["received"], &read["corrupted"]), (&json!(1536), &json!(0)));
}

#[test]
fn planted_corruption_is_caught_and_named() {
    let site = Site::new();
    let common = "--to 2 --os 256K --seed 7 --pattern rand --iodepth 16";
    measure(&site, &format!("--op write {common} --verify full"));
    let name = format!("bench-000000007-{:015}", 1);
    plant(&site, &name, 100_001);
    let (code, report, _) = fails(&site, &format!("--op read {common} --verify full"));
    assert_eq!((code, &report["corrupted"], &report["received"]), (7, &json!(1), &json!(128)));
    assert_eq!(report["wrong"], json!([{"object": name, "offset": 100_001}]));
    // Nobody looks unless asked to.
    assert_eq!(measure(&site, &format!("--op read {common}"))["corrupted"], Value::Null);
}

#[test]
fn signatures_are_looked_for_at_both_ends_of_each_request() {
    let site = Site::new();
    let common = "--objname volume --os 256K --seed 7 --verify meta";
    measure(&site, &format!("--op write {common}"));
    plant(&site, "volume", 4096 + 100);
    assert_eq!(measure(&site, &format!("--op read {common}"))["corrupted"], json!(0));
    plant(&site, "volume", 8191);
    let (code, report, _) = fails(&site, &format!("--op read {common}"));
    assert_eq!((code, &report["wrong"]), (7, &json!([{"object": "volume", "offset": 8191}])));
}

#[test]
fn data_is_written_over_only_where_that_was_said() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "1M"]);
    measure(&site, "--op write --objname volume --seed 1 --verify full");
    for op in ["write", "mixed"] {
        let (code, report, error) = fails(&site, &format!("--op {op} --objname volume --seed 2"));
        assert_eq!((code, report), (4, Value::Null));
        assert!(error.contains("--overwrite"), "{error}");
    }
    assert_eq!(measure(&site, "--op read --objname volume --seed 1 --verify full")["corrupted"], json!(0));
    measure(&site, "--op write --objname volume --seed 2 --verify full --overwrite");
    assert_eq!(measure(&site, "--op read --objname volume --seed 2 --verify full")["corrupted"], json!(0));
    // The volumes of an earlier run have data as well.
    measure(&site, "--op write --to 2 --os 64K --seed 3");
    assert_eq!(fails(&site, "--op write --to 2 --os 64K --seed 3").0, 4);
    // A snapshot can be read, and never written.
    site.ok(&["snapshot", "volume", "monday"]);
    assert_eq!(measure(&site, "--op read --objname monday --seed 2 --verify full")["corrupted"], json!(0));
    assert_eq!(fails(&site, "--op write --objname monday --overwrite").0, 6);
    assert_eq!(fails(&site, "--op read --objname nothing").0, 3);
}

#[test]
fn mixed_requests_read_what_is_there_and_write_the_same() {
    let site = Site::new();
    let common = "--objname volume --seed 5 --verify full --pattern rand --iodepth 8";
    measure(&site, &format!("--op write --os 1M {common}"));
    let mixed = measure(&site, &format!("--op mixed --reads 70 --overwrite {common}"));
    let kinds = mixed["kinds"].as_array().unwrap();
    assert_eq!(kinds.iter().map(|kind| kind["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["read", "write"]);
    assert_eq!((&mixed["received"], &mixed["corrupted"]), (&json!(256), &json!(0)));
    assert!(kinds[0]["received"].as_u64() > kinds[1]["received"].as_u64());
    assert_eq!(measure(&site, &format!("--op read {common}"))["corrupted"], json!(0));
}

#[test]
fn info_and_delete_ask_for_each_volume_once() {
    let site = Site::new();
    measure(&site, "--op write --to 5 --os 64K --seed 1 --prefix disks");
    let info = measure(&site, "--op info --to 5 --seed 1 --prefix disks --pattern rand");
    assert_eq!((&info["received"], &info["failed"], &info["object_size"]), (&json!(5), &json!(0), &Value::Null));
    // One that is not there is a failed request, and the others are asked all the same.
    let (code, report, error) = fails(&site, "--op info --to 6 --seed 1 --prefix disks");
    assert_eq!((code, &report["received"], &report["failed"]), (3, &json!(6), &json!(1)));
    assert!(error.contains("disks-000000001-000000000000005"), "{error}");
    site.ok(&["create", "volume", "--size", "1M"]);
    assert_eq!(measure(&site, "--op delete --to 5 --seed 1 --prefix disks")["failed"], json!(0));
    assert_eq!(site.ok(&["list"]).matches("disks-").count(), 0);
    assert_eq!(fails(&site, "--op delete --objname volume").0, 4);
    assert!(site.ok(&["list"]).contains("volume"));
    measure(&site, "--op delete --objname volume --overwrite");
    assert!(!site.ok(&["list"]).contains("volume"));
}

#[test]
fn a_time_goes_over_and_over_and_percentiles_are_in_order() {
    let site = Site::new();
    measure(&site, "--op write --objname volume --os 64K --seed 1 --verify full");
    let read = measure(&site, "--op read --objname volume --seed 1 --verify full --runtime 1 --insanity paranoid");
    assert_eq!((&read["end"], &read["total"], &read["corrupted"]), (&json!("time"), &Value::Null, &json!(0)));
    assert!(read["received"].as_u64().unwrap() > 16, "more than one pass");
    assert!(read["seconds"].as_f64().unwrap() >= 1.0);
    let latency = &read["kinds"][0]["latency"];
    let times: Vec<u64> = ["p50", "p99", "p99_9", "max"].iter().map(|part| latency[part].as_u64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] > 0, "{latency}");
    assert!(read["stages"].as_object().unwrap().values().all(|nanos| nanos.as_u64().is_some()), "{read}");
    assert!(read["cpu"]["per_request"].as_u64().unwrap() > 0);
    let sane = measure(&site, "--op read --objname volume --insanity sane");
    assert_eq!((&sane["kinds"][0]["latency"], &sane["stages"]["receive"]), (&Value::Null, &Value::Null));
}

#[test]
fn an_export_is_measured_and_verified() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "8M"]);
    let socket = site.text("socket");
    let serve = ["serve", "--nbd", &format!("unix:{socket}")];
    let mut server = site.command(&serve).stdout(Stdio::null()).spawn().unwrap();
    let uri = format!("nbd+unix:///volume?socket={socket}");
    // The ping waits until it listens.
    let common = "--seed 1 --verify full --pattern rand --ping yes --os 4M";
    assert_eq!(fails(&site, &format!("{uri} --op write {common}")).0, 4);
    for (how, requests) in [("--bs 4K --iodepth 32", 1024), ("--bs 1M --iodepth 4", 4), ("--bs 4K", 1024)] {
        let written = measure(&site, &format!("{uri} --op write {common} {how} --overwrite"));
        assert_eq!((&written["received"], &written["failed"]), (&json!(requests), &json!(0)), "{how}");
        let mixed = measure(&site, &format!("{uri} --op mixed {common} {how} --overwrite"));
        assert_eq!((&mixed["received"], &mixed["corrupted"]), (&json!(requests), &json!(0)), "{how}");
        let read = measure(&site, &format!("{uri} --op read {common} {how}"));
        assert_eq!((&read["received"], &read["corrupted"]), (&json!(requests), &json!(0)), "{how}");
        assert!(read["cpu"]["server_seconds"].as_f64().unwrap() > 0.0);
    }
    // What was not written is not what would have been.
    let (code, report, _) = fails(&site, &format!("{uri} --op read --seed 1 --verify full --bs 64K --iodepth 8"));
    assert_eq!((code, &report["corrupted"], &report["received"]), (7, &json!(64), &json!(128)));
    assert_eq!(fails(&site, &format!("nbd+unix:///nobody?socket={socket} --op read")).0, 3);
    // A server that ends leaves the report of what was done.
    let mut bench =
        site.command(&words(&format!("{uri} --op read --runtime 600 --progress yes --pinterval 100 --json")));
    let mut bench = bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(bench.stderr.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    signal(&server, libc::SIGTERM);
    server.wait().unwrap();
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    let output = bench.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["end"]), (Some(7), &json!("broken")), "{rest:?}");
    assert!(report["received"].as_u64().unwrap() >= 100);
}

#[test]
fn an_export_over_tcp_is_measured() {
    let site = Site::new();
    measure(&site, "--op write --objname volume --os 1M --seed 1 --verify full");
    let mut server = site.command(&["serve", "--nbd", "tcp:127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut uri = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut uri).unwrap();
    let uri = uri.trim().replace("NAME", "volume");
    assert!(uri.starts_with("nbd://127.0.0.1:"), "{uri}");
    let read = measure(&site, &format!("{uri} --op read --seed 1 --verify full --iodepth 32"));
    assert_eq!((&read["received"], &read["corrupted"]), (&json!(256), &json!(0)));
    assert_eq!(read["cpu"]["server_seconds"], Value::Null);
    signal(&server, libc::SIGTERM);
    server.wait().unwrap();
}

#[test]
fn files_are_measured_and_verified_and_left_alone() {
    let site = Site::new();
    let path = site.text("file");
    let file = File::create(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    let common = format!("{path} --seed 1 --verify full --pattern rand");
    // A hole has nothing to lose.
    let written = measure(&site, &format!("--op write {common} --iodepth 8"));
    assert_eq!((&written["received"], &written["failed"], &written["copies"]), (&json!(256), &json!(0), &json!(1)));
    assert!(written["flush_seconds"].is_f64());
    assert_eq!(fails(&site, &format!("--op write {common}")).0, 4);
    for how in ["", "--iodepth 8", "--bs 64K --iodepth 3"] {
        assert_eq!(measure(&site, &format!("--op read {common} {how}"))["corrupted"], json!(0), "{how}");
    }
    measure(&site, &format!("--op write {common} --overwrite"));
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 77_777).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 77_777).unwrap();
    for how in ["", "--iodepth 8"] {
        let (code, report, _) = fails(&site, &format!("--op read {common} {how}"));
        assert_eq!((code, &report["wrong"]), (7, &json!([{"object": "the target", "offset": 77_777}])), "{how}");
    }
    // The file ends inside what was to be read.
    let (code, _, error) = fails(&site, &format!("--op read {path} --os 2M"));
    assert_eq!(code, 2, "{error}");
    assert_eq!(fails(&site, &format!("--op read {}", site.text("nothing"))).0, 3);
    assert_eq!(fails(&site, "--op read /dev/null").0, 2);
}

#[test]
fn a_signal_ends_it_with_the_report_of_what_was_done() {
    let site = Site::new();
    measure(&site, "--op write --objname volume --os 64K");
    let mut command: Command =
        site.command(&words("--op read --objname volume --runtime 600 --progress yes --pinterval 100"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("requests") && line.contains("IOPS"), "{line}");
    signal(&child, libc::SIGINT);
    lines.for_each(drop);
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    for word in ["Requests:", "Total time:", "Avg. latency:", "Bandwidth:", "IOPS:", "Processor time:"] {
        assert!(out.contains(word), "{word}: {out}");
    }
}

#[test]
fn the_spellings_of_the_original_are_understood() {
    let site = Site::new();
    let text = site.ok(&words("-op write --pattern rand -to 2 -os 64k -bs 4k --iodepth 4 --seed 123456789 --verify meta --progress no --insanity manic"));
    for word in [
        "32 submitted, 32 received, 0 failed",
        "All requests have been served.",
        "s. ",
        "B/s",
        "Stages:",
        "seed 123456789",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let text = site.ok(&words("-op read --pattern seq -ts 64k -os 64k --seed 123456789 --verify meta"));
    assert!(text.contains("16 received") && text.contains("Corrupted:            0"), "{text}");
    assert!(site.ok(&["list"]).contains("bench-123456789-000000000000001"));
    for bad in
        ["-op read -to 1 -ts 4k", "-op read -to 1 --objname a --prefix b", "-op fly -to 1", "--pattern seq -to 1"]
    {
        assert_eq!(site.run(&words(bad)).status.code(), Some(2), "{bad}");
    }
}

#[test]
fn man_pages_and_completions_have_the_command_and_its_options() {
    let site = Site::new();
    site.ok(&["man", &site.text("man")]);
    let page = fs::read_to_string(site.path("man").join("archipelago-bench.1")).unwrap().replace('\\', "");
    let completions = site.ok(&["completions", "bash"]);
    for option in ["--op", "--pattern", "--iodepth", "--verify", "--insanity", "--runtime", "--overwrite"] {
        assert!(page.contains(option), "{option}: {page}");
        assert!(completions.contains(option), "{option}");
    }
}
