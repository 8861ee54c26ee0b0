//! What a daemon waits for: signals, and other processes that ask it to read its configuration again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use archipelago_core::{Error, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use super::super::super::exit::Failure;
use crate::disk::volumes::StoreExports;

/// How long an asker waits for the outcome: less than the time in which a question has to be answered.
const RELOAD_TIME: Duration = Duration::from_millis(1800);

/// The question that asks a daemon to read its configuration again (docs/control.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// Read it again, and say how that went.
    Reload {
        /// Only the process with this id; others answer that they did not.
        pid: Option<u32>,
    },
}

/// The answer to [`Question::Reload`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether the process was meant.
    pub reloaded: bool,
    /// What counts only when it is started anew.
    pub later: Vec<String>,
}

/// How a reload went, or why it was refused.
pub type Outcome = Result<Vec<String>, String>;

/// Something to do.
pub enum Event {
    /// SIGTERM or SIGINT.
    Stop(i32),
    /// SIGHUP, or somebody who waits for the outcome.
    Reload(Option<Sender<Outcome>>),
}

/// Where events arrive.
pub struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Events {
    /// Takes the signals over for the rest of the process. The second SIGTERM or SIGINT ends it at once.
    pub fn begin() -> Result<Events, Failure> {
        let failed = |e| Failure::host("register", "a signal handler", e);
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: at the second signal the flag is already set when the first action looks at it.
            flag::register_conditional_shutdown(signal, 128 + signal, asked.clone()).map_err(failed)?;
            flag::register(signal, asked.clone()).map_err(failed)?;
        }
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
        let (sender, receiver) = channel();
        let told = sender.clone();
        let listen = move || {
            for signal in signals.forever() {
                let event = if signal == SIGHUP { Event::Reload(None) } else { Event::Stop(signal) };
                if told.send(event).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(listen);
        thread.map_err(|e| Failure::host("start", "a thread for signals", e))?;
        Ok(Events { sender, receiver })
    }

    /// Answers questions of other processes for a daemon: those about reloading here, others by its exports.
    pub fn answer_for(&self, store: &Store, exports: &Arc<StoreExports>) {
        // Weak, for the store must not be kept open by what answers for it.
        let exports = Arc::downgrade(exports);
        let sender = self.sender.clone();
        store.answer_questions(Some(Arc::new(move |question: &Value| {
            if question.get("reload").is_some() {
                return reload(question, &sender);
            }
            match exports.upgrade() {
                Some(exports) => exports.answer(question),
                None => Err(ended()),
            }
        })));
    }

    /// The next event; `None` after `pause`.
    pub fn next(&self, pause: Option<Duration>) -> Option<Event> {
        // The sender is here as well, so it is never gone.
        match pause {
            Some(pause) => self.receiver.recv_timeout(pause).ok(),
            None => self.receiver.recv().ok(),
        }
    }
}

fn ended() -> Error {
    Error::NotOpen("the server".into())
}

fn reload(question: &Value, events: &Sender<Event>) -> archipelago_core::Result<Value> {
    let unclear = |e: serde_json::Error| Error::Unsupported(format!("a question that is not understood: {e}"));
    let Question::Reload { pid } = Question::deserialize(question).map_err(unclear)?;
    if pid.is_some_and(|pid| pid != std::process::id()) {
        return Ok(json!(Reloaded { reloaded: false, later: Vec::new() }));
    }
    let (tell, told) = channel();
    events.send(Event::Reload(Some(tell))).map_err(|_| ended())?;
    match told.recv_timeout(RELOAD_TIME) {
        Ok(Ok(later)) => Ok(json!(Reloaded { reloaded: true, later })),
        Ok(Err(reason)) => Err(Error::InvalidArgument(reason)),
        Err(RecvTimeoutError::Disconnected) => Err(ended()),
        Err(RecvTimeoutError::Timeout) => {
            let text = "reading the configuration again takes long; the daemon's log says how it goes";
            Err(Error::TooBusy(text.into()))
        }
    }
}
