//! Random handovers of a volume that is written, while processes are killed and stopped, and whether what they saw can be.
//!
//! `ARCHIPELAGO_HANDOVERS` sets the number (60; on a cluster as well), `ARCHIPELAGO_HANDOVER_SEED` repeats the choices, though not the times.

use std::time::{Duration, Instant};

use archipelago_core::{CreateOptions, Error, InitOptions, Location, Mode, Store};
use tempfile::TempDir;

use crate::child::{DISK, Process, SLOTS, options, place, value_of};
use crate::history::{Event, History, Kind, now};
use crate::random::{Random, seed};

/// Processes that stand by for the volume.
const PROCESSES: u64 = 3;
/// Bytes of the volume at first: some blocks of 64 KiB.
const SIZE: u64 = 320 << 10;
/// In which a process that was killed has been given up in any case.
const PATIENCE: Duration = Duration::from_secs(90);

/// What differs from backend to backend.
struct Weather {
    /// Of a hundred steps, those in which a process is killed, and in which one is stopped for a moment.
    kills: u64,
    stops: u64,
    /// A process that is killed may lose what it did not flush.
    kills_lose: bool,
}

struct Site {
    dir: TempDir,
    location: Location,
    store: Store,
    processes: Vec<Process>,
    started: u64,
    history: History,
    random: Random,
    size: u64,
}

impl Site {
    fn new(location: Option<Location>, seed: u64, weather: &Weather) -> Site {
        let dir = TempDir::new().unwrap();
        let location = location.unwrap_or_else(|| Location::File(dir.path().join("store")));
        Store::init(&location, &InitOptions { block_size: 64 << 10, mode: 0o660, group: None }).unwrap();
        let store = Store::open(&location, options()).unwrap();
        store.create(DISK, &CreateOptions { size: SIZE, block_size: None }).unwrap();
        let history = History { kills_lose: weather.kills_lose, ..History::default() };
        let (processes, random) = (Vec::new(), Random(seed));
        let mut site = Site { dir, location, store, processes, started: 0, history, random, size: SIZE };
        for _ in 0..PROCESSES {
            let process = site.process();
            site.processes.push(process);
        }
        site
    }

    fn process(&mut self) -> Process {
        self.started += 1;
        Process::start(&self.location, self.dir.path(), self.started, self.random.next())
    }

    /// Another process than `than`.
    fn other(&mut self, than: usize) -> usize {
        (than + 1 + self.random.below(PROCESSES - 1) as usize) % PROCESSES as usize
    }

    fn pause(&mut self, most: Duration) {
        std::thread::sleep(Duration::from_micros(self.random.below(most.as_micros() as u64)));
    }

    /// Kills a process and starts another in its place.
    fn replace(&mut self, at: usize) {
        let death = self.processes[at].kill();
        let dead = &self.processes[at];
        self.history.deaths.insert(dead.number, death);
        self.history.read(dead.number, &std::fs::read_to_string(&dead.log).unwrap());
        self.processes[at] = self.process();
    }

    /// Has a process do requests that succeed, at the latest once a dead owner was given up.
    fn run(&mut self, at: usize, count: u64) {
        let begun = Instant::now();
        while let Err(errno) = self.processes[at].say(&format!("run {count}")) {
            let text = std::io::Error::from_raw_os_error(errno);
            // One thread is refused, another waits for it in vain.
            let kept = matches!(errno, libc::EBUSY | libc::ETIMEDOUT);
            assert!(kept && begun.elapsed() < PATIENCE, "process {at}: {text}");
        }
    }

    fn count(&mut self) -> u64 {
        1 + self.random.below(12)
    }

    /// One step; returns who used the volume last, if that is known.
    fn step(&mut self, weather: &Weather) -> Option<usize> {
        let one = self.random.below(PROCESSES) as usize;
        let other = self.other(one);
        let (count, more) = (self.count(), self.count());
        let most = weather.kills + weather.stops;
        match self.random.below(100) {
            n if n < weather.kills => {
                // While it works, or takes the volume, or gives it away.
                self.processes[one].send("run 500");
                let both = self.random.below(2) == 0;
                if both {
                    self.processes[other].send(&format!("run {more}"));
                }
                self.pause(Duration::from_millis(20));
                self.replace(one);
                if both && self.processes[other].answer().is_err() {
                    // It found somebody dead who was not given up yet.
                    self.run(other, 1);
                }
                self.run(other, more);
                Some(other)
            }
            n if n < most => {
                self.processes[one].send("run 60");
                self.pause(Duration::from_millis(15));
                self.processes[one].signal(libc::SIGSTOP);
                self.processes[other].send(&format!("run {more}"));
                self.pause(Duration::from_millis(60));
                if self.random.below(4) == 0 {
                    self.replace(one);
                } else {
                    self.processes[one].signal(libc::SIGCONT);
                    self.processes[one].answer().unwrap();
                }
                if self.processes[other].answer().is_err() {
                    self.run(other, 1);
                }
                None
            }
            n if n < most + 8 => {
                self.processes[one].send(&format!("run {count}"));
                self.processes[other].send(&format!("run {more}"));
                self.processes[one].answer().unwrap();
                self.processes[other].answer().unwrap();
                None
            }
            n if n < most + 11 => {
                // As Ganeti moves an instance.
                self.processes[other].ok("sharing closed");
                assert_eq!(self.processes[other].say("run 1"), Err(libc::EBUSY));
                self.run(one, count);
                self.processes[other].ok("sharing shared");
                self.processes[one].send(&format!("run {count}"));
                self.processes[other].send("run 1");
                self.processes[one].answer().unwrap();
                self.processes[other].answer().unwrap();
                self.processes[one].ok("flush");
                self.processes[one].ok("sharing closed");
                self.processes[other].ok("sharing exclusive");
                self.processes[other].ok(&format!("run {more}"));
                self.processes[one].ok("flush");
                self.processes[other].ok("sharing shared");
                self.processes[one].ok("sharing shared");
                Some(other)
            }
            n if n < most + 13 => {
                self.processes[one].send(&format!("run {count}"));
                self.snapshot();
                self.processes[one].answer().unwrap();
                None
            }
            n if n < most + 14 => {
                self.size += 64 << 10;
                self.store.resize(DISK, self.size, false).unwrap();
                for process in &mut self.processes {
                    assert_eq!(process.ok("size"), self.size.to_string());
                }
                None
            }
            _ => {
                self.run(one, count);
                Some(one)
            }
        }
    }

    fn snapshot(&mut self) {
        let name = format!("snap-{:06}", self.random.below(1_000_000));
        match self.store.snapshot(DISK, &name) {
            Ok(_) => self.store.remove(&name).unwrap(),
            // It went from hand to hand all the time.
            Err(Error::OpenElsewhere { .. } | Error::Exists(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Ends all, and reads what is there.
    fn end(mut self) -> History {
        for process in &mut self.processes {
            process.ok("close");
            let log = std::fs::read_to_string(&process.log).unwrap();
            self.history.read(process.number, &log);
        }
        let volume = self.store.open_volume(DISK, Mode::ReadWrite).unwrap();
        for slot in 0..SLOTS {
            let asked = now();
            let mut bytes = [0; 512];
            volume.read_at(&mut bytes, place(slot)).unwrap();
            let ended = Some((now(), Ok(value_of(&bytes))));
            let event = Event { process: 0, kind: Kind::Read, slot, value: 0, asked, held: Some(asked), ended };
            self.history.events.push(event);
        }
        self.history
    }
}

/// The median time to take an idle volume over and write to it, in microseconds.
fn measure(site: &mut Site) -> u64 {
    let mut times: Vec<u64> = (0..30).map(|n| site.processes[n % 2].ok("touch").parse().unwrap()).collect();
    // The first finds it anywhere.
    times.remove(0);
    times.sort_unstable();
    times[times.len() / 2]
}

fn storm(location: Option<Location>, weather: &Weather) {
    let wanted: u64 = std::env::var("ARCHIPELAGO_HANDOVERS").map_or(60, |n| n.parse().unwrap());
    let seed = seed("ARCHIPELAGO_HANDOVER_SEED");
    let mut site = Site::new(location, seed, weather);
    let median = measure(&mut site);
    println!("handover of an idle volume: {:.1} ms in the median", median as f64 / 1000.0);
    let (mut counted, mut last) = (0, None);
    let begun = Instant::now();
    while counted < wanted {
        let user = site.step(weather);
        counted += u64::from(user.is_some() && last.is_some() && user != last);
        last = user;
    }
    let history = site.end();
    let handovers = history.handovers();
    println!(
        "{handovers} handovers, {} kills, {} requests in {:.1} s",
        history.deaths.len(),
        history.events.len(),
        begun.elapsed().as_secs_f64()
    );
    if let Err(text) = history.check() {
        panic!("seed {seed}: {text}");
    }
    assert!(handovers as u64 >= counted, "{counted} were counted");
}

#[test]
fn no_write_is_lost_and_nobody_writes_twice_however_a_volume_changes_hands() {
    storm(None, &Weather { kills: 12, stops: 12, kills_lose: false });
}

/// A process that was killed is given up after 20 s or more there, so there are fewer kills.
#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn no_flushed_write_is_lost_and_nobody_writes_twice_in_a_cluster() {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let conf = std::env::var("ARCHIPELAGO_CEPH_CONF").expect("ARCHIPELAGO_CEPH_CONF is set, as make test-ceph does");
    let location = format!("rados:archipelago/handover-{since:x}?conf={conf}");
    storm(Some(location.parse().unwrap()), &Weather { kills: 2, stops: 6, kills_lose: true });
}
