//! Turns an old map into the blocks that the new store has for it, read on a thread of its own.
//!
//! The new block size is the old one where this store has it, and the nearest one otherwise: then blocks are put together
//! of smaller ones, or cut from a larger one.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use archipelago_core::Digest;
use archipelago_core::limits::{MAX_BLOCK_SIZE, MIN_BLOCK_SIZE};
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

use super::OldStore;
use super::digest::BlockDigest;
use super::entry::Entry;
use super::error::LegacyError;
use super::examine::{Examined, fingerprint};
use super::header::Header;
use super::known::Known;
use super::map::Entries;
use super::tree::Object;
use crate::import::{PIECE, zeros};

/// Steps that are read ahead: one block being read while one waits is enough to keep both sides busy.
const READ_AHEAD: usize = 2;
/// How long a wait for the next step may last before the caller is asked whether to go on.
const TICK: Duration = Duration::from_millis(100);
/// Blocks that the new store is asked for at once: as many as one file of leases holds.
const ASKED: usize = 1024;

/// The next blocks of a map, in order.
pub enum Step {
    /// So many blocks of zeros.
    Zeros(u64),
    /// A block that the new store has.
    There(Digest),
    /// A block that was read.
    Block(Block),
    /// A range of the volume is damaged. Steps that follow have zeros for it.
    Damaged {
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
        /// What is wrong.
        what: String,
    },
}

/// A block that was read.
pub struct Block {
    /// Its bytes, without what lies behind the end of the volume; what is missing up to the block size is zeros.
    pub data: Vec<u8>,
    /// The file that holds them, from its start to its end.
    pub file: Option<File>,
    /// What its name says that it is. The receiver has to check that.
    pub expected: Option<Digest>,
    /// Name of its object, if that never changes any more.
    pub frozen: Option<Box<str>>,
}

/// Says which of some blocks the new store has.
pub type There = dyn Fn(&[Digest]) -> Result<Vec<bool>, LegacyError> + Send;

/// What is read.
pub struct Source {
    /// The old store.
    pub store: Arc<OldStore>,
    /// The map, as it was examined.
    pub map: Examined,
    /// Whether damaged blocks are reported as steps instead of ending the import.
    pub skip_damaged: bool,
    /// Which blocks need not be read; without it all are.
    pub there: Option<Box<There>>,
    /// Digests of blocks that were read before.
    pub known: Arc<Known>,
}

/// Block size that a map has in the new store.
pub fn new_block_size(header: &Header) -> u64 {
    header.block_size.clamp(MIN_BLOCK_SIZE, MAX_BLOCK_SIZE)
}

type Message = Result<Option<Step>, LegacyError>;

/// Reads all blocks, and hands each step to `apply`, with the offset in the volume at which it begins. Every so often `watch` is called with
/// the position reached; it ends the work by returning an error.
pub fn read(
    source: Source,
    watch: &mut dyn FnMut(u64) -> Result<(), LegacyError>,
    apply: &mut dyn FnMut(Step, u64) -> Result<(), LegacyError>,
) -> Result<(), LegacyError> {
    let name = source.map.map.object.clone();
    let (size, block_size) = (source.map.map.header.size, new_block_size(&source.map.map.header));
    let (send, receive) = channel::bounded::<Message>(READ_AHEAD);
    thread::Builder::new()
        .name("map reader".into())
        .spawn(move || {
            let reader = Reader { source: &source, send: &send, block_size };
            let last = reader.run().map(|()| None);
            // What the caller gave it is the caller's again when he hears of the end.
            drop(source);
            // Nobody listens after the writer gave up.
            let _ = send.send(last);
        })
        .map_err(|e| LegacyError::Io { op: "start a thread to read", object: name.clone(), source: e })?;
    let mut block = 0;
    while let Some(step) = next(&receive, &name, (block * block_size).min(size), watch)? {
        let blocks = match &step {
            Step::Zeros(count) => *count,
            Step::There(_) | Step::Block(_) => 1,
            Step::Damaged { .. } => 0,
        };
        apply(step, block * block_size)?;
        block += blocks;
    }
    Ok(())
}

fn next(
    receive: &Receiver<Message>,
    name: &str,
    at: u64,
    watch: &mut dyn FnMut(u64) -> Result<(), LegacyError>,
) -> Result<Option<Step>, LegacyError> {
    loop {
        watch(at)?;
        match receive.recv_timeout(TICK) {
            Ok(message) => return message,
            Err(RecvTimeoutError::Timeout) => {}
            // The thread died without a word: what has arrived is not the whole map.
            Err(RecvTimeoutError::Disconnected) => return Err(LegacyError::damaged(name, "the reader failed on it")),
        }
    }
}

/// What there is of a block.
enum Found {
    Zeros,
    Object(Object),
    /// Said already.
    Damaged,
}

struct Reader<'a> {
    source: &'a Source,
    send: &'a Sender<Message>,
    /// Of the new store.
    block_size: u64,
}

impl Reader<'_> {
    fn run(&self) -> Result<(), LegacyError> {
        let Source { store, map: examined, .. } = self.source;
        let map = &examined.map;
        let mut reader = Entries::new(store, map);
        let mut entries = Vec::new();
        let mut hasher = DefaultHasher::new();
        let mut gathered = Vec::new();
        while let Some(first) = reader.next(&mut entries)? {
            entries.iter().for_each(|entry| fingerprint(&mut hasher, entry));
            if map.header.block_size == self.block_size {
                for (nth, some) in entries.chunks(ASKED).enumerate() {
                    self.as_they_are(first + (nth * ASKED) as u64, some)?;
                }
                continue;
            }
            for (index, entry) in (first..).zip(&entries) {
                let (offset, len) = map.range(index);
                if map.header.block_size < self.block_size {
                    self.gather(&mut gathered, entry, offset, len)?;
                } else {
                    self.cut(entry, offset, len)?;
                }
            }
        }
        if hasher.finish() != examined.fingerprint {
            return Err(LegacyError::Changed(map.object.clone()));
        }
        Ok(())
    }

    fn send(&self, step: Step) -> Result<(), LegacyError> {
        match step {
            Step::Zeros(0) => Ok(()),
            step => self.send.send(Ok(Some(step))).map_err(|_| LegacyError::Stopped),
        }
    }

    /// Sends the blocks of these entries, of which the first has the index `first`, without reading those that are there.
    fn as_they_are(&self, first: u64, entries: &[Entry]) -> Result<(), LegacyError> {
        let map = &self.source.map.map;
        // The last block may be longer than what the volume has of it, and then is another one here.
        let whole = |index: u64| map.range(index).1 == self.block_size;
        let digest = |(index, entry): (u64, &Entry)| match entry {
            Entry::Content(digest) if whole(index) => Some(*digest),
            Entry::Owned { name, writable: false } if whole(index) => self.source.known.get(name),
            _ => None,
        };
        let digests: Vec<Option<Digest>> = (first..).zip(entries).map(digest).collect();
        let asked: Vec<Digest> = digests.iter().flatten().copied().collect();
        let there = match &self.source.there {
            Some(there) => there(&asked)?,
            None => vec![false; asked.len()],
        };
        let (mut there, mut zeros) = (there.into_iter(), 0);
        for ((index, entry), digest) in (first..).zip(entries).zip(digests) {
            let step = match digest {
                Some(digest) if there.next() == Some(true) => Some(Step::There(digest)),
                _ => self.block(entry, map.range(index))?.map(Step::Block),
            };
            match step {
                None => zeros += 1,
                Some(step) => {
                    self.send(Step::Zeros(std::mem::take(&mut zeros)))?;
                    self.send(step)?;
                }
            }
        }
        self.send(Step::Zeros(zeros))
    }

    /// Reads a block; `None` if there are zeros in its place.
    fn block(&self, entry: &Entry, (offset, len): (u64, u64)) -> Result<Option<Block>, LegacyError> {
        let Found::Object(object) = self.find(entry, offset, len)? else { return Ok(None) };
        let mut data = vec![0; object.len as usize];
        if !self.fill(&object, &mut data, 0, (offset, len))? {
            return Ok(None);
        }
        let expected = match entry {
            Entry::Content(digest) => Some(*digest),
            _ => None,
        };
        if object.len <= len {
            let frozen = match entry {
                Entry::Owned { name, writable: false } => Some(name.clone()),
                _ => None,
            };
            return Ok(Some(Block { data, file: Some(object.into_file()), expected, frozen }));
        }
        if !self.is_expected(entry, Digest::of(&data).0, offset, len)? {
            return Ok(None);
        }
        data.truncate(len as usize);
        Ok(Some(Block { data, file: None, expected: None, frozen: None }))
    }

    /// Adds a block to those that become one of the new store, and sends that when it is full or the map ends.
    fn gather(&self, gathered: &mut Vec<u8>, entry: &Entry, offset: u64, len: u64) -> Result<(), LegacyError> {
        let start = (offset % self.block_size) as usize;
        gathered.resize(start + len as usize, 0);
        if let Some(block) = self.block(entry, (offset, len))?
            // Checked here, because the receiver sees only what became of it.
            && (block.expected.is_none() || self.is_expected(entry, Digest::of(&block.data).0, offset, len)?)
        {
            gathered[start..start + block.data.len()].copy_from_slice(&block.data);
        }
        let end = offset + len;
        if !end.is_multiple_of(self.block_size) && end != self.source.map.map.header.size {
            return Ok(());
        }
        let data = std::mem::take(gathered);
        if zeros::is_zero(&data) {
            return self.send(Step::Zeros(1));
        }
        self.send(Step::Block(Block { data, file: None, expected: None, frozen: None }))
    }

    /// Sends the blocks of the new store of which one larger block is made. It is read twice if its name says what it is: none of it is
    /// used before all of it was seen to be that.
    fn cut(&self, entry: &Entry, offset: u64, len: u64) -> Result<(), LegacyError> {
        let blocks = len.div_ceil(self.block_size);
        let Found::Object(object) = self.find(entry, offset, len)? else { return self.send(Step::Zeros(blocks)) };
        if matches!(entry, Entry::Content(_)) {
            let (mut digest, mut at) = (BlockDigest::default(), 0);
            while at < object.len {
                let mut piece = vec![0; PIECE.min(object.len - at) as usize];
                if !self.fill(&object, &mut piece, at, (offset, len))? {
                    return self.send(Step::Zeros(blocks));
                }
                digest.update(&piece);
                at += piece.len() as u64;
            }
            if !self.is_expected(entry, digest.finish(), offset, len)? {
                return self.send(Step::Zeros(blocks));
            }
        }
        for block in 0..blocks {
            let at = block * self.block_size;
            let end = (at + self.block_size).min(len).min(object.len);
            let mut data = vec![0; end.saturating_sub(at) as usize];
            // Of damage that shows only now what came before it is out of reach, and was read.
            if !self.fill(&object, &mut data, at, (offset + at, len - at))? {
                return self.send(Step::Zeros(blocks - block));
            }
            if zeros::is_zero(&data) {
                self.send(Step::Zeros(1))?;
            } else {
                self.send(Step::Block(Block { data, file: None, expected: None, frozen: None }))?;
            }
        }
        Ok(())
    }

    /// The object of an entry.
    fn find(&self, entry: &Entry, offset: u64, len: u64) -> Result<Found, LegacyError> {
        let Some(name) = entry.object() else { return Ok(Found::Zeros) };
        let most = self.source.map.map.header.block_size;
        let what = match self.source.store.blocks.find(&name)? {
            Some(object) if object.len <= most => return Ok(Found::Object(object)),
            Some(object) => format!("block {name} has {} bytes, more than a block of {most}", object.len),
            None if matches!(entry, Entry::Owned { writable: true, .. }) => return Ok(Found::Zeros),
            None => format!("block {name} is missing"),
        };
        self.damaged(offset, len, what).map(|()| Found::Damaged)
    }

    /// Reads all of `data` from a place in an object of the block at `offset`; whether it is there.
    fn fill(&self, object: &Object, data: &mut [u8], at: u64, (offset, len): (u64, u64)) -> Result<bool, LegacyError> {
        let name = object.path().file_name().unwrap_or_default().to_string_lossy();
        let what = match object.read(data, at) {
            Ok(got) if got == data.len() => return Ok(true),
            Ok(_) => format!("block {name} became shorter while it was read"),
            Err(error) if self.source.skip_damaged => format!("block {name}: {error}"),
            Err(error) => return Err(error),
        };
        self.damaged(offset, len, what).map(|()| false)
    }

    /// Whether a block is what its name says, if that says anything.
    fn is_expected(&self, entry: &Entry, found: Digest, offset: u64, len: u64) -> Result<bool, LegacyError> {
        match entry {
            Entry::Content(expected) if *expected != found => {
                self.damaged(offset, len, differs(*expected, found)).map(|()| false)
            }
            _ => Ok(true),
        }
    }

    fn damaged(&self, offset: u64, len: u64, what: String) -> Result<(), LegacyError> {
        match self.source.skip_damaged {
            true => self.send(Step::Damaged { offset, len, what }),
            false => Err(LegacyError::Block { map: self.source.map.map.object.clone(), offset, len, what }),
        }
    }
}

/// What is said of a block that is not what its name says.
pub fn differs(expected: Digest, found: Digest) -> String {
    match found {
        Digest::ZERO => format!("block {expected} is empty, which its name does not say"),
        found => format!("block {expected} has other content than its name says: that of {found}"),
    }
}
