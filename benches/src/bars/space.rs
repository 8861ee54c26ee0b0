//! What snapshots that come and go leave behind: room of node packs and journals after a collection, against what maps need of it.

use std::path::Path;
use std::sync::Arc;

use archipelago_core::blocker::Blocker;
use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::{
    Background, CollectOptions, CreateOptions, InitOptions, Location, Mode, Store, StoreOptions, Volume,
};

use super::{Numbers, Outcome, Scratch};

/// Checkpoints of one run.
const CHECKPOINTS: u64 = 10_000;
/// Scattered writes of a sector between two of them.
const WRITES: u64 = 8;
/// Checkpoints between two snapshots, of which the newest few stay.
const PER_SNAPSHOT: u64 = 10;
/// Snapshots that stay.
const KEPT: u64 = 24;
/// Checkpoints between two collections.
const PER_COLLECTION: u64 = 1000;

/// Prints the room by kind.
pub fn run(dir: &Path) -> Outcome {
    for (what, shift, size) in [("blocks of 4 MiB", 22, 256u64 << 30), ("blocks of 64 KiB", 16, 4 << 30)] {
        let scratch = Scratch::new(dir, "space")?;
        let path = scratch.0.join("store");
        Store::init(&Location::File(path.clone()), &InitOptions { block_size: 1 << shift, ..InitOptions::default() })?;
        let blocker = Arc::new(FileBlocker::open(&path, FileOptions::default())?);
        let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
        let store = Store::open_on(blocker.clone(), options)?;
        store.create("volume", &CreateOptions { size, block_size: None })?;
        let volume = store.open_volume("volume", Mode::ReadWrite)?;
        println!("{what}: {CHECKPOINTS} checkpoints of {WRITES} scattered sectors, {KEPT} snapshots kept");
        work(&store, &volume, size)?;
        let collected = store.collect(&CollectOptions::default(), &mut |_| true)?;
        let by = store.space_by_kind()?;
        println!("  walked: {} entries of {} maps", collected.entries, collected.maps);
        for (kind, amount) in [("packs", by.packs), ("segments", by.segments), ("data", by.data)] {
            println!("  {kind}: {:.2} MiB in {} files", amount.bytes as f64 / (1 << 20) as f64, amount.objects);
        }
        volume.close()?;
        let _ = blocker.space()?;
    }
    Ok(())
}

fn work(store: &Store, volume: &Volume, size: u64) -> Outcome {
    let (mut numbers, mut freed) = (Numbers(7), [0; 4]);
    for n in 0..CHECKPOINTS {
        for _ in 0..WRITES {
            // Half of all writes go to a tenth of the volume.
            let range = if numbers.next() % 2 == 0 { size / 10 } else { size };
            volume.write_at(&[n as u8; 4096], numbers.next() % (range / 4096) * 4096)?;
        }
        if n % PER_SNAPSHOT == 0 {
            let number = n / PER_SNAPSHOT;
            volume.snapshot(&format!("snapshot-{number}"))?;
            if let Some(old) = number.checked_sub(KEPT) {
                store.remove(&format!("snapshot-{old}"))?;
            }
        }
        volume.checkpoint()?;
        if n % PER_COLLECTION == PER_COLLECTION - 1 {
            let report = store.collect(&CollectOptions::default(), &mut |_| true)?;
            for (sum, amount) in freed.iter_mut().zip([report.packs, report.segments, report.data, report.holes]) {
                *sum += amount.bytes;
            }
        }
    }
    let [packs, segments, data, holes] = freed.map(|bytes| bytes as f64 / (1 << 20) as f64);
    println!("  freed: packs {packs:.1} MiB, segments {segments:.1} MiB, data {data:.1} MiB, holes {holes:.1} MiB");
    Ok(())
}
