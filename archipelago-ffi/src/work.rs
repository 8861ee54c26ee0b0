//! Long work: hashing, checking, scrubbing, collecting, compacting, sending and receiving, each of which tells a callback how far it is.

use std::ffi::{c_char, c_int, c_void};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::mem::ManuallyDrop;
use std::ops::ControlFlow;
use std::os::fd::FromRawFd;

use archipelago_core::store::content::HashOptions;
use archipelago_core::{
    CheckOptions, CollectOptions, CollectPhase, CompactOptions, Rate, ScrubOptions, SendOptions, Store,
};

use crate::arguments::{field, flags, growing, optional_text, put, required, take, text};
use crate::error::{Error, Result, call};
use crate::handle;
use crate::store::{OpenStore, archip_store, reserved};
use crate::text::{Text, archip_text};
use crate::volume::{OpenVolume, archip_volume};

/// How far long work is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_progress {
    /// `sizeof` this struct as the library knows it.
    pub size: usize,
    /// Of a collection: 0 lists, 1 waits for others, 2 walks the maps, 3 removes. 0 for other work.
    pub phase: u32,
    /// 0.
    pub reserved: u32,
    /// Done so far: blocks hashed or compacted, maps checked (bytes, if data is), bytes scrubbed, parts of the phase of a collection,
    /// position in the snapshot sent or received.
    pub done: u64,
    /// The whole, as far as is known; 0 if it is not.
    pub total: u64,
}

/// Is told how far long work is, in the thread of the call. Anything but 0 ends the call with `ECANCELED`.
pub type archip_progress_callback =
    Option<unsafe extern "C" fn(user_data: *mut c_void, progress: *const archip_progress) -> c_int>;

/// How long work is done.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_work {
    /// `sizeof` this struct.
    pub size: usize,
    /// Those of the call: `ARCHIP_CHECK_...`, `ARCHIP_COLLECT_...`.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// Most bytes read or copied per second, on average. 0: no limit.
    pub rate: u64,
    /// Is told how far it is; null: nobody is.
    pub progress: archip_progress_callback,
    /// First argument of `progress`.
    pub user_data: *mut c_void,
}

growing!(archip_progress: 32, archip_work: 40);

/// `archip_check`: put right what can be put right without inventing data.
pub const ARCHIP_CHECK_REPAIR: u32 = 1;
/// `archip_check`: read all data too, and compare it with its checksums and digests.
pub const ARCHIP_CHECK_DATA: u32 = 2;
/// `archip_collect`: only say what would be collected.
pub const ARCHIP_COLLECT_DRY_RUN: u32 = 1;
/// Bytes of the field for a digest: 64 hexadecimal digits and NUL.
pub const ARCHIP_DIGEST_SIZE: usize = 65;

/// The callback of a call, and whether it ended it.
struct Watch {
    work: archip_work,
    /// What the call uses.
    handle: u64,
    ended: bool,
}

impl Watch {
    /// # Safety
    ///
    /// `work` is null or as large as it says, and its callback may be called with its user data.
    unsafe fn new(work: *const archip_work, known_flags: u32, handle: u64) -> Result<Watch> {
        // SAFETY: by contract.
        let work = unsafe { take(work)? };
        flags(work.flags, known_flags)?;
        reserved(work.reserved)?;
        Ok(Watch { work, handle, ended: false })
    }

    /// Whether a flag is set.
    fn has(&self, flag: u32) -> bool {
        self.work.flags & flag != 0
    }

    /// The limit of bytes per second, if there is one.
    fn rate(&self) -> Option<u64> {
        (self.work.rate != 0).then_some(self.work.rate)
    }

    /// Tells the callback; whether to go on.
    fn tell(&mut self, phase: u32, done: u64, total: u64) -> bool {
        if self.ended {
            return false;
        }
        if let Some(callback) = self.work.progress {
            let progress = archip_progress { size: size_of::<archip_progress>(), phase, reserved: 0, done, total };
            // SAFETY: the caller of the C function promised so.
            self.ended = handle::in_callback(self.handle, || unsafe { callback(self.work.user_data, &progress) }) != 0;
        }
        !self.ended
    }

    /// The same, for work that is ended by an error; `end` makes of it what C is told.
    fn tell_or_fail(&mut self, done: u64, total: u64) -> archipelago_core::Result<()> {
        if self.tell(0, done, total) { Ok(()) } else { Err(archipelago_core::Error::Unsupported("ended".into())) }
    }

    /// What came of the work, unless the callback ended it.
    fn end<T>(&self, result: archipelago_core::Result<T>) -> Result<T> {
        if self.ended { Err(Error::Cancelled) } else { Ok(result?) }
    }
}

/// Gives every block of a snapshot a digest, in place, and puts the top hash, as Pithos has it for a file of the same bytes, at
/// `digest`: `ARCHIP_DIGEST_SIZE` bytes. What was hashed before the call was ended is passed over the next time. `work` may be null.
///
/// # Safety
///
/// `name` is null (`EINVAL`) or ends with NUL; `work` is null or as large as it says; `digest` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_hash(
    store: archip_store,
    name: *const c_char,
    work: *const archip_work,
    digest: *mut c_char,
) -> c_int {
    call(|| {
        let open = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let (name, mut watch) = unsafe { (text(name, "name")?, Watch::new(work, 0, store)?) };
        required(digest, "digest")?;
        let options = HashOptions { bytes_per_second: watch.rate() };
        let hashed = open.store.hash(name, &options, &mut |p| watch.tell(0, p.blocks, p.total));
        let top = watch.end(hashed)?.top_hash.ok_or(Error::Cancelled)?;
        // SAFETY: by contract, and not null.
        unsafe { put(digest.cast(), "digest", field::<ARCHIP_DIGEST_SIZE>(&top.to_string())) }
    })
}

/// Looks at everything in a store and gives a report as JSON: what is wrong, what is left over, what is lost. What is wrong with the store is
/// in the report, and no error. Flags: `ARCHIP_CHECK_REPAIR`, `ARCHIP_CHECK_DATA`. `work` may be null.
///
/// # Safety
///
/// `work` is null or as large as it says; `report` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_check(
    store: archip_store,
    work: *const archip_work,
    report: *mut archip_text,
) -> c_int {
    call(|| {
        let open = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let mut watch = unsafe { Watch::new(work, ARCHIP_CHECK_REPAIR | ARCHIP_CHECK_DATA, store)? };
        required(report, "report")?;
        let (repair, data) = (watch.has(ARCHIP_CHECK_REPAIR), watch.has(ARCHIP_CHECK_DATA));
        let options = CheckOptions { repair, data, rate: watch.rate(), ..CheckOptions::default() };
        let checked = open.store.check(&options, &mut |p| match data && p.data_total > 0 {
            true => watch.tell_or_fail(p.data, p.data_total),
            false => watch.tell_or_fail(p.maps, p.maps_total),
        });
        let checked = watch.end(checked)?;
        // SAFETY: by contract, and not null.
        unsafe { Text::give(&checked, report) }
    })
}

/// Reads all data of ended epochs and compares it with its checksums; what has none gets one. Gives a report as JSON. `work` may be null.
///
/// # Safety
///
/// `work` is null or as large as it says; `report` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_scrub(
    store: archip_store,
    work: *const archip_work,
    report: *mut archip_text,
) -> c_int {
    call(|| {
        let open = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let mut watch = unsafe { Watch::new(work, 0, store)? };
        required(report, "report")?;
        let options = ScrubOptions { rate: watch.rate(), ..ScrubOptions::default() };
        let scrubbed = open.store.scrub(&options, &mut |p| watch.tell(0, p.done, p.total));
        let scrubbed = watch.end(scrubbed)?;
        // SAFETY: by contract, and not null.
        unsafe { Text::give(&scrubbed, report) }
    })
}

/// Removes what no map names any more, and gives a report as JSON. Safe at any time, beside whatever other processes do; `EAGAIN`
/// while another collection runs. Flags: `ARCHIP_COLLECT_DRY_RUN`. `work` may be null.
///
/// # Safety
///
/// `work` is null or as large as it says; `report` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_collect(
    store: archip_store,
    work: *const archip_work,
    report: *mut archip_text,
) -> c_int {
    call(|| {
        let open = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let mut watch = unsafe { Watch::new(work, ARCHIP_COLLECT_DRY_RUN, store)? };
        required(report, "report")?;
        let rate = Rate { bytes: watch.rate(), ..Rate::default() };
        let dry_run = watch.has(ARCHIP_COLLECT_DRY_RUN);
        let options = CollectOptions { dry_run, rate, ..CollectOptions::default() };
        let collected = open.store.collect(&options, &mut |p| {
            let phase = match p.phase {
                CollectPhase::List => 0,
                CollectPhase::Wait => 1,
                CollectPhase::Mark => 2,
                CollectPhase::Sweep => 3,
            };
            watch.tell(phase, p.done, p.total)
        });
        let collected = watch.end(collected)?;
        // SAFETY: by contract, and not null.
        unsafe { Text::give(&collected, report) }
    })
}

/// Gathers the pieces of blocks of an open volume that lie in more than `max_extents` pieces, while it is in use. What was gathered is no
/// longer shared with snapshots. 0 takes every block that is not in one piece. `work` may be null.
///
/// # Safety
///
/// `work` is null or as large as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_compact(volume: archip_volume, max_extents: usize, work: *const archip_work) -> c_int {
    call(|| {
        let open = handle::find::<OpenVolume>(volume)?;
        // SAFETY: by contract.
        let mut watch = unsafe { Watch::new(work, 0, volume)? };
        let options = CompactOptions { max_extents, rate: watch.work.rate };
        let compacted = open.volume.compact(&options, &mut |report| match watch.tell(0, report.examined, 0) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        });
        watch.end(compacted).map(|_| ())
    })
}

/// A file of a descriptor that stays the caller's.
///
/// # Safety
///
/// Nobody closes `descriptor` while the answer lives.
unsafe fn borrowed(descriptor: c_int) -> Result<ManuallyDrop<File>> {
    // SAFETY: asks about a descriptor, whatever the number.
    if descriptor < 0 || unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 {
        return Err(Error::Invalid(format!("{descriptor}: is no open file descriptor")));
    }
    // SAFETY: it is open, by contract stays so, and is not closed here.
    Ok(ManuallyDrop::new(unsafe { File::from_raw_fd(descriptor) }))
}

/// The size of a map of that name.
fn size_of_map(store: &Store, name: &str) -> Result<u64> {
    Ok(store.info(name)?.size)
}

/// Writes a snapshot to a descriptor as a stream: whole, or only what differs from the snapshot `from`, which may be null. As with `write`, a
/// pipe that nobody reads raises SIGPIPE. `rate` does not count here. `work` may be null.
///
/// # Safety
///
/// `snapshot` is null (`EINVAL`) or ends with NUL; `from` is null or does; `work` is null or as large as it says; nobody closes `descriptor`
/// before the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_send(
    store: archip_store,
    snapshot: *const c_char,
    from: *const c_char,
    descriptor: c_int,
    work: *const archip_work,
) -> c_int {
    call(|| {
        let open = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let (snapshot, from) = unsafe { (text(snapshot, "snapshot")?, optional_text(from, "from")?) };
        // SAFETY: by contract.
        let (mut watch, file) = unsafe { (Watch::new(work, 0, store)?, borrowed(descriptor)?) };
        let size = size_of_map(&open.store, snapshot)?;
        let options = SendOptions { from: from.map(str::to_string), resume: None };
        let mut out = BufWriter::new(&*file);
        let sent = open.store.send(snapshot, &options, &mut out, &mut |at| watch.tell_or_fail(at, size));
        if sent.is_err() {
            // What is in the buffer is of no use without the rest, and must not be written where it may block.
            let _ = out.into_parts();
            return watch.end(sent).map(|_| ());
        }
        out.flush().map_err(|source| Error::System { op: "write to the descriptor", source })
    })
}

/// Receives a stream from a descriptor as the snapshot `name`, which appears when all of it is here and verified. Of a stream that is cut or
/// damaged, what was received is kept, as `name.receiving`. No byte behind the end of the stream is read. `rate` does not count here. `work` may be
/// null.
///
/// # Safety
///
/// `name` is null (`EINVAL`) or ends with NUL; `work` is null or as large as it says; nobody closes `descriptor` before the call
/// returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_receive(
    store: archip_store,
    name: *const c_char,
    descriptor: c_int,
    work: *const archip_work,
) -> c_int {
    call(|| {
        let open = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let name = unsafe { text(name, "name")? };
        // SAFETY: by contract.
        let (mut watch, file) = unsafe { (Watch::new(work, 0, store)?, borrowed(descriptor)?) };
        let received = open.store.receive(name, &mut &*file, &mut |at| watch.tell_or_fail(at, 0));
        watch.end(received).map(|_| ())
    })
}
