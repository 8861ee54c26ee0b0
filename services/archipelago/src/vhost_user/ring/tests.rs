use std::os::fd::{AsRawFd, OwnedFd};

use proptest::prelude::*;

use super::*;
use crate::vhost_user::memory::Described;

/// Bytes of the tests' guest memory; the queue lies at its start, and the guest counts it from here.
const LEN: u64 = 1 << 16;
const GUEST: u64 = 0x10_0000;
const PLACE: Place = Place { size: 8, descriptors: 0x1000, available: 0x1000 + 0x100, used: 0x1000 + 0x200 };
const AGREED: Agreed = Agreed { event_idx: true, indirect: true };

struct Guest {
    memory: Arc<Memory>,
}

impl Guest {
    fn new() -> Guest {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LEN).unwrap();
        let file: OwnedFd = file.into();
        assert!(file.as_raw_fd() >= 0);
        let region = Described { guest: GUEST, len: LEN, user: 0x1000, offset: 0 };
        Guest { memory: Arc::new(Memory::map(&[region], &[file]).unwrap()) }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let place = self.memory.guest(GUEST + at, bytes.len() as u64).unwrap();
        // SAFETY: just found to be memory of that length, and nobody else is there.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_ptr(), bytes.len()) };
    }

    fn describe(&self, index: u64, address: u64, len: u32, flags: u16, next: u16) {
        self.put(index * DESCRIPTOR, &address.to_le_bytes());
        self.put(index * DESCRIPTOR + 8, &len.to_le_bytes());
        self.put(index * DESCRIPTOR + 12, &flags.to_le_bytes());
        self.put(index * DESCRIPTOR + 14, &next.to_le_bytes());
    }

    fn offer(&self, index: u16, heads: &[u16]) {
        for (slot, head) in heads.iter().enumerate() {
            self.put(0x100 + 4 + 2 * slot as u64, &head.to_le_bytes());
        }
        self.put(0x100 + 2, &index.to_le_bytes());
    }

    fn ring(&self) -> Ring {
        Ring::new(self.memory.clone(), PLACE, AGREED, Some(0)).unwrap()
    }

    fn gather(&self) -> Result<Chain, Broken> {
        let mut chain = Chain::default();
        self.ring().gather(0, &mut chain).map(|()| chain)
    }
}

#[test]
fn buffers_come_in_order_and_empty_ones_are_passed_over() {
    let guest = Guest::new();
    guest.describe(0, GUEST + 0x800, 16, NEXT, 3);
    guest.describe(3, GUEST + 0x900, 0, NEXT, 2);
    guest.describe(2, GUEST + 0xa00, 512, NEXT | WRITE, 1);
    guest.describe(1, GUEST + 0xc00, 1, WRITE, 0);
    let chain = guest.gather().unwrap();
    let lens = |parts: &[Part]| parts.iter().map(|part| part.len).collect::<Vec<_>>();
    assert_eq!((lens(&chain.readable), lens(&chain.writable)), (vec![16], vec![512, 1]));
}

#[test]
fn what_is_no_request_breaks_the_queue() {
    let guest = Guest::new();
    let expect = |describe: &dyn Fn(&Guest), broken| {
        describe(&guest);
        assert_eq!(guest.gather().unwrap_err(), broken);
    };
    expect(&|g| g.describe(0, GUEST, 16, NEXT, 0), Broken::Endless);
    expect(&|g| g.describe(0, GUEST, 16, NEXT, 8), Broken::Index);
    expect(&|g| g.describe(0, GUEST + LEN - 15, 16, 0, 0), Broken::Buffer);
    expect(&|g| g.describe(0, u64::MAX, 16, 0, 0), Broken::Buffer);
    expect(&|g| g.describe(0, GUEST, 15, INDIRECT, 0), Broken::Table);
    expect(&|g| g.describe(0, GUEST, 0, INDIRECT, 0), Broken::Table);
    expect(&|g| g.describe(0, GUEST, 32, INDIRECT | NEXT, 0), Broken::Table);
    expect(&|g| g.describe(0, GUEST + LEN, 32, INDIRECT, 0), Broken::Buffer);
    // A table in itself.
    expect(&|g| g.describe(0, GUEST, 16, INDIRECT, 0), Broken::Table);
    expect(
        &|g| {
            g.describe(0, GUEST + 0x800, 16, NEXT | WRITE, 1);
            g.describe(1, GUEST + 0x800, 16, 0, 0);
        },
        Broken::Order,
    );
}

#[test]
fn a_guest_that_offers_too_much_or_what_is_not_there_is_found_out() {
    let guest = Guest::new();
    guest.offer(9, &[]);
    assert_eq!(guest.ring().take(), Err(Broken::Overfull));
    guest.offer(1, &[8]);
    assert_eq!(guest.ring().take(), Err(Broken::Index));
    guest.offer(2, &[7, 3]);
    let mut ring = guest.ring();
    assert_eq!((ring.take(), ring.take(), ring.take()), (Ok(Some(7)), Ok(Some(3)), Ok(None)));
}

#[test]
fn queues_that_lie_nowhere_or_askew_are_refused() {
    let guest = Guest::new();
    for place in [
        Place { size: 0, ..PLACE },
        Place { size: 7, ..PLACE },
        Place { size: MAX_QUEUE_SIZE * 2, ..PLACE },
        Place { descriptors: 0x1008, ..PLACE },
        Place { available: 0x1101, ..PLACE },
        Place { used: 0x1202, ..PLACE },
        Place { used: 0x1000 + LEN - 8, ..PLACE },
        Place { descriptors: 0, ..PLACE },
    ] {
        assert!(Ring::new(guest.memory.clone(), place, AGREED, None).is_err(), "{place:?}");
    }
}

#[test]
fn the_guest_is_called_when_its_index_is_passed_and_not_twice() {
    let guest = Guest::new();
    let mut ring = guest.ring();
    // It wants to know of the second.
    guest.put(0x100 + 4 + 16, &1u16.to_le_bytes());
    ring.give_back(0, 1);
    ring.publish();
    assert!(!ring.wants_call());
    ring.give_back(1, 1);
    ring.publish();
    assert!(ring.wants_call());
    assert!(!ring.wants_call());
}

proptest! {
    /// Whatever a guest writes, what is gathered lies in its memory, and is no more than a system call takes.
    #[test]
    fn nothing_outside_of_the_guest_is_ever_gathered(
        bytes in prop::collection::vec(any::<u8>(), 0x300),
        near in prop::collection::vec((0u64..8, 0u64..LEN, 0u32..0x4000, 0u16..8, 0u16..8), 0..8),
    ) {
        let guest = Guest::new();
        guest.put(0, &bytes);
        for (index, offset, len, flags, next) in near {
            guest.describe(index, GUEST + offset, len, flags, next);
        }
        let start = guest.memory.guest(GUEST, LEN).unwrap().as_ptr() as usize;
        let (mut ring, mut chain) = (guest.ring(), Chain::default());
        while let Ok(Some(head)) = ring.take() {
            if ring.gather(head, &mut chain).is_err() {
                break;
            }
            let parts = chain.readable.iter().chain(&chain.writable);
            prop_assert!(parts.clone().count() <= MAX_CHAIN);
            for part in parts {
                let at = part.start.as_ptr() as usize;
                prop_assert!(part.len > 0 && at >= start && at + part.len <= start + LEN as usize);
            }
            ring.give_back(head, 0);
        }
    }
}
