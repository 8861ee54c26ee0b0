use super::*;
use crate::blocker::sim::Random;

const V: VolumeId = VolumeId(7);
const HEADER: RecordKey = RecordKey::Header(V);

fn write(blocker: &MemoryBlocker, object: Object, offset: u64, data: &[u8]) {
    blocker.write(object, &[IoSlice::new(data)], offset).unwrap();
}

/// What is there of a range; zeros stand for what lies behind the end, which a cut may leave anywhere.
fn read(blocker: &MemoryBlocker, object: Object, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xee; len];
    let there = blocker.len(object).unwrap().unwrap_or(0).saturating_sub(offset).min(len as u64) as usize;
    blocker.read(object, &mut [IoSliceMut::new(&mut buf[..there])], offset).unwrap();
    buf[there..].fill(0);
    buf
}

fn batch(range: std::ops::Range<u64>) -> Vec<(VolumeId, String, Vec<u8>)> {
    range.map(|i| (VolumeId(i), format!("volume{i:03}"), vec![i as u8; 10])).collect()
}

#[test]
fn an_unsynced_write_may_vanish_or_tear_at_atoms_and_a_synced_one_never_does() {
    let blocker = MemoryBlocker::new();
    let data = Object::Data(V, 1);
    write(&blocker, data, 1 << 41, &[1; 2048]);
    assert_eq!(blocker.crash_at(1, 0).len(data).unwrap(), None);
    assert_eq!(blocker.crash_at(1, 1).len(data).unwrap(), Some((1 << 41) + 2048));
    blocker.sync(&[data]).unwrap();
    write(&blocker, data, 1 << 41, &[2; 1024]);
    let mut images = BTreeSet::new();
    for seed in 0..200 {
        let found = read(&blocker.crash_at(3, seed), data, 1 << 41, 2048);
        assert!(found[1024..].iter().all(|b| *b == 1), "seed {seed}");
        let atoms: Vec<u8> = found.chunks(512).map(|atom| atom[0]).collect();
        assert!(found.chunks(512).all(|atom| atom.iter().all(|b| *b == atom[0])), "seed {seed}");
        images.insert(atoms);
    }
    assert_eq!(images.len(), 4);
    blocker.sync(&[data]).unwrap();
    assert!((0..200).all(|seed| read(&blocker.crash_at(4, seed), data, 1 << 41, 1024) == [2; 1024]));
}

#[test]
fn a_cut_between_the_syncs_of_one_call_keeps_only_the_first_objects() {
    let blocker = MemoryBlocker::new();
    let (a, b) = (Object::Data(V, 1), Object::Data(V, 2));
    write(&blocker, a, 0, &[1; 512]);
    write(&blocker, b, 0, &[2; 512]);
    blocker.sync(&[a, Object::Data(V, 3), b]).unwrap();
    assert_eq!(blocker.steps(), 4);
    let after = blocker.crash_at(3, 0);
    assert_eq!((after.objects(V).unwrap(), read(&after, b, 0, 2)), (vec![a], vec![0, 0]));
    assert_eq!(blocker.crash_at(4, 0).objects(V).unwrap(), [a, b]);
}

#[test]
fn a_failed_sync_drops_what_it_should_have_written() {
    let blocker = MemoryBlocker::new();
    let log = Object::Log(V, 1);
    blocker.create(log, &[], 1024).unwrap();
    write(&blocker, log, 0, &[1; 512]);
    blocker.fail_at(3, libc::EIO);
    let error = blocker.sync(&[log]).unwrap_err();
    assert_eq!((error.errno(), read(&blocker, log, 0, 1)), (libc::EIO, vec![1]));
    write(&blocker, log, 512, &[2; 512]);
    blocker.sync(&[log]).unwrap();
    assert!((0..50).all(|seed| read(&blocker.crash_at(5, seed), log, 511, 2) == [0, 2]));
}

#[test]
fn an_object_that_is_missing_or_short_is_damaged() {
    let blocker = MemoryBlocker::new();
    let (log, data) = (Object::Log(V, 1), Object::Data(V, 1));
    let mut buf = [9; 8];
    let mut read_log = |offset| blocker.read(log, &mut [IoSliceMut::new(&mut buf)], offset);
    assert!(matches!(read_log(0), Err(Error::Damaged { .. })));
    assert!(matches!(blocker.write(log, &[IoSlice::new(b"x")], 0), Err(Error::Damaged { .. })));
    blocker.create(log, &[], 4096).unwrap();
    assert!(matches!(blocker.create(log, &[], 0), Err(Error::Exists(_))));
    assert!(matches!(read_log(4089), Err(Error::Damaged { .. })));
    assert!(read_log(4088).is_ok());
    let mut three = [9; 3];
    let missing = blocker.read(data, &mut [IoSliceMut::new(&mut three)], 1 << 50);
    assert!(matches!(missing, Err(Error::Damaged { .. })) && blocker.len(data).unwrap().is_none());
    blocker.punch(data, 0, 100).unwrap();
    blocker.remove(data).unwrap();
    assert_eq!((buf, blocker.steps()), ([0; 8], 1));
    assert!(blocker.write(data, &[IoSlice::new(b"x")], u64::MAX).is_err());
}

#[test]
fn records_are_replaced_whole_and_only_at_the_expected_version() {
    let blocker = MemoryBlocker::new();
    blocker.create_record(HEADER, b"one").unwrap();
    assert!(matches!(blocker.create_record(HEADER, b"x"), Err(Error::Exists(_))));
    assert_eq!(blocker.commit_record(HEADER, 1, b"two").unwrap(), 2);
    assert!(matches!(blocker.commit_record(HEADER, 1, b"x"), Err(Error::Stale(_))));
    assert!(matches!(blocker.read_record(RecordKey::Store), Err(Error::NotFound(_))));
    assert!(blocker.commit_record(HEADER, 2, &[0; MAX_RECORD + 1]).is_err());
    for seed in 0..20 {
        let at = |step| blocker.crash_at(step, seed).read_record(HEADER).ok().map(|record| record.bytes);
        assert_eq!((at(0), at(1), at(2)), (None, Some(b"one".to_vec()), Some(b"two".to_vec())));
    }
}

#[test]
fn a_failed_commit_may_come_to_light_after_a_crash() {
    let blocker = MemoryBlocker::new();
    blocker.create_record(HEADER, b"one").unwrap();
    blocker.fail_at(2, libc::EIO);
    assert!(blocker.commit_record(HEADER, 1, b"two").is_err());
    assert_eq!(blocker.read_record(HEADER).unwrap().bytes, b"one");
    let found: BTreeSet<_> = (0..50).map(|seed| blocker.crash_at(2, seed).read_record(HEADER).unwrap().bytes).collect();
    assert_eq!(found, BTreeSet::from([b"one".to_vec(), b"two".to_vec()]));
}

#[test]
fn a_failed_commit_does_not_come_to_light_once_what_was_there_is_settled() {
    let blocker = MemoryBlocker::new();
    blocker.create_record(HEADER, b"one").unwrap();
    blocker.fail_at(2, libc::EIO);
    assert!(blocker.commit_record(HEADER, 1, b"two").is_err());
    assert!(matches!(blocker.settle_record(HEADER, 2), Err(Error::Stale(_))));
    blocker.settle_record(HEADER, 1).unwrap();
    for seed in 0..50 {
        assert_eq!(blocker.crash_at(3, seed).read_record(HEADER).unwrap().bytes, b"one");
    }
}

#[test]
fn a_cut_in_create_named_leaves_names_only_with_their_headers() {
    let blocker = MemoryBlocker::new();
    let batch = batch(1..9);
    blocker.create_named(&batch).unwrap();
    let mut counts = BTreeSet::new();
    for step in 0..=4 {
        for seed in 0..100 {
            let after = blocker.crash_at(step, seed);
            let (headers, names) = (after.headers().unwrap(), after.names("", None, 100).unwrap());
            for name in &names {
                let volume = after.lookup(name).unwrap().unwrap();
                assert!(after.read_record(RecordKey::Header(volume)).is_ok(), "step {step}, seed {seed}");
            }
            assert!(step < 2 || headers.len() == 8);
            assert!(step < 4 || names.len() == 8);
            counts.insert((step, headers.len(), names.len()));
        }
    }
    assert!(counts.len() > 10, "{counts:?}");
}

#[test]
fn create_named_with_a_taken_name_makes_nothing() {
    let blocker = MemoryBlocker::new();
    blocker.create_named(&batch(3..4)).unwrap();
    let mut clash = batch(5..8);
    clash[2].1 = "volume003".to_string();
    assert!(matches!(blocker.create_named(&clash), Err(Error::Exists(_))));
    clash[2].1 = "volume005".to_string();
    assert!(matches!(blocker.create_named(&clash), Err(Error::Exists(_))));
    assert!(matches!(blocker.create_named(&batch(1..4)), Err(Error::Exists(_))));
    assert_eq!((blocker.names("", None, 9).unwrap().len(), blocker.headers().unwrap().len()), (1, 1));
}

#[test]
fn names_are_exclusive_sorted_and_paged() {
    let blocker = MemoryBlocker::new();
    blocker.create_named(&batch(1..6)).unwrap();
    assert!(matches!(blocker.bind_name("volume002", VolumeId(1)), Err(Error::Exists(_))));
    assert!(matches!(blocker.bind_name("another", V), Err(Error::NotFound(_))));
    blocker.bind_name("another", VolumeId(1)).unwrap();
    assert_eq!(blocker.names("vol", Some("volume002"), 2).unwrap(), ["volume003", "volume004"]);
    assert_eq!(blocker.names("vol", Some("a"), 1).unwrap(), ["volume001"]);
    assert_eq!(blocker.names("a", Some("volume001"), 9).unwrap(), [""; 0]);
    blocker.unbind_name("another").unwrap();
    blocker.unbind_name("another").unwrap();
    assert_eq!(blocker.lookup("another").unwrap(), None);
}

#[test]
fn a_trashed_header_is_never_nowhere_and_its_names_stay() {
    let blocker = MemoryBlocker::new();
    blocker.create_named(&batch(7..8)).unwrap();
    blocker.trash_header(V).unwrap();
    for step in 4..=6 {
        for seed in 0..20 {
            let after = blocker.crash_at(step, seed);
            let found = (after.headers().unwrap().len(), after.trashed().unwrap().len());
            assert_eq!(found, [(1, 0), (1, 1), (0, 1)][step as usize - 4]);
            assert_eq!(after.lookup("volume007").unwrap(), Some(V));
        }
    }
    assert!(matches!(blocker.trash_header(V), Err(Error::NotFound(_))));
    assert_eq!(blocker.read_record(RecordKey::Trash(V)).unwrap().bytes, [7; 10]);
}

#[test]
fn a_refused_lock_shows_the_owner_and_goes_with_its_guard() {
    let blocker = MemoryBlocker::new();
    let held = |mode| match blocker.lock(V, mode, b"me").unwrap() {
        LockOutcome::Held(guard) => Ok(guard),
        LockOutcome::Refused(owner) => Err(owner),
    };
    let guard = held(LockMode::Exclusive).ok().unwrap();
    assert_eq!(held(LockMode::Shared).err(), Some(b"me".to_vec()));
    let other = blocker.crash_at(0, 1);
    assert!(matches!(other.lock(V, LockMode::Exclusive, b"").unwrap(), LockOutcome::Held(_)));
    drop(guard);
    let shared = [held(LockMode::Shared).ok().unwrap(), held(LockMode::Shared).ok().unwrap()];
    assert_eq!(held(LockMode::Exclusive).err(), Some(Vec::new()));
    drop(shared);
    assert!(held(LockMode::Exclusive).is_ok());
}

#[test]
fn dropped_syncs_report_success_and_do_nothing() {
    for (what, file, entry) in
        [(Syncs::Files, false, true), (Syncs::Directories, true, false), (Syncs::All, false, false)]
    {
        let blocker = MemoryBlocker::new();
        let data = Object::Data(V, 1);
        blocker.create(data, &[], 512).unwrap();
        blocker.create_record(HEADER, b"old").unwrap();
        blocker.drop_syncs(what);
        write(&blocker, data, 0, b"x");
        blocker.sync(&[data]).unwrap();
        blocker.commit_record(HEADER, 1, b"new").unwrap();
        blocker.create_named(&batch(1..2)).unwrap();
        let after = blocker.crash_at(blocker.steps(), 0);
        assert_eq!(read(&after, data, 0, 1) == b"x", file, "{what:?}");
        assert_eq!(after.read_record(HEADER).unwrap().bytes == b"new", file, "{what:?}");
        assert_eq!(after.lookup("volume001").unwrap().is_some(), entry, "{what:?}");
        let everything = blocker.crash_at(blocker.steps(), 1);
        assert_eq!(
            (read(&everything, data, 0, 1), everything.lookup("volume001").unwrap()),
            (vec![b'x'], Some(VolumeId(1)))
        );
    }
}

#[test]
fn a_write_beyond_the_free_room_is_refused() {
    let blocker = MemoryBlocker::new();
    let data = Object::Data(V, 1);
    blocker.set_space(1 << 20, 8192);
    assert!(matches!(blocker.create(Object::Log(V, 0), &[], 12288), Err(Error::NoSpace(_))));
    assert!(matches!(blocker.write(data, &[IoSlice::new(&[1; 12288])], 0), Err(Error::NoSpace(_))));
    assert_eq!(blocker.space().unwrap(), Space { total: 1 << 20, free: 0 });
    write(&blocker, data, 0, &[2; 8192]);
    blocker.remove(data).unwrap();
    assert_eq!(blocker.space().unwrap().free, 8192);
}

#[test]
fn the_same_seed_gives_the_same_image() {
    let blocker = MemoryBlocker::new();
    let mut random = Random::new(11);
    for i in 0..400u64 {
        let object = Object::Data(V, random.below(4));
        write(&blocker, object, random.below(1 << 16), &vec![i as u8; 1 + random.below(5000) as usize]);
        match random.below(8) {
            0 => blocker.sync(&[object]).unwrap(),
            1 => blocker.punch(object, random.below(1 << 15), random.below(1 << 15)).unwrap(),
            2 => blocker.remove(object).unwrap(),
            3 => blocker.create_named(&batch(i * 10 + 100..i * 10 + 103)).unwrap(),
            _ => {}
        }
    }
    let image = |step, seed| {
        let after = blocker.crash_at(step, seed);
        let objects = after.objects(V).unwrap();
        let data: Vec<_> = objects.iter().map(|object| (*object, read(&after, *object, 0, 80 << 10))).collect();
        (data, after.headers().unwrap(), after.names("", None, 9999).unwrap())
    };
    for step in (0..blocker.steps()).step_by(37) {
        assert_eq!(image(step, step), image(step, step));
    }
    let present = image(blocker.steps(), 2);
    assert_ne!(present, image(blocker.steps(), 3));
    blocker.forget_history();
    assert_eq!(image(blocker.steps(), 2), present);
}
