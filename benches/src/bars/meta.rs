//! Bytes that a snapshot and a clone cost, over size and mapped blocks: by system calls, and at a block device of their own.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use archipelago_core::{Background, CloneOptions, CreateOptions, Mode, StoreOptions};

use super::{Outcome, Scratch, counted, quartiles, timed};
use crate::count::LoopFs;

/// Snapshots and clones per row.
const ROUNDS: u64 = 50;

/// Prints the table.
pub fn run(dir: &Path) -> Outcome {
    let scratch = Scratch::new(dir, "meta")?;
    // A new ext4 with its defaults journals far more per operation than the disk of many a machine; both are worth knowing.
    let device = match std::env::var("ARCHIPELAGO_BENCH_DEVICE").as_deref() {
        Ok("below") => LoopFs::below(&scratch.0),
        _ => LoopFs::new(&scratch.0, "24G").map_err(|e| format!("{e}; or set ARCHIPELAGO_BENCH_DEVICE=below"))?,
    };
    println!(
        "4 MiB blocks; bytes by calls: most of {ROUNDS}; at the device: mean, the file system's journal included; us: median"
    );
    println!("size   4 KiB places mapped  operation     bytes by calls  bytes at device     us");
    for (name, size) in [("1 GiB", 1u64 << 30), ("1 TiB", 1 << 40), ("1 PiB", 1 << 50)] {
        for mapped in [0u64, 4096, 262_144] {
            row(&device, name, size, mapped, false)?;
        }
    }
    row(&device, "1 TiB", 1 << 40, 100_000, true)
}

fn row(device: &LoopFs, name: &str, size: u64, mapped: u64, unfolded: bool) -> Outcome {
    let path = device.mount.join(format!("store-{size}-{mapped}"));
    // For the row with unfolded writes the limit is raised, so that the checkpoint does not take them away.
    let max_unfolded = if unfolded { 1 << 30 } else { StoreOptions::default().max_unfolded };
    let (store, sys) =
        counted(&path, StoreOptions { max_unfolded, background: Background::Manual, ..StoreOptions::default() })?;
    store.create("volume", &CreateOptions { size, block_size: None })?;
    let volume = store.open_volume("volume", Mode::ReadWrite)?;
    // On whole sectors, so that each write is one record of one sector.
    let step = size.checked_div(mapped).unwrap_or(0) >> 12 << 12;
    for i in 0..mapped {
        volume.write_at(&[i as u8 | 1; 4096], i * step)?;
    }
    volume.flush()?;
    if !unfolded {
        volume.checkpoint()?;
    }
    while store.run_background()? {}
    if unfolded && packs(&path)? > 0 {
        return Err("the writes were folded before the snapshot".into());
    }
    let mark = if unfolded { " unfolded" } else { "" };
    for operation in ["snapshot", "clone", "4 KiB file"] {
        let rounds = if unfolded && operation == "snapshot" { 1 } else { ROUNDS };
        settle(device)?;
        let (mut calls, mut took) = (0, vec![]);
        let before = device.written();
        for i in 0..rounds {
            let counts = sys.counts();
            let (result, time) = timed(|| -> Outcome {
                match operation {
                    "snapshot" => volume.snapshot(&format!("snapshot-{i}")).map(|_| ())?,
                    "clone" => store
                        .clone_snapshot("snapshot-0", &format!("clone-{i}"), &CloneOptions::default())
                        .map(|_| ())?,
                    _ => small_file(&path, i)?,
                }
                Ok(())
            });
            result?;
            let c = sys.counts().since(counts);
            calls = calls.max(c.written + c.prepared);
            took.push(time.as_secs_f64() * 1e6);
        }
        let at_device = (device.written() - before) / rounds;
        if operation == "4 KiB file" {
            calls = 4096;
        }
        let micros = quartiles(&mut took).0;
        println!("{name:<6} {mapped:>9}{mark:<10} {operation:<11} {calls:>14} {at_device:>16} {micros:>8.0}");
    }
    if unfolded {
        let before = packs(&path)?;
        while store.run_background()? {}
        println!("       tree nodes: {before} bytes before, {} after folding in the background", packs(&path)?);
    }
    drop(volume);
    drop(store);
    std::fs::remove_dir_all(path)?;
    Ok(())
}

/// Writes everything out, so that what came before is not counted.
fn settle(device: &LoopFs) -> Outcome {
    std::process::Command::new("sync").arg("-f").arg(&device.mount).status()?;
    Ok(())
}

/// The cheapest durable way to make one small file.
fn small_file(path: &Path, i: u64) -> Outcome {
    let dir = path.join("trash");
    let (tmp, to) = (dir.join(format!("t{i}")), dir.join(format!("f{i}")));
    let mut file = File::create_new(&tmp)?;
    file.write_all(&[7; 4096])?;
    file.sync_all()?;
    std::fs::rename(tmp, to)?;
    Ok(File::open(dir)?.sync_all()?)
}

/// Bytes in the node packs of a store.
fn packs(path: &Path) -> Result<u64, Box<dyn std::error::Error>> {
    let mut bytes = 0;
    for shard in std::fs::read_dir(path.join("data"))? {
        for file in std::fs::read_dir(shard?.path())? {
            let file = file?;
            if file.file_name().to_string_lossy().starts_with("pack.") {
                bytes += file.metadata()?.len();
            }
        }
    }
    Ok(bytes)
}
