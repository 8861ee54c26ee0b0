//! What the Ganeti provider notes about volumes, and which of them Ganeti no longer knows (docs/ganeti.md).

use std::collections::HashSet;

use archipelago_core::VolumeInfo;

/// Label: the name that Ganeti made up for the disk (`VOL_NAME`).
pub const NAME: &str = "ganeti.name";
/// Label: the UUID of Ganeti's disk object (`VOL_UUID`).
pub const UUID: &str = "ganeti.uuid";
/// Label: what it was cloned from (`EXTP_ORIGIN`).
pub const ORIGIN: &str = "ganeti.origin";
/// Label: what Ganeti said of its user (`VOL_METADATA`).
pub const METADATA: &str = "ganeti.metadata";
/// Label of a snapshot: `VOL_NAME` of the disk that Ganeti took it of.
pub const SNAPSHOT_OF: &str = "ganeti.snapshot-of";

/// Seconds for which something may be unknown to Ganeti because its instance is still being made, unless another time is given: an hour
/// for copying an image.
pub const MIN_AGE: u64 = 3600;
/// Longest word of a list of disks: a UUID of 36 bytes, `.ext.disk` and a number.
const MAX_WORD: usize = 64;

/// What the list of disks that Ganeti has says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Live(HashSet<String>);

impl Live {
    /// Reads UUIDs of disks, or their names (`UUID.ext.diskN`), as `gnt-instance list` prints them (`['UUID', 'UUID']`), or between blanks,
    /// commas and line ends; `-` stands for none. Anything else is
    /// refused, with what it is: a list that is something else must not make orphans.
    pub fn read(text: &str) -> Result<Live, String> {
        let words = text
            .split(|c: char| c.is_whitespace() || ",[]'".contains(c))
            .filter(|word| !word.is_empty() && *word != "-");
        let mut live = HashSet::new();
        for word in words {
            if word.len() > MAX_WORD || !is_disk(word) {
                let shown: String = word.chars().take(MAX_WORD).collect();
                return Err(format!("{shown:?}: is neither the UUID nor the name of a disk"));
            }
            live.insert(word.to_string());
        }
        Ok(Live(live))
    }

    /// Whether the list names no disk.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Why a volume or snapshot is an orphan: it says that Ganeti made it, and Ganeti does not know it. `None`: it is not.
    pub fn orphan(&self, info: &VolumeInfo) -> Option<String> {
        let knows = |key| info.labels.get(key).is_some_and(|value| self.0.contains(value));
        if let Some(of) = info.labels.get(SNAPSHOT_OF) {
            // An export removes its snapshot when it ends, however it ends; one that is old was left by a node that went down.
            return Some(format!("a snapshot that an export of {of} left"));
        }
        let known = knows(UUID) || knows(NAME) || self.0.contains(&info.name);
        match info.labels.get(UUID) {
            Some(uuid) if !known => Some(format!("Ganeti has no disk {uuid}")),
            _ => None,
        }
    }
}

/// Whether a word is the UUID of a disk, or its name.
fn is_disk(word: &str) -> bool {
    let (uuid, rest) = word.split_at_checked(36).unwrap_or((word, ""));
    let number = rest.strip_prefix(".ext.disk").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    is_uuid(uuid) && (rest.is_empty() || number)
}

/// Whether a text is a UUID as Ganeti writes them: 36 lower-case hex digits and dashes.
pub fn is_uuid(text: &str) -> bool {
    let dash = |at| matches!(at, 8 | 13 | 18 | 23);
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 36 && text.bytes().enumerate().all(|(at, byte)| if dash(at) { byte == b'-' } else { hex(byte) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use archipelago_core::{Kind, Labels};

    const DISK: &str = "0f0c9a52-0e77-4bd1-8a60-2d94c513b8f6";
    const OTHER: &str = "1f0c9a52-0e77-4bd1-8a60-2d94c513b8f6";

    fn info(labels: &[(&str, &str)]) -> VolumeInfo {
        let labels: Vec<_> = labels.iter().map(|(key, value)| (*key, Some(*value))).collect();
        VolumeInfo {
            name: "disk-1".into(),
            id: "1".into(),
            kind: Kind::Volume,
            size: 1,
            block_size: 1,
            epoch: 1,
            mapped: 0,
            read_only: false,
            parent: None,
            created: 0,
            open_by: None,
            origin: None,
            receiving: None,
            labels: Labels::default().with(&labels).unwrap(),
            untouched: true,
        }
    }

    #[test]
    fn lists_are_read_as_ganeti_prints_them_and_anything_else_is_refused() {
        let text = format!("['{DISK}', '{OTHER}']\n[]\n-\n\n{OTHER}.ext.disk10,{DISK}\n");
        assert_eq!(Live::read(&text).unwrap().0.len(), 3);
        assert!(Live::read("\n - ").unwrap().is_empty());
        let (upper, long) = (DISK.to_uppercase(), "a".repeat(1 << 20));
        for bad in
            ["Disk_UUIDs", "Failure: cannot connect", &DISK[1..], &upper, &long, &format!("{DISK}.ext.disk"), "ää"]
        {
            assert!(Live::read(bad).is_err(), "{bad:.40}");
        }
    }

    #[test]
    fn only_what_ganeti_made_and_does_not_know_is_an_orphan() {
        let live = Live::read(DISK).unwrap();
        let name = format!("{OTHER}.ext.disk0");
        assert_eq!(live.orphan(&info(&[])), None);
        assert_eq!(live.orphan(&info(&[(NAME, &name)])), None, "it has no UUID that could be missing");
        assert_eq!(live.orphan(&info(&[(UUID, DISK), (NAME, &name)])), None);
        assert!(live.orphan(&info(&[(UUID, OTHER)])).unwrap().contains(OTHER));
        assert_eq!(Live::read(&name).unwrap().orphan(&info(&[(UUID, OTHER), (NAME, &name)])), None);
        assert!(live.orphan(&info(&[(SNAPSHOT_OF, &name)])).unwrap().contains("export"));
    }
}
