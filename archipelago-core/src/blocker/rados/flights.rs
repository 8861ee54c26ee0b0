//! Reads and overwrites of one thread that are under way together, each in one piece of an object.
//!
//! What is written was announced already, or it is left to a call. A read that finds less than it asked for is made once more by a call, which knows
//! what the rest is.
#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use smallvec::SmallVec;

use super::librados::{BegunOps, Errno, Outcome};
use super::objects::{missing, one_span};
use super::{Core, layout};
use crate::blocker::Object;
use crate::blocker::flights::Flights;
use crate::blocker::ring::Waker;
use crate::error::{Error, Result};

/// A request that is under way.
enum Flight {
    Write(Object),
    Read { object: Object, offset: u64, len: usize, bufs: SmallVec<[(*mut u8, usize); 4]> },
}

struct RadosFlights {
    core: Arc<Core>,
    // Waits for all that is under way when it is dropped.
    begun: BegunOps,
    /// By number.
    flights: Box<[Option<Flight>]>,
}

impl Core {
    pub(super) fn open_flights(self: &Arc<Self>, requests: usize) -> Result<Box<dyn Flights>> {
        let begun = BegunOps::new(&self.pool, requests)
            .map_err(|e| Error::io("make", "what is told of the ends of requests", e))?;
        Ok(Box::new(RadosFlights { core: self.clone(), begun, flights: (0..requests).map(|_| None).collect() }))
    }
}

impl Flights for RadosFlights {
    unsafe fn read(&mut self, number: usize, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> bool {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        let Some(span) = one_span(object, offset, len as u64) else { return false };
        let name = layout::piece(object, span.piece);
        // SAFETY: by the caller's promise.
        let begun = unsafe { self.begun.read(number, &name, bufs, span.at) };
        if begun {
            let bufs = bufs.iter_mut().map(|buf| (buf.as_mut_ptr(), buf.len())).collect();
            self.flights[number] = Some(Flight::Read { object, offset, len, bufs });
        }
        begun
    }

    unsafe fn write(&mut self, number: usize, object: Object, bufs: &[IoSlice<'_>], offset: u64) -> bool {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let Some(span) = one_span(object, offset, len) else { return false };
        let made = layout::is_made_by_writing(object);
        let is_there = if made { self.core.announced.knows(object, span.piece) } else { span.piece == 0 };
        if !is_there {
            return false;
        }
        let begun = self.begun.write(number, &layout::piece(object, span.piece), bufs, span.at, !made);
        if begun {
            self.flights[number] = Some(Flight::Write(object));
        }
        begun
    }

    fn wait(&mut self, least: usize, each: &mut dyn FnMut(usize, Result<()>)) {
        let (core, flights) = (&self.core, &mut self.flights);
        self.begun.wait(least, &mut |number, outcome| {
            if let Some(flight) = flights[number].take() {
                each(number, flight.end(core, outcome));
            }
        });
    }

    fn waker(&self) -> Waker {
        self.begun.waker()
    }
}

impl Flight {
    /// What came of it.
    fn end(self, core: &Core, outcome: Outcome<usize>) -> Result<()> {
        match (self, outcome) {
            (Flight::Write(object) | Flight::Read { object, .. }, Err(Errno(libc::ENOENT))) => Err(missing(object)),
            (Flight::Write(object), outcome) => core.done("write", object, outcome.map(|_| ())),
            (Flight::Read { object, .. }, Err(errno)) => core.done("read", object, Err(errno)),
            (Flight::Read { len, .. }, Ok(there)) if there == len => Ok(()),
            (Flight::Read { object, offset, bufs, .. }, Ok(_)) => {
                let mut bufs: SmallVec<[IoSliceMut<'_>; 4]> = bufs
                    .into_iter()
                    // SAFETY: whoever began this promised that the buffers stay and are nobody else's until now.
                    .map(|(buf, len)| IoSliceMut::new(unsafe { std::slice::from_raw_parts_mut(buf, len) }))
                    .collect();
                core.read_object(object, &mut bufs, offset)
            }
        }
    }
}
