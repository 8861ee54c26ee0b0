//! The server: accepts clients, one thread each, within a limit, and stops in good order.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::channel::Channel;
use super::handshake::{Terms, negotiate};
use super::limits;
use super::listen::{Endpoint, ListenError, Listener};
use super::negotiate::{Refusal, Session};
use super::socket::Stream;
use super::tls;
use super::transmission::Transmission;
use crate::disk::device::Exports;
use crate::disk::spin::{Spin, Spinners};

/// Choices of a server. The defaults are those of [`limits`].
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Connections served at once.
    pub max_connections: usize,
    /// Time for a negotiation.
    pub negotiation_time: Duration,
    /// Time that [`Server::stop`] gives connections, twice.
    pub stop_grace: Duration,
    /// How long a busy connection looks for requests before it sleeps; zero never looks.
    pub spin: Duration,
    /// Encryption, without which no client over TCP is answered. UNIX sockets do without.
    pub tls: Option<tls::Config>,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            max_connections: limits::MAX_CONNECTIONS,
            negotiation_time: limits::NEGOTIATION_TIME,
            stop_grace: limits::STOP_GRACE,
            spin: crate::disk::limits::SPIN,
            tls: None,
        }
    }
}

/// How a stop went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stopped {
    /// Connections that did not finish in time and were cut off.
    pub cut: usize,
    /// Of these, connections whose thread still waits for the device.
    pub stuck: usize,
}

/// A running server. Stopped when dropped.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<(Arc<Listener>, Option<JoinHandle<()>>)>,
}

struct Shared {
    exports: Arc<dyn Exports>,
    options: ServerOptions,
    stopping: AtomicBool,
    spinners: Spinners,
    open: Mutex<Open>,
    /// A connection ended.
    ended: Condvar,
    /// When the administrator was last told of a client that failed TLS.
    noted: Mutex<Option<Instant>>,
}

/// The connections there are, in negotiation or transmission.
#[derive(Default)]
struct Open {
    next: u64,
    streams: HashMap<u64, Arc<Stream>>,
}

impl Server {
    /// Listens on all `endpoints`, or on none if one of them fails.
    pub fn start(
        exports: Arc<dyn Exports>,
        endpoints: &[Endpoint],
        options: ServerOptions,
    ) -> Result<Server, ListenError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            exports,
            options,
            stopping: AtomicBool::new(false),
            spinners: Spinners::new(processors),
            open: Mutex::default(),
            ended: Condvar::new(),
            noted: Mutex::new(None),
        });
        // From the first listener on, leaving early drops the server, which closes what is open.
        let mut server = Server { shared, listeners: Vec::new() };
        let authenticated = server.shared.options.tls.as_ref().is_some_and(tls::Config::asks_clients);
        for endpoint in endpoints {
            server.listeners.push((Arc::new(Listener::bind(endpoint, authenticated)?), None));
        }
        for (listener, thread) in &mut server.listeners {
            let (shared, its) = (Arc::clone(&server.shared), Arc::clone(listener));
            let spawned =
                std::thread::Builder::new().name("nbd-accept".to_string()).spawn(move || accept(&shared, &its));
            *thread = Some(spawned.map_err(|source| ListenError::Io {
                endpoint: listener.endpoint().to_string(),
                op: "start a thread",
                source,
            })?);
        }
        Ok(server)
    }

    /// Serves who is at the other end of a socket, besides those who connect.
    pub(crate) fn serve(&self, stream: UnixStream) -> io::Result<()> {
        admit(&self.shared, Stream::Unix(stream))
    }

    /// Where the server listens, with the ports that the system chose.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.listeners.iter().map(|(listener, _)| listener.endpoint().clone()).collect()
    }

    /// Connections that there are now.
    pub fn connections(&self) -> usize {
        self.shared.open.lock().streams.len()
    }

    /// Stops: no new connections; requests that were received are answered, later ones get `ESHUTDOWN`; devices are
    /// flushed; socket files are removed. Takes at most about twice [`ServerOptions::stop_grace`].
    pub fn stop(mut self) -> Stopped {
        self.stop_now()
    }

    fn stop_now(&mut self) -> Stopped {
        let shared = &self.shared;
        shared.stopping.store(true, Ordering::Release);
        for (listener, thread) in &mut self.listeners {
            listener.close();
            if let Some(thread) = thread.take() {
                // It panics only if it cannot go on; there is nothing left for it to do.
                let _ = thread.join();
            }
        }
        self.listeners.clear();
        let mut open = shared.open.lock();
        open.shutdown(Shutdown::Read);
        shared.wait_until_none(&mut open);
        let cut = open.streams.len();
        open.shutdown(Shutdown::Both);
        shared.wait_until_none(&mut open);
        Stopped { cut, stuck: open.streams.len() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.shared.stopping.load(Ordering::Acquire) {
            self.stop_now();
        }
    }
}

impl Open {
    fn shutdown(&self, how: Shutdown) {
        self.streams.values().for_each(|stream| stream.shutdown(how));
    }
}

impl Shared {
    fn wait_until_none(&self, open: &mut parking_lot::MutexGuard<'_, Open>) {
        let deadline = Instant::now() + self.options.stop_grace;
        while !open.streams.is_empty() && !self.ended.wait_until(open, deadline).timed_out() {}
    }

    /// Tells the administrator, now and then, why a client could not begin TLS.
    fn note_tls(&self, peer: &str, error: &io::Error) {
        // A client that leaves is its own affair; what is wrong with certificates is the administrator's.
        if error.kind() != io::ErrorKind::InvalidData {
            return;
        }
        let mut noted = self.noted.lock();
        if noted.is_none_or(|last| last.elapsed() >= limits::NOTE_PAUSE) {
            *noted = Some(Instant::now());
            eprintln!("archipelago: {peer}: TLS failed: {error}");
        }
    }
}

/// Accepts clients until the listener is closed.
fn accept(shared: &Arc<Shared>, listener: &Listener) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        let admitted = accepted.and_then(|stream| admit(shared, stream));
        if let Err(error) = admitted {
            // A client that left before it was accepted concerns nobody. Without descriptors or threads, trying again at once
            // would only burn the processor.
            if error.kind() != io::ErrorKind::ConnectionAborted {
                std::thread::sleep(limits::ACCEPT_PAUSE);
            }
        }
    }
}

/// Starts the thread of a client.
fn admit(shared: &Arc<Shared>, stream: Stream) -> io::Result<()> {
    let stream = Arc::new(stream);
    let (registered, full) = {
        let mut open = shared.open.lock();
        // Checked under the lock under which a stop counts the connections: none slips in after that.
        let most = shared.options.max_connections;
        if shared.stopping.load(Ordering::Acquire) || open.streams.len() >= most + limits::MAX_REFUSALS {
            return Ok(());
        }
        let full = open.streams.len() >= most;
        let id = open.next;
        open.next += 1;
        open.streams.insert(id, Arc::clone(&stream));
        (Registered { shared: Arc::clone(shared), id }, full)
    };
    thread(&registered).spawn(move || greet(registered, stream, full)).map(drop)
}

fn thread(registered: &Registered) -> std::thread::Builder {
    std::thread::Builder::new().name(format!("nbd-{}", registered.id))
}

/// The place of a connection among the open ones, given up in every way in which its thread can end.
struct Registered {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.open.lock().streams.remove(&self.id);
        self.shared.ended.notify_all();
    }
}

/// Serves one connection to its end in this thread.
#[cfg(feature = "fuzzing")]
pub(crate) fn serve_one(stream: UnixStream, exports: &dyn Exports) {
    let (mut channel, stopping) = (Channel::new(Arc::new(Stream::Unix(stream))), AtomicBool::new(false));
    let deadline = Instant::now() + limits::NEGOTIATION_TIME;
    let terms = Terms { exports, tls: None, deadline, refusal: &|| None, failed_tls: &|_| {} };
    let Ok(Some(session)) = negotiate(&mut channel, &terms) else { return };
    if channel.set_timeout(None).is_ok() {
        let spinners = Spinners::new(1);
        let spin = Spin::new(&spinners, Duration::ZERO);
        let _ended = Transmission::new(&channel, &session, spin, &stopping).and_then(Transmission::run);
    }
}

/// The first part of a connection's life. What goes wrong on its socket ends it and concerns nobody else.
fn greet(registered: Registered, stream: Arc<Stream>, full: bool) {
    let shared = &registered.shared;
    let options = &shared.options;
    let refusal = || {
        if shared.stopping.load(Ordering::Acquire) {
            return Some(Refusal::Stopping);
        }
        full.then_some(Refusal::Full(options.max_connections))
    };
    let time = if full { limits::REFUSAL_TIME } else { options.negotiation_time };
    let tls = match &*stream {
        Stream::Tcp(_) => options.tls.as_ref(),
        Stream::Unix(_) => None,
    };
    let peer = stream.peer();
    let terms = Terms {
        exports: &*shared.exports,
        tls,
        deadline: Instant::now() + time,
        refusal: &refusal,
        failed_tls: &|error| shared.note_tls(&peer, error),
    };
    let mut channel = Channel::new(stream);
    let Ok(Some(session)) = negotiate(&mut channel, &terms) else { return };
    // From here on a client may be silent for days. Opening a disk takes far more of a stack than serving it, and the system keeps what
    // was used of one: the rest is another thread's. Without one the connection ends.
    let _ = thread(&registered).spawn(move || {
        transmit(&registered.shared, &channel, &session);
        // The disk is closed before the connection counts as ended.
        drop(session);
        drop(registered);
    });
}

/// The second part, to the end.
fn transmit(shared: &Shared, channel: &Channel, session: &Session) {
    if channel.set_timeout(None).and_then(|()| channel.set_read_timeout(Some(limits::IDLE))).is_err() {
        return;
    }
    let spin = Spin::new(&shared.spinners, shared.options.spin);
    let _ended = Transmission::new(channel, session, spin, &shared.stopping).and_then(Transmission::run);
    channel.close(limits::CLOSE_TIME);
    if shared.stopping.load(Ordering::Acquire) && !session.device.read_only() {
        // The client is told nothing more; a failure shows again when the device is closed or opened.
        let _ = session.device.flush();
    }
}
