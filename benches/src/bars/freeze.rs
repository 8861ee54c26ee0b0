//! How long writes are not admitted, over snapshots and over a whole collection under load.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use archipelago_core::{CollectOptions, CreateOptions, InitOptions, Location, Mode, Store, StoreOptions, Volume};

use super::{Numbers, Outcome, Scratch};

/// Writers at once.
const DEPTH: u64 = 8;
/// Snapshots.
const SNAPSHOTS: usize = 100;
/// Size of the volume.
const SIZE: u64 = 1 << 30;
/// Pause between two snapshots.
const PAUSE: Duration = Duration::from_millis(20);

/// Prints median, p95 and the longest.
pub fn run(dir: &Path) -> Outcome {
    let scratch = Scratch::new(dir, "freeze")?;
    let location = Location::File(scratch.0.join("store"));
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    store.create("volume", &CreateOptions { size: SIZE, block_size: None })?;
    let volume = store.open_volume("volume", Mode::ReadWrite)?;
    under_writes(&volume, &format!("{SNAPSHOTS} snapshots"), || {
        (0..SNAPSHOTS).try_for_each(|n| -> Outcome {
            std::thread::sleep(PAUSE);
            volume.snapshot(&format!("snapshot-{n}"))?;
            Ok(())
        })
    })?;
    volume.close()?;
    (0..SNAPSHOTS).try_for_each(|n| store.remove(&format!("snapshot-{n}")))?;
    // Counted anew from here on.
    let volume = store.open_volume("volume", Mode::ReadWrite)?;
    under_writes(&volume, "a collection of them", || {
        let report = store.collect(&CollectOptions::default(), &mut |_| true)?;
        let freed = report.freed();
        println!("collected: {} objects, {} MiB", freed.objects, freed.bytes >> 20);
        Ok(())
    })
}

/// Does something while all writers write, and prints how long they were stopped meanwhile.
fn under_writes(volume: &Volume, what: &str, job: impl FnOnce() -> Outcome) -> Outcome {
    let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Outcome {
        for thread in 0..DEPTH {
            let (stop, writes) = (&stop, &writes);
            scope.spawn(move || {
                let mut numbers = Numbers(thread + 1);
                let data = [thread as u8 | 1; 4096];
                while !stop.load(Ordering::Relaxed) {
                    let offset = numbers.next() % (SIZE / 4096) * 4096;
                    if volume.write_at(&data, offset).is_err() {
                        return;
                    }
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let done = job();
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    let stalls = volume.stalls();
    let ms = |nanos: u64| nanos as f64 / 1e6;
    println!("writes not admitted, {what} under 4 KiB writes at depth {DEPTH}:");
    println!(
        "  median {:.3} ms (bar 1), p95 {:.3} ms (bar 3), longest {:.3} ms, {} times (checkpoints included), {} writes",
        ms(stalls.p50),
        ms(stalls.p95),
        ms(stalls.max),
        stalls.count,
        writes.load(Ordering::Relaxed)
    );
    Ok(())
}
