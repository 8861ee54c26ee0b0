//! `orphans`: volumes that Ganeti made and no longer knows.

use std::fs::File;
use std::io::{self, Read};

use archipelago_core::{ListOptions, Store, VolumeInfo};
use serde::Serialize;

use super::super::Context;
use super::super::args::Orphans;
use super::super::exit::Failure;
use super::super::output::{Align, Table};
use super::attach::attacher;
use crate::attach::{AttachError, Attacher};
use crate::ganeti::{Live, SNAPSHOT_OF, UUID};

/// Longest list of disks that is read: 40 bytes for each of a million.
const MAX_LIST: u64 = 40 << 20;

/// What the command says of one orphan.
#[derive(Serialize)]
struct Orphan {
    name: String,
    id: String,
    uuid: Option<String>,
    snapshot_of: Option<String>,
    size: u64,
    created: u64,
    why: String,
    removed: bool,
}

/// `orphans`
pub fn run(context: &mut Context, args: &Orphans) -> Result<(), Failure> {
    let store = context.store()?;
    // The time first: what is made from here on is no orphan, whatever the list says.
    let now = archipelago_core::time::now();
    let live = read_live(args)?;
    let attacher = attacher(context, &args.node)?;
    let mut orphans = Vec::new();
    let mut first = None;
    for (info, why) in find(&store, &live, now.saturating_sub(args.min_age))? {
        let mut removed = false;
        if args.remove {
            match remove(&store, &attacher, &info) {
                Ok(()) => removed = true,
                Err(failure) => {
                    context.report(&failure);
                    first.get_or_insert(failure.class());
                }
            }
        }
        orphans.push(Orphan {
            uuid: info.labels.get(UUID).map(str::to_string),
            snapshot_of: info.labels.get(SNAPSHOT_OF).map(str::to_string),
            name: info.name,
            id: info.id,
            size: info.size,
            created: info.created,
            why,
            removed,
        });
    }
    print(context, &orphans)?;
    first.map_or(Ok(()), |class| Err(Failure::Reported(class)))
}

fn read_live(args: &Orphans) -> Result<Live, Failure> {
    let mut text = String::new();
    let (named, read) = match &args.live {
        Some(path) => {
            (path.display().to_string(), File::open(path).and_then(|f| f.take(MAX_LIST).read_to_string(&mut text)))
        }
        None => ("standard input".to_string(), io::stdin().take(MAX_LIST).read_to_string(&mut text)),
    };
    let length = read.map_err(|e| Failure::host("read", &named, e))?;
    if length as u64 == MAX_LIST {
        return Err(Failure::Usage(format!("{named}: is longer than {} MiB", MAX_LIST >> 20)));
    }
    let live = Live::read(&text).map_err(|reason| {
        Failure::Usage(format!("{named}: {reason}; give what `gnt-instance list --no-headers -o disk.uuids` prints"))
    })?;
    if live.is_empty() && !args.none_live {
        return Err(Failure::Usage(format!(
            "{named}: names no disk, so that everything would be an orphan; if Ganeti has none indeed, say so with --none-live"
        )));
    }
    Ok(live)
}

/// What is an orphan and was made by `until`.
fn find(store: &Store, live: &Live, until: u64) -> Result<Vec<(VolumeInfo, String)>, Failure> {
    let mut options = ListOptions::default();
    let mut found = Vec::new();
    loop {
        let page = store.list(&options)?;
        for info in page.entries.into_iter().filter(|info| info.created <= until) {
            if let Some(why) = live.orphan(&info) {
                found.push((info, why));
            }
        }
        match page.next {
            Some(next) => options.after = Some(next),
            None => return Ok(found),
        }
    }
}

/// Removes an orphan. What somebody uses stays, and the error says who.
fn remove(store: &Store, attacher: &Attacher, info: &VolumeInfo) -> Result<(), Failure> {
    match attacher.detach(&info.id) {
        Ok(()) | Err(AttachError::NotAttached(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(store.remove(&info.name)?)
}

fn print(context: &mut Context, orphans: &[Orphan]) -> Result<(), Failure> {
    if context.out.json {
        return context.out.document(&orphans);
    }
    let columns = [("NAME", Align::Left), ("SIZE", Align::Right), ("REMOVED", Align::Left), ("WHY", Align::Left)];
    let mut table = Table::new(&columns);
    for orphan in orphans {
        let removed = if orphan.removed { "yes" } else { "no" };
        table.row(vec![orphan.name.clone(), orphan.size.to_string(), removed.into(), orphan.why.clone()]);
    }
    table.print(&mut context.out)
}
