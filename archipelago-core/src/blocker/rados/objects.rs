//! Reads and writes of objects, cut into pieces.
//!
//! Nothing lists a pool. Before a piece exists, a key of the object's first piece announces the run of pieces that it belongs to,
//! and before an object exists it is in the list of its part; so a crash leaves at most a key of what is not there.

use std::collections::{HashMap, HashSet};
use std::io::{IoSlice, IoSliceMut};

use super::librados::{Change, Errno, Outcome};
use super::{Core, layout};
use crate::blocker::Object;
use crate::error::{Error, Result};
use crate::iov::{ReadCursor, part};
use crate::sync::Mutex;

/// Objects of which a process remembers what it announced; about 150 bytes each.
const MAX_ANNOUNCED: usize = 16 << 10;

/// What this process announced, so that it is not announced again.
#[derive(Default)]
pub(super) struct Announced(Mutex<HashMap<Object, HashSet<u64>>>);

impl Announced {
    /// Whether the object is listed, and its run announced.
    fn has(&self, object: Object, run: u64) -> bool {
        self.0.lock().get(&object).is_some_and(|runs| runs.contains(&run))
    }

    /// Whether nothing has to be announced before this piece is written.
    pub(super) fn knows(&self, object: Object, piece: u64) -> bool {
        self.has(object, piece / layout::RUN) || (piece == 0 && self.is_listed(object))
    }

    fn is_listed(&self, object: Object) -> bool {
        self.0.lock().contains_key(&object)
    }

    fn add(&self, object: Object, run: Option<u64>) {
        let mut all = self.0.lock();
        if all.len() >= MAX_ANNOUNCED {
            all.clear();
        }
        all.entry(object).or_default().extend(run);
    }

    pub(super) fn forget(&self, object: Object) {
        self.0.lock().remove(&object);
    }

    /// What others may have removed, or made anew, in the meantime.
    pub(super) fn forget_volume(&self, volume: crate::blocker::VolumeId) {
        self.0.lock().retain(|object, _| object.volume() != volume);
    }
}

/// A range of a piece, and which bytes of the call's buffers belong there.
pub(super) struct Span {
    pub(super) piece: u64,
    /// Offset in the piece.
    pub(super) at: u64,
    pub(super) len: u64,
}

/// The pieces that a range touches.
fn spans(object: Object, offset: u64, len: u64) -> impl Iterator<Item = Span> {
    let size = layout::piece_size(object);
    let end = offset + len;
    (offset / size..end.div_ceil(size)).filter_map(move |piece| {
        let (from, to) = (offset.max(piece * size), end.min((piece + 1) * size));
        (from < to).then_some(Span { piece, at: from - piece * size, len: to - from })
    })
}

/// The one piece in which a range lies, if it is not empty and lies in one.
pub(super) fn one_span(object: Object, offset: u64, len: u64) -> Option<Span> {
    range_end(object, offset, len).ok()?;
    spans(object, offset, len).next().filter(|span| span.len == len)
}

/// The end of a range, if the object can have it.
fn range_end(object: Object, offset: u64, len: u64) -> Result<u64> {
    match offset.checked_add(len) {
        Some(end) if end <= layout::max_len(object) => Ok(end),
        _ => {
            Err(Error::InvalidArgument(format!("{object}: {len} bytes at offset {offset} are beyond what it can hold")))
        }
    }
}

pub(super) fn missing(object: Object) -> Error {
    Error::damaged(object.to_string(), "cut short: it is missing")
}

/// Zeros in all bytes from `from` on.
fn clear(bufs: &mut [IoSliceMut<'_>], mut from: usize) {
    for buf in bufs {
        let len = buf.len();
        buf[from.min(len)..].fill(0);
        from = from.saturating_sub(len);
    }
}

impl Core {
    /// Enters an object in the list of its part, and a run of its pieces.
    fn announce(&self, object: Object, piece: u64) -> Result<()> {
        if self.announced.knows(object, piece) {
            return Ok(());
        }
        if !self.announced.is_listed(object) {
            self.list(object)?;
            self.announced.add(object, None);
        }
        if piece > 0 {
            let run = piece / layout::RUN;
            let change = self.pool.change().create(false).set(&[(&layout::run_key(run), b"")]);
            self.done("announce", object, change.apply(&layout::piece(object, 0)))?;
            self.announced.add(object, Some(run));
        }
        Ok(())
    }

    fn list(&self, object: Object) -> Result<()> {
        let (list, key) = layout::listing(object);
        self.done("list", object, self.pool.change().create(false).set(&[(&key, b"")]).apply(&list))
    }

    fn unlist(&self, object: Object) -> Result<()> {
        let (list, key) = layout::listing(object);
        match self.pool.change().assert_exists().unset(&[&key]).apply(&list) {
            Err(Errno(libc::ENOENT)) => Ok(()),
            other => self.done("remove", object, other),
        }
    }

    pub(super) fn create_object(&self, object: Object, head: &[u8], len: u64) -> Result<()> {
        if head.len() as u64 > len {
            return Err(Error::InvalidArgument(format!("{object}: a head of {} bytes in {len}", head.len())));
        }
        range_end(object, 0, len)?;
        self.list(object)?;
        let size = layout::piece_size(object);
        let pieces = len.div_ceil(size);
        let keys: Vec<String> = match pieces {
            0 | 1 => Vec::new(),
            more => (0..more.div_ceil(layout::RUN)).map(layout::run_key).collect(),
        };
        let runs: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &b""[..])).collect();
        let first = &head[..head.len().min(size as usize)];
        let mut change = self.pool.change().create(true).write(&[IoSlice::new(first)], 0).truncate(len.min(size));
        if !runs.is_empty() {
            change = change.set(&runs);
        }
        match change.apply(&layout::piece(object, 0)) {
            Err(Errno(libc::EEXIST)) => return Err(Error::Exists(object.to_string())),
            other => self.done("create", object, other)?,
        }
        let others = (1..pieces).map(|number| {
            let len = (len - number * size).min(size);
            (layout::piece(object, number), self.pool.change().create(false).truncate(len))
        });
        self.all_done("create", object, self.pool.change_all(others))?;
        self.announced.add(object, None);
        if head.len() > first.len() {
            self.write_object(object, &[IoSlice::new(&head[first.len()..])], first.len() as u64)?;
        }
        Ok(())
    }

    pub(super) fn write_object(&self, object: Object, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        range_end(object, offset, len)?;
        let made = layout::is_made_by_writing(object);
        let mut all = Vec::new();
        let mut from = 0;
        for span in spans(object, offset, len) {
            if made {
                self.announce(object, span.piece)?;
            } else if span.piece > 0 {
                if !self.announced.is_listed(object) && self.object_size(object)?.is_none() {
                    return Err(missing(object));
                }
                self.announced.add(object, None);
                self.announce(object, span.piece)?;
            }
            let mut change = self.pool.change();
            if !made && span.piece == 0 {
                change = change.assert_exists();
            }
            let bufs = part(bufs, from as usize, span.len as usize);
            from += span.len;
            all.push((layout::piece(object, span.piece), change.write(&bufs, span.at)));
        }
        let result = match all.len() {
            0 => return Ok(()),
            1 => all.pop().map_or(Ok(()), |(name, change)| change.apply(&name)),
            _ => self.pool.change_all(all.into_iter()).into_iter().find(|result| result.is_err()).unwrap_or(Ok(())),
        };
        match result {
            Err(Errno(libc::ENOENT)) => Err(missing(object)),
            other => self.done("write", object, other),
        }
    }

    pub(super) fn read_object(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let end = range_end(object, offset, len)?;
        if len == 0 {
            return match object {
                Object::Data(..) | Object::Sum(..) => Ok(()),
                _ => self.object_size(object)?.map(|_| ()).ok_or_else(|| missing(object)),
            };
        }
        let spans: Vec<Span> = spans(object, offset, len).collect();
        let results = self.read_spans(object, bufs, &spans);
        let mut short = false;
        for (result, span) in results.into_iter().zip(&spans) {
            match result {
                // What a map names was written, so the piece was there.
                Err(Errno(libc::ENOENT)) => return Err(missing(object)),
                Err(errno) => return self.done("read", object, Err(errno)),
                Ok(there) => short |= (there as u64) < span.len,
            }
        }
        // Ends of pieces inside the object were never written, and read as zeros.
        if short {
            let size = self.object_len(object)?.unwrap_or(0);
            if size < end {
                return Err(Error::damaged(object.to_string(), format!("cut short: it ends at {size}, before {end}")));
            }
        }
        Ok(())
    }

    /// Reads from pieces, and clears what they do not have.
    fn read_spans(&self, object: Object, bufs: &mut [IoSliceMut<'_>], spans: &[Span]) -> Vec<Outcome<usize>> {
        if let [span] = spans {
            let result = self.pool.read(&layout::piece(object, span.piece), bufs, span.at);
            clear(bufs, result.unwrap_or(0));
            return vec![result];
        }
        let mut cursor = ReadCursor::new(bufs);
        let mut cut: Vec<_> = spans.iter().map(|span| cursor.take(span.len as usize)).collect();
        let mut parts: Vec<(String, u64, &mut [IoSliceMut<'_>])> = (spans.iter().zip(&mut cut))
            .map(|(span, bufs)| (layout::piece(object, span.piece), span.at, &mut bufs[..]))
            .collect();
        let results = self.pool.read_all(&mut parts);
        drop(parts);
        for (result, bufs) in results.iter().zip(&mut cut) {
            clear(bufs, result.unwrap_or(0));
        }
        results
    }

    pub(super) fn read_what_is_there(&self, object: Object, buf: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = buf.len();
        if wanted == 0 || offset >= layout::max_len(object) {
            return Ok(0);
        }
        let wanted = wanted.min((layout::max_len(object) - offset) as usize);
        let buf = &mut buf[..wanted];
        let spans: Vec<Span> = spans(object, offset, wanted as u64).collect();
        let results = self.read_spans(object, &mut [IoSliceMut::new(buf)], &spans);
        let mut short = false;
        for (result, span) in results.into_iter().zip(&spans) {
            match result {
                Ok(there) => short |= (there as u64) < span.len,
                Err(Errno(libc::ENOENT)) => short = true,
                Err(errno) => self.done("read", object, Err(errno))?,
            }
        }
        if !short {
            return Ok(wanted);
        }
        let size = self.object_len(object)?.unwrap_or(0);
        Ok(size.saturating_sub(offset).min(wanted as u64) as usize)
    }

    pub(super) fn punch_object(&self, object: Object, offset: u64, len: u64) -> Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Error::InvalidArgument(format!(
                "{object}: {len} bytes at offset {offset} are beyond any object"
            )));
        }
        let size = layout::piece_size(object);
        let end = (offset + len).min(layout::max_len(object));
        if offset >= end {
            return Ok(());
        }
        let touched = |piece: &u64| *piece < end.div_ceil(size) && *piece >= offset / size;
        let pieces: Vec<u64> = match spans(object, offset, end - offset).take(3).collect::<Vec<_>>()[..] {
            // Asking about one or two is less than asking which ones there are.
            [ref first] => vec![first.piece],
            [ref first, ref second] => vec![first.piece, second.piece],
            _ => self.pieces(object)?.into_iter().filter(touched).collect(),
        };
        let names: Vec<String> = pieces.iter().map(|piece| layout::piece(object, *piece)).collect();
        let lens = self.done_with("look at", object, self.pool.lengths(&names))?;
        let last =
            if pieces.len() > 1 || pieces.first().is_some_and(|p| *p > 0) { self.last_piece(object)? } else { 0 };
        let changes = pieces.into_iter().zip(names).zip(lens).filter_map(|((piece, name), len)| {
            let len = len?;
            let (from, to) = (offset.max(piece * size) - piece * size, end.min((piece + 1) * size) - piece * size);
            let change = match (from, to.min(len)) {
                // Nothing is behind it that says how long the object is, and the first one has the keys.
                (0, to) if to == len && piece > 0 && piece < last => self.pool.change().remove(),
                // Zeros up to the end would make it shorter.
                (from, to) if from < to && to == len => {
                    self.pool.change().zero(from, to - from - 1).write(&[IoSlice::new(&[0])], to - 1)
                }
                (from, to) if from < to => self.pool.change().zero(from, to - from),
                _ => return None,
            };
            Some((name, change))
        });
        self.all_done("punch", object, self.pool.change_all(changes))
    }

    /// Changes whose objects may be gone already.
    fn all_done(&self, what: &'static str, object: Object, results: Vec<Outcome<()>>) -> Result<()> {
        let failed = results.into_iter().find(|result| !matches!(result, Ok(()) | Err(Errno(libc::ENOENT))));
        self.done(what, object, failed.unwrap_or(Ok(())))
    }

    /// Pieces that may exist, rising.
    fn pieces(&self, object: Object) -> Result<Vec<u64>> {
        let mut pieces = vec![0];
        if layout::is_whole(object) {
            return Ok(pieces);
        }
        let keys = self.done_with("look into", object, self.pool.entries_of(&layout::piece(object, 0), "r."))?;
        let mut runs: Vec<u64> = keys.iter().filter_map(|(key, _)| layout::parse_run(key)).collect();
        runs.sort_unstable();
        pieces.extend(runs.into_iter().flat_map(|run| run * layout::RUN..(run + 1) * layout::RUN).filter(|p| *p > 0));
        Ok(pieces)
    }

    /// The last piece that exists, and its length; `None` if the object does not exist.
    fn end(&self, object: Object) -> Result<Option<(u64, u64)>> {
        let Some(first) = self.object_size(object)? else { return Ok(None) };
        let mut after = String::new();
        loop {
            let page = self.pool.page(&layout::piece(object, 0), "r.", &after, 4);
            let (page, more) = self.done_with("look into", object, page)?;
            for (key, _) in &page {
                let Some(run) = layout::parse_run(key) else { continue };
                let pieces: Vec<u64> = (run * layout::RUN..(run + 1) * layout::RUN).filter(|p| *p > 0).collect();
                let names: Vec<String> = pieces.iter().map(|piece| layout::piece(object, *piece)).collect();
                let lens = self.done_with("look at", object, self.pool.lengths(&names))?;
                let last = pieces.into_iter().zip(lens).rev().find_map(|(piece, len)| Some((piece, len?)));
                if last.is_some() {
                    return Ok(last);
                }
            }
            match page.last() {
                Some((key, _)) if more => after.clone_from(key),
                _ => return Ok(Some((0, first))),
            }
        }
    }

    fn last_piece(&self, object: Object) -> Result<u64> {
        Ok(self.end(object)?.map_or(0, |(piece, _)| piece))
    }

    /// Length of the first piece.
    fn object_size(&self, object: Object) -> Result<Option<u64>> {
        self.done_with("look at", object, self.pool.length(&layout::piece(object, 0)))
    }

    pub(super) fn object_len(&self, object: Object) -> Result<Option<u64>> {
        if layout::is_whole(object) {
            return self.object_size(object);
        }
        Ok(self.end(object)?.map(|(piece, len)| match (piece, len) {
            // Announced, and nothing was written.
            (0, len) => len,
            (piece, len) => piece * layout::PIECE + len,
        }))
    }

    pub(super) fn allocated_object(&self, object: Object) -> Result<u64> {
        let names: Vec<String> = self.pieces(object)?.into_iter().map(|piece| layout::piece(object, piece)).collect();
        let lens = self.done_with("look at", object, self.pool.lengths(&names))?;
        Ok(lens.into_iter().flatten().sum())
    }

    pub(super) fn remove_object(&self, object: Object) -> Result<()> {
        self.announced.forget(object);
        // The first one last, which has the keys.
        let others = self.pieces(object)?.into_iter().skip(1);
        let change = |piece| (layout::piece(object, piece), self.pool.change().remove());
        self.all_done("remove", object, self.pool.change_all(others.map(change)))?;
        match self.pool.change().remove().apply(&layout::piece(object, 0)) {
            Ok(()) | Err(Errno(libc::ENOENT)) => {}
            failed => self.done("remove", object, failed)?,
        }
        self.unlist(object)
    }

    /// Makes a content object in one step; `false` if it is there.
    pub(super) fn put_object(&self, object: Object, bytes: &[u8]) -> Result<bool> {
        range_end(object, 0, bytes.len() as u64)?;
        if self.object_size(object)?.is_some() {
            return Ok(false);
        }
        self.list(object)?;
        match self.whole(bytes).apply(&layout::piece(object, 0)) {
            Err(Errno(libc::EEXIST)) => Ok(false),
            other => self.done("create", object, other).map(|()| true),
        }
    }

    fn whole(&self, bytes: &[u8]) -> Change<'_> {
        self.pool.change().create(true).write(&[IoSlice::new(bytes)], 0)
    }

    /// Of these objects those that exist.
    pub(super) fn existing(&self, objects: Vec<Object>) -> Result<Vec<Object>> {
        let names: Vec<String> = objects.iter().map(|object| layout::piece(*object, 0)).collect();
        let lens =
            self.pool.lengths(&names).map_err(|errno| self.failed("look at", "the objects of a volume", errno))?;
        Ok(objects.into_iter().zip(lens).filter_map(|(object, len)| len.map(|_| object)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocker::VolumeId;

    #[test]
    fn a_range_falls_into_pieces() {
        let object = Object::Data(VolumeId(1), 1);
        let spans: Vec<(u64, u64, u64)> =
            spans(object, layout::PIECE - 1, layout::PIECE + 2).map(|s| (s.piece, s.at, s.len)).collect();
        assert_eq!(spans, [(0, layout::PIECE - 1, 1), (1, 0, layout::PIECE), (2, 0, 1)]);
    }

    #[test]
    fn what_does_not_come_is_zeros() {
        let mut bytes = [7u8; 10];
        let (one, two) = bytes.split_at_mut(4);
        clear(&mut [IoSliceMut::new(one), IoSliceMut::new(two)], 5);
        assert_eq!(bytes, [7, 7, 7, 7, 7, 0, 0, 0, 0, 0]);
    }
}
