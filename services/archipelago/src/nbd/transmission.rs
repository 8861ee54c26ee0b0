//! Serves the requests of one connection in its own thread: takes all that wait in one receive, runs each to its end in the
//! order of arrival, and sends the replies together.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};

use super::buffer::{AlignedBuf, Inbox};
use super::errors;
use super::limits::{LARGE_WRITE, MAX_PAYLOAD, PIECE};
use super::negotiate::Session;
use super::replies::Replies;
use super::request::{Facts, Failure, check};
use super::socket::Stream;
use super::wire::{REQUEST, Request, command, command_flag as flag, decode_request};
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
    pub(super) stream: &'a Stream,
    pub(super) device: &'a dyn Device,
    pub(super) structured: bool,
    pub(super) base_allocation: bool,
    pub(super) read_only: bool,
    pub(super) inbox: Inbox,
    pub(super) replies: Replies,
    /// Lengths and states of a block status reply, kept for its memory.
    pub(super) status: Vec<(u32, u32)>,
    large: Option<AlignedBuf>,
    spin: Spin<'a>,
    pub(super) stopping: &'a AtomicBool,
    /// What is received now came after the server began to stop.
    late: bool,
}

impl<'a> Transmission<'a> {
    /// Serves `session` on `stream` until the client leaves or `stopping` is set and the socket shut down for reading.
    pub fn new(stream: &'a Stream, session: &'a Session, spin: Spin<'a>, stopping: &'a AtomicBool) -> Self {
        Transmission {
            stream,
            device: &*session.device,
            structured: session.structured,
            base_allocation: session.base_allocation,
            read_only: session.device.read_only(),
            inbox: Inbox::new(),
            replies: Replies::new(),
            status: Vec::new(),
            large: None,
            spin,
            stopping,
            late: false,
        }
    }

    /// Runs to the end of the connection.
    pub fn run(mut self) -> io::Result<End> {
        loop {
            let end = self.run_received()?;
            self.replies.send(self.stream)?;
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
        let stream = self.stream;
        let room = self.inbox.room();
        let received = if self.stopping.load(Ordering::Acquire) {
            self.late = true;
            stream.try_read(room)?.unwrap_or(0)
        } else {
            match self.spin.find(|| stream.try_read(room).transpose()) {
                Some(found) => found?,
                None => loop {
                    match stream.read(room) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        other => break other?,
                    }
                },
            }
        };
        if received == 0 {
            let stopping = self.stopping.load(Ordering::Acquire);
            return Ok(Some(if stopping { End::Stopped } else { End::Vanished }));
        }
        self.inbox.received(received);
        Ok(None)
    }

    /// Runs all requests that are in the inbox whole, and large writes as they come in.
    fn run_received(&mut self) -> io::Result<Option<End>> {
        while let Some(header) = self.inbox.request() {
            let Some(request) = decode_request(header) else { return Ok(Some(End::Broken)) };
            if !self.replies.has_room(0) {
                self.replies.send(self.stream)?;
            }
            if request.command == command::WRITE {
                let len = request.len as usize;
                if request.len > MAX_PAYLOAD {
                    let failed = self.admit(&request);
                    self.finish(&request, failed);
                    return Ok(Some(End::Broken));
                }
                if self.inbox.bytes().len() >= REQUEST + len {
                    self.write(&request)?;
                } else if len > LARGE_WRITE {
                    self.write_large(&request)?;
                } else {
                    return Ok(None);
                }
                continue;
            }
            self.inbox.consume(REQUEST);
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
            structured: self.structured,
            base_allocation: self.base_allocation,
        };
        check(request, &facts)
    }

    /// Runs an admitted request other than a write.
    fn run_one(&mut self, request: &Request) -> io::Result<()> {
        self.take_turn(request)?;
        let (offset, len) = (request.offset, u64::from(request.len));
        let durable = request.has(flag::FUA);
        let result = match request.command {
            command::READ => return self.read(request),
            command::BLOCK_STATUS => return self.block_status(request),
            command::FLUSH => {
                self.send_before_waiting()?;
                self.device.flush()
            }
            command::TRIM if durable => {
                self.send_before_waiting()?;
                self.device.discard(offset, len).and_then(|()| self.device.flush())
            }
            command::TRIM => self.device.discard(offset, len),
            command::WRITE_ZEROES => {
                if durable {
                    self.send_before_waiting()?;
                }
                self.device.write_zeroes(offset, len, request.has(flag::NO_HOLE), durable)
            }
            // CACHE: the device has no cache that could be filled ahead.
            _ => Ok(()),
        };
        self.finish(request, result.map_err(failure));
        Ok(())
    }

    /// A write whose payload is in the inbox.
    fn write(&mut self, request: &Request) -> io::Result<()> {
        self.take_turn(request)?;
        let mut result = self.admit(request);
        let durable = request.has(flag::FUA);
        if durable {
            self.send_before_waiting()?;
        }
        let len = request.len as usize;
        if result.is_ok() {
            let payload = &self.inbox.bytes()[REQUEST..REQUEST + len];
            result = self.device.write(&[IoSlice::new(payload)], request.offset, durable).map_err(failure);
        }
        self.inbox.consume(REQUEST + len);
        self.finish(request, result);
        Ok(())
    }

    /// A write whose payload is not all here: it is received in pieces, each straight to where the device takes it from. Only
    /// what came together with the request lies in the inbox, and is passed on from there.
    fn write_large(&mut self, request: &Request) -> io::Result<()> {
        let mut result = self.admit(request);
        self.take_turn(request)?;
        self.send_before_waiting()?;
        self.inbox.consume(REQUEST);
        let large = self.large.get_or_insert_with(|| AlignedBuf::new(PIECE)).bytes_mut();
        let (mut offset, mut left) = (request.offset, request.len as usize);
        let durable = request.has(flag::FUA);
        let mut pieces = 0;
        while left > 0 {
            // Pieces end at multiples of their size, so that the device sees whole sectors but at the edges of the request.
            let piece = (PIECE - (offset % PIECE as u64) as usize).min(left);
            let begun = &self.inbox.bytes()[..piece.min(self.inbox.bytes().len())];
            let rest = &mut large[..piece - begun.len()];
            self.stream.read_exact(rest)?;
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
        self.replies.send(self.stream)
    }

    /// Answers a request that has no data to return, or failed.
    pub(super) fn finish(&mut self, request: &Request, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.replies.simple(request.cookie, 0),
            Err(failure) if self.structured => self.replies.chunk_error(request.cookie, failure, None),
            Err(failure) => self.replies.simple(request.cookie, failure.error),
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
