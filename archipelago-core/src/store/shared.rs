//! What the volumes of one open store share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Condvar, Mutex};

use super::process::Registration;
use super::{StoreOptions, os};
use crate::blocker::{Blocker, VolumeId};
use crate::error::{Owner, Result};
use crate::format::superblock::Superblock;
use crate::mapper::cache::NodeCache;
use crate::volume::inner::Inner;
use crate::volume::queue::WorkerPool;

/// Shared state of an open store.
pub struct Shared {
    /// Backend.
    pub blocker: Arc<dyn Blocker>,
    /// Node cache.
    pub cache: NodeCache,
    /// How the store was opened.
    pub options: StoreOptions,
    /// Facts about the store.
    pub superblock: Superblock,
    /// Its directory, if it has one.
    pub root: Option<PathBuf>,
    /// This process in the store.
    pub registration: OnceLock<Registration>,
    /// Volumes open for writing.
    pub open: Mutex<HashMap<VolumeId, Weak<Inner>>>,
    /// Workers of the completion interface.
    pub pool: WorkerPool,
    /// Serializes opening and closing volumes for writing in this process.
    pub opening: Mutex<()>,
    seed: Option<AtomicU64>,
    wakeup: (Mutex<bool>, Condvar),
}

impl Shared {
    /// State of a store that is being opened.
    pub fn new(
        blocker: Arc<dyn Blocker>,
        options: StoreOptions,
        superblock: Superblock,
        root: Option<PathBuf>,
        pool: WorkerPool,
    ) -> Shared {
        Shared {
            blocker,
            cache: NodeCache::new(options.node_cache),
            seed: options.seed.map(AtomicU64::new),
            options,
            superblock,
            root,
            registration: OnceLock::new(),
            open: Mutex::default(),
            pool,
            opening: Mutex::default(),
            wakeup: (Mutex::new(false), Condvar::new()),
        }
    }

    /// A random number, never 0.
    pub fn random(&self) -> Result<u64> {
        let value = match &self.seed {
            Some(seed) => splitmix(seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)),
            None => os::random_u64().map_err(|e| crate::Error::io("read", "the system's randomness", e))?,
        };
        Ok(value.max(1))
    }

    /// A volume id that nobody has.
    pub fn new_id(&self) -> Result<VolumeId> {
        // 64 random bits meet among a billion volumes with a chance of 3 in 100; creation is exclusive all the same.
        self.random().map(VolumeId)
    }

    /// Seconds since 1970; a constant in simulation.
    pub fn now(&self) -> u64 {
        if self.seed.is_some() { 1_000_000_000 } else { crate::time::now() }
    }

    /// This process as others are told of it.
    pub fn owner(&self) -> Owner {
        match self.registration.get() {
            Some(registration) => Owner { since: self.now(), ..registration.owner() },
            None => Owner {
                pid: std::process::id(),
                host: "localhost".to_string(),
                command: "simulation".to_string(),
                since: self.now(),
                process: String::new(),
            },
        }
    }

    /// A volume that this process has open for writing.
    pub fn opened(&self, id: VolumeId) -> Option<Arc<Inner>> {
        self.open.lock().get(&id).and_then(Weak::upgrade)
    }

    /// All volumes that this process has open for writing.
    pub fn all_open(&self) -> Vec<Arc<Inner>> {
        self.open.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// A volume was closed.
    pub fn forget(&self, id: VolumeId) {
        self.open.lock().remove(&id);
    }

    /// There is work for the background thread.
    pub fn wake(&self) {
        *self.wakeup.0.lock() = true;
        self.wakeup.1.notify_one();
    }

    /// Waits for [`Shared::wake`], or for `period`.
    pub fn wait(&self, period: std::time::Duration) {
        let mut woken = self.wakeup.0.lock();
        if !*woken {
            self.wakeup.1.wait_for(&mut woken, period);
        }
        *woken = false;
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn splitmix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
