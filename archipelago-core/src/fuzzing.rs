//! What the fuzz targets reach that is nobody else's business: decoders that are not part of the public interface.

use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::sync::Weak;

use crate::blocker::{Blocker, VolumeId};
use crate::digest::Digest;
use crate::error::{Owner, Result};
use crate::format::header::{Header, LogPos};
use crate::format::index::{IndexEntry, Slot};
use crate::format::node::Source;
use crate::format::redirect::{RedirectEntry, RedirectHead};
use crate::mapper::cache::NodeCache;
use crate::mapper::replay;
use crate::mapper::tree::Tree;
use crate::store::content::moved::Moves;
use crate::store::content::{Leases, index, redirect};
use crate::store::control::Handler;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` without a second look at what seems damaged: nobody is just writing it.
pub fn alone(work: impl FnOnce()) {
    ALONE.set(true);
    work();
    ALONE.set(false);
}

pub(crate) fn is_alone() -> bool {
    ALONE.get()
}

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
    /// Records that count only in this boot.
    pub believed: usize,
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
    let (tail, believed) = (loaded.tail, loaded.believed.len());
    Ok(Replay { epoch: loaded.epoch, end: tail.next.pos, next_seq: tail.next.seq, stray: tail.stray, believed, runs })
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

/// The content index of a store.
#[derive(Default)]
pub struct Index(index::Tables);

impl Index {
    /// All entries of a table, as a merge reads them; `None` if it does not count.
    pub fn entries(blocker: &dyn Blocker, id: u64) -> Result<Option<Vec<IndexEntry>>> {
        let mut entries = Vec::new();
        let whole = index::verify(blocker, id, &mut |entry| {
            entries.push(*entry);
            Ok(())
        })?;
        Ok(whole.then_some(entries))
    }

    /// Where the index has this content, whether the slot confirms it or not.
    pub fn find(&self, blocker: &dyn Blocker, digest: Digest) -> Result<Option<Slot>> {
        self.0.find(blocker, digest, &|_| Ok(true))
    }

    /// Merges tables into a new one, if there are enough of them.
    pub fn merge(&self, blocker: &dyn Blocker, id: u64) -> Result<bool> {
        index::merge(blocker, &self.0, id, &mut |_| Ok(true))
    }
}

/// The head of the redirect table of an epoch.
pub fn redirect_head(blocker: &dyn Blocker, owner: VolumeId, epoch: u64) -> Result<Option<RedirectHead>> {
    redirect::Redirects::new(blocker).head(owner, epoch)
}

/// What the redirect table of an epoch says of a block.
pub fn redirect_entry(blocker: &dyn Blocker, owner: VolumeId, epoch: u64, block: u64) -> Result<Option<RedirectEntry>> {
    redirect::Redirects::new(blocker).entry(owner, epoch, block)
}

/// All entries of the redirect table of an epoch.
pub fn redirect_entries(blocker: &dyn Blocker, owner: VolumeId, epoch: u64) -> Result<Vec<(u64, RedirectEntry)>> {
    let mut entries = Vec::new();
    redirect::for_each(blocker, owner, epoch, &mut |block, entry, _| {
        entries.push((block, entry));
        Ok(true)
    })?;
    Ok(entries)
}

/// For each of the first blocks of an epoch the digest through which it is to be read, if it was moved.
pub fn moved(blocker: &dyn Blocker, owner: VolumeId, epoch: u64, blocks: u64) -> Vec<Result<Option<Digest>>> {
    let moves = Moves::default();
    (0..blocks).map(|block| moves.find(blocker, owner, epoch, block)).collect()
}

/// Whether the redirect table says that a slot has this content.
pub fn redirect_confirms(blocker: &dyn Blocker, slot: &Slot, digest: Digest) -> Result<bool> {
    redirect::confirms(blocker, slot, digest)
}

/// What the leases of a store hold, and what they hold more after `between`.
pub fn leased(blocker: &dyn Blocker, between: impl FnOnce()) -> Result<(Vec<Digest>, Vec<Digest>)> {
    let mut leases = Leases::default();
    let mut read = || -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        leases.read(blocker, &mut |digest| {
            digests.push(digest);
            Ok(())
        })?;
        Ok(digests)
    };
    let first = read()?;
    between();
    Ok((first, read()?))
}

/// What the name of a file in one of the store's directories stands for, written as the store writes it: the paths that it may be.
pub fn file_name(file: &str) -> Vec<String> {
    crate::blocker::file::stands_for(file)
}
