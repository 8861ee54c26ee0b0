//! Hashing a snapshot against SHA-256 of the same number of bytes in memory, on cached data.

use std::path::Path;

use archipelago_core::store::content::HashOptions;
use archipelago_core::{CreateOptions, Digest, Error, InitOptions, Location, Mode, Store, StoreOptions};

use super::{Numbers, Outcome, Scratch, quartiles, timed};

/// Size of the volume; small enough to stay in the page cache.
const SIZE: u64 = 512 << 20;
/// Interleaved rounds, each on a snapshot of data of its own.
const ROUNDS: u64 = 9;

/// Prints the ratio of speeds, and what was written.
pub fn run(dir: &Path) -> Outcome {
    let scratch = Scratch::new(dir, "hash")?;
    let location = Location::File(scratch.0.join("store"));
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    let mut block = vec![0; 4 << 20];
    let (mut ratios, mut speeds, mut composed, mut added) = (Vec::new(), Vec::new(), 0, 0);
    for round in 0..ROUNDS {
        let (name, snapshot) = (format!("volume-{round}"), format!("snapshot-{round}"));
        store.create(&name, &CreateOptions { size: SIZE, block_size: None })?;
        let volume = store.open_volume(&name, Mode::ReadWrite)?;
        let mut numbers = Numbers(round + 1);
        for at in (0..SIZE).step_by(block.len()) {
            for word in block.chunks_exact_mut(8) {
                word.copy_from_slice(&numbers.next().to_le_bytes());
            }
            volume.write_at(&block, at)?;
        }
        volume.snapshot(&snapshot)?;
        volume.close()?;
        let before = blocks(&scratch.0)?;
        let (hashed, took) = timed(|| store.hash(&snapshot, &HashOptions::default(), &mut |_| true));
        composed += hashed?.progress.composed;
        added += blocks(&scratch.0)?.saturating_sub(before);
        let (_, plain) = timed(|| (0..SIZE / block.len() as u64).map(|_| Digest::of_bytes(&block).0[0]).max());
        ratios.push(plain.as_secs_f64() / took.as_secs_f64());
        speeds.push(SIZE as f64 / took.as_secs_f64() / 1e6);
        store.remove(&snapshot)?;
        store.remove(&name)?;
        free(&scratch.0.join("store/data"))?;
    }
    let (m, lo, hi) = quartiles(&mut ratios);
    let (speed, ..) = quartiles(&mut speeds);
    println!("hashing a snapshot / SHA-256 in memory on one core: {m:.2} ({lo:.2}..{hi:.2}); bar 0.85");
    println!(
        "  {speed:.0} MB/s; content objects made: {composed}; bytes added to the store per GiB: {}",
        added * 512 * 2 / ROUNDS
    );
    Ok(())
}

/// 512-byte units that everything below a directory takes.
fn blocks(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { blocks(&entry.path())? } else { meta.blocks() };
    }
    Ok(sum)
}

/// Removes the data of volumes that were removed, which nothing else needs here: the page cache is to hold one at a time.
fn free(dir: &Path) -> Result<(), Error> {
    let failed = |e| Error::io("empty", dir.display().to_string(), e);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        std::fs::remove_dir_all(entry.map_err(failed)?.path()).map_err(failed)?;
    }
    Ok(())
}
