//! Content addressing: tables of the index, redirect tables, files of leases. And checksums.

use std::io::IoSlice;
use std::sync::Arc;

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::{Blocker, Object};
use archipelago_core::format::index::{self, IndexEntry, IndexHead, PAGE, PAGE_ENTRIES, Slot};
use archipelago_core::format::lease::{self, ATOM_DIGESTS, LeaseHead, MAX_CLAIMANT};
use archipelago_core::format::redirect::{self, RedirectEntry, RedirectHead};
use archipelago_core::format::sums::{SECTORS, SumAtom};
use archipelago_core::fuzzing::{self, Index};
use archipelago_core::limits::{ATOM, MAX_INDEX_TABLES, MAX_VOLUME_SIZE};
use archipelago_core::{Digest, Error, VolumeId};

use super::{is_zero, mode, refused, seal, with_mode};
use crate::Target;

/// A store that holds one object of these bytes.
fn store(object: Object, bytes: &[u8]) -> Arc<MemoryBlocker> {
    let blocker = MemoryBlocker::new();
    blocker.create(object, bytes, bytes.len() as u64).expect("a new object");
    blocker
}

/// The head of an index table and its pages: mode, 24 bytes of the head, pages of which the last is filled up. Mode bit 0 makes the
/// head that of its pages, bit 1 puts their checksums right, bit 2 table, number and count of each.
pub const INDEX_TABLE: Target = Target {
    name: "index_table",
    check: index_table,
    seeds: index_seeds,
    max_len: 1 + HEAD + 3 * PAGE,
    memory: 2 << 20,
    cost: 3,
};

/// Its id, and bytes of a head that are not always zeros or the checksum.
const TABLE: u64 = 0x1d1d;
const HEAD: usize = 24;
/// A table that the others are merged into.
const MERGED: u64 = 0x3e3e;
/// Entries that are looked up.
const LOOKUPS: usize = 24;

fn index_table(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let (start, bytes) = bytes.split_at(bytes.len().min(HEAD));
    let mut pages = bytes.to_vec();
    pages.resize(bytes.len().next_multiple_of(PAGE), 0);
    let count = pages.len() / PAGE;
    let mut entries = 0;
    for (number, page) in pages.chunks_exact_mut(PAGE).enumerate() {
        if mode & 4 != 0 {
            page[..5].copy_from_slice(b"AIXP\x01");
            let last = page[64..].iter().rposition(|byte| *byte != 0).map_or(1, |at| at / index::ENTRY + 1);
            page[5] = if number + 1 < count { PAGE_ENTRIES as u8 } else { last as u8 };
            page[8..16].copy_from_slice(&TABLE.to_le_bytes());
            page[16..24].copy_from_slice(&(number as u64).to_le_bytes());
        }
        if mode & 2 != 0 {
            let sum = crc32c::crc32c_append(crc32c::crc32c(&page[..60]), &page[64..]);
            page[60..64].copy_from_slice(&sum.to_le_bytes());
        }
        entries += u64::from(page[5]);
        one_form_of_page(page, number as u64);
    }
    let mut head = vec![0; ATOM];
    head[..start.len()].copy_from_slice(start);
    if mode & 1 != 0 {
        head = IndexHead { id: TABLE, entries: entries.max(1) }.encode().to_vec();
    } else if !is_zero(start) {
        seal(&mut head);
    }
    match IndexHead::decode("index", &head) {
        Ok(Some(read)) => {
            assert_eq!(read.encode()[..], head[..]);
            assert!(
                read.entries > 0
                    && read.entries <= MAX_VOLUME_SIZE
                    && read.pages() * PAGE_ENTRIES as u64 >= read.entries
            );
        }
        Ok(None) => assert!(is_zero(&head)),
        Err(error) => refused(&error),
    }
    head.resize(PAGE, 0);
    as_a_whole(&[head, pages.clone()].concat(), &pages);
}

fn one_form_of_page(page: &[u8], number: u64) {
    match index::decode_page("index", page, TABLE, number) {
        Ok(entries) => {
            assert_eq!(index::encode_page(TABLE, number, &entries), page, "another form of the page");
            assert!((1..=PAGE_ENTRIES).contains(&entries.len()));
            assert!(entries.is_sorted_by(|a, b| a.digest < b.digest));
            assert!(entries.iter().all(|entry| entry.slot.owner.0 != 0 && entry.slot.len > 0));
        }
        Err(error) => refused(&error),
    }
}

/// A table as it is searched and merged: where all of it is sound, everything is found, and only that.
fn as_a_whole(table: &[u8], pages: &[u8]) {
    let blocker = store(Object::Index(TABLE), table);
    let index = Index::default();
    let all = Index::entries(&*blocker, TABLE);
    let read: Vec<IndexEntry> = pages
        .chunks_exact(PAGE)
        .zip(0..)
        .filter_map(|(page, number)| index::decode_page("index", page, TABLE, number).ok())
        .flatten()
        .collect();
    let some = || read.iter().step_by(read.len() / LOOKUPS + 1);
    match all {
        Ok(Some(entries)) => {
            assert!(entries.is_sorted_by(|a, b| a.digest < b.digest), "out of order");
            for IndexEntry { digest, slot } in some() {
                assert_eq!(index.find(&*blocker, *digest).expect("a sound table"), Some(*slot));
                let mut next = *digest;
                next.0[31] ^= 1;
                let there = entries.binary_search_by_key(&next, |entry| entry.digest).ok().map(|at| entries[at].slot);
                assert_eq!(index.find(&*blocker, next).expect("a sound table"), there);
            }
            merged(&*blocker, &index, &entries);
        }
        // Not finished: nothing of it counts.
        Ok(None) => {
            for IndexEntry { digest, .. } in some() {
                assert_eq!(index.find(&*blocker, *digest).expect("no table"), None);
            }
        }
        Err(error) => {
            refused(&error);
            for IndexEntry { digest, .. } in some() {
                if let Err(error) = index.find(&*blocker, *digest) {
                    refused(&error);
                }
            }
            with_others(&*blocker);
            if let Err(error) = index.merge(&*blocker, MERGED) {
                refused(&error);
            }
            // Whatever became of it, no table was made that cannot be read.
            if let Err(error) = Index::entries(&*blocker, MERGED) {
                panic!("merged into what cannot be read: {error}");
            }
        }
    }
}

/// Adds as many small tables as make a merge due.
fn with_others(blocker: &dyn Blocker) {
    for id in 1..=MAX_INDEX_TABLES as u64 {
        let slot = Slot { owner: VolumeId(300), epoch: 1, block: id, len: 1, shift: 22 };
        let entry = IndexEntry { digest: Digest::of_bytes(&id.to_le_bytes()), slot };
        let mut table = IndexHead { id, entries: 1 }.encode().to_vec();
        table.resize(PAGE, 0);
        table.extend(index::encode_page(id, 0, &[entry]));
        blocker.create(Object::Index(id), &table, table.len() as u64).expect("a new table");
    }
}

fn merged(blocker: &dyn Blocker, index: &Index, entries: &[IndexEntry]) {
    with_others(blocker);
    assert!(index.merge(blocker, MERGED).expect("sound tables"), "a merge is due");
    let others = (1..=MAX_INDEX_TABLES as u64).map(|id| Digest::of_bytes(&id.to_le_bytes()));
    let some = entries.iter().step_by(entries.len() / LOOKUPS + 1).map(|entry| entry.digest);
    for digest in others.chain(some) {
        assert!(index.find(blocker, digest).expect("sound tables").is_some(), "{digest} was lost");
    }
}

fn entry(n: u64) -> IndexEntry {
    let slot = Slot { owner: VolumeId(n + 1), epoch: n, block: n, len: n as u32 + 1, shift: 22 };
    IndexEntry { digest: Digest::of_bytes(&n.to_le_bytes()), slot }
}

fn index_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![with_mode(0, &[]), with_mode(0, &[0; HEAD])];
    for count in [1u64, 2, 63, 64, 126, 180] {
        let mut entries: Vec<_> = (0..count).map(entry).collect();
        entries.sort();
        let head = IndexHead { id: TABLE, entries: count }.encode();
        let chunks = entries.chunks(PAGE_ENTRIES).zip(0..);
        let pages: Vec<u8> = chunks.flat_map(|(chunk, number)| index::encode_page(TABLE, number, chunk)).collect();
        let end = pages.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        let table = [&head[..HEAD], &pages[..end]].concat();
        seeds.extend([0, 3, 7].map(|mode| with_mode(mode, &table)));
        // Both pages in order, the table not.
        if let ([first, second], mode) = (&entries.chunks(PAGE_ENTRIES).collect::<Vec<_>>()[..], 7) {
            let swapped = [index::encode_page(TABLE, 0, second), index::encode_page(TABLE, 1, first)].concat();
            seeds.push(with_mode(mode, &[&head[..HEAD], &swapped].concat()));
        }
    }
    seeds
}

/// A redirect table: mode, 24 bytes of the head, entries from block 0 on. Mode bit 0 makes the head that of the table, bit 1 puts
/// the checksums of entries right, bit 2 their block numbers.
pub const REDIRECT_TABLE: Target = Target {
    name: "redirect_table",
    check: redirect_table,
    seeds: redirect_seeds,
    max_len: 1 + HEAD + 300 * redirect::ENTRY,
    memory: 512 << 10,
    cost: 1,
};

const OWNER: VolumeId = VolumeId(0xa1);
const EPOCH: u64 = 3;

fn redirect_table(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let (start, bytes) = bytes.split_at(bytes.len().min(HEAD));
    let mut entries = bytes.to_vec();
    for (block, entry) in entries.chunks_exact_mut(redirect::ENTRY).enumerate() {
        if is_zero(entry) {
            continue;
        }
        if mode & 4 != 0 {
            entry[40..48].copy_from_slice(&(block as u64).to_le_bytes());
        }
        if mode & 2 != 0 {
            let sum = crc32c::crc32c(&entry[..60]);
            entry[60..].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let mut head = vec![0; ATOM];
    head[..start.len()].copy_from_slice(start);
    if mode & 1 != 0 {
        let shift = 16 + start.get(5).copied().unwrap_or(0) % 11;
        let moved = start.get(6).is_some_and(|flags| flags & 1 != 0);
        head = RedirectHead { owner: OWNER, epoch: EPOCH, shift, moved }.encode().to_vec();
    } else if !is_zero(start) {
        seal(&mut head);
    }
    match RedirectHead::decode("redirect", &head) {
        Ok(Some(read)) => {
            assert_eq!(read.encode()[..], head[..], "another form of the head");
            assert!((16..=26).contains(&read.shift) && read.owner.0 != 0);
            one_form_of_entries(&entries, read.shift);
        }
        Ok(None) => assert!(is_zero(&head)),
        Err(error) => refused(&error),
    }
    head.resize(redirect::FIRST as usize, 0);
    fuzzing::alone(|| as_it_is_read(&[&head[..], &entries].concat(), &entries));
}

fn one_form_of_entries(entries: &[u8], shift: u8) {
    for (bytes, block) in entries.chunks(redirect::ENTRY).zip(0..) {
        match RedirectEntry::decode("redirect", bytes, block, shift) {
            Ok(Some(read)) => {
                assert_eq!(read.encode(block), *bytes, "another form of the entry");
                assert!(read.len > 0 && u64::from(read.len) <= 1 << shift);
            }
            Ok(None) => assert!(is_zero(bytes)),
            Err(error) => refused(&error),
        }
    }
}

/// A table through all that read it: what they say is the same.
fn as_it_is_read(table: &[u8], entries: &[u8]) {
    let object = Object::Redirect(OWNER, EPOCH);
    let blocker = store(object, table);
    let blocks = entries.len().div_ceil(redirect::ENTRY) as u64 + 1;
    let one_by_one: Vec<_> = (0..blocks).map(|block| fuzzing::redirect_entry(&*blocker, OWNER, EPOCH, block)).collect();
    let head = match fuzzing::redirect_head(&*blocker, OWNER, EPOCH) {
        Ok(head) => head,
        Err(error) => return refused(&error),
    };
    for (read, moved) in one_by_one.iter().zip(fuzzing::moved(&*blocker, OWNER, EPOCH, blocks)) {
        match (moved, read) {
            (Ok(digest), Ok(entry)) => {
                let counts = head.is_some_and(|head| head.moved);
                assert_eq!(digest, entry.filter(|entry| counts && entry.moved).map(|entry| entry.digest));
            }
            (Ok(digest), Err(_)) => assert!(digest.is_none(), "a damaged entry says where something is"),
            (Err(error), _) => refused(&error),
        }
    }
    let mut known = Vec::new();
    for (block, read) in (0..).zip(&one_by_one) {
        match read {
            Ok(None) => {}
            Ok(Some(entry)) => {
                let shift = head.expect("a table without a head says nothing").shift;
                let slot = Slot { owner: OWNER, epoch: EPOCH, block, len: entry.len, shift };
                let confirmed =
                    |slot, digest| fuzzing::redirect_confirms(&*blocker, &slot, digest).expect("it was read");
                assert_eq!(confirmed(slot, entry.digest), !entry.moved);
                assert!(!confirmed(slot, Digest::ZERO) || entry.digest == Digest::ZERO);
                assert!(!confirmed(Slot { len: entry.len ^ 1, ..slot }, entry.digest));
                known.push((block, *entry));
            }
            Err(error) => refused(error),
        }
    }
    // The last entry may be cut: whoever goes through all of them does not see it.
    match fuzzing::redirect_entries(&*blocker, OWNER, EPOCH) {
        Ok(read) => {
            let cut = !entries.len().is_multiple_of(redirect::ENTRY);
            assert!(known == read || cut && known.starts_with(&read));
        }
        Err(error) => {
            refused(&error);
            assert!(one_by_one.iter().any(Result::is_err), "{error}");
        }
    }
}

fn redirect_seeds() -> Vec<Vec<u8>> {
    let head = RedirectHead { owner: OWNER, epoch: EPOCH, shift: 22, moved: true }.encode();
    let entry = |block: u64| RedirectEntry {
        digest: Digest::of_bytes(&block.to_le_bytes()),
        len: 1 << (block % 23),
        moved: block.is_multiple_of(7),
    };
    let mut seeds = vec![with_mode(0, &[]), with_mode(0, &[0; HEAD])];
    for blocks in [&[0u64][..], &[2], &[0, 1, 2, 3], &[7, 8], &[0, 255, 256, 299]] {
        let mut entries = vec![0; (blocks[blocks.len() - 1] as usize + 1) * redirect::ENTRY];
        for block in blocks {
            let at = *block as usize * redirect::ENTRY;
            entries[at..at + redirect::ENTRY].copy_from_slice(&entry(*block).encode(*block));
        }
        let table = [&head[..HEAD], &entries].concat();
        seeds.extend([0, 3, 7].map(|mode| with_mode(mode, &table)));
    }
    seeds
}

/// A file of leases: mode, 32 bytes of the head and the claimant behind them up to a zero, then atoms. Mode bit 0 makes claim and part of the
/// head those of the file, bit 1 puts the checksums of atoms right, bit 2 their parts and numbers.
pub const LEASE_FILE: Target = Target {
    name: "lease_file",
    check: lease_file,
    seeds: lease_seeds,
    max_len: 1 + LEASE_HEAD + 24 * ATOM,
    memory: 512 << 10,
    cost: 1,
};

/// Bytes of the head of a file of leases that are not always zeros or the checksum.
const LEASE_HEAD: usize = 32 + MAX_CLAIMANT;
const CLAIM: u64 = 0xc1;
const PART: u64 = 0x9a;

fn lease_file(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let (start, bytes) = bytes.split_at(bytes.len().min(LEASE_HEAD));
    let mut atoms = bytes.to_vec();
    for (atom, number) in atoms.chunks_exact_mut(ATOM).zip(1u32..) {
        if is_zero(atom) {
            continue;
        }
        if mode & 4 != 0 {
            atom[..4].copy_from_slice(b"ALSD");
            atom[8..16].copy_from_slice(&PART.to_le_bytes());
            atom[16..20].copy_from_slice(&number.to_le_bytes());
        }
        if mode & 2 != 0 {
            seal(atom);
        }
    }
    let mut head = vec![0; ATOM];
    head[..start.len()].copy_from_slice(start);
    if mode & 1 != 0 {
        head[8..16].copy_from_slice(&CLAIM.to_le_bytes());
        head[16..24].copy_from_slice(&PART.to_le_bytes());
    }
    if !is_zero(&head) {
        seal(&mut head);
    }
    let known = match LeaseHead::decode("lease", &head) {
        Ok(Some(read)) => {
            assert_eq!(read.encode().expect("what was read can be written")[..], head[..], "another form of the head");
            (read.claim, read.part) == (CLAIM, PART)
        }
        Ok(None) => {
            assert!(is_zero(&head));
            false
        }
        Err(error) => {
            refused(&error);
            false
        }
    };
    // Up to the first atom of zeros, or to the end.
    let mut leased: Result<Vec<Digest>, Error> = Ok(Vec::new());
    for (atom, number) in atoms.chunks(ATOM).zip(1u32..) {
        let whole = atom.len() == ATOM;
        match lease::decode_atom("lease", atom, PART, number) {
            Ok(digests) if digests.is_empty() => break,
            Ok(digests) => {
                assert_eq!(lease::encode_atom(PART, number, &digests), *atom, "another form of the atom");
                assert!(whole && digests.len() <= ATOM_DIGESTS);
                leased.as_mut().expect("no error yet").extend(digests);
            }
            Err(error) => {
                refused(&error);
                if whole {
                    leased = Err(error);
                }
                break;
            }
        }
    }
    let blocker = store(Object::Lease(CLAIM, PART), &[&head[..], &atoms].concat());
    // Whoever reads on reads only what was appended: behind zeros nobody looks for anything.
    let number = atoms.len().div_ceil(ATOM) as u32 + 1;
    let new = Digest::of_bytes(b"appended");
    let atom = lease::encode_atom(PART, number, &[new]);
    let at = u64::from(number) * ATOM as u64;
    let append = || {
        let written = blocker.write(Object::Lease(CLAIM, PART), &[IoSlice::new(&atom)], at);
        written.expect("room for another atom");
    };
    match (fuzzing::leased(&*blocker, append), leased) {
        (Ok((first, then)), Ok(expected)) if known => {
            assert_eq!(first, expected);
            assert!(then.is_empty() || then == [new], "{} digests are read again", then.len());
            assert!(!then.is_empty() || atoms.chunks(ATOM).any(is_zero), "what was appended is passed over");
        }
        (Ok((first, then)), _) => {
            assert!(!known && first.is_empty() && then.is_empty(), "without a head it holds nothing")
        }
        (Err(error), leased) => {
            refused(&error);
            assert!(!known || leased.is_err() || !atoms.len().is_multiple_of(ATOM), "{error}");
        }
    }
}

fn lease_seeds() -> Vec<Vec<u8>> {
    let head = |ended, claimant: &str| {
        let head = LeaseHead { claim: CLAIM, part: PART, ended, time: 1_770_000_000, claimant: claimant.into() };
        head.encode().expect("a short text")[..LEASE_HEAD].to_vec()
    };
    let digests: Vec<Digest> = (0..40u8).map(|n| Digest::of_bytes(&[n])).collect();
    let mut seeds = vec![with_mode(0, &[]), with_mode(0, &[0; LEASE_HEAD + ATOM]), with_mode(1, &head(true, ""))];
    for count in [1, 15, 16, 40] {
        let atoms: Vec<u8> =
            digests[..count].chunks(ATOM_DIGESTS).zip(1..).flat_map(|(d, n)| lease::encode_atom(PART, n, d)).collect();
        let file = [head(count == 16, "making debian-bookworm"), atoms].concat();
        seeds.extend([0, 3, 7].map(|mode| with_mode(mode, &file)));
    }
    seeds.push(with_mode(7, &head(false, &"n\u{e4}".repeat(42))));
    seeds
}

/// An atom of checksums of sectors: mode, then its bytes. Mode bit 0 puts the checksum right, bit 1 magic, version and place.
pub const SUMS: Target =
    Target { name: "sums", check: sums, seeds: sums_seeds, max_len: 1 + ATOM + 8, memory: 16 << 10, cost: 1 };

/// Number of the atom.
const NUMBER: u64 = 9;

fn sums(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let mut bytes = bytes.to_vec();
    if mode & 3 != 0 {
        bytes.resize(ATOM, 0);
    }
    if mode & 2 != 0 && !is_zero(&bytes) {
        bytes[..8].copy_from_slice(b"ASUM\x01\0\0\0");
        for (field, value) in bytes[8..32].chunks_exact_mut(8).zip([OWNER.0, EPOCH, NUMBER]) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    }
    if mode & 1 != 0 && !is_zero(&bytes) {
        seal(&mut bytes);
    }
    let read = match SumAtom::decode("sum", &bytes, OWNER, EPOCH, NUMBER) {
        Ok(read) => read,
        Err(error) => return refused(&error),
    };
    // What says nothing may be of any length: a file may end in it.
    assert!(read.encode(OWNER, EPOCH, NUMBER)[..] == bytes[..] || read.is_empty() && is_zero(&bytes));
    let known = (0..SECTORS).filter(|sector| read.get(*sector).is_some()).count();
    assert_eq!(read.is_empty(), known == 0);
    assert!((SECTORS..128).all(|sector| read.get(sector).is_none()));
    if !read.is_empty() {
        for (owner, epoch, number) in [(VolumeId(1), EPOCH, NUMBER), (OWNER, 4, NUMBER), (OWNER, EPOCH, 8)] {
            SumAtom::decode("sum", &bytes, owner, epoch, number).expect_err("of another place");
        }
    }
    // A checksum more changes no other.
    let at = usize::from(mode) % SECTORS;
    let mut more = read;
    more.set(at, 7);
    let again =
        SumAtom::decode("sum", &more.encode(OWNER, EPOCH, NUMBER), OWNER, EPOCH, NUMBER).expect("what was written");
    assert!((0..SECTORS).all(|sector| again.get(sector) == if sector == at { Some(7) } else { read.get(sector) }));
}

fn sums_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![with_mode(0, &[]), with_mode(0, &[0; ATOM])];
    for sectors in [&[0usize][..], &[111], &[0, 5, 111], &(0..SECTORS).collect::<Vec<_>>()] {
        let mut atom = SumAtom::default();
        sectors.iter().for_each(|sector| atom.set(*sector, *sector as u32 * 0x0101_0101));
        let bytes = atom.encode(OWNER, EPOCH, NUMBER);
        seeds.extend([0, 1, 3].map(|mode| with_mode(mode, &bytes)));
    }
    seeds
}
