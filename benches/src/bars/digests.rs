//! Ten million digests: a map made from them, and their list read back, in bounded memory.

use std::path::Path;

use archipelago_core::store::content::NewObject;
use archipelago_core::{InitOptions, Kind, Location, Store, StoreOptions};

use super::{Outcome, Scratch, timed};

/// Digests in the list.
const COUNT: u64 = 10_000_000;
/// Different ones among them.
const DIFFERENT: u64 = 1000;

/// Prints the rates and the memory that they took.
pub fn run(dir: &Path) -> Outcome {
    let scratch = Scratch::new(dir, "digests")?;
    let location = Location::File(scratch.0.join("store"));
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    let claim = store.claim("a measurement")?;
    let some: Vec<_> =
        (0..DIFFERENT).map(|n| claim.put(&n.to_le_bytes()[..]).map(|put| put.digest)).collect::<Result<_, _>>()?;
    let before = peak();
    let new = NewObject { name: "object-1".into(), kind: Kind::Object, size: COUNT << 22, block_size: None };
    let mut list = (0..COUNT).map(|n| Ok(some[(n * n % DIFFERENT) as usize]));
    let (made, took) = timed(|| store.create_object(&new, &mut list));
    made?;
    println!("a map of {COUNT} digests: {:.0} digests/s", COUNT as f64 / took.as_secs_f64());
    let mut count = 0;
    let (listed, took) = timed(|| {
        store.digests("object-1", &mut |_| {
            count += 1;
            Ok(())
        })
    });
    listed?;
    println!("its list: {:.0} digests/s ({count})", count as f64 / took.as_secs_f64());
    println!("peak memory: {} MiB, {} MiB of it before", peak() >> 10, before >> 10);
    claim.end()?;
    Ok(())
}

/// Most memory that this process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
