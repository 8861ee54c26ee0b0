//! Who has a device in use.

use std::fs;
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
