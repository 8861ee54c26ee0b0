//! How a server stands to a volume that others may have: the questions and orders of other processes (docs/control.md).

use archipelago_core::{Error, Owner, Result, Sharing, StandbyState, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::limits::{SHARING_TIME, STANDING_TIME};

/// A question of another process, or an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// How the server stands to a volume.
    Standby {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// Stand to it in this way from now on.
    SetStandby {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// In which.
        sharing: Sharing,
    },
}

/// How a way to stand to a volume is written.
pub fn word(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Exclusive => "exclusive",
        Sharing::Shared => "shared",
        Sharing::Closed => "closed",
    }
}

/// Reads what [`word`] writes.
pub fn parse(text: &str) -> std::result::Result<Sharing, String> {
    let all = [Sharing::Exclusive, Sharing::Shared, Sharing::Closed];
    all.into_iter().find(|sharing| word(*sharing) == text).ok_or_else(|| "exclusive, shared or closed".into())
}

/// How the server with this registration stands to a volume. `NotOpen` if there is no such server, `Unsupported` if it was not started to stand by.
pub fn ask(store: &Store, process: &str, id: &str, name: &str) -> Result<StandbyState> {
    let question = Question::Standby { id: id.into(), name: name.into() };
    understood(store.ask_process(process, &json!(question), STANDING_TIME)?)
}

/// Tells the server with this registration how to stand to a volume, and waits until it does; fails as [`ask`] does, or because somebody keeps
/// the volume (`OpenElsewhere`, after 10 s). After an error it stands to it as before, but after a `Timeout`: then it is not known.
pub fn tell(store: &Store, process: &str, id: &str, name: &str, sharing: Sharing) -> Result<StandbyState> {
    let question = Question::SetStandby { id: id.into(), name: name.into(), sharing };
    understood(store.ask_process(process, &json!(question), SHARING_TIME)?)
}

/// How all servers that stand by stand to a volume.
pub fn ask_all(store: &Store, id: &str, name: &str) -> Result<Vec<(Owner, Result<StandbyState>)>> {
    let question = Question::Standby { id: id.into(), name: name.into() };
    let answers = store.ask_processes(&json!(question))?;
    Ok(answers.into_iter().map(|(owner, answer)| (owner, answer.and_then(understood))).collect())
}

fn understood(answer: Value) -> Result<StandbyState> {
    serde_json::from_value(answer).map_err(|e| Error::Unsupported(format!("an answer that is not understood: {e}")))
}
