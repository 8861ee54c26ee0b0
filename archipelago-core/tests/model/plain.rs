//! Long histories without cuts: every read, and every answer about where data is, against the reference.

use archipelago_core::limits::SECTOR;
use archipelago_core::{Error, MapSource};

use crate::history::{History, Op, Rng, mix};
use crate::reference::{Map, whole_sectors};
use crate::run::{Fault, Live, Seam, new_disk};

/// Runs one history of `count` operations.
pub fn check_long(seam: Seam, seed: u64, count: u64) -> Result<(), String> {
    let history = History::long(seed, count, 12);
    let mut live = new_disk(seam).and_then(|disk| Live::start(disk, seed, false)).map_err(|e| e.to_string())?;
    let mut rng = Rng::new(mix(seed, 3));
    for (i, step) in history.steps.iter().enumerate() {
        let at = |e: Fault| format!("{seam:?} seam, seed {seed}, operation {i}, {step}: {e}");
        let done = live.apply(step).map_err(at)?;
        if let (true, Op::Discard { name, offset, len }) = (done, &step.op) {
            freed(&mut live, name, *offset, *len).map_err(at)?;
        }
        if i % 8 == 0 {
            ask(&mut live, &mut rng).map_err(at)?;
        }
        if i % 50 == 49 {
            live.check_all().map_err(at)?;
        }
    }
    live.check_all().map_err(|e| format!("{seam:?} seam, seed {seed}, at the end: {e}"))
}

fn wrong<T>(what: String) -> Result<T, Fault> {
    Err(Fault::Wrong(what))
}

fn zeros(map: &Map, offset: u64, len: u64) -> bool {
    map.live[offset as usize..(offset + len) as usize].iter().all(|b| *b == 0)
}

/// What was discarded takes no room.
fn freed(live: &mut Live, name: &str, offset: u64, len: u64) -> Result<(), Fault> {
    let (offset, len) = whole_sectors(offset, len);
    if len == 0 {
        return Ok(());
    }
    let extents = live.volume(name)?.extents(offset, len, usize::MAX)?;
    match extents[..] {
        [one] if one.zero && one.offset == offset && one.len == len => Ok(()),
        _ => wrong(format!("discarded {len} bytes at {offset}, the extents are {extents:?}")),
    }
}

/// Asks about one map, or two, where their data is.
fn ask(live: &mut Live, rng: &mut Rng) -> Result<(), Fault> {
    let names: Vec<String> = live.state.keys().cloned().collect();
    if names.is_empty() {
        return Ok(());
    }
    let name = rng.pick(&names).clone();
    let offset = rng.below(live.state[&name].size());
    let len = 1 + rng.below(live.state[&name].size() - offset);
    extents(live, &name, offset, len, 1 + rng.below(20) as usize)?;
    map_extents(live, &name)?;
    usage(live, &name)?;
    let other = rng.pick(&names).clone();
    diff(live, &name, &other)?;
    diff(live, &name, &name)
}

fn extents(live: &mut Live, name: &str, offset: u64, len: u64, max: usize) -> Result<(), Fault> {
    let found = live.volume(name)?.extents(offset, len, max)?;
    let map = &live.state[name];
    let mut at = offset;
    for (i, extent) in found.iter().enumerate() {
        if extent.offset != at || extent.len == 0 || (i > 0 && found[i - 1].zero == extent.zero) {
            return wrong(format!("{name}: extents of {len} bytes at {offset} are {found:?}"));
        }
        if extent.zero && !zeros(map, extent.offset, extent.len) {
            return wrong(format!("{name}: {extent:?} was written with data"));
        }
        at += extent.len;
    }
    if found.len() > max || at > offset + len || (at < offset + len && found.len() < max) {
        return wrong(format!("{name}: {max} extents of {len} bytes at {offset} end at {at}: {found:?}"));
    }
    Ok(())
}

fn map_extents(live: &Live, name: &str) -> Result<(), Fault> {
    let map = &live.state[name];
    let mut found = vec![];
    live.store()?.map_extents(name, 0, u64::MAX, &mut |extent| {
        found.push(extent);
        Ok(())
    })?;
    let mut at = 0;
    for extent in &found {
        if extent.offset != at || extent.len == 0 {
            return wrong(format!("{name}: the map has {extent:?} where byte {at} should follow"));
        }
        at += extent.len;
        if at > map.size() || (extent.source == MapSource::Zero && !zeros(map, extent.offset, extent.len)) {
            return wrong(format!("{name}: the map has {extent:?}, size {}", map.size()));
        }
    }
    if at != map.size() {
        return wrong(format!("{name}: the map ends at {at}, the size is {}", map.size()));
    }
    Ok(())
}

fn usage(live: &Live, name: &str) -> Result<(), Fault> {
    let map = &live.state[name];
    let usage = live.store()?.usage(name)?;
    // A last sector counts whole or by its bytes; the bounds admit both.
    let most = map.size().next_multiple_of(SECTOR);
    let data: u64 =
        map.live.chunks(SECTOR as usize).filter(|c| c.iter().any(|b| *b != 0)).map(|c| c.len() as u64).sum();
    let good = usage.logical == map.size()
        && usage.mapped == usage.unique + usage.shared
        && (data..=most).contains(&usage.mapped);
    if !good {
        return wrong(format!("{name}: usage {usage:?}, {data} bytes of data, size {}", map.size()));
    }
    Ok(())
}

fn diff(live: &Live, a: &str, b: &str) -> Result<(), Fault> {
    let store = live.store()?;
    if store.info(a)?.block_size != store.info(b)?.block_size {
        return match store.diff(a, b, &mut |_| Ok(())) {
            Err(Error::InvalidArgument(_)) => Ok(()),
            other => wrong(format!("{a} to {b}: maps of different block sizes were compared: {other:?}")),
        };
    }
    let mut found = vec![];
    store.diff(a, b, &mut |extent| {
        found.push(extent);
        Ok(())
    })?;
    if a == b && !found.is_empty() {
        return wrong(format!("{a} differs from itself in {found:?}"));
    }
    // A map reads as zeros past its end, for this purpose.
    let (left, right) = (&live.state[a], &live.state[b]);
    let mut same = vec![true; right.size() as usize];
    let mut end = 0;
    for extent in &found {
        if extent.offset < end || extent.len == 0 {
            return wrong(format!("{a} to {b}: the differences are not in order: {found:?}"));
        }
        end = extent.offset + extent.len;
        let (from, to) = (extent.offset.min(right.size()), end.min(right.size()));
        if extent.zero && !zeros(right, from, to - from) {
            return wrong(format!("{a} to {b}: {extent:?} is not zero in {b}"));
        }
        same[from as usize..to as usize].fill(false);
    }
    let differs = |i: &usize| same[*i] && left.live.get(*i).copied().unwrap_or(0) != right.live[*i];
    match (0..same.len()).find(differs) {
        Some(at) => wrong(format!(
            "{a} to {b}: byte {at} differs and is not reported: {found:?}, sizes {} and {}",
            left.size(),
            right.size()
        )),
        None => Ok(()),
    }
}
