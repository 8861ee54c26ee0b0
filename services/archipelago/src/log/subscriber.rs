//! Takes events from `tracing`, and writes a line for each.

use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use super::calm::Calm;
use super::line::{Fields, render};
use super::{Format, Settings};

/// Events of other crates are not written.
const OURS: &str = "archipelago";

/// Writes lines to standard error.
pub struct Lines {
    format: AtomicU8,
    level: AtomicU8,
    calm: Mutex<Calm>,
}

const LEVELS: [Level; 5] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
const FORMATS: [Format; 3] = [Format::Text, Format::Logfmt, Format::Json];

impl Lines {
    pub fn new(settings: Settings) -> Lines {
        let lines = Lines { format: AtomicU8::new(0), level: AtomicU8::new(0), calm: Mutex::default() };
        lines.set(settings);
        lines
    }

    pub fn set(&self, settings: Settings) {
        let level = LEVELS.iter().position(|level| *level == settings.level).unwrap_or_default();
        self.level.store(level as u8, Ordering::Relaxed);
        self.format.store(settings.format as u8, Ordering::Relaxed);
    }

    fn writes(&self, level: Level) -> bool {
        level <= LEVELS[usize::from(self.level.load(Ordering::Relaxed))]
    }

    /// The line for an event, unless its place wrote too many.
    fn line(&self, event: &Event<'_>) -> Option<String> {
        let left_out = self.calm.lock().admit(event.metadata().callsite(), Instant::now())?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields.left_out(left_out);
        let format = FORMATS[usize::from(self.format.load(Ordering::Relaxed))];
        Some(render(format, SystemTime::now(), *event.metadata().level(), &fields))
    }
}

/// What `tracing` is given.
pub struct Installed(pub &'static Lines);

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_event() && metadata.target().starts_with(OURS)
}

impl Subscriber for Installed {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Levels change while the program runs, so each event asks anew.
        if is_ours(metadata) { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_ours(metadata) && self.0.writes(*metadata.level())
    }

    fn event(&self, event: &Event<'_>) {
        if let Some(line) = self.0.line(event) {
            // In one write, so that the lines of several processes do not mix. A log that is gone stops nobody.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    // There are no spans: an event says itself what it is about.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_less_important_than_asked_for_is_not_written() {
        let lines = Lines::new(Settings { level: Level::WARN, ..Settings::default() });
        assert!(lines.writes(Level::ERROR) && lines.writes(Level::WARN) && !lines.writes(Level::INFO));
        lines.set(Settings { level: Level::DEBUG, format: Format::Json });
        assert!(lines.writes(Level::DEBUG) && !lines.writes(Level::TRACE));
        for (index, format) in FORMATS.into_iter().enumerate() {
            assert_eq!(format as usize, index);
        }
    }
}
