//! The `archipelago` command: reads the arguments, runs the command, reports how it went.
//!
//! Results go to standard output, everything else to standard error. [`exit`] maps failures to exit codes; `docs/cli.md` is
//! the reference of what scripts may rely on.

pub mod args;
pub mod commands;
pub mod exit;
pub mod interrupt;
pub mod output;
pub mod progress;
pub mod size;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;

use archipelago_core::{Background, Location, Store, StoreOptions, limits};
use clap::Parser;
use serde_json::json;

use crate::bench;
use crate::config::{self, Config};
use crate::{log, vlmc};
use args::{Cli, Command, Global};
use exit::{Class, ErrorFields, Failure};
use output::Output;

/// What a command works with.
pub struct Context {
    global: Global,
    config: Config,
    /// Standard output.
    pub out: Output,
}

impl Context {
    /// Reads the configuration, and takes standard output.
    pub(crate) fn load(global: Global) -> Result<Context, Failure> {
        let config = config::load(global.config.as_deref(), &mut |warning| note(&warning))?;
        let out = Output::new(global.json);
        Ok(Context { global, config, out })
    }

    /// Where the store is: by argument, environment or configuration, in this order.
    pub fn location(&self) -> Result<Location, Failure> {
        let text = self.global.store.as_ref().filter(|text| !text.is_empty()).or(self.config.store.as_ref());
        let Some(text) = text else {
            return Err(Failure::Usage(format!(
                "no store is named; use --store file:/PATH or rados:POOL, set ARCHIPELAGO_STORE, or write store = \"file:/PATH\" in {}",
                config::SYSTEM
            )));
        };
        Ok(Location::from_str(text)?)
    }

    /// Opens the store.
    pub fn store(&self) -> Result<Store, Failure> {
        let options = StoreOptions {
            node_cache: self.config.node_cache.unwrap_or(limits::NODE_CACHE),
            background: Background::Thread,
            max_unfolded: self.config.max_unfolded.unwrap_or(limits::MAX_UNFOLDED),
            first_segment: limits::FIRST_SEGMENT_SIZE,
            direct: self.global.direct || self.config.direct.unwrap_or(false),
            seed: None,
        };
        Ok(Store::open(&self.location()?, options)?)
    }

    /// Arguments with which this program works with the same store and configuration.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(file) = &self.global.config {
            arguments.extend(["--config".into(), file.to_string_lossy().into_owned()]);
        }
        if let Some(store) = &self.global.store {
            arguments.extend(["--store".into(), store.clone()]);
        }
        if self.global.direct {
            arguments.push("--direct".into());
        }
        arguments
    }

    /// The file that the arguments name.
    pub(crate) fn config_file(&self) -> Option<&Path> {
        self.global.config.as_deref()
    }

    /// Takes over what was read elsewhere.
    pub(crate) fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// What the configuration files say.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Tells people something that is not a result.
    pub fn note(&self, text: &str) {
        note(text);
    }

    /// Reports a failure of one of several things.
    pub fn report(&self, failure: &Failure) {
        report(self.out.json, &failure.json());
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    log::install();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let called = arguments.first().and_then(|name| Path::new(name).file_name());
    if called == Some(OsStr::new(vlmc::NAME)) {
        return vlmc::main(arguments);
    }
    let arguments = bench::args::spelled_out(arguments);
    let json = asks_for_json(&arguments);
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, json),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // What was reported one by one is not reported again.
            if !matches!(failure, Failure::Reported(_)) {
                report(json, &failure.json());
            }
            ExitCode::from(failure.class().code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let mut context = match cli.command {
        // The first two are run by package builds, where no configuration counts; the third reads it itself.
        Command::Completions(_) | Command::Man(_) | Command::Doctor => {
            Context { out: Output::new(cli.global.json), global: cli.global, config: Config::default() }
        }
        _ => Context::load(cli.global)?,
    };
    let result = commands::run(&mut context, cli.command);
    // What was printed before a failure is a result as well.
    let flushed = context.out.finish();
    result.and(flushed)
}

/// Whether errors are wanted as JSON. Before the arguments are known to make sense, their errors must already be in the right form.
pub(crate) fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

/// Reports what the parser has to say: wrong arguments, or help that was asked for.
pub(crate) fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        let message = error.render().to_string().trim_end().to_string();
        report(true, &ErrorFields { code: Class::Usage.word(), errno: libc::EINVAL, message });
    } else {
        // Nothing can be done about a terminal that is gone.
        let _ = error.print();
    }
    ExitCode::from(if error.use_stderr() { Class::Usage.code() } else { 0 })
}

fn report(json: bool, error: &ErrorFields) {
    // In one write, so that the lines of several processes do not mix; and without a panic when standard error is closed.
    let text = if json { json!({ "error": error }).to_string() } else { format!("archipelago: {}", error.message) };
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

fn note(text: &str) {
    let _ = std::io::stderr().write_all(format!("archipelago: {text}\n").as_bytes());
}
