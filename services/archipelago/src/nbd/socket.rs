//! The sockets under the endpoint, and the system calls that the standard library does not offer on them.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, sendmsg};

/// A connected socket. Shared: one thread does its input and output, any other may shut it down.
#[derive(Debug)]
pub enum Stream {
    /// A Unix socket.
    Unix(UnixStream),
    /// A TCP socket.
    Tcp(TcpStream),
}

impl Stream {
    /// Reads what there is, waiting if there is nothing. 0 is the end.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => (&*s).read(buf),
            Stream::Tcp(s) => (&*s).read(buf),
        }
    }

    /// Reads what there is now. `None` if there is nothing yet; 0 is the end.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let fd = self.fd().as_raw_fd();
        // SAFETY: `buf` is valid for writes of `buf.len()` bytes for the whole call, and the descriptor is open as long
        // as `self` is borrowed.
        let n = unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT) };
        if n >= 0 {
            return Ok(Some(n as usize));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        }
    }

    /// Writes some of `parts`, waiting for room. A vanished peer is an error, not a signal: Rust programs start with
    /// SIGPIPE ignored.
    pub fn write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => (&*s).write_vectored(parts),
            Stream::Tcp(s) => (&*s).write_vectored(parts),
        }
    }

    /// Writes some of `parts`. `None` if there is no room for any of it now.
    pub fn try_write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        // More parts in one call are an error.
        let parts = &parts[..parts.len().min(libc::UIO_MAXIOV as usize)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(self.fd().as_raw_fd(), parts, &[], flags, None) {
            Ok(n) => Ok(Some(n)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for one of `events`, and says which there are.
    pub fn wait_for(&self, events: PollFlags, time: Duration) -> io::Result<PollFlags> {
        let mut fds = [PollFd::new(self.fd(), events)];
        let millis = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, millis) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::EINTR) => Ok(fds[0].revents().unwrap_or(PollFlags::empty())),
            Err(error) => Err(error.into()),
        }
    }

    /// Longest wait of one read and of one write; `None` waits for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        // Zero would mean "for ever" to the system, and is an error in the standard library.
        let timeout = timeout.map(|t| t.max(Duration::from_millis(1)));
        match self {
            Stream::Unix(s) => s.set_read_timeout(timeout).and_then(|()| s.set_write_timeout(timeout)),
            Stream::Tcp(s) => s.set_read_timeout(timeout).and_then(|()| s.set_write_timeout(timeout)),
        }
    }

    /// Longest wait of one read.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Unix(s) => s.set_read_timeout(timeout),
            Stream::Tcp(s) => s.set_read_timeout(timeout),
        }
    }

    /// Who is there, for the administrator.
    pub fn peer(&self) -> String {
        match self {
            Stream::Unix(_) => "a UNIX socket".to_string(),
            Stream::Tcp(s) => s.peer_addr().map_or_else(|_| "a client that left".to_string(), |peer| peer.to_string()),
        }
    }

    /// Ends one or both directions, and wakes whoever waits on them. A socket that has ended already is no error.
    pub fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Stream::Unix(s) => s.shutdown(how),
            Stream::Tcp(s) => s.shutdown(how),
        };
    }

    /// Makes the system notice a peer whose machine is gone, so that its export is not held for ever.
    pub fn keep_alive(&self) -> io::Result<()> {
        let Stream::Tcp(s) = self else { return Ok(()) };
        let on: libc::c_int = 1;
        let len = size_of_val(&on) as libc::socklen_t;
        // SAFETY: the option's value is one `c_int` that outlives the call, and `len` is its size.
        match unsafe {
            libc::setsockopt(s.as_raw_fd(), libc::SOL_SOCKET, libc::SO_KEEPALIVE, (&raw const on).cast(), len)
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether the peer has closed the connection, and not only ended what it sends.
    pub fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.fd(), PollFlags::empty())];
        let found = poll(&mut fds, PollTimeout::ZERO);
        found.is_ok()
            && fds[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        match self {
            Stream::Unix(s) => s.as_fd(),
            Stream::Tcp(s) => s.as_fd(),
        }
    }
}

/// Wakes a thread that waits in `accept` on this socket, for good: every later `accept` fails.
pub fn shutdown_listener(listener: BorrowedFd<'_>) {
    // SAFETY: plain integers; the descriptor is open as long as it is borrowed. An error means that it is shut down already.
    let _ = unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
}
