//! Devices of the kernel's client for network block devices (`linux/nbd-netlink.h`): given a connection to our server, found by the name of
//! what is behind them, given another size, taken away.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use super::error::AttachError;
use super::netlink::{Attributes, Family};

/// What the kernel calls it.
const FAMILY: &str = "nbd";
/// Bytes of a sector of the device: what every program expects, and every image was made for.
const SECTOR: u64 = 512;

const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;

const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const BACKEND: u16 = 10;
const SOCKET_ITEM: u16 = 1;
const SOCKET_FD: u16 = 1;

/// A device, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NbdDevice(u32);

/// Whether this kernel has the client, and its devices can be seen here: a container may have the one without the other.
pub fn is_there() -> bool {
    Path::new("/dev/nbd0").exists() && matches!(Family::open(FAMILY), Ok(Some(_)))
}

fn family() -> io::Result<Family> {
    Family::open(FAMILY)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the kernel's module nbd is not loaded"))
}

impl NbdDevice {
    /// The device behind which is what has this name.
    pub fn of(backend: &Path) -> Result<Option<NbdDevice>, AttachError> {
        let failed = |e| AttachError::host("list", "/sys/block", e);
        for entry in fs::read_dir("/sys/block").map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(number) = name.to_str().and_then(|n| n.strip_prefix("nbd")).and_then(|n| n.parse().ok()) else {
                continue;
            };
            let device = NbdDevice(number);
            if device.is_of(backend.as_os_str().as_encoded_bytes()) {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    /// Whether behind it is what has this name.
    pub fn is_of(self, backend: &[u8]) -> bool {
        // A device that is not connected has no such file.
        let text = fs::read(format!("/sys/block/nbd{}/backend", self.0)).unwrap_or_default();
        text.strip_suffix(b"\n") == Some(backend)
    }

    /// Gives a free device a connection that is past its negotiation, with the flags that the server announced.
    pub fn connect(backend: &str, connection: impl AsFd, size: u64, flags: u16) -> io::Result<NbdDevice> {
        let fd = connection.as_fd().as_raw_fd() as u32;
        let socket = Attributes::default().with(SOCKET_FD, &fd.to_ne_bytes());
        let attributes = Attributes::default()
            .with(SIZE_BYTES, &(size - size % SECTOR).to_ne_bytes())
            .with(BLOCK_SIZE_BYTES, &SECTOR.to_ne_bytes())
            .with(SERVER_FLAGS, &u64::from(flags).to_ne_bytes())
            .with_nested(SOCKETS, Attributes::default().with_nested(SOCKET_ITEM, socket))
            .with_text(BACKEND, backend);
        let index = family()?.ask(CONNECT, attributes, INDEX)?;
        let index = index.and_then(|index| index.try_into().ok()).map(u32::from_ne_bytes);
        index.map(NbdDevice).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The device.
    pub fn path(self) -> PathBuf {
        PathBuf::from(format!("/dev/nbd{}", self.0))
    }

    /// Makes the device as large as the volume is now.
    pub fn set_size(self, backend: &str, size: u64) -> io::Result<()> {
        let attributes =
            self.index().with(SIZE_BYTES, &(size - size % SECTOR).to_ne_bytes()).with_text(BACKEND, backend);
        family()?.ask(RECONFIGURE, attributes, INDEX).map(drop)
    }

    /// Takes its connection away. What was written to it goes there before.
    pub fn take_away(self) -> io::Result<()> {
        match family()?.ask(DISCONNECT, self.index(), INDEX) {
            // Taken away already.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other.map(drop),
        }
    }

    fn index(self) -> Attributes {
        Attributes::default().with(INDEX, &self.0.to_ne_bytes())
    }
}
