//! How processes ask each other for work on volumes that they have open (docs/control.md).
//!
//! One writer has a volume open; a snapshot, a resize or a rename by anybody else is a request to that process. Here are
//! the messages and the asking side; [`ControlServer`] is the side that answers.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::acknowledge::Unsettled;
use super::group::GroupStep;
use super::pins::PinnedHeader;
use super::{VolumeInfo, os, process};
use crate::error::{Error, Result};
use crate::time::format_utc;

mod frame;
mod remote;
mod server;
#[cfg(test)]
mod tests;

pub use remote::RemoteError;
pub use server::ControlServer;
#[cfg(feature = "fuzzing")]
pub(crate) use server::serve_one;

/// Version of the protocol that this build speaks.
pub const PROTOCOL: u32 = 1;
/// Longest timeout of [`ask`]; longer ones are cut to it, so that deadlines can be computed.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// What one process may ask of another. `id` says which volume is meant (16 hex digits); `volume` is its name, for messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// What it has open for writing.
    Status,
    /// Take a snapshot.
    Snapshot {
        /// Name of the volume.
        volume: String,
        /// Id of the volume.
        id: String,
        /// Name of the snapshot to be made.
        snapshot: String,
    },
    /// Set the size.
    Resize {
        /// Id of the volume.
        id: String,
        /// Name of the volume.
        volume: String,
        /// New size in bytes.
        size: u64,
        /// Whether it may become smaller.
        shrink: bool,
    },
    /// Make all writes durable.
    Flush {
        /// Id of the volume.
        id: String,
        /// Name of the volume.
        volume: String,
    },
    /// Give the volume another name.
    Rename {
        /// Id of the volume.
        id: String,
        /// Name of the volume.
        volume: String,
        /// Its new name.
        new: String,
    },
    /// Change labels, all together or none.
    Label {
        /// Id of the volume.
        id: String,
        /// Name of the volume.
        volume: String,
        /// Keys with their new values, or `None` to take one away.
        changes: Vec<(String, Option<String>)>,
    },
    /// Hand the volume over: end what is under way, flush and close it, so that another process may open it.
    Release {
        /// Id of the volume.
        id: String,
        /// Name of the volume.
        volume: String,
        /// Not to ask for it again by itself.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        exclusive: bool,
    },
    /// Facts about the volume as of now.
    Info {
        /// Id of the volume.
        id: String,
        /// Name of the volume.
        volume: String,
    },
    /// A step of a group snapshot.
    Group {
        /// Id of the group.
        group: String,
        /// Id of the volume.
        id: String,
        /// Name of the volume.
        volume: String,
        /// What to do.
        step: GroupStep,
    },
    /// Answer when everything that began before has ended; for a collector.
    Acknowledge {
        /// Whether node packs are closed first.
        packs: bool,
    },
    /// Which headers it reads by; for a collector.
    Pins {
        /// The number behind which the page begins; 0 for the first.
        after: u64,
    },
    /// Objects were collected: files that are kept open only to be quick are closed, so that their room is free.
    Collected,
    /// Something between programs, of which the engine knows nothing.
    Question {
        /// As the program defines it.
        question: serde_json::Value,
    },
}

/// What comes back for a [`Request`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It was done.
    Done,
    /// Facts about the volume, or about the snapshot that was made.
    Info(Box<VolumeInfo>),
    /// State of the process.
    Status {
        /// Names of the volumes that it has open for writing.
        volumes: Vec<String>,
        /// What it is doing besides, for people.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        work: Vec<String>,
        /// What its background work failed with last, or a scrub found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<String>,
    },
    /// Everything that began before has ended.
    Acknowledged {
        /// Volumes with changes that are in no journal.
        unsettled: Vec<Unsettled>,
    },
    /// Headers that it reads by.
    Pins {
        /// In the order in which they were pinned.
        pins: Vec<PinnedHeader>,
        /// What to give as `after` for the next page; `None` on the last.
        next: Option<u64>,
    },
    /// What the header of a snapshot must be; to the last step but one of a group snapshot.
    Header {
        /// Encoded, in hex digits.
        header: String,
    },
    /// To a question between programs.
    Answered {
        /// As the program defines it.
        answer: serde_json::Value,
    },
    /// It was not done. [`ask`] returns this as an error.
    Failed(RemoteError),
}

impl From<Result<Answer>> for Answer {
    fn from(result: Result<Answer>) -> Answer {
        result.unwrap_or_else(|error| Answer::Failed(RemoteError::from(&error)))
    }
}

/// Carries out requests. Called from the thread of each connection, so from several at once; a panic is caught and answered.
pub trait Handler: Send + Sync {
    /// Carries out one request.
    fn handle(&self, request: Request) -> Answer;
}

/// First frame of each side.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    /// [`PROTOCOL`] of the sender.
    archipelago: u32,
    /// Why the server will not serve this client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<RemoteError>,
}

impl Hello {
    fn new() -> Hello {
        Hello { archipelago: PROTOCOL, refused: None }
    }

    fn refusing(error: &Error) -> Hello {
        Hello { archipelago: PROTOCOL, refused: Some(RemoteError::from(error)) }
    }
}

/// Asks the process registered as `process` in the store at `root`, and waits for its answer for at most `timeout`.
///
/// An error of the other process comes back as the same error here, [`Answer::Failed`] never. Otherwise:
/// * [`Error::NotOpen`]: the process has ended, or has closed the store, before the request reached it. Whatever it had
///   open is free: look again.
/// * [`Error::Timeout`]: no answer in time. The process may be stopped or busy; it may still carry the request out.
/// * [`Error::TooBusy`]: it serves as many connections as it may. Try again.
/// * [`Error::Unsupported`]: it runs on another host, or speaks another version.
/// * [`Error::Io`]: the connection broke after the request was sent (the outcome is not known), or permission is lacking.
pub fn ask(root: &Path, process: &str, request: &Request, timeout: Duration) -> Result<Answer> {
    process::check_id(process)?;
    let deadline = Instant::now() + timeout.min(MAX_TIMEOUT);
    let dir = process::open_dir(root)?;
    let who = Asked { dir: &dir, process };

    let stream = os::connect(&dir.path(&process::socket_name(process)), timeout.min(MAX_TIMEOUT))
        .map_err(|e| who.not_connected(e))?;
    let greeting = match frame::read(&stream, deadline) {
        Ok(Some(bytes)) => bytes,
        // It went away between accepting and greeting, or never accepted.
        Ok(None) => return Err(who.gone()),
        Err(e) if is_broken(&e) => return Err(who.gone()),
        Err(e) => return Err(who.failed("hear", e)),
    };
    let hello: Hello = serde_json::from_slice(&greeting).map_err(|_| who.unclear())?;
    if let Some(refused) = hello.refused {
        return Err(refused.into());
    }
    if hello.archipelago != PROTOCOL {
        return Err(who.unclear());
    }

    let mut message = frame::encode(&Hello::new())?;
    message.extend(frame::encode(request)?);
    match frame::write(&stream, &message, deadline) {
        Ok(()) => {}
        // A request that was not taken in full is not carried out.
        Err(e) if is_broken(&e) => return Err(who.gone()),
        Err(e) => return Err(who.failed("ask", e)),
    }
    let answer = frame::read(&stream, deadline)
        .and_then(|bytes| bytes.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
        .map_err(|e| who.failed("wait for the answer of", e))?;
    match serde_json::from_slice(&answer).map_err(|_| who.unclear())? {
        Answer::Failed(error) => Err(error.into()),
        answer => Ok(answer),
    }
}

/// What [`ask`] makes of a greeting and an answer; `None` if it would not understand them.
#[cfg(feature = "fuzzing")]
pub(crate) fn understand(greeting: &[u8], answer: &[u8]) -> Option<Result<Answer>> {
    let hello: Hello = serde_json::from_slice(greeting).ok()?;
    if let Some(refused) = hello.refused {
        return Some(Err(refused.into()));
    }
    match serde_json::from_slice(answer).ok()? {
        Answer::Failed(error) => Some(Err(error.into())),
        answer => Some(Ok(answer)),
    }
}

/// Whether the other side closed the connection.
fn is_broken(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// The process that is asked, for messages: its record is read only when something went wrong.
struct Asked<'a> {
    dir: &'a process::Dir,
    process: &'a str,
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match process::record(self.dir, self.process) {
            Some(o) => write!(f, "{} (pid {} on {}, since {})", o.command, o.pid, o.host, format_utc(o.since)),
            None => write!(f, "process {}", self.process),
        }
    }
}

impl Asked<'_> {
    fn gone(&self) -> Error {
        Error::NotOpen(format!("the store in process {}", self.process))
    }

    fn unclear(&self) -> Error {
        Error::Unsupported(format!(
            "{self}: speaks another version of the control protocol; restart it with this version"
        ))
    }

    fn failed(&self, op: &'static str, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::TimedOut => Error::Timeout(self.to_string()),
            _ => Error::Io { op, object: self.to_string(), source: error },
        }
    }

    fn not_connected(&self, error: io::Error) -> Error {
        match error.raw_os_error() {
            // The queue of connections stayed full: nobody accepts.
            Some(libc::EAGAIN) => Error::Timeout(self.to_string()),
            Some(libc::ENOENT | libc::ECONNREFUSED) => {
                if self.dir.lacks(&process::socket_name(self.process)) || !process::is_live(self.dir, self.process) {
                    return self.gone();
                }
                match process::record(self.dir, self.process) {
                    Some(owner) if owner.host != process::host() => Error::Unsupported(format!(
                        "{self}: runs on another host and cannot be asked from here; run the command on {}",
                        owner.host
                    )),
                    _ => self.failed("connect to", error),
                }
            }
            _ => self.failed("connect to", error),
        }
    }
}
