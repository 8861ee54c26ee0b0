use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use super::*;
use crate::error::call;

fn text(content: &str) -> u64 {
    make(Text::new(content.to_string())).expect("a slot")
}

#[test]
fn a_handle_leads_to_its_object_until_it_is_closed_once() {
    let handle = text("one");
    assert_eq!(find::<Text>(handle).expect("open").bytes(), b"one");
    assert_eq!(close::<Text>(handle).expect("open").bytes(), b"one");
    assert!(matches!(find::<Text>(handle), Err(Error::BadHandle { .. })));
    assert!(matches!(close::<Text>(handle), Err(Error::BadHandle { .. })));
}

#[test]
fn a_slot_that_is_used_again_has_another_handle() {
    let mut seen = std::collections::HashSet::new();
    for _ in 0..1000 {
        let handle = text("again");
        assert!(seen.insert(handle), "given twice");
        close::<Text>(handle).expect("open");
    }
    for old in seen {
        assert!(find::<Text>(old).is_err());
    }
}

#[test]
fn a_handle_of_another_kind_or_made_up_is_none() {
    let handle = text("kind");
    assert!(matches!(find::<OpenStore>(handle), Err(Error::BadHandle { .. })));
    for bit in 0..64 {
        assert!(find::<Text>(handle ^ 1 << bit).is_err(), "bit {bit} means nothing");
        assert!(close::<Text>(handle ^ 1 << bit).is_err(), "bit {bit} means nothing");
    }
    for forged in [0, 1, u64::MAX, handle & 0xffff_ffff, handle & !0xffff] {
        if forged != handle {
            assert!(find::<Text>(forged).is_err());
        }
    }
    close::<Text>(handle).expect("open");
}

#[test]
fn closing_waits_for_those_who_use_it_and_lets_nobody_in() {
    let handle = text("busy");
    let user = find::<Text>(handle).expect("open");
    let closed = Arc::new(AtomicBool::new(false));
    let closer = {
        let closed = closed.clone();
        std::thread::spawn(move || {
            let text = close::<Text>(handle).expect("open");
            closed.store(true, Ordering::SeqCst);
            text
        })
    };
    while find::<Text>(handle).is_ok() {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20));
    assert!(!closed.load(Ordering::SeqCst));
    assert_eq!(user.bytes(), b"busy");
    assert!(close::<Text>(handle).is_err(), "one closes it");
    drop(user);
    assert_eq!(closer.join().expect("no panic").bytes(), b"busy");
}

#[test]
fn a_panic_breaks_the_handle_which_can_still_be_closed() {
    let handle = text("fragile");
    let result = call(|| {
        let _text = find::<Text>(handle)?;
        panic!("planted");
    });
    assert_eq!(result, -libc::EIO);
    assert!(matches!(find::<Text>(handle), Err(Error::Broken(_))));
    assert_eq!(call(|| find::<Text>(handle).map(|_| ())), -libc::ENOTRECOVERABLE);
    close::<Text>(handle).expect("broken, not gone");
    assert!(matches!(find::<Text>(handle), Err(Error::BadHandle { .. })));
}

#[test]
fn a_callback_may_not_close_what_its_call_uses() {
    let (used, other) = (text("used"), text("other"));
    in_callback(used, || {
        assert!(matches!(close::<Text>(used), Err(Error::InCallback(_))));
        close::<Text>(other).expect("nobody uses it");
    });
    close::<Text>(used).expect("behind the callback");
}

#[test]
fn a_slot_whose_generations_are_used_up_is_given_out_no_more() {
    let handle = text("last");
    let (_, slot) = locate(handle).expect("open");
    slot.first.store(((handle >> 32) as u32).wrapping_add(1), Ordering::Relaxed);
    close::<Text>(handle).expect("open");
    let later: Vec<u64> = (0..300).map(|_| text("later")).collect();
    assert!(later.iter().all(|h| h & 0xffff != handle & 0xffff), "the slot came back");
    later.into_iter().for_each(|h| drop(close::<Text>(h).expect("open")));
}

#[test]
fn threads_that_use_and_close_the_same_handles_see_their_object_or_an_error() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 300;
    let barrier = Arc::new(Barrier::new(THREADS));
    let current = Arc::new(AtomicU64::new(text("round 0")));
    let closed = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (barrier, current, closed) = (barrier.clone(), current.clone(), closed.clone());
            std::thread::spawn(move || {
                for round in 0..ROUNDS {
                    barrier.wait();
                    let handle = current.load(Ordering::SeqCst);
                    // All have it before one can put the next one there.
                    barrier.wait();
                    for _ in 0..50 {
                        if let Ok(text) = find::<Text>(handle) {
                            assert_eq!(text.bytes(), format!("round {round}").as_bytes());
                        }
                    }
                    if close::<Text>(handle).is_ok() {
                        closed.fetch_add(1, Ordering::SeqCst);
                        current.store(text(&format!("round {}", round + 1)), Ordering::SeqCst);
                    }
                    barrier.wait();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().expect("no panic"));
    assert_eq!(closed.load(Ordering::SeqCst), ROUNDS as u64, "each handle was closed by exactly one thread");
    close::<Text>(current.load(Ordering::SeqCst)).expect("open");
}
