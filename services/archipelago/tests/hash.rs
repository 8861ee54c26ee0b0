//! `archipelago hash` as scripts see it.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use archipelago_core::Digest;
use archipelago_core::merkle::TopHash;
use nix::libc;
use serde_json::Value;
use tempfile::TempDir;

const MIB: usize = 1 << 20;

struct Site(TempDir);

impl Site {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archipelago"));
        let store = format!("file:{}", self.0.path().join("store").display());
        command.args(args).args(["--store", &store]).env("XDG_CONFIG_HOME", self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A store with a snapshot of these bytes.
fn site(data: &[u8]) -> Site {
    let site = Site(TempDir::new().unwrap());
    let file = site.0.path().join("image.raw");
    std::fs::write(&file, data).unwrap();
    site.ok(&["init"]);
    let file = file.display().to_string();
    site.ok(&["import", &file, "volume-1", "--format", "raw", "--snapshot", "snapshot-1"]);
    site
}

fn data(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn top_hash(data: &[u8]) -> String {
    let mut top = TopHash::default();
    data.chunks(4 * MIB).for_each(|block| top.push(Digest::of(block).0));
    top.finish().to_string()
}

#[test]
fn hash_prints_the_top_hash_and_finds_everything_known_the_second_time() {
    let mut bytes = data(14 * MIB);
    bytes[4 * MIB..8 * MIB].fill(0);
    let site = site(&bytes);
    let expected = top_hash(&bytes);
    assert_eq!(site.ok(&["hash", "snapshot-1"]), format!("{expected}  snapshot-1\n"));
    let document: Value = serde_json::from_str(&site.ok(&["hash", "snapshot-1", "--json"])).unwrap();
    assert_eq!(document["name"], "snapshot-1");
    assert_eq!(document["top_hash"], expected);
    for (field, value) in [("blocks", 4), ("total", 4), ("known", 3), ("hashed", 0), ("composed", 0), ("duplicates", 0)]
    {
        assert_eq!(document[field], value, "{field}");
    }
    let refused = site.run(&["hash", "volume-1", "--json"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(site.run(&["hash", "snapshot-2"]).status.code(), Some(3));
}

#[test]
fn a_signal_stops_hashing_and_the_next_run_goes_on() {
    let bytes = data(32 * MIB);
    let site = site(&bytes);
    // The first block alone takes it four seconds at this rate, so it is under way when the signal comes.
    let mut child = site
        .command(&["hash", "snapshot-1", "--rate", "1M"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let counters = format!("/proc/{}/io", child.id());
    let begun = || {
        let counters = std::fs::read_to_string(&counters).unwrap_or_default();
        let read = counters.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<usize>().ok());
        read.is_some_and(|read| read >= 4 * MIB)
    };
    while !begun() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its time");
        std::thread::sleep(Duration::from_millis(10));
    }
    // SAFETY: the process is our child and was not waited for.
    #[allow(unsafe_code)]
    let sent = unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(sent, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty());
    let document: Value = serde_json::from_str(&site.ok(&["hash", "snapshot-1", "--json"])).unwrap();
    assert_eq!(document["top_hash"], top_hash(&bytes));
    let (known, hashed) = (document["known"].as_u64().unwrap(), document["hashed"].as_u64().unwrap());
    assert!(known >= 1, "what was hashed before the signal is known");
    assert_eq!(hashed, (8 - known) * 4 * MIB as u64);
}
