//! `verify`, which Ganeti never calls: for an administrator, by hand.

use std::path::Path;

use crate::environment::Environment;
use crate::error::ProviderError;
use crate::host::Host;
use crate::names::Names;
use crate::parameters;

/// Where Ganeti writes what the provider says; without it every action but attach fails.
const LOGS: &str = "/var/log/ganeti/extstorage";

/// Checks the parameters and names that are set, opens every store, and warns of what this node lacks.
pub fn verify(environment: &Environment, host: &Host, warn: &mut dyn FnMut(String)) -> Result<(), ProviderError> {
    parameters::making(environment)?;
    parameters::access(environment)?;
    if environment.text("VOL_NAME")?.is_some() {
        Names::of(environment, host.config.ganeti.volume_naming)?.for_new()?;
    }
    let wanted = parameters::pool(environment)?;
    let pools = match wanted {
        Some(pool) => vec![Some(pool)],
        None => host.pools(),
    };
    if pools.is_empty() {
        host.location(None)?;
    }
    for pool in pools {
        host.pool(pool)?.store.status()?;
    }
    host.attacher.list()?;
    for (path, why) in [
        ("/dev/loop-control", "no block devices can be made; run `modprobe loop`"),
        ("/dev/fuse", "no volume can be attached; run `modprobe fuse`"),
        (LOGS, "Ganeti fails every action but attach without it; run `mkdir -p` on it"),
    ] {
        if !Path::new(path).exists() {
            warn(format!("{path} is missing: {why}"));
        }
    }
    Ok(())
}
