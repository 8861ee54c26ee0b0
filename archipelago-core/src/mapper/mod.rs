//! From blocks of a volume to where their bytes are: trees, journal, fold and compare.
//!
//! | Module | Job |
//! |---|---|
//! | `block_map` | the merged extents of one block |
//! | `tree`, `cache` | walk a tree; decoded nodes under a byte limit |
//! | `build` | a new tree from entries in order |
//! | `fold`, `pack` | write the nodes of a changed tree |
//! | `journal`, `provisional` | append records; those that count only once their data is synced |
//! | `replay` | read journals back over a root |
//! | `view`, `compare` | a map at one moment; what differs between two |

pub(crate) mod block_map;
pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod compare;
pub(crate) mod fold;
pub(crate) mod journal;
pub(crate) mod pack;
pub(crate) mod provisional;
pub(crate) mod replay;
pub(crate) mod tree;
pub(crate) mod view;
