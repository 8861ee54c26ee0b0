//! Makes a volume or snapshot of an old map, all of it or nothing, and compares the two.
//!
//! Sharing: a map is built as a clone of an imported one that names mostly the same blocks; only what differs is written.
//! The bytes go to a volume of another name, which gets the asked-for name at the end.

use std::sync::Arc;

use archipelago_core::limits::{MAX_BLOCK_SIZE, MAX_NAME, MIN_BLOCK_SIZE};
use archipelago_core::{CloneOptions, CreateOptions, Error, Mode, Store, Volume, WriteFlags};

use super::OldStore;
use super::error::LegacyError;
use super::examine::Examined;
use super::map::OldMap;
use super::read::{Change, Source, read};
use crate::import::{PIECE, zeros};

/// Ends the name of a volume that is being imported.
pub const IMPORTING: &str = ".importing-legacy";
/// Ends the name of a snapshot that exists so that others can be cloned from a volume while they are imported.
pub const SHARING: &str = ".sharing-legacy";
/// Damaged ranges of one volume that are listed; all are counted.
pub const MAX_DAMAGES: usize = 1000;

/// Called with the position reached in the volume; ends the work by returning an error.
pub type Watch<'a> = dyn FnMut(u64) -> Result<(), LegacyError> + 'a;

/// What others are cloned from.
#[derive(Clone, Debug)]
pub struct Base {
    /// The old map.
    pub map: OldMap,
    /// What it is called in the new store.
    pub name: String,
    /// A snapshot in the new store that holds it.
    pub snapshot: String,
}

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

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// Bytes that were written; the rest is zero, or shared.
    pub written: u64,
    /// Bytes of blocks that the base had already.
    pub shared: u64,
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
    /// What to clone it from.
    pub base: Option<&'a Base>,
    /// Whether to leave a snapshot of the volume, named by [`sharing_name`], for others to be cloned from.
    pub leave_snapshot: bool,
    /// Whether damaged blocks become zeros.
    pub skip_damaged: bool,
}

/// Name of the volume that holds an import on its way.
pub fn importing_name(name: &str) -> String {
    with_suffix(name, IMPORTING)
}

/// Name of the snapshot of a volume from which others are cloned during the import.
pub fn sharing_name(name: &str) -> String {
    with_suffix(name, SHARING)
}

/// A name too long for the suffix is cut, and told from others with the same start by a hash of the whole.
fn with_suffix(name: &str, suffix: &str) -> String {
    if name.len() + suffix.len() <= MAX_NAME {
        return format!("{name}{suffix}");
    }
    // FNV-1a: the same in every release, unlike the standard library's hash.
    let hash = name.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let tail = format!(".{hash:08x}{suffix}");
    let mut cut = MAX_NAME - tail.len();
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{tail}", &name[..cut])
}

/// Removes what an import that was killed left behind.
pub fn remove_leftover(store: &Store, name: &str) -> Result<(), Error> {
    match store.remove(name) {
        Err(Error::NotFound(_)) => Ok(()),
        other => other,
    }
}

impl Job<'_> {
    /// Makes the volume or snapshot. After an error nothing of it is left.
    pub fn build(&self, watch: &mut Watch<'_>) -> Result<Built, LegacyError> {
        let temporary = importing_name(self.name);
        remove_leftover(self.store, &temporary)?;
        let mut sharing = None;
        let result = self.build_as(&temporary, &mut sharing, watch);
        if result.is_err() {
            for name in [Some(temporary), sharing].into_iter().flatten() {
                // The first error says more. What stays is removed by the next import of this name.
                let _ = self.store.remove(&name);
            }
        }
        result
    }

    fn build_as(
        &self,
        temporary: &str,
        sharing: &mut Option<String>,
        watch: &mut Watch<'_>,
    ) -> Result<Built, LegacyError> {
        let header = &self.map.map.header;
        match self.base {
            Some(base) => {
                let size = header.size.max(base.map.header.size);
                self.store.clone_snapshot(&base.snapshot, temporary, &CloneOptions { size: Some(size) })?;
            }
            None => {
                let block_size = header.block_size.clamp(MIN_BLOCK_SIZE, MAX_BLOCK_SIZE);
                let options = CreateOptions { size: header.size, block_size: Some(block_size) };
                self.store.create(temporary, &options)?;
            }
        }
        let volume = self.store.open_volume(temporary, Mode::ReadWrite)?;
        let filled = self.fill(&volume, watch);
        // Closed in any case, or it could not be removed.
        let closed = volume.close();
        let built = filled?;
        closed?;
        watch(header.size)?;
        if header.read_only {
            self.store.snapshot(temporary, self.name)?;
            self.store.remove(temporary)?;
            return Ok(built);
        }
        if self.leave_snapshot {
            let snapshot = sharing_name(self.name);
            remove_leftover(self.store, &snapshot)?;
            *sharing = Some(snapshot.clone());
            self.store.snapshot(temporary, &snapshot)?;
        }
        self.store.rename(temporary, self.name)?;
        Ok(built)
    }

    fn fill(&self, volume: &Volume, watch: &mut Watch<'_>) -> Result<Built, LegacyError> {
        if volume.size() > self.map.map.header.size {
            volume.resize(self.map.map.header.size, true)?;
        }
        let mut built = Built::default();
        read(self.source(self.base.map(|base| base.map.clone())), watch, &mut |change| {
            match change {
                Change::Data { offset, data } => built.written += self.write(volume, offset, &data)?,
                Change::Zero { offset, len } => volume.write_zeroes(offset, len, false, WriteFlags::default())?,
                Change::Shared { len, .. } => built.shared += len,
                Change::Damaged { offset, len, what } => {
                    volume.write_zeroes(offset, len, false, WriteFlags::default())?;
                    built.damaged(offset, len, what);
                }
            }
            Ok(())
        })?;
        volume.flush()?;
        Ok(built)
    }

    fn source(&self, base: Option<OldMap>) -> Source {
        Source { store: self.old.clone(), map: self.map.clone(), base, skip_damaged: self.skip_damaged }
    }

    /// Writes what is not zero; over a base also what is.
    fn write(&self, volume: &Volume, offset: u64, data: &[u8]) -> Result<u64, Error> {
        let (mut written, mut at) = (0, 0);
        let gap = |from: usize, to: usize| match from < to && self.base.is_some() {
            true => volume.write_zeroes(offset + from as u64, (to - from) as u64, false, WriteFlags::default()),
            false => Ok(()),
        };
        for run in zeros::data_runs(data) {
            gap(at, run.start)?;
            volume.write_at(&data[run.clone()], offset + run.start as u64)?;
            written += run.len() as u64;
            at = run.end;
        }
        gap(at, data.len())?;
        Ok(written)
    }

    /// Whether the volume or snapshot of that name is there, and has the bytes of the map; `None` if the name is free.
    pub fn present(&self, watch: &mut Watch<'_>) -> Result<Option<bool>, LegacyError> {
        let header = &self.map.map.header;
        let info = match self.store.info(self.name) {
            Ok(info) => info,
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if info.size != header.size || info.read_only != header.read_only {
            return Ok(Some(false));
        }
        let volume = self.store.open_volume(self.name, Mode::ReadOnly)?;
        let mut compare = Compare { volume: &volume, at: 0, same: true, buf: Vec::new() };
        read(self.source(None), watch, &mut |change| {
            let same = match &change {
                Change::Data { offset, data } => compare.data(*offset, data)?,
                Change::Zero { .. } | Change::Shared { .. } => true,
                Change::Damaged { offset, len, .. } => compare.zeros_to(offset + len)?,
            };
            compare.same &= same;
            // Nothing that is still to be read can change the answer.
            if same { Ok(()) } else { Err(LegacyError::Stopped) }
        })
        .or_else(|error| if compare.same { Err(error) } else { Ok(()) })?;
        Ok(Some(compare.same && compare.zeros_to(header.size)?))
    }
}

/// A volume that is compared with what a map should make of it.
struct Compare<'a> {
    volume: &'a Volume,
    /// Everything before was compared.
    at: u64,
    same: bool,
    buf: Vec<u8>,
}

impl Compare<'_> {
    fn data(&mut self, offset: u64, data: &[u8]) -> Result<bool, Error> {
        if !self.zeros_to(offset)? {
            return Ok(false);
        }
        self.buf.resize(data.len(), 0);
        self.volume.read_at(&mut self.buf, offset)?;
        self.at = offset + data.len() as u64;
        Ok(self.buf == data)
    }

    fn zeros_to(&mut self, end: u64) -> Result<bool, Error> {
        while self.at < end {
            let extents = self.volume.extents(self.at, end - self.at, 1)?;
            let Some(extent) = extents.first() else { return Ok(false) };
            let mut len = extent.len;
            if !extent.zero {
                len = len.min(PIECE);
                self.buf.resize(len as usize, 0);
                self.volume.read_at(&mut self.buf, self.at)?;
                if !zeros::is_zero(&self.buf) {
                    return Ok(false);
                }
            }
            self.at += len;
        }
        Ok(true)
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
            for temporary in [importing_name(name), sharing_name(name)] {
                name::check(&temporary).expect(&temporary);
            }
        }
    }
}
