//! `bench`

use super::super::Context;
use super::super::exit::{Class, Failure};
use super::super::interrupt::Interrupt;
use crate::bench::args::Bench;
use crate::bench::{End, Open, Progress, Report, open, run as measure};

/// Measures, and reports what was measured however it ended.
pub fn run(context: &mut Context, args: &Bench) -> Result<(), Failure> {
    let interrupt = Interrupt::install()?;
    let Open { plan, mut target } = open(args, &|| context.store(), &|| interrupt.check())?;
    let mut progress = Progress::new(args, &plan, context.out.json);
    let mut measured = measure(&plan, &mut *target, args.insanity, &|| interrupt.check(), &mut progress)?;
    drop(progress);
    let report = Report::new(&plan, target.describe(), target.copies(), &measured);
    // What the engine still writes in the background is done before the program ends.
    drop(target);
    if context.out.json {
        context.out.document(&report)?;
    } else {
        report.lines().iter().try_for_each(|line| context.out.line(line))?;
    }
    let first = measured.record.first_failure.take();
    match measured.end {
        End::Broken(failure) => Err(failure),
        // The report says that it was cut short.
        End::Stopped(why) => Err(Failure::Reported(why.class())),
        End::All | End::Time if measured.record.corrupted > 0 => Err(Failure::Reported(Class::Io)),
        End::All | End::Time => match first {
            Some(failure) => {
                context.report(&failure);
                Err(Failure::Reported(failure.class()))
            }
            None => Ok(()),
        },
    }
}
