//! Claims: what an upload has put or was told to be there stays until its map is there, or the claim ends.

use std::collections::HashSet;
use std::io::IoSlice;
use std::sync::Arc;

use crate::blocker::sys::Outside;
use crate::blocker::{Adopted, Blocker, LockMode, Object};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::lease::{ATOM_DIGESTS, ATOMS, LEN, LeaseHead, encode_atom};
use crate::limits::{ATOM, MAX_BLOCK_SIZE, MAX_DIGEST_BATCH};
use crate::store::content::{Place, Relied, lock};
use crate::store::shared::Shared;
use crate::store::{Store, catalog};
use crate::sync::Mutex;

/// Seconds after which a claim that is used is renewed by itself.
const RENEW_AFTER: u64 = 60;

/// An upload in progress. Dropping it does not end it: it lives in the store until [`Claim::end`], or until the collector
/// finds it older than its grace time.
pub struct Claim {
    shared: Arc<Shared>,
    id: u64,
    claimant: String,
    part: Mutex<Option<Part>>,
}

/// The file of leases that this process appends to.
struct Part {
    id: u64,
    next: u32,
    /// What it holds; as many as fit into its file.
    held: HashSet<Digest>,
}

/// What became of a block that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// Its digest, computed here.
    pub digest: Digest,
    /// Whether it was new to the store.
    pub new: bool,
}

impl Store {
    /// Begins an upload. `claimant` says whose, for people (at most 128 bytes).
    pub fn claim(&self, claimant: &str) -> Result<Claim> {
        self.resume_claim(self.shared.random()?, claimant)
    }

    /// Whether a block is there at this moment. Nothing is leased: it may be gone the next.
    pub fn holds(&self, digest: Digest) -> Result<bool> {
        let _operation = self.shared.operations.begin();
        Ok(digest == Digest::ZERO || self.shared.contents.look(&*self.shared.blocker, digest)?.is_some())
    }

    /// How [`Claim::adopt`] would take a file in, as far as its content does not decide that. Changes nothing.
    pub fn adoption(&self, file: Outside<'_>, link: bool) -> Result<Adopted> {
        self.shared.blocker.adoption(file, link)
    }

    /// Goes on with an upload that this or another process began.
    pub fn resume_claim(&self, id: u64, claimant: &str) -> Result<Claim> {
        catalog::check_writable(&self.shared)?;
        let head = LeaseHead { claim: id, part: 0, ended: false, time: 0, claimant: claimant.to_string() };
        head.encode()?;
        Ok(Claim { shared: self.shared.clone(), id, claimant: claimant.to_string(), part: Mutex::new(None) })
    }
}

impl Claim {
    /// Its number, for [`Store::resume_claim`].
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Stores a block of at most 64 MiB under the digest of its bytes without trailing NULs, unless it is there. Durable
    /// when it returns, and leased. A block of zeros is not stored.
    pub fn put(&self, block: &[u8]) -> Result<Put> {
        check_block(block)?;
        // Before any lock: this is what takes long.
        let (digest, content) = Digest::of(block);
        if content.is_empty() {
            return Ok(Put { digest, new: false });
        }
        self.put_as(digest, content)
    }

    /// As [`Claim::put`], of a block that was just read from a file outside the store: whole, and from its start. Without writing its bytes
    /// where the backend can share the file's room; with `link` also by making the file one of the store, for which
    /// [`Blocker::adopt`] has the conditions. The digest is that of `block`, and nothing is shared that differs from it.
    pub fn adopt(&self, block: &[u8], file: Outside<'_>, link: bool) -> Result<(Digest, Adopted)> {
        check_block(block)?;
        let (digest, content) = Digest::of(block);
        if content.is_empty() {
            return Ok((digest, Adopted::Present));
        }
        let adopted = self.store_as(digest, &|blocker| blocker.adopt(digest, content, file, link))?;
        Ok((digest, adopted))
    }

    /// Stores content whose digest was just computed.
    pub(super) fn put_as(&self, digest: Digest, content: &[u8]) -> Result<Put> {
        let adopted = self.store_as(digest, &|blocker| {
            blocker.put(digest, content).map(|new| if new { Adopted::Copied } else { Adopted::Present })
        })?;
        Ok(Put { digest, new: adopted != Adopted::Present })
    }

    /// Leases a block, and stores it with `store` unless it is there.
    fn store_as(&self, digest: Digest, store: &dyn Fn(&dyn Blocker) -> Result<Adopted>) -> Result<Adopted> {
        let blocker = &*self.shared.blocker;
        let _lock = lock(blocker, LockMode::Shared)?;
        self.lease(&[digest])?;
        // In a slot it is as good as in an object.
        if let Some(place) = self.shared.contents.look(blocker, digest)?
            && matches!(place.object, Object::Data(..))
        {
            let mut relied = Relied::default();
            relied.add(&place);
            relied.settle(blocker)?;
            return Ok(Adopted::Present);
        }
        // Also for one that is there: its maker may not have made it durable yet.
        store(blocker)
    }

    /// Which of these blocks are not there, in the order asked. The others are leased: they stay as long as the claim lives.
    /// At most 8192 at once.
    pub fn missing(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let mut missing = Vec::new();
        self.look(digests, &mut |digest, place| {
            if place.is_none() {
                missing.push(digest);
            }
            Ok(())
        })?;
        Ok(missing)
    }

    /// Leases blocks and says of each where it is. Zeros are everywhere.
    pub(super) fn look(
        &self,
        digests: &[Digest],
        each: &mut dyn FnMut(Digest, Option<Place>) -> Result<()>,
    ) -> Result<()> {
        if digests.len() > MAX_DIGEST_BATCH {
            let text = format!("{} digests at once; ask for at most {MAX_DIGEST_BATCH}", digests.len());
            return Err(Error::InvalidArgument(text));
        }
        let blocker = &*self.shared.blocker;
        let mut wanted: Vec<Digest> = digests.iter().copied().filter(|d| *d != Digest::ZERO).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut found = Vec::with_capacity(wanted.len());
        if !wanted.is_empty() {
            let _lock = lock(blocker, LockMode::Shared)?;
            // The lease before the look, and both before the lock is given up: what is there now stays.
            self.lease(&wanted)?;
            // In order, so that pages of the index are used for all that they have.
            for digest in &wanted {
                found.push(self.shared.contents.look(blocker, *digest)?);
            }
        }
        let zero = Place { object: Object::Content(Digest::ZERO), base: 0, len: 0 };
        for digest in digests {
            let place = match wanted.binary_search(digest) {
                Ok(at) => found[at],
                Err(_) => Some(zero),
            };
            each(*digest, place)?;
        }
        Ok(())
    }

    /// Keeps the claim alive.
    pub fn renew(&self) -> Result<()> {
        let blocker = &*self.shared.blocker;
        let _lock = lock(blocker, LockMode::Shared)?;
        for part in self.parts()? {
            if let Some(head) = read_head(blocker, self.id, part)?.filter(|head| !head.ended) {
                self.touch(&head)?;
            }
        }
        Ok(())
    }

    /// Ends the claim: what no map names may be collected, by collections that begin later.
    pub fn end(self) -> Result<()> {
        let blocker = &*self.shared.blocker;
        let _lock = lock(blocker, LockMode::Shared)?;
        for part in self.parts()? {
            mark_ended(blocker, self.id, part, Some(self.shared.now()))?;
        }
        Ok(())
    }

    /// Parts of this claim, of all processes.
    fn parts(&self) -> Result<Vec<u64>> {
        let mine = |object| match object {
            Object::Lease(claim, part) if claim == self.id => Some(part),
            _ => None,
        };
        Ok(self.shared.blocker.content_tables()?.into_iter().filter_map(mine).collect())
    }

    fn touch(&self, head: &LeaseHead) -> Result<()> {
        let head = LeaseHead { time: self.shared.now(), ..head.clone() };
        let object = Object::Lease(self.id, head.part);
        self.shared.blocker.write(object, &[IoSlice::new(&head.encode()?)], 0)?;
        self.shared.blocker.sync(&[object])
    }

    /// Notes digests durably. The lock of content is held.
    fn lease(&self, digests: &[Digest]) -> Result<()> {
        let blocker = &*self.shared.blocker;
        let mut state = self.part.lock();
        let mut rest = digests.to_vec();
        while !rest.is_empty() {
            // The collector may have ended the part since. It says so in the head before it removes the file, so whoever
            // still has the file open sees it.
            let head = match &*state {
                Some(part) => read_head(blocker, self.id, part.id)?.filter(|head| !head.ended),
                None => None,
            };
            let mut part = match (head, state.take()) {
                (Some(head), Some(part)) => {
                    if self.shared.now().saturating_sub(head.time) >= RENEW_AFTER {
                        self.touch(&head)?;
                    }
                    part
                }
                _ => self.new_part()?,
            };
            // Nobody ended it, so what it holds already stays as it is.
            rest.retain(|digest| !part.held.contains(digest));
            let atoms = rest.len().div_ceil(ATOM_DIGESTS).min((ATOMS + 1).saturating_sub(part.next) as usize);
            let later = rest.split_off((atoms * ATOM_DIGESTS).min(rest.len()));
            if rest.is_empty() {
                // A full part is kept for what it holds, as long as nothing else is asked for.
                if later.is_empty() {
                    *state = Some(part);
                }
                rest = later;
                continue;
            }
            let mut bytes = Vec::with_capacity(atoms * ATOM);
            for (n, chunk) in rest.chunks(ATOM_DIGESTS).enumerate() {
                bytes.extend_from_slice(&encode_atom(part.id, part.next + n as u32, chunk));
            }
            let object = Object::Lease(self.id, part.id);
            // If this fails the part stays taken out: what is in it counts, and nothing more is appended.
            blocker.write(object, &[IoSlice::new(&bytes)], u64::from(part.next) * ATOM as u64)?;
            blocker.sync(&[object])?;
            part.next += atoms as u32;
            part.held.extend(rest);
            *state = Some(part);
            rest = later;
        }
        Ok(())
    }

    fn new_part(&self) -> Result<Part> {
        let id = self.shared.random()?;
        let (claim, claimant) = (self.id, self.claimant.clone());
        let head = LeaseHead { claim, part: id, ended: false, time: self.shared.now(), claimant }.encode()?;
        self.shared.blocker.create(Object::Lease(claim, id), &head, LEN)?;
        Ok(Part { id, next: 1, held: HashSet::new() })
    }
}

fn check_block(block: &[u8]) -> Result<()> {
    if block.len() as u64 <= MAX_BLOCK_SIZE {
        return Ok(());
    }
    let text = format!("a block of {} bytes; at most {MAX_BLOCK_SIZE} go into one", block.len());
    Err(Error::InvalidArgument(text))
}

/// The head of a part; `None` if it is gone or was never whole.
pub(super) fn read_head(blocker: &dyn Blocker, claim: u64, part: u64) -> Result<Option<LeaseHead>> {
    let object = Object::Lease(claim, part);
    let mut bytes = [0; ATOM];
    if blocker.read_some(object, &mut bytes, 0)? < ATOM {
        return Ok(None);
    }
    match LeaseHead::decode(&object.to_string(), &bytes)? {
        Some(head) if (head.claim, head.part) != (claim, part) => {
            Err(Error::damaged(object.to_string(), "it is the file of another claim"))
        }
        found => Ok(found),
    }
}

/// Says in the head of a part that it ended, with the time if it is to count from now on.
///
/// The file stays: a collection under way may have looked at the maps before one of them named what this lease held, and
/// at the leases it looks last. The next one removes it when it begins.
fn mark_ended(blocker: &dyn Blocker, claim: u64, part: u64, now: Option<u64>) -> Result<()> {
    let object = Object::Lease(claim, part);
    if let Some(head) = read_head(blocker, claim, part)?.filter(|head| !head.ended) {
        let head = LeaseHead { ended: true, time: now.unwrap_or(head.time), ..head };
        blocker.write(object, &[IoSlice::new(&head.encode()?)], 0)?;
        blocker.sync(&[object])?;
    }
    Ok(())
}

/// Ends a part for good: says so in its head, for those who have it open, and removes it.
pub(super) fn remove_part(blocker: &dyn Blocker, claim: u64, part: u64) -> Result<()> {
    mark_ended(blocker, claim, part, None)?;
    blocker.remove(Object::Lease(claim, part))
}
