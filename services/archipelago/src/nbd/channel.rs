//! What a connection is read from and written to: its socket as it is, or TLS over it. Used by the connection's own thread alone; others
//! reach the socket beneath, to shut it down.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::socket::Stream;
use super::tls::{self, Session};

/// The bytes of a connection.
pub struct Channel {
    socket: Arc<Stream>,
    tls: Option<RefCell<Session>>,
}

impl Channel {
    /// The socket as it is.
    pub fn new(socket: Arc<Stream>) -> Channel {
        Channel { socket, tls: None }
    }

    /// Answers the client's side of TLS until `deadline`; from then on everything is encrypted.
    pub fn encrypt(&mut self, config: &tls::Config, deadline: Instant) -> io::Result<()> {
        let mut session = config.session()?;
        while session.is_handshaking() {
            self.arm(deadline)?;
            session.step(&self.socket)?;
        }
        self.tls = Some(RefCell::new(session));
        Ok(())
    }

    /// Lets the next read and write wait until `deadline` and no longer.
    pub fn arm(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_timeout(Some(left))
    }

    /// Longest wait of one read and of one write; `None` waits for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_timeout(timeout)
    }

    /// Longest wait of one read.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    /// Reads what there is, waiting if there is nothing. 0 is the end.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.socket.read(buf),
            Some(session) => session.borrow_mut().read(&self.socket, buf, true),
        }
    }

    /// Reads until `buf` is full, whatever time was set for one read.
    pub fn read_exact(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read(buf) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => buf = &mut buf[n..],
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what there is now. `None` if there is nothing yet; 0 is the end.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match &self.tls {
            None => self.socket.try_read(buf),
            Some(session) => match session.borrow_mut().read(&self.socket, buf, false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                other => other.map(Some),
            },
        }
    }

    /// Writes some of `parts`, waiting for room.
    pub fn write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.tls {
            None => self.socket.write_vectored(parts),
            Some(session) => session.borrow_mut().write(&self.socket, parts),
        }
    }

    /// Whether the peer has closed the connection, and not only ended what it sends.
    pub fn is_gone(&self) -> bool {
        self.socket.is_gone()
    }

    /// Says goodbye where the protocol beneath has a word for it. The client may be gone, or deaf.
    pub fn close(&self, time: Duration) {
        if let Some(session) = &self.tls
            && self.socket.set_timeout(Some(time)).is_ok()
        {
            let _ = session.borrow_mut().close(&self.socket);
        }
    }
}
