//! The daemon's hasher: now and then gives snapshots that are no longer new the digests of their blocks, so that the collector
//! keeps once what they share, and a map can be made of them by digest.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use archipelago_core::store::content::HashOptions;
use archipelago_core::{Error, Kind, ListOptions, Store};
use tracing::error;

use crate::cli::exit::Failure;
use crate::tally::Tally;

/// Bytes read per second, unless the configuration says otherwise: a fraction of what one disk does.
pub const RATE: u64 = 16 << 20;
/// Seconds since it was taken after which a snapshot is hashed, unless the configuration says otherwise: a day. Many do not
/// live that long.
pub const AGE: u64 = 24 * 3600;
/// Longest time between two rounds: a year, so that deadlines can be computed.
const MAX_INTERVAL: u64 = 366 * 24 * 3600;
/// Snapshots that one round hashes; the rest is left to the next.
const MAX_ROUND: usize = 10_000;

/// How snapshots are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashPlan {
    /// Time between two rounds.
    pub interval: Duration,
    /// Bytes read per second.
    pub rate: u64,
    /// Seconds since it was taken after which a snapshot is hashed.
    pub age: u64,
}

impl HashPlan {
    /// With these seconds between two rounds; `None` for 0.
    pub fn new(interval: u64, rate: Option<u64>, age: Option<u64>) -> Option<HashPlan> {
        let interval = Duration::from_secs(interval.min(MAX_INTERVAL));
        (!interval.is_zero()).then(|| HashPlan { interval, rate: rate.unwrap_or(RATE), age: age.unwrap_or(AGE) })
    }
}

/// Hashes until it is dropped.
pub struct Hasher {
    stop: Arc<AtomicBool>,
    /// Wakes the thread when it is dropped.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hasher {
    /// Starts to hash; the first time after one interval.
    pub fn start(store: Store, plan: HashPlan, tally: Arc<Tally>) -> Result<Hasher, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let (wake, woken) = channel();
        let mut round = Round { store, plan, stop: stop.clone(), done: HashSet::new(), tally };
        let work = move || {
            while woken.recv_timeout(plan.interval) == Err(RecvTimeoutError::Timeout) {
                round.run();
            }
        };
        let thread = std::thread::Builder::new()
            .name("hasher".into())
            .spawn(work)
            .map_err(|e| Failure::host("start", "the hasher", e))?;
        Ok(Hasher { stop, wake: Some(wake), thread: Some(thread) })
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One round after the other.
struct Round {
    store: Store,
    plan: HashPlan,
    stop: Arc<AtomicBool>,
    /// Ids of snapshots that this process has hashed to their end. Another one walks them once, and reads nothing of them.
    done: HashSet<String>,
    tally: Arc<Tally>,
}

impl Round {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn run(&mut self) {
        self.tally.begin();
        let succeeded = self.hash_all();
        self.tally.end(succeeded);
    }

    /// Whether all that is due was hashed; `None` if it was stopped.
    fn hash_all(&mut self) -> Option<bool> {
        let due = match self.due(now()) {
            Ok(due) => due,
            Err(error) => {
                self.trouble(&format!("hashing: {error}"));
                return Some(false);
            }
        };
        let mut failed = false;
        let total = due.len() as u64;
        for (at, (_, name, id)) in due.into_iter().enumerate() {
            self.tally.progress(at as u64, total);
            if self.stopped() {
                break;
            }
            match self.hash(&name) {
                Ok(true) => {
                    self.done.insert(id);
                    self.tally.add(1, 0);
                }
                // Stopped, or removed meanwhile.
                Ok(false) | Err(Error::NotFound(_)) => {}
                Err(error) => {
                    failed = true;
                    self.trouble(&format!("hashing {name}: {error}"));
                }
            }
        }
        self.store.report_work("hasher", None);
        if !failed {
            self.store.report_trouble("hasher", None);
        }
        if self.stopped() { None } else { Some(!failed) }
    }

    /// Snapshots that are to be hashed, the oldest first: time, name, id.
    fn due(&mut self, now: u64) -> Result<BTreeSet<(u64, String, String)>, Error> {
        let (mut due, mut seen) = (BTreeSet::new(), HashSet::new());
        let mut options = ListOptions::default();
        loop {
            let page = self.store.list(&options)?;
            for info in page.entries {
                if info.kind != Kind::Snapshot {
                    continue;
                }
                if self.done.contains(&info.id) {
                    seen.insert(info.id);
                } else if now.saturating_sub(info.created) >= self.plan.age {
                    due.insert((info.created, info.name, info.id));
                    if due.len() > MAX_ROUND {
                        due.pop_last();
                    }
                }
            }
            match page.next {
                Some(next) if !self.stopped() => options.after = Some(next),
                _ => break,
            }
        }
        if !self.stopped() {
            // What was removed is remembered no longer.
            self.done = seen;
        }
        Ok(due)
    }

    /// Whether it came to the end.
    fn hash(&self, name: &str) -> Result<bool, Error> {
        let options = HashOptions { bytes_per_second: Some(self.plan.rate) };
        let mut shown = None;
        let hashed = self.store.hash(name, &options, &mut |progress| {
            let percent = progress.blocks.saturating_mul(100).checked_div(progress.total).unwrap_or(100);
            if shown.replace(percent) != Some(percent) {
                self.store.report_work("hasher", Some(format!("hashing {name}, {percent}%")));
            }
            !self.stopped()
        })?;
        Ok(hashed.top_hash.is_some())
    }

    fn trouble(&self, text: &str) {
        error!("{text}");
        self.store.report_trouble("hasher", Some(text.to_string()));
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use archipelago_core::{Background, CreateOptions, InitOptions, Location, Mode, StoreOptions};

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let at = Location::File(dir.path().join("store"));
        Store::init(&at, &InitOptions { block_size: 64 << 10, ..InitOptions::default() }).unwrap();
        let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
        (dir, Store::open(&at, options).unwrap())
    }

    fn round(store: &Store, age: u64) -> Round {
        let plan = HashPlan { interval: Duration::from_secs(1), rate: 1 << 40, age };
        Round { store: store.clone(), plan, stop: Arc::default(), done: HashSet::new(), tally: Arc::default() }
    }

    fn snapshots(store: &Store, count: u64) {
        store.create("disk-1", &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
        let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
        for n in 0..count {
            volume.write_at(&[n as u8 + 1; 64 << 10], n << 16).unwrap();
            volume.snapshot(&format!("snap-{n}")).unwrap();
        }
        volume.close().unwrap();
    }

    fn is_hashed(store: &Store, name: &str) -> bool {
        store.digests(name, &mut |_| Ok(())).is_ok()
    }

    #[test]
    fn old_snapshots_are_hashed_once_and_new_ones_and_volumes_are_not() {
        let (_dir, store) = store();
        snapshots(&store, 3);
        let mut young = round(&store, 3600);
        young.run();
        assert!(young.done.is_empty() && !is_hashed(&store, "snap-0"));
        let mut round = round(&store, 0);
        round.run();
        assert_eq!(round.done.len(), 3);
        assert!((0..3).all(|n| is_hashed(&store, &format!("snap-{n}"))));
        assert_eq!(round.due(now()).unwrap().len(), 0);
        // What is gone is forgotten, what is new is next.
        store.remove("snap-0").unwrap();
        store.snapshot("disk-1", "snap-9").unwrap();
        assert_eq!(round.due(now()).unwrap().len(), 1);
        assert_eq!(round.done.len(), 2);
    }

    #[test]
    fn the_oldest_come_first_and_no_more_than_a_round_takes() {
        let (_dir, store) = store();
        snapshots(&store, 4);
        let due = round(&store, 0).due(now()).unwrap();
        assert!(due.iter().map(|(created, _, _)| created).is_sorted());
        assert_eq!(due.len(), 4);
    }

    #[test]
    fn a_hasher_that_is_asked_to_stop_stops_in_the_middle() {
        let (_dir, store) = store();
        snapshots(&store, 2);
        let mut round = round(&store, 0);
        round.stop.store(true, Ordering::Relaxed);
        round.run();
        assert!(round.done.is_empty() && !is_hashed(&store, "snap-0"));
        // At a byte per second it would sleep for hours.
        let plan = HashPlan { interval: Duration::from_millis(1), rate: 1, age: 0 };
        let hasher = Hasher::start(store.clone(), plan, Arc::default()).unwrap();
        while store.status().unwrap().work.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(hasher);
        assert!(!is_hashed(&store, "snap-1"));
        assert!(store.status().unwrap().work.is_empty(), "it says no longer what it does");
    }

    #[test]
    fn trouble_is_reported_until_a_round_succeeds() {
        let (_dir, store) = store();
        snapshots(&store, 2);
        let mut round = round(&store, 0);
        store.report_trouble("hasher", Some("an old story".into()));
        assert_eq!(store.status().unwrap().trouble, Some("an old story".into()));
        round.run();
        assert_eq!(store.status().unwrap().trouble, None);
    }

    #[test]
    fn no_interval_is_no_hasher() {
        assert_eq!(HashPlan::new(0, None, None), None);
        let plan = HashPlan::new(u64::MAX, Some(5), Some(6)).unwrap();
        assert_eq!((plan.interval, plan.rate, plan.age), (Duration::from_secs(MAX_INTERVAL), 5, 6));
        assert_eq!(HashPlan::new(1, None, None).map(|plan| (plan.rate, plan.age)), Some((RATE, AGE)));
    }
}
