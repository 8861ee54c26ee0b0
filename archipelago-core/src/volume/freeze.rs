//! One volume's part in a group snapshot (docs/architecture.md, "Group snapshot"): stops changes when it is told to, moves to the
//! next epoch when it is told to, and gives up by itself when nothing more is said.
//!
//! A part is a thread, for it holds locks from one step to the next, and who says the steps may be another process. It has
//! the volume's commit lock from its start to its end, and the gate from *freeze* to *switch*. Whoever has several parts
//! starts them in the order of the volumes' ids, so that two groups never wait for each other.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::blocker::VolumeId;
use crate::error::{Error, Result};
use crate::format::header::Header;
use crate::format::relations::Group;
use crate::limits::MAX_RANGES;
use crate::sync::MutexGuard;
use crate::volume::handle::Handle;
use crate::volume::inner::{CommitState, Inner, Writer};

/// How long changes may be stopped for a group: past it the group is given up.
pub const FREEZE_TIME: Duration = Duration::from_secs(5);
/// How long a part waits for any other step, and a group for the answer.
pub const STEP_TIME: Duration = Duration::from_secs(30);

/// The snapshot that is wanted of a volume.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its id.
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// The group to which it belongs.
    pub group: VolumeId,
}

/// What a part is told, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Stop changes.
    Freeze,
    /// Move to the next epoch and let changes go on.
    Switch,
    /// Make the old epoch durable.
    Finish,
    /// The snapshot counts.
    Published,
}

/// What a part answers.
#[derive(Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// Durable: the header of the snapshot.
    Snapshot(Box<Header>),
}

/// A part at work. Dropped before its last step it lets the volume go on as if nothing had been, but for a higher epoch.
pub struct Part {
    name: String,
    steps: Option<Sender<Step>>,
    replies: Receiver<Result<Reply>>,
    thread: Option<JoinHandle<()>>,
}

impl Part {
    /// Begins: flushes, and waits until nobody else flushes or snapshots the volume.
    pub fn start(inner: Handle, wanted: Wanted) -> Result<Part> {
        let name = inner.name();
        let (steps, told) = bounded(1);
        // A part says six things at most, and must not wait for somebody who waits for its end.
        let (answer, replies) = unbounded();
        let run = move || {
            if let Err(error) = take_part(&inner, &wanted, &told, &answer) {
                // Nobody listens if it was given up.
                let _ = answer.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new().name("archipelago-group".into()).spawn(run);
        let thread = thread.map_err(|e| Error::io("start", "a thread for the group snapshot", e))?;
        let part = Part { name, steps: Some(steps), replies, thread: Some(thread) };
        part.wait(2 * STEP_TIME)?;
        Ok(part)
    }

    /// Whether it did all steps, or gave up.
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Says the next step.
    pub fn tell(&self, step: Step) {
        if let Some(steps) = &self.steps {
            // If it ended, its last reply says why.
            let _ = steps.try_send(step);
        }
    }

    /// Waits for the reply to the last step.
    pub fn wait(&self, time: Duration) -> Result<Reply> {
        match self.replies.recv_timeout(time) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => Err(Error::Timeout(self.name.clone())),
            Err(RecvTimeoutError::Disconnected) => Err(Error::NotOpen(self.name.clone())),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Whatever it waits for, it hears that there will be no more.
        self.steps = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits to be told a step.
fn hear(inner: &Inner, told: &Receiver<Step>, step: Step, time: Duration) -> Result<()> {
    match told.recv_timeout(time) {
        Ok(heard) if heard == step => Ok(()),
        Ok(heard) => Err(Error::InvalidArgument(format!("{}: {heard:?} in the place of {step:?}", inner.name()))),
        Err(RecvTimeoutError::Timeout) => Err(Error::Timeout(format!("group snapshot of {}", inner.name()))),
        Err(RecvTimeoutError::Disconnected) => Err(Error::NotOpen(inner.name())),
    }
}

fn take_part(inner: &Inner, wanted: &Wanted, told: &Receiver<Step>, answer: &Sender<Result<Reply>>) -> Result<()> {
    let done = || {
        let _ = answer.send(Ok(Reply::Done));
    };
    inner.settle_cache()?;
    let _operation = inner.shared.operations.begin();
    let writer = inner.writer()?;
    inner.check()?;
    if inner.header.lock().header.ranges.len() + 1 >= MAX_RANGES {
        inner.checkpoint()?;
    }
    inner.make_way(writer)?;
    // Most of what is dirty goes out before anybody has to wait.
    inner.flush()?;
    // What a cache acknowledged counts: what one volume has, no other may lack that was acknowledged before. So nothing is acknowledged from
    // here to the switch, and before the commit lock, which a flush of what is brought into the volume takes.
    let still = inner.still()?;
    let mut commit = commit_in_time(inner, writer)?;
    done();
    hear(inner, told, Step::Freeze, if still.is_some() { FREEZE_TIME } else { STEP_TIME })?;
    let mut job = {
        let Some(stopped) = inner.stop_changes_for(FREEZE_TIME) else { return Err(Error::Timeout(inner.name())) };
        done();
        hear(inner, told, Step::Switch, FREEZE_TIME)?;
        let job = inner.capture(writer);
        inner.raise_epoch(writer, &mut commit)?;
        drop(stopped);
        drop(still);
        job
    };
    done();
    hear(inner, told, Step::Finish, STEP_TIME)?;
    inner.finish_flush(writer, &mut commit)?;
    let end = inner.record_epoch(writer)?;
    let header = Header { group: Group::Member(wanted.group), ..inner.snapshot_header(wanted.id, &wanted.name, end) };
    let folds = !header.ranges.is_empty();
    let _ = answer.send(Ok(Reply::Snapshot(Box::new(header))));
    hear(inner, told, Step::Published, STEP_TIME)?;
    job.snapshot = Some(wanted.id);
    // Before anything newer can be captured: the commit lock is held.
    if folds {
        inner.queue_fold(writer, job);
    }
    drop(commit);
    done();
    Ok(())
}

/// The commit lock, when no dead bytes lie past the end.
fn commit_in_time<'a>(inner: &Inner, writer: &'a Writer) -> Result<MutexGuard<'a, CommitState>> {
    let deadline = Instant::now() + STEP_TIME;
    loop {
        let Some(commit) = writer.commit.try_lock_until(deadline) else { return Err(Error::Timeout(inner.name())) };
        inner.check()?;
        if !inner.header.lock().header.shrunk {
            return Ok(commit);
        }
        drop(commit);
        inner.checkpoint()?;
    }
}

#[cfg(test)]
mod tests;
