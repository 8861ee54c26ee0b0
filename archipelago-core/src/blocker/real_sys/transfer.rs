//! Reads and writes of an open file, however many calls they take.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};

use smallvec::SmallVec;

use crate::blocker::sys::Fd;
use crate::iov::{part, total};

/// Buffers that one `preadv` or `pwritev` takes (Linux: UIO_MAXIOV).
const IOV_MAX: usize = 1024;
/// Bytes that one call writes to a file system on a disk. The page cache takes in what one call brings as pages of that size together
/// (Linux: folios), and ext4 goes through all of a folio at each later write of some sectors in it: overwrites of 4 KiB were measured
/// at 38,000 a second where the file had been written by calls of 1 MiB, 137,000 at 256 KiB, 185,000 at 64 KiB and 266,000 at 32 KiB,
/// while writing by such calls was as fast as by longer ones, and a fifth slower from 16 KiB down.
const MAX_CALL: usize = 32 << 10;

/// Reads until `bufs` are full or the file ends; returns the bytes read.
#[inline]
pub(super) fn read(fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
    // The system takes one buffer faster than a list of one.
    if let [buf] = bufs {
        return read_one(fd, buf, offset);
    }
    // `IoSliceMut` is documented to be ABI compatible with `iovec`. The caller's list itself is never altered.
    let list = bufs.as_mut_ptr().cast::<libc::iovec>();
    // SAFETY: the list comes from `bufs`, whose buffers are borrowed mutably for the whole call.
    unsafe {
        transfer(list, bufs.len(), offset, |iov, count, at| libc::preadv(fd.0, iov, count, at)).map(|(done, _)| done)
    }
}

/// Reads as far as no disk has to be waited for; `None` if one has to be, or the system cannot tell.
pub(super) fn read_at_once(fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<Option<usize>> {
    let (list, count, at) = (bufs.as_mut_ptr().cast::<libc::iovec>(), bufs.len().min(IOV_MAX), off(offset)?);
    // SAFETY: the list comes from `bufs`, whose buffers are borrowed mutably for the whole call.
    let read = retry(|| unsafe { libc::preadv2(fd.0, list, count as i32, at, libc::RWF_NOWAIT) });
    match read {
        // EOPNOTSUPP: of a file system that cannot tell. EAGAIN: not all of it is there, and some may be.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::ENOSYS)) => Ok(None),
        read => read.map(Some),
    }
}

/// Writes all of `bufs`, in as few calls as the system takes.
#[inline]
pub(super) fn write(fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    if let [buf] = bufs { write_one(fd, buf, offset) } else { write_list(fd, bufs, offset) }
}

/// Writes all of `bufs`, in calls of no more than [`MAX_CALL`].
#[inline]
pub(super) fn write_in_calls(fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    let len = total(bufs);
    if len <= MAX_CALL {
        return write(fd, bufs, offset);
    }
    in_calls(offset, len)
        .try_for_each(|(before, len)| write(fd, &part(bufs, before, len), offset.saturating_add(before as u64)))
}

/// Reads until the buffer is full or the file ends; returns the bytes read.
fn read_one(fd: Fd, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    loop {
        let (rest, at) = (&mut buf[done..], off(offset.saturating_add(done as u64))?);
        // By its number: the C library's function is a point at which a thread can be cancelled, and arranges for that each time.
        // SAFETY: `rest` is borrowed mutably for the whole call, and its length is given.
        let moved =
            retry(|| unsafe { libc::syscall(libc::SYS_pread64, fd.0, rest.as_mut_ptr(), rest.len(), at) as isize });
        let moved = if done > 0 { ended(moved)? } else { moved? };
        done += moved;
        if moved == 0 || done == buf.len() {
            return Ok(done);
        }
    }
}

/// What a call moved that goes on where one before it ended short. With `O_DIRECT` that can be inside a unit, where the file ends; some
/// file systems refuse to look there.
fn ended(moved: io::Result<usize>) -> io::Result<usize> {
    match moved {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(0),
        other => other,
    }
}

/// Writes all of a buffer.
fn write_one(fd: Fd, buf: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let (rest, at) = (&buf[done..], off(offset.saturating_add(done as u64))?);
        // SAFETY: `rest` is borrowed for the whole call, and its length is given.
        match retry(|| unsafe { libc::syscall(libc::SYS_pwrite64, fd.0, rest.as_ptr(), rest.len(), at) as isize })? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            moved => done += moved,
        }
    }
    Ok(())
}

/// Writes all of a list of buffers.
fn write_list(fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    let list = bufs.as_ptr().cast::<libc::iovec>();
    // SAFETY: the list comes from `bufs`, whose buffers are borrowed for the whole call; `pwritev` only reads them.
    let (_, ended) =
        unsafe { transfer(list, bufs.len(), offset, |iov, count, at| libc::pwritev(fd.0, iov, count, at))? };
    if ended { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
}

/// The calls by which a long write is made, as bytes before each and its length; they end at multiples of [`MAX_CALL`] in the file.
fn in_calls(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut before = 0;
    std::iter::from_fn(move || {
        let start = before;
        let to_border = MAX_CALL - (offset.wrapping_add(start as u64) % MAX_CALL as u64) as usize;
        before = (start + to_border).min(len);
        (start < len).then_some((start, before - start))
    })
}

/// Repeats a call for as long as a signal interrupts it.
pub(super) fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        let result = call();
        if result >= 0 {
            return Ok(result as usize);
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

/// [`retry`] for calls that return 0.
pub(super) fn check(mut call: impl FnMut() -> i32) -> io::Result<()> {
    retry(|| call() as isize).map(drop)
}

/// A length or offset as the system takes it.
pub(super) fn off(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

/// Repeats `call` until the whole list was moved, or until it moves nothing. Returns the bytes moved and whether it
/// ended early.
///
/// # Safety
/// `list` points to `count` entries that stay valid, with their buffers, for the whole call.
unsafe fn transfer(
    list: *const libc::iovec,
    count: usize,
    offset: u64,
    call: impl Fn(*const libc::iovec, i32, libc::off_t) -> isize,
) -> io::Result<(usize, bool)> {
    let (mut done, mut next, mut within) = (0, 0, 0);
    while next < count {
        let batch = (count - next).min(IOV_MAX);
        let at = off(offset.saturating_add(done as u64))?;
        let moved = if within == 0 {
            // SAFETY: `next + batch <= count`.
            retry(|| call(unsafe { list.add(next) }, batch as i32, at))?
        } else {
            // The last call ended inside a buffer: a copy of the list that begins where it ended.
            // SAFETY: the caller's promise, and `next + batch <= count`.
            let rest = unsafe { std::slice::from_raw_parts(list.add(next), batch) };
            let mut rest: SmallVec<[libc::iovec; 16]> = rest.iter().copied().collect();
            // SAFETY: `within` is less than the length of this buffer.
            rest[0].iov_base = unsafe { rest[0].iov_base.cast::<u8>().add(within) }.cast();
            rest[0].iov_len -= within;
            retry(|| call(rest.as_ptr(), batch as i32, at))?
        };
        done += moved;
        let mut left = moved + within;
        let first = next;
        while next < first + batch {
            // SAFETY: `next < count`.
            let len = unsafe { (*list.add(next)).iov_len };
            if left < len {
                break;
            }
            left -= len;
            next += 1;
        }
        within = left;
        if moved == 0 && next == first {
            return Ok((done, true));
        }
    }
    Ok((done, false))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_long_write_is_all_of_its_calls_and_they_end_at_borders() {
        for offset in [0, 1, 4096, MAX_CALL as u64 - 512, MAX_CALL as u64, 5 * MAX_CALL as u64 + 4608] {
            for len in [0, 1, MAX_CALL, MAX_CALL + 1, 2 * MAX_CALL, 33 * MAX_CALL + 7] {
                let mut at = 0;
                for (before, n) in in_calls(offset, len) {
                    assert_eq!(before, at, "{offset}, {len}");
                    assert!((1..=MAX_CALL).contains(&n), "{offset}, {len}: {n}");
                    at += n;
                    assert!(
                        at == len || (offset as usize + at).is_multiple_of(MAX_CALL),
                        "{offset}, {len}: ends at {at}"
                    );
                }
                assert_eq!(at, len, "at {offset}");
            }
        }
    }

    #[test]
    fn long_writes_of_one_and_of_many_buffers_arrive_whole() {
        let bytes: Vec<u8> = (0..5 * MAX_CALL + 777).map(|at| (at * 7 + at / 251) as u8).collect();
        let cut = |sizes: &[usize]| {
            let mut rest = &bytes[..];
            let mut bufs: Vec<IoSlice<'_>> = Vec::new();
            for &size in sizes {
                let (head, tail) = rest.split_at(size.min(rest.len()));
                bufs.push(IoSlice::new(head));
                rest = tail;
            }
            bufs.push(IoSlice::new(rest));
            bufs
        };
        for (number, bufs) in [cut(&[]), cut(&[512, 0, MAX_CALL, 3]), cut(&[4096; 40])].iter().enumerate() {
            let file = tempfile::tempfile().expect("a file");
            let fd = Fd(file.as_raw_fd());
            write_in_calls(fd, bufs, 4608).expect("written");
            let mut found = vec![1; bytes.len() + 4608];
            assert_eq!(read(fd, &mut [IoSliceMut::new(&mut found)], 0).expect("read"), found.len());
            assert!(found[..4608].iter().all(|byte| *byte == 0) && found[4608..] == bytes, "list {number}");
        }
    }
}
