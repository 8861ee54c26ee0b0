//! Labels: what programs note about a map, as texts under keys (format.md, "Header").

use std::collections::BTreeMap;

use super::bytes::{Reader, Writer};
use super::header::Kind;
use crate::error::{Error, Result};
use crate::limits::{MAX_LABEL_KEY, MAX_LABEL_VALUE, MAX_LABELS};

/// Feature bit: the map has labels.
const LABELS: u64 = 8;
/// Feature bits of headers that belong to the part here.
pub(super) const KNOWN: u64 = LABELS;
/// Bytes of a label before its key and value: the length of each.
const HEAD: usize = 2;

/// What programs note about a map, as texts under keys. The engine knows nothing of what they mean. A snapshot or clone has none of the
/// map it is made of.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

/// Whether a key can be stored: 1 to [`MAX_LABEL_KEY`] bytes of `a-z`, `0-9`, `.`, `-` and `_`.
fn is_key(key: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    (1..=MAX_LABEL_KEY).contains(&key.len()) && key.bytes().all(good)
}

/// Whether a value can be stored: 1 to [`MAX_LABEL_VALUE`] bytes without control characters.
fn is_value(value: &str) -> bool {
    (1..=MAX_LABEL_VALUE).contains(&value.len()) && !value.chars().any(char::is_control)
}

impl Labels {
    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All of them, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These labels with `changes`: a value replaces the one under its key, `None` takes it away. A key or value that cannot be stored, and more
    /// than fits into a header, is [`Error::InvalidArgument`].
    pub fn with(&self, changes: &[(&str, Option<&str>)]) -> Result<Labels> {
        let mut labels = self.clone();
        for (key, value) in changes {
            if !is_key(key) {
                return Err(Error::InvalidArgument(format!(
                    "{key:?}: the key of a label has 1 to {MAX_LABEL_KEY} bytes of a-z, 0-9, '.', '-' and '_'"
                )));
            }
            match value {
                Some(value) if is_value(value) => drop(labels.0.insert(key.to_string(), value.to_string())),
                Some(value) => {
                    return Err(Error::InvalidArgument(format!(
                        "{value:?}: the value of a label has 1 to {MAX_LABEL_VALUE} bytes without control characters"
                    )));
                }
                None => drop(labels.0.remove(*key)),
            }
        }
        if labels.size() > MAX_LABELS {
            return Err(Error::InvalidArgument(format!("a map has at most {MAX_LABELS} bytes of labels")));
        }
        Ok(labels)
    }

    /// Bytes of the labels in a header, without their count.
    fn size(&self) -> usize {
        self.0.iter().map(|(key, value)| HEAD + key.len() + value.len()).sum()
    }

    pub(super) fn feature(&self) -> u64 {
        if self.is_empty() { 0 } else { LABELS }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        if self.is_empty() {
            return;
        }
        writer.u16(self.0.len() as u16);
        for (key, value) in &self.0 {
            writer.u8(key.len() as u8).u8(value.len() as u8).bytes(key.as_bytes()).bytes(value.as_bytes());
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>, features: u64, kind: Kind) -> Result<Labels> {
        let mut labels = Labels::default();
        if features & LABELS == 0 {
            return Ok(labels);
        }
        reader.require(matches!(kind, Kind::Volume | Kind::Snapshot), "only volumes and snapshots have labels")?;
        let count = reader.u16()?;
        reader.require(count > 0, "labels without one")?;
        for _ in 0..count {
            let (key, value) = (usize::from(reader.u8()?), usize::from(reader.u8()?));
            let (key, value) = (reader.take(key)?.to_vec(), reader.take(value)?.to_vec());
            let (Ok(key), Ok(value)) = (String::from_utf8(key), String::from_utf8(value)) else {
                return reader.damaged("a label is not UTF-8");
            };
            reader.require(is_key(&key) && is_value(&value), "a label is impossible")?;
            let last = labels.0.last_key_value().map(|(last, _)| last.as_str());
            reader.require(last.is_none_or(|last| last < key.as_str()), "labels are out of order")?;
            labels.0.insert(key, value);
        }
        reader.require(labels.size() <= MAX_LABELS, "the map has too many labels")?;
        Ok(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_changed_together_or_not_at_all() {
        let labels = Labels::default().with(&[("b", Some("2")), ("a.x", Some("ä 1"))]).unwrap();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a.x", "ä 1"), ("b", "2")]);
        let changed = labels.with(&[("b", Some("3")), ("a.x", None), ("none", None)]).unwrap();
        assert_eq!((changed.get("b"), changed.get("a.x"), labels.get("b")), (Some("3"), None, Some("2")));
        assert!(changed.with(&[("b", None)]).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let (long_key, long_value) = ("k".repeat(MAX_LABEL_KEY + 1), "v".repeat(MAX_LABEL_VALUE + 1));
        let changes = [
            ("", "v"),
            ("K", "v"),
            ("a b", "v"),
            ("ä", "v"),
            (&long_key, "v"),
            ("k", ""),
            ("k", "a\nb"),
            ("k", &long_value),
        ];
        for (key, value) in changes {
            assert!(Labels::default().with(&[(key, Some(value))]).is_err(), "{key:?} {value:?}");
        }
        let mut labels = Labels::default();
        let value = "v".repeat(100);
        let full = (0..).find(|n| match labels.with(&[(&format!("key-{n:02}"), Some(&value))]) {
            Ok(more) => {
                labels = more;
                false
            }
            Err(_) => true,
        });
        assert_eq!(full, Some(MAX_LABELS / (HEAD + 6 + 100)));
    }

    #[test]
    fn stored_labels_that_are_out_of_order_or_impossible_are_damage() {
        let read = |bytes: &[u8], kind| {
            let mut reader = Reader::new("h", bytes);
            Labels::read(&mut reader, LABELS, kind).and_then(|labels| reader.end().map(|()| labels))
        };
        let good = [2, 0, 1, 1, b'a', b'1', 1, 1, b'b', b'2'];
        assert_eq!(read(&good, Kind::Volume).unwrap().get("b"), Some("2"));
        assert!(read(&good, Kind::Object).is_err() && read(&good, Kind::Group).is_err());
        for bad in [
            &[0, 0][..],
            &[2, 0, 1, 1, b'b', b'1', 1, 1, b'a', b'2'],
            &[2, 0, 1, 1, b'a', b'1', 1, 1, b'a', b'2'],
            &[1, 0, 1, 1, b'A', b'1'],
            &[1, 0, 1, 1, b'a', 0xff],
            &[1, 0, 1, 0, b'a'],
            &[1, 0, 1, 9, b'a', b'1'],
        ] {
            assert!(read(bad, Kind::Volume).is_err(), "{bad:?}");
        }
        let many: Vec<u8> = [6, 0]
            .into_iter()
            .chain((0..6u8).flat_map(|n| [vec![1, 200, b'a' + n], vec![b'v'; 200]].concat()))
            .collect();
        assert!(read(&many, Kind::Volume).is_err(), "more than a header may have");
    }
}
