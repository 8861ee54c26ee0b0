//! The superblock (format.md, "Superblock").

use crate::error::Result;

/// Format version written by this build.
pub const VERSION: u32 = 1;
/// Incompatible feature bits that this build knows.
pub const INCOMPAT_KNOWN: u64 = 0;
/// Features that only forbid writing when unknown.
pub const READ_COMPAT_KNOWN: u64 = 0;

/// Facts about a store that are the same for all its volumes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Random identity of the store.
    pub uuid: [u8; 16],
    /// Seconds since 1970.
    pub created: u64,
    /// `log2` of the block size of volumes that do not say otherwise.
    pub block_shift: u8,
    /// Permission bits of files; directories get the execute bits that go with them.
    pub mode: u32,
    /// Group of files and directories; `u32::MAX` leaves it to the system.
    pub group: u32,
    /// Incompatible features in use: a reader that does not know one must refuse the store.
    pub incompat: u64,
    /// Features in use that forbid writing to a build that does not know them.
    pub read_compat: u64,
}

impl Superblock {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads the stored form. A later version or an unknown incompatible bit is `TooNew`.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Superblock> {
        let _ = (object, bytes);
        todo!()
    }
}
