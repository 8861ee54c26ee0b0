//! Devices of the kernel's ublk driver: found by the key that their server gave them, taken away.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::AttachError;
use crate::ublk::{Control, DeviceInfo, Features, State};

/// A device, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UblkDevice {
    number: u32,
    stopped: bool,
}

/// What the driver of this kernel can do, if there is one that can do enough.
pub fn features() -> Option<Features> {
    // A driver that does not say what it can do is too old.
    let features = Control::open().ok()??.features().ok()?;
    features.suffice().then_some(features)
}

/// What the kernel keeps with the device of an attachment.
pub fn key(place: &Path) -> u64 {
    let hash = Sha256::new().chain_update(b"ublk\0").chain_update(place.as_os_str().as_encoded_bytes()).finalize();
    hash.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

impl UblkDevice {
    /// The device of the attachment that is in a directory.
    pub fn of(place: &Path) -> Result<Option<UblkDevice>, AttachError> {
        let found = match Control::open() {
            // Who may not ask has no such devices.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            Ok(None) => return Ok(None),
            Ok(Some(mut control)) => control.find(key(place)),
            Err(error) => Err(error),
        };
        let found: Option<DeviceInfo> = found.map_err(|e| AttachError::host("look for", "ublk devices", e))?;
        Ok(found.map(|info| UblkDevice { number: info.id, stopped: info.state() == State::Stopped }))
    }

    /// Its file, which is gone when it was stopped.
    pub fn path(self) -> PathBuf {
        PathBuf::from(format!("/dev/ublkb{}", self.number))
    }

    /// Whether nothing is left of it but that its server has not closed it.
    pub fn is_stopped(self) -> bool {
        self.stopped
    }

    /// Stops and deletes it. What was written to it went to the server when the last who had it open closed it.
    pub fn take_away(self) -> io::Result<()> {
        let mut control = Control::must_open()?;
        control.stop(self.number)?;
        control.delete(self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_a_key_of_its_own() {
        let keys = ["/run/n/s-1", "/run/n/s-2", "/run/m/s-1"].map(|place| key(Path::new(place)));
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
        // Servers of another version find it too.
        assert_eq!(keys[0], 0xe8cd_adbf_6424_4044);
    }
}
