//! Keeps so many requests under way on one connection: takes all replies that are there, sends as many new requests together. Data that is
//! read is thrown away where it arrives.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use archipelago_service::nbd::client::{self, Request};
use archipelago_service::nbd::uri::{Server, Uri};
use archipelago_service::nbd::wire::command;

use super::super::Numbers;
use super::{Case, SIZE};

/// A connection in transmission.
pub struct Client {
    client: client::Client,
    /// Requests that are not under way, and where the next of each goes.
    free: Vec<(usize, u64)>,
    depth: usize,
    payload: Vec<u8>,
}

impl Client {
    /// Enters an export for requests like these.
    pub fn connect(path: &Path, export: &str, case: Case) -> io::Result<Client> {
        let uri = Uri { server: Server::Unix(path.into()), export: export.into() };
        let client = client::Client::connect(&uri, case.depth, case.len)?;
        let free = (0..case.depth).map(|tag| (tag, 0)).collect();
        Ok(Client { client, free, depth: case.depth, payload: vec![3; case.len] })
    }

    /// Asks for that long. Requests that were answered, and the time from the first request to the last reply.
    pub fn run(&mut self, case: Case, time: Duration, numbers: &mut Numbers) -> io::Result<(u64, Duration)> {
        let start = Instant::now();
        let mut count = 0;
        loop {
            if start.elapsed() < time {
                self.send(case, numbers)?;
            } else if self.free.len() == self.depth {
                return Ok((count, start.elapsed()));
            }
            count += self.receive()?;
        }
    }

    /// Sends all requests that are not under way, together.
    fn send(&mut self, case: Case, numbers: &mut Numbers) -> io::Result<()> {
        for (_, offset) in &mut self.free {
            *offset = numbers.next() % (SIZE / case.len as u64) * case.len as u64;
        }
        let (command, payload) =
            if case.write { (command::WRITE, &self.payload[..]) } else { (command::READ, &[][..]) };
        let len = case.len as u32;
        self.client.send(self.free.iter().map(|&(tag, offset)| Request { command, tag, offset, len, payload }))?;
        self.free.clear();
        Ok(())
    }

    /// Takes what is there.
    fn receive(&mut self) -> io::Result<u64> {
        let (before, mut failed) = (self.free.len(), false);
        self.client.receive(&mut |answer| {
            failed |= answer.error != 0;
            self.free.push((answer.tag, 0));
        })?;
        if failed { Err(io::Error::other("a request failed")) } else { Ok((self.free.len() - before) as u64) }
    }
}
