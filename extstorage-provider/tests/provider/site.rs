//! A store, and the provider beside it as Ganeti finds it. Nothing stays attached when a test ends.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use archipelago_core::{CreateOptions, InitOptions, Location, Mode, Store, StoreOptions, VolumeInfo};
use archipelago_service::attach::{Attached, Attacher};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;
/// What Ganeti calls the disk of most tests.
pub const NAME: &str = "0f0c9a52-0e77-4bd1-8a60-2d94c513b8f6.ext.disk0";
pub const UUID: &str = "5d1b3f60-77aa-4c02-9d5c-90a1b2c3d4e5";
pub const CNAME: &str = "snf-vol-42";

/// Names under which the program is installed.
pub const VERBS: [&str; 10] =
    ["create", "attach", "detach", "remove", "grow", "setinfo", "verify", "snapshot", "open", "close"];

pub struct Site {
    dir: TempDir,
}

/// How a call ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Site {
    pub fn new() -> Site {
        let site = Site { dir: tempfile::tempdir().unwrap() };
        for store in ["store", "ssd"] {
            Store::init(&site.location(store), &InitOptions { block_size: MIB, ..InitOptions::default() }).unwrap();
        }
        site.install("node-1", "");
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn location(&self, store: &str) -> Location {
        Location::File(self.path(store))
    }

    pub fn store(&self) -> Store {
        Store::open(&self.location("store"), StoreOptions::default()).unwrap()
    }

    pub fn ssd(&self) -> Store {
        Store::open(&self.location("ssd"), StoreOptions::default()).unwrap()
    }

    /// Installs the provider for a node of this name, with more lines of configuration.
    pub fn install(&self, node: &str, more: &str) {
        let provider = self.path(node);
        let fresh = !provider.exists();
        if fresh {
            fs::create_dir(&provider).unwrap();
            // By another process: a file that this one has open for writing cannot be run while a fork of another test has it too.
            let copied =
                Command::new("cp").arg(env!("CARGO_BIN_EXE_extstorage-provider")).arg(provider.join("verify")).status();
            assert!(copied.unwrap().success());
            let others =
                VERBS.iter().filter(|verb| **verb != "verify").chain(&["archip-lockvolumes", "archip-openvolumes"]);
            for name in others {
                fs::hard_link(provider.join("verify"), provider.join(name)).unwrap();
            }
        }
        let dir = self.dir.path().display();
        let text = format!(
            "store = 'file:{dir}/store'\nrun_dir = '{dir}/run'\nnode = '{node}'\n[ganeti.pools]\nssd = 'file:{dir}/ssd'\n\
             gone = 'file:{dir}/gone'\n[ganeti]\n{more}\n"
        );
        fs::write(provider.join("archipelago.toml"), text).unwrap();
    }

    /// Calls the provider of a node as Ganeti does, among variables that must not count.
    pub fn call_on(&self, node: &str, verb: &str, vars: &[(&str, &OsStr)]) -> Ended {
        let dir = self.path(node);
        let mut command = Command::new(dir.join(verb));
        command.current_dir(&dir).env_clear();
        for noise in
            ["ARCHIPELAGO_STORE", "ARCHIPELAGO_RUN_DIR", "ARCHIPELAGO_NODE", "XDG_CONFIG_HOME", "HOME", "PATH", "VOL_X"]
        {
            command.env(noise, "/nowhere/at all");
        }
        command.envs(vars.iter().copied());
        ended(command.output().unwrap())
    }

    pub fn call(&self, verb: &str, vars: &[(&str, &str)]) -> Ended {
        let vars: Vec<_> = vars.iter().map(|(name, value)| (*name, OsStr::new(*value))).collect();
        self.call_on("node-1", verb, &vars)
    }

    /// A call for the usual disk that succeeds; what it prints.
    #[track_caller]
    pub fn ok(&self, verb: &str, more: &[(&str, &str)]) -> String {
        let ended = self.call(verb, &with(more));
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{verb} {more:?}");
        ended.out
    }

    /// A call for the usual disk that fails, says why and what to do, and prints nothing where Ganeti reads.
    #[track_caller]
    pub fn fails(&self, verb: &str, more: &[(&str, &str)]) -> String {
        let ended = self.call(verb, &with(more));
        assert_failed(&ended);
        ended.err
    }

    pub fn attacher(&self, node: &str) -> Attacher {
        Attacher::new(self.path("run"), node.into())
    }

    #[track_caller]
    pub fn attached(&self) -> Vec<Attached> {
        self.attacher("node-1").list().unwrap()
    }

    #[track_caller]
    pub fn info(&self, name: &str) -> VolumeInfo {
        self.store().info(name).unwrap()
    }

    /// A snapshot of a volume of this many MiB that begins with `byte` in its first sector.
    pub fn image(&self, name: &str, mib: u64, byte: u8) {
        let (store, volume) = (self.store(), format!("{name}-source"));
        store.create(&volume, &CreateOptions { size: mib * MIB, block_size: None }).unwrap();
        let open = store.open_volume(&volume, Mode::ReadWrite).unwrap();
        open.write_at(&[byte; 4096], 0).unwrap();
        store.snapshot(&volume, name).unwrap();
        open.close().unwrap();
        store.remove(&volume).unwrap();
    }

    /// Names in a directory and all below it.
    pub fn files(&self, name: &str) -> Vec<PathBuf> {
        fn below(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.clone());
                if path.is_dir() {
                    below(&path, found);
                }
            }
        }
        let mut found = Vec::new();
        below(&self.path(name), &mut found);
        found.sort();
        found
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for node in ["node-1", "node-2"] {
            for attached in self.attacher(node).list().unwrap_or_default() {
                let _ = self.attacher(node).detach(&attached.record.id);
            }
        }
    }
}

fn ended(output: Output) -> Ended {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// The variables that Ganeti sets for the usual disk, and others behind them, which win.
pub fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let usual = [
        ("VOL_NAME", NAME),
        ("VOL_UUID", UUID),
        ("VOL_CNAME", CNAME),
        ("EXTP_PROVIDER", "archipelago"),
        ("EXTP_ACCESS", "kernelspace"),
    ];
    usual.into_iter().chain(more.iter().copied()).collect()
}

#[track_caller]
pub fn assert_failed(ended: &Ended) {
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    let lines: Vec<_> = ended.err.lines().collect();
    // Ganeti shows the last 20 lines.
    assert!(lines.len() <= 20 && ended.err.len() < 4000, "{}", ended.err);
    assert!(lines.last().is_some_and(|line| line.starts_with("What to do: ")), "{}", ended.err);
}

pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("left out: only root can make block devices");
    }
    root
}

/// Any bytes as the value of a variable.
pub fn bytes(value: &[u8]) -> OsString {
    OsString::from_vec(value.to_vec())
}
