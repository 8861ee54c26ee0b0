//! The file backend: a store as a directory on a local or shared file system (format.md, "Store layout").
//!
//! | File | Its job |
//! |---|---|
//! | `names` | paths, and what a path stands for |
//! | `contents` | content objects, which get their name when they are whole |
//! | `adopt` | content objects of files outside, without copying where that can be |
//! | `objects` | reads, writes and syncs of logs, packs and data |
//! | `direct` | reads and writes past the page cache |
//! | `flights` | such reads and writes that are under way together |
//! | `descriptors` | the cache of open files and what is known of their durability |
//! | `reserve` | the room that data writes leave |
//! | `records` | headers, the superblock, and the names that lead to them |
//! | `locks` | one writer per volume |
//! | `mend` | what `check` looks into and puts right |
//!
//! All system calls go through [`Sys`], so that the whole backend runs over a simulated disk.

use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::flights::Flights;
use super::real_sys::{LEAVE, RealSys};
use super::sys::{Open, Outside, Sys};
use super::{
    Adopted, Blocker, Boot, Inventory, LockMode, LockOutcome, Mend, Object, Record, RecordKey, Space, VolumeId,
};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::{MAX_DIRECT_UNIT, MAX_OPEN_FILES};

mod adopt;
mod contents;
mod descriptors;
mod direct;
mod flights;
mod locks;
mod mend;
mod names;
mod objects;
mod records;
mod reserve;

/// How the file backend is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Permission bits of new files, whatever the umask; `u32::MAX` leaves them to the system. Directories get an
    /// execute bit beside each read bit. Used by [`FileBlocker::open`] and [`FileBlocker::init`] only.
    pub mode: u32,
    /// Group of new files and directories; `u32::MAX` leaves it to the system. Used as `mode` is.
    pub group: u32,
    /// Idle files kept open. Files with unsynced writes are kept open beyond it.
    pub max_open_files: usize,
    /// Data objects are read and written past the page cache (`O_DIRECT`), each file that can be. See [`FileBlocker::bypasses`].
    pub direct: bool,
}

impl Default for FileOptions {
    fn default() -> FileOptions {
        FileOptions { mode: LEAVE, group: LEAVE, max_open_files: MAX_OPEN_FILES, direct: false }
    }
}

/// A store in a directory.
///
/// After a failed sync of an object every later one of the same object fails with [`Error::Poisoned`], for as long as
/// this value lives: what the kernel holds in memory may not be what the disk holds.
pub struct FileBlocker {
    sys: Arc<dyn Sys>,
    files: Arc<descriptors::Descriptors>,
    reserve: Arc<reserve::Reserve>,
    known: records::Known,
    dirs: DurableDirs,
    /// Numbers the content objects that are being written.
    unfinished: AtomicU64,
    /// The file system said that its files cannot share their room, so it is not asked again.
    shares_nothing: AtomicBool,
}

impl FileBlocker {
    /// A backend over any system calls. Makes nothing; see [`FileBlocker::make_layout`].
    pub fn new(sys: Arc<dyn Sys>, options: FileOptions) -> FileBlocker {
        FileBlocker {
            files: Arc::new(descriptors::Descriptors::new(sys.clone(), options.max_open_files, options.direct)),
            sys,
            reserve: Arc::default(),
            known: records::Known::default(),
            dirs: DurableDirs::default(),
            unfinished: AtomicU64::new(0),
            shares_nothing: AtomicBool::new(false),
        }
    }

    /// A backend over the directory of an existing store. Whether there is a store in it, its superblock tells. A
    /// missing directory is [`Error::NoStore`].
    pub fn open(path: &Path, options: FileOptions) -> Result<FileBlocker> {
        match RealSys::open(path, options.mode, options.group) {
            Ok(sys) => Ok(FileBlocker::new(Arc::new(sys), options)),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                Err(Error::NoStore(path.display().to_string()))
            }
            Err(e) => Err(Error::io("open", path.display().to_string(), e)),
        }
    }

    /// As [`FileBlocker::open`], after making the directory, its missing parents and its layout, durably.
    pub fn init(path: &Path, options: FileOptions) -> Result<FileBlocker> {
        let sys = RealSys::create(path, options.mode, options.group)
            .map_err(|e| Error::io("create", path.display().to_string(), e))?;
        let blocker = FileBlocker::new(Arc::new(sys), options);
        blocker.make_layout()?;
        Ok(blocker)
    }

    /// Makes the store's directories, durably; those that are there stay as they are. The 256 directories below `data`
    /// are made when something first goes into them: all of them ahead took 15 to 300 ms on ext4.
    pub fn make_layout(&self) -> Result<()> {
        // The last is that of the store's own locks: a collection needs one, also where there is no room for a directory.
        let locks = names::Dir::of_volume(VolumeId(0)).path();
        for dir in [names::CATALOG, names::TRASH, names::DATA, names::PROCS, &locks] {
            match self.sys.mkdir(dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(fail("create", dir, e)),
                _ => {}
            }
        }
        self.sys.sync_dir(names::ROOT).map_err(|e| fail("sync", names::ROOT, e))
    }

    /// Whether requests can go past the page cache here, by the file system's word and a read of the superblock's file, which has to be there.
    pub fn bypasses(&self) -> Result<bool> {
        let path = names::record_path(RecordKey::Store);
        let fd = self.sys.open(&path, Open::Read).map_err(|e| fail("open", &path, e))?;
        let file = locks::Handle::new(&self.sys, fd);
        let Some(units) = self.sys.bypass(file.fd).map_err(|e| fail("look into", &path, e))? else {
            return Ok(false);
        };
        let direct = direct::Direct::new(units, Arc::default());
        let mut unit = [0; MAX_DIRECT_UNIT];
        let read = direct.read(&*self.sys, file.fd, &mut [IoSliceMut::new(&mut unit[..units.file])], 0);
        match read {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            read => read.map(|_| true).map_err(|e| fail("read", path, e)),
        }
    }

    fn room(&self) -> Result<Space> {
        self.sys.space().map_err(|e| fail("look into", names::ROOT, e))
    }
}

impl Blocker for FileBlocker {
    fn create(&self, object: Object, head: &[u8], len: u64) -> Result<()> {
        self.create_object(object, head, len, false)
    }

    fn create_reserved(&self, object: Object, head: &[u8], len: u64) -> Result<()> {
        self.create_object(object, head, len, true)
    }

    fn read(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        self.read_object(object, bufs, offset)
    }

    fn read_at_once(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<bool> {
        self.read_object_at_once(object, bufs, offset)
    }

    fn waits_for_disk(&self, object: Object) -> bool {
        self.files.is_direct(object)
    }

    fn flights(&self, requests: usize) -> Result<Option<Box<dyn Flights>>> {
        self.open_flights(requests)
    }

    fn read_some(&self, object: Object, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read_what_is_there(object, buf, offset)
    }

    fn write(&self, object: Object, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.write_object(object, bufs, offset)
    }

    fn forget(&self, object: Object, offset: u64, len: u64) {
        self.forget_range(object, offset, len);
    }

    fn punch(&self, object: Object, offset: u64, len: u64) -> Result<()> {
        self.punch_object(object, offset, len)
    }

    fn sync(&self, objects: &[Object]) -> Result<()> {
        self.sync_objects(objects)
    }

    fn len(&self, object: Object) -> Result<Option<u64>> {
        self.object_len(object)
    }

    fn remove(&self, object: Object) -> Result<()> {
        self.remove_object(object)
    }

    fn objects(&self, volume: VolumeId) -> Result<Vec<Object>> {
        self.list_objects(volume)
    }

    fn put(&self, digest: Digest, bytes: &[u8]) -> Result<bool> {
        self.put_content(digest, bytes)
    }

    fn adopt(&self, digest: Digest, bytes: &[u8], file: Outside<'_>, link: bool) -> Result<Adopted> {
        self.adopt_content(digest, bytes, file, link)
    }

    fn adoption(&self, file: Outside<'_>, link: bool) -> Result<Adopted> {
        self.likely_adoption(file, link)
    }

    fn content_len(&self, digest: Digest) -> Result<Option<u64>> {
        self.look_for_content(digest)
    }

    fn contents(&self, first: u8) -> Result<Vec<Digest>> {
        self.list_contents(first)
    }

    fn sync_contents(&self, first: u8) -> Result<()> {
        self.sync_content_dir(first)
    }

    fn content_tables(&self) -> Result<Vec<Object>> {
        self.list_tables()
    }

    fn unfinished_contents(&self, first: u8) -> Result<Vec<u64>> {
        self.list_unfinished(first)
    }

    fn unfinished_room(&self, first: u8, number: u64) -> Result<u64> {
        self.room_of_unfinished(first, number)
    }

    fn remove_unfinished(&self, first: u8, number: u64) -> Result<u64> {
        self.drop_unfinished(first, number)
    }

    fn inventory(&self, part: u8) -> Result<Inventory> {
        self.list_part(part)
    }

    fn allocated(&self, object: Object) -> Result<u64> {
        self.allocated_object(object)
    }

    fn tidy(&self) -> Result<()> {
        self.remove_empty_dirs()
    }

    fn close_idle(&self) {
        self.files.close_idle();
    }

    fn create_record(&self, key: RecordKey, bytes: &[u8]) -> Result<()> {
        self.new_record(key, bytes)
    }

    fn create_named(&self, batch: &[(VolumeId, String, Vec<u8>)]) -> Result<()> {
        self.new_named(batch)
    }

    fn read_record(&self, key: RecordKey) -> Result<Record> {
        self.get_record(key)
    }

    fn commit_record(&self, key: RecordKey, expected: u64, bytes: &[u8]) -> Result<u64> {
        self.replace_record(key, expected, bytes)
    }

    fn settle_record(&self, key: RecordKey, version: u64) -> Result<()> {
        self.make_durable(key, version)
    }

    fn trash_header(&self, volume: VolumeId) -> Result<()> {
        self.move_to_trash(volume)
    }

    fn remove_record(&self, key: RecordKey) -> Result<()> {
        self.drop_record(key)
    }

    fn headers(&self) -> Result<Vec<VolumeId>> {
        self.list_headers(names::CATALOG)
    }

    fn trashed(&self) -> Result<Vec<VolumeId>> {
        self.list_headers(names::TRASH)
    }

    fn bind_name(&self, name: &str, volume: VolumeId) -> Result<()> {
        self.link_name(name, volume)
    }

    fn unbind_name(&self, name: &str) -> Result<()> {
        self.unlink_name(name)
    }

    fn lookup(&self, name: &str) -> Result<Option<VolumeId>> {
        self.find_name(name)
    }

    fn names(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        self.list_names(prefix, after, limit)
    }

    fn lock(&self, volume: VolumeId, mode: LockMode, owner: &[u8]) -> Result<LockOutcome> {
        self.lock_volume(volume, mode, owner)
    }

    fn lock_holder(&self, volume: VolumeId) -> Result<Option<Vec<u8>>> {
        self.holder(volume)
    }

    fn boot(&self) -> Boot {
        self.sys.boot()
    }

    fn space(&self) -> Result<Space> {
        self.room()
    }

    fn mend(&self) -> Option<&dyn Mend> {
        Some(self)
    }
}

/// Which directories of objects are known to be durable themselves: what tells each from others that are made in its place
/// after a collector, perhaps in another process, took it away. 0 is none.
struct DurableDirs([AtomicU64; names::Dir::COUNT]);

impl Default for DurableDirs {
    fn default() -> DurableDirs {
        DurableDirs([const { AtomicU64::new(0) }; names::Dir::COUNT])
    }
}

impl DurableDirs {
    fn is_durable(&self, dir: names::Dir, id: Option<u64>) -> bool {
        id.is_some_and(|id| id != 0 && self.0[dir.number()].load(Ordering::Acquire) == id)
    }

    fn set_durable(&self, dir: names::Dir, id: Option<u64>) {
        self.0[dir.number()].store(id.unwrap_or(0), Ordering::Release);
    }
}

/// The error for a failed system call on a path of the store.
fn fail(op: &'static str, path: impl Into<String>, e: io::Error) -> Error {
    match e.raw_os_error() {
        // What `Sys` reports for a symbolic link, which the store never makes, and where a directory should be.
        Some(libc::ELOOP | libc::ENOTDIR) => Error::damaged(path, "is a symbolic link, or is not a directory"),
        _ => Error::io(op, path, e),
    }
}

/// What a file of this name stands for, in whichever directory, as the paths that the store would give it: none, or one, or two where
/// a lock and its owner differ.
#[cfg(feature = "fuzzing")]
pub(crate) fn stands_for(file: &str) -> Vec<String> {
    let object = names::parse_object(file).map(|(object, part)| names::object_path(object, part));
    let table = names::parse_table(file).map(|object| names::object_path(object, 0));
    let content = file.parse().ok().map(|digest| names::object_path(Object::Content(digest), 0));
    let header = names::parse_header(file).map(|id| names::record_path(RecordKey::Header(id)));
    let locks = names::parse_lock(file).map(|id| [names::lock_path(id), names::owner_path(id)]);
    [object, table, content, header].into_iter().flatten().chain(locks.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests;
