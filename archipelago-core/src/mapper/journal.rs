//! The journal of a volume that is open for writing: appends records, knows what is durable, and which of them count only once
//! their data was synced.
//!
//! One append happens at a time, under [`Journal`]'s lock: a record is reserved and written before the next one, so
//! the journal never has a hole before a record that was acknowledged.

use std::io::IoSlice;

use crate::blocker::{Blocker, Boot, Object, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::{LogPos, LogStart};
use crate::format::log::{
    self, Body, MAX_PROVISIONAL_RUNS, MAX_RUNS, RECORD_HEAD, RecordHead, Run, RunKind, SEGMENT_HEAD, SegmentHead,
};
use crate::limits::{RESERVED_SEGMENT, SECTOR, SEGMENT_SIZE};
use crate::mapper::provisional::Unconfirmed;
use crate::planted::{self, Bug};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// How many times as long as the one before a segment is, up to the full length: what is made of zeros ahead of need is never much
/// more than what was written so far.
const GROWTH: u64 = 2;

/// Bytes of records for each flush past which the zeros of the next segment are not written but reserved. To write and sync 16 MiB of
/// zeros costs what some hundred syncs of reserved ones cost more, and writers who hardly flush, but write much, wait for it.
const RARE_FLUSHES: u64 = 256 << 10;

/// The place of a position in a segment as one number that orders like it.
pub fn pack_pos(pos: LogPos) -> u64 {
    u64::from(pos.segment) << 32 | u64::from(pos.offset)
}

/// The journal of one volume.
pub struct Journal {
    owner: VolumeId,
    /// In which provisional records are written.
    boot: Boot,
    state: Mutex<State>,
    /// Bytes of records ever appended by this owner, and how many of them are folded.
    appended: AtomicU64,
    folded: AtomicU64,
    /// Position before which everything is folded, packed: logged sectors before it may be overwritten in place.
    folded_pos: AtomicU64,
    /// A next segment is wanted.
    wants_segment: AtomicBool,
    /// It is wanted so soon that writers make it themselves, before they are admitted.
    needs_segment: AtomicBool,
    /// Segments made ahead of need. Held while one is made, so that nobody makes the same one twice; taken with the
    /// journal's lock held, never the other way round.
    ahead: Mutex<Ahead>,
    /// Number of the newest segment made ahead, for those who must not wait while one is made.
    made_ahead: AtomicU32,
    /// Segments with bytes that no sync covered yet.
    dirty: Mutex<Vec<u32>>,
}

/// Segments before they are used.
struct Ahead {
    /// Number and length of the one that waits.
    made: Option<(u32, u32)>,
    /// The lowest that was never made: those below are never made again, for they may have records.
    next: u32,
    /// The volume is closed: nothing is made any more.
    ended: bool,
}

/// What the journal's lock guards.
pub struct State {
    /// Where the next record goes, its number, and the generation in force.
    pub next: LogStart,
    /// Length of the current segment; 0 before there is one.
    segment_len: u32,
    /// Generation of this owner; in force once its first record is written.
    generation: u64,
    opened: bool,
    /// Everything before is durable.
    synced: LogPos,
    /// The last record, while it may be written again with more runs.
    growing: Option<Growing>,
    /// Provisional records that are not confirmed, in order.
    unconfirmed: Vec<Unconfirmed>,
    /// A sync of data failed: nothing provisional is written or confirmed any more. The lowest epoch of what was then.
    disowned: Option<u64>,
    /// Length of the next segment to be made.
    grow: u32,
    /// Flushes since the current segment was begun.
    flushes: u32,
}

impl State {
    /// Whether flushes are so rare that zeros ahead of them are not worth being written.
    fn flushes_rarely(&self) -> bool {
        self.segment_len != 0 && u64::from(self.flushes) * RARE_FLUSHES < u64::from(self.next.pos.offset)
    }
}

/// A record without payload at the end of the journal.
struct Growing {
    pos: LogPos,
    seq: u64,
    epoch: u64,
    /// Never empty, and all of one kind.
    runs: Vec<Run>,
}

/// Where a replay ended, and so where the journal goes on.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    /// Position, next sequence number, generation in force.
    pub next: LogStart,
    /// Length of the segment in which it ends; 0 if there is none.
    pub segment_len: u32,
    /// Bytes of records replayed.
    pub bytes: u64,
    /// Something that is not zero lies behind the end: parts of records that were never acknowledged.
    pub stray: bool,
}

impl Journal {
    /// A journal that goes on at `tail`, in this boot. `believed` are the provisional records of former owners that are this one's to
    /// confirm, `first_segment` is the length of the first segment in bytes.
    pub fn new(
        owner: VolumeId,
        boot: Boot,
        tail: Tail,
        believed: Vec<Unconfirmed>,
        folded: LogPos,
        generation: u64,
        first_segment: u64,
    ) -> Journal {
        let empty = tail.segment_len == 0;
        let grow = if empty { first_segment } else { u64::from(tail.segment_len) * GROWTH };
        Journal {
            owner,
            boot,
            state: Mutex::new(State {
                next: tail.next,
                segment_len: tail.segment_len,
                generation,
                opened: false,
                synced: tail.next.pos,
                growing: None,
                unconfirmed: believed,
                disowned: None,
                grow: grow.min(SEGMENT_SIZE) as u32,
                flushes: 0,
            }),
            appended: AtomicU64::new(tail.bytes),
            folded: AtomicU64::new(0),
            folded_pos: AtomicU64::new(pack_pos(folded)),
            wants_segment: AtomicBool::new(false),
            needs_segment: AtomicBool::new(empty),
            // The first one is made where the journal is to begin, any other behind where it ends.
            ahead: Mutex::new(Ahead { made: None, next: tail.next.pos.segment + u32::from(!empty), ended: false }),
            made_ahead: AtomicU32::new(0),
            dirty: Mutex::new(Vec::new()),
        }
    }

    /// Takes the lock.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Record bytes that are not folded.
    pub fn unfolded(&self) -> u64 {
        self.appended.load(Ordering::Relaxed).saturating_sub(self.folded.load(Ordering::Relaxed))
    }

    /// Record bytes appended so far.
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    /// Whether a logged sector at this place was folded, so that no checksum of a record to be replayed covers it.
    pub fn is_folded(&self, segment: u32, offset: u32) -> bool {
        if planted::has(Bug::FoldedTooFar) {
            return true;
        }
        pack_pos(LogPos { segment, offset }) < self.folded_pos.load(Ordering::Acquire)
    }

    /// Everything before `pos`, `appended` bytes of records in all, is folded.
    pub fn set_folded(&self, pos: LogPos, appended: u64) {
        self.folded_pos.store(pack_pos(pos), Ordering::Release);
        self.folded.fetch_max(appended, Ordering::Relaxed);
    }

    /// A segment has bytes to be synced. Called after they are written.
    pub fn mark_dirty(&self, segment: u32) {
        let mut dirty = self.dirty.lock();
        if dirty.last() != Some(&segment) && !dirty.contains(&segment) {
            dirty.push(segment);
        }
    }

    /// Takes the segments that have to be synced.
    pub fn take_dirty(&self) -> Vec<Object> {
        std::mem::take(&mut *self.dirty.lock()).into_iter().map(|n| Object::Log(self.owner, n)).collect()
    }

    /// Whether a segment should be made ahead of need.
    pub fn wants_segment(&self) -> bool {
        self.wants_segment.load(Ordering::Relaxed)
    }

    /// Whether a writer should make it before it is admitted: to make one means to wait for a sync, which nobody may do who
    /// was admitted, for a snapshot waits for all of them.
    pub fn needs_segment(&self) -> bool {
        self.needs_segment.load(Ordering::Relaxed)
    }

    /// Makes the next segment ahead of need, outside every lock that a writer takes.
    pub fn prepare_segment(&self, blocker: &dyn Blocker) -> Result<()> {
        let (number, len, reserved) = {
            let state = self.state.lock();
            (state.next.pos.segment + u32::from(state.segment_len != 0), state.grow, state.flushes_rarely())
        };
        let mut ahead = self.ahead.lock();
        // Writers may have come here meanwhile, and made it themselves.
        if !ahead.ended && number >= ahead.next {
            self.make_segment(blocker, number, len, reserved)?;
            ahead.made = Some((number, len));
            ahead.next = number + 1;
            self.made_ahead.store(number, Ordering::Relaxed);
        }
        self.wants_segment.store(false, Ordering::Relaxed);
        self.needs_segment.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// A segment full of zeros with its head, durable.
    fn make_segment(&self, blocker: &dyn Blocker, number: u32, len: u32, reserved: bool) -> Result<()> {
        let object = Object::Log(self.owner, number);
        let head = SegmentHead { owner: self.owner, segment: number, len }.encode();
        let create = || match reserved {
            true => blocker.create_reserved(object, &head, u64::from(len)),
            false => blocker.create(object, &head, u64::from(len)),
        };
        match create() {
            // An earlier attempt that ended early; nothing refers to it.
            Err(Error::Exists(_)) => {
                blocker.remove(object)?;
                create()
            }
            other => other,
        }
    }

    /// As [`Journal::make_segment`]; where there is no room, and the record that wants it has no data, a small one that may
    /// use what is kept in reserve. Returns the length.
    fn make_fitting(&self, blocker: &dyn Blocker, number: u32, len: u32, data: bool, reserved: bool) -> Result<u32> {
        match self.make_segment(blocker, number, len, reserved) {
            Err(Error::NoSpace(_)) if !data => {
                self.make_segment(blocker, number, RESERVED_SEGMENT as u32, reserved)?;
                Ok(RESERVED_SEGMENT as u32)
            }
            other => other.map(|()| len),
        }
    }

    /// The segment of this number, made ahead or now. Returns its length.
    fn take_ahead(&self, blocker: &dyn Blocker, number: u32, len: u32, data: bool, reserved: bool) -> Result<u32> {
        let mut ahead = self.ahead.lock();
        let len = match ahead.made.take() {
            Some((n, len)) if n == number => len,
            _ => self.make_fitting(blocker, number, len, data, reserved)?,
        };
        ahead.next = number + 1;
        Ok(len)
    }

    /// Makes room for a record of `len` bytes, with data or without, behind which the end marker of the segment still fits.
    /// `started` is called once, after the volume's first segment was made and before its first record.
    fn reserve(
        &self,
        blocker: &dyn Blocker,
        state: &mut State,
        len: u32,
        data: bool,
        started: &dyn Fn(LogStart) -> Result<()>,
    ) -> Result<()> {
        if state.segment_len == 0 {
            let number = state.next.pos.segment;
            let size = self.take_ahead(blocker, number, state.grow, data, false)?;
            let pos = LogPos { segment: number, offset: SEGMENT_HEAD };
            started(LogStart { pos, ..state.next })?;
            state.next.pos = pos;
            state.synced = pos;
            state.segment_len = size;
            self.needs_segment.store(false, Ordering::Relaxed);
            self.folded_pos.store(pack_pos(pos), Ordering::Release);
            state.grow = (u64::from(size) * GROWTH).min(SEGMENT_SIZE) as u32;
        }
        let marker = RECORD_HEAD as u32;
        // Data does not use up what was made from the reserve.
        let reserved = u64::from(state.segment_len) <= RESERVED_SEGMENT;
        if state.next.pos.offset + len + marker > state.segment_len || (data && reserved) {
            let number = state.next.pos.segment + 1;
            let len = self.take_ahead(blocker, number, state.grow, data, state.flushes_rarely())?;
            self.put(blocker, state, 0, Body::Next, &[])?;
            state.next.pos = LogPos { segment: number, offset: SEGMENT_HEAD };
            state.segment_len = len;
            state.flushes = 0;
            state.grow = (u64::from(len) * GROWTH).min(SEGMENT_SIZE) as u32;
            // What was wanted is here.
            self.wants_segment.store(false, Ordering::Relaxed);
            self.needs_segment.store(false, Ordering::Relaxed);
        }
        // In the background from half of the segment on, by writers from seven eighths on.
        let eighths = u64::from(state.next.pos.offset) * 8 / u64::from(state.segment_len);
        if eighths >= 4 && self.made_ahead.load(Ordering::Relaxed) <= state.next.pos.segment {
            self.wants_segment.store(true, Ordering::Relaxed);
            if eighths >= 7 {
                self.needs_segment.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Writes one record where the journal ends. Room was made before.
    fn put(
        &self,
        blocker: &dyn Blocker,
        state: &mut State,
        epoch: u64,
        body: Body,
        payload: &[IoSlice<'_>],
    ) -> Result<LogPos> {
        let pieces: smallvec::SmallVec<[&[u8]; 8]> = payload.iter().map(|s| &**s).collect();
        let len: usize = pieces.iter().map(|p| p.len()).sum();
        // An owner's generation is in force from its first record on; an end marker may have to come before that.
        let first = matches!(body, Body::Open { .. });
        let generation = if state.opened || first { state.generation } else { state.next.generation };
        let record = RecordHead { seq: state.next.seq, generation, epoch, synced: state.synced, body };
        let head = log::encode_head(self.owner, &record, &pieces)?;
        let mut bufs: smallvec::SmallVec<[IoSlice<'_>; 9]> = smallvec::SmallVec::new();
        bufs.push(IoSlice::new(&head));
        bufs.extend(payload.iter().map(|s| IoSlice::new(s)));
        let pos = state.next.pos;
        state.growing = None;
        let object = Object::Log(self.owner, pos.segment);
        if let Err(error) = blocker.write(object, &bufs, u64::from(pos.offset)) {
            // What part of it arrived is unknown. The place must be zero again before anything else is put there.
            let zeros = vec![0; RECORD_HEAD + len];
            return match blocker.write(object, &[IoSlice::new(&zeros)], u64::from(pos.offset)) {
                Ok(()) => {
                    self.mark_dirty(pos.segment);
                    Err(error)
                }
                Err(_) => Err(Error::Poisoned(format!("journal of volume {}", self.owner))),
            };
        }
        state.next.pos.offset += (RECORD_HEAD + len) as u32;
        state.next.seq += 1;
        state.next.generation = generation;
        self.appended.fetch_add((RECORD_HEAD + len) as u64, Ordering::Relaxed);
        self.mark_dirty(pos.segment);
        Ok(pos)
    }

    /// Appends a record; returns its position. `started` is explained at [`Journal::reserve`]'s only other caller: it
    /// records the journal's existence in the header.
    pub fn append(
        &self,
        blocker: &dyn Blocker,
        state: &mut State,
        epoch: u64,
        body: Body,
        payload: &[IoSlice<'_>],
        started: &dyn Fn(LogStart) -> Result<()>,
    ) -> Result<LogPos> {
        let len: usize = payload.iter().map(|p| p.len()).sum::<usize>() + RECORD_HEAD;
        let open = if state.opened { 0 } else { RECORD_HEAD };
        self.reserve(blocker, state, (len + open) as u32, !payload.is_empty(), started)?;
        if !state.opened {
            let previous = state.next.generation;
            self.put(blocker, state, epoch, Body::Open { previous }, &[])?;
            state.opened = true;
        }
        self.put(blocker, state, epoch, body, payload)
    }

    /// Appends a run of sectors with its bytes; returns where in the journal the first sector lies.
    pub fn append_data(
        &self,
        blocker: &dyn Blocker,
        epoch: u64,
        start: u64,
        payload: &[IoSlice<'_>],
        started: &dyn Fn(LogStart) -> Result<()>,
    ) -> Result<LogPos> {
        let len = payload.iter().map(|p| p.len() as u64).sum::<u64>() / SECTOR;
        let mut state = self.state.lock();
        let runs = vec![Run { start, len: len as u32, kind: RunKind::Logged }];
        let pos = self.append(blocker, &mut state, epoch, Body::Map(runs), payload, started)?;
        Ok(LogPos { segment: pos.segment, offset: pos.offset + RECORD_HEAD as u32 })
    }

    /// Says what became of sectors whose bytes are not in the journal: provisionally if it is data, which has to be synced first, and for
    /// good if it is zeros. In the last record if nobody counts on that yet.
    pub fn append_run(
        &self,
        blocker: &dyn Blocker,
        epoch: u64,
        run: Run,
        started: &dyn Fn(LogStart) -> Result<()>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        if state.disowned.is_some() {
            return Err(Error::Poisoned(format!("journal of volume {}", self.owner)));
        }
        if self.add_to_last(blocker, &mut state, epoch, run)? {
            return Ok(());
        }
        let runs = vec![run];
        let pos = self.append(blocker, &mut state, epoch, self.body_of(&runs), &[], started)?;
        let seq = state.next.seq - 1;
        if run.kind == RunKind::Data {
            let generation = state.next.generation;
            state.unconfirmed.push(Unconfirmed { pos, seq, generation, epoch });
        }
        state.growing = Some(Growing { pos, seq, epoch, runs });
        Ok(())
    }

    /// The record that says these runs, all of one kind.
    fn body_of(&self, runs: &[Run]) -> Body {
        let kind = runs[0].kind;
        let runs = if planted::has(Bug::RunLost) { &runs[..runs.len() - 1] } else { runs }.to_vec();
        let boot = if planted::has(Bug::BootUnknown) { Boot::default() } else { self.boot };
        if kind == RunKind::Data { Body::Provisional { boot, runs } } else { Body::Map(runs) }
    }

    /// Writes the last record again with one more run; `false` if it is another record's, or somebody counts on it as it is.
    fn add_to_last(&self, blocker: &dyn Blocker, state: &mut State, epoch: u64, run: Run) -> Result<bool> {
        let Some(mut last) = state.growing.take() else { return Ok(false) };
        let most = if run.kind == RunKind::Data { MAX_PROVISIONAL_RUNS } else { MAX_RUNS };
        if last.epoch != epoch || last.runs[0].kind != run.kind {
            return Ok(false);
        }
        let (before, full) = (last.runs.clone(), last.runs.len() == most);
        match last.runs.last_mut() {
            Some(l) if l.start + u64::from(l.len) == run.start && l.len.checked_add(run.len).is_some() => {
                l.len += run.len;
            }
            _ if full => return Ok(false),
            _ => last.runs.push(run),
        }
        let object = Object::Log(self.owner, last.pos.segment);
        let put = |runs: &[Run]| {
            let (generation, synced, body) = (state.next.generation, state.synced, self.body_of(runs));
            let record = RecordHead { seq: last.seq, generation, epoch, synced, body };
            let head = log::encode_head(self.owner, &record, &[])?;
            blocker.write(object, &[IoSlice::new(&head)], u64::from(last.pos.offset))
        };
        let written = put(&last.runs);
        self.mark_dirty(last.pos.segment);
        if let Err(error) = written {
            // Which of the two is there is unknown. What was not answered must not be.
            return match put(&before) {
                Ok(()) => Err(error),
                Err(_) => Err(Error::Poisoned(format!("journal of volume {}", self.owner))),
            };
        }
        state.growing = Some(last);
        Ok(true)
    }

    /// Number of the last record. What is said from now on is said in later ones.
    pub fn close_last(&self) -> u64 {
        self.end().seq.saturating_sub(1)
    }

    /// Provisional records that wait for their data to be synced.
    pub fn unconfirmed(&self) -> usize {
        self.state.lock().unconfirmed.len()
    }

    /// Says that provisional records up to number `seq` count: their data is durable.
    pub fn confirm(
        &self,
        blocker: &dyn Blocker,
        epoch: u64,
        seq: u64,
        started: &dyn Fn(LogStart) -> Result<()>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let count = state.unconfirmed.partition_point(|record| record.seq <= seq);
        if count > 0 {
            self.append(blocker, &mut state, epoch, Body::Confirm { seq }, &[], started)?;
            state.unconfirmed.drain(..count);
        }
        Ok(())
    }

    /// A sync of data failed. Nobody may believe that what waited for it is there, for the system may have dropped it: the records are
    /// replaced, as far as that can be done, and there will be no others.
    pub fn disown(&self, blocker: &dyn Blocker) {
        let mut state = self.state.lock();
        state.growing = None;
        let records = std::mem::take(&mut state.unconfirmed);
        let lowest = records.iter().map(|record| record.epoch).min().unwrap_or(u64::MAX);
        state.disowned = Some(state.disowned.unwrap_or(u64::MAX).min(lowest));
        for record in records {
            if let Ok(head) = record.void(self.owner) {
                // The error to report is that of the sync.
                let object = Object::Log(self.owner, record.pos.segment);
                let _ = blocker.write(object, &[IoSlice::new(&head)], u64::from(record.pos.offset));
                self.mark_dirty(record.pos.segment);
            }
        }
    }

    /// The lowest epoch with map changes that are in no journal, because a sync of their data failed.
    pub fn oldest_disowned(&self) -> Option<u64> {
        self.state.lock().disowned.filter(|epoch| *epoch != u64::MAX)
    }

    /// Everything before `pos` was synced.
    pub fn set_synced(&self, pos: LogPos) {
        let mut state = self.state.lock();
        if pos > state.synced {
            state.synced = pos;
            state.flushes = state.flushes.saturating_add(1);
        }
    }

    /// Makes no segment from now on, and removes the one that was made ahead. For a volume that is closed.
    pub fn end_use(&self, blocker: &dyn Blocker) -> Result<()> {
        let mut ahead = self.ahead.lock();
        ahead.ended = true;
        ahead.made.take().map_or(Ok(()), |(number, _)| blocker.remove(Object::Log(self.owner, number)))
    }

    /// Where the journal ends now. What is said from now on is said behind that place.
    pub fn end(&self) -> LogStart {
        let mut state = self.state.lock();
        state.growing = None;
        state.next
    }
}
