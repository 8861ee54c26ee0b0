//! This process among those that use a store in a cluster, and calling the others.
//!
//! Each process has an object that it watches, and an entry in a table that says of it what others need: its address, and what it tells
//! people. Who notifies the object calls the process: an empty message asks whether it lives, any other is a request that its
//! store answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::librados::{Errno, Listener, Notification, Pool, Watch};
use super::{Core, layout};
use crate::error::{Error, Result};
use crate::limits::MAX_CONTROL_CONNECTIONS;
use crate::sync::Mutex;

/// Seconds without a sign after which a process does not watch any more. Its library gives one every 5 s, and a replacement of a
/// dead OSD is not to make processes look dead.
const WATCH_TIME: u32 = 20;
/// Wait between two looks at the watch.
const LOOK: Duration = Duration::from_secs(2);
/// Milliseconds in which a living process says so. Its library answers by itself.
const CALL_TIME: u64 = 3000;

/// Answers requests of other processes.
pub(crate) type Answerer = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// Whether a process lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// It answers.
    Alive,
    /// It watches, or did a moment ago, and does not answer.
    Silent,
    /// It does not watch any more.
    Dead,
}

/// This process.
pub(super) struct Process {
    id: String,
    client: String,
    calls: Arc<Calls>,
    watch: Mutex<Option<Watch>>,
}

/// What is done when this process is called.
struct Calls {
    pool: Weak<Pool>,
    object: String,
    answerer: OnceLock<Answerer>,
    under_way: AtomicUsize,
}

impl Listener for CallsSeat {
    fn notified(&self, notification: Notification, message: &[u8]) -> Option<Vec<u8>> {
        if message.is_empty() {
            return Some(b"alive".to_vec());
        }
        let calls = self.0.clone();
        if calls.under_way.fetch_add(1, Ordering::AcqRel) >= MAX_CONTROL_CONNECTIONS {
            calls.under_way.fetch_sub(1, Ordering::AcqRel);
            return Some(Vec::new());
        }
        let message = message.to_vec();
        let answer = move || {
            let answer = calls.answerer.get().map_or_else(Vec::new, |answerer| answerer(&message));
            if let Some(pool) = calls.pool.upgrade() {
                pool.answer(&calls.object, notification, &answer);
            }
            calls.under_way.fetch_sub(1, Ordering::AcqRel);
        };
        match std::thread::Builder::new().name("rados-call".into()).spawn(answer) {
            Ok(_) => None,
            Err(_) => {
                self.0.under_way.fetch_sub(1, Ordering::AcqRel);
                Some(Vec::new())
            }
        }
    }
}

/// The calls as the library holds them: without the connection, which must not be closed in a thread of it.
struct CallsSeat(Arc<Calls>);

impl Process {
    pub(super) fn new(pool: &Arc<Pool>) -> Result<Process> {
        let id = format!("{:016x}", random()?);
        let calls = Calls {
            pool: Arc::downgrade(pool),
            object: layout::process_object(&id),
            answerer: OnceLock::new(),
            under_way: AtomicUsize::new(0),
        };
        Ok(Process {
            id,
            client: format!("client.{}", pool.instance()),
            calls: Arc::new(calls),
            watch: Mutex::new(None),
        })
    }

    /// 16 hex digits.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// As the cluster calls its connection.
    pub(super) fn client(&self) -> &str {
        &self.client
    }

    /// A number for a lock.
    pub(super) fn random(&self) -> Result<u64> {
        random()
    }
}

fn random() -> Result<u64> {
    crate::random::random_u64().map_err(|e| Error::io("read", "the system's randomness", e))
}

impl Core {
    /// Makes sure that others can call this process.
    pub(super) fn register(self: &Arc<Self>) -> Result<()> {
        let mut watch = self.process.watch.lock();
        if watch.is_some() {
            return Ok(());
        }
        // In this order: who is in the table and does not watch is dead.
        *watch = Some(self.watch()?);
        drop(watch);
        self.enter("")?;
        let core = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("rados-watch".into()).spawn(move || keep_watching(&core));
        thread.map(|_| ()).map_err(|e| Error::io("start", "a thread that keeps the watch", e))
    }

    fn watch(&self) -> Result<Watch> {
        let object = &self.process.calls.object;
        self.done("create", object, self.pool.change().create(false).apply(object))?;
        let listener = Arc::new(CallsSeat(self.process.calls.clone()));
        self.done_with("watch", object, self.pool.watch(object, listener, WATCH_TIME))
    }

    /// Enters this process in the table of those that use the store.
    fn enter(&self, about: &str) -> Result<()> {
        let address = self.done_with("ask for", "the address of this client", self.pool.address())?;
        let entry = format!("{address}\n{about}");
        let change = self.pool.change().create(false).set(&[(self.process.id(), entry.as_bytes())]);
        self.done("enter this process in", layout::PROCESSES, change.apply(layout::PROCESSES))
    }

    /// Registers this process under its id: says `about` to people, and answers requests with `answerer`.
    pub(crate) fn join(self: &Arc<Self>, about: &str, answerer: Answerer) -> Result<()> {
        let _ = self.process.calls.answerer.set(answerer);
        self.register()?;
        self.enter(about)
    }

    /// Id of this process, 16 hex digits.
    pub(crate) fn process_id(&self) -> &str {
        self.process.id()
    }

    /// Whether a process lives.
    pub(crate) fn life(&self, process: &str) -> Result<Life> {
        if process == self.process.id() {
            return Ok(Life::Alive);
        }
        if !layout::is_process(process) {
            return Ok(Life::Dead);
        }
        let object = layout::process_object(process);
        match self.pool.notify(&object, &[], CALL_TIME) {
            Ok(answers) if answers.is_empty() => Ok(Life::Dead),
            Ok(_) => Ok(Life::Alive),
            Err(Errno(libc::ENOENT)) => Ok(Life::Dead),
            Err(Errno(libc::ETIMEDOUT)) => Ok(Life::Silent),
            Err(errno) => Err(self.failed("call", &object, errno)),
        }
    }

    /// Asks a process something. `NotOpen` if it is gone.
    pub(crate) fn call(&self, process: &str, message: &[u8], time: Duration) -> Result<Vec<u8>> {
        let object = layout::process_object(process);
        let gone = || Error::NotOpen(format!("the store in process {process}"));
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        match self.pool.notify(&object, message, milliseconds) {
            Ok(answers) => answers.into_iter().next().ok_or_else(gone),
            Err(Errno(libc::ENOENT)) => Err(gone()),
            Err(Errno(libc::ETIMEDOUT)) => Err(Error::Timeout(format!("process {process}"))),
            Err(errno) => Err(self.failed("call", &object, errno)),
        }
    }

    /// What a process says of itself.
    pub(crate) fn about(&self, process: &str) -> Result<Option<String>> {
        let found = self.pool.values(layout::PROCESSES, &[process]);
        let found = self.done_with("look into", layout::PROCESSES, found)?;
        Ok(found.into_iter().next().map(|(_, entry)| split(&entry).1))
    }

    /// Processes that use the store, with what they say of themselves. What tells of dead ones goes.
    pub(crate) fn processes(&self) -> Result<Vec<(String, String)>> {
        let entries = self.done_with("look into", layout::PROCESSES, self.pool.entries_of(layout::PROCESSES, ""))?;
        let mut living = Vec::new();
        for (process, entry) in entries {
            if !self.is_gone(&process)? {
                living.push((process, split(&entry).1));
            }
        }
        Ok(living)
    }

    /// Whether a process is gone for good: nobody answers in its name, and what it had under way will not come any more.
    pub(crate) fn is_gone(&self, process: &str) -> Result<bool> {
        if self.life(process)? != Life::Dead {
            return Ok(false);
        }
        let found = self.pool.values(layout::PROCESSES, &[process]);
        // Who is in the table no more has left it himself, or was fenced by who took him out.
        if let Some((_, entry)) = self.done_with("look into", layout::PROCESSES, found)?.into_iter().next() {
            let (address, _) = split(&entry);
            if Ok(&address) != self.pool.address().as_ref() {
                self.fence(&address)?;
            }
            self.leave(process)?;
        }
        Ok(true)
    }

    /// Removes what tells of a process.
    fn leave(&self, process: &str) -> Result<()> {
        let object = layout::process_object(process);
        match self.pool.change().remove().apply(&object) {
            Ok(()) | Err(Errno(libc::ENOENT)) => {}
            Err(errno) => return Err(self.failed("remove", &object, errno)),
        }
        match self.pool.change().assert_exists().unset(&[process]).apply(layout::PROCESSES) {
            Ok(()) | Err(Errno(libc::ENOENT)) => Ok(()),
            Err(errno) => Err(self.failed("change", layout::PROCESSES, errno)),
        }
    }
}

/// Address and description in an entry of the table.
fn split(entry: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(entry);
    let (address, about) = text.split_once('\n').unwrap_or((&text, ""));
    (address.to_string(), about.to_string())
}

/// Watches again if the cluster has forgotten the watch, after it was cut off for some time. Nothing was lost meanwhile, unless somebody
/// fenced this client, and then this fails like everything else.
fn keep_watching(core: &Weak<Core>) {
    loop {
        std::thread::sleep(LOOK);
        let Some(core) = core.upgrade() else { return };
        let mut watch = core.process.watch.lock();
        if watch.as_ref().is_some_and(Watch::stands) {
            continue;
        }
        if let Ok(new) = core.watch() {
            *watch = Some(new);
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.process.watch.lock().take().is_some() {
            let _ = self.leave(self.process.id());
        }
    }
}
