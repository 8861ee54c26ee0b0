//! Extended headers, and what clients see of a disk that changes its size, byte by byte.
// Helpers outside of test functions may stop the test, too.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/memory_disk.rs"]
mod memory_disk;
#[path = "support/memory_server.rs"]
mod memory_server;
#[path = "support/raw_client.rs"]
mod raw_client;

use archipelago_service::nbd::wire::{chunk, command, command_flag, flag, option, reply};
use archipelago_service::nbd::{ServerOptions, errors, wire};
use memory_disk::MemoryDisk;
use memory_server::{Fixture, SIZE, serve, serve_with};
use raw_client::{Client, contexts, go};

const GIB: u64 = 1 << 30;

/// A client with extended headers and block status, and the transmission flags that it was told.
fn extended(fixture: &Fixture) -> (Client, u16) {
    let mut client = fixture.connect();
    client.greet(3);
    assert_eq!(client.ask(option::EXTENDED_HEADERS, &[]).last().unwrap().0, reply::ACK);
    assert_eq!(client.ask(option::SET_META_CONTEXT, &contexts("disk", &[wire::BASE_ALLOCATION])).len(), 2);
    let answers = client.ask(option::GO, &go("disk", &[]));
    (client, u16::from_be_bytes([answers[0].1[10], answers[0].1[11]]))
}

/// Extents of a whole reply.
fn status(content: &[u8]) -> Vec<(u64, u64)> {
    assert_eq!(content[..4], wire::BASE_ALLOCATION_ID.to_be_bytes());
    let extents = content[8..]
        .chunks(16)
        .map(|e| (u64::from_be_bytes(e[..8].try_into().unwrap()), u64::from_be_bytes(e[8..].try_into().unwrap())));
    let extents: Vec<_> = extents.collect();
    assert_eq!(content[4..8], (extents.len() as u32).to_be_bytes());
    extents
}

fn error(content: &[u8]) -> u32 {
    u32::from_be_bytes(content[..4].try_into().unwrap())
}

#[test]
fn s51_extended_headers_are_agreed_on_once_and_not_taken_back() {
    let fixture = serve();
    let mut client = fixture.connect();
    client.greet(3);
    assert_eq!(client.ask(option::EXTENDED_HEADERS, &[0])[0].0, reply::ERR_INVALID);
    assert_eq!(client.ask(option::STRUCTURED_REPLY, &[])[0].0, reply::ACK);
    assert_eq!(client.ask(option::EXTENDED_HEADERS, &[])[0].0, reply::ACK);
    assert_eq!(client.ask(option::EXTENDED_HEADERS, &[])[0].0, reply::ERR_INVALID);
    assert_eq!(client.ask(option::STRUCTURED_REPLY, &[])[0].0, reply::ERR_EXT_HEADER_REQD);
    // Without a context there is no payload that could name one.
    let answers = client.ask(option::GO, &go("disk", &[]));
    let flags = u16::from_be_bytes([answers[0].1[10], answers[0].1[11]]);
    assert_eq!(flags & (flag::SEND_DF | flag::BLOCK_STAT_PAYLOAD), flag::SEND_DF);
    // A request in the old form ends the connection.
    client.request(command::READ, 0, 1, 0, 512);
    client.send(&[0; 4]);
    assert!(client.is_closed());
}

#[test]
fn every_reply_after_extended_headers_is_a_chunk_with_the_offset_of_its_request() {
    let fixture = serve();
    let (mut client, flags) = extended(&fixture);
    assert_ne!(flags & flag::BLOCK_STAT_PAYLOAD, 0);
    for len in [1u64, 4096, 70_000, 3 << 20] {
        let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let payload = command_flag::PAYLOAD_LEN;
        client.extended(command::WRITE, payload | command_flag::FUA, len, 4097, len, &data);
        assert_eq!(client.extended_chunk(), (chunk::DONE, chunk::NONE, len, 4097, vec![]));
        client.extended(command::READ, command_flag::DF, 9, 4097, len, &[]);
        let (flags, kind, cookie, offset, content) = client.extended_chunk();
        assert_eq!((kind, cookie, offset), (chunk::OFFSET_DATA, 9, 4097));
        assert_eq!(content[..8], 4097u64.to_be_bytes());
        assert!(content[8..] == data[..], "{len} bytes");
        if flags & chunk::DONE == 0 {
            assert_eq!(client.extended_chunk(), (chunk::DONE, chunk::NONE, 9, 4097, vec![]));
        }
    }
    client.extended(command::READ, 0, 10, 32 << 20, 1 << 20, &[]);
    let (_, kind, _, offset, content) = client.extended_chunk();
    assert_eq!((kind, offset, content.len()), (chunk::OFFSET_HOLE, 32 << 20, 12));
    client.extended(command::FLUSH, 0, 11, 0, 0, &[]);
    assert_eq!(client.extended_chunk(), (chunk::DONE, chunk::NONE, 11, 0, vec![]));
    client.extended(command::READ, 0, 12, SIZE, 1, &[]);
    let (flags, kind, cookie, offset, content) = client.extended_chunk();
    assert_eq!((flags, kind, cookie, offset), (chunk::DONE, chunk::ERROR, 12, SIZE));
    assert_eq!(error(&content), errors::EINVAL);
}

#[test]
fn lengths_beyond_32_bits_are_taken_and_told() {
    let size = 6 * GIB;
    let fixture = serve_with(MemoryDisk::new(size, false), ServerOptions::default());
    let (mut client, _) = extended(&fixture);
    let disk = &fixture.exports.disks["disk"];
    let write = |client: &mut Client, offset| {
        client.extended(command::WRITE, command_flag::PAYLOAD_LEN, 1, offset, 1, &[7]);
        assert_eq!(client.extended_chunk().1, chunk::NONE);
    };
    let read = |client: &mut Client| {
        client.extended(command::BLOCK_STATUS, 0, 2, 0, size, &[]);
        let (flags, kind, cookie, offset, content) = client.extended_chunk();
        assert_eq!((flags, kind, cookie, offset), (chunk::DONE, chunk::BLOCK_STATUS_EXT, 2, 0));
        status(&content)
    };
    assert_eq!(read(&mut client), [(size, 3)]);
    for (command, flags) in [(command::TRIM, command_flag::FUA), (command::WRITE_ZEROES, command_flag::FUA)] {
        write(&mut client, 0);
        write(&mut client, 5 * GIB);
        assert_eq!(read(&mut client), [(65_536, 0), (5 * GIB - 65_536, 3), (65_536, 0), (GIB - 65_536, 3)]);
        let before = disk.syncs.load(std::sync::atomic::Ordering::SeqCst);
        client.extended(command, flags, 3, 0, size, &[]);
        assert_eq!(client.extended_chunk(), (chunk::DONE, chunk::NONE, 3, 0, vec![]));
        assert_eq!(read(&mut client), [(size, 3)]);
        assert_eq!(disk.syncs.load(std::sync::atomic::Ordering::SeqCst), before + 1, "durable once");
    }
    client.extended(command::READ, 0, 4, 0, 4 * GIB + 512, &[]);
    assert_eq!(error(&client.extended_chunk().4), errors::EINVAL, "and not 512 bytes");
    client.extended(command::TRIM, 0, 5, GIB, u64::MAX - 100, &[]);
    assert_eq!(error(&client.extended_chunk().4), errors::EINVAL);
}

#[test]
fn s51_a_status_request_may_name_its_contexts_in_a_payload() {
    let fixture = serve();
    let (mut client, _) = extended(&fixture);
    let payload = |len: u64, ids: &[u32]| {
        let mut bytes = len.to_be_bytes().to_vec();
        ids.iter().for_each(|id| bytes.extend(id.to_be_bytes()));
        bytes
    };
    let mut ask = |cookie, bytes: &[u8]| {
        let len = bytes.len() as u64;
        client.extended(command::BLOCK_STATUS, command_flag::PAYLOAD_LEN, cookie, 0, len, bytes);
        client.extended_chunk()
    };
    let (_, kind, _, _, content) = ask(1, &payload(SIZE, &[wire::BASE_ALLOCATION_ID]));
    assert_eq!((kind, status(&content)), (chunk::BLOCK_STATUS_EXT, vec![(SIZE, 3)]));
    for (cookie, bytes) in [
        (2, payload(SIZE, &[])),
        (3, payload(SIZE, &[2])),
        (4, payload(SIZE, &[1, 1])),
        (5, payload(SIZE + 1, &[1])),
        (6, payload(0, &[1])),
        (7, vec![1]),
        (8, vec![0; 100_000]),
    ] {
        let (_, kind, answered, _, content) = ask(cookie, &bytes);
        assert_eq!((kind, answered, error(&content)), (chunk::ERROR, cookie, errors::EINVAL));
    }
}

#[test]
fn s51_a_payload_where_none_belongs_leaves_the_stream_in_step() {
    let fixture = serve();
    let (mut client, _) = extended(&fixture);
    let junk = vec![0x25; 300_000];
    for command in
        [command::READ, command::DISC, command::FLUSH, command::TRIM, command::CACHE, command::WRITE_ZEROES, 99]
    {
        for len in [1, 32, 4096, junk.len()] {
            let flags = command_flag::PAYLOAD_LEN;
            client.extended(command, flags, 5, 0, len as u64, &junk[..len]);
            let (_, kind, cookie, _, content) = client.extended_chunk();
            assert_eq!((kind, cookie, error(&content)), (chunk::ERROR, 5, errors::EINVAL), "{command} with {len}");
        }
    }
    client.extended(command::READ, 0, 6, 0, 4096, &[]);
    assert!(client.extended_chunk().4[8..].iter().all(|b| *b == 0), "nothing was written");
    // Some clients do not say that a write has one.
    client.extended(command::WRITE, 0, 7, 0, 4096, &junk[..4096]);
    assert_eq!(client.extended_chunk(), (chunk::DONE, chunk::NONE, 7, 0, vec![]));
    for command in [command::WRITE, command::BLOCK_STATUS, command::READ] {
        let (mut client, _) = extended(&fixture);
        client.extended(command, command_flag::PAYLOAD_LEN, 8, 0, (32 << 20) + 1, &[]);
        assert_eq!(error(&client.extended_chunk().4), errors::EINVAL);
        assert!(client.is_closed());
    }
}

#[test]
fn a_client_reaches_what_a_disk_grew_by_and_not_what_it_lost_and_the_next_is_told_its_size() {
    let fixture = serve();
    let disk = &fixture.exports.disks["disk"];
    let size_told = || {
        let mut client = fixture.connect();
        client.greet(3);
        u64::from_be_bytes(client.ask(option::INFO, &go("disk", &[]))[0].1[2..10].try_into().unwrap())
    };
    disk.resize(SIZE / 2);
    let mut client = fixture.attached(false);
    let mut read = |offset| {
        client.request(command::READ, 0, 1, offset, 1);
        let error = client.simple().0;
        if error == 0 {
            client.take::<1>();
        }
        error
    };
    assert_eq!((size_told(), read(SIZE / 2 - 1), read(SIZE / 2)), (SIZE / 2, 0, errors::EINVAL));
    disk.resize(SIZE);
    assert_eq!((size_told(), read(SIZE / 2), read(SIZE)), (SIZE, 0, errors::EINVAL));
    disk.resize(4096);
    assert_eq!((size_told(), read(4095), read(4096)), (4096, 0, errors::EINVAL));
}

#[test]
fn a_client_that_was_silent_for_long_goes_on_with_all_its_data() {
    let fixture = serve();
    let mut client = fixture.attached(false);
    let data = vec![0x5a; 200_000];
    for pause in [1300, 0, 1300] {
        client.request(command::WRITE, 0, 1, 4096, data.len() as u32);
        client.send(&data[..100]);
        // In the middle of a payload, and between requests.
        std::thread::sleep(std::time::Duration::from_millis(pause));
        client.send(&data[100..]);
        assert_eq!(client.simple(), (0, 1));
        std::thread::sleep(std::time::Duration::from_millis(pause));
        client.request(command::READ, 0, 2, 4096, data.len() as u32);
        assert_eq!(client.simple(), (0, 2));
        assert!(client.take_vec(data.len()) == data);
    }
}
