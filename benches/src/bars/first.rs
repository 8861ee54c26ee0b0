//! First 4 KiB writes into a clone against overwrites with the same flushes.

use std::path::Path;

use archipelago_core::{CloneOptions, CreateOptions, Mode, StoreOptions};

use super::{Outcome, Scratch, counted, quartiles, timed};

/// Writes of each kind in a round.
const WRITES: u64 = 1000;
/// Interleaved rounds.
const ROUNDS: usize = 15;

/// Prints the ratios.
pub fn run(dir: &Path) -> Outcome {
    println!("flush every   first write / overwrite      bytes by calls each   prepared ahead each   read each");
    for every in [1u64, 8, 64, 512] {
        let scratch = Scratch::new(dir, "first")?;
        let (store, sys) = counted(&scratch.0.join("store"), StoreOptions::default())?;
        let block = 4u64 << 20;
        store.create("volume", &CreateOptions { size: WRITES * block, block_size: None })?;
        let volume = store.open_volume("volume", Mode::ReadWrite)?;
        let data = vec![5; 64 << 10];
        for i in 0..WRITES {
            volume.write_at(&data, i * block)?;
        }
        volume.snapshot("image-snapshot")?;
        volume.close()?;
        // The peer: sectors that are this volume's own, overwritten in place.
        store.create("overwritten", &CreateOptions { size: WRITES * block, block_size: None })?;
        let own = store.open_volume("overwritten", Mode::ReadWrite)?;
        for i in 0..WRITES {
            own.write_at(&data, i * block)?;
        }
        own.flush()?;
        own.checkpoint()?;
        let (mut ratios, mut written, mut prepared, mut read) = (vec![], 0, 0, 0);
        for round in 0..ROUNDS {
            let name = format!("clone-{round}");
            store.clone_snapshot("image-snapshot", &name, &CloneOptions::default())?;
            let clone = store.open_volume(&name, Mode::ReadWrite)?;
            // The first journal segment is made at the first write ever; that is not what is measured.
            clone.write_at(&[1; 4096], 8192)?;
            clone.flush()?;
            let buf = [round as u8 | 1; 4096];
            let job = |volume: &archipelago_core::Volume| -> Outcome {
                for i in 0..WRITES {
                    volume.write_at(&buf, i * block + 16384)?;
                    if (i + 1) % every == 0 {
                        volume.flush()?;
                    }
                }
                volume.flush()?;
                Ok(())
            };
            // Counted with the 512 bytes that each opening for writing puts before its first record.
            let before = sys.counts();
            let (result, first) = timed(|| job(&clone));
            result?;
            let c = sys.counts().since(before);
            let (result, over) = timed(|| job(&own));
            result?;
            ratios.push(first.as_secs_f64() / over.as_secs_f64());
            (written, prepared, read) = (written + c.written, prepared + c.prepared, read + c.read);
            clone.close()?;
        }
        let n = (ROUNDS as u64 * WRITES) as f64;
        let (m, lo, hi) = quartiles(&mut ratios);
        println!(
            "{every:>11}   {m:>6.2} ({lo:.2}..{hi:.2}), bar 1.3   {:>16.1}, bar 4608 {:>14.0} {:>16.1}",
            written as f64 / n,
            prepared as f64 / n,
            read as f64 / n
        );
    }
    Ok(())
}
