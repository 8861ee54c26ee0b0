//! Commands about a store as a whole.

use archipelago_core::{InitOptions, SpaceByKind, Store, StoreStatus};
use nix::unistd::Group;
use serde::Serialize;
use serde_json::json;

use super::super::args::Init;
use super::super::exit::Failure;
use super::super::output::{Align, Table, exact, time};
use super::super::{Context, size};

/// Permission bits of a store's files unless somebody says otherwise: its group works with it.
const DEFAULT_MODE: u32 = 0o660;

/// `init`
pub fn init(context: &mut Context, args: &Init) -> Result<(), Failure> {
    let location = context.location()?;
    let known = &context.config().original;
    let group = args.group.as_ref().or(known.group.as_ref()).map(|group| group_id(group)).transpose()?;
    let mode = args.mode.or(known.mode).unwrap_or(DEFAULT_MODE);
    Store::init(&location, &InitOptions { block_size: args.block_size, mode, group })?;
    if !context.out.json {
        return Ok(());
    }
    let status = context.store()?.status()?;
    context.out.document(&json!({
        "location": status.location,
        "uuid": status.uuid,
        "block_size": args.block_size,
        "mode": format!("{mode:04o}"),
        "group": group,
    }))
}

/// The id of a group given by name or number.
fn group_id(text: &str) -> Result<u32, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(Failure::Usage(format!("{text}: no such group; make it first, or give a number"))),
        Err(e) => Err(Failure::host("look up group", text, e.into())),
    }
}

/// What scripts are told of a store.
#[derive(Serialize)]
struct StatusDocument {
    #[serde(flatten)]
    status: StoreStatus,
    kinds: SpaceByKind,
    dedup_ratio: Option<f64>,
}

/// `status`
pub fn status(context: &mut Context) -> Result<(), Failure> {
    let store = context.store()?;
    let (status, kinds) = (store.status()?, store.space_by_kind()?);
    let out = &mut context.out;
    if out.json {
        return out.document(&StatusDocument { status, kinds, dedup_ratio: kinds.dedup_ratio() });
    }
    out.line(&format!("location:    {}", status.location))?;
    out.line(&format!("uuid:        {}", status.uuid))?;
    out.line(&format!("block size:  {}", size::human(status.block_size)))?;
    out.line(&format!("volumes:     {}", status.volumes))?;
    out.line(&format!("snapshots:   {}", status.snapshots))?;
    out.line(&format!("trashed:     {}", status.trashed))?;
    out.line(&format!("size:        {}", exact(status.space.total)))?;
    out.line(&format!("free:        {}", exact(status.space.free)))?;
    let ratio = kinds.dedup_ratio().map_or("-".into(), |ratio| format!("{ratio:.2}"));
    out.line(&format!("mapped:      {}, {ratio} times what it takes", exact(kinds.mapped)))?;
    out.line("")?;
    let mut table = Table::new(&[("KIND", Align::Left), ("OBJECTS", Align::Right), ("SPACE", Align::Right)]);
    for (kind, amount) in [
        ("headers", kinds.headers),
        ("trash", kinds.trash),
        ("data", kinds.data),
        ("checksums", kinds.sums),
        ("journals", kinds.segments),
        ("trees", kinds.packs),
        ("content", kinds.content),
        ("content index", kinds.tables),
        ("of removed", kinds.removed),
    ] {
        table.row(vec![kind.to_string(), amount.objects.to_string(), size::human(amount.bytes)]);
    }
    table.print(out)?;
    if status.processes.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut table = Table::new(&[
        ("PID", Align::Right),
        ("HOST", Align::Left),
        ("COMMAND", Align::Left),
        ("SINCE", Align::Left),
        ("VOLUMES", Align::Left),
    ]);
    let mut notes = Vec::new();
    for process in status.processes {
        let owner = process.owner;
        notes.extend(process.work.into_iter().chain(process.trouble).map(|text| format!("pid {}: {text}", owner.pid)));
        let volumes = if process.volumes.is_empty() { "-".into() } else { process.volumes.join(" ") };
        table.row(vec![owner.pid.to_string(), owner.host, owner.command, time(owner.since), volumes]);
    }
    table.print(out)?;
    notes.iter().try_for_each(|note| out.line(note))
}
