//! `doctor`: what is wrong here, and what to do about it.

use std::path::Path;

use archipelago_core::{Location, time};
use serde::Serialize;

use super::super::Context;
use super::super::exit::{Class, Failure};
use super::super::output::Output;
use crate::doctor::host::Host;
use crate::doctor::{Finding, Findings, Severity, configuration, place, store};

/// What scripts are told.
#[derive(Serialize)]
struct Document {
    result: &'static str,
    location: Option<String>,
    findings: Vec<Finding>,
}

/// `doctor`
pub fn run(context: &mut Context) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let now = time::now();
    Host { root: Path::new("/"), now }.examine(&mut findings);
    // Here and not before: a configuration that cannot be read is what this command is for.
    let config = configuration::load(context.config_file(), &mut findings);
    configuration::examine(&config, &mut findings);
    context.set_config(config);
    let location = match context.location() {
        Ok(location) => {
            let path = match &location {
                Location::File(path) => Some(path.as_path()),
                // What lies there is looked at by those who run the cluster.
                Location::Rados(_) => None,
            };
            if path.is_none_or(|path| place::examine(path, &mut findings)) {
                match context.store() {
                    Ok(opened) => {
                        if let Err(error) = store::examine(&opened, path, now, &mut findings) {
                            findings.error("store", error.to_string(), "run `archipelago check`");
                        }
                    }
                    Err(Failure::Engine(error)) => store::unopened(&error, &mut findings),
                    Err(other) => return Err(other),
                }
            }
            Some(location.to_string())
        }
        Err(failure) => {
            findings.error("store", failure.to_string(), "name the store; nothing about it was looked at");
            None
        }
    };
    let findings = findings.sorted();
    let (result, class) = match findings.first().map(|finding| finding.severity) {
        Some(Severity::Error) => ("error", Some(Class::Unfit)),
        Some(Severity::Warning) => ("warning", Some(Class::Warned)),
        Some(Severity::Note) | None => ("well", None),
    };
    let document = Document { result, location, findings };
    if context.out.json {
        context.out.document(&document)?;
    } else {
        print(&mut context.out, &document)?;
    }
    class.map_or(Ok(()), |class| Err(Failure::Reported(class)))
}

fn print(out: &mut Output, document: &Document) -> Result<(), Failure> {
    for finding in &document.findings {
        let severity = match finding.severity {
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Note => "note",
        };
        out.line(&format!("{severity} {}: {}", finding.topic, finding.what))?;
        out.line(&format!("    {}", finding.advice))?;
    }
    match document.result {
        "well" => out.line("nothing is wrong"),
        _ => Ok(()),
    }
}
