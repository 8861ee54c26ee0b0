//! Bugs that the simulator plants in the engine, to show that it would find them.
//!
//! Most can be planted between the engine and its disk; these cannot. The feature `planted` is enabled by this crate's
//! own tests and by nothing else: without it every question here is a constant, and the compiler leaves it out. A planted bug is seen by
//! the thread that planted it, for a simulated history runs in one thread, and tests run beside each other.

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A snapshot does not raise the epoch, so that what it shares is overwritten in place.
    EpochReused,
    /// A record of map changes leaves out its last run.
    RunLost,
    /// A fold leaves out the last of the changed blocks.
    BlockNotFolded,
    /// A sector in the journal is overwritten in place although the checksum of its record still counts.
    FoldedTooFar,
    /// Provisional records do not say in which boot they were written.
    BootUnknown,
    /// Provisional records are believed after a power cut too.
    BootIgnored,
    /// Provisional records are confirmed before their data is synced.
    ConfirmedEarly,
    /// Provisional records stay as they are after a sync of their data failed.
    NotDisowned,
    /// A collection takes the last page of what lies in a journal or a node pack for unused.
    PageNotMarked,
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread, or takes it out.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a bug is planted.
#[cfg(feature = "planted")]
pub(crate) fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether a bug is planted: never, in this build.
#[cfg(not(feature = "planted"))]
pub(crate) const fn has(_: Bug) -> bool {
    false
}
