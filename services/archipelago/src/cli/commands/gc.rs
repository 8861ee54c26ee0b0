//! `gc`: removes what no map needs any more.

use archipelago_core::{Amount, CollectOptions, CollectPhase, CollectProgress, CollectReport, Rate};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;

use super::super::Context;
use super::super::args::Gc;
use super::super::exit::Failure;
use super::super::interrupt::Interrupt;
use super::super::output::{Align, Table, exact};
use super::super::size;

/// What scripts are told: the report, and its sum.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    report: CollectReport,
    freed: Amount,
}

/// `gc`
pub fn run(context: &mut Context, args: &Gc) -> Result<(), Failure> {
    let interrupt = Interrupt::install()?;
    let store = context.store()?;
    let bar = bar(context.out.json);
    let options =
        CollectOptions { dry_run: args.dry_run, rate: Rate { objects: None, bytes: args.rate }, grace: args.grace };
    let report = store.collect(&options, &mut |progress| {
        if let Some(bar) = &bar {
            show(bar, progress);
        }
        interrupt.check().is_ok()
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let report = report?;
    print(context, report)?;
    // What was removed stays removed; the command was stopped all the same.
    interrupt.check()
}

fn print(context: &mut Context, report: CollectReport) -> Result<(), Failure> {
    let freed = report.freed();
    let out = &mut context.out;
    if out.json {
        return out.document(&Document { report, freed });
    }
    let mut table = Table::new(&[("KIND", Align::Left), ("OBJECTS", Align::Right), ("SPACE", Align::Right)]);
    let plain = |objects| Amount { objects, bytes: 0 };
    for (kind, amount) in [
        ("data", report.data),
        ("holes", report.holes),
        ("checksums", report.sums),
        ("content", report.content),
        ("content index", report.tables),
        ("leases", report.leases),
        ("journals", report.segments),
        ("trees", report.packs),
        ("removed maps", plain(report.trash)),
        ("unfinished maps", plain(report.headers)),
        ("names", plain(report.names)),
        ("locks", plain(report.locks)),
    ] {
        if amount.objects > 0 {
            table.row(vec![kind.to_string(), amount.objects.to_string(), size::human(amount.bytes)]);
        }
    }
    table.print(out)?;
    if report.duplicates.objects > 0 {
        let (count, size) = (report.duplicates.objects, size::human(report.duplicates.bytes));
        let kept = if report.dry_run { "would be kept" } else { "are kept" };
        out.line(&format!("{count} blocks of {size} {kept} once instead of twice; their room is that of holes"))?;
    }
    let verb = if report.dry_run { "Would free" } else { "Freed" };
    out.line(&format!("{verb} {}; {} maps keep what they use", exact(freed.bytes), report.maps))?;
    if report.pinned > 0 {
        out.line(&format!("{} removed maps stay until their readers close them", report.pinned))?;
    }
    if report.no_holes {
        out.line("The file system cannot make holes: the room of overwritten data inside files stays taken")?;
    }
    Ok(())
}

/// A bar, or nothing when nobody looks.
fn bar(json: bool) -> Option<ProgressBar> {
    if json || !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::no_length();
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}") {
        bar.set_style(style);
    }
    Some(bar)
}

fn show(bar: &ProgressBar, progress: &CollectProgress) {
    let message = match progress.phase {
        CollectPhase::List => "listing",
        CollectPhase::Wait => "waiting for other processes",
        CollectPhase::Mark => "walking maps",
        CollectPhase::Sweep => "removing",
    };
    bar.set_message(message);
    bar.set_length(progress.total.max(progress.done));
    bar.set_position(progress.done);
}
