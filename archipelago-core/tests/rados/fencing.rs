//! What becomes of a holder of a lock that dies, or is only thought to be dead.

use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use archipelago_core::Error;
use archipelago_core::blocker::rados::{RadosBlocker, RadosPlace};
use archipelago_core::blocker::{Blocker, LockGuard, LockMode, LockOutcome, Object, VolumeId};

use crate::place;

const V: VolumeId = VolumeId(0xa1);
/// Epochs that the holder writes to: enough to lie in every placement group of the pool of tests.
const EPOCHS: u64 = 64;
/// In which a dead holder has been given up: the time for which nothing is heard of it, and that again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that holds the lock.
struct Holder {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Holder {
    /// Starts it, and waits until it has the lock.
    fn start(place: &RadosPlace) -> Holder {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fencing::holder", "--ignored", "--nocapture"])
            .env("ARCHIPELAGO_RADOS_HOLDER", place.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let mut holder = Holder { process, input, output };
        holder.wait_for("locked");
        holder
    }

    fn wait_for(&mut self, wanted: &str) {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the holder ended without saying {wanted:?}");
            if line.trim() == wanted {
                return;
            }
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the process is a child that was not waited for yet, so the number is its own.
        #[allow(unsafe_code)]
        let code = unsafe { libc::kill(self.process.id() as i32, signal) };
        assert_eq!(code, 0);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn taken(blocker: &RadosBlocker) -> Result<Box<dyn LockGuard>, Vec<u8>> {
    match blocker.lock(V, LockMode::Exclusive, b"next").unwrap() {
        LockOutcome::Held(guard) => Ok(guard),
        LockOutcome::Refused(owner) => Err(owner),
    }
}

/// Takes the lock as soon as it can be had.
fn take_over(blocker: &RadosBlocker) -> Box<dyn LockGuard> {
    let begun = Instant::now();
    loop {
        match taken(blocker) {
            Ok(guard) => return guard,
            Err(owner) => assert_eq!(owner, b"holder"),
        }
        assert!(begun.elapsed() < PATIENCE, "the lock of a dead holder is never had");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Not a test of its own: the process that [`Holder`] starts.
#[test]
#[ignore = "the other process of the tests beside it"]
fn holder() {
    let Ok(place) = std::env::var("ARCHIPELAGO_RADOS_HOLDER") else { return };
    let blocker = RadosBlocker::open(&place.parse().unwrap()).unwrap();
    let guard = blocker.lock(V, LockMode::Exclusive, b"holder").unwrap();
    assert!(matches!(guard, LockOutcome::Held(_)));
    let write = |bytes: &[u8]| -> Vec<_> {
        (1..=EPOCHS).map(|epoch| blocker.write(Object::Data(V, epoch), &[IoSlice::new(bytes)], 0)).collect()
    };
    assert!(write(b"first").into_iter().all(|result| result.is_ok()));
    println!("\nlocked");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let results = write(b"late.");
    let fenced = results.iter().all(|result| matches!(result, Err(Error::Stale(_))));
    println!("\n{}", if fenced { "fenced" } else { "written" });
    drop(guard);
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn a_holder_that_stands_still_is_fenced_before_another_has_its_lock() {
    let place = place();
    let mut holder = Holder::start(&place);
    let blocker = RadosBlocker::open(&place).unwrap();
    assert_eq!(taken(&blocker).err().as_deref(), Some(&b"holder"[..]));
    assert_eq!(blocker.lock_holder(V).unwrap().as_deref(), Some(&b"holder"[..]));
    holder.signal(libc::SIGSTOP);
    // It may go on at any moment.
    assert_eq!(taken(&blocker).err().as_deref(), Some(&b"holder"[..]));
    let guard = take_over(&blocker);
    holder.signal(libc::SIGCONT);
    holder.input.write_all(b"write\n").unwrap();
    // Nothing of it arrives, nor in objects that nobody has touched since.
    holder.wait_for("fenced");
    for epoch in 1..=EPOCHS {
        let mut bytes = [0; 5];
        blocker.read(Object::Data(V, epoch), &mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
        assert_eq!(&bytes, b"first", "epoch {epoch}");
    }
    drop(guard);
}

#[test]
#[ignore = "needs a Ceph cluster: make test-ceph"]
fn the_lock_of_a_holder_that_was_killed_is_had_by_another() {
    let place = place();
    let holder = Holder::start(&place);
    let blocker = RadosBlocker::open(&place).unwrap();
    holder.signal(libc::SIGKILL);
    let guard = take_over(&blocker);
    assert_eq!(taken(&blocker).err().as_deref(), Some(&b"next"[..]));
    drop(guard);
    assert_eq!(blocker.lock_holder(V).unwrap(), None);
    assert!(taken(&RadosBlocker::open(&place).unwrap()).is_ok());
}
