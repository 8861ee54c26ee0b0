//! The room of the store. A backend that hangs must not keep the other figures from being seen, so somebody else asks it.

use std::sync::Arc;
use std::time::Instant;

use archipelago_core::Store;
use archipelago_core::blocker::Space;
use parking_lot::{Condvar, Mutex};

use super::limits::{SPACE_AGE, SPACE_WAIT};

/// The room as it was told last.
#[derive(Clone)]
pub struct Room {
    store: Store,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Default)]
struct Known {
    space: Option<(Space, Instant)>,
    asking: bool,
}

impl Room {
    /// Of this store.
    pub fn new(store: Store) -> Room {
        Room { store, shared: Arc::default() }
    }

    /// The room, not much older than [`SPACE_AGE`] if the backend answers; nothing if it did not answer since then.
    pub fn read(&self) -> Option<Space> {
        let fresh = |known: &Known| known.space.filter(|(_, at)| at.elapsed() < SPACE_AGE).map(|(space, _)| space);
        let mut known = self.shared.known.lock();
        if let Some(space) = fresh(&known) {
            return Some(space);
        }
        if !known.asking {
            let room = self.clone();
            known.asking = std::thread::Builder::new().name("space".into()).spawn(move || room.ask()).is_ok();
        }
        let deadline = Instant::now() + SPACE_WAIT;
        while known.asking && !self.shared.changed.wait_until(&mut known, deadline).timed_out() {}
        fresh(&known)
    }

    fn ask(self) {
        let space = self.store.space();
        // The store may be closed as soon as somebody who waits goes on.
        drop(self.store);
        let mut known = self.shared.known.lock();
        known.asking = false;
        match space {
            Ok(space) => known.space = Some((space, Instant::now())),
            Err(error) => tracing::warn!(%error, "the room of the store is not known"),
        }
        self.shared.changed.notify_all();
    }
}
