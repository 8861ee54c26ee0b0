//! Walks the nodes of a tree plainly.

use std::io::IoSliceMut;

use archipelago_core::blocker::{Blocker, Object};
use archipelago_core::format::header::{Header, Root};
use archipelago_core::format::node::{Entry, Node, Pointer};

use crate::perform::Done;

/// Calls `each` with what leads to each node of the map of a header.
pub fn nodes(blocker: &dyn Blocker, header: &Header, each: &mut dyn FnMut(&Pointer)) -> Done<()> {
    match &header.root {
        Root::Empty => Ok(()),
        Root::Inline(bytes) => below(blocker, &Node::decode(&header.name, bytes)?.0, each),
        Root::Node { pointer, .. } => node(blocker, pointer, each),
    }
}

fn node(blocker: &dyn Blocker, pointer: &Pointer, each: &mut dyn FnMut(&Pointer)) -> Done<()> {
    each(pointer);
    let pack = Object::Pack(pointer.owner, pointer.pack);
    let mut bytes = vec![0; pointer.len as usize];
    blocker.read(pack, &mut [IoSliceMut::new(&mut bytes)], u64::from(pointer.offset))?;
    below(blocker, &Node::decode(&pack.to_string(), &bytes)?.0, each)
}

fn below(blocker: &dyn Blocker, parent: &Node, each: &mut dyn FnMut(&Pointer)) -> Done<()> {
    match parent {
        Node::Leaf(entries) => entries.iter().try_for_each(|(_, entry)| match entry {
            Entry::ExtentNode(pointer) => node(blocker, pointer, each),
            _ => Ok(()),
        }),
        Node::Inner { children, .. } => children.iter().try_for_each(|(_, child)| node(blocker, child, each)),
        Node::Extents(_) => Ok(()),
    }
}
