//! A store in a pool of Ceph beside librbd on the same pool: clones, first writes into one, random 4 KiB reads and overwrites; and writes
//! with a flush each through a write-back cache, beside the same without.
//!
//! `ARCHIPELAGO_CEPH_CONF` and `ARCHIPELAGO_CEPH_DIR` say where the cluster is, which `tests/ceph/cluster` made (`make bench-rbd` does all of it): what is
//! written stays in it. librbd runs in this process as librados does, and with `rbd_cache=false`. Rounds are interleaved.

use std::path::Path;
use std::time::Duration;

use archipelago_core::blocker::rados::RadosPlace;
use archipelago_core::{CacheOptions, CloneOptions, InitOptions, Location, Mode, Store, StoreOptions, Volume};

use super::io::{Kind, SIZE, create, library, turn};
use super::ratio::Ratio;
use super::{Failure, Numbers, Options, Outcome, Scratch, quartiles, timed};

mod librbd;

use librbd::Rbd;

/// Where `tcpi_bytes_acked` is in the kernel's `tcp_info`.
const BYTES_ACKED: usize = 120;
/// The pool of the clusters that `tests/ceph/cluster` makes.
const POOL: &str = "archipelago";
/// Bytes of a block, and of an object of RBD.
const BLOCK: u64 = 4 << 20;
/// Interleaved rounds.
const ROUNDS: u64 = 15;
/// Clones in a round.
const CLONES: u64 = 4;
/// Rounds of first writes: each writes once into each block of a clone.
const FIRST_ROUNDS: u64 = 5;
/// Rounds of writes with a flush each.
const CACHED_ROUNDS: u64 = 9;
/// Length of their turns: what is written in one waits to be in the cluster before the next.
const CACHED_TURN: Duration = Duration::from_millis(300);
/// Length of a turn unless asked otherwise.
const TURN: Duration = Duration::from_millis(700);
/// After which what OSDs put off has been done.
const SETTLED: Duration = Duration::from_secs(6);

/// Prints the ratios.
pub fn run(dir: &Path, options: &Options) -> Outcome {
    let Some(cluster) = Cluster::of_environment() else {
        println!("  there is no cluster (make bench-rbd starts one): left out");
        return Ok(());
    };
    let place = RadosPlace {
        conf: cluster.conf.clone(),
        namespace: format!("bench-{}", std::process::id()),
        ..RadosPlace::new(POOL)
    };
    let location = Location::Rados(place);
    Store::init(&location, &InitOptions::default())?;
    let store = Store::open(&location, StoreOptions::default())?;
    let rbd = Rbd::connect(&cluster.conf, POOL)?;
    let image = format!("bench-{}", std::process::id());
    rbd.create(&image, SIZE, &vec![7; BLOCK as usize])?;
    let volume = create(&store, "volume")?;
    requests(&volume, &rbd, &image, options)?;
    clones(&store, &volume, &rbd, &image, options)?;
    cached(dir, &store, &volume, options)?;
    first_writes(&store, &volume, &rbd, &image, &cluster, options)
}

/// Random reads and overwrites.
fn requests(volume: &Volume, rbd: &Rbd, image: &str, options: &Options) -> Outcome {
    let image = rbd.open(image)?;
    let time = options.turn.unwrap_or(TURN);
    for (kind, depth) in [(Kind::Read, 1), (Kind::Read, 32), (Kind::Overwrite, 1), (Kind::Overwrite, 32)] {
        let (mut library, mut peer) = (library::contender(volume, depth), image.contender(depth));
        let (mut ratios, mut rates, mut peers) = (vec![], vec![], vec![]);
        let (mut cpu, mut peer_cpu) = (vec![], vec![]);
        for round in 0..ROUNDS {
            // Who goes first changes.
            let (own, other) = if round % 2 == 0 {
                let own = turn(&mut *library, kind, time, round + 1)?;
                (own, turn(&mut *peer, kind, time, round + 1)?)
            } else {
                let other = turn(&mut *peer, kind, time, round + 1)?;
                (turn(&mut *library, kind, time, round + 1)?, other)
            };
            ratios.push(own.0 / other.0);
            rates.push(own.0);
            peers.push(other.0);
            cpu.push(own.1);
            peer_cpu.push(other.1);
        }
        let case = format!("{} of 4 KiB, depth {depth}", kind.name());
        let [rate, peer, cpu, peer_cpu] = [rates, peers, cpu, peer_cpu].map(|mut all| quartiles(&mut all).0);
        println!("{case}: {rate:.0}/s with {cpu:.0} us CPU, librbd {peer:.0}/s with {peer_cpu:.0} us CPU");
        Ratio::new("rbd", &case, "rate", "librbd", Some(0.95), false).of(ratios.into_iter()).print(options.json)?;
    }
    Ok(())
}

/// A clone of a snapshot, against what RBD does for one.
fn clones(store: &Store, volume: &Volume, rbd: &Rbd, image: &str, options: &Options) -> Outcome {
    let open = rbd.open(image)?;
    volume.snapshot("image-snapshot")?;
    let (mut ours, mut both, mut peers) = (vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let each = |job: &mut dyn FnMut(u64) -> Outcome| -> Result<f64, Failure> {
            let (result, took) = timed(|| (0..CLONES).try_for_each(&mut *job));
            result.map(|()| took.as_secs_f64() * 1e3 / CLONES as f64)
        };
        ours.push(each(&mut |i| {
            store.clone_snapshot("image-snapshot", &format!("clone-{round}-{i}"), &CloneOptions::default())?;
            Ok(())
        })?);
        both.push(each(&mut |i| {
            let snapshot = format!("snapshot-{round}-{i}");
            volume.snapshot(&snapshot)?;
            store.clone_snapshot(&snapshot, &format!("second-{round}-{i}"), &CloneOptions::default())?;
            Ok(())
        })?);
        peers.push(each(&mut |i| {
            rbd.clone(&open, image, &format!("s{round}-{i}"), &format!("{image}-clone-{round}-{i}"))
        })?);
    }
    let ratio = |what: &str, goal, all: &[f64]| {
        let rounds = peers.iter().zip(all).map(|(peer, own)| peer / own);
        Ratio::new("rbd", "clone", what, "librbd: snapshot, protect and clone", goal, false).of(rounds)
    };
    ratio("speed of a clone", Some(10.0), &ours).print(options.json)?;
    ratio("speed of a snapshot and a clone", None, &both).print(options.json)?;
    let [ours, both, peers] = [ours, both, peers].map(|mut all| quartiles(&mut all).0);
    println!("  ms each: clone {ours:.2}, snapshot and clone {both:.2}, librbd {peers:.2}");
    Ok(())
}

/// What some writes cost.
struct Cost {
    each: Duration,
    sent: f64,
    at_osds: f64,
}

/// Writes 4 KiB into each block of a clone.
fn first_writes(
    store: &Store,
    volume: &Volume,
    rbd: &Rbd,
    image: &str,
    cluster: &Cluster,
    options: &Options,
) -> Outcome {
    let own = rbd.open(image)?;
    let blocks = SIZE / BLOCK;
    let mut numbers = Numbers(5);
    let mut costs: [Vec<Cost>; 3] = Default::default();
    for round in 0..FIRST_ROUNDS {
        let places: Vec<u64> = (0..blocks).map(|i| i * BLOCK + numbers.next() % (BLOCK >> 12) * 4096).collect();
        let snapshot = format!("first-{round}");
        volume.snapshot(&snapshot)?;
        store.clone_snapshot(&snapshot, &format!("first-clone-{round}"), &CloneOptions::default())?;
        let clone = store.open_volume(&format!("first-clone-{round}"), Mode::ReadWrite)?;
        let peer = format!("{image}-first-{round}");
        rbd.clone(&own, image, &format!("f{round}"), &peer)?;
        let peer = rbd.open(&peer)?;
        let write = |to: &Volume, byte: u8| {
            cluster.cost(&places, |at| {
                to.write_at(&[byte; 4096], at)?;
                Ok(to.flush()?)
            })
        };
        costs[0].push(write(&clone, round as u8 + 1)?);
        // What it wrote is its own by now.
        costs[1].push(write(&clone, round as u8 + 2)?);
        costs[2].push(cluster.cost(&places, |at| {
            peer.write(&[round as u8 + 1; 4096], at)?;
            peer.flush()
        })?);
        clone.close()?;
    }
    let [first, over, peer] = &costs;
    let median = |of: &[Cost], what: fn(&Cost) -> f64| quartiles(&mut of.iter().map(what).collect::<Vec<_>>()).0;
    for (what, of) in [("first write", first), ("overwrite", over), ("first write of librbd", peer)] {
        let ms = median(of, |cost| cost.each.as_secs_f64() * 1e3);
        let (sent, at_osds) = (median(of, |c| c.sent), median(of, |c| c.at_osds));
        println!("  {what}: {ms:.2} ms, {sent:.0} bytes sent, {at_osds:.0} bytes written by OSDs");
    }
    let case = "first write of 4 KiB into a block of a clone";
    let print = |what: &str, with: &str, goal, at_most, of: &mut dyn Iterator<Item = f64>| {
        Ratio::new("rbd", case, what, with, Some(goal), at_most).of(of).print(options.json)
    };
    print(
        "speed",
        "librbd",
        8.0,
        false,
        &mut first.iter().zip(peer).map(|(own, other)| other.each.as_secs_f64() / own.each.as_secs_f64()),
    )?;
    print("bytes sent by the client", "32 KiB", 1.0, true, &mut first.iter().map(|cost| cost.sent / 32768.0))?;
    print(
        "bytes written by OSDs",
        "an overwrite",
        3.0,
        true,
        &mut first.iter().zip(over).map(|(own, other)| own.at_osds / other.at_osds),
    )
}

/// Overwrites with a flush each.
fn cached(dir: &Path, store: &Store, volume: &Volume, options: &Options) -> Outcome {
    let scratch = Scratch::new(dir, "rbd")?;
    volume.snapshot("cached-snapshot")?;
    store.clone_snapshot("cached-snapshot", "cached-volume", &CloneOptions::default())?;
    let own = store.open_cached("cached-volume", &CacheOptions::new(scratch.0.join("cache")))?;
    // Both overwrite.
    for at in (0..SIZE).step_by(BLOCK as usize) {
        own.write_at(&vec![5; BLOCK as usize], at)?;
        volume.write_at(&vec![5; BLOCK as usize], at)?;
    }
    own.checkpoint()?;
    volume.checkpoint()?;
    let (mut with, mut without) = (library::contender(&own, 1), library::contender(volume, 1));
    let (mut ratios, mut rates, mut plain, mut drained) = (vec![], vec![], vec![], vec![]);
    for round in 0..CACHED_ROUNDS {
        let (rate, _) = turn(&mut *with, Kind::Durable, CACHED_TURN, round + 1)?;
        // What it holds would be in the way of the other.
        let (result, took) = timed(|| own.extents(0, 1, 1));
        result?;
        drained.push(rate * CACHED_TURN.as_secs_f64() / (took + CACHED_TURN).as_secs_f64());
        let (other, _) = turn(&mut *without, Kind::Durable, CACHED_TURN, round + 1)?;
        ratios.push(rate / other);
        rates.push(rate);
        plain.push(other);
    }
    let [rate, plain, drained] = [rates, plain, drained].map(|mut all| quartiles(&mut all).0);
    println!(
        "overwrites of 4 KiB with a flush each: {rate:.0}/s with a cache, {plain:.0}/s without; a full one: {drained:.0}/s"
    );
    let case = "overwrite and flush of 4 KiB, depth 1";
    Ratio::new("rbd", case, "rate with a cache", "without", Some(5.0), false)
        .of(ratios.into_iter())
        .print(options.json)?;
    own.close()?;
    Ok(())
}

/// The cluster, and what its OSDs count.
struct Cluster {
    conf: String,
    dir: String,
}

impl Cluster {
    fn of_environment() -> Option<Cluster> {
        let of = |name| std::env::var(name).ok();
        Some(Cluster { conf: of("ARCHIPELAGO_CEPH_CONF")?, dir: of("ARCHIPELAGO_CEPH_DIR")? })
    }

    /// Time of each write, and bytes of each, once the OSDs have nothing left to do.
    fn cost(&self, places: &[u64], mut write: impl FnMut(u64) -> Outcome) -> Result<Cost, Failure> {
        std::thread::sleep(SETTLED);
        let before = (self.sent()?, self.written()?);
        let (result, took) = timed(|| places.iter().try_for_each(|at| write(*at)));
        result?;
        std::thread::sleep(SETTLED);
        let after = (self.sent()?, self.written()?);
        let each = |from: u64, to: u64| to.saturating_sub(from) as f64 / places.len() as f64;
        Ok(Cost { each: took / places.len() as u32, sent: each(before.0, after.0), at_osds: each(before.1, after.1) })
    }

    /// Numbers and processes of the OSDs.
    fn osds(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(osd) = name.strip_suffix(".pid").filter(|name| name.starts_with("osd.")) {
                all.push((osd.to_string(), std::fs::read_to_string(&path)?.trim().to_string()));
            }
        }
        Ok(all)
    }

    /// Bytes that this process sent over TCP and that arrived, of connections that are open.
    fn sent(&self) -> Result<u64, Failure> {
        let mut sum = 0;
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let Ok(fd) = entry?.file_name().to_string_lossy().parse() else { continue };
            let mut info = [0_u8; 256];
            let mut len = info.len() as libc::socklen_t;
            // SAFETY: the kernel writes at most `len` bytes into the buffer; what is no such socket is an error.
            let code =
                unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len) };
            if code == 0 {
                sum += u64::from_ne_bytes(std::array::from_fn(|i| info[BYTES_ACKED + i]));
            }
        }
        Ok(sum)
    }

    /// Bytes that the OSDs gave to their disks, past the page cache.
    fn written(&self) -> Result<u64, Failure> {
        let mut sum = 0;
        for (_, process) in self.osds()? {
            let io = std::fs::read_to_string(format!("/proc/{process}/io"))?;
            let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
            sum += line.unwrap_or_default().parse::<u64>()?;
        }
        Ok(sum)
    }
}
