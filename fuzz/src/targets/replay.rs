//! Replay of whole journals: segments of any bytes, and journals with a known history in which something happened.

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::{Blocker, Boot, Object};
use archipelago_core::format::header::{Header, LogPos, LogStart, SealedRange};
use archipelago_core::format::log::{Body, RECORD_HEAD, RecordHead, Run, RunKind, SegmentHead, encode_head};
use archipelago_core::format::node::Source;
use archipelago_core::fuzzing::{Replay, replay};
use archipelago_core::limits::ATOM;
use archipelago_core::{Error, VolumeId};

use super::{header, mode, refused, seal, with_mode};
use crate::Target;

/// Whose journal it is.
const OWNER: VolumeId = VolumeId(0xa1);
/// Sectors of the map: 16 blocks of 64 KiB.
const SECTORS: u64 = 256;
/// Where the journal starts.
const START: LogStart = LogStart { pos: LogPos { segment: 0, offset: 512 }, seq: 1, generation: 0 };

fn map() -> Header {
    Header { size: SECTORS << 12, block_shift: 16, epoch: 1, log: Some(START), ..header::plain() }
}

/// A store that holds these segments, their heads included.
fn store(segments: &[Vec<u8>]) -> Arc<MemoryBlocker> {
    let blocker = MemoryBlocker::new();
    for (number, bytes) in segments.iter().enumerate() {
        let object = Object::Log(OWNER, number as u32);
        blocker.create(object, bytes, bytes.len() as u64).expect("a new segment");
    }
    blocker
}

/// The boot of such a store.
fn boot() -> Boot {
    MemoryBlocker::new().boot()
}

/// What each sector of the map comes from.
fn sources(read: &Replay) -> Vec<Source> {
    let mut all = Vec::new();
    for (start, len, source) in &read.runs {
        assert_eq!(*start, all.len() as u64, "a gap");
        all.extend((0..*len).map(|by| further(*source, by)));
    }
    assert_eq!(all.len() as u64, SECTORS);
    all
}

fn further(source: Source, by: u64) -> Source {
    match source {
        Source::Log { owner, epoch, segment, offset } => {
            Source::Log { owner, epoch, segment, offset: offset + ((by as u32) << 12) }
        }
        other => other,
    }
}

/// One segment of any bytes, read as a volume's own journal and as a sealed one: mode, then what follows its head. Mode bit 0
/// puts checksums and owners right, bit 1 sequence numbers and generations, bit 2 checksums of payloads.
pub const SEGMENT: Target =
    Target { name: "segment", check: segment, seeds: segment_seeds, max_len: 24 << 10, memory: 4 << 20, cost: 1 };

fn segment(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let len = (512 + bytes.len()).next_multiple_of(ATOM).max(1024);
    let mut segment = SegmentHead { owner: OWNER, segment: 0, len: len as u32 }.encode().to_vec();
    segment.extend_from_slice(bytes);
    segment.resize(len, 0);
    if mode & 7 != 0 {
        put_records_right(&mut segment, mode);
    }
    let blocker = store(std::slice::from_ref(&segment));
    match replay(&*blocker, &map(), SECTORS) {
        Ok(read) => {
            let end = read.end.offset as usize;
            assert!(read.end.segment == 0 && end.is_multiple_of(ATOM) && (512..=len).contains(&end));
            let sources = sources(&read);
            // Read again after the rest was zeroed, as the next owner does: the same, and nothing behind.
            segment[end..].fill(0);
            let again = replay(&*store(std::slice::from_ref(&segment)), &map(), SECTORS).expect("what was read");
            assert_eq!(Replay { stray: false, ..read.clone() }, again);
            // As a sealed journal of somebody else, up to its end, it says the same, but for what only this boot believes.
            if read.believed > 0 {
                return;
            }
            let range = SealedRange { owner: OWNER, from: START, to: read.end, epoch: u64::MAX, size: SECTORS << 12 };
            let sealed = Header { id: VolumeId(0xb2), ranges: vec![range], log: None, ..map() };
            let sealed = replay(&*blocker, &sealed, SECTORS).expect("every record is there");
            assert_eq!(self::sources(&sealed), sources);
        }
        Err(error) => refused(&error),
    }
}

fn put_records_right(segment: &mut [u8], mode: u8) {
    let (mut at, mut seq, mut generation) = (512, 1u64, 0u64);
    while let Some((head, rest)) = segment.get_mut(at..).and_then(|rest| rest.split_at_mut_checked(ATOM)) {
        if head.iter().all(|b| *b == 0) {
            return;
        }
        head[..5].copy_from_slice(b"ALRC\x01");
        let stated = u32::from_le_bytes(head[8..12].try_into().expect("4 bytes")) as usize % (40 << 10);
        let payload = &rest[..stated.min(rest.len())];
        if mode & 4 != 0 {
            let atoms = payload.chunks(ATOM).take(64).enumerate();
            let present = atoms.fold(0u64, |bits, (i, a)| bits | u64::from(a.iter().any(|b| *b != 0)) << i);
            head[12..16].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
            head[56..64].copy_from_slice(&present.to_le_bytes());
        }
        if mode & 2 != 0 {
            head[24..32].copy_from_slice(&seq.to_le_bytes());
            if head[5] == 1 {
                head[64..72].copy_from_slice(&generation.to_le_bytes());
                generation = u64::from_le_bytes(head[32..40].try_into().expect("8 bytes"));
            }
            head[32..40].copy_from_slice(&generation.to_le_bytes());
        }
        head[16..24].copy_from_slice(&OWNER.0.to_le_bytes());
        seal(head);
        at += ATOM + stated.next_multiple_of(ATOM);
        seq += 1;
    }
}

fn segment_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![with_mode(0, &[])];
    for seed in history_seeds() {
        let Ok(journal) = Journal::make_up(&mut Unstructured::new(&seed)) else { continue };
        let bytes = &journal.segments[0][512..];
        let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |i| (i + 1).next_multiple_of(ATOM));
        seeds.extend([0, 7].map(|mode| with_mode(mode, &bytes[..end])));
    }
    seeds
}

/// A journal that is written as the engine writes it, and then cut, or damaged: the first bytes say what happens, the rest is what is
/// written.
pub const HISTORY: Target =
    Target { name: "history", check: history, seeds: history_seeds, max_len: 2048, memory: 8 << 20, cost: 1 };

/// Length of a made-up segment.
const SEGMENT_LEN: usize = 32 << 10;
/// Segments and records of one.
const MAX_SEGMENTS: usize = 3;
const MAX_RECORDS: usize = 48;

/// A record as written, and the map after it.
struct Written {
    at: LogPos,
    len: usize,
    epoch: u64,
    synced: LogPos,
    counts: Counts,
    changes: Vec<(u64, u64, Source)>,
}

/// Whether a record counts.
enum Counts {
    Always,
    /// If a later one says so, or it was written in this boot.
    Provisional(Boot),
    /// Provisional ones up to this number do.
    Confirms(u64),
}

struct Journal {
    segments: Vec<Vec<u8>>,
    records: Vec<Written>,
    /// Where it ends.
    end: LogPos,
}

impl Journal {
    fn make_up(u: &mut Unstructured<'_>) -> arbitrary::Result<Journal> {
        let mut this = Journal { segments: Vec::new(), records: Vec::new(), end: START.pos };
        this.add_segment();
        let (mut generation, mut epoch, mut synced) = (0, 1, START.pos);
        let first = Body::Open { previous: 0 };
        this.write(9, epoch, synced, first, &[]);
        generation += 9;
        while !u.is_empty() && this.records.len() < MAX_RECORDS {
            let what = u8::arbitrary(u)?;
            if what & 0x80 != 0 {
                synced = this.end;
            }
            let mut payload = Vec::new();
            let (mut own, mut body) = (epoch, Body::Epoch);
            match what & 15 {
                0 => epoch += 1,
                1 => {
                    body = Body::Open { previous: generation };
                    generation += 1 + u64::from(what >> 4);
                }
                2 if this.segments.len() < MAX_SEGMENTS => body = Body::Next,
                // Data of the epoch before, whose sync ended late.
                // In this boot, in another, or in none that is known.
                6 => {
                    let mut boot = Boot::default();
                    boot[0] = what >> 4 & 3;
                    body = Body::Provisional { boot, runs: runs(u, &[RunKind::Data])? };
                }
                7 => {
                    let before = this.records.len() as u64;
                    body = Body::Confirm { seq: before.saturating_sub(u64::from(what >> 4 & 7)) };
                }
                3 => {
                    own = epoch.saturating_sub(1).max(1);
                    body = Body::Map(runs(u, &[RunKind::Data])?);
                }
                4 | 5 => body = Body::Map(runs(u, &[RunKind::Data, RunKind::Zero])?),
                _ => {
                    let (start, len) = (u64::from(u8::arbitrary(u)?), 1 + u32::from(what >> 4 & 1));
                    let run = Run { start: start.min(SECTORS - 2), len, kind: RunKind::Logged };
                    body = Body::Map(vec![run]);
                    // Few bytes, in few atoms: what tears and flips differ in.
                    payload = vec![0; len as usize * 4096];
                    for _ in 0..u8::arbitrary(u)? % 6 {
                        let place = usize::from(u16::arbitrary(u)?) % payload.len();
                        payload[place] = u8::arbitrary(u)?;
                    }
                }
            }
            own = if matches!(body, Body::Epoch) { epoch } else { own };
            let next = matches!(body, Body::Next);
            if !next && this.end.offset as usize + 2 * RECORD_HEAD + payload.len() > SEGMENT_LEN {
                break;
            }
            this.write(generation, own, synced, body, &payload);
            if next {
                this.add_segment();
            }
        }
        Ok(this)
    }

    fn add_segment(&mut self) {
        let number = self.segments.len() as u32;
        let head = SegmentHead { owner: OWNER, segment: number, len: SEGMENT_LEN as u32 };
        let mut segment = head.encode().to_vec();
        segment.resize(SEGMENT_LEN, 0);
        self.segments.push(segment);
        self.end = LogPos { segment: number, offset: 512 };
    }

    fn write(&mut self, generation: u64, epoch: u64, synced: LogPos, body: Body, payload: &[u8]) {
        let mut changes = Vec::new();
        let mut offset = self.end.offset + RECORD_HEAD as u32;
        for run in body.runs() {
            let source = match run.kind {
                RunKind::Zero => Source::Zero,
                RunKind::Data => Source::Data { owner: OWNER, epoch },
                RunKind::Logged => Source::Log { owner: OWNER, epoch, segment: self.end.segment, offset },
            };
            offset += if run.kind == RunKind::Logged { run.len << 12 } else { 0 };
            changes.push((run.start, u64::from(run.len), source));
        }
        let counts = match body {
            Body::Provisional { boot, .. } => Counts::Provisional(boot),
            Body::Confirm { seq } => Counts::Confirms(seq),
            _ => Counts::Always,
        };
        let head = RecordHead { seq: self.records.len() as u64 + 1, generation, epoch, synced, body };
        let bytes = encode_head(OWNER, &head, &[payload]).expect("a sound record");
        let (at, len) = (self.end, RECORD_HEAD + payload.len());
        let place = at.offset as usize;
        let segment = &mut self.segments[at.segment as usize];
        segment[place..place + RECORD_HEAD].copy_from_slice(&bytes);
        segment[place + RECORD_HEAD..place + len].copy_from_slice(payload);
        self.end.offset += len as u32;
        self.records.push(Written { at, len, epoch, synced, counts, changes });
    }

    /// Whether record `i` of the first `count` counts for somebody of this boot.
    fn counts(&self, i: usize, count: usize, now: Boot) -> bool {
        let confirms = |record: &Written| matches!(record.counts, Counts::Confirms(seq) if seq > i as u64);
        match self.records[i].counts {
            Counts::Always | Counts::Confirms(_) => true,
            Counts::Provisional(boot) => {
                now != Boot::default() && boot == now || self.records[i..count].iter().any(confirms)
            }
        }
    }

    /// The map after the first `count` records, of those up to an epoch, for somebody of this boot.
    fn map_after(&self, count: usize, epoch: u64, now: Boot) -> Vec<Source> {
        let mut map = vec![Source::Zero; SECTORS as usize];
        let counting = (0..count).filter(|i| self.counts(*i, count, now)).map(|i| &self.records[i]);
        for record in counting.filter(|record| record.epoch <= epoch) {
            for (start, len, source) in &record.changes {
                for by in 0..*len {
                    let Some(sector) = map.get_mut((start + by) as usize) else { continue };
                    // A record of a sealed epoch may come later than one of the next.
                    let newer = match sector {
                        Source::Data { epoch, .. } | Source::Log { epoch, .. } => *epoch > record.epoch,
                        Source::Zero | Source::Content(_) => false,
                    };
                    if !newer {
                        *sector = further(*source, by);
                    }
                }
            }
        }
        map
    }

    /// Whether record `i` is as it was written.
    fn is_whole(&self, i: usize, segments: &[Vec<u8>]) -> bool {
        let (at, len) = (self.records[i].at, self.records[i].len);
        let (number, range) = (at.segment as usize, at.offset as usize..at.offset as usize + len);
        segments[number][range.clone()] == self.segments[number][range]
    }

    /// How many records from the start on are whole.
    fn whole(&self, segments: &[Vec<u8>]) -> usize {
        (0..self.records.len()).find(|i| !self.is_whole(*i, segments)).unwrap_or(self.records.len())
    }
}

fn runs(u: &mut Unstructured<'_>, kinds: &[RunKind]) -> arbitrary::Result<Vec<Run>> {
    let mut runs = Vec::new();
    for _ in 0..1 + u8::arbitrary(u)? % 4 {
        let (start, len, kind) = (u8::arbitrary(u)?, u8::arbitrary(u)?, usize::from(u8::arbitrary(u)?));
        // Some reach past the end of the map, which was larger once.
        runs.push(Run { start: u64::from(start), len: u32::from(len).max(1), kind: kinds[kind % kinds.len()] });
    }
    Ok(runs)
}

fn history(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let Ok((what, seed)) = <(u8, u64)>::arbitrary(&mut u) else { return };
    let Ok(journal) = Journal::make_up(&mut u) else { return };
    let mut random = crate::mutate::Random::new(seed);
    let all = journal.records.len();
    let mut segments = journal.segments.clone();
    let read = |segments: &[Vec<u8>]| replay(&*store(segments), &map(), SECTORS);
    match what % 5 {
        0 => {
            let read = read(&segments).expect("an untouched journal");
            assert_eq!((read.end, read.next_seq, read.stray), (journal.end, all as u64 + 1, false));
            assert_eq!(sources(&read), journal.map_after(all, u64::MAX, boot()));
            assert_eq!(read.epoch, journal.records.iter().map(|r| r.epoch).max().unwrap_or(1));
        }
        1 => cut(&journal, &mut segments, &mut random),
        2 => {
            // Any bit of any record.
            let record = &journal.records[random.below(all)];
            let bit = random.below(record.len * 8);
            let place = record.at.offset as usize + bit / 8;
            let segment = &mut segments[record.at.segment as usize];
            segment[place] ^= 1 << (bit % 8);
            let atom = place / ATOM * ATOM;
            let vanished = segment[atom..atom + ATOM].iter().all(|b| *b == 0);
            match read(&segments) {
                Ok(_) => assert!(vanished, "a changed bit was not noticed"),
                Err(error) => refused(&error),
            }
        }
        3 => {
            // A record that a later one of its segment knew to be durable is gone.
            let (lost, known) = (random.below(all), |i: usize| {
                let record = &journal.records[i];
                let later = &journal.records[i + 1..];
                later.iter().any(|r| r.at.segment == record.at.segment && r.synced > record.at)
            });
            let record = &journal.records[lost];
            let (from, segment) = (record.at.offset as usize, record.at.segment as usize);
            segments[segment][from..from + record.len].fill(0);
            match read(&segments) {
                Ok(read) => {
                    assert!(!known(lost), "a record that was flushed is missing, and nobody noticed");
                    assert_eq!(sources(&read), journal.map_after(lost, u64::MAX, boot()));
                }
                Err(error) => refused(&error),
            }
        }
        _ => sealed(&journal, &mut segments, &mut random),
    }
}

/// A power cut: what was not synced arrived or not, atom by atom.
fn cut(journal: &Journal, segments: &mut [Vec<u8>], random: &mut crate::mutate::Random) {
    let durable = journal.records.last().map_or(START.pos, |record| record.synced);
    let rare = 1 + random.below(8);
    for record in journal.records.iter().filter(|record| record.at >= durable) {
        let segment = &mut segments[record.at.segment as usize];
        for atom in 0..record.len / ATOM {
            if random.below(rare) == 0 {
                let from = record.at.offset as usize + atom * ATOM;
                segment[from..from + ATOM].fill(0);
            }
        }
    }
    let whole = journal.whole(segments);
    assert!(journal.records[..whole].len() >= journal.records.iter().filter(|r| r.at < durable).count());
    let read = replay(&*store(segments), &map(), SECTORS).expect("a power cut is no damage");
    assert_eq!(sources(&read), journal.map_after(whole, u64::MAX, boot()));
    assert_eq!(read.next_seq, whole as u64 + 1);
    if whole < journal.records.len() {
        assert_eq!(read.end, journal.records[whole].at);
    }
}

/// A part of the journal that a snapshot names, read with something missing or with all there.
fn sealed(journal: &Journal, segments: &mut [Vec<u8>], random: &mut crate::mutate::Random) {
    let count = 1 + random.below(journal.records.len());
    let to = journal.records.get(count).map_or(journal.end, |record| record.at);
    let epoch = 1 + random.below(4) as u64;
    let range = SealedRange { owner: OWNER, from: START, to, epoch, size: SECTORS << 12 };
    let header = Header { id: VolumeId(0xb2), ranges: vec![range], log: None, ..map() };
    let lost = random.below(2 * count);
    if let Some(record) = journal.records[..count].get(lost) {
        let from = record.at.offset as usize + random.below(record.len / ATOM) * ATOM;
        segments[record.at.segment as usize][from..from + ATOM].fill(0);
    }
    let skipped = |i: usize| journal.records[i].epoch > epoch;
    let whole = journal.whole(segments);
    match replay(&*store(segments), &header, SECTORS) {
        Ok(read) => {
            // The payload of a record that is passed over was somebody else's to change.
            assert!(whole >= count || skipped(whole), "a record that was acknowledged is missing");
            assert_eq!(sources(&read), journal.map_after(count, epoch, Boot::default()));
        }
        Err(error) => {
            assert!(whole < count, "nothing is missing: {error}");
            assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        }
    }
}

fn history_seeds() -> Vec<Vec<u8>> {
    let plain = [0x08, 5, 2, 1, 0, 7, 0, 9, 0x98, 6, 1, 0, 4, 1, 0x84, 1, 10, 20, 0, 30, 1, 1];
    let epochs = [0x18, 5, 1, 1, 0, 7, 0x00, 0x08, 5, 1, 9, 0, 1, 0x03, 0, 4, 9, 0, 0x88, 9, 0, 0x11, 0x08, 1, 0];
    let provisional =
        [0x16, 2, 5, 9, 0, 9, 3, 2, 0, 0x26, 0, 7, 4, 0, 0x08, 5, 1, 9, 0, 1, 0x17, 0x96, 1, 20, 9, 0, 30, 9, 0, 0x07];
    let long = [0x82, 0x08, 1, 1, 1, 1, 1, 0x02, 0x09, 2, 1, 1, 1, 1, 0x88, 3, 1, 0, 0, 1, 0x80, 0x0a, 4, 0];
    let mut seeds = Vec::new();
    for what in 0..5 {
        for body in [&plain[..], &epochs, &long, &provisional] {
            seeds.push([&[what, 1, 2, 3, 4, 5, 6, 7, what][..], body].concat());
        }
    }
    seeds
}
