//! The bytes of one simulated file or object: what a reader sees, what is durable, and the changes between the two.

use std::io::IoSlice;
use std::sync::Arc;

use super::pages::Pages;
use super::random::{Fate, Part};
use crate::limits::ATOM;

/// A change of a file's bytes or length.
#[derive(Clone)]
pub(crate) enum Change {
    /// `start..end` was written.
    Write {
        start: u64,
        end: u64,
        /// Bytes from `start` rounded down to an atom to `end` rounded up to one, as they are in the page cache after
        /// the write; `None` if all are zeros. Whole atoms, because the system writes its pages and not the caller's ranges.
        data: Option<Arc<[u8]>>,
    },
    /// The length was set.
    Truncate(u64),
    /// A hole was made.
    Punch { offset: u64, len: u64 },
}

const A: u64 = ATOM as u64;

/// Content of one file or object.
#[derive(Clone, Default)]
pub(crate) struct Content {
    current: Pages,
    durable: Pages,
    pending: Vec<Change>,
    /// A failed sync has dropped changes: `durable` with all that is pending is no longer `current`.
    lossy: bool,
}

impl Content {
    /// Content of which everything is durable.
    pub(crate) fn settled(pages: Pages) -> Content {
        Content { current: pages.clone(), durable: pages, pending: Vec::new(), lossy: false }
    }

    /// What a reader sees.
    pub(crate) fn current(&self) -> &Pages {
        &self.current
    }

    /// Whether a crash would change nothing.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_empty() && !self.lossy
    }

    /// Whether a sync has something to do.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The write of the first `end - start` bytes of `bufs`, ready to be applied to this content.
    pub(crate) fn prepare_write(&self, bufs: &[IoSlice<'_>], start: u64, end: u64) -> Change {
        let first = start / A * A;
        let last = end.div_ceil(A) * A;
        let mut data = vec![0; (last - first) as usize];
        let (from, to) = ((start - first) as usize, (end - first) as usize);
        // Only the first and the last atom can hold bytes that are not the caller's.
        let edge = data.len().min(ATOM);
        self.current.read(first, &mut data[..edge]);
        let edge = data.len() - edge;
        self.current.read(first + edge as u64, &mut data[edge..]);
        let mut at = from;
        for buf in bufs {
            let n = buf.len().min(to - at);
            data[at..at + n].copy_from_slice(&buf[..n]);
            at += n;
        }
        let zero = data.iter().all(|byte| *byte == 0);
        Change::Write { start, end, data: (!zero).then(|| data.into()) }
    }

    /// Makes a change visible. It is durable after [`Content::sync`].
    pub(crate) fn apply(&mut self, change: &Change) {
        apply_whole(&mut self.current, change);
        self.pending.push(change.clone());
    }

    /// Makes everything durable that a failed sync has not dropped before.
    pub(crate) fn sync(&mut self) {
        if self.lossy {
            for change in self.pending.drain(..) {
                apply_whole(&mut self.durable, &change);
            }
        } else {
            self.durable = self.current.clone();
            self.pending.clear();
        }
    }

    /// A sync failed: what was to be written stays visible, but is clean now and never written.
    pub(crate) fn lose_pending(&mut self) {
        self.lossy |= !self.pending.is_empty();
        self.pending.clear();
    }

    /// Whether the system may show something else from one moment to the next.
    pub(crate) fn is_lossy(&self) -> bool {
        self.lossy
    }

    /// The system gives up the memory of what a failed sync dropped: readers see what is stored, and what is still to be written.
    pub(crate) fn evict(&mut self) {
        self.current = self.durable.clone();
        self.pending.iter().for_each(|change| apply_whole(&mut self.current, change));
        self.lossy = false;
    }

    /// What a power cut leaves.
    ///
    /// Lengths and truncations go through the file system's journal: of these a prefix survives. Writes reach the disk
    /// in any order and in part, atom by atom; the latest survivor of an atom counts, so that any version of it may be found.
    pub(crate) fn survivor(&self, fate: &mut Fate) -> Pages {
        let mut pages = self.durable.clone();
        let mut len = pages.len();
        let journaled = fate.prefix(self.pending.len());
        for (i, change) in self.pending.iter().enumerate() {
            match change {
                Change::Truncate(to) => {
                    if i < journaled {
                        pages.set_len(*to);
                        len = *to;
                    }
                }
                Change::Write { start, end, data } => {
                    if i < journaled {
                        len = len.max(*end);
                    }
                    match fate.part() {
                        Part::Nothing => {}
                        Part::Whole => write_atoms(&mut pages, *start, *end, data.as_deref(), |_| true),
                        Part::Torn => write_atoms(&mut pages, *start, *end, data.as_deref(), |_| fate.coin()),
                    }
                }
                Change::Punch { offset, len } => match fate.part() {
                    Part::Nothing => {}
                    Part::Whole => pages.punch(*offset, *len),
                    Part::Torn => {
                        for page in pages.present(*offset, *len) {
                            if fate.coin() {
                                pages.punch_page(page, *offset, *len);
                            }
                        }
                    }
                },
            }
        }
        pages.set_len(len);
        pages
    }
}

fn apply_whole(pages: &mut Pages, change: &Change) {
    match change {
        Change::Write { start, end, data } => {
            write_atoms(pages, *start, *end, data.as_deref(), |_| true);
            pages.grow(*end);
        }
        Change::Truncate(len) => pages.set_len(*len),
        Change::Punch { offset, len } => pages.punch(*offset, *len),
    }
}

/// Writes the atoms of a change that `keep` chooses, neighbours together.
fn write_atoms(pages: &mut Pages, start: u64, end: u64, data: Option<&[u8]>, mut keep: impl FnMut(u64) -> bool) {
    let first = start / A * A;
    let last = end.div_ceil(A) * A;
    let mut put = |from: u64, to: u64| {
        if from < to {
            match data {
                Some(data) => pages.write(from, &data[(from - first) as usize..(to - first) as usize]),
                None => pages.write_zeros(from, to - from),
            }
        }
    };
    let mut run = first;
    let mut at = first;
    while at < last {
        if !keep(at) {
            put(run, at);
            run = at + A;
        }
        at += A;
    }
    put(run, last);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(content: &mut Content, offset: u64, data: &[u8]) {
        let change = content.prepare_write(&[IoSlice::new(data)], offset, offset + data.len() as u64);
        content.apply(&change);
    }

    fn read(pages: &Pages) -> Vec<u8> {
        let mut buf = vec![0; pages.len() as usize];
        pages.read(0, &mut buf);
        buf
    }

    #[test]
    fn an_atom_survives_in_any_of_its_versions_and_never_in_a_mixture() {
        let mut content = Content::default();
        write(&mut content, 0, &[1; 2048]);
        content.sync();
        write(&mut content, 100, &[2; 1000]);
        write(&mut content, 300, &[3; 1000]);
        let mut versions: Vec<Vec<u8>> = vec![vec![1; 2048]; 3];
        versions[1][100..1100].fill(2);
        versions[2] = versions[1].clone();
        versions[2][300..1300].fill(3);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 2..400 {
            let found = read(&content.survivor(&mut Fate::new(seed, 1)));
            assert_eq!(found.len(), 2048);
            let mut picks = Vec::new();
            for atom in 0..4 {
                let range = atom * 512..(atom + 1) * 512;
                let pick = versions.iter().position(|v| v[range.clone()] == found[range.clone()]);
                picks.push(pick.expect("an atom is one of its versions"));
            }
            seen.insert(picks);
        }
        assert!(seen.len() > 20, "only {} combinations", seen.len());
        assert!(seen.contains(&vec![0, 0, 0, 0]) && seen.contains(&vec![2, 2, 2, 0]));
        assert!(seen.contains(&vec![1, 2, 0, 0]), "versions are chosen atom by atom");
    }

    #[test]
    fn what_a_failed_sync_dropped_stays_visible_and_is_never_written() {
        let mut content = Content::default();
        write(&mut content, 0, &[1; 1024]);
        content.sync();
        write(&mut content, 0, &[2; 512]);
        content.lose_pending();
        assert_eq!(read(content.current())[..3], [2, 2, 2]);
        write(&mut content, 512, &[3; 512]);
        content.sync();
        for seed in 0..20 {
            let found = read(&content.survivor(&mut Fate::new(seed, 0)));
            assert_eq!((found[0], found[512]), (1, 3));
        }
        assert_eq!(read(content.current())[511], 2);
    }

    #[test]
    fn a_truncation_that_survives_leaves_zeros_when_the_file_grows_again() {
        let mut content = Content::default();
        write(&mut content, 0, &[1; 8192]);
        content.sync();
        content.apply(&Change::Truncate(700));
        content.apply(&Change::Truncate(8192));
        let mut old = false;
        for seed in 2..200 {
            let found = read(&content.survivor(&mut Fate::new(seed, 0)));
            assert!(found.iter().take(700).all(|b| *b == 1));
            match found.len() {
                700 => {}
                8192 if found[700] == 1 => old = true,
                8192 => assert!(found[700..].iter().all(|b| *b == 0)),
                other => panic!("length {other}"),
            }
        }
        assert!(old);
    }
}
