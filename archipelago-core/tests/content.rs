//! Content addressing: blocks by digest, maps from digests, digests of maps, and hashing in place.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::{Blocker, Object};
use archipelago_core::merkle::TopHash;
use archipelago_core::store::content::{HashOptions, HashProgress, Hashed, Leases, NewObject};
use archipelago_core::*;
use tempfile::TempDir;

#[path = "common/random.rs"]
mod random;
use random::bytes;

const KIB: u64 = 1 << 10;
/// Small blocks, so that a map of many of them is quickly written.
const BLOCK: u64 = 64 * KIB;

struct Site {
    blocker: Arc<MemoryBlocker>,
    store: Store,
}

fn options() -> StoreOptions {
    StoreOptions { background: Background::Manual, seed: Some(7), ..StoreOptions::default() }
}

fn site() -> Site {
    let blocker = MemoryBlocker::new();
    Store::init_on(blocker.clone(), &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let store = Store::open_on(blocker.clone(), options()).unwrap();
    Site { blocker, store }
}

impl Site {
    fn volume(&self, name: &str, size: u64) -> Volume {
        self.store.create(name, &CreateOptions { size, block_size: None }).unwrap();
        self.store.open_volume(name, Mode::ReadWrite).unwrap()
    }

    fn hash(&self, name: &str) -> Hashed {
        self.store.hash(name, &HashOptions::default(), &mut |_| true).unwrap()
    }

    fn digests(&self, name: &str) -> Vec<Digest> {
        let mut list = Vec::new();
        self.store
            .digests(name, &mut |d| {
                list.push(d);
                Ok(())
            })
            .unwrap();
        list
    }

    fn object(&self, name: &str, size: u64, list: &[Digest]) -> Result<VolumeInfo> {
        let new = NewObject { name: name.into(), kind: Kind::Object, size, block_size: None };
        self.store.create_object(&new, &mut list.iter().map(|d| Ok(*d)))
    }

    fn read(&self, name: &str) -> Vec<u8> {
        let volume = self.store.open_volume(name, Mode::ReadOnly).unwrap();
        read(&volume)
    }

    fn contents(&self) -> BTreeSet<Digest> {
        let mut all = BTreeSet::new();
        self.store
            .contents(&mut |d| {
                all.insert(d);
                Ok(())
            })
            .unwrap();
        all
    }

    fn tables(&self) -> Vec<Object> {
        self.blocker.content_tables().unwrap()
    }
}

fn read(volume: &Volume) -> Vec<u8> {
    let mut buf = vec![0xaa; volume.size() as usize];
    for (n, piece) in buf.chunks_mut(1 << 20).enumerate() {
        volume.read_at(piece, (n as u64) << 20).unwrap();
    }
    buf
}

/// Digests of some bytes, straight from the definition.
fn plain(bytes: &[u8]) -> Vec<Digest> {
    bytes.chunks(BLOCK as usize).map(|block| Digest::of(block).0).collect()
}

fn top(list: &[Digest]) -> Digest {
    let mut top = TopHash::default();
    list.iter().for_each(|d| top.push(*d));
    top.finish()
}

#[test]
fn a_block_is_stored_once_under_the_digest_that_is_computed_here() {
    let s = site();
    let claim = s.store.claim("a test").unwrap();
    let block = bytes(1, 5000);
    let put = claim.put(&block).unwrap();
    assert_eq!((put.digest, put.new), (Digest::of_bytes(&block), true));
    // Trailing NULs are not part of it.
    let padded = [block.clone(), vec![0; 3000]].concat();
    assert!(!claim.put(&padded).unwrap().new);
    // Zeros are stored nowhere.
    for zeros in [0, 1, BLOCK as usize] {
        let put = claim.put(&vec![0; zeros]).unwrap();
        assert_eq!((put.digest, put.new), (Digest::ZERO, false));
    }
    assert_eq!(s.contents(), BTreeSet::from([Digest::of_bytes(&block)]));
    assert_eq!(s.blocker.content_len(put.digest).unwrap(), Some(5000));
    assert!(matches!(claim.put(&vec![1; (64 << 20) + 1]), Err(Error::InvalidArgument(_))));
    let unknown = Digest::of_bytes(b"never put");
    let asked = [unknown, put.digest, Digest::ZERO, unknown];
    assert_eq!(claim.missing(&asked).unwrap(), [unknown, unknown]);
    assert!(matches!(claim.missing(&vec![unknown; 8193]), Err(Error::InvalidArgument(_))));
    claim.end().unwrap();
    assert_eq!(s.store.expire_claims(0).unwrap(), 1);
    assert_eq!(s.tables(), [], "no lease is left");
}

#[test]
fn a_map_made_from_digests_reads_as_the_blocks_and_gives_the_list_back() {
    let s = site();
    let claim = s.store.claim("a test").unwrap();
    for (size, zero) in [(1, 9), (4096, 9), (BLOCK, 9), (BLOCK + 1, 9), (3 * BLOCK - 5, 1), (200 * BLOCK + 70, 130)] {
        let mut data = bytes(size, size as usize);
        for (n, block) in data.chunks_mut(BLOCK as usize).enumerate() {
            match n % 5 {
                _ if n == zero => block.fill(0),
                3 => block[3000..].fill(0),
                _ => {}
            }
        }
        let list: Vec<_> = data.chunks(BLOCK as usize).map(|b| claim.put(b).unwrap().digest).collect();
        assert_eq!(list, plain(&data));
        let name = format!("object-{size}");
        let info = s.object(&name, size, &list).unwrap();
        assert_eq!((info.kind, info.size, info.read_only), (Kind::Object, size, true));
        assert!(info.mapped <= size);
        assert!(s.read(&name) == data, "{size}");
        assert_eq!(s.digests(&name), list);
        let found = s.store.digests(&name, &mut |_| Ok(())).unwrap();
        assert_eq!((found.size, found.count, found.top_hash), (size, list.len() as u64, top(&list)));
        // Hashing it finds everything known, and makes nothing.
        let before = (s.contents(), s.tables());
        let hashed = s.hash(&name);
        assert_eq!((hashed.top_hash, hashed.progress.hashed), (Some(top(&list)), 0));
        assert_eq!((s.contents(), s.tables()), before);
        // It is written by nobody, and its clones are.
        assert!(matches!(s.store.open_volume(&name, Mode::ReadWrite), Err(Error::ReadOnly(_))));
    }
}

#[test]
fn scenario_12_a_map_from_a_list_is_refused_where_list_and_size_do_not_fit_and_shares_its_blocks() {
    let s = site();
    let claim = s.store.claim("a test").unwrap();
    let data = bytes(5, (25 * BLOCK) as usize);
    let list: Vec<_> = data.chunks(BLOCK as usize).map(|b| claim.put(b).unwrap().digest).collect();
    s.object("object-1", 25 * BLOCK, &list).unwrap();
    assert!(matches!(s.object("object-1", 25 * BLOCK, &list), Err(Error::Exists(_))));
    for size in [24 * BLOCK, 25 * BLOCK + 1, 50 * BLOCK] {
        assert!(matches!(s.object("object-2", size, &list), Err(Error::InvalidArgument(_))), "{size}");
    }
    // The last block reaches past the end: a larger clone would show it.
    assert!(matches!(s.object("object-2", 25 * BLOCK - 1, &list), Err(Error::InvalidArgument(_))));
    for block_size in [0, 128, 65_537, 128 << 20] {
        let new = NewObject { name: "object-2".into(), kind: Kind::Object, size: 8, block_size: Some(block_size) };
        let made = s.store.create_object(&new, &mut list.iter().take(1).map(|d| Ok(*d)));
        assert!(matches!(made, Err(Error::InvalidArgument(_))), "{block_size}");
    }
    let mut unknown = list.clone();
    unknown[20] = Digest::of_bytes(b"never put");
    let error = s.object("object-2", 25 * BLOCK, &unknown).unwrap_err();
    assert!(matches!(&error, Error::NotFound(text) if text.contains("block 20")), "{error}");
    assert!(matches!(s.store.info("object-2"), Err(Error::NotFound(_))));
    let before = s.contents();
    s.object("object-2", 25 * BLOCK, &list).unwrap();
    assert_eq!(s.contents(), before);
    s.store.clone_snapshot("object-2", "volume-2", &CloneOptions::default()).unwrap();
    let volume = s.store.open_volume("volume-2", Mode::ReadWrite).unwrap();
    volume.write_at(&[7; 100], 3 * BLOCK + 10).unwrap();
    volume.flush().unwrap();
    assert!(s.read("object-2") == data && s.read("object-1") == data);
}

#[test]
fn a_clone_of_content_is_written_sector_by_sector_and_goes_its_own_way() {
    let s = site();
    let claim = s.store.claim("a test").unwrap();
    let data = bytes(9, (6 * BLOCK) as usize);
    let mut image = data.clone();
    // A block that is shorter than its place.
    image[(BLOCK + 5000) as usize..(2 * BLOCK) as usize].fill(0);
    let list: Vec<_> = image.chunks(BLOCK as usize).map(|b| claim.put(b).unwrap().digest).collect();
    s.object("object-1", 6 * BLOCK, &list).unwrap();
    s.store.clone_snapshot("object-1", "volume-1", &CloneOptions { size: Some(8 * BLOCK) }).unwrap();
    let volume = s.store.open_volume("volume-1", Mode::ReadWrite).unwrap();
    let mut now = [image.clone(), vec![0; 2 * BLOCK as usize]].concat();
    let mut random = random::Random(3);
    for n in 0..300u64 {
        let (offset, len) = (random.below(8 * BLOCK - 9000), 1 + random.below(9000));
        match n % 7 {
            0 => {
                volume.discard(offset, len).unwrap();
                let (from, to) = (offset.next_multiple_of(4096), (offset + len) / 4096 * 4096);
                if from < to {
                    now[from as usize..to as usize].fill(0);
                }
            }
            _ => {
                let piece = bytes(n, len as usize);
                volume.write_at(&piece, offset).unwrap();
                now[offset as usize..][..piece.len()].copy_from_slice(&piece);
            }
        }
        if n % 60 == 59 {
            volume.checkpoint().unwrap();
            volume.snapshot(&format!("snapshot-{n}")).unwrap();
        }
        if n % 20 == 0 {
            assert!(read(&volume) == now, "after {n}");
        }
    }
    volume.close().unwrap();
    assert!(s.read("volume-1") == now && s.read("object-1") == image);
    // In pieces by now: hashing makes it whole again, and the bytes stay.
    let volume = s.store.open_volume("volume-1", Mode::ReadWrite).unwrap();
    volume.snapshot("snapshot-last").unwrap();
    drop(volume);
    let hashed = s.hash("snapshot-last");
    assert_eq!(hashed.top_hash, Some(top(&plain(&now))));
    assert_eq!(s.digests("snapshot-last"), plain(&now));
    assert!(s.read("snapshot-last") == now && s.read("volume-1") == now);
}

#[test]
fn scenario_15_a_snapshot_hashes_to_the_top_hash_of_its_blocks_again_and_again() {
    let s = site();
    let volume = s.volume("volume-1", 10 << 20);
    let data = bytes(4, 512 << 10);
    volume.write_at(&data, 0).unwrap();
    assert!(matches!(s.store.hash("volume-1", &HashOptions::default(), &mut |_| true), Err(Error::NotSnapshot(_))));
    volume.snapshot("snapshot-1").unwrap();
    assert!(matches!(s.store.digests("snapshot-1", &mut |_| Ok(())), Err(Error::Unsupported(_))));
    let all = [data.clone(), vec![0; (10 << 20) - data.len()]].concat();
    let hashed = s.hash("snapshot-1");
    assert_eq!(hashed.top_hash, Some(top(&plain(&all))));
    assert_eq!((hashed.progress.hashed, hashed.progress.blocks, hashed.progress.total), (512 << 10, 160, 160));
    // Large writes: nothing had to be composed, so no data was written.
    assert_eq!((hashed.progress.composed, s.contents()), (0, BTreeSet::new()));
    let made = s.tables();
    for _ in 0..3 {
        let again = s.hash("snapshot-1");
        assert_eq!((again.top_hash, again.progress.hashed, again.progress.known), (hashed.top_hash, 0, 8));
    }
    assert_eq!((s.contents(), s.tables()), (BTreeSet::new(), made), "no new objects");
    // The name that it hashes to, as a map.
    let name = hashed.top_hash.unwrap().to_string();
    let list = s.digests("snapshot-1");
    assert_eq!(list, plain(&all));
    s.object(&name, 10 << 20, &list).unwrap();
    s.store.clone_snapshot(&name, "volume-2", &CloneOptions { size: Some(20 << 20) }).unwrap();
    assert!(s.read("volume-2") == [all.clone(), vec![0; 10 << 20]].concat());
    // The same content elsewhere hashes the same.
    let other = s.volume("volume-3", 10 << 20);
    other.write_at(&data, 0).unwrap();
    other.snapshot("snapshot-3").unwrap();
    let same = s.hash("snapshot-3");
    assert_eq!((same.top_hash, same.progress.duplicates), (hashed.top_hash, 8));
    assert_eq!(s.contents(), BTreeSet::new());
}

#[test]
fn a_block_is_known_by_its_slot_only_if_the_slot_holds_nothing_else() {
    let s = site();
    let volume = s.volume("volume-1", 4 * BLOCK);
    let data = bytes(4, 4 * BLOCK as usize);
    volume.write_at(&data, 0).unwrap();
    // What the older snapshot has of the slots that the younger one names in part.
    volume.snapshot("snapshot-1").unwrap();
    volume.discard(BLOCK / 2, BLOCK / 2).unwrap();
    volume.discard(BLOCK + 8192, 4096).unwrap();
    volume.discard(2 * BLOCK, BLOCK).unwrap();
    volume.snapshot("snapshot-2").unwrap();
    let mut now = data.clone();
    for (from, len) in [(BLOCK / 2, BLOCK / 2), (BLOCK + 8192, 4096), (2 * BLOCK, BLOCK)] {
        now[from as usize..(from + len) as usize].fill(0);
    }
    for (name, expected) in [("snapshot-2", &now), ("snapshot-1", &data), ("snapshot-2", &now)] {
        assert_eq!(s.hash(name).top_hash, Some(top(&plain(expected))));
        assert_eq!(s.digests(name), plain(expected));
        assert!(s.read(name) == *expected);
    }
    assert_eq!(s.contents(), plain(&now)[..2].iter().copied().collect(), "those in part are objects");
    // Each digest leads to the right bytes.
    s.object("object-1", 4 * BLOCK, &plain(&data)).unwrap();
    s.object("object-2", 4 * BLOCK, &plain(&now)).unwrap();
    assert!(s.read("object-1") == data && s.read("object-2") == now);
}

#[test]
fn a_block_with_holes_is_a_slot_if_the_slot_has_the_same_holes() {
    let s = site();
    let volume = s.volume("volume-1", 2 * BLOCK);
    let mut now = [bytes(4, BLOCK as usize), vec![0; BLOCK as usize]].concat();
    volume.write_at(&now[..BLOCK as usize], 0).unwrap();
    // In the same epoch, so that the hole is a hole in the slot as well.
    volume.discard(5 << 12, 4 << 12).unwrap();
    now[5 << 12..9 << 12].fill(0);
    volume.snapshot("snapshot-1").unwrap();
    let hashed = s.hash("snapshot-1");
    assert_eq!((hashed.top_hash, hashed.progress.composed), (Some(top(&plain(&now))), 0));
    assert_eq!(s.digests("snapshot-1"), plain(&now));
    assert!(s.read("snapshot-1") == now && s.contents().is_empty());
    assert_eq!(s.hash("snapshot-1").progress.hashed, 0);
}

#[test]
fn zeros_that_were_written_are_known_as_zeros_after_hashing() {
    let s = site();
    let volume = s.volume("volume-1", 3 * BLOCK);
    volume.write_at(&vec![0; 3 * BLOCK as usize], 0).unwrap();
    volume.write_at(&[5; 512], 2 * BLOCK + 512).unwrap();
    volume.snapshot("snapshot-1").unwrap();
    let mut now = vec![0; 3 * BLOCK as usize];
    now[(2 * BLOCK + 512) as usize..][..512].fill(5);
    assert_eq!(s.hash("snapshot-1").top_hash, Some(top(&plain(&now))));
    assert_eq!(s.digests("snapshot-1"), plain(&now));
    assert_eq!(s.hash("snapshot-1").progress.hashed, 0, "nothing is read again");
    assert!(s.read("snapshot-1") == now);
}

#[test]
fn hashing_that_is_stopped_goes_on_where_it_was() {
    let s = site();
    let volume = s.volume("volume-1", 40 * BLOCK);
    let mut now = bytes(8, 40 * BLOCK as usize);
    volume.write_at(&now, 0).unwrap();
    volume.snapshot("snapshot-0").unwrap();
    for block in (0..40).step_by(3) {
        volume.write_at(&[block as u8; 700], block * BLOCK + 100).unwrap();
        now[(block * BLOCK + 100) as usize..][..700].fill(block as u8);
    }
    volume.snapshot("snapshot-1").unwrap();
    let mut hashed = 0;
    for stop in [0, 1, 7, 20, 33, 100] {
        let mut progress = |p: &HashProgress| p.blocks < stop;
        let run = s.store.hash("snapshot-1", &HashOptions::default(), &mut progress).unwrap();
        assert_eq!(run.top_hash, (stop == 100).then(|| top(&plain(&now))), "{stop}");
        hashed += run.progress.hashed;
        assert!(s.read("snapshot-1") == now);
    }
    assert_eq!(hashed, 40 * BLOCK, "no block was hashed twice");
    assert_eq!(s.digests("snapshot-1"), plain(&now));
    s.store.expire_claims(0).unwrap();
    assert!(!s.tables().iter().any(|t| matches!(t, Object::Lease(..))));
}

#[test]
fn a_snapshot_whose_journal_is_not_folded_can_be_hashed() {
    let s = site();
    let volume = s.volume("volume-1", 8 * BLOCK);
    let mut now = vec![0; 8 * BLOCK as usize];
    for n in 0..100u64 {
        // Every other sector of a few blocks: more pieces than a tree node takes.
        let offset = (n * 8192) % (8 * BLOCK);
        volume.write_at(&[n as u8 + 1; 4096], offset).unwrap();
        now[offset as usize..][..4096].fill(n as u8 + 1);
    }
    volume.snapshot("snapshot-1").unwrap();
    assert_eq!(s.hash("snapshot-1").top_hash, Some(top(&plain(&now))));
    assert!(s.read("snapshot-1") == now);
    // What its writer folds later does not undo it.
    while s.store.run_background().unwrap() {}
    volume.close().unwrap();
    assert_eq!(s.digests("snapshot-1"), plain(&now));
    assert!(s.read("snapshot-1") == now && s.read("volume-1") == now);
}

#[test]
fn a_map_that_ends_inside_a_block_never_shows_what_lies_behind_it() {
    let s = site();
    let claim = s.store.claim("a test").unwrap();
    let data = bytes(2, BLOCK as usize);
    let list = [claim.put(&data).unwrap().digest];
    s.object("object-1", BLOCK, &list).unwrap();
    s.store.clone_snapshot("object-1", "volume-1", &CloneOptions::default()).unwrap();
    let volume = s.store.open_volume("volume-1", Mode::ReadWrite).unwrap();
    for size in [BLOCK - 1, 9000, 4096, 10] {
        volume.resize(size, true).unwrap();
        let name = format!("snapshot-{size}");
        volume.snapshot(&name).unwrap();
        let cut = &data[..size as usize];
        assert!(matches!(s.store.digests(&name, &mut |_| Ok(())), Err(Error::Unsupported(_))), "{size}");
        assert_eq!(s.hash(&name).top_hash, Some(Digest::of_bytes(cut)), "{size}");
        assert_eq!(s.digests(&name), [Digest::of_bytes(cut)]);
        s.store.clone_snapshot(&name, &format!("volume-{size}"), &CloneOptions { size: Some(BLOCK) }).unwrap();
        assert!(s.read(&format!("volume-{size}")) == [cut, &vec![0; (BLOCK - size) as usize]].concat());
    }
}

#[test]
fn what_a_claim_was_told_stays_until_the_claim_ends_or_is_too_old() {
    let s = site();
    let blocks: Vec<_> = (0..40).map(|n| bytes(n, 3000)).collect();
    let old = s.store.claim("who put it").unwrap();
    let list: Vec<_> = blocks.iter().map(|b| old.put(b).unwrap().digest).collect();
    old.end().unwrap();
    let other = Store::open_on(s.blocker.clone(), StoreOptions { seed: Some(8), ..options() }).unwrap();
    let collect = |grace, progress: &mut dyn FnMut(CollectPhase)| {
        let options = CollectOptions { grace, ..CollectOptions::default() };
        other
            .collect(&options, &mut |p| {
                progress(p.phase);
                true
            })
            .unwrap()
    };
    // Within the grace time everything stays.
    assert_eq!(collect(1, &mut |_| {}).freed().objects, 0);
    assert_eq!(s.contents().len(), 40);
    let claim = s.store.claim("who was told").unwrap();
    let mut told = false;
    let report = collect(0, &mut |phase| {
        // The collector has looked at all maps and leases. Now an upload is told that some are there.
        if phase == CollectPhase::Sweep && !told {
            told = true;
            assert_eq!(claim.missing(&list[..20]).unwrap(), []);
            assert_eq!(claim.missing(&list[20..21]).unwrap(), []);
        }
    });
    assert_eq!((report.content.objects, report.leases.objects), (19, 1), "what was told stays, although it was dead");
    let rest: Vec<_> = list[21..].to_vec();
    assert_eq!(claim.missing(&list).unwrap(), rest);
    // A claim that is not too old holds, also through another process.
    assert_eq!(other.expire_claims(3600).unwrap(), 0);
    let resumed = other.resume_claim(claim.id(), "the same upload").unwrap();
    resumed.put(&blocks[21]).unwrap();
    s.object("object-1", BLOCK, &list[..1]).unwrap();
    resumed.end().unwrap();
    // Both parts have ended. Who goes on gets a new one.
    assert_eq!(claim.missing(&list[..22]).unwrap(), []);
    assert_eq!(s.tables().len(), 4, "two, one of the making of the object, and a new one");
    let report = collect(0, &mut |_| {});
    assert_eq!((report.content.objects, report.leases.objects), (21, 4));
    assert_eq!((s.tables(), s.contents()), (vec![], list[..1].iter().copied().collect()));
    // And is told the truth.
    assert_eq!(claim.missing(&list[..2]).unwrap(), list[1..2]);
    assert_eq!(s.read("object-1")[..3000], blocks[0]);
}

#[test]
fn a_claim_of_many_digests_fills_many_parts_and_all_of_them_hold() {
    let s = site();
    let claim = s.store.claim("a test").unwrap();
    let list: Vec<_> = (0..9000u64).map(|n| Digest::of_bytes(&n.to_le_bytes())).collect();
    for batch in list.chunks(8192) {
        assert_eq!(claim.missing(batch).unwrap(), batch);
    }
    let mut leased = BTreeSet::new();
    let mut leases = Leases::default();
    leases
        .advance(&s.store, &mut |d| {
            leased.insert(d);
            Ok(())
        })
        .unwrap();
    assert_eq!(leased, list.iter().copied().collect());
    leases.advance(&s.store, &mut |_| panic!("read twice")).unwrap();
    assert!(s.tables().len() >= 5);
    claim.end().unwrap();
    assert_eq!(s.store.expire_claims(1).unwrap(), 0);
    assert!(s.store.expire_claims(0).unwrap() >= 5);
    assert_eq!(s.tables(), []);
}

#[test]
fn what_a_claim_holds_is_noted_once_until_its_lease_is_ended() {
    let s = site();
    let claim = s.store.claim("a test").unwrap();
    let list: Vec<_> = (0..1000u64).map(|n| Digest::of_bytes(&n.to_le_bytes())).collect();
    let leased = || {
        let mut leased = Vec::new();
        let mut each = |d| {
            leased.push(d);
            Ok(())
        };
        Leases::default().advance(&s.store, &mut each).unwrap();
        leased.sort_unstable();
        leased
    };
    let mut expected = list.clone();
    expected.sort_unstable();
    claim.missing(&list).unwrap();
    let steps = s.blocker.steps();
    assert_eq!(claim.missing(&list[100..200]).unwrap(), &list[100..200]);
    assert_eq!((s.blocker.steps(), leased()), (steps, expected.clone()), "nothing was written");
    // What is new is added to what is there.
    let more = Digest::of_bytes(b"more");
    claim.missing(&[list[7], more, list[9]]).unwrap();
    expected.push(more);
    expected.sort_unstable();
    assert_eq!(leased(), expected);
    // A collector ended it: what is asked for then is noted anew, although it was held.
    assert!(s.store.expire_claims(0).unwrap() > 0);
    assert_eq!(leased(), []);
    claim.missing(&[list[3]]).unwrap();
    assert_eq!(leased(), [list[3]]);
}

#[test]
fn tables_of_the_index_are_merged_and_everything_is_still_found() {
    let s = site();
    let mut all = Vec::new();
    for n in 0..30u64 {
        let volume = s.volume(&format!("volume-{n:03}"), 5 * BLOCK);
        let data = bytes(n, 5 * BLOCK as usize);
        volume.write_at(&data, 0).unwrap();
        let snapshot = format!("snapshot-{n:03}");
        volume.snapshot(&snapshot).unwrap();
        assert_eq!(s.hash(&snapshot).top_hash, Some(top(&plain(&data))));
        all.extend(plain(&data));
        assert!(s.tables().len() <= 9, "{}", s.tables().len());
    }
    // A process that listed the tables before, and one that did not.
    let other = Store::open_on(s.blocker.clone(), StoreOptions { seed: Some(8), ..options() }).unwrap();
    for store in [&s.store, &other] {
        let claim = store.claim("a test").unwrap();
        assert_eq!(claim.missing(&all).unwrap(), []);
        claim.end().unwrap();
    }
    assert!(s.contents().is_empty());
}

#[test]
fn content_is_shared_between_processes_on_files() {
    let dir = TempDir::new().unwrap();
    let location = Location::File(dir.path().join("store"));
    Store::init(&location, &InitOptions { block_size: BLOCK, ..InitOptions::default() }).unwrap();
    let (a, b) = (
        Store::open(&location, StoreOptions::default()).unwrap(),
        Store::open(&location, StoreOptions::default()).unwrap(),
    );
    a.create("volume-1", &CreateOptions { size: 300 * BLOCK, block_size: None }).unwrap();
    let volume = a.open_volume("volume-1", Mode::ReadWrite).unwrap();
    let mut data = bytes(5, 300 * BLOCK as usize);
    for (n, piece) in data.chunks(1 << 20).enumerate() {
        volume.write_at(piece, (n as u64) << 20).unwrap();
    }
    volume.snapshot("snapshot-0").unwrap();
    volume.write_at(b"a small change", 77 * BLOCK + 5).unwrap();
    data[(77 * BLOCK + 5) as usize..][..14].copy_from_slice(b"a small change");
    volume.snapshot("snapshot-1").unwrap();
    // The other process hashes while this one goes on writing.
    let hashed = b.hash("snapshot-1", &HashOptions::default(), &mut |_| {
        volume.write_at(&[1; 4096], 5 * BLOCK).unwrap();
        true
    });
    assert_eq!(hashed.unwrap().top_hash, Some(top(&plain(&data))));
    let mut list = Vec::new();
    a.digests("snapshot-1", &mut |d| {
        list.push(d);
        Ok(())
    })
    .unwrap();
    assert_eq!(list, plain(&data));
    let claim = a.claim("a test").unwrap();
    assert_eq!(claim.missing(&list).unwrap(), []);
    assert!(!claim.put(&data[..BLOCK as usize]).unwrap().new, "it is in a slot");
    let new = NewObject { name: "object-1".into(), kind: Kind::Snapshot, size: 300 * BLOCK, block_size: None };
    a.create_object(&new, &mut list.iter().map(|d| Ok(*d))).unwrap();
    claim.end().unwrap();
    let reader = b.open_volume("object-1", Mode::ReadOnly).unwrap();
    assert!(read(&reader) == data);
    // Two processes hash the same at once.
    volume.snapshot("snapshot-2").unwrap();
    let tops: Vec<_> = std::thread::scope(|scope| {
        let jobs: Vec<_> = [&a, &b, &a]
            .into_iter()
            .map(|store| scope.spawn(|| store.hash("snapshot-2", &HashOptions::default(), &mut |_| true).unwrap()))
            .collect();
        jobs.into_iter().map(|job| job.join().unwrap().top_hash.unwrap()).collect()
    });
    assert!(tops.iter().all(|t| *t == tops[0]));
}

#[test]
fn a_digest_that_is_nowhere_and_bytes_that_are_cut_are_named() {
    let s = site();
    let claim = s.store.claim("a test").unwrap();
    let digest = claim.put(&bytes(1, 9000)).unwrap().digest;
    s.object("object-1", BLOCK, &[digest]).unwrap();
    s.blocker.remove(Object::Content(digest)).unwrap();
    let reader = Store::open_on(s.blocker.clone(), options()).unwrap();
    let volume = reader.open_volume("object-1", Mode::ReadOnly).unwrap();
    let error = volume.read_at(&mut [0; 100], 0).unwrap_err();
    assert!(matches!(&error, Error::Damaged { object, .. } if object.contains(&digest.to_string())), "{error}");
    // What the content does not reach needs nothing.
    volume.read_at(&mut [0; 100], 12 << 10).unwrap();
}
