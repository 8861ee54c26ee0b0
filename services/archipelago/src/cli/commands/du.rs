//! `du`: what each volume and snapshot takes alone, and what it shares.

use archipelago_core::{DiskUse, Error, MapUse, SpaceByKind};
use serde::Serialize;

use super::super::args::Du;
use super::super::exit::Failure;
use super::super::interrupt::Interrupt;
use super::super::output::{Align, Table, exact};
use super::super::progress::Progress;
use super::super::{Context, size};

/// What scripts are told.
#[derive(Serialize)]
struct Document {
    maps: Vec<MapUse>,
    named: u64,
    shared: u64,
    room: u64,
    free: u64,
}

/// `du`
pub fn run(context: &mut Context, args: &Du) -> Result<(), Failure> {
    let interrupt = Interrupt::install()?;
    let store = context.store()?;
    for name in &args.names {
        store.info(name)?;
    }
    let progress = Progress::of_things(context.out.json);
    let mut stopped = None;
    let found = store.disk_use(&mut |at| {
        progress.at_of(at.maps, at.total, || "maps".to_string());
        interrupt.check().map_err(|failure| {
            stopped = Some(failure);
            Error::Busy("the walk".into())
        })
    });
    drop(progress);
    if let Some(failure) = stopped {
        return Err(failure);
    }
    let DiskUse { mut maps, named, shared } = found?;
    maps.retain(|map| args.names.is_empty() || args.names.contains(&map.name));
    let room = room(&store.space_by_kind()?);
    let document = Document { maps, named, shared, room, free: store.status()?.space.free };
    if context.out.json { context.out.document(&document) } else { print(context, &document) }
}

/// Room of what volumes wrote, wherever it is.
fn room(kinds: &SpaceByKind) -> u64 {
    kinds.data.bytes + kinds.segments.bytes + kinds.content.bytes
}

fn print(context: &mut Context, document: &Document) -> Result<(), Failure> {
    let out = &mut context.out;
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("KIND", Align::Left),
        ("SIZE", Align::Right),
        ("MAPPED", Align::Right),
        ("UNIQUE", Align::Right),
        ("SHARED", Align::Right),
    ]);
    for map in &document.maps {
        let kind = format!("{:?}", map.kind).to_lowercase();
        let sizes = [map.size, map.mapped, map.unique, map.shared].map(size::human);
        table.row([vec![map.name.clone(), kind], sizes.to_vec()].concat());
    }
    table.print(out)?;
    if !document.maps.is_empty() {
        out.line("")?;
    }
    out.line(&format!(
        "needed by volumes and snapshots: {}, of which {} by several",
        exact(document.named),
        size::human(document.shared)
    ))?;
    let rest = document.room.saturating_sub(document.named);
    out.line(&format!(
        "taken by data, journals and content: {}, {} more; see `archipelago gc`",
        exact(document.room),
        size::human(rest)
    ))?;
    out.line(&format!("free: {}", exact(document.free)))?;
    out.flush()?;
    for map in document.maps.iter().filter(|map| map.in_use) {
        context.note(&format!("{}: is in use, and was looked at as of its last checkpoint", map.name));
    }
    Ok(())
}
