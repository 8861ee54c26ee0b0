//! The options of `bench`. Those that the original has are spelled as it does, and also with its single dash: see [`spelled_out`].

use std::ffi::OsString;

use clap::{Args, ValueEnum};

use super::limits::MAX_DEPTH;
use crate::cli::size;

/// `bench`
#[derive(Args, Debug)]
#[group(skip)]
pub struct Bench {
    /// What is measured: nbd+unix:///EXPORT?socket=/PATH, nbd://HOST:PORT/EXPORT, or the path of a block device or file [default: volumes of
    /// the store, by the engine in this process]
    pub target: Option<String>,
    /// What is asked for
    #[arg(long, value_enum)]
    pub op: Op,
    /// Of mixed requests, this many of a hundred are reads
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub reads: u8,
    /// In order, or in an order of chance in which each request occurs exactly once
    #[arg(long, value_enum, default_value = "seq")]
    pub pattern: Pattern,
    /// Objects in all. An object is a volume that is named PREFIX-SEED-NUMBER
    #[arg(long, value_name = "N", conflicts_with = "ts")]
    pub to: Option<u64>,
    /// Bytes of all requests together
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub ts: Option<u64>,
    /// Size of an object [default: 4M; with --objname and with a target, all of it]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub os: Option<u64>,
    /// Size of a request
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = size::parse)]
    pub bs: u64,
    /// Requests that are under way at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MAX_DEPTH as i64))]
    pub iodepth: u16,
    /// Go on for this long, over and over in a new order, instead of to the last request
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub runtime: Option<u64>,
    /// Number of up to 9 digits for names, order and content [default: one of chance]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=999_999_999))]
    pub seed: Option<u32>,
    /// Start of the names of objects [default: bench]
    #[arg(long, value_name = "NAME", conflicts_with = "objname")]
    pub prefix: Option<String>,
    /// One object of this name: a volume or snapshot that exists, or is made by writing
    #[arg(long, value_name = "NAME")]
    pub objname: Option<String>,
    /// What is written, and compared when it is read: anything; seed, object and place at both ends of each request; or every byte
    #[arg(long, value_enum, default_value = "no")]
    pub verify: Verify,
    /// Which timers run: for the whole; also for each request; also for submitting it; also for making and checking it
    #[arg(long, value_enum, default_value = "eccentric")]
    pub insanity: Insanity,
    /// Show how far it is [default: on a terminal]
    #[arg(long, value_enum, value_name = "yes|no", hide_possible_values = true)]
    pub progress: Option<YesNo>,
    /// Show requests, or input and output per second, or both
    #[arg(long, value_enum, default_value = "both")]
    pub ptype: Shown,
    /// Show it every so many requests, or every so many hundredths of the whole
    #[arg(long, value_name = "N|P%", default_value = "5%", value_parser = parse_interval)]
    pub pinterval: Interval,
    /// Wait for the target to answer first, for half a minute
    #[arg(long, value_enum, value_name = "yes|no", default_value = "no", hide_possible_values = true)]
    pub ping: YesNo,
    /// Bypass the page cache of this machine; block devices and files only
    #[arg(long)]
    pub direct: bool,
    /// Write over what a volume, export, device or file has; with --objname, also allow to delete
    #[arg(long)]
    pub overwrite: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Op {
    /// Read objects
    Read,
    /// Write objects; volumes that do not exist are made
    Write,
    /// Read and write in turns of chance
    Mixed,
    /// Ask for the facts about volumes
    Info,
    /// Remove volumes
    Delete,
}

/// The order of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// One after another
    Seq,
    /// By chance, each once
    Rand,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// Nothing
    No,
    /// Both ends of each request
    Meta,
    /// Every byte
    Full,
}

/// Which timers run; each has those before it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Insanity {
    /// Of the whole
    Sane,
    /// Of each request
    Eccentric,
    /// Of submitting it
    Manic,
    /// Of making and checking it
    Paranoid,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum YesNo {
    /// Do it
    Yes,
    /// Do not
    No,
}

/// What is shown meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shown {
    /// Numbers of requests
    Req,
    /// Input and output per second
    Io,
    /// Both
    Both,
}

/// How often it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// Every so many requests.
    Requests(u64),
    /// Every so many hundredths of the whole.
    Percent(u8),
}

fn parse_interval(text: &str) -> Result<Interval, String> {
    let parsed = match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|p| (1..=100).contains(p)).map(Interval::Percent),
        None => text.parse().ok().filter(|n| *n > 0).map(Interval::Requests),
    };
    parsed.ok_or_else(|| "write a number of requests, or a percentage from 1% to 100%".into())
}

/// Options of the original that are no options here: several letters behind one dash, after the name of the command.
pub fn spelled_out(arguments: Vec<OsString>) -> Vec<OsString> {
    let (mut bench, mut options) = (false, true);
    let spell = |argument: OsString| {
        options &= argument != "--";
        bench |= argument == "bench";
        match argument.to_str() {
            Some(short @ ("-op" | "-to" | "-ts" | "-os" | "-bs")) if bench && options => format!("-{short}").into(),
            _ => argument,
        }
    };
    arguments.into_iter().map(spell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_with_one_dash_are_spelled_out_behind_the_command_alone() {
        let spelled = |words: &[&str]| spelled_out(words.iter().map(OsString::from).collect());
        assert_eq!(
            spelled(&["archipelago", "bench", "-op", "read", "-to", "1", "--", "-os"]),
            ["archipelago", "bench", "--op", "read", "--to", "1", "--", "-os"]
        );
        assert_eq!(spelled(&["archipelago", "list", "-os"]), ["archipelago", "list", "-os"]);
    }

    #[test]
    fn intervals_are_numbers_or_percentages() {
        assert_eq!(parse_interval("1000"), Ok(Interval::Requests(1000)));
        assert_eq!(parse_interval("5%"), Ok(Interval::Percent(5)));
        for bad in ["", "0", "0%", "101%", "five", "-1"] {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }
}
