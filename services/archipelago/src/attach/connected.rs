//! A volume as a device of the kernel's client for network block devices: a server with one connection, whose other end the kernel has.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use super::nbd_device::NbdDevice;
use crate::disk::device::{Device, ExportError, Exports};
use crate::nbd::client::Client;
use crate::nbd::{Server, ServerOptions, Stream};

/// A connection to the kernel, and the device at its other end.
pub struct Connected {
    server: Server,
    device: NbdDevice,
    backend: String,
}

/// One disk, whatever it is called.
struct One(Arc<dyn Device>);

impl Exports for One {
    fn open(&self, _name: &str) -> Result<Arc<dyn Device>, ExportError> {
        Ok(self.0.clone())
    }

    fn list(&self) -> Vec<String> {
        Vec::new()
    }

    fn default_export(&self) -> Option<String> {
        None
    }
}

impl Connected {
    /// Makes a device of a disk; it is found by `place` from then on.
    pub fn connect(disk: Arc<dyn Device>, place: &Path) -> io::Result<Connected> {
        let backend = place.to_str().ok_or_else(|| io::Error::other("its path is not UTF-8"))?.to_string();
        let server = Server::start(Arc::new(One(disk)), &[], ServerOptions::default()).map_err(io::Error::other)?;
        let (own, other) = UnixStream::pair()?;
        server.serve(own)?;
        // The kernel does not negotiate: it is given a connection that did.
        let client = Client::on(Stream::Unix(other), "disk", 1, 0)?;
        let (size, flags) = (client.size(), client.flags());
        let connection = client.into_stream()?;
        let device = NbdDevice::connect(&backend, connection.fd(), size, flags)?;
        Ok(Connected { server, device, backend })
    }

    /// Whether somebody took the device away.
    pub fn is_over(&self) -> bool {
        !self.device.is_of(self.backend.as_bytes())
    }

    /// Makes the device as large as the volume is now.
    pub fn set_size(&self, size: u64) -> io::Result<()> {
        self.device.set_size(&self.backend, size)
    }

    /// Takes the device away if it is still there, and ends the connection.
    pub fn end(self) -> io::Result<()> {
        let taken = if self.is_over() { Ok(()) } else { self.device.take_away() };
        self.server.stop();
        taken
    }
}
