//! A volume as a file and as a block device (`archipelago map`) beside the same engine over NBD: 4 KiB at depth 1 and 32, by io_uring with
//! `O_DIRECT` on the file and the device, by our client of network block devices on the other. Needs root for the device.

use std::path::{Path, PathBuf};
use std::process::Command;

use archipelago_core::{CreateOptions, InitOptions, Location, Store, StoreOptions};

use super::io::peers::{Cache, Ring};
use super::io::{Kind, turn};
use super::nbd::servers::{EXPORT, archipelago, command, fill};
use super::nbd::{Case, ROUNDS, SIZE, TURN};
use super::ratio::Ratio;
use super::{Failure, Numbers, Options, Outcome, Scratch, quartiles};

/// A volume that is attached. Detached when dropped.
struct Attached {
    store: PathBuf,
    run: PathBuf,
    name: &'static str,
    path: PathBuf,
}

fn of_attachments(store: &Path, run: &Path) -> Result<Command, Failure> {
    let mut command = command(store)?;
    command.env("ARCHIPELAGO_RUN_DIR", run);
    Ok(command)
}

impl Attached {
    fn new(dir: &Path, name: &'static str, arguments: &[&str]) -> Result<Attached, Failure> {
        let (store, run) = (dir.join("store"), dir.join("run"));
        let output = of_attachments(&store, &run)?.args(["map", name]).args(arguments).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end());
        Ok(Attached { store, run, name, path })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let status =
            of_attachments(&self.store, &self.run).map(|mut command| command.args(["unmap", self.name]).status());
        if !status.is_ok_and(|status| status.is_ok_and(|status| status.success())) {
            eprintln!("{} stays attached", self.path.display());
        }
    }
}

/// Prints the ratios.
pub fn run(dir: &Path, options: &Options) -> Outcome {
    let scratch = Scratch::new(dir, "fuse")?;
    let dir = &scratch.0;
    let location = Location::File(dir.join("store"));
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    for name in [EXPORT, "as-file", "as-device"] {
        store.create(name, &CreateOptions { size: SIZE, block_size: None })?;
        fill(&store, name)?;
    }
    drop(store);
    let server = archipelago(&dir.join("store"), dir.join("nbd.sock"))?;
    let file = Attached::new(dir, "as-file", &["--file"])?;
    let device = Attached::new(dir, "as-device", &[])?;
    let time = options.turn.unwrap_or(TURN);
    println!("requests per second (median); then ratios (quartiles)");
    for kind in [Kind::Read, Kind::Overwrite] {
        for depth in [1, 32] {
            let case = Case { write: kind == Kind::Overwrite, len: 4096, depth };
            let mut client = server.connect(case)?;
            let mut rings = [&file, &device].map(|at| Ring::new(&at.path, depth, Cache::Direct));
            let mut rates = [Vec::new(), Vec::new(), Vec::new()];
            for round in 1..=ROUNDS {
                let (count, took) = client.run(case, time, &mut Numbers(round))?;
                rates[0].push(count as f64 / took.as_secs_f64());
                for (ring, rates) in rings.iter_mut().zip(&mut rates[1..]) {
                    let ring = ring.as_mut().map_err(|e| format!("open: {e}"))?;
                    rates.push(turn(ring, kind, time, round)?.0);
                }
            }
            let name = format!("{} of 4 KiB, depth {depth}", if case.write { "overwrite" } else { "read" });
            println!("{name}");
            for (name, rates) in ["NBD", "file", "loop device"].iter().zip(&rates) {
                println!("  {name:<12} {:>9.0}", quartiles(&mut rates.clone()).0);
            }
            let bar = |what: &str, own: &[f64], peer: &[f64], goal: Option<f64>| {
                let ratio = Ratio::new("block devices", &name, what, "NBD", goal, false);
                ratio.of(own.iter().zip(peer).map(|(a, b)| a / b)).print(options.json)
            };
            bar("file", &rates[1], &rates[0], (depth > 1).then_some(0.9))?;
            bar("loop device", &rates[2], &rates[0], Some(if depth > 1 { 0.4 } else { 0.7 }))?;
        }
    }
    Ok(())
}
