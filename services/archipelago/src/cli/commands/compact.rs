//! `compact`

use std::ops::ControlFlow;

use archipelago_core::{CompactOptions, Mode};
use serde_json::json;

use super::super::Context;
use super::super::args::Compact;
use super::super::exit::Failure;
use super::super::interrupt::Interrupt;
use super::super::output::exact;
use super::super::progress::Progress;

/// Gathers the pieces of volumes. A signal ends it between two blocks: what was gathered stays so.
pub fn run(context: &mut Context, args: &Compact) -> Result<(), Failure> {
    let interrupt = Interrupt::install()?;
    let options = CompactOptions { max_extents: args.max_extents, rate: args.rate.unwrap_or(0) };
    let mut done = Vec::new();
    for name in &args.names {
        let volume = context.store()?.open_volume(name, Mode::ReadWrite)?;
        let progress = Progress::new(context.out.json, None);
        let report = volume.compact(&options, &mut |report| {
            progress.at(report.copied);
            if interrupt.check().is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        volume.close()?;
        drop(progress);
        interrupt.check()?;
        if !context.out.json {
            let (blocks, copied) = (report.composed, exact(report.copied));
            context.out.line(&format!("{name}: {blocks} of {} blocks composed, {copied} copied", report.examined))?;
        }
        done.push(json!({
            "name": name, "examined": report.examined, "composed": report.composed, "copied": report.copied,
        }));
    }
    if context.out.json { context.out.document(&done) } else { Ok(()) }
}
