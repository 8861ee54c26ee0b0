//! Rules of volume and snapshot names.
//!
//! The rules are the original's, so that its block, lock and map objects can never collide with a name made here, plus
//! the ones that keep a name usable as a file name on every backend.

use crate::error::{Error, Result};
use crate::limits::{MAX_NAME, MIN_NAME};

/// Checks a name for a new volume or snapshot.
///
/// Allowed are 6 to 82 bytes of ASCII letters, digits, `.`, `-`, `+`, `@`, `_` and other UTF-8 letters, without a
/// leading `-` or `.`. Refused are NUL, `/`, `:`, control characters, spaces, a start of `archip_`, an end of `_lock` or `_hash`, and an underscore
/// followed by 16 lower-case hex digits anywhere.
pub fn check(name: &str) -> Result<()> {
    let refuse = |reason| Err(Error::InvalidName { name: name.to_string(), reason });
    if name.len() < MIN_NAME {
        return refuse("it has fewer than 6 bytes");
    }
    if name.len() > MAX_NAME {
        return refuse("it has more than 82 bytes");
    }
    if name.starts_with(['-', '.']) {
        return refuse("it starts with '-' or '.'");
    }
    if name.chars().any(|c| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '+' | '@' | '_'))) {
        return refuse("only letters, digits and . - + @ _ are allowed");
    }
    if name.starts_with("archip_") {
        return refuse("it starts with archip_");
    }
    if name.ends_with("_lock") || name.ends_with("_hash") {
        return refuse("it ends with _lock or _hash");
    }
    let hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    if name.as_bytes().windows(17).any(|w| w[0] == b'_' && w[1..].iter().all(hex)) {
        return refuse("it contains an underscore followed by 16 hex digits");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn s27_names_that_could_leave_the_store_or_collide_are_refused() {
        let long = "a".repeat(83);
        for bad in [
            "",
            "short",
            &long,
            "a/../../b",
            "../../../etc",
            "nul\0name",
            "archip_abc",
            "volume_lock",
            "volume_hash",
            "vol_0123456789abcdef",
            "vol_0123456789abcdef_more",
            "with space",
            "colon:name",
            "-option",
            ".hidden",
            "new\nline",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_ganeti_and_synnefo_are_accepted() {
        let long = "a".repeat(82);
        for good in [
            "abcdef",
            &long,
            "snf-vol-12",
            "snf_file_17",
            "snf-snap-3-1",
            "1f0c.ext.disk0",
            "name.snap",
            "a+b@cde",
            "vol_0123456789ABCDEF",
            "vol_0123456789abcde",
            "debian-bookworm",
        ] {
            check(good).expect(good);
        }
    }
}
