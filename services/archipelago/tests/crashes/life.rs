//! How long the program lives, and what ends it.

use std::time::Duration;

use crate::history::Random;

/// How a life under load ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// The power is cut; the seed chooses what is left.
    Cut(u64),
    /// All processes are killed.
    Killed,
    /// The server is killed, and commands go on as they can.
    ServerKilled,
    /// Commands are killed, and the server some time after them.
    CommandsKilled,
}

/// A life under load, and how it ends.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub end: End,
    /// Calls that change the disk from the moment that all are at work to the end.
    pub steps: u64,
    /// The same in a plain directory.
    pub time: Duration,
    /// From the end of the commands to that of the server, where they differ.
    pub pause: Duration,
    /// The server was asked to stop before, and may be anywhere on the way.
    pub stopping: bool,
}

impl Life {
    /// One of many, for a store on a disk that forgets, or in a plain directory.
    pub fn draw(on_a_disk: bool, random: &mut Random) -> Life {
        let end = match (on_a_disk, random.below(8)) {
            (true, 0..=5) => End::Cut(match random.below(8) {
                few @ 0..=1 => few,
                _ => random.next() | 2,
            }),
            (false, 0..=1) => End::ServerKilled,
            (false, 2..=3) => End::CommandsKilled,
            _ => End::Killed,
        };
        // From nearly nothing to several hundred milliseconds, the short ones as often as the long ones. A stop is short.
        let stopping = random.below(5) == 0;
        let magnitude = 4 + random.below(if stopping { 5 } else { 10 });
        Life {
            end,
            steps: random.below(1 << magnitude),
            time: Duration::from_millis(if stopping { random.below(40) } else { 20 + random.below(181) }),
            pause: Duration::from_millis(random.below(60)),
            stopping,
        }
    }
}
