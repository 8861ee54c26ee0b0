//! Commands that only look.

use archipelago_core::limits::MAX_LIST_PAGE;
use archipelago_core::{DamagedEntry, DiffExtent, Error, ListOptions, MapExtent, MapSource, Owner, Store, VolumeInfo};
use serde_json::json;

use super::super::args::{Diff, Info, List, Mapinfo};
use super::super::exit::{Class, Failure};
use super::super::output::{Align, Array, Output, Table, VolumeDocument, exact, kind, time};
use super::super::{Context, size};

/// `list`
pub fn list(context: &mut Context, args: &List) -> Result<(), Failure> {
    let store = context.store()?;
    let mut listing = Listing::new(&mut context.out, args.usage)?;
    let mut options = ListOptions { prefix: args.prefix.clone(), after: args.after.clone(), limit: 0 };
    let mut left = args.limit.unwrap_or(u64::MAX);
    let next = loop {
        options.limit = left.min(MAX_LIST_PAGE as u64) as usize;
        let page = store.list(&options)?;
        left = left.saturating_sub(page.entries.len() as u64);
        let empty = page.entries.is_empty() && page.damaged.is_empty();
        for info in page.entries {
            if let Some(document) = describe(&store, info, args.usage)? {
                listing.push(document)?;
            }
        }
        for entry in page.damaged {
            listing.damaged(entry)?;
        }
        listing.page()?;
        // An empty page with a successor would be a loop without end.
        if left == 0 || empty || page.next.is_none() {
            break page.next;
        }
        options.after = page.next;
    };
    let damaged = listing.end(next.as_deref())?;
    if let Some(next) = next.filter(|_| !context.out.json) {
        context.out.flush()?;
        context.note(&format!("there are more; continue with --after {next}"));
    }
    match damaged.first() {
        None => Ok(()),
        Some(first) => {
            if !context.out.json {
                context.out.flush()?;
                context.note(&format!("{}; see `archipelago check`", first.message));
            }
            Err(Failure::Reported(Class::Io))
        }
    }
}

/// Adds the usage if asked for; `None` if the volume was removed meanwhile.
fn describe(store: &Store, info: VolumeInfo, usage: bool) -> Result<Option<VolumeDocument>, Failure> {
    let mut document = VolumeDocument::from(info);
    if usage {
        match store.usage(&document.info.name) {
            Ok(usage) => (document.unique, document.shared) = (Some(usage.unique), Some(usage.shared)),
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(document))
}

/// A listing while it is printed.
struct Listing<'a> {
    out: &'a mut Output,
    array: Array,
    table: Table,
    usage: bool,
    damaged: Vec<DamagedEntry>,
}

impl<'a> Listing<'a> {
    fn new(out: &'a mut Output, usage: bool) -> Result<Listing<'a>, Failure> {
        let mut columns =
            vec![("NAME", Align::Left), ("KIND", Align::Left), ("SIZE", Align::Right), ("MAPPED", Align::Right)];
        if usage {
            columns.extend([("UNIQUE", Align::Right), ("SHARED", Align::Right)]);
        }
        columns.extend([("PARENT", Align::Left), ("CREATED", Align::Left), ("OPEN BY", Align::Left)]);
        if out.json {
            out.raw("{\"entries\":")?;
        }
        Ok(Listing { out, array: Array::default(), table: Table::new(&columns), usage, damaged: Vec::new() })
    }

    fn push(&mut self, document: VolumeDocument) -> Result<(), Failure> {
        if self.out.json {
            return self.array.push(self.out, &document);
        }
        let VolumeDocument { info, unique, shared } = document;
        let kind = kind(&info);
        let mut cells = vec![info.name, kind, size::human(info.size), size::human(info.mapped)];
        if self.usage {
            cells.extend([unique, shared].map(|bytes| bytes.map_or("-".into(), size::human)));
        }
        let owner = info.open_by.map_or("-".into(), |owner| format!("{}:{}", owner.host, owner.pid));
        cells.extend([info.parent.unwrap_or("-".into()), time(info.created), owner]);
        self.table.row(cells);
        Ok(())
    }

    /// A name whose header cannot be read.
    fn damaged(&mut self, entry: DamagedEntry) -> Result<(), Failure> {
        if !self.out.json {
            let mut cells = vec![entry.name.clone(), "damaged".into()];
            cells.resize(if self.usage { 9 } else { 7 }, "-".into());
            self.table.row(cells);
        }
        self.damaged.push(entry);
        Ok(())
    }

    fn page(&mut self) -> Result<(), Failure> {
        self.table.print(self.out)
    }

    /// Returns the names that could not be read.
    fn end(self, next: Option<&str>) -> Result<Vec<DamagedEntry>, Failure> {
        if self.out.json {
            self.array.end(self.out)?;
            self.out.raw(&format!(",\"damaged\":{},\"next\":{}}}\n", json!(self.damaged), json!(next)))?;
        }
        Ok(self.damaged)
    }
}

/// `info`
pub fn info(context: &mut Context, args: &Info) -> Result<(), Failure> {
    let store = context.store()?;
    let info = store.info(&args.name)?;
    let Some(VolumeDocument { info, unique, shared }) = describe(&store, info, true)? else {
        return Err(Error::NotFound(args.name.clone()).into());
    };
    let out = &mut context.out;
    if out.json {
        return out.document(&VolumeDocument { info, unique, shared });
    }
    let owner = |owner: &Owner| owner.to_string();
    let lines = [
        ("name", info.name.clone()),
        ("id", info.id.clone()),
        ("kind", kind(&info)),
        ("size", exact(info.size)),
        ("block size", size::human(info.block_size)),
        ("epoch", info.epoch.to_string()),
        ("mapped", exact(info.mapped)),
        ("unique", unique.map_or("-".into(), exact)),
        ("shared", shared.map_or("-".into(), exact)),
        ("read-only", if info.read_only { "yes" } else { "no" }.into()),
        ("parent", info.parent.clone().unwrap_or("-".into())),
        ("created", time(info.created)),
        ("open by", info.open_by.as_ref().map_or("-".into(), owner)),
    ];
    for (title, value) in lines {
        out.line(&format!("{:<12} {value}", format!("{title}:")))?;
    }
    Ok(())
}

/// Runs a walk of the engine whose callback prints. The engine stops at an error of its own kind, so the output's waits outside.
fn printing<T>(
    walk: impl FnOnce(&mut dyn FnMut(T) -> Result<(), Error>) -> Result<(), Error>,
    print: &mut dyn FnMut(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut failed = None;
    let walked = walk(&mut |item| {
        print(item).map_err(|failure| {
            failed = Some(failure);
            Error::Unsupported("standard output failed".into())
        })
    });
    match failed {
        Some(failure) => Err(failure),
        None => Ok(walked?),
    }
}

/// `mapinfo`
pub fn mapinfo(context: &mut Context, args: &Mapinfo) -> Result<(), Failure> {
    let store = context.store()?;
    let length = args.length.unwrap_or(u64::MAX - args.offset);
    let out = &mut context.out;
    let json = out.json;
    let mut array = Array::default();
    let walk =
        |each: &mut dyn FnMut(MapExtent) -> Result<(), Error>| store.map_extents(&args.name, args.offset, length, each);
    if !json {
        out.line(&format!("{:>18} {:>18}  WHERE", "OFFSET", "LENGTH"))?;
    }
    printing(walk, &mut |extent: MapExtent| {
        if json { array.push(out, &extent_json(&extent)) } else { out.line(&extent_line(&extent)) }
    })?;
    if json {
        array.end(&mut context.out)?;
        context.out.raw("\n")?;
    }
    Ok(())
}

/// Owners are ids in 16 hex digits as everywhere else; as numbers they would lose digits in many JSON readers.
fn extent_json(extent: &MapExtent) -> serde_json::Value {
    let MapExtent { offset, len, source } = *extent;
    match source {
        MapSource::Zero => json!({ "offset": offset, "len": len, "source": "zero" }),
        MapSource::Data { owner, epoch } => {
            json!({ "offset": offset, "len": len, "source": "data", "owner": format!("{owner:016x}"), "epoch": epoch })
        }
        MapSource::Log { owner, epoch, segment, position } => json!({
            "offset": offset, "len": len, "source": "log", "owner": format!("{owner:016x}"), "epoch": epoch,
            "segment": segment, "position": position,
        }),
    }
}

fn extent_line(extent: &MapExtent) -> String {
    let place = match extent.source {
        MapSource::Zero => "zero".to_string(),
        MapSource::Data { owner, epoch } => format!("data {owner:016x} epoch {epoch}"),
        MapSource::Log { owner, epoch, segment, position } => {
            format!("log {owner:016x} epoch {epoch} segment {segment} position {position}")
        }
    };
    format!("{:>18} {:>18}  {place}", extent.offset, extent.len)
}

/// `diff`
pub fn diff(context: &mut Context, args: &Diff) -> Result<(), Failure> {
    let store = context.store()?;
    let out = &mut context.out;
    let json = out.json;
    let mut array = Array::default();
    let walk = |each: &mut dyn FnMut(DiffExtent) -> Result<(), Error>| store.diff(&args.a, &args.b, each);
    if !json {
        out.line(&format!("{:>18} {:>18}  NOW", "OFFSET", "LENGTH"))?;
    }
    printing(walk, &mut |extent: DiffExtent| {
        if json {
            return array.push(out, &extent);
        }
        let now = if extent.zero { "zero" } else { "data" };
        out.line(&format!("{:>18} {:>18}  {now}", extent.offset, extent.len))
    })?;
    if json {
        array.end(&mut context.out)?;
        context.out.raw("\n")?;
    }
    Ok(())
}
