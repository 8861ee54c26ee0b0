//! Front ends and guests that mean harm: nothing they send ends the server, or reaches what is not theirs.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use crate::front_end::{DATA, FrontEnd, GUEST, WRITE, send};
use crate::history::Random;
use crate::machine;

/// Whether a machine that does nothing wrong is served.
fn serves(site: &crate::Site) -> bool {
    let mut guest = FrontEnd::new(1);
    guest.connect(&site.path("vhost"));
    guest.write(0, 80, &[9; 4096]) == 0 && guest.read(0, 80, 4096) == (0, vec![9; 4096])
}

#[test]
fn messages_of_any_bytes_end_their_connection_and_nothing_else() {
    let (site, _server, guest) = machine(1);
    drop(guest);
    let mut random = Random(3);
    let file = tempfile::tempfile().unwrap();
    for _ in 0..400 {
        let socket = UnixStream::connect(site.path("vhost")).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        for _ in 0..random.below(6) + 1 {
            let body: Vec<u8> = (0..random.below(6) * 8)
                .map(|_| if random.below(3) == 0 { random.below(256) as u8 } else { 0 })
                .collect();
            let fds = vec![file.as_raw_fd(); random.below(10) as usize];
            let flags = if random.below(8) == 0 { random.below(16) as u32 } else { 1 | (random.below(2) as u32) << 3 };
            if send(&socket, random.below(45) as u32, flags, &body, &fds).is_err() {
                break;
            }
        }
    }
    assert!(serves(&site), "{}", site.log());
}

#[test]
fn queues_of_any_bytes_break_that_queue_and_nothing_else() {
    let (site, _server, guest) = machine(1);
    drop(guest);
    let mut random = Random(5);
    for round in 0..60 {
        let mut guest = FrontEnd::new(2);
        guest.connect(&site.path("vhost"));
        // Descriptors that lead anywhere, then a request as usual, in the other queue too.
        for _ in 0..40 {
            let slot = random.below(128) as usize * 16;
            let address = if random.below(2) == 0 { GUEST + random.below(64 << 20) } else { random.below(u64::MAX) };
            guest.memory.put(slot, &address.to_le_bytes());
            guest.memory.put(slot + 8, &(random.below(1 << 20) as u32).to_le_bytes());
            guest.memory.put(slot + 12, &[random.below(8) as u8, 0, random.below(140) as u8, 0]);
        }
        for index in 0..8 {
            guest.memory.put(0x1004 + 2 * index, &(random.below(130) as u16).to_le_bytes());
        }
        let available = if random.below(4) == 0 { random.below(1 << 16) as u16 } else { random.below(8) as u16 };
        guest.memory.put(0x1002, &available.to_le_bytes());
        if round % 3 == 0 {
            guest.memory.put(0x4000, &[0xff; 0x1000]);
        }
        guest.kick(0);
        assert_eq!(guest.carry_out(1, WRITE, 160, DATA, 4096), 0, "the other queue goes on");
    }
    assert!(serves(&site), "{}", site.log());
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let (site, _server, mut guest) = machine(1);
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    for region in [[GUEST, 8192, 0, 0], [GUEST, 4096, 0, 4096], [u64::MAX, 4096, 0, 0], [GUEST, 0, 0, 0]] {
        let mut table = [1u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat();
        table.extend(region.iter().flat_map(|n| n.to_ne_bytes()));
        assert!(!guest.tell(5, &table, &[file.as_raw_fd()]), "{region:?}");
        guest = FrontEnd::new(1);
        guest.connect(&site.path("vhost"));
    }
    assert_eq!(guest.write(0, 0, &[1; 512]), 0);
}
