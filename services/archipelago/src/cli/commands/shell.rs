//! What is made from the table of arguments: completions and man pages.

use clap::CommandFactory;

use super::super::Context;
use super::super::args::{Cli, Completions, Man, Program};
use super::super::exit::Failure;
use crate::vlmc::{self, args::Vlmc};

/// `completions SHELL`
pub fn completions(context: &mut Context, args: &Completions) -> Result<(), Failure> {
    // Through a buffer: the generator cannot report that nobody reads.
    let mut script = Vec::new();
    let (mut command, name) = match args.of {
        Program::Archipelago => (Cli::command(), "archipelago"),
        Program::Vlmc => (Vlmc::command(), vlmc::NAME),
    };
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    context.out.raw(&String::from_utf8_lossy(&script))
}

/// `man DIR`
pub fn man(args: &Man) -> Result<(), Failure> {
    let failed = |op| move |e| Failure::host(op, args.dir.display(), e);
    std::fs::create_dir_all(&args.dir).map_err(failed("make"))?;
    for command in [Cli::command(), Vlmc::command()] {
        clap_mangen::generate_to(command, &args.dir).map_err(failed("write man pages to"))?;
    }
    Ok(())
}
