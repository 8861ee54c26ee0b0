//! What Ganeti asks before it starts or migrates an instance. A hook that fails stops the job before anything is done.

use archipelago_core::{Kind, VolumeInfo};

use crate::applet::Hook;
use crate::environment::{Environment, number, wrong};
use crate::error::ProviderError;
use crate::host::{Host, Pool};
use crate::limits::MAX_DISKS;
use crate::names::Names;
use crate::verbs::ONE_NODE;

/// Names under which the provider is installed.
const PROVIDERS: [&str; 2] = ["archipelago", "vlmc"];

/// Looks at the disks of the instance that are ours, on the node that it runs on; all other nodes are asked too, and have nothing to say.
pub fn run(hook: Hook, environment: &Environment, host: &Host) -> Result<(), ProviderError> {
    let primary = environment.needed("GANETI_INSTANCE_PRIMARY")?;
    if !is_this_node(primary) {
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
            Hook::Migrate => return Err(cannot_move(&pool, &info)),
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

fn cannot_move(pool: &Pool, info: &VolumeInfo) -> ProviderError {
    ProviderError::refused(
        format!("{}: {} has one writer at a time, and cannot hand it over to another node", info.name, pool.location),
        ONE_NODE,
    )
}

/// Refuses to start an instance whose disk somebody else has open: a second writer would be refused later, by an error that says less.
fn check_free(pool: &Pool, info: &VolumeInfo, host: &Host) -> Result<(), ProviderError> {
    let Some(owner) = info.open_by.as_ref().filter(|_| info.kind == Kind::Volume) else { return Ok(()) };
    let attached = host.attacher.find(&pool.store.uuid(), &info.id)?;
    if attached.is_some_and(|attached| attached.served && attached.record.pid == owner.pid) {
        return Ok(());
    }
    Err(ProviderError::refused(
        format!("{}: is open in {} (process {} on {})", info.name, owner.command, owner.pid, owner.host),
        "end that first; if it is an instance on another node, shut that down: a disk has one writer",
    ))
}

/// Whether a name is this host's, in full or without its domain.
fn is_this_node(name: &str) -> bool {
    let Ok(host) = nix::unistd::gethostname() else { return false };
    let host = host.to_string_lossy();
    name == host || name.split_once('.').is_some_and(|(short, _)| short == host)
}
