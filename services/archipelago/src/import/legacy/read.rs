//! Turns an old map into the changes that make a volume of it, read and verified on a thread of its own.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

use super::OldStore;
use super::digest::{BlockDigest, hex};
use super::entry::Entry;
use super::error::LegacyError;
use super::examine::{Examined, fingerprint};
use super::map::{Entries, OldMap};
use crate::import::PIECE;

/// Changes that are read ahead: one being read while one waits is enough to keep both sides busy.
const READ_AHEAD: usize = 2;
/// How long a wait for the next change may last before the caller is asked whether to go on.
const TICK: Duration = Duration::from_millis(100);

/// One change to the volume, in the order of offsets; ranges that are not mentioned stay as they are.
#[derive(Debug)]
pub enum Change {
    /// These bytes go there; at most [`PIECE`].
    Data {
        /// First byte.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Zeros go there.
    Zero {
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// These bytes are in the base already.
    Shared {
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// A block is damaged: its range has to be zeros, also where data was sent before.
    Damaged {
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
        /// What is wrong.
        what: String,
    },
}

/// What is read.
pub struct Source {
    /// The old store.
    pub store: Arc<OldStore>,
    /// The map, as it was examined.
    pub map: Examined,
    /// A map whose bytes are there already, if the volume is built on one.
    pub base: Option<OldMap>,
    /// Whether damaged blocks are reported as changes instead of ending the import.
    pub skip_damaged: bool,
}

type Message = Result<Option<Change>, LegacyError>;

/// Reads all changes, and hands each to `apply`. Every so often `watch` is called with the position reached; it ends the
/// work by returning an error.
pub fn read(
    source: Source,
    watch: &mut dyn FnMut(u64) -> Result<(), LegacyError>,
    apply: &mut dyn FnMut(Change) -> Result<(), LegacyError>,
) -> Result<(), LegacyError> {
    let name = source.map.map.object.clone();
    let (send, receive) = channel::bounded::<Message>(READ_AHEAD);
    thread::Builder::new()
        .name("map reader".into())
        .spawn(move || {
            let last = Reader { source: &source, send: &send }.run().map(|()| None);
            // Nobody listens after the writer gave up.
            let _ = send.send(last);
        })
        .map_err(|e| LegacyError::Io { op: "start a thread to read", object: name.clone(), source: e })?;
    let mut at = 0;
    while let Some(change) = next(&receive, &name, at, watch)? {
        at = match &change {
            Change::Data { offset, data } => offset + data.len() as u64,
            Change::Zero { offset, len } | Change::Shared { offset, len } | Change::Damaged { offset, len, .. } => {
                offset + len
            }
        };
        apply(change)?;
    }
    Ok(())
}

fn next(
    receive: &Receiver<Message>,
    name: &str,
    at: u64,
    watch: &mut dyn FnMut(u64) -> Result<(), LegacyError>,
) -> Result<Option<Change>, LegacyError> {
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

struct Reader<'a> {
    source: &'a Source,
    send: &'a Sender<Message>,
}

impl Reader<'_> {
    fn run(&self) -> Result<(), LegacyError> {
        let Source { store, map: examined, base, .. } = self.source;
        let map = &examined.map;
        let mut reader = Entries::new(store, map);
        let mut base_reader = base.as_ref().map(|base| Entries::new(store, base));
        let (mut entries, mut base_entries) = (Vec::new(), Vec::new());
        let mut hasher = DefaultHasher::new();
        while let Some(first) = reader.next(&mut entries)? {
            if let Some(base_reader) = &mut base_reader {
                // Both have the same block size, so their pieces begin at the same entries while both have some.
                base_reader.next(&mut base_entries)?;
            }
            for (nth, entry) in entries.iter().enumerate() {
                fingerprint(&mut hasher, entry);
                let index = first + nth as u64;
                let (offset, len) = map.range(index);
                // Where the base ends within the block, the rest of the block was never in it.
                let covered = base.as_ref().is_some_and(|base| offset + len <= base.header.size);
                match base_entries.get(nth) {
                    Some(there) if covered && there == entry => {
                        if *entry != Entry::Zero {
                            self.send(Change::Shared { offset, len })?;
                        }
                    }
                    // Past the base everything is zero already.
                    there => self.block(entry, offset, len, there.is_some())?,
                }
            }
        }
        if hasher.finish() != examined.fingerprint {
            return Err(LegacyError::Changed(map.object.clone()));
        }
        Ok(())
    }

    fn send(&self, change: Change) -> Result<(), LegacyError> {
        self.send.send(Ok(Some(change))).map_err(|_| LegacyError::Stopped)
    }

    /// Sends a block: `len` bytes of it are part of the volume. With `occupied` something else may be there, so zeros count.
    fn block(&self, entry: &Entry, offset: u64, len: u64, occupied: bool) -> Result<(), LegacyError> {
        let zero = |from: u64| match from < len && occupied {
            true => self.send(Change::Zero { offset: offset + from, len: len - from }),
            false => Ok(()),
        };
        let Some(name) = entry.object() else { return zero(0) };
        let map = &self.source.map.map;
        let damaged = |what: String| match self.source.skip_damaged {
            true => self.send(Change::Damaged { offset, len, what }),
            false => Err(LegacyError::Block { map: map.object.clone(), offset, len, what }),
        };
        let Some(object) = self.source.store.blocks.find(&name)? else {
            return match entry {
                Entry::Owned { writable: true, .. } => zero(0),
                _ => damaged(format!("block {name} is missing")),
            };
        };
        if object.len > map.header.block_size {
            let what = format!("block {name} has {} bytes, more than a block of {}", object.len, map.header.block_size);
            return damaged(what);
        }
        let mut digest = BlockDigest::default();
        let mut at = 0;
        while at < object.len {
            let want = PIECE.min(object.len - at) as usize;
            let mut piece = vec![0; want];
            let got = match object.read(&mut piece, at) {
                Ok(got) => got,
                Err(error) if self.source.skip_damaged => return damaged(format!("block {name}: {error}")),
                Err(error) => return Err(error),
            };
            if got < want {
                return damaged(format!("block {name} became shorter while it was read"));
            }
            if matches!(entry, Entry::Content(_)) {
                digest.update(&piece);
            }
            let end = at + got as u64;
            if end == object.len
                && let Entry::Content(expected) = entry
            {
                let found = std::mem::take(&mut digest).finish();
                if found != *expected {
                    return damaged(format!(
                        "block {name} has other content than its name says: that of {}",
                        hex(&found)
                    ));
                }
            }
            // A block may be longer than what the volume has of it.
            piece.truncate(len.saturating_sub(at).min(got as u64) as usize);
            if !piece.is_empty() {
                self.send(Change::Data { offset: offset + at, data: piece })?;
            }
            at = end;
        }
        if object.len == 0
            && let Entry::Content(_) = entry
        {
            return damaged(format!("block {name} is empty, which its name does not say"));
        }
        zero(object.len)
    }
}
