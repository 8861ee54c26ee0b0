//! What a daemon tells of itself while it runs: one line per event on standard error, for people, as key=value, or as JSON.
//!
//! Events are those of `tracing`. Results and errors of commands do not come here: [`crate::cli`] prints them.
//!
//! | File | Its job |
//! |---|---|
//! | `line` | what a line looks like, and that nothing in it can be taken for another line |
//! | `calm` | how many lines one place may write |
//! | `subscriber` | takes events from `tracing`, writes lines |

mod calm;
mod line;
mod subscriber;

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use tracing::Level;

use self::subscriber::Lines;

/// What lines look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Format {
    /// For people: `archipelago: collected objects=5 bytes=4096`. Without time and level.
    #[default]
    Text,
    /// `ts=2026-11-27T18:32:07.123Z level=info msg=collected objects=5 bytes=4096`
    Logfmt,
    /// The same as an object of JSON.
    Json,
}

/// What is written: formats and levels as texts name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What lines look like.
    pub format: Format,
    /// The least important level that is written.
    pub level: Level,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { format: Format::Text, level: Level::INFO }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "text" => Ok(Format::Text),
            "logfmt" => Ok(Format::Logfmt),
            "json" => Ok(Format::Json),
            _ => Err(format!("{text}: write text, logfmt or json")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Text => "text",
            Format::Logfmt => "logfmt",
            Format::Json => "json",
        })
    }
}

/// Reads the name of a level.
pub fn level(text: &str) -> Result<Level, String> {
    match text {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        _ => Err(format!("{text}: write error, warn, info or debug")),
    }
}

static LINES: OnceLock<&'static Lines> = OnceLock::new();

/// Begins to write what happens in this process, for people until [`set`] says otherwise. The first call counts.
pub fn install() {
    LINES.get_or_init(|| {
        // For as long as the process lives.
        let lines: &'static Lines = Box::leak(Box::new(Lines::new(Settings::default())));
        // Another subscriber is there only if a program that uses this library has its own.
        let _ = tracing::subscriber::set_global_default(subscriber::Installed(lines));
        lines
    });
}

/// Writes differently from now on.
pub fn set(settings: Settings) {
    if let Some(lines) = LINES.get() {
        lines.set(settings);
    }
}
