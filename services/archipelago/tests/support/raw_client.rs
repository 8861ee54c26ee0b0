//! A client that sends and takes single bytes of the protocol.
#![allow(dead_code, missing_docs)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use archipelago_service::nbd::wire::{self, reply};

pub struct Client(pub UnixStream);

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn take_vec(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn greet(&mut self, flags: u32) {
        let greeting: [u8; 18] = self.take();
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
        self.send(&flags.to_be_bytes());
    }

    /// One answer to an option: its type and data.
    pub fn answer(&mut self, code: u32) -> (u32, Vec<u8>) {
        assert_eq!(u64::from_be_bytes(self.take()), wire::OPTION_REPLY_MAGIC);
        assert_eq!(u32::from_be_bytes(self.take()), code);
        let kind = u32::from_be_bytes(self.take());
        let len = u32::from_be_bytes(self.take()) as usize;
        (kind, self.take_vec(len))
    }

    /// Sends an option and takes all answers to the last.
    pub fn ask(&mut self, code: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send(&opt(code, data));
        let mut answers = Vec::new();
        loop {
            let answer = self.answer(code);
            let last = answer.0 == reply::ACK || answer.0 >> 31 == 1;
            answers.push(answer);
            if last {
                return answers;
            }
        }
    }

    pub fn request(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, len: u32) {
        self.send(&request(command, flags, cookie, offset, len));
    }

    /// A simple reply: error and cookie.
    pub fn simple(&mut self) -> (u32, u64) {
        assert_eq!(u32::from_be_bytes(self.take()), wire::SIMPLE_REPLY_MAGIC);
        (u32::from_be_bytes(self.take()), u64::from_be_bytes(self.take()))
    }

    /// A chunk: flags, type, cookie, content.
    pub fn chunk(&mut self) -> (u16, u16, u64, Vec<u8>) {
        assert_eq!(u32::from_be_bytes(self.take()), wire::CHUNK_MAGIC);
        let (flags, kind) = (u16::from_be_bytes(self.take()), u16::from_be_bytes(self.take()));
        let cookie = u64::from_be_bytes(self.take());
        let len = u32::from_be_bytes(self.take()) as usize;
        (flags, kind, cookie, self.take_vec(len))
    }

    /// Sends a request after `EXTENDED_HEADERS`; `payload` is what follows it.
    pub fn extended(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, len: u64, payload: &[u8]) {
        let mut out = wire::EXTENDED_REQUEST_MAGIC.to_be_bytes().to_vec();
        out.extend(flags.to_be_bytes());
        out.extend(command.to_be_bytes());
        out.extend(cookie.to_be_bytes());
        out.extend(offset.to_be_bytes());
        out.extend(len.to_be_bytes());
        out.extend(payload);
        self.send(&out);
    }

    /// A chunk after `EXTENDED_HEADERS`: flags, type, cookie, offset of the request, content.
    pub fn extended_chunk(&mut self) -> (u16, u16, u64, u64, Vec<u8>) {
        assert_eq!(u32::from_be_bytes(self.take()), wire::EXTENDED_CHUNK_MAGIC);
        let (flags, kind) = (u16::from_be_bytes(self.take()), u16::from_be_bytes(self.take()));
        let (cookie, offset) = (u64::from_be_bytes(self.take()), u64::from_be_bytes(self.take()));
        let len = u64::from_be_bytes(self.take());
        (flags, kind, cookie, offset, self.take_vec(len as usize))
    }

    /// The connection was closed by the server, and nothing else came before.
    pub fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0; 1]) {
            Ok(n) => n == 0,
            // The time that a test waits is over.
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

pub fn opt(code: u32, data: &[u8]) -> Vec<u8> {
    let mut out = wire::OPTION_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out
}

pub fn go(name: &str, kinds: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(kinds.len() as u16).to_be_bytes());
    kinds.iter().for_each(|k| data.extend_from_slice(&k.to_be_bytes()));
    data
}

pub fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend_from_slice(&(query.len() as u32).to_be_bytes());
        data.extend_from_slice(query.as_bytes());
    }
    data
}

pub fn request(command: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut out = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&command.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out
}
