//! `remove`, `grow`, `setinfo` and `snapshot`.

use std::fs;
use std::path::Path;
use std::time::Instant;

use archipelago_core::{Error, Kind};
use archipelago_service::attach::Attached;
use archipelago_service::ganeti;

use super::Call;
use crate::environment::wrong;
use crate::error::ProviderError;
use crate::limits::{GROW_TIME, LOOK};
use crate::names;

pub fn remove(call: &Call<'_>, warn: &mut dyn FnMut(String)) -> Result<(), ProviderError> {
    let gone = match call.names.find(&call.pool.store)? {
        None => true,
        Some(info) => match call.pool.store.remove(&info.name) {
            Err(Error::NotFound(_)) => true,
            other => other.map(|()| false)?,
        },
    };
    if gone {
        warn(format!("{}: is not there, so there is nothing to remove", call.names.in_words()));
    }
    Ok(())
}

/// Grows to `VOL_NEW_SIZE`, also while the volume is in use. A device over it has the new size when this returns.
pub fn grow(call: &Call<'_>) -> Result<(), ProviderError> {
    let size = call.environment.mebibytes("VOL_NEW_SIZE")?;
    let info = call.names.must_find(&call.pool.store, &call.pool.location.to_string())?;
    if info.size > size {
        return Err(ProviderError::refused(
            format!("{}: has {} bytes already, more than the {size} that it is to grow to", info.name, info.size),
            "look which size the disk has: `archipelago info` here, `gnt-instance info` there; Ganeti's grows by grow-disk until they agree",
        ));
    }
    call.pool.store.resize(&info.name, size, false)?;
    match call.host.attacher.find(&call.pool.store.uuid(), &info.id)? {
        Some(attached) if attached.served => follow(call, &attached, size),
        _ => Ok(()),
    }
}

/// Waits until the device has the size.
fn follow(call: &Call<'_>, attached: &Attached, size: u64) -> Result<(), ProviderError> {
    let Some(device) = &attached.device else { return Ok(()) };
    let deadline = Instant::now() + GROW_TIME;
    loop {
        call.host.attacher.follow_size(attached)?;
        if device_size(device) == Some(size) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(ProviderError::refused(
                format!("the volume has {size} bytes now, but {} does not follow", device.display()),
                "shut the instance down and start it again: the device is made anew",
            ));
        }
        std::thread::sleep(LOOK);
    }
}

/// Bytes of a block device, as the kernel tells.
fn device_size(device: &Path) -> Option<u64> {
    let path = Path::new("/sys/block").join(device.file_name()?).join("size");
    fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()?.checked_mul(512)
}

/// Notes what Ganeti says of the disk, and what it calls a volume of which that was never noted.
pub fn setinfo(call: &Call<'_>) -> Result<(), ProviderError> {
    let metadata = call.environment.text("VOL_METADATA")?;
    let uuid = call.environment.text("VOL_UUID")?.filter(|uuid| ganeti::is_uuid(uuid));
    let info = call.names.must_find(&call.pool.store, &call.pool.location.to_string())?;
    let mut changes = Vec::new();
    changes.extend(metadata.map(|text| (ganeti::METADATA, Some(text))));
    if info.labels.get(ganeti::NAME).is_none() {
        changes.push((ganeti::NAME, Some(call.names.vol_name())));
        changes.extend(uuid.map(|uuid| (ganeti::UUID, Some(uuid))));
    }
    match call.pool.store.set_labels(&info.name, &changes) {
        Err(Error::InvalidArgument(_)) => {
            Err(wrong("VOL_METADATA", metadata.unwrap_or_default(), "a text of at most 255 bytes"))
        }
        other => Ok(other?),
    }
}

/// Takes a snapshot, under the very name that Ganeti gives.
pub fn snapshot(call: &Call<'_>, warn: &mut dyn FnMut(String)) -> Result<(), ProviderError> {
    let name = call.environment.needed("VOL_SNAPSHOT_NAME")?;
    names::check("VOL_SNAPSHOT_NAME", name)?;
    let info = call.names.must_find(&call.pool.store, &call.pool.location.to_string())?;
    if info.kind != Kind::Volume {
        return Err(ProviderError::refused(
            format!("{}: is a snapshot itself", info.name),
            "name the disk of which a snapshot is to be taken",
        ));
    }
    match call.pool.store.snapshot(&info.name, name) {
        Err(Error::Exists(_)) => {
            return Err(ProviderError::refused(
                format!("{name}: exists already, left by an export that was cut short, or still being read by one"),
                format!("if no export of this disk runs: archipelago unmap {name}; archipelago remove {name}"),
            ));
        }
        other => other?,
    };
    // So that one that an export leaves is found. Without that it is a snapshot all the same.
    let labels = [(ganeti::NAME, Some(name)), (ganeti::SNAPSHOT_OF, Some(call.names.vol_name()))];
    if let Err(error) = call.pool.store.set_labels(name, &labels) {
        warn(format!("{name}: is not noted as a snapshot of Ganeti's: {error}"));
    }
    Ok(())
}
