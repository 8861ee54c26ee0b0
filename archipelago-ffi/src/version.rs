//! Which library this is.

use std::ffi::{CStr, c_char};

/// Version of the interface that the header describes: major * 65536 + minor. A program may ask for what was added later than 1.0 if
/// `archip_version()` is at least that.
pub const ARCHIP_VERSION: u32 = 0x10000;

/// The version of the interface that this library has, as `ARCHIP_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn archip_version() -> u32 {
    ARCHIP_VERSION
}

/// The release of the engine, for people, for example "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn archip_release() -> *const c_char {
    const RELEASE: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("the version of the package has a NUL"),
    };
    RELEASE.as_ptr()
}
