//! vhost-user: what a front end says, and what a guest puts into its memory.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use archipelago_service::vhost_user::fuzzing::{self, GUEST, MEMORY};

use super::nbd::Disk;
use super::{mode, with_mode};
use crate::Target;

/// Most parts of a request: what one system call takes.
const MAX_PARTS: usize = 1024;

/// The messages of a front end.
pub const MESSAGES: Target = Target {
    name: "vhost_messages",
    check: messages,
    seeds: || {
        let message = |request: u32, flags: u32, body: &[u8]| {
            let words = [request, flags, body.len() as u32].into_iter().flat_map(|word| word.to_ne_bytes());
            words.chain(body.iter().copied()).collect::<Vec<u8>>()
        };
        let config = [[0u32, 60, 0].iter().flat_map(|word| word.to_ne_bytes()).collect(), vec![0; 60]].concat();
        let queue = [0u32, 128].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        let setup = [
            message(1, 1, &[]),
            message(15, 1, &[]),
            message(16, 1, &0x3229u64.to_ne_bytes()),
            message(2, 1 | 8, &0x1_7000_0204u64.to_ne_bytes()),
            message(3, 1, &[]),
            message(17, 1, &[]),
            message(24, 1, &config),
            message(8, 1 | 8, &queue),
            message(10, 1 | 8, &queue),
            message(18, 1 | 8, &queue),
            message(11, 1, &queue),
            message(34, 1 | 8, &[]),
        ];
        vec![setup.concat(), message(5, 1 | 8, &[0; 40]), message(31, 1, &[0; 24]), message(9, 1 | 8, &[0; 40])]
    },
    max_len: 4096,
    memory: 4 << 20,
    cost: 20,
};

fn messages(input: &[u8]) {
    let (mut front, back) = UnixStream::pair().expect("a pair of sockets");
    // A socket's buffer takes any input; answers of a few bytes for each message fit as well.
    front.write_all(input).expect("room in the socket");
    front.shutdown(Shutdown::Write).expect("a socket");
    let _ = fuzzing::session(Arc::new(Disk::new(input.len().is_multiple_of(2))), &back);
    drop(back);
    let mut answers = Vec::new();
    // The back end may hang up with something unread.
    let _ = front.read_to_end(&mut answers);
    let mut rest = &answers[..];
    while let Some((head, behind)) = rest.split_first_chunk::<12>() {
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        assert_eq!(word(4) & 7, 1 | 4, "an answer of another version, or none");
        let asked = input.windows(4).any(|bytes| bytes == word(0).to_ne_bytes());
        assert!(asked, "an answer to request {}, which nobody made", word(0));
        rest = behind.get(word(8) as usize..).expect("a whole answer");
    }
    assert!(rest.is_empty(), "part of an answer");
}

/// A queue, and the memory around it.
pub const QUEUE: Target = Target {
    name: "vhost_queue",
    check: queue,
    seeds: || {
        let describe = |address: u64, len: u32, flags: u16, next: u16| {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend([flags, next].iter().flat_map(|n| n.to_le_bytes()));
            bytes
        };
        let mut memory = vec![0; 0x600];
        let chain = [
            describe(GUEST + 0x400, 16, 1, 1),
            describe(GUEST + 0x1000, 4096, 3, 2),
            describe(GUEST + 0x410, 1, 2, 0),
            describe(GUEST + 0x500, 48, 4, 0),
        ];
        memory[..64].copy_from_slice(&chain.concat());
        memory[0x500..0x530].copy_from_slice(&chain[..3].concat());
        memory[0x102..0x108].copy_from_slice(&[2, 0, 0, 0, 3, 0]);
        (0..4).map(|bits| with_mode(bits, &memory)).collect()
    },
    max_len: MEMORY,
    memory: 1 << 20,
    cost: 10,
};

fn queue(input: &[u8]) {
    let (bits, memory) = mode(input);
    let (requests, broken) = fuzzing::queue(memory, bits & 1 != 0, bits & 2 != 0).expect("memory");
    for request in &requests {
        assert!(request.readable.len() + request.writable.len() <= MAX_PARTS);
        for (start, len) in request.readable.iter().chain(&request.writable) {
            assert!(*len > 0 && start.checked_add(*len).is_some_and(|end| end <= MEMORY), "{len} bytes at {start}");
        }
    }
    assert!(broken.is_none_or(|text| !text.is_empty()));
}
