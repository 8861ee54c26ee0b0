//! Walks the trees of maps: each node once, whoever shares it, read from the backend and not from the cache.

use std::collections::{BTreeMap, HashMap};
use std::io::IoSliceMut;
use std::sync::Arc;

use super::content::Names;
use super::named::Named;
use super::seen::{Seen, key};
use super::types::{CheckProgress, FindingKind};
use crate::blocker::{Blocker, Object, VolumeId};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::header::Root;
use crate::format::log::SEGMENT_HEAD;
use crate::format::node::{self, Entry, Extent, Node, Pointer, Source};
use crate::limits::{ATOM, DATA_PART, MAX_NODE, SECTOR, SECTOR_SHIFT};
use crate::mapper::block_map::BlockMap;
use crate::mapper::tree::{entry_mapped, span};

/// Nodes between two reports of progress.
const REPORT_EVERY: u64 = 4096;
/// Bad nodes that are remembered; with more the store is beyond what a list can tell.
const MAX_BAD: usize = 100_000;

/// Where a node is.
pub(super) type Place = (VolumeId, u32, u32);

/// Where a node is.
pub(super) fn place(pointer: &Pointer) -> Place {
    (pointer.owner, pointer.pack, pointer.offset)
}

/// A map while it is walked.
#[derive(Clone, Copy)]
pub(super) struct Map {
    /// Its id.
    pub(super) id: VolumeId,
    /// `log2` of its block size.
    pub(super) shift: u8,
}

impl Map {
    pub(super) fn sectors(&self) -> u16 {
        1 << (u32::from(self.shift) - SECTOR_SHIFT)
    }
}

/// Something wrong with a node or what it says.
pub(super) struct Trouble {
    /// What kind of.
    pub(super) kind: FindingKind,
    /// The object.
    pub(super) object: String,
    /// What is wrong.
    pub(super) detail: String,
    /// The node that cannot be used, if none can be.
    pub(super) node: Option<Place>,
}

/// Walks trees, and gathers what they name and what is wrong with them.
pub(super) struct Walker<'a> {
    blocker: &'a dyn Blocker,
    seen: Seen,
    /// What was named.
    pub(super) named: Named,
    /// Nodes that cannot be used, with their number in `troubles`.
    pub(super) bad: HashMap<Place, usize>,
    /// Where content is.
    pub(super) names: Names<'a>,
    /// Digests that lead nowhere, with their number in `troubles`.
    pub(super) missing: HashMap<Digest, usize>,
    /// What is wrong.
    pub(super) troubles: Vec<Trouble>,
    /// How far the walk is.
    pub(super) progress: CheckProgress,
    report: &'a mut dyn FnMut(CheckProgress) -> Result<()>,
    buffer: Vec<u8>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(blocker: &'a dyn Blocker, report: &'a mut dyn FnMut(CheckProgress) -> Result<()>) -> Walker<'a> {
        Walker {
            blocker,
            seen: Seen::new(),
            named: Named::default(),
            bad: HashMap::new(),
            names: Names::new(blocker),
            missing: HashMap::new(),
            troubles: Vec::new(),
            progress: CheckProgress::default(),
            report,
            buffer: vec![0; MAX_NODE],
        }
    }

    /// Says how far it is. An error of the listener ends the check.
    pub(super) fn report(&mut self) -> Result<()> {
        (self.report)(self.progress)
    }

    /// Whom it says so.
    pub(super) fn listener(&mut self) -> &mut dyn FnMut(CheckProgress) -> Result<()> {
        self.report
    }

    /// Notes something wrong.
    pub(super) fn trouble(&mut self, kind: FindingKind, object: String, detail: String, node: Option<Place>) {
        if self.troubles.len() >= MAX_BAD {
            return;
        }
        if let Some(place) = node
            && self.bad.insert(place, self.troubles.len()).is_some()
        {
            return;
        }
        self.troubles.push(Trouble { kind, object, detail, node });
    }

    /// Walks a whole tree. Only what the listener of the progress says is an error.
    pub(super) fn tree(&mut self, map: Map, root: &Root) -> Result<()> {
        match root {
            Root::Empty => Ok(()),
            Root::Inline(bytes) => {
                let object = format!("catalog/h.{}", map.id);
                match Node::decode(&object, bytes) {
                    Ok((Node::Leaf(entries), 0)) => self.leaf(map, &object, 0, &entries),
                    Ok(_) => {
                        let detail = "its inline root is no first leaf".to_string();
                        self.trouble(FindingKind::Header, object, detail, None);
                        Ok(())
                    }
                    Err(error) => {
                        self.trouble(kind_of(&error, FindingKind::Header), object, text_of(error), None);
                        Ok(())
                    }
                }
            }
            Root::Node { level, pointer } => self.node(map, pointer, Some(*level), 0),
        }
    }

    /// Whether a node has to be looked at; remembers that it was.
    fn is_new(&mut self, map: Map, pointer: &Pointer, level: Option<u8>, base: u64) -> bool {
        let key = key(pointer, level.unwrap_or(u8::MAX), base, map.shift);
        if self.bad.contains_key(&place(pointer)) || self.seen.has(key) {
            return false;
        }
        // Leaves stand for 128 of the others.
        if level.is_some() || !self.seen.is_scarce() {
            self.seen.add(key);
        }
        true
    }

    /// A node that must be of this level (`None`: an extent node) and begin at this block, and all beneath it.
    fn node(&mut self, map: Map, pointer: &Pointer, level: Option<u8>, base: u64) -> Result<()> {
        if !self.is_new(map, pointer, level, base) {
            return Ok(());
        }
        let object = Object::Pack(pointer.owner, pointer.pack);
        self.named.pack(pointer.owner, pointer.pack);
        self.progress.nodes += 1;
        if self.progress.nodes.is_multiple_of(REPORT_EVERY) {
            self.report()?;
        }
        let node = match read(self.blocker, &mut self.buffer, pointer, level, base) {
            Ok(node) => node,
            Err(error) => {
                let kind = kind_of(&error, FindingKind::Node);
                let detail = format!("the node at byte {}: {}", pointer.offset, text_of(error));
                self.trouble(kind, object.to_string(), detail, Some(place(pointer)));
                return Ok(());
            }
        };
        let sectors = map.sectors();
        let mapped: u64 = match &node {
            Node::Leaf(entries) => entries.iter().map(|(_, e)| entry_mapped(e, sectors)).sum(),
            Node::Inner { children, .. } => children.iter().map(|(_, p)| p.mapped).sum(),
            Node::Extents(list) => list.iter().map(|e| u64::from(e.len)).sum(),
        };
        if mapped != pointer.mapped {
            let detail = format!(
                "its parent counts {} mapped sectors in the node at byte {}, which has {mapped}; figures are wrong, reading is not",
                pointer.mapped, pointer.offset
            );
            self.trouble(FindingKind::Count, object.to_string(), detail, None);
        }
        match node {
            Node::Leaf(entries) => self.leaf(map, &object.to_string(), base, &entries),
            Node::Inner { level, children } => {
                let below = span(level - 1);
                for (slot, child) in &children {
                    self.node(map, child, Some(level - 1), base + u64::from(*slot) * below)?;
                }
                Ok(())
            }
            Node::Extents(list) => {
                self.extents(map, &object.to_string(), base, &list);
                Ok(())
            }
        }
    }

    fn leaf(&mut self, map: Map, object: &str, base: u64, entries: &[(u8, Entry)]) -> Result<()> {
        self.progress.entries += entries.len() as u64;
        for (slot, entry) in entries {
            let block = base + u64::from(*slot);
            match entry {
                Entry::Owned { owner, epoch } => {
                    self.named.data(map.id, *owner, *epoch, (block + 1) << map.shift);
                    self.moved(*owner, *epoch, block);
                }
                Entry::Extents(list) => self.extents(map, object, block, list),
                Entry::ExtentNode(pointer) => self.node(map, pointer, None, block)?,
                Entry::Content(digest) => self.digest(digest),
            }
        }
        Ok(())
    }

    /// A map names a block by its digest.
    fn digest(&mut self, digest: &Digest) {
        if self.missing.contains_key(digest) || self.troubles.len() >= MAX_BAD {
            return;
        }
        if let Some(detail) = self.names.lack(digest) {
            self.missing.insert(*digest, self.troubles.len());
            let object = Object::Content(*digest).to_string();
            self.trouble(FindingKind::Content, object, detail, None);
        }
    }

    /// A map names a slot, which may have to be read through its digest.
    fn moved(&mut self, owner: VolumeId, epoch: u64, block: u64) {
        if let Some(digest) = self.names.moved(owner, epoch, block) {
            self.digest(&digest);
        }
    }

    /// Changes that are not folded into the tree.
    pub(super) fn overlay(&mut self, map: Map, overlay: &BTreeMap<u64, Arc<BlockMap>>) {
        let object = format!("journal of {}", map.id);
        for (block, blocks) in overlay {
            self.progress.entries += 1;
            self.extents(map, &object, *block, blocks.extents());
        }
    }

    fn extents(&mut self, map: Map, object: &str, block: u64, list: &[Extent]) {
        for extent in list {
            let end = u64::from(extent.start) + u64::from(extent.len);
            if end > u64::from(map.sectors()) {
                let detail = format!("an extent reaches past the end of block {block}");
                self.trouble(FindingKind::Extent, object.to_string(), detail, None);
                continue;
            }
            match extent.source {
                Source::Zero => {}
                Source::Content(digest) => self.digest(&digest),
                Source::Data { owner, epoch } => {
                    self.named.data(map.id, owner, epoch, (block << map.shift) + (end << SECTOR_SHIFT));
                    self.moved(owner, epoch, block);
                }
                Source::Log { owner, epoch, segment, offset } => {
                    let len = u64::from(extent.len) * SECTOR;
                    if offset < SEGMENT_HEAD || !(offset as usize).is_multiple_of(ATOM) {
                        let detail = format!("block {block} lies at byte {offset} of log.{owner}.{segment:08x}");
                        self.trouble(FindingKind::Extent, object.to_string(), detail, None);
                        continue;
                    }
                    self.named.log(map.id, owner, epoch, segment, u64::from(offset) + len);
                }
            }
        }
    }
}

/// Reads a node and checks that it is the one: its hash, its owner, what it is, and where it stands.
pub(super) fn read(
    blocker: &dyn Blocker,
    buffer: &mut [u8],
    pointer: &Pointer,
    level: Option<u8>,
    base: u64,
) -> Result<Node> {
    // Checked where a pointer is decoded.
    let bytes = &mut buffer[..(pointer.len as usize).min(MAX_NODE)];
    blocker.read(
        Object::Pack(pointer.owner, pointer.pack),
        &mut [IoSliceMut::new(bytes)],
        u64::from(pointer.offset),
    )?;
    node::verify("", bytes, pointer)?;
    let (node, found) = Node::decode("", bytes)?;
    let is_level = match &node {
        Node::Leaf(_) => level == Some(0),
        Node::Inner { level: l, .. } => level == Some(*l),
        Node::Extents(_) => level.is_none(),
    };
    if !is_level {
        return Err(Error::damaged("", "it is not of the level that its parent says"));
    }
    if found != base {
        return Err(Error::damaged("", format!("it stands for blocks from {found} on, not from {base} on")));
    }
    Ok(node)
}

/// What an error says, without the object and the advice that go with it for people.
pub(super) fn text_of(error: Error) -> String {
    match error {
        Error::Damaged { detail, .. } | Error::TooNew { detail, .. } => detail,
        other => other.to_string(),
    }
}

/// The kind of finding that an error amounts to.
pub(super) fn kind_of(error: &Error, otherwise: FindingKind) -> FindingKind {
    if matches!(error, Error::TooNew { .. }) { FindingKind::TooNew } else { otherwise }
}

/// A part border never lies inside a block.
const _: () = assert!(DATA_PART.is_multiple_of(crate::limits::MAX_BLOCK_SIZE));
