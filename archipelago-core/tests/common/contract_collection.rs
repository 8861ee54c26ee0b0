//! What every backend promises to a collection, sentence by sentence of the documentation of [`Blocker`].
#![allow(clippy::unwrap_used)]

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use archipelago_core::Error;
use archipelago_core::blocker::{Blocker, LockGuard, LockMode, LockOutcome, Object, RecordKey, VolumeId};

const V: VolumeId = VolumeId(0xa1);
const W: VolumeId = VolumeId(0x1_0000_00a1);

/// Runs the whole suite; `make` returns an empty backend each time.
pub fn contract(make: impl Fn() -> Arc<dyn Blocker>) {
    type Test = fn(&Arc<dyn Blocker>);
    let tests: &[(&str, Test)] = &[
        ("an_inventory_has_all_objects_of_its_part_and_no_others", an_inventory_has_all_objects_of_its_part),
        ("a_removed_record_is_gone_and_removing_it_again_succeeds", a_removed_record_is_gone),
        ("what_an_object_takes_shrinks_with_holes", what_an_object_takes_shrinks_with_holes),
        ("an_exclusive_lock_is_removed_by_its_holder_and_can_be_taken_again", a_lock_is_removed_by_its_holder),
        ("of_threads_that_remove_what_they_lock_one_at_a_time_has_it", one_at_a_time_has_a_lock_that_is_removed),
    ];
    for (name, test) in tests {
        // Shown if the test fails.
        println!("contract: {name}");
        test(&make());
    }
}

fn held(outcome: LockOutcome) -> Option<Box<dyn LockGuard>> {
    match outcome {
        LockOutcome::Held(guard) => Some(guard),
        LockOutcome::Refused(_) => None,
    }
}

fn an_inventory_has_all_objects_of_its_part(b: &Arc<dyn Blocker>) {
    assert!((0..=u8::MAX).all(|part| b.inventory(part).unwrap().objects.is_empty()));
    let other = VolumeId(0xa2);
    let all = [Object::Log(V, 3), Object::Log(W, 0), Object::Pack(V, 0), Object::Data(V, 7), Object::Data(W, 1)];
    for object in all.into_iter().chain([Object::Pack(other, 1)]) {
        match object {
            Object::Data(..) => b.write(object, &[IoSlice::new(&[1])], 0).unwrap(),
            _ => b.create(object, &[], 512).unwrap(),
        }
    }
    let found = b.inventory(0xa1).unwrap();
    assert!(found.objects.is_sorted());
    assert_eq!(found.objects.len(), all.len());
    assert!(all.iter().all(|object| found.objects.contains(object)));
    assert_eq!(b.inventory(0xa2).unwrap().objects, [Object::Pack(other, 1)]);
    let parts = b.parts().unwrap();
    assert!(parts.is_sorted() && parts.contains(&0xa1) && parts.contains(&0xa2));
    assert!(parts.len() == 2 || parts.len() == 256, "{parts:?}");
    // Whoever keeps something for a lock says so, until its holder removes it.
    let guard = held(b.lock(V, LockMode::Exclusive, b"x").unwrap()).unwrap();
    let locks = b.inventory(0xa1).unwrap().locks;
    assert!(locks.is_empty() || locks == [V]);
    guard.remove().unwrap();
    assert_eq!(b.inventory(0xa1).unwrap().locks, []);
}

fn a_removed_record_is_gone(b: &Arc<dyn Blocker>) {
    b.create_named(&[(V, "volume-1".into(), b"one".to_vec())]).unwrap();
    b.trash_header(V).unwrap();
    b.create_record(RecordKey::Header(W), b"two").unwrap();
    for key in [RecordKey::Trash(V), RecordKey::Header(W), RecordKey::Trash(W)] {
        b.remove_record(key).unwrap();
        assert!(matches!(b.read_record(key), Err(Error::NotFound(_))));
        b.remove_record(key).unwrap();
    }
    assert_eq!((b.headers().unwrap(), b.trashed().unwrap()), (vec![], vec![]));
}

fn what_an_object_takes_shrinks_with_holes(b: &Arc<dyn Blocker>) {
    let object = Object::Data(V, 1);
    assert_eq!(b.allocated(object).unwrap(), 0);
    b.write(object, &[IoSlice::new(&[1; 256 << 10])], 1 << 20).unwrap();
    b.sync(&[object]).unwrap();
    let full = b.allocated(object).unwrap();
    // Or up to where it ends, on a backend that does not tell holes.
    let end = (1 << 20) + (256 << 10);
    assert!((256 << 10..512 << 10).contains(&full) || full == end, "{full}");
    b.punch(object, 1 << 20, 128 << 10).unwrap();
    b.sync(&[object]).unwrap();
    let half = b.allocated(object).unwrap();
    // A file system that cannot make holes keeps what it has.
    assert!(half == full || full - half == 128 << 10, "{half} of {full}");
    b.remove(object).unwrap();
    assert_eq!(b.allocated(object).unwrap(), 0);
}

fn a_lock_is_removed_by_its_holder(b: &Arc<dyn Blocker>) {
    for _ in 0..3 {
        let guard = held(b.lock(V, LockMode::Exclusive, b"x").unwrap()).unwrap();
        assert!(held(b.lock(V, LockMode::Shared, &[]).unwrap()).is_none());
        guard.remove().unwrap();
        assert_eq!(b.lock_holder(V).unwrap(), None);
    }
    // Sharers leave it to each other.
    let one = held(b.lock(V, LockMode::Shared, &[]).unwrap()).unwrap();
    let two = held(b.lock(V, LockMode::Shared, &[]).unwrap()).unwrap();
    one.remove().unwrap();
    assert!(held(b.lock(V, LockMode::Exclusive, b"x").unwrap()).is_none());
    drop(two);
    assert!(held(b.lock(V, LockMode::Exclusive, b"x").unwrap()).is_some());
}

fn one_at_a_time_has_a_lock_that_is_removed(b: &Arc<dyn Blocker>) {
    let inside = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (b, inside) = (b.clone(), inside.clone());
            std::thread::spawn(move || {
                let mut taken = 0;
                for _ in 0..2000 {
                    let guard = match b.lock(V, LockMode::Exclusive, b"x") {
                        Ok(outcome) => held(outcome),
                        Err(Error::TooBusy(_)) => None,
                        Err(e) => panic!("{e}"),
                    };
                    if let Some(guard) = guard {
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        taken += 1;
                        inside.fetch_sub(1, Ordering::SeqCst);
                        guard.remove().unwrap();
                    }
                }
                taken
            })
        })
        .collect();
    let taken: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert!(taken > 0);
    assert_eq!(b.inventory(0xa1).unwrap().locks, []);
}
