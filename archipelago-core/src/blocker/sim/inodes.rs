//! [`Inodes`]: a simulated disk by numbers of inodes, as a file system driver sees it.
//!
//! [`SimDisk`](super::SimDisk) answers the system calls of one process; this is the same disk for a test that mounts it, so that
//! whole programs run on what forgets. What a cut takes is decided in one place for both (`files`, `content`).

use std::io;

use super::disk::MAX_FILE;
use super::files::{Files, Node, Op, ROOT};
use super::{Change, Content, State, Syncs};

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InodeKind {
    /// Bytes.
    File,
    /// Names.
    Directory,
    /// A symbolic link.
    Link,
}

/// What is known of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InodeStat {
    /// What it is.
    pub kind: InodeKind,
    /// Names that lead to it.
    pub links: u32,
    /// Length in bytes: of a file's content or a link's text; 0 for a directory.
    pub len: u64,
    /// Bytes that its content takes, in whole pages.
    pub stored: u64,
}

/// Files and directories that lose in a power cut what was not synced; see [the module](super).
///
/// A clone is cheap and independent. Numbers are never used twice, across cuts either. Errors are those of Linux.
/// Directories cannot be renamed, as the file backend never does.
#[derive(Clone)]
pub struct Inodes {
    files: Files,
    syncs: Syncs,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Default for Inodes {
    fn default() -> Inodes {
        Inodes::new()
    }
}

impl Inodes {
    /// Number of the root directory.
    pub const ROOT: u64 = ROOT;

    /// An empty root directory.
    pub fn new() -> Inodes {
        Inodes { files: Files::new(), syncs: Syncs::None }
    }

    /// Plants a bug; see [`Syncs`]. Affects syncs from now on.
    pub fn drop_syncs(&mut self, what: Syncs) {
        self.syncs = what;
    }

    /// What a power cut now might leave. Seed 0 keeps only what is durable, 1 everything, any other is a choice of its own. Syncs work there.
    pub fn survivor(&self, seed: u64) -> Inodes {
        Inodes { files: self.files.survivor(seed), syncs: Syncs::None }
    }

    /// Frees the memory of inodes that are not `open` and that no cut can bring back.
    pub fn forget(&mut self, open: impl Fn(u64) -> bool) {
        self.files.collect(open);
    }

    /// Facts of an inode.
    pub fn stat(&self, ino: u64) -> io::Result<InodeStat> {
        let inode = self.files.get(ino).ok_or_else(|| errno(libc::ENOENT))?;
        let (kind, len, stored) = match &inode.node {
            Node::File(content) => (InodeKind::File, content.current().len(), content.current().count() * super::PAGE),
            Node::Directory(_) => (InodeKind::Directory, 0, 0),
            Node::Link(target) => (InodeKind::Link, target.len() as u64, 0),
        };
        Ok(InodeStat { kind, links: inode.links, len, stored })
    }

    /// What a name leads to.
    pub fn lookup(&self, dir: u64, name: &str) -> io::Result<u64> {
        self.child(dir, name)?.ok_or_else(|| errno(libc::ENOENT))
    }

    /// Names of a directory and what they lead to, sorted by name.
    pub fn entries(&self, dir: u64) -> io::Result<Vec<(String, u64)>> {
        let directory = self.files.directory(dir).ok_or_else(|| errno(libc::ENOTDIR))?;
        Ok(directory.entries().iter().map(|(name, ino)| (name.clone(), *ino)).collect())
    }

    /// Makes an empty file; returns its number.
    pub fn create(&mut self, dir: u64, name: &str) -> io::Result<u64> {
        self.make(dir, name, Op::Create { dir, name: name.to_string(), directory: false })
    }

    /// Makes an empty directory; returns its number.
    pub fn mkdir(&mut self, dir: u64, name: &str) -> io::Result<u64> {
        self.make(dir, name, Op::Create { dir, name: name.to_string(), directory: true })
    }

    /// Makes a symbolic link; returns its number.
    pub fn symlink(&mut self, dir: u64, name: &str, target: &str) -> io::Result<u64> {
        self.make(dir, name, Op::Symlink { dir, name: name.to_string(), target: target.to_string() })
    }

    /// Text of a symbolic link.
    pub fn readlink(&self, ino: u64) -> io::Result<&str> {
        match self.files.get(ino).map(|inode| &inode.node) {
            Some(Node::Link(target)) => Ok(target),
            Some(_) => Err(errno(libc::EINVAL)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    /// Adds a name for a file.
    pub fn link(&mut self, ino: u64, dir: u64, name: &str) -> io::Result<()> {
        self.not_directory(ino, libc::EPERM)?;
        self.free_name(dir, name)?;
        self.files.apply(&Op::Link { dir, name: name.to_string(), ino });
        Ok(())
    }

    /// Removes a name of a file or link.
    pub fn unlink(&mut self, dir: u64, name: &str) -> io::Result<()> {
        self.not_directory(self.lookup(dir, name)?, libc::EISDIR)?;
        self.files.apply(&Op::Unlink { dir, name: name.to_string() });
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&mut self, dir: u64, name: &str) -> io::Result<()> {
        match self.entries(self.lookup(dir, name)?)?.is_empty() {
            true => self.files.apply(&Op::Unlink { dir, name: name.to_string() }),
            false => return Err(errno(libc::ENOTEMPTY)),
        }
        Ok(())
    }

    /// Moves a name of a file or link, replacing what had the new one.
    pub fn rename(&mut self, from_dir: u64, from: &str, to_dir: u64, to: &str) -> io::Result<()> {
        let ino = self.lookup(from_dir, from)?;
        self.not_directory(ino, libc::EPERM)?;
        match self.child(to_dir, to)? {
            // Two names of one file: Linux leaves both as they are and reports success.
            Some(other) if other == ino => return Ok(()),
            Some(other) => self.not_directory(other, libc::EISDIR)?,
            None => {}
        }
        self.files.apply(&Op::Rename { from_dir, from: from.to_string(), to_dir, to: to.to_string() });
        Ok(())
    }

    /// Fills `buf` as far as the file goes; returns the bytes read.
    pub fn read(&self, ino: u64, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let pages = self.content(ino)?.current();
        let len = pages.len().saturating_sub(offset).min(buf.len() as u64) as usize;
        pages.read(offset, &mut buf[..len]);
        Ok(len)
    }

    /// Writes all of `data`.
    pub fn write(&mut self, ino: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let content = self.content(ino)?;
        let end = within_a_file(offset, data.len() as u64)?;
        if !data.is_empty() {
            let change = content.prepare_write(&[io::IoSlice::new(data)], offset, end);
            self.files.apply(&Op::Change { ino, change });
        }
        Ok(())
    }

    /// Sets the length, sparse when it grows.
    pub fn truncate(&mut self, ino: u64, len: u64) -> io::Result<()> {
        self.content(ino)?;
        within_a_file(len, 0)?;
        self.files.apply(&Op::Change { ino, change: Change::Truncate(len) });
        Ok(())
    }

    /// Makes a range a hole that reads as zeros, keeping the length.
    pub fn punch(&mut self, ino: u64, offset: u64, len: u64) -> io::Result<()> {
        self.content(ino)?;
        within_a_file(offset, len)?;
        if len == 0 {
            return Err(errno(libc::EINVAL));
        }
        self.files.apply(&Op::Change { ino, change: Change::Punch { offset, len } });
        Ok(())
    }

    /// Makes a file's content or a directory's entries durable.
    pub fn sync(&mut self, ino: u64) -> io::Result<()> {
        match self.stat(ino)?.kind {
            InodeKind::File if !self.syncs.files() => self.files.apply(&Op::Sync { ino }),
            InodeKind::Directory if !self.syncs.directories() => self.files.apply(&Op::SyncDirectory { ino }),
            _ => {}
        }
        Ok(())
    }

    fn child(&self, dir: u64, name: &str) -> io::Result<Option<u64>> {
        match self.files.directory(dir) {
            Some(directory) => Ok(directory.entries().get(name).copied()),
            None => Err(errno(libc::ENOTDIR)),
        }
    }

    fn content(&self, ino: u64) -> io::Result<&Content> {
        self.files.file(ino).ok_or_else(|| errno(libc::EINVAL))
    }

    fn free_name(&self, dir: u64, name: &str) -> io::Result<()> {
        match self.child(dir, name)? {
            Some(_) => Err(errno(libc::EEXIST)),
            None => Ok(()),
        }
    }

    fn not_directory(&self, ino: u64, code: i32) -> io::Result<()> {
        match self.stat(ino)?.kind {
            InodeKind::Directory => Err(errno(code)),
            _ => Ok(()),
        }
    }

    fn make(&mut self, dir: u64, name: &str, op: Op) -> io::Result<u64> {
        self.free_name(dir, name)?;
        let ino = self.files.next();
        self.files.apply(&op);
        Ok(ino)
    }
}

/// The end of a range that a file can have.
fn within_a_file(offset: u64, len: u64) -> io::Result<u64> {
    offset.checked_add(len).filter(|end| *end <= MAX_FILE).ok_or_else(|| errno(libc::EFBIG))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &Inodes, ino: u64) -> Vec<u8> {
        let mut buf = vec![0; 64];
        let len = disk.read(ino, 0, &mut buf).unwrap();
        buf.truncate(len);
        buf
    }

    #[test]
    fn only_synced_bytes_behind_synced_names_are_sure_to_survive() {
        let mut disk = Inodes::new();
        let dir = disk.mkdir(Inodes::ROOT, "dir").unwrap();
        let file = disk.create(dir, "file").unwrap();
        disk.write(file, 0, b"kept").unwrap();
        disk.sync(file).unwrap();
        assert!(disk.survivor(0).lookup(Inodes::ROOT, "dir").is_err(), "the entry of `dir` was not synced");
        disk.sync(Inodes::ROOT).unwrap();
        assert!(disk.survivor(0).lookup(dir, "file").is_err(), "the entry of `file` was not synced");
        disk.sync(dir).unwrap();
        disk.write(file, 0, b"lost").unwrap();
        let cut = disk.survivor(0);
        assert_eq!((cut.lookup(dir, "file").unwrap(), read(&cut, file)), (file, b"kept".to_vec()));
        assert_eq!(read(&disk.survivor(1), file), b"lost");
    }

    #[test]
    fn syncs_that_are_dropped_report_success_and_keep_nothing() {
        for (dropped, names, bytes) in
            [(Syncs::Files, true, false), (Syncs::Directories, false, true), (Syncs::All, false, false)]
        {
            let mut disk = Inodes::new();
            let old = disk.create(Inodes::ROOT, "old").unwrap();
            disk.sync(Inodes::ROOT).unwrap();
            disk.drop_syncs(dropped);
            let new = disk.create(Inodes::ROOT, "new").unwrap();
            for file in [old, new] {
                disk.write(file, 0, b"x").unwrap();
                disk.sync(file).unwrap();
            }
            disk.sync(Inodes::ROOT).unwrap();
            let cut = disk.survivor(0);
            assert_eq!(cut.lookup(Inodes::ROOT, "new").is_ok(), names, "{dropped:?}");
            assert_eq!(read(&cut, old) == b"x", bytes, "{dropped:?}");
        }
    }

    #[test]
    fn calls_that_linux_refuses_are_refused() {
        let mut disk = Inodes::new();
        let dir = disk.mkdir(Inodes::ROOT, "dir").unwrap();
        let file = disk.create(Inodes::ROOT, "file").unwrap();
        disk.link(file, dir, "other").unwrap();
        let code = |result: io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
        assert_eq!(code(disk.create(dir, "other").map(drop)), libc::EEXIST);
        assert_eq!(code(disk.link(dir, Inodes::ROOT, "hard")), libc::EPERM);
        assert_eq!(code(disk.unlink(Inodes::ROOT, "dir")), libc::EISDIR);
        assert_eq!(code(disk.rename(dir, "other", Inodes::ROOT, "dir")), libc::EISDIR);
        assert_eq!(code(disk.rmdir(Inodes::ROOT, "dir")), libc::ENOTEMPTY);
        assert_eq!(code(disk.rmdir(Inodes::ROOT, "file")), libc::ENOTDIR);
        assert_eq!(code(disk.write(file, MAX_FILE, b"x")), libc::EFBIG);
        assert_eq!(code(disk.lookup(file, "x").map(drop)), libc::ENOTDIR);
        disk.rename(dir, "other", Inodes::ROOT, "file").unwrap();
        assert_eq!(disk.stat(file).unwrap().links, 2, "both names lead to it, so nothing was done");
        disk.rename(dir, "other", dir, "new").unwrap();
        disk.unlink(Inodes::ROOT, "file").unwrap();
        assert_eq!((disk.stat(file).unwrap().links, disk.lookup(dir, "new").unwrap()), (1, file));
    }
}
