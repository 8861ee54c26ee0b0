//! The process that serves an attached volume: holds it open, mounted as a file or connected to a device, until it is told to end.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::commands::{free, look};
use super::connected::Connected;
use super::device::Driver;
use super::error::AttachError;
use super::limits::{MAX_CLIENTS, WATCH};
use super::loop_device::LoopDevice;
use super::only::OnlyExport;
use super::place::{Place, Record};
use super::ublk_device;
use crate::disk::device::{Device, Exports};
use crate::fuse::Mounted;
use crate::nbd;
use crate::ublk::{self, Served};

/// When a server ends by itself.
pub struct Unused<'a> {
    /// Whether it has its volume. What it has, somebody wrote with it.
    pub has: &'a dyn Fn() -> bool,
    /// So long after the last command about it; zero for never.
    pub after: Duration,
}

/// A volume that is served. Its end is the end of the process.
pub struct Server {
    nbd: Option<nbd::Server>,
    way: Way,
    disk: Arc<dyn Device>,
    place: Place,
    lock: File,
}

/// How it is served.
enum Way {
    /// As a file.
    Mounted(Mounted),
    /// As a device, over a connection.
    Connected(Connected),
    /// As a device.
    Served(Box<Served>),
}

impl Server {
    /// Opens the volume that `record` names, and mounts or connects it as that says. Nobody else may be at work in `place` but who asked for this.
    pub fn start(exports: &dyn Exports, place: &Place, record: &Record) -> Result<Server, AttachError> {
        let host = |op, error| AttachError::host(op, place.dir().display(), error);
        let Some(lock) = place.serve().map_err(|e| host("lock", e))? else {
            return Err(AttachError::Busy(format!("{}: is attached already", record.name)));
        };
        if record.driver == Driver::Ublk {
            // Before the volume has threads.
            ublk::serve_devices();
        }
        let disk = exports.open(&record.name).map_err(|error| AttachError::Busy(error.to_string()))?;
        if disk.read_only() != record.read_only {
            let text = format!("{}: was removed or renamed just now; try again", record.name);
            return Err(AttachError::Busy(text));
        }
        let way = match record.driver {
            Driver::Loop => {
                place.make_disk()?;
                let source = format!("archipelago:{}", record.name);
                let mounted = Mounted::mount(disk.clone(), &place.disk(), &source);
                Way::Mounted(mounted.map_err(|e| host("mount a volume in", e))?)
            }
            Driver::Ublk => {
                let served = Served::start(disk.clone(), ublk_device::key(place.dir()));
                Way::Served(Box::new(served.map_err(|e| host("serve a block device for", e))?))
            }
            Driver::Nbd => {
                let connected = Connected::connect(disk.clone(), place.dir());
                Way::Connected(connected.map_err(|e| host("connect a block device for", e))?)
            }
        };
        let listening = record.socket.as_deref().map(|_| listen(place, &record.name, &disk)).transpose();
        let written =
            listening.and_then(|nbd| place.write_record(record).map(|()| nbd).map_err(|e| host("write in", e)));
        let nbd = match written {
            Ok(nbd) => nbd,
            Err(error) => {
                // A device that nobody knows of would stay.
                let _ = way.give_up();
                return Err(error);
            }
        };
        Ok(Server { nbd, way, disk, place: place.clone(), lock })
    }

    /// Serves until `stop`, of which `wake` becomes readable, or until somebody unmounts the file or takes the device away. Keeps the device as
    /// large as the volume. Ends also if it is unused, and returns the lock of commands then: what is left in its place is to be removed.
    pub fn run(&mut self, stop: &AtomicBool, wake: BorrowedFd<'_>, unused: &Unused<'_>) -> Option<File> {
        let watch = PollTimeout::try_from(WATCH).unwrap_or(PollTimeout::MAX);
        let mut size = match &self.way {
            // One that was there before may have another size.
            Way::Served(served) => served.size(),
            _ => self.disk.size(),
        };
        while !stop.load(Ordering::Acquire) && !self.way.is_over() {
            // An interruption is a look too many.
            let _ = poll(&mut [PollFd::new(wake, PollFlags::POLLIN)], watch);
            let now = self.disk.size();
            if now != size && self.announce(now).is_ok() {
                size = now;
            }
            if let Some(lock) = self.end_of(unused) {
                return Some(lock);
            }
        }
        None
    }

    /// The lock of commands, if nobody uses the attachment, after its device was taken away. Whatever fails is tried again.
    fn end_of(&self, unused: &Unused<'_>) -> Option<File> {
        if unused.after.is_zero() || (unused.has)() {
            return None;
        }
        let lock = self.place.lock_after(unused.after).ok().flatten()?;
        let attached = look(&self.place).ok().flatten()?;
        free(&self.place, &attached).ok().map(|()| lock)
    }

    /// Tells the kernel of another size.
    fn announce(&mut self, size: u64) -> io::Result<()> {
        match &mut self.way {
            Way::Connected(connected) => return connected.set_size(size),
            Way::Served(served) => match served.set_size(size) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    tracing::warn!(
                        volume = size,
                        device = served.size(),
                        "the device keeps its size in bytes: ublk devices change theirs from Linux 6.16 on; unmap it and map it again"
                    );
                    return Ok(());
                }
                set => return set,
            },
            Way::Mounted(_) => {}
        }
        let path = self.place.disk();
        // It remembers the size until somebody asks.
        std::fs::metadata(&path)?;
        match LoopDevice::over(&path).map_err(io::Error::other)? {
            Some(device) => device.follow_size(),
            None => Ok(()),
        }
    }

    /// Ends: takes the file or device away, and writes what is in memory to the store.
    pub fn stop(self) -> Result<(), AttachError> {
        let Server { nbd, way, disk, place, lock } = self;
        let host = |op, error| AttachError::host(op, place.dir().display(), error);
        let stopped = nbd.map(nbd::Server::stop).unwrap_or_default();
        if stopped.cut > 0 {
            tracing::warn!(clients = stopped.cut, "clients did not finish in time and were cut off");
        }
        let ended = way.end();
        let flushed = disk.flush();
        // The last handle closes the volume, whose errors have nobody to go to; so what it had to write was written before.
        drop(disk);
        // From here on another server may start, and who waits for the end of this one goes on.
        drop(lock);
        flushed.map_err(|e| host("flush the volume of", io::Error::from_raw_os_error(e.0)))?;
        ended.map_err(|e| host("take away what is in", e))
    }
}

impl Way {
    fn is_over(&self) -> bool {
        match self {
            Way::Mounted(mounted) => mounted.is_over(),
            Way::Connected(connected) => connected.is_over(),
            Way::Served(served) => served.is_over(),
        }
    }

    /// Ends what was begun, but for a device that was there before: who uses it waits for another server.
    fn give_up(self) -> io::Result<()> {
        match self {
            Way::Served(served) if served.was_there() => Ok(()),
            way => way.end(),
        }
    }

    fn end(self) -> io::Result<()> {
        match self {
            Way::Mounted(mounted) => mounted.unmount(),
            Way::Connected(connected) => connected.end(),
            Way::Served(served) => served.end(),
        }
    }
}

/// Serves the disk over NBD, and nothing else of the store.
fn listen(place: &Place, name: &str, disk: &Arc<dyn Device>) -> Result<nbd::Server, AttachError> {
    let endpoint = nbd::Endpoint::Unix { path: place.make_socket()?, mode: 0o600 };
    let exports = Arc::new(OnlyExport::new(name.to_string(), disk.clone()));
    let options = nbd::ServerOptions { max_connections: MAX_CLIENTS, ..nbd::ServerOptions::default() };
    nbd::Server::start(exports, &[endpoint], options).map_err(|error| AttachError::Busy(error.to_string()))
}
