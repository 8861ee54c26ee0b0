//! Locks, atomics and sleep of everything that volumes share: `parking_lot` and the standard library, or a model of them.
//!
//! With the feature `shuttle` (for `tests/shuttle.rs` alone) every lock and atomic of the modules that import from here is a point
//! where the model may let another thread run, so that tests search schedules instead of hoping for them. Nothing of this
//! is left in any other build.

#[cfg(feature = "shuttle")]
mod model;

#[cfg(not(feature = "shuttle"))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(feature = "shuttle"))]
pub use std::sync::atomic;
#[cfg(not(feature = "shuttle"))]
pub use std::thread::sleep;

#[cfg(feature = "shuttle")]
pub use model::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, plant, sleep};
#[cfg(feature = "shuttle")]
pub use shuttle::sync::atomic;

/// Mistakes that the search for schedules has to find: each is a race that the code was written to avoid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// A flush takes the ticket up to which it serves after its sync instead of before.
    LateTicket,
    /// A checkpoint folds its own map before older ones that snapshots captured.
    FoldOrder,
    /// An epoch is switched without stopping writers.
    OpenGate,
    /// An overwrite marks its object as unsynced before it writes instead of after.
    EarlyMark,
    /// An operation does not look again at whose turn it is after it counted itself, and a wait looks at one counter. (Either alone
    /// is harmless, which the search showed.)
    UncheckedTurn,
}

/// Whether this mistake is to be made.
#[cfg(not(feature = "shuttle"))]
#[inline(always)]
pub const fn planted(_: Plant) -> bool {
    false
}
#[cfg(feature = "shuttle")]
pub use model::planted;

/// What tests of schedules reach that is nobody else's business.
#[cfg(feature = "shuttle")]
pub use crate::store::operations::Operations;
