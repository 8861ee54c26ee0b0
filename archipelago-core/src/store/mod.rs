//! A store: the set of volumes on one backend, and what they share.

mod background;
pub(crate) mod catalog;
pub mod control;
pub(crate) mod open;
mod os;
pub mod process;
pub(crate) mod shared;
mod usage;

use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde::Serialize;

use self::control::{Answer, Handler, Request};
use self::process::Registration;
use self::shared::Shared;
use crate::blocker::file::{FileBlocker, FileOptions};
use crate::blocker::{Blocker, LockGuard, RecordKey, Space, VolumeId};
use crate::error::{Error, Owner, Result};
use crate::format::header::{Header, Kind, Root};
use crate::format::superblock::Superblock;
use crate::limits;
use crate::volume::inner::Inner;
use crate::volume::queue::WorkerPool;
use crate::volume::{Mode, Volume};

/// How long a lock is waited for that somebody takes for a moment.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an owner may take to do what it is asked for.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long a process may take to say what it has open.
const STATUS_TIME: Duration = Duration::from_secs(1);

/// Where a store is. Text form: `file:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    File(PathBuf),
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Location> {
        match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Location::File(PathBuf::from(path))),
            _ => Err(Error::InvalidArgument(format!("{text:?}: a store is written file:/path/of/a/directory"))),
        }
    }
}

/// How a store is made.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Block size of volumes that do not say otherwise, in bytes: a power of two, 64 KiB to 64 MiB.
    pub block_size: u64,
    /// Permission bits of its files.
    pub mode: u32,
    /// Group of its files; `None` leaves it to the system.
    pub group: Option<u32>,
}

/// Who does the background work of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// A thread of the store's.
    Thread,
    /// Nobody: the caller calls [`Store::run_background`]; what cannot wait is done by the call that needs it. For simulation.
    Manual,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Byte limit of the node cache.
    pub node_cache: u64,
    /// Who does the background work.
    pub background: Background,
    /// Journal bytes of one volume that may wait to be folded; 1 MiB to 1 GiB.
    pub max_unfolded: u64,
    /// Length of the first journal segment of a volume in bytes; later ones grow to 16 MiB.
    pub first_segment: u64,
    /// Seed of volume ids and generations; `None` takes the system's randomness. For simulation.
    pub seed: Option<u64>,
}

/// How a volume is made.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Size in bytes, 1 B to 4 PiB.
    pub size: u64,
    /// Block size in bytes; `None` takes the store's.
    pub block_size: Option<u64>,
}

/// How a clone is made.
#[derive(Clone, Debug, Default)]
pub struct CloneOptions {
    /// Size in bytes, not below the snapshot's; `None` takes the snapshot's.
    pub size: Option<u64>,
}

/// What a listing shows.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Names that start with this.
    pub prefix: String,
    /// Names that sort after this one, in byte order.
    pub after: Option<String>,
    /// At most this many; 0 means the largest page (10,000).
    pub limit: usize,
}

/// One page of a listing.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// In byte order of names.
    pub entries: Vec<VolumeInfo>,
    /// Pass as `after` for the next page; `None` on the last.
    pub next: Option<String>,
}

/// Facts about a volume or snapshot.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub struct VolumeInfo {
    /// Name.
    pub name: String,
    /// Id, 16 hex digits.
    pub id: String,
    /// Kind.
    pub kind: Kind,
    /// Size in bytes.
    pub size: u64,
    /// Block size in bytes.
    pub block_size: u64,
    /// Live epoch.
    pub epoch: u64,
    /// Bytes that are not known to be zero. For a volume open in another process: as of its last checkpoint.
    pub mapped: u64,
    /// Never changes.
    pub read_only: bool,
    /// Name of the snapshot it was cloned from, or of the volume it is a snapshot of. Its id in brackets if that has no name any more.
    pub parent: Option<String>,
    /// Seconds since 1970.
    pub created: u64,
    /// Who has it open for writing.
    pub open_by: Option<Owner>,
}

/// How much of a map is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Size in bytes.
    pub logical: u64,
    /// Bytes that are not known to be zero.
    pub mapped: u64,
    /// Mapped bytes that no other map of the store uses.
    pub unique: u64,
    /// Mapped bytes that at least one other map uses.
    pub shared: u64,
}

/// Where a mapped range's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "source", rename_all = "lowercase")]
pub enum MapSource {
    /// Zeros, stored nowhere.
    Zero,
    /// In a data object, at the same offset.
    Data {
        /// Volume that wrote them (id as number).
        owner: u64,
        /// Epoch.
        epoch: u64,
    },
    /// In a journal segment.
    Log {
        /// Volume that wrote them (id as number).
        owner: u64,
        /// Epoch.
        epoch: u64,
        /// Segment.
        segment: u32,
        /// Byte offset in the segment.
        position: u32,
    },
}

/// A range of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MapExtent {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where its bytes are.
    #[serde(flatten)]
    pub source: MapSource,
}

/// A range in which two maps may differ. What is not reported is the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DiffExtent {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Whether the second map has only zeros there.
    pub zero: bool,
}

/// A process that has the store open.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessInfo {
    /// Who.
    #[serde(flatten)]
    pub owner: Owner,
    /// Names of the volumes that it has open for writing.
    pub volumes: Vec<String>,
}

/// State of a store.
#[derive(Clone, Debug, Serialize)]
pub struct StoreStatus {
    /// Location as text.
    pub location: String,
    /// Identity.
    pub uuid: String,
    /// Default block size in bytes.
    pub block_size: u64,
    /// Volumes.
    pub volumes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Removed maps whose space was not collected yet.
    pub trashed: u64,
    /// Room on the backend, in bytes.
    pub space: Space,
    /// Processes that have it open.
    pub processes: Vec<ProcessInfo>,
    /// What the background work of this process failed with last, if it did.
    pub trouble: Option<String>,
}

/// An open store. Cheap to clone; closed when the last clone and the last volume are dropped.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

impl Default for InitOptions {
    fn default() -> InitOptions {
        InitOptions { block_size: limits::DEFAULT_BLOCK_SIZE, mode: 0o660, group: None }
    }
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            node_cache: limits::NODE_CACHE,
            background: Background::Thread,
            max_unfolded: limits::MAX_UNFOLDED,
            first_segment: limits::FIRST_SEGMENT_SIZE,
            seed: None,
        }
    }
}

/// `log2` of a block size, if it is a legal one.
fn block_shift(size: u64) -> Result<u8> {
    if size.is_power_of_two() && (limits::MIN_BLOCK_SIZE..=limits::MAX_BLOCK_SIZE).contains(&size) {
        return Ok(size.trailing_zeros() as u8);
    }
    Err(Error::InvalidArgument(format!("a block of {size} bytes; it must be a power of two from 64 KiB to 64 MiB")))
}

impl Store {
    /// Makes a store in a directory that is empty or does not exist.
    pub fn init(location: &Location, options: &InitOptions) -> Result<()> {
        let Location::File(path) = location;
        block_shift(options.block_size)?;
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
        let Location::File(path) = location;
        let here = path.display().to_string();
        if !path.join("archipelago.store").exists() {
            return Err(Error::NoStore(here));
        }
        let plain = FileBlocker::open(path, FileOptions::default())?;
        let superblock = read_superblock(&plain)?;
        let file = FileOptions { mode: superblock.mode, group: superblock.group, ..FileOptions::default() };
        let blocker = Arc::new(FileBlocker::open(path, file)?);
        let store = Store::assemble(blocker, options, superblock, Some(path.clone()))?;
        let superblock = &store.shared.superblock;
        let group = Some(superblock.group).filter(|g| *g != u32::MAX);
        let handler: Weak<dyn Handler> = Arc::downgrade(&(store.shared.clone() as Arc<dyn Handler>));
        let registration = Registration::register(path, superblock.mode, group, handler)?;
        let _ = store.shared.registration.set(registration);
        Ok(store)
    }

    /// Makes a store on any backend (for simulation and tests).
    pub fn init_on(blocker: Arc<dyn Blocker>, options: &InitOptions) -> Result<()> {
        let half = || os::random_u64().map_err(|e| Error::io("read", "the system's randomness", e));
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

    fn assemble(
        blocker: Arc<dyn Blocker>,
        options: StoreOptions,
        superblock: Superblock,
        root: Option<PathBuf>,
    ) -> Result<Store> {
        if !(1 << 20..=1 << 30).contains(&options.max_unfolded) {
            return Err(Error::InvalidArgument("the unfolded journal may be 1 MiB to 1 GiB long".into()));
        }
        if !(64 << 10..=limits::SEGMENT_SIZE).contains(&options.first_segment)
            || !options.first_segment.is_multiple_of(4096)
        {
            return Err(Error::InvalidArgument("a first segment has 64 KiB to 16 MiB, in steps of 4 KiB".into()));
        }
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
        let pool = WorkerPool::new(threads, limits::MAX_QUEUE);
        let manual = options.background == Background::Manual;
        let shared = Arc::new(Shared::new(blocker, options, superblock, root, pool));
        if !manual {
            background::start(&shared)?;
        }
        Ok(Store { shared })
    }

    /// Makes an empty volume.
    pub fn create(&self, name: &str, options: &CreateOptions) -> Result<VolumeInfo> {
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
        };
        catalog::ensure_free(&self.shared, name)?;
        catalog::publish(&self.shared, &header)?;
        catalog::describe(&self.shared, &header, None)
    }

    /// Makes a writable clone of a snapshot: constant time, no data moves.
    pub fn clone_snapshot(&self, snapshot: &str, name: &str, options: &CloneOptions) -> Result<VolumeInfo> {
        let headers = self.make_clones(snapshot, std::slice::from_ref(&name.to_string()), options)?;
        catalog::describe(&self.shared, &headers[0], None)
    }

    /// Makes many clones in one group commit: all of them, or an error and none.
    pub fn clone_many(&self, snapshot: &str, names: &[String], options: &CloneOptions) -> Result<()> {
        if names.is_empty() || names.len() > limits::MAX_CLONE_COUNT {
            let text = format!("{} clones at once; 1 to {} can be made", names.len(), limits::MAX_CLONE_COUNT);
            return Err(Error::InvalidArgument(text));
        }
        self.make_clones(snapshot, names, options).map(|_| ())
    }

    fn make_clones(&self, snapshot: &str, names: &[String], options: &CloneOptions) -> Result<Vec<Header>> {
        let mut seen = HashSet::with_capacity(names.len());
        for name in names {
            crate::name::check(name)?;
            if !seen.insert(name) {
                return Err(Error::InvalidArgument(format!("{name}: named twice")));
            }
        }
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
        let deadline = Instant::now() + PATIENCE;
        loop {
            let refused = match open::for_writing(&self.shared, name) {
                // Dropped behind this, and so closed if nobody else has it.
                Ok(inner) => return here(&inner),
                Err(error @ Error::OpenElsewhere { .. }) => error,
                Err(error) => return Err(error),
            };
            if let (Error::OpenElsewhere { owner, .. }, Some(root)) = (&refused, &self.shared.root)
                && !owner.process.is_empty()
            {
                match control::ask(root, &owner.process, &request(header.id.to_string()), ANSWER_TIME) {
                    // It closed the volume before the request came; look again.
                    Err(Error::NotOpen(_)) => {}
                    answer => return answer,
                }
            }
            if Instant::now() >= deadline {
                return Err(refused);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Removes a volume or snapshot, in any order. Refused while it is open. Its data stays as long as other maps use it.
    pub fn remove(&self, name: &str) -> Result<()> {
        const ADVICE: &str = "close it there first";
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
                    if owner.process.is_empty() && self.shared.root.is_some() && Instant::now() < deadline =>
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
        let _lock = self.lock_patiently(&header, "try again")?;
        let (mut header, version) = self.find_again(old, header.id)?;
        catalog::claim_name(&self.shared, new, header.id)?;
        header.name = new.to_string();
        self.shared.blocker.commit_record(RecordKey::Header(header.id), version, &header.encode())?;
        self.shared.blocker.unbind_name(old)
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
        let mut entries = Vec::new();
        let mut after = options.after.clone();
        loop {
            // One more than fits, to know whether there is a next page.
            let wanted = limit + 1 - entries.len();
            let names = self.shared.blocker.names(&options.prefix, after.as_deref(), wanted)?;
            let last = names.len() < wanted;
            after = names.last().cloned().or(after);
            for name in names {
                if let Some((header, _)) = catalog::resolve(&self.shared, &name)? {
                    entries.push(catalog::describe(&self.shared, &header, None)?);
                }
            }
            if last || entries.len() > limit {
                break;
            }
        }
        let next = if entries.len() > limit { entries.get(limit - 1).map(|e| e.name.clone()) } else { None };
        entries.truncate(limit);
        Ok(Page { entries, next })
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
            let (_, view) = usage::view(&self.shared, &header)?;
            Some(view.mapped(&*self.shared.blocker, &self.shared.cache)? * limits::SECTOR)
        };
        catalog::describe(&self.shared, &header, mapped)
    }

    /// How much of it is its own; walks what differs from every other map of the store.
    pub fn usage(&self, name: &str) -> Result<Usage> {
        usage::usage(&self.shared, name)
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
    /// the volume; many processes may read a snapshot.
    pub fn open_volume(&self, name: &str, mode: Mode) -> Result<Volume> {
        let inner = match mode {
            Mode::ReadWrite => open::for_writing(&self.shared, name)?,
            Mode::ReadOnly => open::for_reading(&self.shared, name)?,
        };
        Ok(Volume::new(inner, mode))
    }

    /// State of the store.
    pub fn status(&self) -> Result<StoreStatus> {
        let shared = &self.shared;
        let (mut volumes, mut snapshots) = (0, 0);
        for id in shared.blocker.headers()? {
            match usage::readable(shared, id)? {
                Some((h, _)) if h.removed => {}
                Some((h, _)) if h.kind == Kind::Volume => volumes += 1,
                Some(_) => snapshots += 1,
                None => {}
            }
        }
        let mut processes = Vec::new();
        if let Some(root) = &shared.root {
            for owner in process::processes(root)? {
                let own = shared.registration.get().is_some_and(|r| r.id() == owner.process);
                let volumes = if own {
                    shared.all_open().iter().map(|v| v.name()).collect()
                } else {
                    match control::ask(root, &owner.process, &Request::Status, STATUS_TIME) {
                        Ok(Answer::Status { volumes }) => volumes,
                        _ => Vec::new(),
                    }
                };
                processes.push(ProcessInfo { owner, volumes });
            }
        }
        let hex: String = shared.superblock.uuid.iter().map(|b| format!("{b:02x}")).collect();
        Ok(StoreStatus {
            location: shared.root.as_ref().map_or_else(|| "memory".to_string(), |p| format!("file:{}", p.display())),
            uuid: format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]),
            block_size: 1 << shared.superblock.block_shift,
            volumes,
            snapshots,
            trashed: shared.blocker.trashed()?.len() as u64,
            space: shared.blocker.space()?,
            processes,
            trouble: shared.trouble.lock().clone(),
        })
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
