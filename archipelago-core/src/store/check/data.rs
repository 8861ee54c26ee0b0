//! Reads the data that maps name, and compares it with whatever says what it was: checksums of sectors, the digests of slots, and
//! the names of content objects.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::catalogue::Problem;
use super::types::{CheckOptions, CheckProgress, DataReport, Finding};
use super::{FindingKind, Severity, all_objects, altered};
use crate::blocker::{Object, VolumeId};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::index::Slot;
use crate::format::redirect::{ENTRY, RedirectEntry, RedirectHead, place};
use crate::limits::COMPOSE_PIECE;
use crate::store::catalog;
use crate::store::collect::marks::Marks;
use crate::store::content::redirect::{self, Redirects};
use crate::store::shared::Shared;
use crate::store::sums::{Altered, Counts, Throttle, Walk, named};

/// Called with how far the check is.
pub(super) type Report<'a> = &'a mut dyn FnMut(CheckProgress) -> Result<()>;

/// A reading under way.
struct Reading<'a> {
    shared: &'a Shared,
    throttle: Throttle,
    progress: CheckProgress,
    report: Report<'a>,
    altered: Vec<Altered>,
    done: DataReport,
    buffer: Vec<u8>,
}

/// Reads and compares. What is wrong is told in the bytes of the maps that lose it.
pub(super) fn verify(
    shared: &Shared,
    options: &CheckOptions,
    progress: CheckProgress,
    report: Report<'_>,
) -> Result<(DataReport, Vec<Problem>)> {
    let mut only = Vec::new();
    for name in &options.names {
        only.push(catalog::find(shared, name)?.0.id);
    }
    let mut walking = progress;
    let (marks, _, _) = named(shared, &only, true, &mut |entries, _| {
        walking.entries += entries;
        report(walking)
    })?;
    let mut reading = Reading {
        shared,
        throttle: Throttle::new(options.rate),
        progress,
        report,
        altered: Vec::new(),
        done: DataReport::default(),
        buffer: vec![0; COMPOSE_PIECE],
    };
    let all = only.is_empty();
    reading.progress.data_total = reading.total(&marks, all)?;
    reading.sectors(&marks)?;
    let mut problems = reading.slots(&marks, all)?;
    reading.contents(&marks, all)?;
    let Reading { altered: stretches, done, .. } = reading;
    let findings = altered(shared, stretches)?;
    problems.extend(findings.into_iter().map(|finding: Finding| Problem { finding, fix: None }));
    Ok((done, problems))
}

impl Reading<'_> {
    /// Bytes that there are to read, as far as they are known before.
    fn total(&self, marks: &Marks, all: bool) -> Result<u64> {
        let data = marks.epochs().into_iter().filter_map(|(owner, epoch)| marks.bytes(Object::Data(owner, epoch)));
        let mut total = data.sum();
        for first in self.shared.blocker.content_parts()? {
            for digest in self.shared.blocker.contents(first)? {
                if all || marks.needs(&digest) {
                    total += self.shared.blocker.content_len(digest)?.unwrap_or(0);
                }
            }
        }
        Ok(total)
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        self.progress.data += bytes;
        let (report, progress) = (&mut *self.report, self.progress);
        self.throttle.spend(bytes, &mut || report(progress))
    }

    /// Data that maps name by its place.
    fn sectors(&mut self, marks: &Marks) -> Result<()> {
        let mut walk = Walk::new(self.shared, false);
        for (owner, epoch) in marks.epochs() {
            let object = Object::Data(owner, epoch);
            if marks.bytes(object).is_none() {
                self.done.unknown += 1;
                continue;
            }
            let len = self.shared.blocker.len(object)?.unwrap_or(0);
            walk.epoch(owner, epoch, &marks.live(owner, epoch, len), &mut |_, bytes| self.spend(bytes))?;
        }
        let Counts { verified, without, broken, .. } = walk.counts;
        (self.done.verified, self.done.without, self.done.broken) = (verified, without, broken);
        self.altered.append(&mut walk.altered);
        Ok(())
    }

    /// Blocks of epochs that were hashed. Returns what tables say that cannot be read.
    fn slots(&mut self, marks: &Marks, all: bool) -> Result<Vec<Problem>> {
        let (mut problems, shared) = (Vec::new(), self.shared);
        for object in all_objects(shared)? {
            let Object::Redirect(owner, epoch) = object else { continue };
            if !all && !marks.contains(Object::Data(owner, epoch)) {
                continue;
            }
            let len = shared.blocker.len(object)?.unwrap_or(0);
            let mut redirects = Redirects::new(&*shared.blocker);
            for block in 0..len.saturating_sub(place(0)) / ENTRY as u64 {
                match self.slot(&mut redirects, (owner, epoch), block) {
                    Ok(read) => {
                        self.done.hashed += read;
                        self.progress.data_total += read;
                        self.spend(read)?;
                    }
                    // Told already by who looked at all tables.
                    Err(Error::Damaged { .. } | Error::TooNew { .. }) if all => {}
                    Err(error @ (Error::Damaged { .. } | Error::TooNew { .. })) => {
                        let detail = super::text_of(error);
                        problems.push(Problem::new(FindingKind::Altered, Severity::Damage, object, detail, None));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(problems)
    }

    /// Compares one slot with its digest, if it has one; returns the bytes read. An error is one of the table.
    fn slot(&mut self, redirects: &mut Redirects<'_>, (owner, epoch): (VolumeId, u64), block: u64) -> Result<u64> {
        let _operation = self.shared.operations.begin();
        let Some(RedirectHead { shift, .. }) = redirects.head(owner, epoch)? else { return Ok(0) };
        if redirects.entry(owner, epoch, block)?.is_none() {
            return Ok(0);
        }
        // As it is now: it may have been moved or forgotten since its neighbours were looked at.
        let slot = Slot { owner, epoch, block, len: 1, shift };
        let entry = redirect::read_entry(&*self.shared.blocker, &slot)?;
        let Some(RedirectEntry { digest, len, moved: false }) = entry else { return Ok(0) };
        let object = Object::Data(owner, epoch);
        let detail = format!("the block there is not the content {digest} that it was");
        self.compare(object, block << shift, u64::from(len), digest, detail)
    }

    /// Content objects.
    fn contents(&mut self, marks: &Marks, all: bool) -> Result<()> {
        for first in self.shared.blocker.content_parts()? {
            for digest in self.shared.blocker.contents(first)? {
                if !all && !marks.needs(&digest) {
                    continue;
                }
                let read = {
                    let _operation = self.shared.operations.begin();
                    match self.shared.blocker.content_len(digest)? {
                        // Collected meanwhile.
                        None => 0,
                        Some(len) => {
                            let detail = "its bytes are not those of its name".to_string();
                            self.compare(Object::Content(digest), 0, len, digest, detail)?
                        }
                    }
                };
                self.done.hashed += read;
                self.spend(read)?;
            }
        }
        Ok(())
    }

    /// Hashes bytes of an object, twice if they are not what they should be; returns how many there were.
    fn compare(&mut self, object: Object, at: u64, len: u64, digest: Digest, detail: String) -> Result<u64> {
        let blocker = &*self.shared.blocker;
        let (mut read, mut wrong) = (0, String::new());
        for _ in 0..2 {
            read = 0;
            let mut sha = Sha256::new();
            let hashed = (|| {
                let mut done = 0;
                while done < len {
                    let n = (len - done).min(self.buffer.len() as u64) as usize;
                    let there = blocker.read_some(object, &mut self.buffer[..n], at + done)?;
                    sha.update(&self.buffer[..there]);
                    read += there as u64;
                    done += n as u64;
                    if there < n {
                        break;
                    }
                }
                Ok::<_, Error>(Digest(sha.finalize_reset().into()))
            })();
            wrong = match hashed {
                Ok(found) if found == digest => return Ok(read),
                Ok(_) => detail.clone(),
                Err(error) => format!("it cannot be read: {error}"),
            };
            blocker.forget(object, at, len);
        }
        // Gone meanwhile.
        if blocker.len(object)?.is_some() {
            self.altered.push(Altered { object, from: at, to: at + len.max(1), detail: wrong, content: true });
        }
        Ok(read)
    }
}

/// Stretches by object, in order and disjoint: a block that is not its digest because of a sector that is not its checksum is told
/// once.
pub(super) fn merged(stretches: Vec<Altered>) -> Vec<Altered> {
    let mut by_object: BTreeMap<Object, Vec<Altered>> = BTreeMap::new();
    stretches.into_iter().for_each(|one| by_object.entry(one.object).or_default().push(one));
    let mut kept = Vec::new();
    for (_, mut all) in by_object {
        all.sort_by_key(|one| one.from);
        let covered = |slot: &Altered| all.iter().any(|one| !one.content && one.from < slot.to && slot.from < one.to);
        kept.extend(all.iter().filter(|one| !one.content || !covered(one)).cloned());
    }
    kept
}
