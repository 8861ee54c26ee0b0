//! What long runs did, in a file that is part of the source (docs/crashes.md).

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

use crate::run::Figures;

/// Adds a line about `stores` stores, of which the first had the seed `first`.
pub fn append(path: &str, disk: &str, first: u64, stores: u64, cycles: u64, figures: &Figures, failures: u64) {
    let date = output("date", &["-u", "+%Y-%m-%d"]);
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
    let line = format!(
        "{date}\t{commit}\t{disk}\t{first}\t{stores}\t{cycles}\t{}\t{}\t{}\t{}\t{failures}\t{}\n",
        figures.cuts,
        figures.kills,
        figures.cuts_in_recovery,
        figures.kills_in_recovery,
        figures.tally.summary(),
    );
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(line.as_bytes()).unwrap();
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or("unknown".to_string(), |output| String::from_utf8_lossy(&output.stdout).trim().to_string())
}
