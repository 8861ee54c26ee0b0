//! The server is killed under load, again and again: what clients were told is durable is there when it is back, and
//! snapshots are what they were.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use archipelago_service::nbd::wire::{command, command_flag};

use crate::history::{Change, Kind, Random, SECTOR, Versions, check, versions};
use crate::raw_client::request;
use crate::site::{MIB, Site};

/// Size of each disk in bytes: several blocks, and read in no time.
pub const SIZE: u64 = 16 * MIB;
/// Snapshots kept; others are removed after they were checked.
const KEPT: usize = 3;
/// Most changes in flight on one connection.
const BATCH: u64 = 8;

/// How far the load on a volume is, for whoever takes snapshots meanwhile: numbers of changes.
#[derive(Default)]
pub struct Progress {
    /// The last that may have reached the server.
    issued: AtomicU32,
    /// The last that was answered. All before it were.
    answered: AtomicU32,
}

/// What a load did to its volume.
#[derive(Default)]
pub struct Done {
    pub changes: Vec<Change>,
    /// Changes up to this number were answered before a flush that was answered.
    pub flushed: u32,
    pub flushes: u64,
}

impl Done {
    /// Checks what is found after the server was gone.
    pub fn check(&self, found: &Versions, base: &Versions) -> Result<(), String> {
        check(found, base, &self.changes, |c| self.is_durable(c))
    }

    fn is_durable(&self, change: &Change) -> bool {
        change.number <= self.flushed || change.fua && change.answered
    }
}

/// Changes a volume until the server is gone or says that it stops.
pub fn load(site: &Site, volume: &str, seed: u64, numbers: &AtomicU32, progress: &Progress) -> Done {
    let mut done = Done::default();
    // The second connection only flushes: that covers what the first was answered, too.
    let connections = [site.connect(volume), site.connect(volume)].map(|c| c.unwrap().0.0);
    let ended = run_load(&connections, &mut Random(seed), numbers, progress, &mut done);
    let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];
    assert!(gone.contains(&ended.kind()), "seed {seed}, {volume}: {ended}");
    done
}

fn run_load(
    connections: &[UnixStream; 2],
    random: &mut Random,
    numbers: &AtomicU32,
    progress: &Progress,
    done: &mut Done,
) -> io::Error {
    loop {
        let first = done.changes.len();
        let mut bytes = Vec::new();
        for _ in 0..1 + random.below(BATCH) {
            let change = draw(random, numbers.fetch_add(1, Ordering::SeqCst) + 1);
            let command = match change.kind {
                Kind::Write => command::WRITE,
                Kind::Zero => command::WRITE_ZEROES,
                Kind::Discard => command::TRIM,
            };
            let flags = if change.fua { command_flag::FUA } else { 0 };
            bytes.extend(request(command, flags, u64::from(change.number), change.offset, change.len as u32));
            if change.kind == Kind::Write {
                bytes.extend(change.payload());
            }
            done.changes.push(change);
        }
        let last = done.changes[done.changes.len() - 1].number;
        progress.issued.store(last, Ordering::SeqCst);
        if let Err(error) = (&connections[0]).write_all(&bytes) {
            return error;
        }
        for change in &mut done.changes[first..] {
            if let Err(error) = answer(&connections[0], u64::from(change.number)) {
                return error;
            }
            change.answered = true;
            progress.answered.store(change.number, Ordering::SeqCst);
        }
        if random.below(4) == 0 {
            let mut flusher = &connections[random.below(2) as usize];
            let flushed = flusher.write_all(&request(command::FLUSH, 0, 0, 0, 0)).and_then(|()| answer(flusher, 0));
            if let Err(error) = flushed {
                return error;
            }
            done.flushed = last;
            done.flushes += 1;
        }
    }
}

/// Takes a simple reply. Fails with the end of the connection if the server says that it stops.
fn answer(mut stream: &UnixStream, cookie: u64) -> io::Result<()> {
    let mut reply = [0; 16];
    stream.read_exact(&mut reply)?;
    match u32::from_be_bytes(reply[4..8].try_into().unwrap()) {
        0 => {
            assert_eq!(reply[8..], cookie.to_be_bytes(), "answers come in the order of their requests");
            Ok(())
        }
        108 => Err(io::ErrorKind::UnexpectedEof.into()),
        error => Err(io::Error::from_raw_os_error(error as i32)),
    }
}

fn draw(random: &mut Random, number: u32) -> Change {
    let kind = match random.below(20) {
        0..=1 => Kind::Discard,
        2 => Kind::Zero,
        _ => Kind::Write,
    };
    let unit = if random.below(3) == 0 { SECTOR } else { 4096 };
    // Half of it in a small part of the disk, so that changes meet.
    let room = if random.below(2) == 0 { SIZE / 8 } else { SIZE };
    let offset = random.below(room / unit) * unit;
    let len = match random.below(3) {
        0 => 4096,
        1 => unit * (1 + random.below(65536 / unit)),
        _ => 4096 * (1 + random.below(16)),
    };
    let len = len.min(SIZE - offset);
    Change { number, kind, offset, len, fua: kind != Kind::Discard && random.below(12) == 0, answered: false }
}

/// A snapshot taken under load: changes up to `from` are in it, none after `to` is.
struct Taken {
    name: String,
    /// The command succeeded.
    told: bool,
    /// The server was killed meanwhile. The command may then have taken the snapshot itself, of the volume as it was found
    /// after the kill: of the changes up to `from`, only those that were durable are in it for sure.
    killed: bool,
    from: u32,
    to: u32,
}

/// Takes snapshots with the command until the server is killed.
fn take_snapshots(site: &Site, volume: &str, cycle: u64, progress: &Progress, killed: &AtomicBool) -> Vec<Taken> {
    let mut taken = Vec::new();
    while !killed.load(Ordering::SeqCst) {
        let name = format!("snap-{cycle}-{}", taken.len());
        let from = progress.answered.load(Ordering::SeqCst);
        let output = site.run(&["snapshot", volume, &name]);
        let (told, killed) = (output.status.success(), killed.load(Ordering::SeqCst));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(told || killed, "{name}: {error}{}", site.log());
        // Whatever was sent to the server before it died may be in it.
        let to = if killed { u32::MAX } else { progress.issued.load(Ordering::SeqCst) };
        taken.push(Taken { name, told, killed, from, to });
    }
    taken
}

/// A volume, and what it holds.
struct Known {
    name: &'static str,
    holds: Versions,
}

struct Run {
    site: Site,
    volumes: [Known; 3],
    snapshots: Vec<(String, Versions)>,
    numbers: AtomicU32,
    /// Times of restarts until clients can connect, and until all volumes are open.
    restarts: Vec<(Duration, Duration)>,
    changes: usize,
    flushes: u64,
    taken: usize,
}

impl Run {
    /// A fresh volume, a clone of an imported image, and a volume that snapshots are taken of.
    fn new(random: &mut Random) -> Run {
        let site = Site::new();
        // Small, so that checkpoints run all the time.
        std::fs::create_dir_all(site.path("xdg/archipelago")).unwrap();
        std::fs::write(site.path("xdg/archipelago/archipelago.toml"), "max_unfolded = \"2M\"\n").unwrap();
        let numbers = AtomicU32::new(0);
        let mut image = vec![0; SIZE as usize];
        for _ in 0..100 {
            let change = Change { kind: Kind::Write, ..draw(random, numbers.fetch_add(1, Ordering::SeqCst) + 1) };
            let at = change.offset as usize;
            image[at..at + change.len as usize].copy_from_slice(&change.payload());
        }
        std::fs::write(site.path("image"), &image).unwrap();
        let size = SIZE.to_string();
        site.ok(&["import", &site.text("image"), "imported", "--format", "raw", "--snapshot", "golden"]);
        site.ok(&["clone", "golden", "cloned"]);
        site.ok(&["create", "fresh1", "--size", &size]);
        site.ok(&["create", "snapped", "--size", &size]);
        let (empty, golden) = (vec![0; (SIZE / SECTOR) as usize], versions(&image).unwrap());
        let volumes = [("fresh1", empty.clone()), ("cloned", golden.clone()), ("snapped", empty)];
        let volumes = volumes.map(|(name, holds)| Known { name, holds });
        let snapshots = vec![("golden".to_string(), golden)];
        Run { site, volumes, snapshots, numbers, restarts: Vec::new(), changes: 0, flushes: 0, taken: 0 }
    }

    /// Serves, loads, kills, serves again and checks everything.
    fn cycle(&mut self, cycle: u64, random: &mut Random) -> Result<(), String> {
        let (site, numbers) = (&self.site, &self.numbers);
        let life = Duration::from_millis(20 + random.below(181));
        let mut server = site.serve();
        let progress: [Progress; 3] = Default::default();
        let killed = AtomicBool::new(false);
        let (done, taken) = thread::scope(|scope| {
            let mut loads = Vec::new();
            for (volume, progress) in self.volumes.iter().zip(&progress) {
                let seed = random.next();
                loads.push(scope.spawn(move || load(site, volume.name, seed, numbers, progress)));
            }
            // The life is one under load, so it begins when all are connected and at work.
            let at_work = |p: &Progress| p.answered.load(Ordering::SeqCst) > 0;
            while !progress.iter().all(at_work) && !loads.iter().any(|l| l.is_finished()) {
                thread::sleep(Duration::from_millis(1));
            }
            let taker = scope.spawn(|| take_snapshots(site, "snapped", cycle, &progress[2], &killed));
            thread::sleep(life);
            killed.store(true, Ordering::SeqCst);
            server.kill();
            let done: Vec<Done> = loads.into_iter().map(|l| l.join().expect("the load ends well")).collect();
            (done, taker.join().expect("snapshots are taken"))
        });

        let began = Instant::now();
        let mut server = site.serve();
        let start = server.start;
        let mut clients = self.volumes.each_ref().map(|v| site.connect(v.name).unwrap());
        self.restarts.push((start, began.elapsed()));
        for ((volume, client), done) in self.volumes.iter_mut().zip(&mut clients).zip(&done) {
            let failed = |e| format!("{}: {e}; flushed up to {}", volume.name, done.flushed);
            let found = versions(&client.read_all(SIZE)).map_err(failed)?;
            done.check(&found, &volume.holds).map_err(failed)?;
            if volume.name == "snapped" {
                for taken in &taken {
                    let mut client = match site.connect(&taken.name) {
                        Ok(client) => client,
                        // Only the one that was being taken may be missing.
                        Err(_) if !taken.told => continue,
                        Err(error) => return Err(format!("{}: {error}", taken.name)),
                    };
                    let failed = |e| format!("{} ({} to {}): {e}", taken.name, taken.from, taken.to);
                    let content = versions(&client.read_all(SIZE)).map_err(failed)?;
                    let end = done.changes.partition_point(|c| c.number <= taken.to);
                    let must = |c: &Change| c.number <= taken.from && (!taken.killed || done.is_durable(c));
                    check(&content, &volume.holds, &done.changes[..end], must).map_err(failed)?;
                    self.snapshots.push((taken.name.clone(), content));
                    self.taken += 1;
                }
            }
            volume.holds = found;
            self.changes += done.changes.len();
            self.flushes += done.flushes;
        }
        for (name, content) in &self.snapshots {
            let found = versions(&site.connect(name)?.read_all(SIZE))?;
            if found != *content {
                return Err(format!("{name} changed"));
            }
        }
        // Any but the golden one, not always the oldest.
        while self.snapshots.len() > KEPT + 1 {
            let (name, _) = self.snapshots.remove(1 + random.below(self.snapshots.len() as u64 - 1) as usize);
            site.ok(&["remove", &name]);
        }
        drop(clients);
        site.wait_until_nothing_is_open();
        // Now and then the clone is made anew, of any snapshot.
        if random.below(5) == 0 {
            let (snapshot, content) = &self.snapshots[random.below(self.snapshots.len() as u64) as usize];
            site.ok(&["remove", "cloned"]);
            site.ok(&["clone", snapshot, "cloned"]);
            self.volumes[1].holds = content.clone();
        }
        match server.stop() {
            0 => Ok(()),
            code => Err(format!("the server stopped with {code}")),
        }
    }
}

#[test]
fn what_was_flushed_is_there_after_the_server_was_killed_under_load() {
    let variable = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let kills = variable("ARCHIPELAGO_SERVER_KILLS").unwrap_or(20);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = variable("ARCHIPELAGO_SERVER_KILL_SEED").unwrap_or(clock);
    // Shown if the test fails, in whatever way.
    println!("ARCHIPELAGO_SERVER_KILL_SEED={seed}");
    let mut random = Random(seed);
    let mut run = Run::new(&mut random);
    let began = Instant::now();
    for cycle in 0..kills {
        if let Err(error) = run.cycle(cycle, &mut random) {
            let site = run.site.dir.keep();
            panic!("seed {seed}, cycle {cycle}: {error}\nthe store is kept in {}", site.display());
        }
    }
    let summary = |mut times: Vec<Duration>| {
        times.sort_unstable();
        format!("median {:?}, longest {:?}", times[times.len() / 2], times[times.len() - 1])
    };
    println!(
        "{kills} kills in {:?}: {} changes, {} flushes, {} snapshots; restart until ready: {}; until all volumes are open: {}",
        began.elapsed(),
        run.changes,
        run.flushes,
        run.taken,
        summary(run.restarts.iter().map(|r| r.0).collect()),
        summary(run.restarts.iter().map(|r| r.1).collect()),
    );
}
