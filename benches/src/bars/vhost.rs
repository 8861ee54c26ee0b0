//! A volume in shared memory beside `qemu-storage-daemon` with a raw file: both serve vhost-user-blk, and one small machine of our own asks, with
//! one queue, woken by its descriptor as a guest is; on the page cache, and past it. Then first writes into a clone beside qcow2 overlays of the same raw file, with clusters of
//! 64 KiB, and with extended L2 entries.
//!
//! Rounds are interleaved; processor time is the server's alone, as the scheduler counts it.

use std::path::{Path, PathBuf};
use std::process::Command;

use archipelago_core::{CloneOptions, CreateOptions, InitOptions, Location, Mode, Store, StoreOptions};

use super::nbd::servers::{EXPORT, Server, command, fill, prepare};
use super::nbd::{Case, ROUNDS, SIZE, TURN, Turn};
use super::ratio::Ratio;
use super::{Failure, Numbers, Options, Outcome, Scratch, quartiles};

mod machine;

use machine::{Machine, REQUEST};

/// First writes of a round, each to a place of its own.
const FIRST: u64 = 8192;
/// What this group is called in its results.
const GROUP: &str = "virtual machines";
/// Places of requests in the volume.
const PLACES: u64 = SIZE / REQUEST as u64;

/// Prints the ratios.
pub fn run(dir: &Path, options: &Options) -> Outcome {
    let scratch = Scratch::new(dir, "vhost")?;
    let dir = &scratch.0;
    let store = store(dir)?;
    prepare(&dir.join("raw"))?;
    println!(
        "requests per second, and microseconds of the server's processor time for each (median); then ratios (quartiles)"
    );
    for direct in [false, true] {
        println!("{}", if direct { "past the page cache" } else { "cached" });
        let servers = [ours(dir, EXPORT, direct)?, qemu(dir, &raw(dir, direct))?];
        for write in [false, true] {
            for depth in [1, 32] {
                case(&servers, Case { write, len: REQUEST, depth }, options)?;
            }
        }
    }
    first(dir, &store, options)
}

/// A store with a volume whose bytes are in place, and a snapshot of another one.
fn store(dir: &Path) -> Result<Store, Failure> {
    let location = Location::File(dir.join("store"));
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    for name in [EXPORT, "origin"] {
        store.create(name, &CreateOptions { size: SIZE, block_size: None })?;
        fill(&store, name)?;
    }
    let origin = store.open_volume("origin", Mode::ReadWrite)?;
    origin.snapshot("origin-1")?;
    origin.close()?;
    Ok(store)
}

fn ours(dir: &Path, name: &str, direct: bool) -> Result<Server, Failure> {
    let socket = dir.join("ours.sock");
    let mut command = command(&dir.join("store"))?;
    command.arg("serve").arg("--vhost-user").arg(format!("unix:{}={name}", socket.display()));
    command.args(direct.then_some("--direct"));
    Server::start("archipelago", socket, &mut command)
}

/// A file on the page cache or past it, in the words of `qemu-storage-daemon`.
fn raw(dir: &Path, direct: bool) -> Vec<String> {
    let way = if direct { ",cache.direct=on,aio=io_uring" } else { "" };
    let file = format!("driver=file,node-name=file,filename={}{way}", dir.join("raw").display());
    vec!["--blockdev".into(), file, "--blockdev".into(), "driver=raw,node-name=disk,file=file".into()]
}

fn qemu(dir: &Path, nodes: &[String]) -> Result<Server, Failure> {
    let socket = dir.join("qemu.sock");
    let mut command = Command::new("qemu-storage-daemon");
    let export = "type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues=1";
    command.args(nodes).arg("--export").arg(format!("{export},addr.type=unix,addr.path={}", socket.display()));
    Server::start("qemu-storage-daemon", socket, &mut command)
}

/// Distinct places in an order that is nobody's.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b1) % PLACES
}

fn case(servers: &[Server; 2], case: Case, options: &Options) -> Outcome {
    let time = options.turn.unwrap_or(TURN);
    let mut turns = [Vec::new(), Vec::new()];
    for round in 1..=ROUNDS {
        for (server, turns) in servers.iter().zip(&mut turns) {
            let mut machine = Machine::connect(server.socket(), case)?;
            let (before, mut numbers) = (server.cpu()?, Numbers(round));
            let (count, took) = machine.run(time, u64::MAX, &mut || numbers.next() % PLACES)?;
            let cpu = server.cpu()?.saturating_sub(before);
            turns.push(Turn { rate: count as f64 / took.as_secs_f64(), cpu: cpu.as_secs_f64() * 1e6 / count as f64 });
        }
    }
    let name = format!("{} of 4 KiB, depth {}", if case.write { "overwrite" } else { "read" }, case.depth);
    println!("{name}");
    for (server, turns) in servers.iter().zip(&turns) {
        println!("  {:<24} {:>9.0} {:>9.2}", server.name, median(turns, |t| t.rate), median(turns, |t| t.cpu));
    }
    let goal = if case.depth == 1 { 1.1 } else { 2.0 };
    let ratio = |what: &str, goal, at_most| Ratio::new(GROUP, &name, what, "qemu-storage-daemon", Some(goal), at_most);
    ratio("rate", goal, false).of(over(&turns, |t| t.rate)).print(options.json)?;
    ratio("CPU", 0.5, true).of(over(&turns, |t| t.cpu)).print(options.json)
}

fn median(turns: &[Turn], of: impl Fn(&Turn) -> f64) -> f64 {
    quartiles(&mut turns.iter().map(of).collect::<Vec<_>>()).0
}

/// The ratios of the rounds.
fn over([own, peer]: &[Vec<Turn>; 2], of: fn(&Turn) -> f64) -> impl Iterator<Item = f64> {
    own.iter().zip(peer).map(move |(own, peer)| of(own) / of(peer))
}

/// First writes, each round into a clone of its own.
fn first(dir: &Path, store: &Store, options: &Options) -> Outcome {
    let kinds =
        [("qcow2, 64 KiB", "cluster_size=64k", 1.5), ("qcow2, extended L2", "cluster_size=128k,extended_l2=on", 1.0)];
    let mut turns = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let name = format!("clone-{round}");
        store.clone_snapshot("origin-1", &name, &CloneOptions::default())?;
        turns[0].push(writes(&ours(dir, &name, false)?)?);
        for (turns, (_, options, _)) in turns[1..].iter_mut().zip(kinds) {
            let overlay = overlay(dir, options)?;
            let file = format!("driver=file,node-name=file,filename={}", overlay.display());
            let nodes = ["--blockdev", &file, "--blockdev", "driver=qcow2,node-name=disk,file=file"].map(String::from);
            turns.push(writes(&qemu(dir, &nodes)?)?);
        }
    }
    let [own, peers @ ..] = &turns;
    let name = "first write of 4 KiB into a clone, depth 32";
    println!("{name}");
    println!("  {:<24} {:>9.0}", "archipelago", median(own, |t| t.rate));
    for ((peer, _, goal), turns) in kinds.iter().zip(peers) {
        println!("  {peer:<24} {:>9.0}", median(turns, |t| t.rate));
        let ratio = Ratio::new(GROUP, name, "rate", peer, Some(*goal), false);
        ratio.of(over(&[own.clone(), turns.clone()], |t| t.rate)).print(options.json)?;
    }
    Ok(())
}

fn writes(server: &Server) -> Result<Turn, Failure> {
    let mut machine = Machine::connect(server.socket(), Case { write: true, len: REQUEST, depth: 32 })?;
    let (before, mut number) = (server.cpu()?, 0);
    let (count, took) = machine.run(TURN * 20, FIRST, &mut || {
        number += 1;
        scattered(number)
    })?;
    let cpu = server.cpu()?.saturating_sub(before);
    Ok(Turn { rate: count as f64 / took.as_secs_f64(), cpu: cpu.as_secs_f64() * 1e6 / count as f64 })
}

/// A fresh overlay of the raw file.
fn overlay(dir: &Path, options: &str) -> Result<PathBuf, Failure> {
    let path = dir.join("overlay.qcow2");
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-o", options, "-b"]).arg(dir.join("raw")).arg(&path);
    match command.status() {
        Ok(status) if status.success() => Ok(path),
        Ok(status) => Err(format!("qemu-img: {status}").into()),
        Err(error) => Err(format!("qemu-img: {error}; `make bench` installs what is needed").into()),
    }
}
