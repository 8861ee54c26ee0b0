//! The text format of Prometheus, version 0.0.4: families of samples, each with its help and type.

use std::fmt::Write;

/// Kinds of families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process or the disk begins anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by how large values were.
    Histogram,
}

/// What the answer says that it is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page that is being written.
#[derive(Default)]
pub struct Text(String);

/// A label and its value.
pub type Label<'a> = (&'static str, &'a str);

impl Text {
    /// Begins a family. Its samples come next, all of them.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // To a string nothing fails.
        let _ = writeln!(self.0, "# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n"));
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
    }

    /// A sample with a whole value.
    pub fn whole(&mut self, name: &str, labels: &[Label<'_>], value: u64) {
        self.sample(name, labels, &value.to_string());
    }

    /// A sample of a time in nanoseconds, told in seconds.
    pub fn seconds(&mut self, name: &str, labels: &[Label<'_>], nanos: u64) {
        self.sample(name, labels, &seconds(nanos));
    }

    /// A sample between 0 and 1.
    pub fn ratio(&mut self, name: &str, labels: &[Label<'_>], value: f64) {
        self.sample(name, labels, &value.to_string());
    }

    fn sample(&mut self, name: &str, labels: &[Label<'_>], value: &str) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escaped(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// What was written.
    pub fn finish(self) -> String {
        self.0
    }
}

/// Nanoseconds in seconds, exactly.
pub fn seconds(nanos: u64) -> String {
    let (whole, part) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let text = format!("{whole}.{part:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_labels_and_exact_values() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "Back\\slash.");
        text.whole("a_total", &[], u64::MAX);
        text.whole("a_total", &[("b", "x\"y\\z\n"), ("c", "")], 0);
        text.seconds("d_seconds", &[], 1_000_000_001);
        text.ratio("e_ratio", &[], 0.25);
        assert_eq!(
            text.finish(),
            "# HELP a_total Back\\\\slash.\n# TYPE a_total counter\na_total 18446744073709551615\n\
             a_total{b=\"x\\\"y\\\\z\\n\",c=\"\"} 0\nd_seconds 1.000000001\ne_ratio 0.25\n"
        );
        for (nanos, expected) in [(0, "0"), (5_000_000_000, "5"), (16_384, "0.000016384"), (10_000_000_000, "10")] {
            assert_eq!(seconds(nanos), expected);
        }
    }
}
