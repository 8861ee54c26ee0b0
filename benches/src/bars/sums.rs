//! What comparing checksums costs a read of cached data, and how fast a scrub goes. On a file system in memory (tmpfs), so that a
//! scrub, which reads past the page cache, is not measured by the disk.

use std::path::Path;

use archipelago_core::{CreateOptions, InitOptions, Location, Mode, ScrubOptions, Store, StoreOptions, Volume};

use super::{Numbers, Outcome, Scratch, quartiles, timed};

/// Size of each volume; small enough to stay in memory.
const SIZE: u64 = 512 << 20;
/// Interleaved rounds.
const ROUNDS: u64 = 15;
/// Bytes read in each.
const READ: u64 = 64 << 20;

/// Prints the ratios of reads, and the speeds of scrubs.
pub fn run(dir: &Path) -> Outcome {
    let scratch = Scratch::new(dir, "sums")?;
    let location = Location::File(scratch.0.join("store"));
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    let with = snapshot(&store, "with-sums")?;
    let (made, making) = timed(|| store.scrub(&ScrubOptions::default(), &mut |_| true));
    let (again, comparing) = timed(|| store.scrub(&ScrubOptions::default(), &mut |_| true));
    let (made, verified) = (made?.made, again?.verified);
    if (made, verified) != (SIZE, SIZE) {
        return Err(format!("of {SIZE} bytes {made} got checksums and {verified} were compared").into());
    }
    let speed = |time: std::time::Duration| SIZE as f64 / time.as_secs_f64() / 1e9;
    println!("scrub: {:.2} GB/s comparing, {:.2} GB/s making (each read twice)", speed(comparing), speed(making));
    let without = snapshot(&store, "without-sums")?;
    for size in [512, 4096, 65536] {
        let (mut ratios, mut micros) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let (plain, compared) = (read(&without, size, round)?, read(&with, size, round)?);
            ratios.push(compared / plain);
            micros.push(compared * 1e6);
        }
        let (m, lo, hi) = quartiles(&mut ratios);
        let (micros, ..) = quartiles(&mut micros);
        println!(
            "random reads of {size} bytes, with checksums / without: time {m:.3} ({lo:.3}..{hi:.3}); {micros:.2} us each"
        );
    }
    Ok(())
}

/// A snapshot of a volume of random bytes, open.
fn snapshot(store: &Store, name: &str) -> Result<Volume, Box<dyn std::error::Error>> {
    store.create(name, &CreateOptions { size: SIZE, block_size: None })?;
    let volume = store.open_volume(name, Mode::ReadWrite)?;
    let (mut block, mut numbers) = (vec![0; 4 << 20], Numbers(1));
    for at in (0..SIZE).step_by(block.len()) {
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&numbers.next().to_le_bytes());
        }
        volume.write_at(&block, at)?;
    }
    let name = format!("{name}-snapshot");
    volume.snapshot(&name)?;
    volume.checkpoint()?;
    volume.close()?;
    Ok(store.open_volume(&name, Mode::ReadOnly)?)
}

/// Reads here and there; seconds for each.
fn read(volume: &Volume, size: usize, seed: u64) -> Result<f64, Box<dyn std::error::Error>> {
    let (mut buf, mut numbers) = (vec![0; size], Numbers(seed + 1));
    let count = READ / size.max(4096) as u64;
    let (done, took) = timed(|| {
        (0..count).try_for_each(|_| volume.read_at(&mut buf, numbers.next() % (SIZE / size as u64) * size as u64))
    });
    done?;
    Ok(took.as_secs_f64() / count as f64)
}
