//! The command line as data: from this come parsing, help, man pages and completions.

use std::path::PathBuf;

use archipelago_core::Sharing;
use archipelago_core::limits::MAX_CLONE_COUNT;
use clap::builder::{RangedU64ValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{exit, size};
use crate::attach::Driver;
use crate::bench::args::Bench;
use crate::disk::standby;
use crate::ganeti;

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
    /// The store, written file:/path or rados:pool[/namespace]. Otherwise `store` of the configuration file is used
    #[arg(long, global = true, env = "ARCHIPELAGO_STORE", value_name = "STORE")]
    pub store: Option<String>,
    /// Configuration file to read instead of the default ones
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read and write data past the page cache, as `direct = true` in the configuration file asks for
    #[arg(long, global = true)]
    pub direct: bool,
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
    #[command(alias = "volume-create")]
    Create(Create),
    /// Make writable clones of a snapshot, in constant time
    #[command(alias = "volume-clone")]
    Clone(Clone),
    /// Take a snapshot of a volume, also while it is in use
    #[command(alias = "volume-snapshot")]
    Snapshot(Snapshot),
    /// Remove volumes and snapshots; goes on after an error
    #[command(visible_alias = "rm", alias = "volume-remove")]
    Remove(Remove),
    /// Give a volume or snapshot another name
    Rename(Rename),
    /// Set the size of a volume, also while it is in use
    Resize(Resize),
    /// Gather the pieces of volumes whose blocks lie in many places
    Compact(Compact),
    /// Give up what is in the write-back cache of a volume and not in the volume
    DiscardCache(DiscardCache),
    /// List volumes and snapshots in the order of their names
    #[command(visible_alias = "ls", alias = "volume-list")]
    List(List),
    /// Show the facts about a volume or snapshot, and how much of it is its own
    #[command(alias = "volume-info")]
    Info(Info),
    /// Show where the data of a volume or snapshot is
    Mapinfo(Mapinfo),
    /// Show the ranges in which two volumes or snapshots may differ
    Diff(Diff),
    /// Make a volume from a disk image
    Import(Import),
    /// List or import what a store of the original Archipelago (0.3, 0.4, or older Pithos maps) holds
    ImportLegacy(ImportLegacy),
    /// Write a volume or snapshot to a file, leaving holes where it is zero
    Export(Export),
    /// Compute the hash of a snapshot, and of each of its blocks
    Hash(Hash),
    /// Write a snapshot, or what differs from another one, as a stream to standard output
    Send(Send),
    /// Make a snapshot of a stream from standard input
    Receive(Receive),
    /// Serve volumes as network block devices until SIGTERM or SIGINT
    Serve(Serve),
    /// Have servers of the store read their configuration again, and say how that went
    Reload(Reload),
    /// Attach a volume or snapshot to this machine as a block device, and print its path
    #[command(alias = "volume-present")]
    Map(Map),
    /// Take a block device away again; all that was written is in the store then
    #[command(alias = "volume-unpresent")]
    Unmap(Unmap),
    /// List what is attached to this machine
    #[command(alias = "volume-showpresented")]
    Showmapped(Showmapped),
    /// Serve an attached volume; what `map` starts
    #[command(hide = true)]
    ServeAttached(ServeAttached),
    /// Remove what no volume or snapshot needs any more, beside whatever else goes on
    Gc(Gc),
    /// Show what each volume and snapshot takes alone, which its removal would free, and what it shares
    Du(Du),
    /// Look for what is wrong with this host, the store and the configuration, and say what to do
    Doctor,
    /// Show what volumes that are served do, and how long it takes; again and again
    Top(Top),
    /// Show or set what a volume that is served may do per second
    Limit(Limit),
    /// Show or say which of several servers has a volume
    Standby(Standby),
    /// Measure what the store, a server of network block devices, a block device or a file can do
    Bench(Bench),
    /// Show the state of the store
    Status,
    /// Read the data of snapshots and compare it with its checksums; make those that are missing
    Scrub(Scrub),
    /// Look for damage and leftovers, and repair what needs no invention; also while the store is in use
    #[command(visible_alias = "fsck")]
    Check(Check),
    /// Find volumes that Ganeti made and no longer knows, and remove them if asked to
    Orphans(Orphans),
    /// Print completions for a shell
    Completions(Completions),
    /// Write the man pages to a directory
    Man(Man),
    /// Verbs of the original for its daemons
    #[command(hide = true, aliases = ["stop", "restart"])]
    Start(Original),
    /// Verbs of the original for locks that outlive a command
    #[command(hide = true, aliases = ["volume-close", "volume-lock", "volume-unlock"])]
    VolumeOpen(Original),
    /// Verbs of the original for several stores at once
    #[command(hide = true, aliases = ["backend-info", "backend-create", "backend-remove", "backend-sync", "endpoint-list", "driver-list", "volume-move"])]
    BackendList(Original),
}

/// A verb of the original that has no meaning here, with whatever it was given.
#[derive(Args, Debug)]
pub struct Original {
    /// Not looked at.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
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
    /// Permission bits of the store's files, in octal [default: as `UMASK` of the original's configuration says, or 0660]
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    pub mode: Option<u32>,
    /// Group of the store's files: name or number [default: `GROUP` of the original's configuration, or what the system gives]
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
    #[arg(required_unless_present = "group")]
    pub volume: Option<String>,
    /// Name of the snapshot
    #[arg(required_unless_present = "group")]
    pub name: Option<String>,
    /// Take snapshots of these volumes at one instant, all or none
    #[arg(long, value_name = "VOLUME=NAME", num_args = 1.., conflicts_with_all = ["volume", "name"], value_parser = parse_pair)]
    pub group: Vec<(String, String)>,
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

/// `compact`
#[derive(Args, Debug)]
pub struct Compact {
    /// The volumes; not in use by another process
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Compose blocks that lie in more pieces than this; 0 also copies what is shared with snapshots
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_extents: usize,
    /// Copy at most this much per second
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub rate: Option<u64>,
}

/// `discard-cache`
#[derive(Args, Debug)]
pub struct DiscardCache {
    /// The volumes; not in use by any process
    #[arg(required = true)]
    pub names: Vec<String>,
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

/// `import-legacy`
#[derive(Args, Debug)]
pub struct ImportLegacy {
    /// Maps to import, as the original named them; without any, and without --pattern and --all, lists what is there
    pub names: Vec<String>,
    /// Directory of the maps: `archip_dir` of the original's blocker for maps [default: what the original's configuration says]
    #[arg(long, value_name = "DIR")]
    pub maps: Option<PathBuf>,
    /// Directory of the blocks: `archip_dir` of the original's blocker for blocks [default: what the original's configuration says]
    #[arg(long, value_name = "DIR")]
    pub blocks: Option<PathBuf>,
    /// Import maps whose name matches; `*` stands for any text, `?` for one character; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub pattern: Vec<String>,
    /// Import every map
    #[arg(long, conflicts_with_all = ["names", "pattern"])]
    pub all: bool,
    /// Give a map another name in this store; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = parse_rename)]
    pub rename: Vec<(String, String)>,
    /// Take maps without a header for Pithos maps made before Synnefo 0.16 (version 0)
    #[arg(long)]
    pub assume_v0: bool,
    /// Size of a map of version 0, which does not record it; may be repeated
    #[arg(long, value_name = "NAME=BYTES", value_parser = parse_v0_size)]
    pub v0_size: Vec<(String, u64)>,
    /// File with a name and a size in bytes on each line, as if each were given with --v0-size
    #[arg(long, value_name = "FILE")]
    pub v0_sizes: Option<PathBuf>,
    /// Import volumes that the original has locked; only when it is certain that it does not run
    #[arg(long)]
    pub ignore_locks: bool,
    /// Leave zeros where a block is missing or damaged, and report the range, instead of refusing the map
    #[arg(long)]
    pub skip_damaged: bool,
    /// Make read-only files of the old store files of this one, where they cannot share their room; nobody may alter them from then on
    #[arg(long)]
    pub link: bool,
    /// Check everything but the content of blocks, and say what would be done
    #[arg(long)]
    pub dry_run: bool,
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

/// `send`
#[derive(Args, Debug)]
pub struct Send {
    /// The snapshot
    pub snapshot: String,
    /// A snapshot that the receiver has: only what differs from it is sent
    #[arg(long, value_name = "SNAPSHOT")]
    pub from: Option<String>,
    /// Go on with an interrupted stream: the token that `receive --status` prints
    #[arg(long, value_name = "TOKEN")]
    pub resume: Option<String>,
    /// Say how much would be sent, and send nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `receive`
#[derive(Args, Debug)]
pub struct Receive {
    /// Name of the snapshot to be made
    pub name: String,
    /// Say how far an interrupted stream of that name has come, and the token with which it goes on
    #[arg(long)]
    pub status: bool,
}

/// `serve`
#[derive(Args, Debug)]
pub struct Serve {
    /// Where to listen: unix:/PATH or tcp:ADDRESS:PORT; may be repeated [default: `serve.nbd` of the configuration]
    #[arg(long, value_name = "ADDRESS")]
    pub nbd: Vec<String>,
    /// Attach a volume or snapshot to virtual machines by vhost-user-blk: unix:/PATH=NAME; may be repeated [default:
    /// `serve.vhost_user` of the configuration]
    #[arg(long, value_name = "ADDRESS=NAME")]
    pub vhost_user: Vec<String>,
    /// Permission bits of Unix sockets, in octal; whoever may write to one may use every volume
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = parse_mode)]
    pub socket_mode: u32,
    /// Allow TCP addresses that other hosts can reach without asking clients for certificates; without --tls-cert nothing is encrypted
    /// either
    #[arg(long)]
    pub allow_remote: bool,
    /// Answer clients over TCP only if they use TLS, with this certificate and those between it and its authority (PEM) [default:
    /// `serve.tls_cert` of the configuration]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate (PEM), which nobody else may read [default: `serve.tls_key` of the configuration]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Let in only clients over TCP with a certificate by one of the authorities in this file (PEM) [default: `serve.tls_client_ca` of the
    /// configuration]
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Write the process id to this file, and remove it at the end
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Read this much per second while scrubbing; 0 does not scrub [default: `serve.scrub_rate` of the configuration, or 4M]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub scrub_rate: Option<u64>,
    /// Write a line to this descriptor (a pipe or file) when ready, instead of to standard output
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ready_fd: Option<u32>,
    /// Hash old snapshots every so many seconds, in the background [default: `serve.hash_interval` of the configuration, or never]
    #[arg(long, value_name = "SECONDS")]
    pub hash_interval: Option<u64>,
    /// Read at most this much per second for that [default: `serve.hash_rate` of the configuration, or 16M]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub hash_rate: Option<u64>,
    /// Hash snapshots that were taken so many seconds ago or more [default: `serve.hash_age` of the configuration, or 86400]
    #[arg(long, value_name = "SECONDS")]
    pub hash_age: Option<u64>,
    /// Stand by for volumes that other servers may have, instead of having and keeping those that clients use: shared (taken when a request
    /// needs it, given to who asks for it) if nothing else is said; see `archipelago standby`
    #[arg(long, value_name = "SHARING", num_args = 0..=1, require_equals = true, default_missing_value = "shared", value_parser = standby::parse)]
    pub standby: Option<Sharing>,
    /// Tell figures for Prometheus at this address: 127.0.0.1:PORT or unix:/PATH [default: `serve.metrics` of the configuration, or nowhere]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<String>,
    /// Allow an address for figures that other hosts can reach; whoever comes reads names and loads of volumes
    #[arg(long)]
    pub metrics_allow_remote: bool,
    /// What lines of the log look like: text, logfmt or json [default: `serve.log_format` of the configuration, or text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// The least important lines that are written: error, warn, info or debug [default: `serve.log_level` of the configuration, or info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// `reload`
#[derive(Args, Debug)]
pub struct Reload {
    /// Only the server with this process id
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
}

/// The node for which is attached.
#[derive(Args, Debug)]
pub struct Node {
    /// Keep attachments under the name of this node; where two nodes share a machine, each has its own [default: the host name]
    #[arg(long, value_name = "NAME", env = "ARCHIPELAGO_NODE")]
    pub node: Option<String>,
}

/// `map`
#[derive(Args, Debug)]
pub struct Map {
    /// The volume or snapshot; snapshots are read-only
    pub name: String,
    /// Make a file that is a disk, not a block device; needs no root, but fusermount3
    #[arg(long)]
    pub file: bool,
    /// Make the device by this driver of the kernel [default: the first of these that it has]
    #[arg(long, value_enum, conflicts_with = "file")]
    pub driver: Option<Driver>,
    /// Which node.
    #[command(flatten)]
    pub node: Node,
}

/// `unmap`
#[derive(Args, Debug)]
pub struct Unmap {
    /// The block device or file that `map` printed, or the name of the volume
    #[arg(value_name = "DEVICE|NAME")]
    pub what: String,
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

/// `orphans`
#[derive(Args, Debug)]
pub struct Orphans {
    /// File with the UUIDs of the disks that Ganeti has, as `gnt-instance list --no-headers -o disk.uuids` prints them [default: standard
    /// input]
    #[arg(long, value_name = "FILE")]
    pub live: Option<PathBuf>,
    /// Believe an empty list: Ganeti has no disks at all
    #[arg(long)]
    pub none_live: bool,
    /// Only what is at least this old: Ganeti lists a disk when its instance is complete, which may take as long as copying an image
    #[arg(long, value_name = "SECONDS", default_value_t = ganeti::MIN_AGE)]
    pub min_age: u64,
    /// Detach what is still attached on this node, and remove
    #[arg(long)]
    pub remove: bool,
    /// Where it is attached
    #[command(flatten)]
    pub node: Node,
}

/// `serve-attached`
#[derive(Args, Debug)]
pub struct ServeAttached {
    /// Name of the volume
    pub name: String,
    /// Its id
    pub id: String,
    /// Serve it over NBD as well, on a socket of its own
    #[arg(long)]
    pub socket: bool,
    /// Stand by for it in this way, instead of having it
    #[arg(long, value_name = "SHARING", value_parser = standby::parse)]
    pub standby: Option<Sharing>,
    /// Directory of the attachment
    pub dir: PathBuf,
    /// By what it becomes a device
    #[arg(value_enum)]
    pub driver: Driver,
}

/// `check`
#[derive(Args, Debug)]
pub struct Check {
    /// Only these volumes and snapshots, and what they need [default: the whole store]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Put right what can be put right without inventing data
    #[arg(long)]
    pub repair: bool,
    /// Also read all data, and compare it with its checksums and hashes
    #[arg(long)]
    pub data: bool,
    /// With --data: read at most this much per second [default: no limit]
    #[arg(long, value_name = "SIZE", requires = "data", value_parser = size::parse)]
    pub rate: Option<u64>,
}

/// `scrub`
#[derive(Args, Debug)]
pub struct Scrub {
    /// Read at most this much per second [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub rate: Option<u64>,
}

/// `gc`
#[derive(Args, Debug)]
pub struct Gc {
    /// Only say what would be removed
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Read and free at most this much per second [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub rate: Option<u64>,
    /// Keep content that nothing names for so many seconds after an upload that was told of it ended, or was heard of last
    #[arg(long, value_name = "SECONDS", default_value_t = archipelago_core::limits::CONTENT_GRACE)]
    pub grace: u64,
}

/// `du`
#[derive(Args, Debug)]
pub struct Du {
    /// Only these; all are walked all the same, for they may share [default: all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// `top`
#[derive(Args, Debug)]
pub struct Top {
    /// Seconds between two looks
    #[arg(long, short, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub interval: u64,
    /// Show what was done during one interval, and end
    #[arg(long)]
    pub once: bool,
}

/// `limit`
#[derive(Args, Debug)]
pub struct Limit {
    /// The volume or snapshot
    pub name: String,
    /// Requests per second; 0 for no such limit
    #[arg(long, value_name = "N")]
    pub iops: Option<u64>,
    /// Requests that may come at once after a pause; 0 for a tenth of a second's
    #[arg(long, value_name = "N")]
    pub iops_burst: Option<u64>,
    /// Bytes per second; 0 for no such limit
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub bps: Option<u64>,
    /// Bytes that may come at once after a pause; 0 for a tenth of a second's
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub bps_burst: Option<u64>,
    /// Only show the limits, as without any option
    #[arg(long, conflicts_with_all = ["iops", "iops_burst", "bps", "bps_burst", "none"])]
    pub show: bool,
    /// Take all limits away
    #[arg(long, conflicts_with_all = ["iops", "iops_burst", "bps", "bps_burst"])]
    pub none: bool,
}

/// `standby`
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("sharing").args(["exclusive", "shared", "closed"]))]
pub struct Standby {
    /// The volume
    pub name: String,
    /// Have it and keep it; who had it does not take it back
    #[arg(long)]
    pub exclusive: bool,
    /// Take it when a request needs it, and give it to who asks for it
    #[arg(long)]
    pub shared: bool,
    /// Give it up, with everything written; requests fail
    #[arg(long)]
    pub closed: bool,
    /// Only the server with this registration (`status --json` lists them) [default: the only one that stands by]
    #[arg(long, value_name = "ID")]
    pub process: Option<String>,
}

/// `completions`
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
    /// For this name of the program
    #[arg(long, value_enum, default_value = "archipelago")]
    pub of: Program,
}

/// Names of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// All of it
    Archipelago,
    /// The volume tool of the original
    Vlmc,
}

/// `man`
#[derive(Args, Debug)]
pub struct Man {
    /// The directory; made if it does not exist
    pub dir: PathBuf,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((volume, name)) if !volume.is_empty() && !name.is_empty() => Ok((volume.into(), name.into())),
        _ => {
            Err("write the volume and the name of its snapshot with = between them, for example disk-1=monday-1".into())
        }
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 => Ok(mode),
        _ => Err("write three octal digits that let the owner read and write, for example 0660".into()),
    }
}

fn parse_rename(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.into(), new.into())),
        _ => Err("write the old and the new name with = between them".into()),
    }
}

fn parse_v0_size(text: &str) -> Result<(String, u64), String> {
    match text.split_once('=') {
        Some((name, size)) if !name.is_empty() => Ok((name.into(), size::parse(size)?)),
        _ => Err("write the name and the size with = between them".into()),
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
