use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;

/// What a test operation does.
enum Deed {
    Answer(i32),
    WaitFor(Mutex<mpsc::Receiver<()>>),
    Panic,
}

struct Job {
    tag: u64,
    deed: Deed,
    broken: Arc<AtomicUsize>,
}

impl Work for Job {
    fn tag(&self) -> u64 {
        self.tag
    }

    fn run(&self) -> i32 {
        match &self.deed {
            Deed::Answer(result) => *result,
            Deed::WaitFor(signal) => {
                let _ = signal.lock().recv();
                0
            }
            Deed::Panic => panic!("planted"),
        }
    }

    fn failed_inside(&self) {
        self.broken.fetch_add(1, Ordering::SeqCst);
    }
}

fn job(tag: u64, deed: Deed) -> Job {
    Job { tag, deed, broken: Arc::default() }
}

fn submit(ring: &Ring<Job>, tags: std::ops::Range<u64>) -> (usize, Result<()>) {
    let mut next = tags.clone();
    let mut give = || Ok(job(next.next().expect("asked for as many as there are"), Deed::Answer(0)));
    ring.submit((tags.end - tags.start) as usize, &mut give)
}

fn collect(ring: &Ring<Job>, capacity: usize, least: usize, timeout: Option<Duration>) -> Vec<archip_completion> {
    let mut all = Vec::new();
    ring.wait(capacity, least, timeout, &mut |c| all.push(c)).expect("open");
    all
}

fn readable(descriptor: c_int) -> bool {
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one element of ours.
    unsafe { libc::poll(&mut poll, 1, 0) == 1 }
}

#[test]
fn every_operation_of_many_threads_completes_once() {
    for threads in [0, 1, 3] {
        const EACH: u64 = 5000;
        let ring = Arc::new(Ring::new(64, threads).expect("a ring"));
        let submitters: Vec<_> = (0..3)
            .map(|number| {
                let ring = ring.clone();
                thread::spawn(move || {
                    let (mut at, end) = (number * EACH, (number + 1) * EACH);
                    while at < end {
                        let (taken, result) = submit(&ring, at..end.min(at + 7));
                        assert!(result.is_ok() || matches!(result, Err(Error::Full(64))), "{result:?}");
                        at += taken as u64;
                    }
                })
            })
            .collect();
        let mut seen = vec![false; 3 * EACH as usize];
        let mut count = 0;
        while count < seen.len() {
            for completion in collect(&ring, 16, 1, None) {
                assert!(!std::mem::replace(&mut seen[completion.user_data as usize], true), "twice");
                count += 1;
            }
        }
        submitters.into_iter().for_each(|s| s.join().expect("no panic"));
        assert!(collect(&ring, 16, 0, Some(Duration::ZERO)).is_empty());
    }
}

#[test]
fn a_full_ring_takes_what_it_has_room_for_and_more_once_something_was_collected() {
    for threads in [0, 2] {
        let ring = Ring::new(4, threads).expect("a ring");
        let (taken, result) = submit(&ring, 0..6);
        assert!(taken == 4 && matches!(result, Err(Error::Full(4))));
        assert!(matches!(submit(&ring, 6..7), (0, Err(Error::Full(4)))));
        assert_eq!(collect(&ring, 2, 2, None).len(), 2);
        assert!(matches!(submit(&ring, 7..10), (2, Err(Error::Full(4)))));
        assert_eq!(collect(&ring, 9, 4, None).len(), 4);
    }
}

#[test]
fn a_request_that_is_refused_ends_the_batch_and_gives_its_room_back() {
    for threads in [0, 2] {
        let ring = Ring::new(4, threads).expect("a ring");
        let mut at = 0;
        let (taken, result) = ring.submit(4, &mut || {
            at += 1;
            if at == 3 { Err(Error::Null("buffer")) } else { Ok(job(at, Deed::Answer(-5))) }
        });
        assert!(taken == 2 && matches!(result, Err(Error::Null("buffer"))));
        let done = collect(&ring, 4, 2, None);
        assert!(done.len() == 2 && done.iter().all(|c| c.result == -5));
        assert!(matches!(submit(&ring, 0..4), (4, Ok(()))), "all room is there again");
    }
}

#[test]
fn the_descriptor_is_readable_as_long_as_something_is_there() {
    let ring = Ring::new(8, 0).expect("a ring");
    assert!(matches!(submit(&ring, 0..1), (1, Ok(()))));
    let descriptor = ring.eventfd().expect("a descriptor");
    assert_eq!(ring.eventfd().expect("the same"), descriptor);
    assert!(readable(descriptor), "what was there before it was made");
    assert!(matches!(submit(&ring, 1..4), (3, Ok(()))));
    collect(&ring, 3, 3, None);
    assert!(readable(descriptor), "one is left");
    collect(&ring, 3, 1, None);
    assert!(!readable(descriptor));
    collect(&ring, 3, 0, None);
    assert!(matches!(submit(&ring, 4..5), (1, Ok(()))));
    assert!(readable(descriptor));
}

#[test]
fn waiting_ends_with_the_time_and_with_the_ring() {
    let ring = Arc::new(Ring::new(8, 1).expect("a ring"));
    assert!(collect(&ring, 1, 1, Some(Duration::from_millis(5))).is_empty());
    assert!(collect(&ring, 1, 1, Some(Duration::ZERO)).is_empty());
    let waiter = {
        let ring = ring.clone();
        thread::spawn(move || ring.wait(1, 1, None, &mut |_| {}))
    };
    while ring.shared.ends.lock().waiters == 0 {
        thread::yield_now();
    }
    ring.wake_waiting();
    assert!(matches!(waiter.join().expect("no panic"), Err(Error::Closing)));
    assert!(matches!(ring.wait(1, 0, None, &mut |_| {}), Err(Error::Closing)));
}

#[test]
fn what_was_submitted_is_carried_out_before_the_ring_goes() {
    let broken = Arc::new(AtomicUsize::new(0));
    let (go, signal) = mpsc::channel();
    let ring = Ring::new(8, 1).expect("a ring");
    let mut first = Some(Deed::WaitFor(Mutex::new(signal)));
    let mut give = || {
        let deed = first.take().unwrap_or(Deed::Panic);
        Ok(Job { tag: 0, deed, broken: broken.clone() })
    };
    assert!(matches!(ring.submit(4, &mut give), (4, Ok(()))));
    go.send(()).expect("it is waited for");
    drop(ring);
    assert_eq!(broken.load(Ordering::SeqCst), 3, "the three behind the first were begun");
}

#[test]
fn a_panic_is_an_error_of_its_operation_alone() {
    for threads in [0, 1] {
        let ring = Ring::new(8, threads).expect("a ring");
        let broken = Arc::new(AtomicUsize::new(0));
        let mut deeds = vec![Deed::Answer(0), Deed::Panic];
        let mut give = || Ok(Job { tag: 9, deed: deeds.pop().expect("two"), broken: broken.clone() });
        assert!(matches!(ring.submit(2, &mut give), (2, Ok(()))));
        let results: Vec<i32> = collect(&ring, 2, 2, None).iter().map(|c| c.result).collect();
        assert_eq!(results, [-libc::EIO, 0]);
        assert_eq!(broken.load(Ordering::SeqCst), 1);
    }
}
