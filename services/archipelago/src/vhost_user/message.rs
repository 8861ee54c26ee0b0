//! Messages of the vhost-user protocol, as a back end receives and sends them: twelve bytes of head, a body, descriptors beside it.
//!
//! Source: the vhost-user specification in QEMU's documentation (docs/interop/vhost-user). All numbers have the byte order of the
//! machine. The `vhost` crate knows these messages too, but cannot send the one that tells of a new size.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::limits::{MAX_BODY, MAX_FDS};

/// Bytes of a head: request, flags, length of the body.
const HEAD: usize = 12;
/// Version of the protocol, in the lowest two bits of the flags.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
/// The message is an answer.
const REPLY: u32 = 1 << 2;
/// An answer is asked for to a message that has none.
const NEED_REPLY: u32 = 1 << 3;

/// Requests of front ends that this back end knows.
pub mod request {
    #![allow(missing_docs)]
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const RESET_DEVICE: u32 = 34;
}

/// What a back end tells a front end unasked: the configuration of the device is another.
const CONFIG_CHANGE: u32 = 2;

/// A message of a front end.
#[derive(Debug)]
pub struct Message {
    /// What is asked.
    pub request: u32,
    /// An answer is asked for whatever the request.
    pub need_reply: bool,
    /// Its body.
    pub body: Body,
    /// What came with it; whatever nobody takes is closed with the message.
    pub fds: Vec<OwnedFd>,
}

/// The body of a message, read from the front.
#[derive(Debug, Default)]
pub struct Body {
    bytes: Vec<u8>,
    at: usize,
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Body {
    /// A body of these bytes.
    pub fn new(bytes: Vec<u8>) -> Body {
        Body { bytes, at: 0 }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let found = self.rest().first_chunk::<N>().copied();
        self.at += found.map_or(0, |_| N);
        found.ok_or_else(|| invalid(format!("a message of {} bytes is too short", self.bytes.len())))
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> io::Result<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    /// Nothing may follow.
    pub fn end(&self) -> io::Result<()> {
        match self.rest() {
            [] => Ok(()),
            rest => Err(invalid(format!("{} bytes too many in a message of {}", rest.len(), self.bytes.len()))),
        }
    }
}

/// Receives a message; `None` at the end of the connection.
pub fn receive(socket: &UnixStream) -> io::Result<Option<Message>> {
    let mut head = [0; HEAD];
    let mut fds = Vec::new();
    let mut filled = 0;
    while filled < HEAD {
        let n = receive_part(socket, &mut head[filled..], &mut fds)?;
        match (n, filled) {
            (0, 0) => return Ok(None),
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => filled += n,
        }
    }
    let mut words = Body::new(head.to_vec());
    let (request, flags, len) = (words.u32()?, words.u32()?, words.u32()? as usize);
    if flags & VERSION_MASK != VERSION || flags & REPLY != 0 {
        return Err(invalid(format!("a message with the flags {flags:#x}")));
    }
    if len > MAX_BODY {
        return Err(invalid(format!("a message of {len} bytes; at most {MAX_BODY} are read")));
    }
    let mut body = vec![0; len];
    io::Read::read_exact(&mut &*socket, &mut body)?;
    Ok(Some(Message { request, need_reply: flags & NEED_REPLY != 0, body: Body::new(body), fds }))
}

fn receive_part(socket: &UnixStream, buf: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = nix::cmsg_space!([i32; MAX_FDS]);
    let mut parts = [IoSliceMut::new(buf)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    let truncated = received.flags.contains(MsgFlags::MSG_CTRUNC);
    for control in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows of them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if truncated || fds.len() > MAX_FDS {
        return Err(invalid(format!("more than {MAX_FDS} descriptors in a message")));
    }
    Ok(received.bytes)
}

/// Sends an answer.
pub fn reply(socket: &UnixStream, request: u32, body: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    send(socket, request, VERSION | REPLY, body, fd)
}

/// Tells a front end that the configuration of its device is another, over the socket that it gave for this.
pub fn config_changed(socket: &UnixStream) -> io::Result<()> {
    send(socket, CONFIG_CHANGE, VERSION, &[], None)
}

fn send(socket: &UnixStream, request: u32, flags: u32, body: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    for word in [request, flags, body.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(body);
    let raw = fd.map(|fd| [fd.as_raw_fd()]);
    let control: Vec<ControlMessage<'_>> = raw.iter().map(|raw| ControlMessage::ScmRights(raw)).collect();
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    // A message is far shorter than a socket's buffer; what is left of one goes without the descriptor.
    io::Write::write_all(&mut &*socket, &bytes[sent..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_message_comes_with_its_body_and_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send(&a, request::SET_VRING_KICK, VERSION | NEED_REPLY, &7u64.to_ne_bytes(), Some(file.as_fd())).unwrap();
        let mut message = receive(&b).unwrap().unwrap();
        assert_eq!((message.request, message.need_reply, message.fds.len()), (request::SET_VRING_KICK, true, 1));
        assert_eq!(message.body.u64().unwrap(), 7);
        message.body.end().unwrap();
        assert!(message.body.u16().is_err());
        drop(a);
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn messages_that_are_none_are_refused() {
        for (flags, len) in [(0, 0), (2, 0), (VERSION | REPLY, 0), (VERSION, MAX_BODY as u32 + 1), (VERSION, u32::MAX)]
        {
            let (a, b) = UnixStream::pair().unwrap();
            let bytes: Vec<u8> = [1u32, flags, len].iter().flat_map(|word| word.to_ne_bytes()).collect();
            io::Write::write_all(&mut &a, &bytes).unwrap();
            assert_eq!(receive(&b).unwrap_err().kind(), io::ErrorKind::InvalidData, "{flags:#x} {len}");
        }
        let (a, b) = UnixStream::pair().unwrap();
        io::Write::write_all(&mut &a, &[1, 0, 0]).unwrap();
        drop(a);
        assert_eq!(receive(&b).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
