//! Random 4 KiB reads and overwrites of cached data, and overwrites with a flush each, through the library and through its peers: plain
//! calls and io_uring on one sparse file of the same size on the same file system. And what one request costs in instructions,
//! counted by valgrind.
//!
//! Rounds are interleaved: in each, the library and the peers run one after another for the same time. `--seconds` says how long each
//! turn is. `--json` prints a line of JSON for each ratio beside the table.

use std::path::Path;
use std::time::{Duration, Instant};

use archipelago_core::{CreateOptions, InitOptions, Location, Mode, Store, StoreOptions, Volume};
use serde::Serialize;

use super::ratio::Ratio;
use super::{Numbers, Options, Outcome, Scratch, quartiles};

pub mod direct;
mod instructions;
pub mod library;
pub mod peers;

pub use instructions::work as instructions;
pub use peers::prepare;

/// Size of the volume, and of the peers' file; stays in the page cache.
pub const SIZE: u64 = 256 << 20;
/// Bytes of each request.
pub const REQUEST: usize = 4096;
/// Interleaved rounds.
const ROUNDS: usize = 15;
/// Length of a turn unless asked otherwise.
const TURN: Duration = Duration::from_millis(500);
/// Requests between two looks at the clock.
const STEP: u64 = 64;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A read.
    Read,
    /// A write where something was written before.
    Overwrite,
    /// An overwrite and a flush.
    Durable,
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Overwrite => "overwrite",
            Kind::Durable => "overwrite + flush",
        }
    }
}

/// One who carries out requests.
pub trait Contender {
    /// Carries out `count` requests at places of `numbers`, as many at once as it was made for.
    fn run(&mut self, kind: Kind, count: u64, numbers: &mut Numbers) -> Outcome;
}

/// Where a request goes.
pub fn place(numbers: &mut Numbers) -> u64 {
    numbers.next() % (SIZE / REQUEST as u64) * REQUEST as u64
}

/// One ratio, as it is printed in JSON.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    ratio: Ratio,
    library_ops: f64,
    library_cpu_us: f64,
    peer_cpu_us: f64,
}

/// Requests per second, and microseconds of CPU for each, of all threads of this process.
pub fn turn(
    contender: &mut dyn Contender,
    kind: Kind,
    time: Duration,
    seed: u64,
) -> Result<(f64, f64), super::Failure> {
    let (mut numbers, mut count) = (Numbers(seed), 0);
    let (start, before) = (Instant::now(), process_cpu()?);
    let step = if kind == Kind::Durable { 4 } else { STEP };
    while start.elapsed() < time {
        contender.run(kind, step, &mut numbers)?;
        count += step;
    }
    let (took, cpu) = (start.elapsed(), process_cpu()?.saturating_sub(before));
    Ok((count as f64 / took.as_secs_f64(), cpu.as_secs_f64() * 1e6 / count as f64))
}

/// CPU time of all threads of this process, user and system.
fn process_cpu() -> std::io::Result<Duration> {
    // SAFETY: all zeros is a valid `timespec`.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: `time` is valid for writing for the whole call.
    match unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) } {
        0 => Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32)),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Prints the ratios.
pub fn run(dir: &Path, options: &Options) -> Outcome {
    let memory = Path::new("/dev/shm");
    for (name, dir, goals) in [("files", dir, (0.9, 0.9)), ("memory", memory, (1.1, 0.9))] {
        let scratch = Scratch::new(dir, "io")?;
        println!("{name}: {}", dir.display());
        side(&scratch.0, name, goals, options)?;
    }
    instructions::run(dir)
}

/// All kinds and depths on one file system. `goals` against plain calls and against io_uring.
fn side(dir: &Path, name: &str, goals: (f64, f64), options: &Options) -> Outcome {
    let volume = volume(dir, StoreOptions::default())?.1;
    let path = dir.join("peer");
    prepare(&path, SIZE)?;
    let time = options.turn.unwrap_or(TURN);
    println!("  request             depth   library/s  us CPU   / plain calls (us CPU)           / io_uring (us CPU)");
    for (kind, depth) in
        [(Kind::Read, 1), (Kind::Read, 32), (Kind::Overwrite, 1), (Kind::Overwrite, 32), (Kind::Durable, 1)]
    {
        let mut library = library::contender(&volume, depth);
        let mut plain = peers::Plain::new(&path)?;
        let mut ring = peers::Ring::new(&path, depth, peers::Cache::Pages)?;
        let mut ratios = [Vec::new(), Vec::new()];
        let (mut rates, mut cpu) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
        for round in 0..ROUNDS as u64 {
            let own = turn(&mut *library, kind, time, round + 1)?;
            let others = [turn(&mut plain, kind, time, round + 1)?, turn(&mut ring, kind, time, round + 1)?];
            rates.push(own.0);
            cpu[0].push(own.1);
            for (i, other) in others.into_iter().enumerate() {
                ratios[i].push(own.0 / other.0);
                cpu[i + 1].push(other.1);
            }
        }
        let rate = quartiles(&mut rates).0;
        let [own, plain, ring] = cpu.each_mut().map(|cpu| quartiles(cpu).0);
        let goals = if kind == Kind::Durable { (0.95, 0.95) } else { goals };
        let case = format!("{} of 4 KiB, depth {depth}", kind.name());
        let ratio = |peer: &str, goal, ratios: &[f64]| {
            let group = format!("library, {name}");
            Ratio::new(&group, &case, "rate", peer, Some(goal), false).of(ratios.iter().copied())
        };
        let p = ratio("plain calls", goals.0, &ratios[0]);
        let r = ratio("io_uring", goals.1, &ratios[1]);
        let (kind, p_text, r_text) = (kind.name(), p.figures(), r.figures());
        println!("  {kind:<18} {depth:>6} {rate:>11.0} {own:>7.2}   {p_text} ({plain:.2})   {r_text} ({ring:.2})");
        if options.json {
            for (ratio, peer_cpu_us) in [(p, plain), (r, ring)] {
                let line = Line { ratio, library_ops: rate, library_cpu_us: own, peer_cpu_us };
                println!("{}", serde_json::to_string(&line)?);
            }
        }
    }
    Ok(())
}

/// A volume with its bytes in place, in a store of its own.
fn volume(dir: &Path, options: StoreOptions) -> Result<(Store, Volume), super::Failure> {
    let location = Location::File(dir.join("store"));
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, options)?;
    let volume = create(&store, "volume")?;
    Ok((store, volume))
}

/// A volume with its bytes in place.
pub fn create(store: &Store, name: &str) -> Result<Volume, super::Failure> {
    store.create(name, &CreateOptions { size: SIZE, block_size: None })?;
    let volume = store.open_volume(name, Mode::ReadWrite)?;
    for at in (0..SIZE).step_by(4 << 20) {
        volume.write_at(&vec![7; 4 << 20], at)?;
    }
    volume.checkpoint()?;
    Ok(volume)
}
