//! A server with a disk in memory, and a client that sends and takes single bytes of the protocol.
#![allow(dead_code, missing_docs)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago_service::nbd::wire::{option, reply};
use archipelago_service::nbd::{DEFAULT_SOCKET_MODE, Endpoint, Server, ServerOptions, wire};

use crate::memory_disk::{MemoryDisk, MemoryExports};

pub const SIZE: u64 = 64 << 20;

pub struct Fixture {
    pub _dir: tempfile::TempDir,
    pub path: PathBuf,
    pub exports: Arc<MemoryExports>,
    pub server: Server,
}

pub fn serve_with(disk: MemoryDisk, options: ServerOptions) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    let exports = MemoryExports::one(disk);
    let endpoint = Endpoint::Unix { path: path.clone(), mode: DEFAULT_SOCKET_MODE };
    let server = Server::start(Arc::clone(&exports) as _, &[endpoint], options).unwrap();
    Fixture { _dir: dir, path, exports, server }
}

pub fn serve() -> Fixture {
    serve_with(MemoryDisk::new(SIZE, false), ServerOptions::default())
}

impl Fixture {
    pub fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client(stream)
    }

    /// A client in transmission; with structured replies and block status if asked for.
    pub fn attached(&self, structured: bool) -> Client {
        let mut client = self.connect();
        client.greet(3);
        if structured {
            assert_eq!(client.ask(option::STRUCTURED_REPLY, &[]).last().unwrap().0, reply::ACK);
            client.ask(option::SET_META_CONTEXT, &contexts("disk", &[wire::BASE_ALLOCATION]));
        }
        assert_eq!(client.ask(option::GO, &go("disk", &[])).last().unwrap().0, reply::ACK);
        client
    }

    pub fn wait_until_nobody_is_left(&self) {
        let begin = Instant::now();
        while self.server.connections() > 0 || self.exports.open_handles() > 0 {
            assert!(begin.elapsed() < Duration::from_secs(10), "a connection or an open export was left behind");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

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

    /// The connection was closed by the server, and nothing else came before.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0) | Err(_))
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
