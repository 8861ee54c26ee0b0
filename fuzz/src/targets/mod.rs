//! The targets, by what they decode.
//!
//! Where a checksum stands before the decoder, the first byte of an input says whether checksums are put right first:
//! otherwise no mutation would ever get past them.

mod cache;
mod content;
mod control;
mod header;
mod images;
mod journal;
mod legacy;
mod nbd;
mod node;
mod record;
mod replay;
mod stream;
mod text;
mod vhost;

use archipelago_core::Error;

use crate::Target;

/// All targets.
pub const ALL: &[&Target] = &[
    &record::RECORD,
    &record::SUPERBLOCK,
    &header::HEADER,
    &node::NODE,
    &node::EXTENTS,
    &journal::SEGMENT_HEAD,
    &journal::RECORD,
    &replay::SEGMENT,
    &replay::HISTORY,
    &text::OWNER_LINK,
    &text::PROCESS_RECORD,
    &control::FRAMES,
    &control::ANSWER,
    &nbd::NEGOTIATION,
    &nbd::SESSION,
    &nbd::REQUESTS,
    &vhost::MESSAGES,
    &vhost::QUEUE,
    &images::QCOW2,
    &images::RAW,
    &legacy::LEGACY_MAP,
    &text::CONFIG,
    &text::SIZE,
    &text::NAME,
    &stream::STREAM,
    &stream::TOKEN,
    &stream::RECEIVE,
    &content::INDEX_TABLE,
    &content::REDIRECT_TABLE,
    &content::LEASE_FILE,
    &content::SUMS,
    &cache::CACHE_LOG,
    &text::FILE_NAME,
];

/// The first byte of an input and what follows it.
fn mode(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(mode, rest)| (*mode, rest))
}

/// A decoder refuses stored bytes as damaged or too new, and as nothing else.
fn refused(error: &Error) {
    assert!(matches!(error, Error::Damaged { .. } | Error::TooNew { .. }), "not a decoder's error: {error:?}");
    assert!(!error.to_string().is_empty());
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Closes an atom of 512 bytes with its checksum.
fn seal(atom: &mut [u8]) {
    let sum = crc32c::crc32c(&atom[..508]).to_le_bytes();
    atom[508..512].copy_from_slice(&sum);
}

/// Prefixes an input with its mode.
fn with_mode(mode: u8, bytes: &[u8]) -> Vec<u8> {
    [&[mode], bytes].concat()
}
