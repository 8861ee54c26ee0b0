//! Single pieces of a journal: heads of segments, and records.

use archipelago_core::VolumeId;
use archipelago_core::format::header::LogPos;
use archipelago_core::format::log::{
    Body, Found, MAX_PROVISIONAL_RUNS, MAX_RUNS, RECORD_HEAD, RecordHead, Run, RunKind, SegmentHead, encode_head,
    parse, parse_until,
};
use archipelago_core::limits::{ATOM, MAX_LOGGED_WRITE};

use super::{mode, refused, seal, with_mode};
use crate::Target;

/// Whose journal it is.
const OWNER: VolumeId = VolumeId(0xa1);

/// The head of a segment: mode, then its bytes. Mode bit 0 puts the checksum right.
pub const SEGMENT_HEAD: Target = Target {
    name: "segment_head",
    check: segment_head,
    seeds: segment_head_seeds,
    max_len: 1024,
    memory: 16 << 10,
    cost: 1,
};

fn segment_head(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let mut bytes = bytes.to_vec();
    if mode & 1 != 0 {
        bytes.resize(ATOM, 0);
        seal(&mut bytes);
    }
    match SegmentHead::decode("segment", &bytes) {
        Ok(read) => {
            assert_eq!(read.encode(), bytes[..ATOM]);
            assert!((read.len as usize).is_multiple_of(ATOM) && read.len > 512 && read.owner.0 != 0);
        }
        Err(error) => refused(&error),
    }
}

fn segment_head_seeds() -> Vec<Vec<u8>> {
    let head = |segment, len| SegmentHead { owner: OWNER, segment, len }.encode();
    [head(0, 1 << 20), head(77, 1024), head(u32::MAX, 16 << 20)].iter().map(|h| with_mode(1, &h[..508])).collect()
}

/// A record at the start of the rest of a segment: mode, then its bytes. Mode bit 0 puts the checksum of the head right,
/// bit 1 owner, checksum and bitmap of the payload, bit 2 fills the payload up to the length that the head states.
pub const RECORD: Target = Target {
    name: "journal_record",
    check: record,
    seeds: record_seeds,
    max_len: 40 << 10,
    memory: 256 << 10,
    cost: 1,
};

fn record(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let mut bytes = bytes.to_vec();
    if mode & 7 != 0 {
        bytes.resize(bytes.len().max(RECORD_HEAD), 0);
        let stated = u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes")) as usize;
        if mode & 4 != 0 && stated <= MAX_LOGGED_WRITE {
            bytes.resize(bytes.len().max(RECORD_HEAD + stated), 0x11);
        }
        if mode & 2 != 0 {
            let payload = &bytes[RECORD_HEAD..bytes.len().min(RECORD_HEAD.saturating_add(stated))];
            let (crc, present) = (crc32c::crc32c(payload), present(payload));
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            bytes[16..24].copy_from_slice(&OWNER.0.to_le_bytes());
            bytes[56..64].copy_from_slice(&present.to_le_bytes());
        }
        if mode & 1 != 0 {
            seal(&mut bytes[..RECORD_HEAD]);
        }
    }
    match parse("log", OWNER, &bytes) {
        Ok(Found::Record(head, len)) => whole(&head, len, &mut bytes, mode),
        Ok(Found::Nothing) => assert!(bytes.iter().take(ATOM).all(|b| *b == 0) || bytes.len() < ATOM),
        Ok(Found::Torn) => {
            assert!(bytes.len() >= RECORD_HEAD + 4096);
            // Records of a later epoch are passed over as they are.
            assert!(matches!(parse_until("log", OWNER, &bytes, 0), Ok(Found::Torn | Found::Record(..))));
        }
        Err(error) => refused(&error),
    }
}

/// One bit for each atom that is not all zeros.
fn present(payload: &[u8]) -> u64 {
    let atoms = payload.chunks(ATOM).take(64).enumerate();
    atoms.fold(0, |bits, (i, atom)| bits | u64::from(atom.iter().any(|b| *b != 0)) << i)
}

/// Checks a record that was found.
fn whole(head: &RecordHead, len: usize, bytes: &mut [u8], mode: u8) {
    assert!(len <= MAX_LOGGED_WRITE && len.is_multiple_of(4096));
    let runs = head.body.runs();
    assert!(runs.len() <= MAX_RUNS && runs.iter().all(|run| run.len > 0 && run.start + u64::from(run.len) <= 1 << 40));
    if let Body::Provisional { .. } = &head.body {
        assert!(runs.len() <= MAX_PROVISIONAL_RUNS && runs.iter().all(|run| run.kind == RunKind::Data));
    }
    let payload = bytes[RECORD_HEAD..RECORD_HEAD + len].to_vec();
    let again = encode_head(OWNER, head, &[&payload]).expect("what was read can be written");
    let right = u64::from_le_bytes(bytes[56..64].try_into().expect("8 bytes")) == present(&payload);
    if right {
        assert_eq!(again, bytes[..RECORD_HEAD], "another form of the record than the one that is written");
    }
    // Another volume's reader refuses it.
    parse("log", VolumeId(OWNER.0 + 1), bytes).expect_err("a record of another volume");
    // No bit of the head may change.
    let bit = crc32c::crc32c(bytes) as usize;
    let at = bit % (RECORD_HEAD * 8);
    bytes[at / 8] ^= 1 << (at % 8);
    parse("log", OWNER, bytes).expect_err("a changed bit of the head");
    bytes[at / 8] ^= 1 << (at % 8);
    if len == 0 || !right {
        return;
    }
    // Atoms of the payload that never arrived make it torn.
    let lost = u64::from(crc32c::crc32c(&payload)) | u64::from(mode) << 32;
    for (i, atom) in bytes[RECORD_HEAD..RECORD_HEAD + len].chunks_mut(ATOM).enumerate() {
        if lost >> i & 1 == 1 {
            atom.fill(0);
        }
    }
    let found = parse("log", OWNER, bytes).expect("a torn record is no damage");
    let same = bytes[RECORD_HEAD..RECORD_HEAD + len] == payload[..];
    assert_eq!(matches!(found, Found::Torn), !same);
    bytes[RECORD_HEAD..RECORD_HEAD + len].copy_from_slice(&payload);
    // A changed bit is damage, unless it was the only one of its atom and is lost.
    let at = bit % (len * 8);
    bytes[RECORD_HEAD + at / 8] ^= 1 << (at % 8);
    let atom = at / 8 / ATOM * ATOM + RECORD_HEAD;
    let vanished = bytes[atom..atom + ATOM].iter().all(|b| *b == 0);
    match parse("log", OWNER, bytes) {
        Ok(Found::Torn) => assert!(vanished, "a changed bit was taken for a torn write"),
        Ok(other) => panic!("a changed bit was not noticed: {other:?}"),
        Err(error) => refused(&error),
    }
}

fn record_seeds() -> Vec<Vec<u8>> {
    let run = |start, len, kind| Run { start, len, kind };
    let runs = vec![run(9, 3, RunKind::Data), run(70, 1, RunKind::Logged), run(1 << 39, 1 << 30, RunKind::Zero)];
    let data = |count: usize| (0..count as u64).map(|n| run(n * 9, 1, RunKind::Data)).collect::<Vec<_>>();
    let mut page = vec![0; 4096];
    page[..5].copy_from_slice(b"hello");
    page[3072..3077].copy_from_slice(b"world");
    let bodies: [(Body, &[u8]); 7] = [
        (Body::Open { previous: 3 }, &[]),
        (Body::Epoch, &[]),
        (Body::Next, &[]),
        (Body::Map(data(MAX_RUNS)), &[]),
        (Body::Provisional { boot: [7; 16], runs: data(MAX_PROVISIONAL_RUNS) }, &[]),
        (Body::Confirm { seq: 40 }, &[]),
        (Body::Map(runs), &page),
    ];
    let mut seeds = vec![vec![], with_mode(0, &[0; 600])];
    for (body, payload) in bodies {
        let synced = LogPos { segment: 1, offset: 512 };
        let head = RecordHead { seq: 41, generation: 9, epoch: 7, synced, body };
        let head = encode_head(OWNER, &head, &[payload]).expect("a sound record");
        let bytes = [&head[..], payload].concat();
        seeds.extend([0, 1, 7].map(|mode| with_mode(mode, &bytes)));
    }
    seeds
}
