use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SIZE: u64 = 10 * SECTOR + 5;

fn header() -> StreamHeader {
    let identity = |n| Identity { store: [n; 16], id: VolumeId(u64::from(n)) };
    StreamHeader {
        identity: identity(1),
        name: "n".repeat(MAX_STORED_NAME),
        size: SIZE,
        created: 7,
        block_shift: 22,
        base: Some(Base { identity: identity(2), size: 4096, name: "b".repeat(MAX_STORED_NAME) }),
        sender: [1; 16],
        resumed: None,
    }
}

fn progress(position: u64, data: u64, zeros: u64) -> Progress {
    Progress { position, data, zeros, chain: [4; HASH] }
}

/// A frame with the right hash, whatever else is wrong with it.
fn push(sequence: &mut Sequence, frame: FrameHead, payload: &[u8]) -> Result<FrameHead> {
    let head = frame.encode();
    let hash = chain(&sequence.progress().chain, &head, payload);
    sequence.accept(&head, payload, &hash)
}

fn frame(kind: FrameKind, offset: u64, len: u64, payload: usize) -> FrameHead {
    FrameHead { kind, payload: payload as u32, offset, len }
}

#[test]
fn the_largest_header_has_the_length_that_is_promised() {
    let bytes = header().encode();
    assert_eq!(bytes.len(), MAX_HEADER);
    assert_eq!(MAX_HEADER, 726);
    assert_eq!(StreamHeader::decode(&bytes).unwrap(), header());
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_header_is_found() {
    let bytes = header().encode();
    for len in 0..bytes.len() {
        assert!(StreamHeader::decode(&bytes[..len]).is_err(), "{len}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut other = bytes.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(StreamHeader::decode(&other).is_err(), "bit {bit}");
    }
}

#[test]
fn a_header_past_any_limit_is_refused() {
    let edits: [fn(&mut StreamHeader); 11] = [
        |h| h.identity.id = VolumeId(0),
        |h| h.name.clear(),
        |h| h.size = 0,
        |h| h.size = MAX_VOLUME_SIZE + 1,
        |h| h.block_shift = 15,
        |h| h.block_shift = 27,
        |h| h.base.as_mut().unwrap().size = 0,
        |h| h.base.as_mut().unwrap().identity.id = VolumeId(0),
        |h| h.resumed = Some(progress(SIZE + 1, 0, 0)),
        |h| h.resumed = Some(progress(4095, 0, 0)),
        |h| h.resumed = Some(progress(4096, u64::MAX, 2)),
    ];
    for (n, edit) in edits.iter().enumerate() {
        let mut header = header();
        edit(&mut header);
        let decoded = StreamHeader::decode(&header.encode());
        assert!(matches!(decoded, Err(Error::Damaged { .. })), "edit {n}: {decoded:?}");
    }
}

#[test]
fn a_later_version_feature_flag_or_frame_asks_for_a_newer_version() {
    for (at, value, says) in [(8, 2, "version 2"), (16, 1, "feature bit 0"), (24, 5, "flag bit 2")] {
        let mut bytes = header().encode();
        bytes[at] = value;
        let body = bytes.len() - HASH;
        let hash = blake3::hash(&bytes[..body]);
        bytes[body..].copy_from_slice(hash.as_bytes());
        let error = StreamHeader::decode(&bytes).unwrap_err();
        assert!(matches!(error, Error::TooNew { .. }) && error.to_string().contains(says), "{error}");
    }
    let mut sequence = Sequence::new(SIZE, Progress::default());
    let mut head = frame(FrameKind::Mark, 0, 0, 0).encode();
    head[0] = 9;
    let hash = chain(&sequence.progress().chain, &head, &[]);
    assert!(matches!(sequence.accept(&head, &[], &hash), Err(Error::TooNew { .. })));
}

#[test]
fn frames_out_of_order_out_of_range_or_off_their_sectors_are_refused_and_change_nothing() {
    use FrameKind::{Data, End, Mark, Zeros};
    let page = vec![1; 4096];
    let mut sequence = Sequence::new(SIZE, Progress::default());
    push(&mut sequence, frame(Data, 4096, 4096, 4096), &page).unwrap();
    let before = *sequence.progress();
    for (bad, payload) in [
        (frame(Data, 4096, 4096, 4096), &page[..]),
        (frame(Data, 0, 4096, 4096), &page),
        (frame(Data, 8193, 4096, 4096), &page),
        (frame(Data, 8192, 4095, 4095), &page[..4095]),
        (frame(Data, 8192, 4096, 4095), &page[..4095]),
        (frame(Data, 8192, 0, 0), &[]),
        (frame(Data, 40960, 4096, 4096), &page),
        (frame(Zeros, 8192, 0, 0), &[]),
        (frame(Zeros, 8192, u64::MAX, 0), &[]),
        (frame(Zeros, 8192, u64::MAX - 8191, 0), &[]),
        (frame(Zeros, 8192, 4096, 4096), &page),
        (frame(Mark, 4096, 0, 0), &[]),
        (frame(Mark, 8192, 4096, 0), &[]),
        (frame(Mark, SIZE + 1, 0, 0), &[]),
        (frame(End, 8192, 0, 16), &before.data.to_le_bytes()),
        (frame(End, SIZE, 0, 16), &[0; 16]),
        (frame(End, SIZE, 0, 0), &[]),
    ] {
        let refused = push(&mut sequence, bad, payload);
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{bad:?}: {refused:?}");
        assert_eq!(*sequence.progress(), before);
    }
    push(&mut sequence, frame(Zeros, 8192, 4096, 0), &[]).unwrap();
    push(&mut sequence, frame(Mark, 16384, 0, 0), &[]).unwrap();
    push(&mut sequence, frame(Data, 40960, 5, 5), b"bytes").unwrap();
    let totals = sequence.totals();
    push(&mut sequence, frame(End, SIZE, 0, 16), &totals).unwrap();
    assert!(sequence.ended());
    assert!(push(&mut sequence, frame(Mark, SIZE, 0, 0), &[]).is_err());
}

#[test]
fn a_token_is_whole_or_refused() {
    let token = ResumeToken { identity: header().identity, base: None, progress: progress(SIZE, 3 * SECTOR, 5) };
    let text = token.to_string();
    assert_eq!(text.parse::<ResumeToken>().unwrap(), token);
    assert_eq!(format!(" {text}\n").parse::<ResumeToken>().unwrap(), token);
    for at in 0..text.len() {
        assert!(text[..at].parse::<ResumeToken>().is_err());
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
        assert!(String::from_utf8(bytes).unwrap().parse::<ResumeToken>().is_err(), "{at}");
    }
    for other in ["", "archipelago-resume-1-é", "archipelago-resume-2-00"] {
        assert!(other.parse::<ResumeToken>().is_err());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_as_a_header_and_never_run_past_the_size(
        bytes in vec(any::<u8>(), 0..900), heads in vec((0u8..6, 0u32..9000, any::<u64>(), any::<u64>()), 1..20),
        size in 1..=MAX_VOLUME_SIZE,
    ) {
        prop_assert!(StreamHeader::decode(&bytes).is_err());
        let mut sequence = Sequence::new(size, Progress::default());
        for (kind, payload, offset, len) in heads {
            let mut head = frame(FrameKind::Data, offset % (2 * size), len % (2 * size), payload as usize).encode();
            head[0] = kind;
            let payload = vec![7; payload as usize];
            let hash = chain(&sequence.progress().chain, &head, &payload);
            let before = *sequence.progress();
            if let Ok(frame) = sequence.accept(&head, &payload, &hash) {
                prop_assert!(frame.offset >= before.position && frame.offset + frame.len <= size);
                prop_assert!(sequence.progress().fits(size));
            } else {
                prop_assert_eq!(sequence.progress(), &before);
            }
        }
    }

    #[test]
    fn any_header_comes_back_as_written(
        (id, base_id, size, created) in (1u64.., 1u64.., 1..=MAX_VOLUME_SIZE, any::<u64>()), stores in any::<[[u8; 16]; 3]>(),
        name in "[a-zé]{1,80}", base_name in "[a-zé]{0,80}", incremental: bool, resumed: bool, block_shift in 16u8..=26,
    ) {
        let base = Base { identity: Identity { store: stores[1], id: VolumeId(base_id) }, size, name: base_name };
        let header = StreamHeader {
            identity: Identity { store: stores[0], id: VolumeId(id) }, name, size, created, block_shift,
            base: incremental.then_some(base), sender: stores[2],
            resumed: resumed.then_some(progress(size, size, 0)),
        };
        let bytes = header.encode();
        let fixed: [u8; HEADER_FIXED] = bytes[..HEADER_FIXED].try_into().unwrap();
        prop_assert_eq!(StreamHeader::len(&fixed).unwrap(), bytes.len());
        prop_assert_eq!(StreamHeader::decode(&bytes).unwrap(), header);
    }
}
