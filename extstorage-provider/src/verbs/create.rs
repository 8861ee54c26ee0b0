//! `create`: a blank volume, a clone of an origin, or one that is there already.

use archipelago_core::{CloneOptions, CreateOptions, Kind, LabelChange, VolumeInfo};
use archipelago_service::ganeti;

use super::Call;
use crate::environment::{shown, wrong};
use crate::error::ProviderError;
use crate::parameters::{self, Making};

pub fn create(call: &Call<'_>) -> Result<(), ProviderError> {
    let making = parameters::making(call.environment)?;
    let size = call.environment.mebibytes("VOL_SIZE")?;
    let uuid = call.environment.text("VOL_UUID")?;
    if let Some(uuid) = uuid.filter(|uuid| !ganeti::is_uuid(uuid)) {
        return Err(wrong("VOL_UUID", uuid, "a UUID"));
    }
    let labels = [(ganeti::NAME, Some(call.names.vol_name())), (ganeti::UUID, uuid), (ganeti::ORIGIN, making.origin)];
    let found = call.names.find(&call.pool.store)?;
    if making.reuse_data {
        return reuse(call, found, size, &labels[..2]);
    }
    match found {
        Some(there) if is_ours(&there, size, uuid, &making) => Ok(()),
        Some(there) => Err(ProviderError::refused(
            format!("{}: exists already, and is not a disk that this call has just made", there.name),
            "remove or rename the volume, or give the disk another name; to keep its data, set the parameter reuse_data=True",
        )),
        None => make(call, size, &making, &labels),
    }
}

/// Whether an earlier call with the same wishes made it, and nobody wrote to it: Ganeti, or an administrator, tries again.
fn is_ours(there: &VolumeInfo, size: u64, uuid: Option<&str>, making: &Making<'_>) -> bool {
    there.kind == Kind::Volume
        && there.untouched
        && there.size == size
        && uuid.is_some()
        && there.labels.get(ganeti::UUID) == uuid
        && there.labels.get(ganeti::ORIGIN) == making.origin
}

/// Makes the data that is there the disk's, under what Ganeti calls it now.
fn reuse(
    call: &Call<'_>,
    found: Option<VolumeInfo>,
    size: u64,
    labels: &[LabelChange<'_>],
) -> Result<(), ProviderError> {
    let there = match found {
        Some(there) if there.kind == Kind::Volume => there,
        Some(there) => {
            return Err(ProviderError::refused(
                format!("{}: is a snapshot, and cannot be a disk", there.name),
                "clone it: set the parameter origin to it, without reuse_data",
            ));
        }
        None => {
            let store = call.pool.location.to_string();
            return Err(ProviderError::Missing { looked_for: call.names.in_words(), store });
        }
    };
    if there.size != size {
        let (name, is) = (&there.name, there.size);
        return Err(ProviderError::refused(
            format!(
                "{name}: has {is} bytes, and the disk is to have {size}; with reuse_data=True they must be the same"
            ),
            format!("say --disk size={}m; or resize the volume with `archipelago resize`", is.div_ceil(1 << 20)),
        ));
    }
    Ok(call.pool.store.set_labels(&there.name, labels)?)
}

fn make(call: &Call<'_>, size: u64, making: &Making<'_>, labels: &[LabelChange<'_>]) -> Result<(), ProviderError> {
    let (store, name) = (&call.pool.store, call.names.for_new()?);
    let Some(origin) = making.origin else {
        store.create_labelled(name, &CreateOptions { size, block_size: making.block_size }, labels)?;
        return Ok(());
    };
    let Some(source) = store.lookup(origin)? else {
        return Err(ProviderError::refused(
            format!("EXTP_ORIGIN is {}, and {} has no such snapshot", shown(origin), call.pool.location),
            "look with `archipelago list` for its name; the disk's parameter `pool` must name the store that has it",
        ));
    };
    if source.kind == Kind::Volume {
        return Err(ProviderError::refused(
            format!("EXTP_ORIGIN is {}, a volume that may change", shown(origin)),
            format!("take a snapshot and name that: archipelago snapshot {origin} NAME"),
        ));
    }
    if source.size > size {
        return Err(ProviderError::refused(
            format!("EXTP_ORIGIN is {} with {} bytes, more than the {size} of the disk", shown(origin), source.size),
            format!("make the disk at least {} MiB large", source.size.div_ceil(1 << 20)),
        ));
    }
    let blocks = |bytes: u64| bytes.div_ceil(source.block_size);
    if let Some(said) = making.origin_size.filter(|said| blocks(*said) != blocks(source.size)) {
        return Err(ProviderError::refused(
            format!("EXTP_ORIGIN_SIZE is {said}, but {} has {} bytes: it is another image", shown(origin), source.size),
            "correct the parameter origin or origin_size",
        ));
    }
    if let Some(said) = making.block_size.filter(|said| *said != source.block_size) {
        return Err(ProviderError::refused(
            format!("EXTP_BLOCKSIZE is {said}, but a clone has the block size of its origin, {}", source.block_size),
            "leave the parameter blocksize out",
        ));
    }
    store.clone_labelled(origin, name, &CloneOptions { size: Some(size) }, labels)?;
    Ok(())
}
