//! Why a volume cannot be attached or detached.

use std::io;

use crate::cli::exit::Class;

/// What went wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Nothing of that name, or no such device, is attached here.
    #[error("{0}: is not attached on this node; see `archipelago showmapped`")]
    NotAttached(String),
    /// Somebody uses the device.
    #[error("{device}: is in use{by}; end that first")]
    InUse {
        /// The device or file.
        device: String,
        /// By whom, with a blank in front, or empty.
        by: String,
    },
    /// Attached already, in another way than is asked for.
    #[error("{0}")]
    Otherwise(String),
    /// Another command is at work on the same volume, or a server does not end.
    #[error("{0}")]
    Busy(String),
    /// The machine cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// The server did not start. Its own words.
    #[error("{text}")]
    Server {
        /// How it failed.
        class: Class,
        /// What it said.
        text: String,
    },
    /// A system call failed.
    #[error("{op} {object}: {source}")]
    Host {
        /// What was tried.
        op: &'static str,
        /// On what.
        object: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl AttachError {
    /// A failed system call.
    pub fn host(op: &'static str, object: impl ToString, source: io::Error) -> AttachError {
        AttachError::Host { op, object: object.to_string(), source }
    }

    /// What kind of failure it is.
    pub fn class(&self) -> Class {
        match self {
            AttachError::NotAttached(_) => Class::NotFound,
            AttachError::InUse { .. } | AttachError::Otherwise(_) | AttachError::Busy(_) => Class::Busy,
            AttachError::Unsupported(_) => Class::Other,
            AttachError::Server { class, .. } => *class,
            AttachError::Host { .. } => Class::Io,
        }
    }

    /// The error number that fits best.
    pub fn errno(&self) -> i32 {
        match self {
            AttachError::NotAttached(_) => libc::ENXIO,
            AttachError::InUse { .. } | AttachError::Otherwise(_) | AttachError::Busy(_) => libc::EBUSY,
            AttachError::Unsupported(_) => libc::EOPNOTSUPP,
            AttachError::Server { .. } => libc::EIO,
            AttachError::Host { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}
