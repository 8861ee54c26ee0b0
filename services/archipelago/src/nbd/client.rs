//! A client that keeps many requests under way on one connection, sends together what was asked for together, and takes all replies that
//! are there by one call. It asks for simple replies; for measurements, not for disks.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::PollFlags;

use super::socket::Stream;
use super::uri::{Server, Uri};
use super::wire::{self, command, handshake, info, option, reply};

/// Bytes taken by one call: all replies to 4 KiB reads at depth 32.
const INBOX: usize = 256 << 10;
/// Bytes of a simple reply without its data.
const REPLY: usize = 16;
/// Longest wait for any bytes of a server that owes some.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest data of an answer to an option that is taken: an error's text, or facts.
const MAX_ANSWER: usize = 64 << 10;

/// A connection that entered an export.
pub struct Client {
    stream: Stream,
    size: u64,
    flags: u16,
    /// Heads of what is being sent.
    heads: Vec<[u8; wire::REQUEST]>,
    /// Bytes of data in the reply to each request under way, by its tag.
    owed: Vec<Option<usize>>,
    /// Received, and not handed out yet: `inbox[..have]`. Holds the replies to all requests at once.
    inbox: Vec<u8>,
    have: usize,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// See [`command`].
    pub command: u16,
    /// Of the requests that are under way this one's alone; less than the depth.
    pub tag: usize,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
    /// What is written; empty for all but writes.
    pub payload: &'a [u8],
}

/// The reply to a request.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The request's.
    pub tag: usize,
    /// 0, or an error number of the protocol.
    pub error: u32,
    /// What was read.
    pub data: &'a [u8],
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Client {
    /// Enters an export, for at most `depth` requests at once of at most `len` bytes each.
    pub fn connect(uri: &Uri, depth: usize, len: usize) -> io::Result<Client> {
        let stream = match &uri.server {
            Server::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            Server::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port))?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        };
        Client::on(stream, &uri.export, depth, len)
    }

    /// Enters an export of the server at the other end of a socket.
    pub(crate) fn on(stream: Stream, export: &str, depth: usize, len: usize) -> io::Result<Client> {
        stream.set_timeout(Some(PATIENCE))?;
        let inbox = vec![0; INBOX.max(depth * (len + REPLY))];
        let mut client = Client {
            stream,
            size: 0,
            flags: 0,
            heads: Vec::with_capacity(depth),
            owed: vec![None; depth],
            inbox,
            have: 0,
        };
        client.enter(export)?;
        Ok(client)
    }

    fn enter(&mut self, export: &str) -> io::Result<()> {
        let mut greeting = [0; 18];
        self.read_exact(&mut greeting)?;
        if !greeting.starts_with(b"NBDMAGICIHAVEOPT") {
            return Err(broken("this is no server of network block devices, or one of the old protocol"));
        }
        let flags = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        let mut hello = flags.to_be_bytes().to_vec();
        hello.extend(wire::OPTION_MAGIC.to_be_bytes());
        hello.extend(option::GO.to_be_bytes());
        hello.extend((export.len() as u32 + 6).to_be_bytes());
        hello.extend((export.len() as u32).to_be_bytes());
        hello.extend(export.as_bytes());
        hello.extend(0u16.to_be_bytes());
        self.write_all(&mut [IoSlice::new(&hello)])?;
        loop {
            let mut head = [0; 20];
            self.read_exact(&mut head)?;
            let mut cursor = wire::Cursor(&head[12..]);
            let (kind, len) = (cursor.u32().unwrap_or(0), cursor.u32().unwrap_or(0) as usize);
            if len > MAX_ANSWER {
                return Err(broken("the server answered with more than 64 KiB"));
            }
            let mut data = vec![0; len];
            self.read_exact(&mut data)?;
            let mut cursor = wire::Cursor(&data);
            match kind {
                reply::ACK => return Ok(()),
                reply::INFO if cursor.u16() == Some(info::EXPORT) => {
                    let facts = cursor.u64().zip(cursor.u16());
                    (self.size, self.flags) = facts.ok_or_else(|| broken("the server's facts are cut short"))?;
                }
                reply::ERR_UNKNOWN => {
                    return Err(io::Error::new(io::ErrorKind::NotFound, refusal(&data, "no such export")));
                }
                kind if kind >> 31 == 1 => return Err(io::Error::other(refusal(&data, "the server refuses"))),
                _ => {}
            }
        }
    }

    /// Size of the export in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the export says this about itself; see [`wire::flag`].
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// What the export says about itself; see [`wire::flag`].
    pub(crate) fn flags(&self) -> u16 {
        self.flags
    }

    /// The connection, for somebody else to go on with. Nothing is under way.
    pub(crate) fn into_stream(self) -> io::Result<Stream> {
        self.stream.set_timeout(None)?;
        Ok(self.stream)
    }

    /// Process of the server, where the system tells.
    pub fn server(&self) -> Option<i32> {
        match &self.stream {
            Stream::Unix(stream) => {
                nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials).ok().map(|c| c.pid())
            }
            Stream::Tcp(_) => None,
        }
    }

    /// Sends requests, together.
    pub fn send<'a>(&mut self, requests: impl Iterator<Item = Request<'a>> + Clone) -> io::Result<()> {
        let mut heads = std::mem::take(&mut self.heads);
        heads.clear();
        for request in requests.clone() {
            let mut head = [0; wire::REQUEST];
            head[..4].copy_from_slice(&wire::REQUEST_MAGIC.to_be_bytes());
            head[6..8].copy_from_slice(&request.command.to_be_bytes());
            head[8..16].copy_from_slice(&(request.tag as u64).to_be_bytes());
            head[16..24].copy_from_slice(&request.offset.to_be_bytes());
            head[24..].copy_from_slice(&request.len.to_be_bytes());
            heads.push(head);
            if let Some(owed) = self.owed.get_mut(request.tag) {
                *owed = Some(if request.command == command::READ { request.len as usize } else { 0 });
            }
        }
        let mut parts = Vec::with_capacity(2 * heads.len());
        for (head, request) in heads.iter().zip(requests) {
            parts.push(IoSlice::new(head));
            if !request.payload.is_empty() {
                parts.push(IoSlice::new(request.payload));
            }
        }
        let sent = self.write_all(&mut parts);
        self.heads = heads;
        sent
    }

    /// Writes all of it. A server that cannot send its replies may not take more requests, so replies that come meanwhile are taken in.
    fn write_all(&mut self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        while !parts.is_empty() {
            if let Some(n) = self.stream.try_write_vectored(parts)? {
                IoSlice::advance_slices(&mut parts, n);
                continue;
            }
            let room = if self.have < self.inbox.len() { PollFlags::POLLIN } else { PollFlags::empty() };
            let ready = self.stream.wait_for(PollFlags::POLLOUT | room, PATIENCE)?;
            if ready.contains(PollFlags::POLLIN) {
                match self.stream.try_read(&mut self.inbox[self.have..])? {
                    Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Some(n) => self.have += n,
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Waits for a reply, and hands out all that are there.
    pub fn receive(&mut self, each: &mut dyn FnMut(Answer<'_>)) -> io::Result<()> {
        loop {
            let (mut at, mut count) = (0, 0);
            while let Some((tag, error, data)) = self.whole(at)? {
                (at, count) = (data.end, count + 1);
                self.owed[tag] = None;
                each(Answer { tag, error, data: &self.inbox[data] });
            }
            self.inbox.copy_within(at..self.have, 0);
            self.have -= at;
            if count > 0 {
                return Ok(());
            }
            // Not more than one call's worth, so that the same memory is used over and over; but all of a reply that is larger.
            let most = (self.have + INBOX).min(self.inbox.len());
            match retried(|| self.stream.read(&mut self.inbox[self.have..most]))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.have += n,
            }
        }
    }

    /// Tag and error of the reply that begins at `at`, and where its data is, if all of it is there.
    fn whole(&self, at: usize) -> io::Result<Option<(usize, u32, Range<usize>)>> {
        let mut cursor = wire::Cursor(&self.inbox[at..self.have]);
        let (Some(magic), Some(error), Some(cookie)) = (cursor.u32(), cursor.u32(), cursor.u64()) else {
            return Ok(None);
        };
        if magic != wire::SIMPLE_REPLY_MAGIC {
            return Err(broken("what the server sent is no reply"));
        }
        let tag = usize::try_from(cookie).unwrap_or(usize::MAX);
        let owed = self.owed.get(tag).copied().flatten();
        let owed = owed.ok_or_else(|| broken("the server answered what was not asked"))?;
        let begin = at + REPLY;
        let data = begin..begin + if error == 0 { owed } else { 0 };
        Ok((data.end <= self.have).then_some((tag, error, data)))
    }

    fn read_exact(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match retried(|| self.stream.read(buf))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => buf = &mut buf[n..],
            }
        }
        Ok(())
    }
}

/// A refusal in the server's words, or in ours if it has none.
fn refusal(data: &[u8], otherwise: &str) -> String {
    if data.is_empty() { otherwise.to_string() } else { String::from_utf8_lossy(data).into_owned() }
}

/// The result of a call that no signal interrupted.
fn retried(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not answer for a minute"));
            }
            other => return other,
        }
    }
}
