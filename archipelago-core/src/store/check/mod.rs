//! Checks a whole store: that everything that is named is there and is what it should be, and what is there that nothing
//! names. Says what is lost in terms of maps and byte ranges, and puts right what can be without inventing data.
//!
//! | File | Its job |
//! |---|---|
//! | `catalogue` | records and names |
//! | `walk`, `seen` | trees, each node once |
//! | `content` | digests that maps name, and the tables and leases of content |
//! | `named` | data objects, journal segments and epochs that maps name |
//! | `data` | the data itself, on request |
//! | `affected` | which bytes of which maps are lost |
//! | `repair` | puts things right |
//!
//! It runs on a store in use. What others change meanwhile is looked at again before it is called wrong: headers are read
//! anew, and what no header names any more is no finding. A volume that somebody has open is checked as of its last checkpoint.
//! No lock is held but for the moment of a repair.

mod affected;
mod catalogue;
mod content;
mod data;
mod named;
mod repair;
mod seen;
mod types;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use self::affected::{Locator, Lost, all_of, overlay_of};
use self::catalogue::{Catalogue, Problem, is_held, read_header};
use self::content::Hidden;
use self::repair::{Fix, Target};
use self::walk::{Map, Walker, kind_of, text_of};
use crate::blocker::{Object, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::{Header, Kind, LogStart};
use crate::format::log::{RecordHead, RunKind};
use crate::mapper::cache::NodeCache;
use crate::mapper::replay;
use crate::store::catalog;
use crate::store::collect::{self, CollectOptions};
use crate::store::shared::Shared;
use crate::store::sums::Altered;

pub use types::{
    Affected, ByteRange, CheckOptions, CheckProgress, CheckReport, ContentFigures, DataReport, Finding, FindingKind,
    Repair, Severity,
};

/// Times that a map is looked at again because it changed meanwhile.
const ATTEMPTS: usize = 3;
/// Times that new maps are looked for; with more, the store grows faster than it is checked.
const ROUNDS: usize = 8;
/// Bytes of nodes kept for replaying journals. The store's own cache may hold what the disk does not any more.
const REPLAY_CACHE: u64 = 4 << 20;

/// What of an existing volume is kept although nothing names it.
struct Kept {
    /// It may be written by somebody right now.
    in_use: bool,
    /// Journal segments from this one on.
    segment: u32,
    /// Data of this epoch and later ones.
    epoch: u64,
}

struct Work<'a> {
    shared: &'a Shared,
    walker: Walker<'a>,
    cache: NodeCache,
    problems: Vec<Problem>,
    report: CheckReport,
    /// Maps that were walked, and whether they were found in the trash.
    done: BTreeMap<VolumeId, bool>,
    kept: BTreeMap<VolumeId, Kept>,
    /// Owners and epochs that journals speak of, also where a later record takes it back: a collection keeps their data until
    /// the journal is folded or its last snapshot removed.
    spoken_of: BTreeSet<(VolumeId, u64)>,
    /// Live epochs as replayed.
    epochs: BTreeMap<VolumeId, u64>,
    unreadable: bool,
    /// Stretches of data that may lie elsewhere, but nobody can tell; with the number of their problem.
    hidden: Vec<Hidden>,
    /// Tables of the content index that were not finished.
    unfinished: Vec<u64>,
}

/// Every object of the store, sorted.
fn all_objects(shared: &Shared) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for part in shared.blocker.parts()? {
        objects.extend(shared.blocker.inventory(part)?.objects);
    }
    objects.sort_unstable();
    Ok(objects)
}

/// See [`crate::Store::check`].
pub(super) fn check(
    shared: &Shared,
    options: &CheckOptions,
    report: &mut dyn FnMut(CheckProgress) -> Result<()>,
) -> Result<CheckReport> {
    // No collection takes away what a header named when it was read.
    let operation = shared.operations.begin();
    // Listed before any header is read: what is made later is named by something that is read later.
    let candidates = if options.names.is_empty() { Some(all_objects(shared)?) } else { None };
    let mut work = Work {
        shared,
        walker: Walker::new(&*shared.blocker, report),
        cache: NodeCache::new(REPLAY_CACHE),
        problems: Vec::new(),
        report: CheckReport::default(),
        done: BTreeMap::new(),
        kept: BTreeMap::new(),
        spoken_of: BTreeSet::new(),
        epochs: BTreeMap::new(),
        unreadable: false,
        hidden: Vec::new(),
        unfinished: Vec::new(),
    };
    match candidates {
        Some(candidates) => work.everything(options, &candidates)?,
        None => {
            for name in &options.names {
                let (header, _) = catalog::find(shared, name)?;
                work.walker.progress.maps_total = options.names.len() as u64;
                work.map(header.id, false)?;
            }
            work.conclude()?;
        }
    }
    // Reading data may take days, and nobody waits for that.
    drop(operation);
    if options.data {
        let (read, problems) = data::verify(shared, options, work.walker.progress, work.walker.listener())?;
        work.report.data = Some(read);
        work.problems.extend(problems);
    }
    if options.repair {
        work.repair();
    }
    Ok(work.finish())
}

/// Calls `each` with what each of these maps loses, by finding; `true` for those in the trash.
fn losers(
    shared: &Shared,
    cache: &NodeCache,
    maps: &BTreeMap<VolumeId, bool>,
    lost: &Lost,
    each: &mut dyn FnMut(Vec<(usize, Affected)>) -> Result<()>,
) -> Result<()> {
    let blocker = &*shared.blocker;
    let mut locator = Locator::new(blocker, &shared.contents, lost);
    for (id, trashed) in maps {
        // As it is now: what no map names any more is no loss.
        let _operation = shared.operations.begin();
        let Ok(Some((header, _))) = read_header(shared, *id, *trashed) else { continue };
        let in_use = header.kind == Kind::Volume && is_held(shared, *id)?;
        let log = header.log.filter(|_| !in_use && !header.removed);
        let header = Header { log, ..header };
        let overlay = overlay_of(replay::load(blocker, cache, &header));
        each(locator.find(&header, &overlay))?;
    }
    Ok(())
}

/// Stretches of objects that are not what was written, as findings: those of which a map loses something at this moment, or may
/// come to do so, because it is found by its digest.
pub(super) fn altered(shared: &Shared, stretches: Vec<Altered>) -> Result<Vec<Finding>> {
    let mut lost = Lost::default();
    let mut findings = Vec::new();
    let mut content = Vec::new();
    for Altered { object, from, to, detail, content: named } in data::merged(stretches) {
        lost.stretches.entry(object).or_default().push((from, to, findings.len()));
        findings.push(altered_finding(object, from, to, &detail));
        content.push(named);
    }
    if lost.is_empty() {
        return Ok(findings);
    }
    let mut maps: BTreeMap<VolumeId, bool> = BTreeMap::new();
    // The catalogue first: headers move from there to the trash.
    maps.extend(shared.blocker.headers()?.into_iter().map(|id| (id, false)));
    maps.extend(shared.blocker.trashed()?.into_iter().map(|id| (id, true)));
    losers(shared, &NodeCache::new(REPLAY_CACHE), &maps, &lost, &mut |found| {
        for (number, affected) in found {
            findings.get_mut(number).into_iter().for_each(|f: &mut Finding| f.affected.push(affected.clone()));
        }
        Ok(())
    })?;
    let kept = findings.into_iter().zip(content).filter(|(finding, content)| *content || !finding.affected.is_empty());
    let mut findings: Vec<Finding> = kept.map(|(finding, _)| finding).collect();
    findings.iter_mut().for_each(only_removed);
    Ok(findings)
}

fn altered_finding(object: Object, from: u64, to: u64, detail: &str) -> Finding {
    let detail = format!("bytes {from} to {to}: {detail}");
    Problem::new(FindingKind::Altered, Severity::Damage, object, detail, None).finding
}

/// What only removed maps need is no loss.
fn only_removed(finding: &mut Finding) {
    if !finding.affected.is_empty() && finding.affected.iter().all(|a| a.removed) {
        finding.severity = Severity::Leak;
        finding.detail.push_str("; only maps that were removed need it");
    }
}

/// Makes the repair of one finding.
fn apply(shared: &Shared, problem: &mut Problem) {
    if let (Some(fix), Some(repair)) = (&problem.fix, &mut problem.finding.repair) {
        match fix.apply(shared) {
            Ok(action) => (repair.action, repair.done) = (action, true),
            Err(error) => repair.failed = Some(error.to_string()),
        }
    }
}

impl Work<'_> {
    fn everything(&mut self, options: &CheckOptions, candidates: &[Object]) -> Result<()> {
        let Catalogue { headers, trashed, unreadable, problems } = catalogue::look(self.shared, options.grace)?;
        self.unreadable = unreadable;
        self.problems = problems;
        self.report.aside = self.shared.blocker.mend().map_or(Ok(Vec::new()), |m| m.aside())?;
        self.walker.progress.maps_total = (headers.len() + trashed.len()) as u64;
        self.content(candidates)?;
        // Snapshots first: what they share with a volume is then known to be named by another map than its owner's.
        let mut volumes = Vec::new();
        for id in headers {
            match read_header(self.shared, id, false) {
                Ok(Some((header, _))) if header.kind == Kind::Volume => volumes.push(id),
                _ => self.map(id, false)?,
            }
        }
        for id in trashed {
            self.map(id, true)?;
        }
        for id in volumes {
            self.map(id, false)?;
        }
        // What was made meanwhile may be all that still names what was there before; what was removed is in the trash.
        for _ in 0..ROUNDS {
            let mut fresh = Vec::new();
            fresh.extend(self.shared.blocker.headers()?.into_iter().map(|id| (id, false)));
            fresh.extend(self.shared.blocker.trashed()?.into_iter().map(|id| (id, true)));
            let before = self.done.len();
            for (id, trashed) in fresh {
                if !self.done.contains_key(&id) {
                    self.walker.progress.maps_total += 1;
                    self.map(id, trashed)?;
                }
            }
            if self.done.len() == before {
                break;
            }
        }
        self.conclude()?;
        self.leaks(candidates);
        Ok(())
    }

    /// Looks at the tables of content, before maps are walked: what they name is looked for in those that are whole.
    fn content(&mut self, candidates: &[Object]) -> Result<()> {
        let hashed: Vec<_> = candidates.iter().filter_map(collect::redirected).collect();
        let walker = &mut self.walker;
        let looked = content::look(self.shared, &hashed, &mut || walker.report(), &mut self.report)?;
        walker.names.use_tables(looked.tables);
        let before = self.problems.len();
        self.hidden = looked.hidden;
        self.hidden.iter_mut().for_each(|hidden| hidden.problem += before);
        self.unfinished = looked.unfinished;
        self.problems.extend(looked.problems);
        Ok(())
    }

    /// Walks one map. Errors of it are findings.
    fn map(&mut self, id: VolumeId, trashed: bool) -> Result<()> {
        for attempt in 1.. {
            let (header, version, _pin) = {
                let _operation = self.shared.operations.begin();
                // One that cannot be read was reported, or will be by the next check.
                let Ok(Some((header, version))) = read_header(self.shared, id, trashed) else { return Ok(()) };
                let pin = self.shared.pins.pin(&header);
                (header, version, pin)
            };
            let in_use = header.kind == Kind::Volume && is_held(self.shared, id)?;
            self.keep(&header, in_use);
            let map = Map { id, shift: header.block_shift };
            self.walker.tree(map, &header.root)?;
            for range in &header.ranges {
                (range.from.pos.segment..=range.to.segment)
                    .for_each(|segment| self.walker.named.segment(range.owner, segment, 1));
            }
            // The journal of a volume that is written or gone is nobody's to read.
            let log = header.log.filter(|_| !in_use && !header.removed);
            self.listen(&header, log);
            match replay::load(&*self.shared.blocker, &self.cache, &Header { log, ..header.clone() }) {
                Ok(replayed) => {
                    self.walker.overlay(map, &replayed.view.overlay);
                    self.epochs.insert(id, replayed.epoch);
                }
                Err(error) => {
                    let now = read_header(self.shared, id, trashed);
                    let changed = !matches!(&now, Ok(Some((_, v))) if *v == version)
                        || (header.kind == Kind::Volume && is_held(self.shared, id)? != in_use);
                    if changed && attempt < ATTEMPTS {
                        continue;
                    }
                    if !changed {
                        self.unreplayable(&header, error);
                    }
                }
            }
            if in_use {
                self.report.in_use.push(header.name);
            }
            break;
        }
        self.done.insert(id, trashed);
        self.walker.progress.maps += 1;
        self.walker.report()
    }

    /// Notes what the journals of a map speak of. One that cannot be read is found out by its replay.
    fn listen(&mut self, header: &Header, log: Option<LogStart>) {
        let blocker = &*self.shared.blocker;
        let spoken_of = &mut self.spoken_of;
        let mut note = |owner: VolumeId, head: &RecordHead| {
            if head.body.runs().iter().any(|run| run.kind == RunKind::Data) {
                spoken_of.insert((owner, head.epoch));
            }
            Ok(())
        };
        for range in &header.ranges {
            let _ = replay::sealed_records(blocker, range, &mut |_, head| match head.epoch <= range.epoch {
                true => note(range.owner, head),
                false => Ok(()),
            });
        }
        if let Some(start) = log {
            let _ = replay::own_records(blocker, header.id, start, &mut |_, head| note(header.id, head));
        }
    }

    fn keep(&mut self, header: &Header, in_use: bool) {
        if header.kind == Kind::Volume {
            let segment = header.log.map_or(0, |log| log.pos.segment);
            self.kept.insert(header.id, Kept { in_use, segment, epoch: header.epoch });
        }
    }

    fn unreplayable(&mut self, header: &Header, error: Error) {
        self.unreadable = true;
        let object = match &error {
            Error::Damaged { object, .. } | Error::TooNew { object, .. } if !object.is_empty() => object.clone(),
            _ => format!("catalog/h.{}", header.id),
        };
        let kind = kind_of(&error, FindingKind::Journal);
        let detail = format!("{} cannot be opened: {}", header.name, text_of(error));
        let mut problem = Problem::new(kind, Severity::Damage, object, detail, None);
        problem.finding.affected.push(all_of(header));
        self.problems.push(problem);
    }

    /// Looks at what all maps name together, and says who loses what.
    fn conclude(&mut self) -> Result<()> {
        let mut lost = Lost::default();
        let first = self.problems.len();
        let bad = std::mem::take(&mut self.walker.bad);
        for trouble in std::mem::take(&mut self.walker.troubles) {
            // What lies beneath a node that cannot be read is not known.
            self.unreadable |= trouble.node.is_some();
            let problem = Problem::new(trouble.kind, Severity::Damage, trouble.object, trouble.detail, None);
            self.problems.push(problem);
        }
        lost.nodes.extend(bad.into_iter().map(|(place, number)| (place, first + number)));
        let missing = std::mem::take(&mut self.walker.missing);
        lost.digests.extend(missing.into_iter().map(|(digest, number)| (digest, first + number)));
        for Hidden { epoch: (owner, epoch), from, to, problem } in self.hidden.drain(..) {
            lost.stretches.entry(Object::Data(owner, epoch)).or_default().push((from, to, problem));
        }
        let (problems, blocker) = (&mut self.problems, &*self.shared.blocker);
        self.walker.named.verify(blocker, &mut |cut| {
            let (kind, detail) = (kind_of(&cut.error, FindingKind::Cut), text_of(cut.error));
            let number = problems.len();
            problems.push(Problem::new(kind, Severity::Damage, cut.object, detail, None));
            lost.stretches.entry(cut.object).or_default().push((cut.from, cut.to, number));
            Ok(())
        })?;
        self.affected(&lost)?;
        // Also of journals that cannot be replayed, of which nothing else is lost: a collection that was cut short takes those of removed
        // maps away before their headers.
        for problem in &mut self.problems {
            only_removed(&mut problem.finding);
        }
        self.ahead()
    }

    fn affected(&mut self, lost: &Lost) -> Result<()> {
        if lost.is_empty() {
            return Ok(());
        }
        let numbers: BTreeSet<usize> = lost
            .nodes
            .values()
            .copied()
            .chain(lost.stretches.values().flatten().map(|(_, _, number)| *number))
            .chain(lost.digests.values().copied())
            .collect();
        let (problems, walker) = (&mut self.problems, &mut self.walker);
        losers(self.shared, &self.cache, &self.done, lost, &mut |found| {
            for (number, affected) in found {
                if let Some(problem) = problems.get_mut(number) {
                    problem.finding.affected.push(affected);
                }
            }
            walker.report()
        })?;
        let mut number = 0;
        self.problems.retain_mut(|problem| {
            let finding = &mut problem.finding;
            let mut keep = !numbers.contains(&number) || !finding.affected.is_empty();
            if !keep && finding.kind == FindingKind::Redirect {
                // Nobody reads by it, but a collection cannot tell what the epoch holds.
                (finding.severity, keep) = (Severity::Leak, true);
                finding.detail.push_str("; no map needs it");
            }
            number += 1;
            keep
        });
        Ok(())
    }

    /// No map may name an epoch of a volume that is not there yet, nor another map than its own the live one.
    fn ahead(&mut self) -> Result<()> {
        for (owner, named) in self.walker.named.epochs() {
            let Ok(Some((header, _))) = read_header(self.shared, owner, false) else { continue };
            // The live epoch of a volume in use is known to its owner alone.
            if header.removed || header.kind != Kind::Volume || is_held(self.shared, owner)? {
                continue;
            }
            let reached = |live: u64| named.own > live || named.others.is_some_and(|(epoch, _)| epoch >= live);
            let known = self.epochs.get(&owner).copied().unwrap_or(0).max(header.epoch);
            if !reached(known) {
                continue;
            }
            // It may have been opened, snapshotted and killed since it was walked.
            let live = match replay::load(&*self.shared.blocker, &self.cache, &header) {
                Ok(replayed) if !reached(replayed.epoch) => continue,
                Ok(replayed) => replayed.epoch,
                // Reported already.
                Err(_) => continue,
            };
            let above = named.own.max(named.others.map_or(0, |(epoch, _)| epoch));
            let by = named.others.map_or_else(String::new, |(_, map)| format!(", by the map {map}"));
            let detail = format!("{} is in epoch {live}, but epoch {above} is named already{by}", header.name);
            let fix = Some(Fix::Epoch { id: owner, above });
            let object = format!("catalog/h.{owner}");
            self.problems.push(Problem::new(FindingKind::Epoch, Severity::Repairable, object, detail, fix));
        }
        Ok(())
    }

    /// Objects that nothing names. Not where something cannot be read: nobody knows what it names.
    fn leaks(&mut self, candidates: &[Object]) {
        if self.unreadable || self.report.aside.iter().any(|place| place.starts_with("lost/h.")) {
            return;
        }
        // The newest pack of a volume stays, or its number would be used again.
        let mut newest: BTreeMap<VolumeId, u32> = BTreeMap::new();
        for object in candidates {
            if let Object::Pack(owner, number) = object
                && self.kept.contains_key(owner)
            {
                newest.insert(*owner, newest.get(owner).copied().unwrap_or(0).max(*number));
            }
        }
        self.report.leaks_checked = true;
        for id in std::mem::take(&mut self.unfinished) {
            self.problems.extend(content::unfinished(&*self.shared.blocker, id).ok().flatten());
        }
        for object in candidates {
            // Its blocks may be content that no map names by its place.
            if let Object::Data(owner, epoch) | Object::Sum(owner, epoch) = object
                && candidates.contains(&Object::Redirect(*owner, *epoch))
            {
                continue;
            }
            if let Object::Data(owner, epoch) | Object::Sum(owner, epoch) = object
                && self.spoken_of.contains(&(*owner, *epoch))
            {
                continue;
            }
            let owner = &object.volume();
            let kept = self.kept.get(owner).is_some_and(|kept| match object {
                Object::Log(_, segment) => *segment >= kept.segment,
                Object::Data(_, epoch) | Object::Sum(_, epoch) => *epoch >= kept.epoch,
                // A fold that is under way has written nodes that no header names yet.
                Object::Pack(_, number) => kept.in_use || newest.get(owner) == Some(number),
                Object::Redirect(..) | Object::Content(_) | Object::Index(_) | Object::Lease(..) => true,
            });
            if !kept && !self.walker.named.has(*object) {
                let fix = Some(Fix::Collect(Target::Object(*object)));
                let detail = "nothing names it";
                self.problems.push(Problem::new(FindingKind::Leak, Severity::Leak, object, detail, fix));
            }
        }
    }

    /// Repairs what can be repaired; what nothing names is left to the collector, at the end: then names lead to what they should.
    fn repair(&mut self) {
        let collectable = |problem: &Problem| matches!(problem.fix, Some(Fix::Collect(_)));
        self.problems.iter_mut().filter(|p| !collectable(p)).for_each(|p| apply(self.shared, p));
        if !self.problems.iter().any(collectable) {
            return;
        }
        let collected = match self.report.leaks_checked {
            true => {
                collect::collect(self.shared, &CollectOptions::default(), collect::Planted::default(), &mut |_| true)
                    .map(|_| ())
            }
            false => Err(Error::Unsupported("what damaged headers or nodes name is not known".into())),
        };
        for problem in self.problems.iter_mut().filter(|p| collectable(p)) {
            match (&collected, &mut problem.finding.repair) {
                (Err(error), Some(repair)) => repair.failed = Some(error.to_string()),
                _ => apply(self.shared, problem),
            }
        }
    }

    fn finish(mut self) -> CheckReport {
        let mut report = self.report;
        report.maps = self.done.len() as u64;
        report.nodes = self.walker.progress.nodes;
        report.entries = self.walker.progress.entries;
        report.objects = self.walker.named.count();
        self.problems.sort_by_key(|problem| std::cmp::Reverse(problem.finding.severity));
        self.problems.into_iter().for_each(|problem| report.add(problem.finding));
        report
    }
}
