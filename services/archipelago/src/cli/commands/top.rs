//! `top`: what volumes that are served do, and how long it takes.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use archipelago_core::{Error, Owner, Store};
use serde::Serialize;
use serde_json::json;

use super::super::Context;
use super::super::args::Top;
use super::super::exit::Failure;
use super::super::interrupt::Interrupt;
use super::super::output::{Align, Output, Table};
use super::super::size;
use crate::disk::gauges::{Measured, Question, Statistics};
use crate::disk::limiter::Limits;
use crate::disk::meter::{BUCKETS, Counted, KINDS, Kind, upper};
use crate::disk::slow::Slow;

/// How often it is looked whether a signal came.
const LOOK: Duration = Duration::from_millis(100);

/// What one kind of requests did in an interval.
#[derive(Debug, Serialize)]
struct Rate {
    kind: Kind,
    /// Per second.
    iops: f64,
    /// Bytes per second.
    bps: f64,
    errors: u64,
    mean: Option<u64>,
    p50: Option<u64>,
    p99: Option<u64>,
    max: Option<u64>,
    /// End of each bucket that is not empty in nanoseconds, and the requests in it.
    histogram: Vec<(u64, u64)>,
}

/// What one disk did in an interval.
#[derive(Debug, Serialize)]
struct Disk {
    pid: u32,
    name: String,
    id: String,
    limits: Limits,
    /// Requests that wait for a limit now.
    waiting: u64,
    /// The part of the interval that a request waited, on average one for each that waits all the time.
    waited: f64,
    kinds: Vec<Rate>,
}

/// One look.
#[derive(Debug, Serialize)]
struct Round {
    seconds: f64,
    disks: Vec<Disk>,
    slow: Vec<Slow>,
    slow_seen: u64,
}

/// What servers said at one time, by registration.
type Answers = Vec<(Owner, Statistics)>;

/// `top`
pub fn run(context: &mut Context, args: &Top) -> Result<(), Failure> {
    let interrupt = Interrupt::install()?;
    let store = context.store()?;
    let interval = Duration::from_secs(args.interval);
    let clear = std::io::stdout().is_terminal() && !args.once && !context.out.json;
    let mut before = ask(context, &store)?;
    loop {
        let mut left = interval;
        while !left.is_zero() {
            if interrupt.check().is_err() {
                return Ok(());
            }
            let part = left.min(LOOK);
            std::thread::sleep(part);
            left -= part;
        }
        let now = ask(context, &store)?;
        let round = compare(&before, &now);
        if context.out.json {
            context.out.document(&round)?;
        } else {
            print(&mut context.out, &round, clear)?;
        }
        context.out.flush()?;
        if args.once {
            return Ok(());
        }
        before = now;
    }
}

fn ask(context: &Context, store: &Store) -> Result<Answers, Failure> {
    let mut answers = Vec::new();
    for (owner, answer) in store.ask_processes(&json!(Question::Statistics))? {
        let answer = answer.and_then(|answer| {
            serde_json::from_value(answer).map_err(|e| Error::Unsupported(format!("answers in another way: {e}")))
        });
        match answer {
            Ok(statistics) => answers.push((owner, statistics)),
            Err(error) => context.note(&format!("pid {}: {error}", owner.pid)),
        }
    }
    Ok(answers)
}

/// What was done between two looks. Disks that were opened meanwhile count from then on.
fn compare(before: &Answers, now: &Answers) -> Round {
    let earlier: HashMap<&str, &Statistics> = before.iter().map(|(o, s)| (o.process.as_str(), s)).collect();
    let mut round = Round { seconds: 0.0, disks: Vec::new(), slow: Vec::new(), slow_seen: 0 };
    for (owner, statistics) in now {
        let earlier = earlier.get(owner.process.as_str());
        let nanos = statistics.age.saturating_sub(earlier.map_or(0, |e| e.age)).max(1);
        let seconds = nanos as f64 / 1e9;
        round.seconds = round.seconds.max(seconds);
        for disk in &statistics.disks {
            let then = earlier.and_then(|e| e.disks.iter().find(|d| d.id == disk.id));
            round.disks.push(rates(owner.pid, disk, then, seconds));
        }
        round.slow.extend(statistics.slow.iter().cloned());
        round.slow_seen += statistics.slow_seen;
    }
    // The busiest first.
    let work = |disk: &Disk| disk.kinds.iter().map(|rate| rate.iops).sum::<f64>();
    round.disks.sort_by(|a, b| work(b).total_cmp(&work(a)).then_with(|| a.name.cmp(&b.name)));
    round
}

fn rates(pid: u32, disk: &Measured, then: Option<&Measured>, seconds: f64) -> Disk {
    let of = |measured: &Measured, kind| measured.counted.iter().find(|c| c.kind == kind).cloned();
    let rate = |kind| {
        let counted = of(disk, kind).unwrap_or_else(|| Counted::nothing(kind));
        let counted = match then.and_then(|then| of(then, kind)) {
            Some(then) => counted.since(&then),
            None => counted,
        };
        Rate {
            kind,
            iops: counted.requests as f64 / seconds,
            bps: counted.bytes as f64 / seconds,
            errors: counted.errors,
            mean: counted.mean(),
            p50: counted.percentile(0.5),
            p99: counted.percentile(0.99),
            max: counted.percentile(1.0),
            histogram: counted
                .buckets
                .iter()
                .map(|(index, n)| (upper((*index as usize).min(BUCKETS - 1)), *n))
                .collect(),
        }
    };
    let waited = disk.waited.saturating_sub(then.map_or(0, |then| then.waited)) as f64 / 1e9 / seconds;
    Disk {
        pid,
        name: disk.name.clone(),
        id: disk.id.clone(),
        limits: disk.limits,
        waiting: disk.waiting,
        waited,
        kinds: KINDS.into_iter().map(rate).collect(),
    }
}

fn print(out: &mut Output, round: &Round, clear: bool) -> Result<(), Failure> {
    if clear {
        // Home, and everything from there on away.
        out.raw("\x1b[H\x1b[J")?;
    }
    let mut table = Table::new(&[
        ("VOLUME", Align::Left),
        ("KIND", Align::Left),
        ("REQ/S", Align::Right),
        ("BYTES/S", Align::Right),
        ("MEAN", Align::Right),
        ("P50", Align::Right),
        ("P99", Align::Right),
        ("MAX", Align::Right),
        ("ERRORS", Align::Right),
        ("WAITING", Align::Right),
    ]);
    for disk in &round.disks {
        for (index, rate) in disk.kinds.iter().enumerate() {
            if index > 0 && rate.iops == 0.0 {
                continue;
            }
            table.row(vec![
                disk.name.clone(),
                format!("{:?}", rate.kind).to_lowercase(),
                format!("{:.0}", rate.iops),
                size::human(rate.bps as u64),
                time(rate.mean),
                time(rate.p50),
                time(rate.p99),
                time(rate.max),
                rate.errors.to_string(),
                if index == 0 { disk.waiting.to_string() } else { String::new() },
            ]);
        }
    }
    if round.disks.is_empty() {
        out.line("no volume is served now")?;
    }
    table.print(out)?;
    if let Some(last) = round.slow.iter().max_by_key(|slow| slow.at) {
        out.line("")?;
        let kind = format!("{:?}", last.kind).to_lowercase();
        let took = time(Some(last.nanos));
        out.line(&format!(
            "slow requests: {}; the last at {}: {} {kind} of {} bytes at {}, {took}",
            round.slow_seen,
            archipelago_core::time::format_utc(last.at),
            last.volume,
            last.len,
            last.offset
        ))?;
    }
    out.line("")
}

/// A time for people: three digits and a unit.
fn time(nanos: Option<u64>) -> String {
    let Some(nanos) = nanos else { return "-".into() };
    let nanos = nanos as f64;
    let (value, unit) = match nanos {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "us"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    if value < 10.0 { format!("{value:.2} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        for (nanos, text) in [(0, "0.00 ns"), (1500, "1.50 us"), (123_456, "123 us"), (2_000_000_000, "2.00 s")] {
            assert_eq!(time(Some(nanos)), text);
        }
        assert_eq!(time(None), "-");
    }

    #[test]
    fn rates_are_those_of_the_time_between_two_looks() {
        let owner = Owner { pid: 7, host: "n".into(), command: "c".into(), since: 0, process: "p".into() };
        let measured = |requests: u64, waited| Measured {
            id: "01".into(),
            name: "disk-1".into(),
            limits: Limits::default(),
            waiting: 1,
            waited,
            counted: vec![Counted {
                kind: Kind::Write,
                requests,
                bytes: requests * 4096,
                errors: 0,
                nanos: requests * 1000,
                buckets: vec![(9, requests)],
            }],
        };
        let statistics = |age, disk| Statistics { age, disks: vec![disk], more: 0, slow: Vec::new(), slow_seen: 0 };
        let second = 1_000_000_000;
        let before = vec![(owner.clone(), statistics(10 * second, measured(100, 0)))];
        let now = vec![(owner, statistics(12 * second, measured(300, second)))];
        let round = compare(&before, &now);
        let disk = &round.disks[0];
        let write = &disk.kinds[1];
        assert_eq!((round.seconds, write.iops, write.bps, disk.waited), (2.0, 100.0, 409_600.0, 0.5));
        assert_eq!((write.mean, write.histogram.as_slice()), (Some(1000), [(upper(9), 200)].as_slice()));
        assert_eq!((disk.kinds[0].iops, disk.kinds[0].p50), (0.0, None));
        // One that was not there before counts from its beginning.
        assert_eq!(compare(&Vec::new(), &now).disks[0].kinds[1].iops, 25.0);
    }
}
