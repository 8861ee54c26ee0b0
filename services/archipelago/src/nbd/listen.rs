//! Listening sockets: where a server may be reached, and the care that a socket file needs.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::limits::SOCKET_LOCK_TIME;
use super::socket::{Stream, shutdown_listener};

/// Mode of a socket file unless asked otherwise: only the server's own user may connect.
pub const DEFAULT_SOCKET_MODE: u32 = 0o600;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// A Unix socket.
    Unix {
        /// Its file.
        path: PathBuf,
        /// Permission bits of the file; whoever may write to it may connect. See [`DEFAULT_SOCKET_MODE`].
        mode: u32,
    },
    /// A TCP socket.
    Tcp {
        /// Address and port; port 0 takes any.
        address: SocketAddr,
        /// Allows an address that other machines can reach, although nobody there is asked who they are.
        allow_remote: bool,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix { path, .. } => write!(f, "{}", path.display()),
            Endpoint::Tcp { address, .. } => write!(f, "{address}"),
        }
    }
}

impl Endpoint {
    /// Refuses an address that other machines can reach, unless clients are asked who they are or that was allowed.
    pub fn check(&self, authenticated: bool) -> Result<(), ListenError> {
        match self {
            Endpoint::Tcp { address, allow_remote }
                if !(address.ip().to_canonical().is_loopback() || authenticated || *allow_remote) =>
            {
                Err(ListenError::Remote(*address))
            }
            _ => Ok(()),
        }
    }
}

/// Why a server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address that other machines can reach.
    #[error(
        "{0}: other machines could reach this address, and nobody there would be asked who they are: anybody could read and write \
         every export; have TLS with certificates of clients (--tls-cert, --tls-key, --tls-client-ca), or use a Unix socket or \
         127.0.0.1 (over an SSH tunnel from afar), or allow remote clients explicitly (--allow-remote)"
    )]
    Remote(SocketAddr),
    /// Another server answers on the socket file.
    #[error("{}: a server is listening there already; stop it or choose another path", .0.display())]
    InUse(PathBuf),
    /// The path is something else than a socket.
    #[error("{}: exists and is no socket; remove it or choose another path", .0.display())]
    NotSocket(PathBuf),
    /// A system call failed.
    #[error("{endpoint}: {op}: {source}")]
    Io {
        /// Where.
        endpoint: String,
        /// What was tried.
        op: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A listening socket.
pub struct Listener {
    socket: Socket,
    endpoint: Endpoint,
    closed: AtomicBool,
}

enum Socket {
    /// With device and inode of the file, so that only our own is removed.
    Unix(UnixListener, (u64, u64)),
    Tcp(TcpListener),
}

impl Listener {
    /// Begins to listen. `authenticated` says that clients over TCP are asked who they are.
    pub fn bind(endpoint: &Endpoint, authenticated: bool) -> Result<Listener, ListenError> {
        match endpoint {
            Endpoint::Unix { path, mode } => {
                let (listener, file) = bind_unix(path, *mode)?;
                let (socket, closed) = (Socket::Unix(listener, file), AtomicBool::new(false));
                Ok(Listener { socket, endpoint: endpoint.clone(), closed })
            }
            Endpoint::Tcp { address, allow_remote } => {
                endpoint.check(authenticated)?;
                let fail = |op, source| ListenError::Io { endpoint: address.to_string(), op, source };
                let listener = TcpListener::bind(address).map_err(|e| fail("listen", e))?;
                // With port 0 the system chose one.
                let address = listener.local_addr().map_err(|e| fail("read the address", e))?;
                let endpoint = Endpoint::Tcp { address, allow_remote: *allow_remote };
                Ok(Listener { socket: Socket::Tcp(listener), endpoint, closed: AtomicBool::new(false) })
            }
        }
    }

    /// Where it listens, with the port that the system chose.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Waits for a client.
    pub fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Unix(listener, _) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                // Replies are gathered here; waiting for more of them in the kernel would only delay them.
                stream.set_nodelay(true)?;
                let stream = Stream::Tcp(stream);
                stream.keep_alive()?;
                Ok(stream)
            }
        }
    }

    /// Whether [`Listener::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends listening: wakes [`Listener::accept`], and removes the socket file if it is still this one's.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        shutdown_listener(self.fd());
        if let (Socket::Unix(_, ours), Endpoint::Unix { path, .. }) = (&self.socket, &self.endpoint)
            && fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == *ours)
        {
            // If that fails the next server finds a file that nobody answers on, and replaces it.
            let _ = fs::remove_file(path);
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(listener, _) => listener.as_fd(),
            Socket::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Listeners that are to replace those of a server, which serves on them once all are there. Closed if it does not come to that.
#[derive(Default)]
pub struct Fresh(Vec<Listener>);

impl Fresh {
    /// Begins to listen at all of these, or at none.
    pub fn bind<'a>(
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
        authenticated: bool,
    ) -> Result<Fresh, ListenError> {
        let mut fresh = Fresh::default();
        for endpoint in endpoints {
            fresh.0.push(Listener::bind(endpoint, authenticated)?);
        }
        Ok(fresh)
    }

    /// The listeners, in the order of what they were bound to.
    pub fn take(mut self) -> Vec<Listener> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.0.iter().for_each(Listener::close);
    }
}

/// Binds in a private directory, sets the mode there, and moves the socket into place: at no time can anybody connect whom the
/// mode does not allow, and a file left by a dead server is replaced in one step.
fn bind_unix(path: &Path, mode: u32) -> Result<(UnixListener, (u64, u64)), ListenError> {
    let fail = |op, source| ListenError::Io { endpoint: path.display().to_string(), op, source };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Two servers that find the same dead socket must not both replace it: the second waits, and then finds the first alive.
    let _turn = lock_directory(parent).map_err(|e| fail("lock its directory", e))?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("look at it", error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotSocket(path.to_path_buf())),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(ListenError::InUse(path.to_path_buf())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(fail("find out whether a server is listening there", error)),
        },
    }
    let private = PrivateDirectory::new(parent).map_err(|e| fail("make a private directory beside it", e))?;
    let place = private.0.join("s");
    let listener = UnixListener::bind(&place).map_err(|e| fail("listen", e))?;
    fs::set_permissions(&place, fs::Permissions::from_mode(mode)).map_err(|e| fail("set its mode", e))?;
    let made = fs::symlink_metadata(&place).map_err(|e| fail("look at it", e))?;
    fs::rename(&place, path).map_err(|e| fail("move it into place", e))?;
    Ok((listener, (made.dev(), made.ino())))
}

/// The path under which the kernel lists the socket at `path`, and the connections to it, of the server that is this process: the one where
/// it was bound.
pub(crate) fn bound_at(path: &Path, server: u32) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).join(private_name(server)).join("s")
}

/// Name of the directory in which a process binds a socket.
fn private_name(process: u32) -> String {
    format!(".n{process}")
}

fn lock_directory(directory: &Path) -> io::Result<File> {
    let file = File::open(directory)?;
    let begin = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if begin.elapsed() >= SOCKET_LOCK_TIME => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another process keeps it locked"));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// A directory that only we may enter, removed with what is in it.
struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    fn new(parent: &Path) -> io::Result<PrivateDirectory> {
        // The name is short: a socket's path may have no more than 107 bytes. Under the directory's lock only a dead process of
        // the same id can have left one.
        let path = parent.join(private_name(std::process::id()));
        let _ = fs::remove_file(path.join("s"));
        let _ = fs::remove_dir(&path);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(PrivateDirectory(path))
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.join("s"));
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> Endpoint {
        Endpoint::Unix { path: path.to_path_buf(), mode: DEFAULT_SOCKET_MODE }
    }

    #[test]
    fn s55_a_socket_file_is_for_its_owner_only_unless_asked_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [DEFAULT_SOCKET_MODE, 0o660, 0o666] {
            let path = dir.path().join(format!("s{mode:o}"));
            let _listener = Listener::bind(&Endpoint::Unix { path: path.clone(), mode }, false).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
        }
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "no private directory stays behind: {left:?}");
    }

    #[test]
    fn s55_a_socket_of_a_dead_server_is_replaced_and_a_live_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let first = Listener::bind(&unix(&path), false).unwrap();
        assert!(matches!(Listener::bind(&unix(&path), false), Err(ListenError::InUse(_))));
        UnixStream::connect(&path).expect("the first still listens");
        first.close();
        assert!(!path.exists());
    }

    #[test]
    fn s55_a_file_that_is_no_socket_is_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(Listener::bind(&unix(&path), false), Err(ListenError::NotSocket(_))));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Listener::bind(&unix(&link), false), Err(ListenError::NotSocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn s55_a_socket_that_took_the_place_is_not_removed_at_close() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = Listener::bind(&unix(&path), false).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Listener::bind(&unix(&path), false).unwrap();
        first.close();
        assert!(path.exists());
        second.close();
        assert!(!path.exists());
    }

    #[test]
    fn s55_addresses_that_other_machines_reach_need_an_explicit_word() {
        for text in ["0.0.0.0:0", "[::]:0", "192.0.2.1:10809", "[2001:db8::1]:10809", "[::ffff:192.0.2.1]:0"] {
            let address: SocketAddr = text.parse().unwrap();
            let refused = Listener::bind(&Endpoint::Tcp { address, allow_remote: false }, false);
            let Err(error @ ListenError::Remote(_)) = refused else { panic!("{text} was accepted") };
            assert!(error.to_string().contains("--tls-client-ca"), "{error}");
        }
        let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&Endpoint::Tcp { address, allow_remote: false }, false).unwrap();
        assert!(matches!(listener.endpoint(), Endpoint::Tcp { address, .. } if address.port() != 0));
        let any = "0.0.0.0:0".parse().unwrap();
        assert!(Listener::bind(&Endpoint::Tcp { address: any, allow_remote: true }, false).is_ok());
        assert!(Listener::bind(&Endpoint::Tcp { address: any, allow_remote: false }, true).is_ok());
    }

    #[test]
    fn closing_wakes_a_thread_that_waits_for_clients() {
        let dir = tempfile::tempdir().unwrap();
        let tcp = Endpoint::Tcp { address: "127.0.0.1:0".parse().unwrap(), allow_remote: false };
        for endpoint in [unix(&dir.path().join("socket")), tcp] {
            let listener = Listener::bind(&endpoint, false).unwrap();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| listener.accept());
                std::thread::sleep(Duration::from_millis(20));
                listener.close();
                assert!(waiting.join().unwrap().is_err());
            });
        }
    }
}
