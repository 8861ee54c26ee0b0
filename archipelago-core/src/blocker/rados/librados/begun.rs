//! Reads and changes of one thread that are under way together: threads of the library tell their ends, and whoever began them is woken.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::ptr::{from_ref, null_mut};
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::change::FULL_TRY;
use super::{Errno, Handle, MAX_BUFFERS, Outcome, Pool, text};
use crate::blocker::ring::{Event, Waker};

/// Requests that are under way, each with a number below those that room was made for. Dropped, it waits for all.
pub(in crate::blocker::rados) struct BegunOps {
    pool: Arc<Pool>,
    ends: Arc<Ends>,
    /// By number. They stay where they are, for the library has their addresses.
    requests: Box<[Option<Box<Request>>]>,
    count: usize,
    /// Numbers that were told; kept for its room.
    told: Vec<usize>,
}

/// What the library has addresses of, or is freed when a request has ended.
struct Request {
    pool: Arc<Pool>,
    ends: Arc<Ends>,
    number: usize,
    completion: Handle,
    /// Of a read; a change is copied when it is begun.
    read: Option<Handle>,
    /// Bytes that came to each buffer, and its code.
    got: SmallVec<[(usize, c_int); 2]>,
}

/// Where the ends are told.
struct Ends {
    state: Mutex<Told>,
    event: Event,
}

#[derive(Default)]
struct Told {
    numbers: Vec<usize>,
    /// So many have to be there for the waiter to be woken; 0 where nobody waits.
    wanted: usize,
}

impl Ends {
    fn tell(&self, number: usize) {
        let mut told = self.state.lock();
        told.numbers.push(number);
        if told.wanted > 0 && told.numbers.len() >= told.wanted {
            told.wanted = 0;
            // With the lock held, so that the waiter can tell this from somebody who wakes it.
            self.event.ring();
        }
    }
}

/// Called by a thread of the library when a request has ended.
unsafe extern "C" fn on_end(_: Handle, request: *mut c_void) {
    // SAFETY: the request stays where it is until its number was told, which is the last thing done here with what is in it.
    let (ends, number) = unsafe {
        let request = &*request.cast_const().cast::<Request>();
        (request.ends.clone(), request.number)
    };
    ends.tell(number);
}

impl BegunOps {
    /// Room for so many.
    pub(in crate::blocker::rados) fn new(pool: &Arc<Pool>, requests: usize) -> io::Result<BegunOps> {
        Ok(BegunOps {
            pool: pool.clone(),
            ends: Arc::new(Ends { state: Mutex::default(), event: Event::new()? }),
            requests: (0..requests).map(|_| None).collect(),
            count: 0,
            told: Vec::with_capacity(requests),
        })
    }

    /// What ends a wait, from any thread.
    pub(in crate::blocker::rados) fn waker(&self) -> Waker {
        self.ends.event.waker()
    }

    fn is_free(&self, number: usize) -> bool {
        self.requests.get(number).is_some_and(Option::is_none)
    }

    /// Begins to fill buffers from an object; `false` if it has to be made by a call.
    ///
    /// # Safety
    ///
    /// The buffers stay, and nobody else uses them, until the end was told or this value was dropped.
    pub(in crate::blocker::rados) unsafe fn read(
        &mut self,
        number: usize,
        object: &str,
        bufs: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> bool {
        if !self.is_free(number) || bufs.len() > MAX_BUFFERS {
            return false;
        }
        let f = self.pool.f;
        // SAFETY: has no arguments.
        let op = unsafe { (f.rados_create_read_op)() };
        let mut request = self.request(number, Some(op), SmallVec::from_elem((0, 0), bufs.len()));
        let mut at = offset;
        for (buf, (bytes, code)) in bufs.iter_mut().zip(&mut request.got) {
            // SAFETY: the buffers stay by the caller's promise; the places for the answers are in the request, which stays until the end.
            unsafe { (f.rados_read_op_read)(op, at, buf.len(), buf.as_mut_ptr().cast(), bytes, code) };
            at += buf.len() as u64;
        }
        let object = text(object);
        self.start(number, request, |pool, completion| {
            // SAFETY: operation and completion are those of the request.
            unsafe { (f.rados_aio_read_op_operate)(op, pool.io, completion, object.as_ptr(), 0) }
        })
    }

    /// Begins to write buffers, which are copied, into an object, that must exist if `exists`; `false` if it has to be made by a call.
    pub(in crate::blocker::rados) fn write(
        &mut self,
        number: usize,
        object: &str,
        bufs: &[IoSlice<'_>],
        offset: u64,
        exists: bool,
    ) -> bool {
        if !self.is_free(number) {
            return false;
        }
        let pool = self.pool.clone();
        let mut change = pool.change();
        if exists {
            change = change.assert_exists();
        }
        let change = change.write(bufs, offset);
        let object = text(object);
        let request = self.request(number, None, SmallVec::new());
        self.start(number, request, |pool, completion| {
            // SAFETY: the change and the completion are ours, and the library copies what it needs of them.
            unsafe {
                (pool.f.rados_aio_write_op_operate)(
                    change.op,
                    pool.io,
                    completion,
                    object.as_ptr(),
                    null_mut(),
                    FULL_TRY,
                )
            }
        })
    }

    fn request(&self, number: usize, read: Option<Handle>, got: SmallVec<[(usize, c_int); 2]>) -> Box<Request> {
        let (pool, ends) = (self.pool.clone(), self.ends.clone());
        Box::new(Request { pool, ends, number, completion: null_mut(), read, got })
    }

    fn start(&mut self, number: usize, mut request: Box<Request>, start: impl FnOnce(&Pool, Handle) -> c_int) -> bool {
        let create = self.pool.f.rados_aio_create_completion2;
        let mut completion = null_mut();
        // SAFETY: the function has the type that the library calls; the request stays where it is until its end was told.
        let made = unsafe { create(from_ref(&*request).cast_mut().cast(), on_end as *const c_void, &mut completion) };
        if made < 0 {
            return false;
        }
        request.completion = completion;
        let request = self.requests[number].insert(request);
        // What fails here has begun nothing, and its end is never told.
        if start(&request.pool, completion) < 0 {
            self.requests[number] = None;
            return false;
        }
        self.count += 1;
        true
    }

    /// Waits until `least` have ended or somebody wakes it, and tells of all that have: the number, and of a read the bytes that came.
    pub(in crate::blocker::rados) fn wait(&mut self, least: usize, each: &mut dyn FnMut(usize, Outcome<usize>)) {
        let least = least.min(self.count);
        let mut woken = false;
        loop {
            let mut state = self.ends.state.lock();
            if woken || state.numbers.len() >= least {
                state.wanted = 0;
                mem::swap(&mut state.numbers, &mut self.told);
                break;
            }
            state.wanted = least;
            drop(state);
            self.ends.event.wait();
            let state = self.ends.state.lock();
            woken = self.ends.event.take() > u64::from(state.wanted == 0);
        }
        for number in self.told.drain(..) {
            if let Some(request) = self.requests[number].take() {
                self.count -= 1;
                each(number, request.end());
            }
        }
    }
}

impl Drop for BegunOps {
    fn drop(&mut self) {
        while self.count > 0 {
            self.wait(self.count, &mut |_, _| {});
        }
    }
}

impl Request {
    fn end(&self) -> Outcome<usize> {
        // SAFETY: the completion is ours until this is dropped.
        match unsafe { (self.pool.f.rados_aio_get_return_value)(self.completion) } {
            code if code < 0 => Err(Errno(-code)),
            _ => Ok(self.got.iter().map(|(bytes, _)| bytes).sum()),
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: both are ours, and what was begun with them has ended, or nothing was.
        unsafe {
            if !self.completion.is_null() {
                (self.pool.f.rados_aio_release)(self.completion);
            }
            if let Some(read) = self.read {
                (self.pool.f.rados_release_read_op)(read);
            }
        }
    }
}
