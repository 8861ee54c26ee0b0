//! Power cuts after every step of random calls to a backend: what was acknowledged is there, what was in flight is old
//! or new, and what is found is never an error.
//!
//! Each run is a number; a failure prints it, with the step and the seed of the cut. `ARCHIPELAGO_RUNS` sets how many are made.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use archipelago_core::Error;
use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::sim::{Crashable, Random, SimDisk, Syncs};
use archipelago_core::blocker::{Blocker, Object, RecordKey, VolumeId};
use archipelago_core::limits::{DATA_PART, MAX_RECORD};

type Checked = Result<(), String>;
/// Makes a backend over a disk; a file backend makes its directories on an empty one.
type Mount<D> = fn(&Arc<D>) -> Arc<dyn Blocker>;

fn mount_memory(disk: &Arc<MemoryBlocker>) -> Arc<dyn Blocker> {
    disk.clone()
}

fn mount_file(disk: &Arc<SimDisk>) -> Arc<dyn Blocker> {
    let blocker = FileBlocker::new(disk.clone(), FileOptions::default());
    blocker.make_layout().expect("the layout can be made");
    Arc::new(blocker)
}

fn runs(default: u64) -> std::ops::Range<u64> {
    let count = std::env::var("ARCHIPELAGO_RUNS").ok().and_then(|text| text.parse().ok());
    0..count.unwrap_or(default)
}

fn ensure(holds: bool, text: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(text()) }
}

/// One call, the steps that it took, and what was acknowledged before it.
struct Call<M, C> {
    from: u64,
    to: u64,
    before: M,
    call: C,
}

/// Cuts and kills after every step and lets `check` look at what is left, with the acknowledged state and the call in flight.
fn sweep<D: Crashable, M, C: std::fmt::Debug>(
    run: u64,
    (disk, mount): (&Arc<D>, Mount<D>),
    (calls, last): (&[Call<M, C>], &M),
    mut check: impl FnMut(&Arc<D>, &dyn Blocker, &M, Option<&C>) -> Checked,
) -> Checked {
    let mut index = 0;
    // The steps before the first call made the layout.
    for step in calls.first().map_or(0, |call| call.from)..=disk.steps() {
        while index < calls.len() && calls[index].to <= step {
            index += 1;
        }
        let call = calls.get(index);
        let flying = call.filter(|call| call.from < step).map(|call| &call.call);
        let acknowledged = call.map_or(last, |call| &call.before);
        for seed in [0, 1, 2 + step * 2, 3 + step * 2] {
            let left = disk.crash_at(step, seed);
            check(&left, &*mount(&left), acknowledged, flying)
                .map_err(|text| format!("run {run}, step {step}, seed {seed}: {text}; in flight {flying:?}"))?;
        }
        let left = disk.kill_at(step);
        check(&left, &*mount(&left), acknowledged, flying)
            .map_err(|text| format!("run {run}, killed at step {step}: {text}; in flight {flying:?}"))?;
    }
    Ok(())
}

// --- records and names ---

type Value = (u64, Vec<u8>);

#[derive(Clone, Default)]
struct Catalogue {
    headers: BTreeMap<VolumeId, Value>,
    trash: BTreeMap<VolumeId, Value>,
    names: BTreeMap<String, VolumeId>,
}

#[derive(Debug)]
enum RecordCall {
    Create(Vec<(VolumeId, String, Vec<u8>)>),
    CreateRecord(VolumeId, Vec<u8>),
    Commit(VolumeId, u64, Vec<u8>),
    Bind(String, VolumeId),
    Unbind(String),
    Trash(VolumeId),
}

fn payload(random: &mut Random) -> Vec<u8> {
    // Short ones, which leave most of a slot as it was, are as interesting as long ones.
    let len = if random.one_in(2) { random.below(40) } else { random.below(MAX_RECORD as u64 + 1) };
    (0..len).map(|_| random.next_u64() as u8).collect()
}

fn pick<T: Clone>(random: &mut Random, mut from: impl ExactSizeIterator<Item = T>) -> Option<T> {
    let index = random.below(from.len() as u64) as usize;
    from.nth(index)
}

fn random_call(random: &mut Random, model: &Catalogue) -> Option<RecordCall> {
    let header = pick(random, model.headers.keys().copied());
    Some(match random.below(12) {
        0..=2 => {
            // More than a handful takes another way in the file backend; every fourth batch meets a name that is taken.
            let count = if random.one_in(2) { 1 } else { 2 + random.below(6) };
            let mut batch: Vec<_> = (0..count)
                .map(|_| {
                    let id = VolumeId(random.next_u64() | 1);
                    (id, format!("volume-{id}"), payload(random))
                })
                .collect();
            if random.one_in(4)
                && let (Some(taken), Some(last)) = (pick(random, model.names.keys().cloned()), batch.last_mut())
            {
                last.1 = taken;
            }
            RecordCall::Create(batch)
        }
        3 => RecordCall::CreateRecord(VolumeId(random.next_u64() | 1), payload(random)),
        4..=7 => {
            let (volume, (version, _)) = pick(random, model.headers.iter())?;
            RecordCall::Commit(*volume, *version, payload(random))
        }
        8 | 9 => RecordCall::Bind(format!("name-{:02}", random.below(20)), header?),
        10 => RecordCall::Unbind(pick(random, model.names.keys().cloned())?),
        _ => RecordCall::Trash(header?),
    })
}

/// Makes the call, and notes what it acknowledged.
fn perform(blocker: &dyn Blocker, model: &mut Catalogue, call: &RecordCall) -> Checked {
    let unexpected = |error: Error| format!("{call:?}: {error}");
    match call {
        RecordCall::Create(batch) => {
            let taken = batch.iter().any(|(_, name, _)| model.names.contains_key(name));
            match blocker.create_named(batch) {
                Err(Error::Exists(_)) if taken => return Ok(()),
                other => other.map_err(unexpected)?,
            }
            ensure(!taken, || format!("{call:?}: a taken name was given again"))?;
            for (volume, name, bytes) in batch {
                model.headers.insert(*volume, (1, bytes.clone()));
                model.names.insert(name.clone(), *volume);
            }
        }
        RecordCall::CreateRecord(volume, bytes) => {
            blocker.create_record(RecordKey::Header(*volume), bytes).map_err(unexpected)?;
            model.headers.insert(*volume, (1, bytes.clone()));
        }
        RecordCall::Commit(volume, expected, bytes) => {
            let version = blocker.commit_record(RecordKey::Header(*volume), *expected, bytes).map_err(unexpected)?;
            model.headers.insert(*volume, (version, bytes.clone()));
        }
        RecordCall::Bind(name, volume) => match blocker.bind_name(name, *volume) {
            Err(Error::Exists(_)) if model.names.contains_key(name) => {}
            other => {
                other.map_err(unexpected)?;
                model.names.insert(name.clone(), *volume);
            }
        },
        RecordCall::Unbind(name) => {
            blocker.unbind_name(name).map_err(unexpected)?;
            model.names.remove(name);
        }
        RecordCall::Trash(volume) => {
            blocker.trash_header(*volume).map_err(unexpected)?;
            if let Some(value) = model.headers.remove(volume) {
                model.trash.insert(*volume, value);
            }
        }
    }
    Ok(())
}

/// What may be read of a header: the acknowledged value, and the one in flight.
fn allowed(model: &Catalogue, flying: Option<&RecordCall>, volume: VolumeId) -> Vec<Value> {
    let mut values: Vec<Value> = model.headers.get(&volume).or(model.trash.get(&volume)).cloned().into_iter().collect();
    match flying {
        Some(RecordCall::Commit(v, expected, bytes)) if *v == volume => values.push((expected + 1, bytes.clone())),
        Some(RecordCall::CreateRecord(v, bytes)) if *v == volume => values.push((1, bytes.clone())),
        Some(RecordCall::Create(batch)) => {
            values.extend(batch.iter().filter(|(v, ..)| *v == volume).map(|(_, _, bytes)| (1, bytes.clone())));
        }
        _ => {}
    }
    values
}

fn check_catalogue(blocker: &dyn Blocker, model: &Catalogue, flying: Option<&RecordCall>) -> Checked {
    let text = |error: Error| error.to_string();
    let headers: BTreeSet<VolumeId> = blocker.headers().map_err(text)?.into_iter().collect();
    let trashed: BTreeSet<VolumeId> = blocker.trashed().map_err(text)?.into_iter().collect();
    let reads_well = |key: RecordKey, volume: VolumeId| -> Checked {
        let record = blocker.read_record(key).map_err(|error| format!("{key}: {error}"))?;
        let right = allowed(model, flying, volume).contains(&(record.version, record.bytes.clone()));
        ensure(right, || format!("{key}: version {} is neither acknowledged nor in flight", record.version))
    };
    for volume in model.headers.keys() {
        if matches!(flying, Some(RecordCall::Trash(v)) if v == volume) {
            let (here, there) = (headers.contains(volume), trashed.contains(volume));
            ensure(here || there, || format!("{volume} is neither in the catalogue nor in the trash"))?;
            if there {
                reads_well(RecordKey::Trash(*volume), *volume)?;
            }
            if !here {
                continue;
            }
        }
        reads_well(RecordKey::Header(*volume), *volume)?;
    }
    for volume in model.trash.keys() {
        ensure(!headers.contains(volume), || format!("{volume} came back from the trash"))?;
        reads_well(RecordKey::Trash(*volume), *volume)?;
    }
    for volume in headers.iter().chain(&trashed) {
        let known = !allowed(model, flying, *volume).is_empty();
        ensure(known || was_taken_back(flying, *volume), || format!("{volume} was never made"))?;
    }
    let names = blocker.names("", None, usize::MAX).map_err(text)?;
    for name in &names {
        let volume = blocker.lookup(name).map_err(|error| format!("{name}: {error}"))?;
        let volume = volume.ok_or_else(|| format!("{name}: is listed and leads nowhere"))?;
        let flying_name = match flying {
            Some(RecordCall::Create(batch)) => batch.iter().any(|(v, n, _)| (v, n) == (&volume, name)),
            Some(RecordCall::Bind(n, v)) => (v, n) == (&volume, name),
            _ => false,
        };
        let bound = model.names.get(name) == Some(&volume);
        ensure(bound || flying_name, || format!("{name} leads to {volume}, to which nobody bound it"))?;
        if headers.contains(&volume) {
            reads_well(RecordKey::Header(volume), volume)?;
        } else {
            ensure(trashed.contains(&volume), || format!("{name} leads to {volume}, which has no header"))?;
        }
    }
    for name in model.names.keys() {
        let leaving = matches!(flying, Some(RecordCall::Unbind(n)) if n == name);
        ensure(leaving || names.contains(name), || format!("{name} was acknowledged and is gone"))?;
    }
    Ok(())
}

/// A header of a batch in flight, whatever becomes of the batch.
fn was_taken_back(flying: Option<&RecordCall>, volume: VolumeId) -> bool {
    matches!(flying, Some(RecordCall::Create(batch)) if batch.iter().any(|(v, ..)| *v == volume))
}

/// The next process goes on: it commits a record twice and binds a name, and a cut at any moment of that leaves the record as it was
/// acknowledged or as it was found, never an error, and what is acknowledged now is there.
fn check_goes_on<D: Crashable>(
    left: &Arc<D>,
    mount: Mount<D>,
    model: &Catalogue,
    flying: Option<&RecordCall>,
) -> Checked {
    let text = |error: Error| format!("going on: {error}");
    let Some(volume) = model.headers.keys().next_back().copied() else { return Ok(()) };
    let key = RecordKey::Header(volume);
    let blocker = mount(left);
    let found = match blocker.read_record(key) {
        // The trash took it.
        Err(Error::NotFound(_)) => return Ok(()),
        other => other.map_err(text)?,
    };
    let mut values: Vec<Vec<u8>> = allowed(model, flying, volume).into_iter().map(|(_, bytes)| bytes).collect();
    let mut acknowledged = left.steps();
    for (version, bytes) in (found.version..).zip([b"after".as_slice(), b"again"]) {
        blocker.commit_record(key, version, bytes).map_err(text)?;
        values.push(bytes.to_vec());
        for step in acknowledged..=left.steps() {
            for seed in [0, 1, step + 2] {
                let record = mount(&left.crash_at(step, seed)).read_record(key).map_err(text)?;
                let right = values.contains(&record.bytes) && (step < left.steps() || record.bytes == bytes);
                ensure(right, || format!("going on: {key} is at version {} after step {step}", record.version))?;
            }
        }
        acknowledged = left.steps();
        values = vec![bytes.to_vec()];
    }
    blocker.bind_name("going-on", volume).map_err(text)?;
    let after = mount(&left.crash_at(left.steps(), 0)).lookup("going-on").map_err(text)?;
    ensure(after == Some(volume), || "going on: a name was lost".to_string())
}

fn records_run<D: Crashable>(run: u64, disk: &Arc<D>, mount: Mount<D>, syncs: Syncs) -> Checked {
    let mut blocker = mount(disk);
    disk.drop_syncs(syncs);
    let mut random = Random::new(run);
    let mut model = Catalogue::default();
    let mut calls = Vec::new();
    for _ in 0..25 {
        let Some(call) = random_call(&mut random, &model) else { continue };
        if random.one_in(8) {
            blocker = mount(disk);
        }
        let (from, before) = (disk.steps(), model.clone());
        perform(&*blocker, &mut model, &call)?;
        calls.push(Call { from, to: disk.steps(), before, call });
    }
    sweep(run, (disk, mount), (&calls, &model), |left, blocker, model, flying| {
        check_catalogue(blocker, model, flying)?;
        check_goes_on(left, mount, model, flying)
    })
}

#[test]
fn records_and_names_of_the_memory_backend_survive_a_cut_at_every_step() {
    for run in runs(16) {
        records_run(run, &MemoryBlocker::new(), mount_memory, Syncs::None).unwrap();
    }
}

#[test]
fn records_and_names_of_the_file_backend_survive_a_cut_at_every_step() {
    for run in runs(16) {
        records_run(run, &SimDisk::new(), mount_file, Syncs::None).unwrap();
    }
}

#[test]
fn record_syncs_that_do_nothing_are_found() {
    for syncs in [Syncs::Files, Syncs::Directories, Syncs::All] {
        assert!((0..5).any(|run| records_run(run, &MemoryBlocker::new(), mount_memory, syncs).is_err()), "{syncs:?}");
        assert!((0..5).any(|run| records_run(run, &SimDisk::new(), mount_file, syncs).is_err()), "{syncs:?}");
    }
}

/// The same calls again and again, each time with another step that fails: what was acknowledged before stays, whatever the call that
/// failed has done, and the next process can go on.
fn failures_run<D: Crashable>(run: u64, make: fn() -> Arc<D>, mount: Mount<D>) -> Checked {
    for plan in 1.. {
        let disk = make();
        let blocker = mount(&disk);
        let planned = disk.steps() + plan;
        disk.fail_at(planned, libc::EIO);
        let mut random = Random::new(run);
        let mut model = Catalogue::default();
        let mut failed = None;
        for _ in 0..15 {
            let Some(call) = random_call(&mut random, &model) else { continue };
            let result = perform(&*blocker, &mut model, &call);
            if disk.steps() >= planned {
                // A batch that meets a taken name may fail to take all of it back, which it does not report.
                failed = Some(call);
                break;
            }
            result?;
        }
        // The plan is past the last step: all have been tried.
        let Some(flying) = failed else { break };
        let flying = Some(&flying);
        let context = |text| format!("run {run}, step {planned} failed: {text}; in {flying:?}");
        check_catalogue(&*blocker, &model, flying).map_err(context)?;
        for seed in [0, 1, 2 + plan] {
            let left = disk.crash_at(disk.steps(), seed);
            check_catalogue(&*mount(&left), &model, flying).map_err(context)?;
            check_goes_on(&left, mount, &model, flying).map_err(context)?;
        }
        let left = disk.kill_at(disk.steps());
        check_goes_on(&left, mount, &model, flying).map_err(context)?;
    }
    Ok(())
}

#[test]
fn a_failure_of_the_memory_backend_takes_nothing_from_what_was_acknowledged() {
    for run in runs(16) {
        failures_run(run, MemoryBlocker::new, mount_memory).unwrap();
    }
}

#[test]
fn a_failure_of_the_file_backend_takes_nothing_from_what_was_acknowledged() {
    for run in runs(16) {
        failures_run(run, SimDisk::new, mount_file).unwrap();
    }
}

// --- objects ---

const ATOM: u64 = 512;
/// Atoms of each object that are written; the data object's lie on both sides of a part's border.
const ATOMS: u64 = 16;
const VOLUME: VolumeId = VolumeId(0x5151);
const OBJECTS: [Object; 4] =
    [Object::Data(VOLUME, 1), Object::Data(VOLUME, 2), Object::Log(VOLUME, 1), Object::Pack(VOLUME, 1)];

fn base(object: Object) -> u64 {
    if matches!(object, Object::Data(_, 1)) { DATA_PART - ATOMS / 2 * ATOM } else { 0 }
}

/// For each atom the values that may be read: the durable one and those written since.
type Atoms = Vec<BTreeSet<u8>>;

#[derive(Debug, Clone)]
enum ObjectCall {
    Create(Object),
    Write(Object, u64, u64, u8),
    Punch(Object, u64, u64),
    Sync(Vec<Object>),
    Remove(Object),
}

#[derive(Clone, Default)]
struct Shelf {
    objects: BTreeMap<Object, Atoms>,
    /// The values that are read now.
    now: BTreeMap<Object, Vec<u8>>,
    /// Objects of which a sync was acknowledged, or that are durable from their creation.
    durable: BTreeSet<Object>,
}

impl Shelf {
    fn write(&mut self, object: Object, first: u64, count: u64, value: u8) {
        let atoms = self.objects.entry(object).or_insert_with(|| vec![BTreeSet::from([0]); ATOMS as usize]);
        let now = self.now.entry(object).or_insert_with(|| vec![0; ATOMS as usize]);
        for atom in first..first + count {
            atoms[atom as usize].insert(value);
            now[atom as usize] = value;
        }
    }

    fn note(&mut self, call: &ObjectCall) {
        match call {
            ObjectCall::Create(object) => {
                self.write(*object, 0, 0, 0);
                self.durable.insert(*object);
            }
            ObjectCall::Write(object, first, count, value) => self.write(*object, *first, *count, *value),
            ObjectCall::Punch(object, first, count) => {
                if self.objects.contains_key(object) {
                    self.write(*object, *first, *count, 0);
                }
            }
            ObjectCall::Sync(objects) => {
                for object in objects {
                    if let (Some(atoms), Some(now)) = (self.objects.get_mut(object), self.now.get(object)) {
                        *atoms = now.iter().map(|value| BTreeSet::from([*value])).collect();
                        self.durable.insert(*object);
                    }
                }
            }
            ObjectCall::Remove(object) => {
                self.objects.remove(object);
                self.now.remove(object);
                self.durable.remove(object);
            }
        }
    }
}

fn random_object_call(random: &mut Random, shelf: &Shelf, value: u8) -> ObjectCall {
    let object = OBJECTS[random.below(4) as usize];
    let first = random.below(ATOMS);
    let count = 1 + random.below(ATOMS - first);
    let data = matches!(object, Object::Data(..));
    match random.below(10) {
        _ if !data && !shelf.objects.contains_key(&object) => ObjectCall::Create(object),
        0..=4 => ObjectCall::Write(object, first, count, value),
        5 => ObjectCall::Punch(object, first, count),
        6..=8 => ObjectCall::Sync(OBJECTS.into_iter().filter(|_| random.one_in(2)).collect()),
        _ => ObjectCall::Remove(object),
    }
}

fn perform_object(blocker: &dyn Blocker, call: &ObjectCall) -> Result<(), Error> {
    match call {
        ObjectCall::Create(object) => blocker.create(*object, &[], ATOMS * ATOM),
        ObjectCall::Write(object, first, count, value) => {
            let bytes = vec![*value; (count * ATOM) as usize];
            // In two pieces that do not end at an atom.
            let (a, b) = bytes.split_at(bytes.len() / 3);
            blocker.write(*object, &[IoSlice::new(a), IoSlice::new(b)], base(*object) + first * ATOM)
        }
        ObjectCall::Punch(object, first, count) => blocker.punch(*object, base(*object) + first * ATOM, count * ATOM),
        ObjectCall::Sync(objects) => blocker.sync(objects),
        ObjectCall::Remove(object) => blocker.remove(*object),
    }
}

/// Bytes of an object, as far as they are there: where a cut left data shorter than it was written, zeros stand for what
/// nobody was promised.
fn read_atoms(blocker: &dyn Blocker, object: Object, len: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0xEE; len as usize];
    for (atom, part) in bytes.chunks_mut(ATOM as usize).enumerate() {
        let read = blocker.read(object, &mut [IoSliceMut::new(part)], base(object) + atom as u64 * ATOM);
        match read {
            Err(Error::Damaged { .. }) if matches!(object, Object::Data(..)) => part.fill(0),
            other => other?,
        }
    }
    Ok(bytes)
}

fn check_objects(blocker: &dyn Blocker, shelf: &Shelf, flying: Option<&ObjectCall>) -> Checked {
    let listed = blocker.objects(VOLUME).map_err(|error| error.to_string())?;
    for object in OBJECTS {
        let exists = listed.contains(&object);
        let leaving = matches!(flying, Some(ObjectCall::Remove(o)) if *o == object);
        ensure(exists || leaving || !shelf.durable.contains(&object), || format!("{object} is gone"))?;
        let coming = matches!(flying, Some(ObjectCall::Create(o) | ObjectCall::Write(o, ..)) if *o == object);
        ensure(!exists || coming || shelf.objects.contains_key(&object), || format!("{object} came back"))?;
        // A creation in flight promises nothing yet, and a removal in flight takes an object of parts part by part.
        if (coming && !shelf.objects.contains_key(&object)) || leaving || !exists {
            continue;
        }
        let mut after = shelf.clone();
        if let Some(call) = flying.filter(|call| !matches!(call, ObjectCall::Sync(_))) {
            after.note(call);
        }
        let bytes = read_atoms(blocker, object, ATOMS * ATOM).map_err(|error| format!("{object}: {error}"))?;
        let none = Atoms::new();
        let allowed = after.objects.get(&object).unwrap_or(&none);
        for (atom, (found, allowed)) in bytes.chunks(ATOM as usize).zip(allowed).enumerate() {
            let whole = found.iter().all(|byte| *byte == found[0]) && allowed.contains(&found[0]);
            ensure(whole, || format!("{object}: atom {atom} is {}, not of {allowed:?}", found[0]))?;
        }
    }
    Ok(())
}

/// An object, its length and its bytes.
type Seen = (Object, Option<u64>, Vec<u8>);

/// What the next process reads stays, once it has synced.
fn check_sync_after<D: Crashable>(left: &Arc<D>, mount: Mount<D>, blocker: &dyn Blocker) -> Checked {
    let text = |error: Error| format!("going on: {error}");
    let image = |blocker: &dyn Blocker| -> Result<Vec<Seen>, Error> {
        let mut all = Vec::new();
        for object in blocker.objects(VOLUME)? {
            let len = blocker.len(object)?;
            // A log or pack whose creation was cut short may be of any length.
            let from = if matches!(object, Object::Data(..)) { base(object) } else { 0 };
            let bytes = read_atoms(blocker, object, len.unwrap_or(0).saturating_sub(from).min(ATOMS * ATOM))?;
            all.push((object, len, bytes));
        }
        Ok(all)
    };
    let seen = image(blocker).map_err(text)?;
    blocker.sync(&OBJECTS).map_err(text)?;
    let kept = image(&*mount(&left.crash_at(left.steps(), 0))).map_err(text)?;
    // More may be there than was seen: what somebody was removing when he was killed.
    ensure(seen.iter().all(|object| kept.contains(object)), || "going on: what was synced was lost".to_string())
}

fn objects_run<D: Crashable>(run: u64, disk: &Arc<D>, mount: Mount<D>, syncs: Syncs) -> Checked {
    let mut blocker = mount(disk);
    disk.drop_syncs(syncs);
    let mut random = Random::new(run);
    let mut shelf = Shelf::default();
    let mut calls = Vec::new();
    for value in 1..60 {
        let call = random_object_call(&mut random, &shelf, value);
        if random.one_in(8) {
            // Another process, which has to sync what this one only wrote.
            blocker = mount(disk);
        }
        let (from, before) = (disk.steps(), shelf.clone());
        perform_object(&*blocker, &call).map_err(|error| format!("run {run}: {call:?}: {error}"))?;
        shelf.note(&call);
        calls.push(Call { from, to: disk.steps(), before, call });
    }
    sweep(run, (disk, mount), (&calls, &shelf), |left, blocker, shelf, flying| {
        check_objects(blocker, shelf, flying)?;
        check_sync_after(left, mount, blocker)
    })
}

#[test]
fn objects_of_the_memory_backend_survive_a_cut_at_every_step() {
    for run in runs(16) {
        objects_run(run, &MemoryBlocker::new(), mount_memory, Syncs::None).unwrap();
    }
}

#[test]
fn objects_of_the_file_backend_survive_a_cut_at_every_step() {
    for run in runs(16) {
        objects_run(run, &SimDisk::new(), mount_file, Syncs::None).unwrap();
    }
}

#[test]
fn object_syncs_that_do_nothing_are_found() {
    for syncs in [Syncs::Files, Syncs::Directories, Syncs::All] {
        assert!((0..5).any(|run| objects_run(run, &MemoryBlocker::new(), mount_memory, syncs).is_err()), "{syncs:?}");
        assert!((0..5).any(|run| objects_run(run, &SimDisk::new(), mount_file, syncs).is_err()), "{syncs:?}");
    }
}
