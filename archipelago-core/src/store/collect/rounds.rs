//! Asking the other processes: that what was under way has ended, and which headers they read by.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::pace::Pace;
use crate::blocker::VolumeId;
use crate::error::{Error, Owner, Result};
use crate::store::Background;
use crate::store::acknowledge::Unsettled;
use crate::store::control::{Answer, Request};
use crate::store::peers::Peers;
use crate::store::pins::PinnedHeader;
use crate::store::shared::Shared;

/// How long a process may take to acknowledge: somewhat more than it waits itself.
const ACKNOWLEDGE_TIME: Duration = Duration::from_secs(25);
/// How long a process may take for a page of its pins.
const PINS_TIME: Duration = Duration::from_secs(10);
/// How long a process that does not listen any more may take to be gone: on a busy machine the last of its work takes its time.
const LEAVING_TIME: Duration = Duration::from_secs(10);
/// How long a process may be too busy to be asked.
const BUSY_TIME: Duration = Duration::from_secs(5);
/// Longest wait for an answer without asking whether to go on.
const SLICE: Duration = Duration::from_millis(50);
/// Wait between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until everything that any process of the store had begun before this call has ended. With `packs` they close
/// their node packs. Processes that are dead, or come later, are not asked: the ones have nothing under way, the others
/// nothing that is older than this. Returns the volumes with map changes that are in no journal yet, each with the oldest epoch of these.
pub fn acknowledge(shared: &Shared, packs: bool, pace: &mut Pace<'_>) -> Result<Vec<(VolumeId, u64)>> {
    let own = shared.acknowledge(packs, &mut || pace.ask());
    let mut all = own.and_then(volumes).map_err(|e| unanswered(&shared.owner(), &e))?;
    for owner in others(shared)? {
        match ask(shared, &owner, &Request::Acknowledge { packs }, ACKNOWLEDGE_TIME, pace)? {
            Some(Answer::Acknowledged { unsettled }) => {
                all.extend(volumes(unsettled).map_err(|e| unanswered(&owner, &e))?);
            }
            Some(_) => return Err(unanswered(&owner, &"its answer is not understood")),
            None => {}
        }
    }
    Ok(all)
}

/// Which volumes they are. One that is not understood must not be passed over: what it keeps would be collected.
fn volumes(unsettled: Vec<Unsettled>) -> Result<Vec<(VolumeId, u64)>> {
    unsettled.into_iter().map(|Unsettled { id, epoch }| Ok((id.parse()?, epoch))).collect()
}

/// Calls `each` with every pinned header of every process.
pub fn pins(
    shared: &Shared,
    pace: &mut Pace<'_>,
    each: &mut dyn FnMut(PinnedHeader, &mut Pace<'_>) -> Result<()>,
) -> Result<()> {
    let mut after = Some(0);
    while let Some(number) = after {
        let (page, next) = shared.pins.page(number);
        page.into_iter().try_for_each(|pin| each(pin, pace))?;
        after = next;
    }
    for owner in others(shared)? {
        let mut after = Some(0);
        while let Some(number) = after {
            match ask(shared, &owner, &Request::Pins { after: number }, PINS_TIME, pace)? {
                Some(Answer::Pins { pins, next }) => {
                    pins.into_iter().try_for_each(|pin| each(pin, pace))?;
                    after = next.filter(|next| *next > number);
                }
                Some(_) => return Err(unanswered(&owner, &"its answer is not understood")),
                None => break,
            }
        }
    }
    Ok(())
}

/// Tells everybody that objects are gone. Who does not hear it keeps some room taken until it closes its files.
pub fn collected(shared: &Shared) {
    shared.blocker.close_idle();
    for owner in others(shared).unwrap_or_default() {
        if let Some(peers) = shared.peers.get() {
            let _ = peers.ask(&owner.process, &Request::Collected, PINS_TIME);
        }
    }
}

fn others(shared: &Shared) -> Result<Vec<Owner>> {
    let Some(peers) = shared.peers.get() else { return Ok(Vec::new()) };
    let mut processes = peers.processes()?;
    processes.retain(|owner| owner.process != peers.own());
    Ok(processes)
}

/// Asks one process; `None` if it is gone. Whoever lives and gives no answer ends the collection.
fn ask(
    shared: &Shared,
    owner: &Owner,
    request: &Request,
    time: Duration,
    pace: &mut Pace<'_>,
) -> Result<Option<Answer>> {
    // In a simulation nobody moves while this waits.
    let patient = shared.options.background != Background::Manual;
    shared.peers.get().map_or(Ok(None), |peers| ask_until_gone(peers, owner, request, time, patient, pace))
}

fn ask_until_gone(
    peers: &Arc<dyn Peers>,
    owner: &Owner,
    request: &Request,
    time: Duration,
    patient: bool,
    pace: &mut Pace<'_>,
) -> Result<Option<Answer>> {
    let begun = Instant::now();
    loop {
        let answer = match patient {
            true => ask_beside(peers, owner, request, time, pace)?,
            false => peers.ask(&owner.process, request, time),
        };
        let error = match answer {
            Ok(answer) => return Ok(Some(answer)),
            Err(_) if !peers.alive(&owner.process) => return Ok(None),
            Err(error) => error,
        };
        let patience = match error {
            _ if !patient => Duration::ZERO,
            // On its way out; but a live one whose socket is gone must not be taken for dead.
            Error::NotOpen(_) => LEAVING_TIME,
            // A process that ends closes its sockets a moment before its registration is free. What is asked here may be asked twice.
            Error::Io { ref source, .. } if is_closed(source.kind()) => LEAVING_TIME,
            Error::TooBusy(_) => BUSY_TIME,
            _ => Duration::ZERO,
        };
        if begun.elapsed() >= patience {
            return Err(unanswered(owner, &error));
        }
        std::thread::sleep(PAUSE);
        pace.ask()?;
    }
}

/// Asks in a thread of its own, so that a collection which should stop does not wait for somebody who stands still. The outer
/// error is that of `pace`; the thread ends by itself then, when its time is over.
fn ask_beside(
    peers: &Arc<dyn Peers>,
    owner: &Owner,
    request: &Request,
    time: Duration,
    pace: &mut Pace<'_>,
) -> Result<Result<Answer>> {
    let (send, answered) = channel();
    let (peers, process, request) = (peers.clone(), owner.process.clone(), request.clone());
    let question = move || drop(send.send(peers.ask(&process, &request, time)));
    let failed = |e| Error::io("start", "a thread that asks a process", e);
    std::thread::Builder::new().name("question".into()).spawn(question).map_err(failed)?;
    loop {
        match answered.recv_timeout(SLICE) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) => pace.ask()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(Err(Error::NotOpen(owner.to_string()))),
        }
    }
}

/// Whether this is what a socket says whose other end is closed.
fn is_closed(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionRefused | ConnectionReset | UnexpectedEof)
}

fn unanswered(owner: &Owner, why: &dyn std::fmt::Display) -> Error {
    Error::Timeout(format!("nothing was collected, because {owner} has to be asked first ({why}), and"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::store::collect::Rate;

    /// A process that has closed its sockets, and is registered for some more looks at it.
    struct Ending {
        looks: AtomicU32,
        kind: ErrorKind,
    }

    impl Peers for Ending {
        fn own(&self) -> &str {
            "0000000000000001"
        }

        fn processes(&self) -> Result<Vec<Owner>> {
            Ok(Vec::new())
        }

        fn describe(&self, _: &str) -> Option<Owner> {
            None
        }

        fn alive(&self, _: &str) -> bool {
            self.looks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |looks| looks.checked_sub(1)).is_ok()
        }

        fn ask(&self, process: &str, _: &Request, _: Duration) -> Result<Answer> {
            Err(Error::Io { op: "ask", object: process.into(), source: self.kind.into() })
        }
    }

    #[test]
    fn a_process_that_ends_while_it_is_asked_does_not_end_a_collection() {
        let process = "0000000000000002".to_string();
        let owner = Owner { pid: 2, host: "here".into(), command: "test".into(), since: 0, process };
        let ask = |kind| {
            let peers: Arc<dyn Peers> = Arc::new(Ending { looks: AtomicU32::new(2), kind });
            let (request, mut go_on) = (Request::Acknowledge { packs: false }, |_: &_| true);
            let pace = &mut Pace::new(Rate::default(), &mut go_on);
            ask_until_gone(&peers, &owner, &request, ACKNOWLEDGE_TIME, true, pace)
        };
        for closed in [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::ConnectionRefused] {
            assert!(ask(closed).unwrap().is_none(), "{closed}");
        }
        assert!(matches!(ask(ErrorKind::PermissionDenied), Err(Error::Timeout(_))));
    }

    #[test]
    fn a_volume_that_another_process_names_in_another_spelling_is_not_passed_over() {
        let named = |id: &str| volumes(vec![Unsettled { id: id.into(), epoch: 3 }]);
        assert_eq!(named("00000000000000a1").unwrap(), [(VolumeId(0xa1), 3)]);
        for wrong in ["", "a1", "00000000000000A1", "+0000000000000a1", "0000000000000000", "volume-1"] {
            named(wrong).unwrap_err();
        }
    }

    /// A process that gives no answer before the test is over.
    struct Standing(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

    impl Peers for Standing {
        fn own(&self) -> &str {
            "0000000000000001"
        }

        fn processes(&self) -> Result<Vec<Owner>> {
            Ok(Vec::new())
        }

        fn describe(&self, _: &str) -> Option<Owner> {
            None
        }

        fn alive(&self, _: &str) -> bool {
            true
        }

        fn ask(&self, _: &str, _: &Request, _: Duration) -> Result<Answer> {
            // Until the other end is dropped.
            let _ = self.0.lock().map(|released| released.recv());
            Ok(Answer::Done)
        }
    }

    #[test]
    fn a_collection_that_should_stop_waits_for_no_answer() {
        let process = "0000000000000002".to_string();
        let owner = Owner { pid: 2, host: "here".into(), command: "test".into(), since: 0, process };
        let (release, released) = channel::<()>();
        let peers: Arc<dyn Peers> = Arc::new(Standing(std::sync::Mutex::new(released)));
        let mut asked = 0;
        let mut go_on = |_: &_| {
            asked += 1;
            asked < 3
        };
        let pace = &mut Pace::new(Rate::default(), &mut go_on);
        let request = Request::Acknowledge { packs: false };
        let answer = ask_until_gone(&peers, &owner, &request, ACKNOWLEDGE_TIME, true, pace);
        // If it had waited for the answer it would wait still.
        assert!(answer.is_err() && pace.stopped);
        drop(release);
    }
}
