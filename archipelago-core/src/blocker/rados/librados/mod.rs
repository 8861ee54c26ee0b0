//! The C library of Ceph, loaded when a `rados:` store is opened: the only unsafe code of this backend.
//!
//! A program that uses no such store needs no librados, and one program serves both kinds of site. What is called here is in
//! every release since Pacific (16.2) and has the same binary interface there.
//!
//! | File | Its job |
//! |---|---|
//! | `functions` | loading the library; the table of its functions |
//! | `change`, `read`, `keys` | changing objects, reading their bytes, and their keys |
//! | `begun` | reads and changes of one thread that are under way together |
//! | `locks`, `watch` | locks, watching and notifying |
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use functions::{ClusterStat, Functions, ListItem, functions};

mod begun;
mod change;
mod functions;
mod keys;
mod locks;
mod read;
mod watch;

pub(super) use begun::BegunOps;
pub(super) use change::Change;
pub(super) use keys::{Entry, Page};
pub(super) use locks::Locker;
pub(super) use watch::{Listener, Notification, Watch};

/// What a call of the library failed with: an errno, positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Errno(pub i32);

/// Result of a call of the library.
pub(super) type Outcome<T> = Result<T, Errno>;

/// Reads and changes that are under way at once on behalf of one call: enough to keep a cluster busy, few enough that a call
/// of many objects does not fill its queues.
pub(super) const WINDOW: usize = 64;
/// Buffers that go to the cluster one by one; more of them are gathered in one, which costs less than so many operations.
const MAX_BUFFERS: usize = 32;

type Handle = *mut c_void;
fn outcome(code: c_int) -> Outcome<()> {
    if code < 0 { Err(Errno(-code)) } else { Ok(()) }
}

/// Text of the store's own making, which has no NUL in it; what has one names nothing.
fn text(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

/// A connection to a cluster and a namespace of a pool in it.
pub(super) struct Pool {
    f: &'static Functions,
    cluster: Handle,
    io: Handle,
}

// SAFETY: the library allows all calls on a connection and on a pool from any thread; the handles never change.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: nobody has the handles any more.
        unsafe {
            if !self.io.is_null() {
                (self.f.rados_ioctx_destroy)(self.io);
            }
            (self.f.rados_shutdown)(self.cluster);
        }
    }
}

/// Why a connection could not be made.
#[derive(Debug)]
pub(super) enum Unconnected {
    /// There is no library, for this reason.
    Library(String),
    /// A step failed: what, and with what.
    Step(&'static str, Errno),
}

impl Pool {
    /// Connects. `options` are options of Ceph, which go before what the file says.
    pub(super) fn connect(
        user: &str,
        conf: &str,
        options: &[(&str, String)],
        pool: &str,
        namespace: &str,
    ) -> Result<Arc<Pool>, Unconnected> {
        let f = functions().map_err(Unconnected::Library)?;
        let step = |what, code| outcome(code).map_err(|errno| Unconnected::Step(what, errno));
        let mut cluster = null_mut();
        // SAFETY: the strings end with NULs, and the place for the handle is ours.
        let code = unsafe { (f.rados_create2)(&mut cluster, c"ceph".as_ptr(), text(user).as_ptr(), 0) };
        step("prepare a connection as", code)?;
        let mut this = Pool { f, cluster, io: null_mut() };
        // SAFETY: the handle is one that is not connected yet, and the string ends with a NUL.
        step("read the configuration for", unsafe { (f.rados_conf_read_file)(cluster, text(conf).as_ptr()) })?;
        for (name, value) in options {
            // SAFETY: as above.
            step("configure", unsafe { (f.rados_conf_set)(cluster, text(name).as_ptr(), text(value).as_ptr()) })?;
        }
        // SAFETY: as above.
        step("connect to the cluster of", unsafe { (f.rados_connect)(cluster) })?;
        // SAFETY: the handle is connected, the string ends with a NUL, and the place for the handle is ours.
        step("open", unsafe { (f.rados_ioctx_create)(cluster, text(pool).as_ptr(), &mut this.io) })?;
        // SAFETY: the pool is open, and nobody uses it yet.
        unsafe { (f.rados_ioctx_set_namespace)(this.io, text(namespace).as_ptr()) };
        Ok(Arc::new(this))
    }

    /// Drops this reference in a thread that is none of the library's, if it is the last one: a connection cannot be closed from inside.
    fn leave_to_others(self: Arc<Self>) {
        if Arc::strong_count(&self) == 1 {
            let _ = std::thread::Builder::new().name("rados-close".into()).spawn(move || drop(self));
        }
    }

    /// The number that the cluster gave this connection.
    pub(super) fn instance(&self) -> u64 {
        // SAFETY: the handle is connected.
        unsafe { (self.f.rados_get_instance_id)(self.cluster) }
    }

    /// The address by which others may fence this connection.
    pub(super) fn address(&self) -> Outcome<String> {
        let mut address = null_mut();
        // SAFETY: the handle is connected, and the place for the answer is ours.
        outcome(unsafe { (self.f.rados_getaddrs)(self.cluster, &mut address) })?;
        // SAFETY: what was returned is a C string, which is freed once, here.
        unsafe {
            let found = CStr::from_ptr(address).to_string_lossy().into_owned();
            (self.f.rados_buffer_free)(address);
            Ok(found)
        }
    }

    /// Size and free room of the cluster in bytes; zeros where nobody counts.
    pub(super) fn room(&self) -> Outcome<(u64, u64)> {
        let mut stat = ClusterStat::default();
        // SAFETY: the handle is connected, and the place for the answer is ours.
        outcome(unsafe { (self.f.rados_cluster_stat)(self.cluster, &mut stat) })?;
        Ok((stat.kb << 10, stat.kb_avail << 10))
    }

    /// Asks the monitors something, in JSON.
    pub(super) fn ask_monitors(&self, command: &str) -> Outcome<Vec<u8>> {
        let command = text(command);
        let (mut out, mut len, mut status, mut status_len) = (null_mut(), 0, null_mut(), 0);
        let commands = [command.as_ptr()];
        // SAFETY: one command that ends with a NUL, no input, and places for the answers that are ours.
        let code = unsafe {
            (self.f.rados_mon_command)(
                self.cluster,
                commands.as_ptr(),
                1,
                null(),
                0,
                &mut out,
                &mut len,
                &mut status,
                &mut status_len,
            )
        };
        let answer = self.take(out, len);
        self.take(status, status_len);
        outcome(code).map(|()| answer)
    }

    /// Copies a buffer of the library and frees it.
    fn take(&self, buffer: *mut c_char, len: usize) -> Vec<u8> {
        if buffer.is_null() {
            return Vec::new();
        }
        // SAFETY: the library gave a buffer of this length, which is freed once, here.
        unsafe {
            let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), len).to_vec();
            (self.f.rados_buffer_free)(buffer);
            bytes
        }
    }

    /// Has the cluster refuse every later operation of a client, for `seconds`.
    pub(super) fn blocklist(&self, address: &str, seconds: u32) -> Outcome<()> {
        let address = text(address).into_raw();
        // SAFETY: the string ends with a NUL and is ours, as the library declares it without `const`.
        let code = unsafe { (self.f.rados_blocklist_add)(self.cluster, address, seconds) };
        // SAFETY: it was made by `into_raw` just now.
        drop(unsafe { CString::from_raw(address) });
        outcome(code)
    }

    /// Waits until this connection has the newest map of the cluster.
    pub(super) fn newest_map(&self) -> Outcome<()> {
        // SAFETY: the handle is connected.
        outcome(unsafe { (self.f.rados_wait_for_latest_osdmap)(self.cluster) })
    }

    /// Sends an operation to each of `parts` equal parts of the pool.
    pub(super) fn touch(&self, parts: usize) -> Outcome<()> {
        let f = self.f;
        // SAFETY: the pool is open. Cursors and items are freed once, by the functions that are there for it; an answer of no items
        // has none to be freed.
        unsafe {
            let (begin, end) = ((f.rados_object_list_begin)(self.io), (f.rados_object_list_end)(self.io));
            let mut result = Ok(());
            for part in 0..parts {
                let (mut from, mut to) = ((f.rados_object_list_begin)(self.io), (f.rados_object_list_begin)(self.io));
                (f.rados_object_list_slice)(self.io, begin, end, part, parts, &mut from, &mut to);
                let mut item = std::mem::zeroed::<ListItem>();
                let mut next = (f.rados_object_list_begin)(self.io);
                let found = (f.rados_object_list)(self.io, from, to, 1, null(), 0, &mut item, &mut next);
                if found > 0 {
                    (f.rados_object_list_free)(1, &mut item);
                }
                for cursor in [from, to, next] {
                    (f.rados_object_list_cursor_free)(self.io, cursor);
                }
                if found < 0 {
                    result = Err(Errno(-found));
                    break;
                }
            }
            (f.rados_object_list_cursor_free)(self.io, begin);
            (f.rados_object_list_cursor_free)(self.io, end);
            result
        }
    }
}

/// Something that was started, and has to end before what it uses goes.
struct Running<'a> {
    pool: &'a Pool,
    completion: Handle,
}

impl<'a> Running<'a> {
    fn start(pool: &'a Pool, start: impl FnOnce(Handle) -> c_int) -> Outcome<Running<'a>> {
        let mut completion = null_mut();
        // SAFETY: no callback and no argument of it; the place for the handle is ours.
        outcome(unsafe { (pool.f.rados_aio_create_completion2)(null_mut(), null(), &mut completion) })?;
        let code = start(completion);
        if code < 0 {
            // SAFETY: it is ours, and nothing was started with it.
            unsafe { (pool.f.rados_aio_release)(completion) };
            return Err(Errno(-code));
        }
        Ok(Running { pool, completion })
    }

    fn wait(self) -> Outcome<()> {
        // SAFETY: the completion is ours until it is dropped.
        outcome(unsafe {
            (self.pool.f.rados_aio_wait_for_complete)(self.completion);
            (self.pool.f.rados_aio_get_return_value)(self.completion)
        })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // SAFETY: the completion is ours, and not used after this.
        unsafe {
            (self.pool.f.rados_aio_wait_for_complete)(self.completion);
            (self.pool.f.rados_aio_release)(self.completion);
        }
    }
}
