//! State of an open volume, and how sources become backend calls.

use std::collections::{BTreeSet, VecDeque};
use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::blocker::{Blocker, LockGuard, Object, RecordKey, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::{Header, Kind, LogStart};
use crate::format::node::{Extent, Source};
use crate::limits::{COMPOSE_EXTENTS, MAX_EXTENTS, MAX_OVERLAY, MAX_ZEROED_BLOCKS, SECTOR_SHIFT};
use crate::mapper::block_map::{self, BlockMap, Runs};
use crate::mapper::fold::Changed;
use crate::mapper::journal::Journal;
use crate::mapper::pack::PackWriter;
use crate::mapper::tree::{Stored, Tree};
use crate::mapper::view::MapView;
use crate::store::pins::Pin;
use crate::store::shared::Shared;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, Plant, RwLock, planted};
use crate::volume::cache::WriteBack;
use crate::volume::overlay::{Overlay, Shard};
use crate::volume::stalls::{Stalls, Stopped};

/// The header of an open volume with its record's version.
pub struct HeaderState {
    /// As committed.
    pub header: Header,
    /// Version of the record.
    pub version: u64,
}

/// What only a writer has.
pub struct Writer {
    /// The journal.
    pub journal: Journal,
    /// Where nodes go.
    pub pack: Mutex<Option<PackWriter>>,
    /// Serializes flushes, epoch switches and header commits.
    pub commit: Mutex<CommitState>,
    /// Serializes folds.
    pub fold: Mutex<()>,
    /// Captured maps of snapshots that wait to be folded, oldest first. Filled with the commit lock held, like every
    /// capture, so that their order is that of the captures.
    pub jobs: Mutex<VecDeque<FoldJob>>,
    /// Held while a snapshot is published whose map is queued already.
    pub publish: Mutex<()>,
    /// Blocks with more extents than [`COMPOSE_EXTENTS`], which are to be composed.
    pub overfull: Mutex<BTreeSet<u64>>,
    /// Those of them that had more than a node takes when they were last changed.
    pub overlong: Mutex<BTreeSet<u64>>,
    /// The live data object has writes that no sync covered.
    pub data_dirty: AtomicBool,
    /// Numbers the callers of flush.
    pub flush_ticket: AtomicU64,
    /// A checkpoint failed for lack of room; writers are told so instead of waiting.
    pub no_room: AtomicBool,
}

impl Writer {
    /// The part of a writer whose journal goes on behind what was replayed; `overfull` and `overlong` are blocks among it that have more
    /// extents than [`COMPOSE_EXTENTS`] and [`MAX_EXTENTS`], `unsynced` data of sealed epochs that a former owner may have left unsynced.
    pub fn new(journal: Journal, overfull: BTreeSet<u64>, overlong: BTreeSet<u64>, unsynced: Vec<Object>) -> Writer {
        Writer {
            journal,
            pack: Mutex::new(None),
            commit: Mutex::new(CommitState { flushed: 0, dirty: unsynced }),
            fold: Mutex::new(()),
            jobs: Mutex::new(VecDeque::new()),
            publish: Mutex::new(()),
            overfull: Mutex::new(overfull),
            overlong: Mutex::new(overlong),
            // What a former owner wrote and did not sync is read as if it were safe.
            data_dirty: AtomicBool::new(true),
            flush_ticket: AtomicU64::new(0),
            no_room: AtomicBool::new(false),
        }
    }
}

/// What a volume is opened for, with what that takes.
pub enum Access {
    /// Reading and writing.
    Write {
        /// The part that only a writer has.
        writer: Box<Writer>,
        /// The volume's lock.
        lock: Box<dyn LockGuard>,
    },
    /// Reading.
    Read {
        /// Keeps what the header names.
        pin: Pin,
        /// The volume's lock, shared. A snapshot needs none.
        lock: Option<Box<dyn LockGuard>>,
    },
}

/// What the commit lock guards.
#[derive(Default)]
pub struct CommitState {
    /// Callers up to this ticket are served.
    pub flushed: u64,
    /// Data objects of sealed epochs with writes that no sync covered.
    pub dirty: Vec<Object>,
}

/// A map to be folded, as captured at one moment.
pub struct FoldJob {
    /// Changed blocks, in no order.
    pub changed: Vec<Changed>,
    /// Bytes that they take, as the overlay counts them.
    pub memory: u64,
    /// What is in the journal from here on is not in `changed`.
    pub at: Option<LogStart>,
    /// Record bytes appended until then.
    pub appended: u64,
    /// Blocks from here on are dropped.
    pub limit: u64,
    /// The snapshot that was taken then.
    pub snapshot: Option<VolumeId>,
}

/// An open volume.
pub struct Inner {
    /// What the volumes of a store share.
    pub shared: Arc<Shared>,
    /// Identity.
    pub id: VolumeId,
    /// Kind.
    pub kind: Kind,
    /// `log2` of the block size.
    pub block_shift: u8,
    /// Current name.
    pub name: RwLock<String>,
    /// Current size in bytes.
    pub size: AtomicU64,
    /// Live epoch.
    pub epoch: AtomicU64,
    /// Header as committed.
    pub header: Mutex<HeaderState>,
    /// What is folded.
    pub tree: RwLock<Tree>,
    /// What is not.
    pub overlay: Overlay,
    /// Held shared by every request that changes the volume, exclusively to stop them for a moment.
    pub gate: RwLock<()>,
    /// How long it was held exclusively.
    pub stalls: Stalls,
    /// Present when open for writing.
    pub writer: Option<Writer>,
    /// A sync failed: nothing is promised any more.
    pub poisoned: AtomicBool,
    /// Closed.
    pub closed: AtomicBool,
    /// Users; see [`crate::volume::handle`].
    pub handles: AtomicUsize,
    /// The last user is gone: nobody finds the volume any more.
    pub leaving: AtomicBool,
    /// The volume's lock.
    pub lock: Mutex<Option<Box<dyn LockGuard>>>,
    /// The cache through which it is written, if it is.
    pub cache: OnceLock<Arc<WriteBack>>,
    /// Keeps what the header of a reader names; a writer's header is in the catalogue. Goes with the last reference, so
    /// after all reads.
    pub pin: Option<Pin>,
}

/// The map of a block as found: in the overlay, or looked up.
pub enum Found<'a> {
    /// Changed since the last fold.
    Dirty(&'a Arc<BlockMap>),
    /// As the tree has it.
    Clean(Stored),
}

impl Found<'_> {
    /// The runs of `start..start+len` in order, zeros included.
    pub fn runs(&self, start: u16, len: u16) -> Runs<'_> {
        match self {
            Found::Dirty(map) => map.runs(start, len),
            Found::Clean(stored) => block_map::runs(stored.extents(), start, len),
        }
    }

    /// The extents.
    pub fn extents(&self) -> &[Extent] {
        match self {
            Found::Dirty(map) => map.extents(),
            Found::Clean(stored) => stored.extents(),
        }
    }

    /// A copy to change.
    pub fn to_map(&self) -> BlockMap {
        match self {
            Found::Dirty(map) => (***map).clone(),
            Found::Clean(stored) => BlockMap::from_extents(stored.extents()),
        }
    }
}

impl Inner {
    /// An open map: `view` is what its header and journal say, `epoch` the live one.
    pub fn new(
        shared: &Arc<Shared>,
        header: HeaderState,
        view: MapView,
        epoch: u64,
        access: Access,
    ) -> Result<Arc<Inner>> {
        let (writer, lock, pin) = match access {
            Access::Write { writer, lock } => (Some(*writer), Some(lock), None),
            Access::Read { pin, lock } => (None, lock, Some(pin)),
        };
        let shrunk = header.header.shrunk;
        let inner = Inner {
            shared: shared.clone(),
            id: header.header.id,
            kind: header.header.kind,
            block_shift: header.header.block_shift,
            name: RwLock::new(header.header.name.clone()),
            size: AtomicU64::new(header.header.size),
            epoch: AtomicU64::new(epoch),
            header: Mutex::new(header),
            tree: RwLock::new(view.tree),
            overlay: Overlay::new(view.overlay),
            gate: RwLock::new(()),
            stalls: Stalls::default(),
            writer,
            poisoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            handles: AtomicUsize::new(0),
            leaving: AtomicBool::new(false),
            lock: Mutex::new(lock),
            cache: OnceLock::new(),
            pin,
        };
        if shrunk {
            inner.clip_last_block()?;
        }
        Ok(Arc::new(inner))
    }

    /// The backend.
    pub fn blocker(&self) -> &dyn Blocker {
        &*self.shared.blocker
    }

    /// Current name.
    pub fn name(&self) -> String {
        self.name.read().clone()
    }

    /// Refuses when closed or when a sync failed.
    pub fn check(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::NotOpen(self.name()));
        }
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned(self.name()));
        }
        Ok(())
    }

    /// The writer's part, or the error for those who are none.
    pub fn writer(&self) -> Result<&Writer> {
        self.writer.as_ref().ok_or_else(|| Error::ReadOnly(self.name()))
    }

    /// Waits for the requests under way that change the volume, and lets none begin. No sync belongs under it.
    pub fn stop_changes(&self) -> Stopped<'_> {
        let since = Instant::now();
        Stopped::new(self.gate.write(), since, &self.stalls)
    }

    /// The same, unless it takes longer than `time`.
    pub fn stop_changes_for(&self, time: Duration) -> Option<Stopped<'_>> {
        let since = Instant::now();
        self.gate.try_write_for(time).map(|gate| Stopped::new(gate, since, &self.stalls))
    }

    /// Checks a request's range.
    #[inline]
    pub fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.size.load(Ordering::Acquire);
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(self.out_of_range(offset, len, size)),
        }
    }

    #[cold]
    fn out_of_range(&self, offset: u64, len: u64, size: u64) -> Error {
        Error::OutOfRange { name: self.name(), offset, len, size }
    }

    /// Calls `each` with the parts of a range, in order, and whether it is the last: each changes the maps of a bounded number of
    /// blocks, so that writers are slowed down between two of them if need be.
    pub fn in_pieces(&self, offset: u64, len: u64, each: &mut dyn FnMut(u64, u64, bool) -> Result<()>) -> Result<()> {
        self.check_range(offset, len)?;
        let (most, end) = (MAX_ZEROED_BLOCKS << self.block_shift, offset + len);
        let mut at = offset;
        loop {
            let until = end.min((at / most + 1) * most);
            each(at, until - at, until == end)?;
            if until == end {
                return Ok(());
            }
            at = until;
        }
    }

    /// After an error that leaves it open what is on the disk, nothing is promised until the volume is opened again.
    pub fn fail_stop<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && !matches!(error, Error::NoSpace(_))
        {
            self.poisoned.store(true, Ordering::Release);
        }
        result
    }

    /// The journal poisons itself when it cannot say what was written.
    pub fn note<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Poisoned(_)) = &result {
            self.poisoned.store(true, Ordering::Release);
        }
        result
    }

    /// The map of a block. The overlay is looked at first: a fold puts a block into the tree before it leaves the overlay.
    pub fn locate<'a>(&self, shard: &'a Shard, block: u64) -> Result<Found<'a>> {
        if let Some(map) = shard.get(&block) {
            return Ok(Found::Dirty(map));
        }
        let tree = self.tree.read();
        Ok(Found::Clean(tree.find(self.blocker(), &self.shared.cache, block)?))
    }

    /// Where `start..start+len` of a block is if it is one run, at its first sector.
    #[inline(always)]
    pub fn one_run(&self, shard: &Shard, block: u64, start: u16, len: u16) -> Result<Option<Source>> {
        let one = |extents: &[Extent]| block_map::one_run(extents, start, len);
        if let Some(map) = shard.get(&block) {
            return Ok(one(map.extents()));
        }
        self.tree.read().see(self.blocker(), &self.shared.cache, block, one)
    }

    /// Puts a changed map into its shard.
    pub fn put(&self, shard: &mut Shard, block: u64, map: BlockMap) {
        if map.extents().len() > COMPOSE_EXTENTS
            && let Some(writer) = &self.writer
        {
            writer.overfull.lock().insert(block);
            if map.extents().len() > MAX_EXTENTS {
                writer.overlong.lock().insert(block);
            }
        }
        shard.insert(block, Arc::new(map));
    }

    /// Whether sectors at this place may be overwritten where they are: no snapshot shares them, and no checksum
    /// of a record that may be replayed covers them.
    pub fn is_live(&self, source: &Source) -> bool {
        let live = self.epoch.load(Ordering::Acquire);
        match *source {
            Source::Zero | Source::Content(_) => false,
            Source::Data { owner, epoch } => owner == self.id && epoch == live,
            Source::Log { owner, epoch, segment, offset } => {
                owner == self.id
                    && epoch == live
                    && self.writer.as_ref().is_some_and(|w| w.journal.is_folded(segment, offset))
            }
        }
    }

    /// Where the `len` bytes are that begin `by` bytes into a run of this source, which starts at byte `start` of `block`: the
    /// place of the first, and how many are there. The rest is zeros.
    pub fn find(
        &self,
        source: &Source,
        block: u64,
        start: u64,
        by: u64,
        len: usize,
    ) -> Result<(Option<(Object, u64)>, usize)> {
        let digest = match *source {
            Source::Content(digest) => Some(digest),
            // What a writer may overwrite was never hashed.
            Source::Data { owner, epoch } if self.writer.is_none() || !self.is_live(source) => {
                self.shared.contents.moved(self.blocker(), owner, epoch, block)?
            }
            _ => None,
        };
        if let Some(digest) = digest {
            let place = self.shared.contents.resolve(self.blocker(), digest)?;
            return Ok(place.part(start + by, len));
        }
        let found = self.place(source, block, start, by);
        Ok(if found.is_some() { (found, len) } else { (None, 0) })
    }

    /// The object and byte offset of what this volume may overwrite, `by` bytes into a run that starts at byte `start` of `block`.
    pub fn place(&self, source: &Source, block: u64, start: u64, by: u64) -> Option<(Object, u64)> {
        match *source {
            Source::Zero | Source::Content(_) => None,
            Source::Data { owner, epoch } => {
                Some((Object::Data(owner, epoch), (block << self.block_shift) + start + by))
            }
            Source::Log { owner, segment, offset, .. } => Some((Object::Log(owner, segment), u64::from(offset) + by)),
        }
    }

    /// Writes bytes where they lie already.
    pub fn write_in_place(
        &self,
        writer: &Writer,
        source: &Source,
        at: (Object, u64),
        bufs: &[IoSlice<'_>],
    ) -> Result<()> {
        if planted(Plant::EarlyMark) {
            self.mark_unsynced(writer, source);
            return self.blocker().write(at.0, bufs, at.1);
        }
        self.blocker().write(at.0, bufs, at.1)?;
        // Marked after the write: a flush that began before it owes nothing to it, one that begins later sees the mark.
        self.mark_unsynced(writer, source);
        Ok(())
    }

    pub(super) fn mark_unsynced(&self, writer: &Writer, source: &Source) {
        match *source {
            Source::Log { segment, .. } => writer.journal.mark_dirty(segment),
            _ => writer.data_dirty.store(true, Ordering::Release),
        }
    }

    /// Reads one sector of a block through its map.
    pub fn read_sector(&self, map: &BlockMap, block: u64, sector: u16, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        for run in map.runs(sector, 1) {
            let (place, n) = self.find(&run.source, block, u64::from(sector) << SECTOR_SHIFT, 0, buf.len())?;
            if let Some((object, offset)) = place {
                let shown = (block << self.block_shift) + (u64::from(sector) << SECTOR_SHIFT);
                self.read_place(object, &mut [IoSliceMut::new(&mut buf[..n])], offset, shown)?;
            }
        }
        Ok(())
    }

    /// How much waits to be folded, as bytes of journal: what its records take, or their map in memory if that is nearer its limit.
    pub fn pressure(&self, writer: &Writer) -> u64 {
        let memory = self.overlay.taken() as f64 / MAX_OVERLAY as f64;
        writer.journal.unfolded().max((memory * self.shared.options.max_unfolded as f64) as u64)
    }

    /// Changes the header durably.
    pub fn commit_header(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        let mut state = self.header.lock();
        let mut header = state.header.clone();
        change(&mut header);
        self.fail_stop(self.shared.check_registered())?;
        let result = self.blocker().commit_record(RecordKey::Header(self.id), state.version, &header.encode());
        state.version = self.fail_stop(result)?;
        state.header = header;
        Ok(())
    }

    /// Called by the journal when its first segment is ready: from now on the header says that there is one.
    pub fn journal_started(&self, start: LogStart) -> Result<()> {
        self.commit_header(|h| h.log = Some(start))
    }

    /// The oldest epoch with map changes that are in no journal, though reads go by them.
    pub fn oldest_unsettled(&self) -> Option<u64> {
        self.writer.as_ref()?.journal.oldest_disowned()
    }

    /// Lets the next fold begin a new node pack; `false` if a fold under way did not let go of the pack in time.
    pub fn close_pack(&self, deadline: Instant) -> bool {
        let Some(writer) = &self.writer else { return true };
        match writer.pack.try_lock_until(deadline) {
            Some(mut pack) => {
                pack.iter_mut().for_each(PackWriter::close);
                true
            }
            None => false,
        }
    }

    /// The map as it is now.
    pub fn view(&self) -> MapView {
        // The overlay first: see `locate`.
        let overlay = self.overlay.capture().into_iter().collect();
        MapView {
            overlay,
            tree: self.tree.read().clone(),
            size: self.size.load(Ordering::Acquire),
            shrunk: self.header.lock().header.shrunk,
        }
    }
}
