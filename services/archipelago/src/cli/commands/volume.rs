//! Commands that make and change volumes and snapshots.

use archipelago_core::{CloneOptions, CreateOptions, VolumeInfo};
use serde_json::json;

use super::super::Context;
use super::super::args::{Clone, Create, Remove, Rename, Resize, Snapshot};
use super::super::exit::Failure;
use super::super::output::VolumeDocument;

/// Fewest digits of the numbers in the names of many clones, so that a listing sorts them by number.
const MIN_DIGITS: usize = 4;

/// Prints the volume for scripts; people see that nothing failed.
fn done(context: &mut Context, info: VolumeInfo) -> Result<(), Failure> {
    if context.out.json { context.out.document(&VolumeDocument::from(info)) } else { Ok(()) }
}

/// `create`
pub fn create(context: &mut Context, args: &Create) -> Result<(), Failure> {
    let options = CreateOptions { size: args.size, block_size: args.block_size };
    let info = context.store()?.create(&args.name, &options)?;
    done(context, info)
}

/// `clone`
pub fn clone(context: &mut Context, args: &Clone) -> Result<(), Failure> {
    let store = context.store()?;
    let options = CloneOptions { size: args.size };
    let Some(count) = args.count else {
        let info = store.clone_snapshot(&args.snapshot, &args.name, &options)?;
        return done(context, info);
    };
    let names = numbered(&args.name, count);
    store.clone_many(&args.snapshot, &names, &options)?;
    if context.out.json {
        context.out.document(&json!({ "snapshot": args.snapshot, "count": count, "names": names }))?;
    }
    Ok(())
}

/// `NAME-0001` to `NAME-N`, all of the same length.
fn numbered(name: &str, count: usize) -> Vec<String> {
    let digits = count.to_string().len().max(MIN_DIGITS);
    (1..=count).map(|number| format!("{name}-{number:0digits$}")).collect()
}

/// `snapshot`
pub fn snapshot(context: &mut Context, args: &Snapshot) -> Result<(), Failure> {
    let (Some(volume), Some(name)) = (&args.volume, &args.name) else { return snapshot_group(context, &args.group) };
    let info = context.store()?.snapshot(volume, name)?;
    if !context.out.json {
        context.out.line(&format!("Snapshot name: {}", info.name))?;
    }
    done(context, info)
}

fn snapshot_group(context: &mut Context, members: &[(String, String)]) -> Result<(), Failure> {
    let taken = context.store()?.snapshot_group(members)?;
    if context.out.json {
        let snapshots: Vec<VolumeDocument> = taken.into_iter().map(VolumeDocument::from).collect();
        return context.out.document(&json!({ "snapshots": snapshots }));
    }
    taken.iter().try_for_each(|info| context.out.line(&format!("Snapshot name: {}", info.name)))
}

/// `remove`
pub fn remove(context: &mut Context, args: &Remove) -> Result<(), Failure> {
    let store = context.store()?;
    let mut removed = Vec::new();
    let mut failed = Vec::new();
    let mut first = None;
    for name in &args.names {
        match store.remove(name) {
            Ok(()) => removed.push(name),
            Err(error) => {
                let failure = Failure::from(error);
                context.report(&failure);
                failed.push(json!({ "name": name, "error": failure.json() }));
                first.get_or_insert(failure.class());
            }
        }
    }
    if context.out.json {
        context.out.document(&json!({ "removed": removed, "failed": failed }))?;
    }
    match first {
        Some(class) => Err(Failure::Reported(class)),
        None => Ok(()),
    }
}

/// `rename`
pub fn rename(context: &mut Context, args: &Rename) -> Result<(), Failure> {
    let store = context.store()?;
    store.rename(&args.old, &args.new)?;
    if !context.out.json {
        return context.out.line(&format!("Renamed {} to {}", args.old, args.new));
    }
    let info = store.info(&args.new)?;
    done(context, info)
}

/// `resize`
pub fn resize(context: &mut Context, args: &Resize) -> Result<(), Failure> {
    let store = context.store()?;
    store.resize(&args.name, args.size, args.shrink)?;
    if !context.out.json {
        return Ok(());
    }
    let info = store.info(&args.name)?;
    done(context, info)
}

#[cfg(test)]
mod tests {
    use super::numbered;

    #[test]
    fn names_of_many_clones_have_one_length_and_sort_by_number() {
        assert_eq!(numbered("disk", 2), ["disk-0001", "disk-0002"]);
        for count in [1, 9999, 10_000, 12_345] {
            let names = numbered("disk", count);
            assert_eq!(names.len(), count);
            assert!(names.is_sorted() && names.iter().all(|name| name.len() == names[0].len()));
        }
    }
}
