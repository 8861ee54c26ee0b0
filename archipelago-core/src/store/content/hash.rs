//! Hashes a snapshot where it lies: a digest for each block, in the redirect tables and the index, and no data moved but
//! of blocks that are in pieces.
//!
//! A block in one piece is read as the slot that it is, all of it, and not as the map sees it: its digest then holds for every
//! map that names the slot. Only where both are the same it is a slot of that content; otherwise the block is made a content
//! object, as are blocks with bytes in several epochs or in the journal, and the snapshot's tree is made to say so.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::VolumeId;
use crate::blocker::{LockMode, LockOutcome, Object, RecordKey};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::header::Kind;
use crate::format::index::{IndexEntry, Slot};
use crate::format::node::{Extent, Source};
use crate::limits::{HASH_BATCH, MAX_DIGEST_BATCH, MAX_EXTENTS, SECTOR};
use crate::mapper::block_map::BlockMap;
use crate::mapper::fold::{Changed, Folder};
use crate::mapper::pack::PackWriter;
use crate::mapper::replay;
use crate::merkle::TopHash;
use crate::store::collect::digests::Digests;
use crate::store::content::claim::Claim;
use crate::store::content::index::{TableWriter, merge};
use crate::store::content::reading::{Filled, Reader, Step, for_each_step};
use crate::store::content::redirect::{self, Redirects};
use crate::store::content::{Relied, lock};
use crate::store::{Background, Store, catalog, open};
use crate::volume::inner::Inner;

/// Blocks found between two moments at which what was found is made durable: bounds the memory that waits.
const BATCH_BLOCKS: usize = 64 << 10;
/// Longest sleep of a throttled run before it looks whether it is to stop.
const NAP: Duration = Duration::from_millis(50);
/// How long the lock of a snapshot is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a snapshot is hashed.
#[derive(Clone, Copy, Debug, Default)]
pub struct HashOptions {
    /// Most bytes to read in a second, on average; `None`: as fast as it goes.
    pub bytes_per_second: Option<u64>,
}

/// How far hashing has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct HashProgress {
    /// Blocks done, zeros included.
    pub blocks: u64,
    /// Blocks in all.
    pub total: u64,
    /// Blocks of which the digest was known.
    pub known: u64,
    /// Bytes hashed.
    pub hashed: u64,
    /// Content objects made, of blocks in pieces.
    pub composed: u64,
    /// Blocks hashed whose content was in the store already, elsewhere.
    pub duplicates: u64,
    /// Bytes that the map names of blocks that are not zeros, in whole sectors.
    pub mapped: u64,
    /// The same of those blocks whose content no block of the map before them had. Digests are remembered in 64 MiB, so with
    /// many million blocks a few are taken for one that came before.
    pub distinct: u64,
}

impl HashProgress {
    /// How many times as large the blocks are as what is different in them; `None` if there are none.
    pub fn dedup_ratio(&self) -> Option<f64> {
        (self.distinct > 0).then(|| self.mapped as f64 / self.distinct as f64)
    }
}

/// What came of hashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Hashed {
    /// The top hash, as Pithos has it; `None` if it was stopped before the end.
    pub top_hash: Option<Digest>,
    /// How far it came.
    #[serde(flatten)]
    pub progress: HashProgress,
}

impl Store {
    /// Gives every block of a snapshot a digest. A volume is refused, for it may be written. `progress` is called after each
    /// step, and stops it by `false`: what was hashed until then is kept, and passed over by the next call, which may be
    /// in another process.
    pub fn hash(
        &self,
        name: &str,
        options: &HashOptions,
        progress: &mut dyn FnMut(&HashProgress) -> bool,
    ) -> Result<Hashed> {
        catalog::check_writable(&self.shared)?;
        let handle = open::for_reading(&self.shared, name)?;
        if handle.kind == Kind::Volume {
            return Err(Error::NotSnapshot(name.to_string()));
        }
        let view = handle.view();
        let claim = self.claim("hashing a snapshot")?;
        let mut run = Run {
            store: self,
            inner: &handle,
            claim: &claim,
            redirects: Redirects::new(handle.blocker()),
            found: Found::default(),
            progress: HashProgress { total: view.blocks(), ..HashProgress::default() },
            top: TopHash::default(),
            seen: Digests::new(self.shared.random()?),
        };
        let pace = Pace { started: Instant::now(), limit: options.bytes_per_second };
        let ahead = self.shared.options.background == Background::Thread;
        let outcome = for_each_step(Reader::new(&handle, &view), ahead, &mut |step, buffer| {
            run.step(step, buffer)?;
            if run.found.is_large() {
                run.settle(false)?;
            }
            while progress(&run.progress) {
                match pace.wait(run.progress.hashed).min(NAP) {
                    Duration::ZERO => return Ok(true),
                    nap => std::thread::sleep(nap),
                }
            }
            Ok(false)
        });
        // Also after an error: what was found before it is right.
        let outcome = outcome.and_then(|complete| run.settle(true).map(|()| complete));
        let (top, progress) = (run.top, run.progress);
        let ended = claim.end();
        let complete = outcome?;
        ended?;
        self.merge_content_index()?;
        Ok(Hashed { top_hash: complete.then(|| top.finish()), progress })
    }

    /// Merges the tables of the content index if there are too many; returns whether it did.
    pub fn merge_content_index(&self) -> Result<bool> {
        let blocker = &*self.shared.blocker;
        merge(blocker, self.shared.contents.tables(), self.shared.random()?, &mut |entry| {
            redirect::confirms(blocker, &entry.slot, entry.digest)
        })
    }
}

/// Keeps to a rate.
struct Pace {
    started: Instant,
    limit: Option<u64>,
}

impl Pace {
    /// How long to wait so that `done` bytes are not too many for the time since the start.
    fn wait(&self, done: u64) -> Duration {
        let Some(limit) = self.limit else { return Duration::ZERO };
        // A quarter of a million years is as good as for ever.
        let due = Duration::from_millis((u128::from(done) * 1000 / u128::from(limit.max(1))).min(1 << 53) as u64);
        due.saturating_sub(self.started.elapsed())
    }
}

/// What was found and is not durable yet.
#[derive(Default)]
struct Found {
    /// Slots that the index does not have.
    entries: Vec<IndexEntry>,
    /// Slots of which the redirect tables are to say the digest.
    slots: Vec<(Slot, Digest)>,
    /// Redirect tables to be made durable.
    tables: BTreeSet<Object>,
    /// Blocks of which the snapshot's tree is to name the digest.
    named: BTreeMap<u64, BlockMap>,
    /// Bytes hashed.
    bytes: u64,
}

impl Found {
    fn is_large(&self) -> bool {
        self.bytes >= HASH_BATCH || self.slots.len() + self.entries.len() + self.named.len() >= BATCH_BLOCKS
    }
}

struct Run<'a> {
    store: &'a Store,
    inner: &'a Inner,
    claim: &'a Claim,
    redirects: Redirects<'a>,
    found: Found,
    progress: HashProgress,
    top: TopHash,
    /// Digests of the blocks so far.
    seen: Digests,
}

impl Run<'_> {
    fn step(&mut self, step: Step, buffer: &mut Option<Vec<u8>>) -> Result<()> {
        match step {
            Step::Zeros(count) => {
                (0..count).for_each(|_| self.top.push(Digest::ZERO));
                self.progress.blocks += count;
            }
            Step::Known(digest, slot, sectors) => {
                self.top.push(digest);
                self.measure(&digest, sectors);
                if let Some((owner, epoch)) = slot {
                    self.find_again(digest, self.progress.blocks, owner, epoch)?;
                }
                self.progress.blocks += 1;
                self.progress.known += 1;
            }
            Step::Read(filled) => {
                self.block(&filled)?;
                *buffer = Some(filled.bytes);
            }
        }
        Ok(())
    }

    fn measure(&mut self, digest: &Digest, sectors: u64) {
        self.progress.mapped += sectors * SECTOR;
        if self.seen.insert(digest) {
            self.progress.distinct += sectors * SECTOR;
        }
    }

    /// A run before this one may have died between the redirect table and the index.
    fn find_again(&mut self, digest: Digest, block: u64, owner: VolumeId, epoch: u64) -> Result<()> {
        let shared = &self.store.shared;
        if shared.contents.look(&*shared.blocker, digest)?.is_none()
            && let Some(entry) = self.redirects.entry(owner, epoch, block)?
            && !entry.moved
        {
            let slot = Slot { owner, epoch, block, len: entry.len, shift: self.inner.block_shift };
            self.found.entries.push(IndexEntry { digest, slot });
            self.found.tables.insert(Object::Redirect(owner, epoch));
        }
        Ok(())
    }

    fn block(&mut self, filled: &Filled) -> Result<()> {
        let (digest, content) = Digest::of(&filled.bytes[..filled.len]);
        self.top.push(digest);
        self.progress.blocks += 1;
        self.progress.hashed += content.len() as u64;
        self.found.bytes += filled.len as u64;
        let mut map = BlockMap::default();
        if content.is_empty() {
            // Zeros that were written: the map need not name them.
            self.found.named.insert(filled.block, map);
            return Ok(());
        }
        self.measure(&digest, filled.mapped);
        let sectors = (content.len() as u64).div_ceil(SECTOR) as u16;
        map.set(0, sectors, Source::Content(digest));
        let Some((owner, epoch)) = filled.slot else {
            let put = self.claim.put_as(digest, content)?;
            self.progress.composed += u64::from(put.new);
            self.progress.duplicates += u64::from(!put.new);
            self.found.named.insert(filled.block, map);
            return Ok(());
        };
        let slot = Slot { owner, epoch, block: filled.block, len: content.len() as u32, shift: self.inner.block_shift };
        self.found.slots.push((slot, digest));
        self.found.tables.insert(Object::Redirect(owner, epoch));
        let mut there = None;
        if filled.front.is_none_or(|front| front < sectors) {
            // The map names the slot with gaps, so what the redirect table says is not enough to know the block by.
            self.claim.look(&[digest], &mut |_, place| {
                there = place;
                Ok(())
            })?;
            self.found.named.insert(filled.block, map);
        } else {
            there = self.store.shared.contents.look(self.inner.blocker(), digest)?;
        }
        match there {
            Some(_) => self.progress.duplicates += 1,
            None => self.found.entries.push(IndexEntry { digest, slot }),
        }
        Ok(())
    }

    /// Makes what was found durable, in the order in which one relies on the other.
    fn settle(&mut self, last: bool) -> Result<()> {
        let blocker = self.inner.blocker();
        for portion in std::mem::take(&mut self.found.slots).chunks(MAX_DIGEST_BATCH) {
            let _lock = lock(blocker, LockMode::Shared)?;
            portion.iter().try_for_each(|(slot, digest)| self.redirects.set(slot, *digest))?;
        }
        let tables: Vec<_> = std::mem::take(&mut self.found.tables).into_iter().collect();
        blocker.sync(&tables)?;
        let mut entries = std::mem::take(&mut self.found.entries);
        entries.sort_unstable();
        let all = entries.len();
        entries.dedup_by_key(|entry| entry.digest);
        self.progress.duplicates += (all - entries.len()) as u64;
        if !entries.is_empty() {
            // A table without a head that was there before all operations under way began is nobody's any more.
            let _operation = self.store.shared.operations.begin();
            let mut writer = TableWriter::new(blocker, self.store.shared.random()?)?;
            entries.into_iter().try_for_each(|entry| writer.push(entry))?;
            writer.finish()?;
        }
        self.found.bytes = 0;
        if self.found.named.is_empty() {
            return Ok(());
        }
        let mut named = std::mem::take(&mut self.found.named);
        match self.publish(&mut named)? {
            true => {}
            // Later, when the blocks that stand against it are named too. At the end they are, unless it was stopped:
            // then what was made of them is found again by the next run.
            false if !last => self.found.named = named,
            false => {}
        }
        Ok(())
    }

    /// Leases what is to be named once more, inside the operation that names it: a slow run may have outlived its lease, and a
    /// collection that began since the lease was given waits for this operation or sees the new lease. Blocks that are
    /// gone are left as they are.
    fn lease_again(&self, named: &mut BTreeMap<u64, BlockMap>) -> Result<()> {
        let digest = |map: &BlockMap| match map.extents() {
            [Extent { source: Source::Content(digest), .. }] => Some(*digest),
            _ => None,
        };
        let digests: Vec<Digest> = named.values().filter_map(digest).collect();
        let (mut gone, mut relied) = (HashSet::new(), Relied::default());
        for batch in digests.chunks(MAX_DIGEST_BATCH) {
            self.claim.look(batch, &mut |digest, place| {
                match place {
                    Some(place) => relied.add(&place),
                    None => drop(gone.insert(digest)),
                }
                Ok(())
            })?;
        }
        named.retain(|_, map| digest(map).is_none_or(|digest| !gone.contains(&digest)));
        relied.settle(self.inner.blocker())
    }

    /// Makes the snapshot's own tree name digests. `false` if its journal cannot be folded into a tree yet.
    fn publish(&self, named: &mut BTreeMap<u64, BlockMap>) -> Result<bool> {
        let shared = &self.store.shared;
        let _operation = shared.operations.begin();
        self.lease_again(named)?;
        let (blocker, cache) = (&*shared.blocker, &shared.cache);
        let id = self.inner.id;
        let gone = || Error::NotFound(self.inner.name());
        // Nobody has the lock of a snapshot for longer than one change of its header takes.
        let deadline = Instant::now() + PATIENCE;
        let _lock = loop {
            match blocker.lock(id, LockMode::Exclusive, &[])? {
                LockOutcome::Held(lock) => break lock,
                LockOutcome::Refused(_) if Instant::now() < deadline => std::thread::sleep(NAP / 10),
                LockOutcome::Refused(_) => return Err(Error::Busy(self.inner.name())),
            }
        };
        let (mut header, version) = catalog::read_header(shared, id)?.filter(|(h, _)| !h.removed).ok_or_else(gone)?;
        // Its writer may have folded it meanwhile: the same bytes, in another tree.
        let view = replay::load(blocker, cache, &header)?.view;
        let mut changed = view.overlay;
        for (block, map) in &*named {
            changed.insert(*block, Arc::new(map.clone()));
        }
        if changed.values().any(|map| map.extents().len() > MAX_EXTENTS) {
            return Ok(false);
        }
        let changed: Vec<Changed> = changed.into_iter().collect();
        let mut pack = PackWriter::open(blocker, id)?;
        let mut folder = Folder { blocker, cache, pack: &mut pack, limit: u64::MAX };
        header.root = folder.fold(&view.tree, &changed)?;
        pack.sync(blocker)?;
        header.ranges.clear();
        shared.check_registered()?;
        blocker.commit_record(RecordKey::Header(id), version, &header.encode())?;
        Ok(true)
    }
}
