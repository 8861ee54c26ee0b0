//! The control device of the ublk driver: one command at a time, each waited for.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use io_uring::squeue::Entry128;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use super::limits::{COMMAND_TIME, MAX_DEVICES};
use super::wire::{ANY_DEVICE, DEVICE_INFO, DeviceInfo, FEATURES, Parameters, control, control_command, feature};

const DEVICE: &str = "/dev/ublk-control";
/// Where the kernel lists the devices that servers use.
const LISTED: &str = "/sys/class/ublk-char";

/// What a driver can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// Whether it can do what is needed here: a device goes on with another server.
    pub fn suffice(self) -> bool {
        let needed = feature::RECOVERY | feature::REISSUE | feature::ENCODED;
        self.0 & needed == needed
    }

    /// Whether a device in use can have another size.
    pub fn change_sizes(self) -> bool {
        self.0 & feature::UPDATE_SIZE != 0
    }
}

/// The control device, opened.
pub struct Control {
    ring: IoUring<Entry128, cqueue::Entry>,
    file: File,
    /// Commands that were given: what a command is known by.
    given: u64,
    /// What a command reads, or the kernel writes.
    structure: Box<[u8; DEVICE_INFO]>,
}

impl Control {
    /// Opens it. `None` where this machine has no such driver.
    pub fn open() -> io::Result<Option<Control>> {
        let file = match OpenOptions::new().read(true).write(true).open(DEVICE) {
            // A file without a driver behind it.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)) => return Ok(None),
            opened => opened?,
        };
        let ring = match IoUring::<Entry128, cqueue::Entry>::builder().build(1) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Ok(None),
            ring => ring?,
        };
        Ok(Some(Control { ring, file, given: 0, structure: Box::new([0; DEVICE_INFO]) }))
    }

    /// Opens it, where there has to be one.
    pub fn must_open() -> io::Result<Control> {
        Control::open()?
            .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the kernel's module ublk_drv is not loaded"))
    }

    /// Gives a command with a structure of `len` bytes, and a word, and waits for its end.
    fn ask(&mut self, command: u32, device: u32, len: usize, word: u64) -> io::Result<()> {
        let address = if len == 0 { 0 } else { self.structure.as_mut_ptr() as u64 };
        let bytes = control_command(device, address, len, word);
        let entry = opcode::UringCmd80::new(Fd(self.file.as_raw_fd()), command).cmd(bytes).build();
        self.given += 1;
        let entry = entry.user_data(self.given);
        // SAFETY: file and structure live as long as the command, for it is waited for below, or the structure is leaked.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::from(io::ErrorKind::ResourceBusy))?;
        let time = Timespec::from(COMMAND_TIME);
        loop {
            let waited = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time));
            // One that took too long may end while a later one is waited for.
            if let Some(ended) = self.ring.completion().find(|ended| ended.user_data() == self.given) {
                return match ended.result() {
                    result if result < 0 => Err(io::Error::from_raw_os_error(-result)),
                    _ => Ok(()),
                };
            }
            match waited {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The kernel may write there still.
                    Box::leak(std::mem::replace(&mut self.structure, Box::new([0; DEVICE_INFO])));
                    return Err(error);
                }
            }
        }
    }

    /// What the driver can do. Linux before 6.5 does not say.
    pub fn features(&mut self) -> io::Result<Features> {
        self.structure.fill(0);
        self.ask(control::GET_FEATURES, ANY_DEVICE, FEATURES, 0)?;
        let (bytes, _) = self.structure.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Features(u64::from_ne_bytes(*bytes)))
    }

    /// Makes a device, with a number that the kernel chooses. It may give less than is asked for.
    pub fn add(&mut self, wanted: &DeviceInfo) -> io::Result<DeviceInfo> {
        *self.structure = DeviceInfo { id: ANY_DEVICE, ..*wanted }.encode();
        self.ask(control::ADD, ANY_DEVICE, DEVICE_INFO, 0)?;
        Ok(DeviceInfo::decode(&self.structure))
    }

    /// What a device is; `None` if there is none of that number.
    pub fn info(&mut self, device: u32) -> io::Result<Option<DeviceInfo>> {
        self.structure.fill(0);
        match self.ask(control::GET_DEVICE_INFO, device, DEVICE_INFO, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            other => other.map(|()| Some(DeviceInfo::decode(&self.structure))),
        }
    }

    /// The device that its maker knows by this key.
    pub fn find(&mut self, key: u64) -> io::Result<Option<DeviceInfo>> {
        let entries = match fs::read_dir(Path::new(LISTED)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries?,
        };
        for entry in entries.take(MAX_DEVICES) {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("ublkc")).and_then(|n| n.parse().ok());
            let Some(number) = number else { continue };
            match self.info(number) {
                Ok(Some(info)) if info.key == key => return Ok(Some(info)),
                Ok(_) => {}
                // Another user's, who does not let us look at it.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EINVAL)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Says what a device looks like that was not started yet.
    pub fn set_parameters(&mut self, device: u32, parameters: &Parameters) -> io::Result<()> {
        let bytes = parameters.encode();
        self.structure[..bytes.len()].copy_from_slice(&bytes);
        self.ask(control::SET_PARAMETERS, device, bytes.len(), 0)
    }

    /// Starts a device whose queues wait for requests. When this returns its file is there, and its partitions were looked for.
    pub fn start(&mut self, device: u32) -> io::Result<()> {
        self.ask(control::START, device, 0, u64::from(std::process::id()))
    }

    /// Begins to serve a device whose server died. `EBUSY`: the kernel has not noticed yet.
    pub fn start_recovery(&mut self, device: u32) -> io::Result<()> {
        self.ask(control::START_RECOVERY, device, 0, 0)
    }

    /// Has requests come again to a device whose queues wait for them.
    pub fn end_recovery(&mut self, device: u32) -> io::Result<()> {
        self.ask(control::END_RECOVERY, device, 0, u64::from(std::process::id()))
    }

    /// Makes a device in use so many sectors large.
    pub fn set_sectors(&mut self, device: u32, sectors: u64) -> io::Result<()> {
        self.ask(control::UPDATE_SIZE, device, 0, sectors)
    }

    /// Stops a device: what is under way ends first, if it has a server; what comes later fails.
    pub fn stop(&mut self, device: u32) -> io::Result<()> {
        gone_is_well(self.ask(control::STOP, device, 0, 0))
    }

    /// Stops and deletes a device, and waits until its server has closed it.
    pub fn delete(&mut self, device: u32) -> io::Result<()> {
        gone_is_well(self.ask(control::DELETE, device, 0, 0))
    }
}

/// Somebody else may have been faster.
fn gone_is_well(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}
