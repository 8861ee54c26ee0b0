//! Reading keys of objects and their values.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::ptr::null_mut;

use super::{Errno, Handle, Outcome, Pool, Running, WINDOW, outcome, text};

/// A key and its value.
pub(in crate::blocker::rados) type Entry = (String, Vec<u8>);
/// Some keys with their values, and whether there may be more.
pub(in crate::blocker::rados) type Page = (Vec<Entry>, bool);

/// Keys of one answer.
const PAGE: u64 = 1000;

impl Pool {
    /// Keys and values of an object that start with `prefix` and sort after `after`: at most `most` of them, and whether there may be
    /// more. None if the object does not exist.
    pub(in crate::blocker::rados) fn page(&self, object: &str, prefix: &str, after: &str, most: u64) -> Outcome<Page> {
        self.pages(&[object.to_string()], prefix, after, most).map(|pages| pages.into_iter().next().unwrap_or_default())
    }

    /// The same of several objects at the same time.
    pub(in crate::blocker::rados) fn pages(
        &self,
        objects: &[String],
        prefix: &str,
        after: &str,
        most: u64,
    ) -> Outcome<Vec<Page>> {
        let (prefix, after) = (text(prefix), text(after));
        let mut pages = Vec::with_capacity(objects.len());
        for some in objects.chunks(WINDOW) {
            let mut places: Vec<(Handle, u8, c_int)> = vec![(null_mut(), 0, 0); some.len()];
            let mut running = Vec::with_capacity(some.len());
            for (object, (iterator, more, code)) in some.iter().zip(&mut places) {
                // SAFETY: has no arguments.
                let op = unsafe { (self.f.rados_create_read_op)() };
                let object = text(object);
                let started = Running::start(self, |completion| {
                    // SAFETY: the places for the answers live until all that was started has ended, below.
                    unsafe {
                        (self.f.rados_read_op_omap_get_vals2)(
                            op,
                            after.as_ptr(),
                            prefix.as_ptr(),
                            most,
                            iterator,
                            more,
                            code,
                        );
                        (self.f.rados_aio_read_op_operate)(op, self.io, completion, object.as_ptr(), 0)
                    }
                });
                running.push((started, op));
            }
            let mut results = Vec::with_capacity(some.len());
            for (started, op) in running {
                let result = started.and_then(Running::wait);
                // SAFETY: the operation has ended.
                unsafe { (self.f.rados_release_read_op)(op) };
                results.push(result);
            }
            let mut failed = None;
            for (result, (iterator, more, code)) in results.into_iter().zip(places) {
                let result = result.and(outcome(code));
                let entries = self.entries(iterator, result.is_ok());
                match result {
                    Err(Errno(libc::ENOENT)) => pages.push(Page::default()),
                    Err(errno) => failed = failed.or(Some(errno)),
                    Ok(()) => pages.push((entries, more != 0)),
                }
            }
            if let Some(errno) = failed {
                return Err(errno);
            }
        }
        Ok(pages)
    }

    /// All keys of an object that start with `prefix`, with their values.
    pub(in crate::blocker::rados) fn entries_of(&self, object: &str, prefix: &str) -> Outcome<Vec<Entry>> {
        self.entries_of_all(&[object.to_string()], prefix)
    }

    /// The same of several objects.
    pub(in crate::blocker::rados) fn entries_of_all(&self, objects: &[String], prefix: &str) -> Outcome<Vec<Entry>> {
        let mut all = Vec::new();
        for ((mut page, mut more), object) in self.pages(objects, prefix, "", PAGE)?.into_iter().zip(objects) {
            while let Some((last, _)) = page.last() {
                let after = last.clone();
                all.extend(page);
                if !more {
                    break;
                }
                (page, more) = self.page(object, prefix, &after, PAGE)?;
            }
        }
        Ok(all)
    }

    /// Values of some keys of an object, by key; those that are there.
    pub(in crate::blocker::rados) fn values(&self, object: &str, keys: &[&str]) -> Outcome<Vec<Entry>> {
        let (mut iterator, mut code) = (null_mut(), 0);
        let pointers: Vec<*const c_char> = keys.iter().map(|key| key.as_ptr().cast()).collect();
        let lens: Vec<usize> = keys.iter().map(|key| key.len()).collect();
        // SAFETY: as many keys as is said, each with its length; the rest as in `page`.
        let result = unsafe {
            let op = (self.f.rados_create_read_op)();
            (self.f.rados_read_op_omap_get_vals_by_keys2)(
                op,
                pointers.as_ptr(),
                keys.len(),
                lens.as_ptr(),
                &mut iterator,
                &mut code,
            );
            let result = (self.f.rados_read_op_operate)(op, self.io, text(object).as_ptr(), 0);
            (self.f.rados_release_read_op)(op);
            result
        };
        let result = outcome(result).and(outcome(code));
        let entries = self.entries(iterator, result.is_ok());
        match result {
            Err(Errno(libc::ENOENT)) => Ok(Vec::new()),
            other => other.map(|()| entries),
        }
    }

    /// What an iterator gives, and its end. One of an operation that failed was not filled, and must not be asked.
    fn entries(&self, iterator: Handle, filled: bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        if iterator.is_null() {
            return entries;
        }
        let next = || {
            let (mut key, mut value, mut key_len, mut value_len) = (null_mut(), null_mut(), 0, 0);
            // SAFETY: the iterator was made by an operation that has ended, and what it gives lives as long as it does.
            unsafe {
                (self.f.rados_omap_get_next2)(iterator, &mut key, &mut value, &mut key_len, &mut value_len);
                if key.is_null() {
                    return None;
                }
                let key = std::slice::from_raw_parts(key.cast::<u8>(), key_len);
                let value = match value_len {
                    0 => Vec::new(),
                    len => std::slice::from_raw_parts(value.cast::<u8>(), len).to_vec(),
                };
                Some((String::from_utf8_lossy(key).into_owned(), value))
            }
        };
        if filled {
            entries.extend(std::iter::from_fn(next));
        }
        // SAFETY: it is ours, and not used any more.
        unsafe { (self.f.rados_omap_get_end)(iterator) };
        entries
    }
}
