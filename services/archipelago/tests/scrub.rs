//! `archipelago scrub` and `check --data` as scripts see them, and the scrubber of `serve`.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::libc;
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

struct Site(TempDir);

impl Site {
    /// A store with a snapshot of 14 MiB of data, closed.
    fn new() -> Site {
        let site = Site(TempDir::new().unwrap());
        let file = site.0.path().join("image.raw");
        let data: Vec<u8> = (0..14 * MIB).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        std::fs::write(&file, data).unwrap();
        site.ok(&["init"]);
        let file = file.display().to_string();
        site.ok(&["import", &file, "volume-1", "--format", "raw", "--snapshot", "snapshot-1"]);
        site
    }

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

    fn json(&self, args: &[&str], code: i32) -> Value {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The one file below `data` whose name begins so.
    fn file(&self, prefix: &str) -> Option<PathBuf> {
        let dirs = std::fs::read_dir(self.0.path().join("store/data")).unwrap().flatten();
        let mut files = dirs.flat_map(|dir| std::fs::read_dir(dir.path()).unwrap().flatten());
        files.find(|file| file.file_name().to_string_lossy().starts_with(prefix)).map(|file| file.path())
    }

    fn flip(&self, at: u64) {
        let file = std::fs::File::options().read(true).write(true).open(self.file("data.").unwrap()).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
}

#[test]
fn a_scrub_makes_checksums_and_finds_what_was_altered_since_and_so_does_check() {
    let site = Site::new();
    let made = site.json(&["scrub", "--json"], 0);
    assert_eq!((&made["made"], &made["verified"], &made["live"]), (&(14 * MIB).into(), &0.into(), &0.into()));
    assert_eq!(site.json(&["scrub", "--json"], 0)["verified"], 14 * MIB);
    let check = site.json(&["check", "--data", "--json"], 0);
    assert_eq!((&check["result"], &check["data"]["verified"]), (&"clean".into(), &(14 * MIB).into()));
    assert_eq!(site.json(&["check", "--json"], 0)["data"], Value::Null);
    let status = site.json(&["status", "--json"], 0);
    assert_eq!(status["kinds"]["sums"]["objects"], 1);

    site.flip(5 * MIB + 4097);
    for args in [&["scrub", "--json"][..], &["check", "--data", "--rate", "1G", "--json"]] {
        let found = site.json(args, 7);
        let finding = &found["findings"][0];
        assert_eq!((&finding["kind"], &finding["severity"]), (&"altered".into(), &"damage".into()));
        for affected in finding["affected"].as_array().unwrap() {
            assert_eq!(affected["ranges"], serde_json::json!([{ "offset": 5 * MIB + 4096, "len": 4096 }]));
        }
        assert_eq!(finding["affected"].as_array().unwrap().len(), 2);
    }
    let out = site.0.path().join("out.raw").display().to_string();
    let refused = site.run(&["export", "snapshot-1", &out]);
    assert_eq!(refused.status.code(), Some(7));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("bytes 5246976 to 5251072 of snapshot-1 are not what was written"), "{text}");
    assert_eq!(site.run(&["check", "--rate", "1M"]).status.code(), Some(2), "a rate without data");
}

#[test]
fn serve_scrubs_by_itself_and_status_tells_what_it_found() {
    let site = Site::new();
    site.ok(&["scrub"]);
    site.flip(9);
    let config = site.0.path().join("archipelago.toml");
    std::fs::write(&config, "[serve]\nscrub_interval = 1\nscrub_rate = '1G'\n").unwrap();
    let socket = format!("unix:{}", site.0.path().join("nbd").display());
    let config = config.display().to_string();
    let mut server = site
        .command(&["serve", "--nbd", &socket, "--config", &config])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    let line = log.find(|line| line.contains("DAMAGE")).unwrap();
    assert!(line.contains("bytes 0 to 4096") && line.contains("snapshot-1"), "{line}");
    // Noted before it was logged.
    let status = site.json(&["status", "--json"], 0);
    let troubles = status["processes"].as_array().unwrap().iter().filter_map(|p| p["trouble"].as_str());
    assert!(troubles.into_iter().any(|text| text.contains("check --data")), "{status}");
    assert!(site.ok(&["status"]).contains("a scrub found data that is not what was written"));
    // SAFETY: the process is our child and was not waited for.
    #[allow(unsafe_code)]
    let sent = unsafe { libc::kill(server.id() as i32, libc::SIGTERM) };
    assert_eq!(sent, 0);
    while log.next().is_some() {}
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_signal_stops_a_scrub_and_what_it_made_stays() {
    let site = Site::new();
    // The first page alone takes it three seconds at this rate.
    let mut child =
        site.command(&["scrub", "--rate", "1M"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while site.file("sum.").is_none() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its time");
        std::thread::sleep(Duration::from_millis(10));
    }
    // SAFETY: the process is our child and was not waited for.
    #[allow(unsafe_code)]
    let sent = unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(sent, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let next = site.json(&["scrub", "--json"], 0);
    let (made, verified) = (next["made"].as_u64().unwrap(), next["verified"].as_u64().unwrap());
    assert!(made > 0 && verified > 0 && made + verified == 14 * MIB, "{next}");
}
