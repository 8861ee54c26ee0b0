//! `archipelago doctor`: each thing that can be wrong is made to be so, and is found.

#![allow(clippy::unwrap_used)] // Here a failed unwrap is a failed test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use archipelago_core::format::record::{RECORD_FILE, decode_slots, encode_slot};
use archipelago_core::format::superblock::Superblock;

use archipelago_service::doctor::{Findings, store};
use serde_json::Value;

#[path = "support/command.rs"]
mod command;

use command::Site;

/// What was found: exit code, and the document.
struct Diagnosis {
    code: i32,
    document: Value,
}

impl Diagnosis {
    fn of(mut command: Command) -> Diagnosis {
        let output = command.output().unwrap();
        let document = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        Diagnosis { code: output.status.code().unwrap(), document }
    }

    fn all(&self) -> &Vec<Value> {
        self.document["findings"].as_array().unwrap()
    }

    /// The findings of a topic: severity and text.
    fn topic(&self, topic: &str) -> Vec<(String, String)> {
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_string();
        self.all().iter().filter(|f| f["topic"] == topic).map(|f| (text(f, "severity"), text(f, "what"))).collect()
    }

    #[track_caller]
    fn has(&self, severity: &str, topic: &str, words: &str) {
        let found = self.topic(topic);
        assert!(found.iter().any(|(s, what)| s == severity && what.contains(words)), "{topic}: {:#}", self.document);
        assert!(self.all().iter().all(|f| !f["advice"].as_str().unwrap().is_empty()));
        match severity {
            "error" => assert_eq!((self.code, &self.document["result"]), (12, &"error".into())),
            "warning" => assert!(matches!(self.code, 11 | 12), "{}", self.code),
            _ => {}
        }
    }

    #[track_caller]
    fn lacks(&self, topic: &str) {
        assert_eq!(self.topic(topic), [], "{:#}", self.document);
    }
}

fn doctor(site: &Site, args: &[&str]) -> Diagnosis {
    Diagnosis::of(site.command(&[&["doctor", "--json"], args].concat()))
}

/// The same through a shell, which sets something before.
fn doctor_after(site: &Site, shell: &str) -> Diagnosis {
    let mut command = Command::new("sh");
    let script = format!("{shell}; exec {} doctor --json", env!("CARGO_BIN_EXE_archipelago"));
    command.args(["-c", &script]).env("ARCHIPELAGO_STORE", site.location()).env("XDG_CONFIG_HOME", site.path("xdg"));
    Diagnosis::of(command)
}

fn configured(site: &Site, text: &str) -> Diagnosis {
    let path = site.path("a.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    doctor(site, &["--config", path.to_str().unwrap()])
}

#[test]
fn a_store_that_is_well_has_no_findings_of_its_own() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "1M"]);
    let well = doctor_after(&site, "ulimit -n 8192");
    for topic in [
        "store",
        "permissions",
        "process",
        "trouble",
        "damage",
        "lost",
        "clock",
        "configuration",
        "socket",
        "pid-file",
        "nofile",
        "sync",
    ] {
        well.lacks(topic);
    }
    assert_eq!(well.document["location"], site.location());
    let worst = well.all().iter().map(|finding| finding["severity"].as_str().unwrap()).next();
    let expected = match worst {
        Some("error") => 12,
        Some("warning") => 11,
        _ => 0,
    };
    assert_eq!(well.code, expected, "the worst comes first: {:#}", well.document);
    // For people.
    let output = site.run(&["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("nothing is wrong") || text.contains("WARNING") || text.contains("ERROR"), "{text}");
}

#[test]
fn a_store_that_is_not_there_or_no_store_is_an_error() {
    let site = Site::new();
    doctor(&site, &["--store", "file:/nonexistent/store"]).has("error", "store", "is not there");
    fs::create_dir(site.path("empty")).unwrap();
    doctor(&site, &["--store", &format!("file:{}", site.text("empty"))]).has("error", "store", "no store here");
    let mut unnamed = site.command(&["doctor", "--json"]);
    unnamed.env_remove("ARCHIPELAGO_STORE");
    Diagnosis::of(unnamed).has("error", "store", "no store is named");
}

#[test]
fn a_store_of_a_later_version_is_an_error_that_says_so() {
    let site = Site::new();
    let path = site.path("store/archipelago.store");
    let slots = decode_slots("store", &fs::read(&path).unwrap()).unwrap();
    let superblock = Superblock { incompat: 1 << 40, ..Superblock::decode("store", &slots.payload).unwrap() };
    let mut bytes = encode_slot(slots.id, slots.version, &superblock.encode()).unwrap();
    bytes.resize(RECORD_FILE as usize, 0);
    fs::write(&path, bytes).unwrap();
    doctor(&site, &[]).has("error", "store", "needs a newer archipelago");
}

#[test]
fn damage_and_what_a_repair_set_aside_are_found() {
    let site = Site::new();
    for name in ["volume", "broken"] {
        site.ok(&["create", name, "--size", "1M"]);
    }
    let id = site.json(&["info", "broken"])["id"].as_str().unwrap().to_string();
    let header = fs::File::options().write(true).open(site.path(&format!("store/catalog/h.{id}"))).unwrap();
    header.write_all_at(&[0xee; 64], 60).unwrap();
    doctor(&site, &[]).has("error", "damage", "broken");
    assert_eq!(site.run(&["check", "--repair"]).status.code(), Some(9));
    let after = doctor(&site, &[]);
    after.lacks("damage");
    after.has("warning", "lost", "lost/");
}

#[test]
fn a_process_that_was_stopped_and_one_in_trouble_are_found() {
    let site = Site::new();
    let socket = format!("unix:{}", site.text("nbd.sock"));
    let mut server = site.command(&["serve", "--nbd", &socket]).stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(server.stdout.take().unwrap());
    assert!(out.lines().any(|line| line.unwrap() == "ready"));
    let signal =
        |name: &str| assert!(Command::new("kill").args([name, &server.id().to_string()]).status().unwrap().success());
    doctor(&site, &[]).lacks("process");
    signal("-STOP");
    doctor(&site, &[]).has("warning", "process", &format!("pid {}", server.id()));
    signal("-CONT");
    signal("-TERM");
    assert_eq!(server.wait().unwrap().code(), Some(0));

    let store = site.open();
    store.report_trouble("scrubber", Some("a disk has a scratch".into()));
    doctor(&site, &[]).has("warning", "trouble", "scratch");
}

#[test]
fn a_socket_nobody_listens_on_and_a_pid_file_of_the_dead_are_found() {
    let site = Site::new();
    drop(UnixListener::bind(site.path("dead.sock")).unwrap());
    let _live = UnixListener::bind(site.path("live.sock")).unwrap();
    fs::write(site.path("a.pid"), "4194304999\n").unwrap();
    let (dead, live, pid) = (site.text("dead.sock"), site.text("live.sock"), site.text("a.pid"));
    let found = configured(
        &site,
        &format!(
            "[serve]\nnbd = ['unix:{dead}', 'unix:/nonexistent/a.sock']\nvhost_user = 'unix:{live}=volume'\npid_file = '{pid}'\n"
        ),
    );
    found.has("warning", "socket", "dead.sock");
    found.has("error", "socket", "its directory is not there");
    assert!(!found.topic("socket").iter().any(|(_, what)| what.contains("live.sock")));
    found.has("warning", "pid-file", "gone");
}

#[test]
fn mistakes_in_the_configuration_are_found_and_the_store_is_looked_at_all_the_same() {
    let site = Site::new();
    configured(&site, "stroe = 'x'").has("note", "configuration", "`stroe`");
    configured(&site, "[serve]\nnbd = 'localhost:10809'").has("error", "configuration", "localhost:10809");
    let broken = configured(&site, "store = 1");
    broken.has("error", "configuration", "`store`");
    broken.lacks("store");
    doctor(&site, &["--config", "/nonexistent/a.toml"]).has("error", "configuration", "/nonexistent/a.toml");
    if fs::metadata(site.path("a.toml")).is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0) {
        fs::set_permissions(site.path("a.toml"), fs::Permissions::from_mode(0o666)).unwrap();
        doctor(&site, &["--config", &site.text("a.toml")]).has("error", "configuration", "others than its owner");
    }
}

#[test]
fn limits_of_the_process_are_found() {
    let site = Site::new();
    doctor_after(&site, "ulimit -n 256").has("warning", "nofile", "256");
    doctor_after(&site, "ulimit -l 64").has("note", "memlock", "65536");
}

#[test]
fn a_store_in_memory_is_found() {
    let kind = Command::new("stat").args(["-f", "-c", "%T", "/dev/shm"]).output().unwrap();
    if !String::from_utf8_lossy(&kind.stdout).starts_with("tmpfs") {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let site = Site::new();
    let location = format!("file:{}", dir.path().join("store").display());
    site.ok(&["init", "--store", &location]);
    doctor(&site, &["--store", &location]).has("warning", "file-system", "tmpfs");
}

#[test]
fn a_store_that_this_user_may_not_use_is_found() {
    let site = Site::new();
    fs::set_permissions(site.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = site.command(&["doctor", "--json"]);
    if own_uid() == 0 {
        // A user who may not run the program from where it was built has nothing to find out.
        let program = site.path("archipelago");
        fs::copy(env!("CARGO_BIN_EXE_archipelago"), &program).unwrap();
        command = Command::new(program);
        command
            .args(["doctor", "--json"])
            .env("ARCHIPELAGO_STORE", site.location())
            .env("XDG_CONFIG_HOME", site.path("xdg"));
        command.uid(65_534).gid(65_534);
    } else {
        fs::set_permissions(site.path("store"), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let found = Diagnosis::of(command);
    fs::set_permissions(site.path("store"), fs::Permissions::from_mode(0o770)).unwrap();
    found.has("error", "permissions", "may not be");
}

/// Who runs the test, as the files of this process say.
fn own_uid() -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap())
}

#[test]
fn a_clock_that_went_back_is_found() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "1M"]);
    let topics = |now| {
        let mut findings = Findings::default();
        store::examine(&site.open(), Some(&site.path("store")), now, &mut findings).unwrap();
        findings.sorted().iter().map(|finding| finding.topic).collect::<Vec<_>>()
    };
    assert_eq!(topics(1_000_000_000), ["clock"]);
    assert_eq!(topics(archipelago_core::time::now()), Vec::<&str>::new());
}

#[test]
fn nothing_is_left_behind_by_what_is_tried() {
    let site = Site::new();
    let all = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = all(&site.path("store"));
    doctor(&site, &[]);
    assert_eq!(all(&site.path("store")), before);
}
