use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Weak};

use super::*;
use crate::volume::WriteFlags;

const LONG: Option<Duration> = Some(Duration::from_secs(20));

/// Reads put the offset into the buffer; writes check that it is there.
struct Echo {
    running: AtomicUsize,
    most: AtomicUsize,
}

fn echo() -> Arc<Echo> {
    Arc::new(Echo { running: AtomicUsize::new(0), most: AtomicUsize::new(0) })
}

impl Executor for Arc<Echo> {
    fn execute(&self, operation: &mut Operation) -> Result<()> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        let result = match operation {
            Operation::Read { buf, offset } => {
                buf.copy_from_slice(&offset.to_le_bytes());
                Ok(())
            }
            Operation::Write { buf, offset, .. } if *buf == offset.to_le_bytes() => Ok(()),
            Operation::Write { .. } => Err(Error::InvalidArgument("another buffer".into())),
            Operation::Flush => Err(Error::Poisoned("disk-1".into())),
            Operation::Discard { .. } => panic!("on purpose"),
            Operation::WriteZeroes { .. } => Ok(()),
        };
        self.running.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

/// Holds every operation until it is opened.
#[derive(Default)]
struct Gate {
    open: AtomicBool,
    entered: AtomicUsize,
}

impl Executor for Arc<Gate> {
    fn execute(&self, _: &mut Operation) -> Result<()> {
        self.entered.fetch_add(1, Ordering::SeqCst);
        while !self.open.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn operation(n: u64) -> Operation {
    match n % 3 {
        0 => Operation::Read { buf: vec![0; 8], offset: n },
        1 => Operation::Write { buf: n.to_le_bytes().to_vec(), offset: n, flags: WriteFlags::default() },
        _ => Operation::WriteZeroes { offset: n, len: 1, allocate: false, flags: WriteFlags::default() },
    }
}

fn check(completion: &Completion) {
    completion.result.as_ref().unwrap();
    if completion.tag % 3 == 2 {
        assert!(completion.buf.is_empty());
    } else {
        assert_eq!(completion.buf, completion.tag.to_le_bytes());
    }
}

#[test]
fn ten_thousand_operations_of_four_threads_complete_exactly_once() {
    let pool = WorkerPool::new(4, MAX_QUEUE);
    let volume = echo();
    let queue = CompletionQueue::new();
    let seen = Mutex::new(vec![0u8; 10_000]);
    let collected = AtomicUsize::new(0);
    thread::scope(|scope| {
        for t in 0..4u64 {
            let (pool, volume, queue) = (&pool, &volume, &queue);
            scope.spawn(move || {
                for n in (t..10_000).step_by(4) {
                    let mut next = operation(n);
                    while let Err((error, back)) = pool.submit(volume, next, n, queue) {
                        assert!(matches!(error, Error::TooBusy(_)));
                        next = back;
                        thread::yield_now();
                    }
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let mut out = Vec::new();
                while collected.load(Ordering::SeqCst) < 10_000 {
                    queue.wait(&mut out, 1, Some(Duration::from_millis(10)));
                    collected.fetch_add(out.len(), Ordering::SeqCst);
                    for completion in out.drain(..) {
                        check(&completion);
                        seen.lock()[completion.tag as usize] += 1;
                    }
                }
            });
        }
    });
    assert!(seen.lock().iter().all(|&n| n == 1));
    assert_eq!(queue.outstanding(), 0);
    assert!(volume.most.load(Ordering::SeqCst) <= 4);
    assert_eq!(Arc::strong_count(&volume), 1, "no operation is left anywhere");
}

#[test]
fn each_queue_gets_its_own_completions() {
    let pool = WorkerPool::new(2, MAX_QUEUE);
    let volume = echo();
    let queues = [CompletionQueue::new(), CompletionQueue::new()];
    for n in 0..200 {
        pool.submit(&volume, operation(n), n, &queues[n as usize % 2]).unwrap();
    }
    for (which, queue) in queues.iter().enumerate() {
        let mut out = Vec::new();
        assert_eq!(queue.wait(&mut out, 100, LONG), 100);
        assert!(out.iter().all(|c| c.tag as usize % 2 == which));
    }
}

#[test]
fn errors_and_panics_arrive_as_completions_and_the_threads_go_on() {
    let pool = WorkerPool::new(1, MAX_QUEUE);
    let volume = echo();
    let queue = CompletionQueue::new();
    pool.submit(&volume, Operation::Discard { offset: 0, len: 1 }, 1, &queue).unwrap();
    pool.submit(&volume, Operation::Flush, 2, &queue).unwrap();
    pool.submit(&volume, operation(3), 3, &queue).unwrap();
    let mut out = Vec::new();
    assert_eq!(queue.wait(&mut out, 3, LONG), 3);
    assert_eq!(out.iter().map(|c| c.tag).collect::<Vec<_>>(), [1, 2, 3], "one thread keeps the order");
    assert_eq!(out[0].result.as_ref().unwrap_err().errno(), libc::EIO);
    assert!(matches!(out[1].result, Err(Error::Poisoned(_))));
    check(&out[2]);
}

#[test]
fn a_full_pool_gives_the_operation_back() {
    let pool = WorkerPool::new(1, 2);
    let gate = Arc::new(Gate::default());
    let queue = CompletionQueue::new();
    pool.submit(&gate, operation(0), 0, &queue).unwrap();
    while gate.entered.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    pool.submit(&gate, operation(1), 1, &queue).unwrap();
    pool.submit(&gate, operation(2), 2, &queue).unwrap();
    let (error, back) = pool.submit(&gate, operation(4), 4, &queue).unwrap_err();
    assert!(matches!(error, Error::TooBusy(_)));
    assert!(matches!(back, Operation::Write { buf, offset: 4, .. } if buf == 4u64.to_le_bytes()));
    assert_eq!(queue.outstanding(), 3);
    gate.open.store(true, Ordering::SeqCst);
    let mut out = Vec::new();
    assert_eq!(queue.wait(&mut out, 3, LONG), 3);
    pool.submit(&gate, operation(4), 4, &queue).unwrap();
    assert_eq!(queue.wait(&mut out, 1, LONG), 1);
}

#[test]
fn a_queue_that_nobody_collects_from_is_bounded() {
    let pool = WorkerPool::new(2, 2 * MAX_QUEUE);
    let volume = echo();
    let queue = CompletionQueue::new();
    for n in 0..MAX_QUEUE as u64 {
        pool.submit(&volume, operation(n), n, &queue).unwrap();
    }
    assert!(matches!(pool.submit(&volume, Operation::Flush, 0, &queue), Err((Error::TooBusy(_), _))));
    // Other queues are not affected, and collecting makes room.
    pool.submit(&volume, operation(0), 0, &CompletionQueue::new()).unwrap();
    let mut out = Vec::new();
    assert!(queue.wait(&mut out, 1, LONG) > 0);
    pool.submit(&volume, Operation::Flush, 0, &queue).unwrap();
}

#[test]
fn waiting_ends_with_the_timeout_and_keeps_what_came() {
    let pool = WorkerPool::new(2, MAX_QUEUE);
    let queue = CompletionQueue::new();
    let mut out = Vec::new();
    let short = Duration::from_millis(20);
    let start = Instant::now();
    assert_eq!(queue.wait(&mut out, 1, Some(short)), 0);
    assert!(start.elapsed() >= short);
    assert_eq!(queue.wait(&mut out, 1, Some(Duration::ZERO)), 0);
    assert_eq!(queue.poll(&mut out), 0);

    pool.submit(&echo(), operation(0), 0, &queue).unwrap();
    let start = Instant::now();
    assert_eq!(queue.wait(&mut out, 2, Some(Duration::from_millis(300))), 1, "one of two is better than none");
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(out.len(), 1);

    // A timeout that no clock can hold is for ever.
    pool.submit(&echo(), operation(0), 0, &queue).unwrap();
    assert_eq!(queue.wait(&mut out, 1, Some(Duration::MAX)), 1);
}

#[test]
fn waiters_with_different_wishes_are_all_woken() {
    let pool = WorkerPool::new(2, MAX_QUEUE);
    let volume = echo();
    for round in 0..100 {
        let queue = CompletionQueue::new();
        thread::scope(|scope| {
            let waiters: Vec<_> = [1usize, 2, 5]
                .map(|min| {
                    let queue = &queue;
                    scope.spawn(move || queue.wait(&mut Vec::new(), min, Some(Duration::from_secs(20))))
                })
                .into();
            let mut n = 0;
            while !waiters.iter().all(|w| w.is_finished()) {
                if queue.outstanding() < 8 {
                    pool.submit(&volume, operation(n), n, &queue).unwrap();
                    n += 1;
                }
                thread::yield_now();
            }
            for (waiter, min) in waiters.into_iter().zip([1, 2, 5]) {
                assert!(waiter.join().unwrap() >= min, "round {round}");
            }
        });
    }
}

#[test]
fn dropping_the_pool_ends_everything_in_flight() {
    let pool = WorkerPool::new(2, MAX_QUEUE);
    let gate = Arc::new(Gate::default());
    let queue = CompletionQueue::new();
    for n in 0..100 {
        pool.submit(&gate, operation(n), n, &queue).unwrap();
    }
    while gate.entered.load(Ordering::SeqCst) < 2 {
        thread::yield_now();
    }
    thread::scope(|scope| {
        scope.spawn(|| drop(pool));
        let mut out = Vec::new();
        assert_eq!(queue.wait(&mut out, 98, LONG), 98);
        assert!(out.iter().all(|c| matches!(c.result, Err(Error::NotOpen(_)))));
        assert!(out.iter().all(|c| c.tag % 3 == 2 || c.buf.len() == 8), "buffers come back");
        gate.open.store(true, Ordering::SeqCst);
        assert_eq!(queue.wait(&mut out, 2, LONG), 2);
    });
    assert_eq!(Arc::strong_count(&gate), 1);
}

#[test]
fn a_queue_may_be_dropped_while_operations_are_in_flight() {
    let pool = WorkerPool::new(2, MAX_QUEUE);
    let gate = Arc::new(Gate::default());
    let queue = CompletionQueue::new();
    let weak: Weak<Collected> = Arc::downgrade(&queue.shared);
    for n in 0..10 {
        pool.submit(&gate, operation(n), n, &queue).unwrap();
    }
    drop(queue);
    gate.open.store(true, Ordering::SeqCst);
    let start = Instant::now();
    while weak.strong_count() > 0 {
        assert!(start.elapsed() < Duration::from_secs(20));
        thread::yield_now();
    }
    drop(pool);
    assert_eq!(gate.entered.load(Ordering::SeqCst), 10, "they were carried out all the same");
}

/// A store in small: it owns the pool, and its operation owns the store.
struct Owning {
    pool: WorkerPool<Arc<Owning>>,
    begin: Barrier,
    closed: Arc<AtomicBool>,
}

impl Executor for Arc<Owning> {
    fn execute(&self, _: &mut Operation) -> Result<()> {
        self.begin.wait();
        thread::sleep(Duration::from_millis(20));
        Ok(())
    }
}

impl Drop for Owning {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

#[test]
fn an_operation_that_holds_the_last_handle_closes_its_store_before_it_completes() {
    let closed = Arc::new(AtomicBool::new(false));
    let store = Arc::new(Owning { pool: WorkerPool::new(2, 8), begin: Barrier::new(2), closed: closed.clone() });
    let queue = CompletionQueue::new();
    store.pool.submit(&store, Operation::Flush, 1, &queue).unwrap();
    store.begin.wait();
    drop(store);
    assert_eq!(queue.wait(&mut Vec::new(), 1, LONG), 1);
    assert!(closed.load(Ordering::SeqCst));
}

#[test]
fn threads_start_with_the_work_and_never_exceed_the_limit() {
    let pool = WorkerPool::new(3, MAX_QUEUE);
    assert_eq!(pool.shared.workers.lock().len(), 0);
    let gate = Arc::new(Gate::default());
    let queue = CompletionQueue::new();
    for (n, threads) in [(0, 1), (1, 2), (2, 3), (3, 3)] {
        pool.submit(&gate, operation(n), n, &queue).unwrap();
        assert_eq!(pool.shared.workers.lock().len(), threads);
    }
    let start = Instant::now();
    while gate.entered.load(Ordering::SeqCst) < 3 {
        assert!(start.elapsed() < Duration::from_secs(20), "all threads are at work");
        thread::yield_now();
    }
    gate.open.store(true, Ordering::SeqCst);
    assert_eq!(queue.wait(&mut Vec::new(), 4, LONG), 4);
}

/// Carries out what is at an even place at once, and panics at place 4.
#[derive(Clone)]
struct Even(thread::ThreadId);

impl Executor for Even {
    fn at_once(&self, operation: &mut Operation) -> Option<Result<()>> {
        let Operation::Read { buf, offset } = operation else { return None };
        assert_ne!(*offset, 4, "on purpose");
        assert_eq!(thread::current().id(), self.0);
        buf.fill(1);
        (*offset % 2 == 0).then_some(Ok(()))
    }

    fn execute(&self, operation: &mut Operation) -> Result<()> {
        let Operation::Read { buf, offset } = operation else { return Err(Error::ReadOnly("disk-1".into())) };
        assert!(*offset % 2 == 1 && thread::current().id() != self.0);
        buf.fill(2);
        Ok(())
    }
}

#[test]
fn what_needs_no_waiting_is_complete_when_submit_returns_and_the_rest_is_done_by_threads() {
    let pool = WorkerPool::new(2, MAX_QUEUE);
    let (queue, volume) = (CompletionQueue::new(), Even(thread::current().id()));
    let mut ended = Vec::new();
    for n in 0..8 {
        pool.submit(&volume, Operation::Read { buf: vec![0; 4], offset: n }, n, &queue).unwrap();
        if n % 2 == 0 {
            assert!(queue.poll(&mut ended) >= 1);
        }
    }
    queue.wait(&mut ended, queue.outstanding(), LONG);
    ended.sort_by_key(|completion| completion.tag);
    let tags: Vec<u64> = ended.iter().map(|completion| completion.tag).collect();
    assert_eq!(tags, (0..8).collect::<Vec<_>>());
    for completion in ended {
        match completion.tag {
            4 => assert!(completion.result.unwrap_err().to_string().contains("engine failed")),
            n => assert_eq!((completion.result.is_ok(), completion.buf), (true, vec![1 + (n % 2) as u8; 4])),
        }
    }
    assert_eq!(queue.outstanding(), 0);
}
