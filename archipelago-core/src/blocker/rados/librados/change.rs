//! Changes of one object, of several parts that are done together or not at all.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::io::IoSlice;
use std::ptr::{null, null_mut};

use super::{Handle, MAX_BUFFERS, Outcome, Pool, Running, WINDOW, outcome, text};

/// `LIBRADOS_OPERATION_FULL_TRY`: a full pool refuses a change, where otherwise the change would wait for room.
pub(super) const FULL_TRY: c_int = 64;
/// `LIBRADOS_CMPXATTR_OP_EQ`.
const EQUAL: u8 = 1;

impl Pool {
    /// A change of one object, of several parts that are done together or not at all.
    pub(in crate::blocker::rados) fn change(&self) -> Change<'_> {
        // SAFETY: has no arguments.
        Change { pool: self, op: unsafe { (self.f.rados_create_write_op)() } }
    }

    /// Does changes of different objects at the same time; the first error if any of them fails, after all have ended.
    pub(in crate::blocker::rados) fn change_all<'a>(
        &'a self,
        changes: impl Iterator<Item = (String, Change<'a>)>,
    ) -> Vec<Outcome<()>> {
        let mut results = Vec::new();
        let mut running: std::collections::VecDeque<Running<'_>> = Default::default();
        for (object, change) in changes {
            if running.len() >= WINDOW
                && let Some(first) = running.pop_front()
            {
                results.push(first.wait());
            }
            let started = Running::start(self, |completion| {
                let object = text(&object);
                // SAFETY: the change and the completion are ours, and the library copies what it needs of them.
                unsafe {
                    (self.f.rados_aio_write_op_operate)(
                        change.op,
                        self.io,
                        completion,
                        object.as_ptr(),
                        null_mut(),
                        FULL_TRY,
                    )
                }
            });
            match started {
                Ok(started) => running.push_back(started),
                Err(errno) => {
                    results.extend(running.drain(..).map(Running::wait));
                    results.push(Err(errno));
                    return results;
                }
            }
        }
        results.extend(running.into_iter().map(Running::wait));
        results
    }
}

/// See [`Pool::change`]. Its parts are done in the order in which they were named; all that it is given is copied.
pub(in crate::blocker::rados) struct Change<'a> {
    pub(super) pool: &'a Pool,
    pub(super) op: Handle,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { (self.pool.f.rados_release_write_op)(self.op) };
    }
}

impl Change<'_> {
    /// ENOENT unless the object exists.
    pub(in crate::blocker::rados) fn assert_exists(self) -> Self {
        // SAFETY: the operation is ours.
        unsafe { (self.pool.f.rados_write_op_assert_exists)(self.op) };
        self
    }

    /// Makes the object; EEXIST if it is there and `exclusive`.
    pub(in crate::blocker::rados) fn create(self, exclusive: bool) -> Self {
        // SAFETY: the operation is ours, and no category is given.
        unsafe { (self.pool.f.rados_write_op_create)(self.op, c_int::from(exclusive), null()) };
        self
    }

    /// Writes at an offset.
    pub(in crate::blocker::rados) fn write(self, bufs: &[IoSlice<'_>], offset: u64) -> Self {
        let gathered;
        let gathered = match bufs.len() > MAX_BUFFERS {
            true => {
                gathered = bufs.iter().flat_map(|b| b.iter().copied()).collect::<Vec<u8>>();
                &[IoSlice::new(&gathered)][..]
            }
            false => bufs,
        };
        let mut at = offset;
        for buf in gathered.iter().filter(|b| !b.is_empty()) {
            // SAFETY: the buffer is as long as is said, and copied.
            unsafe { (self.pool.f.rados_write_op_write)(self.op, buf.as_ptr().cast(), buf.len(), at) };
            at += buf.len() as u64;
        }
        self
    }

    /// Makes a range of zeros.
    pub(in crate::blocker::rados) fn zero(self, offset: u64, len: u64) -> Self {
        // SAFETY: the operation is ours.
        unsafe { (self.pool.f.rados_write_op_zero)(self.op, offset, len) };
        self
    }

    /// Sets the length.
    pub(in crate::blocker::rados) fn truncate(self, len: u64) -> Self {
        // SAFETY: the operation is ours.
        unsafe { (self.pool.f.rados_write_op_truncate)(self.op, len) };
        self
    }

    /// Removes the object.
    pub(in crate::blocker::rados) fn remove(self) -> Self {
        // SAFETY: the operation is ours.
        unsafe { (self.pool.f.rados_write_op_remove)(self.op) };
        self
    }

    /// ECANCELED unless the key has this value; one that is not there has the empty value.
    pub(in crate::blocker::rados) fn assert_value(self, key: &str, value: &[u8]) -> Self {
        // SAFETY: key and value are as long as is said, and copied; the code of this part is not asked for.
        unsafe {
            (self.pool.f.rados_write_op_omap_cmp2)(
                self.op,
                key.as_ptr().cast(),
                EQUAL,
                value.as_ptr().cast(),
                key.len(),
                value.len(),
                null_mut(),
            );
        }
        self
    }

    /// Sets values of keys.
    pub(in crate::blocker::rados) fn set(self, entries: &[(&str, &[u8])]) -> Self {
        let keys: Vec<*const c_char> = entries.iter().map(|(key, _)| key.as_ptr().cast()).collect();
        let values: Vec<*const c_char> = entries.iter().map(|(_, value)| value.as_ptr().cast()).collect();
        let key_lens: Vec<usize> = entries.iter().map(|(key, _)| key.len()).collect();
        let value_lens: Vec<usize> = entries.iter().map(|(_, value)| value.len()).collect();
        // SAFETY: as many of each as is said, as long as is said, and copied.
        unsafe {
            (self.pool.f.rados_write_op_omap_set2)(
                self.op,
                keys.as_ptr(),
                values.as_ptr(),
                key_lens.as_ptr(),
                value_lens.as_ptr(),
                entries.len(),
            );
        }
        self
    }

    /// Removes keys.
    pub(in crate::blocker::rados) fn unset(self, keys: &[&str]) -> Self {
        let pointers: Vec<*const c_char> = keys.iter().map(|key| key.as_ptr().cast()).collect();
        let lens: Vec<usize> = keys.iter().map(|key| key.len()).collect();
        // SAFETY: as many as is said, as long as is said, and copied.
        unsafe {
            (self.pool.f.rados_write_op_omap_rm_keys2)(self.op, pointers.as_ptr(), lens.as_ptr(), keys.len());
        }
        self
    }

    /// Does it, and waits until all replicas have it.
    pub(in crate::blocker::rados) fn apply(self, object: &str) -> Outcome<()> {
        // SAFETY: the operation is ours, and the string ends with a NUL; no time is given.
        outcome(unsafe {
            (self.pool.f.rados_write_op_operate)(self.op, self.pool.io, text(object).as_ptr(), null_mut(), FULL_TRY)
        })
    }
}
