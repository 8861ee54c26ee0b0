//! Content objects of files outside the store: by sharing their room, by linking them, and by copying where neither can be.

use std::io::{self, IoSliceMut};
use std::sync::atomic::Ordering;

use super::names::{self, Dir};
use super::{FileBlocker, fail};
use crate::blocker::sys::{Fd, Outside, cannot_share};
use crate::blocker::{Adopted, Object};
use crate::digest::Digest;
use crate::error::Result;

/// Bytes compared at once.
const COMPARED: usize = 256 << 10;
/// What a file outside is called in errors.
const OUTSIDE: &str = "the file that is taken in";

impl FileBlocker {
    pub(super) fn adopt_content(&self, digest: Digest, bytes: &[u8], file: Outside<'_>, link: bool) -> Result<Adopted> {
        if self.look_for_content(digest)?.is_some() {
            // Its maker may not have come to this.
            self.sync_object_dir(Dir::of(Object::Content(digest)))?;
            return Ok(Adopted::Present);
        }
        let from = file.fd;
        // Sharing before linking: what shares is nobody else's.
        if !self.shares_nothing.load(Ordering::Relaxed)
            && self.make_content(digest, &|fd| self.share_content(fd, from, bytes))?
        {
            return Ok(Adopted::Shared);
        }
        if link && let Some(adopted) = self.link_content(digest, bytes, from)? {
            return Ok(adopted);
        }
        self.write_content(digest, bytes).map(|()| Adopted::Copied)
    }

    /// Whether the new file shares the room of the other now, and holds exactly the bytes.
    fn share_content(&self, fd: Fd, from: Fd, bytes: &[u8]) -> Result<bool> {
        match self.sys.share(fd, from) {
            Err(e) if cannot_share(&e) => {
                // The others are of this one file outside.
                if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS)) {
                    self.shares_nothing.store(true, Ordering::Relaxed);
                }
                return Ok(false);
            }
            other => other.map_err(|e| fail("share the room of", OUTSIDE, e))?,
        }
        let cut = || -> io::Result<bool> {
            let (len, wanted) = (self.sys.len(fd)?, bytes.len() as u64);
            if len > wanted {
                self.sys.ftruncate(fd, wanted)?;
            }
            Ok(len >= wanted && self.holds(fd, bytes)?)
        };
        cut().map_err(|e| fail("read", OUTSIDE, e))
    }

    /// Gives the file a name as a content object; `None` if it cannot be one.
    fn link_content(&self, digest: Digest, bytes: &[u8], from: Fd) -> Result<Option<Adopted>> {
        let path = names::object_path(Object::Content(digest), 0);
        let fits = || -> io::Result<bool> {
            Ok(self.sys.len(from)? == bytes.len() as u64 && self.sys.may_link(from)? && self.holds(from, bytes)?)
        };
        if !fits().map_err(|e| fail("read", OUTSIDE, e))? {
            return Ok(None);
        }
        // Whoever wrote it may not have.
        self.sys.fdatasync(from).map_err(|e| fail("sync", OUTSIDE, e))?;
        let dir = Dir::of(Object::Content(digest));
        let adopted = match self.files.with_dir(dir, || self.sys.link_from(from, &path).map(|()| from)) {
            Ok(_) => Adopted::Linked,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Adopted::Present,
            // ENOENT, when the directory is there: the file has no name any more, or there is no /proc.
            Err(e) if cannot_share(&e) || e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail("link", path, e)),
        };
        self.sync_object_dir(dir).map(|()| Some(adopted))
    }

    /// Whether a file begins with these bytes.
    fn holds(&self, fd: Fd, bytes: &[u8]) -> io::Result<bool> {
        let mut buf = vec![0; COMPARED.min(bytes.len())];
        let mut at = 0;
        for expected in bytes.chunks(COMPARED) {
            let found = &mut buf[..expected.len()];
            let read = self.sys.preadv(fd, &mut [IoSliceMut::new(found)], at)?;
            if read < expected.len() || found != expected {
                return Ok(false);
            }
            at += expected.len() as u64;
        }
        Ok(true)
    }

    pub(super) fn likely_adoption(&self, file: Outside<'_>, link: bool) -> Result<Adopted> {
        let likely = || -> io::Result<Adopted> {
            Ok(if self.sys.can_share(file.fd)? {
                Adopted::Shared
            } else if link && self.sys.may_link(file.fd)? {
                Adopted::Linked
            } else {
                Adopted::Copied
            })
        };
        likely().map_err(|e| fail("look into", OUTSIDE, e))
    }
}
