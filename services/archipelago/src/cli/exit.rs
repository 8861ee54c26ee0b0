//! Every way in which a command fails, and the one place where it becomes an exit code and a word for scripts.

use std::io;

use archipelago_core::Error;
use serde::Serialize;

use crate::attach::AttachError;
use crate::import::ImageError;
use crate::import::legacy::LegacyError;
use crate::nbd::ListenError;
use crate::nbd::tls::TlsError;

/// The table of exit codes, as `--help` shows it. `docs/cli.md` repeats it.
pub const HELP: &str = "Exit codes:
  0  success
  1  failed for another reason
  2  usage: wrong arguments or configuration
  3  not found
  4  exists already
  5  busy: open or locked elsewhere
  6  read-only
  7  I/O error or damaged data
  8  no space
  9  check: something was wrong, and is repaired
  10  check: something is wrong that --repair repairs
  11  doctor: something should be seen to
  12  doctor: something does not work
  128+N  stopped by signal N";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] Error),
    /// An image could not be imported.
    #[error(transparent)]
    Image(ImageError),
    /// A map of an old store could not be imported.
    #[error(transparent)]
    Legacy(LegacyError),
    /// The arguments or the configuration are wrong.
    #[error("{0}")]
    Usage(String),
    /// A system call outside the store failed.
    #[error("{op} {object}: {source}")]
    Host {
        /// What was being done, e.g. `open`.
        op: &'static str,
        /// The file or socket.
        object: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A socket could not be listened on.
    #[error("{0}")]
    Listen(#[from] ListenError),
    /// A volume could not be attached or detached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Certificates or keys cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// A file that would be written exists.
    #[error("{0}: exists already; name another file, or use --force to replace it")]
    FileExists(String),
    /// Something with data would be written over, or a volume that nobody made for that deleted.
    #[error("{0}: has data; use --overwrite if it may be lost")]
    HasData(String),
    /// A signal ended it; what was half done has been undone.
    #[error("stopped by signal {0}; nothing half done was left behind")]
    Signal(i32),
    /// A signal ended it; what was received is kept.
    #[error(
        "stopped by signal {0}; what was received is kept, and can be gone on with: see `archipelago receive --status`"
    )]
    Kept(i32),
    /// Standard output could not be written.
    #[error("write standard output: {0}")]
    Output(io::Error),
    /// Some of several were not done; each was reported. Fails as the first of them.
    #[error("some were not done")]
    Reported(Class),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        match error {
            ImageError::Engine(error) => Failure::Engine(error),
            other => Failure::Image(other),
        }
    }
}

impl From<LegacyError> for Failure {
    fn from(error: LegacyError) -> Failure {
        match error {
            LegacyError::Engine(error) => Failure::Engine(error),
            other => Failure::Legacy(other),
        }
    }
}

/// What scripts tell failures apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Anything else.
    Other,
    /// Wrong arguments or configuration.
    Usage,
    /// No such volume, store or file.
    NotFound,
    /// The name is taken.
    Exists,
    /// Open or locked elsewhere, or no answer from who has it.
    Busy,
    /// A write to what does not change.
    ReadOnly,
    /// I/O error or damaged data.
    Io,
    /// No room.
    NoSpace,
    /// A check found something wrong and repaired all of it.
    Repaired,
    /// A check found something wrong that can be repaired.
    Repairable,
    /// A doctor has a warning.
    Warned,
    /// A doctor found something that does not work.
    Unfit,
    /// A signal.
    Signal(i32),
}

impl Class {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Class::Other => 1,
            Class::Usage => 2,
            Class::NotFound => 3,
            Class::Exists => 4,
            Class::Busy => 5,
            Class::ReadOnly => 6,
            Class::Io => 7,
            Class::NoSpace => 8,
            Class::Repaired => 9,
            Class::Repairable => 10,
            Class::Warned => 11,
            Class::Unfit => 12,
            Class::Signal(number) => u8::try_from(128 + number).unwrap_or(u8::MAX),
        }
    }

    /// The word in `error.code` of JSON errors.
    pub fn word(self) -> &'static str {
        match self {
            Class::Other => "other",
            Class::Usage => "usage",
            Class::NotFound => "not_found",
            Class::Exists => "exists",
            Class::Busy => "busy",
            Class::ReadOnly => "read_only",
            Class::Io => "io",
            Class::NoSpace => "no_space",
            Class::Repaired => "repaired",
            Class::Repairable => "repairable",
            Class::Warned => "warned",
            Class::Unfit => "unfit",
            Class::Signal(_) => "signal",
        }
    }
}

impl Class {
    /// The class that a word stands for.
    pub fn of_word(word: &str) -> Class {
        let plain = [
            Class::Usage,
            Class::NotFound,
            Class::Exists,
            Class::Busy,
            Class::ReadOnly,
            Class::Io,
            Class::NoSpace,
            Class::Repaired,
            Class::Repairable,
        ];
        plain.into_iter().find(|class| class.word() == word).unwrap_or(Class::Other)
    }
}

impl Failure {
    /// A failed system call outside the store.
    pub fn host(op: &'static str, object: impl ToString, source: io::Error) -> Failure {
        Failure::Host { op, object: object.to_string(), source }
    }

    /// What kind of failure it is: the only such table.
    pub fn class(&self) -> Class {
        match self {
            Failure::Engine(error) => class_of_engine(error),
            Failure::Image(ImageError::Engine(error)) => class_of_engine(error),
            Failure::Image(ImageError::Io { source, .. }) | Failure::Host { source, .. } | Failure::Output(source) => {
                class_of_system(source)
            }
            Failure::Image(ImageError::Damaged { .. }) => Class::Io,
            Failure::Image(_) => Class::Other,
            Failure::Legacy(error) => class_of_legacy(error),
            Failure::Listen(ListenError::InUse(_)) => Class::Busy,
            Failure::Attach(error) => error.class(),
            Failure::Listen(ListenError::Io { source, .. }) => class_of_system(source),
            Failure::Tls(TlsError::Read { source, .. }) => class_of_system(source),
            Failure::Usage(_) | Failure::Listen(_) | Failure::Tls(_) => Class::Usage,
            Failure::FileExists(_) | Failure::HasData(_) => Class::Exists,
            Failure::Signal(number) | Failure::Kept(number) => Class::Signal(*number),
            Failure::Reported(class) => *class,
        }
    }

    /// The errno that stands for it.
    pub fn errno(&self) -> i32 {
        match self {
            Failure::Engine(error) | Failure::Image(ImageError::Engine(error)) => error.errno(),
            Failure::Image(ImageError::Io { source, .. }) | Failure::Host { source, .. } | Failure::Output(source) => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            Failure::Image(ImageError::Damaged { .. }) => libc::EIO,
            Failure::Image(_) => libc::EOPNOTSUPP,
            Failure::Legacy(error) => errno_of_legacy(error),
            Failure::Listen(ListenError::InUse(_)) => libc::EADDRINUSE,
            Failure::Attach(error) => error.errno(),
            Failure::Listen(ListenError::Io { source, .. }) => source.raw_os_error().unwrap_or(libc::EIO),
            Failure::Listen(_) => libc::EINVAL,
            Failure::Tls(TlsError::Read { source, .. }) => source.raw_os_error().unwrap_or(libc::EIO),
            Failure::Usage(_) | Failure::Tls(_) => libc::EINVAL,
            Failure::FileExists(_) | Failure::HasData(_) => libc::EEXIST,
            Failure::Signal(_) | Failure::Kept(_) => libc::EINTR,
            Failure::Reported(_) => libc::EIO,
        }
    }

    /// The same signal, for a command that leaves something to go on with.
    pub fn kept(self) -> Failure {
        match self {
            Failure::Signal(number) => Failure::Kept(number),
            other => other,
        }
    }

    /// Whether the reader of standard output went away: the end of the work, but nothing to complain about.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The fields of `{"error": ...}`.
    pub fn json(&self) -> ErrorFields {
        ErrorFields { code: self.class().word(), errno: self.errno(), message: self.to_string() }
    }
}

/// An error as scripts see it.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorFields {
    /// See [`Class::word`].
    pub code: &'static str,
    /// Error number of the system.
    pub errno: i32,
    /// For people.
    pub message: String,
}

fn class_of_engine(error: &Error) -> Class {
    match error {
        Error::NotFound(_) | Error::NoStore(_) | Error::NoBase(_) => Class::NotFound,
        Error::Exists(_) => Class::Exists,
        Error::InvalidName { .. } | Error::InvalidArgument(_) | Error::OutOfRange { .. } => Class::Usage,
        Error::ReadOnly(_) | Error::IsSnapshot(_) => Class::ReadOnly,
        Error::OpenElsewhere { .. }
        | Error::Busy(_)
        | Error::GivenUp(_)
        | Error::Receiving(_)
        | Error::Cached(_)
        | Error::TooBusy(_)
        | Error::Timeout(_)
        | Error::Stale(_)
        | Error::Unregistered(_) => Class::Busy,
        Error::NoSpace(_) => Class::NoSpace,
        Error::Damaged { .. } | Error::Io { .. } | Error::Poisoned(_) => Class::Io,
        // NotSnapshot, NotOpen, TooNew, Unsupported, and what the engine will add.
        _ => Class::Other,
    }
}

fn class_of_legacy(error: &LegacyError) -> Class {
    match error {
        LegacyError::Engine(error) => class_of_engine(error),
        LegacyError::NotFound(_) => Class::NotFound,
        LegacyError::Damaged { .. } | LegacyError::Block { .. } => Class::Io,
        LegacyError::Locked { .. } | LegacyError::Changed(_) => Class::Busy,
        LegacyError::Io { source, .. } => class_of_system(source),
        LegacyError::Refused { .. } | LegacyError::Stopped => Class::Other,
    }
}

fn errno_of_legacy(error: &LegacyError) -> i32 {
    match error {
        LegacyError::Engine(error) => error.errno(),
        LegacyError::NotFound(_) => libc::ENOENT,
        LegacyError::Damaged { .. } | LegacyError::Block { .. } => libc::EIO,
        LegacyError::Locked { .. } | LegacyError::Changed(_) => libc::EBUSY,
        LegacyError::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        LegacyError::Refused { .. } => libc::EOPNOTSUPP,
        LegacyError::Stopped => libc::EINTR,
    }
}

fn class_of_system(error: &io::Error) -> Class {
    match error.kind() {
        io::ErrorKind::NotFound => Class::NotFound,
        io::ErrorKind::AlreadyExists => Class::Exists,
        io::ErrorKind::AddrInUse | io::ErrorKind::ResourceBusy => Class::Busy,
        io::ErrorKind::ReadOnlyFilesystem => Class::ReadOnly,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Class::NoSpace,
        _ => Class::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_engine_have_the_documented_exit_codes() {
        let name = || "volume".to_string();
        for (error, code) in [
            (Error::NotSnapshot(name()), 1),
            (Error::TooNew { object: name(), detail: name() }, 1),
            (Error::InvalidArgument(name()), 2),
            (Error::InvalidName { name: name(), reason: "" }, 2),
            (Error::NotFound(name()), 3),
            (Error::NoStore(name()), 3),
            (Error::Exists(name()), 4),
            (Error::Busy(name()), 5),
            (Error::GivenUp(name()), 5),
            (Error::ReadOnly(name()), 6),
            (Error::damaged("object", "detail"), 7),
            (Error::io("read", "object", io::Error::from_raw_os_error(libc::EIO)), 7),
            (Error::io("write", "object", io::Error::from_raw_os_error(libc::ENOSPC)), 8),
        ] {
            let failure = Failure::from(error);
            assert_eq!(failure.class().code(), code, "{failure}");
        }
    }

    #[test]
    fn the_help_text_names_every_code() {
        for class in [Class::Other, Class::Usage, Class::NotFound, Class::Exists, Class::Busy, Class::ReadOnly] {
            assert!(HELP.contains(&format!("\n  {}  ", class.code())));
        }
        assert_eq!(Class::Signal(2).code(), 130);
    }
}
