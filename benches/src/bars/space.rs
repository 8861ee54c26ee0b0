//! What snapshots that come and go leave behind: room of node packs and journals after a collection, against what maps need of it.

use std::collections::HashSet;
use std::io::IoSliceMut;
use std::path::Path;
use std::sync::Arc;

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::{Blocker, Object, RecordKey};
use archipelago_core::format::header::{Header, Root};
use archipelago_core::format::node::{Entry, Extent, Node, Source};
use archipelago_core::{
    Background, CollectOptions, CreateOptions, InitOptions, Location, Mode, Store, StoreOptions, Volume,
};

use super::{Numbers, Outcome, Scratch};

/// Checkpoints of one run.
const CHECKPOINTS: u64 = 2000;
/// Scattered writes of a sector between two of them.
const WRITES: u64 = 8;
/// Checkpoints between two snapshots, of which the newest few stay.
const PER_SNAPSHOT: u64 = 10;
/// Snapshots that stay.
const KEPT: u64 = 24;
/// Checkpoints between two collections.
const PER_COLLECTION: u64 = 200;

/// Prints the room by kind.
pub fn run(dir: &Path) -> Outcome {
    for (what, shift, size) in [("blocks of 4 MiB", 22, 256u64 << 30), ("blocks of 64 KiB", 16, 4 << 30)] {
        let scratch = Scratch::new(dir, "space")?;
        let path = scratch.0.join("store");
        Store::init(&Location::File(path.clone()), &InitOptions { block_size: 1 << shift, ..InitOptions::default() })?;
        let blocker = Arc::new(FileBlocker::open(&path, FileOptions::default())?);
        let options = StoreOptions { background: Background::Manual, ..StoreOptions::default() };
        let store = Store::open_on(blocker.clone(), options)?;
        store.create("volume", &CreateOptions { size, block_size: None })?;
        let volume = store.open_volume("volume", Mode::ReadWrite)?;
        println!("{what}: {CHECKPOINTS} checkpoints of {WRITES} scattered sectors, {KEPT} snapshots kept");
        work(&store, &volume, size)?;
        let by = store.space_by_kind()?;
        let needed = needed(&*blocker)?;
        println!(
            "  packs: {:.2} MiB in {} files, of which {} nodes need {:.2} MiB",
            mib(by.packs.bytes),
            by.packs.objects,
            needed.nodes,
            mib(needed.node_bytes)
        );
        println!(
            "  segments: {:.2} MiB in {} files, of which sectors need {:.2} MiB",
            mib(by.segments.bytes),
            by.segments.objects,
            mib(needed.logged)
        );
        volume.close()?;
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn work(store: &Store, volume: &Volume, size: u64) -> Outcome {
    // Of packs and of segments: removed as a whole, and holes.
    let (mut numbers, mut freed) = (Numbers(7), [0; 4]);
    for n in 0..CHECKPOINTS {
        for _ in 0..WRITES {
            // Half of all writes go to a tenth of the volume.
            let range = if numbers.next() % 2 == 0 { size / 10 } else { size };
            volume.write_at(&[n as u8; 4096], numbers.next() % (range / 4096) * 4096)?;
        }
        if n % PER_SNAPSHOT == 0 {
            let number = n / PER_SNAPSHOT;
            volume.snapshot(&format!("snapshot-{number}"))?;
            if let Some(old) = number.checked_sub(KEPT) {
                store.remove(&format!("snapshot-{old}"))?;
            }
        }
        volume.checkpoint()?;
        if n % PER_COLLECTION == PER_COLLECTION - 1 {
            let before = store.space_by_kind()?;
            let report = store.collect(&CollectOptions::default(), &mut |_| true)?;
            let after = store.space_by_kind()?;
            freed[0] += report.packs.bytes;
            freed[1] += (before.packs.bytes - after.packs.bytes).saturating_sub(report.packs.bytes);
            freed[2] += report.segments.bytes;
            freed[3] += (before.segments.bytes - after.segments.bytes).saturating_sub(report.segments.bytes);
        }
    }
    let [packs, pack_holes, segments, segment_holes] = freed.map(mib);
    println!("  packs freed: {packs:.1} MiB as a whole, {pack_holes:.1} MiB as holes");
    println!("  segments freed: {segments:.1} MiB as a whole, {segment_holes:.1} MiB as holes");
    Ok(())
}

/// What all maps need.
#[derive(Default)]
struct Needed {
    nodes: u64,
    node_bytes: u64,
    logged: u64,
}

fn needed(blocker: &dyn Blocker) -> Result<Needed, Box<dyn std::error::Error>> {
    let (mut needed, mut seen, mut sectors) = (Needed::default(), HashSet::new(), HashSet::new());
    for id in blocker.headers()? {
        let record = blocker.read_record(RecordKey::Header(id))?;
        let Root::Node { pointer, .. } = Header::decode("header", &record.bytes)?.root else { continue };
        let mut stack = vec![pointer];
        while let Some(pointer) = stack.pop() {
            if !seen.insert((pointer.owner, pointer.pack, pointer.offset)) {
                continue;
            }
            needed.nodes += 1;
            needed.node_bytes += u64::from(pointer.len);
            let mut bytes = vec![0; pointer.len as usize];
            let object = Object::Pack(pointer.owner, pointer.pack);
            blocker.read(object, &mut [IoSliceMut::new(&mut bytes)], u64::from(pointer.offset))?;
            match Node::decode("node", &bytes)?.0 {
                Node::Inner { children, .. } => stack.extend(children.into_iter().map(|(_, child)| child)),
                Node::Extents(extents) => count(&extents, &mut sectors),
                Node::Leaf(entries) => {
                    for (_, entry) in entries {
                        match entry {
                            Entry::ExtentNode(pointer) => stack.push(pointer),
                            Entry::Extents(extents) => count(&extents, &mut sectors),
                            Entry::Owned { .. } | Entry::Content(_) => {}
                        }
                    }
                }
            }
        }
    }
    needed.logged = sectors.len() as u64 * 4096;
    Ok(needed)
}

fn count(extents: &[Extent], sectors: &mut HashSet<(u32, u32)>) {
    for extent in extents {
        if let Source::Log { segment, offset, .. } = extent.source {
            sectors.extend((0..u32::from(extent.len)).map(|n| (segment, offset + 4096 * n)));
        }
    }
}
