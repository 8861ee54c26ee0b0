//! The server: accepts clients, one thread each, within a limit, and stops in good order.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use super::channel::Channel;
use super::handshake::{Terms, negotiate};
use super::limits;
use super::listen::{Endpoint, Fresh, ListenError, Listener};
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
    listeners: Vec<Listening>,
}

/// A socket to connect to.
struct Listening {
    /// As it was asked for: with port 0 if any would do.
    asked: Endpoint,
    listener: Arc<Listener>,
    thread: Option<JoinHandle<()>>,
}

/// Where a server is to listen from now on, and with which encryption, prepared so far that nothing of it can be refused any more.
pub struct Change {
    stay: Vec<Endpoint>,
    added: Vec<Endpoint>,
    fresh: Fresh,
    tls: Option<tls::Config>,
}

struct Shared {
    exports: Arc<dyn Exports>,
    options: ServerOptions,
    /// That of the options, until another takes its place. A connection keeps that with which it began.
    tls: RwLock<Option<tls::Config>>,
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
            tls: RwLock::new(options.tls.clone()),
            options,
            stopping: AtomicBool::new(false),
            spinners: Spinners::new(processors),
            open: Mutex::default(),
            ended: Condvar::new(),
            noted: Mutex::new(None),
        });
        // From the first listener on, leaving early drops the server, which closes what is open.
        let mut server = Server { shared, listeners: Vec::new() };
        let tls = server.shared.options.tls.clone();
        let change = server.prepare(endpoints, tls)?;
        server.apply(change)?;
        Ok(server)
    }

    /// Begins to listen where it does not yet, so that [`Server::apply`] can go over to these endpoints and this encryption. Nothing is different
    /// if this fails, or the change is dropped.
    pub fn prepare(&self, endpoints: &[Endpoint], tls: Option<tls::Config>) -> Result<Change, ListenError> {
        let authenticated = tls.as_ref().is_some_and(tls::Config::asks_clients);
        endpoints.iter().try_for_each(|endpoint| endpoint.check(authenticated))?;
        let there = |endpoint: &&Endpoint| self.listeners.iter().any(|listening| listening.asked == **endpoint);
        let (stay, added): (Vec<&Endpoint>, Vec<&Endpoint>) = endpoints.iter().partition(there);
        let fresh = Fresh::bind(added.iter().copied(), authenticated)?;
        Ok(Change {
            stay: stay.into_iter().cloned().collect(),
            added: added.into_iter().cloned().collect(),
            fresh,
            tls,
        })
    }

    /// Goes over to what was prepared. Clients that are connected stay, also those that came by an endpoint that is gone.
    pub fn apply(&mut self, change: Change) -> Result<(), ListenError> {
        let Change { stay, added, fresh, tls } = change;
        *self.shared.tls.write() = tls;
        let (stay, gone) = std::mem::take(&mut self.listeners).into_iter().partition(|l| stay.contains(&l.asked));
        self.listeners = stay;
        close(gone);
        for (asked, listener) in added.into_iter().zip(fresh.take()) {
            let listener = Arc::new(listener);
            let (shared, its) = (Arc::clone(&self.shared), listener.clone());
            let spawned =
                std::thread::Builder::new().name("nbd-accept".to_string()).spawn(move || accept(&shared, &its));
            let (thread, failed) = match spawned {
                Ok(thread) => (Some(thread), None),
                Err(source) => (None, Some(source)),
            };
            // Without a thread it is closed with the others.
            let endpoint = listener.endpoint().to_string();
            self.listeners.push(Listening { asked, listener, thread });
            if let Some(source) = failed {
                return Err(ListenError::Io { endpoint, op: "start a thread", source });
            }
        }
        Ok(())
    }

    /// Serves who is at the other end of a socket, besides those who connect.
    pub(crate) fn serve(&self, stream: UnixStream) -> io::Result<()> {
        admit(&self.shared, Stream::Unix(stream))
    }

    /// Where the server listens, with the ports that the system chose.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.listeners.iter().map(|listening| listening.listener.endpoint().clone()).collect()
    }

    /// Connections that there are now.
    pub fn connections(&self) -> usize {
        self.shared.open.lock().streams.len()
    }

    /// Counts the connections for somebody who may outlive the server.
    pub fn census(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || shared.upgrade().map_or(0, |shared| shared.open.lock().streams.len())
    }

    /// Stops: no new connections; requests that were received are answered, later ones get `ESHUTDOWN`; devices are
    /// flushed; socket files are removed. Takes at most about twice [`ServerOptions::stop_grace`].
    pub fn stop(mut self) -> Stopped {
        self.stop_now()
    }

    fn stop_now(&mut self) -> Stopped {
        let shared = &self.shared;
        shared.stopping.store(true, Ordering::Release);
        close(std::mem::take(&mut self.listeners));
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
            tracing::warn!(peer, %error, "TLS failed");
        }
    }
}

/// Ends listening at these.
fn close(listeners: Vec<Listening>) {
    for Listening { listener, thread, .. } in listeners {
        listener.close();
        if let Some(thread) = thread {
            // It panics only if it cannot go on; there is nothing left for it to do.
            let _ = thread.join();
        }
    }
}

/// Accepts clients until the listener is closed.
fn accept(shared: &Arc<Shared>, listener: &Listener) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::Acquire) || listener.is_closed() {
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
        Stream::Tcp(_) => shared.tls.read().clone(),
        Stream::Unix(_) => None,
    };
    let peer = stream.peer();
    let terms = Terms {
        exports: &*shared.exports,
        tls: tls.as_ref(),
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
