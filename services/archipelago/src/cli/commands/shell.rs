//! What is made from the table of arguments: completions and man pages.

use clap::CommandFactory;

use super::super::Context;
use super::super::args::{Cli, Completions, Man};
use super::super::exit::Failure;

/// `completions SHELL`
pub fn completions(context: &mut Context, args: &Completions) -> Result<(), Failure> {
    // Through a buffer: the generator cannot report that nobody reads.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "archipelago", &mut script);
    context.out.raw(&String::from_utf8_lossy(&script))
}

/// `man DIR`
pub fn man(args: &Man) -> Result<(), Failure> {
    let failed = |op| move |e| Failure::host(op, args.dir.display(), e);
    std::fs::create_dir_all(&args.dir).map_err(failed("make"))?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(failed("write man pages to"))
}
