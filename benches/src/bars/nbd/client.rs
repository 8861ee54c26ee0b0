//! A client that keeps so many requests under way: takes all replies that are there, sends as many new requests together. Simple replies
//! only, and data that is read is thrown away where it arrives.

use std::io::{self, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::Numbers;
use super::{Case, SIZE};

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const GO: u32 = 7;
const ACK: u32 = 1;
const REPLY_MAGIC: u32 = 0x6744_6698;
const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Bytes of a request without data, and of a reply.
const REQUEST: usize = 28;
const REPLY: usize = 16;
/// Bytes taken by one call: all replies to 4 KiB reads at depth 32.
const INBOX: usize = 256 << 10;

/// A connection in transmission.
pub struct Client {
    stream: UnixStream,
    /// Heads of the requests under way, by their cookie.
    heads: Vec<[u8; REQUEST]>,
    free: Vec<usize>,
    payload: Vec<u8>,
    inbox: Vec<u8>,
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Client {
    /// Enters an export for requests like these.
    pub fn connect(path: &Path, export: &str, case: Case) -> io::Result<Client> {
        let mut stream = UnixStream::connect(path)?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        if !greeting.starts_with(b"NBDMAGICIHAVEOPT") {
            return Err(broken("this is no server of network block devices"));
        }
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend(OPTION_MAGIC.to_be_bytes());
        hello.extend(GO.to_be_bytes());
        hello.extend((export.len() as u32 + 6).to_be_bytes());
        hello.extend((export.len() as u32).to_be_bytes());
        hello.extend(export.as_bytes());
        hello.extend(0u16.to_be_bytes());
        stream.write_all(&hello)?;
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head)?;
            let field = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let mut data = vec![0; field(16) as usize];
            stream.read_exact(&mut data)?;
            match field(12) {
                ACK => break,
                kind if kind >> 31 == 1 => return Err(broken(&String::from_utf8_lossy(&data))),
                _ => {}
            }
        }
        let free = (0..case.depth).collect();
        let heads = vec![[0; REQUEST]; case.depth];
        Ok(Client { stream, heads, free, payload: vec![3; case.len], inbox: vec![0; INBOX] })
    }

    /// Asks for that long. Requests that were answered, and the time from the first request to the last reply.
    pub fn run(&mut self, case: Case, time: Duration, numbers: &mut Numbers) -> io::Result<(u64, Duration)> {
        let start = Instant::now();
        let mut count = 0;
        loop {
            if start.elapsed() < time {
                self.send(case, numbers)?;
            } else if self.free.len() == self.heads.len() {
                return Ok((count, start.elapsed()));
            }
            count += self.receive(case)?;
        }
    }

    /// Sends a request for each free cookie, all together.
    fn send(&mut self, case: Case, numbers: &mut Numbers) -> io::Result<()> {
        for &cookie in &self.free {
            let head = &mut self.heads[cookie];
            let at = numbers.next() % (SIZE / case.len as u64) * case.len as u64;
            head[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
            head[6..8].copy_from_slice(&u16::from(case.write).to_be_bytes());
            head[8..16].copy_from_slice(&(cookie as u64).to_be_bytes());
            head[16..24].copy_from_slice(&at.to_be_bytes());
            head[24..].copy_from_slice(&(case.len as u32).to_be_bytes());
        }
        let mut parts = Vec::with_capacity(2 * self.free.len());
        for cookie in self.free.drain(..) {
            parts.push(IoSlice::new(&self.heads[cookie]));
            if case.write {
                parts.push(IoSlice::new(&self.payload));
            }
        }
        let mut left = &mut parts[..];
        while !left.is_empty() {
            let n = self.stream.write_vectored(left)?;
            IoSlice::advance_slices(&mut left, n);
        }
        Ok(())
    }

    /// Takes what is there, and the rest of a reply that is not there whole.
    fn receive(&mut self, case: Case) -> io::Result<u64> {
        let data = if case.write { 0 } else { case.len };
        let (mut count, mut have) = (0, 0);
        loop {
            match self.stream.read(&mut self.inbox[have..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => have += n,
            }
            let mut at = 0;
            while have - at >= REPLY {
                let head = &self.inbox[at..at + REPLY];
                if head[..4] != REPLY_MAGIC.to_be_bytes() || head[4..8] != [0; 4] {
                    return Err(broken("a request failed"));
                }
                let cookie = usize::from(head[15]);
                let here = have - at - REPLY;
                if here < data && data > INBOX {
                    // The rest of a large reply, over and over into the same memory.
                    let mut rest = data - here;
                    while rest > 0 {
                        let most = rest.min(INBOX);
                        match self.stream.read(&mut self.inbox[..most])? {
                            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                            n => rest -= n,
                        }
                    }
                    have = at + REPLY + data;
                } else if here < data {
                    break;
                }
                at += REPLY + data;
                self.free.push(cookie);
                count += 1;
            }
            if at >= have {
                return Ok(count);
            }
            self.inbox.copy_within(at..have, 0);
            have -= at;
        }
    }
}
