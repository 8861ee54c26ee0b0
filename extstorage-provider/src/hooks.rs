//! What Ganeti asks before it starts or migrates an instance. A hook that fails stops the job before anything is done.

use archipelago_core::{Kind, Sharing, VolumeInfo};
use archipelago_service::attach::Attached;
use archipelago_service::disk::standby;

use crate::applet::Hook;
use crate::environment::{Environment, number, wrong};
use crate::error::ProviderError;
use crate::host::{Host, Pool};
use crate::limits::MAX_DISKS;
use crate::names::Names;

/// Names under which the provider is installed.
const PROVIDERS: [&str; 2] = ["archipelago", "vlmc"];

/// Looks at the disks of the instance that are ours, on the node that it runs on; all other nodes are asked too, and have nothing to say.
pub fn run(hook: Hook, environment: &Environment, host: &Host) -> Result<(), ProviderError> {
    let primary = environment.needed("GANETI_INSTANCE_PRIMARY")?;
    if !is_this_node(primary) {
        return Ok(());
    }
    // Nothing is moved: what a migration left that failed is put right.
    if hook == Hook::Migrate && environment.truth("GANETI_MIGRATE_CLEANUP")? == Some(true) {
        return Ok(());
    }
    let count = environment.needed("GANETI_INSTANCE_DISK_COUNT")?;
    let count = number(count)
        .filter(|count| *count <= MAX_DISKS)
        .ok_or_else(|| wrong("GANETI_INSTANCE_DISK_COUNT", count, "a number of disks"))?;
    for index in 0..count {
        let key = |name: &str| format!("GANETI_INSTANCE_DISK{index}_{name}");
        let template = environment.text(&key("DEV_TYPE"))?;
        let provider = environment.text(&key("PROVIDER"))?;
        if template != Some("ext") || !provider.is_some_and(|provider| PROVIDERS.contains(&provider)) {
            continue;
        }
        let vol_name = key("ID");
        let names = Names::new(
            environment.needed(&vol_name)?,
            environment.text(&key("NAME"))?,
            host.config.ganeti.volume_naming,
        );
        let Some((pool, info)) = find(&names, host)? else { continue };
        match hook {
            Hook::Migrate => check_movable(&pool, &info, host)?,
            Hook::Start => check_free(&pool, &info, host)?,
        }
    }
    Ok(())
}

/// The volume of a disk, in whichever store: hooks are not told the parameters of a disk.
fn find(names: &Names<'_>, host: &Host) -> Result<Option<(Pool, VolumeInfo)>, ProviderError> {
    for pool in host.pools() {
        let pool = host.pool(pool)?;
        if let Some(info) = names.find(&pool.store)? {
            return Ok(Some((pool, info)));
        }
    }
    // Starting it will say what is missing.
    Ok(None)
}

/// Refuses to move an instance whose disk this node does not have, or cannot hand over: the target would find out when its guest runs.
fn check_movable(pool: &Pool, info: &VolumeInfo, host: &Host) -> Result<(), ProviderError> {
    if info.kind != Kind::Volume {
        return Ok(());
    }
    let attached = host.attacher.find(&pool.store.uuid(), &info.id)?.filter(|attached| attached.served);
    let Some(Attached { record, .. }) = attached else {
        return Err(ProviderError::refused(
            format!("{}: is not attached on this node, or its server has died", info.name),
            "run `gnt-instance activate-disks INSTANCE`; if the disk is a block device, restart the instance too",
        ));
    };
    let state = match record.process {
        Some(process) => standby::ask(&pool.store, &process, &info.id, &info.name),
        None => Err(archipelago_core::Error::Unsupported(info.name.clone())),
    };
    match state {
        Ok(state) if state.owns => Ok(()),
        Ok(_) => Err(ProviderError::refused(
            format!("{}: is attached on this node, which does not have it", info.name),
            "run `gnt-instance migrate --cleanup -n OTHER-NODE INSTANCE`; `archipelago standby` says who has the volume",
        )),
        Err(archipelago_core::Error::Unsupported(_)) => Err(ProviderError::refused(
            format!("{}: was attached by hand, or by an older version, and cannot be handed over", info.name),
            "shut the instance down and start it again; or move it by `gnt-instance failover`",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Refuses to start an instance whose disk somebody else has open: a second writer would be refused later, by an error that says less.
fn check_free(pool: &Pool, info: &VolumeInfo, host: &Host) -> Result<(), ProviderError> {
    let Some(owner) = info.open_by.as_ref().filter(|_| info.kind == Kind::Volume) else { return Ok(()) };
    let attached = host.attacher.find(&pool.store.uuid(), &info.id)?;
    let here = attached.filter(|attached| attached.served).map(|attached| attached.record);
    // Two nodes count their processes for themselves.
    let ours = here.is_some_and(|record| match record.process {
        Some(process) => process == owner.process,
        None => record.pid == owner.pid && is_this_node(&owner.host),
    });
    // What was left shared, by a migration that was cut short, is handed over.
    let shared = || standby::ask(&pool.store, &owner.process, &info.id, &info.name);
    if ours || shared().is_ok_and(|state| state.sharing != Sharing::Exclusive) {
        return Ok(());
    }
    Err(ProviderError::refused(
        format!("{}: is open in {} (process {} on {})", info.name, owner.command, owner.pid, owner.host),
        "end that first; if it is an instance on another node, shut that down: a disk has one writer. What no instance uses is \
         detached there by `archipelago unmap`",
    ))
}

/// Whether a name is this host's, in full or without its domain.
fn is_this_node(name: &str) -> bool {
    let Ok(host) = nix::unistd::gethostname() else { return false };
    let host = host.to_string_lossy();
    name == host || name.split_once('.').is_some_and(|(short, _)| short == host)
}
