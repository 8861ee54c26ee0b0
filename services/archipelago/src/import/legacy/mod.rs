//! Reading the stores of the original Archipelago: maps of version 0, 1 and 2 and the blocks that they name.
//!
//! `docs/import-legacy.md` has the formats byte by byte. One way:
//!
//! * [`names`], [`header`], [`entry`], [`digest`] decode bytes and touch no file: whatever they are given, they answer or refuse.
//! * [`tree`] finds objects in a directory of the original without following a link; [`list`] says which maps there are.
//! * [`map`] reads the entries of one map in pieces; [`examine`](mod@examine) counts and checks all of them.
//! * [`read`] turns a map into the blocks that the new store has for it, one after the other; [`known`] remembers what was read.
//! * [`build`] makes content of the blocks and a volume or snapshot of their [`hashes`]. Only it and [`expect`], which says beforehand what it would
//!   do, know the engine: how blocks get into the store is decided there. [`compare`] says whether a volume is what a map would make.
//!
//! The old store is only read; with `--link` its blocks get another name.

pub mod build;
pub mod compare;
pub mod digest;
pub mod entry;
pub mod error;
pub mod examine;
pub mod expect;
pub mod hashes;
pub mod header;
pub mod known;
pub mod list;
pub mod map;
pub mod names;
pub mod read;
pub mod tree;

use std::path::Path;

pub use error::LegacyError;
use tree::Tree;

/// An old store: where its maps are, and where its blocks.
pub struct OldStore {
    /// Map headers, map data and locks.
    pub maps: Tree,
    /// Blocks.
    pub blocks: Tree,
    /// Whether both are the same directory, so that maps and blocks have to be told apart by what they are.
    pub together: bool,
}

impl OldStore {
    /// Opens the two directories, which may be one.
    pub fn open(maps: &Path, blocks: &Path) -> Result<OldStore, LegacyError> {
        let (maps, blocks) = (Tree::open(maps)?, Tree::open(blocks)?);
        let together = maps.identity()? == blocks.identity()?;
        Ok(OldStore { maps, blocks, together })
    }
}
