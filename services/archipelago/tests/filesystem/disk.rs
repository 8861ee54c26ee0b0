//! An ext4 of its own, in a file.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tempfile::TempDir;

/// A mounted file system. It is mounted in a namespace of the calling thread and of those which that starts, so that it is gone with
/// them, however they end.
pub struct Disk {
    dir: TempDir,
}

impl Disk {
    /// A file system of so many MiB; `None`, with the reason printed, where none can be mounted.
    pub fn new(mib: u64) -> Option<Disk> {
        if !geteuid().is_root() {
            return left_out("only root can mount a file system");
        }
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        run("mount", &["--make-rprivate", "/"]).unwrap();
        let dir = TempDir::new().unwrap();
        let (file, mount) = (dir.path().join("image"), dir.path().join("mounted"));
        std::fs::File::create(&file).unwrap().set_len(mib << 20).unwrap();
        std::fs::create_dir(&mount).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", path(&file)]).unwrap();
        if let Err(reason) = run("mount", &["-o", "loop", path(&file), path(&mount)]) {
            return left_out(&reason);
        }
        Some(Disk { dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // If something is still open, the namespace unmounts it when its last thread ends.
        let _ = run("umount", &[path(&self.path())]);
    }
}

/// Past the harness, which keeps what a test that passes prints.
fn left_out(reason: &str) -> Option<Disk> {
    let test = std::thread::current().name().unwrap_or("?").to_string();
    let text = format!("LEFT OUT: {test}: {reason}\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    None
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    // Where Debian keeps it, which is not on the path of every root.
    let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output =
        Command::new(program).args(args).env("PATH", search).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Bytes that a directory, and all below it, take on their file system.
pub fn taken(path: &Path) -> u64 {
    let found = std::fs::symlink_metadata(path).unwrap();
    let below: u64 = match found.is_dir() {
        true => std::fs::read_dir(path).unwrap().map(|entry| taken(&entry.unwrap().path())).sum(),
        false => 0,
    };
    found.blocks() * 512 + below
}
