//! The answering side of the control protocol: one thread accepts, and one per connection carries out requests, so that a
//! slow request holds up nobody else.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Answer, Handler, Hello, PROTOCOL, RemoteError, Request, frame, os};
use crate::error::{Error, Result};
use crate::limits::MAX_CONTROL_CONNECTIONS;

/// Time that a peer has for one frame, and that an idle connection is kept.
const FRAME_TIME: Duration = Duration::from_secs(30);
/// How long a server that is dropped waits for answers under way.
const STOP_TIME: Duration = Duration::from_secs(2);
/// Pause after an accept that failed for want of descriptors or memory: the connection stays queued, so without a pause
/// the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Numbers connections, over all servers of the process.
static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The connection that this thread serves; 0 in every other thread.
    static SERVING: Cell<u64> = const { Cell::new(0) };
}

/// Answers requests on a unix socket until it is dropped.
///
/// Dropping it ends the connections: idle ones at once, others after the answer under way or after two seconds,
/// whichever is first. It may be dropped from inside a handler.
pub struct ControlServer {
    shared: Arc<Shared>,
    listener: Arc<UnixListener>,
    acceptor: Option<JoinHandle<()>>,
    pid: u32,
}

struct Shared {
    /// Weak, because the handler usually owns the server.
    handler: Weak<dyn Handler>,
    /// Group whose members may ask, next to root and the server's own user.
    group: Option<u32>,
    stopping: AtomicBool,
    live: Mutex<HashMap<u64, Arc<UnixStream>>>,
    /// Signalled when a connection ends.
    ended: Condvar,
}

impl ControlServer {
    /// Starts to serve a listening socket. Members of `group`, if given, may ask as well as root and this process's user.
    pub fn start(listener: UnixListener, group: Option<u32>, handler: Weak<dyn Handler>) -> io::Result<ControlServer> {
        let shared = Arc::new(Shared {
            handler,
            group,
            stopping: AtomicBool::new(false),
            live: Mutex::new(HashMap::new()),
            ended: Condvar::new(),
        });
        let listener = Arc::new(listener);
        let (for_thread, socket) = (shared.clone(), listener.clone());
        let acceptor = thread::Builder::new().name("control".into()).spawn(move || accept_all(&for_thread, &socket))?;
        Ok(ControlServer { shared, listener, acceptor: Some(acceptor), pid: std::process::id() })
    }

    /// Connections that are served at this moment.
    pub fn connections(&self) -> usize {
        self.shared.live.lock().len()
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // After a fork the threads are the parent's, and so is the socket: shutting it down would be felt there.
        if self.pid != std::process::id() {
            return;
        }
        self.shared.stopping.store(true, Ordering::Release);
        // Wakes the acceptor. The standard library shuts down streams only; the call is the same.
        if let Ok(socket) = self.listener.try_clone() {
            let _ = UnixStream::from(OwnedFd::from(socket)).shutdown(Shutdown::Both);
        }
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        // From here on there are no new connections. Requests not read yet are dropped; answers can still be written.
        self.close_all(Shutdown::Read);
        if !self.wait_for_connections() {
            // Handlers that still run are left to end by themselves: waiting longer could wait for a lock of the caller.
            self.close_all(Shutdown::Both);
        }
    }
}

impl ControlServer {
    fn close_all(&self, how: Shutdown) {
        for stream in self.shared.live.lock().values() {
            let _ = stream.shutdown(how);
        }
    }

    /// Waits until no connection but the caller's own is left; `false` if some are after [`STOP_TIME`].
    fn wait_for_connections(&self) -> bool {
        let deadline = Instant::now() + STOP_TIME;
        // The handler's last reference may be dropped by the connection that used it, which then drops this server.
        let own = SERVING.get();
        let mut live = self.shared.live.lock();
        while live.keys().any(|&id| id != own) {
            if self.shared.ended.wait_until(&mut live, deadline).timed_out() {
                return live.keys().all(|&id| id == own);
            }
        }
        true
    }
}

fn accept_all(shared: &Arc<Shared>, listener: &UnixListener) {
    while !shared.stopping.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((stream, _)) => begin(shared, stream),
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {}
            Err(_) if shared.stopping.load(Ordering::Acquire) => break,
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
    }
}

/// Refuses a connection, or gives it a thread.
fn begin(shared: &Arc<Shared>, stream: UnixStream) {
    if let Err(error) = admit(shared, &stream) {
        return refuse(&stream, &error);
    }
    let stream = Arc::new(stream);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    {
        let mut live = shared.live.lock();
        if live.len() >= MAX_CONTROL_CONNECTIONS {
            drop(live);
            return refuse(&stream, &Error::TooBusy("control socket".into()));
        }
        live.insert(id, stream.clone());
    }
    let connection = Connection { shared: shared.clone(), id };
    let for_thread = stream.clone();
    let started = thread::Builder::new().name("control-ask".into()).spawn(move || {
        SERVING.set(connection.id);
        // The connection is over whatever the reason; there is nobody to tell.
        let _ = serve(&connection.shared, &for_thread);
    });
    if started.is_err() {
        refuse(&stream, &Error::TooBusy("control socket: no thread for the connection".into()));
    }
}

/// A connection's place among the live ones, given back however its thread ends, or if it never starts.
struct Connection {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.live.lock().remove(&self.id);
        self.shared.ended.notify_all();
    }
}

/// Checks who connected.
fn admit(shared: &Shared, stream: &UnixStream) -> Result<()> {
    let unknown = |e| Error::Io { op: "identify", object: "control client".into(), source: e };
    let (uid, gid) = os::peer(stream).map_err(unknown)?;
    if uid == 0 || uid == os::effective_uid() {
        return Ok(());
    }
    if let Some(group) = shared.group
        && (gid == group || os::peer_groups(stream).map_err(unknown)?.contains(&group))
    {
        return Ok(());
    }
    Err(Error::Io {
        op: "ask",
        object: format!("a process of user {} as user {uid}, who is not in the store's group", os::effective_uid()),
        source: io::Error::from_raw_os_error(libc::EPERM),
    })
}

/// Greets with a refusal. The socket's buffer is empty, so this does not wait for the peer.
fn refuse(stream: &UnixStream, error: &Error) {
    if let Ok(bytes) = frame::encode(&Hello::refusing(error)) {
        let _ = frame::write(stream, &bytes, Instant::now() + Duration::from_secs(1));
    }
}

/// Serves one connection until it ends.
fn serve(shared: &Shared, stream: &UnixStream) -> io::Result<()> {
    send(stream, frame::encode(&Hello::new()))?;
    let Some(bytes) = frame::read(stream, Instant::now() + FRAME_TIME)? else { return Ok(()) };
    match serde_json::from_slice::<Hello>(&bytes) {
        Ok(hello) if hello.archipelago == PROTOCOL => {}
        Ok(hello) => return reject(stream, &format!("version {} of the control protocol", hello.archipelago)),
        Err(e) => return reject(stream, &format!("the greeting: {e}")),
    }
    loop {
        let bytes = match frame::read(stream, Instant::now() + FRAME_TIME) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return reject(stream, &e.to_string()),
            Err(e) => return Err(e),
        };
        let request = match serde_json::from_slice(&bytes) {
            Ok(request) => request,
            Err(e) => return reject(stream, &format!("the request: {e}")),
        };
        drop(bytes);
        let answer = frame::encode(&carry_out(shared, request))
            .or_else(|error| frame::encode(&Answer::Failed(RemoteError::from(&error))));
        send(stream, answer)?;
    }
}

/// Serves one connection to its end in this thread, whoever the peer is.
#[cfg(feature = "fuzzing")]
pub(crate) fn serve_one(handler: Weak<dyn Handler>, stream: &UnixStream) -> io::Result<()> {
    let (stopping, live) = (AtomicBool::new(false), Mutex::new(HashMap::new()));
    serve(&Shared { handler, group: None, stopping, live, ended: Condvar::new() }, stream)
}

/// Calls the handler, which may be gone, and may panic.
fn carry_out(shared: &Shared, request: Request) -> Answer {
    let outcome = catch_unwind(AssertUnwindSafe(|| match shared.handler.upgrade() {
        Some(handler) => handler.handle(request),
        None => Err(Error::NotOpen("the store".into())).into(),
    }));
    outcome.unwrap_or_else(|_| {
        Answer::Failed(RemoteError {
            errno: libc::EIO,
            kind: "Panic".into(),
            message: "the process that was asked failed inside the request; see its log, and restart it".into(),
            ..RemoteError::default()
        })
    })
}

/// Answers what cannot be understood, and ends the connection: what follows cannot be trusted to be a frame.
fn reject(stream: &UnixStream, what: &str) -> io::Result<()> {
    let error =
        Error::Unsupported(format!("control socket: {what}: not understood; use the same version on both sides"));
    send(stream, frame::encode(&Answer::Failed(RemoteError::from(&error))))
}

fn send(stream: &UnixStream, frame: Result<Vec<u8>>) -> io::Result<()> {
    let frame = frame.map_err(io::Error::other)?;
    frame::write(stream, &frame, Instant::now() + FRAME_TIME)
}
