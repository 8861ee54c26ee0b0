//! The one error type of the engine, and the one place where it becomes an errno.

use std::fmt;
use std::io;

/// Result of every fallible call of the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// Who holds a volume: enough for a person to find the process.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    /// Process id on `host`.
    pub pid: u32,
    /// Host name.
    pub host: String,
    /// Command name of the process.
    pub command: String,
    /// Seconds since 1970 at which it opened the volume.
    pub since: u64,
    /// Registration of the process in the store, 16 hex digits.
    pub process: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {} on {}, since {})", self.command, self.pid, self.host, crate::time::format_utc(self.since))
    }
}

/// Every way in which an engine call fails. The text says what to do where something can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No volume, snapshot or object of that name.
    #[error("{0}: no such volume or snapshot")]
    NotFound(String),
    /// The name is taken.
    #[error("{0}: already exists; choose another name or remove it first")]
    Exists(String),
    /// The name breaks a rule of [`crate::name`].
    #[error("{name:?}: not a valid name: {reason}")]
    InvalidName {
        /// The name as given.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// An argument is out of its documented range.
    #[error("{0}")]
    InvalidArgument(String),
    /// A request touches bytes past the end of the volume.
    #[error("{name}: {len} bytes at offset {offset} reach past its end at {size}")]
    OutOfRange {
        /// Volume name.
        name: String,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Size of the volume in bytes.
        size: u64,
    },
    /// A write to a snapshot or to a volume opened read-only.
    #[error("{0}: is read-only; clone it and write to the clone")]
    ReadOnly(String),
    /// Only snapshots can be cloned or sent.
    #[error("{0}: is not a snapshot; take a snapshot of it and use that")]
    NotSnapshot(String),
    /// Only writable volumes can be snapshotted or resized.
    #[error("{0}: is a snapshot; clone it first")]
    IsSnapshot(String),
    /// The volume is open in another process, which was not able to do what was asked.
    #[error("{name}: open elsewhere by {owner}; {advice}")]
    OpenElsewhere {
        /// Volume name.
        name: String,
        /// Who has it open.
        owner: Box<Owner>,
        /// What to do about it.
        advice: &'static str,
    },
    /// The volume is open in this process in a way that forbids the call.
    #[error("{0}: is open in this process; close it first")]
    Busy(String),
    /// This process stands for the volume, and gave it up for another one to have.
    #[error("{0}: is closed here, for another process to have it; `archipelago standby` opens it here again")]
    GivenUp(String),
    /// The handle was closed, or its store was.
    #[error("{0}: is not open")]
    NotOpen(String),
    /// The backend has no room for new data.
    #[error("{0}: no space left in the store; make room where it lies, then repeat what failed")]
    NoSpace(String),
    /// A stored object does not hold what its checksum says: cut short, altered, or not what was expected.
    #[error(
        "{object}: damaged: {detail}; nothing was changed; restore the file from a copy, or see with `archipelago check` what is lost"
    )]
    Damaged {
        /// The object, as a path or name in the store.
        object: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A stored object was written by a later version.
    #[error("{object}: needs a newer archipelago: {detail}")]
    TooNew {
        /// The object.
        object: String,
        /// The version or feature that is not known here.
        detail: String,
    },
    /// A system call failed.
    #[error("{op} {object}: {source}")]
    Io {
        /// The operation, e.g. `write`.
        op: &'static str,
        /// The object it was for.
        object: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An earlier sync of this volume failed; what was not flushed before it may be lost.
    #[error("{0}: an earlier sync failed and later data may be lost; close it, look at the disk, and open it again")]
    Poisoned(String),
    /// Another writer took the volume over.
    #[error("{0}: this process no longer owns the volume")]
    Stale(String),
    /// The registration of this process in the store was taken away, so that nobody asks it any more what it needs.
    #[error(
        "procs/p.{0}: the registration of this process is gone, so it changes nothing any more; open the store again"
    )]
    Unregistered(String),
    /// No store at that place.
    #[error("{0}: no store here; make one with `archipelago init`")]
    NoStore(String),
    /// The backend or build does not offer the operation.
    #[error("{0}")]
    Unsupported(String),
    /// The snapshot on which an incremental stream builds is not here.
    #[error("{0}; receive that one first, or send without --from")]
    NoBase(String),
    /// The map is being received.
    #[error("{0}: is being received and can only be removed; finish it, see `archipelago receive --status`")]
    Receiving(String),
    /// The newest writes of the volume are in a write-back cache that is not at hand.
    #[error("{0}; open it there with that cache, or give up what is in it with `archipelago discard-cache`")]
    Cached(String),
    /// A process that should answer did not.
    #[error("{0}: did not answer in time")]
    Timeout(String),
    /// A bounded queue is full.
    #[error("{0}: too many requests at once")]
    TooBusy(String),
}

/// The operation of an [`Error::Io`] that is a failed sync.
pub(crate) const SYNC: &str = "sync";

impl Error {
    /// The errno that stands for this error in the C ABI and on block protocols: the only such table.
    pub fn errno(&self) -> i32 {
        match self {
            Error::NotFound(_) | Error::NoStore(_) | Error::NoBase(_) => libc::ENOENT,
            Error::Exists(_) => libc::EEXIST,
            Error::InvalidName { .. } | Error::InvalidArgument(_) | Error::OutOfRange { .. } => libc::EINVAL,
            Error::ReadOnly(_) => libc::EROFS,
            Error::NotSnapshot(_) | Error::IsSnapshot(_) => libc::EPERM,
            Error::OpenElsewhere { .. }
            | Error::Busy(_)
            | Error::GivenUp(_)
            | Error::Receiving(_)
            | Error::Cached(_) => libc::EBUSY,
            Error::NotOpen(_) => libc::EBADF,
            Error::NoSpace(_) => libc::ENOSPC,
            Error::Damaged { .. } | Error::Poisoned(_) => libc::EIO,
            Error::TooNew { .. } | Error::Unsupported(_) => libc::EOPNOTSUPP,
            Error::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Error::Stale(_) | Error::Unregistered(_) => libc::ESTALE,
            Error::Timeout(_) => libc::ETIMEDOUT,
            Error::TooBusy(_) => libc::EAGAIN,
        }
    }

    /// A system call's failure, with ENOSPC and EDQUOT told apart from the rest.
    pub fn io(op: &'static str, object: impl Into<String>, source: io::Error) -> Error {
        match source.raw_os_error() {
            Some(libc::ENOSPC) | Some(libc::EDQUOT) => Error::NoSpace(object.into()),
            _ => Error::Io { op, object: object.into(), source },
        }
    }

    /// Whether [`Blocker::sync`](crate::blocker::Blocker::sync) ended with this before it synced what it was looking for, so that the system
    /// has dropped nothing.
    pub(crate) fn is_before_sync(&self) -> bool {
        matches!(self, Error::Io { op, .. } if *op != SYNC)
    }

    /// A stored object that does not hold what it should.
    pub fn damaged(object: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Damaged { object: object.into(), detail: detail.into() }
    }
}
