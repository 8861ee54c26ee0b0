//! Carries a negotiation over a socket: exact reads, so that no byte of the transmission is taken, and one deadline.

use std::io;
use std::time::Instant;

use super::limits::{MAX_DRAINED_OPTION, MAX_OPTION_DATA};
use super::negotiate::{Negotiation, Refusal, Session, Step, greeting};
use super::socket::Stream;
use super::wire::{Cursor, OPTION_HEADER, OPTION_MAGIC};
use crate::disk::device::Exports;

/// Negotiates with a client until `deadline`. `Ok(None)` is an end without an export. `refusal` is asked before each option.
pub fn negotiate(
    stream: &Stream,
    exports: &dyn Exports,
    deadline: Instant,
    refusal: &dyn Fn() -> Option<Refusal>,
) -> io::Result<Option<Session>> {
    let mut flags = [0; 4];
    write(stream, &greeting(), deadline)?;
    read(stream, &mut flags, deadline)?;
    let Some(mut negotiation) = Negotiation::new(exports, u32::from_be_bytes(flags)) else { return Ok(None) };
    let mut data = Vec::new();
    let mut out = Vec::new();
    loop {
        let mut header = [0; OPTION_HEADER];
        read(stream, &mut header, deadline)?;
        let mut cursor = Cursor(&header);
        let (Some(OPTION_MAGIC), Some(code), Some(len)) = (cursor.u64(), cursor.u32(), cursor.u32()) else {
            return Ok(None);
        };
        out.clear();
        let step = if len as usize <= MAX_OPTION_DATA {
            data.resize(len as usize, 0);
            read(stream, &mut data, deadline)?;
            negotiation.option(code, &data, refusal(), &mut out)
        } else {
            let step = negotiation.too_big(code, refusal(), &mut out);
            if len <= MAX_DRAINED_OPTION && matches!(step, Step::Continue) {
                drain(stream, len, deadline)?;
                step
            } else {
                Step::Close
            }
        };
        write(stream, &out, deadline)?;
        match step {
            Step::Continue => {}
            Step::Transmit(session) => return Ok(Some(session)),
            Step::Close => return Ok(None),
        }
    }
}

/// Time left for one wait.
fn arm(stream: &Stream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.set_timeout(Some(left))
}

fn read(stream: &Stream, mut buf: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buf.is_empty() {
        arm(stream, deadline)?;
        match stream.read(buf) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => buf = &mut buf[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write(stream: &Stream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        arm(stream, deadline)?;
        match stream.write_vectored(&[io::IoSlice::new(bytes)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn drain(stream: &Stream, len: u32, deadline: Instant) -> io::Result<()> {
    let mut left = len as usize;
    let mut scrap = [0; 4096];
    while left > 0 {
        let n = left.min(scrap.len());
        read(stream, &mut scrap[..n], deadline)?;
        left -= n;
    }
    Ok(())
}
