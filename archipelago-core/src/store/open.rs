//! Opens volumes: lock, replay, recovery.

use std::collections::BTreeSet;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::Duration;

use crate::blocker::{LockMode, LockOutcome, Object, RecordKey};
use crate::digest;
use crate::error::{Error, Result};
use crate::format::cached::Cached;
use crate::format::header::{Header, Kind, LogPos};
use crate::format::log::RECORD_HEAD;
use crate::limits::{COMPOSE_EXTENTS, MAX_EXTENTS};
use crate::mapper::journal::{Journal, Tail};
use crate::mapper::provisional::Unconfirmed;
use crate::mapper::replay::{self, Replayed};
use crate::store::catalog;
use crate::store::shared::Shared;
use crate::volume::GivenUp;
use crate::volume::cache::attach::{self, Wanted};
use crate::volume::handle::Handle;
use crate::volume::inner::{Access, HeaderState, Inner, Writer};

/// What a second writer is told.
const WRITER_ADVICE: &str =
    "ask that process for what you need, or stop it first; snapshots of the volume can be read and cloned meanwhile";
/// Wait between two attempts to get the lock of a volume that is being closed in this process.
const CLOSING_PAUSE: Duration = Duration::from_millis(1);
/// What a reader of a volume in use is told.
const READER_ADVICE: &str = "take a snapshot of it and read that";

/// Opens a volume for writing. In this process that is shared: a second call gives the same volume.
pub fn for_writing(shared: &Arc<Shared>, name: &str) -> Result<Handle> {
    writer(shared, name, false, Cache::Named)
}

/// The same for reading and writing by a user, who wants a cache where there can be one.
pub fn for_use(shared: &Arc<Shared>, name: &str) -> Result<Handle> {
    writer(shared, name, false, Cache::Usual)
}

/// What cache a volume is to have.
enum Cache {
    /// The one that its header names, or none.
    Named,
    /// That of its place on this host, if there is one.
    Usual,
    /// This one.
    Given(Wanted),
}

/// Opens a volume for writing through a cache.
pub fn for_caching(shared: &Arc<Shared>, name: &str, cache: Wanted) -> Result<Handle> {
    writer(shared, name, false, Cache::Given(cache))
}

/// Forgets that the newest writes of a volume are in a cache, and gives them up.
pub fn without_cache(shared: &Arc<Shared>, name: &str) -> Result<Option<GivenUp>> {
    let (header, _) = catalog::find(shared, name)?;
    if header.cached.is_none() {
        return Ok(None);
    }
    let _opening = shared.opening.lock();
    if shared.holds(header.id) {
        return Err(Error::Busy(name.to_string()));
    }
    let _operation = shared.operations.begin();
    let _lock = catalog::lock(shared, &header, WRITER_ADVICE)?;
    let Some((mut header, version)) = catalog::read_header(shared, header.id)? else {
        return Err(Error::NotFound(name.to_string()));
    };
    let Some(Cached { id, host }) = header.cached.take() else { return Ok(None) };
    shared.check_registered()?;
    shared.blocker.commit_record(RecordKey::Header(header.id), version, &header.encode())?;
    Ok(Some(GivenUp { id, host }))
}

/// Opens a volume that is being received, for the one that receives it.
pub fn for_receiving(shared: &Arc<Shared>, name: &str) -> Result<Handle> {
    writer(shared, name, true, Cache::Named)
}

fn writer(shared: &Arc<Shared>, name: &str, receives: bool, cache: Cache) -> Result<Handle> {
    let _operation = shared.operations.begin();
    let _opening = shared.opening.lock();
    let (header, _) = catalog::find(shared, name)?;
    if header.kind != Kind::Volume {
        return Err(Error::ReadOnly(name.to_string()));
    }
    if !receives {
        catalog::check_whole(&header)?;
    }
    if let Some(inner) = shared.opened(header.id) {
        return if receives || matches!(cache, Cache::Given(_)) {
            Err(Error::Busy(name.to_string()))
        } else {
            Ok(Handle::new(inner))
        };
    }
    let lock = loop {
        // Looked at before the lock: afterwards it may just have been given up.
        let closing = shared.holds(header.id);
        match catalog::lock(shared, &header, WRITER_ADVICE) {
            // The volume is being closed in this process.
            Err(Error::OpenElsewhere { .. }) if closing => crate::sync::sleep(CLOSING_PAUSE),
            other => break other?,
        }
    };
    // Read again: before the lock was ours the header may have been changed.
    let Some((header, version)) = catalog::read_header(shared, header.id)? else {
        return Err(Error::NotFound(name.to_string()));
    };
    if header.name != name || header.removed {
        return Err(Error::NotFound(name.to_string()));
    }
    let wanted = match cache {
        Cache::Given(wanted) => Some(wanted),
        Cache::Named if header.cached.is_none() => None,
        Cache::Named | Cache::Usual => shared.cache_of(header.id).map(|at| Wanted::new(&at)).transpose()?,
    };
    let cache = match wanted {
        Some(wanted) => Some((attach::check(shared, &header, &wanted)?, wanted)),
        None => attach::check_none(&header).map(|()| None)?,
    };
    // What it says of the journal is what later flushes rely on, and which logged sectors may be overwritten.
    shared.blocker.settle_record(RecordKey::Header(header.id), version)?;
    let Replayed { view, epoch, tail, believed, refused, unsynced } =
        replay::load(&*shared.blocker, &shared.cache, &header)?;
    recover(shared, &header, &tail, &refused)?;
    let folded = header.log.map_or(LogPos::default(), |start| start.pos);
    let (generation, boot) = (shared.random()?, shared.blocker.boot());
    let journal = Journal::new(header.id, boot, tail, believed, folded, generation, shared.options.first_segment);
    for segment in catalog::segments(shared, header.id)? {
        // What a former owner wrote and did not sync is read as if it were safe; the first flush makes it so.
        if segment <= tail.next.pos.segment && tail.segment_len > 0 {
            journal.mark_dirty(segment);
        }
    }
    let with_more = |most: usize| -> BTreeSet<u64> {
        view.overlay.iter().filter(|(_, map)| map.extents().len() > most).map(|(block, _)| *block).collect()
    };
    let (overfull, overlong) = (with_more(COMPOSE_EXTENTS), with_more(MAX_EXTENTS));
    let unsynced = unsynced.into_iter().map(|epoch| Object::Data(header.id, epoch)).collect();
    let writer = Box::new(Writer::new(journal, overfull, overlong, unsynced));
    let inner = Inner::new(shared, HeaderState { header, version }, view, epoch, Access::Write { writer, lock })?;
    if let Some((head, wanted)) = cache {
        attach::attach(&inner, wanted, head)?;
    }
    shared.open.lock().insert(inner.id, Arc::downgrade(&inner));
    Ok(Handle::new(inner))
}

/// Makes what was replayed durable, and the place behind it zero, before anything is appended there. Provisional records that do not
/// count are replaced on the way: later ones would confirm them.
///
/// The records are written again, not only synced: after a failed sync of a former owner the kernel may show bytes that
/// it no longer intends to write. At most the unfolded journal, so a second's work.
fn recover(shared: &Shared, header: &Header, tail: &Tail, refused: &[Unconfirmed]) -> Result<()> {
    let Some(start) = header.log else { return Ok(()) };
    let blocker = &*shared.blocker;
    if tail.bytes == 0 && !tail.stray {
        // A former owner may have zeroed what he found here, and died before that was durable: it would come back between the
        // records that are written now.
        return blocker.sync(&[Object::Log(header.id, tail.next.pos.segment)]);
    }
    let (mut objects, mut stray) = (Vec::new(), None);
    for number in start.pos.segment..=tail.next.pos.segment {
        let object = Object::Log(header.id, number);
        let len = blocker.len(object)?.unwrap_or(0);
        let from = if number == start.pos.segment { u64::from(start.pos.offset) } else { 0 };
        let mut bytes = vec![0; len.saturating_sub(from) as usize];
        blocker.read(object, &mut [IoSliceMut::new(&mut bytes)], from)?;
        let filled = digest::strip(&bytes).len();
        for record in refused.iter().filter(|record| record.pos.segment == number) {
            let at = (u64::from(record.pos.offset) - from) as usize;
            bytes[at..at + RECORD_HEAD].copy_from_slice(&record.void(header.id)?);
        }
        // What takes the place of a record may end with zeros where that did not.
        let last = digest::strip(&bytes).len().max(filled);
        if number == tail.next.pos.segment {
            let end = (u64::from(tail.next.pos.offset) - from) as usize;
            if end < last {
                stray = Some((object, from + end as u64, bytes[end..last].to_vec()));
                bytes[end..last].fill(0);
            }
        }
        blocker.write(object, &[IoSlice::new(&bytes[..last])], from)?;
        objects.push(object);
    }
    let synced = blocker.sync(&objects);
    if let (Err(_), Some((object, at, bytes))) = (&synced, stray) {
        // The zeros may be in memory only, for good, and the next owner would believe them. So he is to see what there was; if
        // that fails too, nothing more can be done.
        let _ = blocker.write(object, &[IoSlice::new(&bytes)], at);
    }
    synced
}

/// Opens a map for reading: a snapshot without any lock, a volume only while nobody writes it.
pub fn for_reading(shared: &Arc<Shared>, name: &str) -> Result<Handle> {
    // Until the header is pinned.
    let _operation = shared.operations.begin();
    let (mut header, mut version) = catalog::find(shared, name)?;
    catalog::check_whole(&header)?;
    let mut lock = None;
    if header.kind == Kind::Volume {
        let _opening = shared.opening.lock();
        loop {
            if let Some(inner) = shared.opened(header.id) {
                return Ok(Handle::new(inner));
            }
            let closing = shared.holds(header.id);
            match shared.blocker.lock(header.id, LockMode::Shared, &[])? {
                LockOutcome::Held(guard) => {
                    lock = Some(guard);
                    break;
                }
                LockOutcome::Refused(_) if closing => crate::sync::sleep(CLOSING_PAUSE),
                LockOutcome::Refused(record) => {
                    return Err(catalog::elsewhere(shared, &header, &record, READER_ADVICE));
                }
            }
        }
        match catalog::read_header(shared, header.id)? {
            Some((h, v)) if h.name == name && !h.removed => (header, version) = (h, v),
            _ => return Err(Error::NotFound(name.to_string())),
        }
    }
    attach::check_none(&header)?;
    let pin = shared.pins.pin(&header);
    let Replayed { view, epoch, .. } = replay::load(&*shared.blocker, &shared.cache, &header)?;
    let inner = Inner::new(shared, HeaderState { header, version }, view, epoch, Access::Read { pin, lock })?;
    Ok(Handle::new(inner))
}
