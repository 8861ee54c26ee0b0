//! Map entries that a check looks at per second on one core, and the memory that it takes for a very large map.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use archipelago_core::blocker::file::{FileBlocker, FileOptions};
use archipelago_core::blocker::memory::MemoryBlocker;
use archipelago_core::blocker::{Blocker, Object, RecordKey, VolumeId};
use archipelago_core::format::header::{Header, Root};
use archipelago_core::format::node::{Entry, Extent, Node, Pointer, Source};
use archipelago_core::{Background, CheckOptions, CreateOptions, InitOptions, Location, Store, StoreOptions};

use super::{Failure, Outcome, Scratch, cpu, quartiles, timed};

/// Entries of the map that is checked again and again.
pub(super) const ENTRIES: u64 = 4 << 20;
/// Checks of it.
const ROUNDS: usize = 7;
/// Entries of the large one.
pub(super) const LARGE: u64 = 100_000_000;
/// Block size: with the smallest, the large map fits the largest volume.
pub(super) const SHIFT: u32 = 16;
/// Children of a node.
const FANOUT: u64 = 128;
/// Nodes gathered before a write.
const GATHER: usize = 1 << 20;
/// Packs end here.
const PACK: u64 = 60 << 20;
/// Who wrote the tree; a volume that is not there any more.
const OWNER: VolumeId = VolumeId(0xbe7c);

/// Prints the figures.
pub fn run(dir: &Path) -> Outcome {
    for (name, scattered) in [("whole blocks", false), ("two extents a block", true)] {
        let blocker = MemoryBlocker::new();
        Store::init_on(blocker.clone(), &InitOptions { block_size: 1 << SHIFT, ..InitOptions::default() })?;
        let store = build(blocker.clone(), ENTRIES, scattered)?;
        blocker.forget_history();
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let before = cpu();
            let (report, took) = timed(|| store.check(&CheckOptions::default(), &mut |_| Ok(())));
            let report = report?;
            if report.entries != ENTRIES || !report.findings.is_empty() {
                return Err(format!("{} entries, findings {:?}", report.entries, report.findings).into());
            }
            // CPU time, for other programs may have the core meanwhile; all of it is spent in this thread.
            let spent = (cpu() - before).min(took);
            rates.push(ENTRIES as f64 / spent.as_secs_f64() / 1e6);
        }
        let (m, lo, hi) = quartiles(&mut rates);
        println!("{name}: {m:.1} ({lo:.1}..{hi:.1}) million entries a second of one core; bar 1");
    }

    let scratch = Scratch::new(dir, "check")?;
    let path = scratch.0.join("store");
    let options = InitOptions { block_size: 1 << SHIFT, ..InitOptions::default() };
    Store::init(&Location::File(path.clone()), &options)?;
    let store = build(Arc::new(FileBlocker::open(&path, FileOptions::default())?), LARGE, false)?;
    let (report, took) = timed(|| store.check(&CheckOptions::default(), &mut |_| Ok(())));
    let report = report?;
    println!(
        "{} entries in {} nodes on files: {:.1} s, at most {:.0} MiB of memory; bar 512",
        report.entries,
        report.nodes,
        took.as_secs_f64(),
        peak()? as f64 / (1 << 20) as f64
    );
    match report.findings.first() {
        None => Ok(()),
        Some(finding) => Err(format!("a store without damage: {finding:?}").into()),
    }
}

/// A store with one map of `entries` mapped blocks, its nodes written as a fold writes them.
pub(super) fn build(blocker: Arc<dyn Blocker>, entries: u64, scattered: bool) -> Result<Store, Failure> {
    let mut packs = Packs { blocker: blocker.clone(), number: 0, at: 0, buffer: Vec::new() };
    let data = Source::Data { owner: OWNER, epoch: 1 };
    let entry = || match scattered {
        false => Entry::Owned { owner: OWNER, epoch: 1 },
        true => Entry::Extents(vec![
            Extent { start: 0, len: 5, source: data },
            Extent { start: 9, len: 3, source: Source::Data { owner: OWNER, epoch: 2 } },
        ]),
    };
    let sectors = if scattered { 8 } else { 1 << (SHIFT - 12) };
    let mut below = Vec::new();
    for base in (0..entries).step_by(FANOUT as usize) {
        let count = FANOUT.min(entries - base);
        let leaf = Node::Leaf((0..count as u8).map(|slot| (slot, entry())).collect());
        below.push(packs.append(&leaf.encode(OWNER, base)?, count * sectors)?);
    }
    let mut level = 0;
    while below.len() > 1 || level == 0 {
        level += 1;
        let span = FANOUT.pow(u32::from(level) + 1);
        let mut above = Vec::new();
        for (i, children) in below.chunks(FANOUT as usize).enumerate() {
            let mapped = children.iter().map(|p| p.mapped).sum();
            let children = children.iter().enumerate().map(|(slot, pointer)| (slot as u8, *pointer)).collect();
            let node = Node::Inner { level, children };
            above.push(packs.append(&node.encode(OWNER, i as u64 * span)?, mapped)?);
        }
        below = above;
    }
    packs.write_out()?;
    let end = entries << SHIFT;
    for epoch in 1..=if scattered { 2 } else { 1 } {
        blocker.write(Object::Data(OWNER, epoch), &[IoSlice::new(&[1])], end - 1)?;
    }
    let store =
        Store::open_on(blocker.clone(), StoreOptions { background: Background::Manual, ..StoreOptions::default() })?;
    let info = store.create("volume", &CreateOptions { size: end, block_size: Some(1 << SHIFT) })?;
    let key = RecordKey::Header(VolumeId(u64::from_str_radix(&info.id, 16)?));
    let record = blocker.read_record(key)?;
    let header = Header::decode("header", &record.bytes)?;
    let header = Header { root: Root::Node { level, pointer: below[0] }, ..header };
    blocker.commit_record(key, record.version, &header.encode())?;
    Ok(store)
}

/// Where nodes go.
struct Packs {
    blocker: Arc<dyn Blocker>,
    number: u32,
    at: u64,
    buffer: Vec<u8>,
}

impl Packs {
    fn append(&mut self, bytes: &[u8], mapped: u64) -> Result<Pointer, Failure> {
        if self.at + self.buffer.len() as u64 > PACK {
            self.write_out()?;
            (self.number, self.at) = (self.number + 1, 0);
        }
        let pointer = Pointer {
            owner: OWNER,
            pack: self.number,
            offset: (self.at + self.buffer.len() as u64) as u32,
            len: bytes.len() as u32,
            mapped,
            hash: *blake3::hash(bytes).as_bytes(),
        };
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() > GATHER {
            self.write_out()?;
        }
        Ok(pointer)
    }

    fn write_out(&mut self) -> Result<(), Failure> {
        let object = Object::Pack(OWNER, self.number);
        if self.at == 0 {
            self.blocker.create(object, &[], 0)?;
        }
        self.blocker.write(object, &[IoSlice::new(&self.buffer)], self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Most memory that this process ever had, in bytes.
pub(super) fn peak() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}
