//! What a process does for a collector that asks it: it lets everything under way come to an end, and says which headers
//! it still reads by (docs/architecture.md, "Collection").

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::control::Answer;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::limits::MAX_LIST_PAGE;

/// How long operations under way may take before the collector is told that they did not end. Below the time that a
/// control connection gives for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest wait without asking whether to go on.
const SLICE: Duration = Duration::from_millis(50);

/// A volume with map changes that are in no journal, because a sync of their data failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    /// Id of the volume, 16 hex digits.
    pub id: String,
    /// Its oldest such epoch: nothing of this or a later one may be collected.
    pub epoch: u64,
}

impl Shared {
    /// Waits until everything that began before this call has ended: operations, and reads and writes of all open volumes.
    /// With `packs` all node packs are closed first: no pack that exists now is appended to any more when this returns.
    /// `go_on` is asked meanwhile; an error of it ends the waiting.
    pub fn acknowledge(&self, packs: bool, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Vec<Unsettled>> {
        let deadline = Instant::now() + PATIENCE;
        let late = |what: String| Error::Timeout(format!("{what}, which a collection waits for,"));
        let mut within = |done: &mut dyn FnMut(Instant) -> bool| -> Result<bool> {
            loop {
                let now = Instant::now();
                if done(deadline.min(now + SLICE)) {
                    return Ok(true);
                }
                if now >= deadline {
                    return Ok(false);
                }
                go_on()?;
            }
        };
        if packs {
            // Before the wait: a fold that has appended to a pack and not yet named its nodes in the header is waited for.
            for inner in self.all_open() {
                if !within(&mut |until| inner.close_pack(until))? {
                    return Err(late(format!("a checkpoint of {}", inner.name())));
                }
            }
        }
        // Twice: a request that began before the end of a checkpoint may still walk the tree that it replaced. And what one that
        // began before this call found out, it may note after the first time that everything is forgotten: then it is forgotten
        // the second time, and who used it meanwhile is waited for behind that.
        for _ in 0..2 {
            self.contents.forget();
            if !within(&mut |until| self.operations.wait(until))? {
                return Err(late("an operation that began before".into()));
            }
        }
        let mut unsettled = Vec::new();
        for inner in self.all_open() {
            if let Some(epoch) = inner.oldest_unsettled() {
                unsettled.push(Unsettled { id: inner.id.to_string(), epoch });
            }
        }
        if unsettled.len() > MAX_LIST_PAGE {
            return Err(Error::TooBusy(format!("{} volumes with changes in no journal", unsettled.len())));
        }
        Ok(unsettled)
    }

    /// A page of this process's pins, as an answer.
    pub fn pinned(&self, after: u64) -> Answer {
        let (pins, next) = self.pins.page(after);
        Answer::Pins { pins, next }
    }
}
