//! Reads journals back: over a root, what sealed ranges and the volume's own unfolded tail say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSliceMut;
use std::sync::Arc;

use crate::blocker::{Blocker, Boot, Object, VolumeId};
use crate::error::{Error, Result};
use crate::format::bytes::is_zero;
use crate::format::header::{Header, LogPos, LogStart, SealedRange};
use crate::format::log::{self, Body, Found, RECORD_HEAD, RecordHead, Run, RunKind, SEGMENT_HEAD, SegmentHead};
use crate::format::node::Source;
use crate::limits::{ATOM, SECTOR_SHIFT, SEGMENT_SIZE};
use crate::mapper::block_map::BlockMap;
use crate::mapper::cache::NodeCache;
use crate::mapper::journal::Tail;
use crate::mapper::provisional::Unconfirmed;
use crate::mapper::tree::Tree;
use crate::mapper::view::MapView;
use crate::planted::{self, Bug};

/// What came of a replay.
pub struct Replayed {
    /// The map.
    pub view: MapView,
    /// Highest epoch seen in the header or the journal.
    pub epoch: u64,
    /// End of the volume's own journal.
    pub tail: Tail,
    /// Provisional records of the volume's own journal that no record confirms and that count in this boot, in order.
    pub believed: Vec<Unconfirmed>,
    /// Those that do not count.
    pub refused: Vec<Unconfirmed>,
    /// Epochs whose data a former owner may have left unsynced, below the highest.
    pub unsynced: BTreeSet<u64>,
}

/// Loads the map that a header describes, unfolded changes applied.
pub fn load(blocker: &dyn Blocker, cache: &NodeCache, header: &Header) -> Result<Replayed> {
    let object = format!("catalog/h.{}", header.id);
    let tree = Tree::from_root(&object, &header.root, header.block_shift)?;
    let mut replay =
        Replay { blocker, cache, tree, overlay: BTreeMap::new(), size: header.size, undecided: VecDeque::new() };
    for range in &header.ranges {
        replay.sealed(range)?;
    }
    let mut epoch = header.epoch;
    let (mut believed, mut refused, mut unsynced) = (Vec::new(), Vec::new(), BTreeSet::from([epoch]));
    let mut tail = Tail { next: LogStart { seq: 1, ..LogStart::default() }, segment_len: 0, bytes: 0, stray: false };
    if let Some(start) = header.log {
        tail = own_records(blocker, header.id, start, &mut |at, head| {
            epoch = epoch.max(head.epoch);
            if head.body == Body::Epoch {
                // Written once what was before it is durable.
                unsynced.retain(|epoch| *epoch >= head.epoch);
            }
            unsynced.insert(head.epoch);
            replay.take(header.id, at, head, None)
        })?;
        (believed, refused) = replay.decide_rest(header.id, blocker.boot(), None)?;
    }
    unsynced.extend(believed.iter().map(|record| record.epoch));
    unsynced.remove(&epoch);
    let overlay = replay.overlay.into_iter().map(|(block, map)| (block, Arc::new(map))).collect();
    let view = MapView { tree: replay.tree, overlay, size: header.size, shrunk: header.shrunk };
    Ok(Replayed { view, epoch, tail, believed, refused, unsynced })
}

struct Replay<'a> {
    blocker: &'a dyn Blocker,
    cache: &'a NodeCache,
    tree: Tree,
    overlay: BTreeMap<u64, BlockMap>,
    size: u64,
    /// The first provisional record of which it is not known yet whether it counts, and all behind it.
    undecided: VecDeque<(LogPos, RecordHead)>,
}

/// A segment in memory.
struct Segment {
    object: Object,
    head: SegmentHead,
    bytes: Vec<u8>,
}

fn damaged(object: Object, offset: u32, detail: &str) -> Error {
    Error::damaged(object.to_string(), format!("at byte {offset}: {detail}"))
}

/// Reads a whole segment and checks its head.
fn read_segment(blocker: &dyn Blocker, owner: VolumeId, number: u32) -> Result<Segment> {
    let object = Object::Log(owner, number);
    let name = object.to_string();
    let len = blocker.len(object)?.ok_or_else(|| Error::damaged(&name, "it is missing"))?;
    if len < u64::from(SEGMENT_HEAD) || len > 2 * SEGMENT_SIZE {
        return Err(Error::damaged(&name, format!("it is {len} bytes long")));
    }
    let mut bytes = vec![0; len as usize];
    blocker.read(object, &mut [IoSliceMut::new(&mut bytes)], 0)?;
    let head = SegmentHead::decode(&name, &bytes)?;
    if head.owner != owner || head.segment != number {
        return Err(Error::damaged(&name, format!("it says that it is segment {} of {}", head.segment, head.owner)));
    }
    if u64::from(head.len) != len {
        return Err(Error::damaged(&name, format!("it is {len} bytes long, not {}", head.len)));
    }
    Ok(Segment { object, head, bytes })
}

/// Calls `each` with every record of a sealed range, in order, and where it lies; every one must be there.
pub fn sealed_records(
    blocker: &dyn Blocker,
    range: &SealedRange,
    each: &mut dyn FnMut(LogPos, &RecordHead) -> Result<()>,
) -> Result<()> {
    let (mut at, mut seq, mut generation) = (range.from.pos, range.from.seq, range.from.generation);
    let mut segment = None;
    while at < range.to {
        let current = match segment.take() {
            Some(s) => s,
            None => read_segment(blocker, range.owner, at.segment)?,
        };
        let Segment { object, ref bytes, .. } = current;
        at.offset = at.offset.max(SEGMENT_HEAD);
        if at >= range.to {
            break;
        }
        let rest = bytes.get(at.offset as usize..).ok_or_else(|| damaged(object, at.offset, "it ends before"))?;
        let found = log::parse_until(&object.to_string(), range.owner, rest, range.epoch)?;
        let Found::Record(head, payload) = found else {
            return Err(damaged(object, at.offset, "a record that was acknowledged is missing"));
        };
        check_order(object, at, &head, seq, &mut generation)?;
        seq += 1;
        each(at, &head)?;
        if head.body == Body::Next {
            at = LogPos { segment: at.segment + 1, offset: 0 };
        } else {
            at.offset += (RECORD_HEAD + payload) as u32;
            segment = Some(current);
        }
    }
    Ok(())
}

/// Calls `each` with every record of a volume's own journal from `start` to its end, and where it lies.
pub fn own_records(
    blocker: &dyn Blocker,
    owner: VolumeId,
    start: LogStart,
    each: &mut dyn FnMut(LogPos, &RecordHead) -> Result<()>,
) -> Result<Tail> {
    let mut next = start;
    let mut replayed = 0;
    let mut segment = read_segment(blocker, owner, next.pos.segment)?;
    loop {
        next.pos.offset = next.pos.offset.max(SEGMENT_HEAD);
        let (object, at) = (segment.object, next.pos);
        let rest =
            segment.bytes.get(at.offset as usize..).ok_or_else(|| damaged(object, at.offset, "it ends before"))?;
        match log::parse(&object.to_string(), owner, rest)? {
            Found::Nothing | Found::Torn => {
                let stray = check_end(owner, &segment, next)?;
                return Ok(Tail { next, segment_len: segment.head.len, bytes: replayed, stray });
            }
            Found::Record(head, payload) => {
                check_order(object, at, &head, next.seq, &mut next.generation)?;
                next.seq += 1;
                replayed += (RECORD_HEAD + payload) as u64;
                each(at, &head)?;
                if head.body == Body::Next {
                    next.pos = LogPos { segment: at.segment + 1, offset: SEGMENT_HEAD };
                    segment = read_segment(blocker, owner, next.pos.segment)?;
                } else {
                    next.pos.offset += (RECORD_HEAD + payload) as u32;
                }
            }
        }
    }
}

/// The journal seems to end at `next`. A later record that knew of something durable behind that point says otherwise.
/// Returns whether anything lies there.
fn check_end(owner: VolumeId, segment: &Segment, next: LogStart) -> Result<bool> {
    let mut stray = false;
    let mut offset = next.pos.offset as usize;
    while let Some(rest) = segment.bytes.get(offset..).filter(|r| r.len() >= ATOM) {
        // What lies here was never acknowledged: it may be half of a record. Only whole records testify.
        if !is_zero(&rest[..ATOM]) {
            stray = true;
            if let Ok(Found::Record(head, _)) = log::parse("", owner, rest)
                && head.seq > next.seq
                && head.synced > next.pos
            {
                return Err(damaged(segment.object, next.pos.offset, "a record that was flushed is missing"));
            }
        }
        offset += ATOM;
    }
    Ok(stray)
}

impl Replay<'_> {
    /// Applies a sealed range: every record of it must be there.
    fn sealed(&mut self, range: &SealedRange) -> Result<()> {
        let clip = Some(range.size);
        sealed_records(self.blocker, range, &mut |at, head| match head.body {
            // What the snapshot has is confirmed in the epoch behind it.
            Body::Confirm { .. } => self.take(range.owner, at, head, clip),
            _ if head.epoch <= range.epoch => self.take(range.owner, at, head, clip),
            _ => Ok(()),
        })?;
        self.decide_rest(range.owner, Boot::default(), clip).map(|_| ())
    }

    /// The next record: applied if it and all before it count or not for sure.
    fn take(&mut self, owner: VolumeId, at: LogPos, head: &RecordHead, clip: Option<u64>) -> Result<()> {
        match &head.body {
            Body::Confirm { seq } => self.confirmed(owner, *seq, clip),
            body if body.runs().is_empty() => Ok(()),
            Body::Map(_) if self.undecided.is_empty() => self.apply(owner, at, head, clip),
            _ => {
                self.undecided.push_back((at, head.clone()));
                Ok(())
            }
        }
    }

    /// Provisional records up to number `seq` count.
    fn confirmed(&mut self, owner: VolumeId, seq: u64, clip: Option<u64>) -> Result<()> {
        let counts = |(_, head): &mut (LogPos, RecordHead)| head.seq <= seq || matches!(head.body, Body::Map(_));
        while let Some((at, head)) = self.undecided.pop_front_if(counts) {
            self.apply(owner, at, &head, clip)?;
        }
        Ok(())
    }

    /// The journal ends. What is not confirmed counts if it was written in this boot. Returns what of it does, and what does not.
    fn decide_rest(
        &mut self,
        owner: VolumeId,
        now: Boot,
        clip: Option<u64>,
    ) -> Result<(Vec<Unconfirmed>, Vec<Unconfirmed>)> {
        let (mut believed, mut refused) = (Vec::new(), Vec::new());
        for (pos, head) in std::mem::take(&mut self.undecided) {
            if let Body::Provisional { boot, .. } = head.body {
                let RecordHead { seq, generation, epoch, .. } = head;
                let record = Unconfirmed { pos, seq, generation, epoch };
                if !is_believed(boot, now) {
                    refused.push(record);
                    continue;
                }
                believed.push(record);
            }
            self.apply(owner, pos, &head, clip)?;
        }
        Ok((believed, refused))
    }

    fn apply(&mut self, owner: VolumeId, at: LogPos, head: &RecordHead, clip: Option<u64>) -> Result<()> {
        let mut offset = at.offset + RECORD_HEAD as u32;
        let end = clip.unwrap_or(self.size).min(self.size).div_ceil(1 << SECTOR_SHIFT);
        for run in head.body.runs() {
            let source = match run.kind {
                RunKind::Zero => Source::Zero,
                RunKind::Data => Source::Data { owner, epoch: head.epoch },
                RunKind::Logged => Source::Log { owner, epoch: head.epoch, segment: at.segment, offset },
            };
            self.run(owner, head.epoch, run, source, end)?;
            if run.kind == RunKind::Logged {
                offset += run.len << SECTOR_SHIFT;
            }
        }
        Ok(())
    }

    /// One run, block by block. A sector that this owner already gave a source of a higher epoch keeps it: a record of
    /// a sealed epoch may come later in the journal than one of the next.
    fn run(&mut self, owner: VolumeId, epoch: u64, run: &Run, source: Source, end: u64) -> Result<()> {
        let shift = u32::from(self.tree.block_shift) - SECTOR_SHIFT;
        let (mut at, stop) = (run.start, (run.start + u64::from(run.len)).min(end));
        while at < stop {
            let block = at >> shift;
            let first = (at - (block << shift)) as u16;
            let len = (stop - at).min((1 << shift) - u64::from(first)) as u16;
            let map = match self.overlay.entry(block) {
                std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
                std::collections::btree_map::Entry::Vacant(e) => {
                    e.insert(self.tree.lookup(self.blocker, self.cache, block)?)
                }
            };
            let newer = |s: &Source| match s {
                Source::Data { owner: o, epoch: e } | Source::Log { owner: o, epoch: e, .. } => {
                    *o == owner && *e > epoch
                }
                Source::Zero | Source::Content(_) => false,
            };
            if map.runs(first, len).any(|r| newer(&r.source)) {
                let pieces: Vec<_> = map.runs(first, len).filter(|r| !newer(&r.source)).collect();
                for piece in pieces {
                    let by = (block << shift) + u64::from(piece.start) - run.start;
                    map.set(piece.start, piece.len, advance_by(source, by));
                }
            } else {
                map.set(first, len, advance_by(source, at - run.start));
            }
            at += u64::from(len);
        }
        Ok(())
    }
}

/// Whether what was written in a boot, and never synced, is there in this one.
fn is_believed(boot: Boot, now: Boot) -> bool {
    boot == now && now != Boot::default() || planted::has(Bug::BootIgnored)
}

/// The source `sectors` further on; runs of a journal record may be longer than a block.
fn advance_by(source: Source, sectors: u64) -> Source {
    match source {
        Source::Log { owner, epoch, segment, offset } => {
            Source::Log { owner, epoch, segment, offset: offset + ((sectors as u32) << SECTOR_SHIFT) }
        }
        other => other,
    }
}

/// A record must follow the one before: number by number, and of the same owner unless it is an owner's first.
fn check_order(object: Object, at: LogPos, head: &RecordHead, seq: u64, generation: &mut u64) -> Result<()> {
    if head.seq != seq {
        return Err(damaged(object, at.offset, &format!("record {} where {seq} should be", head.seq)));
    }
    match head.body {
        Body::Open { previous } if previous == *generation => *generation = head.generation,
        _ if head.generation == *generation => {}
        _ => return Err(damaged(object, at.offset, "a record of another owner")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_believes_another_boot_or_one_that_is_not_known() {
        assert!(is_believed([1; 16], [1; 16]));
        assert!(!is_believed([1; 16], [2; 16]));
        assert!(!is_believed([0; 16], [1; 16]));
        assert!(!is_believed([1; 16], [0; 16]));
        assert!(!is_believed([0; 16], [0; 16]));
    }
}
