//! Durable clones against the cheapest durable way to make one small file, in batches, and what an open one costs.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use archipelago_core::{CloneOptions, CreateOptions, InitOptions, Location, Mode, Store, StoreOptions};

use crate::count::device_written;

use super::{Outcome, Scratch, quartiles, timed};

/// Interleaved rounds.
const ROUNDS: usize = 15;
/// Operations of each kind in a round.
const PER_ROUND: usize = 100;
/// Clones in a batch.
const BATCH: usize = 1000;

/// Prints the ratios.
pub fn run(dir: &Path) -> Outcome {
    let scratch = Scratch::new(dir, "clone")?;
    let path = scratch.0.join("store");
    let location = Location::File(path.clone());
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    store.create("volume", &CreateOptions { size: 10 << 30, block_size: None })?;
    let volume = store.open_volume("volume", Mode::ReadWrite)?;
    for i in 0..1000u64 {
        volume.write_at(&[i as u8 | 1; 4096], i * (10 << 20))?;
    }
    volume.snapshot("image-snapshot")?;
    volume.close()?;
    let plain = scratch.0.join("plain");
    std::fs::create_dir(&plain)?;
    let plain_dir = File::open(&plain)?;
    let options = CloneOptions::default();
    let (mut ratios, mut ours, mut peers, mut batches) = (vec![], vec![], vec![], vec![]);
    let (mut our_bytes, mut peer_bytes) = (vec![], vec![]);
    let written = || device_written(&path).unwrap_or(0) as f64;
    for round in 0..ROUNDS {
        let before = written();
        let (result, took) = timed(|| -> Outcome {
            for i in 0..PER_ROUND {
                store.clone_snapshot("image-snapshot", &format!("clone-{round}-{i}"), &options)?;
            }
            Ok(())
        });
        result?;
        our_bytes.push((written() - before) / PER_ROUND as f64);
        let before = written();
        let (result, peer) = timed(|| -> Outcome {
            for i in 0..PER_ROUND {
                let (tmp, to) = (plain.join(format!("t{round}-{i}")), plain.join(format!("f{round}-{i}")));
                let mut file = File::create_new(&tmp)?;
                file.write_all(&[7; 4096])?;
                file.sync_all()?;
                std::fs::rename(tmp, to)?;
                plain_dir.sync_all()?;
            }
            Ok(())
        });
        result?;
        peer_bytes.push((written() - before) / PER_ROUND as f64);
        let names: Vec<String> = (0..BATCH).map(|i| format!("batch-{round}-{i:04}")).collect();
        let (result, batch) = timed(|| store.clone_many("image-snapshot", &names, &options));
        result?;
        let each = took.as_secs_f64() / PER_ROUND as f64;
        ours.push(each * 1e6);
        peers.push(peer.as_secs_f64() / PER_ROUND as f64 * 1e6);
        ratios.push(took.as_secs_f64() / peer.as_secs_f64());
        batches.push((each * BATCH as f64) / batch.as_secs_f64());
    }
    let (m, lo, hi) = quartiles(&mut ratios);
    println!("one durable clone / create+fsync+rename+dirsync of 4 KiB: {m:.2} ({lo:.2}..{hi:.2}); bar 1.2");
    let (our, peer) = (quartiles(&mut our_bytes).0, quartiles(&mut peer_bytes).0);
    println!("  bytes at the device each, by every program: clone {our:.0}, peer {peer:.0}; bar 32768");
    println!("  us each: clone {:.0}, peer {:.0}", quartiles(&mut ours).0, quartiles(&mut peers).0);
    let (m, lo, hi) = quartiles(&mut batches);
    println!("rate of {BATCH} in one call / rate of single ones: {m:.1} ({lo:.1}..{hi:.1}); bar 6");
    open_cost(&store, &path)
}

/// Disk and memory of clones that are open and idle.
fn open_cost(store: &Store, path: &Path) -> Outcome {
    let before = (disk(path)?, resident());
    let names: Vec<String> = (0..BATCH).map(|i| format!("idle-{i:04}")).collect();
    store.clone_many("image-snapshot", &names, &CloneOptions::default())?;
    let open = names.iter().map(|n| store.open_volume(n, Mode::ReadWrite)).collect::<Result<Vec<_>, _>>()?;
    let after = (disk(path)?, resident());
    let each = |a: u64, b: u64| (a as i64 - b as i64) as f64 / BATCH as f64;
    println!(
        "{BATCH} clones open and idle: {:.0} bytes of disk each (bar 8192), {:.0} bytes of memory each (bar 16384)",
        each(after.0, before.0),
        each(after.1, before.1)
    );
    drop(open);
    Ok(())
}

/// Allocated bytes below a directory.
fn disk(path: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    let mut seen = std::collections::HashSet::new();
    let mut stack = vec![path.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                stack.push(entry.path());
            }
            if seen.insert(meta.ino()) {
                sum += meta.blocks() * 512;
            }
        }
    }
    Ok(sum)
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|s| s.parse::<u64>().ok()).unwrap_or(0) * 4096
}
