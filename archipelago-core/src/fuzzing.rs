//! What the fuzz targets reach that is nobody else's business: decoders that are not part of the public interface.

use std::os::unix::net::UnixStream;
use std::sync::Weak;

use crate::blocker::Blocker;
use crate::error::{Owner, Result};
use crate::format::header::{Header, LogPos};
use crate::format::node::Source;
use crate::mapper::cache::NodeCache;
use crate::mapper::replay;
use crate::mapper::tree::Tree;
use crate::store::control::Handler;

/// What a replay made of a header and its journals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Highest epoch seen.
    pub epoch: u64,
    /// Where the journal goes on.
    pub end: LogPos,
    /// Sequence number that the next record gets.
    pub next_seq: u64,
    /// Something lies behind the end.
    pub stray: bool,
    /// Runs of the first sectors of the volume that were asked for: first sector, length, source. Without gaps.
    pub runs: Vec<(u64, u64, Source)>,
}

/// Replays what a header names, and walks the first `sectors` sectors of the map.
pub fn replay(blocker: &dyn Blocker, header: &Header, sectors: u64) -> Result<Replay> {
    let cache = NodeCache::new(1 << 20);
    let loaded = replay::load(blocker, &cache, header)?;
    let mut runs = Vec::new();
    loaded.view.runs(blocker, &cache, 0, sectors, &mut |start, len, source| {
        runs.push((start, len, source));
        Ok(true)
    })?;
    let tail = loaded.tail;
    Ok(Replay { epoch: loaded.epoch, end: tail.next.pos, next_seq: tail.next.seq, stray: tail.stray, runs })
}

/// Decodes the root of a header as opening its map does; returns the sectors that it says are mapped.
pub fn root(header: &Header) -> Result<u64> {
    Tree::from_root("root", &header.root, header.block_shift).map(|tree| tree.mapped())
}

/// What the record of a process says.
pub fn process_record(process: &str, bytes: &[u8]) -> Option<Owner> {
    crate::store::process::parse_record(process, bytes)
}

/// Serves one control connection to its end.
pub fn control_session(handler: Weak<dyn Handler>, stream: &UnixStream) -> std::io::Result<()> {
    crate::store::control::serve_one(handler, stream)
}

/// What [`ask`](crate::store::control::ask) makes of the two frames of a server: its greeting and its answer.
pub fn control_answer(greeting: &[u8], answer: &[u8]) -> Option<Result<crate::store::control::Answer>> {
    crate::store::control::understand(greeting, answer)
}
