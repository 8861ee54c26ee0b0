//! Who has a device in use.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Processes that are named at most; whoever has more knows where to look.
const MAX_NAMED: usize = 5;

/// Processes that have a file open, as far as can be seen: without root, only one's own.
pub fn of(path: &Path) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes come and go meanwhile.
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else { continue };
        if files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == path)) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    found
}

/// Whether anybody is connected to a socket, as the kernel lists those of this network namespace.
pub fn has_clients(socket: &Path) -> bool {
    /// The states of a connection that waits to be accepted, and of one that was.
    const CONNECTED: [&[u8]; 2] = [b"02", b"03"];
    let Ok(table) = fs::read("/proc/net/unix") else { return false };
    let path = socket.as_os_str().as_bytes();
    table.split(|byte| *byte == b'\n').any(|line| {
        // Number, references, protocol, flags, type, state, inode; then a blank and the path, which may have blanks itself.
        line.strip_suffix(path).is_some_and(|rest| {
            let fields: Vec<_> = rest.split(|byte| *byte == b' ').filter(|field| !field.is_empty()).collect();
            rest.ends_with(b" ") && fields.len() == 7 && CONNECTED.contains(&fields[5])
        })
    })
}

/// Processes in words: ` (PID: 7, 8)`, or nothing.
pub fn in_words(pids: &[u32]) -> String {
    let named: Vec<_> = pids.iter().take(MAX_NAMED).map(u32::to_string).collect();
    match (named.is_empty(), pids.len() > MAX_NAMED) {
        (true, _) => String::new(),
        (false, more) => format!(" (PID: {}{})", named.join(", "), if more { ", ..." } else { "" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_a_socket_are_seen_as_long_as_they_are_connected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(!has_clients(&path));
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(has_clients(&path), "it waits to be accepted");
        let (server, _) = listener.accept().unwrap();
        assert!(has_clients(&path) && !has_clients(&dir.path().join("socket")));
        drop((client, server));
        assert!(!has_clients(&path));
    }

    #[test]
    fn processes_that_have_a_file_open_are_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().canonicalize().unwrap();
        assert!(of(&path).contains(&std::process::id()));
        drop(file);
        assert!(of(&path).is_empty());
        assert_eq!(in_words(&[]), "");
        assert_eq!(in_words(&[7, 8]), " (PID: 7, 8)");
        assert_eq!(in_words(&[1, 2, 3, 4, 5, 6]), " (PID: 1, 2, 3, 4, 5, ...)");
    }
}
