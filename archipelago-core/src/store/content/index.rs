//! Tables of the content index: sorted once, never changed, searched page by page.

use std::io::IoSlice;
use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::blocker::{Blocker, LockMode, LockOutcome, Object};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::index::{IndexEntry, IndexHead, PAGE, PAGE_ENTRIES, Slot, decode_page, encode_page};
use crate::limits::{ATOM, INDEX_PAGES, MAX_INDEX_TABLES};
use crate::store::content::MERGE_LOCK;
use crate::sync::Mutex;

/// Pages gathered before one write.
const GATHER: usize = 1 << 20;
/// Guesses of a lookup before it halves instead: digests that somebody chose may not be spread evenly.
const GUESSES: usize = 8;
/// Times that a lookup begins again because a table it had listed is gone.
const RETRIES: usize = 16;

/// Decoded entries of a page.
type Page = Arc<Vec<IndexEntry>>;

/// The finished tables of a store, as last listed, and pages of them.
pub struct Tables {
    listed: Mutex<Arc<Vec<IndexHead>>>,
    pages: Cache<(u64, u64), Page>,
}

impl Default for Tables {
    fn default() -> Tables {
        Tables { listed: Mutex::default(), pages: Cache::new(INDEX_PAGES) }
    }
}

/// A table that was listed is gone.
struct Gone;

impl Tables {
    /// The first slot of this content for which `counts` holds. A digest that no listed table has is looked for again in a
    /// fresh list.
    pub fn find(
        &self,
        blocker: &dyn Blocker,
        digest: Digest,
        counts: &dyn Fn(&Slot) -> Result<bool>,
    ) -> Result<Option<Slot>> {
        let mut listed = self.listed.lock().clone();
        for _ in 0..RETRIES {
            if let Ok(Some(slot)) = self.find_in(blocker, &listed, digest, counts)? {
                return Ok(Some(slot));
            }
            let fresh = self.list(blocker)?;
            if fresh == listed {
                return Ok(None);
            }
            listed = fresh;
        }
        Err(Error::TooBusy("the content index is merged again and again".into()))
    }

    /// The first slot of this content for which `counts` holds, in these tables.
    pub fn find_among(
        &self,
        blocker: &dyn Blocker,
        tables: &[IndexHead],
        digest: Digest,
        counts: &dyn Fn(&Slot) -> Result<bool>,
    ) -> Result<Option<Slot>> {
        Ok(self.find_in(blocker, tables, digest, counts)?.unwrap_or(None))
    }

    fn find_in(
        &self,
        blocker: &dyn Blocker,
        tables: &[IndexHead],
        digest: Digest,
        counts: &dyn Fn(&Slot) -> Result<bool>,
    ) -> Result<std::result::Result<Option<Slot>, Gone>> {
        for table in tables {
            match self.find_one(blocker, table, digest)? {
                Ok(Some(slot)) if counts(&slot)? => return Ok(Ok(Some(slot))),
                Ok(_) => {}
                Err(Gone) => return Ok(Err(Gone)),
            }
        }
        Ok(Ok(None))
    }

    /// Guesses where the digest must be from the digests around it.
    fn find_one(
        &self,
        blocker: &dyn Blocker,
        table: &IndexHead,
        digest: Digest,
    ) -> Result<std::result::Result<Option<Slot>, Gone>> {
        let key = key_of(&digest);
        let (mut low, mut high) = (0, table.pages());
        let (mut below, mut above) = (0, u64::MAX);
        let mut guesses = 0;
        while low < high {
            let guess = if guesses < GUESSES && below < above {
                let share = u128::from(key.saturating_sub(below)) * u128::from(high - low);
                (low + (share / (u128::from(above - below) + 1)) as u64).min(high - 1)
            } else {
                low + (high - low) / 2
            };
            guesses += 1;
            let Some(page) = self.page(blocker, table, guess)? else { return Ok(Err(Gone)) };
            let (Some(first), Some(last)) = (page.first(), page.last()) else { return Ok(Ok(None)) };
            if digest < first.digest {
                (high, above) = (guess, key_of(&first.digest));
            } else if digest > last.digest {
                (low, below) = (guess + 1, key_of(&last.digest));
            } else {
                let found = page.binary_search_by_key(&digest, |e| e.digest);
                return Ok(Ok(found.ok().map(|at| page[at].slot)));
            }
        }
        Ok(Ok(None))
    }

    /// A page; `None` if the table is gone.
    fn page(&self, blocker: &dyn Blocker, table: &IndexHead, number: u64) -> Result<Option<Page>> {
        if let Some(page) = self.pages.get(&(table.id, number)) {
            return Ok(Some(page));
        }
        let Some(entries) = read_page(blocker, table, number)? else { return Ok(None) };
        let page = Arc::new(entries);
        self.pages.insert((table.id, number), page.clone());
        Ok(Some(page))
    }

    /// Lists the finished tables anew, the largest first: most is found there.
    pub fn list(&self, blocker: &dyn Blocker) -> Result<Arc<Vec<IndexHead>>> {
        let mut heads = Vec::new();
        for object in blocker.content_tables()? {
            if let Object::Index(id) = object
                && let Some(head) = head(blocker, id)?
            {
                heads.push(head);
            }
        }
        heads.sort_by_key(|head| (std::cmp::Reverse(head.entries), head.id));
        let heads = Arc::new(heads);
        *self.listed.lock() = heads.clone();
        Ok(heads)
    }
}

/// The first eight bytes of a digest as a number.
fn key_of(digest: &Digest) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|i| digest.0[i]))
}

/// The head of a table; `None` if it is not finished, or gone.
pub fn head(blocker: &dyn Blocker, id: u64) -> Result<Option<IndexHead>> {
    let object = Object::Index(id);
    let mut bytes = [0; ATOM];
    if blocker.read_some(object, &mut bytes, 0)? < ATOM {
        return Ok(None);
    }
    match IndexHead::decode(&object.to_string(), &bytes)? {
        Some(head) if head.id != id => {
            Err(Error::damaged(object.to_string(), format!("it says that it is table {:016x}", head.id)))
        }
        found => Ok(found),
    }
}

fn read_page(blocker: &dyn Blocker, table: &IndexHead, number: u64) -> Result<Option<Vec<IndexEntry>>> {
    let object = Object::Index(table.id);
    let mut bytes = vec![0; PAGE];
    let read = blocker.read_some(object, &mut bytes, (number + 1) * PAGE as u64)?;
    if read < PAGE {
        // A table has all its pages before it has a head: it was removed, or cut.
        return match blocker.content_tables()?.contains(&object) {
            true => Err(Error::damaged(object.to_string(), format!("cut short: page {number} is missing"))),
            false => Ok(None),
        };
    }
    let entries = decode_page(&object.to_string(), &bytes, table.id, number)?;
    let here = (table.entries - number * PAGE_ENTRIES as u64).min(PAGE_ENTRIES as u64);
    if entries.len() as u64 != here {
        let text = format!("page {number} has {} entries, and must have {here}", entries.len());
        return Err(Error::damaged(object.to_string(), text));
    }
    Ok(Some(entries))
}

/// Entries of a table in order, a page at a time.
struct Entries<'a> {
    blocker: &'a dyn Blocker,
    table: IndexHead,
    page: std::vec::IntoIter<IndexEntry>,
    next: u64,
    last: Option<Digest>,
}

impl<'a> Entries<'a> {
    fn new(blocker: &'a dyn Blocker, table: IndexHead) -> Entries<'a> {
        Entries { blocker, table, page: Vec::new().into_iter(), next: 0, last: None }
    }

    fn next(&mut self) -> Result<Option<IndexEntry>> {
        if let Some(entry) = self.page.next() {
            return Ok(Some(entry));
        }
        if self.next >= self.table.pages() {
            return Ok(None);
        }
        let gone = || Error::damaged(Object::Index(self.table.id).to_string(), "it was removed while it was merged");
        let page = read_page(self.blocker, &self.table, self.next)?.ok_or_else(gone)?;
        // Within a page they are in order. Out of order they would go into the merged table, and nobody could read that.
        if page.first().is_some_and(|first| self.last.is_some_and(|last| first.digest <= last)) {
            let text = format!("page {} does not come behind the one before it", self.next);
            return Err(Error::damaged(Object::Index(self.table.id).to_string(), text));
        }
        self.last = page.last().map(|entry| entry.digest);
        self.next += 1;
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}

/// Whether any entry of a table is as `counts` wants it, which is told the bytes read since the entry before. `None` for a
/// table that is not finished, or gone.
pub fn any(
    blocker: &dyn Blocker,
    id: u64,
    counts: &mut dyn FnMut(&IndexEntry, u64) -> Result<bool>,
) -> Result<Option<bool>> {
    let Some(table) = head(blocker, id)? else { return Ok(None) };
    for number in 0..table.pages() {
        let Some(entries) = read_page(blocker, &table, number)? else { return Ok(None) };
        let mut bytes = PAGE as u64;
        for entry in &entries {
            if counts(entry, std::mem::take(&mut bytes))? {
                return Ok(Some(true));
            }
        }
    }
    Ok(Some(false))
}

/// Calls `each` with all entries of a table, having verified its pages and their order. `false` for a table that is not
/// finished, or gone.
pub fn verify(blocker: &dyn Blocker, id: u64, each: &mut dyn FnMut(&IndexEntry) -> Result<()>) -> Result<bool> {
    let Some(table) = head(blocker, id)? else { return Ok(false) };
    let mut entries = Entries::new(blocker, table);
    while let Some(entry) = entries.next()? {
        each(&entry)?;
    }
    Ok(true)
}

/// The tables that are not finished.
pub fn unfinished(blocker: &dyn Blocker) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for object in blocker.content_tables()? {
        if let Object::Index(id) = object
            && head(blocker, id)?.is_none()
        {
            found.push(id);
        }
    }
    Ok(found)
}

/// Writes a table, entry by entry.
pub struct TableWriter<'a> {
    blocker: &'a dyn Blocker,
    id: u64,
    page: Vec<IndexEntry>,
    buffer: Vec<u8>,
    written: u64,
    entries: u64,
    last: Option<Digest>,
}

impl<'a> TableWriter<'a> {
    /// A new table; nobody sees it before it is finished.
    pub fn new(blocker: &'a dyn Blocker, id: u64) -> Result<TableWriter<'a>> {
        blocker.create(Object::Index(id), &[], PAGE as u64)?;
        let (page, buffer) = (Vec::with_capacity(PAGE_ENTRIES), Vec::new());
        Ok(TableWriter { blocker, id, page, buffer, written: 0, entries: 0, last: None })
    }

    /// The next entry. Of several with one digest the first is kept.
    pub fn push(&mut self, entry: IndexEntry) -> Result<()> {
        if self.last == Some(entry.digest) {
            return Ok(());
        }
        self.last = Some(entry.digest);
        self.page.push(entry);
        self.entries += 1;
        if self.page.len() == PAGE_ENTRIES { self.end_page() } else { Ok(()) }
    }

    fn end_page(&mut self) -> Result<()> {
        let number = self.written + (self.buffer.len() / PAGE) as u64;
        self.buffer.extend_from_slice(&encode_page(self.id, number, &self.page));
        self.page.clear();
        if self.buffer.len() >= GATHER { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> Result<()> {
        let at = (self.written + 1) * PAGE as u64;
        self.blocker.write(Object::Index(self.id), &[IoSlice::new(&self.buffer)], at)?;
        self.written += (self.buffer.len() / PAGE) as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the table durable, and then count. One without entries is removed instead.
    pub fn finish(mut self) -> Result<()> {
        let object = Object::Index(self.id);
        if self.entries == 0 {
            return self.blocker.remove(object);
        }
        if !self.page.is_empty() {
            self.end_page()?;
        }
        if !self.buffer.is_empty() {
            self.write_out()?;
        }
        self.blocker.sync(&[object])?;
        let head = IndexHead { id: self.id, entries: self.entries }.encode();
        self.blocker.write(object, &[IoSlice::new(&head)], 0)?;
        self.blocker.sync(&[object])
    }
}

/// Merges the small tables into one when there are too many, leaving out what does not count. Only one process does so at
/// a time; a second one leaves it at that.
pub fn merge(
    blocker: &dyn Blocker,
    tables: &Tables,
    id: u64,
    counts: &mut dyn FnMut(&IndexEntry) -> Result<bool>,
) -> Result<bool> {
    if tables.list(blocker)?.len() <= MAX_INDEX_TABLES {
        return Ok(false);
    }
    let LockOutcome::Held(_lock) = blocker.lock(MERGE_LOCK, LockMode::Exclusive, &[])? else { return Ok(false) };
    let mut heads = tables.list(blocker)?.to_vec();
    // From the smallest on, as long as the next is not much larger than all before it: each entry is then written again
    // about as often as the store doubles.
    heads.reverse();
    let (mut sum, mut count) = (0u64, 0);
    for head in &heads {
        if count > 0 && sum.saturating_mul(2) < head.entries {
            break;
        }
        sum += head.entries;
        count += 1;
    }
    let count = count.max(heads.len().saturating_sub(MAX_INDEX_TABLES) + 1).min(heads.len());
    heads.truncate(count);
    if heads.len() < 2 {
        return Ok(false);
    }
    let mut sources = Vec::new();
    for table in &heads {
        let mut entries = Entries::new(blocker, *table);
        if let Some(first) = entries.next()? {
            sources.push((first, entries));
        }
    }
    let mut writer = TableWriter::new(blocker, id)?;
    while let Some(least) = (0..sources.len()).min_by_key(|at| sources[*at].0) {
        let entry = sources[least].0;
        // Asked first: of two with one digest the one that counts must stay.
        if counts(&entry)? {
            writer.push(entry)?;
        }
        match sources[least].1.next()? {
            Some(next) => sources[least].0 = next,
            None => drop(sources.swap_remove(least)),
        }
    }
    writer.finish()?;
    for table in &heads {
        blocker.remove(Object::Index(table.id))?;
    }
    tables.list(blocker)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocker::VolumeId;
    use crate::blocker::memory::MemoryBlocker;

    fn digest(n: u64) -> Digest {
        Digest::of_bytes(&n.to_le_bytes())
    }

    fn entry(n: u64) -> IndexEntry {
        IndexEntry { digest: digest(n), slot: Slot { owner: VolumeId(300), epoch: 1, block: n, len: 1, shift: 22 } }
    }

    fn table(blocker: &dyn Blocker, id: u64, numbers: impl Iterator<Item = u64>) {
        let mut entries: Vec<_> = numbers.map(entry).collect();
        entries.sort();
        let mut writer = TableWriter::new(blocker, id).unwrap();
        entries.into_iter().for_each(|e| writer.push(e).unwrap());
        writer.finish().unwrap();
    }

    fn find(tables: &Tables, blocker: &dyn Blocker, n: u64) -> Option<u64> {
        tables.find(blocker, digest(n), &|_| Ok(true)).unwrap().map(|slot| slot.block)
    }

    #[test]
    fn a_lookup_reads_a_few_pages_of_a_large_table() {
        let blocker = MemoryBlocker::new();
        table(&*blocker, 5, 0..200_000);
        let mut read = 0;
        for n in (0..400_000).step_by(2003) {
            // Nothing remembered: each page in the cache was read for this lookup.
            let tables = Tables::default();
            assert_eq!(find(&tables, &*blocker, n), (n < 200_000).then_some(n));
            read += tables.pages.len();
        }
        assert!(read <= 3 * 200, "{read} pages for 200 lookups");
    }

    #[test]
    fn digests_that_are_not_spread_evenly_are_found_too() {
        let blocker = MemoryBlocker::new();
        let mut entries: Vec<_> = (0..100_000u64)
            .map(|n| {
                let mut digest = [0xff; 32];
                digest[..8].copy_from_slice(&(n.pow(3) % 1_000_003).to_be_bytes());
                digest[8..16].copy_from_slice(&n.to_be_bytes());
                IndexEntry { digest: Digest(digest), ..entry(n) }
            })
            .collect();
        entries.sort();
        let mut writer = TableWriter::new(&*blocker, 5).unwrap();
        entries.iter().for_each(|e| writer.push(*e).unwrap());
        writer.finish().unwrap();
        let tables = Tables::default();
        for e in entries.iter().step_by(997) {
            assert_eq!(tables.find(&*blocker, e.digest, &|_| Ok(true)).unwrap(), Some(e.slot));
        }
    }

    #[test]
    fn merged_tables_hold_what_counts_and_the_large_one_is_left_alone() {
        let blocker = MemoryBlocker::new();
        table(&*blocker, 1000, 0..20_000);
        for id in 0..9 {
            table(&*blocker, id, 30_000 + id * 100..30_000 + id * 100 + 150);
        }
        let tables = Tables::default();
        assert!(merge(&*blocker, &tables, 77, &mut |e| Ok(e.slot.block != 30_500)).unwrap());
        let ids: Vec<_> = tables.list(&*blocker).unwrap().iter().map(|t| t.id).collect();
        assert_eq!(ids, [1000, 77]);
        for n in (0..20_000).step_by(777).chain(30_000..30_950) {
            assert_eq!(find(&tables, &*blocker, n), (n != 30_500).then_some(n), "{n}");
        }
        assert!(!merge(&*blocker, &tables, 78, &mut |_| Ok(true)).unwrap(), "nothing to merge");
    }

    #[test]
    fn a_list_from_before_a_merge_finds_what_was_merged() {
        let blocker = MemoryBlocker::new();
        for id in 0..9 {
            table(&*blocker, id, id * 100..id * 100 + 100);
        }
        let (old, new) = (Tables::default(), Tables::default());
        old.list(&*blocker).unwrap();
        assert!(merge(&*blocker, &new, 77, &mut |_| Ok(true)).unwrap());
        for n in 0..900 {
            assert_eq!(find(&old, &*blocker, n), Some(n));
        }
        assert_eq!(find(&old, &*blocker, 5000), None);
    }

    /// A finished table of two pages, whatever is on them.
    fn pages(blocker: &dyn Blocker, id: u64, first: &[IndexEntry], second: &[IndexEntry], entries: u64) {
        let mut table = IndexHead { id, entries }.encode().to_vec();
        table.resize(PAGE, 0);
        table.extend([encode_page(id, 0, first), encode_page(id, 1, second)].concat());
        blocker.create(Object::Index(id), &table, table.len() as u64).unwrap();
    }

    #[test]
    fn pages_that_are_not_in_order_or_not_full_are_damage_and_are_not_merged() {
        let mut entries: Vec<_> = (0..126).map(entry).collect();
        entries.sort();
        let (low, high) = entries.split_at(63);
        for (first, second, count) in
            [(high, low, 126), (low, low, 126), (&low[..62], high, 125), (low, &high[..9], 73)]
        {
            let blocker = MemoryBlocker::new();
            for id in 0..8 {
                table(&*blocker, id, 1000 + id * 200..1000 + id * 200 + 150);
            }
            pages(&*blocker, 99, first, second, count);
            let tables = Tables::default();
            let merged = merge(&*blocker, &tables, 77, &mut |_| Ok(true));
            assert!(matches!(merged, Err(Error::Damaged { .. })), "{merged:?}");
            // Nothing was lost by it.
            assert_eq!(tables.list(&*blocker).unwrap().len(), 9);
            assert_eq!(find(&tables, &*blocker, 1000), Some(1000));
        }
    }

    #[test]
    fn a_table_that_was_not_finished_does_not_count_and_one_that_was_cut_is_named() {
        let blocker = MemoryBlocker::new();
        let mut writer = TableWriter::new(&*blocker, 3).unwrap();
        (0..1).for_each(|n| writer.push(entry(n)).unwrap());
        writer.end_page().unwrap();
        writer.write_out().unwrap();
        drop(writer);
        assert_eq!(find(&Tables::default(), &*blocker, 0), None);
        // A head that promises more pages than there are.
        let head = IndexHead { id: 3, entries: 100 }.encode();
        blocker.write(Object::Index(3), &[IoSlice::new(&head)], 0).unwrap();
        let result =
            (0..200u64).map(|n| Tables::default().find(&*blocker, digest(n), &|_| Ok(true))).find(Result::is_err);
        assert!(matches!(result, Some(Err(Error::Damaged { .. }))));
    }
}
