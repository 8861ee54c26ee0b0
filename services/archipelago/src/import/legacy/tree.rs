//! Objects of an old store as files: found by name, opened for reading only, without following a link on the way.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::error::LegacyError;
use super::names::{hashed_dirs, raw_dirs};

/// Most entries of one directory: what is read of it at once stays below a gigabyte, whoever filled it.
const MAX_DIRECTORY: usize = 4_000_000;

/// A directory of objects: `aa/bb/cc/NAME`.
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

/// An object that is there.
pub struct Object {
    file: File,
    path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
}

/// What a name in a directory is, as far as the file system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// A directory, or something that opening it will tell.
    Directory,
    /// A symbolic link.
    Link,
    /// A file or something else.
    Other,
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
// A pipe with an object's name must not make the reader wait.
const FILE: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

impl Tree {
    /// Opens the directory; its own path may lead through links.
    pub fn open(path: &Path) -> Result<Tree, LegacyError> {
        let root = nix::fcntl::open(path, DIRECTORY, Mode::empty()).map_err(|e| LegacyError::io("open", path, e))?;
        Ok(Tree { root, path: path.to_path_buf() })
    }

    /// The directory as the administrator named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and number of the directory.
    pub fn identity(&self) -> Result<(u64, u64), LegacyError> {
        let root = self.root.as_fd().try_clone_to_owned().map_err(|e| LegacyError::io("examine", &self.path, e))?;
        let facts = File::from(root).metadata().map_err(|e| LegacyError::io("examine", &self.path, e))?;
        Ok((facts.dev(), facts.ino()))
    }

    /// The object of a name. One named by a digest is looked for where old Pithos kept it first.
    pub fn find(&self, name: &str) -> Result<Option<Object>, LegacyError> {
        // Here, where it becomes part of a path, whoever checked it before.
        if let Err(reason) = super::names::check(name) {
            return Err(LegacyError::refused(&format!("{name:?}"), reason));
        }
        for dirs in raw_dirs(name).into_iter().chain([hashed_dirs(name)]) {
            if let Some(object) = self.open_in(&dirs, name)? {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    /// Whether an object of this name would be looked for in these directories.
    pub fn belongs(name: &str, dirs: &[String; 3]) -> bool {
        raw_dirs(name).as_ref() == Some(dirs) || hashed_dirs(name) == *dirs
    }

    fn open_in(&self, dirs: &[String; 3], name: &str) -> Result<Option<Object>, LegacyError> {
        let Some((dir, mut path)) = self.directory(dirs)? else { return Ok(None) };
        path.push(name);
        let file = match openat(&dir, name, FILE, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(failed("open", &path, error)),
        };
        let facts = file.metadata().map_err(|e| LegacyError::io("examine", &path, e))?;
        if !facts.is_file() {
            return Err(failed("open", &path, Errno::ELOOP));
        }
        Ok(Some(Object { file, path, len: facts.len() }))
    }

    /// The refusal of a link in the place of a directory, whose objects would be left out without a word.
    pub fn is_link(&self, dirs: &[String]) -> LegacyError {
        let path = dirs.iter().fold(self.path.clone(), |path, dir| path.join(dir));
        failed("read", &path, Errno::ELOOP)
    }

    /// A directory below the root, and its path.
    fn directory(&self, dirs: &[String]) -> Result<Option<(OwnedFd, PathBuf)>, LegacyError> {
        let mut path = self.path.clone();
        let mut fd = self.root.as_fd().try_clone_to_owned().map_err(|e| LegacyError::io("open", &path, e))?;
        for dir in dirs {
            path.push(dir);
            match openat(&fd, dir.as_str(), DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()) {
                Ok(next) => fd = next,
                Err(Errno::ENOENT) => return Ok(None),
                Err(error) => return Err(failed("open", &path, error)),
            }
        }
        Ok(Some((fd, path)))
    }

    /// The names in a directory below the root, in byte order, and what each may be.
    pub fn names_in(&self, dirs: &[String]) -> Result<Vec<(Vec<u8>, Named)>, LegacyError> {
        let Some((fd, path)) = self.directory(dirs)? else { return Ok(Vec::new()) };
        let mut dir = Dir::from_fd(fd).map_err(|e| LegacyError::io("read", &path, e))?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|e| LegacyError::io("read", &path, e))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() == MAX_DIRECTORY {
                let text = format!("has more than {MAX_DIRECTORY} entries; no store of the original looks like this");
                return Err(LegacyError::refused(&path.display().to_string(), text));
            }
            let what = match entry.file_type() {
                Some(Type::Directory) | None => Named::Directory,
                Some(Type::Symlink) => Named::Link,
                Some(_) => Named::Other,
            };
            names.push((name.to_vec(), what));
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// A link, or something that is neither file nor directory, is told apart from other failures.
fn failed(op: &'static str, path: &Path, error: Errno) -> LegacyError {
    match error {
        Errno::ELOOP | Errno::ENOTDIR | Errno::ENXIO | Errno::EISDIR => LegacyError::refused(
            &path.display().to_string(),
            "is a symbolic link, or no file or directory as an old store has them; none is followed",
        ),
        error => LegacyError::io(op, path, error),
    }
}

impl Object {
    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Reads from `offset` until `buf` is full or the object ends; returns how many bytes there were.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<usize, LegacyError> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LegacyError::io("read", &self.path, error)),
            }
        }
        Ok(done)
    }
}
