//! Locks of volumes, which Ceph's class `lock` keeps on an object for each volume that is locked.
//!
//! A lock names its holder's process, which watches an object of its own. Who finds a lock taken calls the process: one that answers
//! holds it; where nobody watches any more, the holder is dead. But "dead" is only that nobody hears of it: it may be cut off, and
//! write again in a moment. So before its locks are taken from it, the cluster is told to refuse everything from its client, and then
//! every placement group of the pool is sent an operation that knows of this: an OSD that has not heard of it yet hears it then. Only
//! after that the lock is broken and taken. Whoever was cut off gets an error of every operation after that, and never owns
//! anything again through that connection.
//!
//! An exclusive holder gives its lock back by removing the object, in one step with asking whether it still holds the lock. So an
//! object of a lock is there while somebody holds it, and there are none for volumes at rest, but what sharers left.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::librados::{Errno, Locker};
use super::processes::Life;
use super::{Core, layout};
use crate::blocker::{LockGuard, LockMode, LockOutcome, VolumeId, is_owner};
use crate::error::{Error, Result};
use crate::sync::Mutex;

/// Attempts to take a lock that others give back and take meanwhile.
const ATTEMPTS: usize = 4;
/// Seconds for which the cluster refuses a client that was fenced: a day. Its machine may sleep for longer than an hour.
const FENCED: u32 = 24 * 3600;
/// Most placement groups of a pool that fencing reaches.
const MAX_GROUPS: usize = 1 << 16;

/// Locks that this blocker holds.
#[derive(Default)]
pub(super) struct Held {
    volumes: Mutex<HashMap<VolumeId, Holders>>,
    /// Clients that were fenced from here.
    fenced: Mutex<HashSet<String>>,
}

#[derive(Default)]
struct Holders {
    exclusive: bool,
    shared: usize,
    owner: Vec<u8>,
}

struct Guard {
    core: Arc<Core>,
    volume: VolumeId,
    mode: LockMode,
    cookie: String,
    /// It was given back.
    over: bool,
}

impl Guard {
    fn give_back(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        let object = layout::lock_object(self.volume);
        let result = match self.mode {
            LockMode::Exclusive => {
                self.core.pool.change().assert_locked(layout::LOCK, &self.cookie).remove().apply(&object)
            }
            LockMode::Shared => self.core.pool.unlock(&object, layout::LOCK, &self.cookie),
        };
        let mut held = self.core.held.volumes.lock();
        if let Some(holders) = held.get_mut(&self.volume) {
            match self.mode {
                LockMode::Exclusive => holders.exclusive = false,
                LockMode::Shared => holders.shared -= 1,
            }
            if !holders.exclusive && holders.shared == 0 {
                held.remove(&self.volume);
            }
        }
        drop(held);
        match result {
            // It was taken from us.
            Err(Errno(libc::ENOENT | libc::EBUSY)) => Ok(()),
            other => self.core.done("give back", &object, other),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.give_back();
    }
}

impl LockGuard for Guard {
    fn remove(mut self: Box<Self>) -> Result<()> {
        self.give_back()
    }
}

impl Core {
    pub(super) fn lock_volume(self: &Arc<Self>, volume: VolumeId, mode: LockMode, owner: &[u8]) -> Result<LockOutcome> {
        {
            let held = self.held.volumes.lock();
            if let Some(holders) = held.get(&volume)
                && (holders.exclusive || mode == LockMode::Exclusive)
            {
                return Ok(LockOutcome::Refused(holders.owner.clone()));
            }
        }
        self.register()?;
        let object = layout::lock_object(volume);
        let random = self.process.random()?;
        let cookie = layout::cookie(self.process.id(), random, owner);
        for _ in 0..ATTEMPTS {
            match self.pool.lock(&object, layout::LOCK, &cookie, mode == LockMode::Exclusive) {
                Ok(()) => {
                    self.announced.forget_volume(volume);
                    let mut held = self.held.volumes.lock();
                    let holders = held.entry(volume).or_default();
                    match mode {
                        LockMode::Exclusive => (holders.exclusive, holders.owner) = (true, owner.to_vec()),
                        LockMode::Shared => holders.shared += 1,
                    }
                    drop(held);
                    return Ok(LockOutcome::Held(Box::new(Guard {
                        core: self.clone(),
                        volume,
                        mode,
                        cookie,
                        over: false,
                    })));
                }
                // EEXIST is what it says to somebody who shares a lock and asks for more.
                Err(Errno(libc::EBUSY | libc::EEXIST)) => {}
                Err(errno) => return Err(self.failed("lock", &object, errno)),
            }
            if let Some(owner) = self.in_the_way(&object, mode)? {
                return Ok(LockOutcome::Refused(owner));
            }
        }
        // Whenever it was asked for, somebody had it.
        Ok(LockOutcome::Refused(Vec::new()))
    }

    /// The record of a living holder that is in the way; `None` after those that are dead were fenced, and their locks broken.
    fn in_the_way(&self, object: &str, mode: LockMode) -> Result<Option<Vec<u8>>> {
        let lockers = self.done_with("look at", object, self.pool.lockers(object, layout::LOCK))?;
        if mode == LockMode::Shared && !lockers.exclusive {
            return Ok(None);
        }
        let mut dead = Vec::new();
        for locker in lockers.all {
            let Some((process, owner)) = layout::parse_cookie(&locker.cookie) else {
                // Nobody of ours took it, so nobody of ours takes it away.
                return Ok(Some(Vec::new()));
            };
            if self.life(process)? != Life::Dead {
                let owner = if lockers.exclusive && is_owner(owner) { owner.to_vec() } else { Vec::new() };
                return Ok(Some(owner));
            }
            dead.push(locker);
        }
        for locker in dead {
            self.fence_holder(&locker)?;
            match self.pool.break_lock(object, layout::LOCK, &locker) {
                Ok(()) | Err(Errno(libc::ENOENT)) => {}
                Err(errno) => return Err(self.failed("take over", object, errno)),
            }
        }
        Ok(None)
    }

    fn fence_holder(&self, locker: &Locker) -> Result<()> {
        // Another process on this very connection, in a test.
        if locker.client == self.process.client() {
            return Ok(());
        }
        self.fence(&locker.address)
    }

    /// Makes sure that nothing which a client did not get done by now is ever done.
    pub(super) fn fence(&self, address: &str) -> Result<()> {
        if self.held.fenced.lock().contains(address) {
            return Ok(());
        }
        match self.pool.blocklist(address, FENCED) {
            Err(Errno(libc::EPERM | libc::EACCES)) => {
                return Err(Error::Unsupported(format!(
                    "{}: client {address} is dead and must be fenced, which user {} may not do; give it the capability mon 'profile rbd'",
                    self.place.short(),
                    self.place.user
                )));
            }
            other => self.done("fence", address, other)?,
        }
        self.done("fence", address, self.pool.newest_map())?;
        // Every OSD that serves the pool: what comes from here is of the map in which the client is refused, and an OSD takes that
        // map before it answers.
        let groups = self.groups()?.next_power_of_two().min(MAX_GROUPS);
        self.done("fence", address, self.pool.touch(groups))?;
        self.held.fenced.lock().insert(address.to_string());
        Ok(())
    }

    /// Placement groups of the pool.
    fn groups(&self) -> Result<usize> {
        let command = serde_json::json!({
            "prefix": "osd pool get", "pool": self.place.pool, "var": "pg_num", "format": "json",
        });
        let answer = self.pool.ask_monitors(&command.to_string());
        let answer = self.done_with("ask for the placement groups of", "the pool", answer)?;
        let groups = serde_json::from_slice::<serde_json::Value>(&answer).ok().and_then(|v| v["pg_num"].as_u64());
        groups.map(|groups| groups.max(1) as usize).ok_or_else(|| {
            Error::Unsupported(format!(
                "{}: the monitors do not say how many placement groups it has",
                self.place.short()
            ))
        })
    }

    pub(super) fn holder(&self, volume: VolumeId) -> Result<Option<Vec<u8>>> {
        if let Some(holders) = self.held.volumes.lock().get(&volume)
            && holders.exclusive
        {
            return Ok(Some(holders.owner.clone()));
        }
        let object = layout::lock_object(volume);
        let lockers = self.done_with("look at", &object, self.pool.lockers(&object, layout::LOCK))?;
        let Some(locker) = lockers.all.first().filter(|_| lockers.exclusive) else { return Ok(None) };
        match layout::parse_cookie(&locker.cookie) {
            Some((process, owner)) if self.life(process)? != Life::Dead => {
                Ok(Some(if is_owner(owner) { owner.to_vec() } else { Vec::new() }))
            }
            Some(_) => Ok(None),
            None => Ok(Some(Vec::new())),
        }
    }
}
