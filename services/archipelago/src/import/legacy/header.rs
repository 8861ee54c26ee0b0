//! Which version a map is, and what its header says. No file is touched here.

use archipelago_core::limits::MAX_VOLUME_SIZE;

/// Bytes of the start of an object that decide what it is.
pub const HEADER_LEN: usize = 32;
/// Block size of versions 0 and 1.
pub const OLD_BLOCK_SIZE: u64 = 4 << 20;
/// Bytes of an entry of version 0: a digest.
pub const ENTRY_V0: usize = 32;
/// Bytes of an entry of version 1: a flag and a digest.
pub const ENTRY_V1: usize = 33;
/// Bytes of the header of version 1.
pub const HEADER_V1: u64 = 12;
/// Bytes of an entry of version 2.
pub const ENTRY_V2: usize = 128;
/// What version 2 and later begin with.
const SIGNATURE: [u8; 4] = *b"AMF.";

const READ_ONLY: u32 = 1;
const DELETED: u32 = 2;

/// Version of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A list of digests, as Pithos wrote it before Synnefo 0.16.
    V0,
    /// Archipelago 0.3.
    V1,
    /// Archipelago 0.4.
    V2,
}

impl Version {
    /// Its number.
    pub fn number(self) -> u32 {
        match self {
            Version::V0 => 0,
            Version::V1 => 1,
            Version::V2 => 2,
        }
    }
}

/// What the header of a map says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version.
    pub version: Version,
    /// Size of the volume in bytes, 1 B to 4 PiB.
    pub size: u64,
    /// Bytes of a block: a power of two, more than 128.
    pub block_size: u64,
    /// A snapshot or a Pithos file: never changes.
    pub read_only: bool,
    /// Epoch; 0 for versions that have none.
    pub epoch: u64,
    /// Entries of the map: one for each block.
    pub entries: u64,
}

/// What an object turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// A map with a header.
    Map(Header),
    /// A list of digests; its header follows from its entries, see [`header_v0`].
    List,
    /// What is left of a removed volume, so that its epoch is known for ever.
    Tombstone,
}

/// Why an object is not a map that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is of a kind that is not accepted.
    Refused(String),
    /// It contradicts itself.
    Damaged(String),
}

fn refused<T>(reason: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable::Refused(reason.into()))
}

fn damaged<T>(detail: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable::Damaged(detail.into()))
}

/// Finds out what an object is from its first bytes (up to [`HEADER_LEN`]) and its length.
///
/// Version 2 has a signature. Version 1 has a number that a digest could begin with as well, so the length has to fit
/// too. What has neither can only be a list of digests, which nothing in it proves: the caller has to say so with `assume_v0`.
pub fn recognise(start: &[u8], length: u64, assume_v0: bool) -> Result<Recognised, Unreadable> {
    if start.starts_with(&SIGNATURE) {
        return decode_v2(start);
    }
    let mut reason = "has no header that is known".to_string();
    if start.starts_with(&1u32.to_le_bytes())
        && let Some(size) = bytes::<8>(start, 4).map(u64::from_le_bytes)
    {
        let entries = size.div_ceil(OLD_BLOCK_SIZE);
        let expected = entries.checked_mul(ENTRY_V1 as u64).and_then(|len| len.checked_add(HEADER_V1));
        if expected == Some(length) {
            let size = check_size(size)?;
            return Ok(Recognised::Map(Header {
                version: Version::V1,
                size,
                block_size: OLD_BLOCK_SIZE,
                read_only: false,
                epoch: 0,
                entries,
            }));
        }
        reason = format!("begins as a map of version 1 of {size} bytes, but has {length} bytes, not what that takes");
    }
    if !assume_v0 {
        return refused(format!(
            "{reason}; if it is a Pithos map made before Synnefo 0.16 (version 0), repeat with --assume-v0"
        ));
    }
    if length == 0 || !length.is_multiple_of(ENTRY_V0 as u64) {
        return refused(format!("{reason}, and is no list of digests: {length} bytes are no multiple of {ENTRY_V0}"));
    }
    Ok(Recognised::List)
}

fn decode_v2(start: &[u8]) -> Result<Recognised, Unreadable> {
    let Some(version) = bytes(start, 4).map(u32::from_be_bytes) else { return damaged("its header is cut short") };
    if version != 2 {
        return refused(format!("is a map of version {version}, which no release wrote; only 0, 1 and 2 are known"));
    }
    let (Some(size), Some(block_size), Some(flags), Some(epoch)) = (
        bytes(start, 8).map(u64::from_be_bytes),
        bytes(start, 16).map(u32::from_be_bytes),
        bytes(start, 20).map(u32::from_be_bytes),
        bytes(start, 24).map(u64::from_be_bytes),
    ) else {
        return damaged("its header is cut short");
    };
    if flags & !(READ_ONLY | DELETED) != 0 {
        return refused(format!("has flags {flags:#x}, of which only 1 and 2 are known"));
    }
    if flags & DELETED != 0 {
        return Ok(Recognised::Tombstone);
    }
    let block_size = u64::from(block_size);
    if !block_size.is_power_of_two() || block_size <= ENTRY_V2 as u64 {
        return damaged(format!("its block size of {block_size} bytes is not a power of two above {ENTRY_V2}"));
    }
    let size = check_size(size)?;
    Ok(Recognised::Map(Header {
        version: Version::V2,
        size,
        block_size,
        read_only: flags & READ_ONLY != 0,
        epoch,
        entries: size.div_ceil(block_size),
    }))
}

/// The header of a list of `count` digests, whose size is `size` if the caller knows it.
pub fn header_v0(count: u64, size: Option<u64>) -> Result<Header, Unreadable> {
    if count == 0 {
        return refused("is an empty list of digests; a volume has at least one byte");
    }
    let Some(whole) = count.checked_mul(OLD_BLOCK_SIZE) else {
        return refused(format!("has {count} entries, more than any volume"));
    };
    let size = size.unwrap_or(whole);
    if size.div_ceil(OLD_BLOCK_SIZE) != count {
        return refused(format!(
            "has {count} digests, which do not make {size} bytes in blocks of 4 MiB; give its right size with --v0-size"
        ));
    }
    let size = check_size(size)?;
    Ok(Header { version: Version::V0, size, block_size: OLD_BLOCK_SIZE, read_only: true, epoch: 0, entries: count })
}

fn check_size(size: u64) -> Result<u64, Unreadable> {
    match size {
        0 => refused("has a size of 0; a volume has at least one byte"),
        1..=MAX_VOLUME_SIZE => Ok(size),
        _ => refused(format!("has a size of {size} bytes; a volume has at most {MAX_VOLUME_SIZE}")),
    }
}

/// `N` bytes at an offset, if they are there.
fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    const LIVE: &str = "414d462e 00000002 0000000000a00000 00400000 00000000 0000000000000001";
    const SNAPSHOT: &str = "414d462e 00000002 0000000000a00000 00400000 00000001 0000000000000000";

    fn with(at: usize, byte: u8) -> Vec<u8> {
        let mut header = unhex(LIVE);
        header[at] = byte;
        header
    }

    #[track_caller]
    fn refusal(start: &[u8], length: u64, assume_v0: bool) -> String {
        match recognise(start, length, assume_v0) {
            Err(Unreadable::Refused(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_golden_headers_of_the_original_are_decoded() {
        let live = Header {
            version: Version::V2,
            size: 10 << 20,
            block_size: 4 << 20,
            read_only: false,
            epoch: 1,
            entries: 3,
        };
        assert_eq!(recognise(&unhex(LIVE), 32, false), Ok(Recognised::Map(live)));
        assert_eq!(recognise(&unhex(LIVE), 512, true), Ok(Recognised::Map(live)));
        let snapshot = Header { read_only: true, epoch: 0, ..live };
        assert_eq!(recognise(&unhex(SNAPSHOT), 32, false), Ok(Recognised::Map(snapshot)));
        let v1 = Header { version: Version::V1, epoch: 0, ..live };
        let start = [unhex("01000000 0000a00000000000"), vec![1; 20]].concat();
        assert_eq!(recognise(&start, 111, false), Ok(Recognised::Map(v1)));
    }

    #[test]
    fn version_1_is_recognised_before_version_0_when_its_length_fits() {
        let start = [unhex("01000000 0000a00000000000"), vec![1; 20]].concat();
        assert!(matches!(recognise(&start, 111, true), Ok(Recognised::Map(h)) if h.version == Version::V1));
        assert_eq!(recognise(&start, 96, true), Ok(Recognised::List));
        assert!(refusal(&start, 96, false).contains("begins as a map of version 1 of 10485760 bytes, but has 96"));
        assert!(refusal(&start, 110, true).contains("no multiple of 32"));
    }

    #[test]
    fn tombstones_are_told_from_maps() {
        assert_eq!(recognise(&with(23, 2), 32, false), Ok(Recognised::Tombstone));
        assert_eq!(recognise(&with(23, 3), 32, false), Ok(Recognised::Tombstone));
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_reason() {
        assert!(refusal(&with(7, 3), 32, true).contains("version 3"));
        assert!(refusal(&with(4, 2), 32, true).contains("version 33554434"));
        assert!(refusal(&with(23, 4), 32, false).contains("flags 0x4"));
        assert!(refusal(&with(8, 0xff), 32, false).contains("at most"));
        assert!(refusal(&[7; 32], 64, false).contains("--assume-v0"));
        assert!(refusal(&[7; 32], 33, true).contains("no multiple"));
        assert!(refusal(&[], 0, true).contains("no multiple"));
        let zero_size = [unhex("414d462e 00000002 0000000000000000 00400000 00000000 0000000000000001")].concat();
        assert!(refusal(&zero_size, 32, false).contains("size of 0"));
    }

    #[test]
    fn what_contradicts_itself_is_damaged() {
        for start in [&unhex(LIVE)[..31], &unhex(LIVE)[..4], &with(17, 0x41), &with(19, 1), &with(17, 0)] {
            assert!(matches!(recognise(start, 32, true), Err(Unreadable::Damaged(_))), "{start:?}");
        }
        let mut smallest = unhex(LIVE);
        smallest[16..20].copy_from_slice(&128u32.to_be_bytes());
        assert!(matches!(recognise(&smallest, 32, true), Err(Unreadable::Damaged(_))));
        smallest[16..20].copy_from_slice(&256u32.to_be_bytes());
        assert!(matches!(recognise(&smallest, 32, true), Ok(Recognised::Map(h)) if h.entries == 40960));
    }

    #[test]
    fn the_size_of_a_list_of_digests_has_to_fit_its_length() {
        assert_eq!(header_v0(3, None).unwrap().size, 12 << 20);
        assert_eq!(header_v0(3, Some((8 << 20) + 1)).unwrap().size, (8 << 20) + 1);
        for (count, size) in [(3, 8 << 20), (3, (12 << 20) + 1), (3, 0), (0, 0)] {
            assert!(matches!(header_v0(count, Some(size)), Err(Unreadable::Refused(_))), "{count} {size}");
        }
        assert!(header_v0(u64::MAX, None).is_err() && header_v0(u64::MAX / 32, None).is_err());
    }

    proptest! {
        #[test]
        fn any_start_of_an_object_is_recognised_or_refused(
            mut start in proptest::collection::vec(any::<u8>(), 0..33), length: u64, known in 0..4, assume: bool
        ) {
            match known {
                1 => start.splice(..4.min(start.len()), *b"AMF.").for_each(drop),
                2 => start.splice(..8.min(start.len()), *b"AMF.\0\0\0\x02").for_each(drop),
                3 => start.splice(..4.min(start.len()), [1, 0, 0, 0]).for_each(drop),
                _ => {}
            }
            if let Ok(Recognised::Map(header)) = recognise(&start, length, assume) {
                prop_assert!(header.entries.checked_mul(header.block_size).is_some_and(|all| all >= header.size));
                prop_assert!((1..=MAX_VOLUME_SIZE).contains(&header.size));
            }
        }
    }
}
