//! The command line as data: from this come parsing, help, man pages and completions.

use std::path::PathBuf;

use archipelago_core::limits::MAX_CLONE_COUNT;
use clap::builder::{RangedU64ValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{exit, size};

/// Store disks, images and snapshots as maps over one pool of blocks.
///
/// A clone of a snapshot takes constant time and shares its data. Sizes are bytes, or carry a suffix: K, M, G, T or P
/// (powers of 1024, also written KiB, MiB, ...), as in 512M or 1.5T.
#[derive(Debug, Parser)]
#[command(name = "archipelago", version, after_help = exit::HELP, max_term_width = 100)]
pub struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
pub struct Global {
    /// The store, written file:/path. Otherwise `store` of the configuration file is used
    #[arg(long, global = true, env = "ARCHIPELAGO_STORE", value_name = "file:/PATH")]
    pub store: Option<String>,
    /// Configuration file to read instead of the default ones
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON document, and errors as JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a store in a directory that is empty or does not exist
    Init(Init),
    /// Make an empty volume
    Create(Create),
    /// Make writable clones of a snapshot, in constant time
    Clone(Clone),
    /// Take a snapshot of a volume, also while it is in use
    Snapshot(Snapshot),
    /// Remove volumes and snapshots; goes on after an error
    #[command(visible_alias = "rm")]
    Remove(Remove),
    /// Give a volume or snapshot another name
    Rename(Rename),
    /// Set the size of a volume, also while it is in use
    Resize(Resize),
    /// List volumes and snapshots in the order of their names
    #[command(visible_alias = "ls")]
    List(List),
    /// Show the facts about a volume or snapshot, and how much of it is its own
    Info(Info),
    /// Show where the data of a volume or snapshot is
    Mapinfo(Mapinfo),
    /// Show the ranges in which two volumes or snapshots may differ
    Diff(Diff),
    /// Make a volume from a disk image
    Import(Import),
    /// Write a volume or snapshot to a file, leaving holes where it is zero
    Export(Export),
    /// Compute the hash of a snapshot, and of each of its blocks
    Hash(Hash),
    /// Serve volumes as network block devices until SIGTERM or SIGINT
    Serve(Serve),
    /// Show the state of the store
    Status,
    /// Print completions for a shell
    Completions(Completions),
    /// Write the man pages to a directory
    Man(Man),
}

/// `hash`
#[derive(Args, Debug)]
pub struct Hash {
    /// The snapshot; it may be in use. A volume has to be snapshotted first
    pub name: String,
    /// Read at most this much in a second, on average
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub rate: Option<u64>,
}

/// `init`
#[derive(Args, Debug)]
pub struct Init {
    /// Block size of new volumes: a power of two, 64K to 64M
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = size::parse)]
    pub block_size: u64,
    /// Permission bits of the store's files, in octal
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = parse_mode)]
    pub mode: u32,
    /// Group of the store's files: name or number
    #[arg(long)]
    pub group: Option<String>,
}

/// `create`
#[derive(Args, Debug)]
pub struct Create {
    /// Name of the volume: 6 to 82 bytes
    pub name: String,
    /// Size of the volume
    #[arg(long, short, value_parser = size::parse)]
    pub size: u64,
    /// Block size: a power of two, 64K to 64M [default: the store's]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub block_size: Option<u64>,
}

/// `clone`
#[derive(Args, Debug)]
pub struct Clone {
    /// The snapshot
    pub snapshot: String,
    /// Name of the clone
    pub name: String,
    /// Size of the clone, at least the snapshot's [default: the snapshot's]
    #[arg(long, short, value_parser = size::parse)]
    pub size: Option<u64>,
    /// Make this many clones at once, named NAME-0001, NAME-0002 and so on; all or none
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..=MAX_CLONE_COUNT as u64).map(|n| n as usize))]
    pub count: Option<usize>,
}

/// `snapshot`
#[derive(Args, Debug)]
pub struct Snapshot {
    /// The volume
    pub volume: String,
    /// Name of the snapshot
    pub name: String,
}

/// `remove`
#[derive(Args, Debug)]
pub struct Remove {
    /// Volumes and snapshots, in any order
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// `rename`
#[derive(Args, Debug)]
pub struct Rename {
    /// Present name
    pub old: String,
    /// New name
    pub new: String,
}

/// `resize`
#[derive(Args, Debug)]
pub struct Resize {
    /// The volume
    pub name: String,
    /// New size
    #[arg(value_parser = size::parse)]
    pub size: u64,
    /// Allow a smaller size; what lies behind it is lost
    #[arg(long)]
    pub shrink: bool,
}

/// `list`
#[derive(Args, Debug)]
pub struct List {
    /// Only names that start with this
    #[arg(long, default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// Only names that sort after this one
    #[arg(long, value_name = "NAME")]
    pub after: Option<String>,
    /// At most this many [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Also show how much of each is its own; slow with many
    #[arg(long)]
    pub usage: bool,
}

/// `info`
#[derive(Args, Debug)]
pub struct Info {
    /// Volume or snapshot
    pub name: String,
}

/// `mapinfo`
#[derive(Args, Debug)]
pub struct Mapinfo {
    /// Volume or snapshot
    pub name: String,
    /// First byte
    #[arg(long, default_value = "0", value_parser = size::parse)]
    pub offset: u64,
    /// Bytes to show [default: to the end]
    #[arg(long, value_parser = size::parse)]
    pub length: Option<u64>,
}

/// `diff`
#[derive(Args, Debug)]
pub struct Diff {
    /// The older one
    pub a: String,
    /// The newer one
    pub b: String,
}

/// Formats of images to import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    /// The bytes of the disk
    Raw,
    /// QEMU copy-on-write, version 2 or 3, without a backing file
    Qcow2,
}

/// `import`
#[derive(Args, Debug)]
pub struct Import {
    /// The image; `-` for standard input (raw only)
    pub file: PathBuf,
    /// Name of the new volume
    pub name: String,
    /// Format of the image; it is never guessed
    #[arg(long, short, value_enum)]
    pub format: ImportFormat,
    /// Also take a snapshot of the volume under this name
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
    /// Refuse images of disks larger than this [default: 4P]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub max_size: Option<u64>,
}

/// Formats of exported files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// The bytes of the disk
    Raw,
}

/// `export`
#[derive(Args, Debug)]
pub struct Export {
    /// Volume or snapshot; not while it is open elsewhere, then take a snapshot first
    pub name: String,
    /// The file; `-` for standard output
    pub file: PathBuf,
    /// Format of the file
    #[arg(long, short, value_enum, default_value = "raw")]
    pub format: ExportFormat,
    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
}

/// `serve`
#[derive(Args, Debug)]
pub struct Serve {
    /// Where to listen: unix:/PATH or tcp:ADDRESS:PORT; may be repeated [default: `serve.nbd` of the configuration]
    #[arg(long, value_name = "ADDRESS")]
    pub nbd: Vec<String>,
    /// Permission bits of Unix sockets, in octal; whoever may write to one may use every volume
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = parse_mode)]
    pub socket_mode: u32,
    /// Allow TCP addresses that other hosts can reach; there is no encryption and no password
    #[arg(long)]
    pub allow_remote: bool,
    /// Write the process id to this file, and remove it at the end
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Write a line to this descriptor (a pipe or file) when ready, instead of to standard output
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ready_fd: Option<u32>,
}

/// `completions`
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `man`
#[derive(Args, Debug)]
pub struct Man {
    /// The directory; made if it does not exist
    pub dir: PathBuf,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 => Ok(mode),
        _ => Err("write three octal digits that let the owner read and write, for example 0660".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_table_of_arguments_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn modes_that_lock_the_owner_out_are_refused() {
        assert_eq!(parse_mode("0660"), Ok(0o660));
        assert_eq!(parse_mode("600"), Ok(0o600));
        for bad in ["", "0060", "1777", "8", "rw"] {
            assert!(parse_mode(bad).is_err(), "{bad}");
        }
    }
}
