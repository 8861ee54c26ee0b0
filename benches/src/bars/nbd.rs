//! Volumes over NBD beside the servers that a user would pick instead: `nbdkit file` and `qemu-storage-daemon` with a raw file on the page
//! cache, and `nbdkit null`, which touches no data. One client of our own over a Unix socket, the same for all; a file of the same size
//! on the same file system, all of it cached.
//!
//! Rounds are interleaved: in each, the servers are asked one after another for the same time (`--seconds`; the default of this group is
//! three seconds). Processor time is the server's alone, as the scheduler counts it.
//!
//! The group `volumes` has what a server costs with 64 volumes of a tebibyte open, and how two clients that ask for all they can get
//! share it.

use std::path::Path;
use std::time::Duration;

use super::ratio::Ratio;
use super::{Numbers, Options, Outcome, Scratch, quartiles};

pub mod client;
pub mod servers;
mod volumes;

use client::Client;
use servers::Server;

/// Size of the volume, and of the peers' file; stays in the page cache.
pub const SIZE: u64 = 256 << 20;
/// Interleaved rounds.
pub const ROUNDS: u64 = 15;
/// Length of a turn unless asked otherwise: shorter ones are noise on a shared machine.
pub const TURN: Duration = Duration::from_secs(3);

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Case {
    /// Overwrites, or reads.
    pub write: bool,
    /// Bytes of each.
    pub len: usize,
    /// Requests under way.
    pub depth: usize,
}

/// What a turn gave.
#[derive(Clone, Copy, Default)]
pub struct Turn {
    /// Requests per second.
    pub rate: f64,
    /// Microseconds of the server's processor time for each.
    pub cpu: f64,
}

/// Prints the ratios.
pub fn run(dir: &Path, options: &Options) -> Outcome {
    let scratch = Scratch::new(&std::path::absolute(dir)?, "nbd")?;
    let peers = [servers::nbdkit_file(&scratch.0)?, servers::qemu(&scratch.0)?, servers::nbdkit_null(&scratch.0)?];
    let ours = servers::ours(&scratch.0)?;
    println!(
        "requests per second, and microseconds of the server's processor time for each (median); then ratios (quartiles)"
    );
    for len in [4 << 10, 1 << 20] {
        for write in [false, true] {
            for depth in [1, 32] {
                case(&ours, &peers, Case { write, len, depth }, options.turn.unwrap_or(TURN), options.json)?;
            }
        }
    }
    Ok(())
}

/// Prints what many volumes cost.
pub fn volumes(dir: &Path, options: &Options) -> Outcome {
    let scratch = Scratch::new(&std::path::absolute(dir)?, "volumes")?;
    volumes::run(&scratch.0, options.turn.unwrap_or(TURN))
}

/// One turn of one server.
fn turn(server: &Server, client: &mut Client, case: Case, time: Duration, seed: u64) -> Result<Turn, super::Failure> {
    let before = server.cpu()?;
    let (count, took) = client.run(case, time, &mut Numbers(seed))?;
    let cpu = server.cpu()?.saturating_sub(before);
    Ok(Turn { rate: count as f64 / took.as_secs_f64(), cpu: cpu.as_secs_f64() * 1e6 / count as f64 })
}

fn case(ours: &Server, peers: &[Server; 3], case: Case, time: Duration, json: bool) -> Outcome {
    let small = case.len == 4 << 10;
    let all: Vec<&Server> = std::iter::once(ours).chain(peers).collect();
    let mut clients = all.iter().map(|server| server.connect(case)).collect::<Result<Vec<_>, _>>()?;
    let mut turns = vec![Vec::new(); all.len()];
    for round in 1..=ROUNDS {
        for ((server, client), turns) in all.iter().zip(&mut clients).zip(&mut turns) {
            turns.push(turn(server, client, case, time, round)?);
        }
    }
    let size = if small { "4 KiB" } else { "1 MiB" };
    let name = format!("{} of {size}, depth {}", if case.write { "overwrite" } else { "read" }, case.depth);
    println!("{name}");
    for (server, turns) in all.iter().zip(&turns) {
        let rate = quartiles(&mut turns.iter().map(|t| t.rate).collect::<Vec<_>>()).0;
        let cpu = quartiles(&mut turns.iter().map(|t| t.cpu).collect::<Vec<_>>()).0;
        println!("  {:<24} {rate:>9.0} {cpu:>9.2}", server.name);
    }
    let ratio = |what: &str, peer: &str, goal: f64, least: bool, of: &dyn Fn(usize) -> f64| {
        let ratio = Ratio::new("NBD", &name, what, peer, Some(goal), !least);
        ratio.of((0..turns[0].len()).map(of)).print(json)
    };
    let [own, file, qemu, null] = [0, 1, 2, 3].map(|i| &turns[i]);
    let goal = if small { if case.depth == 1 { 1.2 } else { 1.3 } } else { 0.95 };
    ratio("rate", "better of nbdkit file, qemu", goal, true, &|i| own[i].rate / file[i].rate.max(qemu[i].rate))?;
    if small {
        let goal = if case.depth == 1 { 0.85 } else { 0.7 };
        ratio("CPU", "cheaper of nbdkit file, qemu", goal, false, &|i| own[i].cpu / file[i].cpu.min(qemu[i].cpu))?;
    }
    if small && case.depth > 1 {
        ratio("rate", "nbdkit null", 1.4, true, &|i| own[i].rate / null[i].rate)?;
    }
    Ok(())
}
