//! What the volumes of one open store share.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::content::Contents;
use super::control::{Answer, Handler, Request};
use super::operations::Operations;
use super::peers::Peers;
use super::pins::Pins;
use super::process::Registration;
use super::reports::Reports;
use super::service::Answerer;
use super::sums::Sums;
use super::{Location, StoreOptions};
use crate::blocker::{Blocker, LockGuard, VolumeId};
use crate::error::{Error, Owner, Result};
use crate::format::superblock::Superblock;
use crate::mapper::cache::NodeCache;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::volume::freeze::Part;
use crate::volume::inner::Inner;
use crate::volume::queue::WorkerPool;
use crate::volume::standby::Stand;
use crate::volume::{CacheOptions, Volume};

/// Ids below this name locks of the store.
pub(crate) const FIRST_ID: u64 = 256;

/// Shared state of an open store.
pub struct Shared {
    /// Backend.
    pub blocker: Arc<dyn Blocker>,
    /// Node cache.
    pub cache: NodeCache,
    /// Where content is.
    pub contents: Contents,
    /// Checksums of data.
    pub sums: Sums,
    /// How the store was opened.
    pub options: StoreOptions,
    /// Facts about the store.
    pub superblock: Superblock,
    /// Where it is, if it is anywhere but in memory.
    pub location: Option<Location>,
    /// This process in the store.
    pub registration: OnceLock<Registration>,
    /// The processes that have the store open; none where only this one can.
    pub peers: OnceLock<Arc<dyn Peers>>,
    /// What is under way in this process, for collectors to wait for.
    pub operations: Operations,
    /// Headers that this process reads by.
    pub pins: Arc<Pins>,
    /// Volumes of this process that are part of a group snapshot by another one: by ids of the group and the volume.
    pub parts: Mutex<HashMap<(VolumeId, VolumeId), Arc<Part>>>,
    /// Volumes open for writing.
    pub open: Mutex<HashMap<VolumeId, Weak<Inner>>>,
    /// Those by which this process stands for volumes that others may have.
    pub standbys: Mutex<HashMap<VolumeId, Weak<Stand>>>,
    /// Workers of the completion interface.
    pub pool: WorkerPool<Volume>,
    /// Serializes opening and closing volumes for writing in this process.
    pub opening: Mutex<()>,
    seed: Option<AtomicU64>,
    /// Signals the background thread, which must not keep the store alive.
    pub wakeup: Arc<Wakeup>,
    /// What the long jobs of this process say of themselves.
    pub reports: Reports,
    /// Who answers what other programs ask of this one.
    pub answerer: Mutex<Option<Arc<Answerer>>>,
}

impl Shared {
    /// State of a store that is being opened.
    pub fn new(
        blocker: Arc<dyn Blocker>,
        options: StoreOptions,
        superblock: Superblock,
        location: Option<Location>,
        pool: WorkerPool<Volume>,
    ) -> Shared {
        Shared {
            blocker,
            cache: NodeCache::new(options.node_cache),
            contents: Contents::default(),
            // A simulated process knows at once what another one made: what it reads has to be a matter of its calls alone.
            sums: Sums::new(options.seed.is_none()),
            seed: options.seed.map(AtomicU64::new),
            options,
            superblock,
            location,
            registration: OnceLock::new(),
            peers: OnceLock::new(),
            operations: Operations::default(),
            pins: Arc::default(),
            parts: Mutex::default(),
            open: Mutex::default(),
            standbys: Mutex::default(),
            pool,
            opening: Mutex::default(),
            wakeup: Arc::default(),
            reports: Reports::default(),
            answerer: Mutex::default(),
        }
    }

    /// A random number, never 0.
    pub fn random(&self) -> Result<u64> {
        let value = match &self.seed {
            Some(seed) => splitmix(seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)),
            None => crate::random::random_u64().map_err(|e| crate::Error::io("read", "the system's randomness", e))?,
        };
        Ok(value.max(1))
    }

    /// A volume id that nobody has.
    pub fn new_id(&self) -> Result<VolumeId> {
        // 64 random bits meet among a billion volumes with a chance of 3 in 100; creation is exclusive all the same.
        self.random().map(|id| VolumeId(id.max(FIRST_ID)))
    }

    /// Seconds since 1970; a constant in simulation.
    pub fn now(&self) -> u64 {
        if self.seed.is_some() { 1_000_000_000 } else { crate::time::now() }
    }

    /// This process as others are told of it.
    pub fn owner(&self) -> Owner {
        match self.registration.get() {
            Some(registration) => Owner { since: self.now(), ..registration.owner() },
            None if let Some(owner) = self.peers.get().and_then(|p| p.describe(p.own())) => owner,
            None => Owner {
                pid: std::process::id(),
                host: "localhost".to_string(),
                command: "simulation".to_string(),
                since: self.now(),
                process: String::new(),
            },
        }
    }

    /// Refuses once the registration of this process was taken away: what it would commit now might name what a collector, which
    /// does not know of it, is just removing. Asked before headers are committed and maps are published.
    pub fn check_registered(&self) -> Result<()> {
        match self.registration.get() {
            Some(registration) if !registration.stands() => Err(Error::Unregistered(registration.id().to_string())),
            _ => Ok(()),
        }
    }

    /// The cache that a volume has on this host when it is opened for writing, if the store's location names a directory for them.
    pub fn cache_of(&self, id: VolumeId) -> Option<CacheOptions> {
        let Some(Location::Rados(place)) = &self.location else { return None };
        let directory = place.cache.as_ref()?;
        Some(CacheOptions { path: directory.join(format!("{id}.cache")), size: place.cache_size })
    }

    /// A volume that this process has open for writing.
    pub fn opened(&self, id: VolumeId) -> Option<Arc<Inner>> {
        let found = self.open.lock().get(&id).and_then(Weak::upgrade);
        found.filter(|inner| !inner.closed.load(Ordering::Acquire) && !inner.leaving.load(Ordering::Acquire))
    }

    /// Whether this process has a volume open for writing, or is just closing it: its lock is held by this process then.
    pub fn holds(&self, id: VolumeId) -> bool {
        self.open.lock().contains_key(&id)
    }

    /// All volumes that this process has open for writing, in an order that can be repeated.
    pub fn all_open(&self) -> Vec<Arc<Inner>> {
        let mut open: Vec<Arc<Inner>> = self.open.lock().values().filter_map(Weak::upgrade).collect();
        open.sort_by_key(|inner| inner.id);
        open
    }

    /// A volume was closed: gives up its lock. In one step with what [`Shared::holds`] says, so that nobody in this process
    /// takes the lock of a volume that is being closed for somebody else's. A reader has no entry here, and must not
    /// remove that of a writer.
    pub fn forget(&self, id: VolumeId, writer: bool, lock: Option<Box<dyn LockGuard>>) {
        let mut open = self.open.lock();
        drop(lock);
        if writer {
            open.remove(&id);
        }
    }

    /// What is wrong, as far as this process came by it.
    pub fn troubles(&self) -> Option<String> {
        let all = self.reports.troubles();
        if all.is_empty() { None } else { Some(all.join("; ")) }
    }

    /// There is work for the background thread.
    pub fn wake(&self) {
        self.wakeup.wake();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wakeup.wake();
    }
}

impl Handler for Shared {
    fn handle(&self, request: Request) -> Answer {
        let volume = |id: &str, name: &str| self.opened(id.parse()?).ok_or_else(|| Error::NotOpen(name.to_string()));
        let info = |info| Answer::Info(Box::new(info));
        let answer = || -> Result<Answer> {
            Ok(match &request {
                Request::Status => Answer::Status {
                    volumes: self.all_open().iter().map(|v| v.name()).collect(),
                    work: self.reports.works(),
                    trouble: self.troubles(),
                },
                Request::Snapshot { volume: name, id, snapshot } => info(volume(id, name)?.snapshot(snapshot)?),
                Request::Resize { id, volume: name, size, shrink } => {
                    volume(id, name)?.resize(*size, *shrink)?;
                    Answer::Done
                }
                Request::Flush { id, volume: name } => {
                    volume(id, name)?.flush()?;
                    Answer::Done
                }
                Request::Rename { id, volume: name, new } => {
                    volume(id, name)?.rename(new)?;
                    Answer::Done
                }
                Request::Label { id, volume: name, changes } => {
                    let changes: Vec<_> = changes.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
                    volume(id, name)?.set_labels(&changes)?;
                    Answer::Done
                }
                Request::Release { id, volume: name, exclusive } => {
                    self.hand_over(id.parse()?, name, *exclusive)?;
                    Answer::Done
                }
                Request::Info { id, volume: name } => info(volume(id, name)?.info()?),
                Request::Group { group, id, volume, step } => self.group_step(group, id, volume, step)?,
                Request::Acknowledge { packs } => {
                    Answer::Acknowledged { unsettled: self.acknowledge(*packs, &mut || Ok(()))? }
                }
                Request::Pins { after } => self.pinned(*after),
                Request::Collected => {
                    self.blocker.close_idle();
                    Answer::Done
                }
                Request::Question { question } => self.question(question)?,
            })
        };
        answer().into()
    }
}

/// A flag to wait for.
#[derive(Default)]
pub struct Wakeup {
    woken: Mutex<bool>,
    condition: Condvar,
}

impl Wakeup {
    /// Raises the flag.
    pub fn wake(&self) {
        *self.woken.lock() = true;
        self.condition.notify_one();
    }

    /// Waits for the flag, or for `period`, and lowers it.
    pub fn wait(&self, period: Duration) {
        let mut woken = self.woken.lock();
        if !*woken {
            self.condition.wait_for(&mut woken, period);
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
