//! Sparse bytes, cheap to copy: what a simulated file holds at one moment.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

/// Unit of storage, of space accounting and of holes.
pub(crate) const PAGE: u64 = 4096;

type Page = [u8; PAGE as usize];

/// Preallocated files are zeros by the MiB; all their pages are this one.
static ZEROS: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new([0; PAGE as usize]));

/// Bytes with holes. A clone shares everything until one of the two is changed.
///
/// Writing does not change the length: pages past it may exist while a crash is being worked out, and
/// [`Pages::set_len`] drops them.
#[derive(Clone, Default)]
pub(crate) struct Pages {
    map: Arc<BTreeMap<u64, Arc<Page>>>,
    len: u64,
}

/// Calls `each` with (page number, range inside the page) for the pages that `offset..offset + len` touches.
fn for_pages(offset: u64, len: u64, mut each: impl FnMut(u64, Range<usize>)) {
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let page = at / PAGE;
        let stop = end.min((page + 1) * PAGE);
        each(page, (at - page * PAGE) as usize..(stop - page * PAGE) as usize);
        at = stop;
    }
}

impl Pages {
    /// `len` bytes: `head`, and stored (not sparse) zeros behind it.
    pub(crate) fn starting(head: &[u8], len: u64) -> Pages {
        let mut pages = Pages { map: Arc::default(), len };
        pages.write_zeros(0, len);
        pages.write(0, head);
        pages
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Pages that take room.
    pub(crate) fn count(&self) -> u64 {
        self.map.len() as u64
    }

    /// Their numbers, rising.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.map.keys().copied().collect()
    }

    /// Sets the length; what lies past a smaller one is zeros if it grows again.
    pub(crate) fn set_len(&mut self, len: u64) {
        let first = len.div_ceil(PAGE);
        if self.map.range(first..).next().is_some() {
            Arc::make_mut(&mut self.map).split_off(&first);
        }
        let tail = (len % PAGE) as usize;
        if tail != 0 {
            self.zero_present(len / PAGE, tail..PAGE as usize);
        }
        self.len = len;
    }

    /// Makes it at least that long.
    pub(crate) fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Fills `buf`; holes are zeros. The length does not matter.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) {
        if buf.is_empty() {
            return;
        }
        let mut done = 0;
        let last = (offset + buf.len() as u64 - 1) / PAGE;
        let mut stored = self.map.range(offset / PAGE..=last).peekable();
        for_pages(offset, buf.len() as u64, |page, range| {
            let target = &mut buf[done..done + range.len()];
            done += range.len();
            match stored.next_if(|(number, _)| **number == page) {
                Some((_, bytes)) => target.copy_from_slice(&bytes[range]),
                None => target.fill(0),
            }
        });
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let map = Arc::make_mut(&mut self.map);
        let mut done = 0;
        for_pages(offset, data.len() as u64, |page, range| {
            let source = &data[done..done + range.len()];
            done += range.len();
            let bytes = map.entry(page).or_insert_with(|| ZEROS.clone());
            match <&Page>::try_from(source) {
                Ok(whole) => *bytes = Arc::new(*whole),
                Err(_) => Arc::make_mut(bytes)[range].copy_from_slice(source),
            }
        });
    }

    /// Writes zeros that take room.
    pub(crate) fn write_zeros(&mut self, offset: u64, len: u64) {
        let map = Arc::make_mut(&mut self.map);
        for_pages(offset, len, |page, range| {
            let bytes = map.entry(page).or_insert_with(|| ZEROS.clone());
            if range.len() as u64 == PAGE {
                *bytes = ZEROS.clone();
            } else {
                Arc::make_mut(bytes)[range].fill(0);
            }
        });
    }

    /// Makes the range zeros; whole pages give their room back. Costs what is stored there, not what the range spans.
    pub(crate) fn punch(&mut self, offset: u64, len: u64) {
        for page in self.present(offset, len) {
            self.punch_page(page, offset, len);
        }
    }

    /// [`Pages::punch`] for one page of the range.
    pub(crate) fn punch_page(&mut self, page: u64, offset: u64, len: u64) {
        let start = offset.max(page * PAGE) - page * PAGE;
        let stop = (offset + len).min((page + 1) * PAGE) - page * PAGE;
        if stop - start == PAGE {
            Arc::make_mut(&mut self.map).remove(&page);
        } else {
            self.zero_present(page, start as usize..stop as usize);
        }
    }

    /// Numbers of the stored pages that a range touches.
    pub(crate) fn present(&self, offset: u64, len: u64) -> Vec<u64> {
        if len == 0 {
            return Vec::new();
        }
        self.map.range(offset / PAGE..=(offset + len - 1) / PAGE).map(|(page, _)| *page).collect()
    }

    /// The end of what a write of `start..end` can store when only `room` new pages may be taken.
    pub(crate) fn end_within(&self, start: u64, end: u64, mut room: u64) -> u64 {
        let mut at = start;
        while at < end {
            let page = at / PAGE;
            if !self.map.contains_key(&page) {
                if room == 0 {
                    return at;
                }
                room -= 1;
            }
            at = end.min((page + 1) * PAGE);
        }
        end
    }

    fn zero_present(&mut self, page: u64, range: Range<usize>) {
        if self.map.contains_key(&page)
            && let Some(bytes) = Arc::make_mut(&mut self.map).get_mut(&page)
        {
            Arc::make_mut(bytes)[range].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, Pages};

    fn bytes(pages: &Pages, offset: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![9; len];
        pages.read(offset, &mut buf);
        buf
    }

    #[test]
    fn a_range_beyond_a_tebibyte_takes_only_what_was_written() {
        let mut pages = Pages::default();
        let far = 5 << 40;
        pages.write(far + 10, b"hello");
        assert_eq!((pages.count(), bytes(&pages, far + 9, 7)), (1, b"\0hello\0".to_vec()));
        pages.punch(0, 6 << 40);
        assert_eq!(pages.count(), 0);
    }

    #[test]
    fn a_shorter_length_zeroes_what_it_cuts_off() {
        let mut pages = Pages::default();
        pages.write(0, &[7; 3 * PAGE as usize]);
        pages.set_len(PAGE + 3);
        pages.set_len(3 * PAGE);
        assert_eq!(bytes(&pages, PAGE, 6), [7, 7, 7, 0, 0, 0]);
        assert_eq!(bytes(&pages, 2 * PAGE, 2), [0, 0]);
    }

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut pages = Pages::starting(&[], 2 * PAGE);
        let copy = pages.clone();
        pages.write(1, b"x");
        pages.punch(PAGE, PAGE);
        assert_eq!((bytes(&copy, 0, 3), copy.count()), (vec![0; 3], 2));
        assert_eq!((bytes(&pages, 0, 3), pages.count()), (vec![0, b'x', 0], 1));
    }
}
