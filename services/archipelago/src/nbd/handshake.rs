//! Carries a negotiation over a socket: exact reads, so that no byte of the transmission is taken, and one deadline.

use std::io;
use std::time::Instant;

use super::channel::Channel;
use super::limits::{MAX_DRAINED_OPTION, MAX_OPTION_DATA};
use super::negotiate::{Encryption, Negotiation, Refusal, Session, Step, greeting};
use super::tls;
use super::wire::{Cursor, OPTION_HEADER, OPTION_MAGIC};
use crate::disk::device::Exports;

/// What a server brings into a negotiation.
pub struct Terms<'a> {
    /// What may be opened.
    pub exports: &'a dyn Exports,
    /// Encryption, without which nothing is answered.
    pub tls: Option<&'a tls::Config>,
    /// When it must be over.
    pub deadline: Instant,
    /// Asked before each option.
    pub refusal: &'a dyn Fn() -> Option<Refusal>,
    /// Told why encryption with the client failed.
    pub failed_tls: &'a dyn Fn(&io::Error),
}

/// Negotiates with a client. `Ok(None)` is an end without an export.
pub fn negotiate(channel: &mut Channel, terms: &Terms<'_>) -> io::Result<Option<Session>> {
    let Terms { exports, tls, deadline, refusal, failed_tls } = *terms;
    let mut flags = [0; 4];
    write(channel, &greeting(), deadline)?;
    read(channel, &mut flags, deadline)?;
    let encryption = if tls.is_some() { Encryption::Required } else { Encryption::Unknown };
    let negotiation = Negotiation::new(exports, encryption, u32::from_be_bytes(flags));
    let Some(mut negotiation) = negotiation else { return Ok(None) };
    let mut data = Vec::new();
    let mut out = Vec::new();
    loop {
        let mut header = [0; OPTION_HEADER];
        read(channel, &mut header, deadline)?;
        let mut cursor = Cursor(&header);
        let (Some(OPTION_MAGIC), Some(code), Some(len)) = (cursor.u64(), cursor.u32(), cursor.u32()) else {
            return Ok(None);
        };
        out.clear();
        let step = if len as usize <= MAX_OPTION_DATA {
            data.resize(len as usize, 0);
            read(channel, &mut data, deadline)?;
            negotiation.option(code, &data, refusal(), &mut out)
        } else {
            let step = negotiation.too_big(code, refusal(), &mut out);
            if len <= MAX_DRAINED_OPTION && matches!(step, Step::Continue) {
                drain(channel, len, deadline)?;
                step
            } else {
                Step::Close
            }
        };
        write(channel, &out, deadline)?;
        match step {
            Step::Continue => {}
            Step::Encrypt => {
                let Some(tls) = tls else { return Ok(None) };
                channel.encrypt(tls, deadline).inspect_err(failed_tls)?;
                negotiation.encrypted();
            }
            Step::Transmit(session) => return Ok(Some(session)),
            Step::Close => return Ok(None),
        }
    }
}

fn read(channel: &Channel, mut buf: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buf.is_empty() {
        channel.arm(deadline)?;
        match channel.read(buf) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => buf = &mut buf[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write(channel: &Channel, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        channel.arm(deadline)?;
        match channel.write_vectored(&[io::IoSlice::new(bytes)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn drain(channel: &Channel, len: u32, deadline: Instant) -> io::Result<()> {
    let mut left = len as usize;
    let mut scrap = [0; 4096];
    while left > 0 {
        let n = left.min(scrap.len());
        read(channel, &mut scrap[..n], deadline)?;
        left -= n;
    }
    Ok(())
}
