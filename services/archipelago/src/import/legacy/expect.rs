//! Says beforehand how the blocks of a map would come into the new store. No block is read.

use archipelago_core::Store;
use archipelago_core::blocker::Adopted;

use super::OldStore;
use super::build::Ways;
use super::entry::Entry;
use super::error::LegacyError;
use super::examine::Examined;
use super::known::Known;
use super::map::Entries;
use super::read::new_block_size;

/// How many bytes would come into the store in which way: at most, because blocks that are equal and named differently are
/// counted each, and so are blocks beyond those that `known` has room for. `known` gets the blocks that were counted.
pub fn expect(
    new: &Store,
    old: &OldStore,
    examined: &Examined,
    link: bool,
    known: &Known,
    watch: &mut dyn FnMut() -> Result<(), LegacyError>,
) -> Result<Ways, LegacyError> {
    let map = &examined.map;
    let same_size = new_block_size(&map.header) == map.header.block_size;
    let mut ways = Ways::default();
    let (mut reader, mut entries) = (Entries::new(old, map), Vec::new());
    while let Some(first) = reader.next(&mut entries)? {
        for (index, entry) in (first..).zip(&entries) {
            watch()?;
            let Some(name) = entry.object() else { continue };
            let (_, len) = map.range(index);
            let whole = same_size && len == map.header.block_size;
            let there = match entry {
                Entry::Content(digest) => whole && (!known.add(&name, *digest) || new.holds(*digest)?),
                Entry::Owned { writable: false, .. } => whole && !known.add(&name, archipelago_core::Digest::ZERO),
                _ => false,
            };
            if there {
                ways.add(Adopted::Present, len);
                continue;
            }
            let Some(object) = old.blocks.find(&name)? else { continue };
            let (bytes, mut last) = (object.len, [0]);
            if !same_size || bytes > len {
                ways.add(Adopted::Copied, bytes.min(len));
                continue;
            }
            // Only a file that ends as its content does can be linked.
            let exact = bytes > 0 && object.read(&mut last, bytes - 1)? == 1 && last != [0];
            let link = link && exact && matches!(entry, Entry::Content(_));
            let file = object.into_file();
            ways.add(new.adoption(std::os::fd::AsFd::as_fd(&file).into(), link)?, bytes);
        }
    }
    Ok(ways)
}
