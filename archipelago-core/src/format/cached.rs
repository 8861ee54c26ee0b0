//! The cache through which a volume is written (format.md, "Header").

use super::bytes::{Reader, Writer};
use super::header::Kind;
use crate::error::Result;

/// Feature bit: the newest writes of the volume may be in a cache outside the store.
const CACHED: u64 = 16;
/// Feature bits of headers that belong to the part here.
pub(super) const KNOWN: u64 = CACHED;
/// Longest name of a host, in bytes: what the system allows.
pub const MAX_HOST: usize = 64;
/// Most bytes of the part here.
pub(super) const MAX_SIZE: usize = 8 + 1 + MAX_HOST;

/// The cache that has the newest writes of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cached {
    /// Identity of the cache, random, not 0: another one for each time that it began empty.
    pub id: u64,
    /// Where it is, for people: 1 to [`MAX_HOST`] bytes without control characters.
    pub host: String,
}

/// Whether this can be stored as the name of a host.
fn is_host(text: &str) -> bool {
    (1..=MAX_HOST).contains(&text.len()) && !text.chars().any(char::is_control)
}

impl Cached {
    /// A cache on a host whose name is stored as far as it can be.
    pub fn new(id: u64, host: &str) -> Cached {
        let mut host: String = host.chars().filter(|c| !c.is_control()).collect();
        while host.len() > MAX_HOST {
            host.pop();
        }
        if host.is_empty() {
            host.push('?');
        }
        Cached { id, host }
    }

    pub(super) fn feature(of: &Option<Cached>) -> u64 {
        if of.is_some() { CACHED } else { 0 }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.u64(self.id).u8(self.host.len() as u8).bytes(self.host.as_bytes());
    }

    pub(super) fn read(reader: &mut Reader<'_>, features: u64, kind: Kind) -> Result<Option<Cached>> {
        if features & CACHED == 0 {
            return Ok(None);
        }
        reader.require(kind == Kind::Volume, "only volumes are written through a cache")?;
        let (id, len) = (reader.u64()?, usize::from(reader.u8()?));
        let Ok(host) = String::from_utf8(reader.take(len)?.to_vec()) else {
            return reader.damaged("the host of a cache is not UTF-8");
        };
        reader.require(id != 0 && is_host(&host), "a cache is impossible")?;
        Ok(Some(Cached { id, host }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_of_a_host_can_be_stored() {
        for (host, stored) in [("node-1", "node-1"), ("", "?"), ("a\nb", "ab"), (&"ä".repeat(40), &"ä".repeat(32))] {
            let cached = Cached::new(7, host);
            assert_eq!(cached.host, stored);
            assert!(is_host(&cached.host));
        }
    }
}
