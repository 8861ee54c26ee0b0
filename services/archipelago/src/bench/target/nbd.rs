//! An export of a server of network block devices.

use std::time::Duration;

use super::super::args::{Bench, Verify};
use super::super::plan::{Kind, Objects, Plan, Request};
use super::super::processor;
use super::{Ended, Target};
use crate::cli::exit::Failure;
use crate::nbd::client::{self, Client};
use crate::nbd::uri::Uri;
use crate::nbd::wire::{command, flag};

/// A connection. Requests that begin between two waits are sent together.
pub struct Export {
    client: Client,
    uri: String,
    bufs: Vec<Vec<u8>>,
    /// Begun, and not sent yet.
    begun: Vec<(usize, Request)>,
    /// Whether anybody looks at what was read.
    looks: bool,
}

/// Enters an export.
pub fn open(args: &Bench, text: &str) -> Result<(Plan, Export), Failure> {
    let uri = Uri::parse(text).map_err(Failure::Usage)?;
    // Wrong options are refused before anything is asked for so many bytes.
    let depth = usize::from(args.iodepth);
    Plan::new(args, Objects::Target, args.os.or(Some(args.bs)))?;
    let client = Client::connect(&uri, depth, args.bs as usize).map_err(|e| Failure::host("connect to", text, e))?;
    let plan = Plan::new(args, Objects::Target, Some(client.size()))?;
    if plan.writes() {
        if client.has(flag::READ_ONLY) {
            return Err(archipelago_core::Error::ReadOnly(text.to_string()).into());
        }
        if !args.overwrite {
            return Err(Failure::HasData(text.to_string()));
        }
    }
    let mut bufs = vec![vec![0; args.bs as usize]; depth];
    bufs.iter_mut().for_each(|buf| plan.content().prepare(buf));
    let looks = plan.verify != Verify::No;
    Ok((plan, Export { client, uri: text.to_string(), bufs, begun: Vec::with_capacity(depth), looks }))
}

impl Target for Export {
    fn describe(&self) -> String {
        self.uri.clone()
    }

    fn buffer(&mut self, tag: usize) -> &mut [u8] {
        &mut self.bufs[tag]
    }

    fn start(&mut self, tag: usize, request: Request) -> Result<(), Failure> {
        self.begun.push((tag, request));
        Ok(())
    }

    fn wait(&mut self, ended: &mut Vec<Ended>) -> Result<(), Failure> {
        let broken = |e| Failure::host("talk to", &self.uri, e);
        if !self.begun.is_empty() {
            let requests = self.begun.iter().map(|(tag, request)| {
                let (command, payload) = match request.kind {
                    Kind::Write => (command::WRITE, &self.bufs[*tag][..]),
                    _ => (command::READ, &[][..]),
                };
                let len = self.bufs[*tag].len() as u32;
                client::Request { command, tag: *tag, offset: request.offset, len, payload }
            });
            self.client.send(requests).map_err(broken)?;
            self.begun.clear();
        }
        let (bufs, looks, uri) = (&mut self.bufs, self.looks, &self.uri);
        let mut each = |answer: client::Answer<'_>| {
            if looks && !answer.data.is_empty() {
                bufs[answer.tag].copy_from_slice(answer.data);
            }
            ended.push(Ended { tag: answer.tag, result: result(answer.error, uri) });
        };
        self.client.receive(&mut each).map_err(broken)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if !self.client.has(flag::SEND_FLUSH) {
            return Ok(());
        }
        let broken = |e| Failure::host("flush", &self.uri, e);
        let flush = client::Request { command: command::FLUSH, tag: 0, offset: 0, len: 0, payload: &[] };
        self.client.send(std::iter::once(flush)).map_err(broken)?;
        let mut error = 0;
        self.client.receive(&mut |answer| error = answer.error).map_err(broken)?;
        result(error, &self.uri)
    }

    fn served_by(&self) -> Option<Duration> {
        let server = self.client.server().filter(|process| *process != std::process::id() as i32)?;
        processor::of(server).ok()
    }
}

/// An error number of the protocol, which are those of Linux.
fn result(error: u32, uri: &str) -> Result<(), Failure> {
    match i32::try_from(error) {
        Ok(0) => Ok(()),
        number => {
            let source = std::io::Error::from_raw_os_error(number.unwrap_or(libc::EIO));
            Err(Failure::host("ask", uri, source))
        }
    }
}
