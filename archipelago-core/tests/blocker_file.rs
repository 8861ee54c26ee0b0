//! What only the file backend promises: how it takes damaged files, links, full disks, other processes and permissions.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::sim::Random;
use archipelago_core::blocker::{Adopted, Blocker, LockMode, LockOutcome, MAX_OWNER, Object, RecordKey, VolumeId};
use archipelago_core::limits::MAX_RECORD;
use archipelago_core::{Digest, Error, Result};

const V: VolumeId = VolumeId(0x0123_4567_89ab_cdef);

fn store(dir: &Path) -> FileBlocker {
    FileBlocker::init(dir, FileOptions::default()).unwrap()
}

fn reopen(dir: &Path) -> FileBlocker {
    FileBlocker::open(dir, FileOptions::default()).unwrap()
}

fn read(b: &dyn Blocker, object: Object, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut buf = vec![0xee; len];
    b.read(object, &mut [IoSliceMut::new(&mut buf)], offset)?;
    Ok(buf)
}

fn write(b: &dyn Blocker, object: Object, offset: u64, bytes: &[u8]) -> Result<()> {
    b.write(object, &[IoSlice::new(bytes)], offset)
}

/// Asserts damage of the file at `path` and returns what is said of it.
fn damage<T: std::fmt::Debug>(result: Result<T>, path: &str) -> String {
    match result {
        Err(Error::Damaged { object, detail }) if object == path => detail,
        other => panic!("expected damage of {path}, got {other:?}"),
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn files_lie_where_the_format_says() {
    let dir = tempfile::tempdir().unwrap();
    let b = store(dir.path());
    b.create_record(RecordKey::Store, b"superblock").unwrap();
    b.create_named(&[(V, "debian-12".into(), b"header".to_vec())]).unwrap();
    b.create(Object::Log(V, 1), &[], 1 << 20).unwrap();
    b.create(Object::Pack(V, 0x2a), &[], 0).unwrap();
    write(&b, Object::Data(V, 3), (8 << 40) + 5, b"x").unwrap();
    let _lock = b.lock(V, LockMode::Exclusive, b"me").unwrap();
    for (file, len) in [
        ("archipelago.store", 8192),
        ("catalog/h.0123456789abcdef", 8192),
        ("catalog/n.debian-12", 8192),
        ("data/ef/lock.0123456789abcdef", 0),
        ("data/ef/log.0123456789abcdef.00000001", 1 << 20),
        ("data/ef/pack.0123456789abcdef.0000002a", 0),
        ("data/ef/data.0123456789abcdef.0000000000000003.00000001", 6),
    ] {
        assert_eq!(fs::metadata(dir.path().join(file)).unwrap().len(), len, "{file}");
    }
    let owner = dir.path().join("data/ef/owner.0123456789abcdef");
    assert_eq!(fs::read_link(&owner).unwrap(), Path::new("me"));
    let inode = |file: &str| fs::metadata(dir.path().join(file)).unwrap().ino();
    assert_eq!(inode("catalog/n.debian-12"), inode("catalog/h.0123456789abcdef"));
    // Zeros that were written and not left out: a sync of what is written there later changes no metadata.
    assert!(fs::metadata(dir.path().join("data/ef/log.0123456789abcdef.00000001")).unwrap().blocks() * 512 >= 1 << 20);
    b.trash_header(V).unwrap();
    assert!(dir.path().join("trash/h.0123456789abcdef").exists());
}

#[test]
fn a_store_can_be_opened_again_and_moved_while_open() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("a/b/store"), dir.path().join("moved"));
    let b = store(&old);
    write(&b, Object::Data(V, 1), 0, b"bytes").unwrap();
    b.sync(&[Object::Data(V, 1)]).unwrap();
    b.create_record(RecordKey::Header(V), b"header").unwrap();
    fs::rename(&old, &new).unwrap();
    b.bind_name("after-move", V).unwrap();
    b.create(Object::Log(V, 1), &[], 4096).unwrap();
    drop(b);
    let b = reopen(&new);
    assert_eq!(read(&b, Object::Data(V, 1), 0, 5).unwrap(), b"bytes");
    assert_eq!(b.lookup("after-move").unwrap(), Some(V));
    assert_eq!(b.objects(V).unwrap(), [Object::Log(V, 1), Object::Data(V, 1)]);
    assert!(matches!(FileBlocker::open(&old, FileOptions::default()), Err(Error::NoStore(_))));
    assert!(matches!(FileBlocker::open(Path::new("/dev/null"), FileOptions::default()), Err(Error::NoStore(_))));
}

#[test]
fn every_flipped_bit_of_a_record_is_reported_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let b = store(dir.path());
    let key = RecordKey::Header(V);
    b.create_named(&[(V, "volume".into(), b"one".to_vec())]).unwrap();
    b.commit_record(key, 1, &[2; MAX_RECORD]).unwrap();
    let path = "catalog/h.0123456789abcdef";
    let file = OpenOptions::new().read(true).write(true).open(dir.path().join(path)).unwrap();
    // In both slots: the head, the payload and the checksum of a sector, and a sector that was never written.
    for at in [0, 30, 511, 1000, 4096, 4096 + 17, 8191] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        damage(b.read_record(key), path);
        damage(b.commit_record(key, 2, b"three"), path);
        damage(b.lookup("volume"), "catalog/n.volume");
        file.write_all_at(&byte, at).unwrap();
        assert_eq!(b.read_record(key).unwrap().bytes, [2; MAX_RECORD], "nothing was changed");
    }
    for len in [8193, 8191, 4096, 1, 0] {
        file.set_len(len).unwrap();
        damage(b.read_record(key), path);
    }
}

#[test]
fn a_record_in_the_place_of_another_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let b = store(dir.path());
    b.create_record(RecordKey::Header(V), b"header").unwrap();
    let catalog = dir.path().join("catalog");
    fs::copy(catalog.join("h.0123456789abcdef"), catalog.join("h.0000000000000001")).unwrap();
    let detail = damage(b.read_record(RecordKey::Header(VolumeId(1))), "catalog/h.0000000000000001");
    assert!(detail.contains("0123456789abcdef"), "{detail}");
    damage(b.commit_record(RecordKey::Header(VolumeId(1)), 1, b"x"), "catalog/h.0000000000000001");
}

#[test]
fn a_log_or_pack_that_was_cut_short_is_reported_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let b = store(dir.path());
    for (object, path) in [
        (Object::Log(V, 1), "data/ef/log.0123456789abcdef.00000001"),
        (Object::Pack(V, 1), "data/ef/pack.0123456789abcdef.00000001"),
    ] {
        b.create(object, &[], 8192).unwrap();
        OpenOptions::new().write(true).open(dir.path().join(path)).unwrap().set_len(5000).unwrap();
        read(&b, object, 0, 5000).unwrap();
        assert!(damage(read(&b, object, 4096, 4096), path).starts_with("cut short"));
        fs::remove_file(dir.path().join(path)).unwrap();
        assert!(damage(read(&reopen(dir.path()), object, 0, 1), path).starts_with("cut short"));
    }
}

#[test]
fn a_symbolic_link_inside_the_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let outside = dir.path().join("outside");
    fs::create_dir_all(outside.join("ef")).unwrap();
    fs::write(outside.join("secret"), vec![1; 8192]).unwrap();
    let b = store(&root);
    let plant = |at: &str, target: PathBuf| symlink(target, root.join(at)).unwrap();

    plant("catalog/h.0123456789abcdef", outside.join("secret"));
    plant("catalog/n.linked", outside.join("secret"));
    damage(b.read_record(RecordKey::Header(V)), "catalog/h.0123456789abcdef");
    damage(b.commit_record(RecordKey::Header(V), 1, b"x"), "catalog/h.0123456789abcdef");
    damage(b.lookup("linked"), "catalog/n.linked");
    assert!(matches!(b.create_record(RecordKey::Header(V), b"x"), Err(Error::Exists(_))));

    // A directory that is a link, and a file in a real one.
    plant("data/ef", outside.join("ef"));
    assert!(write(&b, Object::Data(V, 1), 0, b"x").is_err());
    assert!(b.create(Object::Log(V, 1), &[], 0).is_err());
    assert!(b.lock(V, LockMode::Exclusive, b"x").is_err());
    assert!(b.objects(V).is_err());
    fs::remove_file(root.join("data/ef")).unwrap();
    fs::create_dir(root.join("data/ef")).unwrap();
    let path = "data/ef/data.0123456789abcdef.0000000000000001.00000000";
    plant(path, outside.join("new"));
    damage(write(&b, Object::Data(V, 1), 0, b"x"), path);
    damage(read(&b, Object::Data(V, 1), 0, 1), path);
    plant("data/ef/lock.0123456789abcdef", outside.join("new"));
    damage(b.lock(V, LockMode::Exclusive, b"x").map(drop), "data/ef/lock.0123456789abcdef");

    assert_eq!(fs::read(outside.join("secret")).unwrap(), vec![1; 8192]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 2, "nothing was made outside");
    assert_eq!(fs::read_dir(outside.join("ef")).unwrap().count(), 0);

    // The same for a directory of the layout.
    let root = dir.path().join("second");
    drop(store(&root));
    fs::remove_dir(root.join("catalog")).unwrap();
    symlink(outside.join("ef"), root.join("catalog")).unwrap();
    assert!(reopen(&root).create_record(RecordKey::Header(V), b"x").is_err());
    assert_eq!(fs::read_dir(outside.join("ef")).unwrap().count(), 0);
}

#[test]
fn a_name_cannot_lead_out_of_the_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    let b = store(dir.path());
    b.create_record(RecordKey::Header(V), b"x").unwrap();
    for name in ["../../escape", "a/b", "", "nul\0byte"] {
        assert!(matches!(b.bind_name(name, V), Err(Error::InvalidName { .. })), "{name:?}");
        assert!(matches!(b.lookup(name), Err(Error::InvalidName { .. })), "{name:?}");
        assert!(b.create_named(&[(VolumeId(2), name.into(), vec![])]).is_err(), "{name:?}");
    }
    assert_eq!(b.headers().unwrap(), [V], "a refused batch leaves no header");
}

#[test]
fn files_and_directories_get_the_mode_and_group_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    // Group 12345 where that is allowed, and the own group elsewhere.
    let group = if is_root() { 12345 } else { fs::metadata(dir.path()).unwrap().gid() };
    // More than any usual umask lets through.
    let b = FileBlocker::init(&root, FileOptions { mode: 0o664, group, ..FileOptions::default() }).unwrap();
    b.create_record(RecordKey::Store, b"s").unwrap();
    b.create_named(&[(V, "volume".into(), vec![])]).unwrap();
    b.create(Object::Log(V, 1), &[], 0).unwrap();
    write(&b, Object::Data(V, 1), 0, b"x").unwrap();
    drop(b.lock(V, LockMode::Exclusive, b"x").unwrap());
    let mut todo = vec![root];
    let mut seen = 0;
    while let Some(path) = todo.pop() {
        let meta = fs::metadata(&path).unwrap();
        let mode = if meta.is_dir() { 0o775 } else { 0o664 };
        assert_eq!((meta.permissions().mode() & 0o7777, meta.gid()), (mode, group), "{}", path.display());
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        seen += 1;
    }
    assert_eq!(seen, 13);
}

#[test]
fn idle_files_stay_within_the_budget_and_unsynced_ones_stay_open() {
    const BUDGET: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let b = FileBlocker::init(dir.path(), FileOptions { max_open_files: BUDGET, ..FileOptions::default() }).unwrap();
    let links = |dir: &Path| {
        let fds = fs::read_dir("/proc/self/fd").unwrap();
        fds.filter(|fd| {
            fs::read_link(fd.as_ref().unwrap().path())
                .is_ok_and(|to| to.starts_with(dir) && to.to_string_lossy().contains("data/"))
        })
        .count()
    };
    let objects: Vec<Object> = (0..BUDGET as u64 + 30).map(|epoch| Object::Data(V, epoch)).collect();
    for object in &objects {
        write(&b, *object, 0, b"x").unwrap();
    }
    assert_eq!(links(dir.path()), objects.len());
    b.sync(&objects).unwrap();
    for object in &objects {
        assert_eq!(read(&b, *object, 0, 1).unwrap(), b"x");
    }
    // They shrink to the budget when the next file is opened.
    b.create(Object::Log(V, 1), &[], 0).unwrap();
    assert!(links(dir.path()) <= BUDGET, "{}", links(dir.path()));
}

/// Mounts a small file system for the time of a test; `None`, saying so, where that is not allowed.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={megabytes}m");
        let mount = ["mount", "-t", "tmpfs", "-o", &options, "archipelago-test"];
        let mounted = is_root()
            && Command::new(mount[0]).args(&mount[1..]).arg(dir.path()).status().is_ok_and(|status| status.success());
        if !mounted {
            println!("skipped: a file system can be mounted by root only");
        }
        mounted.then(|| SmallDisk(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_new_data_and_lets_the_rest_go_on() {
    let Some(disk) = SmallDisk::mount(8) else { return };
    let b = store(disk.path());
    let (data, key) = (Object::Data(V, 1), RecordKey::Header(V));
    b.create_record(key, b"one").unwrap();
    b.create(Object::Pack(V, 1), &[], 0).unwrap();
    let block = [7; 64 << 10];
    let mut written = 0;
    let refused = loop {
        match write(&b, data, written, &block) {
            Ok(()) => written += block.len() as u64,
            Err(e) => break e,
        }
    };
    assert!(matches!(refused, Error::NoSpace(_)), "{refused}");
    let space = b.space().unwrap();
    assert!(space.free >= space.total / 20, "{space:?}");
    b.sync(&[data]).unwrap();
    assert!(matches!(b.create(Object::Log(V, 1), &[], block.len() as u64), Err(Error::NoSpace(_))));
    assert_eq!(b.len(Object::Log(V, 1)).unwrap(), None);
    // Overwriting needs no room; records and packs have the reserve; removing gives room back.
    write(&b, data, 4096, &[8; 4096]).unwrap();
    assert_eq!(b.commit_record(key, 1, b"two").unwrap(), 2);
    write(&b, Object::Pack(V, 1), 0, &block).unwrap();
    b.sync(&[data, Object::Pack(V, 1)]).unwrap();
    for at in (0..written).step_by(block.len()) {
        let mut expected = block;
        if at == 0 {
            expected[4096..8192].fill(8);
        }
        assert_eq!(read(&b, data, at, block.len()).unwrap(), expected, "nothing is damaged");
    }
    b.punch(data, 0, 1 << 20).unwrap();
    write(&b, data, written, &block).unwrap();
    b.remove(data).unwrap();
    b.create(Object::Log(V, 1), &[], 1 << 20).unwrap();
}

#[test]
fn records_report_a_disk_without_any_room_and_stay_whole() {
    let Some(disk) = SmallDisk::mount(4) else { return };
    let b = store(disk.path());
    let key = RecordKey::Header(V);
    b.create_named(&[(V, "volume".into(), b"one".to_vec())]).unwrap();
    b.create(Object::Pack(V, 1), &[], 0).unwrap();
    let mut at = 0;
    while write(&b, Object::Pack(V, 1), at, &[1; 4096]).is_ok() {
        at += 4096;
    }
    assert!(matches!(write(&b, Object::Pack(V, 1), at, &[1; 4096]), Err(Error::NoSpace(_))));
    assert!(matches!(b.create_named(&[(VolumeId(2), "second".into(), vec![1; 100])]), Err(Error::NoSpace(_))));
    let many = (10..30).map(|id| (VolumeId(id), format!("many-{id}"), vec![1; 3000])).collect::<Vec<_>>();
    assert!(matches!(b.create_named(&many), Err(Error::NoSpace(_))));
    assert!(matches!(b.commit_record(key, 1, b"two"), Err(Error::NoSpace(_))));
    assert_eq!(b.read_record(key).unwrap().bytes, b"one");
    assert_eq!(b.names("", None, 10).unwrap(), ["volume"]);
    assert_eq!(b.headers().unwrap(), [V]);
    let held = b.lock(V, LockMode::Exclusive, b"owner").unwrap();
    assert!(matches!(held, LockOutcome::Held(_)), "a volume can be locked, and so removed, on a full disk");
    b.remove(Object::Pack(V, 1)).unwrap();
    assert_eq!(b.commit_record(key, 1, b"two").unwrap(), 2);
    b.create_named(&many).unwrap();
}

/// Name of the variable that makes a test process a lock holder.
const HOLDER: &str = "ARCHIPELAGO_TEST_LOCK_HOLDER";

/// Not a test of its own: the other process of the test below.
#[test]
fn lock_holder_process() {
    let Some(dir) = std::env::var_os(HOLDER) else { return };
    let b = reopen(Path::new(&dir));
    let held = b.lock(V, LockMode::Exclusive, b"the-other-process").unwrap();
    assert!(matches!(held, LockOutcome::Held(_)));
    fs::write(Path::new(&dir).join("ready"), b"").unwrap();
    // Until killed; not for ever, should the parent die first.
    std::thread::sleep(std::time::Duration::from_secs(20));
}

#[test]
fn a_lock_of_another_process_is_refused_with_its_record_and_ends_with_that_process() {
    let dir = tempfile::tempdir().unwrap();
    let b = store(dir.path());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lock_holder_process"])
        .env(HOLDER, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..1000 {
        if dir.path().join("ready").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        match b.lock(V, mode, b"me").unwrap() {
            LockOutcome::Refused(owner) => assert_eq!(owner, b"the-other-process"),
            LockOutcome::Held(_) => panic!("taken while another process has it"),
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let shared = b.lock(V, LockMode::Shared, &[]).unwrap();
    assert!(matches!(shared, LockOutcome::Held(_)), "the system dropped the lock");
    // Whom a shared lock refuses is not sent to the process that died.
    assert!(
        matches!(reopen(dir.path()).lock(V, LockMode::Exclusive, b"x").unwrap(), LockOutcome::Refused(owner) if owner.is_empty())
    );
    drop(shared);
    assert!(matches!(b.lock(V, LockMode::Exclusive, b"me").unwrap(), LockOutcome::Held(_)));
}

#[test]
fn a_locked_volume_takes_no_room_but_for_its_entries() {
    let dir = tempfile::tempdir().unwrap();
    let b = store(dir.path());
    let _lock = b.lock(V, LockMode::Exclusive, &[b'x'; MAX_OWNER]).unwrap();
    for file in ["lock.0123456789abcdef", "owner.0123456789abcdef"] {
        assert_eq!(fs::symlink_metadata(dir.path().join("data/ef").join(file)).unwrap().blocks(), 0, "{file}");
    }
}

#[test]
fn a_record_left_by_a_dead_holder_is_replaced_and_never_believed() {
    let dir = tempfile::tempdir().unwrap();
    let b = store(dir.path());
    let owner = dir.path().join("data/ef/owner.0123456789abcdef");
    let plant = |target: &str| {
        let _ = fs::remove_file(&owner);
        symlink(target, &owner).unwrap();
    };
    fs::create_dir(dir.path().join("data/ef")).unwrap();
    plant("dead");
    assert_eq!(b.lock_holder(V).unwrap(), None, "there is no lock file yet");
    let held = b.lock(V, LockMode::Exclusive, b"alive").unwrap();
    assert_eq!(b.lock_holder(V).unwrap().unwrap(), b"alive");
    // Whatever it is replaced with meanwhile: nobody is led anywhere.
    for target in ["../../archipelago.store", "/etc/passwd", &"x".repeat(49), &"x".repeat(4000), "{\"pid\":1}"] {
        plant(target);
        assert_eq!(b.lock_holder(V).unwrap().unwrap(), b"", "{target}");
    }
    fs::remove_file(&owner).unwrap();
    fs::write(&owner, b"a-file").unwrap();
    assert_eq!(b.lock_holder(V).unwrap().unwrap(), b"");
    drop(held);
    assert!(!owner.exists(), "the record goes with its holder");
    plant("dead");
    assert_eq!(b.lock_holder(V).unwrap(), None);
    let _shared = b.lock(V, LockMode::Shared, &[]).unwrap();
    assert!(fs::symlink_metadata(&owner).is_err());
}

#[test]
fn two_handles_of_one_process_exclude_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (store(dir.path()), reopen(dir.path()));
    let held = a.lock(V, LockMode::Exclusive, b"a").unwrap();
    assert!(matches!(b.lock(V, LockMode::Exclusive, b"b").unwrap(), LockOutcome::Refused(owner) if owner == b"a"));
    // Other descriptors of the file come and go without an effect on the lock.
    drop(fs::File::open(dir.path().join("data/ef/lock.0123456789abcdef")).unwrap());
    assert!(matches!(b.lock(V, LockMode::Shared, &[]).unwrap(), LockOutcome::Refused(_)));
    drop(held);
    assert!(matches!(b.lock(V, LockMode::Exclusive, b"b").unwrap(), LockOutcome::Held(_)));
}

#[test]
fn a_new_owner_sees_what_the_former_one_did_to_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (store(dir.path()), reopen(dir.path()));
    let (log, data) = (Object::Log(V, 1), Object::Data(V, 1));
    a.create(log, &[], 4096).unwrap();
    write(&a, data, 0, b"old").unwrap();
    a.sync(&[data]).unwrap();
    let lock = b.lock(V, LockMode::Exclusive, b"b").unwrap();
    b.remove(log).unwrap();
    b.remove(data).unwrap();
    write(&b, data, 0, b"new").unwrap();
    drop(lock);
    let _lock = a.lock(V, LockMode::Exclusive, b"a").unwrap();
    assert!(matches!(read(&a, log, 0, 1), Err(Error::Damaged { .. })));
    assert_eq!(read(&a, data, 0, 3).unwrap(), b"new");
}

/// Writes a file of this mode, and takes it in as content.
fn adopt(b: &FileBlocker, path: &Path, bytes: &[u8], mode: u32, link: bool) -> (Adopted, u64) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let file = fs::File::open(path).unwrap();
    let (digest, content) = Digest::of(bytes);
    let how = b.adopt(digest, content, file.as_fd().into(), link).unwrap();
    assert_eq!(b.content_len(digest).unwrap(), Some(content.len() as u64));
    assert!(read(b, Object::Content(digest), 0, content.len()).unwrap() == content);
    assert!(fs::read(path).unwrap() == bytes, "the file was altered");
    (how, fs::metadata(path).unwrap().nlink())
}

#[test]
fn only_a_file_that_nobody_may_write_and_all_may_read_is_linked() {
    let dir = tempfile::tempdir().unwrap();
    let gid = fs::metadata(dir.path()).unwrap().gid();
    let options = FileOptions { mode: 0o640, group: gid, ..FileOptions::default() };
    let b = FileBlocker::init(&dir.path().join("store"), options).unwrap();
    let probe = fs::File::open(dir.path()).unwrap();
    assert!(!probe.metadata().unwrap().is_file(), "what is probed is no file, and never linked");
    assert_ne!(b.adoption(probe.as_fd().into(), true).unwrap(), Adopted::Linked);
    let file = |n: u8| dir.path().join(format!("old-{n}"));
    let bytes = |n: u8| vec![n; 70_000];
    fs::write(file(0), bytes(0)).unwrap();
    let shares = b.adoption(fs::File::open(file(0)).unwrap().as_fd().into(), false).unwrap() == Adopted::Shared;
    let expect = |how: Adopted, links: u64| if shares { (Adopted::Shared, 1) } else { (how, links) };
    assert_eq!(adopt(&b, &file(1), &bytes(1), 0o444, true), expect(Adopted::Linked, 2));
    assert_eq!(adopt(&b, &file(2), &bytes(2), 0o440, true), expect(Adopted::Linked, 2));
    assert_eq!(adopt(&b, &file(3), &bytes(3), 0o444, false), expect(Adopted::Copied, 1), "nobody asked for it");
    for (n, mode) in [(4, 0o644), (5, 0o464), (6, 0o446)] {
        assert_eq!(adopt(&b, &file(n), &bytes(n), mode, true), expect(Adopted::Copied, 1), "{mode:o} may be written");
    }
    assert_eq!(adopt(&b, &file(7), &bytes(7), 0o400, true), expect(Adopted::Copied, 1), "the group may not read it");
    let padded = [bytes(8), vec![0]].concat();
    assert_eq!(adopt(&b, &file(8), &padded, 0o444, true), expect(Adopted::Copied, 1), "it has zeros at its end");
    assert_eq!(adopt(&b, &file(9), &bytes(1), 0o444, true), (Adopted::Present, 1));
    // The name in the store is one of the file itself, and goes as any other.
    let digest = Digest::of(&bytes(1)).0;
    b.remove(Object::Content(digest)).unwrap();
    assert_eq!(fs::metadata(file(1)).unwrap().nlink(), 1);
    assert_eq!(b.content_len(digest).unwrap(), None);
}

#[test]
fn a_file_without_a_name_or_on_another_file_system_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let b = store(&dir.path().join("store"));
    let path = dir.path().join("old");
    fs::write(&path, [1; 5000]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let file = fs::File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let (digest, content) = Digest::of(&[1; 5000]);
    let how = b.adopt(digest, content, file.as_fd().into(), true).unwrap();
    assert!(matches!(how, Adopted::Copied | Adopted::Shared), "{how:?}");
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_ne!(device(elsewhere.path()), device(dir.path()), "run this with TMPDIR on a disk");
    assert_eq!(adopt(&b, &elsewhere.path().join("old"), &[2; 5000], 0o444, true), (Adopted::Copied, 1));
}

#[test]
fn long_zeros_in_content_become_holes() {
    let dir = tempfile::tempdir().unwrap();
    let b = store(&dir.path().join("store"));
    let mut bytes = vec![0; 4 << 20];
    for at in [0, 1 << 20, (1 << 20) + 70_000, (4 << 20) - 1] {
        bytes[at] = 7;
    }
    let digest = Digest::of_bytes(&bytes);
    assert!(b.put(digest, &bytes).unwrap());
    assert!(read(&b, Object::Content(digest), 0, bytes.len()).unwrap() == bytes);
    let taken = b.allocated(Object::Content(digest)).unwrap();
    assert!(taken <= 5 * (64 << 10), "{taken} bytes for four that are not zero");
}

/// For a file system that can: `mkfs.xfs -m reflink=1` or `mkfs.btrfs` of a file of 400 MiB, and `mount -o loop`.
#[test]
#[ignore = "needs TMPDIR on XFS or Btrfs"]
fn on_a_file_system_with_reflinks_nothing_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let b = store(&dir.path().join("store"));
    let sync = || assert!(Command::new("sync").arg("-f").arg(dir.path()).status().unwrap().success());
    let mut free = 0;
    for n in 0..24u64 {
        // With zeros at the end, which the content object must not have.
        let mut bytes: Vec<u8> = (0..4u64 << 20).map(|at| ((at ^ n) % 251) as u8 + 1).collect();
        bytes[(4 << 20) - 5000..].fill(0);
        let path = dir.path().join(format!("old-{n}"));
        fs::write(&path, &bytes).unwrap();
        if n == 0 {
            assert_eq!(b.adoption(fs::File::open(&path).unwrap().as_fd().into(), true).unwrap(), Adopted::Shared);
        }
        sync();
        let before = b.space().unwrap().free;
        assert_eq!(adopt(&b, &path, &bytes, 0o644, true), (Adopted::Shared, 1));
        sync();
        free += before.saturating_sub(b.space().unwrap().free);
        // Each is its own: what is written to one does not show in the other.
        fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0xee; 4096], 8192).unwrap();
        let (digest, content) = Digest::of(&bytes);
        assert!(read(&b, Object::Content(digest), 0, content.len()).unwrap() == content);
    }
    assert!(free < 8 << 20, "{free} bytes were taken for 96 MiB that are shared");
}

/// Needs TMPDIR on a disk.
#[test]
fn past_the_page_cache_and_through_it_the_same_bytes_are_seen() {
    const SPACE: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    store(&path).create_record(RecordKey::Store, b"superblock").unwrap();
    let direct = FileBlocker::open(&path, FileOptions { direct: true, ..FileOptions::default() }).unwrap();
    assert!(direct.bypasses().unwrap(), "run this with TMPDIR on a disk");
    let others = [direct, reopen(&path), reopen(&path)];
    assert!(others[0].waits_for_disk(Object::Data(V, 1)) && !others[0].waits_for_disk(Object::Log(V, 1)));
    assert!(!others[1].waits_for_disk(Object::Data(V, 1)));
    let (data, mut model, mut random) = (Object::Data(V, 1), vec![0; SPACE as usize], Random::new(3));
    write(&others[1], data, 0, &model).unwrap();
    for round in 0..1500u64 {
        let b = &others[random.below(3) as usize];
        let unit = [1, 512, 4096][random.below(3) as usize];
        let len = (1 + random.below(20_000)).next_multiple_of(unit);
        let from = random.below(SPACE - len) / unit * unit;
        let range = from as usize..(from + len) as usize;
        match random.below(9) {
            0..=3 => {
                let bytes: Vec<u8> = (0..len).map(|at| (at ^ round) as u8).collect();
                write(b, data, from, &bytes).unwrap();
                model[range].copy_from_slice(&bytes);
            }
            4 => {
                b.punch(data, from, len).unwrap();
                model[range].fill(0);
            }
            5 => b.sync(&[data]).unwrap(),
            _ => assert!(read(b, data, from, len as usize).unwrap() == model[range], "round {round}: {len} at {from}"),
        }
    }
    assert_eq!(others[0].len(data).unwrap(), Some(SPACE));
}

#[test]
fn a_file_system_in_memory_is_past_no_page_cache() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let b = FileBlocker::init(dir.path(), FileOptions { direct: true, ..FileOptions::default() }).unwrap();
    b.create_record(RecordKey::Store, b"superblock").unwrap();
    assert!(!b.bypasses().unwrap());
    // A file that cannot be is used as any other.
    write(&b, Object::Data(V, 1), 5, b"bytes").unwrap();
    assert_eq!(read(&b, Object::Data(V, 1), 5, 5).unwrap(), b"bytes");
}
