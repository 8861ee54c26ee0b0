//! `open` and `close`: who may write. On the file backend the process that serves an attached volume is its one writer from `attach` to
//! `detach`, so there is nothing to hand over, and what would need that is refused.

use archipelago_core::Kind;

use super::Call;
use crate::environment::wrong;
use crate::error::ProviderError;

/// The advice for everybody who wants a volume on two nodes.
pub const ONE_NODE: &str = "shut the instance down and start it on the other node (`gnt-instance failover`, or `gnt-instance migrate` \
    of an instance that is down)";

/// Exclusive: true when the volume is attached here and served. Shared, which is the first step of a live migration, is refused.
pub fn open(call: &Call<'_>) -> Result<(), ProviderError> {
    let exclusive = match call.environment.needed("VOL_OPEN_EXCLUSIVE")? {
        "True" => true,
        "False" => false,
        other => return Err(wrong("VOL_OPEN_EXCLUSIVE", other, "True or False")),
    };
    let info = call.names.must_find(&call.pool.store, &call.pool.location.to_string())?;
    if !exclusive && info.kind == Kind::Volume {
        return Err(ProviderError::refused(
            format!(
                "{}: {} has one writer at a time, and cannot hand it over to another node",
                info.name, call.pool.location
            ),
            ONE_NODE,
        ));
    }
    match call.host.attacher.find(&call.pool.store.uuid(), &info.id)? {
        Some(attached) if attached.served => Ok(()),
        _ => Err(ProviderError::refused(
            format!("{}: is not attached on this node, or its server has died", info.name),
            "attach it first: `gnt-instance activate-disks INSTANCE`",
        )),
    }
}

/// What was written is made durable. Nothing to do where the volume was never opened, which is how a migration begins on its target.
pub fn close(call: &Call<'_>) -> Result<(), ProviderError> {
    let Some(info) = call.names.find(&call.pool.store)? else { return Ok(()) };
    match call.host.attacher.find(&call.pool.store.uuid(), &info.id)? {
        Some(attached) if attached.served && info.kind == Kind::Volume => Ok(call.pool.store.flush(&info.name)?),
        _ => Ok(()),
    }
}
