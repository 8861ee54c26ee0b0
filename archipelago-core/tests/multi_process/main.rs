//! One store, several processes: who may do what to a volume that another process has open, and what is left when a
//! process dies. Every process here is a real one, a copy of this test program that takes commands (`child.rs`).
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use archipelago_core::{
    CloneOptions, CollectOptions, CreateOptions, Error, InitOptions, ListOptions, Location, Mode, Store,
};
use tempfile::TempDir;

mod child;

use child::{Process, SECTOR, SECTORS, options, prefix_of};

const DISK: &str = "disk-1";

/// A store with one volume of the size that the children write to.
struct Site {
    dir: TempDir,
    store: Store,
}

impl Site {
    fn new() -> Site {
        let dir = TempDir::new().unwrap();
        let location = Location::File(dir.path().join("store"));
        Store::init(&location, &InitOptions { block_size: 64 << 10, mode: 0o660, group: None }).unwrap();
        let store = Store::open(&location, options()).unwrap();
        store.create(DISK, &CreateOptions { size: SECTORS * SECTOR, block_size: None }).unwrap();
        Site { dir, store }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    fn process(&self) -> Process {
        Process::start(&self.root())
    }

    /// A process that has the volume open.
    fn owner(&self) -> Process {
        let mut owner = self.process();
        owner.ok(&format!("open {DISK} rw"));
        owner
    }

    /// First number of each sector.
    fn sectors(&self, name: &str) -> Vec<u64> {
        let volume = self.store.open_volume(name, Mode::ReadOnly).unwrap();
        child::sectors(&volume)
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn child_process() {
    child::run();
}

#[test]
fn a_second_writer_is_told_who_has_the_volume_open() {
    let site = Site::new();
    let mut owner = site.owner();
    for mode in [Mode::ReadWrite, Mode::ReadOnly] {
        match site.store.open_volume(DISK, mode) {
            Err(Error::OpenElsewhere { name, owner: who, .. }) => {
                assert_eq!(name, DISK);
                assert_eq!(who.pid, owner.pid());
                let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
                let command = std::fs::read_to_string(format!("/proc/{}/comm", owner.pid())).unwrap();
                assert_eq!((who.host.as_str(), who.command.as_str()), (host.trim(), command.trim_end()));
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
                assert!(who.since <= now && who.since + 60 > now, "since {}, now {now}", who.since);
            }
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("opened twice"),
        }
    }
    assert_eq!(site.process().errno(&format!("open {DISK} rw")), libc::EBUSY);
    owner.ok("close");
    site.store.open_volume(DISK, Mode::ReadWrite).unwrap().close().unwrap();
}

#[test]
fn an_owner_whose_registration_is_lost_is_still_named_by_its_pid() {
    let site = Site::new();
    let owner = site.owner();
    for entry in std::fs::read_dir(site.root().join("procs")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("p.") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let Err(Error::OpenElsewhere { owner: who, .. }) = site.store.open_volume(DISK, Mode::ReadWrite) else {
        panic!("opened twice");
    };
    assert_eq!((who.pid, who.host.as_str(), who.command.as_str()), (owner.pid(), "unknown", "unknown"));
    assert_ne!(who.since, 0);
    assert_eq!(site.store.info(DISK).unwrap().open_by, Some(*who));
}

#[test]
fn status_and_info_name_the_process_that_has_a_volume_open() {
    let site = Site::new();
    let mut owner = site.owner();
    let status = site.store.status().unwrap();
    let found = status.processes.iter().find(|p| p.owner.pid == owner.pid()).expect("the process is listed");
    assert_eq!(found.volumes, [DISK]);
    assert_eq!(site.store.info(DISK).unwrap().open_by.unwrap().pid, owner.pid());
    owner.ok("close");
    assert!(site.store.info(DISK).unwrap().open_by.is_none());
    drop(owner);
    wait_until("the dead process is no longer listed", || {
        site.store.status().unwrap().processes.iter().all(|p| p.owner.pid == std::process::id())
    });
}

#[test]
fn snapshots_taken_by_another_process_are_a_moment_of_the_writers_history() {
    let site = Site::new();
    let mut owner = site.owner();
    owner.ok("hammer");
    let mut last = 0;
    for n in 0..20 {
        thread::sleep(Duration::from_millis(10));
        let name = format!("snap-{n:04}");
        let info = site.store.snapshot(DISK, &name).unwrap();
        assert_eq!((info.name.as_str(), info.read_only, info.size), (name.as_str(), true, SECTORS * SECTOR));
        let writes = prefix_of(&site.sectors(&name)).expect("a prefix of the writes");
        assert!(writes >= last, "snapshot {n} holds {writes} writes, the one before {last}");
        last = writes;
    }
    let total: u64 = owner.ok("stop").parse().unwrap();
    assert!(last > 0 && last <= total);
    owner.ok("close");
    assert_eq!(prefix_of(&site.sectors(DISK)), Some(total));
    for n in 0..20 {
        let name = format!("snap-{n:04}");
        prefix_of(&site.sectors(&name)).expect("later writes do not reach a snapshot");
        site.store.remove(&name).unwrap();
    }
}

#[test]
fn a_group_of_volumes_of_several_processes_is_one_instant_of_all() {
    let site = Site::new();
    site.store.create("disk-2", &CreateOptions { size: SECTORS * SECTOR, block_size: None }).unwrap();
    site.store.create("disk-3", &CreateOptions { size: SECTORS * SECTOR, block_size: None }).unwrap();
    let mut first = site.owner();
    let mut second = site.process();
    second.ok("open disk-2 rw");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                // To the second only when the first has answered.
                first.ok(&format!("write 0 {n}"));
                second.ok(&format!("write 0 {n}"));
            }
            first.ok("close");
            second.ok("close");
        });
        for round in 0..20 {
            thread::sleep(Duration::from_millis(5));
            let group = [DISK, "disk-2", "disk-3"].map(|disk| (disk.to_string(), format!("{disk}-{round:02}")));
            assert_eq!(site.store.snapshot_group(&group).unwrap().len(), 3);
        }
        done.store(true, Ordering::Relaxed);
    });
    let mut last = 0;
    for round in 0..20 {
        let [a, b] = [DISK, "disk-2"].map(|disk| site.sectors(&format!("{disk}-{round:02}"))[0]);
        assert!(a == b || a == b + 1, "round {round}: {a}, then {b}");
        assert!(b >= last);
        last = b;
    }
    assert!(last > 0, "nothing was written");
}

#[test]
fn a_volume_is_resized_while_another_process_writes_it() {
    let site = Site::new();
    let mut owner = site.owner();
    owner.ok("hammer");
    for n in 1..=10 {
        let size = (SECTORS + n * 100) * SECTOR;
        site.store.resize(DISK, size, false).unwrap();
        assert_eq!(site.store.info(DISK).unwrap().size, size);
        assert_eq!(owner.ok("size").parse::<u64>().unwrap(), size);
    }
    match site.store.resize(DISK, SECTORS * SECTOR, false) {
        Err(Error::InvalidArgument(_)) => {}
        other => panic!("smaller without asking: {other:?}"),
    }
    site.store.resize(DISK, SECTORS * SECTOR, true).unwrap();
    assert_eq!(owner.ok("size").parse::<u64>().unwrap(), SECTORS * SECTOR);
    let total: u64 = owner.ok("stop").parse().unwrap();
    owner.ok("close");
    assert_eq!(prefix_of(&site.sectors(DISK)), Some(total));
}

#[test]
fn a_volume_is_renamed_while_another_process_writes_it() {
    let site = Site::new();
    site.store.create("taken-1", &CreateOptions { size: 4096, block_size: None }).unwrap();
    let mut owner = site.owner();
    owner.ok("hammer");
    match site.store.rename(DISK, "taken-1") {
        Err(Error::Exists(name)) => assert_eq!(name, "taken-1"),
        other => panic!("{other:?}"),
    }
    match site.store.rename(DISK, "x") {
        Err(Error::InvalidName { name, .. }) => assert_eq!(name, "x"),
        other => panic!("{other:?}"),
    }
    site.store.rename(DISK, "disk-renamed").unwrap();
    assert!(matches!(site.store.info(DISK), Err(Error::NotFound(_))));
    assert_eq!(owner.ok("name"), "disk-renamed");
    site.store.snapshot("disk-renamed", "snap-0001").unwrap();
    prefix_of(&site.sectors("snap-0001")).expect("a prefix of the writes");
    // The old name is free.
    site.store.create(DISK, &CreateOptions { size: 4096, block_size: None }).unwrap();
    let total: u64 = owner.ok("stop").parse().unwrap();
    owner.ok("close");
    assert_eq!(prefix_of(&site.sectors("disk-renamed")), Some(total));
}

#[test]
fn after_the_owner_was_killed_the_next_open_finds_what_was_flushed() {
    let site = Site::new();
    let mut flushed_before = 0;
    for round in 0..10 {
        let mut owner = site.owner();
        let acknowledged = site.dir.path().join("flushed");
        owner.ok(&format!("hammer {} {}", flushed_before, acknowledged.display()));
        thread::sleep(Duration::from_millis(5 + round * 13));
        if round % 2 == 1 {
            site.store.snapshot(DISK, &format!("snap-{round:04}")).unwrap();
        }
        owner.kill();
        let flushed = child::read_number(&acknowledged);
        // A killed process loses no write that the system took, but those it had not told the system of; so what is
        // there is at least what was flushed, and every sector is whole.
        let volume = site.store.open_volume(DISK, Mode::ReadWrite).unwrap();
        let found = child::sectors(&volume);
        for (sector, &value) in found.iter().enumerate() {
            let least = child::value_after(flushed, sector as u64);
            assert!(value >= least, "round {round}: sector {sector} holds write {value}, {least} was flushed");
            assert!(value == 0 || (value - 1) % SECTORS == sector as u64, "round {round}: write {value} is elsewhere");
        }
        // The next round goes on from a state that is a prefix again.
        flushed_before = found.iter().copied().max().unwrap();
        child::complete(&volume, flushed_before);
        volume.close().unwrap();
        if round % 2 == 1 {
            prefix_of(&site.sectors(&format!("snap-{round:04}"))).expect("the snapshot survived its maker");
        }
    }
}

#[test]
fn a_process_that_ends_without_closing_gives_its_volumes_free() {
    let site = Site::new();
    let mut owner = site.owner();
    owner.ok("write 0 7");
    owner.ok("flush");
    owner.end();
    let volume = site.store.open_volume(DISK, Mode::ReadWrite).unwrap();
    assert_eq!(child::sectors(&volume)[0], 7);
}

#[test]
fn of_many_creates_of_one_name_exactly_one_succeeds() {
    let site = Site::new();
    let mut all: Vec<_> = (0..4).map(|_| site.process()).collect();
    for round in 0..25 {
        let results = Process::all(&mut all, |_| format!("create contested-{round} 1048576"));
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "round {round}: {results:?}");
        assert!(results.iter().flat_map(|r| r.as_ref().err()).all(|e| *e == libc::EEXIST), "{results:?}");
    }
    let names = site.store.list(&ListOptions { prefix: "contested-".into(), ..Default::default() }).unwrap().entries;
    assert_eq!(names.len(), 25);
    assert_eq!(names.iter().map(|i| &i.id).collect::<HashSet<_>>().len(), 25);
    for process in &mut all {
        process.ok("open contested-3 rw");
        process.ok("close");
    }
}

#[test]
fn of_many_snapshots_of_one_name_exactly_one_succeeds_and_the_owner_goes_on() {
    let site = Site::new();
    let mut owner = site.owner();
    owner.ok("hammer");
    let mut all: Vec<_> = (0..3).map(|_| site.process()).collect();
    for round in 0..10 {
        let results = Process::all(&mut all, |_| format!("snapshot {DISK} contested-{round}"));
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "round {round}: {results:?}");
        assert!(results.iter().flat_map(|r| r.as_ref().err()).all(|e| *e == libc::EEXIST), "{results:?}");
        prefix_of(&site.sectors(&format!("contested-{round}"))).expect("a prefix of the writes");
    }
    owner.ok("stop");
    owner.ok("close");
}

#[test]
fn of_many_opens_for_writing_exactly_one_succeeds() {
    let site = Site::new();
    let mut all: Vec<_> = (0..4).map(|_| site.process()).collect();
    for round in 0..25u64 {
        let results = Process::all(&mut all, |_| format!("open {DISK} rw"));
        let winners: Vec<_> = (0..4).filter(|&n| results[n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        assert!(results.iter().flat_map(|r| r.as_ref().err()).all(|e| *e == libc::EBUSY), "{results:?}");
        let winner = &mut all[winners[0]];
        if round > 0 {
            assert_eq!(winner.ok("read 0"), round.to_string(), "what the last winner wrote");
        }
        winner.ok(&format!("write 0 {}", round + 1));
        winner.ok("close");
    }
}

#[test]
fn many_processes_read_a_snapshot_while_the_owner_writes() {
    let site = Site::new();
    let mut owner = site.owner();
    owner.ok("hammer");
    thread::sleep(Duration::from_millis(50));
    site.store.snapshot(DISK, "snap-0001").unwrap();
    let expected = prefix_of(&site.sectors("snap-0001")).expect("a prefix of the writes");
    let mut readers: Vec<_> = (0..4).map(|_| site.process()).collect();
    Process::all(&mut readers, |_| "open snap-0001 ro".into()).into_iter().for_each(|r| drop(r.unwrap()));
    for _ in 0..10 {
        for seen in Process::all(&mut readers, |_| "prefix".into()) {
            assert_eq!(seen.unwrap(), expected.to_string());
        }
    }
    assert_eq!(readers[0].errno("write 0 1"), libc::EROFS);
    owner.ok("stop");
}

#[test]
fn clones_of_a_snapshot_are_written_by_several_processes_at_once() {
    let site = Site::new();
    let mut owner = site.owner();
    owner.ok("hammer");
    thread::sleep(Duration::from_millis(20));
    site.store.snapshot(DISK, "snap-0001").unwrap();
    let before = site.sectors("snap-0001");
    let mut writers: Vec<_> = (0..3).map(|_| site.process()).collect();
    for (n, writer) in writers.iter_mut().enumerate() {
        let name = format!("clone-{n}");
        site.store.clone_snapshot("snap-0001", &name, &CloneOptions::default()).unwrap();
        writer.ok(&format!("open {name} rw"));
        writer.ok(&format!("write 3 {}", 1_000_000 + n));
    }
    for (n, writer) in writers.iter_mut().enumerate() {
        writer.ok("close");
        let mut expected = before.clone();
        expected[3] = 1_000_000 + n as u64;
        assert_eq!(site.sectors(&format!("clone-{n}")), expected);
    }
    assert_eq!(site.sectors("snap-0001"), before);
    owner.ok("stop");
}

#[test]
fn a_volume_that_is_open_elsewhere_is_not_removed() {
    let site = Site::new();
    let mut owner = site.owner();
    owner.ok("write 0 7");
    match site.store.remove(DISK) {
        Err(Error::OpenElsewhere { owner: who, .. }) => assert_eq!(who.pid, owner.pid()),
        other => panic!("{other:?}"),
    }
    assert_eq!(owner.ok("read 0"), "7");
    owner.ok("flush");
    owner.ok("close");
    site.store.remove(DISK).unwrap();
    assert!(matches!(site.store.info(DISK), Err(Error::NotFound(_))));
}

#[test]
fn a_stopped_owner_is_a_timeout_and_keeps_its_volume() {
    let site = Site::new();
    let mut owner = site.owner();
    owner.ok("write 0 7");
    owner.signal("STOP");
    let start = Instant::now();
    match site.store.snapshot(DISK, "snap-0001") {
        Err(Error::Timeout(_)) => {}
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < Duration::from_secs(90), "{:?}", start.elapsed());
    assert!(matches!(site.store.open_volume(DISK, Mode::ReadWrite), Err(Error::OpenElsewhere { .. })));
    assert!(matches!(site.store.remove(DISK), Err(Error::OpenElsewhere { .. } | Error::Timeout(_))));
    owner.signal("CONT");
    owner.ok("write 1 8");
    owner.ok("flush");
    // The request may have been carried out late. If so, its snapshot is a good one.
    if let Ok(info) = site.store.info("snap-0001") {
        assert!(info.read_only);
        assert_eq!(site.sectors("snap-0001")[0], 7);
    }
    site.store.snapshot(DISK, "snap-0002").unwrap();
    assert_eq!(site.sectors("snap-0002")[..2], [7, 8]);
}

#[test]
fn requests_to_an_owner_that_opens_and_closes_all_the_time_succeed_or_say_why() {
    let site = Site::new();
    let root = site.root();
    let (done, opened) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let closer = scope.spawn(|| opens_and_closes(&root, &done, &opened));
        let mut taken = 0;
        // On a busy machine the owner may need a while before it finds the volume free for the first time.
        for n in 0..2000 {
            if n >= 40 && opened.load(Ordering::SeqCst) > 0 {
                break;
            }
            match site.store.snapshot(DISK, &format!("snap-{n:04}")) {
                Ok(_) => taken += 1,
                Err(Error::OpenElsewhere { .. } | Error::NotOpen(_) | Error::Busy(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        done.store(true, Ordering::SeqCst);
        closer.join().unwrap();
        assert!(opened.load(Ordering::SeqCst) > 0);
        assert!(taken > 0);
        let snapshots = site.store.list(&ListOptions { prefix: "snap-".into(), ..Default::default() }).unwrap();
        assert_eq!(snapshots.entries.len(), taken, "what failed left nothing, what succeeded is there");
    });
}

fn opens_and_closes(root: &Path, done: &AtomicBool, opened: &AtomicU64) {
    let mut owner = Process::start(root);
    while !done.load(Ordering::SeqCst) {
        // The other side opens it for a moment when it is free.
        if owner.say(&format!("open {DISK} rw")).is_ok() {
            let times = opened.fetch_add(1, Ordering::SeqCst) + 1;
            owner.ok(&format!("write 0 {times}"));
            owner.ok("close");
        }
    }
}

/// Objects of the store in files, and what they take on the disk.
fn objects(root: &Path) -> usize {
    let dirs = std::fs::read_dir(root.join("data")).unwrap().map(|d| d.unwrap().path());
    let names = dirs.flat_map(|d| std::fs::read_dir(d).unwrap()).map(|f| f.unwrap().file_name().into_string().unwrap());
    names.filter(|name| ["data.", "log.", "pack."].iter().any(|kind| name.starts_with(kind))).count()
}

#[test]
fn a_collection_beside_a_writer_and_a_reader_in_other_processes_takes_nothing_of_theirs() {
    let site = Site::new();
    let (mut writer, mut reader, mut collector) = (site.owner(), site.process(), site.process());
    for sector in 0..SECTORS {
        writer.ok(&format!("write {sector} {}", sector + 1));
    }
    site.store.snapshot(DISK, "snap-read").unwrap();
    reader.ok("open snap-read ro");
    collector.ok("remove snap-read");
    let file = site.root().join("acknowledged");
    writer.ok(&format!("hammer {SECTORS} {}", file.display()));
    for n in 0..20 {
        let name = format!("snap-{n:04}");
        site.store.snapshot(DISK, &name).unwrap();
        let answer = collector.ok("gc");
        assert!(answer.ends_with(" 1") || answer.ends_with(" 0"), "{answer}");
        assert!(prefix_of(&site.sectors(&name)).is_some());
        assert_eq!(reader.ok("prefix"), SECTORS.to_string());
        site.store.remove(&name).unwrap();
    }
    writer.ok("stop");
    writer.ok("close");
    // The removed snapshot goes when its reader does.
    assert_eq!(collector.ok("gc").split(' ').nth(1), Some("1"));
    reader.kill();
    assert_eq!(collector.ok("gc").split(' ').nth(1), Some("0"));
    assert!(prefix_of(&site.sectors(DISK)).is_some());
    site.store.remove(DISK).unwrap();
    collector.ok("gc");
    assert_eq!(objects(&site.root()), 0);
}

#[test]
fn a_stopped_process_keeps_a_collection_from_anything_and_a_killed_one_does_not() {
    let site = Site::new();
    let mut writer = site.owner();
    writer.ok("write 0 1");
    writer.ok("close");
    site.store.remove(DISK).unwrap();
    let before = objects(&site.root());
    assert!(before > 0);
    writer.signal("STOP");
    let error = site.store.collect(&CollectOptions::default(), &mut |_| true).unwrap_err();
    assert!(matches!(&error, Error::Timeout(text) if text.contains(&format!("pid {}", writer.pid()))), "{error}");
    assert_eq!(objects(&site.root()), before);
    writer.kill();
    site.store.collect(&CollectOptions::default(), &mut |_| true).unwrap();
    assert_eq!(objects(&site.root()), 0);
}
