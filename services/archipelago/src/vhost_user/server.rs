//! Listens for front ends: each socket leads to one disk, and serves one front end at a time.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::limits::{RESIZE_POLL, STOP_GRACE};
use super::message;
use super::session::Session;
use crate::disk::device::{Device, Exports};
use crate::disk::spin::Spinners;
use crate::nbd::{Endpoint, Fresh, ListenError, Listener, Stream};

/// Wait after an accept that failed, before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a disk is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The socket.
    pub endpoint: Endpoint,
    /// Name of the volume or snapshot.
    pub name: String,
}

/// A running server. Stopped when dropped.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Listening>,
    watch: Option<JoinHandle<()>>,
}

/// A socket to connect to.
struct Listening {
    attachment: Attachment,
    listener: Arc<Listener>,
    thread: Option<JoinHandle<()>>,
}

/// What a server is to attach from now on, prepared so far that nothing of it can be refused any more.
pub struct Change {
    stay: Vec<Attachment>,
    added: Vec<Attachment>,
    fresh: Fresh,
}

struct Shared {
    exports: Arc<dyn Exports>,
    spinners: Arc<Spinners>,
    stopping: AtomicBool,
    attached: Mutex<Vec<Attached>>,
    /// A front end is gone, or the server stops.
    changed: Condvar,
}

/// A front end that is connected.
struct Attached {
    name: String,
    socket: Arc<UnixStream>,
    disk: Arc<dyn Device>,
    size: u64,
    unasked: Arc<Mutex<Option<UnixStream>>>,
}

impl Server {
    /// Listens at all attachments, or at none if one of them fails.
    pub fn start(exports: Arc<dyn Exports>, attachments: &[Attachment]) -> Result<Server, ListenError> {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shared = Arc::new(Shared {
            exports,
            spinners: Arc::new(Spinners::new(processors)),
            stopping: AtomicBool::new(false),
            attached: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut server = Server { shared: shared.clone(), listeners: Vec::new(), watch: None };
        let change = server.prepare(attachments)?;
        server.apply(change)?;
        let watch = Builder::new().name("vhost-sizes".into()).spawn(move || shared.watch()).map_err(no_thread)?;
        server.watch = Some(watch);
        Ok(server)
    }

    /// Begins to listen where it does not yet, so that [`Server::apply`] can go over to these attachments. Nothing is different if this fails, or the
    /// change is dropped. A socket cannot go over from one disk to another at once.
    pub fn prepare(&self, attachments: &[Attachment]) -> Result<Change, ListenError> {
        let there = |attachment: &&Attachment| self.listeners.iter().any(|one| one.attachment == **attachment);
        let (stay, added): (Vec<&Attachment>, Vec<&Attachment>) = attachments.iter().partition(there);
        let fresh = Fresh::bind(added.iter().map(|attachment| &attachment.endpoint), false)?;
        Ok(Change { stay: stay.into_iter().cloned().collect(), added: added.into_iter().cloned().collect(), fresh })
    }

    /// Goes over to what was prepared. A front end that is connected keeps its disk until it leaves.
    pub fn apply(&mut self, change: Change) -> Result<(), ListenError> {
        let Change { stay, added, fresh } = change;
        let listeners = std::mem::take(&mut self.listeners);
        let (stay, gone): (Vec<_>, Vec<_>) = listeners.into_iter().partition(|one| stay.contains(&one.attachment));
        self.listeners = stay;
        for one in gone {
            one.listener.close();
            // Its thread may be with a front end for as long as that stays; a stop ends its connection like the others.
        }
        for (attachment, listener) in added.into_iter().zip(fresh.take()) {
            let listener = Arc::new(listener);
            let (theirs, shared, name) = (listener.clone(), self.shared.clone(), attachment.name.clone());
            let spawned = Builder::new().name("vhost-user".into()).spawn(move || shared.accept(&theirs, &name));
            let (thread, failed) = match spawned {
                Ok(thread) => (Some(thread), None),
                Err(source) => (None, Some(source)),
            };
            // Without a thread it is closed with the others.
            self.listeners.push(Listening { attachment, listener, thread });
            if let Some(source) = failed {
                return Err(no_thread(source));
            }
        }
        Ok(())
    }

    /// Counts the front ends for somebody who may outlive the server.
    pub fn census(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || shared.upgrade().map_or(0, |shared| shared.attached.lock().len())
    }

    /// Front ends that are connected.
    pub fn attached(&self) -> usize {
        self.shared.attached.lock().len()
    }

    /// Ends all connections, each with the requests that are under way. Guests see their disk stand still until a server is back.
    /// Returns the names of the disks whose requests did not end in time.
    pub fn stop(mut self) -> Vec<String> {
        self.end()
    }

    fn end(&mut self) -> Vec<String> {
        self.shared.stopping.store(true, Ordering::Release);
        self.listeners.iter().for_each(|one| one.listener.close());
        let deadline = Instant::now() + STOP_GRACE;
        let mut attached = self.shared.attached.lock();
        attached.iter().for_each(|a| drop(a.socket.shutdown(Shutdown::Both)));
        self.shared.changed.notify_all();
        while !attached.is_empty() {
            if self.shared.changed.wait_until(&mut attached, deadline).timed_out() {
                return attached.iter().map(|a| a.name.clone()).collect();
            }
        }
        drop(attached);
        let threads = self.listeners.iter_mut().filter_map(|one| one.thread.take()).chain(self.watch.take());
        threads.for_each(|thread| drop(thread.join()));
        Vec::new()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that was stopped has waited already.
        if !self.shared.is_stopping() {
            self.end();
        }
    }
}

fn no_thread(source: io::Error) -> ListenError {
    ListenError::Io { endpoint: "vhost-user".into(), op: "start a thread", source }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn accept(&self, listener: &Listener, name: &str) {
        while !self.is_stopping() && !listener.is_closed() {
            match listener.accept() {
                Ok(Stream::Unix(socket)) => {
                    if let Err(error) = self.serve(socket, name)
                        && !self.is_stopping()
                    {
                        tracing::warn!(volume = name, %error, "vhost-user: the connection ended");
                    }
                }
                Ok(Stream::Tcp(_)) => {}
                Err(_) if self.is_stopping() || listener.is_closed() => {}
                Err(_) => std::thread::sleep(ACCEPT_PAUSE),
            }
        }
    }

    fn serve(&self, socket: UnixStream, name: &str) -> io::Result<()> {
        let disk = self.exports.open(name).map_err(io::Error::other)?;
        let mut session = Session::new(disk.clone(), name, self.spinners.clone());
        let socket = Arc::new(socket);
        let attached = Attached {
            name: name.to_string(),
            socket: socket.clone(),
            size: disk.size(),
            disk,
            unasked: session.unasked(),
        };
        {
            let mut all = self.attached.lock();
            if self.is_stopping() {
                return Ok(());
            }
            all.push(attached);
        }
        let served = session.serve(&socket);
        // Queues first: nothing of the disk is in use when it is given back.
        drop(session);
        let mut all = self.attached.lock();
        let gone = all.iter().position(|a| Arc::ptr_eq(&a.socket, &socket)).map(|at| all.swap_remove(at));
        drop(all);
        // Outside of the lock: closing flushes.
        drop(gone);
        self.changed.notify_all();
        served
    }

    /// Tells front ends of new sizes of their disks.
    fn watch(&self) {
        let mut attached = self.attached.lock();
        while !self.is_stopping() {
            for one in attached.iter_mut() {
                let size = one.disk.size();
                if size != one.size
                    && let Some(socket) = &*one.unasked.lock()
                    && message::config_changed(socket).is_ok()
                {
                    one.size = size;
                }
            }
            self.changed.wait_for(&mut attached, RESIZE_POLL);
        }
    }
}
