//! Sockets and threads of the endpoint: a few threads, each of which answers one request after the other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use super::http;
use super::limits::{ACCEPT_PAUSE, THREADS};
use super::page::Page;
use crate::nbd::{Endpoint, ListenError, Listener};

/// Answers requests until it is dropped.
pub struct Server {
    listener: Arc<Listener>,
    threads: Vec<JoinHandle<()>>,
}

/// Reads where to listen: `unix:/PATH`, or an address and a port, with or without `tcp:` before them.
pub fn endpoint(text: &str, mode: u32, allow_remote: bool) -> Result<Endpoint, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        return if path.is_absolute() {
            Ok(Endpoint::Unix { path, mode })
        } else {
            Err("the path of a socket starts with /".into())
        };
    }
    let address: SocketAddr = text
        .strip_prefix("tcp:")
        .unwrap_or(text)
        .parse()
        .map_err(|_| "write unix:/PATH, or a numeric address and a port, for example 127.0.0.1:9809".to_string())?;
    if address.ip().to_canonical().is_loopback() || allow_remote {
        return Ok(Endpoint::Tcp { address, allow_remote });
    }
    Err("other machines could read this, names of volumes included, and nobody would be asked who they are; use a UNIX socket or \
         127.0.0.1, or allow it explicitly (--metrics-allow-remote)"
        .into())
}

impl Server {
    /// Listens, and answers with `page` from now on.
    pub fn start(endpoint: &Endpoint, page: Arc<Page>) -> Result<Server, ListenError> {
        let mut server = Server { listener: Arc::new(Listener::bind(endpoint, false)?), threads: Vec::new() };
        for _ in 0..THREADS {
            let (listener, page) = (server.listener.clone(), page.clone());
            let thread = Builder::new().name("metrics".into()).spawn(move || answer(&listener, &page));
            server.threads.push(thread.map_err(|source| ListenError::Io {
                endpoint: endpoint.to_string(),
                op: "start a thread",
                source,
            })?);
        }
        Ok(server)
    }

    /// Where it listens, with the port that the system chose.
    pub fn endpoint(&self) -> &Endpoint {
        self.listener.endpoint()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listener.close();
        for thread in self.threads.drain(..) {
            // Each is done with its request within its time.
            let _ = thread.join();
        }
    }
}

fn answer(listener: &Listener, page: &Page) {
    loop {
        let accepted = listener.accept();
        if listener.is_closed() {
            return;
        }
        match accepted {
            // A client that leaves early, or says nothing, concerns nobody.
            Ok(stream) => drop(http::serve(&stream, &|| page.write())),
            Err(_) => std::thread::sleep(ACCEPT_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s55_figures_are_for_this_machine_unless_asked_otherwise() {
        let unix = Endpoint::Unix { path: "/run/a.sock".into(), mode: 0o640 };
        assert_eq!(endpoint("unix:/run/a.sock", 0o640, false), Ok(unix));
        for text in ["127.0.0.1:9809", "tcp:127.0.0.1:9809", "[::1]:9809"] {
            assert!(endpoint(text, 0, false).is_ok(), "{text}");
        }
        for text in ["0.0.0.0:9809", "[::]:9809", "192.0.2.1:9809", "[::ffff:192.0.2.1]:1"] {
            assert!(endpoint(text, 0, false).unwrap_err().contains("--metrics-allow-remote"), "{text}");
            assert!(endpoint(text, 0, true).is_ok(), "{text}");
        }
        for text in ["", "unix:", "unix:a", "localhost:9", "127.0.0.1", "tcp:"] {
            assert!(endpoint(text, 0, true).is_err(), "{text}");
        }
    }
}
