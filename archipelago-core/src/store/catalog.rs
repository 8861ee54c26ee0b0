//! Names and headers: which volume a name means, and how a new one is published.
//!
//! A name entry counts only if the header it leads to states the same name and is not removed. So a crash between the
//! steps of a rename or a removal leaves at most an entry that does not count; it is cleared away when its name is
//! wanted.

use crate::blocker::{LockMode, LockOutcome, Object, RecordKey, VolumeId};
use crate::error::{Error, Owner, Result};
use crate::format::header::{Header, Kind};
use crate::format::owner::ShortOwner;
use crate::format::relations::{Group, Received};
use crate::format::superblock::READ_COMPAT_KNOWN;
use crate::limits::{MAX_VOLUME_SIZE, MIN_VOLUME_SIZE, SECTOR};
use crate::mapper::tree::Tree;
use crate::store::shared::Shared;
use crate::store::{VolumeInfo, group};

/// Checks a size in bytes.
pub fn check_size(size: u64) -> Result<()> {
    if (MIN_VOLUME_SIZE..=MAX_VOLUME_SIZE).contains(&size) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("a volume of {size} bytes; the size must be between 1 byte and 4 PiB")))
}

/// A header with the version of its record; `None` if there is none.
pub fn read_header(shared: &Shared, id: VolumeId) -> Result<Option<(Header, u64)>> {
    read_record(shared, RecordKey::Header(id), id)
}

/// The same for a header in the trash.
pub fn read_trashed(shared: &Shared, id: VolumeId) -> Result<Option<(Header, u64)>> {
    read_record(shared, RecordKey::Trash(id), id)
}

fn read_record(shared: &Shared, key: RecordKey, id: VolumeId) -> Result<Option<(Header, u64)>> {
    let record = match shared.blocker.read_record(key) {
        Ok(record) => record,
        Err(Error::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let header = Header::decode(&key.to_string(), &record.bytes)?;
    if header.id != id {
        return Err(Error::damaged(key.to_string(), format!("it is the header of {}", header.id)));
    }
    Ok(Some((header, record.version)))
}

/// Whether a header is in the catalogue, whatever it says.
pub fn exists(shared: &Shared, id: VolumeId) -> Result<bool> {
    match shared.blocker.read_record(RecordKey::Header(id)) {
        Ok(_) | Err(Error::Damaged { .. }) => Ok(true),
        Err(Error::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a name means, if it counts.
pub fn resolve(shared: &Shared, name: &str) -> Result<Option<(Header, u64)>> {
    let Some(id) = shared.blocker.lookup(name)? else { return Ok(None) };
    let here = |found: Option<(Header, u64)>| found.filter(|(header, _)| header.name == name && !header.removed);
    match here(read_header(shared, id)?) {
        // Its group may have been settled, and so have gone, since the header was read.
        Some((header, _)) if !group::counts(shared, &header)? => {
            Ok(here(read_header(shared, id)?).filter(|(header, _)| header.group == Group::No))
        }
        found => Ok(found),
    }
}

/// What a name means, or `NotFound`.
pub fn find(shared: &Shared, name: &str) -> Result<(Header, u64)> {
    // A name that breaks the rules cannot exist, and must not reach the backend as part of a path.
    if crate::name::check(name).is_err() {
        return Err(Error::NotFound(name.to_string()));
    }
    let mut found = resolve(shared, name)?;
    if let Some((Header { group: Group::Member(group), .. }, _)) = found {
        // Whoever took the group died on the way, or is about to do this. It counts either way.
        let _ = group::settle(shared, group);
        found = resolve(shared, name)?;
    }
    found.ok_or_else(|| Error::NotFound(name.to_string()))
}

/// Refuses a map that is not whole.
pub fn check_whole(header: &Header) -> Result<()> {
    match header.received {
        Received::Partly(_) => Err(Error::Receiving(header.name.clone())),
        _ => Ok(()),
    }
}

/// Refuses a name that is taken.
pub fn ensure_free(shared: &Shared, name: &str) -> Result<()> {
    match resolve(shared, name)? {
        Some(_) => Err(Error::Exists(name.to_string())),
        None => Ok(()),
    }
}

/// Clears away a name entry that does not count. Whoever might be about to make it count holds the volume's lock.
pub fn heal(shared: &Shared, name: &str) -> Result<()> {
    let Some(id) = shared.blocker.lookup(name)? else { return Ok(()) };
    let group = match read_header(shared, id) {
        Ok(Some((header, _))) => group::lock_pending(shared, &header)?,
        // Half of a header is nobody's.
        _ => None,
    };
    let lock = match shared.blocker.lock(id, LockMode::Exclusive, &[])? {
        LockOutcome::Held(lock) => lock,
        LockOutcome::Refused(_) => return Err(Error::Exists(name.to_string())),
    };
    ensure_free(shared, name)?;
    shared.blocker.unbind_name(name)?;
    // Of what is gone there may have been no lock file before this.
    for (id, lock) in group.into_iter().chain([(id, lock)]) {
        if !exists(shared, id)? {
            lock.remove()?;
        }
    }
    Ok(())
}

/// Binds a name to a volume, clearing away an entry that does not count.
pub fn claim_name(shared: &Shared, name: &str, id: VolumeId) -> Result<()> {
    ensure_free(shared, name)?;
    match shared.blocker.bind_name(name, id) {
        // Left by an earlier attempt that did not get as far as the header.
        Err(Error::Exists(_)) if shared.blocker.lookup(name)? == Some(id) => Ok(()),
        Err(Error::Exists(_)) => {
            heal(shared, name)?;
            shared.blocker.bind_name(name, id).map_err(|e| named(e, name))
        }
        other => other,
    }
}

/// Gives a map another name: the new one is bound, `commit` puts it into the header, the old one is dropped. The header
/// decides at every moment.
pub fn rename(shared: &Shared, old: &str, new: &str, id: VolumeId, commit: impl FnOnce() -> Result<()>) -> Result<()> {
    claim_name(shared, new, id)?;
    match commit() {
        // No room: certainly nothing was changed, so the new name is nobody's again. An entry that stays does not count, but
        // as long as the volume is open nobody could clear it away. After other errors the header may name either.
        Err(full @ Error::NoSpace(_)) => {
            let _ = shared.blocker.unbind_name(new);
            Err(full)
        }
        Err(error) => Err(error),
        Ok(()) => shared.blocker.unbind_name(old),
    }
}

/// `Exists` speaks of the user's name, not of the backend's object.
fn named(error: Error, name: &str) -> Error {
    match error {
        Error::Exists(_) => Error::Exists(name.to_string()),
        other => other,
    }
}

/// Publishes a new map under its name.
pub fn publish(shared: &Shared, header: &Header) -> Result<()> {
    publish_many(shared, std::slice::from_ref(header))
}

/// A store with features that only forbid writing can still be read by a build that does not know them.
pub fn check_writable(shared: &Shared) -> Result<()> {
    match shared.superblock.read_compat & !READ_COMPAT_KNOWN {
        0 => Ok(()),
        bits => Err(Error::TooNew {
            object: RecordKey::Store.to_string(),
            detail: format!("it uses features {bits:#x}, with which this version can only read it"),
        }),
    }
}

/// Publishes new maps, all or none.
pub fn publish_many(shared: &Shared, headers: &[Header]) -> Result<()> {
    check_writable(shared)?;
    shared.check_registered()?;
    let batch: Vec<_> = headers.iter().map(|h| (h.id, h.name.clone(), h.encode())).collect();
    match shared.blocker.create_named(&batch) {
        Err(Error::Exists(_)) => {
            for header in headers {
                ensure_free(shared, &header.name)?;
                heal(shared, &header.name)?;
            }
            shared.blocker.create_named(&batch).map_err(|e| named(e, &headers[0].name))
        }
        other => other,
    }
}

/// Facts about a map for its users.
pub fn describe(shared: &Shared, header: &Header, mapped: Option<u64>) -> Result<VolumeInfo> {
    let mapped = match mapped {
        Some(bytes) => bytes,
        None => {
            Tree::from_root(&format!("catalog/h.{}", header.id), &header.root, header.block_shift)?.mapped() * SECTOR
        }
    };
    let parent = match header.parent {
        VolumeId(0) => None,
        id => Some(match read_header(shared, id) {
            Ok(Some((parent, _))) if !parent.removed => parent.name,
            _ => format!("[{id}]"),
        }),
    };
    let open_by = if header.kind == Kind::Volume { holder(shared, header.id)? } else { None };
    Ok(info(header, mapped, parent, open_by))
}

/// Facts about a clone that was made a moment ago: nobody has it open, and its parent is known.
pub fn describe_clone(header: &Header, parent: &str) -> Result<VolumeInfo> {
    let tree = Tree::from_root(&format!("catalog/h.{}", header.id), &header.root, header.block_shift)?;
    Ok(info(header, tree.mapped() * SECTOR, Some(parent.to_string()), None))
}

fn info(header: &Header, mapped: u64, parent: Option<String>, open_by: Option<Owner>) -> VolumeInfo {
    VolumeInfo {
        name: header.name.clone(),
        id: header.id.to_string(),
        kind: header.kind,
        size: header.size,
        block_size: 1 << header.block_shift,
        epoch: header.epoch,
        mapped: mapped.min(header.size),
        read_only: header.kind != Kind::Volume,
        parent,
        created: header.created,
        open_by,
        origin: match &header.received {
            Received::From(identity) => Some(identity.to_string()),
            _ => None,
        },
        receiving: match &header.received {
            Received::Partly(transfer) => Some(transfer.progress.position),
            _ => None,
        },
        labels: header.labels.clone(),
        untouched: header.kind == Kind::Volume
            && header.log.is_none()
            && header.epoch == 1
            && header.received == Received::No,
    }
}

/// Who has a volume open for writing.
pub fn holder(shared: &Shared, id: VolumeId) -> Result<Option<Owner>> {
    Ok(shared.blocker.lock_holder(id)?.and_then(|record| owner(shared, &record)))
}

/// Who left this record at a lock: the record says which process, and the process has said more about itself in the store.
fn owner(shared: &Shared, record: &[u8]) -> Option<Owner> {
    let short = ShortOwner::decode(record)?;
    let registered = shared.peers.get().and_then(|peers| peers.describe(&short.process));
    // Gone or not readable for this user; in simulation no process registers.
    let unknown = || ("unknown".to_string(), "unknown".to_string());
    let (host, command) = registered.map_or_else(unknown, |owner| (owner.host, owner.command));
    Some(Owner { pid: short.pid, host, command, since: short.since, process: short.process })
}

/// Takes the exclusive lock of a map, or says who has it.
pub fn lock(shared: &Shared, header: &Header, advice: &'static str) -> Result<Box<dyn crate::blocker::LockGuard>> {
    check_writable(shared)?;
    let owner = ShortOwner::of(&shared.owner()).encode();
    match shared.blocker.lock(header.id, LockMode::Exclusive, owner.as_bytes())? {
        LockOutcome::Held(guard) => Ok(guard),
        LockOutcome::Refused(record) => Err(elsewhere(shared, header, &record, advice)),
    }
}

/// The error for a lock that somebody else has.
pub fn elsewhere(shared: &Shared, header: &Header, record: &[u8], advice: &'static str) -> Error {
    let unknown = || Owner {
        pid: 0,
        host: "this store".to_string(),
        command: "a reader, or a process that is just opening it".to_string(),
        since: 0,
        process: String::new(),
    };
    Error::OpenElsewhere {
        name: header.name.clone(),
        owner: Box::new(owner(shared, record).unwrap_or_else(unknown)),
        advice,
    }
}

/// Journal segments of a volume.
pub fn segments(shared: &Shared, id: VolumeId) -> Result<Vec<u32>> {
    let objects = shared.blocker.objects(id)?;
    Ok(objects.into_iter().filter_map(|o| if let Object::Log(_, n) = o { Some(n) } else { None }).collect())
}
