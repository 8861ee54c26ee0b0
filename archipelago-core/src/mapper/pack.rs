//! Appends tree nodes to the node packs of a volume.

use std::io::IoSlice;
use std::sync::Arc;

use crate::blocker::{Blocker, Object, VolumeId};
use crate::error::Result;
use crate::format::node::{Node, Pointer};
use crate::limits::PACK_SIZE;
use crate::mapper::cache::NodeCache;

/// Nodes gathered before one write: a checkpoint of a scattered volume writes in pieces of this size.
const GATHER: usize = 1 << 20;

/// Where the next node of a volume goes. Lives as long as the volume is open for writing.
pub struct PackWriter {
    owner: VolumeId,
    pack: u32,
    /// End of what was handed to the backend.
    written: u64,
    buffer: Vec<u8>,
    exists: bool,
    /// Packs with writes that were not synced.
    dirty: Vec<Object>,
}

impl PackWriter {
    /// Continues behind everything that any earlier owner may have written: a locator is never reused.
    pub fn open(blocker: &dyn Blocker, owner: VolumeId) -> Result<PackWriter> {
        let mut last = None;
        for object in blocker.objects(owner)? {
            if let Object::Pack(_, n) = object {
                last = last.max(Some(n));
            }
        }
        // An unfinished append of an earlier owner may have left bytes that no sync covered: they may be there now and
        // gone after a power cut, so nothing is put behind them in the same pack.
        let pack = last.map_or(0, |n| n + 1);
        Ok(PackWriter { owner, pack, written: 0, buffer: Vec::new(), exists: false, dirty: Vec::new() })
    }

    /// Whose packs these are.
    pub fn owner(&self) -> VolumeId {
        self.owner
    }

    /// Appends a node; it is readable after [`PackWriter::sync`].
    pub fn append(
        &mut self,
        blocker: &dyn Blocker,
        cache: &NodeCache,
        node: Node,
        base: u64,
        mapped: u64,
    ) -> Result<Pointer> {
        let bytes = node.encode(self.owner, base)?;
        if self.written + self.buffer.len() as u64 + bytes.len() as u64 > PACK_SIZE {
            self.write_out(blocker)?;
            self.pack += 1;
            self.written = 0;
            self.exists = false;
        }
        let pointer = Pointer {
            owner: self.owner,
            pack: self.pack,
            offset: (self.written + self.buffer.len() as u64) as u32,
            len: bytes.len() as u32,
            mapped,
            hash: *blake3::hash(&bytes).as_bytes(),
        };
        self.buffer.extend_from_slice(&bytes);
        cache.insert(&pointer, Arc::new(node));
        if self.buffer.len() >= GATHER {
            self.write_out(blocker)?;
        }
        Ok(pointer)
    }

    fn write_out(&mut self, blocker: &dyn Blocker) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let object = Object::Pack(self.owner, self.pack);
        if !self.exists {
            blocker.create(object, &[], 0)?;
            self.exists = true;
        }
        blocker.write(object, &[IoSlice::new(&self.buffer)], self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if !self.dirty.contains(&object) {
            self.dirty.push(object);
        }
        Ok(())
    }

    /// Makes all appended nodes durable: one sync for each pack touched.
    pub fn sync(&mut self, blocker: &dyn Blocker) -> Result<()> {
        self.write_out(blocker)?;
        blocker.sync(&self.dirty)?;
        self.dirty.clear();
        Ok(())
    }

    /// Lets later nodes go to a new pack. Everything appended was synced.
    pub fn close(&mut self) {
        if self.exists {
            self.abandon();
        }
    }

    /// Gives up what was appended since the last sync: later nodes go to a new pack.
    pub fn abandon(&mut self) {
        self.buffer.clear();
        self.dirty.clear();
        self.pack += 1;
        self.written = 0;
        self.exists = false;
    }
}
