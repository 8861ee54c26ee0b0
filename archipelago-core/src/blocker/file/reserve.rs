//! The room that data writes leave untouched, so that checkpoint, snapshot and remove can finish on a full disk.
//!
//! Free room is not asked for at each write: after each look, data writes have a credit of what may safely be written
//! until the next one. Packs and records are never refused here.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::blocker::Space;
use crate::error::{Error, Result};
use crate::limits::{RESERVED_FRACTION, RESERVED_SPACE};

/// Bytes written between two looks at the free room: with a few processes writing, their error stays below the reserve.
const CREDIT: u64 = 16 << 20;

/// Watches the free room of one backend.
#[derive(Default)]
pub(super) struct Reserve {
    credit: AtomicU64,
}

impl Reserve {
    /// Lets `len` bytes be written to `object`, or refuses with [`Error::NoSpace`]. On a full store only what
    /// `may_allocate` is refused: overwriting takes no room.
    pub(super) fn admit(
        &self,
        object: impl FnOnce() -> String,
        len: u64,
        space: impl FnOnce() -> Result<Space>,
        may_allocate: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let take = |credit: u64| credit.checked_sub(len);
        if self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return Ok(());
        }
        let above = above_reserve(space()?);
        if above < len {
            self.credit.store(0, Ordering::Relaxed);
            return if may_allocate()? { Err(Error::NoSpace(object())) } else { Ok(()) };
        }
        self.credit.store((above - len).min(CREDIT), Ordering::Relaxed);
        Ok(())
    }
}

/// Free bytes that are not reserved.
fn above_reserve(space: Space) -> u64 {
    space.free.saturating_sub(RESERVED_SPACE.min(space.total / RESERVED_FRACTION))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(reserve: &Reserve, len: u64, free: u64, may_allocate: bool) -> (bool, bool) {
        let mut looked = false;
        let space = || {
            looked = true;
            Ok(Space { total: 10 << 30, free })
        };
        let admitted = match reserve.admit(|| "object".into(), len, space, || Ok(may_allocate)) {
            Ok(()) => true,
            Err(Error::NoSpace(_)) => false,
            Err(e) => panic!("{e}"),
        };
        (admitted, looked)
    }

    #[test]
    fn free_room_is_looked_at_once_per_16_mib_and_never_overdrawn() {
        let reserve = Reserve::default();
        assert_eq!(admit(&reserve, 4 << 20, 1 << 30, true), (true, true));
        for _ in 0..4 {
            assert_eq!(admit(&reserve, 4 << 20, 0, true), (true, false));
        }
        assert_eq!(admit(&reserve, 1, RESERVED_SPACE, true), (false, true));
        assert_eq!(admit(&reserve, 1, RESERVED_SPACE, false), (true, true));
        assert_eq!(admit(&reserve, 100, RESERVED_SPACE + 150, true), (true, true));
        assert_eq!(admit(&reserve, 50, 0, true), (true, false));
        assert_eq!(admit(&reserve, 1, RESERVED_SPACE, true), (false, true));
    }

    #[test]
    fn the_reserve_of_a_small_file_system_is_a_fraction_of_it() {
        assert_eq!(above_reserve(Space { total: 20 << 20, free: 3 << 20 }), 2 << 20);
        assert_eq!(above_reserve(Space { total: 20 << 20, free: 1 << 20 }), 0);
    }
}
