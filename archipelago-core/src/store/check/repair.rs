//! Puts things right without inventing anything: each repair looks again under the locks that it needs, is safe to cut
//! at any point, and may be repeated.

use super::catalogue::{Leads, is_still_unnamed, leads_to};
use crate::blocker::{Entry, LockGuard, LockMode, LockOutcome, Mend, Object, RecordKey, VolumeId};
use crate::error::{Error, Result};
use crate::format::owner::ShortOwner;
use crate::limits::MAX_NAME;
use crate::store::catalog;
use crate::store::content::{self, Leases, redirect};
use crate::store::shared::Shared;

/// What the collector takes away.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// An object that nothing names.
    Object(Object),
    /// A header that nobody ever named.
    Header(VolumeId),
    /// A name that does not count.
    Name(String),
    /// A content object that was not finished.
    Unfinished {
        /// First byte of its digest.
        first: u8,
        /// Its number.
        number: u64,
    },
}

/// What is done about a finding.
#[derive(Clone, Debug)]
pub(super) enum Fix {
    /// Nothing but to look whether a collection, made once for all of these, took it away.
    Collect(Target),
    /// Writes the record again over a commit that was cut short.
    Slot(RecordKey),
    /// Goes on with a removal.
    Removal {
        /// The map.
        id: VolumeId,
        /// The name that its header states.
        name: String,
    },
    /// Drops a name that does not count.
    DropName {
        /// The map that it leads to.
        id: VolumeId,
        /// The name.
        name: String,
    },
    /// Enters a header under its id, which is there under its name only.
    Relink {
        /// The map.
        id: VolumeId,
        /// The name.
        name: String,
    },
    /// Gives a map its name back, or another one if it is taken.
    Bind {
        /// The map.
        id: VolumeId,
        /// The name that its header states.
        name: String,
    },
    /// Moves what cannot be read out of the way.
    Aside(Vec<Entry>),
    /// Makes what a damaged table of the content index may have said anew.
    Index(u64),
    /// Forgets what a redirect table says of a block that lies in its place.
    Entry {
        /// The volume.
        owner: VolumeId,
        /// Its epoch.
        epoch: u64,
        /// The block.
        block: u64,
    },
    /// Ends a claim whose leases cannot be read.
    Lease {
        /// The claim.
        claim: u64,
        /// Its part.
        part: u64,
    },
    /// Raises the epoch of a volume past one that other maps name.
    Epoch {
        /// The volume.
        id: VolumeId,
        /// Its epoch has to be higher than this.
        above: u64,
    },
}

impl Fix {
    /// What it does, for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Fix::Collect(_) => "collect it".into(),
            Fix::Slot(_) => "write the slot again".into(),
            Fix::Removal { .. } => "finish the removal".into(),
            Fix::DropName { name, .. } => format!("drop the name {name}"),
            Fix::Relink { id, .. } => format!("enter it again as catalog/h.{id}"),
            Fix::Bind { name, .. } => format!("bind the name {name}"),
            Fix::Aside(_) => "move it to lost/".into(),
            Fix::Index(_) => "make it anew from the redirect tables".into(),
            Fix::Entry { .. } => "forget the entry; hashing finds it again".into(),
            Fix::Lease { .. } => "end the claim; what it was told may be collected, and is asked for again".into(),
            Fix::Epoch { above, .. } => format!("raise the epoch of the volume past {above}"),
        }
    }

    /// Does it; returns what was done.
    pub(super) fn apply(&self, shared: &Shared) -> Result<String> {
        catalog::check_writable(shared)?;
        match self {
            Fix::Collect(target) => {
                let gone = match target {
                    Target::Object(object) => shared.blocker.len(*object)?.is_none(),
                    Target::Header(id) => !catalog::exists(shared, *id)?,
                    Target::Unfinished { first, number } => {
                        !shared.blocker.unfinished_contents(*first)?.contains(number)
                    }
                    Target::Name(name) => matches!(leads_to(shared, name), Ok(Leads::Nowhere | Leads::To(_))),
                };
                if gone { Ok("collected it".into()) } else { Err(Error::Busy("the collector left it: it".into())) }
            }
            Fix::Slot(key) => slot(shared, *key),
            Fix::Removal { id, name } => {
                let _lock = lock(shared, *id)?;
                match catalog::read_header(shared, *id)? {
                    Some((header, _)) if header.removed => {}
                    _ => return Err(changed(id)),
                }
                if matches!(leads_to(shared, name), Ok(Leads::Astray(found, _)) if found == *id) {
                    shared.blocker.unbind_name(name)?;
                }
                shared.blocker.trash_header(*id)?;
                Ok("finished the removal".into())
            }
            Fix::DropName { id, name } => {
                let _lock = lock(shared, *id)?;
                match leads_to(shared, name)? {
                    Leads::Astray(found, _) if found == *id => {}
                    // Another repair or its owner was quicker.
                    Leads::Nowhere => return Ok(format!("the name {name} is gone already")),
                    _ => return Err(changed(name)),
                }
                shared.blocker.unbind_name(name)?;
                Ok(format!("dropped the name {name}"))
            }
            Fix::Relink { id, name } => {
                let _lock = lock(shared, *id)?;
                if !matches!(leads_to(shared, name)?, Leads::Lost(found) if found == *id) {
                    return Err(changed(name));
                }
                mend(shared)?.relink_header(name, *id)?;
                Ok(format!("entered it again as catalog/h.{id}"))
            }
            Fix::Bind { id, name } => bind(shared, *id, name),
            Fix::Aside(entries) => aside(shared, entries),
            Fix::Index(id) => {
                content::replace_index(shared, *id).map(|()| "made it anew from the redirect tables".into())
            }
            Fix::Entry { owner, epoch, block } => {
                redirect::forget_damaged(&*shared.blocker, *owner, *epoch, *block).map(|()| "forgot the entry".into())
            }
            Fix::Lease { claim, part } => {
                Leases::drop_damaged(shared, *claim, *part).map(|()| "ended the claim".into())
            }
            Fix::Epoch { id, above } => epoch(shared, *id, *above),
        }
    }
}

fn changed(what: impl ToString) -> Error {
    Error::Unsupported(format!("{}: was changed since it was looked at; check again", what.to_string()))
}

fn mend(shared: &Shared) -> Result<&dyn Mend> {
    shared.blocker.mend().ok_or_else(|| Error::Unsupported("this backend has nothing to mend".into()))
}

/// The lock of a map, or the error that it is in use.
fn lock(shared: &Shared, id: VolumeId) -> Result<Box<dyn LockGuard>> {
    let owner = ShortOwner::of(&shared.owner()).encode();
    match shared.blocker.lock(id, LockMode::Exclusive, owner.as_bytes())? {
        LockOutcome::Held(lock) => Ok(lock),
        LockOutcome::Refused(_) => Err(Error::Busy(format!("the map {id}"))),
    }
}

fn slot(shared: &Shared, key: RecordKey) -> Result<String> {
    let _lock = match key {
        RecordKey::Header(id) | RecordKey::Trash(id) => Some(lock(shared, id)?),
        // Nobody has it for long; the record's own lock is enough.
        RecordKey::Store => None,
    };
    mend(shared)?.mend_record(key)?;
    Ok("wrote the slot again".into())
}

fn bind(shared: &Shared, id: VolumeId, name: &str) -> Result<String> {
    let _lock = lock(shared, id)?;
    if !is_still_unnamed(shared, id)? {
        return Err(changed(name));
    }
    let Some((mut header, version)) = catalog::read_header(shared, id)? else { return Err(changed(name)) };
    match catalog::claim_name(shared, name, id) {
        Ok(()) => return Ok(format!("bound the name {name}")),
        // Taken, or what is there cannot be read.
        Err(Error::Exists(_) | Error::Damaged { .. } | Error::InvalidName { .. }) => {}
        Err(error) => return Err(error),
    }
    let suffix = format!(".found-{id}");
    let mut end = name.len().min(MAX_NAME - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let other = format!("{}{suffix}", &name[..end]);
    crate::name::check(&other)?;
    // As in every change of a name: the header decides at each moment.
    catalog::claim_name(shared, &other, id)?;
    header.name = other.clone();
    shared.blocker.commit_record(RecordKey::Header(id), version, &header.encode())?;
    Ok(format!("the name {name} is taken: bound {other}"))
}

fn aside(shared: &Shared, entries: &[Entry]) -> Result<String> {
    let mut locks = Vec::new();
    for entry in entries {
        if let Entry::Header(id) | Entry::Trash(id) = entry {
            locks.push(lock(shared, *id)?);
        }
    }
    let mend = mend(shared)?;
    let mut places = Vec::new();
    for entry in entries {
        let readable = match entry {
            Entry::Header(id) => catalog::read_header(shared, *id).map(|_| ()),
            Entry::Trash(id) => super::catalogue::read_header(shared, *id, true).map(|_| ()),
            Entry::Name(name) => leads_to(shared, name).map(|_| ()),
        };
        if readable.is_err() {
            places.push(mend.set_aside(entry)?);
        }
    }
    if places.is_empty() {
        return Err(changed("what could not be read"));
    }
    Ok(format!("moved to {}", places.join(", ")))
}

fn epoch(shared: &Shared, id: VolumeId, above: u64) -> Result<String> {
    let _lock = lock(shared, id)?;
    let Some((mut header, version)) = catalog::read_header(shared, id)? else { return Err(changed(id)) };
    let epoch =
        above.checked_add(1).ok_or_else(|| Error::damaged(format!("catalog/h.{id}"), "its epochs are used up"))?;
    if header.epoch < epoch {
        header.epoch = epoch;
        shared.blocker.commit_record(RecordKey::Header(id), version, &header.encode())?;
    }
    Ok(format!("the epoch of the volume is {} now", header.epoch))
}
