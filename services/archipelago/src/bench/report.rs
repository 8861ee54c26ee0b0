//! What a run comes to, for people and for scripts.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::args::{Op, Verify};
use super::plan::{Kind, Objects, Plan};
use super::record::{Stage, Tally};
use super::run::{End, Measured};
use crate::cli::size::human;

/// Units of bandwidth, each 1024 of the one before.
const UNITS: [&str; 4] = ["B/s", "KB/s", "MB/s", "GB/s"];

/// A run, as scripts see it.
#[derive(Debug, Serialize)]
pub struct Report {
    target: String,
    op: String,
    pattern: String,
    verify: String,
    seed: u32,
    objects: u64,
    object_size: Option<u64>,
    request_size: Option<u64>,
    depth: usize,
    end: &'static str,
    /// Of a run that has a last request.
    total: Option<u64>,
    submitted: u64,
    received: u64,
    failed: u64,
    corrupted: Option<u64>,
    wrong: Vec<Wrong>,
    seconds: f64,
    flush_seconds: Option<f64>,
    iops: f64,
    bytes_per_second: Option<f64>,
    kinds: Vec<KindReport>,
    stages: Stages,
    stalls: Option<Stalls>,
    cpu: Cpu,
    copies: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Wrong {
    object: String,
    offset: u64,
}

/// Requests of one kind.
#[derive(Debug, Serialize)]
struct KindReport {
    kind: &'static str,
    received: u64,
    failed: u64,
    bytes: u64,
    iops: f64,
    bytes_per_second: Option<f64>,
    latency: Option<Latency>,
}

/// Nanoseconds.
#[derive(Debug, Serialize)]
struct Latency {
    mean: u64,
    p50: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
}

/// Mean nanoseconds; null for what was not timed.
#[derive(Debug, Serialize)]
struct Stages {
    get: Option<u64>,
    submit: Option<u64>,
    receive: Option<u64>,
    check: Option<u64>,
}

/// Writes that the engine did not admit.
#[derive(Debug, Serialize)]
struct Stalls {
    count: u64,
    /// Nanoseconds, since the volume was opened.
    longest: u64,
}

/// Processor time.
#[derive(Debug, Serialize)]
struct Cpu {
    seconds: f64,
    server_seconds: Option<f64>,
    /// Nanoseconds, both together.
    per_request: Option<u64>,
}

impl Report {
    /// Of a run of a plan.
    pub fn new(plan: &Plan, target: String, copies: Option<u32>, measured: &Measured) -> Report {
        let record = &measured.record;
        let seconds = measured.time.as_secs_f64().max(f64::MIN_POSITIVE);
        let moves_bytes = !matches!(plan.op, Op::Info | Op::Delete);
        let per_second = |n: u64| n as f64 / seconds;
        let kinds = Kind::ALL.into_iter().filter(|kind| record.of(*kind).received > 0).map(|kind| {
            let tally = record.of(kind);
            KindReport {
                kind: kind.word(),
                received: tally.received,
                failed: tally.failed,
                bytes: tally.bytes,
                iops: per_second(tally.received),
                bytes_per_second: kind.moves_bytes().then(|| per_second(tally.bytes)),
                latency: latency(tally),
            }
        });
        let nanos = |stage: Stage| stage.mean().map(|time| time.as_nanos() as u64);
        let stages = &record.stages;
        let stalls = measured.stalls.filter(|stalls| stalls.count > 0);
        let both = measured.own + measured.server.unwrap_or_default();
        Report {
            target,
            op: word(&plan.op),
            pattern: word(&plan.pattern),
            verify: word(&plan.verify),
            seed: plan.seed,
            objects: plan.count,
            object_size: moves_bytes.then_some(plan.object_size),
            request_size: moves_bytes.then_some(plan.request_size),
            depth: plan.depth,
            end: match measured.end {
                End::All => "all",
                End::Time => "time",
                End::Stopped(_) => "stopped",
                End::Broken(_) => "broken",
            },
            total: plan.runtime.is_none().then_some(plan.requests),
            submitted: record.submitted,
            received: record.received(),
            failed: record.failed(),
            corrupted: (plan.verify != Verify::No).then_some(record.corrupted),
            wrong: record.wrong.iter().map(|(request, at)| wrong(plan, request.object, request.offset, *at)).collect(),
            seconds,
            flush_seconds: measured.flush.map(|time| time.as_secs_f64()),
            iops: per_second(record.received()),
            bytes_per_second: moves_bytes.then(|| per_second(record.bytes())),
            kinds: kinds.collect(),
            stages: Stages {
                get: nanos(stages.get),
                submit: nanos(stages.submit),
                receive: nanos(stages.receive),
                check: nanos(stages.check),
            },
            stalls: stalls.map(|stalls| Stalls { count: stalls.count, longest: stalls.longest.as_nanos() as u64 }),
            cpu: Cpu {
                seconds: measured.own.as_secs_f64(),
                server_seconds: measured.server.map(|time| time.as_secs_f64()),
                per_request: u64::try_from(both.as_nanos()).ok().and_then(|n| n.checked_div(record.received())),
            },
            copies,
        }
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.title()];
        let mut line = |title: &str, text: String| lines.push(format!("{:<22}{text}", format!("{title}:")));
        let total = self.total.map_or_else(|| "over and over".into(), |n| n.to_string());
        line(
            "Requests",
            format!("{total}, {} submitted, {} received, {} failed", self.submitted, self.received, self.failed),
        );
        if let Some(corrupted) = self.corrupted {
            line("Corrupted", corrupted.to_string());
        }
        for wrong in &self.wrong {
            line("Wrong data", format!("{} at byte {}", wrong.object, wrong.offset));
        }
        match self.total.map(|total| total - self.received) {
            Some(0) => line("Remaining", "All requests have been served.".into()),
            Some(n) => line("Remaining", n.to_string()),
            None if self.end == "time" => line("Remaining", "The time is over.".into()),
            None => {}
        }
        line("Total time", exact(Duration::from_secs_f64(self.seconds)));
        if let Some(flush) = self.flush_seconds {
            line("Flush after it", exact(Duration::from_secs_f64(flush)));
        }
        for kind in &self.kinds {
            let named =
                |title: &str| if self.kinds.len() > 1 { format!("{title} ({})", kind.kind) } else { title.into() };
            if let Some(latency) = &kind.latency {
                line(&named("Avg. latency"), exact(Duration::from_nanos(latency.mean)));
                let micros = |nanos: u64| format!("{:.1} us", nanos as f64 / 1e3);
                let [p50, p99, p99_9, max] = [latency.p50, latency.p99, latency.p99_9, latency.max].map(micros);
                line(&named("Latency"), format!("p50 {p50}, p99 {p99}, p99.9 {p99_9}, longest {max}"));
            }
            if kind.bytes_per_second.is_some() {
                line(&named("Bandwidth"), rate(kind.bytes, Duration::from_secs_f64(self.seconds)));
            }
            line(&named("IOPS"), format!("{:.3}", kind.iops));
        }
        self.costs(&mut line);
        lines
    }

    fn costs(&self, line: &mut dyn FnMut(&str, String)) {
        let micros = |nanos: u64| format!("{:.2} us", nanos as f64 / 1e3);
        let Stages { get, submit, receive, check } = self.stages;
        let stages = [("get", get), ("submit", submit), ("receive", receive), ("check", check)];
        let timed: Vec<String> =
            stages.into_iter().filter_map(|(name, nanos)| Some(format!("{name} {}", micros(nanos?)))).collect();
        if timed.len() > 1 {
            line("Stages", timed.join(", "));
        }
        if let Some(stalls) = &self.stalls {
            let longest = micros(stalls.longest);
            line("Writes held back", format!("{} times, at most {longest}", stalls.count));
        }
        if let Some(nanos) = self.cpu.per_request {
            let of = if self.cpu.server_seconds.is_some() { " with its server's" } else { "" };
            line("Processor time", format!("{} for each request{of}", micros(nanos)));
        }
        if let Some(copies) = self.copies {
            line("Copies", format!("{copies} for each request"));
        }
    }

    fn title(&self) -> String {
        let Report { op, target, pattern, seed, .. } = self;
        let objects = if self.objects == 1 { "1 object".into() } else { format!("{} objects", self.objects) };
        let of = self.object_size.map_or(String::new(), |size| format!(" of {}", human(size)));
        let by = self.request_size.map_or(String::new(), |size| format!(" by {}", human(size)));
        format!("{op} {objects}{of}{by}, {pattern}, {} at once, seed {seed:09}: {target}", self.depth)
    }
}

fn wrong(plan: &Plan, object: u64, offset: u64, at: usize) -> Wrong {
    let object = if plan.objects == Objects::Target { "the target".into() } else { plan.name(object) };
    Wrong { object, offset: offset + at as u64 }
}

fn latency(tally: &Tally) -> Option<Latency> {
    let times = tally.times.as_ref()?;
    let at = |part| times.value_at_quantile(part);
    Some(Latency { mean: times.mean() as u64, p50: at(0.5), p99: at(0.99), p99_9: at(0.999), max: times.max() })
}

/// An option's value as it is written.
fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

/// Bytes per second, in binary steps.
pub fn rate(bytes: u64, time: Duration) -> String {
    let mut value = bytes as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE);
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    // 1023.9996 would be shown as 1024.000.
    while value >= 1023.9995 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.3} {unit}")
}

/// A time to the nanosecond, as the original shows it.
fn exact(time: Duration) -> String {
    let nanos = time.subsec_nanos();
    format!("{}s. {}ms {}us {}ns", time.as_secs(), nanos / 1_000_000, nanos / 1000 % 1000, nanos % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_has_binary_steps_up_to_gigabytes() {
        let second = Duration::from_secs(1);
        for (bytes, text) in [
            (0, "0.000 B/s"),
            (1023, "1023.000 B/s"),
            (1024, "1.000 KB/s"),
            ((1 << 30) - 1, "1.000 GB/s"),
            (3 << 29, "1.500 GB/s"),
            (1 << 41, "2048.000 GB/s"),
        ] {
            assert_eq!(rate(bytes, second), text);
        }
    }

    #[test]
    fn times_are_shown_to_the_nanosecond() {
        assert_eq!(exact(Duration::from_nanos(12_345_678_901)), "12s. 345ms 678us 901ns");
    }
}
