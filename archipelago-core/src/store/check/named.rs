//! What maps name outside their trees: data objects and journal segments, how far into them, and in which epochs.

use std::collections::{BTreeSet, HashMap};
use std::io::IoSliceMut;

use crate::blocker::{Blocker, Object, VolumeId};
use crate::error::{Error, Result};
use crate::format::log::{SEGMENT_HEAD, SegmentHead};
use crate::limits::DATA_PART;

/// Objects named so far.
#[derive(Default)]
pub(super) struct Named {
    /// End of the last byte named, for each part of a data object and each journal segment (part 0).
    ends: HashMap<(Object, u64), u64>,
    /// Node packs.
    packs: BTreeSet<Object>,
    /// Highest epoch of each owner that its own map names, and that another one does.
    epochs: HashMap<VolumeId, Epochs>,
    /// The data object named last: neighbours mostly lie in the same.
    last: Option<Last>,
}

/// Highest epochs that are named, each with a map that names it.
#[derive(Clone, Copy, Default)]
pub(super) struct Epochs {
    /// By the owner's own map.
    pub(super) own: u64,
    /// By another map.
    pub(super) others: Option<(u64, VolumeId)>,
}

#[derive(Clone, Copy)]
struct Last {
    map: VolumeId,
    owner: VolumeId,
    epoch: u64,
    part: u64,
    end: u64,
}

/// A stretch of an object that is named and is not there.
pub(super) struct Cut {
    /// The object.
    pub(super) object: Object,
    /// First byte that is missing.
    pub(super) from: u64,
    /// End of what is named.
    pub(super) to: u64,
    /// What is wrong.
    pub(super) error: Error,
}

impl Named {
    /// `map` names bytes of a data object up to `end`; they all lie in one part.
    pub(super) fn data(&mut self, map: VolumeId, owner: VolumeId, epoch: u64, end: u64) {
        let part = end.saturating_sub(1) / DATA_PART;
        if let Some(last) = &mut self.last
            && (last.map, last.owner, last.epoch, last.part) == (map, owner, epoch, part)
        {
            last.end = last.end.max(end);
            return;
        }
        self.settle();
        self.epoch(map, owner, epoch);
        self.last = Some(Last { map, owner, epoch, part, end });
    }

    /// Takes over what was gathered for the object named last.
    pub(super) fn settle(&mut self) {
        if let Some(last) = self.last.take() {
            let end = self.ends.entry((Object::Data(last.owner, last.epoch), last.part)).or_default();
            *end = (*end).max(last.end);
        }
    }

    /// `map` names bytes of a journal segment up to `end`.
    pub(super) fn log(&mut self, map: VolumeId, owner: VolumeId, epoch: u64, segment: u32, end: u64) {
        self.epoch(map, owner, epoch);
        self.segment(owner, segment, end);
    }

    /// A journal segment is needed up to `end`.
    pub(super) fn segment(&mut self, owner: VolumeId, segment: u32, end: u64) {
        let known = self.ends.entry((Object::Log(owner, segment), 0)).or_default();
        *known = (*known).max(end);
    }

    /// A node lies in this pack.
    pub(super) fn pack(&mut self, owner: VolumeId, pack: u32) {
        self.packs.insert(Object::Pack(owner, pack));
    }

    fn epoch(&mut self, map: VolumeId, owner: VolumeId, epoch: u64) {
        let known = self.epochs.entry(owner).or_default();
        if map == owner {
            known.own = known.own.max(epoch);
        } else if known.others.is_none_or(|(e, _)| e < epoch) {
            known.others = Some((epoch, map));
        }
    }

    /// Owners with the epochs that are named of them.
    pub(super) fn epochs(&self) -> Vec<(VolumeId, Epochs)> {
        let mut all: Vec<_> = self.epochs.iter().map(|(owner, epochs)| (*owner, *epochs)).collect();
        all.sort_by_key(|(owner, _)| *owner);
        all
    }

    /// Number of data objects and segments.
    pub(super) fn count(&self) -> u64 {
        let objects: BTreeSet<Object> = self.ends.keys().map(|(object, _)| *object).collect();
        objects.len() as u64
    }

    /// Whether something names an object.
    pub(super) fn has(&self, object: Object) -> bool {
        match object {
            Object::Pack(..) => self.packs.contains(&object),
            Object::Log(..) => self.ends.contains_key(&(object, 0)),
            // What belongs to content is kept, whatever maps name: see `store/content`.
            Object::Redirect(..) | Object::Content(_) | Object::Index(_) | Object::Lease(..) => true,
            // Parts are few.
            Object::Data(owner, epoch) | Object::Sum(owner, epoch) => {
                let data = Object::Data(owner, epoch);
                (0..crate::limits::MAX_VOLUME_SIZE / DATA_PART).any(|part| self.ends.contains_key(&(data, part)))
            }
        }
    }

    /// Looks whether all of it is there: a byte at each end tells, for nothing ever makes an object shorter.
    pub(super) fn verify(&mut self, blocker: &dyn Blocker, each: &mut dyn FnMut(Cut) -> Result<()>) -> Result<()> {
        self.settle();
        let mut all: Vec<_> = self.ends.iter().map(|(key, end)| (*key, *end)).collect();
        all.sort_unstable();
        for ((object, part), end) in all {
            if end == 0 {
                continue;
            }
            if let Object::Log(owner, segment) = object
                && let Err(error) = segment_head(blocker, owner, segment)
            {
                each(Cut { object, from: 0, to: end, error })?;
                continue;
            }
            if let Err(error) = probe(blocker, object, end - 1) {
                let from = first_missing(blocker, object, part * DATA_PART, end - 1);
                each(Cut { object, from, to: end, error })?;
            }
        }
        Ok(())
    }
}

/// Reads one byte.
fn probe(blocker: &dyn Blocker, object: Object, at: u64) -> Result<()> {
    blocker.read(object, &mut [IoSliceMut::new(&mut [0])], at)
}

/// The first byte from `from` on that is not there, if byte `to` is not.
fn first_missing(blocker: &dyn Blocker, object: Object, from: u64, to: u64) -> u64 {
    let (mut low, mut high) = (from, to);
    while low < high {
        let middle = low + (high - low) / 2;
        match probe(blocker, object, middle) {
            Ok(()) => low = middle + 1,
            Err(_) => high = middle,
        }
    }
    low
}

/// A segment must be the one that its name says.
fn segment_head(blocker: &dyn Blocker, owner: VolumeId, segment: u32) -> Result<()> {
    let object = Object::Log(owner, segment);
    let mut bytes = [0; SEGMENT_HEAD as usize];
    blocker.read(object, &mut [IoSliceMut::new(&mut bytes)], 0)?;
    let head = SegmentHead::decode(&object.to_string(), &bytes)?;
    if (head.owner, head.segment) == (owner, segment) {
        return Ok(());
    }
    let detail = format!("it says that it is segment {} of {}", head.segment, head.owner);
    Err(Error::damaged(object.to_string(), detail))
}
