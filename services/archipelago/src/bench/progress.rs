//! How far a measurement is: a line that is drawn over again on a terminal, or a line each time elsewhere, on standard error.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::{Bench, Interval, Shown, YesNo};
use super::plan::Plan;
use super::record::Record;
use super::report::rate;

/// Shows it, or nothing when nobody looks.
pub struct Progress {
    out: Option<Out>,
    shown: Shown,
    interval: Interval,
    /// What a whole is: requests, or a time.
    requests: u64,
    runtime: Option<Duration>,
    /// Intervals that were shown.
    passed: u64,
}

enum Out {
    Terminal(ProgressBar),
    Lines,
}

impl Progress {
    /// As the options say; by itself on a terminal, unless scripts read the result.
    pub fn new(args: &Bench, plan: &Plan, json: bool) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let out = match args.progress {
            Some(YesNo::No) => None,
            None if !terminal || json => None,
            _ if terminal => Some(Out::Terminal(bar())),
            _ => Some(Out::Lines),
        };
        let (shown, interval) = (args.ptype, args.pinterval);
        Progress { out, shown, interval, requests: plan.requests, runtime: plan.runtime, passed: 0 }
    }

    /// Shows it if an interval is over.
    pub fn maybe(&mut self, record: &Record, elapsed: Duration) {
        if self.out.is_none() {
            return;
        }
        let done = record.received();
        let passed = match (self.interval, self.runtime) {
            (Interval::Requests(n), _) => done / n,
            (Interval::Percent(percent), None) => percents(done.into(), self.requests.into()) / u64::from(percent),
            (Interval::Percent(percent), Some(whole)) => {
                percents(elapsed.as_nanos(), whole.as_nanos()) / u64::from(percent)
            }
        };
        if passed > self.passed {
            self.passed = passed;
            self.show(record, elapsed);
        }
    }

    /// Shows it.
    pub fn show(&self, record: &Record, elapsed: Duration) {
        let Some(out) = &self.out else { return };
        let text = self.text(record, elapsed);
        match out {
            Out::Terminal(bar) => bar.set_message(text),
            // Nothing can be done about a standard error that is gone.
            Out::Lines => drop(std::io::stderr().write_all(format!("{text}\n").as_bytes())),
        }
    }

    fn text(&self, record: &Record, elapsed: Duration) -> String {
        let mut text = format!("{:.1} s", elapsed.as_secs_f64());
        if self.shown != Shown::Io {
            let (received, failed, corrupted) = (record.received(), record.failed(), record.corrupted);
            let of = if self.runtime.is_some() { String::new() } else { format!(" of {}", self.requests) };
            text += &format!(", {received}{of} requests, {failed} failed, {corrupted} corrupted");
        }
        if self.shown != Shown::Req {
            let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
            text += &format!(", {}, {:.0} IOPS", rate(record.bytes(), elapsed), record.received() as f64 / seconds);
        }
        text
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(Out::Terminal(bar)) = &self.out {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn percents(done: u128, whole: u128) -> u64 {
    (done * 100).checked_div(whole).unwrap_or(100) as u64
}
