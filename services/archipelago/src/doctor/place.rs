//! The file system under a store, and what this user may do there.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::statfs::statfs;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access};

use super::{Findings, probe};
use crate::cli::size;

/// Free bytes below which the next snapshot or fold may fail.
const NO_ROOM: u64 = 64 << 20;
/// Free bytes, and the part of all (1 in so many), below which room should be made.
const LITTLE_ROOM: u64 = 1 << 30;
const LITTLE_PART: u64 = 20;
/// Free inodes below which new files may fail.
const FEW_INODES: u64 = 10_000;

/// File systems by their number that do not have what a store needs, and why.
const UNFIT: [(i64, &str, &str); 5] = [
    (
        0x6969,
        "NFS",
        "its locks and holes are not those of a local file system, and several hosts would not see each other",
    ),
    (0xff53_4d42, "CIFS", "it has no hard links and locks as a store needs them"),
    (0xfe53_4d42, "SMB", "it has no hard links and locks as a store needs them"),
    (0x0102_1997, "9P", "its syncs may not reach the disk"),
    (0x0102_1994, "tmpfs", "all of it is gone when the host restarts"),
];

/// Room on a file system.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes.
    pub total: u64,
    /// Bytes that this user may still take.
    pub free: u64,
    /// Files; 0 where they are not counted.
    pub inodes: u64,
    /// Files that may still be made.
    pub free_inodes: u64,
    /// It is mounted read-only.
    pub read_only: bool,
}

/// Looks at the directory of a store. `false` if nothing more can be found out there.
pub fn examine(path: &Path, findings: &mut Findings) -> bool {
    let shown = path.display();
    if !path.exists() {
        let advice = "make one with `archipelago init`, or name another with --store";
        findings.error("store", format!("{shown}: is not there, or may not be looked into"), advice);
        return false;
    }
    if let Ok(stat) = statvfs(path) {
        let unit = stat.fragment_size();
        judge(
            &Room {
                total: stat.blocks() * unit,
                free: stat.blocks_available() * unit,
                inodes: stat.files(),
                free_inodes: stat.files_available(),
                read_only: stat.flags().contains(FsFlags::ST_RDONLY),
            },
            findings,
        );
    }
    if let Ok(stat) = statfs(path) {
        judge_kind(stat.filesystem_type().0, findings);
    }
    for (flags, what) in [(AccessFlags::R_OK | AccessFlags::X_OK, "looked into"), (AccessFlags::W_OK, "written")] {
        // A file system that is read-only was told of already.
        if access(path, flags).is_err_and(|e| e != Errno::EROFS) {
            let advice = "run as root or as a member of the store's group; `ls -ld` of the directory shows who that is";
            findings.error("permissions", format!("{shown}: may not be {what} by this user"), advice);
            return false;
        }
    }
    abilities(path, findings);
    true
}

/// Judges the room that is left.
pub fn judge(room: &Room, findings: &mut Findings) {
    let free = format!("{} of {} are free", size::human(room.free), size::human(room.total));
    let advice = "remove snapshots (`archipelago du` shows what each would free) and run `archipelago gc`, or make the file system larger";
    if room.read_only {
        findings.error(
            "read-only",
            "the file system is mounted read-only",
            "look for errors of the disk in `dmesg`, and mount it for writing",
        );
    } else if room.free < NO_ROOM {
        findings.error("space", free, advice);
    } else if room.free < LITTLE_ROOM || room.free < room.total / LITTLE_PART {
        findings.warning("space", free, advice);
    }
    if room.inodes > 0 && room.free_inodes < FEW_INODES.min(room.inodes / LITTLE_PART) {
        let what = format!("{} of {} inodes are free", room.free_inodes, room.inodes);
        findings.warning("inodes", what, "run `archipelago gc`, or move the store to a file system with more inodes");
    }
}

/// Judges the kind of file system, as `statfs` names it.
pub fn judge_kind(kind: i64, findings: &mut Findings) {
    if let Some((_, name, why)) = UNFIT.iter().find(|(number, ..)| *number == kind) {
        findings.warning(
            "file-system",
            format!("the store is on {name}: {why}"),
            "move it to a local file system on a disk: ext4, XFS or Btrfs",
        );
    }
}

/// Tries what a store does with files.
fn abilities(path: &Path, findings: &mut Findings) {
    let files = probe::nameless(path).and_then(|file| Ok((file, probe::nameless(path)?)));
    let (file, other) = match files {
        Ok(files) => files,
        Err(error) => {
            let advice =
                "nothing has to be done if the rest is well: whether holes and reflinks work was not found out";
            return findings.note("trial", format!("no file without a name can be made for a trial: {error}"), advice);
        }
    };
    if let Err(error) = file.sync_all() {
        findings.error(
            "sync",
            format!("a sync failed: {error}"),
            "look for errors of the disk in `dmesg`; nothing that is written there is safe",
        );
    }
    if let Err(error) = probe::punch(&file) {
        let advice = "use a file system with holes (ext4, XFS, Btrfs): zeros are written instead, and what is collected inside of files stays";
        findings.warning("holes", format!("no holes can be made in files: {error}"), advice);
    }
    if let Err(error) = probe::reflink(&file, &other) {
        let advice = "nothing has to be done; XFS (reflink=1) and Btrfs have them, and `import-legacy` takes blocks in without copying there";
        findings.note("reflink", format!("files cannot share their room: {error}"), advice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    const ROOM: Room = Room { total: 1 << 40, free: 1 << 39, inodes: 1 << 20, free_inodes: 1 << 19, read_only: false };

    fn judged(room: &Room) -> Vec<(Severity, &'static str)> {
        let mut findings = Findings::default();
        judge(room, &mut findings);
        findings.0.iter().map(|finding| (finding.severity, finding.topic)).collect()
    }

    #[test]
    fn little_room_is_a_warning_and_none_an_error() {
        assert_eq!(judged(&ROOM), []);
        assert_eq!(judged(&Room { free: 1 << 35, ..ROOM }), [(Severity::Warning, "space")]);
        assert_eq!(judged(&Room { total: 2 << 30, free: 900 << 20, ..ROOM }), [(Severity::Warning, "space")]);
        assert_eq!(judged(&Room { free: 63 << 20, ..ROOM }), [(Severity::Error, "space")]);
        assert_eq!(judged(&Room { read_only: true, ..ROOM }), [(Severity::Error, "read-only")]);
        assert_eq!(judged(&Room { free_inodes: 50, ..ROOM }), [(Severity::Warning, "inodes")]);
        assert_eq!(judged(&Room { inodes: 0, free_inodes: 0, ..ROOM }), [], "Btrfs counts none");
    }

    #[test]
    fn file_systems_that_do_not_do_are_named() {
        for (kind, count) in [(0x6969, 1), (0x0102_1994, 1), (0xef53, 0), (0x5846_5342, 0)] {
            let mut findings = Findings::default();
            judge_kind(kind, &mut findings);
            assert_eq!(findings.0.len(), count, "{kind:x}");
        }
    }
}
