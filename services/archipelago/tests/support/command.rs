//! The command on a store in a temporary directory; nothing of the machine's configuration is seen.
#![allow(dead_code, missing_docs)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use archipelago_core::{Location, Store, StoreOptions};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for another process; far above what it takes, so that a loaded machine does not fail a test.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Site {
    dir: TempDir,
}

impl Site {
    /// With a store.
    pub fn new() -> Site {
        let site = Site { dir: TempDir::new().unwrap() };
        Store::init(&Location::from_str(&site.location()).unwrap(), &Default::default()).unwrap();
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn location(&self) -> String {
        format!("file:{}", self.text("store"))
    }

    /// The store, opened by this process.
    pub fn open(&self) -> Store {
        Store::open(&Location::from_str(&self.location()).unwrap(), StoreOptions::default()).unwrap()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archipelago"));
        command.args(args).env("ARCHIPELAGO_STORE", self.location()).env("XDG_CONFIG_HOME", self.path("xdg"));
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        let output = self.command(args).output().unwrap();
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
        output
    }

    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
