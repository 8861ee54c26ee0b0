//! How many lines one place in the program may write: a client that fails a thousand times in a second fills no disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;

/// Lines that one place may write in [`WINDOW`]: all findings of a scrub, and some more.
pub const MOST: u64 = 50;
/// The time in which they are counted.
pub const WINDOW: Duration = Duration::from_secs(10);

/// What was written by each place. There are as many as the program has lines that log.
#[derive(Default)]
pub struct Calm {
    places: HashMap<Identifier, Place>,
}

struct Place {
    begin: Instant,
    written: u64,
    left_out: u64,
}

impl Calm {
    /// Whether a place may write a line now: if so, how many it left out before.
    pub fn admit(&mut self, place: Identifier, now: Instant) -> Option<u64> {
        let place = self.places.entry(place).or_insert(Place { begin: now, written: 0, left_out: 0 });
        if now.saturating_duration_since(place.begin) >= WINDOW {
            place.begin = now;
            place.written = 0;
        }
        if place.written >= MOST {
            place.left_out += 1;
            return None;
        }
        place.written += 1;
        Some(std::mem::take(&mut place.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::callsite::Callsite;
    use tracing::{Metadata, subscriber::Interest};

    struct Here(u8);
    impl Callsite for Here {
        fn set_interest(&self, _: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("only its address counts, {}", self.0)
        }
    }
    static ONE: Here = Here(1);
    static OTHER: Here = Here(2);

    #[test]
    fn a_place_that_repeats_itself_is_held_back_and_says_so_later() {
        let (mut calm, begin) = (Calm::default(), Instant::now());
        let one = || Identifier(&ONE);
        for _ in 0..MOST {
            assert_eq!(calm.admit(one(), begin), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(calm.admit(one(), begin + WINDOW / 2), None);
        }
        assert_eq!(calm.admit(Identifier(&OTHER), begin), Some(0), "another place is not held back");
        assert_eq!(calm.admit(one(), begin + WINDOW), Some(7));
        assert_eq!(calm.admit(one(), begin + WINDOW), Some(0));
    }
}
