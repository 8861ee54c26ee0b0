//! The variables that count, read with suspicion: they come from whoever may make an instance, and lie among whatever else the daemon of
//! Ganeti was started with.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::error::ProviderError;
use crate::limits::{MAX_SHOWN, MAX_VALUE};
use crate::parameters;

/// Variables of a disk that are looked at, and those of an instance; all others whose names begin with `VOL_` are not.
const VOLUME: [&str; 10] = [
    "VOL_NAME",
    "VOL_CNAME",
    "VOL_UUID",
    "VOL_SIZE",
    "VOL_NEW_SIZE",
    "VOL_METADATA",
    "VOL_SNAPSHOT_NAME",
    "VOL_OPEN_EXCLUSIVE",
    "GANETI_INSTANCE_PRIMARY",
    "GANETI_MIGRATE_CLEANUP",
];

/// What Ganeti said.
#[derive(Debug, Default)]
pub struct Environment {
    known: BTreeMap<String, OsString>,
    /// Parameters that are none of ours.
    unknown: Vec<OsString>,
}

impl Environment {
    /// Takes what counts of all variables.
    pub fn read(all: impl Iterator<Item = (OsString, OsString)>) -> Environment {
        let mut environment = Environment::default();
        for (name, value) in all {
            let text = name.to_str();
            let known = |name: &str| {
                VOLUME.contains(&name) || parameters::KNOWN.contains(&name) || name.starts_with("GANETI_INSTANCE_DISK")
            };
            if let Some(text) = text.filter(|text| known(text)) {
                environment.known.insert(text.to_string(), value);
            } else if name.as_encoded_bytes().starts_with(parameters::PREFIX.as_bytes()) {
                environment.unknown.push(name);
            }
        }
        environment
    }

    /// Names of parameters that are none of ours, in the order of their names.
    pub fn unknown(&self) -> Vec<String> {
        let mut names: Vec<_> = self.unknown.iter().map(shown).collect();
        names.sort();
        names
    }

    /// A value; `None` if the variable is not there or empty. One that is too long, or not printable, is refused.
    pub fn text(&self, name: &str) -> Result<Option<&str>, ProviderError> {
        let Some(value) = self.known.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        let refuse = |reason: String| ProviderError::Variable { name: name.to_string(), reason };
        if value.len() > MAX_VALUE {
            return Err(refuse(format!("has {} bytes; {MAX_VALUE} are the most that make sense", value.len())));
        }
        let Some(text) = value.to_str() else { return Err(refuse(format!("is {}, which is not UTF-8", shown(value)))) };
        if text.chars().any(char::is_control) {
            return Err(refuse(format!("is {}, with control characters in it", shown(value))));
        }
        Ok(Some(text))
    }

    /// A value that must be there.
    pub fn needed(&self, name: &str) -> Result<&str, ProviderError> {
        let missing = || ProviderError::Variable { name: name.to_string(), reason: "is not set".into() };
        self.text(name)?.ok_or_else(missing)
    }

    /// The value of a parameter; the text `None` is how Ganeti prints that there is none.
    pub fn parameter(&self, name: &str) -> Result<Option<&str>, ProviderError> {
        Ok(self.text(name)?.filter(|value| *value != "None"))
    }

    /// A size that is given in MiB, in bytes.
    pub fn mebibytes(&self, name: &str) -> Result<u64, ProviderError> {
        let text = self.needed(name)?;
        let bytes = number(text).and_then(|mib| mib.checked_mul(1 << 20)).filter(|bytes| *bytes > 0);
        bytes.ok_or_else(|| wrong(name, text, "a size in MiB, a whole number without a unit"))
    }

    /// `True` or `False`.
    pub fn truth(&self, name: &str) -> Result<Option<bool>, ProviderError> {
        match self.parameter(name)? {
            None => Ok(None),
            Some("True" | "true") => Ok(Some(true)),
            Some("False" | "false") => Ok(Some(false)),
            Some(other) => Err(wrong(name, other, "True or False")),
        }
    }
}

/// Only digits: what Rust takes for a number besides has no place here.
pub fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A variable that is something else than it must be.
pub fn wrong(name: &str, value: &str, wanted: &str) -> ProviderError {
    ProviderError::Variable { name: name.to_string(), reason: format!("is {}, not {wanted}", shown(value)) }
}

/// A value for a message: quoted, on one line, and not too long.
pub fn shown(value: impl AsRef<OsStr>) -> String {
    let text = value.as_ref().to_string_lossy();
    let mut cut: String = text.chars().take(MAX_SHOWN).collect();
    if cut.len() < text.len() {
        cut.push_str("...");
    }
    format!("{cut:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn environment(name: &str, value: &[u8]) -> Environment {
        Environment::read([(OsString::from(name), OsStr::from_bytes(value).to_os_string())].into_iter())
    }

    #[test]
    fn only_what_counts_is_taken() {
        let all = ["VOL_NAME", "VOL_OTHER", "PATH", "EXTP_ORIGIN", "EXTP_BOGUS", "XEXTP_ORIGIN", "EXTP_", "LD_PRELOAD"];
        let environment = Environment::read(all.iter().map(|name| (OsString::from(name), OsString::from("v"))));
        assert_eq!(environment.known.keys().collect::<Vec<_>>(), ["EXTP_ORIGIN", "VOL_NAME"]);
        assert_eq!(environment.unknown(), ["\"EXTP_\"", "\"EXTP_BOGUS\""]);
        let hostile =
            Environment::read([(OsStr::from_bytes(b"EXTP_\xff\n$(x)").to_os_string(), "v".into())].into_iter());
        assert_eq!(hostile.unknown(), ["\"EXTP_\u{fffd}\\n$(x)\""]);
    }

    #[test]
    fn s58_values_that_no_disk_has_are_refused_on_one_line() {
        let long = "x".repeat(1 << 20);
        for bad in [&b"a\nb"[..], b"a\0b", b"\x1b[2J", b"\xff\xfe", "a\u{85}b".as_bytes(), long.as_bytes()] {
            let error = environment("VOL_NAME", bad).text("VOL_NAME").unwrap_err().to_string();
            assert!(
                error.starts_with("VOL_NAME ") && error.len() < 800 && !error.contains(char::is_control),
                "{error}"
            );
        }
        assert_eq!(environment("VOL_NAME", b"").text("VOL_NAME").unwrap(), None);
        assert!(environment("VOL_NAME", b"").needed("VOL_NAME").is_err());
        // Whether a name may be, or is safe as part of a path, is decided where names are.
        let text = "$(reboot) `x` ; ../.. , -rf ü";
        assert_eq!(environment("VOL_NAME", text.as_bytes()).text("VOL_NAME").unwrap(), Some(text));
    }

    #[test]
    fn s58_sizes_are_digits_that_fit() {
        let size = |text: &str| environment("VOL_SIZE", text.as_bytes()).mebibytes("VOL_SIZE").ok();
        assert_eq!((size("1"), size("0064")), (Some(1 << 20), Some(64 << 20)));
        let overflow = (u64::MAX >> 20) + 1;
        for bad in [
            "",
            "0",
            "+1",
            "-1",
            "1M",
            "1.5",
            "1e3",
            "0x10",
            " 1",
            "1 ",
            "1,2",
            "١",
            "None",
            &overflow.to_string(),
            &"9".repeat(40),
        ] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn none_is_nothing_for_parameters_and_truth_has_two_spellings() {
        let of = |value: &str| environment("EXTP_REUSE_DATA", value.as_bytes()).truth("EXTP_REUSE_DATA").ok();
        assert_eq!(
            ["None", "", "True", "false", "1", "TRUE"].map(of),
            [Some(None), Some(None), Some(Some(true)), Some(Some(false)), None, None]
        );
    }
}
