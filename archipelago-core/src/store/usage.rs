//! What maps hold and share: extents, differences, unique and shared bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::blocker::VolumeId;
use crate::error::{Error, Result};
use crate::format::header::{Header, Kind};
use crate::format::node::Source;
use crate::limits::{SECTOR, SECTOR_SHIFT};
use crate::mapper::block_map::BlockMap;
use crate::mapper::compare::{differing_blocks, zip_runs};
use crate::mapper::replay;
use crate::mapper::tree::Tree;
use crate::mapper::view::MapView;
use crate::store::operations::Operation;
use crate::store::shared::Shared;
use crate::store::{DiffExtent, MapExtent, MapSource, Usage, catalog, open};
use crate::volume::handle::Handle;
use crate::volume::inner::Inner;

/// Times that a volume may come into use, and out of it again, while its map is read.
const MAX_OWNERS: u32 = 16;

/// The map of a header that nobody changes, or as its last checkpoint left it if somebody does.
pub fn view(shared: &Arc<Shared>, header: &Header) -> Result<(Option<Arc<Inner>>, MapView)> {
    let mut header = header.clone();
    for _ in 1..MAX_OWNERS {
        if let Some(inner) = shared.opened(header.id) {
            let view = inner.view();
            return Ok((Some(inner), view));
        }
        let volume = header.kind == Kind::Volume;
        if volume && shared.blocker.lock_holder(header.id)?.is_some() {
            let tree = Tree::from_root(&format!("catalog/h.{}", header.id), &header.root, header.block_shift)?;
            return Ok((None, MapView { tree, overlay: BTreeMap::new(), size: header.size, shrunk: header.shrunk }));
        }
        let damage = match replay::load(&*shared.blocker, &shared.cache, &header) {
            Err(error @ Error::Damaged { .. }) if volume => error,
            other => return Ok((None, other?.view)),
        };
        // A journal that somebody writes since, or that was folded and then overwritten in place, seems damaged.
        match catalog::read_header(shared, header.id)? {
            Some((now, _)) if now != header => header = now,
            _ if shared.blocker.lock_holder(header.id)?.is_none() => return Err(damage),
            _ => {}
        }
    }
    Ok((None, replay::load(&*shared.blocker, &shared.cache, &header)?.view))
}

/// The map of a name, exactly as it is; the handle keeps it from changing hands meanwhile. What it names stays: a reader's
/// header is pinned; of a volume that is open for writing here, the operation keeps it.
fn exact<'a>(shared: &'a Arc<Shared>, name: &str) -> Result<(Handle, MapView, Option<Operation<'a>>)> {
    let operation = shared.operations.begin();
    let inner = open::for_reading(shared, name)?;
    let view = inner.view();
    let walk = inner.pin.is_none().then_some(operation);
    Ok((inner, view, walk))
}

/// See [`crate::Store::map_extents`].
pub fn map_extents(
    shared: &Arc<Shared>,
    name: &str,
    offset: u64,
    len: u64,
    each: &mut dyn FnMut(MapExtent) -> Result<()>,
) -> Result<()> {
    let (_inner, view, _walk) = exact(shared, name)?;
    let end = offset.saturating_add(len).min(view.size);
    if offset >= end {
        return Ok(());
    }
    let mut last: Option<MapExtent> = None;
    let (from, to) = (offset >> SECTOR_SHIFT, end.div_ceil(SECTOR));
    view.runs(&*shared.blocker, &shared.cache, from, to, &mut |start, sectors, source| {
        let first = (start << SECTOR_SHIFT).max(offset);
        let stop = ((start + sectors) << SECTOR_SHIFT).min(end);
        let skipped = (first - (start << SECTOR_SHIFT)) as u32;
        let source = match source {
            Source::Zero => MapSource::Zero,
            Source::Data { owner, epoch } => {
                // A run lies in one block.
                let block = (start << SECTOR_SHIFT) >> view.tree.block_shift;
                match shared.contents.moved(&*shared.blocker, owner, epoch, block)? {
                    Some(digest) => MapSource::Content { digest },
                    None => MapSource::Data { owner: owner.0, epoch },
                }
            }
            Source::Log { owner, epoch, segment, offset } => {
                MapSource::Log { owner: owner.0, epoch, segment, position: offset + skipped }
            }
            Source::Content(digest) => MapSource::Content { digest },
        };
        match &mut last {
            Some(e) if continues(e, &source) => e.len += stop - first,
            _ => {
                if let Some(extent) = last.replace(MapExtent { offset: first, len: stop - first, source }) {
                    each(extent)?;
                }
            }
        }
        Ok(true)
    })?;
    last.map_or(Ok(()), each)
}

/// Whether a source goes on where an extent ends.
fn continues(extent: &MapExtent, source: &MapSource) -> bool {
    match (extent.source, *source) {
        (
            MapSource::Log { owner: o, epoch: e, segment: s, position: p },
            MapSource::Log { owner, epoch, segment, position },
        ) => (o, e, s) == (owner, epoch, segment) && u64::from(p) + extent.len == u64::from(position),
        // Of two neighbouring blocks of one digest each begins at its start.
        (MapSource::Content { .. }, _) => false,
        (a, b) => a == b,
    }
}

/// See [`crate::Store::diff`].
pub fn diff(shared: &Arc<Shared>, a: &str, b: &str, each: &mut dyn FnMut(DiffExtent) -> Result<()>) -> Result<()> {
    let (_ia, va, _walk_a) = exact(shared, a)?;
    let (_ib, vb, _walk_b) = exact(shared, b)?;
    if va.tree.block_shift != vb.tree.block_shift {
        return Err(Error::InvalidArgument(format!("{a} and {b} have different block sizes and share nothing")));
    }
    diff_views(shared, &va, &vb, 0, each)
}

/// The ranges in which two maps of the same block size may differ, from the block on in which byte `from` lies.
pub fn diff_views(
    shared: &Shared,
    va: &MapView,
    vb: &MapView,
    from: u64,
    each: &mut dyn FnMut(DiffExtent) -> Result<()>,
) -> Result<()> {
    let (blocker, cache) = (&*shared.blocker, &shared.cache);
    let shift = u32::from(va.tree.block_shift) - SECTOR_SHIFT;
    let mut last: Option<DiffExtent> = None;
    differing_blocks(blocker, cache, va, vb, &mut |block| {
        if block < from >> va.tree.block_shift {
            return Ok(());
        }
        let (mut ma, mut mb) = (va.block(blocker, cache, block)?, vb.block(blocker, cache, block)?);
        // What a resize cut off is still in the map of the shorter one, but not in the volume.
        let end = va.size.min(vb.size).div_ceil(SECTOR).saturating_sub(block << shift);
        let keep = end.min(u64::from(va.tree.sectors())) as u16;
        if va.size < vb.size {
            ma.clip(keep);
        } else if vb.size < va.size {
            mb.clip(keep);
        }
        zip_runs(&ma, &mb, va.tree.sectors(), |start, len, x, y| {
            let first = (block << shift) + u64::from(start);
            // The sector in which `a` ends goes on in `b`: the same source there does not mean the same bytes.
            let cut = va.size < vb.size
                && !va.size.is_multiple_of(SECTOR)
                && (first..first + u64::from(len)).contains(&(va.size >> SECTOR_SHIFT));
            if x == y && !(cut && x != Source::Zero) {
                return Ok(());
            }
            let offset = ((block << shift) + u64::from(start)) << SECTOR_SHIFT;
            let stop = (offset + (u64::from(len) << SECTOR_SHIFT)).min(va.size.max(vb.size));
            let zero = y == Source::Zero;
            match &mut last {
                Some(e) if e.offset + e.len == offset && e.zero == zero => e.len += stop - offset,
                _ => {
                    if let Some(extent) = last.replace(DiffExtent { offset, len: stop - offset, zero }) {
                        each(extent)?;
                    }
                }
            }
            Ok(())
        })
    })?;
    last.map_or(Ok(()), each)
}

/// A header, unless it is one that a creation left half-written when the power went: no name leads to it.
pub fn readable(shared: &Shared, id: VolumeId) -> Result<Option<(Header, u64)>> {
    match catalog::read_header(shared, id) {
        Err(Error::Damaged { .. }) => Ok(None),
        other => other,
    }
}

/// See [`crate::Store::usage`].
pub fn usage(shared: &Arc<Shared>, name: &str) -> Result<Usage> {
    let (blocker, cache) = (&*shared.blocker, &shared.cache);
    let _operation = shared.operations.begin();
    let (own, _) = catalog::find(shared, name)?;
    let (_inner, mine) = view(shared, &own)?;
    let mapped = mine.mapped(blocker, cache)?;
    // What no other map is known to use yet; `None` while that is everything.
    let mut rest: Option<BTreeMap<u64, BlockMap>> = None;
    let mut others = blocker.headers()?;
    // A relative shares most: looking at it first leaves little to compare with the others.
    others.sort_by_key(|id| *id != own.parent);
    for id in others {
        if id == own.id || rest.as_ref().is_some_and(|r| r.is_empty()) {
            continue;
        }
        let header = match readable(shared, id)? {
            Some((header, _))
                if !header.removed && header.block_shift == own.block_shift && header.kind != Kind::Group =>
            {
                header
            }
            _ => continue,
        };
        let (_other, theirs) = view(shared, &header)?;
        let mut left = BTreeMap::new();
        let mut keep = |block: u64, before: BlockMap| -> Result<()> {
            let other = theirs.block(blocker, cache, block)?;
            let mut after = before.clone();
            zip_runs(&before, &other, mine.tree.sectors(), |start, len, x, y| {
                if x == y {
                    after.set(start, len, Source::Zero);
                }
                Ok(())
            })?;
            if !after.is_empty() {
                left.insert(block, after);
            }
            Ok(())
        };
        match rest.take() {
            None => differing_blocks(blocker, cache, &mine, &theirs, &mut |block| {
                keep(block, mine.block(blocker, cache, block)?)
            })?,
            Some(rest) => rest.into_iter().try_for_each(|(block, before)| keep(block, before))?,
        }
        rest = Some(left);
    }
    let unique = rest.map_or(mapped, |rest| rest.values().map(BlockMap::mapped).sum());
    Ok(Usage {
        logical: own.size,
        mapped: mapped * SECTOR,
        unique: unique * SECTOR,
        shared: mapped.saturating_sub(unique) * SECTOR,
    })
}
