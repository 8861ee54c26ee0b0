//! Names and keys of everything that a store has in a pool (docs/format.md, "On RADOS").

use crate::blocker::{Object, RecordKey, VolumeId};
use crate::checksum::crc32c;
use crate::digest::Digest;
use crate::hex;

/// Bytes of an object of the store in one object of the pool: a block of the usual size.
pub(super) const PIECE: u64 = 4 << 20;
/// Most pieces of an object: more than the largest volume has, and their numbers have eight digits.
const MAX_PIECES: u64 = 1 << 32;
/// Longest object that is never cut, in bytes: a block of the largest size, and below what Ceph takes in one write (90 MiB).
pub(super) const MAX_WHOLE: u64 = 64 << 20;
/// Pieces that one key announces: 64 MiB.
pub(super) const RUN: u64 = 16;
/// Objects over which records are spread, and as many for names: with a million maps each has 31,000 keys of each kind, where
/// Ceph calls 200,000 many.
pub(super) const SHARDS: usize = 32;

/// The lock of a volume, on the object [`lock_object`].
pub(super) const LOCK: &str = "archipelago";
/// Table of the processes that use the store.
pub(super) const PROCESSES: &str = "procs";

/// Whether an object is one object of the pool, however long it is: it has to be made, or appended to, in one step.
pub(super) fn is_whole(object: Object) -> bool {
    matches!(object, Object::Log(..) | Object::Content(_) | Object::Lease(..))
}

/// Whether it comes into being when it is written.
pub(super) fn is_made_by_writing(object: Object) -> bool {
    matches!(object, Object::Data(..) | Object::Sum(..))
}

/// Bytes of it in one object of the pool.
pub(super) fn piece_size(object: Object) -> u64 {
    if is_whole(object) { MAX_WHOLE } else { PIECE }
}

/// Where offsets of it end.
pub(super) fn max_len(object: Object) -> u64 {
    if is_whole(object) { MAX_WHOLE } else { PIECE * MAX_PIECES }
}

/// The object of the pool with a piece. The first one has the object's own name, and the keys of the runs.
pub(super) fn piece(object: Object, number: u64) -> String {
    match number {
        0 => object.to_string(),
        number => format!("{object}.{number:08x}"),
    }
}

/// Key that announces a run of pieces: numbers go down as those of the runs go up, so that the last run comes first.
pub(super) fn run_key(run: u64) -> String {
    format!("r.{:08x}", u64::from(u32::MAX) - run)
}

/// The run that a key announces.
pub(super) fn parse_run(key: &str) -> Option<u64> {
    let number = number(key.strip_prefix("r.")?, 8)?;
    u64::from(u32::MAX).checked_sub(number)
}

/// What lists an object, and under which key.
pub(super) fn listing(object: Object) -> (String, String) {
    match object {
        Object::Content(digest) => (contents(digest.0[0]), digest.to_string()),
        Object::Index(_) | Object::Lease(..) => (TABLES.to_string(), object.to_string()),
        _ => (part(object.volume().0 as u8), format!("{}/{object}", object.volume())),
    }
}

/// Lists index tables and leases.
pub(super) const TABLES: &str = "list.tables";

/// Lists the objects of all volumes whose id has this lowest byte.
pub(super) fn part(part: u8) -> String {
    format!("list.{part:02x}")
}

/// Lists the content objects whose digest begins with this byte.
pub(super) fn contents(first: u8) -> String {
    format!("list.content.{first:02x}")
}

/// What a key in [`part`] lists.
pub(super) fn parse_listed(key: &str) -> Option<Object> {
    let (id, name) = key.split_once('/')?;
    let object = parse(name)?;
    (object.volume() == id.parse().ok()? && object.to_string() == name).then_some(object)
}

/// What a key in [`contents`] lists.
pub(super) fn parse_content(key: &str) -> Option<Digest> {
    key.parse().ok()
}

/// The object of this name, but for content objects.
pub(super) fn parse(name: &str) -> Option<Object> {
    let (kind, rest) = name.split_once('.')?;
    if let Some(kind) = kind.strip_prefix("content/") {
        return match (kind, rest.split_once('.')) {
            ("i", None) => Some(Object::Index(number(rest, 16)?)),
            ("l", Some((claim, part))) => Some(Object::Lease(number(claim, 16)?, number(part, 16)?)),
            _ => None,
        };
    }
    let (id, last) = rest.split_once('.')?;
    let id: VolumeId = id.parse().ok()?;
    let short = || number(last, 8).map(|n| n as u32);
    let long = || number(last, 16);
    Some(match kind {
        "log" => Object::Log(id, short()?),
        "pack" => Object::Pack(id, short()?),
        "data" => Object::Data(id, long()?),
        "redirect" => Object::Redirect(id, long()?),
        "sum" => Object::Sum(id, long()?),
        _ => return None,
    })
}

/// A number of so many hex digits.
fn number(text: &str, digits: usize) -> Option<u64> {
    if text.len() != digits || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

/// What holds the records of maps with this id.
pub(super) fn catalog(shard: usize) -> String {
    format!("catalog.{shard:02x}")
}

/// What holds a record.
pub(super) fn record_object(key: RecordKey) -> String {
    match key {
        RecordKey::Store => key.to_string(),
        RecordKey::Header(id) | RecordKey::Trash(id) => catalog(id.0 as usize % SHARDS),
    }
}

/// Keys of a record and of its version.
pub(super) fn record_keys(key: RecordKey) -> (String, String) {
    match key {
        RecordKey::Store => ("h".to_string(), "v".to_string()),
        RecordKey::Header(id) => (format!("{HEADERS}{id}"), format!("v.{id}")),
        RecordKey::Trash(id) => (format!("{TRASHED}{id}"), format!("w.{id}")),
    }
}

/// Prefix of headers in the catalogue.
pub(super) const HEADERS: &str = "h.";
/// Prefix of headers in the trash.
pub(super) const TRASHED: &str = "t.";

/// A version as it is compared.
pub(super) fn version_text(version: u64) -> String {
    format!("{version:016x}")
}

/// What holds the names of one shard.
pub(super) fn names(shard: usize) -> String {
    format!("names.{shard:02x}")
}

/// The shard of a name.
pub(super) fn shard_of(name: &str) -> usize {
    crc32c(name.as_bytes()) as usize % SHARDS
}

/// On which the lock of a volume is taken. It is there while somebody holds it, and may be left over from who shared it or died.
pub(super) fn lock_object(volume: VolumeId) -> String {
    format!("lock.{volume}")
}

/// On which a process is called.
pub(super) fn process_object(process: &str) -> String {
    format!("proc.{process}")
}

/// What the holder of a lock gives with it: its process, a number of its own, and its record.
pub(super) fn cookie(process: &str, random: u64, owner: &[u8]) -> String {
    // The record was checked: it is ASCII.
    format!("{process}.{random:016x}.{}", String::from_utf8_lossy(owner))
}

/// The process and the record in a cookie.
pub(super) fn parse_cookie(cookie: &str) -> Option<(&str, &[u8])> {
    let mut parts = cookie.splitn(3, '.');
    let (process, random, owner) = (parts.next()?, parts.next()?, parts.next()?);
    (is_process(process) && random.len() == 16).then_some((process, owner.as_bytes()))
}

/// Whether this names a process: 16 hex digits.
pub(super) fn is_process(text: &str) -> bool {
    number(text, 16).is_some()
}

/// A record as it is stored.
pub(crate) fn encode_record(key: RecordKey, version: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + payload.len());
    bytes.extend(version.to_le_bytes());
    bytes.extend(id_of(key).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    let sum = sum_of(&bytes);
    bytes[16..20].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Version and payload of what is stored, or what is wrong with it.
pub(crate) fn decode_record(key: RecordKey, bytes: &[u8]) -> Result<(u64, &[u8]), String> {
    let Some((head, payload)) = bytes.split_first_chunk::<20>() else {
        return Err(format!("a record of {} bytes is none", bytes.len()));
    };
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
    let (version, id) = (word(0), word(8));
    if head[16..] != sum_of(bytes).to_le_bytes() {
        return Err(format!("the checksum of {} is wrong", hex::encode(&bytes[..20])));
    }
    if id != id_of(key) {
        return Err(format!("it is the record of {id:016x}"));
    }
    if version == 0 {
        return Err("it has no version".to_string());
    }
    Ok((version, payload))
}

fn id_of(key: RecordKey) -> u64 {
    match key {
        RecordKey::Store => 0,
        RecordKey::Header(id) | RecordKey::Trash(id) => id.0,
    }
}

fn sum_of(bytes: &[u8]) -> u32 {
    crate::checksum::crc32c_append(crc32c(&bytes[..16]), &bytes[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: VolumeId = VolumeId(0x5eed_0000_0000_00a1);

    #[test]
    fn what_is_listed_is_found_again() {
        let all = [
            Object::Log(V, 3),
            Object::Pack(V, u32::MAX),
            Object::Data(V, u64::MAX),
            Object::Redirect(V, 1),
            Object::Sum(V, 2),
        ];
        for object in all {
            let (list, key) = listing(object);
            assert_eq!(list, "list.a1");
            assert_eq!(parse_listed(&key), Some(object), "{key}");
        }
        for object in [Object::Index(7), Object::Lease(1, 2)] {
            let (list, key) = listing(object);
            assert_eq!((list.as_str(), parse(&key)), (TABLES, Some(object)));
        }
        let digest = Digest([0xab; 32]);
        let (list, key) = listing(Object::Content(digest));
        assert_eq!((list.as_str(), parse_content(&key)), ("list.content.ab", Some(digest)));
    }

    #[test]
    fn what_nobody_lists_is_nothing() {
        for key in [
            "",
            "5eed0000000000a1",
            "5eed0000000000a1/log.5eed0000000000a1.3",
            "5eed0000000000a1/log.5eed0000000000a2.00000003",
            "5eed0000000000a1/data.5eed0000000000a1.00000003",
            "5eed0000000000a1/log.5eed0000000000a1.0000000G",
            "5eed0000000000a1/content/i.0000000000000007",
        ] {
            assert_eq!(parse_listed(key), None, "{key}");
        }
    }

    #[test]
    fn the_last_run_has_the_first_key() {
        let keys: Vec<String> = [300u64, 2, 1, 0].map(run_key).to_vec();
        assert!(keys.is_sorted());
        assert_eq!(keys.iter().map(|key| parse_run(key)).collect::<Vec<_>>(), [Some(300), Some(2), Some(1), Some(0)]);
        assert_eq!(parse_run("r.1"), None);
    }

    #[test]
    fn a_cookie_says_who_holds_the_lock() {
        let text = cookie("00c0ffee00c0ffee", 7, b"a.b-c");
        assert_eq!(parse_cookie(&text), Some(("00c0ffee00c0ffee", &b"a.b-c"[..])));
        assert_eq!(parse_cookie(&cookie("00c0ffee00c0ffee", 7, b"")), Some(("00c0ffee00c0ffee", &b""[..])));
        for other in ["", "foo", "auto 94738", "00c0ffee00c0ffe.0000000000000007.x"] {
            assert_eq!(parse_cookie(other), None, "{other}");
        }
    }

    #[test]
    fn every_changed_bit_of_a_record_is_noticed() {
        let key = RecordKey::Header(V);
        let bytes = encode_record(key, 9, b"payload");
        assert_eq!(decode_record(key, &bytes), Ok((9, &b"payload"[..])));
        assert!(decode_record(RecordKey::Header(VolumeId(1)), &bytes).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_record(key, &altered).is_err(), "bit {bit}");
        }
        for len in 0..20 {
            assert!(decode_record(key, &bytes[..len]).is_err());
        }
    }
}
