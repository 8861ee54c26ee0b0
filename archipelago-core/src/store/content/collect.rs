//! What a collector needs of content: the digests that leases hold, and the end of claims that are too old.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;

use crate::blocker::{Blocker, LockMode, Object};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::lease::{ATOMS, LEN, LeaseHead, decode_atom};
use crate::limits::ATOM;
use crate::store::Store;
use crate::store::collect::Amount;
use crate::store::content::claim::{read_head, remove_part};
use crate::store::content::lock;
use crate::store::content::redirect::patiently;
use crate::store::shared::Shared;

/// How far the leases were read. They are only appended to, so what is new since is read next.
#[derive(Default)]
pub struct Leases {
    /// Next atom of each part, by claim and part.
    next: BTreeMap<(u64, u64), u32>,
    /// Parts that hold nothing any more.
    over: BTreeSet<(u64, u64)>,
}

impl Leases {
    /// Without the leases that are over. With `remove` their files go; otherwise they are only passed over.
    pub(crate) fn begin(shared: &Shared, grace: u64, remove: bool) -> Result<(Leases, Amount)> {
        let blocker = &*shared.blocker;
        let (mut leases, mut removed) = (Leases::default(), Amount::default());
        // Whoever leases looks at the head of its part first, under the same lock.
        let _lock = lock(blocker, LockMode::Exclusive)?;
        for object in blocker.content_tables()? {
            let Object::Lease(claim, part) = object else { continue };
            // One without a head was never used: its maker died.
            let over =
                read_head(blocker, claim, part)?.is_none_or(|head| shared.now().saturating_sub(head.time) >= grace);
            if over {
                removed.add(blocker.allocated(object)?);
                leases.over.insert((claim, part));
                if remove {
                    remove_part(blocker, claim, part)?;
                }
            }
        }
        Ok((leases, removed))
    }

    /// Looks whether a part is what was written.
    pub(crate) fn verify(blocker: &dyn Blocker, claim: u64, part: u64) -> Result<()> {
        let object = Object::Lease(claim, part);
        patiently(|| {
            if read_head(blocker, claim, part)?.is_none() {
                return Ok(());
            }
            let mut bytes = vec![0; LEN as usize - ATOM];
            let read = blocker.read_some(object, &mut bytes, ATOM as u64)?;
            for (number, atom) in (1..).zip(bytes[..read].chunks_exact(ATOM)) {
                decode_atom(&object.to_string(), atom, part, number)?;
            }
            Ok(())
        })
    }

    /// Ends a part that is not what was written, and removes it: what it held may be collected, and whoever claimed is told anew
    /// what is missing.
    pub(crate) fn drop_damaged(shared: &Shared, claim: u64, part: u64) -> Result<()> {
        let blocker = &*shared.blocker;
        let _lock = lock(blocker, LockMode::Exclusive)?;
        let object = Object::Lease(claim, part);
        if Leases::verify(blocker, claim, part).is_ok() {
            return Err(Error::Unsupported(format!("{object}: was changed since it was looked at; check again")));
        }
        // For those who have it open.
        let head = LeaseHead { claim, part, ended: true, time: shared.now(), claimant: String::new() };
        blocker.write(object, &[IoSlice::new(&head.encode()?)], 0)?;
        blocker.sync(&[object])?;
        blocker.remove(object)
    }

    /// Calls `each` with every digest that was leased since the last call, by claims that ended meanwhile too. Under the lock
    /// of content these are all that anybody was told of.
    pub fn advance(&mut self, store: &Store, each: &mut dyn FnMut(Digest) -> Result<()>) -> Result<()> {
        self.read(&*store.shared.blocker, each)
    }

    pub(crate) fn read(&mut self, blocker: &dyn Blocker, each: &mut dyn FnMut(Digest) -> Result<()>) -> Result<()> {
        for object in blocker.content_tables()? {
            let Object::Lease(claim, part) = object else { continue };
            if self.over.contains(&(claim, part)) || read_head(blocker, claim, part)?.is_none() {
                continue;
            }
            let next = self.next.entry((claim, part)).or_insert(1);
            let mut bytes = vec![0; (LEN - u64::from(*next) * ATOM as u64) as usize];
            let read = blocker.read_some(object, &mut bytes, u64::from(*next) * ATOM as u64)?;
            let name = object.to_string();
            for atom in bytes[..read].chunks_exact(ATOM) {
                // An atom that is not what was written might be any digest: nothing may be deleted then.
                let digests = decode_atom(&name, atom, part, *next)?;
                if digests.is_empty() || *next > ATOMS {
                    break;
                }
                digests.into_iter().try_for_each(&mut *each)?;
                *next += 1;
            }
        }
        Ok(())
    }
}

impl Store {
    /// Ends the claims that were not used or renewed for `grace` seconds, and removes those that ended that long ago; returns
    /// how many of their parts. A collection does so when it begins.
    pub fn expire_claims(&self, grace: u64) -> Result<u64> {
        Leases::begin(&self.shared, grace, true).map(|(_, removed)| removed.objects)
    }

    /// Calls `each` with every content object of the store, a 256th of them at a time in memory.
    pub fn contents(&self, each: &mut dyn FnMut(Digest) -> Result<()>) -> Result<()> {
        for first in self.shared.blocker.content_parts()? {
            self.shared.blocker.contents(first)?.into_iter().try_for_each(&mut *each)?;
        }
        Ok(())
    }
}
