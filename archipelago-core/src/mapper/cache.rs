//! Decoded tree nodes, shared by all volumes of a store and bounded in bytes.

use std::io::IoSliceMut;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::blocker::{Blocker, Object, VolumeId};
use crate::error::{Error, Result};
use crate::format::node::{self, Entry, Node, Pointer};
use crate::id_hash::BuildIdHasher;
use crate::limits::MAX_NODE;
use crate::sync::atomic::{AtomicU64, Ordering};

type Key = (VolumeId, u32, u32);

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Arc<Node>> for Bytes {
    fn weight(&self, _: &Key, node: &Arc<Node>) -> u64 {
        const FIXED: u64 = 160;
        FIXED
            + match &**node {
                Node::Leaf(entries) => entries
                    .iter()
                    .map(|(_, e)| match e {
                        Entry::Extents(list) => 80 + 40 * list.len() as u64,
                        _ => 80,
                    })
                    .sum(),
                Node::Inner { children, .. } => 72 * children.len() as u64,
                Node::Extents(list) => 40 * list.len() as u64,
            }
    }
}

/// What the node cache of a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Bytes of memory, about.
    pub bytes: u64,
    /// Most bytes that it takes.
    pub limit: u64,
    /// Nodes.
    pub nodes: u64,
    /// Nodes that were looked for and not there, and were read, since the store was opened.
    pub reads: u64,
}

/// The node cache. A locator is never reused, so what it holds never goes stale.
pub struct NodeCache {
    cache: Cache<Key, Arc<Node>, Bytes, BuildIdHasher>,
    /// Nodes that were not in it and were read.
    reads: AtomicU64,
}

impl NodeCache {
    /// A cache of at most about `bytes` bytes.
    pub fn new(bytes: u64) -> NodeCache {
        let (nodes, hasher) = ((bytes / 2048).max(16) as usize, BuildIdHasher::default());
        let cache = Cache::with(nodes, bytes, Bytes, hasher, DefaultLifecycle::default());
        NodeCache { cache, reads: AtomicU64::new(0) }
    }

    /// The node that `pointer` names, verified against its hash when it is read.
    #[inline]
    pub fn get(&self, blocker: &dyn Blocker, pointer: &Pointer) -> Result<Arc<Node>> {
        match self.cache.get(&(pointer.owner, pointer.pack, pointer.offset)) {
            Some(node) => Ok(node),
            None => self.read(blocker, pointer),
        }
    }

    #[cold]
    fn read(&self, blocker: &dyn Blocker, pointer: &Pointer) -> Result<Arc<Node>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let object = Object::Pack(pointer.owner, pointer.pack);
        if pointer.len as usize > MAX_NODE {
            return Err(Error::damaged(object.to_string(), format!("a node of {} bytes", pointer.len)));
        }
        let mut bytes = vec![0; pointer.len as usize];
        blocker.read(object, &mut [IoSliceMut::new(&mut bytes)], u64::from(pointer.offset))?;
        let name = object.to_string();
        node::verify(&name, &bytes, pointer)?;
        let node = Arc::new(Node::decode(&name, &bytes)?.0);
        self.insert(pointer, node.clone());
        Ok(node)
    }

    /// What it holds.
    pub fn figures(&self) -> CacheFigures {
        CacheFigures {
            bytes: self.cache.weight(),
            limit: self.cache.capacity(),
            nodes: self.cache.len() as u64,
            reads: self.reads.load(Ordering::Relaxed),
        }
    }

    /// Adds a node that was just written.
    pub fn insert(&self, pointer: &Pointer, node: Arc<Node>) {
        self.cache.insert((pointer.owner, pointer.pack, pointer.offset), node);
    }
}
