//! The parameters of a disk (`parameters.list`), which Ganeti hands over unchecked as `EXTP_*` in every call.

use archipelago_service::cli::size;

use crate::environment::{Environment, number, shown, wrong};
use crate::error::ProviderError;

/// How the names of all parameters begin.
pub const PREFIX: &str = "EXTP_";
/// Those that are known; the last two come from Ganeti itself.
pub const KNOWN: [&str; 7] = [
    "EXTP_ORIGIN",
    "EXTP_ORIGIN_SIZE",
    "EXTP_REUSE_DATA",
    "EXTP_POOL",
    "EXTP_BLOCKSIZE",
    "EXTP_PROVIDER",
    "EXTP_ACCESS",
];

/// How an instance reaches its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By a block device.
    Kernelspace,
    /// QEMU by itself, by a URI.
    Userspace,
}

/// What `create` makes.
#[derive(Debug, PartialEq, Eq)]
pub struct Making<'a> {
    /// A snapshot or image.
    pub origin: Option<&'a str>,
    /// Bytes that it must have, rounded up to blocks.
    pub origin_size: Option<u64>,
    /// Whether the volume is there already.
    pub reuse_data: bool,
    /// Block size of a blank disk in bytes.
    pub block_size: Option<u64>,
}

/// The store that a disk names.
pub fn pool(environment: &Environment) -> Result<Option<&str>, ProviderError> {
    environment.parameter("EXTP_POOL")
}

/// How the instance reaches its disk.
pub fn access(environment: &Environment) -> Result<Access, ProviderError> {
    match environment.parameter("EXTP_ACCESS")? {
        None | Some("kernelspace") => Ok(Access::Kernelspace),
        Some("userspace") => Ok(Access::Userspace),
        Some(other) => Err(wrong("EXTP_ACCESS", other, "kernelspace or userspace")),
    }
}

/// What `create` is to make. Parameters that do not go together are refused.
pub fn making(environment: &Environment) -> Result<Making<'_>, ProviderError> {
    let origin_size = match environment.parameter("EXTP_ORIGIN_SIZE")? {
        None | Some("-1") => None,
        Some(text) => {
            let bytes = number(text).filter(|bytes| *bytes > 0);
            Some(bytes.ok_or_else(|| wrong("EXTP_ORIGIN_SIZE", text, "a number of bytes, or -1 for none"))?)
        }
    };
    let block_size = match environment.parameter("EXTP_BLOCKSIZE")? {
        None => None,
        Some(text) => {
            let good = size::parse(text).ok().filter(|bytes| bytes.is_power_of_two());
            Some(good.ok_or_else(|| wrong("EXTP_BLOCKSIZE", text, "a power of two from 64K to 64M"))?)
        }
    };
    let making = Making {
        origin: environment.parameter("EXTP_ORIGIN")?,
        origin_size,
        reuse_data: environment.truth("EXTP_REUSE_DATA")?.unwrap_or(false),
        block_size,
    };
    if let (true, Some(origin)) = (making.reuse_data, making.origin) {
        let reason =
            format!("is True, but EXTP_ORIGIN is {}: a volume keeps its data or is made of an origin", shown(origin));
        return Err(ProviderError::Variable { name: "EXTP_REUSE_DATA".into(), reason });
    }
    Ok(making)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn environment(all: &[(&str, &str)]) -> Environment {
        Environment::read(all.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
    }

    #[test]
    fn the_list_for_ganeti_has_every_parameter_that_is_ours() {
        let list = include_str!("../parameters.list");
        let listed: Vec<_> = list.lines().map(|line| line.split_once('\t').unwrap().0.to_uppercase()).collect();
        let known: Vec<_> = KNOWN[..5].iter().map(|name| name[PREFIX.len()..].to_string()).collect();
        assert_eq!(listed, known);
    }

    #[test]
    fn parameters_are_read_and_none_is_nothing() {
        let all = [
            ("EXTP_ORIGIN", "image-1"),
            ("EXTP_ORIGIN_SIZE", "4096"),
            ("EXTP_REUSE_DATA", "False"),
            ("EXTP_BLOCKSIZE", "1M"),
        ];
        let expected =
            Making { origin: Some("image-1"), origin_size: Some(4096), reuse_data: false, block_size: Some(1 << 20) };
        assert_eq!(making(&environment(&all)).unwrap(), expected);
        let none = all.map(|(name, _)| (name, "None"));
        let nothing = Making { origin: None, origin_size: None, reuse_data: false, block_size: None };
        assert_eq!(making(&environment(&none)).unwrap(), nothing);
        assert_eq!(making(&environment(&[("EXTP_ORIGIN_SIZE", "-1")])).unwrap(), nothing);
        assert_eq!(access(&environment(&[("EXTP_ACCESS", "userspace")])).unwrap(), Access::Userspace);
        assert_eq!(access(&environment(&[])).unwrap(), Access::Kernelspace);
    }

    #[test]
    fn s58_parameters_that_make_no_sense_are_refused() {
        for bad in [
            &[("EXTP_ORIGIN_SIZE", "-2")][..],
            &[("EXTP_ORIGIN_SIZE", "99999999999999999999")],
            &[("EXTP_ORIGIN_SIZE", "1;2")],
            &[("EXTP_BLOCKSIZE", "3M")],
            &[("EXTP_BLOCKSIZE", "99999999999P")],
            &[("EXTP_REUSE_DATA", "maybe")],
            &[("EXTP_REUSE_DATA", "True"), ("EXTP_ORIGIN", "image-1")],
            &[("EXTP_ORIGIN", "a\nb")],
        ] {
            assert!(making(&environment(bad)).is_err(), "{bad:?}");
        }
        assert!(access(&environment(&[("EXTP_ACCESS", "userspace,readonly=on")])).is_err());
    }
}
