//! Queues for callers that keep many operations in flight: what C calls. How they are carried out is in [`ring`].
//!
//! The engine has a queue of its own, which owns the buffers of its operations. Here the caller does, so that nothing is copied.

use std::ffi::{c_int, c_void};
use std::time::Duration;

use crate::arguments::{
    bytes, bytes_mut, check_buffer, flags, growing, put, required, take, vector, with_parts, with_parts_mut,
};
use crate::error::{Error, Result, call};
use crate::handle::{self, Use};
use crate::limits::{DEFAULT_DEPTH, MAX_DEPTH, MAX_THREADS};
use crate::volume::{ARCHIP_ALLOCATE, ARCHIP_FUA, OpenVolume, archip_volume, write_flags};

pub mod ring;

use ring::{Ring, Work};

/// What the handle of a queue leads to.
pub type Queue = Ring<Request>;

/// A queue of operations, named by a handle: see `archip_queue_create`.
pub type archip_queue = u64;

/// How a queue is made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_queue_options {
    /// `sizeof` this struct.
    pub size: usize,
    /// Operations that may be submitted and not collected, 1 to 65,536. 0: 256.
    pub depth: u32,
    /// Threads that carry them out, 1 to 64. 0: as many as there are processors.
    pub threads: u32,
    /// `ARCHIP_QUEUE_INLINE`.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

growing!(archip_queue_options: 24);

/// `archip_queue_options.flags`: operations are carried out by the thread that submits them; `threads` is 0.
pub const ARCHIP_QUEUE_INLINE: u32 = 1;

/// `archip_request.operation`: as `archip_pread` or `archip_preadv`.
pub const ARCHIP_READ: u32 = 1;
/// `archip_request.operation`: as `archip_pwrite` or `archip_pwritev`.
pub const ARCHIP_WRITE: u32 = 2;
/// `archip_request.operation`: as `archip_flush`.
pub const ARCHIP_FLUSH: u32 = 3;
/// `archip_request.operation`: as `archip_discard`.
pub const ARCHIP_DISCARD: u32 = 4;
/// `archip_request.operation`: as `archip_write_zeroes`.
pub const ARCHIP_WRITE_ZEROES: u32 = 5;

/// An operation to be carried out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_request {
    /// What it is for; open for as long as the operation is in flight, and closing it waits.
    pub volume: archip_volume,
    /// `ARCHIP_READ` and so on.
    pub operation: u32,
    /// As for the function of the same name.
    pub flags: u32,
    /// First byte in the volume; 0 for a flush.
    pub offset: u64,
    /// Bytes; 0 for a flush, and where there is an `iov`.
    pub length: u64,
    /// Buffer of a read or write. Null with `iov`, and for the other operations.
    pub buffer: *mut c_void,
    /// Buffers of a read or write instead of `buffer`; the array too has to stay until the completion was collected.
    pub iov: *const libc::iovec,
    /// Elements of `iov`.
    pub iov_count: usize,
    /// Comes back with the completion.
    pub user_data: u64,
}

/// The end of an operation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct archip_completion {
    /// As in the request.
    pub user_data: u64,
    /// 0 or a negative errno. There is no message.
    pub result: i32,
    /// 0.
    pub reserved: u32,
}

/// An operation that was looked at, with its volume in use.
pub struct Request {
    volume: Use<OpenVolume>,
    request: archip_request,
}

// SAFETY: whoever submits it promises that its buffers stay, and are left alone, until its completion was collected; any thread may
// fill or read them until then. The rest is numbers and a use of a handle, which belongs to no thread.
unsafe impl Send for Request {}

impl Request {
    /// Looks at everything that can be wrong with a request before it is carried out.
    ///
    /// # Safety
    ///
    /// Its `iov` can be read for its number of elements, unless it is null.
    unsafe fn new(request: archip_request) -> Result<Request> {
        let known = match request.operation {
            ARCHIP_READ | ARCHIP_FLUSH | ARCHIP_DISCARD => 0,
            ARCHIP_WRITE => ARCHIP_FUA,
            ARCHIP_WRITE_ZEROES => ARCHIP_FUA | ARCHIP_ALLOCATE,
            other => return Err(Error::Invalid(format!("operation {other}: not known"))),
        };
        flags(request.flags, known)?;
        let moves = matches!(request.operation, ARCHIP_READ | ARCHIP_WRITE);
        if request.iov.is_null() && request.iov_count == 0 {
            if moves {
                check_buffer(request.buffer, usize::try_from(request.length).unwrap_or(usize::MAX))?;
            } else if !request.buffer.is_null() {
                return Err(Error::Invalid("a buffer for an operation that has none".into()));
            }
        } else {
            if !moves || !request.buffer.is_null() || request.length != 0 {
                return Err(Error::Invalid("iov: only for reads and writes, instead of buffer and length".into()));
            }
            // SAFETY: by contract.
            unsafe { vector(request.iov, request.iov_count)? };
        }
        if request.operation == ARCHIP_FLUSH && (request.offset, request.length) != (0, 0) {
            return Err(Error::Invalid("a flush has no range".into()));
        }
        Ok(Request { volume: handle::find(request.volume)?, request })
    }

    fn carry_out(&self) -> Result<()> {
        let (volume, r) = (&self.volume.volume, &self.request);
        let length = r.length as usize;
        match (r.operation, r.iov.is_null()) {
            // SAFETY: whoever submitted it promised that the buffers are there until its completion was collected.
            (ARCHIP_READ, true) => volume.read_at(unsafe { bytes_mut(r.buffer, length)? }, r.offset)?,
            // SAFETY: as above.
            (ARCHIP_READ, false) => unsafe {
                with_parts_mut(r.iov, r.iov_count, |parts| Ok(volume.read(parts, r.offset)?))?;
            },
            (ARCHIP_WRITE, true) => {
                // SAFETY: as above.
                let buffer = std::io::IoSlice::new(unsafe { bytes(r.buffer, length)? });
                volume.write(&[buffer], r.offset, write_flags(r.flags))?;
            }
            (ARCHIP_WRITE, false) => {
                // SAFETY: as above.
                unsafe {
                    with_parts(r.iov, r.iov_count, |parts| Ok(volume.write(parts, r.offset, write_flags(r.flags))?))?;
                }
            }
            (ARCHIP_FLUSH, _) => volume.flush()?,
            (ARCHIP_DISCARD, _) => volume.discard(r.offset, r.length)?,
            (ARCHIP_WRITE_ZEROES, _) => {
                volume.write_zeroes(r.offset, r.length, r.flags & ARCHIP_ALLOCATE != 0, write_flags(r.flags))?;
            }
            (other, _) => return Err(Error::Invalid(format!("operation {other}: not known"))),
        }
        Ok(())
    }
}

impl Work for Request {
    fn tag(&self) -> u64 {
        self.request.user_data
    }

    fn run(&self) -> i32 {
        self.carry_out().map_or_else(|error| -error.errno(), |()| 0)
    }

    fn failed_inside(&self) {
        self.volume.breaks();
    }
}

/// Makes a queue. `options` may be null.
///
/// # Safety
///
/// `options` is null or as large as it says; `queue` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_queue_create(options: *const archip_queue_options, queue: *mut archip_queue) -> c_int {
    call(|| {
        // SAFETY: by contract.
        let given = unsafe { take(options)? };
        required(queue, "queue")?;
        flags(given.flags, ARCHIP_QUEUE_INLINE)?;
        crate::store::reserved(given.reserved)?;
        handle::check_process()?;
        let inline = given.flags & ARCHIP_QUEUE_INLINE != 0;
        let depth = if given.depth == 0 { DEFAULT_DEPTH } else { given.depth };
        if depth > MAX_DEPTH || given.threads > MAX_THREADS || (inline && given.threads != 0) {
            let text = format!(
                "a queue of depth {depth} with {} threads; at most {MAX_DEPTH} and {MAX_THREADS}, and no \
                threads for an inline one",
                given.threads
            );
            return Err(Error::Invalid(text));
        }
        let threads = match (inline, given.threads) {
            (true, _) => 0,
            (false, 0) => std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS as usize),
            (false, n) => n as usize,
        };
        let made = handle::make(Queue::new(depth, threads)?)?;
        // SAFETY: by contract, and not null.
        unsafe { put(queue, "queue", made) }
    })
}

/// Carries out what was submitted, drops the completions that nobody collected, and closes a queue. Threads that wait in it get `ECANCELED`.
#[unsafe(no_mangle)]
pub extern "C" fn archip_queue_close(queue: archip_queue) -> c_int {
    call(|| handle::close::<Queue>(queue).map(drop))
}

/// Submits `count` requests in order, and gives how many were taken. If that is not all of them, the first that was not is why, and
/// what is returned is its error: `EAGAIN` if the queue has no room, `EINVAL` or `EBADF` if something is wrong with it.
///
/// # Safety
///
/// `requests` has `count` elements; the buffers of each can be read or written for their length, are there and left alone until its completion was
/// collected or the queue closed, and so is its array `iov`. `submitted` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_queue_submit(
    queue: archip_queue,
    requests: *const archip_request,
    count: usize,
    submitted: *mut usize,
) -> c_int {
    call(|| {
        let queue = handle::find::<Queue>(queue)?;
        required(submitted, "submitted")?;
        if count > 0 {
            required(requests, "requests")?;
        }
        let mut next = 0;
        let (taken, result) = queue.submit(count, &mut || {
            // SAFETY: by contract; called at most `count` times.
            let request = unsafe { requests.add(next).read_unaligned() };
            next += 1;
            // SAFETY: by contract.
            unsafe { Request::new(request) }
        });
        // SAFETY: by contract, and not null.
        unsafe { put(submitted, "submitted", taken)? };
        result
    })
}

/// Waits until at least `least` completions are there, moves at most `capacity` of them to `completions`, and gives how many.
/// `timeout` is in nanoseconds; 0 does not wait, and a negative one is none: waits for ever, also for operations that were not submitted yet.
/// When it is over there may be fewer than `least`, or none: that is no error. `least` is at most `capacity` and the depth of the queue.
///
/// # Safety
///
/// `completions` has room for `capacity` elements; it may be null if that is 0. `count` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_queue_wait(
    queue: archip_queue,
    completions: *mut archip_completion,
    capacity: usize,
    least: usize,
    timeout: i64,
    count: *mut usize,
) -> c_int {
    call(|| {
        let queue = handle::find::<Queue>(queue)?;
        required(count, "count")?;
        if capacity > 0 {
            required(completions, "completions")?;
        }
        if least > capacity || least > queue.depth() as usize {
            return Err(Error::Invalid(format!("least: {least} completions, more than the capacity or the depth")));
        }
        let timeout = u64::try_from(timeout).ok().map(Duration::from_nanos);
        let mut at = 0;
        queue.wait(capacity, least, timeout, &mut |completion| {
            // SAFETY: by contract; called at most `capacity` times.
            unsafe { completions.add(at).write_unaligned(completion) };
            at += 1;
        })?;
        // SAFETY: by contract, and not null.
        unsafe { put(count, "count", at) }
    })
}

/// Gives a descriptor that is readable as long as there are completions to collect. It is the queue's and closed with it: poll it, and do
/// nothing else with it.
///
/// # Safety
///
/// `descriptor` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_queue_eventfd(queue: archip_queue, descriptor: *mut c_int) -> c_int {
    call(|| {
        let queue = handle::find::<Queue>(queue)?;
        required(descriptor, "descriptor")?;
        // SAFETY: by contract, and not null.
        unsafe { put(descriptor, "descriptor", queue.eventfd()?) }
    })
}
