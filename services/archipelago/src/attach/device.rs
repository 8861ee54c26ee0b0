//! The block device of an attachment, whichever driver of the kernel it has.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::error::AttachError;
use super::loop_device::{self, LoopDevice};
use super::nbd_device::{self, NbdDevice};
use super::place::Place;

/// By which a volume becomes a block device.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// The kernel's client for network block devices
    Nbd,
    /// A loop device over a file that is mounted by FUSE
    // What records without a driver mean.
    #[default]
    Loop,
}

impl Driver {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Driver::Nbd => "nbd",
            Driver::Loop => "loop",
        }
    }

    /// The one that is wanted, or the best that this machine has; before anything is begun.
    pub fn choose(wanted: Option<Driver>) -> Result<Driver, AttachError> {
        let unsupported = |text: &str| Err(AttachError::Unsupported(text.into()));
        if !nix::unistd::geteuid().is_root() {
            return unsupported(
                "only root can make block devices; as another user, take --file for a file, or `archipelago serve`",
            );
        }
        let nbd = wanted != Some(Driver::Loop) && nbd_device::is_there();
        match wanted {
            _ if nbd => Ok(Driver::Nbd),
            Some(Driver::Nbd) => unsupported("this kernel has no client for network block devices; try `modprobe nbd`"),
            _ if loop_device::is_there() => Ok(Driver::Loop),
            Some(Driver::Loop) => unsupported(
                "this kernel has no loop devices (/dev/loop-control is missing); try `modprobe loop`, or take --file",
            ),
            None => unsupported(
                "this kernel has neither a client for network block devices nor loop devices; try `modprobe nbd` or `modprobe loop`, or take --file",
            ),
        }
    }
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockDevice {
    /// Of the loop driver.
    Loop(LoopDevice),
    /// Of the client for network block devices.
    Nbd(NbdDevice),
}

impl BlockDevice {
    /// The device of an attachment, as the kernel tells.
    pub fn of(place: &Place) -> Result<Option<BlockDevice>, AttachError> {
        if let Some(device) = NbdDevice::of(place.dir())? {
            return Ok(Some(BlockDevice::Nbd(device)));
        }
        Ok(LoopDevice::over(&place.disk())?.map(BlockDevice::Loop))
    }

    /// Its file.
    pub fn path(self) -> PathBuf {
        match self {
            BlockDevice::Loop(device) => device.path(),
            BlockDevice::Nbd(device) => device.path(),
        }
    }

    /// Takes the device away. The caller has seen to it that nobody uses it.
    pub fn take_away(self) -> Result<(), AttachError> {
        match self {
            BlockDevice::Loop(device) => device.take_away(),
            BlockDevice::Nbd(device) => {
                device.take_away().map_err(|e| AttachError::host("take away", self.path().display(), e))
            }
        }
    }

    /// Whether somebody has it for himself: a file system, a swap area, or a device above it.
    pub fn is_claimed(self) -> Result<bool, AttachError> {
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(self.path()) {
            Ok(_) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(true),
            Err(error) => Err(AttachError::host("open", self.path().display(), error)),
        }
    }
}
