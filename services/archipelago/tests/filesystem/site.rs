//! A store on a disk, used through the program and through the library.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::str::FromStr;

use archipelago_core::{Background, Location, Store, StoreOptions, limits};
use serde_json::Value;

use crate::disk::{Disk, taken};

/// One store.
pub struct Site {
    /// Below it.
    pub disk: Disk,
}

impl Site {
    /// A new store; `None` where no file system can be mounted.
    pub fn new(mib: u64) -> Option<Site> {
        let site = Site { disk: Disk::new(mib)? };
        site.ok(&["init"]);
        Some(site)
    }

    /// The directory of the store.
    pub fn store(&self) -> PathBuf {
        self.disk.path().join("store")
    }

    fn location(&self) -> String {
        format!("file:{}", self.store().display())
    }

    /// Runs the program.
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archipelago"));
        command.args(args).args(["--store", &self.location()]).env("XDG_CONFIG_HOME", self.disk.path());
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs it successfully, and returns what it printed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Opens the store here, with a thread in the background as in the program.
    pub fn open(&self) -> Store {
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

    /// Names of all maps.
    pub fn names(&self) -> Vec<String> {
        let list: Value = serde_json::from_str(&self.ok(&["list", "--json"])).unwrap();
        list["entries"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_string()).collect()
    }

    /// Bytes that the store takes.
    pub fn taken(&self) -> u64 {
        taken(&self.store())
    }
}
