//! Looks at records and names: which headers can be read, which names count, and what is left over.

use std::collections::BTreeSet;

use super::repair::{Fix, Target};
use super::types::{Affected, Finding, FindingKind, Severity};
use super::walk::{kind_of, text_of};
use crate::blocker::{Entry, RecordKey, RecordState, VolumeId};
use crate::error::{Error, Result};
use crate::format::header::{Header, Kind};
use crate::format::relations::Group;
use crate::limits::MAX_LIST_PAGE;
use crate::store::shared::Shared;
use crate::store::{catalog, group};

/// A finding, and how it is put right.
pub(super) struct Problem {
    pub(super) finding: Finding,
    pub(super) fix: Option<Fix>,
}

impl Problem {
    pub(super) fn new(
        kind: FindingKind,
        severity: Severity,
        object: impl ToString,
        detail: impl Into<String>,
        fix: Option<Fix>,
    ) -> Problem {
        let repair = fix.as_ref().map(|f| super::types::Repair { action: f.describe(), done: false, failed: None });
        let (object, detail) = (object.to_string(), detail.into());
        Problem { finding: Finding { kind, severity, object, detail, affected: Vec::new(), repair }, fix }
    }
}

/// What the catalogue and the trash hold.
#[derive(Default)]
pub(super) struct Catalogue {
    /// Headers in the catalogue that can be read.
    pub(super) headers: BTreeSet<VolumeId>,
    /// Headers in the trash only that can be read.
    pub(super) trashed: BTreeSet<VolumeId>,
    /// Some header cannot be read: what it names is not known.
    pub(super) unreadable: bool,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
}

/// Reads the header of a map, in the catalogue or the trash. `None` if it is not there.
pub(super) fn read_header(shared: &Shared, id: VolumeId, trashed: bool) -> Result<Option<(Header, u64)>> {
    if !trashed {
        return catalog::read_header(shared, id);
    }
    let key = RecordKey::Trash(id);
    let record = match shared.blocker.read_record(key) {
        Ok(record) => record,
        Err(Error::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut header = Header::decode(&key.to_string(), &record.bytes)?;
    // What lies in the trash is removed, whatever it says.
    header.removed = true;
    Ok(Some((header, record.version)))
}

/// Whether somebody has the lock of a map, here or elsewhere.
pub(super) fn is_held(shared: &Shared, id: VolumeId) -> Result<bool> {
    Ok(shared.holds(id) || shared.blocker.lock_holder(id)?.is_some())
}

fn state_of(shared: &Shared, key: RecordKey) -> Result<RecordState> {
    match shared.blocker.mend() {
        Some(mend) => mend.record_state(key),
        None => Ok(RecordState::Whole),
    }
}

/// Looks at everything there is.
pub(super) fn look(shared: &Shared, grace: u64) -> Result<Catalogue> {
    let mut found = Catalogue::default();
    superblock(shared, &mut found)?;
    let mut unread = Vec::new();
    let mut live = Vec::new();
    for id in shared.blocker.headers()? {
        match header(shared, id, &mut found)? {
            Looked::Live(header) => live.push((id, *header)),
            Looked::Unread(error) => unread.push((id, error)),
            Looked::Gone | Looked::Removed => {}
        }
    }
    trash(shared, &mut found)?;
    let (named, nameless) = names(shared, &mut found)?;
    unreadable(shared, unread, nameless, &mut found)?;
    unnamed(shared, live, &named, grace, &mut found)?;
    Ok(found)
}

fn superblock(shared: &Shared, found: &mut Catalogue) -> Result<()> {
    // That it can be read was seen when the store was opened; it may have changed since.
    if let Err(error) = crate::store::read_superblock(&*shared.blocker) {
        let (kind, detail) = (kind_of(&error, FindingKind::Header), text_of(error));
        found.problems.push(Problem::new(kind, Severity::Damage, RecordKey::Store, detail, None));
    } else if state_of(shared, RecordKey::Store)? == RecordState::Torn {
        found.problems.push(torn(RecordKey::Store));
    }
    Ok(())
}

fn torn(key: RecordKey) -> Problem {
    let detail = "a change of it was cut short; what was there before counts";
    Problem::new(FindingKind::TornSlot, Severity::Leak, key, detail, Some(Fix::Slot(key)))
}

enum Looked {
    Gone,
    Live(Box<Header>),
    Removed,
    Unread(Error),
}

fn header(shared: &Shared, id: VolumeId, found: &mut Catalogue) -> Result<Looked> {
    let key = RecordKey::Header(id);
    // Not read, for readers of records are patient with what a writer may just be finishing.
    if matches!(state_of(shared, key), Ok(RecordState::Unborn)) {
        return Ok(Looked::Unread(Error::damaged(key.to_string(), "no version is complete")));
    }
    let header = match catalog::read_header(shared, id) {
        Ok(None) => return Ok(Looked::Gone),
        Ok(Some((header, _))) => header,
        Err(error) => return Ok(Looked::Unread(error)),
    };
    let held = is_held(shared, id)?;
    if !held {
        match state_of(shared, key) {
            Ok(RecordState::Torn) => found.problems.push(torn(key)),
            Ok(_) => {}
            // Its removal was finished since it was read.
            Err(Error::NotFound(_)) => return Ok(Looked::Gone),
            Err(error) => return Err(error),
        }
    }
    found.headers.insert(id);
    // A group has no name of its own; it is settled by whoever next asks for one of its snapshots.
    if header.kind == Kind::Group {
        return Ok(Looked::Removed);
    }
    if !header.removed {
        return Ok(Looked::Live(Box::new(header)));
    }
    if !held {
        let fix = Some(Fix::Removal { id, name: header.name });
        let detail = "its removal was cut short";
        found.problems.push(Problem::new(FindingKind::UnfinishedRemoval, Severity::Leak, key, detail, fix));
    }
    Ok(Looked::Removed)
}

fn trash(shared: &Shared, found: &mut Catalogue) -> Result<()> {
    for id in shared.blocker.trashed()? {
        if found.headers.contains(&id) {
            continue;
        }
        match read_header(shared, id, true) {
            Ok(None) => {}
            Ok(Some(_)) => {
                found.trashed.insert(id);
            }
            Err(error) => {
                found.unreadable = true;
                let (kind, detail) = (kind_of(&error, FindingKind::Header), text_of(error));
                let fix = (kind == FindingKind::Header).then_some(Fix::Aside(vec![Entry::Trash(id)]));
                let detail = format!("{detail}; the map was removed, so nothing is lost");
                found.problems.push(Problem::new(kind, Severity::Repairable, RecordKey::Trash(id), detail, fix));
            }
        }
    }
    Ok(())
}

/// Looks at all names. Returns the ids that a name leads to, and the names that lead to nothing that can be read.
fn names(shared: &Shared, found: &mut Catalogue) -> Result<(BTreeSet<VolumeId>, Vec<String>)> {
    let (mut named, mut unread) = (BTreeSet::new(), Vec::new());
    let mut after: Option<String> = None;
    loop {
        let page = shared.blocker.names("", after.as_deref(), MAX_LIST_PAGE)?;
        let last = page.len() < MAX_LIST_PAGE;
        for name in &page {
            match leads_to(shared, name) {
                Ok(Leads::Nowhere) => {}
                Ok(Leads::To(id)) => {
                    named.insert(id);
                }
                Ok(Leads::Lost(id)) => {
                    named.insert(id);
                    let fix = Some(Fix::Relink { id, name: name.clone() });
                    let detail = format!("the header of {name} is found under its name only");
                    let key = RecordKey::Header(id);
                    found.problems.push(Problem::new(
                        FindingKind::MissingHeader,
                        Severity::Repairable,
                        key,
                        detail,
                        fix,
                    ));
                }
                // Who takes a group has its lock.
                Ok(Leads::Ungrouped(id, group)) if is_held(shared, group)? => {
                    named.insert(id);
                }
                // The collector's, with its header.
                Ok(Leads::Ungrouped(id, _)) => {
                    named.insert(id);
                    let object = Entry::Name(name.clone());
                    let why = "a group snapshot was cut short before it was taken";
                    let fix = Some(Fix::Collect(Target::Name(name.clone())));
                    found.problems.push(Problem::new(FindingKind::StaleName, Severity::Leak, object, why, fix));
                }
                // Its owner may just be renaming it.
                Ok(Leads::Astray(id, _)) if is_held(shared, id)? => {}
                Ok(Leads::Astray(id, why)) => {
                    let fix = Some(Fix::DropName { id, name: name.clone() });
                    let object = Entry::Name(name.clone());
                    found.problems.push(Problem::new(FindingKind::StaleName, Severity::Leak, object, why, fix));
                }
                Err(_) => unread.push(name.clone()),
            }
        }
        after = page.last().cloned();
        if last {
            return Ok((named, unread));
        }
    }
}

/// Where a name leads.
pub(super) enum Leads {
    /// There is no such name.
    Nowhere,
    /// To this header, and counts.
    To(VolumeId),
    /// To this header, which is entered nowhere else.
    Lost(VolumeId),
    /// To this header, and does not count.
    Astray(VolumeId, String),
    /// To this snapshot, whose group was never taken, or is just being taken.
    Ungrouped(VolumeId, VolumeId),
}

/// Whether a header may be one that another process is just publishing.
fn is_young(shared: &Shared, created: u64, grace: u64) -> bool {
    shared.location.is_some() && shared.now().saturating_sub(created) < grace
}

/// Whether a header is a snapshot of a group that was never taken: it does not count.
fn lacks_group(shared: &Shared, header: &Header) -> Result<bool> {
    if group::counts(shared, header)? {
        return Ok(false);
    }
    // Its group may have been settled, and so have gone, since the header was read.
    Ok(matches!(catalog::read_header(shared, header.id)?, Some((now, _)) if now.group == header.group))
}

/// Where a name leads. An error if what is there cannot be read.
pub(super) fn leads_to(shared: &Shared, name: &str) -> Result<Leads> {
    let bytes = match shared.blocker.mend() {
        Some(mend) => match mend.named_record(name)? {
            None => return Ok(Leads::Nowhere),
            Some(record) => record.bytes,
        },
        None => {
            let Some(id) = shared.blocker.lookup(name)? else { return Ok(Leads::Nowhere) };
            match shared.blocker.read_record(RecordKey::Header(id)) {
                Ok(record) => record.bytes,
                Err(Error::NotFound(_)) => return Ok(Leads::Astray(id, "its header is gone".into())),
                Err(error) => return Err(error),
            }
        }
    };
    let there = Header::decode(&format!("catalog/n.{name}"), &bytes)?;
    let id = there.id;
    // The header that counts is the one in the catalogue; a copy of a store may have made two files of them.
    match catalog::read_header(shared, id) {
        Ok(Some((header, _))) => Ok(match header.clone() {
            Header { group: Group::Member(group), .. }
                if !header.removed && header.name == name && lacks_group(shared, &header)? =>
            {
                Leads::Ungrouped(id, group)
            }
            h if h.removed => Leads::Astray(id, "its header is removed".into()),
            h if h.name != name => Leads::Astray(id, format!("its header is called {}", h.name)),
            _ => Leads::To(id),
        }),
        Ok(None) if there.removed || there.name != name => Ok(Leads::Astray(id, "its header is gone".into())),
        Ok(None) => match shared.blocker.read_record(RecordKey::Trash(id)) {
            Err(Error::NotFound(_)) => Ok(Leads::Lost(id)),
            _ => Ok(Leads::Astray(id, "its header is in the trash".into())),
        },
        Err(error) => Err(error),
    }
}

/// Headers that cannot be read, and the names that lead to them.
fn unreadable(
    shared: &Shared,
    unread: Vec<(VolumeId, Error)>,
    mut names: Vec<String>,
    found: &mut Catalogue,
) -> Result<()> {
    for (id, error) in unread {
        let key = RecordKey::Header(id);
        let mut own = Vec::new();
        if let Some(mend) = shared.blocker.mend() {
            let mut others = Vec::new();
            for name in names {
                let same = mend.same_bytes(&Entry::Header(id), &Entry::Name(name.clone()));
                if same.unwrap_or(false) { own.push(name) } else { others.push(name) }
            }
            names = others;
        }
        if own.is_empty() && matches!(state_of(shared, key), Ok(RecordState::Unborn)) {
            let detail = "a creation was cut short before there was anything in it";
            let fix = Some(Fix::Collect(Target::Header(id)));
            found.problems.push(Problem::new(FindingKind::Unborn, Severity::Leak, key, detail, fix));
            continue;
        }
        found.unreadable = true;
        let kind = kind_of(&error, FindingKind::Header);
        let what = match &own[..] {
            [] => "a map that no name leads to any more".to_string(),
            names => names.join(", "),
        };
        let detail = format!("the header of {what} cannot be read: {}", text_of(error));
        let lost = |name: &String| Affected {
            name: name.clone(),
            id: id.to_string(),
            removed: false,
            whole: true,
            ranges: Vec::new(),
            more: false,
        };
        let affected = own.iter().map(lost).collect();
        let entries = own.into_iter().map(Entry::Name).chain([Entry::Header(id)]);
        // A later version reads what it wrote.
        let fix = (kind == FindingKind::Header).then(|| Fix::Aside(entries.collect()));
        let mut problem = Problem::new(kind, Severity::Damage, key, detail, fix);
        problem.finding.affected = affected;
        found.problems.push(problem);
    }
    for name in names {
        // The header itself may be read under its id.
        let object = Entry::Name(name.clone());
        let Err(error) = leads_to(shared, &name) else { continue };
        let kind = kind_of(&error, FindingKind::Header);
        let fix = (kind == FindingKind::Header).then_some(Fix::Aside(vec![object.clone()]));
        let detail = format!("the header found under this name cannot be read: {}", text_of(error));
        found.unreadable = true;
        found.problems.push(Problem::new(kind, Severity::Damage, object, detail, fix));
    }
    Ok(())
}

/// Headers that no name leads to.
fn unnamed(
    shared: &Shared,
    live: Vec<(VolumeId, Header)>,
    named: &BTreeSet<VolumeId>,
    grace: u64,
    found: &mut Catalogue,
) -> Result<()> {
    for (id, header) in live.into_iter().filter(|(id, _)| !named.contains(id)) {
        if is_young(shared, header.created, grace) || is_held(shared, id)? || !is_still_unnamed(shared, id)? {
            continue;
        }
        let key = RecordKey::Header(id);
        let version = shared.blocker.read_record(key).map_or(0, |r| r.version);
        let fresh = header.kind == Kind::Volume && version == 1 && shared.blocker.objects(id)?.is_empty();
        let collect = Some(Fix::Collect(Target::Header(id)));
        let problem = if lacks_group(shared, &header)? {
            if matches!(header.group, Group::Member(group) if is_held(shared, group)?) {
                continue;
            }
            let detail = format!("{} belongs to a group snapshot that was cut short before it was taken", header.name);
            Problem::new(FindingKind::UnnamedHeader, Severity::Leak, key, detail, collect)
        } else if fresh {
            let detail = format!("no name leads to this volume, called {}, which was never written", header.name);
            Problem::new(FindingKind::UnnamedHeader, Severity::Leak, key, detail, collect)
        } else {
            let fix = Some(Fix::Bind { id, name: header.name.clone() });
            let detail = format!("no name leads to this map, called {}", header.name);
            Problem::new(FindingKind::UnnamedHeader, Severity::Repairable, key, detail, fix)
        };
        found.problems.push(problem);
    }
    Ok(())
}

/// Whether a header is there, live, and its name does not lead to it.
pub(super) fn is_still_unnamed(shared: &Shared, id: VolumeId) -> Result<bool> {
    let Some((header, _)) = catalog::read_header(shared, id)? else { return Ok(false) };
    if header.removed {
        return Ok(false);
    }
    Ok(!matches!(leads_to(shared, &header.name), Ok(Leads::To(found)) if found == id))
}
