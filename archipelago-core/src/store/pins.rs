//! Headers that must stay roots of the collection although the catalogue may no longer have them: those that open
//! read-only handles and long readers (export, comparison, hashing, sending) loaded, and read by.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::blocker::VolumeId;
use crate::error::{Error, Result};
use crate::format::header::Header;
use crate::hex;
use crate::sync::Mutex;

/// Hexadecimal digits of headers in one page: with its frame it stays below `MAX_CONTROL_MESSAGE`, and has room for
/// more than fifty of the largest headers.
const PAGE: usize = 512 << 10;

/// The pins of one open store.
#[derive(Default)]
pub struct Pins {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: u64,
    held: BTreeMap<u64, (VolumeId, Vec<u8>)>,
}

/// A pinned header, until this is dropped.
#[must_use = "the header is unpinned when this is dropped"]
pub struct Pin {
    pins: Arc<Pins>,
    number: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.state.lock().held.remove(&self.number);
    }
}

/// A pinned header as it is told to a collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedHeader {
    /// Id of the map, 16 hex digits.
    pub id: String,
    /// The header as it was loaded, encoded, in hex digits.
    pub header: String,
}

impl PinnedHeader {
    /// The header.
    pub fn decode(&self) -> Result<Header> {
        let name = format!("pinned header of {}", self.id);
        match hex::decode(&self.header) {
            Some(bytes) => Header::decode(&name, &bytes),
            None => Err(Error::damaged(name, "it is not written in hex digits")),
        }
    }
}

impl Pins {
    /// Pins a header. To be called inside the operation (see [`super::operations`]) in which it was read.
    pub fn pin(self: &Arc<Pins>, header: &Header) -> Pin {
        let mut state = self.state.lock();
        state.last += 1;
        let number = state.last;
        state.held.insert(number, (header.id, header.encode()));
        Pin { pins: self.clone(), number }
    }

    /// Pins behind number `after`, and the number to go on behind if there may be more. Who is pinned during the whole
    /// listing is in it.
    pub fn page(&self, after: u64) -> (Vec<PinnedHeader>, Option<u64>) {
        let state = self.state.lock();
        let (mut page, mut size) = (Vec::new(), 0);
        for (number, (id, header)) in state.held.range((Bound::Excluded(after), Bound::Unbounded)) {
            let header = hex::encode(header);
            size += header.len();
            page.push(PinnedHeader { id: id.to_string(), header });
            if size > PAGE {
                return (page, Some(*number));
            }
        }
        (page, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::header::{Kind, Root};

    fn header(id: u64, inline: usize) -> Header {
        Header {
            id: VolumeId(id),
            kind: Kind::Snapshot,
            name: "snap-1".into(),
            removed: false,
            shrunk: false,
            size: 1 << 30,
            block_shift: 22,
            epoch: 1,
            created: 0,
            parent: VolumeId(0),
            birth: 0,
            key: 0,
            domain: 0,
            root: if inline == 0 { Root::Empty } else { Root::Inline(vec![1; inline]) },
            ranges: Vec::new(),
            log: None,
            received: Default::default(),
            group: Default::default(),
            labels: Default::default(),
            cached: None,
        }
    }

    #[test]
    fn pins_are_listed_in_pages_and_gone_when_dropped() {
        let pins = Arc::new(Pins::default());
        let held: Vec<Pin> = (1..=700).map(|id| pins.pin(&header(id, 1000))).collect();
        let (mut seen, mut after, mut pages) = (Vec::new(), 0, 0);
        loop {
            let (page, next) = pins.page(after);
            let bytes = serde_json::to_vec(&page).unwrap().len();
            assert!(bytes < crate::limits::MAX_CONTROL_MESSAGE, "{bytes}");
            seen.extend(page.iter().map(|p| p.decode().unwrap().id.0));
            pages += 1;
            match next {
                Some(number) => after = number,
                None => break,
            }
        }
        assert!(pages > 1);
        assert_eq!(seen, (1..=700).collect::<Vec<u64>>());
        drop(held);
        assert_eq!(pins.page(0), (Vec::new(), None));
    }

    #[test]
    fn a_pin_that_is_no_header_is_an_error() {
        for text in ["", "zz", "abc", "00"] {
            assert!(PinnedHeader { id: "1".into(), header: text.into() }.decode().is_err());
        }
    }
}
