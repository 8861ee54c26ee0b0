//! The processes that have a store open, and asking them.
//!
//! [`Registered`] is the real thing: registrations and control sockets (docs/control.md). [`Neighbours`] is a stand-in for
//! simulation: several stores of one process over one simulated disk, each of which stands for a process, and can be
//! killed or paused.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::control::{self, Answer, Handler, Request};
use super::process;
use crate::error::{Error, Owner, Result};

/// The processes that have a store open, seen by one of them.
pub trait Peers: Send + Sync {
    /// Registration of this process, 16 hex digits.
    fn own(&self) -> &str;
    /// All live processes, this one included, in no order. One that is registered when the call begins, and lives until
    /// it returns, is among them.
    fn processes(&self) -> Result<Vec<Owner>>;
    /// What a process says of itself, if that can be read. Whether it lives is not asked.
    fn describe(&self, process: &str) -> Option<Owner>;
    /// Whether a process lives; `true` where that cannot be told.
    fn alive(&self, process: &str) -> bool;
    /// Asks a process; see [`control::ask`] for the errors.
    fn ask(&self, process: &str, request: &Request, timeout: Duration) -> Result<Answer>;
}

/// The processes that are registered in the directory of a store.
pub struct Registered {
    root: PathBuf,
    own: String,
}

impl Registered {
    /// As seen by the process registered as `own` in the store at `root`.
    pub fn new(root: PathBuf, own: String) -> Registered {
        Registered { root, own }
    }
}

impl Peers for Registered {
    fn own(&self) -> &str {
        &self.own
    }

    fn processes(&self) -> Result<Vec<Owner>> {
        process::processes(&self.root)
    }

    fn describe(&self, process: &str) -> Option<Owner> {
        process::registered(&self.root, process)
    }

    fn alive(&self, process: &str) -> bool {
        process::alive(&self.root, process)
    }

    fn ask(&self, process: &str, request: &Request, timeout: Duration) -> Result<Answer> {
        control::ask(&self.root, process, request, timeout)
    }
}

/// How a simulated process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It answers.
    Running,
    /// It lives and does not answer.
    Paused,
    /// It is dead.
    Killed,
}

struct Neighbour {
    owner: Owner,
    state: State,
    handler: Weak<dyn Handler>,
}

/// Simulated processes on one simulated disk; see [`crate::Store::open_among`].
#[derive(Default)]
pub struct Neighbours {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: u32,
    /// By registration.
    processes: BTreeMap<String, Neighbour>,
}

impl Neighbours {
    /// No processes yet.
    pub fn new() -> Arc<Neighbours> {
        Arc::default()
    }

    /// Registers another process.
    pub(super) fn join(self: &Arc<Neighbours>, handler: Weak<dyn Handler>) -> Arc<dyn Peers> {
        let mut table = self.table.lock();
        table.last += 1;
        let process = format!("{:016x}", table.last);
        let owner = Owner {
            pid: table.last,
            host: "localhost".into(),
            command: "simulation".into(),
            since: 1_000_000_000,
            process: process.clone(),
        };
        table.processes.insert(process.clone(), Neighbour { owner, state: State::Running, handler });
        Arc::new(Seat { neighbours: self.clone(), process })
    }

    fn set(&self, process: &str, state: State) {
        if let Some(neighbour) = self.table.lock().processes.get_mut(process)
            && neighbour.state != State::Killed
        {
            neighbour.state = state;
        }
    }

    /// The process lives on and does not answer, until it is resumed. `process` is what [`crate::Store::process`] says.
    pub fn pause(&self, process: &str) {
        self.set(process, State::Paused);
    }

    /// A paused process answers again.
    pub fn resume(&self, process: &str) {
        self.set(process, State::Running);
    }

    /// The process counts as dead from now on. What its store object still does is the caller's affair.
    pub fn kill(&self, process: &str) {
        self.set(process, State::Killed);
    }
}

/// One of the neighbours; it leaves when this is dropped.
struct Seat {
    neighbours: Arc<Neighbours>,
    process: String,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.neighbours.table.lock().processes.remove(&self.process);
    }
}

impl Peers for Seat {
    fn own(&self) -> &str {
        &self.process
    }

    fn processes(&self) -> Result<Vec<Owner>> {
        let table = self.neighbours.table.lock();
        Ok(table.processes.values().filter(|n| n.state != State::Killed).map(|n| n.owner.clone()).collect())
    }

    fn describe(&self, process: &str) -> Option<Owner> {
        self.neighbours.table.lock().processes.get(process).map(|n| n.owner.clone())
    }

    fn alive(&self, process: &str) -> bool {
        self.neighbours.table.lock().processes.get(process).is_some_and(|n| n.state != State::Killed)
    }

    fn ask(&self, process: &str, request: &Request, _: Duration) -> Result<Answer> {
        let gone = || Error::NotOpen(format!("the store in process {process}"));
        let (state, handler) = {
            let table = self.neighbours.table.lock();
            let neighbour = table.processes.get(process).ok_or_else(gone)?;
            (neighbour.state, neighbour.handler.clone())
        };
        match (state, handler.upgrade()) {
            (State::Running, Some(handler)) => match handler.handle(request.clone()) {
                Answer::Failed(error) => Err(error.into()),
                answer => Ok(answer),
            },
            (State::Paused, Some(_)) => Err(Error::Timeout(format!("process {process}"))),
            _ => Err(gone()),
        }
    }
}
