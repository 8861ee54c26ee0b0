//! The C library of Ceph, loaded when a `rados:` store is opened: the only unsafe code of this backend.
//!
//! A program that uses no such store needs no librados, and one program serves both kinds of site. What is called here is in
//! every release since Pacific (16.2) and has the same binary interface there.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::{IoSlice, IoSliceMut};
use std::ptr::{null, null_mut};
use std::sync::{Arc, OnceLock};

/// What a call of the library failed with: an errno, positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Errno(pub i32);

/// Result of a call of the library.
pub(super) type Outcome<T> = Result<T, Errno>;

/// A key and its value.
pub(super) type Entry = (String, Vec<u8>);
/// Some keys with their values, and whether there may be more.
pub(super) type Page = (Vec<Entry>, bool);

/// Reads and changes that are under way at once on behalf of one call: enough to keep a cluster busy, few enough that a call
/// of many objects does not fill its queues.
pub(super) const WINDOW: usize = 64;
/// Buffers that go to the cluster one by one; more of them are gathered in one, which costs less than so many operations.
const MAX_BUFFERS: usize = 32;

/// `LIBRADOS_OPERATION_FULL_TRY`: a full pool refuses a change, where otherwise the change would wait for room.
const FULL_TRY: c_int = 64;
/// `LIBRADOS_CMPXATTR_OP_EQ`.
const EQUAL: u8 = 1;
/// Keys of one answer.
const PAGE: u64 = 1000;

type Handle = *mut c_void;
type OnNotify = unsafe extern "C" fn(*mut c_void, u64, u64, u64, *mut c_void, usize);
type OnLost = unsafe extern "C" fn(*mut c_void, u64, c_int);

/// `rados_cluster_stat_t`.
#[repr(C)]
#[derive(Default)]
struct ClusterStat {
    kb: u64,
    kb_used: u64,
    kb_avail: u64,
    num_objects: u64,
}

/// `rados_object_list_item`.
#[repr(C)]
struct ListItem {
    oid_length: usize,
    oid: *mut c_char,
    nspace_length: usize,
    nspace: *mut c_char,
    locator_length: usize,
    locator: *mut c_char,
}

macro_rules! functions {
    ($($name:ident($($type:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of the library, as they were found in it.
        struct Functions {
            $($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl Functions {
            /// Looks all of them up in an open library.
            fn find(library: Handle) -> Result<Functions, String> {
                $(
                    let name = concat!(stringify!($name), "\0");
                    // SAFETY: the library is open, and the name ends with a NUL.
                    let $name = unsafe { libc::dlsym(library, name.as_ptr().cast()) };
                    if $name.is_null() {
                        return Err(format!("it has no {}", stringify!($name)));
                    }
                )*
                // SAFETY: a symbol of this name has this type in every release of the library since Pacific.
                Ok(unsafe { Functions { $($name: std::mem::transmute::<Handle, unsafe extern "C" fn($($type),*) $(-> $result)?>($name),)* } })
            }
        }
    };
}

functions! {
    rados_create2(*mut Handle, *const c_char, *const c_char, u64) -> c_int;
    rados_conf_read_file(Handle, *const c_char) -> c_int;
    rados_conf_set(Handle, *const c_char, *const c_char) -> c_int;
    rados_connect(Handle) -> c_int;
    rados_shutdown(Handle);
    rados_get_instance_id(Handle) -> u64;
    rados_getaddrs(Handle, *mut *mut c_char) -> c_int;
    rados_buffer_free(*mut c_char);
    rados_cluster_stat(Handle, *mut ClusterStat) -> c_int;
    rados_mon_command(Handle, *const *const c_char, usize, *const c_char, usize, *mut *mut c_char, *mut usize, *mut *mut c_char, *mut usize) -> c_int;
    rados_blocklist_add(Handle, *mut c_char, u32) -> c_int;
    rados_wait_for_latest_osdmap(Handle) -> c_int;
    rados_watch_flush(Handle) -> c_int;
    rados_ioctx_create(Handle, *const c_char, *mut Handle) -> c_int;
    rados_ioctx_destroy(Handle);
    rados_ioctx_set_namespace(Handle, *const c_char);
    rados_create_write_op() -> Handle;
    rados_release_write_op(Handle);
    rados_write_op_operate(Handle, Handle, *const c_char, *mut libc::time_t, c_int) -> c_int;
    rados_aio_write_op_operate(Handle, Handle, Handle, *const c_char, *mut libc::time_t, c_int) -> c_int;
    rados_write_op_assert_exists(Handle);
    rados_write_op_create(Handle, c_int, *const c_char);
    rados_write_op_write(Handle, *const c_char, usize, u64);
    rados_write_op_zero(Handle, u64, u64);
    rados_write_op_truncate(Handle, u64);
    rados_write_op_remove(Handle);
    rados_write_op_omap_cmp2(Handle, *const c_char, u8, *const c_char, usize, usize, *mut c_int);
    rados_write_op_omap_set2(Handle, *const *const c_char, *const *const c_char, *const usize, *const usize, usize);
    rados_write_op_omap_rm_keys2(Handle, *const *const c_char, *const usize, usize);
    rados_write_op_exec(Handle, *const c_char, *const c_char, *const c_char, usize, *mut c_int);
    rados_create_read_op() -> Handle;
    rados_release_read_op(Handle);
    rados_read_op_operate(Handle, Handle, *const c_char, c_int) -> c_int;
    rados_aio_read_op_operate(Handle, Handle, Handle, *const c_char, c_int) -> c_int;
    rados_read_op_read(Handle, u64, usize, *mut c_char, *mut usize, *mut c_int);
    rados_read_op_stat(Handle, *mut u64, *mut libc::time_t, *mut c_int);
    rados_read_op_omap_get_vals2(Handle, *const c_char, *const c_char, u64, *mut Handle, *mut u8, *mut c_int);
    rados_read_op_omap_get_vals_by_keys2(Handle, *const *const c_char, usize, *const usize, *mut Handle, *mut c_int);
    rados_omap_get_next2(Handle, *mut *mut c_char, *mut *mut c_char, *mut usize, *mut usize) -> c_int;
    rados_omap_get_end(Handle);
    rados_aio_create_completion2(*mut c_void, *const c_void, *mut Handle) -> c_int;
    rados_aio_wait_for_complete(Handle) -> c_int;
    rados_aio_get_return_value(Handle) -> c_int;
    rados_aio_release(Handle);
    rados_lock_exclusive(Handle, *const c_char, *const c_char, *const c_char, *const c_char, *mut libc::timeval, u8) -> c_int;
    rados_lock_shared(Handle, *const c_char, *const c_char, *const c_char, *const c_char, *const c_char, *mut libc::timeval, u8) -> c_int;
    rados_unlock(Handle, *const c_char, *const c_char, *const c_char) -> c_int;
    rados_break_lock(Handle, *const c_char, *const c_char, *const c_char, *const c_char) -> c_int;
    rados_list_lockers(Handle, *const c_char, *const c_char, *mut c_int, *mut c_char, *mut usize, *mut c_char, *mut usize, *mut c_char, *mut usize, *mut c_char, *mut usize) -> isize;
    rados_watch3(Handle, *const c_char, *mut u64, OnNotify, OnLost, u32, *mut c_void) -> c_int;
    rados_watch_check(Handle, u64) -> c_int;
    rados_unwatch2(Handle, u64) -> c_int;
    rados_notify2(Handle, *const c_char, *const c_char, c_int, u64, *mut *mut c_char, *mut usize) -> c_int;
    rados_notify_ack(Handle, *const c_char, u64, u64, *const c_char, c_int) -> c_int;
    rados_object_list_begin(Handle) -> Handle;
    rados_object_list_end(Handle) -> Handle;
    rados_object_list_slice(Handle, Handle, Handle, usize, usize, *mut Handle, *mut Handle);
    rados_object_list(Handle, Handle, Handle, usize, *const c_char, usize, *mut ListItem, *mut Handle) -> c_int;
    rados_object_list_free(usize, *mut ListItem);
    rados_object_list_cursor_free(Handle, Handle);
}

/// The library; it is loaded once and never unloaded, for it has threads.
fn functions() -> Result<&'static Functions, String> {
    static LOADED: OnceLock<Result<Functions, String>> = OnceLock::new();
    let load = || {
        // SAFETY: the name ends with a NUL; the library is one that does not expect anything of who loads it.
        let library = unsafe { libc::dlopen(c"librados.so.2".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            // SAFETY: after a call that failed there is a message, which lives until the next call of this thread.
            let message = unsafe { libc::dlerror() };
            if message.is_null() {
                return Err("it cannot be loaded".to_string());
            }
            // SAFETY: it is a C string.
            return Err(unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned());
        }
        Functions::find(library)
    };
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn outcome(code: c_int) -> Outcome<()> {
    if code < 0 { Err(Errno(-code)) } else { Ok(()) }
}

/// Text of the store's own making, which has no NUL in it; what has one names nothing.
fn text(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

/// A holder of a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Locker {
    /// As the cluster calls it: `client.4711`.
    pub client: String,
    /// What it gave with the lock.
    pub cookie: String,
    /// By which it is fenced.
    pub address: String,
}

/// What the holders of an object's lock are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Lockers {
    pub exclusive: bool,
    pub all: Vec<Locker>,
}

/// What is told of notifications. Called in threads of the library, in which no other call of it may be waited for.
pub(super) trait Listener: Send + Sync {
    /// Somebody notifies. What it returns is the answer; `None` if [`Pool::answer`] gives it later.
    fn notified(&self, notification: Notification, message: &[u8]) -> Option<Vec<u8>>;
}

/// One notification, to be answered once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notification {
    id: u64,
    watch: u64,
}

/// A watch, until it is dropped.
pub(super) struct Watch {
    pool: Arc<Pool>,
    cookie: u64,
    seat: *mut Seat,
}

/// What a callback gets.
struct Seat {
    pool: std::sync::Weak<Pool>,
    object: String,
    listener: Arc<dyn Listener>,
}

// SAFETY: the seat is only read while the watch lives, and its parts may be used by any thread.
unsafe impl Send for Watch {}
// SAFETY: as above.
unsafe impl Sync for Watch {}

unsafe extern "C" fn on_notify(seat: *mut c_void, id: u64, watch: u64, _: u64, data: *mut c_void, len: usize) {
    // SAFETY: the pointer is that which was given with the watch, and what it points to lives until no callback runs any more.
    let seat = unsafe { &*seat.cast::<Seat>() };
    let message = match len {
        0 => &[][..],
        // SAFETY: the library gives `len` bytes that live as long as the call.
        _ => unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) },
    };
    let notification = Notification { id, watch };
    let answer =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| seat.listener.notified(notification, message)));
    if let (Ok(Some(answer)), Some(pool)) = (answer, seat.pool.upgrade()) {
        pool.answer(&seat.object, notification, &answer);
        pool.leave_to_others();
    }
}

unsafe extern "C" fn on_lost(_: *mut c_void, _: u64, _: c_int) {
    // Whoever keeps the watch asks about it regularly.
}

impl Drop for Watch {
    fn drop(&mut self) {
        let f = self.pool.f;
        // SAFETY: the pool is open. After a flush no callback of this watch runs or will, so the seat is nobody's any more.
        unsafe {
            (f.rados_unwatch2)(self.pool.io, self.cookie);
            (f.rados_watch_flush)(self.pool.cluster);
            drop(Box::from_raw(self.seat));
        }
    }
}

impl Watch {
    /// Whether the cluster confirmed it lately.
    pub(super) fn stands(&self) -> bool {
        // SAFETY: the pool is open, and the cookie is that of a watch on it.
        unsafe { (self.pool.f.rados_watch_check)(self.pool.io, self.cookie) >= 0 }
    }
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

    /// A change of one object, of several parts that are done together or not at all.
    pub(super) fn change(&self) -> Change<'_> {
        // SAFETY: has no arguments.
        Change { pool: self, op: unsafe { (self.f.rados_create_write_op)() } }
    }

    /// Does changes of different objects at the same time; the first error if any of them fails, after all have ended.
    pub(super) fn change_all<'a>(&'a self, changes: impl Iterator<Item = (String, Change<'a>)>) -> Vec<Outcome<()>> {
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

    /// Fills buffers from objects at the same time: each is an object, an offset and the buffers. Returns for each how many bytes
    /// there were.
    pub(super) fn read_all(&self, parts: &mut [(String, u64, &mut [IoSliceMut<'_>])]) -> Vec<Outcome<usize>> {
        let mut results = Vec::with_capacity(parts.len());
        for some in parts.chunks_mut(WINDOW) {
            let mut begun: Vec<_> =
                some.iter_mut().map(|(object, offset, bufs)| self.begin_read(object, *offset, bufs)).collect();
            results.extend(begun.iter_mut().map(|read| match read {
                Ok(read) => read.end(),
                Err(errno) => Err(*errno),
            }));
        }
        results
    }

    /// Fills buffers from an object, from `offset` on; returns how many bytes there were.
    pub(super) fn read(&self, object: &str, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Outcome<usize> {
        self.begin_read(object, offset, bufs)?.end()
    }

    fn begin_read<'a>(
        &'a self,
        object: &str,
        offset: u64,
        bufs: &'a mut [IoSliceMut<'_>],
    ) -> Outcome<ReadUnderWay<'a>> {
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        // As many as there are places to scatter to.
        let mut gathered = if bufs.len() > MAX_BUFFERS { vec![0u8; total] } else { Vec::new() };
        let mut places: Vec<(*mut u8, usize)> = match gathered.is_empty() {
            false => vec![(gathered.as_mut_ptr(), total)],
            true => bufs.iter_mut().filter(|b| !b.is_empty()).map(|b| (b.as_mut_ptr(), b.len())).collect(),
        };
        let mut got: Vec<(usize, c_int)> = vec![(0, 0); places.len()];
        // SAFETY: has no arguments.
        let op = unsafe { (self.f.rados_create_read_op)() };
        let mut at = offset;
        for ((place, len), (bytes, code)) in places.iter_mut().zip(&mut got) {
            // SAFETY: the buffer, and the places for the answers, live until the read has ended: `ReadUnderWay` holds the one
            // borrowed and owns the others, on the heap, and waits for the end before it goes.
            unsafe { (self.f.rados_read_op_read)(op, at, *len, place.cast(), bytes, code) };
            at += *len as u64;
        }
        let object = text(object);
        let running = Running::start(self, |completion| {
            // SAFETY: the operation and the completion are ours.
            unsafe { (self.f.rados_aio_read_op_operate)(op, self.io, completion, object.as_ptr(), 0) }
        });
        // A failed start has begun nothing.
        let running = running.inspect_err(|_| {
            // SAFETY: it is ours, and nobody uses it.
            unsafe { (self.f.rados_release_read_op)(op) }
        })?;
        Ok(ReadUnderWay {
            running: Some(running),
            pool: self,
            op,
            got,
            gathered,
            bufs_base: bufs_of(bufs),
            _bufs: std::marker::PhantomData,
        })
    }

    /// Lengths of objects, asked at the same time; `None` for one that does not exist.
    pub(super) fn lengths(&self, objects: &[String]) -> Outcome<Vec<Option<u64>>> {
        let mut lengths = Vec::with_capacity(objects.len());
        for some in objects.chunks(WINDOW) {
            let mut places: Vec<(u64, libc::time_t, c_int)> = vec![(0, 0, 0); some.len()];
            let mut running = Vec::with_capacity(some.len());
            for (object, (len, time, code)) in some.iter().zip(&mut places) {
                // SAFETY: has no arguments.
                let op = unsafe { (self.f.rados_create_read_op)() };
                let object = text(object);
                let started = Running::start(self, |completion| {
                    // SAFETY: the places for the answers live until all that was started has ended, below.
                    unsafe {
                        (self.f.rados_read_op_stat)(op, len, time, code);
                        (self.f.rados_aio_read_op_operate)(op, self.io, completion, object.as_ptr(), 0)
                    }
                });
                running.push((started, op));
            }
            let mut failed = None;
            let mut found = Vec::with_capacity(some.len());
            for (started, op) in running {
                let result = started.and_then(Running::wait);
                // SAFETY: the operation has ended.
                unsafe { (self.f.rados_release_read_op)(op) };
                found.push(result);
            }
            for (result, (len, _, _)) in found.into_iter().zip(&places) {
                match result {
                    Ok(()) => lengths.push(Some(*len)),
                    Err(Errno(libc::ENOENT)) => lengths.push(None),
                    Err(errno) => failed = failed.or(Some(errno)),
                }
            }
            if let Some(errno) = failed {
                return Err(errno);
            }
        }
        Ok(lengths)
    }

    /// Length of an object.
    pub(super) fn length(&self, object: &str) -> Outcome<Option<u64>> {
        self.lengths(&[object.to_string()]).map(|found| found.first().copied().flatten())
    }

    /// Keys and values of an object that start with `prefix` and sort after `after`: at most `most` of them, and whether there may be
    /// more. None if the object does not exist.
    pub(super) fn page(&self, object: &str, prefix: &str, after: &str, most: u64) -> Outcome<Page> {
        self.pages(&[object.to_string()], prefix, after, most).map(|pages| pages.into_iter().next().unwrap_or_default())
    }

    /// The same of several objects at the same time.
    pub(super) fn pages(&self, objects: &[String], prefix: &str, after: &str, most: u64) -> Outcome<Vec<Page>> {
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
                // Also of what failed, for the iterator is there all the same.
                let entries = self.entries(iterator);
                match result.and(outcome(code)) {
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
    pub(super) fn entries_of(&self, object: &str, prefix: &str) -> Outcome<Vec<Entry>> {
        self.entries_of_all(&[object.to_string()], prefix)
    }

    /// The same of several objects.
    pub(super) fn entries_of_all(&self, objects: &[String], prefix: &str) -> Outcome<Vec<Entry>> {
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
    pub(super) fn values(&self, object: &str, keys: &[&str]) -> Outcome<Vec<Entry>> {
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
        let entries = self.entries(iterator);
        match outcome(result).and(outcome(code)) {
            Err(Errno(libc::ENOENT)) => Ok(Vec::new()),
            other => other.map(|()| entries),
        }
    }

    fn entries(&self, iterator: Handle) -> Vec<Entry> {
        let mut entries = Vec::new();
        if iterator.is_null() {
            return entries;
        }
        loop {
            let (mut key, mut value, mut key_len, mut value_len) = (null_mut(), null_mut(), 0, 0);
            // SAFETY: the iterator was made by an operation that has ended, and what it gives lives as long as it does.
            let entry = unsafe {
                (self.f.rados_omap_get_next2)(iterator, &mut key, &mut value, &mut key_len, &mut value_len);
                if key.is_null() {
                    break;
                }
                let key = std::slice::from_raw_parts(key.cast::<u8>(), key_len);
                let value = match value_len {
                    0 => Vec::new(),
                    len => std::slice::from_raw_parts(value.cast::<u8>(), len).to_vec(),
                };
                (String::from_utf8_lossy(key).into_owned(), value)
            };
            entries.push(entry);
        }
        // SAFETY: it is ours, and not used any more.
        unsafe { (self.f.rados_omap_get_end)(iterator) };
        entries
    }

    /// Takes the lock of an object, which is made if it does not exist. EBUSY if others are in the way.
    pub(super) fn lock(&self, object: &str, lock: &str, cookie: &str, exclusive: bool) -> Outcome<()> {
        let (object, lock, cookie) = (text(object), text(lock), text(cookie));
        let none = c"".as_ptr();
        // SAFETY: all strings end with NULs; no duration is given.
        outcome(unsafe {
            if exclusive {
                (self.f.rados_lock_exclusive)(
                    self.io,
                    object.as_ptr(),
                    lock.as_ptr(),
                    cookie.as_ptr(),
                    none,
                    null_mut(),
                    0,
                )
            } else {
                (self.f.rados_lock_shared)(
                    self.io,
                    object.as_ptr(),
                    lock.as_ptr(),
                    cookie.as_ptr(),
                    none,
                    none,
                    null_mut(),
                    0,
                )
            }
        })
    }

    /// Gives a lock back.
    pub(super) fn unlock(&self, object: &str, lock: &str, cookie: &str) -> Outcome<()> {
        // SAFETY: all strings end with NULs.
        outcome(unsafe {
            (self.f.rados_unlock)(self.io, text(object).as_ptr(), text(lock).as_ptr(), text(cookie).as_ptr())
        })
    }

    /// Takes a lock from somebody.
    pub(super) fn break_lock(&self, object: &str, lock: &str, holder: &Locker) -> Outcome<()> {
        // SAFETY: all strings end with NULs.
        outcome(unsafe {
            (self.f.rados_break_lock)(
                self.io,
                text(object).as_ptr(),
                text(lock).as_ptr(),
                text(&holder.client).as_ptr(),
                text(&holder.cookie).as_ptr(),
            )
        })
    }

    /// Who holds a lock.
    pub(super) fn lockers(&self, object: &str, lock: &str) -> Outcome<Lockers> {
        let mut room = 4096;
        loop {
            let (mut tag, mut clients, mut cookies, mut addresses) =
                (vec![0u8; 256], vec![0u8; room], vec![0u8; room], vec![0u8; room]);
            let (mut a, mut b, mut c, mut d) = (tag.len(), room, room, room);
            let mut exclusive = 0;
            // SAFETY: each buffer is as long as is said.
            let found = unsafe {
                (self.f.rados_list_lockers)(
                    self.io,
                    text(object).as_ptr(),
                    text(lock).as_ptr(),
                    &mut exclusive,
                    tag.as_mut_ptr().cast(),
                    &mut a,
                    clients.as_mut_ptr().cast(),
                    &mut b,
                    cookies.as_mut_ptr().cast(),
                    &mut c,
                    addresses.as_mut_ptr().cast(),
                    &mut d,
                )
            };
            match found {
                count if count >= 0 => {
                    let count = count as usize;
                    let strings = |bytes: &[u8]| -> Vec<String> {
                        bytes.split(|b| *b == 0).take(count).map(|s| String::from_utf8_lossy(s).into_owned()).collect()
                    };
                    let (clients, cookies, addresses) = (strings(&clients), strings(&cookies), strings(&addresses));
                    let all = clients.into_iter().zip(cookies).zip(addresses);
                    let all = all.map(|((client, cookie), address)| Locker { client, cookie, address }).collect();
                    return Ok(Lockers { exclusive: exclusive != 0, all });
                }
                code if code == -(libc::ENOENT as isize) => return Ok(Lockers::default()),
                code if code == -(libc::ERANGE as isize) && room < 16 << 20 => room *= 4,
                code => return Err(Errno(-code as i32)),
            }
        }
    }

    /// Watches an object, which exists. Who is not heard of for `seconds` does not watch any more.
    pub(super) fn watch(self: &Arc<Self>, object: &str, listener: Arc<dyn Listener>, seconds: u32) -> Outcome<Watch> {
        let seat = Box::new(Seat { pool: Arc::downgrade(self), object: object.to_string(), listener });
        let seat = Box::into_raw(seat);
        let mut cookie = 0;
        // SAFETY: the seat lives until no callback runs any more; see `Watch`.
        let code = unsafe {
            (self.f.rados_watch3)(self.io, text(object).as_ptr(), &mut cookie, on_notify, on_lost, seconds, seat.cast())
        };
        if let Err(errno) = outcome(code) {
            // SAFETY: the callbacks of a watch that was not made are not called.
            drop(unsafe { Box::from_raw(seat) });
            return Err(errno);
        }
        Ok(Watch { pool: self.clone(), cookie, seat })
    }

    /// Answers a notification.
    pub(super) fn answer(&self, object: &str, notification: Notification, answer: &[u8]) {
        let object = text(object);
        // SAFETY: the answer is as long as is said, and copied.
        unsafe {
            (self.f.rados_notify_ack)(
                self.io,
                object.as_ptr(),
                notification.id,
                notification.watch,
                answer.as_ptr().cast(),
                answer.len() as c_int,
            );
        }
    }

    /// Notifies all who watch an object, and waits for their answers: those that came. ETIMEDOUT if one did not come in time.
    pub(super) fn notify(&self, object: &str, message: &[u8], milliseconds: u64) -> Outcome<Vec<Vec<u8>>> {
        let (mut reply, mut len) = (null_mut(), 0);
        // SAFETY: the message is as long as is said, and the places for the answer are ours.
        let code = unsafe {
            (self.f.rados_notify2)(
                self.io,
                text(object).as_ptr(),
                message.as_ptr().cast(),
                message.len() as c_int,
                milliseconds,
                &mut reply,
                &mut len,
            )
        };
        let reply = self.take(reply, len);
        outcome(code)?;
        Ok(answers(&reply))
    }
}

/// Answers in what a notification returns: their number, and for each two numbers of 64 bits, a length and the bytes.
fn answers(mut reply: &[u8]) -> Vec<Vec<u8>> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (first, rest) = bytes.split_first_chunk::<N>()?;
        *bytes = rest;
        Some(*first)
    }
    let mut all = Vec::new();
    let count = take(&mut reply).map_or(0, u32::from_le_bytes);
    for _ in 0..count {
        let Some(_) = take::<16>(&mut reply) else { break };
        let Some(len) = take(&mut reply).map(|len| u32::from_le_bytes(len) as usize) else { break };
        let Some((answer, rest)) = reply.split_at_checked(len) else { break };
        all.push(answer.to_vec());
        reply = rest;
    }
    all
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

/// The buffers of a read, as places.
fn bufs_of(bufs: &mut [IoSliceMut<'_>]) -> Vec<(*mut u8, usize)> {
    bufs.iter_mut().map(|b| (b.as_mut_ptr(), b.len())).collect()
}

/// A read that was begun. It waits for its end before its buffers go.
struct ReadUnderWay<'a> {
    /// First, so that it is dropped, and so has ended, before the rest.
    running: Option<Running<'a>>,
    pool: &'a Pool,
    op: Handle,
    /// Bytes that came to each place, and its code.
    got: Vec<(usize, c_int)>,
    gathered: Vec<u8>,
    bufs_base: Vec<(*mut u8, usize)>,
    _bufs: std::marker::PhantomData<&'a mut [u8]>,
}

impl ReadUnderWay<'_> {
    fn end(&mut self) -> Outcome<usize> {
        self.running.take().map_or(Ok(()), Running::wait)?;
        let total = self.got.iter().map(|(bytes, _)| bytes).sum();
        let mut at = 0;
        if !self.gathered.is_empty() {
            for (place, len) in &self.bufs_base {
                let there = self.gathered.len().min(at + len).saturating_sub(at);
                // SAFETY: the place is one of the buffers that are borrowed mutably, and as long as `len`.
                unsafe { std::ptr::copy_nonoverlapping(self.gathered[at..].as_ptr(), *place, there) };
                at += len;
            }
        }
        Ok(total)
    }
}

impl Drop for ReadUnderWay<'_> {
    fn drop(&mut self) {
        self.running = None;
        // SAFETY: the operation is ours and has ended.
        unsafe { (self.pool.f.rados_release_read_op)(self.op) };
    }
}

/// See [`Pool::change`]. Its parts are done in the order in which they were named; all that it is given is copied.
pub(super) struct Change<'a> {
    pool: &'a Pool,
    op: Handle,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { (self.pool.f.rados_release_write_op)(self.op) };
    }
}

impl Change<'_> {
    /// ENOENT unless the object exists.
    pub(super) fn assert_exists(self) -> Self {
        // SAFETY: the operation is ours.
        unsafe { (self.pool.f.rados_write_op_assert_exists)(self.op) };
        self
    }

    /// Makes the object; EEXIST if it is there and `exclusive`.
    pub(super) fn create(self, exclusive: bool) -> Self {
        // SAFETY: the operation is ours, and no category is given.
        unsafe { (self.pool.f.rados_write_op_create)(self.op, c_int::from(exclusive), null()) };
        self
    }

    /// Writes at an offset.
    pub(super) fn write(self, bufs: &[IoSlice<'_>], offset: u64) -> Self {
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
    pub(super) fn zero(self, offset: u64, len: u64) -> Self {
        // SAFETY: the operation is ours.
        unsafe { (self.pool.f.rados_write_op_zero)(self.op, offset, len) };
        self
    }

    /// Sets the length.
    pub(super) fn truncate(self, len: u64) -> Self {
        // SAFETY: the operation is ours.
        unsafe { (self.pool.f.rados_write_op_truncate)(self.op, len) };
        self
    }

    /// Removes the object.
    pub(super) fn remove(self) -> Self {
        // SAFETY: the operation is ours.
        unsafe { (self.pool.f.rados_write_op_remove)(self.op) };
        self
    }

    /// ECANCELED unless the key has this value; one that is not there has the empty value.
    pub(super) fn assert_value(self, key: &str, value: &[u8]) -> Self {
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
    pub(super) fn set(self, entries: &[(&str, &[u8])]) -> Self {
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
    pub(super) fn unset(self, keys: &[&str]) -> Self {
        let pointers: Vec<*const c_char> = keys.iter().map(|key| key.as_ptr().cast()).collect();
        let lens: Vec<usize> = keys.iter().map(|key| key.len()).collect();
        // SAFETY: as many as is said, as long as is said, and copied.
        unsafe {
            (self.pool.f.rados_write_op_omap_rm_keys2)(self.op, pointers.as_ptr(), lens.as_ptr(), keys.len());
        }
        self
    }

    /// EBUSY unless this connection holds the lock exclusively, with this cookie.
    pub(super) fn assert_locked(self, lock: &str, cookie: &str) -> Self {
        let input = locked(lock, cookie);
        // SAFETY: the names end with NULs, and the input is as long as is said, and copied.
        unsafe {
            (self.pool.f.rados_write_op_exec)(
                self.op,
                c"lock".as_ptr(),
                c"assert_locked".as_ptr(),
                input.as_ptr().cast(),
                input.len(),
                null_mut(),
            );
        }
        self
    }

    /// Does it, and waits until all replicas have it.
    pub(super) fn apply(self, object: &str) -> Outcome<()> {
        // SAFETY: the operation is ours, and the string ends with a NUL; no time is given.
        outcome(unsafe {
            (self.pool.f.rados_write_op_operate)(self.op, self.pool.io, text(object).as_ptr(), null_mut(), FULL_TRY)
        })
    }
}

/// What Ceph's class `lock` takes for `assert_locked`: a structure of version 1 with the lock, its type (1: exclusive), cookie and tag.
fn locked(lock: &str, cookie: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let string = |body: &mut Vec<u8>, text: &str| {
        body.extend((text.len() as u32).to_le_bytes());
        body.extend(text.as_bytes());
    };
    string(&mut body, lock);
    body.push(1);
    string(&mut body, cookie);
    string(&mut body, "");
    let mut input = vec![1, 1];
    input.extend((body.len() as u32).to_le_bytes());
    input.extend(body);
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_a_notification_are_read_as_far_as_they_go() {
        let mut reply = 2u32.to_le_bytes().to_vec();
        for answer in ["one", "other"] {
            reply.extend([7; 16]);
            reply.extend((answer.len() as u32).to_le_bytes());
            reply.extend(answer.as_bytes());
        }
        assert_eq!(answers(&reply), [b"one".to_vec(), b"other".to_vec()]);
        for len in 0..reply.len() {
            assert!(answers(&reply[..len]).len() < 2);
        }
    }

    #[test]
    fn what_the_class_lock_is_asked_is_as_it_encodes_it() {
        let wanted = b"\x01\x01\x11\0\0\0\x01\0\0\0a\x01\x03\0\0\0xyz\0\0\0\0";
        assert_eq!(locked("a", "xyz"), wanted);
    }
}
