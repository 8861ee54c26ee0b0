//! Paths of the file backend, and what a path stands for (format.md, "Store layout").

use crate::blocker::{Object, RecordKey, VolumeId};
use crate::error::{Error, Result};

/// The store's root, as [`Sys`](crate::blocker::sys::Sys) names it.
pub(super) const ROOT: &str = ".";
/// Headers and names.
pub(super) const CATALOG: &str = "catalog";
/// Headers of removed maps.
pub(super) const TRASH: &str = "trash";
/// Headers that nobody could read, and their names.
pub(super) const LOST: &str = "lost";
/// Everything that belongs to one volume, spread over 256 directories.
pub(super) const DATA: &str = "data";
/// Content objects, their index, and leases; made when first needed.
pub(super) const CONTENT: &str = "content";
/// Registrations of processes.
pub(super) const PROCS: &str = "procs";

/// Longest file name that Linux file systems take, in bytes.
const MAX_FILE_NAME: usize = 255;

/// A directory that holds objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Dir {
    /// Of the volumes whose id ends with this byte.
    Data(u8),
    /// Of the content objects whose digest begins with this byte.
    Content(u8),
    /// Of index tables and leases.
    Tables,
}

impl Dir {
    /// How many there are.
    pub(super) const COUNT: usize = 513;

    /// The one with this object in it.
    pub(super) fn of(object: Object) -> Dir {
        match object {
            Object::Content(digest) => Dir::Content(digest.0[0]),
            Object::Index(_) | Object::Lease(..) => Dir::Tables,
            Object::Log(v, _)
            | Object::Pack(v, _)
            | Object::Data(v, _)
            | Object::Redirect(v, _)
            | Object::Sum(v, _) => Dir::of_volume(v),
        }
    }

    /// The one with the files of this volume in it.
    pub(super) fn of_volume(volume: VolumeId) -> Dir {
        Dir::Data(volume.0 as u8)
    }

    /// Its number, below [`Dir::COUNT`].
    pub(super) fn number(self) -> usize {
        match self {
            Dir::Data(n) => usize::from(n),
            Dir::Content(n) => 256 + usize::from(n),
            Dir::Tables => 512,
        }
    }

    /// Its path.
    pub(super) fn path(self) -> String {
        match self {
            Dir::Data(n) => format!("{DATA}/{n:02x}"),
            Dir::Content(n) => format!("{CONTENT}/{n:02x}"),
            Dir::Tables => CONTENT.to_string(),
        }
    }

    /// Directories that lead to it and may be as new as it is itself, from the top.
    pub(super) fn parents(self) -> &'static [&'static str] {
        match self {
            Dir::Data(_) => &[DATA],
            Dir::Content(_) => &[ROOT, CONTENT],
            Dir::Tables => &[ROOT],
        }
    }
}

/// A number by which objects are spread: the same for all of one volume.
pub(super) fn spread(object: Object) -> u64 {
    match object {
        Object::Content(digest) => u64::from_le_bytes(std::array::from_fn(|i| digest.0[i])),
        Object::Index(id) | Object::Lease(_, id) => id,
        Object::Log(v, _) | Object::Pack(v, _) | Object::Data(v, _) | Object::Redirect(v, _) | Object::Sum(v, _) => v.0,
    }
}

/// Path of part `part` of an object; all but data have only part 0.
pub(super) fn object_path(object: Object, part: u32) -> String {
    match (object, Dir::of(object)) {
        (Object::Data(..), dir) => format!("{}/{object}.{part:08x}", dir.path()),
        (Object::Content(digest), dir) => format!("{}/{digest}", dir.path()),
        (Object::Index(_) | Object::Lease(..), _) => object.to_string(),
        (_, dir) => format!("{}/{object}", dir.path()),
    }
}

/// Path of a content object before it is whole; its digest begins with `first`.
pub(super) fn unfinished_path(first: u8, number: u64) -> String {
    format!("{}/t.{number:016x}", Dir::Content(first).path())
}

/// Path of a volume's lock file.
pub(super) fn lock_path(volume: VolumeId) -> String {
    format!("{}/lock.{volume}", Dir::of_volume(volume).path())
}

/// Path of the link in which the exclusive holder of a volume's lock says who he is.
pub(super) fn owner_path(volume: VolumeId) -> String {
    format!("{}/owner.{volume}", Dir::of_volume(volume).path())
}

/// Path of a record.
pub(super) fn record_path(key: RecordKey) -> String {
    key.to_string()
}

/// Directory that holds a record.
pub(super) fn record_dir(key: RecordKey) -> &'static str {
    match key {
        RecordKey::Store => ROOT,
        RecordKey::Header(_) => CATALOG,
        RecordKey::Trash(_) => TRASH,
    }
}

/// Path of a name entry. Refuses what cannot be a file name; the rules of [`crate::name`] are the caller's.
pub(super) fn name_path(name: &str) -> Result<String> {
    let refuse = |reason| Err(Error::InvalidName { name: name.to_string(), reason });
    if name.is_empty() || name.contains(['/', '\0']) {
        return refuse("it is empty, or has a '/' or a NUL, and cannot be a file name");
    }
    if name.len() + 2 > MAX_FILE_NAME {
        return refuse("it is too long to be a file name");
    }
    Ok(format!("{CATALOG}/n.{name}"))
}

/// The object part that a file below `data` holds; `None` for locks, owners and what is not the store's.
pub(super) fn parse_object(file: &str) -> Option<(Object, u32)> {
    let mut fields = file.split('.');
    let kind = fields.next()?;
    let volume = VolumeId(hex(fields.next()?, 16)?);
    let found = match kind {
        "log" => (Object::Log(volume, hex(fields.next()?, 8)? as u32), 0),
        "pack" => (Object::Pack(volume, hex(fields.next()?, 8)? as u32), 0),
        "redirect" => (Object::Redirect(volume, hex(fields.next()?, 16)?), 0),
        "sum" => (Object::Sum(volume, hex(fields.next()?, 16)?), 0),
        "data" => (Object::Data(volume, hex(fields.next()?, 16)?), hex(fields.next()?, 8)? as u32),
        _ => return None,
    };
    fields.next().is_none().then_some(found)
}

/// The index table or lease that a file in `content` is.
pub(super) fn parse_table(file: &str) -> Option<Object> {
    let (kind, rest) = file.split_once('.')?;
    match kind {
        "i" => Some(Object::Index(hex(rest, 16)?)),
        "l" => {
            let (claim, part) = rest.split_once('.')?;
            Some(Object::Lease(hex(claim, 16)?, hex(part, 16)?))
        }
        _ => None,
    }
}

/// The number of a content object that is not whole yet.
pub(super) fn parse_unfinished(file: &str) -> Option<u64> {
    hex(file.strip_prefix("t.")?, 16)
}

/// The volume to whose lock a file below `data` belongs: the lock file, or the link beside it.
pub(super) fn parse_lock(file: &str) -> Option<VolumeId> {
    let id = file.strip_prefix("lock.").or_else(|| file.strip_prefix("owner."))?;
    hex(id, 16).map(VolumeId)
}

/// The map whose header a file in `catalog` or `trash` is.
pub(super) fn parse_header(file: &str) -> Option<VolumeId> {
    hex(file.strip_prefix("h.")?, 16).map(VolumeId)
}

/// The part that a directory below `data` or `content` is for.
pub(super) fn parse_part(file: &str) -> Option<u8> {
    hex(file, 2).map(|part| part as u8)
}

/// Exactly `digits` lower-case hex digits: no file has two spellings.
fn hex(text: &str, digits: usize) -> Option<u64> {
    let plain = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_is_found_again_under_its_path() {
        let volume = VolumeId(0x0123_4567_89ab_cdef);
        let parts = [
            (Object::Log(volume, 0), 0),
            (Object::Pack(volume, u32::MAX), 0),
            (Object::Data(volume, 7), 0),
            (Object::Redirect(volume, 3), 0),
            (Object::Sum(volume, 4), 0),
            (Object::Data(volume, u64::MAX), u32::MAX),
        ];
        for (object, part) in parts {
            let path = object_path(object, part);
            assert_eq!(parse_object(path.strip_prefix("data/ef/").unwrap()), Some((object, part)), "{path}");
        }
        assert_eq!(object_path(parts[5].0, 1), "data/ef/data.0123456789abcdef.ffffffffffffffff.00000001");
    }

    #[test]
    fn files_of_another_form_are_not_taken_for_objects() {
        for file in [
            "",
            "lock.0123456789abcdef",
            "owner.0123456789abcdef",
            "log.0123456789abcdef",
            "log.0123456789abcdef.0000001",
            "log.0123456789ABCDEF.00000001",
            "log.0123456789abcdef.00000001.bak",
            "log.+123456789abcdef.00000001",
            "data.0123456789abcdef.0000000000000001",
            "data.0123456789abcdef.0000000000000001.00000000.",
        ] {
            assert_eq!(parse_object(file), None, "{file}");
        }
        assert_eq!(parse_lock("lock.00000000000000ff"), Some(VolumeId(255)));
        assert_eq!(parse_lock("owner.00000000000000ff"), Some(VolumeId(255)));
        assert_eq!(parse_lock("lock.00000000000000ff.bak"), None);
        assert_eq!(parse_header("h.00000000000000ff"), Some(VolumeId(255)));
        assert_eq!(parse_header("n.00000000000000ff"), None);
        assert_eq!(parse_header("h.ff"), None);
        assert_eq!(parse_part("0f"), Some(15));
        assert_eq!([parse_part("0F"), parse_part("f"), parse_part("00f")], [None; 3]);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", "a/b", "../up", "nul\0", &"x".repeat(254)] {
            assert!(matches!(name_path(name), Err(Error::InvalidName { .. })), "{name:?}");
        }
        assert_eq!(name_path("..").unwrap(), "catalog/n...");
    }
}
