//! The process that serves an attached volume: holds it open, mounted as a file, until it is told to end.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::AttachError;
use super::limits::{MAX_CLIENTS, WATCH};
use super::loop_device::LoopDevice;
use super::only::OnlyExport;
use super::place::{Place, Record};
use crate::disk::device::{Device, Exports};
use crate::fuse::Mounted;
use crate::nbd;

/// A volume that is served. Its end is the end of the process.
pub struct Server {
    nbd: Option<nbd::Server>,
    mounted: Mounted,
    disk: Arc<dyn Device>,
    place: Place,
    lock: File,
}

impl Server {
    /// Opens the volume that `record` names and mounts it. Nobody else may be at work in `place` but who asked for this.
    pub fn start(exports: &dyn Exports, place: &Place, record: &Record) -> Result<Server, AttachError> {
        let host = |op, error| AttachError::host(op, place.dir().display(), error);
        let Some(lock) = place.serve().map_err(|e| host("lock", e))? else {
            return Err(AttachError::Busy(format!("{}: is attached already", record.name)));
        };
        let disk = exports.open(&record.name).map_err(|error| AttachError::Busy(error.to_string()))?;
        if disk.read_only() != record.read_only {
            let text = format!("{}: was removed or renamed just now; try again", record.name);
            return Err(AttachError::Busy(text));
        }
        place.make_disk()?;
        let source = format!("archipelago:{}", record.name);
        let mounted = Mounted::mount(disk.clone(), &place.disk(), &source).map_err(|e| host("mount a volume in", e))?;
        let nbd = record.socket.as_deref().map(|_| listen(place, &record.name, &disk)).transpose()?;
        place.write_record(record).map_err(|e| host("write in", e))?;
        Ok(Server { nbd, mounted, disk, place: place.clone(), lock })
    }

    /// Serves until `stop`, of which `wake` becomes readable, or until somebody unmounts the file. Keeps a device over the file as large as the
    /// volume.
    pub fn run(&self, stop: &AtomicBool, wake: BorrowedFd<'_>) {
        let watch = PollTimeout::try_from(WATCH).unwrap_or(PollTimeout::MAX);
        let mut size = self.disk.size();
        while !stop.load(Ordering::Acquire) && !self.mounted.is_over() {
            // An interruption is a look too many.
            let _ = poll(&mut [PollFd::new(wake, PollFlags::POLLIN)], watch);
            let now = self.disk.size();
            if now != size && self.announce().is_ok() {
                size = now;
            }
        }
    }

    /// Tells the kernel of another size.
    fn announce(&self) -> io::Result<()> {
        let path = self.place.disk();
        // It remembers the size until somebody asks.
        std::fs::metadata(&path)?;
        match LoopDevice::over(&path).map_err(io::Error::other)? {
            Some(device) => device.follow_size(),
            None => Ok(()),
        }
    }

    /// Ends: takes the file away, and writes what is in memory to the store.
    pub fn stop(self) -> Result<(), AttachError> {
        let Server { nbd, mounted, disk, place, lock } = self;
        let host = |op, error| AttachError::host(op, place.dir().display(), error);
        let stopped = nbd.map(nbd::Server::stop).unwrap_or_default();
        if stopped.cut > 0 {
            eprintln!("archipelago: {} clients did not finish in time and were cut off", stopped.cut);
        }
        let unmounted = mounted.unmount();
        let flushed = disk.flush();
        // The last handle closes the volume, whose errors have nobody to go to; so what it had to write was written before.
        drop(disk);
        // From here on another server may start, and who waits for the end of this one goes on.
        drop(lock);
        flushed.map_err(|e| host("flush the volume of", io::Error::from_raw_os_error(e.0)))?;
        unmounted.map_err(|e| host("unmount", e))
    }
}

/// Serves the disk over NBD, and nothing else of the store.
fn listen(place: &Place, name: &str, disk: &Arc<dyn Device>) -> Result<nbd::Server, AttachError> {
    let endpoint = nbd::Endpoint::Unix { path: place.make_socket()?, mode: 0o600 };
    let exports = Arc::new(OnlyExport::new(name.to_string(), disk.clone()));
    let options = nbd::ServerOptions { max_connections: MAX_CLIENTS, ..nbd::ServerOptions::default() };
    nbd::Server::start(exports, &[endpoint], options).map_err(|error| AttachError::Busy(error.to_string()))
}
