//! A store, and a directory of attachments that nobody else uses. Nothing of it stays attached when a test ends.

use std::process::{Command, Output};

use serde_json::Value;

use crate::site::Site;

pub struct Host {
    pub site: Site,
}

impl Host {
    pub fn new() -> Host {
        Host { site: Site::new() }
    }

    /// The command as on a node of this name.
    pub fn command_on(&self, node: &str, arguments: &[&str]) -> Command {
        let mut command = self.site.command(arguments);
        // A path with a blank: it goes through tables of the kernel.
        command.env("ARCHIPELAGO_RUN_DIR", self.site.path("run dir")).env("ARCHIPELAGO_NODE", node);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command_on("node-1", arguments).output().unwrap()
    }

    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_string()
    }

    #[track_caller]
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    }

    #[track_caller]
    pub fn mapped(&self) -> Vec<Value> {
        serde_json::from_str(&self.ok(&["showmapped", "--json"])).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for node in ["node-1", "node-2"] {
            let list = self.command_on(node, &["showmapped", "--json"]).output().unwrap();
            let list: Vec<Value> = serde_json::from_slice(&list.stdout).unwrap_or_default();
            for attached in list {
                let name = attached["name"].as_str().unwrap_or_default().to_string();
                let _ = self.command_on(node, &["unmap", &name]).output();
            }
        }
    }
}

pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("left out: only root can make block devices");
    }
    root
}
