//! Which figures there are, and what they are called. `docs/operations.md` lists them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use archipelago_core::{Store, VolumeFigures, time};

use super::process::Process;
use super::space::Room;
use super::text::{Kind, Label, Text, seconds};
use crate::disk::gauges::Statistics;
use crate::disk::meter::{Counted, Kind as Request, bucket};
use crate::disk::volumes::StoreExports;
use crate::nbd::limits::MAX_CONNECTIONS;
use crate::tally::Tally;

/// Ends of the buckets of a histogram, as powers of two of nanoseconds: 16 us to 17 s, each four times the one before. They are ends of buckets of a
/// meter too, so that nothing is guessed.
const BOUNDS: [u32; 11] = [14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34];

/// What the background jobs of a daemon have done.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    /// Collection.
    pub collector: Arc<Tally>,
    /// Scrubbing.
    pub scrubber: Arc<Tally>,
    /// Hashing.
    pub hasher: Arc<Tally>,
}

/// How readings of the configuration went.
#[derive(Debug, Default)]
pub struct Reloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// Whether the last one failed: 1.
    refused: AtomicU64,
    /// When one last succeeded, the first at the start, in seconds since 1970.
    at: AtomicU64,
}

impl Reloads {
    /// The daemon starts.
    pub fn new() -> Reloads {
        Reloads { at: AtomicU64::new(time::now()), ..Reloads::default() }
    }

    /// One more.
    pub fn count(&self, succeeded: bool) {
        self.refused.store(u64::from(!succeeded), Ordering::Relaxed);
        if succeeded {
            self.succeeded.fetch_add(1, Ordering::Relaxed);
            self.at.store(time::now(), Ordering::Relaxed);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How many clients there are now.
pub type Census = dyn Fn() -> usize + Send + Sync;

/// Where the figures of a page come from.
pub struct Sources {
    /// The store.
    pub store: Store,
    /// By what it is kept, as a word.
    pub backend: &'static str,
    /// What is served.
    pub exports: Arc<StoreExports>,
    /// Connections over NBD.
    pub nbd: Box<Census>,
    /// Virtual machines.
    pub vhost_user: Box<Census>,
    /// Background jobs.
    pub jobs: Jobs,
    /// Readings of the configuration.
    pub reloads: Arc<Reloads>,
}

/// What is answered.
pub struct Page {
    sources: Sources,
    room: Room,
    /// When the daemon started, in seconds since 1970.
    started: u64,
}

impl Page {
    /// Of these sources.
    pub fn new(sources: Sources) -> Page {
        let room = Room::new(sources.store.clone());
        Page { sources, room, started: time::now() }
    }

    /// The page as of now.
    pub fn write(&self) -> String {
        let mut text = Text::default();
        self.daemon(&mut text);
        self.store(&mut text);
        let statistics = self.sources.exports.gauges().statistics();
        let figures = self.sources.store.figures();
        volumes(&mut text, &statistics, &figures.volumes);
        gauge(&mut text, "archipelago_node_cache_bytes", "Memory that nodes of maps take.", figures.cache.bytes);
        gauge(&mut text, "archipelago_node_cache_limit_bytes", "Most memory that they take.", figures.cache.limit);
        gauge(&mut text, "archipelago_node_cache_nodes", "Nodes in memory.", figures.cache.nodes);
        let help = "Nodes that were not in memory and were read.";
        counter(&mut text, "archipelago_node_cache_reads_total", help, figures.cache.reads);
        self.jobs(&mut text);
        text.finish()
    }

    fn daemon(&self, text: &mut Text) {
        text.family("archipelago_build_info", Kind::Gauge, "The version of the program; always 1.");
        text.whole("archipelago_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        gauge(text, "process_start_time_seconds", "When the process started, since 1970.", self.started);
        let process = Process::read();
        if let Some(nanos) = process.cpu_nanos {
            text.family("process_cpu_seconds_total", Kind::Counter, "Time on processors.");
            text.seconds("process_cpu_seconds_total", &[], nanos);
        }
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Memory in use.", process.resident),
            ("process_open_fds", "Open descriptors.", process.descriptors),
            ("process_threads", "Threads.", process.threads),
        ] {
            if let Some(value) = value {
                gauge(text, name, help, value);
            }
        }
        text.family("archipelago_connections", Kind::Gauge, "Clients that are connected.");
        text.whole("archipelago_connections", &[("endpoint", "nbd")], (self.sources.nbd)() as u64);
        text.whole("archipelago_connections", &[("endpoint", "vhost_user")], (self.sources.vhost_user)() as u64);
        let help = "Clients of NBD that are served at once.";
        gauge(text, "archipelago_nbd_connections_limit", help, MAX_CONNECTIONS as u64);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        text.family(
            "archipelago_config_reloads_total",
            Kind::Counter,
            "Readings of the configuration after the start.",
        );
        for (result, counter) in
            [("success", &self.sources.reloads.succeeded), ("failure", &self.sources.reloads.failed)]
        {
            text.whole("archipelago_config_reloads_total", &[("result", result)], load(counter));
        }
        let help = "Whether the last reading of the configuration was taken over.";
        gauge(text, "archipelago_config_last_reload_successful", help, 1 - load(&self.sources.reloads.refused));
        let help = "When one last was, since 1970.";
        let at = load(&self.sources.reloads.at);
        gauge(text, "archipelago_config_last_reload_success_timestamp_seconds", help, at);
    }

    fn store(&self, text: &mut Text) {
        text.family("archipelago_store_info", Kind::Gauge, "Which store this is; always 1.");
        let uuid = self.sources.store.uuid();
        text.whole("archipelago_store_info", &[("backend", self.sources.backend), ("uuid", &uuid)], 1);
        let room = self.room.read();
        let help = "Whether the backend said within 15 seconds how much room there is.";
        gauge(text, "archipelago_store_up", help, u64::from(room.is_some()));
        if let Some(room) = room {
            gauge(text, "archipelago_store_size_bytes", "Room of the backend.", room.total);
            gauge(text, "archipelago_store_free_bytes", "What is left of it.", room.free);
        }
    }

    fn jobs(&self, text: &mut Text) {
        let jobs = [
            ("collector", &self.sources.jobs.collector),
            ("scrubber", &self.sources.jobs.scrubber),
            ("hasher", &self.sources.jobs.hasher),
        ];
        let jobs = jobs.map(|(name, tally)| (name, tally.read()));
        let mut family = |name: &str, kind, help: &str, value: &dyn Fn(&crate::tally::Reading) -> u64| {
            text.family(name, kind, help);
            jobs.iter().for_each(|(job, reading)| text.whole(name, &[("job", job)], value(reading)));
        };
        family("archipelago_job_running", Kind::Gauge, "Whether a background job is at work.", &|j| {
            u64::from(j.running)
        });
        family("archipelago_job_runs_total", Kind::Counter, "Runs that ended.", &|j| j.runs);
        family("archipelago_job_failures_total", Kind::Counter, "Of these, runs that failed.", &|j| j.failures);
        let name = "archipelago_job_last_success_timestamp_seconds";
        family(name, Kind::Gauge, "When a run last succeeded, since 1970; 0 for never.", &|j| j.succeeded);
        text.family(
            "archipelago_job_progress_ratio",
            Kind::Gauge,
            "How far the run is that is under way; otherwise 0.",
        );
        for (job, reading) in &jobs {
            text.ratio("archipelago_job_progress_ratio", &[("job", job)], reading.progress);
        }
        let [(_, collector), (_, scrubber), (_, hasher)] = jobs;
        let help = "Objects that collections removed.";
        counter(text, "archipelago_collected_objects_total", help, collector.objects);
        counter(text, "archipelago_collected_bytes_total", "Bytes that collections freed.", collector.bytes);
        counter(text, "archipelago_scrubbed_bytes_total", "Bytes that scrubs read.", scrubber.bytes);
        let help = "Bytes that the last whole scrub found to be not what was written.";
        gauge(text, "archipelago_scrub_damaged_bytes", help, scrubber.damaged);
        counter(text, "archipelago_hashed_snapshots_total", "Snapshots that were hashed.", hasher.objects);
    }
}

fn gauge(text: &mut Text, name: &str, help: &str, value: u64) {
    text.family(name, Kind::Gauge, help);
    text.whole(name, &[], value);
}

fn counter(text: &mut Text, name: &str, help: &str, value: u64) {
    text.family(name, Kind::Counter, help);
    text.whole(name, &[], value);
}

/// What is counted of each disk that is open.
fn volumes(text: &mut Text, statistics: &Statistics, figures: &[VolumeFigures]) {
    let disks = &statistics.disks;
    gauge(text, "archipelago_volumes_open", "Disks that clients have open.", disks.len() as u64 + statistics.more);
    let help = "Of these, disks that are not told of below, so that a page stays small.";
    gauge(text, "archipelago_volumes_left_out", help, statistics.more);
    counter(text, "archipelago_slow_requests_total", "Requests that took long.", statistics.slow_seen);

    let counted = |each: &mut dyn FnMut(&[Label<'_>], &Counted)| {
        for disk in disks {
            for counted in &disk.counted {
                each(&[("volume", &disk.name), ("id", &disk.id), ("op", word(counted.kind))], counted);
            }
        }
    };
    let name = "archipelago_volume_request_duration_seconds";
    text.family(name, Kind::Histogram, "How long requests took, without what they waited for a limit.");
    counted(&mut |labels, counted| histogram(text, name, labels, counted));
    let name = "archipelago_volume_bytes_total";
    text.family(name, Kind::Counter, "Bytes of requests that did not fail.");
    counted(&mut |labels, counted| text.whole(name, labels, counted.bytes));
    let name = "archipelago_volume_errors_total";
    text.family(name, Kind::Counter, "Requests that failed.");
    counted(&mut |labels, counted| text.whole(name, labels, counted.errors));

    let name = "archipelago_volume_limit_waiting_requests";
    text.family(name, Kind::Gauge, "Requests that wait for a limit now.");
    for disk in disks {
        text.whole(name, &[("volume", &disk.name), ("id", &disk.id)], disk.waiting);
    }
    let name = "archipelago_volume_limit_wait_seconds_total";
    text.family(name, Kind::Counter, "Time that requests waited for a limit.");
    for disk in disks {
        text.seconds(name, &[("volume", &disk.name), ("id", &disk.id)], disk.waited);
    }

    let figures: HashMap<&str, &VolumeFigures> = figures.iter().map(|figures| (figures.id.as_str(), figures)).collect();
    let of = |id: &str| figures.get(id).copied();
    let name = "archipelago_volume_journal_bytes";
    text.family(name, Kind::Gauge, "Bytes of the journal that wait to be folded into the map.");
    for (disk, figures) in disks.iter().filter_map(|disk| Some((disk, of(&disk.id)?))) {
        text.whole(name, &[("volume", &disk.name), ("id", &disk.id)], figures.unfolded);
    }
    let name = "archipelago_volume_folds_waiting";
    text.family(name, Kind::Gauge, "Maps of snapshots that wait to be folded.");
    for (disk, figures) in disks.iter().filter_map(|disk| Some((disk, of(&disk.id)?))) {
        text.whole(name, &[("volume", &disk.name), ("id", &disk.id)], figures.folds);
    }
}

fn word(kind: Request) -> &'static str {
    match kind {
        Request::Read => "read",
        Request::Write => "write",
        Request::Flush => "flush",
        Request::Zero => "zero",
    }
}

/// The samples of one histogram. Counters are read while others count, so the buckets say how many there are: a page is never at odds with itself.
fn histogram(text: &mut Text, name: &str, labels: &[Label<'_>], counted: &Counted) {
    let bounds = BOUNDS.map(|power| (seconds(1 << power), bucket(1 << power)));
    let bucket_name = format!("{name}_bucket");
    let of = |bound| [labels, &[("le", bound)]].concat();
    for (bound, end) in &bounds {
        let within = counted.buckets.iter().filter(|(at, _)| (*at as usize) < *end).map(|(_, count)| count).sum();
        text.whole(&bucket_name, &of(bound), within);
    }
    let all = counted.buckets.iter().map(|(_, count)| count).sum();
    text.whole(&bucket_name, &of("+Inf"), all);
    text.seconds(&format!("{name}_sum"), labels, counted.nanos);
    text.whole(&format!("{name}_count"), labels, all);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::meter::{Meter, upper};
    use std::time::Duration;

    #[test]
    fn the_ends_of_buckets_are_ends_of_buckets_of_a_meter() {
        for power in BOUNDS {
            assert_eq!(upper(bucket(1 << power) - 1), 1 << power);
        }
    }

    #[test]
    fn a_histogram_counts_what_is_within_each_bound() {
        let meter = Meter::default();
        for nanos in [1, (1 << 14) - 1, 1 << 14, 1_000_000, 60_000_000_000] {
            meter.count(Request::Read, 1, Duration::from_nanos(nanos), true);
        }
        let mut text = Text::default();
        histogram(&mut text, "a", &[("op", "read")], &meter.read()[0]);
        let text = text.finish();
        for line in [
            "a_bucket{op=\"read\",le=\"0.000016384\"} 2",
            "a_bucket{op=\"read\",le=\"0.000065536\"} 3",
            "a_bucket{op=\"read\",le=\"0.001048576\"} 4",
            "a_bucket{op=\"read\",le=\"17.179869184\"} 4",
            "a_bucket{op=\"read\",le=\"+Inf\"} 5",
            "a_sum{op=\"read\"} 60.001032768",
            "a_count{op=\"read\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
