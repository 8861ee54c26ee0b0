//! A new store beside an old one, and the command that imports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::generator::{Layout, OldStore};

pub struct Site {
    dir: TempDir,
    pub old: OldStore,
}

impl Site {
    pub fn new(layout: Layout) -> Site {
        let dir = TempDir::new().unwrap();
        let old = OldStore::new(&dir.path().join("old"), layout);
        let site = Site { dir, old };
        site.ok(&["init"]);
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archipelago"));
        command.args(args).args(["--store", &format!("file:{}", self.path("store").display())]);
        command.env_remove("ARCHIPELAGO_STORE").env("XDG_CONFIG_HOME", self.path("xdg")).stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
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

    fn import_args<'a>(&self, maps: &'a str, blocks: &'a str, args: &[&'a str]) -> Vec<&'a str> {
        [&["import-legacy", "--maps", maps, "--blocks", blocks], args].concat()
    }

    fn directories(&self) -> (String, String) {
        (self.old.maps.display().to_string(), self.old.blocks.display().to_string())
    }

    /// `import-legacy` with these arguments, as a command that was not started yet.
    pub fn importing(&self, args: &[&str]) -> Command {
        let (maps, blocks) = self.directories();
        self.command(&self.import_args(&maps, &blocks, args))
    }

    /// Runs `import-legacy` successfully and returns its documents, by the name of the volume.
    #[track_caller]
    pub fn import(&self, args: &[&str]) -> Value {
        let (maps, blocks) = self.directories();
        by_name(&self.json(&self.import_args(&maps, &blocks, args)))
    }

    #[track_caller]
    pub fn import_text(&self, args: &[&str]) -> String {
        let (maps, blocks) = self.directories();
        self.ok(&self.import_args(&maps, &blocks, args))
    }

    /// Runs `import-legacy`, which must fail with this code; returns what it printed as JSON, and its errors.
    #[track_caller]
    pub fn import_fails(&self, code: i32, word: &str, args: &[&str]) -> (Value, String) {
        let (maps, blocks) = self.directories();
        let output = self.run(&self.import_args(&maps, &blocks, &[args, &["--json"]].concat()));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        let error: Value = serde_json::from_str(errors.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
        assert_eq!(error["error"]["code"], json!(word), "{errors}");
        let documents = serde_json::from_slice(&output.stdout).unwrap_or(json!([]));
        (by_name(&documents), error["error"]["message"].as_str().unwrap().to_string())
    }

    /// Names in the new store.
    pub fn names(&self) -> Vec<String> {
        let list = self.json(&["list"]);
        list["entries"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap().to_string()).collect()
    }

    /// The bytes of a volume or snapshot.
    #[track_caller]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let file = self.path("exported");
        self.ok(&["export", name, &file.display().to_string(), "--force"]);
        fs::read(file).unwrap()
    }

    /// The content objects of the new store.
    pub fn contents(&self) -> Vec<PathBuf> {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().len();
        let root = self.path("store").join("content");
        if !root.exists() {
            return Vec::new();
        }
        let all = state(&[&root]).into_iter().map(|(path, ..)| path);
        all.filter(|path| path.is_file() && name(path) == 64).collect()
    }

    /// Bytes that came into the store for a map without a link, whichever way the file system has for that.
    pub fn brought(&self, done: &Value) -> u64 {
        done["copied"].as_u64().unwrap() + done["reflinked"].as_u64().unwrap()
    }

    /// Everything in the old store: paths, lengths and times of changes.
    pub fn old_state(&self) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
        state(&[&self.old.maps, &self.old.blocks])
    }

    /// The same of the new store, without what says which processes use it.
    pub fn new_state(&self) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
        let all = state(&[&self.path("store")]);
        let procs = self.path("store").join("procs");
        all.into_iter().filter(|(path, ..)| !path.starts_with(&procs)).collect()
    }
}

fn state(roots: &[&Path]) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    roots.iter().for_each(|root| walk(root, &mut found));
    found.sort();
    found
}

fn walk(dir: &Path, found: &mut Vec<(PathBuf, u64, std::time::SystemTime)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let facts = entry.metadata().unwrap();
        found.push((entry.path(), facts.len(), facts.modified().unwrap()));
        if facts.is_dir() {
            walk(&entry.path(), found);
        }
    }
}

fn by_name(documents: &Value) -> Value {
    let entries = documents.as_array().unwrap().iter();
    Value::Object(entries.map(|d| (d["name"].as_str().unwrap().to_string(), d.clone())).collect())
}
