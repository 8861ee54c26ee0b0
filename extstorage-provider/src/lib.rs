//! Archipelago volumes as disks of Ganeti instances: Ganeti's External Storage interface, and its hooks.
//!
//! One program behind every name: Ganeti runs `create`, `attach` and so on without arguments, in the provider's directory, with what it
//! wants in environment variables. `docs/ganeti.md` is the reference of what an administrator may rely on.
//!
//! | File | Its job |
//! |---|---|
//! | `applet` | what the program is called as |
//! | `environment` | the variables that count, read with suspicion |
//! | `parameters` | the parameters of a disk |
//! | `names` | which volume a disk is |
//! | `host` | the configuration, stores, and what is attached here |
//! | `verbs` | what Ganeti asks of a provider |
//! | `hooks` | what Ganeti asks before it starts or migrates an instance |
//! | `error` | why something is refused, and what to do about it |
//! | `limits` | every bound |
#![deny(unsafe_code)]

mod applet;
mod environment;
mod error;
mod hooks;
mod host;
mod limits;
mod names;
mod parameters;
mod verbs;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::stat::{Mode, umask};

use applet::Applet;
use environment::Environment;
use error::ProviderError;
use host::Host;

/// Runs what the process was started as.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let applet = Path::new(&called).file_name().and_then(Applet::of);
    // The server of an attached volume takes arguments; it was started by this program.
    if applet == Some(Applet::Server) {
        return archipelago_service::cli::main();
    }
    let Some(applet) = applet.filter(|_| arguments.next().is_none()) else {
        say(&usage(&called));
        return ExitCode::FAILURE;
    };
    // Files that are made on the way are for their owner; those of a store have its mode.
    umask(Mode::from_bits_truncate(0o077));
    let name = applet.name();
    match run(applet) {
        Ok(output) => match std::io::stdout().write_all(output.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&format!("archipelago {name}: write standard output: {error}"));
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            say(&format!("archipelago {name}: {error}"));
            say(&format!("What to do: {}", error.advice()));
            ExitCode::FAILURE
        }
    }
}

/// Does it, and returns what it prints.
fn run(applet: Applet) -> Result<String, ProviderError> {
    let environment = Environment::read(std::env::vars_os());
    let mut warn = |text: String| say(&format!("archipelago {}: warning: {text}", applet.name()));
    let host = Host::load(&mut warn)?;
    match applet {
        Applet::Verb(verb) => verbs::run(verb, &environment, &host, &mut warn),
        Applet::Hook(hook) => hooks::run(hook, &environment, &host).map(|()| String::new()),
        Applet::Server => Ok(String::new()),
    }
}

fn usage(called: &OsString) -> String {
    let names: Vec<_> = Applet::ALL.iter().map(|applet| applet.name()).collect();
    format!(
        "This is Archipelago's provider of disks for Ganeti, called as {called:?}. Ganeti runs it without arguments, under one of the names\n\
         {}, with what it wants in variables VOL_* and EXTP_*.\n\
         To look whether all is well, run `verify` in the provider's directory; see docs/ganeti.md.",
        names.join(" ")
    )
}

/// Tells the administrator; nothing can be done about a standard error that is gone.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
