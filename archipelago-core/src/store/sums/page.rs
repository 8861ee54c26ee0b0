//! A page of checksums: as much of a sidecar as is read, written and remembered at once.

use std::io::IoSlice;
use std::ops::Range;

use crate::blocker::{Blocker, Object, VolumeId};
use crate::error::Result;
use crate::format::sums::{SECTORS, SumAtom};
use crate::limits::ATOM;
use crate::sync::atomic::{AtomicU32, Ordering};

/// Atoms of a page.
const ATOMS: usize = 8;
/// Sectors of a page: 3.5 MiB.
pub(super) const PAGE_SECTORS: u64 = (ATOMS * SECTORS) as u64;

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct PageKey {
    /// Whose epoch.
    pub(super) owner: VolumeId,
    /// Which one.
    pub(super) epoch: u64,
    /// Number of the page in it.
    pub(super) page: u64,
}

impl PageKey {
    pub(super) fn object(&self) -> Object {
        Object::Sum(self.owner, self.epoch)
    }

    /// The first of its sectors, counted from the start of the data object.
    pub(super) fn first(&self) -> u64 {
        self.page * PAGE_SECTORS
    }

    fn atom(&self, i: usize) -> u64 {
        self.page * ATOMS as u64 + i as u64
    }
}

/// What is known of the sectors of a page.
#[derive(Default)]
pub(super) struct SumPage {
    /// None if nothing is known.
    atoms: Vec<SumAtom>,
    /// Times that it may still be asked for a sector that it does not know before it is read anew.
    pub(super) patience: AtomicU32,
}

impl SumPage {
    /// Reads a page. What was never written is not known; `bad` is called for each atom that is not what was written, and of it
    /// nothing is known either.
    pub(super) fn read(blocker: &dyn Blocker, key: PageKey, bad: &mut dyn FnMut(crate::Error)) -> Result<SumPage> {
        let mut bytes = [0; ATOMS * ATOM];
        let read = blocker.read_some(key.object(), &mut bytes, key.atom(0) * ATOM as u64)?;
        let mut page = SumPage::default();
        if read == 0 {
            return Ok(page);
        }
        let name = key.object().to_string();
        for (i, atom) in bytes.chunks_exact(ATOM).enumerate() {
            let atom = SumAtom::decode(&name, atom, key.owner, key.epoch, key.atom(i)).unwrap_or_else(|error| {
                bad(error);
                SumAtom::default()
            });
            if !atom.is_empty() {
                page.atoms.resize(ATOMS, SumAtom::default());
                page.atoms[i] = atom;
            }
        }
        Ok(page)
    }

    /// The checksum of a sector, counted from the first of the page, if it is known.
    pub(super) fn get(&self, sector: u64) -> Option<u32> {
        self.atoms.get(sector as usize / SECTORS)?.get(sector as usize % SECTORS)
    }

    /// Whether any of these sectors is known.
    pub(super) fn any(&self, sectors: Range<u64>) -> bool {
        !self.atoms.is_empty() && sectors.into_iter().any(|sector| self.get(sector).is_some())
    }

    /// Whether all of these sectors are known.
    pub(super) fn all(&self, mut sectors: Range<u64>) -> bool {
        sectors.all(|sector| self.get(sector).is_some())
    }

    /// Whether it is as good as new although it does not know what is wanted: others may have made it since, but looking costs more than
    /// it is worth each time. Two that count at once make it one more or less.
    pub(super) fn is_worth_waiting_for(&self) -> bool {
        let left = self.patience.load(Ordering::Relaxed);
        if left > 0 {
            self.patience.store(left - 1, Ordering::Relaxed);
        }
        left > 0
    }

    /// Bytes that it takes, roughly.
    pub(super) fn weight(&self) -> u64 {
        128 + size_of_val(&self.atoms[..]) as u64
    }

    /// Notes checksums of sectors, and writes the atoms in which something is new. Each of them is there or not after a crash.
    pub(super) fn write(&mut self, blocker: &dyn Blocker, key: PageKey, new: &[(u64, u32)]) -> Result<()> {
        self.atoms.resize(ATOMS, SumAtom::default());
        let mut changed = [false; ATOMS];
        for (sector, sum) in new {
            let at = *sector as usize / SECTORS;
            self.atoms[at].set(*sector as usize % SECTORS, *sum);
            changed[at] = true;
        }
        let mut at = 0;
        while at < ATOMS {
            let end = (at..ATOMS).find(|i| !changed[*i]).unwrap_or(ATOMS);
            if end > at {
                let encode = |i: usize| self.atoms[i].encode(key.owner, key.epoch, key.atom(i));
                let bytes: Vec<u8> = (at..end).flat_map(encode).collect();
                blocker.write(key.object(), &[IoSlice::new(&bytes)], key.atom(at) * ATOM as u64)?;
            }
            at = end + 1;
        }
        Ok(())
    }
}
