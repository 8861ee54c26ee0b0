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
use super::ublk_device::{self, UblkDevice};

/// By which a volume becomes a block device.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// The kernel's driver for block devices in user space
    Ublk,
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
            Driver::Ublk => "ublk",
            Driver::Nbd => "nbd",
            Driver::Loop => "loop",
        }
    }

    /// The one that is wanted, or the best that this machine has; before anything is begun. With `grows`, one whose devices follow the sizes
    /// of volumes, unless another one is wanted.
    pub fn choose(wanted: Option<Driver>, grows: bool) -> Result<Driver, AttachError> {
        let unsupported = |text: &str| Err(AttachError::Unsupported(text.into()));
        if !nix::unistd::geteuid().is_root() {
            return unsupported(
                "only root can make block devices; as another user, take --file for a file, or `archipelago serve`",
            );
        }
        let ublk = || ublk_device::features();
        match wanted {
            Some(Driver::Ublk) if ublk().is_some() => Ok(Driver::Ublk),
            Some(Driver::Ublk) => unsupported(
                "this kernel has no ublk driver that goes on with another server; try `modprobe ublk_drv` (Linux 6.5 or later)",
            ),
            Some(Driver::Nbd) if nbd_device::is_there() => Ok(Driver::Nbd),
            Some(Driver::Nbd) => unsupported("this kernel has no client for network block devices; try `modprobe nbd`"),
            Some(Driver::Loop) if loop_device::is_there() => Ok(Driver::Loop),
            Some(Driver::Loop) => unsupported(
                "this kernel has no loop devices (/dev/loop-control is missing); try `modprobe loop`, or take --file",
            ),
            None if ublk().is_some_and(|can| !grows || can.change_sizes()) => Ok(Driver::Ublk),
            None if nbd_device::is_there() => Ok(Driver::Nbd),
            None if loop_device::is_there() => Ok(Driver::Loop),
            None => unsupported(
                "this kernel has neither a ublk driver nor a client for network block devices nor loop devices; try `modprobe ublk_drv`, `modprobe nbd` or `modprobe loop`, or take --file",
            ),
        }
    }
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockDevice {
    /// Of the ublk driver.
    Ublk(UblkDevice),
    /// Of the loop driver.
    Loop(LoopDevice),
    /// Of the client for network block devices.
    Nbd(NbdDevice),
}

impl BlockDevice {
    /// The device of an attachment, as the kernel tells.
    pub fn of(place: &Place) -> Result<Option<BlockDevice>, AttachError> {
        if let Some(device) = UblkDevice::of(place.dir())? {
            return Ok(Some(BlockDevice::Ublk(device)));
        }
        if let Some(device) = NbdDevice::of(place.dir())? {
            return Ok(Some(BlockDevice::Nbd(device)));
        }
        Ok(LoopDevice::over(&place.disk())?.map(BlockDevice::Loop))
    }

    /// Whether nothing is left of it but that its server has not closed it.
    pub fn is_stopped(self) -> bool {
        matches!(self, BlockDevice::Ublk(device) if device.is_stopped())
    }

    /// Whether requests to it wait, and do not fail, while it has no server.
    pub fn waits(self) -> bool {
        matches!(self, BlockDevice::Ublk(device) if !device.is_stopped())
    }

    /// Its file.
    pub fn path(self) -> PathBuf {
        match self {
            BlockDevice::Ublk(device) => device.path(),
            BlockDevice::Loop(device) => device.path(),
            BlockDevice::Nbd(device) => device.path(),
        }
    }

    /// Takes the device away. The caller has seen to it that nobody uses it.
    pub fn take_away(self) -> Result<(), AttachError> {
        let failed = |e| AttachError::host("take away", self.path().display(), e);
        match self {
            BlockDevice::Loop(device) => device.take_away(),
            BlockDevice::Ublk(device) => device.take_away().map_err(failed),
            BlockDevice::Nbd(device) => device.take_away().map_err(failed),
        }
    }

    /// Whether somebody has it for himself: a file system, a swap area, or a device above it.
    pub fn is_claimed(self) -> Result<bool, AttachError> {
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(self.path()) {
            Ok(_) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(true),
            Err(_) if self.is_stopped() => Ok(false),
            Err(error) => Err(AttachError::host("open", self.path().display(), error)),
        }
    }
}
