//! Where a store in a cluster is: `rados:POOL[/NAMESPACE]?conf=/PATH&user=NAME&...`, and where this host has caches for its volumes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::limits::{DEFAULT_CACHE_SIZE, MAX_CACHE_SIZE, MIN_CACHE_SIZE};

/// Where Ceph's programs look.
const CONF: &str = "/etc/ceph/ceph.conf";
/// Whom Ceph's programs take without being told.
const USER: &str = "admin";
/// Seconds for the monitors: they elect a new leader in a few, so who has heard nothing for so long has no cluster.
const MON_TIMEOUT: u32 = 30;
/// Seconds for an OSD. One that died is replaced after 20 to 30, and disks wait meanwhile; who has heard nothing for so long
/// is told, since most programs above do not expect a disk to be gone for longer.
const OSD_TIMEOUT: u32 = 120;
/// Longest time limit in seconds: an hour.
const MAX_TIMEOUT: u32 = 3600;

/// A namespace of a pool, and how it is reached. Text form: `rados:POOL[/NAMESPACE]`, and behind a `?` those of `conf=/PATH`, `user=NAME`,
/// `osd_timeout=SECONDS`, `mon_timeout=SECONDS`, `cache=/PATH` and `cache_size=BYTES` that are not as usual, with a `&` between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RadosPlace {
    /// The pool, which has to exist and to be replicated.
    pub pool: String,
    /// The namespace in it; empty for that without a name.
    pub namespace: String,
    /// Path of the configuration of the cluster.
    pub conf: String,
    /// The user, without `client.`.
    pub user: String,
    /// Seconds after which an operation on an object fails; 0 for never.
    pub osd_timeout: u32,
    /// Seconds after which connecting, and a question to the monitors, fails.
    pub mon_timeout: u32,
    /// Directory on this host in which each volume that is opened for writing has a write-back cache.
    pub cache: Option<PathBuf>,
    /// Bytes of each of them.
    pub cache_size: u64,
}

impl RadosPlace {
    /// A pool, with everything else as usual.
    pub fn new(pool: &str) -> RadosPlace {
        RadosPlace {
            pool: pool.to_string(),
            namespace: String::new(),
            conf: CONF.to_string(),
            user: USER.to_string(),
            osd_timeout: OSD_TIMEOUT,
            mon_timeout: MON_TIMEOUT,
            cache: None,
            cache_size: DEFAULT_CACHE_SIZE,
        }
    }

    /// Without how it is reached.
    pub(super) fn short(&self) -> String {
        match self.namespace.as_str() {
            "" => format!("rados:{}", self.pool),
            namespace => format!("rados:{}/{namespace}", self.pool),
        }
    }

    /// What it asks of Ceph's library.
    pub(super) fn options(&self) -> Vec<(&'static str, String)> {
        vec![
            ("rados_osd_op_timeout", self.osd_timeout.to_string()),
            ("rados_mon_op_timeout", self.mon_timeout.to_string()),
            ("client_mount_timeout", self.mon_timeout.to_string()),
        ]
    }
}

impl fmt::Display for RadosPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = RadosPlace::new(&self.pool);
        let mut options = Vec::new();
        if self.conf != usual.conf {
            options.push(format!("conf={}", self.conf));
        }
        if self.user != usual.user {
            options.push(format!("user={}", self.user));
        }
        if self.osd_timeout != usual.osd_timeout {
            options.push(format!("osd_timeout={}", self.osd_timeout));
        }
        if self.mon_timeout != usual.mon_timeout {
            options.push(format!("mon_timeout={}", self.mon_timeout));
        }
        if let Some(cache) = &self.cache {
            options.push(format!("cache={}", cache.display()));
        }
        if self.cache_size != usual.cache_size {
            options.push(format!("cache_size={}", self.cache_size));
        }
        let sign = if options.is_empty() { "" } else { "?" };
        write!(f, "{}{sign}{}", self.short(), options.join("&"))
    }
}

impl FromStr for RadosPlace {
    type Err = Error;

    fn from_str(text: &str) -> Result<RadosPlace> {
        let wrong = |why: String| {
            Error::InvalidArgument(format!(
                "{text:?}: {why}; a store in Ceph is written rados:POOL[/NAMESPACE][?conf=/PATH&user=NAME]"
            ))
        };
        let rest = text.strip_prefix("rados:").ok_or_else(|| wrong("it does not begin with rados:".into()))?;
        let (path, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (pool, namespace) = path.split_once('/').unwrap_or((path, ""));
        if pool.is_empty() || path.ends_with('/') || namespace.contains('/') {
            return Err(wrong("it names no pool, or no namespace behind the slash".into()));
        }
        if text.contains('\0') {
            return Err(wrong("it has a NUL".into()));
        }
        let mut place = RadosPlace { namespace: namespace.to_string(), ..RadosPlace::new(pool) };
        for option in options.split('&').filter(|_| !options.is_empty()) {
            let (name, value) = option
                .split_once('=')
                .filter(|(_, value)| !value.is_empty())
                .ok_or_else(|| wrong(format!("{option:?} is no NAME=VALUE")))?;
            let seconds = |least: u32| match value.parse::<u32>() {
                Ok(seconds) if (least..=MAX_TIMEOUT).contains(&seconds) => Ok(seconds),
                _ => Err(wrong(format!("{name} is {least} to {MAX_TIMEOUT} seconds"))),
            };
            match name {
                "conf" => place.conf = value.to_string(),
                "user" => place.user = value.to_string(),
                "osd_timeout" => place.osd_timeout = seconds(0)?,
                "mon_timeout" => place.mon_timeout = seconds(1)?,
                "cache" if value.starts_with('/') => place.cache = Some(value.into()),
                "cache" => return Err(wrong("cache is the path of a directory, which begins with /".into())),
                "cache_size" => match value.parse() {
                    Ok(size) if (MIN_CACHE_SIZE..=MAX_CACHE_SIZE).contains(&size) => place.cache_size = size,
                    _ => return Err(wrong(format!("cache_size is {MIN_CACHE_SIZE} to {MAX_CACHE_SIZE} bytes"))),
                },
                other => {
                    let all = "conf, user, osd_timeout, mon_timeout, cache, cache_size";
                    return Err(wrong(format!("{other:?} is none of {all}")));
                }
            }
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_printed_as_it_is_read() {
        for text in [
            "rados:pool",
            "rados:pool/space",
            "rados:pool?conf=/tmp/ceph.conf",
            "rados:pool?cache=/var/cache/archipelago&cache_size=67108864",
            "rados:pool/space?conf=/tmp/ceph.conf&user=archipelago&osd_timeout=0&mon_timeout=5",
        ] {
            assert_eq!(text.parse::<RadosPlace>().unwrap().to_string(), text);
        }
        let usual: RadosPlace = "rados:pool?user=admin&conf=/etc/ceph/ceph.conf".parse().unwrap();
        assert_eq!((usual.to_string().as_str(), usual), ("rados:pool", RadosPlace::new("pool")));
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "rados:",
            "rados:/space",
            "rados:pool/",
            "rados:pool/a/b",
            "rados:pool?conf",
            "rados:pool?conf=",
            "rados:pool?user=a&",
            "rados:pool?osd_timeout=-1",
            "rados:pool?osd_timeout=3601",
            "rados:pool?mon_timeout=0",
            "rados:pool?cache=tmp",
            "rados:pool?cache_size=1000",
            "rados:pool?password=x",
            "rados:po\0ol",
            "pool",
        ] {
            assert!(matches!(text.parse::<RadosPlace>(), Err(Error::InvalidArgument(_))), "{text}");
        }
    }
}
