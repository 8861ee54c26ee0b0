//! What the fuzz targets reach that is nobody else's business: decoders that are not part of the public interface.

use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::cli::exit::Failure;
use crate::config::Config;
use crate::import::{Image, ImageError, qcow2, raw};
use crate::nbd::Exports;

/// Serves one NBD connection in this thread, from the greeting to its end.
pub fn nbd_session(stream: UnixStream, exports: &dyn Exports) {
    crate::nbd::serve_one(stream, exports);
}

/// Takes the keys of a configuration file over a configuration.
pub fn configuration(config: &mut Config, text: &str, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
    config.merge(Path::new("archipelago.toml"), text, warn)
}

/// Takes the keys of a configuration file of the original's over a configuration.
pub fn original_configuration(config: &mut Config, text: &str, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
    config.merge_original(Path::new("archipelago.conf"), text, warn)
}

/// A qcow2 image in memory. Panics if its reader leaves it.
pub fn qcow2(bytes: Vec<u8>) -> Result<Box<dyn Image>, ImageError> {
    qcow2::in_memory(bytes)
}

/// A raw image that arrives through a pipe.
pub fn raw_stream(bytes: Vec<u8>) -> Box<dyn Image> {
    raw::in_memory(bytes)
}
