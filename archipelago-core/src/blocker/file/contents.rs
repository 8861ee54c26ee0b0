//! Content objects as files: each is written and synced under another name first, so that its own name means the whole.

use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;

use super::locks::Handle;
use super::names::{self, Dir};
use super::{FileBlocker, fail};
use crate::blocker::Object;
use crate::blocker::sys::{Fd, Open};
use crate::digest::Digest;
use crate::error::{Error, Result, SYNC};
use crate::format::bytes::is_zero;

/// Names tried for an unfinished object before something must be wrong: each is another process's, or was left by one that died.
const ATTEMPTS: usize = 10_000;
/// Bytes of zeros, aligned, that become a hole: shorter ones are worth neither a call nor a piece of a file more.
const HOLE: usize = 64 << 10;

impl FileBlocker {
    pub(super) fn put_content(&self, digest: Digest, bytes: &[u8]) -> Result<bool> {
        let dir = Dir::of(Object::Content(digest));
        if self.look_for_content(digest)?.is_some() {
            // Its maker may not have come to this.
            self.sync_object_dir(dir)?;
            return Ok(false);
        }
        self.write_content(digest, bytes).map(|()| true)
    }

    /// Makes a content object of these bytes.
    pub(super) fn write_content(&self, digest: Digest, bytes: &[u8]) -> Result<()> {
        let path = names::object_path(Object::Content(digest), 0);
        self.reserve.admit(|| path.clone(), bytes.len() as u64, || self.room(), || Ok(true))?;
        let write = |fd| self.write_runs(fd, bytes).map(|()| true).map_err(|e| fail("write", &path, e));
        self.make_content(digest, &write).map(drop)
    }

    /// Makes a content object with what `fill` puts into its new file; nothing, if that answers `false`.
    pub(super) fn make_content(&self, digest: Digest, fill: &dyn Fn(Fd) -> Result<bool>) -> Result<bool> {
        let path = names::object_path(Object::Content(digest), 0);
        let (file, unfinished) = self.new_unfinished(digest)?;
        let made = fill(file.fd).and_then(|filled| {
            if filled {
                self.sys.fdatasync(file.fd).map_err(|e| fail(SYNC, &path, e))?;
                // Whoever was quicker made the same.
                self.sys.rename(&unfinished, &path).map_err(|e| fail("create", &path, e))?;
            }
            Ok(filled)
        });
        if !matches!(made, Ok(true)) {
            let _ = self.sys.unlink(&unfinished);
            return made;
        }
        self.sync_object_dir(Dir::of(Object::Content(digest))).map(|()| true)
    }

    /// Writes bytes into an empty file and leaves holes where they are zeros for long. The last of them is no zero.
    fn write_runs(&self, fd: Fd, bytes: &[u8]) -> io::Result<()> {
        let (mut start, mut at) = (0, 0);
        while at < bytes.len() {
            let end = (at + HOLE).min(bytes.len());
            if is_zero(&bytes[at..end]) {
                if start < at {
                    self.sys.pwritev(fd, &[IoSlice::new(&bytes[start..at])], start as u64)?;
                }
                start = end;
            }
            at = end;
        }
        if start < at { self.sys.pwritev(fd, &[IoSlice::new(&bytes[start..])], start as u64) } else { Ok(()) }
    }

    /// A new file in the directory of a content object.
    fn new_unfinished(&self, digest: Digest) -> Result<(Handle, String)> {
        for _ in 0..ATTEMPTS {
            let path = names::unfinished_path(digest.0[0], self.unfinished.fetch_add(1, Ordering::Relaxed));
            match self.files.create_file(Dir::Content(digest.0[0]), &path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                fd => {
                    return fd
                        .map(|fd| (Handle::new(&self.sys, fd), path.clone()))
                        .map_err(|e| fail("create", path, e));
                }
            }
        }
        Err(Error::TooBusy(format!("{}: too many unfinished files", Dir::Content(digest.0[0]).path())))
    }

    pub(super) fn look_for_content(&self, digest: Digest) -> Result<Option<u64>> {
        let path = names::object_path(Object::Content(digest), 0);
        match self.sys.open(&path, Open::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            fd => {
                let file = Handle::new(&self.sys, fd.map_err(|e| fail("open", &path, e))?);
                self.sys.len(file.fd).map(Some).map_err(|e| fail("look into", path, e))
            }
        }
    }

    pub(super) fn list_contents(&self, first: u8) -> Result<Vec<Digest>> {
        let files = self.list_or_nothing(&Dir::Content(first).path())?;
        let mut found: Vec<Digest> = files.iter().filter_map(|file| file.parse().ok()).collect();
        found.retain(|digest| digest.0[0] == first);
        found.sort_unstable();
        Ok(found)
    }

    pub(super) fn list_unfinished(&self, first: u8) -> Result<Vec<u64>> {
        let files = self.list_or_nothing(&Dir::Content(first).path())?;
        let mut found: Vec<u64> = files.iter().filter_map(|file| names::parse_unfinished(file)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Bytes that an unfinished object takes.
    pub(super) fn room_of_unfinished(&self, first: u8, number: u64) -> Result<u64> {
        let path = names::unfinished_path(first, number);
        match self.sys.open(&path, Open::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            fd => {
                let file = Handle::new(&self.sys, fd.map_err(|e| fail("open", &path, e))?);
                self.sys.allocated(file.fd).map_err(|e| fail("look into", &path, e))
            }
        }
    }

    pub(super) fn drop_unfinished(&self, first: u8, number: u64) -> Result<u64> {
        let path = names::unfinished_path(first, number);
        let taken = self.room_of_unfinished(first, number)?;
        match self.sys.unlink(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other.map_err(|e| fail("remove", path, e))?,
        }
        self.sync_content_dir(first).map(|()| taken)
    }

    pub(super) fn sync_content_dir(&self, first: u8) -> Result<()> {
        match self.sync_object_dir(Dir::Content(first)) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(super) fn list_tables(&self) -> Result<Vec<Object>> {
        let files = self.list_or_nothing(names::CONTENT)?;
        let mut found: Vec<Object> = files.iter().filter_map(|file| names::parse_table(file)).collect();
        found.sort_unstable();
        Ok(found)
    }

    pub(super) fn list_or_nothing(&self, dir: &str) -> Result<Vec<String>> {
        match self.sys.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            files => files.map_err(|e| fail("list", dir, e)),
        }
    }
}
