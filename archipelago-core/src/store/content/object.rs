//! Maps from lists of digests, and lists of digests of maps. Both are streamed: nothing here grows with the list.

use crate::blocker::{RecordKey, VolumeId};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::header::{Header, Kind, Root};
use crate::format::labels::Labels;
use crate::format::node::{Entry, Extent, Source};
use crate::format::relations::{Group, Received};
use crate::limits::{MAX_DIGEST_BATCH, SECTOR, SECTOR_SHIFT};
use crate::mapper::block_map::BlockMap;
use crate::mapper::build::TreeBuilder;
use crate::mapper::pack::PackWriter;
use crate::merkle::TopHash;
use crate::store::content::claim::Claim;
use crate::store::content::redirect::Redirects;
use crate::store::content::{Place, Relied};
use crate::store::shared::Shared;
use crate::store::{Store, VolumeInfo, block_shift, catalog, open};

/// A map to be made from a list of digests.
#[derive(Clone, Debug)]
pub struct NewObject {
    /// Its name.
    pub name: String,
    /// [`Kind::Object`] or [`Kind::Snapshot`]; both never change.
    pub kind: Kind,
    /// Size in bytes; the list has a digest for each block of it.
    pub size: u64,
    /// Block size in bytes; `None` takes the store's.
    pub block_size: Option<u64>,
}

/// What a list of digests was of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestList {
    /// Size of the map in bytes.
    pub size: u64,
    /// Block size in bytes.
    pub block_size: u64,
    /// Digests.
    pub count: u64,
    /// The top hash of the list.
    pub top_hash: Digest,
}

impl Store {
    /// Makes a read-only map whose blocks are these digests, in order. All of them must be there: one that is not is
    /// `NotFound`, and nothing is made; ask [`Claim::missing`], put what is missing, and try again. No data moves.
    pub fn create_object(
        &self,
        new: &NewObject,
        digests: &mut dyn Iterator<Item = Result<Digest>>,
    ) -> Result<VolumeInfo> {
        crate::name::check(&new.name)?;
        // Its nodes have no header until the end.
        let _operation = self.shared.operations.begin();
        catalog::check_size(new.size)?;
        if !matches!(new.kind, Kind::Object | Kind::Snapshot) {
            return Err(Error::InvalidArgument("a map made from digests is an object or a snapshot".into()));
        }
        let shift = match new.block_size {
            Some(size) => block_shift(size)?,
            None => self.shared.superblock.block_shift,
        };
        catalog::ensure_free(&self.shared, &new.name)?;
        let id = self.shared.new_id()?;
        // Of its own, over the whole list: what others were told before may have ended.
        let claim = self.claim(&format!("making {}", new.name))?;
        let made = self.build(new, shift, id, digests, &claim).and_then(|root| {
            let header = Header {
                id,
                kind: new.kind,
                name: new.name.clone(),
                removed: false,
                shrunk: false,
                size: new.size,
                block_shift: shift,
                epoch: 0,
                created: self.shared.now(),
                parent: VolumeId(0),
                birth: 0,
                key: 0,
                domain: 0,
                root,
                ranges: Vec::new(),
                log: None,
                received: Received::No,
                group: Group::No,
                labels: Labels::default(),
                cached: None,
            };
            catalog::publish(&self.shared, &header)?;
            Ok(header)
        });
        if made.is_err() {
            self.drop_packs(id);
        }
        // The map is a root now, or there is none.
        let ended = claim.end();
        let header = made?;
        ended?;
        catalog::describe(&self.shared, &header, None)
    }

    /// Nodes of a map that was not made. What is left of them after an error here, the collector finds.
    fn drop_packs(&self, id: VolumeId) {
        let blocker = &*self.shared.blocker;
        // A header that was published, although the call failed behind that, needs them.
        if !matches!(blocker.read_record(RecordKey::Header(id)), Err(Error::NotFound(_))) {
            return;
        }
        for object in blocker.objects(id).unwrap_or_default() {
            let _ = blocker.remove(object);
        }
    }

    fn build(
        &self,
        new: &NewObject,
        shift: u8,
        id: VolumeId,
        digests: &mut dyn Iterator<Item = Result<Digest>>,
        claim: &Claim,
    ) -> Result<Root> {
        let blocker = &*self.shared.blocker;
        let blocks = new.size.div_ceil(1 << shift);
        let sectors = 1u16 << (u32::from(shift) - SECTOR_SHIFT);
        let mut builder = TreeBuilder::new(blocker, &self.shared.cache, PackWriter::open(blocker, id)?, sectors);
        let mut relied = Relied::default();
        let (mut block, mut batch) = (0u64, Vec::with_capacity(MAX_DIGEST_BATCH));
        loop {
            batch.clear();
            while batch.len() < MAX_DIGEST_BATCH
                && let Some(digest) = digests.next()
            {
                batch.push(digest?);
            }
            if batch.is_empty() {
                break;
            }
            claim.look(&batch, &mut |digest, place| {
                let place = place.ok_or_else(|| {
                    Error::NotFound(format!("block {block} ({digest}); put it, then make {} again", new.name))
                })?;
                let room = new.size.saturating_sub(block << shift).min(1 << shift);
                check_length(&place, digest, block, room)?;
                relied.add(&place);
                if digest != Digest::ZERO {
                    builder.push(block, entry(digest, place.len, sectors))?;
                }
                block += 1;
                Ok(())
            })?;
        }
        if block != blocks {
            let text = format!("{}: {} bytes are {blocks} blocks, and {block} digests were given", new.name, new.size);
            return Err(Error::InvalidArgument(text));
        }
        relied.settle(blocker)?;
        builder.finish()
    }

    /// Calls `each` with the digest of every block of a read-only map, in order. A block whose digest is not known, because
    /// the map was not hashed, is `Unsupported`.
    pub fn digests(&self, name: &str, each: &mut dyn FnMut(Digest) -> Result<()>) -> Result<DigestList> {
        let handle = open::for_reading(&self.shared, name)?;
        if handle.kind == Kind::Volume {
            return Err(Error::NotSnapshot(name.to_string()));
        }
        let (blocker, cache) = (&*self.shared.blocker, &self.shared.cache);
        let view = handle.view();
        let mut redirects = Redirects::new(blocker);
        let mut top = TopHash::default();
        let mut emit = |digest| {
            top.push(digest);
            each(digest)
        };
        let mut at = 0;
        while at < view.blocks() {
            let next = view.next_mapped(blocker, cache, at)?.unwrap_or(view.blocks());
            for _ in at..next {
                emit(Digest::ZERO)?;
            }
            if next < view.blocks() {
                let map = view.block(blocker, cache, next)?;
                let room = (view.size - (next << view.tree.block_shift)).min(1 << view.tree.block_shift);
                let digest = known(&self.shared, &mut redirects, &map, next, room, 1 << view.tree.block_shift)?
                    .ok_or_else(|| {
                        Error::Unsupported(format!(
                            "{name}: the digest of block {next} is not known; hash {name} first"
                        ))
                    })?;
                emit(digest)?;
            }
            at = next + 1;
        }
        let count = top.count();
        Ok(DigestList { size: view.size, block_size: 1 << view.tree.block_shift, count, top_hash: top.finish() })
    }
}

/// The digest of a block, as far as it is known without reading the block: `room` is how much of it lies inside the map.
pub(super) fn known(
    shared: &Shared,
    redirects: &mut Redirects<'_>,
    map: &BlockMap,
    block: u64,
    room: u64,
    block_size: u64,
) -> Result<Option<Digest>> {
    // Known from its first sector to its last that is not zero, and all of that inside the map.
    let whole = |bytes: u64, sectors: u16| bytes <= u64::from(sectors) << SECTOR_SHIFT && bytes <= room;
    match map.extents() {
        [] => Ok(Some(Digest::ZERO)),
        // None longer than a block of its map ever comes into a map.
        [Extent { start: 0, len, source: Source::Content(digest) }]
            if u64::from(*len) * SECTOR == block_size && room == block_size =>
        {
            Ok(Some(*digest))
        }
        [Extent { start: 0, len, source: Source::Content(digest) }] => {
            let place = shared.contents.resolve(&*shared.blocker, *digest)?;
            Ok(whole(place.len, *len).then_some(*digest))
        }
        [Extent { start: 0, len, source: Source::Data { owner, epoch } }] => {
            let entry = redirects.entry(*owner, *epoch, block)?;
            Ok(entry.filter(|e| whole(u64::from(e.len), *len)).map(|e| e.digest))
        }
        _ => Ok(None),
    }
}

/// A block that reaches past the end of the map, or is longer than a block of it, would show what is not in the map.
fn check_length(place: &Place, digest: Digest, block: u64, room: u64) -> Result<()> {
    if place.len <= room {
        return Ok(());
    }
    let text = format!("block {block} ({digest}) has {} bytes, and the map has room for {room} there", place.len);
    Err(Error::InvalidArgument(text))
}

/// The entry of a block of content of this length.
fn entry(digest: Digest, len: u64, sectors: u16) -> Entry {
    let len = len.div_ceil(SECTOR) as u16;
    if len == sectors {
        return Entry::Content(digest);
    }
    Entry::Extents(vec![Extent { start: 0, len, source: Source::Content(digest) }])
}
