//! Why a map of an old store was not read.

use std::io;
use std::path::Path;

use archipelago_core::Error;

/// Why a map of an old store was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LegacyError {
    /// No map of that name.
    #[error("{0}: no such map in the old store; list what is there by naming no map")]
    NotFound(String),
    /// The map is of a kind that is not accepted; the text says why, and what to do.
    #[error("{map}: {reason}")]
    Refused {
        /// Name of the map's header object.
        map: String,
        /// What is not accepted, and what to do about it.
        reason: String,
    },
    /// The map contradicts itself or is cut short.
    #[error("{map}: damaged map: {detail}; restore it from a copy")]
    Damaged {
        /// Name of the map's header object.
        map: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A block is missing, too long, or not what its name says.
    #[error(
        "{map}: bytes {offset} to {end} are damaged: {what}; restore it from a copy, or leave zeros there with --skip-damaged",
        end = offset + len
    )]
    Block {
        /// Name of the map's header object.
        map: String,
        /// First byte of the block in the volume.
        offset: u64,
        /// Bytes of the volume that it holds.
        len: u64,
        /// Which block, and what is wrong with it.
        what: String,
    },
    /// The map changed while it was read.
    #[error("{0}: changed while it was read; stop the original Archipelago and import it again")]
    Changed(String),
    /// Somebody holds the original's lock of the map.
    #[error(
        "{map}: locked by {owner:?}; stop the original Archipelago first, or use --ignore-locks if the lock is left over from a crash"
    )]
    Locked {
        /// Name of the map's header object.
        map: String,
        /// What the lock object says, shortened.
        owner: String,
    },
    /// Something in the old store could not be read.
    #[error("{op} {object}: {source}")]
    Io {
        /// What was being done.
        op: &'static str,
        /// The file or directory.
        object: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("stopped by the caller")]
    Stopped,
    /// The new store refused or failed.
    #[error(transparent)]
    Engine(#[from] Error),
}

impl LegacyError {
    /// A map that is not accepted.
    pub fn refused(map: &str, reason: impl Into<String>) -> LegacyError {
        LegacyError::Refused { map: map.to_string(), reason: reason.into() }
    }

    /// A map that is wrong in itself.
    pub fn damaged(map: &str, detail: impl Into<String>) -> LegacyError {
        LegacyError::Damaged { map: map.to_string(), detail: detail.into() }
    }

    /// A failed system call on the old store.
    pub fn io(op: &'static str, object: &Path, source: impl Into<io::Error>) -> LegacyError {
        LegacyError::Io { op, object: object.display().to_string(), source: source.into() }
    }
}
