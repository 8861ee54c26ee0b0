//! Which system calls the backend makes, in which order, and what a power cut between any two of them leaves.

use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::*;
use crate::blocker::sim::SimDisk;
use crate::blocker::sys::{Fd, Open};
use crate::limits::{MAX_RECORD, RESERVED_SEGMENT};

const V: VolumeId = VolumeId(0x11);
const DATA: Object = Object::Data(V, 1);
const LOG: Object = Object::Log(V, 1);

/// A simulated disk that writes down the calls made, without those that change nothing for anybody.
struct Recorder {
    disk: Arc<SimDisk>,
    calls: Mutex<Vec<String>>,
    /// Paths of open files.
    paths: Mutex<std::collections::BTreeMap<i32, String>>,
    /// Refuses to punch and to reserve, as some file systems do.
    no_holes: AtomicBool,
    /// Lets a sync of a file take long enough for other threads to wait for it.
    slow: AtomicBool,
}

impl Recorder {
    fn call(&self, name: &str, path: impl AsRef<str>) {
        self.calls.lock().push(format!("{name} {}", path.as_ref()));
    }

    fn call_fd(&self, name: &str, fd: Fd) {
        let path = self.paths.lock()[&fd.0].clone();
        self.call(name, path);
    }

    /// The calls since the last time.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock())
    }
}

impl Sys for Recorder {
    fn open(&self, path: &str, how: Open) -> io::Result<Fd> {
        let fd = self.disk.open(path, how)?;
        self.call(if how == Open::CreateNew { "create" } else { "open" }, path);
        self.paths.lock().insert(fd.0, path.to_string());
        Ok(fd)
    }
    fn close(&self, fd: Fd) {
        self.disk.close(fd);
    }
    fn preadv(&self, fd: Fd, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        self.disk.preadv(fd, bufs, offset)
    }
    fn pwritev(&self, fd: Fd, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.call_fd("write", fd);
        self.disk.pwritev(fd, bufs, offset)
    }
    fn ftruncate(&self, fd: Fd, len: u64) -> io::Result<()> {
        self.call_fd("truncate", fd);
        self.disk.ftruncate(fd, len)
    }
    fn reserve(&self, fd: Fd, len: u64) -> io::Result<()> {
        if self.no_holes.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        self.call_fd("reserve", fd);
        self.disk.reserve(fd, len)
    }
    fn punch(&self, fd: Fd, offset: u64, len: u64) -> io::Result<()> {
        if self.no_holes.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        self.call_fd("punch", fd);
        self.disk.punch(fd, offset, len)
    }
    fn fdatasync(&self, fd: Fd) -> io::Result<()> {
        self.call_fd("sync", fd);
        if self.slow.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        self.disk.fdatasync(fd)
    }
    fn len(&self, fd: Fd) -> io::Result<u64> {
        self.disk.len(fd)
    }
    fn allocated(&self, fd: Fd) -> io::Result<u64> {
        self.disk.allocated(fd)
    }
    fn is_at(&self, fd: Fd, path: &str) -> io::Result<bool> {
        self.disk.is_at(fd, path)
    }
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.call("syncdir", path);
        self.disk.sync_dir(path)
    }
    fn syncfs(&self) -> io::Result<()> {
        self.call("syncfs", ".");
        self.disk.syncfs()
    }
    fn mkdir(&self, path: &str) -> io::Result<()> {
        self.call("mkdir", path);
        self.disk.mkdir(path)
    }
    fn rmdir(&self, path: &str) -> io::Result<()> {
        self.call("rmdir", path);
        self.disk.rmdir(path)
    }
    fn dir_id(&self, path: &str) -> io::Result<Option<u64>> {
        self.disk.dir_id(path)
    }
    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.call("link", to);
        self.disk.link(from, to)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call("rename", to);
        self.disk.rename(from, to)
    }
    fn unlink(&self, path: &str) -> io::Result<()> {
        self.call("unlink", path);
        self.disk.unlink(path)
    }
    fn symlink(&self, target: &str, path: &str) -> io::Result<()> {
        self.call("symlink", path);
        self.disk.symlink(target, path)
    }
    fn readlink(&self, path: &str) -> io::Result<Vec<u8>> {
        self.disk.readlink(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn try_lock(&self, fd: Fd, mode: LockMode) -> io::Result<bool> {
        self.disk.try_lock(fd, mode)
    }
    fn is_locked(&self, fd: Fd) -> io::Result<bool> {
        self.disk.is_locked(fd)
    }
    fn boot(&self) -> crate::blocker::Boot {
        self.disk.boot()
    }
    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }
}

fn recorded() -> (FileBlocker, Arc<Recorder>) {
    let recorder = Arc::new(Recorder {
        disk: SimDisk::new(),
        calls: Mutex::default(),
        paths: Mutex::default(),
        no_holes: AtomicBool::new(false),
        slow: AtomicBool::new(false),
    });
    let blocker = FileBlocker::new(recorder.clone(), FileOptions::default());
    blocker.make_layout().unwrap();
    recorder.take();
    (blocker, recorder)
}

fn on(disk: &Arc<SimDisk>) -> FileBlocker {
    FileBlocker::new(disk.clone(), FileOptions::default())
}

fn laid_out() -> (FileBlocker, Arc<SimDisk>) {
    let disk = SimDisk::new();
    let blocker = on(&disk);
    blocker.make_layout().unwrap();
    (blocker, disk)
}

fn write(b: &FileBlocker, object: Object, offset: u64, bytes: &[u8]) -> Result<()> {
    b.write(object, &[IoSlice::new(bytes)], offset)
}

fn read(b: &FileBlocker, object: Object, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut buf = vec![0xee; len];
    b.read(object, &mut [IoSliceMut::new(&mut buf)], offset)?;
    Ok(buf)
}

fn clones(ids: std::ops::Range<u64>) -> Vec<(VolumeId, String, Vec<u8>)> {
    ids.map(|id| (VolumeId(id), format!("clone{id}"), vec![id as u8; 600])).collect()
}

/// For every step after `from`, and several seeds: a backend over what a power cut there may have left.
fn after_each_cut(disk: &Arc<SimDisk>, from: u64, mut check: impl FnMut(u64, FileBlocker)) {
    for step in from..=disk.steps() {
        for seed in 0..12 {
            println!("cut after step {step}, seed {seed}");
            check(step, on(&disk.crash_at(step, seed)));
        }
    }
}

#[test]
fn one_clone_costs_two_syncs() {
    let (b, calls) = recorded();
    b.create_named(&clones(1..2)).unwrap();
    let header = "catalog/h.0000000000000001";
    assert_eq!(
        calls.take(),
        [
            format!("create {header}"),
            format!("truncate {header}"),
            format!("write {header}"),
            format!("sync {header}"),
            "link catalog/n.clone1".into(),
            "syncdir catalog".into(),
        ]
    );
}

#[test]
fn a_batch_costs_a_constant_number_of_syncs() {
    let (b, calls) = recorded();
    for batch in [clones(1..6), clones(100..400)] {
        b.create_named(&batch).unwrap();
        let made = calls.take();
        let syncs: Vec<_> = made.iter().filter(|call| call.starts_with("sync")).collect();
        assert_eq!(syncs, ["syncfs .", "syncdir catalog"]);
        let first_link = made.iter().position(|call| call.starts_with("link")).unwrap();
        assert_eq!(made.iter().position(|call| call == "syncfs ."), Some(first_link - 1), "headers before names");
    }
}

#[test]
fn only_the_first_sync_of_a_new_file_syncs_directories() {
    let (b, calls) = recorded();
    let path = "data/11/data.0000000000000011.0000000000000001.00000000";
    write(&b, DATA, 0, b"x").unwrap();
    calls.take();
    b.sync(&[DATA]).unwrap();
    assert_eq!(calls.take(), [format!("sync {path}"), "syncdir data/11".into(), "syncdir data".into()]);
    b.sync(&[DATA]).unwrap();
    assert_eq!(calls.take(), [""; 0], "nothing is waiting");
    write(&b, DATA, 0, b"y").unwrap();
    b.sync(&[DATA, LOG]).unwrap();
    assert_eq!(calls.take(), [format!("write {path}"), format!("sync {path}")]);
    // Another file in the same directory: two objects, one sync of it.
    write(&b, Object::Data(V, 2), 0, b"x").unwrap();
    write(&b, Object::Data(V, 3), 0, b"x").unwrap();
    calls.take();
    b.sync(&[Object::Data(V, 2), Object::Data(V, 3)]).unwrap();
    assert_eq!(calls.take().iter().filter(|call| call.starts_with("syncdir")).count(), 1);
}

#[test]
fn a_synced_write_survives_with_its_directories() {
    let (b, disk) = laid_out();
    write(&b, DATA, 0, &[1; 5000]).unwrap();
    write(&b, DATA, crate::limits::DATA_PART - 10, &[2; 20]).unwrap();
    b.sync(&[DATA]).unwrap();
    let (synced, mut both) = (disk.steps(), false);
    write(&b, DATA, 0, &[3; 5000]).unwrap();
    after_each_cut(&disk, synced, |_, b| {
        assert_eq!(read(&b, DATA, crate::limits::DATA_PART - 10, 20).unwrap(), [2; 20]);
        let found = read(&b, DATA, 0, 5000).unwrap();
        assert!(found.iter().all(|byte| matches!(byte, 1 | 3)));
        both |= found.contains(&1) && found.contains(&3);
    });
    assert!(both, "the simulation tears writes");
}

#[test]
fn what_a_dead_process_wrote_is_made_durable_by_the_next_sync() {
    let (b, disk) = laid_out();
    write(&b, DATA, 0, b"not synced").unwrap();
    b.create(LOG, &[], 4096).unwrap();
    write(&b, LOG, 0, b"not synced").unwrap();
    drop(b);
    let b = on(&disk);
    b.sync(&[DATA, LOG]).unwrap();
    let b = on(&disk.crash_at(u64::MAX, 0));
    assert_eq!(read(&b, DATA, 0, 10).unwrap(), b"not synced");
    assert_eq!(read(&b, LOG, 0, 10).unwrap(), b"not synced");
}

#[test]
fn what_another_owner_wrote_in_between_is_made_durable_too() {
    let (a, disk) = laid_out();
    write(&a, DATA, 0, b"first").unwrap();
    a.sync(&[DATA]).unwrap();
    let b = on(&disk);
    drop(b.lock(V, LockMode::Exclusive, b"b").unwrap());
    write(&b, DATA, 0, b"other").unwrap();
    drop(b);
    let _lock = a.lock(V, LockMode::Exclusive, b"a").unwrap();
    a.sync(&[DATA]).unwrap();
    assert_eq!(read(&on(&disk.crash_at(u64::MAX, 0)), DATA, 0, 5).unwrap(), b"other");
}

#[test]
fn a_lock_syncs_nothing_and_its_record_is_gone_with_it() {
    let (b, calls) = recorded();
    drop(b.lock(V, LockMode::Exclusive, b"one").unwrap());
    let (lock, owner) = ("data/11/lock.0000000000000011", "data/11/owner.0000000000000011");
    calls.take();
    let held = b.lock(V, LockMode::Exclusive, b"two").unwrap();
    assert_eq!(calls.take(), [format!("open {lock}"), format!("symlink {owner}")]);
    drop(held);
    assert_eq!(calls.take(), [format!("unlink {owner}")]);
}

#[test]
fn a_record_that_survived_its_lock_is_not_believed_and_replaced() {
    let (b, disk) = laid_out();
    let _held = b.lock(V, LockMode::Exclusive, b"dead").unwrap();
    for disk in [disk.kill_at(u64::MAX), disk.crash_at(u64::MAX, 1), disk.crash_at(u64::MAX, 0)] {
        let b = on(&disk);
        assert_eq!(b.lock_holder(V).unwrap(), None);
        assert_eq!(b.objects(V).unwrap(), []);
        let _held = b.lock(V, LockMode::Exclusive, b"alive").unwrap();
        assert_eq!(b.lock_holder(V).unwrap().unwrap(), b"alive");
    }
}

#[test]
fn a_lock_is_given_where_its_record_cannot_be_left() {
    for (errno, given) in [
        (libc::ENOSPC, true),
        (libc::EDQUOT, true),
        (libc::EPERM, true),
        (libc::EACCES, true),
        (libc::EOPNOTSUPP, true),
        (libc::EIO, false),
    ] {
        let (b, disk) = laid_out();
        drop(b.lock(V, LockMode::Exclusive, b"x").unwrap());
        disk.fail_at(disk.steps() + 1, errno);
        let held = b.lock(V, LockMode::Exclusive, b"x");
        assert_eq!(held.is_ok(), given, "errno {errno}");
        assert_eq!(b.lock_holder(V).unwrap(), given.then(Vec::new), "errno {errno}");
    }
}

#[test]
fn a_created_object_survives_whole() {
    let (b, disk) = laid_out();
    b.create(LOG, &[], (1 << 20) + 4096).unwrap();
    let b = on(&disk.crash_at(u64::MAX, 0));
    assert_eq!(b.len(LOG).unwrap(), Some((1 << 20) + 4096));
    assert_eq!(b.objects(V).unwrap(), [LOG]);
}

#[test]
fn zeros_are_reserved_by_one_call_or_written_where_that_cannot_be_and_survive_whole() {
    for refused in [false, true] {
        let (b, calls) = recorded();
        calls.no_holes.store(refused, Ordering::Relaxed);
        calls.take();
        b.create_reserved(LOG, b"head", 4096).unwrap();
        let made = calls.take();
        assert_eq!(made.iter().any(|call| call.starts_with("reserve ")), !refused, "{made:?}");
        let b = on(&calls.disk.crash_at(u64::MAX, 0));
        assert_eq!(b.len(LOG).unwrap(), Some(4096));
        assert_eq!(read(&b, LOG, 0, 8).unwrap(), b"head\0\0\0\0");
        assert!(matches!(b.create_reserved(LOG, &[], 4096), Err(Error::Exists(_))));
    }
}

#[test]
fn a_removed_object_stays_removed() {
    let (b, disk) = laid_out();
    b.create(LOG, &[], 4096).unwrap();
    write(&b, DATA, 0, b"x").unwrap();
    b.sync(&[DATA]).unwrap();
    b.remove(LOG).unwrap();
    b.remove(DATA).unwrap();
    for seed in 0..10 {
        assert_eq!(on(&disk.crash_at(u64::MAX, seed)).objects(V).unwrap(), []);
    }
}

#[test]
fn a_failed_sync_is_reported_once_never_repeated_and_never_forgotten() {
    let (b, calls) = recorded();
    write(&b, DATA, 0, b"x").unwrap();
    write(&b, LOG, 0, b"x").unwrap_err();
    b.create(LOG, &[], 4096).unwrap();
    calls.disk.fail_at(calls.disk.steps() + 1, libc::EIO);
    assert!(matches!(b.sync(&[DATA]), Err(Error::Io { op: "sync", .. })));
    calls.take();
    for _ in 0..3 {
        assert!(matches!(b.sync(&[DATA]), Err(Error::Poisoned(_))));
        write(&b, DATA, 0, b"y").unwrap();
        assert!(matches!(b.sync(&[LOG, DATA]), Err(Error::Poisoned(_))));
    }
    drop(b.lock(V, LockMode::Exclusive, b"again").unwrap());
    assert!(matches!(b.sync(&[DATA]), Err(Error::Poisoned(_))));
    assert_eq!(calls.take().iter().filter(|call| call.starts_with("sync data/11/data")).count(), 0);
    write(&b, LOG, 0, b"x").unwrap();
    b.sync(&[LOG]).unwrap();
}

#[test]
fn a_failed_sync_of_a_directory_is_remembered_for_the_objects_that_waited_for_it() {
    let (b, calls) = recorded();
    write(&b, DATA, 0, b"x").unwrap();
    calls.disk.fail_at(calls.disk.steps() + 2, libc::EIO);
    assert!(matches!(b.sync(&[DATA]), Err(Error::Io { .. })));
    assert!(matches!(b.sync(&[DATA]), Err(Error::Poisoned(_))));
}

#[test]
fn threads_that_wait_for_a_sync_that_fails_fail_too() {
    let (b, calls) = recorded();
    b.create(LOG, &[], 4096).unwrap();
    write(&b, LOG, 0, b"x").unwrap();
    calls.slow.store(true, Ordering::Relaxed);
    calls.disk.fail_at(calls.disk.steps() + 1, libc::EIO);
    let results: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| b.sync(&[LOG]).is_ok())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results, [false; 4]);
}

#[test]
fn a_file_system_without_holes_gets_zeros() {
    let (b, calls) = recorded();
    calls.no_holes.store(true, Ordering::Relaxed);
    write(&b, DATA, 0, &[1; 3 << 20]).unwrap();
    b.punch(DATA, 100, 5 << 20).unwrap();
    let found = read(&b, DATA, 0, 3 << 20).unwrap();
    assert!(found[..100] == [1; 100] && found[100..].iter().all(|byte| *byte == 0));
    assert_eq!(b.len(DATA).unwrap(), Some(3 << 20));
}

#[test]
fn a_cut_during_a_batch_leaves_no_name_without_its_whole_header() {
    for ids in [1..2, 1..4, 1..9] {
        let (b, disk) = laid_out();
        let (start, batch) = (disk.steps(), clones(ids));
        b.create_named(&batch).unwrap();
        let end = disk.steps();
        after_each_cut(&disk, start, |step, b| {
            let names = b.names("", None, 100).unwrap();
            assert!(step < end || names.len() == batch.len(), "durable when it returned");
            for (volume, name, bytes) in batch.iter().filter(|(_, name, _)| names.contains(name)) {
                assert_eq!(b.lookup(name).unwrap(), Some(*volume));
                assert_eq!(&b.read_record(RecordKey::Header(*volume)).unwrap().bytes, bytes);
            }
        });
    }
}

#[test]
fn a_cut_while_a_batch_is_undone_leaves_no_name_without_its_whole_header() {
    let (b, disk) = laid_out();
    b.create_named(&[(V, "clone4".into(), vec![])]).unwrap();
    let start = disk.steps();
    assert!(matches!(b.create_named(&clones(1..7)), Err(Error::Exists(_))));
    let end = disk.steps();
    after_each_cut(&disk, start, |step, b| {
        let names = b.names("", None, 100).unwrap();
        for name in &names {
            let volume = b.lookup(name).unwrap().unwrap();
            b.read_record(RecordKey::Header(volume)).unwrap();
        }
        assert!(step < end || names == ["clone4"]);
    });
}

#[test]
fn a_batch_that_fails_at_any_call_leaves_nothing_reachable() {
    for fail in 1.. {
        let (b, disk) = laid_out();
        let start = disk.steps();
        disk.fail_at(start + fail, libc::EIO);
        let result = b.create_named(&clones(1..6));
        if result.is_ok() {
            assert!(fail > 5, "every call of the batch was failed once");
            break;
        }
        assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
        assert_eq!(b.names("", None, 100).unwrap(), [""; 0], "call {fail}");
        assert_eq!(b.headers().unwrap(), [], "call {fail}");
        b.create_named(&clones(1..6)).unwrap();
    }
}

#[test]
fn a_cut_during_a_commit_leaves_the_old_or_the_new_record() {
    let (b, disk) = laid_out();
    let key = RecordKey::Header(V);
    let payload = |version: u64| vec![version as u8; MAX_RECORD - version as usize * 700];
    b.create_record(key, &payload(1)).unwrap();
    for version in 1..5 {
        let start = disk.steps();
        assert_eq!(b.commit_record(key, version, &payload(version + 1)).unwrap(), version + 1);
        let end = disk.steps();
        after_each_cut(&disk, start, |step, b| {
            let found = b.read_record(key).unwrap();
            assert!(found.version == version + 1 || (step < end && found.version == version));
            assert_eq!(found.bytes, payload(found.version));
        });
    }
}

#[test]
fn a_commit_after_one_that_a_dead_process_never_synced_is_safe_at_every_cut() {
    let (b, disk) = laid_out();
    let key = RecordKey::Header(V);
    b.create_record(key, &[1; 3000]).unwrap();
    b.commit_record(key, 1, &[2; 3000]).unwrap();
    // A commit up to its write: the process dies before the sync.
    let fd = disk.open("catalog/h.0000000000000011", Open::ReadWrite).unwrap();
    let slot = crate::format::record::encode_slot(V.0, 3, &[3; 3000]).unwrap();
    disk.pwritev(fd, &[IoSlice::new(&slot)], 0).unwrap();
    drop(b);
    let (b, start) = (on(&disk), disk.steps());
    assert_eq!(b.commit_record(key, 3, &[4; 3000]).unwrap(), 4);
    after_each_cut(&disk, start, |_, b| {
        let found = b.read_record(key).unwrap();
        assert!((2..=4).contains(&found.version) && found.bytes == vec![found.version as u8; 3000]);
    });
}

#[test]
fn a_cut_on_the_way_to_the_trash_never_loses_the_header_and_trying_again_ends_it() {
    let (b, disk) = laid_out();
    b.create_record(RecordKey::Header(V), b"header").unwrap();
    let start = disk.steps();
    b.trash_header(V).unwrap();
    let end = disk.steps();
    after_each_cut(&disk, start, |step, b| {
        let (here, there) = (b.headers().unwrap() == [V], b.trashed().unwrap() == [V]);
        assert!(here || there);
        assert!(step < end || !here);
        if here {
            b.trash_header(V).unwrap();
        }
        assert_eq!((b.headers().unwrap(), b.trashed().unwrap()), (vec![], vec![V]));
        assert_eq!(b.read_record(RecordKey::Trash(V)).unwrap().bytes, b"header");
    });
}

#[test]
fn names_are_durable_when_bound_and_when_unbound() {
    let (b, disk) = laid_out();
    b.create_record(RecordKey::Header(V), b"header").unwrap();
    b.bind_name("volume", V).unwrap();
    assert_eq!(on(&disk.crash_at(u64::MAX, 0)).lookup("volume").unwrap(), Some(V));
    b.unbind_name("volume").unwrap();
    assert_eq!(on(&disk.crash_at(u64::MAX, 0)).lookup("volume").unwrap(), None);
}

#[test]
fn no_descriptor_is_leaked() {
    let (b, disk) = laid_out();
    b.create_named(&clones(1..7)).unwrap();
    b.create_named(&clones(6..9)).unwrap_err();
    b.commit_record(RecordKey::Header(VolumeId(1)), 1, b"x").unwrap();
    b.commit_record(RecordKey::Header(VolumeId(1)), 1, b"x").unwrap_err();
    let _ = b.lookup("clone1").unwrap();
    let held = b.lock(V, LockMode::Exclusive, b"x").unwrap();
    drop(b.lock(V, LockMode::Exclusive, b"x").unwrap());
    drop(held);
    assert_eq!(disk.open_files(), 0);
    b.create(LOG, &[], 0).unwrap();
    b.create(LOG, &[], 0).unwrap_err();
    write(&b, DATA, 0, b"x").unwrap();
    assert_eq!((disk.open_files(), b.files.open_files()), (2, 2));
    b.remove(DATA).unwrap();
    assert_eq!((disk.open_files(), b.files.open_files()), (1, 1));
    drop(b);
    assert_eq!(disk.open_files(), 0);
}

#[test]
fn the_least_recently_used_file_is_closed_first() {
    let recorder = recorded().1;
    let b = FileBlocker::new(recorder.clone(), FileOptions { max_open_files: 3, ..FileOptions::default() });
    let object = |n| Object::Pack(V, n);
    for n in 0..3 {
        b.create(object(n), &[], 10).unwrap();
    }
    read(&b, object(0), 0, 1).unwrap();
    b.create(object(3), &[], 10).unwrap();
    recorder.take();
    read(&b, object(0), 0, 1).unwrap();
    assert_eq!(recorder.take(), [""; 0], "still open");
    read(&b, object(1), 0, 1).unwrap();
    assert_eq!(recorder.take(), ["open data/11/pack.0000000000000011.00000001"]);
    assert_eq!(b.files.open_files(), 3);
}

#[test]
fn data_leaves_the_reserve_and_packs_may_use_it() {
    let (b, disk) = laid_out();
    b.create(Object::Pack(V, 1), &[], 0).unwrap();
    disk.set_space(20 << 20, 2 << 20);
    write(&b, DATA, 0, &[1; 1 << 20]).unwrap();
    assert!(matches!(write(&b, DATA, 1 << 20, &[1; 4096]), Err(Error::NoSpace(_))));
    assert!(matches!(write(&b, Object::Data(V, 2), 0, &[1; 4096]), Err(Error::NoSpace(_))));
    assert!(matches!(b.create(LOG, &[], 64 << 10), Err(Error::NoSpace(_))));
    assert_eq!(b.objects(V).unwrap(), [Object::Pack(V, 1), DATA], "what is refused is not created");
    // For the records of a flush or a snapshot.
    b.create(LOG, &[], RESERVED_SEGMENT).unwrap();
    write(&b, Object::Pack(V, 1), 0, &[1; 512 << 10]).unwrap();
    b.create_record(RecordKey::Header(V), b"x").unwrap();
}
