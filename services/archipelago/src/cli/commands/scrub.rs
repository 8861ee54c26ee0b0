//! `scrub`: compares data with its checksums, and makes those that are missing.

use archipelago_core::{ScrubOptions, ScrubReport, Severity};

use super::super::Context;
use super::super::args::Scrub;
use super::super::exit::{Class, Failure};
use super::super::interrupt::Interrupt;
use super::super::progress::Progress;
use super::super::{output::Output, size};
use super::check::print_finding;

/// `scrub`
pub fn run(context: &mut Context, args: &Scrub) -> Result<(), Failure> {
    let interrupt = Interrupt::install()?;
    let store = context.store()?;
    let progress = Progress::of_things(context.out.json);
    let options = ScrubOptions { rate: args.rate, anywhere: false };
    let report = store.scrub(&options, &mut |at| {
        match at.total {
            0 => progress.at_of(at.entries, at.entries, || "map entries".to_string()),
            total => progress.at_of(at.done >> 20, total >> 20, || "MiB of data".to_string()),
        }
        interrupt.check().is_ok()
    });
    drop(progress);
    let report = report?;
    if context.out.json {
        context.out.document(&report)?;
    } else {
        print(&mut context.out, &report)?;
    }
    context.out.flush()?;
    // What was made stays; the command was stopped all the same.
    interrupt.check()?;
    match report.findings.iter().any(|finding| finding.severity > Severity::Leak) {
        true => Err(Failure::Reported(Class::Io)),
        false => Ok(()),
    }
}

fn print(out: &mut Output, report: &ScrubReport) -> Result<(), Failure> {
    report.findings.iter().try_for_each(|finding| print_finding(out, finding))?;
    for reason in &report.unreadable {
        out.line(&format!("left out: {reason}"))?;
    }
    for (bytes, what) in [
        (report.altered, "are not what was written, or cannot be read"),
        (report.healed, "were right only when they were read again: look at the disk"),
        (report.unstable, "got no checksum, for two readings differed: look at the disk"),
        (report.live, "may still be written, and have no checksums"),
    ] {
        if bytes > 0 {
            out.line(&format!("{} {what}", size::human(bytes)))?;
        }
    }
    if report.broken > 0 {
        out.line(&format!("{} places of checksums were altered, and made anew", report.broken))?;
    }
    if report.unknown > 0 {
        out.line(&format!("{} epochs were left out for want of memory", report.unknown))?;
    }
    out.line(&format!(
        "{} as their checksums say, {} got checksums; {} epochs of {} maps",
        size::human(report.verified),
        size::human(report.made),
        report.epochs,
        report.maps
    ))
}
