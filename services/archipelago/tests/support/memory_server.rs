//! A server with a disk in memory.
#![allow(dead_code, missing_docs)]

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago_service::nbd::wire::{option, reply};
use archipelago_service::nbd::{DEFAULT_SOCKET_MODE, Endpoint, Server, ServerOptions, wire};

use crate::memory_disk::{MemoryDisk, MemoryExports};
use crate::raw_client::{Client, contexts, go};

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
