//! The switch of a disk: it stops the disk between two calls, so that what a cut at that moment leaves can be worked out.

use std::io;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How far a disk goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    On,
    /// Calls wait. What was answered before is all that anybody can have been told.
    Frozen,
    /// Calls fail. Whoever is still there dies of a signal before it can look at the error.
    Off,
}

/// A switch.
pub struct Power {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    phase: Phase,
    steps: u64,
    /// The number of steps at which it freezes.
    end: Option<u64>,
}

impl Power {
    pub fn new() -> Power {
        Power { state: Mutex::new(State { phase: Phase::On, steps: 0, end: None }), changed: Condvar::new() }
    }

    /// Lets the disk freeze before the call that follows `steps` more.
    pub fn freeze_after(&self, steps: u64) {
        let mut state = self.state.lock();
        state.end = Some(state.steps + steps);
    }

    /// Waits for the freeze, or for `over`, which is asked now and then. Returns whether it froze.
    pub fn wait(&self, mut over: impl FnMut() -> bool) -> bool {
        let mut state = self.state.lock();
        while state.phase == Phase::On && !over() {
            self.changed.wait_for(&mut state, Duration::from_millis(2));
        }
        state.phase == Phase::Frozen
    }

    /// Lets calls fail that wait or are still to come.
    pub fn off(&self) {
        self.state.lock().phase = Phase::Off;
        self.changed.notify_all();
    }

    /// Calls so far that changed something or made it durable.
    pub fn steps(&self) -> u64 {
        self.state.lock().steps
    }

    /// A call that changes something or makes it durable.
    pub fn step(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.phase == Phase::On && state.end.is_some_and(|end| state.steps >= end) {
            state.phase = Phase::Frozen;
            self.changed.notify_all();
        }
        self.pass(&mut state)?;
        state.steps += 1;
        Ok(())
    }

    /// Any other call.
    pub fn look(&self) -> io::Result<()> {
        self.pass(&mut self.state.lock())
    }

    fn pass(&self, state: &mut parking_lot::MutexGuard<'_, State>) -> io::Result<()> {
        while state.phase == Phase::Frozen {
            self.changed.wait(state);
        }
        if state.phase == Phase::On { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
    }
}
