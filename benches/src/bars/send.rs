//! What an incremental send of a large volume reads, by calls, against what was changed.

use std::path::Path;

use archipelago_core::{CreateOptions, Mode, SendOptions, StoreOptions, Volume};

use super::{Outcome, Scratch, counted, counted_again, timed};

/// Size of the volume.
const SIZE: u64 = 100 << 30;
/// Its block size.
const BLOCK: u64 = 4 << 20;
/// Bytes that are changed between the two snapshots.
const CHANGED: u64 = 100 << 20;

/// How the changes lie.
type Pattern = fn(&Volume) -> Outcome;

/// Whole blocks, far from each other.
fn blocks(volume: &Volume) -> Outcome {
    let data = vec![7; BLOCK as usize];
    for n in 0..CHANGED / BLOCK {
        volume.write_at(&data, n * (SIZE / (CHANGED / BLOCK)))?;
    }
    Ok(())
}

/// A sector in each block.
fn sectors(volume: &Volume) -> Outcome {
    for n in 0..CHANGED / 4096 {
        volume.write_at(&[7; 4096], n * BLOCK + 8192)?;
    }
    Ok(())
}

/// Prints bytes read by calls: for the maps alone, and by the send.
pub fn run(dir: &Path) -> Outcome {
    let patterns: [(&str, Pattern); 2] = [("25 whole blocks", blocks), ("4 KiB in each of 25,600 blocks", sectors)];
    for (what, change) in patterns {
        let scratch = Scratch::new(dir, "send")?;
        let path = scratch.0.join("store");
        let (store, _) = counted(&path, StoreOptions::default())?;
        store.create("volume", &CreateOptions { size: SIZE, block_size: Some(BLOCK) })?;
        let volume = store.open_volume("volume", Mode::ReadWrite)?;
        // Something in every block, so that the map is as large as that of a full volume.
        for n in 0..SIZE / BLOCK {
            volume.write_at(&[1; 4096], n * BLOCK)?;
        }
        volume.snapshot("before")?;
        volume.checkpoint()?;
        change(&volume)?;
        volume.snapshot("behind")?;
        volume.checkpoint()?;
        volume.close()?;
        drop(store);

        let options = SendOptions { from: Some("before".into()), resume: None };
        let (store, sys) = counted_again(&path, StoreOptions::default())?;
        let start = sys.counts();
        let plan = store.send_plan("behind", &options)?;
        let maps = sys.counts().since(start).read;
        drop(store);

        let (store, sys) = counted_again(&path, StoreOptions::default())?;
        let start = sys.counts();
        let (sent, took) = timed(|| store.send("behind", &options, &mut std::io::sink(), &mut |_| Ok(())));
        let read = sys.counts().since(start).read;
        let ratio = (read - maps) as f64 / CHANGED as f64;
        println!("{what} changed: data read / changed {ratio:.3}; bar 1.1");
        println!(
            "  bytes: changed {CHANGED}, planned {}, sent {}, read {read}, of which maps {maps}; {:.1} s",
            plan.data,
            sent?.data,
            took.as_secs_f64()
        );
    }
    Ok(())
}
