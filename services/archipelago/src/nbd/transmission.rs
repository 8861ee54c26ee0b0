//! Serves the requests of one connection in its own thread: takes all that wait in one receive, runs each to its end in the
//! order of arrival, and sends the replies together.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};

use super::buffer::{AlignedBuf, Inbox};
use super::channel::Channel;
use super::errors;
use super::limits::{IDLE, LARGE_WRITE, MAX_PAYLOAD, PIECE, RANGE_PIECE};
use super::negotiate::Session;
use super::replies::Replies;
use super::request::{Facts, Failure, check};
use super::together::Together;
use super::wire::{Form, Request, command, command_flag as flag, decode_request, decode_status_payload};
use crate::disk::device::{Device, DeviceResult, Errno};
use crate::disk::spin::Spin;

/// How a transmission ended. Errors of the socket are apart from these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The client said goodbye.
    Goodbye,
    /// The client closed the connection without a word.
    Vanished,
    /// The server is stopping, and everything received before is answered.
    Stopped,
    /// The client broke the protocol in a way after which the stream cannot be followed.
    Broken,
}

/// The transmission phase of one connection.
pub struct Transmission<'a> {
    // Before the buffers that it uses: dropped, it waits for what is under way.
    pub(super) together: Option<Together>,
    pub(super) channel: &'a Channel,
    pub(super) device: &'a dyn Device,
    pub(super) form: Form,
    pub(super) base_allocation: bool,
    pub(super) read_only: bool,
    pub(super) inbox: Inbox,
    pub(super) replies: Replies,
    /// Lengths and states of a block status reply, kept for its memory.
    pub(super) status: Vec<(u64, u32)>,
    large: Option<AlignedBuf>,
    spin: Spin<'a>,
    pub(super) stopping: &'a AtomicBool,
    /// What is received now came after the server began to stop.
    late: bool,
}

impl<'a> Transmission<'a> {
    /// Serves `session` on `channel` until the client leaves or `stopping` is set and the socket shut down for reading.
    pub fn new(
        channel: &'a Channel,
        session: &'a Session,
        spin: Spin<'a>,
        stopping: &'a AtomicBool,
    ) -> io::Result<Self> {
        Ok(Transmission {
            together: Together::new(&*session.device),
            channel,
            device: &*session.device,
            form: session.form,
            base_allocation: session.base_allocation,
            read_only: session.device.read_only(),
            inbox: Inbox::new()?,
            replies: Replies::new(session.form)?,
            status: Vec::new(),
            large: None,
            spin,
            stopping,
            late: false,
        })
    }

    /// Runs to the end of the connection.
    pub fn run(mut self) -> io::Result<End> {
        loop {
            let end = self.run_received()?;
            self.end_all();
            self.replies.send(self.channel)?;
            if let Some(end) = end {
                return Ok(end);
            }
            if let Some(end) = self.receive()? {
                return Ok(end);
            }
        }
    }

    /// Waits for more of the client's bytes.
    fn receive(&mut self) -> io::Result<Option<End>> {
        let channel = self.channel;
        let room = self.inbox.room();
        let received = if self.stopping.load(Ordering::Acquire) {
            self.late = true;
            channel.try_read(room)?.unwrap_or(0)
        } else {
            match self.spin.find(|| channel.try_read(room).transpose()) {
                Some(found) => found?,
                None => self.sleep()?,
            }
        };
        if received == 0 {
            let stopping = self.stopping.load(Ordering::Acquire);
            return Ok(Some(if stopping { End::Stopped } else { End::Vanished }));
        }
        self.inbox.received(received);
        Ok(None)
    }

    /// Waits for more of the client's bytes asleep. One that is silent for long is held with as little memory as can be.
    fn sleep(&mut self) -> io::Result<usize> {
        let mut idle = false;
        loop {
            match self.channel.read(self.inbox.room()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The time that was set for a read is over.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !idle => {
                    idle = true;
                    self.inbox.rest();
                    self.replies.rest();
                    (self.large, self.status) = (None, Vec::new());
                    self.channel.set_read_timeout(None)?;
                }
                other => {
                    if idle {
                        self.channel.set_read_timeout(Some(IDLE))?;
                    }
                    return other;
                }
            }
        }
    }

    /// Runs all requests that are in the inbox whole, and large writes as they come in.
    fn run_received(&mut self) -> io::Result<Option<End>> {
        let head = self.form.request();
        while let Some(header) = self.inbox.bytes().get(..head) {
            let Some(request) = decode_request(self.form, header) else { return Ok(Some(End::Broken)) };
            if !self.replies.has_room(0) {
                self.send_before_waiting()?;
            }
            if request.payload > 0 {
                if request.payload > u64::from(MAX_PAYLOAD) {
                    let failed = self.admit(&request).and(Err(TOO_LONG));
                    self.finish(&request, failed);
                    return Ok(Some(End::Broken));
                }
                let len = request.payload as usize;
                if self.inbox.bytes().len() >= head + len {
                    self.run_with_payload(&request)?;
                } else if len > LARGE_WRITE {
                    self.write_large(&request)?;
                } else {
                    return Ok(None);
                }
                continue;
            }
            self.inbox.consume(head);
            if request.command == command::DISC {
                return Ok(Some(End::Goodbye));
            }
            match self.admit(&request) {
                Ok(()) => self.run_one(&request)?,
                failed => self.finish(&request, failed),
            }
        }
        Ok(None)
    }

    fn admit(&self, request: &Request) -> Result<(), Failure> {
        if self.late {
            return Err(Failure { error: errors::ESHUTDOWN, text: "the server is stopping" });
        }
        let facts = Facts {
            size: self.device.size(),
            read_only: self.read_only,
            form: self.form,
            base_allocation: self.base_allocation,
        };
        check(request, &facts)
    }

    /// Runs an admitted request without a payload.
    fn run_one(&mut self, request: &Request) -> io::Result<()> {
        self.take_turn(request)?;
        if request.command == command::READ {
            return self.read(request);
        }
        self.end_all();
        let device = self.device;
        let durable = request.has(flag::FUA);
        let result = match request.command {
            command::BLOCK_STATUS => return self.block_status(request),
            command::FLUSH => {
                self.send_before_waiting()?;
                device.flush().map_err(failure)
            }
            command::TRIM | command::WRITE_ZEROES => {
                if durable || request.len > RANGE_PIECE {
                    self.send_before_waiting()?;
                }
                let zeroes = request.command == command::WRITE_ZEROES;
                let keep = request.has(flag::NO_HOLE);
                let mut flush = durable;
                in_pieces(request, self.stopping, |offset, len| {
                    if !zeroes {
                        return device.discard(offset, len);
                    }
                    let whole = len == request.len;
                    flush &= !whole;
                    device.write_zeroes(offset, len, keep, durable && whole)
                })
                .and_then(|()| if flush { device.flush().map_err(failure) } else { Ok(()) })
            }
            // CACHE: the device has no cache that could be filled ahead.
            _ => Ok(()),
        };
        self.finish(request, result);
        Ok(())
    }

    /// A request whose payload is in the inbox.
    fn run_with_payload(&mut self, request: &Request) -> io::Result<()> {
        self.take_turn(request)?;
        let (head, len) = (self.form.request(), request.payload as usize);
        if request.command == command::BLOCK_STATUS {
            let asked = decode_status_payload(&self.inbox.bytes()[head..head + len]);
            self.inbox.consume(head + len);
            let Some(asked) = asked else {
                self.finish(request, Err(Failure { error: errors::EINVAL, text: "the payload is not understood" }));
                return Ok(());
            };
            let request = Request { len: asked, ..*request };
            self.end_all();
            return match self.admit(&request) {
                Ok(()) => self.block_status(&request),
                failed => {
                    self.finish(&request, failed);
                    Ok(())
                }
            };
        }
        let mut result = self.admit(request);
        let durable = request.has(flag::FUA);
        if result.is_ok() && !durable && self.begin_write(request, head..head + len) {
            self.inbox.consume(head + len);
            return Ok(());
        }
        self.end_all();
        if durable {
            self.send_before_waiting()?;
        }
        if result.is_ok() {
            let payload = &self.inbox.bytes()[head..head + len];
            result = self.device.write(&[IoSlice::new(payload)], request.offset, durable).map_err(failure);
        }
        self.inbox.consume(head + len);
        self.finish(request, result);
        Ok(())
    }

    /// A write whose payload is not all here: it is received in pieces, each straight to where the device takes it from. Only
    /// what came together with the request lies in the inbox, and is passed on from there.
    fn write_large(&mut self, request: &Request) -> io::Result<()> {
        let mut result = match request.command {
            command::WRITE => self.admit(request),
            // Nothing else has a payload of that size: it is thrown away.
            _ => self.admit(request).and(Err(TOO_LONG)),
        };
        self.take_turn(request)?;
        self.send_before_waiting()?;
        self.inbox.consume(self.form.request());
        let large = match &mut self.large {
            Some(large) => large,
            none => none.insert(AlignedBuf::new(PIECE)?),
        };
        let large = large.bytes_mut();
        let (mut offset, mut left) = (request.offset, request.payload as usize);
        let durable = request.has(flag::FUA);
        let mut pieces = 0;
        while left > 0 {
            // Pieces end at multiples of their size, so that the device sees whole sectors but at the edges of the request.
            let piece = (PIECE - (offset % PIECE as u64) as usize).min(left);
            let begun = &self.inbox.bytes()[..piece.min(self.inbox.bytes().len())];
            let rest = &mut large[..piece - begun.len()];
            self.channel.read_exact(rest)?;
            if result.is_ok() {
                let both = [IoSlice::new(begun), IoSlice::new(rest)];
                let parts = &both[usize::from(begun.is_empty())..2 - usize::from(rest.is_empty())];
                let whole = pieces == 0 && piece == left;
                result = self.device.write(parts, offset, durable && whole).map_err(failure);
            }
            let used = begun.len();
            self.inbox.consume(used);
            // A refused request may have any offset.
            offset = offset.wrapping_add(piece as u64);
            left -= piece;
            pieces += 1;
        }
        if durable && pieces > 1 && result.is_ok() {
            result = self.device.flush().map_err(failure);
        }
        self.finish(request, result);
        Ok(())
    }

    /// Sends the replies that wait, so that they do not wait for a slow device or for the client.
    pub(super) fn send_before_waiting(&mut self) -> io::Result<()> {
        self.end_all();
        self.replies.send(self.channel)
    }

    /// Answers a request that has no data to return, or failed.
    pub(super) fn finish(&mut self, request: &Request, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.replies.done(request.mark()),
            Err(failure) => self.replies.failed(request.mark(), failure, None),
        }
    }
}

/// A payload that nobody may send.
const TOO_LONG: Failure = Failure { error: errors::EINVAL, text: "the payload is too long" };

/// Calls `each` for the parts of a request's range, so that no single call of a device takes long and a stop need not wait for them all.
fn in_pieces(
    request: &Request,
    stopping: &AtomicBool,
    mut each: impl FnMut(u64, u64) -> DeviceResult<()>,
) -> Result<(), Failure> {
    let (mut offset, end) = (request.offset, request.offset + request.len);
    loop {
        // They end at multiples of their size, so that no sector is cut.
        let piece = (RANGE_PIECE - offset % RANGE_PIECE).min(end - offset);
        each(offset, piece).map_err(failure)?;
        offset += piece;
        if offset == end {
            return Ok(());
        }
        if stopping.load(Ordering::Acquire) {
            return Err(Failure { error: errors::ESHUTDOWN, text: "the server is stopping" });
        }
    }
}

/// What the client is told of a device's failure.
pub(super) fn failure(errno: Errno) -> Failure {
    Failure { error: errors::from_errno(errno), text: "" }
}

/// Reads one range into one buffer.
pub(super) fn read_into(device: &dyn Device, buf: &mut [u8], offset: u64) -> DeviceResult<()> {
    device.read(&mut [io::IoSliceMut::new(buf)], offset)
}
