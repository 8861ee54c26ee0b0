//! Names of objects in an old store, and where an object of a name is.
//!
//! Names come out of map entries and directories, so they are data: nothing becomes part of a path before
//! [`check`] has seen it.

use archipelago_core::Digest;

/// Longest name of an object, in bytes: what a file name may have (the original's protocol allowed one more).
pub const MAX_OBJECT: usize = 255;
/// Digits of a number in a name.
const HEX: usize = 16;
/// What every map and owned block of release 0.3 begins with.
pub const PREFIX: &str = "archip_";
/// Ends the name of a lock object.
pub const LOCK: &str = "_lock";
/// Ends the name of a digest kept beside a block.
const HASH: &str = "_hash";
/// Ends the names of objects that were being made.
const TEMPORARY: &str = "_xy";

/// Whether a name can be a file name: not empty, not too long, one component, nothing that a terminal would act on.
pub fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("the name is empty");
    }
    if name.len() > MAX_OBJECT {
        return Err("the name has more than 255 bytes");
    }
    if name == "." || name == ".." || name.contains('/') {
        return Err("the name leads out of its directory");
    }
    if name.chars().any(char::is_control) {
        return Err("the name has a control character");
    }
    Ok(())
}

/// What an object of the maps directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Perhaps the header of a map.
    Map,
    /// 64 hex digits: a block named by its content, or a map of version 0.
    Digest,
    /// `archip_` and 64 hex digits: a block of release 0.3.
    OldBlock,
    /// `VOLUME_EPOCH_INDEX`: a block that a volume owns.
    Block,
    /// `VOLUME_NUMBER`: map data.
    MapData,
    /// Locks, digests kept beside blocks, leftovers.
    Side,
}

/// What an object is, by its name.
pub fn classify(name: &str) -> Kind {
    let temporary = name.ends_with(TEMPORARY) && (name.contains(LOCK) || name.contains(HASH));
    if name.ends_with(LOCK) || name.ends_with(HASH) || temporary {
        return Kind::Side;
    }
    if digest(name).is_some() {
        return Kind::Digest;
    }
    if is_old_block(name) {
        return Kind::OldBlock;
    }
    match owned(name) {
        Some(_) => Kind::Block,
        None if split_number(name).is_some() => Kind::MapData,
        None => Kind::Map,
    }
}

/// The digest that a name of 64 lower-case hex digits stands for.
pub fn digest(name: &str) -> Option<Digest> {
    name.parse().ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// Whether it is the name of a block that a volume of release 0.3 owned.
pub fn is_old_block(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| digest(rest).is_some())
}

/// The parts of the name of an owned block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned<'a> {
    /// The volume that wrote it, under the name that it had.
    pub volume: &'a str,
    /// Epoch of that volume.
    pub epoch: u64,
    /// Index of the block.
    pub index: u64,
}

/// Takes the name of an owned block apart: `VOLUME_EPOCH_INDEX`, two numbers of 16 hex digits.
pub fn owned(name: &str) -> Option<Owned<'_>> {
    let (rest, index) = split_number(name)?;
    let (volume, epoch) = split_number(rest)?;
    Some(Owned { volume, epoch, index })
}

/// What stands before `_` and 16 lower-case hex digits at the end, and their number.
fn split_number(name: &str) -> Option<(&str, u64)> {
    let at = name.len().checked_sub(HEX + 1)?;
    let (rest, tail) = (name.get(..at)?, name.get(at..)?.strip_prefix('_')?);
    if rest.is_empty() || !tail.bytes().all(|byte| hex_digit(byte).is_some()) {
        return None;
    }
    Some((rest, u64::from_str_radix(tail, 16).ok()?))
}

/// Name of an owned block.
pub fn owned_block(volume: &str, epoch: u64, index: u64) -> String {
    format!("{volume}_{epoch:016x}_{index:016x}")
}

/// Name of an object of map data of version 2.
pub fn map_data(header: &str, number: u64) -> String {
    format!("{header}_{number:016x}")
}

/// The three directories in which every object may be: the first digits of the SHA-256 of its name.
pub fn hashed_dirs(name: &str) -> [String; 3] {
    dirs(&Digest::of_bytes(name.as_bytes()).to_string())
}

/// The three directories in which old Pithos kept an object named by a digest: its own first digits.
pub fn raw_dirs(name: &str) -> Option<[String; 3]> {
    digest(name).map(|_| dirs(name))
}

fn dirs(digits: &str) -> [String; 3] {
    [0, 2, 4].map(|at| digits.get(at..at + 2).unwrap_or_default().to_string())
}

/// Whether `name` matches a pattern in which `*` stands for any bytes and `?` for one character.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on if what follows the last `*` does not fit: one `*` at a time is enough, so the time is bounded.
    let mut back = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p + 1, n));
                p += 1;
            }
            Some('?') => (p, n) = (p + 1, n + 1),
            Some(c) if *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match back {
                Some((after, from)) => {
                    back = Some((after, from + 1));
                    (p, n) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZERO: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_golden_paths_of_the_original_are_found() {
        for (name, path) in [
            ("myvolume", "57/40/c6"),
            ("myvolume_0000000000000000", "f0/e7/7f"),
            ("myvolume_0000000000000001_0000000000000000", "e7/70/4b"),
            ("myvolume_lock", "78/ff/d3"),
            ("myvolume_0000000000000001_0000000000000000_hash", "7b/cc/0e"),
            (ZERO, "cd/37/2f"),
            ("snf_file_1", "80/6a/47"),
        ] {
            assert_eq!(hashed_dirs(name).join("/"), path, "{name}");
        }
        assert_eq!(raw_dirs(ZERO).unwrap().join("/"), "e3/b0/c4");
        assert_eq!(raw_dirs("myvolume"), None);
        assert_eq!(owned_block("myvolume", 1, 0), "myvolume_0000000000000001_0000000000000000");
        assert_eq!(map_data("myvolume", 0), "myvolume_0000000000000000");
    }

    #[test]
    fn names_tell_maps_from_everything_else() {
        for (name, kind) in [
            ("myvolume", Kind::Map),
            ("archip_myvolume", Kind::Map),
            ("snf_file_1", Kind::Map),
            ("myvolume_lock", Kind::Side),
            ("myvolume_locknode1_500_xy", Kind::Side),
            ("myvolume_0000000000000001_0000000000000000_hash", Kind::Side),
            ("myvolume_0000000000000001_0000000000000000", Kind::Block),
            ("myvolume_0000000000000001", Kind::MapData),
            (ZERO, Kind::Digest),
            (&format!("archip_{ZERO}"), Kind::OldBlock),
        ] {
            assert_eq!(classify(name), kind, "{name}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "a".repeat(256);
        for bad in ["", ".", "..", "a/b", "/", "../../etc/passwd", "a\0b", "a\nb", "\u{1b}[2J", &long] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        // Numbers at the end do not make a path of it harmless.
        let escape = owned_block("../../../../etc", 1, 0);
        assert!(owned(&escape).is_some() && check(&escape).is_err());
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, yes) in [
            ("*", "", true),
            ("snf-*", "snf-vol-1", true),
            ("snf-*-1", "snf-vol-1", true),
            ("snf-*-2", "snf-vol-1", false),
            ("*vol*", "snf-vol-1", true),
            ("snf?vol", "snf-vol", true),
            ("snf?vol", "snfvol", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_classified_without_a_panic(name in ".{0,300}") {
            let _ = (classify(&name), owned(&name), check(&name), digest(&name), matches(&name, &name));
        }

        #[test]
        fn owned_names_are_taken_apart_as_they_were_made(volume in "[a-z_0-9]{1,40}", epoch: u64, index: u64) {
            let name = owned_block(&volume, epoch, index);
            prop_assert_eq!(owned(&name), Some(Owned { volume: &volume, epoch, index }));
        }
    }
}
