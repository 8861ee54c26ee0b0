//! Loop devices: put over a file, found by their file, taken away (`linux/loop.h`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::error::AttachError;
use super::limits::LOOP_TRIES;

/// Driver number of loop devices.
const MAJOR: u64 = 7;
const LOOP_CLR_FD: libc::c_ulong = 0x4c01;
const LOOP_SET_CAPACITY: libc::c_ulong = 0x4c07;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// Room for the name of the file in [`Info`].
const NAME: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; NAME],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Configuration {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A loop device, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopDevice(u32);

/// Whether this machine has loop devices.
pub fn is_there() -> bool {
    Path::new("/dev/loop-control").exists()
}

impl LoopDevice {
    /// Its file.
    pub fn path(self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.0))
    }

    fn sysfs(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/sys/block/loop{}/{name}", self.0))
    }

    /// The device over a file.
    pub fn over(file: &Path) -> Result<Option<LoopDevice>, AttachError> {
        let failed = |e| AttachError::host("list", "/sys/block", e);
        for entry in fs::read_dir("/sys/block").map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(number) = name.to_str().and_then(|n| n.strip_prefix("loop")).and_then(|n| n.parse().ok()) else {
                continue;
            };
            let device = LoopDevice(number);
            if device.file().as_deref() == Some(file) {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    /// The file that it is over, if any.
    pub fn file(self) -> Option<PathBuf> {
        let mut text = fs::read(self.sysfs("loop/backing_file")).ok()?;
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        Some(PathBuf::from(std::ffi::OsString::from_vec(text)))
    }

    /// Puts a free device over a file. Nothing of the file is kept in the kernel twice: its reads and writes go on to the file as
    /// they are, many at once.
    pub fn put_over(file: &Path, read_only: bool) -> Result<LoopDevice, AttachError> {
        let open =
            |path: &Path, write, flags| OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
        let control = open(Path::new("/dev/loop-control"), true, 0)
            .map_err(|e| AttachError::host("open", "/dev/loop-control", e))?;
        let backing =
            open(file, !read_only, libc::O_DIRECT).map_err(|e| AttachError::host("open", file.display(), e))?;
        let mut last = None;
        for _ in 0..LOOP_TRIES {
            // SAFETY: takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(AttachError::host("find", "a free loop device", io::Error::last_os_error()));
            }
            let device = LoopDevice(number as u32);
            device.make_node()?;
            let path = device.path();
            let node = open(&path, true, 0).map_err(|e| AttachError::host("open", path.display(), e))?;
            let configuration = configuration(&backing, file, read_only);
            // SAFETY: the kernel reads a structure of its own layout, which lives until the call returns.
            if unsafe { libc::ioctl(node.as_raw_fd(), LOOP_CONFIGURE, &raw const configuration) } == 0 {
                return Ok(device);
            }
            let error = io::Error::last_os_error();
            // Somebody else was faster.
            if error.raw_os_error() != Some(libc::EBUSY) {
                return Err(AttachError::host("configure", path.display(), error));
            }
            last = Some(error);
        }
        let error = last.unwrap_or_else(|| io::ErrorKind::ResourceBusy.into());
        Err(AttachError::host("configure", "a loop device", error))
    }

    /// Makes the device's file where nobody else does so, as in a container without devtmpfs.
    fn make_node(self) -> Result<(), AttachError> {
        let path = self.path();
        if path.exists() {
            return Ok(());
        }
        let made = mknod(&path, SFlag::S_IFBLK, Mode::from_bits_truncate(0o660), makedev(MAJOR, u64::from(self.0)));
        match made {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
            Err(error) => Err(AttachError::host("make", path.display(), error.into())),
        }
    }

    /// Takes the device away from its file. The caller has seen to it that nobody uses it.
    pub fn take_away(self) -> Result<(), AttachError> {
        let path = self.path();
        let node = File::open(&path).map_err(|e| AttachError::host("open", path.display(), e))?;
        // SAFETY: takes no argument.
        match unsafe { libc::ioctl(node.as_raw_fd(), LOOP_CLR_FD) } {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                // Taken away already.
                error if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
                error => Err(AttachError::host("take away", path.display(), error)),
            },
        }
    }

    /// Makes the device as large as its file is now.
    pub fn follow_size(self) -> io::Result<()> {
        let node = File::open(self.path())?;
        // SAFETY: takes no argument.
        match unsafe { libc::ioctl(node.as_raw_fd(), LOOP_SET_CAPACITY) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn configuration(backing: &File, file: &Path, read_only: bool) -> Configuration {
    let mut file_name = [0; NAME];
    // What programs show when they cannot read the whole path; its end says more than its beginning, and a zero ends it.
    let bytes = file.as_os_str().as_bytes();
    let end = &bytes[bytes.len().saturating_sub(NAME - 1)..];
    file_name[..end.len()].copy_from_slice(end);
    let flags = LO_FLAGS_DIRECT_IO | if read_only { LO_FLAGS_READ_ONLY } else { 0 };
    let info = Info {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags,
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    Configuration { fd: backing.as_raw_fd() as u32, block_size: 0, info, reserved: [0; 8] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_laid_out_as_the_kernel_has_them() {
        assert_eq!((size_of::<Info>(), size_of::<Configuration>()), (232, 304));
        assert_eq!(std::mem::offset_of!(Configuration, info), 8);
        assert_eq!(std::mem::offset_of!(Info, flags), 52);
    }
}
