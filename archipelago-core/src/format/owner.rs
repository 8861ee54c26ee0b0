//! The short form in which the holder of a volume's lock says who it is (format.md, "Locks and processes").

use crate::error::Owner;

/// What fits in the text of a symbolic link: which registration of the store to look up, and enough to find the process
/// without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortOwner {
    /// Registration of the process, 16 lower-case hex digits; empty for one that has none.
    pub process: String,
    /// Seconds since 1970 at which it opened the volume.
    pub since: u64,
    /// Process id.
    pub pid: u32,
}

impl ShortOwner {
    /// The short form of an owner.
    pub fn of(owner: &Owner) -> ShortOwner {
        ShortOwner { process: owner.process.clone(), since: owner.since, pid: owner.pid }
    }

    /// `<process>-<since>-<pid>`, at most 48 bytes.
    pub fn encode(&self) -> String {
        format!("{}-{}-{}", self.process, self.since, self.pid)
    }

    /// What [`ShortOwner::encode`] made; `None` for everything else.
    pub fn decode(bytes: &[u8]) -> Option<ShortOwner> {
        let mut fields = std::str::from_utf8(bytes).ok()?.split('-');
        let (process, since, pid) = (fields.next()?, fields.next()?, fields.next()?);
        let hex = process.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if fields.next().is_some() || !matches!(process.len(), 0 | 16) || !hex {
            return None;
        }
        Some(ShortOwner { process: process.to_string(), since: number(since)?, pid: number(pid)? })
    }
}

/// A number in its one form, digits alone: `parse` takes a sign and leading zeros too.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let one_form = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if one_form { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocker::MAX_OWNER;

    #[test]
    fn the_longest_short_form_fits_in_a_lock_record_and_is_read_back() {
        for process in ["ffffffffffffffff", ""] {
            let owner = ShortOwner { process: process.into(), since: u64::MAX, pid: u32::MAX };
            let text = owner.encode();
            assert!(text.len() <= MAX_OWNER, "{text}");
            assert!(crate::blocker::check_owner(text.as_bytes()).is_ok());
            assert_eq!(ShortOwner::decode(text.as_bytes()), Some(owner));
        }
    }

    #[test]
    fn what_is_not_a_short_form_is_nobody() {
        for text in [
            "",
            "-",
            "--",
            "me",
            "00c0ffee00c0ffee",
            "00c0ffee00c0ffee-1",
            "00c0ffee00c0ffee-1-",
            "00c0ffee00c0ffee-1-2-3",
            "00c0ffee00c0ffee-+1-2",
            "00c0ffee00c0ffee-01-2",
            "00c0ffee00c0ffee-1-00",
            "00C0FFEE00C0FFEE-1-2",
            "../../etc/passwd-1-2",
            "00c0ffee00c0ffe-1-2",
            "00c0ffee00c0ffee-18446744073709551616-2",
            "00c0ffee00c0ffee-1-4294967296",
        ] {
            assert_eq!(ShortOwner::decode(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(ShortOwner::decode(&[0xff; 48]), None);
    }
}
