//! Reads of a volume after a thousand snapshots taken between writes, against the same after one.

use std::path::Path;

use archipelago_core::{CreateOptions, InitOptions, Location, Mode, Store, StoreOptions, Volume};

use super::{Numbers, Outcome, Scratch, cpu, quartiles, timed};

/// Size of the volume.
const SIZE: u64 = 1 << 30;
/// Random 4 KiB writes before each snapshot.
const WRITES: u64 = 8;
/// Snapshots.
const SNAPSHOTS: u64 = 1000;
/// Interleaved rounds.
const ROUNDS: usize = 15;

/// Prints the ratios.
pub fn run(dir: &Path) -> Outcome {
    let scratch = Scratch::new(dir, "depth")?;
    let location = Location::File(scratch.0.join("store"));
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    // Both get the same writes; one gets a snapshot after each few of them, the other after all.
    let make = |name: &str, snapshots: u64| -> Result<Volume, Box<dyn std::error::Error>> {
        store.create(name, &CreateOptions { size: SIZE, block_size: None })?;
        let volume = store.open_volume(name, Mode::ReadWrite)?;
        let data = vec![3; 4 << 20];
        for i in 0..SIZE / data.len() as u64 {
            volume.write_at(&data, i * data.len() as u64)?;
        }
        let mut numbers = Numbers(7);
        for i in 0..SNAPSHOTS {
            for _ in 0..WRITES {
                volume.write_at(&[i as u8; 4096], (numbers.next() % (SIZE >> 12)) << 12)?;
            }
            if i % (SNAPSHOTS / snapshots) == SNAPSHOTS / snapshots - 1 {
                volume.snapshot(&format!("{name}-snapshot-{i}"))?;
            }
        }
        volume.flush()?;
        volume.checkpoint()?;
        Ok(volume)
    };
    let many = make("volume-many", SNAPSHOTS)?;
    let one = make("volume-one", 1)?;
    store.create("volume-clean", &CreateOptions { size: SIZE, block_size: None })?;
    let clean = store.open_volume("volume-clean", Mode::ReadWrite)?;
    let data = vec![3; 4 << 20];
    for i in 0..SIZE / data.len() as u64 {
        clean.write_at(&data, i * data.len() as u64)?;
    }
    clean.flush()?;
    clean.checkpoint()?;
    let random = |volume: &Volume| -> Result<f64, Box<dyn std::error::Error>> {
        let (mut numbers, mut buf) = (Numbers(11), [0; 4096]);
        let before = cpu();
        for _ in 0..100_000 {
            volume.read_at(&mut buf, (numbers.next() % (SIZE >> 12)) << 12)?;
        }
        Ok((cpu() - before).as_secs_f64())
    };
    let sequential = |volume: &Volume| -> Result<f64, Box<dyn std::error::Error>> {
        let mut buf = vec![0; 1 << 20];
        let (result, took) = timed(|| -> Outcome {
            for i in 0..SIZE >> 20 {
                volume.read_at(&mut buf, i << 20)?;
            }
            Ok(())
        });
        result?;
        Ok(took.as_secs_f64())
    };
    let (mut cpus, mut speeds) = (vec![], vec![]);
    for volume in [&many, &one, &clean] {
        sequential(volume)?;
    }
    for _ in 0..ROUNDS {
        cpus.push(random(&many)? / random(&one)?);
        speeds.push(sequential(&clean)? / sequential(&many)?);
    }
    let (m, lo, hi) = quartiles(&mut cpus);
    println!("CPU per random 4 KiB read, {SNAPSHOTS} snapshots / one: {m:.2} ({lo:.2}..{hi:.2}); bar 1.1");
    let (m, lo, hi) = quartiles(&mut speeds);
    println!("sequential 1 MiB reads, {SNAPSHOTS} snapshots / clean volume: {m:.2} ({lo:.2}..{hi:.2}); bar 0.25");
    Ok(())
}
