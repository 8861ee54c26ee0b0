//! Registration of this process with a store on the file backend (docs/control.md, "Registration").
//!
//! A record is live exactly as long as its OFD lock is held. Whoever looks at it asks about the lock and never takes it,
//! so looking changes nothing; whoever makes it locks it before it gets its final name, so an unlocked record of that
//! name is dead for good. Ids are random and never used again: what is found dead may be unlinked by name.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Weak;

use super::control::{ControlServer, Handler};
use super::os;
use crate::error::{Error, Owner, Result};

/// Directory of the registrations in a store.
const PROCS: &str = "procs";
/// Most bytes of a record.
const MAX_RECORD: u64 = 4096;
/// Most characters of a host or command name: what a record says is shown on terminals.
const MAX_TEXT: usize = 64;
/// Times that a registration starts again after its unfinished record was cleared away. One repetition is rare already.
const ATTEMPTS: usize = 16;

/// This process in a store: a locked record and a control socket, both removed when it is dropped.
pub struct Registration {
    owner: Owner,
    dir: Dir,
    /// Taken out on drop, which ends the connections before the record goes.
    server: Option<ControlServer>,
    /// Until the server has it.
    listener: Option<UnixListener>,
    /// Holds the lock.
    record: File,
}

impl Registration {
    /// Registers this process with the store at `root`. Files get `mode` and `group`, the socket without the bits for
    /// others. `handler` is asked for what other processes want; while it is gone they get [`Error::NotOpen`].
    pub fn register(root: &Path, mode: u32, group: Option<u32>, handler: Weak<dyn Handler>) -> Result<Registration> {
        let failed = |op| move |e| Error::io(op, format!("{}/{PROCS}", root.display()), e);
        for _ in 0..ATTEMPTS {
            let dir = match open_dir(root) {
                // A store that was copied without its empty directories.
                Err(e) if is_missing(&e) => {
                    make_dir(root, mode, group).map_err(failed("create"))?;
                    open_dir(root)?
                }
                other => other?,
            };
            if let Some(mut this) =
                Registration::attempt(dir, mode, group).map_err(failed("register this process in"))?
            {
                // Who connected since the record got its name waits in the socket's queue.
                let listener = this.listener.take();
                let server = listener.map(|l| ControlServer::start(l, group, handler)).transpose();
                this.server = server.map_err(failed("serve the control socket in"))?;
                return Ok(this);
            }
        }
        Err(Error::TooBusy(format!("{}/{PROCS}: registration is cleared away again and again", root.display())))
    }

    /// Makes the record and the socket; `None` if a cleaner took the record away between its creation and its lock.
    fn attempt(dir: Dir, mode: u32, group: Option<u32>) -> io::Result<Option<Registration>> {
        let process = format!("{:016x}", crate::random::random_u64()?);
        let owner =
            Owner { pid: std::process::id(), host: host(), command: command(), since: crate::time::now(), process };
        let record = make_record(&dir, &owner, mode, group)?;
        // From here on, dropping it clears away what is there.
        let mut this = Registration { owner, dir, server: None, listener: None, record };
        match this.listen(mode, group).and_then(|()| this.publish()) {
            Ok(()) => Ok(Some(this)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Id of the registration, 16 hex digits.
    pub fn id(&self) -> &str {
        &self.owner.process
    }

    /// This process as others are told of it; `since` is the time of the registration.
    pub fn owner(&self) -> Owner {
        self.owner.clone()
    }

    /// Whether others can still find the record. Once it is gone no collector asks this process any more what it needs.
    pub fn stands(&self) -> bool {
        self.record.metadata().is_ok_and(|found| found.nlink() > 0)
    }

    /// Control connections that are served at this moment.
    pub fn connections(&self) -> usize {
        self.server.as_ref().map_or(0, ControlServer::connections)
    }

    fn listen(&mut self, mode: u32, group: Option<u32>) -> io::Result<()> {
        let path = self.dir.path(&socket_name(self.id()));
        // Between bind and the lines after it the socket has the mode of the umask. Nothing is accepted yet, and every
        // client is asked who it is anyway.
        self.listener = Some(UnixListener::bind(&path)?);
        if group.is_some() {
            chown(&path, None, group)?;
        }
        fs::set_permissions(&path, Permissions::from_mode(mode & 0o660))
    }

    fn publish(&self) -> io::Result<()> {
        fs::rename(self.dir.path(&new_name(self.id())), self.dir.path(&record_name(self.id())))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // A forked child has a copy of this; the registration is its parent's.
        if self.owner.pid != std::process::id() {
            return;
        }
        // The socket goes first, so that nobody finds it and is not served; the lock goes last, with the file.
        let _ = fs::remove_file(self.dir.path(&socket_name(self.id())));
        self.server = None;
        let _ = fs::remove_file(self.dir.path(&record_name(self.id())));
        let _ = fs::remove_file(self.dir.path(&new_name(self.id())));
    }
}

/// Processes that have the store open, in no order. Clears away what dead ones left.
pub fn processes(root: &Path) -> Result<Vec<Owner>> {
    let dir = match open_dir(root) {
        Err(e) if is_missing(&e) => return Ok(Vec::new()),
        other => other?,
    };
    let failed = |e| Error::io("list", format!("{}/{PROCS}", root.display()), e);
    let mut live = Vec::new();
    for entry in fs::read_dir(dir.path(".")).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // Anything else in the directory is not ours to touch.
        let Some(name) = name.to_str() else { continue };
        if let Some(id) = name.strip_prefix("s.").filter(|id| is_id(id)) {
            // In this order: a record that is being made moves from the first name to the second.
            if dir.lacks(&new_name(id)) && dir.lacks(&record_name(id)) {
                let _ = fs::remove_file(dir.path(name));
            }
        } else if let Some(id) = name.strip_prefix("p.").filter(|id| is_id(id)) {
            if is_live(&dir, id) {
                live.push(record(&dir, id).unwrap_or_else(|| unreadable(id)));
            } else {
                let _ = fs::remove_file(dir.path(&socket_name(id)));
                let _ = fs::remove_file(dir.path(name));
            }
        } else if let Some(id) = name.strip_prefix("p.").and_then(|n| n.strip_suffix(".new")).filter(|id| is_id(id))
            && !locked(&dir, name)
            // If this finds it gone, its maker lives and was quicker. If not, its maker, should it live, finds that the
            // rename fails, and the socket serves nobody.
            && fs::remove_file(dir.path(name)).is_ok()
        {
            let _ = fs::remove_file(dir.path(&socket_name(id)));
        }
    }
    Ok(live)
}

/// Whether the process registered as `process` in the store at `root` lives. Where that cannot be told, for want of
/// permission for example, it counts as alive: nothing may be taken from it.
pub fn alive(root: &Path, process: &str) -> bool {
    if !is_id(process) {
        return false;
    }
    match open_dir(root) {
        Ok(dir) => is_live(&dir, process),
        Err(e) => !is_missing(&e),
    }
}

/// What the process registered as `process` in the store at `root` says of itself, if that can be read. Whether it lives
/// is not asked.
pub fn registered(root: &Path, process: &str) -> Option<Owner> {
    if !is_id(process) {
        return None;
    }
    record(&open_dir(root).ok()?, process)
}

/// The directory of registrations, held open: its files are reached through the descriptor, whatever the length of the
/// store's path (a socket's path has 107 bytes), and also after the store was moved or the process changed directory.
pub(super) struct Dir(File);

impl Dir {
    /// A path that leads to `name` in the directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }

    /// Whether there is certainly no such name.
    pub(super) fn lacks(&self, name: &str) -> bool {
        matches!(fs::symlink_metadata(self.path(name)), Err(e) if e.kind() == io::ErrorKind::NotFound)
    }

    /// Opens a record for reading. What is not a plain file was not put there by us.
    fn open(&self, name: &str) -> io::Result<File> {
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(self.path(name))?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

pub(super) fn open_dir(root: &Path) -> Result<Dir> {
    let path = root.join(PROCS);
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_PATH)
        .open(&path)
        .map(Dir)
        .map_err(|e| Error::io("open", path.display().to_string(), e))
}

/// Whether the record `process` is there and locked.
pub(super) fn is_live(dir: &Dir, process: &str) -> bool {
    locked(dir, &record_name(process))
}

fn locked(dir: &Dir, name: &str) -> bool {
    match dir.open(name).and_then(|file| os::is_locked(&file)) {
        Ok(locked) => locked,
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    }
}

/// What the record of `process` says, if it can be read.
pub(super) fn record(dir: &Dir, process: &str) -> Option<Owner> {
    let mut bytes = Vec::new();
    dir.open(&record_name(process)).ok()?.take(MAX_RECORD).read_to_end(&mut bytes).ok()?;
    parse_record(process, &bytes)
}

/// What these bytes of a record say, made harmless for a terminal.
pub(crate) fn parse_record(process: &str, bytes: &[u8]) -> Option<Owner> {
    let owner: Owner = serde_json::from_slice(bytes).ok()?;
    Some(Owner {
        host: printable(&owner.host),
        command: printable(&owner.command),
        process: process.to_string(),
        ..owner
    })
}

/// A live process whose record cannot be read, by this user or by this version.
pub(super) fn unreadable(process: &str) -> Owner {
    Owner { pid: 0, host: "?".into(), command: "?".into(), since: 0, process: process.to_string() }
}

/// Creates and locks the record under its first name.
fn make_record(dir: &Dir, owner: &Owner, mode: u32, group: Option<u32>) -> io::Result<File> {
    let path = dir.path(&new_name(&owner.process));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode & 0o666).open(&path)?;
    fill_record(&file, owner, mode, group).inspect_err(|_| {
        let _ = fs::remove_file(&path);
    })?;
    Ok(file)
}

fn fill_record(mut file: &File, owner: &Owner, mode: u32, group: Option<u32>) -> io::Result<()> {
    // Nobody else ever takes this lock, so it is not there to be waited for.
    if !os::try_lock(file)? {
        return Err(io::Error::other("a new file is locked by somebody else"));
    }
    if group.is_some_and(|g| file.metadata().is_ok_and(|m| m.gid() != g)) {
        fchown(file, None, group)?;
    }
    // The umask does not decide who may use the store.
    file.set_permissions(Permissions::from_mode(mode & 0o666))?;
    let mut line = serde_json::to_vec(owner)?;
    line.push(b'\n');
    match file.write_all(&line) {
        // It counts without its text, and an empty file takes no room: what makes room begins with a registration.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => file.set_len(0),
        other => other,
    }
}

fn make_dir(root: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    let path = root.join(PROCS);
    // Who may read may search.
    let mode = mode & 0o666 | (mode & 0o444) >> 2;
    match DirBuilder::new().mode(mode).create(&path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    if group.is_some() {
        chown(&path, None, group)?;
    }
    fs::set_permissions(&path, Permissions::from_mode(mode))
}

fn record_name(id: &str) -> String {
    format!("p.{id}")
}

fn new_name(id: &str) -> String {
    format!("p.{id}.new")
}

pub(super) fn socket_name(id: &str) -> String {
    format!("s.{id}")
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Refuses what is not the id of a registration, and might be a path.
pub(super) fn check_id(process: &str) -> Result<()> {
    if is_id(process) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("{process:?}: the id of a process is 16 hex digits")))
}

/// Name of this host.
pub(super) fn host() -> String {
    match fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) if !name.trim().is_empty() => printable(name.trim()),
        _ => "localhost".into(),
    }
}

/// Name of this program.
pub(super) fn command() -> String {
    match fs::read_to_string("/proc/self/comm") {
        Ok(name) if !name.trim().is_empty() => printable(name.trim_end_matches('\n')),
        _ => std::env::args_os().next().map_or_else(
            || "?".into(),
            |a| printable(&Path::new(&a).file_name().unwrap_or_default().to_string_lossy()),
        ),
    }
}

/// Text of another process, made harmless for a terminal.
fn printable(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
