//! The volume tool of the original Archipelago, for scripts that were written for it: the same binary under the name `vlmc`.
//!
//! Names, arguments, and what success prints are the original's. A failure prints the original's text on standard output, as the original
//! did, and its reason on standard error; the exit code is that of `archipelago` for the same failure. `docs/cli.md` has the table.

pub mod args;
mod commands;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use crate::cli::exit::{Class, ErrorFields, Failure};
use crate::cli::{self, Context};
use args::Vlmc;

/// The name under which the program is this tool.
pub const NAME: &str = "vlmc";

/// A failure of a command: what the original printed, and what is behind it.
#[derive(Debug)]
struct Refusal {
    text: String,
    reason: Option<Failure>,
    class: Class,
}

impl Refusal {
    /// Wrong arguments, in the original's words.
    fn usage(text: &str) -> Refusal {
        Refusal { text: text.into(), reason: None, class: Class::Usage }
    }

    /// A failure under the original's text.
    fn of(text: &str, reason: impl Into<Failure>) -> Refusal {
        let reason = reason.into();
        Refusal { text: text.into(), class: reason.class(), reason: Some(reason) }
    }

    fn message(&self) -> String {
        match &self.reason {
            Some(reason) if self.text.is_empty() => reason.to_string(),
            Some(reason) => format!("{}: {reason}", self.text),
            None => self.text.clone(),
        }
    }

    fn fields(&self) -> ErrorFields {
        let errno = self.reason.as_ref().map_or(libc::EINVAL, Failure::errno);
        ErrorFields { code: self.class.word(), errno, message: self.message() }
    }
}

impl From<Failure> for Refusal {
    /// What the original has no words for.
    fn from(failure: Failure) -> Refusal {
        Refusal::of("", failure)
    }
}

/// Runs `vlmc` with the arguments of the process, its own name first.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let arguments = args::spelled_out(arguments);
    let json = cli::asks_for_json(&arguments);
    let parsed = match Vlmc::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => return cli::usage(&error, json),
    };
    let mut context = match Context::load(parsed.global) {
        Ok(context) => context,
        Err(failure) => return end(json, &failure.into()),
    };
    let result = commands::run(&mut context, parsed.command);
    let result = result.and(context.out.finish().map_err(Refusal::from));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal { reason: Some(reason), .. }) if reason.is_broken_pipe() => ExitCode::SUCCESS,
        Err(refusal) => end(json, &refusal),
    }
}

/// Reports a failure. Nothing can be done where neither stream takes it.
fn end(json: bool, refusal: &Refusal) -> ExitCode {
    let mut err = std::io::stderr();
    if json {
        let _ = err.write_all(format!("{}\n", json!({ "error": refusal.fields() })).as_bytes());
        return ExitCode::from(refusal.class.code());
    }
    if !refusal.text.is_empty() {
        let mut out = std::io::stdout();
        // Colours are for eyes: in a pipe the text is the text.
        let red = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let line = if red { format!("\x1b[31m{}\x1b[0m\n", refusal.text) } else { format!("{}\n", refusal.text) };
        let _ = out.write_all(line.as_bytes());
    }
    if let Some(reason) = &refusal.reason {
        let _ = err.write_all(format!("{NAME}: {reason}\n").as_bytes());
    }
    ExitCode::from(refusal.class.code())
}
