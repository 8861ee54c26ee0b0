//! What a server measures and limits, disk by disk, and the questions about it that other processes ask (docs/control.md).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago_core::{Error, Result, Sharing};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::device::DeviceResult;
use super::limiter::{Limiter, Limits};
use super::limits::{MAX_LIMITED, MAX_MEASURED};
use super::meter::{Counted, Kind, Meter};
use super::slow::{Slow, SlowLog};

/// What a server is told of limits, slow requests and other servers when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Limits by name of volume.
    pub limits: HashMap<String, Limits>,
    /// Limits of volumes without their own.
    pub default: Limits,
    /// From how long on a request is slow; zero for never.
    pub slow: Duration,
    /// How the server stands to volumes that other processes may have; without, it has those that it serves, and keeps them.
    pub standby: Option<Sharing>,
}

/// What is measured and limited of one open disk, for all of its connections.
pub struct Gauge {
    /// Name when it was opened.
    name: String,
    meter: Meter,
    limiter: Limiter,
    slow: Arc<SlowLog>,
}

impl Gauge {
    /// Carries out a request, and counts it.
    pub fn measure<T>(
        &self,
        kind: Kind,
        offset: u64,
        len: u64,
        run: impl FnOnce() -> DeviceResult<T>,
    ) -> DeviceResult<T> {
        let (result, took) = self.meter.timed(kind, len, run);
        if self.slow.is_slow(took) {
            self.slow.note(&self.name, kind, offset, len, took);
        }
        result
    }

    /// Counts a request that was carried out otherwise.
    pub fn ended(&self, kind: Kind, offset: u64, len: u64, took: Duration, done: bool) {
        self.meter.count(kind, len, took, done);
        if self.slow.is_slow(took) {
            self.slow.note(&self.name, kind, offset, len, took);
        }
    }

    /// See [`Limiter::limited`].
    pub fn limited(&self) -> bool {
        self.limiter.limited()
    }

    /// See [`Limiter::wait`].
    pub fn wait(&self, bytes: u64, gone: &dyn Fn() -> bool) {
        self.limiter.wait(bytes, gone);
    }
}

/// A question of another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// What was counted so far.
    Statistics,
    /// What the limits of a volume are.
    Limits {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// Give a volume other limits, until the server ends.
    SetLimits {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// Which.
        limits: Limits,
    },
}

/// What was counted of one open disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Its id.
    pub id: String,
    /// Its name when it was opened.
    pub name: String,
    /// Its limits.
    pub limits: Limits,
    /// Requests that wait for a limit.
    pub waiting: u64,
    /// Time that requests waited for it together, in nanoseconds.
    pub waited: u64,
    /// Requests, by kind.
    pub counted: Vec<Counted>,
}

/// The answer to [`Question::Statistics`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Since when the server counts, in nanoseconds: two answers are this far apart.
    pub age: u64,
    /// Open disks, by id; not all if there are very many.
    pub disks: Vec<Measured>,
    /// Open disks that are not among them.
    pub more: u64,
    /// The last slow requests, the latest last.
    pub slow: Vec<Slow>,
    /// Slow requests in all.
    pub slow_seen: u64,
}

/// The gauges of a server.
pub struct Gauges {
    begin: Instant,
    slow: Arc<SlowLog>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    policy: Policy,
    /// Of open disks, by id.
    open: HashMap<String, Arc<Gauge>>,
    /// Limits that were set since the server began, by id.
    set: HashMap<String, Limits>,
    stopped: bool,
}

impl Gauges {
    /// No disks yet.
    pub fn new(policy: Policy) -> Gauges {
        let slow = Arc::new(SlowLog::new(policy.slow));
        Gauges { begin: Instant::now(), slow, table: Mutex::new(Table { policy, ..Table::default() }) }
    }

    /// The gauge of a disk that is being opened.
    pub fn open(&self, id: &str, name: &str) -> Arc<Gauge> {
        let mut table = self.table.lock();
        if let Some(gauge) = table.open.get(id) {
            return gauge.clone();
        }
        let limits = limits_of(&table, id, name);
        let limiter = Limiter::new(limits);
        if table.stopped {
            limiter.stop();
        }
        let gauge =
            Arc::new(Gauge { name: name.to_string(), meter: Meter::default(), limiter, slow: self.slow.clone() });
        table.open.insert(id.to_string(), gauge.clone());
        gauge
    }

    /// A disk was closed; what was counted of it is forgotten, limits that were set are not.
    pub fn close(&self, id: &str) {
        self.table.lock().open.remove(id);
    }

    /// What the server is told anew, for disks that are open as well. Limits that were set by [`Question::SetLimits`] stay.
    pub fn set_policy(&self, policy: Policy) {
        self.slow.set_threshold(policy.slow);
        let mut table = self.table.lock();
        table.policy = policy;
        for (id, gauge) in &table.open {
            let limits = limits_of(&table, id, &gauge.name);
            if gauge.limiter.limits() != limits {
                gauge.limiter.set(limits);
            }
        }
    }

    /// Ends every wait for a limit, of now and later: the server stops.
    pub fn stop(&self) {
        let mut table = self.table.lock();
        table.stopped = true;
        table.open.values().for_each(|gauge| gauge.limiter.stop());
    }

    /// How to stand to volumes to begin with, if for them at all.
    pub fn standby(&self) -> Option<Sharing> {
        self.table.lock().policy.standby
    }

    /// Answers a question of another process.
    pub fn answer(&self, question: &Value) -> Result<Value> {
        let unclear = |e: serde_json::Error| Error::Unsupported(format!("a question that is not understood: {e}"));
        let answer = match Question::deserialize(question).map_err(unclear)? {
            Question::Statistics => serde_json::to_value(self.statistics()),
            Question::Limits { id, name } => serde_json::to_value(limits_of(&self.table.lock(), &id, &name)),
            Question::SetLimits { id, name, limits } => {
                self.set_limits(&id, &name, limits)?;
                serde_json::to_value(limits)
            }
        };
        answer.map_err(unclear)
    }

    fn set_limits(&self, id: &str, name: &str, limits: Limits) -> Result<()> {
        let mut table = self.table.lock();
        if table.set.len() >= MAX_LIMITED && !table.set.contains_key(id) {
            return Err(Error::TooBusy(format!("{name}: limits were set for {MAX_LIMITED} volumes")));
        }
        table.set.insert(id.to_string(), limits);
        if let Some(gauge) = table.open.get(id) {
            gauge.limiter.set(limits);
        }
        Ok(())
    }

    /// What was counted so far.
    pub fn statistics(&self) -> Statistics {
        let mut open: Vec<_> = self.table.lock().open.iter().map(|(id, gauge)| (id.clone(), gauge.clone())).collect();
        open.sort_by(|a, b| a.0.cmp(&b.0));
        let more = open.len().saturating_sub(MAX_MEASURED) as u64;
        open.truncate(MAX_MEASURED);
        let measured = |(id, gauge): (String, Arc<Gauge>)| Measured {
            id,
            name: gauge.name.clone(),
            limits: gauge.limiter.limits(),
            waiting: gauge.limiter.waiting(),
            waited: gauge.limiter.waited(),
            counted: gauge.meter.read(),
        };
        let age = u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (slow, slow_seen) = self.slow.read();
        Statistics { age, disks: open.into_iter().map(measured).collect(), more, slow, slow_seen }
    }
}

/// What was set for a volume, or else what the policy says.
fn limits_of(table: &Table, id: &str, name: &str) -> Limits {
    let set = table.set.get(id).or_else(|| table.policy.limits.get(name));
    set.copied().unwrap_or(table.policy.default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::device::Errno;
    use serde_json::json;

    const FEW: Limits = Limits { iops: 7, iops_burst: 0, bps: 0, bps_burst: 0 };

    fn gauges() -> Gauges {
        let limits = HashMap::from([("disk-1".to_string(), FEW)]);
        Gauges::new(Policy { limits, slow: Duration::from_nanos(1), ..Policy::default() })
    }

    #[test]
    fn limits_come_from_what_was_set_then_the_policy() {
        let gauges = gauges();
        let ask = |question: Value| gauges.answer(&question).unwrap();
        assert!(gauges.open("01", "disk-1").limited() && !gauges.open("02", "disk-2").limited());
        let limits = json!({ "limits": { "id": "02", "name": "disk-2" } });
        assert_eq!(ask(limits.clone()), json!(Limits::default()));
        ask(json!({ "set_limits": { "id": "02", "name": "disk-2", "limits": { "bps": 5 } } }));
        assert_eq!(ask(limits)["bps"], 5);
        assert!(gauges.open("02", "disk-2").limited());
        // Closed and opened again, it keeps what was set; without limits, it has none whatever the policy says.
        gauges.close("02");
        assert!(gauges.open("02", "disk-2").limited());
        ask(json!({ "set_limits": { "id": "01", "name": "disk-1", "limits": {} } }));
        assert!(!gauges.open("01", "disk-1").limited());
    }

    #[test]
    fn another_policy_holds_for_open_disks_but_not_over_what_was_set() {
        let gauges = gauges();
        let (first, second) = (gauges.open("01", "disk-1"), gauges.open("02", "disk-2"));
        gauges.answer(&json!({ "set_limits": { "id": "01", "name": "disk-1", "limits": { "bps": 5 } } })).unwrap();
        gauges.set_policy(Policy { default: FEW, ..Policy::default() });
        assert_eq!((first.limiter.limits().bps, second.limiter.limits()), (5, FEW));
        assert!(!second.slow.is_slow(Duration::from_secs(9)));
        gauges.set_policy(Policy { slow: Duration::from_secs(1), ..Policy::default() });
        assert!(first.limited() && !second.limited() && second.slow.is_slow(Duration::from_secs(9)));
    }

    #[test]
    fn statistics_have_every_open_disk_and_its_slow_requests() {
        let gauges = gauges();
        let gauge = gauges.open("02", "disk-2");
        gauges.open("01", "disk-1");
        assert_eq!(gauge.measure(Kind::Write, 512, 4096, || Ok(5)), Ok(5));
        assert_eq!(gauge.measure(Kind::Read, 0, 4096, || Err::<(), _>(Errno(libc::EIO))), Err(Errno(libc::EIO)));
        let answer = gauges.answer(&json!("statistics")).unwrap();
        let found: Statistics = serde_json::from_value(answer).unwrap();
        assert_eq!(found.disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["disk-1", "disk-2"]);
        let counted = &found.disks[1].counted;
        assert_eq!((counted[0].errors, counted[0].bytes, counted[1].requests, counted[1].bytes), (1, 0, 1, 4096));
        assert_eq!((found.slow_seen, found.slow[0].offset, found.slow[0].kind), (2, 512, Kind::Write));
        gauges.close("02");
        assert_eq!(gauges.statistics().disks.len(), 1);
    }

    #[test]
    fn questions_that_are_not_understood_are_refused() {
        for question in [
            json!("doctor"),
            json!(1),
            json!({ "limits": { "id": "01" } }),
            json!({ "set_limits": { "id": "1", "name": "n", "limits": { "x": 1 } } }),
        ] {
            assert!(matches!(gauges().answer(&question), Err(Error::Unsupported(_))), "{question}");
        }
    }

    #[test]
    fn a_full_answer_fits_into_a_frame() {
        let gauges = gauges();
        for n in 0..MAX_MEASURED + 3 {
            let gauge = gauges.open(&format!("{n:016x}"), &format!("{n:0>82}"));
            for kind in crate::disk::meter::KINDS {
                for power in 0..60 {
                    gauge.meter.count(kind, 1 << 60, Duration::from_nanos(1 << power), true);
                    gauge.meter.count(kind, 1 << 60, Duration::from_nanos((1 << power) + (1 << power) / 2), true);
                }
            }
        }
        let statistics = gauges.statistics();
        assert_eq!((statistics.disks.len(), statistics.more), (MAX_MEASURED, 3));
        let bytes = serde_json::to_vec(&statistics).unwrap().len();
        assert!(bytes < archipelago_core::limits::MAX_CONTROL_MESSAGE, "{bytes}");
    }
}
