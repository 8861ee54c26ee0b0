//! Every size and count that the library bounds, each with its reason.

/// Handles in a process. A slot takes 128 bytes, and they are made in groups of [`CHUNK`] as they are needed; the number fits 16 bits.
pub(crate) const MAX_HANDLES: usize = 1 << 16;
/// Slots that are made at once.
pub(crate) const CHUNK: usize = 256;
/// Uses of one handle at the same moment: what its field in the state of a slot can count.
pub(crate) const MAX_USES: u64 = (1 << 25) - 1;

/// Bytes of a message, with the NUL at its end. Longer ones are cut.
pub(crate) const MAX_MESSAGE: usize = 4096;
/// Bytes of a text that is given to the library, with the NUL at its end: `PATH_MAX`.
pub(crate) const MAX_TEXT: usize = 4096;
/// Largest struct that is taken, in bytes: what later versions may have grown to. Nobody who says more can mean it.
pub(crate) const MAX_STRUCT: usize = 4096;

/// Largest node cache, in bytes: the engine makes its table for what may be in it at once, and maps of a petabyte fit.
pub(crate) const MAX_NODE_CACHE: u64 = 4 << 30;

/// Parts of one request: `IOV_MAX` of Linux.
pub(crate) const MAX_PARTS: usize = 1024;
/// Extents that one call gives: what is collected in memory before it is copied to the caller, 1.5 MiB.
pub(crate) const MAX_EXTENTS: usize = 1 << 16;

/// Operations that may be submitted to a queue and not collected: its memory is made with it, 100 bytes for each.
pub(crate) const MAX_DEPTH: u32 = 1 << 16;
/// The same unless told otherwise.
pub(crate) const DEFAULT_DEPTH: u32 = 256;
/// Threads of a queue: more than any disk has use for.
pub(crate) const MAX_THREADS: u32 = 64;
