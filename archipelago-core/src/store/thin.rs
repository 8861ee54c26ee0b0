//! Thin objects: sealed epochs and folded journal segments of which a volume needs little, and nobody else anything. A collection makes
//! holes of the rest, but each stays as a file. So where a volume has many, what it needs of them is copied into its live
//! epoch while it is in use, and the next collection takes the files away.
//!
//! What others name too stays: the file would not go, and what was shared would be there twice. Nothing about it is stored: who stops in
//! the middle finds the rest by looking again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::collect::mark::{Marker, newest};
use super::collect::marks::Marks;
use super::usage::readable;
use crate::blocker::{Object, VolumeId};
use crate::error::{Error, Result};
use crate::limits::{MAX_THIN_OBJECTS, SECTOR_SHIFT, THIN_OBJECT};
use crate::store::shared::Shared;
use crate::sync::atomic::Ordering;
use crate::volume::CompactReport;
use crate::volume::compose::object_of;
use crate::volume::inner::Inner;

/// What is thin, and what is done about it.
#[derive(Clone, Debug)]
pub struct ThinOptions {
    /// An object of which a volume needs up to so many bytes is thin.
    pub size: u64,
    /// Thin objects that a volume may have.
    pub most: usize,
    /// Most bytes copied per second; 0 does not limit it.
    pub rate: u64,
}

impl Default for ThinOptions {
    fn default() -> ThinOptions {
        ThinOptions { size: THIN_OBJECT, most: MAX_THIN_OBJECTS, rate: 0 }
    }
}

/// See [`crate::Store::leave_thin`].
pub(crate) fn leave_thin(
    shared: &Arc<Shared>,
    options: &ThinOptions,
    progress: &mut dyn FnMut(CompactReport) -> ControlFlow<()>,
) -> Result<CompactReport> {
    let (mut done, mut stopped) = (CompactReport::default(), false);
    for inner in shared.all_open() {
        let add = |report: CompactReport| CompactReport {
            examined: done.examined + report.examined,
            composed: done.composed + report.composed,
            copied: done.copied + report.copied,
        };
        let left = of_volume(shared, &inner, options, &mut |report| {
            let flow = progress(add(report));
            stopped = flow.is_break();
            flow
        });
        match left {
            Ok(report) => done = add(report),
            // It was closed meanwhile.
            Err(Error::NotOpen(_)) if inner.closed.load(Ordering::Acquire) => {}
            Err(error) => return Err(error),
        }
        if stopped {
            break;
        }
    }
    Ok(done)
}

fn of_volume(
    shared: &Arc<Shared>,
    inner: &Inner,
    options: &ThinOptions,
    progress: &mut dyn FnMut(CompactReport) -> ControlFlow<()>,
) -> Result<CompactReport> {
    let mut used: BTreeMap<Object, u64> = BTreeMap::new();
    inner.each_mapped(&mut |extents| {
        for extent in extents {
            if let Some(object) = object_of(extent.source) {
                *used.entry(object).or_default() += u64::from(extent.len) << SECTOR_SHIFT;
            }
        }
    })?;
    let epoch = inner.epoch.load(Ordering::Acquire);
    let begins = inner.header.lock().header.log.map_or(0, |start| start.pos.segment);
    // What is still written, or would be replayed, stays whoever needs it.
    let in_use = |object: &Object| match *object {
        Object::Data(owner, e) => owner == inner.id && e >= epoch,
        Object::Log(owner, segment) => owner == inner.id && segment >= begins,
        _ => true,
    };
    used.retain(|object, bytes| *bytes <= options.size && !in_use(object));
    let mut thin: BTreeSet<Object> = used.into_keys().collect();
    if thin.len() > options.most {
        // Blocks of an epoch that was hashed are content, which may lie elsewhere, or be asked for by others.
        let mut hashed = BTreeSet::new();
        for object in &thin {
            if let Object::Data(owner, epoch) = *object
                && shared.blocker.len(Object::Redirect(owner, epoch))?.is_some()
            {
                hashed.insert(*object);
            }
        }
        let others = named_by_others(shared, inner.id)?;
        thin.retain(|object| !hashed.contains(object) && !others.contains(*object));
    }
    if thin.len() <= options.most {
        return Ok(CompactReport::default());
    }
    inner.leave(&thin, options.rate, progress)
}

/// What all other maps name, object by object.
fn named_by_others(shared: &Arc<Shared>, own: VolumeId) -> Result<Marks> {
    let blocker = &*shared.blocker;
    // What of an object is named does not matter, so there is no need of memory for it.
    let mut marks = Marks::new(0);
    for id in blocker.headers()?.into_iter().filter(|id| *id != own) {
        let _operation = shared.operations.begin();
        if let Some(found) = readable(shared, id)?.filter(|(header, _)| !header.removed) {
            let mut again = || readable(shared, id);
            newest(found, &mut again, &mut |header| {
                Marker::new(blocker, &mut marks, &mut |_, _| Ok(())).header(header)
            })?;
        }
    }
    Ok(marks)
}
