//! The command as scripts see it: every command, its JSON fields and its exit codes, on a store in a temporary directory.

#![allow(clippy::unwrap_used)] // Here a failed unwrap is a failed test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use archipelago_core::{Background, Location, Mode, Store, StoreOptions, limits};
use serde_json::{Value, json};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Longest wait for another process; far above what it takes, so that a loaded machine does not fail a test.
const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    dir: TempDir,
}

impl Site {
    /// A directory without a store.
    fn bare() -> Site {
        Site { dir: TempDir::new().unwrap() }
    }

    fn new() -> Site {
        let site = Site::bare();
        site.ok(&["init"]);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn location(&self) -> String {
        format!("file:{}", self.text("store"))
    }

    /// The command without a store; nothing of the machine's configuration is seen.
    fn plain(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archipelago"));
        command.args(args).env_remove("ARCHIPELAGO_STORE").env("XDG_CONFIG_HOME", self.path("xdg"));
        command.stdin(Stdio::null());
        command
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.plain(args);
        command.args(["--store", &self.location()]);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it successfully, and returns what it printed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it with `--json`, and returns the document.
    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// Runs it with and without `--json`, checks exit code and error, and returns the error's text.
    #[track_caller]
    fn fails(&self, code: i32, word: &str, args: &[&str]) -> String {
        let output = self.run(args);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        let output = self.run(&[args, &["--json"]].concat());
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!((output.status.code(), &error["error"]["code"]), (Some(code), &json!(word)), "{args:?}: {error}");
        assert!(error["error"]["errno"].as_i64().unwrap() > 0);
        error["error"]["message"].as_str().unwrap().to_string()
    }

    fn names(&self) -> Vec<String> {
        let list = self.json(&["list"]);
        list["entries"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_string()).collect()
    }

    /// The store, opened by this process.
    fn open(&self) -> Store {
        let options = StoreOptions {
            node_cache: limits::NODE_CACHE,
            background: Background::Thread,
            max_unfolded: limits::MAX_UNFOLDED,
            first_segment: limits::FIRST_SEGMENT_SIZE,
            direct: false,
            seed: None,
        };
        Store::open(&Location::from_str(&self.location()).unwrap(), options).unwrap()
    }

    /// A sparse file with data at its start, in its middle and at its end.
    fn disk(&self, name: &str, size: u64) -> Vec<u8> {
        let file = fs::File::create(self.path(name)).unwrap();
        file.set_len(size).unwrap();
        for (offset, byte) in [(0, 1u8), (size / 2, 2), (size - 5000, 3)] {
            file.write_all_at(&vec![byte; 5000], offset).unwrap();
        }
        fs::read(self.path(name)).unwrap()
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn init_makes_a_store_once() {
    let site = Site::bare();
    let document = site.json(&["init", "--block-size", "1M", "--mode", "0600"]);
    assert_eq!(
        (&document["block_size"], &document["mode"], &document["group"]),
        (&json!(MIB), &json!("0600"), &json!(null))
    );
    assert_eq!(document["location"], json!(site.location()));
    assert!(document["uuid"].is_string());
    site.ok(&["create", "volume", "--size", "1M"]);
    assert_eq!(site.json(&["info", "volume"])["block_size"], json!(MIB));
    assert_ne!(site.run(&["init"]).status.code(), Some(0));
    site.fails(2, "usage", &["init", "--group", "no-such-group-here"]);
}

#[test]
fn commands_on_no_store_say_how_to_make_one() {
    let site = Site::bare();
    let message = site.fails(3, "not_found", &["list"]);
    assert!(message.contains("archipelago init"), "{message}");
}

#[test]
fn the_store_is_named_by_argument_then_environment_then_configuration() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "1M"]);
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = run(&mut site.plain(&["info", "volume"]));
    assert_eq!(code, Some(2));
    for way in ["--store", "ARCHIPELAGO_STORE", "archipelago.toml"] {
        assert!(message.contains(way), "{message}");
    }

    fs::write(site.path("good.toml"), format!("store = '{}'\nunknown = 1\n", site.location())).unwrap();
    fs::write(site.path("bad.toml"), "store = 'file:/nonexistent/store'\n").unwrap();
    fs::set_permissions(site.path("good.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(site.path("bad.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    let (good, bad) = (site.text("good.toml"), site.text("bad.toml"));
    let (code, message) = run(&mut site.plain(&["info", "volume", "--config", &good]));
    assert_eq!(code, Some(0), "{message}");
    assert!(message.contains("`unknown`"), "{message}");
    assert_eq!(run(&mut site.plain(&["info", "volume", "--config", &bad])).0, Some(3));
    let nowhere = "file:/nonexistent/store";
    assert_eq!(run(site.plain(&["info", "volume", "--config", &good]).env("ARCHIPELAGO_STORE", nowhere)).0, Some(3));
    assert_eq!(
        run(site.plain(&["info", "volume", "--config", &bad]).env("ARCHIPELAGO_STORE", site.location())).0,
        Some(0)
    );
    assert_eq!(run(site.command(&["info", "volume"]).env("ARCHIPELAGO_STORE", nowhere)).0, Some(0));

    fs::create_dir_all(site.path("xdg/archipelago")).unwrap();
    fs::copy(&good, site.path("xdg/archipelago/archipelago.toml")).unwrap();
    assert_eq!(run(&mut site.plain(&["info", "volume"])).0, Some(0));
}

#[test]
fn s59_root_refuses_a_configuration_that_others_can_write() {
    let site = Site::bare();
    fs::write(site.path("a.toml"), format!("store = '{}'\n", site.location())).unwrap();
    fs::set_permissions(site.path("a.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    // Files belong to whoever runs the test.
    if fs::metadata(site.path("a.toml")).unwrap().uid() != 0 {
        return;
    }
    let output = site.plain(&["list", "--config", &site.text("a.toml")]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("chmod go-w"));
}

#[test]
fn a_volume_has_the_documented_fields() {
    let site = Site::new();
    let created = site.json(&["create", "volume", "--size", "10G"]);
    let fields = [
        "block_size",
        "created",
        "epoch",
        "id",
        "kind",
        "labels",
        "mapped",
        "name",
        "open_by",
        "origin",
        "parent",
        "read_only",
        "receiving",
        "shared",
        "size",
        "unique",
        "untouched",
    ];
    assert_eq!(keys(&created), fields);
    assert_eq!((&created["unique"], &created["shared"]), (&json!(null), &json!(null)));
    let info = site.json(&["info", "volume"]);
    assert_eq!(keys(&info), fields);
    assert_eq!(
        (&info["name"], &info["kind"], &info["size"]),
        (&json!("volume"), &json!("volume"), &json!(10u64 << 30))
    );
    assert_eq!((&info["mapped"], &info["unique"], &info["shared"]), (&json!(0), &json!(0), &json!(0)));
    assert_eq!((&info["read_only"], &info["parent"], &info["open_by"]), (&json!(false), &json!(null), &json!(null)));
    assert_eq!(info["id"].as_str().unwrap().len(), 16);
    assert!(site.ok(&["info", "volume"]).contains("10.0 GiB (10737418240 bytes)"));
}

#[test]
fn create_refuses_bad_names_sizes_and_second_volumes() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "1.5G", "--block-size", "64K"]);
    site.fails(4, "exists", &["create", "volume", "--size", "1M"]);
    site.fails(2, "usage", &["create", "short", "--size", "1M"]);
    site.fails(2, "usage", &["create", "volume2", "--size", "10KB"]);
    site.fails(2, "usage", &["create", "volume2", "--size", "0"]);
    site.fails(2, "usage", &["create", "volume2", "--size", "5P"]);
    site.fails(2, "usage", &["create", "volume2", "--size", "1M", "--block-size", "100K"]);
    site.fails(2, "usage", &["create", "volume2"]);
    site.fails(2, "usage", &["no-such-command"]);
    assert_eq!(site.names(), ["volume"]);
}

#[test]
fn snapshots_and_clones_are_made_and_named() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "10M"]);
    assert_eq!(site.ok(&["snapshot", "volume", "snapshot"]), "Snapshot name: snapshot\n");
    let info = site.json(&["info", "snapshot"]);
    assert_eq!((&info["kind"], &info["read_only"]), (&json!("snapshot"), &json!(true)));
    assert_eq!(info["parent"], json!("volume"));
    let clone = site.json(&["clone", "snapshot", "clone1", "--size", "20M"]);
    assert_eq!((&clone["size"], &clone["parent"]), (&json!(20 * MIB), &json!("snapshot")));
    let many = site.json(&["clone", "snapshot", "many", "--count", "3"]);
    assert_eq!(many, json!({ "snapshot": "snapshot", "count": 3, "names": ["many-0001", "many-0002", "many-0003"] }));
    assert_eq!(site.names(), ["clone1", "many-0001", "many-0002", "many-0003", "snapshot", "volume"]);

    site.fails(4, "exists", &["snapshot", "volume", "snapshot"]);
    site.fails(3, "not_found", &["snapshot", "nothing", "snapshot2"]);
    site.fails(6, "read_only", &["snapshot", "snapshot", "snapshot2"]);
    site.fails(1, "other", &["clone", "volume", "clone2"]);
    site.fails(2, "usage", &["clone", "snapshot", "clone2", "--size", "1M"]);
    site.fails(2, "usage", &["clone", "snapshot", "clone2", "--count", "0"]);
    site.fails(4, "exists", &["clone", "snapshot", "many", "--count", "2"]);
}

#[test]
fn remove_goes_on_after_an_error_and_fails_as_the_first() {
    let site = Site::new();
    for name in ["volume1", "volume2", "volume3"] {
        site.ok(&["create", name, "--size", "1M"]);
    }
    let output = site.run(&["remove", "volume1", "nothing", "volume2", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["removed"], json!(["volume1", "volume2"]));
    assert_eq!(
        (&document["failed"][0]["name"], &document["failed"][0]["error"]["code"]),
        (&json!("nothing"), &json!("not_found"))
    );
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], json!("not_found"));
    assert_eq!(site.names(), ["volume3"]);
    assert_eq!(site.ok(&["remove", "volume3"]), "");
}

#[test]
fn rename_and_resize_change_what_they_say() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "10M"]);
    assert_eq!(site.ok(&["rename", "volume", "renamed"]), "Renamed volume to renamed\n");
    site.fails(3, "not_found", &["rename", "volume", "other1"]);
    assert_eq!(site.json(&["rename", "renamed", "volume"])["name"], json!("volume"));
    assert_eq!(site.json(&["resize", "volume", "20M"])["size"], json!(20 * MIB));
    site.fails(2, "usage", &["resize", "volume", "5M"]);
    assert_eq!(site.json(&["resize", "volume", "5M", "--shrink"])["size"], json!(5 * MIB));
    site.ok(&["snapshot", "volume", "snapshot"]);
    site.fails(6, "read_only", &["resize", "snapshot", "20M"]);
}

#[test]
fn list_pages_by_prefix_limit_and_position() {
    let site = Site::new();
    for name in ["alpha1", "alpha2", "alpha3", "beta01"] {
        site.ok(&["create", name, "--size", "1M"]);
    }
    let names = |args: &[&str]| -> (Vec<String>, Value) {
        let list = site.json(args);
        let names = list["entries"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().into()).collect();
        (names, list["next"].clone())
    };
    assert_eq!(
        names(&["list", "--prefix", "alpha"]),
        (vec!["alpha1".into(), "alpha2".into(), "alpha3".into()], json!(null))
    );
    assert_eq!(names(&["list", "--limit", "2"]), (vec!["alpha1".into(), "alpha2".into()], json!("alpha2")));
    assert_eq!(names(&["list", "--after", "alpha2"]), (vec!["alpha3".into(), "beta01".into()], json!(null)));
    assert_eq!(names(&["list", "--prefix", "gamma"]), (vec![], json!(null)));
    let usage = site.json(&["list", "--usage"]);
    assert_eq!((&usage["entries"][0]["unique"], &usage["entries"][0]["shared"]), (&json!(0), &json!(0)));
    let table = site.ok(&["list"]);
    assert!(table.starts_with("NAME") && table.lines().count() == 5 && table.contains("1.0 MiB"), "{table}");
    site.fails(2, "usage", &["list", "--limit", "0"]);
}

#[test]
fn mapinfo_and_diff_show_ranges() {
    let site = Site::new();
    site.disk("disk", 20 * MIB);
    site.ok(&["import", &site.text("disk"), "volume", "--format", "raw", "--snapshot", "before"]);
    let map = site.json(&["mapinfo", "volume"]);
    let map = map.as_array().unwrap();
    let mut at = 0;
    for extent in map {
        assert_eq!(extent["offset"], json!(at));
        at += extent["len"].as_u64().unwrap();
        assert!(["zero", "data", "log"].contains(&extent["source"].as_str().unwrap()), "{extent}");
    }
    assert_eq!(at, 20 * MIB);
    assert!(map.iter().any(|e| e["source"] == "zero") && map.iter().any(|e| e["source"] != "zero"));
    let part = site.json(&["mapinfo", "volume", "--offset", "1M", "--length", "64K"]);
    assert_eq!(part, json!([{ "offset": MIB, "len": 64 << 10, "source": "zero" }]));
    assert!(site.ok(&["mapinfo", "volume"]).contains("zero"));

    assert_eq!(site.json(&["diff", "before", "volume"]), json!([]));
    {
        let store = site.open();
        let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
        volume.write_at(&[9; 4096], 5 * MIB).unwrap();
        volume.close().unwrap();
    }
    let diff = site.json(&["diff", "before", "volume"]);
    let covers = |e: &Value| {
        let (offset, len) = (e["offset"].as_u64().unwrap(), e["len"].as_u64().unwrap());
        offset <= 5 * MIB && offset + len >= 5 * MIB + 4096 && e["zero"] == json!(false)
    };
    assert!(diff.as_array().unwrap().iter().any(covers), "{diff}");
    assert!(site.ok(&["diff", "before", "volume"]).contains("data"));
    site.fails(3, "not_found", &["diff", "before", "nothing"]);
    site.fails(3, "not_found", &["mapinfo", "nothing"]);
}

#[test]
fn a_raw_disk_goes_in_and_out_unchanged() {
    let site = Site::new();
    for size in [20 * MIB, 9 * MIB + 511, 10_001] {
        let disk = site.disk("disk", size);
        let document =
            site.json(&["import", &site.text("disk"), "volume", "--format", "raw", "--snapshot", "snapshot"]);
        assert_eq!((&document["name"], &document["size"]), (&json!("volume"), &json!(size)));
        assert_eq!(document["snapshot"], json!("snapshot"));
        assert!(document["written"].as_u64().unwrap() < 200 << 10, "{document}");
        for name in ["volume", "snapshot"] {
            let document = site.json(&["export", name, &site.text("out"), "--force"]);
            assert_eq!(keys(&document), ["file", "format", "name", "size", "written"]);
            assert!(fs::read(site.path("out")).unwrap() == disk);
            assert!(fs::metadata(site.path("out")).unwrap().blocks() * 512 < MIB, "holes stay holes");
        }
        assert!(site.run(&["export", "snapshot", "-"]).stdout == disk);
        site.ok(&["remove", "volume", "snapshot"]);
    }
}

#[test]
fn a_raw_disk_can_be_piped_in() {
    let site = Site::new();
    let disk = site.disk("disk", 150 * MIB + 77);
    let output = site
        .command(&["import", "-", "volume", "--format", "raw"])
        .stdin(fs::File::open(site.path("disk")).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mut child = site.command(&["import", "-", "piped1", "--format", "raw"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&disk).unwrap();
    assert!(child.wait().unwrap().success());
    for name in ["volume", "piped1"] {
        assert!(site.run(&["export", name, "-"]).stdout == disk, "{name}");
    }
}

#[test]
fn import_refuses_what_it_should_and_leaves_nothing_behind() {
    let site = Site::new();
    site.disk("disk", MIB);
    let disk = site.text("disk");
    site.ok(&["create", "taken1", "--size", "1M"]);
    site.fails(4, "exists", &["import", &disk, "taken1", "--format", "raw"]);
    site.fails(4, "exists", &["import", &disk, "volume", "--format", "raw", "--snapshot", "taken1"]);
    site.fails(2, "usage", &["import", &disk, "volume", "--format", "raw", "--snapshot", "volume"]);
    site.fails(2, "usage", &["import", &disk, "volume"]);
    site.fails(3, "not_found", &["import", &site.text("nothing"), "volume", "--format", "raw"]);
    site.fails(1, "other", &["import", &disk, "volume", "--format", "qcow2"]);
    site.fails(1, "other", &["import", &disk, "volume", "--format", "raw", "--max-size", "512K"]);
    // A version 3 header whose L1 table lies behind the end of the file.
    let mut image = vec![0; 4096];
    image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    image[23] = 16;
    image[29] = 1;
    image[39] = 1;
    image[45] = 1;
    image[103] = 104;
    fs::write(site.path("broken"), image).unwrap();
    site.fails(7, "io", &["import", &site.text("broken"), "volume", "--format", "qcow2"]);
    assert_eq!(site.names(), ["taken1"]);
}

#[test]
fn a_qcow2_image_is_imported_as_qemu_reads_it() {
    let site = Site::new();
    let disk = site.disk("disk", 20 * MIB);
    let made = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2", "-c", "disk", "image"])
        .current_dir(site.dir.path())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: qemu-img is not installed");
        return;
    }
    site.ok(&["import", &site.text("image"), "volume", "--format", "qcow2"]);
    assert!(site.run(&["export", "volume", "-"]).stdout == disk);
    // The same file as raw: its bytes, whatever they look like.
    site.ok(&["import", &site.text("image"), "rawvol", "--format", "raw"]);
    assert!(site.run(&["export", "rawvol", "-"]).stdout == fs::read(site.path("image")).unwrap());
}

#[test]
fn an_interrupted_import_leaves_nothing_behind() {
    let site = Site::new();
    let mut child = site
        .command(&["import", "-", "volume", "--format", "raw", "--json"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than the import keeps in memory before it makes its volume.
    for _ in 0..80 {
        stdin.write_all(&vec![7; MIB as usize]).unwrap();
    }
    wait_for("the volume to appear", || site.names() == ["volume.importing"]);
    signal(&child, "-INT");
    let status = child.wait().unwrap();
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(status.code(), Some(130), "{message}");
    assert!(message.contains("\"code\":\"signal\""), "{message}");
    assert!(site.names().is_empty());
    drop(stdin);
}

#[test]
fn export_never_replaces_a_file_unless_told_to() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "1M"]);
    fs::write(site.path("out"), "precious").unwrap();
    site.fails(4, "exists", &["export", "volume", &site.text("out")]);
    assert_eq!(fs::read(site.path("out")).unwrap(), b"precious");
    site.fails(3, "not_found", &["export", "volume", &site.text("missing/out")]);
    site.fails(3, "not_found", &["export", "nothing", &site.text("out2")]);
    site.ok(&["export", "volume", &site.text("out"), "--force"]);
    assert_eq!(fs::metadata(site.path("out")).unwrap().len(), MIB);
    let left: Vec<_> = fs::read_dir(site.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("partial")), "{left:?}");
}

#[test]
fn a_volume_open_elsewhere_is_busy_but_can_be_snapshotted_and_that_exported() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "1M"]);
    let store = site.open();
    let volume = store.open_volume("volume", Mode::ReadWrite).unwrap();
    volume.write_at(&[5; 4096], 0).unwrap();
    let message = site.fails(5, "busy", &["export", "volume", &site.text("out")]);
    assert!(message.contains("snapshot"), "{message}");
    site.fails(5, "busy", &["remove", "volume"]);
    let info = site.json(&["info", "volume"]);
    assert_eq!(info["open_by"]["pid"], json!(std::process::id()));
    site.ok(&["snapshot", "volume", "snapshot"]);
    assert_eq!(site.run(&["export", "snapshot", "-"]).stdout[..4096], [5; 4096]);
    assert_eq!(site.json(&["resize", "volume", "2M"])["size"], json!(2 * MIB));
    assert_eq!(volume.size(), 2 * MIB);
    let status = site.json(&["status"]);
    let ours = status["processes"].as_array().unwrap().iter().find(|p| p["pid"] == json!(std::process::id())).cloned();
    assert_eq!(ours.unwrap()["volumes"], json!(["volume"]));
}

#[test]
fn status_counts_and_measures() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "1M"]);
    site.ok(&["snapshot", "volume", "snapshot"]);
    let status = site.json(&["status"]);
    assert_eq!((&status["volumes"], &status["snapshots"]), (&json!(1), &json!(1)));
    assert_eq!(status["location"], json!(site.location()));
    assert!(status["space"]["total"].as_u64().unwrap() >= status["space"]["free"].as_u64().unwrap());
    for key in ["uuid", "block_size", "trashed", "processes"] {
        assert!(!status[key].is_null(), "{key}");
    }
    assert!(site.ok(&["status"]).contains("volumes:     1"));
}

#[test]
fn a_reader_that_goes_away_is_no_error_and_a_full_disk_is() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "64M"]);
    for args in [&["list"][..], &["list", "--json"], &["export", "volume", "-"], &["mapinfo", "volume"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = site.command(args).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{args:?}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(site.command(&["list"]).stdout(full).output().unwrap().status.code(), Some(8));
}

#[test]
fn serve_announces_itself_serves_and_stops() {
    let site = Site::new();
    site.ok(&["create", "volume", "--size", "8M"]);
    let socket = format!("unix:{}", site.text("nbd.sock"));
    let mut child = site
        .command(&["serve", "--nbd", &socket, "--nbd", "tcp:127.0.0.1:0", "--pid-file", &site.text("pid")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), format!("nbd+unix:///NAME?socket={}", site.text("nbd.sock")));
    let tcp = lines.next().unwrap();
    assert!(tcp.starts_with("nbd://127.0.0.1:") && !tcp.contains(":0/"), "{tcp}");
    assert_eq!(lines.next().unwrap(), "ready");
    assert_eq!(fs::read_to_string(site.path("pid")).unwrap(), format!("{}\n", child.id()));

    let uri = format!("nbd+unix:///volume?socket={}", site.text("nbd.sock"));
    let written = Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 9 1M 64k", "-c", "flush", &uri]).output();
    let written = written.is_ok_and(|output| output.status.success());

    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!site.path("pid").exists() && !site.path("nbd.sock").exists());
    if written {
        let disk = site.run(&["export", "volume", "-"]).stdout;
        assert!(disk[MIB as usize..][..64 << 10].iter().all(|byte| *byte == 9));
    } else {
        eprintln!("skipped: qemu-io is not installed or could not write");
    }
}

#[test]
fn serve_refuses_addresses_that_others_can_reach_and_sockets_in_use() {
    let site = Site::new();
    site.fails(2, "usage", &["serve"]);
    site.fails(2, "usage", &["serve", "--nbd", "unix:relative"]);
    let message = site.fails(2, "usage", &["serve", "--nbd", "tcp:0.0.0.0:0"]);
    assert!(message.contains("allow"), "{message}");
    let _listener = std::os::unix::net::UnixListener::bind(site.path("used.sock")).unwrap();
    site.fails(5, "busy", &["serve", "--nbd", &format!("unix:{}", site.text("used.sock"))]);
}

#[test]
fn serve_can_say_that_it_is_ready_through_a_descriptor() {
    let site = Site::new();
    // A shell gives the file the number, as a supervisor would.
    let script = format!("exec {} \"$@\" 9>{}", env!("CARGO_BIN_EXE_archipelago"), site.text("ready"));
    let socket = format!("unix:{}", site.text("nbd.sock"));
    let mut child = Command::new("sh")
        .args(["-c", &script, "sh", "serve", "--nbd", &socket, "--ready-fd", "9", "--store", &site.location()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the line", || fs::read_to_string(site.path("ready")).is_ok_and(|text| text == "ready\n"));
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn help_completions_and_man_pages_need_no_store() {
    let site = Site::bare();
    let run = |args: &[&str]| {
        let output = site.plain(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let help = run(&["--help"]);
    assert!(help.contains("Exit codes:") && help.contains("8  no space"), "{help}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("archipelago"));
    }
    run(&["man", &site.text("man")]);
    for page in ["archipelago.1", "archipelago-import.1", "archipelago-serve.1"] {
        assert!(site.path("man").join(page).exists(), "{page}");
    }
}

#[test]
fn check_says_what_is_wrong_and_repairs_and_list_shows_damaged_names() {
    let site = Site::new();
    for name in ["volume", "broken"] {
        site.ok(&["create", name, "--size", "1M"]);
    }
    let clean = site.json(&["check"]);
    assert_eq!((&clean["result"], &clean["maps"]), (&json!("clean"), &json!(2)));
    let fields = "aside content data entries findings in_use leaks_checked maps nodes objects result unlisted";
    let mut found = keys(&clean);
    found.sort_unstable();
    assert_eq!(found.join(" "), fields);

    let id = site.json(&["info", "broken"])["id"].as_str().unwrap().to_string();
    let broken = site.path(&format!("store/catalog/h.{id}"));
    let file = fs::File::options().write(true).open(&broken).unwrap();
    file.write_all_at(&[0xee; 64], 60).unwrap();
    drop(file);

    let run = |args: &[&str]| {
        let output = site.run(args);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, listed) = run(&["list"]);
    assert_eq!(code, Some(7));
    assert!(listed.contains("volume") && listed.lines().any(|l| l.starts_with("broken") && l.contains("damaged")));
    let (code, listed) = run(&["list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((code, &listed["damaged"][0]["name"]), (Some(7), &json!("broken")));

    let (code, text) = run(&["check"]);
    assert_eq!(code, Some(7), "{text}");
    assert!(text.contains("DAMAGE") && text.contains("--repair would: move it to lost/"), "{text}");
    let (code, document) = run(&["check", "--repair", "--json"]);
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!((code, &document["result"]), (Some(9), &json!("repaired")), "{document}");
    assert_eq!(document["findings"][0]["affected"][0]["name"], json!("broken"));
    let (code, text) = run(&["check"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("lost/n.broken"), "{text}");
    assert_eq!(site.names(), ["volume"]);
    let message = site.fails(3, "not_found", &["check", "nobody"]);
    assert!(message.contains("nobody"));
}

fn write(site: &Site, name: &str, offset: u64, bytes: &[u8]) {
    let volume = site.open().open_volume(name, Mode::ReadWrite).unwrap();
    volume.write_at(bytes, offset).unwrap();
    volume.close().unwrap();
}

/// Runs `send` here and `receive` there, with a pipe between them.
fn transfer(here: &Site, send: &[&str], there: &Site, receive: &[&str]) -> Output {
    let mut sender = here.command(send).stdout(Stdio::piped()).spawn().unwrap();
    let stream = sender.stdout.take().unwrap();
    let received = there.command(receive).stdin(stream).output().unwrap();
    assert_eq!(sender.wait().unwrap().code(), Some(0));
    received
}

#[test]
fn snapshots_go_through_a_pipe_whole_and_as_differences() {
    let (here, there) = (Site::new(), Site::new());
    here.ok(&["create", "volume", "--size", "8M"]);
    write(&here, "volume", 5, b"monday");
    here.ok(&["snapshot", "volume", "monday"]);
    write(&here, "volume", 1 << 20, b"tuesday");
    here.ok(&["snapshot", "volume", "tuesday"]);

    let received = transfer(&here, &["send", "monday"], &there, &["receive", "monday", "--json"]);
    let info: Value = serde_json::from_slice(&received.stdout).unwrap();
    assert_eq!((&info["kind"], &info["size"]), (&json!("snapshot"), &json!(8 << 20)));
    assert!(info["origin"].as_str().unwrap().contains(here.json(&["info", "monday"])["id"].as_str().unwrap()));

    let plan = here.json(&["send", "--from", "monday", "tuesday", "--dry-run"]);
    assert_eq!((&plan["data"], &plan["zeros"], &plan["from"]), (&json!(4096), &json!(0), &json!("monday")));
    let received = transfer(&here, &["send", "--from", "monday", "tuesday"], &there, &["receive", "tuesday"]);
    assert!(String::from_utf8(received.stdout).unwrap().starts_with("Received tuesday"));
    for name in ["monday", "tuesday"] {
        here.ok(&["export", name, &here.text("disk")]);
        there.ok(&["export", name, &there.text("disk")]);
        assert!(fs::read(here.path("disk")).unwrap() == fs::read(there.path("disk")).unwrap(), "{name}");
        fs::remove_file(here.path("disk")).unwrap();
        fs::remove_file(there.path("disk")).unwrap();
    }
}

#[test]
fn an_interrupted_stream_is_gone_on_with_by_its_token() {
    let (here, there) = (Site::new(), Site::new());
    here.ok(&["create", "volume", "--size", "8M"]);
    for n in 0..8 {
        write(&here, "volume", n << 20, &[n as u8 + 1; 9000]);
    }
    here.ok(&["snapshot", "volume", "monday"]);
    let stream = here.run(&["send", "monday"]).stdout;
    fs::write(there.path("part"), &stream[..stream.len() / 2]).unwrap();
    let part = fs::File::open(there.path("part")).unwrap();
    let cut = there.command(&["receive", "monday"]).stdin(part).output().unwrap();
    assert_eq!(cut.status.code(), Some(7), "{}", String::from_utf8_lossy(&cut.stderr));
    assert!(String::from_utf8_lossy(&cut.stderr).contains("receive --status monday"));
    assert_eq!(there.run(&["info", "monday"]).status.code(), Some(3));
    assert_eq!(there.run(&["export", "monday.receiving", &there.text("disk")]).status.code(), Some(5));

    let status = there.json(&["receive", "monday", "--status"]);
    assert_eq!(status["partial"], json!("monday.receiving"));
    assert!(status["position"].as_u64().unwrap() > 0);
    let token = status["token"].as_str().unwrap();
    assert!(there.ok(&["receive", "monday", "--status"]).contains(token));
    let received = transfer(&here, &["send", "monday", "--resume", token], &there, &["receive", "monday"]);
    assert_eq!(received.status.code(), Some(0), "{}", String::from_utf8_lossy(&received.stderr));
    assert_eq!(there.run(&["receive", "monday", "--status"]).status.code(), Some(3));
    // A stream whose base is not here.
    here.ok(&["snapshot", "volume", "tuesday"]);
    here.ok(&["snapshot", "volume", "wednesday"]);
    let refused = transfer(&here, &["send", "--from", "tuesday", "wednesday"], &there, &["receive", "wednesday"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("tuesday"));
}

#[test]
fn a_group_of_volumes_is_snapshotted_at_once() {
    let site = Site::new();
    for name in ["disk-a", "disk-b"] {
        site.ok(&["create", name, "--size", "1M"]);
    }
    let taken = site.json(&["snapshot", "--group", "disk-b=monday-b", "disk-a=monday-a"]);
    let names: Vec<_> = taken["snapshots"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["monday-b", "monday-a"]);
    assert_eq!(site.json(&["info", "monday-a"])["parent"], json!("disk-a"));
    assert_eq!(site.run(&["snapshot", "--group", "disk-a"]).status.code(), Some(2));
    assert_eq!(site.run(&["snapshot", "--group", "disk-a=monday-c", "disk-x=monday-d"]).status.code(), Some(3));
    assert_eq!(site.run(&["info", "monday-c"]).status.code(), Some(3));
}

#[test]
fn du_says_what_removing_each_would_free() {
    let site = Site::new();
    assert_eq!(site.json(&["du"])["maps"], json!([]));
    site.ok(&["create", "volume", "--size", "64M"]);
    write(&site, "volume", 0, &[1; 2 << 20]);
    site.ok(&["snapshot", "volume", "monday"]);
    write(&site, "volume", 0, &[2; 1 << 20]);
    let du = site.json(&["du"]);
    assert_eq!(keys(&du), ["free", "maps", "named", "room", "shared"]);
    assert_eq!(keys(&du["maps"][0]), ["id", "in_use", "kind", "mapped", "name", "shared", "size", "unique"]);
    let map = |du: &Value, name: &str| {
        let maps = du["maps"].as_array().unwrap();
        let map = maps.iter().find(|map| map["name"] == name).unwrap();
        (map["mapped"].as_u64().unwrap(), map["unique"].as_u64().unwrap(), map["shared"].as_u64().unwrap())
    };
    assert_eq!(map(&du, "volume"), (2 << 20, 1 << 20, 1 << 20));
    assert_eq!(map(&du, "monday"), (2 << 20, 1 << 20, 1 << 20));
    assert_eq!((&du["named"], &du["shared"]), (&json!(3 << 20), &json!(1 << 20)));
    assert_eq!(site.json(&["du", "monday"])["maps"].as_array().unwrap().len(), 1);
    let text = site.ok(&["du"]);
    assert!(
        text.starts_with("NAME") && text.contains("3.0 MiB (3145728 bytes), of which 1.0 MiB by several"),
        "{text}"
    );
    site.fails(3, "not_found", &["du", "nobody"]);

    // While it is open elsewhere it is looked at as of its last checkpoint, and says so.
    let open = site.open().open_volume("volume", Mode::ReadWrite).unwrap();
    let output = site.run(&["du"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stderr).contains("volume: is in use"));
    open.close().unwrap();

    let data = |site: &Site| site.json(&["status"])["kinds"]["data"]["bytes"].as_u64().unwrap();
    site.ok(&["gc"]);
    let before = data(&site);
    site.ok(&["remove", "monday"]);
    site.ok(&["gc"]);
    assert_eq!(before - data(&site), 1 << 20);
    assert_eq!(map(&site.json(&["du"]), "volume"), (2 << 20, 2 << 20, 0));
}
