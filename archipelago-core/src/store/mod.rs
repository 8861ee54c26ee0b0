//! A store: the set of volumes on one backend, and what they share.

mod acknowledge;
mod background;
mod called;
pub(crate) mod catalog;
mod check;
pub mod collect;
pub mod content;
pub mod control;
mod disk_use;
mod figures;
mod group;
pub(crate) mod handover;
mod labels;
pub(crate) mod open;
pub(crate) mod operations;
mod os;
pub mod peers;
pub(crate) mod pins;
pub mod process;
mod receive;
mod reports;
mod send;
mod service;
pub(crate) mod shared;
pub(crate) mod sums;
mod thin;
mod types;
mod usage;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use self::called::Called;
use self::control::{Answer, Handler, Request};
use self::peers::{Neighbours, Registered};
use self::process::Registration;
use self::shared::Shared;
use crate::blocker::file::{FileBlocker, FileOptions};
use crate::blocker::rados::{RadosBlocker, RadosPlace};
use crate::blocker::sys::Sys;
use crate::blocker::{Blocker, LockGuard, RecordKey, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::{Header, Kind, Root};
use crate::format::labels::Labels;
use crate::format::relations::{Group, Received};
use crate::format::stream::uuid_text;
use crate::format::superblock::Superblock;
use crate::limits;
use crate::volume::cache::attach::Wanted;
use crate::volume::inner::Inner;
use crate::volume::queue::WorkerPool;
use crate::volume::{CacheOptions, CompactReport, GivenUp, Mode, Together, Volume};

pub use check::{
    Affected, ByteRange, CheckOptions, CheckProgress, CheckReport, ContentFigures, DataReport, Finding, FindingKind,
    Repair, Severity,
};
pub use collect::{Amount, CollectOptions, CollectPhase, CollectProgress, CollectReport, Rate, SpaceByKind};
pub use disk_use::{DiskUse, DiskUseProgress, MapUse};
pub use figures::{CacheFigures, StoreFigures, VolumeFigures};
pub use group::GroupStep;
pub use labels::LabelChange;
pub use receive::ReceiveStatus;
pub use send::{SendOptions, SendPlan};
pub use service::Answerer;
pub use sums::{ScrubOptions, ScrubProgress, ScrubReport};
pub use thin::ThinOptions;
pub use types::{
    Background, CloneOptions, CreateOptions, DamagedEntry, DiffExtent, InitOptions, ListOptions, Location, MapExtent,
    MapSource, Page, ProcessInfo, StoreOptions, StoreStatus, Usage, VolumeInfo,
};

/// How long a lock is waited for that somebody takes for a moment.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an owner may take to do what it is asked for.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Processors that this process may use. Asked for once: the answer takes several system calls.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(2, |n| n.get()));
/// How long a process may take to say what it has open.
const STATUS_TIME: Duration = Duration::from_secs(1);

/// An open store. Cheap to clone; closed when the last clone and the last volume are dropped.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// `log2` of a block size, if it is a legal one.
fn block_shift(size: u64) -> Result<u8> {
    if size.is_power_of_two() && (limits::MIN_BLOCK_SIZE..=limits::MAX_BLOCK_SIZE).contains(&size) {
        return Ok(size.trailing_zeros() as u8);
    }
    Err(Error::InvalidArgument(format!("a block of {size} bytes; it must be a power of two from 64 KiB to 64 MiB")))
}

impl Store {
    /// Makes a store in a directory that is empty or does not exist, or in a namespace of a pool in which there is none.
    pub fn init(location: &Location, options: &InitOptions) -> Result<()> {
        block_shift(options.block_size)?;
        match location {
            Location::File(path) => Store::init_directory(path, options),
            Location::Rados(place) => match Store::init_on(Arc::new(RadosBlocker::open(place)?), options) {
                Err(Error::Exists(_)) => Err(Error::Exists(format!("{place}: a store"))),
                other => other,
            },
        }
    }

    fn init_directory(path: &Path, options: &InitOptions) -> Result<()> {
        if path.join("archipelago.store").exists() {
            return Err(Error::Exists(format!("{}: a store", path.display())));
        }
        match std::fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    let text = format!("{}: the directory is not empty", path.display());
                    return Err(Error::InvalidArgument(text));
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("look into", path.display().to_string(), e)),
        }
        let file =
            FileOptions { mode: options.mode, group: options.group.unwrap_or(u32::MAX), ..FileOptions::default() };
        Store::init_on(Arc::new(FileBlocker::init(path, file)?), options)
    }

    /// Opens a store and registers this process with it.
    pub fn open(location: &Location, options: StoreOptions) -> Result<Store> {
        match location {
            Location::File(path) => Store::open_directory(path, location, options),
            Location::Rados(place) => Store::open_pool(place, location, options),
        }
    }

    fn open_pool(place: &RadosPlace, location: &Location, options: StoreOptions) -> Result<Store> {
        let blocker = Arc::new(RadosBlocker::open(place)?);
        let superblock = match read_superblock(&*blocker) {
            Err(Error::NoStore(_)) => return Err(Error::NoStore(place.to_string())),
            other => other?,
        };
        let peers = Called::new(&blocker);
        let store = Store::assemble(blocker, options, superblock, Some(location.clone()))?;
        let handler: Weak<dyn Handler> = Arc::downgrade(&(store.shared.clone() as Arc<dyn Handler>));
        peers.join(handler)?;
        let _ = store.shared.peers.set(Arc::new(peers));
        Ok(store)
    }

    fn open_directory(path: &Path, location: &Location, options: StoreOptions) -> Result<Store> {
        let here = path.display().to_string();
        // A directory that may not be looked into is not the same as no store.
        match path.join("archipelago.store").try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(Error::NoStore(here)),
            Err(e) => return Err(Error::io("look into", here, e)),
        }
        let plain = FileBlocker::open(path, FileOptions::default())?;
        let superblock = read_superblock(&plain)?;
        if options.direct && !plain.bypasses()? {
            let text =
                format!("{here}: its file system cannot read and write past the page cache; open it without `direct`");
            return Err(Error::InvalidArgument(text));
        }
        let (mode, group, direct) = (superblock.mode, superblock.group, options.direct);
        let blocker = Arc::new(FileBlocker::open(path, FileOptions { mode, group, direct, ..FileOptions::default() })?);
        let store = Store::assemble(blocker, options, superblock, Some(location.clone()))?;
        let superblock = &store.shared.superblock;
        let group = Some(superblock.group).filter(|g| *g != u32::MAX);
        let handler: Weak<dyn Handler> = Arc::downgrade(&(store.shared.clone() as Arc<dyn Handler>));
        let registration = Registration::register(path, superblock.mode, group, handler)?;
        let _ = store.shared.peers.set(Arc::new(Registered::new(path.to_path_buf(), registration.id().to_string())));
        let _ = store.shared.registration.set(registration);
        Ok(store)
    }

    /// Makes a store on any backend (for simulation and tests).
    pub fn init_on(blocker: Arc<dyn Blocker>, options: &InitOptions) -> Result<()> {
        let half = || crate::random::random_u64().map_err(|e| Error::io("read", "the system's randomness", e));
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&half()?.to_le_bytes());
        uuid[8..].copy_from_slice(&half()?.to_le_bytes());
        // The bits that say "version 4, random" in a UUID.
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        let superblock = Superblock {
            uuid,
            created: crate::time::now(),
            block_shift: block_shift(options.block_size)?,
            mode: options.mode,
            group: options.group.unwrap_or(u32::MAX),
            incompat: 0,
            read_compat: 0,
        };
        blocker.create_record(RecordKey::Store, &superblock.encode())
    }

    /// Opens a store on any backend, without registering a process (for simulation and tests).
    pub fn open_on(blocker: Arc<dyn Blocker>, options: StoreOptions) -> Result<Store> {
        let superblock = read_superblock(&*blocker)?;
        Store::assemble(blocker, options, superblock, None)
    }

    /// Opens a store on any backend as one of several simulated processes that share it (for simulation and tests).
    pub fn open_among(blocker: Arc<dyn Blocker>, options: StoreOptions, neighbours: &Arc<Neighbours>) -> Result<Store> {
        let store = Store::open_on(blocker, options)?;
        let handler: Weak<dyn Handler> = Arc::downgrade(&(store.shared.clone() as Arc<dyn Handler>));
        let _ = store.shared.peers.set(neighbours.join(handler));
        Ok(store)
    }

    /// This process among those that have the store open: the id of its registration, 16 hex digits. `None` for a store
    /// that was opened without any.
    pub fn process(&self) -> Option<&str> {
        self.shared.peers.get().map(|peers| peers.own())
    }

    /// Room for so many requests that one thread has under way together, in a store that is open past the page cache: for whoever keeps many, and
    /// has no thread for each. `None` where requests do not wait for a disk, or the kernel has no io_uring: then calls do.
    pub fn together(&self, requests: usize) -> Result<Option<Together>> {
        Together::new(&self.shared, requests.clamp(1, limits::MAX_TOGETHER))
    }

    fn assemble(
        blocker: Arc<dyn Blocker>,
        options: StoreOptions,
        superblock: Superblock,
        location: Option<Location>,
    ) -> Result<Store> {
        if !(128 << 10..=1 << 30).contains(&options.max_unfolded) {
            return Err(Error::InvalidArgument("the unfolded journal may be 128 KiB to 1 GiB long".into()));
        }
        if !(64 << 10..=limits::SEGMENT_SIZE).contains(&options.first_segment)
            || !options.first_segment.is_multiple_of(4096)
        {
            return Err(Error::InvalidArgument("a first segment has 64 KiB to 16 MiB, in steps of 4 KiB".into()));
        }
        let threads = if options.direct { limits::DIRECT_THREADS.max(*PROCESSORS) } else { *PROCESSORS };
        let pool = WorkerPool::new(threads, limits::MAX_QUEUE);
        let manual = options.background == Background::Manual;
        let shared = Arc::new(Shared::new(blocker, options, superblock, location, pool));
        if !manual {
            background::start(&shared)?;
        }
        Ok(Store { shared })
    }

    /// Makes an empty volume.
    pub fn create(&self, name: &str, options: &CreateOptions) -> Result<VolumeInfo> {
        self.make_empty(name, options, Labels::default())
    }

    fn make_empty(&self, name: &str, options: &CreateOptions, labels: Labels) -> Result<VolumeInfo> {
        crate::name::check(name)?;
        catalog::check_size(options.size)?;
        let block_shift = match options.block_size {
            Some(size) => block_shift(size)?,
            None => self.shared.superblock.block_shift,
        };
        let header = Header {
            id: self.shared.new_id()?,
            kind: Kind::Volume,
            name: name.to_string(),
            removed: false,
            shrunk: false,
            size: options.size,
            block_shift,
            epoch: 1,
            created: self.shared.now(),
            parent: VolumeId(0),
            birth: 0,
            key: 0,
            domain: 0,
            root: Root::Empty,
            ranges: Vec::new(),
            log: None,
            received: Received::No,
            group: Group::No,
            labels,
            cached: None,
        };
        let _operation = self.shared.operations.begin();
        catalog::ensure_free(&self.shared, name)?;
        catalog::publish(&self.shared, &header)?;
        catalog::describe(&self.shared, &header, None)
    }

    /// Makes a writable clone of a snapshot: constant time, no data moves.
    pub fn clone_snapshot(&self, snapshot: &str, name: &str, options: &CloneOptions) -> Result<VolumeInfo> {
        let headers =
            self.make_clones(snapshot, std::slice::from_ref(&name.to_string()), options, &Labels::default())?;
        catalog::describe_clone(&headers[0], snapshot)
    }

    /// Makes many clones in one group commit: all of them, or an error and none.
    pub fn clone_many(&self, snapshot: &str, names: &[String], options: &CloneOptions) -> Result<()> {
        if names.is_empty() || names.len() > limits::MAX_CLONE_COUNT {
            let text = format!("{} clones at once; 1 to {} can be made", names.len(), limits::MAX_CLONE_COUNT);
            return Err(Error::InvalidArgument(text));
        }
        self.make_clones(snapshot, names, options, &Labels::default()).map(|_| ())
    }

    fn make_clones(
        &self,
        snapshot: &str,
        names: &[String],
        options: &CloneOptions,
        labels: &Labels,
    ) -> Result<Vec<Header>> {
        let mut seen = HashSet::with_capacity(names.len());
        for name in names {
            crate::name::check(name)?;
            if !seen.insert(name) {
                return Err(Error::InvalidArgument(format!("{name}: named twice")));
            }
        }
        let _operation = self.shared.operations.begin();
        let (source, _) = catalog::find(&self.shared, snapshot)?;
        if source.kind == Kind::Volume {
            return Err(Error::NotSnapshot(snapshot.to_string()));
        }
        let size = options.size.unwrap_or(source.size);
        catalog::check_size(size)?;
        if size < source.size {
            let text =
                format!("{size} bytes is less than the {} of {snapshot}; clone it, then resize the clone", source.size);
            return Err(Error::InvalidArgument(text));
        }
        let mut headers = Vec::with_capacity(names.len());
        for name in names {
            catalog::ensure_free(&self.shared, name)?;
            headers.push(Header {
                id: self.shared.new_id()?,
                kind: Kind::Volume,
                name: name.clone(),
                size,
                epoch: 1,
                created: self.shared.now(),
                parent: source.id,
                log: None,
                received: Received::No,
                group: Group::No,
                labels: labels.clone(),
                ..source.clone()
            });
        }
        catalog::publish_many(&self.shared, &headers)?;
        Ok(headers)
    }

    /// Takes a snapshot of a volume, asking the process that has it open if there is one.
    pub fn snapshot(&self, volume: &str, snapshot: &str) -> Result<VolumeInfo> {
        crate::name::check(snapshot)?;
        let request = |id: String| Request::Snapshot { volume: volume.into(), id, snapshot: snapshot.into() };
        match self.by_owner(volume, |inner| inner.snapshot(snapshot).map(|i| Answer::Info(Box::new(i))), &request)? {
            Answer::Info(info) => Ok(*info),
            _ => self.info(snapshot),
        }
    }

    /// Has something done to a volume: here, or by the process that has it open for writing.
    fn by_owner(
        &self,
        name: &str,
        here: impl Fn(&Inner) -> Result<Answer>,
        request: &dyn Fn(String) -> Request,
    ) -> Result<Answer> {
        let (header, _) = catalog::find(&self.shared, name)?;
        if header.kind != Kind::Volume {
            return Err(Error::IsSnapshot(name.to_string()));
        }
        catalog::check_whole(&header)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let refused = match open::for_writing(&self.shared, name) {
                // Dropped behind this, and so closed if nobody else has it.
                Ok(inner) => return here(&inner),
                Err(error @ Error::OpenElsewhere { .. }) => error,
                Err(error) => return Err(error),
            };
            if let (Error::OpenElsewhere { owner, .. }, Some(peers)) = (&refused, self.shared.peers.get())
                && !owner.process.is_empty()
            {
                match peers.ask(&owner.process, &request(header.id.to_string()), ANSWER_TIME) {
                    // It closed the volume before the request came; look again.
                    Err(Error::NotOpen(_)) => {}
                    answer => return answer,
                }
            }
            // In memory there is nobody else who could be asked, and so nothing to wait for.
            if self.shared.location.is_none() || Instant::now() >= deadline {
                return Err(refused);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Removes a volume or snapshot, in any order. Refused while it is open. Its data stays as long as other maps use it.
    pub fn remove(&self, name: &str) -> Result<()> {
        const ADVICE: &str = "close it there first";
        let _operation = self.shared.operations.begin();
        let (header, _) = catalog::find(&self.shared, name)?;
        if self.shared.opened(header.id).is_some() {
            return Err(Error::Busy(name.to_string()));
        }
        let _lock = self.lock_patiently(&header, ADVICE)?;
        let (mut header, version) = self.find_again(name, header.id)?;
        header.removed = true;
        let key = RecordKey::Header(header.id);
        self.shared.blocker.commit_record(key, version, &header.encode())?;
        self.shared.blocker.unbind_name(name)?;
        self.shared.blocker.trash_header(header.id)
    }

    /// A lock that somebody takes for a moment only is waited for.
    fn lock_patiently(&self, header: &Header, advice: &'static str) -> Result<Box<dyn LockGuard>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match catalog::lock(&self.shared, header, advice) {
                Err(Error::OpenElsewhere { owner, .. })
                    if owner.process.is_empty() && self.shared.peers.get().is_some() && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    /// A header again, now that its lock is held.
    fn find_again(&self, name: &str, id: VolumeId) -> Result<(Header, u64)> {
        catalog::read_header(&self.shared, id)?
            .filter(|(h, _)| h.name == name && !h.removed)
            .ok_or_else(|| Error::NotFound(name.to_string()))
    }

    /// Gives a volume or snapshot another name, asking the process that has it open if there is one.
    pub fn rename(&self, old: &str, new: &str) -> Result<()> {
        crate::name::check(new)?;
        let (header, _) = catalog::find(&self.shared, old)?;
        if header.kind == Kind::Volume {
            let request = |id: String| Request::Rename { id, volume: old.into(), new: new.into() };
            return self.by_owner(old, |inner| inner.rename(new).map(|()| Answer::Done), &request).map(|_| ());
        }
        let _operation = self.shared.operations.begin();
        let _lock = self.lock_patiently(&header, "try again")?;
        let (mut header, version) = self.find_again(old, header.id)?;
        header.name = new.to_string();
        catalog::rename(&self.shared, old, new, header.id, || {
            self.shared.blocker.commit_record(RecordKey::Header(header.id), version, &header.encode()).map(drop)
        })
    }

    /// Sets the size of a volume, asking the process that has it open if there is one. Smaller only with `shrink`; what is cut off is gone.
    pub fn resize(&self, name: &str, size: u64, shrink: bool) -> Result<()> {
        catalog::check_size(size)?;
        let request = |id: String| Request::Resize { id, volume: name.into(), size, shrink };
        self.by_owner(name, |inner| inner.resize(size, shrink).map(|()| Answer::Done), &request).map(|_| ())
    }

    /// Lists volumes and snapshots.
    pub fn list(&self, options: &ListOptions) -> Result<Page> {
        let limit = match options.limit {
            0 => limits::MAX_LIST_PAGE,
            n => n.min(limits::MAX_LIST_PAGE),
        };
        let (mut entries, mut damaged) = (Vec::new(), Vec::new());
        let mut after = options.after.clone();
        loop {
            // One more than fits, to know whether there is a next page.
            let wanted = limit + 1 - entries.len();
            let names = self.shared.blocker.names(&options.prefix, after.as_deref(), wanted)?;
            let last = names.len() < wanted;
            after = names.last().cloned().or(after);
            for name in names {
                let described = catalog::resolve(&self.shared, &name)
                    .and_then(|found| found.map(|(h, _)| catalog::describe(&self.shared, &h, None)).transpose());
                match described {
                    Ok(Some(info)) => entries.push(info),
                    Ok(None) => {}
                    // One that cannot be read must not hide the others.
                    Err(error @ (Error::Damaged { .. } | Error::TooNew { .. } | Error::Io { .. })) => {
                        damaged.push(DamagedEntry { name, message: error.to_string() });
                    }
                    Err(error) => return Err(error),
                }
            }
            if last || entries.len() > limit {
                break;
            }
        }
        let next = if entries.len() > limit { entries.get(limit - 1).map(|e| e.name.clone()) } else { None };
        entries.truncate(limit);
        // Those behind the end are told of by the next page.
        damaged.retain(|d| next.as_ref().is_none_or(|next| d.name <= *next));
        Ok(Page { entries, damaged, next })
    }

    /// Facts about one volume or snapshot. One that is open in this process is described as it is now, one that is open
    /// elsewhere as of its last checkpoint.
    pub fn info(&self, name: &str) -> Result<VolumeInfo> {
        let (header, _) = catalog::find(&self.shared, name)?;
        if let Some(inner) = self.shared.opened(header.id) {
            return inner.info();
        }
        let mapped = if header.ranges.is_empty() {
            None
        } else {
            let _operation = self.shared.operations.begin();
            let (header, _) = catalog::find(&self.shared, name)?;
            let (_, view) = usage::view(&self.shared, &header)?;
            Some(view.mapped(&*self.shared.blocker, &self.shared.cache)? * limits::SECTOR)
        };
        catalog::describe(&self.shared, &header, mapped)
    }

    /// How much of it is its own; walks what differs from every other map of the store.
    pub fn usage(&self, name: &str) -> Result<Usage> {
        usage::usage(&self.shared, name)
    }

    /// How much room each map takes alone, and how much it shares: what its removal and a collection would free. Walks every map.
    /// `progress` is told how far it is; an error of it ends the walk. What changes meanwhile is counted as it was or as it is.
    pub fn disk_use(&self, progress: &mut dyn FnMut(DiskUseProgress) -> Result<()>) -> Result<DiskUse> {
        disk_use::disk_use(&self.shared, progress)
    }

    /// Calls `each` with the ranges of a map in order, zero ranges included, from `offset` for `len` bytes (cut at the map's end).
    pub fn map_extents(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(MapExtent) -> Result<()>,
    ) -> Result<()> {
        usage::map_extents(&self.shared, name, offset, len, each)
    }

    /// Calls `each` with the ranges in which map `b` may differ from map `a`, in order. Walks only what is not shared.
    pub fn diff(&self, a: &str, b: &str, each: &mut dyn FnMut(DiffExtent) -> Result<()>) -> Result<()> {
        usage::diff(&self.shared, a, b, each)
    }

    /// Opens a volume or snapshot for I/O. Reading and writing is exclusive to this process, in which all openers share
    /// the volume; many processes may read a snapshot. Where the location names a directory for caches, a volume has one there, as with
    /// [`Store::open_cached`].
    pub fn open_volume(&self, name: &str, mode: Mode) -> Result<Volume> {
        let inner = match mode {
            Mode::ReadWrite => open::for_use(&self.shared, name)?,
            Mode::ReadOnly => open::for_reading(&self.shared, name)?,
        };
        Ok(Volume::new(inner, mode))
    }

    /// Opens a volume for reading and writing through a write-back cache, of which this process is the only user. What was acknowledged is durable in
    /// the cache after a flush, and in the volume after a snapshot or [`Volume::close`]; if the cache is lost before, the volume is as it was
    /// after some earlier write. `Busy` if the volume is open in this process; [`Error::Cached`] if its newest writes are in another cache.
    pub fn open_cached(&self, name: &str, options: &CacheOptions) -> Result<Volume> {
        let inner = open::for_caching(&self.shared, name, Wanted::new(options)?)?;
        Ok(Volume::new(inner, Mode::ReadWrite))
    }

    /// As [`Store::open_cached`], with a file of `size` bytes for records on a simulated disk. For tests.
    #[doc(hidden)]
    pub fn open_cached_on(&self, name: &str, sys: Arc<dyn Sys>, file: &str, size: u64) -> Result<Volume> {
        let inner = open::for_caching(&self.shared, name, Wanted::simulated(sys, file, size)?)?;
        Ok(Volume::new(inner, Mode::ReadWrite))
    }

    /// Gives up what is in the cache of a volume and not in the volume, which is as it was after some earlier write then. `None` if
    /// there is no such cache. `Busy` if the volume is open in this process.
    pub fn discard_cache(&self, name: &str) -> Result<Option<GivenUp>> {
        open::without_cache(&self.shared, name)
    }

    /// What tells this store from every other one, wherever it is moved to.
    pub fn uuid(&self) -> String {
        uuid_text(&self.shared.superblock.uuid)
    }

    /// State of the store.
    pub fn status(&self) -> Result<StoreStatus> {
        let shared = &self.shared;
        let (mut volumes, mut snapshots) = (0, 0);
        for id in shared.blocker.headers()? {
            match usage::readable(shared, id)? {
                Some((h, _)) if h.removed || !group::counts(shared, &h)? => {}
                Some((h, _)) if h.kind == Kind::Volume => volumes += 1,
                Some(_) => snapshots += 1,
                None => {}
            }
        }
        let mut processes = Vec::new();
        if let Some(peers) = shared.peers.get() {
            for owner in peers.processes()? {
                let own = peers.own() == owner.process;
                let answer = if own {
                    Ok(shared.handle(Request::Status))
                } else {
                    peers.ask(&owner.process, &Request::Status, STATUS_TIME)
                };
                let (volumes, work, trouble) = match answer {
                    Ok(Answer::Status { volumes, work, trouble }) => (volumes, work, trouble),
                    _ => Default::default(),
                };
                processes.push(ProcessInfo { owner, volumes, work, trouble });
            }
        }
        Ok(StoreStatus {
            location: shared.location.as_ref().map_or_else(|| "memory".to_string(), Location::to_string),
            uuid: self.uuid(),
            block_size: 1 << shared.superblock.block_shift,
            volumes,
            snapshots,
            trashed: shared.blocker.trashed()?.len() as u64,
            space: shared.blocker.space()?,
            processes,
            work: shared.reports.works(),
            trouble: shared.troubles(),
        })
    }

    /// Says what a long job of this process is doing, or that it does nothing; shown by [`Store::status`] of every process.
    pub fn report_work(&self, job: &'static str, text: Option<String>) {
        self.shared.reports.work(job, text);
    }

    /// Says what a long job of this process failed with, or that all is well again; shown like its work.
    pub fn report_trouble(&self, job: &'static str, text: Option<String>) {
        self.shared.reports.trouble(job, text);
    }

    /// Looks at everything in the store and says what is wrong, what is left over, and what is lost; with
    /// [`CheckOptions::repair`] puts right what can be put right without inventing data. Runs on a store in use, where a
    /// volume that is open is checked as of its last checkpoint. `progress` is told now and then how far it is; an error of it ends
    /// the check. What is wrong with the store is in the report, and no error.
    pub fn check(
        &self,
        options: &CheckOptions,
        progress: &mut dyn FnMut(CheckProgress) -> Result<()>,
    ) -> Result<CheckReport> {
        check::check(&self.shared, options, progress)
    }

    /// Removes what no map names any more: data, journals and trees of removed maps, what snapshots and folds left behind, and
    /// leftovers of calls that were cut short. Safe at any time, beside whatever other processes do; one collection at a
    /// time (`TooBusy`). `progress` is called now and then, and at the end; when it returns `false` the collection stops, and a later one
    /// goes on.
    ///
    /// If a map cannot be read (`Damaged`), or a process of the store does not answer (`Timeout`), nothing is removed.
    pub fn collect(
        &self,
        options: &CollectOptions,
        progress: &mut dyn FnMut(&CollectProgress) -> bool,
    ) -> Result<CollectReport> {
        collect::collect(&self.shared, options, collect::Planted::default(), progress)
    }

    /// Copies what volumes that are open for writing here need of thin objects into their live epochs: data of ended epochs and journal
    /// segments of which a volume needs little, and no other map anything, if it has many. The next collection removes
    /// them. Volumes may be in use meanwhile. `progress` is called after each block, and may end the work early; it is done the
    /// next time then.
    pub fn leave_thin(
        &self,
        options: &ThinOptions,
        progress: &mut dyn FnMut(CompactReport) -> std::ops::ControlFlow<()>,
    ) -> Result<CompactReport> {
        thin::leave_thin(&self.shared, options, progress)
    }

    /// As [`Store::collect`], with steps or memory left out: for tests that must notice.
    #[doc(hidden)]
    pub fn collect_with_planted_bug(
        &self,
        options: &CollectOptions,
        planted: collect::Planted,
        progress: &mut dyn FnMut(&CollectProgress) -> bool,
    ) -> Result<CollectReport> {
        collect::collect(&self.shared, options, planted, progress)
    }

    /// Reads all data that maps name in sealed epochs and compares it with its checksums; what has none gets one, from two readings
    /// that agree. Safe at any time; one pass at a time (`TooBusy`). `progress` is called now and then; when it returns `false` the
    /// pass stops, and what was made stays. What is wrong with the data is in the report, and no error.
    pub fn scrub(
        &self,
        options: &ScrubOptions,
        progress: &mut dyn FnMut(&ScrubProgress) -> bool,
    ) -> Result<ScrubReport> {
        sums::scrub(&self.shared, options, progress)
    }

    /// How much room the store takes, by kind: looks at every object once.
    pub fn space_by_kind(&self) -> Result<SpaceByKind> {
        collect::by_kind(&self.shared)
    }

    /// Does background work that is due (checkpoints, folding, composing); returns whether there was any.
    pub fn run_background(&self) -> Result<bool> {
        let mut worked = false;
        for inner in self.shared.all_open() {
            worked |= inner.background()?;
        }
        Ok(worked)
    }
}

fn read_superblock(blocker: &dyn Blocker) -> Result<Superblock> {
    let record = match blocker.read_record(RecordKey::Store) {
        Err(Error::NotFound(what)) => return Err(Error::NoStore(what)),
        other => other?,
    };
    Superblock::decode(&RecordKey::Store.to_string(), &record.bytes)
}
