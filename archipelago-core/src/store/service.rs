//! Questions between programs that use a store, of which the engine knows nothing: it carries them over the control sockets, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Store;
use super::control::{Answer, Request};
use crate::error::{Error, Owner, Result};
use crate::store::shared::Shared;

/// How long a process may take to answer a question.
const QUESTION_TIME: Duration = Duration::from_secs(2);

/// Answers the questions of other processes. Called from several threads at once.
pub type Answerer = dyn Fn(&Value) -> Result<Value> + Send + Sync;

impl Store {
    /// Answers the questions that other processes ask of this one, or none any more. What answers must not keep the store open.
    pub fn answer_questions(&self, answerer: Option<Arc<Answerer>>) {
        *self.shared.answerer.lock() = answerer;
    }

    /// Asks every other process that has the store open. Those that answer no questions are left out; others may fail as
    /// [`ask`](super::control::ask) does.
    pub fn ask_processes(&self, question: &Value) -> Result<Vec<(Owner, Result<Value>)>> {
        let Some(peers) = self.shared.peers.get() else { return Ok(Vec::new()) };
        let request = Request::Question { question: question.clone() };
        let mut answers = Vec::new();
        for owner in peers.processes()? {
            if owner.process == peers.own() {
                continue;
            }
            match peers.ask(&owner.process, &request, QUESTION_TIME) {
                Ok(Answer::Answered { answer }) => answers.push((owner, Ok(answer))),
                // It has ended, or has nothing to say: a program without an answerer, or of a version without questions.
                Ok(_) | Err(Error::NotOpen(_) | Error::Unsupported(_)) => {}
                Err(error) => answers.push((owner, Err(error))),
            }
        }
        Ok(answers)
    }
}

impl Store {
    /// Asks one process, by the id of its registration; fails as [`ask`](super::control::ask) does. It may take `time` to answer.
    pub fn ask_process(&self, process: &str, question: &Value, time: Duration) -> Result<Value> {
        let request = Request::Question { question: question.clone() };
        let answer = match self.shared.peers.get() {
            Some(peers) if peers.own() == process => self.shared.question(question)?,
            Some(peers) => peers.ask(process, &request, time)?,
            None => return Err(Error::NotOpen(format!("the store in process {process}"))),
        };
        match answer {
            Answer::Answered { answer } => Ok(answer),
            _ => Err(Error::Unsupported(format!("process {process}: answers in another way"))),
        }
    }
}

impl Shared {
    /// Answers a question of another process.
    pub fn question(&self, question: &Value) -> Result<Answer> {
        let answerer = self.answerer.lock().clone();
        match answerer {
            Some(answerer) => Ok(Answer::Answered { answer: answerer(question)? }),
            None => Err(Error::Unsupported("this program answers no questions".into())),
        }
    }
}
