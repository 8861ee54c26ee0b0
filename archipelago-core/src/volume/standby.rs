//! A volume that several processes stand for, one of which has it at a time (docs/architecture.md, "Handover").
//!
//! A [`Standby`] knows a volume without having it. The first request to it takes the volume over from whoever has it, and another one
//! takes it away again, after what is under way has ended and was flushed. So nobody but the one who has it answers a request,
//! and what he answered is there for the next, which opens the volume from what is stored, with nothing in memory.
//!
//! Who has it is said by the volume's lock alone. What is here only asks for it and gives it back in good order: if any of it is
//! killed, stopped or wrong, a volume is out of reach for a while, and has no second writer.

use std::collections::hash_map::Entry;
use std::mem;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Mode, Volume};
use crate::blocker::VolumeId;
use crate::error::{Error, Result};
use crate::format::header::Kind;
use crate::limits::{HANDOVER_WAIT, LENDING_TIME};
use crate::store::shared::Shared;
use crate::store::{catalog, handover};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Between two looks whether others of this process still use a volume that is to be handed over.
const LOOK: Duration = Duration::from_millis(1);

/// What a process that stands for a volume does about others that want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// It has the volume, and keeps it.
    Exclusive,
    /// It takes the volume when a request needs it, and gives it away when it is asked for it.
    Shared,
    /// It does not have the volume, and does not take it: requests fail.
    Closed,
}

/// How a process stands to a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyState {
    /// What it does about others.
    pub sharing: Sharing,
    /// Whether it has the volume now.
    pub owns: bool,
    /// Size of the volume in bytes.
    pub size: u64,
}

/// Stands for a volume that other processes may have; see [`Store::stand_by`](crate::Store::stand_by). Calls may be made from any thread at once.
/// Dropped, it gives the volume up; [`Standby::close`] reports errors.
pub struct Standby {
    stand: Arc<Stand>,
}

/// What a [`Standby`] shares with the control socket, by which others ask for the volume.
pub struct Stand {
    shared: Arc<Shared>,
    id: VolumeId,
    state: Mutex<State>,
    changed: Condvar,
    /// Size in bytes as last seen.
    size: AtomicU64,
}

struct State {
    sharing: Sharing,
    place: Place,
    /// Requests under way.
    users: usize,
    /// The volume was given up with an error: what was answered here may not be there.
    lost: bool,
    /// Nobody stands for the volume any more.
    over: bool,
}

/// Where the volume is.
enum Place {
    /// Elsewhere or nowhere.
    Away,
    /// Being taken or given up by a thread of this process, outside the lock: both may take as long as a flush.
    Changing,
    /// Here.
    Here(Arc<Volume>),
}

/// The volume, which stays here until this is dropped. Who holds it for long keeps others waiting.
pub struct Held<'a> {
    stand: &'a Stand,
    volume: Arc<Volume>,
}

impl Deref for Held<'_> {
    type Target = Volume;

    fn deref(&self) -> &Volume {
        &self.volume
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.stand.state.lock();
        state.users -= 1;
        let last = state.users == 0;
        drop(state);
        if last {
            self.stand.changed.notify_all();
        }
    }
}

/// Ends [`Place::Changing`] in every way in which that can end, a panic included.
struct Change<'a> {
    stand: &'a Stand,
    /// Where the volume is if nothing else is said.
    then: Place,
    over: bool,
}

impl<'a> Change<'a> {
    fn new(stand: &'a Stand, then: Place) -> Change<'a> {
        Change { stand, then, over: false }
    }

    /// The volume is at this place now. The state is still locked, so that who took the volume can use it before others have it again.
    fn end(mut self, place: Place) -> MutexGuard<'a, State> {
        self.over = true;
        let mut state = self.stand.state.lock();
        state.place = place;
        self.stand.changed.notify_all();
        state
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.stand.state.lock().place = mem::replace(&mut self.then, Place::Away);
            self.stand.changed.notify_all();
        }
    }
}

impl Standby {
    /// See [`Store::stand_by`](crate::Store::stand_by).
    pub(crate) fn open(shared: &Arc<Shared>, name: &str, sharing: Sharing) -> Result<Standby> {
        let (header, _) = catalog::find(shared, name)?;
        if header.kind != Kind::Volume {
            return Err(Error::ReadOnly(name.to_string()));
        }
        catalog::check_whole(&header)?;
        let exclusive = sharing == Sharing::Exclusive;
        let stand = Arc::new(Stand {
            shared: shared.clone(),
            id: header.id,
            state: Mutex::new(State {
                // Until it has the volume it keeps it from nobody.
                sharing: if exclusive { Sharing::Shared } else { sharing },
                place: Place::Away,
                users: 0,
                lost: false,
                over: false,
            }),
            changed: Condvar::default(),
            size: AtomicU64::new(header.size),
        });
        match shared.standbys.lock().entry(header.id) {
            Entry::Occupied(entry) if entry.get().strong_count() > 0 => return Err(Error::Busy(name.to_string())),
            Entry::Occupied(mut entry) => drop(entry.insert(Arc::downgrade(&stand))),
            Entry::Vacant(entry) => drop(entry.insert(Arc::downgrade(&stand))),
        }
        let standby = Standby { stand };
        if exclusive {
            standby.set_sharing(sharing)?;
        }
        Ok(standby)
    }

    /// The volume, for one request: taken over if it is elsewhere, for which is waited at most 10 s, and for what is under way when they are over. Then
    /// `OpenElsewhere` says who keeps it. `GivenUp` while it is closed here; `Poisoned` after it was given up with an error.
    pub fn hold(&self) -> Result<Held<'_>> {
        let mut state = self.stand.obtain(false, Instant::now() + HANDOVER_WAIT)?;
        self.stand.held(&mut state)
    }

    /// Makes every write that returned before this call durable. Where the volume is elsewhere they are already.
    pub fn flush(&self) -> Result<()> {
        let deadline = Instant::now() + HANDOVER_WAIT;
        let mut state = self.stand.settled(deadline)?;
        if state.lost {
            return Err(Error::Poisoned(self.name()));
        }
        if matches!(state.place, Place::Away) {
            return Ok(());
        }
        let held = self.stand.held(&mut state)?;
        drop(state);
        held.flush()
    }

    /// What it does about others from now on. `Exclusive` takes the volume over if it is elsewhere, and who had it does not take it back
    /// by itself; `Closed` gives it up, flushed. Both wait for at most 10 s; after an error everything is as it was.
    pub fn set_sharing(&self, sharing: Sharing) -> Result<()> {
        let deadline = Instant::now() + HANDOVER_WAIT;
        match sharing {
            Sharing::Exclusive => self.stand.obtain(true, deadline)?.sharing = Sharing::Exclusive,
            Sharing::Shared => self.stand.state.lock().sharing = Sharing::Shared,
            Sharing::Closed => {
                let mut state = self.stand.settled(deadline)?;
                if let Place::Here(_) = state.place {
                    return self.stand.leave(state, Sharing::Closed, deadline);
                }
                state.sharing = Sharing::Closed;
            }
        }
        Ok(())
    }

    /// Id of the volume.
    pub fn id(&self) -> VolumeId {
        self.stand.id
    }

    /// Size in bytes: that of the volume here, or as its header says now.
    pub fn size(&self) -> u64 {
        self.stand.size()
    }

    /// Name, as the volume's header says now.
    pub fn name(&self) -> String {
        self.stand.name()
    }

    /// How it stands to the volume.
    pub fn state(&self) -> StandbyState {
        let (sharing, owns) = {
            let state = self.stand.state.lock();
            (state.sharing, matches!(state.place, Place::Here(_)))
        };
        StandbyState { sharing, owns, size: self.size() }
    }

    /// Gives the volume up, flushed, and stands for it no more, whatever this returns: later calls answer `NotOpen`.
    pub fn close(&self) -> Result<()> {
        let closed = self.set_sharing(Sharing::Closed);
        let stand = &self.stand;
        let place = {
            let mut state = stand.state.lock();
            (state.sharing, state.over) = (Sharing::Closed, true);
            match &state.place {
                Place::Here(_) => mem::replace(&mut state.place, Place::Away),
                // Whoever hands it over right now does that to the end.
                _ => Place::Away,
            }
        };
        // The last use of a volume closes it.
        drop(place);
        let mut standbys = stand.shared.standbys.lock();
        if standbys.get(&stand.id).is_some_and(|entry| std::ptr::eq(entry.as_ptr(), Arc::as_ptr(stand))) {
            standbys.remove(&stand.id);
        }
        closed
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let over = self.stand.state.lock().over;
        if !over {
            let _ = self.close();
        }
    }
}

impl Stand {
    /// Gives the volume to another process, if it is here and shared. `exclusive`: it is not taken back without being told to.
    pub fn hand_over(&self, name: &str, exclusive: bool) -> Result<()> {
        let state = self.state.lock();
        match state.place {
            // Who takes it just now may be asking the one who asks here, so he is not waited for.
            Place::Away | Place::Changing => Err(Error::NotOpen(name.to_string())),
            Place::Here(_) if state.sharing == Sharing::Exclusive => Err(Error::Busy(name.to_string())),
            Place::Here(_) => {
                let sharing = if exclusive { Sharing::Closed } else { state.sharing };
                self.leave(state, sharing, Instant::now() + LENDING_TIME)
            }
        }
    }

    /// The state with the volume here; it is taken over if it is not. `exclusive`: to be kept, also if it was closed here.
    fn obtain(&self, exclusive: bool, deadline: Instant) -> Result<MutexGuard<'_, State>> {
        let mut state = self.settled(deadline)?;
        if state.over {
            return Err(Error::NotOpen(self.name()));
        }
        if state.lost {
            return Err(Error::Poisoned(self.name()));
        }
        if state.sharing == Sharing::Closed && !exclusive {
            return Err(Error::GivenUp(self.name()));
        }
        if let Place::Here(_) = state.place {
            return Ok(state);
        }
        state.place = Place::Changing;
        drop(state);
        let change = Change::new(self, Place::Away);
        let handle = handover::take(&self.shared, self.id, exclusive, deadline)?;
        Ok(change.end(Place::Here(Arc::new(Volume::new(handle, Mode::ReadWrite)))))
    }

    /// The state when nobody is just taking the volume or giving it up.
    fn settled(&self, deadline: Instant) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        while let Place::Changing = state.place {
            if !self.wait(&mut state, deadline) {
                return Err(Error::Timeout(format!("{}: who hands it over", self.name())));
            }
        }
        Ok(state)
    }

    /// Waits for a change, or until the time is over: `false`.
    fn wait(&self, state: &mut MutexGuard<'_, State>, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            self.changed.wait_for(state, left);
        }
        !left.is_zero()
    }

    fn held(&self, state: &mut State) -> Result<Held<'_>> {
        match &state.place {
            Place::Here(volume) => {
                let volume = volume.clone();
                state.users += 1;
                Ok(Held { stand: self, volume })
            }
            _ => Err(Error::NotOpen(format!("[{}]", self.id))),
        }
    }

    /// Gives up the volume, which is here: ends what is under way, flushes, closes.
    fn leave(&self, mut state: MutexGuard<'_, State>, then: Sharing, deadline: Instant) -> Result<()> {
        let volume = match mem::replace(&mut state.place, Place::Changing) {
            Place::Here(volume) => volume,
            place => {
                state.place = place;
                return Ok(());
            }
        };
        // Whatever fails before it is closed leaves it here, as it was.
        let change = Change::new(self, Place::Here(volume.clone()));
        while state.users > 0 {
            if !self.wait(&mut state, deadline) {
                drop(state);
                return Err(Error::Timeout(format!("{}: a request that is under way", volume.name())));
            }
        }
        drop(state);
        volume.flush()?;
        while !volume.retire() {
            // A snapshot, say, for which somebody has it open for a moment.
            if Instant::now() >= deadline {
                return Err(Error::Busy(volume.name()));
            }
            std::thread::sleep(LOOK);
        }
        let size = volume.size();
        let closed = volume.close();
        self.size.store(size, Ordering::Release);
        let mut state = change.end(Place::Away);
        state.sharing = then;
        match closed {
            // Everything was flushed; what found no room is the fold of the journal, which the next owner does.
            Ok(()) | Err(Error::NoSpace(_)) => Ok(()),
            Err(error) => {
                state.lost = true;
                Err(error)
            }
        }
    }

    fn size(&self) -> u64 {
        if let Place::Here(volume) = &self.state.lock().place {
            return volume.size();
        }
        // Where it cannot be read, what was last known stands.
        if let Ok(Some((header, _))) = catalog::read_header(&self.shared, self.id) {
            self.size.store(header.size, Ordering::Release);
        }
        self.size.load(Ordering::Acquire)
    }

    fn name(&self) -> String {
        match catalog::read_header(&self.shared, self.id) {
            Ok(Some((header, _))) => header.name,
            _ => format!("[{}]", self.id),
        }
    }
}

impl Shared {
    /// Hands a volume over to another process.
    pub(crate) fn hand_over(&self, id: VolumeId, name: &str, exclusive: bool) -> Result<()> {
        let stand = self.standbys.lock().get(&id).and_then(std::sync::Weak::upgrade);
        match stand {
            Some(stand) => stand.hand_over(name, exclusive),
            // Whoever opened it did not say that it may be taken from him.
            None if self.opened(id).is_some() => Err(Error::Busy(name.to_string())),
            None => Err(Error::NotOpen(name.to_string())),
        }
    }
}
