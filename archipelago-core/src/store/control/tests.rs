use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::error::Owner;
use crate::format::header::Kind;
use crate::limits::{MAX_CONTROL_CONNECTIONS, MAX_CONTROL_MESSAGE};
use crate::store::process::Registration;

const LONG: Duration = Duration::from_secs(20);

/// Answers as each test needs it, by the request's volume name.
struct Scripted {
    calls: AtomicUsize,
    gate: Barrier,
}

fn info(name: &str) -> VolumeInfo {
    VolumeInfo {
        name: name.into(),
        id: "00000000000000ff".into(),
        kind: Kind::Snapshot,
        size: u64::MAX,
        block_size: 4 << 20,
        epoch: 3,
        mapped: 17,
        read_only: true,
        parent: Some("parent".into()),
        created: 5,
        open_by: None,
        origin: None,
        receiving: None,
        labels: Default::default(),
        untouched: false,
    }
}

fn owner() -> Box<Owner> {
    Box::new(Owner { pid: 1, host: "h".into(), command: "c".into(), since: 2, process: "0".repeat(16) })
}

impl Handler for Scripted {
    fn handle(&self, request: Request) -> Answer {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match request {
            Request::Status => {
                Answer::Status { volumes: vec!["disk-1".into(), "disk-2".into()], work: Vec::new(), trouble: None }
            }
            Request::Snapshot { snapshot, .. } => Answer::Info(Box::new(info(&snapshot))),
            Request::Info { volume, .. } => match volume.as_str() {
                "panic" => panic!("on purpose"),
                "huge" => {
                    Answer::Status { volumes: vec!["x".repeat(MAX_CONTROL_MESSAGE)], work: Vec::new(), trouble: None }
                }
                "gate" => {
                    self.gate.wait();
                    Answer::Done
                }
                "slow" => {
                    thread::sleep(Duration::from_millis(500));
                    Answer::Done
                }
                name => Answer::Info(Box::new(info(name))),
            },
            Request::Resize { size: 0, volume, .. } => {
                Err(Error::OutOfRange { name: volume, offset: 1, len: 2, size: 3 }).into()
            }
            Request::Rename { new, .. } if new == "taken1" => Err(Error::Exists(new)).into(),
            Request::Release { volume, .. } => {
                Err(Error::OpenElsewhere { name: volume, owner: owner(), advice: "x" }).into()
            }
            _ => Answer::Done,
        }
    }
}

struct Site {
    dir: TempDir,
    root: PathBuf,
    handler: Arc<Scripted>,
    registration: Registration,
}

fn site_at(dir: TempDir, root: PathBuf) -> Site {
    let handler = Arc::new(Scripted { calls: AtomicUsize::new(0), gate: Barrier::new(2) });
    let weak = Arc::downgrade(&handler);
    let registration = Registration::register(&root, 0o660, None, weak).unwrap();
    Site { dir, root, handler, registration }
}

fn site() -> Site {
    let dir = TempDir::new().unwrap();
    let root = dir.path().to_path_buf();
    site_at(dir, root)
}

impl Site {
    fn ask(&self, request: &Request) -> Result<Answer> {
        ask(&self.root, self.registration.id(), request, LONG)
    }

    fn info(&self, volume: &str) -> Result<Answer> {
        self.ask(&about(volume))
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.root.join("procs").join(format!("s.{}", self.registration.id()))).unwrap()
    }

    fn connections(&self) -> usize {
        self.registration.connections()
    }

    fn wait_until_idle(&self) {
        let start = Instant::now();
        while self.connections() > 0 {
            assert!(start.elapsed() < LONG, "{} connections are left", self.connections());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn about(volume: &str) -> Request {
    Request::Info { id: "00000000000000ff".into(), volume: volume.into() }
}

fn deadline() -> Instant {
    Instant::now() + LONG
}

fn greeted(site: &Site) -> UnixStream {
    let stream = site.connect();
    assert_eq!(frame::read(&stream, deadline()).unwrap().unwrap(), br#"{"archipelago":1}"#);
    stream
}

fn failure(stream: &UnixStream) -> Error {
    match serde_json::from_slice(&frame::read(stream, deadline()).unwrap().unwrap()).unwrap() {
        Answer::Failed(error) => error.into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_request_is_answered_and_errors_keep_their_type() {
    let s = site();
    let (id, volume) = ("00000000000000ff".to_string(), "disk-1".to_string());
    assert!(
        matches!(s.ask(&Request::Status).unwrap(), Answer::Status { volumes, .. } if volumes == ["disk-1", "disk-2"])
    );
    let snapshot = Request::Snapshot { volume: volume.clone(), id: id.clone(), snapshot: "snap-é-1".into() };
    assert!(matches!(s.ask(&snapshot).unwrap(), Answer::Info(i) if i.name == "snap-é-1" && i.size == u64::MAX));
    let resize = |size| Request::Resize { id: id.clone(), volume: volume.clone(), size, shrink: false };
    assert!(matches!(s.ask(&resize(u64::MAX)).unwrap(), Answer::Done));
    assert!(matches!(s.ask(&resize(0)), Err(Error::OutOfRange { offset: 1, len: 2, size: 3, .. })));
    assert!(matches!(s.ask(&Request::Flush { id: id.clone(), volume: volume.clone() }).unwrap(), Answer::Done));
    let rename = |new: &str| Request::Rename { id: id.clone(), volume: volume.clone(), new: new.into() };
    assert!(matches!(s.ask(&rename("other1")).unwrap(), Answer::Done));
    assert!(matches!(s.ask(&rename("taken1")), Err(Error::Exists(n)) if n == "taken1"));
    let release = Request::Release { id, volume, exclusive: false };
    assert!(
        matches!(s.ask(&release), Err(Error::OpenElsewhere { name, owner: o, .. }) if name == "disk-1" && o == owner())
    );
    assert!(matches!(s.info("disk-1").unwrap(), Answer::Info(i) if i.name == "disk-1"));
    assert_eq!(s.handler.calls.load(Ordering::SeqCst), 9);
    s.wait_until_idle();
}

#[test]
fn the_wire_is_what_the_document_says() {
    let json = |r: &Request| serde_json::to_string(r).unwrap();
    let (id, volume) = (String::from("ID"), String::from("NAME"));
    assert_eq!(json(&Request::Status), r#""status""#);
    assert_eq!(
        json(&Request::Snapshot { volume: volume.clone(), id: id.clone(), snapshot: "NEWNAME".into() }),
        r#"{"snapshot":{"volume":"NAME","id":"ID","snapshot":"NEWNAME"}}"#
    );
    assert_eq!(
        json(&Request::Resize { id: id.clone(), volume: volume.clone(), size: 7, shrink: true }),
        r#"{"resize":{"id":"ID","volume":"NAME","size":7,"shrink":true}}"#
    );
    assert_eq!(
        json(&Request::Rename { id: id.clone(), volume: volume.clone(), new: "NEWNAME".into() }),
        r#"{"rename":{"id":"ID","volume":"NAME","new":"NEWNAME"}}"#
    );
    let release = |exclusive| Request::Release { id: id.clone(), volume: volume.clone(), exclusive };
    assert_eq!(json(&release(false)), r#"{"release":{"id":"ID","volume":"NAME"}}"#);
    assert_eq!(json(&release(true)), r#"{"release":{"id":"ID","volume":"NAME","exclusive":true}}"#);
    assert_eq!(serde_json::to_string(&Answer::Done).unwrap(), r#""done""#);
    assert_eq!(
        serde_json::to_string(&Answer::Failed((&Error::Busy("disk-1".into())).into())).unwrap(),
        r#"{"failed":{"errno":16,"kind":"Busy","message":"disk-1: is open in this process; close it first","names":["disk-1"]}}"#
    );
}

#[test]
fn a_store_with_a_path_longer_than_a_socket_address_works() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("x".repeat(100)).join("y".repeat(100));
    std::fs::create_dir_all(&root).unwrap();
    let s = site_at(dir, root);
    assert!(matches!(s.info("disk-1").unwrap(), Answer::Info(_)));
}

#[test]
fn a_store_that_was_moved_while_open_can_still_be_asked_and_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("before");
    std::fs::create_dir(&root).unwrap();
    let mut s = site_at(dir, root);
    let to = s.dir.path().join("after");
    std::fs::rename(&s.root, &to).unwrap();
    s.root = to.clone();
    assert!(matches!(s.info("disk-1").unwrap(), Answer::Info(_)));
    drop(s.registration);
    assert_eq!(std::fs::read_dir(to.join("procs")).unwrap().count(), 0);
}

#[test]
fn one_connection_carries_many_requests_even_sent_at_once() {
    let s = site();
    let stream = greeted(&s);
    let mut bytes = frame::encode(&Hello::new()).unwrap();
    for n in 0..100 {
        bytes.extend(frame::encode(&about(&format!("disk-{n}"))).unwrap());
    }
    frame::write(&stream, &bytes, deadline()).unwrap();
    for n in 0..100 {
        let answer = serde_json::from_slice(&frame::read(&stream, deadline()).unwrap().unwrap()).unwrap();
        assert!(matches!(answer, Answer::Info(i) if i.name == format!("disk-{n}")));
    }
    drop(stream);
    s.wait_until_idle();
}

#[test]
fn a_slow_request_does_not_hold_up_others() {
    let s = site();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| s.info("gate"));
        while s.handler.calls.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        assert!(matches!(s.info("disk-1").unwrap(), Answer::Info(_)));
        s.handler.gate.wait();
        assert!(matches!(waiting.join().unwrap().unwrap(), Answer::Done));
    });
}

#[test]
fn a_panic_in_a_handler_is_an_io_error_and_the_server_goes_on() {
    let s = site();
    let error = s.info("panic").unwrap_err();
    assert_eq!(error.errno(), libc::EIO);
    assert!(matches!(error, Error::Io { .. }));
    assert!(matches!(s.info("disk-1").unwrap(), Answer::Info(_)));
}

#[test]
fn an_answer_or_request_that_is_too_large_is_an_error_and_not_sent() {
    let s = site();
    assert!(matches!(s.info("huge"), Err(Error::Unsupported(_))));
    assert!(matches!(s.info(&"x".repeat(MAX_CONTROL_MESSAGE)), Err(Error::Unsupported(_))));
    s.wait_until_idle();
}

#[test]
fn s60_oversized_and_empty_frames_are_refused_unread() {
    let s = site();
    for len in [0, MAX_CONTROL_MESSAGE as u32 + 1, 0x7fff_ffff, u32::MAX] {
        let mut stream = greeted(&s);
        frame::write(&stream, &frame::encode(&Hello::new()).unwrap(), deadline()).unwrap();
        stream.write_all(&len.to_le_bytes()).unwrap();
        assert!(matches!(failure(&stream), Error::Unsupported(_)));
        assert!(frame::read(&stream, deadline()).unwrap().is_none(), "the connection is closed");
    }
    s.wait_until_idle();
    assert_eq!(s.handler.calls.load(Ordering::SeqCst), 0);
}

#[test]
fn garbage_unknown_requests_and_unknown_fields_are_refused_and_do_nothing() {
    let s = site();
    let deep = "[".repeat(100_000);
    for text in [
        "\0\u{1}\u{2}",
        "{",
        "null",
        "\"explode\"",
        r#"{"flush":{"id":"1"}}"#,
        r#"{"flush":{"id":"1","volume":"v","force":true}}"#,
        r#"{"resize":{"id":"1","volume":"v","size":-1,"shrink":false}}"#,
        r#"{"status":null,"flush":{"id":"1","volume":"v"}}"#,
        &deep,
    ] {
        let stream = greeted(&s);
        let mut bytes = frame::encode(&Hello::new()).unwrap();
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
        frame::write(&stream, &bytes, deadline()).unwrap();
        assert!(matches!(failure(&stream), Error::Unsupported(_)), "{text:.40}");
    }
    s.wait_until_idle();
    assert_eq!(s.handler.calls.load(Ordering::SeqCst), 0);
}

#[test]
fn random_bytes_never_break_the_server() {
    let seed = std::env::var("SEED").map_or_else(|_| crate::random::random_u64().unwrap(), |s| s.parse().unwrap());
    println!("SEED={seed}");
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let s = site();
    for _ in 0..200 {
        let mut stream = greeted(&s);
        let mut bytes = if random() % 2 == 0 { frame::encode(&Hello::new()).unwrap() } else { Vec::new() };
        bytes.extend((random() as u32 % 64).to_le_bytes());
        bytes.extend((0..random() % 200).map(|_| random() as u8));
        // The server may close before it has read it all.
        let _ = stream.write_all(&bytes);
    }
    s.wait_until_idle();
    assert!(matches!(s.info("disk-1").unwrap(), Answer::Info(_)));
}

#[test]
fn a_client_of_another_version_is_told_so() {
    let s = site();
    for hello in [&br#"{"archipelago":2}"#[..], b"{}", b"GET / HTTP/1.1"] {
        let stream = greeted(&s);
        let mut bytes = (hello.len() as u32).to_le_bytes().to_vec();
        bytes.extend(hello);
        frame::write(&stream, &bytes, deadline()).unwrap();
        assert!(matches!(failure(&stream), Error::Unsupported(_)));
    }
}

#[test]
fn clients_that_vanish_at_any_byte_leave_no_connection() {
    let s = site();
    let mut bytes = frame::encode(&Hello::new()).unwrap();
    bytes.extend(frame::encode(&about("disk-1")).unwrap());
    for cut in 0..=bytes.len() {
        let mut stream = s.connect();
        let _ = stream.write_all(&bytes[..cut]);
        drop(stream);
        // With the greeting read, and so on the way to the answer.
        let mut stream = greeted(&s);
        stream.write_all(&bytes[..cut]).unwrap();
        drop(stream);
    }
    s.wait_until_idle();
    assert!(matches!(s.info("disk-1").unwrap(), Answer::Info(_)));
}

#[test]
fn connections_past_the_limit_are_refused_and_room_comes_back() {
    let s = site();
    let held: Vec<_> = (0..MAX_CONTROL_CONNECTIONS).map(|_| greeted(&s)).collect();
    for _ in 0..10 {
        assert!(matches!(s.info("disk-1"), Err(Error::TooBusy(_))));
    }
    drop(held);
    s.wait_until_idle();
    assert!(matches!(s.info("disk-1").unwrap(), Answer::Info(_)));
}

#[test]
fn many_clients_at_once_are_all_answered_or_told_to_try_again() {
    let s = site();
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                for _ in 0..20 {
                    match s.info("disk-1") {
                        Ok(Answer::Info(_)) => answered.fetch_add(1, Ordering::SeqCst),
                        Err(Error::TooBusy(_)) => 0,
                        other => panic!("{other:?}"),
                    };
                }
            });
        }
    });
    s.wait_until_idle();
    assert!(answered.load(Ordering::SeqCst) > 0);
    assert_eq!(answered.load(Ordering::SeqCst), s.handler.calls.load(Ordering::SeqCst));
}

#[test]
fn a_process_that_does_not_answer_is_a_timeout() {
    let s = site();
    let start = Instant::now();
    let result = ask(&s.root, s.registration.id(), &about("slow"), Duration::from_millis(50));
    assert!(matches!(result, Err(Error::Timeout(_))), "{result:?}");
    assert!(start.elapsed() < Duration::from_millis(400));
    // The text names the process.
    assert!(result.unwrap_err().to_string().contains(&format!("(pid {} on ", std::process::id())));
    s.wait_until_idle();
}

#[test]
fn a_process_that_never_accepts_is_a_timeout_even_with_a_full_queue() {
    let dir = TempDir::new().unwrap();
    let procs = dir.path().join("procs");
    std::fs::create_dir(&procs).unwrap();
    let id = "00000000000000ff";
    let _listener = UnixListener::bind(procs.join(format!("s.{id}"))).unwrap();
    let short = Duration::from_millis(20);
    let queued: Vec<_> =
        (0..10_000).map_while(|_| os::connect(&procs.join(format!("s.{id}")), Duration::from_millis(1)).ok()).collect();
    assert!(queued.len() < 10_000, "the queue of a socket is bounded");
    for queued in [queued, Vec::new()] {
        let start = Instant::now();
        assert!(matches!(ask(dir.path(), id, &Request::Status, short), Err(Error::Timeout(_))));
        assert!(start.elapsed() < Duration::from_secs(2));
        drop(queued);
    }
    assert!(matches!(ask(dir.path(), id, &Request::Status, Duration::ZERO), Err(Error::Timeout(_))));
}

#[test]
fn a_server_whose_store_is_closed_says_so() {
    let s = site();
    let Site { root, handler, registration, dir: _dir } = s;
    let id = registration.id().to_string();
    drop(handler);
    assert!(matches!(ask(&root, &id, &Request::Status, LONG), Err(Error::NotOpen(_))));
    drop(registration);
    assert!(matches!(ask(&root, &id, &Request::Status, LONG), Err(Error::NotOpen(_))));
}

#[test]
fn ids_that_are_no_ids_are_refused_before_they_become_paths() {
    let s = site();
    for id in ["", "../../../etc/pass", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdef0", "0123456789abcde/"]
    {
        assert!(matches!(ask(&s.root, id, &Request::Status, LONG), Err(Error::InvalidArgument(_))), "{id}");
    }
}

#[test]
fn stopping_ends_idle_connections_at_once() {
    let s = site();
    let held: Vec<_> = (0..10).map(|_| greeted(&s)).collect();
    let start = Instant::now();
    drop(s.registration);
    assert!(start.elapsed() < Duration::from_secs(1));
    for mut stream in held {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn stopping_lets_an_answer_under_way_arrive() {
    let s = site();
    let Site { root, handler, registration, dir: _dir } = s;
    let id = registration.id().to_string();
    thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&root, &id, &about("slow"), LONG));
        while handler.calls.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        drop(registration);
        assert!(matches!(asked.join().unwrap(), Ok(Answer::Done)));
    });
}

#[test]
fn stopping_does_not_wait_for_ever_for_a_handler() {
    let s = site();
    let Site { root, handler, registration, dir: _dir } = s;
    let id = registration.id().to_string();
    thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&root, &id, &about("gate"), LONG));
        while handler.calls.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        let start = Instant::now();
        drop(registration);
        assert!(start.elapsed() < Duration::from_secs(4));
        // What happened to the request is not known to its asker.
        assert!(matches!(asked.join().unwrap(), Err(Error::Io { .. })));
        handler.gate.wait();
    });
}

/// A store in small: it owns its registration, and a request drops its last reference.
struct Closing {
    registration: Mutex<Option<Registration>>,
    last: Mutex<Option<Arc<Closing>>>,
}

impl Handler for Closing {
    fn handle(&self, _: Request) -> Answer {
        *self.last.lock() = None;
        Answer::Done
    }
}

#[test]
fn a_store_whose_last_reference_is_dropped_by_a_request_closes_without_deadlock() {
    let dir = TempDir::new().unwrap();
    let store = Arc::new(Closing { registration: Mutex::new(None), last: Mutex::new(None) });
    let weak: Weak<Closing> = Arc::downgrade(&store);
    let registration = Registration::register(dir.path(), 0o600, None, weak.clone()).unwrap();
    let id = registration.id().to_string();
    *store.registration.lock() = Some(registration);
    *store.last.lock() = Some(store.clone());
    drop(store);
    let start = Instant::now();
    assert!(matches!(ask(dir.path(), &id, &Request::Status, LONG), Ok(Answer::Done)));
    while weak.strong_count() > 0 || std::fs::read_dir(dir.path().join("procs")).unwrap().count() > 0 {
        assert!(start.elapsed() < Duration::from_millis(1500));
        thread::yield_now();
    }
}
