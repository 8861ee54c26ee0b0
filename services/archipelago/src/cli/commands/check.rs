//! `check`: looks for damage and leftovers, and repairs.

use archipelago_core::{Affected, CheckOptions, CheckReport, DataReport, Error, Finding, FindingKind, Severity};
use serde::Serialize;

use super::super::Context;
use super::super::args::Check;
use super::super::exit::{Class, Failure};
use super::super::interrupt::Interrupt;
use super::super::output::Output;
use super::super::progress::Progress;
use super::super::size;

/// Leaks that are printed one by one for people; scripts get them all.
const LEAKS_SHOWN: usize = 20;

/// What scripts read.
#[derive(Serialize)]
struct Document<'a> {
    /// `clean`, `repaired`, `repairable` or `damaged`.
    result: &'static str,
    #[serde(flatten)]
    report: &'a CheckReport,
}

/// `check`
pub fn run(context: &mut Context, args: &Check) -> Result<(), Failure> {
    let interrupt = Interrupt::install()?;
    let store = context.store()?;
    let progress = Progress::of_things(context.out.json);
    let options = CheckOptions {
        repair: args.repair,
        names: args.names.clone(),
        data: args.data,
        rate: args.rate,
        ..CheckOptions::default()
    };
    let mut stopped = None;
    let checked = store.check(&options, &mut |at| {
        match at.data_total {
            0 => {
                progress.at_of(at.maps, at.maps_total, || format!("maps, {} entries in {} nodes", at.entries, at.nodes))
            }
            total => progress.at_of(at.data >> 20, total >> 20, || "MiB of data".to_string()),
        }
        interrupt.check().map_err(|failure| {
            stopped = Some(failure);
            Error::Busy("the check".into())
        })
    });
    drop(progress);
    if let Some(failure) = stopped {
        return Err(failure);
    }
    let report = checked?;
    let (result, class) = outcome(&report);
    if context.out.json {
        context.out.document(&Document { result, report: &report })?;
    } else {
        print(&mut context.out, &report, result)?;
    }
    context.out.flush()?;
    class.map_or(Ok(()), |class| Err(Failure::Reported(class)))
}

/// How it went, in a word and as an exit code.
fn outcome(report: &CheckReport) -> (&'static str, Option<Class>) {
    match report.worst() {
        Some(Severity::Damage) => ("damaged", Some(Class::Io)),
        Some(Severity::Repairable) => ("repairable", Some(Class::Repairable)),
        _ if report.repaired() => ("repaired", Some(Class::Repaired)),
        _ => ("clean", None),
    }
}

fn print(out: &mut Output, report: &CheckReport, result: &str) -> Result<(), Failure> {
    let mut leaks = 0;
    for finding in &report.findings {
        if finding.kind == FindingKind::Leak {
            leaks += 1;
            if leaks > LEAKS_SHOWN {
                continue;
            }
        }
        print_finding(out, finding)?;
    }
    if leaks > LEAKS_SHOWN {
        out.line(&format!("... and {} more objects that nothing names", leaks - LEAKS_SHOWN))?;
    }
    if report.unlisted > 0 {
        out.line(&format!("... and {} more findings", report.unlisted))?;
    }
    for place in &report.aside {
        out.line(&format!("set aside by an earlier repair: {place}"))?;
    }
    for name in &report.in_use {
        out.line(&format!("in use, checked as of its last checkpoint: {name}"))?;
    }
    if let Some(data) = &report.data {
        out.line(&data_line(data))?;
    }
    out.line(&format!(
        "{result}: {} maps, {} entries in {} nodes, {} objects",
        report.maps, report.entries, report.nodes, report.objects
    ))
}

/// What became of the data, for people.
fn data_line(data: &DataReport) -> String {
    let mut line = format!(
        "data: {} as their checksums say, {} as their hashes say, {} without a checksum",
        size::human(data.verified),
        size::human(data.hashed),
        size::human(data.without)
    );
    if data.broken > 0 {
        line.push_str(&format!(
            "; {} places of checksums were altered, `archipelago scrub` makes them anew",
            data.broken
        ));
    }
    if data.unknown > 0 {
        line.push_str(&format!("; {} data objects were left out for want of memory", data.unknown));
    }
    line
}

pub(super) fn print_finding(out: &mut Output, finding: &Finding) -> Result<(), Failure> {
    let severity = match finding.severity {
        Severity::Leak => "leftover",
        Severity::Repairable => "repairable",
        Severity::Damage => "DAMAGE",
    };
    out.line(&format!("{severity}: {}: {}", finding.object, finding.detail))?;
    for affected in &finding.affected {
        out.line(&format!("    {}", affected_line(affected)))?;
    }
    match &finding.repair {
        Some(repair) if repair.done => out.line(&format!("    repaired: {}", repair.action)),
        Some(repair) => match &repair.failed {
            Some(error) => out.line(&format!("    not repaired: {error}")),
            None => out.line(&format!("    --repair would: {}", repair.action)),
        },
        None => Ok(()),
    }
}

/// What a map loses, for people.
fn affected_line(affected: &Affected) -> String {
    let name = if affected.removed { format!("{} (removed)", affected.name) } else { affected.name.clone() };
    if affected.whole {
        return format!("{name} [{}] cannot be opened", affected.id);
    }
    let ranges: Vec<String> =
        affected.ranges.iter().map(|r| format!("{} at {}", size::human(r.len), r.offset)).collect();
    let more = if affected.more { ", and more" } else { "" };
    match ranges.is_empty() {
        true => format!("{name} [{}] loses nothing that can be read", affected.id),
        false => format!("{name} [{}] cannot be read in {}{more}", affected.id, ranges.join(", ")),
    }
}
