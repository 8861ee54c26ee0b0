//! Collection beside what other processes do: readers, makings in flight, processes that do not answer. Each step of the
//! protocol is left out once, and something must notice.

use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::SimDisk;
use archipelago_core::blocker::{
    Blocker, Boot, Inventory, LockMode, LockOutcome, Mend, Object, Record, RecordKey, Space, VolumeId,
};
use archipelago_core::store::collect::Planted;
use archipelago_core::store::peers::Neighbours;
use archipelago_core::{
    CheckOptions, CloneOptions, CollectOptions, CollectPhase, CollectReport, CreateOptions, Digest, Error, InitOptions,
    Mode, Result, ScrubOptions, Store, StoreOptions,
};

use crate::store::{BLOCK, everything, fill, options, read_all};

/// A call at which a gate stops who comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    CreateNamed,
    ReadData,
    LookAtLock,
}

/// A backend that stops one call until it is told to go on.
struct Gate {
    below: Arc<dyn Blocker>,
    at: Call,
    armed: AtomicBool,
    arrived: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
}

/// The other end of a [`Gate`].
struct Keeper {
    gate: Arc<Gate>,
    arrived: Receiver<()>,
    go: Sender<()>,
}

fn gate(below: &Arc<dyn Blocker>, at: Call) -> Keeper {
    let ((tell, arrived), (go, told)) = (channel(), channel());
    let gate = Gate {
        below: below.clone(),
        at,
        armed: AtomicBool::new(false),
        arrived: Mutex::new(tell),
        go: Mutex::new(told),
    };
    Keeper { gate: Arc::new(gate), arrived, go }
}

impl Gate {
    fn pass(&self, call: Call) {
        if self.at == call && self.armed.swap(false, Ordering::SeqCst) {
            self.arrived.lock().unwrap().send(()).unwrap();
            self.go.lock().unwrap().recv().unwrap();
        }
    }
}

impl Blocker for Gate {
    fn create(&self, object: Object, head: &[u8], len: u64) -> Result<()> {
        self.below.create(object, head, len)
    }
    fn read(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        if !matches!(object, Object::Pack(..)) {
            self.pass(Call::ReadData);
        }
        self.below.read(object, bufs, offset)
    }
    fn write(&self, object: Object, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.below.write(object, bufs, offset)
    }
    fn punch(&self, object: Object, offset: u64, len: u64) -> Result<()> {
        self.below.punch(object, offset, len)
    }
    fn sync(&self, objects: &[Object]) -> Result<()> {
        self.below.sync(objects)
    }
    fn len(&self, object: Object) -> Result<Option<u64>> {
        self.below.len(object)
    }
    fn remove(&self, object: Object) -> Result<()> {
        self.below.remove(object)
    }
    fn objects(&self, volume: VolumeId) -> Result<Vec<Object>> {
        self.below.objects(volume)
    }
    fn inventory(&self, part: u8) -> Result<Inventory> {
        self.below.inventory(part)
    }
    fn allocated(&self, object: Object) -> Result<u64> {
        self.below.allocated(object)
    }
    fn read_some(&self, object: Object, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.below.read_some(object, buf, offset)
    }
    fn put(&self, digest: Digest, bytes: &[u8]) -> Result<bool> {
        self.below.put(digest, bytes)
    }
    fn content_len(&self, digest: Digest) -> Result<Option<u64>> {
        self.below.content_len(digest)
    }
    fn contents(&self, first: u8) -> Result<Vec<Digest>> {
        self.below.contents(first)
    }
    fn sync_contents(&self, first: u8) -> Result<()> {
        self.below.sync_contents(first)
    }
    fn content_tables(&self) -> Result<Vec<Object>> {
        self.below.content_tables()
    }
    fn create_record(&self, key: RecordKey, bytes: &[u8]) -> Result<()> {
        self.below.create_record(key, bytes)
    }
    fn create_named(&self, batch: &[(VolumeId, String, Vec<u8>)]) -> Result<()> {
        self.pass(Call::CreateNamed);
        self.below.create_named(batch)
    }
    fn read_record(&self, key: RecordKey) -> Result<Record> {
        self.below.read_record(key)
    }
    fn commit_record(&self, key: RecordKey, expected: u64, bytes: &[u8]) -> Result<u64> {
        self.below.commit_record(key, expected, bytes)
    }
    fn settle_record(&self, key: RecordKey, version: u64) -> Result<()> {
        self.below.settle_record(key, version)
    }
    fn trash_header(&self, volume: VolumeId) -> Result<()> {
        self.below.trash_header(volume)
    }
    fn remove_record(&self, key: RecordKey) -> Result<()> {
        self.below.remove_record(key)
    }
    fn headers(&self) -> Result<Vec<VolumeId>> {
        self.below.headers()
    }
    fn trashed(&self) -> Result<Vec<VolumeId>> {
        self.below.trashed()
    }
    fn bind_name(&self, name: &str, volume: VolumeId) -> Result<()> {
        self.below.bind_name(name, volume)
    }
    fn unbind_name(&self, name: &str) -> Result<()> {
        self.below.unbind_name(name)
    }
    fn lookup(&self, name: &str) -> Result<Option<VolumeId>> {
        self.below.lookup(name)
    }
    fn names(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        self.below.names(prefix, after, limit)
    }
    fn lock(&self, volume: VolumeId, mode: LockMode, owner: &[u8]) -> Result<LockOutcome> {
        self.below.lock(volume, mode, owner)
    }
    fn lock_holder(&self, volume: VolumeId) -> Result<Option<Vec<u8>>> {
        self.pass(Call::LookAtLock);
        self.below.lock_holder(volume)
    }
    fn mend(&self) -> Option<&dyn Mend> {
        self.below.mend()
    }
    fn boot(&self) -> Boot {
        self.below.boot()
    }
    fn space(&self) -> Result<Space> {
        self.below.space()
    }
}

/// Several processes on one disk: one that users work in, through a gate, and one that collects.
struct Site {
    disk: Arc<dyn Blocker>,
    neighbours: Arc<Neighbours>,
    user: Store,
    collector: Store,
    keeper: Keeper,
}

fn site(at: Call) -> Site {
    let disk: Arc<dyn Blocker> = MemoryBlocker::new();
    Store::init_on(disk.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let neighbours = Neighbours::new();
    let keeper = gate(&disk, at);
    let open = |blocker: Arc<dyn Blocker>, seed| {
        Store::open_among(blocker, StoreOptions { seed: Some(seed), ..options() }, &neighbours).unwrap()
    };
    let (user, collector) = (open(keeper.gate.clone(), 1), open(disk.clone(), 2));
    Site { disk, neighbours, user, collector, keeper }
}

fn run(store: &Store, planted: Planted, progress: &mut dyn FnMut(CollectPhase)) -> Result<CollectReport> {
    store.collect_with_planted_bug(&CollectOptions::default(), planted, &mut |p| {
        progress(p.phase);
        true
    })
}

/// A snapshot of a few blocks, with the volume it was taken of gone.
fn lone_snapshot(store: &Store) -> Vec<u8> {
    store.create("disk-1", &CreateOptions { size: 4 * BLOCK, block_size: None }).unwrap();
    let volume = store.open_volume("disk-1", Mode::ReadWrite).unwrap();
    fill(&volume, 5, 0, 3 * BLOCK + 4096);
    store.snapshot("disk-1", "snap-1").unwrap();
    let bytes = read_all(&volume);
    volume.close().unwrap();
    store.remove("disk-1").unwrap();
    bytes
}

/// Whether a volume reads as it should.
fn reads(store: &Store, name: &str, expect: &[u8]) -> bool {
    let check = || -> Result<bool> {
        let volume = store.open_volume(name, Mode::ReadOnly)?;
        let mut bytes = vec![0; expect.len()];
        volume.read_at(&mut bytes, 0)?;
        Ok(bytes == expect)
    };
    check().unwrap_or(false)
}

/// A reader has a snapshot open that is removed and collected by another process. Whether it still reads it.
fn reader_of_a_removed_snapshot(planted: Planted) -> bool {
    let site = site(Call::CreateNamed);
    let expect = lone_snapshot(&site.user);
    let reader = site.user.open_volume("snap-1", Mode::ReadOnly).unwrap();
    site.collector.remove("snap-1").unwrap();
    let report = run(&site.collector, planted, &mut |_| {}).unwrap();
    let mut bytes = vec![0; expect.len()];
    let whole = reader.read_at(&mut bytes, 0).is_ok() && bytes == expect;
    if whole {
        assert_eq!(report.pinned, 1);
        reader.close().unwrap();
        drop(reader);
        let report = run(&site.collector, planted, &mut |_| {}).unwrap();
        assert_eq!((report.pinned, report.trash), (0, 1));
        assert_eq!(everything(&site.disk), Vec::new());
    }
    whole
}

#[test]
fn a_reader_keeps_a_removed_snapshot_until_it_closes() {
    assert!(reader_of_a_removed_snapshot(Planted::default()));
}

#[test]
fn a_collection_that_ignores_readers_is_noticed() {
    assert!(!reader_of_a_removed_snapshot(Planted { no_pins: true, ..Planted::default() }));
}

/// A clone of a snapshot is being made when the snapshot is removed and collected. Whether the clone is whole.
fn clone_of_a_removed_snapshot(planted: Planted) -> bool {
    let site = site(Call::CreateNamed);
    let expect = lone_snapshot(&site.user);
    site.keeper.gate.armed.store(true, Ordering::SeqCst);
    let maker = {
        let user = site.user.clone();
        thread::spawn(move || user.clone_snapshot("snap-1", "clone-1", &CloneOptions::default()).unwrap())
    };
    site.keeper.arrived.recv().unwrap();
    site.collector.remove("snap-1").unwrap();
    let mut waiting = false;
    run(&site.collector, planted, &mut |phase| {
        if phase == CollectPhase::Wait && !waiting && !planted.no_waiting {
            waiting = true;
            site.keeper.go.send(()).unwrap();
        }
    })
    .unwrap();
    if !waiting {
        site.keeper.go.send(()).unwrap();
    }
    maker.join().unwrap();
    reads(&site.collector, "clone-1", &expect)
}

#[test]
fn a_clone_in_the_making_keeps_what_its_snapshot_had() {
    assert!(clone_of_a_removed_snapshot(Planted::default()));
}

#[test]
fn a_collection_that_does_not_wait_is_noticed() {
    assert!(!clone_of_a_removed_snapshot(Planted { no_waiting: true, ..Planted::default() }));
}

/// A clone is begun after the first question to all, of a snapshot that is folded before it is marked: nothing but the
/// clone, which is not there yet, names the snapshot's old tree. Whether the clone is whole.
fn clone_of_a_folded_snapshot(planted: Planted) -> bool {
    let site = site(Call::CreateNamed);
    let user = &site.user;
    user.create("disk-1", &CreateOptions { size: 1000 * BLOCK, block_size: None }).unwrap();
    let volume = user.open_volume("disk-1", Mode::ReadWrite).unwrap();
    for block in 0..1000 {
        fill(&volume, block, block * BLOCK, 4096);
    }
    // A tree of several nodes, more than a page of them, then changes that are in the journal only.
    volume.checkpoint().unwrap();
    for block in 0..1000 {
        fill(&volume, 1000 + block, block * BLOCK + 8192, 4096);
    }
    let expect = read_all(&volume);
    user.snapshot("disk-1", "snap-1").unwrap();
    let mut maker = None;
    let mut went = false;
    run(&site.collector, planted, &mut |phase| match (phase, &maker) {
        (CollectPhase::Mark, None) => {
            site.keeper.gate.armed.store(true, Ordering::SeqCst);
            let user = user.clone();
            let make = move || user.clone_snapshot("snap-1", "clone-1", &CloneOptions::default()).unwrap();
            maker = Some(thread::spawn(make));
            site.keeper.arrived.recv().unwrap();
            // Folds the snapshot and the volume: both have a new tree now.
            volume.checkpoint().unwrap();
        }
        (CollectPhase::Wait, Some(_)) if !went => {
            went = true;
            site.keeper.go.send(()).unwrap();
        }
        _ => {}
    })
    .unwrap();
    maker.unwrap().join().unwrap();
    // Not by the process that made it, which has the nodes in its cache.
    reads(&site.collector, "clone-1", &expect) && reads(&site.collector, "snap-1", &expect)
}

#[test]
fn a_clone_of_what_is_folded_meanwhile_is_whole() {
    assert!(clone_of_a_folded_snapshot(Planted::default()));
}

#[test]
fn a_collection_that_looks_only_once_is_noticed() {
    assert!(!clone_of_a_folded_snapshot(Planted { no_second_look: true, ..Planted::default() }));
}

/// A read has looked up where its bytes are, and they are overwritten, folded and collected before it reads them.
fn read_in_flight(planted: Planted) -> bool {
    let site = site(Call::ReadData);
    let user = &site.user;
    user.create("disk-1", &CreateOptions { size: 4 * BLOCK, block_size: None }).unwrap();
    let volume = user.open_volume("disk-1", Mode::ReadWrite).unwrap();
    fill(&volume, 1, 0, 2 * BLOCK);
    let before = read_all(&volume);
    user.snapshot("disk-1", "snap-1").unwrap();
    user.remove("snap-1").unwrap();
    site.keeper.gate.armed.store(true, Ordering::SeqCst);
    let reader = {
        let volume = volume.clone();
        thread::spawn(move || {
            let mut bytes = vec![0; 2 * BLOCK as usize];
            volume.read_at(&mut bytes, 0).map(|()| bytes)
        })
    };
    site.keeper.arrived.recv().unwrap();
    fill(&volume, 2, 0, 2 * BLOCK);
    volume.checkpoint().unwrap();
    let mut went = false;
    run(&site.collector, planted, &mut |phase| {
        if phase == CollectPhase::Wait && !went && !planted.no_waiting {
            went = true;
            site.keeper.go.send(()).unwrap();
        }
    })
    .unwrap();
    if !went {
        site.keeper.go.send(()).unwrap();
    }
    reader.join().unwrap().is_ok_and(|bytes| bytes[..] == before[..bytes.len()])
}

#[test]
fn a_read_in_flight_gets_its_bytes() {
    assert!(read_in_flight(Planted::default()));
    assert!(!read_in_flight(Planted { no_waiting: true, ..Planted::default() }));
}

#[test]
fn while_a_process_does_not_answer_nothing_is_collected_and_it_is_named() {
    let site = site(Call::CreateNamed);
    lone_snapshot(&site.user);
    let before = everything(&site.disk);
    let process = site.user.process().unwrap().to_string();
    site.neighbours.pause(&process);
    match run(&site.collector, Planted::default(), &mut |_| {}) {
        Err(error @ Error::Timeout(_)) => assert!(error.to_string().contains("pid 1"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(everything(&site.disk), before);
    site.neighbours.resume(&process);
    assert!(run(&site.collector, Planted::default(), &mut |_| {}).unwrap().trash > 0);
}

#[test]
fn a_dead_process_is_not_waited_for_and_pins_nothing() {
    let site = site(Call::CreateNamed);
    lone_snapshot(&site.user);
    let _reader = site.user.open_volume("snap-1", Mode::ReadOnly).unwrap();
    site.collector.remove("snap-1").unwrap();
    site.neighbours.kill(site.user.process().unwrap());
    let report = run(&site.collector, Planted::default(), &mut |_| {}).unwrap();
    assert_eq!(report.pinned, 0);
    assert_eq!(everything(&site.disk), Vec::new());
}

#[test]
fn a_simulated_process_does_for_another_what_an_owner_does() {
    let site = site(Call::CreateNamed);
    site.user.create("disk-1", &CreateOptions { size: 4 * BLOCK, block_size: None }).unwrap();
    let volume = site.user.open_volume("disk-1", Mode::ReadWrite).unwrap();
    fill(&volume, 1, 0, BLOCK);
    let expect = read_all(&volume);
    site.collector.snapshot("disk-1", "snap-1").unwrap();
    assert!(reads(&site.collector, "snap-1", &expect));
    let processes = site.collector.status().unwrap().processes;
    assert_eq!(processes.len(), 2);
    assert!(processes.iter().any(|p| p.volumes == ["disk-1"]));
}

/// Two processes on one disk: one that looks at it through a gate, and one that users work in.
fn gated_reader(disk: &Arc<dyn Blocker>, at: Call) -> (Store, Store, Keeper) {
    let (neighbours, keeper) = (Neighbours::new(), gate(disk, at));
    let open = |blocker: Arc<dyn Blocker>, seed| {
        Store::open_among(blocker, StoreOptions { seed: Some(seed), ..options() }, &neighbours).unwrap()
    };
    (open(keeper.gate.clone(), 1), open(disk.clone(), 2), keeper)
}

#[test]
fn a_check_goes_on_when_a_map_is_removed_while_it_is_looked_at() {
    let disk = SimDisk::new();
    let files = FileBlocker::new(disk, FileOptions::default());
    files.make_layout().unwrap();
    let disk: Arc<dyn Blocker> = Arc::new(files);
    Store::init_on(disk.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let (checker, user, keeper) = gated_reader(&disk, Call::LookAtLock);
    user.create("disk-1", &CreateOptions { size: BLOCK, block_size: None }).unwrap();
    keeper.gate.armed.store(true, Ordering::SeqCst);
    let report = thread::scope(|scope| {
        let check = scope.spawn(|| checker.check(&CheckOptions::default(), &mut |_| Ok(())));
        keeper.arrived.recv().unwrap();
        user.remove("disk-1").unwrap();
        keeper.go.send(()).unwrap();
        check.join().unwrap().unwrap()
    });
    assert_eq!(report.findings, vec![]);
}

/// A volume whose owner folds its journal, and then overwrites in place what is folded, while another process is about to read the
/// journal from where the header said that it begins.
fn beside_a_fold(read: impl FnOnce(&Store) + Send) {
    let disk: Arc<dyn Blocker> = MemoryBlocker::new();
    Store::init_on(disk.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let (reader, user, keeper) = gated_reader(&disk, Call::ReadData);
    user.create("disk-1", &CreateOptions { size: 4 * BLOCK, block_size: None }).unwrap();
    let volume = user.open_volume("disk-1", Mode::ReadWrite).unwrap();
    fill(&volume, 1, 0, 4096);
    fill(&volume, 2, 8192, 4096);
    volume.flush().unwrap();
    let id = disk.lookup("disk-1").unwrap().unwrap();
    let journal = || {
        let object = Object::Log(id, 0);
        let mut bytes = vec![0; disk.len(object).unwrap().unwrap() as usize];
        disk.read(object, &mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
        bytes
    };
    keeper.gate.armed.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let reading = scope.spawn(|| read(&reader));
        keeper.arrived.recv().unwrap();
        volume.checkpoint().unwrap();
        let before = journal();
        fill(&volume, 3, 0, 4096);
        assert_ne!(journal()[1024..5120], before[1024..5120], "it is overwritten in place");
        keeper.go.send(()).unwrap();
        reading.join().unwrap();
    });
}

#[test]
fn a_collection_marks_a_journal_that_is_folded_and_overwritten_meanwhile() {
    beside_a_fold(|store| assert_eq!(run(store, Planted::default(), &mut |_| {}).unwrap().maps, 1));
}

#[test]
fn a_scrub_walks_a_journal_that_is_folded_and_overwritten_meanwhile() {
    beside_a_fold(|store| {
        let report = store.scrub(&ScrubOptions::default(), &mut |_| true).unwrap();
        assert_eq!(report.unreadable, Vec::<String>::new());
    });
}

#[test]
fn the_figures_of_a_volume_that_comes_into_use_meanwhile_are_those_of_its_header() {
    let disk: Arc<dyn Blocker> = MemoryBlocker::new();
    Store::init_on(disk.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let (reader, user, keeper) = gated_reader(&disk, Call::ReadData);
    user.create("disk-1", &CreateOptions { size: 4 * BLOCK, block_size: None }).unwrap();
    let volume = user.open_volume("disk-1", Mode::ReadWrite).unwrap();
    fill(&volume, 1, 0, 4096);
    volume.close().unwrap();
    keeper.gate.armed.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let reading = scope.spawn(|| reader.usage("disk-1").unwrap());
        keeper.arrived.recv().unwrap();
        let volume = user.open_volume("disk-1", Mode::ReadWrite).unwrap();
        fill(&volume, 2, 8192, 4096);
        volume.checkpoint().unwrap();
        fill(&volume, 3, 8192, 4096);
        keeper.go.send(()).unwrap();
        assert_eq!(reading.join().unwrap().mapped, 8192);
    });
}
