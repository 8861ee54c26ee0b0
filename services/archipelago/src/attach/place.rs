//! The directory of an attachment: its name, its locks, what is recorded there.
//!
//! `RUN/NODE/STORE-VOLUME` with the files
//!
//! * `lock`: held while a command attaches or detaches. Its time is that of the last one.
//! * `server`: locked by the server as long as it lives. So a server that was killed is known to be dead at once, whoever has its
//!   process id now.
//! * `record`: what was attached, as JSON. Written before the server says that it is ready.
//! * `disk`: the file over which the volume is mounted.
//! * `log`: what the server said on standard error.
//!
//! The socket of a server, if it has one, is in `RUN/.sockets`, under a name of fixed length: the path of a socket may have 107 bytes, and
//! those of a node and a store may take more. It is the same on all nodes, for a virtual machine that moves looks for its disk where it was;
//! but for nodes that share a machine, and with it `RUN`, under names that are not the machine's.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::device::Driver;
use super::error::AttachError;
use super::limits::{LOCK_TIME, LOOK, SERVER_TRIES};

/// The directory below which attachments are, unless another one is named.
pub const RUN: &str = "/run/archipelago/attached";

/// What is recorded about an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The store, as it was named.
    pub store: String,
    /// Id of the volume or snapshot, in hex.
    pub id: String,
    /// Its name when it was attached.
    pub name: String,
    /// Whether it may only be read.
    pub read_only: bool,
    /// Process that serves it.
    pub pid: u32,
    /// By what it becomes a device.
    #[serde(default)]
    pub driver: Driver,
    /// The socket on which it is served over NBD, under its name.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Registration of the server in the store, by which it is asked and told things; none of one that was started before it was recorded.
    #[serde(default)]
    pub process: Option<String>,
}

/// Where an attachment is.
#[derive(Clone, Debug)]
pub struct Place {
    dir: PathBuf,
}

/// The name of this node, under which attachments are kept unless another one is given.
pub fn default_node() -> Result<String, AttachError> {
    let name =
        nix::unistd::gethostname().map_err(|e| AttachError::host("ask for", "the name of this node", e.into()))?;
    Ok(name.to_string_lossy().into_owned())
}

fn root(run: &Path, node: &str) -> Result<PathBuf, AttachError> {
    // It becomes the name of a directory.
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if node.is_empty() || node.len() > 255 || node.starts_with('.') || !node.bytes().all(good) {
        return Err(AttachError::Unsupported(format!(
            "the name of the node, {node:?}, has something else in it than letters, digits, '.', '-' and '_'; give another one with --node"
        )));
    }
    Ok(run.join(node))
}

fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (file.dev(), file.ino()) == (there.dev(), there.ino())
}

impl Place {
    /// The place of a volume below the directory of all attachments, whether anything is there or not.
    pub fn of(run: &Path, node: &str, store: &str, id: &str) -> Result<Place, AttachError> {
        Ok(Place { dir: root(run, node)?.join(format!("{store}-{id}")) })
    }

    /// A place that is known by its directory.
    pub fn at(dir: &Path) -> Place {
        Place { dir: dir.to_path_buf() }
    }

    /// All places of a node, in the order of their names.
    pub fn all(run: &Path, node: &str) -> Result<Vec<Place>, AttachError> {
        let dir = root(run, node)?;
        let failed = |e| AttachError::host("list", dir.display(), e);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut places = Vec::new();
        for entry in entries {
            places.push(Place { dir: entry.map_err(failed)?.path() });
        }
        places.sort_by(|a, b| a.dir.cmp(&b.dir));
        Ok(places)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the volume is mounted.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }

    /// Where the server listens, if it does.
    pub fn socket(&self) -> PathBuf {
        let mut parts = self.dir.iter().rev();
        let (place, node) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let mut hash = Sha256::new();
        if default_node().ok().is_none_or(|own| node != own.as_str()) {
            hash.update(node.as_bytes());
        }
        let hash = hash.chain_update(b"/").chain_update(place.as_bytes()).finalize();
        let name: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let run = self.dir.ancestors().nth(2).unwrap_or(&self.dir);
        run.join(".sockets").join(name)
    }

    /// Makes the directory of the socket, which only its owner may enter, and says where it is.
    pub fn make_socket(&self) -> Result<PathBuf, AttachError> {
        let path = self.socket();
        let dir = path.parent().unwrap_or(&self.dir);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map(|()| path.clone()).map_err(|e| AttachError::host("make", dir.display(), e))
    }

    /// What the server says.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Makes the directory and the file over which is mounted, which only their owner may use. What is there already stays.
    pub fn make(&self) -> Result<(), AttachError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|e| AttachError::host("make", self.dir.display(), e))
    }

    /// Makes the file over which is mounted.
    pub fn make_disk(&self) -> Result<(), AttachError> {
        let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.disk());
        made.map(drop).map_err(|e| AttachError::host("make", self.disk().display(), e))
    }

    /// Takes the lock of commands; free again when what is returned is dropped.
    pub fn lock(&self) -> Result<File, AttachError> {
        let path = self.dir.join("lock");
        let failed = |e| AttachError::host("lock", path.display(), e);
        let deadline = Instant::now() + LOCK_TIME;
        loop {
            self.make()?;
            let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = match opened {
                Ok(file) => file,
                // Detached just now, with its directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            match file.try_lock() {
                // A file that was removed meanwhile locks nobody out.
                Ok(()) if is_same(&file, &path) => {
                    file.set_modified(SystemTime::now()).map_err(failed)?;
                    return Ok(file);
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOOK),
                Err(TryLockError::WouldBlock) => {
                    let text = format!("{}: another command is still attaching or detaching it", self.dir.display());
                    return Err(AttachError::Busy(text));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    /// Takes the lock of commands if nobody has it and the last one is so long ago; its time stays as it is.
    pub fn lock_after(&self, quiet: Duration) -> io::Result<Option<File>> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new().write(true).open(&path)?;
        let is_quiet = |file: &File| -> io::Result<bool> {
            // A clock that was put back counts from now on.
            Ok(file.metadata()?.modified()?.elapsed().unwrap_or_default() >= quiet)
        };
        if !is_quiet(&file)? {
            return Ok(None);
        }
        match file.try_lock() {
            // Whoever had it meanwhile is a command too.
            Ok(()) => Ok((is_same(&file, &path) && is_quiet(&file)?).then_some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Takes the lock of the server, for as long as it lives. `None`: there is one.
    pub fn serve(&self) -> io::Result<Option<File>> {
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone();
        let file = options.open(self.dir.join("server"))?;
        // Who only looks whether there is one holds it for a moment.
        for _ in 0..SERVER_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether a server lives.
    pub fn is_served(&self) -> Result<bool, AttachError> {
        match File::open(self.dir.join("server")) {
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(error)) => Err(AttachError::host("lock", self.dir.display(), error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(AttachError::host("open", self.dir.display(), error)),
        }
    }

    /// Writes what is attached, whole or not at all.
    pub fn write_record(&self, record: &Record) -> io::Result<()> {
        let new = self.dir.join("record.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
        fs::rename(&new, self.dir.join("record"))
    }

    /// What was recorded; `None` if nothing was, or nothing that makes sense.
    pub fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.dir.join("record")).ok()?).ok()
    }

    /// Removes the directory, and the socket that a server left that was killed. Nothing may be mounted there.
    pub fn remove(&self) -> Result<(), AttachError> {
        match fs::remove_file(self.socket()) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(AttachError::host("remove", self.socket().display(), error));
            }
            _ => {}
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(AttachError::host("remove", self.dir.display(), error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes_cannot_lead_elsewhere() {
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", "ä", &"a".repeat(256)] {
            assert!(Place::of(Path::new("/run"), bad, "s", "1").is_err(), "{bad}");
        }
        let place = Place::of(Path::new("/run"), "node-1.example", "s", "1").unwrap();
        assert_eq!(place.dir(), Path::new("/run/node-1.example/s-1"));
        // Every node of a machine and every volume has a socket of its own, with a path of the same length.
        let other = Place::of(Path::new("/run"), "node-2.example", "s", "1").unwrap();
        assert!(place.socket() != other.socket() && place.socket().starts_with("/run/.sockets"));
        assert_eq!(place.socket().as_os_str().len(), Place::at(Path::new("/run/n/s")).socket().as_os_str().len());
    }

    #[test]
    fn a_socket_has_the_same_path_on_all_machines() {
        // "/" and the place, and nothing of this machine, so that any other has the same.
        let own = Place::of(Path::new("/run"), &default_node().unwrap(), "s", "1").unwrap();
        assert_eq!(own.socket(), Path::new("/run/.sockets/7be18dc60e1a4530a87ac96846c731ae"));
    }

    #[test]
    fn a_server_is_known_to_live_by_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::at(&dir.path().join("a"));
        place.make().unwrap();
        assert!(!place.is_served().unwrap());
        let lock = place.serve().unwrap().unwrap();
        assert!(place.is_served().unwrap() && place.serve().unwrap().is_none());
        drop(lock);
        assert!(!place.is_served().unwrap());
        let [store, id, name] = ["file:/s", "1f", "disk-1"].map(String::from);
        let record =
            Record { store, id, name, read_only: true, pid: 7, driver: Driver::Nbd, socket: None, process: None };
        place.write_record(&record).unwrap();
        assert_eq!(place.record(), Some(record.clone()));
        // Written before there was a choice.
        let old = r#"{"store":"file:/s","id":"1f","name":"disk-1","read_only":true,"pid":7}"#;
        fs::write(place.dir().join("record"), old).unwrap();
        assert_eq!(place.record(), Some(Record { driver: Driver::Loop, ..record }));
        drop(place.lock().unwrap());
        assert!(place.lock_after(Duration::from_secs(3600)).unwrap().is_none(), "a command was there just now");
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        File::options().write(true).open(place.dir().join("lock")).unwrap().set_modified(long_ago).unwrap();
        let quiet = place.lock_after(Duration::from_secs(3600)).unwrap();
        assert!(quiet.is_some() && place.lock_after(Duration::ZERO).unwrap().is_none(), "one has it");
        drop(quiet);
        place.remove().unwrap();
        assert!(place.record().is_none() && !place.dir().exists());
        place.remove().unwrap();
        drop(place.lock().unwrap());
    }
}
