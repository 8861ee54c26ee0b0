//! What a collector needs of content: the digests that leases hold, the end of claims that are too old, and deletion that
//! no lease can come too late for.

use std::collections::{BTreeMap, HashSet};

use crate::blocker::{Blocker, LockMode, Object};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::lease::{ATOMS, LEN, decode_atom};
use crate::limits::{ATOM, CONTENT_SWEEP};
use crate::store::Store;
use crate::store::content::claim::{end_part, read_head};
use crate::store::content::lock;

/// How far the leases were read. They are only appended to, so what is new since is read next.
#[derive(Default)]
pub struct Leases {
    /// Next atom of each part, by claim and part.
    next: BTreeMap<(u64, u64), u32>,
}

impl Leases {
    /// Calls `each` with every digest that was leased since the last call. For the first call at the latest after every
    /// operation that had begun before it was waited for.
    pub fn advance(&mut self, store: &Store, each: &mut dyn FnMut(Digest) -> Result<()>) -> Result<()> {
        self.read(&*store.shared.blocker, each)
    }

    fn read(&mut self, blocker: &dyn Blocker, each: &mut dyn FnMut(Digest) -> Result<()>) -> Result<()> {
        for object in blocker.content_tables()? {
            let Object::Lease(claim, part) = object else { continue };
            if read_head(blocker, claim, part)?.is_none_or(|head| head.ended) {
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
    /// Ends the claims that were not used or renewed for `grace` seconds; returns how many of their parts.
    pub fn expire_claims(&self, grace: u64) -> Result<u64> {
        let blocker = &*self.shared.blocker;
        let _lock = lock(blocker, LockMode::Exclusive)?;
        let mut ended = 0;
        for object in blocker.content_tables()? {
            let Object::Lease(claim, part) = object else { continue };
            // One without a head was never used: its maker died.
            let old = read_head(blocker, claim, part)?
                .is_none_or(|head| head.ended || self.shared.now().saturating_sub(head.time) >= grace);
            if old {
                end_part(blocker, claim, part)?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// Deletes content objects that nothing names, unless one was leased since `leases` was read last. Returns how many, and
    /// their bytes. The caller has marked what maps and leases name, and waited for the operations that had begun before.
    pub fn sweep_contents(&self, leases: &mut Leases, dead: &[Digest]) -> Result<(u64, u64)> {
        let blocker = &*self.shared.blocker;
        let (mut count, mut bytes) = (0, 0);
        let mut leased = HashSet::new();
        for portion in dead.chunks(CONTENT_SWEEP) {
            let _lock = lock(blocker, LockMode::Exclusive)?;
            leases.read(blocker, &mut |digest| {
                leased.insert(digest);
                Ok(())
            })?;
            for digest in portion.iter().filter(|digest| !leased.contains(digest)) {
                if *digest == Digest::ZERO {
                    return Err(Error::InvalidArgument("zeros are not stored, and cannot be deleted".into()));
                }
                if let Some(len) = blocker.content_len(*digest)? {
                    blocker.remove(Object::Content(*digest))?;
                    (count, bytes) = (count + 1, bytes + len);
                }
            }
        }
        Ok((count, bytes))
    }

    /// Calls `each` with every content object of the store, a 256th of them at a time in memory.
    pub fn contents(&self, each: &mut dyn FnMut(Digest) -> Result<()>) -> Result<()> {
        for first in 0..=u8::MAX {
            self.shared.blocker.contents(first)?.into_iter().try_for_each(&mut *each)?;
        }
        Ok(())
    }
}
