//! Every size, count and wait that the engine bounds, each with its reason.

use std::time::Duration;

/// Unit in which the map knows data: no entry is finer. Matches the page cache and the physical sector of current disks.
pub const SECTOR: u64 = 4096;
/// `log2` of [`SECTOR`].
pub const SECTOR_SHIFT: u32 = 12;
/// Unit that a disk writes whole or not at all; journal records and record slots are built from it.
pub const ATOM: usize = 512;

/// Smallest block: below it the map grows past 1/1000 of the data.
pub const MIN_BLOCK_SIZE: u64 = 64 << 10;
/// Largest block: sector numbers inside a block stay below 16 bits.
pub const MAX_BLOCK_SIZE: u64 = 64 << 20;
/// Block size unless the creator says otherwise; the block of Pithos files, so that disks and files share.
pub const DEFAULT_BLOCK_SIZE: u64 = 4 << 20;

/// Smallest volume, in bytes.
pub const MIN_VOLUME_SIZE: u64 = 1;
/// Largest volume, in bytes (4 PiB): six tree levels at the smallest block size.
pub const MAX_VOLUME_SIZE: u64 = 4 << 50;

/// Shortest volume name, in bytes (the original's rule, kept for its tools).
pub const MIN_NAME: usize = 6;
/// Longest volume name, in bytes (so that the original's derived block names fit their field).
pub const MAX_NAME: usize = 82;

/// Children of a tree node.
pub const FANOUT: u64 = 128;
/// `log2` of [`FANOUT`].
pub const FANOUT_SHIFT: u32 = 7;
/// Largest encoded tree node, in bytes.
pub const MAX_NODE: usize = 16 << 10;
/// Largest extent list kept inline in a leaf entry, in bytes.
pub const MAX_INLINE_EXTENTS: usize = 64;
/// Extents of one block that can be stored: a node says their number in one byte.
pub const MAX_EXTENTS: usize = 255;
/// Extents of one block past which the block is composed in the background. Well below what can be stored, so that a fold
/// hardly ever has to compose a block while writes are stopped.
pub const COMPOSE_EXTENTS: usize = 64;
/// Extents of one block past which it is composed before it is folded while writers wait for that: down to two thirds of it, for which the
/// shortest gaps are copied, a small part of the block. The rest is composed when nobody waits. As far below what can be stored as
/// writers may go on meanwhile.
pub const PRESSED_EXTENTS: usize = 192;
/// Bytes that are copied in one round of composing when nobody waits: who wants to fold or to close the volume meanwhile waits for it,
/// some 100 ms.
pub const COMPOSE_ROUND: u64 = 64 << 20;
/// Blocks that wait to be composed, about 16 bytes each. Those past it stay in pieces until they are written again.
pub const MAX_OVERFULL: usize = 64 << 10;
/// Bytes that composing copies at once. Writers of the block, and whoever stops changes, wait for one such piece, which takes
/// some 50 us; smaller ones would cost more in calls than in copying.
pub const COMPOSE_PIECE: usize = 128 << 10;
/// Bytes that compaction copies between two checkpoints: what a crash makes it do again.
pub const COMPACT_BATCH: u64 = 256 << 20;
/// Bytes of a data object or journal segment that a volume has to itself, up to which it is thin: to copy so much is worth a file.
pub const THIN_OBJECT: u64 = 1 << 20;
/// Thin objects that a volume may have: they cost 64 inodes. What leaves them goes into one epoch, which is soon no thin one any more,
/// so that a byte is copied for this reason a few times in its life.
pub const MAX_THIN_OBJECTS: usize = 64;
/// A node pack is closed past this size, so that evacuating one is a short job.
pub const PACK_SIZE: u64 = 64 << 20;
/// Largest encoded leaf that is kept inside the header instead of a node pack, in bytes.
pub const MAX_INLINE_ROOT: usize = 1024;

/// Largest journal segment, in bytes.
pub const SEGMENT_SIZE: u64 = 16 << 20;
/// First journal segment of a volume, in bytes: a clone that is hardly written stays small.
pub const FIRST_SEGMENT_SIZE: u64 = 1 << 20;
/// Journal segment for records without data where there is no room for a larger one: it may use the reserve, so that a flush, and
/// with it a snapshot, finishes on a full disk. Has room for 60 records.
pub const RESERVED_SEGMENT: u64 = 32 << 10;
/// Journal bytes not yet folded into the tree: replay of this much takes under a second.
pub const MAX_UNFOLDED: u64 = 32 << 20;
/// Bytes of memory for the maps of blocks that were changed since they were last folded. A block takes 112 bytes and 48 for each extent past
/// the first, so this is half a million blocks written as a whole, which hardly any journal tells of, or as many
/// scattered sectors as [`MAX_UNFOLDED`] holds in blocks of 64 extents. Slows writers down as that does.
pub const MAX_OVERLAY: u64 = 64 << 20;
/// Blocks of which one step of a discard or of writing zeroes changes the maps: about one twelfth of [`MAX_OVERLAY`].
pub const MAX_ZEROED_BLOCKS: u64 = 32 << 10;
/// Largest write that goes into the journal with its data; one bit per 512 bytes of it fits a 64-bit word.
pub const MAX_LOGGED_WRITE: usize = 32 << 10;
/// Bytes of a large request that are admitted at once: whoever stops changes for a moment waits for no more of it, some 100 us.
pub const ADMITTED: usize = 256 << 10;
/// Provisional records that wait for a sync of their data; past it the engine syncs by itself. They are kept in memory, 32 bytes each, and
/// written once more if that sync fails.
pub const MAX_PROVISIONAL: usize = 8192;
/// Sealed journal ranges in one header; a clone chain deeper than this folds first.
pub const MAX_RANGES: usize = 8;
/// Captured maps that wait to be folded after snapshots. Whoever takes one more folds them first.
pub const MAX_FOLD_JOBS: usize = 8;
/// Bytes of memory that they take, counted as for [`MAX_OVERLAY`]: twice that, so that there is always room for one, and a volume of
/// which everything changes between two snapshots takes at most three times the memory of its changes.
pub const MAX_CAPTURED: u64 = 2 * MAX_OVERLAY;

/// Part size of the packed data file of an epoch: below the file size limit of ext4 (16 TiB).
pub const DATA_PART: u64 = 8 << 40;
/// Longest key of a label in bytes: a program and a word.
pub const MAX_LABEL_KEY: usize = 64;
/// Longest value of a label in bytes: a name, an id, a line of text. Its length is stored in a byte.
pub const MAX_LABEL_VALUE: usize = 255;
/// Most bytes of labels in one header: what programs note fits many times, and a header with all of its other parts fits a record.
pub const MAX_LABELS: usize = 1024;
/// Payload of one record slot (header, lock, process, superblock).
pub const MAX_RECORD: usize = 8 * 484;
/// Largest unit of a file system in which the file blocker makes requests past the page cache: sixteen times what any has that is in use.
pub const MAX_DIRECT_UNIT: usize = 64 << 10;
/// Bytes of a buffer through which go requests past the page cache that do not lie as the disk wants them: as much as a write is cut into.
pub const BOUNCE: usize = ADMITTED;
/// Such buffers of one store: as many requests go through them at once, others wait. 16 MiB if all of each was used.
pub const BOUNCES: usize = 64;
/// Descriptors that the file blocker keeps open when idle.
pub const MAX_OPEN_FILES: usize = 512;
/// Default byte limit of the node cache.
pub const NODE_CACHE: u64 = 64 << 20;

/// Bytes of checksums of sealed data that a process remembers: those of 16 GiB.
pub const SUM_CACHE: u64 = 16 << 20;
/// Reads of sectors without a checksum before a process looks whether there is one by now: looking takes some microseconds, and in a
/// store that nobody scrubs it is always in vain.
pub const SUM_PATIENCE: u32 = 1024;
/// Bytes between two syncs of the checksums that a scrub makes: what a power cut makes it do again.
pub const SUM_BATCH: u64 = 16 << 30;

/// Places of content blocks that a process remembers; about 100 bytes each.
pub const CONTENT_PLACES: usize = 64 << 10;
/// Epochs of which a process remembers whether slots of them were moved; about 60 bytes each.
pub const MOVED_EPOCHS: usize = 16 << 10;
/// Windows of 64 slots of such epochs that a process remembers; about 2 KiB each.
pub const MOVED_WINDOWS: usize = 1024;
/// Pages of the content index that a process keeps decoded; about 4.5 KiB each.
pub const INDEX_PAGES: usize = 2048;
/// Index tables past which the small ones are merged: each is asked at every lookup.
pub const MAX_INDEX_TABLES: usize = 8;
/// Digests that one call asks for or leases: what the lock of content is held for at once.
pub const MAX_DIGEST_BATCH: usize = 8192;
/// Content objects deleted while the lock of content is held once: nobody waits for it longer than for so many unlinks.
pub const CONTENT_SWEEP: usize = 256;
/// Bits in which a collection remembers the digests that are needed, as a power of two: 64 MiB, of which only the pages that
/// are used take room. With 100 million digests one in ten of those that are not needed is taken for one that is, until the
/// next collection.
pub const DIGEST_BITS: u32 = 29;
/// Seconds that content stays which no map names, after its lease ended or was used last: a day, as uploads that are
/// resumed take.
pub const CONTENT_GRACE: u64 = 24 * 3600;
/// Times that the digests of a dead epoch are compared anew because more were leased meanwhile; then it is left to the next
/// collection.
pub const MAX_COMPARISONS: usize = 8;
/// Slots that a dry run remembers as moved or forgotten, about 40 bytes each: with more it says less than a run would do.
pub const MAX_DRY_SLOTS: usize = 1 << 20;
/// Bytes that hashing reads between two moments at which what it found is made durable.
pub const HASH_BATCH: u64 = 16 << 30;

/// Bytes of a write-back cache unless asked otherwise: writes of some minutes at the speed of a small cluster.
pub const DEFAULT_CACHE_SIZE: u64 = 1 << 30;
/// Smallest cache, in bytes: has room for sixteen of its largest records.
pub const MIN_CACHE_SIZE: u64 = 16 << 20;
/// Largest cache, in bytes.
pub const MAX_CACHE_SIZE: u64 = 1 << 40;
/// Bytes that one record of a cache writes; more is several records.
pub const MAX_CACHED_WRITE: usize = 1 << 20;
/// Records of a cache that are not in the volume: each takes 72 bytes of memory, and at most two ranges of about 60 in the index, so 24 MiB.
pub const MAX_CACHED_RECORDS: usize = 128 << 10;
/// Records that are brought from a cache into the volume before its file says so, which costs a sync: what a crash has done again.
pub const MAX_DRAIN_RECORDS: usize = 64;
/// Bytes of them.
pub const MAX_DRAIN_BYTES: u64 = 4 << 20;

/// Largest single read or write request, in bytes.
pub const MAX_REQUEST: u64 = 64 << 20;
/// Longest request that is carried out in the thread that submits it, in bytes: copying more takes longer than handing it to a thread
/// that may do it meanwhile.
pub const AT_ONCE: usize = 64 << 10;
/// Requests of one thread that are under way together past the page cache: more than keep a fast disk busy, and as many as the ring of a
/// virtual machine holds.
pub const MAX_TOGETHER: usize = 128;
/// Threads that carry out submitted operations of a store past the page cache which are not under way together, all of them where the kernel
/// has no io_uring: each waits for the disk with one, and has a stack.
pub const DIRECT_THREADS: usize = 8;
/// Requests queued for the completion interface of one store.
pub const MAX_QUEUE: usize = 1024;
/// Clones made by one call.
pub const MAX_CLONE_COUNT: usize = 100_000;
/// Entries in one page of a listing.
pub const MAX_LIST_PAGE: usize = 10_000;
/// Bytes of one control message, request or answer.
pub const MAX_CONTROL_MESSAGE: usize = 1 << 20;
/// Control connections served at once by one process.
pub const MAX_CONTROL_CONNECTIONS: usize = 64;
/// Time that a request to a volume waits until the process that has it hands it over: guests give a disk 30 s before they take it for dead,
/// and an owner that lives needs milliseconds.
pub const HANDOVER_WAIT: Duration = Duration::from_secs(10);
/// Time in which an owner that is asked for a volume ends what is under way, flushes and closes it, before it keeps it: less than the asker waits, so
/// that he hears why.
pub const LENDING_TIME: Duration = Duration::from_secs(8);
/// Longest wait between two attempts to get a volume that somebody keeps.
pub const HANDOVER_PAUSE: Duration = Duration::from_millis(50);
/// Memory for what maps use of data objects while a store is collected: 100 million whole blocks of one object take 50 MiB.
pub const MARK_MEMORY: u64 = 256 << 20;
/// Ranges of objects that are held at once to say what maps share; more are looked at in parts. They take 300 MiB.
pub const DISK_USE_RANGES: usize = 4 << 20;
/// Rounds in which a collection waits for maps that are being made; each takes milliseconds.
pub const MAX_ROUNDS: usize = 64;
/// Names without a map that one collection removes; more are left to the next.
pub const MAX_COLLECTED_NAMES: usize = 10_000;
/// Bytes of dead data in an object that are left there: finding them again costs more than they take.
pub const HOLE_SLACK: u64 = 64 << 10;
/// The same for node packs and journal segments, of which there are many, each mostly small: above what file systems take for the
/// list of extents of a small file.
pub const PAGE_SLACK: u64 = 16 << 10;
/// The same as a fraction (1/N) of what the object holds: file systems round, and need room for the list of extents.
pub const HOLE_SLACK_FRACTION: u64 = 64;
/// Bytes punched by one call, so that the file system is not held up for long.
pub const HOLE_PIECE: u64 = 64 << 20;
/// Free space that data writes leave untouched, so that checkpoint, snapshot and remove can finish on a full disk.
pub const RESERVED_SPACE: u64 = 64 << 20;
/// The reserve is never more than this fraction (1/N) of the file system.
pub const RESERVED_FRACTION: u64 = 20;
/// Findings that one check lists; what more there is, is counted. A store with more has one cause for them all.
pub const MAX_FINDINGS: usize = 10_000;
/// Byte ranges listed for one map and finding; what more there is, is said to be more.
pub const MAX_AFFECTED_RANGES: usize = 64;
/// Bytes in which a check remembers the tree nodes it has seen: 12 million nodes, past which shared ones are looked at again.
pub const CHECK_SEEN: usize = 128 << 20;

/// Payload of one frame of a send stream, in bytes: a receiver keeps one in memory, and hashes and heads hardly count.
pub const MAX_FRAME: usize = 1 << 20;
/// Payload after which a send stream gets a mark, in bytes: what a receiver that is killed may be sent again. A sync each.
pub const MARK_BYTES: u64 = 64 << 20;
/// Volumes in one group snapshot: their headers' ids fit one record, and a freeze that has to stop many takes long.
pub const MAX_GROUP: usize = 64;
