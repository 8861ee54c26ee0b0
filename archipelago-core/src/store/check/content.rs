//! Content, as far as its structure goes: whether the digests that maps name lead to a block, and whether the tables that
//! lead there, and the leases, are what was written. No block is read.

use std::collections::HashMap;
use std::io::IoSliceMut;

use super::catalogue::Problem;
use super::repair::{Fix, Target};
use super::seen::Seen;
use super::types::{CheckReport, FindingKind, Severity};
use super::walk::{kind_of, text_of};
use crate::blocker::{Blocker, LockMode, Object, VolumeId};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::index::{IndexHead, Slot};
use crate::format::redirect::{ENTRY, RedirectEntry, place};
use crate::limits::CHECK_SEEN;
use crate::store::content::index::{self, Tables};
use crate::store::content::redirect::{self, Redirects};
use crate::store::content::{self, Leases, Place};
use crate::store::shared::Shared;

/// Entries of the index between two reports of progress.
const REPORT_EVERY: u64 = 4096;
/// Damaged entries of one redirect table that are told: a table with more is damaged all over.
const MAX_TOLD: usize = 64;

/// Which digests lead to a block, and which slots are to be read through theirs.
pub(super) struct Names<'a> {
    blocker: &'a dyn Blocker,
    /// Read anew, past what the store remembers.
    pages: Tables,
    /// The tables that can be used; listed when first needed, unless they were looked at.
    tables: Option<Vec<IndexHead>>,
    redirects: Redirects<'a>,
    /// Whether slots of an epoch were moved.
    moved: HashMap<(VolumeId, u64), bool>,
    /// Digests that were found.
    found: Seen,
}

impl<'a> Names<'a> {
    pub(super) fn new(blocker: &'a dyn Blocker) -> Names<'a> {
        Names {
            blocker,
            pages: Tables::default(),
            tables: None,
            redirects: Redirects::new(blocker),
            moved: HashMap::new(),
            found: Seen::with_limit(CHECK_SEEN / 2),
        }
    }

    /// Uses these tables of the index, and no others.
    pub(super) fn use_tables(&mut self, tables: Vec<IndexHead>) {
        self.tables = Some(tables);
    }

    /// Why a digest leads to no block, if it leads to none.
    pub(super) fn lack(&mut self, digest: &Digest) -> Option<String> {
        let key = digest.0.first_chunk().map_or(1, |bytes| u64::from_le_bytes(*bytes)).max(1);
        if *digest == Digest::ZERO || self.found.has(key) {
            return None;
        }
        let lack = match self.find(digest).and_then(|place| place.map(|place| self.reach(&place)).transpose()) {
            Ok(Some(())) => None,
            Ok(None) => Some("maps name this block, and it is nowhere".to_string()),
            Err(error) => {
                let object = match &error {
                    Error::Damaged { object, .. } | Error::TooNew { object, .. } => format!("{object}: "),
                    _ => String::new(),
                };
                Some(format!("maps name this block, and it cannot be found: {object}{}", text_of(error)))
            }
        };
        if lack.is_none() {
            self.found.add(key);
        }
        lack
    }

    fn find(&mut self, digest: &Digest) -> Result<Option<Place>> {
        let blocker = self.blocker;
        if let Some(len) = blocker.content_len(*digest)? {
            return Ok(Some(Place { object: Object::Content(*digest), base: 0, len }));
        }
        let counts = |slot: &Slot| redirect::confirms(blocker, slot, *digest);
        if let Some(tables) = &self.tables
            && let Some(slot) = self.pages.find_among(blocker, tables, *digest, &counts)?
        {
            return Ok(Some(Place::of_slot(&slot)));
        }
        // Merged meanwhile, or not listed yet.
        let slot = match &self.tables {
            Some(known) => {
                let fresh = fresh_tables(blocker, known)?;
                self.pages.find_among(blocker, &fresh, *digest, &counts)?
            }
            None => self.pages.find(blocker, *digest, &counts)?,
        };
        Ok(slot.map(|slot| Place::of_slot(&slot)))
    }

    /// Nothing ever makes an object shorter, so its last byte tells.
    fn reach(&self, place: &Place) -> Result<()> {
        match place.object {
            Object::Data(..) => {
                self.blocker.read(place.object, &mut [IoSliceMut::new(&mut [0])], place.base + place.len - 1)
            }
            _ => Ok(()),
        }
    }

    /// The digest through which a slot is read, if it was moved. What cannot be told is told as damage of the table.
    pub(super) fn moved(&mut self, owner: VolumeId, epoch: u64, block: u64) -> Option<Digest> {
        let redirects = &mut self.redirects;
        let any = self
            .moved
            .entry((owner, epoch))
            .or_insert_with(|| redirects.head(owner, epoch).ok().flatten().is_some_and(|head| head.moved));
        if !*any {
            return None;
        }
        self.redirects.entry(owner, epoch, block).ok().flatten().filter(|entry| entry.moved).map(|entry| entry.digest)
    }
}

/// Finished tables that are not among those that are known. One that cannot be read was told, or will be.
fn fresh_tables(blocker: &dyn Blocker, known: &[IndexHead]) -> Result<Vec<IndexHead>> {
    let mut fresh = Vec::new();
    for object in blocker.content_tables()? {
        if let Object::Index(id) = object
            && known.iter().all(|head| head.id != id)
            && let Ok(Some(head)) = index::head(blocker, id)
        {
            fresh.push(head);
        }
    }
    Ok(fresh)
}

/// A stretch of a data object that cannot be read, because it may lie elsewhere: from, to, and what is wrong.
pub(super) struct Hidden {
    /// Owner and epoch.
    pub(super) epoch: (VolumeId, u64),
    /// First byte.
    pub(super) from: u64,
    /// Behind the last.
    pub(super) to: u64,
    /// Number of its finding among those returned with it.
    pub(super) problem: usize,
}

/// What was found wrong, and what can be used.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) problems: Vec<Problem>,
    pub(super) hidden: Vec<Hidden>,
    /// Tables of the index that are whole.
    pub(super) tables: Vec<IndexHead>,
    /// Tables that are not finished: left over, if they still are not at the end.
    pub(super) unfinished: Vec<u64>,
}

impl Looked {
    fn damage(&mut self, object: Object, kind: FindingKind, error: Error, severity: Severity, fix: Option<Fix>) {
        let kind = kind_of(&error, kind);
        // What a later version wrote is not this one's to repair.
        let fix = fix.filter(|_| kind != FindingKind::TooNew);
        self.problems.push(Problem::new(kind, severity, object, text_of(error), fix));
    }
}

/// Looks at all tables, leases and leftovers of content. `redirects` are the epochs that were hashed.
pub(super) fn look(
    shared: &Shared,
    redirects: &[(VolumeId, u64)],
    step: &mut dyn FnMut() -> Result<()>,
    report: &mut CheckReport,
) -> Result<Looked> {
    let blocker = &*shared.blocker;
    let mut looked = Looked::default();
    for (owner, epoch) in redirects {
        table(blocker, *owner, *epoch, &mut looked, report)?;
        step()?;
    }
    for object in blocker.content_tables()? {
        match object {
            Object::Index(id) => index_table(blocker, id, &mut looked, report, step)?,
            Object::Lease(claim, part) => {
                report.content.leases += 1;
                if let Err(error) = Leases::verify(blocker, claim, part) {
                    // A part may be gone by now.
                    let fix = Some(Fix::Lease { claim, part });
                    looked.damage(object, FindingKind::Lease, error, Severity::Repairable, fix);
                }
            }
            _ => {}
        }
        step()?;
    }
    for first in blocker.content_parts()? {
        report.content.objects += blocker.contents(first)?.len() as u64;
        leftovers(blocker, first, &mut looked)?;
    }
    Ok(looked)
}

fn index_table(
    blocker: &dyn Blocker,
    id: u64,
    looked: &mut Looked,
    report: &mut CheckReport,
    step: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let object = Object::Index(id);
    let mut entries = 0;
    let read = index::verify(blocker, id, &mut |entry| {
        entries += 1;
        if redirect::confirms(blocker, &entry.slot, entry.digest).unwrap_or(false) {
            report.content.confirmed += 1;
        }
        if entries % REPORT_EVERY == 0 { step() } else { Ok(()) }
    });
    report.content.entries += entries;
    match read {
        Ok(true) => {
            report.content.tables += 1;
            if let Some(head) = index::head(blocker, id)? {
                looked.tables.push(head);
            }
        }
        Ok(false) => looked.unfinished.push(id),
        Err(error @ (Error::Damaged { .. } | Error::TooNew { .. } | Error::Io { .. })) => {
            looked.damage(object, FindingKind::Index, error, Severity::Repairable, Some(Fix::Index(id)));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// A redirect table: its head, and all of its entries.
fn table(
    blocker: &dyn Blocker,
    owner: VolumeId,
    epoch: u64,
    looked: &mut Looked,
    report: &mut CheckReport,
) -> Result<()> {
    let object = Object::Redirect(owner, epoch);
    let head = match redirect::read_head(blocker, owner, epoch) {
        Ok(None) => return Ok(()),
        Ok(Some(head)) => head,
        Err(error) => {
            // Whether slots were moved is not known, so none of them can be read.
            let problem = looked.problems.len();
            looked.damage(object, FindingKind::Redirect, error, Severity::Damage, None);
            looked.hidden.push(Hidden { epoch: (owner, epoch), from: 0, to: u64::MAX, problem });
            return Ok(());
        }
    };
    report.content.redirects += 1;
    let len = blocker.len(object)?.unwrap_or(0);
    let mut bytes = vec![0; 256 * ENTRY];
    let (mut first, mut told) = (0, 0);
    while place(first) < len {
        let read = blocker.read_some(object, &mut bytes, place(first))?;
        for (block, entry) in (first..).zip(bytes[..read].chunks_exact(ENTRY)) {
            match RedirectEntry::decode("", entry, block, head.shift) {
                Ok(None) => {}
                Ok(Some(entry)) => {
                    report.content.slots += 1;
                    report.content.moved += u64::from(entry.moved);
                }
                // Somebody may just have written it.
                Err(error) => {
                    let slot = Slot { owner, epoch, block, len: 1, shift: head.shift };
                    if redirect::read_entry(blocker, &slot).is_ok() {
                        continue;
                    }
                    told += 1;
                    if told > MAX_TOLD {
                        continue;
                    }
                    let problem = looked.problems.len();
                    if head.moved {
                        // Who named the slot may have to read it elsewhere, and cannot know.
                        looked.damage(object, FindingKind::Redirect, error, Severity::Damage, None);
                        let from = block << head.shift;
                        let to = from + (1 << head.shift);
                        looked.hidden.push(Hidden { epoch: (owner, epoch), from, to, problem });
                    } else {
                        let fix = Some(Fix::Entry { owner, epoch, block });
                        looked.damage(object, FindingKind::Redirect, error, Severity::Repairable, fix);
                    }
                }
            }
        }
        first += (bytes.len() / ENTRY) as u64;
    }
    Ok(())
}

/// A table of the index that was not finished when it was looked at, and still is not: whoever wrote it died.
pub(super) fn unfinished(blocker: &dyn Blocker, id: u64) -> Result<Option<Problem>> {
    let object = Object::Index(id);
    if blocker.len(object)?.is_none() || !matches!(index::head(blocker, id), Ok(None)) {
        return Ok(None);
    }
    let fix = Some(Fix::Collect(Target::Object(object)));
    let detail = "a table of the content index that was not finished";
    Ok(Some(Problem::new(FindingKind::Leak, Severity::Leak, object, detail, fix)))
}

/// Content objects that were not finished. While nobody puts content they are nobody's.
fn leftovers(blocker: &dyn Blocker, first: u8, looked: &mut Looked) -> Result<()> {
    if blocker.unfinished_contents(first)?.is_empty() {
        return Ok(());
    }
    let _lock = content::lock(blocker, LockMode::Exclusive)?;
    for number in blocker.unfinished_contents(first)? {
        let fix = Some(Fix::Collect(Target::Unfinished { first, number }));
        let detail = "a content object whose writer died";
        let object = format!("content/{first:02x}/t.{number:016x}");
        looked.problems.push(Problem::new(FindingKind::Leak, Severity::Leak, object, detail, fix));
    }
    Ok(())
}
