//! Starts the process that serves a volume, and waits until it does.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

use super::error::AttachError;
use super::limits::MAX_SAID;
use super::place::Place;
use crate::cli::exit::Class;

/// Where a server with an environment of its own finds programs.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What a server prints when it serves.
pub const READY: &str = "attached";

/// An error as our own commands print it with `--json`.
#[derive(Deserialize)]
struct Said {
    error: SaidError,
}

#[derive(Deserialize)]
struct SaidError {
    code: String,
    message: String,
}

/// Runs this program with `arguments` until it says that it serves; under `name`, if one is given, and then with an empty environment. It goes
/// on when this process ends.
pub fn start(place: &Place, name: Option<&str>, arguments: &[OsString]) -> Result<u32, AttachError> {
    let log = place.log();
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&log);
    let file = opened.map_err(|e| AttachError::host("open", log.display(), e))?;
    // Also after this program was replaced by a newer one.
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = name {
        command.arg0(name).env_clear().env("PATH", PATH);
    }
    command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
    let mut child = command.spawn().map_err(|e| AttachError::host("start", "a server", e))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        // An error is the end as well.
        let _ = BufReader::new(stdout.take(MAX_SAID)).read_line(&mut line);
    }
    if line.trim_end() == READY {
        return Ok(child.id());
    }
    Err(failure(place, child))
}

/// Why a server ended, in its own words.
fn failure(place: &Place, mut child: Child) -> AttachError {
    let status = match child.wait() {
        Ok(status) => status,
        Err(error) => return AttachError::host("wait for", "a server", error),
    };
    let mut text = String::new();
    if let Ok(log) = fs::File::open(place.log()) {
        let _ = log.take(MAX_SAID).read_to_string(&mut text);
    }
    let said = text.lines().rev().find_map(|line| serde_json::from_str::<Said>(line).ok());
    match said {
        Some(Said { error }) => AttachError::Server { class: Class::of_word(&error.code), text: error.message },
        None => AttachError::Server {
            class: Class::Other,
            text: format!("the server of the volume ended early ({status}): {}", text.trim_end()),
        },
    }
}
