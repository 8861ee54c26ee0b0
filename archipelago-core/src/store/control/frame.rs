//! Frames of the control protocol: a length and that much JSON, each way under a deadline.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::os;
use crate::error::{Error, Result};
use crate::limits::MAX_CONTROL_MESSAGE;

/// Bytes of a frame taken from the socket at once: a frame costs memory only as it arrives.
const STEP: usize = 64 << 10;

/// One message as a frame; `Unsupported` if it is larger than a frame may be.
pub(super) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(|e| Error::Io {
        op: "encode",
        object: "control message".into(),
        source: io::Error::other(e),
    })?;
    let len = bytes.len() - 4;
    if len > MAX_CONTROL_MESSAGE {
        return Err(Error::Unsupported(format!(
            "the message of {len} bytes is larger than the control protocol allows"
        )));
    }
    bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(bytes)
}

/// Reads one frame's JSON; `None` if the peer closed before its first byte. `InvalidData` for a length that is not allowed.
pub(super) fn read(stream: &UnixStream, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0u8; 4];
    match fill(stream, &mut head, deadline)? {
        0 => return Ok(None),
        4 => {}
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    }
    let len = u32::from_le_bytes(head) as usize;
    if len == 0 || len > MAX_CONTROL_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a control message of {len} bytes")));
    }
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let start = bytes.len();
        let end = len.min(start + STEP);
        bytes.resize(end, 0);
        if fill(stream, &mut bytes[start..], deadline)? < end - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(bytes))
}

/// Writes encoded frames.
pub(super) fn write(stream: &UnixStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match os::send(stream, bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(e) => retry(e)?,
        }
    }
    Ok(())
}

/// Fills `buf`; returns less only at the end of the stream.
fn fill(stream: &UnixStream, buf: &mut [u8], deadline: Instant) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match (&*stream).read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(e) => retry(e)?,
        }
    }
    Ok(done)
}

/// Time until the deadline, never zero (which a socket takes for "for ever").
fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left.max(Duration::from_millis(1))),
    }
}

/// Passes over what is no failure: a signal, and the socket's timeout, after which the deadline is looked at again.
fn retry(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Ok(()),
        _ => Err(error),
    }
}
