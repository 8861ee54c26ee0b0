//! Many volumes in one server: what an idle open one costs in memory, and how two busy ones share the server.

use std::path::Path;
use std::time::Duration;

use archipelago_core::{CreateOptions, InitOptions, Location, Store, StoreOptions};

use super::super::{Numbers, Outcome, quartiles};
use super::{Case, ROUNDS, servers};

/// Volumes that are open at once.
const VOLUMES: usize = 64;
/// Size of each.
const SIZE: u64 = 1 << 40;
/// Most bytes for each.
const MOST: u64 = 32 << 10;

/// Prints both.
pub fn run(dir: &Path, turn: Duration) -> Outcome {
    let path = dir.join("volumes");
    let location = Location::File(path.clone());
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    let names: Vec<String> = (0..=VOLUMES).map(|i| format!("volume-{i}")).collect();
    for name in &names {
        store.create(name, &CreateOptions { size: SIZE, block_size: None })?;
    }
    drop(store);
    let server = servers::archipelago(&path, dir.join("volumes.sock"))?;
    let case = Case { write: true, len: 4 << 10, depth: 32 };
    // One is not counted: what a server needs for the first client at all is not the volume's.
    let mut clients = vec![server.connect_to(&names[VOLUMES], case)?];
    clients[0].run(case, Duration::from_millis(100), &mut Numbers(1))?;
    std::thread::sleep(Duration::from_secs(1));
    let before = server.memory()?;
    for name in &names[..VOLUMES] {
        clients.push(server.connect_to(name, case)?);
    }
    std::thread::sleep(Duration::from_secs(1));
    let each = server.memory()?.saturating_sub(before) / VOLUMES as u64;
    println!("an idle open volume of 1 TiB, of {VOLUMES}: {each} bytes of memory, bar at most {MOST}");

    let (mut ratios, mut rates) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let counts: Vec<_> = std::thread::scope(|scope| {
            let run = |(i, client): (usize, &mut super::Client)| {
                client.run(case, turn, &mut Numbers(2 * round + i as u64)).map(|(count, _)| count)
            };
            let both: Vec<_> =
                clients[1..3].iter_mut().enumerate().map(|each| scope.spawn(move || run(each))).collect();
            both.into_iter().map(|thread| thread.join().map_err(|_| "a client failed")?.map_err(Into::into)).collect()
        });
        let counts = counts.into_iter().collect::<Result<Vec<u64>, super::super::Failure>>()?;
        let (less, more) = (counts[0].min(counts[1]) as f64, counts[0].max(counts[1]) as f64);
        ratios.push(less / more);
        rates.push((less + more) / turn.as_secs_f64());
    }
    let (median, low, high) = quartiles(&mut ratios);
    let rate = quartiles(&mut rates).0;
    println!(
        "two busy volumes of {VOLUMES} open: {rate:.0} requests per second; the slower one against the other {median:.2} ({low:.2}..{high:.2}), bar at least 0.80"
    );
    Ok(())
}
