//! Records, and the index of names: keys of a few objects, changed by operations that compare and set in one step.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::librados::{Entry, Errno, Page};
use super::{Core, layout};
use crate::blocker::{Record, RecordKey, VolumeId};
use crate::error::{Error, Result};
use crate::limits::MAX_RECORD;

/// Attempts to move a header that is committed meanwhile.
const ATTEMPTS: usize = 16;
/// Names or headers that go to one object in one step.
const BATCH: usize = 256;
/// Names that a listing asks an object for at once.
const MIN_PAGE: u64 = 32;

/// Id, name and header of a map that is made.
type NewMap = (VolumeId, String, Vec<u8>);

fn check(key: RecordKey, bytes: &[u8]) -> Result<()> {
    if bytes.len() > MAX_RECORD {
        let text = format!("{key}: a record of {} bytes is longer than the limit of {MAX_RECORD}", bytes.len());
        return Err(Error::InvalidArgument(text));
    }
    Ok(())
}

impl Core {
    pub(super) fn new_record(&self, key: RecordKey, bytes: &[u8]) -> Result<()> {
        check(key, bytes)?;
        let (record, version) = layout::record_keys(key);
        let change =
            self.pool.change().create(false).assert_value(&version, b"").set(&[
                (&record, &layout::encode_record(key, 1, bytes)),
                (&version, layout::version_text(1).as_bytes()),
            ]);
        match change.apply(&layout::record_object(key)) {
            Err(Errno(libc::ECANCELED)) => Err(Error::Exists(key.to_string())),
            other => self.done("create", key, other),
        }
    }

    pub(super) fn get_record(&self, key: RecordKey) -> Result<Record> {
        let (record, _) = layout::record_keys(key);
        let found = self.pool.values(&layout::record_object(key), &[&record]);
        let Some((_, bytes)) = self.done_with("read", key, found)?.into_iter().next() else {
            return Err(Error::NotFound(key.to_string()));
        };
        match layout::decode_record(key, &bytes) {
            Ok((version, payload)) => Ok(Record { version, bytes: payload.to_vec() }),
            Err(detail) => Err(Error::damaged(key.to_string(), detail)),
        }
    }

    pub(super) fn replace_record(&self, key: RecordKey, expected: u64, bytes: &[u8]) -> Result<u64> {
        check(key, bytes)?;
        let (record, version) = layout::record_keys(key);
        let Some(next) = expected.checked_add(1).filter(|_| expected > 0) else {
            return self.get_record(key).and(Err(Error::Stale(key.to_string())));
        };
        let change = self.pool.change().assert_value(&version, layout::version_text(expected).as_bytes()).set(&[
            (&record, &layout::encode_record(key, next, bytes)),
            (&version, layout::version_text(next).as_bytes()),
        ]);
        match change.apply(&layout::record_object(key)) {
            Ok(()) => Ok(next),
            Err(Errno(libc::ENOENT)) => Err(Error::NotFound(key.to_string())),
            Err(Errno(libc::ECANCELED)) => self.get_record(key).and(Err(Error::Stale(key.to_string()))),
            Err(errno) => Err(self.failed("commit", key, errno)),
        }
    }

    /// What is read is durable; so only the version is looked at.
    pub(super) fn look_at_version(&self, key: RecordKey, version: u64) -> Result<()> {
        match self.get_record(key)?.version {
            found if found == version => Ok(()),
            _ => Err(Error::Stale(key.to_string())),
        }
    }

    pub(super) fn move_to_trash(&self, volume: VolumeId) -> Result<()> {
        let (from, to) = (RecordKey::Header(volume), RecordKey::Trash(volume));
        let (record, version) = layout::record_keys(from);
        let (new_record, new_version) = layout::record_keys(to);
        for _ in 0..ATTEMPTS {
            let found = self.get_record(from)?;
            let text = layout::version_text(found.version);
            let change = self
                .pool
                .change()
                .assert_value(&version, text.as_bytes())
                .set(&[
                    (&new_record, &layout::encode_record(to, found.version, &found.bytes)),
                    (&new_version, text.as_bytes()),
                ])
                .unset(&[&record, &version]);
            match change.apply(&layout::record_object(from)) {
                // Committed, or moved, since it was read.
                Err(Errno(libc::ECANCELED)) => {}
                other => return self.done("move to the trash", from, other),
            }
        }
        Err(Error::TooBusy(format!("{from}: committed again and again while it is moved")))
    }

    pub(super) fn drop_record(&self, key: RecordKey) -> Result<()> {
        let (record, version) = layout::record_keys(key);
        match self.pool.change().assert_exists().unset(&[&record, &version]).apply(&layout::record_object(key)) {
            Err(Errno(libc::ENOENT)) => Ok(()),
            other => self.done("remove", key, other),
        }
    }

    /// Ids of the records whose keys begin so, sorted.
    pub(super) fn list_records(&self, prefix: &str) -> Result<Vec<VolumeId>> {
        let objects: Vec<String> = (0..layout::SHARDS).map(layout::catalog).collect();
        let keys = self.done_with("list", "the catalogue", self.pool.entries_of_all(&objects, prefix))?;
        let id = |(key, _): &Entry| key.strip_prefix(prefix)?.parse::<VolumeId>().ok();
        let mut ids: Vec<VolumeId> = keys.iter().filter_map(id).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    pub(super) fn new_named(&self, batch: &[NewMap]) -> Result<()> {
        let mut seen = HashSet::with_capacity(batch.len());
        for (id, name, bytes) in batch {
            check(RecordKey::Header(*id), bytes)?;
            if !seen.insert(name) {
                return Err(Error::Exists(name.clone()));
            }
        }
        let mut made = Vec::new();
        let result = self.make_headers(batch, &mut made).and_then(|()| self.make_names(batch));
        if result.is_err() {
            // No name leads to them. What cannot be taken back is a header that nobody names.
            for id in made {
                let _ = self.drop_record(RecordKey::Header(id));
            }
        }
        result
    }

    fn make_headers(&self, batch: &[NewMap], made: &mut Vec<VolumeId>) -> Result<()> {
        let mut shards: BTreeMap<String, Vec<&NewMap>> = BTreeMap::new();
        for entry in batch {
            shards.entry(layout::record_object(RecordKey::Header(entry.0))).or_default().push(entry);
        }
        let groups: Vec<_> =
            shards.iter().flat_map(|(object, entries)| entries.chunks(BATCH).map(move |some| (object, some))).collect();
        let changes = groups.iter().map(|(object, entries)| {
            // All comparisons before the first change: on an object that is made here they look at what was there before.
            let keys = |id: &VolumeId| layout::record_keys(RecordKey::Header(*id));
            let new = self.pool.change().create(false);
            let compared = entries.iter().fold(new, |change, (id, _, _)| change.assert_value(&keys(id).1, b""));
            let change = entries.iter().fold(compared, |change, (id, _, bytes)| {
                let (record, version) = keys(id);
                let stored = layout::encode_record(RecordKey::Header(*id), 1, bytes);
                change.set(&[(&record, &stored), (&version, layout::version_text(1).as_bytes())])
            });
            (object.to_string(), change)
        });
        let results = self.pool.change_all(changes);
        let mut failed = Ok(());
        for ((_, entries), result) in groups.iter().zip(results) {
            match result {
                Ok(()) => made.extend(entries.iter().map(|(id, _, _)| *id)),
                Err(Errno(libc::ECANCELED)) => {
                    let taken =
                        entries.iter().map(|(id, _, _)| *id).find(|id| self.get_record(RecordKey::Header(*id)).is_ok());
                    let what = taken.map_or_else(|| "a header".to_string(), |id| RecordKey::Header(id).to_string());
                    failed = failed.and(Err(Error::Exists(what)));
                }
                Err(errno) => failed = failed.and(Err(self.failed("create", "headers", errno))),
            }
        }
        failed
    }

    fn make_names(&self, batch: &[NewMap]) -> Result<()> {
        let mut shards: BTreeMap<usize, Vec<(&str, String)>> = BTreeMap::new();
        for (id, name, _) in batch {
            shards.entry(layout::shard_of(name)).or_default().push((name, id.to_string()));
        }
        let groups: Vec<(usize, &[(&str, String)])> =
            shards.iter().flat_map(|(shard, entries)| entries.chunks(BATCH).map(move |some| (*shard, some))).collect();
        let changes = groups.iter().map(|(shard, entries)| {
            let new = self.pool.change().create(false);
            let compared = entries.iter().fold(new, |change, (name, _)| change.assert_value(name, b""));
            let bound: Vec<(&str, &[u8])> = entries.iter().map(|(name, id)| (*name, id.as_bytes())).collect();
            (layout::names(*shard), compared.set(&bound))
        });
        let results = self.pool.change_all(changes);
        let mut failed = Ok(());
        let mut bound = Vec::new();
        for ((shard, entries), result) in groups.iter().zip(results) {
            match result {
                Ok(()) => bound.push((*shard, *entries)),
                Err(Errno(libc::ECANCELED)) => {
                    let mut taken = None;
                    for (name, _) in entries.iter() {
                        if taken.is_none() && self.find_name(name)?.is_some() {
                            taken = Some(*name);
                        }
                    }
                    failed = failed.and(Err(Error::Exists(taken.unwrap_or("a name").to_string())));
                }
                Err(errno) => failed = failed.and(Err(self.failed("bind", "names", errno))),
            }
        }
        if failed.is_err() {
            for (shard, entries) in bound {
                let names: Vec<&str> = entries.iter().map(|(name, _)| *name).collect();
                let undone = self.pool.change().unset(&names).apply(&layout::names(shard));
                self.done("unbind", "names", undone)?;
            }
        }
        failed
    }

    pub(super) fn link_name(&self, name: &str, volume: VolumeId) -> Result<()> {
        self.get_record(RecordKey::Header(volume))?;
        let id = volume.to_string();
        let change = self.pool.change().create(false).assert_value(name, b"").set(&[(name, id.as_bytes())]);
        match change.apply(&layout::names(layout::shard_of(name))) {
            Err(Errno(libc::ECANCELED)) => Err(Error::Exists(name.to_string())),
            other => self.done("bind", name, other),
        }
    }

    pub(super) fn unlink_name(&self, name: &str) -> Result<()> {
        match self.pool.change().assert_exists().unset(&[name]).apply(&layout::names(layout::shard_of(name))) {
            Err(Errno(libc::ENOENT)) => Ok(()),
            other => self.done("unbind", name, other),
        }
    }

    pub(super) fn find_name(&self, name: &str) -> Result<Option<VolumeId>> {
        let found = self.pool.values(&layout::names(layout::shard_of(name)), &[name]);
        let Some((_, value)) = self.done_with("look up", name, found)?.into_iter().next() else { return Ok(None) };
        let id = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        id.map(Some).ok_or_else(|| Error::damaged(format!("names: {name}"), "it leads to no id"))
    }

    /// Merges the shards, each of which is asked for some names at a time.
    pub(super) fn list_names(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        let page = (limit as u64 / layout::SHARDS as u64 * 5 / 4).clamp(MIN_PAGE, 1000);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let objects: Vec<String> = (0..layout::SHARDS).map(layout::names).collect();
        let first = self.pool.pages(&objects, prefix, after.unwrap_or(""), page);
        let first = self.done_with("list", "the names", first)?.into_iter().zip(objects);
        let shard = |((page, more), object): (Page, String)| Names {
            object,
            found: page.into_iter().map(|(name, _)| name).collect(),
            more,
        };
        let mut shards: Vec<Names> = first.map(shard).collect();
        let mut listed: Vec<String> = Vec::new();
        while listed.len() < limit {
            let first =
                shards.iter_mut().filter(|s| !s.found.is_empty()).min_by(|a, b| a.found.front().cmp(&b.found.front()));
            let Some(first) = first else { break };
            let Some(name) = first.found.pop_front() else { break };
            if first.found.is_empty() {
                first.fill(self, prefix, &name, page)?;
            }
            listed.push(name);
        }
        Ok(listed)
    }
}

/// Names of one shard that were asked for.
struct Names {
    object: String,
    found: VecDeque<String>,
    more: bool,
}

impl Names {
    fn fill(&mut self, core: &Core, prefix: &str, after: &str, most: u64) -> Result<()> {
        if !self.more {
            return Ok(());
        }
        let (page, more) = core.done_with("list", &self.object, core.pool.page(&self.object, prefix, after, most))?;
        self.found.extend(page.into_iter().map(|(name, _)| name));
        self.more = more;
        Ok(())
    }
}
