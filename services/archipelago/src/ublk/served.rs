//! A device that is served: made, or taken over from a server that died; given another size; taken away.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, Builder, JoinHandle};
use std::time::Instant;

use super::control::Control;
use super::limits::{
    LOOK, MAX_FOUND_DEPTH, MAX_FOUND_QUEUES, MAX_FOUND_REQUEST, MAX_QUEUES, MAX_RANGE_SECTORS, MAX_REQUEST,
    NOTICE_TIME, QUEUE_DEPTH,
};
use super::queue::{self, Work};
use super::wire::{DeviceInfo, Parameters, SECTOR, State, feature};
use crate::disk::device::Device;
use crate::disk::spin::Spinners;

/// A device that this process serves.
pub struct Served {
    control: Control,
    id: u32,
    threads: Vec<JoinHandle<()>>,
    /// Bytes that the device has.
    size: u64,
    change_sizes: bool,
    /// It had another server before.
    was_there: bool,
}

impl Served {
    /// Makes a device of a disk, or goes on with the one that has this key and lost its server: whoever uses it only had to wait.
    ///
    /// Errors: whatever the kernel says. A device that was made is deleted then; one that was there stays.
    pub fn start(disk: Arc<dyn Device>, key: u64) -> io::Result<Served> {
        let mut control = Control::must_open()?;
        let features = control.features()?;
        if !features.suffice() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's ublk driver is too old"));
        }
        let change_sizes = features.change_sizes();
        let mut served = Served { control, id: 0, threads: Vec::new(), size: 0, change_sizes, was_there: false };
        match served.control.find(key)? {
            Some(info) if info.state() != State::Stopped => served.resume(info, disk)?,
            found => {
                // One that was never started, or never deleted.
                found.map_or(Ok(()), |info| served.control.delete(info.id))?;
                served.make(key, disk)?;
            }
        }
        Ok(served)
    }

    fn make(&mut self, key: u64, disk: Arc<dyn Device>) -> io::Result<()> {
        let info = self.control.add(&DeviceInfo {
            queues: processors().min(MAX_QUEUES) as u16,
            depth: QUEUE_DEPTH,
            max_request: MAX_REQUEST,
            pid: std::process::id() as i32,
            flags: feature::RECOVERY | feature::REISSUE | feature::ENCODED,
            key,
            ..DeviceInfo::default()
        })?;
        self.id = info.id;
        let size = disk.size();
        let parameters = Parameters {
            read_only: disk.read_only(),
            size,
            block_size: disk.block_size(),
            max_request: info.max_request,
            max_range: MAX_RANGE_SECTORS,
        };
        let made = self.control.set_parameters(info.id, &parameters);
        let made = made.and_then(|()| self.serve(&info, &disk)).and_then(|()| self.control.start(info.id));
        if made.is_err() {
            // The first error is the one to know.
            let _ = self.control.delete(info.id);
        }
        self.size = size;
        made
    }

    fn resume(&mut self, info: DeviceInfo, disk: Arc<dyn Device>) -> io::Result<()> {
        let known = (1..=MAX_FOUND_QUEUES).contains(&info.queues)
            && (1..=MAX_FOUND_DEPTH).contains(&info.depth)
            && (1..=MAX_FOUND_REQUEST).contains(&info.max_request)
            && info.flags & feature::RECOVERY != 0;
        if !known {
            return Err(io::Error::other("the device was made by a program that is not known here"));
        }
        self.id = info.id;
        let deadline = Instant::now() + NOTICE_TIME;
        loop {
            match self.control.start_recovery(info.id) {
                Ok(()) => break,
                // Its server is dead, which the kernel has not noticed yet.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    thread::sleep(LOOK);
                }
                Err(error) => return Err(error),
            }
        }
        self.serve(&info, &disk)?;
        self.control.end_recovery(info.id)?;
        self.was_there = true;
        self.size = kernels_size(info.id)?;
        Ok(())
    }

    /// Has all queues wait for requests.
    fn serve(&mut self, info: &DeviceInfo, disk: &Arc<dyn Device>) -> io::Result<()> {
        let device = Arc::new(OpenOptions::new().read(true).write(true).open(format!("/dev/ublkc{}", info.id))?);
        let spinners = Arc::new(Spinners::new(processors()));
        let mut begun = Vec::new();
        for queue in 0..info.queues {
            let (ready, told) = sync_channel(1);
            let work = Work {
                queue,
                info: *info,
                device: Arc::<File>::clone(&device),
                disk: disk.clone(),
                spinners: spinners.clone(),
            };
            let thread = Builder::new().name(format!("ublk-{queue}")).spawn(move || queue::run(work, ready))?;
            self.threads.push(thread);
            begun.push(told);
        }
        // A thread that ended without a word has panicked.
        begun.iter().try_for_each(|told| told.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())))
    }

    /// Whether it had another server before.
    pub fn was_there(&self) -> bool {
        self.was_there
    }

    /// Bytes that the device has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is served no more, because somebody stopped it.
    pub fn is_over(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Makes the device as large as the disk is now.
    ///
    /// Errors: `Unsupported` where the kernel cannot do that.
    pub fn set_size(&mut self, size: u64) -> io::Result<()> {
        if size / SECTOR != self.size / SECTOR {
            if !self.change_sizes {
                return Err(io::ErrorKind::Unsupported.into());
            }
            self.control.set_sectors(self.id, size / SECTOR)?;
        }
        self.size = size;
        Ok(())
    }

    /// Takes the device away if it is still there: what is under way ends, and what comes later fails.
    pub fn end(mut self) -> io::Result<()> {
        self.control.stop(self.id)?;
        for thread in self.threads {
            // One that panicked has said so.
            let _ = thread.join();
        }
        self.control.delete(self.id)
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of a device, as the kernel tells.
fn kernels_size(device: u32) -> io::Result<u64> {
    let text = fs::read_to_string(Path::new("/sys/block").join(format!("ublkb{device}/size")))?;
    let sectors: u64 = text.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(sectors * SECTOR)
}
