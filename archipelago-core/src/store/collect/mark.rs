//! Walks maps and marks what they name. Nothing is changed by it, so `check` uses it too.

use std::io::IoSliceMut;
use std::time::Duration;

use super::marks::Marks;
use crate::blocker::{Blocker, Object, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::{Header, Root};
use crate::format::log::{RecordHead, RunKind};
use crate::format::node::{self, Entry, Extent, Node, Pointer, Source};
use crate::limits::{FANOUT_SHIFT, MAX_NODE, SECTOR_SHIFT};
use crate::mapper::replay;
use crate::mapper::tree::{check_level, span};

/// Readings of a journal that seems damaged while its owner appends to it: a reader may see a later record before an
/// earlier one.
const READ_ATTEMPTS: u32 = 5;
/// Wait before the second reading; doubled each time.
const READ_PAUSE: Duration = Duration::from_millis(5);

/// Headers of one map that are read one after the other while its owner replaces them. An owner folds some megabytes of journal
/// between two.
const MAX_HEADERS: u32 = 16;

/// Marks what a map names: by the header that was found, and if that one's journal cannot be read, by the header that took its
/// place. For the owner may have folded the journal since the header was read, and what is folded is overwritten in place, which
/// the checksums of its records do not follow. What the former header named and the later one does not, no map made from now on
/// gets. `again` reads the header (`None`: it is gone); the version of the last one is returned.
pub fn newest<V: PartialEq>(
    found: (Header, V),
    again: &mut dyn FnMut() -> Result<Option<(Header, V)>>,
    mark: &mut dyn FnMut(&Header) -> Result<()>,
) -> Result<V> {
    let (mut header, mut version) = found;
    for _ in 1..MAX_HEADERS {
        let damage = match mark(&header) {
            Err(error @ Error::Damaged { .. }) => error,
            other => return other.map(|()| version),
        };
        match again()? {
            Some((_, now)) if now == version => return Err(damage),
            Some(now) => (header, version) = now,
            None => return Ok(version),
        }
    }
    mark(&header).map(|()| version)
}

/// Marks what maps name.
pub struct Marker<'a> {
    blocker: &'a dyn Blocker,
    marks: &'a mut Marks,
    /// Called with the number of map entries behind each node, and the bytes that were read for it; an error ends the walk.
    step: &'a mut dyn FnMut(u64, u64) -> Result<()>,
    buffer: Vec<u8>,
    /// Nodes still to be looked at: where, of which level, and the first block beneath.
    stack: Vec<(Pointer, u8, u64)>,
}

impl<'a> Marker<'a> {
    /// Marks into `marks`.
    pub fn new(
        blocker: &'a dyn Blocker,
        marks: &'a mut Marks,
        step: &'a mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Marker<'a> {
        Marker { blocker, marks, step, buffer: Vec::new(), stack: Vec::new() }
    }

    /// Marks what a header names, and whatever it may come to name when its journal is folded: also what a record of the journal
    /// says and a later one takes back, for a fold or a snapshot may be just between the two. Anything that cannot be
    /// read is an error: what it names is not known.
    pub fn header(&mut self, header: &Header) -> Result<()> {
        let name = format!("catalog/h.{}", header.id);
        match &header.root {
            Root::Empty => {}
            Root::Inline(bytes) => match Node::decode(&name, bytes)? {
                (Node::Leaf(entries), 0) => {
                    (self.step)(entries.len() as u64, 0)?;
                    self.leaf(&entries, header.block_shift, 0)?;
                }
                _ => return Err(Error::damaged(name, "its inline root is no first leaf")),
            },
            Root::Node { level, pointer } => self.tree(*pointer, *level, header.block_shift)?,
        }
        for range in &header.ranges {
            // All of them are read when the range is replayed.
            for segment in range.from.pos.segment..=range.to.segment {
                self.marks.segment(range.owner, segment);
            }
            let (marks, mut bytes) = (&mut *self.marks, 0);
            replay::sealed_records(self.blocker, range, &mut |_, head| {
                if head.epoch <= range.epoch {
                    record(marks, range.owner, header.block_shift, head);
                }
                bytes += head_bytes(head);
                Ok(())
            })?;
            (self.step)(0, bytes)?;
        }
        if let Some(start) = header.log {
            let mut pause = READ_PAUSE;
            for attempt in 1.. {
                let (marks, mut bytes) = (&mut *self.marks, 0);
                let read = replay::own_records(self.blocker, header.id, start, &mut |at, head| {
                    marks.segment(header.id, at.segment);
                    record(marks, header.id, header.block_shift, head);
                    bytes += head_bytes(head);
                    Ok(())
                });
                match read {
                    Err(Error::Damaged { .. }) if attempt < READ_ATTEMPTS => std::thread::sleep(pause),
                    Err(error) => return Err(error),
                    Ok(tail) => {
                        self.marks.segment(header.id, start.pos.segment);
                        self.marks.segment(header.id, tail.next.pos.segment);
                        (self.step)(0, bytes)?;
                        break;
                    }
                }
                pause *= 2;
            }
        }
        Ok(())
    }

    /// Marks the nodes of a tree that are not marked yet, and what their leaves name.
    fn tree(&mut self, root: Pointer, level: u8, block_shift: u8) -> Result<()> {
        self.stack.clear();
        if self.marks.node(&root) {
            self.stack.push((root, level, 0));
        }
        while let Some((pointer, level, base)) = self.stack.pop() {
            let node = self.read(&pointer)?;
            check_level(&node, level, &pointer)?;
            let bytes = u64::from(pointer.len);
            match node {
                Node::Leaf(entries) => {
                    (self.step)(entries.len() as u64, bytes)?;
                    self.leaf(&entries, block_shift, base)?;
                }
                Node::Inner { children, .. } => {
                    (self.step)(0, bytes)?;
                    let below = span(level - 1);
                    for (slot, child) in children.into_iter().rev() {
                        if self.marks.node(&child) {
                            self.stack.push((child, level - 1, base + u64::from(slot) * below));
                        }
                    }
                }
                Node::Extents(_) => {}
            }
        }
        Ok(())
    }

    fn leaf(&mut self, entries: &[(u8, Entry)], block_shift: u8, base: u64) -> Result<()> {
        // Neighbouring blocks of one data object are marked together.
        let mut run: Option<(VolumeId, u64, u128)> = None;
        for (slot, entry) in entries {
            let block = base + u64::from(*slot);
            match entry {
                Entry::Owned { owner, epoch } => match &mut run {
                    Some((o, e, bits)) if (*o, *e) == (*owner, *epoch) => *bits |= 1 << slot,
                    _ => {
                        if let Some((o, e, bits)) = run.replace((*owner, *epoch, 1 << slot)) {
                            self.marks.blocks(o, e, block_shift, base >> FANOUT_SHIFT, bits);
                        }
                    }
                },
                Entry::Content(digest) => self.marks.digest(digest),
                Entry::Extents(extents) => self.extents(extents, block_shift, block),
                Entry::ExtentNode(pointer) => {
                    if self.marks.node(pointer) {
                        match self.read(pointer)? {
                            Node::Extents(extents) => self.extents(&extents, block_shift, block),
                            _ => {
                                let object = Object::Pack(pointer.owner, pointer.pack).to_string();
                                return Err(Error::damaged(object, "a tree node where an extent list should be"));
                            }
                        }
                        (self.step)(0, u64::from(pointer.len))?;
                    }
                }
            }
        }
        if let Some((o, e, bits)) = run {
            self.marks.blocks(o, e, block_shift, base >> FANOUT_SHIFT, bits);
        }
        Ok(())
    }

    fn extents(&mut self, extents: &[Extent], block_shift: u8, block: u64) {
        for extent in extents {
            match extent.source {
                Source::Zero => {}
                Source::Content(digest) => self.marks.digest(&digest),
                Source::Data { owner, epoch } => {
                    self.marks.sectors(owner, epoch, block_shift, block, extent.start, extent.len);
                }
                Source::Log { owner, segment, offset, .. } => {
                    let start = u64::from(offset);
                    self.marks.logged(owner, segment, start, start + (u64::from(extent.len) << SECTOR_SHIFT));
                }
            }
        }
    }

    /// A node, past the node cache: each is read once, and would only push out what volumes need.
    fn read(&mut self, pointer: &Pointer) -> Result<Node> {
        let object = Object::Pack(pointer.owner, pointer.pack);
        if pointer.len as usize > MAX_NODE {
            return Err(Error::damaged(object.to_string(), format!("a node of {} bytes", pointer.len)));
        }
        self.buffer.resize(pointer.len as usize, 0);
        self.blocker.read(object, &mut [IoSliceMut::new(&mut self.buffer)], u64::from(pointer.offset))?;
        let name = object.to_string();
        node::verify(&name, &self.buffer, pointer)?;
        Ok(Node::decode(&name, &self.buffer)?.0)
    }
}

/// Marks what a journal record says of data objects, whether that counts or not; the segments of a journal are marked as a whole.
fn record(marks: &mut Marks, owner: VolumeId, block_shift: u8, head: &RecordHead) {
    for run in head.body.runs() {
        if run.kind == RunKind::Data {
            marks.run(owner, head.epoch, block_shift, run.start, u64::from(run.len));
        }
    }
}

/// Bytes of a record, roughly.
fn head_bytes(head: &RecordHead) -> u64 {
    let logged = head.body.runs().iter().filter(|run| run.kind == RunKind::Logged);
    512 + logged.map(|run| u64::from(run.len) << SECTOR_SHIFT).sum::<u64>()
}
