//! `open` and `close`: which of several nodes has a volume. The server of an attached volume stands for it
//! (`archipelago_service::disk::standby`); here it is told how.

use archipelago_core::{Error, Kind, Sharing};
use archipelago_service::disk::standby;

use super::Call;
use crate::environment::wrong;
use crate::error::ProviderError;

/// Exclusive: taken over if another node shares it, and kept. Shared, as on both nodes while an instance moves: given to the node that needs it.
pub fn open(call: &Call<'_>) -> Result<(), ProviderError> {
    let sharing = match call.environment.needed("VOL_OPEN_EXCLUSIVE")? {
        "True" => Sharing::Exclusive,
        "False" => Sharing::Shared,
        other => return Err(wrong("VOL_OPEN_EXCLUSIVE", other, "True or False")),
    };
    let info = call.names.must_find(&call.pool.store, &call.pool.location.to_string())?;
    let attached = call.host.attacher.find(&call.pool.store.uuid(), &info.id)?.filter(|attached| attached.served);
    let Some(attached) = attached else {
        return Err(ProviderError::refused(
            format!("{}: is not attached on this node, or its server has died", info.name),
            "attach it first: `gnt-instance activate-disks INSTANCE`",
        ));
    };
    // Whoever likes may read a snapshot.
    if info.kind != Kind::Volume {
        return Ok(());
    }
    match stand(call, attached.record.process.as_deref(), &info.id, &info.name, sharing) {
        // A server that has it for good has it alone.
        Err(Error::Unsupported(_)) if sharing == Sharing::Exclusive => Ok(()),
        Err(Error::Unsupported(_)) => Err(ProviderError::refused(
            format!("{}: was attached by hand, or by an older version, and cannot be handed over", info.name),
            "shut the instance down and start it again; or move it by `gnt-instance failover`",
        )),
        other => Ok(other?),
    }
}

/// What was written is made durable, and the volume given up: another node may have it. Nothing to do where it was never opened, which is
/// how a migration begins on its target.
pub fn close(call: &Call<'_>) -> Result<(), ProviderError> {
    let Some(info) = call.names.find(&call.pool.store)?.filter(|info| info.kind == Kind::Volume) else { return Ok(()) };
    let attached = call.host.attacher.find(&call.pool.store.uuid(), &info.id)?;
    let Some(attached) = attached.filter(|attached| attached.served) else { return Ok(()) };
    match stand(call, attached.record.process.as_deref(), &info.id, &info.name, Sharing::Closed) {
        // It keeps the volume until it is detached, which comes next.
        Err(Error::Unsupported(_)) => Ok(call.pool.store.flush(&info.name)?),
        other => Ok(other?),
    }
}

/// Tells the server of an attached volume; `Unsupported` if it has the volume for good.
fn stand(call: &Call<'_>, process: Option<&str>, id: &str, name: &str, sharing: Sharing) -> Result<(), Error> {
    let Some(process) = process else { return Err(Error::Unsupported(name.into())) };
    standby::tell(&call.pool.store, process, id, name, sharing).map(drop)
}
