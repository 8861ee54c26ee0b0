//! Load on a served volume, with a record of what was answered and what was flushed.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};

use archipelago_service::nbd::wire::{command, command_flag};

use crate::history::{Change, Kind, Random, SECTOR, Versions, check};
use crate::raw_client::request;
use crate::site::{MIB, Site};

/// Size of each disk in bytes: several blocks, and read in no time.
pub const SIZE: u64 = 16 * MIB;
/// Most changes in flight on one connection.
const BATCH: u64 = 8;

/// How far the load on a volume is, for whoever takes snapshots meanwhile: numbers of changes.
#[derive(Default)]
pub struct Progress {
    /// The last that may have reached the server.
    pub issued: AtomicU32,
    /// The last that was answered. All before it were.
    pub answered: AtomicU32,
}

/// What a load did to its volume.
#[derive(Default)]
pub struct Done {
    pub changes: Vec<Change>,
    /// Changes up to this number were answered before a flush, or a change with FUA, was sent that was answered.
    pub flushed: u32,
    pub flushes: u64,
}

impl Done {
    /// Checks what is found after the server was gone: what is durable must be there, or also what was only `answered`. Returns how
    /// many sectors a change had to be found in.
    pub fn check(&self, found: &Versions, base: &Versions, answered: bool) -> Result<usize, String> {
        check(found, base, &self.changes, |c| self.is_durable(c) || answered && c.answered)
    }

    /// Whether its client was told so.
    pub fn is_durable(&self, change: &Change) -> bool {
        change.number <= self.flushed || change.fua && change.answered
    }
}

/// Changes a volume until the server is gone or says that it stops.
pub fn load(site: &Site, volume: &str, seed: u64, numbers: &AtomicU32, progress: &Progress) -> Done {
    let mut done = Done::default();
    // The second connection only flushes: that covers what the first was answered, too.
    let connections = [site.connect(volume), site.connect(volume)].map(|c| c.unwrap().0.0);
    let ended = run_load(&connections, &mut Random(seed), numbers, progress, &mut done);
    let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];
    assert!(gone.contains(&ended.kind()), "seed {seed}, {volume}: {ended}");
    done
}

fn run_load(
    connections: &[UnixStream; 2],
    random: &mut Random,
    numbers: &AtomicU32,
    progress: &Progress,
    done: &mut Done,
) -> io::Error {
    loop {
        let first = done.changes.len();
        let before = done.changes.last().map_or(0, |c| c.number);
        let mut bytes = Vec::new();
        for _ in 0..1 + random.below(BATCH) {
            let change = draw(random, numbers.fetch_add(1, Ordering::SeqCst) + 1);
            let command = match change.kind {
                Kind::Write => command::WRITE,
                Kind::Zero => command::WRITE_ZEROES,
                Kind::Discard => command::TRIM,
            };
            let flags = if change.fua { command_flag::FUA } else { 0 };
            bytes.extend(request(command, flags, u64::from(change.number), change.offset, change.len as u32));
            if change.kind == Kind::Write {
                bytes.extend(change.payload());
            }
            done.changes.push(change);
        }
        let last = done.changes[done.changes.len() - 1].number;
        progress.issued.store(last, Ordering::SeqCst);
        if let Err(error) = (&connections[0]).write_all(&bytes) {
            return error;
        }
        for change in &mut done.changes[first..] {
            if let Err(error) = answer(&connections[0], u64::from(change.number)) {
                return error;
            }
            change.answered = true;
            if change.fua {
                done.flushed = before;
            }
            progress.answered.store(change.number, Ordering::SeqCst);
        }
        if random.below(4) == 0 {
            let mut flusher = &connections[random.below(2) as usize];
            let flushed = flusher.write_all(&request(command::FLUSH, 0, 0, 0, 0)).and_then(|()| answer(flusher, 0));
            if let Err(error) = flushed {
                return error;
            }
            done.flushed = last;
            done.flushes += 1;
        }
    }
}

/// Takes a simple reply. Fails with the end of the connection if the server says that it stops.
fn answer(mut stream: &UnixStream, cookie: u64) -> io::Result<()> {
    let mut reply = [0; 16];
    stream.read_exact(&mut reply)?;
    match u32::from_be_bytes(reply[4..8].try_into().unwrap()) {
        0 => {
            assert_eq!(reply[8..], cookie.to_be_bytes(), "answers come in the order of their requests");
            Ok(())
        }
        108 => Err(io::ErrorKind::UnexpectedEof.into()),
        error => Err(io::Error::from_raw_os_error(error as i32)),
    }
}

/// A change of any kind anywhere.
pub fn draw(random: &mut Random, number: u32) -> Change {
    let kind = match random.below(20) {
        0..=1 => Kind::Discard,
        2 => Kind::Zero,
        _ => Kind::Write,
    };
    let unit = if random.below(3) == 0 { SECTOR } else { 4096 };
    // Half of it in a small part of the disk, so that changes meet.
    let room = if random.below(2) == 0 { SIZE / 8 } else { SIZE };
    let offset = random.below(room / unit) * unit;
    let len = match random.below(3) {
        0 => 4096,
        1 => unit * (1 + random.below(65536 / unit)),
        _ => 4096 * (1 + random.below(16)),
    };
    let len = len.min(SIZE - offset);
    Change { number, kind, offset, len, fua: kind != Kind::Discard && random.below(12) == 0, answered: false }
}
