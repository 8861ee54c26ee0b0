//! Collection of what no map names any more: online, in steps, at a given rate (docs/architecture.md, "Collection").
//!
//! | File | Its job |
//! |---|---|
//! | `candidates` | what may be taken away: all that there was when the collection began, and that nobody appends to |
//! | `rounds` | waiting for what other processes had under way, and hearing what they read by |
//! | `mark`, `marks`, `pages` | walking maps; the sets of what they name |
//! | `digests` | the digests that are needed |
//! | `sweep`, `content` | taking away the rest; of content |
//! | `slots` | inside epochs that were hashed: duplicates, and blocks that nobody needs |
//! | `pace` | rate, progress, stopping |
//! | `report` | what callers give and get |
//!
//! Nothing is stored about a collection: one that is cut short at any moment has removed some of what no map names, and
//! the next one finds the rest by listing.

use std::collections::HashSet;

use self::candidates::{COLLECTOR, Candidates};
use self::content::ContentSweep;
use self::mark::Marker;
use self::marks::Marks;
use self::pace::{Pace, Report};
use self::sweep::Sweep;
use crate::blocker::{LockGuard, LockMode, LockOutcome, Object, RecordKey, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::{Header, Kind};
use crate::format::owner::ShortOwner;
use crate::limits::{MARK_MEMORY, MAX_ROUNDS};
use crate::store::content::Leases;
use crate::store::group;
use crate::store::shared::Shared;

mod candidates;
mod content;
pub(crate) mod digests;
pub(crate) mod mark;
pub(crate) mod marks;
mod pace;
mod pages;
mod report;
mod rounds;
mod slots;
mod space;
mod sweep;

pub(crate) use candidates::redirected;
pub use report::{Amount, CollectOptions, CollectPhase, CollectProgress, CollectReport, Rate, SpaceByKind};
pub(crate) use space::by_kind;

/// What tests do without: steps of the protocol, to see that something notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// Do not wait for what other processes have under way.
    pub no_waiting: bool,
    /// Do not ask what readers use.
    pub no_pins: bool,
    /// Do not look for maps that were made meanwhile.
    pub no_second_look: bool,
    /// Do not look at leases.
    pub no_leases: bool,
    /// Do not ask again between moving slots and punching them.
    pub no_question: bool,
    /// Do not make durable that slots were moved before they are punched.
    pub unsynced_moves: bool,
    /// No bug, but what happens in a store too large for the memory: bytes for what data and journals are used of, in the place of
    /// [`MARK_MEMORY`].
    pub memory: Option<u64>,
}

/// The right to collect, which one process at a time has.
fn lock(shared: &Shared) -> Result<Box<dyn LockGuard>> {
    let owner = ShortOwner::of(&shared.owner()).encode();
    match shared.blocker.lock(COLLECTOR, LockMode::Exclusive, owner.as_bytes())? {
        LockOutcome::Held(lock) => Ok(lock),
        LockOutcome::Refused(_) => Err(Error::TooBusy("the store, which another process is collecting".into())),
    }
}

/// See [`crate::Store::collect`].
pub(crate) fn collect(
    shared: &Shared,
    options: &CollectOptions,
    planted: Planted,
    report_progress: Report<'_>,
) -> Result<CollectReport> {
    let _lock = lock(shared)?;
    let mut pace = Pace::new(options.rate, report_progress);
    let mut report = CollectReport { dry_run: options.dry_run, ..CollectReport::default() };
    let done = run(shared, options, planted, &mut pace, &mut report);
    if report.freed().objects > 0 && !options.dry_run {
        rounds::collected(shared);
    }
    report.entries = pace.progress.entries;
    report.read = pace.read;
    report.interrupted = pace.stopped;
    match done {
        Err(_) if pace.stopped => Ok(report),
        Err(error) => Err(error),
        Ok(()) => {
            pace.end();
            Ok(report)
        }
    }
}

fn run(
    shared: &Shared,
    options: &CollectOptions,
    planted: Planted,
    pace: &mut Pace<'_>,
    report: &mut CollectReport,
) -> Result<()> {
    pace.phase(CollectPhase::List, 0)?;
    candidates::nothing_aside(shared).map_err(refusal)?;
    let mut candidates = Candidates::list(shared, &mut || pace.advance()).map_err(refusal)?;
    // Before anybody is waited for: what names content by a lease that goes here is under way, and ends before maps are read.
    let mut leases = candidates.content.then(|| content::begin(shared, options, report)).transpose()?;
    pace.phase(CollectPhase::Wait, 0)?;
    if !planted.no_waiting {
        candidates.keep(&rounds::acknowledge(shared, true, pace)?);
    }
    if !options.dry_run {
        for group in &candidates.groups {
            group::settle(shared, *group)?;
        }
    }
    candidates.confirm_nameless(shared)?;
    let mut roots = Roots::new(&candidates);
    let mut marks = Marks::new(planted.memory.unwrap_or(MARK_MEMORY));
    if candidates.content {
        marks.remember_digests(shared.random()?);
    }
    pace.phase(CollectPhase::Mark, 0)?;
    roots.load(shared, &mut marks, pace).map_err(refusal)?;
    let hashed = candidates.hashed.iter().map(|(owner, epoch)| Object::Data(*owner, *epoch));
    marks.watch(candidates.objects.iter().copied().chain(hashed));
    settle(shared, planted, &mut roots, &mut marks, leases.as_mut(), pace)?;
    if candidates.content && !planted.no_waiting {
        // Readers that closed just before their pins were asked for: nobody remembers where their content was.
        pace.phase(CollectPhase::Wait, 0)?;
        rounds::acknowledge(shared, false, pace)?;
    }
    report.maps = roots.maps;
    marks.assert_counted();
    if !options.dry_run {
        roots.make_durable(shared, &candidates, &marks, pace)?;
    }

    pace.phase(CollectPhase::Sweep, candidates.objects.len() as u64)?;
    let mut sweep = Sweep { shared, marks: &marks, dry_run: options.dry_run, pace, report };
    sweep.names(&candidates)?;
    sweep.nameless(&candidates)?;
    sweep.objects(&candidates)?;
    if let Some(mut leases) = leases {
        ContentSweep::new(shared, &mut marks, &mut leases, options.dry_run, planted, pace, report).run(&candidates)?;
    }
    let mut sweep = Sweep { shared, marks: &marks, dry_run: options.dry_run, pace, report };
    sweep.marks.assert_counted();
    sweep.trash(&candidates, &roots.pinned)?;
    sweep.locks(&candidates, &roots.pinned)?;
    if options.dry_run { Ok(()) } else { shared.blocker.tidy() }
}

/// Repeats until nothing that is under way anywhere can still know of a place that is not marked.
///
/// References move in one direction only: a map that is made copies them from a header that is there, and no header
/// that is there gets any from elsewhere. So only an operation that read a header before it was marked, and makes its map after
/// the catalogue was listed, can carry an unmarked place away. It is waited for, and the catalogue is listed again. If
/// a new map names something that nothing else named, or was changed already since it was made, then another may have been
/// made of it, and there is one more round.
fn settle(
    shared: &Shared,
    planted: Planted,
    roots: &mut Roots,
    marks: &mut Marks,
    mut leases: Option<&mut Leases>,
    pace: &mut Pace<'_>,
) -> Result<()> {
    for _ in 0..MAX_ROUNDS {
        pace.phase(CollectPhase::Wait, 0)?;
        if !planted.no_waiting {
            rounds::acknowledge(shared, false, pace)?;
        }
        pace.phase(CollectPhase::Mark, 0)?;
        // Of uploads: what their maps come to name is no reason for another round.
        if let Some(leases) = leases.as_deref_mut().filter(|_| !planted.no_leases) {
            content::read_leases(shared, leases, marks).map_err(refusal)?;
        }
        marks.take_touched();
        let changed = if planted.no_second_look { false } else { roots.load(shared, marks, pace).map_err(refusal)? };
        let settled = !changed && !marks.take_touched();
        if !planted.no_pins {
            roots.pins(shared, marks, pace)?;
        }
        if settled {
            return Ok(());
        }
    }
    let text = "nothing was collected, for maps are made and changed faster than they can be looked at";
    Err(Error::TooBusy(text.into()))
}

/// Whatever cannot be read might name anything.
fn refusal(error: Error) -> Error {
    match error {
        Error::Damaged { object, detail } => Error::Damaged {
            object,
            detail: format!(
                "{detail}; what it names is not known, so nothing was collected; run `archipelago check` to see what depends on it"
            ),
        },
        other => other,
    }
}

/// The maps that are marked.
struct Roots {
    /// Looked at, or known to be none.
    seen: HashSet<VolumeId>,
    /// Removed before the collection began: no roots of their own.
    trash: HashSet<VolumeId>,
    /// Removed maps that readers use.
    pinned: HashSet<VolumeId>,
    maps: u64,
    /// The records that were read, with their versions.
    loaded: Vec<(RecordKey, u64)>,
}

impl Roots {
    fn new(candidates: &Candidates) -> Roots {
        Roots {
            seen: candidates.nameless.iter().map(|(id, _)| *id).collect(),
            trash: candidates.trash.iter().copied().collect(),
            pinned: HashSet::new(),
            maps: 0,
            loaded: Vec::new(),
        }
    }

    /// Marks all maps that were not marked yet; whether one of them was changed since it was made.
    fn load(&mut self, shared: &Shared, marks: &mut Marks, pace: &mut Pace<'_>) -> Result<bool> {
        // The catalogue first, so that a header that moves to the trash is in one of the lists.
        let mut ids = shared.blocker.headers()?;
        ids.extend(shared.blocker.trashed()?.into_iter().filter(|id| !self.trash.contains(id)));
        ids.retain(|id| !self.seen.contains(id));
        pace.progress.total += ids.len() as u64;
        let mut changed = false;
        for id in ids {
            if !self.seen.insert(id) {
                continue;
            }
            if let Some(found) = candidates::root(shared, id)? {
                // A group is the record of a moment, and has no blocks.
                self.maps += u64::from(found.0.kind != Kind::Group);
                let mut again = || candidates::root(shared, id);
                let (key, version) = mark::newest(found, &mut again, &mut |h| mark_header(shared, h, marks, pace))?;
                changed |= version > 1;
                self.loaded.push((key, version));
            }
            pace.advance()?;
        }
        Ok(changed)
    }

    /// Makes durable what was read, before anything is removed because of it: a process may have died, or seen a sync fail,
    /// in the middle of a commit, and a power cut would bring back the version before, with all that it names. Whoever
    /// commits another version makes this one durable himself first.
    fn make_durable(&self, shared: &Shared, candidates: &Candidates, marks: &Marks, pace: &mut Pace<'_>) -> Result<()> {
        let mut nothing = !candidates.content && candidates.trash.is_empty() && candidates.nameless.is_empty();
        for object in &candidates.objects {
            nothing = nothing && marks.contains(*object) && sweep::waste(shared, marks, *object)?.is_none();
        }
        if nothing {
            return Ok(());
        }
        let nameless = candidates.nameless.iter().filter_map(|(id, v)| v.map(|v| (RecordKey::Header(*id), v)));
        for (key, version) in self.loaded.iter().copied().chain(nameless) {
            match shared.blocker.settle_record(key, version) {
                Ok(()) | Err(Error::Stale(_) | Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            pace.spend(0, 0)?;
        }
        Ok(())
    }

    /// Marks what readers read by.
    fn pins(&mut self, shared: &Shared, marks: &mut Marks, pace: &mut Pace<'_>) -> Result<()> {
        rounds::pins(shared, pace, &mut |pin, pace| {
            let header = pin.decode()?;
            if self.trash.contains(&header.id) && self.pinned.insert(header.id) {
                self.maps += 1;
            }
            mark_header(shared, &header, marks, pace).map_err(refusal)
        })
    }
}

fn mark_header(shared: &Shared, header: &Header, marks: &mut Marks, pace: &mut Pace<'_>) -> Result<()> {
    let mut step = |entries: u64, bytes: u64| {
        pace.progress.entries += entries;
        pace.read += bytes;
        pace.spend(0, bytes)
    };
    Marker::new(&*shared.blocker, marks, &mut step).header(header)
}

/// The kind of an object, for reports.
pub(crate) fn kind_of(object: Object, by: &mut SpaceByKind) -> &mut Amount {
    match object {
        Object::Log(..) => &mut by.segments,
        Object::Pack(..) => &mut by.packs,
        Object::Sum(..) => &mut by.sums,
        // With the digests of its blocks.
        _ => &mut by.data,
    }
}
