//! Requests that are under way together, where each waits for a disk: small reads and writes that came in one receive. Part of
//! [`Transmission`].
//!
//! What is under way reads from the inbox and into the place of its reply, and may hold up others: it is ended before anything is received or
//! sent, and before any other call of the device.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;

use archipelago_core::Begun;

use super::limits::TOGETHER;
use super::transmission::{Transmission, failure};
use super::wire::{Mark, Request};
use crate::disk::device::{Batch, Device, DeviceResult};

/// Requests of a connection that are under way together.
pub(super) struct Together {
    batch: Box<dyn Batch>,
    /// By number: whose reply it is, and where its data go, if it is a read.
    begun: Vec<Option<(Mark, Option<Range<usize>>)>>,
    free: Vec<usize>,
}

impl Together {
    /// For the thread that calls this; `None` where requests do not wait for a disk.
    pub(super) fn new(device: &dyn Device) -> Option<Together> {
        let batch = device.together(TOGETHER)?;
        Some(Together { batch, begun: (0..TOGETHER).map(|_| None).collect(), free: (0..TOGETHER).rev().collect() })
    }
}

impl Transmission<'_> {
    /// Begins an admitted read of a piece; `false` if it has to be made by a call.
    pub(super) fn begin_read(&mut self, request: &Request) -> bool {
        let Some((together, number)) = next(&mut self.together) else { return false };
        let len = request.len as usize;
        if !self.replies.has_room(len) {
            return false;
        }
        let place = self.replies.reserve(len);
        let mut bufs = [IoSliceMut::new(self.replies.reserved(&place))];
        // SAFETY: the place is nobody else's before `end_all`, which comes before the next send, and the batch is dropped, which waits,
        // before the replies.
        let begun = unsafe { together.batch.read(number, &mut bufs, request.offset) };
        match begun {
            Begun::UnderWay => together.keep(number, request.mark(), Some(place)),
            Begun::Done => {
                self.replies.release();
                self.replies.data_at(request.mark(), place);
            }
            Begun::ByCall => self.replies.release(),
        }
        begun != Begun::ByCall
    }

    /// Begins an admitted write of `payload` in the inbox; `false` if it has to be made by a call.
    pub(super) fn begin_write(&mut self, request: &Request, payload: Range<usize>) -> bool {
        let Some((together, number)) = next(&mut self.together) else { return false };
        if !self.replies.has_room(0) {
            return false;
        }
        let bufs = [IoSlice::new(&self.inbox.bytes()[payload])];
        // SAFETY: what was received stays where it is until there is room made for more, which comes after `end_all`, and the batch is
        // dropped, which waits, before the inbox.
        let begun = unsafe { together.batch.write(number, &bufs, request.offset) };
        match begun {
            Begun::UnderWay => {
                self.replies.reserve(0);
                together.keep(number, request.mark(), None);
            }
            Begun::Done => self.replies.done(request.mark()),
            Begun::ByCall => {}
        }
        begun != Begun::ByCall
    }

    /// Waits for all that is under way, and answers it.
    pub(super) fn end_all(&mut self) {
        let Some(Together { batch, begun, free }) = &mut self.together else { return };
        let replies = &mut self.replies;
        while batch.count() > 0 {
            batch.wait(batch.count(), &mut |number, result: DeviceResult<()>| {
                let Some((mark, place)) = begun[number].take() else { return };
                free.push(number);
                replies.release();
                match (result, place) {
                    (Ok(()), Some(place)) => replies.data_at(mark, place),
                    (Ok(()), None) => replies.done(mark),
                    (Err(errno), _) => replies.failed(mark, failure(errno), None),
                }
            });
        }
    }
}

/// A number that is free.
fn next(together: &mut Option<Together>) -> Option<(&mut Together, usize)> {
    let together = together.as_mut()?;
    let number = *together.free.last()?;
    Some((together, number))
}

impl Together {
    fn keep(&mut self, number: usize, mark: Mark, place: Option<Range<usize>>) {
        self.free.pop();
        self.begun[number] = Some((mark, place));
    }
}
