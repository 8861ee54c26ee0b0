//! The RADOS backend: a store in a namespace of a pool of a Ceph cluster (docs/format.md, "On RADOS").
//!
//! | File | Its job |
//! |---|---|
//! | `librados` | the C library, loaded when it is needed; all unsafe code |
//! | `place` | where a store is: pool, namespace, user, time limits |
//! | `layout` | names of objects and keys, and what they stand for; records as bytes |
//! | `objects` | reads and writes, cut into pieces; lists of what there is |
//! | `flights` | reads and overwrites of one thread that are under way together |
//! | `records` | headers, the superblock, and the names that lead to them |
//! | `locks` | one writer per volume, and fencing one that died |
//! | `processes` | this process among those that use the store, and calling the others |
//!
//! What the cluster acknowledged is on all replicas: a write is durable when it returns, so a sync has nothing to do, and what this
//! backend answers to [`Blocker::boot`] never changes.

use std::fmt::Display;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use super::flights::Flights;
use super::{Blocker, Boot, Inventory, LockMode, LockOutcome, Object, Record, RecordKey, Space, VolumeId, check_owner};
use crate::digest::Digest;
use crate::error::{Error, Result};
use librados::{Errno, Outcome, Pool, Unconnected};

mod flights;
pub(crate) mod layout;
mod librados;
mod locks;
mod objects;
mod place;
mod processes;
mod records;

pub use place::RadosPlace;

/// Room that is reported where no manager of the cluster counts it: 1 PiB.
const UNKNOWN_ROOM: u64 = 1 << 50;
/// What [`Blocker::boot`] answers: a machine that stops loses nothing that was acknowledged.
const BOOT: Boot = *b"rados is durable";

/// A store in a pool of a Ceph cluster.
pub struct RadosBlocker(Arc<Core>);

/// What a blocker and the guards of its locks share.
pub(crate) struct Core {
    pool: Arc<Pool>,
    place: RadosPlace,
    announced: objects::Announced,
    process: processes::Process,
    held: locks::Held,
}

impl RadosBlocker {
    /// Connects to a cluster. Whether there is a store in the pool, its superblock tells.
    ///
    /// Without librados this is [`Error::Unsupported`]; a pool that does not exist is [`Error::NoStore`]; a cluster that does not answer is
    /// [`Error::Timeout`].
    pub fn open(place: &RadosPlace) -> Result<RadosBlocker> {
        let pool = Pool::connect(
            &format!("client.{}", place.user),
            &place.conf,
            &place.options(),
            &place.pool,
            &place.namespace,
        );
        let pool = pool.map_err(|why| unconnected(place, why))?;
        Ok(RadosBlocker(Core::new(pool, place.clone())?))
    }

    /// As another process would have the same store, but over the same connection: with locks and a memory of its own. For tests.
    #[doc(hidden)]
    pub fn beside(&self) -> Result<RadosBlocker> {
        Ok(RadosBlocker(Core::new(self.0.pool.clone(), self.0.place.clone())?))
    }

    /// The same with another namespace, over a connection of its own. For tests.
    #[doc(hidden)]
    pub fn elsewhere(&self, namespace: &str) -> Result<RadosBlocker> {
        RadosBlocker::open(&RadosPlace { namespace: namespace.to_string(), ..self.0.place.clone() })
    }

    /// Where it is.
    pub fn place(&self) -> &RadosPlace {
        &self.0.place
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0
    }
}

/// Why a store cannot be reached, and what can be done.
fn unconnected(place: &RadosPlace, why: Unconnected) -> Error {
    match why {
        Unconnected::Library(detail) => Error::Unsupported(format!(
            "{place}: needs librados, which cannot be loaded ({detail}); install the package librados2"
        )),
        Unconnected::Step("open", Errno(libc::ENOENT)) => {
            Error::NoStore(format!("{place}: there is no pool {}", place.pool))
        }
        Unconnected::Step("read the configuration for", Errno(libc::ENOENT)) => Error::InvalidArgument(format!(
            "{place}: there is no {}; name the cluster's configuration with ?conf=/PATH",
            place.conf
        )),
        Unconnected::Step(_, Errno(libc::ETIMEDOUT)) => Error::Timeout(format!("{place}: the monitors of the cluster")),
        Unconnected::Step(step, Errno(code)) => {
            Error::io(step, place.to_string(), std::io::Error::from_raw_os_error(code))
        }
    }
}

impl Core {
    fn new(pool: Arc<Pool>, place: RadosPlace) -> Result<Arc<Core>> {
        let process = processes::Process::new(&pool)?;
        let core = Core { pool, place, announced: Default::default(), process, held: Default::default() };
        Ok(Arc::new(core))
    }

    /// What a call on the cluster failed with.
    fn failed(&self, what: &'static str, object: impl Display, errno: Errno) -> Error {
        let object = format!("{}: {object}", self.place.short());
        match errno.0 {
            libc::ETIMEDOUT => Error::Timeout(format!("{object}: the cluster was asked to {what} it and")),
            // The cluster refuses everything that this client does: somebody took over what it had.
            libc::ESHUTDOWN => Error::Stale(object),
            code => Error::io(what, object, std::io::Error::from_raw_os_error(code)),
        }
    }

    fn done(&self, what: &'static str, object: impl Display, outcome: Outcome<()>) -> Result<()> {
        self.done_with(what, object, outcome)
    }

    /// Bytes whose list has anything in it.
    fn filled(&self, list: fn(u8) -> String) -> Result<Vec<u8>> {
        let lists: Vec<String> = (0..=u8::MAX).map(list).collect();
        let pages = self.done_with("look into", "the lists", self.pool.pages(&lists, "", "", 1))?;
        Ok((0..=u8::MAX).zip(pages).filter(|(_, (keys, _))| !keys.is_empty()).map(|(byte, _)| byte).collect())
    }

    fn done_with<T>(&self, what: &'static str, object: impl Display, outcome: Outcome<T>) -> Result<T> {
        outcome.map_err(|errno| self.failed(what, object, errno))
    }
}

impl Blocker for RadosBlocker {
    fn create(&self, object: Object, head: &[u8], len: u64) -> Result<()> {
        self.0.create_object(object, head, len)
    }

    fn read(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        self.0.read_object(object, bufs, offset)
    }

    fn read_at_once(&self, _: Object, _: &mut [IoSliceMut<'_>], _: u64) -> Result<bool> {
        // The network has to be waited for.
        Ok(false)
    }

    fn waits_for_disk(&self, object: Object) -> bool {
        // For the network rather. Other objects are read seldom.
        matches!(object, Object::Data(..) | Object::Log(..))
    }

    fn flights(&self, requests: usize) -> Result<Option<Box<dyn Flights>>> {
        self.0.open_flights(requests).map(Some)
    }

    fn read_some(&self, object: Object, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_what_is_there(object, buf, offset)
    }

    fn write(&self, object: Object, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.0.write_object(object, bufs, offset)
    }

    fn punch(&self, object: Object, offset: u64, len: u64) -> Result<()> {
        self.0.punch_object(object, offset, len)
    }

    fn is_durable_at_once(&self) -> bool {
        true
    }

    fn sync(&self, _: &[Object]) -> Result<()> {
        Ok(())
    }

    fn len(&self, object: Object) -> Result<Option<u64>> {
        self.0.object_len(object)
    }

    fn remove(&self, object: Object) -> Result<()> {
        self.0.remove_object(object)
    }

    fn objects(&self, volume: VolumeId) -> Result<Vec<Object>> {
        let list = layout::part(volume.0 as u8);
        let keys = self.0.done_with("list", &list, self.0.pool.entries_of(&list, &format!("{volume}/")))?;
        let listed = keys.iter().filter_map(|(key, _)| layout::parse_listed(key)).collect();
        let mut objects = self.0.existing(listed)?;
        objects.sort_unstable();
        Ok(objects)
    }

    fn inventory(&self, part: u8) -> Result<Inventory> {
        let list = layout::part(part);
        let keys = self.0.done_with("list", &list, self.0.pool.entries_of(&list, ""))?;
        let mut objects: Vec<Object> = keys.iter().filter_map(|(key, _)| layout::parse_listed(key)).collect();
        objects.sort_unstable();
        Ok(Inventory { objects, locks: Vec::new() })
    }

    fn allocated(&self, object: Object) -> Result<u64> {
        self.0.allocated_object(object)
    }

    fn parts(&self) -> Result<Vec<u8>> {
        self.0.filled(layout::part)
    }

    fn content_parts(&self) -> Result<Vec<u8>> {
        self.0.filled(layout::contents)
    }

    fn hole(&self, object: Object) -> u64 {
        // Ceph tells how long its objects are, and not what of them is there.
        if layout::is_whole(object) { u64::MAX } else { layout::PIECE }
    }

    fn put(&self, digest: Digest, bytes: &[u8]) -> Result<bool> {
        self.0.put_object(Object::Content(digest), bytes)
    }

    fn content_len(&self, digest: Digest) -> Result<Option<u64>> {
        self.0.object_len(Object::Content(digest))
    }

    fn contents(&self, first: u8) -> Result<Vec<Digest>> {
        let list = layout::contents(first);
        let keys = self.0.done_with("list", &list, self.0.pool.entries_of(&list, ""))?;
        let mut digests: Vec<Digest> = keys.iter().filter_map(|(key, _)| layout::parse_content(key)).collect();
        digests.sort_unstable();
        Ok(digests)
    }

    fn sync_contents(&self, _: u8) -> Result<()> {
        Ok(())
    }

    fn content_tables(&self) -> Result<Vec<Object>> {
        let keys = self.0.done_with("list", layout::TABLES, self.0.pool.entries_of(layout::TABLES, ""))?;
        let listed = keys.iter().filter_map(|(key, _)| layout::parse(key)).collect();
        let mut objects = self.0.existing(listed)?;
        objects.sort_unstable();
        Ok(objects)
    }

    fn create_record(&self, key: RecordKey, bytes: &[u8]) -> Result<()> {
        self.0.new_record(key, bytes)
    }

    fn create_named(&self, batch: &[(VolumeId, String, Vec<u8>)]) -> Result<()> {
        self.0.new_named(batch)
    }

    fn read_record(&self, key: RecordKey) -> Result<Record> {
        self.0.get_record(key)
    }

    fn commit_record(&self, key: RecordKey, expected: u64, bytes: &[u8]) -> Result<u64> {
        self.0.replace_record(key, expected, bytes)
    }

    fn settle_record(&self, key: RecordKey, version: u64) -> Result<()> {
        self.0.look_at_version(key, version)
    }

    fn trash_header(&self, volume: VolumeId) -> Result<()> {
        self.0.move_to_trash(volume)
    }

    fn remove_record(&self, key: RecordKey) -> Result<()> {
        self.0.drop_record(key)
    }

    fn headers(&self) -> Result<Vec<VolumeId>> {
        self.0.list_records(layout::HEADERS)
    }

    fn trashed(&self) -> Result<Vec<VolumeId>> {
        self.0.list_records(layout::TRASHED)
    }

    fn bind_name(&self, name: &str, volume: VolumeId) -> Result<()> {
        self.0.link_name(name, volume)
    }

    fn unbind_name(&self, name: &str) -> Result<()> {
        self.0.unlink_name(name)
    }

    fn lookup(&self, name: &str) -> Result<Option<VolumeId>> {
        self.0.find_name(name)
    }

    fn names(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        self.0.list_names(prefix, after, limit)
    }

    fn lock(&self, volume: VolumeId, mode: LockMode, owner: &[u8]) -> Result<LockOutcome> {
        check_owner(owner)?;
        self.0.lock_volume(volume, mode, owner)
    }

    fn lock_holder(&self, volume: VolumeId) -> Result<Option<Vec<u8>>> {
        self.0.holder(volume)
    }

    fn boot(&self) -> Boot {
        BOOT
    }

    fn space(&self) -> Result<Space> {
        match self.0.done_with("ask for the room of", "the cluster", self.0.pool.room())? {
            (0, _) => Ok(Space { total: UNKNOWN_ROOM, free: UNKNOWN_ROOM }),
            (total, free) => Ok(Space { total, free: free.min(total) }),
        }
    }
}
