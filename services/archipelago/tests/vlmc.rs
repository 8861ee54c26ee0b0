//! `vlmc` as scripts of the original see it: what each command prints, and its exit code.

#![allow(clippy::unwrap_used)] // Here a failed unwrap is a failed test.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;

use archipelago_core::{Location, Mode, Store, StoreOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Site {
    dir: TempDir,
}

/// Exit code, standard output, standard error.
type Printed = (i32, String, String);

impl Site {
    fn new() -> Site {
        let site = Site { dir: TempDir::new().unwrap() };
        symlink(env!("CARGO_BIN_EXE_archipelago"), site.path("vlmc")).unwrap();
        Store::init(&site.location(), &Default::default()).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn location(&self) -> Location {
        Location::from_str(&self.store()).unwrap()
    }

    fn store(&self) -> String {
        format!("file:{}", self.path("store").display())
    }

    fn open(&self) -> Store {
        Store::open(&self.location(), StoreOptions::default()).unwrap()
    }

    fn program(&self, name: &str, args: &[&str]) -> Command {
        let program = if name == "vlmc" { self.path("vlmc") } else { env!("CARGO_BIN_EXE_archipelago").into() };
        let mut command = Command::new(program);
        command.args(args).env("ARCHIPELAGO_STORE", self.store()).env("XDG_CONFIG_HOME", self.path("xdg"));
        command.env("ARCHIPELAGO_RUN_DIR", self.path("run")).env("ARCHIPELAGO_NODE", "node-1").stdin(Stdio::null());
        command
    }

    fn run(&self, name: &str, args: &[&str]) -> Printed {
        let output = self.program(name, args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert!(!err.contains("panicked"), "{err}");
        (output.status.code().unwrap(), out, err)
    }

    /// Succeeds, prints exactly this, and nothing on standard error.
    #[track_caller]
    fn prints(&self, args: &[&str], expected: &str) {
        assert_eq!(self.run("vlmc", args), (0, expected.into(), String::new()), "{args:?}");
    }

    /// Fails with exactly this text on standard output. The reason is returned.
    #[track_caller]
    fn fails(&self, args: &[&str], code: i32, text: &str) -> String {
        let (found, out, err) = self.run("vlmc", args);
        assert_eq!((found, out.as_str()), (code, text), "{args:?}: {err}");
        let (found, out, err_json) = self.run("vlmc", &[args, &["--json"]].concat());
        let error: Value = serde_json::from_str(&err_json).unwrap();
        assert_eq!((found, out.as_str()), (code, ""), "{args:?} --json: {error}");
        assert!(error["error"]["message"].as_str().unwrap().starts_with(text.trim_end()), "{error}");
        err
    }

    #[track_caller]
    fn document(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.run("vlmc", &[args, &["--json"]].concat());
        assert_eq!(code, 0, "{args:?}: {err}");
        serde_json::from_str(&out).unwrap()
    }
}

#[test]
fn create_makes_volumes_of_mebibytes_and_clones_and_prints_nothing() {
    let site = Site::new();
    site.prints(&["create", "volume", "--size", "10"], "");
    site.prints(&["create", "suffix", "-s", "1G"], "");
    site.prints(&["snapshot", "volume", "monday"], "Snapshot name: monday\n");
    site.prints(&["create", "cloned", "--snap", "monday"], "");
    site.prints(&["create", "larger", "--snap", "monday", "--size", "20"], "");
    for (name, mib) in [("volume", 10u64), ("suffix", 1024), ("cloned", 10), ("larger", 20)] {
        site.prints(&["info", name], &format!("Volume {name}: size: {}\n", mib << 20));
    }
    assert_eq!(site.document(&["create", "another", "-s", "1"])["size"], json!(1 << 20));
}

#[test]
fn create_refuses_in_the_words_of_the_original() {
    let site = Site::new();
    site.prints(&["create", "volume", "-s", "10"], "");
    site.fails(&["create", "short", "-s", "10"], 2, "Name should have at least len 6\n");
    site.fails(&["create", "another"], 2, "At least one of the size/snap args must be provided\n");
    for bad in ["archip_volume", "volume_lock", "vol_0123456789abcdef", &"a".repeat(83)] {
        site.fails(&["create", bad, "-s", "10"], 2, "Invalid volume name\n");
    }
    let reason = site.fails(&["create", "volume", "-s", "10"], 4, "vlmc creation failed\n");
    assert!(reason.contains("already exists"), "{reason}");
    site.fails(&["create", "another", "--snap", "nobody"], 3, "vlmc creation failed\n");
    site.fails(&["create", "another", "--snap", "volume"], 1, "vlmc creation failed\n");
    site.fails(&["create", "another", "-s", "0"], 2, "vlmc creation failed\n");
    site.prints(&["snapshot", "volume", "monday"], "Snapshot name: monday\n");
    site.fails(&["create", "smaller", "--snap", "monday", "-s", "1"], 2, "vlmc creation failed\n");
}

#[test]
fn remove_prints_nothing_and_removes_snapshots_too() {
    let site = Site::new();
    site.prints(&["create", "volume", "-s", "10"], "");
    site.prints(&["snapshot", "volume", "monday"], "Snapshot name: monday\n");
    site.prints(&["remove", "monday"], "");
    site.prints(&["rm", "volume"], "");
    site.fails(&["remove", "volume"], 3, "vlmc removal failed\n");
    site.prints(&["create", "volume", "-s", "10"], "");
    let _open = site.open().open_volume("volume", Mode::ReadWrite).unwrap();
    let reason = site.fails(&["rm", "volume"], 5, "vlmc removal failed\n");
    assert!(reason.contains("open elsewhere"), "{reason}");
}

#[test]
fn list_prints_a_name_on_each_line() {
    let site = Site::new();
    site.prints(&["list"], "");
    site.prints(&["create", "volume", "-s", "1"], "");
    site.prints(&["create", "another", "-s", "1"], "");
    site.prints(&["snapshot", "volume", "monday"], "Snapshot name: monday\n");
    site.prints(&["create", "removed", "-s", "1"], "");
    site.prints(&["rm", "removed"], "");
    site.prints(&["list"], "another\nmonday\nvolume\n");
    site.prints(&["ls"], "another\nmonday\nvolume\n");
    assert_eq!(site.document(&["list"]), json!(["another", "monday", "volume"]));
}

#[test]
fn snapshot_refuses_in_the_words_of_the_original() {
    let site = Site::new();
    site.prints(&["create", "volume", "-s", "1"], "");
    site.prints(&["snapshot", "volume", "monday"], "Snapshot name: monday\n");
    site.fails(&["snapshot", "short", "monday"], 2, "Name should have at least len 6\n");
    for bad in ["archip_monday", "monday_lock", "short"] {
        site.fails(&["snapshot", "volume", bad], 2, "Invalid snapshot name\n");
    }
    site.fails(&["snapshot", "volume", "monday"], 4, "vlmc snapshot failed\n");
    site.fails(&["snapshot", "nobody", "tuesday"], 3, "vlmc snapshot failed\n");
    site.fails(&["snapshot", "monday", "tuesday"], 6, "vlmc snapshot failed\n");
}

#[test]
fn rename_prints_both_names() {
    let site = Site::new();
    site.prints(&["create", "volume", "-s", "1"], "");
    site.prints(&["create", "another", "-s", "1"], "");
    site.prints(&["rename", "volume", "renamed"], "Renamed volume to renamed\n");
    site.fails(&["rename", "volume", "other-name"], 3, "vlmc rename failed\n");
    site.fails(&["rename", "renamed", "another"], 4, "vlmc rename failed\n");
    site.fails(&["rename", "renamed", "short"], 2, "Name should have at least len 6\n");
    site.fails(&["rename", "renamed", "volume_lock"], 2, "Invalid volume name\n");
}

#[test]
fn resize_works_and_shrinks_only_when_forced() {
    let site = Site::new();
    site.prints(&["create", "volume", "-s", "10"], "");
    site.prints(&["resize", "volume", "-s", "20"], "");
    site.prints(&["info", "volume"], "Volume volume: size: 20971520\n");
    site.fails(&["resize", "volume", "-s", "10"], 2, "vlmc resize failed\n");
    site.prints(&["resize", "volume", "-s", "10", "--force"], "");
    site.prints(&["info", "volume"], "Volume volume: size: 10485760\n");
    site.fails(&["resize", "nobody", "-s", "10"], 3, "vlmc resize failed\n");
}

#[test]
fn hash_prints_the_hash_of_a_snapshot() {
    let site = Site::new();
    site.prints(&["create", "volume", "-s", "10"], "");
    site.prints(&["snapshot", "volume", "monday"], "Snapshot name: monday\n");
    let (code, out, _) = site.run("vlmc", &["hash", "monday"]);
    let digest = out.strip_prefix("Hash name: ").and_then(|rest| rest.strip_suffix('\n')).unwrap();
    assert!(code == 0 && digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{out}");
    site.prints(&["hash", "monday"], &out);
    site.fails(&["hash", "volume"], 1, "vlmc hash failed\n");
    site.fails(&["hash", "nobody"], 3, "vlmc hash failed\n");
    site.fails(&["hash", "short"], 2, "Name should have at least len 6\n");
}

#[test]
fn info_and_mapinfo_tell_size_and_places() {
    let site = Site::new();
    site.prints(&["create", "volume", "-s", "10"], "");
    site.fails(&["info", "nobody"], 3, "vlmc info failed\n");
    site.fails(&["info", "short"], 2, "Name should have at least len 6\n");
    site.prints(&["mapinfo", "volume"], "");
    site.prints(&["mapinfo", "volume", "-v"], "0\t10485760\tzero\n");
    site.fails(&["mapinfo", "nobody"], 3, "vlmc mapinfo failed\n");
    let volume = site.open().open_volume("volume", Mode::ReadWrite).unwrap();
    volume.write_at(&[1; 4096], 8192).unwrap();
    volume.close().unwrap();
    site.prints(&["mapinfo", "volume"], "8192\t4096\tdata\n");
}

#[test]
fn what_stayed_open_between_commands_is_refused_with_a_reason() {
    let site = Site::new();
    site.prints(&["create", "volume", "-s", "10"], "");
    for (args, text) in [
        (vec!["open", "volume"], "vlmc open failed\n"),
        (vec!["close", "volume"], "vlmc close failed\n"),
        (vec!["lock", "volume"], "vlmc lock failed\n"),
        (vec!["unlock", "volume"], "vlmc unlock failed\n"),
        (vec!["unlock", "-f", "volume"], "vlmc unlock failed\n"),
    ] {
        let reason = site.fails(&args, 1, text);
        assert!(reason.contains("archipelago serve"), "{reason}");
    }
    site.fails(&["open", "short"], 2, "Name should have at least len 6\n");
    site.fails(&["open", "nobody"], 3, "vlmc open failed\n");
    site.prints(&["lock-info", "volume"], "Volume volume: not locked\n");

    let _open = site.open().open_volume("volume", Mode::ReadWrite).unwrap();
    let pid = format!("pid {}", std::process::id());
    for (verb, text) in [("open", "vlmc open failed\n"), ("unlock", "vlmc unlock failed\n")] {
        let reason = site.fails(&[verb, "volume"], 5, text);
        assert!(reason.contains(&pid), "{reason}");
    }
    let (code, out, _) = site.run("vlmc", &["lock-info", "volume"]);
    assert!(code == 0 && out.starts_with("Volume volume: locked by ") && out.contains(&pid), "{out}");
}

#[test]
fn a_volume_is_mapped_shown_and_unmapped_in_the_words_of_the_original() {
    let site = Site::new();
    site.prints(&["create", "volume", "-s", "10"], "");
    site.prints(&["showmapped"], "No volumes mapped\n");
    site.fails(&["unmap", "/dev/xen/blktap-2/tapdev0"], 3, "Device doesn't exist\n");
    let reason = site.fails(&["map", "volume", "-ro", "-v0"], 1, "");
    assert!(reason.contains("take a snapshot"), "{reason}");
    site.fails(&["map", "nobody"], 3, "");
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new("/dev/loop-control").exists() {
        return;
    }
    // The path goes to standard error.
    let (code, out, device) = site.run("vlmc", &["map", "volume"]);
    assert_eq!((code, out.as_str()), (0, ""), "{device}");
    let device = device.trim_end().to_string();
    let again = site.run("vlmc", &["map", "volume"]).2;
    let shown = site.run("vlmc", &["showmapped"]).1;
    let removed = site.run("vlmc", &["rm", "volume"]);
    let open = fs::File::open(&device);
    let busy = site.run("vlmc", &["unmap", &device]);
    drop(open);
    let unmapped = site.run("vlmc", &["unmap", &device]);
    assert_eq!(unmapped, (0, String::new(), String::new()));
    assert!(device.starts_with("/dev/loop") && again.trim_end() == device, "{device} {again}");
    assert_eq!(shown, format!("id\timage\t\tdevice\n0\tvolume\t\t{device}\n"));
    assert_eq!((removed.0, removed.1), (5, format!("Volume volume mapped on device {device}\n")));
    assert_eq!((busy.0, busy.1), (5, format!("Device is busy (PID: {})\n", std::process::id())));
    site.prints(&["showmapped"], "No volumes mapped\n");
}

#[test]
fn options_of_the_original_are_accepted_where_it_had_them() {
    let site = Site::new();
    site.prints(&["create", "volume", "-s", "10", "-v0", "--v0_size", "-1"], "");
    site.prints(&["info", "volume", "--assume_v0"], "Volume volume: size: 10485760\n");
    site.prints(&["info", "--assume", "volume"], "Volume volume: size: 10485760\n");
    site.prints(&["resize", "-v0", "volume", "-s", "11"], "");
    site.prints(&["rename", "volume", "renamed", "-v0"], "Renamed volume to renamed\n");
    assert_eq!(site.run("vlmc", &["mak"]).0, 2);
}

#[test]
fn a_store_that_is_not_there_is_told_without_a_text_of_the_original() {
    let site = Site::new();
    let output = site.program("vlmc", &["list"]).env("ARCHIPELAGO_STORE", "file:/nonexistent/store").output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), b"".as_slice()));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("vlmc: "));
}

#[test]
fn the_configuration_of_the_original_names_store_group_mode_and_old_directories() {
    let site = Site::new();
    site.prints(&["create", "volume", "-s", "10"], "");
    for dir in ["maps", "blocks"] {
        fs::create_dir(site.path(dir)).unwrap();
    }
    let conf = site.path("archipelago.conf");
    let text = format!(
        "[ARCHIPELAGO]\nUSER = archipelago\nSTORE = {}\nUMASK = 0o027\n[XSEG]\nSEGMENT_SIZE = 512\n[PEERS]\nROLES = b m mapperd\n\
         [b]\ntype = file_blocker\nportno_start = 1000\narchip_dir = {}\n[m]\ntype = file_blocker\nportno_start = 1002\narchip_dir = {}\n\
         [mapperd]\ntype = mapperd\nblockerb_port = 1000\nblockerm_port = 1002\n",
        site.store(),
        site.path("blocks").display(),
        site.path("maps").display(),
    );
    fs::write(&conf, &text).unwrap();
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o644)).unwrap();
    let named = ["-c", conf.to_str().unwrap()];
    let run = |name: &str, args: &[&str]| {
        let output = site.program(name, &[&named, args].concat()).env_remove("ARCHIPELAGO_STORE").output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = run("vlmc", &["list"]);
    assert_eq!((code, out.as_str()), (0, "volume\n"), "{err}");
    assert!(err.contains("[XSEG] SEGMENT_SIZE") && err.contains("USER") && !err.contains("archip_dir"), "{err}");
    let (code, out, err) = run("archipelago", &["import-legacy", "--json"]);
    assert_eq!((code, out.as_str()), (0, "[]\n"), "{err}");
    let place = format!("file:{}", site.path("made").display());
    let (code, out, err) = run("archipelago", &["init", "--store", &place, "--json"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["mode"], json!("0640"));

    fs::write(&conf, text.replace("UMASK = 0o027", "UMASK = rwx")).unwrap();
    let (code, out, err) = run("vlmc", &["list"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("archipelago.conf: line 4: `UMASK`"), "{err}");
}

#[test]
fn verbs_of_the_original_that_have_nothing_to_do_say_what_has() {
    let site = Site::new();
    for verb in ["start", "stop", "restart"] {
        let (code, out, err) = site.run("archipelago", &[verb, "mapperd", "--force"]);
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains("archipelago serve"), "{err}");
    }
    for verb in ["volume-open", "volume-lock", "backend-list", "driver-list"] {
        let (code, _, err) = site.run("archipelago", &[verb]);
        assert!(code == 1 && err.contains("archipelago"), "{verb}: {err}");
    }
    assert_eq!(site.run("archipelago", &["volume-create", "volume", "--size", "1M"]).0, 0);
    assert!(site.run("archipelago", &["volume-list"]).1.contains("volume"));
}

#[test]
fn man_pages_and_completions_have_both_names_of_the_program() {
    let site = Site::new();
    assert_eq!(site.run("archipelago", &["man", site.path("man").to_str().unwrap()]).0, 0);
    for page in ["archipelago.1", "archipelago-create.1", "vlmc.1", "vlmc-create.1", "vlmc-showmapped.1"] {
        assert!(site.path("man").join(page).exists(), "{page}");
    }
    let (code, script, _) = site.run("archipelago", &["completions", "bash", "--of", "vlmc"]);
    assert!(code == 0 && script.contains("showmapped") && script.contains("_vlmc"), "{script}");
}
