//! Disks, and the simulated processes that share one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use archipelago_core::blocker::Blocker;
use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::rados::{RadosBlocker, RadosPlace};
use archipelago_core::blocker::sim::{SimDisk, Syncs};
use archipelago_core::blocker::sys::Sys;
use archipelago_core::format::header::Header;
use archipelago_core::store::peers::Neighbours;
use archipelago_core::{Background, InitOptions, Result, Store, StoreOptions, Volume};

use crate::blocker_mount::BlockerMount;
use crate::file_mount::FileMount;
use crate::history::BLOCK;
use crate::model::Map;
use crate::wire::{Planted, Wire};

/// Where the engine is cut off from its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// System calls, under the real file backend.
    File,
    /// The backend in memory.
    Memory,
    /// The backend in a Ceph cluster, whose configuration `ARCHIPELAGO_CEPH_CONF` names.
    Rados,
}

/// A disk whose past can be cut at any call.
#[derive(Clone)]
pub enum Disk {
    File(Arc<SimDisk>),
    Memory(Arc<MemoryBlocker>),
    /// One whose past is over: what was acknowledged is durable, so a power cut is the death of all processes.
    Rados(Arc<RadosBlocker>),
}

/// The same call on whichever simulated disk it is; nothing on one that is none.
macro_rules! on_disk {
    ($disk:expr, $inner:ident => $call:expr) => {
        match $disk {
            Disk::File($inner) => $call,
            Disk::Memory($inner) => $call,
            Disk::Rados(_) => Default::default(),
        }
    };
}

impl Disk {
    /// A disk with an empty store.
    pub fn with_store(backend: Backend) -> Result<Disk> {
        let disk = match backend {
            Backend::File => Disk::File(SimDisk::new()),
            Backend::Memory => Disk::Memory(MemoryBlocker::new()),
            Backend::Rados => Disk::Rados(Arc::new(RadosBlocker::open(&place())?)),
        };
        if let Disk::File(disk) = &disk {
            FileBlocker::new(disk.clone(), FileOptions::default()).make_layout()?;
        }
        Store::init_on(disk.blocker(), &InitOptions { block_size: BLOCK, mode: 0o660, group: None })?;
        Ok(disk)
    }

    /// A backend on it, on which nothing goes wrong.
    pub fn blocker(&self) -> Arc<dyn Blocker> {
        match self {
            Disk::File(disk) => Arc::new(FileBlocker::new(disk.clone(), FileOptions::default())),
            Disk::Memory(blocker) => blocker.clone(),
            Disk::Rados(blocker) => blocker.clone(),
        }
    }

    /// Whether it tells what of an object is a hole.
    pub fn tells_holes(&self) -> bool {
        !matches!(self, Disk::Rados(_))
    }

    /// State-changing calls so far.
    pub fn steps(&self) -> u64 {
        on_disk!(self, d => d.steps())
    }

    /// A disk as a power cut after `step` calls may leave it: seed 0 has what was durable, 1 all that was issued.
    pub fn crash_at(&self, step: u64, seed: u64) -> Disk {
        match self {
            Disk::File(disk) => Disk::File(disk.crash_at(step, seed)),
            Disk::Memory(blocker) => Disk::Memory(blocker.crash_at(step, seed)),
            Disk::Rados(blocker) => Disk::Rados(blocker.clone()),
        }
    }

    pub fn drop_syncs(&self, syncs: Syncs) {
        on_disk!(self, d => d.drop_syncs(syncs))
    }

    pub fn clear_failures(&self) {
        on_disk!(self, d => d.clear_failures())
    }

    pub fn set_space(&self, total: u64, free: u64) {
        on_disk!(self, d => d.set_space(total, free))
    }

    /// What the system does by itself after a while.
    pub fn write_back(&self) {
        if let Disk::File(disk) = self {
            // Planned failures were cleared, and this disk has no others.
            let _ = disk.syncfs();
        }
    }

    pub fn forget_history(&self) {
        on_disk!(self, d => d.forget_history())
    }
}

/// A namespace that nobody has, in the pool of the cluster of `make test-ceph`.
fn place() -> RadosPlace {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let conf = std::env::var("ARCHIPELAGO_CEPH_CONF").expect("ARCHIPELAGO_CEPH_CONF is set, as make test-ceph does");
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    RadosPlace { conf, namespace: format!("history-{since:x}-{number}"), ..RadosPlace::new("archipelago") }
}

enum Mount {
    File(Arc<FileMount>),
    Blocker(Arc<BlockerMount>),
}

/// A snapshot that is kept open for reading, what must be in it for ever, and the header by which it is read.
pub struct Kept {
    pub volume: Volume,
    pub map: Map,
    pub header: Header,
}

/// A process: an engine over its own mount of the shared disk.
pub struct Process {
    pub wire: Arc<Wire>,
    mount: Mount,
    neighbours: Arc<Neighbours>,
    pub store: Store,
    /// How it opened that.
    pub options: StoreOptions,
    /// Volumes open for writing.
    pub handles: BTreeMap<String, Volume>,
    pub kept: Vec<Kept>,
    pub paused: bool,
}

/// Options under which every store of a simulation runs: deterministic, single-threaded, with small journals: in most histories
/// such as are full after a few writes.
fn store_options(seed: u64, history: u64) -> StoreOptions {
    StoreOptions {
        node_cache: 1 << 20,
        background: Background::Manual,
        max_unfolded: if history.is_multiple_of(5) { 1 << 20 } else { 128 << 10 },
        first_segment: 64 << 10,
        direct: false,
        seed: Some(seed),
    }
}

impl Process {
    /// `seed` is that of the process, `history` that of all of it.
    pub fn start(
        disk: &Disk,
        neighbours: &Arc<Neighbours>,
        (seed, history): (u64, u64),
        planted: Option<Planted>,
    ) -> Result<Process> {
        let wire = Arc::new(Wire::new(planted));
        let (mount, blocker): (Mount, Arc<dyn Blocker>) = match disk {
            Disk::File(disk) => {
                let mount = FileMount::new(disk.clone(), wire.clone());
                // Few open files, so that histories make the backend close and open some again.
                let options = FileOptions { max_open_files: 12, ..FileOptions::default() };
                (Mount::File(mount.clone()), Arc::new(FileBlocker::new(mount, options)))
            }
            Disk::Memory(disk) => {
                let mount = BlockerMount::new(disk.clone(), Some(disk.clone()), wire.clone());
                (Mount::Blocker(mount.clone()), mount)
            }
            Disk::Rados(disk) => {
                let mount = BlockerMount::new(Arc::new(disk.beside()?), None, wire.clone());
                (Mount::Blocker(mount.clone()), mount)
            }
        };
        let options = store_options(seed, history);
        let store = Store::open_among(blocker, options.clone(), neighbours)?;
        Ok(Process {
            wire,
            mount,
            neighbours: neighbours.clone(),
            store,
            options,
            handles: BTreeMap::new(),
            kept: vec![],
            paused: false,
        })
    }

    /// Ends it there and then: whatever it does from now on reaches nothing, and its locks are free.
    pub fn kill(self) {
        self.wire.kill();
        self.store.process().into_iter().for_each(|id| self.neighbours.kill(id));
        match &self.mount {
            Mount::File(mount) => mount.close_all(),
            Mount::Blocker(mount) => mount.close_all(),
        }
    }

    /// Stops it, with all that it holds, or lets it go on.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
        let Some(id) = self.store.process() else { return };
        if paused {
            self.neighbours.pause(id);
        } else {
            self.neighbours.resume(id);
        }
    }
}
