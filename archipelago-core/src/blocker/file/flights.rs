//! Reads and writes of one thread past the page cache that are under way together.
//!
//! What is under way holds its file open, and the buffer that it goes through. Whatever does not end as it should is made once more by a
//! call, which finishes it or says what is wrong.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::sync::Arc;

use parking_lot::RwLockReadGuard;
use smallvec::SmallVec;

use super::descriptors::{Access, Descriptors, OpenFile};
use super::direct::{Way, scatter};
use super::objects::{Piece, failed_read, one_piece};
use super::reserve::Reserve;
use super::{FileBlocker, fail, names};
use crate::blocker::Object;
use crate::blocker::flights::Flights;
use crate::blocker::ring::{Asked, Ring, Waker};
use crate::blocker::sys::Sys;
use crate::error::Result;

/// A request that is under way.
struct Flight {
    /// Of a write of whole units: no part of one is changed meanwhile. Of the lock in `file`, so it goes before that.
    whole: Option<RwLockReadGuard<'static, ()>>,
    file: Arc<OpenFile>,
    object: Object,
    piece: Piece,
    write: bool,
    way: Way,
    /// The caller's buffers.
    bufs: SmallVec<[libc::iovec; 8]>,
    /// The buffer that it goes through, if it does.
    through: libc::iovec,
}

struct FileFlights {
    sys: Arc<dyn Sys>,
    files: Arc<Descriptors>,
    reserve: Arc<Reserve>,
    ring: Box<dyn Ring>,
    /// By number. They stay where they are, for the kernel looks at their lists.
    flights: Box<[Option<Flight>]>,
    under_way: usize,
}

impl FileBlocker {
    pub(super) fn open_flights(&self, requests: usize) -> Result<Option<Box<dyn Flights>>> {
        if !self.files.goes_direct() {
            return Ok(None);
        }
        let ring = self.sys.ring(requests).map_err(|e| fail("make", "a ring of requests", e))?;
        Ok(ring.map(|ring| {
            Box::new(FileFlights {
                sys: self.sys.clone(),
                files: self.files.clone(),
                reserve: self.reserve.clone(),
                ring,
                flights: (0..requests).map(|_| None).collect(),
                under_way: 0,
            }) as Box<dyn Flights>
        }))
    }
}

impl FileFlights {
    fn begin(&mut self, number: usize, mut flight: Flight) -> bool {
        let file = flight.file.fd;
        let offset = match &mut flight.way {
            Way::AsItIs => flight.piece.offset,
            Way::Through(bounce, from, to) => {
                let area = bounce.area(*from, *to);
                flight.through = libc::iovec { iov_base: area.as_mut_ptr().cast(), iov_len: area.len() };
                *from
            }
        };
        let Some(slot) = self.flights.get_mut(number).filter(|slot| slot.is_none()) else { return false };
        let flight = slot.insert(flight);
        let (list, count) = match flight.way {
            Way::AsItIs => (flight.bufs.as_ptr(), flight.bufs.len()),
            Way::Through(..) => (&raw const flight.through, 1),
        };
        let asked = Asked { fd: file, write: flight.write, list, count, offset, tag: number as u64 };
        // SAFETY: the list is in a slot that is not touched before the end is told, and its buffers stay by the caller's promise, or
        // are in that slot as well.
        let taken = unsafe { self.ring.ask(asked) };
        if taken {
            self.under_way += 1;
        } else {
            *slot = None;
        }
        taken
    }
}

/// The addresses of buffers.
fn addresses<B>(bufs: &[B]) -> SmallVec<[libc::iovec; 8]> {
    const { assert!(size_of::<IoSlice<'_>>() == size_of::<libc::iovec>()) };
    // SAFETY: `B` is `IoSlice` or `IoSliceMut`, both of which are documented to be ABI compatible with `iovec`.
    unsafe { std::slice::from_raw_parts(bufs.as_ptr().cast::<libc::iovec>(), bufs.len()) }.iter().copied().collect()
}

impl Flights for FileFlights {
    unsafe fn read(&mut self, number: usize, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> bool {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let Some(piece) = one_piece(object, offset, len) else { return false };
        let Some(file) = self.files.opened(object, piece.part, Access::Read) else { return false };
        let Some(way) = file.direct.as_ref().and_then(|direct| direct.way_of_read(bufs, piece.offset, len)) else {
            return false;
        };
        let (bufs, through) = (addresses(bufs), NOTHING);
        self.begin(number, Flight { whole: None, file, object, piece, write: false, way, bufs, through })
    }

    unsafe fn write(&mut self, number: usize, object: Object, bufs: &[IoSlice<'_>], offset: u64) -> bool {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let Some(piece) = one_piece(object, offset, len) else { return false };
        let Some(file) = self.files.opened(object, piece.part, Access::Write) else { return false };
        let path = || names::object_path(object, piece.part);
        let room = || self.sys.space().map_err(|e| fail("look into", names::ROOT, e));
        let may_allocate =
            || self.sys.may_allocate(file.fd, piece.offset, piece.len).map_err(|e| fail("look into", path(), e));
        if self.reserve.admit(path, len, room, may_allocate).is_err() {
            return false;
        }
        let way = file.direct.as_ref().and_then(|direct| direct.way_of_write(bufs, piece.offset, len));
        let Some((way, whole)) = way else { return false };
        // SAFETY: the lock is in the file, which the flight keeps, and drops after the guard.
        let whole = Some(unsafe { mem::transmute::<RwLockReadGuard<'_, ()>, RwLockReadGuard<'static, ()>>(whole) });
        // Borrowed by nothing any more.
        let file = file.clone();
        let (bufs, through) = (addresses(bufs), NOTHING);
        self.begin(number, Flight { whole, file, object, piece, write: true, way, bufs, through })
    }

    fn wait(&mut self, least: usize, each: &mut dyn FnMut(usize, Result<()>)) {
        let least = least.min(self.under_way);
        let (flights, under_way) = (&mut self.flights, &mut self.under_way);
        self.ring.wait(&*self.sys, least, &mut |tag, moved| {
            let number = tag as usize;
            if let Some(flight) = flights.get_mut(number).and_then(Option::take) {
                *under_way -= 1;
                each(number, flight.end(moved));
            }
        });
    }

    fn waker(&self) -> Waker {
        self.ring.waker()
    }
}

impl Drop for FileFlights {
    fn drop(&mut self) {
        while self.under_way > 0 {
            self.wait(self.under_way, &mut |_, _| {});
        }
    }
}

/// No buffer.
const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

impl Flight {
    /// What came of it.
    fn end(mut self, moved: io::Result<usize>) -> Result<()> {
        if self.write { self.end_write(moved) } else { self.end_read(moved) }
    }

    fn end_read(&mut self, moved: io::Result<usize>) -> Result<()> {
        let len = self.piece.len;
        // SAFETY: whoever began this promised that the buffers stay and are nobody else's until now.
        let bufs: &mut [IoSliceMut<'_>] =
            unsafe { std::slice::from_raw_parts_mut(self.bufs.as_mut_ptr().cast(), self.bufs.len()) };
        let whole = match (&mut self.way, &moved) {
            (Way::AsItIs, Ok(moved)) => *moved as u64 == len,
            (Way::Through(bounce, from, to), Ok(moved)) => {
                let before = self.piece.offset - *from;
                let whole = *moved as u64 >= before + len;
                if whole {
                    scatter(&bounce.area(*from, *to)[before as usize..(before + len) as usize], bufs, 0);
                }
                whole
            }
            (_, Err(_)) => false,
        };
        if whole {
            return Ok(());
        }
        match self.file.read(bufs, self.piece.offset) {
            Ok(read) if read as u64 == len => Ok(()),
            ended => Err(failed_read(self.object, &self.piece, ended)),
        }
    }

    fn end_write(&mut self, moved: io::Result<usize>) -> Result<()> {
        let passing = |e: &io::Error| matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::ECANCELED));
        let written = match moved {
            Ok(moved) if moved as u64 >= self.piece.len => Ok(()),
            Err(e) if !passing(&e) => Err(e),
            _ => {
                self.whole = None;
                // SAFETY: whoever began this promised that the buffers stay as they are until now.
                let bufs: &[IoSlice<'_>] =
                    unsafe { std::slice::from_raw_parts(self.bufs.as_ptr().cast(), self.bufs.len()) };
                self.file.write(bufs, self.piece.offset)
            }
        };
        self.file.mark_dirty();
        written.map_err(|e| fail("write", names::object_path(self.object, self.piece.part), e))
    }
}
