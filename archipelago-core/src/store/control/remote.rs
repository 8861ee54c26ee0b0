//! Errors on their way between processes: the one place where an [`Error`] is taken apart and put together again.

use std::io;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Owner};
use crate::name;

/// An [`Error`] as another process reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteError {
    /// What [`Error::errno`] says.
    pub errno: i32,
    /// Name of the variant.
    pub kind: String,
    /// The text, for a reader that does not know the variant.
    pub message: String,
    /// Text fields of the variant, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Number fields of the variant, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numbers: Vec<u64>,
    /// The owner in an `OpenElsewhere`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Box<Owner>>,
}

/// The variants with one text field, in both directions.
macro_rules! plain_kinds {
    ($($kind:ident)*) => {
        fn plain_of(error: &Error) -> Option<(&'static str, &str)> {
            match error {
                $(Error::$kind(text) => Some((stringify!($kind), text)),)*
                // Named one by one, so that a new variant cannot be forgotten here.
                Error::InvalidName { .. }
                | Error::OutOfRange { .. }
                | Error::OpenElsewhere { .. }
                | Error::Damaged { .. }
                | Error::TooNew { .. }
                | Error::Io { .. } => None,
            }
        }

        fn plain_from(kind: &str, text: String) -> Result<Error, String> {
            match kind {
                $(stringify!($kind) => Ok(Error::$kind(text)),)*
                _ => Err(text),
            }
        }
    };
}

plain_kinds! {
    NotFound Exists InvalidArgument ReadOnly NotSnapshot IsSnapshot Busy NotOpen NoSpace Poisoned Stale NoStore Unregistered
    Unsupported Timeout TooBusy NoBase Receiving GivenUp Cached
}

impl From<&Error> for RemoteError {
    fn from(error: &Error) -> RemoteError {
        let mut remote = RemoteError { errno: error.errno(), message: error.to_string(), ..RemoteError::default() };
        let mut fill = |kind: &str, names: &[&str]| {
            remote.kind = kind.to_string();
            remote.names = names.iter().map(|n| n.to_string()).collect();
        };
        match error {
            Error::InvalidName { name, reason } => fill("InvalidName", &[name, reason]),
            Error::OutOfRange { name, offset, len, size } => {
                fill("OutOfRange", &[name]);
                remote.numbers = vec![*offset, *len, *size];
            }
            Error::OpenElsewhere { name, owner, advice } => {
                fill("OpenElsewhere", &[name, advice]);
                remote.owner = Some(owner.clone());
            }
            Error::Damaged { object, detail } => fill("Damaged", &[object, detail]),
            Error::TooNew { object, detail } => fill("TooNew", &[object, detail]),
            Error::Io { op, object, source } => fill("Io", &[op, object, &source.to_string()]),
            other => {
                if let Some((kind, text)) = plain_of(other) {
                    fill(kind, &[text]);
                }
            }
        }
        remote
    }
}

impl From<RemoteError> for Error {
    fn from(remote: RemoteError) -> Error {
        let RemoteError { errno, kind, message, names, numbers, owner } = remote;
        let mut names = names.into_iter();
        let (first, second) = (names.next(), names.next());
        let unknown = |message| Error::Io { op: "ask", object: message, source: system_error(errno, "failed") };
        match (kind.as_str(), first, second, numbers.as_slice(), owner) {
            ("InvalidName", Some(name), ..) => {
                // The reason is one of the fixed texts of the rules, which are the same here.
                let reason = match name::check(&name) {
                    Err(Error::InvalidName { reason, .. }) => reason,
                    _ => "the process that was asked refuses it",
                };
                Error::InvalidName { name, reason }
            }
            ("OutOfRange", Some(name), _, &[offset, len, size], _) => Error::OutOfRange { name, offset, len, size },
            ("OpenElsewhere", Some(name), _, _, Some(owner)) => {
                Error::OpenElsewhere { name, owner, advice: "close it there first" }
            }
            ("Damaged", Some(object), Some(detail), ..) => Error::Damaged { object, detail },
            ("TooNew", Some(object), Some(detail), ..) => Error::TooNew { object, detail },
            ("Io", Some(op), Some(object), ..) => {
                let source = system_error(errno, names.next().as_deref().unwrap_or("failed"));
                Error::Io { op: "owner failed to", object: format!("{op} {object}"), source }
            }
            (kind, Some(text), ..) => plain_from(kind, text).unwrap_or_else(|_| unknown(message)),
            _ => unknown(message),
        }
    }
}

/// The system's error of that number. An errno means nothing outside 1..4096; then `text` speaks, and it counts as EIO.
fn system_error(errno: i32, text: &str) -> io::Error {
    if (1..4096).contains(&errno) { io::Error::from_raw_os_error(errno) } else { io::Error::other(text.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Box<Owner> {
        Box::new(Owner {
            pid: 7,
            host: "node1".into(),
            command: "qemu".into(),
            since: 1_700_000_000,
            process: "00000000000000aa".into(),
        })
    }

    #[test]
    fn every_error_survives_the_way_there_and_back() {
        let n = || "disk-1".to_string();
        let all = vec![
            Error::NotFound(n()),
            Error::Exists(n()),
            Error::InvalidName { name: "x".into(), reason: "it has fewer than 6 bytes" },
            Error::InvalidArgument(n()),
            Error::OutOfRange { name: n(), offset: u64::MAX, len: 2, size: 3 },
            Error::ReadOnly(n()),
            Error::NotSnapshot(n()),
            Error::IsSnapshot(n()),
            Error::OpenElsewhere { name: n(), owner: owner(), advice: "close it there first" },
            Error::Busy(n()),
            Error::NotOpen(n()),
            Error::NoSpace(n()),
            Error::Damaged { object: n(), detail: "cut short".into() },
            Error::TooNew { object: n(), detail: "version 9".into() },
            Error::Poisoned(n()),
            Error::Stale(n()),
            Error::NoStore(n()),
            Error::Unsupported(n()),
            Error::Timeout(n()),
            Error::TooBusy(n()),
            Error::NoBase(n()),
            Error::Receiving(n()),
            Error::Cached(n()),
        ];
        for error in all {
            let json = serde_json::to_vec(&RemoteError::from(&error)).unwrap();
            let back = Error::from(serde_json::from_slice::<RemoteError>(&json).unwrap());
            assert_eq!(format!("{back:?}"), format!("{error:?}"));
            assert_eq!(back.errno(), error.errno());
        }
    }

    #[test]
    fn a_system_error_keeps_its_errno_and_says_whose_it_was() {
        let error =
            Error::Io { op: "write", object: "data/x".into(), source: io::Error::from_raw_os_error(libc::EROFS) };
        let back = Error::from(RemoteError::from(&error));
        assert_eq!(back.errno(), libc::EROFS);
        assert!(back.to_string().starts_with("owner failed to write data/x: "), "{back}");
    }

    #[test]
    fn unknown_or_incomplete_errors_become_io_errors_of_that_errno() {
        for (kind, names) in
            [("FromTheFuture", vec!["a".to_string()]), ("OutOfRange", vec!["a".into()]), ("Damaged", vec![])]
        {
            let remote = RemoteError {
                errno: libc::EPERM,
                kind: kind.into(),
                message: "said so".into(),
                names,
                ..Default::default()
            };
            let back = Error::from(remote);
            assert!(matches!(back, Error::Io { .. }), "{back:?}");
            assert_eq!(back.errno(), libc::EPERM);
            assert!(back.to_string().contains("said so"));
        }
        for errno in [0, -5, i32::MIN, i32::MAX] {
            assert_eq!(Error::from(RemoteError { errno, ..Default::default() }).errno(), libc::EIO);
        }
    }
}
