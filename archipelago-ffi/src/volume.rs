//! Open volumes: requests of a thread that waits for them.

use std::ffi::{c_char, c_int, c_void};

use archipelago_core::{Mode, Volume, WriteFlags};

use crate::arguments::{Filled, bytes, bytes_mut, put, required, text, with_parts, with_parts_mut};
use crate::catalog::archip_info;
use crate::error::call;
use crate::handle;
use crate::limits::MAX_EXTENTS;
use crate::store::{OpenStore, archip_store};

/// An open volume or snapshot, named by a handle: see `archip_volume_open`.
pub type archip_volume = u64;

/// A volume as a handle leads to it.
pub struct OpenVolume {
    /// The engine's.
    pub volume: Volume,
}

/// `archip_volume_open`: only reading. Snapshots can only be opened so.
pub const ARCHIP_OPEN_READ_ONLY: u32 = 1;
/// Flag of writes and write-zeroes: durable when it returns, and everything that returned before it was called.
pub const ARCHIP_FUA: u32 = 1;
/// Flag of write-zeroes: keep room for the range.
pub const ARCHIP_ALLOCATE: u32 = 2;
/// Bytes of one request.
pub const ARCHIP_MAX_REQUEST: u64 = 67108864;
/// Parts of one request.
pub const ARCHIP_MAX_PARTS: usize = 1024;
const _: () = assert!(ARCHIP_MAX_REQUEST == archipelago_core::limits::MAX_REQUEST);
const _: () = assert!(ARCHIP_MAX_PARTS == crate::limits::MAX_PARTS);

/// A range with or without data.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct archip_extent {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// `ARCHIP_EXTENT_ZERO` or 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

/// `archip_extent.flags`: known to read as zeros, and takes no room.
pub const ARCHIP_EXTENT_ZERO: u32 = 1;

/// Opens a volume or snapshot. `flags` is 0, for reading and writing, which one process at a time may do (`EBUSY`), or `ARCHIP_OPEN_READ_ONLY`.
///
/// # Safety
///
/// `name` is null (`EINVAL`) or ends with NUL; `volume` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_volume_open(
    store: archip_store,
    name: *const c_char,
    flags: u32,
    volume: *mut archip_volume,
) -> c_int {
    call(|| {
        let store = handle::find::<OpenStore>(store)?;
        // SAFETY: by contract.
        let name = unsafe { text(name, "name")? };
        required(volume, "volume")?;
        crate::arguments::flags(flags, ARCHIP_OPEN_READ_ONLY)?;
        let mode = if flags & ARCHIP_OPEN_READ_ONLY != 0 { Mode::ReadOnly } else { Mode::ReadWrite };
        let opened = handle::make(OpenVolume { volume: store.store.open_volume(name, mode)? })?;
        // SAFETY: by contract, and not null.
        unsafe { put(volume, "volume", opened) }
    })
}

/// Flushes a volume if it is open for writing, and closes it. Waits for calls and submitted operations that use it. The handle is
/// gone, whatever is returned.
#[unsafe(no_mangle)]
pub extern "C" fn archip_volume_close(volume: archip_volume) -> c_int {
    call(|| {
        let closed = handle::close::<OpenVolume>(volume)?;
        if closed.volume.read_only() { Ok(()) } else { Ok(closed.volume.flush()?) }
    })
}

/// Gives facts about an open volume.
///
/// # Safety
///
/// `info` is null (`EINVAL`) or as large as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_volume_info(volume: archip_volume, info: *mut archip_info) -> c_int {
    call(|| {
        let volume = handle::find::<OpenVolume>(volume)?;
        // SAFETY: by contract.
        let mut filled = unsafe { Filled::new(info)? };
        let info = archip_info::new(&volume.volume.info()?);
        // SAFETY: by contract.
        unsafe { filled.put(&info) };
        Ok(())
    })
}

/// Gives the size of an open volume in bytes, as it is now.
///
/// # Safety
///
/// `volume_size` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_volume_size(volume: archip_volume, volume_size: *mut u64) -> c_int {
    call(|| {
        let volume = handle::find::<OpenVolume>(volume)?;
        // SAFETY: by contract.
        unsafe { put(volume_size, "volume_size", volume.volume.size()) }
    })
}

/// Fills `buffer` with the `length` bytes at `offset`.
///
/// # Safety
///
/// `buffer` can be written for `length` bytes; it may be null if that is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_pread(volume: archip_volume, buffer: *mut c_void, length: usize, offset: u64) -> c_int {
    call(|| {
        let volume = handle::find::<OpenVolume>(volume)?;
        // SAFETY: by contract.
        Ok(volume.volume.read_at(unsafe { bytes_mut(buffer, length)? }, offset)?)
    })
}

/// Fills the `count` buffers of `iov`, one after the other, with the bytes at `offset`.
///
/// # Safety
///
/// `iov` has `count` elements, aligned, each of which can be written for its length; no two of them overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_preadv(
    volume: archip_volume,
    iov: *const libc::iovec,
    count: usize,
    offset: u64,
) -> c_int {
    call(|| {
        let volume = handle::find::<OpenVolume>(volume)?;
        // SAFETY: by contract.
        unsafe { with_parts_mut(iov, count, |parts| Ok(volume.volume.read(parts, offset)?)) }
    })
}

/// The engine's flags of a write.
#[inline]
pub fn write_flags(flags: u32) -> WriteFlags {
    WriteFlags { fua: flags & ARCHIP_FUA != 0 }
}

/// Writes the `length` bytes of `buffer` at `offset`. `flags` is 0 or `ARCHIP_FUA`. Durable after the next flush, or with `ARCHIP_FUA`
/// when it returns.
///
/// # Safety
///
/// `buffer` can be read for `length` bytes; it may be null if that is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_pwrite(
    volume: archip_volume,
    buffer: *const c_void,
    length: usize,
    offset: u64,
    flags: u32,
) -> c_int {
    call(|| {
        let volume = handle::find::<OpenVolume>(volume)?;
        crate::arguments::flags(flags, ARCHIP_FUA)?;
        // SAFETY: by contract.
        let buffer = std::io::IoSlice::new(unsafe { bytes(buffer, length)? });
        Ok(volume.volume.write(&[buffer], offset, write_flags(flags))?)
    })
}

/// Writes the `count` buffers of `iov`, one after the other, at `offset`. `flags` as for `archip_pwrite`.
///
/// # Safety
///
/// `iov` has `count` elements, aligned, each of which can be read for its length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_pwritev(
    volume: archip_volume,
    iov: *const libc::iovec,
    count: usize,
    offset: u64,
    flags: u32,
) -> c_int {
    call(|| {
        let volume = handle::find::<OpenVolume>(volume)?;
        crate::arguments::flags(flags, ARCHIP_FUA)?;
        // SAFETY: by contract.
        unsafe { with_parts(iov, count, |parts| Ok(volume.volume.write(parts, offset, write_flags(flags))?)) }
    })
}

/// Makes every write that returned before this call durable.
#[unsafe(no_mangle)]
pub extern "C" fn archip_flush(volume: archip_volume) -> c_int {
    call(|| Ok(handle::find::<OpenVolume>(volume)?.volume.flush()?))
}

/// Frees the room of the whole sectors of 4096 bytes inside the range, which read as zeros from then on; the rest of the range is left as it is.
/// `flags` is 0.
#[unsafe(no_mangle)]
pub extern "C" fn archip_discard(volume: archip_volume, offset: u64, length: u64, flags: u32) -> c_int {
    call(|| {
        let volume = handle::find::<OpenVolume>(volume)?;
        crate::arguments::flags(flags, 0)?;
        Ok(volume.volume.discard(offset, length)?)
    })
}

/// Makes the range read as zeros, whole volumes too. `flags` is any of `ARCHIP_FUA` and `ARCHIP_ALLOCATE`.
#[unsafe(no_mangle)]
pub extern "C" fn archip_write_zeroes(volume: archip_volume, offset: u64, length: u64, flags: u32) -> c_int {
    call(|| {
        let volume = handle::find::<OpenVolume>(volume)?;
        crate::arguments::flags(flags, ARCHIP_FUA | ARCHIP_ALLOCATE)?;
        Ok(volume.volume.write_zeroes(offset, length, flags & ARCHIP_ALLOCATE != 0, write_flags(flags))?)
    })
}

/// Gives the ranges of `offset` to `offset + length` in order, neighbours of the same kind joined: fills at most `capacity` (1 to 65,536; more are
/// taken as that) of `extents`, and gives how many. They may end before the range does; go on behind the last one.
///
/// # Safety
///
/// `extents` has room for `capacity` elements; `count` is null (`EINVAL`) or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn archip_extents(
    volume: archip_volume,
    offset: u64,
    length: u64,
    extents: *mut archip_extent,
    capacity: usize,
    count: *mut usize,
) -> c_int {
    call(|| {
        let volume = handle::find::<OpenVolume>(volume)?;
        let most = capacity.min(MAX_EXTENTS);
        required(extents, "extents")?;
        required(count, "count")?;
        if most == 0 {
            return Err(crate::error::Error::Invalid("capacity: there is room for no extent".into()));
        }
        let found = volume.volume.extents(offset, length, most)?;
        for (index, extent) in found.iter().take(most).enumerate() {
            let flags = if extent.zero { ARCHIP_EXTENT_ZERO } else { 0 };
            let extent = archip_extent { offset: extent.offset, length: extent.len, flags, reserved: 0 };
            // SAFETY: by contract, `index` is below `capacity`.
            unsafe { extents.add(index).write_unaligned(extent) };
        }
        // SAFETY: by contract, and not null.
        unsafe { put(count, "count", found.len().min(most)) }
    })
}
