//! Many volumes in one server: what an idle open one costs in memory, and how two busy ones share the server.

use std::path::Path;
use std::time::Duration;

use archipelago_core::{CreateOptions, InitOptions, Location, Store, StoreOptions};

use super::super::{Failure, Numbers, Outcome, quartiles};
use super::client::Client;
use super::{Case, ROUNDS, servers};

/// Volumes that are open at once.
const VOLUMES: usize = 64;
/// Size of each.
const SIZE: u64 = 1 << 40;
/// Silence after which a server has given back what it does not need.
const REST: Duration = Duration::from_secs(3);
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
    names[..2].iter().try_for_each(|name| servers::fill(&store, name))?;
    drop(store);
    let server = servers::archipelago(&path, dir.join("volumes.sock"))?;
    let case = Case { write: false, len: 4 << 10, depth: 32 };
    // One is not counted: what a server needs for the first client at all is not the volume's.
    let mut clients = vec![server.connect_to(&names[VOLUMES], case)?];
    clients[0].run(case, Duration::from_millis(100), &mut Numbers(1))?;
    std::thread::sleep(REST);
    let before = server.memory()?;
    for name in &names[..VOLUMES] {
        clients.push(server.connect_to(name, case)?);
        // One after another: threads that negotiate at the same instant would leave their stacks in the C library's stock, which is bounded
        // by them and not by volumes.
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(REST);
    let each = server.memory()?.saturating_sub(before) / VOLUMES as u64;
    println!("an idle open volume of 1 TiB, of {VOLUMES}: {each} bytes of memory, bar at most {MOST}");

    for write in [false, true] {
        let case = Case { write, ..case };
        let mut both = [server.connect_to(&names[0], case)?, server.connect_to(&names[1], case)?];
        let (mut ratios, mut rates) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            let [a, b] = together(&mut both, case, turn, round)?;
            ratios.push(a.min(b) / a.max(b));
            rates.push((a + b) / turn.as_secs_f64());
        }
        let (median, low, high) = quartiles(&mut ratios);
        let what = if write { "overwritten" } else { "read" };
        println!(
            "two busy volumes, {what}: {:.0} requests per second; the slower one against the other {median:.2} ({low:.2}..{high:.2}), bar at least 0.80",
            quartiles(&mut rates).0
        );
    }
    Ok(())
}

/// Requests of two clients that ask at the same time.
fn together(both: &mut [Client; 2], case: Case, turn: Duration, round: u64) -> Result<[f64; 2], Failure> {
    let [a, b] = both;
    std::thread::scope(|scope| {
        let other = scope.spawn(|| a.run(case, turn, &mut Numbers(2 * round)));
        let one = b.run(case, turn, &mut Numbers(2 * round + 1))?.0;
        let other = other.join().map_err(|_| "a client failed")??.0;
        Ok([one as f64, other as f64])
    })
}
