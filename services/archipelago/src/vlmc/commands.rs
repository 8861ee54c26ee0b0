//! The commands of the original on the engine of today.

use archipelago_core::limits::{MAX_LIST_PAGE, MIN_NAME};
use archipelago_core::store::content::HashOptions;
use archipelago_core::{CloneOptions, CreateOptions, Error, Kind, ListOptions, MapExtent, MapSource, VolumeInfo, name};
use serde_json::json;

use super::Refusal;
use super::args::{Command, Create, Lock, Map, Mapinfo, Named, Rename, Resize, Showmapped, Snapshot, Unmap};
use crate::attach::AttachError;
use crate::cli::args::Node;
use crate::cli::commands::attach;
use crate::cli::exit::Failure;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::VolumeDocument;
use crate::cli::{self, Context};

type Done = Result<(), Refusal>;

const SHORT: &str = "Name should have at least len 6";
const NO_SIZE: &str = "At least one of the size/snap args must be provided";
const BAD_NAME: &str = "Invalid volume name";
const BAD_SNAPSHOT: &str = "Invalid snapshot name";

/// Runs a command.
pub fn run(context: &mut Context, command: Command) -> Done {
    match command {
        Command::Create(args) => create(context, &args),
        Command::Remove(args) => remove(context, &args),
        Command::Map(args) => map(context, args),
        Command::Unmap(args) => unmap(context, &args),
        Command::Showmapped(args) => showmapped(context, &args),
        Command::List => list(context),
        Command::Snapshot(args) => snapshot(context, &args),
        Command::Rename(args) => rename(context, &args),
        Command::Resize(args) => resize(context, &args),
        Command::Hash(args) => hash(context, &args),
        Command::Open(args) => held_by_nobody(context, &args.name, "vlmc open failed", "opens a volume for itself"),
        Command::Close(args) => {
            held_by_nobody(context, &args.name, "vlmc close failed", "closes a volume when it ends")
        }
        Command::Lock(args) => {
            held_by_nobody(context, &args.name, "vlmc lock failed", "locks a volume for as long as it has it open")
        }
        Command::Unlock(args) => unlock(context, &args),
        Command::LockInfo(args) => lock_info(context, &args),
        Command::Info(args) => info(context, &args),
        Command::Mapinfo(args) => mapinfo(context, &args),
    }
}

fn long_enough(name: &str) -> Done {
    if name.len() < MIN_NAME { Err(Refusal::usage(SHORT)) } else { Ok(()) }
}

/// Checks a name that something is to get.
fn good_name(name: &str, text: &str) -> Done {
    name::check(name).map_err(|error| Refusal::of(text, error))
}

fn document(context: &mut Context, info: VolumeInfo) -> Done {
    if context.out.json {
        context.out.document(&VolumeDocument::from(info))?;
    }
    Ok(())
}

fn line(context: &mut Context, text: &str) -> Done {
    Ok(context.out.line(text)?)
}

fn create(context: &mut Context, args: &Create) -> Done {
    long_enough(&args.name)?;
    // The original took an empty name of a snapshot for none.
    let snapshot = args.snap.as_ref().filter(|name| !name.is_empty());
    if args.size.is_none() && snapshot.is_none() {
        return Err(Refusal::usage(NO_SIZE));
    }
    good_name(&args.name, BAD_NAME)?;
    let store = context.store()?;
    let made = match snapshot {
        Some(snapshot) => {
            store.clone_snapshot(snapshot, &args.name, &CloneOptions { size: args.size.filter(|size| *size > 0) })
        }
        None => store.create(&args.name, &CreateOptions { size: args.size.unwrap_or(0), block_size: None }),
    };
    document(context, made.map_err(|error| Refusal::of("vlmc creation failed", error))?)
}

fn remove(context: &mut Context, args: &Named) -> Done {
    let store = context.store()?;
    store.remove(&args.name).map_err(|error| {
        let text = match &error {
            Error::OpenElsewhere { .. } => store.info(&args.name).ok().and_then(|info| device_of(context, &info.id)),
            _ => None,
        };
        let text = text.map(|device| format!("Volume {} mapped on device {device}", args.name));
        Refusal::of(text.as_deref().unwrap_or("vlmc removal failed"), error)
    })?;
    if context.out.json {
        context.out.document(&json!({ "removed": [args.name] }))?;
    }
    Ok(())
}

fn map(context: &mut Context, args: Map) -> Done {
    let info = context.store()?.info(&args.name).map_err(Failure::from)?;
    if args.readonly && info.kind == Kind::Volume {
        let reason = format!("{}: a volume is attached for writing; take a snapshot, and attach that", args.name);
        return Err(Failure::from(Error::Unsupported(reason)).into());
    }
    let wanted = cli::args::Map { name: args.name, file: false, driver: None, node: args.node };
    let attached = attach::attach(context, &wanted)?;
    if context.out.json {
        return Ok(context.out.document(&attached)?);
    }
    // As the original did.
    eprintln!("{}", attached.path().display());
    Ok(())
}

fn unmap(context: &Context, args: &Unmap) -> Done {
    attach::attacher(context, &args.node)?.detach(&args.device).map_err(|error| {
        let text = match &error {
            AttachError::NotAttached(_) => "Device doesn't exist".to_string(),
            AttachError::InUse { by, .. } if by.contains("PID") => format!("Device is busy{by}"),
            AttachError::InUse { .. } => "Device is mounted. Cannot unmap device.".to_string(),
            _ => String::new(),
        };
        Refusal::of(&text, error)
    })
}

fn showmapped(context: &mut Context, args: &Showmapped) -> Done {
    let list = attach::attacher(context, &args.node)?.list().map_err(Failure::from)?;
    if context.out.json {
        return Ok(context.out.document(&list)?);
    }
    if list.is_empty() {
        return line(context, "No volumes mapped");
    }
    line(context, "id\timage\t\tdevice")?;
    for (id, attached) in list.iter().enumerate() {
        line(context, &format!("{id}\t{}\t\t{}", attached.record.name, attached.path().display()))?;
    }
    Ok(())
}

/// The device over a volume that is attached on this node.
fn device_of(context: &Context, id: &str) -> Option<String> {
    let node = Node { node: std::env::var("ARCHIPELAGO_NODE").ok() };
    let list = attach::attacher(context, &node).ok()?.list().ok()?;
    list.iter().find(|attached| attached.served && attached.record.id == id).map(|a| a.path().display().to_string())
}

fn list(context: &mut Context) -> Done {
    let store = context.store()?;
    let mut options = ListOptions { limit: MAX_LIST_PAGE, ..ListOptions::default() };
    let mut names = Vec::new();
    let mut damaged = None;
    loop {
        let page = store.list(&options).map_err(Failure::from)?;
        damaged = damaged.or(page.damaged.into_iter().next());
        for info in page.entries.into_iter().filter(|info| info.kind != Kind::Group) {
            if context.out.json { names.push(info.name) } else { line(context, &info.name)? }
        }
        if page.next.is_none() {
            break;
        }
        options.after = page.next;
    }
    if context.out.json {
        context.out.document(&names)?;
    }
    match damaged {
        None => Ok(()),
        Some(entry) => Err(Failure::from(Error::damaged(&entry.name, &entry.message)).into()),
    }
}

fn snapshot(context: &mut Context, args: &Snapshot) -> Done {
    long_enough(&args.name)?;
    good_name(&args.snap, BAD_SNAPSHOT)?;
    let taken = context.store()?.snapshot(&args.name, &args.snap);
    let info = taken.map_err(|error| Refusal::of("vlmc snapshot failed", error))?;
    if !context.out.json {
        line(context, &format!("Snapshot name: {}", args.snap))?;
    }
    document(context, info)
}

fn rename(context: &mut Context, args: &Rename) -> Done {
    long_enough(&args.name)?;
    long_enough(&args.newname)?;
    good_name(&args.newname, BAD_NAME)?;
    let failed = |error| Refusal::of("vlmc rename failed", error);
    let store = context.store()?;
    store.rename(&args.name, &args.newname).map_err(failed)?;
    if !context.out.json {
        return line(context, &format!("Renamed {} to {}", args.name, args.newname));
    }
    let info = store.info(&args.newname).map_err(failed)?;
    document(context, info)
}

fn resize(context: &mut Context, args: &Resize) -> Done {
    let failed = |error| Refusal::of("vlmc resize failed", error);
    let store = context.store()?;
    store.resize(&args.name, args.size, args.force).map_err(failed)?;
    if !context.out.json {
        return Ok(());
    }
    let info = store.info(&args.name).map_err(failed)?;
    document(context, info)
}

fn hash(context: &mut Context, args: &Named) -> Done {
    long_enough(&args.name)?;
    let interrupt = Interrupt::install()?;
    let hashed = context.store()?.hash(&args.name, &HashOptions::default(), &mut |_| interrupt.check().is_ok());
    let hashed = hashed.map_err(|error| Refusal::of("vlmc hash failed", error))?;
    let Some(digest) = hashed.top_hash else { return Ok(interrupt.check()?) };
    if context.out.json {
        return Ok(context.out.document(&json!({ "name": args.name, "top_hash": digest.to_string() }))?);
    }
    line(context, &format!("Hash name: {digest}"))
}

/// What the original kept open between two of its commands, and nobody can here: a volume is open as long as the process lives that opened it.
fn held_by_nobody(context: &mut Context, name: &str, text: &str, what: &str) -> Done {
    long_enough(name)?;
    let refused = |error| Refusal::of(text, error);
    let info = context.store()?.info(name).map_err(refused)?;
    if let Some(owner) = info.open_by {
        let advice = "it is given back when that process closes it or ends";
        return Err(refused(Error::OpenElsewhere { name: info.name, owner: Box::new(owner), advice }));
    }
    let reason = format!("{name}: a process {what}, and nothing stays open behind it; see `archipelago serve`");
    Err(refused(Error::Unsupported(reason)))
}

fn unlock(context: &mut Context, args: &Lock) -> Done {
    let what = if args.force {
        "locks a volume, and its lock ends with it, however it ends: there is none that must be broken"
    } else {
        "locks a volume for as long as it has it open, and nobody has it open"
    };
    held_by_nobody(context, &args.name, "vlmc unlock failed", what)
}

fn lock_info(context: &mut Context, args: &Named) -> Done {
    long_enough(&args.name)?;
    let info = context.store()?.info(&args.name).map_err(Failure::from)?;
    if context.out.json {
        return Ok(context.out.document(&json!({ "name": info.name, "open_by": info.open_by }))?);
    }
    let state = info.open_by.map_or("not locked".into(), |owner| format!("locked by {owner}"));
    line(context, &format!("Volume {}: {state}", info.name))
}

fn info(context: &mut Context, args: &Named) -> Done {
    long_enough(&args.name)?;
    let info = context.store()?.info(&args.name).map_err(|error| Refusal::of("vlmc info failed", error))?;
    if context.out.json {
        return document(context, info);
    }
    line(context, &format!("Volume {}: size: {}", info.name, info.size))
}

fn mapinfo(context: &mut Context, args: &Mapinfo) -> Done {
    let store = context.store()?;
    let mut extents = Vec::new();
    let mut failed = Ok(());
    let json = context.out.json;
    let walked = store.map_extents(&args.name, 0, u64::MAX, &mut |extent: MapExtent| {
        let zero = extent.source == MapSource::Zero;
        if zero && !args.verbose {
            return Ok(());
        }
        if json {
            extents.push(json!({ "offset": extent.offset, "len": extent.len, "zero": zero }));
            return Ok(());
        }
        let what = if zero { "zero" } else { "data" };
        failed = context.out.line(&format!("{}\t{}\t{what}", extent.offset, extent.len));
        if failed.is_ok() { Ok(()) } else { Err(Error::Unsupported("standard output failed".into())) }
    });
    failed?;
    walked.map_err(|error| Refusal::of("vlmc mapinfo failed", error))?;
    if json { Ok(context.out.document(&extents)?) } else { Ok(()) }
}
