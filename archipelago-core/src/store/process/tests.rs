use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::store::control::{Answer, Request, ask};

/// Set in a child process of these tests: the store in which it registers.
const CHILD: &str = "ARCHIPELAGO_TEST_REGISTER_IN";

struct Yes;

impl Handler for Yes {
    fn handle(&self, _: Request) -> Answer {
        Answer::Done
    }
}

fn register(root: &Path) -> (Arc<Yes>, Registration) {
    let handler = Arc::new(Yes);
    let weak = Arc::downgrade(&handler);
    (handler, Registration::register(root, 0o660, None, weak).unwrap())
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(root.join(PROCS)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Another process that registers in `root` and says its id.
struct Other {
    child: Child,
    id: String,
}

impl Other {
    fn start(root: &Path, test: &str) -> Other {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([&format!("store::process::tests::{test}"), "--exact", "--nocapture"])
            .env(CHILD, root)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut id = String::new();
        let mut out = io::BufReader::new(child.stdout.take().unwrap());
        loop {
            let mut line = String::new();
            assert!(io::BufRead::read_line(&mut out, &mut line).unwrap() > 0, "the child ended early");
            if let Some((_, found)) = line.split_once("registered ") {
                id.push_str(found.trim());
                break;
            }
        }
        Other { child, id }
    }

    /// Kills it with SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a child: registers, says so, and sleeps until it is killed.
fn if_child() {
    if let Some(root) = std::env::var_os(CHILD) {
        let (_handler, registration) = register(Path::new(&root));
        println!("registered {}", registration.id());
        thread::sleep(Duration::from_secs(60));
        std::process::exit(1);
    }
}

#[test]
fn a_killed_process_is_cleared_away_and_a_live_one_kept() {
    if_child();
    let dir = TempDir::new().unwrap();
    let test = "a_killed_process_is_cleared_away_and_a_live_one_kept";
    let (mut dead, live) = (Other::start(dir.path(), test), Other::start(dir.path(), test));
    let (_handler, own) = register(dir.path());
    assert_eq!(processes(dir.path()).unwrap().len(), 3);
    assert!(alive(dir.path(), &dead.id));
    assert!(matches!(ask(dir.path(), &dead.id, &Request::Status, Duration::from_secs(10)), Ok(Answer::Done)));

    dead.kill();
    assert!(!alive(dir.path(), &dead.id));
    assert!(matches!(ask(dir.path(), &dead.id, &Request::Status, Duration::from_secs(10)), Err(Error::NotOpen(_))));
    assert_eq!(names(dir.path()).len(), 6, "asking clears nothing away");

    let found = processes(dir.path()).unwrap();
    assert_eq!(found.len(), 2);
    let other = found.iter().find(|o| o.process == live.id).unwrap();
    assert_eq!(other.pid, live.child.id());
    assert_eq!(other.host, host());
    assert!(found.contains(&own.owner()));
    assert_eq!(names(dir.path()).len(), 4);
    assert!(matches!(ask(dir.path(), &live.id, &Request::Status, Duration::from_secs(10)), Ok(Answer::Done)));
}

#[test]
fn the_end_of_a_registration_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let (_handler, registration) = register(dir.path());
    let id = registration.id().to_string();
    assert_eq!(names(dir.path()), [format!("p.{id}"), format!("s.{id}")]);
    assert_eq!(registration.owner().pid, std::process::id());
    drop(registration);
    assert!(names(dir.path()).is_empty());
    assert!(!alive(dir.path(), &id));
}

#[test]
fn s59_files_have_the_mode_of_the_store_whatever_the_umask_and_the_socket_none_for_others() {
    let dir = TempDir::new().unwrap();
    let gid = fs::metadata(dir.path()).unwrap().gid();
    for (mode, record, socket) in [(0o666, 0o666, 0o660), (0o640, 0o640, 0o640), (0o600, 0o600, 0o600)] {
        let handler = Arc::new(Yes);
        let weak = Arc::downgrade(&handler);
        let r = Registration::register(dir.path(), mode, Some(gid), weak).unwrap();
        let mode_of = |name: String| fs::metadata(dir.path().join(PROCS).join(name)).unwrap().mode() & 0o7777;
        assert_eq!(mode_of(record_name(r.id())), record);
        assert_eq!(mode_of(socket_name(r.id())), socket);
    }
}

#[test]
fn unfinished_and_orphaned_files_are_cleared_away_and_foreign_ones_left() {
    let dir = TempDir::new().unwrap();
    let (_handler, live) = register(dir.path());
    let procs = dir.path().join(PROCS);
    let id = "00000000000000aa";
    drop(UnixListener::bind(procs.join(socket_name(id))).unwrap());
    fs::write(procs.join(new_name("00000000000000bb")), "half").unwrap();
    drop(UnixListener::bind(procs.join(socket_name("00000000000000bb"))).unwrap());
    fs::write(procs.join("README"), "mine").unwrap();
    fs::write(procs.join("p.short"), "mine").unwrap();
    assert_eq!(processes(dir.path()).unwrap(), [live.owner()]);
    let mut left = ["README".into(), "p.short".into(), record_name(live.id()), socket_name(live.id())];
    left.sort();
    assert_eq!(names(dir.path()), left);
}

#[test]
fn a_record_that_is_being_made_and_its_socket_are_kept() {
    let dir = TempDir::new().unwrap();
    let (_handler, live) = register(dir.path());
    let procs = dir.path().join(PROCS);
    fs::rename(procs.join(record_name(live.id())), procs.join(new_name(live.id()))).unwrap();
    assert!(processes(dir.path()).unwrap().is_empty());
    assert_eq!(names(dir.path()).len(), 2);
    live.publish().unwrap();
    assert_eq!(processes(dir.path()).unwrap().len(), 1);
}

#[test]
fn a_live_process_whose_record_makes_no_sense_is_listed_all_the_same() {
    let dir = TempDir::new().unwrap();
    let (_handler, live) = register(dir.path());
    let path = dir.path().join(PROCS).join(record_name(live.id()));
    fs::write(&path, b"{\"future\":1}").unwrap();
    let found = processes(dir.path()).unwrap();
    assert_eq!((found.len(), found[0].pid, found[0].process.as_str()), (1, 0, live.id()));
    fs::write(&path, br#"{"pid":1,"host":"\u001b[2J","command":"a\nb","since":1,"process":"../../x"}"#).unwrap();
    let found = processes(dir.path()).unwrap();
    assert_eq!((found[0].host.as_str(), found[0].command.as_str()), ("?[2J", "a?b"));
    assert_eq!(found[0].process, live.id());
}

#[test]
fn s59_links_and_devices_in_place_of_records_are_not_followed() {
    let dir = TempDir::new().unwrap();
    let procs = dir.path().join(PROCS);
    fs::create_dir(&procs).unwrap();
    let outside = dir.path().join("outside");
    fs::write(&outside, "keep").unwrap();
    symlink(&outside, procs.join("p.00000000000000aa")).unwrap();
    symlink("/dev/zero", procs.join("p.00000000000000bb")).unwrap();
    assert!(Command::new("mkfifo").arg(procs.join("p.00000000000000cc")).status().unwrap().success());
    let start = Instant::now();
    // What cannot be looked at counts as alive, and is not touched.
    assert_eq!(processes(dir.path()).unwrap().len(), 3);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(fs::read_to_string(&outside).unwrap(), "keep");
}

#[test]
fn no_directory_means_no_processes() {
    let dir = TempDir::new().unwrap();
    assert!(processes(dir.path()).unwrap().is_empty());
    assert!(!alive(dir.path(), "00000000000000aa"));
    assert!(!alive(dir.path(), "../x"));
    assert!(!dir.path().join(PROCS).exists());
}

#[test]
fn cleaners_never_remove_a_registration_that_is_being_made() {
    let dir = TempDir::new().unwrap();
    let done = AtomicBool::new(false);
    let listed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    listed.fetch_add(processes(dir.path()).unwrap().len(), Ordering::Relaxed);
                }
            });
        }
        let makers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..250 {
                        let (_handler, r) = register(dir.path());
                        assert!(alive(dir.path(), r.id()));
                        let asked = ask(dir.path(), r.id(), &Request::Status, Duration::from_secs(20));
                        assert!(matches!(asked, Ok(Answer::Done)), "{asked:?}");
                        assert!(alive(dir.path(), r.id()));
                    }
                })
            })
            .collect();
        let results: Vec<_> = makers.into_iter().map(|m| m.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(|r| r.is_ok()));
    });
    assert!(listed.load(Ordering::Relaxed) > 0);
    assert!(processes(dir.path()).unwrap().is_empty());
    assert!(names(dir.path()).is_empty());
}

#[test]
fn processes_that_are_killed_at_any_moment_leave_nothing_after_a_listing() {
    if let Some(root) = std::env::var_os(CHILD) {
        println!("registered 0");
        loop {
            drop(register(Path::new(&root)));
        }
    }
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join(PROCS)).unwrap();
    let (_handler, own) = register(dir.path());
    for n in 0..20 {
        let mut other =
            Other::start(dir.path(), "processes_that_are_killed_at_any_moment_leave_nothing_after_a_listing");
        thread::sleep(Duration::from_micros(n * 977));
        other.kill();
        assert_eq!(processes(dir.path()).unwrap(), [own.owner()]);
    }
    // A socket whose record was removed in the same listing may wait for the next one.
    assert_eq!(processes(dir.path()).unwrap(), [own.owner()]);
    assert_eq!(names(dir.path()).len(), 2);
}

#[test]
fn registering_is_cheap() {
    let dir = TempDir::new().unwrap();
    drop(register(dir.path()));
    let mut best = Duration::MAX;
    for _ in 0..200 {
        let start = Instant::now();
        let r = register(dir.path());
        best = best.min(start.elapsed());
        drop(r);
    }
    println!("best of 200: {best:?}");
    // The budget is 0.5 ms; what is left is for slow machines.
    assert!(best < Duration::from_millis(5), "{best:?}");
}

/// Asks the registration named in the environment once; the exit status says what came back.
fn if_client() {
    if let Some(root) = std::env::var_os(CHILD) {
        let id = std::env::var("ARCHIPELAGO_TEST_ASK").unwrap();
        std::process::exit(match ask(Path::new(&root), &id, &Request::Status, Duration::from_secs(10)) {
            Ok(_) => 10,
            Err(e) => e.errno(),
        });
    }
}

#[test]
fn s55_only_root_the_own_user_and_the_group_may_ask() {
    use std::os::unix::process::CommandExt;
    if_client();
    if os::effective_uid() != 0 {
        println!("skipped: only root can become other users");
        return;
    }
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    // A copy that other users can execute, wherever the build directory is.
    let exe = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    const GROUP: u32 = 60_123;
    let handler = Arc::new(Yes);
    let weak = Arc::downgrade(&handler);
    let r = Registration::register(dir.path(), 0o666, Some(GROUP), weak).unwrap();
    let ask_as = |uid, gid| {
        let mut command = Command::new(&exe);
        command.args(["store::process::tests::s55_only_root_the_own_user_and_the_group_may_ask", "--exact"]);
        command.env(CHILD, dir.path()).env("ARCHIPELAGO_TEST_ASK", r.id()).stdout(Stdio::null()).uid(uid).gid(gid);
        command.status().unwrap().code().unwrap()
    };
    assert_eq!(ask_as(60_001, 60_001), libc::EACCES, "the socket's mode keeps strangers out");
    assert_eq!(ask_as(60_001, GROUP), 10);
    assert_eq!(ask_as(0, 0), 10);
    // And without that mode, the server does.
    fs::set_permissions(dir.path().join(PROCS).join(socket_name(r.id())), Permissions::from_mode(0o666)).unwrap();
    assert_eq!(ask_as(60_001, 60_001), libc::EPERM);
    assert_eq!(ask_as(60_001, GROUP), 10);

    // Members by a supplementary group count too.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=60001", "--regid=60001", &format!("--groups=60002,{GROUP}")]).arg(&exe);
    command.args(["store::process::tests::s55_only_root_the_own_user_and_the_group_may_ask", "--exact"]);
    command.env(CHILD, dir.path()).env("ARCHIPELAGO_TEST_ASK", r.id()).stdout(Stdio::null());
    match command.status() {
        Ok(status) => assert_eq!(status.code(), Some(10)),
        Err(e) => println!("skipped: setpriv: {e}"),
    }
}

#[test]
fn a_process_whose_registration_was_taken_away_commits_nothing_until_it_opens_the_store_again() {
    use crate::store::{Background, CloneOptions, CreateOptions, InitOptions, Location, Mode, Store, StoreOptions};
    let dir = TempDir::new().unwrap();
    let location = Location::File(dir.path().join("store"));
    Store::init(&location, &InitOptions::default()).unwrap();
    // Nothing in the background finds out first.
    let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
    let store = Store::open(&location, options).unwrap();
    store.create("disk-1", &CreateOptions { size: 1 << 20, block_size: None }).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    volume.write_at(&[1; 4096], 0).unwrap();
    volume.snapshot("snap-1").unwrap();
    volume.write_at(&[2; 4096], 0).unwrap();
    volume.flush().unwrap();
    let record = format!("p.{}", store.process().unwrap());
    fs::remove_file(dir.path().join("store").join(PROCS).join(record)).unwrap();
    let refused = |what: &str, error: Option<Error>| {
        assert!(matches!(error, Some(Error::Unregistered(_))), "{what}: {error:?}");
    };
    refused("create", store.create("disk-2", &CreateOptions { size: 4096, block_size: None }).err());
    refused("clone", store.clone_snapshot("snap-1", "clone-1", &CloneOptions::default()).err());
    refused("snapshot", volume.snapshot("snap-2").err());
    refused("checkpoint", volume.checkpoint().err());
    assert!(matches!(volume.write_at(&[3; 4096], 0), Err(Error::Poisoned(_))), "nothing is promised any more");
    let _ = volume.close();
    drop((volume, store));
    let store = Store::open(&location, StoreOptions::default()).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    let mut bytes = [0; 4096];
    volume.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == [2; 4096]);
    volume.snapshot("snap-2").unwrap();
    volume.close().unwrap();
}
