//! Entries of old maps: what each block of a volume is. No file is touched here.

use archipelago_core::Digest;

use super::header::{ENTRY_V0, ENTRY_V1, ENTRY_V2, Unreadable};
use super::names;

/// Longest name of a block in an entry of version 2.
const MAX_BLOCK_NAME: usize = ENTRY_V2 - 5;
const WRITABLE: u8 = 1;
const OWNED: u8 = 2;
const ZERO: u8 = 4;
const DELETED: u8 = 8;
/// No volume was snapshotted this often: an epoch above is one whose bytes stand in the wrong order.
const MAX_EPOCH: u64 = 1 << 48;

/// What a block of a volume is. Equal entries are the same bytes: a missing block is an error for both, or zeros for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Zeros, stored nowhere.
    Zero,
    /// The block of this digest. Never changes.
    Content(Digest),
    /// A block that a volume wrote, in an object of this name (which is safe as a file name).
    Owned {
        /// Name of the object.
        name: Box<str>,
        /// Whether the volume still writes it in place: then it may not exist yet, and nobody else may name it.
        writable: bool,
    },
}

impl Entry {
    /// Name of the object, if there is one.
    pub fn object(&self) -> Option<String> {
        match self {
            Entry::Zero => None,
            Entry::Content(digest) => Some(digest.to_string()),
            Entry::Owned { name, .. } => Some(name.to_string()),
        }
    }
}

fn content(digest: Digest) -> Entry {
    if digest == Digest::ZERO { Entry::Zero } else { Entry::Content(digest) }
}

/// Decodes an entry of version 0; `None` ends the list.
pub fn decode_v0(bytes: &[u8; ENTRY_V0]) -> Option<Entry> {
    if *bytes == [0; ENTRY_V0] { None } else { Some(content(Digest(*bytes))) }
}

/// Decodes an entry of version 1.
pub fn decode_v1(bytes: &[u8; ENTRY_V1]) -> Entry {
    let mut digest = Digest([0; 32]);
    digest.0.copy_from_slice(&bytes[1..]);
    match bytes[0] {
        0 => content(digest),
        _ => Entry::Owned { name: format!("{}{}", names::PREFIX, digest).into(), writable: true },
    }
}

/// Decodes entry `index` of a map of version 2.
pub fn decode_v2(bytes: &[u8; ENTRY_V2], index: u64) -> Result<Entry, Unreadable> {
    let damaged = |detail: String| Err(Unreadable::Damaged(format!("entry {index}: {detail}")));
    let refused = |reason: String| Err(Unreadable::Refused(format!("entry {index}: {reason}")));
    let flags = bytes[0];
    if flags & !(WRITABLE | OWNED | ZERO | DELETED) != 0 {
        return refused(format!("has flags {flags:#x}, which are not known"));
    }
    let field = [bytes[1], bytes[2], bytes[3], bytes[4]];
    // The length has the byte order of the host that wrote it. At most one of the two orders gives a possible length.
    let len = [u32::from_le_bytes(field), u32::from_be_bytes(field)].into_iter().find(|len| (1..=123).contains(len));
    let Some(len) = len.map(|len| len as usize) else {
        return damaged(format!(
            "its name has {} bytes; 1 to {MAX_BLOCK_NAME} are possible",
            u32::from_le_bytes(field)
        ));
    };
    let (name, padding) = bytes[5..].split_at(len);
    if padding.iter().any(|byte| *byte != 0) {
        return damaged("its name is followed by something else than NULs".into());
    }
    let Ok(name) = std::str::from_utf8(name) else {
        return damaged("its name is not text".into());
    };
    if let Err(reason) = names::check(name) {
        return refused(format!("names a block {name:?}: {reason}"));
    }
    if flags & DELETED != 0 {
        return refused(format!("block {name} was deleted: the removal of this volume had begun"));
    }
    if let Some(digest) = names::digest(name) {
        if flags & ZERO != 0 && digest != Digest::ZERO {
            return damaged("is marked as zeros, but names another block".into());
        }
        return match content(digest) {
            Entry::Zero => Ok(Entry::Zero),
            _ if flags & WRITABLE != 0 => refused(format!(
                "may write to block {name}, which is not its own (it is named by its content); clone the volume in the original and import the clone"
            )),
            entry => Ok(entry),
        };
    }
    if flags & ZERO != 0 {
        return damaged("is marked as zeros, but names another block".into());
    }
    let writable = flags & WRITABLE != 0;
    match names::owned(name) {
        Some(owned) if is_swapped(owned.index, index) || owned.epoch >= MAX_EPOCH => {
            return refused(format!(
                "block {name} has its numbers in little-endian order: the undocumented layout of development versions before July 2014; no release wrote it"
            ));
        }
        Some(owned) if writable && (owned.index != index || flags & OWNED == 0) => {
            return refused(format!(
                "may write to block {name}, which is not its own; clone the volume in the original and import the clone"
            ));
        }
        None if !names::is_old_block(name) => {
            return refused(format!("names a block {name:?}, which no release of Archipelago would"));
        }
        None if writable && flags & OWNED == 0 => {
            return refused(format!("may write to block {name}, which is not its own"));
        }
        _ => {}
    }
    Ok(Entry::Owned { name: name.into(), writable })
}

/// Whether a number is an index with its bytes in the wrong order.
fn is_swapped(number: u64, index: u64) -> bool {
    number != index && number.swap_bytes() == index
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZERO_NAME: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const B: &str = "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d";

    fn entry(flags: u8, name: &str) -> [u8; ENTRY_V2] {
        let mut bytes = [0; ENTRY_V2];
        bytes[0] = flags;
        bytes[1..5].copy_from_slice(&(name.len() as u32).to_le_bytes());
        bytes[5..5 + name.len()].copy_from_slice(name.as_bytes());
        bytes
    }

    fn owned(name: &str, writable: bool) -> Result<Entry, Unreadable> {
        Ok(Entry::Owned { name: name.into(), writable })
    }

    #[track_caller]
    fn refusal(flags: u8, name: &str, index: u64) -> String {
        match decode_v2(&entry(flags, name), index) {
            Err(Unreadable::Refused(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_golden_entries_of_the_original_are_decoded() {
        let untouched = [&[0x04, 0x40, 0, 0, 0][..], ZERO_NAME.as_bytes(), &[0; 59]].concat();
        assert_eq!(decode_v2(&untouched.try_into().unwrap(), 5), Ok(Entry::Zero));
        let name = "myvolume_0000000000000001_0000000000000000";
        let written = [&[0x03, 0x2a, 0, 0, 0][..], name.as_bytes(), &[0; 81]].concat();
        assert_eq!(decode_v2(&written.try_into().unwrap(), 0), owned(name, true));
    }

    #[test]
    fn entries_of_every_documented_kind_are_decoded() {
        let frozen = names::owned_block("other", 3, 9);
        assert_eq!(decode_v2(&entry(0x02, &frozen), 9), owned(&frozen, false));
        // A Pithos copy of a snapshot lists the blocks without the mark of an owner.
        assert_eq!(decode_v2(&entry(0x00, &frozen), 2), owned(&frozen, false));
        assert_eq!(decode_v2(&entry(0x00, B), 7), Ok(Entry::Content(names::digest(B).unwrap())));
        assert_eq!(decode_v2(&entry(0x00, ZERO_NAME), 7), Ok(Entry::Zero));
        let old = format!("archip_{B}");
        assert_eq!(decode_v2(&entry(0x03, &old), 7), owned(&old, true));
        assert_eq!(decode_v0(&names::digest(B).unwrap().0), Some(Entry::Content(names::digest(B).unwrap())));
        assert_eq!(decode_v0(&Digest::ZERO.0), Some(Entry::Zero));
        assert_eq!(decode_v0(&[0; 32]), None);
        let mut v1 = [0; ENTRY_V1];
        v1[1..].copy_from_slice(&names::digest(B).unwrap().0);
        assert_eq!(decode_v1(&v1), Entry::Content(names::digest(B).unwrap()));
        v1[0] = 1;
        assert_eq!(Ok(decode_v1(&v1)), owned(&old, true));
        v1[0] = 0;
        v1[1..].copy_from_slice(&Digest::ZERO.0);
        assert_eq!(decode_v1(&v1), Entry::Zero);
    }

    #[test]
    fn the_length_of_a_name_is_read_in_either_byte_order() {
        let name = names::owned_block("myvolume", 1, 0);
        let mut bytes = entry(0x03, &name);
        bytes[1..5].copy_from_slice(&(name.len() as u32).to_be_bytes());
        assert_eq!(decode_v2(&bytes, 0), owned(&name, true));
    }

    #[test]
    fn writable_entries_for_blocks_of_others_are_refused() {
        assert!(refusal(0x01, B, 0).contains("not its own"));
        assert!(refusal(0x03, B, 0).contains("not its own"));
        assert!(refusal(0x03, &names::owned_block("myvolume", 1, 4), 5).contains("not its own"));
        assert!(refusal(0x01, &names::owned_block("myvolume", 1, 5), 5).contains("not its own"));
        assert!(refusal(0x01, &format!("archip_{B}"), 5).contains("not its own"));
    }

    #[test]
    fn the_layout_of_mid_2014_is_refused() {
        let swapped = format!("myvolume_{:016x}_{:016x}", 1u64.swap_bytes(), 5u64.swap_bytes());
        for flags in [0x02, 0x03] {
            assert!(refusal(flags, &swapped, 5).contains("July 2014"));
            let first = format!("myvolume_{:016x}_{:016x}", 1u64.swap_bytes(), 0);
            assert!(refusal(flags, &first, 0).contains("July 2014"));
        }
    }

    #[test]
    fn names_that_lead_elsewhere_and_names_of_nobody_are_refused() {
        for name in ["../../../../etc/shadow", "/etc/shadow", "..", "a/../../x_0000000000000001_0000000000000000"] {
            assert!(refusal(0x02, name, 0).contains("leads out"), "{name}");
        }
        assert!(refusal(0x02, "plain", 0).contains("no release"));
        assert!(refusal(0x02, &B.to_uppercase(), 0).contains("no release"));
        assert!(refusal(0x0b, B, 0).contains("removal"));
        assert!(refusal(0x10, B, 0).contains("0x10"));
    }

    #[test]
    fn entries_that_contradict_themselves_are_damaged() {
        let damaged = |bytes: &[u8; ENTRY_V2]| matches!(decode_v2(bytes, 0), Err(Unreadable::Damaged(_)));
        assert!(damaged(&[0; ENTRY_V2]), "an entry that was never written");
        assert!(damaged(&entry(0x04, B)));
        assert!(damaged(&entry(0x04, &names::owned_block("myvolume", 1, 0))));
        let mut bytes = entry(0x00, B);
        bytes[127] = 1;
        assert!(damaged(&bytes));
        bytes = entry(0x00, B);
        bytes[1] = 124;
        assert!(damaged(&bytes));
        bytes[1] = 63;
        assert!(damaged(&bytes), "a name cut short leaves a digit behind");
        bytes = entry(0x02, B);
        bytes[5] = 0xff;
        assert!(damaged(&bytes));
    }

    proptest! {
        #[test]
        fn what_any_entry_names_is_safe_as_a_file_name(
            bytes in proptest::array::uniform32(any::<[u8; 4]>()), name in "(\\.\\.|[a-z/_.0-9]{1,40}(_[0-9a-f]{16}){0,2})",
            shape in 0..3, flags in 0u8..16, index: u64
        ) {
            let mut raw: [u8; ENTRY_V2] = bytes.as_flattened().try_into().unwrap();
            if shape == 1 {
                raw = entry(flags, &name);
            } else if shape == 2 {
                raw[0] = flags;
                raw[1..5].copy_from_slice(&[4, 0, 0, 0]);
            }
            if let Ok(entry) = decode_v2(&raw, index) && let Some(object) = entry.object() {
                prop_assert!(names::check(&object).is_ok());
                prop_assert!(!object.contains('/') && object != "..");
            }
        }
    }
}
