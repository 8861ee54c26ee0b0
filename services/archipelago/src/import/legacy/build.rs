//! Makes a volume or snapshot of an old map, all of it or nothing.
//!
//! Its blocks become content of the new store first, one by one: those that are there already, from whatever map, are not read
//! again, and the files of the others are shared, linked or copied. Then the volume or snapshot is made of their digests, at once.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago_core::blocker::Adopted;
use archipelago_core::digest::strip;
use archipelago_core::limits::MAX_NAME;
use archipelago_core::store::content::{Claim, NewObject};
use archipelago_core::{CloneOptions, Digest, Error, Kind, Store};

use super::OldStore;
use super::error::LegacyError;
use super::examine::Examined;
use super::hashes::{Digests, Hashes};
use super::known::Known;
use super::read::{Block, Source, Step, differs, new_block_size, read};

/// Ends the name of a snapshot of which a volume is being made.
pub const IMPORTING: &str = ".importing-legacy";
/// Damaged ranges of one volume that are listed; all are counted.
pub const MAX_DAMAGES: usize = 1000;
/// How often leases are renewed: well within the grace time of any collector that runs beside an import.
const RENEW: Duration = Duration::from_secs(600);

/// Called with the position reached in the volume; ends the work by returning an error.
pub type Watch<'a> = dyn FnMut(u64) -> Result<(), LegacyError> + 'a;

/// A range that could not be read, and is zeros now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// First byte.
    pub offset: u64,
    /// How many.
    pub len: u64,
    /// What is wrong there.
    pub what: String,
}

/// How many bytes of blocks came into the store in which way; zeros at the end of a block do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ways {
    /// Of blocks that were there already; of those that need not be read the whole block.
    pub present: u64,
    /// In files that share the room of the old ones.
    pub reflinked: u64,
    /// In files that are those of the old store.
    pub linked: u64,
    /// Written.
    pub copied: u64,
}

impl Ways {
    /// Counts a block.
    pub fn add(&mut self, how: Adopted, bytes: u64) {
        *match how {
            Adopted::Present => &mut self.present,
            Adopted::Shared => &mut self.reflinked,
            Adopted::Linked => &mut self.linked,
            Adopted::Copied => &mut self.copied,
        } += bytes;
    }

    /// Counts what was counted elsewhere.
    pub fn add_all(&mut self, other: &Ways) {
        self.present += other.present;
        self.reflinked += other.reflinked;
        self.linked += other.linked;
        self.copied += other.copied;
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// How its blocks came into the store.
    pub ways: Ways,
    /// The first [`MAX_DAMAGES`] damaged ranges.
    pub damages: Vec<Damage>,
    /// How many damaged ranges there are.
    pub damage_count: u64,
}

impl Built {
    fn damaged(&mut self, offset: u64, len: u64, what: String) {
        self.damage_count += 1;
        if self.damages.len() < MAX_DAMAGES {
            self.damages.push(Damage { offset, len, what });
        }
    }
}

/// What is to be made.
pub struct Job<'a> {
    /// The new store.
    pub store: &'a Store,
    /// The old store.
    pub old: &'a Arc<OldStore>,
    /// The map.
    pub map: &'a Examined,
    /// Name of the volume or snapshot that it becomes.
    pub name: &'a str,
    /// Whether files of blocks that are named by their content may be linked.
    pub link: bool,
    /// Whether damaged blocks become zeros.
    pub skip_damaged: bool,
    /// Blocks that were read for other maps.
    pub known: &'a Arc<Known>,
}

/// Name of the snapshot of which a volume is made.
pub fn importing_name(name: &str) -> String {
    // A name too long for the suffix is cut, and told from others with the same start by a hash of the whole.
    if name.len() + IMPORTING.len() <= MAX_NAME {
        return format!("{name}{IMPORTING}");
    }
    // FNV-1a: the same in every release, unlike the standard library's hash.
    let hash = name.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let tail = format!(".{hash:08x}{IMPORTING}");
    let mut cut = MAX_NAME - tail.len();
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{tail}", &name[..cut])
}

impl Job<'_> {
    /// Makes the volume or snapshot. After an error nothing of it is left but its blocks, which a repeated import finds there; a
    /// collector removes them a day later.
    pub fn build(&self, watch: &mut Watch<'_>) -> Result<Built, LegacyError> {
        let header = &self.map.map.header;
        let claim = Arc::new(self.store.claim(&format!("importing {}", self.name))?);
        let (mut digests, built) = self.take_in(&claim, watch)?;
        watch(header.size)?;
        let new = |name: &str| NewObject {
            name: name.to_string(),
            kind: Kind::Snapshot,
            size: header.size,
            block_size: Some(new_block_size(header)),
        };
        if header.read_only {
            self.store.create_object(&new(self.name), &mut digests)?;
        } else {
            let temporary = importing_name(self.name);
            self.store.create_object(&new(&temporary), &mut digests)?;
            let made = self.store.clone_snapshot(&temporary, self.name, &CloneOptions::default());
            // What stays after an error here is removed by the next import of this name.
            let removed = self.remove_leftover();
            made?;
            removed?;
        }
        // The reader gave its own up before it said that it was at the end.
        if let Some(claim) = Arc::into_inner(claim) {
            claim.end()?;
        }
        Ok(built)
    }

    /// Removes what an import of this name that was killed left behind.
    pub fn remove_leftover(&self) -> Result<(), Error> {
        match self.store.remove(&importing_name(self.name)) {
            Err(Error::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    /// Makes content of the blocks; returns their digests. All of them are leased by `claim`.
    fn take_in(&self, claim: &Arc<Claim>, watch: &mut Watch<'_>) -> Result<(Digests, Built), LegacyError> {
        let (mut hashes, mut built) = (Hashes::new()?, Built::default());
        let (size, block_size) = (self.map.map.header.size, new_block_size(&self.map.map.header));
        let asked = claim.clone();
        let there = move |digests: &[Digest]| {
            let missing = asked.missing(digests)?;
            let mut missing = missing.iter().peekable();
            // In the order asked.
            Ok(digests.iter().map(|digest| missing.next_if(|next| *next == digest).is_none()).collect())
        };
        let mut renewed = Instant::now();
        read(self.source(Some(Box::new(there))), watch, &mut |step, offset| {
            if renewed.elapsed() >= RENEW {
                claim.renew()?;
                renewed = Instant::now();
            }
            let len = block_size.min(size - offset);
            match step {
                Step::Zeros(count) => hashes.push_zeros(count),
                Step::There(digest) => {
                    built.ways.add(Adopted::Present, len);
                    hashes.push(digest)?;
                }
                Step::Block(block) => match self.store_block(claim, &block, &mut built)? {
                    (digest, Some(expected)) if !self.skip_damaged => {
                        let map = self.map.map.object.clone();
                        return Err(LegacyError::Block { map, offset, len, what: differs(expected, digest) });
                    }
                    (digest, Some(expected)) => {
                        built.damaged(offset, len, differs(expected, digest));
                        hashes.push_zeros(1);
                    }
                    (digest, None) => hashes.push(digest)?,
                },
                Step::Damaged { offset, len, what } => built.damaged(offset, len, what),
            }
            Ok(())
        })?;
        Ok((hashes.finish()?, built))
    }

    /// Makes content of a block; returns its digest, and what its name says if that is something else.
    fn store_block(
        &self,
        claim: &Claim,
        block: &Block,
        built: &mut Built,
    ) -> Result<(Digest, Option<Digest>), LegacyError> {
        let (digest, how) = match &block.file {
            // What is not named by its content the original may write again.
            Some(file) => claim.adopt(&block.data, file.as_fd().into(), self.link && block.expected.is_some())?,
            None => {
                let put = claim.put(&block.data)?;
                (put.digest, if put.new { Adopted::Copied } else { Adopted::Present })
            }
        };
        if let Some(expected) = block.expected.filter(|expected| *expected != digest) {
            return Ok((digest, Some(expected)));
        }
        built.ways.add(how, strip(&block.data).len() as u64);
        if let Some(name) = &block.frozen {
            self.known.add(name, digest);
        }
        Ok((digest, None))
    }

    pub(super) fn source(&self, there: Option<Box<super::read::There>>) -> Source {
        let (store, map, known) = (self.old.clone(), self.map.clone(), self.known.clone());
        Source { store, map, skip_damaged: self.skip_damaged, there, known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use archipelago_core::name;

    #[test]
    fn temporary_names_are_valid_and_differ_where_the_names_do() {
        assert_eq!(importing_name("debian"), "debian.importing-legacy");
        let (long, other) = ("a".repeat(MAX_NAME), format!("{}b", "a".repeat(MAX_NAME - 1)));
        assert_ne!(importing_name(&long), importing_name(&other));
        for name in [&long, &other, &"é".repeat(MAX_NAME / 2), &"b".repeat(64), &"b".repeat(66)] {
            let temporary = importing_name(name);
            name::check(&temporary).expect(&temporary);
        }
    }
}
