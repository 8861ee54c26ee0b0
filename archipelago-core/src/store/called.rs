//! The processes of a store in a cluster, which call each other through it (docs/control.md, "Through a cluster").

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::control::{Answer, Handler, Request};
use super::peers::Peers;
use super::process;
use crate::blocker::rados::{Core, RadosBlocker};
use crate::error::{Error, Owner, Result};
use crate::limits::MAX_CONTROL_MESSAGE;

/// The processes that use a store in a cluster, seen by one of them.
pub struct Called {
    core: Arc<Core>,
    own: Owner,
}

impl Called {
    /// As seen by the process of this backend.
    pub fn new(blocker: &RadosBlocker) -> Called {
        let core = blocker.core().clone();
        let own = Owner {
            pid: std::process::id(),
            host: process::host(),
            command: process::command(),
            since: crate::time::now(),
            process: core.process_id().to_string(),
        };
        Called { core, own }
    }

    /// Enters this process among the others. `handler` is asked for what they want; while it is gone they get [`Error::NotOpen`].
    pub fn join(&self, handler: Weak<dyn Handler>) -> Result<()> {
        let about = serde_json::to_string(&self.own)
            .map_err(|e| Error::Unsupported(format!("this process cannot be described: {e}")))?;
        let own = self.own.to_string();
        let answerer = move |message: &[u8]| {
            let answer = match (serde_json::from_slice::<Request>(message), handler.upgrade()) {
                (Err(e), _) => Err(Error::Unsupported(format!("a request that is not known here: {e}"))).into(),
                (_, None) => Err(Error::NotOpen(format!("the store in {own}"))).into(),
                (Ok(request), Some(handler)) => handler.handle(request),
            };
            encoded(&answer)
        };
        self.core.join(&about, Box::new(answerer))
    }

    fn parse(process: &str, about: &str) -> Owner {
        process::parse_record(process, about.as_bytes()).unwrap_or_else(|| process::unreadable(process))
    }
}

/// An answer as it is sent; of one that is too long, that it is.
fn encoded(answer: &Answer) -> Vec<u8> {
    match serde_json::to_vec(answer) {
        Ok(bytes) if bytes.len() <= MAX_CONTROL_MESSAGE => bytes,
        _ => {
            let refusal = Answer::from(Err(Error::Unsupported("an answer that is too long".into())));
            serde_json::to_vec(&refusal).unwrap_or_default()
        }
    }
}

impl Peers for Called {
    fn own(&self) -> &str {
        &self.own.process
    }

    fn processes(&self) -> Result<Vec<Owner>> {
        let found = self.core.processes()?;
        Ok(found.into_iter().map(|(process, about)| Called::parse(&process, &about)).collect())
    }

    fn describe(&self, process: &str) -> Option<Owner> {
        if process == self.own.process {
            return Some(self.own.clone());
        }
        let about = self.core.about(process).ok()??;
        process::parse_record(process, about.as_bytes())
    }

    fn alive(&self, process: &str) -> bool {
        // Where the cluster cannot say, it counts as alive.
        !self.core.is_gone(process).unwrap_or(false)
    }

    fn ask(&self, process: &str, request: &Request, timeout: Duration) -> Result<Answer> {
        let failed = |e: serde_json::Error| Error::Unsupported(format!("process {process}: not understood: {e}"));
        let message = serde_json::to_vec(request).map_err(failed)?;
        let answer = self.core.call(process, &message, timeout)?;
        if answer.is_empty() {
            return Err(Error::TooBusy(format!("process {process}")));
        }
        match serde_json::from_slice(&answer).map_err(failed)? {
            Answer::Failed(error) => Err(error.into()),
            answer => Ok(answer),
        }
    }
}
