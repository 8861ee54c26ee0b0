//! Bytes that a snapshot and a clone cost, over size and mapped blocks: by system calls, and at a block device of their own.

use std::path::Path;

use archipelago_core::{CloneOptions, CreateOptions, Mode, StoreOptions};

use super::{Outcome, Scratch, counted, timed};
use crate::count::LoopFs;

/// Snapshots and clones per row.
const ROUNDS: u64 = 10;

/// Prints the table.
pub fn run(dir: &Path) -> Outcome {
    let scratch = Scratch::new(dir, "meta")?;
    let device = LoopFs::new(&scratch.0, "24G").map_err(|e| format!("{e}; this group needs root and a loop device"))?;
    println!("size        block     mapped 4 KiB places   operation   bytes by calls   bytes at device   us");
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
    let (store, sys) = counted(&path, StoreOptions { max_unfolded, ..StoreOptions::default() })?;
    store.create("volume", &CreateOptions { size, block_size: None })?;
    let volume = store.open_volume("volume", Mode::ReadWrite)?;
    let step = size.checked_div(mapped).unwrap_or(0);
    for i in 0..mapped {
        volume.write_at(&[i as u8 | 1; 4096], i * step)?;
    }
    volume.flush()?;
    if !unfolded {
        volume.checkpoint()?;
    }
    let settle = || {
        while store.run_background().unwrap_or(false) {}
        // The mount's own sync, so that what came before is not counted below.
        let _ = std::process::Command::new("sync").arg("-f").arg(&device.mount).status();
    };
    settle();
    for operation in ["snapshot", "clone"] {
        let (mut calls, mut bytes, mut micros) = (0, 0, 0.0);
        for i in 0..ROUNDS {
            settle();
            let (c0, d0) = (sys.counts(), device.written());
            let (result, took) = timed(|| match operation {
                "snapshot" => volume.snapshot(&format!("snapshot-{i}")).map(|_| ()),
                _ => store.clone_snapshot("snapshot-0", &format!("clone-{i}"), &CloneOptions::default()).map(|_| ()),
            });
            result?;
            let c = sys.counts().since(c0);
            calls = calls.max(c.written + c.prepared);
            bytes = bytes.max(device.written() - d0);
            micros += took.as_secs_f64() * 1e6 / ROUNDS as f64;
            if unfolded && operation == "snapshot" {
                // Only the first has all of them before it.
                micros = took.as_secs_f64() * 1e6;
                break;
            }
        }
        let mark = if unfolded { " unfolded" } else { "" };
        println!("{name:<11} 4 MiB {:>12}{mark:<14} {operation:<10} {calls:>12} {bytes:>17} {micros:>8.0}", mapped);
    }
    drop(volume);
    drop(store);
    std::fs::remove_dir_all(path)?;
    Ok(())
}
