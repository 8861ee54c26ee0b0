//! What a line of the log looks like. Values come from clients, guests and file names: whatever they hold, one event is one line, and
//! no field can be taken for another.

use std::fmt::{Debug, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use archipelago_core::time;
use tracing::Level;
use tracing::field::{Field, Visit};

use super::Format;

/// Longest value in bytes: the longest name of an export, twice. What is longer is cut.
const MAX_VALUE: usize = 8192;
/// Fields of one event that are written: several times what any event here has.
const MAX_FIELDS: usize = 32;

/// An event's message and fields.
#[derive(Default)]
pub struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

enum Value {
    /// Written as it is, in JSON without quotes.
    Bare(String),
    Text(String),
}

impl Fields {
    fn add(&mut self, name: &'static str, value: Value) {
        if self.others.len() < MAX_FIELDS {
            self.others.push((name, value));
        }
    }

    /// Says that lines of the same place were left out.
    pub fn left_out(&mut self, lines: u64) {
        if lines > 0 {
            self.add("left_out", Value::Bare(lines.to_string()));
        }
    }

    fn text(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field.name(), Value::Text(text));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_string());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), Value::Bare(value.to_string()));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), Value::Bare(value.to_string()));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), Value::Bare(value.to_string()));
    }
}

/// One line, its end included.
pub fn render(format: Format, now: SystemTime, level: Level, fields: &Fields) -> String {
    let mut line = String::new();
    match format {
        Format::Text => {
            line.push_str("archipelago: ");
            line.push_str(&printable(&fields.message));
            logfmt(&mut line, &fields.others);
        }
        Format::Logfmt => {
            line.push_str("ts=");
            line.push_str(&timestamp(now));
            line.push_str(" level=");
            line.push_str(word(level));
            line.push_str(" msg=");
            line.push_str(&quoted(&fields.message));
            logfmt(&mut line, &fields.others);
        }
        Format::Json => json(&mut line, now, level, fields),
    }
    line.push('\n');
    line
}

fn logfmt(line: &mut String, fields: &[(&'static str, Value)]) {
    for (name, value) in fields {
        let value = match value {
            Value::Bare(text) => text.clone(),
            Value::Text(text) => quoted(text),
        };
        // To a string nothing fails.
        let _ = write!(line, " {name}={value}");
    }
}

fn json(line: &mut String, now: SystemTime, level: Level, fields: &Fields) {
    let text = |text: &str| serde_json::Value::from(cut(text)).to_string();
    let _ = write!(line, r#"{{"ts":"{}","level":"{}","msg":{}"#, timestamp(now), word(level), text(&fields.message));
    for (name, value) in &fields.others {
        let value = match value {
            Value::Bare(bare) => bare.clone(),
            Value::Text(value) => text(value),
        };
        let _ = write!(line, r#","{name}":{value}"#);
    }
    line.push('}');
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// To the millisecond, in UTC.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mut text = time::format_utc(since.as_secs());
    text.truncate(text.len() - 1);
    let _ = write!(text, ".{:03}Z", since.subsec_millis());
    text
}

/// The beginning of a text, no longer than a value may be.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_VALUE)]
}

/// A text in which nothing moves the cursor, ends the line, or changes the direction of what is behind it.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in cut(text).chars() {
        if is_plain(c) { out.push(c) } else { out.extend(c.escape_default()) }
    }
    out
}

/// As a value of logfmt: as it is if it is one word, otherwise in quotes.
fn quoted(text: &str) -> String {
    let one_word = |c: char| is_plain(c) && !matches!(c, ' ' | '"' | '=' | '\\');
    if !text.is_empty() && text.len() <= MAX_VALUE && text.chars().all(one_word) {
        return text.to_string();
    }
    let mut out = String::from("\"");
    for c in cut(text).chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if is_plain(c) => out.push(c),
            c => out.extend(c.escape_default()),
        }
    }
    out.push('"');
    out
}

fn is_plain(c: char) -> bool {
    // Besides controls: line and paragraph separators, and marks by which text is shown in another order than it is written.
    !c.is_control() && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(message: &str, values: &[(&'static str, &str)]) -> Fields {
        let mut fields = Fields { message: message.into(), ..Fields::default() };
        fields.add("bytes", Value::Bare("4096".into()));
        for (name, value) in values {
            fields.add(name, Value::Text((*value).into()));
        }
        fields
    }

    fn at() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(951_782_400_007)
    }

    #[test]
    fn each_format_has_the_same_facts() {
        let fields = fields("went wrong", &[("volume", "disk-1"), ("why", "no \"room\"")]);
        let line = |format| render(format, at(), Level::WARN, &fields);
        assert_eq!(line(Format::Text), "archipelago: went wrong bytes=4096 volume=disk-1 why=\"no \\\"room\\\"\"\n");
        assert_eq!(
            line(Format::Logfmt),
            "ts=2000-02-29T00:00:00.007Z level=warn msg=\"went wrong\" bytes=4096 volume=disk-1 why=\"no \\\"room\\\"\"\n"
        );
        let json: serde_json::Value = serde_json::from_str(&line(Format::Json)).unwrap();
        let expected = serde_json::json!({"ts": "2000-02-29T00:00:00.007Z", "level": "warn", "msg": "went wrong",
            "bytes": 4096, "volume": "disk-1", "why": "no \"room\""});
        assert_eq!(json, expected);
    }

    #[test]
    fn what_is_long_is_cut_between_characters() {
        let line = render(Format::Logfmt, at(), Level::INFO, &fields(&"ä".repeat(9000), &[]));
        assert!(line.len() < MAX_VALUE + 100 && line.contains('ä'));
    }

    /// Reads a line back as a log collector does.
    fn parsed(line: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut rest = line.strip_suffix('\n').unwrap();
        while !rest.is_empty() {
            let (name, value) = rest.split_once('=').unwrap();
            let (value, behind) = match value.strip_prefix('"') {
                None => value.split_once(' ').map_or((value, ""), |(value, behind)| (value, behind)),
                Some(quoted) => {
                    let mut escaped = false;
                    let end = quoted.find(|c| {
                        let ends = c == '"' && !escaped;
                        escaped = c == '\\' && !escaped;
                        ends
                    });
                    let end = end.unwrap();
                    (&quoted[..end], quoted[end + 1..].trim_start_matches(' '))
                }
            };
            found.push((name.to_string(), value.to_string()));
            rest = behind;
        }
        found
    }

    proptest! {
        #[test]
        fn any_value_stays_in_its_field_and_on_its_line(message: String, value: String, other in "\\PC*[\\x00-\\x1f\"= \\\\]*") {
            let fields = fields(&message, &[("value", &value), ("other", &other)]);
            for format in [Format::Text, Format::Logfmt, Format::Json] {
                let line = render(format, at(), Level::INFO, &fields);
                prop_assert_eq!(line.chars().filter(|c| c.is_control()).collect::<String>(), "\n");
            }
            let found = parsed(&render(Format::Logfmt, at(), Level::INFO, &fields));
            let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
            prop_assert_eq!(names, ["ts", "level", "msg", "bytes", "value", "other"]);
            let json: serde_json::Value = serde_json::from_str(&render(Format::Json, at(), Level::INFO, &fields)).unwrap();
            prop_assert_eq!(json["value"].as_str().unwrap(), value);
        }
    }
}
