//! Sessions of the NBD endpoint played byte by byte over a socket: what well-behaved clients never send, and what happens
//! when they leave.
// Helpers outside of test functions may stop the test, too.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/memory_disk.rs"]
mod memory_disk;
#[path = "support/memory_server.rs"]
mod memory_server;
#[path = "support/raw_client.rs"]
mod raw_client;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use archipelago_service::nbd::wire::{chunk, command, command_flag, flag, info, option, reply};
use archipelago_service::nbd::{ServerOptions, errors, wire};
use memory_disk::MemoryDisk;
use memory_server::{Fixture, SIZE, serve, serve_with};
use raw_client::{Client, contexts, go, opt, request};

/// Data in which no two nearby pieces are alike.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..len).map(|_| byte()).collect()
}

#[test]
fn s51_a_client_that_leaves_at_any_byte_leaves_nothing_behind() {
    let fixture = serve();
    let mut script = 3u32.to_be_bytes().to_vec();
    script.extend(opt(option::LIST, &[]));
    script.extend(opt(option::STRUCTURED_REPLY, &[]));
    script.extend(opt(option::SET_META_CONTEXT, &contexts("disk", &[wire::BASE_ALLOCATION])));
    script.extend(opt(option::INFO, &go("disk", &[info::NAME])));
    script.extend(opt(option::GO, &go("disk", &[info::BLOCK_SIZE])));
    let transmission = script.len();
    script.extend(request(command::WRITE, 0, 1, 4096, 16));
    script.extend([7; 16]);
    script.extend(request(command::READ, 0, 2, 4096, 512));
    script.extend(request(command::BLOCK_STATUS, 0, 3, 0, 1 << 20));
    script.extend(request(command::FLUSH, 0, 4, 0, 0));
    script.extend(request(command::DISC, 0, 5, 0, 0));
    for cut in 0..script.len() {
        let mut client = fixture.connect();
        client.send(&script[..cut]);
        // Half of them leave without reading what was sent to them.
        if cut % 2 == 0 {
            client.0.shutdown(std::net::Shutdown::Write).unwrap();
            let mut all = Vec::new();
            client.0.read_to_end(&mut all).unwrap();
            assert!(all.len() >= 18);
            if cut > transmission + 28 + 16 {
                assert!(all.windows(4).any(|w| w == wire::SIMPLE_REPLY_MAGIC.to_be_bytes()), "cut at {cut}");
            }
        }
    }
    fixture.wait_until_nobody_is_left();
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter(|task| {
        let name = std::fs::read_to_string(task.as_ref().unwrap().path().join("comm"));
        name.is_ok_and(|name| name.trim_end().strip_prefix("nbd-").is_some_and(|n| n.parse::<u64>().is_ok()))
    });
    // Other tests of this process may have connections at the moment, but not as many as were made here.
    assert!(threads.count() < script.len() / 4);
}

#[test]
fn s51_a_client_that_leaves_in_a_large_write_leaves_nothing_behind() {
    let fixture = serve();
    for sent in [0, 1, 4096, 65_535, 256 << 10, 300 << 10, 1 << 20, (3 << 20) - 1] {
        let mut client = fixture.attached(false);
        client.request(command::WRITE, 0, 1, 12_345, 3 << 20);
        client.send(&vec![1; sent]);
    }
    fixture.wait_until_nobody_is_left();
}

#[test]
fn s51_a_client_that_does_not_read_its_replies_ends_with_its_connection() {
    let fixture = serve();
    let mut client = fixture.attached(false);
    for cookie in 0..64 {
        client.request(command::READ, 0, cookie, 0, 1 << 20);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(fixture.server.connections(), 1);
    drop(client);
    fixture.wait_until_nobody_is_left();
}

#[test]
fn s51_oversized_options_are_answered_up_to_a_mebibyte_and_end_the_connection_above() {
    let fixture = serve();
    let mut client = fixture.connect();
    client.greet(3);
    for len in [(64 << 10) + 1, 1 << 20] {
        assert_eq!(client.ask(option::GO, &vec![0; len])[0].0, reply::ERR_TOO_BIG);
    }
    assert_eq!(client.ask(option::INFO, &go("disk", &[])).last().unwrap().0, reply::ACK, "goes on");
    for len in [(1 << 20) + 1, u32::MAX] {
        let mut client = fixture.connect();
        client.greet(3);
        let mut header = opt(option::LIST, &[]);
        header[12..].copy_from_slice(&len.to_be_bytes());
        client.send(&header);
        assert_eq!(client.answer(option::LIST).0, reply::ERR_TOO_BIG);
        assert!(client.is_closed());
    }
}

#[test]
fn s51_unknown_handshake_flags_and_magic_numbers_end_the_connection() {
    let fixture = serve();
    for flags in [4, 7, 1 << 31, u32::MAX] {
        let mut client = fixture.connect();
        client.greet(flags);
        assert!(client.is_closed());
    }
    let mut client = fixture.connect();
    client.greet(3);
    client.send(&[b'x'; 16]);
    assert!(client.is_closed());
    let mut client = fixture.attached(false);
    client.request(command::READ, 0, 9, 0, 512);
    client.send(&[b'x'; 28]);
    assert_eq!(client.simple(), (0, 9), "what came before is answered");
    client.take_vec(512);
    assert!(client.is_closed());
}

#[test]
fn s51_options_out_of_order_are_refused_and_the_negotiation_goes_on() {
    let fixture = serve();
    let mut client = fixture.connect();
    client.greet(3);
    let base = contexts("disk", &[wire::BASE_ALLOCATION]);
    assert_eq!(client.ask(option::SET_META_CONTEXT, &base)[0].0, reply::ERR_INVALID);
    assert_eq!(client.ask(option::LIST_META_CONTEXT, &base)[0].0, reply::ERR_INVALID);
    assert_eq!(client.ask(option::STRUCTURED_REPLY, &[1])[0].0, reply::ERR_INVALID);
    assert_eq!(client.ask(option::STRUCTURED_REPLY, &[])[0].0, reply::ACK);
    assert_eq!(client.ask(option::STRUCTURED_REPLY, &[])[0].0, reply::ERR_INVALID);
    assert_eq!(client.ask(option::LIST, &[0])[0].0, reply::ERR_INVALID);
    for unsupported in [0, 4, 5, 12, 12_345, u32::MAX] {
        assert_eq!(client.ask(unsupported, &[])[0].0, reply::ERR_UNSUP, "option {unsupported}");
    }
    assert_eq!(client.ask(option::GO, &go("nothing", &[]))[0].0, reply::ERR_UNKNOWN);
    assert_eq!(client.ask(option::GO, b"")[0].0, reply::ERR_INVALID);
    let answers = client.ask(option::GO, &go("", &[info::NAME, info::DESCRIPTION, info::BLOCK_SIZE, 99]));
    let kinds: Vec<u16> = answers[..4].iter().map(|(_, d)| u16::from_be_bytes([d[0], d[1]])).collect();
    assert_eq!(kinds, [info::EXPORT, info::NAME, info::DESCRIPTION, info::BLOCK_SIZE]);
    assert_eq!(&answers[1].1[2..], b"disk");
    client.request(command::BLOCK_STATUS, 0, 1, 0, 4096);
    let (_, kind, _, content) = client.chunk();
    assert_eq!((kind, &content[..4]), (chunk::ERROR, &errors::EINVAL.to_be_bytes()[..]), "no context was chosen");
}

#[test]
fn a_meta_context_holds_for_the_export_that_it_was_chosen_for() {
    let fixture = serve();
    let mut client = fixture.connect();
    client.greet(3);
    client.ask(option::STRUCTURED_REPLY, &[]);
    assert_eq!(client.ask(option::LIST_META_CONTEXT, &contexts("disk", &[])).len(), 2);
    assert_eq!(client.ask(option::LIST_META_CONTEXT, &contexts("disk", &["base:"])).len(), 2);
    assert_eq!(client.ask(option::LIST_META_CONTEXT, &contexts("disk", &["other:"])).len(), 1);
    assert_eq!(client.ask(option::SET_META_CONTEXT, &contexts("disk", &["base:"])).len(), 1, "no wildcard here");
    assert_eq!(client.ask(option::SET_META_CONTEXT, &contexts("", &["x:y", wire::BASE_ALLOCATION])).len(), 2);
    // The default export is the same by its name.
    client.ask(option::GO, &go("disk", &[]));
    client.request(command::BLOCK_STATUS, 0, 1, 0, 4096);
    assert_eq!(client.chunk().1, chunk::BLOCK_STATUS);
}

#[test]
fn s51_a_plain_newstyle_client_may_only_enter_an_export() {
    let fixture = serve();
    let mut client = fixture.connect();
    client.greet(0);
    client.send(&opt(option::EXPORT_NAME, b"disk"));
    let facts: [u8; 134] = client.take();
    assert_eq!(facts[..8], SIZE.to_be_bytes());
    let flags = u16::from_be_bytes([facts[8], facts[9]]);
    assert_eq!(flags & (flag::HAS_FLAGS | flag::SEND_DF | flag::READ_ONLY), flag::HAS_FLAGS);
    assert!(facts[10..].iter().all(|b| *b == 0));
    client.request(command::READ, 0, 3, 0, 16);
    assert_eq!(client.simple(), (0, 3));
    let mut client = fixture.connect();
    client.greet(0);
    client.send(&opt(option::LIST, &[]));
    assert!(client.is_closed());
    for name in [&b"nothing"[..], &[b'n'; 4097], &[0xff; 3]] {
        let mut client = fixture.connect();
        client.greet(2);
        client.send(&opt(option::EXPORT_NAME, name));
        assert!(client.is_closed());
    }
}

#[test]
fn s51_more_options_than_any_client_needs_end_the_connection() {
    let fixture = serve();
    let mut client = fixture.connect();
    client.greet(3);
    for _ in 0..1000 {
        assert_eq!(client.ask(12_345, &[])[0].0, reply::ERR_UNSUP);
    }
    client.send(&opt(12_345, &[]));
    assert!(client.is_closed());
}

#[test]
fn s51_a_negotiation_has_a_deadline_that_slow_bytes_do_not_extend() {
    let options = ServerOptions { negotiation_time: Duration::from_millis(300), ..ServerOptions::default() };
    let fixture = serve_with(MemoryDisk::new(SIZE, false), options);
    let mut client = fixture.connect();
    client.greet(3);
    let begin = Instant::now();
    while client.0.write_all(&[0x49]).is_ok() && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begin.elapsed() < Duration::from_secs(3));
    fixture.wait_until_nobody_is_left();
}

#[test]
fn s51_connections_past_the_limit_are_told_and_a_flood_beyond_is_closed() {
    let options = ServerOptions { max_connections: 2, ..ServerOptions::default() };
    let fixture = serve_with(MemoryDisk::new(SIZE, false), options);
    let (_one, mut two) = (fixture.attached(false), fixture.attached(false));
    let mut third = fixture.connect();
    third.greet(3);
    let answer = &third.ask(option::GO, &go("disk", &[]))[0];
    assert_eq!(answer.0, reply::ERR_POLICY);
    assert!(String::from_utf8_lossy(&answer.1).contains("2 connections"));
    let flood: Vec<Client> = (0..100).map(|_| fixture.connect()).collect();
    std::thread::sleep(Duration::from_millis(100));
    assert!(fixture.server.connections() <= 2 + 8);
    two.request(command::READ, 0, 1, 0, 1);
    assert_eq!(two.simple().0, 0, "those inside are not disturbed");
    drop((flood, third, two));
    let begin = Instant::now();
    while fixture.server.connections() > 1 && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    fixture.attached(false);
}

#[test]
fn s51_a_write_above_the_limit_is_answered_and_ends_the_connection() {
    let fixture = serve();
    let mut client = fixture.attached(false);
    client.request(command::WRITE, 0, 5, 0, (32 << 20) + 1);
    assert_eq!(client.simple(), (errors::EINVAL, 5));
    assert!(client.is_closed());
}

#[test]
fn s51_refused_writes_of_any_size_leave_the_stream_in_step() {
    let fixture = serve();
    let mut client = fixture.attached(false);
    for (offset, len, flags, error) in [
        (SIZE, 1, 0, errors::ENOSPC),
        (u64::MAX, 4096, 0, errors::ENOSPC),
        (u64::MAX - 5, 1 << 20, 0, errors::ENOSPC),
        (SIZE - 4096, 5 << 20, 0, errors::ENOSPC),
        (0, 70_000, command_flag::DF, errors::EINVAL),
        (0, 8, 0x8000, errors::EINVAL),
        (0, 0, 0, errors::EINVAL),
    ] {
        client.request(command::WRITE, flags, 77, offset, len);
        client.send(&vec![9; len as usize]);
        assert_eq!(client.simple(), (error, 77), "{len} bytes at {offset}");
    }
    client.request(command::READ, 0, 78, 0, 4096);
    assert_eq!(client.simple(), (0, 78));
    assert_eq!(client.take::<4096>(), [0; 4096], "nothing was written");
}

#[test]
fn s54_a_read_only_export_refuses_what_writes_and_says_so_in_its_flags() {
    let fixture = serve_with(MemoryDisk::new(SIZE, true), ServerOptions::default());
    let mut client = fixture.connect();
    client.greet(3);
    let answers = client.ask(option::GO, &go("disk", &[]));
    let flags = u16::from_be_bytes([answers[0].1[10], answers[0].1[11]]);
    let writing = flag::SEND_FUA | flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO;
    assert_eq!(flags & (flag::READ_ONLY | writing), flag::READ_ONLY);
    for len in [4096u32, 2 << 20] {
        client.request(command::WRITE, 0, 1, 0, len);
        client.send(&vec![1; len as usize]);
        assert_eq!(client.simple(), (errors::EPERM, 1));
    }
    for (command, flags) in [(command::TRIM, 0), (command::WRITE_ZEROES, command_flag::NO_HOLE)] {
        client.request(command, flags, 2, 0, 4096);
        assert_eq!(client.simple(), (errors::EPERM, 2));
    }
    client.request(command::FLUSH, 0, 3, 0, 0);
    assert_eq!(client.simple(), (0, 3));
}

#[test]
fn writes_of_every_size_and_alignment_are_read_back() {
    let fixture = serve();
    for structured in [false, true] {
        let mut client = fixture.attached(structured);
        for (round, len) in
            [1u32, 511, 4096, 65_536, 65_537, 262_116, 262_144, 300_001, 1 << 20, (5 << 20) + 13, 32 << 20]
                .into_iter()
                .enumerate()
        {
            let offset = [0, 4096, 4_097, 1_048_575][round % 4];
            let data = pattern(len as usize, round as u32 * 2 + 1 + u32::from(structured));
            client.request(command::WRITE, command_flag::FUA, 1, offset, len);
            let mut socket = client.0.try_clone().unwrap();
            let sender = std::thread::spawn(move || {
                socket.write_all(&data).unwrap();
                data
            });
            let data = sender.join().unwrap();
            assert_eq!(client.simple(), (0, 1));
            if structured {
                client.request(command::READ, command_flag::DF, 2, offset, len);
                let (_, kind, cookie, content) = client.chunk();
                assert_eq!((kind, cookie, &content[..8]), (chunk::OFFSET_DATA, 2, &offset.to_be_bytes()[..]));
                assert!(content[8..] == data[..], "{len} bytes");
                if len > 1 << 20 {
                    assert_eq!(client.chunk(), (chunk::DONE, chunk::NONE, 2, vec![]));
                }
            } else {
                client.request(command::READ, 0, 2, offset, len);
                assert_eq!(client.simple(), (0, 2));
                assert!(client.take_vec(len as usize) == data, "{len} bytes");
            }
        }
    }
    let syncs = fixture.exports.disks["disk"].syncs.load(Ordering::SeqCst);
    assert_eq!(syncs, 22, "each durable write is made durable once");
}

#[test]
fn a_structured_read_is_answered_in_holes_and_data_that_cover_it_once() {
    let fixture = serve();
    let mut client = fixture.attached(true);
    let data = pattern(70_000, 5);
    client.request(command::WRITE, 0, 1, 1 << 20, 70_000);
    client.send(&data);
    assert_eq!(client.simple(), (0, 1));
    client.request(command::READ, 0, 2, 0, 4 << 20);
    let mut image = vec![0xaa; 4 << 20];
    let (mut covered, mut holes) = (0, 0);
    loop {
        let (flags, kind, cookie, content) = client.chunk();
        assert_eq!(cookie, 2);
        let at = u64::from_be_bytes(content[..8].try_into().unwrap()) as usize;
        let len = match kind {
            chunk::OFFSET_DATA => {
                image[at..at + content.len() - 8].copy_from_slice(&content[8..]);
                content.len() - 8
            }
            chunk::OFFSET_HOLE => {
                let len = u32::from_be_bytes(content[8..].try_into().unwrap()) as usize;
                image[at..at + len].fill(0);
                holes += len;
                len
            }
            other => panic!("chunk type {other}"),
        };
        covered += len;
        if flags & chunk::DONE != 0 {
            break;
        }
    }
    assert_eq!(covered, 4 << 20);
    assert_eq!(holes, (4 << 20) - (128 << 10), "all but two allocated pages");
    assert!(image[1 << 20..(1 << 20) + 70_000] == data[..]);
    assert!(image[..1 << 20].iter().all(|b| *b == 0));
}

#[test]
fn a_device_error_is_told_in_every_form_of_reply() {
    let mut disk = MemoryDisk::new(SIZE, false);
    disk.broken_at = 3 << 20;
    let fixture = serve_with(disk, ServerOptions::default());
    // Small, structured or not.
    let mut client = fixture.attached(false);
    client.request(command::READ, 0, 1, 3 << 20, 512);
    assert_eq!(client.simple(), (errors::EIO, 1));
    client.request(command::WRITE, 0, 2, (3 << 20) - 1, 2);
    client.send(&[0; 2]);
    assert_eq!(client.simple(), (errors::EIO, 2));
    // In the middle of a reply that said that all is well: nothing but the end is left.
    client.request(command::READ, 0, 3, 0, 8 << 20);
    assert_eq!(client.simple(), (0, 3));
    let mut rest = Vec::new();
    let _ = client.0.read_to_end(&mut rest);
    assert!(rest.len() < 8 << 20);
    // In one piece on the wire, and then the error with its place.
    let mut client = fixture.attached(true);
    client.request(command::READ, command_flag::DF, 4, 0, 8 << 20);
    assert_eq!(client.chunk().3.len(), (8 << 20) + 8);
    let (flags, kind, cookie, content) = client.chunk();
    assert_eq!((flags, kind, cookie), (chunk::DONE, chunk::ERROR_OFFSET, 4));
    assert_eq!(content[..4], errors::EIO.to_be_bytes());
    // The stream is still in step.
    client.request(command::READ, 0, 5, 0, 16);
    assert_eq!(client.chunk().2, 5);
    client.request(command::WRITE, 0, 6, 1 << 20, 4 << 20);
    client.send(&vec![1; 4 << 20]);
    let (_, kind, cookie, content) = client.chunk();
    assert_eq!((kind, cookie, &content[..4]), (chunk::ERROR, 6, &errors::EIO.to_be_bytes()[..]));
    client.request(command::FLUSH, 0, 7, 0, 0);
    assert_eq!(client.simple(), (0, 7));
}

#[test]
fn s51_block_status_replies_are_bounded_and_honour_req_one() {
    let fixture = serve_with(MemoryDisk::new(1 << 30, false), ServerOptions::default());
    let mut client = fixture.attached(true);
    // Every second page of 64 KiB: 8,192 runs and more.
    for page in (0..16_384u64).step_by(2) {
        client.request(command::WRITE, 0, page, page << 16, 1);
        client.send(&[1]);
        assert_eq!(client.simple(), (0, page));
    }
    client.request(command::BLOCK_STATUS, 0, 1, 0, 1 << 30);
    let (flags, kind, _, content) = client.chunk();
    assert_eq!((flags, kind), (chunk::DONE, chunk::BLOCK_STATUS));
    assert_eq!(content.len(), 4 + 8 * 2048);
    assert_eq!(content[..4], wire::BASE_ALLOCATION_ID.to_be_bytes());
    for (i, extent) in content[4..].chunks(8).enumerate() {
        assert_eq!(extent[..4], (64u32 << 10).to_be_bytes());
        assert_eq!(extent[7], if i % 2 == 0 { 0 } else { 3 });
    }
    client.request(command::BLOCK_STATUS, command_flag::REQ_ONE, 2, 65_536 + 7, 1 << 20);
    let (_, _, _, content) = client.chunk();
    assert_eq!(content.len(), 12);
    assert_eq!(content[4..8], (65_536u32 - 7).to_be_bytes());
    // As many as fit are answered for a client that sends many at once.
    for cookie in 0..200 {
        client.request(command::BLOCK_STATUS, 0, cookie, 0, 1 << 30);
    }
    for cookie in 0..200 {
        assert_eq!(client.chunk().2, cookie);
    }
}

#[test]
fn replies_keep_the_order_of_requests_and_cookies_may_repeat() {
    let fixture = serve();
    let mut client = fixture.attached(false);
    let mut batch = Vec::new();
    for n in 0..500u64 {
        match n % 4 {
            0 => batch.extend(request(command::READ, 0, n, n * 4096, 4096)),
            1 => {
                batch.extend(request(command::WRITE, 0, n, n * 4096, 4096));
                batch.extend(pattern(4096, n as u32));
            }
            2 => batch.extend(request(command::FLUSH, 0, 42, 0, 0)),
            _ => batch.extend(request(99, 0, n, 0, 0)),
        }
    }
    let mut socket = client.0.try_clone().unwrap();
    let sender = std::thread::spawn(move || socket.write_all(&batch).unwrap());
    for n in 0..500u64 {
        let expected = match n % 4 {
            2 => (0, 42),
            3 => (errors::EINVAL, n),
            _ => (0, n),
        };
        assert_eq!(client.simple(), expected);
        if n % 4 == 0 {
            client.take::<4096>();
        }
    }
    sender.join().unwrap();
}

#[test]
fn a_stop_answers_what_was_received_and_shuts_down_the_rest() {
    let mut disk = MemoryDisk::new(SIZE, false);
    disk.flush_time = Duration::from_millis(300);
    let Fixture { _dir, path, exports, server } = serve_with(disk, ServerOptions::default());
    let stream = UnixStream::connect(&path).unwrap();
    let mut client = Client(stream);
    client.greet(3);
    client.ask(option::GO, &go("disk", &[]));
    let _idle = UnixStream::connect(&path).unwrap();
    // The first is at work, the second waits with it, the third arrives in the socket while the first runs.
    let mut both = request(command::FLUSH, 0, 1, 0, 0);
    both.extend(request(command::WRITE, 0, 2, 0, 4));
    both.extend([1, 2, 3, 4]);
    client.send(&both);
    std::thread::sleep(Duration::from_millis(100));
    client.request(command::READ, 0, 3, 0, 4);
    let stopped = server.stop();
    assert_eq!((stopped.cut, stopped.stuck), (0, 0));
    assert_eq!(client.simple(), (0, 1));
    assert_eq!(client.simple(), (0, 2));
    assert_eq!(client.simple(), (errors::ESHUTDOWN, 3));
    assert!(client.is_closed());
    assert!(!path.exists());
    assert_eq!(exports.open_handles(), 0);
    let syncs = exports.disks["disk"].syncs.load(Ordering::SeqCst);
    assert!(syncs >= 2, "the client's flush and the stop's: {syncs}");
}

#[test]
fn a_stop_cuts_off_a_client_that_does_not_read() {
    let options = ServerOptions { stop_grace: Duration::from_millis(300), ..ServerOptions::default() };
    let Fixture { _dir, path, exports, server } = serve_with(MemoryDisk::new(SIZE, false), options);
    let stream = UnixStream::connect(&path).unwrap();
    let mut client = Client(stream);
    client.greet(3);
    client.ask(option::GO, &go("disk", &[]));
    for cookie in 0..16 {
        client.request(command::READ, 0, cookie, 0, 1 << 20);
    }
    std::thread::sleep(Duration::from_millis(100));
    let stopped = server.stop();
    assert_eq!((stopped.cut, stopped.stuck), (1, 0));
    assert_eq!(exports.open_handles(), 0);
}

#[test]
fn an_idle_connection_uses_no_processor_time() {
    let fixture = serve();
    let mut client = fixture.attached(false);
    client.request(command::READ, 0, 1, 0, 16);
    client.simple();
    std::thread::sleep(Duration::from_millis(50));
    let used = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|t| {
            let dir = t.ok()?.path();
            let name = std::fs::read_to_string(dir.join("comm")).ok()?;
            // This connection's thread is asleep in a receive; others of this process may be busy, so take the least.
            name.starts_with("nbd-").then(|| std::fs::read_to_string(dir.join("schedstat")).ok())?
        });
        tasks.filter_map(|s| s.split(' ').next()?.parse::<u64>().ok()).min().unwrap_or(0)
    };
    let before = used();
    std::thread::sleep(Duration::from_millis(200));
    assert!(used().saturating_sub(before) < 20_000_000, "nanoseconds");
}
