//! What every backend promises, sentence by sentence of the documentation of [`Blocker`].
//!
//! Durability is not tested here, since a backend cannot be asked what a power cut would leave: the simulated disk and
//! the tests over it do that.
#![allow(clippy::unwrap_used)]

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use archipelago_core::blocker::{Blocker, LockMode, LockOutcome, MAX_OWNER, Object, RecordKey, VolumeId};
use archipelago_core::limits::{DATA_PART, MAX_RECORD};
use archipelago_core::{Error, Result};

const V: VolumeId = VolumeId(0xa1);
const W: VolumeId = VolumeId(0x1_0000_00a1);

/// Runs the whole suite; `make` returns an empty backend each time.
pub fn contract(make: impl Fn() -> Arc<dyn Blocker>) {
    type Test = fn(&Arc<dyn Blocker>);
    let tests: &[(&str, Test)] = &[
        ("a_created_object_holds_the_zeros_asked_for", a_created_object_holds_the_zeros_asked_for),
        ("what_was_never_written_inside_data_reads_as_zeros", what_was_never_written_inside_data_reads_as_zeros),
        ("an_object_that_is_missing_or_too_short_is_damaged", an_object_that_is_missing_or_too_short_is_damaged),
        ("many_buffers_are_written_and_read_as_one_range", many_buffers_are_written_and_read_as_one_range),
        ("a_write_across_parts_is_one_range", a_write_across_parts_is_one_range),
        ("a_punched_range_reads_as_zeros_and_the_rest_stays", a_punched_range_reads_as_zeros_and_the_rest_stays),
        ("a_punch_never_changes_the_length", a_punch_never_changes_the_length),
        ("a_range_past_the_last_offset_is_refused", a_range_past_the_last_offset_is_refused),
        ("sync_passes_over_what_does_not_exist", sync_passes_over_what_does_not_exist),
        ("a_removed_object_is_gone_and_removing_it_again_succeeds", a_removed_object_is_gone),
        ("objects_of_one_volume_are_listed_sorted", objects_of_one_volume_are_listed_sorted),
        ("random_writes_and_punches_agree_with_a_plain_array", random_writes_and_punches_agree_with_a_plain_array),
        ("threads_write_and_sync_one_object_at_once", threads_write_and_sync_one_object_at_once),
        ("a_record_is_replaced_and_its_version_rises_by_one", a_record_is_replaced_and_its_version_rises_by_one),
        ("a_commit_of_another_version_is_stale_and_changes_nothing", a_commit_of_another_version_is_stale),
        ("of_concurrent_commits_of_one_version_one_succeeds", of_concurrent_commits_of_one_version_one_succeeds),
        ("a_record_is_read_whole_while_it_is_replaced", a_record_is_read_whole_while_it_is_replaced),
        ("a_missing_record_is_not_found", a_missing_record_is_not_found),
        ("a_record_is_at_most_max_record_bytes", a_record_is_at_most_max_record_bytes),
        ("a_created_record_is_reached_by_no_name", a_created_record_is_reached_by_no_name),
        ("a_batch_makes_headers_and_names", a_batch_makes_headers_and_names),
        ("a_batch_with_a_taken_name_leaves_nothing_behind", a_batch_with_a_taken_name_leaves_nothing_behind),
        ("a_trashed_header_moves_and_keeps_its_record", a_trashed_header_moves_and_keeps_its_record),
        ("a_name_is_bound_once_and_unbound_any_number_of_times", a_name_is_bound_once),
        ("names_are_paged_in_byte_order", names_are_paged_in_byte_order),
        ("an_exclusive_lock_excludes_every_other", an_exclusive_lock_excludes_every_other),
        ("a_lock_record_is_short_and_plain", a_lock_record_is_short_and_plain),
        ("shared_locks_exclude_only_the_exclusive_one", shared_locks_exclude_only_the_exclusive_one),
        ("of_many_threads_one_at_a_time_has_the_lock", of_many_threads_one_at_a_time_has_the_lock),
        ("free_room_is_within_the_whole", free_room_is_within_the_whole),
    ];
    for (name, test) in tests {
        // Shown if the test fails.
        println!("contract: {name}");
        test(&make());
    }
}

fn read(b: &Arc<dyn Blocker>, object: Object, offset: u64, len: usize) -> Result<Vec<u8>> {
    // Not zeros, so that zeros have to be written there.
    let mut buf = vec![0xee; len];
    b.read(object, &mut [IoSliceMut::new(&mut buf)], offset)?;
    Ok(buf)
}

fn write(b: &Arc<dyn Blocker>, object: Object, offset: u64, bytes: &[u8]) {
    b.write(object, &[IoSlice::new(bytes)], offset).unwrap();
}

/// SplitMix64: a repeatable sequence from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn a_created_object_holds_the_zeros_asked_for(b: &Arc<dyn Blocker>) {
    for object in [Object::Log(V, 1), Object::Pack(V, 1), Object::Data(V, 1)] {
        b.create(object, &[], 3 << 20).unwrap();
        assert_eq!(b.len(object).unwrap(), Some(3 << 20));
        assert_eq!(read(b, object, 0, 3 << 20).unwrap(), vec![0; 3 << 20]);
        assert!(matches!(b.create(object, &[], 0), Err(Error::Exists(_))), "{object}");
        assert_eq!(b.len(object).unwrap(), Some(3 << 20), "a refused creation changes nothing");
    }
    for (number, len) in [(5, 512), (6, 513), (7, 3 << 20)] {
        let object = Object::Log(V, number);
        b.create(object, &[7; 512], len).unwrap();
        let mut want = vec![0; len as usize];
        want[..512].fill(7);
        assert_eq!(read(b, object, 0, len as usize).unwrap(), want, "a head of 512 bytes in {len}");
        let reserved = Object::Log(V, 10 + number);
        b.create_reserved(reserved, &[7; 512], len).unwrap();
        assert_eq!(b.len(reserved).unwrap(), Some(len));
        assert_eq!(read(b, reserved, 0, len as usize).unwrap(), want, "reserved: a head of 512 bytes in {len}");
        assert!(matches!(b.create_reserved(reserved, &[], len), Err(Error::Exists(_))));
    }
    b.create_reserved(Object::Log(V, 20), &[], 0).unwrap();
    assert_eq!(b.len(Object::Log(V, 20)).unwrap(), Some(0));
    assert!(matches!(b.create(Object::Log(V, 8), &[7; 512], 511), Err(Error::InvalidArgument(_))));
    b.create(Object::Pack(V, 2), &[], 0).unwrap();
    assert_eq!(b.len(Object::Pack(V, 2)).unwrap(), Some(0));
    assert!(matches!(b.create(Object::Pack(V, 2), &[], 0), Err(Error::Exists(_))));
}

fn what_was_never_written_inside_data_reads_as_zeros(b: &Arc<dyn Blocker>) {
    let data = Object::Data(V, 1);
    write(b, data, 10_000, &[7; 100]);
    assert_eq!(b.len(data).unwrap(), Some(10_100));
    let mut expected = vec![0; 10_100];
    expected[10_000..].fill(7);
    assert_eq!(read(b, data, 0, 10_100).unwrap(), expected);
    write(b, Object::Data(V, 2), 20_000, b"x");
    assert_eq!(read(b, Object::Data(V, 2), 10_000, 100).unwrap(), [0; 100], "epochs are apart");
    write(b, Object::Data(W, 1), 20_000, b"x");
    assert_eq!(read(b, Object::Data(W, 1), 10_000, 100).unwrap(), [0; 100], "volumes are apart");
}

fn an_object_that_is_missing_or_too_short_is_damaged(b: &Arc<dyn Blocker>) {
    let cut_short = |result: Result<Vec<u8>>, why: &str| match result {
        Err(Error::Damaged { detail, .. }) => assert!(detail.contains("cut short"), "{why}: {detail}"),
        other => panic!("{why}: {other:?}"),
    };
    for object in [Object::Log(V, 1), Object::Pack(V, 1), Object::Data(V, 1)] {
        cut_short(read(b, object, 0, 1), &format!("{object} is missing"));
        assert_eq!(b.len(object).unwrap(), None, "reading creates nothing");
        if !matches!(object, Object::Data(..)) {
            assert!(b.write(object, &[IoSlice::new(b"x")], 0).is_err(), "only data is created by a write");
            assert_eq!(b.len(object).unwrap(), None);
        }
        b.create(object, &[], 0).unwrap();
        write(b, object, 0, &[5; 1000]);
        assert_eq!(read(b, object, 0, 1000).unwrap(), [5; 1000]);
        cut_short(read(b, object, 0, 1001), &format!("{object} ends within the range"));
        cut_short(read(b, object, 5000, 1), &format!("{object} ends before the range"));
        write(b, object, 1000, &[6; 10]);
        assert_eq!(read(b, object, 999, 2).unwrap(), [5, 6]);
    }
    let parts = Object::Data(V, 2);
    write(b, parts, DATA_PART - 10, &[1; 10]);
    cut_short(read(b, parts, DATA_PART - 10, 11), "the next part is missing");
}

fn many_buffers_are_written_and_read_as_one_range(b: &Arc<dyn Blocker>) {
    let data = Object::Data(V, 3);
    // More buffers than one system call takes, some of them empty.
    let bytes: Vec<u8> = (0..2500 * 3).map(|i| (i % 251) as u8).collect();
    let mut list: Vec<IoSlice<'_>> = bytes.chunks(3).map(IoSlice::new).collect();
    list.insert(7, IoSlice::new(&[]));
    list.insert(1100, IoSlice::new(&[]));
    b.write(data, &list, 777).unwrap();
    assert_eq!(read(b, data, 777, bytes.len()).unwrap(), bytes);
    // Back in other pieces.
    let mut got = vec![0xee; bytes.len()];
    let mut pieces: Vec<IoSliceMut<'_>> = got.chunks_mut(5).map(IoSliceMut::new).collect();
    b.read(data, &mut pieces, 777).unwrap();
    assert_eq!(got, bytes);
    b.write(data, &[], 0).unwrap();
    b.read(data, &mut [], 0).unwrap();
    assert_eq!(b.len(data).unwrap(), Some(777 + bytes.len() as u64));
}

fn a_write_across_parts_is_one_range(b: &Arc<dyn Blocker>) {
    let data = Object::Data(V, 4);
    let bytes: Vec<u8> = (0..10_000).map(|i| (i % 253) as u8).collect();
    let at = DATA_PART - 4321;
    b.write(data, &[IoSlice::new(&bytes[..3000]), IoSlice::new(&bytes[3000..6000]), IoSlice::new(&bytes[6000..])], at)
        .unwrap();
    assert_eq!(b.len(data).unwrap(), Some(at + 10_000));
    assert_eq!(b.objects(V).unwrap(), [data]);
    assert_eq!(read(b, data, at, 10_000).unwrap(), bytes);
    assert_eq!(read(b, data, DATA_PART, 100).unwrap(), bytes[4321..4421]);
    b.sync(&[data]).unwrap();
    b.punch(data, DATA_PART - 100, 200).unwrap();
    let mut expected = bytes.clone();
    expected[4221..4421].fill(0);
    let mut got = vec![0xee; 10_000];
    let (one, two) = got.split_at_mut(4000);
    b.read(data, &mut [IoSliceMut::new(one), IoSliceMut::new(two)], at).unwrap();
    assert_eq!(got, expected);
    b.remove(data).unwrap();
    assert_eq!(b.len(data).unwrap(), None);
}

fn a_punched_range_reads_as_zeros_and_the_rest_stays(b: &Arc<dyn Blocker>) {
    for object in [Object::Data(V, 5), Object::Pack(V, 5)] {
        b.create(object, &[], 0).unwrap();
        write(b, object, 0, &[9; 100_000]);
        b.punch(object, 4097, 30_000).unwrap();
        b.punch(object, 50_000, 3).unwrap();
        let mut expected = vec![9; 100_000];
        expected[4097..34_097].fill(0);
        expected[50_000..50_003].fill(0);
        assert_eq!(read(b, object, 0, 100_000).unwrap(), expected);
        write(b, object, 8192, &[3; 10]);
        expected[8192..8202].fill(3);
        assert_eq!(read(b, object, 0, 100_000).unwrap(), expected, "a punched range can be written again");
    }
}

fn a_punch_never_changes_the_length(b: &Arc<dyn Blocker>) {
    let data = Object::Data(V, 6);
    b.punch(data, 0, 1 << 30).unwrap();
    assert_eq!(b.len(data).unwrap(), None, "nothing happens to an object that does not exist");
    write(b, data, 0, &[1; 10_000]);
    for (offset, len) in [(5000, 1 << 40), (10_000, 4096), (1 << 35, 1), (0, 0)] {
        b.punch(data, offset, len).unwrap();
        assert_eq!(b.len(data).unwrap(), Some(10_000), "{offset} {len}");
    }
    assert_eq!(read(b, data, 4999, 3).unwrap(), [1, 0, 0]);
    b.sync(&[data]).unwrap();
}

fn a_range_past_the_last_offset_is_refused(b: &Arc<dyn Blocker>) {
    for object in [Object::Data(V, 1), Object::Log(V, 1)] {
        b.create(object, &[], 1).unwrap();
        assert!(b.write(object, &[IoSlice::new(&[1; 10])], u64::MAX - 5).is_err());
        assert!(read(b, object, u64::MAX - 5, 10).is_err());
        assert!(b.punch(object, u64::MAX - 5, 10).is_err());
        assert_eq!(b.len(object).unwrap(), Some(1));
    }
}

fn sync_passes_over_what_does_not_exist(b: &Arc<dyn Blocker>) {
    b.sync(&[]).unwrap();
    let data = Object::Data(V, 7);
    b.sync(&[data, Object::Log(V, 9), Object::Pack(W, 9)]).unwrap();
    assert_eq!(b.objects(V).unwrap(), []);
    write(b, data, 0, b"x");
    b.sync(&[Object::Log(V, 9), data, data]).unwrap();
    b.sync(&[data]).unwrap();
    assert_eq!(read(b, data, 0, 1).unwrap(), b"x");
}

fn a_removed_object_is_gone(b: &Arc<dyn Blocker>) {
    for object in [Object::Log(V, 1), Object::Pack(V, 1), Object::Data(V, 1)] {
        b.remove(object).unwrap();
        b.create(object, &[], 4096).unwrap();
        write(b, object, 0, b"old");
        b.remove(object).unwrap();
        b.remove(object).unwrap();
        assert_eq!(b.len(object).unwrap(), None);
        b.sync(&[object]).unwrap();
        b.create(object, &[], 10).unwrap();
        assert_eq!(read(b, object, 0, 10).unwrap(), [0; 10], "{object} made again has nothing of the old one");
    }
}

fn objects_of_one_volume_are_listed_sorted(b: &Arc<dyn Blocker>) {
    assert_eq!(b.objects(V).unwrap(), []);
    let mut expected = vec![
        Object::Data(V, u64::MAX),
        Object::Log(V, 2),
        Object::Pack(V, u32::MAX),
        Object::Data(V, 1),
        Object::Log(V, 0),
        Object::Pack(V, 1),
    ];
    for object in &expected {
        b.create(*object, &[], 0).unwrap();
    }
    // The low 32 bits of the id are the same.
    b.create(Object::Data(W, 3), &[], 0).unwrap();
    let _lock = b.lock(V, LockMode::Exclusive, b"me").unwrap();
    expected.sort();
    assert_eq!(b.objects(V).unwrap(), expected);
    assert_eq!(b.objects(W).unwrap(), [Object::Data(W, 3)]);
}

fn random_writes_and_punches_agree_with_a_plain_array(b: &Arc<dyn Blocker>) {
    const SIZE: u64 = 200_000;
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = Random(seed);
    let data = Object::Data(V, seed);
    let base = random.below(3) * (DATA_PART - SIZE / 2);
    let mut model = vec![0u8; SIZE as usize];
    // Nothing past the end is read; an end in the second part does not make the first one longer.
    for end in [SIZE, DATA_PART.saturating_sub(base).min(SIZE)] {
        write(b, data, base + end - 1, &[0]);
    }
    for step in 0..300 {
        let offset = random.below(SIZE);
        let len = random.below((SIZE - offset).min(20_000) + 1);
        let range = offset as usize..(offset + len) as usize;
        match random.below(4) {
            0 => {
                b.punch(data, base + offset, len).unwrap();
                model[range].fill(0);
            }
            1 => assert_eq!(read(b, data, base + offset, len as usize).unwrap(), model[range], "step {step}"),
            2 if random.below(8) == 0 => b.sync(&[data]).unwrap(),
            _ => {
                model[range.clone()].fill_with(|| random.next() as u8);
                let bytes = &model[range];
                let (one, two) = bytes.split_at(random.below(len + 1) as usize);
                b.write(data, &[IoSlice::new(one), IoSlice::new(two)], base + offset).unwrap();
            }
        }
    }
    assert_eq!(read(b, data, base, SIZE as usize).unwrap(), model);
}

fn threads_write_and_sync_one_object_at_once(b: &Arc<dyn Blocker>) {
    let data = Object::Data(V, 8);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                for i in 0..20u64 {
                    let offset = (i * 4 + thread) * 1000;
                    write(b, data, offset, &[thread as u8 + 1; 1000]);
                    if i % 10 == thread {
                        b.sync(&[data]).unwrap();
                    }
                    assert_eq!(read(b, data, offset, 1000).unwrap(), [thread as u8 + 1; 1000]);
                }
            });
        }
    });
    for block in 0..80 {
        assert_eq!(read(b, data, block * 1000, 1000).unwrap(), [(block % 4) as u8 + 1; 1000]);
    }
}

fn a_record_is_replaced_and_its_version_rises_by_one(b: &Arc<dyn Blocker>) {
    for key in [RecordKey::Store, RecordKey::Header(V), RecordKey::Trash(V)] {
        b.create_record(key, b"first").unwrap();
        assert!(matches!(b.create_record(key, b"again"), Err(Error::Exists(_))), "{key}");
        let first = b.read_record(key).unwrap();
        assert_eq!((first.version, &first.bytes[..]), (1, &b"first"[..]));
        for version in 1..6 {
            let bytes = vec![version as u8; (version as usize * 1234) % MAX_RECORD];
            assert_eq!(b.commit_record(key, version, &bytes).unwrap(), version + 1);
            let found = b.read_record(key).unwrap();
            assert_eq!((found.version, found.bytes), (version + 1, bytes), "{key}");
        }
    }
}

fn a_commit_of_another_version_is_stale(b: &Arc<dyn Blocker>) {
    let key = RecordKey::Header(V);
    b.create_record(key, b"one").unwrap();
    b.commit_record(key, 1, b"two").unwrap();
    for expected in [0, 1, 3, u64::MAX] {
        assert!(matches!(b.commit_record(key, expected, b"bad"), Err(Error::Stale(_))), "{expected}");
    }
    assert_eq!(b.read_record(key).unwrap().bytes, b"two");
}

fn of_concurrent_commits_of_one_version_one_succeeds(b: &Arc<dyn Blocker>) {
    let key = RecordKey::Store;
    b.create_record(key, &0u64.to_le_bytes()).unwrap();
    let commits = 4u64 * 10;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut done = 0;
                while done < 10 {
                    let found = b.read_record(key).unwrap();
                    let count = u64::from_le_bytes(found.bytes[..].try_into().unwrap());
                    match b.commit_record(key, found.version, &(count + 1).to_le_bytes()) {
                        Ok(version) => {
                            assert_eq!(version, found.version + 1);
                            done += 1;
                        }
                        Err(Error::Stale(_)) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
    });
    let found = b.read_record(key).unwrap();
    assert_eq!((found.version, &found.bytes[..]), (commits + 1, &commits.to_le_bytes()[..]));
}

fn a_record_is_read_whole_while_it_is_replaced(b: &Arc<dyn Blocker>) {
    let key = RecordKey::Header(V);
    b.create_record(key, &[1; MAX_RECORD]).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for version in 1..60 {
                b.commit_record(key, version, &[version as u8 + 1; MAX_RECORD]).unwrap();
            }
        });
        let mut last = 0;
        while !writer.is_finished() {
            let found = b.read_record(key).unwrap();
            assert_eq!(found.bytes, [found.version as u8; MAX_RECORD]);
            assert!(found.version >= last, "versions never go back");
            last = found.version;
        }
    });
}

fn a_missing_record_is_not_found(b: &Arc<dyn Blocker>) {
    for key in [RecordKey::Store, RecordKey::Header(V), RecordKey::Trash(V)] {
        assert!(matches!(b.read_record(key), Err(Error::NotFound(_))), "{key}");
        assert!(matches!(b.commit_record(key, 1, b"x"), Err(Error::NotFound(_))), "{key}");
    }
    assert!(matches!(b.trash_header(V), Err(Error::NotFound(_))));
    assert!(matches!(b.bind_name("unbound", V), Err(Error::NotFound(_))));
    assert_eq!(b.lookup("unbound").unwrap(), None);
}

fn a_record_is_at_most_max_record_bytes(b: &Arc<dyn Blocker>) {
    let (fits, too_long) = (vec![1; MAX_RECORD], vec![1; MAX_RECORD + 1]);
    let key = RecordKey::Header(V);
    assert!(matches!(b.create_record(key, &too_long), Err(Error::InvalidArgument(_))));
    b.create_record(key, &fits).unwrap();
    assert!(matches!(b.commit_record(key, 1, &too_long), Err(Error::InvalidArgument(_))));
    b.commit_record(key, 1, &[]).unwrap();
    assert_eq!(b.read_record(key).unwrap().bytes, Vec::<u8>::new());
    assert!(b.create_named(&[(W, "too-long".into(), too_long)]).is_err());
    assert_eq!(b.lookup("too-long").unwrap(), None);
}

fn a_created_record_is_reached_by_no_name(b: &Arc<dyn Blocker>) {
    b.create_record(RecordKey::Header(V), b"header").unwrap();
    assert_eq!(b.names("", None, 10).unwrap(), [""; 0]);
    assert_eq!(b.headers().unwrap(), [V]);
    assert_eq!(b.trashed().unwrap(), []);
}

fn batch(ids: std::ops::Range<u64>) -> Vec<(VolumeId, String, Vec<u8>)> {
    ids.map(|id| (VolumeId(id), format!("clone-{id:03}"), id.to_le_bytes().to_vec())).collect()
}

fn a_batch_makes_headers_and_names(b: &Arc<dyn Blocker>) {
    b.create_named(&[]).unwrap();
    // Sizes on both sides of where a backend may change its way of syncing.
    for ids in [1..2, 10..14, 20..25, 100..200] {
        b.create_named(&batch(ids.clone())).unwrap();
        for id in ids {
            assert_eq!(b.lookup(&format!("clone-{id:03}")).unwrap(), Some(VolumeId(id)));
            let record = b.read_record(RecordKey::Header(VolumeId(id))).unwrap();
            assert_eq!((record.version, &record.bytes[..]), (1, &id.to_le_bytes()[..]));
        }
    }
    assert_eq!(b.headers().unwrap().len(), 110);
    assert_eq!(b.names("", None, 1000).unwrap().len(), 110);
    assert_eq!(b.commit_record(RecordKey::Header(VolumeId(150)), 1, b"new").unwrap(), 2);
    assert_eq!(b.lookup("clone-150").unwrap(), Some(VolumeId(150)), "a commit keeps the name");
}

fn a_batch_with_a_taken_name_leaves_nothing_behind(b: &Arc<dyn Blocker>) {
    b.create_named(&[(V, "clone-005".into(), b"first".to_vec())]).unwrap();
    for ids in [5..6, 3..7, 0..50] {
        assert!(matches!(b.create_named(&batch(ids)), Err(Error::Exists(name)) if name == "clone-005"));
        assert_eq!(b.names("", None, 100).unwrap(), ["clone-005"]);
        assert_eq!(b.lookup("clone-005").unwrap(), Some(V));
        assert_eq!(b.read_record(RecordKey::Header(V)).unwrap().bytes, b"first");
    }
    // The same name twice in one batch.
    let mut twice = batch(60..63);
    twice[2].1 = twice[0].1.clone();
    assert!(matches!(b.create_named(&twice), Err(Error::Exists(_))));
    assert_eq!(b.names("", None, 100).unwrap(), ["clone-005"]);
    // A header that is there already.
    assert!(matches!(b.create_named(&[(V, "another".into(), vec![])]), Err(Error::Exists(_))));
    assert_eq!(b.lookup("another").unwrap(), None);
    assert_eq!(b.read_record(RecordKey::Header(V)).unwrap().bytes, b"first");
    b.create_named(&batch(60..63)).unwrap();
}

fn a_trashed_header_moves_and_keeps_its_record(b: &Arc<dyn Blocker>) {
    b.create_named(&[(V, "volume".into(), b"v1".to_vec()), (W, "other1".into(), b"w1".to_vec())]).unwrap();
    b.commit_record(RecordKey::Header(V), 1, b"v2").unwrap();
    b.trash_header(V).unwrap();
    assert_eq!((b.headers().unwrap(), b.trashed().unwrap()), (vec![W], vec![V]));
    assert!(matches!(b.read_record(RecordKey::Header(V)), Err(Error::NotFound(_))));
    let moved = b.read_record(RecordKey::Trash(V)).unwrap();
    assert_eq!((moved.version, &moved.bytes[..]), (2, &b"v2"[..]));
    assert_eq!(b.lookup("volume").unwrap(), Some(V), "names are not touched");
    assert!(matches!(b.trash_header(V), Err(Error::NotFound(_))));
    assert_eq!(b.commit_record(RecordKey::Trash(V), 2, b"v3").unwrap(), 3);
    b.trash_header(W).unwrap();
    assert_eq!(b.trashed().unwrap(), [V, W]);
}

fn a_name_is_bound_once(b: &Arc<dyn Blocker>) {
    b.create_record(RecordKey::Header(V), b"v").unwrap();
    b.create_record(RecordKey::Header(W), b"w").unwrap();
    b.bind_name("älphaβ", V).unwrap();
    b.bind_name("second", V).unwrap();
    assert!(matches!(b.bind_name("second", W), Err(Error::Exists(name)) if name == "second"));
    assert!(matches!(b.bind_name("second", V), Err(Error::Exists(_))));
    assert_eq!(b.lookup("älphaβ").unwrap(), Some(V));
    b.unbind_name("second").unwrap();
    b.unbind_name("second").unwrap();
    assert_eq!(b.lookup("second").unwrap(), None);
    b.bind_name("second", W).unwrap();
    assert_eq!(b.lookup("second").unwrap(), Some(W));
    assert_eq!(b.read_record(RecordKey::Header(V)).unwrap().bytes, b"v", "unbinding leaves the header");
}

fn names_are_paged_in_byte_order(b: &Arc<dyn Blocker>) {
    b.create_record(RecordKey::Header(V), b"v").unwrap();
    for name in ["beta-2", "Alpha1", "beta-10", "alpha1", "beta-1", "beta+1", "gammaX"] {
        b.bind_name(name, V).unwrap();
    }
    let all = ["Alpha1", "alpha1", "beta+1", "beta-1", "beta-10", "beta-2", "gammaX"];
    assert_eq!(b.names("", None, 100).unwrap(), all);
    assert_eq!(b.names("", Some("beta-1"), 2).unwrap(), ["beta-10", "beta-2"]);
    assert_eq!(b.names("beta-", None, 2).unwrap(), ["beta-1", "beta-10"]);
    assert_eq!(b.names("beta-", Some("beta-10"), 100).unwrap(), ["beta-2"]);
    assert_eq!(b.names("beta-", Some("a"), 1).unwrap(), ["beta-1"], "`after` may sort before the prefix");
    assert_eq!(b.names("beta-", Some("c"), 1).unwrap(), [""; 0]);
    assert_eq!(b.names("", Some("aaa"), 1).unwrap(), ["alpha1"], "`after` need not exist");
    assert_eq!(b.names("", None, 0).unwrap(), [""; 0]);
}

fn refused(outcome: LockOutcome) -> Vec<u8> {
    match outcome {
        LockOutcome::Refused(owner) => owner,
        LockOutcome::Held(_) => panic!("the lock was given twice"),
    }
}

fn is_held(outcome: &LockOutcome) -> bool {
    matches!(outcome, LockOutcome::Held(_))
}

fn an_exclusive_lock_excludes_every_other(b: &Arc<dyn Blocker>) {
    let held = b.lock(V, LockMode::Exclusive, b"a-long.record-of-the-first-owner").unwrap();
    assert!(is_held(&held));
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        assert_eq!(refused(b.lock(V, mode, b"other").unwrap()), b"a-long.record-of-the-first-owner");
        assert_eq!(b.lock_holder(V).unwrap().unwrap(), b"a-long.record-of-the-first-owner");
    }
    let other = b.lock(W, LockMode::Exclusive, b"w").unwrap();
    assert!(is_held(&other), "each volume has its own");
    drop(held);
    let held = b.lock(V, LockMode::Exclusive, b"short").unwrap();
    assert!(is_held(&held), "dropping the guard releases it");
    assert_eq!(
        refused(b.lock(V, LockMode::Exclusive, b"x").unwrap()),
        b"short",
        "nothing of the longer record is left"
    );
    drop(held);
    assert_eq!(b.lock_holder(V).unwrap(), None);
    let held = b.lock(V, LockMode::Exclusive, &[]).unwrap();
    assert!(is_held(&held));
    assert_eq!(refused(b.lock(V, LockMode::Exclusive, b"x").unwrap()), b"", "he left none");
    assert_eq!(b.lock_holder(V).unwrap(), Some(Vec::new()));
}

fn a_lock_record_is_short_and_plain(b: &Arc<dyn Blocker>) {
    let longest = [b'z'; MAX_OWNER];
    let held = b.lock(V, LockMode::Exclusive, &longest).unwrap();
    assert!(is_held(&held));
    assert_eq!(b.lock_holder(V).unwrap().unwrap(), longest);
    drop(held);
    for owner in [&[b'z'; MAX_OWNER + 1][..], b"a b", b"../x", b"nul\0", b"\xff", b"{}"] {
        let refused = b.lock(V, LockMode::Exclusive, owner);
        assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{owner:?}");
        assert_eq!(b.lock_holder(V).unwrap(), None, "and the lock is not taken");
    }
}

fn shared_locks_exclude_only_the_exclusive_one(b: &Arc<dyn Blocker>) {
    let one = b.lock(V, LockMode::Shared, &[]).unwrap();
    let two = b.lock(V, LockMode::Shared, &[]).unwrap();
    assert!(is_held(&one) && is_held(&two));
    refused(b.lock(V, LockMode::Exclusive, b"x").unwrap());
    drop(one);
    refused(b.lock(V, LockMode::Exclusive, b"x").unwrap());
    drop(two);
    assert!(is_held(&b.lock(V, LockMode::Exclusive, b"x").unwrap()));
}

fn of_many_threads_one_at_a_time_has_the_lock(b: &Arc<dyn Blocker>) {
    let holders = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    if let LockOutcome::Held(guard) = b.lock(V, LockMode::Exclusive, b"me").unwrap() {
                        assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(guard);
                    }
                }
            });
        }
    });
}

fn free_room_is_within_the_whole(b: &Arc<dyn Blocker>) {
    let space = b.space().unwrap();
    assert!(space.total > 0 && space.free <= space.total, "{space:?}");
}
