//! Cuts a caller's buffers at block and extent bounds without copying them.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Deref;

use smallvec::SmallVec;

/// Pieces of one request that go to one place.
pub type Slices<'a> = SmallVec<[IoSlice<'a>; 16]>;

/// Bytes of all buffers. Of one, which is the rule, without a loop.
pub fn total<B: Deref<Target = [u8]>>(bufs: &[B]) -> usize {
    match bufs {
        [one] => one.len(),
        _ => bufs.iter().map(|buf| buf.len()).sum(),
    }
}

/// Gives out the bytes of a list of buffers in order.
pub struct ReadCursor<'a, 'b> {
    rest: std::slice::IterMut<'a, IoSliceMut<'b>>,
    current: &'a mut [u8],
}

impl<'a, 'b> ReadCursor<'a, 'b> {
    /// From the start of `bufs`.
    pub fn new(bufs: &'a mut [IoSliceMut<'b>]) -> Self {
        ReadCursor { rest: bufs.iter_mut(), current: &mut [] }
    }

    /// The next `len` bytes, or fewer at the end.
    pub fn take(&mut self, mut len: usize) -> SmallVec<[IoSliceMut<'a>; 16]> {
        let mut out = SmallVec::new();
        while len > 0 {
            if self.current.is_empty() {
                match self.rest.next() {
                    Some(next) => self.current = next,
                    None => break,
                }
            }
            let n = len.min(self.current.len());
            let (head, tail) = std::mem::take(&mut self.current).split_at_mut(n);
            if !head.is_empty() {
                out.push(IoSliceMut::new(head));
            }
            self.current = tail;
            len -= n;
        }
        out
    }
}

/// The bytes `from..from+len` of a list of buffers.
pub fn part<'a>(bufs: &'a [IoSlice<'_>], mut from: usize, mut len: usize) -> Slices<'a> {
    let mut out = Slices::new();
    for buf in bufs {
        if len == 0 {
            break;
        }
        if from >= buf.len() {
            from -= buf.len();
            continue;
        }
        let n = len.min(buf.len() - from);
        out.push(IoSlice::new(&buf[from..from + n]));
        len -= n;
        from = 0;
    }
    out
}

/// Copies the bytes `from..from+to.len()` of a list of buffers.
pub fn copy_out(bufs: &[IoSlice<'_>], from: usize, to: &mut [u8]) {
    let mut done = 0;
    for slice in part(bufs, from, to.len()) {
        to[done..done + slice.len()].copy_from_slice(&slice);
        done += slice.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_fall_anywhere_and_lose_nothing() {
        let data: Vec<u8> = (0..100).collect();
        let bufs = [IoSlice::new(&data[..7]), IoSlice::new(&[]), IoSlice::new(&data[7..60]), IoSlice::new(&data[60..])];
        for from in 0..100 {
            for len in 0..=100 - from {
                let got: Vec<u8> = part(&bufs, from, len).iter().flat_map(|s| s.to_vec()).collect();
                assert_eq!(got, &data[from..from + len]);
            }
        }
        let mut out = vec![0; 100];
        let (a, rest) = out.split_at_mut(13);
        let (b, c) = rest.split_at_mut(40);
        let mut bufs = [IoSliceMut::new(a), IoSliceMut::new(b), IoSliceMut::new(c)];
        let mut cursor = ReadCursor::new(&mut bufs);
        let mut n = 0;
        for len in [1, 12, 5, 50, 32] {
            for mut s in cursor.take(len) {
                for byte in s.iter_mut() {
                    *byte = n;
                    n += 1;
                }
            }
        }
        assert_eq!(out, data);
    }
}
