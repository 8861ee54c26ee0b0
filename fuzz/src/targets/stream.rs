//! Send streams: header, frames and resume tokens, and the reception of a whole stream into a store.

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::format::stream::{
    Base, FRAME_HEAD, FrameHead, FrameKind, HASH, HEADER_FIXED, Identity, MAX_HEADER, Progress, ResumeToken, Sequence,
    StreamHeader, chain,
};
use archipelago_core::limits::{MAX_FRAME, MAX_VOLUME_SIZE};
use archipelago_core::{Background, Error, InitOptions, Mode, Store, StoreOptions, VolumeId};

use super::{mode, refused, with_mode};
use crate::Target;

/// Header and frames: mode, then a stream. Mode bit 0 puts the hash of the header right, bit 1 the hashes of the frames.
pub const STREAM: Target = Target {
    name: "send_stream",
    check: stream,
    seeds: stream_seeds,
    max_len: 16 << 10,
    memory: MAX_FRAME + (128 << 10),
    cost: 1,
};

fn stream(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let mut bytes = bytes.to_vec();
    let Some(fixed) = bytes.first_chunk::<HEADER_FIXED>() else { return };
    let len = match StreamHeader::len(fixed) {
        Ok(len) => len,
        Err(error) => return refused(&error),
    };
    assert!(len <= MAX_HEADER);
    if mode & 1 != 0 && bytes.len() >= len {
        let hash = *blake3::hash(&bytes[..len - HASH]).as_bytes();
        bytes[len - HASH..len].copy_from_slice(&hash);
    }
    let Some((head, mut rest)) = bytes.split_at_checked(len) else { return };
    let header = match StreamHeader::decode(head) {
        Ok(header) => header,
        Err(error) => return refused(&error),
    };
    assert_eq!(header.encode(), head, "another form of the header than the one that is written");
    assert!(header.size >= 1 && header.size <= MAX_VOLUME_SIZE && header.identity.id.0 != 0);
    let mut sequence = Sequence::new(header.size, header.start(head));
    let mut sender = sequence.clone();
    while let Some((head, after)) = rest.split_first_chunk::<FRAME_HEAD>() {
        let len = match FrameHead::payload_len(head) {
            Ok(len) => len,
            Err(error) => return refused(&error),
        };
        assert!(len <= MAX_FRAME);
        let Some((payload, after)) = after.split_at_checked(len) else { return };
        let Some((hash, after)) = after.split_at_checked(HASH) else { return };
        let right = chain(&sequence.progress().chain, head, payload);
        let hash = if mode & 2 != 0 { &right } else { hash };
        let before = *sequence.progress();
        match sequence.accept(head, payload, hash) {
            Ok(frame) => {
                // The sender, asked for this frame, writes these bytes.
                let written = sender.write(frame, payload).expect("what was accepted can be written");
                assert_eq!((&written.0, &written.1), (head, &right));
                let now = sequence.progress();
                assert!(now.data + now.zeros <= now.position && now.position <= header.size);
                assert!(now.position >= before.position);
                // A changed bit is noticed, wherever the frame would be taken.
                let mut other = *head;
                other[usize::from(right[0]) % FRAME_HEAD] ^= 1 << (right[1] % 8);
                let mut copy = Sequence::new(header.size, before);
                copy.accept(&other, payload, hash).expect_err("a changed bit");
            }
            Err(error) => {
                assert_eq!(*sequence.progress(), before, "a frame that was refused changed something");
                return refused(&error);
            }
        }
        rest = after;
    }
    // Where it was interrupted can be said, and understood.
    let token = ResumeToken {
        identity: header.identity,
        base: header.base.as_ref().map(|base| base.identity),
        progress: *sequence.progress(),
    };
    assert_eq!(token.to_string().parse::<ResumeToken>().expect("a token"), token);
}

const STORE: [u8; 16] = [7; 16];

fn plain(size: u64) -> StreamHeader {
    StreamHeader {
        identity: Identity { store: STORE, id: VolumeId(9) },
        name: "snap-one".into(),
        size,
        created: 5,
        block_shift: 16,
        base: None,
        sender: STORE,
        resumed: None,
    }
}

/// A stream of these frames: kind, first sector, sectors.
fn frames(header: &StreamHeader, list: &[(FrameKind, u64, u64)]) -> Vec<u8> {
    let mut bytes = header.encode();
    let mut sequence = Sequence::new(header.size, header.start(&bytes));
    for (kind, start, sectors) in list {
        let (offset, len) = (start << 12, sectors << 12);
        let payload = match kind {
            FrameKind::Data => vec![0x5a; len as usize],
            FrameKind::End => sequence.totals().to_vec(),
            _ => Vec::new(),
        };
        let frame = FrameHead { kind: *kind, payload: payload.len() as u32, offset, len };
        let (head, hash) = sequence.write(frame, &payload).expect("a sound frame");
        bytes.extend([&head[..], &payload, &hash].concat());
    }
    bytes
}

fn streams() -> Vec<Vec<u8>> {
    use FrameKind::{Data, End, Mark, Zeros};
    let base = Base { identity: Identity { store: STORE, id: VolumeId(3) }, size: 4096, name: "snap-zero".into() };
    let resumed = Progress { position: 8192, data: 4096, zeros: 0, chain: [1; 32] };
    vec![
        frames(&plain(64 << 12), &[(Zeros, 0, 3), (Data, 4, 1), (Mark, 5, 0), (Zeros, 9, 55), (End, 64, 0)]),
        frames(&plain(1 << 12), &[(End, 1, 0)]),
        frames(&StreamHeader { base: Some(base), ..plain(3 << 12) }, &[(Data, 0, 2), (End, 3, 0)]),
        frames(&StreamHeader { resumed: Some(resumed), ..plain(4 << 12) }, &[(Data, 2, 1), (Mark, 3, 0)]),
        plain(5000).encode(),
    ]
}

fn stream_seeds() -> Vec<Vec<u8>> {
    streams().iter().flat_map(|stream| [0, 1, 3].map(|mode| with_mode(mode, stream))).collect()
}

/// The token with which an interrupted stream goes on, as a person pastes it. Mode bit 0 puts its checksum right.
pub const TOKEN: Target =
    Target { name: "resume_token", check: token, seeds: token_seeds, max_len: 512, memory: 16 << 10, cost: 1 };

fn token(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let mut bytes = bytes.to_vec();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    if mode & 1 != 0 {
        let start = bytes.iter().rposition(|b| *b == b'-').map_or(0, |at| at + 1);
        let body: Vec<u8> = bytes[start..]
            .chunks_exact(2)
            .map_while(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        if let Some((body, _)) = body.split_at_checked(body.len().saturating_sub(4)) {
            bytes.truncate(start);
            bytes.extend(hex(body).bytes());
            bytes.extend(hex(&crc32c::crc32c(body).to_le_bytes()).bytes());
        }
    }
    let Ok(text) = std::str::from_utf8(&bytes) else { return };
    match text.parse::<ResumeToken>() {
        Ok(token) => {
            assert_eq!(token.to_string(), text.trim(), "another form of the token than the one that is written")
        }
        Err(Error::InvalidArgument(_) | Error::Damaged { .. }) => {}
        Err(error) => panic!("not an error about an argument: {error:?}"),
    }
}

fn token_seeds() -> Vec<Vec<u8>> {
    let identity = Identity { store: STORE, id: VolumeId(9) };
    let progress = Progress { position: 8192, data: 4096, zeros: 4096, chain: [3; 32] };
    let tokens = [
        ResumeToken { identity, base: None, progress: Progress::default() },
        ResumeToken { identity, base: Some(Identity { store: STORE, id: VolumeId(3) }), progress },
    ];
    tokens.iter().flat_map(|token| [0, 1].map(|mode| with_mode(mode, token.to_string().as_bytes()))).collect()
}

/// A stream that is received into a store in memory. Mode bit 0: the rest is the stream; otherwise frames are made up, sound ones or
/// nearly so, and may be cut off in any place.
pub const RECEIVE: Target =
    Target { name: "receive", check: receive, seeds: receive_seeds, max_len: 16 << 10, memory: 16 << 20, cost: 2 };

/// Sectors of a made-up snapshot.
const SECTORS: u64 = 48;

fn store() -> (Arc<MemoryBlocker>, Store) {
    let blocker = MemoryBlocker::new();
    let options = InitOptions { block_size: 64 << 10, mode: 0o600, group: None };
    Store::init_on(blocker.clone(), &options).expect("an empty backend");
    let options = StoreOptions {
        node_cache: 64 << 10,
        background: Background::Manual,
        max_unfolded: 1 << 20,
        first_segment: 64 << 10,
        direct: false,
        seed: Some(7),
    };
    let store = Store::open_on(blocker.clone(), options).expect("a new store");
    (blocker, store)
}

fn receive(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let (_blocker, store) = store();
    if mode & 1 != 0 {
        let received = store.receive("snap-one", &mut &bytes[..], &mut |_| Ok(()));
        return outcome(&store, received.map(drop), None);
    }
    let mut u = Unstructured::new(bytes);
    let Ok((stream, content)) = made_up(&mut u) else { return };
    let received = store.receive("snap-one", &mut &stream[..], &mut |_| Ok(()));
    outcome(&store, received.map(drop), Some(&content));
}

/// All of the snapshot is there, or nothing of it has its name.
fn outcome(store: &Store, received: Result<(), Error>, content: Option<&[u8]>) {
    match received {
        Ok(()) => {
            let snapshot = store.open_volume("snap-one", Mode::ReadOnly).expect("what was received");
            let Some(content) = content else { return };
            let mut bytes = vec![0; content.len()];
            snapshot.read_at(&mut bytes, 0).expect("what was received");
            assert!(bytes == content, "what was received is not what was sent");
        }
        Err(error) => {
            assert!(
                matches!(
                    error,
                    Error::Damaged { .. } | Error::TooNew { .. } | Error::NoBase(_) | Error::InvalidArgument(_)
                ),
                "{error:?}"
            );
            assert!(store.open_volume("snap-one", Mode::ReadOnly).is_err(), "half a snapshot under its name: {error}");
        }
    }
}

/// A stream and what the snapshot holds if all of it is accepted.
fn made_up(u: &mut Unstructured<'_>) -> arbitrary::Result<(Vec<u8>, Vec<u8>)> {
    let odd = u64::from(u8::arbitrary(u)?) * 16;
    let size = (SECTORS << 12) - odd;
    let header = plain(size);
    let mut content = vec![0; size as usize];
    let mut stream = header.encode();
    let mut sequence = Sequence::new(size, header.start(&stream));
    let mut at = 0u64;
    while !u.is_empty() && at < SECTORS {
        let (what, gap, len) = (u8::arbitrary(u)?, u64::from(u8::arbitrary(u)?) % 8, u64::from(u8::arbitrary(u)?) % 12);
        let start = ((at + gap) << 12).min(size);
        let stop = (start + (len << 12)).min(size);
        let (kind, payload) = match what & 3 {
            0 => (FrameKind::Mark, Vec::new()),
            1 => (FrameKind::Zeros, Vec::new()),
            _ => (FrameKind::Data, vec![what; (stop - start) as usize]),
        };
        let len = if kind == FrameKind::Mark { 0 } else { stop - start };
        let frame = FrameHead { kind, payload: payload.len() as u32, offset: start, len };
        // Empty ranges and the like are not written.
        if let Ok((head, hash)) = sequence.write(frame, &payload) {
            stream.extend([&head[..], &payload, &hash].concat());
            content[start as usize..start as usize + payload.len()].copy_from_slice(&payload);
            at = (start + len).div_ceil(4096);
        }
        if what & 0xf0 == 0xf0 {
            // Cut off, or changed.
            let place = stream.len() - 1 - usize::from(u16::arbitrary(u)?) % 200;
            if what & 8 == 0 {
                stream.truncate(place);
            } else {
                stream[place] ^= 1 << (what & 7);
            }
            return Ok((stream, content));
        }
    }
    let end = FrameHead { kind: FrameKind::End, payload: 16, offset: size, len: 0 };
    let totals = sequence.totals();
    if let Ok((head, hash)) = sequence.write(end, &totals) {
        stream.extend([&head[..], &totals, &hash].concat());
    }
    Ok((stream, content))
}

fn receive_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = streams().iter().map(|stream| with_mode(1, stream)).collect();
    seeds.push(with_mode(0, &[0, 2, 0, 3, 1, 1, 4, 0, 0, 0, 6, 7, 11, 2, 0, 11]));
    seeds.push(with_mode(0, &[9, 2, 0, 9, 3, 0, 9, 7, 0, 9, 11, 0, 9, 2, 0, 9, 2, 0, 9]));
    seeds.push(with_mode(0, &[0, 2, 0, 3, 0xf2, 1, 3, 9, 0]));
    seeds.push(with_mode(0, &[0, 2, 0, 3, 0xfb, 1, 3, 9, 0]));
    seeds
}
