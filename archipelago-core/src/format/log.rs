//! Journal segments and records (format.md, "Journal").

use super::bytes::{Reader, Writer, is_zero};
use super::header::LogPos;
use crate::blocker::{Boot, VolumeId};
use crate::checksum;
use crate::error::{Error, Result};
use crate::limits::{ATOM, MAX_LOGGED_WRITE, MAX_VOLUME_SIZE, SECTOR};

/// What a run in a journal record says of its sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunKind {
    /// Their bytes are in this record's payload, in order of the runs.
    Logged,
    /// They are in the data object of (volume, record's epoch), at their own offset.
    Data,
    /// They are zeros.
    Zero,
}

/// A run of sectors of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First sector of the volume.
    pub start: u64,
    /// Number of sectors, at least 1; may cross blocks for `Data` and `Zero`, never for `Logged`.
    pub len: u32,
    /// What of them.
    pub kind: RunKind,
}

/// What a record is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// First record of an owner: the generations after and before it.
    Open {
        /// Generation in force before.
        previous: u64,
    },
    /// Map changes, with the bytes of `Logged` runs as payload.
    Map(Vec<Run>),
    /// Map changes whose data is written and not yet synced: they count once they are confirmed, and until then for those who come in
    /// the same boot.
    Provisional {
        /// In which they were written; zeros if that was not known.
        boot: Boot,
        /// All of them `Data`.
        runs: Vec<Run>,
    },
    /// The data of all provisional records that are not later than this one is durable.
    Confirm {
        /// Highest sequence number that counts.
        seq: u64,
    },
    /// From here on the volume's live epoch is the record's epoch.
    Epoch,
    /// The last record of its segment: the next segment exists, and its head is durable.
    Next,
}

/// The head of a record: everything but its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHead {
    /// Rises by one from record to record through the volume's whole life.
    pub seq: u64,
    /// Generation of the owner that wrote it: a random number per read-write open.
    pub generation: u64,
    /// Epoch to which the record belongs.
    pub epoch: u64,
    /// Everything before this position was durable when the record was written.
    pub synced: LogPos,
    /// The rest.
    pub body: Body,
}

impl Body {
    /// What it says of sectors, whether that counts or not.
    pub fn runs(&self) -> &[Run] {
        match self {
            Body::Map(runs) | Body::Provisional { runs, .. } => runs,
            Body::Open { .. } | Body::Epoch | Body::Next | Body::Confirm { .. } => &[],
        }
    }
}

/// Bytes at the start of a segment before its first record.
pub const SEGMENT_HEAD: u32 = 512;
/// Runs of [`Body::Map`] in one record: as many as fit its head.
pub const MAX_RUNS: usize = (HEAD_SUMMED - HEAD_FIXED) / RUN;
/// The same for [`Body::Provisional`].
pub const MAX_PROVISIONAL_RUNS: usize = (HEAD_SUMMED - HEAD_FIXED - size_of::<Boot>()) / RUN;
/// Bytes of a record before its payload.
pub const RECORD_HEAD: usize = 512;

/// Layout of segments and records written by this build.
const VERSION: u8 = 1;
/// First bytes of a segment head: `ALSG`.
const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"ALSG");
/// First bytes of a record head: `ALRC`.
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"ALRC");
/// Bytes of a record head before its body.
const HEAD_FIXED: usize = 64;
/// Bytes of a head that its checksum covers.
const HEAD_SUMMED: usize = RECORD_HEAD - 4;
/// Bytes of one run.
const RUN: usize = 16;
/// Sectors of the largest volume.
const MAX_SECTORS: u64 = MAX_VOLUME_SIZE / SECTOR;

const OPEN: u8 = 1;
const MAP: u8 = 2;
const EPOCH: u8 = 3;
const NEXT: u8 = 4;
const PROVISIONAL: u8 = 5;
const CONFIRM: u8 = 6;

// Heads are atoms, and the bitmap has one bit for each atom of the largest payload.
const _: () = assert!(RECORD_HEAD == ATOM && SEGMENT_HEAD as usize == ATOM && MAX_LOGGED_WRITE == 64 * ATOM);

/// The head of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHead {
    /// Whose.
    pub owner: VolumeId,
    /// Number.
    pub segment: u32,
    /// Length of the segment in bytes.
    pub len: u32,
}

impl SegmentHead {
    /// The stored form.
    pub fn encode(&self) -> [u8; SEGMENT_HEAD as usize] {
        let mut writer = Writer::with_capacity(ATOM);
        writer.u32(SEGMENT_MAGIC).u8(VERSION).pad_to(8).u32(self.segment).u32(self.len).u64(self.owner.0);
        sealed(writer)
    }

    /// Reads the stored form: the first 512 bytes of a segment, or more of it.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<SegmentHead> {
        let Some(atom) = bytes.get(..ATOM) else {
            return Err(Error::damaged(
                object,
                format!("cut short: {} bytes of a segment head of {ATOM}", bytes.len()),
            ));
        };
        let mut reader = open_sealed(object, atom, SEGMENT_MAGIC, "segment head")?;
        let reserved = reader.array::<3>()?;
        reader.require(reserved == [0; 3], "bytes that must be zero are not")?;
        let (segment, len, owner) = (reader.u32()?, reader.u32()?, VolumeId(reader.u64()?));
        reader.zeros_to_end()?;
        reader.require(owner.0 != 0, "the segment has no owner")?;
        reader.require(
            (len as usize).is_multiple_of(ATOM) && len > SEGMENT_HEAD,
            "the segment has an impossible length",
        )?;
        Ok(SegmentHead { owner, segment, len })
    }
}

/// Fills an atom up and closes it with its checksum.
fn sealed(mut writer: Writer) -> [u8; ATOM] {
    writer.pad_to(HEAD_SUMMED).crc();
    let mut atom = [0; ATOM];
    atom.copy_from_slice(&writer.finish());
    atom
}

/// Checks checksum, magic and version of an atom; returns a reader of what follows these up to the checksum.
fn open_sealed<'a>(object: &'a str, atom: &'a [u8], magic: u32, what: &str) -> Result<Reader<'a>> {
    let (summed, sum) = atom.split_at(HEAD_SUMMED);
    let mut reader = Reader::new(object, summed);
    if checksum::crc32c(summed).to_le_bytes() != sum {
        return reader.damaged(format!("the checksum of a {what} is wrong"));
    }
    if reader.u32()? != magic {
        return reader.damaged(format!("something else lies where a {what} must be"));
    }
    match reader.u8()? {
        VERSION => Ok(reader),
        0 => reader.damaged(format!("a {what} of version 0")),
        later => reader.too_new(format!("a {what} of version {later}")),
    }
}

/// Encodes the head of a record with this payload (the bytes of the `Logged` runs; a multiple of 4096, at most
/// `MAX_LOGGED_WRITE`, possibly in pieces). The record is the head followed by the payload.
///
/// The head holds a checksum of the payload and one bit for each 512 bytes of it that is not all zeros, so that a
/// record of which some sectors never reached a zero-filled disk is told from one that was altered.
///
/// [`Error::Damaged`] if the payload is not what the runs say, or a run, their number or a position is out of range:
/// no caller's argument leads there, only a state that is wrong already.
pub fn encode_head(owner: VolumeId, head: &RecordHead, payload: &[&[u8]]) -> Result<[u8; RECORD_HEAD]> {
    let payload_len = payload.iter().map(|piece| piece.len()).sum::<usize>();
    if let Some(reason) = wrong_with(owner, head, payload_len as u64) {
        return Err(Error::damaged(
            format!("journal of {owner}"),
            format!("record {} cannot be stored: {reason}", head.seq),
        ));
    }
    let (kind, runs) = match &head.body {
        Body::Open { .. } => (OPEN, 0),
        Body::Map(runs) => (MAP, runs.len()),
        Body::Epoch => (EPOCH, 0),
        Body::Next => (NEXT, 0),
        Body::Provisional { runs, .. } => (PROVISIONAL, runs.len()),
        Body::Confirm { .. } => (CONFIRM, 0),
    };
    let (mut crc, mut present, mut at) = (0, 0u64, 0);
    for piece in payload {
        crc = checksum::crc32c_append(crc, piece);
        let mut rest = *piece;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(ATOM - at % ATOM));
            present |= u64::from(!is_zero(part)) << (at / ATOM);
            at += part.len();
            rest = after;
        }
    }
    let mut writer = Writer::with_capacity(RECORD_HEAD);
    writer.u32(RECORD_MAGIC).u8(VERSION).u8(kind).u16(runs as u16).u32(payload_len as u32).u32(crc);
    writer.u64(owner.0).u64(head.seq).u64(head.generation).u64(head.epoch);
    writer.u32(head.synced.segment).u32(head.synced.offset).u64(present);
    match &head.body {
        Body::Open { previous } => {
            writer.u64(*previous);
        }
        Body::Provisional { boot, .. } => {
            writer.bytes(boot);
        }
        Body::Confirm { seq } => {
            writer.u64(*seq);
        }
        Body::Map(_) | Body::Epoch | Body::Next => {}
    }
    for run in head.body.runs() {
        let kind = match run.kind {
            RunKind::Logged => 1,
            RunKind::Data => 2,
            RunKind::Zero => 3,
        };
        writer.u64(run.start).u32(run.len).u32(kind);
    }
    Ok(sealed(writer))
}

/// What forbids this record; the same rules for what is written and what is read.
fn wrong_with(owner: VolumeId, head: &RecordHead, payload_len: u64) -> Option<&'static str> {
    let runs = head.body.runs();
    let provisional = matches!(head.body, Body::Provisional { .. });
    if owner.0 == 0 {
        return Some("it has no owner");
    }
    if !(head.synced.offset as usize).is_multiple_of(ATOM) {
        return Some("the synced position is not a multiple of 512");
    }
    if runs.len() > if provisional { MAX_PROVISIONAL_RUNS } else { MAX_RUNS } {
        return Some("it has more runs than fit its head");
    }
    if provisional && runs.iter().any(|run| run.kind != RunKind::Data) {
        return Some("a provisional run is not one of data");
    }
    let in_range = |run: &Run| run.start.checked_add(u64::from(run.len)).is_some_and(|end| end <= MAX_SECTORS);
    if !runs.iter().all(|run| run.len > 0 && in_range(run)) {
        return Some("a run is empty or leaves the largest volume");
    }
    let logged = runs.iter().filter(|run| run.kind == RunKind::Logged).map(|run| u64::from(run.len) * SECTOR);
    if logged.sum::<u64>() != payload_len {
        return Some("the payload is not as long as its runs");
    }
    (payload_len > MAX_LOGGED_WRITE as u64).then_some("the payload is too long")
}

/// What was found at a position of a segment.
#[derive(Debug)]
pub enum Found {
    /// A whole record: its head, and the length of its payload, which follows it.
    Record(RecordHead, usize),
    /// Nothing was ever written here: the 512 bytes are zero.
    Nothing,
    /// A record that was being written when the machine stopped: its head is whole, some of its payload is still zero.
    Torn,
}

/// Looks at `bytes`, the rest of a segment of `owner` from some position on. A head that is neither zero nor right, or a payload whose
/// sectors are neither zero nor right, is `Damaged`; so is a record whose length leaves the segment. Fewer than 512
/// bytes have no room for a record: `Nothing`.
pub fn parse(object: &str, owner: VolumeId, bytes: &[u8]) -> Result<Found> {
    parse_until(object, owner, bytes, u64::MAX)
}

/// Like [`parse`], for a reader to whom records of a higher epoch than `epoch` mean nothing: their payload is not
/// looked at. It may have been overwritten in place since, which its checksum does not follow.
pub fn parse_until(object: &str, owner: VolumeId, bytes: &[u8], epoch: u64) -> Result<Found> {
    let Some((atom, rest)) = bytes.split_at_checked(RECORD_HEAD) else { return Ok(Found::Nothing) };
    if is_zero(atom) {
        return Ok(Found::Nothing);
    }
    let mut reader = open_sealed(object, atom, RECORD_MAGIC, "record head")?;
    let (kind, count, payload_len, payload_crc) = (reader.u8()?, reader.u16()?, reader.u32()?, reader.u32()?);
    let found_owner = VolumeId(reader.u64()?);
    if found_owner != owner {
        return reader.damaged(format!("a record of volume {found_owner} lies in the journal of {owner}"));
    }
    let (seq, generation, own_epoch) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let synced = LogPos { segment: reader.u32()?, offset: reader.u32()? };
    let present = reader.u64()?;
    let body = match kind {
        OPEN => Body::Open { previous: reader.u64()? },
        MAP => Body::Map(parse_runs(&mut reader, usize::from(count))?),
        EPOCH => Body::Epoch,
        NEXT => Body::Next,
        PROVISIONAL => Body::Provisional { boot: reader.array()?, runs: parse_runs(&mut reader, usize::from(count))? },
        CONFIRM => Body::Confirm { seq: reader.u64()? },
        other => return reader.too_new(format!("a journal record of kind {other}")),
    };
    reader.require(matches!(kind, MAP | PROVISIONAL) || count == 0, "a record without a map has runs")?;
    reader.zeros_to_end()?;
    let head = RecordHead { seq, generation, epoch: own_epoch, synced, body };
    if let Some(reason) = wrong_with(owner, &head, u64::from(payload_len)) {
        return reader.damaged(format!("record {seq}: {reason}"));
    }
    let payload_len = payload_len as usize;
    let Some(payload) = rest.get(..payload_len) else {
        return reader.damaged(format!("record {seq} leaves its segment"));
    };
    if own_epoch > epoch || checksum::crc32c(payload) == payload_crc {
        return Ok(Found::Record(head, payload_len));
    }
    // The region was zero before the record. Sectors that are still zero never arrived; anything else is no crash.
    let on_disk = payload.chunks_exact(ATOM).enumerate();
    let on_disk = on_disk.fold(0u64, |bits, (i, atom)| bits | u64::from(!is_zero(atom)) << i);
    if on_disk & !present == 0 && present & !on_disk != 0 {
        return Ok(Found::Torn);
    }
    reader.damaged(format!("record {seq}: the checksum of its data is wrong"))
}

/// Reads the runs of a map record.
fn parse_runs(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Run>> {
    reader.require(count <= MAX_RUNS, "a record has more runs than fit its head")?;
    let mut runs = Vec::with_capacity(count);
    for _ in 0..count {
        let (start, len) = (reader.u64()?, reader.u32()?);
        let kind = match reader.u32()? {
            1 => RunKind::Logged,
            2 => RunKind::Data,
            3 => RunKind::Zero,
            other => return reader.too_new(format!("a journal run of kind {other}")),
        };
        runs.push(Run { start, len, kind });
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWNER: VolumeId = VolumeId(0x1122_3344_5566_7788);

    fn record(body: Body, payload: &[u8]) -> (RecordHead, Vec<u8>) {
        let synced = LogPos { segment: 2, offset: 0x600 };
        let head = RecordHead { seq: 41, generation: 0xfeed, epoch: 7, synced, body };
        let mut bytes = encode_head(OWNER, &head, &[payload]).unwrap().to_vec();
        bytes.extend_from_slice(payload);
        (head, bytes)
    }

    fn logged(sectors: u32) -> Body {
        Body::Map(vec![
            Run { start: 9, len: 3, kind: RunKind::Data },
            Run { start: 70, len: sectors, kind: RunKind::Logged },
            Run { start: 1 << 39, len: 1 << 30, kind: RunKind::Zero },
        ])
    }

    /// Data of which atoms 1, 5, 6 (of each 8) are all zeros.
    fn data(sectors: usize) -> Vec<u8> {
        let byte = |i: usize| if [1, 5, 6].contains(&(i / ATOM % 8)) { 0 } else { (i * 7 + i / 256) as u8 };
        (0..sectors * SECTOR as usize).map(byte).collect()
    }

    fn is_damaged(found: Result<Found>) -> bool {
        matches!(found, Err(Error::Damaged { .. }))
    }

    #[test]
    fn every_body_comes_back_with_the_length_of_its_payload() {
        let full = Body::Map((0..MAX_RUNS as u64).map(|n| Run { start: n * 9, len: 1, kind: RunKind::Data }).collect());
        let run = |n: u64| Run { start: n * 9, len: 1, kind: RunKind::Data };
        let provisional =
            |count: usize| Body::Provisional { boot: [7; 16], runs: (0..count as u64).map(run).collect() };
        for (body, payload) in [
            (Body::Open { previous: u64::MAX }, vec![]),
            (Body::Epoch, vec![]),
            (Body::Map(vec![]), vec![]),
            (provisional(0), vec![]),
            (provisional(MAX_PROVISIONAL_RUNS), vec![]),
            (Body::Confirm { seq: u64::MAX }, vec![]),
            (full, vec![]),
            (logged(1), data(1)),
            (logged(8), data(8)),
            (logged(3), vec![0; 3 * 4096]),
        ] {
            let (head, mut bytes) = record(body, &payload);
            bytes.extend_from_slice(&[0x55; 700]);
            match parse("log", OWNER, &bytes).unwrap() {
                Found::Record(found, len) => assert_eq!((found, len), (head, payload.len())),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_segment_head_has_zeros_where_nothing_is_kept() {
        let head = SegmentHead { owner: OWNER, segment: 3, len: 1 << 20 };
        for at in [5, 6, 7, 24, 507] {
            let mut atom = head.encode();
            atom[at] = 1;
            let sum = checksum::crc32c(&atom[..HEAD_SUMMED]).to_le_bytes();
            atom[HEAD_SUMMED..].copy_from_slice(&sum);
            assert!(SegmentHead::decode("log", &atom).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_pieces_of_a_payload_make_no_difference() {
        let payload = data(2);
        let (head, bytes) = record(logged(2), &payload);
        for at in [0, 1, 511, 512, 513, 4000, 4096, 8191] {
            let (a, b) = payload.split_at(at);
            assert_eq!(encode_head(OWNER, &head, &[a, &[], b]).unwrap(), bytes[..RECORD_HEAD]);
        }
    }

    #[test]
    fn a_record_that_its_runs_do_not_describe_is_not_encoded() {
        let run = |start, len, kind| Body::Map(vec![Run { start, len, kind }]);
        let provisional =
            |kind, count| Body::Provisional { boot: [7; 16], runs: vec![Run { start: 0, len: 1, kind }; count] };
        let (mut head, _) = record(Body::Epoch, &[]);
        for (body, payload) in [
            (provisional(RunKind::Data, MAX_PROVISIONAL_RUNS + 1), 0),
            (provisional(RunKind::Zero, 1), 0),
            (provisional(RunKind::Logged, 1), 4096),
            (Body::Confirm { seq: 1 }, 4096),
            (Body::Epoch, 4096),
            (Body::Open { previous: 1 }, 4096),
            (run(0, 1, RunKind::Data), 4096),
            (run(0, 2, RunKind::Logged), 4096),
            (run(0, 9, RunKind::Logged), 9 * 4096),
            (run(0, 0, RunKind::Data), 0),
            (run(1 << 40, 1, RunKind::Data), 0),
            (run(u64::MAX, 1, RunKind::Zero), 0),
            (Body::Map(vec![Run { start: 0, len: 1, kind: RunKind::Zero }; MAX_RUNS + 1]), 0),
        ] {
            head.body = body;
            assert!(encode_head(OWNER, &head, &[&data(9)[..payload]]).is_err(), "{head:?}");
        }
        head.body = Body::Epoch;
        assert!(encode_head(OWNER, &head, &[]).is_ok());
        assert!(encode_head(VolumeId(0), &head, &[]).is_err());
        head.synced.offset = 511;
        assert!(encode_head(OWNER, &head, &[]).is_err());
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_damage() {
        for (body, payload) in [
            (logged(1), data(1)),
            (logged(2), vec![0; 8192]),
            (logged(8), data(8)),
            (Body::Open { previous: 5 }, vec![]),
            (Body::Epoch, vec![]),
            (Body::Confirm { seq: 7 }, vec![]),
            (Body::Provisional { boot: [9; 16], runs: vec![Run { start: 3, len: 9, kind: RunKind::Data }] }, vec![]),
        ] {
            let (_, mut bytes) = record(body, &payload);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(is_damaged(parse("log", OWNER, &bytes)), "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_segment_head_is_damage() {
        let head = SegmentHead { owner: OWNER, segment: 3, len: 1 << 20 };
        let mut bytes = head.encode();
        assert_eq!(SegmentHead::decode("log", &bytes).unwrap(), head);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(SegmentHead::decode("log", &bytes), Err(Error::Damaged { .. })), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..ATOM {
            assert!(SegmentHead::decode("log", &bytes[..len]).is_err());
        }
        assert!(SegmentHead::decode("log", &[0; ATOM]).is_err());
        for len in [0, 511, 512, 1000] {
            assert!(SegmentHead::decode("log", &SegmentHead { len, ..head }.encode()).is_err(), "{len}");
        }
    }

    #[test]
    fn a_record_torn_over_zeros_is_seen_for_every_subset_of_its_sectors() {
        for (payload, sectors) in [(data(1), 1), (vec![0; 4096], 1), (data(2), 2), (vec![7; 4096], 1)] {
            let (head, whole) = record(logged(sectors), &payload);
            let atoms = whole.len() / ATOM;
            for landed in 0u32..1 << atoms {
                let mut disk = vec![0; whole.len() + 1024];
                for i in (0..atoms).filter(|i| landed >> i & 1 == 1) {
                    disk[i * ATOM..(i + 1) * ATOM].copy_from_slice(&whole[i * ATOM..(i + 1) * ATOM]);
                }
                let complete = disk[..whole.len()] == whole;
                match parse("log", OWNER, &disk).unwrap() {
                    Found::Record(found, len) => assert!(complete && found == head && len == payload.len()),
                    Found::Nothing => assert!(landed & 1 == 0),
                    Found::Torn => assert!(landed & 1 == 1 && !complete),
                }
            }
        }
    }

    #[test]
    fn a_tear_does_not_hide_damage_in_a_sector_that_was_zero() {
        let (_, mut bytes) = record(logged(1), &data(1));
        bytes[RECORD_HEAD + 2 * ATOM..RECORD_HEAD + 3 * ATOM].fill(0);
        assert!(matches!(parse("log", OWNER, &bytes), Ok(Found::Torn)));
        bytes[RECORD_HEAD + ATOM] = 1;
        assert!(is_damaged(parse("log", OWNER, &bytes)));
    }

    #[test]
    fn a_record_that_leaves_its_segment_is_damage_and_a_rest_without_room_is_empty() {
        let (_, bytes) = record(logged(1), &data(1));
        for len in 0..RECORD_HEAD {
            assert!(matches!(parse("log", OWNER, &bytes[..len]), Ok(Found::Nothing)), "{len}");
        }
        for len in RECORD_HEAD..bytes.len() {
            assert!(is_damaged(parse("log", OWNER, &bytes[..len])), "{len}");
        }
        assert!(matches!(parse("log", OWNER, &[0; 4096]), Ok(Found::Nothing)));
    }

    #[test]
    fn a_record_of_another_volume_is_damage() {
        let (_, bytes) = record(Body::Epoch, &[]);
        assert!(is_damaged(parse("log", VolumeId(OWNER.0 + 1), &bytes)));
        assert!(is_damaged(parse("log", OWNER, &SegmentHead { owner: OWNER, segment: 1, len: 1024 }.encode())));
    }

    #[test]
    fn a_later_version_or_an_unknown_kind_asks_for_a_newer_version() {
        let (_, whole) = record(logged(1), &data(1));
        for (at, value) in [(4, 2), (5, 9), (HEAD_FIXED + 12, 7)] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let crc = checksum::crc32c(&bytes[..HEAD_SUMMED]);
            bytes[HEAD_SUMMED..RECORD_HEAD].copy_from_slice(&crc.to_le_bytes());
            assert!(matches!(parse("log", OWNER, &bytes), Err(Error::TooNew { .. })), "byte {at}");
        }
    }

    fn any_run() -> impl Strategy<Value = (u64, u32, u8)> {
        (0..1u64 << 39, 1..1u32 << 30, 0..3u8)
    }

    proptest! {
        #[test]
        fn any_record_comes_back_as_written(
            seq: u64, generation: u64, epoch: u64, segment: u32, offset in 0u32..1 << 23,
            runs in proptest::collection::vec(any_run(), 0..=MAX_RUNS), fill: u8,
        ) {
            let mut room = MAX_LOGGED_WRITE / SECTOR as usize;
            let mut payload = Vec::new();
            let runs = runs.into_iter().map(|(start, len, kind)| {
                if kind == 0 && room > 0 {
                    let len = 1 + len % room as u32;
                    room -= len as usize;
                    payload.resize(payload.len() + len as usize * SECTOR as usize, fill);
                    Run { start, len, kind: RunKind::Logged }
                } else {
                    Run { start, len, kind: if kind == 1 { RunKind::Data } else { RunKind::Zero } }
                }
            }).collect();
            let synced = LogPos { segment, offset: offset * 512 };
            let head = RecordHead { seq, generation, epoch, synced, body: Body::Map(runs) };
            let mut bytes = encode_head(OWNER, &head, &[&payload]).unwrap().to_vec();
            bytes.extend_from_slice(&payload);
            match parse("log", OWNER, &bytes).unwrap() {
                Found::Record(found, len) => {
                    prop_assert_eq!(found, head);
                    prop_assert_eq!(len, payload.len());
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let _ = parse("log", OWNER, &bytes);
            let _ = SegmentHead::decode("log", &bytes);
        }

        #[test]
        fn heads_with_right_checksums_and_altered_fields_never_panic(
            changes in proptest::collection::vec((0..HEAD_SUMMED, any::<u8>()), 1..6), keep in 0usize..5000,
        ) {
            let (_, mut bytes) = record(logged(1), &data(1));
            for (at, value) in changes { bytes[at] = value }
            let crc = checksum::crc32c(&bytes[..HEAD_SUMMED]);
            bytes[HEAD_SUMMED..RECORD_HEAD].copy_from_slice(&crc.to_le_bytes());
            let _ = parse("log", OWNER, &bytes[..keep.min(bytes.len())]);
            let _ = SegmentHead::decode("log", &bytes);
        }
    }
}
