//! TLS: what a server has and asks for, and the encrypted bytes of one connection. Versions 1.2 and 1.3.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::limits::{MAX_PEM, TLS_BUFFER};
use super::socket::Stream;

/// Where the server's certificate and key are, and whose certificates clients must have. All files are PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// The server's certificate, and those between it and the authority that its clients trust.
    pub certificate: PathBuf,
    /// The key of the first certificate.
    pub key: PathBuf,
    /// Authorities: a client needs a certificate by one of them. Without, any client may connect.
    pub client_authorities: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it must.
    #[error("{}: {reason}", .path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Everybody can read the key, or change it.
    #[error("{}: others than its owner and group can use this key; run `chmod 600` on it", .0.display())]
    OpenKey(PathBuf),
}

/// What every encrypted connection of a server shares.
#[derive(Clone)]
pub struct Config {
    config: Arc<ServerConfig>,
    asks_clients: bool,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("asks_clients", &self.asks_clients).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads the files, as they are now: [`Server::prepare`](super::Server::prepare) takes a configuration that was read later.
    pub fn load(files: &Files) -> Result<Config, TlsError> {
        let content = |path: &Path, reason: String| TlsError::Content { path: path.to_path_buf(), reason };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| content(&files.certificate, e.to_string()))?;
        let builder = match &files.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path)? {
                    roots.add(authority).map_err(|e| content(path, format!("is no authority: {e}")))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| content(path, e.to_string()))?)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(&pem(&files.key, true)?)
            .map_err(|_| content(&files.key, "holds no private key in PEM; an encrypted one cannot be used".into()))?;
        let mut config = builder.with_single_cert(certificates(&files.certificate)?, key).map_err(|e| {
            content(&files.key, format!("does not fit the certificate in {}: {e}", files.certificate.display()))
        })?;
        // A client is asked for its certificate each time: none that has expired goes on with an old session.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Config { config: Arc::new(config), asks_clients: files.client_authorities.is_some() })
    }

    /// Whether a client needs a certificate.
    pub fn asks_clients(&self) -> bool {
        self.asks_clients
    }

    /// The server's side of a new connection.
    pub fn session(&self) -> io::Result<Session> {
        let mut connection = ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        connection.set_buffer_limit(Some(TLS_BUFFER));
        Ok(Session { connection })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |reason: &str| TlsError::Content { path: path.to_path_buf(), reason: reason.into() };
    let bytes = pem(path, false)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(content("holds no certificate in PEM")),
        Err(_) => Err(content("is damaged, or is not PEM")),
    }
}

/// Bytes of a file, and for a secret one that nobody else can read it.
fn pem(path: &Path, secret: bool) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    // Of the open file, so that it cannot be exchanged between the check and the use.
    if secret && file.metadata().map_err(failed)?.mode() & 0o027 != 0 {
        return Err(TlsError::OpenKey(path.to_path_buf()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_PEM + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_PEM {
        return Err(TlsError::Content { path: path.to_path_buf(), reason: "is longer than 1 MiB".into() });
    }
    Ok(bytes)
}

/// The server's side of one encrypted connection.
pub struct Session {
    connection: ServerConnection,
}

impl Session {
    /// Whether the client has not proven yet who it is.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Sends what is to be sent, or else takes what the client sends, and answers it.
    pub fn step(&mut self, socket: &Stream) -> io::Result<()> {
        if self.connection.wants_write() { self.send(socket) } else { self.receive(socket, true).map(drop) }
    }

    /// Reads what there is; 0 is the end, announced or not: requests say themselves whether they are whole.
    pub fn read(&mut self, socket: &Stream, buf: &mut [u8], wait: bool) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if !self.receive(socket, wait)? {
                return Ok(0);
            }
        }
    }

    /// Takes some of `parts` and sends all of it.
    pub fn write(&mut self, socket: &Stream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let taken = self.connection.writer().write_vectored(parts)?;
        self.send(socket)?;
        Ok(taken)
    }

    /// Announces the end.
    pub fn close(&mut self, socket: &Stream) -> io::Result<()> {
        self.connection.send_close_notify();
        self.send(socket)
    }

    /// Takes encrypted bytes; false at their end.
    fn receive(&mut self, socket: &Stream, wait: bool) -> io::Result<bool> {
        if self.connection.read_tls(&mut Raw { socket, wait })? == 0 {
            return if self.is_handshaking() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(false) };
        }
        let processed = self.connection.process_new_packets();
        // What is to be said may be why it failed.
        let sent = self.send(socket);
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        sent.map(|()| true)
    }

    fn send(&mut self, socket: &Stream) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Raw { socket, wait: true }) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The socket as the TLS library wants it.
struct Raw<'a> {
    socket: &'a Stream,
    wait: bool,
}

impl Read for Raw<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.wait {
            return self.socket.read(buf);
        }
        self.socket.try_read(buf)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.write_vectored(&[IoSlice::new(buf)])
    }
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.write_vectored(parts)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
