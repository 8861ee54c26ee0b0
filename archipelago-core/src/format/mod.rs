//! Encoding and decoding of everything stored. `docs/format.md` is the authority; each item here cites its section.
//!
//! Decoders take any bytes: they return [`Error`](crate::Error), never panic, and allocate no more than the input's length allows.
//! All integers are little-endian.

pub mod cache_log;
pub mod cached;
pub mod header;
pub mod index;
pub mod labels;
pub mod lease;
pub mod log;
pub mod node;
pub mod owner;
pub mod record;
pub mod redirect;
pub mod relations;
pub mod stream;
pub mod sums;
pub mod superblock;

pub(crate) mod bytes;
pub(crate) mod extents;

#[cfg(test)]
mod document;
