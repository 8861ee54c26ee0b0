//! The command line of `vlmc` as data: names, arguments and abbreviations of the original.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

use crate::cli::args::{Global, Node};
use crate::cli::{exit, size};

/// Work with volumes as the volume tool of the original Archipelago did.
///
/// Names, arguments and texts are the original's, for scripts that were written for it; the volumes are those of the store that
/// `archipelago` works with. Sizes are MiB, or carry a suffix: K, M, G, T or P (powers of 1024).
#[derive(Debug, Parser)]
#[command(name = "vlmc", version, after_help = exit::HELP, max_term_width = 100, infer_long_args = true)]
pub struct Vlmc {
    /// What applies to every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a volume: empty, or a clone of a snapshot
    Create(Create),
    /// Remove a volume or snapshot
    #[command(alias = "rm")]
    Remove(Named),
    /// Attach a volume or snapshot as a block device; its path goes to standard error
    Map(Map),
    /// Take a block device away
    Unmap(Unmap),
    /// List the volumes that have a device
    Showmapped(Showmapped),
    /// List volumes and snapshots, a name on each line
    #[command(alias = "ls")]
    List,
    /// Take a snapshot
    Snapshot(Snapshot),
    /// Give a volume or snapshot another name
    Rename(Rename),
    /// Set the size of a volume
    Resize(Resize),
    /// Compute the hash of a snapshot
    Hash(Named),
    /// Not here: see the message
    Open(Named),
    /// Not here: see the message
    Close(Named),
    /// Not here: see the message
    Lock(Lock),
    /// Not here: see the message
    Unlock(Lock),
    /// Show who has a volume open for writing
    LockInfo(Named),
    /// Show the size
    Info(Named),
    /// Show where the data is
    Mapinfo(Mapinfo),
}

/// What the original needed to open maps without a header. There are none in a store of this program.
#[derive(Args, Debug, Default)]
pub struct AssumeV0 {
    /// Without effect: maps of version 0 come in through `archipelago import-legacy`
    #[arg(long = "assume_v0")]
    pub assume_v0: bool,
    /// Without effect, as --assume_v0
    #[arg(long = "v0_size", value_name = "BYTES", allow_negative_numbers = true)]
    pub v0_size: Option<i64>,
}

/// A command that takes a name and no more.
#[derive(Args, Debug)]
pub struct Named {
    /// Volume or snapshot
    pub name: String,
    /// Ignored.
    #[command(flatten)]
    pub v0: AssumeV0,
}

/// `create`
#[derive(Args, Debug)]
pub struct Create {
    /// Name of the volume
    pub name: String,
    /// Size in MiB, or with a suffix
    #[arg(long, short, value_name = "SIZE", value_parser = mebibytes)]
    pub size: Option<u64>,
    /// Snapshot to clone
    #[arg(long)]
    pub snap: Option<String>,
    /// Ignored.
    #[command(flatten)]
    pub v0: AssumeV0,
}

/// `map`
#[derive(Args, Debug)]
pub struct Map {
    /// Volume or snapshot
    pub name: String,
    /// Read-only, which snapshots are in any case, and volumes never
    #[arg(long)]
    pub readonly: bool,
    /// Which node.
    #[command(flatten)]
    pub node: Node,
    /// Ignored.
    #[command(flatten)]
    pub v0: AssumeV0,
}

/// `unmap`
#[derive(Args, Debug)]
pub struct Unmap {
    /// The device
    pub device: String,
    /// Which node.
    #[command(flatten)]
    pub node: Node,
}

/// `showmapped`
#[derive(Args, Debug)]
pub struct Showmapped {
    /// Which node.
    #[command(flatten)]
    pub node: Node,
}

/// `snapshot`
#[derive(Args, Debug)]
pub struct Snapshot {
    /// The volume
    pub name: String,
    /// Name of the snapshot
    pub snap: String,
    /// Ignored.
    #[command(flatten)]
    pub v0: AssumeV0,
}

/// `rename`
#[derive(Args, Debug)]
pub struct Rename {
    /// Present name
    pub name: String,
    /// New name
    pub newname: String,
    /// Ignored.
    #[command(flatten)]
    pub v0: AssumeV0,
}

/// `resize`
#[derive(Args, Debug)]
pub struct Resize {
    /// The volume
    pub name: String,
    /// New size in MiB, or with a suffix
    #[arg(long, short, value_name = "SIZE", value_parser = mebibytes)]
    pub size: u64,
    /// Allow a smaller size; what lies behind it is lost
    #[arg(long, short)]
    pub force: bool,
    /// Ignored.
    #[command(flatten)]
    pub v0: AssumeV0,
}

/// `lock` and `unlock`
#[derive(Args, Debug)]
pub struct Lock {
    /// The volume
    pub name: String,
    /// Also a lock of somebody else
    #[arg(long, short)]
    pub force: bool,
}

/// `mapinfo`
#[derive(Args, Debug)]
pub struct Mapinfo {
    /// Volume or snapshot
    pub name: String,
    /// Also ranges that are zero
    #[arg(long, short)]
    pub verbose: bool,
}

/// Reads a size: plain numbers are MiB, as in the original.
fn mebibytes(text: &str) -> Result<u64, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return size::parse(&format!("{text}M"));
    }
    size::parse(text)
}

/// Options of the original that are no options here: several letters behind one dash.
pub fn spelled_out(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut options = true;
    let spell = |argument: OsString| {
        options &= argument != "--";
        match argument.to_str() {
            Some("-v0") if options => "--assume_v0".into(),
            Some("-ro") if options => "--readonly".into(),
            _ => argument,
        }
    };
    arguments.into_iter().map(spell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_table_of_arguments_is_consistent() {
        Vlmc::command().debug_assert();
    }

    #[test]
    fn plain_sizes_are_mebibytes() {
        assert_eq!(mebibytes("10"), Ok(10 << 20));
        assert_eq!(mebibytes("1.5G"), Ok(3 << 29));
        assert_eq!(mebibytes("4096K"), Ok(4 << 20));
        for bad in ["", "-1", "1.5", "ten", "99999999999999999999"] {
            assert!(mebibytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_with_one_dash_are_spelled_out_as_far_as_options_go() {
        let spelled = spelled_out(["vlmc", "map", "-ro", "-v0", "--", "-ro"].map(OsString::from));
        assert_eq!(spelled, ["vlmc", "map", "--readonly", "--assume_v0", "--", "-ro"]);
    }
}
