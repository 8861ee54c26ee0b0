//! Objects as files: byte ranges in, file ranges out.
//!
//! A data object is split into parts of 8 TiB, below the file size limit of ext4. A request that stays inside one part,
//! which is nearly every one, passes the caller's buffers on as they are.

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use smallvec::SmallVec;

use super::descriptors::{Access, OpenFile, SyncFailure};
use super::locks::Handle;
use super::{FileBlocker, fail, names};
use crate::blocker::sys::{Fd, Open};
use crate::blocker::{Inventory, Object, VolumeId};
use crate::error::{Error, Result, SYNC};
use crate::iov::{ReadCursor, part, total};
use crate::limits::{DATA_PART, RESERVED_SEGMENT};

/// Zeros written by one call: large enough for the disk, small enough to be shared by all.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// A piece of a request that lies in one part.
pub(super) struct Piece {
    pub(super) part: u32,
    /// Offset in the part.
    pub(super) offset: u64,
    /// Bytes of the request before this piece.
    before: u64,
    pub(super) len: u64,
}

/// An object that waits for the sync of its directory, with its files whose entries are new.
type Waiting = (Object, SmallVec<[Arc<OpenFile>; 1]>);

/// A request that stays inside one part, as nearly every one does.
pub(super) fn one_piece(object: Object, offset: u64, len: u64) -> Option<Piece> {
    let end = offset.checked_add(len)?;
    if !matches!(object, Object::Data(..)) {
        return Some(Piece { part: 0, offset, before: 0, len });
    }
    let part = offset / DATA_PART;
    let inside = len > 0 && (end - 1) / DATA_PART == part;
    let part = u32::try_from(part).ok()?;
    inside.then_some(Piece { part, offset: offset % DATA_PART, before: 0, len })
}

/// Cuts a request at the borders of parts.
fn pieces(object: Object, offset: u64, len: u64) -> Result<SmallVec<[Piece; 2]>> {
    let too_far = || Error::InvalidArgument(format!("{object}: {len} bytes at offset {offset} are out of reach"));
    let end = offset.checked_add(len).ok_or_else(too_far)?;
    if !matches!(object, Object::Data(..)) {
        return Ok(SmallVec::from_iter([Piece { part: 0, offset, before: 0, len }]));
    }
    let mut pieces = SmallVec::new();
    let mut at = offset;
    while at < end {
        let part = at / DATA_PART;
        let until = part.saturating_add(1).saturating_mul(DATA_PART).min(end);
        let part = u32::try_from(part).map_err(|_| too_far())?;
        pieces.push(Piece { part, offset: at % DATA_PART, before: at - offset, len: until - at });
        at = until;
    }
    Ok(pieces)
}

/// The error of a read that failed, or ended early. Never zeros instead: whoever reads was told by a map that something was written
/// here.
#[cold]
pub(super) fn failed_read(object: Object, piece: &Piece, ended: io::Result<usize>) -> Error {
    let path = names::object_path(object, piece.part);
    let read = match ended {
        Ok(read) => read as u64,
        Err(e) => return fail("read", path, e),
    };
    let end = piece.offset + read;
    let detail = format!("cut short: {} bytes wanted at offset {}, ends at {end}", piece.len, piece.offset);
    Error::damaged(path, detail)
}

fn write_zeros(offset: u64, len: u64, write: impl Fn(&[IoSlice<'_>], u64) -> io::Result<()>) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let step = (len - done).min(ZEROS.len() as u64);
        write(&[IoSlice::new(&ZEROS[..step as usize])], offset + done)?;
        done += step;
    }
    Ok(())
}

impl FileBlocker {
    /// With zeros behind the head that are `reserved` only, or written.
    pub(super) fn create_object(&self, object: Object, head: &[u8], len: u64, reserved: bool) -> Result<()> {
        let path = names::object_path(object, 0);
        if len > DATA_PART || head.len() as u64 > len {
            return Err(Error::InvalidArgument(format!(
                "{path}: cannot be created with {} of {len} bytes",
                head.len()
            )));
        }
        if matches!(object, Object::Log(..)) && len > RESERVED_SEGMENT {
            self.reserve.admit(|| path.clone(), len.max(1), || self.room(), || Ok(true))?;
        }
        let dir = names::Dir::of(object);
        let fd = match self.files.create_file(dir, &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists(path)),
            fd => fd.map_err(|e| fail("create", &path, e))?,
        };
        let made = self.fill(fd, head, len, reserved, &path).and_then(|()| self.sync_object_dir(dir));
        match made {
            Ok(()) => {
                self.files.adopt(object, 0, fd);
                self.settle(object);
            }
            // So that the caller may try again. If this fails too, it will see `Exists`, as after a crash.
            Err(_) => {
                self.sys.close(fd);
                let _ = self.sys.unlink(&path);
            }
        }
        made
    }

    /// Writes the head and zeros behind it, and syncs. Real zeros unless they are to be `reserved` only: the first write to an extent of
    /// reserved ones changes the file's metadata, so that its sync waits for a commit of the file system's journal each time.
    fn fill(&self, fd: Fd, head: &[u8], len: u64, reserved: bool, path: &str) -> Result<()> {
        if reserved && len > 0 {
            match self.sys.reserve(fd, len) {
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                done => {
                    done.map_err(|e| fail("reserve room for", path, e))?;
                    self.sys.pwritev(fd, &[IoSlice::new(head)], 0).map_err(|e| fail("write", path, e))?;
                    return self.sys.fdatasync(fd).map_err(|e| fail(SYNC, path, e));
                }
            }
        }
        let first = (len - head.len() as u64).min(ZEROS.len() as u64);
        if len > 0 {
            let start = [IoSlice::new(head), IoSlice::new(&ZEROS[..first as usize])];
            self.sys.pwritev(fd, &start, 0).map_err(|e| fail("write", path, e))?;
        }
        let written = head.len() as u64 + first;
        write_zeros(written, len - written, |bufs, at| self.sys.pwritev(fd, bufs, at))
            .map_err(|e| fail("write", path, e))?;
        self.sys.fdatasync(fd).map_err(|e| fail(SYNC, path, e))
    }

    #[inline(always)]
    pub(super) fn read_object(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let len = total(bufs);
        match one_piece(object, offset, len as u64) {
            Some(piece) => self.read_part(object, &piece, bufs),
            None => self.read_parts(object, bufs, offset, len as u64),
        }
    }

    fn read_parts(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64, len: u64) -> Result<()> {
        let mut cursor = ReadCursor::new(bufs);
        for piece in &pieces(object, offset, len)? {
            self.read_part(object, piece, &mut cursor.take(piece.len as usize))?;
        }
        Ok(())
    }

    #[inline(always)]
    fn read_part(&self, object: Object, piece: &Piece, bufs: &mut [IoSliceMut<'_>]) -> Result<()> {
        let file = match self.files.opened(object, piece.part, Access::Read) {
            Some(file) => file,
            None => self.open_to_read(object, piece.part)?,
        };
        match file.read(bufs, piece.offset) {
            Ok(read) if read as u64 == piece.len => Ok(()),
            ended => Err(failed_read(object, piece, ended)),
        }
    }

    /// Only of a file that is open; what fails is left to [`FileBlocker::read_object`] to explain.
    pub(super) fn read_object_at_once(&self, object: Object, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<bool> {
        let len = total(bufs) as u64;
        let Some(piece) = one_piece(object, offset, len) else { return Ok(false) };
        let Some(file) = self.files.opened(object, piece.part, Access::Read) else { return Ok(false) };
        let read = file.read_at_once(bufs, piece.offset);
        Ok(matches!(read, Ok(Some(read)) if read as u64 == len))
    }

    #[cold]
    fn open_to_read(&self, object: Object, part: u32) -> Result<Arc<OpenFile>> {
        let path = || names::object_path(object, part);
        let file = self.files.get(object, part, Access::Read).map_err(|e| fail("open", path(), e))?;
        file.ok_or_else(|| Error::damaged(path(), "cut short: the file is missing"))
    }

    pub(super) fn read_what_is_there(&self, object: Object, buf: &mut [u8], offset: u64) -> Result<usize> {
        let part = u32::try_from(offset / DATA_PART).unwrap_or(u32::MAX);
        let (part, offset) = if matches!(object, Object::Data(..)) { (part, offset % DATA_PART) } else { (0, offset) };
        let path = || names::object_path(object, part);
        let file = self.files.get(object, part, Access::Read).map_err(|e| fail("open", path(), e))?;
        match file {
            Some(file) => file.read(&mut [IoSliceMut::new(buf)], offset).map_err(|e| fail("read", path(), e)),
            None => Ok(0),
        }
    }

    /// A courtesy: where it fails, the next reading is one of the page cache.
    pub(super) fn forget_range(&self, object: Object, offset: u64, len: u64) {
        for piece in pieces(object, offset, len).unwrap_or_default() {
            if let Ok(Some(file)) = self.files.get(object, piece.part, Access::Read) {
                self.sys.forget(file.fd, piece.offset, piece.len);
            }
        }
    }

    #[inline(always)]
    pub(super) fn write_object(&self, object: Object, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let len = total(bufs);
        match one_piece(object, offset, len as u64) {
            Some(piece) => self.write_part(object, &piece, bufs),
            None => self.write_parts(object, bufs, offset, len as u64),
        }
    }

    fn write_parts(&self, object: Object, bufs: &[IoSlice<'_>], offset: u64, len: u64) -> Result<()> {
        for piece in &pieces(object, offset, len)? {
            self.write_part(object, piece, &part(bufs, piece.before as usize, piece.len as usize))?;
        }
        Ok(())
    }

    #[inline(always)]
    fn write_part(&self, object: Object, piece: &Piece, bufs: &[IoSlice<'_>]) -> Result<()> {
        let path = || names::object_path(object, piece.part);
        let get = |access| self.files.get(object, piece.part, access).map_err(|e| fail("open", path(), e));
        let sparse = matches!(object, Object::Data(..) | Object::Sum(..));
        let existing = match self.files.opened(object, piece.part, Access::Write) {
            None => get(Access::Write)?,
            opened => opened,
        };
        if sparse {
            let may_allocate = || match &existing {
                Some(file) => {
                    self.sys.may_allocate(file.fd, piece.offset, piece.len).map_err(|e| fail("look into", path(), e))
                }
                None => Ok(true),
            };
            self.reserve.admit(path, piece.len, || self.room(), may_allocate)?;
        }
        let file = match existing {
            Some(file) => file,
            None if sparse => get(Access::Create)?.ok_or_else(|| Error::damaged(path(), "was removed meanwhile"))?,
            None => return Err(Error::damaged(path(), "cut short: the file is missing")),
        };
        let written = file.write(bufs, piece.offset);
        file.mark_dirty();
        written.map_err(|e| fail("write", path(), e))
    }

    pub(super) fn punch_object(&self, object: Object, offset: u64, len: u64) -> Result<()> {
        for piece in pieces(object, offset, len)? {
            let path = || names::object_path(object, piece.part);
            let file = self.files.get(object, piece.part, Access::Write).map_err(|e| fail("open", path(), e))?;
            let Some(file) = file else { continue };
            let end = self.sys.len(file.fd).map_err(|e| fail("look into", path(), e))?;
            let len = piece.len.min(end.saturating_sub(piece.offset));
            if len == 0 {
                continue;
            }
            let punched = match self.sys.punch(file.fd, piece.offset, len) {
                // Zeros are what the caller needs; the room is a courtesy.
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    write_zeros(piece.offset, len, |bufs, at| file.write(bufs, at))
                }
                other => other,
            };
            file.mark_dirty();
            punched.map_err(|e| fail("punch", path(), e))?;
        }
        Ok(())
    }

    pub(super) fn sync_objects(&self, objects: &[Object]) -> Result<()> {
        let mut waiting: SmallVec<[Waiting; 4]> = SmallVec::new();
        for &object in objects {
            if self.files.has_failed(object) {
                return Err(Error::Poisoned(object.to_string()));
            }
            let settled = self.files.is_settled(object);
            let mut found = false;
            let mut new = SmallVec::new();
            let mut sync = |file: Arc<OpenFile>| {
                found = true;
                let done = file.sync(!settled).map_err(|failure| self.sync_failed(object, failure));
                if file.is_new_entry() {
                    new.push(file);
                }
                done
            };
            if settled {
                self.files.parts(object).into_iter().try_for_each(&mut sync)?;
            } else {
                // A former process may have written, and died before it synced. What it wrote is read as if it were
                // safe, so it has to become so.
                for part in self.parts_on_disk(object)? {
                    let file = self.files.get(object, part, Access::Read);
                    if let Some(file) = file.map_err(|e| fail("open", names::object_path(object, part), e))? {
                        sync(file)?;
                    }
                }
            }
            if !new.is_empty() || (found && !settled) {
                waiting.push((object, new));
            } else if !settled {
                self.settle(object);
            }
        }
        let dirs: BTreeSet<names::Dir> = waiting.iter().map(|(object, _)| names::Dir::of(*object)).collect();
        for dir in dirs {
            let here = || waiting.iter().filter(|(object, _)| names::Dir::of(*object) == dir);
            if let Err(e) = self.sync_object_dir(dir) {
                here().for_each(|(object, _)| self.files.fail(*object));
                return Err(e);
            }
            for (object, new) in here() {
                new.iter().for_each(|file| file.entry_is_durable());
                self.settle(*object);
            }
        }
        Ok(())
    }

    /// Nothing of a former process waits any more. Of objects that no volume's lock guards that can never be said: another
    /// process may write to them at any time, and die.
    fn settle(&self, object: Object) {
        if matches!(object, Object::Log(..) | Object::Pack(..) | Object::Data(..)) {
            self.files.settle(object);
        }
    }

    fn sync_failed(&self, object: Object, failure: SyncFailure) -> Error {
        self.files.fail(object);
        match failure {
            SyncFailure::Now(e) => fail(SYNC, object.to_string(), e),
            SyncFailure::Before => Error::Poisoned(object.to_string()),
        }
    }

    pub(super) fn object_len(&self, object: Object) -> Result<Option<u64>> {
        let mut parts = self.parts_on_disk(object)?;
        while let Some(part) = parts.pop() {
            let path = || names::object_path(object, part);
            if let Some(file) = self.files.get(object, part, Access::Read).map_err(|e| fail("open", path(), e))? {
                let len = self.sys.len(file.fd).map_err(|e| fail("look into", path(), e))?;
                return Ok(Some(u64::from(part) * DATA_PART + len));
            }
        }
        Ok(None)
    }

    pub(super) fn allocated_object(&self, object: Object) -> Result<u64> {
        let mut sum = 0;
        for part in self.parts_on_disk(object)? {
            // Not through the cache: a collector looks at every object once.
            let path = names::object_path(object, part);
            let file = match self.sys.open(&path, Open::Read) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                fd => Handle::new(&self.sys, fd.map_err(|e| fail("open", &path, e))?),
            };
            sum += self.sys.allocated(file.fd).map_err(|e| fail("look into", path, e))?;
        }
        Ok(sum)
    }

    pub(super) fn list_part(&self, part: u8) -> Result<Inventory> {
        let dir = names::Dir::Data(part).path();
        let files = match self.sys.list(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Inventory::default()),
            files => files.map_err(|e| fail("list", dir, e))?,
        };
        let (mut objects, mut locks) = (BTreeSet::new(), BTreeSet::new());
        for file in &files {
            if let Some((object, _)) = names::parse_object(file) {
                objects.insert(object);
            } else if let Some(volume) = names::parse_lock(file) {
                locks.insert(volume);
            }
        }
        // What lies in another's directory is nobody's.
        objects.retain(|object| object.volume().0 as u8 == part);
        locks.retain(|volume| volume.0 as u8 == part);
        Ok(Inventory { objects: objects.into_iter().collect(), locks: locks.into_iter().collect() })
    }

    pub(super) fn remove_object(&self, object: Object) -> Result<()> {
        let removed = self.files.remove(object, || -> Result<bool> {
            let mut any = false;
            for part in self.parts_on_disk(object)? {
                let path = names::object_path(object, part);
                match self.sys.unlink(&path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => {
                        other.map_err(|e| fail("remove", path, e))?;
                        any = true;
                    }
                }
            }
            Ok(any)
        })?;
        if !removed {
            return Ok(());
        }
        let dir = names::Dir::of(object);
        match self.sync_object_dir(dir) {
            // A collector took the directory away, which was empty: then that has to be durable.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => self.sync_parents(dir),
            other => other,
        }
    }

    pub(super) fn list_objects(&self, volume: VolumeId) -> Result<Vec<Object>> {
        let found: BTreeSet<Object> = self.data_files(volume)?.into_iter().map(|(object, _)| object).collect();
        Ok(found.into_iter().collect())
    }

    /// Parts of an object that may exist, in order: for all but data always its only one.
    fn parts_on_disk(&self, object: Object) -> Result<Vec<u32>> {
        let Object::Data(volume, _) = object else { return Ok(vec![0]) };
        let files = self.data_files(volume)?;
        let mut parts: Vec<u32> =
            files.into_iter().filter(|(found, _)| *found == object).map(|(_, part)| part).collect();
        parts.sort_unstable();
        Ok(parts)
    }

    /// All parts of all objects of a volume.
    fn data_files(&self, volume: VolumeId) -> Result<Vec<(Object, u32)>> {
        let dir = names::Dir::of_volume(volume).path();
        let files = match self.sys.list(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.map_err(|e| fail("list", dir, e))?,
        };
        let mut found: Vec<_> = files.iter().filter_map(|file| names::parse_object(file)).collect();
        found.retain(|(object, _)| object.volume() == volume);
        Ok(found)
    }

    /// Makes the entries of one directory of objects durable, and its own entry, unless this very directory is known to be.
    pub(super) fn sync_object_dir(&self, dir: names::Dir) -> Result<()> {
        let path = dir.path();
        self.sys.sync_dir(&path).map_err(|e| fail(SYNC, &path, e))?;
        let id = self.sys.dir_id(&path).map_err(|e| fail("look into", path, e))?;
        if !self.dirs.is_durable(dir, id) {
            self.sync_parents(dir)?;
            self.dirs.set_durable(dir, id);
        }
        Ok(())
    }

    fn sync_parents(&self, dir: names::Dir) -> Result<()> {
        dir.parents().iter().try_for_each(|parent| self.sys.sync_dir(parent).map_err(|e| fail(SYNC, *parent, e)))
    }

    /// Removes the directories of objects in which nothing is. Not synced: nobody is harmed if a power cut brings one back. Whoever
    /// makes something in one at this moment makes it again.
    pub(super) fn remove_empty_dirs(&self) -> Result<()> {
        for (parent, of) in
            [(names::DATA, names::Dir::Data as fn(u8) -> names::Dir), (names::CONTENT, names::Dir::Content)]
        {
            for part in self.list_or_nothing(parent)?.iter().filter_map(|name| names::parse_part(name)) {
                let path = of(part).path();
                match self.sys.rmdir(&path) {
                    Err(e) if !may_stay(&e) => return Err(fail("remove", path, e)),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Whether this is why an empty directory may be left where it is.
fn may_stay(e: &io::Error) -> bool {
    let code = e.raw_os_error();
    matches!(code, Some(libc::ENOENT | libc::ENOTEMPTY | libc::EEXIST | libc::EBUSY | libc::EPERM | libc::EACCES))
}
